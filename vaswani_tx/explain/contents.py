# Shapes: S source length, T target length, D model width, H heads, K d_k, U d_v.
"""Turn a trace into the numbers and texts of a page, within its size."""

import json
import math
from dataclasses import asdict
from functools import cache
from importlib.resources import files
from typing import Any

import numpy as np
from torch import nn

from vaswani_tx.errors import ExplainError
from vaswani_tx.explain.packing import Packer
from vaswani_tx.explain.recording import Recorded
from vaswani_tx.explain.tokens import token_text
from vaswani_tx.explain.trace import Prediction, Trace, stage_rows

# Attention weights keep four digits, vectors three (see packing). Queries and keys keep four: the page computes scores
# from them, and with three digits the second digit of a score would not be the model's; embeddings are scaled up.
WEIGHT_DECIMALS, VECTOR_DECIMALS, SCORE_DECIMALS = 4, 3, 4
# Bytes of the packed block: the page may have 3 MB, of which style and scripts take about 0.2.
BUDGET = 2_700_000
# Measured on trained and on random models: bytes of base64 that one number takes after compression.
BYTES_A_WEIGHT, BYTES_A_VECTOR_ENTRY = 1.8, 2.1
SIZES = (
    "d_model", "d_ff", "d_k", "d_v", "num_heads", "source_vocab_size", "vocab_size", "encoder_layers", "decoder_layers",
    "num_hidden_layers", "max_position_embeddings", "image_size", "patch_size", "num_channels",
)  # fmt: skip
TRAITS = (
    "norm_order", "final_layer_norm", "position_embedding", "scale_embedding", "tie_word_embeddings",
    "activation_function", "attention_bias", "lm_head_bias", "layer_norm_eps", "dropout",
)  # fmt: skip


def contents(
    found: Trace,
    model: nn.Module,
    tokenizer: Any,
    name: str,
    text: str,
    layers: list[int] | None = None,
    run: dict[str, Any] | None = None,
) -> str:
    """Return the packed block of a page.

    Args:
        layers: layers to keep, counted from 1; None: all.
        run: the curves of a training run, as `read_run` returns them.

    Raises:
        ExplainError: what was asked for does not fit a page, or there is no such layer.
    """
    packer = Packer()
    kept = _chosen(found.attention, layers)
    _check_size(kept)
    meta: dict[str, Any] = {
        "text": text,
        "family": found.family,
        "model": describe(model, name),
        "source": [asdict(token) for token in found.source],
        "target": [asdict(token) for token in found.target],
        "layers": layers,
        "depth": {item.kind: item.layer + 1 for item in found.attention},
        "attention": [_attention(packer, number, item, found) for number, item in kept],
        "stages": stage_rows(found),
        "stacks": {side: _stack(packer, side, stack) for side, stack in found.stacks.items()},
        "classes": found.classes,
        "masked": found.masked,
        "grid": found.grid,
        "measured": measured(),
        "run": run,
    }
    if found.pixels is not None:
        packer.add("pixels", (found.pixels * 255).round().cpu().numpy())
    if found.prediction is not None:
        meta["prediction"] = _prediction(packer, found.prediction)
    if found.decoding is not None:
        meta["decoding"] = _rounded(asdict(found.decoding))
    meta["words"] = _words(found, tokenizer) if tokenizer is not None else {}
    _add_vectors(packer, kept, meta)
    return packer.pack(meta)


@cache
def measured() -> dict[str, Any]:
    """Return what the project measured of the Transformer beside LSTMs, with where each number comes from."""
    return json.loads((files("vaswani_tx.explain") / "assets" / "measured.json").read_text("utf-8"))


def _chosen(attention: list[Recorded], layers: list[int] | None) -> list[tuple[int, Recorded]]:
    kept = list(enumerate(attention))
    if layers is None:
        return kept
    there = sorted({item.layer + 1 for item in attention})
    if missing := sorted(set(layers) - set(there)):
        raise ExplainError(f"There is no layer {missing[0]}: the model has layers 1 to {there[-1]}.")
    return [(number, item) for number, item in kept if item.layer + 1 in layers]


def _check_size(kept: list[tuple[int, Recorded]]) -> None:
    _refuse_large(sum(item.weights.numel() for _, item in kept), len({item.layer for _, item in kept}))


