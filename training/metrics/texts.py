"""What this folder's modules for `evaluate` share; `evaluate` copies this file along with one that imports it."""

from abc import ABC, abstractmethod
from typing import Any

import datasets
import evaluate

TEXTS = """
Args:
    predictions (list of str): one hypothesis for each sentence.
    references (list of str, or list of lists of str): one or, the same number for each sentence, several references.
"""


def info(description: str, arguments: str, citation: str = "") -> evaluate.MetricInfo:
    """Return what `evaluate` asks of a metric that compares plain sentences with one or several references each."""
    text = datasets.Value("string")
    return evaluate.MetricInfo(
        description=description,
        citation=citation,
        inputs_description=TEXTS + arguments,
        features=[
            datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
            datasets.Features({"predictions": text, "references": text}),
        ],
    )


def streams(references: list) -> list[list[str]]:
    """Turn references by sentence into sacreBLEU's by stream; ValueError where their numbers differ."""
    if isinstance(references[0], str):
        return [references]
    for number, group in enumerate(references):
        if len(group) != len(references[0]):
            raise ValueError(
                f"sentence {number} has {len(group)} references and sentence 0 has {len(references[0])}: "
                "give every sentence the same number of references"
            )
    return [list(stream) for stream in zip(*references, strict=True)]


class SacreBleuModule(evaluate.Metric, ABC):
    """A metric of sacreBLEU: its options, and what of its result is returned beside the signature."""

    metric: Any
    returned: tuple[str, ...]
    renamed: dict[str, str] = {}  # options that `evaluate` calls otherwise

    @abstractmethod
    def _info(self):
        """Return what `evaluate` asks of a metric; abstract, for `evaluate` takes a file's first class that is not."""

    def _compute(self, predictions, references, **options):
        options = {self.renamed.get(name, name): value for name, value in options.items()}
        metric = self.metric(**options)
        result = metric.corpus_score(predictions, streams(references))
        return {name: getattr(result, name) for name in self.returned} | {"signature": str(metric.get_signature())}
