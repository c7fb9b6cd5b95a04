"""Constrained beam search against every hypothesis there is, and forbidden and required words of real tokenizers."""

import itertools
import random

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import MaxTimeCriteria, PreTrainedTokenizerFast, StoppingCriteriaList

from tests.helpers.generation_references import (
    END,
    SCORED,
    START,
    assert_same_hypotheses,
    every_hypothesis,
    marian_pair,
    random_batch,
    tiny_model,
    translate,
)
from vaswani_tx import VaswaniTokenizer
from vaswani_tx.constraints_vaswani import _Sentence, constrained_beam_search
from vaswani_tx.phrases_vaswani import (
    ConstraintError,
    RequiredPhrases,
    forbidden_phrase_ids,
    required_phrase_ids,
)

pytestmark = pytest.mark.usefixtures("one_thread")
REQUIRED = [
    [[4]],
    [[3, 5]],
    [[3, 3], [5]],
    [[3, 4], [4, 5]],  # may share their 4
    [[[3, 4, 5], [5, 5]]],
    [[[3], [4, 4]], [5, 3]],
    [[3, 4, 3], [4]],  # the second is inside the first
]


def holds(tokens, phrase):
    return any(list(tokens[i : i + len(phrase)]) == list(phrase) for i in range(len(tokens)))


def meets(tokens, constraints):
    listed = [c if isinstance(c[0], list) else [c] for c in constraints]
    return all(any(holds(tokens, phrase) for phrase in alternatives) for alternatives in listed)


# What a text still needs


@pytest.mark.parametrize("constraints", REQUIRED)
def test_need_is_the_length_of_the_shortest_continuation(constraints):
    phrases = RequiredPhrases(constraints)
    generator = random.Random(0)
    for _ in range(20):
        text = [generator.choice([3, 4, 5, 6]) for _ in range(generator.randrange(5))]
        state = phrases.start(text)
        shortest = next(
            length
            for length in itertools.count()
            if any(meets([*text, *more], constraints) for more in itertools.product([3, 4, 5], repeat=length))
        )
        assert phrases.need(state) == shortest
        assert (phrases.need(state) == 0) == meets(text, constraints)


def test_many_constraints_are_planned_without_a_search_and_each_planned_token_brings_it_nearer():
    generator = random.Random(1)
    constraints = [[generator.randrange(3, 9) for _ in range(3)] for _ in range(12)]
    phrases = RequiredPhrases(constraints)
    state, text = phrases.start(), []
    while phrases.need(state):
        following = min((phrases.step(state, token) for token in range(3, 9)), key=phrases.need)
        assert phrases.need(following) < phrases.need(state)
        text.append(next(token for token in range(3, 9) if phrases.step(state, token) == following))
        state = following
    assert meets(text, constraints)


# The search


@pytest.mark.parametrize("constraints", REQUIRED)
@pytest.mark.parametrize("alpha", [0.0, 0.6, 2.5])
def test_beams_as_many_as_hypotheses_find_the_best_of_those_that_hold_what_is_required(constraints, alpha):
    for seed in range(2):
        model, batch = tiny_model(seed, end_bias=0.0), random_batch(seed, [3], vocab_size=6)
        expected = every_hypothesis(model, batch["input_ids"], limit=4, alpha=alpha)
        expected = [(score, tokens) for score, tokens in expected if meets(tokens, constraints)][:6]
        settings = {"num_beams": 150, "num_return_sequences": len(expected), "max_extra_tokens": 1}
        if alpha:
            settings["gnmt_alpha"] = alpha
        else:
            settings["length_penalty"] = 0.0
        found = translate(model, batch, force_words_ids=constraints, **settings)[0]
        assert_same_hypotheses(found, expected)
        # Where only the best is wanted, the search may stop earlier, but not with another one.
        settings["num_return_sequences"] = 1
        assert_same_hypotheses(translate(model, batch, force_words_ids=constraints, **settings)[0], expected[:1])


