"""Metrics of our own for `evaluate`: `evaluate.load("sacrebleu")` fetches a script and so fails without a network.

`bleu.py`, `chrf.py`, `ter.py` and `exact_match.py` are one metric module each, loadable by its path with
`evaluate.load`; `load_metric` finds it by name. `vaswani_tx.training.metrics.scoring` scores whole test sets without `evaluate`.
"""

from pathlib import Path
from typing import Any

METRICS = ("bleu", "chrf", "ter", "exact_match")


def load_metric(name: str) -> Any:
    """Return a fresh `evaluate.Metric` by name; ValueError for an unknown one.

    Sentences stay in memory: no file that another process scoring at the same time could meet.
    """
    if name not in METRICS:
        raise ValueError(f"there is no metric {name!r} in training/metrics; choose one of {', '.join(METRICS)}")
    # Its import takes seconds, which those who want only vaswani_tx.training.metrics.moses need not wait for.
    import evaluate

    path = Path(__file__).parent / f"{name}.py"
    return evaluate.load(str(path), module_type="metric", keep_in_memory=True)
