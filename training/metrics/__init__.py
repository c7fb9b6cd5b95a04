"""The project's metrics: `registry` has an entry for each, `scoring` scores test sets, and some load with `evaluate`.

`bleu.py`, `chrf.py`, `ter.py` and `exact_match.py` are modules for `evaluate`, for the `compute_metrics` of a Trainer;
`load_metric` finds them by name. `evaluate.load("sacrebleu")` would fetch a script and so fails without a network.
They compute nothing themselves: sacreBLEU does, and `text_metrics`, as for `scoring`.
"""

from pathlib import Path
from typing import Any

from vaswani_tx.training.metrics.registry import TEXT, metrics_for

METRICS = tuple(name for name in metrics_for(TEXT) if (Path(__file__).parent / f"{name}.py").is_file())


def load_metric(name: str) -> Any:
    """Return a fresh `evaluate.Metric` by name; ValueError for an unknown one.

    Sentences stay in memory: no file that another process scoring at the same time could meet.
    """
    if name not in METRICS:
        raise ValueError(f"there is no metric {name!r} in training/metrics; choose one of {', '.join(METRICS)}")
    # Here, since it takes seconds to import, which the registry does without.
    import evaluate

    path = Path(__file__).parent / f"{name}.py"
    return evaluate.load(str(path), module_type="metric", keep_in_memory=True)
