"""Checkpoints that are whole or absent: written under a temporary name, forced to disk, then renamed.

A checkpoint is a folder `step-00001000` that `from_pretrained` loads (weights, configuration, tokenizer), with a
sub-folder `training_state/` for resuming: `state.json` (progress, scores, clock), `rng.json` (random states of every
process), `optimizer.safetensors`, `ema.safetensors` where weights are averaged, and `files.json` (sizes, which
reveal a truncated file). Nothing is pickled.
"""

import json
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file

from vaswani_tx.training.errors import CheckpointError
from vaswani_tx.training.files import atomic_folder, remove_folder
from vaswani_tx.training.models.loading import STATE, check_folder, list_checkpoints, read_tensors, repair_hint


def step_folder(checkpoints: Path, step: int) -> Path:
    """Return the folder of the checkpoint of `step`."""
    return Path(checkpoints) / f"step-{step:08d}"


def latest_checkpoint(checkpoints: Path) -> Path | None:
    """Return the checkpoint of the highest step, or None."""
    return next(reversed(list_checkpoints(checkpoints)), None)


def prune(checkpoints: Path, keep: int) -> None:
    """Delete all but the `keep` newest checkpoints."""
    for path in list_checkpoints(checkpoints)[:-keep]:
        remove_folder(path)


def write_checkpoint(
    target: Path,
    write_model: Callable[[Path], None],
    state: dict[str, Any],
    optimizer: dict[str, torch.Tensor],
    rng: list[dict[str, Any]],
    average: dict[str, torch.Tensor] | None = None,
) -> Path:
    """Write one resumable checkpoint folder atomically; an existing one of the same step is replaced.

    Args:
        write_model: writes the loadable part (weights, configuration, tokenizer) into the folder that it is given.
        state: the run's training state, as JSON holds it.
        optimizer: flat names to tensors (see `optimizer_tensors`).
        rng: one entry of `rng_state` for each process.
        average: the moving average of the weights, where there is one.
    """
    with atomic_folder(target, replace=True) as folder:
        write_model(folder)
        inner = folder / STATE
        inner.mkdir()
        save_file(optimizer, inner / "optimizer.safetensors")
        if average is not None:
            save_file(average, inner / "ema.safetensors")
        (inner / "rng.json").write_text(json.dumps(rng))
        (inner / "state.json").write_text(json.dumps(state, indent=1, allow_nan=False))
        sizes = {
            str(path.relative_to(folder)): path.stat().st_size for path in sorted(folder.rglob("*")) if path.is_file()
        }
        (inner / "files.json").write_text(json.dumps(sizes, indent=1))
    return Path(target)


def read_state(folder: Path) -> dict[str, Any]:
    """Return the training state of a checkpoint, after a check that all of its files are complete."""
    folder = Path(folder)
    check_folder(folder, STATE)
    sizes = _read_json(folder / STATE / "files.json", folder)
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"The checkpoint '{folder}' lacks '{name}'. {repair_hint(folder)}")
        if path.stat().st_size != size:
            raise CheckpointError(
                f"'{path}' is damaged: {path.stat().st_size} bytes instead of {size}. {repair_hint(folder)}"
            )
    return _read_json(folder / STATE / "state.json", folder)


def read_rng(folder: Path) -> list[dict[str, Any]]:
    """Return the random states of all processes."""
    path = Path(folder) / STATE / "rng.json"
    states = _read_json(path, Path(folder), list)
    if not all(isinstance(state, dict) and {"torch", "numpy", "python"} <= state.keys() for state in states):
        raise CheckpointError(f"'{path}' is damaged (it holds no random states). {repair_hint(Path(folder))}")
    return states


def read_optimizer(folder: Path) -> dict[str, torch.Tensor]:
    """Return the optimiser's tensors under their flat names."""
    return read_tensors(Path(folder) / STATE / "optimizer.safetensors")


def read_average(folder: Path) -> dict[str, torch.Tensor]:
    """Return the moving average of the weights; raise CheckpointError where the run had none."""
    path = Path(folder) / STATE / "ema.safetensors"
    if not path.exists():
        raise CheckpointError(f"'{folder}' was written without ema_decay: leave it out, or start with --init-from.")
    return read_tensors(path)


def optimizer_tensors(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """Return `{"parameter": {"exp_avg": tensor, ...}}` under flat names, `parameter/exp_avg`, for safetensors."""
    return {
        f"{name}/{slot}": torch.as_tensor(value).detach().cpu().contiguous()
        for name, slots in state.items()
        for slot, value in slots.items()
    }


def nested_optimizer_state(tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """Return what `optimizer_tensors` was given: its inverse."""
    nested: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        name, _, slot = key.rpartition("/")
        nested.setdefault(name, {})[slot] = value
    return nested


def rng_state(device: torch.device) -> dict[str, Any]:
    """Return the random states of this process (torch, its device, numpy, python) as plain numbers."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002 (the global state is what others may draw from)
    name, keys, position, has_gauss, gauss = numpy_state
    version, numbers, gauss_next = random.getstate()
    state = {
        "torch": torch.get_rng_state().tolist(),
        "numpy": [name, keys.tolist(), position, has_gauss, gauss],
        "python": [version, list(numbers), gauss_next],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device).tolist()
    return state


def restore_rng(state: dict[str, Any], device: torch.device) -> None:
    """Set the random states that `rng_state` returned."""
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    name, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((name, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, numbers, gauss_next = state["python"]
    random.setstate((version, tuple(numbers), gauss_next))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(torch.tensor(state["cuda"], dtype=torch.uint8), device)


def _read_json(path: Path, folder: Path, kind: type = dict) -> Any:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(values, kind):
            raise ValueError(f"it holds a {type(values).__name__}, no {kind.__name__}")
        return values
    except FileNotFoundError:
        raise CheckpointError(
            f"The checkpoint '{folder}' lacks '{path.relative_to(folder)}'. {repair_hint(folder)}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"'{path}' is damaged ({error}). {repair_hint(folder)}") from error
