"""What every model class owes its users, checked on few models in which every two options meet.

`tests/helpers/model_contract.py` lists the classes and options. Every check runs on poisoned memory (conftest.py).
"""

import copy
import json

import pytest
import torch
from torch.export import Dim
from transformers import AutoConfig, AutoModel

from tests.helpers.model_contract import (
    BY_NAME,
    CASES,
    EXACT,
    LAYERS,
    SIZES,
    TEXT_CASES,
    VOCABULARY,
    WITH_HEAD,
    WITH_LOSS,
    answer,
    assert_equal,
    assert_same_gradients,
    gradients,
    inputs_of,
    labels_of,
    loss_of,
    make,
    pad,
    variants,
)
from vaswani_tx import VaswaniDecoderConfig

CAUSAL = [case for case in TEXT_CASES if case.causal]
every_case = pytest.mark.parametrize("case", CASES, ids=str)
every_text_case = pytest.mark.parametrize("case", TEXT_CASES, ids=str)
every_loss = pytest.mark.parametrize("case", WITH_LOSS, ids=str)
every_head = pytest.mark.parametrize("case", WITH_HEAD, ids=str)


@variants(CASES)
def test_saved_folder_loads_through_its_auto_class(variant, tmp_path):
    case, model, inputs = variant.case, variant.make(), inputs_of(variant.case)
    expected = answer(case, model(**inputs))
    model.save_pretrained(tmp_path)
    generates = {"generation_config.json"} if case.name.endswith(("CausalLM", "Generation")) else set()
    assert {path.name for path in tmp_path.iterdir()} == {"config.json", "model.safetensors"} | generates
    assert "auto_map" not in json.loads((tmp_path / "config.json").read_text())
    assert type(AutoConfig.from_pretrained(tmp_path)) is case.config_class
    loaded, report = case.auto_class.from_pretrained(tmp_path, output_loading_info=True)
    assert type(loaded) is case.model_class and type(loaded.config) is case.config_class
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert_equal(answer(case, loaded(**inputs)), expected, atol=1e-6, rtol=0)
    bare, report = AutoModel.from_pretrained(tmp_path, output_loading_info=True)
    assert not report["missing_keys"]
    base = getattr(model, model.base_model_prefix, model)
    assert type(bare) is type(base)
    torch.testing.assert_close(bare(**inputs).last_hidden_state, base(**inputs).last_hidden_state)


@variants(CASES, reentrant=(True, False), inputs_require_gradients=(False, True))
def test_gradient_checkpointing_gives_the_same_gradients(variant):
    case, model, inputs = variant.case, variant.make(dropout=0.2).double().train(), inputs_of(variant.case)
    found = []
    for checkpointing in (False, True):
        if checkpointing:
            # the name changed with transformers 5.2x
            enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
            enable({"use_reentrant": variant.reentrant})
            if variant.inputs_require_gradients:
                model.enable_input_require_grads()
        torch.manual_seed(0)
        found.append(gradients(model, loss_of(case, model, inputs)))
    assert_same_gradients(found[1], found[0], **EXACT)


@variants(CASES, dtype=(torch.float16, torch.bfloat16), implementation=("eager", "sdpa"))
def test_half_types_stay_finite_even_in_a_row_of_padding(variant):
    case, dtype = variant.case, variant.dtype
    model, inputs = variant.make().to(dtype), pad(inputs_of(case), "right")
    model.set_attn_implementation(variant.implementation)
    inputs["attention_mask"][2] = 0
    for entry in answer(case, model(**inputs)):
        assert entry.dtype == dtype and entry.isfinite().all()
    for name, gradient in gradients(model, loss_of(case, model, inputs)).items():
        assert gradient.isfinite().all(), name


@every_case
def test_half_types_are_near_float32(case):
    model, inputs = make(case), inputs_of(case, length=300)  # longer than bfloat16 counts
    expected = answer(case, model(**inputs))
    for dtype, tolerance in ((torch.float16, 0.01), (torch.bfloat16, 0.1)):
        found = answer(case, model.to(dtype)(**inputs))
        for one, other in zip(found, expected, strict=True):
            assert (one - other).abs().mean() < tolerance * other.abs().mean()


