"""Checkpoints of older toolkits, tiny and random, and plain forward passes straight from their names and formulas.

Nothing of the library is used here. Each `*_logits` evaluates a checkpoint as its toolkit does, in float64, for a batch
without padding: source [B, S] and target [B, T] are ids, the result is [B, T, V].
"""

import argparse
import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional as F

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


# ----------------------------------------------------------------------------------------------- OpenNMT-py, JoeyNMT


def _projected(w: Weights, name: str, parts: tuple[str, ...], heads: int, causal: bool, to: torch.Tensor | None = None):
    """Return the attention `name` as a function, of projections named query, key, value, output."""

    def function(y: torch.Tensor) -> torch.Tensor:
        query, key, value = (
            linear(w, f"{name}.{part}", x) for part, x in zip(parts, (y, *[y if to is None else to] * 2), strict=False)
        )
        return linear(w, f"{name}.{parts[3]}", attend(query, key, value, heads, causal))

    return function


def _fed(w: Weights, first: str, second: str, activation: Callable = F.relu):
    return lambda y: linear(w, second, activation(linear(w, first, y)))


def _normed(w: Weights, name: str, eps: float = 1e-6):
    return lambda y: norm(w, name, y, eps)


ONMT_PARTS = ("linear_query", "linear_keys", "linear_values", "final_linear")
JOEY_PARTS = ("q_layer", "k_layer", "v_layer", "output_layer")


