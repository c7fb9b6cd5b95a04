"""Readers of parallel text: files of all formats to checked chunks of pairs, of any size.

two text files | one file with both sides -> `iterate_parallel` -> Chunk, Chunk, ...
"""

import logging
from collections.abc import Iterator
from typing import Any

import numpy as np

from vaswani_tx.training.data.hub import hub_records
from vaswani_tx.training.data.lines import check_file, line_chunks
from vaswani_tx.training.data.readers import (
    Chunk,
    Paths,
    Wanted,
    as_list,
    has_fields,
    read_records,
    text_columns,
    text_formats,
)
from vaswani_tx.training.errors import DataError

logger = logging.getLogger(__name__)

NAMED_IN_ERRORS = 5
# What happens to a pair with a blank side. Test sets keep it: their lines count.
EMPTY = ("keep", "error", "drop")


def iterate_parallel(
    source: Paths,
    target: Paths | None = None,
    source_field: str | int = "source",
    target_field: str | int = "target",
    empty: str = "error",
) -> Iterator[Chunk]:
    """Yield chunks of pairs from files of any size, in order; arguments and errors are those of `load_parallel`."""
    if empty not in EMPTY:
        raise DataError(f"empty={empty!r}: choose {', '.join(map(repr, EMPTY[:-1]))} or {EMPTY[-1]!r}.")
    return without_empty(read_pairs(source, target, source_field, target_field), empty)


def read_pairs(
    source: Paths, target: Paths | None = None, source_field: str | int = "source", target_field: str | int = "target"
) -> Iterator[Chunk]:
    """Yield chunks of pairs as they are in the files, blank sides included."""
    sources, targets = as_list(source), as_list(target)
    check_files(sources, targets)
    if targets:
        for pair in zip(sources, targets, strict=True):
            yield from _read_aligned(*pair)
    else:
        wanted = Wanted((source_field, target_field))
        for path in sources:
            for lines, (texts, translations) in text_columns(read_records(path, wanted), wanted):
                yield Chunk(path, lines, texts, translations)


def check_files(sources: list[str], targets: list[str]) -> None:
    """Raise DataError where files are missing, or where their formats and numbers do not go together."""
    if not sources:
        raise DataError("No file was given as `source`.")
    if targets and len(sources) != len(targets):
        raise DataError(f"{len(sources)} source files but {len(targets)} target files: give as many of each.")
    for path in sources + targets:
        check_file(path)
    for path in sources + targets:
        if targets and has_fields(path):
            raise DataError(f"{path}: such a file holds both sides. Give it as `source`, without `target`.")
        if not targets and not has_fields(path):
            raise DataError(
                f"{path}: a text file holds one side only. Give the file with its translations as `target`, or one "
                f"file with both sides ({', '.join(text_formats())})."
            )


def hub_pairs(dataset: Any, origin: str, source_field: str | int, target_field: str | int) -> Iterator[Chunk]:
    """Yield the pairs of an opened data set, streamed or not."""
    wanted = Wanted((source_field, target_field))
    for lines, (texts, translations) in text_columns(hub_records(dataset, origin, wanted), wanted):
        yield Chunk(origin, lines, texts, translations)


def _read_aligned(source: str, target: str) -> Iterator[Chunk]:
    remedy = "remove the line on both sides"
    left, right = line_chunks(source, remedy), line_chunks(target, remedy)
    a: list[str] = []
    b: list[str] = []
    done = 0
    while True:
        a, b = a or next(left, []), b or next(right, [])
        count = min(len(a), len(b))
        if not count:
            break
        yield Chunk(source, np.arange(done + 1, done + count + 1), a[:count], b[:count], target)
        a, b, done = a[count:], b[count:], done + count
    if a or b:
        counts = (done + len(a) + sum(map(len, left)), done + len(b) + sum(map(len, right)))
        raise DataError(
            f"{source} has {counts[0]} lines but {target} has {counts[1]}: line n of one must translate line n of the "
            "other. Find the first line that does not, and fix it there."
        )
    if not done:
        raise DataError(f"{source} and {target} are empty files; give files with text.")


def without_empty(chunks: Iterator[Chunk], empty: str, counts: Any = None, at_once: bool = False) -> Iterator[Chunk]:
    """Drop pairs with a blank side, raise DataError once all of them are counted, or keep them, as `empty` says.

    Args:
        counts: an object with `read`, `empty` and `empty_places` that takes the numbers and places of what is dropped,
            to be reported by the caller; otherwise they are logged at the end.
        at_once: raise at the first chunk with such a pair, as a stream without an end must.
    """
    if empty == "keep":
        yield from chunks
        return
    count, total, named = 0, 0, []
    for chunk in chunks:
        blank = [
            i
            for i, (a, b) in enumerate(zip(chunk.source, chunk.target, strict=True))
            if not a or not b or a.isspace() or b.isspace()
        ]
        count, total = count + len(blank), total + len(chunk.lines)
        for i in blank[: NAMED_IN_ERRORS - len(named)]:
            named.append(_blank_places(chunk, i))
        if blank and empty == "error" and at_once:
            break
        if blank and empty == "drop":
            if counts is not None:
                counts.read, counts.empty = counts.read + len(blank), counts.empty + len(blank)
                new = blank[: NAMED_IN_ERRORS - len(counts.empty_places)]
                counts.empty_places += [_blank_places(chunk, i) for i in new]
            chunk = _without(chunk, blank)
        if len(chunk.lines) and (empty == "drop" or not count):
            yield chunk
    if not count:
        return
    places = "; ".join(named) + (f"; and {count - len(named)} more" if count > len(named) else "")
    if empty == "error":
        raise DataError(
            f"{count} of {'the first ' * at_once}{total} pairs have an empty side: {places}. Fix them, or let them be "
            "dropped (`empty_lines: drop` in a recipe, `--empty drop` for `vaswani-tx train tokenizer`)."
        )
    if counts is None:
        logger.warning("Dropped %d of %d pairs with an empty side: %s", count, total, places)


def _without(chunk: Chunk, gone: list[int]) -> Chunk:
    keep = np.delete(np.arange(len(chunk.lines)), gone)
    source, target = ([side[i] for i in keep] for side in (chunk.source, chunk.target))
    return chunk._replace(lines=chunk.lines[keep], source=source, target=target)


def _blank_places(chunk: Chunk, index: int) -> str:
    """Return the file and line of each blank side of a pair, and the side where one file holds both."""
    blank = [side for side in ("source", "target") if not getattr(chunk, side)[index].strip()]
    line = chunk.lines[index]
    if chunk.target_file is None:
        return f"{chunk.file} line {line} ({' and '.join(blank)})"
    files = {"source": chunk.file, "target": chunk.target_file}
    return " and ".join(f"{files[side]} line {line}" for side in blank)
