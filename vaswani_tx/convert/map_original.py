"""torch's own transformer modules with the source's weights, as the originals that mapped models are checked by.

Shapes: B batch, S source length, T target length, L length of either, D d_model, V vocabulary.
"""

import copy
import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn

from vaswani_tx.convert.core import Batch
from vaswani_tx.convert.map_file import ORIGINALS, ModelMap
from vaswani_tx.convert.map_model import stacks_of
from vaswani_tx.convert.map_positions import Positions, sinusoid_table

_ACTIVATIONS = ("relu", "gelu")
_COMPUTED = 64  # rows of a computed table, more than the check's texts have


class TorchOriginal(nn.Module):
    """Embedding, positions, a module of torch and an output layer, wired as the tutorials do.

    Args:
        body: nn.Transformer or nn.TransformerEncoder, batches first.
        embeddings: of source and target, [V, D] each; one of encoders.
        tables: positions of source and target, [L, D] each.
        scale: factor of the embeddings.
        head: weight and bias of the output layer; None: no bias.
        mode: "causal", "tokens" or "mean", for an encoder; None for nn.Transformer.
    """

    def __init__(self, body: nn.Module, embeddings, tables, scale: float, head, mode: str | None):
        super().__init__()
        self.weight: torch.Tensor
        self.bias: torch.Tensor | None
        self.body = body
        self.scale = scale
        self.mode = mode
        for name, tensors in (("embedding", embeddings), ("table", tables)):
            for index, tensor in enumerate(tensors):
                self.register_buffer(f"{name}_{index}", tensor.clone())
        weight, bias = head
        self.register_buffer("weight", weight.clone())
        self.register_buffer("bias", None if bias is None else bias.clone())

    def _embed(self, ids: torch.Tensor, side: int) -> torch.Tensor:
        embedding, table = getattr(self, f"embedding_{side}"), getattr(self, f"table_{side}")
        return nn.functional.embedding(ids, embedding) * self.scale + table[: ids.shape[1]]  # [B, L] -> [B, L, D]

    def forward(self, batch: Batch) -> torch.Tensor:
        """Return the logits of a batch, [B, T, V], or [B, V] of a classifier of sequences."""
        source, hidden = batch["input_ids"], batch["attention_mask"] == 0
        if self.mode is None:
            target = batch["decoder_input_ids"]
            states = self.body(
                self._embed(source, 0),
                self._embed(target, 1),
                tgt_mask=_causal(target.shape[1]),
                src_key_padding_mask=hidden,
                memory_key_padding_mask=hidden,
            )
        else:
            mask = _causal(source.shape[1]) if self.mode == "causal" else None
            states = self.body(self._embed(source, 0), mask=mask, src_key_padding_mask=hidden)
        if self.mode == "mean":
            seen = (~hidden).to(states)[..., None]
            states = (states * seen).sum(1) / seen.sum(1)  # [B, L, D] -> [B, D]
        return nn.functional.linear(states, self.weight, self.bias)


def _causal(length: int) -> torch.Tensor:
    return torch.ones(length, length, dtype=torch.bool).triu(1)


def torch_original(
    model_map: ModelMap,
    config: Any,
    weights: Mapping[str, torch.Tensor],
    state: Mapping[str, torch.Tensor],
    positions: Positions,
) -> Callable[[Batch, torch.dtype], torch.Tensor]:
    """Return what computes a source's logits in a type of number, by torch's modules with its own names of weights.

    Args:
        model_map: names the module, and where its weights are.
        config: of the converted model.
        weights: the source's.
        state: ours before any permutation, for what is around the module: embeddings, learned positions, output layer.
        positions: of the source.

    Raises:
        RuntimeError, ValueError, AssertionError: the module does not take the weights.
    """
    section = model_map.section("original")
    kind = section["class"].one_of(ORIGINALS)
    beginning = model_map.fill(section["at"]) if "at" in section and section["at"].content else ""
    own = {name.removeprefix(beginning): tensor for name, tensor in weights.items() if name.startswith(beginning)}
    if kind != "torch.nn.Transformer":
        own = {name: tensor for name, tensor in own.items() if name.startswith(("layers.", "norm."))}
    else:
        own = {name: tensor for name, tensor in own.items() if name.startswith(("encoder.", "decoder."))}
    body = _module(kind, config, own)
    body.load_state_dict(own)
    found = _around(model_map, config, state, positions)
    mode = None
    if kind != "torch.nn.Transformer":
        head = model_map.head if model_map.family == "encoder" else "causal"
        mode = {"causal": "causal", "sequence-classification": "mean"}.get(head, "tokens")
    models = {torch.float32: TorchOriginal(body, **found, mode=mode).to(torch.float32).eval()}
    models[torch.float64] = copy.deepcopy(models[torch.float32]).to(torch.float64)

    def run(batch: Batch, dtype: torch.dtype) -> torch.Tensor:
        with torch.no_grad():
            return models[dtype](batch)

    return run


