"""What only one family of models does; what all classes share is in `test_model_contract.py`."""

import pytest
import torch
from transformers import AutoTokenizer, DynamicCache, StaticCache
from transformers.masking_utils import ALL_MASK_ATTENTION_FUNCTIONS
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.utils.generic import find_labels

from tests.helpers.model_contract import (
    BY_NAME,
    CASES,
    EXACT,
    TEXT_SIZES,
    answer,
    assert_equal,
    assert_same_gradients,
    gradients,
    inputs_of,
    labels_of,
    loss_of,
    make,
    variants,
)
from vaswani_tx import (
    VaswaniConfig,
    VaswaniDecoderConfig,
    VaswaniEncoderConfig,
    VaswaniForSequenceClassification,
    VaswaniTokenizer,
    save_with_code,
)
from vaswani_tx.loss_vaswani import classification_loss
from vaswani_tx.modeling_vaswani_encoder import mean_of_tokens

ENCODERS = [case for case in CASES if case.config_class is VaswaniEncoderConfig]
DECODERS = [case for case in CASES if case.config_class is VaswaniDecoderConfig]
LENGTHS = (4, 1, 6)  # of the documents that are packed into a row


def packed_positions() -> torch.Tensor:
    return torch.cat([torch.arange(length) for length in LENGTHS])


PACKED = [case for case in ENCODERS + DECODERS if case.per_token and "Question" not in case.name]


@variants(PACKED, implementation=("eager", "sdpa"))
def test_packed_documents_equal_unpacked_ones(variant):
    """Answers and gradients of documents in one row, and of each alone: equal."""
    case, model = variant.case, variant.make().double()
    model.set_attn_implementation(variant.implementation)
    row = inputs_of(case, batch=2, length=sum(LENGTHS))
    labels = {}
    if case.labels:
        labels = {"labels": labels_of(case, row)["labels"]}
        if case in DECODERS:  # no document predicts the next one's first token
            labels["labels"] = labels["labels"].masked_fill(packed_positions() == 0, -100)

    def total(output) -> torch.Tensor:
        weights = torch.arange(model.config.d_model, dtype=torch.double)
        return output.loss if labels else (output.last_hidden_state * weights).sum()

    count = {"num_items_in_batch": 5} if labels else {}
    packed = model(**row, **labels, **count, position_ids=packed_positions().expand(2, -1))
    found = gradients(model, total(packed))
    loss, start = 0.0, 0
    for length in LENGTHS:
        part = {name: value[:, start : start + length] for name, value in {**row, **labels}.items()}
        alone = model(**part, **count)
        assert_equal([answer(case, packed)[0][:, start : start + length]], answer(case, alone), **EXACT)
        loss, start = loss + total(alone), start + length
    assert_same_gradients(found, gradients(model, loss), **EXACT)


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
@pytest.mark.parametrize("case", PACKED, ids=str)
def test_one_row_of_positions_serves_the_whole_batch(case, implementation):
    model, row = make(case).double(), inputs_of(case, length=sum(LENGTHS))
    model.set_attn_implementation(implementation)
    expected = answer(case, model(**row, position_ids=packed_positions().expand(3, -1)))
    assert_equal(answer(case, model(**row, position_ids=packed_positions()[None])), expected, **EXACT)


def by_limits(module, query, key, value, attention_mask, cu_seq_lens_q, max_length_q, scaling, **kwargs):
    """Attend as flash kernels do: no mask, rows laid end to end [B * L, H, K], each document for itself."""
    assert attention_mask is None and max_length_q == max(LENGTHS)
    batch, heads, length, _ = query.shape
    flat = [states.transpose(1, 2).flatten(0, 1) for states in (query, key, value)]
    pieces = []
    for start, end in zip(cu_seq_lens_q[:-1].tolist(), cu_seq_lens_q[1:].tolist(), strict=True):
        parts = (states[start:end].transpose(0, 1) for states in flat)
        attend = torch.nn.functional.scaled_dot_product_attention
        pieces.append(attend(*parts, is_causal=module.is_causal, scale=scaling).transpose(0, 1))
    return torch.cat(pieces).view(batch, length, heads, -1), None


@pytest.mark.parametrize("case", PACKED, ids=str)
def test_flash_kernels_are_told_where_documents_end(case, monkeypatch):
    model, row = make(case, **case.options["widths"]["widths"]).double(), inputs_of(case, length=sum(LENGTHS))
    row["position_ids"] = packed_positions()[None]
    expected = answer(case, model(**row))
    monkeypatch.setitem(ALL_ATTENTION_FUNCTIONS._global_mapping, "flash_stand_in", by_limits)
    monkeypatch.setitem(ALL_MASK_ATTENTION_FUNCTIONS._global_mapping, "flash_stand_in", lambda **_: None)
    model.config._attn_implementation_internal = "flash_stand_in"
    assert_equal(answer(case, model(**row)), expected, **EXACT)


