"""Lines of input: from a file, compressed or not, or from a pipe as they come, by `vaswani_tx.text_files`."""

import io
import os
import queue
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, BinaryIO, TypeVar

from vaswani_tx.cli.common import CliError, is_stdio
from vaswani_tx.text_files import (
    STDIN,
    TextFileError,
    compression_of,
    open_bytes,
    similar_file,
    standard_input,
    text_of_line,
)

Item = TypeVar("Item")
CHUNK = 1 << 16
# A pipe that gives nothing for so long (seconds) is waited for by whoever writes to it: answer what is there.
PATIENCE = 0.02
REMEDY = "Convert the text (`iconv -t UTF-8`), or give --errors replace."


@dataclass(frozen=True)
class Block:
    """Consecutive lines: the number of the first one, from 1, their texts, and their bytes as they came."""

    first: int
    texts: list[str]
    raw: list[bytes]


@contextmanager
def open_input(path: str | None) -> Iterator[tuple[BinaryIO, str]]:
    """Yield a byte stream, decompressed as the file's ending says, and its name in messages.

    Raises:
        CliError: no such file, a folder, or a file that may not be read.
    """
    if is_stdio(path):
        yield standard_input(), STDIN
        return
    if os.path.isdir(path):
        raise CliError(f"'{path}' is a folder: name a text file.")
    if not os.path.exists(path):
        raise CliError(f"there is no file '{path}'.{similar_file(str(path))}")
    try:
        stream = open_bytes(path)
    except OSError as error:
        raise CliError(f"'{path}' cannot be read: {error.strerror}.") from None
    with stream:
        yield stream, str(path)


def is_regular(stream: BinaryIO, name: str = "") -> bool:
    """Return whether a stream is a file on disk, all of which is there already; `name` is that of the file."""
    if compression_of(name) and os.path.isfile(name):
        return True
    try:
        return os.path.isfile(stream.fileno()) if hasattr(stream, "fileno") else False
    except (OSError, io.UnsupportedOperation, ValueError):
        return False


def skip(stream: BinaryIO, count: int, digest: Any = None) -> None:
    """Read past `count` bytes, or to the end, and add them to a hash; raise CliError where a file is damaged."""
    with _cli_errors():
        while count > 0 and (chunk := stream.read(min(count, CHUNK))):
            count -= len(chunk)
            if digest is not None:
                digest.update(chunk)


def blocks(
    stream: BinaryIO, name: str, size: int, *, at_once: bool, errors: str = "strict", first: int = 1
) -> Iterator[Block]:
    """Yield the lines of a stream in blocks of `size`.

    Args:
        at_once: a block holds what a slow writer has given so far, so that each line is answered as soon as it comes.
        errors: "replace" puts U+FFFD in the place of bytes that are no UTF-8.
        first: the number of the stream's next line.

    Raises:
        CliError: a line is no UTF-8; the lines before it have been yielded.
    """
    taken = ReadyLines(stream, size).blocks() if at_once else groups(stream, size)
    with _cli_errors():
        for raws in taken:
            texts: list[str] = []
            for number, raw in enumerate(raws, start=first):
                try:
                    texts.append(decode(raw, number, name, errors))
                except CliError:
                    if texts:
                        yield Block(first, texts, raws[: len(texts)])
                    raise
            yield Block(first, texts, raws)
            first += len(raws)


def decode(raw: bytes, number: int, name: str, errors: str = "strict") -> str:
    """Return a line's text without its end; raise CliError naming the byte that is not UTF-8."""
    with _cli_errors():
        return text_of_line(raw, number, name, errors, REMEDY)


@contextmanager
def _cli_errors() -> Iterator[None]:
    try:
        yield
    except TextFileError as error:
        raise CliError(str(error)) from None


def groups(items: Iterable[Item], size: int) -> Iterator[list[Item]]:
    """Yield items in lists of `size`; where one cannot be read, those before it come first, and then the error."""
    group: list[Item] = []
    try:
        for item in items:
            group.append(item)
            if len(group) == size:
                yield group
                group = []
    except (CliError, TextFileError):
        if group:
            yield group
        raise
    if group:
        yield group


class ReadyLines:
    """Lines of a pipe, read by a thread of their own while the model works.

    At most `size` lines wait unanswered, beside what the pipe itself holds: then the writer has to wait.
    """

    def __init__(self, stream: BinaryIO, size: int):
        self._stream, self._size = stream, size
        self._lines: queue.Queue[Any] = queue.Queue(size)
        # Daemon: a thread that waits for a pipe cannot be stopped, and must not keep the process alive.
        threading.Thread(target=self._read, daemon=True, name="input").start()

    def blocks(self) -> Iterator[list[bytes]]:
        end = False
        while not end:
            block, item = [], self._lines.get()
            while isinstance(item, bytes):
                block.append(item)
                if len(block) == self._size:
                    break
                try:
                    item = self._lines.get(timeout=PATIENCE)
                except queue.Empty:
                    break
            if block:
                yield block
            if isinstance(item, Exception):
                raise item
            end = item is None

    def _read(self) -> None:
        try:
            parts: list[bytes] = []
            while chunk := self._chunk():
                *lines, rest = chunk.split(b"\n")
                for line in lines:
                    self._lines.put(b"".join([*parts, line, b"\n"]))
                    parts = []
                parts.append(rest)
            if last := b"".join(parts):
                self._lines.put(last)
            self._lines.put(None)
        except Exception as error:
            self._lines.put(error)

    def _chunk(self) -> bytes:
        # Not through the buffer of the stream: its lock, held by a waiting thread, makes the interpreter abort at exit.
        try:
            number = self._stream.fileno()
        except (AttributeError, OSError, ValueError):
            return self._stream.read(CHUNK)
        return os.read(number, CHUNK)
