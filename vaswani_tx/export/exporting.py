"""The registry of formats, and the steps of an export that all of them share: load, check, write, verify."""

import importlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM

import vaswani_tx
from vaswani_tx.errors import ExportError
from vaswani_tx.export.folders import (
    NOTE,
    SENTENCES,
    Report,
    check_target,
    kind_of,
    sizes_of,
    weights_hash,
    whole_folder,
    write_json,
)
from vaswani_tx.export.readme import readme
from vaswani_tx.loading import check_vocabulary, load_model, load_tokenizer, read_config
from vaswani_tx.suggestions import did_you_mean


@dataclass(frozen=True)
class Format:
    """One format of export.

    Args:
        name: on the command line.
        title: what it is, in a few words.
        module: of this package; its `check(config)` refuses what cannot be exported, `write(model, tokenizer, folder,
            **options)` writes and returns notes, `verify(model, tokenizer, folder, sentences)` compares.
        kinds: kinds of models that it can hold.
        options: what else its `write` takes.
        quantizations: values of `quantization`, the default first.
    """

    name: str
    title: str
    module: str
    kinds: tuple[str, ...]
    options: tuple[str, ...] = ()
    quantizations: tuple[str, ...] = ("float32",)

    def load(self) -> Any:
        """Import the module of the format."""
        return importlib.import_module(self.module)


_ALL = ("encoder-decoder", "decoder", "encoder")
FORMATS = {
    one.name: one
    for one in (
        Format(
            "ctranslate2",
            "CTranslate2: Translator, Generator or Encoder",
            "vaswani_tx.export.ctranslate2",
            _ALL,
            ("positions",),
            (
                "float32", "int8", "int8_float32", "int8_float16", "int8_bfloat16", "int16", "float16", "bfloat16",
            ),
        ),
        Format(
            "onnx",
            "ONNX files for onnxruntime, optimum and transformers.js",
            "vaswani_tx.export.onnx",
            _ALL,
            ("opset",),
            ("float32", "int8"),
        ),
        Format("torch", "programs of torch.export", "vaswani_tx.export.program", _ALL),
        Format("marian", "MarianMTModel of transformers", "vaswani_tx.export.marian", ("encoder-decoder",)),
    )
}  # fmt: skip


def export(
    model: str | Path,
    out: str | Path,
    format: str,
    *,
    tokenizer: str | Path | None = None,
    quantization: str | None = None,
    verify: bool | Sequence[str] = False,
    overwrite: bool = False,
    **options: Any,
) -> Report:
    """Write a model folder in another format.

    Args:
        model: folder of a model of this package, or its name on the Hub.
        out: folder to write.
        format: a key of `FORMATS`.
        tokenizer: folder of the tokenizer; None: the model's.
        quantization: of the weights, where the format has any.
        verify: compare the export with the model: on these sentences, or with True on built-in ones.
        overwrite: replace `out`, which must be empty or an earlier export.
        options: of the format: `positions` (rows of the table of sinusoids), `opset`.

    Raises:
        ExportError: the format cannot hold the model, an option is not the format's, or `out` cannot be written.
        CheckpointError: the model cannot be loaded.
    """
    chosen = find_format(format)
    given = {name: value for name, value in options.items() if value is not None}
    if unknown := sorted(set(given) - set(chosen.options)):
        raise ExportError(f"{chosen.name} has no option {' and '.join(unknown)}{_known(chosen)}.")
    if quantization is not None and quantization not in chosen.quantizations:
        raise ExportError(
            f"{chosen.name} has no quantization {quantization!r}: it has {', '.join(chosen.quantizations)}."
        )
    check_target(Path(out), overwrite)
    config = read_config(model)
    kind = kind_of(config)
    if kind not in chosen.kinds:
        raise ExportError(f"{chosen.name} holds models of the kind {' or '.join(chosen.kinds)}; '{model}' is: {kind}.")
    writer = chosen.load()
    writer.check(config)
    loaded, words = load(model, tokenizer)
    with whole_folder(out, overwrite) as folder:
        if len(chosen.quantizations) > 1:
            given["quantization"] = quantization or chosen.quantizations[0]
        notes = writer.write(loaded, words, folder, **given)
        note = {
            "format": chosen.name,
            "kind": kind,
            "tokenizer_class": type(words).__name__,
            "vaswani_tx": vaswani_tx.__version__,
            "weights": weights_hash(Path(model)) if Path(model).is_dir() else str(model),
            "config": {**loaded.config.to_dict(), "architectures": [type(loaded).__name__]},
            **given,
            **getattr(writer, "note", lambda *_: {})(loaded, given),
        }
        write_json(folder / NOTE, note)
        (folder / "README.md").write_text(
            readme(chosen, kind, loaded, notes, given.get("quantization", "float32")), encoding="utf-8"
        )
        report = Report(Path(out), chosen.name, notes=notes)
        if verify:
            sentences = list(SENTENCES if verify is True else verify)
            report.comparisons = writer.verify(loaded, words, folder, sentences)
        report.files = sizes_of(folder)
    return report


def find_format(name: str) -> Format:
    """Return a format by its name; raise ExportError, naming the nearest, where there is none."""
    if name not in FORMATS:
        hint = did_you_mean(name, FORMATS) or f": there are {', '.join(FORMATS)}"
        raise ExportError(f"there is no format {name!r}{hint}.")
    return FORMATS[name]


def _known(chosen: Format) -> str:
    return f": it has {', '.join(chosen.options)}" if chosen.options else ""


def load(model: str | Path, tokenizer: str | Path | None = None) -> tuple[Any, Any]:
    """Return a model of this package in float32 and evaluation mode, and its tokenizer.

    Raises:
        CheckpointError: it cannot be loaded, or the two do not fit together.
        ExportError: another model.
    """
    config = read_config(model)
    kind = kind_of(config)
    words = load_tokenizer(tokenizer or model)
    loading_class: Any = {"encoder-decoder": AutoModelForSeq2SeqLM, "decoder": AutoModelForCausalLM}.get(kind)
    if loading_class is None:
        named = (config.architectures or ["VaswaniEncoderModel"])[0]
        loading_class = getattr(vaswani_tx, named, AutoModel)
    loaded = load_model(loading_class, model, dtype=torch.float32, attn_implementation="sdpa")
    check_vocabulary(loaded, words, str(model))
    return loaded.eval(), words
