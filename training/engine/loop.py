"""The training loop: one update after another, exactly repeatable, on one process or many, for any task.

An update takes `num_processes * accumulation_steps` batches of the plan, the window. The loss of each batch is the sum
over its items divided by the items of the whole window on all processes, which every process knows from the plan. So
one large batch, accumulation and several processes give the same gradient.

The state to resume from is `TrainingState` (JSON), the optimiser's tensors and the random states of every process.
"""

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from vaswani_tx.training.config.run_settings import RunSettings
from vaswani_tx.training.data.batching import shard
from vaswani_tx.training.engine.checkpoint_manager import CheckpointManager, TrainingState
from vaswani_tx.training.engine.checkpoints import latest_checkpoint, step_folder
from vaswani_tx.training.engine.ema import MovingAverage
from vaswani_tx.training.engine.fsdp import is_sharded
from vaswani_tx.training.engine.optimizer import set_learning_rate
from vaswani_tx.training.engine.progress import MetricsLog, Progress
from vaswani_tx.training.engine.run_folder import RunFolder
from vaswani_tx.training.engine.signals import Interruption
from vaswani_tx.training.engine.task import BatchSize, Task, Validation, best_key, ranking
from vaswani_tx.training.errors import Interrupted, TrainingError
from vaswani_tx.training.files import atomic_text

logger = logging.getLogger(__name__)

# Several processes agree on clocks and signals only so often, and where they log: each time waits for the slowest.
AGREE_EVERY = 10

Window = list[np.ndarray]


@dataclass
class PendingLoss:
    """The losses of an update that may still be on the device, with what they were computed from.

    Args:
        losses: [1 + terms], the cross entropy and the task's further terms.
    """

    step: int
    losses: torch.Tensor
    size: BatchSize
    window: Window


