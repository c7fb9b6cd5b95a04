"""Parallel text from files or the Hub as a data set, and its tokenised form.

load_parallel -> a `datasets.Dataset` of checked pairs -> tokenize_parallel
chunks of text of any size -> PairTokenizer -> Part, Part, ... -> join_parts
                                                  -> TokenizedPairs, flat arrays from which the batches are cut
"""

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import chain
from typing import Any, NamedTuple

import datasets
import numpy as np
import pyarrow as pa
from tqdm.auto import tqdm

from vaswani_tx.token_texts_vaswani import source_of, target_of
from vaswani_tx.training.data.filters import FilterCounts, PairFilter, SeenPairs
from vaswani_tx.training.data.hub import is_dataset_name, open_hub
from vaswani_tx.training.data.pairs import hub_pairs, iterate_parallel, without_empty
from vaswani_tx.training.data.readers import Chunk, Paths, Wanted, nested_columns
from vaswani_tx.training.errors import DataError

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
        source: text file(s); or `.jsonl`, `.json`, `.csv`, `.tsv`, `.parquet` file(s) with both sides; or the name of
            a data set. Files may be compressed (`train.jsonl.gz`).
        target: text file(s) whose lines translate those of `source`; None for the other formats.
        source_field, target_field: field or column; for TSV and CSV without a header the column's number from 0. It
            may be in an object `translation`, as in data sets of the Hub.
        split, name: split and configuration of a data set of the Hub.
        empty: what happens to a pair with a blank side: `"error"`, `"drop"` (counted and logged), or `"keep"`, as for
            test sets. A null is a blank side.

    Raises:
        DataError: data that cannot be read or used; the message names the file, the line or field.
    """
    if target is None and is_dataset_name(source):
        return _load_hub(os.fspath(source), source_field, target_field, split, name, empty)
    return _in_memory(iterate_parallel(source, target, source_field, target_field, empty), repr(source))


def _in_memory(chunks: Iterable[Chunk], name: str) -> datasets.Dataset:
    files: dict[str, int] = {}
    tables = []
    for chunk in chunks:
        index = files.setdefault(chunk.file, len(files))
        columns = {
            "source": pa.array(chunk.source, pa.string()),
            "target": pa.array(chunk.target, pa.string()),
            "line": pa.array(chunk.lines, pa.int64()),
            "file": pa.array(np.full(len(chunk.lines), index), pa.int64()),
        }
        tables.append(pa.table(columns))
    if not tables:
        raise DataError(f"{name} holds no pair with text on both sides: nothing is left to work on.")
    info = datasets.DatasetInfo(features=_features(list(files)))
    return datasets.Dataset(pa.concat_tables(tables), info=info)


def _load_hub(
    path: str, source_field: Any, target_field: Any, split: str, name: str | None, empty: str
) -> datasets.Dataset:
    """Load a data set by name, or a local folder of one, in its memory map: only two columns are read."""
    dataset = open_hub(path, split, name)
    origin = f"{path} ({split})"
    places = nested_columns(dataset.data.schema, Wanted((source_field, target_field)), origin)
    if any(len(place) == 2 for place in places):
        dataset = dataset.flatten()
    dataset = dataset.select_columns([".".join(place) for place in places])
    dataset = dataset.rename_columns(dict(zip(dataset.column_names, ("source", "target"), strict=True)))
    if empty == "keep":
        return _in_memory(hub_pairs(dataset, origin, "source", "target"), origin)
    keep = [chunk.lines for chunk in without_empty(hub_pairs(dataset, origin, "source", "target"), empty)]
    lines = np.concatenate(keep) if keep else np.zeros(0, dtype=np.int64)
    if not len(lines):
        raise DataError(f"{origin} holds no pair with text on both sides.")
    if len(lines) < len(dataset):
        dataset = dataset.select(lines - 1)
    dataset = dataset.add_column("line", pa.array(lines, pa.int64()))
    dataset = dataset.add_column("file", pa.array(np.zeros(len(lines)), pa.int64()))
    return dataset.cast(_features([origin]))


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

    `lines[i]` and `file_names[file_index[i]]` are where the pair came from. The pairs of corpus c are those from
    `bounds[c]` to before `bounds[c + 1]`; `counts` is what the filters did. `source_starts` and `target_starts` say of
    each token whether it begins a word, where that is asked for. The arrays may be memory maps.
    """

    source_flat: np.ndarray  # int32 [all source tokens]
    source_offsets: np.ndarray  # int64 [N + 1]
    target_flat: np.ndarray
    target_offsets: np.ndarray
    lines: np.ndarray  # int64 [N]
    file_index: np.ndarray  # int32 [N]
    file_names: list[str]
    counts: FilterCounts = field(default_factory=FilterCounts)
    bounds: tuple[int, ...] = ()
    source_starts: np.ndarray | None = None  # bool, of source_flat
    target_starts: np.ndarray | None = None

    def __post_init__(self):
        self.bounds = tuple(self.bounds) or (0, len(self.lines))

    def __len__(self) -> int:
        return len(self.lines)

    @property
    def dropped(self) -> int:
        return self.counts.dropped

    @property
    def truncated(self) -> int:
        return self.counts.truncated

    @cached_property
    def source_lengths(self) -> np.ndarray:
        return np.diff(self.source_offsets)

    @cached_property
    def target_lengths(self) -> np.ndarray:
        return np.diff(self.target_offsets)

    def source_ids(self, index: int) -> np.ndarray:
        return self.source_flat[self.source_offsets[index] : self.source_offsets[index + 1]]

    def target_ids(self, index: int) -> np.ndarray:
        return self.target_flat[self.target_offsets[index] : self.target_offsets[index + 1]]

    def locate(self, index: int) -> str:
        """Return the place of a pair for a message: `train.en line 17`."""
        return f"{self.file_names[self.file_index[index]]} line {self.lines[index]}"


