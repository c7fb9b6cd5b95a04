"""A stream: the same pieces whoever asks, exact after a jump, bounded in memory, and faults by file and line."""

import json
import logging
import weakref

import datasets
import numpy as np
import pytest

from tests.helpers.word_tokenizer import Words
from vaswani_tx.training.data import readers
from vaswani_tx.training.data.corpora import Corpus
from vaswani_tx.training.data.filters import PairFilter
from vaswani_tx.training.data.parallel import PairTokenizer
from vaswani_tx.training.data.readers import Chunk
from vaswani_tx.training.data.streaming import PairStream
from vaswani_tx.training.errors import DataError


def corpus_of(folder, name, count, **options):
    sides = []
    for side in ("en", "de"):
        path = folder / f"{name}.{side}"
        path.write_text("".join(f"{name} {'w ' * (i % 5)}{'x' * i}\n" for i in range(count)), encoding="utf-8")
        sides.append(str(path))
    return Corpus(*sides, **options)


def stream(corpora, buffer, seed=3, rules=None, **options):
    options = {"prefetch": False} | options
    return PairStream(corpora, Words(), rules or PairFilter(), 60, 60, buffer, seed=seed, **options)


def places(plan, epoch):
    batches = plan.epoch(epoch)
    return [[plan.examples.locate(i).rsplit("/", 1)[-1] for i in batch] for batch in batches]


def flat(batches):
    return sorted((place for batch in batches for place in batch), key=lambda place: (place[0], int(place.split()[-1])))


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr("vaswani_tx.training.data.lines.BLOCK_BYTES", 64)
    monkeypatch.setattr(readers, "ROWS_PER_CHUNK", 3)
    monkeypatch.setattr("vaswani_tx.training.data.hub.ROWS_PER_CHUNK", 3)
    monkeypatch.setattr("vaswani_tx.training.data.parallel.TOKENIZE_CHUNK", 4)


@pytest.fixture
def tokenized(monkeypatch):
    """The lines that are tokenised, in order."""
    lines = []
    original = PairTokenizer.__call__

    def call(self, source, target, places, files):
        lines.extend(places.tolist())
        return original(self, source, target, places, files)

    monkeypatch.setattr(PairTokenizer, "__call__", call)
    return lines


# Buffers


def test_buffers_follow_each_other_and_a_pass_ends_with_a_short_one(tmp_path):
    plan = stream([corpus_of(tmp_path, "a", 25)], 10)
    expected = [range(1, 11), range(11, 21), range(21, 26)] * 2
    seen = []
    for epoch, lines in enumerate(expected):
        assert plan.passes(epoch) == epoch // 3
        batches = places(plan, epoch)
        assert flat(batches) == [f"a.en line {line}" for line in lines]
        assert plan.passes(epoch + 1) == (epoch + 1) // 3
        seen.append(batches)
    assert seen[0] != seen[3], "the second pass is shuffled differently"


def test_a_pass_of_whole_buffers_has_no_empty_one(tmp_path):
    plan = stream([corpus_of(tmp_path, "a", 20)], 10)
    assert [plan.passes(epoch) for epoch in range(5)] == [0, 0, 1, 1, 2]
    assert [len(flat(places(plan, epoch))) for epoch in range(5)] == [10] * 5


def test_lengths_ids_and_batches_are_of_the_buffer(tmp_path):
    plan = stream([corpus_of(tmp_path, "a", 23)], 10)
    for epoch in (0, 1, 2):
        batches = plan.epoch(epoch)
        assert sorted(np.concatenate(batches)) == list(range(len(plan.examples)))
        assert all(len(batch) * plan.examples.source_lengths[batch].max() <= 60 for batch in batches)
        for i in range(len(plan.examples)):
            number = plan.examples.lines[i] - 1
            assert plan.examples.source_lengths[i] == plan.examples.target_lengths[i] == 2 + number % 5 + bool(number)
            assert plan.examples.source_ids(i)[-2:].tolist() == ([10 + number, 2] if number else [11, 2])
        assert 0 <= plan.padding_waste(batches).total < 0.5


def test_the_same_buffers_for_every_process_and_seed_but_another_order(tmp_path):
    corpora = [corpus_of(tmp_path, "a", 40)]
    one, same, other = stream(corpora, 15), stream(corpora, 15), stream(corpora, 15, seed=4)
    for epoch in range(4):
        batches = places(one, epoch)
        assert batches == places(same, epoch)
        assert batches != places(other, epoch) and flat(batches) == flat(places(other, epoch))


@pytest.mark.parametrize("epoch", [1, 4, 5, 8])
def test_a_jump_gives_the_same_piece_and_tokenises_no_other(tmp_path, tokenized, epoch):
    corpora = [corpus_of(tmp_path, "a", 27), corpus_of(tmp_path, "b", 5, weight=0.5)]
    steady = stream(corpora, 12)
    expected = [(places(steady, k), steady.passes(k)) for k in range(epoch + 1)][-1]
    tokenized.clear()
    resumed = stream(corpora, 12)
    assert resumed.passes(epoch) == expected[1] and not tokenized
    assert places(resumed, epoch) == expected[0]
    assert len(tokenized) == len(flat(expected[0]))
    assert places(resumed, epoch) == expected[0] and len(tokenized) == len(flat(expected[0])), "asked for twice"
    assert places(resumed, 0) == places(stream(corpora, 12), 0), "and back again"
    assert places(resumed, epoch) == expected[0]


