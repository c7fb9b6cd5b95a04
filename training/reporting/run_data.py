"""What a report says of one run, read from its folder: nothing is computed again, no weights are loaded."""

import dataclasses
import datetime
import itertools
import json
import statistics
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from safetensors import SafetensorError, safe_open

from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.engine.checkpoints import STATE, list_checkpoints
from vaswani_tx.training.errors import ReportError
from vaswani_tx.training.metrics.registry import MetricSpec, found_metrics
from vaswani_tx.training.reporting.plots import Curves, is_number, read_metrics

# A run that has been silent for so many times its usual pause between two records has stopped.
SILENT_FOR = 5
SHOWN_SAMPLES = 8


@dataclass
class Run:
    """One run as its folder tells it. What the folder does not hold is empty or None."""

    name: str
    path: Path
    curves: Curves
    recipe: dict[str, Any]
    finished: dict[str, Any] | None
    bad_batch: dict[str, Any] | None
    parts: list[dict[str, Any]]
    data: dict[str, Any] | None
    checkpoints: list[dict[str, Any]]
    samples: list[dict[str, Any]]
    parameters: int | None
    last_written: float | None

    def last(self, event: str) -> dict[str, Any] | None:
        """Return the newest record of a kind."""
        return next(reversed(self.curves.events.get(event, [])), None)

    @property
    def validations(self) -> list[dict[str, Any]]:
        return self.curves.events.get("validation", [])

    @property
    def step(self) -> int:
        """The last update that the folder knows of."""
        steps = [records[-1]["step"] for records in self.curves.events.values() if records]
        steps += [entry["step"] for entry in self.checkpoints if entry["step"] is not None]
        return int(max(steps, default=0))

    @property
    def seconds(self) -> float:
        """Wall-clock time on the run's own clock: of all its parts, without the pauses between them."""
        known = [entry["seconds"] for entry in self.checkpoints if entry["seconds"] is not None]
        return max([self.curves.clock[1][-1], *known])

    @property
    def target_tokens(self) -> int | None:
        """Target tokens trained on so far."""
        record = self.last("train")
        return int(record["target_tokens"]) if record and is_number(record.get("target_tokens")) else None

    @property
    def speed(self) -> float | None:
        """The median of target tokens per second."""
        values = [r.get("tokens_per_second") for r in self.curves.events.get("train", [])]
        return statistics.median(filter(is_number, values)) if any(map(is_number, values)) else None

    @property
    def best(self) -> dict[str, Any] | None:
        """The validation that chose best/, or else the last one that was the best so far."""
        chosen = [record for record in self.validations if record.get("best") is True]
        return chosen[-1] if chosen else None

    @property
    def metrics(self) -> list[MetricSpec]:
        """The metrics that its validations have beside loss and perplexity, in the order of the registry."""
        known: dict[str, Any] = {}
        for record in [*self.validations, self.last("best") or {}, self.last("averaged") or {}]:
            known |= {name: value for name, value in record.items() if is_number(value)}
        return [spec for spec in found_metrics(known) if spec.name not in ("loss", "perplexity")]

    def main_metric(self, record: dict[str, Any]) -> MetricSpec | None:
        """Return the first metric of the run that a record has, None where it has the loss alone."""
        return next((spec for spec in self.metrics if is_number(record.get(spec.name))), None)

    def scores(self) -> list[dict[str, Any]]:
        """Return the rows of the table of results: best validation, then the models that were scored at the end."""
        rows = []
        if self.best:
            rows.append({"model": f"best validation, update {self.best['step']:,}", **self.best})
        names = {"best": "best/, at the end", "averaged": "averaged/, at the end"}
        return rows + [{"model": name, **self.last(event)} for event, name in names.items() if self.last(event)]

    def state(self) -> tuple[str, str]:
        """Return one of "finished", "failed", "running", "stopped", and a sentence that says so."""
        if self.finished:
            reason = str(self.finished.get("reason"))
            limit = f"{reason} {self.finished[reason]}" if reason in self.finished else reason
            return "finished", f"finished at update {self.finished.get('step', self.step):,}: {limit} reached"
        if self.bad_batch and (self.bad_batch.get("step") or 0) >= self.step:
            return "failed", (
                f"stopped at update {self.bad_batch.get('step')}: the loss became {self.bad_batch.get('loss')} "
                "(its pairs are in bad_batch.json)"
            )
        if self.last_written is None:
            return "stopped", "no record yet"
        age = max(0.0, time.time() - self.last_written)
        times = self.curves.clock[1][-20:]
        usual = max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0)
        when = datetime.datetime.fromtimestamp(self.last_written, datetime.UTC).strftime("%Y-%m-%d %H:%M UTC")
        if age <= max(120.0, SILENT_FOR * usual):
            return "running", f"still running: last record at update {self.step:,}, {when}"
        return "stopped", f"stopped before its end at update {self.step:,}: last record of {when}"

    def made_with(self) -> list[str]:
        """Return hardware, arithmetic, versions and revision of the newest part, in a few words each."""
        part = self.parts[-1] if self.parts else {}
        machine, versions, git = part.get("hardware") or {}, part.get("versions") or {}, part.get("git") or {}
        gpus = [str(gpu.get("name")) for gpu in machine.get("gpus") or []]
        words = [f"{len(gpus)} x {gpus[0]}" if gpus else f"{machine.get('cpu')}, {machine.get('usable_cores')} cores"]
        words += [f"{part.get('processes')} process{'' if part.get('processes') == 1 else 'es'}"]
        words += [str(part.get("precision"))]
        words += [f"{name} {versions.get(name)}" for name in ("torch", "transformers", "vaswani_tx")]
        if git:
            words.append(f"revision {str(git.get('revision'))[:12]}{' with changes' if git.get('dirty') else ''}")
        return words

    def recipe_rows(self) -> list[dict[str, Any]]:
        """Return every key of the recipe: name, value, the default, whether they differ, and what the key means."""
        fields = {item.name: item for item in dataclasses.fields(TranslationSettings)}
        rows = []
        for name, value in self.recipe.items():
            item = fields.get(name)
            default = None if item is None else _default(item)
            rows.append({
                "name": name, "value": as_text(value), "default": "unknown key" if item is None else as_text(default),
                "differs": item is None or value != default,
                "help": "" if item is None else item.metadata["help"],
            })  # fmt: skip
        return rows


