"""Weights, gradients and optimiser in shards, one process holding 1/n of each (FSDP2, torch's `fully_shard`).

`accelerate launch` with a configuration of FSDP2 says so in the environment. The sharding itself is done here:
accelerate 1.15 gives the embedding and the head a group of their own, but three modules share this model's matrix, and
torch allows a shared parameter in one group only. Accelerate also does not shard without a GPU, which the tests need.
"""

import os
from collections.abc import Iterable
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import FullyShardedDataParallelPlugin
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import (
    FSDPModule,
    MixedPrecisionPolicy,
    OffloadPolicy,
    fully_shard,
    register_fsdp_forward_method,
)
from torch.distributed.tensor import DTensor
from transformers import PreTrainedModel

from vaswani_tx.training.errors import SettingsError

_DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16}


def shard_if_asked(accelerator: Accelerator, model: PreTrainedModel) -> bool:
    """Shard `model` where `accelerate launch` asks for it; the optimiser is built afterwards, over the shards.

    Raises:
        SettingsError: the first version of FSDP is asked for.
    """
    if os.environ.get("ACCELERATE_USE_FSDP", "").lower() != "true" or accelerator.num_processes == 1:
        return False
    plugin = FullyShardedDataParallelPlugin()
    if plugin.fsdp_version != 2:
        raise SettingsError(
            f"fsdp_version is {plugin.fsdp_version}: it must be 2, see training/accelerate_configs/fsdp2.yaml."
        )
    shard(accelerator, model, plugin)
    return True


def shard(accelerator: Accelerator, model: PreTrainedModel, plugin: FullyShardedDataParallelPlugin) -> None:
    """Shard `model` in place: a group for each layer, and one for all else, which includes the shared matrix.

    Its weights must be the same on all processes. Gradients are summed in float32 whatever the precision.
    """
    # Inputs are not cast: autocast decides, as with one process, and the number of tokens must not be rounded.
    policy = MixedPrecisionPolicy(
        param_dtype=_DTYPES.get(accelerator.mixed_precision), reduce_dtype=torch.float32, cast_forward_inputs=False
    )
    settings: dict[str, Any] = {
        "mesh": init_device_mesh(accelerator.device.type, (accelerator.num_processes,)),
        "mp_policy": policy,
        "offload_policy": plugin.cpu_offload or OffloadPolicy(),
    }
    model.to(accelerator.device)
    names = set(plugin.transformer_cls_names_to_wrap or model._no_split_modules)
    layers = [module for module in model.modules() if type(module).__name__ in names]
    for layer in layers:
        fully_shard(layer, reshard_after_forward=bool(plugin.reshard_after_forward), **settings)
    # What is left is needed from the first operation to the last.
    fully_shard(model, reshard_after_forward=False, **settings)
    # Translating calls the encoder alone, before any forward pass that would gather the shared matrix.
    register_fsdp_forward_method(model, "generate")
    for name in ("forward", "generate"):
        setattr(model, name, accelerator.autocast()(getattr(model, name)))


def is_sharded(model: torch.nn.Module) -> bool:
    """Return whether the model is sharded."""
    return isinstance(model, FSDPModule)


def forget_gathered(model: torch.nn.Module) -> None:
    """Drop the gathered weights that a forward pass without a backward pass leaves: the shards have changed since."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()


def own_part(tensors: Iterable[torch.Tensor]) -> list[torch.Tensor]:
    """Return what this process holds of each tensor: its shard, or all of it."""
    with torch.no_grad():
        return [tensor.to_local() if isinstance(tensor, DTensor) else tensor.detach() for tensor in tensors]


def whole(tensor: torch.Tensor) -> torch.Tensor:
    """Return all of a tensor; every process must call."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
