"""OpenAI GPT of transformers (Radford et al. 2018): the paper's decoder without attention to an encoder."""

from pathlib import Path
from typing import Any

from transformers import OpenAIGPTLMHeadModel, OpenAIGPTTokenizer

from vaswani_tx.configuration_vaswani import VaswaniDecoderConfig
from vaswani_tx.convert.core import ConversionError, Converted, KeyMap, Row
from vaswani_tx.convert.hugging_face import (
    foreign_tokenizer,
    generation_settings,
    is_model,
    layer_rows,
    read_settings,
    with_prefix,
)
from vaswani_tx.convert.originals import original_of
from vaswani_tx.convert.weights import read_weights

LAYER = "transformer.h.{i}"
OURS = "model.layers.{i}"
KEYS = KeyMap(
    [
        Row("transformer.tokens_embed.weight", "model.embed_tokens.weight"),
        Row("transformer.positions_embed.weight", "model.positional_encoding.positions.weight"),
        Row("lm_head.weight", "lm_head.weight", optional=True),
        # Queries, keys and values are one weight, stored [in, out].
        *(
            Row(f"{LAYER}.attn.c_attn.{part}", f"{OURS}.self_attn.{name}_proj.{part}", how + f"split3:{k}")
            for k, name in enumerate("qkv")
            for part, how in (("weight", "transpose, "), ("bias", ""))
        ),
        Row(f"{LAYER}.attn.c_proj.weight", f"{OURS}.self_attn.o_proj.weight", "transpose"),
        Row(f"{LAYER}.attn.c_proj.bias", f"{OURS}.self_attn.o_proj.bias"),
        Row(f"{LAYER}.mlp.c_fc.weight", f"{OURS}.feed_forward.fc1.weight", "transpose"),
        Row(f"{LAYER}.mlp.c_fc.bias", f"{OURS}.feed_forward.fc1.bias"),
        Row(f"{LAYER}.mlp.c_proj.weight", f"{OURS}.feed_forward.fc2.weight", "transpose"),
        Row(f"{LAYER}.mlp.c_proj.bias", f"{OURS}.feed_forward.fc2.bias"),
        *layer_rows(LAYER, OURS, {"ln_1": "self_attn_residual.norm", "ln_2": "feed_forward_residual.norm"}),
    ],
    ignored=[
        (f"{LAYER}.attn.bias", "the mask of later positions, computed here"),
        ("transformer.position_ids", "the numbers of the positions, counted here"),
        ("multiple_choice_head.summary.weight", "a head for multiple choice, which this family has not"),
        ("multiple_choice_head.summary.bias", "a head for multiple choice, which this family has not"),
    ],
)
ACTIVATIONS = {"gelu": "gelu_new", "relu": "relu", "silu": "silu", "swish": "silu"}


def recognises(path: Path) -> bool:
    """Return whether a folder's config.json is of OpenAI GPT."""
    return is_model(path, "openai-gpt")


def read(path: Path) -> Converted:
    """Read a folder of OpenAI GPT.

    Raises:
        ConversionError: it is damaged, or not of the shape that our models have.
    """
    settings = read_settings(path, OpenAIGPTLMHeadModel.config_class)
    state, used, ignored = KEYS.apply(with_prefix(read_weights(path), "transformer", ("lm_head", "multiple_choice")))
    notes: list[str] = []
    tokenizer = foreign_tokenizer(path, OpenAIGPTTokenizer, notes)
    single, double = original_of(OpenAIGPTLMHeadModel, path)
    if settings.embd_pdrop != settings.resid_pdrop:
        notes.append(f"dropout is resid_pdrop={settings.resid_pdrop}; embd_pdrop={settings.embd_pdrop} is not kept")
    return Converted(
        _config(settings),
        state,
        tokenizer=tokenizer,
        generation=generation_settings(path),
        notes=notes,
        used=used,
        ignored=ignored,
        original=single,
        original_double=double,
        longest=settings.n_positions,
    )


def _config(settings: Any) -> VaswaniDecoderConfig:
    if settings.afn not in ACTIVATIONS:
        raise ConversionError(f"config.json: afn={settings.afn!r} is none of {', '.join(ACTIVATIONS)}.")
    return VaswaniDecoderConfig(
        vocab_size=settings.vocab_size,
        d_model=settings.n_embd,
        d_ff=4 * settings.n_embd,
        num_heads=settings.n_head,
        num_hidden_layers=settings.n_layer,
        dropout=settings.resid_pdrop,
        attention_dropout=settings.attn_pdrop,
        activation_function=ACTIVATIONS[settings.afn],
        layer_norm_eps=settings.layer_norm_epsilon,
        attention_bias=True,
        position_embedding="learned",
        max_position_embeddings=settings.n_positions,
        scale_embedding=False,
        tie_word_embeddings=settings.tie_word_embeddings,
        pad_token_id=settings.pad_token_id,
        bos_token_id=settings.bos_token_id,
        eos_token_id=settings.eos_token_id,
    )
