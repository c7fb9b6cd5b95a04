"""Reading parallel text: every format gives the same pairs, and every fault is named by file and line."""

import json
import logging
import pickle

import datasets
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from vaswani_tx.tokenization_vaswani import VaswaniTokenizer
from vaswani_tx.training.data import lines, readers
from vaswani_tx.training.data.pairs import iterate_parallel
from vaswani_tx.training.data.parallel import DataError, load_parallel, tokenize_parallel

PAIRS = [("A dog.", "Ein Hund."), ("Two cats sleep.", "Zwei Katzen schlafen."), ("It’s 5 €.", "Das sind 5 €.")]
SOURCES, TARGETS = [a for a, _ in PAIRS], [b for _, b in PAIRS]


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def text_files(folder, sources=SOURCES, targets=TARGETS, name="train"):
    return [
        write(folder / f"{name}.{side}", "\n".join(lines) + "\n") for side, lines in (("en", sources), ("de", targets))
    ]


def jsonl(rows):
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def pairs_of(dataset):
    return list(zip(dataset["source"], dataset["target"], strict=True))


# Formats


def test_text_files(tmp_path):
    source, target = text_files(tmp_path)
    dataset = load_parallel(source, target)
    assert pairs_of(dataset) == PAIRS
    assert list(dataset["line"]) == [1, 2, 3]
    assert dataset.features["file"].int2str(dataset[0]["file"]) == source


@pytest.mark.parametrize("block", [1, 2, 3, 7, 1 << 20])
def test_lines_part_at_newline_only_for_any_block_size(tmp_path, monkeypatch, block):
    monkeypatch.setattr(lines, "BLOCK_BYTES", block)
    odd = ["\u2028 a\u2028b", "c\x85d\x0ce\x1cf", "g\rh", " é👍 ", "\ufeffnot at the start"]
    source = write(tmp_path / "a.en", b"\xef\xbb\xbf" + "\r\n".join(odd).encode())
    target = write(tmp_path / "a.de", "\n".join("vwxyz") + "\n")
    dataset = load_parallel(source, target)
    assert pairs_of(dataset) == list(zip(odd, "vwxyz", strict=True))
    assert list(dataset["line"]) == [1, 2, 3, 4, 5]


def test_jsonl_flat_and_as_translation(tmp_path):
    flat = write(tmp_path / "flat.jsonl", jsonl({"en": a, "de": b, "id": 7} for a, b in PAIRS))
    nested = write(tmp_path / "nested.jsonl", jsonl({"translation": {"en": a, "de": b}} for a, b in PAIRS))
    for file in (flat, nested):
        assert pairs_of(load_parallel(file, source_field="en", target_field="de")) == PAIRS
    assert pairs_of(load_parallel(flat, source_field="de", target_field="en"))[0] == ("Ein Hund.", "A dog.")


def test_tsv_with_and_without_header(tmp_path):
    body = "".join(f'{b}\t"x\t{a}\r\n' for a, b in PAIRS)
    bare, headed = write(tmp_path / "bare.tsv", body), write(tmp_path / "headed.tsv", "de\tnote\ten\n" + body)
    for fields in ((2, 0), ("2", "0")):
        dataset = load_parallel(bare, source_field=fields[0], target_field=fields[1])
        assert pairs_of(dataset) == PAIRS and list(dataset["line"]) == [1, 2, 3]
    dataset = load_parallel(headed, source_field="en", target_field="de")
    assert pairs_of(dataset) == PAIRS and list(dataset["line"]) == [2, 3, 4]


def test_parquet_flat_and_nested(tmp_path, monkeypatch):
    monkeypatch.setattr(readers, "ROWS_PER_CHUNK", 2)
    pq.write_table(pa.table({"x": [1, 2, 3], "en": SOURCES, "de": TARGETS}), tmp_path / "flat.parquet")
    rows = [{"en": a, "de": b} for a, b in PAIRS]
    pq.write_table(pa.table({"translation": rows}), tmp_path / "nested.parquet")
    for name in ("flat", "nested"):
        dataset = load_parallel(tmp_path / f"{name}.parquet", source_field="en", target_field="de")
        assert pairs_of(dataset) == PAIRS and list(dataset["line"]) == [1, 2, 3]


