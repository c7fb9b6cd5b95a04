"""What a format hands over, and the tables that say where each weight of a source belongs.

Every weight of a source is used or listed as ignored with its reason, every weight of ours comes from a row: what is
left over or missing is a ConversionError that names it.
"""

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers import PreTrainedConfig

from vaswani_tx.errors import CheckpointError
from vaswani_tx.modeling_vaswani import VaswaniForConditionalGeneration
from vaswani_tx.modeling_vaswani_decoder import VaswaniForCausalLM
from vaswani_tx.modeling_vaswani_encoder import VaswaniForMaskedLM
from vaswani_tx.modeling_vaswani_vision import VaswaniForImageClassification

MODEL_CLASSES = {
    "vaswani": VaswaniForConditionalGeneration,
    "vaswani_decoder": VaswaniForCausalLM,
    "vaswani_encoder": VaswaniForMaskedLM,
    "vaswani_vision": VaswaniForImageClassification,
}
Batch = Mapping[str, torch.Tensor]


class ConversionError(CheckpointError):
    """A checkpoint that cannot be converted, or not exactly; the message names what is in the way."""


@dataclass
class Converted:
    """A model read from another format, not yet written.

    Args:
        config: a configuration of ours.
        state: name -> weight, the names of our state dict; tied ones may be left out.
        tokenizer: a `VaswaniTokenizer` or an image processor, anything with `save_pretrained`; None: the source has
            none that can be kept, which `notes` explain.
        generation: settings of generation_config.json.
        notes: what the user should know, a sentence each.
        used: names of the source's weights that are used.
        ignored: names of the others, with the reason.
        original: computes the source model's logits for a batch, to check the converted one: a mapping with
            `input_ids` [B, S], `attention_mask` [B, S] and, of encoder-decoders, `decoder_input_ids` [B, T]; of image
            models `pixel_values`. The logits have the converted model's shape. None: it cannot run, see `unchecked`.
        original_double: the same in float64; None: float32 only.
        unchecked: why the original cannot run.
        model_class: the class that is written; None: the one of `MODEL_CLASSES`.
        title: what the source is, in a few words, for the report.
        source_ids: ids that may be in random sources, (first, last + 1); None: all of the vocabulary.
        longest: tokens that the original takes at most; None: as many as the check has.
    """

    config: PreTrainedConfig
    state: dict[str, torch.Tensor]
    tokenizer: Any = None
    generation: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    used: set[str] = field(default_factory=set)
    ignored: dict[str, str] = field(default_factory=dict)
    original: Callable[[Batch], torch.Tensor] | None = None
    original_double: Callable[[Batch], torch.Tensor] | None = None
    unchecked: str = "the original cannot run here"
    model_class: Any = None
    title: str = ""
    source_ids: tuple[int, int] | None = None
    longest: int | None = None

    def class_of_model(self) -> Any:
        """Return the class of the model that is written."""
        return self.model_class or MODEL_CLASSES[self.config.model_type]


def _as_is(tensor: torch.Tensor) -> torch.Tensor:
    return tensor


def _transpose(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.t()


def _flatten(tensor: torch.Tensor) -> torch.Tensor:
    return tensor.flatten()


_STEPS: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "as is": _as_is,
    "transpose": _transpose,
    "flatten": _flatten,
    "rows": lambda tensor: tensor.flatten(0, -2),  # [..., D] -> [n, D]
    "columns": lambda tensor: tensor.flatten(1),  # [D, ...] -> [D, n]
    "negate": torch.neg,
}
_SPLIT = re.compile(r"split(\d+):(\d+)")


