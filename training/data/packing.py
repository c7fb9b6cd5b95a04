"""The training data of a language model's recipe in one call: rows and the plan of their batches, or a stream of them.

recipe, tokenizer -> prepare_language_data -> LanguageData: plan, pairs, rows, collate
"""

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from vaswani_tx.training.config.language_modeling import LanguageModelSettings
from vaswani_tx.training.data.batching import BatchPlan
from vaswani_tx.training.data.corpora import WeightedPlan
from vaswani_tx.training.data.filters import FilterCounts
from vaswani_tx.training.data.masking import MaskedTask, Masker
from vaswani_tx.training.data.rows import BlockMaker, Rows, collate_rows, make_rows
from vaswani_tx.training.data.streaming import Buffer, StreamPlan
from vaswani_tx.training.data.text import TextCorpus, text_corpora_of
from vaswani_tx.training.engine.checkpoint_manager import Task
from vaswani_tx.training.errors import DataError

logger = logging.getLogger(__name__)


class DocumentReport:
    """What is said about documents that were left out."""

    def report(self, counts: FilterCounts, what: str = "", quiet: bool = False) -> None:
        """Logs it, as a warning where something was lost; `quiet` is for processes beside the main one."""
        lost = counts.empty + counts.too_short
        text = f"{what}{counts.kept:,} of {counts.read:,} documents are left"
        if lost:
            text += f"; {counts.empty:,} held no text, {counts.too_short:,} nothing to predict"
        if counts.empty_places:
            text += f". Empty are for example {', '.join(counts.empty_places)}"
        logger.log(logging.DEBUG if quiet else logging.WARNING if lost else logging.INFO, "%s.", text)

    def nothing_left(self, counts: FilterCounts, where: str = "the training data") -> DataError:
        """The error for data of which nothing is left."""
        return DataError(
            f"{where} holds {counts.read:,} documents, but no token to predict: give text, or another tokenizer."
        )


class TextStream(StreamPlan):
    """Batches of a stream of documents; all of `StreamPlan`, but the pieces are tokenised and packed as rows.

    Args:
        row_length: tokens of a block and, `packed`, of a row.
        masked: as `BlockMaker`'s.
        options: further arguments of `StreamPlan` and `BatchPlan`.
    """

    def __init__(
        self, corpora: list[TextCorpus], tokenizer: Any, row_length: int, packed: bool, masked: bool,
        batch_tokens: int, stream_buffer: int, **options: Any,
    ):  # fmt: skip
        self.row_length, self.packed, self.masked = row_length, packed, masked
        budgets = (batch_tokens, batch_tokens)
        super().__init__(corpora, tokenizer, DocumentReport(), *budgets, stream_buffer, **options)

    def _make(self, number: int) -> Buffer | None:
        before = self._passes[number]
        maker = BlockMaker(self.tokenizer, self.row_length, self.masked, self.names)
        bounds = [0]
        for group in self._next_rows(maker.counts):
            for chunk in group:
                maker.add([chunk])
                if not threading.main_thread().is_alive():
                    return None
            bounds.append(len(maker))
        # Documents of all corpora share the rows of a piece.
        rows = make_rows(maker.result((0, len(maker))), self.row_length if self.packed else None, (self.seed, number))
        plan, batches = None, []
        if len(rows):
            plan = plan_of(rows, None, self._budgets[0], seed=self.seed, **self._options)
            batches = plan.epoch(number)
        return Buffer(number, rows, plan, batches, before < self._passes[number + 1])


