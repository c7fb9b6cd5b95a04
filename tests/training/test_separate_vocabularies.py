"""Training with a vocabulary of each side: from text to a loaded model, starts from others, and what is refused."""

import json

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from tests.helpers.training_runs import SMALL, WORDS, flags, records, run
from vaswani_tx import (
    VaswaniDecoderConfig,
    VaswaniEncoderConfig,
    VaswaniForCausalLM,
    VaswaniForMaskedLM,
    VaswaniTokenizer,
)
from vaswani_tx.training import average_checkpoints, evaluate_translation, train_summarization, train_translation
from vaswani_tx.training.config.translation import TranslationSettings, parse_arguments
from vaswani_tx.training.data.corpora import Corpus
from vaswani_tx.training.data.filters import PairFilter
from vaswani_tx.training.data.token_cache import cache_key
from vaswani_tx.training.data.translation_data import prepare_training_data
from vaswani_tx.training.experiments.sweep_rows import count_parameters, make_config

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

CYRILLIC = str.maketrans("abdeiou", "абдеиоу")
TWO = {"tokenizer": "null", "source_vocab_size": 270, "tokenizer_vocab_size": 290}
VALIDATION = {"validation_source": "v.src", "validation_target": "v.tgt", "final_beam": 1}


@pytest.fixture(scope="module")
def scripts(tmp_path_factory):
    """48 sentences of Latin letters, the same in Cyrillic ones, and their tokenizers: of both sides and of each."""
    folder = tmp_path_factory.mktemp("scripts")
    random = np.random.default_rng(0)
    lines = [" ".join(random.choice(WORDS, size=random.integers(2, 7))) for _ in range(48)]
    for name, texts in (("a", lines), ("v", lines[:3])):
        for side, written in (("src", texts), ("tgt", [text.translate(CYRILLIC) for text in texts])):
            (folder / f"{name}.{side}").write_text("".join(f"{text}\n" for text in written), encoding="utf-8")
    sides = [[folder / "a.src"], [folder / "a.tgt"]]
    VaswaniTokenizer.train([*sides[0], *sides[1]], vocab_size=290, show_progress=False).save_pretrained(
        folder / "tokenizer"
    )
    VaswaniTokenizer.train_pair(*sides, 270, 290, show_progress=False).save_pretrained(folder / "pair")
    return folder


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    """Tokenised data stay out of the user's cache."""
    monkeypatch.setenv("VASWANI_TX_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def start(scripts, tmp_path_factory):
    """A run of two updates with two vocabularies."""
    return run(scripts, tmp_path_factory.mktemp("start") / "run", max_steps=2, **TWO)


def last(folder):
    return sorted((folder / "checkpoints").iterdir())[-1]


def plain_loss(model, batch, smoothing):
    """The paper's loss of a batch, spelled out in float64: (1 - e) of the target, e spread over its vocabulary."""
    with torch.no_grad():
        logits = model(**batch).logits.double()
    log_probs = logits - logits.exp().sum(-1, keepdim=True).log()
    total, count = 0.0, 0
    for row, labels in zip(log_probs, batch["labels"], strict=True):
        for position, label in enumerate(labels.tolist()):
            if label >= 0:
                total -= float((1 - smoothing) * row[position, label] + smoothing * row[position].mean())
                count += 1
    return total / count


# From text to a model


def test_two_vocabularies_train_resume_exactly_and_load(scripts, tmp_path):
    options = {**TWO, **VALIDATION, "eval_every": 2, "save_every": 2, "average_last": 2}
    whole = run(scripts, tmp_path / "whole", max_steps=4, **options)
    pieces = tmp_path / "pieces"
    for limit in (2, 4):
        run(scripts, pieces, max_steps=limit, **options)
    for name in (
        "model.safetensors",
        "training_state/optimizer.safetensors",
        "tokenizer.json",
        "target_tokenizer.json",
    ):
        assert (last(whole) / name).read_bytes() == (last(pieces) / name).read_bytes(), name
    assert records(whole, "train") == records(pieces, "train")
    scores = records(whole, "validation")[-1]
    assert scores["loss"] > 0 and "bleu" in scores

    model = AutoModelForSeq2SeqLM.from_pretrained(whole / "averaged").eval()
    tokenizer = AutoTokenizer.from_pretrained(whole / "averaged")
    assert tokenizer.has_target
    sizes = len(tokenizer.source), len(tokenizer.target)
    assert sizes[0] <= 270 < sizes[1] <= 290 and (model.config.source_vocab_size, model.config.vocab_size) == sizes
    ids = tokenizer(["ba be"], return_tensors="pt")
    assert max(ids["input_ids"][0]) < sizes[0]
    written = model.generate(**ids, max_new_tokens=5, num_beams=1, do_sample=False)
    assert isinstance(tokenizer.batch_decode(written, skip_special_tokens=True)[0], str)
    # Each side learned from its own text: no Cyrillic letter is one token of the source, no Latin one of the target.
    assert len(tokenizer.source.tokenize("ба")) > len(tokenizer.target.tokenize("ба"))


def test_parameters_are_those_of_both_embeddings(scripts, start):
    model = AutoModelForSeq2SeqLM.from_pretrained(last(start))
    tokenizer = AutoTokenizer.from_pretrained(last(start))
    d, f = SMALL["d_model"], SMALL["d_ff"]
    attention, feed_forward, norm = 4 * d * d, 2 * d * f + f + d, 2 * d
    layers = (attention + feed_forward + 2 * norm) + (2 * attention + feed_forward + 3 * norm)
    expected = layers + d * (len(tokenizer.source) + len(tokenizer.target))
    assert sum(parameter.numel() for parameter in model.parameters()) == expected
    asked = {**TWO, "tokenizer": None, "source_vocab_size": len(tokenizer.source)}
    settings = TranslationSettings(
        **asked | {"tokenizer_vocab_size": len(tokenizer.target)}, preset="tiny", model=SMALL
    )
    assert count_parameters(make_config(settings)) == expected


def test_the_loss_of_a_batch_is_that_of_each_sides_tokens(scripts, start):
    settings = parse_arguments(flags(scripts, start, **{**TWO, "tokenizer": scripts / "pair"}))
    tokenizer = VaswaniTokenizer.from_pretrained(scripts / "pair")
    model = AutoModelForSeq2SeqLM.from_pretrained(last(start)).eval()
    data = prepare_training_data(settings, tokenizer)
    indices = data.plan.epoch(0)[0]
    batch = data.collate(indices)
    lines = {side: (scripts / f"a.{side}").read_text(encoding="utf-8").splitlines() for side in ("src", "tgt")}
    for row, index in enumerate(indices):
        number = data.pairs.lines[index] - 1
        source, target = tokenizer.source(lines["src"][number]), tokenizer.target(lines["tgt"][number])
        assert batch["input_ids"][row][batch["attention_mask"][row] == 1].tolist() == source["input_ids"]
        assert batch["labels"][row][batch["labels"][row] >= 0].tolist() == target["input_ids"]
    found = model(**batch, label_smoothing=0.1, skip_logits=True).loss.item()
    assert found == pytest.approx(plain_loss(model, batch, 0.1), abs=1e-5)


def test_a_flag_has_the_name_of_the_configuration_too():
    settings = parse_arguments(["--source-vocab-size", "8000", "--vocab-size", "10000"])
    assert (settings.source_vocab_size, settings.tokenizer_vocab_size) == (8000, 10000)


def test_a_second_name_beside_the_first_is_refused(tmp_path):
    (tmp_path / "r.yaml").write_text("vocab_size: 300\ntokenizer_vocab_size: 400\n")
    with pytest.raises(ValueError, match=r"r\.yaml: vocab_size and tokenizer_vocab_size are one key"):
        parse_arguments([str(tmp_path / "r.yaml")])


def test_evaluation_and_averages_keep_both_sides(scripts, start, tmp_path):
    assert average_checkpoints.main([str(start), "--output", str(tmp_path / "averaged")]) == 0
    words = ["--model", tmp_path / "averaged", "--source", scripts / "v.src", "--target", scripts / "v.tgt"]
    words += ["--beam", 1, "--perplexity", "--quiet", "--json", tmp_path / "scores.json", "--max-new-tokens", 9]
    assert evaluate_translation.main(list(map(str, words))) == 0
    scores = json.loads((tmp_path / "scores.json").read_text())
    model, tokenizer = (c.from_pretrained(tmp_path / "averaged") for c in (AutoModelForSeq2SeqLM, AutoTokenizer))
    sides = [(scripts / f"v.{side}").read_text(encoding="utf-8").splitlines() for side in ("src", "tgt")]
    batch = tokenizer.source(sides[0], return_tensors="pt", padding=True)
    labels = tokenizer.target(sides[1], return_tensors="pt", padding=True)
    batch["labels"] = labels["input_ids"].masked_fill(labels["attention_mask"] == 0, -100)
    assert scores["nll"] == pytest.approx(plain_loss(model.eval(), batch, 0.0), abs=1e-5)


def test_documents_and_summaries_have_a_vocabulary_each(scripts, tmp_path):
    output = tmp_path / "run"
    AcceleratorState._reset_state(reset_partial_state=True)
    assert train_summarization.main(flags(scripts, output, max_steps=1, **TWO)) == 0
    tokenizer = AutoTokenizer.from_pretrained(last(output))
    assert tokenizer.has_target and tokenizer.model_max_length == 20


# Data


def test_caches_are_of_both_tokenizers(scripts):
    corpora, rules = [Corpus(str(scripts / "a.src"), str(scripts / "a.tgt"))], PairFilter()
    one, two = (
        VaswaniTokenizer.from_pretrained(scripts / "tokenizer"),
        VaswaniTokenizer.from_pretrained(scripts / "pair"),
    )
    tokenizers = [
        one, two, two.source, two.target, VaswaniTokenizer.pair(two.target, two.source),
        VaswaniTokenizer.pair(one, two.target), VaswaniTokenizer.pair(two.source, one),
    ]  # fmt: skip
    assert len({cache_key(corpora, tokenizer, rules) for tokenizer in tokenizers}) == len(tokenizers)
    again = VaswaniTokenizer.from_pretrained(scripts / "pair")
    again("ba", truncation=True, max_length=2, padding="max_length")
    assert cache_key(corpora, again, rules) == cache_key(corpora, two, rules)


def test_limits_are_of_each_sides_own_tokens(scripts):
    tokenizer = VaswaniTokenizer.from_pretrained(scripts / "pair")
    lengths = [
        [len(side(text)["input_ids"]) for text in (scripts / file).read_text(encoding="utf-8").splitlines()]
        for side, file in ((tokenizer.source, "a.src"), (tokenizer.target, "a.tgt"))
    ]
    limits = [sorted(side)[30] for side in lengths]
    settings = parse_arguments(flags(scripts, "out", **TWO, max_source_length=limits[0], max_target_length=limits[1]))
    pairs = prepare_training_data(settings, tokenizer).pairs
    expected = [pair for pair in zip(*lengths, strict=True) if all(a <= b for a, b in zip(pair, limits, strict=True))]
    assert 10 < len(pairs) < 48
    assert list(zip(pairs.source_lengths, pairs.target_lengths, strict=True)) == expected


# Starts


def test_a_model_with_two_vocabularies_is_fine_tuned_without_naming_them(scripts, start, tmp_path):
    second = run(scripts, tmp_path / "second", max_steps=1, init_from=last(start), tokenizer="null", lr_factor=1e-30)
    one, two = (load_file(folder / "model.safetensors") for folder in (last(start), last(second)))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


def test_a_new_vocabulary_of_each_side(scripts, start, tmp_path, capsys):
    source, target = VaswaniTokenizer.from_pretrained(last(start)).target, VaswaniTokenizer.from_pretrained(last(start))
    VaswaniTokenizer.pair(source, target.target).save_pretrained(tmp_path / "other")
    options = {"init_from": last(start), "tokenizer": tmp_path / "other", "source_vocab_size": 290, "max_steps": 1}
    run(scripts, tmp_path / "refused", expect=2, **options)
    assert "tokenizer: " in (error := capsys.readouterr().err) and "another vocabulary of the source" in error
    found = run(scripts, tmp_path / "second", **options, new_vocabulary=True, lr_factor=1e-30)
    error = capsys.readouterr().err
    assert "new vocabulary of the source on" in error and "new vocabulary of the target on" in error
    one, two = (load_file(folder / "model.safetensors") for folder in (last(start), last(found)))
    name = "model.decoder.embed_tokens.weight"
    torch.testing.assert_close(one[name], two[name])
    assert len(two["model.encoder.embed_tokens.weight"]) == len(source)


def save_stacks(scripts, folder):
    """A masked model of the source's language and a causal one of the target's, each with its tokenizer."""
    tokenizer = VaswaniTokenizer.from_pretrained(scripts / "pair")
    sizes = {name: SMALL[name] for name in ("d_model", "d_ff", "num_heads")} | {"num_hidden_layers": 1}
    masked = VaswaniForMaskedLM(VaswaniEncoderConfig(vocab_size=len(tokenizer.source), **sizes))
    causal = VaswaniForCausalLM(VaswaniDecoderConfig(vocab_size=len(tokenizer.target), **sizes))
    for model, words, name in (
        (masked, tokenizer.source, "masked"), (causal, tokenizer.target.for_continuation(), "causal")
    ):  # fmt: skip
        model.save_pretrained(folder / name)
        words.save_pretrained(folder / name)
    return tokenizer, masked, causal


def test_each_side_starts_from_a_model_of_its_language(scripts, tmp_path):
    tokenizer, masked, causal = save_stacks(scripts, tmp_path)
    options = {"tokenizer": "null", "source_vocab_size": 270, "lr_factor": 1e-30, "max_steps": 1}
    stacks = {"encoder_from": tmp_path / "masked", "decoder_from": tmp_path / "causal"}
    found = last(run(scripts, tmp_path / "both", **options, **stacks))
    weights, kept = load_file(found / "model.safetensors"), VaswaniTokenizer.from_pretrained(found)
    for model, side in ((masked, "encoder"), (causal, "decoder")):
        for name, value in model.model.state_dict().items():
            torch.testing.assert_close(weights[f"model.{side}.{name}"], value)
    assert kept.source.get_vocab() == tokenizer.source.get_vocab()
    # A causal model's tokenizer begins texts with <s>; here targets end with </s>, or no translation would end.
    assert kept(text_target="ба")["input_ids"] == tokenizer.target("ба")["input_ids"]

    alone = last(run(scripts, tmp_path / "alone", **options, decoder_from=tmp_path / "causal"))
    weights = load_file(alone / "model.safetensors")
    torch.testing.assert_close(weights["model.decoder.embed_tokens.weight"], causal.model.embed_tokens.weight.detach())
    assert len(weights["model.encoder.embed_tokens.weight"]) == len(VaswaniTokenizer.from_pretrained(alone).source)
    first = last(run(scripts, tmp_path / "first", **options, encoder_from=tmp_path / "masked", vocab_size=280))
    target = VaswaniTokenizer.from_pretrained(first).target
    assert 260 < len(target) <= 280 and len(target.tokenize("ба")) < len(tokenizer.source.tokenize("ба"))


def test_one_vocabulary_of_a_causal_model_ends_targets(scripts, tmp_path):
    save_stacks(scripts, tmp_path)
    found = last(run(scripts, tmp_path / "run", max_steps=1, tokenizer="null", encoder_from=tmp_path / "causal"))
    tokenizer = VaswaniTokenizer.from_pretrained(found)
    ids = tokenizer(text_target="ба")["input_ids"]
    assert not tokenizer.has_target and ids[-1] == tokenizer.eos_token_id and ids[0] != tokenizer.bos_token_id


# Refusals


WRONG = {
    "one tokenizer": ({"source_vocab_size": 270}, "source_vocab_size is 270, but"),
    "two unasked": ({"tokenizer": "pair"}, "source_vocab_size is empty: set it to 2"),
    "too few": ({"tokenizer": "pair", "source_vocab_size": 261}, "source_vocab_size is 261, but the source's"),
    "no target": (
        {"tokenizer": "null", "source_vocab_size": 270},
        "tokenizer_vocab_size (train one), since source_vocab_size is the source's",
    ),
    "the model's alone": ({"model.source_vocab_size": 290}, "model.source_vocab_size is the size of an embedding"),
    "too small": ({**TWO, "tokenizer": "pair", "model.source_vocab_size": 100}, "model.source_vocab_size is 100 but"),
    "no bytes": ({**TWO, "source_vocab_size": 200}, "`source_vocab_size` is 200: give a whole number of at least 260"),
    "of a model": ({**TWO, "init_from": "shared", "tokenizer": "pair"}, "was trained with one vocabulary"),
    "onto a model": ({"init_from": "shared", "source_vocab_size": 270, "tokenizer": "null"}, "leave source_vocab_size"),
    "one embedding": ({**TWO, "embeddings_from": "mean"}, "embeddings_from: mean is one embedding for both sides"),
    "a decoder": ({"decoder_from": "shared", "tokenizer": "null"}, "decoder_from needs encoder_from"),
}


@pytest.fixture(scope="module")
def shared(scripts, tmp_path_factory):
    return last(run(scripts, tmp_path_factory.mktemp("shared") / "run", max_steps=1))


@pytest.mark.parametrize("case", WRONG)
def test_what_does_not_go_together_names_the_key(case, scripts, shared, tmp_path, capsys):
    options, message = WRONG[case]
    places = {"pair": scripts / "pair", "shared": shared}
    given = {name: places.get(value, value) if isinstance(value, str) else value for name, value in options.items()}
    run(scripts, tmp_path / "run", expect=2, **given)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_an_lstm_has_one_vocabulary():
    with pytest.raises(ValueError, match="source_vocab_size does nothing for architecture: lstm"):
        TranslationSettings(architecture="lstm", preset="tiny", source_vocab_size=270)


def test_a_run_keeps_its_vocabularies(scripts, start, capsys):
    run(scripts, start, expect=2, **{**TWO, "source_vocab_size": 280}, max_steps=4)
    assert "source_vocab_size was 270 and is now 280" in capsys.readouterr().err
    assert train_translation.main(["--help"]) == 0 and "--source-vocab-size" in capsys.readouterr().out
