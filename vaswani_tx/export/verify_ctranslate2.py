"""What `--verify` compares between a model and its export to CTranslate2."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vaswani_tx.export.folders import PLAIN_GREEDY, Comparison, batch_of, kind_of

NEW_TOKENS = 20  # of a continuation
BATCH = 16
# float32 in another order of summation, over all layers.
HIDDEN_BOUND = 1e-4


def verify(model: Any, tokenizer: Any, folder: Path, sentences: Sequence[str]) -> list[Comparison]:
    """Compare translations, continuations or hidden states, by the kind of the model."""
    kind = kind_of(model.config)
    if kind == "encoder-decoder":
        return _translations(model, tokenizer, folder, sentences)
    return (
        _continuations(model, tokenizer, folder, sentences)
        if kind == "decoder"
        else _hidden(model, tokenizer, folder, sentences)
    )


def _translations(model: Any, tokenizer: Any, folder: Path, sentences: Sequence[str]) -> list[Comparison]:
    # Here: engines are a layer above this one.
    import importlib

    engine = importlib.import_module("vaswani_tx.engines.ctranslate2_model").CTranslate2Model(folder)
    plain = {"length_penalty": 1.0, "early_stopping": True, "num_beams": 4}
    alpha = getattr(model.generation_config, "gnmt_alpha", None)
    settings: list[tuple[str, dict[str, Any]]] = [
        ("greedy", {"num_beams": 1}),
        ("beam 4, log P / length, early_stopping=True", plain),
    ]
    if alpha:
        settings.append((f"beam 4, GNMT penalty {alpha}", {"num_beams": 4, "gnmt_alpha": alpha}))
    return [same_targets(name, model, engine, tokenizer, sentences, options) for name, options in settings]


def same_targets(
    name: str, model: Any, engine: Any, tokenizer: Any, sentences: Sequence[str], options: dict
) -> Comparison:
    equal = 0
    for first in range(0, len(sentences), BATCH):
        batch = batch_of(tokenizer, sentences[first : first + BATCH])
        with torch.no_grad():
            wanted = model.generate(**batch, **options)
        found = engine.generate(**batch, **options)
        width = max(wanted.shape[1], found.shape[1])
        padding = model.config.pad_token_id or 0
        wanted, found = (
            torch.nn.functional.pad(one, (0, width - one.shape[1]), value=padding) for one in (wanted, found)
        )
        equal += int((wanted == found).all(dim=1).sum())
    return Comparison(f"translations, {name}, token by token", len(sentences), equal)


def _continuations(model: Any, tokenizer: Any, folder: Path, sentences: Sequence[str]) -> list[Comparison]:
    import ctranslate2

    generator = ctranslate2.Generator(str(folder), compute_type="default")
    prompts = [tokenizer(text, verbose=False)["input_ids"] for text in sentences]
    prompts = [ids[: max(1, len(ids) // 2)] for ids in prompts]
    end = model.config.eos_token_id
    ends = end if isinstance(end, list) else [end]
    tokens = [tokenizer.convert_ids_to_tokens(ids) for ids in prompts]
    found = generator.generate_batch(
        tokens, max_length=NEW_TOKENS, beam_size=1, min_length=0, include_prompt_in_result=False, end_token=ends,
        return_end_token=True,
    )  # fmt: skip
    equal = 0
    for ids, result in zip(prompts, found, strict=True):
        with torch.no_grad():
            wanted = model.generate(torch.tensor([ids]), max_new_tokens=NEW_TOKENS, **PLAIN_GREEDY)
        equal += wanted[0, len(ids) :].tolist() == list(result.sequences_ids[0])
    return [Comparison(f"greedy continuations of {NEW_TOKENS} tokens, token by token", len(prompts), equal)]


def _hidden(model: Any, tokenizer: Any, folder: Path, sentences: Sequence[str]) -> list[Comparison]:
    import ctranslate2
    import numpy

    encoder = ctranslate2.Encoder(str(folder), compute_type="default")
    rows = [tokenizer(text, verbose=False)["input_ids"] for text in sentences]
    output = torch.from_numpy(numpy.array(encoder.forward_batch(rows).last_hidden_state))
    batch = batch_of(tokenizer, sentences)
    with torch.no_grad():
        wanted = model.base_model(**batch).last_hidden_state
    gaps = [float((output[i, : len(ids)] - wanted[i, : len(ids)]).abs().max()) for i, ids in enumerate(rows)]
    near = sum(gap <= HIDDEN_BOUND for gap in gaps)
    return [Comparison("hidden states of the last layer", len(rows), near, max(gaps), HIDDEN_BOUND)]
