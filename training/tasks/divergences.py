"""The smoothed cross entropy together with divergences between predictions, by chunks of positions.

Logits of all positions and passes are never there at once: a chunk's logits, its losses and its gradients follow each
other, as in `vaswani_tx/loss_vaswani.py`. All losses of a chunk share its logits.

Shapes: K passes over the same batch, N target positions that count, D d_model (of a teacher E), V vocabulary.
"""

from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import nn

from vaswani_tx.loss_vaswani import IGNORE_INDEX

# Logits of all passes that exist at one time: enough for efficient matrix products, few enough for a cache.
CHUNK_ELEMENTS = 1 << 21


@dataclass(frozen=True)
class LossMix:
    """The weights of the terms of one loss; P_k is the prediction of pass k.

    Args:
        label_smoothing: e of the cross entropy.
        supervised: how many passes are compared with labels and teacher, the first ones; their losses are added.
        divergence: weight of the divergence between the first two passes.
        shares: of KL(P_0 || P_1) and of KL(P_1 || P_0) in that divergence.
        distillation: share of the teacher in each supervised pass; the labels have the rest.
        temperature: divisor of the logits of teacher and model where they are compared.
    """

    label_smoothing: float = 0.0
    supervised: int = 1
    divergence: float = 0.0
    shares: tuple[float, float] = (1.0, 0.0)
    distillation: float = 0.0
    temperature: float = 1.0


class Predictor(NamedTuple):
    """Hidden states and the output layer that makes logits of them.

    Args:
        hidden: [..., D].
        weight: [V, D].
        bias: [V] or None.
    """

    hidden: torch.Tensor
    weight: torch.Tensor
    bias: torch.Tensor | None