def test_required_phrases_change_what_is_found():
    """The comparison above means something only if the constraints bite."""
    model, batch = tiny_model(0, end_bias=0.0), random_batch(0, [3], vocab_size=6)
    best = every_hypothesis(model, batch["input_ids"], limit=4, alpha=0.6)[0][1]
    assert sum(not meets(best, constraints) for constraints in REQUIRED) >= 5


@pytest.mark.parametrize("num_beams", [2, 3, 5])
def test_every_returned_hypothesis_holds_its_own_sentences_phrases(num_beams):
    generator = random.Random(num_beams)
    for seed in range(8):
        model = tiny_model(seed, vocab_size=12)
        batch = random_batch(seed, [6, 3, 5, 2], vocab_size=12)
        required = [
            [[generator.randrange(3, 12) for _ in range(generator.randint(1, 3))] for _ in range(count)]
            for count in (2, 1, 0, 3)
        ]
        settings = {"num_beams": num_beams, "num_return_sequences": 2, "max_extra_tokens": 8}
        found = translate(model, batch, required_ids=required, **settings)
        for hypotheses, constraints, length in zip(found, required, (6, 3, 5, 2), strict=True):
            for _, tokens in hypotheses:
                assert meets(tokens, constraints)
                assert tokens[-1] == END
                assert len(tokens) <= length + 8


@pytest.mark.parametrize("early_stopping", [False, "never", True])
def test_a_batch_finds_what_each_sentence_finds_alone(early_stopping):
    model, batch = tiny_model(3, vocab_size=12), random_batch(3, [7, 3, 5], vocab_size=12)
    required = [[[4, 5]], [], [[[6], [7, 8]], [9]]]
    settings = {"num_beams": 6, "num_return_sequences": 3, "early_stopping": early_stopping, "max_extra_tokens": 10}
    together = translate(model, batch, required_ids=required, **settings)
    for row, length in enumerate((7, 3, 5)):
        one = {name: values[row : row + 1, :length] for name, values in batch.items()}
        alone = translate(model, one, required_ids=[required[row]], **settings)[0]
        assert_same_hypotheses(together[row], alone)


@pytest.mark.parametrize("early_stopping", [False, "never", True])
def test_without_constraints_it_is_the_beam_search_of_transformers(early_stopping):
    for seed in range(5):
        model, batch = tiny_model(seed, vocab_size=12), random_batch(seed, [7, 3, 5], vocab_size=12)
        settings = {"num_return_sequences": 3, "early_stopping": early_stopping, "max_extra_tokens": 10}
        plain = translate(model, batch, **settings)
        empty = translate(model, batch, custom_generate=constrained_beam_search, **settings)
        for found, expected in zip(empty, plain, strict=True):
            assert_same_hypotheses(found, expected)


def test_beams_are_shared_out_among_what_is_still_missing():
    phrases = RequiredPhrases([[4, 5]])
    sentence = _Sentence(phrases, limit=20, must_end=True, states=[(0, 0), phrases.start([4])])
    scores = {(0, 7): -1.0, (0, 8): -1.5, (0, 9): -2.0, (0, 4): -6.0, (1, 5): -9.0, (1, 7): -3.0}
    # One beam for the best that has the phrase, one for the best that has begun it, the rest by score.
    assert sentence.choose(scores, {END}, 3, 4) == ([(1, 5), (0, 4), (0, 7), (0, 8)], [])
    assert sentence.choose(scores, {END}, 17, 4) == ([(1, 5), (0, 4), (0, 7), (0, 8)], [])
    assert sentence.choose(scores, {END}, 18, 4) == ([(1, 5), (0, 4)], [])  # too few tokens left for both
    assert sentence.choose(scores, {END}, 19, 4) == ([(1, 5)], [])
    met = _Sentence(phrases, limit=20, must_end=True, states=[phrases.start([4, 5])])
    assert met.choose({(0, END): -1.0, (0, 3): -2.0}, {END}, 20, 4) == ([], [(0, END)])


