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
from transformers.utils.import_utils import is_tracing

from .ssru_vaswani import VaswaniSSRU


def sinusoids(positions: torch.Tensor, d_model: int, frequencies: str = "paper") -> torch.Tensor:
    """Compute the paper's positional encoding (section 3.5), interleaved, in float64.

    `PE(pos, 2i) = sin(pos / 10000^(2i/d_model))`, `PE(pos, 2i+1) = cos(pos / 10000^(2i/d_model))`.

    Args:
        positions: [...] integers, counted from 0.
        d_model: D, even.
        frequencies: "tensor2tensor" divides i by `d_model/2 - 1`, so that the slowest is exactly 1/10000.

    Returns:
        [..., D] in float64 (float32 arithmetic is already off by 3e-5 at 512 positions).
    """
    device = positions.device
    if device.type == "mps":  # that backend has no float64
        return sinusoids(positions.cpu(), d_model, frequencies)
    steps = torch.arange(d_model // 2, dtype=torch.float64, device=device)
    exponents = steps / (d_model // 2 - 1) if frequencies == "tensor2tensor" else 2 * steps / d_model
    angles = positions.to(torch.float64)[..., None] / torch.pow(10000.0, exponents)  # [..., D/2]
    return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(-2)  # [..., D/2, 2] -> [..., D]


def leading_padding(attention_mask: torch.Tensor | None) -> torch.Tensor | None:
    """Count the padding in front of each sequence: [B, 1] for a mask [B, L], None for any other mask."""
    if attention_mask is None or attention_mask.dim() != 2:
        return None
    return (attention_mask.cumsum(dim=-1) == 0).sum(dim=-1, keepdim=True)


def counted_positions(hidden_states: torch.Tensor, past_length=0, padding: torch.Tensor | None = None) -> torch.Tensor:
    """Count the positions of [B, L, ...] on from `past_length`: [L], or [B, L] with `padding` [B, 1]."""
    positions = torch.arange(hidden_states.shape[1], device=hidden_states.device) + past_length
    return positions if padding is None else (positions - padding.to(positions.device)).clamp(min=0)


class VaswaniSinusoidalPositions(nn.Module):
    """Sinusoidal positions of section 3.5, for any position, also beyond the table.

    The table is outside the state dict, and refilled whenever the module moves or changes its type: no cast rounds it.
    """

    def __init__(self, num_positions: int, d_model: int, frequencies: str = "paper", offset: int = 0):
        super().__init__()
        self.num_positions = num_positions
        self.d_model = d_model
        self.frequencies = frequencies
        self.offset = offset
        self.register_buffer("table", torch.empty(0), persistent=False)
        self.table = self.values()

    def values(self) -> torch.Tensor:
        """Compute the table, [num_positions, D], on the buffer's device: float64 if the buffer is, else float32."""
        dtype = torch.float64 if self.table.dtype == torch.float64 else torch.float32
        if self.table.is_meta:  # nothing to compute, for which torch would import sympy
            return self.table.new_empty((self.num_positions, self.d_model), dtype=dtype)
        return self.encode(torch.arange(self.num_positions, device=self.table.device)).to(self.table.device, dtype)

    def encode(self, positions: torch.Tensor) -> torch.Tensor:
        """Compute the encoding of positions [...], counted from 0, in float64: [..., D]."""
        return sinusoids(positions + self.offset, self.d_model, self.frequencies)

    def _apply(self, fn, recurse=True):
        super()._apply(fn, recurse)
        self.table = self.values()  # on the meta device this only restores the type
        return self

    def forward(
        self,
        hidden_states: torch.Tensor,
        past_length=0,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ):
        """Return the encoding of the positions of `hidden_states`.

        Args:
            hidden_states: [B, L, D]; only its length, type and device are read.
            past_length: positions already cached, an int or a 0-d tensor.
            position_ids: [B, L] or [L], instead of counting on from `past_length`.
            attention_mask: [B, cached + L], any other is not read; padding in front does not count: a sequence's first
                token has position 0.

        Returns:
            [L, D] or [B, L, D].
        """
        padding = leading_padding(attention_mask)
        end = past_length + hidden_states.shape[1]
        if position_ids is None and isinstance(past_length, int) and end <= self.num_positions:
            if padding is None:
                return self.table[past_length:end].to(hidden_states)
            return self.table[counted_positions(hidden_states, past_length, padding)].to(hidden_states)
        if position_ids is None:
            position_ids = counted_positions(hidden_states, past_length, padding)
        return self.encode(position_ids).to(hidden_states)


class VaswaniLearnedPositions(nn.Embedding):
    """Learned positions, row E of the paper's Table 3; a token beyond the table is an error that names the field."""

    def forward(
        self,
        hidden_states: torch.Tensor,
        past_length=0,
        position_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ):
        """Return the embedding of the positions of `hidden_states`; arguments and result as for the sinusoids.

        Raises:
            ValueError: the position of a token, not of padding, is beyond the table.
        """
        end = past_length + hidden_states.shape[1]
        fits = isinstance(past_length, int) and end <= self.num_embeddings
        if position_ids is None:
            padding = leading_padding(attention_mask)
            if padding is None and isinstance(past_length, int) and not fits:
                raise self._too_long(end)
            position_ids = counted_positions(hidden_states, past_length, padding)
        elif position_ids.device.type == "cpu":
            fits = False
        # Reading positions would wait for an accelerator: not where they are counted, or few enough to be in the table.
        if not fits:
            position_ids = self._within_table(position_ids, past_length, attention_mask)
        return super().forward(position_ids)

    def _within_table(self, position_ids, past_length, attention_mask: torch.Tensor | None) -> torch.Tensor:
        """Return positions of which those of padding are inside of the table; those of tokens must be already."""
        last = self.num_embeddings - 1
        if attention_mask is not None and attention_mask.dim() == 2:
            columns = torch.arange(position_ids.shape[-1], device=attention_mask.device) + past_length
            is_token = attention_mask.index_select(1, columns.clamp(max=attention_mask.shape[1] - 1)) != 0
            position_ids = torch.where(is_token.to(position_ids.device), position_ids, position_ids.clamp(0, last))
        # A graph cannot branch on the values of a tensor; there the lookup itself refuses positions beyond the table.
        if is_tracing(position_ids) or not position_ids.numel():
            return position_ids
        lowest, highest = (int(value) for value in position_ids.aminmax())
        if highest > last:
            raise self._too_long(highest + 1)
        if lowest < 0:
            raise ValueError(
                f"position_ids must be from 0 to {last} (max_position_embeddings={last + 1}), not {lowest}."
            )
        return position_ids

    def _too_long(self, length: int) -> ValueError:
        return ValueError(
            f"A sequence of {length} tokens is longer than max_position_embeddings={self.num_embeddings}, and learned "
            "positions end there: shorten or split it, or train with a larger max_position_embeddings or "
            "position_embedding='sinusoidal'."
        )


def make_positions(config: PreTrainedConfig) -> nn.Module:
    """Build the positions that `config.position_embedding` names."""
    size = config.max_position_embeddings, config.d_model
    if config.position_embedding == "learned":
        return VaswaniLearnedPositions(*size)
    return VaswaniSinusoidalPositions(*size, config.position_frequencies, config.position_offset)


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
    ):
        """Turn rows of the embedding matrix, [B, L, D], into the input of the first layer, [B, L, D]."""
        positions = self.positions(inputs_embeds, past_length, position_ids, attention_mask)
        hidden_states = inputs_embeds * self.scale + positions
        return self.dropout(hidden_states if self.norm is None else self.norm(hidden_states))


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
        **kwargs,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Attend from `hidden_states` to `key_value_states`, or to itself where that is None.

        Args:
            hidden_states: [B, T, D].
            key_value_states: [B, S, D], the encoder's output in cross-attention.
            attention_mask: as the attention implementation takes it, usually [B, 1, T, S].
            past_key_values: a cache to read and extend; one of cross-attention is filled once and then only read.
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


class VaswaniLayer(GradientCheckpointingLayer):
    """The sub-layers that encoder and decoder layers share, each with its dropout (section 5.4)."""

    def _self_attention(self, x: torch.Tensor, **kwargs) -> torch.Tensor:
        attended, _ = self.self_attn(x, **kwargs)
        return self.self_attn_residual.dropout(attended)

    def _feed_forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.feed_forward_residual.dropout(self.feed_forward(x))


class VaswaniEncoderLayer(VaswaniLayer):
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
            x = x + self._self_attention(self.self_attn_residual.norm(x), attention_mask=attention_mask, **kwargs)
            return x + self._feed_forward(self.feed_forward_residual.norm(x))
        # The paper: LayerNorm(x + Sublayer(x))
        x = self.self_attn_residual.norm(x + self._self_attention(x, attention_mask=attention_mask, **kwargs))
        return self.feed_forward_residual.norm(x + self._feed_forward(x))


class VaswaniDecoderLayer(VaswaniLayer):
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
            x = x + residual.dropout(cell(residual.norm(x), **own)[0])
            if memory is not None:
                x = x + self._cross_attention(self.cross_attn_residual.norm(x), memory, **cross)
            return x + self._feed_forward(self.feed_forward_residual.norm(x))
        # The paper: LayerNorm(x + Sublayer(x))
        x = residual.norm(x + residual.dropout(cell(x, **own)[0]))
        if memory is not None:
            x = self.cross_attn_residual.norm(x + self._cross_attention(x, memory, **cross))
        return self.feed_forward_residual.norm(x + self._feed_forward(x))

    def _cross_attention(self, x: torch.Tensor, encoder_hidden_states: torch.Tensor, **kwargs) -> torch.Tensor:
        attended, _ = self.cross_attn(x, key_value_states=encoder_hidden_states, **kwargs)
        return self.cross_attn_residual.dropout(attended)
