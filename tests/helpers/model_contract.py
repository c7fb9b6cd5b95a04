"""What every model class owes its users, written once: `ModelContract` holds the checks, `CASES` the classes.

Shapes: B batch, L length, V vocabulary, C classes.
"""

import copy
import json
from dataclasses import dataclass, field
from typing import Any

import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoModelForMaskedLM,
    AutoModelForQuestionAnswering,
    AutoModelForSeq2SeqLM,
    AutoModelForSequenceClassification,
    AutoModelForTokenClassification,
)

import vaswani_tx
from vaswani_tx import VaswaniConfig, VaswaniDecoderConfig, VaswaniEncoderConfig

VOCABULARY, CLASSES = 50, 3
SIZES = {"vocab_size": VOCABULARY, "d_model": 16, "d_ff": 24, "num_heads": 2, "dropout": 0.0}
LAYERS = {
    VaswaniConfig: {"encoder_layers": 2, "decoder_layers": 2},
    VaswaniEncoderConfig: {"num_hidden_layers": 2, "num_labels": CLASSES},
    VaswaniDecoderConfig: {"num_hidden_layers": 2},
}
VARIANTS = {
    "paper": {},
    "pre": {"norm_order": "pre", "final_layer_norm": True, "attention_bias": True},
    "learned": {"position_embedding": "learned", "max_position_embeddings": 24, "lm_head_bias": True},
    "widths": {"d_k": 6, "d_v": 10, "num_heads": 3, "activation_function": "gelu_new"},
    "untied": {"tie_word_embeddings": False, "scale_embedding": False},
}
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
        return "Sequence" not in self.name

    @property
    def crosses(self) -> bool:
        return self.config_class is VaswaniConfig

    def __str__(self) -> str:
        kind = self.fields.get("problem_type", "")
        return self.name.removeprefix("Vaswani") + (f"-{kind}" if kind else "")


def _answers(ids: torch.Tensor) -> dict[str, torch.Tensor]:
    positions = _random(2, len(ids), seed=3, low=0, high=ids.shape[1])
    return {"start_positions": positions[0], "end_positions": positions[1]}


def _classifier(kind: str, labels) -> Case:
    return Case(
        "VaswaniForSequenceClassification",
        VaswaniEncoderConfig,
        AutoModelForSequenceClassification,
        labels=lambda ids: {"labels": labels(len(ids))},
        fields={"problem_type": kind},
        counted=lambda given: given["labels"].numel(),
    )


CASES = [
    Case("VaswaniEncoderModel", VaswaniEncoderConfig, AutoModel, outputs=("last_hidden_state",)),
    Case(
        "VaswaniForMaskedLM", VaswaniEncoderConfig, AutoModelForMaskedLM, lambda ids: {"labels": _tags(ids, VOCABULARY)}
    ),
    _classifier("single_label_classification", lambda rows: _random(rows, low=0, high=CLASSES)),
    _classifier("multi_label_classification", lambda rows: _random(rows, CLASSES, low=0, high=2).double()),
    _classifier("regression", lambda rows: _random(rows, CLASSES).double()),
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
]
WITH_LOSS = [case for case in CASES if case.labels]
WITH_HEAD = [case for case in WITH_LOSS if case.name.endswith(("LM", "Generation"))]


def make(case: Case, variant: str = "paper", **fields):
    """Build a small model of random weights, biases and gains too, in evaluation mode."""
    torch.manual_seed(3)
    settings = {**SIZES, **LAYERS[case.config_class], **case.fields, **VARIANTS[variant], **fields}
    model = case.model_class(case.config_class(**settings)).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    return model


def inputs_of(case: Case, batch: int = 3, length: int = 8, seed: int = 4) -> dict[str, torch.Tensor]:
    """Give input ids [B, L], and what an encoder-decoder needs beside them."""
    inputs = {"input_ids": _random(batch, length, seed=seed)}
    if case.crosses:
        inputs["decoder_input_ids"] = _random(batch, 5, seed=seed + 1)
    return inputs


