"""Readers of files that hold named fields: one table from a format to what reads it, for every text task.

    a file, compressed or not -> READERS[format] -> Records -> text_columns -> columns of text, for pairs and documents
                                                            -> rows, for labelled examples

A reader is a function of a path and the wanted fields that yields `Records`. A new format is one entry of `READERS`;
`vaswani_tx.training.data.hub` gives the same records of a data set of the Hub. Files of any other ending are text
lines (`vaswani_tx.training.data.lines`).
"""

import csv
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from vaswani_tx.suggestions import nearest_name
from vaswani_tx.training.data.lines import (
    byte_blocks,
    compression_of,
    format_of,
    line_chunks,
    numbered_lines,
    trimmed,
    words_of,
)
from vaswani_tx.training.errors import DataError

ROWS_PER_CHUNK = 1 << 16
CHARACTERS_PER_CHUNK = 1 << 22
LONGEST_CELL = (1 << 31) - 1
Paths = str | os.PathLike | Sequence[str | os.PathLike]
Row = dict[Any, Any]


class Chunk(NamedTuple):
    """Some consecutive pairs of one file: `lines[i]` is where `source[i]` and `target[i]` are in it, from 1."""

    file: str
    lines: np.ndarray
    source: list[str]
    target: list[str]
    target_file: str | None = None  # where the targets are if not in `file`
    tag: str = ""  # of the sources, not in their texts


class Wanted(NamedTuple):
    """The fields that a task reads of every record, and the recipe's keys that name them."""

    names: tuple[str | int, ...]
    keys: str = "`source_field` and `target_field`"


class Records(NamedTuple):
    """Consecutive records of one file: the fields of each (None: a blank line or a null), and its number, from 1.

    Where the reader was told the wanted fields, each row has all of them, whatever they hold.
    """

    file: str
    numbers: Sequence[int] | np.ndarray
    rows: list[Row | None]
    unit: str = "line"
    noun: str = "field"
    places: list[str] | None = None  # where a number is not enough, as in nested JSON

    def locate(self, index: int) -> str:
        """Return the place of a record for a message: `train.tsv, line 7`."""
        return f"{self.file}, {self.places[index] if self.places else f'{self.unit} {self.numbers[index]}'}"


def as_list(paths: Paths | None) -> list[str]:
    """Return one path or several as a list."""
    if paths is None:
        return []
    return [os.fspath(path) for path in ([paths] if isinstance(paths, (str, os.PathLike)) else paths)]


def text_columns(records: Iterable[Records], wanted: Wanted) -> Iterator[tuple[np.ndarray, list[list[str]]]]:
    """Yield the numbers of records and one list of texts for each wanted field; blank lines and nulls are empty texts.

    Raises:
        DataError: a value that is not text (file, line or row, field).
    """
    for chunk in records:
        columns = []
        for name in wanted.names:
            texts = ["" if row is None or row[name] is None else row[name] for row in chunk.rows]
            for index, value in enumerate(texts):
                if not isinstance(value, str):
                    found = json.dumps(value, default=repr)[:60] if chunk.noun == "field" else repr(value)[:60]
                    raise DataError(
                        f"{chunk.locate(index)}: {chunk.noun} {name!r} holds {found} instead of a string; fix the "
                        "value, or name another one."
                    )
            try:
                "".join(texts).encode()
            except UnicodeEncodeError:
                for index, text in enumerate(texts):
                    check_encodable(text, chunk.locate(index))
            columns.append(texts)
        yield np.asarray(chunk.numbers, dtype=np.int64), columns


def check_encodable(text: str, where: str) -> None:
    """Raise DataError for half of a surrogate pair: JSON can spell it, but no encoding of text has it."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise DataError(f"{where}: half of a surrogate pair, which is not text; fix the \\u escape.") from None


def missing(noun: str, name: Any, known: Iterable[Any], keys: str) -> str:
    """Return the message on a field that is not there, with the nearest name that is."""
    known = list(map(str, known))
    there = ", ".join(map(repr, known)) or "none"
    return f"no {noun} {name!r}; there is {there}.{nearest(name, known, 0.5)} Set {keys}."


def nearest(name: Any, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return ` Did you mean 'label'?` where one of the known names is nearly the same, else ""."""
    near = nearest_name(str(name), known, cutoff)
    return f" Did you mean {near!r}?" if near else ""


# JSON


def _read_jsonl(path: str, wanted: Wanted | None) -> Iterator[Records]:
    """Read an object a line."""
    first = 1
    for lines in line_chunks(path):
        rows = []
        for number, line in enumerate(lines, start=first):
            row = None
            if line and not line.isspace():
                where = f"{path}, line {number}"
                content = _parse(line, where)
                row = None if content is None else _chosen(_object(content, where), wanted, where)
            rows.append(row)
        yield Records(path, range(first, first + len(lines)), rows)
        first += len(lines)


