"""Learned positions end: beyond the table a ValueError that names the field, and whatever fits is accepted."""

import pytest
import torch
from transformers import StaticCache

from tests.helpers.model_contract import BY_NAME, EXACT, TEXT_CASES, answer, inputs_of, make, pad
from vaswani_tx.layers_vaswani import VaswaniLearnedPositions

ROWS = 12
LEARNED = {"position_embedding": "learned", "max_position_embeddings": ROWS}
CAUSAL, TRANSLATOR = BY_NAME["VaswaniForCausalLM"], BY_NAME["VaswaniForConditionalGeneration"]
BEYOND = f"max_position_embeddings={ROWS}"
SETTINGS = [
    {},
    {"use_cache": False},
    {"num_beams": 2},
    {"cache_implementation": "static"},
    {"cache_implementation": "static", "num_beams": 2},
]


def names(settings: dict) -> str:
    return "-".join(str(value) for value in settings.values()) or "greedy"


@pytest.mark.parametrize("case", TEXT_CASES, ids=str)
def test_positions_that_are_given_must_be_in_the_table(case):
    model, inputs = make(case, **LEARNED), inputs_of(case, length=8)
    names = ["position_ids", "decoder_position_ids"] if case.crosses else ["position_ids"]
    for name in names if case.name != "VaswaniForConditionalGeneration" else names[1:]:
        length = inputs["decoder_input_ids" if name.startswith("decoder") else "input_ids"].shape[1]
        positions = torch.arange(length)
        model(**inputs, **{name: positions + ROWS - length})
        with pytest.raises(ValueError, match=f"13 tokens.*{BEYOND}"):
            model(**inputs, **{name: positions + ROWS - length + 1})
        with pytest.raises(ValueError, match=rf"position_ids must be from 0 to 11 .*{BEYOND}.*not -1"):
            model(**inputs, **{name: positions - 1})


@pytest.mark.parametrize("settings", SETTINGS, ids=names)
@pytest.mark.parametrize("case", [CAUSAL, TRANSLATOR], ids=str)
def test_generation_ends_at_the_table_with_a_clear_error(case, settings):
    model = make(case, **LEARNED)
    model.generation_config.eos_token_id = None
    prompt = {"input_ids": inputs_of(case, length=6)["input_ids"], "pad_token_id": 0}
    longest = ROWS if case is TRANSLATOR else ROWS - 5  # the last token is not read again
    assert model.generate(**prompt, max_new_tokens=longest, **settings).shape[1] == ROWS + 1
    with pytest.raises(ValueError, match=f"13 tokens.*{BEYOND}"):
        model.generate(**prompt, max_new_tokens=longest + 1, **settings)


def test_a_static_cache_ends_where_the_table_does():
    model, ids = make(CAUSAL, **LEARNED), inputs_of(CAUSAL, length=ROWS + 1)["input_ids"]
    cache = StaticCache(model.config, max_cache_len=20)
    model(ids[:, :11], past_key_values=cache)
    model(ids[:, 11:12], past_key_values=cache)
    with pytest.raises(ValueError, match=f"13 tokens.*{BEYOND}"):
        model(ids[:, 12:], past_key_values=cache)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("case", TEXT_CASES, ids=str)
def test_padding_needs_no_position(case, side):
    """A row of 16 with 10 tokens fits a table of 12, and equals the row without padding."""
    model, inputs = make(case, **LEARNED).double(), inputs_of(case, length=10)
    expected, padded = answer(case, model(**inputs)), pad(inputs, side, amount=6)
    tokens = padded["attention_mask"].bool()
    for one, other in zip(answer(case, model(**padded)), expected, strict=True):
        if case.per_token and one.shape[1] == tokens.shape[1]:
            one = one[tokens].view_as(other)
        torch.testing.assert_close(one, other, **EXACT)
    padded["attention_mask"][0] = 1  # 16 tokens, of which 12 fit
    with pytest.raises(ValueError, match=f"16 tokens.*{BEYOND}"):
        model(**padded)


@pytest.mark.parametrize("side", ["left", "right"])
def test_padding_of_a_target_needs_no_position(side):
    model, inputs = make(TRANSLATOR, **LEARNED).double(), inputs_of(TRANSLATOR)
    targets = pad({"input_ids": inputs["decoder_input_ids"]}, side, amount=9)
    mask = targets["attention_mask"]
    given = {"input_ids": inputs["input_ids"], "decoder_input_ids": targets["input_ids"]}
    expected = model(**inputs).logits
    for cached in (False, True):
        found = model(**given, decoder_attention_mask=mask, use_cache=cached).logits
        torch.testing.assert_close(found[mask.bool()].view_as(expected), expected, **EXACT)


@pytest.mark.slow
def test_a_graph_takes_padding_beyond_the_table_and_refuses_tokens_there():
    positions, hidden_states = VaswaniLearnedPositions(ROWS, 4), torch.zeros(2, 16, 4)
    mask = (torch.arange(16) >= torch.tensor([[6], [4]])).long()
    torch._dynamo.reset()
    compiled = torch.compile(positions, fullgraph=True, backend="eager")
    given = {"attention_mask": mask}
    torch.testing.assert_close(compiled(hidden_states, **given), positions(hidden_states, **given))
    with pytest.raises(Exception, match=f"16 tokens.*{BEYOND}"):
        compiled(hidden_states)
