# Shapes: S source length, T target length, D model width, H heads, K d_k, U d_v, V vocabulary.
"""Run a model once on one text and keep what the page tells: the numbers of the real forward pass and decoding."""

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from typing import Any

import torch

from vaswani_tx.errors import ExplainError
from vaswani_tx.explain.recording import (
    Recorded,
    Stage,
    attention_of,
    evaluating,
    readable,
    recorded_attention,
    recorded_sublayers,
)
from vaswani_tx.explain.search import Decoding, replay
from vaswani_tx.explain.tokens import Token, token_text, tokens_of
from vaswani_tx.token_texts_vaswani import source_of, target_of

# Longest text in tokens, before any memory is spent: a page of more could not be read.
MAX_TOKENS = 1024
TOP_PREDICTIONS, RAISED = 5, 3
NEW_TOKENS = 24  # continuation of a prompt by a decoder-only model
Progress = Callable[[str], None]


@dataclass
class Stack:
    """What enters one stack: the rows of the embedding matrix (or the projected patches) and what the positions add."""

    embeddings: torch.Tensor  # [L, D], before the scale
    scale: float
    added: torch.Tensor  # [L, D], the encoding of the positions


@dataclass
class Prediction:
    """The model's distribution after each target token (teacher forcing)."""

    labels: list[int]
    label_log_probs: torch.Tensor  # [T]
    mean_log_probs: torch.Tensor  # [T], over the vocabulary: what label smoothing adds
    top_ids: torch.Tensor  # [T, 5]
    top_probs: torch.Tensor  # [T, 5]


@dataclass
class Trace:
    """One forward pass of one model on one text."""

    family: str  # "encoder-decoder", "decoder", "encoder" or "image"
    source: list[Token]
    target: list[Token]  # what the decoder reads; empty without a decoder
    attention: list[Recorded]
    stages: list[Stage]
    stacks: dict[str, Stack]
    raised: dict[int, tuple[torch.Tensor, torch.Tensor]] = field(default_factory=dict)  # attention -> ids, logits
    prediction: Prediction | None = None
    decoding: Decoding | None = None
    classes: list[dict[str, Any]] = field(default_factory=list)
    masked: list[dict[str, Any]] = field(default_factory=list)
    pixels: torch.Tensor | None = None  # [3, height, width], from 0 to 1
    grid: tuple[int, int] | None = None  # patches, rows and columns


def family_of(model: Any) -> str:
    """Return which of the four families a model belongs to."""
    if getattr(model, "main_input_name", "") == "pixel_values":
        return "image"
    if getattr(model.config, "is_encoder_decoder", False):
        return "encoder-decoder"
    return "decoder" if model.can_generate() else "encoder"


def check_length(length: int, where: str) -> None:
    """Raise ExplainError for a text that is empty or too long for a page."""
    if length == 0:
        raise ExplainError(f"The {where} has no tokens: give a sentence.")
    if length > MAX_TOKENS:
        raise ExplainError(
            f"The {where} has {length:,} tokens, and a page holds {MAX_TOKENS:,} at most: give a sentence or paragraph."
        )


def check_text(text: Any, where: str) -> None:
    """Raise ExplainError for what is no text, or holds half of a character."""
    if not isinstance(text, str):
        raise ExplainError(f"The {where} is {type(text).__name__}, not a string: give one sentence as str.")
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ExplainError(
            f"The {where} has no valid character at place {error.start + 1} ({text[error.start]!r}): give it in UTF-8."
        ) from None


@torch.no_grad()
def trace(
    model: Any,
    tokenizer: Any,
    text: str,
    target: str | None = None,
    progress: Progress = lambda line: None,
    check_source: Callable[[int], None] = lambda length: None,
) -> Trace:
    """Run `model` on `text` and return what it computed.

    Args:
        model: an encoder-decoder, a decoder or an encoder of transformers; one with a language-model head also decodes.
        tokenizer: its tokenizer.
        text: the source, or the prompt of a model without an encoder.
        target: the translation to follow (teacher forcing); None: the one that the model finds.
        progress: told what is being done.
        check_source: called with the tokens of the text before the model runs; raises where they are too many.

    Raises:
        ExplainError: an empty text, one that is too long, or a model whose attention cannot be read.
    """
    with evaluating(model):
        return _trace(model, tokenizer, text, target, progress, check_source)


