"""Checkpoints of older toolkits, tiny and random, and plain forward passes straight from their names and formulas.

Nothing of the library is used here. Each `*_logits` evaluates a checkpoint as its toolkit does, in float64, for a batch
without padding: source [B, S] and target [B, T] are ids, the result is [B, T, V].
"""

import argparse
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F  # noqa: N812

Weights = dict[str, torch.Tensor]


def in_float64(weights: Weights) -> Weights:
    return {name: value.double() for name, value in weights.items()}


def random_weights(shapes: dict[str, tuple[int, ...]], seed: int = 0) -> Weights:
    """Draw float32 weights: those of norms around 1, all other around 0."""
    generator = torch.Generator().manual_seed(seed)
    weights = {}
    for name, shape in shapes.items():
        drawn = torch.randn(shape, generator=generator)
        is_scale = "norm" in name and name.endswith(("weight", "scale", "a_2"))
        weights[name] = 1 + 0.2 * drawn if is_scale else drawn * (shape[-1] ** -0.5 if len(shape) > 1 else 0.3)
    return weights


def linear(weights: Weights, name: str, x: torch.Tensor) -> torch.Tensor:
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def norm(weights: Weights, name: str, x: torch.Tensor, eps: float) -> torch.Tensor:
    return F.layer_norm(x, x.shape[-1:], weights[f"{name}.weight"], weights[f"{name}.bias"], eps)


def attend(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, heads: int, causal: bool) -> torch.Tensor:
    """Compute multi-head attention of projected queries [B, T, D], keys and values [B, S, D]: [B, T, D]."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    scores = query @ key.transpose(-1, -2) / math.sqrt(query.shape[-1])
    if causal:
        scores = scores.masked_fill(torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1), -math.inf)
    return (scores.softmax(-1) @ value).transpose(1, 2).flatten(-2)


def halves(length: int, width: int, start: int = 0) -> torch.Tensor:
    """Compute tensor2tensor's sinusoids: sines in the first half of the channels, cosines in the second."""
    count = width // 2
    scales = torch.exp(torch.arange(count, dtype=torch.float64) * -(math.log(10000) / (count - 1)))
    angles = torch.arange(start, start + length, dtype=torch.float64)[:, None] * scales
    return torch.cat((angles.sin(), angles.cos()), -1)


def interleaved(length: int, width: int) -> torch.Tensor:
    """Compute the paper's sinusoids: sines in the even channels, cosines in the odd ones."""
    scales = torch.exp(torch.arange(0, width, 2, dtype=torch.float64) * -(math.log(10000) / width))
    angles = torch.arange(length, dtype=torch.float64)[:, None] * scales
    table = torch.zeros(length, width, dtype=torch.float64)
    table[:, 0::2], table[:, 1::2] = angles.sin(), angles.cos()
    return table


def sublayer(x: torch.Tensor, function: Callable, normalise: Callable, pre: bool) -> torch.Tensor:
    return x + function(normalise(x)) if pre else normalise(x + function(x))


# ------------------------------------------------------------------------------------------------------------ fairseq


def fairseq_settings(**changes: Any) -> dict[str, Any]:
    settings = {
        "arch": "transformer_iwslt_de_en", "task": "translation", "source_lang": "de", "target_lang": "en",
        "encoder_embed_dim": 16, "decoder_embed_dim": 16, "encoder_ffn_embed_dim": 24, "decoder_ffn_embed_dim": 24,
        "encoder_layers": 2, "decoder_layers": 3, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
        "encoder_normalize_before": False, "decoder_normalize_before": False, "encoder_learned_pos": False,
        "decoder_learned_pos": False, "share_all_embeddings": False, "share_decoder_input_output_embed": True,
        "activation_fn": "relu", "dropout": 0.3, "attention_dropout": 0.1, "activation_dropout": 0.0,
        "no_scale_embedding": False, "layernorm_embedding": False, "max_source_positions": 30,
        "max_target_positions": 20, "adaptive_softmax_cutoff": None, "cross_self_attention": False,
        "no_cross_attention": False, "decoder_output_dim": 16, "decoder_input_dim": 16,
    }  # fmt: skip
    return {**settings, **changes}


