"""What the pipelines say of a search (scores, ends, order) against what `generate` itself returns, and float64."""

import copy
import itertools
import threading

import pytest
import torch
from torch import nn
from transformers import GenerationConfig, MarianConfig, MarianMTModel, StoppingCriteria, TextStreamer

from tests.helpers.generation_references import SCORED, one_thread, spread  # noqa: F401
from vaswani_tx import (
    TranslationPipeline,
    VaswaniConfig,
    VaswaniForConditionalGeneration,
    VaswaniGenerationConfig,
    VaswaniTokenizer,
)
from vaswani_tx.search_vaswani import recorded_search

pytestmark = pytest.mark.usefixtures("one_thread")
LINES = ["A dog runs on the green grass.", "Two men talk.", "Eine Frau liest dem Kind das alte Buch vor."]
TENSORS = {"return_scores": True, "return_tensors": True}


@pytest.fixture(scope="module")
def tokenizer():
    return VaswaniTokenizer.train(iter(LINES * 5), vocab_size=300, show_progress=False)


def paper(tokenizer):
    torch.manual_seed(1)
    sizes = {"d_model": 16, "d_ff": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 2}
    config = VaswaniConfig(vocab_size=len(tokenizer), lm_head_bias=True, tie_word_embeddings=False, **sizes)
    model = spread(VaswaniForConditionalGeneration(config))
    with torch.no_grad():
        model.lm_head.weight.normal_(0, 1)
        model.lm_head.bias[:260] -= 3  # words rather than bytes
        model.lm_head.bias[2] = 3
    model.generation_config.max_extra_tokens = 5
    return model


def marian(tokenizer):
    torch.manual_seed(2)
    config = MarianConfig(
        vocab_size=len(tokenizer), d_model=16, encoder_layers=1, decoder_layers=2, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=128,
        pad_token_id=0, bos_token_id=1, eos_token_id=2, decoder_start_token_id=1, forced_eos_token_id=None,
    )  # fmt: skip
    model = spread(MarianMTModel(config))
    model.final_logits_bias[0, 2] += 3
    model.generation_config.max_length = 10
    return model


@pytest.fixture(scope="module")
def models(tokenizer):
    return {"vaswani": paper(tokenizer), "marian": marian(tokenizer)}


@pytest.fixture(params=["vaswani", "marian"])
def model(request, models):
    return models[request.param]


def pipe(model, tokenizer, **settings):
    return TranslationPipeline(model=model, tokenizer=tokenizer, device="cpu", **settings)


def encode(tokenizer, line):
    encoded = tokenizer([line], return_tensors="pt")
    return {name: encoded[name] for name in ("input_ids", "attention_mask")}


def of_generate(model, tokenizer, line, **settings):
    """Return (score, ids without padding) of a beam search, as `generate` tells them."""
    output = model.generate(**encode(tokenizer, line), **settings, tokenizer=tokenizer, **SCORED)
    lengths = (output.beam_indices >= 0).sum(dim=-1).tolist()
    rows = zip(output.sequences_scores.tolist(), output.sequences.tolist(), lengths, strict=True)
    return [(score, ids[: length + 1]) for score, ids, length in rows]


def assert_same(records, expected):
    records = records if isinstance(records, list) else [records]
    assert [record["translation_token_ids"].tolist() for record in records] == [ids for _, ids in expected]
    scores = [record["score"] for record in records]
    assert scores == pytest.approx([score for score, _ in expected], abs=2e-5)
    assert all(one >= other for one, other in itertools.pairwise(scores))


class EndsAtCertainTokens(StoppingCriteria):
    def __call__(self, input_ids, scores, **kwargs):
        return (input_ids[:, -1] % 7 == 3) & (input_ids.shape[1] > 3)


ENDS = {
    "stop strings": {"stop_strings": ["a", "Ei", "u"]},
    "several ends": {"eos_token_id": [2, *range(270, 300, 2)]},
    "forced end": {"forced_eos_token_id": 2, "max_length": 5},
    "forced ends": {"forced_eos_token_id": [2, 281], "max_new_tokens": 4, "eos_token_id": [2, 281]},
    "cut": {"max_length": 4},
    "cut by new tokens": {"max_new_tokens": 3},
    "criterion": {"stopping_criteria": [EndsAtCertainTokens()]},
    "no end": {"eos_token_id": [299], "max_new_tokens": 6, "stop_strings": ["e"]},
    "no time": {"max_time": 0.0},
}
RULES = {
    "saved": {},
    "length": {"length_penalty": 2.0},
    "negative": {"length_penalty": -1.0},
    "repetition": {"repetition_penalty": 1.8},
    "renormalized": {"renormalize_logits": True, "suppress_tokens": [280, 281, 282]},
    "forced begin": {"forced_bos_token_id": 280},
}


@pytest.mark.parametrize("end", ENDS)
def test_hypotheses_end_where_the_search_ended_them(model, tokenizer, end):
    settings = {"num_beams": 4, "num_return_sequences": 3, **ENDS[end]}
    answers = pipe(model, tokenizer)(LINES, **settings, **TENSORS)
    for line, records in zip(LINES, answers, strict=True):
        assert_same(records, of_generate(model, tokenizer, line, **settings))