def test_data_set_by_name_from_a_local_folder(tmp_path, monkeypatch):
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")
    folder = tmp_path / "corpus"
    folder.mkdir()
    rows = [{"en": a, "de": b} for a, b in [*PAIRS, (" ", "leer")]]
    write(folder / "train.jsonl", jsonl({"translation": row} for row in rows))
    fields = {"source_field": "en", "target_field": "de"}
    with pytest.raises(DataError, match=r"1 of 4 pairs .*corpus \(train\) line 4 \(source\)"):
        load_parallel(str(folder), **fields)
    dataset = load_parallel(str(folder), empty="drop", **fields)
    assert pairs_of(dataset) == PAIRS and dataset.column_names == ["source", "target", "line", "file"]
    with pytest.raises(DataError, match=r"no column 'eng'; there is .*Did you mean 'en'"):
        load_parallel(str(folder), source_field="eng", target_field="de")
    with pytest.raises(DataError, match="split='dev'"):
        load_parallel(str(folder), split="dev", **fields)


def test_several_files_keep_their_own_line_numbers(tmp_path):
    first, second = text_files(tmp_path, name="a"), text_files(tmp_path, SOURCES[:2], TARGETS[:2], name="b")
    dataset = load_parallel([first[0], second[0], first[0]], [first[1], second[1], first[1]])
    assert pairs_of(dataset) == PAIRS + PAIRS[:2] + PAIRS
    assert list(dataset["line"]) == [1, 2, 3, 1, 2, 1, 2, 3]
    assert list(dataset["file"]) == [0, 0, 0, 1, 1, 0, 0, 0]


def test_iterating_is_lazy(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "BLOCK_BYTES", 8)
    source, target = text_files(tmp_path, ["good one", "x" * 9, "bad"], ["gut", "y" * 9, "schlecht"])
    write(tmp_path / "train.en", b"good one\nfine\nb\xffd\n")
    chunks = iterate_parallel(source, target)
    assert next(chunks).source == ["good one"]
    with pytest.raises(DataError, match="line 3"):
        list(chunks)


# Faults


def test_different_line_counts_name_both(tmp_path, monkeypatch):
    for block in (4, 1 << 20):
        monkeypatch.setattr(lines, "BLOCK_BYTES", block)
        source, target = text_files(tmp_path, SOURCES, [*TARGETS, "noch", "zwei"])
        with pytest.raises(DataError, match=r"train.en has 3 lines but .*train.de has 5"):
            load_parallel(source, target)
        with pytest.raises(DataError, match=r"train.de has 5 lines but .*train.en has 3"):
            load_parallel(target, source)


@pytest.mark.parametrize("block", [2, 1 << 20])
def test_empty_lines_are_an_error_or_dropped(tmp_path, caplog, monkeypatch, block):
    monkeypatch.setattr(lines, "BLOCK_BYTES", block)
    sources, targets = ["a", "", "c", " \t", "e", "f", "g"], ["A", "B", "  ", "\u3000", "", "", "G"]
    files = text_files(tmp_path, sources, targets)
    with pytest.raises(
        DataError,
        match=r"5 of 7 pairs .*train.en line 2; \S*train.de line 3; \S*train.en line 4 and \S*train.de line 4; ",
    ):
        load_parallel(*files)
    with caplog.at_level(logging.WARNING):
        dataset = load_parallel(*files, empty="drop")
    assert pairs_of(dataset) == [("a", "A"), ("g", "G")] and list(dataset["line"]) == [1, 7]
    assert "Dropped 5 of 7 pairs" in caplog.text
    with pytest.raises(DataError, match="nothing is left"):
        load_parallel(*text_files(tmp_path, ["", ""], ["", ""]), empty="drop")
    with pytest.raises(DataError, match="'error' or 'drop'"):
        load_parallel(*files, empty="skip")


def test_invalid_utf8_names_line_and_byte(tmp_path, monkeypatch):
    target = text_files(tmp_path)[1]
    for block in (5, 1 << 20):
        monkeypatch.setattr(lines, "BLOCK_BYTES", block)
        source = write(tmp_path / "latin.en", "one\ntwo\nk\xe4se\n".encode("latin-1"))
        with pytest.raises(DataError, match=r"latin.en, line 3: byte 2 of the line \(0xe4\) is not valid UTF-8"):
            load_parallel(source, target)
    cut = write(tmp_path / "cut.en", b"one\ntwo\nthr\xc3")
    with pytest.raises(DataError, match=r"cut.en, line 3: byte 4"):
        load_parallel(cut, target)
    wide = write(tmp_path / "wide.en", "one\n".encode("utf-16"))
    with pytest.raises(DataError, match=r"line 1: byte 1 .*looks like a UTF-16 file"):
        load_parallel(wide, target)


