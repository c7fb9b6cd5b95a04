"""The share of hypotheses equal to a reference as an `evaluate` metric that loads from its path without a network.

    python -c "import evaluate; m = evaluate.load('training/metrics/exact_match.py'); \
        print(m.compute(predictions=['Hallo Welt .'], references=[['Hallo Welt .']]))"
"""

import evaluate

from vaswani_tx.training.metrics.text_metrics import count_matches

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
        groups = [[group] if isinstance(group, str) else group for group in references]
        count = count_matches(predictions, groups, ignore_case)
        return {"exact_match": count / len(predictions), "count": count}
