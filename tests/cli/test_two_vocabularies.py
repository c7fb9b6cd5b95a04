"""The command line with a model whose source and target have a vocabulary each."""

import json

import pytest
import torch

from tests.helpers.cli_runs import command, refused
from tests.helpers.two_vocabularies import ENGLISH, GERMAN, model_of, separate_tokenizers
from vaswani_tx import VaswaniTokenizer
from vaswani_tx.explain import page
from vaswani_tx.explain.trace import trace


@pytest.fixture(scope="module")
def sides():
    target, source = separate_tokenizers()
    return source, target  # the source's ids run further than the target's, and its padding is another


@pytest.fixture(scope="module")
def model(sides):
    return model_of(VaswaniTokenizer.pair(*sides))


@pytest.fixture(scope="module")
def folder(sides, model, tmp_path_factory):
    place = tmp_path_factory.mktemp("two") / "model"
    VaswaniTokenizer.pair(*sides).save_pretrained(place)
    model.save_pretrained(place)
    return place


@pytest.fixture
def files(tmp_path):
    # Sides exchanged: the source is German here.
    (tmp_path / "a").write_text("".join(f"{line}\n" for line in GERMAN), encoding="utf-8")
    (tmp_path / "b").write_text("".join(f"{line}\n" for line in ENGLISH), encoding="utf-8")
    return ["--source", tmp_path / "a", "--target", tmp_path / "b"]


def test_translate_reads_one_and_writes_the_other(sides, model, folder, files):
    expected = []
    for text in GERMAN:
        ids = model.generate(**sides[0]([text], return_tensors="pt"))
        expected += sides[1].batch_decode(ids, skip_special_tokens=True)
    done = command("translate", folder, "--input", files[1], "--batch-size", 3)
    assert done.status == 0 and done.lines == expected
    chosen = ("--format", "jsonl", "--alignments", "tokens", "--require", "house", "--forbid", "grass")
    done = command("translate", folder, "--input", files[1], *chosen)
    for text, line in zip(GERMAN, done.lines, strict=True):
        record = json.loads(line)
        best = record["hypotheses"][0]
        assert "house" in best["text"] and "grass" not in best["text"]
        for link in best["alignment"]:
            assert link["source_token"] == sides[0].tokenize(text)[link["source_index"]]


def test_score_is_of_the_targets_tokens(sides, model, folder, files):
    done = command("score", folder, *files, "--by-token", "--format", "jsonl", "--batch-size", 3)
    assert done.status == 0
    for source, target, line in zip(GERMAN, ENGLISH, done.lines, strict=True):
        inputs, labels = sides[0]([source], return_tensors="pt"), sides[1]([target], return_tensors="pt")["input_ids"]
        with torch.no_grad():
            logits = model(**inputs, labels=labels).logits
        expected = logits.log_softmax(-1).gather(-1, labels[..., None]).sum().item()
        record = json.loads(line)
        assert record["log_prob"] == pytest.approx(expected, abs=1e-3)
        assert [token["token"] for token in record["by_token"]] == sides[1].convert_ids_to_tokens(labels[0].tolist())


def test_info_shows_both(sides, folder):
    done = command("info", folder, "--json")
    found = json.loads(done.out)
    assert found["tokenizer"]["vocabulary"] == len(sides[0]) == found["sizes"]["source_vocab_size"]
    assert found["tokenizer"]["target"]["vocabulary"] == len(sides[1])
    ids = [side["special_tokens"]["pad_token"]["id"] for side in (found["tokenizer"], found["tokenizer"]["target"])]
    assert ids == [sides[0].pad_token_id, sides[1].pad_token_id]
    shown = command("info", folder).out
    assert f"{len(sides[0])} tokens" in shown and f"target, {len(sides[1])} tokens" in shown


def test_a_tokenizer_of_one_side_is_refused(sides, folder, files, tmp_path):
    sides[0].save_pretrained(tmp_path / "one")
    refused(
        command("translate", folder, "--input", files[1], "--tokenizer", tmp_path / "one"),
        "tokenizer's target has",
        "330",
    )


def test_the_page_reads_each_side_by_its_own(sides, model, folder):
    pair = VaswaniTokenizer.from_pretrained(folder)
    assert page(model, pair, GERMAN[0], target=ENGLISH[1])
    found = trace(model, pair, GERMAN[0], ENGLISH[1])
    assert "".join(token.text for token in found.source if not token.special).strip() == GERMAN[0]
    assert "".join(token.text for token in found.target if not token.special).strip() == ENGLISH[1]
