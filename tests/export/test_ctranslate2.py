"""Export to CTranslate2 and its engine: equal to the models themselves, whatever their configuration."""

import json

import pytest
import torch

from tests.helpers.cli_runs import LINES
from tests.helpers.two_vocabularies import model_of, separate_tokenizers
from vaswani_tx import VaswaniTokenizer
from vaswani_tx.engines import load_engine
from vaswani_tx.errors import DeviceError, ExportError
from vaswani_tx.export import export
from vaswani_tx.export.ctranslate2 import check
from vaswani_tx.export.folders import batch_of
from vaswani_tx.forbidden_vaswani import ForbiddenPhrases
from vaswani_tx.loading import load_translator
from vaswani_tx.search_vaswani import recorded_search

FIELDS = [
    {},
    {"norm_order": "pre", "final_layer_norm": True, "attention_bias": True, "activation_function": "gelu"},
    {"final_layer_norm": True, "embedding_norm": True, "lm_head_bias": True, "activation_function": "silu"},
    {"position_embedding": "learned", "scale_embedding": False, "tie_word_embeddings": False},
    {"position_frequencies": "tensor2tensor", "position_offset": 2, "norm_order": "pre", "layer_norm_eps": 1e-3},
]


@pytest.mark.parametrize("fields", FIELDS)
def test_translations_of_every_configuration_are_equal(saved, tmp_path, fields):
    report = export(saved(**fields), tmp_path / "out", "ctranslate2", verify=LINES)
    assert len(report.comparisons) == 3
    assert report.passed, str(report)


@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_other_kinds_are_equal(saved, tmp_path, kind):
    report = export(saved(kind), tmp_path / "out", "ctranslate2", verify=LINES)
    assert report.passed and report.comparisons, str(report)


def test_a_wrong_table_of_sinusoids_is_found(saved, tmp_path, monkeypatch):
    from vaswani_tx.export import ctranslate2

    right = ctranslate2._table
    monkeypatch.setattr(ctranslate2, "_table", lambda positions, rows: right(positions, rows + 1)[1:])
    report = export(saved(), tmp_path / "out", "ctranslate2", verify=LINES)
    assert not report.passed


def test_two_vocabularies(tmp_path):
    source, target = separate_tokenizers()
    pair = VaswaniTokenizer.pair(source, target)
    model = model_of(pair)
    # CTranslate2 shares out the probability of tokens that these rule out, which changes the order of beams.
    model.generation_config.min_new_tokens = model.generation_config.no_repeat_ngram_size = None
    model.save_pretrained(tmp_path / "model")
    pair.save_pretrained(tmp_path / "model")
    report = export(tmp_path / "model", tmp_path / "out", "ctranslate2", verify=["A small dog.", "The cat sleeps."])
    assert report.passed, str(report)
    assert {"source_vocabulary.json", "target_vocabulary.json"} <= set(report.files)
    engine, found = load_engine(tmp_path / "out", "ctranslate2")
    assert (len(found.source), len(found.target)) == (len(source), len(target))
    assert engine.get_input_embeddings().num_embeddings == len(source)
    assert engine.get_decoder().embed_tokens.num_embeddings == len(target)


@pytest.mark.parametrize(
    "options",
    [
        {"num_beams": 1},
        {"num_beams": 4, "num_return_sequences": 4},
        {"num_beams": 3, "gnmt_alpha": 1.0, "early_stopping": True, "num_return_sequences": 2},
        {"num_beams": 4, "length_penalty": 0.5, "early_stopping": True, "num_return_sequences": 3},
        {"num_beams": 4, "max_new_tokens": 5},
        {"num_beams": 2, "max_extra_tokens": 1},
        {"num_beams": 1, "max_extra_tokens": 0},
        {"num_beams": 3, "max_extra_tokens": 2, "length_penalty": 1.0, "early_stopping": True},
        # What generation_config.json of OPUS-MT has.
        {"num_beams": 1, "forced_eos_token_id": 2, "max_length": 6},
        {"num_beams": 4, "num_return_sequences": 4, "length_penalty": 1.0, "early_stopping": True,
         "forced_eos_token_id": 2, "max_length": 6},
        {"num_beams": 3, "gnmt_alpha": 0.6, "forced_eos_token_id": 2, "max_new_tokens": 4, "num_return_sequences": 2},
        # Beams would be kept in another order, see docs/export.md; the most probable token is the same.
        {"num_beams": 1, "max_length": 7, "bad_words_ids": [[0], [213], [169, 236]], "forced_eos_token_id": 2},
        {"num_beams": 1, "max_length": 9, "suppress_tokens": [213, 5]},
        {"num_beams": 1, "max_length": 12, "no_repeat_ngram_size": 2},
        {"num_beams": 1, "max_length": 12, "min_new_tokens": 6},
    ],
)  # fmt: skip
def test_targets_and_scores_are_those_of_generate(saved, tmp_path, options):
    engine, words = load_engine(export(saved(), tmp_path / "out", "ctranslate2").folder, "ctranslate2")
    model, _ = load_translator(saved())
    batch, found = batch_of(words, LINES), {}
    for name, one in (("model", model), ("engine", engine)):
        with recorded_search(one, words) as record, torch.no_grad():
            sequences = one.generate(**batch, **options)
        lengths = record.lengths_of(sequences)
        texts = [row[: length + 1].tolist() for row, length in zip(sequences, lengths, strict=True)]
        found[name] = texts, record.scores
    assert found["engine"][0] == found["model"][0]
    if options.keys() & {"bad_words_ids", "suppress_tokens", "no_repeat_ngram_size"}:
        plain = model.generate(**batch, num_beams=1, max_length=options["max_length"])
        assert not torch.equal(plain, sequences), "the option decides nothing here"
    if options["num_beams"] > 1:
        torch.testing.assert_close(found["engine"][1], found["model"][1], atol=1e-4, rtol=1e-4)


