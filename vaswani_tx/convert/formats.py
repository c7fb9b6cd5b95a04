"""The formats that can be converted: one file of this package each, imported when it is needed.

Imports neither torch nor transformers, so that the command line can list the formats.
"""

import importlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Format:
    """A format of checkpoints.

    Args:
        name: what `--format` is given.
        title: what the format is, in a few words.
        files: by what it is recognised, for the message about a source that is none of them.
        module: file of this package, with `recognises(path) -> bool` and `read(path, **options) -> Converted`.
    """

    name: str
    title: str
    files: str
    module: str

    def recognises(self, path: Path) -> bool:
        """Return whether a folder or file is of this format."""
        return bool(self._module().recognises(path))

    def read(self, path: Path, **options: Any) -> Any:
        """Read a folder or file; `options` are those of `convert` that concern formats, such as `map`."""
        return self._module().read(path, **options)

    def _module(self) -> Any:
        return importlib.import_module(f"vaswani_tx.convert.{self.module}")


# In the order in which they are tried.
FORMATS: dict[str, Format] = {
    one.name: one
    for one in (
        Format("marian-hf", "MarianMT of transformers, OPUS-MT", "config.json with model_type marian", "marian_hf"),
    )
}


__all__ = ["FORMATS", "Format"]