@pytest.mark.fresh
@every_case
def test_compiles_into_one_graph(case):
    torch._dynamo.reset()
    layers = {name: 1 for name in LAYERS[case.config_class] if name.endswith("layers")}
    fields = case.options["positions"]["learned"] | layers
    # the type of problem is then found out inside of the graph
    if case.fields.get("problem_type") != "regression":
        fields |= {"problem_type": None} if case.fields else {}
    model, inputs = make(case, **fields).double(), pad(inputs_of(case), "left")
    reference = copy.deepcopy(model)
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    labels = labels_of(case, inputs) if case.labels else {}
    found, expected = compiled(**inputs, **labels), reference(**inputs, **labels)
    assert_equal(answer(case, found), answer(case, expected), **EXACT)
    assert model.config.problem_type == reference.config.problem_type
    if labels:
        assert_same_gradients(gradients(model, found.loss), gradients(reference, expected.loss), **EXACT)


@pytest.mark.fresh
@pytest.mark.parametrize("case", BY_NAME.values(), ids=str)
def test_exports_with_a_dynamic_batch_and_dynamic_lengths(case):
    rows, source, target = Dim("rows", max=64), Dim("source", min=2, max=20), Dim("target", min=2, max=20)
    layers = {name: 1 for name in LAYERS[case.config_class] if name.endswith("layers")}
    model = make(case, **case.options["positions"]["learned"], **layers)

    def inputs(batch: int, length: int) -> dict:
        texts = inputs_of(case, batch, length)
        return (texts if case.takes_images else pad(texts, "left")) | ({"use_cache": False} if case.causal else {})

    example, shapes = inputs(3, 8), {}
    for name in example:
        lengths = {} if case.takes_images else {1: target if name.startswith("decoder") else source}
        shapes[name] = None if name == "use_cache" else {0: rows, **lengths}
    program = torch.export.export(model, (), example, dynamic_shapes=shapes).module()
    for batch, length in ((1, 4), (5, 17)):
        given = inputs(batch, length)
        assert_equal(answer(case, program(**given)), answer(case, model(**given)), atol=1e-5, rtol=0)


@variants(TEXT_CASES, side=("left", "right"))
def test_padding_on_either_side_changes_nothing(variant):
    case, model, inputs = variant.case, variant.make().double(), inputs_of(variant.case)
    expected = answer(case, model(**inputs))
    padded = pad(inputs, variant.side)
    tokens = padded["attention_mask"].bool()
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        found = answer(case, model(**padded))
        other_filler = answer(case, model(**pad(inputs, variant.side, filler=9)))
        for one, same, other in zip(found, other_filler, expected, strict=True):
            if case.per_token and one.shape[1] == tokens.shape[1]:
                one, same = one[tokens].view_as(other), same[tokens].view_as(other)
            torch.testing.assert_close(one, other, **EXACT)
            torch.testing.assert_close(same, one, atol=0, rtol=0)  # what is under padding is never read


@every_text_case
def test_rows_of_different_length_equal_each_row_alone(case):
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


@variants(CASES)
def test_masks_of_four_dimensions_equal_that_of_two(variant):
    case, model, inputs = variant.case, variant.make().double(), pad(inputs_of(variant.case), "right")
    expected = answer(case, model(**inputs))
    length, real = inputs["attention_mask"].shape[1], int(inputs["attention_mask"][0].sum())
    if case.crosses:  # one mask cannot serve both stacks
        two = inputs["attention_mask"]
        inputs["decoder_attention_mask"] = torch.ones(5, 5, dtype=torch.bool).tril().expand(3, 1, 5, 5)
        inputs["attention_mask"] = two
    else:
        seen = inputs["attention_mask"].bool()[:, None, None, :].expand(-1, 1, length, -1)
        if case.config_class is VaswaniDecoderConfig:
            seen = seen & torch.ones(length, length, dtype=torch.bool).tril()
        inputs["attention_mask"] = seen
    name = "decoder_attention_mask" if case.crosses else "attention_mask"
    additive = torch.zeros(inputs[name].shape, dtype=torch.double)
    additive.masked_fill_(~inputs[name], torch.finfo(torch.double).min)
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        for mask in (inputs[name], additive):
            for one, other in zip(answer(case, model(**{**inputs, name: mask})), expected, strict=True):
                if case.per_token and not case.crosses:
                    one, other = one[:, :real], other[:, :real]
                torch.testing.assert_close(one, other, **EXACT)


