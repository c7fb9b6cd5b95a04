"""Initial weights by `init_scheme`: against the other software's own initialisation, and what each leaves alone."""

import math

import pytest
import torch
from torch import nn
from transformers import BertConfig, BertModel

from vaswani_tx import (
    VaswaniConfig,
    VaswaniDecoderConfig,
    VaswaniEncoderConfig,
    VaswaniForCausalLM,
    VaswaniForConditionalGeneration,
    VaswaniForImageClassification,
    VaswaniForTokenClassification,
    VaswaniVisionConfig,
)
from vaswani_tx.configuration_vaswani import INIT_SCHEMES

SIZES = {"d_model": 64, "d_ff": 256, "num_heads": 4}
TEXT = {**SIZES, "vocab_size": 400}


def build(scheme, **fields):
    torch.manual_seed(0)
    fields = {**TEXT, "encoder_layers": 1, "decoder_layers": 1, "attention_bias": True, "init_scheme": scheme, **fields}
    return VaswaniForConditionalGeneration(VaswaniConfig(**fields))


def limit(weight):
    return weight.abs().max().item()


def std(weight):
    return weight.std().item()


def glorot(weight):
    return math.sqrt(6 / sum(weight.shape))


def test_tensor2tensor_is_the_default_and_draws_as_before():
    model = build("tensor2tensor")
    torch.manual_seed(0)
    plain = VaswaniForConditionalGeneration(
        VaswaniConfig(**TEXT, encoder_layers=1, decoder_layers=1, attention_bias=True)
    )
    assert VaswaniConfig().init_scheme == "tensor2tensor"
    for name, weight in plain.state_dict().items():
        assert torch.equal(weight, model.state_dict()[name]), name
    assert std(model.model.shared.weight) == pytest.approx(64**-0.5, rel=0.02)
    for name, weight in model.named_parameters():
        if weight.dim() == 2 and "shared" not in name:
            assert 0.97 * glorot(weight) < limit(weight) <= glorot(weight), name


def test_fairseq_starts_attention_as_torchs_stacked_matrix_and_the_rest_as_torchs_layers():
    model = build("fairseq")
    torch.manual_seed(0)
    attention, linear = nn.MultiheadAttention(64, 4), nn.Linear(64, 256)  # of the same rules, in torch itself
    for block in (model.model.encoder.layers[0].self_attn, model.model.decoder.layers[0].cross_attn):
        for projection in (block.q_proj, block.k_proj, block.v_proj):
            assert limit(projection.weight) == pytest.approx(limit(attention.in_proj_weight), rel=0.02)
            assert 0.8 / 8 < limit(projection.bias) <= 1 / 8
        assert limit(block.o_proj.weight) == pytest.approx(glorot(block.o_proj.weight), rel=0.02)
        assert not block.o_proj.bias.any()
    forward = model.model.encoder.layers[0].feed_forward
    assert limit(forward.fc1.weight) == pytest.approx(limit(linear.weight), rel=0.01)
    assert limit(forward.fc1.bias) == pytest.approx(limit(linear.bias), rel=0.1)
    assert limit(forward.fc2.weight) == pytest.approx(256**-0.5, rel=0.01)
    embedding = model.model.shared.weight
    assert std(embedding[1:]) == pytest.approx(64**-0.5, rel=0.02) and not embedding[0].any()


def test_small_is_berts():
    model, bert = (
        build("small"),
        BertModel(BertConfig(vocab_size=400, hidden_size=64, num_hidden_layers=1, num_attention_heads=4)),
    )
    theirs = bert.embeddings.word_embeddings.weight
    for name, weight in model.named_parameters():
        if weight.dim() == 2:
            assert std(weight) == pytest.approx(std(theirs), rel=0.05), name
        elif "norm" not in name:
            assert not weight.any(), name
    assert not theirs[0].any() and not model.model.shared.weight[0].any()


