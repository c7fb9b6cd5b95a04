"""Forbidden and whole words on the text: each token of several tokenizers, and searches, against decoded texts."""

import itertools
import random
import re
import unicodedata

import pytest
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LogitsProcessorList, PreTrainedTokenizerFast

from tests.helpers.generation_references import (
    END,
    START,
    assert_same_hypotheses,
    every_hypothesis,
    marian_pair,
    one_thread,  # noqa: F401
    random_batch,
    tiny_model,
    translate,
)
from vaswani_tx import ForbiddenPhrases, TranslationPipeline, VaswaniTokenizer
from vaswani_tx.phrases_vaswani import ConstraintError, Phrase, RequiredPhrases, required_phrase_ids
from vaswani_tx.token_texts_vaswani import token_texts

pytestmark = pytest.mark.usefixtures("one_thread")
LINES = [
    "Ein Hund läuft über das grüne Gras – “über” die Straße.",
    "Zwei Männer reden, (jungen) Haus Häuser haus.",
    "Eine Frau liest dem Kind das alte Buch vor. 日本語です。",
]
SPECIAL = {"unk_token": "<unk>", "pad_token": "<pad>", "eos_token": "</s>"}


def byte_level():
    return VaswaniTokenizer.train(iter(LINES * 3), vocab_size=320, show_progress=False)


def trained(model, splitter, decoder, trainer):
    backend = Tokenizer(model)
    backend.pre_tokenizer, backend.decoder = splitter, decoder
    backend.train_from_iterator(LINES * 3, trainer)
    return PreTrainedTokenizerFast(tokenizer_object=backend, **SPECIAL)


def word_pieces():
    trainer = trainers.WordPieceTrainer(vocab_size=150, special_tokens=list(SPECIAL.values()), show_progress=False)
    model = models.WordPiece(unk_token="<unk>")
    return trained(model, pre_tokenizers.Whitespace(), decoders.WordPiece(cleanup=False), trainer)


def unigrams():
    trainer = trainers.UnigramTrainer(
        vocab_size=150, special_tokens=list(SPECIAL.values()), unk_token="<unk>", show_progress=False
    )
    return trained(models.Unigram(), pre_tokenizers.Metaspace(), decoders.Metaspace(), trainer)


def is_word(character):
    return bool(re.match(r"\w", character)) and unicodedata.category(character) != "Lo"  # no spaces in Japanese


def holds(text, phrase, whole):
    for match in re.finditer(f"(?={re.escape(phrase)})", text):
        before, after = text[: match.start()][-1:], text[match.start() + len(phrase) :][:1]
        joined = (before and is_word(before) and is_word(phrase[0])) or (
            after and is_word(after) and is_word(phrase[-1])
        )
        if not (whole and joined):
            return True
    return False


@pytest.mark.parametrize("whole", [False, True], ids=["anywhere", "whole words"])
@pytest.mark.parametrize("make", [byte_level, word_pieces, unigrams])
def test_exactly_the_tokens_that_complete_a_phrase_are_forbidden(make, whole):
    tokenizer, generator, completed = make(), random.Random(0), 0
    ids = [index for index in range(len(tokenizer)) if index not in tokenizer.all_special_ids]

    def decode(tokens):
        return tokenizer.decode(tokens, skip_special_tokens=True, clean_up_tokenization_spaces=False)

    for phrase, _ in itertools.product(["Haus", "un", "a", "Hund läuft", "“über", "語"], range(10)):
        forbidden = ForbiddenPhrases(tokenizer, [phrase], whole_words=whole)
        spelled = tokenizer(text_target=generator.choice(["", "x"]) + phrase, add_special_tokens=False)["input_ids"]
        begun = generator.sample(ids, 2) + spelled[: generator.randint(0, len(spelled))]
        if holds(decode(begun) + "x", phrase, whole) or tokenizer.unk_token_id in begun:
            continue
        scores = forbidden(torch.tensor([begun]), torch.zeros(1, len(tokenizer)))[0]
        for token in [*generator.sample(ids, 40), *spelled, tokenizer.eos_token_id]:
            text = decode([*begun, token])
            if text.endswith("\ufffd"):  # a part of a character: see the next test
                continue
            # What is a word in the end is open as long as letters may follow.
            expected = holds(text + ("" if token == tokenizer.eos_token_id else "x"), phrase, True) if whole else (
                holds(text, phrase, False)
            )  # fmt: skip
            assert bool(scores[token].isneginf()) == expected, (phrase, text)
            completed += expected
    assert completed > 10