def read_run(path: str | Path, name: str | None = None) -> Run:
    """Read the run in the folder `path`; it may be unfinished, being written, or without validation.

    Raises:
        ReportError: no folder, no run in it, or a damaged file of it.
        MetricsError: a broken line in the middle of its metrics.jsonl.
    """
    path = Path(path)
    if not path.is_dir():
        raise ReportError(f"There is no folder '{path}'.")
    metrics, recipe = path / "metrics.jsonl", path / "recipe.yaml"
    if not metrics.is_file() and not recipe.is_file():
        hint = _run_below(path)
        raise ReportError(f"'{path}' is no run folder: it has neither recipe.yaml nor metrics.jsonl.{hint}")
    name = name or path.resolve().name
    events = read_metrics(metrics) if metrics.is_file() else {}
    places = [*list_checkpoints(path / "checkpoints"), path / "best", path / "averaged"]
    validated = {record["step"]: record for record in events.get("validation", [])}
    checkpoints = [entry for place in places if (entry := _checkpoint(place, validated))]
    environment = _read_json(path / "environment.json") or {}
    parts = environment.get("parts", [])
    if not isinstance(parts, list) or not all(isinstance(part, dict) for part in parts):
        raise ReportError(f"'{path / 'environment.json'}' is damaged: 'parts' is not a list of objects.")
    return Run(
        name=name, path=path, curves=Curves(name, events), recipe=_read_recipe(recipe),
        finished=_read_json(path / "finished.json"), bad_batch=_read_json(path / "bad_batch.json"), parts=parts,
        data=_read_json(path / "data.json"), checkpoints=checkpoints, samples=_read_samples(path / "samples.jsonl"),
        parameters=next((count for place in reversed(places) if (count := _parameters(place))), None),
        last_written=metrics.stat().st_mtime if metrics.is_file() and events else None,
    )  # fmt: skip


