"""Section 3 of "Attention Is All You Need", block by block: positions, attention, feed-forward network, layers.

Shapes: B batch, S source length, T target length, L length of either, D d_model, H heads, K d_k, U d_v, F d_ff.
"""

import math
from collections.abc import Callable

import torch
from torch import nn
from transformers import Cache, EncoderDecoderCache, PreTrainedConfig
from transformers.activations import ACT2FN
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .dropout_vaswani import dropout, dropout_add
from .padding_vaswani import Packing, TokenRows, attend_rows
from .positions_vaswani import (
    VaswaniLearnedPositions,
    VaswaniSinusoidalPositions,
    counted_positions,
    leading_padding,
    make_positions,
    sinusoids,
)
from .ssru_vaswani import VaswaniSSRU


class VaswaniPositionalEncoding(nn.Module):
    """Token embeddings times sqrt(d_model) (section 3.4), plus positions (3.5), with dropout (5.4): [B, L, D].

    `config.embedding_norm` puts a LayerNorm before the dropout, which the paper has not.
    """

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.scale = math.sqrt(config.d_model) if config.scale_embedding else 1.0
        self.positions = make_positions(config)
        self.norm = nn.LayerNorm(config.d_model, config.layer_norm_eps) if config.embedding_norm else None
        self.dropout = nn.Dropout(config.dropout)

    def forward(
        self,
        inputs_embeds: torch.Tensor,
        past_length=0,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        rows: TokenRows | None = None,
    ):
        """Turn rows of the embedding matrix, [B, L, D], into the input of the first layer, [B, L, D].

        With `rows`, the tokens of a batch, the former are [1, N, D], without padding.
        """
        if rows is None:
            positions = self.positions(inputs_embeds, past_length, position_ids, attention_mask)
        else:
            batch = inputs_embeds.new_empty((*rows.shape, 0))  # of which only shape and type are read
            positions = rows.take_positions(self.positions(batch, past_length, position_ids, attention_mask))
        hidden_states = inputs_embeds * self.scale + positions
        return dropout(self.dropout, hidden_states if self.norm is None else self.norm(hidden_states))


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    dropout: float = 0.0,
    is_causal: bool | None = None,
    **kwargs,
) -> tuple[torch.Tensor, torch.Tensor]:
    """Compute scaled dot-product attention, section 3.2.1, equation 1: `softmax(Q K^T / sqrt(d_k)) V`.

    Args:
        module: the attention module; its `training` switches dropout.
        query: [B, H, T, K].
        key: [B, H, S, K].
        value: [B, H, S, U].
        attention_mask: broadcastable to [B, H, T, S]: additive, or boolean with True where attending is allowed.
        scaling: factor on the scores; None: 1 / sqrt(K).
        dropout: rate on the attention weights.
        is_causal: without a mask, whether a position sees only itself and earlier ones; None: `module.is_causal`.

    Returns:
        output [B, T, H, U] and weights [B, H, T, S]. A row that may attend to nothing attends evenly: never NaN.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    # Half types overflow when a mask of their lowest number is added, so the softmax runs in float32 at least.
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    if attention_mask is None and (module.is_causal if is_causal is None else is_causal):
        length, total = scores.shape[-2:]
        attention_mask = torch.ones(length, total, dtype=torch.bool, device=scores.device).tril(total - length)
    if attention_mask is not None and attention_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1).to(query.dtype)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    output = torch.matmul(weights, value).transpose(1, 2).contiguous()  # [B, H, T, U] -> [B, T, H, U]
    return output, weights


class VaswaniAttention(nn.Module):
    """Multi-head attention, section 3.2.2: `Concat(head_1, ..., head_h) W^O`, with d_k and d_v free of d_model.

    Args:
        config: gives d_model, num_heads, d_k, d_v, attention_dropout, attention_bias.
        layer_idx: index in its stack, which is its index in a cache.
        is_causal: whether a position may see only itself and earlier ones.
    """

    def __init__(self, config: PreTrainedConfig, layer_idx: int, is_causal: bool = False):
        super().__init__()
        self.config = config
        self.layer_idx = layer_idx
        self.is_causal = is_causal
        self.head_dim = config.d_k
        self.value_dim = config.d_v
        self.scaling = config.d_k**-0.5
        self.attention_dropout = config.attention_dropout
        bias = config.attention_bias
        self.q_proj = nn.Linear(config.d_model, config.num_heads * config.d_k, bias=bias)
        self.k_proj = nn.Linear(config.d_model, config.num_heads * config.d_k, bias=bias)
        self.v_proj = nn.Linear(config.d_model, config.num_heads * config.d_v, bias=bias)
        self.o_proj = nn.Linear(config.num_heads * config.d_v, config.d_model, bias=bias)

    def forward(
        self,
        hidden_states: torch.Tensor,
        key_value_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        packing: Packing | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend from `hidden_states` to `key_value_states`, or to itself where that is None.

        Args:
            hidden_states: [B, T, D].
            key_value_states: [B, S, D], the encoder's output in cross-attention.
            attention_mask: as the attention implementation takes it, usually [B, 1, T, S].
            past_key_values: a cache to read and extend; one of cross-attention is filled once and then only read.
            packing: of a batch without its padding; states are then [1, N, D], the tokens of all sequences.
            **kwargs: passed to the attention function.

        Returns:
            output [B, T, D] and weights [B, H, T, S], or None where the implementation does not form them.
        """
        batch, length = hidden_states.shape[:2]
        # [B, T, D] -> [B, H, T, K]
        query = self.q_proj(hidden_states).view(batch, length, -1, self.head_dim).transpose(1, 2)
        key, value = self._keys_and_values(hidden_states, key_value_states, past_key_values)

        name = self.config._attn_implementation
        if kwargs.get("output_attentions") and name == "sdpa":
            name = "eager"  # the fused kernel never forms the weights that were asked for
        attention: Callable = ALL_ATTENTION_FUNCTIONS.get_interface(name, eager_attention_forward)
        if packing is not None:
            sides = packing.sides(key_value_states is not None, self.is_causal)
            attended = attend_rows(self, attention, sides, query, key, value)
            return self.o_proj(attended), None
        # Flash kernels want values as wide as queries: zeros in the further channels come out as zeros.
        padded = self.head_dim - self.value_dim if "flash" in (name or "") else 0
        if padded > 0:
            value = nn.functional.pad(value, (0, padded))
        output, weights = attention(
            self,
            query,
            key,
            value,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            **kwargs,
        )
        if padded > 0:
            output = output[..., : self.value_dim]
        return self.o_proj(output.reshape(batch, length, -1)), weights  # [B, T, H, U] -> [B, T, D]

    def _keys_and_values(self, hidden_states, key_value_states, past_key_values) -> tuple[torch.Tensor, torch.Tensor]:
        crosses = key_value_states is not None
        cache = past_key_values
        if isinstance(cache, EncoderDecoderCache):
            if crosses and cache.is_updated.get(self.layer_idx):
                layer = cache.cross_attention_cache.layers[self.layer_idx]
                return layer.keys, layer.values
            cache = cache.cross_attention_cache if crosses else cache.self_attention_cache
        states = key_value_states if crosses else hidden_states
        batch, length = states.shape[:2]
        key = self.k_proj(states).view(batch, length, -1, self.head_dim).transpose(1, 2)  # [B, H, S, K]
        value = self.v_proj(states).view(batch, length, -1, self.value_dim).transpose(1, 2)  # [B, H, S, U]
        if cache is not None:
            key, value = cache.update(key, value, self.layer_idx)
            if crosses and isinstance(past_key_values, EncoderDecoderCache):
                past_key_values.is_updated[self.layer_idx] = True
        return key, value