def _module(kind: str, config: Any, own: Mapping[str, torch.Tensor]) -> nn.Module:
    if config.activation_function not in _ACTIVATIONS:
        raise ValueError(f"its activations are relu and gelu, not {config.activation_function}")
    if config.d_k * config.num_heads != config.d_model or config.d_v != config.d_k:
        raise ValueError("its heads are as wide as d_model together")
    settings: dict[str, Any] = {
        "d_model": config.d_model,
        "nhead": config.num_heads,
        "dim_feedforward": config.d_ff,
        "activation": config.activation_function,
        "layer_norm_eps": config.layer_norm_eps,
        "norm_first": config.norm_order == "pre",
        "batch_first": True,
        "bias": any(name.endswith("linear1.bias") for name in own),
    }
    if kind != "torch.nn.Transformer":
        return _encoder(settings, config.num_hidden_layers, own, "norm.")
    encoder = _encoder(settings, config.encoder_layers, own, "encoder.norm.")
    layer, norm = nn.TransformerDecoderLayer(**settings), _norm(settings, own, "decoder.norm.")
    decoder = nn.TransformerDecoder(layer, config.decoder_layers, norm)
    return nn.Transformer(
        config.d_model, config.num_heads, custom_encoder=encoder, custom_decoder=decoder, batch_first=True
    )


def _encoder(settings: dict[str, Any], layers: int, own: Mapping[str, torch.Tensor], norm: str) -> nn.Module:
    layer = nn.TransformerEncoderLayer(**settings)
    return nn.TransformerEncoder(layer, layers, _norm(settings, own, norm), enable_nested_tensor=False)


def _norm(settings: dict[str, Any], own: Mapping[str, torch.Tensor], beginning: str) -> nn.Module | None:
    if f"{beginning}weight" not in own:
        return None
    return nn.LayerNorm(settings["d_model"], settings["layer_norm_eps"], bias=f"{beginning}bias" in own)


def _around(
    model_map: ModelMap, config: Any, state: Mapping[str, torch.Tensor], positions: Positions
) -> dict[str, Any]:
    """Return embeddings, tables, scale and output layer."""
    stacks, shared = stacks_of(model_map), state.get("model.shared.weight")
    embeddings = [state[f"{stack}embed_tokens.weight"] if shared is None else shared for stack in stacks]
    tables = [_positions(config, state, stack, positions) for stack in stacks]
    if "classifier.weight" in state:
        head = state["classifier.weight"], state.get("classifier.bias")
    else:
        head = state.get("lm_head.weight", embeddings[-1]), state.get("lm_head.bias")
    scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
    return {"embeddings": embeddings, "tables": tables, "scale": scale, "head": head}


def _positions(config: Any, state: Mapping[str, torch.Tensor], stack: str, positions: Positions) -> torch.Tensor:
    learned = state.get(f"{stack}positional_encoding.positions.weight")
    if learned is not None:
        return learned
    if positions.table is not None:
        return positions.table
    layout = "halves" if positions.halves else "interleaved"
    return sinusoid_table(_COMPUTED, config.d_model, layout, config.position_frequencies, config.position_offset)


__all__ = ["TorchOriginal", "torch_original"]