def test_scores_are_those_of_the_tokens_and_transitions_can_be_recomputed():
    model, batch = tiny_model(5, vocab_size=12), random_batch(5, [4, 6], vocab_size=12)
    output = model.generate(**batch, force_words_ids=[[7, 4]], num_beams=4, **SCORED)
    transitions = model.compute_transition_scores(output.sequences, output.scores, output.beam_indices)
    lengths = (output.beam_indices >= 0).sum(dim=-1)
    expected = transitions.sum(dim=-1) / ((5 + lengths) / 6) ** 0.6
    assert output.sequences_scores.tolist() == pytest.approx(expected.tolist(), abs=1e-5)


def test_other_models_take_it_as_custom_generate_and_end_at_max_length():
    plain, _ = marian_pair(0)
    batch = random_batch(0, [5, 3], vocab_size=20)
    settings = {"num_beams": 5, "num_return_sequences": 2, "max_new_tokens": 6, "do_sample": False}
    required = [[[4, 5], [9]], [[11, 12, 13, 14, 15, 16]]]
    rows = plain.generate(**batch, custom_generate=constrained_beam_search, required_ids=required, **settings)
    for row, constraints in zip(rows.tolist(), [required[0]] * 2 + [required[1]] * 2, strict=True):
        assert meets(row, constraints)
    assert rows[2].tolist() == [START, 11, 12, 13, 14, 15, 16]  # cut there, as transformers cuts
    assert rows[3].tolist() == rows[2].tolist()  # there is no second one


def test_prefix_counts_for_the_phrases_and_stays():
    model, batch = tiny_model(1, vocab_size=12), random_batch(1, [4, 4], vocab_size=12)
    prefix = torch.tensor([[START, 5, 6]] * 2)
    rows = translate(model, batch, decoder_input_ids=prefix, force_words_ids=[[6, 7], [5, 6]], num_beams=4)
    for [(_, tokens)] in rows:
        assert tokens[:2] == (5, 6)
        assert meets(tokens, [[6, 7]])


def test_works_beside_forbidden_words_and_ngrams():
    model, batch = tiny_model(2, vocab_size=9), random_batch(2, [4, 5], vocab_size=9)
    settings = {"num_beams": 6, "bad_words_ids": [[7], [4, 5]], "no_repeat_ngram_size": 2, "num_return_sequences": 3}
    for hypotheses in translate(model, batch, force_words_ids=[[4, 6], [5]], **settings):
        for _, tokens in hypotheses:
            assert meets(tokens, [[4, 6], [5]])
            assert not holds(tokens, [7])
            assert not holds(tokens, [4, 5])
            pairs = list(itertools.pairwise(tokens))
            assert len(pairs) == len(set(pairs))


@pytest.mark.parametrize("use_cache", [True, False])
def test_cache_does_not_change_the_result(use_cache):
    model, batch = tiny_model(4, vocab_size=12), random_batch(4, [6, 4], vocab_size=12)
    found = translate(model, batch, force_words_ids=[[5, 9]], num_beams=4, use_cache=use_cache)
    again = translate(model, batch, custom_generate=constrained_beam_search, force_words_ids=[[5, 9]], num_beams=4)
    for one, other in zip(found, again, strict=True):
        assert_same_hypotheses(one, other)


# What cannot be


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"force_words_ids": [[3, 4, 5, 6]], "max_extra_tokens": 1}, r"sentence 2 .*need 4 tokens, .*only 3 more"),
        ({"force_words_ids": [[3, 99]]}, "id 99, but the model's ids run from 0 to 11"),
        ({"force_words_ids": [[3, END]]}, "end of sentence"),
        ({"force_words_ids": [[]]}, "give its token ids"),
        ({"force_words_ids": [["3"]]}, "whole numbers"),
        ({"required_ids": [[[3]]]}, "1 entries for a batch of 2 sentences"),
        ({"force_words_ids": [[3]], "num_beams": 1}, "num_beams to at least 2"),
        ({"force_words_ids": [[3]], "do_sample": True}, "do_sample=False"),
        ({"force_words_ids": [[3, 3]], "bad_words_ids": [[3]]}, "rule their tokens out"),
        ({"force_words_ids": [[3]], "output_attentions": True, "return_dict_in_generate": True}, "no attentions"),
    ],
)
def test_what_is_impossible_is_an_error_with_its_reason(settings, message):
    model, batch = tiny_model(0, vocab_size=12), random_batch(0, [5, 3], vocab_size=12)
    with pytest.raises(ConstraintError, match=message):
        model.generate(**batch, **settings)