def tokenize_parallel(
    dataset: datasets.Dataset,
    tokenizer: Any,
    max_source_length: int | None = None,
    max_target_length: int | None = None,
    too_long: str = "drop",
    disable_progress: bool = False,
    **filters: Any,
) -> TokenizedPairs:
    """Return the token ids of all pairs of `load_parallel`'s data set, with any tokenizer of transformers.

    Args:
        max_source_length, max_target_length: limits in tokens, `</s>` counted; None for no limit.
        too_long: a pair beyond a limit is dropped (counted and logged), is an error, or is cut and keeps its last
            token, `</s>` (`"truncate"`).
        filters: further fields of `vaswani_tx.training.data.filters.PairFilter`.

    Raises:
        DataError: a pair too long under `"error"` (file, line, both lengths), or no pair left.
    """
    rules = PairFilter(max_source_length, max_target_length, too_long, **filters)
    names = dataset.features["file"].names if "file" in dataset.column_names else ["the data set"]
    encode = PairTokenizer(tokenizer, rules, names)
    parts, first = [], 0
    bar = tqdm(total=len(dataset), desc="Tokenising", unit="pair", unit_scale=True, disable=disable_progress)
    with bar:
        for batch in dataset.with_format(None).iter(TOKENIZE_CHUNK):
            count = len(batch["source"])
            lines = np.asarray(batch.get("line", range(first + 1, first + count + 1)), dtype=np.int64)
            files = np.asarray(batch.get("file", [0] * count), dtype=np.int32)
            parts.append(encode(batch["source"], batch["target"], lines, files))
            first += count
            bar.update(count)
    pairs = join_parts(parts, names, encode.counts)
    if not len(pairs):
        raise rules.nothing_left(encode.counts)
    if pairs.dropped or pairs.truncated:
        rules.report(encode.counts)
    return pairs


class Part(NamedTuple):
    """Some tokenised pairs: all ids of each side in one array, the lengths that split them, and where they are from."""

    source_flat: np.ndarray  # int32
    source_lengths: np.ndarray  # int64 [n]
    target_flat: np.ndarray
    target_lengths: np.ndarray
    lines: np.ndarray  # int64 [n]
    files: np.ndarray  # int32 [n]
    source_starts: np.ndarray | None = None  # bool, as those of TokenizedPairs
    target_starts: np.ndarray | None = None


