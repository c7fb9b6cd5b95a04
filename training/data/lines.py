"""Lines of UTF-8 text files, compressed or not: the one strict reader that every command shares.

    a file, .gz, .bz2, .xz or .zst -> byte_blocks -> line_chunks -> numbered_lines | read_lines

Only a newline ends a line; one carriage return before it and a byte order mark at the start of the file are removed.
Bytes that are not UTF-8 are an error that names the file, the line and the byte.
"""

import bz2
import gzip
import lzma
import os
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from vaswani_tx.suggestions import nearest_name
from vaswani_tx.training.errors import DataError

BLOCK_BYTES = 1 << 22
# Small, because one block of a very repetitive file may grow a thousandfold.
COMPRESSED_BYTES = 1 << 16
_MARKS = {
    b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"PK": "zip", b"\x1f\x8b": ".gz", b"BZh": ".bz2",
    b"\xfd7zXZ": ".xz", b"\x28\xb5\x2f\xfd": ".zst",
}  # fmt: skip


def _with(open_file: Callable[..., Any]) -> Callable[[str], Iterator[bytes]]:
    """Return a reader of blocks for a function that opens a file."""

    def blocks(path: str) -> Iterator[bytes]:
        with open_file(path, "rb") as stream:
            while block := stream.read(BLOCK_BYTES):
                yield block

    return blocks


def _zst_blocks(path: str) -> Iterator[bytes]:
    """Decompress one frame after another: the package's own streams end without an error where a file is truncated."""
    zstandard = _zstandard(path)
    try:
        with open(path, "rb") as stream:
            frame = None
            while block := stream.read(COMPRESSED_BYTES):
                while block:
                    frame = frame or zstandard.ZstdDecompressor().decompressobj()
                    if text := frame.decompress(block):
                        yield text
                    frame, block = (None, frame.unused_data) if frame.eof else (frame, b"")
    except zstandard.ZstdError as error:
        raise OSError(str(error)) from error
    if frame is not None:
        raise EOFError("compressed file ended before the end of the data")


def _zstandard(path: str) -> Any:
    try:
        import zstandard
    except ImportError:
        raise DataError(
            f"{path}: reading .zst files takes the package zstandard, which is not installed; install it with "
            "`pip install zstandard`, or decompress the file with `zstd -d`."
        ) from None
    return zstandard


COMPRESSIONS: dict[str, Callable[[str], Iterator[bytes]]] = {
    ".gz": _with(gzip.open),
    ".bz2": _with(bz2.open),
    ".xz": _with(lzma.open),
    ".zst": _zst_blocks,
}


def compression_of(path: str) -> str:
    """Return the ending of a compressed file, "" for any other."""
    ending = os.path.splitext(path)[1].lower()
    return ending if ending in COMPRESSIONS else ""


def format_of(path: str) -> str:
    """Return the ending that names the format of a file, compressed or not: `.jsonl` for `train.jsonl.gz`."""
    path = path[: len(path) - len(compression_of(path))]
    return os.path.splitext(path)[1].lower()


def check_file(path: str) -> None:
    """Raise DataError where there is no such file, naming the file beside it that is called nearly the same."""
    if os.path.isfile(path):
        return
    if os.path.isdir(path):
        raise DataError(f"{path}: this is a folder; name a file.")
    folder, base = os.path.split(path)
    beside = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    near = nearest_name(base, beside)
    hint = f" Did you mean {os.path.join(folder, near)}?" if near else ""
    raise DataError(f"{path}: there is no such file.{hint}")


def byte_blocks(path: str) -> Iterator[bytes]:
    """Yield the content of a file block by block, decompressed as its ending says; DataError where it is damaged."""
    ending = compression_of(path)
    if not ending:
        yield from _with(open)(path)
        return
    done = 0
    try:
        for block in COMPRESSIONS[ending](path):
            yield block
            done += len(block)
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise DataError(
            f"{path}: cannot be decompressed beyond byte {done:,} of its content ({error}); copy the file again, or "
            f"rename it if it is no {ending} file."
        ) from error


def line_chunks(path: str, remedy: str = "remove the line") -> Iterator[list[str]]:
    """Yield the lines of a file in lists.

    Args:
        remedy: what the message on a line that is not UTF-8 proposes besides conversion; "": nothing.

    Raises:
        DataError: a line that is not UTF-8, or a compressed file that is damaged.
    """
    # Not str.splitlines: it also splits at U+2028, U+0085, form feeds and the like, which occur inside sentences.
    first, rest = 1, []
    for block in byte_blocks(path):
        cut = block.rfind(b"\n") + 1
        if not cut:
            rest.append(block)
            continue
        lines = _decode(b"".join([*rest, block[:cut]]), path, first, remedy)
        rest = [block[cut:]]
        yield lines
        first += len(lines)
    if last := b"".join(rest):
        yield _decode(last, path, first, remedy)


def _decode(block: bytes, path: str, first: int, remedy: str) -> list[str]:
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError as error:
        line = first + block.count(b"\n", 0, error.start)
        column = error.start - block.rfind(b"\n", 0, error.start)
        kind = next((kind for mark, kind in _MARKS.items() if first == 1 and block.startswith(mark)), None)
        guess = f"; it looks like a {kind} file" if kind else ""
        if kind in COMPRESSIONS:
            guess += f", whose name must end with {kind}"
        raise DataError(
            f"{path}, line {line}: byte {column} of the line (0x{block[error.start]:02x}) is not valid UTF-8{guess}. "
            f"Convert the file, with `iconv -t UTF-8` for example{remedy and f', or {remedy}'}."
        ) from None
    lines = (text[1:] if first == 1 and text.startswith("\ufeff") else text).split("\n")
    if not lines[-1]:
        lines.pop()
    return [line[:-1] if line.endswith("\r") else line for line in lines] if "\r" in text else lines


def numbered_lines(path: str | Path, remedy: str = "remove the line") -> Iterator[tuple[int, str]]:
    """Yield the lines of a text file with their numbers from 1; DataError where there is no such file, or no UTF-8."""
    path, first = os.fspath(path), 1
    check_file(path)
    for lines in line_chunks(path, remedy):
        yield from enumerate(lines, start=first)
        first += len(lines)


def read_lines(path: str | Path) -> list[str]:
    """Return all lines of a text file, blank ones too; DataError where there is no such file, or no UTF-8."""
    # Other files may count on the numbers of these lines: none is to be removed.
    return [line for _, line in numbered_lines(path, remedy="")]
