"""What is measured of a process and said of a machine: times, peak memory, processor, versions."""

import ctypes
import datetime
import gc
import os
import platform
import re
import resource
import sys
import threading
import time
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any

# Of the processor's flags, those that libraries of matrix products choose their code by.
INSTRUCTIONS = (
    "avx2", "fma", "avx512f", "avx512_vnni", "avx512_bf16", "avx512_fp16", "amx_tile", "amx_bf16", "amx_int8",
    "asimd", "sve", "sve2", "i8mm", "bf16",
)  # fmt: skip
PACKAGES = ("torch", "transformers", "ctranslate2", "x-transformers")
STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")
SAMPLE_SECONDS = 0.002


def timed(work: Callable[[], Any]) -> tuple[Any, float, float]:
    """Return what a call returns, its wall time and its processor time over all threads, in seconds."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = work()
    return found, time.perf_counter() - wall, time.process_time() - cpu


def resident() -> int:
    """Return the process's memory that is in use, in bytes."""
    return _status("VmRSS") or _largest()


def settle() -> None:
    """Free what Python and the C library keep of freed memory."""
    gc.collect()
    if sys.platform == "linux":
        ctypes.CDLL(None).malloc_trim(0)


def peak_of(work: Callable[[], Any]) -> tuple[Any, int]:
    """Return what a call returns and the largest memory that the process had during it, in bytes."""
    try:
        CLEAR.write_text("5")  # the kernel's own peak starts again
    except OSError:
        return _sampled(work)
    return work(), _status("VmHWM") or _largest()


def _sampled(work: Callable[[], Any]) -> tuple[Any, int]:
    peak, done = resident(), threading.Event()

    def watch() -> None:
        nonlocal peak
        while not done.wait(SAMPLE_SECONDS):
            peak = max(peak, resident())

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        found = work()
    finally:
        done.set()
        thread.join()
    return found, max(peak, resident())


def _status(field: str) -> int | None:
    try:
        text = STATUS.read_text()
    except OSError:
        return None
    found = re.search(rf"^{field}:\s+(\d+) kB", text, re.M)
    return int(found[1]) * 1024 if found else None


def _largest() -> int:
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return largest if sys.platform == "darwin" else largest * 1024


def machine(threads: int) -> dict[str, Any]:
    """Describe where numbers come from: processor, instruction sets, versions, date; nothing of the host."""
    model, flags = _processor()
    versions = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = "not installed"
    return {
        "processor": model,
        "instructions": [name for name in INSTRUCTIONS if name in flags],
        "cores": os.cpu_count(),
        "threads": threads,
        "versions": versions,
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
    }


def _processor() -> tuple[str, set[str]]:
    try:
        text = Path("/proc/cpuinfo").read_text()
    except OSError:
        return platform.processor() or platform.machine(), set()
    name = re.search(r"^model name\s*:\s*(.+)$", text, re.M)
    flags = re.search(r"^(?:flags|Features)\s*:\s*(.+)$", text, re.M)
    return (name[1].strip() if name else platform.machine()), set(flags[1].split() if flags else ())
