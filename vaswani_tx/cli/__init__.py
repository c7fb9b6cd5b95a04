"""The command `vaswani-tx`, also `python -m vaswani_tx`: train, measure, use and publish models.

    vaswani-tx train translation --preset tiny --train-source a.en --train-target a.de ... --output-dir runs/first
    cat test.en | vaswani-tx translate runs/first/averaged > test.out.de

`vaswani-tx --help` and `vaswani-tx VERB --help` are its manual, and import neither torch nor transformers. Exit status:
0 all is well, 1 it failed (disk, memory, network, an internal error), 2 wrong usage or input, 130 Ctrl-C, 141 the
reader of the output went away. `--debug`, or VASWANI_TX_DEBUG=1, prints the traceback of an error.
"""

import importlib
import os
import sys

from vaswani_tx import __version__, light_imports
from vaswani_tx.cli import training
from vaswani_tx.cli.arguments import RUN_HELP, parse
from vaswani_tx.cli.common import (
    CLOSED_PIPE,
    FAILURE,
    INTERRUPTED,
    OK,
    USAGE,
    CliError,
    quiet_libraries,
)
from vaswani_tx.errors import CheckpointError, DeviceError, ExportError
from vaswani_tx.failures import (
    abandon_stdout,
    describe_unforeseen,
    print_status,
    print_traceback,
    take_debug_flag,
)
from vaswani_tx.text_files import use_utf8

# The verbs that compile, train and export nothing.
RUN_A_MODEL = ("translate", "score", "explain", "info")


def main(argv: list[str] | None = None) -> int:
    """Carry out one command and return its exit status; what went wrong is one line on stderr."""
    words = list(sys.argv[1:] if argv is None else argv)
    if argv is None:
        light_imports.allow()
    if words[:1] != ["run"]:  # the words after it are another program's
        words = take_debug_flag(words)
    use_utf8()
    try:
        status = _carry_out(words)
        sys.stdout.flush()
        return status
    except BrokenPipeError:
        abandon_stdout()
        return CLOSED_PIPE
    except KeyboardInterrupt as error:
        _print_once(f"interrupted{f': {error}' if str(error) else ''}")
        return INTERRUPTED
    except (CliError, CheckpointError, DeviceError, ExportError) as error:
        print_traceback()
        _print_once(f"error: {error}")
        return error.status if isinstance(error, CliError) else USAGE
    except OSError as error:
        print_traceback()
        _print_once(f"error: {error}")
        return FAILURE
    except Exception as error:
        print_traceback()
        _print_once(describe_unforeseen(error))
        return FAILURE


def _carry_out(words: list[str]) -> int:
    verb = words[0] if words else None
    if verb in training.COMMANDS:
        return training.run(words)
    if verb == "run":
        if len(words) == 1 or words[1] in training.HELP_FLAGS:
            print(RUN_HELP)
            return OK if words[1:] else USAGE
        return importlib.import_module("vaswani_tx.cli.foreign").run(words[1:])
    options = parse(words, __version__)
    if options.verb in RUN_A_MODEL and not getattr(options, "trust_remote_code", False):
        light_imports.import_transformers()
    with quiet_libraries():
        importlib.import_module(f"vaswani_tx.cli.{options.verb}").run(options)
    return OK


def _print_once(message: str) -> None:
    """Print one line from one process, however many there are."""
    if os.environ.get("RANK", "0") == "0":
        print_status(f"vaswani-tx: {message}")


if __name__ == "__main__":
    sys.exit(main())
