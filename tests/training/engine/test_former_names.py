"""Checkpoints of an older version, which named learned positions otherwise, resume exactly and can be averaged."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.training_runs import run
from vaswani_tx import VaswaniForConditionalGeneration
from vaswani_tx.training.engine.averaging import average_checkpoints, save_average

pytest_plugins = ["tests.helpers.training_runs"]
LEARNED = {"model.position_embedding": "learned", "model.max_position_embeddings": 32}


def rename_as_an_older_version_did(checkpoint):
    state = checkpoint / "training_state"
    for path in (checkpoint / "model.safetensors", state / "optimizer.safetensors", state / "ema.safetensors"):
        tensors = load_file(path)
        former = {
            name.replace("positional_encoding.positions", "embedding.positions"): tensors[name] for name in tensors
        }
        assert former.keys() != tensors.keys()
        save_file(former, path, metadata={"format": "pt"})
    sizes = {name: (checkpoint / name).stat().st_size for name in json.loads((state / "files.json").read_text())}
    (state / "files.json").write_text(json.dumps(sizes))


@pytest.mark.usefixtures("fresh_accelerate")
def test_a_run_of_an_older_version_resumes_exactly(reversal, tmp_path):
    options = {**LEARNED, "ema_decay": 0.9, "save_every": 2, "keep_last": 9}
    whole = run(reversal, tmp_path / "whole", max_steps=4, **options)
    older = run(reversal, tmp_path / "older", max_steps=2, **options)
    rename_as_an_older_version_did(older / "checkpoints" / "step-00000002")
    run(reversal, older, max_steps=4, **options)
    last = "checkpoints/step-00000004/"
    for name in ("model.safetensors", "training_state/optimizer.safetensors", "training_state/ema.safetensors"):
        assert (whole / last / name).read_bytes() == (older / last / name).read_bytes(), name
    points = ["checkpoints/step-00000002", "checkpoints/step-00000004"]
    expected = average_checkpoints(whole / point for point in points)
    for order in (points, points[::-1]):
        averaged = average_checkpoints(older / point for point in order)
        assert averaged.keys() == expected.keys()
        assert all(torch.equal(averaged[name], tensor) for name, tensor in expected.items())
    save_average([older / points[0]], tmp_path / "averaged")
    loaded = VaswaniForConditionalGeneration.from_pretrained(tmp_path / "averaged")
    weights = load_file(whole / points[0] / "model.safetensors")
    assert all(torch.equal(loaded.state_dict()[name], tensor) for name, tensor in weights.items())
