# Shapes: B rows, S source length, T target length, E width of embeddings, D width of the encoder's states.
"""Speed of a training step and length of gradient paths, of models of equal size: the Transformer and LSTMs.

Speed: a step is forward and backward pass of the training loop's call: smoothed loss, dropout, no full logits. Every
model gets the same tokens, sources and targets of one length without padding. Measurements are interleaved: in each
round every length of every model is timed once, so that a slow minute of the machine affects all alike.

Gradients, dropout off: how much arrives at the embedding of the first source token, over two distances. In the encoder:
from the state at position j, projected on a random unit vector; a recurrent layer passes it on one position at a time,
self-attention in one step (Table 1 of the paper, "maximum path length"). In the whole model: from the loss of the t-th
target token. There attention gives the LSTM a short path too; the LSTM without attention shows what it was before.
"""

import statistics
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm
from transformers import AutoTokenizer, PreTrainedModel

from vaswani_tx.token_texts_vaswani import source_of, target_of
from vaswani_tx.training.data.lines import read_lines
from vaswani_tx.training.errors import MeasurementError
from vaswani_tx.training.models.architectures import ARCHITECTURES

# Fields of LstmSeq2SeqConfig that make each contender; None: the Transformer.
CONTENDERS: dict[str, dict[str, Any] | None] = {
    "Transformer": None, "LSTM": {}, "LSTM, input feeding": {"input_feeding": True},
    "LSTM, no attention": {"attention": "none"},
}  # fmt: skip
PATHS = ("encoder", "target")
WARM_UP = 2  # rounds that are not counted


def size_of(architecture: str, preset: str, fields: dict[str, Any]) -> int:
    """Return the number of weights of a model that is not made; no memory is taken."""
    with torch.device("meta"):
        return ARCHITECTURES[architecture].make(preset, fields).num_parameters()


def matching_width(preset: str, wanted: int, fields: dict[str, Any]) -> int:
    """Return the even `hidden_size` that brings an LSTM of a preset's layers nearest to `wanted` parameters.

    Raises MeasurementError where the embeddings alone have more.
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


def make_contender(name: str, preset: str, vocab_size: int, seed: int) -> PreTrainedModel:
    """Return a new model, an LSTM of the width that gives it the Transformer's number of parameters."""
    fields, special = {"vocab_size": vocab_size}, CONTENDERS[name]
    if special is None:
        torch.manual_seed(seed)
        return ARCHITECTURES["vaswani"].make(preset, fields)
    wanted = size_of("vaswani", preset, fields)
    fields |= special
    fields["hidden_size"] = matching_width(preset, wanted, fields)
    torch.manual_seed(seed)
    return ARCHITECTURES["lstm"].make(preset, fields)


def describe(model: PreTrainedModel) -> dict[str, Any]:
    """Return what a model is: its parameters, its type, and an LSTM's width."""
    found = {"parameters": model.num_parameters(), "model_type": model.config.model_type}
    return found | ({"lstm_width": model.config.hidden_size} if found["model_type"] == "lstm_seq2seq" else {})


