"""The Simpler Simple Recurrent Unit: a recurrence in the decoder in place of self-attention.

Kim et al. 2019, "From Research to Production and Back: Ludicrously Fast Neural Machine Translation", section 3.1. Small
decoders have it because a step costs the same at every length.

Shapes: B batch, T target length, D d_model.
"""

import torch
from torch import nn
from transformers import Cache, EncoderDecoderCache, PreTrainedConfig
from transformers.utils.import_utils import is_tracing

# An exported program has no loop of a length that is not known: it computes so many positions.
EXPORTED_LENGTH = 8192


def _tokens_of_square_mask(mask: torch.Tensor, columns: torch.Tensor) -> torch.Tensor:
    """Return which positions are tokens, [B, T], by a mask [B, 1, T, cached + T]: those that the last one sees.

    Raises:
        ValueError: the mask hides more than padding and later positions, which a recurrence cannot.
    """
    visible = mask[:, 0] if mask.dtype == torch.bool else mask[:, 0] > torch.finfo(mask.dtype).min / 2
    visible = visible.index_select(-1, columns)  # [B, T, T]
    is_token = visible[:, -1]
    if not is_tracing(mask):
        causal = torch.ones(visible.shape[1:], dtype=torch.bool, device=mask.device).tril()
        differs = (visible != (causal & is_token[:, None])) & is_token[..., None]
        if differs.any():
            raise ValueError(
                "With decoder_cell='ssru' a position knows all earlier tokens, and the given mask of 4 dimensions "
                "hides some: give a mask [B, T] of the padding, and position_ids that begin again at each document."
            )
    return is_token


def tokens_and_beginnings(
    attention_mask: torch.Tensor | None, past_length, length: int, documents: torch.Tensor | None = None
) -> torch.Tensor | None:
    """Return what the recurrence must know of each position: is it a token, and does a document begin there.

    Args:
        attention_mask: [B, cached + T], 1 for tokens, what is missing at its end is padding; or a causal one, [B, 1, T,
            cached + T], boolean or additive.
        past_length: positions that are cached, an int or a 0-d tensor.
        length: T.
        documents: [B, T], the number of each position's document where several are packed into a row.

    Returns:
        [B, T, 2], boolean; None: all are tokens of one document.
    """
    if attention_mask is None:
        if documents is None:
            return None
        is_token = torch.ones_like(documents, dtype=torch.bool)
    else:
        columns = torch.arange(length, device=attention_mask.device) + past_length
        if attention_mask.dim() == 4:
            is_token = _tokens_of_square_mask(attention_mask, columns)
        else:
            if isinstance(past_length, int) and attention_mask.shape[1] < past_length + length:
                missing = past_length + length - attention_mask.shape[1]
                attention_mask = nn.functional.pad(attention_mask, (0, missing))
            is_token = attention_mask.index_select(1, columns) != 0
    begins = torch.zeros_like(is_token)
    if documents is not None:
        begins[:, 1:] = documents.diff(dim=-1) != 0
    return torch.stack((is_token, begins), dim=-1)


def linear_recurrence(decay: torch.Tensor, inputs: torch.Tensor) -> torch.Tensor:
    """Compute `c_t = decay_t * c_(t-1) + inputs_t` with `c_0 = 0` for all t: [B, T, D] -> [B, T, D].

    It takes log2(T) steps over the whole sequence (Hillis and Steele 1986): after step k, each position has summed the
    last 2^k inputs. Nothing is divided by a product of decays, so none can underflow.
    """
    length = inputs.shape[1]
    exports = torch.compiler.is_exporting()
    step = 1
    while step < (EXPORTED_LENGTH if exports else length):
        if exports:  # no slice, whose length would be fixed in the program
            places = torch.arange(length, device=inputs.device)
            shifted, is_there = (places - step).clamp(min=0), (places >= step)[:, None]
            before, product = (x.index_select(1, shifted) * is_there for x in (inputs, decay))
        else:
            before, product = (nn.functional.pad(x[:, :-step], (0, 0, step, 0)) for x in (inputs, decay))
        inputs, decay = inputs + decay * before, decay * product
        step *= 2
    return inputs


