"""Average checkpoints into one model folder that `from_pretrained` loads.

    vaswani-tx average runs/demo --last 5 --output runs/demo/averaged
    vaswani-tx average A/step-00004000 A/step-00005000 --output averaged

A run folder (or its `checkpoints/`) gives its last N; model folders are averaged as they are given. Weights are summed
in float32. An existing output folder is only replaced with `--overwrite`.
"""

import argparse
import sys
from pathlib import Path

from vaswani_tx.limits import whole
from vaswani_tx.training.command_line import exit_status, make_parser
from vaswani_tx.training.errors import CheckpointError


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; the header of this file is its manual."""
    parser = make_parser(__doc__, "vaswani-tx average")
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="run, its checkpoints/, or model folders")
    parser.add_argument("--last", type=whole(), metavar="N", help="only the last N; default: all")
    parser.add_argument("--output", required=True, type=Path, metavar="DIR", help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output folder")
    return parser.parse_args(argv)


def choose(paths: list[Path], last: int | None) -> list[Path]:
    """Return the model folders that the command line means; raise CheckpointError where there are too few."""
    from vaswani_tx.training.engine.checkpoints import list_checkpoints  # here, as it imports torch

    folders = []
    for path in paths:
        found = list_checkpoints(path / "checkpoints") or list_checkpoints(path)
        folders += found or [path]
    if last is None:
        return folders
    if last < 1 or last > len(folders):
        raise CheckpointError(f"--last {last}: there are {len(folders)} checkpoints to choose from.")
    return folders[-last:]


def run(options: argparse.Namespace) -> None:
    """Write the average of the chosen folders and print which they are.

    Raises:
        CheckpointError: too few checkpoints, weights that do not match, an output folder that is there already.
    """
    from vaswani_tx.training.engine.averaging import save_average

    folders = choose(options.paths, options.last)
    save_average(folders, options.output, replace=options.overwrite)
    print(f"{options.output}: mean of {len(folders)} checkpoints ({', '.join(folder.name for folder in folders)})")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return the exit status."""
    options = parse(argv)
    return exit_status(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
