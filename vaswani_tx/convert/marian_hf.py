"""MarianMT of transformers, which OPUS-MT's models are: post-norm encoder-decoders with sines before cosines."""

from pathlib import Path
from typing import Any

import torch
from transformers import MarianMTModel

from vaswani_tx.configuration_vaswani import VaswaniConfig
from vaswani_tx.convert.channels import interleaving, permute_channels
from vaswani_tx.convert.core import ConversionError, Converted, KeyMap, Row
from vaswani_tx.convert.hugging_face import check_positions, is_model, layer_rows, read_settings, same_number
from vaswani_tx.convert.originals import original_of
from vaswani_tx.convert.weights import read_weights

POSITIONS = ("model.encoder.embed_positions.weight", "model.decoder.embed_positions.weight")
ATTENTION = {"q_proj": "q_proj", "k_proj": "k_proj", "v_proj": "v_proj", "out_proj": "o_proj"}
LAYER = {
    **{f"self_attn.{theirs}": f"self_attn.{ours}" for theirs, ours in ATTENTION.items()},
    "self_attn_layer_norm": "self_attn_residual.norm",
    "fc1": "feed_forward.fc1",
    "fc2": "feed_forward.fc2",
    "final_layer_norm": "feed_forward_residual.norm",
}
DECODER_LAYER = {
    **LAYER,
    **{f"encoder_attn.{theirs}": f"cross_attn.{ours}" for theirs, ours in ATTENTION.items()},
    "encoder_attn_layer_norm": "cross_attn_residual.norm",
}
KEYS = KeyMap(
    [
        Row("model.shared.weight", "model.shared.weight", optional=True),
        Row("model.encoder.embed_tokens.weight", "model.encoder.embed_tokens.weight", optional=True),
        Row("model.decoder.embed_tokens.weight", "model.decoder.embed_tokens.weight", optional=True),
        Row("lm_head.weight", "lm_head.weight", optional=True),
        Row("final_logits_bias", "lm_head.bias", "flatten"),
        *layer_rows("model.encoder.layers.{i}", "model.encoder.layers.{i}", LAYER),
        *layer_rows("model.decoder.layers.{i}", "model.decoder.layers.{i}", DECODER_LAYER),
    ],
    ignored=[(name, "the sinusoids of the positions, computed here and equal") for name in POSITIONS],
)
# Settings of older files that MarianMT of transformers does not obey: at these values they say what it computes.
_FIXED = {
    "normalize_before": False,
    "normalize_embedding": False,
    "add_final_layer_norm": False,
    "static_position_embeddings": True,
}


def recognises(path: Path) -> bool:
    """Return whether a folder's config.json is of MarianMT."""
    return is_model(path, "marian")


def read(path: Path) -> Converted:
    """Read a folder of MarianMT.

    Raises:
        ConversionError: it is damaged, or not of the shape that our models have.
    """
    settings = read_settings(path, MarianMTModel.config_class, _FIXED)
    config = _config(settings)
    source = read_weights(path)
    for name in POSITIONS:
        if name in source:
            check_positions(name, source[name], _table(*source[name].shape))
    state, used, ignored = KEYS.apply(source)
    state = permute_channels(state, interleaving(config.d_model))
    single, double = original_of(MarianMTModel, path)
    return Converted(
        config,
        state,
        generation=_generation(path, settings),
        used=used,
        ignored=ignored,
        original=single,
        original_double=double,
        longest=settings.max_position_embeddings,
    )


def _config(settings: Any) -> VaswaniConfig:
    heads = same_number(settings, "encoder_attention_heads", "decoder_attention_heads")
    inner = same_number(settings, "encoder_ffn_dim", "decoder_ffn_dim")
    size, shared = settings.decoder_vocab_size, settings.share_encoder_decoder_embeddings
    if shared and size != settings.vocab_size:
        raise ConversionError(
            f"config.json: decoder_vocab_size={size} differs from vocab_size={settings.vocab_size}, though both "
            "vocabularies are shared by share_encoder_decoder_embeddings: correct it."
        )
    return VaswaniConfig(
        vocab_size=size,
        source_vocab_size=None if shared else settings.vocab_size,
        d_model=settings.d_model,
        d_ff=inner,
        num_heads=heads,
        encoder_layers=settings.encoder_layers,
        decoder_layers=settings.decoder_layers,
        dropout=settings.dropout,
        attention_dropout=settings.attention_dropout,
        activation_dropout=settings.activation_dropout,
        activation_function=settings.activation_function,
        layer_norm_eps=1e-5,
        attention_bias=True,
        lm_head_bias=True,
        max_position_embeddings=settings.max_position_embeddings,
        scale_embedding=settings.scale_embedding,
        tie_word_embeddings=settings.tie_word_embeddings,
        pad_token_id=settings.pad_token_id,
        bos_token_id=settings.bos_token_id,
        eos_token_id=settings.eos_token_id,
        decoder_start_token_id=settings.decoder_start_token_id,
    )


def _table(positions: int, width: int) -> torch.Tensor:
    """Return Marian's sinusoids, [positions, width]: the sines of all frequencies, then the cosines."""
    steps = torch.arange(width // 2, dtype=torch.float64)
    angles = torch.arange(positions, dtype=torch.float64)[:, None] / 10000.0 ** (2 * steps / width)
    return torch.cat((angles.sin(), angles.cos()), dim=1)


def _generation(path: Path, settings: Any) -> dict[str, Any]:
    from vaswani_tx.convert.hugging_face import generation_settings

    return generation_settings(path, settings)
