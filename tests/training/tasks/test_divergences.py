"""The cross entropy with divergences by chunks, against formulas over all logits at once, in float64."""

import pytest
import torch
from torch.nn import functional
from torch.utils._python_dispatch import TorchDispatchMode

from vaswani_tx.training.tasks import divergences
from vaswani_tx.training.tasks.divergences import LossMix, Predictor, mixed_loss

MIXES = {
    "labels": (1, LossMix(0.1)),
    "rdrop": (2, LossMix(0.1, supervised=2, divergence=5.0, shares=(0.5, 0.5))),
    "one_way": (2, LossMix(0.1, divergence=3.0)),
    "other_way": (2, LossMix(divergence=3.0, shares=(0.0, 1.0))),
    "teacher": (1, LossMix(0.1, distillation=0.7)),
    "warm_teacher": (1, LossMix(distillation=1.0, temperature=2.5)),
    "all": (2, LossMix(0.1, supervised=2, divergence=2.0, shares=(0.3, 0.7), distillation=0.4, temperature=0.5)),
}


def kl(p, q):
    """KL(P || Q) of logits [..., V], summed."""
    p, q = p.log_softmax(-1), q.log_softmax(-1)
    return functional.kl_div(q, p, reduction="sum", log_target=True)


def plain(model, labels, mix, teacher):
    """Every term as its formula says, from the logits of all positions."""
    keep = labels != -100
    logits = functional.linear(model.hidden, model.weight, model.bias)[:, keep]
    smoothed, t = {"label_smoothing": mix.label_smoothing, "reduction": "sum"}, mix.temperature
    entropies = [functional.cross_entropy(each, labels[keep], **smoothed) for each in logits[: mix.supervised]]
    total = (1 - mix.distillation) * sum(entropies)
    parts = [sum(entropies) / mix.supervised, torch.zeros(()).double(), torch.zeros(()).double()]
    if mix.divergence:
        parts[1] = mix.shares[0] * kl(logits[0], logits[1]) + mix.shares[1] * kl(logits[1], logits[0])
        total = total + mix.divergence * parts[1]
    if teacher is not None:
        known = functional.linear(teacher.hidden, teacher.weight, teacher.bias)[keep].detach()
        distances = [t**2 * kl(known / t, each / t) for each in logits[: mix.supervised]]
        total = total + mix.distillation * sum(distances)
        parts[2] = sum(distances) / mix.supervised
    return total, torch.stack(parts)


def example(passes, with_teacher, with_bias=True, width=4, vocabulary=11, dtype=torch.float64):
    torch.manual_seed(0)
    labels = torch.randint(0, vocabulary, (2, 5))
    labels[0, 3:] = -100
    bias = torch.randn(vocabulary, dtype=dtype, requires_grad=True) if with_bias else None
    hidden = torch.randn(passes, 2, 5, width, dtype=dtype, requires_grad=True)
    model = Predictor(hidden, torch.randn(vocabulary, width, dtype=dtype, requires_grad=True), bias)
    known = torch.randn(2, 5, 6, dtype=dtype, requires_grad=True)
    teacher = Predictor(known, torch.randn(vocabulary, 6, dtype=dtype, requires_grad=True), None)
    return model, labels, teacher if with_teacher else None


@pytest.mark.parametrize("name", MIXES)
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("chunk", [5 * 11, 1 << 20])
def test_losses_and_gradients_are_those_of_all_logits(name, with_bias, chunk, monkeypatch):
    monkeypatch.setattr(divergences, "CHUNK_ELEMENTS", chunk)
    passes, mix = MIXES[name]
    model, labels, teacher = example(passes, mix.distillation > 0, with_bias)
    expected, expected_parts = plain(model, labels, mix, teacher)
    total, parts = mixed_loss(model, labels, mix, teacher)
    torch.testing.assert_close(total, expected, atol=1e-12, rtol=0)
    torch.testing.assert_close(parts, expected_parts, atol=1e-12, rtol=0)
    assert not parts.requires_grad
    inputs = [tensor for tensor in model if tensor is not None]
    found, wanted = (torch.autograd.grad(3 * each, inputs) for each in (total, expected))
    for actual, reference in zip(found, wanted, strict=True):
        torch.testing.assert_close(actual, reference, atol=1e-12, rtol=0)


def test_nothing_flows_into_the_teacher():
    model, labels, teacher = example(1, with_teacher=True)
    total, _ = mixed_loss(model, labels, MIXES["teacher"][1], teacher)
    total.backward()
    assert teacher.hidden.grad is None
    assert teacher.weight.grad is None
    assert model.hidden.grad is not None


def test_a_batch_without_labels_is_zero():
    model, labels, teacher = example(2, with_teacher=True)
    total, parts = mixed_loss(model, torch.full_like(labels, -100), MIXES["all"][1], teacher)
    total.backward()
    assert total == 0
    assert (parts == 0).all()
    assert all((tensor.grad == 0).all() for tensor in model)


class Largest(TorchDispatchMode):
    """The number of elements of the largest tensor that any operation made."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        made = [each for each in (result if isinstance(result, tuple) else (result,)) if torch.is_tensor(each)]
        self.elements = max([self.elements, *(each.numel() for each in made)])
        return result


def test_logits_are_never_there_at_once(monkeypatch):
    monkeypatch.setattr(divergences, "CHUNK_ELEMENTS", 500)
    model, labels, teacher = example(2, with_teacher=True, vocabulary=100)
    with Largest() as largest:
        total, _ = mixed_loss(model, labels, MIXES["all"][1], teacher)
        total.backward()
    assert largest.elements <= 6 * 100  # the output matrix of the teacher; 8 positions of 2 passes have 1,600 logits
    with Largest() as largest:
        plain(model, labels, MIXES["all"][1], teacher)[0].backward()
    assert largest.elements >= 1600


@pytest.mark.parametrize("name", ["rdrop", "all"])
def test_autocast_computes_products_in_bfloat16_and_the_rest_in_float32(name):
    passes, mix = MIXES[name]
    model, labels, teacher = example(passes, mix.distillation > 0, dtype=torch.float32)
    expected, _ = plain(*[model, labels, mix, teacher])
    with torch.autocast("cpu", torch.bfloat16):
        total, parts = mixed_loss(model, labels, mix, teacher)
    assert total.dtype == parts.dtype == torch.float32
    torch.testing.assert_close(total, expected, atol=0, rtol=0.02)
    assert total != expected
    found, wanted = (torch.autograd.grad(each, model.hidden)[0] for each in (total, expected))
    torch.testing.assert_close(found, wanted, atol=0.05 * wanted.abs().max(), rtol=0)
