"""Few combinations of options that still show every interplay of two (all-pairs testing)."""

from collections.abc import Mapping, Sequence
from itertools import combinations
from typing import Any


def pairwise(factors: Mapping[str, Sequence[Any]]) -> list[dict[str, Any]]:
    """Return combinations in which every two values of two different factors meet at least once.

    Greedy, as in the AETG algorithm: each combination begins with a pair that is missing, and every other factor takes
    the value that completes most missing pairs, of equal ones the least used. Deterministic.
    """
    names = list(factors)
    missing = {
        frozenset([(one, i), (other, j)])
        for one, other in combinations(names, 2)
        for i in range(len(factors[one]))
        for j in range(len(factors[other]))
    }
    used = {(name, i): 0 for name in names for i in range(len(factors[name]))}
    rows: list[dict[str, int]] = []
    while missing:
        row = dict(min(missing, key=lambda pair: (sum(used[entry] for entry in pair), sorted(pair))))
        for name in sorted(set(names) - set(row), key=lambda name: (-len(factors[name]), names.index(name))):
            row[name] = max(
                range(len(factors[name])),
                key=lambda i: (
                    sum(frozenset([(name, i), entry]) in missing for entry in row.items()), -used[name, i], -i,
                ),
            )  # fmt: skip
        missing -= {frozenset(pair) for pair in combinations(row.items(), 2)}
        for entry in row.items():
            used[entry] += 1
        rows.append(row)
    return [{name: factors[name][row[name]] for name in names} for row in rows]
