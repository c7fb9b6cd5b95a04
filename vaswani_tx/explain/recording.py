# Shapes: B batch (1 here), T rows (queries), S columns (keys), D model width, H heads, K d_k, U d_v.
"""Record what the attention of a model computes in one forward pass, without a forked model.

transformers lets every model choose its attention function by name. The function registered here computes eager
attention, section 3.2.1, equation 1, and keeps queries, keys, values, weights and each head's output, so it sees
exactly what any model of the library (MarianMT, BART, T5, GPT-2, BERT, ...) attends with.
"""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import eager_mask

from vaswani_tx.errors import ExplainError

NAME = "vaswani_tx_explain"
# What output projections are called: ours, BART and MarianMT, T5, GPT-2; BERT has it in a module beside the attention.
OUTPUT_PROJECTIONS = ("o_proj", "out_proj", "o", "c_proj")
CROSS_NAMES = ("cross", "encoder_attn", "EncDecAttention")


@dataclass
class Recorded:
    """What one attention module computed for one sequence."""

    name: str  # of the module in the model
    kind: str  # "encoder", "decoder" (masked self-attention) or "cross"
    layer: int
    scaling: float
    query: torch.Tensor  # [H, T, K]
    key: torch.Tensor  # [H, S, K]
    value: torch.Tensor  # [H, S, U]
    weights: torch.Tensor  # [H, T, S]
    masked: torch.Tensor | None  # [T, S], True where attending is not allowed
    outputs: torch.Tensor  # [H, T, U], weights times values
    written: torch.Tensor | None  # [H, T, D], outputs through the head's part of W_O; None where W_O is not found
    score_bias: bool  # whether something else than Q K^T enters the scores, such as T5's relative positions
    input: torch.Tensor | None  # [T, D], what the queries are made from; None where the module does not show it
    output: torch.Tensor | None  # [T, D], what the heads write together, with the bias of W_O; None as `written`


@dataclass
class _Call:
    module: nn.Module
    fields: dict[str, Any]


@dataclass
class _Recorder:
    calls: list[_Call] = field(default_factory=list)
    inputs: dict[nn.Module, torch.Tensor] = field(default_factory=dict)

    def keep_input(self, module: nn.Module, arguments: tuple, keywords: dict[str, Any]) -> None:
        hidden = arguments[0] if arguments else keywords.get("hidden_states")
        if isinstance(hidden, torch.Tensor):
            self.inputs[module] = hidden[0].detach().float()


_recorder: ContextVar[_Recorder | None] = ContextVar("recorder", default=None)


def _record_attention(
    module, query, key, value, attention_mask, scaling=None, dropout=0.0, position_bias=None, **kwargs
):
    groups = query.shape[1] // key.shape[1]
    if groups > 1:  # grouped-query attention: several heads read the same keys and values
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scaling = query.shape[-1] ** -0.5 if scaling is None else scaling
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling  # [B, H, T, S]
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    masked = None
    if position_bias is not None:
        scores = scores + position_bias[..., : scores.shape[-1]]
    if attention_mask is not None:
        mask = attention_mask[..., : scores.shape[-1]]
        if mask.dtype == torch.bool:
            masked, scores = ~mask, scores.masked_fill(~mask, torch.finfo(scores.dtype).min)
        else:
            masked, scores = mask < torch.finfo(mask.dtype).min / 2, scores + mask
    weights = nn.functional.softmax(scores, dim=-1).to(query.dtype)
    outputs = torch.matmul(weights, value)  # [B, H, T, U]
    recorder = _recorder.get()
    if recorder is not None:
        fields = {"query": query, "key": key, "value": value, "weights": weights, "outputs": outputs}
        fields = {name: tensor[0].detach().float() for name, tensor in fields.items()}
        fields["masked"] = None if masked is None else masked[0, 0].expand(scores.shape[-2:])
        fields |= {"scaling": float(scaling), "score_bias": position_bias is not None}
        recorder.calls.append(_Call(module, {**fields, "input": recorder.inputs.get(module)}))
    return outputs.transpose(1, 2).contiguous(), weights