def test_missing_files_and_wrong_combinations(tmp_path):
    source, target = text_files(tmp_path)
    packed = write(tmp_path / "p.jsonl", jsonl([{"source": "a", "target": "b"}]))
    hollow = [write(tmp_path / "e.en", ""), write(tmp_path / "e.de", "")]
    cases = [
        ((str(tmp_path / "trian.en"), target), r"trian.en: there is no such file. Did you mean .*train.en"),
        ((str(tmp_path / "gone.jsonl"), None), "gone.jsonl: there is no such file"),
        ((source, None), "train.en: a text file holds one side only"),
        ((packed, target), "p.jsonl: such a file holds both sides"),
        (([source, source], [target]), "2 source files but 1 target files"),
        (([], None), "No file"),
        (hollow, "empty files"),
        (("./no/such/folder", None), "no such file"),
    ]
    for arguments, message in cases:
        with pytest.raises(DataError, match=message):
            load_parallel(*arguments)


def test_jsonl_faults(tmp_path):
    good = {"source": "a", "target": "b"}
    cases = [
        (
            jsonl([good, {"sourc": "a", "target": "b"}]),
            r"line 2: no field 'source'; there is 'sourc', 'target'. Did you mean 'sourc'",
        ),
        (jsonl([good]) + "{broken\n", r"line 2: not valid JSON"),
        (jsonl([good, ["a", "b"]]), r"line 2: an object"),
        (jsonl([good, {"source": None, "target": "b"}]), r"line 2 \(source\)"),
        (jsonl([good, {"source": "a", "target": 5}]), r"line 2: field 'target' holds 5"),
        (jsonl([good]) + "\n" + jsonl([good]), r" line 2 \(source and target\)"),
        (jsonl([good]) + '{"source": "a\\ud800", "target": "b"}\n', r"line 2: half of a surrogate"),
    ]
    for content, message in cases:
        with pytest.raises(DataError, match="f.jsonl.*" + message):
            load_parallel(write(tmp_path / "f.jsonl", content))


def test_tsv_faults(tmp_path):
    cases = [
        ("source\ttarget\na\tb\nc\n", {}, r"line 3: 1 columns, but line 1 has 2"),
        ("source\ttarget\na\tb\nc\td\te\n", {}, r"line 3: 3 columns"),
        ("src\ttarget\na\tb\n", {}, r"line 1: no column 'source'.*Did you mean 'src'.*without a header"),
        ("a\tb\n", {"source_field": 0, "target_field": 2}, r"line 1: no column 2"),
        ("a\tb\n\nc\td\n", {"source_field": 0, "target_field": 1}, r" line 2 "),
    ]
    for content, fields, message in cases:
        with pytest.raises(DataError, match="f.tsv.*" + message):
            load_parallel(write(tmp_path / "f.tsv", content), **fields)


def test_parquet_faults(tmp_path):
    file = tmp_path / "f.parquet"
    pq.write_table(pa.table({"source": ["a", None], "target": ["b", "c"]}), file)
    with pytest.raises(DataError, match=r"1 of 2 pairs have an empty side: \S*f.parquet line 2 \(source\)"):
        load_parallel(file)
    with pytest.raises(DataError, match=r"no column 'src'; there is 'source', 'target'"):
        load_parallel(file, source_field="src")
    file.write_bytes(file.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"f.parquet: cannot be read as Parquet"):
        load_parallel(file)


# Tokenising


@pytest.fixture(scope="module")
def tokenizer():
    return VaswaniTokenizer.train(iter(SOURCES + TARGETS), vocab_size=270, min_frequency=1, show_progress=False)


@pytest.fixture
def dataset(tmp_path):
    sources = [f"{'dog ' * (i % 7 + 1)}{i}" for i in range(50)]
    targets = [f"{'Hund ' * (i % 5 + 1)}{i}" for i in range(50)]
    return load_parallel(*text_files(tmp_path, sources, targets))


def tokenized(dataset, tokenizer, *arguments):
    return tokenize_parallel(dataset, tokenizer, *arguments, disable_progress=True)


def expected_ids(dataset, tokenizer):
    return [(tokenizer(a).input_ids, tokenizer(text_target=b).input_ids) for a, b in pairs_of(dataset)]


