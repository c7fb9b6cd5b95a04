"""Metrics of our own for `evaluate`: `evaluate.load("sacrebleu")` fetches a script and so fails without a network.

Each folder here is one metric module, loadable by its path with `evaluate.load`; `load_metric` finds it by name.
"""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

import evaluate

METRICS = ("bleu", "chrf", "exact_match")


def load_metric(name: str) -> evaluate.Metric:
    """Return a fresh metric by name; ValueError for an unknown one.

    Sentences stay in memory: no file that another process scoring at the same time could meet.
    """
    if name not in METRICS:
        raise ValueError(f"there is no metric {name!r} in training/metrics; choose one of {', '.join(METRICS)}")
    return evaluate.load(str(Path(__file__).parent / name), module_type="metric", keep_in_memory=True)


@cache
def _shared_metric(name: str) -> evaluate.Metric:
    return load_metric(name)


def score_translations(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    lowercase: bool = False,
    tokenize: str | None = None,
) -> dict[str, float | str]:
    """Score plain detokenised sentences against one reference each.

    Returns `bleu` and `chrf` (0 to 100), each with its sacreBLEU `..._signature`, and `exact_match` (0 to 1).
    ValueError if the numbers of sentences differ or are zero.
    """
    if len(hypotheses) != len(references):
        raise ValueError(f"{len(hypotheses)} hypotheses but {len(references)} references: give one for each sentence")
    if not hypotheses:
        raise ValueError("there are no sentences to score")
    inputs = {"predictions": list(hypotheses), "references": list(references)}
    bleu = _shared_metric("bleu").compute(**inputs, lowercase=lowercase, tokenize=tokenize, force=True)
    chrf = _shared_metric("chrf").compute(**inputs, lowercase=lowercase)
    exact = _shared_metric("exact_match").compute(**inputs, ignore_case=lowercase)
    return {
        "bleu": bleu["score"],
        "bleu_signature": bleu["signature"],
        "chrf": chrf["score"],
        "chrf_signature": chrf["signature"],
        "exact_match": exact["exact_match"],
    }
