"""Train transformers' MarianMT with its `Seq2SeqTrainer` on the batches that a recipe of ours would see.

    python -m vaswani_tx.training.baselines.marian training/recipes/multi30k_en_de.yaml --data-dir DATA \\
        --tokenizer RUN/tokenizer --output-dir runs/marian --max-steps 8000
    vaswani-tx evaluate --model runs/marian/averaged --source test.en --target test.de

For a comparison: data, tokenizer, batches and their order, number of updates, optimiser, learning rates, label
smoothing and averaging are the recipe's; the model (post-norm, sinusoids, one embedding matrix or with
`source_vocab_size` two, the recipe's sizes), its initialisation and the loop are transformers' own. Keys without a
counterpart there (EMA, streams, several corpora, epochs, patience) are refused. No translation during training. The
same command resumes from the last checkpoint. `finished.json` holds updates, seconds of training and target tokens.
"""

import json
import logging
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from torch.optim.lr_scheduler import LambdaLR
from torch.utils.data import DataLoader
from transformers import MarianConfig, MarianMTModel, Seq2SeqTrainer, Seq2SeqTrainingArguments, TrainerCallback
from transformers.trainer_utils import get_last_checkpoint

from vaswani_tx import VaswaniConfig
from vaswani_tx.token_texts_vaswani import source_of
from vaswani_tx.training.command_line import print_status
from vaswani_tx.training.config.schedules import make_schedule
from vaswani_tx.training.config.translation import TranslationSettings, parse_arguments
from vaswani_tx.training.data.batching import BatchPlan, collate_pairs
from vaswani_tx.training.data.parallel import TokenizedPairs
from vaswani_tx.training.data.translation_data import prepare_training_data
from vaswani_tx.training.engine.averaging import save_average
from vaswani_tx.training.engine.optimizer import PaperAdam
from vaswani_tx.training.engine.run import RunContext
from vaswani_tx.training.engine.run_folder import RunFolder
from vaswani_tx.training.errors import SettingsError
from vaswani_tx.training.files import atomic_text
from vaswani_tx.training.tasks.tokenizers import describe_vocabulary, model_fields
from vaswani_tx.training.tasks.vocabularies import make_tokenizer

REFUSED = (
    "corpora", "bpe_dropout", "streaming", "ema_decay", "init_from", "max_epochs", "patience", "compile",
    "gradient_checkpointing", "rdrop_weight", "simcut_weight", "teacher",
)  # fmt: skip


class PlannedBatches:
    """A batch sampler of the batches of a plan; accelerate sets the epoch."""

    def __init__(self, plan: BatchPlan):
        self.plan, self.epoch = plan, 0

    def set_epoch(self, epoch: int) -> None:
        """Set the epoch of the next pass."""
        self.epoch = epoch

    def __len__(self) -> int:
        return len(self.plan.epoch(self.epoch))

    def __iter__(self) -> Iterator[list[int]]:
        for batch in self.plan.epoch(self.epoch):
            yield batch.tolist()


class PlannedTrainer(Seq2SeqTrainer):
    """Seq2SeqTrainer whose batches come from a plan."""

    plan: BatchPlan

    def get_train_dataloader(self) -> DataLoader:
        """Return the batches of all epochs; an item is its own index, and the collator looks the pairs up."""
        batches = PlannedBatches(self.plan)
        return self.accelerator.prepare(
            DataLoader(self.train_dataset, batch_sampler=batches, collate_fn=self.data_collator)
        )


class StopAfter(TrainerCallback):
    """A callback that ends training after so many minutes of wall clock, counted over resumed parts."""

    def __init__(self, note: Path, minutes: float | None):
        self.note, self.limit = note, minutes and 60 * minutes
        self.seconds = json.loads(note.read_text(encoding="utf-8"))["seconds"] if note.exists() else 0.0
        self._last = time.monotonic()

    def on_train_begin(self, args, state, control, **kwargs):
        """Start the clock."""
        self._last = time.monotonic()

    def on_step_end(self, args, state, control, **kwargs):
        """Count an update's time."""
        now = time.monotonic()
        self.seconds, self._last = self.seconds + now - self._last, now
        control.should_training_stop |= bool(self.limit and self.seconds >= self.limit)
        return control

    def on_save(self, args, state, control, **kwargs):
        """Write the count beside the checkpoints."""
        atomic_text(self.note, json.dumps({"seconds": self.seconds}) + "\n")


