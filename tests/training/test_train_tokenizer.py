"""The command that trains a tokenizer: its result, its report, and that it leaves nothing half-written."""

import json
import os

import pytest

from vaswani_tx.tokenization_vaswani import VaswaniTokenizer
from vaswani_tx.training.data import tokenizer_corpus
from vaswani_tx.training.train_tokenizer import main

ENGLISH = ["A dog runs on the green grass.", "The child reads the old book."] * 4
GERMAN = ["Ein Hund läuft über das grüne Gras.", "Das Kind liest das alte Buch."] * 4


@pytest.fixture
def files(tmp_path):
    for side, lines in (("en", ENGLISH), ("de", GERMAN)):
        (tmp_path / f"train.{side}").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return ["--source", str(tmp_path / "train.en"), "--target", str(tmp_path / "train.de")]


def command(files, output, *more):
    return [*files, "--output", str(output), "--vocab-size", "300", *more]


def test_text_files_give_a_joint_tokenizer(files, tmp_path, capsys):
    assert main(command(files, tmp_path / "deep" / "tok")) == 0
    tokenizer = VaswaniTokenizer.from_pretrained(tmp_path / "deep" / "tok")
    expected = VaswaniTokenizer.train([ENGLISH, GERMAN], 300, show_progress=False)
    assert tokenizer.get_vocab() == expected.get_vocab() and len(tokenizer) == 300
    output = capsys.readouterr().out
    lengths = [len(ids) for ids in tokenizer(ENGLISH).input_ids]
    assert "300 entries from 8 pairs" in output
    assert f"source: {sum(lengths) / 8:.1f} tokens a sentence with </s> (longest {max(lengths)})" in output
    assert os.listdir(tmp_path / "deep") == ["tok"], "nothing temporary stays"


def test_other_formats_give_the_same_vocabulary(files, tmp_path):
    rows = [json.dumps({"en": a, "de": b}) for a, b in zip(ENGLISH, GERMAN, strict=True)]
    (tmp_path / "x.jsonl").write_text("\n".join(rows) + "\n")
    fields = ["--source-field", "en", "--target-field", "de"]
    assert main(command(files, tmp_path / "a")) == 0
    assert main(command(["--source", str(tmp_path / "x.jsonl"), *fields], tmp_path / "b")) == 0
    assert (tmp_path / "a" / "tokenizer.json").read_bytes() == (tmp_path / "b" / "tokenizer.json").read_bytes()


def test_existing_folder_is_kept_unless_told(files, tmp_path, capsys):
    output = tmp_path / "tok"
    output.mkdir()
    assert main(command(files, output)) == 0, "an empty folder may be filled"
    (output / "mine.txt").write_text("keep")
    before = (output / "tokenizer.json").read_bytes()
    assert main(command(files, output, "--min-frequency", "1")) == 2
    assert "not empty" in capsys.readouterr().err and (output / "mine.txt").exists()
    assert (output / "tokenizer.json").read_bytes() == before
    assert main(command(files, output, "--overwrite", "--vocab-size", "290")) == 0
    assert not (output / "mine.txt").exists() and len(VaswaniTokenizer.from_pretrained(output)) == 290
    (tmp_path / "file").write_text("")
    assert main(command(files, tmp_path / "file")) == 2
    assert "is a file" in capsys.readouterr().err


def test_bad_input_writes_nothing(files, tmp_path, capsys):
    (tmp_path / "train.de").write_text("nur eine Zeile\n")
    assert main(command(files, tmp_path / "tok")) == 2
    assert "8 lines" in (error := capsys.readouterr().err) and "has 1" in error and error.startswith("error: ")
    (tmp_path / "train.de").write_bytes("\n".join(GERMAN).encode("latin-1"))
    assert main(command(files, tmp_path / "tok")) == 2
    assert "train.de, line 1" in capsys.readouterr().err
    assert main(command(files, tmp_path / "tok", "--vocab-size", "100")) == 2
    assert "at least 260" in capsys.readouterr().err
    assert {path.name for path in tmp_path.iterdir()} == {"train.en", "train.de"}