def differing_keys(runs: list[Run]) -> list[tuple[str, list[str]]]:
    """Return the keys of the recipes that are not the same in all runs, folders left out, and each run's value."""
    names = dict.fromkeys(name for run in runs for name in run.recipe)
    rows = [(name, [as_text(run.recipe[name]) if name in run.recipe else "-" for run in runs]) for name in names]
    return [(name, values) for name, values in rows if len(set(values)) > 1 and name != "output_dir"]


def as_text(value: Any) -> str:
    """Return a value of a recipe as one would write it in a flag."""
    if value is None:
        return "null"
    if isinstance(value, str):
        return value or "''"
    return json.dumps(value, ensure_ascii=False, default=str)


def _default(item: dataclasses.Field) -> Any:
    return item.default_factory() if item.default is dataclasses.MISSING else item.default


def _run_below(path: Path) -> str:
    """Return a hint for who names the folder above a run."""
    found = sorted(place.parent.name for place in path.glob("*/recipe.yaml"))
    return f" Did you mean one of its folders: {', '.join(found[:5])}?" if found else ""


def _read_json(path: Path) -> dict[str, Any] | None:
    if not path.is_file():
        return None
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ReportError(f"'{path}' is damaged ({error}): restore it or delete it.") from error
    if not isinstance(content, dict):
        raise ReportError(f"'{path}' is damaged (not an object): restore it or delete it.")
    return content


def _read_recipe(path: Path) -> dict[str, Any]:
    # Not `read_recipe`: a report also tells of runs of other versions, whose keys this one may not know.
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, TypeError, RecursionError, yaml.YAMLError) as error:
        raise ReportError(f"'{path}' cannot be read: {error}") from error
    if not isinstance(content, dict):
        raise ReportError(f"'{path}' is not a mapping of keys to values.")
    return {str(name): value for name, value in content.items()}


def _read_samples(path: Path) -> list[dict[str, Any]]:
    """Read the samples of the run, one object with source, reference and hypothesis a line."""
    if not path.is_file():
        return []
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8", errors="replace").split("\n"), start=1):
        if line.strip() and len(samples) < SHOWN_SAMPLES:
            try:
                entry = json.loads(line)
                samples.append({key: str(entry[key]) for key in ("source", "reference", "hypothesis")})
            except (ValueError, KeyError, TypeError, RecursionError) as error:
                raise ReportError(
                    f"{path} line {number} is not an object with source, reference and hypothesis ({error!r}): fix "
                    "or delete it."
                ) from error
    return samples


def _checkpoint(place: Path, validated: dict[int, dict[str, Any]]) -> dict[str, Any] | None:
    """Return name, step, size in bytes, time and, where this step was validated, scores of a model folder."""
    if not (place / "config.json").is_file():
        return None
    note = _read_json(place / "validation.json") or {}
    state = _read_json(place / STATE / "state.json") or {}
    step, seconds = state.get("step", note.get("step")), state.get("seconds")
    try:
        files = [file.stat() for file in place.rglob("*") if file.is_file()]
    except FileNotFoundError:
        return None  # the run, still training, has just deleted this one
    return {
        "name": place.name,
        "step": step if is_number(step) else None,
        "seconds": seconds if is_number(seconds) else None,
        "bytes": sum(entry.st_size for entry in files),
        "written": max((entry.st_mtime for entry in files), default=None),
        "resumable": bool(state),
        "scores": validated.get(step, {}),
    }


def _parameters(place: Path) -> int | None:
    """Count the numbers in the weight files of a model folder, by their headers; a tied matrix is stored once."""
    total = 0
    for path in sorted(place.glob("*.safetensors")):
        try:
            with safe_open(path, framework="np") as file:
                for name in file.keys():  # noqa: SIM118 (not a dict)
                    count = 1
                    for size in file.get_slice(name).get_shape():
                        count *= size
                    total += count
        except (SafetensorError, OSError):
            return None  # being written, or damaged: the other folders have the same number
    return total or None
