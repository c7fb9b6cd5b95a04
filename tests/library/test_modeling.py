"""The models as transformers' users meet them: caches, masks, types, recording, saving, the Auto classes."""

import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    DynamicCache,
    EncoderDecoderCache,
    StaticCache,
)

import vaswani_tx
from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration

VARIANTS = {
    "paper": {},
    "pre": {"norm_order": "pre", "final_layer_norm": True, "attention_bias": True},
    "learned": {"position_embedding": "learned", "lm_head_bias": True},
    "widths": {"d_k": 6, "d_v": 10, "num_heads": 3},
    "untied": {"tie_word_embeddings": False, "scale_embedding": False},
}


def make_model(variant="paper", dropout=0.0, **fields) -> VaswaniForConditionalGeneration:
    torch.manual_seed(3)
    config = VaswaniConfig(
        **{
            "vocab_size": 50, "d_model": 16, "d_ff": 24, "num_heads": 2, "encoder_layers": 2, "decoder_layers": 2,
            "max_position_embeddings": 48, "dropout": dropout, **VARIANTS[variant], **fields,
        }
    )  # fmt: skip
    return VaswaniForConditionalGeneration(config).eval()


def make_inputs(batch=3, source=8, target=7) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(4)
    inputs = {
        "input_ids": torch.randint(3, 50, (batch, source), generator=generator),
        "decoder_input_ids": torch.randint(3, 50, (batch, target), generator=generator),
    }
    inputs["attention_mask"] = torch.ones_like(inputs["input_ids"])
    inputs["attention_mask"][1, 5:] = 0
    return inputs


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["dynamic", "static"])
def test_cached_steps_equal_one_pass(variant, kind):
    model, inputs = make_model(variant).double(), make_inputs()
    whole = model(**inputs).logits
    encoded = model.get_encoder()(inputs["input_ids"], attention_mask=inputs["attention_mask"])
    if kind == "dynamic":
        cache = EncoderDecoderCache(DynamicCache(config=model.config), DynamicCache(config=model.config))
    else:
        decoder = model.config.get_text_config(decoder=True)
        cache = EncoderDecoderCache(StaticCache(decoder, max_cache_len=12), StaticCache(decoder, max_cache_len=8))
    pieces, start = [], 0
    for length in (3, 1, 2, 1):  # a prefix, then single tokens and a block
        output = model(
            encoder_outputs=encoded,
            attention_mask=inputs["attention_mask"],
            decoder_input_ids=inputs["decoder_input_ids"][:, start : start + length],
            past_key_values=cache,
            use_cache=True,
        )
        pieces.append(output.logits)
        start += length
    torch.testing.assert_close(torch.cat(pieces, dim=1), whole, atol=1e-12, rtol=0)