def labels_of(case: Case, inputs: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return case.labels(inputs["decoder_input_ids" if case.crosses else "input_ids"])


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


def pad(inputs: dict[str, torch.Tensor], side: str, amount: int = 3) -> dict[str, torch.Tensor]:
    """Add padding to `input_ids` [B, L], with a mask; what stands under padding is a token like any other."""
    ids = inputs["input_ids"]
    filler, mask = torch.full((len(ids), amount), 7), torch.ones_like(ids)
    parts, masks = [filler, ids], [torch.zeros_like(filler), mask]
    if side == "right":
        parts, masks = parts[::-1], masks[::-1]
    return {**inputs, "input_ids": torch.cat(parts, dim=1), "attention_mask": torch.cat(masks, dim=1)}


class ModelContract:
    """The checks; a subclass says with `pytest.mark.parametrize("case", ...)` which classes it runs them on."""

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_saved_folder_loads_through_its_auto_class(self, case, variant, tmp_path):
        model, inputs = make(case, variant), inputs_of(case)
        expected = answer(case, model(**inputs))
        model.save_pretrained(tmp_path)
        assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())
        loaded, report = case.auto_class.from_pretrained(tmp_path, output_loading_info=True)
        assert type(loaded) is case.model_class and type(loaded.config) is case.config_class
        assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
        assert_equal(answer(case, loaded(**inputs)), expected, atol=1e-6, rtol=0)
        bare, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
        assert not report["missing_keys"]
        base = getattr(model, model.base_model_prefix, model)
        torch.testing.assert_close(bare(**inputs).last_hidden_state, base(**inputs).last_hidden_state)

    @pytest.mark.parametrize("reentrant", [True, False])
    def test_gradient_checkpointing_gives_the_same_gradients(self, case, reentrant):
        model, inputs = make(case, dropout=0.2).double().train(), inputs_of(case)
        found = []
        for checkpointing in (False, True):
            if checkpointing:
                # the name changed with transformers 5.2x
                enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
                enable({"use_reentrant": reentrant})
            torch.manual_seed(0)
            found.append(gradients(model, loss_of(case, model, inputs)))
        assert_same_gradients(found[1], found[0], **EXACT)

    @pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    def test_half_types_stay_finite_even_in_a_row_of_padding(self, case, dtype, implementation):
        model, inputs = make(case).to(dtype), pad(inputs_of(case), "right")
        model.set_attn_implementation(implementation)
        inputs["attention_mask"][2] = 0
        for entry in answer(case, model(**inputs)):
            assert entry.dtype == dtype and entry.isfinite().all()
        for name, gradient in gradients(model, loss_of(case, model, inputs)).items():
            assert gradient.isfinite().all(), name

    def test_half_types_are_near_float32(self, case):
        model, inputs = make(case), inputs_of(case, length=300)  # longer than bfloat16 counts
        expected = answer(case, model(**inputs))
        for dtype, tolerance in ((torch.float16, 0.01), (torch.bfloat16, 0.1)):
            found = answer(case, model.to(dtype)(**inputs))
            for one, other in zip(found, expected, strict=True):
                assert (one - other).abs().mean() < tolerance * other.abs().mean()

    def test_compiles_into_one_graph(self, case):
        torch._dynamo.reset()
        layers = {name: 1 for name in LAYERS[case.config_class] if name.endswith("layers")}
        # the type of problem is then found out inside of the graph
        kind = {"problem_type": None} if case.fields.get("problem_type") != "regression" else {}
        model, inputs = make(case, "learned", **layers, **kind).double(), pad(inputs_of(case), "left")
        twin = copy.deepcopy(model)
        compiled = torch.compile(model, fullgraph=True, backend="eager")
        labels = labels_of(case, inputs) if case.labels else {}
        found, expected = compiled(**inputs, **labels), twin(**inputs, **labels)
        assert_equal(answer(case, found), answer(case, expected), **EXACT)
        assert model.config.problem_type == twin.config.problem_type
        if labels:
            assert_same_gradients(gradients(model, found.loss), gradients(twin, expected.loss), **EXACT)

    @pytest.mark.parametrize("variant", VARIANTS)
    @pytest.mark.parametrize("side", ["left", "right"])
    def test_padding_on_either_side_changes_nothing(self, case, variant, side):
        model, inputs = make(case, variant).double(), inputs_of(case)
        expected = answer(case, model(**inputs))
        padded = pad(inputs, side)
        tokens = padded["attention_mask"].bool()
        for implementation in ("eager", "sdpa"):
            model.set_attn_implementation(implementation)
            for one, other in zip(answer(case, model(**padded)), expected, strict=True):
                if case.per_token and one.shape[1] == tokens.shape[1]:
                    one = one[tokens].view_as(other)
                torch.testing.assert_close(one, other, **EXACT)

    def test_rows_of_different_length_equal_each_row_alone(self, case):
        model, lengths = make(case).double(), (8, 3, 6)
        rows = [inputs_of(case, batch=1, length=length, seed=length) for length in lengths]
        batch = {name: torch.zeros(3, 8, dtype=torch.long) for name in ("input_ids", "attention_mask")}
        for number, (row, length, start) in enumerate(zip(rows, lengths, (0, 5, 1), strict=True)):
            batch["input_ids"][number, start : start + length] = row["input_ids"][0]
            batch["attention_mask"][number, start : start + length] = 1
        if case.crosses:
            batch["decoder_input_ids"] = torch.cat([row["decoder_input_ids"] for row in rows])
        together = answer(case, model(**batch))
        for number, row in enumerate(rows):
            tokens = batch["attention_mask"][number].bool()
            for one, other in zip(together, answer(case, model(**row)), strict=True):
                one = one[number]
                if case.per_token and len(one) == 8:
                    one = one[tokens]
                torch.testing.assert_close(one, other[0], **EXACT)

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_masks_of_four_dimensions_equal_that_of_two(self, case, variant):
        model, inputs = make(case, variant).double(), pad(inputs_of(case), "right")
        expected = answer(case, model(**inputs))
        if case.crosses:  # one mask cannot serve both stacks
            two = inputs["attention_mask"]
            inputs["decoder_attention_mask"] = torch.ones(5, 5, dtype=torch.bool).tril().expand(3, 1, 5, 5)
            inputs["attention_mask"] = two
        else:
            seen = inputs["attention_mask"].bool()[:, None, None, :].expand(-1, 1, 11, -1)
            inputs["attention_mask"] = seen.tril() if case.config_class is VaswaniDecoderConfig else seen
        name = "decoder_attention_mask" if case.crosses else "attention_mask"
        additive = torch.zeros(inputs[name].shape, dtype=torch.double)
        additive.masked_fill_(~inputs[name], torch.finfo(torch.double).min)
        for implementation in ("eager", "sdpa"):
            model.set_attn_implementation(implementation)
            for mask in (inputs[name], additive):
                for one, other in zip(answer(case, model(**{**inputs, name: mask})), expected, strict=True):
                    if case.per_token and not case.crosses:
                        one, other = one[:, :8], other[:, :8]
                    torch.testing.assert_close(one, other, **EXACT)

    def test_embeddings_stand_for_tokens(self, case):
        model, inputs = make(case), pad(inputs_of(case), "left")
        expected = answer(case, model(**inputs))
        inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids"))
        if case.crosses:
            inputs["decoder_inputs_embeds"] = model.get_input_embeddings()(inputs.pop("decoder_input_ids"))
        assert_equal(answer(case, model(**inputs)), expected)
        with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
            model(**inputs, input_ids=torch.ones(3, 11, dtype=torch.long))

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_positions_are_those_counted_unless_given(self, case, variant):
        model, inputs = make(case, variant).double(), inputs_of(case)
        expected = answer(case, model(**inputs))
        for positions in (torch.arange(8)[None], torch.arange(8).expand(3, 8)):
            assert_equal(answer(case, model(**inputs, position_ids=positions)), expected, **EXACT)
        shifted = answer(case, model(**inputs, position_ids=torch.arange(8).expand(3, 8) + 2))
        assert any((one - other).abs().max() > 1e-3 for one, other in zip(shifted, expected, strict=True))

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_attention_implementations_agree(self, case, variant):
        model, inputs = make(case, variant).double(), pad(inputs_of(case), "right")
        found = []
        for implementation in ("eager", "sdpa"):
            model.set_attn_implementation(implementation)
            found.append(gradients(model, loss_of(case, model, inputs)))
        assert_same_gradients(found[1], found[0], **EXACT)

    @pytest.mark.parametrize("implementation", ["eager", "sdpa"])
    def test_what_is_recorded(self, case, implementation):
        model, inputs = make(case, "widths"), pad(inputs_of(case), "right")
        model.set_attn_implementation(implementation)
        plain = answer(case, model(**inputs))
        flags = ("attentions", "hidden_states", "queries", "keys")
        output = model(**inputs, **{f"output_{name}": True for name in flags})
        assert_equal(answer(case, output), plain)
        prefix = "encoder_" if case.crosses else ""
        assert [entry.shape for entry in output[prefix + "hidden_states"]] == [(3, 11, 16)] * 3
        for weights, queries, keys in zip(
            *(output[prefix + name] for name in ("attentions", "queries", "keys")), strict=True
        ):
            assert weights.shape == (3, 3, 11, 11) and queries.shape == keys.shape == (3, 11, 18)
            torch.testing.assert_close(weights.sum(-1), torch.ones(3, 3, 11))
            assert weights[..., 8:].abs().max() == 0
            scores = torch.einsum("btk,bsk->bts", queries[..., :6], keys[..., :6]) / 6**0.5  # the first head
            allowed = torch.arange(11) < 8
            if case.config_class is VaswaniDecoderConfig:
                allowed = allowed & torch.ones(11, 11, dtype=torch.bool).tril()
            expected = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
            torch.testing.assert_close(weights[:, 0], expected)

    def test_tuples_where_they_are_asked_for(self, case):
        model, inputs = make(case), inputs_of(case)
        expected = model(**inputs, output_hidden_states=True)
        found = model(**inputs, output_hidden_states=True, return_dict=False)
        assert isinstance(found, tuple) and len(found) == len(expected.to_tuple())
        torch.testing.assert_close(found[0], expected[0])
        model.config.return_dict = False
        assert isinstance(model(**inputs), tuple)
        torch.testing.assert_close(model(**inputs)[0], expected[0])

    @pytest.mark.parametrize("variant", ["paper", "untied", "learned"])
    @pytest.mark.parametrize("size", [60, 40])
    def test_resized_vocabulary(self, case, variant, size, tmp_path):
        model, inputs = make(case, variant), inputs_of(case)
        inputs = {name: value.clamp(max=39) for name, value in inputs.items()}
        before = answer(case, model(**inputs))
        model.resize_token_embeddings(size)
        after = answer(case, model(**inputs))
        assert model.config.vocab_size == model.get_input_embeddings().num_embeddings == size
        if case in WITH_HEAD:
            assert after[0].shape[-1] == size
            tied = model.lm_head.weight is model.get_input_embeddings().weight
            assert tied == (variant != "untied")
            before, after = [before[0][..., :40]], [after[0][..., :40]]
        assert_equal(after, before)
        model.save_pretrained(tmp_path)
        loaded = case.auto_class.from_pretrained(tmp_path)
        assert_equal(answer(case, loaded(**inputs)), answer(case, model(**inputs)))


