"""Bracketed trees: read, written, cleaned; as symbols and back, also from symbols that make no tree."""

import gzip
import random
import re

import pytest

from vaswani_tx.training.errors import TreeError
from vaswani_tx.training.experiments.english_treebank import generate_trees
from vaswani_tx.training.parsing.linear import (
    FAULTS,
    LEAF,
    LEAVES,
    count_faults,
    kind_of_leaves,
    linearise,
    read_back,
    symbols_of,
)
from vaswani_tx.training.parsing.trees import (
    MAX_DEPTH,
    Tree,
    base_label,
    bracket_word,
    clean_tree,
    parse_tree,
    parse_trees,
    plain_word,
    read_trees,
    write_trees,
)

DOG = "(S (NP (DT The) (NN dog)) (VP (VBZ barks)) (. .))"
TREEBANK = r"""
( (S
    (NP-SBJ-1 (DT The) (NN man) )
    (VP (VBD wanted)
      (S (NP-SBJ (-NONE- *-1) )
        (VP (TO to)
          (VP (VB sell)
            (NP=2 (CD 1\/2) )
            (PRN (-LRB- -LRB-) (NP (-NONE- *T*-3) ) (-RRB- -RRB-) )))))
    (. .) ))
"""


def test_reads_what_the_treebank_writes():
    tree = parse_tree(TREEBANK)
    assert (tree.label, tree.children[0].label) == ("S", "NP-SBJ-1"), "the outer bracket without label is dropped"
    assert tree.words() == ["The", "man", "wanted", "*-1", "to", "sell", "1\\/2", "-LRB-", "*T*-3", "-RRB-", "."]
    assert [leaf.label for leaf in tree.leaves()][-4:] == ["-LRB-", "-NONE-", "-RRB-", "."]
    assert parse_tree("( (X (A a)) (Y (B b)) )") == parse_tree("(TOP (X (A a)) (Y (B b)))"), "several need a root"
    assert parse_trees("(A a)(B\n b)\n\n ( (C c) )") == [Tree("A", word="a"), Tree("B", word="b"), Tree("C", word="c")]
    assert parse_trees("  \n") == []


def test_round_trip_is_exact():
    trees = generate_trees(60, 3)
    assert parse_trees(write_trees(trees)) == trees == parse_trees(write_trees(trees, pretty=True))
    assert str(parse_tree(DOG)) == DOG
    assert write_trees(parse_trees(TREEBANK)) == write_trees(parse_trees(write_trees(parse_trees(TREEBANK))))
    longest = max(trees, key=lambda tree: len(str(tree)))
    assert len(longest.pretty().splitlines()) > 3 and max(map(len, longest.pretty().splitlines())) <= 110


@pytest.mark.parametrize(
    ("text", "line", "words"),
    [
        ("(S (NP (DT a))\n(VP (V b)\n", 2, "never closed"),
        ("(A a)\n(S (A a)))\n", 2, "no opening one"),
        ("(S (NP ((DT a) (NN b))))", 1, "no label"),
        ("(S\n ())", 2, "empty"),
        ("()", 1, "empty"),
        ("(S (NP) (VP (V b)))", 1, "'NP' holds nothing"),
        ("(S\n (NP the (NN dog)))", 2, "'the' inside of '(NP ...' has no tag"),
        ("(NP the dog)", 1, "'dog'"),
        ("(S (NP (DT the)\n dog))", 2, "'dog' inside of '(NP ...' has no tag"),
        ("(A a)\n\nstray (B b)", 3, "'stray' is outside"),
        ("(S " * 300 + "(A a)" + ")" * 300, 1, f"more than {MAX_DEPTH} deep"),
    ],
)
def test_an_error_names_file_and_line(tmp_path, text, line, words):
    file = tmp_path / "bad.mrg"
    file.write_text(text, encoding="utf-8")
    with pytest.raises(TreeError) as caught:
        list(read_trees(file))
    assert str(caught.value).startswith(f"{file}, line {line}: ") and words in str(caught.value)


