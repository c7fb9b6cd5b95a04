"""What the verbs of the command line share: errors with an exit status, quiet libraries, whole output files."""

import json
import math
import os
import re
import sys
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

from vaswani_tx.failures import abandon_stdout as abandon_stdout
from vaswani_tx.failures import print_status as print_status
from vaswani_tx.failures import shorten as shorten

OK, FAILURE, USAGE, INTERRUPTED, CLOSED_PIPE = 0, 1, 2, 130, 141
# A model's answer may hold what moves the cursor or changes colours: a terminal must not obey it.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


class CliError(ValueError):
    """A command that cannot be carried out as it was given; the message says what is wrong and how to fix it."""

    status = USAGE


class CliFailure(CliError):
    """A command that was right and failed all the same: the disk, the device's memory, the network."""

    status = FAILURE


class CliInterrupted(KeyboardInterrupt):
    """Ctrl-C, with a line that says what is kept."""


@contextmanager
def quiet_libraries() -> Iterator[None]:
    """Keep the warnings and loading bars of transformers off stderr; Python's own -W switches the warnings on again."""
    # Here, so that help needs neither of the two.
    from huggingface_hub.utils import logging as hub_logging
    from transformers.utils import logging as transformers_logging

    verbosity, bars = transformers_logging.get_verbosity(), transformers_logging.is_progress_bar_enabled()
    of_the_hub = hub_logging.get_verbosity()
    transformers_logging.set_verbosity_error()
    hub_logging.set_verbosity_error()
    transformers_logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            if not sys.warnoptions:
                warnings.simplefilter("ignore")
            yield
    finally:
        transformers_logging.set_verbosity(verbosity)
        hub_logging.set_verbosity(of_the_hub)
        if bars:
            transformers_logging.enable_progress_bar()


def one_line(text: str) -> str:
    """Return a text without line breaks: a translation must stay on its line."""
    return text.replace("\r", " ").replace("\n", " ")


def one_field(text: str) -> str:
    """Return a text as one field of a tab-separated line."""
    return one_line(text).replace("\t", " ")


def finite(value: float | None) -> float | None:
    """Return a number that JSON has, None for any other."""
    return value if value is not None and math.isfinite(value) else None


def json_line(value: Any) -> str:
    """Return a value as one line of JSON, letters beyond ASCII as they are."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False) + "\n"


class StreamSink:
    """Text to a stream that others read while it grows; every write is flushed."""

    def __init__(self, stream: BinaryIO, terminal: bool):
        self.stream, self.terminal = stream, terminal

    def write(self, text: str) -> None:
        if self.terminal:
            text = CONTROL.sub("\ufffd", text)
        self.stream.write(text.encode("utf-8"))
        self.stream.flush()


def stdout_sink() -> StreamSink:
    """Return a sink of standard output."""
    return StreamSink(sys.stdout.buffer, sys.stdout.isatty())


def is_stdio(path: str | None) -> bool:
    """Return whether a file name means standard input or output."""
    return path in (None, "-")


def check_output(path: Path) -> None:
    """Raise CliError where a file cannot be written, before the work is done rather than after it."""
    if path.is_dir():
        raise CliError(f"'{path}' is a folder: name a file for the results.")
    if not path.parent.is_dir():
        raise CliError(f"there is no folder '{path.parent}' for '{path.name}': make it first.")
    if not os.access(path if path.exists() else path.parent, os.W_OK):
        raise CliError(f"'{path}' cannot be written: check the permissions, or choose another folder.")


@contextmanager
def whole_file(path: Path) -> Iterator[StreamSink]:
    """Yield a sink whose file takes its name when the block ends well, and vanishes otherwise."""
    temporary = path.with_name(f".tmp-{os.getpid()}-{path.name}")
    try:
        with temporary.open("wb") as file:
            yield StreamSink(file, terminal=False)
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


@contextmanager
def open_sink(path: str | None) -> Iterator[StreamSink]:
    """Yield a sink: standard output, a device or pipe as it is, or a file that is whole or absent."""
    if is_stdio(path):
        yield stdout_sink()
        return
    target = Path(path)
    check_output(target)
    if target.exists() and not target.is_file():
        with target.open("wb") as file:
            yield StreamSink(file, terminal=file.isatty())
        return
    with whole_file(target) as sink:
        yield sink
