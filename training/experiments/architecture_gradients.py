# Shapes: B rows, S source length, T target length, E width of embeddings, D width of the encoder's states.
"""How much of a gradient arrives at the first source token, against the distance that it has to travel.

Two distances. In the encoder: from the state at position j, projected on a random unit vector, back to the embedding of
the first token, j - 1 positions away; a recurrent layer passes it on one position at a time, self-attention in one step
(Table 1 of the paper, "maximum path length"). In the whole model: from the loss of the t-th target token to the
embedding of the first source token. There attention gives the LSTM a short path too, which is what it was invented for;
the LSTM without attention shows what it was before.

Dropout is off. Norms are medians over rows and seeds; those of trained models may be taken on text.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import AutoTokenizer, PreTrainedModel

from vaswani_tx.training.data.lines import read_lines
from vaswani_tx.training.errors import MeasurementError
from vaswani_tx.training.experiments.architecture_models import random_tokens, sizes

TASK_SPECS = ("encoder", "target")


def distances(length: int, points: int = 12) -> list[int]:
    """Up to `points` whole numbers from 1 to `length`, about evenly spaced on a logarithmic scale."""
    spread = torch.logspace(0, torch.log10(torch.tensor(float(length))), points, dtype=torch.float64)
    return sorted({round(value) for value in spread.tolist()})


def measure_gradients(
    makers: dict[str, Any], length: int, rows: int, seeds: int, text: tuple[str, str] | None = None
) -> dict[str, Any]:
    """Norms of gradients at the first source token.

    Args:
        makers: `make(seed) -> model` by name; a trained model comes from a function that ignores the seed.
        length: tokens of each source and of each target.
        rows: sentences of a batch.
        seeds: initialisations (and random batches) of each.
        text: line-aligned source and target file to take trained models' tokens from; None: random tokens.

    Returns:
        for each model and kind ("encoder", "target") the `distances`, the median `norm` and its quartiles `low` and
        `high`, and `share`: the median of the norm over the mean norm at all source tokens.
    """
    where = distances(length)
    described: dict[str, Any] = {}
    for name, make in makers.items():
        found: dict[str, list[torch.Tensor]] = {kind: [] for kind in TASK_SPECS}
        model = None
        for seed in range(1, seeds + 1):
            model = make(seed).eval()
            source, target = _tokens(model, rows, length, seed, text)
            found["encoder"].append(encoder_gradients(model, source, where, seed))
            found["target"].append(target_gradients(model, source, target, where))
        described |= sizes({name: model})
        for kind in TASK_SPECS:
            described[name][kind] = _summary(torch.cat(found[kind], dim=1))
    return {
        "what": "norm of the gradient at the first source token's row of the embedding, before any scaling; dropout "
        "off. encoder: of a state's projection on a random unit vector; target: of a target token's loss",
        "units": {"norm": "nats (target) or units of the state (encoder) per unit of the embedding"},
        "length": length, "rows": rows, "seeds": seeds, "tokens": "text" if text else "random",
        "distances": where, "models": described,
    }  # fmt: skip


def encoder_gradients(model: PreTrainedModel, source: torch.Tensor, where: Sequence[int], seed: int) -> torch.Tensor:
    """Give [len(where), B, S]: at each source token, the norm from the encoder's state at each position of `where`."""
    embedded = _embed(model, source)
    states = model.get_encoder()(inputs_embeds=embedded).last_hidden_state  # [B, S, D]
    generator = torch.Generator().manual_seed(seed)
    direction = torch.randn(states.shape[-1], generator=generator, dtype=states.dtype)
    direction /= direction.norm()
    return _norms([(states[:, place - 1] @ direction).sum() for place in where], embedded)


def target_gradients(
    model: PreTrainedModel, source: torch.Tensor, target: torch.Tensor, where: Sequence[int]
) -> torch.Tensor:
    """Give [len(where), B, S]: at each source token, the norm from the loss of each target token of `where`."""
    embedded = _embed(model, source)
    inputs = model.prepare_decoder_input_ids_from_labels(target)
    logits = model(inputs_embeds=embedded, decoder_input_ids=inputs, use_cache=False).logits
    losses = -logits.log_softmax(-1).gather(-1, target.unsqueeze(-1)).squeeze(-1)  # [B, T]
    return _norms([losses[:, place - 1].sum() for place in where], embedded)


def _embed(model: PreTrainedModel, tokens: torch.Tensor) -> torch.Tensor:
    return model.get_input_embeddings().weight.detach()[tokens].requires_grad_()


def _norms(values: list[torch.Tensor], embedded: torch.Tensor) -> torch.Tensor:
    """Rows do not touch each other, so that one backward pass gives the gradients of all of them."""
    found = []
    for number, value in enumerate(values):
        (gradient,) = torch.autograd.grad(value, embedded, retain_graph=number < len(values) - 1)
        found.append(gradient.double().norm(dim=-1))
    return torch.stack(found)


def _summary(norms: torch.Tensor) -> dict[str, list[float]]:
    """Of norms [distances, rows, S], those at the first token."""
    first = norms[..., 0]
    low, middle, high = torch.quantile(first, torch.tensor([0.25, 0.5, 0.75], dtype=first.dtype), dim=1)
    share = (first / norms.mean(dim=-1).clamp(min=1e-300)).median(dim=1).values
    return {"norm": middle.tolist(), "low": low.tolist(), "high": high.tolist(), "share": share.tolist()}


def _tokens(
    model: PreTrainedModel, rows: int, length: int, seed: int, text: tuple[str, str] | None
) -> tuple[torch.Tensor, torch.Tensor]:
    if text is None:
        size = model.config.vocab_size
        return random_tokens(rows, length, size, 2 * seed), random_tokens(rows, length, size, 2 * seed + 1)
    folder = model.name_or_path
    if not (Path(folder) / "tokenizer.json").is_file():
        raise MeasurementError(
            f"'{folder}' has no tokenizer.json: text needs the model's own tokenizer beside its weights."
        )
    tokenizer = AutoTokenizer.from_pretrained(folder)
    return tuple(_pieces(tokenizer, path, rows, length, seed) for path in text)


def _pieces(tokenizer: Any, path: str, rows: int, length: int, seed: int) -> torch.Tensor:
    """Rows of running text [rows, length] from a file's lines, joined; each seed takes the next rows."""
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
    """Header and rows: for each model the norm at the shortest and the longest distance, and what is left of it."""
    where = result["distances"]
    rows = [["gradient at the first token", f"distance {where[0]}", f"distance {where[-1]}", "left"]]
    for kind in TASK_SPECS:
        for name, model in result["models"].items():
            near, far = model[kind]["norm"][0], model[kind]["norm"][-1]
            rows.append([f"{kind}: {name}", f"{near:.3g}", f"{far:.3g}", f"{far / near:.2g}" if near else "-"])
    return rows
