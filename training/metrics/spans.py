"""F1 of tagged spans (named entities, phrases), a span being right where its type and both ends are.

Spans are read from tags as conlleval and seqeval do by default: `B-` begins one, `I-` goes on with one of its type and
otherwise begins one, `E-` (or `L-`) ends one, `S-` (or `U-`) is one, anything else belongs to none.
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence

_TAG = re.compile(r"([BIESLU])-(.+)")


def are_spans(tags: Iterable[str]) -> bool:
    """Whether these tag names are those of spans: `O` and at least one `B-` or `I-`, and nothing else."""
    others = set(tags) - {"O"}
    return all(map(_TAG.fullmatch, others)) and any(tag[0] in "BI" for tag in others)


def spans(tags: Sequence[str]) -> list[tuple[str, int, int]]:
    """The spans of one sentence: type, first word, last word."""
    found: list[tuple[str, int, int]] = []
    kind, first = None, 0
    for position, tag in enumerate([*tags, "O"]):
        match = _TAG.fullmatch(tag)
        mark, own = match.groups() if match else ("O", None)
        if kind is not None and (mark in "BSUO" or own != kind):
            found.append((kind, first, position - 1))
            kind = None
        if kind is None and mark != "O":
            kind, first = own, position
        if kind is not None and mark in "ESLU":
            found.append((kind, first, position))
            kind = None
    return found


def span_scores(predicted: Iterable[Sequence[str]], true: Iterable[Sequence[str]]) -> dict[str, float]:
    """Precision, recall and F1 of the spans of all sentences together; 0 where there is none."""
    counts = count_spans(predicted, true)
    totals = [sum(column) for column in zip(*counts.values(), strict=True)] if counts else [0, 0, 0]
    return precision_recall_f1(*totals)


def count_spans(predicted: Iterable[Sequence[str]], true: Iterable[Sequence[str]]) -> dict[str, tuple[int, int, int]]:
    """For each type of span how many are right, predicted, and there."""
    right, said, there = Counter(), Counter(), Counter()
    for guess, truth in zip(predicted, true, strict=True):
        if len(guess) != len(truth):
            raise ValueError(f"a sentence of {len(truth)} words has {len(guess)} predicted tags")
        one, other = set(spans(guess)), set(spans(truth))
        for counter, chosen in ((right, one & other), (said, one), (there, other)):
            counter.update(kind for kind, _, _ in chosen)
    return {kind: (right[kind], said[kind], there[kind]) for kind in sorted({*said, *there})}


def precision_recall_f1(right: int, said: int, there: int) -> dict[str, float]:
    """The three shares from three counts."""
    precision, recall = right / max(said, 1), right / max(there, 1)
    return {"precision": precision, "recall": recall, "f1": 2 * right / max(said + there, 1)}