def test_characters_of_several_tokens_are_seen():
    tokenizer = byte_level()
    byte = {bytes(text): index for index, text in token_texts(tokenizer).of.items()}
    [haus, dash, rest] = (tokenizer.convert_tokens_to_ids("H"), byte[b"\xe2"], byte[b"\xc3"])
    word = [byte[b" "], haus, *(byte[letter.encode()] for letter in "aus")]
    scores = ForbiddenPhrases(tokenizer, ["Haus"], whole_words=True)(torch.tensor([word]), torch.zeros(1, 320))[0]
    assert scores[dash].isneginf()  # of a dash or a quotation mark
    assert not scores[rest].isneginf()  # of ä, ö, ü, ß
    umlaut = ForbiddenPhrases(tokenizer, ["ä"])
    assert umlaut(torch.tensor([[byte[b" "], rest]]), torch.zeros(1, 320))[0, byte[b"\xa4"]].isneginf()
    # The same letter as a and a combining mark.
    text = "a\u0308".encode()
    begun = torch.tensor([[byte[b"a"], byte[text[1:2]]]])
    assert umlaut(begun, torch.zeros(1, 320))[0, byte[text[2:3]]].isneginf()


@pytest.fixture(scope="module")
def tokenizer():
    return byte_level()


@pytest.mark.parametrize("whole", [False, True], ids=["anywhere", "whole words"])
def test_no_hypothesis_of_a_search_holds_a_forbidden_word(tokenizer, whole):
    model = tiny_model(3, vocab_size=len(tokenizer), end_bias=6.0)
    translator = TranslationPipeline(model=model, tokenizer=tokenizer, device="cpu")
    settings = {"num_beams": 4, "num_return_sequences": 4, "max_extra_tokens": 6}
    free = [record["translation_text"] for records in translator(LINES, **settings) for record in records]
    written = dict.fromkeys(word for text in free for word in re.findall("[a-zA-Zäöü]+", text))
    words = [word if whole else word[:2] for word in written][:3]
    assert words
    answers = translator(LINES, bad_words=words, whole_words=whole, return_scores=True, **settings)
    for record in itertools.chain.from_iterable(answers):
        assert not any(holds(record["translation_text"], word, whole) for word in words)
    batch = tokenizer(LINES, padding=True, return_tensors="pt")
    rows = model.generate(**batch, bad_words=words, whole_words=whole, tokenizer=tokenizer, **settings)
    expected = [record["translation_text"] for records in answers for record in records]
    assert tokenizer.batch_decode(rows, skip_special_tokens=True) == expected
    with pytest.raises(ValueError, match="`bad_words` are matched on the text: give `tokenizer`"):
        model.generate(**batch, bad_words=words)


def test_other_models_take_the_processor(tokenizer):
    plain, _ = marian_pair(0)
    plain.resize_token_embeddings(len(tokenizer), mean_resizing=True)
    batch = random_batch(0, [5, 3], vocab_size=20)
    [word] = {
        tokenizer.decode(row, skip_special_tokens=True)[:1] for row in plain.generate(**batch, max_new_tokens=6)[:1]
    }
    processors = LogitsProcessorList([ForbiddenPhrases(tokenizer, [word])])
    for row in plain.generate(**batch, max_new_tokens=6, num_beams=3, logits_processor=processors):
        assert word not in tokenizer.decode(row, skip_special_tokens=True)