def _read_json(path: str, wanted: Wanted | None) -> Iterator[Records]:
    """Read a list of objects, or SQuAD's nesting of articles, paragraphs and questions."""
    content = _parse("\n".join(line for _, line in numbered_lines(path)), path)
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    if not isinstance(content, list):
        raise DataError(f"{path}: a list of objects is needed, or SQuAD's 'data' with such a list.")
    places, rows = [], []
    for number, entry in enumerate(content, start=1):
        if entry is None:
            places.append(f"entry {number}")
            rows.append(None)
            continue
        entry = _object(entry, f"{path}, entry {number}")
        nested = "paragraphs" in entry
        found = _squad_rows(entry, path, f"entry {number}") if nested else [(f"entry {number}", entry)]
        for place, row in found:
            places.append(place)
            rows.append(_chosen(row, wanted, f"{path}, {place}"))
    yield Records(path, range(1, len(rows) + 1), rows, "entry", places=places)


def _squad_rows(article: Row, path: str, place: str) -> Iterator[tuple[str, Row]]:
    for count, paragraph in enumerate(article["paragraphs"], start=1):
        where = f"{place}, paragraph {count}"
        paragraph = _object(paragraph, f"{path}, {where}")
        if not isinstance(paragraph.get("qas"), list):
            raise DataError(f"{path}, {where}: no list 'qas' of questions.")
        for question, entry in enumerate(paragraph["qas"], start=1):
            at = f"{where}, question {question}"
            yield at, {"context": paragraph.get("context")} | _object(entry, f"{path}, {at}")


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise DataError(f"{where}: not valid JSON ({error}); fix it.") from None


def _object(value: Any, where: str) -> Row:
    if not isinstance(value, dict):
        raise DataError(f"{where}: an object with named fields is needed, not {json.dumps(value)[:60]}.")
    return value


def _chosen(row: Row, wanted: Wanted | None, where: str) -> Row:
    """Return the wanted fields of a row, which may be in its object `translation`; all of them where none are named."""
    if wanted is None:
        return row
    inner = row.get("translation")
    if inner is None and "translation" in row:
        inner = dict.fromkeys(wanted.names)  # as in a Parquet file, where a null has every field
    inner = inner if isinstance(inner, dict) else {}
    for name in wanted.names:
        if name not in row and name not in inner:
            raise DataError(f"{where}: {missing('field', name, [*row, *inner], wanted.keys)}")
    return {name: row[name] if name in row else inner[name] for name in wanted.names}


# Columns of text


def _read_tsv(path: str, wanted: Wanted | None) -> Iterator[Records]:
    """Read columns separated by tabs, without quoting."""
    return _delimited(path, ((number, line.split("\t")) for number, line in numbered_lines(path)), wanted)


def _read_csv(path: str, wanted: Wanted | None) -> Iterator[Records]:
    """Read columns separated by commas, quoted as spreadsheets do; a quoted cell may hold several lines."""
    return _delimited(path, _csv_cells(path), wanted)


def _csv_cells(path: str) -> Iterator[tuple[int, list[str]]]:
    def lines() -> Iterator[str]:
        for number, line in numbered_lines(path):
            if "\0" in line:
                raise DataError(
                    f"{path}, line {number}: a null byte, which no CSV file holds; convert the file if it is UTF-16 "
                    "(`iconv -f UTF-16 -t UTF-8`), or remove the byte."
                )
            yield line + "\n"

    # The module's own limit, 131,072 characters a cell, is one for the whole process.
    csv.field_size_limit(LONGEST_CELL)
    reader = csv.reader(lines(), strict=True)
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{path}, line {number}: not valid CSV ({error}); fix its quotes.") from None
        if cells is None:
            return
        yield number, cells


def _delimited(path: str, lines: Iterator[tuple[int, list[str]]], wanted: Wanted | None) -> Iterator[Records]:
    """Make records of cells; the first line names the columns, unless all wanted ones are numbers, from 0."""
    first = next((line for line in lines if line[1]), None)
    if first is None:
        return
    top, header = first
    numbered = wanted is not None and all(str(name).isdigit() for name in wanted.names)
    names, places = _columns(f"{path}, line {top}", header, wanted, numbered)
    numbers, rows, size = [], [], 0

    def take(number: int, cells: list[str]) -> None:
        row = None
        if "".join(cells).strip():
            if len(cells) != len(header):
                shown = "" if numbered else f" ({', '.join(header)[:60]})"
                raise DataError(
                    f"{path}, line {number}: {len(cells)} columns, but line {top} has {len(header)}{shown}; give every "
                    "line as many."
                )
            row = {name: cells[place] for name, place in zip(names, places, strict=True)}
        numbers.append(number)
        rows.append(row)

    if numbered:
        take(*first)
    for number, cells in lines:
        take(number, cells)
        size += sum(map(len, cells))
        if len(rows) >= ROWS_PER_CHUNK or size >= CHARACTERS_PER_CHUNK:
            yield Records(path, numbers, rows, noun="column")
            numbers, rows, size = [], [], 0
    if rows:
        yield Records(path, numbers, rows, noun="column")


