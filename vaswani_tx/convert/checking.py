"""The check of a converted model against its original, and the report of a conversion."""

import copy
import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from vaswani_tx.convert.core import Batch, ConversionError, Converted

TOLERANCE = 1e-5
_ROWS, _LENGTH, _TARGET, _STEPS = 4, 12, 9, 12


@dataclass
class Check:
    """What the comparison of two models found.

    Args:
        difference: the largest of all logits, relative to the largest logit where that is above 1; in float32.
        difference_double: the same in float64; None: the original cannot compute in it.
        logits: how many were compared.
        largest: the largest logit's size.
        tokens: most probable tokens that were compared, of greedy decoding where the model writes text.
        equal: how many of them are equal.
    """

    difference: float
    difference_double: float | None
    logits: int
    largest: float
    tokens: int
    equal: int

    @property
    def deciding(self) -> float:
        """The difference that decides: in float64 where there is one, free of float32's own rounding."""
        return self.difference if self.difference_double is None else self.difference_double


@dataclass
class Report:
    """What was converted, from what, and how it was checked; `str(report)` is what the command line prints.

    Args:
        format: name and title of the format.
        source: folder, file or name.
        out: the folder that was written.
        model: what the model is.
        parameters: how many, tied ones once.
        used: weights of the source that were used.
        ignored: those that were not, with the reasons.
        check: what the comparison found; None: `unchecked` says why there is none.
        notes: what else the user should know.
    """

    format: str
    source: str
    out: Path
    model: str
    parameters: int
    used: int
    ignored: dict[str, str] = field(default_factory=dict)
    check: Check | None = None
    unchecked: str = ""
    notes: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        rows = [
            ("format", self.format),
            ("source", self.source),
            ("model", self.model),
            ("parameters", f"{self.parameters:,}"),
            ("weights", f"{self.used} used, {len(self.ignored)} ignored"),
            *(("ignored", line) for line in _grouped(self.ignored)),
            *self._check_rows(),
            *(("note", note) for note in self.notes),
            ("written", str(self.out)),
        ]
        return "\n".join(f"{name:<12}{text}" for name, text in rows)

    def _check_rows(self) -> list[tuple[str, str]]:
        if self.check is None:
            return [("checked", f"no: {self.unchecked}")]
        check = self.check
        double = "" if check.difference_double is None else f", {check.difference_double:.1e} in float64"
        return [
            ("checked", f"against the original, {check.logits:,} logits of random input (largest {check.largest:.3g})"),
            ("difference", f"at most {check.difference:.1e} in float32{double} (allowed: {TOLERANCE:.0e})"),
            ("greedy", f"{check.equal} of {check.tokens} tokens equal"),
        ]


def _grouped(ignored: dict[str, str]) -> list[str]:
    """Return a line for each reason, with the names that have it."""
    lines = []
    for reason in dict.fromkeys(ignored.values()):
        names = [name for name, other in ignored.items() if other == reason]
        shown = ", ".join(names[:3]) + (f", and {len(names) - 3} more" if len(names) > 3 else "")
        lines.append(f"{shown}: {reason}")
    return lines


def verify(model: Any, converted: Converted) -> Check:
    """Compare a model that was written and read again with its original, on random input.

    Raises:
        ConversionError: the logits differ by more than `TOLERANCE`, relative to logits of order 1, or the greedy tokens
            differ.
    """
    if converted.original is None:
        raise ValueError("there is no original to compare with")
    model = model.eval()
    single = copy.deepcopy(model).to(torch.float32)
    batch = _random_batch(converted)
    with torch.no_grad():
        difference, largest, count = _compare(converted.original, single, batch)
        double = None
        if converted.original_double is not None:
            wide = copy.deepcopy(model).to(torch.float64)
            double = _compare(converted.original_double, wide, _as_double(batch))[0]
        tokens, equal = _compare_tokens(converted.original, single, converted, batch)
    check = Check(difference, double, count, largest, tokens, equal)
    if not check.deciding <= TOLERANCE or (double is not None and not difference <= 100 * TOLERANCE):
        raise ConversionError(
            f"the converted model is not the original: logits differ by {check.deciding:.1e} (allowed: {TOLERANCE:.0e} "
            "of the largest), so nothing was written. The source has something that this format's reader does not know."
        )
    if equal != tokens:
        raise ConversionError(
            f"the converted model is not the original: {tokens - equal} of {tokens} greedy tokens differ, so nothing "
            "was written."
        )
    return check


