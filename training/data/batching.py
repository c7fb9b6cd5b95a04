"""Batches by token budget: examples of similar length together, the same plan in every process (section 5.1).

The plan of an epoch depends on the lengths, the budgets, the seed and the epoch's number alone. So a run resumes at any
batch from two numbers, epoch and position, and the number of processes only decides who computes which batch.

    sides (lengths and budgets) -> sort, equal lengths at random -> cut by budget -> shuffle the batches -> `shard`

B batch, S source length, T target length; all lengths count `</s>`.
"""

from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from vaswani_tx.training.errors import BatchError

if TYPE_CHECKING:
    from vaswani_tx.training.data.parallel import TokenizedPairs

IGNORED_LABEL = -100
GOOD_WASTE = 0.02  # below this share of padding no other order is tried


class PaddingWaste(NamedTuple):
    """Share of the batches' matrices that is padding, from 0 to 1: of each side, and of all together."""

    sides: tuple[float, ...]
    total: float


class Side(NamedTuple):
    """One side of every example, such as the sources of pairs, or the only one of plain text.

    Args:
        name: its name in messages: "source", or "" where there is only one.
        lengths: tokens of every example, [N].
        budget: how many a batch may hold of this side.
        budget_key: the recipe's key of that budget, for messages.
        limit_key: the recipe's key of the longest example, for messages.
    """

    name: str
    lengths: Sequence[int] | np.ndarray
    budget: int
    budget_key: str = "batch_tokens"
    limit_key: str = "row_length"


def pair_sides(
    source_lengths: Sequence[int] | np.ndarray,
    target_lengths: Sequence[int] | np.ndarray,
    max_source_tokens: int,
    max_target_tokens: int,
) -> list[Side]:
    """Return the two sides of parallel text with a budget each."""
    return [
        Side("source", source_lengths, max_source_tokens, "max_source_tokens", "max_source_length"),
        Side("target", target_lengths, max_target_tokens, "max_target_tokens", "max_target_length"),
    ]


