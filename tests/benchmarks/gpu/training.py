"""Training on one GPU: the paper's base model in the ways that a GPU has, MarianMT as the peer.

Every variant starts from the same weights and sees the same batches. Its loss and gradient on a small batch, without
dropout, are compared with the first one's.
"""

import contextlib
import importlib.util
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch

from tests.benchmarks import training_contenders as contenders
from tests.benchmarks.contenders import Unavailable
from tests.benchmarks.gpu import flops
from tests.benchmarks.gpu.rates import synchronize
from tests.benchmarks.gpu.settings import Settings
from tests.benchmarks.weights import seeded_weights
from tests.benchmarks.works import IGNORED, SIZES, check_batch, fill, real_tokens, training_batches
from vaswani_tx.training.engine.compilation import compile_layers
from vaswani_tx.training.engine.optimizer import PaperAdam, set_learning_rate

RATE = 1e-4
FIRST = "fp32 padded"
# Of loss and gradient norm from the first variant's; bfloat16 has 8 bits of precision.
TOLERANCE = {"fp32": 1e-3, "bf16": 3e-2}


@dataclass(frozen=True)
class Variant:
    """A way to train.

    Args:
        precision: "fp32", or "bf16" by autocast.
        unpadded: real tokens only, attention by a kernel for rows without padding.
        compiled: the layers through torch.compile.
        fused: Adam in one kernel, else one call for all tensors of an operation.
        peer: MarianMT, with torch's smoothed cross entropy of all logits and a fused AdamW.
    """

    precision: str = "bf16"
    unpadded: bool = False
    compiled: bool = False
    fused: bool = False
    peer: bool = False


VARIANTS = {
    FIRST: Variant("fp32"),
    "bf16 padded": Variant(),
    "bf16 unpadded": Variant(unpadded=True),
    "bf16 unpadded, compiled": Variant(unpadded=True, compiled=True),
    "bf16 unpadded, compiled, fused Adam": Variant(unpadded=True, compiled=True, fused=True),
    "MarianMT bf16": Variant(fused=True, peer=True),
}


