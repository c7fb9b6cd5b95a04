"""Readers of parallel text: files of four formats to checked chunks of pairs, at any size.

text files | JSONL | TSV | Parquet -> `iterate_parallel` -> Chunk, Chunk, ...
"""

import difflib
import json
import logging
import os
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vaswani_tx.training.errors import DataError

logger = logging.getLogger(__name__)

BLOCK_BYTES = 1 << 22
ROWS_PER_CHUNK = 1 << 16
NAMED_IN_ERRORS = 5
Paths = str | os.PathLike | Sequence[str | os.PathLike]


class Chunk(NamedTuple):
    """Some consecutive pairs of one file: `lines[i]` is where `source[i]` and `target[i]` stand in it, from 1."""

    file: str
    lines: np.ndarray
    source: list[str]
    target: list[str]
    target_file: str | None = None  # where the targets stand if not in `file`


def iterate_parallel(
    source: Paths,
    target: Paths | None = None,
    source_field: str | int = "source",
    target_field: str | int = "target",
    empty: str = "error",
) -> Iterator[Chunk]:
    """Chunks of pairs from files of any size, in order; the same arguments and errors as `load_parallel`."""
    if empty not in ("error", "drop"):
        raise DataError(f"empty={empty!r}: choose 'error' or 'drop'.")
    return without_empty(read_files(source, target, source_field, target_field), empty)


def as_list(paths: Paths | None) -> list[str]:
    if paths is None:
        return []
    return [os.fspath(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]


def suffix(path: str) -> str:
    return os.path.splitext(path)[1].lower()


def read_files(
    source: Paths, target: Paths | None = None, source_field: str | int = "source", target_field: str | int = "target"
) -> Iterator[Chunk]:
    """Chunks of pairs as they stand in the files, blank sides and all."""
    sources, targets = as_list(source), as_list(target)
    check_files(sources, targets)
    if targets:
        for pair in zip(sources, targets, strict=True):
            yield from _read_aligned(*pair)
    else:
        for path in sources:
            yield from READERS[suffix(path)](path, source_field, target_field)


def check_files(sources: list[str], targets: list[str]) -> None:
    """Raises DataError where files are missing, or where their kinds and numbers do not go together."""
    if not sources:
        raise DataError("No file was given as `source`.")
    if targets and len(sources) != len(targets):
        raise DataError(f"{len(sources)} source files but {len(targets)} target files: give as many of each.")
    for path in sources + targets:
        check_file(path)
    for path in sources + targets:
        if targets and suffix(path) in READERS:
            raise DataError(f"{path}: such a file holds both sides. Give it as `source`, without `target`.")
        if not targets and suffix(path) not in READERS:
            raise DataError(
                f"{path}: a text file holds one side only. Give the file with its translations as `target`, or one "
                f"file with both sides ({', '.join(READERS)})."
            )


def check_file(path: str) -> None:
    """Raises DataError, naming what stands beside it, where there is no such file."""
    if os.path.isfile(path):
        return
    folder, base = os.path.split(path)
    beside = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    near = difflib.get_close_matches(base, beside, n=1)
    hint = f" Did you mean {os.path.join(folder, near[0])}?" if near else ""
    raise DataError(f"{path}: there is no such file.{hint}")


def line_chunks(path: str) -> Iterator[list[str]]:
    """The lines of a UTF-8 file in lists: parted at \\n alone, without a \\r at the end or a byte order mark."""
    # Not str.splitlines: it also parts at U+2028, U+0085, form feeds and the like, which stand inside sentences.
    first, rest = 1, b""
    with open(path, "rb") as stream:
        while block := stream.read(BLOCK_BYTES):
            cut = block.rfind(b"\n") + 1
            if not cut:
                rest += block
                continue
            lines = _decode(rest + block[:cut], path, first)
            rest = block[cut:]
            yield lines
            first += len(lines)
    if rest:
        yield _decode(rest, path, first)


def _decode(block: bytes, path: str, first: int) -> list[str]:
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first + block.count(b"\n", 0, error.start)
        column = error.start - block.rfind(b"\n", 0, error.start)
        known = {b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"\x1f\x8b": "gzip", b"PK": "zip"} if first == 1 else {}
        guess = next((f"; it looks like a {kind} file" for mark, kind in known.items() if block.startswith(mark)), "")
        raise DataError(
            f"{path}, line {line}: byte {column} of the line (0x{block[error.start]:02x}) is not valid UTF-8{guess}. "
            "Convert the file, with `iconv -t UTF-8` for example, or remove the line on both sides."
        ) from None
    lines = (text[1:] if first == 1 and text.startswith("\ufeff") else text).split("\n")
    if not lines[-1]:
        lines.pop()
    return [line[:-1] if line.endswith("\r") else line for line in lines] if "\r" in text else lines


def _read_aligned(source: str, target: str) -> Iterator[Chunk]:
    left, right = line_chunks(source), line_chunks(target)
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
            "other. Find where they part, and mend that place."
        )
    if not done:
        raise DataError(f"{source} and {target} are empty files.")


