# Shapes: B batch, S source, T target of a step, P cached, H heads, K d_k, U d_v, D d_model, V vocabulary.
"""The parts of a model that a runtime calls, as modules of flat tensors, and their programs by `torch.export`.

Names of inputs and outputs are those that optimum and transformers.js look for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers import DynamicCache, EncoderDecoderCache

from vaswani_tx.export.folders import kind_of
from vaswani_tx.layers_vaswani import counted_positions, leading_padding

# Sizes of the example that a program is traced with: unlike each other, so that none is taken for another.
BATCH, SOURCE, PAST = 2, 7, 5


@dataclass
class Part:
    """One part of a model.

    Args:
        name: of its file, without an ending.
        module: takes and returns tensors alone.
        inputs: names and examples, in the order of `forward`.
        outputs: names, in the order of what it returns.
        dynamic: input -> dimension -> its name.
    """

    name: str
    module: nn.Module
    inputs: dict[str, torch.Tensor]
    outputs: list[str]
    dynamic: dict[str, dict[int, str]]

    def program(self) -> torch.export.ExportedProgram:
        """Trace the part with dimensions that may have any size."""
        sizes: dict[str, Any] = {}
        shapes = []
        for name in self.inputs:
            named = self.dynamic[name]
            shapes.append({place: sizes.setdefault(size, torch.export.Dim.AUTO) for place, size in named.items()})
        # Modules with *args take their shapes in a tuple within a tuple.
        with torch.no_grad():
            return torch.export.export(
                self.module.eval(), tuple(self.inputs.values()), dynamic_shapes=(tuple(shapes),), strict=False
            )


class _EncoderPart(nn.Module):
    """The encoder: ids and mask [B, S] to states [B, S, D]."""

    def __init__(self, encoder: nn.Module):
        super().__init__()
        self.encoder = encoder

    def forward(self, *tensors: torch.Tensor) -> torch.Tensor:
        input_ids, attention_mask = tensors
        positions = counted_positions(input_ids, 0, leading_padding(attention_mask))
        return self.encoder(input_ids, attention_mask, position_ids=positions).last_hidden_state


class _HeadPart(nn.Module):
    """A model over the encoder with its output layer: ids and mask [B, S] to its outputs."""

    def __init__(self, model: nn.Module, outputs: Sequence[str]):
        super().__init__()
        self.model, self.outputs = model, list(outputs)

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        input_ids, attention_mask = tensors
        positions = counted_positions(input_ids, 0, leading_padding(attention_mask))
        found = self.model(input_ids=input_ids, attention_mask=attention_mask, position_ids=positions)
        return tuple(found[name] for name in self.outputs)


class _DecoderPart(nn.Module):
    """The decoder and the output layer: the mask [B, S], ids [B, T], and the states [B, S, D] or the cache of them.

    Args:
        model: the encoder-decoder.
        with_past: whether keys and values come in, of each layer: own ones [B, H, P, K] and those of the source
            [B, H, S, K].
    """

    def __init__(self, model: Any, with_past: bool):
        super().__init__()
        self.decoder, self.lm_head, self.with_past = model.model.decoder, model.lm_head, with_past

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        mask, input_ids, *rest = tensors
        own, cross = DynamicCache(config=self.decoder.config), DynamicCache(config=self.decoder.config)
        cache = EncoderDecoderCache(own, cross)
        if self.with_past:
            for layer in range(len(rest) // 4):
                keys, values, source_keys, source_values = rest[4 * layer : 4 * layer + 4]
                own.update(keys, values, layer)
                cross.update(source_keys, source_values, layer)
                cache.is_updated[layer] = True
            # Only asked for its length and type where keys and values are there.
            states = rest[2].transpose(1, 2).flatten(2)
            if states.shape[-1] != self.decoder.config.d_model:
                states = states.new_zeros(states.shape[0], states.shape[1], self.decoder.config.d_model)
            past = rest[0].shape[2]
        else:
            states, past = rest[0], 0
        positions = counted_positions(input_ids, past)[None]
        hidden = self.decoder(
            input_ids=input_ids,
            encoder_hidden_states=states,
            encoder_attention_mask=mask,
            past_key_values=cache,
            position_ids=positions,
            use_cache=True,
        ).last_hidden_state
        logits = self.lm_head(hidden)
        present: list[torch.Tensor] = []
        for one, source in zip(own.layers, cross.layers, strict=True):
            present += [one.keys, one.values]
            if not self.with_past:
                present += [source.keys, source.values]
        return logits, *present


class _CausalPart(nn.Module):
    """A decoder-only model: ids [B, T], mask [B, P + T], keys and values [B, H, P, K] of each layer."""

    def __init__(self, model: Any):
        super().__init__()
        self.model = model

    def forward(self, *tensors: torch.Tensor) -> tuple[torch.Tensor, ...]:
        input_ids, mask, *rest = tensors
        cache = DynamicCache(config=self.model.config)
        for layer in range(len(rest) // 2):
            cache.update(rest[2 * layer], rest[2 * layer + 1], layer)
        past = rest[0].shape[2]
        positions = counted_positions(input_ids, past, leading_padding(mask))
        found = self.model(
            input_ids=input_ids, attention_mask=mask, past_key_values=cache, position_ids=positions, use_cache=True
        )
        return found.logits, *(tensor for layer in cache.layers for tensor in (layer.keys, layer.values))


def parts_of(model: Any) -> list[Part]:
    """Return the parts of a model, by its kind."""
    kind = kind_of(model.config)
    if kind == "encoder-decoder":
        return _translator(model)
    return [_causal(model)] if kind == "decoder" else [_encoder(model)]


def _ids(model: Any, length: int, size: int) -> torch.Tensor:
    return torch.arange(BATCH * length).remainder(size).view(BATCH, length)


def _heads(config: Any, length: int) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.zeros(BATCH, config.num_heads, length, config.d_k), torch.zeros(
        BATCH, config.num_heads, length, config.d_v
    )


def _translator(model: Any) -> list[Part]:
    config = model.config
    source = {
        "input_ids": _ids(model, SOURCE, config.source_vocab_size or config.vocab_size),
        "attention_mask": torch.ones(BATCH, SOURCE, dtype=torch.long),
    }
    by_source = {0: "batch_size", 1: "encoder_sequence_length"}
    encoder = Part(
        "encoder_model",
        _EncoderPart(model.model.encoder),
        source,
        ["last_hidden_state"],
        {"input_ids": by_source, "attention_mask": by_source},
    )
    mask = {"encoder_attention_mask": source["attention_mask"]}
    layers = range(config.decoder_layers)
    names = [f"{number}.decoder.{what}" for number in layers for what in ("key", "value")]
    every = [f"{number}.{stack}.{w}" for number in layers for stack in ("decoder", "encoder") for w in ("key", "value")]
    first = Part(
        "decoder_model",
        _DecoderPart(model, with_past=False),
        {**mask, "input_ids": _ids(model, PAST, config.vocab_size),
         "encoder_hidden_states": torch.zeros(BATCH, SOURCE, config.d_model)},
        ["logits", *(f"present.{name}" for name in every)],
        {"encoder_attention_mask": by_source, "input_ids": {0: "batch_size", 1: "decoder_sequence_length"},
         "encoder_hidden_states": by_source},
    )  # fmt: skip
    past: dict[str, torch.Tensor] = {}
    for number in layers:
        for stack, length in (("decoder", PAST), ("encoder", SOURCE)):
            for what, tensor in zip(("key", "value"), _heads(config, length), strict=True):
                past[f"past_key_values.{number}.{stack}.{what}"] = tensor
    by_past = {
        name: {0: "batch_size", 2: "past_sequence_length" if ".decoder." in name else "encoder_sequence_length"}
        for name in past
    }
    later = Part(
        "decoder_with_past_model",
        _DecoderPart(model, with_past=True),
        {**mask, "input_ids": _ids(model, 1, config.vocab_size), **past},
        ["logits", *(f"present.{name}" for name in names)],
        {"encoder_attention_mask": by_source, "input_ids": {0: "batch_size"}, **by_past},
    )
    return [encoder, first, later]


def _causal(model: Any) -> Part:
    config = model.config
    past: dict[str, torch.Tensor] = {}
    for number in range(config.num_hidden_layers):
        for what, tensor in zip(("key", "value"), _heads(config, PAST), strict=True):
            past[f"past_key_values.{number}.{what}"] = tensor
    length = 3
    return Part(
        "model",
        _CausalPart(model),
        {
            "input_ids": _ids(model, length, config.vocab_size),
            "attention_mask": torch.ones(BATCH, PAST + length, dtype=torch.long),
            **past,
        },
        ["logits", *(name.replace("past_key_values", "present") for name in past)],
        {
            "input_ids": {0: "batch_size", 1: "sequence_length"},
            "attention_mask": {0: "batch_size", 1: "total_sequence_length"},
            **{name: {0: "batch_size", 2: "past_sequence_length"} for name in past},
        },
    )


def _encoder(model: Any) -> Part:
    inputs = {
        "input_ids": _ids(model, SOURCE, model.config.vocab_size),
        "attention_mask": torch.ones(BATCH, SOURCE, dtype=torch.long),
    }
    with torch.no_grad():
        found = model(**inputs)
    known = ("last_hidden_state", "logits", "start_logits", "end_logits")
    outputs = [name for name in known if name in found]
    shape = {0: "batch_size", 1: "sequence_length"}
    return Part("model", _HeadPart(model, outputs), inputs, outputs, {"input_ids": shape, "attention_mask": shape})