def random_tokens(rows: int, length: int, vocab_size: int, seed: int) -> torch.Tensor:
    """Return token ids [rows, length] without special tokens (the first few of a vocabulary)."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(min(4, vocab_size - 1), vocab_size, (rows, length), generator=generator)


def measure_speed(
    models: dict[str, PreTrainedModel], lengths: Sequence[int], batch_tokens: int, rounds: int, device: torch.device,
    progress: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Time one training step for every model and length (tokens of each source and each target).

    Args:
        batch_tokens: target tokens of a batch, and as many of the source: `batch_tokens // length` rows.
        rounds: timings of each, after WARM_UP that are not counted.

    Returns:
        for each model and length `seconds` (median), `seconds_low` and `seconds_high` (quartiles), `seconds_least` (the
        fastest, which other work on the machine disturbed least), `steps_per_second` and `target_tokens_per_second`
        (both of the median).

    Raises MeasurementError for a length above `batch_tokens`.
    """
    if max(lengths) > batch_tokens:
        raise MeasurementError(
            f"--lengths {max(lengths)} is above --batch-tokens {batch_tokens}: a batch needs one row."
        )
    for model in models.values():
        model.to(device).train()
    vocabulary = min(map(_common_vocabulary, models.values()))
    batches = {}
    for n in lengths:
        source, target = (random_tokens(batch_tokens // n, n, vocabulary, 2 * n + part) for part in (0, 1))
        batch = {"input_ids": source, "attention_mask": torch.ones_like(source), "labels": target}
        batches[n] = {name: value.to(device) for name, value in batch.items()}
    wait = (lambda: torch.cuda.synchronize(device)) if device.type == "cuda" else (lambda: None)
    times: dict[tuple[str, int], list[float]] = {(name, n): [] for n in lengths for name in models}
    for number in tqdm(range(rounds + WARM_UP), unit="round", disable=not progress, leave=False):
        for (name, n), taken in times.items():
            seconds = _time_step(models[name], batches[n], wait)
            if number >= WARM_UP:
                taken.append(seconds)
    described = {
        name: describe(model) | {"steps": [_quartiles(times[name, n], batch_tokens // n * n) for n in lengths]}
        for name, model in models.items()
    }
    return {
        "what": "one training step (forward and backward pass, dropout on), the optimiser's update left out",
        "units": {"seconds": "s", "steps_per_second": "1/s", "length": "tokens of each source and of each target"},
        "batch_tokens": batch_tokens, "rounds": rounds, "vocab_size": vocabulary, "models": described,
        "lengths": list(lengths), "rows": [batch_tokens // n for n in lengths],
    }  # fmt: skip


def _time_step(model: PreTrainedModel, batch: dict[str, torch.Tensor], wait: Callable[[], None]) -> float:
    """Return the seconds of one step; gradients are freed outside of the clock."""
    wait()
    began = time.perf_counter()
    model(**batch, label_smoothing=0.1, skip_logits=True, use_cache=False).loss.backward()
    wait()
    seconds = time.perf_counter() - began
    model.zero_grad(set_to_none=True)
    return seconds


def _quartiles(taken: list[float], tokens: int) -> dict[str, float]:
    middle = statistics.median(taken)
    low, _, high = statistics.quantiles(taken, n=4, method="inclusive") if len(taken) > 1 else (middle,) * 3
    return {
        "seconds": middle, "seconds_low": low, "seconds_high": high, "seconds_least": min(taken),
        "steps_per_second": 1 / middle, "target_tokens_per_second": tokens / middle,
    }  # fmt: skip


def speed_table(result: dict[str, Any]) -> list[list[str]]:
    """Return header and rows: steps a second of each model at each length."""
    rows = [["length", "rows", *result["models"]]]
    for number, (length, count) in enumerate(zip(result["lengths"], result["rows"], strict=True)):
        speeds = [model["steps"][number]["steps_per_second"] for model in result["models"].values()]
        rows.append([str(length), str(count), *(f"{speed:.3g}" for speed in speeds)])
    return rows


def distances(length: int, points: int = 12) -> list[int]:
    """Return up to `points` whole numbers from 1 to `length`, about evenly spaced on a logarithmic scale."""
    spread = torch.logspace(0, torch.log10(torch.tensor(float(length))), points, dtype=torch.float64)
    return sorted({round(value) for value in spread.tolist()})


def measure_gradients(
    makers: dict[str, Callable[[int], PreTrainedModel]], length: int, rows: int, seeds: int,
    text: Iterable[str] | None = None,
) -> dict[str, Any]:  # fmt: skip
    """Measure norms of gradients at the first source token.

    Args:
        makers: `make(seed) -> model` by name; a trained model comes from a function that ignores the seed.
        length: tokens of each source and of each target.
        rows: sentences of a batch.
        seeds: initialisations (and random batches) of each.
        text: line-aligned source and target file to take trained models' tokens from; None: random tokens.

    Returns:
        for each model and path ("encoder", "target") the `distances`, the median `norm` over rows and seeds and its
        quartiles `low` and `high`, and `share`: the median of the norm over the mean norm at all source tokens.
    """
    where = distances(length)
    described: dict[str, Any] = {}
    for name, make in makers.items():
        found: dict[str, list[torch.Tensor]] = {path: [] for path in PATHS}
        for seed in range(1, seeds + 1):
            model = make(seed).eval()
            if text:
                sides = zip(text, (source_of, target_of), strict=True)
                source, target = (_running_text(model.name_or_path, *side, rows, length, seed) for side in sides)
            else:
                size = _common_vocabulary(model)
                source, target = (random_tokens(rows, length, size, 2 * seed + part) for part in (0, 1))
            found["encoder"].append(encoder_gradients(model, source, where, seed))
            found["target"].append(target_gradients(model, source, target, where))
        described[name] = describe(model) | {path: _summary(torch.cat(found[path], dim=1)) for path in PATHS}
    return {
        "what": "norm of the gradient at the first source token's row of the embedding, before any scaling; dropout "
        "off. encoder: of a state's projection on a random unit vector; target: of a target token's loss",
        "units": {"norm": "nats (target) or units of the state (encoder) per unit of the embedding"},
        "length": length, "rows": rows, "seeds": seeds, "tokens": "text" if text else "random",
        "distances": where, "models": described,
    }  # fmt: skip


def encoder_gradients(model: PreTrainedModel, source: torch.Tensor, where: Sequence[int], seed: int) -> torch.Tensor:
    """Return [len(where), B, S]: at each source token, the norm from the encoder's state at positions `where`."""
    embedded = _embed(model, source)
    states = model.get_encoder()(inputs_embeds=embedded).last_hidden_state  # [B, S, D]
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(states.shape[-1], generator=generator, dtype=states.dtype)
    direction /= direction.norm()
    return _norms([(states[:, position - 1] @ direction).sum() for position in where], embedded)


def target_gradients(
    model: PreTrainedModel, source: torch.Tensor, target: torch.Tensor, where: Sequence[int]
) -> torch.Tensor:
    """Return [len(where), B, S]: at each source token, the norm from the loss of the target tokens `where`."""
    embedded = _embed(model, source)
    inputs = model.prepare_decoder_input_ids_from_labels(target)
    logits = model(inputs_embeds=embedded, decoder_input_ids=inputs, use_cache=False).logits
    losses = -logits.log_softmax(-1).gather(-1, target.unsqueeze(-1)).squeeze(-1)  # [B, T]
    return _norms([losses[:, position - 1].sum() for position in where], embedded)


def _embed(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    return model.get_input_embeddings().weight.detach()[tokens].requires_grad_()


def _norms(values: list[torch.Tensor], embedded: torch.Tensor) -> torch.Tensor:
    # Rows are independent, so that one backward pass gives the gradients of all of them.
    gradients = (torch.autograd.grad(value, embedded, retain_graph=True)[0] for value in values)
    return torch.stack([gradient.double().norm(dim=-1) for gradient in gradients])


def _summary(norms: torch.Tensor) -> dict[str, list[float]]:
    """Return the summary of norms [distances, rows, S] at the first token."""
    first = norms[..., 0]
    low, middle, high = torch.quantile(first, torch.tensor([0.25, 0.5, 0.75], dtype=first.dtype), dim=1)
    share = (first / norms.mean(dim=-1).clamp(min=1e-300)).median(dim=1).values
    return {"norm": middle.tolist(), "low": low.tolist(), "high": high.tolist(), "share": share.tolist()}


def _common_vocabulary(model: PreTrainedModel) -> int:
    """Return below which number every id is a token, of the source's vocabulary and of the target's."""
    return min(model.config.vocab_size, getattr(model.config, "source_vocab_size", None) or model.config.vocab_size)


def _running_text(
    folder: str, path: str, side: Callable[[Any], Any], rows: int, length: int, seed: int
) -> torch.Tensor:
    """Return tokens [rows, length] of a file's lines, joined, of one side; each seed takes the next rows."""
    if not (Path(folder) / "tokenizer.json").is_file():
        raise MeasurementError(
            f"'{folder}' has no tokenizer.json: text needs the model's own tokenizer beside its weights."
        )
    tokenizer = side(AutoTokenizer.from_pretrained(folder))
    needed = rows * length * seed
    tokens: list[int] = []
    for line in read_lines(path):
        tokens += tokenizer(line, add_special_tokens=False)["input_ids"]
        if len(tokens) >= needed:
            return torch.tensor(tokens[needed - rows * length : needed]).view(rows, length)
    raise MeasurementError(
        f"{path} has {len(tokens)} tokens but {needed} are needed: lower --gradient-length, --gradient-rows or --seeds."
    )


def gradient_table(result: dict[str, Any]) -> list[list[str]]:
    """Return header and rows: for each model the norm at the shortest and the longest distance, and their ratio."""
    where = result["distances"]
    rows = [["gradient at the first token", f"distance {where[0]}", f"distance {where[-1]}", "left"]]
    for path in PATHS:
        for name, model in result["models"].items():
            near, far = model[path]["norm"][0], model[path]["norm"][-1]
            rows.append([f"{path}: {name}", f"{near:.3g}", f"{far:.3g}", f"{far / near:.2g}" if near else "-"])
    return rows
