"""The paper's optimiser (section 5.3), and how the loop writes the rate into it."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch


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
        """Return the optimiser over `parameters`, in PyTorch's fused form where the device has one.

        Groups may be given instead of parameters, `{"params": [...], "scale": factor on the rate}`.
        """
        entries: list[Any] = list(parameters)
        given: list[dict[str, Any]] = entries if entries and isinstance(entries[0], dict) else [{"params": entries}]
        given = [{**group, "params": [p for p in group["params"] if p.requires_grad]} for group in given]
        devices = {parameter.device.type for group in given for parameter in group["params"]}
        fused = devices <= {"cpu", "cuda", "xpu", "mps"}
        # The loop writes the rate before every update; if that is forgotten, the model visibly does not change.
        options: dict[str, Any] = {"lr": 0.0, "betas": (self.beta1, self.beta2), "eps": self.epsilon, "fused": fused}
        if not self.weight_decay:
            return torch.optim.Adam(given, **options)
        groups = [
            {**group, "params": [p for p in group["params"] if (p.dim() > 1) == matrices], "weight_decay": decay}
            for group in given
            for matrices, decay in ((True, self.weight_decay), (False, 0.0))
        ]
        return torch.optim.AdamW([group for group in groups if group["params"]], **options)


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Write `value` into every parameter group, times the group's `scale` where it has one."""
    for group in optimizer.param_groups:
        group["lr"] = value * group.get("scale", 1.0)
