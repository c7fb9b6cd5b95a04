"""Training steps a second against the length of sentences, at equal parameters and equal tokens a batch.

A step is forward and backward pass of the training loop's call: smoothed loss, dropout, no full logits. Every model
gets the same tokens, sources and targets of one length without padding. Measurements are interleaved: in each round
every length of every model is timed once, so that a slow minute of the machine hits all alike; medians are reported.
"""

import statistics
import time
from collections.abc import Sequence
from typing import Any

import torch
from tqdm import tqdm
from transformers import PreTrainedModel

from vaswani_tx.training.errors import MeasurementError
from vaswani_tx.training.experiments.architecture_models import random_tokens, sizes, synchronizer

WARM_UP = 2


def measure_speed(
    models: dict[str, PreTrainedModel],
    lengths: Sequence[int],
    batch_tokens: int,
    rounds: int,
    device: torch.device,
    progress: bool = False,
) -> dict[str, Any]:
    """Times one training step for every model and length.

    Args:
        lengths: tokens of each source and each target.
        batch_tokens: target tokens of a batch, and as many of the source: `batch_tokens // length` rows.
        rounds: timings of each, after two that do not count.

    Returns:
        for each model and length `seconds` (median), `seconds_low` and `seconds_high` (quartiles), `seconds_least` (the
        fastest, which other work on the machine disturbed least), `steps_per_second` and `target_tokens_per_second`
        (both of the median).

    Raises:
        MeasurementError: a length that is above `batch_tokens`.
    """
    if max(lengths) > batch_tokens:
        raise MeasurementError(
            f"--lengths {max(lengths)} is above --batch-tokens {batch_tokens}: a batch needs one row."
        )
    for model in models.values():
        model.to(device).train()
    vocabulary = min(model.config.vocab_size for model in models.values())
    batches = {n: _batch(batch_tokens // n, n, vocabulary, device) for n in lengths}
    wait = synchronizer(device)
    times: dict[tuple[str, int], list[float]] = {(name, n): [] for n in lengths for name in models}
    for number in tqdm(range(rounds + WARM_UP), unit="round", disable=not progress, leave=False):
        for (name, length), taken in times.items():
            seconds = _time_step(models[name], batches[length], wait)
            if number >= WARM_UP:
                taken.append(seconds)
    result: dict[str, Any] = {
        "what": "one training step (forward and backward pass, dropout on), the optimiser's update left out",
        "units": {"seconds": "s", "steps_per_second": "1/s", "length": "tokens of each source and of each target"},
        "batch_tokens": batch_tokens, "rounds": rounds, "vocab_size": vocabulary, "models": sizes(models),
    }  # fmt: skip
    result["lengths"] = list(lengths)
    result["rows"] = [batch_tokens // length for length in lengths]
    for name in models:
        result["models"][name]["steps"] = [
            _summary(times[name, length], batch_tokens // length * length) for length in lengths
        ]
    return result


def _batch(rows: int, length: int, vocab_size: int, device: torch.device) -> dict[str, torch.Tensor]:
    source = random_tokens(rows, length, vocab_size, seed=2 * length)
    target = random_tokens(rows, length, vocab_size, seed=2 * length + 1)
    batch = {"input_ids": source, "attention_mask": torch.ones_like(source), "labels": target}
    return {name: value.to(device) for name, value in batch.items()}


def _time_step(model: PreTrainedModel, batch: dict[str, torch.Tensor], wait) -> float:
    """Seconds of one step; gradients are freed outside of the clock."""
    wait()
    began = time.perf_counter()
    model(**batch, label_smoothing=0.1, skip_logits=True, use_cache=False).loss.backward()
    wait()
    seconds = time.perf_counter() - began
    model.zero_grad(set_to_none=True)
    return seconds


def _summary(taken: list[float], tokens: int) -> dict[str, float]:
    middle = statistics.median(taken)
    low, _, high = statistics.quantiles(taken, n=4, method="inclusive") if len(taken) > 1 else (middle,) * 3
    return {
        "seconds": middle, "seconds_low": low, "seconds_high": high, "seconds_least": min(taken),
        "steps_per_second": 1 / middle, "target_tokens_per_second": tokens / middle,
    }  # fmt: skip


def speed_table(result: dict[str, Any]) -> list[list[str]]:
    """Header and rows: steps a second of each model at each length."""
    names = list(result["models"])
    rows = [["length", "rows", *names]]
    for place, length in enumerate(result["lengths"]):
        steps = [result["models"][name]["steps"][place]["steps_per_second"] for name in names]
        rows.append([str(length), str(result["rows"][place]), *(f"{value:.3g}" for value in steps)])
    return rows
