"""Which parts of a model learn, and how fast: frozen parts, and rates that fall from layer to layer.

A pre-trained model's lower layers hold what is most general: with `layer_lr_decay` 0.8 the top layer learns at the
schedule's rate, the next at 0.8 times it, and so on, the embeddings slowest (Howard and Ruder 2018, section 3.2).
"""

import re
from typing import Any

import torch

from vaswani_tx.suggestions import nearest_name
from vaswani_tx.training.errors import SettingsError

_LAYER = re.compile(r"(?P<stack>.*\blayers)\.(?P<number>\d+)\.")
_EMBEDDING = re.compile(r"embed|shared|class_token|position")


def freeze(model: torch.nn.Module, beginnings: list[str] | None) -> int:
    """Stops the parameters whose names begin so from learning; returns how many numbers still learn.

    `model.encoder` freezes `model.encoder.layers.0.fc1.weight`, but not `model.encoder_norm.weight`. A matrix with
    several names is frozen under each of them.

    Raises:
        SettingsError: nothing begins like that, or nothing is left to learn.
    """
    named = dict(model.named_parameters(remove_duplicate=False))
    for beginning in beginnings or []:
        found = [parameter for name, parameter in named.items() if f"{name}.".startswith(beginning.rstrip(".") + ".")]
        if not found:
            parts = {".".join(name.split(".")[:depth]) for name in named for depth in range(1, 6)}
            nearest = nearest_name(beginning, parts, cutoff=0.4)
            hint = f"did you mean '{nearest}'?" if nearest else f"its parts are {', '.join(_tops(named))}."
            raise SettingsError(f"freeze: the model has no parameter that begins with '{beginning}': {hint}")
        for parameter in found:
            parameter.requires_grad_(False)
    learning = sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)
    if not learning:
        raise SettingsError("freeze: nothing is left to learn; leave a part of the model out of the list.")
    return learning


def rate_groups(model: torch.nn.Module, decay: float | None) -> list[dict[str, Any]]:
    """The parameters that learn in groups of one rate: `{"params": [...], "scale": factor on the schedule's rate}`."""
    tops: dict[str, int] = {}
    for name, _ in model.named_parameters():
        if match := _LAYER.match(name):
            tops[match["stack"]] = max(tops.get(match["stack"], 0), int(match["number"]))
    groups: dict[float, list[torch.nn.Parameter]] = {}
    for name, parameter in model.named_parameters():
        if parameter.requires_grad:
            groups.setdefault(1.0 if decay is None else decay ** _depth(name, tops), []).append(parameter)
    return [{"params": parameters, "scale": scale} for scale, parameters in groups.items()]


def _depth(name: str, tops: dict[str, int]) -> int:
    """How many layers lie above a parameter in its stack; an embedding lies below all of them, a head above."""
    if match := _LAYER.match(name):
        return tops[match["stack"]] - int(match["number"])
    return max(tops.values(), default=-1) + 1 if _EMBEDDING.search(name) else 0


def _tops(named: dict[str, torch.nn.Parameter]) -> list[str]:
    return sorted({".".join(name.split(".")[:2]) for name in named})