def transform(name: str) -> Callable[[torch.Tensor], torch.Tensor]:
    """Return the function that a row's transform names: steps from left to right, with commas in between.

    "as is", "transpose" (of a matrix), "flatten", "rows" ([..., D] as a matrix), "columns" ([D, ...] as a matrix),
    "negate", and "splitN:k", the part k, counted from 0, of N equal ones of the first dimension (queries, keys and
    values that are one weight).

    Raises:
        ValueError: there is no step of that name.
    """
    steps = []
    for step in (part.strip() for part in name.split(",")):
        if found := _SPLIT.fullmatch(step):
            steps.append(_part(int(found[1]), int(found[2])))
        elif step in _STEPS:
            steps.append(_STEPS[step])
        else:
            raise ValueError(f"there is no transform {step!r}: known are {', '.join(_STEPS)} and splitN:k.")

    def apply(tensor: torch.Tensor) -> torch.Tensor:
        for one in steps:
            tensor = one(tensor)
        return tensor

    return apply


def _part(parts: int, index: int) -> Callable[[torch.Tensor], torch.Tensor]:
    if not 0 <= index < parts:
        raise ValueError(f"split{parts}:{index} names no part: they are counted from 0 to {parts - 1}.")

    def take(tensor: torch.Tensor) -> torch.Tensor:
        if not tensor.dim() or tensor.shape[0] % parts:
            raise ValueError(f"{list(tensor.shape)} cannot be split into {parts} equal parts")
        return tensor.chunk(parts)[index]

    return take


@dataclass(frozen=True)
class Row:
    """A row of a key map: where a weight of ours comes from.

    Args:
        source: a name of the source, with `{i}` (or any other word in braces) for a number; or several names, whose
            weights all go to the transform.
        ours: the name in our state dict, with the same words in braces.
        transform: as `transform` reads it; or a function of the source's weights.
        optional: the source may have none of them.
    """

    source: str | tuple[str, ...]
    ours: str
    transform: str | Callable[..., torch.Tensor] = "as is"
    optional: bool = False

    def sources(self) -> tuple[str, ...]:
        """Return the patterns of the source's names."""
        return (self.source,) if isinstance(self.source, str) else self.source


class KeyMap:
    """A table of rows, and of weights that are ignored.

    Args:
        rows: `Row`s, or tuples of their fields. One source may be in several rows, which then all take it.
        ignored: (pattern, reason) of weights that are not converted.
    """

    def __init__(self, rows: Iterable[Row | tuple], ignored: Iterable[tuple[str, str]] = ()):
        self.rows = [row if isinstance(row, Row) else Row(*row) for row in rows]
        self.ignored = list(ignored)

    def apply(self, source: Mapping[str, torch.Tensor]) -> tuple[dict[str, torch.Tensor], set[str], dict[str, str]]:
        """Return our weights by name, the names that were used, and the ignored ones with their reasons.

        Raises:
            ConversionError: a weight is in no row, two rows give one weight of ours, a row that is not optional finds
                none, or a transform does not suit its weight.
        """
        state: dict[str, torch.Tensor] = {}
        used: set[str] = set()
        for row in self.rows:
            found = self._matches(row, source)
            if not found and not row.optional:
                raise ConversionError(
                    f"the source has no weight {row.sources()[0]!r}, which {row.ours!r} is made of: it is another "
                    "model than this format's, or incomplete."
                )
            for names, ours in found:
                if ours in state:
                    raise ConversionError(f"two rows of the key map give {ours!r}, the second from {names[0]!r}.")
                state[ours] = _transformed(row, [source[name] for name in names], names)
                used.update(names)
        ignored = {}
        for name in source:
            reason = next((reason for pattern, reason in self.ignored if _pattern(pattern).fullmatch(name)), None)
            if name not in used and reason is not None:
                ignored[name] = reason
        if left := [name for name in source if name not in used and name not in ignored]:
            raise ConversionError(
                f"{len(left)} weights of the source have no place in the converted model: {_listed(left)}. They would "
                "be lost, so the model is not this format's, or has parts that cannot be converted."
            )
        return state, used, ignored

    def _matches(self, row: Row, source: Mapping[str, torch.Tensor]) -> list[tuple[list[str], str]]:
        """Return the names that a row finds, each with the name of ours."""
        first, *others = row.sources()
        found = []
        for name in source:
            match = _pattern(first).fullmatch(name)
            if match is None:
                continue
            numbers = match.groupdict()
            names = [name, *(_filled(other, numbers) for other in others)]
            if lost := [other for other in names if other not in source]:
                raise ConversionError(f"the source has {name!r} but no {lost[0]!r}, which belongs to it.")
            found.append((names, _filled(row.ours, numbers)))
        return found


