"""The curves of a run: read as they were logged, and a damaged file is named with its line."""

import json

import pytest

from tests.helpers.explained import SENTENCE, make, tokenizer
from vaswani_tx import explain
from vaswani_tx.cli import main
from vaswani_tx.explain.packing import unpack
from vaswani_tx.explain.runs import MAX_POINTS, read_run

RECIPE = "schedule: linear\nwarmup_steps: 200\nlearning_rate: 0.003\nlabel_smoothing: 0.1\nmax_steps: 1700\nseed: 1\n"


def train(step, loss=2.0, rate=1e-3):
    return {"event": "train", "step": step, "epoch": 0, "loss": loss, "learning_rate": rate, "target_tokens": 10 * step}


def validation(step, loss, best=False, **scores):
    return {"event": "validation", "step": step, "loss": loss, "beam": 1, "best": best, "bleu_signature": "x", **scores}


def lines(*records):
    return "".join(json.dumps(record) + "\n" for record in records)


@pytest.fixture
def folder(tmp_path):
    run = tmp_path / "first"
    run.mkdir()
    (run / "recipe.yaml").write_text(RECIPE, encoding="utf-8")
    return run


def test_run_is_read_as_it_was_logged(folder):
    records = [train(25, 6.5), train(50, 5.25), validation(50, 4.5, bleu=1.5, best=True), {"event": "best", "step": 50}]
    (folder / "metrics.jsonl").write_text(lines(*records, train(75, 4.0), validation(75, 4.6)), encoding="utf-8")
    run = read_run(folder)
    assert run["name"] == "first" and run["stride"] == 1 and run["best"] == 50
    assert run["train"] == {"step": [25, 50, 75], "loss": [6.5, 5.25, 4.0], "learning_rate": [1e-3] * 3}
    assert run["validation"] == {"step": [50, 75], "loss": [4.5, 4.6], "bleu": [1.5, None]}
    assert run["recipe"] == {
        "schedule": "linear", "warmup_steps": 200, "learning_rate": 0.003, "label_smoothing": 0.1, "max_steps": 1700,
    }  # fmt: skip


def test_restart_replaces_what_it_repeats_and_the_line_being_written_waits(folder):
    records = [train(25), validation(25, 3.0), train(50, 9.0), validation(50, 9.0), train(25, 1.5), train(50, 1.25)]
    (folder / "metrics.jsonl").write_text(lines(*records) + '{"event": "tr', encoding="utf-8")
    run = read_run(folder)
    assert run["train"]["loss"] == [1.5, 1.25]
    assert run["validation"] == {"step": []}
    (folder / "metrics.jsonl").write_text(lines(train(25), validation(25, 3.0), train(25, 1.0)), encoding="utf-8")
    assert read_run(folder)["train"]["loss"] == [1.0]


def test_long_run_is_thinned_to_what_a_curve_can_show(folder):
    (folder / "metrics.jsonl").write_text(lines(*(train(step) for step in range(1, 2001))), encoding="utf-8")
    run = read_run(folder)
    assert run["stride"] == 4 and len(run["train"]["step"]) == 500 <= MAX_POINTS
    assert run["train"]["step"][-1] == 2000


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{broken", "is no JSON"),
        ("[1]", "no object with the field 'event'"),
        ('{"event": "train", "step": 2.5}', "no update number in 'step' but 2.5"),
        ('{"event": "train", "step": 30, "loss": "low"}', "no number in 'loss' but 'low'"),
        ('{"event": "train", "step": 30, "loss": 1.0}', "no number in 'learning_rate' but None"),
        ('{"event": "validation", "step": 30, "loss": NaN}', "NaN is no number of JSON"),
        ('{"event": "train", "step": true, "loss": 1.0}', "no update number"),
        ("", "is no JSON"),
    ],
)
def test_damaged_line_is_named(folder, line, reason):
    (folder / "metrics.jsonl").write_text(lines(train(25)) + line + "\n" + lines(train(50)), encoding="utf-8")
    with pytest.raises(explain.ExplainError) as error:
        read_run(folder)
    assert f"{folder / 'metrics.jsonl'} line 2 " in str(error.value) and reason in str(error.value)


def test_damaged_bytes_and_recipes_are_named(folder):
    (folder / "metrics.jsonl").write_bytes(lines(train(25)).encode() + b'{"event": "\xff"}\n')
    with pytest.raises(explain.ExplainError, match="line 2 is no JSON"):
        read_run(folder)
    (folder / "metrics.jsonl").write_text(lines(train(25)), encoding="utf-8")
    for text, reason in (
        ("a: [", "cannot be read"),
        ("- 1", "no mapping"),
        ("warmup_steps: many", "warmup_steps is"),
        ("[" * 5000, "cannot be read"),
        (f"warmup_steps: {'9' * 400}", "warmup_steps is"),
    ):
        (folder / "recipe.yaml").write_text(text, encoding="utf-8")
        with pytest.raises(explain.ExplainError, match=reason):
            read_run(folder)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("[" * 100_000, "is no JSON"),
        ('{"event": "validation", "step": 1, "loss": 1, "\\ud800": 2}', "is no JSON"),
        ('{"event": "validation", "step": 1, "loss": ' + "9" * 400 + "}", "no number in 'loss'"),
        ('{"event": "validation", "loss": 1, "step": ' + "9" * 400 + "}", "no update number in 'step'"),
    ],
    ids=["deep", "half a character", "large", "step"],
)
def test_hostile_line_is_named(folder, line, reason):
    (folder / "metrics.jsonl").write_text(f"{line}\n", encoding="utf-8")
    with pytest.raises(explain.ExplainError, match=f"line 1 .*{reason}"):
        read_run(folder)


def test_folder_that_is_no_run(tmp_path):
    with pytest.raises(explain.ExplainError, match="is no folder"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(explain.ExplainError, match=r"has no metrics\.jsonl"):
        read_run(tmp_path)
    (tmp_path / "metrics.jsonl").write_text("", encoding="utf-8")
    with pytest.raises(explain.ExplainError, match="no record of training yet"):
        read_run(tmp_path)


def test_command_puts_the_run_into_the_page(folder, tmp_path, capsys):
    (folder / "metrics.jsonl").write_text(lines(train(25, 6.5)), encoding="utf-8")
    model, path = tmp_path / "model", tmp_path / "page.html"
    make("causal").save_pretrained(model)
    tokenizer().save_pretrained(model)
    assert main(["explain", str(model), SENTENCE, "--run", str(folder), "-o", str(path), "-q"]) == 0
    packed = path.read_text(encoding="utf-8").split('id="data">')[1].split("<")[0]
    assert unpack(packed)[0]["run"] == read_run(folder)
    path.unlink()
    assert main(["explain", str(model), SENTENCE, "--run", str(tmp_path / "x"), "-o", str(path), "-q"]) == 2
    assert "is no folder" in capsys.readouterr().err and not path.exists()