@dataclass
class LanguageData:
    """What a training loop takes its batches from: `plan.epoch(k)`, and `pairs`, which their indices count."""

    plan: BatchPlan | WeightedPlan | TextStream
    pairs: Rows | TextStream
    corpora: list[TextCorpus]
    pad_token_id: int
    pad_to_multiple_of: int
    row_length: int
    packed: bool

    def rows(self) -> Rows:
        """The rows that indices count: all, or those of a stream's current piece."""
        return self.pairs.pairs if isinstance(self.pairs, TextStream) else self.pairs

    def collate(self, rows: Rows, indices: np.ndarray, masked: Any = None) -> dict[str, torch.Tensor]:
        """The model's inputs for these rows."""
        return collate_rows(rows, indices, self.pad_token_id, self.packed, self.pad_to_multiple_of, masked)

    def causal_task(self, options: dict[str, Any]) -> Task:
        """To predict each next token."""
        return Task(self.plan, lambda indices: self.collate(self.rows(), indices), self.pairs, options)

    def masked_task(self, masker: Masker, options: dict[str, Any]) -> MaskedTask:
        """To predict masked tokens."""
        return MaskedTask(self.plan, self.pairs, self.rows, masker, self.collate, options)

    def describe(self) -> str:
        """A few words for the start of a run."""
        if isinstance(self.pairs, TextStream):
            return "a stream"
        rows = self.pairs
        kind = f" of {self.row_length} ({100 * rows.waste(self.row_length):.1f} % empty)" if self.packed else ""
        return f"{rows.blocks:,} blocks of {rows.counts.kept:,} documents in {len(rows):,} rows{kind}"

    def to_dict(self) -> dict[str, Any]:
        """What the run is trained on, for its folder's data.json; of a stream, the counts of what was read so far."""
        counts = self.pairs.counts
        content: dict[str, Any] = {"counts": {"read": counts.read, "empty": counts.empty, "kept": counts.kept}}
        entries = [{"text": corpus.files, "weight": corpus.weight} for corpus in self.corpora]
        content |= {"streaming": isinstance(self.pairs, TextStream), "packing": self.packed, "corpora": entries}
        if not isinstance(self.pairs, TextStream):
            rows = self.pairs
            content |= {"blocks": rows.blocks, "rows": len(rows), "tokens": len(rows.ids)}
            content |= {"waste": rows.waste(self.row_length)} if self.packed else {}
        return content


def plan_of(rows: Rows, weights: list[float] | None, batch_tokens: int, **options: Any) -> BatchPlan | WeightedPlan:
    """Batches of rows; with other weights than 1 those that the weights draw for each epoch."""
    lengths, budgets = rows.source_lengths, (batch_tokens, batch_tokens)
    if weights is None or all(weight == 1 for weight in weights):
        return BatchPlan(lengths, lengths, *budgets, lines=rows.where, **options)
    return WeightedPlan(lengths, lengths, rows.bounds, weights, *budgets, lines=rows.where, **options)


def prepare_language_data(
    arguments: LanguageModelSettings, tokenizer: Any, masked: bool, pad_to_multiple_of: int = 1, quiet: bool = False
) -> LanguageData:
    """Reads, tokenises and packs the training data of a recipe, or opens the stream; the same in every process.

    Raises:
        DataError: data that cannot be read or used; the message names file and line, or the key.
    """
    corpora = text_corpora_of(arguments)
    sizes = (arguments.row_length, arguments.packing)
    options = {"seed": arguments.seed, "pad_to_multiple_of": pad_to_multiple_of}
    build: Callable[..., LanguageData] = partial(
        LanguageData, corpora=corpora, pad_token_id=tokenizer.pad_token_id, pad_to_multiple_of=pad_to_multiple_of,
        row_length=arguments.row_length, packed=arguments.packing,
    )  # fmt: skip
    if arguments.streaming:
        budgets = (arguments.batch_tokens, arguments.stream_buffer)
        stream = TextStream(corpora, tokenizer, *sizes, masked, *budgets, quiet=quiet, **options)
        return build(stream, stream)
    names = list(dict.fromkeys(name for corpus in corpora for name in corpus.files))
    maker, bounds, report = BlockMaker(tokenizer, arguments.row_length, masked, names), [0], DocumentReport()
    for corpus in corpora:
        maker.add(corpus.chunks(maker.counts), progress=not quiet)
        bounds.append(len(maker))
        if bounds[-1] == bounds[-2]:
            raise report.nothing_left(maker.counts, corpus.name)
    rows = make_rows(
        maker.result(tuple(bounds)), arguments.row_length if arguments.packing else None, (arguments.seed,)
    )
    report.report(maker.counts, quiet=quiet)
    weights = [corpus.weight for corpus in corpora]
    return build(plan_of(rows, weights, arguments.batch_tokens, **options), rows)
