"""Labelled examples of texts, tagged words and questions, checked, and the names of their labels.

a file of any format | a data set of the Hub -> `read_rows` -> Row
    -> `read_examples` -> TextExample | WordsExample | QuestionExample; `label_names` -> the names of the classes
"""

import json
import logging
import math
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

from vaswani_tx.training.config.labelled import TEXT_TASKS, Fields  # noqa: F401 - commands take both from here
from vaswani_tx.training.data.hub import hub_records, is_dataset_name, open_hub
from vaswani_tx.training.data.lines import check_file, trimmed, words_of
from vaswani_tx.training.data.pairs import NAMED_IN_ERRORS
from vaswani_tx.training.data.readers import (
    Records,
    Wanted,
    check_encodable,
    has_fields,
    missing,
    nearest,
    read_conll,
    read_records,
    text_formats,
)
from vaswani_tx.training.errors import DataError

logger = logging.getLogger(__name__)

_NO_LABEL_IS_ONE = ("multi_label", "question_answering")  # an empty cell or list says that there is none
FILL = "Fill it, or let such examples be dropped (`empty_lines: drop` in a recipe)."


class Row(NamedTuple):
    """One row: its place for messages (`train.tsv, line 7`) and its fields."""

    where: str
    fields: dict[str, Any]


@dataclass
class TextExample:
    """A text, or a pair of them; its label is a name, several names, or numbers. None: not known."""

    where: str
    text: str
    pair: str | None
    label: str | list[str] | list[float] | None


@dataclass
class WordsExample:
    """The words of a sentence and as many tags; None: not known."""

    where: str
    words: list[str]
    tags: list[str] | None


@dataclass
class QuestionExample:
    """A question on a context; answers are texts and where each begins. None: not known, an empty list: no answer."""

    where: str
    id: str
    question: str
    context: str
    answers: list[tuple[str, int]] | None


Example = TextExample | WordsExample | QuestionExample


def read_examples(
    path: str,
    task: str,
    fields: Fields,
    *,
    split: str = "train",
    name: str | None = None,
    labelled: bool = True,
    empty: str = "error",
) -> list[Example]:
    """Return all examples of a file or data set; without `labelled`, their labels may be missing.

    Args:
        empty: what happens to an example whose text or label is null or blank: `"error"`, `"drop"` (counted and
            logged), or, without `labelled`, `"keep"`: as one without text.

    Raises:
        DataError: file, line and field of what is missing or of the wrong type, or nothing at all to read.
    """
    make = {"tagging": _words, "question_answering": _question}.get(task, _text)
    words = (fields.tokens, fields.tags) if task == "tagging" else None
    examples: list[Example] = []
    dropped = []
    for row in read_rows(path, split, name, words):
        if empty == "error" or not _is_empty(row, task, fields, labelled):
            examples.append(make(row, task, fields, labelled))
        elif empty == "keep":
            examples.append(_without_text(row, task, fields))
        else:
            dropped.append(row.where)
    if dropped:
        named = "; ".join(dropped[:NAMED_IN_ERRORS])
        total = len(dropped) + len(examples)
        logger.warning("Dropped %d of %d examples with an empty text or label, first %s", len(dropped), total, named)
    if not examples:
        raise DataError(f"{path}: there is no example in it; give a file with examples.")
    return examples


def has_text(example: Example) -> bool:
    """Return whether an example has something to predict from: words, or text on both sides."""
    if isinstance(example, WordsExample):
        return bool(example.words)
    sides = (example.text, example.pair) if isinstance(example, TextExample) else (example.question, example.context)
    return all(side is None or bool(side.strip()) for side in sides)


def _is_empty(row: Row, task: str, fields: Fields, labelled: bool) -> bool:
    """Return whether a text of the row is null or blank, or its label is null."""
    if task == "tagging":
        texts, label = [fields.tokens], fields.tags
    elif task == "question_answering":
        texts, label = [fields.question, fields.context], fields.answers
    else:
        texts, label = [fields.text, *([fields.pair] if fields.pair else [])], fields.label
    if labelled and row.fields.get(label, "missing") in (None, *([] if task in _NO_LABEL_IS_ONE else [""])):
        return True
    values = [row.fields.get(name, "missing") for name in texts]
    return any(value is None or value == [] or (isinstance(value, str) and not value.strip()) for value in values)


def _without_text(row: Row, task: str, fields: Fields) -> Example:
    def text(name: str) -> str:
        return row.fields.get(name) or ""

    if task == "tagging":
        return WordsExample(row.where, [], None)
    if task == "question_answering":
        name = str(row.fields.get("id", row.where))
        return QuestionExample(row.where, name, text(fields.question), text(fields.context), None)
    return TextExample(row.where, text(fields.text), text(fields.pair) if fields.pair else None, None)