def test_a_stopping_criterion_that_comes_too_early_is_an_error_too():
    model, batch = tiny_model(0, vocab_size=12), random_batch(0, [5, 3], vocab_size=12)
    criteria = StoppingCriteriaList([MaxTimeCriteria(max_time=0.0)])
    with pytest.raises(ConstraintError, match="stopping criterion"):
        model.generate(**batch, force_words_ids=[[3, 4, 5]], stopping_criteria=criteria)


# Words


@pytest.fixture(scope="module")
def tokenizer():
    lines = ["Ein Hund und eine Katze.", "Der Hund (ein Mops) schläft!", "Katzen sehen Hunde."] * 5
    return VaswaniTokenizer.train(iter(lines), vocab_size=330, show_progress=False)


def byte_level():
    """A tokenizer like BART's: a word has other tokens at the start of a text than after a space."""
    vocab = {"<pad>": 0, "<s>": 1, "</s>": 2, "<unk>": 3, **{c: i for i, c in enumerate("aHund(Ġ", start=4)}}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[], unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, unk_token="<unk>", pad_token="<pad>", eos_token="</s>")


def test_required_words_are_taken_with_the_space_before_them(tokenizer):
    [[hund]] = required_phrase_ids(tokenizer, ["Hund"])
    assert tokenizer.decode([*tokenizer("ein", add_special_tokens=False)["input_ids"], *hund]) == "ein Hund"
    [both] = required_phrase_ids(tokenizer, [["Hund", "Katze"]])
    assert len(both) == 2
    other = byte_level()
    [forms] = required_phrase_ids(other, ["Hund"])
    assert [other.decode(ids) for ids in forms] == ["Hund", " Hund"]
    attached = required_phrase_ids(tokenizer, ["!"])[0]
    assert "ein!" in [
        tokenizer.decode([*tokenizer("ein", add_special_tokens=False)["input_ids"], *ids]) for ids in attached
    ]


def test_forbidden_words_are_taken_with_and_without_a_space(tokenizer):
    texts = {tokenizer.decode([*tokenizer("x", add_special_tokens=False)["input_ids"], *ids]) for ids in
             forbidden_phrase_ids(tokenizer, ["Hund"])}  # fmt: skip
    assert texts == {"x Hund", "xHund"}


@pytest.mark.parametrize("phrase", ["", "  ", 3, None])
def test_a_phrase_without_text_is_refused(tokenizer, phrase):
    for make in (required_phrase_ids, forbidden_phrase_ids):
        with pytest.raises(ConstraintError, match="at least one character"):
            make(tokenizer, [phrase]) if make is forbidden_phrase_ids or isinstance(phrase, str) else make(
                tokenizer, [[phrase]]
            )


def test_unknown_text_is_refused():
    with pytest.raises(ConstraintError, match="'Katze' holds something that the tokenizer does not know"):
        required_phrase_ids(byte_level(), ["Katze"])
    with pytest.raises(ConstraintError, match="give a list"):
        required_phrase_ids(byte_level(), "Hund")


def test_no_repeat_ngram_size_holds_in_beam_search():
    model, batch = tiny_model(6, vocab_size=7, end_bias=-3.0), random_batch(6, [8], vocab_size=7)
    [[(_, free)]] = translate(model, batch, max_extra_tokens=20)
    [[(_, strict)]] = translate(model, batch, max_extra_tokens=20, no_repeat_ngram_size=2)
    assert len(list(itertools.pairwise(free))) > len(set(itertools.pairwise(free)))
    assert len(list(itertools.pairwise(strict))) == len(set(itertools.pairwise(strict)))
