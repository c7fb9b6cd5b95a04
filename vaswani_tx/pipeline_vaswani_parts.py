"""Parts of the pipelines: the settings of a call, its sources in batches, and targets joined again."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, fields
from typing import Any

import torch

from .sentences_vaswani import Sentence, join_sentences, split_sentences

# Source tokens of a batch for lists where nothing is set: enough for speed, few enough for any machine.
DEFAULT_BATCH_TOKENS = 1024
BATCHES_PER_WINDOW, TEXTS_PER_WINDOW = 16, 1024


@dataclass
class Settings:
    """Settings of a call, beside those that go to `generate`."""

    batch_size: int | None = None
    batch_tokens: int | None = None
    window: int | None = None
    split_sentences: bool = False
    return_text: bool | None = None
    return_tensors: bool = False
    return_scores: bool = False
    return_alignments: bool | str = False
    alignment_layer: int | None = None
    clean_up_tokenization_spaces: bool | None = None
    truncation: bool | str = False
    src_lang: str | None = None
    tgt_lang: str | None = None
    forced_prefix: str | None = None
    required: Iterable | Callable | None = None
    bad_words: Iterable | None = None
    whole_words: bool = False
    generate: dict[str, Any] = field(default_factory=dict)

    def check(self, tokenizer: Any) -> None:
        for name in ("batch_size", "batch_tokens", "window"):
            value = getattr(self, name)
            if value is not None and (isinstance(value, bool) or not isinstance(value, int) or value < 1):
                raise ValueError(f"`{name}` is {value!r}: give a whole number of at least 1.")
        if self.return_alignments not in (False, None, True, "tokens", "words"):
            raise ValueError(f"`return_alignments` is {self.return_alignments!r}: give True, 'tokens' or 'words'.")
        if self.return_alignments == "words" and not tokenizer.is_fast:
            raise ValueError(
                f"{type(tokenizer).__name__} does not say where in the text its tokens are: ask for "
                "return_alignments='tokens', or load a fast tokenizer."
            )
        if self.split_sentences and (self.forced_prefix or not (self.required is None or callable(self.required))):
            raise ValueError(
                "`forced_prefix` and a list of `required` phrases belong to one sentence: leave `split_sentences` out, "
                "or give `required` as a function from a sentence to its phrases."
            )

    @property
    def texts_at_once(self) -> int:
        """Return how many texts are read before the first of them is answered."""
        if self.window is not None or self.batch_size == 1:
            return self.window or 1
        return TEXTS_PER_WINDOW if self.batch_size is None else BATCHES_PER_WINDOW * self.batch_size


OWN_NAMES = {item.name for item in fields(Settings)} - {"generate"}


@dataclass
class Unit:
    """One source of the model: a text, or a sentence of it."""

    text: str
    ids: list[int]
    aligns: list[bool]  # which of the ids are text
    spans: list[tuple[int, int]] | None = None  # where in the text, if the tokenizer knows


@dataclass
class Hypothesis:
    """One target of a unit."""

    text: str
    ids: torch.Tensor
    score: float | None = None
    alignment: list[dict[str, Any]] | None = None


def read_texts(inputs: Any) -> Iterator[str]:
    if isinstance(inputs, bytes | dict) or not (isinstance(inputs, Iterable) or hasattr(inputs, "__getitem__")):
        raise ValueError(
            f"the input is {type(inputs).__name__}: give a string, a list of strings, or an iterable of strings."
        )
    # A data set without an iterator, such as KeyDataset, is read by its indices.
    items = inputs if isinstance(inputs, Iterable) else (inputs[place] for place in range(len(inputs)))
    return _checked(items)


def _checked(items: Iterable[Any]) -> Iterator[str]:
    for number, text in enumerate(items, start=1):
        if not isinstance(text, str):
            shown = repr(text)[:80]
            raise ValueError(f"input {number} is {shown} ({type(text).__name__}): every input must be a string.")
        yield text


def pieces_of(text: str, split: bool) -> list[Sentence]:
    if not text.strip():
        return []
    return split_sentences(text) if split else [Sentence(text, 0, "")]


def plan_batches(lengths: list[int], batch_size: int | None, batch_tokens: int | None) -> list[list[int]]:
    """Cut indices, longest first, into batches of similar length within both limits."""
    plan: list[list[int]] = []
    for index in sorted(range(len(lengths)), key=lambda i: (-lengths[i], i)):
        rows = len(plan[-1]) + 1 if plan else 0
        fits = plan and (batch_size is None or rows <= batch_size)
        if fits and (batch_tokens is None or rows * lengths[plan[-1][0]] <= batch_tokens):
            plan[-1].append(index)
        else:
            plan.append([index])
    return plan


def without_space(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return start + (len(piece) - len(piece.lstrip()) if piece.strip() else 0), end


def join_hypotheses(text: str, pieces: list[Sentence], parts: tuple[Hypothesis, ...]) -> Hypothesis:
    """Join the targets of a text's sentences."""
    target, starts = join_sentences([part.text for part in parts], pieces, text[: pieces[0].start])
    alignment: list[dict[str, Any]] = []
    for number, (piece, part, start) in enumerate(zip(pieces, parts, starts, strict=True)):
        for entry in part.alignment or []:
            entry = {**entry, "sentence": number}
            for name, offset in (("target_span", start), ("source_span", piece.start)):
                if name in entry:
                    entry[name] = (entry[name][0] + offset, entry[name][1] + offset)
            alignment.append(entry)
    scores = [part.score for part in parts if part.score is not None]
    score = sum(scores) if len(scores) == len(parts) else None
    return Hypothesis(target, torch.cat([part.ids for part in parts]), score, alignment)


__all__ = [
    "DEFAULT_BATCH_TOKENS",
    "OWN_NAMES",
    "Hypothesis",
    "Settings",
    "Unit",
    "join_hypotheses",
    "pieces_of",
    "plan_batches",
    "read_texts",
    "without_space",
]
