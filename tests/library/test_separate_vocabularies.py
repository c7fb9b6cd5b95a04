"""Encoder-decoders whose source and target have a vocabulary, and an embedding, each."""

import json

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from transformers import AutoModel, AutoModelForSeq2SeqLM

from tests.helpers.generation_references import plain_beam_search, random_batch, tiny_model, translate
from tests.helpers.two_vocabularies import ENGLISH, separate_tokenizers, with_other_ids
from vaswani_tx import (
    TransferError,
    VaswaniConfig,
    VaswaniDecoderConfig,
    VaswaniEncoderConfig,
    VaswaniForCausalLM,
    VaswaniForConditionalGeneration,
    VaswaniForMaskedLM,
    VaswaniModel,
    VaswaniTokenizer,
    transfer_vocabulary,
)
from vaswani_tx.alignments_vaswani import read_again
from vaswani_tx.cli.info import gather, report
from vaswani_tx.errors import CheckpointError
from vaswani_tx.explain.contents import parts_of
from vaswani_tx.explain.trace import trace
from vaswani_tx.hub.model_card import make_card
from vaswani_tx.loading import check_generation, check_vocabulary, load_translator
from vaswani_tx.model_size import model_size

SOURCE, TARGET = 57, 50
SIZES = {"d_model": 16, "d_ff": 24, "num_heads": 2, "encoder_layers": 2, "decoder_layers": 2, "dropout": 0.0}
BUILD = VaswaniForConditionalGeneration.from_encoder_decoder_pretrained


def make(model_class=VaswaniForConditionalGeneration, **fields):
    torch.manual_seed(3)
    settings = {"vocab_size": TARGET, "source_vocab_size": SOURCE, **SIZES, **fields}
    return model_class(VaswaniConfig(**settings)).eval()


def make_batch():
    generator = torch.Generator().manual_seed(4)
    return {
        "input_ids": torch.randint(0, SOURCE, (3, 8), generator=generator),
        "attention_mask": (torch.arange(8) < torch.tensor([[8], [5], [6]])).long(),
        "decoder_input_ids": torch.randint(3, TARGET, (3, 5), generator=generator),
    }


def weights_of(folder):
    names = set()
    for path in folder.glob("*.safetensors"):
        with safe_open(path, framework="pt") as file:
            names |= {name for name in file.keys() if "embed" in name or "lm_head" in name or "shared" in name}  # noqa: SIM118
    return names


