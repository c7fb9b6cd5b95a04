"""A report of one run, or of several beside each other: curves, scores, checkpoints, data and recipe on one page.

    vaswani-tx report runs/first --output report.html
    vaswani-tx report runs/first runs/second --png curves.png --title "With and without dropout"

The HTML file needs no network and nothing beside it: send it, or open it on a phone. It tells what the run folders
hold (`metrics.jsonl`, `recipe.yaml`, `environment.json`, `data.json`, `checkpoints/`, `samples.jsonl`), also of a run
that has not ended. Without `--output` and `--png` it is written as `report.html` into the folder of the first run.
"""

import argparse
import sys
from pathlib import Path

from vaswani_tx.training.command_line import exit_status, make_parser
from vaswani_tx.training.reporting import AXES


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; the header of this file is its manual."""
    parser = make_parser(__doc__, "vaswani-tx report")
    parser.add_argument("runs", nargs="+", metavar="RUN", help="run folder; the first one gives the report its place")
    parser.add_argument("--output", type=Path, metavar="FILE", help="the HTML file; default: RUN/report.html")
    parser.add_argument("--png", type=Path, metavar="FILE", help="the curves alone, as a picture")
    parser.add_argument("--png-axis", choices=AXES, default="updates", help="what the picture's curves run over")
    parser.add_argument("--title", help="default: the names of the runs")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> None:
    """Write the report and name its files."""
    # Imported here, so that --help need not wait for matplotlib.
    from vaswani_tx.training.reporting.page import write

    for path in write(options):
        print(path)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parse(argv)
    return exit_status(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
