"""Label-smoothed cross entropy (section 5.4), of given logits and without ever building all of them.

Beside it the losses of classifiers, all with an exact divisor over a window of batches.

Shapes: N target positions (batch times length), D d_model, V vocabulary.
"""

from numbers import Real
from typing import Any

import torch
from torch import nn

IGNORE_INDEX = -100
# Logits that exist at one time, 64 MiB in float32: enough rows for efficient matrix products. With narrow models more
# rows than their width, or than CHUNK_ROWS, only leave the processor's cache.
CHUNK_ELEMENTS = 1 << 24
CHUNK_ROWS = 128
# Probabilities below it are not to be trusted to the last digit: float32 is denormal from 1e-38 on.
SMALLEST_LIKELIHOOD = 1e-30


def uniform_over_others(epsilon: float, vocab_size: int) -> float:
    """Return the smoothing that makes this module's loss equal tensor2tensor's and fairseq's with `epsilon`.

    The paper cites Szegedy et al., who spread `epsilon` over all V entries; those two
    spread it over the V - 1 wrong ones.
    """
    return epsilon * vocab_size / (vocab_size - 1)


def _checked_smoothing(label_smoothing: Any) -> float:
    """Return `label_smoothing`; raise ValueError where it is not a number from 0 to 1."""
    is_number = isinstance(label_smoothing, (Real, torch.Tensor)) and not isinstance(label_smoothing, bool)
    if not is_number or not 0 <= label_smoothing <= 1:
        raise ValueError(
            "label_smoothing must be a number from 0 (none) to 1, the probability that is spread over the vocabulary, "
            f"not {label_smoothing!r}; the paper's is 0.1."
        )
    return float(label_smoothing)


def _normalizer(labels: torch.Tensor, num_items_in_batch, ignore_index: int = -100):
    if num_items_in_batch is None:
        return (labels != ignore_index).sum().clamp(min=1)
    if torch.is_tensor(num_items_in_batch):
        return num_items_in_batch.to(labels.device)
    return num_items_in_batch


def smoothed_cross_entropy(
    logits: torch.Tensor,
    labels: torch.Tensor,
    vocab_size: int | None = None,
    num_items_in_batch: torch.Tensor | int | None = None,
    ignore_index: int = IGNORE_INDEX,
    label_smoothing: float = 0.0,
    **kwargs,
) -> torch.Tensor:
    """Compute cross entropy against `(1 - e) * onehot + e / V` (section 5.4; Szegedy et al. 2016), labels unshifted.

    Args:
        logits: [..., V].
        labels: [...], `ignore_index` where nothing is to be predicted.
        vocab_size: V, where `logits` has been flattened; None: its last dimension.
        num_items_in_batch: divisor of the sum, as the Trainer gives it; None: the number of labels that count.
        label_smoothing: e.

    Returns:
        the loss, a scalar in float32 (float64 for float64 logits).

    Raises:
        ValueError: `label_smoothing` is not a number from 0 to 1.
    """
    label_smoothing = _checked_smoothing(label_smoothing)
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    labels = labels.to(logits.device)
    total = nn.functional.cross_entropy(
        logits.reshape(-1, vocab_size or logits.shape[-1]),
        labels.reshape(-1),
        ignore_index=ignore_index,
        reduction="sum",
        label_smoothing=label_smoothing,
    )
    return total / _normalizer(labels, num_items_in_batch, ignore_index)


