"""Parallel text from files or the Hub as a data set, and its tokenised form.

`load_parallel` -> a `datasets.Dataset` of checked pairs -> `tokenize_parallel` -> `TokenizedPairs`, flat arrays
from which the batches are cut
"""

import logging
import os
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from training.readers import (
    READERS,
    ROWS_PER_CHUNK,
    Chunk,
    DataError,
    Paths,
    arrow_column,
    iterate_parallel,
    nested_columns,
    without_empty,
)

logger = logging.getLogger(__name__)

TOKENIZE_CHUNK = 4096


def load_parallel(
    source: Paths,
    target: Paths | None = None,
    *,
    source_field: str | int = "source",
    target_field: str | int = "target",
    split: str = "train",
    name: str | None = None,
    empty: str = "error",
) -> datasets.Dataset:
    """Read pairs into a data set with the columns `source`, `target`, `line` (from 1) and `file` (a class label).

    Args:
        source: text file(s); or `.jsonl`, `.tsv`, `.parquet` file(s) with both sides; or the name of a data set.
        target: text file(s) whose lines translate those of `source`; None for the other formats.
        source_field, target_field: field or column; for TSV without a header the column's number from 0. An object
            `translation`, as data sets of the Hub have it, is looked into.
        split, name: split and configuration of a data set of the Hub.
        empty: what a pair with a blank side is, `"error"` or `"drop"` (counted and logged).

    Raises:
        DataError: see the class.
    """
    if target is None and is_dataset_name(source):
        return _load_hub(os.fspath(source), source_field, target_field, split, name, empty)
    files: dict[str, int] = {}
    tables = []
    for chunk in iterate_parallel(source, target, source_field, target_field, empty):
        index = files.setdefault(chunk.file, len(files))
        columns = {
            "source": _strings(chunk.source, chunk),
            "target": _strings(chunk.target, chunk),
            "line": pa.array(chunk.lines, pa.int64()),
            "file": pa.array(np.full(len(chunk.lines), index), pa.int64()),
        }
        tables.append(pa.table(columns))
    if not tables:
        raise DataError(f"{source!r} holds no pair with text on both sides: nothing is left to work on.")
    info = datasets.DatasetInfo(features=_features(list(files)))
    return datasets.Dataset(pa.concat_tables(tables), info=info)


def is_dataset_name(source: Paths) -> bool:
    if not isinstance(source, (str, os.PathLike)):
        return False
    path = os.fspath(source)
    looks_like_file = path.lower().endswith(tuple(READERS)) or path.startswith((".", "/", "~")) or path.count("/") > 1
    return bool(path) and (os.path.isdir(path) or not (os.path.exists(path) or looks_like_file))


def _load_hub(
    path: str, source_field: Any, target_field: Any, split: str, name: str | None, empty: str
) -> datasets.Dataset:
    """A data set by name (or a local folder of one): stays in its memory map, only two columns are looked at."""
    try:
        dataset = datasets.load_dataset(path, name, split=split)
    except Exception as error:  # load_dataset raises a dozen kinds, all of which end here for the user
        raise DataError(
            f"{path!r} is no file here, and no data set that loads with name={name!r}, split={split!r}: {error}"
        ) from error
    origin = f"{path} ({split})"
    places = nested_columns(dataset.data.schema, (source_field, target_field), origin)
    if any(len(place) == 2 for place in places):
        dataset = dataset.flatten()
    dataset = dataset.select_columns([".".join(place) for place in places])
    dataset = dataset.rename_columns(dict(zip(dataset.column_names, ("source", "target"), strict=True)))
    keep = []
    for chunk in without_empty(_arrow_chunks(dataset, origin), empty):
        keep.append(chunk.lines)
    lines = np.concatenate(keep) if keep else np.zeros(0, dtype=np.int64)
    if not len(lines):
        raise DataError(f"{origin} holds no pair with text on both sides.")
    if len(lines) < len(dataset):
        dataset = dataset.select(lines - 1)
    dataset = dataset.add_column("line", pa.array(lines, pa.int64()))
    dataset = dataset.add_column("file", pa.array(np.zeros(len(lines)), pa.int64()))
    return dataset.cast(_features([origin]))


def _arrow_chunks(dataset: datasets.Dataset, origin: str) -> Iterator[Chunk]:
    first = 1
    for batch in dataset.with_format("arrow").iter(ROWS_PER_CHUNK):
        source, target = (arrow_column(batch, (side,), origin, first) for side in ("source", "target"))
        yield Chunk(origin, np.arange(first, first + len(source)), source, target)
        first += len(source)


def _strings(values: list[str], chunk: Chunk) -> pa.Array:
    try:
        return pa.array(values, pa.string())
    except UnicodeEncodeError:
        for line, value in zip(chunk.lines, values, strict=True):
            if not value.isascii() and any("\ud800" <= character <= "\udfff" for character in value):
                raise DataError(
                    f"{chunk.file}, line {line}: half of a surrogate pair, which is not text. Mend the \\u escape."
                ) from None
        raise


def _features(files: list[str]) -> datasets.Features:
    return datasets.Features(
        source=datasets.Value("string"),
        target=datasets.Value("string"),
        line=datasets.Value("int64"),
        file=datasets.ClassLabel(names=files),
    )


