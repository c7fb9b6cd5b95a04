"""Language models: each next token of a text, or the masked ones, with validation by the loss and what follows from it.

recipe -> prepare_causal, prepare_masked -> TaskComponents -> engine
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from vaswani_tx import VaswaniForCausalLM, VaswaniForMaskedLM, VaswaniTokenizer
from vaswani_tx.loading import check_vocabulary
from vaswani_tx.token_texts_vaswani import source_of, target_of
from vaswani_tx.tokenization_vaswani import MASK_TOKEN
from vaswani_tx.training.config.language_modeling import CausalSettings, LanguageModelSettings, MaskedSettings
from vaswani_tx.training.data.language_data import LanguageData, prepare_language_data
from vaswani_tx.training.data.masking import Masker
from vaswani_tx.training.data.text import TextCorpus, placed, training_texts
from vaswani_tx.training.engine.run import RunContext, configure_model
from vaswani_tx.training.engine.task import BatchSize, TaskComponents, Validation
from vaswani_tx.training.errors import CheckpointError, SettingsError
from vaswani_tx.training.inference.language_modeling import (
    causal_scores,
    completions,
    fillings,
    masked_scores,
    read_documents,
)
from vaswani_tx.training.metrics import registry
from vaswani_tx.training.models.initialization import scale_attention
from vaswani_tx.training.models.loading import build_model, load_pretrained, read_model_type, training_copies
from vaswani_tx.training.tasks.measured import MeasuredTask, pair_fingerprint
from vaswani_tx.training.tasks.tokenizers import model_fields, run_tokenizer


class LanguageModelTask(MeasuredTask):
    """Rows of text; the loss counts the tokens that are predicted.

    Args:
        data: rows and the plan of their batches.
        texts: documents to validate on; none: no validation.
        settings: the recipe.
    """

    def __init__(
        self,
        data: LanguageData,
        tokenizer: VaswaniTokenizer,
        texts: list[str],
        settings: LanguageModelSettings,
        forward_options: dict[str, Any],
    ):
        super().__init__(data.plan, forward_options)
        self.data, self.tokenizer, self.texts, self.settings = data, tokenizer, texts, settings

    @property
    def validates(self) -> bool:
        """Return whether the recipe names a validation text."""
        return bool(self.texts)

    def collate(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Return `input_ids` and `labels` [B, L], and which tokens belong together, of some rows."""
        return self.data.collate(indices)

    def predicted(self, indices: np.ndarray) -> np.ndarray:
        """Return how many tokens of each row are predicted, [B]."""
        return self.data.rows.predicted[indices]

    def size(self, indices: np.ndarray) -> BatchSize:
        """Return the predicted tokens, and the tokens and cells of the rows."""
        return BatchSize.of_lengths(int(self.predicted(indices).sum()), self.data.rows.lengths[indices])

    def locate(self, index: int) -> str:
        """Return the files and lines of a row's documents."""
        return self.data.rows.locate(index)

    def fingerprint(self) -> dict[str, int]:
        """Return the numbers of rows, of tokens and of those that can be predicted."""
        rows = self.data.rows
        return pair_fingerprint(len(rows), rows.lengths.sum(), rows.predicted.sum())


class CausalTask(LanguageModelTask):
    """The prediction of each next token."""

    family = registry.CAUSAL_LM
    settings: CausalSettings

    def validate(self, model: torch.nn.Module, *, final: bool, distributed: bool) -> Validation:
        """Score loss, perplexity and bits per byte; samples complete validation texts, drawn with the run's seed."""
        settings = self.settings
        scores = causal_scores(
            model, self.tokenizer, self.texts, length=settings.row_length, batch_tokens=settings.batch_tokens,
            distributed=distributed,
        )  # fmt: skip
        samples = completions(
            model, self.tokenizer, self.texts, settings.eval_samples, settings.seed, settings.sample_tokens
        )
        return Validation({name: scores[name] for name in ("loss", "perplexity", "bits_per_byte")}, samples)


