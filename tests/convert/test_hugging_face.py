"""Models of transformers with random weights, converted: logits equal, and what they generate, token by token."""

import json

import pytest
import torch
from transformers import (
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForSeq2SeqLM,
    AutoModelForTokenClassification,
    BertConfig,
    BertForMaskedLM,
    BertForQuestionAnswering,
    BertForTokenClassification,
    BertModel,
    FSMTConfig,
    FSMTForConditionalGeneration,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
)

from tests.helpers.foreign_models import marian, randomise
from vaswani_tx.convert import ConversionError, convert
from vaswani_tx.modeling_vaswani_encoder import VaswaniEncoderModel
from vaswani_tx.modeling_vaswani_vision import VaswaniVisionModel

MARIANS = {
    "shared": {},
    "relu, wide": {
        "activation_function": "relu", "d_model": 40, "encoder_attention_heads": 5, "decoder_attention_heads": 5,
    },
    "gelu, unscaled, untied": {"activation_function": "gelu", "scale_embedding": False, "tie_word_embeddings": False},
    "separate": {"share_encoder_decoder_embeddings": False, "decoder_vocab_size": 53},
    "separate, untied": {
        "share_encoder_decoder_embeddings": False, "decoder_vocab_size": 29, "tie_word_embeddings": False,
    },
}  # fmt: skip


def converted(model, folder, **options):
    """Save a model, convert it, and return the report; the folder is `out`."""
    model.save_pretrained(folder / "from")
    return convert(folder / "from", folder / "out", **options)


def generated_equally(original, ours, ids, mask, **decoding):
    """Assert that both models write the same tokens, alone, in beams and sampled."""
    for search in ({"num_beams": 1}, {"num_beams": 4}, {"num_beams": 1, "do_sample": True}):
        rows = []
        for model in (original, ours):
            torch.manual_seed(3)
            rows.append(model.generate(input_ids=ids, attention_mask=mask, **search, **decoding))
        assert rows[0].tolist() == rows[1].tolist(), search


@pytest.mark.parametrize("fields", MARIANS.values(), ids=MARIANS)
def test_marian_logits_and_tokens_are_equal(tmp_path, fields):
    original = marian(**fields)
    report = converted(original, tmp_path)
    assert report.check.difference < 1e-5 and report.check.difference_double < 1e-6
    assert report.check.tokens == report.check.equal > 0
    assert set(report.ignored) <= {"model.shared.weight"}  # no stack uses it where nothing is tied
    trained = [weight for name, weight in original.named_parameters() if weight.requires_grad and "shared" not in name]
    if original.config.share_encoder_decoder_embeddings and original.config.tie_word_embeddings:
        trained.append(original.model.shared.weight)
    assert report.parameters == sum(weight.numel() for weight in [*trained, original.final_logits_bias])
    ours = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").eval()
    assert ours.generation_config.bad_words_ids == [[5]] and ours.generation_config.num_beams == 4
    assert ours.generation_config.forced_eos_token_id == 0 and ours.generation_config.max_length == 14
    draw = torch.Generator().manual_seed(1)
    ids = torch.randint(6, original.config.vocab_size, (3, 9), generator=draw)
    mask = torch.ones_like(ids)
    mask[1, 6:], ids[1, 6:] = 0, 5
    generated_equally(original, ours, ids, mask)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"encoder_ffn_dim": 12}, "encoder_ffn_dim=12 and decoder_ffn_dim=37 differ"),
        ({"decoder_attention_heads": 2}, "encoder_attention_heads=3 and decoder_attention_heads=2 differ"),
    ],
)
def test_marian_of_another_shape_is_refused(tmp_path, fields, message):
    with pytest.raises(ConversionError, match=message):
        converted(marian(**fields), tmp_path)
    assert not (tmp_path / "out").exists()


def test_marian_settings_and_weights_that_would_change_the_model_are_refused(tmp_path):
    original = marian()
    original.save_pretrained(tmp_path / "from")
    config = json.loads((tmp_path / "from" / "config.json").read_text())
    (tmp_path / "from" / "config.json").write_text(json.dumps(config | {"normalize_embedding": True}))
    with pytest.raises(ConversionError, match="normalize_embedding=True cannot be converted exactly"):
        convert(tmp_path / "from", tmp_path / "out")
    (tmp_path / "from" / "config.json").write_text(json.dumps(config))
    # As files of older versions: one pickle of tensors, the sinusoids among them, the embedding three times.
    (tmp_path / "from" / "model.safetensors").unlink()
    state = original.state_dict()
    torch.save(state, tmp_path / "from" / "pytorch_model.bin")
    report = convert(tmp_path / "from", tmp_path / "out")
    assert len(report.ignored) == 2 and report.used == len(state) - 2
    state["model.encoder.embed_positions.weight"] += 0.01
    torch.save(state, tmp_path / "from" / "pytorch_model.bin")
    with pytest.raises(ConversionError, match="holds other positions than this format's sinusoids"):
        convert(tmp_path / "from", tmp_path / "out2", verify=False)
    state.pop("final_logits_bias")
    torch.save(state, tmp_path / "from" / "pytorch_model.bin")
    with pytest.raises(ConversionError, match=r"final_logits_bias|other positions"):
        convert(tmp_path / "from", tmp_path / "out2")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_weights_keep_their_type(tmp_path, dtype):
    converted(marian().to(dtype), tmp_path)
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").dtype == dtype


