"""The training data of a recipe in one call: corpora, filters, token cache or stream, and the plan of the batches.

recipe, tokenizer -> prepare_training_data -> TrainingData: plan, pairs, collate
"""

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.data.batching import BatchPlan, collate
from vaswani_tx.training.data.corpora import Corpus, WeightedPlan, corpora_of
from vaswani_tx.training.data.filters import PairFilter
from vaswani_tx.training.data.parallel import TokenizedPairs
from vaswani_tx.training.data.streaming import StreamPlan
from vaswani_tx.training.data.token_cache import cache_root, tokenize_corpora

logger = logging.getLogger(__name__)


@dataclass
class TrainingData:
    """What a training loop takes its batches from.

    `plan.epoch(k)` gives the batches of epoch k, or of piece k of a stream; `pairs` is what their indices count, with
    `source_lengths`, `target_lengths` and `where(index)`: tokenised pairs, or the stream's plan itself, whose three are
    those of the current piece.
    """

    plan: BatchPlan | WeightedPlan | StreamPlan
    pairs: TokenizedPairs | StreamPlan
    corpora: list[Corpus]
    rules: PairFilter
    cache_folder: str | None
    pad_token_id: int
    pad_to_multiple_of: int

    def collate(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """The model's inputs for these pairs."""
        pairs = self.pairs.pairs if isinstance(self.pairs, StreamPlan) else self.pairs
        return collate(pairs, indices, self.pad_token_id, pad_to_multiple_of=self.pad_to_multiple_of)

    def describe(self) -> str:
        """A few words for the start of a run."""
        return "a stream" if isinstance(self.pairs, StreamPlan) else f"{len(self.pairs):,} pairs"

    def to_dict(self) -> dict[str, Any]:
        """What the run is trained on, for its folder's data.json; of a stream, the counts of what was read so far."""
        content: dict[str, Any] = {"filters": self.rules.to_dict(), "counts": self.pairs.counts.to_dict()}
        entries = [
            {"source": corpus.source, "target": corpus.target, "weight": corpus.weight} for corpus in self.corpora
        ]
        if isinstance(self.pairs, StreamPlan):
            for entry, share in zip(entries, self.pairs.shares, strict=True):
                entry["share"] = float(share)
            return content | {"streaming": True, "corpora": entries}
        sizes = self.plan.sizes() if isinstance(self.plan, WeightedPlan) else np.diff(self.pairs.bounds).tolist()
        for entry, start, stop, size in zip(entries, self.pairs.bounds, self.pairs.bounds[1:], sizes, strict=False):
            entry |= {"pairs": stop - start, "pairs_of_an_epoch": size, "share": size / sum(sizes)}
        tokens = {"source_tokens": len(self.pairs.source_flat), "target_tokens": len(self.pairs.target_flat)}
        return content | {"streaming": False, "corpora": entries, **tokens, "token_cache": self.cache_folder}


def prepare_training_data(
    arguments: TranslationSettings, tokenizer: Any, pad_to_multiple_of: int = 1, quiet: bool = False
) -> TrainingData:
    """Reads, filters and tokenises the training data of a recipe, maps what an earlier run kept, or opens the stream.

    Every process calls it, at the same time or one after the other: they get the same batches. `quiet` is for the
    processes beside the main one, which would log everything again.

    Raises:
        DataError: data that cannot be read or used; the message names file and line, or the key.
        BatchError: a pair longer than a batch's budget.
    """
    corpora, rules = corpora_of(arguments), PairFilter.from_arguments(arguments)
    budgets = (arguments.max_source_tokens, arguments.max_target_tokens)
    options = {"seed": arguments.seed, "pad_to_multiple_of": pad_to_multiple_of}
    rest = (tokenizer.pad_token_id, pad_to_multiple_of)
    if arguments.streaming:
        stream = StreamPlan(corpora, tokenizer, rules, *budgets, arguments.stream_buffer, quiet=quiet, **options)
        data = TrainingData(stream, stream, corpora, rules, None, *rest)
    else:
        root = cache_root(arguments.cache_dir) if arguments.token_cache else None
        pairs, folder = tokenize_corpora(corpora, tokenizer, rules, root, quiet)
        plan = _plan(pairs, [corpus.weight for corpus in corpora], budgets, options)
        data = TrainingData(plan, pairs, corpora, rules, folder and str(folder), *rest)
    if len(corpora) > 1:
        _report_shares(data, quiet)
    return data


def _plan(
    pairs: TokenizedPairs, weights: Sequence[float], budgets: tuple[int, int], options: dict[str, Any]
) -> BatchPlan | WeightedPlan:
    if all(weight == 1 for weight in weights):
        return BatchPlan.of_pairs(pairs, *budgets, **options)
    return WeightedPlan.of_pairs(pairs, weights, *budgets, **options)


def _report_shares(data: TrainingData, quiet: bool) -> None:
    say = partial(logger.log, logging.DEBUG if quiet else logging.INFO)
    for corpus, entry in zip(data.corpora, data.to_dict()["corpora"], strict=True):
        if "pairs" in entry:
            numbers = (entry["pairs"], corpus.weight, entry["pairs_of_an_epoch"], 100 * entry["share"])
            say("%s: %s pairs, weight %g: %s or %.1f %% of an epoch", corpus.name, *numbers)
        else:
            say("%s: weight %g, %.1f %% of the stream", corpus.name, corpus.weight, 100 * entry["share"])
