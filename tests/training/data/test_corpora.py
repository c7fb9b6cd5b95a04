"""Several corpora: how they are read from a recipe, and what their weights make of an epoch."""

import json
from collections import Counter

import datasets
import numpy as np
import pytest

from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.data import corpora as corpora_module
from vaswani_tx.training.data.batching import BatchPlan, WeightedPlan, pair_sides
from vaswani_tx.training.data.corpora import Corpus, corpora_of, training_texts
from vaswani_tx.training.data.filters import FilterCounts
from vaswani_tx.training.errors import BatchError, DataError


def write(path, lines):
    path.write_text("".join(line + "\n" for line in lines), encoding="utf-8")
    return str(path)


def text_corpus(folder, name, count, **options):
    sides = [write(folder / f"{name}.{side}", [f"{name} {side} {i}" for i in range(count)]) for side in ("en", "de")]
    return Corpus(*sides, **options)


def settings(**values):
    return TranslationSettings(**({"output_dir": "out"} | values))


# Reading


def test_what_an_entry_leaves_out_comes_from_the_recipe(tmp_path):
    write(tmp_path / "b.jsonl", [])
    recipe = settings(
        data_dir=str(tmp_path), source_field="en", target_field="de", train_split="all", dataset_config="x",
        empty_lines="drop",
        corpora=[
            {"source": "a.en", "target": "a.de", "weight": 2},
            {"source": "b.jsonl", "source_field": "left", "split": "some"},
            {"source": ["c.tsv", "d.tsv"]},
            {"source": "owner/name", "config": "de-en"},
        ],
    )  # fmt: skip
    first, second, third, fourth = corpora_of(recipe)
    assert first == Corpus(
        f"{tmp_path}/a.en", f"{tmp_path}/a.de", 2, "all", "x", source_field="en", target_field="de", empty="drop"
    )
    assert (second.source, second.source_field, second.target_field) == (f"{tmp_path}/b.jsonl", "left", "de")
    assert (second.weight, second.split, second.config) == (1.0, "some", "x")
    assert third.files == [f"{tmp_path}/c.tsv", f"{tmp_path}/d.tsv"] and not third.from_hub
    assert fourth.from_hub and fourth.files == ["owner/name (all)"] and fourth.config == "de-en"


def test_one_corpus_without_a_list(tmp_path):
    (only,) = corpora_of(settings(data_dir=str(tmp_path), train_source="a.en", train_target="a.de"))
    assert (only.source, only.target, only.weight) == (f"{tmp_path}/a.en", f"{tmp_path}/a.de", 1.0)


