"""tensor2tensor's `transformer` (`transformer_base*`, `_big`, `_small`, `_tiny`), from checkpoints of TensorFlow.

    model.ckpt-250000.index, model.ckpt-250000.data-*, hparams.json -> a folder

Kernels are [inputs, outputs], attention has no biases, the embedding matrix is in 16 parts by default. Sinusoids are
halves, sines then cosines, which begin at position 0. Three things are written out as matrices of their own: the input
embedding of id 0 (padding, and what the decoder starts from) is zero, while the output projection has a row for it; and
the target space, a vector that is added to all of the source, is added to the source's embeddings.
"""

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from vaswani_tx.configuration_vaswani import VaswaniConfig
from vaswani_tx.convert.core import ConversionError, Converted, KeyMap, Row
from vaswani_tx.convert.tensor_bundle import Bundle, find_prefix, read_bundle
from vaswani_tx.convert.toolkit_files import interleave_sinusoids, make_config, number_of, number_of_layers

PAD, EOS = 0, 1
# num_heads by the name of a set of hyperparameters, which the weights do not show; sizes they do.
HEADS = {
    "transformer_base": 8, "transformer_base_v1": 8, "transformer_base_v2": 8, "transformer_base_v3": 8,
    "transformer_base_single_gpu": 8, "transformer_big": 16, "transformer_big_single_gpu": 16, "transformer_small": 4,
    "transformer_tiny": 4, "transformer_test": 2, "transformer_l2": 8, "transformer_l4": 8, "transformer_l8": 8,
    "transformer_l10": 8, "transformer_h1": 1, "transformer_h4": 4, "transformer_h16": 16, "transformer_h32": 32,
}  # fmt: skip
# Hyperparameters that make other layers, with the values that do not, and what they are.
_OTHER_LAYERS: dict[str, tuple[tuple[Any, ...], str]] = {
    "norm_type": (("layer",), "another norm"),
    "ffn_layer": (("dense_relu_dense", "conv_hidden_relu"), "another feed-forward network"),
    "self_attention_type": (("dot_product",), "another attention"),
    "pos": (("timing",), "other positions"),
    "proximity_bias": ((False,), "a bias of attention to the nearest"),
    "causal_decoder_self_attention": ((True,), "a decoder that sees what follows"),
    "unidirectional_encoder": ((False,), "an encoder that does not see what follows"),
    "hard_attention_k": ((0,), "attention to the largest scores alone"),
    "num_area_layers": ((0,), "attention to areas"),
    "multiply_embedding_mode": (("sqrt_depth", "none", ""), "another scale of embeddings"),
    "prepend_mode": (("none",), "sources in front of targets"),
}
_PARTS = re.compile(
    r"(?P<scope>.*symbol_modality_\d+_\d+(?:_\d+)?)/(?P<kind>shared|input_emb|target_emb|softmax)/weights_(?P<part>\d+)"
)
_OF_TRAINING = re.compile(
    r".*/(?:Adam|Adafactor)(?:_\d)?|(?:training|losses_avg|train_stats|global_step|beta\d_power).*"
)
_SPACE = "target_space_embedding/kernel"
_NORM = {"layer_norm_scale": "weight", "layer_norm_bias": "bias"}
_ATTENTION = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "output_transform": "o_proj"}


def key_map(pre: bool) -> KeyMap:
    """Return the table of weights, embeddings aside, by their names behind the scope of the model's body.

    Args:
        pre: norms come before sub-layers, and follow each stack; else they follow each sub-layer.
    """
    place = "layer_prepostprocess/layer_norm" if pre else "layer_postprocess/layer_norm"
    rows = []
    sublayers = {
        "encoder": {"self_attention": "self_attn", "ffn": "feed_forward"},
        "decoder": {"self_attention": "self_attn", "encdec_attention": "cross_attn", "ffn": "feed_forward"},
    }
    for stack, parts in sublayers.items():
        for theirs, ours in parts.items():
            source, own = f"{stack}/layer_{{i}}/{theirs}", f"model.{stack}.layers.{{i}}.{ours}"
            rows += [Row(f"{source}/{place}/{name}", f"{own}_residual.norm.{end}") for name, end in _NORM.items()]
            if theirs == "ffn":
                for number in (1, 2):
                    rows.append(Row(f"{source}/conv{number}/kernel", f"{own}.fc{number}.weight", _kernel))
                    rows.append(Row(f"{source}/conv{number}/bias", f"{own}.fc{number}.bias"))
            else:
                for name, projection in _ATTENTION.items():
                    kernel = f"{source}/multihead_attention/{name}/kernel"
                    rows.append(Row(kernel, f"{own}.{projection}.weight", _kernel))
        if pre:
            rows += [Row(f"{stack}/{place}/{name}", f"model.{stack}.final_norm.{end}") for name, end in _NORM.items()]
    return KeyMap(rows)


