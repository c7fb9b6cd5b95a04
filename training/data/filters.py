"""Filters of training pairs, with a count of each reason for leaving one out.

    text -> copies, duplicates -> tokens -> too short, length ratio, too long -> kept

A pair is counted under the first reason that applies, so that all counts add up to the pairs read. Test and validation
data are never filtered.
"""

import logging
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from hashlib import blake2b
from typing import Any

import numpy as np

from vaswani_tx.training.errors import DataError

logger = logging.getLogger(__name__)

NO_LIMIT = np.iinfo(np.int64).max
_REASONS = {
    "empty": "with an empty side",
    "copies": "with equal sides",
    "duplicates": "that occurred before",
    "too_short": "under {min_length} tokens",
    "ratio": "with one side over {max_length_ratio} times as long as the other",
    "too_long": "over the limits of {max_source_length} source and {max_target_length} target tokens",
}
_FIXES = {
    "empty": "Check that the right files and fields were given.",
    "copies": "Check that source and target are different files or fields, or set drop_copies to false.",
    "duplicates": "Set drop_duplicates to false.",
    "too_short": "Lower min_length.",
    "ratio": "Raise max_length_ratio, and check that the lines of the two sides belong together.",
    "too_long": "Raise max_source_length and max_target_length, or set too_long to 'truncate'.",
}


@dataclass
class FilterCounts:
    """How many pairs were read, left out for which reason, cut (`truncated`, still kept), and kept."""

    read: int = 0
    empty: int = 0
    copies: int = 0
    duplicates: int = 0
    too_short: int = 0
    ratio: int = 0
    too_long: int = 0
    truncated: int = 0
    kept: int = 0
    empty_places: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, int]:
        """Return the numbers, for a JSON file."""
        return {name: value for name, value in asdict(self).items() if isinstance(value, int)}

    @property
    def dropped(self) -> int:
        return sum(getattr(self, reason) for reason in _REASONS)

    def add(self, other: "FilterCounts") -> None:
        """Add another's numbers to these."""
        for name, value in other.to_dict().items():
            setattr(self, name, getattr(self, name) + value)
        self.empty_places = self.empty_places or list(other.empty_places)

    def move_to(self, other: "FilterCounts") -> None:
        """Add these numbers to another's and begin again at zero."""
        other.add(self)
        for name in self.to_dict():
            setattr(self, name, 0)
        self.empty_places = []


