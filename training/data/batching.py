"""Batches by token budget: pairs of similar length together, the same plan in every process (the paper's section 5.1).

The plan of an epoch depends on the lengths, the budgets, the seed and the epoch's number alone. So a run resumes at any
batch from two numbers, epoch and position, and the number of processes only decides who computes which batch.

    lengths -> sort, equal lengths in random order -> cut by budget -> shuffle the batches -> `shard` -> `collate`

B batch, S source length, T target length; all lengths count `</s>`.
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch

from vaswani_tx.training.errors import BatchError

if TYPE_CHECKING:
    from vaswani_tx.training.data.parallel import TokenizedPairs

IGNORED_LABEL = -100
GOOD_WASTE = 0.02  # below this share of padding no other order is tried


class PaddingWaste(NamedTuple):
    """Share of the batches' matrices that is padding, from 0 to 1: of the sources, the targets, and both together."""

    source: float
    target: float
    total: float


class BatchPlan:
    """Cuts pairs into batches of at most so many source and so many target tokens, anew for every epoch.

    Args:
        source_lengths, target_lengths: tokens of every pair, [N].
        max_source_tokens, max_target_tokens: a batch's budgets. Padding counts: B * S and B * T stay within them.
        seed: with the epoch's number, decides the order of equal lengths and of the batches.
        count_padding: False lets the budgets count the sentences' own tokens only, as the paper seems to; a batch's
            matrices may then be larger.
        pad_to_multiple_of: what `collate` will be given; rounded lengths then count.
        max_pairs: upper bound of B, or None.
        lines: for messages, the line of every pair, or its place as a string, or a function from index to that.

    Raises:
        BatchError: a pair longer than a budget (its line and length), no pairs, lengths or numbers that make no sense.
    """

    def __init__(
        self,
        source_lengths: Sequence[int] | np.ndarray,
        target_lengths: Sequence[int] | np.ndarray,
        max_source_tokens: int,
        max_target_tokens: int,
        seed: int = 0,
        *,
        count_padding: bool = True,
        pad_to_multiple_of: int = 1,
        max_pairs: int | None = None,
        lines: Sequence[int | str] | Callable[[int], int | str] | None = None,
    ):
        for name, value in (("pad_to_multiple_of", pad_to_multiple_of), ("max_pairs", max_pairs)):
            if value is not None and value < 1:
                raise BatchError(f"{name} is {value}: it must be at least 1.")
        lengths = [np.asarray(side, dtype=np.int64) for side in (source_lengths, target_lengths)]
        if lengths[0].ndim != 1 or lengths[0].shape != lengths[1].shape or not len(lengths[0]):
            raise BatchError(
                f"Source lengths {lengths[0].shape} and target lengths {lengths[1].shape} must be two lists of equal "
                "length with at least one pair."
            )
        self.source_lengths, self.target_lengths = (_round_up(side, pad_to_multiple_of) for side in lengths)
        self._own_lengths = lengths
        self.max_source_tokens, self.max_target_tokens, self.seed = max_source_tokens, max_target_tokens, seed
        self.count_padding, self.max_pairs = count_padding, max_pairs
        self._check_budgets(lines)
        self._order = self._choose_order()

    @classmethod
    def of_pairs(cls, pairs: "TokenizedPairs", max_source_tokens: int, max_target_tokens: int, **options: Any):
        """The plan of tokenised pairs, with their files and lines in messages."""
        return cls(
            pairs.source_lengths,
            pairs.target_lengths,
            max_source_tokens,
            max_target_tokens,
            lines=pairs.where,
            **options,
        )

    def __len__(self) -> int:
        return len(self.source_lengths)

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """All batches of an epoch in order, each an array of indices; every pair stands in exactly one."""
        random = np.random.default_rng([self.seed, epoch])
        batches = self._cut(self._sorted(random, *self._order))
        return [batches[i] for i in random.permutation(len(batches))]

    def padding_waste(self, batches: Sequence[np.ndarray | None]) -> PaddingWaste:
        """What part of these batches' matrices is padding."""
        own, padded = np.zeros(2), np.zeros(2)
        for batch in batches:
            if batch is None or not len(batch):
                continue
            rounded = (self.source_lengths, self.target_lengths)
            own += [side[batch].sum() for side in self._own_lengths]
            padded += [len(batch) * side[batch].max() for side in rounded]
        if not padded.all():
            return PaddingWaste(0.0, 0.0, 0.0)
        shares = 1 - own / padded
        return PaddingWaste(float(shares[0]), float(shares[1]), float(1 - own.sum() / padded.sum()))

    def _check_budgets(self, lines: Any) -> None:
        for side, lengths, budget in (
            ("source", self.source_lengths, self.max_source_tokens),
            ("target", self.target_lengths, self.max_target_tokens),
        ):
            if lengths.min() < 1:
                raise BatchError(f"{_place(lines, int(lengths.argmin()))} has no {side} tokens: drop the pair.")
            if lengths.max() > budget:
                i = int(lengths.argmax())
                raise BatchError(
                    f"{_place(lines, i)} has {lengths[i]} {side} tokens, more than max_{side}_tokens={budget}, the "
                    f"budget of a whole batch. Raise the budget, or lower max_{side}_length so that it is dropped."
                )

    def _choose_order(self) -> tuple[bool, int]:
        """Which length to sort by first, and in what steps: that with the least padding; equal in all epochs.

        Sorting by single tokens first leaves few pairs for every length of a small corpus, so that the second length
        jumps about within a batch. Coarser steps of the first length even that out.
        """
        found = []
        for step in (1, 2, 3, 4, 6, 8, 12, 16):
            for target_first in (True, False):
                random = np.random.default_rng([self.seed, 0])
                waste = self.padding_waste(self._cut(self._sorted(random, target_first, step))).total
                found.append((waste, step, target_first))
            if min(found)[0] < GOOD_WASTE or min(found)[1] < step // 2:
                break
        _, step, target_first = min(found)
        return target_first, step

    def _sorted(self, random: np.random.Generator, target_first: bool, step: int) -> np.ndarray:
        """Indices by one length, then the other, then at random.

        The second length runs up and down by turns: where the first one grows by a `step`, the second one goes on from
        where it was, and the batch across that place holds no mixture of short and long sentences.
        """
        sides = (self.target_lengths, self.source_lengths)
        major, minor = sides if target_first else sides[::-1]
        width = int(minor.max()) + 1
        rank = np.unique(major // step, return_inverse=True)[1]
        key = rank * width + np.where(rank % 2 == 0, minor, width - 1 - minor)
        shuffled = random.permutation(len(key))
        return shuffled[np.argsort(key[shuffled], kind="stable")]

    def _cut(self, order: np.ndarray) -> list[np.ndarray]:
        """Consecutive pieces of `order`, each as long as the budgets allow."""
        source, target = self.source_lengths[order], self.target_lengths[order]
        growth = np.maximum.accumulate if self.count_padding else np.cumsum
        batches, start, total = [], 0, len(order)
        while start < total:
            # No batch that starts here is longer than this: its widest pair is at least as wide as its first one.
            most = min(self.max_source_tokens // source[start], self.max_target_tokens // target[start])
            if not self.count_padding:
                most = min(self.max_source_tokens, self.max_target_tokens)
            stop = min(total, start + int(most), start + (self.max_pairs or total))
            rows = np.arange(1, stop - start + 1) if self.count_padding else 1
            fits = growth(source[start:stop]) * rows <= self.max_source_tokens
            fits &= growth(target[start:stop]) * rows <= self.max_target_tokens
            # `fits` is true up to some place and false from there: count it.
            count = int(np.count_nonzero(fits))
            batches.append(order[start : start + count])
            start += count
        return batches


def _round_up(lengths: np.ndarray, multiple: int) -> np.ndarray:
    return -(-lengths // multiple) * multiple


def _place(lines: Any, index: int) -> str:
    if lines is None:
        return f"Pair {index} (counted from 0)"
    place = lines(index) if callable(lines) else lines[index]
    return place if isinstance(place, str) else f"Line {place}"


def shard(
    batches: Sequence[np.ndarray], process_index: int, num_processes: int, accumulation: int = 1
) -> list[np.ndarray | None]:
    """The batches that one process computes, `accumulation` of them for every optimiser update.

    Updates take the plan in groups of `num_processes * accumulation`, whoever computes them: 1 process x 4 steps, 2 x 2
    and 4 x 1 see the same batches in the same update. Every process gets equally many; where the last group of an
    epoch is short, the missing places are None.
    """
    if accumulation < 1 or num_processes < 1 or not 0 <= process_index < num_processes:
        raise BatchError(
            f"process_index {process_index}, num_processes {num_processes}, accumulation {accumulation}: the last two "
            "must be at least 1, and the first from 0 to below num_processes."
        )
    group = num_processes * accumulation
    places = range(process_index, -(-len(batches) // group) * group, num_processes)
    return [batches[i] if i < len(batches) else None for i in places]


def collate(
    pairs: "TokenizedPairs", indices: np.ndarray, pad_token_id: int, pad_to_multiple_of: int = 1
) -> dict[str, torch.Tensor]:
    """The model's inputs for these pairs, padded on the right: int64 tensors.

    Returns: `input_ids` [B, S], `attention_mask` [B, S], `labels` [B, T] with -100 as padding.
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
    """Rows of a ragged array as a matrix, and where it holds their own tokens."""
    starts = offsets[indices]
    lengths = offsets[np.asarray(indices) + 1] - starts
    columns = np.arange(_round_up(lengths.max(), multiple))
    mask = columns < lengths[:, None]
    matrix = np.full(mask.shape, padding, dtype=np.int64)
    matrix[mask] = flat[(starts[:, None] + columns)[mask]]
    return matrix, mask