def _read_jsonl(path: str, source_field: Any, target_field: Any) -> Iterator[Chunk]:
    first = 1
    for lines in line_chunks(path):
        sources, targets = [], []
        for number, line in enumerate(lines, start=first):
            if not line or line.isspace():
                row = {source_field: "", target_field: ""}
            else:
                try:
                    row = json.loads(line)
                except ValueError as error:
                    raise DataError(f"{path}, line {number}: not valid JSON ({error}). Mend the line.") from None
            sources.append(_json_field(row, source_field, path, number))
            targets.append(_json_field(row, target_field, path, number))
        _check_surrogates(sources, path, first)
        _check_surrogates(targets, path, first)
        yield Chunk(path, np.arange(first, first + len(lines)), sources, targets)
        first += len(lines)


def _check_surrogates(values: list[str], path: str, first: int) -> None:
    """JSON can spell half of a surrogate pair, which no encoding of text takes."""
    try:
        "".join(values).encode()
    except UnicodeEncodeError:
        half = next(i for i, value in enumerate(values) if any("\ud800" <= letter <= "\udfff" for letter in value))
        raise DataError(
            f"{path}, line {first + half}: half of a surrogate pair, which is not text. Mend the \\u escape."
        ) from None


def _json_field(row: Any, name: Any, path: str, number: int) -> str:
    if not isinstance(row, dict):
        raise DataError(f"{path}, line {number}: an object with two fields must stand here.")
    inner = row.get("translation")
    value = row[name] if name in row else inner.get(name, row) if isinstance(inner, dict) else row
    if value is row:
        known = [*row, *(inner if isinstance(inner, dict) else [])]
        raise DataError(f"{path}, line {number}: " + _missing("field", name, known))
    if not isinstance(value, str):
        raise DataError(f"{path}, line {number}: field {name!r} holds {json.dumps(value)[:60]} instead of a string.")
    return value


def _missing(kind: str, name: Any, known: Sequence[str]) -> str:
    near = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f" Did you mean {near[0]!r}?" if near else ""
    there = ", ".join(map(repr, known)) or "none"
    return f"no {kind} {name!r}; there is {there}.{hint} Set `source_field` and `target_field`."


def _read_tsv(path: str, source_field: Any, target_field: Any) -> Iterator[Chunk]:
    """Columns parted by tabs, no quoting; numbers as fields mean a file without a header."""
    first, columns, width = 1, None, 0
    for lines in line_chunks(path):
        rows = [line.split("\t") for line in lines]
        if columns is None:
            header = rows[0]
            width, numbered = len(header), str(source_field).isdigit() and str(target_field).isdigit()
            columns = [_tsv_column(f, header, numbered, path) for f in (source_field, target_field)]
            if not numbered:
                rows, first = rows[1:], 2
        sources, targets = [], []
        for number, row in enumerate(rows, start=first):
            if len(row) != width and any(cell and not cell.isspace() for cell in row):
                raise DataError(
                    f"{path}, line {number}: {len(row)} columns, but line 1 has {width}. Every line needs as many tabs."
                )
            blank = len(row) != width
            sources.append("" if blank else row[columns[0]])
            targets.append("" if blank else row[columns[1]])
        yield Chunk(path, np.arange(first, first + len(rows)), sources, targets)
        first += len(rows)


