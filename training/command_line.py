"""What every command shares: its exit status, one line for an error, what it tells its user."""

import logging
import signal
import sys
from collections.abc import Callable
from typing import Any

from vaswani_tx.training.config.recipe import parse, usage
from vaswani_tx.training.errors import CheckpointError, Interrupted, TrainingError

logger = logging.getLogger(__name__)


def print_status(text: str) -> None:
    """Print one line for the user, on stderr."""
    print(text, file=sys.stderr, flush=True)


def command(argv: list[str] | None, settings_class: type, manual: str, run: Callable[[Any], Any]) -> int:
    """Run a training command and return its exit status.

    Args:
        argv: words of the command line; None: the process's own.
        settings_class: the dataclass of its keys.
        manual: what `--help` prints before the list of keys.
        run: trains as the settings say.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--help" in argv or "-h" in argv:
        print(f"{manual}\nKeys of a recipe, each of them a flag:\n{usage(settings_class)}")
        return 0
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for name in ("httpx", "datasets", "absl", "accelerate"):
        logging.getLogger(name).setLevel(logging.WARNING)
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        run(parse(argv, settings_class))
    except Interrupted as stop:
        name = signal.Signals(stop.signum).name
        print_status(f"stopped by {name}; saved as {stop.saved}; the same command resumes from there.")
        return 128 + stop.signum
    except KeyboardInterrupt:
        print_status("stopped by SIGINT; the same command resumes from the last checkpoint.")
        return 130
    except (ValueError, OSError) as error:
        logger.debug("where the error came from", exc_info=True)
        print_status(f"error: {error}")
        return 1 if isinstance(error, (CheckpointError, TrainingError, OSError)) else 2
    return 0
