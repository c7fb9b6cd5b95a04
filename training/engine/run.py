"""What every training command does around its own data and model: folder, optimiser, loop, averages, exit status.

A command gives a dataclass of keys (a `RunSettings`), and a function that makes the `TaskComponents` of a run from them.
"""

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration, broadcast_object_list, set_seed

from vaswani_tx import VaswaniTokenizer
from vaswani_tx.training.command_line import command, print_status  # noqa: F401  `command` for the commands
from vaswani_tx.training.config.run_settings import RunSettings
from vaswani_tx.training.engine.averaging import save_average
from vaswani_tx.training.engine.checkpoint_manager import Task
from vaswani_tx.training.engine.checkpoints import list_checkpoints, read_state
from vaswani_tx.training.engine.environment import gather_environment
from vaswani_tx.training.engine.fsdp import shard_if_asked
from vaswani_tx.training.engine.loop import TrainingLoop
from vaswani_tx.training.engine.parameter_groups import freeze, rate_groups
from vaswani_tx.training.engine.run_folder import RunFolder
from vaswani_tx.training.engine.schedules import PaperAdam, make_schedule
from vaswani_tx.training.engine.trackers import check_tracker, start_tracker
from vaswani_tx.training.errors import SettingsError
from vaswani_tx.training.files import atomic_folder
from vaswani_tx.training.tasks.translation_validation import describe

logger = logging.getLogger(__name__)


@dataclass
class RunContext:
    """Where a run begins: what a command needs to know to make its parts."""

    arguments: Any
    accelerator: Accelerator
    folder: RunFolder
    resume_from: Path | None

    @property
    def weights(self) -> str | Path | None:
        """The folder that the model comes from, None for random weights."""
        return self.resume_from or self.arguments.init_from

    @property
    def origin(self) -> str:
        """What a new run starts from, for people."""
        arguments = self.arguments
        stacks = [getattr(arguments, name, None) for name in ("encoder_from", "decoder_from")]
        return arguments.init_from or " and ".join(filter(None, stacks)) or "random weights"

    @property
    def pad_to_multiple_of(self) -> int:
        """8 where tensor cores compute, which like such lengths; else 1."""
        return 8 if self.accelerator.device.type == "cuda" and self.arguments.precision != "fp32" else 1


@dataclass
class TaskComponents:
    """What a command brings to a run.

    Args:
        make_model: makes or loads the model; called once the seed is set.
        make_task: data and loss, once the model is there.
        load_model: loads the model that a folder holds.
        processor: the tokenizer or image processor that is saved beside every model.
        processor_folder: its name in the run folder.
        data: what the run is trained on, for data.json; asked at the beginning and at the end.
        size: a few words on the amount of data, for the first line.
        validate: `(model, beam) -> scores`, with the attributes `distributed` and `samples`; None: no validation.
    """

    make_model: Callable[[], transformers.PreTrainedModel]
    make_task: Callable[[transformers.PreTrainedModel], Task]
    load_model: Callable[[Path], transformers.PreTrainedModel]
    processor: Any
    data: Callable[[], dict[str, Any]]
    size: str
    validate: Any = None
    processor_folder: str = "tokenizer"


def train(arguments: RunSettings, prepare: Callable[[RunContext], TaskComponents]) -> None:
    """Trains as the arguments say, then averages and scores; raises ValueError for all that a user can mend."""
    arguments.check_for_training()
    check_tracker(arguments.tracker)
    accelerator = make_accelerator(arguments)
    if arguments.num_threads:
        torch.set_num_threads(arguments.num_threads)
    folder = RunFolder(arguments.output_dir)
    resume_from = on_main(accelerator, lambda: folder.resume_point(arguments))
    start = RunContext(arguments, accelerator, folder, resume_from)
    parts = prepare(start)
    set_seed(arguments.seed)
    model = parts.make_model()
    learning = freeze(model, arguments.freeze)
    on_main(accelerator, lambda: create_run_folder(start, parts))
    on_main(accelerator, lambda: folder.note_data(parts.data()))
    init_tracker(start)
    loop = make_loop(start, parts, model)
    if accelerator.is_main_process:
        count = sum(parameter.numel() for parameter in model.parameters())
        where = f"going on from {resume_from}" if resume_from else f"from {start.origin}"
        frozen = f" ({learning:,} of them learn)" if arguments.freeze else ""
        print_status(f"{count:,} parameters{frozen}, {parts.size}, {where}")
    reason = loop.run(resume_from)
    # Of a stream, more has been counted by now.
    on_main(accelerator, lambda: folder.note_data(parts.data()))
    finalize(start, parts, loop, reason)
    accelerator.end_training()


