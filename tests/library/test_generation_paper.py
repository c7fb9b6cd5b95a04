"""The paper's decoding against searches of our own: over every hypothesis, and a beam search in plain Python."""

import copy
import itertools
import json
import math
import warnings

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessor, TextStreamer

from tests.helpers import ROOT
from tests.helpers.generation_references import (
    END,
    PAD,
    SCORED,
    START,
    Reluctant,
    assert_same_hypotheses,
    count_decoder_steps,
    every_hypothesis,
    gnmt,
    plain_beam_search,
    random_batch,
    tiny_model,
    translate,
)
from vaswani_tx.generation_vaswani import GNMTLengthPenalty

pytestmark = pytest.mark.usefixtures("one_thread")
GOLDEN = ROOT / "tests" / "golden" / "golden_paper.json"


# The score


def test_penalty_equals_the_golden_values():
    golden = json.loads(GOLDEN.read_text())["length_penalty_gnmt"]
    penalty = GNMTLengthPenalty(golden["alpha"])
    for length, value in golden["values"]:
        assert length**penalty == pytest.approx(value, abs=1e-12)
        assert penalty.of(torch.tensor(length, dtype=torch.float64)).item() == pytest.approx(value, abs=1e-12)


def test_penalty_counts_the_prefix_and_survives_copies():
    penalty = copy.deepcopy(GNMTLengthPenalty(0.6, prefix_length=3, longest=torch.tensor([[9]]), num_returned=2))
    assert 7**penalty == pytest.approx(gnmt(10, 0.6))
    assert (float(penalty), penalty.longest.item(), penalty.num_returned) == (0.6, 9, 2)


@pytest.mark.parametrize("alpha", [0.6, 1.0, 2.5])
@pytest.mark.parametrize(("early_stopping", "num_returned"), [(False, 1), (False, 12), ("never", 12)])
def test_beam_search_as_wide_as_the_space_finds_the_best_of_all_hypotheses(alpha, early_stopping, num_returned):
    for seed in range(4):
        model, batch = tiny_model(seed, end_bias=0.0), random_batch(seed, [3], vocab_size=6)
        expected = every_hypothesis(model, batch["input_ids"], limit=4, alpha=alpha)
        assert len(expected) == 1 + 5 + 25 + 125
        settings = {"num_beams": 150, "num_return_sequences": num_returned, "early_stopping": early_stopping}
        found = translate(model, batch, gnmt_alpha=alpha, max_extra_tokens=1, **settings)[0]
        assert_same_hypotheses(found, expected[:num_returned])


def test_best_of_all_hypotheses_changes_with_the_penalty():
    """The comparison above means something only if the ranking depends on what is compared."""
    models = [tiny_model(seed, end_bias=0.0) for seed in range(4)]
    source, rankings = torch.tensor([[4, 5, END]]), []
    for alpha in (0.0, 0.6, 1.0, 2.5):
        best = [every_hypothesis(model, source, 4, alpha)[:12] for model in models]
        rankings.append([[tokens for _, tokens in hypotheses] for hypotheses in best])
    assert all(one != other for one, other in itertools.combinations(rankings, 2))


@pytest.mark.parametrize(("early_stopping", "num_returned"), [(False, 1), (False, 3), ("never", 4), (True, 4)])
def test_four_beams_equal_a_plain_beam_search_that_never_stops_early(early_stopping, num_returned):
    for seed in range(15):
        model, batch = tiny_model(seed, vocab_size=9), random_batch(seed, [4], vocab_size=9)
        expected = plain_beam_search(model, batch["input_ids"], 10, 0.6, 4, stop_when_full=early_stopping is True)
        settings = {"num_return_sequences": num_returned, "early_stopping": early_stopping}
        found = translate(model, batch, max_extra_tokens=6, **settings)[0]
        assert_same_hypotheses(found, expected[:num_returned])


