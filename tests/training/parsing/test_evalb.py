"""Bracket scores: counted by hand, and as the original program counts them."""

import pytest

from vaswani_tx.training.errors import TreeError
from vaswani_tx.training.parsing.evalb import main, read_lines_of_trees, score_sentence, score_trees
from vaswani_tx.training.parsing.trees import parse_tree

GOLD = "(S (NP (DT The) (NN man)) (VP (VBD saw) (NP (DT a) (NN dog)) (PP (IN with) (NP (DT a) (NN hat)))) (. .))"
# The phrase goes to the noun, one tag is wrong. Gold brackets: S, NP, VP, NP, PP, NP; the test tree has one NP more.
LOW = "(S (NP (DT The) (NN man)) (VP (VBD saw) (NP (NP (DT a) (NN dog)) (PP (IN with) (NP (DT a) (JJ hat))))) (. .))"
# (The) (man saw a dog) (with a hat): brackets S, NP, VP, NP, PP, NP, of which VP crosses gold's NP and VP.
CROSSED = "(S (NP (DT The)) (VP (NN man) (VBD saw) (NP (DT a) (NN dog))) (PP (IN with) (NP (DT a) (NN hat))) (. .))"


def counts(gold, test, **options):
    score = score_sentence(parse_tree(gold), parse_tree(test), **options)
    return score.status, score.matched, score.gold, score.test, score.crossing, score.words, score.correct_tags


def test_a_tree_against_itself():
    assert counts(GOLD, GOLD) == ("valid", 6, 6, 6, 0, 8, 8)
    assert score_sentence(parse_tree(GOLD), parse_tree(GOLD)).complete


def test_counts_made_by_hand():
    assert counts(GOLD, LOW) == ("valid", 6, 6, 7, 0, 8, 7)
    assert not score_sentence(parse_tree(GOLD), parse_tree(LOW)).complete, "all of gold, but one too many"
    assert counts(GOLD, CROSSED) == ("valid", 4, 6, 6, 1, 8, 8), "S, NP (a dog), PP, NP (a hat)"


def test_summary_of_several_sentences():
    gold = [parse_tree(GOLD)] * 4
    summary = score_trees(gold, [parse_tree(GOLD), parse_tree(LOW), parse_tree(CROSSED), None])
    assert {name: round(value, 4) for name, value in summary.items()} == {
        "sentences": 4, "errors": 0, "skipped": 1, "valid": 3, "recall": round(1600 / 18, 4),
        "precision": round(1600 / 19, 4), "f1": round(3200 / 37, 4), "complete_match": 33.3333,
        "average_crossing": 0.3333, "no_crossing": 66.6667, "two_or_less_crossing": 100.0,
        "tagging_accuracy": round(2300 / 24, 4),
    }  # fmt: skip


@pytest.mark.parametrize(
    ("gold", "test", "matched", "of_gold", "of_test"),
    [
        # Equal brackets are counted as often as they stand there.
        ("(S (NP (NP (N a))) (V b))", "(S (NP (N a)) (V b))", 2, 3, 2),
        ("(S (NP (N a)) (V b))", "(S (NP (NP (NP (N a)))) (V b))", 2, 2, 4),
        ("(S (NP (NP (N a))) (V b))", "(S (NP (NP (NP (N a)))) (V b))", 3, 3, 4),
        # A label counts, its function tags do not.
        ("(S (NP (N a)) (V b))", "(S (VP (N a)) (V b))", 1, 2, 2),
        ("(S (NP-SBJ=1 (N a)) (V b))", "(S-TPC (NP (N a)) (V b))", 2, 2, 2),
        # PRT is ADVP.
        ("(S (V a) (PRT (RP b)))", "(S (V a) (ADVP (RP b)))", 2, 2, 2),
        # Roots do not count, nor do constituents that hold nothing but punctuation or traces.
        ("(TOP (S (N a) (V b)))", "(S (N a) (V b))", 1, 1, 1),
        ("(S1 (S (N a) (V b)))", "(ROOT (S (N a) (V b)))", 1, 1, 1),
        ("(S (N a) (X (: --)) (V b))", "(S (N a) (: --) (V b))", 1, 1, 1),
        ("(S (NP (-NONE- *)) (N a) (V b))", "(S (N a) (V b))", 1, 1, 1),
        # Where punctuation hangs does not matter.
        ("(S (NP (N a) (, ,)) (V b) (. .))", "(S (NP (N a)) (, ,) (V b) (. .))", 2, 2, 2),
        ("(S (`` ``) (NP (N a)) ('' '') (V b))", "(S (NP (`` ``) (N a) ('' '')) (V b))", 2, 2, 2),
    ],
)
def test_what_is_a_bracket(gold, test, matched, of_gold, of_test):
    assert counts(gold, test)[:4] == ("valid", matched, of_gold, of_test)


