"""Checkpoints that are whole or absent: written under a temporary name, forced to disk, then renamed.

A checkpoint is a folder `step-00001000` that `from_pretrained` loads (weights, configuration, tokenizer), with a
sub-folder `training_state/` for resuming: `state.json` (position, scores, clock), `rng.json` (random states of every
process), `optimizer.safetensors`, `ema.safetensors` where weights are averaged, and `files.json` (sizes, by which a
truncated file shows). Nothing is pickled.
"""

import errno
import json
import os
import random
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

_TEMPORARY, _REPLACED = ".tmp-", ".old-"
_STEP = re.compile(r"step-(\d{8,})$")
STATE = "training_state"


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read; the message names the file and the mend."""


@contextmanager
def atomic_folder(target: Path, replace: bool = False) -> Iterator[Path]:
    """Yields a temporary folder beside `target` that becomes `target` when the block ends well, and vanishes otherwise.

    With `replace` an existing target is exchanged for the new one. Raises CheckpointError when the disk is full or the
    place cannot be written; whatever stood there before is untouched.
    """
    target = Path(target)
    temporary = target.parent / f"{_TEMPORARY}{target.name}"
    try:
        if target.exists() and not replace:
            raise CheckpointError(f"'{target}' exists already and is not overwritten.")
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir()
        yield temporary
        _force_to_disk(temporary)
        _put_in_place(temporary, target)
    except BaseException as error:
        shutil.rmtree(temporary, ignore_errors=True)
        if _is_disk_error(error):
            raise CheckpointError(_disk_message(target, error)) from error
        raise


def atomic_text(target: Path, text: str) -> None:
    """Writes a small text file that is whole or absent; raises CheckpointError when the disk is full."""
    target = Path(target)
    temporary = target.parent / f"{_TEMPORARY}{target.name}"
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(target)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise CheckpointError(_disk_message(target, error)) from error


def clean_leftovers(parent: Path) -> list[str]:
    """Removes what a killed process left half-written in `parent`, puts back what it was about to replace."""
    removed = []
    for path in sorted(Path(parent).glob(".*")):
        if path.name.startswith(_REPLACED) and not (path.parent / path.name.removeprefix(_REPLACED)).exists():
            path.rename(path.parent / path.name.removeprefix(_REPLACED))
        elif path.name.startswith((_TEMPORARY, _REPLACED)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            removed.append(path.name)
    return removed


def step_folder(checkpoints: Path, step: int) -> Path:
    """Where the checkpoint of `step` stands."""
    return Path(checkpoints) / f"step-{step:08d}"


def list_checkpoints(checkpoints: Path) -> list[Path]:
    """The whole checkpoints in a folder, oldest step first."""
    found = [
        (int(match.group(1)), path) for path in Path(checkpoints).glob("step-*") if (match := _STEP.match(path.name))
    ]
    return [path for _, path in sorted(found)]


def latest_checkpoint(checkpoints: Path) -> Path | None:
    """The checkpoint of the highest step, or None."""
    return next(reversed(list_checkpoints(checkpoints)), None)


def prune(checkpoints: Path, keep: int) -> None:
    """Deletes all but the `keep` newest checkpoints."""
    for path in list_checkpoints(checkpoints)[:-keep]:
        remove_folder(path)


def remove_folder(path: Path) -> None:
    """Deletes a folder; renamed first, so that no kill leaves half of it under its name."""
    doomed = path.with_name(_TEMPORARY + path.name)
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)


def write_checkpoint(
    target: Path,
    write_model: Callable[[Path], None],
    state: dict[str, Any],
    optimizer: dict[str, torch.Tensor],
    rng: list[dict[str, Any]],
    average: dict[str, torch.Tensor] | None = None,
) -> Path:
    """Writes one resumable checkpoint folder atomically; an existing one of the same step is replaced.

    Args:
        write_model: writes the loadable part (weights, configuration, tokenizer) into the folder that it is given.
        state: what JSON can hold of the run's position.
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
    """The position of a checkpoint, after a check that every one of its files is there in full."""
    folder = Path(folder)
    check_folder(folder, STATE)
    sizes = _read_json(folder / STATE / "files.json", folder)
    for name, size in sizes.items():
        path = folder / name
        if not path.is_file():
            raise CheckpointError(f"The checkpoint '{folder}' lacks '{name}'. {_mend(folder)}")
        if path.stat().st_size != size:
            raise CheckpointError(
                f"'{path}' is damaged: {path.stat().st_size} bytes instead of {size}. {_mend(folder)}"
            )
    return _read_json(folder / STATE / "state.json", folder)


def read_rng(folder: Path) -> list[dict[str, Any]]:
    """The random states of all processes."""
    return _read_json(Path(folder) / STATE / "rng.json", Path(folder))


def read_optimizer(folder: Path) -> dict[str, torch.Tensor]:
    """The optimiser's tensors under their flat names."""
    return read_tensors(Path(folder) / STATE / "optimizer.safetensors")


def read_average(folder: Path) -> dict[str, torch.Tensor]:
    """The moving average of the weights; raises CheckpointError where the run had none."""
    path = Path(folder) / STATE / "ema.safetensors"
    if not path.exists():
        raise CheckpointError(f"'{folder}' was written without ema_decay: go on without it, or start with --init-from.")
    return read_tensors(path)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """All tensors of a safetensors file; raises CheckpointError naming the file where it is missing or truncated."""
    try:
        with safe_open(path, framework="pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise CheckpointError(f"There is no '{path}'.") from None
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"'{path}' is damaged ({error}). {_mend(Path(path).parent)}") from error


