"""What is recorded equals what transformers returns, for our models and for others."""

import pytest
import torch

from tests.helpers.explained import SENTENCE, make, tokenizer
from vaswani_tx import explain
from vaswani_tx.explain.recording import attention_of, recorded_attention, recorded_sublayers

FAMILIES = ["vaswani", "pre-norm", "masked", "causal", "image", "marian", "bart", "t5", "gpt2", "bert"]
OUTPUTS = {"encoder": "encoder_attentions", "decoder": "decoder_attentions", "cross": "cross_attentions"}


def inputs_of(kind, model):
    if kind == "image":
        return {"pixel_values": torch.randn(1, 3, 16, 16)}
    ids = tokenizer()(SENTENCE, return_tensors="pt")["input_ids"]
    if model.config.is_encoder_decoder:
        return {"input_ids": ids, "decoder_input_ids": ids[:, :7]}
    return {"input_ids": ids}


@pytest.mark.parametrize("kind", FAMILIES)
def test_weights_are_those_of_output_attentions(kind):
    model = make(kind)
    inputs = inputs_of(kind, model)
    with torch.no_grad(), recorded_attention(model) as calls:
        logits = model(**inputs).logits
    recorded = attention_of(model, calls)
    model.set_attn_implementation("eager")
    with torch.no_grad():
        expected = model(**inputs, output_attentions=True)
    torch.testing.assert_close(logits, expected.logits, atol=1e-5, rtol=1e-5)
    if model.config.is_encoder_decoder:
        named = {kind: getattr(expected, output) for kind, output in OUTPUTS.items()}
    else:
        named = {"decoder" if kind in ("causal", "gpt2") else "encoder": expected.attentions}
    assert sorted((item.kind, item.layer) for item in recorded) == sorted(
        (kind, layer) for kind, layers in named.items() for layer in range(len(layers))
    )
    for item in recorded:
        torch.testing.assert_close(item.weights, named[item.kind][item.layer][0], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("kind", FAMILIES)
def test_heads_write_what_the_attention_returns(kind):
    """The heads' parts of W_O and its bias add up to what the projection gives."""
    model = make(kind)
    outputs = {}
    with torch.no_grad(), recorded_attention(model) as calls:
        for name, module in model.named_modules():
            if name.endswith(("o_proj", "out_proj", "attn.c_proj", "Attention.o", "attention.output.dense")):
                module.register_forward_hook(lambda *call, name=name: outputs.setdefault(name, call[2][0]))
        model(**inputs_of(kind, model))
    for item in attention_of(model, calls):
        projection = next(
            name for name in outputs if name.startswith((f"{item.name}.", item.name.rpartition(".")[0] + ".output"))
        )
        bias = getattr(model.get_submodule(projection), "bias", None)
        total = item.written.sum(0) + (0 if bias is None else bias.detach())
        torch.testing.assert_close(total, outputs[projection], atol=1e-4, rtol=1e-4)


def test_implementation_and_mode_are_restored():
    model = make("vaswani").train()
    before = model.config._attn_implementation
    with pytest.raises(RuntimeError), recorded_attention(model):
        assert not model.training
        raise RuntimeError
    assert model.config._attn_implementation == before and model.training


def test_page_of_a_model_in_training_is_drawn_without_dropout_and_leaves_each_mode():
    model = make("t5")
    expected = explain.page(model, tokenizer(), SENTENCE).html
    model.train()
    model.encoder.eval()  # a frozen part
    modes = [module.training for module in model.modules()]
    state = torch.get_rng_state()
    assert explain.page(model, tokenizer(), SENTENCE).html == expected
    assert [module.training for module in model.modules()] == modes
    assert torch.equal(torch.get_rng_state(), state)


def test_model_that_cannot_be_run_is_one_line():
    damaged = make("vaswani")
    with torch.no_grad():
        next(iter(damaged.parameters())).fill_(float("nan"))
    groups = make("vaswani")
    groups.generation_config.update(num_beams=4, num_beam_groups=2, diversity_penalty=0.5)
    for model, text, reason in (
        (damaged, SENTENCE, "probabilities are not finite"),
        (groups, SENTENCE, "cannot run: Group Beam Search"),
        (make("bert"), "milk " * 60, "BertForMaskedLM has 128 positions"),
        (make("gpt2"), "milk " * 60, "GPT2LMHeadModel has 128 positions"),
        (make("bart"), "milk " * 60, "BartForConditionalGeneration has 128 positions"),
        (make("vaswani"), ["milk"], "The text is list, not a string"),
    ):
        with pytest.raises(explain.ExplainError, match=reason):
            explain.page(model, tokenizer(), text)


@pytest.mark.parametrize("kind", ["vaswani", "pre-norm"])
def test_sublayers(kind):
    """before, written and after are the lengths that the layer's own formula gives."""
    model = make(kind)
    layer = model.get_encoder().layers[1]
    seen = []
    layer.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    with torch.no_grad(), recorded_sublayers(model) as stages:
        model(**inputs_of(kind, model))
    first = next(stage for stage in stages if (stage.stack, stage.layer, stage.sublayer) == ("encoder", 1, "self_attn"))
    with torch.no_grad():
        x = seen[0]
        norm = layer.self_attn_residual.norm
        written = layer.self_attn(norm(x) if layer.pre_norm else x)[0]
        after = x + written if layer.pre_norm else norm(x + written)
    expected = [float(tensor[0].norm(dim=-1).mean()) for tensor in (x, written, after)]
    assert [first.before, first.written, first.after] == pytest.approx(expected, rel=1e-5)
    per_layer = ["self_attn", "feed_forward"] * 2 + ["self_attn", "cross_attn", "feed_forward"] * 2
    assert [stage.sublayer for stage in stages] == per_layer
