"""The pictures of `vaswani_tx.training.compare_architectures`: speed, gradients, runs."""

from pathlib import Path
from typing import Any

import matplotlib

matplotlib.use("Agg")
import matplotlib.pyplot as plt
from matplotlib.ticker import FuncFormatter, NullFormatter

from vaswani_tx.training.reporting.plots import Theme

STYLE = {
    "text.parse_math": False, "axes.grid": True, "grid.color": "#d9dce1", "axes.axisbelow": True,
    "axes.spines.top": False, "axes.spines.right": False, "axes.titlelocation": "left", "axes.titleweight": "bold",
    "axes.titlesize": 11, "font.size": 10, "legend.frameon": False, "legend.fontsize": 9, "lines.markersize": 4,
}  # fmt: skip


def draw_speed(result: dict[str, Any], target: Path) -> None:
    """Steps a second against length, with quartiles, beside the speed relative to the Transformer's."""
    lengths, models = result["lengths"], result["models"]
    with matplotlib.rc_context(STYLE):
        figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
        base = next(iter(models.values()))["steps"]
        for (name, model), color in zip(models.items(), Theme().colors, strict=False):
            steps = model["steps"]
            values = [step["steps_per_second"] for step in steps]
            low, high = ([1 / step[key] for step in steps] for key in ("seconds_high", "seconds_low"))
            left.plot(lengths, values, "o-", color=color, label=f"{name} ({model['parameters'] / 1e6:.2f} M)")
            left.fill_between(lengths, low, high, color=color, alpha=0.2, lw=0)
            relative = [own / other["steps_per_second"] for own, other in zip(values, base, strict=True)]
            right.plot(lengths, relative, "o-", color=color)
        left.set_title(f"Training steps a second, {result['batch_tokens']:,} target tokens each")
        right.set_title(f"Relative to the {next(iter(models))}")
        left.set_ylabel("steps a second")
        left.legend()
        for place in (left, right):
            place.set_xscale("log", base=2)
            place.set_ylim(bottom=0)
            place.set_xlabel("tokens of a source and of a target")
            _plain_ticks(place, lengths)
        _save(figure, target)


def draw_gradients(result: dict[str, Any], target: Path) -> None:
    """Gradient norms at the first source token against distance, logarithmic on both axes, with quartiles."""
    titles = {"encoder": "From the encoder's state at a position", "target": "From a target token's loss"}
    below = {"encoder": "position in the source", "target": "position in the target"}
    with matplotlib.rc_context(STYLE):
        figure, places = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
        for place, (kind, title) in zip(places, titles.items(), strict=True):
            for (name, model), color in zip(result["models"].items(), Theme().colors, strict=False):
                values = model[kind]
                place.plot(result["distances"], values["norm"], "o-", color=color, label=name)
                place.fill_between(result["distances"], values["low"], values["high"], color=color, alpha=0.2, lw=0)
            place.set_title(title)
            place.set_xlabel(below[kind])
            place.set_xscale("log", base=2)
            place.set_yscale("log")
            place.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
            _plain_ticks(place, [2**power for power in range(12) if 2**power <= result["length"]])
        places[0].set_ylabel("gradient norm at the first source token")
        places[0].legend()
        _save(figure, target)


def draw_runs(result: dict[str, Any], target: Path) -> None:
    """Validation BLEU and loss of every run against minutes of training and against updates."""
    with matplotlib.rc_context(STYLE):
        figure, places = plt.subplots(2, 2, figsize=(11, 7), layout="constrained")
        labels = {"bleu": "validation BLEU", "loss": "validation loss (nats a token)"}
        units = {"minutes": "minutes of training", "updates": "updates"}
        for row, key in zip(places, labels, strict=True):
            for place, axis in zip(row, units, strict=True):
                for (name, run), color in zip(result["runs"].items(), Theme().colors, strict=False):
                    points = [(x, y) for x, y in zip(run["curve"][axis], run["curve"][key], strict=True)
                              if y is not None]  # fmt: skip
                    if points:
                        place.plot(*zip(*points, strict=True), "o-", color=color, label=name)
                place.axvline(result[f"equal_{axis}"], color="#70665a", lw=1, ls=":")
                place.set_ylabel(labels[key])
                place.set_xlabel(units[axis])
                place.set_xlim(left=0)
        places[0][0].set_title("At equal time")
        places[0][1].set_title("At equal updates")
        places[0][0].legend()
        _save(figure, target)


def _plain_ticks(place, values) -> None:
    place.set_xticks(values)
    place.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    place.xaxis.set_minor_formatter(NullFormatter())
    place.minorticks_off()


def _save(figure, target: Path) -> None:
    figure.savefig(target, dpi=130, format="png")
    plt.close(figure)
