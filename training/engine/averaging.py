"""Means of several checkpoints (section 6.1 of the paper: the last 5 of base, the last 20 of big)."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
from safetensors.torch import save_file

from vaswani_tx.modeling_vaswani import with_present_names
from vaswani_tx.training.errors import CheckpointError
from vaswani_tx.training.files import atomic_folder
from vaswani_tx.training.models.loading import check_folder, read_tensors

_NOT_MODEL = ("training_state", "model.safetensors", "model.safetensors.index.json")


def average_checkpoints(folders: Iterable[str | Path]) -> dict[str, torch.Tensor]:
    """Return the element-wise mean of the weights of model folders, summed in float32, in their own dtype.

    Raises:
        CheckpointError: no folder, a folder without weights, or weights whose names or shapes differ (all named).
    """
    paths = [Path(folder) for folder in folders]
    if not paths:
        raise CheckpointError("There is nothing to average: give at least one checkpoint folder.")
    sums: dict[str, torch.Tensor] = {}
    dtypes: dict[str, torch.dtype] = {}
    for folder in paths:
        weights = with_present_names(_weights(folder), sums)
        if not sums:
            dtypes = {name: tensor.dtype for name, tensor in weights.items()}
            sums = {name: _wide(tensor) for name, tensor in weights.items()}
            continue
        sums, dtypes = with_present_names(sums, weights), with_present_names(dtypes, weights)
        _check_same(sums, weights, paths[0], folder)
        for name, tensor in weights.items():
            sums[name] += tensor
    return {name: _narrow(total, len(paths), dtypes[name]) for name, total in sums.items()}


def save_average(folders: Iterable[str | Path], target: str | Path, replace: bool = False) -> Path:
    """Write the mean of `folders` as a folder that `from_pretrained` loads; its other files are the last one's."""
    paths = [Path(folder) for folder in folders]
    average = average_checkpoints(paths)
    with atomic_folder(Path(target), replace) as folder:
        for path in paths[-1].iterdir():
            if path.is_file() and path.name not in _NOT_MODEL and path.suffix != ".safetensors":
                shutil.copyfile(path, folder / path.name)
        save_file(average, folder / "model.safetensors", metadata={"format": "pt"})
    return Path(target)


def _weights(folder: Path) -> dict[str, torch.Tensor]:
    check_folder(folder)
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise CheckpointError(f"'{folder}' has no weights: model.safetensors is missing.")
    return {name: tensor for path in files for name, tensor in read_tensors(path).items()}


def _wide(tensor: torch.Tensor) -> torch.Tensor:
    # float64 weights would lose digits in float32; half precision would lose them in its own.
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32)).clone()


def _narrow(total: torch.Tensor, count: int, dtype: torch.dtype) -> torch.Tensor:
    mean = total / count
    return (mean if dtype.is_floating_point else mean.round()).to(dtype)


def _check_same(
    first: dict[str, torch.Tensor], other: dict[str, torch.Tensor], first_folder: Path, other_folder: Path
) -> None:
    odd = sorted(first.keys() ^ other.keys())
    odd += [f"{name} {list(first[name].shape)} and {list(other[name].shape)}"
            for name in sorted(first.keys() & other.keys()) if first[name].shape != other[name].shape]  # fmt: skip
    if odd:
        raise CheckpointError(
            f"'{first_folder}' and '{other_folder}' are not checkpoints of one model: they differ in "
            f"{', '.join(odd[:5])}. Average checkpoints of one run."
        )
