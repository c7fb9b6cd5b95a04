"""Convert a checkpoint of another toolkit: find its format, read it, check it, write it whole or not at all."""

import json
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, GenerationConfig

from vaswani_tx.convert.checking import Check, Report, verify
from vaswani_tx.convert.core import ConversionError, Converted, complete_state, empty_model
from vaswani_tx.convert.formats import FORMATS, Format
from vaswani_tx.failures import shorten
from vaswani_tx.hub.saving import HubError, save_with_code, whole_folder
from vaswani_tx.loading import load_model, looks_like_path
from vaswani_tx.suggestions import did_you_mean

# Of a repository of the Hub: what formats read, never its Python files.
_SMALL = ("*.json", "*.spm", "*.model", "*.txt", "*.yml", "*.yaml", "*.codes", "*.jinja")
_WEIGHTS = (("*.safetensors",), ("*.bin", "*.pt", "*.npz", "*.ckpt"))


def convert(
    source: str | Path,
    out: str | Path,
    format: str | None = None,
    map: str | Path | None = None,
    verify: bool = True,
    overwrite: bool = False,
    with_code: bool = False,
    **options: Any,
) -> Report:
    """Write a checkpoint of another toolkit as a model folder of this package.

    Args:
        source: folder or file, or the name of a repository of the Hub.
        out: the folder to write, which appears when all is done and checked.
        format: a name of `FORMATS`; None: recognised from the files.
        map: a key map of the user's, for the formats that take one.
        verify: compare with the original where it can run. False writes without.
        overwrite: replace the model in `out`. Files there that are no part of a model are kept.
        with_code: add the code that `trust_remote_code=True` runs where this package is not installed.
        options: further options of the format.

    Raises:
        ConversionError: the source is unknown, damaged, or cannot be converted exactly; `out` is in use or cannot be
            written. Nothing is written then.
    """
    target = Path(out)
    check_target(source, target, overwrite)
    path = find_source(source)
    found = find_format(path, format)
    if map is not None:
        options["map"] = map
    try:
        converted = found.read(path, **options)
    except TypeError as error:
        if "unexpected keyword argument" not in str(error):
            raise
        raise ConversionError(f"the format {found.name} has no such option: {error}.") from None
    check = write(converted, target, verify=verify, with_code=with_code)
    reason = "" if check else converted.unchecked if verify else "--no-verify was given"
    return Report(
        format=f"{found.name} ({converted.title or found.title})",
        source=str(source),
        out=target,
        model=_describe(converted),
        parameters=sum(tensor.numel() for tensor in dict(empty_model(converted).named_parameters()).values()),
        used=len(converted.used),
        ignored=converted.ignored,
        check=check,
        unchecked=reason,
        notes=converted.notes,
    )


def check_target(source: str | Path, target: Path, overwrite: bool) -> None:
    """Raise ConversionError where a folder cannot be written, before the work is done."""
    if target.exists() and not target.is_dir():
        raise ConversionError(f"'{target}' is a file: name a folder for the converted model.")
    present = sorted(path.name for path in target.iterdir()) if target.is_dir() else []
    if present and not overwrite:
        shown = ", ".join(present[:4]) + (", ..." if len(present) > 4 else "")
        raise ConversionError(f"'{target}' is not empty ({shown}): name another folder, or give --overwrite.")
    given = Path(source)
    if given.exists():
        inner, outer = given.resolve(), target.resolve()
        if inner == outer or outer in inner.parents:
            raise ConversionError(f"'{target}' holds the source itself: name another folder for the converted model.")


def find_source(source: str | Path) -> Path:
    """Return a folder or file; a name that is none is looked up on the Hub, and copied without its Python files."""
    path = Path(source)
    if path.exists():
        return path
    if looks_like_path(str(source)) or not str(source):
        raise ConversionError(f"there is no folder or file '{source}'.")
    from huggingface_hub import snapshot_download

    try:
        folder = Path(snapshot_download(str(source), allow_patterns=list(_SMALL)))
        for patterns in _WEIGHTS:
            snapshot_download(str(source), allow_patterns=list(patterns))
            if any(any(folder.glob(pattern)) for pattern in patterns):
                break
    except Exception as error:
        raise ConversionError(
            f"there is no folder or file '{source}', and no repository of that name could be had from the Hub "
            f"({type(error).__name__}: {shorten(error, 200)})."
        ) from None
    return folder