class LossContract:
    """The checks of models that give a loss."""

    def test_loss_is_exact_over_unequal_batches(self, case):
        model, inputs = make(case).double(), inputs_of(case, batch=6)
        labels = labels_of(case, inputs)
        whole = model(**inputs, **labels)
        expected = gradients(model, whole.loss)
        count = case.counted(labels)
        model.zero_grad()
        total = 0.0
        for start, end in ((0, 1), (1, 4), (4, 6)):
            part = {name: value[start:end] for name, value in {**inputs, **labels}.items()}
            for divisor in (torch.as_tensor(count), int(count)):
                loss = model(**part, num_items_in_batch=divisor).loss
            loss.backward()
            total += loss.item()
        assert total == pytest.approx(whole.loss.item(), abs=1e-12)
        found = {name: p.grad for name, p in model.named_parameters() if p.grad is not None}
        assert_same_gradients(found, expected, **EXACT)

    def test_loss_is_the_mean_over_what_counts(self, case):
        model, inputs = make(case).double(), inputs_of(case)
        labels = labels_of(case, inputs)
        output = model(**inputs, **labels)
        kind, logits = model.config.problem_type, [entry for name in case.outputs for entry in [output[name]]]
        if kind == "regression":
            expected = (logits[0] - labels["labels"]).square().mean()
        elif kind == "multi_label_classification":
            expected = torch.nn.functional.binary_cross_entropy(logits[0].sigmoid(), labels["labels"])
        elif "start_positions" in labels:
            expected = sum(
                torch.nn.functional.cross_entropy(one, target) / 2
                for one, target in zip(logits, labels.values(), strict=True)
            )
        else:
            logits, targets = logits[0], labels["labels"]
            if case.config_class is VaswaniDecoderConfig:
                logits, targets = logits[:, :-1], targets[:, 1:]
            expected = torch.nn.functional.cross_entropy(logits.flatten(0, -2), targets.flatten())
        torch.testing.assert_close(output.loss, expected, **EXACT)

    def test_label_smoothing_spreads_the_target(self, case):
        model, inputs = make(case).double(), inputs_of(case)
        labels = labels_of(case, inputs)
        plain, smoothed = (model(**inputs, **labels, label_smoothing=rate).loss for rate in (0.0, 0.1))
        if model.config.problem_type in ("regression", "multi_label_classification"):
            torch.testing.assert_close(smoothed, plain)
        else:
            assert smoothed.item() != pytest.approx(plain.item(), abs=1e-6)


