"""Pictures of runs and models: the curves of `metrics.jsonl` as PNG or SVG, the attention of one sentence as PNG."""

import io
import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import matplotlib

from vaswani_tx.training.errors import MetricsError
from vaswani_tx.training.metrics.registry import BY_NAME, MetricSpec, found_metrics

matplotlib.use("Agg")
import matplotlib.pyplot as plt
import numpy as np
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter

MEDIAN_OVER = 9


@dataclass(frozen=True)
class Series:
    """One line of a panel: a number of one kind of record."""

    event: str
    key: str
    label: str
    line: str = "-"
    marker: str = ""
    # Which value is written beside its point: the largest, the smallest, or none.
    best: Literal["max", "min", ""] = ""


@dataclass(frozen=True)
class Panel:
    """One picture: what is drawn over the updates or the time, with its unit."""

    name: str
    title: str
    unit: str
    series: tuple[Series, ...]
    log: bool = False
    factor: float = 1.0
    from_zero: bool = False
    # Drawn pale, with its running median on top.
    noisy: bool = False


def _best(spec: MetricSpec) -> Literal["max", "min"]:
    return "max" if spec.higher_is_better else "min"


# The panels of every run; between the first and the others come those of the metrics of its validations.
PANELS = (
    Panel("loss", "Loss", "nats per target token", (
        Series("train", "loss", "training"),
        Series("validation", "loss", "validation, labels not smoothed", "--", "o", _best(BY_NAME["loss"])),
    )),
    Panel("divergence", "Terms beside the cross entropy", "nats per target token, without weights", (
        Series("train", "rdrop", "R-Drop"),
        Series("train", "simcut", "SimCut", "--"),
        Series("train", "distillation", "divergence from the teacher", "-."),
    ), from_zero=True),
    Panel("learning_rate", "Learning rate", "", (Series("train", "learning_rate", "learning rate"),), from_zero=True),
    Panel("throughput", "Throughput", "target tokens per second", (
        Series("train", "tokens_per_second", "throughput"),
    ), from_zero=True, noisy=True),
    Panel("padding", "Padding", "% of a batch's cells", (
        Series("train", "padding", "padding"),
    ), factor=100.0, from_zero=True, noisy=True),
)  # fmt: skip
LINES = (("-", "o"), ("--", "s"), ("-.", "^"), (":", "v"))


@dataclass(frozen=True)
class Theme:
    """Colours of a picture: of its writing, its grid, its ground, and of the runs or series in their order."""

    ink: str = "#2b2f36"
    grid: str = "#d9dce1"
    ground: str = "#ffffff"
    colors: tuple[str, ...] = ("#1f6fb4", "#c8501e", "#2c8a57", "#8a4fb0", "#a8760a", "#b3345f", "#4b7d87", "#70665a")


@dataclass
class Curves:
    """What of a run is drawn: its name and its records by their event."""

    name: str
    events: dict[str, list[dict[str, Any]]]
    # Updates and seconds of the run's clock, ascending: records of validations carry no time of their own.
    clock: tuple[list[float], list[float]] = field(default=([], []))

    def __post_init__(self):
        pairs = [(r["step"], r["seconds"]) for r in self.events.get("train", []) if is_number(r.get("seconds"))]
        self.clock = ([0.0, *(step for step, _ in pairs)], [0.0, *(seconds for _, seconds in pairs)])

    def points(self, series: Series, axis: str) -> tuple[np.ndarray, np.ndarray]:
        """Return places and values of one series without records that lack a finite number; `time` is in seconds."""
        found = [(r["step"], r[series.key]) for r in self.events.get(series.event, []) if is_number(r.get(series.key))]
        steps, values = np.array(found, dtype=float).reshape(-1, 2).T
        return (steps if axis == "updates" else np.interp(steps, *self.clock)), values


def is_number(value: Any) -> bool:
    """Return whether a value of a record can be drawn."""
    return isinstance(value, (int, float)) and not isinstance(value, bool) and math.isfinite(value)


def read_records(path: Path) -> list[dict[str, Any]]:
    """Return the records of a `metrics.jsonl` in order; a torn last line, as of a run that is writing, is left out.

    Raises:
        MetricsError: a broken line before the last, or one that is no record, by its number.
    """
    try:
        lines = Path(path).read_bytes().split(b"\n")
    except OSError as error:
        raise MetricsError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    whole = len(lines) - 1  # what follows the last newline is nothing, or not yet a whole line
    records = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = json.loads(line)
            if not isinstance(record, dict) or not isinstance(record.get("event"), str):
                raise ValueError("not an object with an 'event'")
            if not is_number(record.get("step")):
                raise ValueError("'step' is not a number")
        except (ValueError, RecursionError) as error:
            if number > whole:
                break
            raise MetricsError(
                f"{path} line {number} is not a record ({error}): restore the file, or delete that line to "
                "read it without."
            ) from error
        records.append(record)
    return records


