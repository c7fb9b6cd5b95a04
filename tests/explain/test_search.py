"""The decoding that a page plays is the search that `generate` made."""

import math

import pytest
from transformers import LogitsProcessor, LogitsProcessorList

from tests.helpers.explained import SENTENCE, make, tokenizer
from vaswani_tx.explain import ExplainError
from vaswani_tx.explain.search import replay


class Running(LogitsProcessor):
    """Note the beams that `generate` runs at each step: an independent witness of what the replay says."""

    def __init__(self):
        self.rows = []

    def __call__(self, input_ids, scores):
        self.rows.append(input_ids.tolist())
        return scores


def inputs_of(text):
    encoded = tokenizer()(text, return_tensors="pt")
    return {"input_ids": encoded["input_ids"], "attention_mask": encoded["attention_mask"]}


def searched(kind, text=SENTENCE, end=3.0, **settings):
    """Return the replay, what a plain `generate` of the same settings returns, and the beams that it ran."""
    model = make(kind)
    for name, value in {"max_new_tokens": 9, **settings}.items():
        setattr(model.generation_config, name, value)
    favour_end(model, end)
    running, inputs = Running(), inputs_of(text)
    plain = model.generate(
        **inputs,
        logits_processor=LogitsProcessorList([running]),
        return_dict_in_generate=True,
        output_scores=True,
    )
    return replay(model, inputs), plain, running.rows


def favour_end(model, by):
    """Raise the end's logit: random weights hardly reach it, and then only the limit ends a hypothesis."""
    end = model.config.eos_token_id

    def raise_end(module, inputs, output):
        output[..., end] += by * output.std()
        return output

    model.get_output_embeddings().register_forward_hook(raise_end)


def check(found, plain, rows):
    """Compare a replay with `generate`: beams of each step, best hypotheses, and the sums of its own numbers."""
    prompt = len(found.settings["prompt"])
    assert len(found.steps) == len(rows)
    for step, expected in zip(found.steps, rows, strict=True):
        assert {tuple(beam["tokens"]) for beam in step["beams"]} <= {tuple(row[prompt:]) for row in expected}
        assert len(step["beams"]) <= len({tuple(row) for row in expected}) and step["beams"]
    returned = plain.sequences[:, prompt:].tolist()
    for row, score, hypothesis in zip(returned, plain.sequences_scores.tolist(), found.hypotheses, strict=False):
        assert row[: len(hypothesis["tokens"])] == hypothesis["tokens"]
        assert hypothesis["score"] == pytest.approx(score, abs=1e-6)
    for number, step in enumerate(found.steps):
        check_step(found, number, step)
    scores = [hypothesis["score"] for hypothesis in found.hypotheses]
    assert scores == sorted(scores, reverse=True)


def check_step(found, number, step):
    for candidate in step["candidates"]:
        if candidate["token"] == 2 and len(found.settings["prompt"]) == 1:
            assert step["beams"][candidate["parent"]]["end_log_prob"] >= candidate["log_prob"] - 1e-4
    wide, rule, exponent = (found.settings[name] for name in ("num_beams", "rule", "exponent"))
    kept = [candidate for candidate in step["candidates"] if candidate["fate"] == "kept"]
    following = found.steps[number + 1]["beams"] if number + 1 < len(found.steps) else found.settings["last"]
    assert [candidate["beam"] for candidate in kept] == list(range(len(following)))
    for candidate in step["candidates"]:
        parent = step["beams"][candidate["parent"]]
        assert candidate["score"] == pytest.approx(parent["score"] + candidate["log_prob"], abs=1e-5)
        length = len(parent["tokens"]) + 1
        penalty = ((5 + length) / 6) ** exponent if rule == "gnmt" else length**exponent
        assert candidate["ranked"] == pytest.approx(candidate["score"] / penalty, rel=1e-6)
        if candidate["fate"] == "kept":
            assert following[candidate["beam"]]["tokens"] == [*parent["tokens"], candidate["token"]]
    before = found.steps[number - 1]["finished"] if number else []
    new = [index for index in step["finished"] if index not in before]
    entered = [candidate for candidate in step["candidates"] if candidate["fate"] == "finished"]
    assert sorted(candidate["ranked"] for candidate in entered) == pytest.approx(
        sorted(found.ended[index]["score"] for index in new), abs=1e-5
    )
    # The set is the best k of all that were offered to it.
    offered = [found.ended[index]["score"] for index in {*before, *new}]
    offered += [candidate["ranked"] for candidate in step["candidates"] if candidate["fate"] == "worse"]
    best = sorted(offered, reverse=True)[:wide]
    assert [found.ended[index]["score"] for index in step["finished"]] == pytest.approx(best, abs=1e-5)