def check_source(model: Any, layers: list[int] | None, length: int) -> None:
    """Raise ExplainError where the attention of one stack over a text of so many tokens is too much for a page."""
    config = model.config
    depth = getattr(config, "encoder_layers", None) or getattr(config, "num_hidden_layers", None)
    heads = getattr(config, "num_attention_heads", None)
    if isinstance(depth, int) and isinstance(heads, int):
        kept = depth if layers is None else len(layers)
        _refuse_large(kept * heads * length**2, kept)


def _refuse_large(weights: int, layers: int) -> None:
    needed = weights * BYTES_A_WEIGHT
    if needed > BUDGET:
        fitting = math.floor(layers * BUDGET / needed)
        if fitting == 0:
            raise ExplainError(
                f"The attention of one layer over this text needs {needed / layers / 1e6:.1f} MB, and a page should"
                f" stay below {BUDGET / 1e6:.1f}: give a shorter text."
            )
        example = "1" if fitting == 1 else f"1-{fitting}"
        raise ExplainError(
            f"The attention of {layers} layers over this text needs {needed / 1e6:.1f} MB, and a page should stay"
            f" below {BUDGET / 1e6:.1f}: name the layers to keep, at most {fitting} (--layers {example}),"
            " or give a shorter text."
        )


def describe(model: Any, name: str) -> dict[str, Any]:
    """Return what a model is: its sizes, traits and the parameters of each part."""
    config = model.config
    sizes = {key: getattr(config, key) for key in SIZES if isinstance(getattr(config, key, None), int)}
    if "d_model" not in sizes and isinstance(getattr(config, "hidden_size", None), int):
        sizes["d_model"] = config.hidden_size  # what BERT and GPT-2 call it
    traits = {key: getattr(config, key) for key in TRAITS if getattr(config, key, None) is not None}
    return {
        "name": name,
        "class": type(model).__name__,
        "type": config.model_type,
        "ours": type(model).__name__.startswith("Vaswani"),
        "sizes": sizes,
        "traits": traits,
        "parameters": sum(parameter.numel() for parameter in model.parameters()),
        "parts": parts_of(model),
    }


def parts_of(model: nn.Module) -> list[dict[str, Any]]:
    """Return the parameters of each part of a model; one that several parts share is counted once, at the first."""
    counts: dict[str, int] = {}
    for name, parameter in model.named_parameters():
        part = _part(name)
        counts[part] = counts.get(part, 0) + parameter.numel()
    return [{"name": part, "parameters": count} for part, count in counts.items()]


def _part(name: str) -> str:
    """Return which part of the architecture a parameter belongs to, such as `encoder self_attn`."""
    path = name.split(".")
    stack = next((word for word in ("encoder", "decoder") if word in path), "")
    kinds = (
        ("cross_attn", ("cross_attn", "encoder_attn", "EncDecAttention", "crossattention")),
        ("norm", ("norm", "LayerNorm", "layer_norm", "ln_1", "ln_2", "ln_f", "layernorm", "layernorm_embedding")),
        ("positions", ("positions", "embed_positions", "position_embeddings", "wpe", "relative_attention_bias")),
        ("self_attn", ("self_attn", "SelfAttention", "attention", "attn")),
        ("feed_forward", ("feed_forward", "fc1", "fc2", "mlp", "DenseReluDense", "intermediate")),
        ("embeddings", ("shared", "embed_tokens", "word_embeddings", "wte", "embeddings", "embedding")),
        ("output", ("lm_head", "cls", "classifier", "classification_head", "score", "qa_outputs", "pooler")),
        ("feed_forward", ("output",)),  # BERT's second linear map
    )
    for kind, names in kinds:
        if any(word.endswith(names) if kind == "norm" else word in names for word in path):
            return f"{stack} {kind}".strip()
    return f"{stack} other".strip()


def _attention(packer: Packer, number: int, item: Recorded, found: Trace) -> dict[str, Any]:
    entry: dict[str, Any] = {
        "id": number,
        "kind": item.kind,
        "layer": item.layer + 1,
        "heads": item.weights.shape[0],
        "rows": "source" if item.kind == "encoder" else "target",
        "columns": "target" if item.kind == "decoder" else "source",
        "scaling": item.scaling,
        "scoreBias": item.score_bias,
        "causal": item.kind == "decoder",
        "weights": packer.add(f"weights{number}", item.weights.cpu().numpy(), WEIGHT_DECIMALS),
        "vectors": False,
    }
    if item.written is not None:
        entry["written"] = packer.add(f"written{number}", item.written.norm(dim=-1).cpu().numpy(), VECTOR_DECIMALS)
    if number in found.raised:
        ids, logits = found.raised[number]
        entry["raisedIds"] = packer.add(f"raisedIds{number}", ids.cpu().numpy())
        entry["raisedLogits"] = packer.add(f"raisedLogits{number}", logits.cpu().numpy(), 2)
    return entry


