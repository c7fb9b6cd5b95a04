"""Checkpoints of TensorFlow, read without it."""

import pytest
import torch

from tests.convert.plain_bundle import crc32c as plain_crc32c
from tests.convert.plain_bundle import write_bundle
from vaswani_tx.convert.tensor_bundle import crc32c, find_prefix, read_bundle
from vaswani_tx.errors import CheckpointError

TENSORS = {
    "model/layer_0/kernel": torch.randn(3, 5),
    "model/layer_0/kernel/Adam": torch.randn(3, 5).double(),
    "model/layer_10/bias": torch.randn(7).bfloat16(),
    "model/step": torch.tensor(12345678901),
    "a": torch.randn(2, 1, 4).half(),
    "empty": torch.zeros(0, 4),
}


@pytest.fixture
def prefix(tmp_path):
    write_bundle(tmp_path / "model.ckpt-250", TENSORS, block=2)
    return tmp_path / "model.ckpt-250"


def test_tensors_come_back_with_names_shapes_and_types(prefix):
    bundle = read_bundle(prefix)
    assert list(bundle.entries) == sorted(TENSORS)
    for name, tensor in TENSORS.items():
        found = bundle.tensor(name)
        assert found.dtype == tensor.dtype and torch.equal(found, tensor), name


def test_the_sum_of_bytes_is_that_of_the_standard():
    assert crc32c(b"123456789") == 0xE3069283
    for length in (0, 1, 3, 4, 1023, 1024, 1025, 5000):
        data = bytes(range(256)) * 20
        assert crc32c(data[:length]) == plain_crc32c(data[:length]), length


def test_the_last_checkpoint_of_a_folder_is_found(prefix):
    write_bundle(prefix.with_name("model.ckpt-1000"), {"a": torch.ones(1)})
    assert find_prefix(prefix.parent) == prefix.with_name("model.ckpt-1000")
    assert find_prefix(prefix) == find_prefix(prefix.with_name("model.ckpt-250.index")) == prefix
    assert find_prefix(prefix.with_name("other")) is None


@pytest.mark.parametrize("place", [0, 40, -45, -3])
def test_a_damaged_index_is_refused(prefix, place):
    path = prefix.with_name("model.ckpt-250.index")
    content = bytearray(path.read_bytes())
    content[place] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"model.ckpt-250.index"):
        read_bundle(prefix)


def test_damaged_or_missing_data_is_refused_with_the_tensors_name(prefix):
    path = prefix.with_name("model.ckpt-250.data-00000-of-00001")
    content = bytearray(path.read_bytes())
    content[0] ^= 1
    path.write_bytes(content)
    bundle = read_bundle(prefix)
    with pytest.raises(CheckpointError, match=r"tensor 'a': is damaged"):
        bundle.tensor("a")
    path.write_bytes(content[:-4])
    with pytest.raises(CheckpointError, match="is damaged"):
        bundle.tensor(max(bundle.entries, key=lambda name: bundle.entries[name].offset))
    path.unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        bundle.tensor("a")


def test_a_file_that_was_cut_off_is_refused(prefix):
    path = prefix.with_name("model.ckpt-250.index")
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(CheckpointError, match="was cut off"):
        read_bundle(prefix)
