"""Trains a translation model from parallel text.

    python -m training.train_translation training/recipes/demo_en_de.yaml --data-dir DATA --output-dir runs/demo
    accelerate launch --config_file training/accelerate/ddp.yaml -m training.train_translation RECIPE [--flags]

A recipe is a YAML file; every key is also a flag (`--max-steps 100`, `--model.dropout 0.3`, `--no-compile`), `--help`
lists them. Two text files are enough:

    python -m training.train_translation --preset tiny --train-source a.en --train-target a.de \\
        --validation-source v.en --validation-target v.de --tokenizer-vocab-size 8000 --max-minutes 30 \\
        --output-dir runs/first

The run folder gets `recipe.yaml` (resolved), `tokenizer/`, `metrics.jsonl`, `tensorboard/`, `checkpoints/`, `best/` and
`averaged/`; the last two, and each checkpoint, load with `AutoModelForSeq2SeqLM.from_pretrained`. The same command goes
on where the run stopped (`--resume never` forbids it, `--overwrite` begins anew). SIGTERM and Ctrl-C save first; the
exit status is then 128 plus the signal's number. A command, a recipe or data that cannot be used end with status 2.
"""

import logging
import os
import signal
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import InitProcessGroupKwargs, ProjectConfiguration, broadcast_object_list, set_seed

from training.arguments import ArgumentsError, TranslationArguments, parse_arguments, usage
from training.averaging import save_average
from training.checkpoints import (
    CheckpointError,
    atomic_folder,
    list_checkpoints,
    load_pretrained,
    read_state,
)
from training.corpora import training_texts
from training.data import load_parallel
from training.environment import gather_environment
from training.keeper import Task, TrainingError
from training.loop import TrainingLoop
from training.prepare import TrainingData, prepare_training_data
from training.run_folder import RunFolder
from training.schedule import PaperAdam, make_schedule
from training.sharding import shard_if_asked
from training.tracking import Interrupted, check_tracker, start_tracker
from training.translate import check_vocabulary
from training.validation import Validator, describe
from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration, VaswaniTokenizer
from vaswani_tx.loss_vaswani import uniform_over_others

logger = logging.getLogger(__name__)


def train(arguments: TranslationArguments) -> None:
    """Trains as the arguments say, then averages and scores; raises ValueError for all that a user can mend."""
    arguments.check_for_training()
    check_tracker(arguments.tracker)
    accelerator = make_accelerator(arguments)
    if arguments.num_threads:
        torch.set_num_threads(arguments.num_threads)
    folder = RunFolder(arguments.output_dir)
    resume_from = on_main(accelerator, lambda: folder.resume_point(arguments))
    start = resume_from or arguments.init_from
    validation = load_validation(arguments)
    tokenizer = on_main(accelerator, lambda: make_tokenizer(arguments, folder, resume_from))
    # Tensor cores like multiples of 8.
    multiple = 8 if accelerator.device.type == "cuda" and arguments.precision != "fp32" else 1
    data = prepare_training_data(arguments, tokenizer, multiple, quiet=not accelerator.is_main_process)
    set_seed(arguments.seed)
    model = make_model(arguments, tokenizer, start)
    on_main(accelerator, lambda: begin(arguments, folder, tokenizer, resume_from))
    on_main(accelerator, lambda: folder.note_data(data.to_dict()))
    init_tracker(accelerator, arguments, resume_from)
    loop = make_loop(arguments, accelerator, folder, model, tokenizer, data, validation)
    if accelerator.is_main_process:
        count = sum(parameter.numel() for parameter in model.parameters())
        where = f"going on from {resume_from}" if resume_from else f"from {arguments.init_from or 'random weights'}"
        say(f"{count:,} parameters, {data.describe()}, vocabulary {len(tokenizer):,}, {where}")
    reason = loop.run(resume_from)
    # Of a stream, more has been counted by now.
    on_main(accelerator, lambda: folder.note_data(data.to_dict()))
    conclude(arguments, accelerator, folder, loop, reason)
    accelerator.end_training()


def make_accelerator(arguments: TranslationArguments) -> Accelerator:
    """The Accelerator for the precision that the recipe asks for; `accelerate launch` decides everything else."""
    precision = {"fp32": "no"}.get(arguments.precision, arguments.precision)
    if precision == "fp16" and not torch.accelerator.is_available():
        raise ArgumentsError("precision: fp16 needs a GPU; on a CPU use bf16 or fp32.")
    tracker = None if arguments.tracker == "none" else arguments.tracker
    if tracker == "tensorboard" and not _installed("tensorboard"):
        logger.warning("tensorboard is not installed: the curves go to metrics.jsonl only.")
        tracker = None
    project = ProjectConfiguration(project_dir=arguments.output_dir, logging_dir=arguments.output_dir)
    cpu = not torch.accelerator.is_available()
    # The main process alone prepares data and scores at the end while the others wait: for longer than 10 minutes.
    patient = InitProcessGroupKwargs(timeout=timedelta(hours=6))
    return Accelerator(
        mixed_precision=precision, log_with=tracker, project_config=project, cpu=cpu, kwargs_handlers=[patient]
    )


