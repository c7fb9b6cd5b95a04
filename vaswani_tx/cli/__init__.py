"""The command `vaswani-tx`, also `python -m vaswani_tx`: translate, score, inspect and publish models.

    cat test.en | vaswani-tx translate runs/first/averaged > test.out.de

`vaswani-tx --help` and `vaswani-tx VERB --help` are its manual. Exit status: 0 all is well, 1 it failed (disk,
memory of the device, network), 2 wrong usage or input, 130 Ctrl-C, 141 the reader of the output went away.
"""

import importlib
import os
import sys

from vaswani_tx import __version__
from vaswani_tx.cli.arguments import parse
from vaswani_tx.cli.common import CLOSED_PIPE, FAILURE, INTERRUPTED, OK, CliError, quiet_libraries, say


def main(argv: list[str] | None = None) -> int:
    """Carry out one command and return its exit status; what went wrong is one line on stderr."""
    options = parse(argv, __version__)
    try:
        with quiet_libraries():
            importlib.import_module(f"vaswani_tx.cli.{options.verb}").run(options)
        sys.stdout.flush()
        return OK
    except BrokenPipeError:
        _close_stdout()
        return CLOSED_PIPE
    except KeyboardInterrupt as error:
        _tell(f"interrupted{f': {error}' if str(error) else ''}")
        return INTERRUPTED
    except CliError as error:
        _tell(f"error: {error}")
        return error.status
    except OSError as error:
        _tell(f"error: {error}")
        return FAILURE


def _tell(message: str) -> None:
    """One line from one process, however many there are."""
    if os.environ.get("RANK", "0") == "0":
        say(f"vaswani-tx: {message}")


def _close_stdout() -> None:
    """What is still unwritten has no reader: without this the interpreter complains when it ends."""
    try:
        nowhere = os.open(os.devnull, os.O_WRONLY)
        os.dup2(nowhere, sys.stdout.fileno())
    except (OSError, ValueError, AttributeError):
        pass


if __name__ == "__main__":
    sys.exit(main())
