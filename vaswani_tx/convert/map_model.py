"""What a map's weights say of the configuration: sizes from shapes, options from which weights there are.

Shapes: V vocabulary, D d_model, F d_ff, H heads, K d_k.
"""

import re
from dataclasses import fields
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError

from vaswani_tx.configuration_vaswani import VaswaniConfig, VaswaniDecoderConfig, VaswaniEncoderConfig
from vaswani_tx.convert.map_file import ModelMap
from vaswani_tx.convert.map_rows import Applied
from vaswani_tx.convert.map_yaml import Value, as_number, shown
from vaswani_tx.modeling_vaswani import VaswaniForConditionalGeneration
from vaswani_tx.modeling_vaswani_decoder import VaswaniForCausalLM
from vaswani_tx.modeling_vaswani_encoder import (
    VaswaniEncoderModel,
    VaswaniForMaskedLM,
    VaswaniForSequenceClassification,
    VaswaniForTokenClassification,
)
from vaswani_tx.suggestions import did_you_mean

CONFIGS = {"encoder-decoder": VaswaniConfig, "encoder": VaswaniEncoderConfig, "decoder": VaswaniDecoderConfig}
ENCODERS = {
    "token-classification": VaswaniForTokenClassification,
    "sequence-classification": VaswaniForSequenceClassification,
    "masked-lm": VaswaniForMaskedLM,
    "none": VaswaniEncoderModel,
}
# What no shape shows, and a wrong guess would change silently: the map must say it.
TO_SAY = {
    "num_heads": "the number of attention heads, which no weight shows",
    "norm_order": "'post' (LayerNorm(x + Sublayer(x))) or 'pre' (x + Sublayer(LayerNorm(x)))",
    "activation_function": "'relu', 'gelu' or another name of transformers",
    "layer_norm_eps": "1e-5 in torch.nn.LayerNorm",
    "scale_embedding": "true where embeddings are multiplied by sqrt(d_model)",
}
_DEFAULT_POSITIONS = 1024


def class_of(model_map: ModelMap) -> Any:
    """Return the class of the model that a map is of."""
    if model_map.family == "encoder":
        return ENCODERS[model_map.head]
    return VaswaniForConditionalGeneration if model_map.family == "encoder-decoder" else VaswaniForCausalLM


def stacks_of(model_map: ModelMap) -> tuple[str, ...]:
    """Return the beginnings of our names of the stacks."""
    if model_map.family == "encoder-decoder":
        return ("model.encoder.", "model.decoder.")
    return ("",) if model_map.family == "encoder" and model_map.head == "none" else ("model.",)


def share_equal_weights(model_map: ModelMap, applied: Applied) -> list[str]:
    """Turn matrices that are equal in the source into one, where our models can tie them; return notes about it."""
    state, notes = applied.state, []
    source, target = "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"
    if source in state and target in state and _equal(state[source], state[target]):
        applied.origin["model.shared.weight"] = applied.origin[target]
        state["model.shared.weight"] = state.pop(target)
        del state[source]
        notes.append("Source and target have equal embeddings: they are one matrix now.")
    embedding = next((name for name in _embeddings(model_map) if name in state), None)
    if embedding is not None and "lm_head.weight" in state and _equal(state["lm_head.weight"], state[embedding]):
        del state["lm_head.weight"]
        notes.append("The output projection equals the embeddings: it is tied to them now.")
        applied.origin["lm_head.weight"] = applied.origin[embedding]
    return notes


def _equal(one: torch.Tensor, other: torch.Tensor) -> bool:
    return one.shape == other.shape and torch.equal(one, other)


def _embeddings(model_map: ModelMap) -> tuple[str, ...]:
    """Return our names of the embeddings that the output projection may be tied to."""
    if model_map.family == "encoder-decoder":
        return ("model.shared.weight", "model.decoder.embed_tokens.weight")
    return tuple(f"{stack}embed_tokens.weight" for stack in stacks_of(model_map))