def test_corpora_share_every_piece_by_weight(tmp_path):
    corpora = [
        corpus_of(tmp_path, "a", 30),
        corpus_of(tmp_path, "b", 7, weight=0.5),
        corpus_of(tmp_path, "c", 9, weight=0.5),
    ]
    plan = stream(corpora, 20)
    total = {"a": [], "b": [], "c": []}
    for epoch in range(6):
        found = flat(places(plan, epoch))
        for name in total:
            total[name] += [int(place.split()[-1]) for place in found if place[0] == name]
        sizes = np.diff(plan.examples.bounds)
        assert sizes.tolist() == [10, 5, 5]
    assert total["a"] == [*range(1, 31)] * 2
    assert sorted(total["b"]) == sorted([i % 7 + 1 for i in range(30)])
    assert plan.passes(3) == 1 and plan.passes(6) == 2
    uneven = stream([corpora[0], corpus_of(tmp_path, "d", 50, weight=0.3)], 13)
    counts = np.zeros(2, dtype=int)
    for epoch in range(7):
        uneven.epoch(epoch)
        counts += np.diff(uneven.examples.bounds)
        assert abs(counts[1] - 0.3 * counts[0]) < 1


def test_a_buffer_too_small_for_the_first_corpus_is_refused(tmp_path):
    corpora = [corpus_of(tmp_path, "a", 3, weight=0.01), corpus_of(tmp_path, "b", 3)]
    with pytest.raises(DataError, match=r"stream_buffer=20 .*a.en.* Raise it to 102"):
        stream(corpora, 20)
    assert len(stream(corpora, 102).epoch(0)) > 0


# Filters