class PairTokenizer:
    """A filter and tokeniser of pairs, chunk after chunk; `counts` adds up what was read, dropped and kept.

    Args:
        names: the files that pairs may come from; a part refers to them by number.
        words: note which tokens begin a word.
    """

    def __init__(
        self, tokenizer: Any, rules: PairFilter, names: Sequence[str], counts: FilterCounts | None = None,
        words: bool = False,
    ):  # fmt: skip
        self.tokenizer, self.rules, self.names, self.words = tokenizer, rules, list(names), words
        self.counts = counts or FilterCounts()
        self._seen = SeenPairs() if rules.drop_duplicates else None
        sides = (source_of(tokenizer), target_of(tokenizer))
        self._special = tuple(side.num_special_tokens_to_add() for side in sides)

    def parts(self, chunks: Iterable[Chunk], progress: bool = False) -> Iterator[Part]:
        """Yield the pairs of `chunks` in parts of at most TOKENIZE_CHUNK; `progress` shows a bar on a terminal."""
        bar = tqdm(desc="Tokenising", unit="pair", unit_scale=True, disable=None if progress else True)
        with bar:
            for chunk in chunks:
                index, tag = self.names.index(chunk.file), {"tag": chunk.tag} if chunk.tag else {}
                for start in range(0, len(chunk.lines), TOKENIZE_CHUNK):
                    piece = slice(start, start + TOKENIZE_CHUNK)
                    lines = np.asarray(chunk.lines[piece], dtype=np.int64)
                    files = np.full(len(lines), index, dtype=np.int32)
                    yield self(chunk.source[piece], chunk.target[piece], lines, files, **tag)
                    bar.update(len(lines))

    def __call__(
        self, source: list[str], target: list[str], lines: np.ndarray, files: np.ndarray, tag: str = ""
    ) -> Part:
        """Return one part; raise DataError for a pair too long under `too_long: error` (file, line, both lengths).

        `tag`: tags that are put in front of each source, separated by spaces; filters on text do not see them.
        """
        rules, counts = self.rules, self.counts
        counts.read += len(source)
        keep = rules.by_text(source, target, self._seen, counts, tag)
        if not keep.all():
            source, target = (
                [text for text, kept in zip(side, keep, strict=True) if kept] for side in (source, target)
            )
            lines, files = lines[keep], files[keep]
        left = self._encode(source, text=[f"{tag} {text}" for text in source] if tag else source)
        right = self._encode(target, text_target=target)
        keep, over = rules.by_length(
            left.lengths, right.lengths, (self._special[0] + len(tag.split()), self._special[1]), counts
        )
        if over.any() and rules.too_long == "error":
            i = int(over.argmax())
            raise DataError(
                f"{self.names[files[i]]} line {lines[i]}: {left.lengths[i]} source and {right.lengths[i]} target "
                f"tokens are over the limits of {rules.max_source_length} source and {rules.max_target_length} target "
                "tokens. Shorten the line, raise the limits, or set too_long to 'drop' or 'truncate'."
            )
        if over.any():
            left, right = (side.truncated(limit) for side, limit in zip((left, right), rules.limits, strict=True))
        if not keep.all():
            left, right, lines, files = left.kept(keep), right.kept(keep), lines[keep], files[keep]
        counts.kept += len(lines)
        return Part(
            left.flat, left.lengths, right.flat, right.lengths, lines, files, left.starts, right.starts
        )  # fmt: skip

    def _encode(self, texts: list[str], **arguments: Any) -> "_Encoded":
        found = self.tokenizer(**arguments, return_attention_mask=False, verbose=False) if texts else None
        ids = found["input_ids"] if texts else []
        lengths = np.fromiter(map(len, ids), dtype=np.int64, count=len(ids))
        flat = np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(lengths.sum()))
        if not self.words:
            return _Encoded(flat, lengths)
        # Control tokens are of no word (-1): each is one by itself.
        words = (-1 if word is None else word for row in (found.encodings if texts else ()) for word in row.word_ids)
        own = np.fromiter(words, dtype=np.int64, count=len(flat))
        starts = (own < 0) | (own != np.concatenate(([-1], own[:-1]))[: len(own)])
        starts[(np.cumsum(lengths) - lengths)[lengths > 0]] = True
        return _Encoded(flat, lengths, starts)


class _Encoded(NamedTuple):
    """The ids of some sentences in one array, the length of each sentence, and which ids begin a word."""

    flat: np.ndarray
    lengths: np.ndarray
    starts: np.ndarray | None = None

    def kept(self, wanted: np.ndarray) -> "_Encoded":
        """Return those of some sentences."""
        return self._of(np.repeat(wanted, self.lengths), self.lengths[wanted])

    def truncated(self, limit: int) -> "_Encoded":
        """Return the sentences cut to so many tokens, the last one kept."""
        ends = np.cumsum(self.lengths)
        from_front = np.arange(len(self.flat)) - np.repeat(ends - self.lengths, self.lengths)
        last = np.zeros(len(self.flat), dtype=bool)
        last[ends - 1] = True
        return self._of((from_front < limit - 1) | last, np.minimum(self.lengths, limit))

    def _of(self, chosen: np.ndarray, lengths: np.ndarray) -> "_Encoded":
        return _Encoded(self.flat[chosen], lengths, None if self.starts is None else self.starts[chosen])


def join_parts(
    parts: Sequence[Part], names: Sequence[str], counts: FilterCounts, bounds: tuple[int, ...] = ()
) -> TokenizedPairs:
    """Join all parts; with no part, or none that holds a pair, a `TokenizedPairs` of length 0."""
    if not parts:
        dtypes = (np.int32, np.int64, np.int32, np.int64, np.int64, np.int32, bool, bool)
        parts = [Part(*(np.zeros(0, dtype=dtype) for dtype in dtypes))]
    columns = (None if column[0] is None else np.concatenate(column) for column in zip(*parts, strict=True))
    source, source_lengths, target, target_lengths, lines, files, *starts = columns
    offsets = [np.concatenate(([0], np.cumsum(lengths))) for lengths in (source_lengths, target_lengths)]
    return TokenizedPairs(
        source, offsets[0], target, offsets[1], lines, files, list(names), counts, bounds, *starts
    )  # fmt: skip