def _pattern(text: str) -> re.Pattern:
    parts = re.split(r"(\{\w+\})", text)
    seen: set[str] = set()
    pattern = ""
    for part in parts:
        if part.startswith("{") and part.endswith("}") and len(part) > 2:
            word = part[1:-1]
            pattern += f"(?P={word})" if word in seen else rf"(?P<{word}>\d+)"
            seen.add(word)
        else:
            pattern += re.escape(part)
    return re.compile(pattern)


def _filled(text: str, numbers: Mapping[str, str]) -> str:
    return re.sub(r"\{(\w+)\}", lambda match: numbers[match[1]], text)


def _transformed(row: Row, tensors: list[torch.Tensor], names: list[str]) -> torch.Tensor:
    function = transform(row.transform) if isinstance(row.transform, str) else row.transform
    try:
        return function(*tensors)
    except (RuntimeError, ValueError, IndexError, TypeError) as error:
        shapes = " and ".join(str(list(tensor.shape)) for tensor in tensors)
        how = row.transform if isinstance(row.transform, str) else getattr(row.transform, "__name__", "a function")
        raise ConversionError(
            f"{' and '.join(names)} of shape {shapes} cannot become {row.ours!r} by {how!r}: {error}"
        ) from None


def _listed(names: Iterable[str], most: int = 6) -> str:
    names = list(names)
    return ", ".join(names[:most]) + (f", and {len(names) - most} more" if len(names) > most else "")


def empty_model(converted: Converted) -> Any:
    """Return the model of a configuration without storage for its weights."""
    try:
        with torch.device("meta"):
            return converted.class_of_model()(converted.config)
    except ValueError as error:
        raise ConversionError(f"the source's sizes make no model: {error}") from None


def complete_state(converted: Converted) -> dict[str, torch.Tensor]:
    """Return the weights of every name of our state dict, tied ones too.

    Raises:
        ConversionError: a weight is missing, unknown, of another shape, or differs from the one that it is tied to.
    """
    model = empty_model(converted)
    shapes = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    state = dict(converted.state)
    if unknown := sorted(set(state) - set(shapes)):
        raise ConversionError(f"the converted model has no weights {_listed(unknown)}: the key map names them.")
    tied = dict(model.all_tied_weights_keys)
    for name, root in tied.items():
        if name in state and root not in state:
            state[root] = state[name]
    for name, root in tied.items():
        if root not in state:
            continue
        if name in state and not torch.equal(state[name], state[root]):
            raise ConversionError(
                f"{name!r} and {root!r} are one weight in the converted model, but differ in the source: it has "
                "separate ones, which its configuration denies."
            )
        state[name] = state[root]
    if missing := sorted(set(shapes) - set(state)):
        raise ConversionError(f"the source gives no {_listed(missing)}: it is incomplete, or the key map is.")
    for name, shape in shapes.items():
        if tuple(state[name].shape) != shape:
            raise ConversionError(
                f"{name!r} has shape {list(state[name].shape)} in the source, but {list(shape)} by its configuration: "
                "they belong to different models."
            )
        if not bool(torch.isfinite(state[name]).all()):
            raise ConversionError(f"{name!r} holds numbers that are not finite: the source is damaged.")
    return {name: state[name] for name in shapes}


__all__ = ["ConversionError", "Converted", "KeyMap", "Row", "complete_state", "empty_model", "transform"]
