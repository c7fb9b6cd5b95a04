# Shapes: B pairs of a batch, S source length, T target length, V vocabulary.
"""`vaswani-tx score`: how probable a model finds given translations, line by line and token by token."""

import argparse
import math
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import zip_longest
from typing import Any

import torch
from tqdm import tqdm

from vaswani_tx.cli import models
from vaswani_tx.cli.common import CliError, CliFailure, finite, json_line, one_field, open_sink, print_status
from vaswani_tx.cli.lines import blocks, open_input
from vaswani_tx.pipeline_vaswani_parts import plan_batches
from vaswani_tx.token_texts_vaswani import language_tag, source_of, target_of

IGNORED = -100
# Logits of one pass are held to this many numbers (128 MB).
MAX_LOGITS = 2**25
LN_OF_LARGEST = 709.0


@dataclass
class Scored:
    """One pair: the ids of its target, end of sentence included, and the natural log-probability of each."""

    ids: list[int]
    log_probs: list[float]

    @property
    def total(self) -> float:
        return math.fsum(self.log_probs)


class Scorer:
    """A model and its tokenizer, for pairs of any number.

    Raises:
        CliError: languages that the tokenizer does not have.
    """

    def __init__(self, options: argparse.Namespace, model: Any, tokenizer: Any):
        self.options, self.model, self.tokenizer = options, model, tokenizer
        self.limit = options.max_length or models.source_limit(model, tokenizer)
        self.vocabulary = self._logits_width()
        self.tag = language_tag(tokenizer, options.tgt_lang)
        for name in ("src_lang", "tgt_lang"):
            if (language := getattr(options, name)) is None or self.tag:
                continue
            if not hasattr(tokenizer, name):
                raise CliError(f"{type(tokenizer).__name__} has no languages: leave out --{name.replace('_', '-')}.")
            # M2M100 writes its codes with underscores around them.
            codes = [tokenizer.convert_tokens_to_ids(code) for code in (language, f"__{language}__")]
            if all(code in (None, tokenizer.unk_token_id) for code in codes):
                raise CliError(f"{type(tokenizer).__name__} knows no language {language!r}.")
            setattr(tokenizer, name, language)

    def __call__(self, sources: list[str], targets: list[str], first: int) -> list[Scored]:
        """Score some pairs; `first` is the number of the first one.

        Raises:
            CliError: a line is longer than the model takes.
            CliFailure: the device's memory is not enough.
        """
        sources = [f"{self.tag} {text}" if self.tag else text for text in sources]
        encoded = self.tokenizer(sources, verbose=False)["input_ids"]
        labels = self.tokenizer(text_target=targets, verbose=False)["input_ids"]
        for number, pair in enumerate(zip(encoded, labels, strict=True), start=first):
            self._check(number, *pair)
        found: list[Scored] = [Scored([], [])] * len(labels)
        lengths = [max(len(s), len(t)) for s, t in zip(encoded, labels, strict=True)]
        limit = max(MAX_LOGITS // self.vocabulary, 1)
        try:
            for batch in plan_batches(lengths, self.options.batch_size, min(self.options.max_tokens, limit)):
                for index, scored in zip(batch, self._batch(encoded, labels, batch), strict=True):
                    found[index] = scored
        except torch.OutOfMemoryError:
            raise CliFailure("the device's memory is not enough: give a smaller --max-tokens.") from None
        return found

    def _check(self, number: int, source: list[int], target: list[int]) -> None:
        for ids, side in ((source, "source"), (target, "target")):
            if len(ids) > self.limit:
                raise CliError(
                    f"line {number}: the {side} has {len(ids)} tokens, more than {self.limit}: leave the pair out, or "
                    "raise --max-length."
                )
            if not ids:
                raise CliError(f"line {number}: the tokenizer makes nothing of the {side}: leave the pair out.")

    @torch.no_grad()
    def _logits_width(self) -> int:
        """Return how many logits the model gives: the weights of a quantised head do not say it."""
        ends = (side.eos_token_id or 0 for side in (source_of(self.tokenizer), target_of(self.tokenizer)))
        token, label = (torch.full((1, 1), end, device=self.model.device) for end in ends)
        outputs = self.model(input_ids=token, attention_mask=torch.ones_like(token), labels=label, return_dict=True)
        return outputs.logits.shape[-1]

    @torch.no_grad()
    def _batch(self, encoded: list[list[int]], labels: list[list[int]], batch: list[int]) -> list[Scored]:
        padding = source_of(self.tokenizer).pad_token_id or 0
        ids, mask = self._pad([encoded[i] for i in batch], padding)  # [B, S]
        wanted, real = self._pad([labels[i] for i in batch], IGNORED)  # [B, T]
        logits = self.model(input_ids=ids, attention_mask=mask, labels=wanted, return_dict=True).logits  # [B, T, V]
        log_probs = logits.float().log_softmax(-1).gather(-1, (wanted * real)[..., None])[..., 0].tolist()
        return [Scored(labels[i], row[: len(labels[i])]) for i, row in zip(batch, log_probs, strict=True)]

    def _pad(self, rows: list[list[int]], value: int) -> tuple[torch.Tensor, torch.Tensor]:
        width = max(map(len, rows))
        ids = torch.tensor([row + [value] * (width - len(row)) for row in rows], device=self.model.device)
        mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=self.model.device)
        return ids, mask


