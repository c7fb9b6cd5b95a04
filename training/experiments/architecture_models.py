"""The models that `vaswani_tx.training.compare_architectures` compares, all of one number of parameters and one vocabulary."""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel

from vaswani_tx.training.errors import MeasurementError
from vaswani_tx.training.models.architectures import ARCHITECTURES
from vaswani_tx.training.models.loading import check_folder, load_pretrained

# Fields of LstmSeq2SeqConfig that make each contender; None: the Transformer.
CONTENDERS: dict[str, dict[str, Any] | None] = {
    "Transformer": None,
    "LSTM": {},
    "LSTM, input feeding": {"input_feeding": True},
    "LSTM, no attention": {"attention": "none"},
}


def count_parameters(model: torch.nn.Module) -> int:
    """Weights of a model, shared ones once."""
    return sum(parameter.numel() for parameter in model.parameters())


def size_of(architecture: str, preset: str, fields: dict[str, Any]) -> int:
    """The number of weights of a model that is not made; no memory is taken."""
    with torch.device("meta"):
        return count_parameters(ARCHITECTURES[architecture].make(preset, fields))


def matching_width(preset: str, wanted: int, fields: dict[str, Any]) -> int:
    """The even `hidden_size` that brings an LSTM of a preset's layers nearest to `wanted` parameters.

    Raises:
        MeasurementError: embeddings alone have more.
    """

    def size(half: int) -> int:
        return size_of("lstm", preset, fields | {"hidden_size": 2 * half})

    below, above = 1, 2
    if size(below) > wanted:
        raise MeasurementError(f"No LSTM has as few as {wanted:,} parameters with {fields}: choose a larger preset.")
    while size(above) <= wanted:
        below, above = above, 2 * above
    while above - below > 1:
        middle = (below + above) // 2
        below, above = (middle, above) if size(middle) <= wanted else (below, middle)
    return 2 * min((below, above), key=lambda half: abs(size(half) - wanted))


def make_contenders(names: Iterable[str], preset: str, vocab_size: int, seed: int) -> dict[str, PreTrainedModel]:
    """New models by their names, each LSTM of the width that gives it the Transformer's number of parameters."""
    shared = {"vocab_size": vocab_size}
    wanted = size_of("vaswani", preset, shared)
    models = {}
    for name in names:
        torch.manual_seed(seed)
        special = CONTENDERS[name]
        if special is None:
            models[name] = ARCHITECTURES["vaswani"].make(preset, shared)
        else:
            fields = shared | special
            fields["hidden_size"] = matching_width(preset, wanted, fields)
            models[name] = ARCHITECTURES["lstm"].make(preset, fields)
    return models


def load_contenders(checkpoints: dict[str, str]) -> dict[str, PreTrainedModel]:
    """Trained models by their names, from their folders; raises CheckpointError for one that cannot be read."""
    models = {}
    for name, folder in checkpoints.items():
        check_folder(Path(folder))
        models[name] = load_pretrained(AutoModelForSeq2SeqLM, folder, dtype=torch.float32)
    return models


def sizes(models: dict[str, PreTrainedModel]) -> dict[str, dict[str, Any]]:
    """What each model is, for the record: parameters, and an LSTM's width."""
    found = {}
    for name, model in models.items():
        found[name] = {"parameters": count_parameters(model), "model_type": model.config.model_type}
        if (width := getattr(model.config, "hidden_size", None)) and model.config.model_type == "lstm_seq2seq":
            found[name]["lstm_width"] = width
    return found


def synchronizer(device: torch.device) -> Callable[[], None]:
    """What waits until the device has done what it was given; nothing on a CPU, which is done already."""
    return (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)


def random_tokens(rows: int, length: int, vocab_size: int, seed: int) -> torch.Tensor:
    """Token ids [rows, length] without special tokens (the first few of a vocabulary)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(min(4, vocab_size - 1), vocab_size, (rows, length), generator=generator)
