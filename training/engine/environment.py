"""The environment of a run, as plain JSON: versions, git revision, hardware, command line, start.

No environment variable is read into it: they hold what must not travel with a model.
"""

import datetime
import os
import platform
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil
import torch

import vaswani_tx

PACKAGES = ("torch", "transformers", "accelerate", "datasets", "tokenizers", "safetensors", "sacrebleu")
GIT_SECONDS = 5.0


def gather_environment(
    *, step: int = 0, processes: int = 1, engine: str = "NO", precision: str = "fp32"
) -> dict[str, Any]:
    """Return the environment of one part of a run, which begins after the update `step`.

    Args:
        step: the update that the part resumes from.
        processes: how many train together.
        engine: Accelerate's name for how they share the work (NO, MULTI_CPU, MULTI_GPU, FSDP, ...).
        precision: arithmetic of the forward pass.
    """
    return {
        "started": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "from_step": step,
        "command": _command(),
        "versions": versions(),
        "git": git_state(Path(vaswani_tx.__file__).parent),
        "hardware": hardware(),
        "processes": processes,
        "engine": engine,
        "precision": precision,
    }


def versions() -> dict[str, str | None]:
    """Return the versions that can change a number; None for a package that is not installed."""
    found: dict[str, str | None] = {"python": platform.python_version(), "vaswani_tx": vaswani_tx.__version__}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = None
    return found


def git_state(folder: Path) -> dict[str, Any] | None:
    """Return the revision of the checkout that holds `folder`, and whether tracked files differ; None without one.

    An installed copy inside somebody else's repository is not that repository's: its files must be tracked there.
    """
    if _git(folder, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None
    revision, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain", "-uno")
    if revision is None or changes is None:
        return None
    return {"revision": revision.strip(), "dirty": bool(changes.strip())}


def hardware() -> dict[str, Any]:
    """Return processor, cores that this process may use, memory in GiB, and each GPU that it sees."""
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "platform": f"{platform.system()} {platform.machine()}",
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "usable_cores": usable,
        "memory_gib": round(psutil.virtual_memory().total / 2**30, 1),
        "gpus": _gpus(),
    }


def _gpus() -> list[dict[str, Any]]:
    if torch.cuda.is_available():
        found = (torch.cuda.get_device_properties(index) for index in range(torch.cuda.device_count()))
        return [{"name": gpu.name, "memory_gib": round(gpu.total_memory / 2**30, 1)} for gpu in found]
    device = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if device is not None:
        return [{"name": device.type, "memory_gib": None}] * torch.accelerator.device_count()
    return []


def _cpu_name() -> str:
    # platform.processor() is empty or just the architecture on Linux.
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines():
            name, _, value = line.partition(":")
            if name.strip() == "model name":
                return value.strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _command() -> list[str]:
    """Return the command line as it was typed, with the interpreter's name instead of its path."""
    words = list(sys.orig_argv) or list(sys.argv)
    return [Path(words[0]).name, *words[1:]] if words else []


def _git(folder: Path, *words: str) -> str | None:
    """Return what git prints; None where it is missing, slow or fails."""
    # Without optional locks it cannot block a commit that somebody makes at the same time.
    command = ["git", "--no-optional-locks", "-C", str(folder), *words]
    # GIT_DIR and its like, set where a hook starts the training, would name another repository.
    variables = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    try:
        answer = subprocess.run(
            command, capture_output=True, text=True, errors="replace", timeout=GIT_SECONDS,
            stdin=subprocess.DEVNULL, env=variables,
        )  # fmt: skip
    except (OSError, subprocess.TimeoutExpired):
        return None
    return answer.stdout if answer.returncode == 0 else None