def test_a_sentence_ends_as_soon_as_its_answer_is_settled():
    """Else the bound would be right but idle: the search has to stop before the limit, sooner if less is wanted."""
    steps = []
    for seed in range(8):
        model, batch = tiny_model(seed, vocab_size=9), random_batch(seed, [4], vocab_size=9)
        rules = ({}, {"early_stopping": "never"}, {"num_return_sequences": 4})
        steps.append([count_decoder_steps(model, batch, max_extra_tokens=16, **rule) for rule in rules])
    assert all(best <= every == returned <= 20 for best, every, returned in steps), steps
    assert sum(best < every < 20 for best, every, _ in steps) >= 3, steps


@pytest.mark.parametrize("early_stopping", [False, "never"])
@pytest.mark.parametrize("limit", [{"max_extra_tokens": 17}, {"max_new_tokens": 20}], ids=str)
def test_a_long_target_that_overtakes_a_finished_one_is_waited_for(limit, early_stopping):
    """The first token decides between </s> at once and a sure sentence of 20 tokens, which gains with its length."""

    class Script(LogitsProcessor):
        def __call__(self, input_ids, scores):
            length = input_ids.shape[1]
            scores = torch.full_like(scores, -20.0)
            scores[:, END] = math.log(0.5) if length == 1 else -0.01 if length == 20 else -20.0
            scores[:, 4] = math.log(0.3) if length == 1 else -20.0 if length == 20 else -0.01
            return scores

    settings = {"logits_processor": [Script()], "early_stopping": early_stopping, **limit}
    found = translate(tiny_model(0), random_batch(0, [3], vocab_size=6), **settings)
    assert_same_hypotheses(found[0], [((math.log(0.3) - 0.19) / gnmt(20, 0.6), (4,) * 19 + (END,))])


def test_scores_are_the_sums_of_the_transition_scores_over_the_penalty():
    model, batch = tiny_model(3, vocab_size=9), random_batch(3, [3, 6], vocab_size=9)
    output = model.generate(**batch, **SCORED, num_return_sequences=4)
    steps = model.compute_transition_scores(output.sequences, output.scores, output.beam_indices)
    lengths = (output.sequences[:, 1:] == END).int().argmax(-1) + 1
    assert len(set(lengths.tolist())) > 1
    torch.testing.assert_close(steps.sum(-1) / gnmt(lengths, 0.6), output.sequences_scores)


# The limit of each sentence


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"num_return_sequences": 3},
        {"num_beams": 1},
        {"num_beams": 1, "do_sample": True, "num_return_sequences": 2},
        {"do_sample": True, "num_return_sequences": 2},
        {"early_stopping": "never", "gnmt_alpha": None},
        {"min_new_tokens": 100},
    ],
    ids=str,
)
def test_every_target_has_its_own_source_length_plus_fifty(settings):
    torch.manual_seed(0)
    model, lengths = tiny_model(0, vocab_size=9), [2, 9, 5]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the minimum length is out of reach on purpose
        found = model.generate(**random_batch(0, lengths, 9), logits_processor=[Reluctant()], **settings)
    repeats = settings.get("num_return_sequences", 1)
    for row, length in zip(found.tolist(), [n for n in lengths for _ in range(repeats)], strict=True):
        assert row.index(END) == length + 50  # the start token comes before the target's length + 50 tokens
        assert set(row[length + 51 :]) <= {PAD}
    assert found.shape[1] == 1 + max(lengths) + 50