def load_validation(arguments: TranslationArguments) -> Any:
    """The validation set, or None where the recipe names none."""
    fields = {"source_field": arguments.source_field, "target_field": arguments.target_field}
    fields |= {"name": arguments.dataset_config}
    place = partial(_place, arguments.data_dir)
    if not arguments.validation_source:
        return None
    return load_parallel(
        place(arguments.validation_source), place(arguments.validation_target), split=arguments.validation_split,
        empty=arguments.empty_lines, **fields,
    )  # fmt: skip


def make_tokenizer(arguments: TranslationArguments, folder: RunFolder, resume_from: Path | None) -> VaswaniTokenizer:
    """The tokenizer of the run: its own when it goes on, else the given one, else one trained on both sides."""
    places = [arguments.tokenizer, arguments.init_from]
    if resume_from:
        places = [resume_from, folder.tokenizer]
    for place in filter(None, places):
        if (Path(place) / "tokenizer.json").is_file():
            return VaswaniTokenizer.from_pretrained(place)
    if resume_from or not arguments.tokenizer_vocab_size:
        raise ArgumentsError(
            f"There is no tokenizer.json in '{next(filter(None, places))}': train one with `python -m "
            "training.train_tokenizer`, or set tokenizer_vocab_size to have one trained here."
        )
    return VaswaniTokenizer.train(training_texts(arguments), vocab_size=arguments.tokenizer_vocab_size)


def make_model(
    arguments: TranslationArguments, tokenizer: VaswaniTokenizer, start: str | Path | None
) -> VaswaniForConditionalGeneration:
    """A model from the preset, or from the folder `start`; raises ValueError where the vocabulary does not fit."""
    if start:
        changes = {} if start != arguments.init_from else arguments.model
        model = load_pretrained(VaswaniForConditionalGeneration, start, dtype=torch.float32, **changes)
    else:
        fields = {"vocab_size": len(tokenizer)} | arguments.model
        if fields["vocab_size"] < len(tokenizer):
            raise ArgumentsError(
                f"model.vocab_size is {fields['vocab_size']} but the tokenizer has {len(tokenizer)} tokens: leave it "
                "out, or take the tokenizer that belongs to it."
            )
        model = VaswaniForConditionalGeneration(VaswaniConfig.from_preset(arguments.preset, **fields))
        scale_attention(model, arguments.attention_init_gain)
    if arguments.precision == "bf16" and not torch.accelerator.is_available():
        # PyTorch's fused attention is several times slower than the plain one in bfloat16's backward pass on a CPU.
        model.set_attn_implementation("eager")
    check_vocabulary(model, tokenizer, str(start or "the model of this recipe"))
    if arguments.gradient_checkpointing:
        model.activation_checkpointing_enable({"use_reentrant": False})
    if arguments.compile:
        model.compile(dynamic=True)
    return model


@torch.no_grad()
def scale_attention(model: VaswaniForConditionalGeneration, gain: float) -> None:
    """Multiplies the query, key and value matrices of a new model by `gain`.

    At Glorot's own scale (gain 1) each attention layer adds the sentence's mean to every position so strongly that the
    encoder of a small, strongly dropped-out model may never tell its positions apart again (see training/LOG.md).
    torch.nn.MultiheadAttention and fairseq start at 1/sqrt(2), Glorot's scale for the three matrices taken as one.
    """
    if gain != 1.0:
        for name, parameter in model.named_parameters():
            if name.endswith(("q_proj.weight", "k_proj.weight", "v_proj.weight")):
                parameter.mul_(gain)


def begin(
    arguments: TranslationArguments, folder: RunFolder, tokenizer: VaswaniTokenizer, resume_from: Path | None
) -> None:
    """Makes the run folder ready once everything that can be wrong has been looked at."""
    state = AcceleratorState()
    part = gather_environment(
        step=read_state(resume_from)["step"] if resume_from else 0, processes=state.num_processes,
        engine=state.distributed_type.value, precision=arguments.precision,
    )  # fmt: skip
    folder.begin(arguments, resume_from, part)
    if not folder.tokenizer.exists():
        with atomic_folder(folder.tokenizer) as place:
            tokenizer.save_pretrained(place)


