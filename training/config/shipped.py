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
        path: a path, or a name with or without `.yaml`, and with or without `training/` and the folder before it.
        folder: `recipes`, `sweeps`, `ladders` or `accelerate_configs`.

    Returns the path as it was given where there is neither.
    """
    given = Path(path)
    if given.is_absolute() or ".." in given.parts or (given.exists() and not given.is_dir()):
        return given
    found = PACKAGE / folder / f"{_name(given, folder)}{SUFFIX}"
    return found if found.is_file() else given


def known_files(folder: str, path: str | os.PathLike = "") -> str:
    """Return text for an error: the ready-made file that is most like `path`, and all files of its folder."""
    root = PACKAGE / folder
    names = sorted(file.relative_to(root).as_posix() for file in root.rglob(f"*{SUFFIX}"))
    near = nearest_name(f"{_name(PurePath(path), folder)}{SUFFIX}", names)
    hint = f"Did you mean '{near.removesuffix(SUFFIX)}'? " if near else ""
    return f"{hint}In training/{folder}: {', '.join(names)}."


def recipe_beside(path: Path, name: str) -> Path:
    """Return the recipe that a sweep's or a ladder's file names: a file beside that file, or else a ready-made one."""
    beside = path.parent / name
    shipped = find_shipped(name, "recipes")
    return shipped if not beside.is_file() and shipped.is_file() else beside


def _name(path: PurePath, folder: str) -> str:
    """Return a path without what every file of a folder has in common."""
    parts = list(path.parts)
    for common in ("training", folder):
        if parts[1:] and parts[0] == common:
            parts = parts[1:]
    return PurePath(*parts).as_posix().removesuffix(SUFFIX)
