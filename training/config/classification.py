"""The keys of a classifier's recipe, each also a flag of `vaswani-tx train classifier` (see config/recipe.py)."""

from dataclasses import dataclass, field
from typing import Literal

import vaswani_tx
from vaswani_tx.limits import VOCABULARY
from vaswani_tx.training.config.labelled import TEXT_TASKS, Fields
from vaswani_tx.training.config.recipe import key
from vaswani_tx.training.config.run_settings import RunSettings
from vaswani_tx.training.config.schedules import SCHEDULES
from vaswani_tx.training.errors import SettingsError
from vaswani_tx.training.metrics.registry import MAIN_METRICS, metrics_for

TASKS = ("classification", "multi_label", "regression", "tagging", "question_answering")


@dataclass
class ClassifierSettings(RunSettings):
    """Everything that decides the training of a classifier, a tagger or a reader of answers."""

    positive = (*RunSettings.positive, "max_tokens", "batch_size", "tokenizer_vocab_size")

    task: str = key(
        "classification",
        "One class a text, several, numbers; a class for each word; a span of a context.",
        choices=TASKS,
    )
    train_file: str = key(
        "", "Training data: .jsonl, .json, .csv, .tsv, .parquet, CoNLL columns (or .gz, .zst), or a Hub data set."
    )
    validation_file: str | None = key(None, "Validation data; empty: no validation.")
    train_split: str = key("train", "Split of a Hub data set to train on.")
    validation_split: str = key("validation", "Split of a Hub data set to validate on.")
    dataset_config: str | None = key(None, "Configuration name of a Hub data set.")
    text_field: str = key("text", "Field or column of the text.")
    pair_field: str | None = key(None, "Field or column of the second text of a pair; empty: single texts.")
    label_field: str = key("label", "Field or column of the label, of a list of labels, or of a number.")
    label_separator: str = key(",", "What separates several labels in one cell.")
    tokens_field: str = key("tokens", "Field of a sentence's words, for tagging.")
    tags_field: str = key("tags", "Field of their tags.")
    question_field: str = key("question", "Field of the question.")
    context_field: str = key("context", "Field of the context that holds its answer.")
    answers_field: str = key("answers", "Field of the answers: texts, and the characters where they begin.")
    empty_lines: Literal["error", "drop"] = key("error", "What an example with an empty text or label does.")
    labels: list[str] | None = field(
        default=None, metadata={"help": "All labels in their order; empty: those of the training data, sorted."}
    )
    max_length: int = key(128, "Longest row in tokens: sentences to tag are split, contexts read in windows.")
    stride: int = key(64, "Tokens that two windows of one context share.")
    too_long: Literal["truncate", "error"] = key("truncate", "What a longer text to classify does.")

    tokenizer: str | None = key(None, "Folder of a trained tokenizer; empty: that of init_from, or train one.")
    tokenizer_vocab_size: int | None = key(
        None, "Vocabulary to train on the training texts where no folder exists.", bounds=VOCABULARY
    )
    architecture: Literal["vaswani", "bert"] = key("vaswani", "bert: transformers' BERT of equal size, to compare.")

    max_tokens: int = key(4096, "Tokens of one batch on one process, padding counted.")
    batch_size: int | None = key(32, "Rows of one batch on one process; empty: as many as max_tokens allows.")
    label_smoothing: float = key(0.0, "Smoothing of the target distribution.")
    schedule: str = key("linear", "Learning rate.", choices=SCHEDULES)
    warmup_steps: int = key(100, "Updates of linear warm-up.")
    learning_rate: float | None = key(5e-4, "Peak rate of every schedule but noam.")
    eval_every: int | None = key(200, "Updates between two validations; empty: only at the end.")
    save_every: int | None = key(200, "Updates between two checkpoints.")
    average_last: int = key(1, "Checkpoints averaged at the end; 0 or 1: no average.")
    best_by: str = key("auto", "Validation score that chooses best/; auto: the task's usual one; or loss.")

    def check(self) -> None:
        """Raise SettingsError, naming the key and how to fix it, where values contradict each other."""
        super().check()
        self.check_model(vaswani_tx.PRESETS, vaswani_tx.VaswaniEncoderConfig)
        self.check_least(4, "max_length")
        self.check_least(0, "stride")
        if self.task not in TASKS:
            raise SettingsError(f"task must be one of {', '.join(TASKS)}, got {self.task!r}.")
        if self.max_tokens < self.max_length:
            raise SettingsError(
                f"A batch must hold the longest row: max_tokens ({self.max_tokens}) is below max_length "
                f"({self.max_length})."
            )
        self._check_task()
        if self.architecture == "bert" and self.init_from:
            raise SettingsError("architecture: bert is there to compare, from scratch: leave init_from out.")

    def _check_task(self) -> None:
        if self.pair_field and self.task not in TEXT_TASKS:
            raise SettingsError(f"pair_field has no meaning for task: {self.task}; leave it out.")
        if self.labels is not None and self.task in ("regression", "question_answering"):
            raise SettingsError(f"labels has no meaning for task: {self.task}; leave it out.")
        if self.label_smoothing and self.task in ("multi_label", "regression"):
            raise SettingsError(f"label_smoothing has no meaning for task: {self.task}; leave it at 0.")
        if self.task == "question_answering" and self.stride >= self.max_length - 2:
            raise SettingsError(
                f"stride ({self.stride}) leaves no tokens of max_length ({self.max_length}) for a question and "
                "for new text in each window: lower stride or raise max_length."
            )
        scores = [name for name in metrics_for(self.task) if name != "loss"]
        if self.best_by not in (*scores, "auto", "loss"):
            raise SettingsError(
                f"best_by: task {self.task} has no score {self.best_by!r}; there is {', '.join(scores)}, loss, or auto."
            )
        if self.best_by == "auto":
            self.best_by = MAIN_METRICS[self.task]

    def check_data(self) -> None:
        """Raise SettingsError where there is nothing to train on, no tokenizer for it, or no end of the schedule."""
        if not self.train_file:
            raise SettingsError("train_file is empty: set it in the recipe or with --train-file.")
        if not (self.tokenizer or self.tokenizer_vocab_size or self.init_from):
            raise SettingsError("No tokenizer: set tokenizer (a folder) or tokenizer_vocab_size (train one).")
        end = self.decay_steps or self.max_steps
        if SCHEDULES[self.schedule].ends and (end is None or end <= self.warmup_steps):
            raise SettingsError(
                f"schedule: {self.schedule} ends at decay_steps or max_steps, which must be beyond warmup_steps "
                f"({self.warmup_steps}), got {end}: set one of the three, or take schedule: constant."
            )

    def fields(self) -> Fields:
        """Return what the fields of the data are called."""
        return Fields(
            self.text_field, self.pair_field, self.label_field, self.label_separator, self.tokens_field,
            self.tags_field, self.question_field, self.context_field, self.answers_field,
        )  # fmt: skip