PLACES = ["configuration", "pipeline", "pipeline's configuration", "saved"]


@pytest.mark.parametrize(
    ("rule", "place"), [*((rule, "call") for rule in RULES), *(("length", place) for place in PLACES)]
)
def test_scores_are_those_that_the_search_ranked_by(model, tokenizer, rule, place, monkeypatch):
    settings = {"num_beams": 4, "num_return_sequences": 4, "max_new_tokens": 7, **RULES[rule]}
    expected = of_generate(model, tokenizer, LINES[0], **settings)
    given = {}
    if place in ("configuration", "pipeline's configuration"):
        given = {"generation_config": GenerationConfig(**settings)}
    elif place != "saved":
        given = settings
    if place == "saved":
        config = copy.deepcopy(model.generation_config)
        if "length_penalty" in settings:
            config.gnmt_alpha = None
        config.update(**settings)
        monkeypatch.setattr(model, "generation_config", config)
    of_pipeline, of_call = (given, {}) if place.startswith("pipeline") else ({}, given)
    answers = pipe(model, tokenizer, **of_pipeline)([LINES[1], LINES[0]], **of_call, **TENSORS)
    assert_same(answers[1], expected)


def test_a_keyword_beside_a_configuration_wins_as_in_generate(models, tokenizer):
    model = models["vaswani"]
    config = VaswaniGenerationConfig(gnmt_alpha=0.6, num_return_sequences=4, max_new_tokens=7)
    expected = of_generate(model, tokenizer, LINES[0], length_penalty=-1.0, num_return_sequences=4, max_new_tokens=7)
    given = {"generation_config": config, "length_penalty": -1.0}
    assert_same(pipe(model, tokenizer)(LINES[0], **given, **TENSORS), expected)
    assert config.gnmt_alpha == 0.6 and config.length_penalty is None


@pytest.mark.parametrize("end", ["stop strings", "several ends", "forced end", "forced ends", "criterion", "no end"])
def test_without_beams_scores_are_the_models_own_probabilities(model, tokenizer, end):
    """In a batch, where rows that have ended wait for the others, as for each sentence without the others."""
    settings = {"num_beams": 1, **ENDS[end]}
    exact = copy.deepcopy(model).double()
    together = pipe(model, tokenizer)(LINES, **settings, **TENSORS)
    for line, record in zip(LINES, together, strict=True):
        ids = record["translation_token_ids"].tolist()
        assert ids == model.generate(**encode(tokenizer, line), **settings, tokenizer=tokenizer)[0].tolist()
        with torch.no_grad():
            logits = exact(**encode(tokenizer, line), decoder_input_ids=torch.tensor([ids[:-1]])).logits[0]
        steps = logits.log_softmax(-1).gather(-1, torch.tensor(ids[1:])[:, None])[:, 0]  # [T]
        if len(ids) == settings.get("max_length", 1 + settings.get("max_new_tokens", 0)) and "forced" in end:
            steps[-1] = 0  # certain
        divisor = ((5 + len(steps)) / 6) ** 0.6 if isinstance(model, VaswaniForConditionalGeneration) else len(steps)
        assert record["score"] == pytest.approx(float(steps.sum()) / divisor, abs=2e-5)


def test_alignments_end_where_the_search_ended(model, tokenizer):
    settings = {"stop_strings": ["a", "Ei", "u"], "num_beams": 4, "num_return_sequences": 4, **TENSORS}
    for records in pipe(model, tokenizer)(LINES, return_alignments=True, return_text=True, **settings):
        for record in records:
            ids = record["translation_token_ids"].tolist()
            shown = [token for token in ids if token not in tokenizer.all_special_ids]
            assert [link["target_token"] for link in record["alignment"]] == tokenizer.convert_ids_to_tokens(shown)


def test_required_phrases_and_stop_strings_go_together(model, tokenizer):
    settings = {"num_beams": 5, "max_new_tokens": 12, "stop_strings": ["dog"], "required": ["dog"]}
    [record] = pipe(model, tokenizer)(LINES[0], return_scores=True, **settings)
    assert record["translation_text"].endswith("dog") and record["translation_text"].count("dog") == 1


def test_what_generate_returns_is_padded_from_the_end_on(models, tokenizer):
    model = models["vaswani"]
    batch = tokenizer(LINES, padding=True, return_tensors="pt")
    settings = {"stop_strings": ["a", "Ei", "u"], "tokenizer": tokenizer}
    rows = model.generate(**batch, **settings)
    output = model.generate(**batch, **settings, **SCORED)
    assert torch.equal(rows, output.sequences)
    lengths = (output.beam_indices >= 0).sum(dim=-1).tolist()
    assert len(set(lengths)) > 1
    for row, length in zip(rows.tolist(), lengths, strict=True):
        assert set(row[1 + length :]) <= {tokenizer.pad_token_id}


