"""The share of hypotheses equal to a reference as an `evaluate` metric that loads from its path without a network.

    python -c "import evaluate; m = evaluate.load('training/metrics/exact_match.py'); \
        print(m.compute(predictions=['Hallo Welt .'], references=[['Hallo Welt .']]))"
"""

import evaluate

from .texts import info

_DESCRIPTION = """The share of sentences whose hypothesis equals one of the references, spaces at the ends aside."""

_ARGUMENTS = """    ignore_case (bool): compare without regard to case. Default False.

Returns:
    exact_match: between 0 and 1.
    count: the number of sentences that match.
"""


class ExactMatch(evaluate.Metric):
    """Share of hypotheses equal to one of their references."""

    def _info(self):
        return info(_DESCRIPTION, _ARGUMENTS)

    def _compute(self, predictions, references, ignore_case=False):
        def normal(sentence):
            return sentence.strip().casefold() if ignore_case else sentence.strip()

        groups = [[group] if isinstance(group, str) else group for group in references]
        pairs = zip(predictions, groups, strict=True)
        count = sum(normal(prediction) in map(normal, group) for prediction, group in pairs)
        return {"exact_match": count / len(predictions), "count": count}
