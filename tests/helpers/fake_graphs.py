"""A recorder of operations that repeats them as a CUDA graph does: on the same memory, with the same numbers."""

from collections.abc import Callable
from typing import Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# A graph cannot wait for the device to learn a number or a shape.
SYNCHRONISING = ("_local_scalar_dense", "nonzero", "is_nonzero", "unique", "item")


class FakeGraph(TorchDispatchMode):
    """A dispatch mode that notes each operation with its arguments and the tensors that it returned.

    A replay calls the operations again, with the arguments of then, and writes what they return into the tensors of
    then. So numbers that Python computed are those of the recording, and a tensor that was replaced meanwhile is not
    seen: what is wrong with a CUDA graph is wrong here.

    Attributes:
        replays: how often it was replayed.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, tuple, dict, Any]] = []
        self.replays = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if any(name in str(func) for name in SYNCHRONISING):
            raise RuntimeError(f"{func} waits for the device, which a graph cannot")
        found = func(*args, **(kwargs or {}))
        self.calls.append((func, args, kwargs or {}, found))
        return found

    @torch.no_grad()
    def replay(self) -> None:
        """Repeat every operation on the same memory."""
        self.replays += 1
        for func, args, kwargs, found in self.calls:
            again = func(*args, **kwargs)
            inputs = {
                leaf.untyped_storage().data_ptr() for leaf in tree_leaves((args, kwargs)) if torch.is_tensor(leaf)
            }
            for old, new in zip(tree_leaves(found), tree_leaves(again), strict=True):
                if torch.is_tensor(old) and old.untyped_storage().data_ptr() not in inputs:
                    old.copy_(new)  # else it is a view of an argument or written in place


class Recorder:
    """Records steps on fake graphs, as `record_cuda_graph` does on real ones: warmed up, and not run by the recording.

    Attributes:
        graphs: the graphs of all recordings.
    """

    def __init__(self) -> None:
        self.graphs: list[FakeGraph] = []

    def __call__(self, step: Callable[[], Any]) -> Callable[[], Any]:
        for _ in range(2):
            step()
        graph = FakeGraph()
        with graph:
            step()
        self.graphs.append(graph)
        return graph.replay
