"""Learning rates as pure functions of the update number, and the paper's optimiser (section 5.3).

A schedule is a function `lr(step)`, the first update being step 1. The loop writes its value into the optimiser's
parameter groups by hand, so that neither resuming nor the number of processes can put it out of step.
"""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch


@dataclass(frozen=True)
class NoamSchedule:
    """The paper's equation 3: `factor * d_model^-0.5 * min(step^-0.5, step * warmup^-1.5)`.

    Raises:
        ValueError: when `d_model` or `warmup` is below 1, or a step below 1 is asked for.
    """

    d_model: int
    warmup: int = 4000
    factor: float = 1.0

    def __post_init__(self):
        if self.d_model < 1:
            raise ValueError(f"d_model must be at least 1, got {self.d_model}.")
        if self.warmup < 1:
            raise ValueError(
                f"warmup_steps must be at least 1 for the paper's schedule, got {self.warmup}: use 1 for no warm-up."
            )

    def __call__(self, step: int) -> float:
        _check_step(step)
        return self.factor * self.d_model**-0.5 * min(step**-0.5, step * self.warmup**-1.5)


@dataclass(frozen=True)
class PeakSchedule:
    """A linear warm-up to `peak`, then a decay of the given `shape`.

    `inverse_sqrt` falls with the root of the step as in fairseq, `linear` and `cosine` reach `floor` at `total`,
    `constant` stays at the peak.

    Raises:
        ValueError: when the shape is unknown or needs a `total` that is absent or not beyond the warm-up.
    """

    shape: str
    peak: float
    warmup: int = 0
    total: int | None = None
    floor: float = 0.0

    def __post_init__(self):
        if self.shape not in ("inverse_sqrt", "constant", "linear", "cosine"):
            raise ValueError(f"Unknown schedule '{self.shape}': use noam, inverse_sqrt, constant, linear or cosine.")
        if self.warmup < 0:
            raise ValueError(f"warmup_steps must not be negative, got {self.warmup}.")
        if self.shape in ("linear", "cosine") and (self.total is None or self.total <= self.warmup):
            raise ValueError(
                f"The {self.shape} schedule needs to know its end: decay_steps (or max_steps) must be greater than "
                f"warmup_steps ({self.warmup}), got {self.total}."
            )

    def __call__(self, step: int) -> float:
        _check_step(step)
        if step < self.warmup:
            return self.peak * step / self.warmup
        if self.shape == "inverse_sqrt":
            return self.peak * math.sqrt(max(self.warmup, 1) / step)
        if self.shape == "constant":
            return self.peak
        done = min(1.0, (step - self.warmup) / (self.total - self.warmup))
        remaining = 1.0 - done if self.shape == "linear" else 0.5 * (1.0 + math.cos(math.pi * done))
        return self.floor + (self.peak - self.floor) * remaining


def make_schedule(
    name: str,
    d_model: int,
    warmup_steps: int,
    lr_factor: float = 1.0,
    learning_rate: float | None = None,
    total_steps: int | None = None,
) -> NoamSchedule | PeakSchedule:
    """Builds the schedule that a recipe names; raises ValueError when a field that it needs is missing."""
    if name == "noam":
        return NoamSchedule(d_model, warmup_steps, lr_factor)
    if learning_rate is None:
        raise ValueError(f"schedule: {name} needs learning_rate, the rate at the end of the warm-up.")
    return PeakSchedule(name, learning_rate * lr_factor, warmup_steps, total_steps)


@dataclass(frozen=True)
class PaperAdam:
    """Adam with the paper's settings (section 5.3): beta1 0.9, beta2 0.98, epsilon 1e-9, no weight decay.

    With a `weight_decay` it is AdamW, and vectors (biases, normalisation) are not decayed.
    """

    beta1: float = 0.9
    beta2: float = 0.98
    epsilon: float = 1e-9
    weight_decay: float = 0.0

    def build(self, parameters: Iterable[torch.nn.Parameter] | list[dict[str, Any]]) -> torch.optim.Optimizer:
        """The optimiser over `parameters`, in PyTorch's fused form where the device has one.

        Groups may stand for parameters, `{"params": [...], "scale": factor on the rate}`.
        """
        entries = list(parameters)
        given = entries if entries and isinstance(entries[0], dict) else [{"params": entries}]
        given = [{**group, "params": [p for p in group["params"] if p.requires_grad]} for group in given]
        parameters = [parameter for group in given for parameter in group["params"]]
        fused = all(parameter.device.type in ("cpu", "cuda", "xpu", "mps") for parameter in parameters)
        # The loop writes the rate before every update; a forgotten one shows at once as a model that does not move.
        options = {"lr": 0.0, "betas": (self.beta1, self.beta2), "eps": self.epsilon, "fused": fused}
        if not self.weight_decay:
            return torch.optim.Adam(given, **options)
        groups = [
            {**group, "params": [p for p in group["params"] if (p.dim() > 1) == matrices], "weight_decay": decay}
            for group in given
            for matrices, decay in ((True, self.weight_decay), (False, 0.0))
        ]
        return torch.optim.AdamW([group for group in groups if group["params"]], **options)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Writes `value` into every parameter group, times the group's `scale` where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = value * group.get("scale", 1.0)


def _check_step(step: int) -> None:
    if step < 1:
        raise ValueError(f"The first update is step 1, got step {step}.")
