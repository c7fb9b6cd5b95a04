"""Files of `torch.save` that other toolkits wrote, read without running any code of theirs.

`torch.load(weights_only=True)` builds tensors and plain containers alone. Checkpoints also hold settings as an
`argparse.Namespace`, which is plain too, and instances of a toolkit's own classes (vocabularies, fields). Names that a
format lists are read as `Record`s, which only keep what the file says of them; nothing is imported, nothing of the
toolkit is called. Any other name is refused.
"""

import argparse
import pickle
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vaswani_tx.errors import CheckpointError

# Modules whose numbers and containers say nothing of the model: states of random generators, meters, paths.
_OF_NO_USE = ("numpy.", "pathlib.", "enum.", "functools.", "collections.defaultdict", "datetime.")
_UNKNOWN_NAME = re.compile(r"(?:GLOBAL|class|function) ([\w.]+) was not an allowed global")
_MOST_NAMES = 100


@dataclass(frozen=True)
class TextFiles:
    """The files of a translation model's texts, where a user names others than those beside its checkpoint or in it.

    Args:
        source_vocabulary: the tokens of the source, a line each, in order of their ids.
        target_vocabulary: those of the target.
        codes: the merges of the byte pairs, as subword-nmt or fastBPE writes them.
        target_codes: those of the target, if it has others.
    """

    source_vocabulary: str | Path | None = None
    target_vocabulary: str | Path | None = None
    codes: str | Path | None = None
    target_codes: str | Path | None = None


def find_checkpoint(path: Path, name: str, preferred: Sequence[str]) -> Path | None:
    """Return the checkpoint that a path is, or that a folder has; None where there is none.

    Args:
        path: a file or a folder.
        name: regular expression of a file's name.
        preferred: those of files in a folder, the best first; of several files the one with the largest number in the
            expression's group.
    """
    if not path.is_dir():
        return path if path.is_file() and re.fullmatch(name, path.name) else None
    files = sorted(file for file in path.iterdir() if file.is_file())
    for pattern in preferred:
        if found := [(match, file) for file in files if (match := re.fullmatch(pattern, file.name))]:
            return max(found, key=lambda each: [int(number) for number in each[0].groups()])[1]
    return None


class Record:
    """An instance of a class that is not there: the arguments and the state that the file has for it."""

    def __init__(self, *arguments: Any):
        self.arguments = arguments

    def __new__(cls, *arguments: Any):
        """Return a record without a state."""
        record = super().__new__(cls)
        record.arguments = arguments
        return record

    def __setstate__(self, state: Any):
        if isinstance(state, dict):
            self.__dict__.update(state)
        else:
            self.state = state


def load_plain(path: str | Path, records: Sequence[str] = (), save_again: str = "") -> Any:
    """Return the content of a file of `torch.save`, tensors on the CPU.

    Args:
        path: the file, of the present format or of the one before PyTorch 1.6.
        records: beginnings of names of classes and functions that are read as `Record`.
        save_again: how to write the file again so that it can be read; appended to the error.

    Raises:
        CheckpointError: a damaged file, or one that holds classes beyond those that may be read.
    """
    allowed: list[Any] = [argparse.Namespace]
    known: set[str] = set()
    for _ in range(_MOST_NAMES):
        try:
            with torch.serialization.safe_globals(allowed):
                return torch.load(path, map_location="cpu", weights_only=True)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror or error}).") from None
        except pickle.UnpicklingError as error:
            name = _refused(str(error))
            if name is None or name in known or not name.startswith((*records, *_OF_NO_USE)):
                raise CheckpointError(_reason(path, name, str(error), save_again)) from None
            known.add(name)
            allowed.append((type("Record", (Record,), {}), name))
        except (RuntimeError, EOFError, ValueError, KeyError, AttributeError, TypeError, IndexError) as error:
            first = str(error).strip().split("\n")[0]
            raise CheckpointError(f"{path}: is damaged, or no file of torch.save ({first}); copy it again.") from None
    raise CheckpointError(f"{path}: holds more than {_MOST_NAMES} foreign classes. {save_again}".rstrip())


def _refused(message: str) -> str | None:
    found = _UNKNOWN_NAME.search(message)
    return None if found is None else found[1]


def _reason(path: str | Path, name: str | None, message: str, save_again: str) -> str:
    if name is None:
        found = re.search(r"(?:WeightsUnpickler error: *|Trying to load )(.+)", message)
        detail = message.strip().split("\n")[0] if found is None else found[1].strip()
        return f"{path}: cannot be read without running code from it ({detail}). {save_again}".rstrip()
    return f"{path}: holds {name}, which is not read: files are never unpickled freely. {save_again}".rstrip()


def settings_of(value: Any) -> dict[str, Any]:
    """Return settings as a dictionary: of a Namespace, a `Record` or a mapping; nested ones too.

    OmegaConf keeps its content in nodes; those that a file holds as records are opened.
    """
    if isinstance(value, Record) and "_content" in vars(value):
        value = value.__dict__["_content"]
    if isinstance(value, argparse.Namespace):
        value = vars(value)
    if not isinstance(value, dict):
        return {}
    return {str(key): _setting(each) for key, each in value.items()}


def _setting(value: Any) -> Any:
    if isinstance(value, Record):
        inner = vars(value).get("_val", vars(value).get("_content"))
        return settings_of(inner) if isinstance(inner, dict) else inner
    return settings_of(value) if isinstance(value, (dict, argparse.Namespace)) else value


__all__ = ["Record", "TextFiles", "find_checkpoint", "load_plain", "settings_of"]
