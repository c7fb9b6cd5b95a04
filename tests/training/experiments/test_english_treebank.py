"""Trees from the grammar: repeatable, all different, well-formed, and ambiguous where they are meant to be."""

from collections import Counter
from itertools import pairwise

import pytest

from vaswani_tx.training.experiments import english_treebank as grammar
from vaswani_tx.training.experiments.english_german_lexicon import EnglishVerb, plural
from vaswani_tx.training.experiments.english_treebank import LONGEST, SHORTEST, generate_trees, split_trees
from vaswani_tx.training.parsing.trees import clean_tree, parse_tree


@pytest.fixture(scope="module")
def trees():
    return generate_trees(3000, 1)


def test_the_seed_decides(trees):
    assert generate_trees(200, 1) == trees[:200]
    assert generate_trees(200, 2) != trees[:200]


def test_no_sentence_is_in_two_parts(trees):
    parts = split_trees(trees, (300, 200), 5)
    assert [len(part) for part in parts] == [300, 200, 2500]
    sentences = [{tuple(tree.words()) for tree in part} for part in parts]
    assert sum(map(len, sentences)) == len(set.union(*sentences)) == 3000
    assert parts == split_trees(trees, (300, 200), 5) and parts[0] != trees[:300]


def test_trees_are_clean_and_of_the_promised_length(trees):
    for tree in trees:
        assert clean_tree(tree) == tree == parse_tree(str(tree))
        words = tree.words()
        assert SHORTEST <= len(words) <= LONGEST
        assert words[-1] in (".", "?") and words[1 if words[0] == "``" else 0][0].isupper()
        assert not any(one == "a" and other[0] in "aeiou" for one, other in pairwise(words))


def test_a_prepositional_phrase_goes_to_verb_and_noun(trees):
    """`with`, `in`, `on` after verb and object: the verb takes the phrase in some trees, the object in others."""
    places = Counter()
    for tree in trees:
        for part in tree.constituents():
            labels = [child.label for child in part.children]
            if part.label == "VP" and "NP" in labels and "PP" in labels[labels.index("NP") :]:
                phrase = part.children[labels.index("PP")]
                places["verb", phrase.leaves()[0].word] += 1
            if part.label == "NP" and labels == ["NP", "PP"]:
                places["noun", part.children[1].leaves()[0].word] += 1
    for word in ("with", "in", "near", "on"):
        assert places["verb", word] > 20 and places["noun", word] > 20, word
    assert places["noun", "of"] > 50 and not places["verb", "of"]


def test_every_construction_is_there(trees):
    labels = Counter(part.label for tree in trees for part in tree.constituents())
    wanted = {"S", "NP", "VP", "PP", "SBAR", "WHNP", "ADJP", "ADVP", "PRT", "PRN", "QP", "SQ", "SBARQ", "SINV"}
    assert set(labels) == wanted and min(labels.values()) >= 10
    coordinated = Counter(
        part.label for tree in trees for part in tree.constituents() if "CC" in [child.label for child in part.children]
    )
    assert {"S", "NP", "VP", "ADJP"} <= set(coordinated)
    tags = {}
    for tree in trees:
        for one in tree.leaves():
            tags.setdefault(one.word, set()).add(one.label)
    assert tags["that"] >= {"DT", "IN", "WDT"} and len(tags["saw"]) > 1 and len(tags["report"]) > 1


def test_word_forms():
    forms = {"try": ("tries", "tried", "trying"), "stop": ("stops", "stopped", "stopping"),
             "go": ("goes", "went", "going"), "place": ("places", "placed", "placing"),
             "play": ("plays", "played", "playing"), "see": ("sees", "saw", "seeing"),
             "teach": ("teaches", "taught", "teaching"), "drop": ("drops", "dropped", "dropping")}  # fmt: skip
    for base, (third, past, gerund) in forms.items():
        verb = EnglishVerb(base)
        assert [verb.form(tag) for tag in ("VB", "VBP", "VBZ", "VBD", "VBG")] == [base, base, third, past, gerund]
    assert [plural(noun) for noun in ("dog", "fox", "story", "boy", "man", "wolf", "church")] == [
        "dogs", "foxes", "stories", "boys", "men", "wolves", "churches",
    ]  # fmt: skip


def test_too_many_trees_are_refused(monkeypatch):
    monkeypatch.setattr(grammar.TreeSampler, "draw", lambda self: parse_tree("(S (A a) (B b) (C c) (. .))"))
    with pytest.raises(ValueError, match="only 1 different"):
        generate_trees(2, 1)


def test_command_prints_trees(capsys):
    assert grammar.main(["2", "--seed", "1"]) == 0
    first = generate_trees(1, 1)[0]
    assert capsys.readouterr().out.startswith(f"{' '.join(first.words())}\n{first.pretty()}\n\n")
