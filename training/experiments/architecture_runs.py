"""Validation curves of several runs against training time and updates: who is ahead at equal time, at equal updates.

Time is that of training alone: the tokens between two records of `metrics.jsonl` divided by the speed that the record
states, so that validations and checkpoints, which differ from run to run, do not count.
"""

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from vaswani_tx.training.errors import MeasurementError
from vaswani_tx.training.reporting.plots import is_number, read_metrics

SCORES = ("bleu", "loss")


@dataclass
class Run:
    """The course of one run.

    Args:
        updates, minutes: where each validation stands.
        scores: "bleu" and "loss" of each validation; nan where it was not taken.
        final: BLEU with the final beam of `best` and `averaged`.
    """

    name: str
    updates: list[int] = field(default_factory=list)
    minutes: list[float] = field(default_factory=list)
    scores: dict[str, list[float]] = field(default_factory=dict)
    final: dict[str, float] = field(default_factory=dict)
    parameters: int | None = None
    total_minutes: float = 0.0
    total_updates: int = 0
    target_tokens: int = 0


def read_run(name: str, folder: str | Path) -> Run:
    """Read a run folder.

    Raises:
        MeasurementError: no training or no validation in it.
        MetricsError: its `metrics.jsonl` cannot be read.
    """
    folder = Path(folder)
    events = read_metrics(folder / "metrics.jsonl")
    training = [r for r in events.get("train", []) if is_number(r.get("tokens_per_second"))]
    validations = [r for r in events.get("validation", []) if is_number(r.get("loss"))]
    if not training or not validations:
        raise MeasurementError(f"'{folder}' has no record of training with validations: name the folder of such a run.")
    steps, minutes = training_clock(training)
    run = Run(name, parameters=_parameters(folder))
    run.updates = [int(r["step"]) for r in validations]
    run.minutes = np.interp(run.updates, steps, minutes).tolist()
    run.scores = {key: [float(r[key]) if is_number(r.get(key)) else float("nan") for r in validations]
                  for key in SCORES}  # fmt: skip
    for kind in ("best", "averaged"):
        if events.get(kind) and is_number(events[kind][-1].get("bleu")):
            run.final[kind] = events[kind][-1]["bleu"]
    run.total_minutes, run.total_updates = minutes[-1], int(steps[-1])
    run.target_tokens = int(training[-1].get("target_tokens", 0))
    return run


def training_clock(training: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Updates and the minutes of training alone behind them, both from 0."""
    steps, minutes, before = [0.0], [0.0], 0
    for record in training:
        tokens, speed = record["target_tokens"] - before, record["tokens_per_second"]
        if speed <= 0:
            # The first record after a resume counts only what this process saw, which may be nothing.
            speed = (before or tokens) / (60 * minutes[-1]) if minutes[-1] else np.inf
        steps.append(record["step"])
        minutes.append(minutes[-1] + tokens / speed / 60)
        before = record["target_tokens"]
    return steps, minutes


def compare_runs(runs: list[Run], tests: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """The comparison: each run's last validation within the updates, and within the minutes, that all of them have.

    Args:
        tests: scores of test sets, by run.
    """
    updates = min(run.total_updates for run in runs)
    minutes = min(run.total_minutes for run in runs)
    reachable = min(_best(run) for run in runs)
    result: dict[str, Any] = {
        "what": "validation scores; minutes of training alone, without validations and checkpoints",
        "units": {"bleu": "sacreBLEU, 0 to 100", "loss": "nats a target token, not smoothed"},
        "equal_updates": updates, "equal_minutes": minutes, "common_bleu": reachable, "runs": {},
    }  # fmt: skip
    for run in runs:
        result["runs"][run.name] = {
            "parameters": run.parameters, "updates": run.total_updates, "minutes": run.total_minutes,
            "target_tokens": run.target_tokens,
            "updates_per_second": run.total_updates / (60 * run.total_minutes) if run.total_minutes else None,
            "at_equal_updates": _within(run, run.updates, updates),
            "at_equal_time": _within(run, run.minutes, minutes),
            "minutes_to_common_bleu": _first(run, reachable),
            "final": run.final,
            "test": (tests or {}).get(run.name),
            "curve": {"updates": run.updates, "minutes": run.minutes} | {k: _plain(v) for k, v in run.scores.items()},
        }  # fmt: skip
    return result


def read_test(path: str | Path) -> dict[str, Any]:
    """The scores that `evaluate_translation --json` wrote.

    Raises:
        MeasurementError: it is no such file.
    """
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        return {key: found[key] for key in ("bleu", "bleu_signature", "chrf", "sentences")}
    except OSError as error:
        raise MeasurementError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise MeasurementError(
            f"'{path}' is not what `python -m vaswani_tx.training.evaluate_translation --json` writes ({error!r})."
        ) from error


def _within(run: Run, places: list[float], limit: float) -> dict[str, Any] | None:
    """The scores of the last validation up to `limit`."""
    chosen = [number for number, place in enumerate(places) if place <= limit + 1e-9]
    if not chosen:
        return None
    last = chosen[-1]
    scores = {key: _plain([values[last]])[0] for key, values in run.scores.items()}
    return scores | {"updates": run.updates[last], "minutes": run.minutes[last]}


def _best(run: Run) -> float:
    values = [value for value in run.scores["bleu"] if value == value]
    return max(values, default=0.0)


def _first(run: Run, bleu: float) -> float | None:
    """Minutes at the first validation that reaches `bleu`."""
    reached = (m for m, value in zip(run.minutes, run.scores["bleu"], strict=True) if value >= bleu > 0)
    return next(reached, None)


def _plain(values: list[float]) -> list[float | None]:
    # JSON has no nan.
    return [None if value != value else value for value in values]


def _parameters(folder: Path) -> int | None:
    """Numbers in the weights of a run's model, a tied matrix once; None where it has kept none."""
    places = [folder / "averaged", folder / "best", *sorted((folder / "checkpoints").glob("step-*"))]
    for path in (place / "model.safetensors" for place in places):
        try:
            with safe_open(path, framework="np") as file:
                shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 (not a dict)
            return int(sum(np.prod(shape) for shape in shapes))
        except (OSError, SafetensorError):
            continue
    return None


def run_table(result: dict[str, Any]) -> list[list[str]]:
    """Header and rows: what each run reaches."""
    rows = [["", *result["runs"]]]

    def line(title: str, text) -> None:
        rows.append([title, *(text(run) for run in result["runs"].values())])

    def score(place: str, key: str, form: str):
        return lambda run: _text(run[place] and run[place][key], form)

    line("parameters", lambda run: _text(run["parameters"], ",d"))
    line("updates a second", lambda run: _text(run["updates_per_second"], ".3f"))
    for key, form in (("bleu", ".2f"), ("loss", ".4f")):
        line(f"{key} after {result['equal_updates']:,} updates", score("at_equal_updates", key, form))
        line(f"{key} after {result['equal_minutes']:.1f} minutes", score("at_equal_time", key, form))
    line(f"minutes to BLEU {result['common_bleu']:.2f}", lambda run: _text(run["minutes_to_common_bleu"], ".1f"))
    for kind in ("best", "averaged"):
        line(f"{kind}, final beam: BLEU", lambda run, kind=kind: _text(run["final"].get(kind), ".2f"))
    if any(run["test"] for run in result["runs"].values()):
        line("test set: BLEU", lambda run: _text(run["test"] and run["test"]["bleu"], ".2f"))
    return rows


def _text(value: Any, form: str) -> str:
    return "-" if value is None else format(value, form)
