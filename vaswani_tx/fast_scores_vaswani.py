"""Scores of a step: what the processors of `generate` make of them, the best of each row, and where a target ends.

Shapes: B sentences, M hypotheses of each, R = B * M rows, V vocabulary, T target length so far, C candidates of a row.
"""

from collections.abc import Callable
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList
from transformers.generation import logits_process as library
from transformers.generation.stopping_criteria import (
    EosTokenCriteria,
    MaxLengthCriteria,
    MaxTimeCriteria,
    StopStringCriteria,
)

from .forbidden_vaswani import ForbiddenPhrases
from .generation_vaswani import TargetLimitLogitsProcessor

# Processors that treat each row by its own tokens alone, whatever its number in the batch.
_ROW_BY_ROW = tuple(
    getattr(library, name)
    for name in (
        "ForcedBOSTokenLogitsProcessor",
        "ForcedEOSTokenLogitsProcessor",
        "NoRepeatNGramLogitsProcessor",
        "NoBadWordsLogitsProcessor",
        "SequenceBiasLogitsProcessor",
        "InfNanRemoveLogitsProcessor",
        "ExponentialDecayLengthPenalty",
        "LogitNormalization",
        "TemperatureLogitsWarper",
        "TopKLogitsWarper",
        "TopPLogitsWarper",
        "MinPLogitsWarper",
        "TypicalLogitsWarper",
        "EpsilonLogitsWarper",
        "EtaLogitsWarper",
    )
    if hasattr(library, name)
)
_BLOCKS, _SMALL_VOCABULARY = 64, 2048

Process = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]


