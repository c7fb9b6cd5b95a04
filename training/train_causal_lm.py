"""Train a causal language model, the paper's decoder on its own, from plain text.

    vaswani-tx train causal-lm causal_lm/tatoeba_en --data-dir DATA
    accelerate launch --num_processes 8 -m vaswani_tx train causal-lm RECIPE [--flags]

A recipe is a YAML file, or the name of a ready-made one; every key is also a flag (`--max-steps 100`, `--model.dropout
0.3`), `--help` lists them. `python -m vaswani_tx.training.train_causal_lm` is the same command. One text file, a
document a line, is enough:

    vaswani-tx train causal-lm --preset tiny --train-text a.en --validation-text v.en \\
        --tokenizer-vocab-size 8000 --max-minutes 10 --output-dir runs/first

A document is `<s>`, its text, `</s>`. Rows of `row_length` tokens hold several documents that do not see each other:
the loss and its gradient are those of the documents one by one. The run folder is that of `train translation`;
`best/`, `averaged/` and each checkpoint load with `AutoModelForCausalLM` and continue a text in
`pipeline("text-generation")`. `samples.jsonl` shows what the model makes of the first halves of validation texts.
"""

import sys

from vaswani_tx.training.command_line import command
from vaswani_tx.training.config.language_modeling import CausalSettings


def train(settings: CausalSettings) -> None:
    """Train as the settings say, then average and score; raise ValueError for whatever a user can fix."""
    # Imported here, so that --help need not wait for torch.
    from vaswani_tx.training.engine import run
    from vaswani_tx.training.tasks import language_modeling

    run.train(settings, language_modeling.prepare_causal)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return command(argv, CausalSettings, __doc__, train)


if __name__ == "__main__":
    sys.exit(main())