def test_small_attention_is_the_default_with_halved_queries_keys_and_values():
    plain, small = build("tensor2tensor").state_dict(), build("small_attention").state_dict()
    for name, weight in plain.items():
        halved = any(f"{letter}_proj.weight" in name for letter in "qkv")
        assert torch.equal(small[name], weight / 2 if halved else weight), name


def test_deepnorm_follows_the_depth_of_each_stack():
    sizes = {"encoder_layers": 3, "decoder_layers": 1}
    plain, deep = build("tensor2tensor", **sizes).state_dict(), build("deepnorm", **sizes).state_dict()
    for name, weight in plain.items():
        gain = (8 * (3 if ".encoder." in name else 1)) ** -0.25  # DeepNet, table of section 4.1: beta of a single stack
        scaled = any(f"{part}.weight" in name for part in ("v_proj", "o_proj", "fc1", "fc2"))
        torch.testing.assert_close(deep[name], weight * (gain if scaled else 1.0), msg=name)


def test_small_embeddings_are_a_quarter_of_the_default_ones():
    plain, small = build("tensor2tensor").state_dict(), build("small_embeddings").state_dict()
    for name, weight in plain.items():
        part = 0.25 if "embed" in name or "shared" in name or "lm_head" in name else 1.0
        part = 0.5**0.5 if any(f"{letter}_proj.weight" in name for letter in "qkv") else part
        torch.testing.assert_close(small[name], weight * part, msg=name)


FAMILIES = [
    lambda scheme: build(scheme, source_vocab_size=300, position_embedding="learned"),
    lambda scheme: VaswaniForTokenClassification(VaswaniEncoderConfig(**TEXT, num_hidden_layers=1, init_scheme=scheme)),
    lambda scheme: VaswaniForCausalLM(
        VaswaniDecoderConfig(**TEXT, num_hidden_layers=1, tie_word_embeddings=False, init_scheme=scheme)
    ),
    lambda scheme: VaswaniForImageClassification(
        VaswaniVisionConfig(**SIZES, num_hidden_layers=1, image_size=8, patch_size=4, init_scheme=scheme)
    ),
]


@pytest.mark.parametrize("make", FAMILIES)
def test_every_family_saves_its_scheme_and_loads_without_drawing_again(make, tmp_path):
    for scheme in INIT_SCHEMES:
        model = make(scheme)
        model.save_pretrained(tmp_path / scheme)
        loaded = type(model).from_pretrained(tmp_path / scheme)
        assert loaded.config.init_scheme == scheme
        for name, weight in model.state_dict().items():
            assert torch.isfinite(weight).all() and torch.equal(weight, loaded.state_dict()[name]), name


def test_only_what_a_checkpoint_lacks_is_drawn_by_the_scheme(tmp_path):
    model = build("fairseq")
    model.model.shared.weight.data[0] = 7.0  # padding, which the scheme would set to zero
    weights = {name: weight for name, weight in model.state_dict().items() if "layers.0.self_attn.q_proj" not in name}
    model.save_pretrained(tmp_path, state_dict=weights)
    loaded = VaswaniForConditionalGeneration.from_pretrained(tmp_path)
    assert (loaded.model.shared.weight[0] == 7.0).all()
    drawn = loaded.model.encoder.layers[0].self_attn.q_proj.weight
    assert limit(drawn) == pytest.approx(glorot(drawn) / math.sqrt(2), rel=0.02)
    kept = loaded.model.encoder.layers[0].self_attn.k_proj.weight
    assert torch.equal(kept, model.model.encoder.layers[0].self_attn.k_proj.weight)


def test_an_unknown_scheme_is_refused_with_the_known_names():
    with pytest.raises(ValueError) as caught:
        VaswaniConfig(init_scheme="fairsek")
    for word in ("init_scheme", "fairsek", "did you mean 'fairseq'", *INIT_SCHEMES):
        assert word in str(caught.value)