def _add_vectors(packer: Packer, kept: list[tuple[int, Recorded]], meta: dict[str, Any]) -> None:
    """Add queries, keys and values of as many layers as fit, then what goes in and comes out of the attention.

    The first and last layer of each kind come first, then from below.
    """
    left = BUDGET - sum(item.weights.numel() for _, item in kept) * BYTES_A_WEIGHT
    left -= sum(2 * math.prod(entry["shape"]) for entry in packer.entries if not entry["name"].startswith("weights"))
    last = {item.kind: item.layer for _, item in kept}
    first = {item.kind: item.layer for _, item in reversed(kept)}
    order = sorted(
        range(len(kept)), key=lambda i: (kept[i][1].layer not in (first[kept[i][1].kind], last[kept[i][1].kind]), i)
    )
    for index in order:
        number, item = kept[index]
        tensors = {"query": item.query, "key": item.key, "value": item.value}
        needed = sum(tensor.numel() for tensor in tensors.values()) * BYTES_A_VECTOR_ENTRY
        if needed > left:
            continue
        left -= needed
        for name, tensor in tensors.items():
            decimals = VECTOR_DECIMALS if name == "value" else SCORE_DECIMALS
            packer.add(f"{name}{number}", tensor.cpu().numpy(), decimals)
        meta["attention"][index]["vectors"] = True
    for number, item in (kept[index] for index in order):
        for name, vectors in (("output", item.output), ("input", item.input)):
            needed = 0 if vectors is None else vectors.numel() * BYTES_A_VECTOR_ENTRY
            if vectors is not None and needed <= left:
                left -= needed
                packer.add(f"{name}{number}", vectors.cpu().numpy(), VECTOR_DECIMALS)


def _stack(packer: Packer, side: str, stack: Any) -> dict[str, Any]:
    return {
        "embeddings": packer.add(f"embeddings.{side}", stack.embeddings.cpu().numpy(), SCORE_DECIMALS),
        "positions": packer.add(f"positions.{side}", stack.added.cpu().numpy(), VECTOR_DECIMALS),
        "scale": stack.scale,
    }


def _prediction(packer: Packer, prediction: Prediction) -> dict[str, Any]:
    packer.add("topIds", prediction.top_ids.cpu().numpy())
    packer.add("topProbs", prediction.top_probs.cpu().numpy(), WEIGHT_DECIMALS)
    packer.add("labelLogProbs", prediction.label_log_probs.cpu().numpy(), WEIGHT_DECIMALS)
    packer.add("meanLogProbs", prediction.mean_log_probs.cpu().numpy(), WEIGHT_DECIMALS)
    return {"labels": prediction.labels}


def _rounded(value: Any) -> Any:
    """Return a value of JSON whose numbers have no more digits than a page shows."""
    if isinstance(value, dict):
        return {name: _rounded(item) for name, item in value.items()}
    if isinstance(value, list):
        return [_rounded(item) for item in value]
    return round(value, SCORE_DECIMALS) if isinstance(value, float) else value


def _words(found: Trace, tokenizer: Any) -> dict[str, str]:
    """Return the text of every token that the page names by its id."""
    ids: set[int] = set()
    if found.prediction is not None:
        ids.update(found.prediction.labels, np.unique(found.prediction.top_ids.cpu().numpy()).tolist())
    for raised, _ in found.raised.values():
        ids.update(np.unique(raised.cpu().numpy()).tolist())
    if found.decoding is not None:
        for step in found.decoding.steps:
            ids.update(candidate["token"] for candidate in step["candidates"])
            ids.update(number for beam in step["beams"] for number in beam["tokens"])
        ids.update(number for hypothesis in found.decoding.hypotheses for number in hypothesis["tokens"])
        ids.update(found.decoding.settings["prompt"])
    return {str(number): token_text(tokenizer, int(number)) for number in sorted(ids)}
