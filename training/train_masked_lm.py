"""Trains a masked language model, the paper's encoder on its own, from plain text.

    python -m vaswani_tx.training.train_masked_lm training/recipes/masked_lm/tatoeba_en.yaml --data-dir DATA
    accelerate launch --config_file training/accelerate_configs/ddp.yaml -m vaswani_tx.training.train_masked_lm RECIPE [--flags]

A recipe is a YAML file; every key is also a flag (`--max-steps 100`, `--model.dropout 0.3`), `--help` lists them. One
text file, a document a line, is enough:

    python -m vaswani_tx.training.train_masked_lm --preset tiny --train-text a.en --validation-text v.en \\
        --tokenizer-vocab-size 8000 --max-minutes 10 --output-dir runs/first

In each epoch other words are masked, 15 % of them, whole words always: of their tokens 80 % become the mask, 10 % a
random token, 10 % stay. Rows of `row_length` tokens hold several documents that do not see each other. The run folder
is that of `vaswani_tx.training.train_translation`; `best/`, `averaged/` and each checkpoint load with `AutoModelForMaskedLM` and
fill `<mask>` in `pipeline("fill-mask")`. `samples.jsonl` shows what the model fills into validation texts.
"""

import sys
from functools import partial
from typing import Any

import torch

from vaswani_tx import VaswaniForMaskedLM
from vaswani_tx.training.config.language_modeling import MaskedSettings
from vaswani_tx.training.data.masking import Masker
from vaswani_tx.training.data.packing import prepare_language_data
from vaswani_tx.training.engine.run import RunContext, TaskComponents, command
from vaswani_tx.training.engine.run import train as train_with
from vaswani_tx.training.inference.language_modeling import fillings, masked_scores
from vaswani_tx.training.tasks.language_modeling import load_validation, loader, make_model, make_tokenizer


class MaskedValidator:
    """Loss and accuracy of masked words of validation texts, and samples; see `vaswani_tx.training.engine.run.TaskComponents.validate`."""

    def __init__(self, tokenizer: Any, texts: list[str], masker: Masker, arguments: MaskedSettings):
        self.tokenizer, self.texts, self.masker, self.arguments = tokenizer, texts, masker, arguments
        self.distributed = False
        self.samples: list[dict[str, str]] = []

    def __call__(self, model: torch.nn.Module, beam: int) -> dict[str, Any]:
        """The scores; the same words are masked each time."""
        arguments = self.arguments
        scores = masked_scores(
            model, self.tokenizer, self.texts, self.masker, length=arguments.row_length,
            batch_tokens=arguments.batch_tokens, distributed=self.distributed,
        )  # fmt: skip
        self.samples = fillings(
            model, self.tokenizer, self.texts, self.masker, arguments.eval_samples, arguments.row_length
        )
        return {name: scores[name] for name in ("loss", "perplexity", "accuracy")}


def train(arguments: MaskedSettings) -> None:
    """Trains as the arguments say, then averages and scores; raises ValueError for all that a user can mend."""
    train_with(arguments, prepare)


def prepare(start: RunContext) -> TaskComponents:
    """Data, tokenizer, model and validation of a run."""
    arguments = start.arguments
    texts = load_validation(arguments)
    tokenizer = make_tokenizer(start)
    masker = Masker.of(
        tokenizer, rate=arguments.mask_rate, as_mask=arguments.mask_as_mask, as_random=arguments.mask_as_random,
        seed=arguments.seed,
    )  # fmt: skip
    quiet = not start.accelerator.is_main_process
    data = prepare_language_data(arguments, tokenizer, True, start.pad_to_multiple_of, quiet)
    options = {"label_smoothing": arguments.label_smoothing, "skip_logits": True}
    return TaskComponents(
        make_model=partial(make_model, VaswaniForMaskedLM, tokenizer, start),
        make_task=lambda model: data.masked_task(masker, options),
        load_model=loader(VaswaniForMaskedLM),
        processor=tokenizer,
        data=data.to_dict,
        size=f"{data.describe()}, vocabulary {len(tokenizer):,}",
        validate=MaskedValidator(tokenizer, texts, masker, arguments) if texts else None,
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    return command(argv, MaskedSettings, __doc__, train)


if __name__ == "__main__":
    sys.exit(main())