@pytest.mark.parametrize(
    "settings", [{}, {"num_return_sequences": 4}, {"early_stopping": True}, {"num_beams": 1}], ids=str
)
@pytest.mark.parametrize("extra", [1, 8])
def test_a_batch_translates_as_its_sentences_do_alone(extra, settings):
    lengths = [2, 9, 5, 3]
    for seed in range(5):
        model, batch = tiny_model(seed, vocab_size=12, d_model=32), random_batch(seed, lengths, vocab_size=12)
        together = model.generate(**batch, **SCORED, max_extra_tokens=extra, **settings)
        rows = together.sequences.tensor_split(len(lengths))
        for i, length in enumerate(lengths):
            alone = model.generate(
                input_ids=batch["input_ids"][i : i + 1, :length], max_extra_tokens=extra, **SCORED, **settings
            )
            width = alone.sequences.shape[1]
            torch.testing.assert_close(rows[i][:, :width], alone.sequences)
            assert (rows[i][:, width:] == PAD).all()
            if "num_beams" not in settings:
                scores = together.sequences_scores.tensor_split(len(lengths))[i]
                torch.testing.assert_close(scores, alone.sequences_scores, atol=2e-5, rtol=0)


def test_absolute_limits_replace_source_plus_fifty():
    model, batch = tiny_model(0, vocab_size=9), random_batch(0, [2, 9], vocab_size=9)
    stubborn = {"logits_processor": [Reluctant()]}
    for settings in ({"max_new_tokens": 7}, {"max_length": 8}, {"generation_config": GenerationConfig(max_length=8)}):
        for num_beams in (None, 1):
            beams = {} if num_beams is None or "generation_config" in settings else {"num_beams": num_beams}
            found = model.generate(**batch, **stubborn, **settings, **beams)
            assert found.shape[1] == 8 and not (found == END).any()
    model.generation_config.max_new_tokens = 7
    assert model.generate(**batch, **stubborn).shape[1] == 8
    model.generation_config.max_new_tokens = None
    assert model.generate(**batch, **stubborn, max_extra_tokens=3).shape[1] == 13
    # Without either, transformers' own default holds.
    with pytest.warns(UserWarning, match="model-agnostic default"):
        assert model.generate(**batch, **stubborn, max_extra_tokens=None).shape[1] == 21


def test_no_warning_is_given_by_default(recwarn):
    tiny_model(0, vocab_size=9).generate(**random_batch(0, [2, 9], vocab_size=9))
    assert not recwarn.list


def test_defaults_that_the_trainer_writes_into_the_configuration_are_no_choice(monkeypatch):
    model, batch = tiny_model(1, vocab_size=9), random_batch(1, [3], vocab_size=9)
    config = model.generation_config
    config.output_scores = config.return_dict_in_generate = True
    stubborn = {"logits_processor": [Reluctant()]}
    before = model.generate(**batch, **stubborn)
    config.update(**config._get_default_generation_params(), defaults_only=True)  # as Seq2SeqTrainer.prediction_step
    assert (config.max_length, config.length_penalty) == (20, 1.0)
    # transformers would log that two limits were given.
    monkeypatch.setattr("transformers.generation.utils.logger.warning", pytest.fail)
    for settings in ({}, {"generation_config": config}):
        after = model.generate(**batch, **stubborn, **settings)
        torch.testing.assert_close(after.sequences, before.sequences)
        torch.testing.assert_close(after.sequences_scores, before.sequences_scores)
    assert model.generate(**batch, max_length=20, **stubborn).sequences.shape[1] == 20


def test_learned_positions_bound_the_limit():
    fields = {"position_embedding": "learned", "max_position_embeddings": 12}
    model = tiny_model(0, vocab_size=9, **fields)
    found = model.generate(**random_batch(0, [2, 9], 9), logits_processor=[Reluctant()])
    assert found.shape[1] == 12 and (found[:, -1] == END).all()
    endless = tiny_model(0, vocab_size=9, max_position_embeddings=12)
    assert endless.generate(**random_batch(0, [2, 9], 9), logits_processor=[Reluctant()]).shape[1] == 60


# The ways to generate


