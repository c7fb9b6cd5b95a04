"""Readers: the same records from every format, compressed or not, for every text task, and faults by file and line."""

import bz2
import gzip
import json
import lzma
import sys

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import zstandard

from vaswani_tx.training import train_tokenizer
from vaswani_tx.training.data import lines, readers
from vaswani_tx.training.data.corpora import Corpus
from vaswani_tx.training.data.labelled import Fields, read_examples
from vaswani_tx.training.data.lines import format_of, numbered_lines, read_lines
from vaswani_tx.training.data.parallel import load_parallel
from vaswani_tx.training.data.readers import Records, read_records
from vaswani_tx.training.data.text import TextCorpus
from vaswani_tx.training.errors import DataError

ROWS = [
    {"en": 'A "big", old dog.', "de": "Ein Hund.", "label": "x"},
    {"en": "Two cats\nsleep.", "de": "Zwei Katzen\tschlafen.", "label": "y"},
    {"en": "It’s 5 €.", "de": "Das sind 5 €.", "label": "x"},
]
COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: zstandard.ZstdCompressor().compress(content),
}


def write(path, content):
    path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(path)


def quoted(text):
    return '"' + text.replace('"', '""') + '"'


def contents():
    """The same three rows in every format that can hold them."""
    sink = pa.BufferOutputStream()
    pq.write_table(pa.Table.from_pylist(ROWS), sink)
    lines_of = {"en": [quoted(row["en"]) for row in ROWS], "de": [quoted(row["de"]) for row in ROWS]}
    columns = zip(lines_of["en"], lines_of["de"], (row["label"] for row in ROWS), strict=True)
    return {
        ".jsonl": "".join(json.dumps(row) + "\n" for row in ROWS).encode(),
        ".json": json.dumps(ROWS).encode(),
        ".csv": ("en,de,label\r\n" + "".join(",".join(cells) + "\r\n" for cells in columns)).encode(),
        ".parquet": sink.getvalue().to_pybytes(),
    }


# One reader for all tasks


@pytest.mark.parametrize("compression", ["", *COMPRESS])
@pytest.mark.parametrize("format", contents())
def test_every_format_serves_every_text_task(tmp_path, format, compression):
    content = contents()[format]
    path = write(tmp_path / f"train{format}{compression}", COMPRESS.get(compression, bytes)(content))
    pairs = load_parallel(path, source_field="en", target_field="de")
    assert pairs["source"][:] == [row["en"] for row in ROWS] and pairs["target"][:] == [row["de"] for row in ROWS]
    (chunk,) = TextCorpus(path, field="de").chunks()
    assert chunk.source == [row["de"] for row in ROWS] and chunk.lines.tolist() == pairs["line"][:]
    examples = read_examples(path, "classification", Fields(text="en"))
    assert [(example.text, example.label) for example in examples] == [(row["en"], row["label"]) for row in ROWS]
    command = ["--source", path, "--source-field", "en", "--target-field", "de", "--vocab-size", "280"]
    assert train_tokenizer.main([*command, "--output", str(tmp_path / "tokenizer"), "--quiet"]) == 0


@pytest.mark.parametrize("compression", COMPRESS)
def test_compressed_text_files_are_read_as_their_lines(tmp_path, compression):
    compress = COMPRESS[compression]
    text = "".join(f"line {i} é\r\n" for i in range(1000))
    source = write(tmp_path / f"a.en{compression}", compress(text.encode()) + compress(b"last"))
    target = write(tmp_path / "a.de", text + "last")
    expected = [*text.replace("\r", "").splitlines(), "last"]
    assert read_lines(source) == expected
    assert load_parallel(source, target)["source"][:] == expected
    chunks = list(TextCorpus(source).chunks())
    assert [text for chunk in chunks for text in chunk.source] == expected and chunks[-1].lines[-1] == 1001
    text = write(tmp_path / f"a.conll{compression}", compress(b"Ann\tB-PER\nran\tO\n"))
    assert read_examples(text, "tagging", Fields())[0].words == ["Ann", "ran"]


def test_a_reader_is_one_entry_of_the_table(tmp_path, monkeypatch):
    def read(path, wanted):
        names = wanted.names if wanted else ("text", "label")
        for number, line in numbered_lines(path):
            yield Records(path, [number], [dict(zip(names, line.split("|"), strict=False))])

    monkeypatch.setitem(readers.READERS, ".bars", read)
    path = write(tmp_path / "a.bars.gz", gzip.compress(b"one|eins\ntwo|zwei\n"))
    assert load_parallel(path)["target"][:] == ["eins", "zwei"]
    assert [chunk.source for chunk in TextCorpus(path).chunks()] == [["one"], ["two"]]
    assert [example.label for example in read_examples(path, "classification", Fields())] == ["eins", "zwei"]
    assert Corpus(path).fingerprint()[1] == [".bars.gz"]


def test_the_name_decides_format_and_compression():
    assert format_of("a/b.JSONL.GZ") == format_of("x.y.jsonl") == ".jsonl"
    assert format_of("train.en.zst") == ".en" and format_of("train.gz") == format_of("train") == ""


def test_a_fingerprint_keeps_compressed_files_apart(tmp_path):
    content = gzip.compress(b"a\tb\n")
    marks = []
    for name in ("a.tsv", "a.tsv.gz", "b.tsv.gz"):
        marks.append(Corpus(write(tmp_path / name, content), source_field=0, target_field=1).fingerprint())
    assert marks[0] != marks[1] == marks[2]


# Lines


