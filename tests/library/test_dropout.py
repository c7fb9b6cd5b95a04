"""Dropout with few passes against torch's: its rate, its expectation, its gradient, and where torch's is used."""

import pytest
import torch
from torch import nn

from vaswani_tx.dropout_vaswani import LEAST, dropout, dropout_add


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.001])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_what_is_kept_is_scaled_and_its_share_is_the_rate(rate, dtype):
    torch.manual_seed(0)
    states = torch.ones(100, 4001, dtype=dtype)
    found = dropout(nn.Dropout(rate), states)
    values, counts = found.unique(return_counts=True)
    factor = 65536 / (65536 - round(rate * 65536))
    torch.testing.assert_close(values, torch.tensor([0.0, factor], dtype=dtype))
    share = counts[0].item() / states.numel()
    assert abs(share - rate) < 5 * (rate * (1 - rate) / states.numel()) ** 0.5  # five standard deviations
    # No channel or position is favoured
    kept = found != 0
    for axis in (0, 1):
        expected = ((1 - rate) * rate / kept.shape[axis]) ** 0.5
        assert kept.to(dtype).mean(dim=axis).std().item() == pytest.approx(expected, rel=0.2)
    neighbours = (kept[:, 1:] & kept[:, :-1]).to(dtype).mean().item()
    assert neighbours == pytest.approx((1 - rate) ** 2, abs=5e-3)


def test_sum_and_gradient():
    torch.manual_seed(1)
    module = nn.Dropout(0.25)
    base, states = (torch.randn(64, 100, dtype=torch.float64, requires_grad=True) for _ in range(2))
    found = dropout_add(module, base, states)
    kept = (found - base).detach() != 0
    torch.testing.assert_close(found, base + states * kept / 0.75)
    weights = torch.randn(64, 100, dtype=torch.float64)
    gradients = torch.autograd.grad((found * weights).sum(), (base, states))
    torch.testing.assert_close(gradients, (weights, weights * kept / 0.75))


def test_a_seed_repeats_it_and_the_next_call_differs():
    states, module = torch.ones(1, LEAST), nn.Dropout(0.5)
    torch.manual_seed(2)
    first, second = dropout(module, states), dropout(module, states)
    torch.manual_seed(2)
    assert torch.equal(dropout(module, states), first)
    assert not torch.equal(first, second)


@pytest.mark.parametrize("rate", [0.0, 1.0])
def test_rates_at_the_limits(rate):
    states = torch.randn(2, LEAST)
    torch.testing.assert_close(dropout_add(nn.Dropout(rate), states, states), states * (2 - rate))


def test_small_or_traced_states_other_modules_and_evaluation_take_torch(monkeypatch):
    calls = []
    monkeypatch.setattr(nn.Dropout, "forward", lambda self, states: calls.append(self.training) or states)
    small, large = torch.ones(2, 8), torch.ones(2, LEAST)
    dropout(nn.Dropout(0.1), small)
    dropout(nn.Dropout(0.1).eval(), large)
    dropout(type("Other", (nn.Dropout,), {})(0.1), large)
    hooked = nn.Dropout(0.1)
    hooked.register_forward_hook(lambda *found: None)
    dropout(hooked, large)
    dropout_add(nn.Dropout(0.1), large.double(), large)
    torch.func.vmap(lambda states: dropout(nn.Dropout(0.1), states))(large)
    assert calls == [True, False, True, True, True, True]
    dropout(nn.Dropout(0.1), large)
    assert len(calls) == 6
