"""The report: what it says, that it is whole and safe, and what it refuses."""

import json
import os
import time
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.image import imread
from safetensors.numpy import save_file

from tests.helpers.metrics_files import train, validation, write
from vaswani_tx.training import report
from vaswani_tx.training.reporting.page import count, duration, names_of, render, short
from vaswani_tx.training.reporting.run_data import read_run

EVIL = "<script>alert('x')</script>"
ENVIRONMENT = {
    "started": "2026-01-02T03:04:05+00:00", "from_step": 0,
    "command": ["python", "-m", "vaswani_tx.training.train_translation"],
    "versions": {"python": "3.11.7", "torch": "2.13.0", "transformers": "5.23.0", "vaswani_tx": "0.1.0"},
    "git": {"revision": "0123456789abcdef", "dirty": True}, "processes": 1, "engine": "NO", "precision": "fp32",
    "hardware": {"cpu": "Imagined CPU", "cores": 8, "usable_cores": 4, "memory_gib": 16.0, "platform": "X", "gpus": []},
}  # fmt: skip
VOID = {"meta", "input", "br", "link", "img", "hr"}


class Page(HTMLParser):
    """Checks that a page is well-formed, and collects what the tests ask about."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.ids, self.texts, self.links = [], [], [], [], []
        self.feed(text)
        self.close()
        assert self.open == []
        self.text = " ".join(" ".join(self.texts).split())

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        self.ids += [value for name, value in attributes if name == "id"]
        self.links += [value for name, value in attributes if name in ("src", "href", "xlink:href", "action", "data")]
        assert not [name for name, _ in attributes if name.startswith("on")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open[-1:] != ["style"]:
            self.texts.append(data)

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


def make_run(folder, records=None, finished=True, recipe="", **files):
    folder.mkdir(parents=True, exist_ok=True)
    default = [train(2), train(4), validation(4, beam=1, sentences=5, bleu_signature="nrefs:1|tok:13a"), train(6)]
    write(folder / "metrics.jsonl", default if records is None else records)
    (folder / "recipe.yaml").write_text(f"output_dir: {json.dumps(str(folder))}\nseed: 7\nmax_steps: 6\n{recipe}")
    if finished:
        (folder / "finished.json").write_text('{"step": 6, "reason": "max_steps", "max_steps": 6}')
    for name, content in files.items():
        (folder / f"{name}.json").write_text(json.dumps(content))
    return folder


def make_checkpoint(place, state=None):
    place.mkdir(parents=True)
    (place / "config.json").write_text("{}")
    save_file({"a": np.zeros((300, 5), np.float32), "b": np.zeros(7, np.float32)}, place / "model.safetensors")
    if state:
        (place / "training_state").mkdir()
        (place / "training_state" / "state.json").write_text(json.dumps(state))


def page_of(*folders, title=None):
    folders = [str(folder) for folder in folders]
    runs = [read_run(path, name) for path, name in zip(folders, names_of(folders), strict=True)]
    return Page(render(runs, title or "title"))


# What it says


def test_the_data_of_a_classifier_have_no_corpora(tmp_path):
    data = {"task": "classification", "labels": ["a", "b"], "train": {"examples": 60}}
    assert "task classification" in page_of(make_run(tmp_path / "run", [train(2), train(4)], data=data)).text


def test_a_finished_run_from_head_to_recipe(tmp_path):
    records = [train(2), train(4), validation(4, beam=1, sentences=5, bleu_signature="nrefs:1|tok:13a")]
    records += [train(6), {**validation(6, bleu=41.5, beam=4), "event": "averaged"}]
    counts = {"counts": {"read": 1234, "duplicates": 5, "kept": 1229}, "corpora": [{"source": "a.en", "weight": 1}]}
    folder = make_run(tmp_path / "first", records, environment={"parts": [ENVIRONMENT]}, data=counts)
    make_checkpoint(folder / "checkpoints" / "step-00000004", {"step": 4, "seconds": 8.5})
    (folder / "samples.jsonl").write_text('{"source": "Hello.", "reference": "Hallo.", "hypothesis": "Na?"}\n')
    page = page_of(folder)
    for words in (
        "finished at update 6: max_steps 6 reached", "1,507 parameters", "12 s wall-clock", "60 target tokens seen",
        "4.00 best validation BLEU, update 4", "41.50 BLEU of averaged/ at the end, beam 4", "nrefs:1|tok:13a",
        "Imagined CPU, 4 of 8 cores", "torch 2.13.0", "0123456789abcdef with changes that are not committed",
        "read 1,234", "kept 1,229", "source a.en", "model Na?", "reference Hallo.", "step-00000004 4 4.00",
        "max_steps 6 null", "All 3 keys", "seed 7 Seed of initialisation",
    ):  # fmt: skip
        assert words in page.text, words
    assert page.count("svg") == 12 and page.count("h1") == 1


def test_only_what_differs_from_the_defaults_comes_first(tmp_path):
    run = read_run(make_run(tmp_path / "run", recipe="warmup_steps: 4000\nlr_factor: 2.0\nno_such_key: 1\n"))
    assert [row["name"] for row in run.recipe_rows() if row["differs"]] == [
        "output_dir", "seed", "max_steps", "lr_factor", "no_such_key"
    ]  # fmt: skip


def test_several_runs_are_shown_side_by_side(tmp_path):
    first = make_run(tmp_path / "a" / "run", recipe="warmup_steps: 10\n")
    second = make_run(tmp_path / "b" / "run", [train(2)], finished=False, recipe="warmup_steps: 20\n")
    page = page_of(first, second, title="two runs")
    assert "a/run" in page.text and "b/run" in page.text
    assert "warmup_steps 10 20" in page.text and "seed 7 7" not in page.text
    assert len([tag for tag, attributes in page.tags if attributes.get("class") == "key s1"]) == 2


def test_every_curve_has_words_for_those_who_do_not_see_it(tmp_path):
    page = page_of(make_run(tmp_path / "run"))
    pictures = [attributes for tag, attributes in page.tags if tag == "svg"]
    for attributes in pictures:
        assert attributes["role"] == "img"
        assert set(attributes["aria-labelledby"].split()) <= set(page.ids)
    assert "training goes from 4.5 at update 2 to 1.5 at update 6" in page.text
    assert len(set(page.ids)) == len(page.ids)
    labels = {attributes["for"] for tag, attributes in page.tags if tag == "label"}
    assert labels == {attributes["id"] for tag, attributes in page.tags if tag == "input"}


def test_the_state_of_a_run_that_is_not_finished(tmp_path):
    folder = make_run(tmp_path / "run", finished=False)
    assert read_run(folder).state()[0] == "running"
    long_ago = time.time() - 3600
    os.utime(folder / "metrics.jsonl", (long_ago, long_ago))
    assert read_run(folder).state()[0] == "stopped"
    (folder / "bad_batch.json").write_text('{"step": 7, "loss": "nan", "lines": []}')
    assert read_run(folder).state() == (
        "failed", "stopped at update 7: the loss became nan (its pairs are in bad_batch.json)"
    )  # fmt: skip


# Safe and whole


def test_nothing_of_a_run_becomes_markup(tmp_path):
    part = json.loads(json.dumps(ENVIRONMENT).replace("Imagined CPU", EVIL).replace("0123456789abcdef", EVIL))
    part["command"] = [EVIL]
    folder = make_run(
        tmp_path / "<b onload=x>", [train(2), validation(2, bleu_signature=EVIL)], finished=False,
        recipe=f"train_source: \"{EVIL}\"\n\"{EVIL}\": 1\nmodel: {{\"{EVIL}\": \"</style>\"}}\n",
        environment={"parts": [part]}, data={"counts": {EVIL: EVIL}, "corpora": [{"source": EVIL}], EVIL: EVIL},
    )  # fmt: skip
    (folder / "finished.json").write_text(json.dumps({"step": 2, "reason": EVIL, EVIL: EVIL}))
    (folder / "samples.jsonl").write_text(json.dumps(dict.fromkeys(("source", "reference", "hypothesis"), EVIL)) + "\n")
    make_checkpoint(folder / "checkpoints" / "step-00000002", {"step": 2, "seconds": 1.0})
    for page in (page_of(folder, title=EVIL), page_of(folder, make_run(tmp_path / "other"), title=EVIL)):
        assert page.count("script") == 0 and page.count("b") < 20 and page.count("h1") == 1
        assert page.text.count(EVIL) >= 10 and "<b onload=x>" in page.text


def test_the_page_needs_nothing_from_elsewhere(tmp_path):
    text = render([read_run(make_run(tmp_path / "run"))], "title")
    page = Page(text)
    assert all(link.startswith("#") and link[1:] in page.ids for link in page.links)
    assert page.count("script") == page.count("link") == page.count("img") == 0
    assert "@import" not in text and "url(http" not in text
    [policy] = [a["content"] for tag, a in page.tags if a.get("http-equiv") == "Content-Security-Policy"]
    assert policy == "default-src 'none'; style-src 'unsafe-inline'"
    assert "prefers-color-scheme: dark" in text and 'name="viewport"' in text
    assert "#0000" not in text.replace("#000000", ""), "a placeholder colour was left in a picture"


# Runs of all kinds


def test_a_run_without_validation_or_records_or_recipe(tmp_path):
    page = page_of(make_run(tmp_path / "a", [train(2), train(4)], finished=False))
    assert page.count("svg") == 8 and "validations" not in page.text
    assert "No record yet" in page_of(make_run(tmp_path / "b", [], finished=False)).text
    assert "0 updates" in page_of(make_run(tmp_path / "b", [], finished=False)).text
    folder = make_run(tmp_path / "c")
    (folder / "recipe.yaml").unlink()
    assert "No recipe.yaml" in page_of(folder).text
    folder = make_run(tmp_path / "d")
    (folder / "metrics.jsonl").unlink()
    assert "No record yet" in page_of(folder).text


def test_validations_of_the_loss_alone(tmp_path):
    record = {"event": "validation", "step": 4, "loss": 2.5, "perplexity": 12.2, "best": True}
    page = page_of(make_run(tmp_path / "run", [train(4), record]))
    assert "2.500 best validation loss, update 4" in page.text


def test_metrics_of_other_tasks_have_their_columns(tmp_path):
    signed = {"rouge1": 31.256, "rouge1_signature": "nrefs:1|stem:porter"}
    record = {"event": "validation", "step": 4, "loss": 2.5, "best": True, "accuracy": 0.75, "f1": 0.5}
    averaged = {"event": "averaged", "step": 4, "loss": 2.5, "accuracy": 0.875}
    classifier = make_run(tmp_path / "classifier", [train(4), record, averaged])
    page = page_of(classifier)
    assert "0.7500 best validation accuracy, update 4" in page.text
    assert "0.8750 accuracy of averaged/ at the end" in page.text and ", beam" not in page.text
    assert "model accuracy F1 loss" in page.text and "BLEU" not in page.text
    assert "best validation, update 4 0.7500 0.5000 2.5000" in page.text
    summaries = make_run(tmp_path / "summaries", [train(4), {"event": "validation", "step": 4, "best": True, **signed}])
    page = page_of(summaries)
    assert "31.26 best validation ROUGE-1, update 4" in page.text and "ROUGE-1: nrefs:1|stem:porter" in page.text
    page = page_of(classifier, summaries)
    assert "best ROUGE-1 accuracy there F1 there loss there at update averaged ROUGE-1" in page.text


def test_a_torn_last_line_and_a_half_written_checkpoint_do_no_harm(tmp_path):
    folder = make_run(tmp_path / "run", finished=False)
    with (folder / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "st')
    make_checkpoint(folder / "checkpoints" / "step-00000004", {"step": 4, "seconds": 8.5})
    (folder / "checkpoints" / "step-00000004" / "model.safetensors").write_bytes(b"half")
    run = read_run(folder)
    assert (run.step, run.parameters, len(run.checkpoints)) == (6, None, 1)
    Page(render([run], "title"))


# The command


def test_the_command_writes_page_and_picture(tmp_path, capsys):
    folder = make_run(tmp_path / "run")
    assert report.main([str(folder)]) == 0
    assert capsys.readouterr().out.strip() == str(folder / "report.html")
    Page((folder / "report.html").read_text(encoding="utf-8"))
    png = tmp_path / "new" / "curves.png"
    (folder / "report.html").unlink()
    assert report.main([str(folder), "--png", str(png), "--png-axis", "time"]) == 0
    assert imread(png).std() > 0.01 and [path.name for path in png.parent.iterdir()] == ["curves.png"]
    assert not (folder / "report.html").exists()


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (lambda folder: folder / "nowhere", "There is no folder"),
        (lambda folder: folder.parent, "it has neither recipe.yaml nor metrics.jsonl. Did you mean one of"),
        (lambda folder: (folder / "metrics.jsonl").write_text("{}\n{}\n"), "metrics.jsonl line 1 is not a record"),
        (lambda folder: (folder / "recipe.yaml").write_text("a: [1"), "recipe.yaml' cannot be read"),
        (lambda folder: (folder / "recipe.yaml").write_text("- a"), "recipe.yaml' is not a mapping"),
        (lambda folder: (folder / "finished.json").write_text("{"), "finished.json' is damaged"),
        (lambda folder: (folder / "environment.json").write_text('{"parts": 1}'), "environment.json' is damaged"),
        (lambda folder: (folder / "data.json").write_text("[]"), "data.json' is damaged (not an object)"),
        (lambda folder: (folder / "samples.jsonl").write_text("{}\n"), "samples.jsonl line 1 is not an object"),
        (lambda folder: (folder / "report.html").mkdir(), "is a folder: name a file"),
    ],
)  # fmt: skip
def test_what_cannot_be_reported_ends_with_status_2_and_writes_nothing(tmp_path, capsys, spoil, message):
    folder = make_run(tmp_path / "runs" / "run")
    found = spoil(folder)
    path = found if isinstance(found, type(folder)) else folder
    before = sorted(tmp_path.rglob("*"))
    assert report.main([str(path)]) == 2
    assert message in capsys.readouterr().err
    assert sorted(tmp_path.rglob("*")) == before


def test_a_picture_without_a_record_is_refused_and_leaves_nothing(tmp_path, capsys):
    folder = make_run(tmp_path / "run", [], finished=False)
    assert report.main([str(folder), "--png", str(tmp_path / "curves.png")]) == 2
    assert "no record of training yet" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["run"]


def test_numbers_as_text():
    assert [count(value) for value in (None, 12, 12345, 2_598_912, 3e9)] == [
        "–", "12", "12,345", "2.6 million", "3 billion"
    ]  # fmt: skip
    assert [duration(value) for value in (None, 5, 2820, 3 * 3600 + 300, 200_000)] == [
        "–", "5 s", "47 min", "3 h 05 min", "2 d 07 h"
    ]  # fmt: skip
    assert [short(value) for value in (None, True, 1234, 0.5, "a")] == ["–", "yes", "1,234", "0.5", "a"]
