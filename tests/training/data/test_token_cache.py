"""The token cache: the same pairs as without it, found again, never stale, and rebuilt where it is damaged."""

import json
import logging
import multiprocessing
import os
from pathlib import Path

import numpy as np
import pytest

from vaswani_tx import VaswaniTokenizer
from vaswani_tx.training.data import parallel as data_module
from vaswani_tx.training.data import token_cache
from vaswani_tx.training.data.batching import BatchPlan, collate_pairs, pair_sides
from vaswani_tx.training.data.corpora import Corpus
from vaswani_tx.training.data.filters import PairFilter
from vaswani_tx.training.data.token_cache import cache_key, cache_root, tokenize_corpora
from vaswani_tx.training.errors import DataError

ARRAYS = ("source_flat", "source_offsets", "target_flat", "target_offsets", "lines", "file_index")
RULES = PairFilter(max_source_length=20, max_target_length=20, drop_duplicates=True)


def sides_of(pairs, *budgets):
    return pair_sides(pairs.source_lengths, pairs.target_lengths, *budgets)


@pytest.fixture(scope="module")
def tokenizer():
    return VaswaniTokenizer.train(iter(["dog cat mouse", "Hund Katze Maus"] * 3), vocab_size=280, show_progress=False)


@pytest.fixture
def corpora(tmp_path):
    made = []
    for name, size in (("a", 40), ("b", 11)):
        for side, word in (("en", "dog"), ("de", "Hund")):
            lines = [f"{name} {(word + ' ') * (i % 35 % 4 + 1)}{i % 35}" for i in range(size)]
            (tmp_path / f"{name}.{side}").write_text("\n".join(lines) + "\n", encoding="utf-8")
        made.append(Corpus(str(tmp_path / f"{name}.en"), str(tmp_path / f"{name}.de")))
    return made


@pytest.fixture
def calls(monkeypatch):
    """How often text is tokenised."""
    made = []
    original = data_module.PairTokenizer.__call__
    monkeypatch.setattr(data_module.PairTokenizer, "__call__", lambda self, *a: made.append(1) or original(self, *a))
    return made


def assert_same(one, other):
    for name in ARRAYS:
        assert np.array_equal(getattr(one, name), getattr(other, name)), name
        assert getattr(one, name).dtype == getattr(other, name).dtype, name
    assert one.counts == other.counts and one.bounds == other.bounds and one.file_names == other.file_names


def test_the_pairs_are_those_of_memory_and_are_found_again(corpora, tokenizer, tmp_path, calls, caplog, monkeypatch):
    monkeypatch.setattr("vaswani_tx.training.data.parallel.TOKENIZE_CHUNK", 7)
    plain, none = tokenize_corpora(corpora, tokenizer, RULES)
    assert none is None and plain.bounds == (0, 35, 46) and plain.counts.duplicates == 5
    with caplog.at_level(logging.INFO):
        built, folder = tokenize_corpora(corpora, tokenizer, RULES, tmp_path / "cache")
        number = len(calls)
        found, again = tokenize_corpora(corpora, tokenizer, RULES, tmp_path / "cache")
    assert folder == again and folder.parent == tmp_path / "cache"
    assert len(calls) == number, "nothing is tokenised again"
    assert_same(built, plain)
    assert_same(found, plain)
    assert f"Kept the tokenised training data in {folder}" in caplog.text
    assert f"Reused the tokenised training data in {folder}" in caplog.text
    assert caplog.text.count("Dropped 5 of 51 pairs (5 that occurred before). 46 are left.") == 3
    assert found.locate(45).endswith("b.en line 11")


def test_memory_maps_work_in_plans_and_batches(corpora, tokenizer, tmp_path):
    plain, _ = tokenize_corpora(corpora, tokenizer, RULES)
    tokenize_corpora(corpora, tokenizer, RULES, tmp_path / "cache")
    mapped, _ = tokenize_corpora(corpora, tokenizer, RULES, tmp_path / "cache")
    assert isinstance(mapped.source_flat.base, np.memmap) and not mapped.source_flat.flags.writeable
    plans = [BatchPlan(sides_of(pairs, 100, 120), seed=1).epoch(2) for pairs in (plain, mapped)]
    for one, other in zip(*plans, strict=True):
        assert np.array_equal(one, other)
        tensors = [collate_pairs(pairs, one, 0) for pairs in (plain, mapped)]
        assert all(tensors[0][name].equal(tensors[1][name]) for name in tensors[0])


