"""Reading metrics.jsonl, whole, torn, broken and restarted, and drawing it."""

import json
import xml.etree.ElementTree as ElementTree

import numpy as np
import pytest
from matplotlib.image import imread

from tests.helpers.metrics_files import train, validation, write
from vaswani_tx.training.errors import MetricsError
from vaswani_tx.training.reporting.plots import (
    PANELS,
    Curves,
    Theme,
    draw_attention,
    draw_curves,
    draw_svg,
    draw_training_curve,
    panels_of,
    read_metrics,
)

# Reading


@pytest.mark.parametrize("end", ['{"event": "train", "step": 3, "lo', "\xff", '{"event"'])
def test_a_torn_last_line_is_left_out(tmp_path, end):
    path = tmp_path / "metrics.jsonl"
    path.write_bytes("".join(json.dumps(train(step)) + "\n" for step in (1, 2)).encode() + end.encode("latin-1"))
    assert [record["step"] for record in read_metrics(path)["train"]] == [1, 2]


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ('{"event": "train", "st', "line 2"),
        ("[1]", "not an object"),
        ('{"step": 1}', "'event'"),
        ('{"event": "train", "step": "one"}', "'step' is not a number"),
        ('{"event": "train", "step": NaN}', "'step' is not a number"),
    ],
)
def test_a_broken_line_in_the_middle_is_named(tmp_path, line, reason):
    path = write(tmp_path / "metrics.jsonl", [train(1)], line + "\n" + json.dumps(train(2)) + "\n")
    with pytest.raises(MetricsError, match=r"metrics\.jsonl line 2 is not a record") as error:
        read_metrics(path)
    assert reason in str(error.value)


def test_a_file_that_is_not_there_is_named(tmp_path):
    with pytest.raises(MetricsError, match="No such file"):
        read_metrics(tmp_path / "metrics.jsonl")


def test_after_a_restart_the_later_records_count(tmp_path):
    first = [train(2), train(4), validation(4), train(6)]
    again = [train(4, loss=1.5), validation(4, bleu=50.0), train(6), train(8)]
    events = read_metrics(write(tmp_path / "metrics.jsonl", first + again))
    assert [record["step"] for record in events["train"]] == [2, 4, 6, 8]
    assert events["train"][1]["loss"] == 1.5
    assert [record["bleu"] for record in events["validation"]] == [50.0]


def test_a_restart_from_nothing_also_drops_the_validations_that_it_has_not_reached(tmp_path):
    events = read_metrics(write(tmp_path / "metrics.jsonl", [train(2), train(4), validation(4), train(2)]))
    assert [record["step"] for record in events["train"]] == [2]
    assert events["validation"] == []


# Points and panels


def test_validations_are_drawn_at_the_time_of_their_update():
    curves = Curves("run", {"train": [train(2), train(4)], "validation": [validation(3)]})
    loss = PANELS[0].series
    assert [list(points) for points in curves.points(loss[0], "time")] == [[4.0, 8.0], [4.5, 2.25]]
    assert list(curves.points(loss[1], "time")[0]) == [6.0]
    assert list(curves.points(loss[1], "updates")[0]) == [3.0]


def test_what_is_no_finite_number_is_not_drawn():
    records = [train(1, loss="<b>"), train(2, loss=True), train(3, loss=float("inf")), train(4, loss=None), train(5)]
    steps, _ = Curves("run", {"train": records}).points(PANELS[0].series[0], "updates")
    assert list(steps) == [5.0]


def test_a_run_without_validation_has_no_panels_of_it():
    names = [panel.name for panel in panels_of([Curves("run", {"train": [train(1)]})])]
    assert names == ["loss", "learning_rate", "throughput", "padding"]


def test_panels_follow_from_the_metrics_of_the_validations():
    scores = {"bits_per_byte": 1.5, "rouge1": 30.0, "ter": 50.0, "accuracy": 0.5, "f1": 0.25, "bleu": None, "chrf": "x"}
    panels = panels_of([Curves("run", {"train": [train(1)], "validation": [validation(1, **scores)]})])
    assert [panel.name for panel in panels] == [
        "loss", "perplexity", "bits_per_byte", "scores", "shares", "learning_rate", "throughput", "padding"
    ]  # fmt: skip
    _, perplexity, bits, percent, shares, *_ = panels
    assert (perplexity.title, perplexity.unit) == ("Perplexity of the validation set", "per token, logarithmic")
    assert perplexity.log and not bits.log and bits.title == "Bits per byte of the validation set"
    assert percent.title == "TER and ROUGE-1 of the validation set" and percent.from_zero
    assert [(line.key, line.best) for line in percent.series] == [("ter", "min"), ("rouge1", "max")]
    assert [line.label for line in shares.series] == ["accuracy", "F1"] and not shares.from_zero


# Drawing


def test_the_curves_of_one_run_become_a_png(tmp_path):
    path = write(tmp_path / "metrics.jsonl", [train(2), train(4), validation(4, bleu=None), train(6)])
    draw_training_curve(path, tmp_path / "curve.png", "cost in $x$ and <b>")
    image = imread(tmp_path / "curve.png")
    assert image.shape[0] > 800 and image.shape[1] > 1000 and image.std() > 0.01


def test_runs_of_one_record_and_of_many_are_drawn_together(tmp_path):
    many = Curves("many", {"train": [train(step) for step in range(1, 80)], "validation": [validation(9)]})
    draw_curves([many, Curves("one", {"train": [train(1)]})], tmp_path / "two.png", "two", axis="time")
    assert imread(tmp_path / "two.png").std() > 0.01


def test_a_run_without_records_cannot_be_drawn(tmp_path):
    with pytest.raises(MetricsError, match="'run': no record of training yet"):
        draw_curves([Curves("run", {})], tmp_path / "curve.png", "run")
    assert list(tmp_path.iterdir()) == []


def test_an_svg_keeps_its_text_and_the_theme_s_colours():
    theme = Theme(ink="#000001", grid="#000002", ground="#000003", colors=("#000010", "#000011"))
    text = draw_svg(PANELS[0], [Curves("run", {"train": [train(1), train(2)]})], "updates", theme)
    root = ElementTree.fromstring(text)
    words = [element.text for element in root.iter("{http://www.w3.org/2000/svg}text")]
    assert "updates" in words and "nats per target token" in words and "training" in words
    assert {"#000001", "#000002", "#000010"} <= theme_colors(text)


def theme_colors(text):
    return {text[at : at + 7] for at in range(len(text)) if text.startswith("#0000", at)}


def test_the_same_run_gives_the_same_svg():
    runs = [Curves("run", {"train": [train(1), train(2)]})]
    assert draw_svg(PANELS[0], runs, "time", Theme()) == draw_svg(PANELS[0], runs, "time", Theme())


def test_attention_is_drawn(tmp_path):
    weights = np.full((3, 2, 4), 0.25)
    draw_attention(weights, ["a", "$b$", " ", "d"], ["x", "y"], tmp_path / "attention.png", "heads")
    assert imread(tmp_path / "attention.png").std() > 0.01