def test_a_record_leaves_the_model_as_it_was_and_other_threads_alone(models, tokenizer):
    model = models["vaswani"]
    before = dict(vars(model))
    expected = {penalty: pipe(model, tokenizer)(LINES[0], length_penalty=penalty, **TENSORS) for penalty in (0.5, 2.0)}
    found = {}

    def translate(penalty):
        found[penalty] = pipe(model, tokenizer)(LINES[0], length_penalty=penalty, **TENSORS)

    threads = [threading.Thread(target=translate, args=(penalty,)) for penalty in expected]
    with recorded_search(model) as record:
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert record.config is None
    assert {penalty: record["score"] for penalty, [record] in found.items()} == {
        penalty: record["score"] for penalty, [record] in expected.items()
    }
    assert vars(model) == before


# Samples and streams


def test_samples_and_streams_need_no_beams_of_the_saved_configuration(models, tokenizer, capsys):
    model = models["vaswani"]
    assert model.generation_config.num_beams == 4
    batch = encode(tokenizer, LINES[0])
    settings = {"do_sample": True, "num_return_sequences": 5, "max_new_tokens": 6}
    torch.manual_seed(0)
    expected = model.generate(**batch, num_beams=1, **settings)
    configs = [{"generation_config": kind(**settings)} for kind in (GenerationConfig, VaswaniGenerationConfig)]
    for given in (settings, *configs):
        torch.manual_seed(0)
        assert torch.equal(model.generate(**batch, **given), expected)
        assert len(pipe(model, tokenizer)(LINES[0], **given)) == 5
    greedy = model.generate(**batch, num_beams=1)
    assert torch.equal(model.generate(**batch, streamer=TextStreamer(tokenizer)), greedy)
    assert not torch.equal(model.generate(**batch)[:, : greedy.shape[1]], greedy)
    capsys.readouterr()


def test_beams_that_are_asked_for_sample_with_beams(models, tokenizer):
    model, batch = models["vaswani"], encode(tokenizer, LINES[0])
    settings = {"do_sample": True, "num_beams": 3}
    for given in (settings, {"generation_config": GenerationConfig(**settings)}):
        with recorded_search(model) as record:
            model.generate(**batch, **given)
        assert record.config.num_beams == 3 and record.scores is not None
    with pytest.raises(ValueError, match="`streamer` cannot be used with beam search"):
        model.generate(**batch, streamer=TextStreamer(tokenizer), num_beams=4)


def test_the_pipeline_samples_from_other_models_in_the_same_way(models, tokenizer, monkeypatch, capsys):
    model = models["marian"]
    monkeypatch.setattr(model.generation_config, "num_beams", 4)
    translate = pipe(model, tokenizer, max_new_tokens=5)
    assert len(translate(LINES[0], do_sample=True, num_return_sequences=6)) == 6
    [record] = translate(LINES[0], streamer=TextStreamer(tokenizer, skip_special_tokens=True))
    assert capsys.readouterr().out.rstrip("\n") == record["translation_text"].rstrip("\n")


# Heads whose weights do not show the vocabulary


class Packed(nn.Module):
    """A linear layer that keeps its weights in another shape, as bitsandbytes does."""

    def __init__(self, layer):
        super().__init__()
        self.shape, self.bias = layer.weight.shape, layer.bias
        self.weight = nn.Parameter(layer.weight.detach().reshape(-1, 1).clone(), requires_grad=False)

    def forward(self, hidden_states):
        return nn.functional.linear(hidden_states, self.weight.view(self.shape), self.bias)


def packed(model):
    model = copy.deepcopy(model)
    for name, layer in [(name, layer) for name, layer in model.named_modules() if type(layer) is nn.Linear]:
        parent, _, last = name.rpartition(".")
        setattr(model.get_submodule(parent), last, Packed(layer))
    return model


def quantised(model):
    return torch.ao.quantization.quantize_dynamic(copy.deepcopy(model), {nn.Linear}, dtype=torch.qint8)


EVERYTHING = [
    {"return_scores": True, "num_beams": 1},
    {"return_scores": True, "num_return_sequences": 4, "num_beams": 4},
    {"return_alignments": "words"},
    {"required": ["dog"], "num_beams": 6, "max_new_tokens": 12, "return_scores": True},
    {"bad_words": ["a", "e"], "forced_prefix": "Ein"},
]


@pytest.mark.parametrize("settings", EVERYTHING, ids=str)
def test_packed_weights_give_what_plain_ones_give(models, tokenizer, settings):
    model = models["vaswani"]
    plain, found = (pipe(one, tokenizer)(LINES, **settings) for one in (model, packed(model)))
    for one, other in zip(plain, found, strict=True):
        for expected, record in zip(*(x if isinstance(x, list) else [x] for x in (one, other)), strict=True):
            assert record["translation_text"] == expected["translation_text"]
            assert record.get("score") == pytest.approx(expected.get("score"), abs=1e-5)


@pytest.mark.filterwarnings("ignore:torch.ao.quantization is deprecated")
@pytest.mark.parametrize("settings", EVERYTHING, ids=str)
def test_dynamically_quantised_models_do_it_all(models, tokenizer, settings):
    assert len(pipe(quantised(models["vaswani"]), tokenizer)(LINES, **settings)) == len(LINES)