def test_the_folder_changes_with_all_that_decides_the_ids(corpora, tokenizer, tmp_path):
    key = cache_key(corpora, tokenizer, RULES)
    keys = {key, cache_key(corpora[:1], tokenizer, RULES), cache_key(corpora[::-1], tokenizer, RULES)}
    for changes in (
        {"max_source_length": 21}, {"max_target_length": 21}, {"too_long": "truncate"}, {"min_length": 2},
        {"max_length_ratio": 9.0}, {"drop_duplicates": False}, {"drop_copies": True},
    ):  # fmt: skip
        keys.add(cache_key(corpora, tokenizer, PairFilter(**(RULES.to_dict() | changes))))
    other = VaswaniTokenizer.train(iter(["dog cat mouse"] * 3), vocab_size=280, show_progress=False)
    keys.add(cache_key(corpora, other, RULES))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tokenizer, "split_special_tokens", False)
        keys.add(cache_key(corpora, tokenizer, RULES))
        patch.setattr(token_cache, "FORMAT", 2)
        keys.add(cache_key(corpora, tokenizer, RULES))
    Path(corpora[1].target).write_text("Hund\n" * 11, encoding="utf-8")
    keys.add(cache_key(corpora, tokenizer, RULES))
    assert len(keys) == 14


def test_the_folder_does_not_change_with_names_and_use(corpora, tokenizer, tmp_path):
    key = cache_key(corpora, tokenizer, RULES)
    tokenizer(["a", "b b b"], padding=True, truncation=True, max_length=3)
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    assert cache_key(corpora, VaswaniTokenizer.from_pretrained(tmp_path / "tokenizer"), RULES) == key
    built, folder = tokenize_corpora(corpora, tokenizer, RULES, tmp_path / "cache")
    moved = []
    for corpus in corpora:
        sides = [path.replace(".", "-moved.") for path in map(os.path.basename, (corpus.source, corpus.target))]
        for old, new in zip((corpus.source, corpus.target), sides, strict=True):
            (tmp_path / new).write_bytes(Path(old).read_bytes())
        moved.append(Corpus(*(str(tmp_path / side) for side in sides), weight=2.0))
    found, again = tokenize_corpora(moved, tokenizer, RULES, tmp_path / "cache")
    assert again == folder and found.locate(0) == f"{moved[0].source} line 1" != built.locate(0)


def cut(path):
    path.write_bytes(path.read_bytes()[:-4])


def flip(path):
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)


def misname(path):
    path.write_bytes(path.read_bytes().replace(b"<i", b">i"))


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("source_flat.npy", cut), ("target_flat.npy", flip), ("source_offsets.npy", misname),
        ("lines.npy", Path.unlink), ("meta.json", cut), ("meta.json", Path.unlink),
        ("meta.json", lambda path: path.write_text("[]")),
    ],
)  # fmt: skip
def test_what_is_damaged_is_made_again(corpora, tokenizer, tmp_path, calls, caplog, name, damage):
    plain, folder = tokenize_corpora(corpora, tokenizer, RULES, tmp_path / "cache")
    plain = tokenize_corpora(corpora, tokenizer, RULES)[0]
    number = len(calls)
    damage(folder / name)
    with caplog.at_level(logging.WARNING):
        rebuilt, _ = tokenize_corpora(corpora, tokenizer, RULES, tmp_path / "cache")
    assert len(calls) > number and f"{folder} are damaged" in caplog.text
    assert_same(rebuilt, plain)
    caplog.clear()
    assert_same(tokenize_corpora(corpora, tokenizer, RULES, tmp_path / "cache")[0], plain)
    assert "damaged" not in caplog.text


