"""Read the curves of a training run from its folder, as the page draws them.

The folder is what `vaswani-tx train` writes: `metrics.jsonl` with one record a line, and the resolved `recipe.yaml`.
"""

import json
import math
import os
import sys
from pathlib import Path
from typing import Any, NoReturn

import yaml

from vaswani_tx.errors import ExplainError

# Records of the training loss that a page keeps: more than a curve has pixels.
MAX_POINTS = 600
# The largest whole number that JavaScript reads exactly.
MAX_STEP = 2**53 - 1
RECIPE_KEYS = (
    "schedule", "warmup_steps", "lr_factor", "learning_rate", "label_smoothing", "decay_steps", "max_steps",
)  # fmt: skip
# Numbers of a validation record that are not scores.
NO_SCORES = {"step", "epoch", "beam", "sentences", "validation_seconds", "best"}


def read_run(folder: str | os.PathLike) -> dict[str, Any]:
    """Return the losses, rates and validation scores of a run, and what its recipe says of the learning rate.

    Raises:
        ExplainError: no such folder, no record in it, or a damaged line; the message names file and line.
    """
    path = Path(folder)
    if not path.is_dir():
        raise ExplainError(f"'{path}' is no folder: name the run folder that `vaswani-tx train` wrote.")
    metrics = path / "metrics.jsonl"
    if not metrics.is_file():
        raise ExplainError(f"'{path}' has no metrics.jsonl: name the run folder itself, not one above or below it.")
    records = _read_records(metrics)
    train = [record for record in records if record["event"] == "train"]
    validation = [record for record in records if record["event"] == "validation"]
    if not train and not validation:
        raise ExplainError(f"'{metrics}' has no record of training yet: wait for the first log_every updates.")
    stride = max(1, math.ceil(len(train) / MAX_POINTS))
    kept = train[::-1][::stride][::-1]  # the last record is kept
    return {
        "name": path.resolve().name,
        "stride": stride,
        "train": {key: [record[key] for record in kept] for key in ("step", "loss", "learning_rate")},
        "validation": {"step": [record["step"] for record in validation], **_scores(validation)},
        "best": next((record["step"] for record in reversed(validation) if record.get("best") is True), None),
        "recipe": _read_recipe(path / "recipe.yaml"),
    }


def _read_records(path: Path) -> list[dict[str, Any]]:
    """Return the records of training and validation; after a restart by hand, the later ones replace the repeated."""
    found: list[dict[str, Any]] = []
    try:
        lines = path.read_bytes().split(b"\n")
    except OSError as error:
        raise ExplainError(f"'{path}' cannot be read: {error}.") from error
    lines.pop()  # what follows the last line end: nothing, or a record that is being written
    for number, line in enumerate(lines, start=1):
        where = f"{path} line {number}"
        record = _parse(line, where)
        if not isinstance(record, dict) or not isinstance(record.get("event"), str):
            raise _damaged(where, "is no object with the field 'event'")
        if record["event"] not in ("train", "validation"):
            continue
        step = record.get("step")
        if type(step) is not int or not 0 <= step <= MAX_STEP:
            raise _damaged(where, f"has no update number in 'step' but {step!r}")
        for key in ("loss", "learning_rate") if record["event"] == "train" else ("loss",):
            if not _is_number(record.get(key)):
                raise _damaged(where, f"has no number in '{key}' but {record.get(key)!r}")
        repeated = any((other["step"], other["event"]) == (step, record["event"]) for other in found[-2:])
        if repeated or (found and found[-1]["step"] > step):
            found = [other for other in found if other["step"] < step]
        found.append(record)
    return found


def _parse(line: bytes, where: str) -> Any:
    try:
        record = json.loads(line.decode("utf-8"), parse_constant=_refuse)
        json.dumps(record, ensure_ascii=False).encode("utf-8")  # half of an escaped character is no text
        return record
    except (ValueError, RecursionError) as error:  # of UTF-8, of JSON, or of a number that is not finite
        raise _damaged(where, f"is no JSON ({error})") from error


def _refuse(name: str) -> NoReturn:
    raise ValueError(f"{name} is no number of JSON")


def _damaged(where: str, what: str) -> ExplainError:
    return ExplainError(f"{where} {what}: restore the file, or delete that line.")


def _is_number(value: Any) -> bool:
    if not isinstance(value, int | float) or isinstance(value, bool):
        return False
    return abs(value) <= sys.float_info.max  # also of an int, which may be larger; false of NaN


def _scores(validation: list[dict[str, Any]]) -> dict[str, list[float | None]]:
    """Return each score of the validations in their order, None where one of them has it not."""
    names = {key for record in validation for key, value in record.items() if _is_number(value)} - NO_SCORES
    ordered = sorted(names, key=lambda name: (name not in ("loss", "perplexity"), name))
    return {name: [record[name] if _is_number(record.get(name)) else None for record in validation] for name in ordered}


def _read_recipe(path: Path) -> dict[str, Any]:
    """Return the keys of the recipe that the page tells, {} where the folder has no recipe."""
    if not path.is_file():
        return {}
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError, yaml.YAMLError) as error:
        raise ExplainError(
            f"'{path}' cannot be read ({' '.join(str(error).split())}): restore or delete it."
        ) from error
    if not isinstance(content, dict):
        raise ExplainError(f"'{path}' is no mapping of keys to values: restore or delete it.")
    found = {key: content[key] for key in RECIPE_KEYS if content.get(key) is not None}
    for key, value in found.items():
        if not (isinstance(value, str) if key == "schedule" else _is_number(value)):
            raise ExplainError(
                f"'{path}': {key} is {value!r}, not a {'name' if key == 'schedule' else 'number'}: fix it."
            )
    return found
