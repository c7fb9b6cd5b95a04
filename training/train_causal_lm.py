"""Trains a causal language model, the paper's decoder on its own, from plain text.

    python -m vaswani_tx.training.train_causal_lm training/recipes/causal_lm/tatoeba_en.yaml --data-dir DATA
    accelerate launch --config_file training/accelerate_configs/ddp.yaml -m vaswani_tx.training.train_causal_lm RECIPE [--flags]

A recipe is a YAML file; every key is also a flag (`--max-steps 100`, `--model.dropout 0.3`), `--help` lists them. One
text file, a document a line, is enough:

    python -m vaswani_tx.training.train_causal_lm --preset tiny --train-text a.en --validation-text v.en \\
        --tokenizer-vocab-size 8000 --max-minutes 10 --output-dir runs/first

A document is `<s>`, its text, `</s>`. Rows of `row_length` tokens hold several documents that do not see each other:
the loss and its gradient are those of the documents one by one. The run folder is that of `vaswani_tx.training.train_translation`;
`best/`, `averaged/` and each checkpoint load with `AutoModelForCausalLM` and go on with a text in
`pipeline("text-generation")`. `samples.jsonl` shows what the model makes of the first halves of validation texts.
"""

import sys
from functools import partial
from typing import Any

import torch

from vaswani_tx import VaswaniForCausalLM
from vaswani_tx.training.config.language_modeling import CausalSettings
from vaswani_tx.training.data.packing import prepare_language_data
from vaswani_tx.training.engine.run import RunContext, TaskComponents, command
from vaswani_tx.training.engine.run import train as train_with
from vaswani_tx.training.inference.language_modeling import causal_scores, completions
from vaswani_tx.training.tasks.language_modeling import load_validation, loader, make_model, make_tokenizer


class CausalValidator:
    """Loss, perplexity and bits per byte of validation texts, and samples; see `vaswani_tx.training.engine.run.TaskComponents.validate`."""

    def __init__(self, tokenizer: Any, texts: list[str], arguments: CausalSettings):
        self.tokenizer, self.texts, self.arguments = tokenizer, texts, arguments
        self.distributed = False
        self.samples: list[dict[str, str]] = []

    def __call__(self, model: torch.nn.Module, beam: int) -> dict[str, Any]:
        """The scores; samples are drawn with the run's seed."""
        arguments = self.arguments
        scores = causal_scores(
            model, self.tokenizer, self.texts, length=arguments.row_length, batch_tokens=arguments.batch_tokens,
            distributed=self.distributed,
        )  # fmt: skip
        self.samples = completions(
            model, self.tokenizer, self.texts, arguments.eval_samples, arguments.seed, arguments.sample_tokens
        )
        return {name: scores[name] for name in ("loss", "perplexity", "bits_per_byte")}


def train(arguments: CausalSettings) -> None:
    """Trains as the arguments say, then averages and scores; raises ValueError for all that a user can mend."""
    train_with(arguments, prepare)


def prepare(start: RunContext) -> TaskComponents:
    """Data, tokenizer, model and validation of a run."""
    arguments = start.arguments
    texts = load_validation(arguments)
    tokenizer = make_tokenizer(start).for_continuation()
    quiet = not start.accelerator.is_main_process
    data = prepare_language_data(arguments, tokenizer, False, start.pad_to_multiple_of, quiet)
    options = {"label_smoothing": arguments.label_smoothing, "skip_logits": True}
    return TaskComponents(
        make_model=partial(make_model, VaswaniForCausalLM, tokenizer, start),
        make_task=lambda model: data.causal_task(options),
        load_model=loader(VaswaniForCausalLM),
        processor=tokenizer,
        data=data.to_dict,
        size=f"{data.describe()}, vocabulary {len(tokenizer):,}",
        validate=CausalValidator(tokenizer, texts, arguments) if texts else None,
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    return command(argv, CausalSettings, __doc__, train)


if __name__ == "__main__":
    sys.exit(main())