def test_empty_lines_can_be_dropped(files, tmp_path, capsys):
    (tmp_path / "train.de").write_text("\n".join(["", *GERMAN[1:]]) + "\n")
    assert main(command(files, tmp_path / "tok")) == 2
    assert "--empty drop" in capsys.readouterr().err
    assert main(command(files, tmp_path / "tok", "--empty", "drop")) == 0
    assert "from 7 pairs" in capsys.readouterr().out


def test_failing_write_keeps_what_was_there(files, tmp_path, monkeypatch):
    output = tmp_path / "tok"
    assert main(command(files, output)) == 0
    before = (output / "tokenizer.json").read_bytes()

    def interrupted(tokenizer, folder):
        tokenizer.save_pretrained(folder)
        raise KeyboardInterrupt

    monkeypatch.setattr(tokenizer_corpus, "_save", interrupted)
    assert main(command(files, output, "--overwrite", "--vocab-size", "290")) == 130
    assert (output / "tokenizer.json").read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"train.en", "train.de", "tok"}


def test_full_disk_is_reported_and_leaves_nothing(files, tmp_path, capsys):
    resource = pytest.importorskip("resource")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (4096, hard))  # no file may grow further, as on a full disk
        status = main(command(files, tmp_path / "out" / "tok"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert status == 1
    error = capsys.readouterr().err
    assert "could not be written" in error and "tok" in error
    assert list((tmp_path / "out").iterdir()) == []


def test_a_mask_token_for_masked_language_models(tmp_path, capsys):
    (tmp_path / "a.txt").write_text("the old house\nthe old dog\n" * 5)
    text = str(tmp_path / "a.txt")
    words = ["--source", text, "--target", text, "--vocab-size", "270", "--quiet", "--output", str(tmp_path / "out")]
    assert main([*words, "--mask-token", "<mask>"]) == 0, capsys.readouterr().err
    tokenizer = VaswaniTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer.mask_token == "<mask>" and tokenizer.mask_token_id in tokenizer("the <mask> dog")["input_ids"]


def test_each_side_can_have_a_vocabulary_of_its_own(files, tmp_path, capsys):
    assert main(command(files, tmp_path / "tok", "--source-vocab-size", "280")) == 0
    tokenizer = VaswaniTokenizer.from_pretrained(tmp_path / "tok")
    for side, texts, size in ((tokenizer.source, ENGLISH, 280), (tokenizer.target, GERMAN, 300)):
        assert side.get_vocab() == VaswaniTokenizer.train([texts], size, show_progress=False).get_vocab()
    output = capsys.readouterr().out
    assert "vocabularies: 280 entries of the source and 300 of the target from 8 pairs" in output
    for side, texts, one in (("source", ENGLISH, tokenizer.source), ("target", GERMAN, tokenizer.target)):
        assert f"{side}: {sum(map(len, one(texts)['input_ids'])) / 8:.1f} tokens a sentence with </s>" in output


def test_whole_words_belong_to_a_side(files, tmp_path):
    for name, word in (("src.txt", "English"), ("tgt.txt", "Deutsch")):
        (tmp_path / name).write_text(f"{word}\n")
    more = ["--source-whole-words", str(tmp_path / "src.txt"), "--whole-words", str(tmp_path / "tgt.txt")]
    assert main(command(files, tmp_path / "tok", "--source-vocab-size", "280", *more)) == 0
    tokenizer = VaswaniTokenizer.from_pretrained(tmp_path / "tok")
    assert [len(side.tokenize("English Deutsch")) for side in (tokenizer.source, tokenizer.target)] == [
        1 + len(tokenizer.source.tokenize("Deutsch")),
        1 + len(tokenizer.target.tokenize("English")),
    ]
    assert tokenizer.target.init_kwargs["whole_words"] == ["Deutsch"]


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--source-vocab-size", "280", "--vocab-size", "100"], "`vocab_size` is 100"),
        (["--source-vocab-size", "100"], "`source_vocab_size` is 100"),
        (["--source-whole-words", "x.txt"], "--source-whole-words needs --source-vocab-size"),
        (["--source-vocab-size", "280", "--mask-token", "<mask>"], "--mask-token is of masked language models"),
    ],
)
def test_what_two_vocabularies_do_not_go_with(files, tmp_path, capsys, more, message):
    assert main(command(files, tmp_path / "tok", *more)) == 2
    assert message in capsys.readouterr().err and not (tmp_path / "tok").exists()
