"""The pictures of `vaswani_tx.training.compare_architectures`: speed, gradients, runs."""

from collections.abc import Iterator
from contextlib import contextmanager
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
    "axes.prop_cycle": plt.cycler(color=Theme().colors),
}  # fmt: skip


@contextmanager
def _figure(target: Path, rows: int, height: float) -> Iterator[Any]:
    """Provide the axes of a figure of two columns, which is then saved."""
    with matplotlib.rc_context(STYLE):
        figure, axes = plt.subplots(rows, 2, figsize=(11, height), layout="constrained")
        yield axes
        figure.savefig(target, dpi=130, format="png")
        plt.close(figure)


def _curve(axes: Any, x: list, y: list, band: tuple[list, list], label: str | None = None) -> None:
    (line,) = axes.plot(x, y, "o-", label=label)
    axes.fill_between(x, *band, color=line.get_color(), alpha=0.2, lw=0)


def _length_axis(axes: Any, ticks: list[int], title: str, label: str) -> None:
    axes.set_title(title)
    axes.set_xlabel(label)
    axes.set_xscale("log", base=2)
    axes.set_xticks(ticks)
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.minorticks_off()


def draw_speed(result: dict[str, Any], target: Path) -> None:
    """Draw steps a second against length, with quartiles, beside the speed relative to the first model's."""
    lengths, models = result["lengths"], result["models"]
    base = [step["steps_per_second"] for step in next(iter(models.values()))["steps"]]
    with _figure(target, 1, 4) as (left, right):
        for name, model in models.items():
            values = [step["steps_per_second"] for step in model["steps"]]
            band = tuple([1 / step[key] for step in model["steps"]] for key in ("seconds_high", "seconds_low"))
            _curve(left, lengths, values, band, f"{name} ({model['parameters'] / 1e6:.2f} M)")
            right.plot(lengths, [own / other for own, other in zip(values, base, strict=True)], "o-")
        titles = (f"Training steps a second, {result['batch_tokens']:,} target tokens each",
                  f"Relative to the {next(iter(models))}")  # fmt: skip
        for axes, title in zip((left, right), titles, strict=True):
            _length_axis(axes, lengths, title, "tokens of a source and of a target")
            axes.set_ylim(bottom=0)
        left.set_ylabel("steps a second")
        left.legend()


def draw_gradients(result: dict[str, Any], target: Path) -> None:
    """Draw gradient norms at the first source token against distance, logarithmic on both axes, with quartiles."""
    panels = (("encoder", "From the encoder's state at a position", "position in the source"),
              ("target", "From a target token's loss", "position in the target"))  # fmt: skip
    ticks = [2**power for power in range(12) if 2**power <= result["length"]]
    with _figure(target, 1, 4) as places:
        for axes, (path, title, label) in zip(places, panels, strict=True):
            for name, model in result["models"].items():
                values = model[path]
                _curve(axes, result["distances"], values["norm"], (values["low"], values["high"]), name)
            axes.set_yscale("log")
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.0e}"))
            _length_axis(axes, ticks, title, label)
        places[0].set_ylabel("gradient norm at the first source token")
        places[0].legend()


def draw_runs(result: dict[str, Any], target: Path) -> None:
    """Draw validation BLEU and loss of every run against minutes of training and against updates."""
    with _figure(target, 2, 7) as places:
        labels = {"bleu": "validation BLEU", "loss": "validation loss (nats a token)"}
        for row, (key, label) in zip(places, labels.items(), strict=True):
            for axes, (axis, unit) in zip(row, (("minutes", "minutes of training"), ("updates",) * 2), strict=True):
                for name, run in result["runs"].items():
                    pairs = zip(run["curve"][axis], run["curve"][key], strict=True)
                    points = [(x, y) for x, y in pairs if y is not None]
                    axes.plot([x for x, _ in points], [y for _, y in points], "o-", label=name)
                axes.axvline(result[f"equal_{axis}"], color="#70665a", lw=1, ls=":")
                axes.set(xlabel=unit, ylabel=label)
                axes.set_xlim(left=0)
        places[0][0].set_title("At equal time")
        places[0][1].set_title("At equal updates")
        places[0][0].legend()
