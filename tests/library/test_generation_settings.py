"""The settings of the paper's decoding: saved, loaded, overridden and refused; and transformers' own without them."""

import copy
import json
import math

import pytest
import torch
from transformers import GenerationConfig, MarianMTModel

from tests.helpers.generation_references import (
    END,
    SCORED,
    START,
    PaperMarian,
    assert_same_hypotheses,
    gnmt,
    marian_pair,
    plain_beam_search,
    random_batch,
    tiny_model,
    translate,
)
from vaswani_tx import VaswaniForConditionalGeneration
from vaswani_tx.generation_vaswani import PAPER_DECODING, VaswaniGenerationConfig, VaswaniGenerationMixin

pytestmark = pytest.mark.usefixtures("one_thread")


def test_a_new_model_decodes_as_the_paper_does():
    config = tiny_model(0).generation_config
    assert {name: getattr(config, name) for name in PAPER_DECODING} == {
        "num_beams": 4,
        "gnmt_alpha": 0.6,
        "max_extra_tokens": 50,
    }
    tokens = (config.pad_token_id, config.bos_token_id, config.eos_token_id, config.decoder_start_token_id)
    assert tokens == (0, 1, 2, 1)


def test_settings_are_saved_and_loaded(tmp_path):
    model, batch = tiny_model(2, vocab_size=9), random_batch(2, [3, 6], vocab_size=9)
    model.generation_config.gnmt_alpha = 1.5
    model.generation_config.max_extra_tokens = 7
    model.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    expected = {
        "num_beams": 4,
        "gnmt_alpha": 1.5,
        "max_extra_tokens": 7,
        "decoder_start_token_id": 1,
        "eos_token_id": 2,
    }
    assert saved.items() >= expected.items() and saved["pad_token_id"] == 0
    loaded = VaswaniForConditionalGeneration.from_pretrained(tmp_path)
    configs = [
        loaded.generation_config,
        GenerationConfig.from_pretrained(tmp_path),
        VaswaniGenerationConfig.from_pretrained(tmp_path),
        copy.deepcopy(loaded.generation_config),
        VaswaniGenerationConfig.from_dict(loaded.generation_config.to_diff_dict()),
    ]
    wanted = {"num_return_sequences": 4}
    expected = translate(model, batch, **wanted)
    assert translate(loaded, batch, **wanted) == expected
    model.generation_config = GenerationConfig(**{**saved, "gnmt_alpha": None, "max_extra_tokens": 2, "num_beams": 2})
    assert translate(model, batch, num_return_sequences=2) != [row[:2] for row in expected]
    for config in configs:
        assert (config.num_beams, config.gnmt_alpha, config.max_extra_tokens) == (4, 1.5, 7)
        config.num_return_sequences = 4
        assert translate(model, batch, generation_config=config) == expected
    loaded.generation_config.num_return_sequences = None
    loaded.save_pretrained(tmp_path / "again")
    again = json.loads((tmp_path / "again" / "generation_config.json").read_text())
    assert again == saved


def test_a_saved_configuration_gets_no_defaults_and_a_folder_without_one_does(tmp_path):
    model = tiny_model(0)
    model.save_pretrained(tmp_path)
    GenerationConfig(eos_token_id=END, num_beams=3, decoder_start_token_id=START).save_pretrained(tmp_path)
    config = VaswaniForConditionalGeneration.from_pretrained(tmp_path).generation_config
    assert (config.num_beams, config.gnmt_alpha, config.max_extra_tokens) == (3, None, None)
    (tmp_path / "generation_config.json").unlink()
    config = VaswaniForConditionalGeneration.from_pretrained(tmp_path).generation_config
    assert (config.num_beams, config.gnmt_alpha, config.max_extra_tokens, config.eos_token_id) == (4, 0.6, 50, END)


def test_keywords_and_configurations_override_the_model():
    model, batch = tiny_model(5, vocab_size=9), random_batch(5, [4], vocab_size=9)
    model.generation_config.max_extra_tokens = 6

    def expected(alpha, num_beams=4):
        return plain_beam_search(model, batch["input_ids"], 10, alpha, num_beams)[:1]

    assert_same_hypotheses(translate(model, batch)[0], expected(0.6))
    assert_same_hypotheses(translate(model, batch, gnmt_alpha=2)[0], expected(2))
    assert_same_hypotheses(translate(model, batch, num_beams=3)[0], expected(0.6, 3))
    for config in (GenerationConfig(gnmt_alpha=2.0), VaswaniGenerationConfig(gnmt_alpha=2.0, max_extra_tokens=6)):
        assert_same_hypotheses(translate(model, batch, generation_config=config)[0], expected(2))
    assert_same_hypotheses(
        translate(model, batch, generation_config=GenerationConfig(num_beams=3))[0], expected(0.6, 3)
    )
    # An entry that the model's configuration does not have can be given all the same.
    model.generation_config = GenerationConfig(num_beams=4, eos_token_id=END, decoder_start_token_id=START)
    assert_same_hypotheses(translate(model, batch, gnmt_alpha=2, max_extra_tokens=6)[0], expected(2))


