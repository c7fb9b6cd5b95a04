"""Registration with transformers at the right moment: when it is imported, not before.

transformers has no entry points for plugins, so `import vaswani_tx` must register the models. It must not import torch
and transformers for that, which takes seconds. So a finder in front of `sys.meta_path` waits for the import of
transformers, by any module, and registers right after it: `import vaswani_tx` followed by
`AutoModelForSeq2SeqLM.from_pretrained(...)` works in every order of imports.
"""

import contextlib
import functools
import importlib
import importlib.abc
import re
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import Any


class ImportHook(importlib.abc.MetaPathFinder):
    """A finder that leaves all finding to the others and calls a function right after a module has been imported.

    Args:
        awaited: name of the module.
        own: names of the modules that import it, and that the function imports. During such an import its names do
            not exist yet: the call then waits for its end.
        action: the function; it must be one that may be called again.
    """

    def __init__(self, awaited: str, own: str, action: Callable[[], None]) -> None:
        self.awaited, self._own, self._action = awaited, re.compile(own), action
        self._counting, self._acting = threading.Lock(), threading.Lock()
        self._imports = 0
        self._thread = threading.local()

    def install(self) -> None:
        """Call the function now if the module is imported, else as soon as it is."""
        if self not in sys.meta_path:
            sys.meta_path.insert(0, self)
        if self._is_imported():
            self.attempt()

    def find_spec(self, name: str, path: Sequence[str] | None, target: ModuleType | None = None) -> ModuleSpec | None:
        """Return what the other finders know of a module that matters, with a loader that calls back at its end."""
        if name != self.awaited and not self._own.fullmatch(name):
            return None
        if getattr(self._thread, "asks", False):
            raise ModuleNotFoundError(f"{name} is not imported", name=name)
        others = (finder for finder in tuple(sys.meta_path) if finder is not self and hasattr(finder, "find_spec"))
        spec = next(filter(None, (finder.find_spec(name, path, target) for finder in others)), None)
        if spec is not None and spec.loader is not None:
            spec.loader = _CallingLoader(spec.loader, self)
        return spec

    def attempt(self) -> None:
        """Call the function, unless the module is not imported or an import is running whose end comes here too."""
        if self._imports or self.awaited not in sys.modules:
            return
        # It imports modules of ours, whose ends come here too: one call at a time is enough. Waiting for the call of
        # another thread could last for ever, as that may need the module whose import ends here.
        if self._acting.acquire(blocking=False):
            try:
                self._action()
            finally:
                self._acting.release()

    @contextlib.contextmanager
    def during_import(self) -> Iterator[None]:
        """Hold the call back until a module is executed, then attempt it."""
        self._count(1)
        try:
            yield
        finally:
            self._count(-1)
        self.attempt()

    def _count(self, change: int) -> None:
        with self._counting:
            self._imports += change

    def _is_imported(self) -> bool:
        """Return whether the module is imported; where another thread is importing it, wait for that thread.

        That thread may have asked the finders before this one was among them, and would not call back. An import waits
        for the other thread; then it finds the module, or asks this finder, which knows of none.
        """
        self._thread.asks = True
        try:
            importlib.import_module(self.awaited)
        except ModuleNotFoundError:
            return False
        finally:
            self._thread.asks = False
        return True


class _CallingLoader(importlib.abc.Loader):
    """A loader that replaces a module's own one until it executes the module."""

    def __init__(self, loader: Any, hook: ImportHook) -> None:
        self._loader, self._hook = loader, hook

    def __getattr__(self, name: str) -> Any:
        return getattr(self._loader, name)

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return self._loader.create_module(spec)

    def exec_module(self, module: ModuleType) -> None:
        # From here on the module has its own loader, for its source text and data files.
        module.__loader__ = self._loader
        if module.__spec__ is not None:
            module.__spec__.loader = self._loader
        with self._hook.during_import():
            self._loader.exec_module(module)
            replacement = sys.modules.get(module.__name__, module)
            if replacement is not module:
                # As transformers does. Python gives the former object to threads that have waited for this import.
                vars(module)["__getattr__"] = functools.partial(getattr, replacement)


def _register() -> None:
    importlib.import_module(f"{__package__}.registration").register()


HOOK = ImportHook("transformers", re.escape(f"{__package__}.") + r"(\w+_vaswani(_\w+)?|registration)", _register)
