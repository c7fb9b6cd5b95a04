"""The image models: parity with ViT, positions on any grid, losses, masks, and what transformers does with a model."""

import logging
import math

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import (
    AutoConfig,
    AutoImageProcessor,
    AutoModel,
    AutoModelForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    pipeline,
)

from vaswani_tx import (
    VaswaniForImageClassification,
    VaswaniImageProcessor,
    VaswaniVisionConfig,
    VaswaniVisionModel,
)

TASK_SPECS = ("sinusoidal", "sinusoidal_2d", "learned")
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}
SMALL = {
    "d_model": 16, "d_ff": 24, "num_heads": 2, "num_hidden_layers": 2, "image_size": [8, 12], "patch_size": [2, 3],
    "num_channels": 1, "dropout": 0.0, "num_labels": 3,
}  # fmt: skip


def make(model_class=VaswaniForImageClassification, **fields):
    torch.manual_seed(0)
    return model_class(VaswaniVisionConfig(**{**SMALL, **fields})).eval()


def images(count=3, channels=1, height=8, width=12, seed=1):
    return torch.randn(count, channels, height, width, generator=torch.Generator().manual_seed(seed))


def row(position: int, width: int) -> list[float]:
    """Section 3.5's formula, entry by entry."""
    angles = [position / 10000 ** (2 * i / width) for i in range(width // 2)]
    return [value for angle in angles for value in (math.sin(angle), math.cos(angle))]


def plain_positions(kind: str, rows: int, columns: int, d_model: int) -> np.ndarray:
    """The encoding of the class token and the patches, [1 + P, D], patch by patch."""
    if kind == "sinusoidal":
        return np.array([row(position, d_model) for position in range(1 + rows * columns)])
    places = [(0, 0)] + [(1 + i, 1 + j) for i in range(rows) for j in range(columns)]
    return np.array([row(i, d_model // 2) + row(j, d_model // 2) for i, j in places])


# Beside transformers' ViT


@torch.no_grad()
def copy_from_vit(theirs, ours):
    """Copies a ViT's weights into our model, name by name."""
    source, target = theirs.vit, ours.model
    embedding = target.embedding
    embedding.projection.load_state_dict(source.embeddings.patch_embeddings.projection.state_dict())
    embedding.class_token.copy_(source.embeddings.cls_token)
    embedding.positions.weight.copy_(source.embeddings.position_embeddings[0])
    for layer, reference in zip(target.layers, source.layers, strict=True):
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            getattr(layer.self_attn, name).load_state_dict(getattr(reference.attention, name).state_dict())
        layer.self_attn_residual.norm.load_state_dict(reference.layernorm_before.state_dict())
        layer.feed_forward_residual.norm.load_state_dict(reference.layernorm_after.state_dict())
        layer.feed_forward.fc1.load_state_dict(reference.mlp.fc1.state_dict())
        layer.feed_forward.fc2.load_state_dict(reference.mlp.fc2.state_dict())
    target.final_norm.load_state_dict(source.layernorm.state_dict())
    ours.classifier.load_state_dict(theirs.classifier.state_dict())


def vit_and_ours(dtype):
    torch.manual_seed(2)
    sizes = {"image_size": 12, "patch_size": 3, "num_channels": 3, "num_labels": 5, "num_hidden_layers": 3}
    theirs = ViTForImageClassification(
        ViTConfig(
            hidden_size=16, intermediate_size=24, num_attention_heads=4, hidden_dropout_prob=0.0,
            attention_probs_dropout_prob=0.0, **sizes,
        )
    ).to(dtype).eval()  # fmt: skip
    with torch.no_grad():
        for parameter in theirs.parameters():  # biases and gains too must differ from 0 and 1
            parameter.add_(torch.randn_like(parameter) * 0.1)
    config = VaswaniVisionConfig(
        d_model=16, d_ff=24, num_heads=4, dropout=0.0, norm_order="pre", final_layer_norm=True, attention_bias=True,
        activation_function="gelu", layer_norm_eps=1e-12, position_embedding="learned", **sizes,
    )  # fmt: skip
    ours = VaswaniForImageClassification(config).to(dtype).eval()
    copy_from_vit(theirs, ours)
    return theirs, ours


# Not eager in float64: the softmax of ViT's eager attention is in float32 there, ours is not.
@pytest.mark.parametrize(
    "dtype, implementation", [(torch.float32, "eager"), (torch.float32, "sdpa"), (torch.float64, "sdpa")]
)
def test_states_logits_loss_and_gradients_equal_vits(dtype, implementation):
    theirs, ours = vit_and_ours(dtype)
    for model in (theirs, ours):
        model.set_attn_implementation(implementation)
    pixels, labels = images(4, 3, 12, 12).to(dtype), torch.tensor([0, 4, 2, 2])
    asked = {"labels": labels, "output_hidden_states": True}
    reference, found = theirs(pixels, **asked), ours(pixels, **asked)
    # The last entry is the normalised state with us, as in our other families.
    for state, other in zip(found.hidden_states[:-1], reference.hidden_states[:-1], strict=True):
        torch.testing.assert_close(state, other, atol=TOLERANCE[dtype], rtol=0)
    last = theirs.vit(pixels).last_hidden_state
    torch.testing.assert_close(ours.model(pixels).last_hidden_state, last, atol=TOLERANCE[dtype], rtol=0)
    torch.testing.assert_close(found.logits, reference.logits, atol=TOLERANCE[dtype], rtol=0)
    torch.testing.assert_close(found.loss, reference.loss, atol=TOLERANCE[dtype], rtol=0)
    reference.loss.backward()
    found.loss.backward()
    mine, other = ours.model.embedding, theirs.vit.embeddings
    for gradient, expected in (
        (mine.projection.weight.grad, other.patch_embeddings.projection.weight.grad),
        (mine.positions.weight.grad, other.position_embeddings.grad[0]),
        (mine.class_token.grad, other.cls_token.grad),
    ):
        torch.testing.assert_close(gradient, expected, atol=TOLERANCE[dtype], rtol=TOLERANCE[dtype])


@pytest.mark.parametrize("size", [(15, 15), (6, 24), (24, 6), (9, 12), (3, 3)])
def test_learned_positions_between_patches_equal_vits(size):
    theirs, ours = vit_and_ours(torch.float64)
    pixels = images(2, 3, *size).double()
    reference = theirs(pixels, interpolate_pos_encoding=True).logits
    torch.testing.assert_close(ours(pixels, interpolate_pos_encoding=True).logits, reference, atol=1e-12, rtol=0)


# Positions


@pytest.mark.parametrize("kind", ["sinusoidal", "sinusoidal_2d"])
@pytest.mark.parametrize("grid", [(4, 4), (1, 1), (3, 7), (9, 2)])
def test_sinusoids_follow_the_formula_on_any_grid(kind, grid):
    positions = make(VaswaniVisionModel, position_embedding=kind).double().embedding.positions
    found = positions(torch.zeros(1, 1 + grid[0] * grid[1], 16, dtype=torch.float64), grid)
    np.testing.assert_allclose(found.numpy(), plain_positions(kind, *grid, 16), atol=1e-14)


@pytest.mark.parametrize("kind", TASK_SPECS)
def test_positions_reach_the_patches_that_they_belong_to(kind):
    model = make(VaswaniVisionModel, position_embedding=kind)
    pixels = images(2)
    found = model.embedding(pixels).detach()
    assert found.shape == (2, 17, 16)
    if kind == "learned":
        table = model.embedding.positions.weight.detach().numpy()
    else:
        table = plain_positions(kind, 4, 4, 16)
    weight, bias = model.embedding.projection.weight[:, 0], model.embedding.projection.bias
    first = model.embedding.class_token.detach().numpy()[0] + table[:1]
    np.testing.assert_allclose(found[:, 0].numpy(), np.repeat(first, 2, axis=0), atol=1e-5)
    for i in range(4):
        for j in range(4):
            patch = pixels[:, 0, 2 * i : 2 * i + 2, 3 * j : 3 * j + 3]
            plain = torch.einsum("bxy,dxy->bd", patch, weight) + bias
            expected = plain.detach().numpy() + table[1 + 4 * i + j]
            np.testing.assert_allclose(found[:, 1 + 4 * i + j].numpy(), expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["sinusoidal", "sinusoidal_2d"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_a_loaded_model_has_its_sinusoids_in_every_type(kind, dtype, tmp_path):
    model = make(VaswaniVisionModel, position_embedding=kind)
    model.save_pretrained(tmp_path)
    loaded = VaswaniVisionModel.from_pretrained(tmp_path, dtype=dtype)
    assert not any("table" in name for name in model.state_dict())
    expected = torch.from_numpy(plain_positions(kind, 4, 4, 16)).to(dtype)
    for found in (loaded, model.to(dtype)):
        positions = found.embedding.positions(torch.zeros(1, 17, 16, dtype=dtype), (4, 4))
        torch.testing.assert_close(positions, expected, atol=1e-7, rtol=0)
    assert torch.isfinite(loaded(images().to(dtype)).last_hidden_state).all()


def test_an_image_twice_as_large_has_four_times_the_patches():
    for kind in TASK_SPECS:
        model = make(VaswaniVisionModel, position_embedding=kind)
        large = model(images(2, height=16, width=24), interpolate_pos_encoding=True)
        assert large.last_hidden_state.shape == (2, 65, 16)
        same = model(images(2), interpolate_pos_encoding=True).last_hidden_state
        torch.testing.assert_close(same, model(images(2)).last_hidden_state)


@pytest.mark.parametrize(
    "shape, options, expected",
    [
        ((1, 1, 16, 24), {}, r"16 x 24 pixels do not match config.image_size 8 x 12.*interpolate_pos_encoding=True"),
        ((1, 1, 9, 12), {"interpolate_pos_encoding": True}, r"not made of whole patches of 2 x 3.*multiples"),
        ((1, 3, 8, 12), {}, r"must be \[B, 1, height, width\].*\[1, 3, 8, 12\].*num_channels"),
        ((8, 12), {}, r"must be \[B, 1, height, width\].*\[8, 12\]"),
    ],
)
def test_an_image_that_does_not_suit_is_reported_with_a_fix(shape, options, expected):
    with pytest.raises(ValueError, match=expected):
        make()(torch.zeros(shape), **options)


def test_no_image_is_an_error():
    with pytest.raises(ValueError, match="Give pixel_values"):
        make()()


def test_new_patches_and_class_tokens_are_as_large_as_scaled_embeddings():
    model = make(VaswaniVisionModel, d_model=256, d_ff=16, num_heads=2, image_size=32, patch_size=8, num_channels=3)
    embedding = model.embedding
    patches = embedding.projection(images(8, 3, 32, 32))
    assert patches.std().item() == pytest.approx(1, abs=0.05)
    assert embedding.class_token.std().item() == pytest.approx(1, abs=0.15)
    assert not embedding.projection.bias.any()


# Losses


def test_problem_types_are_derived_and_their_losses_exact_over_a_window():
    pixels = images(6)
    cases = {
        "single_label_classification": (3, torch.tensor([0, 1, 2, 2, 1, 0])),
        "multi_label_classification": (3, torch.rand(6, 3).round()),
        "regression": (1, torch.randn(6)),
    }
    for problem, (num_labels, labels) in cases.items():
        model = make(num_labels=num_labels)
        whole = model(pixels, labels=labels)
        assert model.config.problem_type == problem
        logits = whole.logits.detach()
        plain = {
            "single_label_classification": lambda x, y: torch.nn.functional.cross_entropy(x, y),
            "multi_label_classification": lambda x, y: torch.nn.functional.binary_cross_entropy_with_logits(x, y),
            "regression": lambda x, y: torch.nn.functional.mse_loss(x[:, 0], y),
        }[problem](logits, labels)
        torch.testing.assert_close(whole.loss.detach(), plain)
        # Unequal parts of a window with its divisor add up to the whole.
        items = labels.numel()
        parts = [model(pixels[s], labels=labels[s], num_items_in_batch=items).loss for s in (slice(2), slice(2, 6))]
        torch.testing.assert_close(sum(parts).detach(), plain)


def test_wrong_labels_are_refused_and_smoothing_is_the_textbooks():
    model, pixels, labels = make(), images(2), torch.tensor([0, 2])
    with pytest.raises(ValueError, match="problem_type"):
        make(problem_type="multi_label_classification")(pixels, labels=labels)
    outputs = model(pixels, labels=labels, label_smoothing=0.1)
    expected = torch.nn.functional.cross_entropy(outputs.logits, labels, label_smoothing=0.1)
    torch.testing.assert_close(outputs.loss, expected)


# Masks and records


@pytest.mark.parametrize("implementation", ["eager", "sdpa"])
def test_masked_patches_do_not_count(implementation):
    model = make(VaswaniVisionModel)
    model.set_attn_implementation(implementation)
    pixels = images(2)
    mask = torch.ones(2, 17, dtype=torch.long)
    mask[:, 1:5] = 0  # the first row of patches
    changed = pixels.clone()
    changed[:, :, :2] += 9.0
    square = mask[:, None, None].bool().expand(-1, 1, 17, -1)
    seen = mask[0].bool()
    for attention_mask in (mask, square):
        first = model(pixels, attention_mask=attention_mask).last_hidden_state[:, seen]
        second = model(changed, attention_mask=attention_mask).last_hidden_state[:, seen]
        torch.testing.assert_close(first, second)
    assert not torch.allclose(model(pixels).pooler_output, model(changed).pooler_output)


def test_records_and_tuples():
    model = make()
    outputs = model(images(), output_hidden_states=True, output_attentions=True, output_queries=True, output_keys=True)
    assert [state.shape for state in outputs.hidden_states] == [(3, 17, 16)] * 3
    assert [weights.shape for weights in outputs.attentions] == [(3, 2, 17, 17)] * 2
    assert len(outputs.queries) == len(outputs.keys) == 2
    torch.testing.assert_close(outputs.attentions[0].sum(-1), torch.ones(3, 2, 17))
    bare = model.model(images(), output_hidden_states=True)
    torch.testing.assert_close(bare.pooler_output, bare.last_hidden_state[:, 0])
    torch.testing.assert_close(bare.hidden_states[-1], bare.last_hidden_state)
    assert model(images(), return_dict=False)[0].shape == (3, 3)
    first, second = model.model(images(), return_dict=False)
    assert first.shape == (3, 17, 16) and second.shape == (3, 16)


# What transformers does with a model


@pytest.mark.fresh
@pytest.mark.parametrize("kind", TASK_SPECS)
def test_compiles_to_one_graph(kind):
    model = make(position_embedding=kind)
    compiled = torch.compile(model, fullgraph=True, backend="aot_eager")
    labels = torch.tensor([0, 1, 2])
    found, expected = compiled(images(), labels=labels), model(images(), labels=labels)
    torch.testing.assert_close(found.logits, expected.logits)
    torch.testing.assert_close(found.loss, expected.loss)
    large = {"pixel_values": images(height=4, width=24), "interpolate_pos_encoding": True}
    torch.testing.assert_close(compiled(**large).logits, model(**large).logits)


def test_an_exported_classifier_takes_any_number_of_images():
    model = make()
    shapes = {"pixel_values": {0: torch.export.Dim("rows", max=64)}}
    program = torch.export.export(model, (), {"pixel_values": images()}, dynamic_shapes=shapes).module()
    for batch in (1, 3, 7):
        found, expected = program(pixel_values=images(batch)).logits, model(images(batch)).logits
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_types_stay_close_and_take_float32_images(dtype):
    for kind in TASK_SPECS:
        model = make(position_embedding=kind)
        expected = model(images()).logits
        half = make(position_embedding=kind).to(dtype)
        found = half(images(), labels=torch.tensor([0, 1, 2]))
        assert found.logits.dtype == dtype and found.loss.dtype == torch.float32
        torch.testing.assert_close(found.logits.float(), expected, atol=0.05, rtol=0.05)
        large = images(height=16, width=12)
        assert half(large, interpolate_pos_encoding=True).logits.dtype == dtype


def test_the_dropouts_act_where_they_are_set():
    model = make(classifier_dropout=0.5).train()
    assert model.dropout.p == 0.5 and model.model.embedding.dropout.p == 0.0
    assert make(dropout=0.3).dropout.p == 0.3
    assert not torch.equal(model(images()).logits, model(images()).logits)


def test_saved_and_loaded_through_the_auto_classes(tmp_path):
    names = {"id2label": {0: "cat", 1: "dog", 2: "eel"}, "label2id": {"cat": 0, "dog": 1, "eel": 2}}
    model = make(position_embedding="sinusoidal_2d", **names)
    model.save_pretrained(tmp_path)
    assert isinstance(AutoConfig.from_pretrained(tmp_path), VaswaniVisionConfig)
    for loaded in (
        AutoModelForImageClassification.from_pretrained(tmp_path),
        AutoModelForImageClassification.from_pretrained(tmp_path, device_map="cpu"),
    ):
        assert isinstance(loaded, VaswaniForImageClassification) and loaded.config.id2label[2] == "eel"
        torch.testing.assert_close(loaded(images()).logits, model(images()).logits)
    bare = AutoModel.from_pretrained(tmp_path)
    assert isinstance(bare, VaswaniVisionModel)
    torch.testing.assert_close(bare(images()).last_hidden_state, model.model(images()).last_hidden_state)


def test_the_pipeline_names_the_classes_without_a_complaint(tmp_path, caplog):
    model = make(id2label={0: "cat", 1: "dog", 2: "eel"}, label2id={"cat": 0, "dog": 1, "eel": 2})
    model.save_pretrained(tmp_path)
    VaswaniImageProcessor.from_config(model.config).save_pretrained(tmp_path)
    logging.getLogger("transformers").propagate = True
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 30, 3), dtype=np.uint8))
    try:
        with caplog.at_level(logging.WARNING):
            answer = pipeline("image-classification", model=str(tmp_path))(picture)
            batch = pipeline("image-classification", model=str(tmp_path))([picture] * 3, batch_size=2, top_k=1)
    finally:
        logging.getLogger("transformers").propagate = False
    assert "not supported" not in caplog.text
    assert {entry["label"] for entry in answer} == {"cat", "dog", "eel"}
    pixels = AutoImageProcessor.from_pretrained(tmp_path)(picture, return_tensors="pt").pixel_values
    shares = model(pixels).logits.softmax(-1)[0]
    for entry in answer:
        assert entry["score"] == pytest.approx(shares[model.config.label2id[entry["label"]]].item(), abs=1e-6)
    assert [entries[0]["label"] for entries in batch] == [answer[0]["label"]] * 3
