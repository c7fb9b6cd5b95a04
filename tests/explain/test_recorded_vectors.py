"""What goes in and comes out of each attention, against the modules' own inputs and outputs."""

import pytest
import torch

from tests.helpers.explained import SENTENCE, make, tokenizer
from vaswani_tx import explain


@pytest.mark.parametrize("kind", ["vaswani", "pre-norm", "causal", "marian", "bart", "t5", "gpt2"])
def test_inputs_and_outputs_are_those_of_the_modules(kind):
    model = make(kind)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith("bias"):
                parameter.normal_()  # one that is left out would show
    names = {item.name for item in explain.trace.trace(model, tokenizer(), SENTENCE).attention}
    seen = {name: {} for name in names}

    def keep(name):
        def hook(module, arguments, keywords, output):
            hidden = arguments[0] if arguments else keywords["hidden_states"]
            seen[name] = {"input": hidden[0], "output": (output[0] if isinstance(output, tuple) else output)[0]}

        return hook

    for name, module in model.named_modules():
        if name in names:
            module.register_forward_hook(keep(name), with_kwargs=True)
    for item in explain.trace.trace(model, tokenizer(), SENTENCE).attention:
        torch.testing.assert_close(item.output, seen[item.name]["output"], rtol=1e-4, atol=1e-4)
        if item.input is not None:
            torch.testing.assert_close(item.input, seen[item.name]["input"], rtol=0, atol=0)
        assert (item.input is None) == (kind in ("t5", "gpt2"))