@pytest.mark.fresh
def test_compiled_packing_is_packing():
    torch._dynamo.reset()
    case = BY_NAME["VaswaniEncoderModel"]
    model, row = make(case, num_hidden_layers=1).double(), inputs_of(case, length=sum(LENGTHS))
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    row["position_ids"] = packed_positions().expand(3, -1)
    assert_equal(answer(case, compiled(**row)), answer(case, model(**row)), **EXACT)


@variants(DECODERS, kind=("dynamic", "static"))
def test_cached_steps_equal_one_pass_with_a_random_left_pad_a_row(variant):
    case, kind, model = variant.case, variant.kind, variant.make().double()
    inputs = inputs_of(case, batch=4, length=11)
    padding = torch.tensor([0, 3, 1, 2])
    mask = (torch.arange(11) >= padding[:, None]).long()
    cache = DynamicCache(config=model.config) if kind == "dynamic" else StaticCache(model.config, max_cache_len=15)
    pieces, start = [], 0
    for length in (5, 1, 1, 3, 1):  # a prompt, single tokens, a block
        end = start + length
        output = model(
            input_ids=inputs["input_ids"][:, start:end],
            attention_mask=mask[:, :end],
            past_key_values=cache,
            use_cache=True,
        )
        assert output.past_key_values is cache
        pieces.append(answer(case, output)[0])
        start = end
    found = torch.cat(pieces, dim=1)
    for number, length in enumerate(padding.tolist()):
        alone = answer(case, model(input_ids=inputs["input_ids"][number : number + 1, length:]))[0]
        torch.testing.assert_close(found[number : number + 1, length:], alone, **EXACT)


@pytest.mark.parametrize("case", DECODERS, ids=str)
def test_a_cache_comes_back_unless_it_is_not_wanted(case):
    model, inputs = make(case), inputs_of(case)
    assert model(**inputs).past_key_values.get_seq_length() == 8
    assert model(**inputs, use_cache=False).past_key_values is None
    model.config.use_cache = False
    assert model(**inputs).past_key_values is None
    if case.labels:
        model.config.use_cache = True
        assert loss_of(case, model, inputs).isfinite()
        assert model(**inputs, **labels_of(case, inputs)).past_key_values is None


def test_causal_logits_and_labels_to_keep():
    case = BY_NAME["VaswaniForCausalLM"]
    model, inputs = make(case), inputs_of(case)
    labels = labels_of(case, inputs)
    logits = model(**inputs).logits
    torch.testing.assert_close(model(**inputs, logits_to_keep=2).logits, logits[:, -2:])
    torch.testing.assert_close(model(**inputs, logits_to_keep=torch.tensor([1, 4])).logits, logits[:, [1, 4]])
    expected = model(**inputs, **labels)
    shifted = torch.nn.functional.pad(labels["labels"][:, 1:], (0, 1), value=-100)
    found = model(**inputs, shift_labels=shifted)
    torch.testing.assert_close(found.loss, expected.loss)
    torch.testing.assert_close(model(**inputs, **labels, shift_labels=shifted).loss, expected.loss)
    torch.testing.assert_close(model(**inputs, **labels, logits_to_keep=8).loss, expected.loss)
    targets = shifted[:, -3:]
    kept = model(**inputs, **labels, logits_to_keep=3).loss
    torch.testing.assert_close(kept, torch.nn.functional.cross_entropy(logits[:, -3:].flatten(0, 1), targets.flatten()))


@pytest.mark.parametrize("case", [c for c in CASES if c.name not in ("VaswaniModel",)], ids=str)
def test_the_trainer_finds_the_labels(case):
    expected = ["start_positions", "end_positions"] if "Question" in case.name else ["labels"]
    assert find_labels(case.model_class) == (expected if case.labels else [])


def test_sinusoids_continue_beyond_the_table_and_learned_positions_end_there():
    for case in (BY_NAME["VaswaniForMaskedLM"], BY_NAME["VaswaniForCausalLM"]):
        inputs = inputs_of(case, length=30)
        short, long = (make(case, max_position_embeddings=rows).double() for rows in (8, 64))
        torch.testing.assert_close(short(**inputs).logits, long(**inputs).logits, **EXACT)
        with pytest.raises(ValueError, match="max_position_embeddings=24"):
            make(case, **case.options["positions"]["learned"])(**inputs)


