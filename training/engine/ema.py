"""An exponential moving average of the weights: with `ema_decay` it is what is validated and kept as best."""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch.distributed.tensor import DTensor, distribute_tensor

from vaswani_tx.training.engine.fsdp import forget_gathered, own_part, whole
from vaswani_tx.training.errors import CheckpointError


class MovingAverage:
    """An average of the weights, `average = d * average + (1 - d) * weights` after every update, in float32.

    Each process computes that of its own shards.

    The decay of update n is `min(decay, (1 + n) / (10 + n))`, the usual warm-up: the random weights of the start are
    soon forgotten, and an average of few updates stays close to the weights.
    """

    def __init__(self, model: torch.nn.Module, decay: float):
        self.model, self.decay = model, decay
        self._named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        self._average = {name: parameter.detach().float().clone() for name, parameter in self._named.items()}

    @torch.no_grad()
    def update(self, step: int) -> None:
        """Add the weights that update number `step` made."""
        decay = min(self.decay, (1 + step) / (10 + step))
        torch._foreach_lerp_(own_part(self._average.values()), own_part(self._named.values()), 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """Give the model the averaged weights within the block, and its own ones back, bit by bit."""
        self._exchange()
        try:
            yield
        finally:
            self._exchange()

    def tensors(self, keep: bool = True) -> dict[str, torch.Tensor]:
        """Return the whole average on the host; every process must call, those without `keep` get an empty one."""
        found = {}
        for name, tensor in self._average.items():
            all_of_it = whole(tensor)
            if keep:
                found[name] = all_of_it.cpu().contiguous()
        return found

    def load(self, tensors: dict[str, torch.Tensor]) -> None:
        """Set the average to whole tensors; raise CheckpointError where they are another model's."""
        shapes = {name: tuple(tensor.shape) for name, tensor in self._average.items()}
        if {name: tuple(tensor.shape) for name, tensor in tensors.items()} != shapes:
            raise CheckpointError("ema.safetensors holds the average of another model: start with --init-from.")
        for name, own in self._average.items():
            tensor = tensors[name].to(own.device)
            if isinstance(own, DTensor):
                # Every process has read the whole and takes its part without asking the others.
                tensor = distribute_tensor(tensor, own.device_mesh, own.placements, src_data_rank=None)
            own_part([own])[0].copy_(own_part([tensor])[0])

    @torch.no_grad()
    def _exchange(self) -> None:
        pairs = zip(own_part(self._named.values()), own_part(self._average.values()), strict=True)
        for weight, average in pairs:
            former = weight.clone()
            weight.copy_(average)
            average.copy_(former)
        forget_gathered(self.model)
