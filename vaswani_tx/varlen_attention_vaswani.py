"""Attention over rows without padding: each sequence of a batch attends to its own keys, none of it to padding.

A batch of B sequences is given as its N real rows in order, [N, H, K], with the B + 1 numbers at which sequences begin
and end (`SequenceLimits`). GPUs have kernels for just that, of which `choose_method` takes the first that works here:

    flash_attention_3   the library of that name, through transformers; half types, no dropout
    torch_varlen        torch.nn.attention.varlen; half types, no dropout
    flash_attention_2   the library, through transformers; half types, with dropout
    nested              torch's nested tensors: flash kernels for half types, memory-efficient ones for float32
    flex                flex attention with a block mask of sequences; no dropout
    padded              rows are put into a padded batch for the attention only: any device and type

Before a kernel is used for the first time in a process, its output and gradients are compared with `padded` on a few
rows, and one that fails or differs is left out, with one line in the log.

Shapes: B sequences, N rows of queries, M rows of keys, T and S longest query and key sequence, H heads, K d_k, U d_v.
"""

import functools
import importlib.util
import inspect
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import Any

import torch
from torch import nn
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils import is_flash_attn_2_available, is_flash_attn_3_available

logger = logging.getLogger(__name__)

HALF_TYPES = (torch.bfloat16, torch.float16)
BLOCK = 128  # rows of one side of flex attention's blocks
LARGEST_FLASH_HEAD = 256
# Rows of the sequences that a kernel is tried on, queries and keys.
TRIED_LENGTHS = ((5, 1, 33), (7, 40, 3))
TOLERANCE = {torch.float32: 1e-3, torch.bfloat16: 5e-2, torch.float16: 1e-2}


@dataclass(frozen=True)
class SequenceLimits:
    """The rows at which the sequences of a batch begin and end.

    Args:
        query: [B + 1] int32, sequence b has the rows from `query[b]` to before `query[b + 1]`.
        key: the same of the keys; in self-attention the same tensor.
        longest_query: T, at least the longest sequence's rows. A padded batch's width serves, and unlike the longest
            length it need not be fetched from the device.
        longest_key: S.
    """

    query: torch.Tensor
    key: torch.Tensor
    longest_query: int
    longest_key: int
    _masks: dict[bool, Any] = field(default_factory=dict, repr=False, compare=False)

    @classmethod
    def of_lengths(
        cls, query: torch.Tensor, key: torch.Tensor, longest_query: int, longest_key: int
    ) -> "SequenceLimits":
        """Return the limits of sequences of so many rows, [B] each; pass one tensor twice for self-attention."""
        begins = nn.functional.pad(query.cumsum(0), (1, 0)).to(torch.int32)
        ends = begins if key is query else nn.functional.pad(key.cumsum(0), (1, 0)).to(torch.int32)
        return cls(begins, ends, longest_query, longest_key)


def varlen_attention(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    limits: SequenceLimits,
    *,
    is_causal: bool = False,
    scaling: float | None = None,
    dropout: float = 0.0,
    method: str | None = None,
) -> torch.Tensor:
    """Attend within each sequence: equation 1 of section 3.2.1 for each of them, without a row of padding.

    Args:
        query: [N, H, K].
        key: [M, H, K].
        value: [M, H, U].
        limits: where sequences begin and end.
        is_causal: whether a row sees only itself and earlier rows of its sequence, whose queries and keys are the same.
        scaling: factor on the scores; None: 1 / sqrt(K).
        dropout: rate on the attention weights.
        method: the kernel by its name; None: the best that works here.

    Returns:
        [N, H, U]; zeros where a sequence has no keys.

    Raises:
        ValueError: there is no such method.
    """
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    key, value = key.to(query.dtype), value.to(query.dtype)
    if method is None:
        # In a dynamic graph a rate may be a symbol; a branch on it is not.
        has_dropout = True if dropout > 0 else False  # noqa: SIM210
        method = choose_method(
            f"{query.device.type}:{query.device.index or 0}", query.dtype, query.shape[-1], value.shape[-1], is_causal,
            has_dropout, torch.compiler.is_compiling(),
        )  # fmt: skip
    if method not in METHODS:
        raise ValueError(f"There is no attention method '{method}': choose one of {', '.join(METHODS)}.")
    return METHODS[method](query, key, value, limits, is_causal, scaling, dropout)


# The kernels. Arguments of each: query, key, value, limits, is_causal, scaling, dropout.


