"""Rows of labelled data from files of any kind: where each stands, and its fields.

.jsonl | .json (a list, or SQuAD's nesting) | .csv | .tsv | .parquet | CoNLL columns | data set of the Hub
    -> Row, Row, ...
"""

import csv
import json
import os
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from vaswani_tx.training.data.readers import check_file, line_chunks
from vaswani_tx.training.errors import DataError

CONLL = (".conll", ".bio", ".iob", ".txt")


class Row(NamedTuple):
    """One row: its place for messages (`train.tsv, line 7`) and its fields."""

    where: str
    fields: dict[str, Any]


def read_rows(path: str, split: str = "train", name: str | None = None, words: tuple[str, str] | None = None):
    """The rows of a file, or of a data set of the Hub or in a folder, one after another.

    Args:
        split, name: split and configuration of a data set of the Hub.
        words: what the columns of a CoNLL file are called, first and last one; None: such files are refused.

    Raises:
        DataError: no such file, a kind that is not known, or a line that cannot be read; file and line are named.
    """
    suffix = os.path.splitext(path)[1].lower()
    looks_like_file = suffix in (*READERS, *CONLL) or path.startswith((".", "/", "~")) or path.count("/") > 1
    if os.path.isdir(path) or (not looks_like_file and not os.path.exists(path)):
        return _hub_rows(path, split, name)
    check_file(path)
    if suffix in READERS:
        return READERS[suffix](path)
    if words is None:
        raise DataError(f"{path}: not a known kind of file. Known: {', '.join(READERS)}.")
    return _conll_rows(path, *words)


def numbered_lines(path: str) -> Iterator[tuple[int, str]]:
    """The lines of a UTF-8 file with their numbers from 1; DataError with line and byte where it is not UTF-8."""
    first = 1
    for lines in line_chunks(path):
        yield from enumerate(lines, start=first)
        first += len(lines)


def _jsonl_rows(path: str) -> Iterator[Row]:
    for number, line in numbered_lines(path):
        if not line or line.isspace():
            continue
        where = f"{path}, line {number}"
        yield Row(where, _object(_parse(line, where), where))


def _json_rows(path: str) -> Iterator[Row]:
    content = _parse("\n".join(line for _, line in numbered_lines(path)), path)
    if isinstance(content, dict) and isinstance(content.get("data"), list):
        content = content["data"]
    if not isinstance(content, list):
        raise DataError(f"{path}: a list of objects must stand here, or SQuAD's 'data' with such a list.")
    for number, entry in enumerate(content, start=1):
        where = f"{path}, entry {number}"
        entry = _object(entry, where)
        if "paragraphs" in entry:
            yield from _squad_rows(entry, where)
        else:
            yield Row(where, entry)


def _squad_rows(article: dict[str, Any], where: str) -> Iterator[Row]:
    for count, paragraph in enumerate(article["paragraphs"], start=1):
        place = f"{where}, paragraph {count}"
        paragraph = _object(paragraph, place)
        if not isinstance(paragraph.get("qas"), list):
            raise DataError(f"{place}: no list 'qas' of questions.")
        for question, entry in enumerate(paragraph["qas"], start=1):
            at = f"{place}, question {question}"
            yield Row(at, {"context": paragraph.get("context")} | _object(entry, at))


