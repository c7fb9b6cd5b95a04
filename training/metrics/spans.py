"""Scores of tags, and of tagged spans (named entities, phrases), a span being right where its type and both ends are.

Spans are read from tags as conlleval and seqeval do by default: `B-` begins one, `I-` continues one of its type and
otherwise begins one, `E-` (or `L-`) ends one, `S-` (or `U-`) is one, anything else belongs to none.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

from vaswani_tx.training.metrics.classes import macro_f1
from vaswani_tx.training.metrics.registry import TAGGING, score_predictions

_TAG = re.compile(r"([BIESLU])-(.+)")


def are_spans(tags: Iterable[str]) -> bool:
    """Return whether these tag names are those of spans: `O` and at least one `B-` or `I-`, and nothing else."""
    others = set(tags) - {"O"}
    return all(map(_TAG.fullmatch, others)) and any(tag[0] in "BI" for tag in others)


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """Return the spans of one sentence: type, first word, last word."""
    found: list[tuple[str, int, int]] = []
    name, first = None, 0
    for position, tag in enumerate([*tags, "O"]):
        match = _TAG.fullmatch(tag)
        mark, own = match.groups() if match else ("O", None)
        if name is not None and (mark in "BSUO" or own != name):
            found.append((name, first, position - 1))
            name = None
        if name is None and mark != "O":
            name, first = own, position
        if name is not None and mark in "ESLU":
            found.append((name, first, position))
            name = None
    return found


def span_scores(predicted: Iterable[Sequence[str]], true: Iterable[Sequence[str]]) -> dict[str, float]:
    """Return precision, recall and F1 of the spans of all sentences together; 0 where there is none."""
    counts = count_spans(predicted, true)
    totals = [sum(column) for column in zip(*counts.values(), strict=True)] if counts else [0, 0, 0]
    return precision_recall_f1(*totals)


def count_spans(predicted: Iterable[Sequence[str]], true: Iterable[Sequence[str]]) -> dict[str, tuple[int, int, int]]:
    """Count for each type of span how many are right, predicted, and true."""
    right, found, present = Counter(), Counter(), Counter()
    for guess, truth in zip(predicted, true, strict=True):
        if len(guess) != len(truth):
            raise ValueError(f"a sentence of {len(truth)} words has {len(guess)} predicted tags")
        one, other = set(spans(guess)), set(spans(truth))
        for counter, chosen in ((right, one & other), (found, one), (present, other)):
            counter.update(name for name, _, _ in chosen)
    names = sorted({*found, *present})
    return {name: (right[name], found[name], present[name]) for name in names}


def precision_recall_f1(right: int, found: int, present: int) -> dict[str, float]:
    """Return the three shares from three counts."""
    precision, recall = right / max(found, 1), right / max(present, 1)
    return {"precision": precision, "recall": recall, "f1": 2 * right / max(found + present, 1)}


# Of whole test sets: two lists of sentences' tags, and the names of all tags


def tag_scores(
    predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]], names: Sequence[str]
) -> dict[str, float]:
    """Return every metric of tags; precision, recall and F1 are those of spans where the names are those of spans."""
    return score_predictions(TAGGING, predicted, true, names)


def tag_accuracy(predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]], names: Sequence[str]) -> float:
    """Return the share of words whose tag is right."""
    pairs = _pairs(predicted, true)
    return sum(guess == truth for guess, truth in pairs) / max(len(pairs), 1)


def tag_precision(predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]], names: Sequence[str]) -> float:
    """Return the share of predicted spans, or tags beside `O`, that are right."""
    return _shares(predicted, true, names)["precision"]


def tag_recall(predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]], names: Sequence[str]) -> float:
    """Return the share of the true spans, or tags beside `O`, that are found."""
    return _shares(predicted, true, names)["recall"]


def tag_f1(predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]], names: Sequence[str]) -> float:
    """Return F1 of spans, or of tags beside `O`."""
    return _shares(predicted, true, names)["f1"]


def tag_macro_f1(
    predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]], names: Sequence[str]
) -> float | None:
    """Return F1 averaged over the tags; None where the tags are those of spans."""
    if are_spans(names):
        return None
    numbers = {name: number for number, name in enumerate(names)}
    flat = ([numbers[tag] for tags in side for tag in tags] for side in (predicted, true))
    return macro_f1(*flat, len(names))


def _pairs(predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]]) -> list[tuple[str, str]]:
    sentences = zip(predicted, true, strict=True)
    return [pair for guess, truth in sentences for pair in zip(guess, truth, strict=True)]


def _shares(
    predicted: Sequence[Sequence[str]], true: Sequence[Sequence[str]], names: Sequence[str]
) -> dict[str, float]:
    if are_spans(names):
        return span_scores(predicted, true)
    pairs = _pairs(predicted, true)
    right = sum(guess == tag != "O" for guess, tag in pairs)
    return precision_recall_f1(right, *(sum(pair[side] != "O" for pair in pairs) for side in (0, 1)))
