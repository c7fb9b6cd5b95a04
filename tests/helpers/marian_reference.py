"""Marian's forward pass in plain numpy, float64, sentence by sentence; and files of Marian as it writes them.

Written from the semantics of Marian's transformer.h and rnn/cells.h, with its names of weights and options, and nothing
of the package under test.
"""

import struct
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from scipy.special import erf

# Settings that Marian writes into a model, at their defaults but for small sizes.
DEFAULTS: dict[str, Any] = {
    "type": "transformer",
    "version": "v1.12.0 65bf82f 2023-02-21 09:56:29 -0800",
    "dim-emb": 16,
    "dim-vocabs": [23, 23],
    "enc-depth": 2,
    "dec-depth": 2,
    "dec-cell": "gru",
    "input-types": [],
    "layer-normalization": False,
    "lemma-dim-emb": 0,
    "output-omit-bias": False,
    "right-left": False,
    "tied-embeddings": False,
    "tied-embeddings-all": True,
    "tied-embeddings-src": False,
    "transformer-decoder-autoreg": "self-attention",
    "transformer-dim-ffn": 24,
    "transformer-ffn-activation": "swish",
    "transformer-ffn-depth": 2,
    "transformer-guided-alignment-layer": "last",
    "transformer-heads": 4,
    "transformer-no-projection": False,
    "transformer-pool": False,
    "transformer-postprocess": "dan",
    "transformer-postprocess-emb": "d",
    "transformer-postprocess-top": "",
    "transformer-preprocess": "",
    "transformer-tied-layers": [],
    "transformer-train-position-embeddings": False,
    "ulr": False,
}
SSRU = {"transformer-decoder-autoreg": "rnn", "dec-cell": "ssru"}


def random_weights(options: dict[str, Any], seed: int = 0, learned_positions: int = 0) -> dict[str, np.ndarray]:
    """Return weights of the names and shapes that Marian gives a model of these options, float32."""
    draw = np.random.default_rng(seed)
    width, inner = options["dim-emb"], options["transformer-dim-ffn"]
    weights: dict[str, np.ndarray] = {}

    def matrix(name: str, rows: int, columns: int, scale: float | None = None):
        weights[name] = draw.normal(0, scale or rows**-0.5, (rows, columns)).astype(np.float32)

    def vector(name: str, size: int, mean: float = 0.0):
        weights[name] = draw.normal(mean, 0.2, (1, size)).astype(np.float32)

    def norm(name: str, suffix: str = ""):
        vector(f"{name}_ln_scale{suffix}", width, 1.0)
        vector(f"{name}_ln_bias{suffix}", width)

    def norms(name_before: str, name_after: str):
        if "n" in options["transformer-preprocess"]:
            norm(name_before, "_pre")
        if "n" in options["transformer-postprocess"]:
            norm(name_after)

    sizes = options["dim-vocabs"]
    if options["tied-embeddings-all"] or options["tied-embeddings-src"]:
        matrix("Wemb", sizes[0], width, width**-0.5)
    else:
        matrix("encoder_Wemb", sizes[0], width, width**-0.5)
        matrix("decoder_Wemb", sizes[1], width, width**-0.5)
    if not (options["tied-embeddings-all"] or options["tied-embeddings"]):
        matrix("decoder_ff_logit_out_Wt", sizes[1], width, width**-0.5)
    if not options["output-omit-bias"]:
        vector("decoder_ff_logit_out_b", sizes[1])
    if learned_positions:
        matrix("Wpos", learned_positions, width, 0.3)
    tied = options["transformer-tied-layers"] or range(1, options["dec-depth"] + 1)
    layers = [("encoder", number) for number in range(1, options["enc-depth"] + 1)]
    for side, number in layers + [("decoder", number) for number in sorted(set(tied))]:
        prefix = f"{side}_l{number}"
        recurrent = side == "decoder" and options["transformer-decoder-autoreg"] == "rnn"
        if recurrent:
            matrix(f"{prefix}_rnn_W", width, width)
            matrix(f"{prefix}_rnn_Wf", width, width)
            vector(f"{prefix}_rnn_bf", width)
            norms(f"{prefix}_rnn", f"{prefix}_rnn_ffn")
        for name in ([] if recurrent else ["self"]) + (["context"] if side == "decoder" else []):
            for part in "qkv" if options["transformer-no-projection"] else "qkvo":
                matrix(f"{prefix}_{name}_W{part}", width, width)
                vector(f"{prefix}_{name}_b{part}", width)
            norms(f"{prefix}_{name}_Wo", f"{prefix}_{name}_Wo")
        matrix(f"{prefix}_ffn_W1", width, inner)
        vector(f"{prefix}_ffn_b1", inner)
        matrix(f"{prefix}_ffn_W2", inner, width)
        vector(f"{prefix}_ffn_b2", width)
        norms(f"{prefix}_ffn_ffn", f"{prefix}_ffn_ffn")
    for side in ("encoder", "decoder"):
        if "n" in options["transformer-postprocess-emb"]:
            norm(f"{side}_emb", "_pre")
        if "n" in options["transformer-postprocess-top"]:
            norm(f"{side}_top")
    return weights


