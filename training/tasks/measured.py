"""A base of the tasks of this folder, whose scores are those that the registry of metrics has for their family."""

from collections.abc import Mapping
from typing import ClassVar

from vaswani_tx.training.engine.task import PlannedTask, ScoreInfo, Scores
from vaswani_tx.training.metrics import registry


class MeasuredTask(PlannedTask):
    """A task whose scores come from `metrics/registry.py`.

    Attributes:
        family: the family of tasks in the registry, one of its `FAMILIES`.
    """

    family: ClassVar[str]

    @property
    def metrics(self) -> Mapping[str, ScoreInfo]:
        """Return name -> title, direction and format of each score."""
        return registry.metrics_for(self.family)

    def describe(self, scores: Scores) -> str:
        """Return scores as one line."""
        return registry.describe(scores)


def pair_fingerprint(count: int, source_tokens: int, target_tokens: int) -> dict[str, int]:
    """Return a fingerprint in the form that checkpoints of every task hold."""
    return {"pairs": count, "source_tokens": int(source_tokens), "target_tokens": int(target_tokens)}
