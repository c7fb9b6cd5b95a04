"""What is measured: sizes of models, lengths of sentences, batches, and the standard set of works.

All of it follows from the fields of a work, so every process makes the same batches by itself.

Shapes: B batch, S source length, T target length; lengths count `</s>`.
"""

import hashlib
import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from vaswani_tx.training.data.batching import BatchPlan, pair_sides

PAD, START, END, FIRST_WORD = 0, 1, 2, 3
IGNORED = -100
# Logarithms of the source's length are normal (mean, deviation), those of target / source as well; then bounds.
# Multi30k: fitted to 5,000 pairs of its training data in 10,000 joint pieces. WMT: newstest's usual 25 words, about 28
# pieces of 37,000, with its long tail.
LENGTHS = {
    "multi30k": ((2.65, 0.29), (0.03, 0.17), (4, 60)),
    "wmt": ((3.20, 0.55), (0.03, 0.20), (4, 120)),
}
WORDS = re.compile(r"\w+|[^\w\s]")
# From how many pairs batches are cut: so many batches are made for each one that is used.
POOL = 12


@dataclass(frozen=True)
class Size:
    """The size of a model: widths, heads, layers of either stack."""

    d_model: int
    d_ff: int
    num_heads: int
    layers: int


SIZES = {"base": Size(512, 2048, 8, 6), "tiny": Size(128, 256, 4, 4), "minute": Size(16, 32, 2, 1)}


@dataclass(frozen=True)
class TrainingWork:
    """One comparison of training: a model, batches, a loss.

    Args:
        name: its key in the results.
        size: one of `SIZES`.
        vocab_size: V, shared by source, target and projection.
        lengths: one of `LENGTHS`, "fill:SHARE" (rectangles of which that share is no padding) or "files:A:B".
        batching: "bucketed" by length or "random"; both cut by `tokens`.
        tokens: the most source and the most target tokens of a batch, with padding.
        batches: batches of a round.
        contenders: names, the first is what the ratios are to.
        rounds: how often each has its turn.
        practice: sentences of a batch of the contender `hf-practice`; 0: it has the batches of all.
    """

    name: str
    size: str = "tiny"
    vocab_size: int = 8000
    lengths: str = "multi30k"
    batching: str = "bucketed"
    tokens: int = 1500
    batches: int = 1
    contenders: tuple[str, ...] = ("marian", "ours")
    rounds: int = 3
    label_smoothing: float = 0.1
    dropout: float = 0.1
    practice: int = 0
    seed: int = 1

    kind = "training"

    def describe(self) -> str:
        """Return a line for the table."""
        about = f"{self.size}, V = {self.vocab_size:,}, {describe_lengths(self.lengths)}"
        if self.practice:
            return f"{about}, the same sentences in each contender's own batches (up to {self.tokens:,} tokens)"
        return f"{about}, {self.batching} batches of {self.tokens:,} tokens"


@dataclass(frozen=True)
class DecodingWork:
    """One comparison of translation with random weights: every target has the same number of tokens.

    Args:
        batch: sentences of a call.
        sentences: sentences of a round.
        beams: 1 is greedy.
        new_tokens: length of every target.
        (the others as in `TrainingWork`)
    """

    name: str
    size: str = "base"
    vocab_size: int = 37000
    lengths: str = "wmt"
    batch: int = 1
    sentences: int = 4
    beams: int = 1
    new_tokens: int = 30
    contenders: tuple[str, ...] = ("marian", "ours")
    rounds: int = 5
    seed: int = 1

    kind = "decoding"

    def describe(self) -> str:
        """Return a line for the table."""
        search = "greedy" if self.beams == 1 else f"beam {self.beams}"
        return (
            f"{self.size}, V = {self.vocab_size:,}, {describe_lengths(self.lengths)} sources, "
            f"{self.new_tokens} new tokens, batch {self.batch}, {search}"
        )


@dataclass(frozen=True)
class CorpusWork:
    """One comparison of translation of a text with a trained model, tokenisation included.

    Args:
        model: folder of a model of ours with its tokenizer.
        source: a text, one sentence a line.
        batch: sentences of a call; they are sorted by length.
        lines: how many of the text; 0: all.
        longest: most tokens of a translation.
    """

    name: str
    model: str
    source: str
    batch: int = 32
    beams: int = 4
    lines: int = 0
    longest: int = 80
    contenders: tuple[str, ...] = ("marian", "ours")
    rounds: int = 3

    kind = "corpus"

    def describe(self) -> str:
        """Return a line for the table."""
        search = "greedy" if self.beams == 1 else f"beam {self.beams}"
        return f"trained model, {self.lines:,} lines of text, batch {self.batch}, {search}, tokenisation included"


