"""Learning rates as pure functions of the update number (section 5.3), by their names in a recipe.

A schedule is a function `lr(step)`, the first update being step 1. The loop writes its value into the optimiser's
parameter groups, so that neither resuming nor the number of processes can shift it. A new schedule is one
entry of `SCHEDULES`.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from vaswani_tx.training.errors import SettingsError


@dataclass(frozen=True)
class ScheduleSpec:
    """One way for the rate to fall after the warm-up.

    Args:
        meaning: a few words, for the help.
        rate: `(schedule, step) -> rate` from the end of the warm-up on; None: the paper's own formula.
        ends: whether it reaches its floor at `decay_steps` or `max_steps`, one of which it then needs.
    """

    meaning: str
    rate: Callable[["PeakSchedule", int], float] | None
    ends: bool = False

    @property
    def needs_rate(self) -> bool:
        """Return whether `learning_rate` must be set, the rate at the end of the warm-up."""
        return self.rate is not None


SCHEDULES = {
    "noam": ScheduleSpec("the paper's equation 3", None),
    "inverse_sqrt": ScheduleSpec(
        "with the root of the step, as in fairseq",
        lambda schedule, step: schedule.peak * math.sqrt(max(schedule.warmup, 1) / step),
    ),
    "constant": ScheduleSpec("stays at its peak", lambda schedule, step: schedule.peak),
    "linear": ScheduleSpec(
        "in a straight line to the end", lambda schedule, step: schedule.between(1.0 - schedule.done(step)), ends=True
    ),
    "cosine": ScheduleSpec(
        "in half a cosine wave to the end",
        lambda schedule, step: schedule.between(0.5 * (1.0 + math.cos(math.pi * schedule.done(step)))),
        ends=True,
    ),
}


@dataclass(frozen=True)
class NoamSchedule:
    """The paper's equation 3: `factor * d_model^-0.5 * min(step^-0.5, step * warmup^-1.5)`.

    Raises:
        SettingsError: when `d_model` or `warmup` is below 1.
        ValueError: when a step below 1 is asked for.
    """

    d_model: int
    warmup: int = 4000
    factor: float = 1.0

    def __post_init__(self):
        if self.d_model < 1:
            raise SettingsError(f"d_model must be at least 1, got {self.d_model}.")
        if self.warmup < 1:
            raise SettingsError(
                f"warmup_steps must be at least 1 for the paper's schedule, got {self.warmup}: use 1 for no warm-up."
            )

    def __call__(self, step: int) -> float:
        """Return the rate of one update."""
        _check_step(step)
        return self.factor * self.d_model**-0.5 * min(step**-0.5, step * self.warmup**-1.5)


@dataclass(frozen=True)
class PeakSchedule:
    """A linear warm-up to `peak`, then the decay that `SCHEDULES` has for `shape`; those that end reach `floor`.

    Raises:
        SettingsError: when the shape is unknown or needs a `total` that is absent or not beyond the warm-up.
        ValueError: when a step below 1 is asked for.
    """

    shape: str
    peak: float
    warmup: int = 0
    total: int | None = None
    floor: float = 0.0

    def __post_init__(self):
        spec = SCHEDULES.get(self.shape)
        if spec is None or spec.rate is None:
            raise SettingsError(f"Unknown schedule '{self.shape}': use one of {', '.join(SCHEDULES)}.")
        if self.warmup < 0:
            raise SettingsError(f"warmup_steps must not be negative, got {self.warmup}.")
        if spec.ends and (self.total is None or self.total <= self.warmup):
            raise SettingsError(
                f"The {self.shape} schedule needs to know its end: decay_steps (or max_steps) must be greater than "
                f"warmup_steps ({self.warmup}), got {self.total}."
            )

    def __call__(self, step: int) -> float:
        """Return the rate of one update."""
        _check_step(step)
        if step < self.warmup:
            return self.peak * step / self.warmup
        return SCHEDULES[self.shape].rate(self, step)

    def done(self, step: int) -> float:
        """Return what share of the decay is over, from 0 to 1."""
        return min(1.0, (step - self.warmup) / (self.total - self.warmup))

    def between(self, remaining: float) -> float:
        """Return the rate where this share of the way from `floor` to `peak` remains."""
        return self.floor + (self.peak - self.floor) * remaining


def make_schedule(
    name: str,
    d_model: int,
    warmup_steps: int,
    lr_factor: float = 1.0,
    learning_rate: float | None = None,
    total_steps: int | None = None,
) -> NoamSchedule | PeakSchedule:
    """Return the schedule that a recipe names; raise SettingsError when a field that it needs is missing."""
    if name in SCHEDULES and not SCHEDULES[name].needs_rate:
        return NoamSchedule(d_model, warmup_steps, lr_factor)
    if learning_rate is None:
        raise SettingsError(f"schedule: {name} needs learning_rate, the rate at the end of the warm-up.")
    return PeakSchedule(name, learning_rate * lr_factor, warmup_steps, total_steps)


def _check_step(step: int) -> None:
    if step < 1:
        raise ValueError(f"The first update is step 1, got step {step}.")
