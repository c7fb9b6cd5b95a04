"""Batches without their padding: the real tokens of all sequences as one row, padded inside attention only.

Projections, feed-forward networks, norms, dropout and the loss treat every position alone, so a position of padding
only costs time there. Attention gets its sequences as a padded batch again, each from its first column on, or on
devices with kernels for it as rows with the limits of each sequence.

Shapes: B sequences, L columns of the batch as given, W columns of the longest sequence, N real tokens, D d_model.
"""

import contextlib
import functools
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn
from transformers.utils.import_utils import is_tracing

from .varlen_attention_vaswani import SequenceLimits, varlen_attention

_enabled = True
# Above this share of tokens a batch is computed with its padding: to gather rows costs a few hundredths of a layer.
WHOLE_FROM = 0.95
# The implementations of attention that take a mask [B, 1, T, S].
IMPLEMENTATIONS = ("sdpa", "eager")
# What these hook into modules for themselves works on rows as on batches.
_KNOWN_HOOKS = ("transformers.", "torch.", "accelerate.", "peft.")


@contextlib.contextmanager
def padding_free(enabled: bool) -> Iterator[None]:
    """Compute real tokens only (True, as is usual) or whole batches (False) within this context, for comparisons."""
    global _enabled
    before, _enabled = _enabled, enabled
    try:
        yield
    finally:
        _enabled = before


class _Gather(torch.autograd.Function):
    """The rows [N, ...] of cells [C, ...] that `indices` [N] names, each once."""

    @staticmethod
    def forward(ctx, cells, indices):
        ctx.indices, ctx.count = indices, cells.shape[0]
        return cells.index_select(0, indices)

    @staticmethod
    def backward(ctx, grad):
        # Only a cell that holds a token has a gradient, and each has one: no sum, unlike that of `index_select`.
        return grad.new_zeros((ctx.count, *grad.shape[1:])).index_copy_(0, ctx.indices, grad), None


class _Scatter(torch.autograd.Function):
    """The cells [C, ...] that hold rows [N, ...]; a cell of padding holds some row, which saves clearing it."""

    @staticmethod
    def forward(ctx, rows, sources, indices):
        ctx.indices = indices
        return rows.index_select(0, sources)

    @staticmethod
    def backward(ctx, grad):
        # Attention hides cells of padding, so that their gradients are zeros.
        return grad.index_select(0, ctx.indices), None, None


