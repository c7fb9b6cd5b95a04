"""Scores of an image classifier: loss, accuracy, F1 of every class and their mean, and the confusion matrix.

Shapes: B batch, C classes.
"""

import time
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch

from vaswani_tx.training.data.image_batches import Pixels


@dataclass
class ImageValidator:
    """Scores a model on one split.

    Args:
        pixels: the split's images.
        classes: C.
        batch_size: images of a batch.
        distributed: processes share the work. A sharded model cannot: there every process does all of it in step.
        samples: nothing, which is what classifiers have to show beside their scores.
        confusion: [C, C] of the last call: how many images of class i were taken for class j.
    """

    pixels: Pixels
    classes: int
    batch_size: int = 256
    distributed: bool = False
    samples: list[dict[str, str]] = field(default_factory=list, init=False)
    confusion: np.ndarray = field(default=None, init=False)

    def __call__(self, model: torch.nn.Module, beam: int = 1) -> dict[str, Any]:
        """`loss` (nats an image, not smoothed), `accuracy` and `f1` (the mean over classes), both from 0 to 1."""
        start = time.monotonic()
        loss, self.confusion = self._run(model)
        total = self.confusion.sum()
        scores = {"loss": loss / int(total), "accuracy": float(np.trace(self.confusion) / total)}
        scores["f1"] = macro_f1(self.confusion)
        return scores | {"images": int(total), "validation_seconds": round(time.monotonic() - start, 3)}

    @torch.inference_mode()
    def _run(self, model: torch.nn.Module) -> tuple[float, np.ndarray]:
        device = next(model.parameters()).device
        shares = self.distributed and torch.distributed.is_initialized()
        rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if shares else (0, 1)
        loss = torch.zeros((), dtype=torch.float64, device=device)
        confusion = torch.zeros(self.classes**2, dtype=torch.int64, device=device)
        training = model.training
        model.eval()
        for first in range(rank * self.batch_size, len(self.pixels), world * self.batch_size):
            indices = np.arange(first, min(first + self.batch_size, len(self.pixels)))
            images = self.pixels.tensor(self.pixels.bytes(indices)).to(device)
            labels = torch.from_numpy(self.pixels.images.labels[indices]).to(device)
            logits = model(pixel_values=images).logits.float()
            loss += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").double()
            places = labels * self.classes + logits.argmax(dim=-1)
            confusion += torch.bincount(places, minlength=self.classes**2)
        model.train(training)
        if shares:
            torch.distributed.all_reduce(loss)
            torch.distributed.all_reduce(confusion)
        return float(loss), confusion.reshape(self.classes, self.classes).cpu().numpy()


def class_scores(confusion: np.ndarray) -> dict[str, list[float]]:
    """Precision, recall and F1 of every class from a confusion matrix [C, C]; 0 where nothing was to be counted."""
    hits = np.diag(confusion).astype(float)
    found, present = confusion.sum(axis=0), confusion.sum(axis=1)
    precision = hits / np.maximum(found, 1)
    recall = hits / np.maximum(present, 1)
    f1 = 2 * hits / np.maximum(found + present, 1)
    return {"precision": precision.tolist(), "recall": recall.tolist(), "f1": f1.tolist()}


def macro_f1(confusion: np.ndarray) -> float:
    """The mean F1 of the classes that occur, whether as an image's own or as what one was taken for."""
    occurs = confusion.sum(axis=0) + confusion.sum(axis=1) > 0
    return float(np.mean(np.array(class_scores(confusion)["f1"])[occurs]))


def full_scores(validator: ImageValidator, model: torch.nn.Module, names: list[str]) -> dict[str, Any]:
    """What goes into a file of scores: the numbers of `ImageValidator`, those of each class, the confusion matrix."""
    scores = validator(model)
    per_class = class_scores(validator.confusion)
    counts = validator.confusion.sum(axis=1).tolist()
    return {
        "images": scores["images"],
        "accuracy": scores["accuracy"],
        "macro_f1": scores["f1"],
        "loss": scores["loss"],
        "classes": {
            name: {"images": counts[number], **{key: values[number] for key, values in per_class.items()}}
            for number, name in enumerate(names)
        },
        "confusion": validator.confusion.tolist(),
    }


def show_confusion(confusion: list[list[int]], names: list[str]) -> str:
    """A confusion matrix as a table for people: a row for each true class, a column for what it was taken for."""
    cells = [["", *names], *([name, *map(str, row)] for name, row in zip(names, confusion, strict=True))]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join(" ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
