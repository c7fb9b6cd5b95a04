"""The evaluation of a causal or masked language model on text.

`vaswani_tx.training.evaluate_language_model` is the command and describes its options.
"""

import argparse
import math
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoModelForCausalLM, AutoModelForMaskedLM

import vaswani_tx
from vaswani_tx.devices import choose_device
from vaswani_tx.loading import load_model, load_tokenizer, read_config
from vaswani_tx.training.command_line import DTYPES
from vaswani_tx.training.data.masking import Masker
from vaswani_tx.training.data.text import TextCorpus
from vaswani_tx.training.errors import CheckpointError
from vaswani_tx.training.inference.language_modeling import (
    causal_scores,
    masked_scores,
    pseudo_log_likelihoods,
    read_documents,
)
from vaswani_tx.training.metrics.registry import BY_NAME
from vaswani_tx.training.metrics.scoring import aligned

MODELS = {"causal": AutoModelForCausalLM, "masked": AutoModelForMaskedLM}
ENDINGS = {"ForCausalLM": "causal", "LMHeadModel": "causal", "ForMaskedLM": "masked"}
LENGTH = 1024  # of models without a limit of their own


def evaluate(options: argparse.Namespace) -> dict[str, Any]:
    """Return the scores that the options ask for; raise ValueError where model, text or numbers cannot be used."""
    if options.num_threads:
        torch.set_num_threads(options.num_threads)
    corpus = TextCorpus(
        options.text, split=options.split, config=options.dataset_config, field=options.field,
        documents=options.documents, empty="keep",
    )  # fmt: skip
    lines = read_documents(corpus)
    filled = [number for number, text in enumerate(lines) if text.strip()][: options.limit]
    texts = [lines[number] for number in filled]
    kind, model, tokenizer = load(options)
    if options.pseudo and kind != "masked":
        raise ValueError("--pseudo is for masked models: a causal model's likelihood is what is measured anyhow.")
    length = options.length or _limit(model, tokenizer)
    if length < 2:
        raise ValueError(f"--length is {length}: a sequence must hold at least 2 tokens.")
    shared = {"length": length, "batch_tokens": max(options.batch_tokens, length), "progress": not options.quiet}
    result: dict[str, Any] = {"kind": kind, "documents": len(texts)}
    if kind == "causal":
        context = length // 2 if options.context is None else options.context
        if not 1 <= context < length:
            raise ValueError(f"--context is {context}: it must be at least 1 and below --length ({length}).")
        result |= causal_scores(model, tokenizer, texts, context=context, **shared)
    else:
        masker = Masker.of(tokenizer, rate=options.rate, seed=options.seed)
        result |= masked_scores(model, tokenizer, texts, masker, **shared)
        if options.pseudo:
            found, count = pseudo_log_likelihoods(model, tokenizer, texts, **shared)
            # A document without text has no token to predict, but its line: number N is that of line N.
            nats = [0.0] * (len(lines) if options.limit is None else filled[-1] + 1)
            for number, value in zip(filled, found, strict=True):
                nats[number] = value
            result |= {"pseudo_tokens": count, "pseudo_loss": -sum(nats) / max(count, 1), "pseudo_scores": nats}
            result["pseudo_perplexity"] = math.exp(min(result["pseudo_loss"], 700.0))
    versions = {module.__name__: module.__version__ for module in (vaswani_tx, transformers, torch)}
    settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
    return result | {"settings": settings | {"length": length, "model_class": type(model).__name__} | versions}


def load(options: argparse.Namespace) -> tuple[str, Any, Any]:
    """Return kind, model and tokenizer; raise CheckpointError naming the folder where they cannot be loaded."""
    device = choose_device(options.device)
    config = read_config(options.model)
    names = config.architectures or [""]
    kind = options.kind or next((kind for end, kind in ENDINGS.items() if str(names[0]).endswith(end)), None)
    if kind is None:
        raise CheckpointError(
            f"'{options.model}' holds a {names[0] or 'model that does not say its class'}: name a causal or masked "
            "language model, or say with --kind what it is to be loaded as."
        )
    model = load_model(MODELS[kind], options.model, dtype=getattr(torch, DTYPES[options.dtype]))
    tokenizer = load_tokenizer(options.model)
    return kind, model.to(device).eval(), tokenizer


def report(result: dict[str, Any]) -> str:
    """Return the results as lines of text."""
    tokens = f"{result['documents']:,} documents, {result['tokens']:,} tokens"
    shown = {
        name: (BY_NAME[name].title, BY_NAME[name].show_precisely(result[name])) for name in BY_NAME if name in result
    }
    rows = [_row(shown["loss"], f"nats a token   ({tokens})")]
    if result["kind"] == "causal":
        rows += [
            _row(shown["perplexity"], "per token"),
            ("", f"{result['word_perplexity']:.3f} per word   ({result['words']:,} words, line ends among them)"),
            _row(shown["bits_per_byte"], f"  ({result['bytes']:,} bytes)"),
        ]
    else:
        rate, seed = result["settings"]["rate"], result["settings"]["seed"]
        rows += [
            _row(shown["perplexity"], f"per masked token   ({100 * rate:g} % of the words, seed {seed})"),
            (shown["accuracy"][0], f"{100 * result['accuracy']:.2f} % of the masked tokens"),
        ]
    if "pseudo_loss" in result:
        each = f"{result['pseudo_loss']:.4f} nats a token, {result['pseudo_tokens']:,} tokens"
        rows.append(("pseudo-perplexity", f"{result['pseudo_perplexity']:.3f}   ({each})"))
    return "\n".join(aligned(rows))


def _row(shown: tuple[str, str], meaning: str) -> tuple[str, str]:
    title, value = shown
    return title, f"{value} {meaning}"


def _limit(model: Any, tokenizer: Any) -> int:
    """Return the longest sequence that the model was made for."""
    own = getattr(model.config, "max_position_embeddings", None) or LENGTH
    return min(LENGTH, own, tokenizer.model_max_length)