def make_accelerator(arguments: RunSettings) -> Accelerator:
    """The Accelerator for the precision that the recipe asks for; `accelerate launch` decides everything else."""
    precision = {"fp32": "no"}.get(arguments.precision, arguments.precision)
    if precision == "fp16" and not torch.accelerator.is_available():
        raise SettingsError("precision: fp16 needs a GPU; on a CPU use bf16 or fp32.")
    tracker = None if arguments.tracker == "none" else arguments.tracker
    if tracker == "tensorboard" and find_spec("tensorboard") is None:
        logger.warning("tensorboard is not installed: the curves go to metrics.jsonl only.")
        tracker = None
    project = ProjectConfiguration(project_dir=arguments.output_dir, logging_dir=arguments.output_dir)
    cpu = not torch.accelerator.is_available()
    # The main process alone prepares data and scores at the end while the others wait: for longer than 10 minutes.
    patient = InitProcessGroupKwargs(timeout=timedelta(hours=6))
    return Accelerator(
        mixed_precision=precision, log_with=tracker, project_config=project, cpu=cpu, kwargs_handlers=[patient]
    )


def find_or_train_tokenizer(
    places: list[str | Path | None], resumes: bool, vocab_size: int | None, train_one: Callable[[int], VaswaniTokenizer]
) -> VaswaniTokenizer:
    """The tokenizer of the first of `places` that holds one, else a new one of `vocab_size` entries.

    Raises:
        SettingsError: none of them holds one, and the run goes on or the recipe has none trained.
    """
    for folder in filter(None, places):
        if (Path(folder) / "tokenizer.json").is_file():
            return VaswaniTokenizer.from_pretrained(folder)
    if resumes or not vocab_size:
        raise SettingsError(
            f"There is no tokenizer.json in '{next(filter(None, places))}': train one with `python -m "
            "vaswani_tx.training.train_tokenizer`, or set tokenizer_vocab_size to have one trained here."
        )
    return train_one(vocab_size)


def model_fields(arguments: RunSettings, vocabulary: int) -> dict[str, Any]:
    """The recipe's fields of a new model with its vocabulary; raises SettingsError where it is given too small."""
    fields = {"vocab_size": vocabulary} | arguments.model
    if fields["vocab_size"] < vocabulary:
        raise SettingsError(
            f"model.vocab_size is {fields['vocab_size']} but the tokenizer has {vocabulary} tokens: leave it out, or "
            "take the tokenizer that belongs to it."
        )
    return fields


def configure_model(model: transformers.PreTrainedModel, arguments: RunSettings) -> transformers.PreTrainedModel:
    """Gives a model the attention, checkpointing and compilation that suit the recipe and the device."""
    if arguments.precision == "bf16" and model._supports_sdpa and not torch.accelerator.is_available():
        # PyTorch's fused attention is several times slower than the plain one in bfloat16's backward pass on a CPU.
        model.set_attn_implementation("eager")
    if arguments.gradient_checkpointing:
        # transformers 5.23 has renamed it.
        enable = getattr(model, "activation_checkpointing_enable", None) or model.gradient_checkpointing_enable
        enable({"use_reentrant": False})
    if arguments.compile:
        model.compile(dynamic=True)
    return model


@torch.no_grad()
def scale_attention(model: torch.nn.Module, gain: float) -> None:
    """Multiplies the query, key and value matrices of a new model by `gain`.

    At Glorot's own scale (gain 1) each attention layer adds the sentence's mean to every position so strongly that the
    encoder of a small, strongly dropped-out model may never tell its positions apart again (see training/LOG.md).
    torch.nn.MultiheadAttention and fairseq start at 1/sqrt(2), Glorot's scale for the three matrices taken as one.
    """
    if gain != 1.0:
        for name, parameter in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
                parameter.mul_(gain)


