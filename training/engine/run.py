"""A whole run: folder, model, optimiser, loop, averages and their scores, for the task that a command gives.

A command gives its settings, and a function that makes the `TaskComponents` of a run from a `RunContext`.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration, set_seed

from vaswani_tx.devices import slow_bfloat16
from vaswani_tx.training.command_line import print_status
from vaswani_tx.training.config.run_settings import RunSettings
from vaswani_tx.training.config.schedules import make_schedule
from vaswani_tx.training.engine.averaging import save_average
from vaswani_tx.training.engine.checkpoints import read_state
from vaswani_tx.training.engine.compilation import compile_layers
from vaswani_tx.training.engine.environment import gather_environment
from vaswani_tx.training.engine.fsdp import shard_if_asked
from vaswani_tx.training.engine.loop import TrainingLoop
from vaswani_tx.training.engine.optimizer import PaperAdam
from vaswani_tx.training.engine.parameter_groups import freeze, rate_groups
from vaswani_tx.training.engine.processes import on_main_process
from vaswani_tx.training.engine.run_folder import RunFolder
from vaswani_tx.training.engine.task import Task, TaskComponents, Validation
from vaswani_tx.training.engine.trackers import check_tracker, start_tracker
from vaswani_tx.training.errors import SettingsError
from vaswani_tx.training.files import atomic_folder
from vaswani_tx.training.models.loading import list_checkpoints

logger = logging.getLogger(__name__)


@dataclass
class RunContext:
    """The start of a run: what a command needs to know to make its components.

    Args:
        settings: the resolved recipe.
        accelerator: device, precision and processes; None where only data are inspected.
        folder: the run folder.
        resume_from: the checkpoint to resume from; None for a new run.
    """

    settings: Any
    accelerator: Accelerator | None
    folder: RunFolder
    resume_from: Path | None

    @property
    def weights(self) -> str | Path | None:
        """Return the folder that the model is loaded from, None for random weights."""
        return self.resume_from or self.settings.init_from

    @property
    def pad_to_multiple_of(self) -> int:
        """Return 8 where tensor cores compute, which are faster with such lengths; else 1."""
        on_gpu = self.accelerator is not None and self.accelerator.device.type == "cuda"
        return 8 if on_gpu and self.settings.precision != "fp32" else 1

    @property
    def quiet(self) -> bool:
        """Return whether this process does not log, since the main one does."""
        return self.accelerator is not None and not self.accelerator.is_main_process


@dataclass
class RunResult:
    """The result of a run, on every process.

    Args:
        context: the start of the run.
        task: what was learned.
        reason: the key whose limit it reached.
        step: updates done.
        validations: `best`, `averaged` and `ema`, where there are such models, with their scores; on the main
            process only.
    """

    context: RunContext
    task: Task
    reason: str
    step: int
    validations: dict[str, Validation] = field(default_factory=dict)


def train(settings: RunSettings, prepare: Callable[[RunContext], TaskComponents]) -> RunResult:
    """Train as the settings say, then average and score.

    Raises:
        ValueError: anything that a user can fix; the message says how.
        Interrupted: a signal; the state is saved.
    """
    settings.check_for_training()
    check_tracker(settings.tracker)
    accelerator = make_accelerator(settings)
    if settings.num_threads:
        torch.set_num_threads(settings.num_threads)
    folder = RunFolder(settings.output_dir)
    resume_from = on_main_process(accelerator, lambda: folder.resume_point(settings))
    settings.decay_steps = on_main_process(accelerator, lambda: plan_decay(settings, folder))
    context = RunContext(settings, accelerator, folder, resume_from)
    components = prepare(context)
    set_seed(settings.seed)
    model = components.make_model()
    trained = freeze(model, settings.freeze)
    on_main_process(accelerator, lambda: create_run_folder(context, components))
    on_main_process(accelerator, lambda: folder.note_data(components.describe_data()))
    init_tracker(context)
    loop = make_loop(context, components, model)
    if accelerator.is_main_process:
        print_status(_first_line(context, components, model, trained))
    reason = loop.run(resume_from)
    # Of a stream, more has been counted by now.
    on_main_process(accelerator, lambda: folder.note_data(components.describe_data()))
    result = RunResult(context, loop.task, reason, loop.state.step)
    finalize(result, components, loop)
    # The wrapped model holds the process group: freed only with the interpreter, gloo's threads may abort the process.
    del loop, model
    accelerator.free_memory()
    accelerator.end_training()
    return result


def plan_decay(settings: RunSettings, folder: RunFolder) -> int | None:
    """Return `decay_steps` for the whole run: a schedule that ends must not move when `max_steps` is raised."""
    end = folder.schedule_end(settings)
    if end is None:
        return settings.decay_steps
    if settings.max_steps is None or settings.max_steps > end:
        last = "on" if settings.max_steps is None else f"to {settings.max_steps:,}"
        print_status(
            f"The {settings.schedule} schedule of this run ends at update {end:,} (decay_steps): from there {last}, "
            "the learning rate is 0. For a longer schedule start a new run, from these weights with --init-from."
        )
    return end


def make_accelerator(settings: RunSettings) -> Accelerator:
    """Return the Accelerator for the precision of the recipe; `accelerate launch` decides everything else."""
    precision = {"fp32": "no"}.get(settings.precision, settings.precision)
    if precision == "fp16" and not torch.accelerator.is_available():
        raise SettingsError("precision: fp16 needs a GPU; on a CPU use bf16 or fp32.")
    tracker = None if settings.tracker == "none" else settings.tracker
    if tracker == "tensorboard" and find_spec("tensorboard") is None:
        logger.warning("tensorboard is not installed: the curves go to metrics.jsonl only.")
        tracker = None
    project = ProjectConfiguration(project_dir=settings.output_dir, logging_dir=settings.output_dir)
    cpu = not torch.accelerator.is_available()
    # The main process alone prepares data and scores at the end while the others wait: for longer than 10 minutes.
    timeout = InitProcessGroupKwargs(timeout=timedelta(hours=6))
    accelerator = Accelerator(
        mixed_precision=precision, log_with=tracker, project_config=project, cpu=cpu, kwargs_handlers=[timeout]
    )
    slow = slow_bfloat16(accelerator.device, "precision: fp32") if precision == "bf16" else ""
    if slow and accelerator.is_main_process:
        logger.warning("%s", slow)
    return accelerator


def configure_model(model: transformers.PreTrainedModel, settings: RunSettings) -> transformers.PreTrainedModel:
    """Give a model the attention, checkpointing and compilation that suit the recipe and the device."""
    choose_attention(model, settings)
    if settings.gradient_checkpointing:
        # transformers 5.23 has renamed it.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if settings.compile and torch.cuda.is_available():
        # Layer by layer, so that padding is left out before a graph begins.
        compile_layers(model)
    elif settings.compile:
        model.compile(dynamic=True)
    return model


def choose_attention(model: transformers.PreTrainedModel, settings: RunSettings) -> None:
    """Give a model the attention that suits precision and device."""
    if settings.precision == "bf16" and model._supports_sdpa and not torch.accelerator.is_available():
        # PyTorch's fused attention is several times slower than the plain one in bfloat16's backward pass on a CPU.
        model.set_attn_implementation("eager")


def create_run_folder(context: RunContext, components: TaskComponents) -> None:
    """Create or prepare the run folder, once all input has been checked."""
    settings, folder, state = context.settings, context.folder, AcceleratorState()
    part = gather_environment(
        step=read_state(context.resume_from)["step"] if context.resume_from else 0, processes=state.num_processes,
        engine=state.distributed_type.value, precision=settings.precision,
    )  # fmt: skip
    folder.create(settings, context.resume_from, part)
    kept = folder.path / components.processor_folder
    if not kept.exists():
        with atomic_folder(kept) as target:
            components.processor.save_pretrained(target)


def init_tracker(context: RunContext) -> None:
    """Start the tracker; a resumed run continues its own curve, TensorBoard forgets what is about to be repeated."""
    accelerator = context.accelerator
    if accelerator is None or not accelerator.log_with:
        return
    step = read_state(context.resume_from)["step"] if context.resume_from else None
    on_main_process(accelerator, lambda: start_tracker(accelerator, context.settings, step))


def make_loop(context: RunContext, components: TaskComponents, model: transformers.PreTrainedModel) -> TrainingLoop:
    """Return the loop of model, task, optimiser and schedule."""
    settings = context.settings
    task = components.make_task(model)
    adam = PaperAdam(settings.adam_beta1, settings.adam_beta2, settings.adam_epsilon, settings.weight_decay)
    schedule = make_schedule(
        settings.schedule, model.config.hidden_size, settings.warmup_steps, settings.lr_factor,
        settings.learning_rate, settings.decay_steps or settings.max_steps,
    )  # fmt: skip
    shard_if_asked(context.accelerator, model)
    return TrainingLoop(
        settings, context.accelerator, model, adam.build(rate_groups(model, settings.layer_lr_decay)), schedule, task,
        context.folder, write_extras=lambda target: components.processor.save_pretrained(target),
    )  # fmt: skip


def finalize(result: RunResult, components: TaskComponents, loop: TrainingLoop) -> None:
    """Write the averages, score them and the best model with the final settings, and mark the run as finished."""
    settings, folder, accelerator = result.context.settings, result.context.folder, loop.accelerator
    if loop.average:
        loop.checkpoints.save_average(folder.ema)
    if accelerator.is_main_process:
        chosen = list_checkpoints(folder.checkpoints)[-settings.average_last :] if settings.average_last > 1 else []
        if chosen:
            save_average(chosen, folder.averaged, replace=True)
            logger.info("averaged %s", ", ".join(path.name for path in chosen))
        for name, path in (("best", folder.best), ("averaged", folder.averaged), ("ema", folder.ema)):
            if loop.task.validates and path.is_dir():
                model = components.load_model(path).to(accelerator.device)
                result.validations[name] = loop.score(model, final=True)
        samples = [validation.samples for validation in result.validations.values() if validation.samples]
        if samples:
            folder.note_samples(samples[-1])
        for name, validation in result.validations.items():
            loop.record({"event": name, "step": result.step, **validation.scores})
            print_status(f"{name}: validation {loop.task.describe(validation.scores)}")
        folder.finish(result.step, result.reason, settings)
        minutes = loop.state.seconds / 60
        print_status(f"finished at step {result.step} ({result.reason}), {minutes:.1f} minutes: {folder.path}")
    accelerator.wait_for_everyone()


def _first_line(context: RunContext, components: TaskComponents, model: torch.nn.Module, trained: int) -> str:
    count = sum(parameter.numel() for parameter in model.parameters())
    frozen = f" ({trained:,} of them are trained)" if context.settings.freeze else ""
    if context.resume_from:
        origin = f"resuming from {context.resume_from}"
    else:
        origin = f"from {components.origin or context.settings.init_from or 'random weights'}"
    return f"{count:,} parameters{frozen}, {components.size}, {origin}"
