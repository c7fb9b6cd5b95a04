"""The label-smoothed loss against golden values, and the chunked form against its plain reference."""

import numpy as np
import pytest
import torch

from tests.helpers import GOLDEN_PAPER
from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration, loss_vaswani
from vaswani_tx.loss_vaswani import (
    classification_loss,
    linear_smoothed_cross_entropy,
    smoothed_cross_entropy,
    uniform_over_others,
)

GOLDEN = GOLDEN_PAPER["label_smoothing"]
LOGITS = torch.tensor(GOLDEN["logits"], dtype=torch.float64)
LABELS = torch.tensor(GOLDEN["targets"]).masked_fill(torch.tensor(GOLDEN["targets"]) == GOLDEN["pad_id"], -100)


def smoothing(variant: str) -> float:
    return {
        "szegedy_uniform_V": GOLDEN["epsilon"],
        "t2t_V_minus_1": uniform_over_others(GOLDEN["epsilon"], LOGITS.shape[1]),
        "fairseq": uniform_over_others(GOLDEN["epsilon"], LOGITS.shape[1]),
    }[variant]


@pytest.mark.parametrize("variant", ["szegedy_uniform_V", "t2t_V_minus_1", "fairseq"])
@pytest.mark.parametrize("chunk", [5, 1 << 20])
def test_golden_values_of_both_forms(variant, chunk, monkeypatch):
    monkeypatch.setattr(loss_vaswani, "CHUNK_ELEMENTS", chunk)
    golden, epsilon = GOLDEN["variants"][variant], smoothing(variant)
    plain = smoothed_cross_entropy(LOGITS, LABELS, label_smoothing=epsilon)
    # an identity matrix as the output layer makes the hidden states the logits
    chunked = linear_smoothed_cross_entropy(
        LOGITS, torch.eye(5, dtype=torch.float64), None, LABELS, label_smoothing=epsilon
    )
    assert plain.item() == pytest.approx(golden["mean_ce_nonpad"], abs=1e-12)
    assert chunked.item() == pytest.approx(golden["mean_ce_nonpad"], abs=1e-12)
    summed = smoothed_cross_entropy(LOGITS, LABELS, num_items_in_batch=1, label_smoothing=epsilon)
    assert summed.item() == pytest.approx(golden["sum_ce_nonpad"], abs=1e-12)


def test_perplexity_of_the_unsmoothed_loss():
    loss = smoothed_cross_entropy(LOGITS, LABELS)
    assert torch.exp(loss).item() == pytest.approx(GOLDEN["perplexity_from_nll"], abs=1e-12)


