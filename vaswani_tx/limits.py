"""Bounds of the numbers that a user gives, checked alike in flags, recipes and generation settings.

The upper bounds are far beyond every sensible use, and below what makes torch or the machine fail.
"""

import argparse
import math
import os
import reprlib
from dataclasses import dataclass
from typing import Any

from vaswani_tx.errors import NumberError

# Whole numbers fit into 32 bits, as torch and tokenizers need them in places.
LARGEST_WHOLE = 2**31 - 1
LARGEST_REAL = 1e12
# A search reserves memory for all beams and tokens at its start.
MOST_BEAMS = 1000
MOST_TOKENS = 2**17
# Threads beyond the cores only slow down; tens of thousands end the process without a message.
THREADS_PER_CORE, MOST_THREADS = 8, 256
# A value of a few lines of YAML may be larger than the memory when it is written out.
_REPR = reprlib.Repr()
_REPR.maxlevel, _REPR.maxstring, _REPR.maxother, _REPR.maxlong = 2, 60, 60, 60


@dataclass(frozen=True)
class Bounds:
    """The least and the greatest number that something may be.

    Args:
        whole: whether it must be a whole number.
        least, most: both allowed.
        fix: what to do instead, for the message.
    """

    least: float = -LARGEST_REAL
    most: float = LARGEST_REAL
    whole: bool = False
    fix: str = ""

    def check(self, value: Any) -> None:
        """Raise NumberError where a value is no number within the bounds."""
        what = "a whole number" if self.whole else "a number"
        if isinstance(value, bool) or not isinstance(value, int if self.whole else (int, float)):
            raise NumberError(f"must be {what}, not {shown(value)}")
        # Not isfinite, which overflows for the largest whole numbers.
        if value != value or value in (math.inf, -math.inf):
            raise NumberError(f"must be {what}, not {value}")
        if not self.least <= value <= self.most:
            if value < self.least:
                bound = f"at least {_number(self.least)}"
            else:
                bound = f"at most {_number(self.most)}"
            raise NumberError(f"must be {bound}, got {shown(value)}{self.fix}")

    def read(self, text: str) -> Any:
        """Return the number that a text holds; raise NumberError where it holds none within the bounds."""
        try:
            value = int(text) if self.whole else float(text)
        except ValueError:
            raise NumberError(f"must be {'a whole number' if self.whole else 'a number'}, not {shown(text)}") from None
        self.check(value)
        return value

    def __call__(self, text: str) -> Any:
        """Read the value of a flag: bounds are a `type` of argparse."""
        try:
            return self.read(text)
        except NumberError as error:
            raise argparse.ArgumentTypeError(str(error)) from None


def whole(least: int = 1, most: int = LARGEST_WHOLE, fix: str = "") -> Bounds:
    """Return the bounds of a whole number, by default of a count."""
    return Bounds(least, most, True, fix)


def real(least: float = -LARGEST_REAL, most: float = LARGEST_REAL, fix: str = "") -> Bounds:
    """Return the bounds of a number that need not be whole."""
    return Bounds(least, most, False, fix)


def thread_bounds() -> Bounds:
    """Return how many threads of the CPU may be asked for on this machine."""
    cores = os.cpu_count() or 1
    return whole(1, max(MOST_THREADS, THREADS_PER_CORE * cores), f": this machine has {cores} cores")


def shown(value: Any, length: int = 60) -> str:
    """Return a value for a message, on one line and not too long."""
    if isinstance(value, int) and abs(value) >= 10**length:
        return f"a number of more than {length} digits"
    text = " ".join(_REPR.repr(value).split())
    return text if len(text) <= length else f"{text[:length]}..."


def _number(value: float) -> str:
    return f"{value:,}" if isinstance(value, int) else f"{value:g}"


SEED = whole(0, 2**32 - 1)
BEAMS = whole(1, MOST_BEAMS)
TOKENS = whole(1, MOST_TOKENS)
# Tokens of a vocabulary; a trainer reserves memory for all at its start.
VOCABULARY = whole(1, 10_000_000)
# Each resample draws as many numbers as there are sentences.
RESAMPLES = whole(1, 100_000)
# An exponent of a length: beyond these, scores overflow.
LENGTH_PENALTY = real(-100, 100)
GNMT_ALPHA = real(0, 100)

# Numbers of a generation configuration, each of which may also be absent.
GENERATION: dict[str, Bounds] = {
    "num_beams": BEAMS,
    "num_return_sequences": BEAMS,
    "num_beam_groups": BEAMS,
    "max_length": TOKENS,
    "max_new_tokens": TOKENS,
    "max_extra_tokens": whole(0, MOST_TOKENS),
    "min_length": whole(0, MOST_TOKENS),
    "min_new_tokens": whole(0, MOST_TOKENS),
    "length_penalty": LENGTH_PENALTY,
    "gnmt_alpha": GNMT_ALPHA,
    "no_repeat_ngram_size": whole(0),
    "encoder_no_repeat_ngram_size": whole(0),
    "temperature": real(0),
    "top_k": whole(0),
    "top_p": real(0, 1),
    "min_p": real(0, 1),
    "typical_p": real(0, 1),
    "epsilon_cutoff": real(0, 1),
    "eta_cutoff": real(0),
    "repetition_penalty": real(0),
    "encoder_repetition_penalty": real(0),
    "diversity_penalty": real(),
    "guidance_scale": real(),
    "max_time": real(0),
}