AttentionInterface.register(NAME, _record_attention)
AttentionMaskInterface.register(NAME, eager_mask)


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Switch dropout off in `model`, and give each module its own mode back at the end."""
    modes = {module: module.training for module in model.modules()}
    try:
        model.eval()
        yield
    finally:
        for module, training in modes.items():
            module.training = training


@contextmanager
def readable(model: Any, length: int) -> Iterator[None]:
    """Raise ExplainError where `model` refuses its settings, or a text longer than its table of positions."""
    try:
        yield
    except ExplainError:
        raise
    except (ValueError, IndexError, RuntimeError) as error:
        limit = getattr(model.config, "max_position_embeddings", None)
        if isinstance(limit, int) and length > limit:
            raise ExplainError(
                f"The text has {length:,} tokens, and {type(model).__name__} has {limit:,} positions: shorten it."
            ) from error
        if not isinstance(error, ValueError):
            raise
        raise ExplainError(f"{type(model).__name__} cannot run: {' '.join(str(error).split())}") from error


@contextmanager
def recorded_attention(model: Any) -> Iterator[list[_Call]]:
    """Let `model` compute its attention here, and collect the calls; its own implementation is restored at the end.

    Raises:
        ExplainError: the model does not let its attention function be chosen.
    """
    before = model.config._attn_implementation
    if not model._can_set_attn_implementation():
        raise ExplainError(
            f"{type(model).__name__} has an attention of its own that cannot be read: a model whose attention goes "
            "through transformers' AttentionInterface is needed (ours, MarianMT, BART, T5, GPT-2, BERT and most)."
        )
    recorder = _Recorder()
    token = _recorder.set(recorder)
    hooks = [
        module.register_forward_pre_hook(recorder.keep_input, with_kwargs=True)
        for module in model.modules()
        if hasattr(module, "q_proj")
    ]
    try:
        model.set_attn_implementation(NAME)
        with evaluating(model):
            yield recorder.calls
    finally:
        for hook in hooks:
            hook.remove()
        _recorder.reset(token)
        model.set_attn_implementation(before)


def attention_of(model: nn.Module, calls: list[_Call]) -> list[Recorded]:
    """Name the recorded calls by their place in the model, in the order of the pass."""
    names = {module: name for name, module in model.named_modules()}
    parents = dict(model.named_modules())
    has_both = bool(getattr(model.config, "is_encoder_decoder", False))
    counts: dict[str, int] = {}
    found = []
    for call in calls:
        name = names[call.module]
        kind = _kind(name, call, has_both)
        layer = counts.get(kind, 0)
        counts[kind] = layer + 1
        projection = _output_projection(call.module, parents.get(name.rpartition(".")[0]))
        written = None if projection is None else _written(call.fields["outputs"], projection)
        output = None if written is None else written.sum(0)
        if output is not None and isinstance(bias := getattr(projection, "bias", None), torch.Tensor):
            output = output + bias.detach().float()
        found.append(Recorded(name=name, kind=kind, layer=layer, written=written, output=output, **call.fields))
    return found


def _kind(name: str, call: _Call, has_both: bool) -> str:
    path = name.split(".")
    if any(word in part for part in path for word in CROSS_NAMES):
        return "cross"
    if has_both:
        return "decoder" if "decoder" in path else "encoder"
    masked, length = call.fields["masked"], call.fields["query"].shape[1]
    later = torch.ones(length, length, dtype=torch.bool).triu(1)
    causal = (
        bool(masked[later].all()) if masked is not None and length > 1 else getattr(call.module, "is_causal", False)
    )
    return "decoder" if causal else "encoder"


def _output_projection(module: nn.Module, parent: nn.Module | None) -> nn.Module | None:
    for name in OUTPUT_PROJECTIONS:
        if isinstance(found := getattr(module, name, None), nn.Module):
            return found
    dense = getattr(getattr(parent, "output", None), "dense", None)
    return dense if isinstance(dense, nn.Module) else None


def _written(outputs: torch.Tensor, projection: nn.Module) -> torch.Tensor | None:
    """Put each head's output through its own part of W_O: [H, T, U] -> [H, T, D]; the bias belongs to no head."""
    weight = getattr(projection, "weight", None)
    if not isinstance(weight, torch.Tensor):
        return None
    heads, _, width = outputs.shape
    weight = weight.detach().float()
    if not hasattr(projection, "in_features"):  # GPT-2's Conv1D keeps [in, out]
        weight = weight.T
    if weight.shape[1] != heads * width:
        return None
    return torch.einsum("htu,dhu->htd", outputs, weight.view(-1, heads, width))