GNMT = {"gnmt_alpha": 0.6}
SEARCHES = [
    {"num_beams": 4, **GNMT, "early_stopping": False},
    {"num_beams": 4, **GNMT, "early_stopping": True},
    {"num_beams": 7, **GNMT, "early_stopping": "never"},
    {"num_beams": 2, "gnmt_alpha": 0, "length_penalty": -1.0, "early_stopping": False},
    {"num_beams": 4, "gnmt_alpha": 0, "length_penalty": 2.0, "early_stopping": "never"},
    {"num_beams": 2, "gnmt_alpha": 0, "length_penalty": 0.0, "early_stopping": True},
]


@pytest.mark.parametrize("settings", SEARCHES, ids=str)
@pytest.mark.parametrize("kind", ["vaswani", "marian"])
def test_replay_is_the_search(kind, settings):
    found, plain, rows = searched(kind, **settings)
    check(found, plain, rows)
    ours = kind == "vaswani" and settings["gnmt_alpha"]
    assert found.settings["rule"] == ("gnmt" if ours else "power")
    assert found.settings["early_stopping"] == settings["early_stopping"]


@pytest.mark.parametrize("kind", ["t5", "gpt2", "bart", "causal"])
def test_replay_of_other_models(kind):
    check(*searched(kind, num_beams=3, length_penalty=0.5))


RULES = [
    {"forced_bos_token_id": 5},
    {"forced_eos_token_id": 2, "max_new_tokens": 5},
    {"min_new_tokens": 6, "no_repeat_ngram_size": 2},
    {"eos_token_id": [2, 7, 9]},
    {"num_return_sequences": 3, "repetition_penalty": 1.5},
    {"max_new_tokens": 1},
]


@pytest.mark.parametrize(("kind", "settings"), [(("vaswani", "marian")[i % 2], rule) for i, rule in enumerate(RULES)])
def test_replay_with_rules_about_tokens(kind, settings):
    found, plain, rows = searched(kind, "A dog runs.", end=1.0, num_beams=4, **settings)
    check(found, plain, rows)
    if "forced_bos_token_id" in settings:
        assert [candidate["token"] for candidate in found.steps[0]["candidates"]] == [5]


@pytest.mark.parametrize("kind", ["vaswani", "marian", "gpt2"])
def test_greedy(kind):
    model = make(kind)
    model.generation_config.num_beams = 1
    favour_end(model, 2.0)
    inputs = inputs_of(SENTENCE)
    plain = model.generate(**inputs, return_dict_in_generate=True, output_scores=True)
    found = replay(model, inputs)
    prompt = len(found.settings["prompt"])
    assert plain.sequences[0, prompt:].tolist() == found.hypotheses[0]["tokens"]
    log_probs = model.compute_transition_scores(plain.sequences, plain.scores, normalize_logits=True)[0]
    assert found.hypotheses[0]["score"] == pytest.approx(float(log_probs.sum()), abs=1e-4)
    assert [step["candidates"][0]["fate"] for step in found.steps][:-1] == ["kept"] * (len(found.steps) - 1)
    assert found.steps[-1]["candidates"][0]["fate"] == "finished"
    assert found.settings["rule"] == "none" and found.settings["stop"] in ("end", "length")


def test_what_ends_the_search_is_told():
    assert searched("marian", num_beams=2, early_stopping=True)[0].settings["stop"] in ("full", "best")
    assert searched("vaswani", num_beams=2, max_new_tokens=1)[0].settings["stop"] == "length"


def test_model_is_left_as_it_was():
    model = make("vaswani")
    before = dict(vars(model))
    replay(model, inputs_of(SENTENCE))
    assert vars(model).keys() == before.keys()


def test_too_many_beams():
    model = make("vaswani")
    model.generation_config.num_beams = 17
    with pytest.raises(ExplainError, match="17"):
        replay(model, inputs_of(SENTENCE))


def test_probabilities_are_not_more_than_one():
    found, _, _ = searched("vaswani", num_beams=4)
    for step in found.steps:
        assert sum(math.exp(item["log_prob"]) for item in step["candidates"] if item["parent"] == 0) <= 1 + 1e-5
