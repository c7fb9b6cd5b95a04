"""What the readers of transformers' own models share: settings, checks of them, rows of layers."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import GenerationConfig

from vaswani_tx.convert.core import ConversionError, Row
from vaswani_tx.failures import shorten
from vaswani_tx.loading import explained, read_object


def is_model(path: Path, *kinds: str) -> bool:
    """Return whether a folder's config.json says one of these kinds of model."""
    try:
        values = json.loads((path / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return False
    return isinstance(values, dict) and values.get("model_type") in kinds


def read_settings(path: Path, config_class: Any, fixed: Mapping[str, Any] | None = None) -> Any:
    """Return the configuration of a folder of transformers.

    Args:
        path: the folder.
        config_class: its class.
        fixed: values that a field must have where the file has it.

    Raises:
        ConversionError: it is damaged, of another kind, or a field has a value that our models cannot express.
    """
    values = read_object(path / "config.json")
    if values.get("model_type") != config_class.model_type:
        raise ConversionError(
            f"config.json of '{path}' says model_type {shorten(repr(values.get('model_type')), 60)}, not "
            f"{config_class.model_type!r}: choose another --format."
        )
    for name, value in (fixed or {}).items():
        if name in values and values[name] != value:
            raise ConversionError(
                f"config.json of '{path}': {name}={shorten(repr(values[name]), 60)} cannot be converted exactly, only "
                f"{value!r} can."
            )
    return explained(str(path), "model's configuration", None, config_class.from_pretrained, path)


def same_number(settings: Any, first: str, second: str) -> int:
    """Return the number that two fields of a configuration share; raise ConversionError where they differ."""
    one, other = getattr(settings, first), getattr(settings, second)
    if one != other:
        raise ConversionError(
            f"config.json: {first}={one} and {second}={other} differ, and our models have one number for both."
        )
    return one


def layer_rows(source: str, ours: str, names: Mapping[str, str], parts: tuple[str, ...] = ("weight", "bias")):
    """Return the rows of a layer's modules: each name of the source with ours, for weight and bias."""
    return [
        Row(f"{source}.{theirs}.{part}", f"{ours}.{name}.{part}") for theirs, name in names.items() for part in parts
    ]


def check_positions(name: str, stored: torch.Tensor, computed: torch.Tensor) -> None:
    """Raise ConversionError where stored sinusoids [positions, D] are not those that the model would compute."""
    rounding = max(2e-5, 2 * torch.finfo(stored.dtype).eps)
    difference = (stored.double() - computed).abs().max().item()
    if not difference <= rounding:
        raise ConversionError(
            f"{name!r} holds other positions than this format's sinusoids (difference {difference:.1e}): the model was "
            "trained with others, which cannot be converted."
        )


def generation_settings(path: Path, settings: Any) -> dict[str, Any]:
    """Return what generation_config.json says, or where there is none, what older files say in config.json."""
    if (path / "generation_config.json").is_file():
        read_object(path / "generation_config.json")
        found = explained(str(path), "generation configuration", None, GenerationConfig.from_pretrained, path)
    else:
        found = GenerationConfig.from_dict(
            {
                name: value
                for name, value in read_object(path / "config.json").items()
                if name in GenerationConfig._get_default_generation_params() or name.endswith("_token_id")
            }
        )
    return {
        name: value
        for name, value in found.to_diff_dict().items()
        if not name.startswith("_") and name != "transformers_version"
    }