def _kernel(kernel: torch.Tensor) -> torch.Tensor:
    """Return a kernel, [inputs, outputs] or [1, inputs, outputs] of a convolution of width 1, as a matrix of ours."""
    return kernel.reshape(kernel.shape[-2:]).t()


def recognises(path: Path) -> bool:
    """Return whether a path is a TensorFlow checkpoint, or a folder that has one."""
    return find_prefix(path) is not None


def read(
    path: Path, hparams_set: str | None = None, num_heads: int | None = None, target_space_id: int | None = None
) -> Converted:
    """Read a checkpoint of tensor2tensor.

    Args:
        path: the checkpoint (up to, or with, `.index`), or a folder, whose last one is read.
        hparams_set: the name of its hyperparameters, such as "transformer_base"; None: hparams.json beside it.
        num_heads: the number of heads, instead of `hparams_set`.
        target_space_id: the target space of the problem, which the checkpoint does not name.

    Raises:
        ConversionError: the model is of another architecture, or has parts that cannot be converted exactly.
        CheckpointError: a file that cannot be read.
    """
    prefix = find_prefix(path)
    if prefix is None:
        raise ConversionError(f"{path}: has no checkpoint ....index: name it.")
    settings = _settings(prefix.parent / "hparams.json")
    _refuse_other_layers(prefix, settings)
    bundle = read_bundle(prefix)
    heads = _number_of_heads(prefix, settings, hparams_set, num_heads)
    converted = _convert(bundle, settings, heads, target_space_id)
    converted.unchecked = "tensor2tensor cannot run here"
    converted.notes.append(
        "No tokenizer is written: a SubwordTextEncoder escapes characters that it does not know by their numbers, "
        "which no tokenizer.json does. Give the model ids of that vocabulary, the source's with 1 (<EOS>) at the end."
    )
    return converted


