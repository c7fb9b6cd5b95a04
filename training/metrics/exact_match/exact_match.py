"""The share of hypotheses equal to a reference as an `evaluate` metric that loads from this folder without a network.

    python -c "import evaluate; m = evaluate.load('training/metrics/exact_match'); \
        print(m.compute(predictions=['Hallo Welt .'], references=[['Hallo Welt .']]))"
"""

import datasets
import evaluate

_DESCRIPTION = """The share of sentences whose hypothesis equals one of the references, spaces at the ends aside."""

_KWARGS_DESCRIPTION = """
Args:
    predictions (list of str): one hypothesis for each sentence.
    references (list of str, or list of lists of str): one or several references for each sentence.
    ignore_case (bool): compare without regard to case. Default False.

Returns:
    exact_match: between 0 and 1.
    count: the number of sentences that match.
"""


@evaluate.utils.file_utils.add_start_docstrings(_DESCRIPTION, _KWARGS_DESCRIPTION)
class ExactMatch(evaluate.Metric):
    """Share of hypotheses equal to one of their references."""

    def _info(self):
        text = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation="",
            inputs_description=_KWARGS_DESCRIPTION,
            features=[
                datasets.Features({"predictions": text, "references": datasets.Sequence(text)}),
                datasets.Features({"predictions": text, "references": text}),
            ],
        )

    def _compute(self, predictions, references, ignore_case=False):
        def normal(sentence):
            return sentence.strip().casefold() if ignore_case else sentence.strip()

        groups = [[group] if isinstance(group, str) else group for group in references]
        pairs = zip(predictions, groups, strict=True)
        count = sum(normal(prediction) in map(normal, group) for prediction, group in pairs)
        return {"exact_match": count / len(predictions), "count": count}