class Reference:
    """A model of Marian: `logits(source, target)` of one sentence pair, `greedy(source, steps)`."""

    def __init__(self, weights: dict[str, np.ndarray], options: dict[str, Any]):
        self.w = {name: value.astype(np.float64) for name, value in weights.items()}
        self.o = options

    def logits(self, source: list[int], target: list[int]) -> np.ndarray:
        """Return the logits after the zero vector and each token of the target, [1 + T, V]."""
        shared = "Wemb" in self.w
        encoded = self.embed(self.w["Wemb" if shared else "encoder_Wemb"][source], "encoder")
        for number in range(1, self.o["enc-depth"] + 1):
            encoded = self.attend(f"encoder_l{number}_self", encoded, None, np.ones((len(source),) * 2, bool))
            encoded = self.feed_forward(f"encoder_l{number}_ffn", encoded)
        encoded = self.top("encoder", encoded)
        rows = self.w["Wemb" if shared else "decoder_Wemb"][target]
        x = self.embed(np.concatenate((np.zeros((1, self.o["dim-emb"])), rows)), "decoder")
        seen = np.tri(len(x), dtype=bool)
        for number in self.o["transformer-tied-layers"] or range(1, self.o["dec-depth"] + 1):
            prefix = f"decoder_l{number}"
            if self.o["transformer-decoder-autoreg"] == "rnn":
                x = self.recur(f"{prefix}_rnn", x)
            else:
                x = self.attend(f"{prefix}_self", x, None, seen)
            x = self.attend(f"{prefix}_context", x, encoded, np.ones((len(x), len(source)), bool))
            x = self.feed_forward(f"{prefix}_ffn", x)
        x = self.top("decoder", x)
        tied = self.o["tied-embeddings-all"] or self.o["tied-embeddings"]
        output = "decoder_ff_logit_out_Wt" if not tied else "Wemb" if shared else "decoder_Wemb"
        bias = 0 if self.o["output-omit-bias"] else self.w["decoder_ff_logit_out_b"]
        return x @ self.w[output].T + bias

    def greedy(self, source: list[int], steps: int) -> list[int]:
        """Return the most probable tokens, one after another, whatever they are."""
        target: list[int] = []
        for _ in range(steps):
            target.append(int(self.logits(source, target)[-1].argmax()))
        return target

    def embed(self, rows: np.ndarray, side: str) -> np.ndarray:
        length, width = rows.shape
        if "Wpos" in self.w:
            x = rows + self.w["Wpos"][:length]
        else:
            scales = width // 2
            frequencies = np.exp(np.arange(scales) * -(np.log(10000.0) / (scales - 1)))
            angles = np.arange(length)[:, None] * frequencies
            x = np.sqrt(width) * rows + np.concatenate((np.sin(angles), np.cos(angles)), axis=1)
        return self.norm(x, f"{side}_emb", "_pre") if "n" in self.o["transformer-postprocess-emb"] else x

    def top(self, side: str, x: np.ndarray) -> np.ndarray:
        return self.norm(x, f"{side}_top") if "n" in self.o["transformer-postprocess-top"] else x

    def norm(self, x: np.ndarray, name: str, suffix: str = "") -> np.ndarray:
        centred = x - x.mean(-1, keepdims=True)
        deviation = np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-6)
        return centred / deviation * self.w[f"{name}_ln_scale{suffix}"] + self.w[f"{name}_ln_bias{suffix}"]

    def before(self, x: np.ndarray, name: str) -> np.ndarray:
        return self.norm(x, name, "_pre") if "n" in self.o["transformer-preprocess"] else x

    def after(self, output: np.ndarray, x: np.ndarray, name: str) -> np.ndarray:
        for operation in self.o["transformer-postprocess"]:
            if operation == "a":
                output = output + x
            elif operation == "n":
                output = self.norm(output, name)
        return output

    def attend(self, prefix: str, x: np.ndarray, other: np.ndarray | None, seen: np.ndarray) -> np.ndarray:
        queries = self.before(x, f"{prefix}_Wo")
        keys = queries if other is None else other
        q, k, v = (
            self.heads(states @ self.w[f"{prefix}_W{part}"] + self.w[f"{prefix}_b{part}"])
            for part, states in (("q", queries), ("k", keys), ("v", keys))
        )
        scores = np.where(seen, q @ k.transpose(0, 2, 1) / np.sqrt(q.shape[-1]), -1e9)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        output = (weights / weights.sum(-1, keepdims=True) @ v).transpose(1, 0, 2).reshape(len(x), -1)
        if not self.o["transformer-no-projection"]:
            output = output @ self.w[f"{prefix}_Wo"] + self.w[f"{prefix}_bo"]
        return self.after(output, x, f"{prefix}_Wo")

    def heads(self, x: np.ndarray) -> np.ndarray:
        return x.reshape(len(x), self.o["transformer-heads"], -1).transpose(1, 0, 2)

    def recur(self, prefix: str, x: np.ndarray) -> np.ndarray:
        state, outputs = np.zeros(x.shape[1]), []
        for step in self.before(x, prefix):
            gate = 1 / (1 + np.exp(-(step @ self.w[f"{prefix}_Wf"] + self.w[f"{prefix}_bf"][0])))
            state = gate * state + (1 - gate) * (step @ self.w[f"{prefix}_W"])
            outputs.append(np.maximum(state, 0))
        return self.after(np.stack(outputs), x, f"{prefix}_ffn")

    def feed_forward(self, prefix: str, x: np.ndarray) -> np.ndarray:
        inner = self.before(x, f"{prefix}_ffn") @ self.w[f"{prefix}_W1"] + self.w[f"{prefix}_b1"]
        kind, version = self.o["transformer-ffn-activation"], self.o["version"]
        if kind == "relu":
            inner = np.maximum(inner, 0)
        elif kind == "gelu" and version.startswith("v1.12.4"):
            inner = inner * 0.5 * (1 + erf(inner / np.sqrt(2)))
        else:
            inner = inner / (1 + np.exp(-inner * (1.702 if kind == "gelu" else 1.0)))
        return self.after(inner @ self.w[f"{prefix}_W2"] + self.w[f"{prefix}_b2"], x, f"{prefix}_ffn")


