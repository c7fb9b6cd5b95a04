"""Defaults, presets, aliases and checks of the configuration."""

import warnings

import pytest
import torch
from huggingface_hub.errors import StrictDataclassError
from transformers import AutoConfig

from tests.helpers import GOLDEN_PAPER
from vaswani_tx import (
    PRESETS,
    VaswaniConfig,
    VaswaniDecoderConfig,
    VaswaniEncoderConfig,
    VaswaniForConditionalGeneration,
)

TABLE3 = {row["row"]: row for row in GOLDEN_PAPER["table3_params"]["rows"]}


def count_parameters(config: VaswaniConfig) -> int:
    with torch.device("meta"):
        model = VaswaniForConditionalGeneration(config)
    model.tie_weights()
    return sum(parameter.numel() for parameter in model.parameters())


@pytest.mark.parametrize("row", TABLE3)
def test_parameter_count_of_each_row_of_table_3(row):
    assert count_parameters(VaswaniConfig.from_preset(row)) == TABLE3[row]["total_V37000"]


def test_parameter_counts_of_departures_from_the_paper():
    counts = GOLDEN_PAPER["table3_params"]["variants_base_V37000"]
    assert count_parameters(VaswaniConfig(attention_bias=True)) == counts["attn_bias"]
    assert count_parameters(VaswaniConfig(final_layer_norm=True)) == counts["final_norms"]
    assert count_parameters(VaswaniConfig(lm_head_bias=True)) == counts["out_bias"]
    assert count_parameters(VaswaniConfig(tie_word_embeddings=False)) == counts["untied_out_only(2)"]
    everything = VaswaniConfig(attention_bias=True, final_layer_norm=True, lm_head_bias=True)
    assert count_parameters(everything) == counts["hf_style_all_biases_final_norm"]


def test_every_row_of_the_paper_is_a_preset():
    assert set(GOLDEN_PAPER["table3_params"]["paper_metrics"]) | {"tiny"} == set(PRESETS)


def test_defaults_are_the_papers_base_model():
    config = VaswaniConfig()
    assert (config.d_model, config.d_ff, config.num_heads, config.d_k, config.d_v) == (512, 2048, 8, 64, 64)
    assert (config.encoder_layers, config.decoder_layers, config.dropout) == (6, 6, 0.1)
    assert (config.attention_dropout, config.activation_dropout, config.activation_function) == (0.0, 0.0, "relu")
    assert (config.norm_order, config.final_layer_norm, config.attention_bias) == ("post", False, False)
    assert config.tie_word_embeddings and config.scale_embedding and config.layer_norm_eps == 1e-6


def test_tiny_preset():
    config = VaswaniConfig.from_preset("tiny", vocab_size=10000, dropout=0.3)
    assert (config.d_model, config.d_ff, config.num_heads, config.encoder_layers, config.decoder_layers) == (
        128, 256, 4, 4, 4,
    )  # fmt: skip
    assert (config.vocab_size, config.dropout, config.d_k) == (10000, 0.3, 32)


def test_unknown_preset_names_the_nearest():
    with pytest.raises(ValueError, match="'C_d256'"):
        VaswaniConfig.from_preset("C_d255")


def test_widths_are_derived_after_aliases():
    config = VaswaniConfig(hidden_size=64, num_heads=8)
    assert (config.d_model, config.d_k, config.d_v) == (64, 8, 8)
    assert VaswaniConfig.from_preset("tiny", hidden_size=64).d_k == 16
    with pytest.raises(ValueError, match="d_model=32 and hidden_size=64"):
        VaswaniConfig.from_preset("tiny", hidden_size=64, d_model=32)


@pytest.mark.parametrize("alias,field", sorted(VaswaniConfig.attribute_map.items()))
def test_alias_as_keyword_and_attribute(alias, field):
    value = {"activation_function": "gelu"}.get(field, 0.25 if "dropout" in field else 16)
    config = VaswaniConfig(**{alias: value})
    assert getattr(config, field) == value and getattr(config, alias) == value
    setattr(config, alias, getattr(VaswaniConfig(), field))
    assert getattr(config, field) == getattr(VaswaniConfig(), field)


@pytest.mark.parametrize(
    "fields,words",
    [
        ({"num_heads": 7}, ["num_heads=7", "d_model=512", "num_heads=8"]),
        ({"d_model": 511, "num_heads": 7}, ["d_model=511", "d_model=512", "learned"]),
        ({"d_ff": -1}, ["d_ff", "-1"]),
        ({"d_k": 0}, ["d_k", "0"]),
        ({"vocab_size": 0}, ["vocab_size"]),
        ({"encoder_layers": -2}, ["encoder_layers", "-2"]),
        ({"dropout": 1.0}, ["dropout", "1.0"]),
        ({"layer_norm_eps": 0.0}, ["layer_norm_eps"]),
        ({"norm_order": "postnorm"}, ["norm_order", "'post'", "'pre'"]),
        ({"position_embedding": "rotary"}, ["position_embedding", "sinusoidal"]),
        ({"activation_function": "rel"}, ["activation_function", "'relu'"]),
        ({"eos_token_id": -1}, ["eos_token_id", "-1"]),
        ({"vocab_size": 2}, ["eos_token_id", "from 0 to 1", "vocab_size=2"]),
        ({"decoder_vocab_size": 36000}, ["decoder_vocab_size=36000", "vocab_size=37000"]),
        ({"tgt_vocab_size": 36000}, ["tgt_vocab_size=36000", "vocab_size=37000"]),
        ({"src_vocab_size": 36000}, ["src_vocab_size=36000", "vocab_size=37000", "give source_vocab_size"]),
        (
            {"decoder_vocab_size": 9, "source_vocab_size": 9},
            ["decoder_vocab_size=9", "vocab_size=37000, which is the size of the target's", "give source_vocab_size"],
        ),
        ({"src_vocab_size": 8, "source_vocab_size": 9}, ["src_vocab_size=8 differs from source_vocab_size=9"]),
        ({"source_vocab_size": 0}, ["source_vocab_size must be a positive integer, not 0"]),
        ({"source_vocab_size": 2**31}, ["source_vocab_size", "2,147,483,647"]),
        ({"source_vocab_size": 50, "vocab_size": 9, "eos_token_id": 9}, ["eos_token_id", "from 0 to 8 (vocab_size=9)"]),
        ({"num_key_value_heads": 2}, ["num_key_value_heads=2", "num_heads=8"]),
        ({"encoder_ffn_dim": 8, "decoder_ffn_dim": 16}, ["encoder_ffn_dim=8", "decoder_ffn_dim=16", "d_ff"]),
        ({"encoder_layers": 2, "num_hidden_layers": 3}, ["encoder_layers=2", "num_hidden_layers=3"]),
    ],
)
def test_wrong_value_names_the_field_and_the_mend(fields, words):
    with pytest.raises(ValueError) as caught:
        VaswaniConfig(**fields)
    for word in words:
        assert word in str(caught.value)


