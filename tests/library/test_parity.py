"""Our model against independent ones with the same weights: torch.nn.Transformer and transformers' MarianMT."""

import math

import numpy as np
import pytest
import torch
from transformers import MarianConfig, MarianMTModel

from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration

VOCABULARY, SOURCE_VOCABULARY = 61, 83
# One embedding for both sides and the output, an embedding a side of which the output has the target's, or three.
EMBEDDINGS = {
    "shared": {},
    "separate": {"source_vocab_size": SOURCE_VOCABULARY},
    "untied": {"source_vocab_size": SOURCE_VOCABULARY, "tie_word_embeddings": False},
}
of_embeddings = pytest.mark.parametrize("embeddings", EMBEDDINGS)
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def plain_sinusoids(length: int, d_model: int) -> np.ndarray:
    """The formula of section 3.5, entry by entry."""
    table = np.zeros((length, d_model))
    for position in range(length):
        for i in range(d_model // 2):
            angle = position / 10000 ** (2 * i / d_model)
            table[position, 2 * i], table[position, 2 * i + 1] = math.sin(angle), math.cos(angle)
    return table


def make_ours(dtype: torch.dtype, **fields) -> VaswaniForConditionalGeneration:
    torch.manual_seed(5)
    config = VaswaniConfig(
        vocab_size=VOCABULARY, d_model=24, d_ff=40, num_heads=4, encoder_layers=2, decoder_layers=3, dropout=0.0,
        attention_bias=True, layer_norm_eps=1e-5, **fields,
    )  # fmt: skip
    model = VaswaniForConditionalGeneration(config).to(dtype)
    with torch.no_grad():
        for parameter in model.parameters():  # biases and gains too must differ from 0 and 1
            parameter.add_(torch.randn_like(parameter) * 0.05)
    return model


def make_batch(embeddings: str = "shared") -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(6)
    source_ids = (3, VOCABULARY) if embeddings == "shared" else (0, SOURCE_VOCABULARY)  # 0 to 2 are words like others
    source = torch.randint(*source_ids, (3, 9), generator=generator)
    mask = torch.ones_like(source)
    mask[1, 5:] = 0
    labels = torch.randint(3, VOCABULARY, (3, 7), generator=generator)
    return {"input_ids": source, "attention_mask": mask, "labels": labels}


def copy_attention(ours, theirs, cross: bool = False):
    for attention, reference in ((ours.self_attn, theirs.self_attn),) + (
        ((ours.cross_attn, theirs.multihead_attn),) if cross else ()
    ):
        reference.in_proj_weight.copy_(
            torch.cat([attention.q_proj.weight, attention.k_proj.weight, attention.v_proj.weight])
        )
        reference.in_proj_bias.copy_(torch.cat([attention.q_proj.bias, attention.k_proj.bias, attention.v_proj.bias]))
        reference.out_proj.weight.copy_(attention.o_proj.weight)
        reference.out_proj.bias.copy_(attention.o_proj.bias)


@torch.no_grad()
def as_torch_transformer(ours: VaswaniForConditionalGeneration) -> torch.nn.Transformer:
    config = ours.config
    theirs = torch.nn.Transformer(
        config.d_model, config.num_heads, config.encoder_layers, config.decoder_layers, config.d_ff, dropout=0.0,
        batch_first=True, layer_norm_eps=config.layer_norm_eps,
    ).to(ours.dtype)  # fmt: skip
    theirs.encoder.norm = theirs.decoder.norm = None  # the paper has no LayerNorm after a stack
    for stack, reference in ((ours.model.encoder, theirs.encoder), (ours.model.decoder, theirs.decoder)):
        crosses = reference is theirs.decoder
        for layer, other in zip(stack.layers, reference.layers, strict=True):
            copy_attention(layer, other, crosses)
            residuals = [layer.self_attn_residual, layer.feed_forward_residual]
            if crosses:
                residuals.insert(1, layer.cross_attn_residual)
            for number, residual in enumerate(residuals, start=1):
                getattr(other, f"norm{number}").load_state_dict(residual.norm.state_dict())
            other.linear1.load_state_dict(layer.feed_forward.fc1.state_dict())
            other.linear2.load_state_dict(layer.feed_forward.fc2.state_dict())
    return theirs


@of_embeddings
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_torch_transformer(dtype, embeddings):
    ours, batch = make_ours(dtype, **EMBEDDINGS[embeddings]), make_batch(embeddings)
    theirs = as_torch_transformer(ours)
    output = ours(**batch)
    output.loss.backward()

    named = {id(weight): weight for weight in (ours.model.encoder.embed_tokens.weight,
             ours.model.decoder.embed_tokens.weight, ours.lm_head.weight)}  # fmt: skip
    copies = {number: weight.detach().clone().requires_grad_() for number, weight in named.items()}
    assert len(copies) == {"shared": 1, "separate": 2, "untied": 3}[embeddings]
    source, target, projection = (
        copies[id(layer.weight)]
        for layer in (ours.model.encoder.embed_tokens, ours.model.decoder.embed_tokens, ours.lm_head)
    )
    inputs = torch.cat((torch.full((3, 1), 1), batch["labels"][:, :-1]), dim=1)

    def embed(embedding, tokens):
        positions = torch.tensor(plain_sinusoids(tokens.shape[1], 24), dtype=dtype)
        return embedding[tokens] * math.sqrt(24) + positions

    padding = batch["attention_mask"] == 0
    causal = torch.ones(7, 7, dtype=torch.bool).triu(1)
    hidden = theirs(
        embed(source, batch["input_ids"]), embed(target, inputs), tgt_mask=causal, src_key_padding_mask=padding,
        memory_key_padding_mask=padding,
    )  # fmt: skip
    logits = hidden @ projection.T
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), batch["labels"].flatten()).backward()

    tolerance = {"atol": TOLERANCE[dtype], "rtol": 0}
    torch.testing.assert_close(output.logits, logits, **tolerance)
    for number, weight in named.items():
        torch.testing.assert_close(weight.grad, copies[number].grad, **tolerance)
    ours_layer, theirs_layer = ours.model.decoder.layers[1], theirs.decoder.layers[1]
    ours_gradient = torch.cat([getattr(ours_layer.cross_attn, f"{name}_proj").weight.grad for name in "qkv"])
    torch.testing.assert_close(ours_gradient, theirs_layer.multihead_attn.in_proj_weight.grad, **tolerance)
    first, other = ours.model.encoder.layers[0], theirs.encoder.layers[0]
    torch.testing.assert_close(first.feed_forward.fc1.weight.grad, other.linear1.weight.grad, **tolerance)
    torch.testing.assert_close(first.self_attn_residual.norm.weight.grad, other.norm1.weight.grad, **tolerance)


