"""The paper's decoding against searches of our own: over every hypothesis, and a beam search in plain Python."""

import copy
import json
import math
import warnings
from pathlib import Path

import pytest
import torch
from transformers import GenerationConfig, LogitsProcessor, MarianConfig, MarianMTModel, TextStreamer

from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration
from vaswani_tx.generation_vaswani import (
    PAPER_DECODING,
    GNMTLengthPenalty,
    VaswaniGenerationConfig,
    VaswaniGenerationMixin,
)

GOLDEN = Path(__file__).parent / "golden" / "golden_paper.json"
START, END, PAD = 1, 2, 0
SCORED = {"output_scores": True, "return_dict_in_generate": True}


class PaperMarian(VaswaniGenerationMixin, MarianMTModel):
    """Somebody else's model with our mixin: its twin without the mixin is transformers itself."""


def spread(model, std=0.3):
    """Give a random model predictions that differ from token to token and from context to context."""
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, std)
    return model.eval()


def tiny_model(seed, vocab_size=6, end_bias=1.0, **fields):
    torch.manual_seed(seed)
    sizes = {"d_model": 16, "d_ff": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1, **fields}
    config = VaswaniConfig(vocab_size=vocab_size, lm_head_bias=True, **sizes)
    model = spread(VaswaniForConditionalGeneration(config))
    model.lm_head.bias.data[END] = end_bias  # 1: searches end at many lengths
    return model


def marian_twins(seed):
    config = MarianConfig(
        vocab_size=20, d_model=16, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2,
        decoder_attention_heads=2, encoder_ffn_dim=32, decoder_ffn_dim=32, max_position_embeddings=128,
        pad_token_id=PAD, bos_token_id=START, eos_token_id=END, decoder_start_token_id=START, forced_eos_token_id=None,
    )  # fmt: skip
    torch.manual_seed(seed)
    plain = spread(MarianMTModel(config))
    ours = PaperMarian(copy.deepcopy(config)).eval()
    ours.load_state_dict(plain.state_dict())
    return plain, ours


def random_batch(seed, lengths, vocab_size):
    """Return padded sources that end in </s>, with their mask."""
    random = torch.Generator().manual_seed(seed)
    sources = torch.full((len(lengths), max(lengths)), PAD)
    for row, length in zip(sources, lengths, strict=True):
        row[: length - 1] = torch.randint(3, vocab_size, (length - 1,), generator=random)
        row[length - 1] = END
    return {
        "input_ids": sources,
        "attention_mask": (torch.arange(max(lengths)) < torch.tensor(lengths)[:, None]).long(),
    }


def gnmt(length, alpha):
    return ((5 + length) / 6) ** alpha


def next_log_probs(model, source, targets):
    """Return [n, V], the log-probabilities after each of `targets` (lists of one length), computed without a cache."""
    inputs = torch.tensor([[START, *target] for target in targets])
    with torch.no_grad():
        logits = model(input_ids=source.expand(len(targets), -1), decoder_input_ids=inputs, use_cache=False).logits
    return logits[:, -1].double().log_softmax(-1)


def every_hypothesis(model, source, limit, alpha, prefix=()):
    """Return (score, tokens) of all complete targets of at most `limit` tokens, best first."""
    others = [token for token in range(model.config.vocab_size) if token != END]
    log_prob = {tuple(prefix): 0.0}
    hypotheses = []
    for length in range(len(prefix) + 1, limit + 1):
        rows = next_log_probs(model, source, list(log_prob))
        hypotheses += [
            ((total + rows[i, END].item()) / gnmt(length, alpha), (*tokens, END))
            for i, (tokens, total) in enumerate(log_prob.items())
        ]
        log_prob = {
            (*tokens, token): total + rows[i, token].item()
            for i, (tokens, total) in enumerate(log_prob.items())
            for token in others
        }
    return sorted(hypotheses, reverse=True)


def plain_beam_search(model, source, limit, alpha, num_beams, stop_when_full=False, prefix=()):
    """A beam search without batch, cache or bound: it runs to the limit. Return (score, tokens), best first."""
    running, finished = [(0.0, tuple(prefix))], []
    for length in range(len(prefix) + 1, limit + 1):
        rows = next_log_probs(model, source, [tokens for _, tokens in running])
        candidates = sorted(
            (
                (total + rows[i, token].item(), (*tokens, token))
                for i, (total, tokens) in enumerate(running)
                for token in (range(model.config.vocab_size) if length < limit else [END])
            ),
            reverse=True,
        )[: 2 * num_beams]
        complete = [
            (total / gnmt(length, alpha), tokens) for total, tokens in candidates[:num_beams] if tokens[-1] == END
        ]
        finished = sorted(finished + complete, reverse=True)[:num_beams]
        running = [candidate for candidate in candidates if candidate[1][-1] != END][:num_beams]
        if stop_when_full and len(finished) == num_beams:
            break
    return finished


def translate(model, batch, **settings):
    """Return `generate`'s answer as one list of (score, tokens without start and padding) for each sentence."""
    if "generation_config" in settings:  # keywords beside a configuration are deprecated
        settings["generation_config"] = config = copy.deepcopy(settings["generation_config"])
        config.output_scores = config.return_dict_in_generate = True
        output = model.generate(**batch, **settings)
    else:
        output = model.generate(**batch, **SCORED, **settings)
    rows = []
    for score, row in zip(output.sequences_scores.tolist(), output.sequences.tolist(), strict=True):
        tokens = row[1:]
        rows.append((score, tuple(tokens[: tokens.index(END) + 1] if END in tokens else tokens)))
    count = len(rows) // len(batch["input_ids"])
    return [rows[i : i + count] for i in range(0, len(rows), count)]


def assert_same_hypotheses(found, expected):
    assert [tokens for _, tokens in found] == [tokens for _, tokens in expected]
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=2e-5)


def count_decoder_steps(model, batch, **settings):
    steps = []
    hook = model.get_decoder().register_forward_hook(lambda *_: steps.append(1))
    model.generate(**batch, **settings)
    hook.remove()
    return len(steps)


class Reluctant(LogitsProcessor):
    """Makes </s> so improbable that a target ends only where it must."""

    def __call__(self, input_ids, scores):
        scores = scores.clone()
        scores[:, END] -= 50
        return scores


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
    winners = {}
    for alpha in (0.0, 0.6, 2.5):
        models = [tiny_model(seed, end_bias=0.0) for seed in range(4)]
        winners[alpha] = [every_hypothesis(model, torch.tensor([[4, 5, END]]), 4, alpha)[0][1] for model in models]
    assert winners[0.0] != winners[0.6] != winners[2.5]


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
        assert row.index(END) == length + 50  # the start token stands before the target's length + 50 tokens
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


def test_defaults_that_the_trainer_writes_into_the_configuration_are_no_choice():
    model, batch = tiny_model(1, vocab_size=9), random_batch(1, [3], vocab_size=9)
    config = model.generation_config
    config.output_scores = config.return_dict_in_generate = True
    stubborn = {"logits_processor": [Reluctant()]}
    before = model.generate(**batch, **stubborn)
    config.update(**config._get_default_generation_params(), defaults_only=True)  # as Seq2SeqTrainer.prediction_step
    assert (config.max_length, config.length_penalty) == (20, 1.0)
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


# Settings


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
        plain, ours = marian_twins(seed)
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


def test_encoder_outputs_and_embeddings_stand_for_the_source():
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
