"""The YAML files that come with the package: recipes, sweeps, ladders, and configurations of accelerate.

A command that takes the path of such a file also takes its name: `multi30k_en_de`, `masked_lm/tatoeba_en.yaml` and
`training/recipes/multi30k_en_de.yaml` find the ready-made one where no file of that path exists.
"""

import os
from pathlib import Path, PurePath

from vaswani_tx.suggestions import nearest_name

PACKAGE = Path(__file__).parent.parent
SUFFIX = ".yaml"


def find_shipped(path: str | os.PathLike, folder: str) -> Path:
    """Return the file that a user means: the path itself where it exists, else the ready-made file of that name.

    Args:
        path: a path, or a name with or without `.yaml`, `training/` and the folder in front of it.
        folder: `recipes`, `sweeps`, `ladders` or `accelerate_configs`.

    Returns the path as it was given where there is neither.
    """
    given = Path(path)
    found = PACKAGE / folder / f"{_name(given, folder)}{SUFFIX}"
    return found if not given.exists() and found.is_file() else given


def known_files(folder: str, path: str | os.PathLike = "") -> str:
    """Return a sentence for an error: the ready-made files of a folder, first the one that is most like `path`."""
    root = PACKAGE / folder
    names = sorted(file.relative_to(root).with_suffix("").as_posix() for file in root.rglob(f"*{SUFFIX}"))
    title = folder.replace("accelerate_configs", "configurations of accelerate")
    near = nearest_name(_name(PurePath(path), folder), names)
    hint = f"Did you mean '{near}'? " if near else ""
    return f"{hint}Ready-made {title}, to be given by name: {', '.join(names)}."


def recipe_beside(path: Path, name: str) -> Path:
    """Return the recipe that a sweep's or a ladder's file names: a file beside that file, or else a ready-made one."""
    beside, shipped = path.parent / name, find_shipped(name, "recipes")
    return shipped if not beside.exists() and shipped.is_file() else beside


def _name(path: PurePath, folder: str) -> str:
    """Return a path without what every file of a folder has in common."""
    parts = list(path.parts)
    for common in ("training", folder):
        if parts[1:] and parts[0] == common:
            parts = parts[1:]
    return PurePath(*parts).as_posix().removesuffix(SUFFIX)
