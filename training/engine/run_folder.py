"""The run folder: its files, and whether a run may begin in it, resume in it or must leave it alone.

`recipe.yaml` (resolved), `environment.json` (versions and hardware of each part), `tokenizer/`, `metrics.jsonl`, what
the tracker keeps (`tensorboard/`, or `tracker.json` and `wandb/`), `checkpoints/step-00001000/`, `best/`, `averaged/`,
and `finished.json` once nothing is left to do.
"""

import dataclasses
import json
import logging
import shutil
from pathlib import Path
from typing import Any

from vaswani_tx.training.config.recipe import read_recipe
from vaswani_tx.training.config.run_settings import RunSettings
from vaswani_tx.training.engine.checkpoints import latest_checkpoint
from vaswani_tx.training.errors import RunError, SettingsError
from vaswani_tx.training.files import atomic_text, clean_leftovers, remove_folder
from vaswani_tx.training.models.loading import list_checkpoints

logger = logging.getLogger(__name__)

# What may differ between the parts of one run: limits, reports and paths, nothing that decides an update.
# Data may move; numbers of examples and tokens show whether they are the same.
MAY_CHANGE = {
    "output_dir", "data_dir", "train_source", "train_target", "validation_source", "validation_target", "tokenizer",
    "max_steps", "max_epochs", "max_minutes", "log_every", "eval_every", "eval_sentences", "eval_beam", "final_beam",
    "best_by", "metrics", "patience", "save_every", "save_minutes", "keep_last", "average_last", "num_threads",
    "tracker", "resume", "overwrite", "compile", "gradient_checkpointing", "token_cache", "cache_dir", "image_memory",
    "train_text", "validation_text", "eval_samples", "sample_tokens", "train_file", "validation_file",
    "validation_trees", "leaves", "validation_tag", "validation_sets", "teacher",
}  # fmt: skip
_OWN = ("recipe.yaml", "environment.json", "data.json", "tokenizer", "processor", "metrics.jsonl", "tensorboard",
        "tracker.json", "wandb", "checkpoints", "best", "averaged", "ema", "samples.jsonl", "finished.json",
        "scores.json", "bad_batch.json")  # fmt: skip


