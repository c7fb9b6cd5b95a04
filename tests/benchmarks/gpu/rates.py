"""The matrix rate of a device: what its products reach, which everything else is measured against."""

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

# Name -> type of the operands, torch's precision of float32 products.
KINDS = {"bf16": (torch.bfloat16, "highest"), "tf32": (torch.float32, "high"), "fp32": (torch.float32, "highest")}


def synchronize(device: torch.device) -> None:
    """Wait until the device has done all that it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)


def seconds_of(work: Callable[[], Any], device: torch.device, repeats: int) -> float:
    """Return the median time of a call, after one that is not timed.

    On a GPU, events on the device around each call are read: the host's clock would count launches.
    """
    work()
    if device.type != "cuda":
        times = []
        for _ in range(repeats):
            start = time.perf_counter()
            work()
            times.append(time.perf_counter() - start)
        return statistics.median(times)
    marks = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(repeats)]
    for start, end in marks:
        start.record()
        work()
        end.record()
    torch.cuda.synchronize(device)
    return statistics.median(start.elapsed_time(end) for start, end in marks) / 1000


def shapes_of(d_model: int, d_ff: int, vocab_size: int, rows: int, square: int) -> dict[str, tuple[int, int, int]]:
    """Return name -> (m, k, n) of the products of the model, for so many tokens, and of a large square one."""
    return {
        "attention projection": (rows, d_model, d_model),
        "feed-forward, first": (rows, d_model, d_ff),
        "feed-forward, second": (rows, d_ff, d_model),
        "output projection": (rows, d_model, vocab_size),
        "square": (square, square, square),
    }


def measure(device: torch.device, shapes: dict[str, tuple[int, int, int]], repeats: int) -> list[dict[str, Any]]:
    """Return TFLOP/s of each product in each kind of arithmetic, on random numbers."""
    found = []
    before = torch.get_float32_matmul_precision()
    generator = torch.Generator(device=device).manual_seed(1)
    try:
        for name, (m, k, n) in shapes.items():
            row: dict[str, Any] = {"product": name, "m": m, "k": k, "n": n}
            for kind, (dtype, precision) in KINDS.items():
                torch.set_float32_matmul_precision(precision)
                # Several operands in turn: one alone could stay in the cache. All are made before the clock runs.
                operands = [
                    [torch.randn(size, device=device, generator=generator).to(dtype) for size in ((m, k), (k, n))]
                    for _ in range(3)
                ]
                turn = iter(range(repeats + 1))
                seconds = seconds_of(lambda: torch.mm(*operands[next(turn) % 3]), device, repeats)  # noqa: B023
                row[kind] = 2 * m * k * n / seconds / 1e12
            found.append(row)
    finally:
        torch.set_float32_matmul_precision(before)
    return found
