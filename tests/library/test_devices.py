"""A line for users whose CPU emulates bfloat16, and none where it has units for it or nothing tells."""

import pytest
import torch

from vaswani_tx import devices
from vaswani_tx.devices import slow_bfloat16

CPU = torch.device("cpu")
X86 = {"architecture": "x86_64", "avx2": True, "cpu_name": "Xeon", "num_sockets": 1}


@pytest.mark.parametrize(
    ("found", "is_slow"),
    [
        (X86 | {"avx512_bf16": False, "amx_bf16": False}, True),
        (X86 | {"avx512_bf16": True, "amx_bf16": False}, False),
        (X86 | {"avx512_bf16": False, "amx_bf16": True}, False),
        ({"architecture": "aarch64", "neon": True, "bf16": False}, True),
        ({"architecture": "aarch64", "neon": True, "bf16": True}, False),
        ({"architecture": "ppc64le"}, False),
    ],
)
def test_torch_tells_of_the_units(monkeypatch, found, is_slow):
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found, raising=False)
    said = slow_bfloat16(CPU, "--precision fp32")
    assert bool(said) == is_slow
    assert not is_slow or ("--precision fp32" in said and "\n" not in said)
    assert slow_bfloat16(torch.device("meta"), "--precision fp32") == ""  # not a CPU


@pytest.mark.parametrize(
    ("text", "is_slow"),
    [
        ("processor\t: 0\nflags\t\t: fpu sse avx2\nprocessor\t: 1\nflags\t\t: fpu sse avx2\n", True),
        ("processor\t: 0\nflags\t\t: fpu avx512f avx512_bf16\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd bf16 i8mm\n", False),
        ("processor\t: 0\nFeatures\t: fp asimd\n", True),
        ("machine\t: PowerNV\n", False),
        (None, False),
    ],
)
def test_linux_tells_where_torch_does_not(monkeypatch, tmp_path, text, is_slow):
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)
    monkeypatch.setattr(devices, "_CPU_INFO", tmp_path / "cpuinfo")
    if text is not None:
        (tmp_path / "cpuinfo").write_text(text)
    assert bool(slow_bfloat16(CPU, "precision: fp32")) == is_slow


def test_this_machine_is_known():
    units = devices._cpu_units()
    assert units is None or units
