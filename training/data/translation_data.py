"""The training data of a recipe in one call: corpora, filters, token cache or stream, and the plan of the batches.

recipe, tokenizer -> prepare_training_data -> TrainingData: plan, pairs, collate
"""

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np
import torch

from vaswani_tx.token_texts_vaswani import source_of
from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.data.batching import BatchPlan, WeightedPlan, collate_pairs, make_plan, pair_sides
from vaswani_tx.training.data.corpora import Corpus, corpora_of
from vaswani_tx.training.data.filters import PairFilter
from vaswani_tx.training.data.parallel import TokenizedPairs
from vaswani_tx.training.data.streaming import PairStream
from vaswani_tx.training.data.token_cache import cache_root, tokenize_corpora

logger = logging.getLogger(__name__)


@dataclass
class TrainingData:
    """Tokenised pairs with the plan of their batches, from which a task is made.

    `plan.epoch(k)` gives the batches of epoch k, or of buffer k of a stream.
    """

    plan: BatchPlan | WeightedPlan | PairStream
    all_pairs: TokenizedPairs | None  # None: a stream
    corpora: list[Corpus]
    rules: PairFilter
    cache_folder: str | None
    pad_token_id: int  # of the source
    pad_to_multiple_of: int

    @property
    def pairs(self) -> TokenizedPairs:
        """Return the pairs that indices count: all, or those of a stream's current buffer."""
        return self.plan.examples if self.all_pairs is None else self.all_pairs

    def collate(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Return the model's inputs for these pairs."""
        return collate_pairs(self.pairs, indices, self.pad_token_id, pad_to_multiple_of=self.pad_to_multiple_of)

    def describe(self) -> str:
        """Return a few words for the start of a run."""
        return "a stream" if self.all_pairs is None else f"{len(self.all_pairs):,} pairs"

    def to_dict(self) -> dict[str, Any]:
        """Return what the run is trained on, for its `data.json`; of a stream, the counts of what was read so far."""
        pairs, plan = self.all_pairs, self.plan
        counts = plan.counts if pairs is None else pairs.counts
        content: dict[str, Any] = {"filters": self.rules.to_dict(), "counts": counts.to_dict()}
        entries: list[dict[str, Any]] = [
            {"source": corpus.source, "target": corpus.target, "weight": corpus.weight} for corpus in self.corpora
        ]
        if pairs is None:
            for entry, share in zip(entries, plan.shares, strict=True):
                entry["share"] = float(share)
            return content | {"streaming": True, "corpora": entries}
        sizes = plan.sizes() if isinstance(plan, WeightedPlan) else np.diff(pairs.bounds).tolist()
        for entry, start, stop, size in zip(entries, pairs.bounds, pairs.bounds[1:], sizes, strict=False):
            entry |= {"pairs": stop - start, "pairs_of_an_epoch": size, "share": size / sum(sizes)}
        tokens = {"source_tokens": len(pairs.source_flat), "target_tokens": len(pairs.target_flat)}
        return content | {"streaming": False, "corpora": entries, **tokens, "token_cache": self.cache_folder}


def prepare_training_data(
    settings: TranslationSettings, tokenizer: Any, pad_to_multiple_of: int = 1, quiet: bool = False
) -> TrainingData:
    """Read, filter and tokenise the training data of a recipe, map an earlier run's cache, or open the stream.

    Every process calls it, at the same time or one after the other: they get the same batches. `quiet` is for the
    processes beside the main one, which would log everything again.

    Raises:
        DataError: data that cannot be read or used; the message names file and line, or the key.
        BatchError: a pair longer than a batch's budget.
    """
    corpora, rules = corpora_of(settings), PairFilter.from_settings(settings)
    budgets = (settings.max_source_tokens, settings.max_target_tokens)
    options = {"seed": settings.seed, "pad_to_multiple_of": pad_to_multiple_of}
    rest = (source_of(tokenizer).pad_token_id, pad_to_multiple_of)
    if settings.streaming:
        stream = PairStream(corpora, tokenizer, rules, *budgets, settings.stream_buffer, quiet=quiet, **options)
        data = TrainingData(stream, None, corpora, rules, None, *rest)
    else:
        root = cache_root(settings.cache_dir) if settings.token_cache else None
        pairs, folder = tokenize_corpora(corpora, tokenizer, rules, root, quiet)
        sides = pair_sides(pairs.source_lengths, pairs.target_lengths, *budgets)
        plan = make_plan(sides, pairs.bounds, [corpus.weight for corpus in corpora], locate=pairs.locate, **options)
        data = TrainingData(plan, pairs, corpora, rules, folder and str(folder), *rest)
    if len(corpora) > 1:
        _report_shares(data, quiet)
    return data


def _report_shares(data: TrainingData, quiet: bool) -> None:
    log = partial(logger.log, logging.DEBUG if quiet else logging.INFO)
    for corpus, entry in zip(data.corpora, data.to_dict()["corpora"], strict=True):
        if "pairs" in entry:
            numbers = (entry["pairs"], corpus.weight, entry["pairs_of_an_epoch"], 100 * entry["share"])
            log("%s: %s pairs, weight %g: %s or %.1f %% of an epoch", corpus.name, *numbers)
        else:
            log("%s: weight %g, %.1f %% of the stream", corpus.name, corpus.weight, 100 * entry["share"])
