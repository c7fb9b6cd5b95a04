"""Models from local folders; a damaged or wrong folder is reported with the file's name and how to fix it."""

import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig

from vaswani_tx import loading
from vaswani_tx.model_size import check_memory
from vaswani_tx.training.errors import CheckpointError, SettingsError

_STEP = re.compile(r"step-(\d{8,})$")
STATE = "training_state"


def list_checkpoints(checkpoints: Path) -> list[Path]:
    """Return the complete checkpoints in a folder, oldest step first."""
    found = [
        (int(match.group(1)), path) for path in Path(checkpoints).glob("step-*") if (match := _STEP.match(path.name))
    ]
    return [path for _, path in sorted(found)]


def check_folder(folder: Path, inner: str = "") -> None:
    """Raise CheckpointError where there is no such folder, or where it lacks `inner`, by default a model."""
    if not folder.is_dir():
        raise CheckpointError(f"There is no checkpoint folder '{folder}'.")
    if inner and not (folder / inner).is_dir():
        raise CheckpointError(
            f"'{folder}' holds no {inner}/ and so cannot be resumed. To start from its weights: --init-from."
        )
    if not inner:
        loading.check_folder(folder)


def read_model_type(folder: str | os.PathLike) -> Any:
    """Return the `model_type` of a model folder; raise CheckpointError where its config.json holds none."""
    check_folder(Path(folder))
    return loading.read_object(Path(folder) / "config.json", repair_hint(Path(folder))).get("model_type")


def check_model(folder: str | os.PathLike) -> None:
    """Raise CheckpointError where a folder's configuration, weights or other files cannot be read."""
    check_folder(Path(folder))
    loading.read_config(folder)
    loading.check_files(folder, repair_hint(Path(folder)))


def load_pretrained(model_class: Any, folder: str | os.PathLike, **options: Any) -> Any:
    """Return the model of a local folder; raise CheckpointError, naming the file, where it is damaged or incomplete."""
    check_folder(Path(folder))
    return loading.load_model(model_class, folder, hint=repair_hint(Path(folder)), **options)


def load_changed(model_class: Any, folder: str | os.PathLike, **options: Any) -> tuple[Any, set[str], dict[str, Any]]:
    """Return the model of a local folder whose weights need not all fit, and the names of those that do not.

    The third is the report of transformers. Raises CheckpointError where the folder is damaged.
    """
    check_folder(Path(folder))
    model, report = loading.load_with_report(
        model_class, folder, hint=repair_hint(Path(folder)), ignore_mismatched_sizes=True, **options
    )
    return model, {*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])}, report


def training_copies(settings: Any) -> int:
    """Return how often the weights' size a training takes of this machine's memory: gradients and two moments of Adam.

    Parts that do not learn have none of these; several processes share them; a GPU has memory of its own.
    """
    shares = settings.freeze or torch.accelerator.is_available() or int(os.environ.get("WORLD_SIZE", "1")) > 1
    return 1 if shares else 4


def build_model(model_class: Any, config: PreTrainedConfig, copies: int = 1) -> Any:
    """Return a new model; raise SettingsError where this machine has no memory for so many copies of its weights."""
    try:
        check_memory(config, model_class, "the model of this recipe", torch.float32, copies)
    except ValueError as error:
        raise SettingsError(f"{error}, by `preset` and `model`.") from error
    return model_class(config)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """Return all tensors of a safetensors file; raise CheckpointError where it is missing or truncated."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise CheckpointError(f"There is no '{path}'.") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"'{path}' is damaged ({error}). {repair_hint(Path(path).parent)}") from error


def repair_hint(folder: Path) -> str:
    """Return how to fix a damaged checkpoint or model folder."""
    folder = folder.parent if folder.name == STATE else folder
    others = [path for path in list_checkpoints(folder.parent) if path.name != folder.name]
    if others:
        return f"Delete '{folder}' to resume from '{others[-1].name}'."
    return f"Copy '{folder}' again from a complete copy, or train again with --overwrite."
