"""Filters of training pairs: what each takes, in which order, and that every pair is counted once."""

import logging

import numpy as np
import pytest

from tests.helpers.word_tokenizer import Words
from vaswani_tx.training.data import filters
from vaswani_tx.training.data.filters import FilterCounts, PairFilter, SeenPairs
from vaswani_tx.training.data.parallel import PairTokenizer, join_parts, load_parallel, tokenize_parallel
from vaswani_tx.training.data.readers import Chunk
from vaswani_tx.training.errors import DataError


def filtered(pairs, chunk_size=None, **rules):
    encode = PairTokenizer(Words(), PairFilter(**rules), ["a"])
    size = chunk_size or len(pairs)
    chunks = [
        Chunk("a", np.arange(i, i + len(pairs[i : i + size])) + 1, *map(list, zip(*pairs[i : i + size], strict=True)))
        for i in range(0, len(pairs), size)
    ]
    return join_parts(list(encode.parts(chunks)), ["a"], encode.counts)


def numbers(counts):
    return {name: value for name, value in counts.to_dict().items() if value}


def test_min_length_counts_the_text_and_not_the_end_mark():
    pairs = filtered([("a b", "c d"), ("a", "c d"), ("a b", "c"), ("a b c", "d e f")], min_length=2)
    assert pairs.lines.tolist() == [1, 4]
    assert numbers(pairs.counts) == {"read": 4, "too_short": 2, "kept": 2}


def test_the_ratio_is_of_the_text_and_its_bound_passes():
    pairs = [("a", "a b"), ("a b c", "a"), ("a b", "a b c d"), ("a b", "a b c d e"), ("a b c d e", "a b")]
    kept = filtered(pairs, max_length_ratio=2.0)
    # 1 against 2 and 2 against 4 are exactly 2; with the end marks 5 to 2 would pass as 6 to 3.
    assert kept.lines.tolist() == [1, 3] and kept.counts.ratio == 3
    assert filtered(pairs, max_length_ratio=2.5).lines.tolist() == [1, 3, 4, 5]


@pytest.mark.parametrize("chunk_size", [1, 2, 100])
def test_the_first_of_equal_pairs_stays_across_chunks(chunk_size):
    pairs = [
        ("a", "b"),
        ("c", "d"),
        ("a", "b"),
        ("a", "d"),
        ("b", "a"),
        ("c", "d"),
        ("a", "b"),
        ("ab", "c"),
        ("a", "bc"),
    ]
    kept = filtered(pairs, chunk_size, drop_duplicates=True)
    assert kept.lines.tolist() == [1, 2, 4, 5, 8, 9]
    assert numbers(kept.counts) == {"read": 9, "duplicates": 3, "kept": 6}


def test_copies_are_equal_texts():
    kept = filtered([("a b", "a b"), ("a b", "a  b"), ("a", "A")], drop_copies=True)
    assert kept.lines.tolist() == [2, 3] and kept.counts.copies == 1


def test_every_pair_is_counted_once_under_its_first_reason():
    long = "w " * 9
    pairs = [
        ("x", "x"),
        (long, long),
        ("a b", "c d"),
        ("a b", "c d"),
        ("a", "b c d e"),
        (long, "a b"),
        (long, long + "w"),
        ("q r", "s t"),
    ]
    rules = {"max_source_length": 8, "max_target_length": 8, "min_length": 2, "max_length_ratio": 3.0}
    kept = filtered(pairs, **rules, drop_duplicates=True, drop_copies=True)
    assert kept.lines.tolist() == [3, 8]
    expected = {"read": 8, "copies": 2, "duplicates": 1, "too_short": 1, "ratio": 1, "too_long": 1, "kept": 2}
    assert numbers(kept.counts) == expected and kept.counts.dropped == 6


def test_ids_lines_and_offsets_of_what_is_left_belong_together():
    random = np.random.default_rng(0)
    pairs = [
        tuple(" ".join("x" * n for n in random.integers(1, 9, size=random.integers(1, 7))) for _ in "ab")
        for _ in range(300)
    ]
    kept = filtered(pairs, 64, max_source_length=6, min_length=2, max_length_ratio=2.0, drop_duplicates=True)
    assert 50 < len(kept) < 250
    for i, line in enumerate(kept.lines):
        for ids, text in zip((kept.source_ids(i), kept.target_ids(i)), pairs[line - 1], strict=True):
            assert ids.tolist() == [10 + len(word) for word in text.split()] + [2]


