"""The training data of a recipe in one call: corpora, filters, token cache or stream, BPE-dropout, plan of batches.

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
from vaswani_tx.training.data.bpe_dropout import SIDES, BpeDropout, DropoutPlan
from vaswani_tx.training.data.corpora import Corpus, corpora_of
from vaswani_tx.training.data.filters import PairFilter
from vaswani_tx.training.data.parallel import TokenizedPairs
from vaswani_tx.training.data.streaming import PairStream
from vaswani_tx.training.data.token_cache import cache_root, tokenize_corpora

logger = logging.getLogger(__name__)


@dataclass
class TrainingData:
    """Tokenised pairs with the plan of their batches, from which a task is made.

    `plan.epoch(k)` gives the batches of epoch k, or of buffer k of a stream. A plan with `examples` has other pairs
    in every epoch.
    """

    plan: BatchPlan | WeightedPlan | DropoutPlan | PairStream
    all_pairs: TokenizedPairs | None  # None: a stream
    corpora: list[Corpus]
    rules: PairFilter
    cache_folder: str | None
    pad_token_id: int  # of the source
    pad_to_multiple_of: int
    dropout: BpeDropout | None = None

    @property
    def pairs(self) -> TokenizedPairs:
        """Return the pairs that indices count: all, or those of the current epoch or of a stream's current buffer."""
        return self.plan.examples if hasattr(self.plan, "examples") else self.all_pairs

    @property
    def fixed_pairs(self) -> TokenizedPairs:
        """Return pairs by which the data are recognised: the same in every epoch; of a stream those of the buffer."""
        return self.pairs if self.all_pairs is None else self.all_pairs

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
        entries: list[dict[str, Any]] = [corpus.to_dict() for corpus in self.corpora]
        if self.dropout is not None:
            content["bpe_dropout"] = {"rate": self.dropout.rate, "sides": list(self.dropout.merges)}
        if pairs is None:
            for entry, share in zip(entries, plan.shares, strict=True):
                entry["share"] = float(share)
            return content | {"streaming": True, "corpora": entries}
        sizes = np.diff(pairs.bounds).tolist() if isinstance(plan, BatchPlan) else plan.sizes()
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
    dropout = _dropout(settings, tokenizer, rules, pad_to_multiple_of)
    rest = (source_of(tokenizer).pad_token_id, pad_to_multiple_of, dropout)
    if settings.streaming:
        stream = PairStream(
            corpora, tokenizer, rules, *budgets, settings.stream_buffer, quiet=quiet, dropout=dropout, **options
        )
        data = TrainingData(stream, None, corpora, rules, None, *rest)
    else:
        root = cache_root(settings.cache_dir) if settings.token_cache else None
        pairs, folder = tokenize_corpora(corpora, tokenizer, rules, root, quiet, words=dropout is not None)
        sides = pair_sides(pairs.source_lengths, pairs.target_lengths, *budgets)
        plan = make_plan(sides, pairs.bounds, [corpus.weight for corpus in corpora], locate=pairs.locate, **options)
        if dropout is not None:
            plan = DropoutPlan(plan, pairs, dropout, budgets, pad_to_multiple_of=pad_to_multiple_of)
        data = TrainingData(plan, pairs, corpora, rules, folder and str(folder), *rest)
    if len(corpora) > 1:
        _report_shares(data, quiet)
    return data


def _dropout(
    settings: TranslationSettings, tokenizer: Any, rules: PairFilter, pad_to_multiple_of: int
) -> BpeDropout | None:
    """Return the recipe's BPE-dropout; an example may become no longer than its limit, or than a batch with padding."""
    if not settings.bpe_dropout:
        return None
    budgets = (settings.max_source_tokens, settings.max_target_tokens)
    limits = [
        min(limit, budget - budget % pad_to_multiple_of) for limit, budget in zip(rules.limits, budgets, strict=True)
    ]
    sides = list(SIDES) if settings.bpe_dropout_sides == "both" else [settings.bpe_dropout_sides]
    return BpeDropout.of_tokenizer(
        tokenizer, settings.bpe_dropout, settings.seed, dict(zip(SIDES, limits, strict=True)), sides
    )


def _report_shares(data: TrainingData, quiet: bool) -> None:
    log = partial(logger.log, logging.DEBUG if quiet else logging.INFO)
    for corpus, entry in zip(data.corpora, data.to_dict()["corpora"], strict=True):
        if "pairs" in entry:
            numbers = (entry["pairs"], corpus.weight, entry["pairs_of_an_epoch"], 100 * entry["share"])
            log("%s: %s pairs, weight %g: %s or %.1f %% of an epoch", corpus.name, *numbers)
        else:
            log("%s: weight %g, %.1f %% of the stream", corpus.name, corpus.weight, 100 * entry["share"])