@pytest.mark.parametrize("size", ["5GB", "3KB"])
@pytest.mark.parametrize("tied", [True, False])
def test_every_matrix_is_stored_once(tied, size, tmp_path):
    model = make(tie_word_embeddings=tied)
    assert (model.lm_head.weight is model.get_decoder().embed_tokens.weight) == tied
    assert not hasattr(model.model, "shared") and model.get_output_embeddings() is model.lm_head
    assert model.get_input_embeddings() is model.get_encoder().embed_tokens
    model.save_pretrained(tmp_path, max_shard_size=size)
    sides = {"model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"}
    assert weights_of(tmp_path) == (sides if tied else {*sides, "lm_head.weight"})
    loaded, found = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(found[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert (loaded.lm_head.weight is loaded.get_decoder().embed_tokens.weight) == tied
    torch.testing.assert_close(loaded(**make_batch()).logits, model(**make_batch()).logits, atol=0, rtol=0)
    bare = AutoModel.from_pretrained(tmp_path)
    assert type(bare) is VaswaniModel
    bare.save_pretrained(tmp_path / "bare")
    assert weights_of(tmp_path / "bare") == {name.removeprefix("model.") for name in sides}
    whole = VaswaniForConditionalGeneration.from_pretrained(tmp_path / "bare")
    torch.testing.assert_close(whole.model(**make_batch())[0], model.model(**make_batch())[0], atol=0, rtol=0)


def test_parameters_are_counted_exactly(tmp_path):
    base, d_model = 63_045_632, 512  # of the base model with one vocabulary of 37,000 (Table 3)
    kind = VaswaniForConditionalGeneration
    for fields, matrices in (({}, 1), ({"tie_word_embeddings": False}, 2)):
        size = model_size(VaswaniConfig(source_vocab_size=32_000, vocab_size=37_000, **fields), kind)
        assert size.parameters == base + 32_000 * d_model + (matrices - 1) * 37_000 * d_model
        assert size.embeddings == (32_000 + 37_000) * d_model
    model = make()
    model.save_pretrained(tmp_path)
    found = gather(str(tmp_path))
    parameters, stored = found["parameters"], found["tensors"]
    assert parameters["total"] == model.num_parameters() == stored["count"] and "problems" not in stored
    assert parameters["embeddings"] == (SOURCE + TARGET) * 16
    assert found["sizes"]["source_vocab_size"] == SOURCE and "source_vocab_size 57" in report(found)
    assert f"{model.num_parameters():,}" in make_card(tmp_path) and "57 of the source, 50 of the target" in make_card(
        tmp_path
    )
    parts = {part["name"]: part["parameters"] for part in parts_of(model)}
    assert (parts["encoder embeddings"], parts["decoder embeddings"]) == (SOURCE * 16, TARGET * 16)
    assert sum(parts.values()) == model.num_parameters()


def test_a_file_that_lacks_a_side_is_found_out(tmp_path):
    make().save_pretrained(tmp_path)
    state = VaswaniForConditionalGeneration.from_pretrained(tmp_path).state_dict()
    del state["model.encoder.embed_tokens.weight"], state["model.decoder.embed_tokens.weight"]
    save_file(state, tmp_path / "model.safetensors", metadata={"format": "pt"})  # the target's is lm_head.weight
    assert gather(str(tmp_path))["tensors"]["problems"] == ["model.encoder.embed_tokens.weight is missing"]
    separate_tokenizers()[0].save_pretrained(tmp_path)
    with pytest.raises(CheckpointError, match=r"model\.encoder\.embed_tokens\.weight"):
        load_translator(tmp_path)


@pytest.mark.parametrize("model_class", [VaswaniModel, VaswaniForConditionalGeneration])
def test_each_side_is_resized_by_itself(model_class, tmp_path):
    model, batch = make(model_class), make_batch()
    batch["input_ids"].clamp_(max=39)
    before = model(**batch)[0]
    model.get_encoder().embed_tokens.weight.requires_grad_(False)
    source = model.resize_source_token_embeddings(60, pad_to_multiple_of=8)
    assert source is model.get_input_embeddings() and source.num_embeddings == model.config.source_vocab_size == 64
    assert not source.weight.requires_grad and model.config.vocab_size == TARGET
    torch.testing.assert_close(model(**batch)[0], before, atol=0, rtol=0)
    target = model.resize_token_embeddings(53)
    assert target is model.get_decoder().embed_tokens and target.weight.requires_grad
    assert (target.num_embeddings, model.config.vocab_size, model.config.source_vocab_size) == (53, 53, 64)
    after = model(**batch)[0]
    torch.testing.assert_close(after[..., : before.shape[-1]], before)
    if model_class is VaswaniForConditionalGeneration:
        assert after.shape[-1] == 53 and model.lm_head.weight is target.weight
    assert model.resize_token_embeddings() is target and model.resize_source_token_embeddings() is source
    assert model.get_encoder().resize_token_embeddings(40).num_embeddings == 40
    assert (model.config.vocab_size, model.config.source_vocab_size) == (53, 40)
    model.save_pretrained(tmp_path)
    loaded = model_class.from_pretrained(tmp_path)
    torch.testing.assert_close(loaded(**batch)[0], model(**batch)[0], atol=0, rtol=0)
    with pytest.raises(ValueError, match="call resize_token_embeddings"):
        make(model_class, source_vocab_size=None).resize_source_token_embeddings(60)


def test_embeddings_are_set_by_side():
    model, other = make(), torch.nn.Embedding(SOURCE, 16)
    target = model.get_decoder().embed_tokens
    model.set_input_embeddings(other)
    assert model.get_encoder().embed_tokens is other and model.get_decoder().embed_tokens is target
    model.get_decoder().set_input_embeddings(torch.nn.Embedding(TARGET, 16))
    model.tie_weights()
    assert model.lm_head.weight is model.get_decoder().embed_tokens.weight is not target.weight
    assert model.get_encoder().embed_tokens is other


def test_a_source_is_no_target():
    batch = {name: value for name, value in make_batch().items() if not name.startswith("decoder")}
    with pytest.raises(ValueError, match=r"input_ids are of the source's vocabulary \(source_vocab_size\)"):
        make(VaswaniModel)(**batch)
    assert make(VaswaniModel, source_vocab_size=None)(input_ids=batch["input_ids"].clamp(max=49))[0].shape == (3, 8, 16)
    for entry in ({"encoder_no_repeat_ngram_size": 2}, {"encoder_repetition_penalty": 1.5}):
        with pytest.raises(ValueError, match=f"{next(iter(entry))}=.* a vocabulary for each"):
            make().generate(**batch, **entry, max_new_tokens=3)


def test_padding_of_a_source_is_what_its_mask_says():
    model, source = make(tie_word_embeddings=False), make_batch()["input_ids"]
    source[:, 2] = model.config.pad_token_id  # a word of the source like any other
    settings = {"max_new_tokens": 6, "num_beams": 2}
    expected = model.generate(source, attention_mask=torch.ones_like(source), **settings)
    assert torch.equal(model.generate(source, **settings), expected)
    assert not torch.equal(model.generate(source, attention_mask=source.ne(0).long(), **settings), expected)


@pytest.mark.parametrize("seed", [0, 1])
def test_beams_equal_a_plain_search_over_the_target(seed):
    model = tiny_model(seed, source_vocab_size=40)
    batch = random_batch(seed, [6, 4], 40)
    assert batch["input_ids"].max() >= 6
    found = translate(model, batch, num_beams=4, max_extra_tokens=0, gnmt_alpha=0.6)
    for row, beams in enumerate(found):
        source = batch["input_ids"][row : row + 1, : int(batch["attention_mask"][row].sum())]
        limit = source.shape[1]
        score, tokens = plain_beam_search(model, source, limit, 0.6, 4)[0]
        assert beams[0][1] == tokens and beams[0][0] == pytest.approx(score, abs=1e-4)


def test_constraints_and_alignments_read_ids_of_the_target():
    model, batch = make(tie_word_embeddings=False, lm_head_bias=True), make_batch()
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    settings = {"num_beams": 6, "max_new_tokens": 8}
    found = model.generate(**inputs, **settings, force_words_ids=[[41, 42], [TARGET - 1]])
    for row in found.tolist():
        assert TARGET - 1 in row and any(row[i : i + 2] == [41, 42] for i in range(len(row)))
    with pytest.raises(ValueError, match=f"token id {TARGET}, but the model's ids run from 0 to {TARGET - 1}"):
        model.generate(**inputs, **settings, force_words_ids=[[TARGET]])
    banned = int(model.generate(**inputs, **settings)[0, 1])
    assert banned not in model.generate(**inputs, **settings, bad_words_ids=[[banned]])[0]
    readings = read_again(
        model, **inputs, sequences=found, lengths=[8] * 3, layer=0, sources=inputs["attention_mask"].bool()
    )
    output = model(**inputs, decoder_input_ids=found[:, :-1], output_attentions=True)
    log_probs = output.logits.log_softmax(-1).gather(-1, found[:, 1:, None])[..., 0]
    for row, reading in enumerate(readings):
        assert reading.log_prob == pytest.approx(log_probs[row, :8].sum().item(), abs=1e-4)
        weights = output.cross_attentions[0][row].mean(0).masked_fill(inputs["attention_mask"][row] == 0, -1)
        assert [source for source, _ in reading.links] == weights.argmax(-1)[: len(reading.links)].tolist()


def test_the_loader_checks_each_side(tmp_path):
    source, target = separate_tokenizers()
    pair = VaswaniTokenizer.pair(source, target)
    sizes = {"source_vocab_size": len(source), "vocab_size": len(target)}
    model = make(**sizes)
    check_vocabulary(model, pair)
    for small, message in (("source_vocab_size", "source has 300 .* 299.*resize_source_token_embeddings"),
                           ("vocab_size", "target has 330 .* 329.*resize_token_embeddings")):  # fmt: skip
        with pytest.raises(CheckpointError, match=message):
            check_vocabulary(make(**{**sizes, small: sizes[small] - 1}), pair)
    with pytest.raises(CheckpointError, match="tokenizer's source has 330 tokens"):
        check_vocabulary(model, target)
    wide = make(source_vocab_size=400, vocab_size=len(target))
    wide.generation_config.forced_bos_token_id = 350  # of the source at most
    with pytest.raises(CheckpointError, match="forced_bos_token_id must be an id of the vocabulary, 0 to 329"):
        check_generation(wide, "it")
    model.save_pretrained(tmp_path)
    pair.save_pretrained(tmp_path)
    loaded, words = load_translator(tmp_path)
    assert loaded.generate(**words(ENGLISH, padding=True, return_tensors="pt"), max_new_tokens=3).shape[0] == 4
    found = trace(loaded, words, ENGLISH[0])
    assert "".join(token.text for token in found.source if not token.special).strip() == ENGLISH[0]
    written = found.decoding.hypotheses[0]["tokens"]
    assert [token.id for token in found.target[1:]] == written[:-1]
    assert [token.piece for token in found.target[1:]] == target.convert_ids_to_tokens(written[:-1])


# Transfer


@pytest.fixture
def stacks(tmp_path):
    """An encoder with 31 tokens and a decoder with 27, whose special tokens have other ids."""
    torch.manual_seed(5)
    sizes = {"d_model": 8, "d_ff": 12, "num_heads": 2, "num_hidden_layers": 2, "dropout": 0.0}
    masked = VaswaniForMaskedLM(VaswaniEncoderConfig(vocab_size=31, **sizes))
    special = {"pad_token_id": 26, "bos_token_id": 4, "eos_token_id": 5}
    causal = VaswaniForCausalLM(VaswaniDecoderConfig(vocab_size=27, **sizes, **special))
    masked.save_pretrained(tmp_path / "masked")
    causal.save_pretrained(tmp_path / "causal")
    return masked, causal, str(tmp_path / "masked"), str(tmp_path / "causal")


def ids_of(config):
    return config.pad_token_id, config.bos_token_id, config.eos_token_id, config.decoder_start_token_id


def test_stacks_bring_their_vocabularies(stacks, tmp_path):
    masked, causal, encoder, decoder = stacks
    with pytest.raises(TransferError, match=r"vocab_size is 31 in '.*masked' and 27 .* or use embeddings='separate'"):
        BUILD(encoder, decoder)
    model = BUILD(encoder, decoder, embeddings="separate")
    assert (model.config.source_vocab_size, model.config.vocab_size) == (31, 27)
    assert ids_of(model.config) == (26, 4, 5, 4) and model.generation_config.eos_token_id == 5
    assert torch.equal(model.get_encoder().embed_tokens.weight, masked.model.embed_tokens.weight)
    assert torch.equal(model.get_decoder().embed_tokens.weight, causal.model.embed_tokens.weight)
    assert model.lm_head.weight is model.get_decoder().embed_tokens.weight
    tokens = torch.randint(3, 31, (2, 7))
    expected = masked.eval().model(tokens).last_hidden_state
    torch.testing.assert_close(model.get_encoder()(tokens).last_hidden_state, expected, atol=0, rtol=0)
    model.save_pretrained(tmp_path / "whole")
    again = BUILD(str(tmp_path / "whole"), str(tmp_path / "whole"))  # separate, as its source is
    assert ids_of(again.config) == (26, 4, 5, 4)
    for name, value in model.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=0, rtol=0)
    mixed = BUILD(encoder, str(tmp_path / "whole"))
    assert torch.equal(mixed.get_decoder().embed_tokens.weight, causal.model.embed_tokens.weight)


def test_one_stack_alone(stacks):
    masked, causal, encoder, decoder = stacks
    model = BUILD(encoder, vocab_size=40, embeddings="separate", eos_token_id=7)
    assert (model.config.source_vocab_size, model.config.vocab_size) == (31, 40)
    assert ids_of(model.config) == (0, 1, 7, 1) and model.config.decoder_layers == 2
    assert torch.equal(model.get_encoder().embed_tokens.weight, masked.model.embed_tokens.weight)
    model = BUILD(decoder=decoder, source_vocab_size=40, encoder_layers=3)
    assert (model.config.source_vocab_size, model.config.vocab_size, model.config.encoder_layers) == (40, 27, 3)
    assert ids_of(model.config) == (26, 4, 5, 4)
    assert torch.equal(model.get_decoder().embed_tokens.weight, causal.model.embed_tokens.weight)
    assert model.get_encoder().embed_tokens.weight.std().item() == pytest.approx(8**-0.5, rel=0.2)
    shared = BUILD(decoder=decoder)
    assert shared.config.source_vocab_size is None
    assert torch.equal(shared.model.shared.weight, causal.model.embed_tokens.weight)
    name = "layers.1.feed_forward.fc1.weight"
    assert torch.equal(shared.get_decoder().state_dict()[name], causal.model.state_dict()[name])


def test_vocabularies_that_do_not_fit_are_named(stacks, tmp_path):
    *_, encoder, decoder = stacks
    for arguments, fields, message in (
        ((), {}, "name a pre-trained encoder, a decoder"),
        ((encoder,), {"embeddings": "separate"}, "give vocab_size"),
        ((None, decoder), {"embeddings": "separate"}, "give source_vocab_size"),
        ((None, decoder), {"embeddings": "encoder"}, "needs a pre-trained encoder: name one, or use 'decoder'"),
        ((encoder, decoder), {"source_vocab_size": 30}, "source_vocab_size=30 contradicts"),
        ((encoder, decoder), {"eos_token_id": 1, "embeddings": "separate"}, "eos_token_id=1 contradicts"),
        ((encoder, encoder), {"source_vocab_size": 31, "embeddings": "mean"}, "contradicts embeddings='mean'"),
    ):
        with pytest.raises(TransferError, match=message):
            BUILD(*arguments, **fields)
    BUILD(encoder, decoder, embeddings="separate").save_pretrained(tmp_path / "whole")
    with pytest.raises(TransferError, match="a vocabulary for each side, which one embedding cannot serve"):
        BUILD(str(tmp_path / "whole"), embeddings="encoder")


@pytest.fixture(scope="module")
def tokenizers():
    old = VaswaniTokenizer.pair(*separate_tokenizers())
    texts = (["the new house and a mouse"], ["das neue Haus und eine Maus"])
    sides = [VaswaniTokenizer.train(iter(text * 20), vocab_size=280, show_progress=False) for text in texts]
    return old, VaswaniTokenizer.pair(
        with_other_ids(sides[0], "<pad>", "</s>"), with_other_ids(sides[1], "<s>", "</s>")
    )


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("side", ["source", "target"])
def test_one_side_gets_a_new_vocabulary(side, tied, tokenizers):
    old, new = tokenizers
    sizes = {"source_vocab_size": len(old.source), "vocab_size": len(old.target)}
    model = make(**sizes, tie_word_embeddings=tied, lm_head_bias=True)
    torch.nn.init.normal_(model.lm_head.bias)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    counts = transfer_vocabulary(model, old, new, side=side)
    after, changed = model.state_dict(), {f"model.{'encoder' if side == 'source' else 'decoder'}.embed_tokens.weight"}
    changed |= {"lm_head.weight", "lm_head.bias"} if side == "target" else set()
    for name in before.keys() - changed:
        assert torch.equal(after[name], before[name]), name
    ids, old_ids = getattr(new, side).get_vocab(), getattr(old, side).get_vocab()
    common = ids.keys() & old_ids.keys()
    assert counts.kept == len(common) > 250
    for name in changed:
        assert len(after[name]) == len(ids)
        for token in common:
            assert torch.equal(after[name][ids[token]], before[name][old_ids[token]]), (name, token)
    assert (model.lm_head.weight is model.get_decoder().embed_tokens.weight) == tied
    sizes["source_vocab_size" if side == "source" else "vocab_size"] = len(ids)
    assert {name: getattr(model.config, name) for name in sizes} == sizes
    special = new.target if side == "target" else old.target
    ids = special.pad_token_id, special.bos_token_id, special.eos_token_id, special.bos_token_id
    assert ids_of(model.config) == ids_of(model.generation_config) == ids


def test_the_side_is_asked_for(tokenizers):
    old, new = tokenizers
    with pytest.raises(TransferError, match="give side='source' or side='target'"):
        transfer_vocabulary(make(source_vocab_size=300, vocab_size=330), old, new)
    with pytest.raises(TransferError, match="leave it out"):
        transfer_vocabulary(make(source_vocab_size=None), old, new, side="target")
    with pytest.raises(TransferError, match="side must be"):
        transfer_vocabulary(make(), old, new, side="both")


@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
@pytest.mark.filterwarnings("ignore:Setting `save_embedding_layers`:UserWarning")
@pytest.mark.filterwarnings("ignore:Model has `tie_word_embeddings=True`:UserWarning")
def test_adapters_reach_both_embeddings(tmp_path):
    peft = pytest.importorskip("peft")
    model, batch = make(), make_batch()
    expected = model(**batch).logits
    settings = peft.LoraConfig(task_type="SEQ_2_SEQ_LM", r=2, target_modules=["embed_tokens", "q_proj"])
    adapted = peft.get_peft_model(model, settings)
    adapted(**batch).logits.square().sum().backward()
    learned = {name for name, weight in adapted.named_parameters() if weight.grad is not None}
    assert {name.split(".")[3] for name in learned if "embed_tokens" in name} == {"encoder", "decoder"}
    adapted.save_pretrained(tmp_path)
    again = peft.PeftModel.from_pretrained(make(), tmp_path).eval()
    torch.testing.assert_close(again(**batch).logits, expected)
    assert json.loads((tmp_path / "adapter_config.json").read_text())["r"] == 2