def _parse(text: str, where: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise DataError(f"{where}: not valid JSON ({error}). Mend it.") from None


def _object(value: Any, where: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise DataError(f"{where}: an object with named fields must stand here, not {json.dumps(value)[:60]}.")
    return value


def _tsv_rows(path: str) -> Iterator[Row]:
    """Columns parted by tabs, no quoting, names in the first line."""
    header: list[str] = []
    for number, line in numbered_lines(path):
        cells = line.split("\t")
        if not header:
            header = _header(cells, path)
        elif line.strip():
            yield Row(f"{path}, line {number}", _cells(header, cells, path, number))


def _csv_rows(path: str) -> Iterator[Row]:
    """Columns parted by commas, quoted as spreadsheets do, names in the first line."""
    # Not the lines alone: within quotes a cell may hold several, which csv puts together again.
    reader = csv.reader((line + "\n" for _, line in numbered_lines(path)), strict=True)
    header: list[str] = []
    while True:
        number = reader.line_num + 1
        try:
            cells = next(reader, None)
        except csv.Error as error:
            raise DataError(f"{path}, line {number}: not valid CSV ({error}). Mend its quotes.") from None
        if cells is None:
            return
        if not header:
            header = _header(cells, path)
        elif any(cell.strip() for cell in cells):
            yield Row(f"{path}, line {number}", _cells(header, cells, path, number))


def _header(cells: list[str], path: str) -> list[str]:
    names = [cell.strip() for cell in cells]
    if len(set(names)) < len(names) or not all(names):
        raise DataError(
            f"{path}, line 1: the names of the columns must stand here, each once, got {', '.join(cells)[:60]!r}."
        )
    return names


def _cells(header: list[str], cells: list[str], path: str, number: int) -> dict[str, str]:
    if len(cells) != len(header):
        raise DataError(
            f"{path}, line {number}: {len(cells)} columns, but the first line names {len(header)} "
            f"({', '.join(header)}). Mend the line."
        )
    return dict(zip(header, cells, strict=True))


def _parquet_rows(path: str) -> Iterator[Row]:
    number = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(4096):
            for fields in batch.to_pylist():
                number += 1
                yield Row(f"{path}, row {number}", fields)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path}: cannot be read as Parquet, it may be truncated ({error}).") from None


def _conll_rows(path: str, tokens: str, tags: str) -> Iterator[Row]:
    """Sentences parted by blank lines, a word a line: the first column is the word, the last one its tag."""
    words: list[str] = []
    labels: list[str] = []
    first = 0
    for number, line in numbered_lines(path):
        if not line.strip() or line.startswith("-DOCSTART-"):
            if words:
                yield Row(f"{path}, line {first}", {tokens: words, tags: labels})
            words, labels = [], []
            continue
        cells = line.split("\t") if "\t" in line else line.split()
        if cells[0] == "#" and "\t" not in line:
            continue  # a comment
        if len(cells) < 2 or not cells[0].strip() or not cells[-1].strip():
            raise DataError(
                f"{path}, line {number}: a word, a tab and its tag must stand here, got {line[:60]!r}. A blank line "
                "ends a sentence."
            )
        first = first if words else number
        words.append(cells[0].strip())
        labels.append(cells[-1].strip())
    if words:
        yield Row(f"{path}, line {first}", {tokens: words, tags: labels})


def _hub_rows(path: str, split: str, name: str | None) -> Iterator[Row]:
    """A data set's rows; the numbers of classes become their names."""
    from vaswani_tx.training.data.parallel import open_hub

    dataset = open_hub(path, split, name)
    names = {column: found for column, kind in dataset.features.items() if (found := _class_names(kind))}
    for number, fields in enumerate(dataset, start=1):
        where = f"{path} ({split}), row {number}"
        yield Row(where, {key: _named(value, names.get(key), where, key) for key, value in fields.items()})


def _class_names(kind: Any) -> list[str] | None:
    inner = getattr(kind, "feature", kind)
    return getattr(inner, "names", None)


def _named(value: Any, names: list[str] | None, where: str, field: str) -> Any:
    if names is None or value is None:
        return value
    if isinstance(value, list):
        return [_named(entry, names, where, field) for entry in value]
    if value < 0:
        raise DataError(f"{where}: field {field!r} is {value}, which means that this split has no labels.")
    return names[value]


READERS: dict[str, Callable[[str], Iterator[Row]]] = {
    ".jsonl": _jsonl_rows,
    ".json": _json_rows,
    ".tsv": _tsv_rows,
    ".csv": _csv_rows,
    ".parquet": _parquet_rows,
}
