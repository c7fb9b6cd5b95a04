"""The tasks on labelled text: for each its model class, its rows, how outputs are read, and its scores.

    task_spec("tagging", ...).rows(examples, tokenizer) -> Rows -> model -> `read` a row -> `join` the rows
    of an example -> a prediction (a dict) -> `scores`

Shapes: B batch, L length, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from vaswani_tx import VaswaniForQuestionAnswering, VaswaniForSequenceClassification, VaswaniForTokenClassification
from vaswani_tx.training.data.labelled import Example, QuestionExample, TextExample, WordsExample
from vaswani_tx.training.data.labelled_rows import Rows, question_rows, text_rows, word_rows
from vaswani_tx.training.metrics.answers import answer_scores
from vaswani_tx.training.metrics.classes import (
    confusion,
    each_class,
    multi_label_scores,
    regression_scores,
    single_label_scores,
)
from vaswani_tx.training.metrics.spans import are_spans, count_spans, precision_recall_f1, span_scores, spans

MAX_ANSWER_TOKENS = 30
LARGEST_CONFUSION = 100  # classes of which a table can still be read


@dataclass
class TaskSpec:
    """A base of the tasks on labelled text.

    Args:
        task: its name in a recipe.
        names: the labels, or what the numbers of a regression are called; none for question answering.
        max_length: longest row in tokens, special tokens counted.
        stride: tokens that two windows of a context share.
        too_long: what a longer text does.
        no_answer: whether a question may have no answer.
    """

    task: str
    names: Sequence[str] = ()
    max_length: int = 128
    stride: int = 64
    too_long: str = "truncate"
    no_answer: bool = False

    model_class = VaswaniForSequenceClassification
    head = "classifier"
    auto_class = "AutoModelForSequenceClassification"

    @property
    def numbers(self) -> dict[str, int]:
        """Return the class of each label."""
        return {name: number for number, name in enumerate(self.names)}

    def config_fields(self) -> dict[str, Any]:
        """Return the fields of a model's configuration that describe the task."""
        settings = {"task": self.task, "max_length": self.max_length}
        if self.task == "question_answering":
            settings |= {"stride": self.stride, "no_answer": self.no_answer}
        fields: dict[str, Any] = {"task_specific_params": {"vaswani_tx": settings}}
        if self.names:
            fields |= {"id2label": dict(enumerate(self.names)), "label2id": self.numbers}
        return fields

    def rows(self, examples: Sequence[Example], tokenizer: Any, labelled: bool = True) -> Rows:
        """Return the examples as token ids with their labels."""
        raise NotImplementedError

    def read(self, outputs: Any, rows: Rows, indices: Sequence[int]) -> list[Any]:
        """Return what the model predicts for each row of a batch."""
        logits = outputs.logits.float()
        values = logits.softmax(-1) if self.task == "classification" else logits
        return list((values.sigmoid() if self.task == "multi_label" else values).cpu().numpy())

    def join(self, example: Example, found: Sequence[Any]) -> dict[str, Any]:
        """Return the prediction for an example from what was read of its rows."""
        raise NotImplementedError

    def scores(self, examples: Sequence[Any], predictions: Sequence[dict[str, Any]]) -> tuple[dict, dict]:
        """Return scores of predictions, numbers first, then details such as the confusion matrix."""
        raise NotImplementedError

    def sample(self, example: Example, prediction: dict[str, Any]) -> dict[str, Any]:
        """Return an example with its label and the prediction, for `samples.jsonl`."""
        raise NotImplementedError


