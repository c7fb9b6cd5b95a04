"""Translation of many sentences with any encoder-decoder, for evaluation and validation during training.

`translate` takes sentences in any order and of any length and returns the hypotheses in the same order. Batches hold
sentences of similar length under a budget of source tokens. With `distributed=True` every process of the group takes
its share of the batches and receives all hypotheses.

Shapes: `B` sentences of a batch, `S` source tokens, `T` target tokens.
"""

import inspect
import math
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import vaswani_tx.training.models.architectures  # noqa: F401  registers the Auto classes
from vaswani_tx.fast_generation_vaswani import search_of
from vaswani_tx.loading import load_translator, looks_like_path
from vaswani_tx.token_texts_vaswani import source_of, target_of
from vaswani_tx.training.data.batching import IGNORED_LABEL
from vaswani_tx.training.errors import CheckpointError
from vaswani_tx.training.models.loading import check_folder, repair_hint

# What `generate` falls back to where a model sets no limit: far too short for a translation.
UNSET_MAX_LENGTH = (None, 20)
EXTRA_TOKENS = 50


@dataclass(frozen=True)
class Translations:
    """Hypotheses in the order of the sources, and what it took to make them (over all processes)."""

    texts: list[str]
    source_tokens: int
    target_tokens: int
    seconds: float


def load_model_and_tokenizer(
    model: str, tokenizer: str | None = None, *, device: str | torch.device = "cpu", **options: Any
) -> tuple[Any, Any]:
    """Load a folder (or a name on the Hub) by the Auto classes, ready to translate.

    Args:
        model: folder of a model, such as a run's `best/`, or a name on the Hub.
        tokenizer: folder of the tokenizer; the model's own if None.
        device: where the model goes.
        options: passed to `from_pretrained` (`dtype`, `attn_implementation`, ...).

    Raises:
        CheckpointError: a file is missing or damaged, or the tokenizer does not fit; the message names it.
    """
    hint = repair_hint(Path(model))
    if Path(model).exists() or looks_like_path(model):
        check_folder(Path(model))
    loaded, words = load_translator(model, tokenizer, hint=hint, **options)
    for side in (source_of(words), target_of(words)):
        for token in ("pad_token_id", "eos_token_id"):
            if getattr(side, token) is None:
                raise CheckpointError(
                    f"the tokenizer of '{tokenizer or model}' has no {token}: set it and save it again."
                )
    return loaded.to(device).eval(), words


def translate(model: Any, tokenizer: Any, sentences: Sequence[str], **options: Any) -> list[str]:
    """Translate sentences and return the hypotheses in their order; the options are those of `translate_corpus`."""
    return translate_corpus(model, tokenizer, sentences, **options).texts


def translate_corpus(
    model: Any,
    tokenizer: Any,
    sentences: Sequence[str],
    *,
    batch_tokens: int = 4096,
    max_source_length: int | None = None,
    progress: bool = False,
    distributed: bool = False,
    engine: str | None = None,
    **generate_kwargs: Any,
) -> Translations:
    """Translate sentences with `model.generate`, models of this package by `fast_generate`.

    Args:
        model: any encoder-decoder with `generate`, not wrapped for distributed training.
        tokenizer: its tokenizer.
        sentences: texts of any length and order; a blank one is not given to the model, its translation is empty.
        batch_tokens: source tokens of a batch with its padding, before beams; a longer sentence is a batch of its own.
        max_source_length: cut sources to this many tokens; None: never.
        progress: show a bar with sentences done.
        distributed: share the work with the processes of torch.distributed, all of which must call this.
        engine: "transformers" searches with plain `generate`.
        generate_kwargs: override the model's generation configuration (`num_beams`, `max_new_tokens`, ...).

    The model is put into evaluation mode for the call; random states and gradients do not change.
    """
    start = time.perf_counter()
    encoded, padding = _encode(tokenizer, sentences, max_source_length), source_of(tokenizer).pad_token_id
    filled = [index for index, text in enumerate(sentences) if text.strip()]
    plan = [[filled[i] for i in batch] for batch in length_batches([len(encoded[i]) for i in filled], batch_tokens)]
    rank, world = _rank_and_world(distributed)
    own = plan[rank::world]
    done: dict[int, str] = {}
    target_tokens = 0
    search = search_of(engine, model, generate_kwargs)
    with evaluating(model), tqdm(total=sum(map(len, own)), unit="sent", disable=not progress or rank > 0) as bar:
        for indices in own:
            batch = _pad([encoded[i] for i in indices], padding, model.device)
            bounded = _bounded(model, batch["input_ids"].shape[1], generate_kwargs)
            sequences = model.generate(**batch, **bounded, **search)
            target_tokens += _count_tokens(sequences, model, target_of(tokenizer))
            texts = tokenizer.batch_decode(sequences, skip_special_tokens=True)
            done.update(zip(indices, texts, strict=True))
            bar.update(len(indices))
    shares = _gather((done, target_tokens)) if world > 1 else [(done, target_tokens)]
    found = {index: text for share, _ in shares for index, text in share.items()}
    return Translations(
        texts=[found.get(index, "") for index in range(len(sentences))],
        source_tokens=sum(map(len, encoded)),
        target_tokens=sum(count for _, count in shares) + len(sentences) - len(filled),  # of an empty one: its end
        seconds=time.perf_counter() - start,
    )


