"""The report of one run or of several: a page of HTML with everything in it, and the curves as a picture.

`vaswani_tx.training.report` is the command and describes its options.
"""

import argparse
import datetime
import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import vaswani_tx
from vaswani_tx.training.command_line import check_writable
from vaswani_tx.training.errors import WriteError
from vaswani_tx.training.files import atomic_text
from vaswani_tx.training.metrics.registry import BY_NAME, MetricSpec
from vaswani_tx.training.reporting import AXES
from vaswani_tx.training.reporting.plots import Curves, Panel, Theme, draw_curves, draw_svg, is_number, panels_of
from vaswani_tx.training.reporting.run_data import Run, differing_keys, read_run

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
# Colours that become a variable of the page's style sheet, so that one picture serves light and dark pages.
_COLORS = {f"#0000{10 + number:02x}": f"var(--series-{number})" for number in range(8)}
_VARIABLES = {"#000001": "var(--ink)", "#000002": "var(--grid)", "#000003": "var(--ground)", **_COLORS}
THEME = Theme(ink="#000001", grid="#000002", ground="#000003", colors=tuple(_COLORS))


def render(runs: Sequence[Run], title: str) -> str:
    """Return the page; every text that comes from a run is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "templates"), autoescape=True,
        undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "count": count, "number": number, "score": score, "duration": duration, "size": size,
        "moment": moment, "short": short,
    }  # fmt: skip
    curves = [run.curves for run in runs]
    return environment.get_template("report.html").render(
        title=title, runs=runs, several=len(runs) > 1, axes=AXES,
        metrics=shared_metrics(runs), panels=[picture(panel, curves) for panel in panels_of(curves)],
        differing=differing_keys(list(runs)) if len(runs) > 1 else [],
        made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"), version=vaswani_tx.__version__,
    )  # fmt: skip


def shared_metrics(runs: Sequence[Run]) -> list[MetricSpec]:
    """Return the metrics of all runs in the order of the registry."""
    names = {spec.name for run in runs for spec in run.metrics}
    return [spec for name, spec in BY_NAME.items() if name in names]


def picture(panel: Panel, runs: Sequence[Curves]) -> dict[str, Any]:
    """Return one panel over each axis as SVG, with a sentence for those who cannot see it."""
    spoken = describe(panel, runs)
    svgs = {
        axis: inline_svg(
            draw_svg(panel, runs, axis, THEME), f"{panel.name}-{axis}", f"{panel.title} over {axis}", spoken
        )
        for axis in AXES
    }
    return {"name": panel.name, "title": panel.title, "svgs": svgs, "spoken": spoken}


def describe(panel: Panel, runs: Sequence[Curves]) -> str:
    """Return first and last value of every line, and its best one, as a sentence."""
    parts = []
    for run in runs:
        for series in panel.series:
            steps, values = run.points(series, "updates")
            if not len(steps):
                continue
            values = values * panel.factor
            text = f"{series.label} goes from {values[0]:.4g} at update {steps[0]:,.0f} to {values[-1]:.4g} at "
            text += f"update {steps[-1]:,.0f}"
            if series.best:
                at = values.argmax() if series.best == "max" else values.argmin()
                text += f", best {values[at]:.4g} at update {steps[at]:,.0f}"
            parts.append(f"{run.name}: {text}" if len(runs) > 1 else text)
    return "; ".join(parts) + "."


def inline_svg(text: str, prefix: str, title: str, spoken: str) -> Markup:
    """Return a drawing to embed in a page: unique ids, the page's colours and font, a text for screen readers."""
    ElementTree.register_namespace("", SVG)
    ElementTree.register_namespace("xlink", XLINK)
    # What matplotlib wrote is no foreign input, and Python's parser fetches no external entity.
    root = ElementTree.fromstring(text)
    for parent in list(root.iter()):
        for child in list(parent):
            if child.tag.rpartition("}")[2] in ("metadata", "style"):
                parent.remove(child)
    for element in root.iter():
        _adopt(element, prefix)
    for name in ("width", "height"):
        root.attrib.pop(name)
    root.set("role", "img")
    root.set("aria-labelledby", f"{prefix}-title {prefix}-text")
    for place, (tag, words) in enumerate((("title", title), ("desc", spoken))):
        child = ElementTree.Element(f"{{{SVG}}}{tag}", {"id": f"{prefix}-{'text' if place else 'title'}"})
        child.text = words
        root.insert(place, child)
    return Markup(ElementTree.tostring(root, encoding="unicode"))  # the serialiser has escaped every text in it


