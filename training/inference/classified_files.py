"""Predictions for the examples of a file or of standard input, as lines of JSON, and their scores.

`vaswani_tx.training.classify` is the command and describes its options.
"""

import argparse
import json
from typing import Any

from vaswani_tx.devices import choose_device
from vaswani_tx.training.config.labelled import TEXT_TASKS, Fields
from vaswani_tx.training.data.labelled import (
    Example,
    QuestionExample,
    TextExample,
    WordsExample,
    check_labels,
    has_text,
    read_examples,
)
from vaswani_tx.training.data.lines import STDIN, format_of, read_lines, stdin_lines, words_of
from vaswani_tx.training.errors import DataError
from vaswani_tx.training.files import atomic_text
from vaswani_tx.training.inference.classifier import Classifier
from vaswani_tx.training.inference.task_specs import TaskSpec


def classify_file(options: argparse.Namespace) -> None:
    """Predict, write, score; raise a ValueError where input cannot be used."""
    device = choose_device(options.device)
    settings = {"max_length": options.max_length, "stride": options.stride}
    classifier = Classifier.load(options.model, device, **settings)
    classifier.batch_tokens = options.batch_tokens
    kind = classifier.kind
    examples = read_input(options, kind.task)
    if options.scores is not None:
        check_labels(examples if kind.names and kind.task != "regression" else (), kind.names, "the model")
    answers = iter(classifier.predict(asked) if (asked := [one for one in examples if has_text(one)]) else [])
    predictions = [next(answers) if has_text(example) else nothing(kind, example) for example in examples]
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


def read_input(options: argparse.Namespace, task: str) -> list[Example]:
    """Return the examples to predict; raise DataError naming file, line and field."""
    path = options.input
    by_line = options.lines or path == "-" or (task in TEXT_TASKS and format_of(path) == ".txt")
    if not by_line:
        fields = {name: getattr(options, name) for name in Fields.__dataclass_fields__}
        return read_examples(
            path, task, Fields(**fields), split=options.split, name=options.dataset_config,
            labelled=options.scores is not None, empty="keep" if options.scores is None else "error",
        )  # fmt: skip
    if options.scores is not None or task == "question_answering":
        raise DataError(f"{path}: lines of text hold no labels and no questions; give .tsv, .jsonl or the like.")
    found: list[Example] = []
    for number, line in enumerate(stdin_lines() if path == "-" else read_lines(path), start=1):
        where = f"{STDIN if path == '-' else path}, line {number}"
        found.append(
            WordsExample(where, words_of(line), None) if task == "tagging" else TextExample(where, line, None, None)
        )
    if not found:
        raise DataError(f"{path}: there is no text in it.")
    return found


def nothing(kind: TaskSpec, example: Example) -> dict[str, Any]:
    """Return the prediction for an example without text, which no model is asked for: none."""
    if isinstance(example, WordsExample):
        return kind.join(example, [])
    return {"answer": "", "score": None, "start": None} if isinstance(example, QuestionExample) else {"label": None}


def shown(example: Example, prediction: dict[str, Any]) -> str:
    """Return an example's line of output."""
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