class TextTaskSpec(TaskSpec):
    """Texts, or pairs of them: one class each, several classes, or numbers."""

    def config_fields(self) -> dict[str, Any]:
        names = {"classification": "single_label_classification", "multi_label": "multi_label_classification"}
        return super().config_fields() | {"problem_type": names.get(self.task, "regression")}

    def rows(self, examples: Sequence[TextExample], tokenizer: Any, labelled: bool = True) -> Rows:
        labels = self._labels(examples) if labelled else np.zeros(len(examples), dtype=np.int64)
        return text_rows(examples, tokenizer, labels, self.max_length, self.too_long)

    def _labels(self, examples: Sequence[TextExample]) -> np.ndarray:
        numbers = self.numbers
        if self.task == "regression":
            return np.array([example.label for example in examples], dtype=np.float32)
        if self.task == "classification":
            return np.array([numbers[example.label] for example in examples], dtype=np.int64)
        labels = np.zeros((len(examples), len(numbers)), dtype=np.float32)
        for row, example in zip(labels, examples, strict=True):
            row[[numbers[name] for name in example.label]] = 1
        return labels

    def join(self, example: Example, found: Sequence[np.ndarray]) -> dict[str, Any]:
        values = [float(value) for value in found[0]]
        if self.task == "regression":
            return {"label": values if len(values) > 1 else values[0]}
        scores = dict(zip(self.names, values, strict=True))
        if self.task == "multi_label":
            return {"label": sorted(name for name, value in scores.items() if value >= 0.5), "scores": scores}
        best = max(scores, key=scores.get)
        return {"label": best, "score": scores[best], "scores": scores}

    def scores(
        self, examples: Sequence[TextExample], predictions: Sequence[dict[str, Any]]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        numbers = self.numbers
        if self.task == "regression":
            predicted = [prediction["label"] for prediction in predictions]
            true = [example.label for example in examples]
            return regression_scores(np.reshape(predicted, -1), np.reshape(true, -1)), {}
        if self.task == "multi_label":
            tables = np.zeros((2, len(examples), len(numbers)), dtype=np.int64)
            for i, (example, prediction) in enumerate(zip(examples, predictions, strict=True)):
                for table, names in zip(tables, (prediction["label"], example.label), strict=True):
                    table[i, [numbers[name] for name in names]] = 1
            return multi_label_scores(*tables), {"labels": each_class(*tables, self.names)}
        predicted = [numbers[prediction["label"]] for prediction in predictions]
        true = [numbers[example.label] for example in examples]
        return single_label_scores(predicted, true, len(numbers)), _class_details(predicted, true, self.names)

    def sample(self, example: TextExample, prediction: dict[str, Any]) -> dict[str, Any]:
        pair = {} if example.pair is None else {"pair": example.pair}
        return {"text": example.text, **pair, "reference": example.label, "prediction": prediction["label"]}


class TaggingSpec(TaskSpec):
    """Words with a tag each; F1 is that of spans where the tags are those of spans, else that of tags beside `O`."""

    model_class = VaswaniForTokenClassification
    auto_class = "AutoModelForTokenClassification"

    def rows(self, examples: Sequence[WordsExample], tokenizer: Any, labelled: bool = True) -> Rows:
        return word_rows(examples, tokenizer, self.numbers if labelled else None, self.max_length)

    def read(self, outputs: Any, rows: Rows, indices: Sequence[int]) -> list[tuple[np.ndarray, np.ndarray]]:
        scores, classes = (part.cpu().numpy() for part in outputs.logits.float().softmax(-1).max(-1))
        found = []
        for position, index in enumerate(indices):
            first_pieces = np.flatnonzero(rows.labels[rows.piece(index)] >= 0)
            found.append((classes[position, first_pieces], scores[position, first_pieces]))
        return found

    def join(self, example: Example, found: Sequence[tuple[np.ndarray, np.ndarray]]) -> dict[str, Any]:
        tags = [self.names[number] for classes, _ in found for number in classes]
        prediction: dict[str, Any] = {"tags": tags, "scores": [float(score) for _, row in found for score in row]}
        if are_spans(self.names):
            prediction["spans"] = [
                {"type": name, "first": first, "last": last, "text": " ".join(example.words[first : last + 1])}
                for name, first, last in spans(tags)
            ]
        return prediction

    def scores(
        self, examples: Sequence[WordsExample], predictions: Sequence[dict[str, Any]]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        sentences = ([prediction["tags"] for prediction in predictions], [example.tags for example in examples])
        predicted, true = ([self.numbers[tag] for tags in side for tag in tags] for side in sentences)
        right = np.asarray(predicted) == np.asarray(true)
        details = _class_details(predicted, true, self.names)
        if are_spans(self.names):
            found = span_scores(*sentences) | {"f1_of": "spans"}
            details["spans"] = {
                name: precision_recall_f1(*counts) | {"count": counts[2]}
                for name, counts in count_spans(*sentences).items()
            }
        else:
            other = self.numbers.get("O", -1)
            counts = (
                int((right & (np.asarray(true) != other)).sum()),
                *(sum(n != other for n in s) for s in (predicted, true)),
            )
            macro = single_label_scores(predicted, true, len(self.names))["f1"]
            found = precision_recall_f1(*counts) | {"macro_f1": macro, "f1_of": "tags"}
        return {"accuracy": float(right.mean()), **found}, details

    def sample(self, example: WordsExample, prediction: dict[str, Any]) -> dict[str, Any]:
        return {"tokens": example.words, "reference": example.tags, "prediction": prediction["tags"]}


class QuestionAnsweringSpec(TaskSpec):
    """Questions whose answer is a span of the context."""

    model_class = VaswaniForQuestionAnswering
    auto_class = "AutoModelForQuestionAnswering"
    head = "qa_outputs"

    def rows(self, examples: Sequence[QuestionExample], tokenizer: Any, labelled: bool = True) -> Rows:
        return question_rows(examples, tokenizer, self.max_length, self.stride)

    def read(self, outputs: Any, rows: Rows, indices: Sequence[int]) -> list[tuple[float, float, float, int, int]]:
        """Return of each window the best span's score, probability and characters, and the score of no answer."""
        both = torch.stack([outputs.start_logits, outputs.end_logits]).float().cpu().numpy()  # [2, B, L]
        found = []
        for position, index in enumerate(indices):
            characters = rows.characters[rows.piece(index)]
            start, end = both[:, position, : len(characters)]
            found.append(
                (*best_span(start, end, characters), float(start[rows.nowhere[index]] + end[rows.nowhere[index]]))
            )
        return found

    def join(self, example: Example, found: Sequence[tuple]) -> dict[str, Any]:
        score, probability, first, last, _ = max(found)
        # A window without the answer prefers none: there is none only where all windows do.
        if self.no_answer and min(nothing for *_, nothing in found) > score:
            return {"answer": "", "score": None, "start": None}
        text = example.context[first:last]
        start = first + len(text) - len(text.lstrip())
        return {"answer": text.strip(), "score": probability, "start": start}

    def scores(
        self, examples: Sequence[QuestionExample], predictions: Sequence[dict[str, Any]]
    ) -> tuple[dict[str, Any], dict[str, Any]]:
        references = [[text for text, _ in example.answers] for example in examples]
        return answer_scores([prediction["answer"] for prediction in predictions], references), {}

    def sample(self, example: QuestionExample, prediction: dict[str, Any]) -> dict[str, Any]:
        references = [text for text, _ in example.answers or ()]
        return {"question": example.question, "references": references, "prediction": prediction["answer"]}


def best_span(start: np.ndarray, end: np.ndarray, characters: np.ndarray) -> tuple[float, float, int, int]:
    """Return the span of the context with the highest sum of scores: sum, probability, first and last character.

    Args:
        start, end: scores of each token to begin and to end the answer, [L].
        characters: first and one past the last character of each token, -1 outside of the context, [L, 2].
    """
    inside = characters[:, 0] >= 0
    chances = [_softmax(side) for side in (start, end)]
    sums = np.where(inside, start, -np.inf)[:, None] + np.where(inside, end, -np.inf)[None, :]
    near = np.tri(len(start), k=MAX_ANSWER_TOKENS - 1, dtype=bool)  # [first, last]: last < first + MAX_ANSWER_TOKENS
    sums = np.where(near & np.tri(len(start), dtype=bool).T, sums, -np.inf)
    first, last = np.unravel_index(int(sums.argmax()), sums.shape)
    probability = float(chances[0][first] * chances[1][last])
    return float(sums[first, last]), probability, int(characters[first, 0]), int(characters[last, 1])


def _softmax(values: np.ndarray) -> np.ndarray:
    powers = np.exp(values - values.max())
    return powers / powers.sum()


def _class_details(predicted: Sequence[int], true: Sequence[int], names: Sequence[str]) -> dict[str, Any]:
    details: dict[str, Any] = {"labels": each_class(predicted, true, names)}
    if len(names) <= LARGEST_CONFUSION:
        table = confusion(predicted, true, len(names))
        details["confusion"] = {"names": list(names), "rows_true_columns_predicted": table}
    return details


TASK_SPECS = {
    "classification": TextTaskSpec,
    "multi_label": TextTaskSpec,
    "regression": TextTaskSpec,
    "tagging": TaggingSpec,
    "question_answering": QuestionAnsweringSpec,
}


def task_spec(task: str, **settings: Any) -> TaskSpec:
    """Return the specification of a task by its name in a recipe."""
    return TASK_SPECS[task](task, **settings)
