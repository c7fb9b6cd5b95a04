"""Scores of language models on text: loss, perplexity and bits per byte, or the loss and accuracy of masked tokens.

A line's end counts as one byte, which `</s>` predicts: the bytes of a text file as it is on the disk. Any model of
transformers can be scored, whatever tokenizer it has.

B sequences of a batch, L tokens of the longest one, V vocabulary.
"""

import inspect
import math
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import torch
from accelerate import PartialState
from accelerate.utils import gather_object
from tqdm import tqdm

from vaswani_tx.training.data.batching import IGNORED_LABEL
from vaswani_tx.training.data.filters import FilterCounts
from vaswani_tx.training.data.masking import Masker
from vaswani_tx.training.data.packing import BlockMaker, collate_rows, frame, make_rows
from vaswani_tx.training.data.readers import Chunk
from vaswani_tx.training.data.text import TextCorpus
from vaswani_tx.training.inference.translation import evaluating, length_batches

LARGEST = 700.0  # nats whose exponential is still a number


def read_documents(corpus: TextCorpus) -> list[str]:
    """Return all documents of a validation set, in order."""
    return [text for chunk in corpus.chunks(FilterCounts()) for text in chunk.source]


def causal_scores(
    model: Any, tokenizer: Any, texts: Sequence[str], *, length: int, context: int = 0, batch_tokens: int = 4096,
    distributed: bool = False, progress: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Score a causal language model on documents.

    Args:
        length: longest sequence; a longer document is cut into blocks of so many tokens.
        context: tokens of the previous block that each block sees again, at least 1.

    Returns: `loss` in nats for each predicted token, `perplexity`, `bits_per_byte`, `tokens`, `bytes`, and by words
        between white space, each line's end being one, `word_perplexity` and `words`.
    """
    sequences, first = [], []
    encoded = tokenizer(list(texts), add_special_tokens=False, verbose=False)["input_ids"] if len(texts) else []
    step = length - max(context, 1)
    for ids in encoded:
        ids = frame(tokenizer, ids)
        for start in range(0, max(len(ids) - length, 0) + step, step):
            block = ids[start : start + length]
            new = 1 if start == 0 else length - step
            if len(block) > new:
                sequences.append(block)
                first.append(new)
    skip = _without_logits(model)
    nats, count = 0.0, 0
    with evaluating(model), torch.no_grad():
        for indices in _shared(length_batches([len(ids) for ids in sequences], batch_tokens), distributed, progress):
            batch = _padded([sequences[i] for i in indices], tokenizer.pad_token_id or 0, model.device)
            labels = batch["input_ids"].masked_fill(batch["attention_mask"] == 0, IGNORED_LABEL)
            for row, i in enumerate(indices):
                labels[row, : first[i]] = IGNORED_LABEL
            tokens = int((labels[:, 1:] != IGNORED_LABEL).sum())
            nats += float(model(**batch, labels=labels, **skip).loss) * tokens
            count += tokens
    nats, count = _summed([nats, count], distributed)
    size = sum(len(text.encode()) + 1 for text in texts)
    words = sum(len(text.split()) + 1 + text.count("\n") for text in texts)
    return {
        "loss": nats / max(count, 1),
        "perplexity": math.exp(min(nats / max(count, 1), LARGEST)),
        "bits_per_byte": nats / math.log(2) / max(size, 1),
        "word_perplexity": math.exp(min(nats / max(words, 1), LARGEST)),
        "tokens": int(count), "words": words, "bytes": size,
    }  # fmt: skip


def masked_scores(
    model: Any, tokenizer: Any, texts: Sequence[str], masker: Masker, *, length: int, batch_tokens: int = 4096,
    distributed: bool = False, progress: bool = False,
) -> dict[str, Any]:  # fmt: skip
    """Score a masked language model on documents, the same words of which are masked each time.

    Returns: `loss` in nats for each token to predict, `perplexity`, `accuracy` (from 0 to 1), `tokens`.
    """
    rows = _rows(tokenizer, texts, length)
    nats, right, count = 0.0, 0, 0
    with evaluating(model), torch.no_grad():
        plan = length_batches(rows.lengths.tolist(), batch_tokens) if len(rows) else []
        for indices in _shared(plan, distributed, progress):
            masked = [masker(rows.ids_of(i), rows.words_of(i), 0, i) for i in indices]
            batch = collate_rows(rows, np.asarray(indices), tokenizer.pad_token_id or 0, False, 1, masked)
            labels = batch.pop("labels").to(model.device)
            where = labels != IGNORED_LABEL
            logits = model(**{name: value.to(model.device) for name, value in batch.items()}).logits[where].float()
            nats += float(torch.nn.functional.cross_entropy(logits, labels[where], reduction="sum"))
            right += int((logits.argmax(-1) == labels[where]).sum())
            count += int(where.sum())
    nats, right, count = _summed([nats, right, count], distributed)
    loss = nats / max(count, 1)
    scores = {"loss": loss, "perplexity": math.exp(min(loss, LARGEST)), "accuracy": right / max(count, 1)}
    return scores | {"tokens": int(count)}


def pseudo_log_likelihoods(
    model: Any, tokenizer: Any, texts: Sequence[str], *, length: int, batch_tokens: int = 4096, progress: bool = False
) -> tuple[list[float], int]:
    """Sum over a text's tokens the log-probability of each with only that one masked (Salazar et al. 2020).

    Returns: nats for each text, and how many tokens were predicted in all.
    """
    total, count = [], 0
    maker = BlockMaker(tokenizer, length, True, [""])
    with evaluating(model), torch.no_grad():
        for text in tqdm(texts, unit="text", disable=not progress):
            before = len(maker)
            maker.add([Chunk("", np.array([1]), [text], [text])])
            nats = 0.0
            for ids, words in maker.blocks(before):
                positions = np.flatnonzero(words)  # SPECIAL is 0
                share = max(1, batch_tokens // len(ids))
                for start in range(0, len(positions), share):
                    chosen = torch.from_numpy(positions[start : start + share]).to(model.device)
                    seen = torch.from_numpy(ids.astype(np.int64)).to(model.device).repeat(len(chosen), 1)  # [B, L]
                    line = torch.arange(len(chosen), device=model.device)
                    wanted = seen[line, chosen]
                    seen[line, chosen] = tokenizer.mask_token_id
                    logits = model(input_ids=seen).logits[line, chosen].float()  # [B, V]
                    nats -= float(torch.nn.functional.cross_entropy(logits, wanted, reduction="sum"))
                count += len(positions)
            total.append(nats)
    return total, count


def completions(
    model: Any, tokenizer: Any, texts: Sequence[str], most: int, seed: int, new_tokens: int
) -> list[dict[str, str]]:
    """Let the model continue the first half of the words of some texts, by sampling."""
    devices = [model.device] if model.device.type == "cuda" else []
    samples = []
    with evaluating(model), torch.no_grad(), torch.random.fork_rng(devices):
        torch.manual_seed(seed)
        for text in _spread([text for text in texts if len(text.split()) > 3], most):
            words = text.split(" ")
            prompt = " ".join(words[: len(words) // 2])
            start = frame(tokenizer, tokenizer(prompt, add_special_tokens=False)["input_ids"])[:-1]
            inputs = torch.from_numpy(start.astype(np.int64))[None].to(model.device)
            made = model.generate(
                inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=new_tokens, num_beams=1, do_sample=True,
                top_p=0.9, top_k=0, pad_token_id=tokenizer.pad_token_id, eos_token_id=tokenizer.eos_token_id,
            )  # fmt: skip
            made_text = tokenizer.decode(made[0].tolist(), skip_special_tokens=True)
            samples.append({"source": prompt, "reference": text, "hypothesis": made_text})
    return samples


def fillings(
    model: Any, tokenizer: Any, texts: Sequence[str], masker: Masker, most: int, length: int
) -> list[dict[str, str]]:
    """Mask words of some texts and let the model fill them in."""
    rows = _rows(tokenizer, _spread([text for text in texts if len(text.split()) > 3], most), length)
    samples = []
    with evaluating(model), torch.no_grad():
        for row in range(len(rows)):
            ids = rows.ids_of(row).astype(np.int64)
            where, _ = masker.chosen(rows.words_of(row), 0, row)
            seen = np.where(where, masker.mask_id, ids)
            logits = model(input_ids=torch.from_numpy(seen)[None].to(model.device)).logits[0]  # [L, V]
            filled = np.where(where, logits.argmax(-1).cpu().numpy(), ids)
            shown = [tokenizer.decode(part.tolist()) for part in (seen, ids, filled)]
            end = tokenizer.eos_token or ""
            samples.append(dict(zip(("source", "reference", "hypothesis"),
                                    (text.removesuffix(end) for text in shown), strict=True)))  # fmt: skip
    return samples


def _rows(tokenizer: Any, texts: Sequence[str], length: int) -> Any:
    maker = BlockMaker(tokenizer, length, True, [""])
    maker.add([Chunk("", np.arange(len(texts)) + 1, list(texts), list(texts))] if len(texts) else [])
    return make_rows(maker.result(), None, ())


def _spread(items: Sequence[str], most: int) -> list[str]:
    count = min(most, len(items))
    return [items[position * len(items) // count] for position in range(count)]


def _padded(sequences: list[np.ndarray], padding: int, device: torch.device) -> dict[str, torch.Tensor]:
    width = max(map(len, sequences))
    ids = torch.full((len(sequences), width), padding)  # [B, L]
    mask = torch.zeros_like(ids)
    for row, sequence in enumerate(sequences):
        ids[row, : len(sequence)] = torch.from_numpy(sequence.astype(np.int64))
        mask[row, : len(sequence)] = 1
    return {"input_ids": ids.to(device), "attention_mask": mask.to(device)}


def _without_logits(model: Any) -> dict[str, bool]:
    return {"skip_logits": True} if "skip_logits" in inspect.signature(model.forward).parameters else {}


def _shared(plan: list[list[int]], distributed: bool, progress: bool) -> Iterator[list[int]]:
    """Return an iterator over this process's batches."""
    state = PartialState() if distributed else None
    mine = plan[state.process_index :: state.num_processes] if state else plan
    return iter(tqdm(mine, unit="batch", disable=not progress or bool(state and state.process_index), leave=False))


def _summed(numbers: list[float], distributed: bool) -> list[float]:
    if not distributed or PartialState().num_processes == 1:
        return numbers
    return np.sum(gather_object([numbers]), axis=0).tolist()
