"""Files and folders that are whole or absent: written under a temporary name, forced to disk, then renamed."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

from vaswani_tx.training.errors import CheckpointError, WriteError

_TEMPORARY, _REPLACED = ".tmp-", ".old-"


def resolve_path(data_dir: str | None, name: str | None) -> str | None:
    """Return a data file's path: relative names start from `data_dir` where that is set."""
    return os.path.join(data_dir, name) if data_dir and name else name


@contextmanager
def atomic_folder(target: Path, replace: bool = False) -> Iterator[Path]:
    """Yield a temporary folder beside `target` that becomes `target` when the block succeeds and is deleted otherwise.

    With `replace` an existing target is exchanged for the new one. Raise CheckpointError when the disk is full or the
    folder cannot be written; whatever was there before does not change.
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
            raise WriteError(_disk_message(target, error)) from error
        raise


def atomic_text(target: Path, text: str) -> None:
    """Write a small text file that is whole or absent; raise CheckpointError when the disk is full."""
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
        raise WriteError(_disk_message(target, error)) from error


def clean_leftovers(parent: Path) -> list[str]:
    """Delete what a killed process left half-written in `parent`, restore what it was replacing; return the names."""
    removed = []
    for path in sorted(Path(parent).glob(".*")):
        if path.name.startswith(_REPLACED) and not (path.parent / path.name.removeprefix(_REPLACED)).exists():
            path.rename(path.parent / path.name.removeprefix(_REPLACED))
        elif path.name.startswith((_TEMPORARY, _REPLACED)):
            shutil.rmtree(path) if path.is_dir() else path.unlink()
            removed.append(path.name)
    return removed


def remove_folder(path: Path) -> None:
    """Delete a folder; renamed first, so that no kill leaves half of it under its name."""
    doomed = path.with_name(_TEMPORARY + path.name)
    shutil.rmtree(doomed, ignore_errors=True)
    path.rename(doomed)
    shutil.rmtree(doomed)


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
    fix = "Free some space" if full else "Fix that"
    return f"'{target}' could not be written: {reason}. Nothing half-written is left behind. {fix}, then run again."
