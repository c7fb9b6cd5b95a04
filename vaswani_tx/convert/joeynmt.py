"""JoeyNMT, versions 0 to 2: `transformer` encoder-decoders.

    config.yaml, best.ckpt, src_vocab.txt, trg_vocab.txt -> a folder

The checkpoint holds `model_state` (weights by name), `config.yaml` the sizes. Positions are the paper's sinusoids.
Version 1 normalises before sub-layers and after each stack; version 2 does as `layer_norm` says, and without it differs
between encoder and decoder, which cannot be converted.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import yaml

from vaswani_tx.configuration_vaswani import VaswaniConfig
from vaswani_tx.convert.core import ConversionError, Converted, KeyMap
from vaswani_tx.convert.hugging_face import check_positions, layer_rows
from vaswani_tx.convert.subword_bpe import SpecialSymbols, read_lines
from vaswani_tx.convert.toolkit_files import (
    NO_CODES,
    check_rows,
    embeddings_of_ours,
    make_config,
    number_of,
    number_of_layers,
    one_value,
    tokenizer_of,
)
from vaswani_tx.convert.torch_files import TextFiles, find_checkpoint, load_plain
from vaswani_tx.layers_vaswani import sinusoids

SAVE_AGAIN = "Save its model_state alone, where JoeyNMT is installed: docs/convert_toolkits.md says how."
_RECORDS = ("joeynmt.", "torch.optim.", "types.SimpleNamespace")
_ATTENTION = {"q_layer": "q_proj", "k_layer": "k_proj", "v_layer": "v_proj", "output_layer": "o_proj"}
_FEED_FORWARD = {
    "feed_forward.pwff_layer.0": "feed_forward.fc1",
    "feed_forward.pwff_layer.3": "feed_forward.fc2",
    "feed_forward.layer_norm": "feed_forward_residual.norm",
}
ENCODER_LAYER = {
    **{f"src_src_att.{theirs}": f"self_attn.{ours}" for theirs, ours in _ATTENTION.items()},
    "layer_norm": "self_attn_residual.norm",
    **_FEED_FORWARD,
}
DECODER_LAYER = {
    **{f"trg_trg_att.{theirs}": f"self_attn.{ours}" for theirs, ours in _ATTENTION.items()},
    "x_layer_norm": "self_attn_residual.norm",
    **{f"src_trg_att.{theirs}": f"cross_attn.{ours}" for theirs, ours in _ATTENTION.items()},
    "dec_layer_norm": "cross_attn_residual.norm",
    **_FEED_FORWARD,
}
_EMBEDDINGS = ("src_embed.lut.weight", "trg_embed.lut.weight", "decoder.output_layer.weight")
_ACTIVATIONS = {"relu": "relu", "gelu": "gelu", "swish": "silu"}
_SPECIAL = {"unk": "<unk>", "pad": "<pad>", "bos": "<s>", "eos": "</s>"}  # in the order in which they are added


def key_map(has_final_norm: bool) -> KeyMap:
    """Return the table of weights, embeddings of tokens aside."""
    final = {"layer_norm": "final_norm"} if has_final_norm else {}
    return KeyMap(
        [
            *layer_rows("encoder.layers.{i}", "model.encoder.layers.{i}", ENCODER_LAYER),
            *layer_rows("decoder.layers.{i}", "model.decoder.layers.{i}", DECODER_LAYER),
            *layer_rows("encoder", "model.encoder", final),
            *layer_rows("decoder", "model.decoder", final),
        ],
        ignored=[(f"{stack}.pe.pe", "the sinusoids of the positions, computed here and equal") for stack in _STACKS],
    )


_STACKS = ("encoder", "decoder")


def recognises(path: Path) -> bool:
    """Return whether a folder, or that of a file, has config.yaml beside a checkpoint *.ckpt."""
    folder = path if path.is_dir() else path.parent
    return (folder / "config.yaml").is_file() and _find_checkpoint(path) is not None


def _find_checkpoint(path: Path) -> Path | None:
    return find_checkpoint(path, r".+\.ckpt", [r"best\.ckpt", r"latest\.ckpt", r"(\d+)\.ckpt", r".+\.ckpt"])


def read(path: Path, **files: str | Path | None) -> Converted:
    """Read a checkpoint of JoeyNMT.

    Args:
        path: the file, or a folder with `best.ckpt` or others; config.yaml is beside it.
        files: those of `TextFiles`; usual are `src_vocab.txt` and `trg_vocab.txt` beside the checkpoint, and the codes
            that config.yaml names, if they are there.

    Raises:
        ConversionError: the model is of another architecture, or has parts that cannot be converted exactly.
        CheckpointError: a file that cannot be read.
    """
    texts = TextFiles(**files)
    file = _find_checkpoint(path)
    if file is None:
        raise ConversionError(f"{path}: has no checkpoint *.ckpt: name its file.")
    settings = _settings(file.parent / "config.yaml")
    content = load_plain(file, _RECORDS, SAVE_AGAIN)
    if not isinstance(content, dict) or not isinstance(content.get("model_state"), dict):
        raise ConversionError(f"{file}: is no checkpoint of JoeyNMT: it has no table `model_state` of weights.")
    weights = {name.removeprefix("module."): value for name, value in content["model_state"].items()}
    found = settings.get("data")
    data: dict[str, Any] = found if isinstance(found, dict) else {}
    special = _special(data)
    converted = _convert(file, weights, settings["model"], special)
    converted.unchecked = "JoeyNMT cannot run here"
    sides = []
    named = (
        ("src", texts.source_vocabulary, texts.codes),
        ("trg", texts.target_vocabulary, texts.target_codes or texts.codes),
    )
    for side, name, own in named:
        symbols, source = _vocabulary(file.parent, data, side, name, special)
        size = converted.config.vocab_size
        check_rows(symbols, (converted.config.source_vocab_size or size) if side == "src" else size, source)
        sides.append((symbols, own or _codes(file.parent, data, side)))
    _add_tokenizer(converted, sides, data, special)
    return converted


def _settings(path: Path) -> dict[str, Any]:
    try:
        settings = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConversionError(f"{path}: cannot be read ({error.strerror}): put it beside the checkpoint.") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConversionError(f"{path}: is no YAML ({' '.join(str(error).split())[:200]}).") from None
    model = settings.get("model") if isinstance(settings, dict) else None
    if not isinstance(model, dict) or not all(isinstance(model.get(stack), dict) for stack in _STACKS):
        raise ConversionError(f"{path}: has no tables model.encoder and model.decoder.")
    return settings


def _special(data: Mapping[str, Any]) -> dict[str, str]:
    given = data.get("special_symbols")
    given = given if isinstance(given, dict) else {}
    return {name: str(given.get(f"{name}_token", usual)) for name, usual in _SPECIAL.items()}


def _convert(file: Path, weights: dict[str, Any], model: Mapping[str, Any], special: Mapping[str, str]) -> Converted:
    stacks = [model[stack] for stack in _STACKS]
    for stack, settings in zip(_STACKS, stacks, strict=True):
        usual = "recurrent" if stack == "encoder" else "transformer"
        if settings.get("type", usual) != "transformer":
            raise ConversionError(f"{file}: the {stack} is {settings.get('type', usual)!r}, not 'transformer'.")
        if number_of(settings, "alpha", 1.0) != 1.0:
            raise ConversionError(f"{file}: the {stack} has alpha={settings['alpha']}; here residuals are added as is.")

    def common(name: str, usual: Any = None) -> Any:
        values = {stack: model[stack].get(name, usual) for stack in _STACKS}
        return one_value(values, _STACKS, f"{name} of config.yaml")

    for name in _EMBEDDINGS:
        if name not in weights:
            raise ConversionError(f"{file}: has no weight {name!r}: it is no encoder-decoder of this format.")
    source, target, output = (weights.pop(name) for name in _EMBEDDINGS)
    d_model = target.shape[1]
    norm_order = _norm_order(file, weights, stacks)
    for stack in _STACKS:
        if (table := weights.get(f"{stack}.pe.pe")) is not None:
            table = table.reshape(-1, d_model)[:512]
            check_positions(f"{stack}.pe.pe", table, sinusoids(torch.arange(len(table)), d_model))
    state, used, ignored = key_map(norm_order == "pre").apply(weights)
    embeddings, fields = embeddings_of_ours(source, target, output)
    activation = common("activation", "relu")
    if activation not in _ACTIVATIONS:
        raise ConversionError(f"{file}: activation={activation!r} is none of {', '.join(_ACTIVATIONS)}.")
    tables = {stack: settings.get("embeddings") for stack, settings in zip(_STACKS, stacks, strict=True)}
    scales = {stack: isinstance(table, dict) and bool(table.get("scale")) for stack, table in tables.items()}
    order = list(_SPECIAL)
    config = make_config(
        VaswaniConfig,
        **fields,
        d_model=d_model,
        d_ff=state["model.encoder.layers.0.feed_forward.fc1.weight"].shape[0],
        num_heads=int(number_of({"num_heads": common("num_heads")}, "num_heads")),
        encoder_layers=number_of_layers(weights, "encoder.layers"),
        decoder_layers=number_of_layers(weights, "decoder.layers"),
        norm_order=norm_order,
        final_layer_norm=norm_order == "pre",
        attention_bias=True,
        activation_function=_ACTIVATIONS[activation],
        scale_embedding=bool(one_value(scales, _STACKS, "the scale of embeddings")),
        layer_norm_eps=1e-6,
        max_position_embeddings=5000,
        dropout=number_of(stacks[0], "dropout", 0.1),
        attention_dropout=number_of(stacks[0], "dropout", 0.1),
        pad_token_id=order.index("pad"),
        bos_token_id=order.index("bos"),
        eos_token_id=order.index("eos"),
        decoder_start_token_id=order.index("bos"),
    )
    return Converted(
        config, state | embeddings, used=used | set(_EMBEDDINGS), ignored=ignored, title="JoeyNMT's encoder-decoder"
    )


def _norm_order(file: Path, weights: Mapping[str, Any], stacks: list[dict[str, Any]]) -> str:
    """Return where the norms are: before sub-layers ("pre") in whatever has norms after its stacks."""
    final = [f"{stack}.layer_norm.weight" in weights for stack in _STACKS]
    if all(final):
        return "pre"
    orders = [stacks[0].get("layer_norm", "pre"), stacks[1].get("layer_norm", "post")]
    if any(final) or orders != ["post", "post"]:
        raise ConversionError(
            f"{file}: norms are {orders[0]!r} in the encoder and {orders[1]!r} in the decoder (version 2 does so where "
            "config.yaml has no layer_norm), or follow one stack only; a model of this package has one order for both."
        )
    return "post"


def _side(data: Mapping[str, Any], side: str) -> dict[str, Any]:
    """Return the settings of a side: a table of its own in version 2, those of all data in version 1."""
    own = data.get(side)
    return own if isinstance(own, dict) else dict(data)


def _vocabulary(
    folder: Path, data: Mapping[str, Any], side: str, given: str | Path | None, special: Mapping[str, str]
) -> tuple[list[str], Path]:
    """Return the symbols of a side in order of their ids, and the file."""
    named = _side(data, side).get("voc_file") or data.get(f"{side}_vocab")
    candidates = [Path(given)] if given else [folder / f"{side}_vocab.txt", folder / "vocab.txt"]
    candidates += [folder / Path(str(named)).name] if named and not given else []
    path = next((one for one in candidates if one.is_file()), candidates[0])
    if not path.is_file():
        option = "--source-vocabulary" if side == "src" else "--target-vocabulary"
        raise ConversionError(f"{path}: there is no such vocabulary: put it beside the checkpoint, or give {option}.")
    table = data.get("special_symbols")
    tags = [str(tag) for tag in (table.get("lang_tags") or [])] if isinstance(table, dict) else []
    separator = [str(table["sep_token"])] if isinstance(table, dict) and table.get("sep_token") else []
    return list(dict.fromkeys([*special.values(), *separator, *tags, *read_lines(path)])), path


def _codes(folder: Path, data: Mapping[str, Any], side: str) -> Path | None:
    """Return the codes that config.yaml names, where they are beside the checkpoint or at their path."""
    table = _side(data, side).get("tokenizer_cfg")
    named = table.get("codes") if isinstance(table, dict) else None
    if named is None:
        return None
    return next((path for path in (folder / Path(str(named)).name, Path(str(named))) if path.is_file()), None)


def _add_tokenizer(converted: Converted, sides: list[Any], data: Mapping[str, Any], special: Mapping[str, str]) -> None:
    settings = [_side(data, side) for side in ("src", "trg")]
    tables = [one["tokenizer_cfg"] if isinstance(one.get("tokenizer_cfg"), dict) else {} for one in settings]
    if any(table.get("model_file") for table in tables) or any(one.get("level") == "char" for one in settings):
        converted.notes.append(
            "No tokenizer is written: texts were split into characters, or by SentencePiece, which this format does "
            "not convert. Give the model ids of its vocabularies."
        )
        return
    converted.tokenizer = tokenizer_of(sides, SpecialSymbols(**special))
    if sides[0][1] is None:
        converted.notes.append(NO_CODES)
    else:
        converted.notes.append("Units that the vocabulary lacks are <unk>; version 2 of JoeyNMT divides them further.")
    if any(one.get("lowercase") for one in settings):
        converted.notes.append("Texts have to be in lower case: the tokenizer does not change letters.")
    if any(table.get("pretokenizer", "none") != "none" for table in tables):
        converted.notes.append("Texts have to be tokenised with Moses before, and detokenised after.")


__all__ = ["key_map", "read", "recognises"]
