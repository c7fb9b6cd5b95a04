"""Nulls: each is an empty text, wherever it is, and follows `empty_lines` as an empty line does."""

import json
import logging

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vaswani_tx.training.config.classification import ClassifierSettings
from vaswani_tx.training.data.corpora import Corpus
from vaswani_tx.training.data.filters import FilterCounts
from vaswani_tx.training.data.labelled import Fields, has_text, read_examples
from vaswani_tx.training.data.parallel import load_parallel
from vaswani_tx.training.data.text import TextCorpus
from vaswani_tx.training.errors import DataError
from vaswani_tx.training.tasks.classification import load_examples

PAIRS = [("a", "A"), ("b", None), (None, "C"), (None, None), ("e", "E")]
NESTED = [*({"translation": {"en": en, "de": de}} for en, de in PAIRS[:3]), {"translation": None}, None]


@pytest.fixture(autouse=True)
def own_cache(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def jsonl(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def flat_rows():
    return [{"source": source, "target": target} for source, target in PAIRS]


def in_parquet(path, column):
    pq.write_table(pa.table(column), path)
    return str(path)


def in_dataset(folder, rows):
    folder.mkdir()
    jsonl(folder / "train.jsonl", rows)
    return str(folder)


def flat_files(folder):
    yield jsonl(folder / "a.jsonl", flat_rows())
    (folder / "a.json").write_text(json.dumps(flat_rows()), encoding="utf-8")
    yield str(folder / "a.json")
    (folder / "a.csv").write_text("source,target\n" + "".join(f"{a or ''},{b or ''}\n" for a, b in PAIRS))
    yield str(folder / "a.csv")
    columns = dict(zip(("source", "target"), zip(*PAIRS, strict=True), strict=True))
    yield in_parquet(folder / "a.parquet", columns)
    yield in_dataset(folder / "data", flat_rows())


@pytest.mark.parametrize("streaming", [False, True])
def test_nulls_of_pairs_are_dropped_counted_or_an_error_that_names_them(tmp_path, streaming):
    for path in flat_files(tmp_path):
        counts = FilterCounts()
        chunks = list(Corpus(path, empty="drop").chunks(counts, streaming))
        assert [text for chunk in chunks for text in chunk.source] == ["a", "e"], path
        assert (counts.read, counts.empty) == (3, 3) and len(counts.empty_places) == 3, path
        with pytest.raises(DataError, match=r"3 of (the first )?5 pairs have an empty side: .*\(target\); .*\(source"):
            list(Corpus(path).chunks(FilterCounts(), streaming))


def test_a_test_set_keeps_them_as_empty_texts(tmp_path):
    for path in flat_files(tmp_path):
        pairs = load_parallel(path, empty="keep")
        assert list(zip(pairs["source"], pairs["target"], strict=True)) == [(a or "", b or "") for a, b in PAIRS], path
        assert pairs["line"][:] == ([2, 3, 4, 5, 6] if path.endswith(".csv") else [1, 2, 3, 4, 5])


@pytest.mark.parametrize("kind", ["jsonl", "json", "parquet", "dataset"])
def test_null_structs_and_null_rows(tmp_path, kind):
    rows = [row["translation"] if row else None for row in NESTED]
    if kind == "jsonl":
        path = jsonl(tmp_path / "a.jsonl", NESTED)
    elif kind == "json":
        path = tmp_path / "a.json"
        path.write_text(json.dumps(NESTED), encoding="utf-8")
    elif kind == "parquet":
        struct = pa.struct([("en", pa.string()), ("de", pa.string())])
        path = in_parquet(tmp_path / "a.parquet", {"translation": pa.array(rows, struct)})
    else:
        path = in_dataset(tmp_path / "data", [{"translation": row} for row in rows])
    fields = {"source_field": "en", "target_field": "de"}
    assert load_parallel(str(path), empty="drop", **fields)["line"][:] == [1]
    assert load_parallel(str(path), empty="keep", **fields)["target"][:] == ["A", "", "C", "", ""]
    with pytest.raises(DataError, match="4 of 5 pairs have an empty side"):
        load_parallel(str(path), **fields)


def test_a_column_of_nulls_only(tmp_path):
    path = in_parquet(tmp_path / "a.parquet", {"source": ["a"], "target": pa.nulls(1)})
    assert load_parallel(path, empty="keep")["target"][:] == [""]
    with pytest.raises(DataError, match="nothing is left"):
        load_parallel(path, empty="drop")


def test_a_field_that_is_not_there_or_no_text_is_an_error_all_the_same(tmp_path):
    with pytest.raises(DataError, match="line 1: no field 'target'"):
        load_parallel(jsonl(tmp_path / "a.jsonl", [{"source": None}]), empty="drop")
    with pytest.raises(DataError, match="line 1: field 'target' holds 5"):
        load_parallel(jsonl(tmp_path / "b.jsonl", [{"source": None, "target": 5}]), empty="drop")


@pytest.mark.parametrize("streaming", [False, True])
def test_text_of_language_models(tmp_path, streaming):
    rows = [{"text": "a"}, {"text": None}, {"text": "c"}]
    for path in (jsonl(tmp_path / "a.jsonl", rows), in_dataset(tmp_path / "data", rows)):
        counts = FilterCounts()
        chunks = list(TextCorpus(path).chunks(counts, streaming))
        assert [text for chunk in chunks for text in chunk.source] == ["a", "c"] and counts.empty == 1
        with pytest.raises(DataError, match=r"line 2 holds no text"):
            list(TextCorpus(path, empty="error").chunks(counts, streaming))


LABELLED = {
    "classification": [
        {"text": "a", "label": "x"}, {"text": None, "label": "x"}, {"text": " ", "label": "y"},
        {"text": "d", "label": None}, {"text": "e", "label": "y"},
    ],
    "tagging": [
        {"tokens": ["a"], "tags": ["O"]}, {"tokens": None, "tags": ["O"]}, {"tokens": [], "tags": []},
        {"tokens": ["d"], "tags": None}, {"tokens": ["e"], "tags": ["O"]},
    ],
    "question_answering": [
        {"question": "a", "context": "b", "answers": []}, {"question": None, "context": "b", "answers": []},
        {"question": "c", "context": "", "answers": []}, {"question": "d", "context": "b", "answers": None},
        {"question": "e", "context": "b", "answers": []},
    ],
}  # fmt: skip


@pytest.mark.parametrize("task", LABELLED)
def test_labelled_examples(tmp_path, caplog, task):
    path = jsonl(tmp_path / "a.jsonl", LABELLED[task])
    with pytest.raises(DataError, match=r"a\.jsonl, line 2: .* got null\. .*empty_lines: drop"):
        read_examples(path, task, Fields())
    with caplog.at_level(logging.WARNING):
        settings = ClassifierSettings(task=task, train_file=path, empty_lines="drop")
        kept = load_examples(settings, path, "train")
    assert [example.where[-6:] for example in kept] == ["line 1", "line 5"]
    assert "Dropped 3 of 5 examples with an empty text or label, first" in caplog.text and "line 4" in caplog.text
    examples = read_examples(path, task, Fields(), labelled=False, empty="keep")
    assert [has_text(example) for example in examples] == [True, False, False, True, True]


def test_an_empty_cell_of_labels_is_null_but_says_none_of_several(tmp_path):
    path = tmp_path / "a.csv"
    path.write_text("text,label\na,x\nb,\n", encoding="utf-8")
    assert [e.label for e in read_examples(str(path), "classification", Fields(), empty="drop")] == ["x"]
    assert [e.label for e in read_examples(str(path), "multi_label", Fields(), empty="drop")] == [["x"], []]


def test_a_loaded_dataset_of_a_translation_feature(tmp_path):
    features = datasets.Features(translation=datasets.Translation(languages=("de", "en")))
    rows = [{"translation": {"en": en, "de": de}} for en, de in PAIRS]
    datasets.Dataset.from_list(rows, features=features).to_parquet(tmp_path / "a.parquet")
    pairs = load_parallel(str(tmp_path / "a.parquet"), source_field="en", target_field="de", empty="drop")
    assert pairs["source"][:] == ["a", "e"]