class _ChunkedCrossEntropy(torch.autograd.Function):
    """The smoothed cross entropy of `hidden @ weight.T + bias` times `scale`, gradients formed in the forward pass.

    A chunk of logits is written once, turned into probabilities in place and read by the two products of its gradient.
    The smoothing needs the sum of a row's logits, which is the row times the sum of the weight's rows.
    """

    @staticmethod
    def forward(ctx, hidden, weight, bias, labels, epsilon, scale, dtype):
        wants_hidden, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        vocabulary, depth = weight.shape
        rows = min(max(1, CHUNK_ELEMENTS // vocabulary), max(CHUNK_ROWS, depth), max(1, hidden.shape[0]))
        wide = torch.promote_types(weight.dtype, torch.float32)
        uniform = epsilon / vocabulary
        cast, cast_bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        weight_sum = cast.sum(dim=0, dtype=wide)  # [D]
        bias_sum = 0.0 if bias is None else cast_bias.sum(dtype=wide)
        total = hidden.new_zeros((), dtype=wide)
        grad_hidden = torch.empty_like(hidden) if wants_hidden else None
        grad_weight = grad_bias = None
        if wants_weight:  # begins with what the uniform part of the target gives to each row
            start = hidden.sum(dim=0, dtype=wide) * (-uniform * scale)
            grad_weight = start.expand(vocabulary, depth).contiguous()
        if wants_bias:
            grad_bias = torch.full_like(bias, hidden.shape[0] * -uniform, dtype=wide) * scale
        buffer = hidden.new_empty((rows, vocabulary), dtype=dtype)
        probabilities = buffer if dtype == wide else hidden.new_empty((rows, vocabulary), dtype=wide)
        for begin in range(0, hidden.shape[0], rows):
            chunk, target = hidden[begin : begin + rows].to(dtype), labels[begin : begin + rows, None]
            logits = buffer[: chunk.shape[0]]
            probs = logits if dtype == wide else probabilities[: chunk.shape[0]]
            _logits(chunk, cast, cast_bias, out=logits)
            chosen = logits.gather(1, target).to(wide)
            torch.softmax(logits if probs is logits else probs.copy_(logits), dim=1, out=probs)
            nll = _negative_log_likelihood(probs, chosen, target, chunk, cast, cast_bias)
            if epsilon:
                mean = ((chunk.to(wide) @ weight_sum) + bias_sum) / vocabulary  # of a row's logits
                total += ((1 - epsilon) * nll + epsilon * (nll + chosen - mean[:, None])).sum()
            else:
                total += nll.sum()
            # d loss / d logits = softmax - (1 - e) * onehot - e / V, of which the last term is added elsewhere
            probs.scatter_add_(1, target, probs.new_full(target.shape, epsilon - 1))
            if wants_bias:
                grad_bias += probs.sum(dim=0) * scale
            if probs is not logits and (wants_hidden or wants_weight):
                logits.copy_(probs)
            if wants_hidden:
                found = (logits @ cast).to(wide).sub_(weight_sum * uniform)
                grad_hidden[begin : begin + rows] = found.mul_(scale)
            if wants_weight and dtype == wide:
                grad_weight.addmm_(logits.T, chunk * scale)
            elif wants_weight:
                grad_weight.add_((logits.T @ chunk).to(wide).mul_(scale))
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.types = [None if x is None else x.dtype for x in (hidden, weight, bias)]
        return total * scale

    @staticmethod
    def backward(ctx, grad_output):
        gradients = ctx.saved_tensors
        # The gradient of a loss that is minimised as it is: reading it spares a pass over every matrix. An
        # accelerator would have to be waited for.
        if grad_output.device.type != "cpu" or grad_output.item() != 1.0:
            gradients = [None if x is None else x * grad_output.to(x.dtype) for x in gradients]
        gradients = [None if x is None else x.to(dtype) for x, dtype in zip(gradients, ctx.types, strict=True)]
        return *gradients, None, None, None, None


def _logits(rows: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, out: torch.Tensor) -> torch.Tensor:
    return torch.mm(rows, weight.T, out=out) if bias is None else torch.addmm(bias, rows, weight.T, out=out)


def _negative_log_likelihood(probs, chosen, target, rows, weight, bias) -> torch.Tensor:
    """Return `-log softmax` at `target` from probabilities [n, V] and the logits `chosen`; all but the first [n, 1]."""
    likelihood = probs.gather(1, target)
    if probs.device.type == "cpu" and bool(likelihood.amin() > SMALLEST_LIKELIHOOD):
        return likelihood.log_().neg_()
    # The likeliest token's probability is at least 1 / V, so its logarithm is exact where that of the target's is not.
    best = probs.argmax(dim=1)
    logit = (rows.to(probs.dtype) * weight.index_select(0, best)).sum(dim=1, keepdim=True)
    if bias is not None:
        logit += bias.index_select(0, best)[:, None]
    logit = logit.to(rows.dtype).to(probs.dtype)
    return logit - probs.gather(1, best[:, None]).log() - chosen


def linear_smoothed_cross_entropy(
    hidden_states: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    labels: torch.Tensor,
    num_items_in_batch: torch.Tensor | int | None = None,
    ignore_index: int = IGNORE_INDEX,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Compute `smoothed_cross_entropy` of a linear layer's output by chunks of positions, never forming all logits.

    Positions with `ignore_index` are dropped before the product, so padding costs nothing.

    Args:
        hidden_states: [..., D].
        weight: [V, D].
        bias: [V] or None.
        labels: [...].
        num_items_in_batch, ignore_index, label_smoothing: as for `smoothed_cross_entropy`.

    Returns:
        the loss, a scalar in float32 (float64 for a float64 weight).

    Raises:
        ValueError: `label_smoothing` is not a number from 0 to 1.
    """
    label_smoothing = _checked_smoothing(label_smoothing)
    labels = labels.to(hidden_states.device).reshape(-1)
    hidden = hidden_states.reshape(-1, hidden_states.shape[-1])
    keep = (labels != ignore_index).nonzero().squeeze(1)
    divisor = _normalizer(labels, num_items_in_batch, ignore_index)
    if keep.shape[0] < labels.shape[0]:
        hidden, labels = hidden.index_select(0, keep), labels.index_select(0, keep)
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    wide = torch.promote_types(weight.dtype, torch.float32)
    scale = torch.as_tensor(divisor, dtype=wide, device=hidden.device).reciprocal()
    with torch.autocast(device, enabled=False):
        return _ChunkedCrossEntropy.apply(hidden, weight, bias, labels, label_smoothing, scale, dtype)


def classification_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    config,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """Compute the loss of a classifier by `config.problem_type`, which is derived and set there if it is None.

    Args:
        logits: [B, C].
        labels: [B] integers for "single_label_classification" (-100: does not count), [B, C] numbers from 0 to 1 for
            "multi_label_classification", [B] or [B, C] numbers for "regression".
        config: gives `problem_type` and `num_labels`.
        num_items_in_batch: divisor of the summed loss; None: the number of labels, or elements of them, that count.
        label_smoothing: e, for single labels.

    Returns:
        the loss, a scalar in float32 (float64 for float64 logits): cross entropy, the binary one, or squared error.

    Raises:
        ValueError: the labels do not suit the problem type, or `label_smoothing` is not a number from 0 to 1.
    """
    label_smoothing = _checked_smoothing(label_smoothing)
    labels = labels.to(logits.device)
    if config.problem_type is None:
        whole = not labels.is_floating_point() and labels.numel() == logits.shape[0]
        kind = "single_label_classification" if whole else "multi_label_classification"
        config.problem_type = "regression" if config.num_labels == 1 else kind
    if config.problem_type == "single_label_classification":
        if labels.is_floating_point() or labels.numel() != logits.shape[0]:
            raise ValueError(
                f"A single-label classifier needs one integer for each of the {logits.shape[0]} sequences, but labels "
                f"are {labels.dtype} of shape {list(labels.shape)}: fix them or config.problem_type."
            )
        return smoothed_cross_entropy(
            logits, labels.reshape(-1), num_items_in_batch=num_items_in_batch, label_smoothing=label_smoothing
        )
    logits = logits.to(torch.promote_types(logits.dtype, torch.float32))
    if labels.numel() != logits.numel():
        raise ValueError(
            f"{config.problem_type} needs labels of shape {list(logits.shape)}, but they have {list(labels.shape)}: "
            "fix them or config.problem_type and config.num_labels."
        )
    labels = labels.reshape(logits.shape).to(logits.dtype)
    if config.problem_type == "regression":
        total = nn.functional.mse_loss(logits, labels, reduction="sum")
    else:
        total = nn.functional.binary_cross_entropy_with_logits(logits, labels, reduction="sum")
    # No number means "ignored" here: each counts.
    return total / (labels.numel() if num_items_in_batch is None else _normalizer(labels, num_items_in_batch))


__all__ = ["classification_loss", "linear_smoothed_cross_entropy", "smoothed_cross_entropy", "uniform_over_others"]
