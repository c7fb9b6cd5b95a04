"""Models of transformers as originals to compare with, loaded when they are first asked for their logits."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from vaswani_tx.convert.core import Batch
from vaswani_tx.loading import load_model


def original_of(
    model_class: Any, folder: Path, call: Callable[[Any, Batch], torch.Tensor] | None = None, **options: Any
) -> tuple[Callable[[Batch], torch.Tensor], Callable[[Batch], torch.Tensor]]:
    """Return what computes the logits of a folder's model in float32 and in float64.

    Args:
        model_class: a class of transformers.
        folder: where its weights are.
        call: computes the logits of a model for a batch; None: calls it with the batch.
        options: go to `from_pretrained`.
    """
    loaded: dict[str, Any] = {}

    def model(dtype: torch.dtype) -> Any:
        if "model" not in loaded:
            loaded["model"] = load_model(model_class, folder, dtype=dtype, **options).eval()
        return loaded["model"].to(dtype)

    def run(dtype: torch.dtype, batch: Batch) -> torch.Tensor:
        with torch.no_grad():
            found = model(dtype)
            return found(**batch).logits if call is None else call(found, batch)

    return lambda batch: run(torch.float32, batch), lambda batch: run(torch.float64, batch)


__all__ = ["original_of"]
