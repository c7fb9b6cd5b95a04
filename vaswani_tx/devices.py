"""The device that a command computes on, and whether it has units for bfloat16."""

from pathlib import Path

import torch

from vaswani_tx.errors import DeviceError
from vaswani_tx.failures import shorten

# Units for products of bfloat16, of x86 and of ARM, as torch and as Linux name them.
_BFLOAT16_UNITS = {"avx512_bf16", "amx_bf16", "avx10_2", "bf16", "sve_bf16", "svebf16"}
_ARCHITECTURES = {"x86_64", "amd64", "aarch64", "arm64"}
_CPU_INFO = Path("/proc/cpuinfo")


def choose_device(name: str | None) -> torch.device:
    """Return a device by its name; None: an accelerator if there is one, else the CPU.

    Raises:
        DeviceError: there is no such device here.
    """
    if name is None:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        # Apple's lacks operations that a beam search needs: on request only.
        return torch.device(found if found is not None and found.type != "mps" else "cpu")
    try:
        device = torch.device(name)
        torch.empty(1, device=device).cpu()  # the meta device has no numbers to fetch
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise DeviceError(f"--device {name} cannot be used here ({shorten(error, 120)}): try cpu.") from None
    return device


def slow_bfloat16(device: torch.device, remedy: str) -> str:
    """Return a line for the user where bfloat16 is emulated on a device, and so far slower than float32; else "".

    Args:
        remedy: what to use instead, such as "--precision fp32".
    """
    if device.type != "cpu" or (units := _cpu_units()) is None or units & _BFLOAT16_UNITS:
        return ""
    return f"this CPU has no units for bfloat16, which takes up to nine times as long as float32 here: use {remedy}."


def _cpu_units() -> set[str] | None:
    """Return the instruction sets of this CPU; None where nothing tells, or of an architecture that is not known."""
    ask = getattr(torch.cpu, "get_capabilities", None)  # not in every torch
    if ask is not None:
        found = dict(ask())
        known = str(found.get("architecture")).lower() in _ARCHITECTURES
        return {name for name, is_there in found.items() if is_there is True} if known else None
    try:
        lines = _CPU_INFO.read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # not Linux
        return None
    rows = [line.partition(":")[2] for line in lines if line.startswith(("flags", "Features"))]
    return set(rows[0].split()) if rows else None