def test_errors_and_skips_enter_no_score():
    gold = "(S (N a) (, ,) (V b))"
    assert counts(gold, "(S (N a) (V b) (V c))")[0] == "error", "another length"
    assert counts(gold, "(S (N a) (V x))")[0] == "error", "another word"
    assert counts(gold, "(S (N a) (N ,) (V b))")[0] == "error", "punctuation with another tag counts as a word"
    assert counts(gold, "(S (N a) (V b))")[0] == "valid", "punctuation that is missing is no difference"
    assert counts(gold, "(S (, ,))")[0] == "skip", "no word is left"
    assert score_sentence(parse_tree(gold), None).status == "skip"
    only = score_trees([parse_tree(gold)], [parse_tree("(S (N x))")])
    assert (only["errors"], only["valid"], only["f1"], only["complete_match"]) == (1, 0, 0.0, 0.0)
    with pytest.raises(ValueError, match="1 gold trees but 0"):
        score_trees([parse_tree(gold)], [])


def test_unlabelled_compares_only_spans():
    assert counts("(S (NP (N a)) (V b))", "(X (VP (N a)) (V b))", labelled=False)[:4] == ("valid", 2, 2, 2)


# What the original program printed for these lines with COLLINS.prm: matched, gold, test, crossing, words, tags.
ORIGINAL = [
    ("(S (A (P this)) (B (Q is) (A (R a) (T test))))", "(S (A (P this) (Q is)) (A (R a) (T test)))",
     (2, 4, 3, 1, 4, 4)),
    ("(S (A (P this)) (B (Q is) (A (R a) (T test))))", "(S (P this) (Q is) (R a) (T test))", (1, 4, 1, 0, 4, 4)),
    ("(S (A (P this)) (B (Q is) (A (R a) (T test))))", "(S (A (P this)) (B (Q is) (A (A (A (R a) (U test))))))",
     (4, 4, 6, 0, 4, 3)),
    ("(S (A (P this)) (B (Q is) (A (R a) (T test))) (: *))", "(TOP (S (A (P this)) (B (Q is) (R a)) (A (T test))))",
     (2, 4, 4, 1, 4, 4)),
]  # fmt: skip


@pytest.mark.parametrize(("gold", "test", "expected"), ORIGINAL)
def test_as_the_original_program(gold, test, expected):
    assert counts(gold, test)[1:] == expected


def test_command(tmp_path, capsys):
    gold, test = tmp_path / "gold", tmp_path / "test"
    gold.write_text(f"{GOLD}\n{GOLD}\n", encoding="utf-8")
    test.write_text(f"{LOW}\n\n", encoding="utf-8")
    assert main([str(gold), str(test)]) == 0
    output = capsys.readouterr().out
    assert "2   (0 errors, 1 skipped)" in output and "labelled F1         92.31" in output
    assert read_lines_of_trees(test)[1] is None
    for text, words in (
        (f"{LOW}\n", "has 2 trees but"),
        (f"{LOW}\n(S (A a)\n", f"{test}, line 2: the bracket"),
        (f"{LOW}\n(A a) (B b)\n", "line 2: 2 trees are on one line"),
    ):
        test.write_text(text, encoding="utf-8")
        assert main([str(gold), str(test)]) == 2
        assert words in capsys.readouterr().err
    with pytest.raises(TreeError):
        read_lines_of_trees(test)
    gold.write_text(f"\n{GOLD}\n", encoding="utf-8")
    test.write_text(f"{LOW}\n{LOW}\n", encoding="utf-8")
    assert main([str(gold), str(test)]) == 2
    assert "line 1: a gold tree is missing" in capsys.readouterr().err
