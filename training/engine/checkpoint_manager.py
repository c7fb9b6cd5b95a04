"""The checkpoint manager: resumable checkpoints and the best model of a run, written and read on one process or many.

The optimiser's tensors are stored whole under the parameters' names, so that a checkpoint written by several processes,
sharded or not, resumes on any other number of them.
"""

import dataclasses
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.utils import gather_object
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_optimizer_state_dict,
    set_optimizer_state_dict,
)

from vaswani_tx.modeling_vaswani import with_present_names
from vaswani_tx.training.config.run_settings import RunSettings
from vaswani_tx.training.engine.checkpoints import (
    nested_optimizer_state,
    optimizer_tensors,
    prune,
    read_average,
    read_optimizer,
    read_rng,
    read_state,
    restore_rng,
    rng_state,
    step_folder,
    write_checkpoint,
)
from vaswani_tx.training.engine.ema import MovingAverage
from vaswani_tx.training.engine.fsdp import forget_gathered, is_sharded, own_part, whole
from vaswani_tx.training.engine.run_folder import RunFolder
from vaswani_tx.training.engine.task import Task
from vaswani_tx.training.errors import CheckpointError, TrainingError
from vaswani_tx.training.files import atomic_folder
from vaswani_tx.training.models.loading import STATE, repair_hint

# Whole tensors: on the main process's host memory to be written, on every process to be read.
_ON_MAIN = StateDictOptions(full_state_dict=True, cpu_offload=True)
_EVERYWHERE = StateDictOptions(full_state_dict=True)


@dataclass
class TrainingState:
    """How far a run is; all of it goes into a checkpoint's `state.json`."""

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


