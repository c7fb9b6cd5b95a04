"""The keys of the recipes of language models, each also a flag (see recipe.py)."""

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

import vaswani_tx
from vaswani_tx.limits import TOKENS, VOCABULARY
from vaswani_tx.training.config.recipe import key
from vaswani_tx.training.config.run_settings import RunSettings
from vaswani_tx.training.errors import SettingsError
from vaswani_tx.training.metrics.registry import CAUSAL_LM, MASKED_LM, metrics_for

CORPUS_KEYS = ("text", "weight", "split", "config", "field")


@dataclass
class LanguageModelSettings(RunSettings):
    """Settings that the training runs of masked and causal language models share."""

    # By name: the class itself would import torch, which --help does without.
    config_class: ClassVar[str] = "VaswaniDecoderConfig"

    train_text: list[str] | None = field(
        default=None,
        metadata={
            "help": "Text files, .jsonl, .json, .csv, .tsv or .parquet files (also .gz, .zst), or a Hub data set."
        },
    )
    train_split: str = key("train", "Split of a Hub data set to train on.")
    validation_text: list[str] | None = field(
        default=None, metadata={"help": "Files or data set to validate on; empty: no validation."}
    )
    validation_split: str = key("validation", "Split of a Hub data set to validate on.")
    dataset_config: str | None = key(None, "Configuration name of a Hub data set.")
    text_field: str = key("text", "Field or column of the text (all formats but plain text).")
    corpora: list[dict[str, Any]] | None = field(
        default=None, metadata={"help": "Corpora with weights instead of train_text: {text, weight, split, ...}."}
    )
    documents: Literal["line", "paragraph"] = key(
        "line", "What a document is: a line, or lines up to a blank one; of other formats always the field."
    )
    empty_lines: Literal["drop", "error"] = key("drop", "What a document without text does.")
    streaming: bool = key(False, "Read the training data buffer by buffer, for corpora larger than memory or disk.")
    stream_buffer: int = key(100_000, "Documents of one buffer of a stream; rows are packed within it.")

    tokenizer: str | None = key(None, "Folder of a trained tokenizer; empty: train one (tokenizer_vocab_size).")
    tokenizer_vocab_size: int | None = key(None, "Vocabulary to train where no folder exists.", bounds=VOCABULARY)

    row_length: int = key(256, "Tokens of a row, with <s> and </s>; longer documents are cut into blocks.")
    packing: bool = key(True, "Fill rows with several documents, which do not see each other; off: padding.")
    batch_tokens: int = key(4096, "Tokens of one batch on one process, padding counted.")
    label_smoothing: float = key(0.0, "Smoothing of the target distribution.")

    eval_samples: int = key(8, "Validation texts that the model completes, for samples.jsonl.")
    best_by: str = key("loss", "Validation score that chooses best/.", choices=metrics_for(CAUSAL_LM))

    positive = (
        *RunSettings.positive, "row_length", "batch_tokens", "tokenizer_vocab_size", "stream_buffer",
    )  # fmt: skip

    def check(self) -> None:
        """Raise SettingsError, naming the key and how to fix it, where values contradict each other."""
        super().check()
        self.check_model(vaswani_tx.PRESETS, getattr(vaswani_tx, self.config_class))
        self.check_least(8, "row_length")
        self.check_least(0, "eval_samples")
        if self.batch_tokens < self.row_length:
            raise SettingsError(
                f"A batch must hold a row: raise batch_tokens ({self.batch_tokens}) to row_length ({self.row_length}) "
                "or more."
            )
        self.check_corpora("text", CORPUS_KEYS)

    def check_data(self) -> None:
        """Raise SettingsError where there is nothing to train on, or no tokenizer for it."""
        if not (self.train_text or self.corpora):
            raise SettingsError("train_text is empty: set it in the recipe or with --train-text.")
        if not (self.tokenizer or self.tokenizer_vocab_size or self.init_from):
            raise SettingsError("No tokenizer: set tokenizer (a folder) or tokenizer_vocab_size (train one).")


@dataclass
class CausalSettings(LanguageModelSettings):
    """Everything that decides the training run of a causal language model."""

    sample_tokens: int = key(24, "Most tokens that the model adds to each sample.", bounds=TOKENS)

    positive = (*LanguageModelSettings.positive, "sample_tokens")


@dataclass
class MaskedSettings(LanguageModelSettings):
    """Everything that decides the training run of a masked language model."""

    config_class: ClassVar[str] = "VaswaniEncoderConfig"

    mask_rate: float = key(0.15, "Share of the words that are to be predicted.")
    mask_as_mask: float = key(0.8, "Share of their tokens that the mask replaces.")
    mask_as_random: float = key(0.1, "Share of their tokens that a random token replaces; the others are kept.")
    best_by: str = key("loss", "Validation score that chooses best/.", choices=metrics_for(MASKED_LM))

    def check(self) -> None:
        """Raise SettingsError, naming the key and how to fix it, where values contradict each other."""
        super().check()
        if not 0.0 < self.mask_rate <= 1.0:
            raise SettingsError(f"mask_rate must be above 0 and at most 1, got {self.mask_rate}.")
        _check_shares({"mask_as_mask": self.mask_as_mask, "mask_as_random": self.mask_as_random})


def _check_shares(shares: dict[str, float]) -> None:
    if min(shares.values()) < 0 or sum(shares.values()) > 1 + 1e-9:
        named = " and ".join(shares)
        raise SettingsError(f"{named} must be at least 0 and together at most 1, got {_listed(shares.values())}.")


def _listed(values: Iterable[float]) -> str:
    return " and ".join(f"{value:g}" for value in values)