@pytest.mark.parametrize("phrases", ["Hund", [""], [3]])
def test_phrases_that_are_none_are_refused(tokenizer, phrases):
    with pytest.raises(ConstraintError, match=r"give a list|at least one character"):
        ForbiddenPhrases(tokenizer, phrases)


# Required whole words


def letters():
    """A tokenizer whose words have other tokens at the start of a text than after a space."""
    vocab = {"<pad>": 0, "<s>": START, "</s>": END, "Ġ": 3, "a": 4, "b": 5, "Ġa": 6}
    backend = Tokenizer(models.BPE(vocab=vocab, merges=[("Ġ", "a")]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    return PreTrainedTokenizerFast(tokenizer_object=backend, pad_token="<pad>", bos_token="<s>", eos_token="</s>")


def as_written(tokens, ids, first_only):
    """Whether tokens hold a spelling as a whole word; special tokens are no text."""
    tokens = [token for token in tokens if token > END]
    places = [0] if first_only else range(len(tokens))
    return any(
        tokens[i : i + len(ids)] == ids and tokens[i + len(ids) : i + len(ids) + 1] in ([], [3], [6]) for i in places
    )


@pytest.mark.parametrize(
    ("required", "spellings"),
    [
        (["a"], [[([4], True), ([6], False)]]),
        (["ab"], [[([4, 5], True), ([6, 5], False)]]),
        (["a", "ab"], [[([4], True), ([6], False)], [([4, 5], True), ([6, 5], False)]]),
        ([["ab", "ba"]], [[([4, 5], True), ([6, 5], False), ([5, 4], True), ([3, 5, 4], False)]]),
    ],
)
def test_required_whole_words_are_found_and_no_better_hypothesis_has_them(required, spellings):
    tokenizer = letters()
    constraints = required_phrase_ids(tokenizer, required, whole_words=True)
    for seed in range(2):
        model, batch = tiny_model(seed, vocab_size=7, end_bias=0.0), random_batch(seed, [3], vocab_size=7)
        expected = [
            (score, tokens)
            for score, tokens in every_hypothesis(model, batch["input_ids"], limit=4, alpha=0.6)
            if all(any(as_written(tokens, *spelling) for spelling in one) for one in spellings)
        ][:3]
        settings = {"num_beams": 150, "num_return_sequences": 3, "max_extra_tokens": 1}
        found = translate(model, batch, force_words_ids=constraints, **settings)[0]
        assert_same_hypotheses(found, expected)
        few = translate(model, batch, force_words_ids=constraints, num_beams=3, max_extra_tokens=1)[0]
        for _, tokens in few:
            text = tokenizer.decode(tokens, skip_special_tokens=True)
            for one in required:
                assert any(holds(text, word, True) for word in ([one] if isinstance(one, str) else one))


def test_need_of_whole_words_is_enough():
    closing, generator = frozenset({10, 11}), random.Random(0)
    phrases = RequiredPhrases([Phrase((10, 1), closing), [Phrase((11, 2), closing), Phrase((11, 2, 10, 1), closing)]])
    many = RequiredPhrases([Phrase((10, number), closing) for number in range(9)])
    for automaton in (phrases, many):
        for _ in range(20):
            state = automaton.start(generator.choice([1, 2, 3, 10, 11]) for _ in range(generator.randrange(5)))
            while needed := automaton.need(state):
                options = [automaton.step(state, token) for token in (*range(9), 10, 11)]
                state = min(options, key=automaton.need)
                assert automaton.need(state) < needed
            assert automaton.is_met(state)


def test_whole_words_in_the_pipeline(tokenizer):
    model = tiny_model(4, vocab_size=len(tokenizer), end_bias=2.0)
    translator = TranslationPipeline(model=model, tokenizer=tokenizer, device="cpu")
    settings = {"num_beams": 6, "num_return_sequences": 3, "whole_words": True}
    for required in (["Hund"], lambda text: ["Hund"]):
        for records in translator(LINES, required=required, **settings):
            assert all(holds(record["translation_text"], "Hund", True) for record in records)
