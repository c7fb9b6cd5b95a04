"""The keys of a summarisation recipe, each also a flag of `vaswani-tx train summarization`: those of translation.

The source side holds documents, the target side their summaries. Only defaults differ, and what follows here.
"""

from dataclasses import dataclass
from typing import Literal

from vaswani_tx.training.config.recipe import key
from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.metrics.registry import TEXT, metrics_for, signed_metrics


@dataclass
class SummarizationSettings(TranslationSettings):
    """Everything that decides the training of a model that shortens documents."""

    source_field: str = key("document", "Field or column of the document.")
    target_field: str = key("summary", "Field or column of the summary.")
    max_source_length: int = key(512, "Longest document in tokens, with </s>; what is beyond is cut, as too_long says.")
    max_target_length: int = key(128, "Longest summary in tokens, with </s>.")
    too_long: Literal["drop", "error", "truncate"] = key("truncate", "What a longer document or summary does.")
    metrics: list[str] = key(
        ["rouge1", "rouge2", "rougeL"], "Scores of the validation documents' summaries.", choices=signed_metrics()
    )
    best_by: str = key(
        "rougeL", "Validation score that chooses best/: one of metrics, or loss.", choices=metrics_for(TEXT)
    )
    language: str = key("en", "Language of the summaries, for ROUGE: English is stemmed, other languages are not.")
    lead_sentences: int = key(1, "Sentences of the baseline that repeats a document's beginning; 0: no baseline.")

    def check(self) -> None:
        """Raise SettingsError, naming the key and how to fix it, where values contradict each other."""
        super().check()
        self.check_least(0, "lead_sentences")
