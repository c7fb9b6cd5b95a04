"""Trains a classifier of texts, a tagger of words, or a reader that finds answers in a context.

    python -m vaswani_tx.training.train_classifier --train-file train.tsv --validation-file val.tsv --preset tiny \\
        --tokenizer-vocab-size 8000 --max-steps 1000 --output-dir runs/first
    python -m vaswani_tx.training.train_classifier training/recipes/classifier/tagging.yaml --init-from runs/masked/averaged

A recipe is a YAML file; every key is also a flag (`--max-steps 100`, `--model.dropout 0.3`). Five tasks (`--task`):

    classification      {"text": "so good", "label": "positive"}         accuracy, macro F1 (f1), Matthews
    multi_label         {"text": "...", "label": ["a", "b"]}             micro F1 (f1), macro F1, exact match
    regression          {"text": "...", "label": 3.5}                    squared error, Pearson, Spearman
    tagging             {"tokens": ["Ann", "ran"], "tags": ["B-PER", "O"]}  F1 of spans, or of tags beside O; accuracy
    question_answering  SQuAD's JSON, or lines with its fields           exact match and F1 as SQuAD counts them

Data come from .jsonl, .json, .csv, .tsv (names of columns in the first line; several labels in a cell: `a,b`),
.parquet, CoNLL files (`word TAB tag`, a blank line ends a sentence), or a data set of the Hub. `--pair-field` names
the second text of a pair, `--text-field`, `--label-field`, ... what else is called otherwise.

`--init-from` takes a pre-trained masked language model (or a classifier): its encoder by the names of its weights, with
a new last layer, and its tokenizer; `--freeze model.embed_tokens,model.layers.0` and `--layer-lr-decay 0.8` spare it.
Without it weights are random and `--tokenizer-vocab-size` has a vocabulary trained on the training texts.

The run folder gets what `train_translation` writes (`recipe.yaml`, `metrics.jsonl`, `checkpoints/`, `best/`, ...),
`samples.jsonl`, and `scores.json`: all scores of best/ (and averaged/, ema/), each label, the confusion matrix. `best/`
loads with the Auto classes and pipelines; `python -m vaswani_tx.training.classify --model RUN/best --input FILE` predicts. The
same command goes on where the run stopped. A command, a recipe or data that cannot be used end with status 2.
"""

import json
import logging
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedModel

from vaswani_tx import VaswaniEncoderConfig, VaswaniTokenizer
from vaswani_tx.training.baselines.bert import bert_class, bert_config, with_first_token
from vaswani_tx.training.config.classification import ClassifierSettings
from vaswani_tx.training.data.batching import BatchPlan
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
from vaswani_tx.training.engine.checkpoint_manager import Task
from vaswani_tx.training.engine.run import (
    RunContext,
    TaskComponents,
    command,
    configure_model,
    model_fields,
    on_main,
    resolve_path,
    scale_attention,
)
from vaswani_tx.training.engine.run import train as train_with
from vaswani_tx.training.engine.run_folder import RunFolder
from vaswani_tx.training.errors import CheckpointError, DataError, SettingsError
from vaswani_tx.training.files import atomic_text
from vaswani_tx.training.inference.classification import ClassifierValidator
from vaswani_tx.training.inference.translation import check_vocabulary
from vaswani_tx.training.models.loading import check_folder, load_pretrained
from vaswani_tx.training.tasks.classification_tasks import TaskSpec, task_spec

logger = logging.getLogger(__name__)


@dataclass
class ClassifierData:
    """The examples of a run, what they are to be given, and their token ids."""

    kind: TaskSpec
    rows: Rows
    plan: BatchPlan
    validation: Rows | None

    def describe(self) -> str:
        """The amount of data in a few words."""
        labels = f", {len(self.kind.names)} labels" if self.kind.names else ""
        more = f", {len(self.validation.examples):,} to validate" if self.validation else ""
        return f"{len(self.rows.examples):,} examples{labels}{more}"

    def to_dict(self) -> dict[str, Any]:
        """What the run is trained on, for its folder's data.json."""
        content: dict[str, Any] = {"task": self.kind.task, "labels": list(self.kind.names)}
        for name, rows in (("train", self.rows), ("validation", self.validation)):
            if rows is not None:
                counts = {"examples": len(rows.examples), "rows": len(rows), "tokens": len(rows.ids), "cut": rows.cut}
                content[name] = counts
        return content


