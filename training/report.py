"""A report of one run, or of several beside each other: curves, scores, checkpoints, data and recipe on one page.

    python -m vaswani_tx.training.report runs/first --output report.html
    python -m vaswani_tx.training.report runs/first runs/second --png curves.png --title "With and without dropout"

The HTML file needs no network and nothing beside it: send it, or open it on a phone. It tells what the run folders
hold (`metrics.jsonl`, `recipe.yaml`, `environment.json`, `data.json`, `checkpoints/`, `samples.jsonl`), also of a run
that is still going. Without `--output` and `--png` it is written as `report.html` into the folder of the first run.
"""

import argparse
import datetime
import re
import sys
import xml.etree.ElementTree as ElementTree
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

import vaswani_tx
from vaswani_tx.training.errors import CheckpointError
from vaswani_tx.training.files import atomic_text
from vaswani_tx.training.reporting.plots import AXES, Curves, Panel, Theme, draw_curves, draw_svg, is_number, panels_of
from vaswani_tx.training.reporting.run_data import Run, differing_keys, read_run

SVG, XLINK = "http://www.w3.org/2000/svg", "http://www.w3.org/1999/xlink"
# Colours that stand for a variable of the page's style sheet, so that one picture serves light and dark pages.
_COLORS = {f"#0000{10 + number:02x}": f"var(--series-{number})" for number in range(8)}
_VARIABLES = {"#000001": "var(--ink)", "#000002": "var(--grid)", "#000003": "var(--ground)", **_COLORS}
THEME = Theme(ink="#000001", grid="#000002", ground="#000003", colors=tuple(_COLORS))


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; the header of this file is its manual."""
    parser = argparse.ArgumentParser(
        prog="python -m vaswani_tx.training.report", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )  # fmt: skip
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder; the first one gives the report its place")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the HTML file; default: RUN/report.html")
    parser.add_argument("--png", type=Path, metavar="FILE", help="the curves alone, as a picture")
    parser.add_argument("--png-axis", choices=AXES, default="updates", help="what the picture's curves run over")
    parser.add_argument("--title", help="default: the names of the runs")
    return parser.parse_args(argv)


def render(runs: Sequence[Run], title: str) -> str:
    """The page; every text that comes from a run is escaped."""
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent / "reporting" / "templates"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "count": count, "number": number, "duration": duration, "size": size, "moment": moment, "short": short,
    }  # fmt: skip
    curves = [run.curves for run in runs]
    return environment.get_template("report.html").render(
        title=title, runs=runs, several=len(runs) > 1, axes=AXES,
        panels=[picture(panel, curves) for panel in panels_of(curves)],
        differing=differing_keys(list(runs)) if len(runs) > 1 else [],
        made=datetime.datetime.now(datetime.UTC).strftime("%Y-%m-%d %H:%M UTC"), version=vaswani_tx.__version__,
    )  # fmt: skip


def picture(panel: Panel, runs: Sequence[Curves]) -> dict[str, Any]:
    """One panel over each axis as SVG, with the sentence that stands for it where it cannot be seen."""
    spoken = describe(panel, runs)
    svgs = {
        axis: inline_svg(
            draw_svg(panel, runs, axis, THEME), f"{panel.name}-{axis}", f"{panel.title} over {axis}", spoken
        )
        for axis in AXES
    }
    return {"name": panel.name, "title": panel.title, "svgs": svgs, "spoken": spoken}


def describe(panel: Panel, runs: Sequence[Curves]) -> str:
    """First and last value of every line, and its best one."""
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
    """A drawing for the inside of a page: its own names for its parts, the page's colours and font, a text for ears."""
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
    """12345 as 12,345, and large ones short: 2,598,912 as 2.6 million; a dash for what is not known."""
    if not is_number(value):
        return "–"
    for unit, name in ((1e9, "billion"), (1e6, "million")):
        if value >= unit:
            return f"{value / unit:.3g} {name}"
    return f"{value:,.0f}"


def number(value: Any, digits: int = 2) -> str:
    """A score with so many decimals; a dash for what is not known."""
    return f"{value:,.{digits}f}" if is_number(value) else "–"


def duration(seconds: Any) -> str:
    """Seconds as 47 min, 3 h 05 min or 2 d 04 h."""
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
    """Bytes as 31.9 MB."""
    if not is_number(value):
        return "–"
    return f"{value / 1e9:.2f} GB" if value >= 1e9 else f"{value / 1e6:.1f} MB"


def moment(seconds: Any) -> str:
    """Seconds since 1970 as a date and time."""
    if not is_number(seconds):
        return "–"
    return datetime.datetime.fromtimestamp(seconds, datetime.UTC).strftime("%Y-%m-%d %H:%M")


def short(value: Any) -> str:
    """Any value of a JSON file as one short text."""
    if value is None:
        return "–"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def names_of(paths: Sequence[str]) -> list[str]:
    """The folders' names, with so many of the folders above as it takes to tell them apart."""
    resolved = [Path(path).resolve().parts for path in paths]
    for depth in range(1, max(map(len, resolved)) + 1):
        names = ["/".join(parts[-depth:]) for parts in resolved]
        if len(set(names)) == len(set(resolved)):
            break
    return names


def write(options: argparse.Namespace) -> list[Path]:
    """Writes what the options ask for and returns the files; raises ValueError where a run cannot be reported."""
    runs = [read_run(path, name) for path, name in zip(options.runs, names_of(options.runs), strict=True)]
    title = options.title or ", ".join(run.name for run in runs)
    output = options.output or (None if options.png else runs[0].path / "report.html")
    for path in filter(None, (output, options.png)):
        if path.is_dir():
            raise ValueError(f"'{path}' is a folder: name a file for the report.")
    written = []
    if options.png:
        write_png(runs, options.png, title, options.png_axis)
        written.append(options.png)
    if output:
        atomic_text(output, render(runs, title))
        written.append(output)
    return written


def write_png(runs: Sequence[Run], target: Path, title: str, axis: str) -> None:
    """The curves as a picture that is whole or absent."""
    temporary = target.with_name(f".tmp-{target.name}")
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        draw_curves([run.curves for run in runs], temporary, title, axis)
        temporary.replace(target)
    except OSError as error:
        raise CheckpointError(f"'{target}' could not be written: {error}.") from error
    finally:
        temporary.unlink(missing_ok=True)


def main(argv: list[str] | None = None) -> int:
    """Write the report and name its files; 2 with one line on stderr for what is no run, 1 for a disk that refuses."""
    try:
        for path in write(parse(argv)):
            print(path)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1 if isinstance(error, (CheckpointError, OSError)) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