@pytest.mark.parametrize("epsilon", [0.0, 0.1])
@pytest.mark.parametrize("with_bias", [False, True])
@pytest.mark.parametrize("num_items", [None, 7, torch.tensor(7)])
def test_chunked_gradients_equal_plain_ones(epsilon, with_bias, num_items, monkeypatch):
    monkeypatch.setattr(loss_vaswani, "CHUNK_ELEMENTS", 3 * 11)
    torch.manual_seed(0)
    hidden = torch.randn(2, 5, 4, dtype=torch.float64, requires_grad=True)
    weight = torch.randn(11, 4, dtype=torch.float64, requires_grad=True)
    bias = torch.randn(11, dtype=torch.float64, requires_grad=True) if with_bias else None
    labels = torch.randint(0, 11, (2, 5))
    labels[0, 3:] = -100
    inputs = [hidden, weight] + ([bias] if with_bias else [])
    settings = {"label_smoothing": epsilon, "num_items_in_batch": num_items}
    plain = smoothed_cross_entropy(torch.nn.functional.linear(hidden, weight, bias), labels, **settings)
    chunked = linear_smoothed_cross_entropy(hidden, weight, bias, labels, **settings)
    torch.testing.assert_close(plain, chunked, atol=1e-12, rtol=0)
    for expected, actual in zip(
        torch.autograd.grad(3 * plain, inputs), torch.autograd.grad(3 * chunked, inputs), strict=True
    ):
        torch.testing.assert_close(actual, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("wrong", [-0.1, 1.1, float("nan"), float("inf"), True, "0.1", None, [0.1]], ids=repr)
def test_smoothing_outside_of_0_to_1_is_refused_by_every_loss(wrong):
    hidden, labels, config = torch.zeros(2, 4), torch.tensor([0, 1]), VaswaniConfig(num_labels=4)
    for loss in (
        lambda: smoothed_cross_entropy(hidden, labels, label_smoothing=wrong),
        lambda: linear_smoothed_cross_entropy(hidden, torch.eye(4), None, labels, label_smoothing=wrong),
        lambda: classification_loss(hidden, labels, config, label_smoothing=wrong),
    ):
        with pytest.raises(ValueError, match=r"label_smoothing must be a number from 0 .* to 1"):
            loss()


@pytest.mark.parametrize("epsilon", [0, 1, 1.0, np.float32(0.25), torch.tensor(0.25)], ids=repr)
def test_smoothing_at_the_limits_is_the_formula_in_both_forms(epsilon):
    rows = torch.eye(LOGITS.shape[-1], dtype=torch.float64)
    target = (1 - float(epsilon)) * rows[LABELS.clamp(min=0)] + float(epsilon) / LOGITS.shape[-1]
    expected = -(target * LOGITS.log_softmax(-1)).sum(-1)[LABELS != -100].mean()
    found = smoothed_cross_entropy(LOGITS, LABELS, label_smoothing=epsilon)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)
    found = linear_smoothed_cross_entropy(LOGITS, rows, None, LABELS, label_smoothing=epsilon)
    torch.testing.assert_close(found, expected, atol=1e-12, rtol=0)


def test_no_labels_at_all_is_zero_not_nan():
    labels = torch.full((2, 3), -100)
    hidden = torch.randn(2, 3, 4, requires_grad=True)
    loss = linear_smoothed_cross_entropy(hidden, torch.randn(7, 4), None, labels)
    loss.backward()
    assert loss.item() == 0 and hidden.grad.abs().max() == 0
    assert smoothed_cross_entropy(torch.randn(2, 3, 7), labels).item() == 0


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = VaswaniConfig(
        vocab_size=50, d_model=16, d_ff=32, num_heads=2, encoder_layers=1, decoder_layers=1, dropout=0.0
    )
    return VaswaniForConditionalGeneration(config)


def test_labels_are_not_shifted(model):
    source, labels = torch.randint(3, 50, (2, 6)), torch.randint(3, 50, (2, 5))
    output = model(input_ids=source, labels=labels)
    expected = torch.nn.functional.cross_entropy(output.logits.flatten(0, 1), labels.flatten())
    torch.testing.assert_close(output.loss, expected)
    start = torch.cat((torch.ones(2, 1, dtype=torch.long), labels[:, :-1]), dim=1)
    torch.testing.assert_close(model(input_ids=source, decoder_input_ids=start).logits, output.logits)


def test_skip_logits_gives_the_same_loss_and_gradients(model):
    source, labels = torch.randint(3, 50, (2, 6)), torch.randint(3, 50, (2, 5))
    labels[1, 2:] = -100
    results = []
    for skip in (False, True):
        model.zero_grad()
        output = model(input_ids=source, labels=labels, label_smoothing=0.1, skip_logits=skip, num_items_in_batch=9)
        output.loss.backward()
        assert (output.logits is None) == skip
        results.append([output.loss.detach()] + [parameter.grad for parameter in model.parameters()])
    for plain, chunked in zip(*results, strict=True):
        torch.testing.assert_close(chunked, plain, atol=1e-6, rtol=1e-5)


def test_num_items_in_batch_makes_accumulation_exact(model):
    source, labels = torch.randint(3, 50, (4, 6)), torch.randint(3, 50, (4, 5))
    labels[0, 1:] = -100  # the halves hold different numbers of tokens
    whole = model(input_ids=source, labels=labels).loss
    count = (labels != -100).sum()
    halves = [
        model(input_ids=source[rows], labels=labels[rows], num_items_in_batch=count).loss
        for rows in (slice(0, 2), slice(2, 4))
    ]
    torch.testing.assert_close(sum(halves), whole)


