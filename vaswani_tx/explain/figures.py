# Shapes: T rows (queries), S columns (keys), H heads, L positions, D model width.
"""Single diagrams as SVG, PDF or PNG for papers and slides, drawn by matplotlib from the same trace as the page."""

import io
import math
import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from vaswani_tx.errors import ExplainError
from vaswani_tx.explain.recording import Recorded
from vaswani_tx.explain.tokens import Token
from vaswani_tx.explain.trace import Trace
from vaswani_tx.suggestions import did_you_mean

FORMATS = ("svg", "pdf", "png")
TITLES = {"encoder": "encoder self-attention", "decoder": "decoder self-attention", "cross": "cross-attention"}
COLOURS = ("#f4f1ec", "#14426b")
ACCENT = "#b4461e"
# Text stays text in SVG and PDF: it can be searched, and a reader's own fonts show scripts that are not installed here.
# The salt makes the names inside an SVG the same each time.
STYLE = {
    "font.family": "sans-serif",
    "font.size": 9,
    "svg.fonttype": "none",
    "svg.hashsalt": "vaswani_tx",
    "pdf.fonttype": 42,
    "axes.linewidth": 0.6,
}
CELL = 0.24  # inches


@dataclass(frozen=True)
class Choice:
    """Which part of the model a figure shows; layers and heads are counted from 1."""

    kind: str | None = None  # "encoder", "decoder" or "cross"; None: cross-attention, else what there is
    layer: int | None = None  # None: the last
    head: int = 1


def figure(found: Trace, name: str, choice: Choice = Choice(), file_format: str = "svg") -> bytes:
    """Draw one diagram and return the file's bytes.

    Args:
        found: what `vaswani_tx.explain.trace.trace` returned.
        name: one of FIGURES: "attention", "heads", "lines", "positions", "beams" or "losses".
        choice: the attention that the first three show.
        file_format: "svg", "pdf" or "png" (300 dots an inch).

    Raises:
        ExplainError: there is no such figure, layer or head, the model lacks what it shows, or matplotlib is missing.
    """
    check_figure(name, file_format)
    try:
        import matplotlib
        from matplotlib.figure import Figure
    except ImportError:
        raise ExplainError("Figures need matplotlib: pip install matplotlib.") from None
    with matplotlib.rc_context(STYLE):
        canvas = Figure(layout="constrained")
        FIGURES[name](canvas, found, choice)
        buffer = io.BytesIO()
        # No date inside: the same model and text give the same file.
        dated = {"svg": {"Date": None}, "pdf": {"CreationDate": None}, "png": {}}[file_format]
        canvas.savefig(buffer, format=file_format, dpi=300, metadata=dated)
    return buffer.getvalue()


def check_figure(name: str, file_format: str) -> None:
    """Raise ExplainError where there is no such figure or format."""
    if name not in FIGURES:
        hint = did_you_mean(name, FIGURES) or f": choose one of {', '.join(FIGURES)}"
        raise ExplainError(f"There is no figure '{name}'{hint}")
    if file_format not in FORMATS:
        raise ExplainError(f"A figure cannot be written as '{file_format}': choose one of {', '.join(FORMATS)}.")


def save_figure(found: Trace, name: str, path: str | os.PathLike, choice: Choice = Choice()) -> Path:
    """Draw one diagram into a file whose ending is its format."""
    target = Path(path)
    target.write_bytes(figure(found, name, choice, target.suffix.removeprefix(".").lower() or "svg"))
    return target


def chosen(found: Trace, choice: Choice) -> Recorded:
    """Return the attention that a choice names; raise ExplainError where there is none."""
    kinds = list(dict.fromkeys(item.kind for item in found.attention))
    kind = choice.kind or ("cross" if "cross" in kinds else kinds[0])
    if kind not in kinds:
        raise ExplainError(f"This model has no {TITLES.get(kind, kind)}: choose one of {', '.join(kinds)}.")
    items = [item for item in found.attention if item.kind == kind]
    layer = len(items) if choice.layer is None else choice.layer
    if not 1 <= layer <= len(items):
        raise ExplainError(f"There is no layer {layer}: the {TITLES[kind]} has layers 1 to {len(items)}.")
    heads = items[layer - 1].weights.shape[0]
    if not 1 <= choice.head <= heads:
        raise ExplainError(f"There is no head {choice.head}: the layer has heads 1 to {heads}.")
    return items[layer - 1]


def _labels(tokens: list[Token]) -> list[str]:
    # A dollar sign would start a formula in matplotlib.
    return [token.text.strip().replace("$", r"\$") or "\u2423" for token in tokens]


def _sides(found: Trace, item: Recorded) -> tuple[list[str], list[str]]:
    rows = found.source if item.kind == "encoder" else found.target
    columns = found.target if item.kind == "decoder" else found.source
    return _labels(rows), _labels(columns)


def _colour_map() -> Any:
    from matplotlib.colors import LinearSegmentedColormap

    return LinearSegmentedColormap.from_list("weights", COLOURS)


def _matrix(axes: Any, item: Recorded, head: int) -> Any:
    from matplotlib.colors import PowerNorm

    # The square root keeps small weights visible, as on the page.
    return axes.imshow(item.weights[head].cpu().numpy(), cmap=_colour_map(), norm=PowerNorm(0.5, 0, 1), aspect="equal")


