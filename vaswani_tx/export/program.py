"""`torch.export`: a program of each part of a model, which torch runs without this package."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from vaswani_tx.export.folders import PLAIN_GREEDY, Comparison, batch_of, kind_of, refuse_fields, save_words, write_json
from vaswani_tx.export.onnx import traceable
from vaswani_tx.export.steps import parts_of

NEW_TOKENS = 20
BOUND = 1e-4


def check(config: Any) -> None:
    """Raise ExportError where a model has no step that can be traced."""
    kind_of(config)
    wrong = []
    if getattr(config, "decoder_cell", "attention") != "attention":
        wrong.append(f"decoder_cell={config.decoder_cell!r}: the programs hold keys and values of attention")
    refuse_fields(config, "this layout of programs", wrong)


def write(model: Any, tokenizer: Any, folder: Path) -> list[str]:
    """Write a .pt2 file of each part, with the names of its inputs and outputs in config.json; return notes."""
    signatures = {}
    for part in parts_of(traceable(model)):
        torch.export.save(part.program(), folder / f"{part.name}.pt2")
        signatures[part.name] = {"inputs": list(part.inputs), "outputs": part.outputs}
    config = model.config
    ids = ("pad_token_id", "bos_token_id", "eos_token_id", "decoder_start_token_id")
    values = {name: getattr(config, name, None) for name in ids}
    write_json(folder / "config.json", {"programs": signatures, **values})
    save_words(model, tokenizer, folder)
    return [f"traced with torch {torch.__version__}; .pt2 files belong to the version of torch that wrote them"]


def verify(model: Any, tokenizer: Any, folder: Path, sentences: Sequence[str]) -> list[Comparison]:
    """Compare greedy translations or continuations, or outputs, of the programs as they are loaded again."""
    programs = {path.stem: torch.export.load(path).module() for path in sorted(folder.glob("*.pt2"))}
    kind = kind_of(model.config)
    compare = {"encoder-decoder": _translations, "decoder": _continuations, "encoder": _outputs}[kind]
    return compare(model, tokenizer, programs, sentences)


def _ends(config: Any) -> torch.Tensor:
    ends = config.eos_token_id
    return torch.tensor(ends if isinstance(ends, list) else [ends])


def _translations(model: Any, tokenizer: Any, programs: dict, sentences: Sequence[str]) -> list[Comparison]:
    found = []
    for size in (len(sentences), 1):  # all at once, and one by one
        equal = 0
        for first in range(0, len(sentences), size):
            batch = batch_of(tokenizer, sentences[first : first + size])
            with torch.no_grad():
                wanted = model.generate(**batch, max_new_tokens=NEW_TOKENS, **PLAIN_GREEDY)
                made = _greedy(model.config, programs, batch)
            equal += sum(
                one[: len(other)].tolist() == other.tolist() and not one[len(other) :].any()
                for one, other in zip(_padded(made, wanted.shape[1], model.config), wanted, strict=True)
            )
        found.append(Comparison(f"greedy translations, batches of {size}, {NEW_TOKENS} tokens", len(sentences), equal))
    return found


def _padded(made: torch.Tensor, width: int, config: Any) -> torch.Tensor:
    """Return sequences with padding after their end, as `generate` has it, as wide as `width` at least."""
    padding = config.pad_token_id or 0
    after = torch.isin(made[:, 1:], _ends(config)).int().cumsum(1)
    kept = made.clone()
    kept[:, 2:] = made[:, 2:].masked_fill(after[:, :-1] > 0, padding)
    return torch.nn.functional.pad(kept, (0, max(width - made.shape[1], 0)), value=padding)[:, :width]


def _greedy(config: Any, programs: dict, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    mask = batch["attention_mask"]
    states = programs["encoder_model"](batch["input_ids"], mask)
    ids = torch.full((len(mask), 1), config.decoder_start_token_id)
    logits, *present = programs["decoder_model"](mask, ids, states)
    layers = range(len(present) // 4)
    own = [present[4 * layer + place] for layer in layers for place in (0, 1)]
    source = [present[4 * layer + place] for layer in layers for place in (2, 3)]
    while True:
        ids = torch.cat((ids, logits[:, -1:].argmax(-1)), dim=1)
        done = torch.isin(ids[:, 1:], _ends(config)).any(1).all()
        if done or ids.shape[1] > NEW_TOKENS:
            return ids
        past = [t for layer in layers for t in (*own[2 * layer : 2 * layer + 2], *source[2 * layer : 2 * layer + 2])]
        logits, *own = programs["decoder_with_past_model"](mask, ids[:, -1:], *past)


def _continuations(model: Any, tokenizer: Any, programs: dict, sentences: Sequence[str]) -> list[Comparison]:
    config, equal = model.config, 0
    for text in sentences:
        ids = tokenizer(text, verbose=False)["input_ids"]
        prompt = torch.tensor([ids[: max(2, len(ids) // 2)]])
        with torch.no_grad():
            wanted = model.generate(prompt, max_new_tokens=NEW_TOKENS, **PLAIN_GREEDY)[0]
        past = []
        for _ in range(config.num_hidden_layers):
            past += [torch.zeros(1, config.num_heads, 0, width) for width in (config.d_k, config.d_v)]
        made, step = prompt, prompt
        while made.shape[1] < prompt.shape[1] + NEW_TOKENS:
            logits, *past = programs["model"](step, torch.ones_like(made), *past)
            step = logits[:, -1:].argmax(-1)
            made = torch.cat((made, step), dim=1)
            if torch.isin(step, _ends(config)).all():
                break
        equal += made[0].tolist() == wanted.tolist()
    return [Comparison(f"greedy continuations of {NEW_TOKENS} tokens", len(sentences), equal)]


def _outputs(model: Any, tokenizer: Any, programs: dict, sentences: Sequence[str]) -> list[Comparison]:
    gaps = []
    for text in sentences:
        batch = batch_of(tokenizer, [text])
        with torch.no_grad():
            wanted = model(**batch)
            outputs = programs["model"](batch["input_ids"], batch["attention_mask"])
        known = ("last_hidden_state", "logits", "start_logits", "end_logits")
        names = [name for name in known if name in wanted]
        gaps.append(max(float((a - wanted[name]).abs().max()) for name, a in zip(names, outputs, strict=True)))
    return [Comparison("outputs", len(gaps), sum(gap <= BOUND for gap in gaps), max(gaps), BOUND)]
