"""Pictures of a run and of a model: the training curve and the attention of one sentence, as PNG files."""

import json
from collections.abc import Sequence
from pathlib import Path

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np


def read_metrics(path: Path) -> dict[str, list[dict]]:
    """The records of a run's `metrics.jsonl` by their event ("train", "validation", ...), in their order."""
    events: dict[str, list[dict]] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        events.setdefault(record["event"], []).append(record)
    return events


def draw_training_curve(metrics: Path, target: Path, title: str) -> None:
    """Draw training and validation loss, BLEU and learning rate over the updates of the run that wrote `metrics`.

    Raises ValueError if the run has no training record.
    """
    events = read_metrics(metrics)
    train, validation = events.get("train", []), events.get("validation", [])
    if not train:
        raise ValueError(f"'{metrics}' holds no training record yet: train for at least log_every updates")
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(8, 7), sharex=True, height_ratios=(3, 1), layout="constrained")
    steps = [record["step"] for record in train]
    top.plot(steps, [record["loss"] for record in train], color="tab:blue", label="training loss, smoothed labels")
    if validation:
        at = [record["step"] for record in validation]
        top.plot(at, [record["loss"] for record in validation], "o-", color="tab:green", label="validation loss, plain")
        scores = top.twinx()
        scores.plot(at, [record["bleu"] for record in validation], "s--", color="tab:red", label="validation BLEU")
        scores.set_ylabel("BLEU", color="tab:red")
        scores.set_ylim(0, 103 if max(record["bleu"] for record in validation) > 50 else None)
    top.set_ylabel("nats a target token")
    top.set_title(title)
    figure.legend(loc="outside lower center", ncols=3)
    top.grid(alpha=0.3)
    bottom.plot(steps, [record["learning_rate"] for record in train], color="tab:purple")
    bottom.set_ylabel("learning rate")
    bottom.set_xlabel("updates")
    bottom.grid(alpha=0.3)
    figure.savefig(target, dpi=120)
    plt.close(figure)


def draw_attention(weights: np.ndarray, source: Sequence[str], target: Sequence[str], path: Path, title: str) -> None:
    """Draw one panel a head: which source tokens (columns) each target token (rows) looked at.

    Args:
        weights: [H, T, S], rows sum to one.
        source: S tokens.
        target: T tokens, each the one that was being predicted.
        path: the PNG to write.
        title: stands above the panels.
    """
    heads = len(weights)
    columns = min(heads, 2)
    rows = -(-heads // columns)
    size = (1.5 + 0.42 * len(source) * columns, 1.6 + 0.36 * len(target) * rows)
    figure, panels = plt.subplots(rows, columns, figsize=size, squeeze=False, layout="constrained")
    for head, panel in enumerate(panels.flat):
        if head >= heads:
            panel.axis("off")
            continue
        image = panel.imshow(weights[head], vmin=0, vmax=1, cmap="Blues", aspect="auto")
        panel.set_xticks(range(len(source)), [_visible(token) for token in source], rotation=60, ha="right")
        panel.set_yticks(range(len(target)), [_visible(token) for token in target])
        panel.set_title(f"head {head + 1}", fontsize=10)
    figure.colorbar(image, ax=panels, shrink=0.6, label="attention weight")
    figure.suptitle(title)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _visible(token: str) -> str:
    # matplotlib reads a pair of dollar signs as a formula
    return (token.strip() or repr(token)).replace("$", r"\$")
