"""Positions of section 3.5 and of row E of Table 3: sinusoids and learned ones.

Shapes: B batch, L length, D d_model.
"""

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.utils.import_utils import is_tracing


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

    The table is a buffer outside the state dict. It is refilled whenever the module moves or changes its type, so that
    no cast rounds it: float64 in a float64 model, float32 in every other, cast only when it is added.
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
        positions = torch.arange(self.num_positions, device=self.table.device)
        return self.encode(positions).to(self.table.device, dtype)

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


__all__ = [
    "VaswaniLearnedPositions",
    "VaswaniSinusoidalPositions",
    "counted_positions",
    "leading_padding",
    "make_positions",
    "sinusoids",
]
