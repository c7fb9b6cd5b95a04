"""Examples as token ids: rows from which batches are cut, and how a batch becomes tensors.

A text is one row. A sentence of tagged words is as many rows as `max_length` asks for, split between words, so that
every word gets its tag. A question goes with each window of a long context, the windows overlapping by `stride`.

Shapes: N rows, B batch, L length, C classes or numbers.
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import chain
from typing import Any

import numpy as np
import torch

from vaswani_tx.training.data.batching import IGNORED_LABEL
from vaswani_tx.training.data.labelled import Example, QuestionExample, TextExample, WordsExample
from vaswani_tx.training.errors import DataError

logger = logging.getLogger(__name__)

OUTSIDE = -1  # where a token belongs to no character of the context


@dataclass
class Rows:
    """Token ids of N rows as one flat array: row i is `ids[offsets[i]:offsets[i + 1]]`, special tokens included.

    Args:
        labels: the targets of the rows: [N] classes, [N, C] numbers, one class a token (-100: does not count),
            or [N, 2] first and last token of the answer.
        targets: how many labels of each row count, the divisor of its loss, [N].
        example_of: which example each row comes from, [N].
        per_token: whether every token has a label.
        characters: for questions, where in the context each token begins and ends, [all tokens, 2].
        nowhere: for questions, the position of each row that means no answer, [N].
        cut: how many examples lost their end.
    """

    ids: np.ndarray  # int32 [all tokens]
    offsets: np.ndarray  # int64 [N + 1]
    labels: np.ndarray
    targets: np.ndarray
    examples: Sequence[Example]
    example_of: np.ndarray
    per_token: bool = False
    characters: np.ndarray | None = None
    nowhere: np.ndarray | None = None
    cut: int = 0
    pad_token_id: int = 0
    pad_to_multiple_of: int = 1

    def __len__(self) -> int:
        return len(self.offsets) - 1

    @cached_property
    def lengths(self) -> np.ndarray:
        return np.diff(self.offsets)

    def locate(self, index: int) -> str:
        """Return the place of a row's example for a message."""
        return self.examples[self.example_of[index]].where

    def piece(self, index: int) -> slice:
        """Return where a row is in the flat arrays."""
        return slice(self.offsets[index], self.offsets[index + 1])

    def inputs(self, indices: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        """Return `input_ids` and `attention_mask` [B, L] of some rows, padded on the right."""
        ids = self._padded(self.ids, indices, self.pad_token_id)
        lengths = self.lengths[np.asarray(indices)]
        mask = (np.arange(ids.shape[1]) < lengths[:, None]).astype(np.int64)
        return {"input_ids": torch.from_numpy(ids), "attention_mask": torch.from_numpy(mask)}

    def collate(self, indices: Sequence[int] | np.ndarray) -> dict[str, torch.Tensor]:
        """Return the model's inputs and labels for some rows."""
        batch = self.inputs(indices)
        if self.characters is not None:
            positions = torch.from_numpy(self.labels[np.asarray(indices)])
            return batch | {"start_positions": positions[:, 0], "end_positions": positions[:, 1]}
        if self.per_token:
            return batch | {"labels": torch.from_numpy(self._padded(self.labels, indices, IGNORED_LABEL))}
        return batch | {"labels": torch.from_numpy(self.labels[np.asarray(indices)])}

    def _padded(self, flat: np.ndarray, indices: Sequence[int] | np.ndarray, padding: int) -> np.ndarray:
        rows = [flat[self.piece(i)] for i in indices]
        width = -(-max(map(len, rows)) // self.pad_to_multiple_of) * self.pad_to_multiple_of
        matrix = np.full((len(rows), width), padding, dtype=np.int64)
        for target, row in zip(matrix, rows, strict=True):
            target[: len(row)] = row
        return matrix


def text_rows(
    examples: Sequence[TextExample], tokenizer: Any, labels: np.ndarray, max_length: int, too_long: str = "truncate"
) -> Rows:
    """Return a row for each text or pair of texts.

    Args:
        labels: [N] integers or [N, C] floats.
        too_long: "truncate" (counted and logged) or "error".

    Raises:
        DataError: a text too long under "error": file, line and its number of tokens.
    """
    sides = [[example.text for example in examples]]
    if examples and examples[0].pair is not None:
        sides.append([example.pair for example in examples])
    options = {"return_attention_mask": False, "return_token_type_ids": False, "verbose": False}
    ids = tokenizer(*sides, **options)["input_ids"]
    over = [i for i, row in enumerate(ids) if len(row) > max_length]
    if over and too_long == "error":
        raise DataError(
            f"{examples[over[0]].where}: {len(ids[over[0]])} tokens are more than max_length {max_length}. Shorten the "
            "text, raise max_length, or set too_long to 'truncate'."
        )
    if over:
        logger.warning(
            "%d of %d examples are longer than max_length %d and lose their ends, first %s",
            len(over), len(ids), max_length, examples[over[0]].where,
        )  # fmt: skip
        chosen = [[side[i] for i in over] for side in sides]
        shorter = tokenizer(*chosen, truncation=True, max_length=max_length, **options)["input_ids"]
        for i, row in zip(over, shorter, strict=True):
            ids[i] = row
    targets = np.full(len(ids), labels.shape[1] if labels.ndim == 2 else 1, dtype=np.int64)
    return _rows(ids, labels, targets, examples, range(len(ids)), tokenizer, cut=len(over))


def word_rows(
    examples: Sequence[WordsExample], tokenizer: Any, classes: dict[str, int] | None, max_length: int
) -> Rows:
    """Return rows of whole words; the first token of each word has its tag, all other tokens -100.

    Args:
        classes: the number of each tag; None: all words are marked with 0, for tags to be predicted.
    """
    before, after = _special_tokens(tokenizer)
    budget = max_length - len(before) - len(after)
    encoded = tokenizer(
        [example.words for example in examples], is_split_into_words=True, add_special_tokens=False,
        return_attention_mask=False, return_token_type_ids=False, verbose=False,
    )  # fmt: skip
    ids, labels, owners, cut = [], [], [], 0
    for number, example in enumerate(examples):
        words: list[list[int]] = [[] for _ in example.words]
        for piece, word in zip(encoded["input_ids"][number], encoded.word_ids(number), strict=True):
            words[word].append(piece)
        # A tokenizer that cleans its text may leave nothing of a word, which has a tag all the same.
        words = [pieces or [tokenizer.unk_token_id] for pieces in words]
        cut += any(len(pieces) > budget for pieces in words)
        tags = [0] * len(words) if classes is None else [classes[tag] for tag in example.tags]
        for start, stop in _parts([min(len(pieces), budget) for pieces in words], budget):
            chosen = [pieces[:budget] for pieces in words[start:stop]]
            marks = [[tag, *[IGNORED_LABEL] * (len(pieces) - 1)] for tag, pieces in zip(tags[start:], chosen)]  # noqa: B905
            ids.append([*before, *chain.from_iterable(chosen), *after])
            edges = ([IGNORED_LABEL] * len(before), [IGNORED_LABEL] * len(after))
            labels.append([*edges[0], *chain.from_iterable(marks), *edges[1]])
            owners.append(number)
    flat = np.fromiter(chain.from_iterable(labels), dtype=np.int64)
    targets = np.array([sum(label != IGNORED_LABEL for label in row) for row in labels], dtype=np.int64)
    if len(ids) > len(examples):
        logger.info("%d sentences longer than max_length %d are split", len(ids) - len(set(owners)), max_length)
    return _rows(ids, flat, targets, examples, owners, tokenizer, cut=cut, per_token=True)


def _parts(lengths: Sequence[int], budget: int) -> list[tuple[int, int]]:
    """Return the words of each row as (first, one after the last): as many as fit."""
    found, start, total = [], 0, 0
    for position, length in enumerate(lengths):
        if total + length > budget:
            found.append((start, position))
            start, total = position, 0
        total += length
    return [*found, (start, len(lengths))]


def _special_tokens(tokenizer: Any) -> tuple[list[int], list[int]]:
    """Return what a tokenizer puts before and after a text."""
    bare = tokenizer("a", add_special_tokens=False)["input_ids"]
    whole = tokenizer("a")["input_ids"]
    first = next(i for i in range(len(whole)) if whole[i : i + len(bare)] == bare)
    return whole[:first], whole[first + len(bare) :]


def question_rows(examples: Sequence[QuestionExample], tokenizer: Any, max_length: int, stride: int) -> Rows:
    """Return a row for each window of each context, the question before it.

    A window without the answer has it at its first special token, as has every window of a question without one.

    Raises:
        DataError: a question that leaves no tokens for a window.
    """
    bare = tokenizer([example.question for example in examples], add_special_tokens=False, verbose=False)["input_ids"]
    special = tokenizer.num_special_tokens_to_add(pair=True)
    for example, question in zip(examples, bare, strict=True):
        if len(question) + special + stride >= max_length:
            raise DataError(
                f"{example.where}: a question of {len(question)} tokens and a stride of {stride} leave no tokens of "
                f"max_length {max_length} for the context: raise it, or lower stride."
            )
    encoded = tokenizer(
        [example.question for example in examples], [example.context for example in examples],
        truncation="only_second", max_length=max_length, stride=stride, return_overflowing_tokens=True,
        return_offsets_mapping=True, return_attention_mask=False, return_token_type_ids=False, verbose=False,
    )  # fmt: skip
    owners = encoded["overflow_to_sample_mapping"]
    characters, labels, nowhere = [], [], []
    for row, owner in enumerate(owners):
        side = np.array([OUTSIDE if part is None else part for part in encoded.sequence_ids(row)])
        spans = np.where(side[:, None] == 1, np.array(encoded["offset_mapping"][row]), OUTSIDE)
        characters.append(spans)
        nowhere.append(int(np.argmax(side == OUTSIDE)))
        labels.append(answer_tokens(spans, examples[owner].answers, nowhere[-1]))
    targets = np.ones(len(owners), dtype=np.int64)
    return _rows(
        encoded["input_ids"], np.array(labels, dtype=np.int64), targets, examples, owners, tokenizer,
        characters=np.concatenate(characters), nowhere=np.array(nowhere),
    )  # fmt: skip


def answer_tokens(spans: np.ndarray, answers: Sequence[tuple[str, int]] | None, nowhere: int) -> tuple[int, int]:
    """Return first and last token of the first answer, or twice `nowhere` where the window does not hold all of it.

    Args:
        spans: first and one past the last character of each token in the context, -1 for others, [L, 2].
    """
    if not answers:
        return nowhere, nowhere
    text, start = answers[0]
    stop = start + len(text)
    # A character of several tokens (bytes) gives them all the same span: the first begins, the last ends an answer.
    begins = np.flatnonzero((spans[:, 0] <= start) & (start < spans[:, 1]))
    ends = np.flatnonzero((spans[:, 0] < stop) & (stop <= spans[:, 1]))
    if not len(begins) or not len(ends):
        return nowhere, nowhere
    return int(begins[0]), int(ends[-1])


def _rows(
    ids: Sequence[Sequence[int]],
    labels: np.ndarray,
    targets: np.ndarray,
    examples: Sequence[Example],
    owners: Sequence[int],
    tokenizer: Any,
    **more: Any,
) -> Rows:
    offsets = np.concatenate(([0], np.cumsum([len(row) for row in ids], dtype=np.int64)))
    flat = np.fromiter(chain.from_iterable(ids), dtype=np.int32, count=int(offsets[-1]))
    pad = tokenizer.pad_token_id
    return Rows(flat, offsets, labels, targets, examples, np.asarray(owners), pad_token_id=pad, **more)
