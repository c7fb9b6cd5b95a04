"""The public exceptions of training; all but `Interrupted` are a ValueError whose message says how to fix it."""

import signal
from pathlib import Path

from vaswani_tx.errors import CheckpointError as CheckpointError


class SettingsError(ValueError):
    """A recipe or flag that cannot be used; the message names the key and how to fix it."""


class DataError(ValueError):
    """Data that cannot be trained on; the message names the file, the line or field, and how to fix it."""


class TreeError(DataError):
    """Text that is not a bracketed tree; the message names file and line."""


class BatchError(ValueError):
    """Lengths and budgets of which no plan can be made; the message names the example and how to fix it."""


class MaskingError(ValueError):
    """A tokenizer that cannot mask; the message says how to fix it."""


class ImageDataError(ValueError):
    """Images that cannot be used; the message names the data set, split or column, and how to fix it."""


class WriteError(CheckpointError):
    """A file or folder that cannot be written: the disk is full, or it may not be; the message names it."""


class RunError(ValueError):
    """A run folder that this command must not touch; the message says what it holds and what to do."""


class TrainingError(ValueError):
    """Training that cannot continue; the message names the update, its lines and the last good checkpoint."""


class TrackerError(ValueError):
    """A tracker that was asked for and cannot be used; the message says what to install or to set."""


class Interrupted(Exception):
    """A signal ended the run; `signum` names it, `saved` is the checkpoint to resume from."""

    def __init__(self, signum: int, saved: Path | None = None):
        self.signum, self.saved = signum, saved
        super().__init__(signal.Signals(signum).name)


class MetricsError(ValueError):
    """A `metrics.jsonl` that cannot be read or drawn; the message names the file, the line and how to fix it."""


class ReportError(ValueError):
    """A folder that no report can be made of; the message names it, what is wrong and how to fix it."""


class SweepError(ValueError):
    """A sweep that cannot be run; the message names file, row and key, and how to fix it."""


class LadderError(ValueError):
    """A ladder that cannot be trained; the message names file and key, and how to fix it."""


class FitError(ValueError):
    """Runs from which no law can be fitted; the message says what is missing."""


class MeasurementError(ValueError):
    """A measurement that cannot be made or read; the message names the file or flag and how to fix it."""
