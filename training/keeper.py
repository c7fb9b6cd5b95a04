"""Keeps a run: its resumable checkpoints and its best model, written and read on one process or many.

The optimiser's tensors are stored whole under the parameters' names, so that a checkpoint written by several processes,
sharded or not, resumes on any other number of them.
"""

import dataclasses
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from training.arguments import TranslationArguments
from training.batching import BatchPlan
from training.checkpoints import (
    CheckpointError,
    atomic_folder,
    nested_optimizer_state,
    optimizer_tensors,
    prune,
    read_optimizer,
    read_rng,
    read_state,
    restore_rng,
    rng_state,
    step_folder,
    write_checkpoint,
)
from training.run_folder import RunFolder

logger = logging.getLogger(__name__)

# Whole tensors: on the main process's host memory to be written, on every process to be read.
_ON_MAIN = StateDictOptions(full_state_dict=True, cpu_offload=True)
_EVERYWHERE = StateDictOptions(full_state_dict=True)


class TrainingError(ValueError):
    """Training that cannot go on; the message names the update, its lines and the last good checkpoint."""


@dataclass
class Task:
    """What is learned: batches of indices, how one becomes tensors, and where its pairs come from."""

    plan: BatchPlan
    collate: Callable[[np.ndarray], dict[str, torch.Tensor]]
    source_lengths: np.ndarray
    target_lengths: np.ndarray
    where: Callable[[int], str]
    forward_options: dict[str, Any] = field(default_factory=dict)


@dataclass
class Position:
    """Where a run stands; all of it goes into a checkpoint's `state.json`."""

    step: int = 0
    epoch: int = 0
    batches_done: int = 0
    target_tokens: int = 0
    seconds: float = 0.0
    records: int = 0
    evaluated_step: int = 0
    best_score: list[float] | None = None
    best_step: int = 0
    stale: int = 0
    window: dict[str, float] = field(default_factory=dict)


class Keeper:
    """Writes and reads what a run needs to go on.

    Args:
        write_extras: puts what is no weight, such as the tokenizer, into a model folder.
    """

    def __init__(
        self,
        arguments: TranslationArguments,
        accelerator: Accelerator,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        task: Task,
        folder: RunFolder,
        write_extras: Callable[[Path], None],
    ):
        self.arguments, self.accelerator, self.model, self.task = arguments, accelerator, model, task
        self.folder, self.write_extras = folder, write_extras
        self.bare_model = accelerator.unwrap_model(model)
        # accelerate's wrapper hides the optimiser whose states are meant here.
        self.optimizer = getattr(optimizer, "optimizer", optimizer)

    def save(self, position: Position) -> Path:
        """Writes a checkpoint of `position` and deletes the oldest beyond `keep_last`; all processes call it.

        Raises:
            TrainingError: weights that are not finite, which no checkpoint may hold.
            CheckpointError: the disk is full; the checkpoints that stood there are untouched.
        """
        self._check_weights(position)
        write_model = self._model_writer()
        state = get_optimizer_state_dict(self.model, self.optimizer, options=_ON_MAIN).get("state", {})
        rng = gather_object([rng_state(self.accelerator.device)])
        target = step_folder(self.folder.checkpoints, position.step)
        if self.accelerator.is_main_process:
            content = dataclasses.asdict(position) | {"data": self._data_marks(), "scaler": self._scaler_state()}
            write_checkpoint(target, write_model, content, optimizer_tensors(state), rng)
            prune(self.folder.checkpoints, self.arguments.keep_last)
        self.accelerator.wait_for_everyone()
        return target

    def load(self, folder: Path) -> Position:
        """Sets optimiser and random states to a checkpoint's and returns its position; weights are loaded before.

        Raises:
            CheckpointError: a damaged checkpoint, or one of other data.
        """
        state = read_state(folder)
        if state.pop("data") != self._data_marks():
            raise CheckpointError(
                f"'{folder}' was trained on other data or another tokenizer than this command gives: its order of "
                "batches cannot go on. Restore the data, or start anew from its weights with --init-from."
            )
        scaler = state.pop("scaler")
        position = Position(**state)
        fresh = get_optimizer_state_dict(self.model, self.optimizer, options=_EVERYWHERE)
        fresh["state"] = nested_optimizer_state(read_optimizer(folder))
        set_optimizer_state_dict(self.model, self.optimizer, fresh, options=_EVERYWHERE)
        if scaler and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(scaler)
        states = read_rng(folder)
        if self.accelerator.process_index < len(states):
            restore_rng(states[self.accelerator.process_index], self.accelerator.device)
        if position.window:
            # Speed is measured anew: these tokens were seen in another process's time.
            position.window["fresh_tokens"] = 0
        return position

    def save_best(self, position: Position, value: list[float], key: str) -> None:
        """Replaces best/, unless a later step of this run, being repeated after a resume, had left a better one."""
        note = self.folder.best / "validation.json"
        former = json.loads(note.read_text(encoding="utf-8")) if note.exists() else None
        if former and former["step"] > position.step and former["by"] == key and former["value"] >= value:
            return
        write_model = self._model_writer()
        if self.accelerator.is_main_process:
            with atomic_folder(self.folder.best, replace=True) as folder:
                write_model(folder)
                text = json.dumps({"step": position.step, "by": key, "value": value}) + "\n"
                (folder / note.name).write_text(text, encoding="utf-8")
        self.accelerator.wait_for_everyone()

    def _model_writer(self) -> Callable[[Path], None]:
        """Collects the weights, on all processes, and returns what writes them on one."""
        alone = self.accelerator.num_processes == 1
        weights = None if alone else self.accelerator.get_state_dict(self.model)

        def write(folder: Path) -> None:
            self.bare_model.save_pretrained(folder, state_dict=weights)
            self.write_extras(folder)

        return write

    def _check_weights(self, position: Position) -> None:
        for name, parameter in self.bare_model.named_parameters():
            own = parameter.to_local() if hasattr(parameter, "to_local") else parameter
            if not torch.isfinite(own.detach()).all():
                raise TrainingError(
                    f"'{name}' is not finite after step {position.step}, whose loss was: its gradient overflowed. No "
                    "checkpoint was written, the earlier ones are good. Set max_grad_norm or use precision fp32."
                )

    def _scaler_state(self) -> dict[str, Any] | None:
        return None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict()

    def _data_marks(self) -> dict[str, int]:
        sides = {"source_tokens": self.task.source_lengths, "target_tokens": self.task.target_lengths}
        return {"pairs": len(self.task.source_lengths)} | {name: int(side.sum()) for name, side in sides.items()}