def marian_config(ours: VaswaniConfig) -> MarianConfig:
    """Return a MarianConfig with the sizes and rates of one of ours and the settings of its published models.

    Raises SettingsError where ours has what MarianMT lacks: other head widths, pre-norm, learned positions.
    """
    odd = {
        "d_k and d_v": (ours.d_k, ours.d_v) != (ours.d_model // ours.num_heads,) * 2,
        "norm_order": ours.norm_order != "post",
        "position_embedding": ours.position_embedding != "sinusoidal",
    }
    if any(odd.values()):
        raise SettingsError(
            f"MarianMT has no counterpart of the model's {', '.join(k for k, wrong in odd.items() if wrong)}."
        )
    sizes = {"vocab_size": ours.vocab_size}
    if ours.source_vocab_size is not None:
        sizes = {"vocab_size": ours.source_vocab_size, "decoder_vocab_size": ours.vocab_size}
    return MarianConfig(
        **sizes, share_encoder_decoder_embeddings=ours.source_vocab_size is None,
        d_model=ours.d_model, encoder_ffn_dim=ours.d_ff, decoder_ffn_dim=ours.d_ff,
        encoder_attention_heads=ours.num_heads, decoder_attention_heads=ours.num_heads,
        encoder_layers=ours.encoder_layers, decoder_layers=ours.decoder_layers, dropout=ours.dropout,
        attention_dropout=ours.attention_dropout, activation_dropout=ours.activation_dropout,
        activation_function=ours.activation_function, scale_embedding=True, tie_word_embeddings=True,
        max_position_embeddings=512, pad_token_id=ours.pad_token_id, bos_token_id=ours.bos_token_id,
        eos_token_id=ours.eos_token_id, decoder_start_token_id=ours.decoder_start_token_id, forced_eos_token_id=None,
    )  # fmt: skip


def train(arguments: TranslationSettings) -> dict[str, Any]:
    """Train, average the last checkpoints into `averaged/` and return the content of `finished.json`."""
    arguments.check_for_training()
    defaults = TranslationSettings()
    for name in REFUSED:
        if getattr(arguments, name) != getattr(defaults, name):
            raise SettingsError(f"{name} is set, which Seq2SeqTrainer has no counterpart of: remove it here.")
    if arguments.max_steps is None:
        raise SettingsError("max_steps is empty: Seq2SeqTrainer needs the number of updates.")
    if arguments.num_threads:
        torch.set_num_threads(arguments.num_threads)
    folder = Path(arguments.output_dir)
    tokenizer = make_tokenizer(RunContext(arguments, None, RunFolder(folder), None))
    data = prepare_training_data(arguments, tokenizer)
    plan, pairs = data.plan, data.pairs
    trainer, clock = make_trainer(arguments, folder, tokenizer, pairs, plan)
    count = sum(parameter.numel() for parameter in trainer.model.parameters())
    print_status(f"MarianMT, {count:,} parameters, {len(pairs):,} pairs, {describe_vocabulary(tokenizer)}")
    trainer.train(resume_from_checkpoint=get_last_checkpoint(str(folder)) if folder.is_dir() else None)
    step = trainer.state.global_step
    chosen = sorted(folder.glob("checkpoint-*"), key=lambda path: int(path.name.rpartition("-")[2]))
    save_average(chosen[-max(arguments.average_last, 1) :], folder / "averaged", replace=True)
    tokens = target_tokens(plan, pairs, step, arguments.accumulation_steps)
    result = {"step": step, "seconds": round(clock.seconds, 1), "target_tokens": tokens, "parameters": count}
    atomic_text(folder / "finished.json", json.dumps(result, indent=1) + "\n")
    print_status(f"finished at step {step}, {clock.seconds / 60:.1f} minutes, {tokens:,} target tokens: {folder}")
    return result


def make_trainer(
    arguments: TranslationSettings, folder: Path, tokenizer: Any, pairs: TokenizedPairs, plan: BatchPlan
) -> tuple[PlannedTrainer, StopAfter]:
    """Return the Seq2SeqTrainer with model and optimiser as the recipe says, and the clock."""
    torch.manual_seed(arguments.seed)
    config = marian_config(VaswaniConfig.from_preset(arguments.preset, **model_fields(arguments, tokenizer)))
    model = MarianMTModel(config)
    cpu = not torch.accelerator.is_available()
    if arguments.precision == "bf16" and cpu:
        # As for our own model: the fused attention's backward pass is slow in bfloat16 on a CPU.
        model.set_attn_implementation("eager")

    def collator(indices: list[int]) -> dict[str, torch.Tensor]:
        batch = collate_pairs(pairs, indices, source_of(tokenizer).pad_token_id)
        # Trainer's label smoothing takes the labels away, so the decoder's inputs must be there beside them.
        return batch | {"decoder_input_ids": model.prepare_decoder_input_ids_from_labels(batch["labels"])}

    settings = Seq2SeqTrainingArguments(
        output_dir=str(folder), max_steps=arguments.max_steps, seed=arguments.seed, data_seed=arguments.seed,
        gradient_accumulation_steps=arguments.accumulation_steps, label_smoothing_factor=arguments.label_smoothing,
        max_grad_norm=arguments.max_grad_norm or 0.0, bf16=arguments.precision == "bf16",
        fp16=arguments.precision == "fp16", use_cpu=cpu, logging_steps=arguments.log_every,
        save_strategy="steps", save_steps=arguments.save_every or 500,
        save_total_limit=arguments.keep_last, report_to="none", disable_tqdm=not sys.stderr.isatty(),
        dataloader_pin_memory=not cpu, remove_unused_columns=False,
    )  # fmt: skip
    adam = PaperAdam(arguments.adam_beta1, arguments.adam_beta2, arguments.adam_epsilon, arguments.weight_decay)
    optimizer = adam.build(model.parameters())
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    schedule = make_schedule(
        arguments.schedule, config.d_model, arguments.warmup_steps, arguments.lr_factor, arguments.learning_rate,
        arguments.decay_steps or arguments.max_steps,
    )  # fmt: skip
    # LambdaLR counts from 0 what the schedule counts from 1.
    rates = LambdaLR(optimizer, lambda done: schedule(done + 1))
    clock = StopAfter(folder / "clock.json", arguments.max_minutes)
    trainer = PlannedTrainer(
        model, settings, collator, train_dataset=range(len(pairs)), processing_class=tokenizer,
        optimizers=(optimizer, rates), callbacks=[clock],
    )  # fmt: skip
    trainer.plan = plan
    return trainer, clock


def target_tokens(plan: BatchPlan, pairs: TokenizedPairs, updates: int, accumulation: int) -> int:
    """Count the target tokens, padding excluded, of so many updates from the first one on."""
    total = done = epoch = 0
    while done < updates:
        batches = plan.epoch(epoch)
        seen = batches[: (updates - done) * accumulation]
        total += sum(int(pairs.target_lengths[batch].sum()) for batch in seen)
        done, epoch = done + -(-len(seen) // accumulation), epoch + 1
    return total


def main(argv: list[str] | None = None) -> int:
    """Run the command; return the exit status."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if "--help" in argv or "-h" in argv:
        print(__doc__)
        return 0
    logging.basicConfig(level=logging.WARNING, format="%(levelname)s %(name)s: %(message)s")
    transformers.utils.logging.set_verbosity_warning()
    try:
        train(parse_arguments(argv))
    except (ValueError, OSError) as error:
        print_status(f"error: {error}")
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