class TestClassifierLosses:
    """`classification_loss`: the type of problem is found out as in transformers, and wrong labels are named."""

    def config(self, **fields):
        return VaswaniEncoderConfig(**TEXT_SIZES, num_hidden_layers=1, **fields)

    @pytest.mark.parametrize(
        ("classes", "labels", "kind"),
        [
            (3, torch.tensor([0, 2]), "single_label_classification"),
            (3, torch.tensor([[0], [2]]), "single_label_classification"),
            (3, torch.tensor([[0.0, 1.0, 1.0], [0.0, 0.0, 0.0]]), "multi_label_classification"),
            (3, torch.tensor([[0, 1, 1], [0, 0, 0]]), "multi_label_classification"),
            (3, torch.tensor([[False, True, True], [False, False, False]]), "multi_label_classification"),
            (1, torch.tensor([0.5, 2.0]), "regression"),
            (1, torch.tensor([3, 2]), "regression"),
        ],
    )
    def test_type_of_problem(self, classes, labels, kind):
        config = self.config(num_labels=classes)
        model = VaswaniForSequenceClassification(config)
        assert model(torch.ones(2, 4, dtype=torch.long), labels=labels).loss.isfinite()
        assert model.config.problem_type == kind

    @pytest.mark.parametrize(
        ("kind", "classes", "labels", "message"),
        [
            ("single_label_classification", 3, torch.zeros(2), "one integer for each of the 2 sequences"),
            ("single_label_classification", 3, torch.zeros(2, 3, dtype=torch.long), r"shape \[2, 3\]"),
            ("multi_label_classification", 3, torch.tensor([0, 1]), r"labels of shape \[2, 3\], but they have \[2\]"),
            ("regression", 1, torch.zeros(2, 3), r"labels of shape \[2, 1\]"),
        ],
    )
    def test_wrong_labels_are_named(self, kind, classes, labels, message):
        config = self.config(num_labels=classes, problem_type=kind)
        with pytest.raises(ValueError, match=message):
            classification_loss(torch.zeros(2, classes), labels, config)

    def test_no_number_is_a_mark(self):
        """-100 marks a class that does not count, and is a number like any other where numbers are predicted."""
        config = self.config(num_labels=1, problem_type="regression")
        loss = classification_loss(torch.zeros(2, 1), torch.tensor([-100.0, 0.0]), config)
        assert loss.item() == 5000.0
        config = self.config(num_labels=3, problem_type="single_label_classification")
        loss = classification_loss(torch.tensor([[2.0, 0, 0], [0, 0, 1.0]]), torch.tensor([-100, 1]), config)
        expected = torch.nn.functional.cross_entropy(torch.tensor([[0.0, 0, 1.0]]), torch.tensor([1]))
        torch.testing.assert_close(loss, expected)


def test_answers_outside_of_the_row_do_not_count():
    case = BY_NAME["VaswaniForQuestionAnswering"]
    model, inputs = make(case), inputs_of(case)
    ends = torch.tensor([3, 5, 7])
    some = model(**inputs, start_positions=torch.tensor([2, 8, -1]), end_positions=ends)
    starts = torch.nn.functional.cross_entropy(some.start_logits[:1], torch.tensor([2]))
    torch.testing.assert_close(some.loss, (starts + torch.nn.functional.cross_entropy(some.end_logits, ends)) / 2)
    columns = model(**inputs, start_positions=torch.tensor([[2], [8], [-1]]), end_positions=ends[:, None])
    torch.testing.assert_close(columns.loss, some.loss)


def test_the_mean_over_tokens_is_exact_in_half_types():
    states = torch.full((1, 5000, 2), 20.0, dtype=torch.float16)  # the sum is beyond what the type holds
    for mask in (None, torch.ones(1, 5000, dtype=torch.long), torch.ones(1, 1, 5000, 5000, dtype=torch.bool)):
        mean = mean_of_tokens(states, mask)
        assert mean.dtype == torch.float16 and (mean == 20).all()


def test_classifier_dropout_is_the_models_unless_given():
    for fields, rate in (({"dropout": 0.3}, 0.3), ({"dropout": 0.3, "classifier_dropout": 0.0}, 0.0)):
        for name in ("VaswaniForSequenceClassification", "VaswaniForTokenClassification"):
            assert make(BY_NAME[name], **fields).dropout.p == rate


@pytest.mark.parametrize("name", ["VaswaniForTokenClassification", "VaswaniForCausalLM"])
def test_folder_with_code_holds_its_own_family_and_loads(name, tmp_path):
    case = BY_NAME[name]
    tokenizer = VaswaniTokenizer.train(iter(["a b c"] * 4), vocab_size=261, show_progress=False)
    model = make(case, vocab_size=len(tokenizer))
    folder = save_with_code(model, tmp_path / "model", tokenizer)
    names = {path.name for path in folder.glob("modeling_vaswani_*.py")}
    assert names == {"modeling_vaswani_decoder.py" if case in DECODERS else "modeling_vaswani_encoder.py"}
    loaded = case.auto_class.from_pretrained(folder)
    inputs = AutoTokenizer.from_pretrained(folder)(["a b", "c"], padding=True, return_tensors="pt")
    assert_equal(answer(case, loaded(**inputs)), answer(case, model(**inputs)))


def test_weights_bear_the_names_of_the_encoder_decoders_stacks():
    whole = make(BY_NAME["VaswaniModel"])
    assert VaswaniConfig is type(whole.config)
    for name, stack in (("VaswaniEncoderModel", "encoder"), ("VaswaniDecoderModel", "decoder")):
        own = make(BY_NAME[name]).state_dict()
        theirs = {key: value.shape for key, value in getattr(whole, stack).state_dict().items()}
        assert {key: value.shape for key, value in own.items()} == {
            key: shape for key, shape in theirs.items() if "cross_attn" not in key
        }