@variants(CAUSAL)
def test_only_earlier_positions_are_seen(variant):
    case, model, inputs = variant.case, variant.make().double(), inputs_of(variant.case)
    before = answer(case, model(**inputs))[0]
    inputs["decoder_input_ids" if case.crosses else "input_ids"][:, 4] = 9
    after = answer(case, model(**inputs))[0]
    torch.testing.assert_close(after[:, :4], before[:, :4], atol=0, rtol=0)
    assert ((after - before)[:, 4:].abs().amax(dim=(0, 2)) > 1e-3).all()


@every_text_case
def test_embeddings_replace_tokens(case):
    model, inputs = make(case), pad(inputs_of(case), "left")
    expected = answer(case, model(**inputs))
    inputs["inputs_embeds"] = model.get_input_embeddings()(inputs.pop("input_ids"))
    if case.crosses:
        inputs["decoder_inputs_embeds"] = model.get_input_embeddings()(inputs.pop("decoder_input_ids"))
    assert_equal(answer(case, model(**inputs)), expected)
    with pytest.raises(ValueError, match="exactly one of input_ids and inputs_embeds"):
        model(**inputs, input_ids=torch.ones(3, 11, dtype=torch.long))


@variants(TEXT_CASES)
def test_positions_are_those_counted_unless_given(variant):
    case, model, inputs = variant.case, variant.make().double(), inputs_of(variant.case)
    expected = answer(case, model(**inputs))
    for positions in (torch.arange(8)[None], torch.arange(8).expand(3, 8)):
        assert_equal(answer(case, model(**inputs, position_ids=positions)), expected, **EXACT)
    shifted = answer(case, model(**inputs, position_ids=torch.arange(8).expand(3, 8) + 2))
    assert any((one - other).abs().max() > 1e-3 for one, other in zip(shifted, expected, strict=True))


@variants(CASES)
def test_attention_implementations_agree(variant):
    case, model, inputs = variant.case, variant.make().double(), pad(inputs_of(variant.case), "right")
    found, answers = [], []
    for implementation in ("eager", "sdpa"):
        model.set_attn_implementation(implementation)
        answers.append(answer(case, model(**inputs)))
        found.append(gradients(model, loss_of(case, model, inputs)))
    assert_equal(answers[1], answers[0], **EXACT)
    assert_same_gradients(found[1], found[0], **EXACT)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@every_case
def test_what_is_recorded(case, implementation):
    model, inputs = make(case, **case.options["widths"]["widths"]), pad(inputs_of(case), "right")
    model.set_attn_implementation(implementation)
    length, real = inputs["attention_mask"].shape[1], int(inputs["attention_mask"][0].sum())
    plain = answer(case, model(**inputs))
    flags = ("attentions", "hidden_states", "queries", "keys")
    output = model(**inputs, **{f"output_{name}": True for name in flags})
    assert_equal(answer(case, output), plain)
    prefix = "encoder_" if case.crosses else ""
    assert [entry.shape for entry in output[prefix + "hidden_states"]] == [(3, length, 16)] * 3
    for weights, queries, keys in zip(
        *(output[prefix + name] for name in ("attentions", "queries", "keys")), strict=True
    ):
        assert weights.shape == (3, 3, length, length) and queries.shape == keys.shape == (3, length, 18)
        torch.testing.assert_close(weights.sum(-1), torch.ones(3, 3, length))
        assert weights[..., real:].abs().max() == 0
        scores = torch.einsum("btk,bsk->bts", queries[..., :6], keys[..., :6]) / 6**0.5  # the first head
        allowed = torch.arange(length) < real
        if case.config_class is VaswaniDecoderConfig:
            allowed = allowed & torch.ones(length, length, dtype=torch.bool).tril()
        expected = scores.masked_fill(~allowed, -torch.inf).softmax(-1)
        torch.testing.assert_close(weights[:, 0], expected)


@every_case
def test_tuples_where_they_are_asked_for(case):
    model, inputs = make(case), inputs_of(case)
    expected = model(**inputs, output_hidden_states=True)
    found = model(**inputs, output_hidden_states=True, return_dict=False)
    assert isinstance(found, tuple) and len(found) == len(expected.to_tuple())
    torch.testing.assert_close(found[0], expected[0])
    model.config.return_dict = False
    assert isinstance(model(**inputs), tuple)
    torch.testing.assert_close(model(**inputs)[0], expected[0])


