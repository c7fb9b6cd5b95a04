"""Masks of every shape: the causal stacks take those that Llama takes, and read them alike, with a cache or without."""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.helpers.model_contract import BY_NAME, EXACT, inputs_of, labels_of, make

CASES = [BY_NAME["VaswaniForCausalLM"], BY_NAME["VaswaniForConditionalGeneration"]]
LENGTH = 6
# A mask for 6 tokens -> the mask of 6 columns that it amounts to.
MASKS = {
    "longer": ([1] * 9, [1] * 6),
    "longer, padded in front": ([0, 0, 0] + [1] * 6, [0, 0, 0, 1, 1, 1]),
    "longer, padded behind": ([1] * 4 + [0] * 5, [1, 1, 1, 1, 0, 0]),
    "shorter": ([1] * 4, [1, 1, 1, 1, 0, 0]),
    "shorter, padded in front": ([0, 0, 1, 1], [0, 0, 1, 1, 0, 0]),
}


def small_llama():
    torch.manual_seed(3)
    sizes = {"hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2}
    return LlamaForCausalLM(
        LlamaConfig(vocab_size=50, num_key_value_heads=2, **sizes)
    ).eval()  # its eager softmax is in float32


def logits(model, ids: torch.Tensor, mask: torch.Tensor, **settings) -> torch.Tensor:
    if model.config.is_encoder_decoder:
        return model(input_ids=ids, decoder_input_ids=ids, decoder_attention_mask=mask, **settings).logits
    return model(ids, attention_mask=mask, **settings).logits


@pytest.mark.parametrize("implementation", ["sdpa", "eager"])
@pytest.mark.parametrize("name", MASKS)
def test_a_mask_of_another_length_is_read_as_llama_reads_it(name, implementation):
    ids, (given, meant) = inputs_of(CASES[0], length=LENGTH)["input_ids"], MASKS[name]
    for model in (small_llama(), *(make(case).double() for case in CASES)):
        model.set_attn_implementation(implementation)
        is_ours = not isinstance(model, LlamaForCausalLM)
        caches, atol = ([{}, {"use_cache": False}], 1e-12) if is_ours else ([{}], 1e-6)
        expected, seen = logits(model, ids, torch.tensor([meant] * 3)), torch.tensor(meant).bool()
        for mask in (torch.tensor([given] * 3), torch.tensor([given] * 3).bool(), torch.tensor([given] * 3).float()):
            for settings in caches:
                found = logits(model, ids, mask, **settings)
                torch.testing.assert_close(found[:, seen], expected[:, seen], atol=atol, rtol=0)


def test_a_longer_mask_trains_too():
    for case in CASES:
        model, inputs = make(case).double(), inputs_of(case, length=LENGTH)
        labels, length = labels_of(case, inputs), inputs["decoder_input_ids" if case.crosses else "input_ids"].shape[1]
        name = "decoder_attention_mask" if case.crosses else "attention_mask"
        expected = model(**inputs, **labels).loss
        found = model(**inputs, **labels, **{name: torch.ones(3, length + 3, dtype=torch.long)}).loss
        torch.testing.assert_close(found, expected, **EXACT)


@pytest.mark.parametrize("positions", ["sinusoidal", "learned"])
def test_a_padded_start_of_a_target_is_read_alike_by_every_cache(positions):
    model = make(CASES[1], position_embedding=positions, max_position_embeddings=24)
    model.generation_config.eos_token_id = None
    inputs = inputs_of(CASES[1])
    start, mask = inputs["decoder_input_ids"], torch.ones(3, 5, dtype=torch.long)
    start[:, 0], mask[0, :2], mask[1, :1] = model.config.decoder_start_token_id, 0, 0
    given = {**inputs, "decoder_attention_mask": mask, "num_beams": 1, "max_new_tokens": 5}
    given |= {"output_logits": True, "return_dict_in_generate": True}
    for settings in ({}, {"cache_implementation": "static"}, {"use_cache": False}):
        found = model.generate(**given, **settings)
        for row, padding in enumerate((2, 1, 0)):
            tokens = found.sequences[row : row + 1, padding:-1]
            one = model(input_ids=inputs["input_ids"][row : row + 1], decoder_input_ids=tokens).logits[0, -5:]
            torch.testing.assert_close(torch.stack(found.logits, dim=1)[row], one, atol=1e-5, rtol=0)
