"""`vaswani-tx explain`: files written whole, one line where the input is wrong."""

import os
import stat

import pytest

from tests.helpers.explained import SENTENCE, make, tokenizer
from vaswani_tx.cli import main


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    made = {}
    for kind in ("vaswani", "causal", "masked", "gpt2"):
        made[kind] = str(tmp_path_factory.mktemp(kind))
        make(kind).save_pretrained(made[kind])
        tokenizer().save_pretrained(made[kind])
    return made


@pytest.mark.parametrize("kind", ["vaswani", "causal", "masked", "gpt2"])
def test_page_of_each_family(folders, tmp_path, kind, capsys):
    path = tmp_path / "page.html"
    assert main(["explain", folders[kind], SENTENCE, "-o", str(path)]) == 0
    assert path.read_text(encoding="utf-8").startswith("<!doctype html>")
    assert str(path) in capsys.readouterr().err.splitlines()[-1]
    assert [entry.name for entry in tmp_path.iterdir()] == ["page.html"]


def test_figure_by_its_ending_and_default_names(folders, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(["explain", folders["vaswani"], SENTENCE, "--figure", "lines", "--attention", "encoder", "-q"]) == 0
    assert main(["explain", folders["vaswani"], SENTENCE, "-q", "--layers", "1-2"]) == 0
    assert main(["explain", folders["vaswani"], SENTENCE, "--figure", "heads", "-o", "h.pdf", "-q"]) == 0
    assert sorted(entry.name for entry in tmp_path.iterdir()) == ["explain.html", "h.pdf", "lines.svg"]
    assert capsys.readouterr().err == ""


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        (["--layers", "9"], "no layer 9: the model has layers 1 to 2"),
        (["--figure", "beam"], "did you mean 'beams'"),
        (["--figure", "lines", "-o", "x.bmp"], "cannot be written as 'bmp'"),
        (["-o", "nowhere/page.html"], "no folder 'nowhere'"),
        (["--head", "2"], "--head is for a figure: add --figure NAME"),
        (["--figure", "heads", "--layers", "1"], "--layers is for a page"),
        (["--target", "a\udcff"], "the target has no valid character at place 2"),
        (["--target", " "], "the target is empty"),
        (["--name", "\udcff"], "the name of the model has no valid character at place 1"),
    ],
)
def test_wrong_input_is_one_line(folders, tmp_path, monkeypatch, capsys, more, reason):
    monkeypatch.chdir(tmp_path)
    assert main(["explain", folders["vaswani"], SENTENCE, "-q", *more]) == 2
    err = capsys.readouterr().err
    assert reason in err and err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("text", ["", " \t", "word " * 1500])
def test_text_that_no_page_can_hold(folders, capsys, text, tmp_path):
    assert main(["explain", folders["vaswani"], text, "-q", "-o", str(tmp_path / "p.html")]) == 2
    assert capsys.readouterr().err.startswith("vaswani-tx: error: the text ")


@pytest.mark.parametrize("layers", ["0", "a", "3-1", "1,,2", "-1"])
def test_layers_are_counted_from_one(folders, capsys, layers):
    with pytest.raises(SystemExit) as ended:
        main(["explain", folders["vaswani"], SENTENCE, f"--layers={layers}"])
    assert ended.value.code == 2 and "layers" in capsys.readouterr().err


def test_output_to_stdout_and_to_a_device(folders, tmp_path, monkeypatch, capfdbinary):
    monkeypatch.chdir(tmp_path)
    assert main(["explain", folders["vaswani"], SENTENCE, "-q", "-o", "-"]) == 0
    assert capfdbinary.readouterr().out.startswith(b"<!doctype html>")
    os.mkfifo("pipe")  # like /dev/null, which root could replace by a file
    reader = os.open("pipe", os.O_RDONLY | os.O_NONBLOCK)
    try:
        assert main(["explain", folders["vaswani"], SENTENCE, "-q", "-o", "pipe", "--figure", "lines"]) == 0
        assert os.read(reader, 5) == b"<?xml"
    finally:
        os.close(reader)
    assert stat.S_ISFIFO(os.stat("pipe").st_mode)
