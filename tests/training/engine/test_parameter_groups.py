"""Frozen parts and layer-wise rates: what learns, how fast, and that it survives a resumed run."""

import pytest
import torch

from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration
from vaswani_tx.training.engine.optimizer import PaperAdam, set_learning_rate
from vaswani_tx.training.engine.parameter_groups import freeze, rate_groups
from vaswani_tx.training.errors import SettingsError


@pytest.fixture
def model():
    torch.manual_seed(0)
    return VaswaniForConditionalGeneration(
        VaswaniConfig(vocab_size=20, d_model=8, d_ff=12, num_heads=2, encoder_layers=3, decoder_layers=2, dropout=0.0)
    )


def rates(model, decay):
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    groups = rate_groups(model, decay)
    return {names[id(parameter)]: group["scale"] for group in groups for parameter in group["params"]}


def test_rates_fall_from_layer_to_layer_of_each_stack(model):
    found = rates(model, 0.5)
    assert set(found) == {name for name, _ in model.named_parameters()}
    assert found["model.encoder.layers.2.feed_forward.fc1.weight"] == 1.0
    assert found["model.encoder.layers.1.feed_forward.fc1.weight"] == 0.5
    assert found["model.encoder.layers.0.feed_forward.fc1.weight"] == 0.25
    assert found["model.decoder.layers.0.cross_attn.q_proj.weight"] == 0.5
    assert found["model.shared.weight"] == 0.125, "below the deepest stack"
    assert set(rates(model, None).values()) == {1.0}


@pytest.mark.parametrize("weight_decay", [0.0, 0.01])
def test_an_update_moves_each_layer_at_its_rate(model, weight_decay):
    optimizer = PaperAdam(weight_decay=weight_decay).build(rate_groups(model, 0.5))
    before = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    set_learning_rate(optimizer, 1e-3)
    for parameter in model.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    # The first step of Adam moves every number by the rate.
    for number, expected in ((2, 1e-3), (1, 5e-4), (0, 2.5e-4)):
        name = f"model.encoder.layers.{number}.feed_forward.fc1.bias"
        moved = before[name] - dict(model.named_parameters())[name]
        torch.testing.assert_close(moved, torch.full_like(moved, expected), rtol=1e-4, atol=0)


def test_frozen_parts_do_not_learn(model):
    total = sum(parameter.numel() for parameter in model.parameters())
    encoder = sum(parameter.numel() for parameter in model.model.encoder.layers.parameters())
    assert freeze(model, ["model.encoder.layers"]) == total - encoder
    learning = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert "model.shared.weight" in learning and not any("encoder.layers" in name for name in learning)
    assert sum(p.numel() for group in rate_groups(model, None) for p in group["params"]) == total - encoder
    # One matrix has four names; each of them freezes it.
    assert freeze(model, ["lm_head"]) < total - encoder and not model.model.shared.weight.requires_grad


def test_wrong_names_are_told_with_the_nearest(model):
    with pytest.raises(SettingsError, match=r"did you mean 'model\.encoder'"):
        freeze(model, ["model.encodr"])
    with pytest.raises(SettingsError, match="no parameter"):
        freeze(model, ["model.encoder.lay"])  # a whole name between dots, not its beginning
    with pytest.raises(SettingsError, match="nothing is left"):
        freeze(model, ["model", "lm_head"])
