"""What the settings of classifiers and the reading of their data share: the tasks on texts, and the names of fields."""

from dataclasses import dataclass

TEXT_TASKS = ("classification", "multi_label", "regression")


@dataclass(frozen=True)
class Fields:
    """Names of the fields of labelled data."""

    text: str = "text"
    pair: str | None = None
    label: str = "label"
    separator: str = ","
    tokens: str = "tokens"
    tags: str = "tags"
    question: str = "question"
    context: str = "context"
    answers: str = "answers"
