"""FSMT of transformers: fairseq's translation models of WMT 2019, with a vocabulary for each language."""

from pathlib import Path
from typing import Any

import torch
from transformers import FSMTForConditionalGeneration

from vaswani_tx.configuration_vaswani import VaswaniConfig
from vaswani_tx.convert.channels import interleaving, permute_channels
from vaswani_tx.convert.core import Batch, ConversionError, Converted, KeyMap, Row
from vaswani_tx.convert.hugging_face import generation_settings, is_model, layer_rows, read_settings, same_number
from vaswani_tx.convert.marian_hf import DECODER_LAYER, LAYER, POSITIONS
from vaswani_tx.convert.originals import original_of
from vaswani_tx.convert.subword_bpe import Codes, SpecialSymbols, dictionary_tokenizer, read_lines
from vaswani_tx.convert.weights import read_weights
from vaswani_tx.loading import read_object
from vaswani_tx.tokenization_vaswani import VaswaniTokenizer

KEYS = KeyMap(
    [
        Row("model.encoder.embed_tokens.weight", "model.encoder.embed_tokens.weight", optional=True),
        Row("model.decoder.embed_tokens.weight", "model.decoder.embed_tokens.weight"),
        Row("model.decoder.output_projection.weight", "lm_head.weight", optional=True),
        *layer_rows("model.encoder.layers.{i}", "model.encoder.layers.{i}", LAYER),
        *layer_rows("model.decoder.layers.{i}", "model.decoder.layers.{i}", DECODER_LAYER),
    ],
    ignored=[(name, "the sinusoids of the positions, computed here") for name in POSITIONS],
)


def recognises(path: Path) -> bool:
    """Return whether a folder's config.json is of FSMT."""
    return is_model(path, "fsmt")


def read(path: Path) -> Converted:
    """Read a folder of FSMT.

    Raises:
        ConversionError: it is damaged, or not of the shape that our models have.
    """
    settings = read_settings(path, FSMTForConditionalGeneration.config_class)
    config = _config(settings)
    state, used, ignored = KEYS.apply(read_weights(path))
    if config.source_vocab_size is not None and "lm_head.weight" not in state:
        raise ConversionError("the source has no 'model.decoder.output_projection.weight', which is not tied here.")
    state = permute_channels(state, interleaving(config.d_model))
    notes: list[str] = []
    tokenizer = _tokenizer(path, settings, notes)
    single, _ = original_of(FSMTForConditionalGeneration, path, _logits)  # the class fails in float64
    return Converted(
        config,
        state,
        tokenizer=tokenizer,
        generation=generation_settings(path),
        notes=notes,
        used=used,
        ignored=ignored,
        original=single,
    )


def _logits(model: Any, batch: Batch) -> torch.Tensor:
    return model(**batch, use_cache=False).logits


def _config(settings: Any) -> VaswaniConfig:
    tied = settings.tie_word_embeddings
    if tied and settings.src_vocab_size != settings.tgt_vocab_size:
        raise ConversionError(
            f"config.json: tie_word_embeddings needs equal vocabularies, not src_vocab_size={settings.src_vocab_size} "
            f"and tgt_vocab_size={settings.tgt_vocab_size}: correct it."
        )
    if settings.pad_token_id is None:
        raise ConversionError("config.json: pad_token_id is missing, from which this format counts positions.")
    return VaswaniConfig(
        vocab_size=settings.tgt_vocab_size,
        source_vocab_size=None if tied else settings.src_vocab_size,
        d_model=settings.d_model,
        d_ff=same_number(settings, "encoder_ffn_dim", "decoder_ffn_dim"),
        num_heads=same_number(settings, "encoder_attention_heads", "decoder_attention_heads"),
        encoder_layers=settings.encoder_layers,
        decoder_layers=settings.decoder_layers,
        dropout=settings.dropout,
        attention_dropout=settings.attention_dropout,
        activation_dropout=settings.activation_dropout,
        activation_function=settings.activation_function,
        layer_norm_eps=1e-5,
        attention_bias=True,
        position_frequencies="tensor2tensor",
        position_offset=settings.pad_token_id + 1,
        max_position_embeddings=settings.max_position_embeddings,
        scale_embedding=settings.scale_embedding,
        tie_word_embeddings=tied,
        pad_token_id=settings.pad_token_id,
        bos_token_id=settings.bos_token_id,
        eos_token_id=settings.eos_token_id,
        decoder_start_token_id=settings.decoder_start_token_id,
    )


def _tokenizer(path: Path, settings: Any, notes: list[str]) -> VaswaniTokenizer | None:
    """Return a tokenizer of texts that Moses has split into words: its rules are a program, not a pipeline."""
    names = ("vocab-src.json", "vocab-tgt.json", "merges.txt")
    if missing := [name for name in names if not (path / name).is_file()]:
        notes.append(f"no tokenizer was written, because the source has no {', '.join(missing)}")
        return None
    given = read_object(path / "tokenizer_config.json") if (path / "tokenizer_config.json").is_file() else {}
    if given.get("do_lower_case"):
        raise ConversionError("tokenizer_config.json: do_lower_case is not converted; set it to false and lower texts.")
    pairs = [tuple(line.split()[:2]) for line in read_lines(path / "merges.txt") if line.strip()]
    if any(len(pair) != 2 for pair in pairs):
        raise ConversionError(f"'{path / 'merges.txt'}' has lines that are no pair of units.")
    codes = Codes(tuple(dict.fromkeys((pair[0], pair[1]) for pair in pairs)), (0, 2))
    length = given.get("model_max_length", settings.max_position_embeddings)
    sides = [_side(path / name, codes, model_max_length=length) for name in names[:2]]
    languages = " and ".join(map(str, settings.langs))
    notes.append(
        f"the tokenizer takes text that Moses has split into words ({languages}; sacremoses with escape and aggressive "
        "dash splits), and gives such text: those rules are a program, which no tokenizer.json holds"
    )
    if sides[0].backend_tokenizer.to_str() == sides[1].backend_tokenizer.to_str():
        return sides[0]
    return VaswaniTokenizer.pair(*sides)


def _side(path: Path, codes: Codes, **options: Any) -> VaswaniTokenizer:
    """Return the tokenizer of one vocabulary, whose units end with `</w>` where they end a word."""
    ids = read_object(path)
    if sorted(ids.values(), key=str) != sorted(range(len(ids)), key=str):
        raise ConversionError(f"'{path}' does not number its entries from 0 on: it is damaged.")
    special = SpecialSymbols()
    known = set(special.named().values())
    symbols = [
        text if text in known else text.removesuffix("</w>") if text.endswith("</w>") else f"{text}@@"
        for text in sorted(ids, key=ids.__getitem__)
    ]
    return dictionary_tokenizer(symbols, codes, special, **options)
