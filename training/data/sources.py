"""A base of corpora of pairs and of documents: how their files and data sets are named, found and opened."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

from vaswani_tx.training.data.hub import is_dataset_name
from vaswani_tx.training.data.readers import Paths, as_list
from vaswani_tx.training.files import resolve_path


class CorpusSource:
    """The files or the data set of one corpus; a base of dataclasses with a field `split`."""

    split: str

    @property
    def paths(self) -> list[str]:
        """Return the files, or the one name of a data set."""
        raise NotImplementedError

    @property
    def from_hub(self) -> bool:
        """Return whether it is a data set of the Hub, or of a local folder."""
        raise NotImplementedError

    @property
    def files(self) -> list[str]:
        """Return the names that its chunks have."""
        return [f"{self.paths[0]} ({self.split})"] if self.from_hub else self.paths

    @property
    def name(self) -> str:
        """Return its name for messages: its first file."""
        files = self.files
        return files[0] + (f" and {len(files) - 1} more" if len(files) > 1 else "") if files else "a corpus"


def file_names(corpora: Iterable[CorpusSource]) -> list[str]:
    """Return the files of all corpora, each once; a pair's place refers to them by number."""
    return list(dict.fromkeys(name for corpus in corpora for name in corpus.files))


def corpus_entries(entries: Iterable[dict[str, Any]], defaults: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the entries of a recipe's `corpora`, what they leave out filled in."""
    for entry in entries:
        yield defaults | {name: value for name, value in entry.items() if value is not None}


def placed(data_dir: str | None, paths: Paths, hub: bool = True, text_files: bool = False) -> Paths:
    """Return files as the recipe names them, from `data_dir` where that is set.

    Args:
        hub: a name may be that of a data set, which does not change unless such a file exists.
        text_files: as `is_dataset_name`'s.
    """
    if isinstance(paths, (list, tuple)):
        return tuple(placed(data_dir, path, hub, text_files) for path in paths)
    path = as_list(paths)[0]
    joined = resolve_path(data_dir, path)
    return path if hub and not os.path.exists(joined) and is_dataset_name(path, text_files) else joined
