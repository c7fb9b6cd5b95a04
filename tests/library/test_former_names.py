"""Weights that older versions saved under other names load under today's, and are saved under today's again."""

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.model_contract import TEXT_CASES, answer, inputs_of, make
from vaswani_tx import VaswaniForImageClassification, VaswaniVisionConfig

FORMER, PRESENT = "embedding.positions.weight", "positional_encoding.positions.weight"


def as_an_older_version_named(tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.replace(PRESENT, FORMER): tensor for name, tensor in tensors.items()}


@pytest.fixture(params=TEXT_CASES, ids=str)
def case(request):
    return request.param


@pytest.fixture
def model(case):
    return make(case, position_embedding="learned")


@pytest.fixture
def older_folder(model, tmp_path):
    folder = tmp_path / "older"
    model.save_pretrained(folder)
    weights = load_file(folder / "model.safetensors")
    assert any(name.endswith(PRESENT) for name in weights)
    save_file(as_an_older_version_named(weights), folder / "model.safetensors", metadata={"format": "pt"})
    return folder


def test_a_folder_of_an_older_version_loads_and_is_saved_under_present_names(case, model, older_folder, tmp_path):
    loaded, report = case.auto_class.from_pretrained(older_folder, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    inputs = inputs_of(case)
    for found, expected in zip(answer(case, loaded(**inputs)), answer(case, model(**inputs)), strict=True):
        assert torch.equal(found, expected)
    loaded.save_pretrained(tmp_path / "again")
    model.save_pretrained(tmp_path / "present")
    again, present = (load_file(tmp_path / name / "model.safetensors") for name in ("again", "present"))
    assert again.keys() == present.keys()
    assert all(torch.equal(again[name], tensor) for name, tensor in present.items())


def test_weights_under_former_names_load_into_a_model(case, model):
    fresh = make(case, position_embedding="learned")
    with torch.no_grad():
        for parameter in fresh.parameters():
            parameter.zero_()
    fresh.load_state_dict(as_an_older_version_named(model.state_dict()))
    for name, parameter in fresh.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name


def test_a_mapping_of_the_callers_own_is_used_too(tmp_path):
    case = TEXT_CASES[0]
    model = make(case, position_embedding="learned")
    model.save_pretrained(tmp_path)
    weights = as_an_older_version_named(load_file(tmp_path / "model.safetensors"))
    weights = {name.replace("layers.", "blocks."): tensor for name, tensor in weights.items()}
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    loaded = case.model_class.from_pretrained(tmp_path, key_mapping={r"^blocks\.": "layers."})
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name


def test_the_embedding_of_patches_keeps_its_name(tmp_path):
    sizes = {"image_size": 8, "patch_size": 4, "d_model": 16, "d_ff": 24, "num_heads": 2, "num_hidden_layers": 1}
    model = VaswaniForImageClassification(VaswaniVisionConfig(position_embedding="learned", **sizes))
    model.save_pretrained(tmp_path)
    assert f"model.{FORMER}" in load_file(tmp_path / "model.safetensors")
    loaded, report = VaswaniForImageClassification.from_pretrained(tmp_path, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys")), report
    for name, parameter in loaded.named_parameters():
        assert torch.equal(parameter, model.get_parameter(name)), name