def find_format(path: Path, name: str | None = None) -> Format:
    """Return the format of a source: the one of that name, or the first that recognises its files."""
    if name is not None:
        if name not in FORMATS:
            hint = did_you_mean(name, FORMATS) or f": there are {', '.join(FORMATS)}"
            raise ConversionError(f"there is no format '{name}'{hint}.")
        return FORMATS[name]
    for found in FORMATS.values():
        if found.recognises(path):
            return found
    looked = "; ".join(f"{one.name}: {one.files}" for one in FORMATS.values())
    raise ConversionError(f"'{path}' is of no format that is known{_kind(path)}. Looked for: {looked}.")


def _kind(path: Path) -> str:
    """Return what a config.json says that a model is, as a clause, or nothing."""
    try:
        kind = json.loads((path / "config.json").read_text(encoding="utf-8")).get("model_type")
    except (OSError, ValueError, AttributeError):
        return ""
    return f" (its config.json says model_type {shorten(repr(kind), 60)})"


def write(converted: Converted, out: Path, verify: bool = True, with_code: bool = False) -> Check | None:
    """Write the model, its tokenizer and settings; return what its check found, None where there was none.

    The folder is read again before it takes its name, and it is this model that is compared with the original.
    """
    state = complete_state(converted)
    try:
        with whole_folder(out) as new:
            _save(converted, state, new)
            check = _check(converted, new, verify)
            if with_code:
                save_with_code(new, new / ".code")
                for path in list((new / ".code").iterdir()):
                    path.replace(new / path.name)
                (new / ".code").rmdir()
            return check
    except HubError as error:
        raise ConversionError(str(error)) from None


def _save(converted: Converted, state: dict[str, torch.Tensor], folder: Path) -> None:
    dtypes = {tensor.dtype for tensor in state.values()}
    dtype = dtypes.pop() if len(dtypes) == 1 else torch.float32
    converted.config.dtype = dtype
    model = empty_model(converted)
    own = {name: tensor.detach().to(dtype, copy=True).contiguous() for name, tensor in state.items()}
    model.load_state_dict(own, assign=True)
    model.tie_weights()
    if model.can_generate():
        model.generation_config = GenerationConfig.from_model_config(model.config)
        model.generation_config.update(**converted.generation)
    model.save_pretrained(folder)
    if converted.tokenizer is not None:
        converted.tokenizer.save_pretrained(folder)


def _check(converted: Converted, folder: Path, wanted: bool) -> Check | None:
    """Load what was written, with its tokenizer, and compare it with the original."""
    model = load_model(converted.class_of_model(), folder)
    if converted.tokenizer is not None and (folder / "tokenizer_config.json").exists():
        AutoTokenizer.from_pretrained(folder)
    return verify(model, converted) if wanted and converted.original is not None else None


def _describe(converted: Converted) -> str:
    """Return class and sizes of a model as one line."""
    config = converted.config
    if config.model_type == "vaswani":
        layers = f"{config.encoder_layers}+{config.decoder_layers} layers"
    else:
        layers = f"{config.num_hidden_layers} layers"
    sizes = [layers, f"d_model {config.d_model}", f"d_ff {config.d_ff}", f"{config.num_heads} heads"]
    if source := getattr(config, "source_vocab_size", None):
        sizes.append(f"vocabularies of {source:,} and {config.vocab_size:,}")
    elif size := getattr(config, "vocab_size", None):
        sizes.append(f"vocabulary of {size:,}")
    return f"{converted.class_of_model().__name__}, {', '.join(sizes)}, {config.activation_function}"


__all__ = ["check_target", "convert", "find_format", "find_source", "write"]
