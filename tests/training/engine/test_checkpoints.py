"""Checkpoints are whole or absent, whatever happens while they are written."""

import errno
import json
import random

import numpy as np
import pytest
import torch
from safetensors import SafetensorError

from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration
from vaswani_tx.training import files
from vaswani_tx.training.engine import checkpoints
from vaswani_tx.training.engine.checkpoints import (
    latest_checkpoint,
    list_checkpoints,
    nested_optimizer_state,
    optimizer_tensors,
    prune,
    read_optimizer,
    read_rng,
    read_state,
    restore_rng,
    rng_state,
    step_folder,
    write_checkpoint,
)
from vaswani_tx.training.errors import CheckpointError
from vaswani_tx.training.files import atomic_folder, atomic_text, clean_leftovers
from vaswani_tx.training.models.loading import load_pretrained

CPU = torch.device("cpu")
TENSORS = {"weight/exp_avg": torch.arange(6.0).reshape(2, 3), "weight/step": torch.tensor(4.0)}


def write(parent, step, tensors=TENSORS):
    def write_model(folder):
        (folder / "config.json").write_text("{}")

    return write_checkpoint(step_folder(parent, step), write_model, {"step": step}, tensors, [rng_state(CPU)])


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_a_checkpoint_reads_back(tmp_path):
    folder = write(tmp_path, 1000)
    assert folder.name == "step-00001000"
    assert read_state(folder) == {"step": 1000}
    for name, tensor in read_optimizer(folder).items():
        assert torch.equal(tensor, TENSORS[name])
    assert nested_optimizer_state(TENSORS)["weight"].keys() == {"exp_avg", "step"}
    assert optimizer_tensors(nested_optimizer_state(TENSORS)).keys() == TENSORS.keys()
    assert names(tmp_path) == ["step-00001000"]


def test_random_states_come_back_bit_by_bit(tmp_path):
    folder = write(tmp_path, 1)
    drawn = torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
    restore_rng(read_rng(folder)[0], CPU)
    again = torch.rand(3), np.random.rand(3), random.random()  # noqa: NPY002
    assert torch.equal(drawn[0], again[0])
    assert (drawn[1] == again[1]).all()
    assert drawn[2] == again[2]


@pytest.mark.parametrize(
    "error",
    [OSError(errno.ENOSPC, "No space left on device"), SafetensorError("I/O error: No space left (os error 28)")],
)
def test_a_full_disk_leaves_the_earlier_checkpoint_and_nothing_else(tmp_path, monkeypatch, error):
    earlier = write(tmp_path, 1)

    def full(tensors, path):
        path.write_bytes(b"half")
        raise error

    monkeypatch.setattr(checkpoints, "save_file", full)
    with pytest.raises(CheckpointError, match=r"step-00000002.*the disk is full.*Free some space"):
        write(tmp_path, 2)
    with pytest.raises(CheckpointError, match="the disk is full"):
        write(tmp_path, 1)
    assert names(tmp_path) == [earlier.name]
    assert read_state(earlier) == {"step": 1}


def test_any_other_error_passes_through_and_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError), atomic_folder(tmp_path / "new"):
        raise ZeroDivisionError
    assert names(tmp_path) == []


def test_an_existing_folder_is_replaced_only_when_asked(tmp_path):
    with atomic_folder(tmp_path / "best") as folder:
        (folder / "a").write_text("1")
    with pytest.raises(CheckpointError, match="exists already"), atomic_folder(tmp_path / "best"):
        pass
    with atomic_folder(tmp_path / "best", replace=True) as folder:
        (folder / "b").write_text("2")
    assert names(tmp_path) == ["best"]
    assert names(tmp_path / "best") == ["b"]


def test_leftovers_of_a_killed_process_go_and_what_it_replaced_comes_back(tmp_path):
    for name in (".tmp-step-00000002", ".old-best", ".old-averaged", "averaged", "other"):
        (tmp_path / name).mkdir()
    (tmp_path / ".old-best" / "weights").write_text("whole")
    (tmp_path / ".tmp-recipe.yaml").write_text("half")
    clean_leftovers(tmp_path)
    assert names(tmp_path) == ["averaged", "best", "other"]
    assert (tmp_path / "best" / "weights").read_text() == "whole"


