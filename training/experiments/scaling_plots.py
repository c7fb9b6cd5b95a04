"""The picture of a ladder of sizes: loss over parameters and over compute, with the fitted laws and error bars."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.ticker import NullFormatter


def draw(result: dict[str, Any], path: Path) -> None:
    """Draw the result of `scaling_fit.fit_all` as PNG or SVG."""
    figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4.5), layout="constrained")
    _parameters(left, result)
    _compute(right, result)
    for axes in (left, right):
        axes.set_xscale("log")
        axes.set_yscale("log")
        axes.yaxis.set_minor_formatter(NullFormatter())
        low, high = axes.get_ylim()
        axes.set_yticks(np.geomspace(low, high, 6))
        axes.yaxis.set_major_formatter(lambda value, _: f"{value:.2f}")
        axes.set_ylabel("validation loss, nats a token")
        axes.grid(alpha=0.3, which="major")
    figure.suptitle(result["title"], parse_math=False)
    figure.savefig(path, dpi=120)
    plt.close(figure)


def _parameters(axes: Axes, result: dict[str, Any]) -> None:
    weights = np.array([run["weights"] for run in result["runs"]], dtype=float)
    axes.plot(weights, [run["losses"][-1] for run in result["runs"]], "o", color="black", label="runs", zorder=3)
    grid = np.geomspace(weights.min() / 1.3, weights.max() * 1.3, 100)
    names = {"parameters": "$(N_c/N)^\\alpha$", "parameters_with_rest": "$E + (N_c/N)^\\alpha$"}
    for law, line in (("parameters", "-"), ("parameters_with_rest", "--")):
        values = result["laws"].get(law)
        if values:
            rest = values["rest"]["value"] if "rest" in values else 0.0
            curve = rest + (values["constant"]["value"] / grid) ** values["alpha"]["value"]
            axes.plot(grid, curve, line, label=f"{names[law]}, {_alpha(values)}")
    axes.set_xlabel("weights that multiply each token, N")
    axes.set_title("at the end of each run")
    axes.legend(fontsize=8)


def _compute(axes: Axes, result: dict[str, Any]) -> None:
    sizes = list(dict.fromkeys(run["size"] for run in result["runs"]))
    colors = plt.get_cmap("viridis")(np.linspace(0.1, 0.9, len(sizes)))
    seen = set()
    for run in result["runs"]:
        label = run["size"] if run["size"] not in seen else None
        seen.add(run["size"])
        axes.plot(run["compute"], run["losses"], color=colors[sizes.index(run["size"])], label=label, linewidth=1)
    values = result["laws"].get("compute")
    if values:
        grid = np.array(result["frontier"]["compute"])
        axes.plot(grid, result["frontier"]["loss"], "x", color="black", markersize=4, label="frontier")
        curve = (values["constant"]["value"] / grid) ** values["alpha"]["value"]
        axes.plot(grid, curve, "--", color="black", label=f"$(C_c/C)^\\alpha$, {_alpha(values)}")
    axes.set_xlabel("training compute 6ND, operations")
    axes.set_title("on the way")
    axes.legend(fontsize=8)


def _alpha(values: dict[str, Any]) -> str:
    entry = values["alpha"]
    bars = f" [{entry['interval'][0]:.3f}, {entry['interval'][1]:.3f}]" if entry["interval"] else ""
    return f"$\\alpha$ = {entry['value']:.3f}{bars}"
