"""Batches computed without their padding against the same batches computed whole: loss and every gradient.

The whole batch is what `padding_free(False)` computes, which test_parity.py compares with other implementations.
"""

import pytest
import torch
from torch import nn

from vaswani_tx import (
    VaswaniConfig,
    VaswaniDecoderConfig,
    VaswaniEncoderConfig,
    VaswaniForCausalLM,
    VaswaniForConditionalGeneration,
    VaswaniForMaskedLM,
    VaswaniForSequenceClassification,
    padding_vaswani,
)
from vaswani_tx.padding_vaswani import TokenRows, can_pack, padding_free

SIZES = {
    "vocab_size": 37, "d_model": 16, "d_ff": 24, "num_heads": 2, "num_hidden_layers": 2, "dropout": 0.0,
    "max_position_embeddings": 32,
}  # fmt: skip
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def ids(*shape: int) -> torch.Tensor:
    return torch.randint(4, 37, shape)


def mask_of(lengths: list[int], width: int, side: str = "right") -> torch.Tensor:
    mask = torch.tensor([[1] * length + [0] * (width - length) for length in lengths])
    return mask if side == "right" else mask.flip(1)


def pairs(sources: list[int], targets: list[int], width: int = 9, side: str = "right") -> dict[str, torch.Tensor]:
    mask = mask_of(sources, width, side)
    labels = ids(len(targets), max(*targets, 1)).masked_fill(mask_of(targets, max(*targets, 1)) == 0, -100)
    return {"input_ids": ids(len(sources), width) * mask, "attention_mask": mask, "labels": labels}


def translator(**fields):
    return VaswaniForConditionalGeneration(VaswaniConfig(**SIZES | fields))


def compare(model: nn.Module, batch: dict, dtype=torch.float64, packs: bool = True, **options) -> None:
    """Assert that loss and gradients of both ways are equal, and that rows were gathered where `packs` says so."""
    model = model.to(dtype).train()
    widths = []
    record = model.get_submodule("model").named_modules
    feed_forward = next(module for name, module in record() if name.endswith("layers.0.feed_forward"))
    forward = feed_forward.forward
    feed_forward.forward = lambda states: widths.append(states.shape[0]) or forward(states)
    results = []
    for enabled in (False, True):
        model.zero_grad()
        widths.clear()
        with padding_free(enabled):
            outputs = model(**batch, label_smoothing=0.1, **options)
        outputs.loss.backward()
        results.append((outputs.loss.detach(), {name: p.grad for name, p in model.named_parameters()}))
    assert (widths[0] == 1) is packs
    tolerance = TOLERANCE[dtype]
    (loss, gradients), (found, found_gradients) = results
    assert found.isfinite()
    torch.testing.assert_close(found, loss, atol=tolerance, rtol=0)
    for name, gradient in gradients.items():
        torch.testing.assert_close(found_gradients[name], gradient, atol=tolerance, rtol=0, msg=name)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("norm_order", ["post", "pre"])
def test_random_lengths(dtype, attention, norm_order):
    torch.manual_seed(0)
    model = translator(norm_order=norm_order, attn_implementation=attention, d_k=6, d_v=10)
    for _ in range(3):
        sources, targets = (torch.randint(1, 10, (6,)).tolist() for _ in range(2))
        compare(model, pairs([9, *sources[1:]], targets), dtype, skip_logits=True)


@pytest.mark.parametrize(
    ("sources", "targets"),
    [
        ([9, 4, 1], [5, 2, 7]),
        ([9, 9, 9], [5, 2, 1]),  # only targets are padded
        ([9, 2, 1], [4, 4, 4]),  # only sources are
        ([6, 2, 1], [3, 1, 1]),  # columns that are all padding
        ([5, 5, 5], [3, 1, 1]),  # the same, and sources of equal length
        ([1, 1, 3], [1, 1, 1]),
        ([9, 0, 4], [5, 0, 3]),  # a pair that is all padding
        ([9, 3, 4], [5, 0, 3]),  # a source whose target does not count
        ([1], [1]),
    ],
)
@pytest.mark.parametrize("side", ["right", "left"])
def test_shapes_of_batches(sources, targets, side):
    torch.manual_seed(1)
    compare(translator(), pairs(sources, targets, side=side), skip_logits=True)


