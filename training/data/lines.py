"""Lines of UTF-8 text files, compressed or not, and of standard input: the one strict reader that every command shares.

    a file, .gz, .bz2, .xz or .zst, or standard input -> line_chunks -> numbered_lines | read_lines

Bytes and their text are those of `vaswani_tx.text_files`, which the library's own command line reads by, too. Only a
newline ends a line; one carriage return before it and a byte order mark at the start of the file are removed. Bytes
that are not UTF-8 are an error that names the file, the line and the byte.
"""

import os
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from vaswani_tx import text_files
from vaswani_tx.text_files import COMPRESSIONS, STDIN, TextFileError, compression_of  # noqa: F401 - readers take them from here
from vaswani_tx.training.errors import DataError

BLOCK_BYTES = text_files.BLOCK_BYTES
_GAPS = re.compile(r"(?:[ \t]|\r?\n)+")
_GAP = " \t\r\n"


def words_of(text: str) -> list[str]:
    """Return the words of a text: what is between spaces, tabs and ends of lines.

    Not str.split: it also splits at U+00A0, U+2028 and the like, which occur inside words such as `10 000`.
    """
    return [word for word in _GAPS.split(text) if word]


def trimmed(text: str) -> str:
    """Return a text without the spaces, tabs and ends of lines around it, the only ones that `words_of` splits at."""
    return text.strip(_GAP)


def format_of(path: str) -> str:
    """Return the ending that names the format of a file, compressed or not: `.jsonl` for `train.jsonl.gz`."""
    path = path[: len(path) - len(compression_of(path))]
    return os.path.splitext(path)[1].lower()


@contextmanager
def _data_errors() -> Iterator[None]:
    try:
        yield
    except TextFileError as error:
        raise DataError(str(error)) from error.__cause__


def check_file(path: str) -> None:
    """Raise DataError where there is no such file, naming a file beside it of a similar name."""
    with _data_errors():
        text_files.check_file(path)


def byte_blocks(path: str) -> Iterator[bytes]:
    """Yield the content of a file block by block, decompressed as its ending says; DataError where it is damaged."""
    with _data_errors():
        yield from text_files.byte_blocks(path, BLOCK_BYTES)


def line_chunks(path: str, remedy: str = "remove the line") -> Iterator[list[str]]:
    """Yield the lines of a file in lists.

    Args:
        remedy: what the message on a line that is not UTF-8 proposes besides conversion; "": nothing.

    Raises:
        DataError: a line that is not UTF-8, or a compressed file that is damaged.
    """
    return _line_chunks(byte_blocks(path), path, remedy)


def _line_chunks(blocks: Iterable[bytes], name: str, remedy: str) -> Iterator[list[str]]:
    what = "text" if name == STDIN else "file"
    fix = f"Convert the {what}, with `iconv -t UTF-8` for example{remedy and f', or {remedy}'}."
    first, rest = 1, []
    with _data_errors():
        for block in blocks:
            cut = block.rfind(b"\n") + 1
            if not cut:
                rest.append(block)
                continue
            lines = text_files.split_lines(b"".join([*rest, block[:cut]]), first, name, fix)
            rest = [block[cut:]]
            yield lines
            first += len(lines)
        if last := b"".join(rest):
            yield text_files.split_lines(last, first, name, fix)


def numbered_lines(path: str | Path, remedy: str = "remove the line") -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file with their numbers from 1; DataError where there is no such file, or no UTF-8."""
    path, first = os.fspath(path), 1
    check_file(path)
    for lines in line_chunks(path, remedy):
        yield from enumerate(lines, start=first)
        first += len(lines)


def read_lines(path: str | Path) -> list[str]:
    """Return all lines of a text file, blank ones too; DataError where there is no such file, or no UTF-8."""
    # Other files may refer to these lines by number: none is to be removed.
    return [line for _, line in numbered_lines(path, remedy="")]


def stdin_lines() -> list[str]:
    """Return all lines of standard input, blank ones too; DataError where it is no UTF-8."""
    stream = text_files.standard_input()
    blocks = iter(lambda: stream.read(BLOCK_BYTES), b"")
    return [line for lines in _line_chunks(blocks, STDIN, "") for line in lines]
