"""Scores of language models against plain sums, for our models and for transformers' own GPT-2 and BERT."""

import json
import math
import re

import pytest
import torch
from transformers import BertConfig, BertForMaskedLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from vaswani_tx import (
    VaswaniDecoderConfig,
    VaswaniEncoderConfig,
    VaswaniForCausalLM,
    VaswaniForMaskedLM,
    VaswaniTokenizer,
)
from vaswani_tx.training import evaluate_language_model
from vaswani_tx.training.data.masking import Masker
from vaswani_tx.training.inference.language_modeling import _rows, causal_scores, masked_scores, pseudo_log_likelihoods

LINES = ["ba be bi bo bu", "da de", "ba dä de? Be bi bo bu da de di do du.", "bu"]
SIZES = {"d_model": 16, "d_ff": 32, "num_heads": 2, "num_hidden_layers": 1, "dropout": 0.0}


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Four models of random weights, one a folder, with their tokenizers, and a text of four lines."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = VaswaniTokenizer.train(iter(LINES * 3), vocab_size=280, show_progress=False, mask_token="<mask>")
    size = len(tokenizer)
    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_attention_heads": 2, "num_hidden_layers": 1, "intermediate_size": 32}
    made = {
        "causal": VaswaniForCausalLM(VaswaniDecoderConfig(vocab_size=size, **SIZES)),
        "masked": VaswaniForMaskedLM(VaswaniEncoderConfig(vocab_size=size, **SIZES)),
        "gpt2": GPT2LMHeadModel(GPT2Config(vocab_size=size, n_embd=16, n_layer=1, n_head=2, n_positions=40)),
        "bert": BertForMaskedLM(BertConfig(vocab_size=size, max_position_embeddings=64, **small)),
    }
    for name, model in made.items():
        with torch.no_grad():
            # Far from uniform: a token scored in a wrong place must show.
            for parameter in model.parameters():
                parameter.mul_(3.0)
        model.save_pretrained(folder / name)
        kept = tokenizer.for_continuation() if name in ("causal", "gpt2") else tokenizer
        if name in ("gpt2", "bert"):
            kept.save_pretrained(folder / "tokenizer")
            kept = PreTrainedTokenizerFast.from_pretrained(folder / "tokenizer")
        kept.save_pretrained(folder / name)
    (folder / "test.txt").write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return folder


def evaluate(folder, name, *words):
    target = folder / "result.json"
    command = ["--model", str(folder / name), "--text", str(folder / "test.txt"), "--json", str(target), "--quiet"]
    assert evaluate_language_model.main([*command, *words]) == 0
    return json.loads(target.read_text(encoding="utf-8"))


def log_probabilities(folder, name, ids):
    with torch.no_grad():
        return loaded(folder, name).eval()(input_ids=torch.tensor([ids])).logits[0].log_softmax(-1)


def loaded(folder, name):
    kind = {
        "causal": VaswaniForCausalLM,
        "masked": VaswaniForMaskedLM,
        "gpt2": GPT2LMHeadModel,
        "bert": BertForMaskedLM,
    }
    return kind[name].from_pretrained(folder / name)


@pytest.mark.parametrize("name", ["causal", "gpt2"])
def test_perplexity_and_bits_per_byte_of_causal_models(folder, name, capsys):
    tokenizer = VaswaniTokenizer.from_pretrained(folder / "causal")
    nats = tokens = 0
    for line in LINES:
        ids = [1, *tokenizer(line, add_special_tokens=False).input_ids, 2]
        found = log_probabilities(folder, name, ids)
        nats -= sum(float(found[place, token]) for place, token in enumerate(ids[1:]))
        tokens += len(ids) - 1
    result = evaluate(folder, name)
    assert (result["kind"], result["tokens"], result["documents"]) == ("causal", tokens, 4)
    assert result["loss"] == pytest.approx(nats / tokens, rel=1e-5)
    assert result["perplexity"] == pytest.approx(math.exp(nats / tokens), rel=1e-5)
    size, words = (folder / "test.txt").stat().st_size, sum(len(line.split()) + 1 for line in LINES)
    assert (result["bytes"], result["words"]) == (size, words)
    assert result["bits_per_byte"] == pytest.approx(nats / math.log(2) / size, rel=1e-5)
    assert result["word_perplexity"] == pytest.approx(math.exp(nats / words), rel=1e-5)
    printed = capsys.readouterr().out
    assert f"{result['bits_per_byte']:.4f}" in printed and "per word" in printed


@pytest.mark.parametrize("context", [1, 3, 5])
def test_long_documents_see_what_came_before_and_count_each_token_once(folder, context):
    model, tokenizer = loaded(folder, "causal").eval(), VaswaniTokenizer.from_pretrained(folder / "causal")
    line = LINES[2]
    ids = [1, *tokenizer(line, add_special_tokens=False).input_ids, 2]
    assert len(ids) > 12
    nats, seen = 0.0, 1
    for start in range(0, len(ids), 6 - context):
        found = log_probabilities(folder, "causal", ids[start : start + 6])
        for place in range(seen, min(start + 6, len(ids))):
            nats -= float(found[place - 1 - start, ids[place]])
        seen = max(seen, min(start + 6, len(ids)))
    scores = causal_scores(model, tokenizer, [line], length=6, context=context)
    assert scores["tokens"] == len(ids) - 1
    assert scores["loss"] == pytest.approx(nats / (len(ids) - 1), rel=1e-5)


