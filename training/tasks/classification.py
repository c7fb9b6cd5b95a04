"""Classifiers of texts, taggers of words and readers that find answers in a context.

recipe -> prepare -> TaskComponents -> engine
"""

import logging
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from vaswani_tx import VaswaniEncoderConfig, VaswaniTokenizer
from vaswani_tx.loading import check_vocabulary, explained, read_object
from vaswani_tx.training.config.classification import ClassifierSettings
from vaswani_tx.training.data.batching import BatchPlan, Side
from vaswani_tx.training.data.labelled import (
    TEXT_TASKS,
    Example,
    QuestionExample,
    TextExample,
    check_labels,
    label_names,
    read_examples,
)
from vaswani_tx.training.data.labelled_rows import Rows
from vaswani_tx.training.engine.run import RunContext, configure_model
from vaswani_tx.training.engine.task import BatchSize, TaskComponents, Validation
from vaswani_tx.training.errors import CheckpointError, DataError, SettingsError
from vaswani_tx.training.files import resolve_path
from vaswani_tx.training.inference.classification import predict
from vaswani_tx.training.inference.task_specs import TaskSpec, task_spec
from vaswani_tx.training.models.bert import bert_class, bert_config, with_first_token
from vaswani_tx.training.models.initialization import scale_attention
from vaswani_tx.training.models.loading import (
    build_model,
    check_model,
    load_changed,
    load_pretrained,
    read_model_type,
    training_copies,
)
from vaswani_tx.training.tasks.measured import MeasuredTask, pair_fingerprint
from vaswani_tx.training.tasks.tokenizers import model_fields, run_tokenizer

logger = logging.getLogger(__name__)

SAMPLES = 8  # predictions kept for reading