class TrainingLoop:
    """The loop that trains `model` on `task` and writes to `folder`.

    A model that several processes hold in shards (training/engine/fsdp.py) comes sharded, its optimiser built over
    the shards.

    Args:
        schedule: the learning rate of each update, the first one being 1.
        write_extras: puts what is no weight, such as the tokenizer, into a model folder.
    """

    def __init__(
        self,
        settings: RunSettings,
        accelerator: Accelerator,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[int], float],
        task: Task,
        folder: RunFolder,
        write_extras: Callable[[Path], None] = lambda folder: None,
    ):
        self.settings, self.accelerator, self.schedule, self.task = settings, accelerator, schedule, task
        self.folder = folder
        self.sharded = is_sharded(model)
        if self.sharded:
            self.model, self.optimizer = model, accelerator.prepare_optimizer(optimizer)
        else:
            self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.bare_model = accelerator.unwrap_model(self.model)
        self.average = None if settings.ema_decay is None else MovingAverage(self.bare_model, settings.ema_decay)
        self.checkpoints = CheckpointManager(
            settings, accelerator, self.model, self.optimizer, task, folder, write_extras, self.average
        )
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.single_process = accelerator.num_processes == 1
        # Elsewhere looking at every loss would wait for the device, or for the other processes.
        self.looks_at_once = self.single_process and accelerator.device.type == "cpu"
        self.state = TrainingState()
        self.metrics: MetricsLog | None = None
        self._pending: list[PendingLoss] = []
        self._started = self._window_started = time.monotonic()
        self._paused = 0.0
        self._saved_step, self._saved_seconds = -1, 0.0
        self._epoch_size = self._window_end = 0
        # Dropout differs between processes; weights, made before, do not.
        torch.manual_seed(settings.seed + accelerator.process_index)

    # The story

    def run(self, resume_from: Path | None = None) -> str:
        """Train until a limit is reached and return the key of that limit.

        Raises:
            TrainingError: a loss that is not finite.
            CheckpointError: a checkpoint that cannot be read or written.
            Interrupted: a signal; the state is saved.
        """
        self._start(resume_from)
        with Interruption() as interruption:
            try:
                if self._validation_due():
                    self._validate(interruption)
                reason = self._limit()
                windows = self._windows()
                while not reason:
                    self._update(*next(windows))
                    reason = self._after_update(interruption)
                self._finish(interruption)
            except Interrupted as stop:
                raise Interrupted(stop.signum, self._save_once()) from None
            finally:
                self.progress.close()
        return reason

    def _start(self, resume_from: Path | None) -> None:
        if resume_from is not None:
            self.state = self.checkpoints.load(resume_from)
            self._saved_step = self.state.step
        if self.accelerator.is_main_process:
            self.metrics = MetricsLog(self.folder.metrics, keep=self.state.records if resume_from else None)
        self._total = self._total_steps()
        self.progress = Progress(self.state.step, self._total, self.accelerator.is_main_process)
        self._started = self._window_started = time.monotonic()
        self._saved_seconds = self.state.seconds
        self.model.train()

    def _windows(self) -> Iterator[tuple[Window, list[np.ndarray | None]]]:
        """Yield each update's batches on all processes and on this one, from the state on, epoch after epoch."""
        accumulation = self.settings.accumulation_steps
        size = accumulation * self.accelerator.num_processes
        while True:
            # The next buffer of a stream may replace the examples that the pending losses' indices count.
            self._collect()
            batches = self.task.epoch(self.state.epoch)
            self._epoch_size = len(batches)
            if not batches:
                self.state.epoch += 1
                continue
            mine = shard(batches, self.accelerator.process_index, self.accelerator.num_processes, accumulation)
            # Rounded up where a run resumes with another number of processes in the middle of what is now one window.
            first = -(-self.state.batches_done // size)
            for number in range(first, -(-len(batches) // size)):
                window = batches[number * size : (number + 1) * size]
                self._window_end = number * size + len(window)
                yield window, mine[number * accumulation : (number + 1) * accumulation]

    def _update(self, window: Window, mine: list[np.ndarray | None]) -> None:
        """Do one optimiser step on one window."""
        step = self.state.step + 1
        size = BatchSize.total(self.task.size(batch) for batch in window)
        set_learning_rate(self.optimizer, self.schedule(step))
        if self.single_process:
            mine = [batch for batch in mine if batch is not None]
        # Gradients are averaged over processes: this divisor makes the average the mean over all items.
        divisor = size.items / self.accelerator.num_processes
        total = torch.zeros(1 + len(self.task.terms), device=self.accelerator.device)
        for number, batch in enumerate(mine):
            last = number == len(mine) - 1
            # Shards are summed at every batch: no process has the memory for whole gradients until the last one.
            with contextlib.nullcontext() if last or self.sharded else self.accelerator.no_sync(self.model):
                total += self._backward(batch, divisor, window)
        self._pending.append(PendingLoss(step, total, size, window))
        if self.looks_at_once:
            self._check_finite(step, float(total.sum()), window)
        if self.settings.max_grad_norm:
            self.accelerator.clip_grad_norm_(self.parameters, self.settings.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(step)
        state = self.state
        state.step, state.target_tokens = step, state.target_tokens + size.items
        state.batches_done = self._window_end
        if state.batches_done == self._epoch_size:
            state.epoch, state.batches_done = state.epoch + 1, 0

    def _backward(self, batch: np.ndarray | None, divisor: float, window: Window) -> torch.Tensor:
        """Return the losses [1 + terms] of one batch, the gradient of what is minimised added.

        A missing batch takes part with weight zero, so that no process waits for another.
        """
        inputs = self.task.collate(window[0][:1] if batch is None else batch)
        device = self.accelerator.device
        if device.type != "cpu":
            inputs = {name: value.pin_memory().to(device, non_blocking=True) for name, value in inputs.items()}
        outputs = self.model(**inputs, num_items_in_batch=self._number(divisor), **self.task.forward_options)
        loss = outputs.loss
        losses = outputs.parts if self.task.terms else loss.detach().unsqueeze(0)
        if batch is None:
            loss, losses = loss * 0.0, losses * 0.0
        self.accelerator.backward(loss)
        return losses

    def _number(self, value: float) -> float | torch.Tensor:
        # A compiled graph would be specialised on a plain number and so compiled again for every update.
        return torch.tensor(value, device=self.accelerator.device) if self.settings.compile else value

    # After an update

    def _after_update(self, interruption: Interruption) -> str | None:
        settings, state = self.settings, self.state
        self.progress.advance()
        signum, state.seconds = self._agree(interruption.signum)
        if state.step % settings.log_every == 0:
            self._log()
        if signum:
            raise Interrupted(signum)
        reason = self._limit()
        if not reason and self._save_due():
            self._save()
        if not reason and self._validation_due():
            self._validate(interruption)
            reason = self._limit()
        return reason

    def _finish(self, interruption: Interruption) -> None:
        # Saved before the records of an odd last step: a resumed run drops these, as if it had not stopped.
        self._save_once()
        if self.state.window or self._pending:
            self._log()
        if self.task.validates and self.state.evaluated_step != self.state.step:
            self._validate(interruption)

    def _agree(self, signum: int) -> tuple[int, float]:
        """Return a signal and the run's clock that are the same on all processes."""
        now = time.monotonic()
        if self.single_process:
            seconds, self._started = self.state.seconds + now - self._started, now
            return signum, seconds
        step = self.state.step
        if step % AGREE_EVERY and step % self.settings.log_every:
            return 0, self.state.seconds
        mine = torch.tensor([float(signum), now - self._started], dtype=torch.float64, device=self.accelerator.device)
        torch.distributed.all_reduce(mine, torch.distributed.ReduceOp.MAX)
        self._started = now
        return int(mine[0]), self.state.seconds + float(mine[1])

    def _limit(self) -> str | None:
        """Return the key of the limit that the run has reached, if any."""
        settings, state = self.settings, self.state
        if settings.max_steps is not None and state.step >= settings.max_steps:
            return "max_steps"
        if settings.max_epochs is not None and self.task.passes(state.epoch) >= settings.max_epochs:
            return "max_epochs"
        if settings.max_minutes is not None and state.seconds >= 60 * settings.max_minutes:
            return "max_minutes"
        if settings.patience is not None and state.stale >= settings.patience:
            return "patience"
        return None

    def _log(self) -> None:
        """Write the record of the updates since the last one."""
        self._collect()
        window, state = self.state.window, self.state
        now = time.monotonic()
        seconds = max(now - self._window_started - self._paused, 1e-9)
        self._window_started, self._paused = now, 0.0
        rate = self.schedule(state.step)
        record: dict[str, Any] = {
            "event": "train",
            "step": state.step,
            "epoch": state.epoch,
            "loss": window["nats"] / window["target_tokens"],
            **{name: window[name] / window["target_tokens"] for name in self.task.terms},
            "learning_rate": rate,
            "target_tokens": state.target_tokens,
            "padding": 1 - window["real"] / window["cells"],
            "tokens_per_second": round(window["fresh_tokens"] / seconds, 1),
            "seconds": round(state.seconds, 3),
        }
        state.window = {}
        self.record(record)
        self.progress.show(record["loss"], record["tokens_per_second"], rate, self._seconds_left())

    def _collect(self) -> None:
        """Bring the pending losses to the host, summed over processes, and add them to the window."""
        if not self._pending:
            return
        losses = torch.stack([pending.losses for pending in self._pending]).double()  # [updates, 1 + terms]
        if not self.single_process:
            torch.distributed.all_reduce(losses)
            losses /= self.accelerator.num_processes
        window = self.state.window
        for pending, values in zip(self._pending, losses.tolist(), strict=True):
            self._check_finite(pending.step, sum(values), pending.window)
            items, tokens, cells = pending.size
            amounts = {name: value * items for name, value in zip(("nats", *self.task.terms), values, strict=True)}
            amounts |= {"target_tokens": items, "fresh_tokens": items}
            for name, amount in (amounts | {"real": tokens, "cells": cells}).items():
                window[name] = window.get(name, 0) + amount
        self._pending.clear()

    def _check_finite(self, step: int, loss: float, window: Window) -> None:
        if math.isfinite(loss):
            return
        lines = [self.task.locate(int(index)) for batch in window for index in sorted(batch)]
        report = self.folder.path / "bad_batch.json"
        if self.accelerator.is_main_process:
            atomic_text(report, json.dumps({"step": step, "loss": str(loss), "lines": lines}) + "\n")
        shown = ", ".join(lines[:20]) + (", ..." if len(lines) > 20 else "")
        good = latest_checkpoint(self.folder.checkpoints) or "none"
        raise TrainingError(
            f"The loss became {loss} at step {step} (epoch {self.state.epoch}). Its {len(lines)} training examples "
            f"are: {shown} (all in '{report}'). The last good checkpoint is {good}. Look at those examples; "
            "lower lr_factor or learning_rate, raise warmup_steps, set max_grad_norm, or use precision fp32."
        )

    def record(self, record: dict[str, Any]) -> None:
        """Write one record to metrics.jsonl and the tracker."""
        if self.metrics is None:
            self.state.records += 1
            return
        self.metrics.write(record)
        self.state.records = self.metrics.count
        event = record["event"]
        numbers = {f"{event}/{name}": value for name, value in record.items() if isinstance(value, (int, float))}
        self.accelerator.log(
            {name: value for name, value in numbers.items() if not name.endswith("/step")}, record["step"]
        )

    def _total_steps(self) -> int | None:
        totals = [self.settings.max_steps] if self.settings.max_steps else []
        # How many batches a buffer has shows only once it is read.
        if self.settings.max_epochs and not self.task.in_buffers:
            size = self.settings.accumulation_steps * self.accelerator.num_processes
            totals.append(self.settings.max_epochs * -(-len(self.task.epoch(0)) // size))
        return min(totals, default=None)

    def _seconds_left(self) -> float | None:
        estimates = []
        if self._total:
            estimates.append((self._total - self.state.step) * self.state.seconds / self.state.step)
        if self.settings.max_minutes:
            estimates.append(60 * self.settings.max_minutes - self.state.seconds)
        return min(estimates, default=None)

    # Validation

    def _validation_due(self) -> bool:
        every, step = self.settings.eval_every, self.state.step
        return bool(self.task.validates and every and step and step % every == 0 and self.state.evaluated_step != step)

    def _validate(self, interruption: Interruption) -> None:
        began = time.monotonic()
        self._collect()
        devices = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        # Outermost, since an interruption in the middle of the exchange would leave a mixture of both.
        with self.average.in_place() if self.average else contextlib.nullcontext():
            with interruption.at_once(self.single_process), torch.random.fork_rng(devices):
                validation = self.score(self.bare_model, distributed=not self.sharded)
            self._keep_best(validation)
        self._paused += time.monotonic() - began
        _, self.state.seconds = self._agree(0) if self.single_process else (0, self.state.seconds)

    def score(self, model: torch.nn.Module, *, final: bool = False, distributed: bool = False) -> Validation:
        """Validate `model` outside any compiled graph: lengths of translations differ all the time."""
        with torch.compiler.set_stance("force_eager") if self.settings.compile else contextlib.nullcontext():
            return self.task.validate(model, final=final, distributed=distributed)

    def _keep_best(self, validation: Validation) -> None:
        """Record the scores and keep the best model."""
        state, scores = self.state, validation.scores
        key = best_key(scores, self.settings.best_by)
        value = ranking(scores, key, self.task.metrics)
        better = state.best_score is None or value > state.best_score
        if better:
            state.best_score, state.best_step, state.stale = value, state.step, 0
            self.checkpoints.save_best(state, value, key)
        else:
            state.stale += 1
        state.evaluated_step = state.step
        self.record({"event": "validation", "step": state.step, "epoch": state.epoch, **scores, "best": better})
        text = f"step {state.step}: validation {self.task.describe(scores)}"
        self.progress.print_line(f"{text}{', best so far' if better else ''}")

    # Saving

    def _save_due(self) -> bool:
        settings, state = self.settings, self.state
        by_step = settings.save_every and state.step % settings.save_every == 0
        by_time = settings.save_minutes and state.seconds - self._saved_seconds >= 60 * settings.save_minutes
        return bool(by_step or by_time)

    def _save_once(self) -> Path:
        if self._saved_step != self.state.step:
            self._save()
        return step_folder(self.folder.checkpoints, self.state.step)

    def _save(self) -> None:
        began = time.monotonic()
        self._collect()
        self.checkpoints.save(self.state)
        self._saved_step, self._saved_seconds = self.state.step, self.state.seconds
        self._paused += time.monotonic() - began