def make_config(model_map: ModelMap, applied: Applied, further: dict[str, Any]) -> Any:
    """Return the configuration: what the map says, what the weights show, and what was found elsewhere.

    Args:
        model_map: the map.
        applied: the weights, by our names.
        further: fields found elsewhere, such as token ids; the map's `config` counts before them.

    Raises:
        ConversionError: the map leaves out what no weight shows, says a wrong field, or contradicts the weights.
    """
    config_class = CONFIGS[model_map.family]
    given = model_map.section("config")
    known = {one.name for one in fields(config_class) if one.init and not one.name.startswith("_")}
    for name, value in given.items():
        if name not in known:
            raise value.error(
                f"{config_class.__name__} has no field {name!r}{did_you_mean(name, known) or '.'} Further notes belong "
                "into comments."
            )
    for name, meaning in TO_SAY.items():
        if name not in given:
            raise model_map.place("config").error(f"`{name}` is missing: {meaning}. Add it under `config:`.")
    said = {name: _field_value(name, value, config_class) for name, value in given.items()}
    shown_by = _from_weights(model_map, applied, said)
    for name, (value, why) in shown_by.items():
        if name in said and said[name] != value:
            raise given[name].error(f"{said[name]!r} contradicts the weights: {why}, so it is {value!r}.")
    values = {name: value for name, (value, _) in shown_by.items()} | further | said
    try:
        return config_class(**values)
    except (ValueError, TypeError, StrictDataclassError) as error:
        raise model_map.place("config").error(f"these fields make no model: {' '.join(str(error).split())}") from None


def _field_value(name: str, value: Value, config_class: Any) -> Any:
    plain = value.plain()
    if isinstance(plain, dict):
        raise value.error(f"must be a value, not {shown(value.content)}.")
    annotation = str(config_class.__dataclass_fields__[name].type)
    return as_number(plain) if "float" in annotation else plain


def _from_weights(model_map: ModelMap, applied: Applied, said: dict[str, Any]) -> dict[str, tuple[Any, str]]:
    """Return field -> (value, why) for what the weights show."""
    state, stacks = applied.state, stacks_of(model_map)
    found: dict[str, tuple[Any, str]] = {}

    def size(field: str, name: str, dimension: int) -> None:
        if name in state and state[name].dim() > dimension:
            theirs = applied.origin[name][0]
            found[field] = (state[name].shape[dimension], f"{theirs!r} of shape {list(state[name].shape)} is {name}")

    first = next((f"{stack}layers.0." for stack in stacks if f"{stack}layers.0.feed_forward.fc1.weight" in state), None)
    embedding = next((name for name in _embeddings(model_map) if name in state), "")
    size("vocab_size", embedding, 0)
    if model_map.family == "encoder-decoder" and "model.shared.weight" not in state:
        size("source_vocab_size", "model.encoder.embed_tokens.weight", 0)
    size("d_model", embedding, 1)
    if first is not None:
        size("d_ff", f"{first}feed_forward.fc1.weight", 0)
        _head_sizes(found, model_map, applied, first, said)
    names = {"model.encoder.": "encoder_layers", "model.decoder.": "decoder_layers"}
    for stack in stacks:
        found[names.get(stack, "num_hidden_layers")] = _layers(applied, stack)
    found |= {name: _there(state, part, what) for name, part, what in _OPTIONS}
    if "masked-lm" in model_map.head or model_map.family != "encoder":
        found["lm_head_bias"] = _there(state, "lm_head.bias", "a bias of the output projection")
        if "lm_head.weight" in state:
            found["tie_word_embeddings"] = (False, f"{applied.origin['lm_head.weight'][0]!r} is a matrix of its own")
        elif not said.get("tie_word_embeddings") and "lm_head.weight" not in applied.origin:
            raise model_map.place("config").error(
                "no row gives `lm_head.weight`, the output projection: add one, or `tie_word_embeddings: true` where "
                f"it is the embedding.{_idle(applied)}"
            )
    if "classifier.weight" in state:
        found["num_labels"] = (state["classifier.weight"].shape[0], "the classifier has as many rows")
    for stack in stacks:
        size("max_position_embeddings", f"{stack}positional_encoding.positions.weight", 0)
    return {name: value for name, value in found.items() if name == "num_labels" or _is_field(model_map, name)}


_OPTIONS = (
    ("attention_bias", "_proj.bias", "biases of attention projections"),
    ("final_layer_norm", "final_norm.", "a norm after each stack"),
    ("embedding_norm", "positional_encoding.norm.", "a norm of the embeddings"),
)


