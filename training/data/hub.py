"""Data sets of the Hub, or of a local folder, as records: the same that the readers of files give."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

import datasets

from vaswani_tx.training.data.lines import compression_of, format_of
from vaswani_tx.training.data.readers import (
    READERS,
    ROWS_PER_CHUNK,
    Paths,
    Records,
    Wanted,
    arrow_records,
)
from vaswani_tx.training.errors import DataError


def is_dataset_name(source: Paths, text_files: bool = False) -> bool:
    """Return whether a name is that of a data set, on the Hub or a folder here, rather than of a file.

    Args:
        text_files: a name with an ending of letters, such as `train.en`, is that of a text file.
    """
    if not isinstance(source, (str, os.PathLike)):
        return False
    path = os.fspath(source)
    if os.path.isdir(path):
        return True
    ending = format_of(path)
    looks_like_file = (
        ending in READERS or ending == ".txt" or compression_of(path) or (text_files and ending[1:].isalpha())
    )
    elsewhere = path.startswith((".", "/", "~")) or path.count("/") > 1
    return bool(path) and not (looks_like_file or elsewhere or os.path.exists(path))


def open_hub(path: str, split: str, name: str | None, streaming: bool = False) -> Any:
    """Open a data set by name, or a local folder of one; raise DataError where it does not load."""
    try:
        return datasets.load_dataset(path, name, split=split, streaming=streaming)
    except Exception as error:  # load_dataset raises a dozen classes, all of which mean this to the user
        raise DataError(
            f"{path!r} is no file here, and no data set that loads with name={name!r}, split={split!r}: {error}"
        ) from error


def hub_records(dataset: Any, origin: str, wanted: Wanted | None = None) -> Iterator[Records]:
    """Yield the rows of an opened data set, streamed or not, from its memory map or the network.

    Args:
        origin: what messages call the data set.
    """
    return arrow_records(_batches(dataset, origin), wanted, origin)


def _batches(dataset: Any, origin: str) -> Iterable[Any]:
    batches = dataset.with_format("arrow").iter(ROWS_PER_CHUNK)
    count = 0
    while True:
        try:
            batch = next(batches, None)
        except Exception as error:  # a stream's readers and the network raise errors of any class
            raise DataError(f"{origin} cannot be read after row {count}: {error}") from error
        if batch is None:
            return
        yield batch
        count += len(batch)
