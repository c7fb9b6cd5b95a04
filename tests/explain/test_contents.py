"""What a page says about a model as a whole."""

import pytest

from tests.helpers.explained import make
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