def _module_shapes(linear_maps: dict[str, tuple[int, int]], norms: list[str], d: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for name, shape in linear_maps.items():
        shapes |= {f"{name}.weight": shape, f"{name}.bias": shape[:1]}
    for name in norms:
        shapes |= {f"{name}.weight": (d,), f"{name}.bias": (d,)}
    return shapes


def onmt_checkpoint(source: int = 19, target: int = 23, shared: bool = False, d: int = 16, inner: int = 24, **opt: Any):
    """Return a checkpoint of OpenNMT-py 2 or 3, plain lists as vocabularies."""
    maps, norms = {}, ["encoder.layer_norm", "decoder.layer_norm"]
    for layer in ("encoder.transformer.0", "encoder.transformer.1", "decoder.transformer_layers.0"):
        attentions = ["self_attn"] + (["context_attn"] if "decoder" in layer else [])
        maps |= {f"{layer}.{attention}.{part}": (d, d) for attention in attentions for part in ONMT_PARTS}
        maps |= {f"{layer}.feed_forward.w_1": (inner, d), f"{layer}.feed_forward.w_2": (d, inner)}
        own = ["layer_norm_1", "layer_norm_2"] if "decoder" in layer else ["layer_norm"]
        norms += [f"{layer}.{name}" for name in (*own, "feed_forward.layer_norm")]
    source = target if shared else source
    table = "{}.embeddings.make_embedding.emb_luts.0.weight"
    shapes = _module_shapes(maps, norms, d) | {
        table.format("encoder"): (source, d),
        table.format("decoder"): (target, d),
    }
    model = random_weights(shapes)
    generator = {
        "0.weight": random_weights({"w": (target, d)}, 1)["w"],
        "0.bias": random_weights({"b": (target,)}, 2)["b"],
    }
    if shared:
        model[table.format("encoder")] = generator["0.weight"] = model[table.format("decoder")]
    for stack in ("encoder", "decoder"):
        model[f"{stack}.embeddings.make_embedding.pe.pe"] = interleaved(50, d).float()[:, None]
    settings = {
        "heads": 4, "position_encoding": True, "encoder_type": "transformer", "decoder_type": "transformer",
        "self_attn_type": "scaled-dot", "max_relative_positions": 0, "copy_attn": False, "dropout": [0.1],
        "attention_dropout": [0.1], "model_type": "text", "generator_function": "softmax",
    }  # fmt: skip
    special = ["<unk>", "<blank>", "<s>", "</s>"]
    target_tokens = special + [f"w{index}" for index in range(target - 4)]
    source_tokens = target_tokens if shared else special + [f"s{index}" for index in range(source - 4)]
    vocabulary = {"src": source_tokens, "tgt": target_tokens, "decoder_start_token": "<s>", "data_task": "seq2seq"}
    opt = argparse.Namespace(**{**settings, **opt})
    return {"model": model, "generator": generator, "opt": opt, "vocab": vocabulary, "optim": {}}


def onmt_logits(checkpoint: dict[str, Any], source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    w, heads = in_float64(checkpoint["model"]), checkpoint["opt"].heads

    def embedded(stack: str, ids: torch.Tensor) -> torch.Tensor:
        table = w[f"{stack}.embeddings.make_embedding.emb_luts.0.weight"]
        return table[ids] * math.sqrt(table.shape[1]) + interleaved(ids.shape[1], table.shape[1])

    x = embedded("encoder", source)
    for layer in ("encoder.transformer.0", "encoder.transformer.1"):
        attention = _projected(w, f"{layer}.self_attn", ONMT_PARTS, heads, False)
        x = sublayer(x, attention, _normed(w, f"{layer}.layer_norm"), True)
        feed = _fed(w, f"{layer}.feed_forward.w_1", f"{layer}.feed_forward.w_2")
        x = sublayer(x, feed, _normed(w, f"{layer}.feed_forward.layer_norm"), True)
    memory, x = norm(w, "encoder.layer_norm", x, 1e-6), embedded("decoder", target)
    layer = "decoder.transformer_layers.0"
    x = sublayer(
        x, _projected(w, f"{layer}.self_attn", ONMT_PARTS, heads, True), _normed(w, f"{layer}.layer_norm_1"), True
    )
    attention = _projected(w, f"{layer}.context_attn", ONMT_PARTS, heads, False, memory)
    x = sublayer(x, attention, _normed(w, f"{layer}.layer_norm_2"), True)
    feed = _fed(w, f"{layer}.feed_forward.w_1", f"{layer}.feed_forward.w_2")
    x = sublayer(x, feed, _normed(w, f"{layer}.feed_forward.layer_norm"), True)
    generator = in_float64(checkpoint["generator"])
    return F.linear(norm(w, "decoder.layer_norm", x, 1e-6), generator["0.weight"], generator["0.bias"])


def joey_weights(source: int, target: int, pre: bool, tied: bool = True, d: int = 16, inner: int = 24) -> Weights:
    maps, norms = {}, ["encoder.layer_norm", "decoder.layer_norm"] if pre else []
    for layer in ("encoder.layers.0", "decoder.layers.0", "decoder.layers.1"):
        attentions = ["trg_trg_att", "src_trg_att"] if "decoder" in layer else ["src_src_att"]
        maps |= {f"{layer}.{attention}.{part}": (d, d) for attention in attentions for part in JOEY_PARTS}
        maps |= {f"{layer}.feed_forward.pwff_layer.0": (inner, d), f"{layer}.feed_forward.pwff_layer.3": (d, inner)}
        own = ["x_layer_norm", "dec_layer_norm"] if "decoder" in layer else ["layer_norm"]
        norms += [f"{layer}.{name}" for name in (*own, "feed_forward.layer_norm")]
    tables = {"src_embed.lut.weight": (source, d), "trg_embed.lut.weight": (target, d)}
    weights = random_weights(_module_shapes(maps, norms, d) | tables | {"decoder.output_layer.weight": (target, d)})
    if tied:
        weights["decoder.output_layer.weight"] = weights["trg_embed.lut.weight"]
    for stack in ("encoder", "decoder"):
        weights[f"{stack}.pe.pe"] = interleaved(50, d).float()[None]
    return weights


def joey_logits(weights: Weights, pre: bool, scale: bool, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    w, heads = in_float64(weights), 4

    def embedded(side: str, ids: torch.Tensor) -> torch.Tensor:
        table = w[f"{side}_embed.lut.weight"]
        return table[ids] * (math.sqrt(table.shape[1]) if scale else 1) + interleaved(ids.shape[1], table.shape[1])

    def fed(layer: str):
        return _fed(w, f"{layer}.feed_forward.pwff_layer.0", f"{layer}.feed_forward.pwff_layer.3")

    x = embedded("src", source)
    attention = _projected(w, "encoder.layers.0.src_src_att", JOEY_PARTS, heads, False)
    x = sublayer(x, attention, _normed(w, "encoder.layers.0.layer_norm"), pre)
    x = sublayer(x, fed("encoder.layers.0"), _normed(w, "encoder.layers.0.feed_forward.layer_norm"), pre)
    memory, x = norm(w, "encoder.layer_norm", x, 1e-6) if pre else x, embedded("trg", target)
    for layer in ("decoder.layers.0", "decoder.layers.1"):
        attention = _projected(w, f"{layer}.trg_trg_att", JOEY_PARTS, heads, True)
        x = sublayer(x, attention, _normed(w, f"{layer}.x_layer_norm"), pre)
        attention = _projected(w, f"{layer}.src_trg_att", JOEY_PARTS, heads, False, memory)
        x = sublayer(x, attention, _normed(w, f"{layer}.dec_layer_norm"), pre)
        x = sublayer(x, fed(layer), _normed(w, f"{layer}.feed_forward.layer_norm"), pre)
    x = norm(w, "decoder.layer_norm", x, 1e-6) if pre else x
    return F.linear(x, w["decoder.output_layer.weight"])


# ------------------------------------------------------------------------------------------------------ tensor2tensor


def t2t_weights(pre: bool, vocabulary: int = 23, d: int = 16, inner: int = 24, parts: int = 4) -> Weights:
    """Return weights by the names of tensor2tensor 1.15: shared embeddings in parts, a target space."""
    place = "layer_prepostprocess" if pre else "layer_postprocess"
    shapes: dict[str, tuple[int, ...]] = {"transformer/body/target_space_embedding/kernel": (32, d)}
    for index in range(parts):
        rows = vocabulary // parts + (index < vocabulary % parts)
        shapes[f"transformer/symbol_modality_{vocabulary}_{d}/shared/weights_{index}"] = (rows, d)
    for stack in ("encoder", "decoder"):
        scope = f"transformer/body/{stack}"
        norms = [f"{scope}/{place}"] if pre else []
        for part in ["self_attention", "ffn"] + (["encdec_attention"] if stack == "decoder" else []):
            norms.append(f"{scope}/layer_0/{part}/{place}")
            if part == "ffn":
                shapes |= {f"{scope}/layer_0/ffn/conv1/kernel": (d, inner), f"{scope}/layer_0/ffn/conv1/bias": (inner,)}
                shapes |= {f"{scope}/layer_0/ffn/conv2/kernel": (inner, d), f"{scope}/layer_0/ffn/conv2/bias": (d,)}
            else:
                kernels = ("q", "k", "v", "output_transform")
                shapes |= {f"{scope}/layer_0/{part}/multihead_attention/{name}/kernel": (d, d) for name in kernels}
        for name in norms:
            shapes |= {f"{name}/layer_norm/layer_norm_scale": (d,), f"{name}/layer_norm/layer_norm_bias": (d,)}
    return random_weights(shapes)


def t2t_logits(weights: Weights, pre: bool, space: int, source: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
    """Evaluate a model; `target` begins with id 0, whose embedding is zero."""
    w, heads = in_float64(weights), 4
    place = "layer_prepostprocess" if pre else "layer_postprocess"
    names = sorted((name for name in w if "/shared/" in name), key=lambda name: int(name.rpartition("_")[2]))
    table = torch.cat([w[name] for name in names])

    def embedded(ids: torch.Tensor) -> torch.Tensor:
        return table[ids] * math.sqrt(table.shape[1]) * (ids != 0).unsqueeze(-1)

    def normed(scope: str):
        name = f"transformer/body/{scope}/{place}/layer_norm/layer_norm"
        return lambda y: F.layer_norm(y, y.shape[-1:], w[f"{name}_scale"], w[f"{name}_bias"], 1e-6)

    def attention(scope: str, causal: bool, to: torch.Tensor | None = None):
        kernel = {part: w[f"transformer/body/{scope}/multihead_attention/{part}/kernel"] for part in ("q", "k", "v")}
        out = w[f"transformer/body/{scope}/multihead_attention/output_transform/kernel"]

        def function(y: torch.Tensor) -> torch.Tensor:
            z = y if to is None else to
            return attend(y @ kernel["q"], z @ kernel["k"], z @ kernel["v"], heads, causal) @ out

        return function

    def fed(scope: str):
        c = {name: w[f"transformer/body/{scope}/conv{name}"] for name in ("1/kernel", "1/bias", "2/kernel", "2/bias")}
        return lambda y: F.relu(y @ c["1/kernel"] + c["1/bias"]) @ c["2/kernel"] + c["2/bias"]

    x = embedded(source) + w["transformer/body/target_space_embedding/kernel"][space]
    x = x + halves(source.shape[1], table.shape[1])
    scope = "encoder/layer_0"
    x = sublayer(x, attention(f"{scope}/self_attention", False), normed(f"{scope}/self_attention"), pre)
    x = sublayer(x, fed(f"{scope}/ffn"), normed(f"{scope}/ffn"), pre)
    memory = normed("encoder")(x) if pre else x
    x, scope = embedded(target) + halves(target.shape[1], table.shape[1]), "decoder/layer_0"
    x = sublayer(x, attention(f"{scope}/self_attention", True), normed(f"{scope}/self_attention"), pre)
    x = sublayer(x, attention(f"{scope}/encdec_attention", False, memory), normed(f"{scope}/encdec_attention"), pre)
    x = sublayer(x, fed(f"{scope}/ffn"), normed(f"{scope}/ffn"), pre)
    return (normed("decoder")(x) if pre else x) @ table.T