@pytest.mark.parametrize(("sources", "targets"), [([9, 0], [3, 2]), ([9, 4], [0, 0]), ([0, 0], [2, 2])])
def test_a_source_without_tokens_for_a_target_is_computed_as_it_is(sources, targets):
    batch = pairs(sources, targets)
    model = translator()
    rows = model._pack(batch["input_ids"], batch["attention_mask"], None, batch["labels"])
    assert rows is None
    assert model(**batch, skip_logits=True).loss.isfinite()


@pytest.mark.parametrize(
    "fields",
    [
        {"source_vocab_size": 41}, {"tie_word_embeddings": False, "lm_head_bias": True, "attention_bias": True},
        {"position_embedding": "learned"}, {"embedding_norm": True, "final_layer_norm": True},
    ],
    ids=lambda fields: next(iter(fields)),
)  # fmt: skip
def test_other_models(fields):
    torch.manual_seed(2)
    compare(translator(**fields), pairs([9, 3, 5], [4, 8, 2], side="left"), skip_logits=True)


def test_holes_in_the_mask_and_a_mask_of_the_target():
    torch.manual_seed(3)
    batch = pairs([9, 7, 5], [8, 6, 3])
    batch["attention_mask"][0, 2:5] = 0
    batch["decoder_attention_mask"] = mask_of([8, 6, 3], 8)
    batch["decoder_attention_mask"][0, :3] = 0  # the target begins later
    batch["labels"][0, :3] = -100
    batch["labels"][1, 2:4] = -100  # these do not count, and later ones look at them
    batch["decoder_input_ids"] = ids(3, 8)
    compare(translator(), batch, skip_logits=True)
    # A label that counts where the mask has none
    batch["labels"][0, 1] = 5
    compare(translator(), batch, packs=False, skip_logits=True)


def test_embeddings_may_be_given():
    torch.manual_seed(4)
    batch = pairs([9, 3, 5], [4, 8, 2])
    del batch["input_ids"]
    states = torch.randn(3, 9, 16, dtype=torch.float64, requires_grad=True)
    model = translator().double()
    found = []
    for enabled in (False, True):
        with padding_free(enabled):
            found.append(torch.autograd.grad(model(**batch, inputs_embeds=states, skip_logits=True).loss, states)[0])
    torch.testing.assert_close(found[0], found[1], atol=1e-12, rtol=0)
    assert found[1][1, 3:].count_nonzero() == 0


@pytest.mark.parametrize("reentrant", [True, False])
def test_gradient_checkpointing(reentrant):
    torch.manual_seed(5)
    model = translator()
    enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
    enable({"use_reentrant": reentrant})
    compare(model, pairs([9, 3, 5], [4, 8, 2]), skip_logits=True)


def test_causal_language_model():
    torch.manual_seed(6)
    model = VaswaniForCausalLM(VaswaniDecoderConfig(**SIZES))
    for side in ("right", "left"):
        mask = mask_of([9, 4, 2], 9, side)
        tokens = ids(3, 9)
        labels = tokens.masked_fill(mask == 0, -100)
        batch = {"input_ids": tokens, "attention_mask": mask, "labels": labels}
        # With padding in front, its last position predicts the first token, and so is one to compute.
        compare(model, batch, packs=side == "right", skip_logits=True)
        first = labels.masked_fill(mask.cumsum(dim=1) == 1, -100)
        compare(model, batch | {"labels": first}, skip_logits=True)
    del batch["attention_mask"]
    compare(model, batch | {"labels": tokens.masked_fill(mask_of([9, 4, 2], 9) == 0, -100)}, skip_logits=True)


def test_masked_language_model_and_classifier():
    torch.manual_seed(7)
    for side in ("right", "left"):
        mask = mask_of([9, 4, 2], 9, side)
        batch = {"input_ids": ids(3, 9), "attention_mask": mask}
        labels = ids(3, 9).masked_fill((mask == 0) | (torch.rand(3, 9) < 0.5), -100)
        compare(VaswaniForMaskedLM(VaswaniEncoderConfig(**SIZES)), batch | {"labels": labels}, skip_logits=True)
        model = VaswaniForSequenceClassification(VaswaniEncoderConfig(**SIZES, num_labels=3))
        compare(model, batch | {"labels": torch.tensor([0, 2, 1])})


