"""What a page says about a model as a whole."""

import pytest

from tests.helpers.explained import SENTENCE, make, tokenizer
from vaswani_tx import explain
from vaswani_tx.explain import contents
from vaswani_tx.explain.contents import parts_of

# Counted by hand from the sizes: d_model 32, d_ff 64, two layers a stack, 300 tokens.
COUNTS = {"feed_forward": 2 * (32 * 64 + 64 + 64 * 32 + 32), "self_attn": 2 * 4 * 32 * 32}


@pytest.mark.parametrize(
    "kind", ["vaswani", "pre-norm", "masked", "classifier", "causal", "image", "marian", "bart", "t5", "gpt2", "bert"]
)
def test_every_parameter_belongs_to_one_part(kind):
    model = make(kind)
    parts = {part["name"]: part["parameters"] for part in parts_of(model)}
    assert sum(parts.values()) == sum(parameter.numel() for parameter in model.parameters())
    assert not [name for name in parts if name.endswith("other")]
    norms = sum(count for name, count in parts.items() if name.endswith("norm"))
    named = (name for name, _ in model.named_parameters() if any(word in name.lower() for word in ("norm", "ln_")))
    assert norms == sum(model.get_parameter(name).numel() for name in named)
    if kind in ("vaswani", "masked", "classifier", "causal", "image"):
        stacks = ("encoder ", "decoder ") if kind == "vaswani" else ("",)
        for stack in stacks:
            assert {name: parts[f"{stack}{name}"] for name in COUNTS} == COUNTS


@pytest.mark.parametrize(
    ("share", "reason"), [(0.6, r"at most 1 \(--layers 1\)"), (0.4, "of one layer .* shorter text")]
)
def test_text_too_long_says_how_many_layers_fit(monkeypatch, share, reason):
    """A page has space for a `share` of the two layers of the model."""
    model = make("causal")
    numbers = []
    monkeypatch.setattr(contents, "_check_size", lambda kept: numbers.extend(item.weights.numel() for _, item in kept))
    explain.page(model, tokenizer(), SENTENCE)
    monkeypatch.undo()
    monkeypatch.setattr(contents, "BUDGET", int(sum(numbers) * contents.BYTES_A_WEIGHT * share))
    with pytest.raises(explain.ExplainError, match=reason):
        explain.page(model, tokenizer(), SENTENCE)
