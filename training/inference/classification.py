"""Predictions of a classifier for many examples, in their order, whatever the order of the batches."""

from typing import Any

import torch
from accelerate.utils import gather_object

from vaswani_tx.training.data.labelled_rows import Rows
from vaswani_tx.training.inference.task_specs import TaskSpec
from vaswani_tx.training.inference.translation import evaluating, length_batches


def predict(
    model: torch.nn.Module,
    spec: TaskSpec,
    rows: Rows,
    *,
    batch_tokens: int = 8192,
    with_loss: bool = False,
    distributed: bool = False,
) -> tuple[list[dict[str, Any]], float | None]:
    """Return a prediction for each example, and with `with_loss` the mean loss over labels (not smoothed).

    Args:
        batch_tokens: tokens of a batch with its padding.
        distributed: processes share the work; all of them must call, and all get everything.
    """
    plan = length_batches(rows.lengths.tolist(), batch_tokens)
    rank, processes = 0, 1
    if distributed and torch.distributed.is_available() and torch.distributed.is_initialized():
        rank, processes = torch.distributed.get_rank(), torch.distributed.get_world_size()
    found: list[tuple[int, Any]] = []
    total = 0.0
    with evaluating(model), torch.no_grad():
        for indices in plan[rank::processes]:
            batch = rows.collate(indices) if with_loss else rows.inputs(indices)
            batch = {name: value.to(model.device) for name, value in batch.items()}
            # A divisor of 1 leaves the sum, which adds up over batches of any size.
            outputs = model(**batch, num_items_in_batch=1.0) if with_loss else model(**batch)
            total += float(outputs.loss) if with_loss else 0.0
            found += zip(indices, spec.read(outputs, rows, indices), strict=True)
    if processes > 1:
        found, total = gather_object(found), sum(gather_object([total]))
    by_example: list[list[Any]] = [[] for _ in rows.examples]
    # Rows are in the order of their examples, and those of one example in the order of its text.
    for index, values in sorted(found, key=lambda entry: entry[0]):
        by_example[rows.example_of[index]].append(values)
    predictions = [spec.join(example, part) for example, part in zip(rows.examples, by_example, strict=True)]
    return predictions, total / int(rows.targets.sum()) if with_loss else None