def test_reads_files_and_folders_in_order(tmp_path):
    for name, word in (("02/b.mrg", "b"), ("02/a.mrg", "a"), ("03/c.txt", "c"), ("03/readme.md", "no")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(f"\ufeff(X {word})\n", encoding="utf-8")
    assert [tree.word for tree in read_trees(tmp_path)] == ["a", "b", "c"]
    assert [tree.word for tree in read_trees([tmp_path / "03", tmp_path / "02" / "b.mrg"])] == ["c", "b"]
    (tmp_path / "empty.mrg").write_text("\n")
    (tmp_path / "latin.mrg").write_bytes("(A a)\n(B café)".encode("latin-1"))
    (tmp_path / "none").mkdir()
    for name, words in (("empty.mrg", "no tree"), ("latin.mrg", "line 2"), ("none", ".mrg"), ("gone", "no such file")):
        with pytest.raises(TreeError, match=words) as caught:
            list(read_trees(tmp_path / name))
        assert str(tmp_path / name) in str(caught.value)


def test_cleaning_removes_traces_function_tags_and_the_root():
    tree = clean_tree(parse_tree(TREEBANK))
    assert str(tree) == (
        r"(S (NP (DT The) (NN man)) (VP (VBD wanted) (S (VP (TO to) (VP (VB sell) (NP (CD 1\/2)) "
        "(PRN (-LRB- -LRB-) (-RRB- -RRB-)))))) (. .))"
    )
    assert str(clean_tree(parse_tree(f"(TOP (S1 {DOG}))"))) == DOG
    assert str(clean_tree(parse_tree("(TOP (A a) (B b))"))) == "(TOP (A a) (B b))", "it holds two trees together"
    assert str(clean_tree(parse_tree("(ROOT (UH Yes))"))) == "(UH Yes)"
    assert clean_tree(parse_tree("(S (NP (-NONE- *)) (VP (-NONE- *?*)))")) is None
    labels = {
        "NP-SBJ=1": "NP",
        "NP=2": "NP",
        "-LRB-": "-LRB-",
        "PRP$": "PRP$",
        "WHNP-1": "WHNP",
        "ADVP|PRT": "ADVP|PRT",
    }
    assert {label: base_label(label) for label in labels} == labels


def test_words_go_between_text_and_brackets():
    assert [plain_word(word) for word in ("-LRB-", "1\\/2", "-RCB-", "dog", "--")] == ["(", "1/2", "}", "dog", "--"]
    assert [bracket_word(word) for word in ("(", "a)", "dog")] == ["-LRB-", "a-RRB-", "dog"]


def test_words_are_exchanged_only_for_as_many():
    tree, other = parse_tree(DOG), parse_tree("(X (A One) (B cat) (C sleeps) (D !))")
    assert str(tree.with_leaves(other.leaves())) == "(S (NP (A One) (B cat)) (VP (C sleeps)) (D !))"
    for leaves in (other.leaves()[:3], [*other.leaves(), *other.leaves()]):
        with pytest.raises(ValueError, match="4 words"):
            tree.with_leaves(leaves)


# Symbols


def test_linearised_as_in_the_paper_that_section_63_builds_on():
    tree = parse_tree(DOG)
    assert linearise(tree) == "(S (NP XX XX )NP (VP XX )VP XX )S"
    assert linearise(tree, leaves="tags") == "(S (NP DT NN )NP (VP VBZ )VP . )S"
    assert symbols_of([tree]) == ["(NP", "(S", "(VP", ")NP", ")S", ")VP", "XX"]
    assert symbols_of([tree], leaves="tags")[-4:] == [".", "DT", "NN", "VBZ"]
    assert linearise(tree, leaves="words") == "(S (NP The dog )NP (VP barks )VP . )S"
    assert symbols_of([tree], leaves="words") == ["(NP", "(S", "(VP", ")NP", ")S", ")VP"]
    assert [kind_of_leaves(symbols_of([tree], leaves)) for leaves in LEAVES] == list(LEAVES)


def test_round_trip_through_symbols_is_exact():
    unary = parse_trees("(S (NP (NP (NN dog))) (VP (VP (VB go)))) (UH Yes) (S (S (S (A a))))")
    for tree in [*generate_trees(80, 4), *unary]:
        back = read_back(linearise(tree, leaves="tags"), tree.words(), leaves="tags")
        assert (back.tree, back.faults) == (tree, ())
        plain = read_back(linearise(tree), tree.words())
        assert plain.faults == () and plain.tree.with_leaves(tree.leaves()) == tree
        assert {leaf.label for leaf in plain.tree.leaves()} == {LEAF}
        assert read_back(linearise(tree, "words"), tree.words(), "words") == plain


def test_words_of_the_output_only_hold_the_place():
    back = read_back("(S (NP a x )NP ( c )S d", ["a", "b", "c"], "words")
    assert str(back.tree) == "(S (NP (XX a) (XX b)) (XX c))"
    assert set(back.faults) == {"other", "unknown", "too many"}


@pytest.mark.parametrize(
    ("output", "expected", "faults"),
    [
        ("(S (NP XX XX (VP XX", "(S (NP a b (VP c)))", {"unclosed"}),
        ("(S (NP XX XX )S XX", "(S (S (NP a b)) c)", {"mismatched", "roots"}),
        ("(S (NP XX )VP XX )NP XX )S )S", "(S (NP a b) c)", {"mismatched"}),
        ("(S (NP XX XX )NP )S", "(S (NP a b) c)", {"too few"}),
        ("(S (NP XX XX", "(S (NP a b c))", {"too few", "unclosed"}),
        ("(S (NP XX XX )NP (VP XX XX )VP )S XX", "(S (NP a b) (VP c))", {"too many"}),
        ("(S (VP )VP (NP XX XX XX )NP )S", "(S (NP a b c))", {"empty"}),
        ("(S XX the XX ( ) )S XX )", "(S (S a b) c)", {"unknown", "roots"}),
        ("(NP XX )NP (VP XX XX )VP", "(S (NP a) (VP b c))", {"roots"}),
        ("(NP XX )NP XX", "(S (NP a) b c)", {"too few", "roots"}),
        ("(NP )NP", "(S a b c)", {"too few", "empty", "roots"}),
        ("", "(S a b c)", {"too few", "roots"}),
    ],
)
def test_malformed_output_is_repaired_by_the_rules(output, expected, faults):
    back = read_back(output, ["a", "b", "c"])
    assert re.sub(rf"\({LEAF} (\w)\)", r"\1", str(back.tree)) == expected
    assert set(back.faults) == faults


def test_any_output_gives_a_tree_over_all_words():
    draw = random.Random(1)
    symbols = ["(S", ")S", "(NP", ")NP", "(VP", ")VP", "XX", "XX", "XX", "dog", "(", ")"]
    found = []
    for _ in range(300):
        words = [f"w{number}" for number in range(draw.randint(1, 9))]
        output = " ".join(draw.choices(symbols, k=draw.randint(0, 30)))
        for leaves in LEAVES:
            back = read_back(output, words, leaves)
            assert back.tree.words() == words and parse_tree(str(back.tree)) == back.tree
            assert back == read_back(output, words, leaves), "the same output gives the same tree"
        # Faultless means: exactly what this tree is written as.
        plain = read_back(output, words)
        assert (plain.faults == ()) == (linearise(plain.tree) == output)
        found.append(plain)
    counts = count_faults(found)
    assert counts["malformed"] == sum(bool(one.faults) for one in found) > 250
    assert set(counts) == {"malformed", *FAULTS} and all(
        counts[name] for name in FAULTS if name not in ("deep", "other")
    )


def test_a_bottomless_output_stays_readable():
    back = read_back("(NP " * 1000 + "XX", ["a", "b"])
    assert "deep" in back.faults and back.tree.words() == ["a", "b"]
    assert parse_tree(str(back.tree)) == back.tree


def test_a_sentence_without_words_has_no_tree():
    with pytest.raises(ValueError, match="without words"):
        read_back("(S XX )S", [])


def test_words_part_at_ascii_white_space_only():
    odd = "10\u00a0000"
    tree = parse_tree(f"(S\t(CD {odd})\r (NN\x0ca\u2028b))")
    assert tree.words() == [odd, "a\u2028b"] and parse_tree(str(tree)) == tree
    assert read_back(linearise(tree, "words"), tree.words(), "words").faults == ()


def test_a_folder_has_compressed_files_too(tmp_path):
    (tmp_path / "a.mrg.gz").write_bytes(gzip.compress(b"(S (A a))"))
    (tmp_path / "b.mrg").write_text("(S (B b))")
    assert [tree.words() for tree in read_trees(tmp_path)] == [["a"], ["b"]]
