"""Bytes and lines of text files, compressed or not, and of streams: what every command reads text by.

    a file, .gz, .bz2, .xz or .zst -> byte_blocks | open_bytes -> split_lines | text_of_line -> lines of text

Text is UTF-8. Only a newline ends a line; one carriage return before it and a byte order mark at the start of the text
are removed. All other characters, NUL, form feed, U+0085 and U+2028 among them, belong to the line.
"""

import bz2
import gzip
import io
import lzma
import os
import sys
import zlib
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import Any, BinaryIO

from vaswani_tx.suggestions import nearest_name

BLOCK_BYTES = 1 << 22
# Small, because one block of a very repetitive file may grow a thousandfold.
COMPRESSED_BYTES = 1 << 16
STDIN = "stdin"  # what messages call standard input
BOM = b"\xef\xbb\xbf"
_MARKS = {
    b"\xff\xfe": "UTF-16", b"\xfe\xff": "UTF-16", b"PK": "zip", b"\x1f\x8b": ".gz", b"BZh": ".bz2",
    b"\xfd7zXZ": ".xz", b"\x28\xb5\x2f\xfd": ".zst",
}  # fmt: skip


class TextFileError(ValueError):
    """A file or stream that cannot be read as text; the message names it, the line, and how to fix it."""


def _with(open_file: Callable[..., Any]) -> Callable[[str, int], Iterator[bytes]]:
    """Return a reader of blocks for a function that opens a file."""

    def blocks(path: str, size: int) -> Iterator[bytes]:
        with open_file(path, "rb") as stream:
            while block := stream.read(size):
                yield block

    return blocks


def _zst_blocks(path: str, size: int) -> Iterator[bytes]:
    """Yield the content of one frame after another: the package's own streams accept a truncated file."""
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
        raise TextFileError(
            f"{path}: reading .zst files takes the package zstandard, which is not installed; install it with "
            "`pip install zstandard`, or decompress the file with `zstd -d`."
        ) from None
    return zstandard


COMPRESSIONS: dict[str, Callable[[str, int], Iterator[bytes]]] = {
    ".gz": _with(gzip.open),
    ".bz2": _with(bz2.open),
    ".xz": _with(lzma.open),
    ".zst": _zst_blocks,
}


def compression_of(path: str) -> str:
    """Return the ending of a compressed file, "" for any other."""
    ending = os.path.splitext(path)[1].lower()
    return ending if ending in COMPRESSIONS else ""


def check_file(path: str) -> None:
    """Raise TextFileError where a path is no file or pipe, naming a file beside it of a similar name."""
    if os.path.isdir(path):
        raise TextFileError(f"{path}: this is a folder; name a file.")
    if not os.path.exists(path):
        raise TextFileError(f"{path}: there is no such file.{similar_file(path)}")


def similar_file(path: str) -> str:
    """Return ` Did you mean train.en?` where there is a file of nearly that name, else ""."""
    folder, base = os.path.split(path)
    beside = os.listdir(folder or ".") if os.path.isdir(folder or ".") else []
    near = nearest_name(base, beside)
    return f" Did you mean {os.path.join(folder, near)}?" if near else ""


def byte_blocks(path: str, size: int = BLOCK_BYTES) -> Iterator[bytes]:
    """Yield the content of a file block by block, decompressed as its ending says.

    Raises:
        TextFileError: a compressed file that is damaged, or is no such file.
    """
    ending = compression_of(path)
    if not ending:
        yield from _with(open)(path, size)
        return
    done = 0
    try:
        for block in COMPRESSIONS[ending](path, size):
            yield block
            done += len(block)
    except (PermissionError, FileNotFoundError):
        raise
    except (EOFError, OSError, zlib.error, lzma.LZMAError) as error:
        raise TextFileError(
            f"{path}: cannot be decompressed beyond byte {done:,} of its content ({error}); copy the file again, or "
            f"rename it if it is no {ending} file."
        ) from error