def test_filters_work_in_buffers_and_are_counted(tmp_path, caplog):
    lines = ["a", "b c", "a", "d", "b c", "e f g h", "i", "", "b c", "i"]
    for side in ("en", "de"):
        (tmp_path / f"f.{side}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    corpus = Corpus(str(tmp_path / "f.en"), str(tmp_path / "f.de"), empty="drop")
    rules = PairFilter(max_source_length=4, max_target_length=4, drop_duplicates=True)
    with caplog.at_level(logging.INFO):
        plan = stream([corpus], 5, rules=rules)
        found = [flat(places(plan, epoch)) for epoch in range(2)]
    assert found == [["f.en line 1", "f.en line 2", "f.en line 4"], ["f.en line 7", "f.en line 9"]]
    total = plan.counts.to_dict()
    assert {name: value for name, value in total.items() if value} == {
        "read": 10, "empty": 1, "duplicates": 3, "too_long": 1, "kept": 5,
    }  # fmt: skip
    assert "Buffer 1 of the stream: Dropped 2 of 4 pairs (1 that occurred before; 1 over the limits" in caplog.text
    assert caplog.text.count("f.en line 8") == 1


def test_an_empty_piece_has_no_batches_and_an_empty_pass_is_an_error(tmp_path):
    for side in ("en", "de"):
        (tmp_path / f"f.{side}").write_text("a\na\nb b b b\nb b b b\nc\n", encoding="utf-8")
    corpus = Corpus(str(tmp_path / "f.en"), str(tmp_path / "f.de"))
    plan = stream([corpus], 2, rules=PairFilter(max_source_length=3))
    assert [len(plan.epoch(epoch)) > 0 for epoch in range(6)] == [True, False, True] * 2
    assert len(plan.examples) == 1
    plan.epoch(1)
    assert len(plan.examples) == len(plan.examples.source_lengths) == 0
    plan = stream([corpus], 2, rules=PairFilter(max_source_length=3, min_length=3))
    for epoch in (0, 1):
        assert plan.epoch(epoch) == []
    with pytest.raises(
        DataError, match=r"All 5 pairs of a whole pass over .*f.en were dropped.* Most, 3, .*min_length"
    ):
        plan.epoch(2)


# Faults


def test_faults_in_the_middle_name_file_and_line(tmp_path):
    corpus = corpus_of(tmp_path, "a", 30)
    content = (tmp_path / "a.en").read_bytes().split(b"\n")
    content[21] = b"k\xe4se"
    (tmp_path / "a.en").write_bytes(b"\n".join(content))
    plan = stream([corpus], 8)
    plan.epoch(0)
    plan.epoch(1)
    with pytest.raises(DataError, match=r"a.en, line 22: byte 2 .* is not valid UTF-8"):
        plan.epoch(2)
    (tmp_path / "b.en").write_text("x\n" * 30, encoding="utf-8")
    (tmp_path / "b.de").write_text("x\n" * 28, encoding="utf-8")
    plan = stream([Corpus(str(tmp_path / "b.en"), str(tmp_path / "b.de"))], 20)
    plan.epoch(0)
    with pytest.raises(DataError, match=r"b.en has 30 lines but .*b.de has 28"):
        plan.epoch(1)
    (tmp_path / "b.en").write_text("x\n" * 13 + " \n" + "x\n" * 16, encoding="utf-8")
    (tmp_path / "b.de").write_text("x\n" * 30, encoding="utf-8")
    with pytest.raises(DataError, match=r"b.en line 14\. Fix"):
        [stream([Corpus(str(tmp_path / "b.en"), str(tmp_path / "b.de"))], 20).epoch(k) for k in (0, 1)]
    with pytest.raises(DataError, match=r"a.en line 4: 6 source and 6 target tokens are over .* 5 source"):
        stream([corpus], 8, rules=PairFilter(max_source_length=5, too_long="error")).epoch(0)
    hollow = [tmp_path / "h.en", tmp_path / "h.de"]
    for path in hollow:
        path.write_text(" \n", encoding="utf-8")
    with pytest.raises(DataError, match=r"h\.en holds no pair"):
        stream([Corpus(*map(str, hollow), empty="drop")], 8).epoch(0)


# Reading ahead


def test_reading_ahead_changes_nothing(tmp_path):
    corpora = [corpus_of(tmp_path, "a", 27), corpus_of(tmp_path, "b", 5, weight=0.5)]
    ahead, plain = stream(corpora, 12, prefetch=True), stream(corpora, 12)
    for epoch in (0, 1, 1, 2, 3, 4, 9, 10, 2, 3, 0):
        assert places(ahead, epoch) == places(plain, epoch)
        assert ahead.examples.bounds == plain.examples.bounds
        assert [ahead.passes(k) for k in (epoch, epoch + 1)] == [plain.passes(k) for k in (epoch, epoch + 1)]
        if epoch in (2, 10):
            assert ahead.passes(epoch + 4) == plain.passes(epoch + 4)
    assert ahead.counts == plain.counts


def test_the_next_piece_is_made_meanwhile_and_its_fault_waits_for_its_turn(tmp_path, tokenized):
    corpus = corpus_of(tmp_path, "a", 30)
    with (tmp_path / "a.en").open("ab") as file:
        file.write(b"one more\n")
    plan = stream([corpus], 10, prefetch=True)
    plan.epoch(0)
    plan._thread.join()
    assert sorted(tokenized) == list(range(1, 21))
    assert len(flat(places(plan, 1))) == 10
    for _ in range(2):
        with pytest.raises(DataError, match=r"a.en has 31 lines but .*a.de has 30"):
            plan.epoch(2)
    assert flat(places(plan, 1)) == [f"a.en line {line}" for line in range(11, 21)]


# Sources


def test_formats_and_data_sets_stream_alike(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    rows = [{"source": f"s{i} " + "w " * (i % 4), "target": f"t{i} " + "w " * (i % 3)} for i in range(22)]
    (tmp_path / "set").mkdir()
    for path in ("rows.jsonl", "set/train.jsonl"):
        (tmp_path / path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    tsv = "".join(f"{row['source']}\t{row['target']}\n" for row in rows)
    (tmp_path / "rows.tsv").write_text("source\ttarget\n" + tsv, encoding="utf-8")
    plans = [stream([Corpus(str(tmp_path / name))], 9) for name in ("rows.jsonl", "rows.tsv", "set")]
    for epoch in (0, 1, 2, 4):
        batches = [plan.epoch(epoch) for plan in plans]
        for other, plan in zip(batches[1:], plans[1:], strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(batches[0], other, strict=True))
            assert np.array_equal(plan.examples.target_flat, plans[0].examples.target_flat)
            assert plan.passes(epoch) == epoch // 3
    assert plans[2].examples.locate(0).endswith("set (train) line 10")


class Text(str):
    """Text that can be counted while it lives."""

    alive = 0
    most = 0

    def __new__(cls, value):
        made = super().__new__(cls, value)
        cls.alive += 1
        cls.most = max(cls.most, cls.alive)
        weakref.finalize(made, cls._gone)
        return made

    @classmethod
    def _gone(cls):
        cls.alive -= 1


class Generated:
    """A corpus without an end, of text that counts itself."""

    weight, files, name = 1.0, ["made"], "made"

    def __init__(self):
        self.rows = 0

    def chunks(self, counts=None, streaming=False):
        assert streaming
        while True:
            lines = np.arange(self.rows + 1, self.rows + 8)
            self.rows += 7
            yield Chunk("made", lines, *([Text(f"{'x' * (i % 9)} y") for i in lines] for _ in "ab"))


@pytest.mark.parametrize("prefetch", [False, True])
def test_no_more_text_than_a_piece_is_ever_held(prefetch):
    Text.alive = Text.most = 0
    corpus = Generated()
    plan = stream([corpus], 50, prefetch=prefetch)
    for epoch in [*range(6), 30, 31]:
        plan.epoch(epoch)
        assert len(plan.examples) == 50 and len(plan.examples.lines) == 50
    assert corpus.rows >= 32 * 50
    # Both sides of the piece that is read, of the chunk that it ends in, and of one chunk looked ahead.
    assert Text.most <= 2 * (50 + 2 * 7)