class VaswaniSSRU(nn.Module):
    """A recurrent sub-layer (Kim et al. 2019, equations 4 to 6), where the paper has masked self-attention.

    `f_t = sigmoid(W_f x_t + b_f)`, `c_t = f_t * c_(t-1) + (1 - f_t) * W x_t`, output `relu(c_t)`. Position t knows all
    earlier ones through c, of D numbers. It has no attention weights.

    Args:
        config: gives d_model.
        layer_idx: index in its stack, which is its index in a cache.
    """

    def __init__(self, config: PreTrainedConfig, layer_idx: int):
        super().__init__()
        self.layer_idx = layer_idx
        self.in_proj = nn.Linear(config.d_model, config.d_model, bias=False)
        self.forget_proj = nn.Linear(config.d_model, config.d_model)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        **kwargs,
    ) -> tuple[torch.Tensor, None]:
        """Map [B, T, D] to [B, T, D].

        Args:
            hidden_states: [B, T, D].
            attention_mask: [B, T, 2] of `tokens_and_beginnings`: padding leaves the state as it was.
            past_key_values: a cache with the state after every earlier position, as keys of one head: it can be
                reordered, repeated and cut as that of attention. It is read and extended.

        Returns:
            output [B, T, D], and None for the weights that attention would return.
        """
        gate = self.forget_proj(hidden_states)
        value = self.in_proj(hidden_states)
        # The state adds up over a whole sentence, which half types are too coarse for.
        dtype = torch.promote_types(hidden_states.dtype, torch.float32)
        forget = torch.sigmoid(gate.to(dtype))
        decay, inputs = forget, (1 - forget) * value.to(dtype)
        if attention_mask is not None:
            is_token, begins = attention_mask.to(decay.device).split(1, dim=-1)  # [B, T, 1] each
            inputs = inputs.masked_fill(~is_token, 0.0)
            decay = decay.masked_fill(~is_token, 1.0).masked_fill(begins, 0.0)
        cache = past_key_values
        if isinstance(cache, EncoderDecoderCache):
            cache = cache.self_attention_cache
        if cache is not None and (last := self._last_state(cache)) is not None:
            first = inputs[:, :1] + decay[:, :1] * last.to(inputs)
            inputs = torch.cat((first, inputs[:, 1:]), dim=1)
        states = linear_recurrence(decay, inputs)
        if cache is not None:
            keys = states[:, None]  # [B, T, D] -> [B, 1, T, D]
            cache.update(keys, keys[..., :0], self.layer_idx)
        return torch.relu(states).to(hidden_states.dtype), None

    def _last_state(self, cache: Cache) -> torch.Tensor | None:
        """Return the state after the last cached position, [B, 1, D]; None where nothing is cached."""
        layer = cache.layers[self.layer_idx] if self.layer_idx < len(cache.layers) else None
        if layer is None or not layer.is_initialized:
            return None
        length = layer.get_seq_length()
        if not isinstance(length, int):  # a static cache counts in a tensor, for graphs
            index = (length - 1).clamp(min=0).reshape(1)
            return layer.keys[:, 0].index_select(1, index)  # zeros before the first position is written
        if length and (not isinstance(layer.keys, torch.Tensor) or layer.keys.shape[-2] < length):
            raise ValueError(
                f"A cache with layers of {type(layer).__name__} does not keep the states of decoder_cell='ssru' as "
                "they are: leave cache_implementation out, or give 'dynamic' or 'static'."
            )
        return layer.keys[:, 0, length - 1 : length] if length else None


__all__ = ["VaswaniSSRU", "linear_recurrence", "tokens_and_beginnings"]
