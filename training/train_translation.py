"""Trains a translation model from parallel text.

    python -m vaswani_tx.training.train_translation training/recipes/demo_en_de.yaml --data-dir DATA --output-dir runs/demo
    accelerate launch --config_file training/accelerate_configs/ddp.yaml -m vaswani_tx.training.train_translation RECIPE [--flags]

A recipe is a YAML file; every key is also a flag (`--max-steps 100`, `--model.dropout 0.3`, `--no-compile`), `--help`
lists them. Two text files are enough:

    python -m vaswani_tx.training.train_translation --preset tiny --train-source a.en --train-target a.de \\
        --validation-source v.en --validation-target v.de --tokenizer-vocab-size 8000 --max-minutes 30 \\
        --output-dir runs/first

The run folder gets `recipe.yaml` (resolved), `tokenizer/`, `metrics.jsonl`, `tensorboard/`, `checkpoints/`, `best/` and
`averaged/`; the last two, and each checkpoint, load with `AutoModelForSeq2SeqLM.from_pretrained`. The same command goes
on where the run stopped (`--resume never` forbids it, `--overwrite` begins anew). SIGTERM and Ctrl-C save first; the
exit status is then 128 plus the signal's number. A command, a recipe or data that cannot be used end with status 2.
"""

import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
import transformers

from vaswani_tx import VaswaniForConditionalGeneration, VaswaniTokenizer, transfer_vocabulary
from vaswani_tx.loss_vaswani import uniform_over_others
from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.data.corpora import training_texts
from vaswani_tx.training.data.parallel import load_parallel
from vaswani_tx.training.data.translation_data import TrainingData, prepare_training_data
from vaswani_tx.training.engine.checkpoint_manager import Task
from vaswani_tx.training.engine.run import (
    RunContext,
    TaskComponents,
    command,
    configure_model,
    find_or_train_tokenizer,
    model_fields,
    on_main,
    print_status,
    resolve_path,
    scale_attention,
)
from vaswani_tx.training.engine.run import train as train_with
from vaswani_tx.training.engine.run_folder import RunFolder
from vaswani_tx.training.errors import SettingsError
from vaswani_tx.training.inference.translation import check_vocabulary
from vaswani_tx.training.models.architectures import ARCHITECTURES
from vaswani_tx.training.tasks.translation_validation import Validator


def train(arguments: TranslationSettings) -> None:
    """Trains as the arguments say, then averages and scores; raises ValueError for all that a user can mend."""
    train_with(arguments, prepare)


def prepare(start: RunContext) -> TaskComponents:
    """Data, tokenizer, model and validation of a translation run."""
    arguments, accelerator = start.arguments, start.accelerator
    validation = load_validation(arguments)
    tokenizer = on_main(accelerator, lambda: make_tokenizer(arguments, start.folder, start.resume_from))
    data = prepare_training_data(arguments, tokenizer, start.pad_to_multiple_of, quiet=not accelerator.is_main_process)
    validate = None
    if validation is not None:
        sides = (list(validation["source"]), list(validation["target"]))
        validate = Validator(tokenizer, *sides, arguments.eval_sentences)
    return TaskComponents(
        make_model=partial(make_model, arguments, tokenizer, start.weights),
        make_task=partial(make_task, arguments, data),
        load_model=ARCHITECTURES[arguments.architecture].load,
        processor=tokenizer,
        data=data.to_dict,
        size=f"{data.describe()}, vocabulary {len(tokenizer):,}",
        validate=validate,
    )


def load_validation(arguments: TranslationSettings) -> Any:
    """The validation set, or None where the recipe names none."""
    fields = {"source_field": arguments.source_field, "target_field": arguments.target_field}
    fields |= {"name": arguments.dataset_config}
    at = partial(resolve_path, arguments.data_dir)
    if not arguments.validation_source:
        return None
    return load_parallel(
        at(arguments.validation_source), at(arguments.validation_target), split=arguments.validation_split,
        empty=arguments.empty_lines, **fields,
    )  # fmt: skip


