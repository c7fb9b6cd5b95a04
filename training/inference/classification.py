"""Predictions of a classifier for many examples, and their scores for validation.

`predict(model, predictor, rows)` returns a prediction for each example in order, whatever the order of the batches;
`ClassifierValidator` is what the training loop calls.
"""

import time
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from accelerate.utils import gather_object

from vaswani_tx.training.data.labelled_rows import Rows
from vaswani_tx.training.inference.translation import length_batches

SAMPLES = 8  # predictions kept to be read


class Predictor(Protocol):
    """What turns a model's outputs into predictions and scores them, such as the `TaskSpec` of a classifier."""

    def read(self, outputs: Any, rows: Rows, indices: Sequence[int]) -> list[Any]:
        """Return what the model predicts for each row of a batch."""

    def join(self, example: Any, found: Sequence[Any]) -> dict[str, Any]:
        """Return the prediction for an example from what was read of its rows."""

    def scores(self, examples: Sequence[Any], predictions: Sequence[dict[str, Any]]) -> tuple[dict, dict]:
        """Return the scores of predictions, and details such as the confusion matrix."""

    def sample(self, example: Any, prediction: dict[str, Any]) -> dict[str, Any]:
        """Return an example with its label and the prediction, to be read."""


def predict(
    model: torch.nn.Module,
    predictor: Predictor,
    rows: Rows,
    *,
    batch_tokens: int = 8192,
    with_loss: bool = False,
    distributed: bool = False,
) -> tuple[list[dict[str, Any]], float | None]:
    """Predict every example; return the predictions, and with `with_loss` the loss a label (not smoothed).

    Args:
        batch_tokens: tokens of a batch with its padding.
        distributed: processes share the work; all of them must call, and all get everything.
    """
    plan = length_batches(rows.source_lengths.tolist(), batch_tokens)
    rank, processes = 0, 1
    if distributed and torch.distributed.is_available() and torch.distributed.is_initialized():
        rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
    found: list[tuple[int, Any]] = []
    total = 0.0
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            for indices in plan[rank::processes]:
                batch = rows.collate(indices) if with_loss else rows.inputs(indices)
                batch = {name: value.to(model.device) for name, value in batch.items()}
                # A divisor of 1 leaves the sum, which adds up over batches of any size.
                outputs = model(**batch, num_items_in_batch=1.0) if with_loss else model(**batch)
                total += float(outputs.loss) if with_loss else 0.0
                found += zip(indices, predictor.read(outputs, rows, indices), strict=True)
    finally:
        model.train(training)
    if processes > 1:
        found, total = gather_object(found), sum(gather_object([total]))
    by_example: list[list[Any]] = [[] for _ in rows.examples]
    # Rows are in the order of their examples, and those of one example in the order of its text.
    for index, values in sorted(found, key=lambda entry: entry[0]):
        by_example[rows.example_of[index]].append(values)
    predictions = [predictor.join(example, part) for example, part in zip(rows.examples, by_example, strict=True)]
    return predictions, total / int(rows.targets.sum()) if with_loss else None


@dataclass
class ClassifierValidator:
    """Scores a model on the validation examples.

    Args:
        samples: some examples with the predictions of the last call.
        reports: scores with their details (the confusion matrix) of the last calls.
    """

    predictor: Predictor
    rows: Rows
    batch_tokens: int = 8192
    distributed: bool = False
    samples: list[dict[str, Any]] = field(default_factory=list, init=False)
    reports: deque = field(default_factory=lambda: deque(maxlen=3), init=False)

    def __call__(self, model: torch.nn.Module, beam: int) -> dict[str, Any]:
        """Return `loss` (nats a label, or squared error) and the task's scores; `beam` has no meaning here."""
        start = time.monotonic()
        predictions, loss = predict(
            model,
            self.predictor,
            self.rows,
            batch_tokens=self.batch_tokens,
            with_loss=True,
            distributed=self.distributed,
        )
        scores, details = self.predictor.scores(self.rows.examples, predictions)
        chosen = np.linspace(0, len(predictions) - 1, min(SAMPLES, len(predictions)), dtype=int)
        self.samples = [self.predictor.sample(self.rows.examples[i], predictions[i]) for i in chosen]
        scores = {"loss": loss, **scores, "examples": len(predictions)}
        self.reports.append(scores | details)
        return scores | {"validation_seconds": round(time.monotonic() - start, 3)}
