"""Averages checkpoints into one model folder that `from_pretrained` loads.

    python -m vaswani_tx.training.average_checkpoints runs/demo --last 5 --output runs/demo/averaged
    python -m vaswani_tx.training.average_checkpoints A/step-00004000 A/step-00005000 --output averaged

A run folder (or its `checkpoints/`) gives its last N; model folders are averaged as they are given. Weights are summed
in float32. An existing output folder is only replaced with `--overwrite`.
"""

import argparse
import sys
from pathlib import Path

from vaswani_tx.training.engine.averaging import save_average
from vaswani_tx.training.engine.checkpoints import list_checkpoints
from vaswani_tx.training.errors import CheckpointError


def choose(paths: list[Path], last: int | None) -> list[Path]:
    """The model folders that the command line means; raises CheckpointError where there are fewer than asked for."""
    folders = []
    for path in paths:
        found = list_checkpoints(path / "checkpoints") or list_checkpoints(path)
        folders += found or [path]
    if last is None:
        return folders
    if last < 1 or last > len(folders):
        raise CheckpointError(f"--last {last}: {len(folders)} checkpoints are there to choose from.")
    return folders[-last:]


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("paths", nargs="+", type=Path, help="run folder, checkpoints/ folder or model folders")
    parser.add_argument("--last", type=int, help="only the last N (default: all)")
    parser.add_argument("--output", required=True, type=Path, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing output folder")
    options = parser.parse_args(argv)
    try:
        folders = choose(options.paths, options.last)
        save_average(folders, options.output, replace=options.overwrite)
    except CheckpointError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"{options.output}: mean of {len(folders)} checkpoints ({', '.join(folder.name for folder in folders)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
