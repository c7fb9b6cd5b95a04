# Shapes: B batch, S source length, T target length, D d_model.
"""The recurrent decoder, `decoder_cell="ssru"`: against a loop of its formulas, cached, padded, packed, searched."""

import numpy as np
import pytest
import torch
from transformers import StaticCache

from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration, VaswaniModel
from vaswani_tx.alignments_vaswani import read_again
from vaswani_tx.errors import ExplainError
from vaswani_tx.explain.trace import trace
from vaswani_tx.layers_vaswani import VaswaniSSRU
from vaswani_tx.transfer_vaswani import TransferError

SIZES = {"vocab_size": 40, "d_model": 16, "d_ff": 24, "num_heads": 2, "encoder_layers": 2, "decoder_layers": 2}
EXACT = {"atol": 1e-12, "rtol": 0}


def config(**fields) -> VaswaniConfig:
    return VaswaniConfig(**{**SIZES, "decoder_cell": "ssru", "dropout": 0.0, **fields})


def model_of(model_class=VaswaniForConditionalGeneration, **fields):
    torch.manual_seed(0)
    model = model_class(config(**fields)).double().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.2)
    return model


def ids(*shape, seed=1) -> torch.Tensor:
    return torch.randint(3, 40, shape, generator=torch.Generator().manual_seed(seed))


def by_formula(cell: VaswaniSSRU, x: np.ndarray) -> np.ndarray:
    """Compute one row [T, D] step by step: f, c and the output of Kim et al. 2019."""
    weight, gate, bias = (
        parameter.detach().double().numpy()
        for parameter in (cell.in_proj.weight, cell.forget_proj.weight, cell.forget_proj.bias)
    )
    state, outputs = np.zeros(x.shape[1]), []
    for step in x:
        forget = 1 / (1 + np.exp(-(gate @ step + bias)))
        state = forget * state + (1 - forget) * (weight @ step)
        outputs.append(np.maximum(state, 0))
    return np.stack(outputs)


@pytest.mark.parametrize("length", [1, 2, 3, 8, 21])
def test_equals_the_formulas_at_any_length(length):
    cell = VaswaniSSRU(config(), 0).double()
    torch.nn.init.normal_(cell.forget_proj.bias)
    x = torch.randn(2, length, 16, dtype=torch.float64)
    output, weights = cell(x)
    assert weights is None
    expected = np.stack([by_formula(cell, row) for row in x.numpy()])
    np.testing.assert_allclose(output.detach().numpy(), expected, **EXACT)


def test_gradients_equal_those_of_the_loop():
    cell = VaswaniSSRU(config(), 0).double()
    x = torch.randn(2, 9, 16, dtype=torch.float64, requires_grad=True)
    cell(x)[0].square().sum().backward()
    found = [x.grad.clone(), *(parameter.grad.clone() for parameter in cell.parameters())]
    x.grad = None
    cell.zero_grad()
    state, outputs = torch.zeros(2, 16, dtype=torch.float64), []
    for step in x.unbind(1):
        forget = torch.sigmoid(cell.forget_proj(step))
        state = forget * state + (1 - forget) * cell.in_proj(step)
        outputs.append(state.relu())
    torch.stack(outputs, 1).square().sum().backward()
    for one, other in zip(found, [x.grad, *(parameter.grad for parameter in cell.parameters())], strict=True):
        torch.testing.assert_close(one, other, atol=1e-11, rtol=0)


def test_half_types_keep_their_state_in_float32():
    cell = VaswaniSSRU(config(), 0)
    x = torch.randn(1, 300, 16).to(torch.bfloat16)
    expected = cell(x.float())[0]
    found = cell.to(torch.bfloat16)(x)[0]
    assert found.dtype == torch.bfloat16
    torch.testing.assert_close(found.float(), expected, atol=2e-2, rtol=0)


def test_only_this_decoder_has_the_cell():
    model = model_of()
    names = {name for name, _ in model.named_modules()}
    assert "model.decoder.layers.0.ssru.in_proj" in names and "model.encoder.layers.0.self_attn" in names
    assert not any(name.startswith("model.decoder") and "self_attn" in name for name in names)
    with pytest.raises(ValueError, match=r"decoder_cell must be 'attention'.*'gru'"):
        VaswaniConfig(decoder_cell="gru")


@pytest.mark.parametrize(
    "fields", [{}, {"norm_order": "pre", "final_layer_norm": True}, {"position_embedding": "learned"}]
)
def test_a_token_at_a_time_equals_all_at_once(fields):
    model = model_of(**fields)
    source, target = ids(3, 6), ids(3, 9, seed=2)
    whole = model(input_ids=source, decoder_input_ids=target).logits
    cache, parts = None, []
    for part in target.split([1, 3, 1, 1, 2, 1], dim=1):
        outputs = model(input_ids=source, decoder_input_ids=part, past_key_values=cache, use_cache=True)
        cache = outputs.past_key_values
        parts.append(outputs.logits)
    torch.testing.assert_close(torch.cat(parts, 1), whole, **EXACT)
    assert cache.get_seq_length() == 9


