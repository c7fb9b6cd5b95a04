"""Translation: pairs of texts, the paper's loss, and validation by loss, perplexity, BLEU and chrF.

recipe -> prepare -> TaskComponents -> engine
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
import transformers

from vaswani_tx import VaswaniForConditionalGeneration, VaswaniTokenizer
from vaswani_tx.loading import check_vocabulary, explained
from vaswani_tx.loss_vaswani import uniform_over_others
from vaswani_tx.token_texts_vaswani import source_of, target_of
from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.data.translation_data import TrainingData, prepare_training_data
from vaswani_tx.training.engine.run import RunContext, configure_model
from vaswani_tx.training.engine.task import BatchSize, Scores, TaskComponents, Validation
from vaswani_tx.training.inference.translation import perplexity, translate
from vaswani_tx.training.metrics import registry
from vaswani_tx.training.metrics.scoring import score_translations
from vaswani_tx.training.models.architectures import ARCHITECTURES
from vaswani_tx.training.models.initialization import scale_attention
from vaswani_tx.training.models.loading import check_model, training_copies
from vaswani_tx.training.tasks.measured import MeasuredTask, pair_fingerprint
from vaswani_tx.training.tasks.objectives import Objective, check_teacher, make_objective
from vaswani_tx.training.tasks.tokenizers import describe_vocabulary, model_fields
from vaswani_tx.training.tasks.validation_sets import load_validation, losses
from vaswani_tx.training.tasks.vocabularies import (
    adopt_vocabulary,
    check_embeddings,
    check_same_vocabulary,
    make_tokenizer,
)

SAMPLES = 8  # translations kept for reading


class TranslationTask(MeasuredTask):
    """Pairs of a source and a target text; the loss counts target tokens.

    Args:
        data: tokenised pairs and the plan of their batches.
        validation: sources and targets to validate on, or None.
        settings: the recipe.
        objective: what the loss has beside the cross entropy, or None; attached to the model that is trained.
    """

    family = registry.TEXT

    def __init__(
        self,
        data: TrainingData,
        tokenizer: VaswaniTokenizer,
        validation: tuple[Sequence[str], Sequence[str]] | None,
        settings: Any,
        forward_options: dict[str, Any],
        objective: Objective | None = None,
    ):
        super().__init__(data.plan, forward_options)
        self.objective = objective
        if objective is not None:
            self.forward_options, self.terms = forward_options | {"objective": objective}, objective.terms
        self.data, self.tokenizer, self.validation, self.settings = data, tokenizer, validation, settings

    @property
    def validates(self) -> bool:
        """Return whether the recipe names a validation set."""
        return self.validation is not None

    def collate(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Return `input_ids`, `attention_mask` [B, S] and `labels` [B, T] of some pairs."""
        return self.data.collate(indices)

    def size(self, indices: np.ndarray) -> BatchSize:
        """Return the target tokens, and the tokens and cells of both sides."""
        pairs = self.data.pairs
        sides = pairs.source_lengths[indices], pairs.target_lengths[indices]
        return BatchSize.of_lengths(int(sides[1].sum()), *sides)

    def locate(self, index: int) -> str:
        """Return the file and line of a pair."""
        return self.data.pairs.locate(index)

    def fingerprint(self) -> dict[str, int]:
        """Return the numbers of pairs and of their tokens, and one of the teacher's weights."""
        pairs = self.data.fixed_pairs
        numbers = pair_fingerprint(len(pairs), pairs.source_lengths.sum(), pairs.target_lengths.sum())
        return numbers | (self.objective.fingerprint if self.objective else {})

    def score_options(self) -> dict[str, Any]:
        """Return further options of `score_translations`."""
        return {}

    def decoding_options(self) -> dict[str, Any]:
        """Return further options of `translate` for the validation sentences."""
        return {}

    def validate(self, model: torch.nn.Module, *, final: bool, distributed: bool) -> Validation:
        """Score the references' loss (nats a token, not smoothed), and fresh translations of some sentences.

        `eval_sentences` of the recipe says how many are translated, spread evenly over the set.
        """
        start = time.monotonic()
        sources, targets = self.validation
        work = {"batch_tokens": 4096, "distributed": distributed}
        parts = self.parts()
        measured = [perplexity(model, self.tokenizer, sources[a:b], targets[a:b], **work) for _, a, b in parts]
        scores: Scores = losses(measured)
        samples: list[dict[str, Any]] = []
        hypotheses: list[str] = []
        chosen = spread(len(sources), self.settings.eval_sentences)
        if chosen:
            beam = self.settings.final_beam if final else self.settings.eval_beam
            hypotheses = translate(
                model, self.tokenizer, [sources[i] for i in chosen], num_beams=beam, do_sample=False, **work,
                **self.decoding_options(),
            )  # fmt: skip
            samples = [
                {"source": sources[i], "reference": targets[i], "hypothesis": text}
                for i, text in zip(chosen[:SAMPLES], hypotheses, strict=False)
            ]
            scores |= self.score_outputs(chosen, hypotheses)
            scores |= {"beam": beam, "sentences": len(chosen)}
        if len(parts) > 1:
            scores["sets"] = {}
            for (name, start, stop), quality in zip(parts, measured, strict=True):
                own = [(i, text) for i, text in zip(chosen, hypotheses, strict=True) if start <= i < stop]
                found = self.score_outputs(*zip(*own, strict=True)) if own else {}
                scores["sets"][name] = losses([quality]) | {k: v for k, v in found.items() if k in self.metrics}
        scores["validation_seconds"] = round(time.monotonic() - start, 3)
        return Validation(scores, samples)

    def parts(self) -> list[tuple[str, int, int]]:
        """Return the name of each validation set, and where its pairs begin and end."""
        return getattr(self.validation, "parts", None) or [("", 0, len(self.validation[0]))]

    def describe(self, scores: Scores) -> str:
        """Return scores as one line; those of several validation sets after them."""
        sets = [f"{name}: {super(TranslationTask, self).describe(own)}" for name, own in scores.get("sets", {}).items()]
        return "; ".join([super().describe(scores), *sets])

    def score_outputs(self, chosen: Sequence[int], hypotheses: Sequence[str]) -> Scores:
        """Return the metrics of the recipe for what the model wrote for some validation sentences, with signatures."""
        names, references = self.settings.metrics, [self.validation[1][i] for i in chosen]
        found = score_translations(hypotheses, references, metrics=names, **self.score_options())
        scores = {name: found[name] for name in names}
        return scores | {f"{name}_signature": found[f"{name}_signature"] for name in names}


