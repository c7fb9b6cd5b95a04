"""The two curves of `docs/speed.md`: time against padding, memory against the vocabulary."""

import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.results import MEGABYTE, label, spread
from vaswani_tx.training.files import atomic_text

FILL, VOCABULARY = "speed_fill.svg", "speed_vocabulary.svg"
COLOURS = {"marian": "#b3541e", "ours": "#3949ab", "ours-plain": "#00897b"}
OTHERS = ("#6d6d6d", "#8e24aa", "#c0a000")


CAPTIONS = {
    FILL: (
        "The time of an update at base size (V = 8,000, 1,024 cells a side) as more of the batch is padding:",
        "Seconds an update over the share of the batch that is not padding",
    ),
    VOCABULARY: (
        "The memory of an update at tiny size (batches of 4,000 tokens) as the vocabulary grows; the gradient of the "
        "embedding matrix grows with it for everyone:",
        "Step memory over the entries of the vocabulary",
    ),
}


def section(paths: list[Path]) -> dict[str, str]:
    """Return the section of the page that shows the curves, none where there are none."""
    shown = [f"{CAPTIONS[path.name][0]}\n\n![{CAPTIONS[path.name][1]}]({path.name})" for path in paths]
    return {"curves": "\n\n".join(shown)} if shown else {}


def draw(results: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the curves that there are results of; return their paths."""
    fills: dict[str, list[tuple[float, float]]] = {}
    sizes: dict[str, list[tuple[float, float]]] = {}
    for entry in results["entries"].values():
        name = entry["work"]["name"]
        for contender, record in entry["contenders"].items():
            if name.startswith("curve-fill-"):
                value = spread(record["wall"]).median
                fills.setdefault(contender, []).append((record["fill"], value))
            elif name.startswith("curve-vocabulary-"):
                value = record["step_memory"] / MEGABYTE
                sizes.setdefault(contender, []).append((entry["work"]["vocab_size"], value))
    written = []
    if fills:
        written.append(_figure(folder / FILL, fills, "share of the batch that is not padding", "seconds an update"))
    if sizes:
        written.append(_figure(folder / VOCABULARY, sizes, "entries of the vocabulary", "step memory, MB"))
    return written


def _figure(path: Path, curves: Mapping[str, list[tuple[float, float]]], across: str, up: str) -> Path:
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import StrMethodFormatter

    # The same file for the same numbers.
    with matplotlib.rc_context({"svg.hashsalt": "benchmarks", "font.size": 13}):
        figure, axes = pyplot.subplots(figsize=(6.4, 4.2), layout="constrained")
        others = iter(OTHERS)
        for name, points in curves.items():
            points = sorted(points)
            colour = COLOURS.get(name) or next(others, "#000000")
            xs, ys = [x for x, _ in points], [y for _, y in points]
            axes.plot(xs, ys, marker="o", markersize=7, linewidth=2.5, color=colour, label=label(name))
        axes.set_xlabel(across)
        axes.set_ylabel(up)
        axes.set_ylim(bottom=0)
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:,g}"))
        if max(x for points in curves.values() for x, _ in points) > 1:
            axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
            axes.set_xlim(left=0)
        axes.grid(color="#dddddd", linewidth=0.8)
        axes.set_axisbelow(True)
        for side in ("top", "right"):
            axes.spines[side].set_visible(False)
        axes.legend(frameon=False, loc="best")
        drawn = io.StringIO()
        figure.savefig(drawn, format="svg", metadata={"Date": None})
        pyplot.close(figure)
    atomic_text(path, "\n".join(line.rstrip() for line in drawn.getvalue().splitlines()) + "\n")
    return path
