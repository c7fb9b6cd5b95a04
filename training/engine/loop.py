"""The training loop: one update after another, exactly repeatable, on one process or many.

An update takes `num_processes * accumulation_steps` batches of the plan, the window. The loss of each batch is the sum
over its target tokens divided by the target tokens of the whole window on all processes, which every process knows from
the plan without asking. So one large batch, accumulation and several processes give the same gradient.

The state to resume from is `TrainingState` (JSON), the optimiser's tensors and the random states of every process.
"""

import contextlib
import json
import logging
import math
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator

from vaswani_tx.training.config.run_settings import RunSettings
from vaswani_tx.training.data.batching import shard
from vaswani_tx.training.engine.checkpoint_manager import CheckpointManager, Task, TrainingState
from vaswani_tx.training.engine.checkpoints import latest_checkpoint, step_folder
from vaswani_tx.training.engine.ema import MovingAverage
from vaswani_tx.training.engine.fsdp import is_sharded
from vaswani_tx.training.engine.run_folder import RunFolder
from vaswani_tx.training.engine.schedules import set_learning_rate
from vaswani_tx.training.engine.trackers import Interruption, MetricsLog, Progress
from vaswani_tx.training.errors import Interrupted, TrainingError
from vaswani_tx.training.files import atomic_text
from vaswani_tx.training.tasks.translation_validation import describe

logger = logging.getLogger(__name__)

# Several processes agree on clocks and signals only so often, and where they log: each time waits for the slowest.
AGREE_EVERY = 10