def train(arguments: ClassifierSettings) -> None:
    """Trains as the arguments say, then writes scores.json; raises ValueError for all that a user can mend."""
    made: list[tuple[RunContext, TaskComponents]] = []
    train_with(arguments, partial(prepare, made=made))
    start, parts = made[0]
    if start.accelerator.is_main_process and parts.validate is not None:
        write_scores(start.folder, parts.validate)


def write_scores(folder: RunFolder, validator: ClassifierValidator) -> None:
    """Writes the scores of the finished run's models with all details to `scores.json`."""
    # In this order vaswani_tx.training.engine.run.conclude has just scored them.
    names = [path.name for path in (folder.best, folder.averaged, folder.ema) if path.is_dir()]
    reports = list(validator.reports)[-len(names) :]
    content = dict(zip(names, reports, strict=True))
    atomic_text(folder.path / "scores.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")


def prepare(start: RunContext, made: list[tuple[RunContext, TaskComponents]] | None = None) -> TaskComponents:
    """Data, tokenizer, model and validation of a run; `made` is given what they are made of."""
    arguments, accelerator = start.arguments, start.accelerator
    examples = load_examples(arguments, arguments.train_file, arguments.train_split)
    validation = None
    if arguments.validation_file:
        validation = load_examples(arguments, arguments.validation_file, arguments.validation_split)
    kind = make_task_spec(arguments, examples, validation)
    tokenizer = on_main(accelerator, lambda: make_tokenizer(arguments, examples, start.folder, start.resume_from))
    data = make_data(arguments, kind, tokenizer, examples, validation, start.pad_to_multiple_of)
    parts = TaskComponents(
        make_model=partial(make_model, arguments, data, tokenizer, start.resume_from),
        make_task=partial(make_task, arguments, data),
        load_model=partial(load_model, arguments),
        processor=tokenizer,
        data=data.to_dict,
        size=f"{data.describe()}, vocabulary {len(tokenizer):,}",
        validate=None if data.validation is None else ClassifierValidator(kind, data.validation),
    )
    if made is not None:
        made.append((start, parts))
    return parts


def load_examples(arguments: ClassifierSettings, name: str, split: str) -> list[Example]:
    """The examples of one of the recipe's files or data sets."""
    path = resolve_path(arguments.data_dir, name)
    return read_examples(path, arguments.task, arguments.fields(), split=split, name=arguments.dataset_config)


def make_task_spec(
    arguments: ClassifierSettings, examples: list[Example], validation: list[Example] | None
) -> TaskSpec:
    """The kind of task with its labels; raises DataError where training and validation data do not agree."""
    names: list[str] = []
    if arguments.task == "regression":
        first = examples[0]
        for example in [*examples, *(validation or ())]:
            if len(example.label) != len(first.label):
                raise DataError(
                    f"{example.where}: {len(example.label)} numbers, but {first.where} has {len(first.label)}: every "
                    "example needs as many."
                )
        count, name = len(first.label), arguments.label_field
        names = [name] if count == 1 else [f"{name}_{number}" for number in range(count)]
    elif arguments.task != "question_answering":
        names = label_names(examples, arguments.labels)
        check_labels(validation or (), names)
    return task_spec(
        arguments.task, names=names, max_length=arguments.max_length, stride=arguments.stride,
        too_long=arguments.too_long,
        no_answer=any(isinstance(example, QuestionExample) and not example.answers for example in examples),
    )  # fmt: skip


