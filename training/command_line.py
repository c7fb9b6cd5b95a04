"""What every command does around its own work: arguments, messages, exit status. Needs neither torch nor transformers.

Exit status: 0 done, 1 failed (disk, memory, a training that diverged, an internal error), 2 wrong usage or input, 130
Ctrl-C, 141 the reader of the output went away, 128 + N stopped by signal N with everything saved. `--debug`, or
VASWANI_TX_DEBUG=1, prints the traceback of an error.
"""

import argparse
import logging
import os
import signal
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from vaswani_tx.failures import (
    DEBUG_FLAG,
    DebugFlag,
    abandon_stdout,
    describe_unforeseen,
    print_traceback,
    take_debug_flag,
)
from vaswani_tx.failures import print_status as print_status
from vaswani_tx.limits import whole
from vaswani_tx.text_files import use_utf8
from vaswani_tx.training.config.recipe import parse, usage
from vaswani_tx.training.errors import Interrupted, TrainingError, WriteError

FAILED, WRONG_INPUT, INTERRUPTED, CLOSED_PIPE = 1, 2, 130, 141
HELP_FLAGS = {"-h", "--help"}
# What is wrong with the machine or the run, not with what the user gave.
FAILURES = (WriteError, TrainingError, OSError)

# Choices of `--dtype`, and what PyTorch calls them.
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}


def command(argv: Sequence[str] | None, settings_class: type, manual: str, run: Callable[[Any], None]) -> int:
    """Run a training command and return its exit status.

    Args:
        argv: words of the command line; None: the process's own.
        settings_class: the dataclass of its keys.
        manual: what `--help` prints before the list of keys.
        run: trains as the settings say.
    """
    argv = take_debug_flag(list(sys.argv[1:] if argv is None else argv))
    if HELP_FLAGS & set(argv):
        return exit_status(lambda: print_manual(manual, settings_class))
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for name in ("httpx", "datasets", "absl", "accelerate"):
        logging.getLogger(name).setLevel(logging.WARNING)

    def work() -> None:
        settings = parse(argv, settings_class)
        import transformers  # takes a second, which a recipe with a wrong key need not wait

        transformers.utils.logging.disable_progress_bar()
        run(settings)

    return exit_status(work, interrupted="the same command resumes from the last checkpoint")


def print_manual(manual: str, settings_class: type) -> None:
    """Print what `--help` of a training command says: its manual and every key with its default and meaning."""
    print(f"{manual}\nKeys of a recipe, each of them a flag:\n{usage(settings_class)}")


def make_parser(manual: str, name: str, usage: str | None = None) -> argparse.ArgumentParser:
    """Return a parser whose help is a command's manual as it is written.

    Args:
        name: the command as a user types it.
        usage: the line of usage where argparse cannot make it; `%(prog)s` in it is the name.
    """
    parser = argparse.ArgumentParser(
        prog=name,
        description=manual,
        usage=usage,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(DEBUG_FLAG, action=DebugFlag)
    return parser


def exit_status(
    work: Callable[[], int | None], interrupted: str = "", failures: tuple[type[Exception], ...] = FAILURES
) -> int:
    """Do the work and return the exit status; what a user can fix is one line on standard error, not a traceback.

    Args:
        work: returns the status where it is not 0.
        interrupted: what is left after Ctrl-C, for the message.
        failures: exceptions that give the status 1; every other ValueError is a wrong input and gives 2.
    """
    use_utf8()
    try:
        status = work() or 0
        sys.stdout.flush()
    except Interrupted as stop:
        name = signal.Signals(stop.signum).name
        print_status(f"stopped by {name}; saved as {stop.saved}; the same command resumes from there.")
        return 128 + stop.signum
    except KeyboardInterrupt:
        print_status(f"stopped by SIGINT{'; ' if interrupted else ''}{interrupted}.")
        return INTERRUPTED
    except BrokenPipeError:
        abandon_stdout()
        return CLOSED_PIPE
    except (ValueError, OSError) as error:
        print_traceback()
        print_status(f"error: {error}")
        return FAILED if isinstance(error, failures) else WRONG_INPUT
    except Exception as error:
        print_traceback()
        print_status(describe_unforeseen(error))
        return FAILED
    return status


# The number of a flag that counts something.
positive_int = whole()


def check_writable(path: str | os.PathLike | None) -> None:
    """Raise ValueError where a file cannot be written, before the work is done rather than after it."""
    if path is None:
        return
    path = Path(path)
    if path.is_dir():
        raise ValueError(f"'{path}' is a folder: name a file for the results.")
    # What writes the file makes the folders that are missing.
    nearest = next(folder for folder in (path, *path.absolute().parents) if folder.exists())
    if not (nearest == path or nearest.is_dir()):
        raise ValueError(f"'{path}' cannot be written, as '{nearest}' is a file: choose another name.")
    if not os.access(nearest, os.W_OK):
        raise ValueError(f"'{path}' cannot be written: check the permissions of '{nearest}', or choose another folder.")
