"""Compilation of a model for training: as a whole, or layer by layer."""

from collections.abc import Callable

import torch
from transformers.modeling_layers import GradientCheckpointingLayer


def compile_layers(model: torch.nn.Module, backend: str | Callable = "inductor") -> int:
    """Compile every layer of the model's stacks by itself, in place; return how many there are.

    The layers of a stack share one graph, so it is made in a fraction of the time. What the model does around them,
    such as leaving padding out, whose amount no graph could know, stays Python.
    """
    layers = [module for module in model.modules() if isinstance(module, GradientCheckpointingLayer)]
    for layer in layers:
        # Numbers of tokens differ from batch to batch: one graph for all of them.
        layer.compile(dynamic=True, backend=backend)
    return len(layers)