def _columns(where: str, header: list[str], wanted: Wanted | None, numbered: bool) -> tuple[list[Any], list[int]]:
    """Return the names of the columns that are read and where they are."""
    if numbered:
        for name in wanted.names:
            if int(name) >= len(header):
                raise DataError(
                    f"{where}: no column {name} (counted from 0), the line has {len(header)}. Set {wanted.keys}."
                )
        return list(wanted.names), [int(name) for name in wanted.names]
    found = [cell.strip() for cell in header]
    names = found if wanted is None else list(wanted.names)
    for name in names:
        if name not in found:
            hint = " For a file without a header give the columns' numbers, counted from 0."
            raise DataError(f"{where}: {missing('column', name, found, wanted.keys)}{hint}")
        if found.count(name) > 1 or not name:
            raise DataError(
                f"{where}: the names of the columns are needed here, each once, got {', '.join(header)[:60]!r}."
            )
    return names, [found.index(name) for name in names]


def read_conll(path: str, wanted: Wanted | None) -> Iterator[Records]:
    """Read sentences separated by blank lines, a word a line: its first column is the word, the last one its tag.

    Args:
        wanted: the names of the two lists of a sentence; None: `tokens` and `tags`.
    """
    tokens, tags = wanted.names if wanted else ("tokens", "tags")
    numbers: list[int] = []
    rows: list[Row | None] = []
    words: list[str] = []
    for number, line in numbered_lines(path):
        if not trimmed(line) or line.startswith("-DOCSTART-"):
            words = []
            continue
        # Not at U+00A0 and the like, which str.split would take for the end of a word.
        cells = [trimmed(cell) for cell in line.split("\t")] if "\t" in line else words_of(line)
        if cells[0] == "#" and "\t" not in line:
            continue  # a comment
        if len(cells) < 2 or not cells[0] or not cells[-1]:
            raise DataError(
                f"{path}, line {number}: a word, a tab and its tag are needed here, got {line[:60]!r}. A blank line "
                "ends a sentence."
            )
        if not words:
            if len(rows) >= ROWS_PER_CHUNK:
                yield Records(path, numbers, rows)
                numbers, rows = [], []
            numbers.append(number)
            rows.append({tokens: words, tags: []})
        words.append(cells[0])
        rows[-1][tags].append(cells[-1])
    if rows:
        yield Records(path, numbers, rows)


# Columns of Arrow


def _read_parquet(path: str, wanted: Wanted | None) -> Iterator[Records]:
    try:
        file = pq.ParquetFile(pa.BufferReader(b"".join(byte_blocks(path))) if compression_of(path) else path)
        places = [] if wanted is None else nested_columns(file.schema_arrow, wanted, path)
        names = sorted({place[0] for place in places}) or None
        yield from arrow_records(file.iter_batches(ROWS_PER_CHUNK, columns=names), wanted, path)
    except (pa.ArrowException, OSError) as error:
        raise DataError(
            f"{path}: cannot be read as Parquet, it may be truncated ({error}); copy or make the file again."
        ) from None


def arrow_records(batches: Iterable[Any], wanted: Wanted | None, origin: str) -> Iterator[Records]:
    """Yield the rows of Arrow's tables or batches of them."""
    first = 1
    for batch in batches:
        rows = []
        if wanted is None:
            rows = batch.to_pylist()
        else:
            columns = [_values(batch, place) for place in nested_columns(batch.schema, wanted, origin)]
            rows = [dict(zip(wanted.names, values, strict=True)) for values in zip(*columns, strict=True)]
        yield Records(origin, range(first, first + len(rows)), rows, "row", "column")
        first += len(rows)


def nested_columns(schema: pa.Schema, wanted: Wanted, origin: str) -> list[tuple[str, ...]]:
    """Return where each wanted name is: ("de",) or ("translation", "de"); DataError where it is in neither."""
    inner: list[str] = []
    if "translation" in schema.names and pa.types.is_struct(nested := schema.field("translation").type):
        inner = [nested.field(i).name for i in range(nested.num_fields)]
    for name in wanted.names:
        if name not in schema.names and name not in inner:
            raise DataError(f"{origin}: {missing('column', name, schema.names + inner, wanted.keys)}")
    return [(name,) if name in schema.names else ("translation", name) for name in wanted.names]


def _values(batch: Any, place: tuple[str, ...]) -> list[Any]:
    values = batch[place[0]].to_pylist()
    return [value and value[place[1]] for value in values] if len(place) == 2 else values


# The table

READERS: dict[str, Callable[[str, Wanted | None], Iterator[Records]]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
    ".conll": read_conll,
    ".bio": read_conll,
    ".iob": read_conll,
}


def text_formats() -> list[str]:
    """Return the formats whose fields can hold text; a sentence of tagged words has none."""
    return [name for name, reader in READERS.items() if reader is not read_conll]


def has_fields(path: str) -> bool:
    """Return whether a file holds named fields of text, rather than lines of it."""
    return format_of(path) in text_formats()


def read_records(path: str, wanted: Wanted | None = None) -> Iterator[Records]:
    """Yield the records of a file that is in a format of the table; DataError names the place of what is wrong."""
    return READERS[format_of(path)](path, wanted)