def test_padding_in_front_or_inside_is_passed_over():
    model = model_of()
    source, target = ids(1, 6), ids(1, 5, seed=2)
    alone = model(input_ids=source, decoder_input_ids=target).logits
    padded = torch.cat((torch.zeros(1, 3, dtype=torch.long), target), 1)
    mask = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1]])
    found = model(input_ids=source, decoder_input_ids=padded, decoder_attention_mask=mask).logits
    torch.testing.assert_close(found[:, 3:], alone, **EXACT)
    split = torch.cat((target[:, :2], torch.zeros(1, 2, dtype=torch.long), target[:, 2:]), 1)
    mask, places = torch.tensor([[1, 1, 0, 0, 1, 1, 1]]), torch.tensor([[0, 1, 0, 0, 2, 3, 4]])
    embeds = {"decoder_input_ids": split, "decoder_attention_mask": mask}
    states = model.model(input_ids=source, decoder_position_ids=places, **embeds).last_hidden_state
    expected = model.model(input_ids=source, decoder_input_ids=target).last_hidden_state
    torch.testing.assert_close(states[:, [0, 1, 4, 5, 6]], expected, **EXACT)


def test_packed_documents_do_not_know_each_other():
    model = model_of(VaswaniModel)
    source, first, second = ids(1, 6), ids(1, 4, seed=2), ids(1, 3, seed=3)
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2]])
    packed = model(
        input_ids=source,
        decoder_input_ids=torch.cat((first, second), 1),
        decoder_position_ids=positions,
        use_cache=False,
    ).last_hidden_state
    for part, states in ((first, packed[:, :4]), (second, packed[:, 4:])):
        alone = model(input_ids=source, decoder_input_ids=part).last_hidden_state
        torch.testing.assert_close(states, alone, **EXACT)


def test_a_mask_that_hides_tokens_is_refused():
    model = model_of(VaswaniModel)
    mask = torch.ones(1, 1, 4, 4, dtype=torch.bool).tril()
    inputs = {"input_ids": ids(1, 6), "decoder_input_ids": ids(1, 4, seed=2)}
    expected = model(**inputs).last_hidden_state
    torch.testing.assert_close(model(**inputs, decoder_attention_mask=mask).last_hidden_state, expected, **EXACT)
    mask[0, 0, 2, 0] = False
    with pytest.raises(ValueError, match="decoder_cell='ssru' a position knows all earlier tokens"):
        model(**inputs, decoder_attention_mask=mask)


def greedy(model, source, mask, steps, start=None):
    """Decode without a cache: the most probable token of the whole prefix's last position."""
    target = torch.full((len(source), 1), 1) if start is None else start
    for _ in range(steps):
        logits = model(input_ids=source, attention_mask=mask, decoder_input_ids=target, use_cache=False).logits
        target = torch.cat((target, logits[:, -1].argmax(-1, keepdim=True)), 1)
    return target


LENGTH = {"max_new_tokens": 7, "min_new_tokens": 7, "eos_token_id": 2}


def test_greedy_search_equals_decoding_without_a_cache():
    model = model_of(source_vocab_size=45)
    source = ids(3, 6)
    mask = torch.tensor([[1, 1, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [1, 1, 1, 0, 0, 0]])
    found = model.generate(source, attention_mask=mask, num_beams=1, do_sample=False, suppress_tokens=[2], **LENGTH)
    model.lm_head.bias = torch.nn.Parameter(torch.zeros(40, dtype=torch.float64).index_fill(0, torch.tensor(2), -1e9))
    torch.testing.assert_close(found, greedy(model, source, mask, 7))


@pytest.mark.parametrize(
    "settings",
    [
        {"num_beams": 4},
        {"num_beams": 4, "num_return_sequences": 3},
        {"num_beams": 3, "do_sample": True},
        {"do_sample": True, "num_beams": 1, "top_k": 5, "num_return_sequences": 2},
        {"num_beams": 4, "required_ids": [[[7]], [[9]]]},
    ],
    ids=str,
)
def test_every_search_gives_the_same_with_and_without_a_cache(settings):
    model, source = model_of(), ids(2, 6)
    found = []
    for use_cache in (True, False):
        torch.manual_seed(5)
        found.append(model.generate(source, max_new_tokens=8, use_cache=use_cache, **settings))
    torch.testing.assert_close(*found)


def test_a_static_cache_and_a_padded_prefix_give_the_same():
    model, source = model_of(), ids(2, 6)
    prefix, mask = ids(2, 4, seed=4), torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]])
    settings = {"decoder_input_ids": prefix, "decoder_attention_mask": mask, "max_new_tokens": 5, "num_beams": 1}
    dynamic = model.generate(source, **settings)
    static = model.generate(source, cache_implementation="static", disable_compile=True, **settings)
    torch.testing.assert_close(static, dynamic)
    alone = model.generate(source[1:], decoder_input_ids=prefix[1:, 2:], max_new_tokens=5, num_beams=1)
    torch.testing.assert_close(dynamic[1:, 3:], alone[:, 1:])  # all begin with the start token


