"""Work that one of several processes does for all."""

from collections.abc import Callable
from typing import Any

from accelerate import Accelerator
from accelerate.utils import broadcast_object_list


def on_main_process(accelerator: Accelerator | None, work: Callable[[], Any]) -> Any:
    """Run `work` on the main process; return its result, or raise its error, on all; without one, run it here."""
    if accelerator is None:
        return work()
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except ValueError as error:
            outcome[1] = error
    if accelerator.num_processes > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]