@dataclass(frozen=True, eq=False)
class TokenRows:
    """The places of a batch's tokens that are computed.

    Args:
        is_given: [B, L], which positions hold a token.
        width: W, tokens of the longest sequence.
        is_whole: compute padding too: with so little of it, taking it out costs more.
    """

    is_given: torch.Tensor
    width: int
    is_whole: bool

    @classmethod
    def of_mask(cls, is_given: torch.Tensor, may_be_whole: bool = True) -> "TokenRows":
        """Return the places where a mask [B, L] is true, or all where nearly all of them are.

        Args:
            is_given: which positions hold a token.
            may_be_whole: whether a mask keeps attention from padding, or that is behind the tokens of causal attention.
        """
        lengths = is_given.sum(dim=1)
        longest, total = torch.stack((lengths.max(), lengths.sum())).tolist()
        enough = WHOLE_FROM if may_be_whole and is_given.device.type == "cpu" else 1.0
        is_whole = total >= enough * is_given.numel()
        return cls(is_given, is_given.shape[1] if is_whole else longest, is_whole)

    @property
    def shape(self) -> tuple[int, int]:
        """(B, L)."""
        return self.is_given.shape[0], self.is_given.shape[1]

    @functools.cached_property
    def lengths(self) -> torch.Tensor:
        """The computed tokens of each sequence, [B]."""
        # All are computed of a whole batch, which on devices with kernels for rows has no padding.
        return self.is_given.sum(dim=1)

    @functools.cached_property
    def indices(self) -> torch.Tensor:
        """The number of each token among the B * L positions of the batch, [N], in their order."""
        return self.is_given.flatten().nonzero().squeeze(1)

    @functools.cached_property
    def is_even(self) -> bool:
        """Whether all sequences have as many rows, so that they are a batch for attention as they are."""
        return self.is_whole or self.indices.shape[0] == self.shape[0] * self.width

    @functools.cached_property
    def limits(self) -> torch.Tensor:
        """The numbers of the rows at which sequences begin and end, [B + 1] int32."""
        return nn.functional.pad(self.lengths.cumsum(0), (1, 0)).to(torch.int32)

    @functools.cached_property
    def is_token(self) -> torch.Tensor:
        """Which cells of attention hold a token, [B, W]."""
        if self.is_whole:
            return self.is_given
        return torch.arange(self.width, device=self.lengths.device) < self.lengths[:, None]

    @functools.cached_property
    def cells(self) -> torch.Tensor:
        """The cell of each row among the B * W ones of attention, [N]."""
        return self.is_token.flatten().nonzero().squeeze(1)

    @functools.cached_property
    def sources(self) -> torch.Tensor:
        """The row that each cell of attention holds, [B * W]; of padding the last one before it, any would do."""
        rows = self.is_token.flatten().cumsum(0) - 1
        return rows.clamp(min=0)

    @functools.cached_property
    def key_mask(self) -> torch.Tensor | None:
        """Which keys may be seen, [B, 1, 1, W]; None: all. An empty sequence, whose output is dropped, sees one."""
        if self.is_even and (not self.is_whole or bool(self.is_given.all())):
            return None
        first = torch.arange(self.width, device=self.is_given.device) == 0
        return (self.is_token | (first & ~self.is_given.any(dim=1, keepdim=True)))[:, None, None]

    def prepared(self) -> "TokenRows":
        """Compute what attention reads, so that a layer that is compiled by itself finds it; return self."""
        if has_kernels(self.is_given.device):
            self.limits  # noqa: B018
        elif self.key_mask is not None and not self.is_even:
            self.cells, self.sources  # noqa: B018
        return self

    def take(self, states: Any) -> torch.Tensor:
        """Return the tokens of [B, L, ...] as one row, [1, N, ...]."""
        cells = states.flatten(0, 1)
        if self.is_whole:
            return cells[None]
        if not cells.is_floating_point():
            return cells.index_select(0, self.indices)[None]
        return _Gather.apply(cells, self.indices)[None]

    def take_positions(self, states: torch.Tensor) -> torch.Tensor:
        """Return the encodings of positions, [L, D] or [B, L, D], of each token, [1, N, D]."""
        if self.is_whole:
            return states.expand(*self.shape, -1).flatten(0, 1)[None]
        if states.dim() == 2:
            return states.index_select(0, self.indices % self.shape[1])[None]
        return self.take(states)

    def put(self, states: Any) -> torch.Tensor:
        """Return the tokens [1, N, ...] in their places, [B, L, ...]; zeros elsewhere."""
        if not self.is_whole:
            cells = states.new_zeros((self.shape[0] * self.shape[1], *states.shape[2:]))
            states = cells.index_copy(0, self.indices, states[0])
        return states.reshape(*self.shape, *states.shape[2 if self.is_whole else 1 :])

    def batched(self, states: torch.Tensor) -> torch.Tensor:
        """Return the tokens [1, N, ...] as attention takes them, [B, W, ...]."""
        rows = states[0] if self.is_even else _Scatter.apply(states[0], self.sources, self.cells)
        return rows.view(self.shape[0], self.width, *states.shape[2:])

    def unbatched(self, states: torch.Tensor) -> torch.Tensor:
        """Return [B, W, ...] of attention as one row, [1, N, ...]."""
        cells = states.flatten(0, 1)
        return (cells if self.is_even else _Gather.apply(cells, self.cells))[None]


@dataclass(frozen=True, eq=False)
class Packing:
    """The real tokens of a batch: those that are read, and in an encoder-decoder those that are written.

    Args:
        source: of the encoder; of a decoder alone None.
        target: of the decoder; of an encoder alone None.
    """

    # Any: who packs knows which sides there are.
    source: Any
    target: Any

    def sides(self, crosses: bool, is_causal: bool) -> tuple[TokenRows, TokenRows]:
        """Return the rows of queries and of keys of an attention."""
        if crosses:
            return self.target, self.source
        side = self.target if is_causal else self.source
        return side, side


def has_kernels(device: torch.device) -> bool:
    """Return whether attention takes rows as they are there."""
    return device.type == "cuda"


