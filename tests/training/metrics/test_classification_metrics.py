"""Scores of classifiers, taggers and answers against cases worked out by hand."""

import numpy as np
import pytest

from vaswani_tx.training.metrics.answers import answer_f1, answer_scores, normalise_answer
from vaswani_tx.training.metrics.classes import (
    confusion,
    each_class,
    multi_label_scores,
    regression_scores,
    single_label_scores,
)
from vaswani_tx.training.metrics.spans import are_spans, count_spans, precision_recall_f1, span_scores, spans


def test_single_label():
    # Class 0: 2 of 3 predictions right, 2 of 2 found (F1 0.8); class 1: 1 of 1, 1 of 2 (F1 2/3); class 2 nowhere.
    scores = single_label_scores([0, 0, 0, 1], [0, 0, 1, 1], classes=3)
    assert scores["accuracy"] == 0.75
    assert scores["f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    assert scores["weighted_f1"] == pytest.approx((0.8 + 2 / 3) / 2)
    # (TP TN - FP FN) / sqrt(3 * 1 * 2 * 2) with TP 2, TN 1, FP 1, FN 0.
    assert scores["matthews"] == pytest.approx(2 / np.sqrt(12))


def test_a_missed_class_counts_in_macro_f1():
    assert single_label_scores([0, 0], [0, 1], classes=2)["f1"] == pytest.approx((2 / 3 + 0) / 2)


def test_confusion_rows_are_true_classes():
    assert confusion([0, 1, 1], [0, 0, 1], classes=3) == [[1, 1, 0], [0, 1, 0], [0, 0, 0]]
    found = each_class([0, 1, 1], [0, 0, 1], ["a", "b", "c"])
    assert found["a"] == {"precision": 1.0, "recall": 0.5, "f1": pytest.approx(2 / 3), "count": 2}
    assert found["c"] == {"precision": 0.0, "recall": 0.0, "f1": 0.0, "count": 0}


def test_multi_label():
    predicted, true = np.array([[1, 0, 1], [0, 1, 0]]), np.array([[1, 1, 0], [0, 1, 0]])
    scores = multi_label_scores(predicted, true)
    # Two decisions right of three predicted and three true.
    assert scores["f1"] == pytest.approx(2 / 3)
    assert scores["macro_f1"] == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert scores["exact_match"] == 0.5


def test_regression():
    scores = regression_scores([1.0, 2.0, 4.0], [1.0, 3.0, 9.0])
    assert scores["mean_squared_error"] == pytest.approx(26 / 3)
    assert scores["spearman"] == pytest.approx(1.0)
    assert scores["pearson"] == pytest.approx(np.corrcoef([1, 2, 4], [1, 3, 9])[0, 1])
    assert regression_scores([2.0, 2.0], [1.0, 3.0])["spearman"] == 0.0
    # Ties share their rank: 1, 2.5, 2.5 against 1, 2, 3.
    assert regression_scores([1.0, 5.0, 5.0], [1.0, 2.0, 3.0])["spearman"] == pytest.approx(np.sqrt(3) / 2)


@pytest.mark.parametrize(
    ("tags", "expected"),
    [
        ("B-PER I-PER O B-LOC", [("PER", 0, 1), ("LOC", 3, 3)]),
        ("I-PER I-PER B-PER", [("PER", 0, 1), ("PER", 2, 2)]),
        ("B-PER I-LOC I-LOC", [("PER", 0, 0), ("LOC", 1, 2)]),
        ("B-A B-A", [("A", 0, 0), ("A", 1, 1)]),
        ("S-A B-A E-A I-A", [("A", 0, 0), ("A", 1, 2), ("A", 3, 3)]),
        ("U-A B-A I-A L-A O", [("A", 0, 0), ("A", 1, 3)]),
        ("O O", []),
        ("B-per-son I-per-son", [("per-son", 0, 1)]),
    ],
)
def test_spans_of_tags(tags, expected):
    assert spans(tags.split()) == expected


def test_span_scores_want_type_and_both_ends():
    true = [["B-PER", "I-PER", "O", "B-LOC"], ["B-LOC", "O"]]
    predicted = [["B-PER", "O", "O", "B-LOC"], ["B-PER", "O"]]
    # One right of three predicted and three true.
    assert span_scores(predicted, true) == {"precision": pytest.approx(1 / 3), "recall": 1 / 3, "f1": 1 / 3}
    assert count_spans(predicted, true) == {"LOC": (1, 1, 2), "PER": (0, 2, 1)}
    assert span_scores([["O"]], [["O"]]) == {"precision": 0.0, "recall": 0.0, "f1": 0.0}
    with pytest.raises(ValueError, match="2 words has 1"):
        span_scores([["O"]], [["O", "O"]])
    assert precision_recall_f1(2, 4, 2) == {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3)}


def test_which_tags_are_spans():
    assert are_spans(["O", "B-PER", "I-PER"]) and are_spans(["B-X"])
    assert not are_spans(["O"]) and not are_spans(["NOUN", "O"]) and not are_spans(["O", "B-PER", "CAP"])


def test_answers_as_squad_counts_them():
    assert normalise_answer("The  Cat's, an Answer!") == "cats answer"
    assert answer_f1("the red car", "red car") == 1.0
    # "old" and "car" against "red" and "car".
    assert answer_f1("old car", "red car") == 0.5
    assert answer_f1("", "") == 1.0 and answer_f1("", "car") == 0.0
    scores = answer_scores(["A red car", "blue", "", "x"], [["green", "red car"], ["dark blue"], [], []])
    assert scores["exact_match"] == 0.5
    assert scores["f1"] == pytest.approx((1 + 2 / 3 + 1 + 0) / 4)