def init_tracker(accelerator: Accelerator, arguments: TranslationArguments, resume_from: Path | None) -> None:
    """Starts the tracker; a resumed run goes on in its own curve, TensorBoard forgets what is about to be repeated."""
    if not accelerator.log_with:
        return
    step = read_state(resume_from)["step"] if resume_from else None
    on_main(accelerator, lambda: start_tracker(accelerator, arguments, step))


def make_loop(
    arguments: TranslationArguments,
    accelerator: Accelerator,
    folder: RunFolder,
    model: VaswaniForConditionalGeneration,
    tokenizer: VaswaniTokenizer,
    data: TrainingData,
    validation: Any,
) -> TrainingLoop:
    """Puts plan, optimiser, schedule and validation together."""
    smoothing = arguments.label_smoothing
    if arguments.smoothing_over == "others":
        smoothing = uniform_over_others(smoothing, model.config.vocab_size)
    task = Task(
        plan=data.plan,
        collate=data.collate,
        pairs=data.pairs,
        forward_options={"label_smoothing": smoothing, "skip_logits": True, "use_cache": False},
    )
    adam = PaperAdam(arguments.adam_beta1, arguments.adam_beta2, arguments.adam_epsilon, arguments.weight_decay)
    schedule = make_schedule(
        arguments.schedule, model.config.d_model, arguments.warmup_steps, arguments.lr_factor,
        arguments.learning_rate, arguments.decay_steps or arguments.max_steps,
    )  # fmt: skip
    sharded = shard_if_asked(accelerator, model)
    validate = None
    if validation is not None:
        validate = Validator(
            tokenizer, list(validation["source"]), list(validation["target"]), arguments.eval_sentences,
            distributed=not sharded,
        )  # fmt: skip
    return TrainingLoop(
        arguments, accelerator, model, adam.build(model.parameters()), schedule, task, folder,
        write_extras=lambda place: tokenizer.save_pretrained(place), validate=validate,
    )  # fmt: skip


def conclude(
    arguments: TranslationArguments, accelerator: Accelerator, folder: RunFolder, loop: TrainingLoop, reason: str
) -> None:
    """Writes the averages, scores them and the best model with the final beam, and marks the end."""
    if loop.average:
        loop.keeper.save_average(folder.ema)
    if accelerator.is_main_process:
        results = {}
        chosen = list_checkpoints(folder.checkpoints)[-arguments.average_last :] if arguments.average_last > 1 else []
        if chosen:
            save_average(chosen, folder.averaged, replace=True)
            logger.info("averaged %s", ", ".join(path.name for path in chosen))
        for name, path in (("best", folder.best), ("averaged", folder.averaged), ("ema", folder.ema)):
            if loop.validate and path.is_dir():
                loop.validate.distributed = False
                model = load_pretrained(VaswaniForConditionalGeneration, path).to(accelerator.device)
                results[name] = loop.score(model, arguments.final_beam)
        if loop.validate and loop.validate.samples:
            folder.note_samples(loop.validate.samples)
        for name, scores in results.items():
            loop.record({"event": name, "step": loop.position.step, **scores})
            say(f"{name}: validation {describe(scores)}")
        folder.finish(loop.position.step, reason, arguments)
        say(
            f"finished at step {loop.position.step} ({reason}), {loop.position.seconds / 60:.1f} minutes: {folder.path}"
        )
    accelerator.wait_for_everyone()


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


def say(text: str) -> None:
    """Tells the user."""
    print(text, file=sys.stderr, flush=True)


def _place(data_dir: str | None, name: str | None) -> str | None:
    return os.path.join(data_dir, name) if data_dir and name else name


def _installed(name: str) -> bool:
    from importlib.util import find_spec

    return find_spec(name) is not None


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--help" in argv or "-h" in argv:
        print(f"{__doc__}\nKeys of a recipe, each of them a flag:\n{usage()}")
        return 0
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s")
    for name in ("httpx", "datasets", "absl", "accelerate"):
        logging.getLogger(name).setLevel(logging.WARNING)
    transformers.utils.logging.disable_progress_bar()
    try:
        train(parse_arguments(argv))
    except Interrupted as stop:
        name = signal.Signals(stop.signum).name
        say(f"stopped by {name}; saved as {stop.saved}; the same command goes on from there.")
        return 128 + stop.signum
    except KeyboardInterrupt:
        say("stopped by SIGINT; the same command goes on from the last checkpoint.")
        return 130
    except (ValueError, OSError) as error:
        logger.debug("where the error came from", exc_info=True)
        say(f"error: {error}")
        return 1 if isinstance(error, (CheckpointError, TrainingError, OSError)) else 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
