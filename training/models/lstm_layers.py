# Shapes: B batch, S source length, T target length, L length of either, E width of embeddings, W width of the LSTMs,
# N layers, H attention heads (one).
"""Parts of the LSTM encoder-decoder: stacks of torch.nn.LSTM, attention over the source, and the decoder's state."""

import math

import torch
from torch import nn
from transformers import Cache

SCORES = ("general", "dot", "additive", "none")


class LstmCache(Cache):
    """The state that the decoder passes from one target position to the next; its size does not grow with the length.

    Args:
        hidden, cell: [N, B, W], of every layer; None before the first position.
        fed: [B, E], the last attentional output, where it is fed back.
        length: target positions that this state has seen.
    """

    def __init__(self):
        super().__init__(layers=[])
        self.reset()

    def reset(self) -> None:
        """Forget everything."""
        self.hidden: torch.Tensor | None = None
        self.cell: torch.Tensor | None = None
        self.fed: torch.Tensor | None = None
        self.length = 0

    def get_seq_length(self, layer_idx: int = 0) -> int:
        """Return how many target positions this state has seen."""
        return self.length

    def get_max_length(self, layer_idx: int | None = None) -> int:
        """Return -1, which stands for no limit in transformers."""
        return -1

    def reorder_cache(self, beam_idx: torch.Tensor) -> None:
        """Keep the states of the rows `beam_idx`, in that order."""
        self._map(lambda state, rows: state.index_select(rows, beam_idx.to(state.device)))

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the states of the rows `indices`: the same as reordering."""
        self.reorder_cache(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat every row `repeats` times."""
        self._map(lambda state, rows: state.repeat_interleave(repeats, dim=rows))

    def crop(self, tokens_to_remove: int) -> None:
        """Raise ValueError: a recurrent state cannot go back, so assisted decoding cannot use this model.

        Raises:
            ValueError: always, unless nothing is to be removed.
        """
        if tokens_to_remove:
            raise ValueError("An LSTM keeps only its latest state and cannot go back: decode without an assistant.")

    @property
    def is_compileable(self) -> bool:
        """Return False: the state is replaced at every position."""
        return False

    @property
    def is_croppable(self) -> bool:
        """Return False: see `crop`."""
        return False

    @property
    def is_initialized(self) -> bool:
        """Return whether a position has been seen."""
        return self.hidden is not None

    def _map(self, change) -> None:
        if self.hidden is not None:
            self.hidden, self.cell = change(self.hidden, 1), change(self.cell, 1)
        if self.fed is not None:
            self.fed = change(self.fed, 0)


