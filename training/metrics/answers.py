"""Exact match and F1 of answers, each against the best of its references, as SQuAD counts them: from 0 to 1.

Answers are compared without capitals, punctuation, English articles and superfluous spaces. An empty answer means that
there is none; it is right where the references are empty too.
"""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence

from vaswani_tx.training.metrics.registry import QUESTION_ANSWERING, score_predictions

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """Return an answer in the form in which answers are compared."""
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def answer_f1(predicted: str, true: str) -> float:
    """Return F1 of the words of two answers, in any order."""
    one, other = normalise_answer(predicted).split(), normalise_answer(true).split()
    if not one or not other:
        return float(one == other)
    common = sum((Counter(one) & Counter(other)).values())
    return 2 * common / (len(one) + len(other))


def answer_scores(predicted: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Return every metric of answers, averaged over the questions.

    Args:
        references: the answers that are right for each question; none, or an empty one: it has no answer.
    """
    return score_predictions(QUESTION_ANSWERING, predicted, references)


def answer_exact_match(predicted: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return the share of answers that equal one of their references."""
    return _mean_of_best(_same, predicted, references)


def answer_mean_f1(predicted: Sequence[str], references: Sequence[Sequence[str]]) -> float:
    """Return the mean F1 of the words of answers."""
    return _mean_of_best(answer_f1, predicted, references)


def _same(predicted: str, true: str) -> bool:
    return normalise_answer(predicted) == normalise_answer(true)


def _mean_of_best(
    score: Callable[[str, str], float], predicted: Sequence[str], references: Sequence[Sequence[str]]
) -> float:
    pairs = zip(predicted, (list(group) or [""] for group in references), strict=True)
    best = [max(score(answer, reference) for reference in group) for answer, group in pairs]
    return sum(best) / max(len(best), 1)