def test_lines_of_a_file(tmp_path):
    file = tmp_path / "a.de"
    file.write_bytes("\ufeffeins\r\n\nz\u2028w\x85ei\x0c\ndrei".encode())
    assert read_lines(file) == ["eins", "", "z\u2028w\x85ei\x0c", "drei"]
    assert list(numbered_lines(file))[2:] == [(3, "z\u2028w\x85ei\x0c"), (4, "drei")]
    file.write_bytes(b"")
    assert read_lines(file) == []
    file.write_bytes("gut\nsch\u00f6n\n".encode("latin-1"))
    with pytest.raises(DataError, match=r"a\.de, line 2: byte 4 .* is not valid UTF-8.*iconv .*example\.$"):
        read_lines(file)
    with pytest.raises(DataError, match=r"b\.de: there is no such file"):
        read_lines(tmp_path / "b.de")
    with pytest.raises(DataError, match="this is a folder"):
        read_lines(tmp_path)


@pytest.mark.parametrize("compression", COMPRESS)
def test_damaged_compressed_files(tmp_path, compression):
    text = " ".join(str(i * i) for i in range(50_000)).encode()
    whole = COMPRESS[compression](text)
    for content in (whole[: len(whole) // 2], whole[:-2], b"no such thing\n"):
        path = write(tmp_path / f"a.en{compression}", content)
        with pytest.raises(
            DataError, match=rf"a\.en\{compression}: cannot be decompressed beyond byte [\d,]+ .*; copy"
        ):
            read_lines(path)
    with pytest.raises(DataError, match=rf"b\.en, line 1: .*looks like a \{compression} file, whose name must end"):
        read_lines(write(tmp_path / "b.en", whole))


def test_a_missing_package_is_named(tmp_path, monkeypatch):
    path = write(tmp_path / "a.en.zst", COMPRESS[".zst"](b"a\n"))
    monkeypatch.setitem(sys.modules, "zstandard", None)
    with pytest.raises(DataError, match=r"a\.en\.zst: .*zstandard, which is not installed; .*pip install zstandard"):
        read_lines(path)


def test_a_line_longer_than_many_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(lines, "BLOCK_BYTES", 10)
    assert read_lines(write(tmp_path / "a.en", f"{'x' * 1000}é\nb")) == ["x" * 1000 + "é", "b"]


# CSV


def pairs_of(path, **fields):
    pairs = load_parallel(path, **fields)
    return list(zip(pairs["line"], pairs["source"], pairs["target"], strict=True))


def test_csv_cells_and_their_lines(tmp_path):
    rows = 'source,note,target\r\n"a, ""b""",,"c\r\nd"\r\n\r\n"e\n\nf",x,g\nh,,i'
    path = write(tmp_path / "a.csv", "\ufeff" + rows)
    assert pairs_of(path, empty="drop") == [(2, 'a, "b"', "c\nd"), (5, "e\n\nf", "g"), (8, "h", "i")]
    with pytest.raises(DataError, match=r"1 of 4 pairs have an empty side: \S*a\.csv line 4 \(source and target\)"):
        load_parallel(path)
    bare = write(tmp_path / "b.csv", "a,b\nc,d\n")
    assert pairs_of(bare, source_field=1, target_field="0") == [(1, "b", "a"), (2, "d", "c")]


def test_csv_cells_of_any_length(tmp_path, monkeypatch):
    long = "word " * 100_000
    path = write(tmp_path / "a.csv", f'source,target\n"{long}",b\nc,d\n')
    assert pairs_of(path) == [(2, long, "b"), (3, "c", "d")]
    monkeypatch.setattr(readers, "CHARACTERS_PER_CHUNK", 1000)
    assert [len(chunk.rows) for chunk in read_records(path)] == [1, 1], "memory is bounded by characters, not by rows"


@pytest.mark.parametrize(
    "content, message",
    [
        ('source,target\na,b\n"c,d\ne,f\n', r"line 3: not valid CSV"),
        ('source,target\n"a"b,c\n', r"line 2: not valid CSV"),
        ("source,target\na,b\nc\n", r"line 3: 1 columns, but line 1 has 2 \(source, target\)"),
        ("source,target\na,b\0c\n", r"line 2: a null byte"),
        ("source,target,source\na,b,c\n", r"line 1: the names of the columns are needed here, each once"),
        (b"source,target\na,b\n\xff,c\n", r"line 3: byte 1 of the line"),
        ("src,target\na,b\n", r"line 1: no column 'source'.*Did you mean 'src'.*Set `source_field`"),
    ],
)
def test_csv_faults(tmp_path, content, message):
    with pytest.raises(DataError, match=rf"a\.csv, {message}"):
        load_parallel(write(tmp_path / "a.csv", content))


def test_an_unused_column_may_have_no_name(tmp_path):
    path = write(tmp_path / "a.csv", ",source,target,,\n0,a,b,,\n")
    assert pairs_of(path) == [(2, "a", "b")]
    with pytest.raises(DataError, match="line 1: the names of the columns"):
        read_examples(path, "classification", Fields(text="source", label="target"))


# JSON


def test_entries_of_a_list_are_named_in_messages(tmp_path):
    nested = [{"translation": {"en": "a", "de": "b"}}, {"translation": {"en": "c", "de": 5}}]
    path = write(tmp_path / "a.json", json.dumps(nested))
    with pytest.raises(DataError, match=r"a\.json, entry 2: field 'de' holds 5 instead of a string"):
        load_parallel(path, source_field="en", target_field="de")
    assert [chunk.source for chunk in TextCorpus(path, field="en").chunks()] == [["a", "c"]]
    with pytest.raises(DataError, match=r"a\.json, entry 1: no field 'text'; there is .*Set text_field\."):
        list(TextCorpus(path).chunks())
    deep = write(tmp_path / "b.jsonl", "[" * 100_000 + "\n")
    with pytest.raises(DataError, match=r"b\.jsonl, line 1: not valid JSON"):
        load_parallel(deep)
