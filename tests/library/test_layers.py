"""Positions against golden values, on every way a model comes into being, and attention against a plain loop."""

import math

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from tests.helpers import GOLDEN_PAPER
from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration
from vaswani_tx.layers_vaswani import (
    VaswaniAttention,
    VaswaniDecoderLayer,
    VaswaniEncoderLayer,
    VaswaniPositionalEncoding,
    VaswaniSinusoidalPositions,
    eager_attention_forward,
    sinusoids,
)


def small_config(**fields) -> VaswaniConfig:
    defaults = {"vocab_size": 40, "d_model": 16, "d_ff": 24, "num_heads": 2, "encoder_layers": 2, "decoder_layers": 2}
    return VaswaniConfig(**{**defaults, "max_position_embeddings": 64, **fields})


def expected_table(positions: int, d_model: int) -> torch.Tensor:
    return torch.tensor(
        [
            [(math.cos if c % 2 else math.sin)(p / 10000 ** ((c - c % 2) / d_model)) for c in range(d_model)]
            for p in range(positions)
        ],
        dtype=torch.float64,
    )


def test_golden_sinusoids():
    for position, channel, value in GOLDEN_PAPER["sinusoid_d512"]["values"]:
        assert sinusoids(torch.tensor(position), 512)[channel].item() == pytest.approx(value, abs=1e-11)
    full = torch.tensor(GOLDEN_PAPER["sinusoid_d8_full"], dtype=torch.float64)
    torch.testing.assert_close(sinusoids(torch.arange(len(full)), 8), full, atol=1e-12, rtol=0)
    for position, row in GOLDEN_PAPER["sinusoid_d128_rows"].items():
        values = sinusoids(torch.tensor(int(position)), 128)
        torch.testing.assert_close(values, torch.tensor(row, dtype=torch.float64), atol=1e-12, rtol=0)


def test_golden_scales():
    scales = GOLDEN_PAPER["scales"]
    assert VaswaniPositionalEncoding(VaswaniConfig()).scale == pytest.approx(scales["embed_scale_512"], abs=1e-12)
    big = VaswaniPositionalEncoding(VaswaniConfig.from_preset("big", max_position_embeddings=8))
    assert big.scale == pytest.approx(scales["embed_scale_1024"], abs=1e-12)
    assert VaswaniAttention(VaswaniConfig(), 0).scaling == pytest.approx(scales["attn_scale_dk64"], abs=1e-12)


def tables_of(model) -> list[torch.Tensor]:
    return [module.table for module in model.modules() if isinstance(module, VaswaniSinusoidalPositions)]


def assert_right_tables(model, dtype=torch.float32):
    tables = tables_of(model)
    assert len(tables) == 2
    for table in tables:
        assert table.dtype == dtype
        torch.testing.assert_close(
            table, expected_table(64, 16).to(dtype), atol=0 if dtype != torch.float64 else 1e-12, rtol=0
        )


def test_table_is_right_however_the_model_comes_to_be(tmp_path):
    model = VaswaniForConditionalGeneration(small_config())
    assert_right_tables(model)
    assert not any("table" in name for name in model.state_dict())
    model.save_pretrained(tmp_path / "whole")
    assert_right_tables(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "whole"))
    for dtype in (torch.bfloat16, torch.float16):
        assert_right_tables(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "whole", dtype=dtype))
    assert_right_tables(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "whole", dtype=torch.float64), torch.float64)
    model.save_pretrained(tmp_path / "shards", max_shard_size="4KB")
    assert len(list((tmp_path / "shards").glob("*.safetensors"))) > 2
    assert_right_tables(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "shards"))


def test_table_survives_casts_and_moves():
    model = VaswaniForConditionalGeneration(small_config())
    assert_right_tables(model.to(torch.bfloat16))
    assert_right_tables(model.half())
    assert_right_tables(model.float())  # there and back again, unrounded
    assert_right_tables(model.double(), torch.float64)
    with torch.device("meta"):
        empty = VaswaniForConditionalGeneration(small_config())
    assert_right_tables(empty.to_empty(device="cpu"))


def test_positions_beyond_the_table_continue_it():
    module = VaswaniSinusoidalPositions(8, 16)
    hidden = torch.zeros(1, 20, 16)
    torch.testing.assert_close(module(hidden), expected_table(20, 16).float(), atol=0, rtol=0)
    torch.testing.assert_close(module(hidden[:, :3], past_length=6), expected_table(9, 16).float()[6:], atol=0, rtol=0)
    given = module(hidden[:, :2], position_ids=torch.tensor([[30, 2]]))
    torch.testing.assert_close(given, expected_table(31, 16).float()[[30, 2]][None], atol=0, rtol=0)


def test_learned_positions_end_with_a_clear_error():
    model = VaswaniForConditionalGeneration(small_config(position_embedding="learned", max_position_embeddings=8))
    with pytest.raises(ValueError, match=r"9 tokens.*max_position_embeddings=8"):
        model(input_ids=torch.ones(1, 9, dtype=torch.long), labels=torch.ones(1, 3, dtype=torch.long))