def test_truncated_pairs_are_kept_and_measured_before_they_are_cut():
    pairs = filtered(
        [("a b c d e f", "a b"), ("a b c d", "a b c d e f")],
        max_source_length=4,
        too_long="truncate",
        max_length_ratio=2.0,
    )
    assert pairs.source_ids(0).tolist() == [11, 11, 11, 2]
    assert numbers(pairs.counts) == {"read": 2, "ratio": 1, "truncated": 1, "kept": 1} and pairs.lines.tolist() == [2]


def test_too_long_as_an_error_is_about_pairs_that_no_other_filter_takes():
    rules = {"max_source_length": 4, "too_long": "error", "max_length_ratio": 2.0}
    assert len(filtered([("a b c d e f", "a"), ("a", "b")], **rules)) == 1
    with pytest.raises(DataError, match=r"a line 1: 7 source and 7 target tokens are over the limits of 4 source"):
        filtered([("a b c d e f", "a b c d e f"), ("a", "b")], **rules)


def test_the_log_line_names_every_reason_and_the_error_the_worst(tmp_path, caplog):
    for side in ("en", "de"):
        (tmp_path / f"a.{side}").write_text("a\nb c\n" + "d e f g h\n" * 3, encoding="utf-8")
    dataset = load_parallel(tmp_path / "a.en", tmp_path / "a.de")
    with caplog.at_level(logging.INFO):
        pairs = tokenize_parallel(dataset, Words(), 4, 4, disable_progress=True, drop_duplicates=True, min_length=2)
    assert len(pairs) == 1
    reasons = "2 that occurred before; 1 under 2 tokens; 1 over the limits of 4 source and 4 target tokens"
    line = f"Dropped 4 of 5 pairs ({reasons}). 1 are left."
    assert line in caplog.text
    with pytest.raises(
        DataError, match=r"All 5 .*nothing is left.* Most, 3, .*over the limits of 3 .*Raise max_source_len"
    ):
        tokenize_parallel(dataset, Words(), 3, 3, disable_progress=True, min_length=3)
    with pytest.raises(DataError, match=r"Most, 5, were pairs with equal sides. Check .*drop_copies"):
        tokenize_parallel(dataset, Words(), disable_progress=True, drop_copies=True)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"min_length": 0}, "min_length=0"),
        ({"max_length_ratio": 0.5}, "max_length_ratio=0.5"),
        ({"max_length_ratio": float("nan")}, "max_length_ratio=nan"),
        ({"max_source_length": 1}, "below 2"),
        ({"too_long": "cut"}, "'drop', 'error' or 'truncate'"),
    ],
)
def test_rules_without_sense_are_refused(rules, message):
    with pytest.raises(DataError, match=message):
        PairFilter(**rules)


def test_counts_add_up():
    one, two = FilterCounts(read=3, empty=1, kept=2, empty_places=["a line 1"]), FilterCounts(read=4, kept=4)
    two.add(one)
    assert two == FilterCounts(read=7, empty=1, kept=6, empty_places=["a line 1"])
    one.move_to(two)
    assert one == FilterCounts() and two.read == 10


# The set of pairs


def test_the_set_equals_pythons_own():
    random = np.random.default_rng(1)
    ours, theirs = SeenPairs(capacity=4), set()
    for size in (1, 0, 50, 400, 3000):
        pairs = [(str(a), str(b)) for a, b in random.integers(0, 40, size=(size, 2))]
        if not pairs:
            continue
        new = ours.add(*zip(*pairs, strict=True))
        for pair, is_new in zip(pairs, new, strict=True):
            assert is_new == (pair not in theirs), pair
            theirs.add(pair)
        assert len(ours) == len(theirs)


def test_different_pairs_at_one_place_of_the_table_are_kept_apart(monkeypatch):
    def digest(source, target):
        # All begin at the last slot of the table, so that every one but the first has to probe further, around its end.
        return (2**64 - 1).to_bytes(8, "little") + (2 * int(source + target) + 1).to_bytes(8, "little")

    monkeypatch.setattr(filters, "_digest", digest)
    seen = SeenPairs(capacity=64)
    numbers = [str(i) for i in range(20)]
    assert seen.add(numbers, [""] * 20).all() and len(seen) == 20
    assert not seen.add(numbers[::-1], [""] * 20).any() and len(seen) == 20
    assert seen.add([*numbers, "77"], [""] * 21).tolist() == [False] * 20 + [True]


def test_hashes_take_both_sides_and_where_they_are_split():
    same = filters._digest("ab", "c")
    assert len(same) == 16 and same == filters._digest("ab", "c")
    others = [("a", "bc"), ("abc", ""), ("c", "ab"), ("ab", "d"), ("2:ab", "c"), ("ab\0", "c")]
    assert same not in {filters._digest(*pair) for pair in others}
