"""The demonstration corpus: distinct, unambiguous, reproducible, balanced, split without overlap."""

import os
import re
import subprocess
import sys
import time
from collections import Counter

import pytest

from vaswani_tx.training.experiments import english_german_lexicon as lexicon
from vaswani_tx.training.experiments.english_german_grammar import LONGEST, SHORTEST, generate_corpus, split_corpus
from vaswani_tx.training.experiments.english_german_lexicon import NOUNS, VERBS
from vaswani_tx.training.experiments.english_german_syntax import Pair


@pytest.fixture(scope="module")
def corpus():
    return generate_corpus()


def test_sources_are_distinct_and_have_one_target(corpus):
    assert len(corpus) == 20000
    assert len({pair.source for pair in corpus}) == 20000
    # Drawn again with another seed, a sentence has the same target.
    targets = {pair.source: pair.target for pair in corpus}
    again = [pair for pair in generate_corpus(6000, seed=1) if pair.source in targets]
    assert len(again) > 30
    assert all(targets[pair.source] == pair.target for pair in again)


def test_the_language_is_far_larger_than_the_corpus(corpus):
    seen = {pair.source for pair in corpus}
    other = generate_corpus(6000, seed=1)
    # Were all sentences equally likely, the share of those seen would be 20,000 in their number.
    assert sum(pair.source in seen for pair in other) / len(other) < 20000 / 500000


def test_the_same_seed_gives_the_same_corpus_in_any_process(corpus):
    assert generate_corpus(300) == corpus[:300]
    assert generate_corpus(300, seed=5) != corpus[:300]
    module = "vaswani_tx.training.experiments.english_german_grammar"
    code = f"from {module} import generate_corpus; print(generate_corpus(300)[-1].target)"
    run = subprocess.run(
        [sys.executable, "-X", "utf8", "-c", code],
        capture_output=True,
        check=True,
        encoding="utf-8",
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert run.stdout.strip() == corpus[299].target


def test_generation_is_quick():
    start = time.process_time()
    generate_corpus(5000)
    assert time.process_time() - start < 5


def test_sentences_are_short_and_tidy(corpus):
    for pair in corpus:
        assert SHORTEST <= len(pair.source.split()) <= LONGEST
        for text in (pair.source, pair.target):
            assert re.fullmatch(r"[A-ZÄÖÜ][A-Za-zÄÖÜäöüß]*(,? [A-Za-zÄÖÜäöüß]+)*\.", text), text
        assert "sie sie" not in pair.target


def test_split_shares_no_sentence(corpus):
    train, valid, test = split_corpus(corpus)
    assert (len(train), len(valid), len(test)) == (18000, 1000, 1000)
    for side in ("source", "target"):
        parts = [{getattr(pair, side) for pair in part} for part in (train, valid, test)]
        assert not parts[0] & parts[1] and not parts[0] & parts[2] and not parts[1] & parts[2]
    assert sorted(train + valid + test, key=lambda pair: pair.source) == sorted(corpus, key=lambda pair: pair.source)
    assert split_corpus(corpus) == (train, valid, test)
    assert split_corpus(corpus, seed=3)[2] != test


def test_split_keeps_pairs_with_one_target_in_train():
    equal = [Pair(f"English {number}.", "Deutsch.", ()) for number in range(8)]
    train, valid, test = split_corpus([*equal, Pair("A.", "B.", ()), Pair("C.", "D.", ())], 1, 1)
    assert {pair.source for pair in valid + test} == {"A.", "C."}
    assert len(train) == 8
    with pytest.raises(ValueError, match="unique"):
        split_corpus(equal, 1, 1)
    with pytest.raises(ValueError, match="nothing to train on"):
        split_corpus(equal, 4, 4)


@pytest.mark.parametrize(
    "phenomenon, least",
    [
        *(("definite_article", 5000), ("indefinite_article", 2000), ("possessive", 2000), ("accusative", 5000)),
        *(("dative", 3000), ("dative_plural", 700), ("weak_noun", 300), ("adjective_ending", 6000), ("plural", 4000)),
        *(("number", 1500), ("present", 5000), ("perfect_haben", 4000), ("perfect_sein", 600), ("separable_verb", 600)),
        *(("negation_kein", 700), ("negation_nicht", 2500), ("inversion", 2500), ("weil_clause", 2000)),
        *(("obwohl_clause", 1200), ("wenn_clause", 600), ("dass_clause", 1500), ("relative_nominative", 400)),
        *(("relative_accusative", 400), ("it_subject", 1000), ("it_object", 1000), ("they_subject", 300)),
        *(("they_object", 300), ("dative_verb", 600), ("preposition", 3000)),
    ],
)
def test_every_phenomenon_is_frequent(corpus, phenomenon, least):
    assert sum(phenomenon in pair.phenomena for pair in corpus) >= least


def test_every_word_is_frequent(corpus):
    """Every entry of the lexicon: at least 50 times in 20,000 sentences, each English word form too."""
    counts = Counter(word for pair in corpus for word in re.findall(r"\w+", pair.source.lower()))
    assert {word: count for word, count in counts.items() if count < 50} == {}
    entries = [noun.english for noun in NOUNS.values()] + [verb.finite("er", False).word for verb in VERBS.values()]
    entries += [
        *lexicon.ADJECTIVES,
        *(english for english, _ in lexicon.NUMBERS.values()),
        "me",
        "us",
        "him",
        "her",
        "them",
        "it",
    ]
    entries += [word for key in lexicon.TIMES for word in key.lower().split()]
    assert [word for word in entries if counts[word] < 50] == []


def test_each_time_expression_is_frequent(corpus):
    for expression in [*lexicon.HABITS, *lexicon.RECENT, *lexicon.REMOTE, "days ago", "weeks ago"]:
        assert sum(expression.lower() in pair.source.lower() for pair in corpus) >= 50, expression


def test_nouns_keep_their_gender_in_the_corpus(corpus):
    """Directly after a definite article, a German singular noun sees only the articles of its gender."""
    allowed = {"m": {"der", "den", "dem"}, "f": {"die", "der"}, "n": {"das", "dem"}}
    found = {(noun.german, article) for pair in corpus for article, noun in _articles_and_nouns(pair.target)}
    nouns = {noun.german: noun for noun in NOUNS.values() if noun.german != noun.german_plural and not noun.weak}
    seen = [(german, article) for german, article in found if german in nouns]
    assert len(seen) > 60
    assert [pair for pair in seen if pair[1] not in allowed[nouns[pair[0]].gender]] == []


def _articles_and_nouns(german):
    by_name = {noun.german: noun for noun in NOUNS.values()}
    # A relative pronoun, after a comma, may precede a noun that it does not belong to.
    for article, name in re.findall(
        r"(?<!, )\b(der|die|das|den|dem) ([A-ZÄÖÜ][a-zäöüß]+)", german[0].lower() + german[1:]
    ):
        if name in by_name:
            yield article, by_name[name]


def test_too_large_a_corpus_is_refused():
    with pytest.raises(ValueError, match="ask for fewer"):
        split_corpus(generate_corpus(10), 5, 5)
