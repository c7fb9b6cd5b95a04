"""The size of a model by its configuration, against the memory of the machine, before anything is built."""

import copy
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch.overrides import TorchFunctionMode
from transformers import PreTrainedConfig

# The numbers of layers, under the names that families give them.
LAYER_FIELDS = ("encoder_layers", "decoder_layers", "num_layers", "num_decoder_layers", "num_hidden_layers", "n_layer")
# Up to so many layers a model is counted whole, without memory for its weights.
FEW_LAYERS = 200
# What Python itself takes for a module, its parameters and its dictionaries.
MODULE_BYTES = 4096
_RANDOM_FILLS = (torch.Tensor.normal_, torch.Tensor.uniform_)
_CGROUP_LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


@dataclass(frozen=True)
class ModelSize:
    """The numbers of a model: parameters, of which trainable and in embeddings; values in all; modules."""

    parameters: int
    trainable: int
    embeddings: int
    values: int
    modules: int

    def bytes(self, dtype: torch.dtype = torch.float32) -> int:
        """Return the memory that the model takes when it is built."""
        return self.values * dtype.itemsize + self.modules * MODULE_BYTES

    def plus(self, layers: int, smaller: "ModelSize", larger: "ModelSize") -> "ModelSize":
        """Return the size with so many more layers, of which `larger` has one more than `smaller`."""
        rows = zip(_numbers(self), _numbers(smaller), _numbers(larger), strict=True)
        return ModelSize(*(own + layers * (large - small) for own, small, large in rows))


class NoValuesWithoutMemory(TorchFunctionMode):
    """A mode under which tensors without memory are not initialised, and memory for them is taken without ado.

    They have no values; at the first of these calls torch would import sympy and its compiler, which takes a second.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call the function, unless it fills a tensor on the meta device."""
        kwargs = kwargs or {}
        tensor = args[0] if args else kwargs.get("tensor")
        if isinstance(tensor, torch.Tensor) and tensor.device.type == "meta":
            if func in _RANDOM_FILLS or getattr(func, "__module__", None) == torch.nn.init.__name__:
                return tensor
            if func is torch.empty_like and set(kwargs) == {"device"} and tensor.is_contiguous():
                return torch.empty(tensor.shape, dtype=tensor.dtype, **kwargs)
        return func(*args, **kwargs)


def layer_counts(config: PreTrainedConfig) -> dict[str, int]:
    """Return the fields of a configuration that hold a number of layers."""
    known = config.to_dict()
    return {name: known[name] for name in LAYER_FIELDS if isinstance(known.get(name), int) and known[name] > 0}


def has_few_layers(config: PreTrainedConfig) -> bool:
    """Return whether a model of this configuration can be built, without its weights, in a moment."""
    return sum(layer_counts(config).values()) <= FEW_LAYERS


def build_without_memory(model_class: Any, config: PreTrainedConfig) -> torch.nn.Module:
    """Return a model whose tensors have shapes but no memory."""
    with torch.device("meta"), NoValuesWithoutMemory():
        return model_class(copy.deepcopy(config))


def model_size(config: PreTrainedConfig, model_class: Any) -> ModelSize:
    """Return the size of a model, exactly; a model of many layers is counted from small ones.

    Raises:
        ValueError: a tensor has more elements than can be counted, or no model can be made of this configuration.
    """
    try:
        if has_few_layers(config):
            return _count(build_without_memory(model_class, config))
        counts = layer_counts(config)
        smallest = _with_layers(config, dict.fromkeys(counts, 1))
        base = total = _count(build_without_memory(model_class, smallest))
        for name, count in counts.items():
            if count > 1:
                larger = _with_layers(config, dict.fromkeys(counts, 1) | {name: 2})
                one_more = _count(build_without_memory(model_class, larger))
                total = total.plus(count - 1, base, one_more)
        return total
    except (RuntimeError, OverflowError, TypeError) as error:
        raise ValueError(
            f"no model can be built from this configuration ({' '.join(str(error).split())[:200]}): check its sizes"
        ) from error


def machine_memory() -> int | None:
    """Return the bytes of memory that this process may have at most; None where the system does not tell."""
    try:
        found = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (AttributeError, ValueError, OSError):  # Windows has no sysconf
        return None
    for path in _CGROUP_LIMITS:
        try:
            found = min(found, int(Path(path).read_text()))
        except (OSError, ValueError):  # no such limit, or "max"
            continue
    return found


def check_memory(
    config: PreTrainedConfig, model_class: Any, name: str, dtype: torch.dtype | None = None, copies: int = 1
) -> ModelSize:
    """Return the size of a model; raise ValueError where this machine has not enough memory for it.

    Args:
        name: the model, for the message.
        dtype: of its weights; None: the configuration's.
        copies: what is needed in all, in sizes of the weights: 4 for training with Adam.
    """
    size = model_size(config, model_class)
    own = config.dtype if isinstance(config.dtype, torch.dtype) else torch.float32
    needed, there = size.bytes(dtype or own) * copies, machine_memory()
    if there is not None and needed > there:
        work = " to be trained" if copies > 1 else ""
        raise ValueError(
            f"{name} has {size.parameters:,} parameters and needs {gigabytes(needed)} of memory{work}, but this "
            f"machine has {gigabytes(there)}: choose smaller sizes"
        )
    return size


def gigabytes(count: int) -> str:
    """Return a number of bytes as text, in GB."""
    return f"{count / 1e9:,.1f} GB"


def _with_layers(config: PreTrainedConfig, counts: dict[str, int]) -> PreTrainedConfig:
    changed = copy.deepcopy(config)
    for name, count in counts.items():
        setattr(changed, name, count)
    return changed


def _count(model: torch.nn.Module) -> ModelSize:
    parameters = list(model.parameters())  # a shared matrix comes once
    tables = {id(p) for m in model.modules() if isinstance(m, torch.nn.Embedding) for p in m.parameters()}
    total = sum(p.numel() for p in parameters)
    return ModelSize(
        parameters=total,
        trainable=sum(p.numel() for p in parameters if p.requires_grad),
        embeddings=sum(p.numel() for p in parameters if id(p) in tables),
        values=total + sum(buffer.numel() for buffer in model.buffers()),
        modules=sum(1 for _ in model.modules()),
    )


def _numbers(size: ModelSize) -> tuple[int, ...]:
    return size.parameters, size.trainable, size.embeddings, size.values, size.modules