@dataclass
class TokenizedPairs:
    """Token ids of N pairs as flat arrays: pair i is `ids[offsets[i]:offsets[i + 1]]` on each side, `</s>` included.

    `lines[i]` and `file_names[file_index[i]]` say where the pair came from; `dropped` and `truncated` count what the
    length limits did.
    """

    source_flat: np.ndarray  # int32 [all source tokens]
    source_offsets: np.ndarray  # int64 [N + 1]
    target_flat: np.ndarray
    target_offsets: np.ndarray
    lines: np.ndarray  # int64 [N]
    file_index: np.ndarray  # int32 [N]
    file_names: list[str]
    dropped: int = 0
    truncated: int = 0

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def source_lengths(self) -> np.ndarray:
        return np.diff(self.source_offsets)

    @property
    def target_lengths(self) -> np.ndarray:
        return np.diff(self.target_offsets)

    def source_ids(self, index: int) -> np.ndarray:
        return self.source_flat[self.source_offsets[index] : self.source_offsets[index + 1]]

    def target_ids(self, index: int) -> np.ndarray:
        return self.target_flat[self.target_offsets[index] : self.target_offsets[index + 1]]

    def where(self, index: int) -> str:
        """The place of a pair for a message: `train.en line 17`."""
        return f"{self.file_names[self.file_index[index]]} line {self.lines[index]}"


def tokenize_parallel(
    dataset: datasets.Dataset,
    tokenizer: Any,
    max_source_length: int | None = None,
    max_target_length: int | None = None,
    too_long: str = "drop",
    disable_progress: bool = False,
) -> TokenizedPairs:
    """Token ids of all pairs of `load_parallel`'s data set, with any tokenizer of transformers.

    Args:
        max_source_length, max_target_length: limits in tokens, `</s>` counted; None for no limit.
        too_long: a pair beyond a limit is dropped (counted and logged), is an error, or is cut so that its last token,
            `</s>`, stays (`"truncate"`).

    Raises:
        DataError: a pair too long under `"error"` (file, line, both lengths), or no pair left.
    """
    if too_long not in ("drop", "error", "truncate"):
        raise DataError(f"too_long={too_long!r}: choose 'drop', 'error' or 'truncate'.")
    limits = [np.iinfo(np.int64).max if limit is None else limit for limit in (max_source_length, max_target_length)]
    if min(limits) < 2:
        raise DataError("A length limit is below 2, the length of the shortest sentence with `</s>`. Raise it.")
    limit_text = f"the limits of {max_source_length} source and {max_target_length} target tokens"
    names = dataset.features["file"].names if "file" in dataset.column_names else ["the data set"]
    parts: list[tuple[np.ndarray, ...]] = []
    dropped = truncated = first = 0
    bar = tqdm(total=len(dataset), desc="Tokenising", unit="pair", unit_scale=True, disable=disable_progress)
    with bar:
        for batch in dataset.with_format(None).iter(TOKENIZE_CHUNK):
            count = len(batch["source"])
            places = np.asarray(batch.get("line", range(first + 1, first + count + 1)), dtype=np.int64)
            files = np.asarray(batch.get("file", [0] * count), dtype=np.int32)
            source = _flat_ids(tokenizer(batch["source"], return_attention_mask=False, verbose=False))
            target = _flat_ids(tokenizer(text_target=batch["target"], return_attention_mask=False, verbose=False))
            over = (source[1] > limits[0]) | (target[1] > limits[1])
            if over.any() and too_long == "error":
                i = int(over.argmax())
                raise DataError(
                    f"{names[files[i]]} line {places[i]}: {source[1][i]} source and {target[1][i]} target tokens are "
                    f"over {limit_text}. Shorten the line, raise the limits, or set too_long to 'drop' or 'truncate'."
                )
            if too_long == "truncate":
                truncated += int(over.sum())
                source, target = _truncate(*source, limits[0]), _truncate(*target, limits[1])
            elif over.any():
                dropped += int(over.sum())
                source, target = _keep(*source, ~over), _keep(*target, ~over)
                places, files = places[~over], files[~over]
            parts.append((*source, *target, places, files))
            first += count
            bar.update(count)
    if not sum(len(part[4]) for part in parts):
        raise DataError(
            f"All {len(dataset)} pairs are over the limits of {limits} tokens: nothing is left. Raise them."
        )
    if dropped or truncated:
        done = "Dropped" if dropped else "Truncated"
        logger.warning("%s %d of %d pairs over %s.", done, dropped or truncated, len(dataset), limit_text)
    return _join(parts, names, dropped, truncated)


def _flat_ids(encoding: Any) -> tuple[np.ndarray, np.ndarray]:
    """All ids in one array, and the length of each sentence."""
    ids = encoding["input_ids"]
    lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
    return np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(lengths.sum())), lengths


def _keep(flat: np.ndarray, lengths: np.ndarray, wanted: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    return flat[np.repeat(wanted, lengths)], lengths[wanted]


def _truncate(flat: np.ndarray, lengths: np.ndarray, limit: int) -> tuple[np.ndarray, np.ndarray]:
    ends = np.cumsum(lengths)
    from_front = np.arange(len(flat)) - np.repeat(ends - lengths, lengths)
    last = np.zeros(len(flat), dtype=bool)
    last[ends - 1] = True
    return flat[(from_front < limit - 1) | last], np.minimum(lengths, limit)


def _join(parts: list[tuple[np.ndarray, ...]], names: list[str], dropped: int, truncated: int) -> TokenizedPairs:
    source, source_lengths, target, target_lengths, lines, files = map(np.concatenate, zip(*parts, strict=True))
    offsets = [np.concatenate(([0], np.cumsum(lengths))) for lengths in (source_lengths, target_lengths)]
    return TokenizedPairs(source, offsets[0], target, offsets[1], lines, files, list(names), dropped, truncated)