@pytest.mark.parametrize("tied", [False, True])
def test_fsmt_logits_and_tokens_are_equal(tmp_path, tied):
    sizes = {"d_model": 24, "encoder_layers": 1, "decoder_layers": 2, "encoder_ffn_dim": 37, "decoder_ffn_dim": 37}
    heads = {"encoder_attention_heads": 3, "decoder_attention_heads": 3, "max_position_embeddings": 40}
    vocabularies = {"src_vocab_size": 41, "tgt_vocab_size": 41 if tied else 29}
    original = randomise(
        FSMTForConditionalGeneration(FSMTConfig(**sizes, **heads, **vocabularies, tie_word_embeddings=tied))
    )
    report = converted(original, tmp_path)
    assert report.check.difference < 1e-5 and report.check.equal == report.check.tokens
    ours = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "out").eval()
    assert (ours.config.position_frequencies, ours.config.position_offset) == ("tensor2tensor", 2)
    ids = torch.randint(4, 41, (3, 9), generator=torch.Generator().manual_seed(1))
    ids[1, 6:] = 1
    generated_equally(original, ours, ids, (ids != 1).long(), max_length=14)


def test_gpt_logits_and_tokens_are_equal(tmp_path):
    fields = {"vocab_size": 41, "n_positions": 30, "n_embd": 24, "n_layer": 2, "n_head": 3}
    original = randomise(OpenAIGPTLMHeadModel(OpenAIGPTConfig(**fields)))
    report = converted(original, tmp_path)
    assert report.check.difference_double < 1e-12 and report.check.equal == report.check.tokens
    ours = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert ours.config.activation_function == "gelu_new"
    ids = torch.randint(0, 41, (3, 5), generator=torch.Generator().manual_seed(1))
    generated_equally(original, ours, ids, torch.ones_like(ids), max_new_tokens=9, pad_token_id=0)


BERT = {
    "vocab_size": 41, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 37,
    "max_position_embeddings": 30,
}  # fmt: skip


@pytest.mark.parametrize(("kind", "ignored"), [(BertModel, 2), (BertForMaskedLM, 5), (BertForTokenClassification, 0)])
def test_bert_states_and_tags_are_equal(tmp_path, kind, ignored):
    original = randomise(kind(BertConfig(**BERT, num_labels=5)))
    report = converted(original, tmp_path)
    assert report.check.difference_double < 1e-6 and len(report.ignored) == ignored
    ids = torch.randint(1, 41, (2, 9), generator=torch.Generator().manual_seed(1))
    mask = torch.ones_like(ids)
    mask[1, 5:] = 0
    loader = AutoModelForTokenClassification if kind is BertForTokenClassification else VaswaniEncoderModel
    ours = loader.from_pretrained(tmp_path / "out").eval()
    base = original if kind is BertModel else original.bert
    with torch.no_grad():
        if kind is BertForTokenClassification:
            theirs, found = original(ids, mask).logits, ours(ids, mask).logits
            assert ours.config.id2label == original.config.id2label
        else:
            theirs, found = base(ids, mask).last_hidden_state, ours(ids, mask).last_hidden_state
    torch.testing.assert_close(found[mask.bool()], theirs[mask.bool()], rtol=0, atol=1e-5)


def test_bert_that_needs_token_types_or_other_positions_is_refused(tmp_path):
    with pytest.raises(ConversionError, match="pairs of texts"):
        converted(BertForQuestionAnswering(BertConfig(**BERT)), tmp_path)
    BertModel(BertConfig(**BERT)).save_pretrained(tmp_path / "relative")
    file = tmp_path / "relative" / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"position_embedding_type": "relative_key"}))
    with pytest.raises(ConversionError, match="position_embedding_type='relative_key'"):
        convert(tmp_path / "relative", tmp_path / "out")


@pytest.mark.parametrize("kind", [ViTModel, ViTForImageClassification])
def test_vit_states_and_classes_are_equal(tmp_path, kind):
    sizes = {"hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, "intermediate_size": 37}
    original = randomise(kind(ViTConfig(**sizes, image_size=[12, 16], patch_size=4, num_labels=5)))
    (tmp_path / "from").mkdir()
    settings = {"size": {"height": 12, "width": 16}, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]}
    (tmp_path / "from" / "preprocessor_config.json").write_text(json.dumps(settings | {"resample": 3}))
    report = converted(original, tmp_path)
    assert report.check.difference < 1e-6
    written = json.loads((tmp_path / "out" / "preprocessor_config.json").read_text())
    assert written["image_mean"] == [0.4, 0.5, 0.6] and written["resample"] == 3
    pixels = torch.randn(2, 3, 12, 16, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        if kind is ViTModel:
            ours = VaswaniVisionModel.from_pretrained(tmp_path / "out").eval()
            theirs, found = original(pixels).last_hidden_state, ours(pixels).last_hidden_state
        else:
            ours = AutoModelForImageClassification.from_pretrained(tmp_path / "out").eval()
            theirs, found = original(pixels).logits, ours(pixels).logits
            assert ours.config.id2label == original.config.id2label
    torch.testing.assert_close(found, theirs, rtol=0, atol=1e-5)