def _adopt(element: ElementTree.Element, prefix: str) -> None:
    for name, value in list(element.attrib.items()):
        if name == "id":
            value = f"{prefix}-{value}"
        elif name == f"{{{XLINK}}}href":
            value = f"#{prefix}-{value.removeprefix('#')}"
        elif name == "clip-path":
            value = value.replace("url(#", f"url(#{prefix}-")
        elif name == "style":
            value = re.sub(r"font-family:[^;]*;?|font: ", "", value)
            value = re.sub(r"#0000[0-9a-f]{2}", lambda found: _VARIABLES.get(found[0], found[0]), value)
        element.set(name, value)


def count(value: Any) -> str:
    """Return 12345 as 12,345, large numbers short, 2,598,912 as 2.6 million; a dash for what is not known."""
    if not is_number(value):
        return "–"
    for unit, name in ((1e9, "billion"), (1e6, "million")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:,.0f}"


def number(value: Any, digits: int = 2) -> str:
    """Return a number with so many decimals; a dash for what is not known."""
    return f"{value:,.{digits}f}" if is_number(value) else "–"


def score(value: Any, spec: MetricSpec) -> str:
    """Return a score in the format of its metric; a dash for what is not known."""
    return spec.show(value) if is_number(value) else "–"


def duration(seconds: Any) -> str:
    """Return seconds as 47 min, 3 h 05 min or 2 d 04 h."""
    if not is_number(seconds):
        return "–"
    if seconds < 120:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes:02d} min" if hours < 48 else f"{hours // 24} d {hours % 24:02d} h"


def size(value: Any) -> str:
    """Return bytes as 31.9 MB."""
    if not is_number(value):
        return "–"
    return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"


def moment(seconds: Any) -> str:
    """Return seconds since 1970 as a date and time."""
    if not is_number(seconds):
        return "–"
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M")


def short(value: Any) -> str:
    """Return any value of a JSON file as one short text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def names_of(paths: Sequence[str]) -> list[str]:
    """Return the folders' names, with so many of the folders above as it takes to tell them apart."""
    resolved = [Path(path).resolve().parts for path in paths]
    for depth in range(1, max(map(len, resolved)) + 1):
        names = ["/".join(parts[-depth:]) for parts in resolved]
        if len(set(names)) == len(set(resolved)):
            break
    return names


def write(options: argparse.Namespace) -> list[Path]:
    """Write what the options ask for and return the files; raise ValueError where a run cannot be reported."""
    runs = [read_run(path, name) for path, name in zip(options.runs, names_of(options.runs), strict=True)]
    title = options.title or ", ".join(run.name for run in runs)
    output = options.output or (None if options.png else runs[0].path / "report.html")
    for path in (output, options.png):
        check_writable(path)
    written = []
    if options.png:
        write_png(runs, options.png, title, options.png_axis)
        written.append(options.png)
    if output:
        atomic_text(output, render(runs, title))
        written.append(output)
    return written


def write_png(runs: Sequence[Run], target: Path, title: str, axis: str) -> None:
    """Write the curves as a picture that is whole or absent."""
    temporary = target.with_name(f".tmp-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draw_curves([run.curves for run in runs], temporary, title, axis)
        temporary.replace(target)
    except OSError as error:
        raise WriteError(f"'{target}' could not be written: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)
