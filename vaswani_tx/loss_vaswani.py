"""Label-smoothed cross entropy (section 5.4), of given logits and without ever building all of them.

Beside it the losses of classifiers, all with an exact divisor over a window of batches.

Shapes: N target positions (batch times length), D d_model, V vocabulary.
"""

from numbers import Real
from typing import Any

import torch
from torch import nn

IGNORE_INDEX = -100
# Logits that exist at one time: enough for efficient matrix products, few enough to stay in a processor's cache.
CHUNK_ELEMENTS = 1 << 21


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
    """The sum of the smoothed cross entropy of `hidden @ weight.T + bias`, gradients formed in the forward pass."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, labels, epsilon, dtype):
        needs_gradient = any(ctx.needs_input_grad[:3])
        vocabulary = weight.shape[0]
        rows = max(1, CHUNK_ELEMENTS // vocabulary)
        accumulate = torch.promote_types(weight.dtype, torch.float32)
        total = hidden.new_zeros((), dtype=accumulate)
        grad_hidden = torch.empty_like(hidden) if needs_gradient else None
        grad_weight = torch.zeros_like(weight, dtype=accumulate) if needs_gradient else None
        grad_bias = torch.zeros_like(bias, dtype=accumulate) if needs_gradient and bias is not None else None
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        for start in range(0, hidden.shape[0], rows):
            chunk, target = hidden[start : start + rows].to(dtype), labels[start : start + rows, None]
            logits = nn.functional.linear(chunk, weight, bias).to(accumulate)
            log_probs = nn.functional.log_softmax(logits, dim=-1)
            total -= (1 - epsilon) * log_probs.gather(1, target).sum()
            if epsilon:
                total -= epsilon / vocabulary * log_probs.sum()
            if needs_gradient:
                # d loss / d logits = softmax - (1 - e) * onehot - e / V, formed in the place of the log-probabilities
                grad_logits = log_probs.exp_()
                if epsilon:
                    grad_logits.sub_(epsilon / vocabulary)
                grad_logits.scatter_add_(1, target, grad_logits.new_full(target.shape, epsilon - 1))
                if grad_bias is not None:
                    grad_bias += grad_logits.sum(dim=0)
                grad_logits = grad_logits.to(dtype)
                grad_hidden[start : start + rows] = grad_logits @ weight
                if grad_weight.dtype == dtype:
                    grad_weight.addmm_(grad_logits.T, chunk)
                else:
                    grad_weight += grad_logits.T @ chunk
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        return total

    @staticmethod
    def backward(ctx, grad_output):
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        grad_bias = None if grad_bias is None else grad_bias * grad_output
        return grad_hidden * grad_output.to(grad_hidden.dtype), grad_weight * grad_output, grad_bias, None, None, None


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
    keep = (labels != ignore_index).nonzero().squeeze(1)
    hidden = hidden_states.reshape(-1, hidden_states.shape[-1]).index_select(0, keep)
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else weight.dtype
    with torch.autocast(device, enabled=False):
        total = _ChunkedCrossEntropy.apply(hidden, weight, bias, labels.index_select(0, keep), label_smoothing, dtype)
    return total / _normalizer(labels, num_items_in_batch, ignore_index)


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