def settings_bytes(options: dict[str, Any]) -> bytes:
    return yaml.safe_dump(options).encode() + b"\0"


def write_npz(path: Path, weights: dict[str, np.ndarray], options: dict[str, Any] | None) -> Path:
    """Write `model.npz` as Marian does: the settings are an array of characters."""
    arrays = dict(weights)
    if options is not None:
        arrays["special:model.yml"] = np.frombuffer(settings_bytes(options), np.int8)
    np.savez(path, **arrays)
    return path


def write_bin(path: Path, weights: dict[str, np.ndarray], options: dict[str, Any], int8: bool = False) -> Path:
    """Write a `.bin` as browsermt's Marian does; with `int8`, matrices as intgemm8 and a scale of activations each."""
    items: list[tuple[str, int, tuple[int, ...], bytes]] = []
    for name, value in sorted(weights.items()):
        if int8 and is_quantised(name):
            whole, scale = quantised(value)
            stored = whole if "Wemb" in name else whole.T
            content = stored.tobytes() + struct.pack("<f", scale)
            items.append((name, 0x4101, value.shape, content + b"\xaa" * (-len(content) % 256)))
            items.append((f"{name}_QuantMultA", 0x0404, (1, 1), struct.pack("<f", 12.5) + bytes(252)))
        else:
            items.append((name, 0x0404, value.shape, value.astype("<f4").tobytes()))
    settings = settings_bytes(options)
    items.append(("special:model.yml", 0x0101, (len(settings),), settings))
    head = struct.pack("<QQ", 1, len(items))
    for name, kind, shape, content in items:
        head += struct.pack("<QQQQ", len(name) + 1, kind, len(shape), len(content))
    head += b"".join(name.encode() + b"\0" for name, *_ in items)
    head += b"".join(struct.pack(f"<{len(shape)}i", *shape) for _, _, shape, _ in items)
    padding = ((len(head) + 8) // 256 + 1) * 256 - len(head) - 8
    content = head + struct.pack("<Q", padding) + bytes(padding) + b"".join(item[-1] for item in items)
    path.write_bytes(content)
    return path


def is_quantised(name: str) -> bool:
    return "Wemb" in name or name[-3:-1] == "_W" or name[-2:] == "_W"


def quantised(value: np.ndarray) -> tuple[np.ndarray, np.float32]:
    """Return the integers of a matrix, and their scale."""
    scale = np.float32(127.0) / np.abs(value).max()
    return np.rint(value * scale).clip(-127, 127).astype(np.int8), scale


def rounded(weights: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Return the weights as int8 has them, multiplied out."""
    found = {}
    for name, value in weights.items():
        if is_quantised(name):
            whole, scale = quantised(value)
            value = whole.astype(np.float32) * (np.float32(1) / scale)
        found[name] = value
    return found


__all__ = ["DEFAULTS", "SSRU", "Reference", "random_weights", "rounded", "write_bin", "write_npz"]
