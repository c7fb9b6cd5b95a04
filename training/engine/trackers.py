"""What a run tells while it trains: JSONL records, trackers, a progress bar; and signals that ask it to stop."""

import dataclasses
import json
import logging
import os
import re
import uuid
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from accelerate import Accelerator

from vaswani_tx.training.config.run_settings import RunSettings
from vaswani_tx.training.errors import TrackerError
from vaswani_tx.training.files import atomic_text

logger = logging.getLogger(__name__)

# Trackers that upload or keep runs of many folders in one place: there a run is found again by a name of its own.
SERVICES = ("wandb", "trackio")
PROJECT = "vaswani_tx"


def check_tracker(tracker: str) -> None:
    """Raises TrackerError where the package of a tracker that must be asked for by name is not installed."""
    if tracker in SERVICES and find_spec(tracker) is None:
        raise TrackerError(
            f"tracker: {tracker} is not installed. Install it (`pip install {tracker}`), or use --tracker tensorboard "
            "or --tracker none; metrics.jsonl and `vaswani-tx report` need neither."
        )


def start_tracker(accelerator: Accelerator, arguments: RunSettings, step: int | None) -> None:
    """Starts the tracker that the recipe names; a run resumed from the update `step` goes on in its own curve.

    Raises:
        TrackerError: the service cannot be reached or has no login, or the run's `tracker.json` is damaged.
    """
    tracker, folder = arguments.tracker, Path(arguments.output_dir)
    if tracker not in SERVICES:
        # TensorBoard forgets what is about to be repeated. The folder of the curves is named like the tracker.
        options = {} if step is None else {"purge_step": step + 1}
        accelerator.init_trackers(tracker, init_kwargs={tracker: options})
        return
    identity = tracker_identity(folder / "tracker.json", tracker, folder.resolve().name, resumed=step is not None)
    options = tracker_options(tracker, identity, folder)
    try:
        accelerator.init_trackers(
            identity["project"], config=flat_config(dataclasses.asdict(arguments)), init_kwargs={tracker: options}
        )
    except Exception as error:  # each service has exceptions of its own
        raise TrackerError(
            f"tracker: {tracker} did not start ({error}). Log in to it, set WANDB_MODE=offline for wandb, or use "
            "--tracker none; the same command then goes on."
        ) from error


def tracker_identity(path: Path, tracker: str, name: str, resumed: bool) -> dict[str, str]:
    """The names by which a service knows the run, kept in the file `path` so that a resumed run goes on in its curve.

    Args:
        path: the run folder's `tracker.json`.
        tracker: "wandb" or "trackio".
        name: how people call the run. Two folders may share it, so random letters are the identity or part of it.
        resumed: whether what `path` says still holds; a new run gets a new curve.

    Raises:
        TrackerError: `path` is damaged.
    """
    kept: dict[str, dict[str, str]] = {}
    if resumed and path.exists():
        try:
            kept = json.loads(path.read_text(encoding="utf-8"))
            identity = kept.get(tracker)
            if identity is not None:
                return {key: str(identity[key]) for key in ("project", "id", "name")}
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise TrackerError(
                f"'{path}' is damaged ({error}): delete it, and {tracker} draws the rest of the run as a new curve."
            ) from error
    letters = uuid.uuid4().hex[:8]
    # trackio finds a run by its name, and makes file names of it.
    unique = f"{re.sub(r'[^0-9A-Za-z._-]+', '-', name).strip('-') or 'run'}-{letters}"
    identity = {
        "project": os.environ.get(f"{tracker.upper()}_PROJECT") or PROJECT,
        "id": letters,
        "name": unique if tracker == "trackio" else name,
    }
    atomic_text(path, json.dumps(kept | {tracker: identity}, indent=1) + "\n")
    return identity


def tracker_options(tracker: str, identity: dict[str, str], folder: Path) -> dict[str, Any]:
    """The keywords of `wandb.init` or `trackio.init` for a run that begins or goes on."""
    if tracker == "wandb":
        return {"id": identity["id"], "name": identity["name"], "resume": "allow", "dir": str(folder)}
    return {"name": identity["name"], "resume": "allow"}


def flat_config(values: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """`{"model": {"dropout": 0.1}, "corpora": [{"weight": 2}]}` as `model.dropout` and `corpora.0.weight`.

    Trackers filter and sort runs by single values, and most of them take nothing else.
    """
    flat: dict[str, Any] = {}
    for name, value in values.items():
        if isinstance(value, (list, tuple)):
            value = {str(number): item for number, item in enumerate(value)}
        if isinstance(value, Mapping):
            flat |= flat_config(value, f"{prefix}{name}.")
        else:
            known = value is None or isinstance(value, (bool, int, float, str))
            flat[f"{prefix}{name}"] = value if known else str(value)
    return flat