class _Blocks(io.RawIOBase):
    """A stream of bytes over an iterator of blocks."""

    def __init__(self, blocks: Iterator[bytes]):
        self._blocks, self._rest = blocks, memoryview(b"")

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        if not self._rest:
            self._rest = memoryview(next(self._blocks, b""))
        count = min(len(buffer), len(self._rest))
        buffer[:count] = self._rest[:count]
        self._rest = self._rest[count:]
        return count


def open_bytes(path: str) -> BinaryIO:
    """Open a file for reading, decompressed as its ending says; reading raises as `byte_blocks` does."""
    if compression_of(path):
        return io.BufferedReader(_Blocks(byte_blocks(path, COMPRESSED_BYTES)), COMPRESSED_BYTES)
    return open(path, "rb")


def standard_input() -> BinaryIO:
    """Return standard input as bytes: its encoding is the locale's, while text here is UTF-8 wherever it comes from."""
    return sys.stdin.buffer if hasattr(sys.stdin, "buffer") else io.BytesIO(sys.stdin.read().encode())


def use_utf8() -> None:
    """Let this process read and print UTF-8 whatever its locale is: texts and results are the same bytes everywhere."""
    # A file's name that is no UTF-8 is printed as the bytes that it is.
    for stream, errors in ((sys.stdin, "strict"), (sys.stdout, "surrogateescape"), (sys.stderr, "backslashreplace")):
        if hasattr(stream, "reconfigure"):
            with suppress(OSError):  # a stream that was read from before, or put in the place of another
                stream.reconfigure(encoding="utf-8", errors=errors)


def text_of_line(raw: bytes, number: int, name: str, errors: str = "strict", remedy: str = "") -> str:
    """Return the text of one line without its end.

    Args:
        number: of the line, from 1.
        errors: "replace" puts U+FFFD in the place of bytes that are not UTF-8.
        remedy: how to fix bytes that are not UTF-8.

    Raises:
        TextFileError: bytes that are not UTF-8.
    """
    line = raw.removesuffix(b"\n").removesuffix(b"\r")
    if number == 1:
        line = line.removeprefix(BOM)
    try:
        return line.decode("utf-8", errors)
    except UnicodeDecodeError as error:
        raise TextFileError(not_utf8(name, number, line, error.start, remedy)) from None


def split_lines(block: bytes, first: int, name: str, remedy: str = "") -> list[str]:
    """Return the lines of a block of whole lines; arguments and errors are those of `text_of_line`."""
    try:
        text = block.decode("utf-8")
    except UnicodeDecodeError as error:
        start = block.rfind(b"\n", 0, error.start) + 1
        number = first + block.count(b"\n", 0, error.start)
        head = block if first == 1 else b""
        raise TextFileError(not_utf8(name, number, block[start:], error.start - start, remedy, head)) from None
    # Not str.splitlines: it also splits at U+2028, U+0085, form feeds and the like, which occur inside sentences.
    lines = (text[1:] if first == 1 and text.startswith("\ufeff") else text).split("\n")
    if not lines[-1]:
        lines.pop()
    return [line[:-1] if line.endswith("\r") else line for line in lines] if "\r" in text else lines


def not_utf8(name: str, number: int, line: bytes, position: int, remedy: str, head: bytes | None = None) -> str:
    """Return the message on a byte of a line that is not UTF-8, with a guess at what the file is.

    Args:
        position: of the byte in the line, from 0.
        remedy: how to fix text of another encoding.
        head: how the file begins; None: as the line does, if it is the first one.
    """
    head = (line if number == 1 else b"") if head is None else head
    found = next((format_name for mark, format_name in _MARKS.items() if head.startswith(mark)), None)
    guess = f"; it looks like a {found} file" if found else ""
    if found in COMPRESSIONS or found == "zip":
        in_a_file = found in COMPRESSIONS and name != STDIN
        guess, remedy = guess + (f", whose name must end with {found}" if in_a_file else ": decompress it first"), ""
    message = (
        f"{name}, line {number}: byte {position + 1} of the line (0x{line[position]:02x}) is not valid UTF-8{guess}."
    )
    return f"{message} {remedy}".rstrip()
