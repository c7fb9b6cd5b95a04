"""Sizes of the benchmark of a GPU, full and tiny, and the description of the device."""

import datetime
import platform
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any

import torch

from tests.benchmarks.works import DecodingWork, TrainingWork

PACKAGES = ("torch", "transformers", "triton", "flash-attn", "ctranslate2", "nvidia-cudnn-cu13", "nvidia-cublas-cu13")
PAPER_UPDATES = 100_000


@dataclass(frozen=True)
class Settings:
    """What a run of the benchmark does.

    Args:
        device: "cuda" or "cpu".
        size: one of the harness's sizes.
        tokens: source tokens of an update, and as many target tokens.
        batches: different updates that are made in turn.
        warm_up: updates before the clock runs.
        updates: updates that are timed.
        decoding_batches: sentences of a call.
        beams: 1 is greedy.
        new_tokens: length of every target.
        calls: calls of each decoder that are timed.
        square: rows and columns of the large square product.
        repeats: how often each product is timed.
    """

    device: str = "cuda"
    size: str = "base"
    vocab_size: int = 37000
    tokens: int = 25_000
    batches: int = 20
    warm_up: int = 30
    updates: int = 200
    decoding_batches: tuple[int, ...] = (1, 32, 256)
    beams: tuple[int, ...] = (1, 4)
    new_tokens: int = 30
    calls: int = 7
    square: int = 8192
    repeats: int = 30

    def training_work(self) -> TrainingWork:
        """Return the batches of training: lengths of WMT, sorted by length and cut by tokens."""
        return TrainingWork(
            "gpu", self.size, self.vocab_size, "wmt", "bucketed", self.tokens, self.batches, label_smoothing=0.1
        )

    def decoding_work(self, batch: int, beams: int) -> DecodingWork:
        """Return one call of decoding."""
        return DecodingWork(
            "gpu", self.size, self.vocab_size, "wmt", batch, sentences=batch, beams=beams, new_tokens=self.new_tokens
        )

    def as_fields(self) -> dict[str, Any]:
        """Return the settings as what JSON holds."""
        return asdict(self)

    @classmethod
    def of_fields(cls, fields: dict[str, Any]) -> "Settings":
        """Return the settings that `as_fields` wrote."""
        lists = {name: tuple(value) for name, value in fields.items() if isinstance(value, list)}
        return cls(**{**fields, **lists})


def tiny(device: str) -> Settings:
    """Return sizes with which every part takes tenths of a second on a CPU; their numbers mean nothing."""
    return Settings(
        device, "minute", 100, tokens=130, batches=1, warm_up=1, updates=1, decoding_batches=(1, 3), beams=(1, 4),
        new_tokens=4, calls=1, square=64, repeats=2,
    )  # fmt: skip


def describe(device: torch.device) -> dict[str, Any]:
    """Return the device, its memory and the versions; nothing of the host."""
    versions = {"python": platform.python_version(), "cuda": torch.version.cuda}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = None
    about: dict[str, Any] = {"device": "CPU", "memory_gib": None, "capability": None}
    if device.type == "cuda":
        found = torch.cuda.get_device_properties(device)
        about = {
            "device": found.name,
            "memory_gib": round(found.total_memory / 2**30, 1),
            "capability": f"{found.major}.{found.minor}",
        }
    return {**about, "versions": versions, "date": datetime.datetime.now(datetime.UTC).date().isoformat()}
