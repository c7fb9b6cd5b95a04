"""What the metric modules of this folder share; `evaluate` copies this file along with the one that imports it."""

import datasets
import evaluate

TEXTS = """
Args:
    predictions (list of str): one hypothesis for each sentence.
    references (list of str, or list of lists of str): one or, the same number for each sentence, several references.
"""


def info(description: str, arguments: str, citation: str = "") -> evaluate.MetricInfo:
    """What `evaluate` asks of a metric that compares plain sentences with one or several references each."""
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