def _tsv_column(name: Any, header: list[str], numbered: bool, path: str) -> int:
    if not numbered:
        if name not in header:
            hint = " For a file without a header give the columns' numbers, 0 and 1."
            raise DataError(f"{path}, line 1: " + _missing("column", name, header) + hint)
        return header.index(name)
    if int(name) >= len(header):
        raise DataError(f"{path}, line 1: no column {name} (counted from 0), the line has {len(header)}.")
    return int(name)


def _read_parquet(path: str, source_field: Any, target_field: Any) -> Iterator[Chunk]:
    first = 1
    try:
        file = pq.ParquetFile(path)
        places = nested_columns(file.schema_arrow, (source_field, target_field), path)
        for batch in file.iter_batches(ROWS_PER_CHUNK, columns=sorted({place[0] for place in places})):
            source, target = (arrow_column(batch, place, path, first) for place in places)
            yield Chunk(path, np.arange(first, first + len(source)), source, target)
            first += len(source)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet, it may be truncated ({error}).") from None


def nested_columns(schema: pa.Schema, names: Sequence[Any], path: str) -> list[tuple[str, ...]]:
    """Where each name stands: ("de",) or ("translation", "de")."""
    inner: list[str] = []
    if "translation" in schema.names and pa.types.is_struct(kind := schema.field("translation").type):
        inner = [kind.field(i).name for i in range(kind.num_fields)]
    for name in names:
        if name not in schema.names and name not in inner:
            raise DataError(f"{path}: " + _missing("column", name, schema.names + inner))
    return [(name,) if name in schema.names else ("translation", name) for name in names]


def arrow_column(batch: Any, place: tuple[str, ...], path: str, first: int) -> list[str]:
    values = batch[place[0]].to_pylist()
    if len(place) == 2:
        values = [value and value[place[1]] for value in values]
    for number, value in enumerate(values, start=first):
        if not isinstance(value, str):
            raise DataError(f"{path}, row {number}: column {'.'.join(place)!r} holds {value!r} instead of a string.")
    return values


READERS: dict[str, Callable[..., Iterator[Chunk]]] = {
    ".jsonl": _read_jsonl,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
}


def without_empty(chunks: Iterator[Chunk], empty: str, counts: Any = None, at_once: bool = False) -> Iterator[Chunk]:
    """Drop pairs with a blank side, or raise once all of them are counted.

    Args:
        counts: an object with `read`, `empty` and `empty_places` that takes the numbers and places of what is dropped,
            to be reported by the caller; otherwise they are logged at the end.
        at_once: raise at the first chunk with such a pair, as a stream without an end must.
    """
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
            f"{count} of {'the first ' * at_once}{total} pairs have an empty side: {places}. Mend them, or let them be "
            "dropped (`empty_lines: drop` in a recipe, `--empty drop` for train_tokenizer)."
        )
    if counts is None:
        logger.warning("Dropped %d of %d pairs with an empty side: %s", count, total, places)


def _without(chunk: Chunk, gone: list[int]) -> Chunk:
    keep = np.delete(np.arange(len(chunk.lines)), gone)
    sides = ([side[i] for i in keep] for side in (chunk.source, chunk.target))
    return Chunk(chunk.file, chunk.lines[keep], *sides, chunk.target_file)


def _blank_places(chunk: Chunk, index: int) -> str:
    """Name the file and line of each blank side of a pair, and the side where one file holds both."""
    blank = [side for side in ("source", "target") if not getattr(chunk, side)[index].strip()]
    line = chunk.lines[index]
    if chunk.target_file is None:
        return f"{chunk.file} line {line} ({' and '.join(blank)})"
    files = {"source": chunk.file, "target": chunk.target_file}
    return " and ".join(f"{files[side]} line {line}" for side in blank)
