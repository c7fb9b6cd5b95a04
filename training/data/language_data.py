"""The training data of a language model's recipe in one call: rows and the plan of their batches, or a stream of them.

recipe, tokenizer -> prepare_language_data -> LanguageData: plan, rows, collate
"""

import logging
import threading
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vaswani_tx.training.config.language_modeling import LanguageModelSettings
from vaswani_tx.training.data.batching import BatchPlan, Side, WeightedPlan, make_plan
from vaswani_tx.training.data.filters import FilterCounts
from vaswani_tx.training.data.packing import BlockMaker, Rows, collate_rows, make_rows
from vaswani_tx.training.data.readers import Chunk
from vaswani_tx.training.data.streaming import StreamPlan
from vaswani_tx.training.data.text import TextCorpus, text_corpora_of
from vaswani_tx.training.errors import DataError

logger = logging.getLogger(__name__)


class DocumentReport:
    """Messages on documents that were left out."""

    def report(self, counts: FilterCounts, what: str = "", quiet: bool = False) -> None:
        """Log the counts, as a warning where something was lost; `quiet` is for processes beside the main one."""
        lost = counts.empty + counts.too_short
        text = f"{what}{counts.kept:,} of {counts.read:,} documents are left"
        if lost:
            text += f"; {counts.empty:,} held no text, {counts.too_short:,} nothing to predict"
        if counts.empty_places:
            text += f". Empty are for example {', '.join(counts.empty_places)}"
        logger.log(logging.DEBUG if quiet else logging.WARNING if lost else logging.INFO, "%s.", text)

    def nothing_left(self, counts: FilterCounts, where: str = "the training data") -> DataError:
        """Return the error for data of which nothing is left."""
        return DataError(
            f"{where} holds {counts.read:,} documents, but no token to predict: give text, or another tokenizer."
        )


class TextStream(StreamPlan):
    """Batches of a stream of documents, which are packed as rows.

    Args:
        row_length: tokens of a block and, `packed`, of a row.
        masked: as `BlockMaker`'s.
        batch_tokens: tokens of a batch, padding counted.
        options: further arguments of `StreamPlan` and `BatchPlan`.
    """

    def __init__(
        self, corpora: list[TextCorpus], tokenizer: Any, row_length: int, packed: bool, masked: bool,
        batch_tokens: int, stream_buffer: int, **options: Any,
    ):  # fmt: skip
        self.row_length, self.packed, self.masked, self.batch_tokens = row_length, packed, masked, batch_tokens
        super().__init__(corpora, tokenizer, DocumentReport(), stream_buffer, **options)

    def tokenize(self, groups: list[list[Chunk]], counts: FilterCounts, number: int) -> tuple[Rows, list[Side]] | None:
        """Tokenise the documents of a buffer and pack them; documents of all corpora share the rows."""
        maker = BlockMaker(self.tokenizer, self.row_length, self.masked, self.names, counts)
        for chunk in (chunk for group in groups for chunk in group):
            maker.add([chunk])
            if not threading.main_thread().is_alive():
                return None
        rows = make_rows(maker.result((0, len(maker))), self.row_length if self.packed else None, (self.seed, number))
        return rows, [Side("", rows.lengths, self.batch_tokens)]


@dataclass
class LanguageData:
    """Rows of text with the plan of their batches, from which a task for language models is made."""

    plan: BatchPlan | WeightedPlan | TextStream
    all_rows: Rows | None  # None: a stream
    corpora: list[TextCorpus]
    pad_token_id: int
    pad_to_multiple_of: int
    row_length: int
    packed: bool

    @property
    def rows(self) -> Rows:
        """Return the rows that indices count: all, or those of a stream's current buffer."""
        return self.plan.examples if self.all_rows is None else self.all_rows

    def collate(self, indices: np.ndarray, masked: Any = None) -> dict[str, torch.Tensor]:
        """Return the model's inputs for these rows; `masked` as `collate_rows`'."""
        return collate_rows(self.rows, indices, self.pad_token_id, self.packed, self.pad_to_multiple_of, masked)

    def describe(self) -> str:
        """Return a few words for the start of a run."""
        rows = self.all_rows
        if rows is None:
            return "a stream"
        shape = f" of {self.row_length} ({100 * rows.waste(self.row_length):.1f} % empty)" if self.packed else ""
        return f"{rows.blocks:,} blocks of {rows.counts.kept:,} documents in {len(rows):,} rows{shape}"

    def to_dict(self) -> dict[str, Any]:
        """Return what the run is trained on, for its `data.json`; of a stream, the counts of what was read so far."""
        rows = self.all_rows
        counts = self.plan.counts if rows is None else rows.counts
        content: dict[str, Any] = {"counts": {"read": counts.read, "empty": counts.empty, "kept": counts.kept}}
        entries = [{"text": corpus.files, "weight": corpus.weight} for corpus in self.corpora]
        content |= {"streaming": rows is None, "packing": self.packed, "corpora": entries}
        if rows is not None:
            content |= {"blocks": rows.blocks, "rows": len(rows), "tokens": len(rows.ids)}
            content |= {"waste": rows.waste(self.row_length)} if self.packed else {}
        return content


def prepare_language_data(
    settings: LanguageModelSettings, tokenizer: Any, masked: bool, pad_to_multiple_of: int = 1, quiet: bool = False
) -> LanguageData:
    """Read, tokenise and pack the training data of a recipe, or open the stream; the same in every process.

    Raises:
        DataError: data that cannot be read or used; the message names file and line, or the key.
        BatchError: a row longer than a batch's budget.
    """
    corpora = text_corpora_of(settings)
    options = {"seed": settings.seed, "pad_to_multiple_of": pad_to_multiple_of}
    rest = (corpora, tokenizer.pad_token_id, pad_to_multiple_of, settings.row_length, settings.packing)
    if settings.streaming:
        stream = TextStream(
            corpora, tokenizer, settings.row_length, settings.packing, masked, settings.batch_tokens,
            settings.stream_buffer, quiet=quiet, **options,
        )  # fmt: skip
        return LanguageData(stream, None, *rest)
    rows = _read_rows(settings, tokenizer, masked, corpora, quiet)
    sides, weights = [Side("", rows.lengths, settings.batch_tokens)], [corpus.weight for corpus in corpora]
    return LanguageData(make_plan(sides, rows.bounds, weights, locate=rows.locate, **options), rows, *rest)


def _read_rows(
    settings: LanguageModelSettings, tokenizer: Any, masked: bool, corpora: list[TextCorpus], quiet: bool
) -> Rows:
    names = list(dict.fromkeys(name for corpus in corpora for name in corpus.files))
    maker, bounds, report = BlockMaker(tokenizer, settings.row_length, masked, names), [0], DocumentReport()
    for corpus in corpora:
        maker.add(corpus.chunks(maker.counts), progress=not quiet)
        bounds.append(len(maker))
        if bounds[-1] == bounds[-2]:
            raise report.nothing_left(maker.counts, corpus.name)
    rows = make_rows(maker.result(tuple(bounds)), settings.row_length if settings.packing else None, (settings.seed,))
    report.report(maker.counts, quiet=quiet)
    return rows