@pytest.mark.parametrize("num_beams", [1, 4])
def test_static_cache_equals_dynamic_cache(num_beams):
    model, batch = tiny_model(4, vocab_size=12), random_batch(4, [2, 9, 5], vocab_size=12)
    settings = {**SCORED, "num_beams": num_beams, "max_extra_tokens": 9}
    expected = model.generate(**batch, **settings)
    found = model.generate(**batch, **settings, cache_implementation="static")
    torch.testing.assert_close(found.sequences, expected.sequences)
    if num_beams > 1:
        torch.testing.assert_close(found.sequences_scores, expected.sequences_scores)


def test_streamer_gets_the_tokens_of_greedy_search(capsys):
    class Words:
        def decode(self, tokens, **_):
            return "".join(f"{token} " for token in tokens)

    model, batch = tiny_model(4, vocab_size=12), random_batch(4, [5], vocab_size=12)
    tokens = model.generate(**batch, num_beams=1, streamer=TextStreamer(Words()))[0].tolist()
    assert tokens[-1] == END and len(tokens) > 3
    assert [int(word) for word in capsys.readouterr().out.split()] == tokens


def test_assistant_changes_nothing_but_the_speed(monkeypatch):
    # It calls the assistant in a way that transformers itself deprecates.
    monkeypatch.setattr("transformers.generation.utils.logger.warning_once", lambda *_: None)
    for seed in range(3):
        model, batch = tiny_model(seed, vocab_size=12, d_model=32), random_batch(seed, [5], vocab_size=12)
        for assistant in (tiny_model(seed + 50, vocab_size=12), copy.deepcopy(model)):
            settings = {"num_beams": 1, "max_extra_tokens": 12}
            expected = model.generate(**batch, **settings)
            found = model.generate(**batch, **settings, assistant_model=assistant)
            assert found.tolist() == expected.tolist()


def test_prefix_counts_in_the_length_and_in_the_limit():
    prefix = (4, 3, 5)
    for seed in range(4):
        model, batch = tiny_model(seed), random_batch(seed, [3], vocab_size=6)
        start = torch.tensor([[START, *prefix]])
        every = every_hypothesis(model, batch["input_ids"], limit=6, alpha=0.6, prefix=prefix)
        settings = {"decoder_input_ids": start, "max_extra_tokens": 3, "num_beams": 30, "num_return_sequences": 6}
        assert_same_hypotheses(translate(model, batch, **settings)[0], every[:6])
        expected = plain_beam_search(model, batch["input_ids"], 6, 0.6, 4, prefix=prefix)[:1]
        assert_same_hypotheses(translate(model, batch, decoder_input_ids=start, max_extra_tokens=3)[0], expected)
        # A prefix that fills the limit is only closed; one without the start token gets it.
        closed = model.generate(**batch, decoder_input_ids=start[:, 1:], max_extra_tokens=0)
        assert closed.tolist() == [[START, *prefix, END]]


def test_encoder_outputs_and_embeddings_replace_the_source():
    model, batch = tiny_model(4, vocab_size=12), random_batch(4, [2, 9, 5], vocab_size=12)
    mask = batch["attention_mask"]
    model.generation_config.max_extra_tokens = 6
    stubborn = {"logits_processor": [Reluctant()]}
    expected = model.generate(**batch, **stubborn)
    assert [row.index(END) for row in expected.tolist()] == [8, 15, 11]
    encoded = model.get_encoder()(**batch)
    assert model.generate(encoder_outputs=encoded, attention_mask=mask, **stubborn).tolist() == expected.tolist()
    embedded = model.get_encoder().get_input_embeddings()(batch["input_ids"])
    assert model.generate(inputs_embeds=embedded, attention_mask=mask, **stubborn).tolist() == expected.tolist()
    # Without a mask every position of the source counts.
    alone = model.get_encoder()(input_ids=batch["input_ids"][1:2])
    for source in (
        {"encoder_outputs": alone},
        {"inputs_embeds": embedded[1:2]},
        {"input_ids": batch["input_ids"][1:2]},
    ):
        found = model.generate(**source, num_beams=1, **stubborn)
        assert found.shape[1] == 1 + 9 + 6