def fairseq_weights(settings: dict[str, Any], source: int, target: int, is_lm: bool = False) -> Weights:
    """Draw the weights of a model of `settings` by the names of fairseq 0.12, shared ones the same tensor."""
    shapes: dict[str, tuple[int, ...]] = {}
    for stack, vocabulary in (("encoder", source), ("decoder", target)):
        if is_lm and stack == "encoder":
            continue
        d, inner = settings[f"{stack}_embed_dim"], settings[f"{stack}_ffn_embed_dim"]
        shapes[f"{stack}.embed_tokens.weight"] = (vocabulary, d)
        if settings[f"{stack}_learned_pos"]:
            longest = settings["max_source_positions" if stack == "encoder" else "max_target_positions"]
            shapes[f"{stack}.embed_positions.weight"] = (longest + 2, d)
        else:
            shapes[f"{stack}.embed_positions._float_tensor"] = (1,)
        norms = ["layernorm_embedding"] if settings["layernorm_embedding"] else []
        norms += ["layer_norm"] if settings[f"{stack}_normalize_before"] else []
        for index in range(settings[f"{stack}_layers"]):
            layer = f"{stack}.layers.{index}"
            attentions = ["self_attn"] + (["encoder_attn"] if stack == "decoder" and not is_lm else [])
            for attention in attentions:
                norms.append(f"layers.{index}.{attention}_layer_norm")
                for part in ("k_proj", "v_proj", "q_proj", "out_proj"):
                    shapes |= {f"{layer}.{attention}.{part}.weight": (d, d), f"{layer}.{attention}.{part}.bias": (d,)}
            norms.append(f"layers.{index}.final_layer_norm")
            shapes |= {f"{layer}.fc1.weight": (inner, d), f"{layer}.fc1.bias": (inner,)}
            shapes |= {f"{layer}.fc2.weight": (d, inner), f"{layer}.fc2.bias": (d,)}
        for name in norms:
            shapes |= {f"{stack}.{name}.weight": (d,), f"{stack}.{name}.bias": (d,)}
    shapes["decoder.output_projection.weight"] = (target, settings["decoder_embed_dim"])
    weights = random_weights(shapes)
    if settings["share_all_embeddings"]:
        weights["encoder.embed_tokens.weight"] = weights["decoder.embed_tokens.weight"]
    if settings["share_all_embeddings"] or settings["share_decoder_input_output_embed"]:
        weights["decoder.output_projection.weight"] = weights["decoder.embed_tokens.weight"]
    for stack in ("decoder",) if is_lm else ("encoder", "decoder"):
        weights[f"{stack}.version"] = torch.tensor([3.0])
        weights[f"{stack}.embed_tokens.weight"][1] = 0  # padding
    return weights


def fairseq_checkpoint(settings: dict[str, Any], weights: Weights) -> dict[str, Any]:
    return {
        "args": argparse.Namespace(**settings), "cfg": None, "model": weights, "optimizer_history": [],
        "extra_state": {"epoch": 3}, "last_optimizer_state": {},
    }  # fmt: skip


def _fairseq_stack(w: Weights, s: dict[str, Any], stack: str, ids: torch.Tensor, memory: torch.Tensor | None):
    d, pre, heads = s[f"{stack}_embed_dim"], s[f"{stack}_normalize_before"], s[f"{stack}_attention_heads"]
    activation = {"relu": F.relu, "gelu": F.gelu, "tanh": torch.tanh}[s["activation_fn"]]
    x = w[f"{stack}.embed_tokens.weight"][ids] * (1 if s["no_scale_embedding"] else math.sqrt(d))
    length = ids.shape[1]
    learned = s[f"{stack}_learned_pos"]
    x = x + (w[f"{stack}.embed_positions.weight"][2 : length + 2] if learned else halves(length, d, 2))
    if s["layernorm_embedding"]:
        x = norm(w, f"{stack}.layernorm_embedding", x, 1e-5)

    def attention(name: str, to: torch.Tensor | None, causal: bool):
        def function(y: torch.Tensor) -> torch.Tensor:
            z = y if to is None else to
            parts = linear(w, f"{name}.q_proj", y), linear(w, f"{name}.k_proj", z), linear(w, f"{name}.v_proj", z)
            return linear(w, f"{name}.out_proj", attend(*parts, heads, causal))

        return function

    def normaliser(name: str):
        return lambda y: norm(w, name, y, 1e-5)

    for index in range(s[f"{stack}_layers"]):
        layer = f"{stack}.layers.{index}"
        inner = attention(f"{layer}.self_attn", None, stack == "decoder")
        x = sublayer(x, inner, normaliser(f"{layer}.self_attn_layer_norm"), pre)
        if memory is not None:
            inner = attention(f"{layer}.encoder_attn", memory, False)
            x = sublayer(x, inner, normaliser(f"{layer}.encoder_attn_layer_norm"), pre)

        def feed_forward(y: torch.Tensor, layer: str = layer) -> torch.Tensor:
            return linear(w, f"{layer}.fc2", activation(linear(w, f"{layer}.fc1", y)))

        x = sublayer(x, feed_forward, normaliser(f"{layer}.final_layer_norm"), pre)
    return norm(w, f"{stack}.layer_norm", x, 1e-5) if pre else x


def fairseq_logits(checkpoint: dict[str, Any], source: torch.Tensor | None, target: torch.Tensor) -> torch.Tensor:
    w, s = in_float64(checkpoint["model"]), vars(checkpoint["args"])
    memory = None if source is None else _fairseq_stack(w, s, "encoder", source, None)
    return linear(w, "decoder.output_projection", _fairseq_stack(w, s, "decoder", target, memory))
