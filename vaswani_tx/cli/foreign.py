"""`vaswani-tx run`: another program as Python would run it, in a process that knows this package's models."""

import importlib
import os
import runpy
import sys
from importlib.util import find_spec
from pathlib import Path

from vaswani_tx.cli.common import CliError
from vaswani_tx.suggestions import did_you_mean


def run(words: list[str]) -> int:
    """Run `-m MODULE ARGS...` or `SCRIPT.py ARGS...` and return its exit status.

    Raises:
        CliError: there is no such module or file.
    """
    name = _checked(words)
    # This registers. Now rather than in that program: an error of ours must not look like one of its own.
    importlib.import_module("transformers")
    if words[0] == "-m":
        sys.argv = words[1:]  # the first becomes the module's file
        sys.path.insert(0, os.getcwd())
        runpy.run_module(name, run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(words)
        sys.path.insert(0, str(Path(name).resolve().parent))
        runpy.run_path(name, run_name="__main__")
    return 0


def _checked(words: list[str]) -> str:
    """Return the name of the module or file; raise CliError where Python would end with a traceback."""
    if words[:1] == ["-m"]:
        if len(words) == 1:
            raise CliError("vaswani-tx run -m needs the name of a module, such as lm_eval.")
        name = words[1]
        if not _is_runnable(name):
            hint = did_you_mean(name, {*sys.modules, *sys.stdlib_module_names}, cutoff=0.75)
            raise CliError(f"there is no module '{name}' that runs{hint or ': is its package installed?'}")
        return name
    if words[0].startswith("-"):
        raise CliError(f"vaswani-tx run: '{words[0]}' comes before the program: give -m MODULE or SCRIPT.py first.")
    if not Path(words[0]).is_file():
        hint = f"`vaswani-tx run -m {words[0]}` runs a module." if _is_runnable(words[0]) else "check its name."
        raise CliError(f"there is no file '{words[0]}': {hint}")
    return words[0]


def _is_runnable(name: str) -> bool:
    """Return whether `python -m NAME` would find something to run."""
    former = list(sys.path)
    sys.path.insert(0, os.getcwd())
    try:
        spec = find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = find_spec(f"{name}.__main__")
        return spec is not None
    except (ImportError, ValueError, AttributeError):
        return False
    finally:
        sys.path[:] = former
