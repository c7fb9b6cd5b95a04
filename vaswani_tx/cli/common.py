"""What the verbs of the command line share: errors with an exit status, quiet libraries, whole output files."""

import argparse
import json
import math
import os
import re
import sys
import traceback
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, BinaryIO

OK, FAILURE, USAGE, INTERRUPTED, CLOSED_PIPE = 0, 1, 2, 130, 141
# A model's answer may hold what moves the cursor or changes colours: a terminal must not obey it.
CONTROL = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")


DEBUG_VARIABLE, DEBUG_FLAG = "VASWANI_TX_DEBUG", "--debug"
DEBUG_HELP = "print the traceback of an error; also VASWANI_TX_DEBUG=1"
_NO_MEMORY = re.compile("not enough memory|can't allocate memory|[Oo]ut of memory|Cannot allocate memory")


class CliError(ValueError):
    """A command that cannot be carried out as it was given; the message says what is wrong and how to fix it."""

    status = USAGE


class CliFailure(CliError):
    """A command that was right and failed all the same: the disk, the device's memory, the network."""

    status = FAILURE


class CliInterrupted(KeyboardInterrupt):
    """Ctrl-C, with a line that says what is kept."""


def print_status(message: str) -> None:
    """Print one line on standard error, where it is not among the results."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


def abandon_stdout() -> None:
    """Send what is not written yet nowhere: its reader is gone, and the interpreter would complain at its end."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        pass


def set_debug() -> None:
    """Have tracebacks printed, here and in the commands that this one starts."""
    os.environ[DEBUG_VARIABLE] = "1"


def take_debug_flag(words: list[str]) -> list[str]:
    """Return the words of a command line without `--debug`, which is obeyed."""
    if DEBUG_FLAG in words:
        set_debug()
    return [word for word in words if word != DEBUG_FLAG]


class DebugFlag(argparse.Action):
    """The flag `--debug` of a parser: tracebacks are printed."""

    def __init__(self, option_strings: list[str], dest: str, **options: Any):
        super().__init__(option_strings, argparse.SUPPRESS, nargs=0, default=argparse.SUPPRESS, help=DEBUG_HELP)

    def __call__(self, *_: Any) -> None:
        set_debug()


def print_traceback() -> None:
    """Print where the present error came from, where `--debug` or VASWANI_TX_DEBUG asks for it."""
    if os.environ.get(DEBUG_VARIABLE, "") not in ("", "0"):
        traceback.print_exc()


def describe_unforeseen(error: BaseException) -> str:
    """Return one line about an error that no check has foreseen: no memory left, or a mistake of this package."""
    text = f"{type(error).__name__}: {shorten(error)}".removesuffix(": ")
    # On the CPU torch raises a RuntimeError.
    if isinstance(error, MemoryError) or "OutOfMemory" in type(error).__name__ or _NO_MEMORY.search(str(error)):
        return f"error: the memory is not enough ({text}): give smaller batches, lengths, beams or models."
    hint = "" if os.environ.get(DEBUG_VARIABLE, "") not in ("", "0") else "run again with --debug for the traceback; "
    return f"internal error: {text}; {hint}please report it."


def shorten(error: object, length: int = 300) -> str:
    """Return an error's text on one line."""
    return " ".join(str(error).split())[:length]


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