@variants(TEXT_CASES, size=(60, 40))
def test_resized_vocabulary(variant, tmp_path):
    case, size, model, inputs = variant.case, variant.size, variant.make(), inputs_of(variant.case)
    inputs = {name: value.clamp(max=39) for name, value in inputs.items()}
    before = answer(case, model(**inputs))
    separate = variant.chosen.get("vocabularies") == "separate"
    resized = model.resize_token_embeddings(size)
    after = answer(case, model(**inputs))
    embedding = model.get_decoder().get_input_embeddings() if separate else model.get_input_embeddings()
    assert model.config.vocab_size == embedding.num_embeddings == size and resized is embedding
    if separate:
        assert model.config.source_vocab_size == model.get_input_embeddings().num_embeddings == 57
    if case in WITH_HEAD:
        assert after[0].shape[-1] == size
        tied = model.lm_head.weight is embedding.weight
        assert tied == (variant.chosen["tied"] != "untied")
        before, after = [before[0][..., :40]], [after[0][..., :40]]
    assert_equal(after, before)
    model.save_pretrained(tmp_path)
    loaded = case.auto_class.from_pretrained(tmp_path)
    assert_equal(answer(case, loaded(**inputs)), answer(case, model(**inputs)))


# Models that give a loss


@every_loss
def test_loss_is_exact_over_unequal_batches(case):
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


@every_loss
def test_loss_is_the_mean_over_what_counts(case):
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


@every_loss
def test_label_smoothing_spreads_the_target(case):
    model, inputs = make(case).double(), inputs_of(case)
    labels = labels_of(case, inputs)
    plain, smoothed = (model(**inputs, **labels, label_smoothing=rate).loss for rate in (0.0, 0.1))
    if model.config.problem_type in ("regression", "multi_label_classification"):
        torch.testing.assert_close(smoothed, plain)
    else:
        assert smoothed.item() != pytest.approx(plain.item(), abs=1e-6)


# Models that project to the vocabulary


@variants(WITH_HEAD)
def test_loss_without_logits_is_the_same(variant):
    case, model, inputs = variant.case, variant.make().double(), inputs_of(variant.case)
    found = []
    for skip in (False, True):
        settings = {"label_smoothing": 0.1, "skip_logits": skip, "num_items_in_batch": 11}
        output = model(**inputs, **labels_of(case, inputs), **settings)
        assert (output.logits is None) == skip
        found.append((output.loss, gradients(model, output.loss)))
    torch.testing.assert_close(found[1][0], found[0][0], **EXACT)
    assert_same_gradients(found[1][1], found[0][1], **EXACT)


@pytest.mark.fresh
@pytest.mark.parametrize("number", [0, 1], ids=["paper", "others"])
@every_head
def test_loss_without_logits_compiles_into_one_graph(case, number):
    """With the paper's value of every option, and with the other value of every option."""
    torch._dynamo.reset()  # each model is a new graph of the same code, of which only so many are kept
    layers = {name: 1 for name in LAYERS[case.config_class] if name.endswith("layers")}
    for values in case.options.values():
        layers |= list(values.values())[number]
    model, inputs = make(case, **layers), pad(inputs_of(case), "right")
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    settings = {**labels_of(case, inputs), "label_smoothing": 0.1, "skip_logits": True}
    torch.testing.assert_close(compiled(**inputs, **settings).loss, model(**inputs, **settings).loss)
    cache = {"use_cache": False} if case.causal else {}
    torch.testing.assert_close(compiled(**inputs, **cache).logits, model(**inputs).logits)


@every_head
def test_no_label_counts(case):
    model, inputs = make(case), inputs_of(case)
    labels = {"labels": torch.full_like(labels_of(case, inputs)["labels"], -100)}
    for skip in (False, True):
        loss = model(**inputs, **labels, skip_logits=skip).loss
        assert loss.item() == 0.0
        assert all(gradient.abs().max() == 0 for gradient in gradients(model, loss).values())


@every_head
def test_embedding_and_projection_share_one_matrix_unless_untied(case):
    model = make(case)
    assert model.lm_head.weight is model.get_input_embeddings().weight
    assert model.get_output_embeddings() is model.lm_head
    untied = make(case, tie_word_embeddings=False, scale_embedding=False)
    assert untied.lm_head.weight is not untied.get_input_embeddings().weight
    assert untied.num_parameters() - make(case, scale_embedding=False).num_parameters() == VOCABULARY * SIZES["d_model"]