class HeadContract:
    """The checks of models that project to the vocabulary."""

    @pytest.mark.parametrize("variant", VARIANTS)
    def test_loss_without_logits_is_the_same(self, case, variant):
        model, inputs = make(case, variant).double(), inputs_of(case)
        found = []
        for skip in (False, True):
            settings = {"label_smoothing": 0.1, "skip_logits": skip, "num_items_in_batch": 11}
            output = model(**inputs, **labels_of(case, inputs), **settings)
            assert (output.logits is None) == skip
            found.append((output.loss, gradients(model, output.loss)))
        torch.testing.assert_close(found[1][0], found[0][0], **EXACT)
        assert_same_gradients(found[1][1], found[0][1], **EXACT)

    def test_no_label_counts(self, case):
        model, inputs = make(case), inputs_of(case)
        labels = {"labels": torch.full_like(labels_of(case, inputs)["labels"], -100)}
        for skip in (False, True):
            loss = model(**inputs, **labels, skip_logits=skip).loss
            assert loss.item() == 0.0
            assert all(gradient.abs().max() == 0 for gradient in gradients(model, loss).values())

    def test_embedding_and_projection_share_one_matrix_unless_untied(self, case):
        model = make(case)
        assert model.lm_head.weight is model.get_input_embeddings().weight
        assert model.get_output_embeddings() is model.lm_head
        untied = make(case, "untied")
        assert untied.lm_head.weight is not untied.get_input_embeddings().weight
        assert untied.num_parameters() - make(case, scale_embedding=False).num_parameters() == VOCABULARY * 16
