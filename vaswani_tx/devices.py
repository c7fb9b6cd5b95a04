"""The device that a command computes on."""

import torch

from vaswani_tx.errors import DeviceError
from vaswani_tx.failures import shorten


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
