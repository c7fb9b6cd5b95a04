"""Scores of classifiers from plain lists and arrays, for `vaswani_tx.training.train_classifier`: all shares run from 0 to 1.

Classes by scikit-learn, correlations by scipy. N examples, C classes.
"""

import warnings
from collections.abc import Sequence

import numpy as np


def single_label_scores(predicted: Sequence[int], true: Sequence[int], classes: int) -> dict[str, float]:
    """Accuracy, F1 averaged over the classes (`f1`, macro) and over the examples, and Matthews' correlation.

    A class that is neither predicted nor there does not count in `f1`; one that is missed altogether counts as 0.
    """
    from sklearn.metrics import f1_score, matthews_corrcoef

    present = sorted({*predicted, *true} & set(range(classes)))
    options = {"labels": present, "zero_division": 0.0}
    return {
        "accuracy": float(np.mean(np.asarray(predicted) == np.asarray(true))),
        "f1": float(f1_score(true, predicted, average="macro", **options)),
        "weighted_f1": float(f1_score(true, predicted, average="weighted", **options)),
        "matthews": float(matthews_corrcoef(true, predicted)),
    }


def confusion(predicted: Sequence[int], true: Sequence[int], classes: int) -> list[list[int]]:
    """How often each class (a row) was taken for each other one (a column)."""
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(true, predicted, labels=range(classes)).tolist()


def each_class(predicted: Sequence[int], true: Sequence[int], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Precision, recall, F1 and number of examples of every class, by its name."""
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(true, predicted, labels=range(len(names)), zero_division=0.0)
    rows = zip(names, *columns, strict=True)
    return {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "count": int(count)}
        for name, p, r, f, count in rows
    }


def multi_label_scores(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """F1 over all decisions (`f1`, micro) and averaged over the labels, and the share of examples wholly right.

    Args:
        predicted, true: 0 or 1, [N, C].
    """
    from sklearn.metrics import f1_score

    return {
        "f1": float(f1_score(true, predicted, average="micro", zero_division=0.0)),
        "macro_f1": float(f1_score(true, predicted, average="macro", zero_division=0.0)),
        "exact_match": float((np.asarray(predicted) == np.asarray(true)).all(axis=1).mean()),
    }


def regression_scores(predicted: Sequence[float], true: Sequence[float]) -> dict[str, float]:
    """Mean squared error, and the correlations of Pearson and Spearman (0 where one side does not vary)."""
    from scipy.stats import pearsonr, spearmanr

    predicted, true = np.asarray(predicted, dtype=np.float64), np.asarray(true, dtype=np.float64)
    scores = {"mean_squared_error": float(np.mean((predicted - true) ** 2)), "pearson": 0.0, "spearman": 0.0}
    if len(true) > 1 and np.ptp(predicted) > 0 and np.ptp(true) > 0:
        with warnings.catch_warnings():
            # Numbers that hardly vary are warned of; their correlation is still what is asked for.
            warnings.simplefilter("ignore")
            found = {"pearson": pearsonr(predicted, true)[0], "spearman": spearmanr(predicted, true)[0]}
        scores |= {name: float(value) for name, value in found.items() if np.isfinite(value)}
    return scores
