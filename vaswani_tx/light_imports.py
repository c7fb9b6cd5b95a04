"""Import transformers for a command that only runs a model, without what it never uses: half the time of its start.

`transformers.modeling_utils` imports torch's compiler (with sympy) for the sake of marks on a few functions, DTensor
for models on several devices, and scipy for the loss of object detectors. Here the compiler is imported when something
of it is used; transformers takes torch for one built without `torch.distributed`, and scipy for absent, both of which
it knows how to do without.
"""

import gc
import importlib
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

from vaswani_tx.import_hook import ImportHook

COMPILER = "torch._dynamo"
# A class that masks are made under, in a module of the compiler.
MASKS, MASK_CLASS = f"{COMPILER}._trace_wrapped_higher_order_op", "TransformGetItemToIndex"


class DeferredCompiler(ModuleType):
    """A module in the place of torch's compiler that only notes which functions are marked for it.

    Everything else that is asked of it imports the compiler, which is then given the marks; so does any other import of
    it. As long as it is not imported, nothing is compiled, and functions hidden from it are called as they are.
    """

    def __init__(self) -> None:
        super().__init__(COMPILER)
        self.marks: list[tuple[str, Any]] = []
        self._masks = ModuleType(MASKS)
        setattr(self._masks, MASK_CLASS, self._mask)

    def enter(self) -> None:
        """Take the place of the compiler, which is not imported yet."""
        sys.modules.update({COMPILER: self, MASKS: self._masks})
        ImportHook(COMPILER, r"(?!)", self.replay).install()

    def leave(self) -> None:
        """Leave the place to the compiler itself."""
        for name, own in ((COMPILER, self), (MASKS, self._masks)):
            if sys.modules.get(name) is own:
                del sys.modules[name]

    def allow_in_graph(self, function: Any) -> Any:
        """Note the mark and return the function, as the compiler does."""
        self.marks.append(("allow_in_graph", function))
        return function

    def assume_constant_result(self, function: Any) -> Any:
        """Note the mark and return the function, as the compiler does."""
        self.marks.append(("assume_constant_result", function))
        return function

    def disable(self, function: Any = None, *args: Any, **kwargs: Any) -> Any:
        """Return a function that is hidden from the compiler once that is imported."""
        if function is None:
            return lambda later: self.disable(later, *args, **kwargs)
        hidden: list[Callable[..., Any]] = []

        def call(*values: Any, **named: Any) -> Any:
            if sys.modules.get(COMPILER) is self:
                return function(*values, **named)
            if not hidden:
                hidden.append(importlib.import_module(COMPILER).disable(function, *args, **kwargs))
            return hidden[0](*values, **named)

        return call

    def _mask(self) -> Any:
        self.leave()
        return getattr(importlib.import_module(MASKS), MASK_CLASS)()

    def __getattr__(self, name: str) -> Any:
        # The import system asks for these before it knows whether a module is a package.
        if name.startswith("__") and name != "__path__":
            raise AttributeError(name)
        self.leave()
        return getattr(importlib.import_module(COMPILER), name)

    def replay(self) -> None:
        """Give the compiler, which has just been imported, the marks that were made before."""
        compiler = importlib.import_module(COMPILER)
        while self.marks:
            mark, function = self.marks.pop()
            getattr(compiler, mark)(function)


class _Process:
    """Whether this process belongs to a command, which alone decides what it imports."""

    is_ours = False


def allow() -> None:
    """Say that the command is all that this process does."""
    _Process.is_ours = True


def import_transformers() -> None:
    """Import transformers' models without what running one does not need, where that changes nothing.

    It might in a process that does other things besides a command, in one of several processes, on an accelerator, for
    which `generate` may compile, and where torch is imported already; there nothing is done.
    """
    if not _Process.is_ours or "torch" in sys.modules or int(os.environ.get("WORLD_SIZE", "1")) > 1:
        return
    with _no_garbage_collection():
        torch = importlib.import_module("torch")
        if torch.accelerator.is_available():
            return
        if COMPILER not in sys.modules:
            DeferredCompiler().enter()
        with _left_out(torch.distributed, "scipy"):
            importlib.import_module("transformers.modeling_utils")


@contextmanager
def _no_garbage_collection() -> Iterator[None]:
    """Keep the collector from searching, again and again, the many objects of an import, none of which is garbage."""
    was_enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        gc.freeze()
        if was_enabled:
            gc.enable()


@contextmanager
def _left_out(distributed: Any, *packages: str) -> Iterator[None]:
    """Make torch say that it was built without `torch.distributed`, and packages seem absent."""
    is_available = distributed.is_available
    absent = [name for name in packages if name not in sys.modules]
    distributed.is_available = lambda: False
    # How Python itself marks a module that cannot be imported.
    sys.modules.update(dict.fromkeys(absent))  # type: ignore[arg-type]
    try:
        yield
    finally:
        distributed.is_available = is_available
        for name in absent:
            del sys.modules[name]
