"""What a command says when it ends early: one line on standard error, and the traceback where that is asked for."""

import argparse
import os
import re
import sys
import traceback
from typing import Any

DEBUG_VARIABLE, DEBUG_FLAG = "VASWANI_TX_DEBUG", "--debug"
DEBUG_HELP = "print the traceback of an error; also VASWANI_TX_DEBUG=1"
_NO_MEMORY = re.compile("not enough memory|can't allocate memory|[Oo]ut of memory|Cannot allocate memory")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")


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


def print_status(message: str) -> None:
    """Print one line on standard error, where it is not among the results."""
    sys.stderr.write(f"{message}\n")
    sys.stderr.flush()


def shorten(error: object, length: int = 300) -> str:
    """Return an error's text on one line, without the characters that would move a terminal's cursor."""
    text = " ".join(_CONTROL.sub(" ", str(error)).split())
    return text if len(text) <= length else f"{text[:length]}..."


def abandon_stdout() -> None:
    """Send what is not written yet nowhere: its reader is gone, and the interpreter would complain at its end."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        pass