def _random_batch(converted: Converted) -> dict[str, torch.Tensor]:
    """Return random input of a model's kind, the second row of text padded."""
    config = converted.config
    draw = torch.Generator().manual_seed(0)
    if config.model_type == "vaswani_vision":
        size = config.image_size
        sides = tuple(size) if isinstance(size, list | tuple) else (size, size)
        return {"pixel_values": torch.randn(_ROWS, config.num_channels, *sides, generator=draw)}
    size = getattr(config, "source_vocab_size", None) or config.vocab_size
    most = min(converted.longest or _LENGTH, config.max_position_embeddings)
    length, shorter = min(_LENGTH, most), max(1, min(_LENGTH, most) - 4)
    first, end = converted.source_ids or (0, size)
    ids = torch.randint(first, end, (_ROWS, length), generator=draw)
    mask = torch.ones_like(ids)
    pad = config.pad_token_id if config.pad_token_id is not None and config.pad_token_id < size else 0
    if end - first > 1:  # a pad token inside of a text would be hidden by some originals and not by others
        ids = torch.where(ids == pad, pad + 1 if first <= pad + 1 < end else pad - 1, ids)
    mask[1, shorter:] = 0
    ids[1, shorter:] = pad
    batch = {"input_ids": ids, "attention_mask": mask}
    if config.model_type == "vaswani":
        target = torch.randint(0, config.vocab_size, (_ROWS, min(_TARGET, most)), generator=draw)
        if config.pad_token_id is not None and config.vocab_size > 1:
            target[target == config.pad_token_id] = config.pad_token_id + 1 if config.pad_token_id == 0 else 0
        target[:, 0] = _start(config)
        batch["decoder_input_ids"] = target
    return batch


def _start(config: Any) -> int:
    return config.decoder_start_token_id if config.decoder_start_token_id is not None else 0


def _as_double(batch: Batch) -> dict[str, torch.Tensor]:
    return {name: value.double() if value.is_floating_point() else value for name, value in batch.items()}


def _compare(original: Callable[[Batch], torch.Tensor], model: Any, batch: Batch) -> tuple[float, float, int]:
    """Return the largest difference, relative to the largest logit where that is above 1, it, and their number."""
    theirs, ours = original(batch), _logits(model, batch)
    if theirs.shape != ours.shape:
        raise ConversionError(
            f"the converted model's logits have shape {list(ours.shape)}, the original's {list(theirs.shape)}."
        )
    if ours.dim() == 3 and "decoder_input_ids" not in batch:
        seen = batch["attention_mask"].bool()
        theirs, ours = theirs[seen], ours[seen]
    largest = theirs.abs().max().item()
    difference = (theirs.double() - ours.double()).abs().max().item()
    return (difference / max(1.0, largest) if math.isfinite(largest) else math.nan), largest, theirs.numel()


def _logits(model: Any, batch: Batch) -> torch.Tensor:
    outputs = model(**batch)
    if "logits" in outputs:
        return outputs.logits
    return torch.stack((outputs.start_logits, outputs.end_logits), dim=-1)  # question answering, [B, L, 2]


def _compare_tokens(original: Any, model: Any, converted: Converted, batch: Batch) -> tuple[int, int]:
    """Return how many most probable tokens were compared, and how many are equal."""
    kind = converted.config.model_type
    if kind in ("vaswani_vision", "vaswani_encoder"):
        theirs, ours = original(batch).argmax(-1), _logits(model, batch).argmax(-1)
        if theirs.shape == batch.get("input_ids", theirs).shape and "attention_mask" in batch:
            seen = batch["attention_mask"].bool()
            theirs, ours = theirs[seen], ours[seen]
        return theirs.numel(), int((theirs == ours).sum())
    if kind == "vaswani":
        start = torch.full((_ROWS, 1), _start(converted.config))
        runs = [_continued(run, batch, "decoder_input_ids", start, converted) for run in (original, _caller(model))]
    else:
        start = batch["input_ids"][:, :3]
        runs = [_continued(run, {}, "input_ids", start, converted) for run in (original, _caller(model))]
    theirs, ours = (run[:, start.shape[1] :] for run in runs)
    return theirs.numel(), int((theirs == ours).sum())


def _caller(model: Any) -> Callable[[Batch], torch.Tensor]:
    return lambda batch: _logits(model, batch)


def _continued(run: Any, batch: Batch, name: str, tokens: torch.Tensor, converted: Converted) -> torch.Tensor:
    """Return tokens [B, T] continued greedily, without a cache and without regard to the end of a text."""
    most = min(converted.longest or _STEPS, converted.config.max_position_embeddings)
    while tokens.shape[1] < min(most, _STEPS):
        further = {} if name == "decoder_input_ids" else {"attention_mask": torch.ones_like(tokens)}
        chosen = run({**batch, name: tokens, **further})[:, -1].argmax(-1, keepdim=True)
        tokens = torch.cat((tokens, chosen), dim=1)
    return tokens


__all__ = ["TOLERANCE", "Check", "Report", "verify"]