def attend_rows(module, attention: Callable, sides: tuple[TokenRows, TokenRows], query, key, value) -> torch.Tensor:
    """Attend within each sequence of a packed batch, by a kernel for rows or in a padded batch.

    Args:
        module: the attention module, with `is_causal`, `scaling`, `attention_dropout`, `training`.
        attention: its implementation, for the padded batch.
        sides: the rows of queries and of keys.
        query, key, value: [1, H, N, ...].

    Returns:
        [1, N, H * U].
    """
    queries, keys = sides
    dropout = module.attention_dropout if module.training else 0.0
    query, key, value = (states.transpose(1, 2) for states in (query, key, value))  # [1, N, H, K]
    if has_kernels(query.device):
        limits = SequenceLimits(queries.limits, keys.limits, queries.width, keys.width)
        attended = varlen_attention(
            query[0], key[0], value[0], limits, is_causal=module.is_causal, scaling=module.scaling, dropout=dropout
        )
        return attended.flatten(1)[None]
    # [1, N, H, K] -> [B, H, W, K]
    query = queries.batched(query).transpose(1, 2)
    key, value = (keys.batched(states).transpose(1, 2) for states in (key, value))
    # Padding is behind the tokens, where causal attention does not look.
    mask = None if module.is_causal or keys.key_mask is None else keys.key_mask.expand(-1, 1, queries.width, -1)
    attended, _ = attention(module, query, key, value, mask, dropout=dropout, scaling=module.scaling)
    return queries.unbatched(attended.flatten(2))  # [B, W, H, U] -> [1, N, H * U]


def tokens_of(attention_mask: torch.Tensor | None, like: Any) -> torch.Tensor:
    """Return which positions of `like` [B, L, ...] are tokens by a mask [B, L]: all of them without one."""
    if attention_mask is None:
        return torch.ones(like.shape[:2], dtype=torch.bool, device=like.device)
    return attention_mask != 0


def up_to_last_label(labels: Any) -> torch.Tensor:
    """Return which positions [B, L] are followed by a label that counts, or have one: no loss needs the others."""
    return (labels != -100).flip(1).cummax(dim=1).values.flip(1)


def pack(
    source: torch.Tensor | None,
    target: torch.Tensor | None,
    labels: torch.Tensor | None = None,
    target_mask: torch.Tensor | None = None,
) -> Packing | None:
    """Return what is to be computed of a batch, or None where it must be computed as it is.

    Args:
        source: [B, S], which positions the encoder reads.
        target: [B, T], which positions the decoder computes.
        labels: [B, T], or [B, S] of an encoder alone; one that counts at a position that is not computed forbids to
            pack.
        target_mask: [B, T], the mask that a decoder was given.
    """
    refused = [side.any().logical_not() for side in (source, target) if side is not None]
    if source is not None and target is not None:
        # What attention makes of nothing to attend to differs between implementations.
        refused.append((target.any(dim=1) & ~source.any(dim=1)).any())
    if target_mask is not None and target is not None:
        if target_mask.shape != target.shape:
            return None
        target = target & (target_mask != 0)
    computed = source if target is None else target
    if labels is not None and computed is not None:
        refused.append(((labels != -100) & ~computed).any())
    if bool(torch.stack(refused).any()):
        return None
    return Packing(
        None if source is None else TokenRows.of_mask(source).prepared(),
        None if target is None else TokenRows.of_mask(target, may_be_whole=target_mask is None).prepared(),
    )


def _is_own(hook: Any) -> bool:
    module = getattr(hook, "__module__", None) or type(hook).__module__
    return module.startswith(_KNOWN_HOOKS)


def can_pack(model: nn.Module, *masks: torch.Tensor | None, **kwargs: Any) -> bool:
    """Return whether a forward pass of `model` may compute real tokens only.

    Not where somebody looks at states on the way (records, hooks), where a graph is made, or with masks of four
    dimensions, other implementations of attention or a recurrent decoder.

    Args:
        model: the stacks, with a `config`.
        *masks: attention masks that were given.
        **kwargs: what else was given; a value that is not None or False forbids to pack.
    """
    config: Any = model.config
    if not _enabled or any(value is not None and value is not False for value in kwargs.values()):
        return False
    if torch.compiler.is_compiling() or is_tracing() or any(mask is not None and mask.dim() != 2 for mask in masks):
        return False
    if config._attn_implementation not in IMPLEMENTATIONS or getattr(config, "decoder_cell", "attention") == "ssru":
        return False
    if any(getattr(config, f"output_{name}", False) for name in ("attentions", "hidden_states", "queries", "keys")):
        return False
    return all(
        _is_own(hook)
        for module in model.modules()
        for hooks in (module._forward_hooks, module._forward_pre_hooks)
        for hook in hooks.values()
    )


__all__ = ["Packing", "TokenRows", "attend_rows", "can_pack", "pack", "padding_free", "tokens_of", "up_to_last_label"]