def pick(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return `[B, L, W]` with row b, position l taken from position `index[b, l]` of the same row of `states`."""
    rows, length = index.shape
    flat = index + torch.arange(rows, device=index.device)[:, None] * length
    return states.flatten(0, 1).index_select(0, flat.flatten()).view_as(states)


class LstmEncoderStack(nn.Module):
    """Layers of LSTMs that read the source in both directions (Bahdanau et al. 2015, section 3.2).

    Padding cannot change anything: the tokens of a row are moved to its front, and the backward direction reads each
    row reversed within its own length, so that padding always comes after the last token, whose past alone counts. That
    is what packed sequences compute too; this way torch's fused kernels for whole tensors do it, which on a CPU are
    twice as fast as those for packed ones.
    """

    def __init__(self, input_size: int, hidden_size: int, num_layers: int, dropout: float):
        super().__init__()
        widths = [input_size] + [hidden_size] * (num_layers - 1)
        # Each direction has half of the width, so that a layer's output has all of it.
        self.forwards, self.backwards = (
            nn.ModuleList([nn.LSTM(width, hidden_size // 2, batch_first=True) for width in widths]) for _ in range(2)
        )
        self.dropout = nn.Dropout(dropout)

    def forward(self, hidden_states: torch.Tensor, attention_mask: torch.Tensor | None = None):
        """Read `hidden_states` [B, S, E]; `attention_mask` [B, S] is 1 for tokens; padding may be at any position.

        Returns:
            the top layer's states [B, S, W], zero at padding, and every layer's last states of both directions
            [B, N, W].
        """
        rows, length, _ = hidden_states.shape
        device = hidden_states.device
        positions = torch.arange(length, device=device).expand(rows, length)
        lengths, back = torch.full((rows, 1), length, device=device), None
        if attention_mask is not None:
            order = (attention_mask == 0).long().argsort(dim=1, stable=True)
            hidden_states, back = pick(hidden_states, order), order.argsort(dim=1)
            lengths = attention_mask.ne(0).sum(dim=1, keepdim=True)
        last = (lengths - 1).clamp(min=0)  # [B, 1]; a row of padding alone counts as one token
        reverse = torch.where(positions <= last, last - positions, positions)
        finals = []
        for number, (ahead, behind) in enumerate(zip(self.forwards, self.backwards, strict=True)):
            if number:
                hidden_states = self.dropout(hidden_states)
            to_right, _ = ahead(hidden_states)
            to_left, _ = behind(pick(hidden_states, reverse))
            finals.append(torch.cat([pick_one(states, last) for states in (to_right, to_left)], dim=-1))
            hidden_states = torch.cat([to_right, pick(to_left, reverse)], dim=-1)
        if back is not None:
            hidden_states = pick(hidden_states, back) * attention_mask.ne(0).unsqueeze(-1)
        return hidden_states, torch.stack(finals, dim=1)


def pick_one(states: torch.Tensor, index: torch.Tensor) -> torch.Tensor:
    """Return `[B, W]`, of row b the position `index[b, 0]` of `states` [B, L, W]."""
    return states.gather(1, index.unsqueeze(-1).expand(-1, -1, states.shape[-1])).squeeze(1)


class SourceAttention(nn.Module):
    """Weights of the source states for each target position: softmax of a score (Luong et al. 2015, section 3.1).

    Args:
        score: "dot", q . k; "general", q . (W k); "additive", v . tanh(W q + U k), which is Bahdanau's.
    """

    def __init__(self, hidden_size: int, score: str):
        super().__init__()
        self.score = score
        if score != "dot":
            self.key = nn.Linear(hidden_size, hidden_size, bias=False)
        if score == "additive":
            self.query = nn.Linear(hidden_size, hidden_size, bias=False)
            self.weigh = nn.Linear(hidden_size, 1, bias=False)

    def keys(self, memory: torch.Tensor) -> torch.Tensor:
        """Return the keys that queries are compared with, [B, S, W], from the encoder's states [B, S, W]."""
        return memory if self.score == "dot" else self.key(memory)

    def forward(self, query: torch.Tensor, keys: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor | None):
        """Return the mean [B, T, W] of `memory` as `query` [B, T, W] weighs it, and the weights [B, T, S]."""
        if self.score == "additive":
            # [B, T, 1, W] + [B, 1, S, W] -> [B, T, S, W] -> [B, T, S]
            scores = self.weigh(torch.tanh(self.query(query).unsqueeze(2) + keys.unsqueeze(1))).squeeze(-1)
        else:
            scores = query @ keys.transpose(1, 2)
        if mask is not None:
            scores = scores.masked_fill(mask.eq(0).unsqueeze(1), torch.finfo(scores.dtype).min)
        weights = scores.softmax(dim=-1)
        return weights @ memory, weights


class LstmDecoderStack(nn.Module):
    """LSTM layers over the target so far, and the attentional output `tanh(W [context; state])` (Luong et al. 2015).

    Without input feeding all positions pass through the LSTMs in one call, then through the attention in one. With it
    (Luong's section 3.3) the output of a position is a part of the next one's input, so positions go one by one.
    """

    def __init__(
        self, input_size: int, hidden_size: int, num_layers: int, dropout: float, score: str, input_feeding: bool
    ):
        super().__init__()
        self.input_feeding = input_feeding
        self.lstm = nn.LSTM(
            input_size * (2 if input_feeding else 1), hidden_size, num_layers, batch_first=True,
            dropout=dropout if num_layers > 1 else 0.0,
        )  # fmt: skip
        self.first_cell = nn.ModuleList([nn.Linear(hidden_size, hidden_size) for _ in range(num_layers)])
        self.attention = SourceAttention(hidden_size, score) if score != "none" else None
        self.combine = nn.Linear(hidden_size * (1 if score == "none" else 2), input_size, bias=False)
        self.dropout = nn.Dropout(dropout)

    def initialize(self, cache: LstmCache, finals: torch.Tensor) -> None:
        """Set the state before the first position from the encoder's last states [B, N of the encoder, W].

        A layer starts with the output of the encoder's layer of its number (the top one's where there is none) as its
        hidden state, and a linear function of it as its cell.
        """
        chosen = [finals[:, min(layer, finals.shape[1] - 1)] for layer in range(self.lstm.num_layers)]
        cache.hidden = torch.stack(chosen)  # [N, B, W]
        cache.cell = torch.stack([first(state) for first, state in zip(self.first_cell, chosen, strict=True)])
        if self.input_feeding:
            cache.fed = finals.new_zeros(finals.shape[0], self.lstm.input_size // 2)

    def forward(
        self, embedded: torch.Tensor, memory: torch.Tensor, mask: torch.Tensor | None, cache: LstmCache
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Continue from `cache`, which is updated, with `embedded` [B, T, E] over `memory` [B, S, W].

        Returns:
            the attentional outputs [B, T, E] and the attention weights [B, T, S] (None without attention).
        """
        keys = self.attention.keys(memory) if self.attention else None
        if not self.input_feeding:
            states = self._advance(embedded, cache)
            return self._attend(states, keys, memory, mask)
        outputs, weights = [], []
        for position in range(embedded.shape[1]):
            fed = torch.cat([embedded[:, position], cache.fed.to(embedded.dtype)], dim=-1).unsqueeze(1)
            output, weight = self._attend(self._advance(fed, cache), keys, memory, mask)
            cache.fed = output.squeeze(1)
            outputs.append(output)
            weights.append(weight)
        return torch.cat(outputs, dim=1), torch.cat(weights, dim=1) if self.attention else None

    def _advance(self, inputs: torch.Tensor, cache: LstmCache) -> torch.Tensor:
        states = (cache.hidden.contiguous(), cache.cell.to(cache.hidden.dtype).contiguous())
        outputs, (cache.hidden, cache.cell) = self.lstm(inputs, states)
        cache.length += inputs.shape[1]
        return self.dropout(outputs)

    def _attend(self, states, keys, memory, mask):
        weights = None
        if self.attention:
            context, weights = self.attention(states, keys, memory, mask)
            states = torch.cat([context, states], dim=-1)
        return self.dropout(torch.tanh(self.combine(states))), weights


def gates(rows: int, columns: int, make) -> torch.Tensor:
    """Return a weight [4 * rows, columns] of torch.nn.LSTM whose four gates' matrices are each made by `make`."""
    return torch.cat([make(torch.empty(rows, columns)) for _ in range(4)])


def lstm_values(module: nn.LSTM) -> dict[str, torch.Tensor]:
    """Return the initial weights of an LSTM: Glorot's inputs, orthogonal recurrences, an open forget gate (bias 1).

    Each counts as good practice since 2015 (Jozefowicz et al. 2015, section 2.2 for the bias; Saxe et al. 2014 for the
    orthogonal matrices, which keep a gradient's length over many steps).
    """
    values = {}
    for name, parameter in module.named_parameters():
        width = parameter.shape[0] // 4
        if name.startswith("weight_ih"):
            values[name] = gates(width, parameter.shape[1], nn.init.xavier_uniform_)
        elif name.startswith("weight_hh"):
            values[name] = gates(width, parameter.shape[1], nn.init.orthogonal_)
        else:
            values[name] = torch.zeros(4 * width)
            if name.startswith("bias_ih"):
                values[name][width : 2 * width] = 1.0  # the order of the gates is input, forget, cell, output
    return values


def embedding_scale(width: int, scaled: bool) -> float:
    """Return the factor that gives the embeddings of a tied matrix unit variance, as in the Transformer."""
    return math.sqrt(width) if scaled else 1.0
