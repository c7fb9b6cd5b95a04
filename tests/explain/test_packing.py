"""Packed numbers keep the digits that the page shows."""

import numpy as np
import pytest

from vaswani_tx.errors import ExplainError
from vaswani_tx.explain.packing import Packer, unpack


def test_digits_survive():
    random = np.random.default_rng(0)
    packer = Packer()
    arrays = {
        "weights": (random.random((3, 5, 7)), 4),
        "small": (random.normal(size=40), 3),
        "large": (random.normal(size=(2, 9)) * 1e5, 3),
        "ids": (random.integers(0, 70_000, (4, 2)), 0),
        "bytes": (random.integers(0, 256, 10), 0),
        "none": (np.zeros((0, 4)), 2),
    }
    for name, (values, decimals) in arrays.items():
        packer.add(name, values, decimals)
    meta, read = unpack(packer.pack({"text": "</script>\u2028\U0001f600"}))
    assert meta == {"text": "</script>\u2028\U0001f600"}
    for name, (values, decimals) in arrays.items():
        assert read[name].shape == values.shape
        np.testing.assert_array_equal(read[name], np.rint(values * 10**decimals) / 10.0**decimals, err_msg=name)


def test_numbers_that_are_not_finite_are_refused():
    with pytest.raises(ExplainError, match="not finite"):
        Packer().add("weights", [1.0, float("nan")], 4)


def test_huge_numbers_lose_digits_rather_than_wrap():
    packer = Packer()
    packer.add("huge", [3e9, -1e6], 3)
    packer.add("large", [3e6], 3)
    _, read = unpack(packer.pack({}))
    assert read["huge"].tolist() == [3e9, -1e6] and read["large"].tolist() == [3e6]
