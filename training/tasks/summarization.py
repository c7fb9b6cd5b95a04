"""Summarisation: documents and their summaries, with validation by ROUGE beside the document's own beginning.

    recipe -> prepare -> TaskComponents -> engine

All but the scores is translation from a long text into a short one.
"""

from typing import Any

import torch

from vaswani_tx.sentences_vaswani import split_sentences
from vaswani_tx.training.command_line import print_status
from vaswani_tx.training.config.summarization import SummarizationSettings
from vaswani_tx.training.engine.run import RunContext
from vaswani_tx.training.engine.task import TaskComponents, Validation
from vaswani_tx.training.metrics import registry
from vaswani_tx.training.metrics.scoring import score_translations
from vaswani_tx.training.tasks.translation import TranslationTask, components_of, load_validation


class SummarizationTask(TranslationTask):
    """Pairs of a document and its summary; the loss counts the summary's tokens."""

    settings: SummarizationSettings

    def decoding_options(self) -> dict[str, Any]:
        """Return where a validation document is cut: as training documents are."""
        cut = self.settings.too_long == "truncate"
        return {"max_source_length": self.settings.max_source_length} if cut else {}

    def score_options(self) -> dict[str, Any]:
        """Return the language of the summaries, which decides how ROUGE takes words."""
        return {"language": self.settings.language}

    def validate(self, model: torch.nn.Module, *, final: bool, distributed: bool) -> Validation:
        """Score as translations are, with the samples' first sentences beside the model's summaries."""
        validation = super().validate(model, final=final, distributed=distributed)
        if self.settings.lead_sentences:
            for sample in validation.samples:
                sample["lead"] = lead(sample["source"], self.settings.lead_sentences)
        return validation


def lead(document: str, sentences: int) -> str:
    """Return the first sentences of a document: what every summariser is measured against."""
    return " ".join(sentence.text for sentence in split_sentences(document)[:sentences])


def score_lead(documents: list[str], summaries: list[str], settings: SummarizationSettings) -> dict[str, Any]:
    """Return the scores of the documents' first sentences as summaries."""
    hypotheses = [lead(document, settings.lead_sentences) for document in documents]
    scores = score_translations(hypotheses, summaries, metrics=settings.metrics, language=settings.language)
    return {name: value for name, value in scores.items() if name.removesuffix("_signature") in settings.metrics}


def prepare(context: RunContext) -> TaskComponents:
    """Return data, tokenizer, model and validation of a summarisation run; print the baseline of a new one."""
    settings, validation = context.settings, load_validation(context.settings)
    components = components_of(context, SummarizationTask, validation)
    # A pipeline that is asked to truncate cuts where training did.
    components.processor.model_max_length = settings.max_source_length
    if settings.lead_sentences and validation is not None and not context.quiet and not context.resume_from:
        scores = score_lead(*validation, settings)
        print_status(f"lead-{settings.lead_sentences} as summaries: validation {registry.describe(scores)}")
    return components