@dataclass(frozen=True)
class PairFilter:
    """The rules for training pairs, as the recipe's keys of the same names give them; lengths in tokens.

    `max_source_length` and `max_target_length` count `</s>` and tags, `min_length` and `max_length_ratio` do not: they
    are about the text. None is no limit.

    Raises:
        DataError: a value that is not allowed.
    """

    max_source_length: int | None = None
    max_target_length: int | None = None
    too_long: str = "drop"
    min_length: int = 1
    max_length_ratio: float | None = None
    drop_duplicates: bool = False
    drop_copies: bool = False

    def __post_init__(self):
        if self.too_long not in ("drop", "error", "truncate"):
            raise DataError(f"too_long={self.too_long!r}: choose 'drop', 'error' or 'truncate'.")
        if min(self.limits) < 2:
            raise DataError("A length limit is below 2, the length of the shortest sentence with `</s>`. Raise it.")
        if self.min_length < 1:
            raise DataError(f"min_length={self.min_length}: it must be at least 1.")
        if self.max_length_ratio is not None and not self.max_length_ratio >= 1:
            raise DataError(f"max_length_ratio={self.max_length_ratio}: it must be at least 1.")

    @classmethod
    def from_settings(cls, settings: Any) -> "PairFilter":
        """Return the rules of a recipe."""
        return cls(**{name: getattr(settings, name) for name in cls.__dataclass_fields__})

    def to_dict(self) -> dict[str, Any]:
        """Return the settings, for a JSON file or a hash."""
        return asdict(self)

    @property
    def limits(self) -> tuple[int, int]:
        sides = (self.max_source_length, self.max_target_length)
        return tuple(NO_LIMIT if limit is None else limit for limit in sides)

    def by_text(
        self,
        source: Sequence[str],
        target: Sequence[str],
        seen: "SeenPairs | None",
        counts: FilterCounts,
        tag: str = "",
    ) -> np.ndarray:
        """Return which of these pairs pass the rules on text, [N] of bool; with another `tag` a pair is another one."""
        keep = np.ones(len(source), dtype=bool)
        if self.drop_copies:
            keep = np.fromiter((a != b for a, b in zip(source, target, strict=True)), dtype=bool, count=len(source))
            counts.copies += int(np.count_nonzero(~keep))
        if self.drop_duplicates and keep.any():
            chosen = np.flatnonzero(keep)
            new = seen.add([f"{tag} {source[i]}" if tag else source[i] for i in chosen], [target[i] for i in chosen])
            counts.duplicates += int(np.count_nonzero(~new))
            keep[chosen[~new]] = False
        return keep

    def by_length(
        self, source: np.ndarray, target: np.ndarray, special: tuple[int, int], counts: FilterCounts
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return which of these pairs pass by their lengths [N], and which are over a limit and kept: both [N] of bool.

        `special`: how many tokens of each side, such as `</s>`, are not text.
        """
        own = (source - special[0], target - special[1])
        keep = np.minimum(*own) >= self.min_length
        counts.too_short += int(np.count_nonzero(~keep))
        if self.max_length_ratio is not None:
            uneven = keep & (np.maximum(*own) > self.max_length_ratio * np.minimum(*own))
            counts.ratio += int(np.count_nonzero(uneven))
            keep &= ~uneven
        over = keep & ((source > self.limits[0]) | (target > self.limits[1]))
        if self.too_long == "drop":
            counts.too_long += int(np.count_nonzero(over))
            return keep & ~over, np.zeros_like(over)
        if self.too_long == "truncate":
            counts.truncated += int(np.count_nonzero(over))
        return keep, over

    def describe(self, counts: FilterCounts) -> str:
        """Return one line on what was left out for which reason, and what is left."""
        reasons = [f"{value:,} {self._reason(name)}" for name in _REASONS if (value := getattr(counts, name))]
        line = f"Dropped {counts.dropped:,} of {counts.read:,} pairs ({'; '.join(reasons)})."
        if not counts.dropped:
            line = f"No pair of {counts.read:,} was dropped."
        if counts.empty_places:
            line += f" Empty are for example {', '.join(counts.empty_places)}."
        if counts.truncated:
            line += f" Truncated {counts.truncated:,} of {counts.read:,} pairs {self._reason('too_long')}."
        return f"{line} {counts.kept:,} are left."

    def report(self, counts: FilterCounts, what: str = "", quiet: bool = False) -> None:
        """Log `describe`, as a warning where pairs were dropped; `quiet` is for all processes but the main one."""
        level = logging.WARNING if counts.dropped or counts.truncated else logging.INFO
        logger.log(logging.DEBUG if quiet else level, "%s%s", what, self.describe(counts))

    def nothing_left(self, counts: FilterCounts, where: str = "the training data") -> DataError:
        """Return the error for data of which no pair is left; it names the filter that took most."""
        if not counts.read:
            return DataError(f"{where} holds no pairs: nothing is left to train on.")
        most = max(_REASONS, key=lambda reason: getattr(counts, reason))
        return DataError(
            f"All {counts.read:,} pairs of {where} were dropped, nothing is left to train on. Most, "
            f"{getattr(counts, most):,}, were pairs {self._reason(most)}. {_FIXES[most]}"
        )

    def _reason(self, name: str) -> str:
        return _REASONS[name].format(**asdict(self))


class SeenPairs:
    """A set of pairs of texts, each kept as a 128-bit hash, 32 to 64 bytes of memory for every pair in it.

    A table with open addressing in one array: Python's own set takes several times as much, too much for the tens of
    millions of pairs of WMT English-French.
    """

    def __init__(self, capacity: int = 1 << 16):
        self._table = np.zeros((capacity, 2), dtype=np.uint64)  # a row of zeros is free
        self._count = 0

    def __len__(self) -> int:
        return self._count

    def add(self, source: Sequence[str], target: Sequence[str]) -> np.ndarray:
        """Add pairs and return which of them are new, [N] of bool; of equal ones the first is new."""
        digests = b"".join(map(_digest, source, target))
        keys = np.frombuffer(digests, dtype=np.uint64).reshape(-1, 2)
        keys = np.stack([keys[:, 0], keys[:, 1] | np.uint64(1)], axis=1)  # never a row of zeros
        while 2 * (self._count + len(keys)) > len(self._table):
            self._grow()
        unique, first = np.unique(keys, axis=0, return_index=True)
        new = np.zeros(len(keys), dtype=bool)
        new[first[self._insert(unique)]] = True
        self._count += int(np.count_nonzero(new))
        return new

    def _insert(self, keys: np.ndarray) -> np.ndarray:
        """Add different keys and return which are new: all at once, each probing on where its slot is taken."""
        mask = np.uint64(len(self._table) - 1)
        new = np.zeros(len(keys), dtype=bool)
        left = np.arange(len(keys))
        places = keys[:, 0] & mask
        while len(left):
            free = ~self._table[places].any(axis=1)
            known = (self._table[places] == keys[left]).all(axis=1)
            self._table[places[free]] = keys[left[free]]
            # Of several keys at one free slot the last one has it now; the others probe on.
            won = free & (self._table[places] == keys[left]).all(axis=1)
            new[left[won]] = True
            probing = ~known & ~won
            left, places = left[probing], (places[probing] + np.uint64(1)) & mask
        return new

    def _grow(self) -> None:
        former = self._table[self._table.any(axis=1)]
        self._table = np.zeros((2 * len(self._table), 2), dtype=np.uint64)
        self._insert(former)


def _digest(source: str, target: str) -> bytes:
    text = source.encode()
    # The length in front keeps ("a", "bc") and ("ab", "c") apart, whatever characters they are made of.
    return blake2b(b"%d:%b%b" % (len(text), text, target.encode()), digest_size=16).digest()
