"""Every public exception of the training package; all but `Interrupted` are a ValueError whose message says how to fix it."""

import signal
from pathlib import Path


class SettingsError(ValueError):
    """A recipe or flag that cannot be used; the message names the key and the mend."""


class DataError(ValueError):
    """Data that cannot be trained on; the message names the file, the line or field, and the mend."""


class TreeError(DataError):
    """Text that is not a bracketed tree; the message names file and line."""


class BatchError(ValueError):
    """Lengths and budgets of which no plan can be made; the message names the pair and the mend."""


class MaskingError(ValueError):
    """A tokenizer that cannot mask; the message names the mend."""


class ImageDataError(ValueError):
    """Images that cannot be used; the message names data set, split or column, and the mend."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be written or read; the message names the file and the mend."""


class RunError(ValueError):
    """A run folder that this command must not touch; the message says what it holds and what to do."""


class TrainingError(ValueError):
    """Training that cannot go on; the message names the update, its lines and the last good checkpoint."""


class TrackerError(ValueError):
    """A tracker that was asked for and cannot be used; the message says what to install or to set."""


class Interrupted(Exception):
    """A signal ended the run; `signum` names it, `saved` is the checkpoint to go on from."""

    def __init__(self, signum: int, saved: Path | None = None):
        self.signum, self.saved = signum, saved
        super().__init__(signal.Signals(signum).name)


class MetricsError(ValueError):
    """A `metrics.jsonl` that cannot be read or drawn; the message names the file, the line and the mend."""


class ReportError(ValueError):
    """A folder that no report can be made of; the message names it, what is wrong and the mend."""


class SweepError(ValueError):
    """A sweep that cannot be run; the message names file, row and key, and the mend."""


class LadderError(ValueError):
    """A ladder that cannot be trained; the message names file and key, and the mend."""


class FitError(ValueError):
    """Runs from which no law can be fitted; the message says what is missing."""


class MeasurementError(ValueError):
    """A measurement that cannot be made or read; the message names the file or flag and the mend."""
