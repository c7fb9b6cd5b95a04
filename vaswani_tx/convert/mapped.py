"""The format of a key map: any checkpoint of torch whose architecture is that of this package's models.

    weights (a state dict) -> rows of the map -> our names and shapes -> configuration, tokenizer, check

Shapes: B batch, S source length, T target length, L length of either, D d_model, V vocabulary.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from vaswani_tx.convert.channels import interleaving, permute_channels
from vaswani_tx.convert.core import ConversionError, Converted, empty_model
from vaswani_tx.convert.map_file import ModelMap, read_map
from vaswani_tx.convert.map_model import class_of, complete, make_config, share_equal_weights, stacks_of
from vaswani_tx.convert.map_original import torch_original
from vaswani_tx.convert.map_positions import Positions, read_positions
from vaswani_tx.convert.map_rows import Applied, apply_rows
from vaswani_tx.convert.map_tokens import find_beside, make_tokenizer, read_vocabulary
from vaswani_tx.convert.map_yaml import shown
from vaswani_tx.convert.weights import load_torch, read_file
from vaswani_tx.errors import CheckpointError
from vaswani_tx.suggestions import did_you_mean

_ENDINGS = (".pt", ".pth", ".bin", ".ckpt", ".safetensors", ".model", ".zip", ".tar")
_SPECIALS = ("pad", "bos", "eos")


def recognises(path: Path) -> bool:
    """Return False: what a checkpoint of torch is, only its map says."""
    return False


def read(
    path: Path,
    map: str | Path | None = None,
    original: Callable[[Mapping[str, torch.Tensor]], torch.Tensor] | None = None,
) -> Converted:
    """Read a checkpoint by a key map.

    Args:
        path: the file of weights, or the folder where the map's files are.
        map: the map's file, or the name of a ready one.
        original: computes the original's logits for a batch of `input_ids`, `attention_mask` and, of encoder-decoders,
            `decoder_input_ids`, to check the converted model by. None: maps of modules of torch bring it.

    Raises:
        ConversionError: the map is wrong, the weights are not those that it describes, or cannot be converted exactly.
    """
    if map is None:
        raise ConversionError("this format needs a key map: --map with a file or the name of a ready map.")
    model_map = read_map(map)
    _check_pooling(model_map)
    weights = read_weights(model_map, path)
    for name in weights:
        for refused in model_map.refused:
            if refused.fits(name):
                raise refused.place.error(f"the source has {name!r}: {refused.reason}")
    applied = apply_rows(weights, model_map.rows, model_map.ignored)
    folder = path if path.is_dir() else path.parent
    stacks = stacks_of(model_map)
    positions = read_positions(model_map, weights, applied, stacks)
    _check_left(model_map, applied)
    notes = share_equal_weights(model_map, applied)
    further, tokenizer, token_notes = _tokens(model_map, folder, positions.fields, applied, stacks)
    config = make_config(model_map, applied, {**positions.fields, **further})
    config.architectures = [class_of(model_map).__name__]
    converted = Converted(config, applied.state, tokenizer, _generation(model_map), [*notes, *token_notes])
    converted.model_class = class_of(model_map)
    converted.title = model_map.sections["title"].text() if "title" in model_map.sections else model_map.path.stem
    complete(model_map, applied, empty_model(converted), converted.notes)
    _check_sizes(model_map, config, tokenizer)
    converted.used, converted.ignored = set(applied.used), applied.ignored
    if config.position_embedding == "learned":
        converted.longest = config.max_position_embeddings
    _add_original(converted, model_map, weights, applied, positions, original)
    if positions.halves:
        converted.state = permute_channels(applied.state, interleaving(config.d_model))
    return converted


def _check_pooling(model_map: ModelMap) -> None:
    """Raise ConversionError unless a classifier of sequences is said to read the mean, which no weight shows."""
    if model_map.head != "sequence-classification":
        return
    if "pooling" not in model_map.sections:
        raise model_map.place("head").error(
            "say what the classifier reads: `pooling: mean` where it is the mean of the tokens that are no padding."
        )
    pooling = model_map.sections["pooling"]
    if pooling.content != "mean":
        raise pooling.error(
            f"{shown(pooling.content)} cannot be converted: our classifier reads the mean of the tokens by one linear "
            "layer."
        )


def read_weights(model_map: ModelMap, path: Path) -> dict[str, torch.Tensor]:
    """Return the source's weights, as the map's `weights` section says where they are.

    Raises:
        ConversionError: a file that is missing, would run code, or holds no weights where the map says.
    """
    section = model_map.section("weights")
    file = path
    if path.is_dir():
        file = _file_in(model_map, path)
    content = read_file(file) if file.suffix == ".safetensors" else load_torch(file)
    under = section["under"].texts() if "under" in section else []
    keys = under if len(under) != 1 or (isinstance(content, dict) and under[0] in content) else under[0].split(".")
    for key in keys:
        if not isinstance(content, dict) or key not in content:
            raise section["under"].error(f"'{file}' has no {key!r}. {_seen(content)}")
        content = content[key]
    tensors = dict(content) if isinstance(content, dict) else {}
    if not tensors or not all(isinstance(name, str) and torch.is_tensor(value) for name, value in tensors.items()):
        raise model_map.place("weights").error(
            f"'{file}' does not hold weights by name there. {_seen(content)} Say which with `weights: {{under: ...}}`."
        )
    for beginning in section["strip"].texts() if "strip" in section else []:
        tensors = {name.removeprefix(beginning): value for name, value in tensors.items()}
    return tensors


def _file_in(model_map: ModelMap, folder: Path) -> Path:
    section = model_map.section("weights")
    if "file" in section:
        return find_beside(section["file"], folder)
    found = sorted(each for each in folder.iterdir() if each.suffix in _ENDINGS and each.is_file())
    if len(found) != 1:
        names = ", ".join(each.name for each in found[:5]) or "no file of weights"
        raise model_map.place("weights").error(
            f"'{folder}' has {names}: say which with `weights: {{file: ...}}`, or name the file instead of the folder."
        )
    return found[0]


def _seen(content: Any) -> str:
    if not isinstance(content, dict):
        return f"There is a {type(content).__name__}."
    if not content:
        return "It is empty."
    inner = [
        str(key)
        for key, value in content.items()
        if isinstance(value, dict) and value and all(torch.is_tensor(each) for each in value.values())
    ]
    keys = ", ".join(str(key) for key in list(content)[:8])
    return f"It has the keys {keys}" + (f"; weights are under {' and '.join(inner)}." if inner else ".")


def _check_left(model_map: ModelMap, applied: Applied) -> None:
    if applied.left:
        names = ", ".join(applied.left[:5]) + (f" and {len(applied.left) - 5} more" if len(applied.left) > 5 else "")
        idle = "; ".join(f"line {row.place.line} of {row.place.file.name}: {row.pattern}" for row in applied.idle[:3])
        raise model_map.place("rows").error(
            f"no row is for {names}: add a row, or an entry of `ignore:` with the reason why the model does not need "
            f"it.{f' Rows that found nothing: {idle}.' if idle else ''}"
        )


def _tokens(
    model_map: ModelMap, folder: Path, fields: dict[str, Any], applied: Applied, stacks: tuple[str, ...]
) -> tuple[dict[str, Any], Any, list[str]]:
    """Return fields of the configuration about tokens and labels, the tokenizer, and notes."""
    longest = None
    if fields["position_embedding"] == "learned":
        name = f"{stacks[0]}positional_encoding.positions.weight"
        longest = applied.state[name].shape[0] if name in applied.state else None
    tokenizer, side = make_tokenizer(model_map, folder, longest)
    tokens = model_map.sections["tokens"].mapping() if "tokens" in model_map.sections else {}
    config = model_map.section("config")
    needed = () if model_map.family == "encoder" else _SPECIALS
    for name in needed:
        if name not in tokens and f"{name}_token_id" not in config:
            raise model_map.place("tokens").error(
                f"say which token is `{name}` (its text or its id; null where the model has none)."
            )
    further: dict[str, Any] = {f"{name}_token_id": side.ids.get(name) for name in _SPECIALS}
    if model_map.family == "encoder-decoder":
        further["decoder_start_token_id"] = side.ids.get("bos")
    notes = []
    if tokenizer is None:
        notes.append("There is no tokenizer: the map has no `tokenizer:`, so the model takes ids.")
    elif "attention_mask" not in getattr(tokenizer, "model_input_names", ["attention_mask"]):
        notes.append(
            "The original attends to padding: its results come with texts padded to the length that it padded them to "
            "(`padding='max_length'`), which the tokenizer then gives without a mask."
        )
    if "labels" in model_map.sections:
        labels = read_vocabulary(model_map.sections["labels"], folder)
        further |= {"id2label": {index: name for name, index in labels.items()}, "label2id": labels}
    return further, tokenizer, notes


def _check_sizes(model_map: ModelMap, config: Any, tokenizer: Any) -> None:
    if tokenizer is not None:
        sides = {"source": getattr(tokenizer, "source", tokenizer), "target": getattr(tokenizer, "target", tokenizer)}
        sizes = {"source": getattr(config, "source_vocab_size", None) or config.vocab_size, "target": config.vocab_size}
        for name, side in sides.items():
            if len(side) > sizes[name]:
                raise model_map.place("tokenizer", "vocabulary").error(
                    f"the {name}'s vocabulary has {len(side)} tokens, but the embedding has {sizes[name]} rows: it is "
                    "another model's."
                )
    labels = model_map.sections.get("labels")
    classifier = getattr(config, "id2label", None)
    if labels is not None and classifier is not None and len(read_ids := classifier) != config.num_labels:
        raise labels.error(f"has {len(read_ids)} labels, but the classifier {config.num_labels} rows.")


# Settings of generation that a map may have, with the type of their values and the least one.
_SETTINGS: dict[str, tuple[type, float]] = {
    "num_beams": (int, 1),
    "max_length": (int, 1),
    "max_new_tokens": (int, 1),
    "min_length": (int, 0),
    "min_new_tokens": (int, 0),
    "no_repeat_ngram_size": (int, 0),
    "top_k": (int, 0),
    "num_return_sequences": (int, 1),
    "length_penalty": (float, -100),
    "repetition_penalty": (float, 0),
    "temperature": (float, 0),
    "top_p": (float, 0),
    "do_sample": (bool, 0),
    "early_stopping": (bool, 0),
    "renormalize_logits": (bool, 0),
}


def _generation(model_map: ModelMap) -> dict[str, Any]:
    """Return the settings of generation; raise ConversionError for one that is unknown or has a wrong value."""
    found: dict[str, Any] = {}
    for name, value in model_map.section("generation").items():
        if name.endswith("_token_id"):
            raise value.error("ids of tokens are said in `tokens:`.")
        if name not in _SETTINGS:
            hint = did_you_mean(name, _SETTINGS) or f": there are {', '.join(_SETTINGS)}."
            raise value.error(f"there is no setting {name!r}{hint}")
        kind, least = _SETTINGS[name]
        if kind is bool:
            found[name] = value.flag()
        elif kind is int:
            found[name] = value.integer(int(least))
        else:
            found[name] = value.number()
            if not least <= found[name] < float("inf"):
                raise value.error(f"must be a number from {least:g} on, not {found[name]!r}.")
    return found


def _add_original(
    converted: Converted,
    model_map: ModelMap,
    weights: dict[str, torch.Tensor],
    applied: Applied,
    positions: Positions,
    original: Callable | None,
) -> None:
    if original is not None:
        converted.original = original
        return
    if model_map.head == "none" and model_map.family == "encoder":
        converted.unchecked = "an encoder without a head has no logits"
        return
    section = model_map.section("original")
    if "class" not in section:
        converted.unchecked = (
            "the map's architecture is no module of torch; with the original's own code, pass `original=` to "
            "vaswani_tx.convert.convert"
        )
        return
    try:
        made = torch_original(model_map, converted.config, weights, applied.state, positions)
    except (RuntimeError, ValueError, AssertionError) as error:
        if isinstance(error, CheckpointError):
            raise
        raise section["class"].error(
            f"{section['class'].content} does not take the source's weights ({str(error).strip().splitlines()[-1]}): "
            "the model is another one; leave `original` out (`original: null`) where you are sure of the map."
        ) from None
    converted.original = lambda batch: made(batch, torch.float32)
    converted.original_double = lambda batch: made(batch, torch.float64)


__all__ = ["read", "read_weights", "recognises"]
