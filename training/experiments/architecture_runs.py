"""Validation curves of several runs against training time and updates: who is ahead at equal time, at equal updates.

Time is that of training alone: the tokens between two records of `metrics.jsonl` divided by the speed that the record
states, so that validations and checkpoints, which differ from run to run, do not count.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open

from vaswani_tx.training.errors import MeasurementError
from vaswani_tx.training.reporting.plots import is_number, read_metrics

SCORES = ("bleu", "loss")


def read_run(folder: str | Path) -> dict[str, Any]:
    """Return the course of a run from its folder: size, curve, and BLEU of `best` and `averaged` with the final beam.

    Raises:
        MeasurementError: no training or no validation in it.
        MetricsError: its `metrics.jsonl` cannot be read.
    """
    folder = Path(folder)
    events = read_metrics(folder / "metrics.jsonl")
    training = [record for record in events.get("train", []) if is_number(record.get("tokens_per_second"))]
    validations = [record for record in events.get("validation", []) if is_number(record.get("loss"))]
    if not training or not validations:
        raise MeasurementError(f"'{folder}' has no record of training with validations: name the folder of such a run.")
    steps, minutes = training_clock(training)
    updates = [int(record["step"]) for record in validations]
    curve = {"updates": updates, "minutes": np.interp(updates, steps, minutes).tolist()}
    for key in SCORES:
        curve[key] = [float(record[key]) if is_number(record.get(key)) else None for record in validations]
    last = {name: events[name][-1].get("bleu") for name in ("best", "averaged") if events.get(name)}
    return {
        "parameters": _parameters(folder), "updates": int(steps[-1]), "minutes": minutes[-1],
        "target_tokens": int(training[-1].get("target_tokens", 0)),
        "final": {name: bleu for name, bleu in last.items() if is_number(bleu)}, "curve": curve,
    }  # fmt: skip


def training_clock(training: list[dict[str, Any]]) -> tuple[list[float], list[float]]:
    """Return updates and the minutes of training alone until them, both from 0."""
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


def compare_runs(runs: dict[str, dict[str, Any]], tests: dict[str, dict[str, Any]] | None = None) -> dict[str, Any]:
    """Return each run's last validation within the updates, and within the minutes, that all of them have.

    Args:
        runs: what `read_run` returns, by name.
        tests: scores of test sets, by run.
    """
    updates, minutes = (min(run[key] for run in runs.values()) for key in ("updates", "minutes"))
    reachable = min(max(filter(None, run["curve"]["bleu"]), default=0.0) for run in runs.values())
    compared = {}
    for name, run in runs.items():
        curve = run["curve"]
        reached = (m for m, bleu in zip(curve["minutes"], curve["bleu"], strict=True) if (bleu or 0) >= reachable > 0)
        compared[name] = run | {
            "updates_per_second": run["updates"] / (60 * run["minutes"]) if run["minutes"] else None,
            "at_equal_updates": _last_within(curve, "updates", updates),
            "at_equal_time": _last_within(curve, "minutes", minutes),
            "minutes_to_common_bleu": next(reached, None),
            "test": (tests or {}).get(name),
        }
    return {
        "what": "validation scores; minutes of training alone, without validations and checkpoints",
        "units": {"bleu": "sacreBLEU, 0 to 100", "loss": "nats a target token, not smoothed"},
        "equal_updates": updates, "equal_minutes": minutes, "common_bleu": reachable, "runs": compared,
    }  # fmt: skip


def read_test(path: str | Path) -> dict[str, Any]:
    """Return the scores that `vaswani-tx evaluate --json` wrote; MeasurementError where it is no such file."""
    try:
        found = json.loads(Path(path).read_text(encoding="utf-8"))
        return {key: found[key] for key in ("bleu", "bleu_signature", "chrf", "sentences")}
    except OSError as error:
        raise MeasurementError(f"'{path}' cannot be read: {error.strerror or error}.") from error
    except (ValueError, KeyError, TypeError) as error:
        raise MeasurementError(f"'{path}' is not what `vaswani-tx evaluate --json` writes ({error!r}).") from error


def _last_within(curve: dict[str, list], axis: str, limit: float) -> dict[str, Any] | None:
    """Return the last validation up to `limit`."""
    reached = [number for number, value in enumerate(curve[axis]) if value <= limit + 1e-9]
    return {key: curve[key][reached[-1]] for key in (*SCORES, "updates", "minutes")} if reached else None


def _parameters(folder: Path) -> int | None:
    """Return the numbers in the weights of a run's model, a tied matrix once; None where it has kept none."""
    models = [folder / "averaged", folder / "best", *sorted((folder / "checkpoints").glob("step-*"))]
    for path in (model / "model.safetensors" for model in models):
        try:
            with safe_open(path, framework="np") as file:
                shapes = [file.get_slice(name).get_shape() for name in file.keys()]  # noqa: SIM118 (not a dict)
            return int(sum(np.prod(shape) for shape in shapes))
        except (OSError, SafetensorError):
            continue
    return None


def run_table(result: dict[str, Any]) -> list[list[str]]:
    """Return header and rows: what each run reaches."""
    runs = result["runs"].values()
    columns = [("parameters", ",d", [run["parameters"] for run in runs]),
               ("updates a second", ".3f", [run["updates_per_second"] for run in runs])]  # fmt: skip
    limits = {"at_equal_updates": f"{result['equal_updates']:,} updates",
              "at_equal_time": f"{result['equal_minutes']:.1f} minutes"}  # fmt: skip
    for key, form in (("bleu", ".2f"), ("loss", ".4f")):
        for place, limit in limits.items():
            columns.append((f"{key} after {limit}", form, [run[place] and run[place][key] for run in runs]))
    minutes = [run["minutes_to_common_bleu"] for run in runs]
    columns.append((f"minutes to BLEU {result['common_bleu']:.2f}", ".1f", minutes))
    for name in ("best", "averaged"):
        columns.append((f"{name}, final beam: BLEU", ".2f", [run["final"].get(name) for run in runs]))
    if any(run["test"] for run in runs):
        columns.append(("test set: BLEU", ".2f", [run["test"] and run["test"]["bleu"] for run in runs]))
    rows = [[title, *("-" if value is None else format(value, form) for value in values)]
            for title, form, values in columns]  # fmt: skip
    return [["", *result["runs"]], *rows]
