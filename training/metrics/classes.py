"""Scores of classifiers from plain lists and arrays; all shares run from 0 to 1.

Classes by scikit-learn, correlations by scipy. N examples, C classes.
"""

import warnings
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from vaswani_tx.training.metrics.registry import CLASSIFICATION, MULTI_LABEL, REGRESSION, score_predictions


def single_label_scores(predicted: Sequence[int], true: Sequence[int], classes: int) -> dict[str, float]:
    """Return every metric of a classification into one class each."""
    return score_predictions(CLASSIFICATION, predicted, true, classes)


def multi_label_scores(predicted: np.ndarray, true: np.ndarray) -> dict[str, float]:
    """Return every metric of a classification into any number of classes: 0 or 1, [N, C]."""
    return score_predictions(MULTI_LABEL, predicted, true)


def regression_scores(predicted: Sequence[float], true: Sequence[float]) -> dict[str, float]:
    """Return every metric of numbers."""
    return score_predictions(REGRESSION, predicted, true)


# One class of C for each example


def accuracy(predicted: Sequence[int], true: Sequence[int], classes: int) -> float:
    """Return the share of examples that are right."""
    return float(np.mean(np.asarray(predicted) == np.asarray(true)))


def macro_f1(predicted: Sequence[int], true: Sequence[int], classes: int) -> float:
    """Return F1 averaged over the classes.

    A class that is neither predicted nor true anywhere does not count; one that is never found counts as 0.
    """
    return _class_f1(predicted, true, classes, "macro")


def weighted_f1(predicted: Sequence[int], true: Sequence[int], classes: int) -> float:
    """Return F1 averaged over the examples."""
    return _class_f1(predicted, true, classes, "weighted")


def matthews(predicted: Sequence[int], true: Sequence[int], classes: int) -> float:
    """Return Matthews' correlation, from -1 to 1."""
    from sklearn.metrics import matthews_corrcoef

    return float(matthews_corrcoef(true, predicted))


def _class_f1(predicted: Sequence[int], true: Sequence[int], classes: int, average: str) -> float:
    from sklearn.metrics import f1_score

    present = sorted({*predicted, *true} & set(range(classes)))
    return float(f1_score(true, predicted, average=average, labels=present, zero_division=0.0))


def confusion(predicted: Sequence[int], true: Sequence[int], classes: int) -> list[list[int]]:
    """Count how often each class (a row) was taken for each other one (a column)."""
    from sklearn.metrics import confusion_matrix

    return confusion_matrix(true, predicted, labels=range(classes)).tolist()


def each_class(predicted: Sequence[int], true: Sequence[int], names: Sequence[str]) -> dict[str, dict[str, float]]:
    """Return precision, recall, F1 and number of examples of every class, by its name."""
    from sklearn.metrics import precision_recall_fscore_support

    columns = precision_recall_fscore_support(true, predicted, labels=range(len(names)), zero_division=0.0)
    rows = zip(names, *columns, strict=True)
    return {
        name: {"precision": float(p), "recall": float(r), "f1": float(f), "count": int(count)}
        for name, p, r, f, count in rows
    }


# Any number of C labels for each example: 0 or 1, [N, C]


def label_micro_f1(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return F1 over all decisions."""
    return _label_f1(predicted, true, "micro")


def label_macro_f1(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return F1 averaged over the labels."""
    return _label_f1(predicted, true, "macro")


def all_labels_match(predicted: np.ndarray, true: np.ndarray) -> float:
    """Return the share of examples all of whose labels are right."""
    return float((np.asarray(predicted) == np.asarray(true)).all(axis=1).mean())


def _label_f1(predicted: np.ndarray, true: np.ndarray, average: str) -> float:
    from sklearn.metrics import f1_score

    return float(f1_score(true, predicted, average=average, zero_division=0.0))


# Numbers


def mean_squared_error(predicted: Sequence[float], true: Sequence[float]) -> float:
    """Return the mean of the squared differences."""
    return float(np.mean((_numbers(predicted) - _numbers(true)) ** 2))


def pearson(predicted: Sequence[float], true: Sequence[float]) -> float:
    """Return Pearson's correlation, 0 where one side does not vary."""
    from scipy.stats import pearsonr

    return _correlation(pearsonr, predicted, true)


def spearman(predicted: Sequence[float], true: Sequence[float]) -> float:
    """Return Spearman's correlation of ranks, 0 where one side does not vary."""
    from scipy.stats import spearmanr

    return _correlation(spearmanr, predicted, true)


def _numbers(values: Sequence[float]) -> np.ndarray:
    return np.asarray(values, dtype=np.float64)


def _correlation(function: Callable[..., Any], predicted: Sequence[float], true: Sequence[float]) -> float:
    predicted, true = _numbers(predicted), _numbers(true)
    if len(true) < 2 or np.ptp(predicted) == 0 or np.ptp(true) == 0:
        return 0.0
    with warnings.catch_warnings():
        # scipy warns of numbers that hardly vary; their correlation is still the result.
        warnings.simplefilter("ignore")
        value = float(function(predicted, true)[0])
    return value if np.isfinite(value) else 0.0
