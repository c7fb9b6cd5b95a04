"""The model classes and options that `tests/library/test_model_contract.py` checks, and how a small model is made.

Shapes: B batch, L length (tokens, or the class token and the patches of an image), V vocabulary, C classes.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForImageClassification,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

import vaswani_tx
from tests.helpers.pairwise import pairwise
from vaswani_tx import VaswaniConfig, VaswaniDecoderConfig, VaswaniEncoderConfig, VaswaniVisionConfig

VOCABULARY, CLASSES = 50, 3
SIZES = {"d_model": 16, "d_ff": 24, "num_heads": 2, "dropout": 0.0}
TEXT_SIZES = SIZES | {"vocab_size": VOCABULARY}
LAYERS = {
    VaswaniConfig: TEXT_SIZES | {"encoder_layers": 2, "decoder_layers": 2},
    VaswaniEncoderConfig: TEXT_SIZES | {"num_hidden_layers": 2, "num_labels": CLASSES},
    VaswaniDecoderConfig: TEXT_SIZES | {"num_hidden_layers": 2},
    VaswaniVisionConfig: SIZES
    | {"num_hidden_layers": 2, "num_labels": CLASSES, "image_size": [8, 12], "patch_size": [2, 3], "num_channels": 1},
}
# Each option: a name for the ids of tests -> the fields of the configuration that it sets. The first is the paper's.
LAYER_OPTIONS = {
    "norm": {"post": {}, "pre": {"norm_order": "pre"}},
    "last": {"plain": {}, "normed": {"final_layer_norm": True}},
    "bias": {"": {}, "bias": {"attention_bias": True}},
    "widths": {"": {}, "widths": {"d_k": 6, "d_v": 10, "num_heads": 3}},
    "activation": {"relu": {}, "gelu": {"activation_function": "gelu_new"}},
}
TEXT_OPTIONS = LAYER_OPTIONS | {
    "positions": {"": {}, "learned": {"position_embedding": "learned", "max_position_embeddings": 24}},
    "projection": {"": {}, "projected": {"lm_head_bias": True}},
    "tied": {"": {}, "untied": {"tie_word_embeddings": False}},
    "scaled": {"": {}, "unscaled": {"scale_embedding": False}},
}
# Of encoder-decoders alone, for which a few models have it (see `variants`).
BOTH_OPTIONS = TEXT_OPTIONS | {"vocabularies": {"": {}, "separate": {"source_vocab_size": 57}}}
IMAGE_OPTIONS = LAYER_OPTIONS | {
    "positions": {
        "": {}, "2d": {"position_embedding": "sinusoidal_2d"}, "learned": {"position_embedding": "learned"},
    },
}  # fmt: skip
EXACT = {"atol": 1e-12, "rtol": 0}


def _random(*shape, seed=0, low=3, high=VOCABULARY) -> torch.Tensor:
    return torch.randint(low, high, shape, generator=torch.Generator().manual_seed(seed))


def _tags(ids: torch.Tensor, high: int = CLASSES) -> torch.Tensor:
    """A label for each token, some of which do not count, more in one row than in another."""
    tags = _random(*ids.shape, seed=1, low=0, high=high)
    counted = _random(*ids.shape, seed=2, low=0, high=4) > torch.arange(len(ids))[:, None] % 3
    counted[:, 0] = True
    return tags.masked_fill(~counted, -100)


@dataclass(frozen=True)
class Case:
    """One class: how it is built, what it takes for labels, and which of its outputs are compared.

    Args:
        labels: input ids [B, L] -> the keywords that make it give a loss.
        outputs: names of the tensors [B, L, ...] or [B, C] that are its answer.
        fields: fields of the configuration that it needs beside the sizes.
        counted: labels -> how many of them count, the divisor of the loss.
    """

    name: str
    config_class: type
    auto_class: type
    labels: Any = None
    outputs: tuple[str, ...] = ("logits",)
    fields: dict[str, Any] = field(default_factory=dict)
    counted: Any = lambda labels: (labels["labels"] != -100).sum()

    @property
    def model_class(self) -> type:
        return getattr(vaswani_tx, self.name)

    @property
    def per_token(self) -> bool:
        return "Sequence" not in self.name and "Image" not in self.name

    @property
    def takes_images(self) -> bool:
        return self.config_class is VaswaniVisionConfig

    @property
    def causal(self) -> bool:
        """Whether the stack that gives the answer sees only earlier positions."""
        return self.config_class in (VaswaniConfig, VaswaniDecoderConfig)

    @property
    def options(self) -> dict[str, dict[str, dict[str, Any]]]:
        return IMAGE_OPTIONS if self.takes_images else BOTH_OPTIONS if self.crosses else TEXT_OPTIONS

    @property
    def crosses(self) -> bool:
        return self.config_class is VaswaniConfig

    def __str__(self) -> str:
        kind = self.fields.get("problem_type", "")
        return self.name.removeprefix("Vaswani") + (f"-{kind}" if kind else "")


def _answers(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    positions = _random(2, len(ids), seed=3, low=0, high=ids.shape[1])
    return {"start_positions": positions[0], "end_positions": positions[1]}


PROBLEMS = {
    "single_label_classification": lambda rows: _random(rows, low=0, high=CLASSES),
    "multi_label_classification": lambda rows: _random(rows, CLASSES, low=0, high=2).double(),
    "regression": lambda rows: _random(rows, CLASSES).double(),
}


def _classifiers(name: str, config_class: type, auto_class: type) -> list[Case]:
    """Return a case for each type of problem."""
    return [
        Case(
            name,
            config_class,
            auto_class,
            labels=lambda ids, labels=labels: {"labels": labels(len(ids))},
            fields={"problem_type": kind},
            counted=lambda given: given["labels"].numel(),
        )
        for kind, labels in PROBLEMS.items()
    ]


CASES = [
    Case("VaswaniEncoderModel", VaswaniEncoderConfig, AutoModel, outputs=("last_hidden_state",)),
    Case(
        "VaswaniForMaskedLM", VaswaniEncoderConfig, AutoModelForMaskedLM, lambda ids: {"labels": _tags(ids, VOCABULARY)}
    ),
    *_classifiers("VaswaniForSequenceClassification", VaswaniEncoderConfig, AutoModelForSequenceClassification),
    Case(
        "VaswaniForTokenClassification",
        VaswaniEncoderConfig,
        AutoModelForTokenClassification,
        lambda ids: {"labels": _tags(ids)},
    ),
    Case(
        "VaswaniForQuestionAnswering",
        VaswaniEncoderConfig,
        AutoModelForQuestionAnswering,
        _answers,
        outputs=("start_logits", "end_logits"),
        counted=lambda given: given["start_positions"].numel(),
    ),
    Case("VaswaniDecoderModel", VaswaniDecoderConfig, AutoModel, outputs=("last_hidden_state",)),
    Case(
        "VaswaniForCausalLM",
        VaswaniDecoderConfig,
        AutoModelForCausalLM,
        lambda ids: {"labels": ids.masked_fill(_tags(ids) == -100, -100)},
        counted=lambda given: (given["labels"][:, 1:] != -100).sum(),
    ),
    Case("VaswaniModel", VaswaniConfig, AutoModel, outputs=("last_hidden_state", "encoder_last_hidden_state")),
    Case(
        "VaswaniForConditionalGeneration",
        VaswaniConfig,
        AutoModelForSeq2SeqLM,
        lambda ids: {"labels": _tags(ids, VOCABULARY)},
    ),
    Case("VaswaniVisionModel", VaswaniVisionConfig, AutoModel, outputs=("last_hidden_state",)),
    *_classifiers("VaswaniForImageClassification", VaswaniVisionConfig, AutoModelForImageClassification),
]
TEXT_CASES = [case for case in CASES if not case.takes_images]
BY_NAME = {case.name: case for case in CASES}
WITH_LOSS = [case for case in CASES if case.labels]
WITH_HEAD = [case for case in WITH_LOSS if case.name.endswith(("LM", "Generation"))]


@dataclass(frozen=True)
class Variant:
    """A model to check: its case, the name of what is chosen of each option, and other factors of the test."""

    case: Case
    chosen: dict[str, str]
    factors: dict[str, Any]

    def __getattr__(self, name: str) -> Any:
        try:
            return self.__dict__["factors"][name]
        except KeyError:
            raise AttributeError(name) from None

    def __str__(self) -> str:
        words = [word for word in self.chosen.values() if word]
        return "-".join([str(self.case), *words, *(str(value) for value in self.factors.values())])

    def make(self, **fields):
        """Build the small model, see `make`."""
        settings: dict[str, Any] = {}
        for option, word in self.chosen.items():
            settings |= self.case.options[option][word]
        return make(self.case, **settings, **fields)


def variants(cases: Sequence[Case], **factors: Sequence[Any]) -> pytest.MarkDecorator:
    """Parametrize `variant` so that every two values of the classes, options and factors meet in at least one test.

    Of each encoder-decoder one model with tied and one with untied matrices has separate vocabularies besides.
    """
    found = []
    for options, takes_images in ((TEXT_OPTIONS, False), (IMAGE_OPTIONS, True)):
        own = [case for case in cases if case.takes_images == takes_images]
        choices = {name: list(values) for name, values in options.items()}
        for row in pairwise({"case": own, **choices, **factors}) if own else []:
            chosen = {name: row[name] for name in choices}
            found.append(Variant(row["case"], chosen, {name: row[name] for name in factors}))
    of_two = {(v.case.name, v.chosen["tied"]): v for v in found if v.case.crosses}
    found += [Variant(v.case, v.chosen | {"vocabularies": "separate"}, v.factors) for v in of_two.values()]
    return pytest.mark.parametrize("variant", sorted(found, key=lambda v: cases.index(v.case)), ids=str)


def make(case: Case, **fields):
    """Build a small model of random weights, biases and gains too, in evaluation mode."""
    torch.manual_seed(3)
    settings = {**LAYERS[case.config_class], **case.fields, **fields}
    model = case.model_class(case.config_class(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def inputs_of(case: Case, batch: int = 3, length: int = 8, seed: int = 4) -> dict[str, torch.Tensor]:
    """Return input ids [B, L] and what an encoder-decoder needs beside them, or images, whatever the length."""
    if case.takes_images:
        return {"pixel_values": torch.randn(batch, 1, 8, 12, generator=torch.Generator().manual_seed(seed))}
    inputs = {"input_ids": _random(batch, length, seed=seed)}
    if case.crosses:
        inputs["decoder_input_ids"] = _random(batch, 5, seed=seed + 1)
    return inputs


def labels_of(case: Case, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the labels that suit the inputs."""
    name = "pixel_values" if case.takes_images else "decoder_input_ids" if case.crosses else "input_ids"
    return case.labels(inputs[name])


