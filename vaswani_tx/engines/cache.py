"""The cache of exported models: one folder for the weights, options and versions that determine it."""

import os
from importlib import metadata
from pathlib import Path

import vaswani_tx
from vaswani_tx.errors import ExportError
from vaswani_tx.export import export
from vaswani_tx.export.folders import NOTE, PACKAGES, need, weights_hash
from vaswani_tx.loading import check_folder


def cache_folder() -> Path:
    """Return the folder of exported models: `$VASWANI_TX_CACHE/engines`, or `~/.cache/vaswani_tx/engines`."""
    named = os.environ.get("VASWANI_TX_CACHE")
    return (Path(named) if named else Path.home() / ".cache" / "vaswani_tx") / "engines"


def exported(
    model: str | Path, format: str, tokenizer: str | Path | None = None, quantization: str | None = None
) -> Path:
    """Return the folder that a model is exported to, and export it where that was not done yet.

    Two processes may do so at once: each writes a folder of its own, and the first to finish gives it its name.

    Raises:
        ExportError: the model cannot be exported, or the cache not be written.
        CheckpointError: there is no such model.
    """
    check_folder(model)
    folder = Path(model)
    if not folder.is_dir():
        folder = _from_hub(str(model))
    need({"onnx": "onnxruntime"}.get(format, format), f"--engine {format}")
    further = [format, quantization or "", vaswani_tx.__version__, metadata.version(PACKAGES[format])]
    if tokenizer is not None:
        further.append(weights_hash(Path(tokenizer)) if Path(tokenizer).is_dir() else str(tokenizer))
    target = cache_folder() / f"{format}-{weights_hash(folder, further)}"
    if (target / NOTE).is_file():
        return target
    try:
        export(folder, target, format, tokenizer=tokenizer, quantization=quantization)
    except ExportError:
        if not (target / NOTE).is_file():  # another process was first
            raise
    return target


def _from_hub(name: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(name, allow_patterns=["*.json", "*.safetensors", "*.jinja"]))
    except Exception as error:
        raise ExportError(f"the model '{name}' could not be had from the Hub ({error}).") from None
