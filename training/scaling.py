"""Train a ladder of sizes on one corpus, fit the power laws of the loss in parameters and compute, and draw them.

    python -m vaswani_tx.training.scaling training/ladders/tatoeba_en.yaml --output-dir runs/scaling --dry-run
    python -m vaswani_tx.training.scaling training/ladders/tatoeba_en.yaml --output-dir runs/scaling

Every further flag is one of the training command's, for all sizes. A size trains into OUTPUT_DIR/SIZE-seedN; finished
ones are skipped and a stopped one resumes when the same command is given again. OUTPUT_DIR gets `scaling.json` (every
number), `scaling.md` (the table) and `scaling.png`; `--only-fit` makes them again from the finished runs. SIGTERM
and Ctrl-C let the current run save first; the exit status is then 128 plus the signal's number. A file or flag that
cannot be used ends with status 2 before anything starts.

A ladder is a YAML mapping:

    title: of the picture                        # optional
    command: train_causal_lm                     # or train_masked_lm, train_translation
    recipe: ../recipes/causal_lm/tatoeba_en.yaml # beside this file; base of all sizes
    set: {max_steps: 1000, eval_every: 100}      # keys of the recipe for all sizes
    seeds: [1, 2]                                # every size is trained with each; they give the error bars
    sizes:
      d64: {model.d_model: 64, model.d_ff: 256}  # keys of the recipe for this size
      d128: {model.d_model: 128, model.d_ff: 512}

All sizes see the same number of updates; the loss is the validation loss in nats a token, at the end of a run and at
each validation on the way. See `training/experiments/scaling_fit.py` for what is fitted.
"""

import argparse
import json
import os
import shlex
import signal
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from vaswani_tx.training.config.language_modeling import CausalSettings, MaskedSettings
from vaswani_tx.training.config.recipe import UniqueKeyLoader, check_known, parse
from vaswani_tx.training.config.run_settings import RunSettings
from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.engine.run import print_status
from vaswani_tx.training.engine.run_folder import RunFolder
from vaswani_tx.training.errors import FitError, LadderError, SettingsError
from vaswani_tx.training.experiments.scaling_fit import fit_all, read_run, table
from vaswani_tx.training.experiments.scaling_plots import draw
from vaswani_tx.training.files import atomic_text
from vaswani_tx.training.sweep import Commands

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
    path = Path(path)
    try:
        content = yaml.load(path.read_text(encoding="utf-8"), Loader=UniqueKeyLoader)
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
    recipe = path.parent / content["recipe"]
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


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    usage = "%(prog)s FILE --output-dir DIR [--dry-run] [--only-fit] [--KEY VALUE ...]"
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m vaswani_tx.training.scaling",
        description=__doc__,
        formatter_class=form,
        usage=usage,
        allow_abbrev=False,
    )
    parser.add_argument("file", help="ladder of sizes")
    parser.add_argument("--output-dir", "--output_dir", required=True, metavar="DIR", help="folder of runs and results")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the commands, start nothing")
    parser.add_argument("--only-fit", action="store_true", help="train nothing, fit and draw the finished runs")
    options, flags = parser.parse_known_args(argv)
    try:
        ladder = read_ladder(options.file, flags, options.output_dir)
        if options.dry_run:
            for rung in ladder.rungs:
                print(f"{rung.name}: {shlex.join(training_command(ladder, rung))}")
            return 0
        status = 0 if options.only_fit else train_ladder(ladder)
        if status < 128:
            finalize(ladder)
        return status
    except FitError as error:
        print_status(f"error: {error}")
        return 1
    except ValueError as error:
        print_status(f"error: {error}")
        return 2


if __name__ == "__main__":
    sys.exit(main())
