"""The task that the engine is given: it knows data, model inputs and scores, of which the engine knows nothing.

A task gives batches of indices, turns them into tensors, tells the size of each batch, and scores a model. So the loop
is the same for translation, language models, classifiers and images. A new task is one file in `training/tasks/`
with a class of this protocol and a function that makes its `TaskComponents`.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np
import torch
import transformers

Scores = dict[str, Any]


class BatchSize(NamedTuple):
    """The size of a batch.

    Args:
        items: what the loss is a mean over, such as target tokens, masked tokens, images.
        tokens: positions that hold input, on all sides of the batch.
        cells: positions that are computed, padding among them.
    """

    items: int
    tokens: int
    cells: int

    @classmethod
    def total(cls, sizes: Iterable["BatchSize"]) -> "BatchSize":
        """Return the sum of several batches."""
        return cls(*(sum(column) for column in zip(*sizes, strict=True)))

    @classmethod
    def of_lengths(cls, items: int, *sides: np.ndarray) -> "BatchSize":
        """Return the size of rows that are padded to their longest, one array of lengths [B] a side."""
        return cls(
            items,
            sum(int(lengths.sum()) for lengths in sides),
            sum(len(lengths) * int(lengths.max()) for lengths in sides),
        )


class ScoreInfo(Protocol):
    """What the engine needs of a score: its title, which direction is better, and how it is printed."""

    title: str
    higher_is_better: bool

    def show(self, value: Any) -> str:
        """Return the value as text."""


@dataclass
class Validation:
    """The result of a validation.

    Args:
        scores: a record for `metrics.jsonl`: numbers, and texts such as signatures. `loss` is always among them.
        samples: some inputs with what the model made of them, for `samples.jsonl`.
        details: what is too long for a record, such as a confusion matrix, for `scores.json`.
    """

    scores: Scores
    samples: list[dict[str, Any]] = field(default_factory=list)
    details: dict[str, Any] = field(default_factory=dict)


class Task(Protocol):
    """What a model learns. Indices count the task's own examples: pairs, rows of text, images.

    The batches of an epoch depend on the data, the settings and the epoch's number alone, so that a run resumes at any
    batch from two numbers. Every process has the same task and calls it in the same order.

    Attributes:
        metrics: name -> title, direction and format of the scores that `validate` gives, `loss` among them.
        forward_options: keyword arguments of the model's forward pass beside the batch and `num_items_in_batch`.
        terms: names of what the loss has beside the cross entropy: the model then returns `parts`, the cross entropy
            and each of them, to be logged; none where the loss is the cross entropy.
        in_buffers: whether an epoch is only one buffer of a stream; then indices count the buffer asked for last.
        validates: whether there is anything to validate on.
    """

    metrics: Mapping[str, ScoreInfo]
    forward_options: dict[str, Any]
    terms: tuple[str, ...]
    in_buffers: bool
    validates: bool

    def epoch(self, number: int) -> list[np.ndarray]:
        """Return the batches of an epoch in order, each an array of indices; none where a buffer holds nothing."""

    def passes(self, number: int) -> int:
        """Return how often all of the data has been seen before epoch `number`."""

    def collate(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Return the model's inputs for a batch of the current epoch, on the CPU."""

    def size(self, indices: np.ndarray) -> BatchSize:
        """Return the size of a batch of the current epoch."""

    def locate(self, index: int) -> str:
        """Return the place of an example for a message, such as `train.en line 17`."""

    def fingerprint(self) -> dict[str, int]:
        """Return numbers by which a resumed run recognises its data; other data or another tokenizer change them."""

    def validate(self, model: torch.nn.Module, *, final: bool, distributed: bool) -> Validation:
        """Score a model on the validation data.

        Args:
            final: the scores of the end, which may take longer, with a larger beam for example.
            distributed: processes share the work. A sharded model cannot: every process does all of it in step.
        """

    def describe(self, scores: Scores) -> str:
        """Return scores as one line for the terminal."""


class PlannedTask:
    """A base of most tasks: batches come from a plan, and an epoch is a pass over the data unless the plan is a stream.

    Args:
        plan: `epoch(k)` gives the batches of epoch k. A stream's plan also tells by `passes(k)` how often all of the
            data was read before its buffer k.
    """

    metrics: Mapping[str, ScoreInfo] = {}
    terms: tuple[str, ...] = ()
    validates = False

    def __init__(self, plan: Any, forward_options: dict[str, Any] | None = None):
        self.plan, self.forward_options = plan, forward_options or {}

    @property
    def in_buffers(self) -> bool:
        """Return whether an epoch is only a buffer of a stream."""
        return hasattr(self.plan, "passes")

    def epoch(self, number: int) -> list[np.ndarray]:
        """Return the batches of an epoch."""
        return self.plan.epoch(number)

    def passes(self, number: int) -> int:
        """Return how often all of the data has been seen before epoch `number`."""
        return self.plan.passes(number) if self.in_buffers else number

    def describe(self, scores: Scores) -> str:
        """Return scores as one line: title and value of each that `metrics` knows, in its order."""
        found = [
            f"{metric.title} {metric.show(scores[name])}" for name, metric in self.metrics.items() if name in scores
        ]
        return ", ".join(found)

    def validate(self, model: torch.nn.Module, *, final: bool, distributed: bool) -> Validation:
        """Raise NotImplementedError: there is nothing to validate on."""
        raise NotImplementedError(f"{type(self).__name__} has no validation data.")


@dataclass
class TaskComponents:
    """What a command gives to a run.

    Args:
        make_model: makes or loads the model; called once the seed is set.
        make_task: makes the task for that model.
        load_model: loads the model that a folder holds.
        processor: the tokenizer or image processor that is saved beside every model.
        describe_data: what the run is trained on, for `data.json`; asked at the beginning and, for streams, at the end.
        size: a few words on the amount of data, for the first line.
        processor_folder: the processor's name in the run folder.
        origin: what a new model starts from where that is not `init_from`, for the first line.
    """

    make_model: Callable[[], transformers.PreTrainedModel]
    make_task: Callable[[transformers.PreTrainedModel], Task]
    load_model: Callable[[Path], transformers.PreTrainedModel]
    processor: Any
    describe_data: Callable[[], dict[str, Any]]
    size: str
    processor_folder: str = "tokenizer"
    origin: str | None = None


def best_key(scores: Scores, best_by: str) -> str:
    """Return the score that chooses the best model: the one that the recipe names, else the loss."""
    return best_by if best_by in scores else "loss"


def ranking(scores: Scores, key: str, metrics: Mapping[str, ScoreInfo]) -> list[float]:
    """Return what models are ranked by, more being better; the loss decides between equals.

    BLEU is 0 for a long time at first, and that of an easy task is soon 100.
    """
    if key == "loss":
        return [-scores["loss"]]
    value = scores[key] if metrics[key].higher_is_better else -scores[key]
    return [value, -scores["loss"]]
