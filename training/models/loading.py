"""Models from local folders; a damaged or wrong folder is reported with the file's name and how to fix it."""

import os
import re
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from vaswani_tx.training.errors import CheckpointError

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
    if not inner and not (folder / "config.json").is_file():
        raise CheckpointError(f"'{folder}' is not a model folder: it has no config.json.")


def load_pretrained(model_class: type, folder: str | os.PathLike, **options: Any) -> torch.nn.Module:
    """Return `model_class.from_pretrained` of a local folder; raise CheckpointError, naming the file, for damage."""
    folder = Path(folder)
    check_folder(folder)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise CheckpointError(f"'{folder}' has no weights: model.safetensors is missing. {repair_hint(folder)}")
    for path in weights:
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"'{path}' is damaged ({error}). {repair_hint(folder)}") from error
    return model_class.from_pretrained(folder, **options)


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