def test_forbidden_phrases_are_not_written(saved, tmp_path):
    engine, words = load_engine(export(saved(), tmp_path / "out", "ctranslate2").folder, "ctranslate2")
    batch = batch_of(words, LINES)
    before = words.batch_decode(engine.generate(**batch), skip_special_tokens=True)
    phrase = before[0].strip()[:2]
    after = words.batch_decode(
        engine.generate(**batch, logits_processor=[ForbiddenPhrases(words, [phrase])]), skip_special_tokens=True
    )
    assert phrase in before[0] and not any(phrase in text for text in after)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"do_sample": True}, "sampling"),
        ({"repetition_penalty": 1.3}, "repetition_penalty"),
        ({"decoder_input_ids": torch.tensor([[1, 5]])}, "a forced prefix"),
        ({"required_ids": [[3]]}, "required phrases"),
        ({"forced_eos_token_id": 5, "max_length": 9}, "forced_eos_token_id"),
        ({"num_return_sequences": 9, "num_beams": 2}, "num_return_sequences"),
    ],
)
def test_what_the_engine_has_not_is_named(saved, tmp_path, options, said):
    engine, words = load_engine(export(saved(), tmp_path / "out", "ctranslate2").folder, "ctranslate2")
    with pytest.raises(ValueError, match=said):
        engine.generate(**batch_of(words, LINES[:1]), **options)


def test_a_source_beyond_the_table_is_refused(saved, tmp_path):
    engine, words = load_engine(export(saved(), tmp_path / "out", "ctranslate2", positions=12).folder, "ctranslate2")
    with pytest.raises(ExportError, match="--positions"):
        engine.generate(**batch_of(words, [LINES[2]]))


def test_int8_and_its_note(saved, tmp_path):
    report = export(saved(), tmp_path / "out", "ctranslate2", quantization="int8")
    note = json.loads((tmp_path / "out" / "vaswani_export.json").read_text())
    engine, words = load_engine(tmp_path / "out", "ctranslate2")
    assert note["quantization"] == "int8" and engine.generate(**batch_of(words, LINES)).shape[0] == len(LINES)
    assert report.files["model.bin"] < export(saved(), tmp_path / "whole", "ctranslate2").files["model.bin"]


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        ({"d_k": 4, "d_v": 4}, "is not d_model"),
        ({"d_k": 8, "d_v": 4}, "differ"),
        ({"activation_function": "relu6"}, "relu6"),
    ],
)
def test_what_cannot_be_held_is_refused(words, fields, said):
    from tests.export.conftest import tiny

    with pytest.raises(ExportError, match=said):
        check(tiny(words, **fields).config)


@pytest.mark.fresh
@pytest.mark.parametrize("kind", ["encoder-decoder", "decoder", "encoder"])
def test_the_program_of_the_readme_runs(saved, tmp_path, run_readme, kind):
    export(saved(kind), tmp_path / "out", "ctranslate2")
    assert run_readme(tmp_path / "out").strip()


def test_another_device_than_the_cpu_is_refused_before_anything_is_read():
    with pytest.raises(DeviceError, match="--engine ctranslate2 computes on the CPU here: leave --device cuda out"):
        load_engine("no-such-folder", "ctranslate2", device="cuda")