class TrainingLoop:
    """Trains `model` on `task` into `folder`; `validate(model, beam) -> scores` may be None.

    A model that several processes hold in shards (training/engine/fsdp.py) comes sharded, its optimiser built over them.
    """

    def __init__(
        self,
        arguments: RunSettings,
        accelerator: Accelerator,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        schedule: Callable[[int], float],
        task: Task,
        folder: RunFolder,
        write_extras: Callable[[Path], None] = lambda folder: None,
        validate: Callable[[torch.nn.Module, int], dict[str, Any]] | None = None,
    ):
        self.arguments, self.accelerator, self.schedule, self.task = arguments, accelerator, schedule, task
        self.folder, self.validate = folder, validate
        self.sharded = is_sharded(model)
        if self.sharded:
            self.model, self.optimizer = model, accelerator.prepare_optimizer(optimizer)
        else:
            self.model, self.optimizer = accelerator.prepare(model, optimizer)
        self.bare_model = accelerator.unwrap_model(self.model)
        self.average = None if arguments.ema_decay is None else MovingAverage(self.bare_model, arguments.ema_decay)
        self.keeper = CheckpointManager(
            arguments, accelerator, self.model, self.optimizer, task, folder, write_extras, self.average
        )
        self.parameters = [parameter for parameter in self.model.parameters() if parameter.requires_grad]
        self.alone = accelerator.num_processes == 1
        # Elsewhere looking at every loss would wait for the device, or for the other processes.
        self.looks_at_once = self.alone and accelerator.device.type == "cpu"
        self.position = TrainingState()
        self.metrics: MetricsLog | None = None
        self._pending: list[tuple[int, torch.Tensor, int, list[np.ndarray]]] = []
        self._started = self._window_started = time.monotonic()
        self._paused = 0.0
        self._saved_step, self._saved_seconds = -1, 0.0
        self._epoch_size = self._window_end = 0
        # Dropout differs between processes; weights, made before, do not.
        torch.manual_seed(arguments.seed + accelerator.process_index)

    # The story

    def run(self, resume_from: Path | None = None) -> str:
        """Trains until a limit is reached and returns the key of that limit.

        Raises:
            TrainingError: a loss that is not finite.
            CheckpointError: a checkpoint that cannot be read or written.
            Interrupted: a signal; the state is saved.
        """
        self._start(resume_from)
        with Interruption() as interruption:
            try:
                if self._evaluation_due():
                    self._evaluate(interruption)
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
            self.position = self.keeper.load(resume_from)
            self._saved_step = self.position.step
        if self.accelerator.is_main_process:
            self.metrics = MetricsLog(self.folder.metrics, keep=self.position.records if resume_from else None)
        self._total = self._total_steps()
        self.progress = Progress(self.position.step, self._total, self.accelerator.is_main_process)
        self._started = self._window_started = time.monotonic()
        self._saved_seconds = self.position.seconds
        self.model.train()

    def _windows(self) -> Iterator[tuple[list[np.ndarray], list[np.ndarray | None]]]:
        """Each update's batches on all processes and on this one, from the position on, epoch after epoch."""
        accumulation = self.arguments.accumulation_steps
        size = accumulation * self.accelerator.num_processes
        while True:
            # What the pending losses' indices count may be replaced by the next piece of the data.
            self._collect()
            batches = self.task.plan.epoch(self.position.epoch)
            self._epoch_size = len(batches)
            if not batches:
                self.position.epoch += 1
                continue
            mine = shard(batches, self.accelerator.process_index, self.accelerator.num_processes, accumulation)
            # Rounded up where a run goes on with another number of processes in the middle of what is now one window.
            first = -(-self.position.batches_done // size)
            for number in range(first, -(-len(batches) // size)):
                window = batches[number * size : (number + 1) * size]
                self._window_end = number * size + len(window)
                yield window, mine[number * accumulation : (number + 1) * accumulation]

    def _update(self, window: list[np.ndarray], mine: list[np.ndarray | None]) -> None:
        """One optimiser step on one window."""
        step = self.position.step + 1
        tokens = sum(int(self.task.lengths(batch)[1].sum()) for batch in window)
        set_learning_rate(self.optimizer, self.schedule(step))
        if self.alone:
            mine = [batch for batch in mine if batch is not None]
        # Gradients are averaged over processes: this divisor makes the average the mean over all tokens.
        divisor = tokens / self.accelerator.num_processes
        total = torch.zeros((), device=self.accelerator.device)
        for number, batch in enumerate(mine):
            last = number == len(mine) - 1
            # Shards are summed at every batch: whole gradients, kept until the last, are what no process has room for.
            with contextlib.nullcontext() if last or self.sharded else self.accelerator.no_sync(self.model):
                total += self._backward(batch, divisor, window)
        self._pending.append((step, total, tokens, window))
        if self.looks_at_once:
            self._check_finite(step, float(total), window)
        if self.arguments.max_grad_norm:
            self.accelerator.clip_grad_norm_(self.parameters, self.arguments.max_grad_norm)
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        if self.average:
            self.average.update(step)
        position = self.position
        position.step, position.target_tokens = step, position.target_tokens + tokens
        position.batches_done = self._window_end
        if position.batches_done == self._epoch_size:
            position.epoch, position.batches_done = position.epoch + 1, 0

    def _backward(self, batch: np.ndarray | None, divisor: float, window: list[np.ndarray]) -> torch.Tensor:
        """Loss of one batch, its gradient added; a missing batch takes part with weight zero, so that nobody waits."""
        inputs = self.task.collate(window[0][:1] if batch is None else batch)
        device = self.accelerator.device
        if device.type != "cpu":
            inputs = {name: value.pin_memory().to(device, non_blocking=True) for name, value in inputs.items()}
        loss = self.model(**inputs, num_items_in_batch=self._number(divisor), **self.task.forward_options).loss
        if batch is None:
            loss = loss * 0.0
        self.accelerator.backward(loss)
        return loss.detach()

    def _number(self, value: float) -> float | torch.Tensor:
        # A compiled graph would be specialised on a plain number and so compiled anew for every update.
        return torch.tensor(value, device=self.accelerator.device) if self.arguments.compile else value

    # After an update

    def _after_update(self, interruption: Interruption) -> str | None:
        arguments, position = self.arguments, self.position
        self.progress.advance()
        signum, position.seconds = self._agree(interruption.signum)
        if position.step % arguments.log_every == 0:
            self._log()
        if signum:
            raise Interrupted(signum)
        reason = self._limit()
        if not reason and self._save_due():
            self._save()
        if not reason and self._evaluation_due():
            self._evaluate(interruption)
            reason = self._limit()
        return reason

    def _finish(self, interruption: Interruption) -> None:
        # Saved before the records of an odd last step: a resumed run drops these and goes on as if it had not stopped.
        self._save_once()
        if self.position.window or self._pending:
            self._log()
        if self.validate and self.position.evaluated_step != self.position.step:
            self._evaluate(interruption)

    def _agree(self, signum: int) -> tuple[int, float]:
        """A signal and the run's clock that all processes see alike."""
        seconds = self.position.seconds if self.alone else 0.0
        now = time.monotonic()
        if self.alone:
            seconds, self._started = seconds + now - self._started, now
            return signum, seconds
        step = self.position.step
        if step % AGREE_EVERY and step % self.arguments.log_every:
            return 0, self.position.seconds
        mine = torch.tensor([float(signum), now - self._started], dtype=torch.float64, device=self.accelerator.device)
        torch.distributed.all_reduce(mine, torch.distributed.ReduceOp.MAX)
        self._started = now
        return int(mine[0]), self.position.seconds + float(mine[1])

    def _limit(self) -> str | None:
        """The key of the limit that the run has reached, if any."""
        arguments, position = self.arguments, self.position
        if arguments.max_steps is not None and position.step >= arguments.max_steps:
            return "max_steps"
        if arguments.max_epochs is not None and self._passes() >= arguments.max_epochs:
            return "max_epochs"
        if arguments.max_minutes is not None and position.seconds >= 60 * arguments.max_minutes:
            return "max_minutes"
        if arguments.patience is not None and position.stale >= arguments.patience:
            return "patience"
        return None

    def _passes(self) -> int:
        """How often all of the data has been seen."""
        return self.task.plan.passes(self.position.epoch) if self.task.in_pieces else self.position.epoch

    def _log(self) -> None:
        """Writes the record of the updates since the last one."""
        self._collect()
        window, position = self.position.window, self.position
        now = time.monotonic()
        seconds = max(now - self._window_started - self._paused, 1e-9)
        self._window_started, self._paused = now, 0.0
        rate = self.schedule(position.step)
        record = {
            "event": "train",
            "step": position.step,
            "epoch": position.epoch,
            "loss": window["nats"] / window["target_tokens"],
            "learning_rate": rate,
            "target_tokens": position.target_tokens,
            "padding": 1 - window["real"] / window["cells"],
            "tokens_per_second": round(window["fresh_tokens"] / seconds, 1),
            "seconds": round(position.seconds, 3),
        }
        position.window = {}
        self.record(record)
        self.progress.show(record["loss"], record["tokens_per_second"], rate, self._seconds_left())

    def _collect(self) -> None:
        """Brings the pending losses to the host, summed over processes, and adds them to the window."""
        if not self._pending:
            return
        losses = torch.stack([loss for _, loss, _, _ in self._pending]).double()
        if not self.alone:
            torch.distributed.all_reduce(losses)
            losses /= self.accelerator.num_processes
        window = self.position.window
        for (step, _, tokens, batches), loss in zip(self._pending, losses.tolist(), strict=True):
            self._check_finite(step, loss, batches)
            sides = [lengths for batch in batches for lengths in self.task.lengths(batch)]
            amounts = {
                "nats": loss * tokens,
                "target_tokens": tokens,
                "fresh_tokens": tokens,
                "real": sum(int(lengths.sum()) for lengths in sides),
                "cells": sum(len(lengths) * int(lengths.max()) for lengths in sides),
            }
            for name, amount in amounts.items():
                window[name] = window.get(name, 0) + amount
        self._pending.clear()

    def _check_finite(self, step: int, loss: float, window: list[np.ndarray]) -> None:
        if math.isfinite(loss):
            return
        lines = [self.task.pairs.where(int(index)) for batch in window for index in sorted(batch)]
        report = self.folder.path / "bad_batch.json"
        if self.accelerator.is_main_process:
            atomic_text(report, json.dumps({"step": step, "loss": str(loss), "lines": lines}) + "\n")
        shown = ", ".join(lines[:20]) + (", ..." if len(lines) > 20 else "")
        good = latest_checkpoint(self.folder.checkpoints) or "none"
        raise TrainingError(
            f"The loss became {loss} at step {step} (epoch {self.position.epoch}). Its {len(lines)} training pairs "
            f"are: {shown} (all in '{report}'). The last good checkpoint is {good}. Look at those lines; "
            "lower lr_factor or learning_rate, raise warmup_steps, set max_grad_norm, or use precision fp32."
        )

    def record(self, record: dict[str, Any]) -> None:
        """Writes one record to metrics.jsonl and the tracker."""
        if self.metrics is None:
            self.position.records += 1
            return
        self.metrics.write(record)
        self.position.records = self.metrics.count
        kind = record["event"]
        numbers = {f"{kind}/{name}": value for name, value in record.items() if isinstance(value, (int, float))}
        self.accelerator.log(
            {name: value for name, value in numbers.items() if not name.endswith("/step")}, record["step"]
        )

    def _total_steps(self) -> int | None:
        totals = [self.arguments.max_steps] if self.arguments.max_steps else []
        # How many batches a piece has shows only once it is read.
        if self.arguments.max_epochs and not self.task.in_pieces:
            size = self.arguments.accumulation_steps * self.accelerator.num_processes
            totals.append(self.arguments.max_epochs * -(-len(self.task.plan.epoch(0)) // size))
        return min(totals, default=None)

    def _seconds_left(self) -> float | None:
        estimates = []
        if self._total:
            estimates.append((self._total - self.position.step) * self.position.seconds / self.position.step)
        if self.arguments.max_minutes:
            estimates.append(60 * self.arguments.max_minutes - self.position.seconds)
        return min(estimates, default=None)

    # Validation

    def _evaluation_due(self) -> bool:
        every, step = self.arguments.eval_every, self.position.step
        return bool(self.validate and every and step and step % every == 0 and self.position.evaluated_step != step)

    def _evaluate(self, interruption: Interruption) -> None:
        began = time.monotonic()
        self._collect()
        devices = [self.accelerator.device] if self.accelerator.device.type == "cuda" else []
        # Outermost, since an interruption in the middle of the exchange would leave a mixture of both.
        with self.average.in_place() if self.average else contextlib.nullcontext():
            with interruption.at_once(self.alone), torch.random.fork_rng(devices):
                scores = self.score(self.bare_model, self.arguments.eval_beam)
            self._judge(scores)
        self._paused += time.monotonic() - began
        _, self.position.seconds = self._agree(0) if self.alone else (0, self.position.seconds)

    def score(self, model: torch.nn.Module, beam: int) -> dict[str, Any]:
        """Validation scores of `model`, outside any compiled graph: lengths of translations differ all the time."""
        with torch.compiler.set_stance("force_eager") if self.arguments.compile else contextlib.nullcontext():
            return self.validate(model, beam)

    def _judge(self, scores: dict[str, Any]) -> None:
        """Records the scores and keeps the best model."""
        position = self.position
        key = self.arguments.best_by if self.arguments.best_by in scores else "loss"
        # The loss decides between equals: early BLEU is 0 for long, and an easy task's is soon 100.
        value = [-scores["loss"]] if key == "loss" else [scores[key], -scores["loss"]]
        better = position.best_score is None or value > position.best_score
        if better:
            position.best_score, position.best_step, position.stale = value, position.step, 0
            self.keeper.save_best(position, value, key)
        else:
            position.stale += 1
        position.evaluated_step = position.step
        self.record({"event": "validation", "step": position.step, "epoch": position.epoch, **scores, "best": better})
        self.progress.say(f"step {position.step}: validation {describe(scores)}{', best so far' if better else ''}")

    # Saving

    def _save_due(self) -> bool:
        arguments, position = self.arguments, self.position
        by_step = arguments.save_every and position.step % arguments.save_every == 0
        by_time = arguments.save_minutes and position.seconds - self._saved_seconds >= 60 * arguments.save_minutes
        return bool(by_step or by_time)

    def _save_once(self) -> Path:
        if self._saved_step != self.position.step:
            self._save()
        return step_folder(self.folder.checkpoints, self.position.step)

    def _save(self) -> None:
        began = time.monotonic()
        self._collect()
        self.keeper.save(self.position)
        self._saved_step, self._saved_seconds = self.position.step, self.position.seconds
        self._paused += time.monotonic() - began
