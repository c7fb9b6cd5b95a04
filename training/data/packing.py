"""Rows for language models: documents -> blocks of tokens -> rows that hold several of them.

    TextCorpus.chunks -> BlockMaker -> Blocks -> make_rows -> Rows -> collate_rows

A document longer than a row is cut into blocks. For a causal model each block but the first begins with the last token
of the one before, so that every token but `<s>` is predicted exactly once. Blocks that share a row begin again at
position 0 and do not see each other: the loss and its gradient are those of the blocks one by one.

N rows, B rows of a batch, L tokens of its longest one.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from tqdm import tqdm

from vaswani_tx.training.data.batching import IGNORED_LABEL
from vaswani_tx.training.data.filters import FilterCounts
from vaswani_tx.training.data.masking import INNER, SPECIAL, START
from vaswani_tx.training.data.readers import Chunk

TOKENIZE_CHUNK = 4096

# Blocks


@dataclass
class Blocks:
    """Tokens of M blocks as flat arrays: block i is `ids[offsets[i]:offsets[i + 1]]`.

    `words` holds SPECIAL, START or INNER for each token; None for a causal model. The blocks of corpus c are those from
    `bounds[c]` to before `bounds[c + 1]`.
    """

    ids: np.ndarray  # int32
    words: np.ndarray | None  # uint8
    offsets: np.ndarray  # int64 [M + 1]
    lines: np.ndarray  # int64 [M]
    files: np.ndarray  # int32 [M]
    names: list[str]
    counts: FilterCounts
    bounds: tuple[int, ...] = ()

    def __len__(self) -> int:
        return len(self.lines)


class BlockMaker:
    """A tokeniser of documents that cuts them into blocks of at most `length` tokens; `counts` adds up what was read.

    Args:
        masked: with words to mask, and the special tokens that the tokenizer adds; else `<s>`, text, `</s>`.
    """

    def __init__(
        self, tokenizer: Any, length: int, masked: bool, names: Sequence[str], counts: FilterCounts | None = None
    ):
        self.tokenizer, self.length, self.masked, self.names = tokenizer, length, masked, list(names)
        self.counts = counts or FilterCounts()
        self._special = {*tokenizer.all_special_ids}
        self._ids, self._words, self._lines, self._files = [], [], [], []

    def __len__(self) -> int:
        return len(self._ids)

    def add(self, chunks: Iterable[Chunk], progress: bool = False) -> None:
        """Add documents."""
        with tqdm(desc="Tokenising", unit="document", unit_scale=True, disable=None if progress else True) as bar:
            for chunk in chunks:
                file = self.names.index(chunk.file)
                for start in range(0, len(chunk.lines), TOKENIZE_CHUNK):
                    texts = chunk.source[start : start + TOKENIZE_CHUNK]
                    self._add(texts, chunk.lines[start : start + TOKENIZE_CHUNK], file)
                    bar.update(len(texts))

    def blocks(self, first: int) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return tokens and words of the blocks from number `first` on."""
        return list(zip(self._ids[first:], self._words[first:], strict=True))

    def result(self, bounds: tuple[int, ...] = ()) -> Blocks:
        """Return all blocks so far."""
        lengths = np.fromiter(map(len, self._ids), dtype=np.int64, count=len(self._ids))
        flat = [np.concatenate(part) if part else np.zeros(0, np.int32) for part in (self._ids, self._words)]
        return Blocks(
            flat[0].astype(np.int32), flat[1].astype(np.uint8) if self.masked else None,
            np.concatenate(([0], np.cumsum(lengths))), np.asarray(self._lines, dtype=np.int64),
            np.asarray(self._files, dtype=np.int32), self.names, self.counts, bounds or (0, len(self)),
        )  # fmt: skip

    def _add(self, texts: list[str], lines: np.ndarray, file: int) -> None:
        self.counts.read += len(texts)
        encoding = self.tokenizer(texts, add_special_tokens=self.masked, return_attention_mask=False, verbose=False)
        for number, (ids, line) in enumerate(zip(encoding["input_ids"], lines, strict=True)):
            if self.masked:
                blocks = self._masked_blocks(np.asarray(ids), encoding.word_ids(number))
            else:
                blocks = causal_blocks(frame(self.tokenizer, ids), self.length)
            for block, words in blocks:
                self._ids.append(block)
                self._words.append(words)
                self._lines.append(int(line))
                self._files.append(file)
            kept = bool(blocks)
            self.counts.kept, self.counts.too_short = self.counts.kept + kept, self.counts.too_short + (not kept)

    def _masked_blocks(self, ids: np.ndarray, word_ids: list[int | None]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return blocks that end with a word where there is one, and that hold a word to mask."""
        numbers = np.array([-1 if word is None else word for word in word_ids])
        words = np.where(np.diff(numbers, prepend=-1) != 0, START, INNER)
        words[(numbers < 0) | np.isin(ids, list(self._special))] = SPECIAL
        blocks, start = [], 0
        while start < len(ids):
            stop = start + self.length
            if stop < len(ids):
                ends = np.flatnonzero(words[start + 1 : stop + 1] != INNER)
                if len(ends) > 1 and not (words[stop:] == START).any():
                    ends = ends[:-1]  # a word for the last block, which would be `</s>` alone
                stop = start + 1 + int(ends[-1]) if len(ends) else stop
            block, own = ids[start:stop], words[start:stop].copy()
            if own[0] == INNER:
                own[0] = START
            if (own == START).any():
                blocks.append((block, own))
            start = stop
        return blocks


def frame(tokenizer: Any, ids: Sequence[int]) -> np.ndarray:
    """Return a document's tokens between `<s>` and `</s>`, or what a tokenizer has of the two."""
    first = tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
    last = tokenizer.eos_token_id
    return np.asarray([*([] if first is None else [first]), *ids, *([] if last is None else [last])])


def causal_blocks(ids: np.ndarray, length: int) -> list[tuple[np.ndarray, np.ndarray]]:
    """Return blocks of at most `length` tokens, each beginning with the last token of the one before."""
    pieces = [ids[start : start + length] for start in range(0, max(len(ids) - 1, 0), length - 1)]
    return [(piece, np.zeros(0, np.uint8)) for piece in pieces]


# Rows


class Rows:
    """Rows of packed blocks; row i is `ids[offsets[i]:offsets[i + 1]]`.

    Args:
        blocks: what is packed.
        order: the blocks in the order of the rows, [M].
        block_offsets: where each row begins among them, [N + 1].
        bounds: the rows of corpus c are those from `bounds[c]` to before `bounds[c + 1]`.
    """

    def __init__(self, blocks: Blocks, order: np.ndarray, block_offsets: np.ndarray, bounds: Sequence[int] = ()):
        lengths = np.diff(blocks.offsets)[order]
        starts = np.concatenate(([0], np.cumsum(lengths)))
        inside = np.arange(starts[-1]) - np.repeat(starts[:-1], lengths)
        token = np.repeat(blocks.offsets[order], lengths) + inside
        self.ids, self.positions = blocks.ids[token], inside.astype(np.int32)
        self.words = None if blocks.words is None else blocks.words[token]
        self.offsets, self._block_offsets, self._order = starts[block_offsets], block_offsets, order
        self.blocks, self.counts, self.bounds = len(blocks), blocks.counts, tuple(bounds) or (0, len(self))
        self._lines, self._files, self._names = blocks.lines, blocks.files, blocks.names

    def __len__(self) -> int:
        return len(self._block_offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        """Return the tokens of every row, [N]."""
        return np.diff(self.offsets)

    @cached_property
    def predicted(self) -> np.ndarray:
        """Return how many tokens of every row are predicted, [N]: all but a block's first, or all maskable ones."""
        if self.words is None:
            return self.lengths - np.diff(self._block_offsets)
        sums = np.concatenate(([0], np.cumsum(self.words != SPECIAL)))
        return np.diff(sums[self.offsets])

    def ids_of(self, row: int) -> np.ndarray:
        return self.ids[self.offsets[row] : self.offsets[row + 1]]

    def words_of(self, row: int) -> np.ndarray:
        return self.words[self.offsets[row] : self.offsets[row + 1]]

    def locate(self, row: int) -> str:
        """Return the places of a row's documents for a message: `train.en line 17, 4, 90`."""
        blocks = self._order[self._block_offsets[row] : self._block_offsets[row + 1]]
        lines: dict[int, list[str]] = {}
        for block in blocks:
            lines.setdefault(int(self._files[block]), []).append(str(self._lines[block]))
        return " and ".join(f"{self._names[file]} line {', '.join(found)}" for file, found in lines.items())

    def waste(self, row_length: int) -> float:
        """Return the share of rows of this length that holds no token."""
        return 1.0 - len(self.ids) / (len(self) * row_length)


def pack(lengths: np.ndarray, row_length: int, random: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Pack blocks into rows by best fit: each, in random order, into the fullest row that it fits into.

    Args:
        lengths: of the blocks, [M], none above `row_length`.

    Returns:
        the blocks in the order of rows, [M], and where each row begins among them, [N + 1].
    """
    rows: list[list[int]] = []
    by_space: list[list[int]] = [[] for _ in range(row_length + 1)]  # rows by how many tokens still fit
    spaces = 0  # bit s is set where a row has space for exactly s tokens
    for block in random.permutation(len(lengths)).tolist():
        length = int(lengths[block])
        fitting = spaces >> length
        if fitting:
            space = length + (fitting & -fitting).bit_length() - 1
            row = by_space[space].pop()
            if not by_space[space]:
                spaces &= ~(1 << space)
        else:
            space, row = row_length, len(rows)
            rows.append([])
        rows[row].append(block)
        if left := space - length:
            by_space[left].append(row)
            spaces |= 1 << left
    sizes = np.fromiter(map(len, rows), dtype=np.int64, count=len(rows))
    order = np.fromiter((block for row in rows for block in row), dtype=np.int64, count=len(lengths))
    return order, np.concatenate(([0], np.cumsum(sizes)))


def make_rows(blocks: Blocks, row_length: int | None, seed: Sequence[int]) -> Rows:
    """Return packed rows, each corpus by itself; without a length every block is a row."""
    if row_length is None:
        return Rows(blocks, np.arange(len(blocks)), np.arange(len(blocks) + 1), blocks.bounds)
    random = np.random.default_rng([*seed, len(blocks)])
    lengths = np.diff(blocks.offsets)
    orders, offsets, bounds = [], [np.zeros(1, dtype=np.int64)], [0]
    for start, stop in zip(blocks.bounds, blocks.bounds[1:], strict=False):
        order, starts = pack(lengths[start:stop], row_length, random)
        orders.append(start + order)
        offsets.append(start + starts[1:])
        bounds.append(bounds[-1] + len(starts) - 1)
    return Rows(blocks, np.concatenate(orders), np.concatenate(offsets), bounds)


def collate_rows(
    rows: Rows,
    indices: np.ndarray,
    pad_token_id: int,
    packed: bool,
    pad_to_multiple_of: int = 1,
    masked: Sequence[tuple[np.ndarray, np.ndarray]] | None = None,
) -> dict[str, torch.Tensor]:
    """Return the model's inputs for these rows, padded on the right, int64.

    Args:
        masked: what the model sees of each row, and its labels; None for a causal model.

    Returns:
        `input_ids`, `labels` (-100: not predicted) and, packed, `position_ids` [B, L]; else `attention_mask`. The
        padding of a packed row is one more document.
    """
    starts, lengths = rows.offsets[indices], rows.lengths[indices]
    width = -(-int(lengths.max()) // pad_to_multiple_of) * pad_to_multiple_of
    column = np.arange(width)
    mask = column < lengths[:, None]
    token = (starts[:, None] + column)[mask]
    ids, labels = np.full(mask.shape, pad_token_id), np.full(mask.shape, IGNORED_LABEL)
    positions = column - lengths[:, None]
    positions[mask] = rows.positions[token]
    if masked is None:
        ids[mask] = rows.ids[token]
        labels[mask] = np.where(rows.positions[token] == 0, IGNORED_LABEL, rows.ids[token])
    else:
        ids[mask] = np.concatenate([seen for seen, _ in masked])
        labels[mask] = np.concatenate([wanted for _, wanted in masked])
    rest = {"position_ids": positions} if packed else {"attention_mask": mask}
    arrays = {"input_ids": ids, "labels": labels, **rest}
    return {name: torch.from_numpy(array.astype(np.int64)) for name, array in arrays.items()}