def read_rows(
    path: str, split: str = "train", name: str | None = None, words: tuple[str, str] | None = None
) -> Iterator[Row]:
    """Yield the rows of a file, or of a data set of the Hub or in a folder; blank lines are left out.

    Args:
        split, name: split and configuration of a data set of the Hub.
        words: the names of the first and last column of a CoNLL file; None: such files are refused.

    Raises:
        DataError: no such file, an unknown format, or a line that cannot be read; file and line are named.
    """
    if is_dataset_name(path):
        yield from _hub_rows(path, split, name)
        return
    check_file(path)
    if not has_fields(path) and words is None:
        raise DataError(f"{path}: this task cannot read such a file; give one of {', '.join(text_formats())}.")
    for chunk in read_records(path) if has_fields(path) else read_conll(path, Wanted(words)):
        yield from _rows(chunk)


def _rows(chunk: Records) -> Iterator[Row]:
    for index, fields in enumerate(chunk.rows):
        if fields is not None:
            yield Row(chunk.locate(index), fields)


def _hub_rows(path: str, split: str, name: str | None) -> Iterator[Row]:
    """Yield a data set's rows; the numbers of classes become their names."""
    dataset = open_hub(path, split, name)
    names = {column: found for column, feature in dataset.features.items() if (found := _class_names(feature))}
    for chunk in hub_records(dataset, f"{path} ({split})"):
        for where, fields in _rows(chunk):
            yield Row(where, {key: _named(value, names.get(key), where, key) for key, value in fields.items()})


def _class_names(feature: Any) -> list[str] | None:
    inner = getattr(feature, "feature", feature)
    return getattr(inner, "names", None)


def _named(value: Any, names: list[str] | None, where: str, field: str) -> Any:
    if names is None or value is None:
        return value
    if isinstance(value, list):
        return [_named(entry, names, where, field) for entry in value]
    if value < 0:
        raise DataError(
            f"{where}: field {field!r} is {value}: this split has no labels. Name another split or label_field."
        )
    return names[value]


def _text(row: Row, task: str, fields: Fields, labelled: bool) -> TextExample:
    text = _string(row, fields.text, "text_field")
    pair = None if fields.pair is None else _string(row, fields.pair, "pair_field")
    value = row.fields.get(fields.label)
    if value is None and not labelled:
        return TextExample(row.where, text, pair, None)
    if value is None:
        _field(row, fields.label, "label_field")
        raise DataError(f"{row.where}: field {fields.label!r} is empty: every example needs its label. {FILL}")
    if task == "regression":
        label: Any = _numbers(row, fields.label, value)
    elif task == "multi_label":
        label = _several(row, fields, value)
    else:
        label = _name(row, fields.label, value)
    return TextExample(row.where, text, pair, label)


def _words(row: Row, task: str, fields: Fields, labelled: bool) -> WordsExample:
    words = _field(row, fields.tokens, "tokens_field")
    words = words_of(words) if isinstance(words, str) else words
    if not isinstance(words, list) or not words:
        fill = f" {FILL}" if words in (None, []) else ""
        raise DataError(f"{row.where}: field {fields.tokens!r} must hold a list of words, got {_short(words)}.{fill}")
    for number, word in enumerate(words, start=1):
        if not isinstance(word, str) or not trimmed(word):
            raise DataError(f"{row.where}: word {number} of field {fields.tokens!r} is {_short(word)}, not a word.")
    check_encodable(" ".join(words), row.where)
    tags = row.fields.get(fields.tags)
    if tags is None and not labelled:
        return WordsExample(row.where, words, None)
    tags = _field(row, fields.tags, "tags_field") if tags is None else tags
    tags = words_of(tags) if isinstance(tags, str) else tags
    if not isinstance(tags, list) or len(tags) != len(words):
        count = len(tags) if isinstance(tags, list) else _short(tags)
        raise DataError(f"{row.where}: {len(words)} words but {count} tags: every word needs one.")
    return WordsExample(row.where, words, [_name(row, fields.tags, tag) for tag in tags])


def _question(row: Row, task: str, fields: Fields, labelled: bool) -> QuestionExample:
    question = _string(row, fields.question, "question_field")
    context = _string(row, fields.context, "context_field")
    name = str(row.fields.get("id", row.where))
    found = row.fields.get(fields.answers)
    if found is None:
        if labelled:
            _field(row, fields.answers, "answers_field")
            raise DataError(f"{row.where}: field {fields.answers!r} is empty; no answer at all is []. {FILL}")
        return QuestionExample(row.where, name, question, context, None)
    if isinstance(found, dict):
        texts, starts = found.get("text"), found.get("answer_start")
        if not isinstance(texts, list) or not isinstance(starts, list) or len(texts) != len(starts):
            raise DataError(
                f"{row.where}: field {fields.answers!r} must hold 'text' and 'answer_start', two lists of equal length."
            )
        found = [{"text": text, "answer_start": start} for text, start in zip(texts, starts, strict=True)]
    if not isinstance(found, list):
        raise DataError(f"{row.where}: field {fields.answers!r} must hold answers, got {_short(found)}.")
    answers = [_answer(row, fields.answers, answer, context) for answer in found]
    return QuestionExample(row.where, name, question, context, answers)


