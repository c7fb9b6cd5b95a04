"""A ladder of sizes: its file, the training of its runs, and the power laws that are fitted to them.

`vaswani_tx.training.scaling` is the command and describes the file.
"""

import json
import os
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vaswani_tx.training.command_line import print_status
from vaswani_tx.training.config.language_modeling import CausalSettings, MaskedSettings
from vaswani_tx.training.config.recipe import check_known, load_yaml, parse
from vaswani_tx.training.config.run_settings import RunSettings
from vaswani_tx.training.config.shipped import find_shipped, known_files, recipe_beside
from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.engine.run_folder import RunFolder
from vaswani_tx.training.errors import LadderError, SettingsError
from vaswani_tx.training.experiments.child_commands import Commands
from vaswani_tx.training.experiments.scaling_fit import fit_all, read_run, table
from vaswani_tx.training.experiments.scaling_plots import draw
from vaswani_tx.training.files import atomic_text

KEYS = ("title", "command", "recipe", "set", "seeds", "sizes")
TASK_SPECS: dict[str, type[RunSettings]] = {
    "train_causal_lm": CausalSettings,
    "train_masked_lm": MaskedSettings,
    "train_translation": TranslationSettings,
}


@dataclass(frozen=True)
class Rung:
    """One run of the ladder: a size with a seed, and the arguments of the training command."""

    size: str
    seed: int
    words: list[str]
    arguments: RunSettings

    @property
    def name(self) -> str:
        """Return the name of its run folder."""
        return f"{self.size}-seed{self.seed}"

    @property
    def folder(self) -> RunFolder:
        """Return its run folder."""
        return RunFolder(self.arguments.output_dir)


@dataclass(frozen=True)
class Ladder:
    """The checked content of a ladder's file."""

    title: str
    command: str
    rungs: list[Rung]
    output_dir: Path


def read_ladder(path: str | Path, flags: list[str], output_dir: str | Path) -> Ladder:
    """Read a ladder's file; raise LadderError or SettingsError, naming file and key, where it cannot be used."""
    path = find_shipped(path, "ladders")
    if not path.exists():
        raise LadderError(f"There is no ladder at '{path}'. {known_files('ladders', path)}")
    try:
        content = load_yaml(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise LadderError(f"The ladder '{path}' cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise LadderError(f"{path} must be a mapping with the keys {', '.join(KEYS)}.")
    for key in content:
        try:
            check_known(str(key), KEYS, f"{path}: unknown key '{key}'")
        except SettingsError as error:
            raise LadderError(str(error)) from None
    command = content.get("command", "train_causal_lm")
    if command not in TASK_SPECS:
        raise LadderError(f"{path}: command must be one of {', '.join(TASK_SPECS)}, not {command!r}.")
    sizes, seeds = content.get("sizes"), content.get("seeds", [1])
    if not isinstance(sizes, dict) or len(sizes) < 3 or not all(isinstance(value, dict) for value in sizes.values()):
        raise LadderError(f"{path}: sizes must map at least three names to keys of the recipe: two fix any line.")
    if not isinstance(seeds, list) or not seeds or not all(type(seed) is int for seed in seeds):
        raise LadderError(f"{path}: seeds must be a list of whole numbers, not {seeds!r}.")
    if not content.get("recipe"):
        raise LadderError(f"{path}: recipe is missing.")
    recipe = recipe_beside(path, str(content["recipe"]))
    rungs = []
    for size, own in sizes.items():
        for seed in seeds:
            changes = {**(content.get("set") or {}), **own, "seed": seed}
            words = [os.path.normpath(recipe), *flags, *(_flag(key, value) for key, value in changes.items())]
            words.append(f"--output-dir={Path(output_dir) / f'{size}-seed{seed}'}")
            arguments = parse(words, TASK_SPECS[command])
            arguments.check_for_training()
            rungs.append(Rung(str(size), seed, words, arguments))
    return Ladder(content.get("title") or path.stem, command, rungs, Path(output_dir))


def _flag(key: str, value: Any) -> str:
    text = yaml.safe_dump(value, default_flow_style=True, width=10**9).removesuffix("\n").removesuffix("\n...")
    return f"--{key}={text}"


def training_command(ladder: Ladder, rung: Rung) -> list[str]:
    """Return the command line that trains a rung, with the first one's tokenizer where the recipe trains one."""
    words = [sys.executable, "-m", f"vaswani_tx.training.{ladder.command}", *rung.words]
    first = ladder.rungs[0].folder.tokenizer
    if rung is not ladder.rungs[0] and not getattr(rung.arguments, "tokenizer", None) and first.is_dir():
        words.append(f"--tokenizer={first}")
    return words


def train_ladder(ladder: Ladder) -> int:
    """Train the unfinished runs, from the smallest on; return the command's exit status."""
    failed = []
    with Commands() as commands:
        for number, rung in enumerate(ladder.rungs, start=1):
            if rung.folder.finished.exists():
                continue
            print_status(f"{rung.name} ({number} of {len(ladder.rungs)})")
            status = commands.run(training_command(ladder, rung))
            if commands.signum:
                print_status(f"stopped by {signal.Signals(commands.signum).name}; the same command resumes there.")
                return 128 + commands.signum
            if status:
                failed.append(rung.name)
                print_status(f"{rung.name} failed with status {status}; continuing with the next one.")
    if failed:
        print_status(f"not trained: {', '.join(failed)}")
    return 1 if failed else 0


def finalize(ladder: Ladder) -> None:
    """Fit, write and draw the finished runs; raise FitError where there are too few."""
    runs = [read_run(rung.size, rung.seed, rung.folder) for rung in ladder.rungs if rung.folder.finished.exists()]
    result = {"title": ladder.title, "command": ladder.command, **fit_all(runs)}
    text = table(result)
    atomic_text(ladder.output_dir / "scaling.json", json.dumps(result, indent=1) + "\n")
    atomic_text(ladder.output_dir / "scaling.md", text)
    draw(result, ladder.output_dir / "scaling.png")
    print(text)
    print_status(f"results: {ladder.output_dir / 'scaling.md'}, scaling.json, scaling.png")
