"""Load a model for an engine: an exported folder, or a model's through the cache."""

import importlib
from pathlib import Path
from typing import Any

from vaswani_tx.engines.base import EngineModel
from vaswani_tx.engines.cache import exported
from vaswani_tx.errors import DeviceError, ExportError
from vaswani_tx.export.folders import read_note
from vaswani_tx.loading import check_vocabulary, load_tokenizer
from vaswani_tx.suggestions import did_you_mean
from vaswani_tx.tokenization_vaswani import VaswaniTokenizer

# Name -> module and class.
ENGINES = {
    "ctranslate2": ("vaswani_tx.engines.ctranslate2_model", "CTranslate2Model"),
    "onnx": ("vaswani_tx.engines.onnx_model", "OnnxModel"),
}


def load_engine(
    model: str | Path,
    engine: str,
    tokenizer: str | Path | None = None,
    *,
    quantization: str | None = None,
    threads: int | None = None,
    device: str | None = None,
) -> tuple[EngineModel, Any]:
    """Return a model that an engine computes, and its tokenizer.

    Args:
        model: a folder that was exported for the engine; or a model's folder or name on the Hub, exported once into a
            cache.
        engine: "ctranslate2" or "onnx".
        tokenizer: folder of the tokenizer; None: the model's.
        quantization: of a model that is not exported yet.
        threads: of the CPU; None: torch's number.
        device: what a user asked to compute on; engines compute on the CPU.

    Raises:
        ExportError: there is no such engine, its package is missing, or it cannot hold the model.
        DeviceError: another device than the CPU is asked for.
        CheckpointError: the model cannot be loaded.
    """
    if engine not in ENGINES:
        hint = did_you_mean(engine, ENGINES) or f": there are {', '.join(ENGINES)}"
        raise ExportError(f"there is no engine {engine!r}{hint}.")
    if device not in (None, "cpu"):
        raise DeviceError(f"--engine {engine} computes on the CPU here: leave --device {device} out.")
    note = read_note(model)
    if note is None:
        folder = exported(model, engine, tokenizer, quantization)
    else:
        folder = Path(model)
        if quantization not in (None, note.get("quantization")):
            raise ExportError(
                f"'{model}' is exported already, with the quantization {note.get('quantization')}: leave it out here."
            )
    module, name = ENGINES[engine]
    loaded = getattr(importlib.import_module(module), name)(folder, threads=threads)
    if tokenizer is None and loaded.note.get("tokenizer_class") == VaswaniTokenizer.__name__:
        words = load_tokenizer(folder, tokenizer_class=VaswaniTokenizer)  # also where the folder names a plain class
    else:
        words = load_tokenizer(tokenizer or folder)
    check_vocabulary(loaded, words, str(model))
    return loaded.eval(), words