class RunFolder:
    """Paths of one run, and the decisions about them."""

    def __init__(self, path: str | Path):
        self.path = Path(path)
        self.recipe = self.path / "recipe.yaml"
        self.environment = self.path / "environment.json"
        self.tokenizer = self.path / "tokenizer"
        self.metrics = self.path / "metrics.jsonl"
        self.checkpoints = self.path / "checkpoints"
        self.best = self.path / "best"
        self.averaged = self.path / "averaged"
        self.ema = self.path / "ema"
        self.finished = self.path / "finished.json"

    def resume_point(self, settings: RunSettings) -> Path | None:
        """Return the checkpoint to resume from, or None for a new run; nothing is written.

        Raises:
            RunError: the folder holds a finished or different run or foreign files, or `resume` names no folder.
        """
        if self.path.exists() and not self.path.is_dir():
            raise RunError(f"output_dir '{self.path}' is a file: name a folder.")
        if settings.overwrite:
            return None
        if settings.resume not in ("auto", "never"):
            point = Path(settings.resume)
            if not point.is_dir():
                raise RunError(f"--resume '{point}': there is no such checkpoint folder.")
            self.check_same(settings)
            if self.checkpoints.is_dir() and point.resolve().parent != self.checkpoints.resolve():
                raise RunError(f"'{self.path}' has checkpoints of its own: resume '{point}' in another output_dir.")
            return point
        if not self.recipe.exists():
            if self.checkpoints.exists() or self.metrics.exists():
                raise RunError(
                    f"'{self.path}' holds parts of a run without its recipe.yaml: choose another output_dir."
                )
            return None
        if settings.resume == "never":
            raise RunError(f"'{self.path}' holds a run already: --resume auto continues it, --overwrite deletes it.")
        self.check_same(settings)
        self._check_unfinished(settings)
        return latest_checkpoint(self.checkpoints)

    def create(self, settings: RunSettings, resume_from: Path | None, part: dict[str, Any] | None = None) -> None:
        """Prepare the folder: delete what a killed process left and an overwritten run, write the recipe.

        Resuming from an older checkpoint deletes the newer ones. `part` is the environment of this part of the run
        (see `environment.py`), which is appended to those of the parts before.
        """
        parts = self.parts() if resume_from is not None else []
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            clean_leftovers(self.path)
            clean_leftovers(self.checkpoints)
            if resume_from is None and self.recipe.exists():
                self._delete_run(keep=getattr(settings, "tokenizer", None))
            elif resume_from is not None:
                self._delete_after(resume_from)
            self.finished.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"output_dir '{self.path}' cannot be written: {error}.") from error
        atomic_text(self.recipe, settings.to_yaml())
        if part is not None:
            atomic_text(self.environment, json.dumps({"parts": [*parts, part]}, indent=1, ensure_ascii=False) + "\n")

    def parts(self) -> list[dict[str, Any]]:
        """Return the environment of each part of the run in order; raise RunError where the file is damaged."""
        if not self.environment.exists():
            return []
        try:
            parts = json.loads(self.environment.read_text(encoding="utf-8"))["parts"]
            if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
                raise ValueError("'parts' is not a list of objects")
        except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
            raise RunError(f"'{self.environment}' is damaged ({error}): restore or delete it to continue.") from error
        return parts

    def note_data(self, content: dict[str, Any]) -> None:
        """Write what the run is trained on, and what the filters dropped, to `data.json`."""
        atomic_text(self.path / "data.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")

    def note_samples(self, samples: list[dict[str, str]]) -> None:
        """Write some validation examples with what the model made of them to `samples.jsonl`."""
        lines = (json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
        atomic_text(self.path / "samples.jsonl", "".join(lines))

    def finish(self, step: int, reason: str, settings: RunSettings) -> None:
        """Mark the run as complete; `reason` is the key whose limit it reached."""
        done = {"step": step, "reason": reason, reason: getattr(settings, reason)}
        atomic_text(self.finished, json.dumps(done, indent=1) + "\n")

    def _delete_after(self, point: Path) -> None:
        newer = [path for path in list_checkpoints(self.checkpoints) if path.name > point.name]
        for path in newer:
            logger.warning("Going back to %s: deleting %s.", point.name, path)
            remove_folder(path)

    def _delete_run(self, keep: str | None) -> None:
        for name in _OWN:
            path = self.path / name
            if keep and path.exists() and path.resolve() == Path(keep).resolve():
                continue
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)

    def former_settings(self, settings_class: type[RunSettings]) -> RunSettings | None:
        """Return the settings of the run that the folder holds, None where it holds none; RunError where damaged."""
        if not self.recipe.exists():
            return None
        try:
            return settings_class(**read_recipe(self.recipe, settings_class))
        except SettingsError as error:
            raise RunError(f"'{self.path}' holds a run that this version cannot read: {error}") from error

    def schedule_end(self, settings: RunSettings) -> int | None:
        """Return the last update of the schedule: that of the run which the folder holds, else of the settings."""
        former = None if settings.overwrite else self.former_settings(type(settings))
        if former is None or settings.decay_steps is not None:
            return settings.schedule_end
        return former.schedule_end

    def check_same(self, settings: RunSettings) -> None:
        """Raise RunError where the folder holds a run of other keys than may change between the parts of one."""
        former = self.former_settings(type(settings))
        if former is None:
            return
        values = dataclasses.asdict(former) | {"decay_steps": former.schedule_end or former.decay_steps}
        now = dataclasses.asdict(settings)
        if settings.decay_steps is None:
            now["decay_steps"] = values["decay_steps"]  # a resumed run keeps its own
        differing = [
            f"{name} was {values[name]!r} and is now {value!r}"
            for name, value in now.items()
            if name not in MAY_CHANGE and values[name] != value
        ]
        if differing:
            raise RunError(
                f"'{self.path}' holds a different run: {'; '.join(differing)}. "
                "Choose another output_dir, restore those values to resume, or --overwrite to delete it."
            )

    def _read_finished(self, settings: RunSettings) -> dict[str, Any]:
        try:
            done = json.loads(self.finished.read_text(encoding="utf-8"))
            if not (hasattr(settings, done["reason"]) and {"step", done["reason"]} <= done.keys()):
                raise ValueError("it names no limit that was reached")
        except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise RunError(f"'{self.finished}' is damaged ({error}): restore or delete it to continue.") from error
        return done

    def is_done(self, settings: RunSettings) -> bool:
        """Return whether the finished run has done all that the settings ask for; RunError where it is another run."""
        done = self._read_finished(settings)
        self.check_same(settings)
        limit = getattr(settings, done["reason"])
        return limit is not None and limit <= done[done["reason"]]

    def _check_unfinished(self, settings: RunSettings) -> None:
        if self.finished.exists() and self.is_done(settings):
            done = self._read_finished(settings)
            reason = done["reason"]
            raise RunError(
                f"The run in '{self.path}' is finished (step {done['step']}, {reason} {done[reason]}): raise "
                f"{reason} to continue, choose another output_dir, or --overwrite to delete it."
            )