def spread(total: int, count: int | None) -> list[int]:
    """Return `count` indices spread evenly over `total`; None: all."""
    count = total if count is None else min(count, total)
    return [position * total // count for position in range(count)]


def prepare(context: RunContext) -> TaskComponents:
    """Return data, tokenizer, model and validation of a translation run."""
    return components_of(context, TranslationTask, load_validation(context.settings))


def components_of(
    context: RunContext, task_class: Callable[..., TranslationTask], validation: tuple[list[str], list[str]] | None
) -> TaskComponents:
    """Return the components of a run that learns to write a target text from a source text."""
    settings = context.settings
    if settings.teacher:
        check_teacher(settings.teacher)
    tokenizer = make_tokenizer(context)
    objective = make_objective(settings, tokenizer)
    data = prepare_training_data(settings, tokenizer, context.pad_to_multiple_of, quiet=context.quiet)
    stacks = " and ".join(filter(None, (settings.encoder_from, settings.decoder_from)))

    def make_with_objective() -> transformers.PreTrainedModel:
        model = make_model(settings, tokenizer, context.weights)
        if objective is not None:
            objective.attach(model)
        return model

    def make_task(model: transformers.PreTrainedModel) -> TranslationTask:
        return task_class(data, tokenizer, validation, settings, loss_options(settings, model), objective)

    return TaskComponents(
        make_model=make_with_objective,
        make_task=make_task,
        load_model=ARCHITECTURES[settings.architecture].load,
        processor=tokenizer,
        describe_data=data.to_dict,
        size=f"{data.describe()}, {describe_vocabulary(tokenizer)}",
        origin=stacks or None,
    )


def loss_options(settings: TranslationSettings, model: transformers.PreTrainedModel) -> dict[str, Any]:
    """Return what the forward pass needs for the loss of section 5.4."""
    smoothing = settings.label_smoothing
    if settings.smoothing_over == "others":
        smoothing = uniform_over_others(smoothing, model.config.vocab_size)
    return {"label_smoothing": smoothing, "skip_logits": True, "use_cache": False}


def make_model(
    settings: TranslationSettings, tokenizer: VaswaniTokenizer, weights: str | Path | None
) -> transformers.PreTrainedModel:
    """Return a model from the preset or the folder `weights`; raise ValueError where the vocabulary does not fit."""
    architecture = ARCHITECTURES[settings.architecture]
    if weights:
        changes = {} if weights != settings.init_from else settings.model
        model = architecture.load(weights, dtype=torch.float32, **changes)
        if weights == settings.init_from:
            adopt_vocabulary(model, tokenizer, settings)
    elif settings.encoder_from or settings.decoder_from:
        model = model_of_stacks(settings, tokenizer)
    else:
        model = architecture.make(settings.preset, model_fields(settings, tokenizer), training_copies(settings))
        scale_attention(model, settings.attention_init_gain)
    name = str(weights or "the model of this recipe")
    check_vocabulary(model, tokenizer, name)
    check_embeddings(model, tokenizer, name)
    return configure_model(model, settings)


def model_of_stacks(settings: TranslationSettings, tokenizer: VaswaniTokenizer) -> transformers.PreTrainedModel:
    """Return a model of pre-trained stacks; raise ValueError where they do not fit together, or to the vocabulary."""
    stacks = {"source": settings.encoder_from, "target": settings.decoder_from}
    names = {side: name for side, name in stacks.items() if name}
    for side, name in names.items():
        check_model(name)
        check_same_vocabulary(tokenizer, name, (side,))
    fields: dict[str, Any] = {"embeddings": settings.embeddings_from}
    if settings.source_vocab_size is not None:
        fields = {"embeddings": "separate"}
        # A side without a pre-trained stack brings no embedding whose size could be taken over.
        sizes = {"source": ("source_vocab_size", source_of), "target": ("vocab_size", target_of)}
        fields |= {key: len(of_side(tokenizer)) for side, (key, of_side) in sizes.items() if side not in names}
    build = VaswaniForConditionalGeneration.from_encoder_decoder_pretrained
    first = next(iter(names.values()))
    return explained(first, "model", None, build, *stacks.values(), **(fields | settings.model_fields)).train()