def test_only_whole_checkpoints_are_listed_and_the_oldest_are_pruned(tmp_path):
    for step in (5, 20, 100_000_000):
        write(tmp_path, step)
    (tmp_path / ".tmp-step-00000030").mkdir()
    (tmp_path / "step-best").mkdir()
    assert [int(path.name[5:]) for path in list_checkpoints(tmp_path)] == [5, 20, 100_000_000]
    assert latest_checkpoint(tmp_path).name == "step-100000000"
    prune(tmp_path, keep=2)
    assert [int(path.name[5:]) for path in list_checkpoints(tmp_path)] == [20, 100_000_000]
    assert latest_checkpoint(tmp_path / "none") is None


@pytest.mark.parametrize("name", ["config.json", "training_state/rng.json", "training_state/optimizer.safetensors"])
@pytest.mark.parametrize("damage", ["truncate", "delete"])
def test_damage_is_named_with_the_fix(tmp_path, name, damage):
    write(tmp_path, 1)
    folder = write(tmp_path, 2)
    path = folder / name
    if damage == "truncate":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    with pytest.raises(CheckpointError, match=rf"{path.name}.*Delete .*step-00000002.*resume from 'step-00000001'"):
        read_state(folder)


def test_what_is_no_checkpoint_is_named(tmp_path):
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        read_state(tmp_path / "none")
    with pytest.raises(CheckpointError, match="--init-from"):
        read_state(tmp_path)
    folder = write(tmp_path, 1)
    (folder / "training_state" / "state.json").write_text("{")
    sizes = json.loads((folder / "training_state" / "files.json").read_text())
    sizes["training_state/state.json"] = 1
    (folder / "training_state" / "files.json").write_text(json.dumps(sizes))
    with pytest.raises(CheckpointError, match=r"state\.json' is damaged"):
        read_state(folder)


def test_a_model_folder_that_is_missing_or_damaged_is_named(tmp_path):
    config = VaswaniConfig(vocab_size=20, d_model=8, d_ff=8, num_heads=2, encoder_layers=1, decoder_layers=1)
    VaswaniForConditionalGeneration(config).save_pretrained(tmp_path / "model")
    assert load_pretrained(VaswaniForConditionalGeneration, tmp_path / "model").config.d_model == 8
    weights = tmp_path / "model" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors' is damaged"):
        load_pretrained(VaswaniForConditionalGeneration, tmp_path / "model")
    weights.unlink()
    with pytest.raises(CheckpointError, match="has no weights"):
        load_pretrained(VaswaniForConditionalGeneration, tmp_path / "model")
    with pytest.raises(CheckpointError, match="no checkpoint folder"):
        load_pretrained(VaswaniForConditionalGeneration, tmp_path / "none")


def test_small_files_are_whole_or_as_they_were(tmp_path, monkeypatch):
    atomic_text(tmp_path / "note", "first")
    monkeypatch.setattr(files.os, "fsync", lambda _: (_ for _ in ()).throw(OSError(errno.ENOSPC, "No space")))
    with pytest.raises(CheckpointError, match="the disk is full"):
        atomic_text(tmp_path / "note", "second")
    assert (tmp_path / "note").read_text() == "first"
    assert names(tmp_path) == ["note"]


@pytest.mark.parametrize("name", ["state.json", "rng.json", "files.json"])
@pytest.mark.parametrize("text", ["[" * 5000, "null", "3", '"x"', "[1]"])
def test_a_damaged_training_state_is_named(tmp_path, name, text):
    folder = write(tmp_path, 1)
    inner = folder / "training_state"
    sizes = json.loads((inner / "files.json").read_text())
    (inner / name).write_text(text)
    if name != "files.json":
        (inner / "files.json").write_text(json.dumps(sizes | {f"training_state/{name}": len(text)}))
    with pytest.raises(CheckpointError, match=rf"{name}' is damaged"):
        read_state(folder)
        read_rng(folder)