def _answer(row: Row, field: str, answer: Any, context: str) -> tuple[str, int]:
    text = answer.get("text") if isinstance(answer, dict) else None
    start = answer.get("answer_start") if isinstance(answer, dict) else None
    if not isinstance(text, str) or not text or isinstance(start, bool) or not isinstance(start, int):
        raise DataError(f"{row.where}: an answer needs 'text' and the number 'answer_start', got {_short(answer)}.")
    if start < 0 or context[start : start + len(text)] != text:
        found = context.find(text)
        fix = f" It begins at {found}." if found >= 0 else " It does not occur in the context."
        raise DataError(
            f"{row.where}: field {field!r} says that {text[:40]!r} begins at character {start} of the context, where "
            f"the text is {context[max(start, 0) : max(start, 0) + len(text)][:40]!r}.{fix}"
        )
    return text, start


def _field(row: Row, name: str, key: str) -> Any:
    if name not in row.fields:
        raise DataError(f"{row.where}: {missing('field', name, row.fields, key)}")
    return row.fields[name]


def _string(row: Row, name: str, key: str) -> str:
    value = _field(row, name, key)
    if not isinstance(value, str) or not value.strip():
        fill = f" {FILL}" if value is None or isinstance(value, str) else ""
        raise DataError(f"{row.where}: field {name!r} must hold text, got {_short(value)}.{fill}")
    check_encodable(value, row.where)
    return value


def _name(row: Row, field: str, value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
        raise DataError(f"{row.where}: field {field!r} must hold the name of a label, got {_short(value)}.")
    return str(value).strip()


def _several(row: Row, fields: Fields, value: Any) -> list[str]:
    if isinstance(value, str):
        value = [part for part in value.split(fields.separator) if part.strip()]
    if not isinstance(value, list):
        raise DataError(f"{row.where}: field {fields.label!r} must hold a list of labels, got {_short(value)}.")
    return sorted({_name(row, fields.label, entry) for entry in value})


def _numbers(row: Row, field: str, value: Any) -> list[float]:
    found = []
    for entry in value if isinstance(value, list) else [value]:
        try:
            number = float(entry)
        except (TypeError, ValueError):
            number = math.nan
        if isinstance(entry, bool) or not math.isfinite(number):
            raise DataError(f"{row.where}: field {field!r} must hold a number, got {_short(entry)}.")
        found.append(number)
    return found


def _short(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, default=str)[:60]


def labels_of(example: Example) -> Sequence[str]:
    """Return the names of the labels that an example has."""
    if isinstance(example, WordsExample):
        return example.tags or ()
    if isinstance(example, TextExample) and example.label is not None:
        return [example.label] if isinstance(example.label, str) else example.label
    return ()


def label_names(examples: Iterable[Example], given: Sequence[str] | None = None) -> list[str]:
    """Return all labels of the training examples in order: numbers by value, then names; or the given ones, checked.

    Raises:
        DataError: a label that is not among the given ones, or fewer than two of them.
    """
    counts = Counter(label for example in examples for label in labels_of(example))
    if given:
        if len(set(given)) < len(given):
            raise DataError(f"labels: {Counter(given).most_common(1)[0][0]!r} is named twice; name it once.")
        check_labels(examples, given, "`labels`")
        return list(given)
    if len(counts) < 2:
        only = next(iter(counts), "nothing")
        raise DataError(f"The training data has the label {only!r} only: nothing to learn. Give at least two labels.")
    return sorted(counts, key=_order)


def _order(name: str) -> tuple[bool, float, str]:
    try:
        number = float(name)
    except ValueError:
        number = math.nan
    return (True, 0.0, name) if math.isnan(number) else (False, number, name)


def check_labels(examples: Iterable[Example], names: Sequence[str], origin: str = "the training data") -> None:
    """Raise DataError at the first label that is none of `names`."""
    known = set(names)
    for example in examples:
        for label in labels_of(example):
            if label not in known:
                shown = ", ".join(map(repr, names[:10])) + (", ..." if len(names) > 10 else "")
                hint = nearest(label, names)
                raise DataError(
                    f"{example.where}: label {label!r} is not one of {origin}'s {len(names)} labels ({shown}).{hint} "
                    "Fix it, or name all labels in the key `labels`."
                )
