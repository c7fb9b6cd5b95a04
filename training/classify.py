"""Predicts with a classifier, a tagger or a reader of answers, and scores the predictions where the labels are known.

    python -m vaswani_tx.training.classify --model runs/first/best --input test.tsv --output said.jsonl --scores scores.json
    echo "what a day" | python -m vaswani_tx.training.classify --model runs/first/best --input -

The input is what `train_classifier` reads, labels optional; `-` (standard input) and, for texts, a .txt file hold one
text a line, and so does any file with `--lines`: a tagger parts them at spaces. Each example gives one line of JSON:

    classification      {"text": ..., "label": "positive", "score": 0.98, "scores": {...}}
    multi_label         {"text": ..., "label": ["a", "b"], "scores": {...}}
    regression          {"text": ..., "label": 3.5}
    tagging             {"tokens": [...], "tags": [...], "scores": [...], "spans": [{"type", "first", "last", "text"}]}
    question_answering  {"id": ..., "question": ..., "answer": "in 1990", "score": 0.8, "start": 17}

`--scores FILE` asks for labels and writes accuracy, F1 and so on with each label and the confusion matrix. Any model of
transformers' Auto classes that `train_classifier` made serves. For programs:

    classifier = Classifier.load("runs/first/best")
    classifier.texts(["what a day"]); classifier.tag([["Ann", "ran"]]); classifier.answer("When?", "It was in 1990.")
"""

import argparse
import contextlib
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoTokenizer

import vaswani_tx  # noqa: F401  registers the Auto classes
from vaswani_tx.training.data.labelled import (
    TEXT_TASKS,
    Example,
    Fields,
    QuestionExample,
    TextExample,
    WordsExample,
    check_labels,
    read_examples,
)
from vaswani_tx.training.data.labelled_files import numbered_lines
from vaswani_tx.training.errors import CheckpointError, DataError
from vaswani_tx.training.files import atomic_text
from vaswani_tx.training.inference.classification import predict
from vaswani_tx.training.inference.task_specs import TaskSpec, task_spec
from vaswani_tx.training.inference.translation import check_vocabulary
from vaswani_tx.training.models.loading import check_folder, load_pretrained


@dataclass
class Classifier:
    """A model with its tokenizer and what it was trained to say."""

    model: transformers.PreTrainedModel
    tokenizer: Any
    kind: TaskSpec
    batch_tokens: int = 8192

    @classmethod
    def load(cls, folder: str | Path, device: str | torch.device = "cpu", **settings: Any) -> "Classifier":
        """The classifier that a folder holds; `settings` replace its own `max_length`, `stride` or `no_answer`.

        Raises:
            CheckpointError: the folder is damaged, or holds another kind of model.
        """
        folder = Path(folder)
        check_folder(folder)
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        own = ((config.get("task_specific_params") or {}).get("vaswani_tx")) or {}
        task = own.get("task") or _task_of(config, folder)
        labels = {int(number): name for number, name in config.get("id2label", {}).items()}
        names = [] if task == "question_answering" else [labels[number] for number in sorted(labels)]
        settings = {name: value for name, value in settings.items() if value is not None}
        own = {name: value for name, value in own.items() if name != "task"}
        kind = task_spec(task, names=names, **(own | settings))
        model = load_pretrained(getattr(transformers, kind.auto_class), folder, dtype=torch.float32)
        if not (folder / "tokenizer_config.json").is_file() and not (folder / "tokenizer.json").is_file():
            raise CheckpointError(f"'{folder}' holds no tokenizer: copy tokenizer.json and its configuration there.")
        tokenizer = AutoTokenizer.from_pretrained(folder)
        check_vocabulary(model, tokenizer, str(folder))
        return cls(model.to(device).eval(), tokenizer, kind)

    def predict(self, examples: Sequence[Example]) -> list[dict[str, Any]]:
        """A prediction for each example, in order."""
        rows = self.kind.rows(examples, self.tokenizer, labelled=False)
        return predict(self.model, self.kind, rows, batch_tokens=self.batch_tokens)[0]

    def texts(self, texts: Sequence[str | tuple[str, str]]) -> list[dict[str, Any]]:
        """A label for each text, or pair of texts."""
        pairs = [(text, None) if isinstance(text, str) else text for text in texts]
        return self.predict([TextExample(f"text {i}", *pair, None) for i, pair in enumerate(pairs, start=1)])

    def tag(self, sentences: Sequence[Sequence[str]]) -> list[dict[str, Any]]:
        """A tag for each word of each sentence."""
        return self.predict([WordsExample(f"sentence {i}", list(s), None) for i, s in enumerate(sentences, start=1)])

    def answer(self, question: str, context: str) -> dict[str, Any]:
        """The answer to a question, where in the context it begins, and its probability in its window."""
        return self.predict([QuestionExample("the question", "1", question, context, None)])[0]


