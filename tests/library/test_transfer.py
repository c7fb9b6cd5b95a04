"""Pre-trained stacks into an encoder-decoder, and a new vocabulary onto an old model."""

import logging

import pytest
import torch

from tests.helpers.training_runs import flags
from vaswani_tx import (
    TransferError,
    VaswaniConfig,
    VaswaniDecoderConfig,
    VaswaniEncoderConfig,
    VaswaniForCausalLM,
    VaswaniForConditionalGeneration,
    VaswaniForMaskedLM,
    VaswaniTokenizer,
    transfer_vocabulary,
)
from vaswani_tx.training.train_translation import main

SIZES = {"vocab_size": 30, "d_model": 8, "d_ff": 12, "num_heads": 2, "num_hidden_layers": 2, "dropout": 0.0}


@pytest.fixture
def folders(tmp_path):
    torch.manual_seed(5)
    masked = VaswaniForMaskedLM(VaswaniEncoderConfig(**SIZES))
    causal = VaswaniForCausalLM(VaswaniDecoderConfig(**{**SIZES, "num_hidden_layers": 3}))
    masked.save_pretrained(tmp_path / "masked")
    causal.save_pretrained(tmp_path / "causal")
    return masked, causal, str(tmp_path / "masked"), str(tmp_path / "causal")


@pytest.fixture
def told(caplog):
    """What the library's logger says."""
    logger = logging.getLogger("transformers")
    logger.propagate, former = True, logger.propagate
    yield caplog
    logger.propagate = former


@pytest.mark.parametrize("embeddings", ["encoder", "decoder", "mean"])
def test_stacks_are_taken_over_name_by_name(folders, embeddings):
    masked, causal, encoder, decoder = folders
    build = VaswaniForConditionalGeneration.from_encoder_decoder_pretrained
    model = build(encoder, decoder, embeddings=embeddings, dropout=0.25)
    assert (model.config.encoder_layers, model.config.decoder_layers, model.config.dropout) == (2, 3, 0.25)
    mine = model.state_dict()
    taken = set()
    for source, side in ((masked, "encoder"), (causal, "decoder")):
        for name, value in source.model.state_dict().items():
            if name != "embed_tokens.weight":
                torch.testing.assert_close(mine[f"model.{side}.{name}"], value, atol=0, rtol=0)
                taken.add(f"model.{side}.{name}")
    left = {name for name in mine if name not in taken and "cross_attn" not in name}
    assert left == {
        "model.shared.weight", "lm_head.weight",
        "model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight",
    }  # fmt: skip
    one, other = (source.model.embed_tokens.weight for source in (masked, causal))
    expected = {"encoder": one, "decoder": other, "mean": (one + other) / 2}[embeddings]
    for name in left:
        torch.testing.assert_close(mine[name], expected, atol=0, rtol=0)


def test_the_encoder_computes_what_it_did(folders):
    masked, _, encoder, decoder = folders
    model = VaswaniForConditionalGeneration.from_encoder_decoder_pretrained(encoder, decoder)
    tokens = torch.randint(3, 30, (2, 7))
    expected = masked.eval().model(tokens).last_hidden_state
    torch.testing.assert_close(model.get_encoder()(tokens).last_hidden_state, expected, atol=0, rtol=0)


def test_what_is_fresh_is_said(folders, told):
    *_, encoder, decoder = folders
    VaswaniForConditionalGeneration.from_encoder_decoder_pretrained(encoder, decoder)
    assert "decoder.layers.cross_attn" in told.text and "different embeddings" in told.text
    told.clear()
    model = VaswaniForConditionalGeneration.from_encoder_decoder_pretrained(encoder)
    assert "decoder from random weights" in told.text and "decoder.layers" in told.text
    assert model.config.decoder_layers == 2


def test_stacks_of_another_translation_model_and_of_the_other_kind(folders, tmp_path):
    _, causal, encoder, decoder = folders
    build = VaswaniForConditionalGeneration.from_encoder_decoder_pretrained
    whole = build(encoder, decoder)
    whole.save_pretrained(tmp_path / "whole")
    again = build(str(tmp_path / "whole"), str(tmp_path / "whole"))
    for name, value in whole.state_dict().items():  # cross-attention as well
        torch.testing.assert_close(again.state_dict()[name], value, atol=0, rtol=0)
    turned = build(decoder, encoder)  # a causal model's layers as encoder, a masked one's as decoder
    name = "layers.2.feed_forward.fc1.weight"
    torch.testing.assert_close(turned.model.encoder.state_dict()[name], causal.model.state_dict()[name], atol=0, rtol=0)