def _sequences(limits: torch.Tensor, rows: int) -> torch.Tensor:
    """Return the number of each row's sequence, [rows]."""
    numbers = torch.arange(limits.shape[0] - 1, device=limits.device)
    # The given size spares waiting for the device to tell it.
    return torch.repeat_interleave(numbers, limits.diff().long(), output_size=rows)


def _padded(query, key, value, limits, is_causal, scaling, dropout) -> torch.Tensor:
    batch, width, key_width = limits.query.shape[0] - 1, limits.longest_query, limits.longest_key

    def cells(bounds: torch.Tensor, rows: int, longest: int) -> torch.Tensor:
        """Return where each row is in a padded batch, [rows]."""
        numbers = _sequences(bounds, rows)
        return torch.arange(rows, device=bounds.device) - bounds[numbers] + numbers * longest

    def padded(rows: torch.Tensor, where: torch.Tensor, longest: int) -> torch.Tensor:
        """Put rows [N, H, K] into a batch, zeros elsewhere: [B, H, T, K]."""
        empty = rows.new_zeros((batch * longest, *rows.shape[1:]))
        return empty.index_copy(0, where, rows).view(batch, longest, *rows.shape[1:]).transpose(1, 2)

    query_cells = cells(limits.query, query.shape[0], width)
    key_cells = query_cells
    if limits.key is not limits.query:
        key_cells = cells(limits.key, key.shape[0], key_width)
    columns = torch.arange(key_width, device=query.device)
    mask = columns < limits.key.diff()[:, None].clamp(min=1)  # [B, S]; without a key, the zeros of the first cell
    mask = mask[:, None, None, :]
    if is_causal:
        mask = mask & (columns <= torch.arange(width, device=query.device)[:, None])  # [B, 1, T, S]
    output = nn.functional.scaled_dot_product_attention(
        padded(query, query_cells, width), padded(key, key_cells, key_width), padded(value, key_cells, key_width),
        attn_mask=mask, dropout_p=dropout, scale=scaling,
    )  # fmt: skip
    return output.transpose(1, 2).flatten(0, 1).index_select(0, query_cells)  # [B, H, T, U] -> [N, H, U]