class ClassificationTask(MeasuredTask):
    """Rows of text with labels; the loss counts labels.

    Args:
        spec: which of the five tasks, and its labels.
        rows: the training examples as token ids.
        validation: the validation examples, or None.
    """

    def __init__(self, settings: ClassifierSettings, spec: TaskSpec, rows: Rows, validation: Rows | None):
        # The plan does not depend on a token in front of the texts.
        texts = Side("", rows.lengths - first_tokens(settings), settings.max_tokens, "max_tokens", "max_length")
        labels = Side("label", np.ones(len(rows), dtype=np.int64), len(rows))
        plan = BatchPlan(
            [texts, labels], settings.seed, locate=rows.locate, pad_to_multiple_of=rows.pad_to_multiple_of,
            max_rows=settings.batch_size,
        )  # fmt: skip
        super().__init__(plan, {"label_smoothing": settings.label_smoothing} if settings.label_smoothing else {})
        self.spec, self.rows, self.validation = spec, rows, validation

    @property
    def family(self) -> str:
        """Return the task's name in the registry of metrics."""
        return self.spec.task

    @property
    def validates(self) -> bool:
        """Return whether the recipe names validation data."""
        return self.validation is not None

    def collate(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Return `input_ids`, `attention_mask` [B, L] and the labels of some rows."""
        return self.rows.collate(indices)

    def size(self, indices: np.ndarray) -> BatchSize:
        """Return the labels that count, and the tokens and cells of the rows."""
        return BatchSize.of_lengths(int(self.rows.targets[indices].sum()), self.rows.lengths[indices])

    def locate(self, index: int) -> str:
        """Return the file and line of a row's example."""
        return self.rows.locate(index)

    def fingerprint(self) -> dict[str, int]:
        """Return the numbers of rows, tokens and labels."""
        return pair_fingerprint(len(self.rows), self.rows.lengths.sum(), self.rows.targets.sum())

    def validate(self, model: torch.nn.Module, *, final: bool, distributed: bool) -> Validation:
        """Score `loss` (nats a label, or squared error) and the task's own scores; details hold every label."""
        start, rows = time.monotonic(), self.validation
        predictions, loss = predict(model, self.spec, rows, with_loss=True, distributed=distributed)
        found, details = self.spec.scores(rows.examples, predictions)
        chosen = np.linspace(0, len(predictions) - 1, min(SAMPLES, len(predictions)), dtype=int)
        samples = [self.spec.sample(rows.examples[i], predictions[i]) for i in chosen]
        scores = {"loss": loss, **found, "examples": len(predictions)}
        report = scores | details
        return Validation(scores | {"validation_seconds": round(time.monotonic() - start, 3)}, samples, report)

    def describe_size(self) -> str:
        """Return the amount of data in a few words."""
        labels = f", {len(self.spec.names)} labels" if self.spec.names else ""
        more = f", {len(self.validation.examples):,} to validate" if self.validation else ""
        return f"{len(self.rows.examples):,} examples{labels}{more}"

    def describe_data(self) -> dict[str, Any]:
        """Return what the run is trained on, for its `data.json`."""
        content: dict[str, Any] = {"task": self.spec.task, "labels": list(self.spec.names)}
        for name, rows in (("train", self.rows), ("validation", self.validation)):
            if rows is not None:
                counts = {"examples": len(rows.examples), "rows": len(rows), "tokens": len(rows.ids), "cut": rows.cut}
                content[name] = counts
        return content


def prepare(context: RunContext) -> TaskComponents:
    """Return data, tokenizer, model and validation of a run."""
    settings = context.settings
    examples = load_examples(settings, settings.train_file, settings.train_split)
    validation = None
    if settings.validation_file:
        validation = load_examples(settings, settings.validation_file, settings.validation_split)
    spec = make_task_spec(settings, examples, validation)
    tokenizer = make_tokenizer(context, examples)
    task = make_task(settings, spec, tokenizer, examples, validation, context.pad_to_multiple_of)
    return TaskComponents(
        make_model=lambda: make_model(settings, task, tokenizer, context.resume_from),
        make_task=lambda model: task,
        load_model=lambda folder: load_model(settings, folder),
        processor=tokenizer,
        describe_data=task.describe_data,
        size=f"{task.describe_size()}, vocabulary {len(tokenizer):,}",
    )


def load_examples(settings: ClassifierSettings, name: str, split: str) -> list[Example]:
    """Return the examples of one of the recipe's files or data sets."""
    path = resolve_path(settings.data_dir, name)
    return read_examples(
        path, settings.task, settings.fields(), split=split, name=settings.dataset_config, empty=settings.empty_lines
    )


def make_task_spec(settings: ClassifierSettings, examples: list[Example], validation: list[Example] | None) -> TaskSpec:
    """Return the task with its labels; raise DataError where training and validation data do not agree."""
    names: list[str] = []
    if settings.task == "regression":
        first = examples[0]
        for example in [*examples, *(validation or ())]:
            if len(example.label) != len(first.label):
                raise DataError(
                    f"{example.where}: {len(example.label)} numbers, but {first.where} has {len(first.label)}: every "
                    "example needs as many."
                )
        count, name = len(first.label), settings.label_field
        names = [name] if count == 1 else [f"{name}_{number}" for number in range(count)]
    elif settings.task != "question_answering":
        names = label_names(examples, settings.labels)
        check_labels(validation or (), names)
    return task_spec(
        settings.task, names=names, max_length=settings.max_length, stride=settings.stride,
        too_long=settings.too_long,
        no_answer=any(isinstance(example, QuestionExample) and not example.answers for example in examples),
    )  # fmt: skip


def make_tokenizer(context: RunContext, examples: list[Example]) -> VaswaniTokenizer:
    """Return the tokenizer of the run: its own, the given one, or one trained on the training texts."""
    settings = context.settings
    if settings.tokenizer and not context.resume_from and not (Path(settings.tokenizer) / "tokenizer.json").is_file():
        raise SettingsError(
            f"There is no tokenizer.json in '{settings.tokenizer}': name the folder of a tokenizer, or leave tokenizer "
            "out and set tokenizer_vocab_size to have one trained here."
        )
    tokenizer = run_tokenizer(
        context,
        [settings.tokenizer, settings.init_from],
        lambda size: VaswaniTokenizer.train(iter(set_of_texts(examples)), vocab_size=size),
    )
    return with_first_token(tokenizer) if first_tokens(settings) else tokenizer


def set_of_texts(examples: list[Example]) -> list[str]:
    """Return all texts of some examples, each once: many questions share their context."""

    def texts() -> Iterator[str | None]:
        for example in examples:
            if isinstance(example, TextExample):
                yield from (example.text, example.pair)
            elif isinstance(example, QuestionExample):
                yield from (example.question, example.context)
            else:
                yield " ".join(example.words)

    return [text for text in dict.fromkeys(texts()) if text is not None]


def first_tokens(settings: ClassifierSettings) -> int:
    """Return how many tokens precede a text beside its own: BERT's classifier needs one."""
    return int(settings.architecture == "bert" and settings.task in TEXT_TASKS)


def make_task(
    settings: ClassifierSettings,
    spec: TaskSpec,
    tokenizer: VaswaniTokenizer,
    examples: list[Example],
    validation: list[Example] | None,
    pad_to_multiple_of: int = 1,
) -> ClassificationTask:
    """Return the task of tokenised examples."""
    spec.max_length = settings.max_length + first_tokens(settings)
    rows = spec.rows(examples, tokenizer)
    rows.pad_to_multiple_of = pad_to_multiple_of
    return ClassificationTask(settings, spec, rows, None if validation is None else spec.rows(validation, tokenizer))


def make_model(
    settings: ClassifierSettings, task: ClassificationTask, tokenizer: VaswaniTokenizer, resume_from: Path | None
) -> PreTrainedModel:
    """Return a new model, one with a pre-trained encoder, or the run's own; raise ValueError where it does not fit."""
    spec = task.spec
    if resume_from:
        model = load_model(settings, resume_from)
        if spec.names and model.config.label2id != spec.numbers:
            raise CheckpointError(
                f"'{resume_from}' knows the labels {list(model.config.label2id)}, the training data has "
                f"{list(spec.names)}: restore the data, or start a new run from its weights with --init-from."
            )
    elif settings.init_from:
        model = start_from(settings, spec)
    else:
        config = make_config(settings, spec, tokenizer)
        if settings.architecture == "bert":
            bert = bert_config(config, spec.max_length)
            model = build_model(bert_class(settings.task), bert, training_copies(settings))
        else:
            model = build_model(spec.model_class, config, training_copies(settings))
            scale_attention(model, settings.attention_init_gain)
        start_at_mean(model, task)
    check_vocabulary(model, tokenizer, str(resume_from or settings.init_from or "the model of this recipe"))
    limit = getattr(model.config, "max_position_embeddings", None)
    if getattr(model.config, "position_embedding", None) == "learned" and spec.max_length > limit:
        raise SettingsError(f"max_length {spec.max_length} is beyond the model's {limit} learned positions: lower it.")
    return configure_model(model, settings)


def make_config(settings: ClassifierSettings, spec: TaskSpec, tokenizer: Any) -> VaswaniEncoderConfig:
    """Return the configuration of a new model; raise ValueError where it is too small for the tokenizer."""
    fields = model_fields(settings, tokenizer)
    return VaswaniEncoderConfig.from_preset(settings.preset, **spec.config_fields(), **fields)


def start_from(settings: ClassifierSettings, spec: TaskSpec) -> PreTrainedModel:
    """Return a model with the encoder of the folder `init_from`, and its last layer where that was for the same labels.

    Raises:
        CheckpointError: a damaged folder, or a model of another family.
    """
    folder = Path(settings.init_from)
    if (found := read_model_type(folder)) != VaswaniEncoderConfig.model_type:
        raise CheckpointError(
            f"init_from '{folder}' holds a model of type {found!r}: a classifier starts from one of "
            f"type {VaswaniEncoderConfig.model_type!r}, such as `vaswani-tx train masked-lm` makes."
        )
    check_model(folder)
    former = read_object(folder / "config.json")
    # Not as keywords of from_pretrained, which takes only those for fields that the former configuration had.
    fields = former | spec.config_fields() | settings.model
    config = explained(str(folder), "model", None, VaswaniEncoderConfig.from_dict, fields)
    model, new, report = load_changed(spec.model_class, folder, config=config, dtype=torch.float32)
    head = getattr(model, spec.head)
    lost = sorted(name for name in new if not name.startswith(f"{spec.head}."))
    if lost:
        raise CheckpointError(
            f"init_from '{folder}' lacks {len(lost)} weights of the encoder or has others of their names, first "
            f"{lost[0]!r}: its config.json belongs to another model, or `model` changes sizes."
        )
    names = {int(number): name for number, name in former.get("id2label", {}).items()}
    if not new and spec.names and names != dict(enumerate(spec.names)):
        # As many classes, but others: the last layer is initialised again.
        fresh = type(model)(model.config)
        head.load_state_dict(getattr(fresh, spec.head).state_dict())
        new = {f"{spec.head}.weight", f"{spec.head}.bias"}
    kept = len(model.state_dict()) - len(new)
    left = f"; not used: {', '.join(sorted(report['unexpected_keys']))}" if report["unexpected_keys"] else ""
    logger.info("%s: %d weights loaded by name; %s%s", folder, kept, _name_new(new), left)
    return model


def _name_new(new: set[str]) -> str:
    if not new:
        return "none is new"
    return f"{' and '.join(sorted(new))} {'is' if len(new) == 1 else 'are'} new"


def start_at_mean(model: PreTrainedModel, task: ClassificationTask) -> None:
    """Set the last bias of a new regression to the mean of the labels, so that numbers around 100 are learned soon."""
    if task.spec.task == "regression":
        with torch.no_grad():
            model.classifier.bias.copy_(torch.from_numpy(task.rows.labels.mean(axis=0)))


def load_model(settings: ClassifierSettings, folder: Path) -> PreTrainedModel:
    """Return the model that a folder of this run holds."""
    ours = settings.architecture == "vaswani"
    model_class = task_spec(settings.task).model_class if ours else bert_class(settings.task)
    return load_pretrained(model_class, folder, dtype=torch.float32)