def test_wrong_type_names_the_field():
    with pytest.raises(StrictDataclassError, match="d_model"):
        VaswaniConfig(d_model="512")


@pytest.mark.parametrize("config_class", [VaswaniConfig, VaswaniEncoderConfig, VaswaniDecoderConfig])
@pytest.mark.parametrize("name", ["pad", "bos", "eos", "decoder_start", "forced_bos", "forced_eos", "mask"])
def test_token_ids_are_those_of_the_vocabulary(config_class, name):
    field = f"{name}_token_id"
    for wrong in (50, -1, [2, 50], "</s>"):
        with pytest.raises((ValueError, StrictDataclassError), match=field):
            config_class(vocab_size=50, **{field: wrong})
    if name in ("pad", "bos", "eos") or (name, config_class) == ("decoder_start", VaswaniConfig):
        for right in (0, 49, None):
            assert getattr(config_class(vocab_size=50, **{field: right}), field) == right


def test_several_end_tokens_and_none():
    for ends in ([2, 49], [], None):
        assert VaswaniConfig(vocab_size=50, eos_token_id=ends).eos_token_id == ends


def test_token_ids_follow_a_resized_vocabulary(tmp_path):
    model = VaswaniForConditionalGeneration(VaswaniConfig.from_preset("tiny", vocab_size=50, encoder_layers=1))
    model.resize_token_embeddings(60)
    model.config.pad_token_id = 59
    model.save_pretrained(tmp_path)
    assert AutoConfig.from_pretrained(tmp_path).pad_token_id == 59
    model.resize_token_embeddings(50)
    with pytest.raises(StrictDataclassError, match=r"pad_token_id .* from 0 to 49"):
        model.save_pretrained(tmp_path)


@pytest.mark.parametrize("name", ["decoder_vocab_size", "src_vocab_size", "tgt_vocab_size"])
def test_a_vocabulary_of_the_same_size_is_the_shared_one(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert name not in VaswaniConfig(vocab_size=50, **{name: 50}).to_dict()


def test_names_that_others_give_to_two_vocabularies():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for names in ({"src_vocab_size": 70}, {"tgt_vocab_size": 50, "src_vocab_size": 70}, {"decoder_vocab_size": 50}):
            config = VaswaniConfig(vocab_size=50, source_vocab_size=70, **names)
            assert not names.keys() & config.to_dict().keys() and config.source_vocab_size == 70
    config = VaswaniConfig(vocab_size=50, source_vocab_size=30, pad_token_id=49, bos_token_id=48)  # ids of the target
    assert config.pad_token_id == 49
    with pytest.warns(UserWarning, match="no field 'source_vocab_size'"):
        VaswaniEncoderConfig(source_vocab_size=30)
    with pytest.raises(ValueError, match="the only one that these models have"):
        VaswaniEncoderConfig(src_vocab_size=30)


def test_value_made_wrong_later_is_found_when_saving(tmp_path):
    config = VaswaniConfig()
    config.num_heads = -8
    with pytest.raises(StrictDataclassError, match="num_heads"):
        config.save_pretrained(tmp_path)


def test_unknown_keyword_warns_with_the_nearest_known_one():
    with pytest.warns(UserWarning, match="'d_modle'.*'d_model'"):
        VaswaniConfig(d_modle=64)


def test_heads_need_not_divide_where_widths_are_given():
    assert VaswaniConfig(d_model=512, num_heads=7, d_k=16, d_v=24).d_v == 24


def test_saved_configuration_loads_alike_and_silently(tmp_path):
    config = VaswaniConfig.from_preset("tiny", vocab_size=99, d_k=5, d_v=7, norm_order="pre", dropout=0)
    config.save_pretrained(tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        loaded = AutoConfig.from_pretrained(tmp_path)
    assert type(loaded) is VaswaniConfig and loaded.to_dict() == config.to_dict() | {
        key: loaded.to_dict()[key] for key in ("transformers_version", "_name_or_path") if key in loaded.to_dict()
    }


def test_caches_are_sized_by_the_decoder():
    config = VaswaniConfig(encoder_layers=2, decoder_layers=5)
    assert config.get_text_config(decoder=True).num_hidden_layers == 5
