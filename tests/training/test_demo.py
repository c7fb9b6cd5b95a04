"""`make demo` with a small corpus: every stage runs and writes its results, and files of others are not deleted."""

import json

import pytest

from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration
from vaswani_tx.training import demo
from vaswani_tx.training.models.initialization import scale_attention


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo") / "run"
    assert demo.main(["--output-dir", str(folder), "--pairs", "400", "--max-steps", "210"]) == 0
    return folder


@pytest.mark.fresh
def test_leaves_model_scores_translations_and_pictures(folder):
    for name in ("training_curve.png", "cross_attention.png"):
        assert (folder / name).read_bytes().startswith(b"\x89PNG")
    rows = [line.split("\t") for line in (folder / "translations.tsv").read_text(encoding="utf-8").splitlines()]
    scores = json.loads((folder / "scores.json").read_text(encoding="utf-8"))
    assert rows[0] == ["source", "reference", "hypothesis"] and len(rows) == 81
    assert scores["exact_match"] == pytest.approx(sum(row[1] == row[2] for row in rows[1:]) / 80)
    assert {"bleu", "bleu_signature", "phenomena"} <= set(scores)
    assert (folder / "explain.html").read_text(encoding="utf-8").startswith("<!doctype html>")
    assert (folder / "model" / "model.safetensors").is_file() and (folder / "model" / "tokenizer.json").is_file()


@pytest.mark.fresh
def test_no_test_sentence_was_trained_on(folder):
    parts = {
        (name, side): set((folder / "data" / f"{name}.{side}").read_text(encoding="utf-8").splitlines())
        for name in ("train", "val", "test")
        for side in ("en", "de")
    }
    for side in ("en", "de"):
        assert parts["test", side] and not parts["train", side] & parts["test", side]
        assert not parts["train", side] & parts["val", side]


def test_a_folder_with_other_files_is_refused(tmp_path, capsys):
    (tmp_path / "thesis.txt").write_text("years of work")
    assert demo.main(["--output-dir", str(tmp_path)]) == 1
    assert (tmp_path / "thesis.txt").read_text() == "years of work"
    assert "--output-dir" in capsys.readouterr().err


def test_initial_attention_is_scaled_on_request():
    config = VaswaniConfig.from_preset("tiny", vocab_size=20)
    model = VaswaniForConditionalGeneration(config)
    before = {name: value.clone() for name, value in model.named_parameters()}
    scale_attention(model, 0.5)
    for name, value in model.named_parameters():
        factor = 0.5 if name.split(".")[-2] in ("q_proj", "k_proj", "v_proj") else 1.0
        assert (value == before[name] * factor).all(), name