def test_embedding_scales_adds_positions_and_drops():
    encoding = VaswaniPositionalEncoding(small_config(dropout=0.5))
    rows = torch.randn(2, 5, 16)
    expected = rows * 4 + expected_table(5, 16).float()
    torch.testing.assert_close(encoding.eval()(rows), expected)
    dropped = encoding.train()(rows)
    assert 0.2 < (dropped == 0).float().mean() < 0.8


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_attention_equals_the_paper_head_by_head(implementation):
    """Every head with its own W^Q, W^K, W^V as in section 3.2.2, d_k unlike d_v and unlike d_model / h."""
    torch.manual_seed(1)
    config = small_config(num_heads=3, d_k=5, d_v=7)
    config._attn_implementation = implementation
    attention = VaswaniAttention(config, 0).double().eval()
    queries, memory = torch.randn(2, 4, 16).double(), torch.randn(2, 6, 16).double()
    heads = []
    for head in range(3):
        keys_of, values_of = slice(head * 5, head * 5 + 5), slice(head * 7, head * 7 + 7)
        q = queries @ attention.q_proj.weight[keys_of].T
        k = memory @ attention.k_proj.weight[keys_of].T
        v = memory @ attention.v_proj.weight[values_of].T
        heads.append(torch.softmax(q @ k.transpose(1, 2) / math.sqrt(5), dim=-1) @ v)
    expected = torch.cat(heads, dim=-1) @ attention.o_proj.weight.T
    torch.testing.assert_close(attention(queries, memory)[0], expected, atol=1e-12, rtol=0)


def test_feed_forward_and_residual_are_equation_2_and_section_3_1():
    layer, stream = VaswaniEncoderLayer(small_config(dropout=0.0), 0), torch.randn(2, 3, 16)
    block = layer.feed_forward
    torch.nn.init.zeros_(layer.self_attn.o_proj.weight)  # what attention adds is then zero
    expected = torch.clamp(stream @ block.fc1.weight.T + block.fc1.bias, min=0) @ block.fc2.weight.T + block.fc2.bias
    torch.testing.assert_close(block(stream), expected)
    joined = stream + expected
    normal = (joined - joined.mean(-1, keepdim=True)) / torch.sqrt(joined.var(-1, unbiased=False, keepdim=True) + 1e-6)
    layer.self_attn_residual.norm = torch.nn.Identity()
    torch.testing.assert_close(layer(stream), normal, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("norm_order", ["post", "pre"])
def test_layers_are_the_formulas_of_both_orders(norm_order):
    """`LayerNorm(x + Sublayer(x))` of section 3.1 and `x + Sublayer(LayerNorm(x))`, with LayerNorms that all differ."""
    torch.manual_seed(1)
    config = small_config(norm_order=norm_order)
    config._attn_implementation = "eager"
    encoder, decoder = VaswaniEncoderLayer(config, 0).eval(), VaswaniDecoderLayer(config, 0).eval()
    stream, memory = torch.randn(2, 3, 16), torch.randn(2, 5, 16)
    for layer in (encoder, decoder):
        expected = stream
        for name in ("self_attn", "cross_attn", "feed_forward"):
            if not hasattr(layer, name):
                continue
            sublayer, norm = getattr(layer, name), getattr(layer, f"{name}_residual").norm
            torch.nn.init.normal_(norm.weight)
            torch.nn.init.normal_(norm.bias)
            entered = norm(expected) if norm_order == "pre" else expected
            output = sublayer(entered, memory) if name == "cross_attn" else sublayer(entered)
            expected = expected + (output if name == "feed_forward" else output[0])
            expected = expected if norm_order == "pre" else norm(expected)
        given = (stream, memory) if layer is decoder else (stream,)
        assert torch.equal(layer(*given), expected)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_eager_attention_where_adding_the_mask_would_overflow(dtype):
    """Scores of -50 and a whole row masked by the type's lowest number: even attention, not NaN."""
    module = torch.nn.Module().eval()
    module.is_causal = False
    query, key = torch.full((1, 1, 2, 4), -5.0, dtype=dtype), torch.full((1, 1, 3, 4), 5.0, dtype=dtype)
    value = torch.tensor([1.0, 2.0, 6.0], dtype=dtype).view(1, 1, 3, 1)
    mask = torch.zeros(1, 1, 2, 3, dtype=dtype)
    mask[:, :, 1] = torch.finfo(dtype).min
    output, weights = eager_attention_forward(module, query, key, value, mask)
    assert torch.isfinite(weights).all()
    torch.testing.assert_close(output.flatten(), torch.tensor([3.0, 3.0], dtype=dtype), atol=0.02, rtol=0)


def test_positions_of_other_toolkits():
    config = small_config(
        d_model=16, position_frequencies="tensor2tensor", position_offset=2, max_position_embeddings=6
    )
    encoding = VaswaniPositionalEncoding(config).eval()
    plain = [
        [
            function((position + 2) * math.exp(-math.log(10000) * i / 7))
            for i in range(8)
            for function in (math.sin, math.cos)
        ]
        for position in range(9)
    ]
    for length in (6, 9):  # from the table, and beyond it
        shown = encoding(torch.zeros(1, length, 16))[0]
        torch.testing.assert_close(shown, torch.tensor(plain[:length]), atol=1e-6, rtol=0)


def test_norm_of_embeddings():
    encoding = VaswaniPositionalEncoding(small_config(d_model=16, embedding_norm=True, layer_norm_eps=1e-3)).eval()
    torch.nn.init.normal_(encoding.norm.weight)
    inputs = torch.randn(2, 3, 16)
    summed = (4 * inputs + sinusoids(torch.arange(3), 16)).float()
    wanted = torch.nn.functional.layer_norm(summed, (16,), encoding.norm.weight, eps=1e-3)
    torch.testing.assert_close(encoding(inputs), wanted, atol=1e-5, rtol=0)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"position_frequencies": "fairseq"}, "position_frequencies must be 'paper' or 'tensor2tensor'"),
        ({"position_offset": -1}, "position_offset must be a number of positions"),
        ({"position_offset": 2, "position_embedding": "learned"}, "leave them out"),
        ({"position_frequencies": "tensor2tensor", "d_model": 2, "num_heads": 1}, "at least 4"),
    ],
)
def test_wrong_positions_are_named(fields, message):
    with pytest.raises(ValueError, match=message):
        small_config(**fields)