def read_metrics(path: Path) -> dict[str, list[dict[str, Any]]]:
    """Return the records of a run's `metrics.jsonl` by their event ("train", "validation", ...), in their order.

    Where the updates go back, as after a restart by hand, the later records replace those of the updates they repeat.
    Raises MetricsError, as `read_records` does.
    """
    events: dict[str, list[dict[str, Any]]] = {}
    for record in read_records(path):
        earlier = events.setdefault(record["event"], [])
        while earlier and earlier[-1]["step"] >= record["step"]:
            earlier.pop()
        # A restart shows in any kind of record: the other kinds go back with it.
        for others in events.values():
            while others and others[-1]["step"] > record["step"]:
                others.pop()
        earlier.append(record)
    return events


def draw_training_curve(metrics: Path, target: Path, title: str) -> None:
    """Draw the curves of the run that wrote `metrics` as one PNG; raise MetricsError if it has no record yet."""
    draw_curves([Curves(title, read_metrics(metrics))], target, title)


def draw_curves(runs: Sequence[Curves], target: Path | io.BytesIO, title: str, axis: str = "updates") -> None:
    """Draw every panel that has values as one PNG; raise MetricsError where no run has any yet."""
    panels = panels_of(runs)
    if not panels:
        names = ", ".join(repr(run.name) for run in runs)
        raise MetricsError(f"{names}: no record of training yet; train for at least log_every updates.")
    rows = -(-len(panels) // 2)
    columns = min(len(panels), 2)
    with matplotlib.rc_context(_style(Theme())):
        figure, grid = plt.subplots(
            rows, columns, figsize=(5.6 * columns, 3.1 * rows + 0.7), squeeze=False, layout="constrained"
        )
        for place, panel in zip(grid.flat, panels, strict=False):
            draw_panel(place, panel, runs, axis, Theme())
        for place in list(grid.flat)[len(panels) :]:
            place.axis("off")
        figure.suptitle(title, fontsize=13, fontweight="bold")
        if len(runs) > 1:
            handles = [Line2D([], [], color=_color(Theme(), number), lw=2.5) for number in range(len(runs))]
            figure.legend(handles, [run.name for run in runs], loc="outside lower center", ncols=min(len(runs), 4))
        figure.savefig(target, dpi=130, format="png")
        plt.close(figure)


def draw_svg(panel: Panel, runs: Sequence[Curves], axis: str, theme: Theme) -> str:
    """Return one panel as an SVG document, its text as text; transparent, so that the page's ground shows."""
    with matplotlib.rc_context(_style(theme) | {"svg.fonttype": "none", "svg.hashsalt": "vaswani_tx"}):
        figure, place = plt.subplots(figsize=(5.4, 3.3), layout="constrained")
        draw_panel(place, panel, runs, axis, theme)
        place.set_title("")
        text = io.StringIO()
        figure.savefig(text, format="svg", transparent=True, metadata={"Date": None})
        plt.close(figure)
    return text.getvalue()


def panels_of(runs: Sequence[Curves]) -> list[Panel]:
    """Return the panels for which at least one run has a value."""
    first, *others = PANELS
    return [
        panel
        for panel in [first, *_metric_panels(runs), *others]
        if any(len(run.points(series, "updates")[0]) for run in runs for series in panel.series)
    ]


def _metric_panels(runs: Sequence[Curves]) -> list[Panel]:
    """Return a panel for each metric with a scale of its own, then one for each scale that metrics share."""
    known: dict[str, Any] = {}
    for run in runs:
        for record in run.events.get("validation", []):
            known |= {name: value for name, value in record.items() if is_number(value)}
    specs = [spec for spec in found_metrics(known) if spec.name != "loss"]
    groups = [[spec] for spec in specs if spec.scale == "open"]
    groups += [[spec for spec in specs if spec.scale == scale] for scale in ("percent", "share")]
    return [_metric_panel(group) for group in groups if group]


def _metric_panel(specs: Sequence[MetricSpec]) -> Panel:
    """Return the panel of some metrics of one scale, or of one whose scale is its own."""
    first, several = specs[0], specs[0].scale != "open"
    titles = [spec.title for spec in specs]
    title = " and ".join(filter(None, (", ".join(titles[:-1]), titles[-1])))
    series = tuple(
        Series("validation", spec.name, spec.title if several else "validation", *LINES[i % len(LINES)], _best(spec))
        for i, spec in enumerate(specs)
    )
    name = {"percent": "scores", "share": "shares"}.get(first.scale, first.name)
    unit = {"percent": "score", "share": "share"}.get(first.scale, first.unit)
    unit += ", logarithmic" if first.log else ""
    title = f"{title[:1].upper()}{title[1:]} of the validation set"
    # Not shares: correlations may be below 0.
    return Panel(name, title, unit, series, log=first.log, from_zero=first.scale == "percent")


def draw_panel(place: Axes, panel: Panel, runs: Sequence[Curves], axis: str, theme: Theme) -> None:
    """Draw one panel: a colour for each run and a kind of line for each series, or, of one run, a colour for each."""
    scale, unit = _time_unit(runs) if axis == "time" else (1.0, "updates")
    shown = []
    for number, run in enumerate(runs):
        for order, series in enumerate(panel.series):
            where, values = run.points(series, axis)
            if not len(where):
                continue
            if series not in shown:
                shown.append(series)
            color = _color(theme, number if len(runs) > 1 else order)
            _draw_series(place, panel, series, where / scale, values * panel.factor, color, alone=len(runs) == 1)
    place.set_title(panel.title)
    place.set_ylabel(panel.unit)
    place.set_xlabel(unit)
    place.grid(True)
    place.margins(y=0.1)
    _scale_axes(place, panel, axis)
    if len(panel.series) > 1 and shown:
        _add_legend(place, shown, len(runs) > 1, theme)


def draw_attention(weights: np.ndarray, source: Sequence[str], target: Sequence[str], path: Path, title: str) -> None:
    """Draw one panel a head: which source tokens (columns) each target token (rows) looked at.

    Args:
        weights: [H, T, S], rows sum to one.
        source: S tokens.
        target: T tokens, each the one that was being predicted.
        path: the PNG to write.
        title: above the panels.
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


def _style(theme: Theme) -> dict[str, Any]:
    return {
        "text.parse_math": False,  # a run may have dollar signs in its name
        "text.color": theme.ink, "axes.labelcolor": theme.ink, "xtick.color": theme.ink, "ytick.color": theme.ink,
        "axes.edgecolor": theme.grid, "grid.color": theme.grid, "grid.linewidth": 0.7, "axes.axisbelow": True,
        "axes.spines.top": False, "axes.spines.right": False, "axes.spines.left": False,
        "xtick.major.size": 0, "ytick.major.size": 0, "xtick.minor.size": 0, "ytick.minor.size": 0,
        "figure.facecolor": theme.ground, "axes.facecolor": theme.ground, "savefig.facecolor": theme.ground,
        "font.size": 10, "axes.titlesize": 11, "axes.titleweight": "bold", "axes.titlelocation": "left",
        "legend.frameon": False, "legend.fontsize": 9, "lines.linewidth": 1.7, "lines.markersize": 4,
        "path.simplify_threshold": 0.4,
    }  # fmt: skip


def _color(theme: Theme, number: int) -> str:
    return theme.colors[number % len(theme.colors)]


def _draw_series(
    place: Axes, panel: Panel, series: Series, where: np.ndarray, values: np.ndarray, color: str, alone: bool
) -> None:
    # Too many marks hide the line; a single point without one would not be seen at all.
    marker = series.marker if len(where) <= 60 else ""
    marker = marker or ("o" if len(where) == 1 else "")
    line = "-" if alone else series.line
    smoothed = panel.noisy and len(where) >= 4 * MEDIAN_OVER
    if smoothed:
        place.plot(where, values, line, color=color, alpha=0.3, lw=1.0)
        values = _running_median(values)
    place.plot(where, values, line, marker=marker, color=color, label=series.label)
    if alone and series.best and len(where) > 1:
        at = int(values.argmax() if series.best == "max" else values.argmin())
        place.annotate(
            f"{values[at]:.2f}", (where[at], values[at]), (0, 6), textcoords="offset points", ha="right",
            fontsize=9, fontweight="bold", color=color,
        )  # fmt: skip


def _running_median(values: np.ndarray) -> np.ndarray:
    padded = np.pad(values, MEDIAN_OVER // 2, mode="reflect")
    return np.median(np.lib.stride_tricks.sliding_window_view(padded, MEDIAN_OVER), axis=1)


def _add_legend(place: Axes, shown: Sequence[Series], several: bool, theme: Theme) -> None:
    if not several:
        place.legend(loc="best")
        return
    # The colours mean the runs, so the kinds of line are explained in the colour of the writing.
    handles = [Line2D([], [], color=theme.ink, ls=series.line, marker=series.marker) for series in shown]
    place.legend(handles, [series.label for series in shown], loc="best")


def _scale_axes(place: Axes, panel: Panel, axis: str) -> None:
    place.set_xlim(left=0)
    place.xaxis.set_major_locator(MaxNLocator(6, integer=axis == "updates"))
    place.xaxis.set_major_formatter(FuncFormatter(_short))
    if panel.log:
        place.set_yscale("log")
        place.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        place.yaxis.set_minor_formatter(NullFormatter())
    elif panel.from_zero:
        place.set_ylim(bottom=0)
    place.yaxis.set_major_formatter(FuncFormatter(_short))


def _short(value: float, _: Any = None) -> str:
    """Return a number of an axis as text: 0.0005, 2.5, 4,000, 120k, 3M."""
    size = abs(value)
    if size >= 1e5:
        return f"{value / 1e6:g}M" if size >= 1e6 else f"{value / 1e3:g}k"
    if 0 < size < 1e-3:
        return f"{value:.3g}".replace("e-0", "e-")
    return f"{value:,.0f}" if size >= 1e3 else f"{round(value, 6):g}"


def _time_unit(runs: Sequence[Curves]) -> tuple[float, str]:
    longest = max((run.clock[1][-1] for run in runs), default=0.0)
    for seconds, name in ((172800, "days"), (7200, "hours"), (120, "minutes")):
        if longest >= seconds:
            return {"days": 86400.0, "hours": 3600.0, "minutes": 60.0}[name], name
    return 1.0, "seconds"