def answer(case: Case, output) -> list[torch.Tensor]:
    return [output[name] for name in case.outputs]


def assert_equal(found, expected, **tolerance):
    for one, other in zip(found, expected, strict=True):
        torch.testing.assert_close(one, other, **tolerance)


def gradients(model, loss: torch.Tensor) -> dict[str, torch.Tensor]:
    model.zero_grad()
    loss.backward()
    return {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}


def assert_same_gradients(found, expected, **tolerance):
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        torch.testing.assert_close(found[name], gradient, msg=lambda text, name=name: f"{name}: {text}", **tolerance)


def loss_of(case: Case, model, inputs, **kwargs) -> torch.Tensor:
    """The model's own loss, or a sum that every entry of a bare model's answer is in."""
    if case.labels:
        return model(**inputs, **labels_of(case, inputs), **kwargs).loss
    return sum((entry * torch.arange(entry.shape[-1])).sum() for entry in answer(case, model(**inputs, **kwargs)))


def pad(inputs: dict[str, torch.Tensor], side: str, amount: int = 3, filler: int = 7) -> dict[str, torch.Tensor]:
    """Add padding to `input_ids` [B, L], with a mask; what is under padding is a token like any other.

    Of images, whose patches are always all there, the last `amount` patches are masked.
    """
    if "pixel_values" in inputs:
        mask = torch.ones(len(inputs["pixel_values"]), 17, dtype=torch.long)
        mask[:, -amount:] = 0
        return {**inputs, "attention_mask": mask}
    ids = inputs["input_ids"]
    padding, mask = torch.full((len(ids), amount), filler), torch.ones_like(ids)
    parts, masks = [padding, ids], [torch.zeros_like(padding), mask]
    if side == "right":
        parts, masks = parts[::-1], masks[::-1]
    return {**inputs, "input_ids": torch.cat(parts, dim=1), "attention_mask": torch.cat(masks, dim=1)}