def _without(tokens: Any, is_active: Callable[[int], bool]) -> Process:
    """Return what rules tokens out, in place, at the lengths where `is_active`."""
    given = torch.as_tensor(tokens).flatten()

    def process(ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        if is_active(ids.shape[1]):
            known = given[(given >= 0) & (given < scores.shape[1])]
            scores.index_fill_(1, known.to(scores.device), -torch.inf)
        return scores

    return process


def _quick(processor: Any) -> Process | None:
    """Return what has the effect of a processor of transformers, but edits the scores in place."""
    kind = type(processor)
    if kind is library.MinLengthLogitsProcessor:
        return _without(processor.eos_token_id, lambda length: length < processor.min_length)
    if kind is library.MinNewTokensLengthLogitsProcessor:
        first, least = processor.prompt_length_to_skip, processor.min_new_tokens
        return _without(processor.eos_token_id, lambda length: length - first < least)
    if kind is library.SuppressTokensLogitsProcessor:
        return _without(processor.suppress_tokens, lambda length: True)
    if kind is library.SuppressTokensAtBeginLogitsProcessor:
        return _without(processor.begin_suppress_tokens, lambda length: length == processor.begin_index)
    return None


class ScoreProcessors:
    """The prepared `LogitsProcessorList` of `generate`, for a batch that sentences leave.

    Args:
        processors: the list.
    """

    def __init__(self, processors: LogitsProcessorList):
        self._steps: list[Any] = list(processors)
        self.lets_leave = all(self._is_free(processor) for processor in self._steps)
        self._quick = [_quick(processor) for processor in self._steps]

    def __call__(self, ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Return the scores [R, V] of what follows `ids` [R, T]; the given scores may be edited."""
        for quick, processor in zip(self._quick, self._steps, strict=True):
            scores = processor(ids, scores) if quick is None else quick(ids, scores)
        return scores

    def __bool__(self) -> bool:
        return bool(self._steps)

    def keep(self, sentences: torch.Tensor) -> None:
        """Drop all sentences but those at `sentences`, [B']."""
        for number, processor in enumerate(self._steps):
            if type(processor) is TargetLimitLogitsProcessor:
                limits = processor.limits.index_select(0, sentences.to(processor.limits.device))
                self._steps[number] = TargetLimitLogitsProcessor(limits, processor.eos_token_ids)

    @staticmethod
    def _is_free(processor: Any) -> bool:
        kind = type(processor)
        if kind is library.RepetitionPenaltyLogitsProcessor:
            return not isinstance(getattr(processor, "prompt_ignore_length", None), torch.Tensor)
        known = (TargetLimitLogitsProcessor, ForbiddenPhrases, *_ROW_BY_ROW)
        return kind in known or _quick(processor) is not None


class EndOfTargets:
    """The prepared stopping criteria of `generate`: which targets are complete.

    Args:
        criteria: the list; its own records are not written.
    """

    def __init__(self, criteria: StoppingCriteriaList):
        self.has_end = any(hasattr(one, "eos_token_id") for one in criteria)
        kinds = [type(one) for one in criteria]
        self.lets_leave = all(
            kind in (MaxLengthCriteria, EosTokenCriteria, MaxTimeCriteria, StopStringCriteria) for kind in kinds
        )
        lengths = [one.max_length for one in criteria if type(one) is MaxLengthCriteria]
        self.longest: int | None = min(lengths) if lengths else None
        ends = [one.eos_token_id for one in criteria if type(one) is EosTokenCriteria]
        self._ends = torch.cat([end.flatten() for end in ends]) if ends else None
        self._others = [one for one in criteria if type(one) not in (MaxLengthCriteria, EosTokenCriteria)]
        self.reads_ids = bool(self._others)

    def __call__(self, tokens: torch.Tensor, length: int, ids: Callable[[], torch.Tensor]) -> torch.Tensor:
        """Return which targets are complete, as `tokens`.

        Args:
            tokens: the last token of each target, of any shape.
            length: tokens of each with this one.
            ids: returns the targets, [number of tokens, length]; called where a criterion needs them.
        """
        if self.longest is not None and length >= self.longest:
            return torch.ones_like(tokens, dtype=torch.bool)
        if self._ends is None:
            ended = torch.zeros_like(tokens, dtype=torch.bool)
        elif len(self._ends) == 1:
            ended = tokens == self._ends.to(tokens.device)
        else:
            ended = torch.isin(tokens, self._ends.to(tokens.device))
        if self._others:
            targets = ids()
            for one in self._others:
                ended = ended | one(targets, None).to(ended.device).view(ended.shape)
        return ended


def best_token(scores: torch.Tensor) -> torch.Tensor:
    """Return the best token of each row [R, V]: [R]."""
    return best_of(scores, 1)[1].squeeze(1) if _has_blocks(scores, 1) else scores.argmax(dim=-1)


def best_continuations(scores: torch.Tensor, running: torch.Tensor, count: int) -> tuple[torch.Tensor, ...]:
    """Return the best continuations of a sentence's beams.

    Args:
        scores: [R, V], log-probabilities of the next token, which may be overwritten.
        running: [B, M], those of the beams.
        count: C, how many.

    Returns:
        their log-probabilities, beams and tokens, each [B, C], best first.
    """
    if not _has_blocks(scores, count):
        joined = scores.view(*running.shape, -1).add_(running[:, :, None]).flatten(1)
        values, chosen = joined.topk(count, dim=-1)
        return values, chosen // scores.shape[1], chosen % scores.shape[1]
    values, tokens = best_of(scores, count)
    joined = (values.view(*running.shape, count) + running[:, :, None]).flatten(1)
    values, chosen = joined.topk(count, dim=-1)
    return values, chosen // count, tokens.view(len(running), -1).gather(1, chosen)


def _has_blocks(scores: torch.Tensor, count: int) -> bool:
    """Return whether `best_of` is quicker than to order whole rows."""
    size = scores.shape[1]
    return size >= _SMALL_VOCABULARY and scores.device.type == "cpu" and 2 * count <= size // _BLOCKS


def best_of(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the `count` best scores of each row [R, V] and their indices, each [R, C], best first.

    The best are in the blocks with the best maxima: a large row is read once, and hardly anything of it is sorted.
    """
    rows, size = scores.shape
    width = size // _BLOCKS
    blocks = scores[:, : _BLOCKS * width].unflatten(1, (_BLOCKS, width))  # block j holds j, j + width, ...
    chosen = blocks.amax(dim=1).topk(count, dim=-1).indices  # [R, C]
    found = blocks.gather(2, chosen[:, None].expand(-1, _BLOCKS, -1))  # [R, number of blocks, C]
    places = chosen[:, None] + torch.arange(0, _BLOCKS * width, width, device=scores.device)[None, :, None]
    found, places = found.flatten(1), places.flatten(1)
    if _BLOCKS * width < size:
        rest = torch.arange(_BLOCKS * width, size, device=scores.device).expand(rows, -1)
        found, places = torch.cat((found, scores[:, _BLOCKS * width :]), 1), torch.cat((places, rest), 1)
    values, indices = found.topk(count, dim=-1)
    return values, places.gather(1, indices)


__all__ = ["EndOfTargets", "ScoreProcessors", "best_continuations", "best_of", "best_token"]