def _is_field(model_map: ModelMap, name: str) -> bool:
    return name in CONFIGS[model_map.family].__dataclass_fields__


def _there(state: dict[str, torch.Tensor], part: str, what: str) -> tuple[bool, str]:
    there = any(part in name for name in state)
    return there, f"there are {what}" if there else f"there are no {what}"


def _layers(applied: Applied, stack: str) -> tuple[int, str]:
    pattern = re.compile(re.escape(stack) + r"layers\.(\d+)\.")
    numbers = {int(match[1]) for name in applied.state if (match := pattern.match(name))}
    return len(numbers), f"{len(numbers)} layers were found for {stack or 'the model'}"


def _head_sizes(found: dict, model_map: ModelMap, applied: Applied, layer: str, said: dict[str, Any]) -> None:
    """Set d_k and d_v, where the projections are as wide as that many heads."""
    heads = said["num_heads"]
    value = model_map.section("config")["num_heads"]
    if type(heads) is not int or heads < 1:
        raise value.error(f"must be a whole number from 1 on, not {heads!r}.")
    for field, projection in (("d_k", "q_proj"), ("d_v", "v_proj")):
        name = f"{layer}self_attn.{projection}.weight"
        if name in applied.state:
            rows = applied.state[name].shape[0]
            if rows % heads:
                raise value.error(
                    f"{heads} heads do not divide the {rows} rows of {applied.origin[name][0]!r} ({name}): give the "
                    "number that the model was trained with."
                )
            found[field] = (rows // heads, f"{name} has {rows} rows for {heads} heads")


def _idle(applied: Applied) -> str:
    """Return a hint at rows that found nothing."""
    rows = [f"line {row.place.line} of {row.place.file.name} ({row.pattern})" for row in applied.idle[:4]]
    more = f" and {len(applied.idle) - 4} more" if len(applied.idle) > 4 else ""
    return f" Rows that found nothing: {'; '.join(rows)}{more}." if rows else ""


def complete(model_map: ModelMap, applied: Applied, model: Any, notes: list[str]) -> None:
    """Fill in biases that the source does not have, which are zeros, and check names and shapes.

    Raises:
        ConversionError: a weight of the model that no row gives, or one that it does not have or in another shape.
    """
    state = applied.state
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    tied = set(model.all_tied_weights_keys)
    patterns = {re.sub(r"\.\d+\.", ".{i}.", name) for name in state}
    zeros = []
    for name, shape in wanted.items():
        if name not in state and name.endswith(".bias") and re.sub(r"\.\d+\.", ".{i}.", name) not in patterns:
            state[name] = torch.zeros(shape, dtype=next(iter(state.values())).dtype)
            zeros.append(name)
    if zeros:
        kinds = sorted({re.sub(r"\.\d+\.", ".*.", name) for name in zeros})
        notes.append(f"Biases that the source does not have are zeros: {', '.join(kinds[:4])}{_more(kinds, 4)}.")
    missing = [name for name in wanted if name not in state and name not in tied]
    if missing:
        raise model_map.place("rows").error(
            f"no row gives {', '.join(missing[:4])}{_more(missing, 4)}, which the model has.{_idle(applied)}"
        )
    for name, tensor in state.items():
        if name not in wanted:
            theirs, row = applied.origin[name]
            raise row.place.error(
                f"{theirs!r} would be {name!r}, which {type(model).__name__} with this configuration does not "
                f"have{did_you_mean(name, wanted, 0.8) or '.'}"
            )
        if tuple(tensor.shape) != wanted[name] and name in applied.origin:
            theirs, row = applied.origin[name]
            hint = " (`do: transpose`?)" if tuple(tensor.shape)[::-1] == wanted[name] else ""
            raise row.place.error(
                f"{theirs!r} ({row.described()}) is {name!r} with shape {list(tensor.shape)}, but the other weights "
                f"make it {list(wanted[name])}{hint}."
            )


def _more(names: list[str], shown_names: int) -> str:
    return f" and {len(names) - shown_names} more" if len(names) > shown_names else ""


__all__ = ["CONFIGS", "ENCODERS", "TO_SAY", "class_of", "complete", "make_config", "share_equal_weights", "stacks_of"]