def make_tokenizer(
    arguments: ClassifierSettings, examples: list[Example], folder: RunFolder, resume_from: Path | None
) -> VaswaniTokenizer:
    """The tokenizer of the run: its own when it goes on, else the given one, else one trained on the training texts."""
    places = [resume_from, folder.tokenizer] if resume_from else [arguments.tokenizer, arguments.init_from]
    found = [path for path in places if path and (Path(path) / "tokenizer.json").is_file()]
    if found:
        tokenizer = VaswaniTokenizer.from_pretrained(found[0])
    elif resume_from or arguments.tokenizer or not arguments.tokenizer_vocab_size:
        raise SettingsError(
            f"There is no tokenizer.json in '{next(filter(None, places))}': name the folder of a tokenizer, or set "
            "tokenizer_vocab_size to have one trained here."
        )
    else:
        tokenizer = VaswaniTokenizer.train(iter(set_of_texts(examples)), vocab_size=arguments.tokenizer_vocab_size)
    return with_first_token(tokenizer) if first_token(arguments) else tokenizer


def set_of_texts(examples: list[Example]) -> list[str]:
    """All texts of some examples, each once: many questions share their context."""

    def texts() -> Iterator[str | None]:
        for example in examples:
            if isinstance(example, TextExample):
                yield from (example.text, example.pair)
            elif isinstance(example, QuestionExample):
                yield from (example.question, example.context)
            else:
                yield " ".join(example.words)

    return [text for text in dict.fromkeys(texts()) if text is not None]


def first_token(arguments: ClassifierSettings) -> int:
    """How many tokens a text begins with beside its own: BERT's classifier wants one."""
    return int(arguments.architecture == "bert" and arguments.task in TEXT_TASKS)


def make_data(
    arguments: ClassifierSettings,
    kind: TaskSpec,
    tokenizer: VaswaniTokenizer,
    examples: list[Example],
    validation: list[Example] | None,
    pad_to_multiple_of: int = 1,
) -> ClassifierData:
    """Tokenised examples, and the plan of their batches."""
    extra = first_token(arguments)
    kind.max_length = arguments.max_length + extra
    rows = kind.rows(examples, tokenizer)
    rows.pad_to_multiple_of = pad_to_multiple_of
    # The same plan whatever stands in front of a text; labels take no room that a budget would have to count.
    ones = np.ones(len(rows), dtype=np.int64)
    plan = BatchPlan(
        rows.source_lengths - extra, ones, arguments.max_tokens, len(rows), arguments.seed, lines=rows.where,
        pad_to_multiple_of=pad_to_multiple_of, max_pairs=arguments.batch_size,
    )  # fmt: skip
    return ClassifierData(kind, rows, plan, None if validation is None else kind.rows(validation, tokenizer))


def make_model(
    arguments: ClassifierSettings, data: ClassifierData, tokenizer: VaswaniTokenizer, resume_from: Path | None
) -> PreTrainedModel:
    """A new model, one with a pre-trained encoder, or the run's own; ValueError where it does not fit the data."""
    kind = data.kind
    if resume_from:
        model = load_model(arguments, resume_from)
        if kind.names and model.config.label2id != kind.numbers:
            raise CheckpointError(
                f"'{resume_from}' knows the labels {list(model.config.label2id)}, the training data has "
                f"{list(kind.names)}: restore the data, or start anew from its weights with --init-from."
            )
    elif arguments.init_from:
        model = start_from(arguments, kind)
    else:
        config = make_config(arguments, kind, len(tokenizer))
        if arguments.architecture == "bert":
            model = bert_class(arguments.task)(bert_config(config, kind.max_length))
        else:
            model = kind.model_class(config)
            scale_attention(model, arguments.attention_init_gain)
        start_at_mean(model, data)
    check_vocabulary(model, tokenizer, str(resume_from or arguments.init_from or "the model of this recipe"))
    limit = getattr(model.config, "max_position_embeddings", None)
    if getattr(model.config, "position_embedding", None) == "learned" and kind.max_length > limit:
        raise SettingsError(f"max_length {kind.max_length} is beyond the model's {limit} learned positions: lower it.")
    return configure_model(model, arguments)