def marian_names(name: str) -> str:
    """Our parameter's name, as MarianMT calls it."""
    for ours, theirs in (
        ("self_attn.o_proj", "self_attn.out_proj"),
        ("cross_attn.o_proj", "encoder_attn.out_proj"),
        ("self_attn_residual.norm", "self_attn_layer_norm"),
        ("cross_attn_residual.norm", "encoder_attn_layer_norm"),
        ("feed_forward_residual.norm", "final_layer_norm"),
        ("feed_forward.", ""),
        ("cross_attn.", "encoder_attn."),
    ):
        name = name.replace(ours, theirs)
    return name


def to_marian_layout(name: str, value: torch.Tensor, channels: torch.Tensor) -> torch.Tensor:
    """Permute the axes of a parameter that run over d_model: Marian keeps all sines before all cosines."""
    if "norm" in name or name.endswith(("o_proj.bias", "fc2.bias")):
        return value[channels]
    if name.endswith(("o_proj.weight", "fc2.weight")):
        return value[channels]
    if name.endswith(".bias"):
        return value
    return value[:, channels]


@torch.no_grad()
def as_marian(ours: VaswaniForConditionalGeneration) -> tuple[MarianMTModel, torch.Tensor]:
    config = ours.config
    separate = config.source_vocab_size is not None
    theirs = MarianMTModel(
        MarianConfig(
            vocab_size=config.source_vocab_size if separate else VOCABULARY, decoder_vocab_size=VOCABULARY,
            share_encoder_decoder_embeddings=not separate, tie_word_embeddings=config.tie_word_embeddings, d_model=24,
            encoder_ffn_dim=40, decoder_ffn_dim=40, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_layers=2, decoder_layers=3, dropout=0.0, activation_function="relu",
            scale_embedding=True, pad_token_id=0, eos_token_id=2, forced_eos_token_id=2, decoder_start_token_id=1,
            max_position_embeddings=64, attn_implementation="eager",
        )
    ).to(ours.dtype)  # fmt: skip
    channels = torch.cat((torch.arange(0, config.d_model, 2), torch.arange(1, config.d_model, 2)))
    target = dict(theirs.named_parameters())
    for name, value in ours.named_parameters():
        target[marian_names(name)].copy_(to_marian_layout(name, value, channels))
    # transformers keeps Marian's table in float32, too coarse for a comparison in float64.
    table = torch.tensor(plain_sinusoids(64, config.d_model), dtype=ours.dtype)[:, channels]
    for stack in (theirs.model.encoder, theirs.model.decoder):
        torch.testing.assert_close(stack.embed_positions.weight, table, atol=1e-6, rtol=0)
        stack.embed_positions.weight.data = table.clone()
    return theirs, channels


@of_embeddings
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_marian(dtype, embeddings):
    ours, batch = make_ours(dtype, **EMBEDDINGS[embeddings]), make_batch(embeddings)
    theirs, channels = as_marian(ours)
    output, expected = ours(**batch), theirs(**batch)
    output.loss.backward()
    expected.loss.backward()
    tolerance = {"atol": TOLERANCE[dtype], "rtol": 0}
    torch.testing.assert_close(output.logits, expected.logits, **tolerance)
    torch.testing.assert_close(output.loss, expected.loss, **tolerance)
    gradients = {name: parameter.grad for name, parameter in theirs.named_parameters()}
    for name, parameter in ours.named_parameters():
        theirs_gradient = gradients[marian_names(name)]
        torch.testing.assert_close(to_marian_layout(name, parameter.grad, channels), theirs_gradient, **tolerance)
        del gradients[marian_names(name)]
    assert all("embed_positions" in name for name in gradients), "a parameter of Marian's was not compared"


@of_embeddings
@pytest.mark.parametrize("search", [{"num_beams": 3, "early_stopping": True}, {}, {"do_sample": True}], ids=str)
def test_marian_generates_the_same(embeddings, search):
    ours, batch = make_ours(torch.float64, **EMBEDDINGS[embeddings]), make_batch(embeddings)
    theirs, _ = as_marian(ours)
    inputs = {name: batch[name] for name in ("input_ids", "attention_mask")}
    settings = {"num_beams": 1, "max_new_tokens": 12, "length_penalty": 1.0, "do_sample": False, **search}
    torch.manual_seed(7)
    expected = theirs.generate(**inputs, **settings, bad_words_ids=None, forced_eos_token_id=None)
    torch.manual_seed(7)
    assert torch.equal(ours.generate(**inputs, **settings), expected)