def _draw_attention(canvas: Any, found: Trace, choice: Choice) -> None:
    item = chosen(found, choice)
    rows, columns = _sides(found, item)
    canvas.set_size_inches(1.9 + CELL * len(columns), 1.5 + CELL * len(rows))
    axes = canvas.subplots()
    image = _matrix(axes, item, choice.head - 1)
    axes.set_xticks(range(len(columns)), columns, rotation=60, ha="left", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.tick_params(top=True, labeltop=True, bottom=False, labelbottom=False, length=0)
    axes.set_xlabel(f"{TITLES[item.kind]}, layer {item.layer + 1}, head {choice.head}")
    canvas.colorbar(image, ax=axes, ticks=[0, 0.1, 0.3, 0.6, 1], shrink=0.8, aspect=30).outline.set_linewidth(0.4)


def _draw_heads(canvas: Any, found: Trace, choice: Choice) -> None:
    item = chosen(found, choice)
    heads, rows, columns = item.weights.shape
    wide = min(heads, 4)
    high = math.ceil(heads / wide)
    side = 1.7
    canvas.set_size_inches(wide * side, high * (side * rows / columns + 0.3) + 0.3)
    for head, axes in enumerate(canvas.subplots(high, wide, squeeze=False).flat):
        if head >= heads:
            axes.set_axis_off()
            continue
        _matrix(axes, item, head)
        axes.set_title(f"head {head + 1}", fontsize=8)
        axes.set_xticks([])
        axes.set_yticks([])
    canvas.suptitle(f"{TITLES[item.kind]}, layer {item.layer + 1}", fontsize=9)


def _draw_lines(canvas: Any, found: Trace, choice: Choice) -> None:
    item = chosen(found, choice)
    rows, columns = _sides(found, item)
    longest = max(len(rows), len(columns))
    canvas.set_size_inches(4.2, 0.5 + CELL * longest)
    axes = canvas.subplots()
    weights = item.weights[choice.head - 1].cpu()
    for i in range(len(rows)):
        for j in range(len(columns)):
            weight = float(weights[i, j])
            if weight >= 0.01:
                axes.plot([0, 1], [i, j], color=COLOURS[1], alpha=min(1.0, weight), linewidth=0.5 + 1.5 * weight)
    for i, word in enumerate(rows):
        axes.text(-0.03, i, word, ha="right", va="center")
    for j, word in enumerate(columns):
        axes.text(1.03, j, word, ha="left", va="center")
    axes.set_xlim(-0.9, 1.9)
    axes.set_ylim(longest - 0.5, -0.5)
    axes.set_axis_off()
    canvas.suptitle(f"{TITLES[item.kind]}, layer {item.layer + 1}, head {choice.head}", fontsize=9)


def _draw_positions(canvas: Any, found: Trace, choice: Choice) -> None:
    if not found.stacks:
        raise ExplainError(
            "This model adds no positions that can be read: the figure needs one of this package's models."
        )
    side, stack = next(iter(found.stacks.items()))
    canvas.set_size_inches(6, 3)
    axes = canvas.subplots()
    added = stack.added.cpu().numpy()
    image = axes.imshow(added, cmap="RdBu", vmin=-1, vmax=1, aspect="auto", interpolation="nearest")
    axes.set_xlabel("dimension")
    axes.set_ylabel("position")
    axes.set_title(f"positions that this pass added ({side}, {added.shape[0]} tokens)", fontsize=9)
    canvas.colorbar(image, ax=axes, shrink=0.9, aspect=30).outline.set_linewidth(0.4)


def _draw_beams(canvas: Any, found: Trace, choice: Choice) -> None:
    if found.decoding is None:
        raise ExplainError("This model does not generate, so there is no decoding to draw.")
    best = found.decoding.hypotheses
    canvas.set_size_inches(6.5, 0.6 + 0.3 * len(best))
    axes = canvas.subplots()
    scores = [hypothesis["score"] for hypothesis in best]
    axes.barh(range(len(best)), scores, color="#b9cfe2", height=0.8)
    axes.set_yticks([])
    axes.invert_yaxis()
    axes.set_xlabel("score by which the hypotheses are ranked (natural logarithm)")
    for rank, hypothesis in enumerate(best):
        axes.text(0.01, rank, hypothesis["text"].replace("$", r"\$"), transform=axes.get_yaxis_transform(), va="center")


def _draw_losses(canvas: Any, found: Trace, choice: Choice) -> None:
    if found.prediction is None:
        raise ExplainError("This model predicts no next token, so there are no losses of tokens to draw.")
    prediction = found.prediction
    losses = (-prediction.label_log_probs).cpu().tolist()
    following = found.target[1:] if len(found.target) > 1 else []
    words = _labels(following) + ["</s>"] * (len(losses) - len(following))
    canvas.set_size_inches(1.0 + 0.42 * len(losses), 2.6)
    axes = canvas.subplots()
    axes.bar(range(len(losses)), losses, color=ACCENT, width=0.7)
    axes.set_xticks(range(len(losses)), words, rotation=60, ha="right", rotation_mode="anchor")
    axes.set_ylabel("loss (nats)")


FIGURES: dict[str, Callable[[Any, Trace, Choice], None]] = {
    "attention": _draw_attention,
    "heads": _draw_heads,
    "lines": _draw_lines,
    "positions": _draw_positions,
    "beams": _draw_beams,
    "losses": _draw_losses,
}