def make_config(arguments: ClassifierSettings, kind: TaskSpec, vocabulary: int) -> VaswaniEncoderConfig:
    """The configuration of a new model; raises ValueError where it is too small for the tokenizer."""
    fields = model_fields(arguments, vocabulary)
    return VaswaniEncoderConfig.from_preset(arguments.preset, **kind.config_fields(), **fields)


def start_from(arguments: ClassifierSettings, kind: TaskSpec) -> PreTrainedModel:
    """A model with the encoder of the folder `init_from`, and its last layer too where that was for the same labels.

    Raises:
        CheckpointError: a damaged folder, or a model of another family.
    """
    folder = Path(arguments.init_from)
    check_folder(folder)
    former = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    if former.get("model_type") != VaswaniEncoderConfig.model_type:
        raise CheckpointError(
            f"init_from '{folder}' holds a model of type {former.get('model_type')!r}: a classifier starts from one of "
            f"type {VaswaniEncoderConfig.model_type!r}, such as vaswani_tx.training.train_masked_lm makes."
        )
    # Not as keywords of from_pretrained, which takes only those for fields that the former configuration had.
    config = VaswaniEncoderConfig.from_dict(former | kind.config_fields() | arguments.model)
    model, report = load_pretrained(
        kind.model_class, folder, config=config, dtype=torch.float32, ignore_mismatched_sizes=True,
        output_loading_info=True,
    )  # fmt: skip
    head = getattr(model, kind.head)
    new = {*report["missing_keys"], *(entry[0] for entry in report["mismatched_keys"])}
    lost = sorted(name for name in new if not name.startswith(f"{kind.head}."))
    if lost:
        raise CheckpointError(
            f"init_from '{folder}' lacks {len(lost)} weights of the encoder or has others of their names, first "
            f"{lost[0]!r}: its config.json belongs to another model, or `model` changes sizes."
        )
    names = {int(number): name for number, name in former.get("id2label", {}).items()}
    if not new and kind.names and names != dict(enumerate(kind.names)):
        # As many classes, but others: what the last layer learned about those would only mislead.
        fresh = type(model)(model.config)
        head.load_state_dict(getattr(fresh, kind.head).state_dict())
        new = {f"{kind.head}.weight", f"{kind.head}.bias"}
    kept = len(model.state_dict()) - len(new)
    left = f"; left behind: {', '.join(sorted(report['unexpected_keys']))}" if report["unexpected_keys"] else ""
    logger.info("%s: %d weights taken over by name; %s%s", folder, kept, _say_new(new), left)
    return model


def _say_new(new: set[str]) -> str:
    if not new:
        return "none is new"
    return f"{' and '.join(sorted(new))} {'is' if len(new) == 1 else 'are'} new"


def start_at_mean(model: PreTrainedModel, data: ClassifierData) -> None:
    """Sets the last bias of a new regression to the mean of the labels, so that scores around 100 are no long way."""
    if data.kind.task == "regression":
        with torch.no_grad():
            model.classifier.bias.copy_(torch.from_numpy(data.rows.labels.mean(axis=0)))


def load_model(arguments: ClassifierSettings, folder: Path) -> PreTrainedModel:
    """The model that a folder of this run holds."""
    ours = arguments.architecture == "vaswani"
    kind = task_spec(arguments.task).model_class if ours else bert_class(arguments.task)
    return load_pretrained(kind, folder, dtype=torch.float32)


def make_task(arguments: ClassifierSettings, data: ClassifierData, model: PreTrainedModel) -> Task:
    """What is learned: the plan of batches, and the loss."""
    smoothing = {"label_smoothing": arguments.label_smoothing} if arguments.label_smoothing else {}
    return Task(plan=data.plan, collate=data.rows.collate, pairs=data.rows, forward_options=smoothing)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    return command(argv, ClassifierSettings, __doc__, train)


if __name__ == "__main__":
    sys.exit(main())
