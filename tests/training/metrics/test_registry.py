"""The registry: every entry is whole, light to import, and read by everything that names a metric."""

import subprocess
import sys

import numpy as np
import pytest

from vaswani_tx.training.metrics import registry
from vaswani_tx.training.metrics.registry import (
    BY_NAME,
    FAMILIES,
    MAIN_METRICS,
    METRICS,
    TAGGING,
    TEXT,
    MetricSpec,
    card_titles,
    check_metric,
    describe,
    found_metrics,
    metrics_for,
    score_predictions,
    signed_metrics,
)
from vaswani_tx.training.metrics.spans import tag_scores
from vaswani_tx.training.metrics.text_metrics import TextMetric, TextOptions

EXAMPLES = {
    "classification": ([0, 1, 1], [0, 1, 0], 2),
    "multi_label": (np.array([[1, 0], [1, 1]]), np.array([[1, 0], [0, 1]])),
    "regression": ([1.0, 2.0, 4.0], [1.0, 3.0, 9.0]),
    "tagging": ([["A", "O"]], [["A", "A"]], ["A", "O"]),
    "question_answering": (["red", "x"], [["red"], ["blue"]]),
}


def test_every_function_is_there_and_every_family_has_its_main_metric():
    for spec in METRICS:
        assert set(spec.families) <= set(FAMILIES) and spec.families and spec.title
        assert spec.show(0.5) and spec.show_precisely(0.5)
        if spec.function is not None:
            assert callable(spec.resolve())
        if spec.signed:
            assert isinstance(spec.resolve()(TextOptions()), TextMetric)
    assert MAIN_METRICS.keys() == set(FAMILIES)
    for family, name in MAIN_METRICS.items():
        assert name in metrics_for(family)
        names = [spec.name for spec in METRICS if family in spec.families]
        assert len(set(names)) == len(names), "one metric of a name in each family"
    with pytest.raises(ValueError, match="loss has no function of its own"):
        BY_NAME["loss"].resolve()


def test_families_that_share_a_name_share_how_it_is_shown():
    for spec in METRICS:
        first = BY_NAME[spec.name]
        for field in ("title", "higher_is_better", "number", "scale", "in_line", "signed"):
            assert getattr(spec, field) == getattr(first, field), (spec.name, field)


@pytest.mark.parametrize("family", EXAMPLES)
def test_every_metric_with_a_function_is_scored(family):
    scores = score_predictions(family, *EXAMPLES[family])
    assert list(scores) == [name for name, spec in metrics_for(family).items() if spec.function]
    assert all(type(value) is float for value in scores.values())


def test_the_registry_imports_nothing_else():
    lines = (
        "import sys, importlib.util as util",
        f"spec = util.spec_from_file_location('registry', {registry.__file__!r})",
        "module = util.module_from_spec(spec)",
        "sys.modules['registry'], before = module, set(sys.modules)",
        "spec.loader.exec_module(module)",
        "print(*(set(sys.modules) - before - {'registry'} - sys.stdlib_module_names))",
    )
    script = "\n".join(lines)
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert [name for name in done.stdout.split() if "." not in name and not name.startswith("_")] == []


def test_unknown_names_are_refused_with_those_that_there_are():
    assert check_metric("f1", TAGGING).title == "F1"
    with pytest.raises(ValueError, match=r"no metric 'bleu' for this task: choose one of loss, accuracy, precision"):
        check_metric("bleu", TAGGING)
    with pytest.raises(ValueError, match=r"no family of tasks 'poems': choose one of text, causal_lm"):
        metrics_for("poems")


def test_found_metrics_come_in_the_order_of_the_registry_and_only_numbers_count():
    scores = {"chrf": 2, "bleu": 1.0, "ter": None, "rouge1": True, "accuracy": float("nan"), "step": 3, "loss": 0.5}
    assert [spec.name for spec in found_metrics(scores)] == ["loss", "bleu", "chrf"]


def test_a_validation_in_one_line():
    scores = {"loss": 1.23456, "perplexity": 3.4567, "bleu": 12.345, "chrf": 40.0, "bleu_signature": "nrefs:1|x",
              "chrf_signature": "nrefs:1|y", "beam": 4, "sentences": 250, "validation_seconds": 1.5}  # fmt: skip
    assert describe(scores) == "loss 1.2346, perplexity 3.46, BLEU 12.35, chrF 40.00 (beam 4, 250 sentences, nrefs:1|x)"
    scores = {"loss": 0.5, "exact_match": 0.25, "f1": 0.125, "macro_f1": 0.5, "examples": 9}
    assert describe(scores) == "loss 0.5000, exact match 0.2500, F1 0.1250"
    assert describe({"loss": 2.0, "perplexity": 7.389, "bits_per_byte": 1.5}) == (
        "loss 2.0000, perplexity 7.39, bits per byte 1.5000"
    )
    scores = {"loss": 1.0, "rouge1": 30.0, "rouge1_signature": "nrefs:1|z", "sentences": 5}
    assert describe(scores) == "loss 1.0000, ROUGE-1 30.00 (5 sentences, nrefs:1|z)"


def test_titles_of_cards():
    titles = card_titles()
    assert titles["ter"] == "TER (lower is better)" and titles["chrf"] == "chrF" and titles["rougeL"] == "ROUGE-L"


def test_scores_of_tags_as_of_the_words_alone():
    names = ["A", "B", "O"]
    found = tag_scores([["A", "O", "B"], ["O"]], [["A", "B", "B"], ["A"]], names)
    # Of the tags beside O two are right of two predicted and four true.
    assert found["accuracy"] == 0.5 and (found["precision"], found["recall"]) == (1.0, 0.5)
    assert found["f1"] == pytest.approx(2 / 3)
    assert found["macro_f1"] == pytest.approx((2 / 3 + 2 / 3 + 0) / 3)
    spans = tag_scores([["B-X", "I-X", "O"]], [["B-X", "O", "O"]], ["O", "B-X", "I-X"])
    assert list(spans) == ["accuracy", "precision", "recall", "f1"] and spans["f1"] == 0.0


def test_one_entry_more_shows_everywhere(monkeypatch, tmp_path, capsys):
    """A further metric is offered, scored, compared, drawn and named in a card, and no other file knows its name."""
    from tests.helpers.metrics_files import train, validation
    from vaswani_tx.training import compare_translations, evaluate_translation
    from vaswani_tx.training.reporting.plots import Curves, panels_of

    spec = MetricSpec("words", "Words", (TEXT,), "rouge:rouge1", number=".2f", scale="percent", signed=True)
    monkeypatch.setattr(registry, "METRICS", (*METRICS, spec))
    monkeypatch.setitem(BY_NAME, "words", spec)
    assert "words" in signed_metrics() and card_titles()["words"] == "Words"
    for name in ("a", "b", "c"):
        (tmp_path / name).write_text("eins zwei\ndrei vier\n" if name != "b" else "eins\ndrei vier\n")
    files = [str(tmp_path / name) for name in ("a", "b", "c")]
    assert evaluate_translation.main(["--hypotheses", files[1], "--target", files[0], "--metrics", "words"]) == 0
    assert "Words        83.33   nrefs:1|" in capsys.readouterr().out
    words = ["--target", files[0], *files[1:], "--metrics", "words", "--samples", "5"]
    assert compare_translations.main(words) == 0
    assert "Words   nrefs:1|bs:5" in capsys.readouterr().out
    [panel] = [
        panel
        for panel in panels_of([Curves("run", {"train": [train(1)], "validation": [validation(1, words=5.0)]})])
        if panel.name == "scores"
    ]
    assert panel.title == "BLEU, chrF and Words of the validation set"
