"""OpenNMT-py, versions 0 to 3: `transformer` encoder-decoders.

    model_step_100000.pt -> a folder

The checkpoint holds `model` and `generator` (weights by name; version 3 also puts them into safetensors beside), `opt`
(a Namespace of settings) and `vocab`: plain lists in version 3, fields of torchtext before, of which only the lists of
tokens are read. Norms come before sub-layers and after each stack; sinusoids are the paper's, where
`position_encoding_type` does not say SinusoidalConcat; the output projection has a bias. Sources get no `</s>`.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from vaswani_tx.configuration_vaswani import VaswaniConfig
from vaswani_tx.convert.core import ConversionError, Converted, KeyMap, Row
from vaswani_tx.convert.hugging_face import check_positions, layer_rows
from vaswani_tx.convert.subword_bpe import SpecialSymbols, read_lines
from vaswani_tx.convert.toolkit_files import (
    NO_CODES,
    check_rows,
    embeddings_of_ours,
    find_codes,
    interleave_sinusoids,
    make_config,
    number_of,
    number_of_layers,
    side_tokenizer,
)
from vaswani_tx.convert.torch_files import Record, TextFiles, find_checkpoint, load_plain, settings_of
from vaswani_tx.convert.weights import read_file
from vaswani_tx.layers_vaswani import sinusoids
from vaswani_tx.tokenization_vaswani import VaswaniTokenizer

SPECIAL = SpecialSymbols(pad="<blank>", bos="<s>", eos="</s>", unk="<unk>")
SAVE_AGAIN = "Save it without its classes, where OpenNMT-py is installed: docs/convert_toolkits.md says how."
_NAME = r".*_step_(\d+)\.pt"
_RECORDS = ("torchtext.", "onmt.", "builtins.set", "set", "torch.optim.")
_EMBEDDING = "{stack}.embeddings.make_embedding.emb_luts.0.weight"
_SINUSOIDS = "{stack}.embeddings.make_embedding.pe.pe"
_ATTENTION = {"linear_query": "q_proj", "linear_keys": "k_proj", "linear_values": "v_proj", "final_linear": "o_proj"}
_FEED_FORWARD = {
    "feed_forward.w_1": "feed_forward.fc1",
    "feed_forward.w_2": "feed_forward.fc2",
    "feed_forward.layer_norm": "feed_forward_residual.norm",
}
ENCODER_LAYER = {
    **{f"self_attn.{theirs}": f"self_attn.{ours}" for theirs, ours in _ATTENTION.items()},
    "layer_norm": "self_attn_residual.norm",
    **_FEED_FORWARD,
}
DECODER_LAYER = {
    **{f"self_attn.{theirs}": f"self_attn.{ours}" for theirs, ours in _ATTENTION.items()},
    "layer_norm_1": "self_attn_residual.norm",
    **{f"context_attn.{theirs}": f"cross_attn.{ours}" for theirs, ours in _ATTENTION.items()},
    "layer_norm_2": "cross_attn_residual.norm",
    **_FEED_FORWARD,
}


def _layers(theirs: str, ours: str, names: Mapping[str, str]) -> list[Row]:
    """Return the rows of a layer; version 3 has no biases in attention, unless it is told to."""
    rows = layer_rows(theirs, ours, names)
    return [replace(row, optional=row.ours.endswith("_proj.bias")) for row in rows]


KEYS = KeyMap(
    [
        *_layers("encoder.transformer.{i}", "model.encoder.layers.{i}", ENCODER_LAYER),
        *_layers("decoder.transformer_layers.{i}", "model.decoder.layers.{i}", DECODER_LAYER),
        *layer_rows("encoder", "model.encoder", {"layer_norm": "final_norm"}),
        *layer_rows("decoder", "model.decoder", {"layer_norm": "final_norm"}),
        Row("generator.bias", "lm_head.bias", optional=True),
    ],
    ignored=[
        (_SINUSOIDS.format(stack=stack), "the sinusoids of the positions, computed here and equal")
        for stack in ("encoder", "decoder")
    ],
)
# Settings that make other layers, with the value that does not, and what they are.
_OTHER_LAYERS: dict[str, tuple[tuple[Any, ...], str]] = {
    "encoder_type": (("transformer",), "another encoder"),
    "decoder_type": (("transformer",), "another decoder"),
    "model_type": (("text",), "a source that is no text"),
    "self_attn_type": (("scaled-dot", "scaled-dot-flash"), "another attention"),
    "max_relative_positions": ((0,), "relative, rotary or linear positions"),
    "copy_attn": ((False, ""), "copying of the source's words"),
    "generator_function": (("softmax",), "another output function"),
    "parallel_residual": ((False,), "sub-layers side by side"),
    "layer_norm": (("standard",), "another norm"),
    "num_kv": ((0,), "keys that heads share"),
    "num_experts": ((0,), "mixtures of experts"),
    "sliding_window": ((0,), "attention to the nearest positions alone"),
    "pos_ffn_activation_fn": (("relu", "gelu"), "another, gated feed-forward network"),
}


def recognises(path: Path) -> bool:
    """Return whether a path is a checkpoint by its name, `..._step_N.pt`, or a folder that has one."""
    return _find_checkpoint(path) is not None


def _find_checkpoint(path: Path) -> Path | None:
    return find_checkpoint(path, _NAME, [_NAME])


def read(path: Path, **files: str | Path | None) -> Converted:
    """Read a checkpoint of OpenNMT-py.

    Args:
        path: the file, or a folder, whose last step is read.
        files: those of `TextFiles`; usual are the vocabularies in the checkpoint and `bpecodes`, `code`, ... beside it.

    Raises:
        ConversionError: the model is of another architecture, or has parts that cannot be converted exactly.
        CheckpointError: a file that cannot be read.
    """
    texts = TextFiles(**files)
    file = (_find_checkpoint(path) or path) if path.is_dir() else path
    if file.is_dir():
        raise ConversionError(f"{path}: has no file ..._step_N.pt: name the file of the checkpoint.")
    content = load_plain(file, _RECORDS, SAVE_AGAIN)
    if not isinstance(content, dict) or "opt" not in content:
        raise ConversionError(f"{file}: is no checkpoint of OpenNMT-py: it has no settings `opt`.")
    settings = settings_of(content["opt"])
    if not settings:
        raise ConversionError(f"{file}: its settings `opt` cannot be read: they are no Namespace and no table.")
    _refuse_other_layers(file, settings)
    converted = _convert(file, _weights(file, content), settings)
    converted.unchecked = "OpenNMT-py cannot run here"
    tokens = _vocabularies(content.get("vocab"))
    named = {"src": texts.source_vocabulary, "tgt": texts.target_vocabulary}
    tokens |= {side: read_lines(name) for side, name in named.items() if name is not None}
    codes = texts.codes or find_codes(file.parent)
    start = settings_of(content.get("vocab")).get("decoder_start_token") or "<s>"
    _add_tokenizer(converted, file, tokens, (codes, texts.target_codes or codes), start)
    return converted


def _refuse_other_layers(file: Path, settings: Mapping[str, Any]) -> None:
    for name, (usual, what) in _OTHER_LAYERS.items():
        value = settings.get(name)
        if value is not None and value not in usual:
            raise ConversionError(f"{file}: {name}={value!r} is {what}, which this model does not have.")
    if not settings.get("position_encoding"):
        raise ConversionError(
            f"{file}: position_encoding is off: the model has no positions, which this one must have."
        )


def _weights(file: Path, content: Mapping[str, Any]) -> dict[str, torch.Tensor]:
    """Return the weights by name, those of the generator under `generator.`, of all versions as of version 3."""
    if isinstance(content.get("model"), dict):
        weights = {name: value for name, value in content["model"].items() if isinstance(value, torch.Tensor)}
        generator = content.get("generator")
        weights |= {f"generator.{name}": value for name, value in (generator or {}).items()}
    else:
        shards = sorted(file.parent.glob(f"{file.stem}*.safetensors"))
        if not shards:
            raise ConversionError(f"{file}: has no weights, and there is no {file.stem}.*.safetensors beside it.")
        weights = {name: value for shard in shards for name, value in read_file(shard).items()}
    present = {}
    for name, value in weights.items():
        name = re.sub(r"(\.layer_norm(?:_\d)?)\.a_2$", r"\1.weight", name)
        name = re.sub(r"(\.layer_norm(?:_\d)?)\.b_2$", r"\1.bias", name)
        present[re.sub(r"^generator\.0\.", "generator.", name)] = value
    return present


def _convert(file: Path, weights: dict[str, torch.Tensor], settings: Mapping[str, Any]) -> Converted:
    names = {stack: _EMBEDDING.format(stack=stack) for stack in ("encoder", "decoder")}
    for name in (*names.values(), "generator.weight"):
        if name not in weights:
            raise ConversionError(f"{file}: has no weight {name!r}: its embeddings or its output are of another kind.")
    used = {*names.values(), "generator.weight"}
    source, target = (weights.pop(name) for name in names.values())
    output = weights.pop("generator.weight")
    d_model = target.shape[1]
    halves = settings.get("position_encoding_type") == "SinusoidalConcat"
    _check_sinusoids(weights, d_model, halves)
    has_bias = _complete_biases(weights)
    state, own, ignored = KEYS.apply(weights)
    embeddings, fields = embeddings_of_ours(source, target, output)
    state |= embeddings
    if halves:
        state = interleave_sinusoids(state, d_model)
    config = make_config(
        VaswaniConfig,
        **fields,
        d_model=d_model,
        d_ff=state["model.encoder.layers.0.feed_forward.fc1.weight"].shape[0],
        num_heads=int(number_of(settings, "heads")),
        encoder_layers=number_of_layers(weights, "encoder.transformer"),
        decoder_layers=number_of_layers(weights, "decoder.transformer_layers"),
        norm_order="pre",
        final_layer_norm=True,
        attention_bias=has_bias,
        lm_head_bias="lm_head.bias" in state,
        activation_function=settings.get("pos_ffn_activation_fn") or "relu",
        layer_norm_eps=number_of(settings, "norm_eps", 1e-6),
        position_frequencies="tensor2tensor" if halves else "paper",
        max_position_embeddings=5000,
        dropout=number_of(settings, "dropout", 0.0),
        attention_dropout=number_of(settings, "attention_dropout", number_of(settings, "dropout", 0.0)),
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=None,
        decoder_start_token_id=None,
    )
    return Converted(config, state, used=used | own, ignored=ignored, title="OpenNMT-py's encoder-decoder")


def _check_sinusoids(weights: Mapping[str, torch.Tensor], d_model: int, halves: bool) -> None:
    """Raise ConversionError where stored positions are not the sinusoids that the settings name."""
    for stack in ("encoder", "decoder"):
        name = _SINUSOIDS.format(stack=stack)
        if name not in weights:
            continue
        table = weights[name].reshape(-1, d_model)
        computed = sinusoids(torch.arange(len(table)), d_model, "tensor2tensor" if halves else "paper")
        if halves:
            computed = torch.cat((computed[:, 0::2], computed[:, 1::2]), dim=1)
        check_positions(name, table[:512], computed[:512])  # float32 angles of later ones are off by themselves


def _complete_biases(weights: dict[str, torch.Tensor]) -> bool:
    """Give linear maps that lack a bias one of zeros, where ours have one; return whether attention has any."""
    linear = [
        name.removesuffix(".weight") for name in weights if re.search(r"\.(?:linear_\w+|final_linear)\.weight$", name)
    ]
    has_bias = any(f"{name}.bias" in weights for name in linear)
    feed_forward = [name.removesuffix(".weight") for name in weights if re.search(r"\.w_[12]\.weight$", name)]
    for name in (linear if has_bias else []) + feed_forward:
        weights.setdefault(f"{name}.bias", weights[f"{name}.weight"].new_zeros(weights[f"{name}.weight"].shape[0]))
    return has_bias


def _vocabularies(vocabulary: Any) -> dict[str, list[str]]:
    """Return the tokens of the sides, `src` and `tgt`, that a checkpoint holds."""
    if isinstance(vocabulary, list):  # before version 0.9: pairs of a name and a vocabulary
        vocabulary = dict(pair for pair in vocabulary if isinstance(pair, tuple) and len(pair) == 2)
    if not isinstance(vocabulary, dict):
        return {}
    found = {side: _tokens(vocabulary.get(side)) for side in ("src", "tgt")}
    return {side: tokens for side, tokens in found.items() if tokens}


def _tokens(side: Any) -> list[str]:
    """Return the tokens of a list, or of a field of torchtext or a vocabulary of it."""
    if isinstance(side, list):
        return [str(token) for token in side]
    if isinstance(side, Record):
        content = vars(side)
        if isinstance(content.get("itos"), list):
            return content["itos"]
        if "vocab" in content:
            return _tokens(content["vocab"])
        fields = content.get("fields")
        if isinstance(fields, list) and fields:
            return _tokens(fields[0][1])
    return []


def _add_tokenizer(
    converted: Converted,
    file: Path,
    tokens: Mapping[str, Sequence[str]],
    codes: tuple[str | Path | None, ...],
    start: str,
) -> None:
    config = converted.config
    if len(tokens) < 2:
        raise ConversionError(
            f"{file}: its vocabularies cannot be read: give --source-vocabulary and --target-vocabulary, files with a "
            "token a line in order of their ids (`fields['src'].base_field.vocab.itos`, and of 'tgt')."
        )
    check_rows(tokens["src"], config.source_vocab_size or config.vocab_size, f"{file}, source")
    check_rows(tokens["tgt"], config.vocab_size, f"{file}, target")
    sides = []
    for side, path in zip(("src", "tgt"), codes, strict=True):
        special = SPECIAL if side == "tgt" else replace(SPECIAL, bos=None, eos=None)
        sides.append(side_tokenizer(tokens[side], path, special))
    converted.tokenizer = VaswaniTokenizer.pair(*sides)
    places = {token: index for index, token in enumerate(tokens["tgt"])}
    if start not in places:
        raise ConversionError(f"{file}: its decoder starts from {start!r}, which is not in the target's vocabulary.")
    config.pad_token_id, config.eos_token_id = places["<blank>"], places["</s>"]
    config.bos_token_id, config.decoder_start_token_id = places["<s>"], places[start]
    if codes[0] is None:
        converted.notes.append(NO_CODES)


__all__ = ["KEYS", "read", "recognises"]
