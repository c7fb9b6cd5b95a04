"""What the command line reads and prints: compressed and damaged files, streams of other encodings, any locale."""

import bz2
import gzip
import io
import lzma
import sys
from unittest import mock

import pytest
import zstandard

from tests.helpers.cli_runs import TEXT, command, refused
from vaswani_tx.cli import main
from vaswani_tx.cli.common import CliError
from vaswani_tx.cli.lines import CHUNK, blocks, is_regular, open_input
from vaswani_tx.training.command_line import exit_status

COMPRESS = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda data: zstandard.ZstdCompressor().compress(data),
}


@pytest.fixture(scope="module")
def plain(folder):
    return command("translate", folder, "--beams", 1, stdin=TEXT).raw


@pytest.mark.parametrize("ending", COMPRESS)
def test_compressed_files_are_read_as_what_they_hold(folder, plain, tmp_path, ending):
    source, target = tmp_path / f"a.en{ending}", tmp_path / "a.de"
    source.write_bytes(COMPRESS[ending]("\ufeff".encode() + TEXT.encode()))
    done = command("translate", folder, "--beams", 1, "--input", source, "--output", target, "--buffer-size", 2)
    assert done.status == 0 and target.read_bytes() == plain, done.err
    scored = command("score", folder, "--source", source, "--target", source)
    (tmp_path / "b").write_text(TEXT, encoding="utf-8")
    assert scored.status == 0 and scored.raw == command("score", folder, "--source", tmp_path / "b", "--target",
                                                        tmp_path / "b").raw  # fmt: skip


def test_an_interrupted_translation_of_a_compressed_file_resumes(folder, plain, tmp_path):
    source, target = tmp_path / "a.en.zst", tmp_path / "a.de"
    first, rest = (COMPRESS[".zst"](part) for part in (TEXT.encode()[:40], TEXT.encode()[40:]))
    source.write_bytes(first + rest[:-3])  # the lines before the damage are done and kept
    words = ["translate", folder, "--beams", 1, "--input", source, "--output", target, "--buffer-size", 1]
    refused(command(*words), "a.en.zst: cannot be decompressed beyond byte 40", "copy the file again")
    source.write_bytes(first + rest)
    done = command(*words)
    assert done.status == 0 and target.read_bytes() == plain and "resuming after line" in done.err


def test_lines_before_the_damage_are_whole(tmp_path):
    lines = [f"line {number * number}" for number in range(CHUNK)]
    path = tmp_path / "a.zst"
    path.write_bytes(COMPRESS[".zst"]("\n".join(lines).encode())[:-4])
    with open_input(str(path)) as (stream, name):
        assert is_regular(stream, name)
        taken = []
        with pytest.raises(CliError, match="cannot be decompressed beyond byte"):
            for block in blocks(stream, name, 5000, at_once=False):
                taken += block.texts
    assert taken and taken == lines[: len(taken)]


@pytest.mark.parametrize("content, words", [
    (gzip.compress(b"a", mtime=0), ["line 1: byte 2", "looks like a .gz file, whose name must end with .gz."]),
    (b"PK\x03\x04\xff", ["looks like a zip file: decompress it first."]),
    ("\u00e4\n".encode("utf-16"), ["looks like a UTF-16 file", "iconv"]),
    (b"a\nb\xe4\n", ["line 2: byte 2 of the line (0xe4) is not valid UTF-8. Convert the text", "--errors replace"]),
])  # fmt: skip
def test_what_is_no_text_is_named_for_what_it_is(folder, tmp_path, content, words):
    (tmp_path / "a.txt").write_bytes(content)
    line = refused(command("translate", folder, "--input", tmp_path / "a.txt", "--beams", 1), "a.txt", *words)
    assert ("iconv" in line) == ("iconv" in "".join(words) or "--errors" in words[-1])
    if content[:2] == b"\x1f\x8b":
        refused(command("translate", folder, stdin=content), "stdin, line 1: byte 2", "decompress it first")
    refused(command("score", folder, "--source", tmp_path / "b.txt", "--target", tmp_path / "a.txt"), "Did you mean")


def ascii_streams():
    return {name: io.TextIOWrapper(io.BytesIO(), "ascii") for name in ("stdin", "stdout", "stderr")}


def test_a_locale_without_letters_prints_utf_8_all_the_same(tmp_path):
    streams = ascii_streams()
    with mock.patch.multiple(sys, **streams):
        assert exit_status(lambda: print("\u00fc\u2028 \udcff")) == 0
        assert exit_status(lambda: int("\u00fc")) == 2
    assert streams["stdout"].buffer.getvalue() == "\u00fc\u2028 ".encode() + b"\xff\n"
    assert "\u00fc" in streams["stderr"].buffer.getvalue().decode()
    streams = ascii_streams()
    with mock.patch.multiple(sys, **streams):
        assert main(["compare", "--target", f"{tmp_path}/\u00fc", "a", "b"]) == 2
    assert "\u00fc: there is no such file" in streams["stderr"].buffer.getvalue().decode()
