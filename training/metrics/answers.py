"""Exact match and F1 of answers, each against the best of its references, as SQuAD counts them: from 0 to 1.

Before they are compared, answers lose capitals, punctuation, English articles and superfluous spaces. An empty answer
means that there is none; it is right where the references say so.
"""

import re
import string
from collections import Counter
from collections.abc import Sequence

_PUNCTUATION = str.maketrans("", "", string.punctuation)


def normalise_answer(text: str) -> str:
    """What of an answer is compared."""
    text = text.lower().translate(_PUNCTUATION)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def answer_f1(predicted: str, true: str) -> float:
    """F1 of the words of two answers, in any order."""
    one, other = normalise_answer(predicted).split(), normalise_answer(true).split()
    if not one or not other:
        return float(one == other)
    common = sum((Counter(one) & Counter(other)).values())
    return 2 * common / (len(one) + len(other))


def answer_scores(predicted: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """`exact_match` and `f1`, averaged over the questions.

    Args:
        references: the answers that are right for each question; none, or an empty one: it has no answer.
    """
    groups = [list(group) or [""] for group in references]
    pairs = list(zip(predicted, groups, strict=True))
    same = [
        max(normalise_answer(answer) == normalise_answer(reference) for reference in group) for answer, group in pairs
    ]
    shared = [max(answer_f1(answer, reference) for reference in group) for answer, group in pairs]
    count = max(len(pairs), 1)
    return {"exact_match": sum(same) / count, "f1": sum(shared) / count}