def _trace(
    model: Any, tokenizer: Any, text: str, target: str | None, progress: Progress, check_source: Callable[[int], None]
) -> Trace:
    family = family_of(model)
    if family == "image":
        raise ExplainError("An image model reads images: give it one with `page(model, processor, image)`.")
    check_text(text, "text")
    if target is not None:
        check_text(target, "target")
        if not target.strip():
            raise ExplainError("The target is empty: give a sentence, or none for the model's own.")
    if not text.strip():
        raise ExplainError("The text is empty: give a sentence.")
    encoded = tokenizer(text, return_tensors="pt", truncation=False)
    check_length(encoded["input_ids"].shape[1], "text")
    check_source(encoded["input_ids"].shape[1])
    inputs = {
        name: encoded[name].to(model.device)
        for name in ("input_ids", "attention_mask", "token_type_ids")
        if name in encoded
    }
    source_ids = encoded["input_ids"][0].tolist()
    if family == "encoder":
        return _trace_encoder(model, tokenizer, inputs, source_ids, progress)
    progress("decoding")
    generated: dict[str, torch.Tensor] = {
        name: inputs[name] for name in ("input_ids", "attention_mask") if name in inputs
    }
    decoding = replay(model, generated, NEW_TOKENS if family == "decoder" else None)
    for hypothesis in decoding.hypotheses:
        hypothesis["text"] = tokenizer.decode(hypothesis["tokens"], skip_special_tokens=True)
    if family == "decoder":
        return _trace_decoder(model, tokenizer, inputs, source_ids, target, decoding, progress)
    if target is None:
        labels = decoding.hypotheses[0]["tokens"]
    else:
        labels = tokenizer(text_target=target, truncation=False)["input_ids"]
    check_length(len(labels), "target")
    label_row = torch.tensor([labels], device=model.device)
    decoder_ids = model.prepare_decoder_input_ids_from_labels(labels=label_row)
    progress("forward pass")
    found, logits = _forward(model, {**inputs, "decoder_input_ids": decoder_ids}, family)
    found.source = tokens_of(source_of(tokenizer), source_ids)
    found.target = tokens_of(target_of(tokenizer), decoder_ids[0].tolist())
    found.decoding = decoding
    found.prediction = _prediction(logits, labels)
    progress("words that each head raises")
    found.raised = _raised(model, found.attention)
    return found


def _trace_decoder(model, tokenizer, inputs, source_ids, target, decoding, progress: Progress) -> Trace:
    if target is None:
        more = decoding.hypotheses[0]["tokens"]
    else:
        more = tokenizer(target, add_special_tokens=False, truncation=False)["input_ids"]
    ids = [*source_ids, *more]
    check_length(len(ids), "text with its continuation")
    row = torch.tensor([ids], device=model.device)
    progress("forward pass")
    found, logits = _forward(model, {"input_ids": row, "attention_mask": torch.ones_like(row)}, "decoder")
    found.source = []
    found.target = tokens_of(tokenizer, ids)
    found.decoding = decoding
    found.prediction = _prediction(logits[:-1], ids[1:]) if logits is not None and len(ids) > 1 else None
    progress("words that each head raises")
    found.raised = _raised(model, found.attention)
    return found


def _trace_encoder(model, tokenizer, inputs, source_ids, progress: Progress) -> Trace:
    progress("forward pass")
    found, logits = _forward(model, inputs, "encoder")
    found.source = tokens_of(tokenizer, source_ids)
    if logits is None:
        return found
    names = getattr(model.config, "id2label", None) or {}
    if logits.dim() == 1 and len(names) == len(logits):  # a class of the whole text
        probs = logits.softmax(-1)
        found.classes = [{"name": str(names[i]), "probability": float(p)} for i, p in enumerate(probs.tolist())]
    elif logits.dim() == 2 and tokenizer.mask_token_id is not None and logits.shape[-1] >= len(tokenizer):
        for position, number in enumerate(source_ids):
            if number == tokenizer.mask_token_id:
                best = logits[position].softmax(-1).topk(TOP_PREDICTIONS)
                words = [
                    {"text": token_text(tokenizer, i), "probability": p}
                    for i, p in zip(best.indices.tolist(), best.values.tolist(), strict=True)
                ]
                found.masked.append({"position": position, "predictions": words})
    elif logits.dim() == 2 and len(names) == logits.shape[-1]:  # a tag of each token
        best_tag = logits.softmax(-1).max(-1)
        found.classes = [
            {"position": position, "name": str(names[i]), "probability": float(p)}
            for position, (i, p) in enumerate(zip(best_tag.indices.tolist(), best_tag.values.tolist(), strict=True))
        ]
    return found


