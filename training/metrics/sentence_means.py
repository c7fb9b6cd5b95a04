"""The mean over the sentences of a score of each, as a metric that sacreBLEU can resample and sign."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from sacrebleu.metrics.base import Metric, Score, Signature


class SentenceMean(Metric):
    """The mean, times 100, of a score from 0 to 1 of each sentence; of several references the best one counts.

    Args:
        name: its name in sacreBLEU.
        score: from a hypothesis and one reference.
        facts: further entries of the signature beside the number of references and the versions.
    """

    def __init__(self, name: str, score: Callable[[str, str], float], facts: Mapping[str, Any]):
        super().__init__()
        self.title, self.sentence, self.facts = name, score, facts

    def get_signature(self) -> Signature:
        """Return the signature of the last score."""
        signature = Signature({"num_refs": self.num_refs})
        for key, value in self.facts.items():
            signature.update(key, value)
        return signature

    def _preprocess_segment(self, sent: str) -> str:
        return sent

    def _extract_reference_info(self, refs: Sequence[str]) -> dict[str, Any]:
        return {"references": refs}

    def _compute_segment_statistics(self, hypothesis: str, ref_kwargs: dict[str, Any]) -> list[float]:
        return [max(self.sentence(hypothesis, reference) for reference in ref_kwargs["references"]), 1.0]

    def _aggregate_and_compute(self, stats: list[list[float]]) -> Score:
        return self._compute_score_from_stats([sum(column) for column in zip(*stats, strict=True)])

    def _compute_score_from_stats(self, stats: Sequence[float]) -> Score:
        total, count = stats
        return Score(self.title, float(100 * total / count))