class Trainer:
    """A model with its optimiser on a device, as one variant says."""

    def __init__(self, settings: Settings, variant: Variant):
        self.variant, self.device = variant, torch.device(settings.device)
        work = settings.training_work()
        kind = contenders.Marian if variant.peer else contenders.Ours
        # Everything random is made on the CPU, so that all devices have the same weights.
        self.contender = kind(work, seeded_weights(SIZES[settings.size], settings.vocab_size, work.seed))
        self.contender.model.to(self.device)
        if not variant.peer:
            self.contender.optimizer = self._adam()
        if variant.compiled:
            # On a CPU this only shows that it runs: no code is generated, which would take minutes.
            compile_layers(self.contender.model, "inductor" if self.device.type == "cuda" else "eager")

    def _adam(self) -> torch.optim.Optimizer:
        parameters = [one for one in self.contender.model.parameters() if one.requires_grad]
        if not self.variant.fused:
            return torch.optim.Adam(parameters, lr=RATE, betas=(0.9, 0.98), eps=1e-9, foreach=True)
        optimizer = PaperAdam().build(parameters)
        set_learning_rate(optimizer, RATE)
        return optimizer

    @contextlib.contextmanager
    def ways(self) -> Iterator[None]:
        """Compute in the variant's way within this context."""
        with padding_free(self.variant.unpadded), self.arithmetic():
            yield

    def arithmetic(self) -> contextlib.AbstractContextManager[Any]:
        """Return the context of the variant's precision."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.variant.precision == "bf16")

    def to_device(self, batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """Return a batch on the device; from pinned memory the copy waits for nothing."""
        return {name: one.to(self.device, non_blocking=True) for name, one in batch.items()}

    def update(self, batch: dict[str, torch.Tensor]) -> torch.Tensor:
        """Make one update and return its loss, which is still on the device."""
        with self.ways():
            loss = self.contender.loss(self.to_device(batch))
        loss.backward()
        self.contender.update()
        return loss.detach()

    def compared(self, batch: dict[str, torch.Tensor]) -> dict[str, float]:
        """Return loss and gradient norm of a batch without dropout; the weights do not change."""
        self.contender.set_dropout(False)
        with self.ways():
            loss = self.contender.loss(self.to_device(batch))
        loss.backward()
        gradients = [one.grad.float().norm() for one in self.contender.model.parameters() if one.grad is not None]
        self.contender.optimizer.zero_grad(set_to_none=True)
        self.contender.set_dropout(True)
        return {"loss": float(loss.detach()), "gradient_norm": float(torch.stack(gradients).norm())}


def padding_free(enabled: bool) -> contextlib.AbstractContextManager[Any]:
    """Return the context in which real tokens only are computed, or whole batches.

    Raises:
        Unavailable: this version always computes whole batches.
    """
    if importlib.util.find_spec("vaswani_tx.padding_vaswani") is None:
        if enabled:
            raise Unavailable("this version has no padding_vaswani")
        return contextlib.nullcontext()
    from vaswani_tx import padding_vaswani

    return padding_vaswani.padding_free(enabled)


def run(settings: Settings, name: str) -> dict[str, Any]:
    """Measure one variant.

    Returns:
        tokens/s (real ones, source and target), seconds an update, peak memory, operations an update, and what is
        compared.
    """
    torch.manual_seed(1)
    work, variant = settings.training_work(), VARIANTS[name]
    trainer = Trainer(settings, variant)
    compared = trainer.compared(check_batch(work))
    batches = training_batches(work)
    if trainer.device.type == "cuda":
        batches = [{key: one.pin_memory() for key, one in batch.items()} for batch in batches]
        torch.cuda.reset_peak_memory_stats(trainer.device)
    began = time.perf_counter()
    for number in range(settings.warm_up):
        trainer.update(batches[number % len(batches)])
    synchronize(trainer.device)
    warm_up, start = time.perf_counter() - began, time.perf_counter()
    for number in range(settings.updates):
        loss = trainer.update(batches[number % len(batches)])
    synchronize(trainer.device)
    seconds = time.perf_counter() - start
    used = [batches[number % len(batches)] for number in range(settings.updates)]
    size = SIZES[settings.size]
    operations = sum(flops.training(size, settings.vocab_size, pairs_of(batch)) for batch in used)
    memory = torch.cuda.max_memory_allocated(trainer.device) if trainer.device.type == "cuda" else None
    return {
        **compared,
        "precision": variant.precision,
        "last_loss": float(loss),
        "tokens_per_second": real_tokens(used) / seconds,
        "seconds_per_update": seconds / settings.updates,
        "tokens_per_update": real_tokens(used) / settings.updates,
        "flops_per_update": operations / settings.updates,
        "flops_per_second": operations / seconds,
        "fill": fill(batches),
        "warm_up_seconds": warm_up,
        "peak_memory_gib": None if memory is None else memory / 2**30,
        "attention": attention_of(trainer),
    }


def attention_of(trainer: Trainer) -> str | None:
    """Return the method by which rows without padding attended."""
    if not trainer.variant.unpadded:
        return None
    from vaswani_tx.varlen_attention_vaswani import choose_method

    dtype = torch.bfloat16 if trainer.variant.precision == "bf16" else torch.float32
    size = SIZES[trainer.contender.work.size]
    width = size.d_model // size.num_heads
    device = f"{trainer.device.type}:{trainer.device.index or 0}"
    return choose_method(device, dtype, width, width, False, False, trainer.variant.compiled)


def pairs_of(batch: dict[str, torch.Tensor]) -> list[tuple[int, int]]:
    """Return source and target length of each pair."""
    sources = batch["attention_mask"].sum(dim=1).tolist()
    targets = (batch["labels"] != IGNORED).sum(dim=1).tolist()
    return list(zip(sources, targets, strict=True))


def differences(found: dict[str, dict[str, Any]]) -> list[str]:
    """Return a line for each variant whose loss or gradient is not the first one's."""
    first = found.get(FIRST, {})
    lines = []
    for name, result in found.items():
        for key in ("loss", "gradient_norm"):
            if "failed" in result or "failed" in first or not first:
                continue
            distance = abs(result[key] - first[key]) / abs(first[key])
            if not distance <= TOLERANCE[result["precision"]]:
                lines.append(f"{name}: {key.replace('_', ' ')} {result[key]:.5f} is not {first[key]:.5f} ({FIRST})")
    return lines