@pytest.mark.parametrize("name", ["masked", "bert"])
def test_masked_models_are_scored_on_the_same_words_each_time(folder, name, capsys):
    tokenizer = VaswaniTokenizer.from_pretrained(folder / "masked")
    result = evaluate(folder, name, "--rate", "0.4")
    masker = Masker.of(tokenizer, rate=0.4, seed=1)

    rows, nats, right, count = _rows(tokenizer, LINES, 64), 0.0, 0, 0
    for row in range(len(rows)):
        seen, labels = masker(rows.ids_of(row), rows.words_of(row), 0, row)
        found = log_probabilities(folder, name, seen.tolist())
        for place, label in enumerate(labels.tolist()):
            if label != -100:
                nats, count = nats - float(found[place, label]), count + 1
                right += int(found[place].argmax()) == label
    assert (result["kind"], result["tokens"]) == ("masked", count)
    assert result["loss"] == pytest.approx(nats / count, rel=1e-4)
    assert result["accuracy"] == pytest.approx(right / count)
    assert evaluate(folder, name, "--rate", "0.4")["loss"] == result["loss"]
    assert evaluate(folder, name, "--rate", "0.4", "--seed", "7")["loss"] != result["loss"]
    assert "of the masked tokens" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["masked", "bert"])
def test_the_pseudo_log_likelihood_masks_one_token_at_a_time(folder, name):
    tokenizer = VaswaniTokenizer.from_pretrained(folder / "masked")
    expected, count = [], 0
    for line in LINES:
        ids = tokenizer(line).input_ids
        expected.append(0.0)
        for place in range(len(ids) - 1):
            seen = [*ids[:place], tokenizer.mask_token_id, *ids[place + 1 :]]
            expected[-1] += float(log_probabilities(folder, name, seen)[place, ids[place]])
            count += 1
    for budget in (4096, 30):
        found = pseudo_log_likelihoods(loaded(folder, name), tokenizer, LINES, length=64, batch_tokens=budget)
        assert found[0] == pytest.approx(expected, rel=1e-4) and found[1] == count
    scores = folder / "scores.txt"
    result = evaluate(folder, name, "--pseudo", "--scores", str(scores))
    assert [float(line) for line in scores.read_text().split()] == pytest.approx(expected, rel=1e-4)
    assert result["pseudo_perplexity"] == pytest.approx(math.exp(-sum(expected) / count), rel=1e-4)
    gaps = folder / "gaps.en"
    gaps.write_text("".join(f"\n{line}\n \n" for line in LINES), encoding="utf-8")
    of_gaps = evaluate(folder, name, "--pseudo", "--scores", str(scores), "--text", str(gaps))
    found = [float(line) for line in scores.read_text().split()]
    assert found[1::3] == pytest.approx(expected, rel=1e-4) and set(found[::3] + found[2::3]) == {0.0}
    assert {key: of_gaps[key] for key in ("loss", "documents", "tokens", "pseudo_loss")} == {
        key: result[key] for key in ("loss", "documents", "tokens", "pseudo_loss")
    }


def test_batches_of_any_size_give_the_same_scores(folder):
    tokenizer = VaswaniTokenizer.from_pretrained(folder / "masked")
    model, masker = loaded(folder, "masked"), Masker.of(tokenizer, rate=0.3)
    small, large = (masked_scores(model, tokenizer, LINES, masker, length=64, batch_tokens=n) for n in (1, 4096))
    assert small["loss"] == pytest.approx(large["loss"], rel=1e-5) and small["accuracy"] == large["accuracy"]


@pytest.mark.parametrize(
    "words, message",
    [
        (["--model", "{}/nowhere"], "no model folder"),
        (["--text", "{}/nothing.txt"], r"nothing\.txt: there is no such file"),
        (["--pseudo"], "--pseudo is for masked models"),
        (["--length", "1"], "at least 2 tokens"),
        (["--length", "9", "--context", "9"], r"below --length \(9\)"),
        (["--json", "{}"], "is a folder"),
    ],
)
def test_what_cannot_be_used_is_named(folder, words, message, capsys):
    command = ["--model", f"{folder}/causal", "--text", f"{folder}/test.txt", "--quiet"]
    assert evaluate_language_model.main([*command, *(word.format(folder) for word in words)]) == 2

    assert re.search(message, capsys.readouterr().err)


def test_a_model_that_predicts_no_tokens_is_refused(folder, tmp_path, capsys):
    config = json.loads((folder / "masked" / "config.json").read_text(encoding="utf-8"))
    config["architectures"] = ["VaswaniForSequenceClassification"]
    (tmp_path / "config.json").write_text(json.dumps(config), encoding="utf-8")
    command = ["--model", str(tmp_path), "--text", f"{folder}/test.txt"]
    assert evaluate_language_model.main(command) == 2
    assert "holds a VaswaniForSequenceClassification: name a causal or masked" in capsys.readouterr().err