class CheckpointManager:
    """Writer and reader of what a run needs to resume.

    Args:
        write_extras: puts what is no weight, such as the tokenizer, into a model folder.
        average: the moving average of the weights, if there is one.
    """

    def __init__(
        self,
        settings: RunSettings,
        accelerator: Accelerator,
        model: torch.nn.Module,
        optimizer: torch.optim.Optimizer,
        task: Task,
        folder: RunFolder,
        write_extras: Callable[[Path], None],
        average: MovingAverage | None = None,
    ):
        self.settings, self.accelerator, self.model, self.task = settings, accelerator, model, task
        self.folder, self.write_extras, self.average = folder, write_extras, average
        self.bare_model = accelerator.unwrap_model(model)
        # accelerate's wrapper hides the optimiser whose states are meant here.
        self.optimizer = getattr(optimizer, "optimizer", optimizer)

    def save(self, state: TrainingState) -> Path:
        """Write a checkpoint of `state` and delete the oldest beyond `keep_last`; all processes call it.

        Raises:
            TrainingError: weights that are not finite, which no checkpoint may hold.
            CheckpointError: the disk is full; the checkpoints that were there are untouched.
        """
        self._check_weights(state)
        write_model = self._model_writer()
        moments: Any = get_optimizer_state_dict(self.model, self.optimizer, options=_ON_MAIN).get("state", {})
        rng = gather_object([rng_state(self.accelerator.device)])
        average = self.average.tensors(keep=self.accelerator.is_main_process) if self.average else None
        target = step_folder(self.folder.checkpoints, state.step)
        if self.accelerator.is_main_process:
            content = dataclasses.asdict(state)
            content |= {"data": self.task.fingerprint(), "scaler": self._scaler_state()}
            write_checkpoint(target, write_model, content, optimizer_tensors(moments), rng, average)
            prune(self.folder.checkpoints, self.settings.keep_last)
        self.accelerator.wait_for_everyone()
        return target

    def load(self, folder: Path) -> TrainingState:
        """Set optimiser and random states to a checkpoint's and return its training state; weights are loaded before.

        Raises:
            CheckpointError: a damaged checkpoint, or one of other data.
        """
        content = read_state(folder)
        try:
            data, scaler = content.pop("data"), content.pop("scaler")
            state = TrainingState(**content)
        except (KeyError, TypeError) as error:
            raise CheckpointError(
                f"'{folder / STATE / 'state.json'}' is damaged ({error}). {repair_hint(folder)}"
            ) from error
        if self.task.in_buffers:
            # A checkpoint at the end of a buffer holds the fingerprint of that buffer, not of the next one.
            self.task.epoch(state.epoch if state.batches_done else max(state.epoch - 1, 0))
        expected = self.task.fingerprint()
        if data.get("teacher") != expected.get("teacher"):
            raise CheckpointError(
                f"teacher: '{folder}' was trained with another one than this command gives: name the folder of that "
                "one, or start a new run from its weights with --init-from."
            )
        if data != expected:
            raise CheckpointError(
                f"'{folder}' was trained on other data or another tokenizer than this command gives: its order of "
                "batches cannot be resumed. Restore the data, or start a new run from its weights with --init-from."
            )
        fresh = get_optimizer_state_dict(self.model, self.optimizer, options=_EVERYWHERE)
        names = {name for name, _ in self.bare_model.named_parameters()}
        fresh["state"] = with_present_names(nested_optimizer_state(read_optimizer(folder)), names)
        set_optimizer_state_dict(self.model, self.optimizer, fresh, options=_EVERYWHERE)
        if self.average:
            self.average.load(with_present_names(read_average(folder), names))
        if scaler and self.accelerator.scaler is not None:
            self.accelerator.scaler.load_state_dict(scaler)
        states = read_rng(folder)
        if self.accelerator.process_index < len(states):
            restore_rng(states[self.accelerator.process_index], self.accelerator.device)
        if state.window:
            # Speed is measured from here on: these tokens were seen in another process's time.
            state.window["fresh_tokens"] = 0
        return state

    def save_best(self, state: TrainingState, value: list[float], key: str) -> None:
        """Replace best/, unless a later step of this run, being repeated after a resume, had left a better one."""
        note = self.folder.best / "validation.json"
        former = json.loads(note.read_text(encoding="utf-8")) if note.exists() else None
        if former and former["step"] > state.step and former["by"] == key and former["value"] >= value:
            return
        note_text = json.dumps({"step": state.step, "by": key, "value": value}) + "\n"
        self._write_model(self.folder.best, lambda folder: (folder / note.name).write_text(note_text, encoding="utf-8"))

    def save_average(self, target: Path) -> None:
        """Write the moving average of the weights as a model folder in place of an old one; all processes call it."""
        if self.average is None:
            raise ValueError("This run keeps no moving average: set ema_decay.")
        with self.average.in_place():
            self._write_model(target)

    def _write_model(self, target: Path, write_more: Callable[[Path], Any] = lambda folder: None) -> None:
        write_model = self._model_writer()
        if self.accelerator.is_main_process:
            with atomic_folder(target, replace=True) as folder:
                write_model(folder)
                write_more(folder)
        self.accelerator.wait_for_everyone()

    def _model_writer(self) -> Callable[[Path], None]:
        """Collect the weights, on all processes, and return what writes them on one."""
        weights = self._whole_weights() if is_sharded(self.model) else None

        def write(folder: Path) -> None:
            self.bare_model.save_pretrained(folder, state_dict=weights)
            self.write_extras(folder)

        return write

    def _whole_weights(self) -> dict[str, torch.Tensor]:
        """Return the weights gathered on the main process's host; a shared matrix once, under all of its names."""
        forget_gathered(self.bare_model)
        gathered: dict[torch.Tensor, torch.Tensor] = {}
        for tensor in self.bare_model.state_dict(keep_vars=True).values():
            if tensor not in gathered:
                found = whole(tensor.detach())
                gathered[tensor] = found.cpu() if self.accelerator.is_main_process else found.new_empty(0)
        return {name: gathered[tensor] for name, tensor in self.bare_model.state_dict(keep_vars=True).items()}

    def _check_weights(self, state: TrainingState) -> None:
        names = [name for name, parameter in self.bare_model.named_parameters()
                 if not torch.isfinite(own_part([parameter])[0]).all()]  # fmt: skip
        # One process may hold the only shard that is bad: all have to stop.
        names = gather_object(names)
        if names:
            raise TrainingError(
                f"'{names[0]}' is not finite after step {state.step}, whose loss was: its gradient overflowed. No "
                "checkpoint was written, the earlier ones are good. Set max_grad_norm or use precision fp32."
            )

    def _scaler_state(self) -> dict[str, Any] | None:
        return None if self.accelerator.scaler is None else self.accelerator.scaler.state_dict()
