"""Lines that are too long for the model: cut into sentences and, where those are too long, into parts of them.

What a cut piece is and how its translation is put back are those of `sentences_vaswani`: nothing of a line is lost.
"""

import re
from collections.abc import Callable
from typing import Any

from vaswani_tx.sentences_vaswani import Sentence, join_sentences, split_sentences

SPACES = re.compile(r"\s+")


def cut(text: str, limit: int, count: Callable[[str], int]) -> list[Sentence]:
    """Cut a text into sentences, and these into parts of at most `limit` tokens.

    Args:
        count: the tokens of a text as the model will see them.
    """
    return [part for sentence in split_sentences(text) for part in _parts(sentence, limit, count)]


def _parts(sentence: Sentence, limit: int, count: Callable[[str], int]) -> list[Sentence]:
    text = sentence.text
    if len(text) < 2 or count(text) <= limit:
        return [sentence]
    end, following = _middle(text)
    left = Sentence(text[:end], sentence.start, text[end:following])
    right = Sentence(text[following:], sentence.start + following, sentence.gap)
    return [*_parts(left, limit, count), *_parts(right, limit, count)]


def _middle(text: str) -> tuple[int, int]:
    """Return where the first half ends and the second begins: at the space nearest to the middle, if one is near."""
    middle, reach = len(text) // 2, len(text) // 4
    spaces = SPACES.finditer(text, max(middle - reach, 1), len(text) - max(len(text) - middle - reach, 1))
    best = min(spaces, key=lambda found: abs(found.start() - middle), default=None)
    return (best.start(), best.end()) if best else (middle, middle)


def shorten_to(text: str, limit: int, count: Callable[[str], int]) -> str:
    """Return the longest beginning of a text with at most `limit` tokens, cut at a space where there is one."""
    low, high = 0, len(text)
    # Halves first: no attempt is then much longer than what is kept.
    while high > 1 and count(text[: high // 2]) > limit:
        high //= 2
    if high > 1:
        low = high // 2
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(text[:middle]) <= limit else (low, middle)
    kept = text[:low]
    if low < len(text) and not text[low].isspace() and (spaces := list(SPACES.finditer(kept))):
        kept = kept[: spaces[-1].start()]
    return kept.rstrip()


def join(text: str, pieces: list[Sentence], parts: list[dict[str, Any]]) -> dict[str, Any]:
    """Join the pipeline's records of a line's pieces to one: the text, the sum of scores, alignments moved over."""
    target, starts = join_sentences([part["translation_text"] for part in parts], pieces, text[: pieces[0].start])
    record: dict[str, Any] = {"translation_text": target}
    if "score" in parts[0]:
        record["score"] = sum(part["score"] for part in parts)
    if "alignment" in parts[0]:
        record["alignment"] = [
            _moved(entry, number, piece.start, start)
            for number, (piece, part, start) in enumerate(zip(pieces, parts, starts, strict=True))
            for entry in part["alignment"]
        ]
    return record


def _moved(entry: dict[str, Any], number: int, source: int, target: int) -> dict[str, Any]:
    entry = {**entry, "sentence": number}
    for name, offset in (("target_span", target), ("source_span", source)):
        if name in entry:
            entry[name] = [entry[name][0] + offset, entry[name][1] + offset]
    return entry