def both(hidden, weight, bias, labels, **settings):
    """Return the loss of all logits and the chunked one."""
    plain = smoothed_cross_entropy(torch.nn.functional.linear(hidden, weight, bias), labels, **settings)
    return plain, linear_smoothed_cross_entropy(hidden, weight, bias, labels, **settings)


@pytest.mark.parametrize("scale", [1.0, 30.0], ids=["usual", "probabilities below the smallest number"])
@pytest.mark.parametrize("with_bias", [False, True])
def test_float32_is_equal_to_five_places_in_every_row(scale, with_bias, monkeypatch):
    monkeypatch.setattr(loss_vaswani, "CHUNK_ELEMENTS", 1 << 13)
    torch.manual_seed(1)
    hidden = (torch.randn(40, 16) * scale).requires_grad_()
    weight = torch.randn(1000, 16, requires_grad=True)
    bias = torch.randn(1000, requires_grad=True) if with_bias else None
    labels = torch.randint(0, 1000, (40,))
    inputs = [hidden, weight] + ([bias] if with_bias else [])
    losses = both(hidden, weight, bias, labels, label_smoothing=0.1)
    torch.testing.assert_close(losses[1], losses[0], atol=1e-5, rtol=1e-6)
    expected, found = (torch.autograd.grad(loss, inputs) for loss in losses)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    if scale > 1:
        likelihood = torch.nn.functional.linear(hidden, weight, bias).softmax(dim=-1).gather(1, labels[:, None])
        assert (likelihood == 0).any()


def test_what_is_frozen_gets_no_gradient_and_backward_may_be_repeated():
    torch.manual_seed(2)
    labels = torch.randint(0, 11, (6,))
    for frozen in range(3):
        inputs = [torch.randn(6, 4, dtype=torch.float64), torch.randn(11, 4).double(), torch.randn(11).double()]
        for number, tensor in enumerate(inputs):
            tensor.requires_grad_(number != frozen)
        plain, chunked = both(*inputs, labels, label_smoothing=0.1)
        plain.backward()
        expected = [None if tensor.grad is None else tensor.grad.clone() for tensor in inputs]
        for tensor in inputs:
            tensor.grad = None
        chunked.backward(retain_graph=True)
        chunked.backward()
        for tensor, gradient in zip(inputs, expected, strict=True):
            assert (tensor.grad is None) is (gradient is None)
            if gradient is not None:
                torch.testing.assert_close(tensor.grad, 2 * gradient, atol=1e-12, rtol=0)
    with torch.no_grad():
        torch.testing.assert_close(*both(*inputs, labels), atol=1e-12, rtol=0)


def test_bfloat16_under_autocast():
    torch.manual_seed(3)
    hidden, weight = torch.randn(30, 16, requires_grad=True), torch.randn(50, 16, requires_grad=True)
    labels = torch.randint(0, 50, (30,))
    with torch.autocast("cpu", torch.bfloat16):
        losses = both(hidden, weight, None, labels, label_smoothing=0.1)
    torch.testing.assert_close(losses[1], losses[0], atol=2e-3, rtol=0)
    expected, found = (torch.autograd.grad(loss, [hidden, weight]) for loss in losses)
    torch.testing.assert_close(found, expected, atol=5e-3, rtol=5e-2)


def test_no_labels_that_count_and_no_items():
    hidden, weight = torch.randn(3, 4, requires_grad=True), torch.randn(5, 4, requires_grad=True)
    losses = both(hidden, weight, None, torch.full((3,), -100), label_smoothing=0.1)
    assert losses[0] == losses[1] == 0
    losses[1].backward()
    assert weight.grad.count_nonzero() == hidden.grad.count_nonzero() == 0
    assert not linear_smoothed_cross_entropy(hidden, weight, None, torch.zeros(3).long(), 0).isfinite()