def _of_equal_width(query, key, value) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """Widen heads with zeros, which change nothing, to one width that flash kernels take; return it and d_v."""
    value_dim = value.shape[-1]
    width = -(-max(query.shape[-1], value_dim) // 8) * 8
    query, key, value = (nn.functional.pad(x, (0, width - x.shape[-1])) for x in (query, key, value))
    return query.contiguous(), key.contiguous(), value.contiguous(), value_dim


def _torch_varlen(query, key, value, limits, is_causal, scaling, dropout) -> torch.Tensor:
    query, key, value, value_dim = _of_equal_width(query, key, value)
    sides = limits.query, limits.key, limits.longest_query, limits.longest_key
    function: Any = _varlen_function()
    # torch 2.10 had `is_causal` in place of a window, and no `scale`.
    output = function(query, key, value, *sides, window_size=(-1, 0 if is_causal else -1), scale=scaling)
    return output[..., :value_dim]


def _flash_library(name: str, query, key, value, limits, is_causal, scaling, dropout) -> torch.Tensor:
    query, key, value, value_dim = _of_equal_width(query, key, value)
    # Of the module, transformers reads what follows.
    module = SimpleNamespace(config=SimpleNamespace(_attn_implementation=name), is_causal=is_causal)
    # [N, H, K] -> [1, H, N, K]
    heads_first = (x.transpose(0, 1)[None] for x in (query, key, value))
    output, _ = ALL_ATTENTION_FUNCTIONS[name](
        module, *heads_first, None, dropout=dropout, scaling=scaling, is_causal=is_causal,
        cu_seq_lens_q=limits.query, cu_seq_lens_k=limits.key,
        max_length_q=limits.longest_query, max_length_k=limits.longest_key,
    )  # fmt: skip
    return output[0, ..., :value_dim]  # [1, N, H, K] -> [N, H, U]


def _nested(query, key, value, limits, is_causal, scaling, dropout) -> torch.Tensor:
    offsets = limits.query.long()
    key_offsets = offsets if limits.key is limits.query else limits.key.long()

    def nested(rows: torch.Tensor, bounds: torch.Tensor, longest: int) -> torch.Tensor:
        # Lengths that are not given would be fetched from the device.
        made = torch.nested.nested_tensor_from_jagged(rows, bounds, min_seqlen=1, max_seqlen=longest)
        return made.transpose(1, 2)  # [B, rows, H, K] -> [B, H, rows, K]

    output = nn.functional.scaled_dot_product_attention(
        nested(query, offsets, limits.longest_query), nested(key, key_offsets, limits.longest_key),
        nested(value, key_offsets, limits.longest_key), is_causal=is_causal, dropout_p=dropout, scale=scaling,
    )  # fmt: skip
    return output.transpose(1, 2).values()


def _flex(query, key, value, limits, is_causal, scaling, dropout) -> torch.Tensor:
    from torch.nn.attention.flex_attention import flex_attention  # brings torch's compiler: not at every start

    function: Callable = flex_attention
    if torch.compiler.is_compiling():
        mask = sequence_blocks(limits, query.shape[0], key.shape[0], is_causal)
    else:
        if query.device.type != "cpu":
            function = _compiled_flex()
        if is_causal not in limits._masks:  # the same in all layers
            limits._masks[is_causal] = sequence_blocks(limits, query.shape[0], key.shape[0], is_causal)
        mask = limits._masks[is_causal]
    heads_first = (x.transpose(0, 1)[None] for x in (query, key, value))  # [N, H, K] -> [1, H, N, K]
    return function(*heads_first, block_mask=mask, scale=scaling)[0].transpose(0, 1)


def sequence_blocks(limits: SequenceLimits, rows: int, key_rows: int, is_causal: bool) -> Any:
    """Return flex attention's mask of which blocks of rows hold keys of which blocks' sequences.

    It is computed from the limits, B numbers, and not from all N * M pairs of rows.
    """
    from torch.nn.attention.flex_attention import BlockMask

    device, largest = limits.query.device, -(-key_rows // BLOCK)
    sequences, key_sequences = _sequences(limits.query, rows), _sequences(limits.key, key_rows)
    first = torch.arange(0, rows, BLOCK, device=device)  # [blocks of queries]
    last = (first + BLOCK - 1).clamp(max=rows - 1)
    lowest = limits.key[sequences[first]] // BLOCK
    highest = -(-limits.key[sequences[last] + 1] // BLOCK)
    if is_causal:  # queries and keys are the same rows
        highest = torch.minimum(highest, first // BLOCK + 1)
    count = (highest - lowest).clamp(min=0).to(torch.int32)
    blocks = lowest[:, None] + torch.arange(largest, device=device)  # [blocks of queries, blocks of keys]
    blocks = blocks.clamp(max=largest - 1).to(torch.int32)

    def sees(batch, head, row, key_row):
        same = sequences[row] == key_sequences[key_row]
        return same & (row >= key_row) if is_causal else same

    return BlockMask.from_kv_blocks(
        count[None, None], blocks[None, None], BLOCK_SIZE=BLOCK, mask_mod=sees, seq_lengths=(rows, key_rows)
    )


@functools.cache
def _compiled_flex() -> Callable:
    from torch.nn.attention.flex_attention import flex_attention

    return torch.compile(flex_attention, dynamic=True)


@functools.cache
def _varlen_function() -> Callable | None:
    """Return torch's own attention over rows, None before torch 2.11 or in a build without it."""
    if importlib.util.find_spec("torch.nn.attention.varlen") is None:
        return None
    from torch.nn.attention.varlen import varlen_attn

    return varlen_attn if {"window_size", "scale"} <= set(inspect.signature(varlen_attn).parameters) else None


METHODS: dict[str, Callable[..., torch.Tensor]] = {
    "flash_attention_3": functools.partial(_flash_library, "flash_attention_3"),
    "torch_varlen": _torch_varlen,
    "flash_attention_2": functools.partial(_flash_library, "flash_attention_2"),
    "nested": _nested,
    "flex": _flex,
    "padded": _padded,
}


# The choice


def why_not(
    method: str,
    device: str,
    dtype: torch.dtype,
    head_dim: int,
    value_dim: int,
    has_dropout: bool = False,
    is_compiling: bool = False,
) -> str | None:
    """Return why a method cannot be used here, in a few words, None where nothing speaks against it."""
    if method == "padded":
        return None
    if torch.device(device).type != "cuda":
        return "no CUDA device"
    if method == "nested":
        return "not inside of a compiled graph" if is_compiling else None
    if has_dropout and method != "flash_attention_2":
        return "no dropout of attention weights"
    if method == "flex":
        return "heads narrower than 16" if min(head_dim, value_dim) < 16 else None
    if dtype not in HALF_TYPES:
        return f"{str(dtype).removeprefix('torch.')}, and it takes bfloat16 and float16"
    if max(head_dim, value_dim) > LARGEST_FLASH_HEAD:
        return f"heads wider than {LARGEST_FLASH_HEAD}"
    capability = torch.cuda.get_device_capability(device)
    if method == "torch_varlen":
        return "not in this torch" if _varlen_function() is None else _too_old(capability, 8)
    if method == "flash_attention_3":
        return _too_old(capability, 9) if is_flash_attn_3_available() else "not installed"
    return _too_old(capability, 8) if is_flash_attn_2_available() else "not installed"


def _too_old(capability: tuple[int, int], least: int) -> str | None:
    return f"compute capability {capability[0]}.{capability[1]} below {least}.0" if capability[0] < least else None


def choose_method(
    device: str,
    dtype: torch.dtype,
    head_dim: int,
    value_dim: int,
    is_causal: bool = False,
    has_dropout: bool = False,
    is_compiling: bool = False,
) -> str:
    """Return the name of the fastest method that works for such tensors on this device.

    Args:
        device: such as "cuda:0".
        dtype: of the tensors.
        head_dim: K.
        value_dim: U.
        is_causal: whether rows see only earlier ones.
        has_dropout: whether attention weights are dropped.
        is_compiling: whether this is inside of a graph of torch.compile.
    """
    return _chosen(device, dtype, head_dim, value_dim, is_causal, has_dropout, is_compiling)


# What torch.compiler.assume_constant_result does, which would import the compiler at every start. Without it, a graph
# ends before the choice and another begins after it.
choose_method._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _choose(
    device: str,
    dtype: torch.dtype,
    head_dim: int,
    value_dim: int,
    is_causal: bool = False,
    has_dropout: bool = False,
    is_compiling: bool = False,
) -> str:
    for method in METHODS:
        if why_not(method, device, dtype, head_dim, value_dim, has_dropout, is_compiling):
            continue
        # Within a graph nothing else can be compiled.
        reason = None if method == "flex" and is_compiling else _failure(method, device, dtype, head_dim, value_dim,
                                                                        is_causal)  # fmt: skip
        if reason is None:
            return method
        logger.warning("Attention by %s is not used on %s in %s: %s", method, device, dtype, reason)
    raise AssertionError("'padded' is always possible")


_chosen = functools.cache(_choose)


def _failure(
    method: str, device: str, dtype: torch.dtype, head_dim: int, value_dim: int, is_causal: bool
) -> str | None:
    """Run a method forward and backward on a few rows; return what is wrong in one line, None if nothing is."""
    if method == "padded":
        return None
    lengths = [torch.tensor(rows, device=device) for rows in TRIED_LENGTHS]
    if is_causal:
        lengths[1] = lengths[0]
    longest = [int(side.max()) for side in lengths]
    limits = SequenceLimits.of_lengths(lengths[0], lengths[1], longest[0], longest[1])
    rows = [int(side.sum()) for side in lengths]
    sizes = ((rows[0], head_dim), (rows[1], head_dim), (rows[1], value_dim))
    results = []
    try:
        with torch.inference_mode(False), torch.enable_grad(), torch.autocast(torch.device(device).type, enabled=False):
            for name, kind in ((method, dtype), ("padded", torch.float32)):
                # Waves and no random numbers: the state of the generator is the training's.
                inputs = []
                for number, (count, width) in enumerate(sizes):
                    angles = torch.arange(count * 2 * width, device=device, dtype=torch.float32) * (0.7 + number)
                    inputs.append(angles.sin().view(count, 2, width).to(dtype).to(kind).requires_grad_())
                output = METHODS[name](*inputs, limits, is_causal, head_dim**-0.5, 0.0)
                gradients = torch.autograd.grad(output, inputs, output.detach())
                results.append([x.detach().float() for x in (output, *gradients)])
    except Exception as error:  # whatever a kernel, its library or the compiler raises: another method is used
        return " ".join(f"{type(error).__name__}: {error}".split())[:200]
    for name, ours, theirs in zip(("output", "dq", "dk", "dv"), *results, strict=True):
        distance = float((ours - theirs).norm() / theirs.norm())
        if not distance < TOLERANCE.get(dtype, 1e-3):  # also where it is no number
            return f"{name} is {distance:.1e} from the padded one's"
    return None


__all__ = ["SequenceLimits", "choose_method", "varlen_attention", "why_not"]