class BatchPlan:
    """A plan that cuts examples into batches of at most so many tokens a side, in another order in every epoch.

    Args:
        sides: lengths and budgets, one side or two. Padding counts: B * S and B * T stay within their budgets.
        seed: with the epoch's number, decides the order of equal lengths and of the batches.
        count_padding: False lets the budgets count the examples' own tokens only, as the paper seems to; a batch's
            matrices may then be larger.
        pad_to_multiple_of: what `collate` will be given; rounded lengths then count.
        max_rows: upper bound of B, or None.
        locate: for messages, the place of the example of an index, such as `train.en line 17`.
        order: the order that another plan chose, `other.order`, instead of looking for the best one again.

    Raises:
        BatchError: an example longer than a budget (its place and length), none at all, lengths or numbers that
            are out of range.
    """

    def __init__(
        self,
        sides: Sequence[Side],
        seed: int = 0,
        *,
        count_padding: bool = True,
        pad_to_multiple_of: int = 1,
        max_rows: int | None = None,
        locate: Callable[[int], str] | None = None,
        order: tuple[int, int] | None = None,
    ):
        for name, value in (("pad_to_multiple_of", pad_to_multiple_of), ("max_rows", max_rows)):
            if value is not None and value < 1:
                raise BatchError(f"{name} is {value}: it must be at least 1.")
        own = [np.asarray(side.lengths, dtype=np.int64) for side in sides]
        if not own or any(side.ndim != 1 or side.shape != own[0].shape for side in own) or not len(own[0]):
            shapes = " and ".join(f"{side.name} lengths {array.shape}" for side, array in zip(sides, own, strict=True))
            raise BatchError(f"{shapes}: each must be a list, of equal length, with at least one example.")
        self.sides, self.seed, self.count_padding, self.max_rows = list(sides), seed, count_padding, max_rows
        self._own, self._rounded = own, [_round_up(side, pad_to_multiple_of) for side in own]
        self._check_budgets(locate or (lambda index: f"Example {index} (counted from 0)"))
        self.order = order or self._choose_order()

    def __len__(self) -> int:
        return len(self._own[0])

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """Return all batches of an epoch in order, each an array of indices; every example is in exactly one."""
        random = np.random.default_rng([self.seed, epoch])
        batches = self._cut(self._sorted(random, *self.order))
        return [batches[i] for i in random.permutation(len(batches))]

    def padding_waste(self, batches: Sequence[np.ndarray | None]) -> PaddingWaste:
        """Return what share of these batches' matrices is padding."""
        real, cells = np.zeros(len(self._own)), np.zeros(len(self._own))
        for batch in batches:
            if batch is not None and len(batch):
                real += [side[batch].sum() for side in self._own]
                cells += [len(batch) * side[batch].max() for side in self._rounded]
        if not cells.all():
            return PaddingWaste((0.0,) * len(self._own), 0.0)
        return PaddingWaste(tuple((1 - real / cells).tolist()), float(1 - real.sum() / cells.sum()))

    def _check_budgets(self, locate: Callable[[int], str]) -> None:
        for side, lengths in zip(self.sides, self._rounded, strict=True):
            tokens = f"{side.name} tokens".strip()
            if lengths.min() < 1:
                raise BatchError(f"{locate(int(lengths.argmin()))} has no {tokens}: drop it.")
            if lengths.max() > side.budget:
                i = int(lengths.argmax())
                raise BatchError(
                    f"{locate(i)} has {lengths[i]} {tokens}, more than {side.budget_key}={side.budget}, the budget of "
                    f"a whole batch. Raise the budget, or lower {side.limit_key} so that it is dropped or cut."
                )

    def _choose_order(self) -> tuple[int, int]:
        """Return which side to sort by first, and in what steps: what pads least in epoch 0, for all epochs.

        Sorting by single tokens first leaves few pairs for every length of a small corpus, so that the second length
        varies much within a batch. Coarser steps of the first length reduce that.
        """
        found = []
        for step in (1, 2, 3, 4, 6, 8, 12, 16):
            for first in reversed(range(len(self.sides))):
                random = np.random.default_rng([self.seed, 0])
                waste = self.padding_waste(self._cut(self._sorted(random, first, step))).total
                found.append((waste, step, first))
            if min(found)[0] < GOOD_WASTE or min(found)[1] < step // 2:
                break
        _, step, first = min(found)
        return first, step

    def _sorted(self, random: np.random.Generator, first: int, step: int) -> np.ndarray:
        """Return indices by the length of side `first`, then by that of the other one, then at random.

        The second length rises and falls in turn: where the first one grows by a `step`, the second one continues
        from where it was, and the batch across that point holds no mixture of short and long sentences.
        """
        major, minor = self._rounded[first], self._rounded[first - 1]
        width = int(minor.max()) + 1
        rank = np.unique(major // step, return_inverse=True)[1]
        key = rank * width + np.where(rank % 2 == 0, minor, width - 1 - minor)
        shuffled = random.permutation(len(key))
        return shuffled[np.argsort(key[shuffled], kind="stable")]

    def _cut(self, order: np.ndarray) -> list[np.ndarray]:
        """Return consecutive parts of `order`, each as long as the budgets allow."""
        sides = [(lengths[order], side.budget) for lengths, side in zip(self._rounded, self.sides, strict=True)]
        growth = np.maximum.accumulate if self.count_padding else np.cumsum
        batches, start, total = [], 0, len(order)
        while start < total:
            # No batch that starts here is longer than this: its widest example is at least as wide as its first one.
            most = min(budget // (lengths[start] if self.count_padding else 1) for lengths, budget in sides)
            stop = min(total, start + int(most), start + (self.max_rows or total))
            rows = np.arange(1, stop - start + 1) if self.count_padding else 1
            fits = np.all([growth(lengths[start:stop]) * rows <= budget for lengths, budget in sides], axis=0)
            # `fits` is true up to some row and false after it: count the rows.
            count = int(np.count_nonzero(fits))
            batches.append(order[start : start + count])
            start += count
        return batches


class WeightedPlan:
    """A plan that makes a `BatchPlan` for every epoch over the examples that the corpora's weights draw for it.

    A whole weight repeats each example so often. A fraction adds that part of the examples, drawn by seed and epoch:
    with 1/n, n epochs in a row (from epoch 0, n, 2n, ... on) hold each once, and the next n split them differently.

    Args:
        sides: lengths and budgets, as `BatchPlan`'s.
        bounds: the examples of corpus c are those from `bounds[c]` to before `bounds[c + 1]`.
        weights: one for each corpus.
        options: further arguments of `BatchPlan`.

    Raises:
        BatchError: as `BatchPlan`; another number of weights than of corpora.
    """

    def __init__(
        self, sides: Sequence[Side], bounds: Sequence[int], weights: Sequence[float], seed: int = 0, **options: Any
    ):
        self.seed, self.bounds, self._options = seed, list(bounds), options
        # The plan of all examples checks every length, and chooses the order that all epochs keep.
        self._all = BatchPlan(sides, seed, **options)
        # A decimal weight such as 0.1 is meant as the fraction, not as the float beside it.
        self.weights = [Fraction(str(weight)) for weight in weights]
        if len(self.weights) != len(self.bounds) - 1:
            raise BatchError(f"{len(self.weights)} weights for {len(self.bounds) - 1} corpora: give one for each.")

    @property
    def order(self) -> tuple[int, int]:
        """Return the order that all epochs have, as `BatchPlan`'s."""
        return self._all.order

    def __len__(self) -> int:
        """Return the examples of an epoch, repeated ones counted as often."""
        return sum(self.sizes())

    def sizes(self) -> list[int]:
        """Return how many examples an epoch takes of each corpus."""
        spans = zip(self.bounds, self.bounds[1:], self.weights, strict=False)
        return [int(weight) * (stop - start) + _part(stop - start, weight) for start, stop, weight in spans]

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """Return all batches of an epoch in order, each an array of indices, the same for the same seed and epoch."""
        drawn = self.drawn(epoch)
        sides = [
            side._replace(lengths=lengths[drawn]) for side, lengths in zip(self._all.sides, self._all._own, strict=True)
        ]
        plan = BatchPlan(sides, self.seed, **self._options | {"locate": None, "order": self.order})
        return [drawn[batch] for batch in plan.epoch(epoch)]

    def drawn(self, epoch: int) -> np.ndarray:
        """Return the indices of an epoch's examples in ascending order, repeated ones as often as they come."""
        chosen = []
        for number, (start, stop, weight) in enumerate(zip(self.bounds, self.bounds[1:], self.weights, strict=False)):
            chosen += [np.arange(start, stop)] * int(weight)
            part = _part(stop - start, weight)
            if part:
                turn, number_of_part = divmod(epoch, (stop - start) // part)
                order = np.random.default_rng([self.seed, number, turn]).permutation(stop - start)
                chosen.append(start + order[number_of_part * part : (number_of_part + 1) * part])
        return np.sort(np.concatenate(chosen))

    def padding_waste(self, batches: Sequence[np.ndarray | None]) -> PaddingWaste:
        """Return what share of these batches' matrices is padding."""
        return self._all.padding_waste(batches)


def make_plan(
    sides: Sequence[Side], bounds: Sequence[int], weights: Sequence[float], seed: int = 0, **options: Any
) -> BatchPlan | WeightedPlan:
    """Return the plan of corpora: a `BatchPlan` where every weight is 1, else a `WeightedPlan`."""
    if all(weight == 1 for weight in weights):
        return BatchPlan(sides, seed, **options)
    return WeightedPlan(sides, bounds, weights, seed, **options)


def _part(count: int, weight: Fraction) -> int:
    """Return how many of so many examples the fraction of a weight takes, at least one."""
    fraction = weight - int(weight)
    return max(1, round(fraction * count)) if fraction and count else 0


def _round_up(lengths: np.ndarray, multiple: int) -> np.ndarray:
    return -(-lengths // multiple) * multiple


def shard(
    batches: Sequence[np.ndarray], process_index: int, num_processes: int, accumulation: int = 1
) -> list[np.ndarray | None]:
    """Return the batches that one process computes, `accumulation` of them for every optimiser update.

    Updates take the plan in groups of `num_processes * accumulation`, whichever process computes them: 1 process x 4
    steps, 2 x 2 and 4 x 1 see the same batches in the same update. Every process gets equally many; where the last
    group of an epoch is short, the missing batches are None.
    """
    if accumulation < 1 or num_processes < 1 or not 0 <= process_index < num_processes:
        raise BatchError(
            f"process_index {process_index}, num_processes {num_processes}, accumulation {accumulation}: the last two "
            "must be at least 1, and the first from 0 to below num_processes."
        )
    group = num_processes * accumulation
    own = range(process_index, -(-len(batches) // group) * group, num_processes)
    return [batches[i] if i < len(batches) else None for i in own]


def collate_pairs(
    pairs: "TokenizedPairs", indices: np.ndarray, pad_token_id: int, pad_to_multiple_of: int = 1
) -> dict[str, torch.Tensor]:
    """Return the model's inputs for these pairs, padded on the right: int64 tensors.

    Returns:
        `input_ids` [B, S], `attention_mask` [B, S], `labels` [B, T] with -100 as padding.
    """
    source, mask = _matrix(pairs.source_flat, pairs.source_offsets, indices, pad_token_id, pad_to_multiple_of)
    labels, _ = _matrix(pairs.target_flat, pairs.target_offsets, indices, IGNORED_LABEL, pad_to_multiple_of)
    return {
        "input_ids": torch.from_numpy(source),
        "attention_mask": torch.from_numpy(mask.astype(np.int64)),
        "labels": torch.from_numpy(labels),
    }


def _matrix(
    flat: np.ndarray, offsets: np.ndarray, indices: np.ndarray, padding: int, multiple: int
) -> tuple[np.ndarray, np.ndarray]:
    """Return rows of a ragged array as a matrix, and where it holds their own tokens."""
    starts = offsets[indices]
    lengths = offsets[np.asarray(indices) + 1] - starts
    columns = np.arange(_round_up(lengths.max(), multiple))
    mask = columns < lengths[:, None]
    matrix = np.full(mask.shape, padding, dtype=np.int64)
    matrix[mask] = flat[(starts[:, None] + columns)[mask]]
    return matrix, mask