def test_bfloat16_under_autocast():
    torch.manual_seed(8)
    model, batch = translator(), pairs([9, 3, 5], [4, 8, 2])
    losses = []
    for enabled in (False, True):
        with padding_free(enabled), torch.autocast("cpu", torch.bfloat16):
            losses.append(model(**batch, skip_logits=True, label_smoothing=0.1).loss)
        losses[-1].backward()
    assert all(p.grad.isfinite().all() for p in model.parameters())
    torch.testing.assert_close(losses[0], losses[1], atol=2e-3, rtol=0)


def test_padding_is_never_read():
    torch.manual_seed(9)
    model = translator(pad_token_id=0)
    batch = pairs([9, 3, 5], [2, 8, 2])
    model.lm_head.weight = nn.Parameter(model.lm_head.weight.detach().clone())  # not tied: it keeps the row of padding
    expected = model(**batch, skip_logits=True).loss
    with torch.no_grad():
        model.model.shared.weight[0] = float("nan")
    loss = model(**batch, skip_logits=True).loss
    loss.backward()
    assert loss == expected
    assert all(p.grad.isfinite().all() for p in model.parameters())


def test_states_keep_their_shape():
    model, batch = translator().eval(), pairs([9, 3, 5], [4, 8, 2])
    whole = model(**batch).encoder_last_hidden_state
    found = model(**batch, skip_logits=True).encoder_last_hidden_state
    is_token = batch["attention_mask"] != 0
    assert found.shape == whole.shape
    torch.testing.assert_close(found[is_token], whole[is_token])
    assert found[~is_token].count_nonzero() == 0


@pytest.mark.parametrize("option", ["output_attentions", "output_hidden_states"])
def test_records_are_of_whole_batches(option):
    model, batch = translator(attn_implementation="eager"), pairs([9, 3, 5], [4, 8, 2])
    outputs = model(**batch, skip_logits=True, **{option: True})
    assert outputs[option.replace("output", "decoder")][0].shape[0] == 3


def test_hooks_of_users_see_whole_batches():
    model, batch, shapes = translator(), pairs([9, 3, 5], [4, 8, 2]), []
    handle = model.model.encoder.layers[0].register_forward_hook(lambda *found: shapes.append(found[-1].shape))
    model(**batch, skip_logits=True)
    assert shapes == [(3, 9, 16)]
    handle.remove()
    assert can_pack(model.model, batch["attention_mask"])
    model(**batch, output_hidden_states=True)  # transformers hooks its recorders in
    assert can_pack(model.model, batch["attention_mask"])


def test_what_is_computed_whole():
    model, batch = translator(), pairs([9, 3, 5], [4, 8, 2])
    mask = batch["attention_mask"]
    assert not can_pack(model.model, mask[:, None, None])
    assert not can_pack(model.model, mask, position_ids=mask)
    assert not can_pack(model.model, mask, output_attentions=True)
    assert not can_pack(translator(decoder_cell="ssru").model, mask)
    with padding_free(False):
        assert not can_pack(model.model, mask)
    assert can_pack(model.model, mask)
    compare(translator(decoder_cell="ssru"), batch, packs=False, skip_logits=True)


def test_nearly_full_batches_are_computed_with_their_padding(monkeypatch):
    torch.manual_seed(10)
    batch = pairs([9, 9, 8, 9], [6, 6, 6, 5])
    monkeypatch.setattr(padding_vaswani, "WHOLE_FROM", 0.9)
    rows = TokenRows.of_mask(batch["attention_mask"] != 0)
    assert rows.is_whole and rows.key_mask.shape == (4, 1, 1, 9)
    compare(translator(), batch, skip_logits=True)
    batch["attention_mask"][2] = 0
    batch["labels"][2] = -100
    monkeypatch.setattr(padding_vaswani, "WHOLE_FROM", 0.7)
    compare(translator(), batch, skip_logits=True)


def test_rows_are_put_back_in_their_places():
    is_token = mask_of([2, 0, 3], 4) != 0
    rows, states = TokenRows.of_mask(is_token), torch.randn(3, 4, 5)
    packed = rows.take(states)
    torch.testing.assert_close(packed[0], states[is_token])
    torch.testing.assert_close(rows.put(packed), states * is_token[..., None])
    torch.testing.assert_close(rows.unbatched(rows.batched(packed)), packed)
    assert rows.limits.tolist() == [0, 2, 2, 5] and rows.width == 3
