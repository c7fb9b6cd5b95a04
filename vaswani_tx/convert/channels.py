"""Exact permutation of the residual stream's channels: a source with other orders of sines and cosines becomes ours.

Our sinusoids are interleaved, sine and cosine by turns (section 3.5). Many toolkits put all sines first. Every weight
that reads or writes the residual stream is permuted along that dimension, so the model computes the same numbers in
another order: nothing is rounded.
"""

from collections.abc import Mapping

import torch

from vaswani_tx.convert.core import ConversionError

# The dimension of a weight of ours that is the residual stream, by the end of its name; None: it has none.
_STREAM: tuple[tuple[str, int | None], ...] = (
    ("embed_tokens.weight", 1),
    ("shared.weight", 1),
    ("lm_head.weight", 1),
    ("lm_head.bias", None),
    ("classifier.weight", 1),
    ("classifier.bias", None),
    ("qa_outputs.weight", 1),
    ("qa_outputs.bias", None),
    ("positions.weight", 1),
    ("q_proj.weight", 1),
    ("k_proj.weight", 1),
    ("v_proj.weight", 1),
    ("q_proj.bias", None),
    ("k_proj.bias", None),
    ("v_proj.bias", None),
    ("o_proj.weight", 0),
    ("o_proj.bias", 0),
    ("fc1.weight", 1),
    ("fc1.bias", None),
    ("fc2.weight", 0),
    ("fc2.bias", 0),
    ("norm.weight", 0),
    ("norm.bias", 0),
)


def interleaving(d_model: int) -> torch.Tensor:
    """Return the permutation that interleaves [all sines | all cosines]: ours[i] = theirs[p[i]].

    Raises:
        ConversionError: an odd number of channels, whose last sine has no cosine.
    """
    if d_model % 2:
        raise ConversionError(
            f"d_model={d_model} is odd, and sinusoids of an odd number of channels cannot be written in this model."
        )
    return torch.arange(d_model).view(2, d_model // 2).t().flatten()


def permute_channels(
    state: Mapping[str, torch.Tensor], order: torch.Tensor, further: Mapping[str, tuple[int, ...]] | None = None
) -> dict[str, torch.Tensor]:
    """Return weights of ours with the channels of the residual stream in another order.

    Args:
        state: name -> weight, the names of our state dict.
        order: [D], the former channel of each.
        further: end of a name -> dimensions that are the residual stream, of weights that this table does not know.

    Raises:
        ConversionError: a weight whose dimensions are not known here.
    """
    table = {end: () if dim is None else (dim,) for end, dim in _STREAM} | dict(further or {})
    permuted = {}
    for name, tensor in state.items():
        found = [end for end in table if name == end or name.endswith(("." + end, "_" + end))]
        if not found:
            raise ConversionError(f"the channels of {name!r} cannot be put into another order: its layout is unknown.")
        for dim in table[max(found, key=len)]:
            tensor = tensor.index_select(dim, order)
        permuted[name] = tensor
    return permuted


__all__ = ["interleaving", "permute_channels"]