def test_four_dimensional_masks():
    model, inputs = make_model().double(), make_inputs()
    expected = model(**inputs).logits
    blocked = torch.zeros(3, 1, 8, 8, dtype=torch.double)
    blocked[1, :, :, 5:] = torch.finfo(torch.double).min
    encoded = model.get_encoder()(inputs["input_ids"], attention_mask=blocked)
    output = model(
        encoder_outputs=encoded,
        attention_mask=inputs["attention_mask"],
        decoder_input_ids=inputs["decoder_input_ids"],
    )
    torch.testing.assert_close(output.logits, expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_recorded_outputs(implementation):
    model, inputs = make_model("widths"), make_inputs()
    model.set_attn_implementation(implementation)
    plain = model(**inputs)
    output = model(
        **inputs, output_attentions=True, output_hidden_states=True, output_queries=True, output_keys=True,
        output_cross_queries=True, output_cross_keys=True,
    )  # fmt: skip
    torch.testing.assert_close(output.logits, plain.logits)
    assert [tuple(a.shape) for a in output.encoder_attentions] == [(3, 3, 8, 8)] * 2
    assert [tuple(a.shape) for a in output.decoder_attentions] == [(3, 3, 7, 7)] * 2
    assert [tuple(a.shape) for a in output.cross_attentions] == [(3, 3, 7, 8)] * 2
    assert len(output.encoder_hidden_states) == len(output.decoder_hidden_states) == 3
    for weights in (*output.encoder_attentions, *output.decoder_attentions, *output.cross_attentions):
        torch.testing.assert_close(weights.sum(-1), torch.ones_like(weights[..., 0]))
    assert output.decoder_attentions[0].triu(1).abs().max() == 0
    assert output.cross_attentions[0][1, :, :, 5:].abs().max() == 0
    # queries and keys are what the weights were made from
    queries = output.cross_queries[0].view(3, 7, 3, 6).transpose(1, 2)
    keys = output.cross_keys[0].view(3, 8, 3, 6).transpose(1, 2)
    scores = queries @ keys.transpose(2, 3) / 6**0.5
    torch.testing.assert_close(scores[0].softmax(-1), output.cross_attentions[0][0])
    assert len(output.encoder_queries) == len(output.encoder_keys) == len(output.decoder_queries) == 2


def test_logits_to_keep():
    model, inputs = make_model(), make_inputs()
    logits = model(**inputs).logits
    torch.testing.assert_close(model(**inputs, logits_to_keep=2).logits, logits[:, -2:])
    torch.testing.assert_close(model(**inputs, logits_to_keep=torch.tensor([1, 4])).logits, logits[:, [1, 4]])


def test_initialisation_is_the_papers():
    torch.manual_seed(0)
    config = VaswaniConfig(vocab_size=4000, d_model=64, d_ff=256, num_heads=4, encoder_layers=2, decoder_layers=1)
    model = VaswaniForConditionalGeneration(config)
    assert model.lm_head.weight is model.model.shared.weight is model.model.decoder.embed_tokens.weight
    assert model.model.shared.weight.std().item() == pytest.approx(64**-0.5, rel=0.02)
    for linear, fan_in, fan_out in (
        (model.model.encoder.layers[0].self_attn.q_proj, 64, 64),
        (model.model.encoder.layers[1].feed_forward.fc1, 64, 256),
    ):
        bound = (6 / (fan_in + fan_out)) ** 0.5
        assert linear.weight.abs().max().item() == pytest.approx(bound, rel=0.02)
        assert linear.weight.std().item() == pytest.approx(bound / 3**0.5, rel=0.05)
    assert model.model.encoder.layers[0].feed_forward.fc1.bias.abs().max() == 0


def test_any_length_beyond_the_table():
    model = make_model().double()
    source = torch.randint(3, 50, (1, 70), generator=torch.Generator().manual_seed(0))
    longer = make_model(max_position_embeddings=200).double()
    output = model(input_ids=source, decoder_input_ids=source).logits
    torch.testing.assert_close(output, longer(input_ids=source, decoder_input_ids=source).logits, atol=1e-12, rtol=0)
    assert model.generate(source, num_beams=1, min_new_tokens=60, max_new_tokens=60).shape == (1, 61)


def test_dropout_works_where_the_paper_has_it():
    model, inputs = make_model(dropout=0.5).train(), make_inputs()
    assert not torch.equal(model(**inputs).logits, model(**inputs).logits)
    rates = {name: module.p for name, module in model.named_modules() if isinstance(module, torch.nn.Dropout)}
    for name, rate in rates.items():
        assert rate == (0.0 if "feed_forward.dropout" in name else 0.5)
    assert model.model.encoder.layers[0].self_attn.attention_dropout == 0.0


def test_package_registers_on_import_and_names_its_public_classes():
    for name in vaswani_tx.__all__:
        assert hasattr(vaswani_tx, name)
    model = AutoModelForSeq2SeqLM.from_config(VaswaniConfig.from_preset("tiny", vocab_size=20))
    assert type(model) is VaswaniForConditionalGeneration


def test_nothing_to_decode_is_an_error_not_a_guess():
    model, inputs = make_model(), make_inputs()
    with pytest.raises(ValueError, match="labels or decoder_input_ids"):
        model(input_ids=inputs["input_ids"])
    assert model.model(input_ids=inputs["input_ids"]).last_hidden_state.shape == (3, 8, 16)