def trace_image(model: Any, processor: Any, image: Any, progress: Progress = lambda line: None) -> Trace:
    """Run an image classifier on one image (PIL, array or tensor, as its processor takes it)."""
    inputs = processor(images=image, return_tensors="pt")
    pixels = inputs["pixel_values"].to(model.device)
    progress("forward pass")
    with torch.no_grad():
        found, logits = _forward(model, {"pixel_values": pixels}, "image")
    size = model.config.patch_size
    rows, columns = pixels.shape[-2] // size, pixels.shape[-1] // size
    found.grid = (rows, columns)
    found.source = [Token(-1, "class", "class", True)] if _first_is_class(found, rows * columns) else []
    found.source += [
        Token(-1, f"{row + 1},{column + 1}", "", False) for row in range(rows) for column in range(columns)
    ]
    plain = pixels[0].float()
    found.pixels = (plain - plain.amin()) / (plain.amax() - plain.amin()).clamp_min(1e-9)
    if logits is not None:
        names = getattr(model.config, "id2label", None) or {}
        probs = logits.flatten().softmax(-1).tolist()
        found.classes = [{"name": str(names.get(i, i)), "probability": p} for i, p in enumerate(probs)]
    return found


def _first_is_class(found: Trace, patches: int) -> bool:
    return bool(found.attention) and found.attention[0].weights.shape[-1] == patches + 1


def _forward(model: Any, inputs: dict[str, torch.Tensor], family: str) -> tuple[Trace, torch.Tensor | None]:
    stacks: dict[str, Stack] = {}
    with ExitStack() as stack:
        calls = stack.enter_context(recorded_attention(model))
        stages = stack.enter_context(recorded_sublayers(model))
        for name, module in model.named_modules():
            # Our embeddings of tokens and of patches, also as a copy of the Hub's; only those of tokens are scaled.
            if type(module).__name__.startswith("Vaswani") and hasattr(module, "positions"):
                side = "decoder" if "decoder" in name.split(".") or family == "decoder" else "encoder"
                hook = _keep_positions(stacks, side, float(getattr(module, "scale", 1.0)))
                stack.callback(module.positions.register_forward_hook(hook).remove)
        ids = inputs.get("decoder_input_ids", inputs.get("input_ids"))
        stack.enter_context(readable(model, 0 if ids is None else ids.shape[1]))
        output = model(**inputs, **({} if family in ("image", "encoder") else {"use_cache": False}))
    attention = attention_of(model, calls)
    if not attention:
        raise ExplainError(f"{type(model).__name__} computed no attention that transformers can show.")
    logits = getattr(output, "logits", None)
    found = Trace(family, [], [], attention, stages, stacks)
    return found, None if logits is None else logits[0].float()


def _keep_positions(stacks: dict[str, Stack], side: str, scale: float):
    def hook(module, inputs, output):
        added = output[0] if output.dim() == 3 else output  # [B, L, D] or [L, D]
        stacks[side] = Stack(inputs[0][0].detach().float(), scale, added.detach().float())

    return hook


def _prediction(logits: torch.Tensor | None, labels: list[int]) -> Prediction | None:
    if logits is None:
        return None
    log_probs = logits.log_softmax(-1)
    best = log_probs.exp().topk(min(TOP_PREDICTIONS, logits.shape[-1]))
    rows = torch.arange(len(labels))
    return Prediction(labels, log_probs[rows, torch.tensor(labels)], log_probs.mean(-1), best.indices, best.values)


def _raised(model: Any, attention: list[Recorded]) -> dict[int, tuple[torch.Tensor, torch.Tensor]]:
    """Return for decoder heads the output words whose logits their part of the residual stream raises most.

    What a head writes goes straight through the output projection, as if nothing came after it: the layers and the norm
    that follow are left out ("logit lens" of one head).
    """
    projection = model.get_output_embeddings()
    weight = getattr(projection, "weight", None)
    if not isinstance(weight, torch.Tensor):
        return {}
    weight = weight.float()
    found = {}
    for number, item in enumerate(attention):
        if item.kind == "encoder" or item.written is None or item.written.shape[-1] != weight.shape[1]:
            continue
        best = (item.written @ weight.T).topk(min(RAISED, weight.shape[0]), dim=-1)  # [H, T, V] -> [H, T, 3]
        found[number] = (best.indices, best.values)
    return found


def stage_rows(found: Trace) -> list[dict[str, Any]]:
    """Return the lengths of the vectors at each sub-layer as values of JSON."""
    return [
        {key: round(value, 3) if isinstance(value, float) else value for key, value in asdict(stage).items()}
        for stage in found.stages
    ]