def create_run_folder(start: RunContext, parts: TaskComponents) -> None:
    """Makes the run folder ready once everything that can be wrong has been looked at."""
    arguments, folder, state = start.arguments, start.folder, AcceleratorState()
    part = gather_environment(
        step=read_state(start.resume_from)["step"] if start.resume_from else 0, processes=state.num_processes,
        engine=state.distributed_type.value, precision=arguments.precision,
    )  # fmt: skip
    folder.begin(arguments, start.resume_from, part)
    kept = folder.path / parts.processor_folder
    if not kept.exists():
        with atomic_folder(kept) as place:
            parts.processor.save_pretrained(place)


def init_tracker(start: RunContext) -> None:
    """Starts the tracker; a resumed run goes on in its own curve, TensorBoard forgets what is about to be repeated."""
    accelerator = start.accelerator
    if not accelerator.log_with:
        return
    step = read_state(start.resume_from)["step"] if start.resume_from else None
    on_main(accelerator, lambda: start_tracker(accelerator, start.arguments, step))


def make_loop(start: RunContext, parts: TaskComponents, model: transformers.PreTrainedModel) -> TrainingLoop:
    """Puts model, data, optimiser and schedule together."""
    arguments = start.arguments
    task = parts.make_task(model)
    adam = PaperAdam(arguments.adam_beta1, arguments.adam_beta2, arguments.adam_epsilon, arguments.weight_decay)
    schedule = make_schedule(
        arguments.schedule, model.config.hidden_size, arguments.warmup_steps, arguments.lr_factor,
        arguments.learning_rate, arguments.decay_steps or arguments.max_steps,
    )  # fmt: skip
    sharded = shard_if_asked(start.accelerator, model)
    if parts.validate is not None:
        parts.validate.distributed = not sharded
    return TrainingLoop(
        arguments, start.accelerator, model, adam.build(rate_groups(model, arguments.layer_lr_decay)), schedule, task,
        start.folder, write_extras=lambda place: parts.processor.save_pretrained(place), validate=parts.validate,
    )  # fmt: skip


def finalize(start: RunContext, parts: TaskComponents, loop: TrainingLoop, reason: str) -> None:
    """Writes the averages, scores them and the best model with the final beam, and marks the end."""
    arguments, folder = start.arguments, start.folder
    if loop.average:
        loop.keeper.save_average(folder.ema)
    if start.accelerator.is_main_process:
        results = {}
        chosen = list_checkpoints(folder.checkpoints)[-arguments.average_last :] if arguments.average_last > 1 else []
        if chosen:
            save_average(chosen, folder.averaged, replace=True)
            logger.info("averaged %s", ", ".join(path.name for path in chosen))
        for name, path in (("best", folder.best), ("averaged", folder.averaged), ("ema", folder.ema)):
            if loop.validate and path.is_dir():
                loop.validate.distributed = False
                model = parts.load_model(path).to(start.accelerator.device)
                results[name] = loop.score(model, arguments.final_beam)
        if loop.validate and loop.validate.samples:
            folder.note_samples(loop.validate.samples)
        for name, scores in results.items():
            loop.record({"event": name, "step": loop.position.step, **scores})
            print_status(f"{name}: validation {describe(scores)}")
        folder.finish(loop.position.step, reason, arguments)
        minutes = loop.position.seconds / 60
        print_status(f"finished at step {loop.position.step} ({reason}), {minutes:.1f} minutes: {folder.path}")
    start.accelerator.wait_for_everyone()


def on_main(accelerator: Accelerator, work: Callable[[], Any]) -> Any:
    """Runs `work` on the main process and gives its result, or its error, to all."""
    outcome: list[Any] = [None, None]
    if accelerator.is_main_process:
        try:
            outcome[0] = work()
        except ValueError as error:
            outcome[1] = error
    if accelerator.num_processes > 1:
        broadcast_object_list(outcome)
    if outcome[1] is not None:
        raise outcome[1]
    return outcome[0]


def resolve_path(data_dir: str | None, name: str | None) -> str | None:
    """A data file's path: relative names start from `data_dir` where that is set."""
    return os.path.join(data_dir, name) if data_dir and name else name