def test_assisted_generation_cuts_the_cache_and_gives_the_same(monkeypatch):
    # It calls the assistant in a way that transformers itself deprecates.
    monkeypatch.setattr("transformers.generation.utils.logger.warning_once", lambda *_: None)
    model, assistant, source = model_of(), model_of(decoder_layers=1), ids(1, 6)
    plain = model.generate(source, max_new_tokens=10, num_beams=1)
    torch.testing.assert_close(model.generate(source, max_new_tokens=10, num_beams=1, assistant_model=assistant), plain)


def test_a_cache_can_be_repeated_selected_and_cut():
    model = model_of()
    source, target = ids(1, 6), ids(1, 6, seed=2)
    cache = model(input_ids=source, decoder_input_ids=target[:, :5], use_cache=True).past_key_values
    cache.crop(-2)
    cache.batch_repeat_interleave(2)
    cache.reorder_cache(torch.tensor([1, 0]))
    cache.batch_select_indices(torch.tensor([0]))
    found = model(input_ids=source, decoder_input_ids=target[:, 3:], past_key_values=cache).logits
    torch.testing.assert_close(found, model(input_ids=source, decoder_input_ids=target).logits[:, 3:], **EXACT)


def test_a_cache_that_changes_its_contents_is_refused():
    class Rounded(torch.nn.Module):
        is_initialized = True
        keys = torch.zeros(1, 1, 0, 16)

        def get_seq_length(self):
            return 3

    cell = VaswaniSSRU(config(), 0)
    cache = StaticCache(config(), max_cache_len=4)
    cache.layers = [Rounded()]
    with pytest.raises(ValueError, match="Rounded does not keep the states"):
        cell(torch.zeros(1, 1, 16), past_key_values=cache)


def test_records_only_what_it_has():
    model = model_of(attn_implementation="eager")
    outputs = model(input_ids=ids(1, 6), decoder_input_ids=ids(1, 4), output_attentions=True, output_hidden_states=True)
    assert len(outputs.cross_attentions) == 2 and len(outputs.encoder_attentions) == 2
    assert not outputs.decoder_attentions
    assert len(outputs.decoder_hidden_states) == 3


def test_aligns_by_its_attention_to_the_source():
    model, source = model_of(), ids(1, 6)
    sequences = model.generate(source, max_new_tokens=5, num_beams=1)
    length = sequences.shape[1] - 1
    everything = torch.ones_like(source)
    (reading,) = read_again(
        model, source, everything, sequences, lengths=[length], sources=torch.ones_like(source, dtype=torch.bool)
    )
    assert len(reading.links) == length and all(0 <= place < 6 for place, _ in reading.links)
    with pytest.raises(ExplainError, match="decoder_cell='ssru'"):
        trace(model, None, "text")


def test_stacks_transfer_only_to_the_same_cell(tmp_path):
    model_of().float().save_pretrained(tmp_path)
    again = VaswaniForConditionalGeneration.from_encoder_decoder_pretrained(str(tmp_path), str(tmp_path))
    assert again.config.decoder_cell == "ssru"
    with pytest.raises(TransferError, match="decoder_cell='attention' contradicts"):
        VaswaniForConditionalGeneration.from_encoder_decoder_pretrained(
            str(tmp_path), str(tmp_path), decoder_cell="attention"
        )
    fresh = VaswaniForConditionalGeneration.from_encoder_decoder_pretrained(str(tmp_path))
    assert fresh.config.decoder_cell == "attention"


@pytest.mark.fresh
def test_compiles_into_one_graph_and_exports_with_dynamic_lengths():
    model = model_of(VaswaniModel)
    inputs = {"input_ids": ids(2, 6), "decoder_input_ids": ids(2, 7, seed=2)}
    expected = model(**inputs, use_cache=False).last_hidden_state
    compiled = torch.compile(model, fullgraph=True, backend="eager")
    torch.testing.assert_close(compiled(**inputs, use_cache=False).last_hidden_state, expected, **EXACT)
    batch, source, target = (torch.export.Dim(name, min=2, max=64) for name in ("batch", "source", "target"))
    program = torch.export.export(
        model,
        (),
        {**inputs, "use_cache": False},
        dynamic_shapes={
            "input_ids": {0: batch, 1: source},
            "decoder_input_ids": {0: batch, 1: target},
            "use_cache": None,
        },
        strict=False,
    ).module()
    other = {"input_ids": ids(3, 9), "decoder_input_ids": ids(3, 20, seed=2)}
    expected = model(**other, use_cache=False).last_hidden_state
    torch.testing.assert_close(program(**other, use_cache=False).last_hidden_state, expected, **EXACT)
