# Shapes: B sources, M beams, C candidates of a step, R hypotheses returned, T target length.
"""What a call of `generate` does not return: the settings it used in the end, where each hypothesis ended, its score.

`output_scores=True` would return the scores, and with them every step's numbers for the whole vocabulary. Here three
methods of transformers' generation are watched for the time of a call, in the model that generates.
"""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from transformers import GenerationMixin, StoppingCriteriaList

from .token_texts_vaswani import target_of


@dataclass
class SearchRecord:
    """One call of `generate`, as it went."""

    config: Any = None  # the generation configuration after all defaults, lengths and limits were filled in
    prompt_length: int = 1  # tokens at the front of every sequence that were given and not generated
    lengths: torch.Tensor | None = None  # [R], generated tokens with the end of sentence
    scores: torch.Tensor | None = None  # [R], what a beam search ranked by
    tokenizer: Any = None  # for stop strings, where the call names none
    _stops: list["_WatchedCriteria"] = field(default_factory=list)

    def keep(self, scores: torch.Tensor, beam_indices: torch.Tensor) -> None:
        """Take the scores [B, M] of a beam search's best hypotheses, and the beams of their tokens [B, M, T]."""
        count = self.config.num_return_sequences
        self.scores = scores[:, :count].flatten()
        self.lengths = (beam_indices[:, :count] >= 0).sum(dim=-1).flatten()

    def lengths_of(self, sequences: torch.Tensor) -> list[int]:
        """Return how many tokens of each of the returned sequences [R, T] were generated."""
        most = sequences.shape[1] - self.prompt_length
        lengths = self.lengths
        if lengths is None and self.config.num_beams == 1 and self._stops and self._stops[-1].ends is not None:
            lengths = self._stops[-1].ends - self.prompt_length
        if lengths is None or len(lengths) != len(sequences):
            # A search of its own that told nothing: all but the padding.
            padding = getattr(self.config, "_pad_token_tensor", None)
            kept = sequences[:, self.prompt_length :] != (-1 if padding is None else padding.to(sequences.device))
            lengths = most - kept.flip(-1).int().cumsum(-1).eq(0).sum(-1)
        return lengths.clamp(0, most).tolist()

    def score(self, log_prob: float, num_tokens: int) -> float:
        """Return the score of a hypothesis that no beam search has scored, by the same rule."""
        return log_prob / float(max(num_tokens, 1) ** self.config.length_penalty)

    def certain_tokens(self) -> dict[int, set[int]]:
        """Return the ids that generation writes at a position of the target whatever their probability."""
        forced = {1: self.config.forced_bos_token_id, self.config.max_length - 1: self.config.forced_eos_token_id}
        return {
            place: set(ids) if isinstance(ids, list | tuple) else {ids}
            for place, ids in forced.items()
            if ids is not None and place >= self.prompt_length
        }


class _WatchedCriteria(StoppingCriteriaList):
    """Stopping criteria that note where each row is ended first."""

    ends: torch.Tensor | None = None  # [R], length of the row

    def __call__(self, input_ids: torch.LongTensor, scores: Any, **kwargs: Any) -> torch.BoolTensor:
        stopped = super().__call__(input_ids, scores, **kwargs)
        length = input_ids.shape[1]
        before = self.ends
        if before is None or len(before) != len(stopped):
            before = torch.full(stopped.shape, torch.iinfo(torch.long).max, device=stopped.device)
        self.ends = torch.where(stopped, before.clamp(max=length), before)
        return stopped


_RECORD: ContextVar[SearchRecord | None] = ContextVar("search_record", default=None)
_LOCK = threading.Lock()
_WATCHERS = "_search_watchers"


def current_record() -> SearchRecord | None:
    """Return the record of the call of `generate` that runs now, for searches of our own."""
    return _RECORD.get()


@contextmanager
def recorded_search(model: Any, tokenizer: Any = None) -> Iterator[SearchRecord]:
    """Record the call of `generate` within the block; calls in other threads are not touched.

    `tokenizer` reads stop strings: transformers loses that of the call beside a `custom_generate`.
    """
    generating = next((part for part in model.modules() if isinstance(part, GenerationMixin)), model)
    record = SearchRecord(tokenizer=target_of(tokenizer))
    token = _RECORD.set(record)
    _watch(generating, 1)
    try:
        yield record
    finally:
        _watch(generating, -1)
        _RECORD.reset(token)


def _watch(model: Any, change: int) -> None:
    """Put the watching methods in front of the model's own while a record is kept, and take them away after."""
    with _LOCK:
        count = vars(model).get(_WATCHERS, 0) + change
        if count == change == 1:
            for name, method in _METHODS.items():
                vars(model)[name] = partial(method, model)
        vars(model)[_WATCHERS] = count
        if not count:
            for name in (*_METHODS, _WATCHERS):
                del vars(model)[name]


def _prepare_generated_length(model: Any, **kwargs: Any) -> Any:
    config = type(model)._prepare_generated_length(model, **kwargs)
    if (record := _RECORD.get()) is not None:
        record.config, record.prompt_length = config, kwargs["input_ids_length"]
    return config


def _get_stopping_criteria(model: Any, *args: Any, **kwargs: Any) -> StoppingCriteriaList:
    record = _RECORD.get()
    if record is None:
        return type(model)._get_stopping_criteria(model, *args, **kwargs)
    if kwargs.get("tokenizer") is None:
        kwargs["tokenizer"] = record.tokenizer
    criteria = type(model)._get_stopping_criteria(model, *args, **kwargs)
    record._stops.append(_WatchedCriteria(criteria))
    return record._stops[-1]


def _update_finished_beams(model: Any, **kwargs: Any) -> tuple[torch.Tensor, ...]:
    found = type(model)._update_finished_beams(model, **kwargs)
    if (record := _RECORD.get()) is not None:
        _, scores, beam_indices, _ = found
        record.keep(scores, beam_indices)
    return found


_METHODS = {
    "_prepare_generated_length": _prepare_generated_length,
    "_get_stopping_criteria": _get_stopping_criteria,
    "_update_finished_beams": _update_finished_beams,
}


__all__ = ["SearchRecord", "current_record", "recorded_search"]