def test_a_data_set_reads_alike_from_its_map_and_as_a_stream(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("vaswani_tx.training.data.hub.ROWS_PER_CHUNK", 4)
    rows = [json.dumps({"translation": {"en": f"e{i}" if i != 6 else " ", "de": f"d{i}"}}) for i in range(10)]
    (tmp_path / "corpus").mkdir()
    write(tmp_path / "corpus" / "train.jsonl", rows)
    corpus = Corpus(str(tmp_path / "corpus"), source_field="en", target_field="de", empty="drop")
    for streaming in (False, True):
        counts = FilterCounts()
        chunks = list(corpus.chunks(counts, streaming))
        assert [text for chunk in chunks for text in chunk.source] == [f"e{i}" for i in range(10) if i != 6]
        assert np.concatenate([chunk.lines for chunk in chunks]).tolist() == [1, 2, 3, 4, 5, 6, 8, 9, 10]
        assert {chunk.file for chunk in chunks} == set(corpus.files)
        assert (counts.read, counts.empty) == (1, 1) and counts.empty_places == [f"{corpus.files[0]} line 7 (source)"]
    with pytest.raises(DataError, match="no column 'english'; there is 'translation', 'en', 'de'"):
        list(Corpus(corpus.source, source_field="english", target_field="de").chunks(streaming=True))


def test_a_blank_pair_of_a_stream_is_an_error_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("vaswani_tx.training.data.lines.BLOCK_BYTES", 8)
    corpus = text_corpus(tmp_path, "a", 30)
    write(tmp_path / "a.en", ["one", "two", "", "four"] + ["more"] * 26)
    with pytest.raises(DataError, match=r"1 of the first \d pairs .*a.en line 3"):
        list(corpus.chunks(streaming=True))
    with pytest.raises(DataError, match=r"1 of 30 pairs .*a.en line 3"):
        list(corpus.chunks())


def test_texts_for_a_tokenizer(tmp_path, monkeypatch):
    monkeypatch.setattr("vaswani_tx.training.data.lines.BLOCK_BYTES", 40)
    first, second = text_corpus(tmp_path, "a", 30), text_corpus(tmp_path, "b", 5)
    entries = [{"source": corpus.source, "target": corpus.target} for corpus in (first, second)]
    recipe = settings(corpora=entries)
    expected = {
        f"{name} {side} {i}" for name, size in (("a", 30), ("b", 5)) for side in ("en", "de") for i in range(size)
    }
    assert Counter(text for texts in training_texts(recipe) for text in texts) == Counter(expected)
    head = {text for texts in training_texts(recipe, limit=7) for text in texts}
    assert head == {text for text in expected if text.startswith("b") or int(text.split()[-1]) < 7}
    monkeypatch.setattr(corpora_module, "TOKENIZER_PAIRS", 2)
    recipe.streaming = True
    assert len([text for texts in training_texts(recipe) for text in texts]) == 8


def test_fingerprints_are_of_the_content(tmp_path):
    corpus = text_corpus(tmp_path, "a", 3)
    mark = corpus.fingerprint()
    (tmp_path / "b").mkdir()
    moved = Corpus(*(str(tmp_path / "b" / f"b.{side}") for side in ("en", "de")), weight=3.0, split="other")
    for side in ("en", "de"):
        (tmp_path / "b" / f"b.{side}").write_bytes((tmp_path / f"a.{side}").read_bytes())
    assert moved.fingerprint() == mark, "neither names nor weights change what is tokenised"
    assert Corpus(corpus.target, corpus.source).fingerprint() != mark
    assert Corpus(corpus.source, corpus.target, empty="drop").fingerprint() != mark
    write(tmp_path / "a.de", ["a de 0", "a de 1", "a de 3"])
    assert corpus.fingerprint() != mark
    packed = write(tmp_path / "p.tsv", ["a\tb"])
    marks = [Corpus(packed, source_field=a, target_field=b).fingerprint() for a, b in ((0, 1), (1, 0))]
    assert marks[0] != marks[1]
    (tmp_path / "p.jsonl").write_bytes((tmp_path / "p.tsv").read_bytes())
    assert Corpus(str(tmp_path / "p.jsonl"), source_field=0, target_field=1).fingerprint() != marks[0]
    with pytest.raises(DataError, match="there is no such file"):
        Corpus(str(tmp_path / "c.en"), str(tmp_path / "c.de")).fingerprint()


def test_weights_without_sense_are_refused(tmp_path):
    for weight in (0, -1.0, float("inf"), float("nan")):
        with pytest.raises(DataError, match="greater than 0"):
            text_corpus(tmp_path, "a", 1, weight=weight)


# Plans


@pytest.fixture
def lengths():
    random = np.random.default_rng(3)
    return random.integers(2, 30, size=400), random.integers(2, 30, size=400)


def times(plan, epoch):
    return np.bincount(np.concatenate(plan.epoch(epoch)), minlength=400)


def test_whole_weights_repeat_and_fractions_take_a_part(lengths):
    plan = WeightedPlan(pair_sides(*lengths, 500, 600), (0, 100, 300, 400), (2.0, 0.5, 1.25), seed=4)
    assert plan.sizes() == [200, 100, 125] and len(plan) == 425
    for epoch in range(4):
        count = times(plan, epoch)
        assert (count[:100] == 2).all()
        assert set(count[100:300]) == {0, 1} and count[100:300].sum() == 100
        assert set(count[300:]) == {1, 2} and count[300:].sum() == 125


def test_another_part_every_epoch_and_all_pairs_in_turn(lengths):
    plan = WeightedPlan(pair_sides(*lengths, 500, 600), (0, 100, 400), (1, 0.25), seed=4)
    parts = [times(plan, epoch)[100:] for epoch in range(8)]
    assert (sum(parts[:4]) == 1).all() and (sum(parts[4:]) == 1).all()
    assert not any((a == b).all() for a in parts[:4] for b in parts[4:])
    odd = WeightedPlan(pair_sides(*lengths, 500, 600), (0, 400), (0.3,), seed=4)
    assert [times(odd, epoch).sum() for epoch in range(5)] == [120] * 5
    assert max(times(odd, 0) + times(odd, 1) + times(odd, 2)) == 1


def test_an_epoch_depends_on_seed_and_number_alone(lengths):
    sides, weights = pair_sides(*lengths, 500, 600), ((0, 150, 400), (1.5, 0.1))
    plan, again = WeightedPlan(sides, *weights, seed=4), WeightedPlan(sides, *weights, seed=4)
    for epoch in (0, 1, 2):
        plan.epoch(epoch)
    for epoch in (7, 3):
        pairs = zip(plan.epoch(epoch), again.epoch(epoch), strict=True)
        assert all(np.array_equal(a, b) for a, b in pairs)
    other = WeightedPlan(sides, *weights, seed=5)
    assert not np.array_equal(np.sort(np.concatenate(other.epoch(3))), np.sort(np.concatenate(plan.epoch(3))))


def test_batches_keep_the_budgets_and_waste_little(lengths):
    plan = WeightedPlan(pair_sides(*lengths, 300, 350), (0, 200, 400), (3, 0.5), seed=4, pad_to_multiple_of=4)
    batches = plan.epoch(1)
    for batch in batches:
        widths = [-(-side[batch].max() // 4) * 4 for side in lengths]
        assert len(batch) * widths[0] <= 300 and len(batch) * widths[1] <= 350
    whole = BatchPlan(pair_sides(*lengths, 300, 350), seed=4, pad_to_multiple_of=4)
    assert plan.padding_waste(batches).total < whole.padding_waste(whole.epoch(1)).total + 0.03
    assert plan.padding_waste(batches) == whole.padding_waste(batches)


def test_weights_of_one_give_the_plain_plan(lengths):
    sides = pair_sides(*lengths, 500, 600)
    plan, plain = WeightedPlan(sides, (0, 9, 400), (1, 1.0), seed=4), BatchPlan(sides, seed=4)
    assert all(np.array_equal(a, b) for a, b in zip(plan.epoch(2), plain.epoch(2), strict=True))


def test_a_tiny_part_is_at_least_one_pair(lengths):
    plan = WeightedPlan(pair_sides(*lengths, 500, 600), (0, 3, 400), (0.01, 1))
    assert {int(times(plan, epoch)[:3].sum()) for epoch in range(6)} == {1}
    assert (sum(times(plan, epoch)[:3] for epoch in range(3)) == 1).all()
    with pytest.raises(BatchError, match="1 weights for 2 corpora"):
        WeightedPlan(pair_sides(*lengths, 500, 600), (0, 3, 400), (1,))
