"""MarianMT of transformers, which OPUS-MT's models are: post-norm encoder-decoders with sines before cosines."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from transformers import MarianMTModel, PreTrainedTokenizerFast

from vaswani_tx.configuration_vaswani import VaswaniConfig
from vaswani_tx.convert.channels import interleaving, permute_channels
from vaswani_tx.convert.core import ConversionError, Converted, KeyMap, Row
from vaswani_tx.convert.hugging_face import (
    check_positions,
    foreign_tokenizer,
    generation_settings,
    is_model,
    layer_rows,
    read_settings,
    same_number,
)
from vaswani_tx.convert.originals import original_of
from vaswani_tx.convert.sentencepiece import read_sentencepiece, sentencepiece_tokenizer
from vaswani_tx.convert.weights import read_weights
from vaswani_tx.export.folders import NOTE
from vaswani_tx.loading import read_object
from vaswani_tx.tokenization_vaswani import VaswaniTokenizer

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
_SPECIAL = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}


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
    if settings.share_encoder_decoder_embeddings and not settings.tie_word_embeddings:
        # MarianMT then ties none of its embeddings, and uses those of the stacks.
        shared = state.pop("model.shared.weight", None)
        for name in ("model.encoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"):
            if name not in state and shared is not None:
                state[name] = shared
        if "model.shared.weight" in used:
            used.remove("model.shared.weight")
            ignored["model.shared.weight"] = "each stack has an embedding of its own, where none are tied"
    state = permute_channels(state, interleaving(config.d_model))
    single, double = original_of(MarianMTModel, path)
    notes: list[str] = []
    return Converted(
        config,
        state,
        tokenizer=_tokenizer(path, config, notes),
        generation=generation_settings(path),
        notes=notes,
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
        source_vocab_size=None if shared and settings.tie_word_embeddings else settings.vocab_size,
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


def _tokenizer(path: Path, config: VaswaniConfig, notes: list[str]) -> VaswaniTokenizer | None:
    """Return the folder's tokenizer: a pair where the two sides divide text differently; None where it has none."""
    missing = [name for name in ("source.spm", "target.spm", "vocab.json") if not (path / name).is_file()]
    if missing:
        if (exported := _exported_tokenizer(path)) is not None:
            return exported
        notes.append(f"no tokenizer was written, because the source has no {', '.join(missing)}")
        return None
    settings = read_object(path / "tokenizer_config.json") if (path / "tokenizer_config.json").is_file() else {}
    separate = bool(settings.get("separate_vocabs", False))
    special = {name: _content(settings.get(name, text)) for name, text in _SPECIAL.items()}
    _check_added(settings, special)
    kept: dict[str, Any] = {"model_max_length": settings.get("model_max_length", 512)}
    if settings.get("clean_up_tokenization_spaces"):
        kept["clean_up_tokenization_spaces"] = True
    sides = []
    for side, vocabulary in (("source", "vocab.json"), ("target", "target_vocab.json" if separate else "vocab.json")):
        ids = read_object(path / vocabulary)
        size = config.vocab_size if side == "target" else config.source_vocab_size or config.vocab_size
        if not all(isinstance(value, int) for value in ids.values()):
            raise ConversionError(f"'{path / vocabulary}' must give each entry a number: copy it again.")
        if ids and max(ids.values()) >= size:
            raise ConversionError(f"'{path / vocabulary}' has ids beyond the model's vocabulary of {size} entries.")
        tags = () if separate else tuple(text for text in ids if text.startswith(">>") and text.endswith("<<"))
        model = read_sentencepiece(path / f"{side}.spm")
        sides.append(sentencepiece_tokenizer(model, ids, special, tags, front_tags=True, strip=True, **kept))
    source, target = sides
    if source.backend_tokenizer.to_str() == target.backend_tokenizer.to_str():
        return source
    return VaswaniTokenizer.pair(source, target)


def _exported_tokenizer(path: Path) -> VaswaniTokenizer | None:
    """Return the tokenizer of a folder that `vaswani-tx export --format marian` wrote, None for another folder."""
    file = path / "tokenizer_config.json"
    if not ((path / "tokenizer.json").is_file() and (path / NOTE).is_file() and file.is_file()):
        return None
    source = foreign_tokenizer(path, PreTrainedTokenizerFast, [])
    if not (path / "target_tokenizer").is_dir():
        return source
    return VaswaniTokenizer.pair(source, foreign_tokenizer(path / "target_tokenizer", PreTrainedTokenizerFast, []))


def _content(token: Any) -> str:
    return token["content"] if isinstance(token, dict) else str(token)


def _check_added(settings: Mapping[str, Any], special: Mapping[str, str]) -> None:
    """Raise ConversionError where a tokenizer has further tokens or settings, which would be lost."""
    added = [_content(token) for token in (settings.get("added_tokens_decoder") or {}).values()]
    named = settings.get("extra_special_tokens") or settings.get("additional_special_tokens") or []
    added += [_content(token) for token in (named.values() if isinstance(named, dict) else named)]
    if further := sorted(set(added) - set(special.values())):
        raise ConversionError(f"tokenizer_config.json adds {further[0]!r} to the vocabulary, which is not converted.")
    if (settings.get("sp_model_kwargs") or {}).get("enable_sampling"):
        raise ConversionError("tokenizer_config.json: sp_model_kwargs asks for random divisions, which are not kept.")