def perplexity(
    model: Any,
    tokenizer: Any,
    sources: Sequence[str],
    targets: Sequence[str],
    *,
    batch_tokens: int = 4096,
    progress: bool = False,
    distributed: bool = False,
) -> dict[str, float | int]:
    """Measure the perplexity of the references given the sources, by target token with the end, unsmoothed.

    Returns:
        `perplexity`, `nll` (natural logarithm, mean over tokens) and `reference_tokens`. They depend on the
        vocabulary: compare them only between models with the same one.
    """
    if len(sources) != len(targets):
        raise ValueError(f"{len(sources)} sources but {len(targets)} targets: give one for each sentence")
    encoded = _encode(tokenizer, sources, None)
    labels = _encode(tokenizer, targets, None, as_target=True)
    plan = length_batches([max(len(s), len(t)) for s, t in zip(encoded, labels, strict=True)], batch_tokens)
    rank, world = _rank_and_world(distributed)
    # Ours can leave the logits of the whole batch unbuilt, which otherwise take most of the memory.
    without_logits = {"skip_logits": True} if "skip_logits" in inspect.signature(model.forward).parameters else {}
    total, count = 0.0, 0
    with evaluating(model), torch.no_grad():
        for indices in tqdm(plan[rank::world], unit="batch", disable=not progress or rank > 0, leave=False):
            batch = _pad([encoded[i] for i in indices], source_of(tokenizer).pad_token_id, model.device)
            wanted = _pad([labels[i] for i in indices], IGNORED_LABEL, model.device)["input_ids"]  # [B, T]
            tokens = sum(len(labels[i]) for i in indices)
            total += model(**batch, labels=wanted, **without_logits).loss.item() * tokens
            count += tokens
    if world > 1:
        total, count = map(sum, zip(*_gather((total, count)), strict=True))
    nll = total / max(count, 1)
    return {"perplexity": math.exp(nll) if nll < 700 else math.inf, "nll": nll, "reference_tokens": count}


def length_batches(lengths: Sequence[int], batch_tokens: int) -> list[list[int]]:
    """Cut indices, longest first, into batches whose padded size stays within `batch_tokens` where that is possible.

    Longest first: memory runs out at once or never, and the progress bar is pessimistic rather than optimistic.
    """
    if batch_tokens < 1:
        raise ValueError(f"batch_tokens is {batch_tokens}: it must be at least 1")
    plan: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        if plan and (len(plan[-1]) + 1) * lengths[plan[-1][0]] <= batch_tokens:
            plan[-1].append(index)
        else:
            plan.append([index])
    return plan


def _encode(
    tokenizer: Any, sentences: Sequence[str], max_length: int | None, as_target: bool = False
) -> list[list[int]]:
    if not len(sentences):
        return []
    options = {"truncation": max_length is not None, "max_length": max_length, "verbose": False}
    texts = list(sentences)
    return (
        tokenizer(text_target=texts, **options)["input_ids"] if as_target else tokenizer(texts, **options)["input_ids"]
    )


def _pad(rows: list[list[int]], value: int, device: torch.device) -> dict[str, torch.Tensor]:
    width = max(map(len, rows))
    ids = torch.full((len(rows), width), value, dtype=torch.long)  # [B, S]
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens, dtype=torch.long)
        mask[row, : len(tokens)] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def _bounded(model: Any, source_width: int, generate_kwargs: dict[str, Any]) -> dict[str, Any]:
    """Add the paper's length limit for models that have none of their own."""
    settings = model.generation_config
    limits = [getattr(settings, name, None) for name in ("max_new_tokens", "max_extra_tokens")]
    given = {"max_length", "max_new_tokens", "max_extra_tokens", "generation_config"} & generate_kwargs.keys()
    if given or any(limit is not None for limit in limits) or settings.max_length not in UNSET_MAX_LENGTH:
        return generate_kwargs
    return generate_kwargs | {"max_new_tokens": source_width + EXTRA_TOKENS}


def _count_tokens(sequences: torch.Tensor, model: Any, tokenizer: Any) -> int:
    """Count generated tokens with the end of sentence, without the start token and the padding after the end."""
    made = sequences[:, 1:]
    # A model may end with other tokens too.
    more = getattr(model.generation_config, "eos_token_id", None)
    ends = [tokenizer.eos_token_id, *(more if isinstance(more, list) else () if more is None else (more,))]
    is_end = torch.isin(made, torch.tensor(ends, device=made.device))
    after_end = is_end.cumsum(dim=1) - is_end.long() > 0
    return int((~after_end & (made != tokenizer.pad_token_id)).sum())


def _rank_and_world(distributed: bool) -> tuple[int, int]:
    if distributed and torch.distributed.is_available() and torch.distributed.is_initialized():
        return torch.distributed.get_rank(), torch.distributed.get_world_size()
    return 0, 1


def _gather(value: Any) -> list[Any]:
    values: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(values, value)
    return values


@contextmanager
def evaluating(model: torch.nn.Module) -> Iterator[None]:
    """Run the block in evaluation mode, then restore the mode of before."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)