def test_tokenised_pairs_equal_one_by_one_encoding(dataset, tokenizer, monkeypatch):
    monkeypatch.setattr("vaswani_tx.training.data.parallel.TOKENIZE_CHUNK", 7)
    pairs = tokenized(dataset, tokenizer)
    expected = expected_ids(dataset, tokenizer)
    assert [(pairs.source_ids(i).tolist(), pairs.target_ids(i).tolist()) for i in range(len(pairs))] == expected
    assert pairs.source_lengths.tolist() == [len(a) for a, _ in expected]
    assert pairs.target_lengths.tolist() == [len(b) for _, b in expected]
    assert pairs.source_flat.dtype == np.int32 and pairs.lines.tolist() == list(range(1, 51))
    assert pairs.locate(49).endswith("train.en line 50")
    assert (pairs.dropped, pairs.truncated) == (0, 0)


def test_too_long_pairs_are_dropped_and_counted(dataset, tokenizer, caplog):
    expected = [(i, *ids) for i, ids in enumerate(expected_ids(dataset, tokenizer), 1)]
    kept = [row for row in expected if len(row[1]) <= 20 and len(row[2]) <= 12]
    assert 5 < len(kept) < 45 and any(len(a) > 20 >= 12 >= len(b) for _, a, b in expected)
    with caplog.at_level(logging.WARNING):
        pairs = tokenized(dataset, tokenizer, 20, 12, "drop")
    assert pairs.lines.tolist() == [row[0] for row in kept]
    assert [pairs.source_ids(i).tolist() for i in range(len(pairs))] == [row[1] for row in kept]
    assert [pairs.target_ids(i).tolist() for i in range(len(pairs))] == [row[2] for row in kept]
    assert pairs.dropped == 50 - len(kept) and f"Dropped {pairs.dropped} of 50" in caplog.text


def test_too_long_pairs_are_cut_before_the_end_mark(dataset, tokenizer):
    pairs = tokenized(dataset, tokenizer, 20, 12, "truncate")
    for i, (source, target) in enumerate(expected_ids(dataset, tokenizer)):
        assert pairs.source_ids(i).tolist() == (source if len(source) <= 20 else source[:19] + [2])
        assert pairs.target_ids(i).tolist() == (target if len(target) <= 12 else target[:11] + [2])
    assert pairs.truncated > 0 and len(pairs) == 50


def test_length_limits_that_fail(dataset, tokenizer):
    lengths = [tuple(map(len, ids)) for ids in expected_ids(dataset, tokenizer)]
    line = next(i for i, pair in enumerate(lengths, 1) if pair[0] > 20 or pair[1] > 12)
    source, target = lengths[line - 1]
    with pytest.raises(DataError, match=rf"train.en line {line}: {source} source and {target} target tokens .*20 .*12"):
        tokenized(dataset, tokenizer, 20, 12, "error")
    exact = [max(side) for side in zip(*lengths, strict=True)]
    assert len(tokenized(dataset, tokenizer, *exact, "error")) == 50, "a pair of exactly the limit fits"
    with pytest.raises(DataError, match="nothing is left"):
        tokenized(dataset, tokenizer, 2, 2, "drop")
    with pytest.raises(DataError, match="below 2"):
        tokenized(dataset, tokenizer, 1, 20)
    with pytest.raises(DataError, match="'drop', 'error' or 'truncate'"):
        tokenized(dataset, tokenizer, 20, 20, "cut")


def test_selected_rows_and_plain_data_sets_work(dataset, tokenizer):
    chosen = tokenized(dataset.select([7, 3]), tokenizer)
    assert chosen.lines.tolist() == [8, 4]
    assert chosen.source_ids(0).tolist() == tokenizer(dataset[7]["source"]).input_ids
    plain = tokenized(datasets.Dataset.from_dict({"source": SOURCES, "target": TARGETS}), tokenizer)
    assert plain.lines.tolist() == [1, 2, 3] and plain.locate(2).endswith("line 3")


def test_pairs_can_be_pickled(dataset, tokenizer):
    pairs = tokenized(dataset, tokenizer)
    again = pickle.loads(pickle.dumps(pairs))
    assert np.array_equal(again.target_flat, pairs.target_flat) and again.locate(3) == pairs.locate(3)


def test_empty_side_in_a_file_of_both_names_the_side(tmp_path):
    path = tmp_path / "pairs.tsv"
    path.write_text("a\tA\nb\t\n", encoding="utf-8")
    with pytest.raises(DataError, match=r"pairs.tsv line 2 \(target\)"):
        load_parallel(path, source_field=0, target_field=1)