def run(options: argparse.Namespace) -> None:
    """Carry out `vaswani-tx score`."""
    context = models.process_context(options.device, options.num_threads)
    try:
        if context.world > 1:
            raise CliError("score runs in one process: start it without accelerate launch.")
        with open_input(options.source) as source, open_input(options.target) as target:
            model, tokenizer = models.load(
                options.model, options.tokenizer, device=context.device, precision=options.precision,
                trust=options.trust_remote_code, quiet=options.quiet,
            )  # fmt: skip
            score = Scorer(options, model, tokenizer)
            pairs, tokens, parts = 0, 0, []
            shown = sys.stderr.isatty() and not options.quiet
            with open_sink(options.output) as sink, tqdm(unit="pair", delay=2, disable=not shown) as bar:
                for first, sources, targets in _pairs(options, source, target):
                    found = score(sources, targets, first)
                    sink.write("".join(_format(options, tokenizer, n, s) for n, s in enumerate(found, start=first)))
                    bar.update(len(found))
                    pairs += len(found)
                    tokens += sum(len(scored.ids) for scored in found)
                    parts += [scored.total for scored in found]
            print_status(_summary(pairs, tokens, math.fsum(parts)))
    finally:
        context.leave()


def _pairs(options: argparse.Namespace, *sides: tuple[Any, str]) -> Iterator[tuple[int, list[str], list[str]]]:
    """Yield blocks of pairs with the number of their first line; raise CliError where one side has more lines."""
    read = [blocks(*side, options.buffer_size, at_once=False, errors=options.errors) for side in sides]
    for source, target in zip_longest(*read):
        counts = [0 if block is None else len(block.texts) for block in (source, target)]
        if counts[0] != counts[1]:
            shorter = counts.index(min(counts))
            next(read[shorter], None)  # what ended it may have been a line that is no text: that is the error then
            end = (source or target).first - 1 + counts[shorter]
            raise CliError(
                f"{sides[shorter][1]} ends after line {end} but {sides[1 - shorter][1]} has more: each line of one "
                "must be the translation of the same line of the other."
            )
        yield source.first, source.texts, target.texts


def _format(options: argparse.Namespace, tokenizer: Any, number: int, scored: Scored) -> str:
    tokens = tokenizer.convert_ids_to_tokens(scored.ids) if options.by_token else []
    by_token = list(zip(tokens, scored.log_probs, strict=False))
    mean = scored.total / len(scored.ids)
    if options.format == "jsonl":
        record = {
            "line": number,
            "log_prob": finite(scored.total),
            "tokens": len(scored.ids),
            "log_prob_per_token": finite(mean),
            "perplexity": finite(_perplexity(mean)),
        }
        if options.by_token:
            record["by_token"] = [{"token": token, "log_prob": finite(value)} for token, value in by_token]
        return json_line(record)
    if options.by_token:
        rows = enumerate(by_token, start=1)
        return "".join(f"{number}\t{position}\t{one_field(token)}\t{value:.6f}\n" for position, (token, value) in rows)
    return f"{number}\t{scored.total:.6f}\t{len(scored.ids)}\t{mean:.6f}\t{_perplexity(mean):.6g}\n"


def _perplexity(mean: float) -> float:
    return math.exp(-mean) if -mean < LN_OF_LARGEST else math.inf


def _summary(pairs: int, tokens: int, total: float) -> str:
    if not tokens:
        return "no pairs."
    mean = total / tokens
    return (
        f"{pairs} pairs, {tokens} tokens: log-probability {total:.4f}, {mean:.6f} a token, "
        f"perplexity {_perplexity(mean):.6g}"
    )
