"""Weights and settings of other toolkits, read without running anything that a file may hold.

safetensors, and `torch.load(weights_only=True)` with an allow-list of plain types. Anything else is refused.
"""

import pickle
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from vaswani_tx.convert.core import ConversionError
from vaswani_tx.failures import shorten
from vaswani_tx.loading import read_object

_FILES = ("model.safetensors", "pytorch_model.bin")


def has_weights(folder: Path) -> bool:
    """Return whether a folder of transformers has weights that `read_weights` reads."""
    return any((folder / name).is_file() or (folder / f"{name}.index.json").is_file() for name in _FILES)


def read_weights(folder: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a folder of transformers, in one file or several.

    Raises:
        ConversionError: there are none, or they are damaged or would run code.
    """
    for name in _FILES:
        if (folder / name).is_file():
            return read_file(folder / name)
        if (index := folder / f"{name}.index.json").is_file():
            shards = read_object(index).get("weight_map")
            if not isinstance(shards, dict) or not all(isinstance(file, str) for file in shards.values()):
                raise ConversionError(f"'{index}' names no files of weights: copy the folder again.")
            state: dict[str, torch.Tensor] = {}
            for file in sorted({Path(file).name for file in shards.values()}):
                state |= read_file(folder / file)
            if lost := sorted(set(shards) - set(state)):
                raise ConversionError(f"'{index}' names weights that no file has, first {lost[0]!r}: copy it again.")
            return state
    raise ConversionError(f"'{folder}' has no weights: {' or '.join(_FILES)} is missing.")


def read_file(path: Path) -> dict[str, torch.Tensor]:
    """Return the weights of a .safetensors file or of one that torch wrote, which holds a state dict and no more."""
    if path.suffix == ".safetensors":
        try:
            return load_file(path)
        except (SafetensorError, OSError) as error:
            raise ConversionError(f"'{path}' is damaged or missing ({shorten(error, 200)}): copy it again.") from None
    state = load_torch(path)
    if not isinstance(state, dict) or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise ConversionError(f"'{path}' holds no weights by name: it is no state dict.")
    return dict(state)


def load_torch(path: Path, allowed: Sequence[Any] = ()) -> Any:
    """Return what torch saved, tensors and plain values only.

    Args:
        path: the file.
        allowed: further classes that may be in it, plain data without code of their own (`argparse.Namespace`).

    Raises:
        ConversionError: the file is missing or damaged, or would run code.
    """
    try:
        with torch.serialization.safe_globals(list(allowed)):
            return torch.load(path, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise ConversionError(f"there is no '{path}'.") from None
    except pickle.UnpicklingError as error:
        # torch's advice in front of the reason, to load without the protection, is left out.
        found = re.search(r"(?:WeightsUnpickler error: *|Trying to load |^)((?!Weights only).+)", str(error))
        reason = (
            found[1].partition(" Please")[0].partition(" Check the documentation")[0] if found else "no plain pickle"
        )
        raise ConversionError(
            f"'{path}' is refused: it holds more than tensors and plain values, which could run code "
            f"({shorten(reason, 200)}). Load it where you trust it, and save its state_dict() alone."
        ) from None
    except (RuntimeError, OSError, EOFError, ValueError, KeyError, AttributeError) as error:
        raise ConversionError(f"'{path}' is damaged, or not saved by torch ({shorten(error, 200)}).") from None


__all__ = ["has_weights", "load_torch", "read_file", "read_weights"]
