"""Transfer between models: an encoder-decoder of pre-trained stacks, and a new vocabulary for a trained model.

Shapes: V vocabulary, D d_model.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.utils import logging

logger = logging.get_logger(__name__)

# Fields that two stacks of one model must share: all that decide the shape or the meaning of a weight.
SHARED_FIELDS = (
    "d_model", "d_ff", "num_heads", "d_k", "d_v", "activation_function", "layer_norm_eps", "norm_order",
    "final_layer_norm", "attention_bias", "position_embedding", "position_frequencies", "position_offset",
    "embedding_norm", "max_position_embeddings", "scale_embedding",
    "vocab_size", "pad_token_id", "bos_token_id", "eos_token_id",
)  # fmt: skip
TEXT_TYPES = ("vaswani", "vaswani_encoder", "vaswani_decoder")


class TransferError(ValueError):
    """Models or vocabularies that do not fit together; the message names the field and says how to fix it."""


class FromStacksMixin:
    """A mixin that adds `from_encoder_decoder_pretrained` to an encoder-decoder class."""

    @classmethod
    def from_encoder_decoder_pretrained(
        cls, encoder: str, decoder: str | None = None, *, embeddings: str = "encoder", dtype=None, **fields: Any
    ):
        """Start an encoder-decoder from pre-trained stacks (Rothe et al. 2020), weights loaded by name.

        Each side may come from an encoder-only model, a decoder-only model or an encoder-decoder (its stack of that
        side). What no source has, mainly cross-attention, is freshly initialised and named in the log.

        Args:
            encoder: folder or Hub name of the model whose layers become the encoder.
            decoder: the same for the decoder; None: the decoder is fresh, but for the shared embedding.
            embeddings: "encoder", "decoder" or "mean": whose matrix source, target and output share from now on. Two
                models trained separately have different ones, so the other side's layers have to adapt; starting
                the second model from the first, with its matrix frozen, avoids that.
            dtype: type of the weights; None: float32.
            **fields: fields of the configuration that replace the sources', such as `dropout`.

        Returns:
            the model, in evaluation mode as after `from_pretrained`.

        Raises:
            TransferError: the sources differ in a field that decides the weights, or are no models of this family.
        """
        if embeddings not in ("encoder", "decoder", "mean"):
            raise TransferError(f"embeddings must be 'encoder', 'decoder' or 'mean', not {embeddings!r}.")
        if decoder is None and embeddings != "encoder":
            raise TransferError(f"embeddings={embeddings!r} needs a pre-trained decoder: name one, or use 'encoder'.")
        sources = {"encoder": encoder, "decoder": decoder}
        dicts = {side: _config_of(source) for side, source in sources.items() if source is not None}
        model = cls(cls.config_class(**_joint_fields(cls.config_class, dicts, sources, fields)))
        stacks = {side: _load_stack(cls, model, side, sources[side], dicts[side]) for side in dicts}
        fresh = []
        for side, stack in stacks.items():
            target = getattr(model.model, side)
            weights = {name: value for name, value in stack.state_dict().items() if name != "embed_tokens.weight"}
            missing = target.load_state_dict(weights, strict=False).missing_keys
            fresh += [f"{side}.{name}" for name in missing if name != "embed_tokens.weight"]
        matrices = {side: stack.embed_tokens.weight.detach() for side, stack in stacks.items()}
        matrix = sum(matrices.values()) / len(matrices) if embeddings == "mean" else matrices[embeddings]
        with torch.no_grad():
            model.model.shared.weight.copy_(matrix)
        if decoder is None:
            fresh.append("decoder.layers")
        _report(fresh, sources, embeddings, matrices, tied=model.config.tie_word_embeddings)
        return model.to(dtype or torch.float32).eval()


def _config_of(source: str) -> dict[str, Any]:
    found, _ = PreTrainedConfig.get_config_dict(source)
    if found.get("model_type") not in TEXT_TYPES:
        raise TransferError(
            f"'{source}' holds a model of type {found.get('model_type')!r}: its layers cannot be taken over. Name a "
            f"model of one of the types {', '.join(TEXT_TYPES)}."
        )
    return found


def _joint_fields(config_class, dicts: dict[str, dict], sources: dict[str, str | None], fields: dict[str, Any]):
    """Return the configuration that both sides share, with `fields` where the sides do not decide."""
    defaults = config_class()
    joint: dict[str, Any] = {}
    for name in (*SHARED_FIELDS, "dropout", "attention_dropout", "activation_dropout"):
        values = {side: found.get(name, getattr(defaults, name)) for side, found in dicts.items()}
        first = next(iter(values.values()))
        if name in SHARED_FIELDS:
            if any(value != first for value in values.values()):
                found_values = " and ".join(f"{value!r} in '{sources[side]}'" for side, value in values.items())
                raise TransferError(
                    f"{name} is {found_values}: both sides must have the same, so that they fit together."
                )
            if name in fields and fields[name] != first:
                raise TransferError(
                    f"{name}={fields[name]!r} contradicts the pre-trained model's {first!r}: leave it out."
                )
        joint[name] = first
    for side, found in dicts.items():
        own = f"{side}_layers"
        joint[own] = found.get(own, found.get("num_hidden_layers"))
    if "decoder" not in dicts:
        joint["decoder_layers"] = joint["encoder_layers"]
    if "decoder" in dicts and "decoder_layers" in dicts["decoder"]:  # an encoder-decoder's stack of that side
        cell = dicts["decoder"].get("decoder_cell", "attention")
    else:
        cell = "attention" if "decoder" in dicts else fields.get("decoder_cell", "attention")
    if fields.get("decoder_cell", cell) != cell:
        raise TransferError(
            f"decoder_cell={fields['decoder_cell']!r} contradicts the pre-trained decoder's {cell!r}: leave it out."
        )
    return {**joint, **fields, "decoder_cell": cell}


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
    decoder = f"'{sources['decoder']}'" if sources["decoder"] else "random weights"
    logger.warning(
        f"Encoder from '{sources['encoder']}', decoder from {decoder}, shared embedding of the {embeddings}. Freshly "
        f"initialised: {', '.join(groups) or 'nothing'}. Train the model before use."
    )
    if len(matrices) == 2 and not torch.equal(*matrices.values()):
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
def transfer_vocabulary(model, old_tokenizer, new_tokenizer) -> VocabularyTransfer:
    """Put a new vocabulary onto a trained model, in place: kept rows for kept tokens.

    A token that both vocabularies have keeps its row of the embedding (and of an output matrix or bias of its own). A
    new token starts from the mean of the rows of the pieces that the old tokenizer makes of its text; one without such
    pieces keeps the initialisation of a new model.

    Args:
        model: a model of any text family; its configuration gets the new size and special ids.
        old_tokenizer: the tokenizer that the model was trained with.
        new_tokenizer: the tokenizer that it is to have.

    Returns:
        how many rows were kept, composed and left new.

    Raises:
        TransferError: the old tokenizer has more tokens than the model has rows.
    """
    matrix = model.get_input_embeddings().weight.detach().clone()
    head = model.get_output_embeddings()
    own_head = (
        None if head is None or head.weight is model.get_input_embeddings().weight else head.weight.detach().clone()
    )
    bias = None if head is None or head.bias is None else head.bias.detach().clone()
    old = old_tokenizer.get_vocab()
    if max(old.values()) >= len(matrix):
        raise TransferError(
            f"The old tokenizer has {max(old.values()) + 1} tokens but the model {len(matrix)} rows: it is not the "
            "tokenizer that the model was trained with."
        )
    sources, counts = _sources(old, old_tokenizer, new_tokenizer)
    model.resize_token_embeddings(len(new_tokenizer), mean_resizing=False)
    embedding, head = model.get_input_embeddings(), model.get_output_embeddings()
    random = torch.empty_like(embedding.weight).normal_(std=model.config.d_model**-0.5)
    targets = [(embedding.weight, matrix, random)]
    if own_head is not None:
        targets.append((head.weight, own_head, random))
    if bias is not None:
        targets.append((head.bias, bias, torch.zeros_like(head.bias)))
    for parameter, former, fallback in targets:
        rows = [former[ids].mean(dim=0) if ids else fallback[new] for new, ids in enumerate(sources)]
        parameter.copy_(torch.stack(rows))
    for name in ("pad_token_id", "bos_token_id", "eos_token_id"):
        if hasattr(model.config, name):
            setattr(model.config, name, getattr(new_tokenizer, name))
    if getattr(model.config, "decoder_start_token_id", None) is not None:
        start = old_tokenizer.convert_ids_to_tokens(model.config.decoder_start_token_id)
        model.config.decoder_start_token_id = new_tokenizer.convert_tokens_to_ids(start)
    if getattr(model, "generation_config", None) is not None:
        for name in ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id"):
            if getattr(model.generation_config, name, None) is not None:
                setattr(model.generation_config, name, getattr(model.config, name))
    return counts


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