class MaskedTask(LanguageModelTask):
    """The prediction of masked words, other ones in every epoch.

    Args:
        masker: chooses the words.
        args: as `LanguageModelTask`'s.
    """

    family = registry.MASKED_LM
    settings: MaskedSettings

    def __init__(self, masker: Masker, *args: Any):
        super().__init__(*args)
        self.masker, self._epoch = masker, 0
        # How many tokens of each of the current rows are masked in the current epoch; -1: not counted yet.
        self._counted: tuple[Any, int, np.ndarray] | None = None

    def epoch(self, number: int) -> list[np.ndarray]:
        """Return the batches of an epoch, whose masks are used from now on."""
        self._epoch = number
        return super().epoch(number)

    def collate(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Return masked `input_ids`, and `labels`, -100 where nothing was masked, both [B, L]."""
        rows = self.data.rows
        masked = [self.masker(rows.ids_of(i), rows.words_of(i), self._epoch, int(i)) for i in indices]
        return self.data.collate(indices, masked)

    def predicted(self, indices: np.ndarray) -> np.ndarray:
        """Return how many tokens of each row are masked in this epoch, [B]."""
        rows = self.data.rows
        if self._counted is None or self._counted[0] is not rows or self._counted[1] != self._epoch:
            self._counted = (rows, self._epoch, np.full(len(rows), -1))
        counts = self._counted[2]
        for index in indices[counts[indices] < 0]:
            chosen, _ = self.masker.chosen(rows.words_of(index), self._epoch, int(index))
            counts[index] = np.count_nonzero(chosen)
        return counts[indices]

    def validate(self, model: torch.nn.Module, *, final: bool, distributed: bool) -> Validation:
        """Score loss, perplexity and accuracy of the same masked words each time."""
        settings = self.settings
        scores = masked_scores(
            model, self.tokenizer, self.texts, self.masker, length=settings.row_length,
            batch_tokens=settings.batch_tokens, distributed=distributed,
        )  # fmt: skip
        samples = fillings(model, self.tokenizer, self.texts, self.masker, settings.eval_samples, settings.row_length)
        return Validation({name: scores[name] for name in ("loss", "perplexity", "accuracy")}, samples)


def prepare_causal(context: RunContext) -> TaskComponents:
    """Return data, tokenizer, model and validation of a causal language model's run."""
    settings = context.settings
    texts = load_validation(settings)
    tokenizer = make_tokenizer(context, target_of).for_continuation()
    data = prepare_language_data(settings, tokenizer, False, context.pad_to_multiple_of, context.quiet)
    task = CausalTask(data, tokenizer, texts, settings, _loss_options(settings))
    return _components(context, VaswaniForCausalLM, task)


def prepare_masked(context: RunContext) -> TaskComponents:
    """Return data, tokenizer, model and validation of a masked language model's run."""
    settings = context.settings
    texts = load_validation(settings)
    tokenizer = make_tokenizer(context)
    masker = Masker.of(
        tokenizer, rate=settings.mask_rate, as_mask=settings.mask_as_mask, as_random=settings.mask_as_random,
        seed=settings.seed,
    )  # fmt: skip
    data = prepare_language_data(settings, tokenizer, True, context.pad_to_multiple_of, context.quiet)
    task = MaskedTask(masker, data, tokenizer, texts, settings, _loss_options(settings))
    return _components(context, VaswaniForMaskedLM, task)


def _loss_options(settings: LanguageModelSettings) -> dict[str, Any]:
    return {"label_smoothing": settings.label_smoothing, "skip_logits": True}


def _components(
    context: RunContext, model_class: type[transformers.PreTrainedModel], task: LanguageModelTask
) -> TaskComponents:
    tokenizer = task.tokenizer
    return TaskComponents(
        make_model=partial(make_model, model_class, tokenizer, context),
        make_task=lambda model: task,
        load_model=partial(load_model, model_class),
        processor=tokenizer,
        describe_data=task.data.to_dict,
        size=f"{task.data.describe()}, vocabulary {len(tokenizer):,}",
    )


def make_tokenizer(context: RunContext, side: Callable[[Any], Any] = source_of) -> VaswaniTokenizer:
    """Return the tokenizer of the run: its own, the given one (of two vocabularies `side`), or one trained here."""
    settings = context.settings
    return run_tokenizer(
        context,
        [settings.tokenizer, settings.init_from],
        # Always with the mask, so that masked and causal models can share a vocabulary.
        lambda size: VaswaniTokenizer.train(training_texts(settings), vocab_size=size, mask_token=MASK_TOKEN),
        side,
    )


def load_validation(settings: LanguageModelSettings) -> list[str]:
    """Return the validation documents; none where the recipe names no such text."""
    if not settings.validation_text:
        return []
    text = placed(settings.data_dir, settings.validation_text, text_files=True)
    options = {"split": settings.validation_split, "config": settings.dataset_config, "field": settings.text_field}
    return read_documents(TextCorpus(text, documents=settings.documents, empty=settings.empty_lines, **options))


def make_model(
    model_class: type[transformers.PreTrainedModel], tokenizer: VaswaniTokenizer, context: RunContext
) -> transformers.PreTrainedModel:
    """Return a model from the preset, or from a folder; raise ValueError where the vocabulary does not fit."""
    settings: LanguageModelSettings = context.settings
    config_class, weights = model_class.config_class, context.weights
    if weights:
        changes = {} if weights != settings.init_from else settings.model
        model = load_model(model_class, weights, dtype=torch.float32, **changes)
    else:
        config = config_class.from_preset(settings.preset, **model_fields(settings, tokenizer))
        model = build_model(model_class, config, training_copies(settings))
        scale_attention(model, settings.attention_init_gain)
    check_vocabulary(model, tokenizer, str(weights or "the model of this recipe"))
    _check_positions(model.config, settings)
    return configure_model(model, settings)


def load_model(model_class: type[transformers.PreTrainedModel], folder: str | Path, **options: Any) -> Any:
    """Return the model that a folder holds; raise CheckpointError where it is damaged or of another family."""
    found = read_model_type(folder)
    wanted = model_class.config_class.model_type
    if found != wanted:
        raise CheckpointError(
            f"'{folder}' holds a model of type {found!r}, not {wanted!r}: name a folder that this command's models "
            "were saved in."
        )
    return load_pretrained(model_class, folder, **options)


def _check_positions(config: Any, settings: LanguageModelSettings) -> None:
    learned = getattr(config, "position_embedding", "sinusoidal") == "learned"
    if learned and config.max_position_embeddings < settings.row_length:
        raise SettingsError(
            f"row_length ({settings.row_length}) is beyond the model's {config.max_position_embeddings} learned "
            "positions: lower it, or raise model.max_position_embeddings."
        )