def make_tokenizer(arguments: TranslationSettings, folder: RunFolder, resume_from: Path | None) -> VaswaniTokenizer:
    """The tokenizer of the run: its own when it goes on, else the given one, else one trained on both sides."""
    places = [arguments.tokenizer, None if arguments.new_vocabulary else arguments.init_from, arguments.encoder_from]
    if resume_from:
        places = [resume_from, folder.tokenizer]
    return find_or_train_tokenizer(
        places,
        resume_from is not None,
        arguments.tokenizer_vocab_size,
        lambda size: VaswaniTokenizer.train(training_texts(arguments), vocab_size=size),
    )


def make_model(
    arguments: TranslationSettings, tokenizer: VaswaniTokenizer, start: str | Path | None
) -> transformers.PreTrainedModel:
    """A model from the preset, or from the folder `start`; raises ValueError where the vocabulary does not fit."""
    kind = ARCHITECTURES[arguments.architecture]
    if start:
        changes = {} if start != arguments.init_from else arguments.model
        model = kind.load(start, dtype=torch.float32, **changes)
        if start == arguments.init_from:
            take_over_vocabulary(model, tokenizer, arguments)
    elif arguments.encoder_from:
        for source in filter(None, (arguments.encoder_from, arguments.decoder_from)):
            check_same_vocabulary(tokenizer, source)
        model = VaswaniForConditionalGeneration.from_encoder_decoder_pretrained(
            arguments.encoder_from, arguments.decoder_from, embeddings=arguments.embeddings_from, **arguments.model
        ).train()
    else:
        model = kind.make(arguments.preset, model_fields(arguments, len(tokenizer)))
        scale_attention(model, arguments.attention_init_gain)
    check_vocabulary(model, tokenizer, str(start or "the model of this recipe"))
    return configure_model(model, arguments)


def take_over_vocabulary(
    model: transformers.PreTrainedModel, tokenizer: VaswaniTokenizer, arguments: TranslationSettings
) -> None:
    """Gives a pre-trained model the run's vocabulary where the recipe asks for it; else both must be the same."""
    if not arguments.new_vocabulary:
        check_same_vocabulary(tokenizer, arguments.init_from)
        return
    if not (Path(arguments.init_from) / "tokenizer.json").is_file():
        raise SettingsError(f"new_vocabulary: there is no tokenizer.json in '{arguments.init_from}' to compare with.")
    counts = transfer_vocabulary(model, VaswaniTokenizer.from_pretrained(arguments.init_from), tokenizer)
    print_status(f"new vocabulary on '{arguments.init_from}': {counts}")


def check_same_vocabulary(tokenizer: VaswaniTokenizer, source: str) -> None:
    """Raises SettingsError where a pre-trained model's own tokenizer is another one than the run's."""
    if not (Path(source) / "tokenizer.json").is_file():
        return
    former = VaswaniTokenizer.from_pretrained(source).get_vocab()
    if former != tokenizer.get_vocab():
        raise SettingsError(
            f"tokenizer: '{source}' was trained with another vocabulary ({len(former):,} tokens) than this run's "
            f"({len(tokenizer):,}): leave tokenizer out to go on with that one, or put the new one onto init_from with "
            "new_vocabulary: true."
        )


def make_task(arguments: TranslationSettings, data: TrainingData, model: transformers.PreTrainedModel) -> Task:
    """What is learned: the plan of batches, and the loss of section 5.4."""
    smoothing = arguments.label_smoothing
    if arguments.smoothing_over == "others":
        smoothing = uniform_over_others(smoothing, model.config.vocab_size)
    options = {"label_smoothing": smoothing, "skip_logits": True, "use_cache": False}
    return Task(plan=data.plan, collate=data.collate, pairs=data.pairs, forward_options=options)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    return command(argv, TranslationSettings, __doc__, train)


if __name__ == "__main__":
    sys.exit(main())
