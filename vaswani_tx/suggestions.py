"""Suggestions of the nearest known name for an unknown one, for error messages. Needs the standard library only."""

import difflib
from collections.abc import Iterable


def nearest_name(name: str, known: Iterable[str], cutoff: float = 0.6) -> str | None:
    """Return the known name that is most like `name`, None where none is like it.

    Args:
        cutoff: least likeness, from 0 (any name will do) to 1 (the same name only).
    """
    return next(iter(difflib.get_close_matches(name, sorted(known), n=1, cutoff=cutoff)), None)


def did_you_mean(name: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """Return ``": did you mean 'x'?"`` for the known name that is most like `name`, or an empty text."""
    found = nearest_name(name, known, cutoff)
    return f": did you mean {found!r}?" if found else ""