Work = TrainingWork | DecodingWork | CorpusWork
KINDS: dict[str, type[Work]] = {one.kind: one for one in (TrainingWork, DecodingWork, CorpusWork)}


def work_from(fields: dict[str, Any]) -> Work:
    """Return the work that `as_fields` wrote."""
    fields = dict(fields)
    return KINDS[fields.pop("kind")](**{**fields, "contenders": tuple(fields["contenders"])})


def as_fields(work: Work) -> dict[str, Any]:
    """Return a work as what JSON holds."""
    return {"kind": work.kind, **work.__dict__}


def describe_lengths(lengths: str) -> str:
    """Return the words of a table for one kind of lengths."""
    if lengths.startswith("fill:"):
        return f"fill {float(lengths[5:]):.2f}"
    return {"multi30k": "Multi30k-like", "wmt": "WMT-like"}.get(lengths, "lengths of files")


def sentence_lengths(lengths: str, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return source and target lengths of `count` pairs.

    Raises:
        ValueError: there is no such kind of lengths, or a file cannot be used.
    """
    if lengths.startswith("files:"):
        return _lengths_of_files(lengths, count, random)
    if lengths not in LENGTHS:
        raise ValueError(f"lengths are {lengths!r}: known are {', '.join(LENGTHS)}, fill:SHARE and files:A:B.")
    (mean, deviation), (shift, spread), bounds = LENGTHS[lengths]
    logarithms = random.normal(mean, deviation, count)
    others = logarithms + random.normal(shift, spread, count)
    source, target = (np.rint(np.exp(one)).astype(int).clip(*bounds) for one in (logarithms, others))
    return source, target


def _lengths_of_files(lengths: str, count: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    paths = lengths.split(":")[1:]
    if len(paths) != 2:
        raise ValueError(f"lengths are {lengths!r}: give two files of lines that belong together, files:A:B.")
    sides = [Path(path).read_text(encoding="utf-8").splitlines() for path in paths]
    if len(sides[0]) != len(sides[1]) or not sides[0]:
        raise ValueError(f"{paths[0]} has {len(sides[0])} lines and {paths[1]} has {len(sides[1])}: they must agree.")
    chosen = random.choice(len(sides[0]), count, replace=count > len(sides[0]))
    source, target = ([len(WORDS.findall(side[i])) + 1 for i in chosen] for side in sides)
    return np.array(source), np.array(target)


def training_lengths(work: TrainingWork) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return source and target lengths of each batch of a round."""
    random = np.random.default_rng(work.seed)
    if work.lengths.startswith("fill:"):
        return [_filled(work, random) for _ in range(work.batches)]
    typical = 30 if work.lengths == "wmt" else 15
    pool = max(work.tokens * work.batches * POOL // typical, 64)
    source, target = sentence_lengths(work.lengths, pool, random)
    keep = np.maximum(source, target) <= work.tokens
    source, target = source[keep], target[keep]
    if work.batching == "random":
        batches = _cut(source, target, work.tokens)[: work.batches]
    else:
        plan = BatchPlan(pair_sides(source, target, work.tokens, work.tokens), work.seed).epoch(0)
        plan = sorted(plan, key=lambda batch: (target[batch].max(), source[batch].max()))
        # Evenly spread over short and long sentences, the one in the middle first of all.
        batches = [plan[int((i + 0.5) * len(plan) / work.batches)] for i in range(work.batches)]
    return [(source[batch], target[batch]) for batch in batches]


def practice_lengths(work: TrainingWork) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return the lengths of a round's sentences in random batches of a fixed number of sentences."""
    batches = training_lengths(work)
    source, target = (np.concatenate([batch[side] for batch in batches]) for side in (0, 1))
    order = np.random.default_rng(work.seed).permutation(len(source))
    starts = range(0, len(order), work.practice)
    return [(source[order[i : i + work.practice]], target[order[i : i + work.practice]]) for i in starts]


def _cut(source: np.ndarray, target: np.ndarray, tokens: int) -> list[np.ndarray]:
    """Return indices of batches in the given order of pairs, each within the budget with its padding."""
    batches, first = [], 0
    for end in range(1, len(source) + 1):
        widest = max(source[first : end + 1].max(), target[first : end + 1].max())
        if end == len(source) or widest * (end + 1 - first) > tokens:
            batches.append(np.arange(first, end))
            first = end
    return batches


def _filled(work: TrainingWork, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Return the lengths of a rectangle of `tokens` tokens, 32 wide, of which a share is no padding."""
    share, width = float(work.lengths[5:]), 32
    if not 0 < share <= 1:
        raise ValueError(f"lengths are {work.lengths!r}: the share must be above 0 and at most 1.")
    rows = max(work.tokens // width, 1)
    sides = []
    for _ in range(2):
        low, high = (2 * share - 1, 1.0) if share >= 0.5 else (0.0, 2 * share)
        side = np.rint(random.uniform(low, high, rows) * width).astype(int).clip(2, width)
        side[0] = width
        sides.append(side)
    return sides[0], sides[1]


def make_batch(lengths: tuple[np.ndarray, np.ndarray], vocab_size: int, seed: int) -> dict[str, torch.Tensor]:
    """Return a batch of random words: input_ids and attention_mask [B, S], labels and decoder_input_ids [B, T]."""
    random = np.random.default_rng(seed)
    sides = []
    for side, padding in zip(lengths, (PAD, IGNORED), strict=True):
        rows = np.full((len(side), side.max()), padding)
        for row, length in zip(rows, side, strict=True):
            row[: length - 1] = random.integers(FIRST_WORD, vocab_size, length - 1)
            row[length - 1] = END
        sides.append(torch.from_numpy(rows))
    source, labels = sides
    shifted = torch.cat((torch.full_like(labels[:, :1], START), labels[:, :-1]), dim=1)
    return {
        "input_ids": source,
        "attention_mask": (source != PAD).long(),
        "labels": labels,
        "decoder_input_ids": shifted.masked_fill(shifted == IGNORED, PAD),
    }


def training_batches(work: TrainingWork, own_practice: bool = False) -> list[dict[str, torch.Tensor]]:
    """Return the batches of a round; with `own_practice` those of the contender `hf-practice`."""
    lengths = practice_lengths(work) if own_practice and work.practice else training_lengths(work)
    return [make_batch(one, work.vocab_size, work.seed + number) for number, one in enumerate(lengths)]


def check_batch(work: TrainingWork) -> dict[str, torch.Tensor]:
    """Return a small batch, padded on both sides, on which outputs are compared."""
    small = replace(work, batching="random", batches=1, practice=0, tokens=max(min(work.tokens, 400), 130))
    if work.lengths.startswith("fill:"):
        small = replace(small, lengths="multi30k")
    return make_batch(training_lengths(small)[0], work.vocab_size, work.seed + 1000)


def decoding_batches(work: DecodingWork) -> list[dict[str, torch.Tensor]]:
    """Return the calls of a round: input_ids and attention_mask [B, S], similar lengths together."""
    random = np.random.default_rng(work.seed)
    source, _ = sentence_lengths(work.lengths, work.sentences, random)
    source = np.sort(source)
    batches = []
    for first in range(0, len(source), work.batch):
        rows = source[first : first + work.batch]
        batch = make_batch((rows, rows), work.vocab_size, work.seed + first)
        batches.append({name: batch[name] for name in ("input_ids", "attention_mask")})
    return batches


def digest(batches: list[dict[str, torch.Tensor]]) -> str:
    """Return a hash of the source tokens of all batches, by which processes see that they have the same."""
    found = hashlib.sha256()
    for batch in batches:
        found.update(batch["input_ids"].numpy().tobytes())
    return found.hexdigest()[:16]


def real_tokens(batches: list[dict[str, torch.Tensor]]) -> int:
    """Return source and target tokens, padding excluded."""
    return sum(int(b["attention_mask"].sum() + (b["labels"] != IGNORED).sum()) for b in batches if "labels" in b)


def fill(batches: list[dict[str, torch.Tensor]]) -> float:
    """Return the share of the matrices that is no padding."""
    cells = sum(batch["input_ids"].numel() + batch["labels"].numel() for batch in batches)
    return real_tokens(batches) / cells