class Payload:
    """What a pickle can do: make a file while it is read."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_pickle_in_a_folder_is_never_read(corpora, tokenizer, tmp_path, caplog):
    _, folder = tokenize_corpora(corpora, tokenizer, RULES, tmp_path / "cache")
    np.save(folder / "lines.npy", np.array([Payload(tmp_path / "done")], dtype=object), allow_pickle=True)
    meta = json.loads((folder / "meta.json").read_text())
    # As large as it should be, so that only numpy can refuse it.
    size = (folder / "lines.npy").stat().st_size
    meta["arrays"]["lines"]["start"] = size - 8 * meta["arrays"]["lines"]["count"]
    (folder / "meta.json").write_text(json.dumps(meta))
    pairs, _ = tokenize_corpora(corpora, tokenizer, RULES, tmp_path / "cache")
    assert not (tmp_path / "done").exists()
    assert pairs.lines.dtype == np.int64 and "are damaged" in caplog.text


def test_without_a_writable_place_the_pairs_stay_in_memory(corpora, tokenizer, tmp_path, caplog):
    (tmp_path / "file").write_text("")
    pairs, folder = tokenize_corpora(corpora, tokenizer, RULES, tmp_path / "file" / "cache")
    assert folder is None and len(pairs) == 46 and "continuing without" in caplog.text


def test_a_full_disk_leaves_nothing_and_trains_on(corpora, tokenizer, tmp_path, caplog, monkeypatch):
    def full(self, part):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(token_cache.PairsWriter, "add", full)
    pairs, folder = tokenize_corpora(corpora, tokenizer, RULES, tmp_path / "cache")
    assert folder is None and len(pairs) == 46 and "the disk is full" in caplog.text
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []


def test_faulty_data_leave_nothing(corpora, tokenizer, tmp_path):
    with pytest.raises(DataError, match="nothing is left"):
        tokenize_corpora(corpora, tokenizer, PairFilter(2, 2), tmp_path / "cache")
    with Path(corpora[1].source).open("ab") as file:
        file.write(b"one more\n")
    with pytest.raises(DataError, match=r"b.en has 12 lines but .*b.de has 11"):
        tokenize_corpora(corpora, tokenizer, RULES, tmp_path / "cache")
    assert [path for path in (tmp_path / "cache").iterdir() if path.is_dir()] == []
    for side in (corpora[1].source, corpora[1].target):
        Path(side).write_text("a dog dog 2\n" * 3 if side.endswith("en") else "a Hund Hund 2\n" * 3, encoding="utf-8")
    Path(corpora[0].source).write_text("a dog dog 2\n", encoding="utf-8")
    Path(corpora[0].target).write_text("a Hund Hund 2\n", encoding="utf-8")
    with pytest.raises(
        DataError, match=r"b.en: no pair of this corpus is left. Dropped 3 of 4 pairs \(3 that occurred"
    ):
        tokenize_corpora(corpora, tokenizer, RULES, tmp_path / "cache")


def in_a_process(corpora, folder, root, results):
    tokenizer = VaswaniTokenizer.from_pretrained(folder)
    calls = []
    original = data_module.PairTokenizer.__call__
    data_module.PairTokenizer.__call__ = lambda self, *a: calls.append(1) or original(self, *a)
    pairs, place = tokenize_corpora(corpora, tokenizer, RULES, root, quiet=True)
    results.put((len(calls), len(pairs), int(pairs.target_flat.sum()), str(place)))


@pytest.mark.skipif(not hasattr(os, "fork"), reason="starts its processes by fork")
def test_of_several_processes_at_once_one_makes_it(corpora, tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "tokenizer")
    context = multiprocessing.get_context("fork")
    results = context.Queue()
    arguments = (corpora, tmp_path / "tokenizer", tmp_path / "cache", results)
    processes = [context.Process(target=in_a_process, args=arguments) for _ in range(3)]
    for process in processes:
        process.start()
    found = [results.get(timeout=60) for _ in processes]
    for process in processes:
        process.join(60)
    assert len({row[1:] for row in found}) == 1 and sum(row[0] > 0 for row in found) == 1


def test_where_the_folders_stand(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("VASWANI_TX_CACHE", raising=False)
    assert cache_root() == tmp_path / ".cache" / "vaswani_tx"
    monkeypatch.setenv("VASWANI_TX_CACHE", str(tmp_path / "other"))
    assert cache_root() == tmp_path / "other"
    assert cache_root("~/mine") == tmp_path / "mine"