def _task_of(config: dict[str, Any], folder: Path) -> str:
    """The task by the class and the problem type, for models that were made elsewhere."""
    name = next(iter(config.get("architectures") or []), "")
    if name.endswith("ForTokenClassification"):
        return "tagging"
    if name.endswith("ForQuestionAnswering"):
        return "question_answering"
    if name.endswith("ForSequenceClassification"):
        return {"multi_label_classification": "multi_label", "regression": "regression"}.get(
            config.get("problem_type"), "classification"
        )
    raise CheckpointError(f"'{folder}' holds a {name or 'model without a class'}, which is no classifier.")


def read_input(options: argparse.Namespace, task: str) -> list[Example]:
    """The examples to predict; raises DataError naming file, line and field."""
    path = options.input
    by_line = options.lines or path == "-" or (task in TEXT_TASKS and path.endswith(".txt"))
    if not by_line:
        fields = {name: getattr(options, name) for name in Fields.__dataclass_fields__}
        return read_examples(
            path, task, Fields(**fields), split=options.split, name=options.dataset_config,
            labelled=options.scores is not None,
        )  # fmt: skip
    if options.scores is not None or task == "question_answering":
        raise DataError(f"{path}: lines of text hold no labels and no questions; give .tsv, .jsonl or the like.")
    lines = list(_stdin_lines() if path == "-" else numbered_lines(path))
    found: list[Example] = []
    for number, line in lines:
        where = f"{path}, line {number}"
        if not line.strip():
            raise DataError(f"{where}: there is no text in it.")
        words = WordsExample(where, line.split(), None)
        found.append(words if task == "tagging" else TextExample(where, line, None, None))
    if not found:
        raise DataError(f"{path}: there is no text in it.")
    return found


def _stdin_lines() -> Iterator[tuple[int, str]]:
    for number, line in enumerate(sys.stdin, start=1):
        yield number, line.removesuffix("\n")


def shown(example: Example, prediction: dict[str, Any]) -> str:
    """An example's line of output."""
    if isinstance(example, WordsExample):
        row: dict[str, Any] = {"tokens": example.words}
    elif isinstance(example, QuestionExample):
        row = {"id": example.id, "question": example.question}
    else:
        row = {"text": example.text} | ({} if example.pair is None else {"pair": example.pair})
    return json.dumps(row | _rounded(prediction), ensure_ascii=False)


def _rounded(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6)
    if isinstance(value, dict):
        return {name: _rounded(entry) for name, entry in value.items()}
    return [_rounded(entry) for entry in value] if isinstance(value, list) else value


def run(options: argparse.Namespace) -> None:
    """Predicts, writes, scores; raises a ValueError that says what is wrong."""
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    settings = {"max_length": options.max_length, "stride": options.stride}
    classifier = Classifier.load(options.model, device, **settings)
    classifier.batch_tokens = options.batch_tokens
    kind = classifier.kind
    examples = read_input(options, kind.task)
    if options.scores is not None:
        check_labels(examples if kind.names and kind.task != "regression" else (), kind.names, "the model")
    predictions = classifier.predict(examples)
    lines = [shown(*pair) for pair in zip(examples, predictions, strict=True)]
    if options.output is not None:
        atomic_text(options.output, "".join(line + "\n" for line in lines))
    elif options.scores is None:
        print("\n".join(lines))
    if options.scores is not None:
        scores, details = kind.scores(examples, predictions)
        content = {"model": options.model, "input": options.input, "examples": len(examples)} | scores | details
        atomic_text(options.scores, json.dumps(content, indent=1, ensure_ascii=False) + "\n")
        print(", ".join(f"{name} {_rounded(value)}" for name, value in scores.items()), f"({len(examples)} examples)")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line as a namespace."""
    parser = argparse.ArgumentParser(
        prog="python -m vaswani_tx.training.classify",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--model", required=True, help="folder of a model, such as a run's best/")
    parser.add_argument("--input", required=True, help="file of examples, data set of the Hub, or - for lines of text")
    parser.add_argument("--output", type=Path, help="file for the predictions; standard output if absent")
    parser.add_argument("--scores", type=Path, help="file for the scores; the input then needs labels")
    parser.add_argument("--lines", action="store_true", help="the input holds one text a line")
    parser.add_argument("--split", default="test", help="split of a data set of the Hub (test)")
    parser.add_argument("--dataset-config", help="configuration of a data set of the Hub")
    for name, default in ((name, field.default) for name, field in Fields.__dataclass_fields__.items()):
        flag = "--label-separator" if name == "separator" else f"--{name}-field"
        meaning = "what parts several labels in a cell" if name == "separator" else f"field of the {name}"
        parser.add_argument(flag, dest=name, default=default, help=f"{meaning} ({default or 'none'})")
    parser.add_argument("--max-length", type=int, help="longest row in tokens; the model's own if absent")
    parser.add_argument("--stride", type=int, help="tokens that two windows share; the model's own if absent")
    parser.add_argument("--batch-tokens", type=int, default=8192, help="tokens of a batch with padding (8192)")
    parser.add_argument("--device", help="such as cpu or cuda:1; a GPU if there is one")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    options = parse(argv)
    transformers.utils.logging.disable_progress_bar()
    try:
        with contextlib.suppress(BrokenPipeError):
            run(options)
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