def mixed_loss(
    model: Predictor, labels: torch.Tensor, mix: LossMix, teacher: Predictor | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    """Return the sum of the mixed loss over the positions with labels, and its parts.

    The gradient goes through both sides of the divergence, and never into the teacher.

    Args:
        model: hidden states [K, B, T, D].
        labels: [B, T], -100 where nothing is to be predicted.
        teacher: hidden states [B, T, E], with `mix.distillation`.

    Returns:
        total: a scalar in float32 (float64 for a float64 weight).
        parts: [3], without gradient: the sums of the cross entropy (its mean over supervised passes), of the divergence
            and of the teacher's (times temperature squared; mean over supervised passes), each without its weight.
    """
    labels = labels.to(model.hidden.device).reshape(-1)
    keep = (labels != IGNORE_INDEX).nonzero().squeeze(1)
    hidden = model.hidden.reshape(len(model.hidden), -1, model.hidden.shape[-1]).index_select(1, keep)  # [K, N, D]
    device = hidden.device.type
    dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else model.weight.dtype
    if teacher is not None:
        states = teacher.hidden.reshape(-1, teacher.hidden.shape[-1]).index_select(0, keep)
        teacher = Predictor(
            states.detach(), teacher.weight.detach(), None if teacher.bias is None else teacher.bias.detach()
        )
    with torch.autocast(device, enabled=False):
        return _ChunkedLoss.apply(hidden, model.weight, model.bias, labels.index_select(0, keep), mix, dtype, teacher)


class _ChunkedLoss(torch.autograd.Function):
    """The mixed loss of `hidden @ weight.T + bias`, gradients formed in the forward pass."""

    @staticmethod
    def forward(ctx: Any, hidden, weight, bias, labels, mix, dtype, teacher):
        passes, positions, _ = hidden.shape
        wanted = any(ctx.needs_input_grad[:3])
        rows = max(1, CHUNK_ELEMENTS // (weight.shape[0] * (passes + (teacher is not None))))
        accumulate = torch.promote_types(weight.dtype, torch.float32)
        parts = hidden.new_zeros(3, dtype=accumulate)
        grad_hidden = torch.empty_like(hidden) if wanted else None
        grad_weight = torch.zeros_like(weight, dtype=accumulate) if wanted else None
        grad_bias = torch.zeros_like(bias, dtype=accumulate) if wanted and bias is not None else None
        weight, bias = weight.to(dtype), None if bias is None else bias.to(dtype)
        for start in range(0, positions, rows):
            chosen = slice(start, start + rows)
            chunk = hidden[:, chosen].to(dtype)  # [K, n, D]
            logits = nn.functional.linear(chunk, weight, bias).to(accumulate)  # [K, n, V]
            of_teacher = None if teacher is None else _logits(teacher, chosen, dtype, accumulate)
            losses, grad_logits = _losses(logits, labels[chosen, None], mix, of_teacher, wanted)
            parts += losses
            if grad_logits is not None:
                if grad_bias is not None:
                    grad_bias += grad_logits.sum(dim=(0, 1))
                grad_logits = grad_logits.to(dtype)
                grad_hidden[:, chosen] = grad_logits @ weight
                grad_weight += grad_logits.flatten(0, 1).T @ chunk.flatten(0, 1)
        ctx.save_for_backward(grad_hidden, grad_weight, grad_bias)
        ctx.mark_non_differentiable(parts)
        factors = _factors(mix)
        return sum(factor * part for factor, part in zip(factors, parts.unbind(), strict=True)), parts

    @staticmethod
    def backward(ctx: Any, grad_total, _):
        grad_hidden, grad_weight, grad_bias = ctx.saved_tensors
        grad_bias = None if grad_bias is None else grad_bias * grad_total
        return grad_hidden * grad_total.to(grad_hidden.dtype), grad_weight * grad_total, grad_bias, *[None] * 4


def _factors(mix: LossMix) -> tuple[float, float, float]:
    """Return the weight of each part in the total."""
    labels, teacher = 1.0 - mix.distillation, mix.distillation
    return mix.supervised * labels, mix.divergence, mix.supervised * teacher


def _logits(teacher: Predictor, chosen: slice, dtype: torch.dtype, accumulate: torch.dtype) -> torch.Tensor:
    bias = None if teacher.bias is None else teacher.bias.to(dtype)
    return nn.functional.linear(teacher.hidden[chosen].to(dtype), teacher.weight.to(dtype), bias).to(accumulate)


def _losses(logits, target, mix: LossMix, of_teacher, wanted: bool) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return the parts [3] of a chunk, and the gradient [K, n, V] of its total where it is wanted."""
    log_probs = nn.functional.log_softmax(logits, dim=-1)
    first = log_probs[: mix.supervised]  # [s, n, V]
    epsilon, vocabulary = mix.label_smoothing, logits.shape[-1]
    index = target.expand(len(first), *target.shape)
    entropy = -(1 - epsilon) * first.gather(2, index).sum()
    if epsilon:
        entropy = entropy - epsilon / vocabulary * first.sum()
    divergence = distilled = torch.zeros_like(entropy)
    gradient = None
    if mix.divergence or wanted:
        gradient = log_probs.exp()
    if mix.divergence:
        divergence, pulls = _divergence(log_probs, gradient, mix)
    if wanted:
        # d cross entropy / d logits = softmax - (1 - e) * onehot - e / V, formed in the place of the probabilities
        gradient[mix.supervised :].zero_()
        supervised = gradient[: mix.supervised]
        if epsilon:
            supervised.sub_(epsilon / vocabulary)
        supervised.scatter_add_(2, index, supervised.new_full(index.shape, epsilon - 1))
        if mix.distillation:
            supervised.mul_(1 - mix.distillation)
        if mix.divergence:
            for side, pull in enumerate(pulls):
                gradient[side].add_(pull, alpha=mix.divergence)
    if of_teacher is not None:
        distilled = _distillation(logits, log_probs, of_teacher, mix, gradient if wanted else None)
    parts = torch.stack([entropy / mix.supervised, divergence, distilled / mix.supervised])
    return parts, gradient if wanted else None


def _divergence(log_probs, probs, mix: LossMix) -> tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]:
    """Return the sum of the divergence between the first two passes and its gradients [n, V] by their logits.

    d KL(P || Q) / d logits of P = P * (log P - log Q - KL), and of Q = Q - P.
    """
    there, back = mix.shares
    p, q = probs[0], probs[1]
    difference = log_probs[0] - log_probs[1]
    apart = q - p
    forward = (p * difference).sum(dim=-1, keepdim=True)  # [n, 1], KL(P || Q)
    backward = -(q * difference).sum(dim=-1, keepdim=True)  # KL(Q || P)
    of_q = apart if there == 1.0 else apart * there
    if back:
        of_q = torch.addcmul(of_q, q, difference + backward, value=-back)
    of_p = difference.sub_(forward).mul_(p).mul_(there)
    if back:
        of_p.sub_(apart, alpha=back)
    return there * forward.sum() + back * backward.sum(), (of_p, of_q)


def _distillation(logits, log_probs, of_teacher, mix: LossMix, gradient: torch.Tensor | None) -> torch.Tensor:
    """Return the sum of T^2 KL(teacher || model) over supervised passes; add its weighted gradient to `gradient`.

    The factor keeps gradients of one size whatever the temperature T (Hinton et al. 2015, section 2).
    """
    temperature, count = mix.temperature, mix.supervised
    known = nn.functional.log_softmax(of_teacher / temperature, dim=-1)  # [n, V]
    learned = log_probs[:count]
    if temperature != 1.0:
        learned = nn.functional.log_softmax(logits[:count] / temperature, dim=-1)
    probs = known.exp()
    if gradient is not None:
        gradient[:count].add_(learned.exp().sub_(probs), alpha=mix.distillation * temperature)
    return temperature**2 * (probs * (known - learned)).sum()