def _settings(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConversionError(f"{path}: cannot be read as JSON ({error}).") from None
    return settings if isinstance(settings, dict) else {}


def _refuse_other_layers(prefix: Path, settings: Mapping[str, Any]) -> None:
    for name, (usual, what) in _OTHER_LAYERS.items():
        if name in settings and settings[name] not in usual:
            raise ConversionError(f"{prefix}: {name}={settings[name]!r} is {what}, which this model does not have.")


def _number_of_heads(prefix: Path, settings: Mapping[str, Any], hparams_set: str | None, given: int | None) -> int:
    if given is not None:
        return given
    if hparams_set is not None:
        if hparams_set not in HEADS:
            raise ConversionError(f"hparams_set {hparams_set!r} is none of {', '.join(HEADS)}: give num_heads instead.")
        return HEADS[hparams_set]
    if isinstance(settings.get("num_heads"), int):
        return settings["num_heads"]
    raise ConversionError(
        f"{prefix}: the weights do not show the number of heads, and there is no hparams.json beside them: give "
        "--hparams-set, such as transformer_base, or --num-heads."
    )


def _convert(bundle: Bundle, settings: Mapping[str, Any], heads: int, space: int | None) -> Converted:
    body, ignored = _body(bundle)
    pre = "encoder/layer_prepostprocess/layer_norm/layer_norm_scale" in body
    if pre and any("layer_postprocess/layer_norm" in name for name in body):
        raise ConversionError(
            f"{bundle.prefix}: has norms before and after sub-layers; a model of this package has one of the two."
        )
    weights = {name: bundle.tensor(full) for name, full in body.items() if name != _SPACE}
    layers = [number_of_layers(_dotted(weights), f"{stack}.layer") for stack in ("encoder", "decoder")]
    state, used, _ = key_map(pre).apply(weights)
    embeddings, fields, parts = _embeddings(bundle, settings, body.get(_SPACE), space)
    d_model = fields["d_model"]
    scale = settings.get("multiply_embedding_mode", "sqrt_depth") == "sqrt_depth"
    config = make_config(
        VaswaniConfig,
        **fields,
        d_ff=state["model.encoder.layers.0.feed_forward.fc1.weight"].shape[0],
        num_heads=heads,
        d_k=_per_head(state["model.encoder.layers.0.self_attn.q_proj.weight"], heads),
        d_v=_per_head(state["model.encoder.layers.0.self_attn.v_proj.weight"], heads),
        encoder_layers=layers[0],
        decoder_layers=layers[1],
        norm_order="pre" if pre else "post",
        final_layer_norm=pre,
        scale_embedding=scale,
        layer_norm_eps=number_of(settings, "norm_epsilon", 1e-6),
        position_frequencies="tensor2tensor",
        dropout=number_of(settings, "layer_prepostprocess_dropout", 0.1),
        attention_dropout=number_of(settings, "attention_dropout", 0.0),
        activation_dropout=number_of(settings, "relu_dropout", 0.0),
        pad_token_id=PAD,
        bos_token_id=None,
        eos_token_id=EOS,
        decoder_start_token_id=PAD,
    )
    used = {body[name] for name in used} | parts
    return Converted(
        config,
        interleave_sinusoids(state | embeddings, d_model),
        used=used,
        ignored=ignored,
        title="tensor2tensor's encoder-decoder",
    )


def _per_head(matrix: torch.Tensor, heads: int) -> int:
    if matrix.shape[0] % heads:
        raise ConversionError(f"{heads} heads do not divide the {matrix.shape[0]} channels of queries or values.")
    return matrix.shape[0] // heads


def _dotted(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace("layer_", "layer.", 1).replace("/", "."): tensor for name, tensor in weights.items()}


def _body(bundle: Bundle) -> tuple[dict[str, str], dict[str, str]]:
    """Return the names of the body's weights by what follows its scope, and the ignored ones with their reasons."""
    body, ignored = {}, {}
    for name in bundle.entries:
        found = re.search(r"(?:^|/)body/(?:.*/)?((?:encoder|decoder|target_space_embedding)/.*)$", name)
        if _OF_TRAINING.fullmatch(name):
            ignored[name] = "a state of training"
        elif found:
            body[found[1]] = name
        elif not _PARTS.fullmatch(name):
            raise ConversionError(
                f"{bundle.prefix}: {name!r} is no weight of `transformer` of tensor2tensor: it is another model."
            )
    return body, ignored


def _embeddings(
    bundle: Bundle, settings: Mapping[str, Any], space_name: str | None, space: int | None
) -> tuple[dict[str, torch.Tensor], dict[str, Any], set[str]]:
    """Return the weights and fields of embeddings, and the names of their parts."""
    kinds: dict[str, dict[int, str]] = {}
    scopes: dict[str, set[str]] = {}
    for name in bundle.entries:
        if (found := _PARTS.fullmatch(name)) is not None:
            kinds.setdefault(found["kind"], {})[int(found["part"])] = name
            scopes.setdefault(found["kind"], set()).add(found["scope"])
    if any(len(names) > 1 for names in scopes.values()):
        raise ConversionError(f"{bundle.prefix}: has several vocabularies of one kind ({sorted(*scopes.values())}).")
    matrices = {}
    for kind, parts in kinds.items():
        if sorted(parts) != list(range(len(parts))):
            raise ConversionError(f"{bundle.prefix}: parts of the embeddings {kind!r} are missing: {sorted(parts)}.")
        matrices[kind] = torch.cat([bundle.tensor(parts[index]) for index in sorted(parts)])
    wanted = ("shared", "shared") if "shared" in matrices else ("input_emb", "target_emb")
    output = matrices.get("softmax", matrices.get("shared"))
    lost = [kind for kind in wanted if kind not in matrices] + (["softmax"] if output is None else [])
    if lost or output is None:
        raise ConversionError(f"{bundle.prefix}: has no embeddings {lost[0]!r}: it is no encoder-decoder for text.")
    source, target = (matrices[kind].clone() for kind in wanted)
    d_model = target.shape[1]
    source[PAD] = 0
    target[PAD] = 0
    used = {name for parts in kinds.values() for name in parts.values()}
    if space_name is not None:
        source = _with_space(bundle, source, space_name, space, settings)
        used.add(space_name)
    state: dict[str, torch.Tensor] = {"lm_head.weight": output}
    fields: dict[str, Any] = {"vocab_size": target.shape[0], "d_model": d_model, "tie_word_embeddings": False}
    if source.shape == target.shape and torch.equal(source, target):
        state["model.shared.weight"] = target
    else:
        state |= {"model.encoder.embed_tokens.weight": source, "model.decoder.embed_tokens.weight": target}
        fields["source_vocab_size"] = source.shape[0]
    return state, fields, used


def _with_space(
    bundle: Bundle, source: torch.Tensor, name: str, space: int | None, settings: Mapping[str, Any]
) -> torch.Tensor:
    """Return the source's embeddings with the target space's added, as it is added to each position of the source."""
    table = bundle.tensor(name)
    if space is None or not 0 <= space < table.shape[0]:
        raise ConversionError(
            f"{bundle.prefix}: the model adds one of {table.shape[0]} vectors for the target space to its source, and "
            "the checkpoint does not say which. Give --target-space-id: `target_space_id` of the problem (SpaceID in "
            "tensor2tensor/data_generators/problem.py; 0 is the usual one of problems that name none)."
        )
    vector = table[space]
    if settings.get("multiply_embedding_mode", "sqrt_depth") == "sqrt_depth":
        vector = vector / math.sqrt(source.shape[1])  # our embeddings are scaled with it
    return source + vector


__all__ = ["HEADS", "key_map", "read", "recognises"]
