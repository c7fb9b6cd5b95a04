"""BERT of transformers (Devlin et al. 2019): the encoder with learned positions and a norm on the embeddings."""

from pathlib import Path
from typing import Any

import torch
from transformers import BertForTokenClassification, BertModel, BertTokenizer

from vaswani_tx.configuration_vaswani import VaswaniEncoderConfig
from vaswani_tx.convert.core import Batch, ConversionError, Converted, KeyMap, Row
from vaswani_tx.convert.hugging_face import foreign_tokenizer, is_model, layer_rows, read_settings, with_prefix
from vaswani_tx.convert.originals import original_of
from vaswani_tx.convert.weights import read_weights
from vaswani_tx.modeling_vaswani_encoder import VaswaniEncoderModel, VaswaniForTokenClassification

LAYER = {
    "attention.self.query": "self_attn.q_proj",
    "attention.self.key": "self_attn.k_proj",
    "attention.self.value": "self_attn.v_proj",
    "attention.output.dense": "self_attn.o_proj",
    "attention.output.LayerNorm": "self_attn_residual.norm",
    "intermediate.dense": "feed_forward.fc1",
    "output.dense": "feed_forward.fc2",
    "output.LayerNorm": "feed_forward_residual.norm",
}
_EMBEDDINGS = "bert.embeddings"
_POOLER = "BERT's pooler, a layer of its own on the first token, which the encoder here has not"
_HEAD = "a head on the pooler or with a layer of its own, which no head here has"
IGNORED = [
    ("bert.embeddings.position_ids", "the numbers of the positions, counted here"),
    ("bert.embeddings.token_type_ids", "token types of no text"),
    *((f"bert.pooler.dense.{part}", _POOLER) for part in ("weight", "bias")),
    *(
        (f"{name}.{part}", _HEAD)
        for name in (
            "cls.predictions.transform.dense",
            "cls.predictions.transform.LayerNorm",
            "cls.predictions.decoder",
            "cls.seq_relationship",
            "classifier",
        )
        for part in ("weight", "bias")
    ),
    ("cls.predictions.bias", _HEAD),
]


def _folded(positions: torch.Tensor, types: torch.Tensor) -> torch.Tensor:
    """Add the embedding of the first token type, which every token has, to that of each position."""
    wide = torch.promote_types(positions.dtype, torch.float32)
    return positions.to(wide) + types[0].to(wide)


def key_map(prefix: str, tags: bool) -> KeyMap:
    """Return the table; `prefix` is in front of our names, `tags` whether there is a classifier of tokens."""
    rows = [
        Row(f"{_EMBEDDINGS}.word_embeddings.weight", f"{prefix}embed_tokens.weight"),
        Row(
            (f"{_EMBEDDINGS}.position_embeddings.weight", f"{_EMBEDDINGS}.token_type_embeddings.weight"),
            f"{prefix}positional_encoding.positions.weight",
            _folded,
        ),
        *layer_rows(_EMBEDDINGS, f"{prefix}positional_encoding", {"LayerNorm": "norm"}),
        *layer_rows("bert.encoder.layer.{i}", prefix + "layers.{i}", LAYER),
    ]
    if tags:
        rows += [Row(f"classifier.{part}", f"classifier.{part}") for part in ("weight", "bias")]
    return KeyMap(rows, IGNORED)


def recognises(path: Path) -> bool:
    """Return whether a folder's config.json is of BERT."""
    return is_model(path, "bert")


def read(path: Path) -> Converted:
    """Read a folder of BERT: as a tagger where it is one, else as the bare encoder.

    Raises:
        ConversionError: it is damaged, or not of the shape that our models have.
    """
    fixed = {"position_embedding_type": "absolute", "is_decoder": False, "add_cross_attention": False}
    settings = read_settings(path, BertModel.config_class, fixed)
    kind = (settings.architectures or ["BertModel"])[0]
    if kind in ("BertForQuestionAnswering", "BertForMultipleChoice", "BertForNextSentencePrediction"):
        raise ConversionError(
            f"a {kind} reads pairs of texts, whose second one has token type 1: models here have no token types."
        )
    tags = kind == "BertForTokenClassification"
    renamed = {
        name.replace(".gamma", ".weight").replace(".beta", ".bias"): tensor
        for name, tensor in read_weights(path).items()
    }
    source = with_prefix(renamed, "bert", ("cls", "classifier"))
    state, used, ignored = key_map("model." if tags else "", tags).apply(source)
    notes = [
        "every token has BERT's first token type, which is added to its position: of a pair of texts, the second one "
        "is not marked, as it was in the original"
    ]
    tokenizer = foreign_tokenizer(path, BertTokenizer, notes)
    original = BertForTokenClassification if tags else BertModel
    single, double = original_of(original, path, _tags if tags else _states, **({} if tags else _WITHOUT_POOLER))
    return Converted(
        _config(settings, tags),
        state,
        tokenizer=tokenizer,
        notes=notes,
        used=used,
        ignored=ignored,
        original=single,
        original_double=double,
        longest=settings.max_position_embeddings,
        model_class=VaswaniForTokenClassification if tags else VaswaniEncoderModel,
        title=kind,
    )


_WITHOUT_POOLER = {"add_pooling_layer": False}


def _tags(model: Any, batch: Batch) -> torch.Tensor:
    return model(**batch).logits


def _states(model: Any, batch: Batch) -> torch.Tensor:
    return model(**batch).last_hidden_state


def _config(settings: Any, tags: bool) -> VaswaniEncoderConfig:
    labels = {"id2label": settings.id2label, "label2id": settings.label2id} if tags else {}
    return VaswaniEncoderConfig(
        vocab_size=settings.vocab_size,
        d_model=settings.hidden_size,
        d_ff=settings.intermediate_size,
        num_heads=settings.num_attention_heads,
        num_hidden_layers=settings.num_hidden_layers,
        dropout=settings.hidden_dropout_prob,
        attention_dropout=settings.attention_probs_dropout_prob,
        classifier_dropout=settings.classifier_dropout,
        activation_function=settings.hidden_act,
        layer_norm_eps=settings.layer_norm_eps,
        attention_bias=True,
        embedding_norm=True,
        position_embedding="learned",
        max_position_embeddings=settings.max_position_embeddings,
        scale_embedding=False,
        pad_token_id=settings.pad_token_id,
        bos_token_id=settings.bos_token_id,
        eos_token_id=settings.eos_token_id,
        **labels,
    )