def test_length_penalty_of_the_call_wins_and_no_alpha_means_transformers_ranking():
    model, batch = tiny_model(5, vocab_size=9), random_batch(5, [4], vocab_size=9)
    paper = translate(model, batch, num_return_sequences=4, early_stopping="never")[0]

    def ranking(**settings):
        return translate(model, batch, num_return_sequences=4, early_stopping="never", **settings)[0]

    plain = GenerationConfig(num_beams=4, num_return_sequences=4, early_stopping="never", length_penalty=0.0)
    ours = VaswaniGenerationConfig(num_return_sequences=4, early_stopping="never", length_penalty=0.0)
    for found in (
        ranking(length_penalty=0.0),
        *(translate(model, batch, generation_config=c)[0] for c in (plain, ours)),
    ):
        # Exponent 0 divides by 1: the score is the log-probability.
        log_probs = {tokens: score * gnmt(len(tokens), 0.6) for score, tokens in paper}
        assert {tokens: score for score, tokens in found if tokens in log_probs} == pytest.approx(
            {tokens: log_probs[tokens] for _, tokens in found if tokens in log_probs}, abs=2e-5
        )
        assert any(tokens in log_probs for _, tokens in found)
    by_length = ranking(length_penalty=1.0)
    assert by_length != paper
    assert (
        ranking(gnmt_alpha=None) == ranking(gnmt_alpha=0) == ranking(gnmt_alpha=None, length_penalty=1.0) == by_length
    )


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"gnmt_alpha": -0.1}, "gnmt_alpha must be"),
        ({"gnmt_alpha": math.inf}, "gnmt_alpha must be"),
        ({"gnmt_alpha": "0.6"}, "gnmt_alpha must be"),
        ({"max_extra_tokens": -1}, "max_extra_tokens must be"),
        ({"max_extra_tokens": 1.5}, "max_extra_tokens must be"),
        ({"gnmt_alpha": 0.6, "length_penalty": 1.0}, "give one of them"),
    ],
)
def test_wrong_settings_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        tiny_model(0).generate(**random_batch(0, [3], vocab_size=6), **settings)
    if "length_penalty" not in settings:
        with pytest.raises(ValueError, match=message):
            VaswaniGenerationConfig(**settings)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 9},
        {"num_beams": 4, "max_new_tokens": 9, "num_return_sequences": 3, **SCORED},
        {"num_beams": 3, "max_length": 12, "length_penalty": 2.0, "early_stopping": "never", **SCORED},
        {"num_beams": 3, "max_length": 12, "length_penalty": -1.0, "early_stopping": True, **SCORED},
        {"do_sample": True, "max_new_tokens": 9, "num_beams": 2},
        {"num_beams": 2, "max_new_tokens": 9, "min_new_tokens": 3, "no_repeat_ngram_size": 2, **SCORED},
    ],
    ids=str,
)
def test_a_plain_configuration_is_plain_transformers(settings):
    for seed in range(3):
        plain, ours = marian_pair(seed)
        ours.generation_config = copy.deepcopy(plain.generation_config)
        outputs = []
        for model in (plain, ours):
            torch.manual_seed(seed)
            outputs.append(model.generate(**random_batch(seed, [2, 7, 4], vocab_size=20), **settings))
        if isinstance(outputs[0], torch.Tensor):
            outputs = [{"sequences": output} for output in outputs]
        assert outputs[0].keys() == outputs[1].keys()
        for name in {"sequences", "sequences_scores", "beam_indices"} & outputs[0].keys():
            torch.testing.assert_close(outputs[1][name], outputs[0][name], rtol=0, atol=0)


def test_the_class_of_the_configuration_does_not_depend_on_the_order_of_bases():
    class Behind(MarianMTModel, VaswaniGenerationMixin):
        pass

    class Chosen(Behind):
        class OwnConfig(GenerationConfig):
            pass

        generation_config_class = OwnConfig

    class Below(Chosen):
        pass

    assert Behind.generation_config_class is PaperMarian.generation_config_class is VaswaniGenerationConfig
    assert Below.generation_config_class is Chosen.OwnConfig
    assert Behind.can_generate() and MarianMTModel.generation_config_class is GenerationConfig
