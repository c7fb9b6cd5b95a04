"""Transfer between models: an encoder-decoder of pre-trained stacks, and a new vocabulary for a trained model.

Shapes: V vocabulary, D d_model.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.utils import logging

from .token_texts_vaswani import source_of, target_of

logger = logging.get_logger(__name__)

# Fields that two stacks of one model must share: all that decide the shape or the meaning of a weight.
SHARED_FIELDS = (
    "d_model", "d_ff", "num_heads", "d_k", "d_v", "activation_function", "layer_norm_eps", "norm_order",
    "final_layer_norm", "attention_bias", "position_embedding", "position_frequencies", "position_offset",
    "embedding_norm", "max_position_embeddings", "scale_embedding",
)  # fmt: skip
# Those of the vocabulary: with one of each side, they are the target's.
SPECIAL_FIELDS = ("pad_token_id", "bos_token_id", "eos_token_id")
VOCABULARY_FIELDS = ("vocab_size", *SPECIAL_FIELDS)
TEXT_TYPES = ("vaswani", "vaswani_encoder", "vaswani_decoder")
SEPARATE = "separate"


class TransferError(ValueError):
    """Models or vocabularies that do not fit together; the message names the field and says how to fix it."""


class FromStacksMixin:
    """A mixin that adds `from_encoder_decoder_pretrained` to an encoder-decoder class."""

    @classmethod
    def from_encoder_decoder_pretrained(
        cls,
        encoder: str | None = None,
        decoder: str | None = None,
        *,
        embeddings: str | None = None,
        dtype=None,
        **fields: Any,
    ):
        """Start an encoder-decoder from pre-trained stacks (Rothe et al. 2020), weights loaded by name.

        Each side may come from an encoder-only model, a decoder-only model or an encoder-decoder (its stack of that
        side). What no source has, mainly cross-attention, is freshly initialised and named in the log.

        Args:
            encoder: folder or Hub name of the model whose layers become the encoder; None: the encoder is fresh, but
                for a shared embedding.
            decoder: the same for the decoder.
            embeddings: "encoder", "decoder" or "mean": whose matrix source, target and output share from now on. Two
                models trained separately have different ones, so the other side's layers have to adapt; starting
                the second model from the first, with its matrix frozen, avoids that. "separate": each side brings its
                own embedding and vocabulary (`source_vocab_size`), and special tokens are the decoder's; of a side
                without a source, `fields` must tell the size: `source_vocab_size` or `vocab_size`. None: "separate"
                where a source has separate vocabularies or `fields` hold a `source_vocab_size`, else of the first
                source.
            dtype: type of the weights; None: float32.
            **fields: fields of the configuration that replace the sources', such as `dropout`.

        Returns:
            the model, in evaluation mode as after `from_pretrained`.

        Raises:
            TransferError: the sources differ in a field that decides the weights, or are no models of this family.
        """
        sources = {"encoder": encoder, "decoder": decoder}
        dicts = {side: _config_of(source) for side, source in sources.items() if source is not None}
        embeddings = _chosen_embeddings(embeddings, dicts, sources, fields)
        model = cls(cls.config_class(**_joint_fields(cls.config_class, dicts, sources, fields, embeddings)))
        stacks = {side: _load_stack(cls, model, side, sources[side], dicts[side]) for side in dicts}
        fresh = []
        for side, stack in stacks.items():
            target = getattr(model.model, side)
            weights = {name: value for name, value in stack.state_dict().items() if name != "embed_tokens.weight"}
            missing = target.load_state_dict(weights, strict=False).missing_keys
            fresh += [f"{side}.{name}" for name in missing if name != "embed_tokens.weight"]
        matrices = {side: stack.embed_tokens.weight.detach() for side, stack in stacks.items()}
        with torch.no_grad():
            if embeddings == SEPARATE:
                for side, matrix in matrices.items():
                    getattr(model.model, side).embed_tokens.weight.copy_(matrix)
            else:
                matrix = sum(matrices.values()) / len(matrices) if embeddings == "mean" else matrices[embeddings]
                model.model.shared.weight.copy_(matrix)
        for side in sources.keys() - dicts.keys():
            fresh += [f"{side}.layers", f"{side}.embed_tokens"] if embeddings == SEPARATE else [f"{side}.layers"]
        _report(fresh, sources, embeddings, matrices, tied=model.config.tie_word_embeddings)
        return model.to(dtype or torch.float32).eval()


def _chosen_embeddings(chosen: str | None, dicts: dict[str, dict], sources: dict[str, str | None], fields) -> str:
    """Return whose embeddings the model gets, checked against the sources that there are."""
    if not dicts:
        raise TransferError("There is nothing to start from: name a pre-trained encoder, a decoder, or both.")
    of_two = [side for side, found in dicts.items() if found.get("source_vocab_size") is not None]
    if chosen is None:
        return SEPARATE if of_two or fields.get("source_vocab_size") is not None else next(iter(dicts))
    if chosen not in ("encoder", "decoder", "mean", SEPARATE):
        raise TransferError(f"embeddings must be 'encoder', 'decoder', 'mean' or 'separate', not {chosen!r}.")
    if chosen == SEPARATE:
        return chosen
    for side in ("encoder", "decoder"):
        if side not in dicts and chosen in (side, "mean"):
            other = next(iter(dicts))
            raise TransferError(f"embeddings={chosen!r} needs a pre-trained {side}: name one, or use {other!r}.")
    if of_two:
        raise TransferError(
            f"'{sources[of_two[0]]}' has a vocabulary for each side, which one embedding cannot serve: use "
            "embeddings='separate'."
        )
    if fields.get("source_vocab_size") is not None:
        raise TransferError(
            f"source_vocab_size={fields['source_vocab_size']!r} contradicts embeddings={chosen!r}, one matrix for both "
            "sides: leave one of them out."
        )
    return chosen


def _config_of(source: str) -> dict[str, Any]:
    found, _ = PreTrainedConfig.get_config_dict(source)
    if found.get("model_type") not in TEXT_TYPES:
        raise TransferError(
            f"'{source}' holds a model of type {found.get('model_type')!r}: its layers cannot be taken over. Name a "
            f"model of one of the types {', '.join(TEXT_TYPES)}."
        )
    return found


def _joint_fields(
    config_class, dicts: dict[str, dict], sources: dict[str, str | None], fields: dict[str, Any], embeddings: str
) -> dict[str, Any]:
    """Return the configuration that both sides share, with `fields` where the sides do not decide."""
    defaults = config_class()
    joint: dict[str, Any] = {}
    shared = SHARED_FIELDS if embeddings == SEPARATE else (*SHARED_FIELDS, *VOCABULARY_FIELDS)
    for name in (*shared, "dropout", "attention_dropout", "activation_dropout"):
        values = {side: found.get(name, getattr(defaults, name)) for side, found in dicts.items()}
        first = next(iter(values.values()))
        if name in shared:
            if any(value != first for value in values.values()):
                found_values = " and ".join(f"{value!r} in '{sources[side]}'" for side, value in values.items())
                instead = ", or use embeddings='separate'" if name in VOCABULARY_FIELDS else ""
                raise TransferError(
                    f"{name} is {found_values}: both sides must have the same, so that they fit together{instead}."
                )
            _check_agrees(fields, name, first)
        joint[name] = first
    for side, found in dicts.items():
        own = f"{side}_layers"
        joint[own] = found.get(own, found.get("num_hidden_layers"))
    for side, other in (("encoder", "decoder"), ("decoder", "encoder")):
        if side not in dicts:
            joint[f"{side}_layers"] = joint[f"{other}_layers"]
    if embeddings == SEPARATE:
        joint |= _vocabularies(defaults, dicts, fields)
    start = dicts.get("decoder", {}).get("decoder_start_token_id")
    if start is not None:
        joint["decoder_start_token_id"] = start
    return {**joint, **fields}


def _check_agrees(fields: dict[str, Any], name: str, value: Any) -> None:
    if name in fields and fields[name] != value:
        raise TransferError(f"{name}={fields[name]!r} contradicts the pre-trained model's {value!r}: leave it out.")


def _vocabularies(defaults, dicts: dict[str, dict], fields: dict[str, Any]) -> dict[str, Any]:
    """Return the sizes of two vocabularies, each its own source's, and the special ids of the target's."""
    found: dict[str, Any] = {}
    for side, size in (("encoder", "source_vocab_size"), ("decoder", "vocab_size")):
        if side not in dicts:
            if fields.get(size) is None:
                raise TransferError(f"There is no pre-trained {side} that brings its vocabulary: give {size}.")
            continue
        own = dicts[side].get(size)
        found[size] = dicts[side].get("vocab_size", defaults.vocab_size) if own is None else own
        _check_agrees(fields, size, found[size])
    if "decoder" in dicts:
        for name in SPECIAL_FIELDS:
            found[name] = dicts["decoder"].get(name, getattr(defaults, name))
            _check_agrees(fields, name, found[name])
        if dicts["decoder"]["model_type"] != "vaswani" and found["bos_token_id"] is not None:
            found["decoder_start_token_id"] = found["bos_token_id"]  # what such a model's texts begin with
    return found


def _load_stack(cls, model, side: str, source: str, found: dict[str, Any]):
    """Return the stack of one side as the source has it, cross-attention included where there is any."""
    if found["model_type"] == "vaswani":
        return getattr(cls.from_pretrained(source).model, side)
    layers = found.get("num_hidden_layers", 6)
    names = {*cls.config_class.__dataclass_fields__} - {"architectures", "model_type"}
    kept = {
        name: value for name, value in found.items() if name in names and name not in ("is_encoder_decoder", "dtype")
    }
    config = cls.config_class(**{**kept, "encoder_layers": layers, "decoder_layers": layers})
    stack_class = type(model.model.encoder)  # layers without cross-attention have the encoder's names
    verbosity = logging.get_verbosity()
    logging.set_verbosity_error()  # its report would list the source's head as unused
    try:
        return stack_class.from_pretrained(source, config=config)
    finally:
        logging.set_verbosity(verbosity)


def _report(fresh, sources, embeddings: str, matrices: dict[str, torch.Tensor], tied: bool) -> None:
    groups = sorted({".".join(part for part in name.split(".")[:4] if not part.isdigit()) for name in fresh})
    if not tied:
        groups.append("lm_head")
    named = {side: f"'{source}'" if source else "random weights" for side, source in sources.items()}
    kept = "an embedding for each side" if embeddings == SEPARATE else f"shared embedding of the {embeddings}"
    logger.warning(
        f"Encoder from {named['encoder']}, decoder from {named['decoder']}, {kept}. Freshly initialised: "
        f"{', '.join(groups) or 'nothing'}. Train the model before use."
    )
    if embeddings != SEPARATE and len(matrices) == 2 and not torch.equal(*matrices.values()):
        logger.warning("The two models have different embeddings: one side has to adapt to the shared matrix.")


@dataclass(frozen=True)
class VocabularyTransfer:
    """Counts of the rows of an embedding: tokens that kept theirs, composed of old ones, or random."""

    kept: int
    composed: int
    fresh: int

    def __str__(self):
        return f"{self.kept:,} tokens kept their rows, {self.composed:,} are made of old pieces, {self.fresh:,} are new"


@torch.no_grad()
def transfer_vocabulary(model, old_tokenizer, new_tokenizer, side: str | None = None) -> VocabularyTransfer:
    """Put a new vocabulary onto a trained model, in place: kept rows for kept tokens.

    A token that both vocabularies have keeps its row of the embedding (and of an output matrix or bias of its own). A
    new token starts from the mean of the rows of the pieces that the old tokenizer makes of its text; one without such
    pieces keeps the initialisation of a new model.

    Args:
        model: a model of any text family; its configuration gets the new size and special ids.
        old_tokenizer: the tokenizer that the model was trained with.
        new_tokenizer: the tokenizer that it is to have.
        side: "source" or "target", which vocabulary is to change where the model has one for each: its tokenizers may
            then be of that side or of both. The special ids are the target's. None: the model has one vocabulary.

    Returns:
        how many rows were kept, composed and left new.

    Raises:
        TransferError: the old tokenizer has more tokens than the model has rows, or `side` does not suit the model.
    """
    _check_side(model, side)
    of_side = source_of if side == "source" else target_of
    old_tokenizer, new_tokenizer = of_side(old_tokenizer), of_side(new_tokenizer)
    embedding, head = _embeddings_of(model, side)
    matrix = embedding.weight.detach().clone()
    own_head = None if head is None or head.weight is embedding.weight else head.weight.detach().clone()
    bias = None if head is None or head.bias is None else head.bias.detach().clone()
    old = old_tokenizer.get_vocab()
    if max(old.values()) >= len(matrix):
        raise TransferError(
            f"The old tokenizer has {max(old.values()) + 1} tokens but the model {len(matrix)} rows: it is not the "
            "tokenizer that the model was trained with."
        )
    sources, counts = _sources(old, old_tokenizer, new_tokenizer)
    resize = model.resize_source_token_embeddings if side == "source" else model.resize_token_embeddings
    resize(len(new_tokenizer), mean_resizing=False)
    embedding, head = _embeddings_of(model, side)
    random = torch.empty_like(embedding.weight).normal_(std=model.config.d_model**-0.5)
    targets = [(embedding.weight, matrix, random)]
    if own_head is not None:
        targets.append((head.weight, own_head, random))
    if bias is not None:
        targets.append((head.bias, bias, torch.zeros_like(head.bias)))
    for parameter, former, fallback in targets:
        rows = [former[ids].mean(dim=0) if ids else fallback[new] for new, ids in enumerate(sources)]
        parameter.copy_(torch.stack(rows))
    if side != "source":
        _take_special_ids(model, old_tokenizer, new_tokenizer)
    return counts


def _check_side(model, side: str | None) -> None:
    separate = getattr(model.config, "source_vocab_size", None) is not None
    if side not in (None, "source", "target"):
        raise TransferError(f"side must be 'source' or 'target', or None for a model of one vocabulary, not {side!r}.")
    if separate and side is None:
        raise TransferError("The model has a vocabulary for each side: give side='source' or side='target'.")
    if side is not None and not separate:
        raise TransferError(
            f"side={side!r} is of a model with a vocabulary for each side, and this one has one for both: leave it out."
        )


def _embeddings_of(model, side: str | None):
    """Return the embedding of a side and, except for the source, the output projection that a model may have."""
    if side == "source":
        return model.get_encoder().get_input_embeddings(), None
    stack = model.get_decoder() if side == "target" else model
    return stack.get_input_embeddings(), model.get_output_embeddings()


def _take_special_ids(model, old_tokenizer, new_tokenizer) -> None:
    """Give the configurations of a model the ids that its special tokens have in its new vocabulary."""
    for name in SPECIAL_FIELDS:
        if hasattr(model.config, name):
            setattr(model.config, name, getattr(new_tokenizer, name))
    if getattr(model.config, "decoder_start_token_id", None) is not None:
        start = old_tokenizer.convert_ids_to_tokens(model.config.decoder_start_token_id)
        model.config.decoder_start_token_id = new_tokenizer.convert_tokens_to_ids(start)
    if getattr(model, "generation_config", None) is not None:
        for name in (*SPECIAL_FIELDS, "decoder_start_token_id"):
            if getattr(model.generation_config, name, None) is not None:
                setattr(model.generation_config, name, getattr(model.config, name))


def _sources(old: dict[str, int], old_tokenizer, new_tokenizer) -> tuple[list[list[int]], VocabularyTransfer]:
    """Return for each new id the old ids that its row comes from, none for a new row."""
    special = set(new_tokenizer.all_special_tokens)
    sources: list[list[int]] = [[] for _ in range(len(new_tokenizer))]
    kept = composed = 0
    for token, new in new_tokenizer.get_vocab().items():
        if token in old:
            sources[new], kept = [old[token]], kept + 1
        elif token not in special:
            # The merges applied to the token itself: as text it would get a space in front.
            pieces = [piece.id for piece in old_tokenizer.backend_tokenizer.model.tokenize(token)]
            sources[new] = [piece for piece in pieces if piece != old_tokenizer.unk_token_id]
            composed += bool(sources[new])
    return sources, VocabularyTransfer(kept, composed, len(sources) - kept - composed)


__all__ = ["FromStacksMixin", "TransferError", "VocabularyTransfer", "transfer_vocabulary"]