@dataclass
class Stage:
    """Mean length of the vectors at one place of one layer: what a sub-layer gets, adds and leaves."""

    stack: str  # "encoder" or "decoder"
    layer: int
    sublayer: str  # "self_attn", "cross_attn" or "feed_forward"
    shape: list[int]
    before: float  # the residual stream, x
    written: float  # Sublayer(x)
    after: float  # what the residual connection and the norm leave


class _LayerWatch:
    """Hooks on one of our layers: where its norm is decides where the residual stream can be read."""

    def __init__(self, name: str, layer: Any, stages: list[Stage]):
        self.layer, self.stages = layer, stages
        self.stack = "decoder" if layer.self_attn.is_causal else "encoder"
        self.index = int(name.rpartition(".")[2])
        self.before: torch.Tensor | None = None
        self.written: torch.Tensor | None = None
        self.sublayer: str | None = None  # one whose result is not known yet

    def attach(self, stack: ExitStack) -> None:
        for sublayer in ("self_attn", "cross_attn", "feed_forward"):
            if hasattr(self.layer, sublayer):
                module, norm = getattr(self.layer, sublayer), getattr(self.layer, f"{sublayer}_residual").norm
                stack.callback(module.register_forward_hook(partial(self._at_sublayer, sublayer)).remove)
                stack.callback(norm.register_forward_hook(self._at_norm).remove)
        stack.callback(self.layer.register_forward_hook(self._at_end).remove)

    def _at_sublayer(self, sublayer: str, module: nn.Module, inputs: Any, output: Any) -> None:
        self.written = output[0] if isinstance(output, tuple) else output
        self.sublayer = sublayer

    def _at_norm(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        if self.layer.pre_norm:  # x + Sublayer(LayerNorm(x)): the norm reads what the sub-layer before left
            self._finish(inputs[0])
            self.before = inputs[0]
        elif self.written is not None:  # LayerNorm(x + Sublayer(x))
            self.before = inputs[0] - self.written
            self._finish(output)

    def _at_end(self, module: nn.Module, inputs: Any, output: torch.Tensor) -> None:
        self._finish(output)

    def _finish(self, after: torch.Tensor) -> None:
        if self.sublayer is None or self.before is None or self.written is None:
            return
        norms = [float(tensor.detach()[0].float().norm(dim=-1).mean()) for tensor in (self.before, self.written, after)]
        self.stages.append(Stage(self.stack, self.index, self.sublayer, list(self.written.shape[1:]), *norms))
        self.sublayer = None


@contextmanager
def recorded_sublayers(model: nn.Module) -> Iterator[list[Stage]]:
    """Collect what each sub-layer of our own layers gets and writes; of another model, nothing."""
    stages: list[Stage] = []
    with ExitStack() as stack:
        for name, module in model.named_modules():
            if hasattr(module, "self_attn_residual") and hasattr(module, "feed_forward_residual"):
                _LayerWatch(name, module, stages).attach(stack)
        yield stages