def test_what_does_not_fit_is_named(folders, tmp_path):
    *_, encoder, decoder = folders
    build = VaswaniForConditionalGeneration.from_encoder_decoder_pretrained
    VaswaniForCausalLM(VaswaniDecoderConfig(**{**SIZES, "d_ff": 16})).save_pretrained(tmp_path / "wide")
    with pytest.raises(TransferError, match=r"d_ff is 12 in '.*masked' and 16 in '.*wide'"):
        build(encoder, str(tmp_path / "wide"))
    with pytest.raises(TransferError, match="d_model=16 contradicts"):
        build(encoder, decoder, d_model=16)
    with pytest.raises(TransferError, match="embeddings must be"):
        build(encoder, decoder, embeddings="both")
    with pytest.raises(TransferError, match="needs a pre-trained decoder"):
        build(encoder, embeddings="mean")


@pytest.fixture(scope="module")
def tokenizers():
    old = VaswaniTokenizer.train(iter(["the old house and the old dog"] * 20), vocab_size=275, show_progress=False)
    new = VaswaniTokenizer.train(iter(["the new house and a mouse"] * 20), vocab_size=280, show_progress=False)
    return old, new


def split_by(tokenizer, token):
    """The pieces of a word with its space in front, as the tokenizer makes them."""
    assert token.startswith("Ġ")
    return tokenizer.tokenize(token[1:], add_special_tokens=False)


@pytest.mark.parametrize("tied", [True, False])
def test_kept_tokens_keep_their_rows(tokenizers, tied):
    old, new = tokenizers
    torch.manual_seed(6)
    config = VaswaniConfig(
        vocab_size=len(old), d_model=8, d_ff=12, num_heads=2, encoder_layers=1, decoder_layers=1,
        tie_word_embeddings=tied, lm_head_bias=True,
    )  # fmt: skip
    model = VaswaniForConditionalGeneration(config).eval()
    torch.nn.init.normal_(model.lm_head.bias)
    before = model.get_input_embeddings().weight.detach().clone()
    head, bias = model.lm_head.weight.detach().clone(), model.lm_head.bias.detach().clone()
    counts = transfer_vocabulary(model, old, new)
    after = model.get_input_embeddings().weight
    ids, old_ids = new.get_vocab(), old.get_vocab()
    common = ids.keys() & old_ids.keys()
    assert counts.kept == len(common) > 250 and counts.kept + counts.composed + counts.fresh == len(new) == len(after)
    for token in common:
        torch.testing.assert_close(after[ids[token]], before[old_ids[token]], atol=0, rtol=0)
        torch.testing.assert_close(model.lm_head.weight[ids[token]], head[old_ids[token]], atol=0, rtol=0)
        torch.testing.assert_close(model.lm_head.bias[ids[token]], bias[old_ids[token]], atol=0, rtol=0)
    composed = next(token for token in ids if token not in old_ids and token.startswith("Ġ") and len(token) > 3)
    pieces = [old_ids[piece] for piece in split_by(old, composed)]
    torch.testing.assert_close(after[ids[composed]], before[pieces].mean(dim=0))
    assert model.config.vocab_size == len(new) and (model.lm_head.weight is after) == tied


def test_a_tokenizer_that_is_not_the_models(tokenizers):
    old, new = tokenizers
    model = VaswaniForCausalLM(VaswaniDecoderConfig(**SIZES))
    with pytest.raises(TransferError, match="not the tokenizer"):
        transfer_vocabulary(model, old, new)


def test_recipes_start_from_stacks_and_with_a_new_vocabulary(reversal, tmp_path, capsys):
    base = flags(reversal, tmp_path / "base", max_steps=1)
    assert main(base) == 0, capsys.readouterr().err
    start = str(tmp_path / "base" / "best") if (tmp_path / "base" / "best").exists() else None
    start = start or str(sorted((tmp_path / "base" / "checkpoints").iterdir())[-1])
    stacks = flags(reversal, tmp_path / "stacks", max_steps=1, encoder_from=start, decoder_from=start)
    assert main(stacks) == 0, capsys.readouterr().err
    # Another vocabulary is an error that names the key, and with the key a start.
    other = VaswaniTokenizer.train(iter(["a b c d e f g h"] * 9), vocab_size=262, show_progress=False)
    other.save_pretrained(tmp_path / "other")
    fresh = flags(reversal, tmp_path / "fresh", max_steps=1, init_from=start, tokenizer=tmp_path / "other")
    assert main(fresh) == 2
    assert "new_vocabulary: true" in capsys.readouterr().err
    assert main([*fresh, "--new-vocabulary"]) == 0
    assert "tokens kept their rows" in capsys.readouterr().err
