"""What a contender is, and how one is found by its name or by `module:factory`.

A contender of training is made by `factory(work, weights)` and has the methods of `Trainer`; one of translation by
`factory(work, weights)` and has those of `Translator`; one that translates a text with a trained model by
`factory(work)` and has that of `CorpusTranslator`. `weights` are tensors under our names
(`tests/benchmarks/weights.py`). A factory raises `Unavailable` where what it needs is not there.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

import torch

Batch = Mapping[str, torch.Tensor]


class Unavailable(Exception):
    """The reason why a contender cannot take part here; the benchmark reports it and runs the others."""


class Trainer(Protocol):
    """A model with its optimiser."""

    def loss(self, batch: Batch) -> torch.Tensor:
        """Return the smoothed loss, a mean over target tokens, from which `backward` can be called.

        Args:
            batch: input_ids and attention_mask [B, S], labels (-100: padding) and decoder_input_ids [B, T].
        """

    def gradients(self) -> dict[str, torch.Tensor]:
        """Return the gradient of each weight that it has, under our name."""

    def update(self) -> None:
        """Apply Adam (0.9, 0.98, 1e-9, rate 1e-4, no decay) to the gradients and clear them."""

    def set_dropout(self, active: bool) -> None:
        """Turn the work's dropout on, for timing, or off, for comparing."""


class Translator(Protocol):
    """A model that decodes."""

    def translate(self, batch: Batch) -> list[list[int]]:
        """Return exactly `work.new_tokens` tokens for each source, without the start token.

        Args:
            batch: input_ids and attention_mask [B, S].
        """


class CorpusTranslator(Protocol):
    """A model that translates a text."""

    def translate_lines(self, lines: Sequence[str]) -> list[str]:
        """Return the translation of each line."""


Factory = Callable[..., Any]
# Kind of work -> name -> module:factory.
_TRAINING = "tests.benchmarks.training_contenders"
_DECODING = "tests.benchmarks.decoding_contenders"
CONTENDERS: dict[str, dict[str, str]] = {
    "training": {
        "marian": f"{_TRAINING}:Marian",
        "marian-trainer": f"{_TRAINING}:MarianBySmoother",
        "ours": f"{_TRAINING}:Ours",
        "ours-plain": f"{_TRAINING}:OursPlain",
        "ours-logits": f"{_TRAINING}:OursWithLogits",
        "torch.nn": f"{_TRAINING}:TorchModules",
        "x-transformers": f"{_TRAINING}:XTransformers",
        "hf-practice": f"{_TRAINING}:Practice",
    },
    "decoding": {
        "marian": f"{_DECODING}:Marian",
        "ours": f"{_DECODING}:Ours",
        "ours-fast": f"{_DECODING}:OursFast",
        "ctranslate2": f"{_DECODING}:CTranslate2",
        "ctranslate2-int8": f"{_DECODING}:CTranslate2Int8",
    },
    "corpus": {
        "marian": f"{_DECODING}:MarianCorpus",
        "ours": f"{_DECODING}:OursCorpus",
        "ours-fast": f"{_DECODING}:OursFastCorpus",
        "ctranslate2": f"{_DECODING}:CTranslate2Corpus",
        "ctranslate2-int8": f"{_DECODING}:CTranslate2Int8Corpus",
    },
}
# Whose tokens may differ: lower precision. Their agreement is reported.
INEXACT = {"ctranslate2-int8"}


def load_factory(address: str) -> Factory:
    """Return the factory of an address `module:factory`.

    Raises:
        ValueError: there is no such module or attribute, or it cannot be called.
    """
    module_name, _, attribute = address.partition(":")
    if not module_name or not attribute:
        raise ValueError(f"'{address}' is no contender: write module:factory.")
    try:
        module = importlib.import_module(module_name)
    except ImportError as error:
        raise ValueError(
            f"the module '{module_name}' of the contender '{address}' cannot be imported: {error}"
        ) from None
    factory = getattr(module, attribute, None)
    if not callable(factory):
        problem = "has no" if factory is None else "cannot be called:"
        raise ValueError(f"the module '{module_name}' of the contender '{address}' {problem} '{attribute}'.")
    return factory


def parse_contender(text: str) -> tuple[str, str]:
    """Return name and address of `--contender NAME=module:factory`.

    Raises:
        ValueError: it is written otherwise.
    """
    name, equals, address = text.partition("=")
    if not (name and equals and ":" in address):
        raise ValueError(f"--contender {text!r}: write NAME=module:factory.")
    return name, address