class VaswaniFeedForward(nn.Module):
    """Position-wise feed-forward network, section 3.3, equation 2: `max(0, x W_1 + b_1) W_2 + b_2`."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.fc1 = nn.Linear(config.d_model, config.d_ff)
        self.activation = ACT2FN[config.activation_function]
        self.dropout = nn.Dropout(config.activation_dropout)
        self.fc2 = nn.Linear(config.d_ff, config.d_model)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """Apply the same two linear maps at every position: [B, L, D] -> [B, L, F] -> [B, L, D]."""
        return self.fc2(self.dropout(self.activation(self.fc1(hidden_states))))


class VaswaniResidual(nn.Module):
    """LayerNorm and dropout of one residual connection (sections 3.1 and 5.4); the layer applies them in its order."""

    def __init__(self, config: PreTrainedConfig):
        super().__init__()
        self.norm = nn.LayerNorm(config.d_model, eps=config.layer_norm_eps)
        self.dropout = nn.Dropout(config.dropout)

    def add(self, x: torch.Tensor, found: torch.Tensor) -> torch.Tensor:
        """Add what a sub-layer found, with dropout, to its input: [B, L, D]."""
        return dropout_add(self.dropout, x, found)


class VaswaniEncoderLayer(GradientCheckpointingLayer):
    """Encoder layer, section 3.1: self-attention, then the feed-forward network, a residual connection around each."""

    def __init__(self, config: PreTrainedConfig, layer_idx: int):
        super().__init__()
        self.pre_norm = config.norm_order == "pre"
        self.self_attn = VaswaniAttention(config, layer_idx)
        self.self_attn_residual = VaswaniResidual(config)
        self.feed_forward = VaswaniFeedForward(config)
        self.feed_forward_residual = VaswaniResidual(config)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None, **kwargs):
        """Map [B, S, D] to [B, S, D]; `kwargs` go to the attention function."""
        x = hidden_states
        if self.pre_norm:  # Xiong et al. 2020: x + Sublayer(LayerNorm(x))
            found, _ = self.self_attn(self.self_attn_residual.norm(x), attention_mask=attention_mask, **kwargs)
            x = self.self_attn_residual.add(x, found)
            return self.feed_forward_residual.add(x, self.feed_forward(self.feed_forward_residual.norm(x)))
        # The paper: LayerNorm(x + Sublayer(x))
        found, _ = self.self_attn(x, attention_mask=attention_mask, **kwargs)
        x = self.self_attn_residual.norm(self.self_attn_residual.add(x, found))
        return self.feed_forward_residual.norm(self.feed_forward_residual.add(x, self.feed_forward(x)))


class VaswaniDecoderLayer(GradientCheckpointingLayer):
    """Decoder layer, section 3.1: masked self-attention, attention to the encoder, the feed-forward network.

    With `decoder_cell="ssru"`, a recurrence takes the place of the self-attention.

    Args:
        config: gives the sizes.
        layer_idx: index in the stack.
        cross_attention: False leaves attention to an encoder out, as a decoder-only model does.
    """

    def __init__(self, config: PreTrainedConfig, layer_idx: int, cross_attention: bool = True):
        super().__init__()
        self.pre_norm = config.norm_order == "pre"
        self.is_recurrent = getattr(config, "decoder_cell", "attention") == "ssru"
        if self.is_recurrent:
            self.ssru, self.ssru_residual = VaswaniSSRU(config, layer_idx), VaswaniResidual(config)
        else:
            self.self_attn = VaswaniAttention(config, layer_idx, is_causal=True)
            self.self_attn_residual = VaswaniResidual(config)
        if cross_attention:
            self.cross_attn = VaswaniAttention(config, layer_idx)
            self.cross_attn_residual = VaswaniResidual(config)
        self.feed_forward = VaswaniFeedForward(config)
        self.feed_forward_residual = VaswaniResidual(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> torch.Tensor:
        """Map [B, T, D] to [B, T, D], attending to `encoder_hidden_states` [B, S, D] where they are given."""
        x, memory = hidden_states, encoder_hidden_states
        own = {"attention_mask": attention_mask, "past_key_values": past_key_values, **kwargs}
        cross = {**own, "attention_mask": encoder_attention_mask}
        cell: nn.Module = self.ssru if self.is_recurrent else self.self_attn
        residual = self.ssru_residual if self.is_recurrent else self.self_attn_residual
        if self.pre_norm:  # Xiong et al. 2020: x + Sublayer(LayerNorm(x))
            x = residual.add(x, cell(residual.norm(x), **own)[0])
            if memory is not None:
                crossed = self.cross_attn_residual
                x = crossed.add(x, self.cross_attn(crossed.norm(x), key_value_states=memory, **cross)[0])
            return self.feed_forward_residual.add(x, self.feed_forward(self.feed_forward_residual.norm(x)))
        # The paper: LayerNorm(x + Sublayer(x))
        x = residual.norm(residual.add(x, cell(x, **own)[0]))
        if memory is not None:
            crossed = self.cross_attn_residual
            x = crossed.norm(crossed.add(x, self.cross_attn(x, key_value_states=memory, **cross)[0]))
        return self.feed_forward_residual.norm(self.feed_forward_residual.add(x, self.feed_forward(x)))


__all__ = [
    "VaswaniAttention",
    "VaswaniDecoderLayer",
    "VaswaniEncoderLayer",
    "VaswaniFeedForward",
    "VaswaniLearnedPositions",
    "VaswaniPositionalEncoding",
    "VaswaniResidual",
    "VaswaniSSRU",
    "VaswaniSinusoidalPositions",
    "counted_positions",
    "eager_attention_forward",
    "leading_padding",
    "sinusoids",
]
