"""Dropout (section 5.4) on a CPU with few passes: torch's own spends most of its time on the random numbers there.

A channel is kept or dropped by 16 random bits, so a rate is rounded to a multiple of 1/65536 and the factor on what is
kept is that of the rounded rate. The bits come from a generator of numpy that torch's one seeds: runs repeat, and
resume, as with torch's dropout.
"""

import functools

import numpy as np
import torch
from torch import nn
from transformers.utils.import_utils import is_tracing

# Below so many channels torch's own dropout takes no longer.
LEAST = 4096
_LEVELS = 1 << 16


def random_bits(shape: torch.Size) -> torch.Tensor:
    """Return uniform numbers of 16 bits with sign, of that shape, seeded by torch's generator."""
    count = shape.numel()
    seed = int(torch.randint(1 << 62, ()))
    bits = np.random.SFC64(seed).random_raw(-(-count // 4)).view(np.int16)
    return torch.from_numpy(bits)[:count].view(shape)


def _kept(bits: torch.Tensor, dropped: int, dtype: torch.dtype) -> torch.Tensor:
    """Return 1 where the channel is kept, else 0; `dropped` of 65536 are not."""
    return torch.ge(bits, dropped - _LEVELS // 2, out=torch.empty(bits.shape, dtype=dtype))


class _DropoutAdd(torch.autograd.Function):
    """`base + dropout(states)`, of which the 16 bits of a channel are saved."""

    @staticmethod
    def forward(ctx, base, states, dropped):
        bits = random_bits(states.shape)
        ctx.save_for_backward(bits)
        ctx.dropped, ctx.factor = dropped, _LEVELS / (_LEVELS - dropped)
        return torch.addcmul(base, states, _kept(bits, dropped, states.dtype), value=ctx.factor)

    @staticmethod
    def backward(ctx, grad):
        (bits,) = ctx.saved_tensors
        kept = _kept(bits, ctx.dropped, grad.dtype)
        grad_states = torch.addcmul(grad.new_zeros(()), grad, kept, value=ctx.factor)
        return grad if ctx.needs_input_grad[0] else None, grad_states, None


@functools.cache
def _transforms_active():
    """Return torch's function that tells whether vmap or the like is at work; where it has none, one that says no."""
    return getattr(torch._C, "_are_functorch_transforms_active", lambda: False)


def _is_fast(module: nn.Module, base: torch.Tensor, states: torch.Tensor) -> int:
    """Return how many of 65536 channels are dropped, or 0 where torch's dropout is to be used."""
    if type(module) is not nn.Dropout or not module.training or module._forward_hooks or module._forward_pre_hooks:
        return 0
    is_usual = type(states) is torch.Tensor and states.device.type == "cpu" and states.numel() >= LEAST
    if not is_usual or base.dtype != states.dtype or not states.is_floating_point():
        return 0
    if is_tracing(states) or _transforms_active()():
        return 0
    dropped = round(module.p * _LEVELS)
    return dropped if dropped < _LEVELS else 0


def dropout_add(module: nn.Dropout, base: torch.Tensor, states: torch.Tensor) -> torch.Tensor:
    """Return `base + module(states)`, both of one shape."""
    dropped = _is_fast(module, base, states)
    if not dropped or base.shape != states.shape:
        return base + module(states)
    return _DropoutAdd.apply(base, states, dropped)


def dropout(module: nn.Dropout, states: torch.Tensor) -> torch.Tensor:
    """Return `module(states)`."""
    dropped = _is_fast(module, states, states)
    if not dropped:
        return module(states)
    return _DropoutAdd.apply(states.new_zeros(()), states, dropped)


__all__ = ["dropout", "dropout_add", "random_bits"]