def check_folder(folder: Path, inner: str = "") -> None:
    """Raises CheckpointError where there is no such folder, or not of the asked kind."""
    if not folder.is_dir():
        raise CheckpointError(f"There is no checkpoint folder '{folder}'.")
    if inner and not (folder / inner).is_dir():
        raise CheckpointError(
            f"'{folder}' holds no {inner}/ and so cannot be resumed. To start from its weights: --init-from."
        )
    if not inner and not (folder / "config.json").is_file():
        raise CheckpointError(f"'{folder}' is not a model folder: it has no config.json.")


def load_pretrained(model_class: type, folder: str | os.PathLike, **options: Any) -> torch.nn.Module:
    """`model_class.from_pretrained` on a local folder with damage reported by file name and mend."""
    folder = Path(folder)
    check_folder(folder)
    weights = sorted(folder.glob("*.safetensors"))
    if not weights:
        raise CheckpointError(f"'{folder}' has no weights: model.safetensors is missing. {_mend(folder)}")
    for path in weights:
        try:
            with safe_open(path, framework="pt"):
                pass
        except (SafetensorError, OSError) as error:
            raise CheckpointError(f"'{path}' is damaged ({error}). {_mend(folder)}") from error
    return model_class.from_pretrained(folder, **options)


def optimizer_tensors(state: dict[str, Any]) -> dict[str, torch.Tensor]:
    """`{"parameter": {"exp_avg": tensor, ...}}` as flat names, `parameter/exp_avg`, for safetensors."""
    return {
        f"{name}/{slot}": torch.as_tensor(value).detach().cpu().contiguous()
        for name, slots in state.items()
        for slot, value in slots.items()
    }


def nested_optimizer_state(tensors: dict[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    """The inverse of `optimizer_tensors`."""
    nested: dict[str, dict[str, torch.Tensor]] = {}
    for key, value in tensors.items():
        name, _, slot = key.rpartition("/")
        nested.setdefault(name, {})[slot] = value
    return nested


def rng_state(device: torch.device) -> dict[str, Any]:
    """The random states of this process (torch, its device, numpy, python) as plain numbers."""
    kind, keys, position, has_gauss, gauss = np.random.get_state()  # noqa: NPY002 (the global state is what others may draw from)
    version, numbers, gauss_next = random.getstate()
    state = {
        "torch": torch.get_rng_state().tolist(),
        "numpy": [kind, keys.tolist(), position, has_gauss, gauss],
        "python": [version, list(numbers), gauss_next],
    }
    if device.type == "cuda":
        state["cuda"] = torch.cuda.get_rng_state(device).tolist()
    return state


def restore_rng(state: dict[str, Any], device: torch.device) -> None:
    """Sets the random states that `rng_state` gave."""
    torch.set_rng_state(torch.tensor(state["torch"], dtype=torch.uint8))
    kind, keys, position, has_gauss, gauss = state["numpy"]
    np.random.set_state((kind, np.array(keys, dtype=np.uint32), position, has_gauss, gauss))  # noqa: NPY002
    version, numbers, gauss_next = state["python"]
    random.setstate((version, tuple(numbers), gauss_next))
    if device.type == "cuda" and "cuda" in state:
        torch.cuda.set_rng_state(torch.tensor(state["cuda"], dtype=torch.uint8), device)


def _read_json(path: Path, folder: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise CheckpointError(
            f"The checkpoint '{folder}' lacks '{path.relative_to(folder)}'. {_mend(folder)}"
        ) from None
    except (OSError, ValueError) as error:
        raise CheckpointError(f"'{path}' is damaged ({error}). {_mend(folder)}") from error


def _mend(folder: Path) -> str:
    folder = folder.parent if folder.name == STATE else folder
    others = [path for path in list_checkpoints(folder.parent) if path.name != folder.name]
    if others:
        return f"Delete '{folder}' to go on from '{others[-1].name}'."
    return f"Copy '{folder}' again from where it is whole, or train anew with --overwrite."


def _put_in_place(temporary: Path, target: Path) -> None:
    if target.exists():
        old = target.parent / f"{_REPLACED}{target.name}"
        shutil.rmtree(old, ignore_errors=True)
        target.rename(old)
        temporary.rename(target)
        _force_entry(target.parent)
        shutil.rmtree(old)
    else:
        temporary.rename(target)
        _force_entry(target.parent)


def _force_to_disk(folder: Path) -> None:
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())
        else:
            _force_entry(path)
    _force_entry(folder)


def _force_entry(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _is_disk_error(error: BaseException) -> bool:
    # safetensors reports an operating system's error as text only.
    return isinstance(error, OSError) or (isinstance(error, SafetensorError) and "os error" in str(error))


def _disk_message(target: Path, error: BaseException) -> str:
    full = getattr(error, "errno", None) in (errno.ENOSPC, errno.EDQUOT) or "No space left" in str(error)
    reason = "the disk is full" if full else str(error)
    mend = "Free some space" if full else "Mend that"
    return f"'{target}' could not be written: {reason}. Nothing half-written is left behind. {mend}, then run again."
