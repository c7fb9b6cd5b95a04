"""The keys of a parsing recipe, each also a flag of `vaswani-tx train parsing`: those of translation, for trees."""

from dataclasses import dataclass, field
from typing import Literal

from vaswani_tx.training.config.recipe import key
from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.errors import SettingsError
from vaswani_tx.training.metrics.registry import MAIN_METRICS, PARSING, metrics_for, signed_metrics

TREE_METRICS = tuple(name for name in metrics_for(PARSING) if name not in ("loss", "perplexity"))
TRAIN_FILES = ("train.words", "train.trees")


@dataclass
class ParsingSettings(TranslationSettings):
    """Everything that decides the training of a constituency parser.

    The names of files are those that `vaswani_tx.training.parsing.prepare` writes into `data_dir`.
    """

    train_source: str = key(TRAIN_FILES[0], "Sentences: words separated by spaces, a sentence a line.")
    train_target: str | None = key(TRAIN_FILES[1], "Their linearised trees, line by line.")
    validation_source: str | None = key("validation.words", "Sentences of the validation set; empty: no validation.")
    validation_target: str | None = key("validation.trees", "Their linearised trees: the loss is measured on them.")
    validation_trees: str | None = key(
        "validation.mrg", "The same trees with tags, in Penn Treebank brackets: brackets are scored against them."
    )
    leaves: Literal["auto", "XX", "tags", "words"] = key(
        "auto", "Symbol of a word in a linearised tree; auto: as the tokenizer of `parsing.prepare` records it."
    )

    eval_sentences: int | None = key(None, "Validation sentences to parse; empty: all, 0: loss only.")
    eval_beam: int = key(1, "Beam of the parses during training; 1: greedy.")
    final_beam: int = key(21, "Beam of the last validation, of the best and of the averaged model; 21 is the paper's.")
    # Runs that `train translation` began name metrics of texts; they must stay readable to resume.
    metrics: list[str] = field(
        default_factory=lambda: list(TREE_METRICS),
        metadata={
            "help": "Scores of the parsed validation sentences; metrics of texts, which do not fit trees, are ignored.",
            "choices": (*TREE_METRICS, *signed_metrics()),
        },
    )
    best_by: str = key(
        MAIN_METRICS[PARSING],
        "Validation score that chooses best/: one of metrics, or loss.",
        choices=metrics_for(PARSING),
    )

    def check(self) -> None:
        """Raise SettingsError, naming the key and how to fix it, where values contradict each other."""
        if self.corpora is not None and (self.train_source, self.train_target) == TRAIN_FILES:
            self.train_source, self.train_target = "", None
        self.metrics = [name for name in self.metrics if name in TREE_METRICS] or list(TREE_METRICS)
        super().check()
        if self.validation_source and self.eval_sentences != 0 and not self.validation_trees:
            raise SettingsError(
                "validation_trees is empty: name the trees of validation_source in Penn Treebank brackets, or set "
                "eval_sentences to 0 to measure only the loss."
            )
