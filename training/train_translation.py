"""Train a translation model from parallel text.

    vaswani-tx train translation multi30k_en_de --data-dir DATA --output-dir runs/multi30k
    accelerate launch --num_processes 8 -m vaswani_tx train translation RECIPE [--flags]

A recipe is a YAML file, or the name of a ready-made one; every key is also a flag (`--max-steps 100`, `--model.dropout
0.3`, `--no-compile`), `--help` lists them. `python -m vaswani_tx.training.train_translation` is the same command. Two
text files are enough:

    vaswani-tx train translation --preset tiny --train-source a.en --train-target a.de \\
        --validation-source v.en --validation-target v.de --tokenizer-vocab-size 8000 --max-minutes 30 \\
        --output-dir runs/first

The run folder gets `recipe.yaml` (resolved), `tokenizer/`, `metrics.jsonl`, `tensorboard/`, `checkpoints/`, `best/` and
`averaged/`; the last two, and each checkpoint, load with `AutoModelForSeq2SeqLM.from_pretrained`. The same command
resumes where the run stopped (`--resume never` forbids it, `--overwrite` starts a new run). SIGTERM and Ctrl-C save
first; the exit status is then 128 plus the signal's number. A command, a recipe or data that cannot be used end with
status 2.
"""

import sys

from vaswani_tx.training.command_line import command
from vaswani_tx.training.config.translation import TranslationSettings


def train(settings: TranslationSettings) -> None:
    """Train as the settings say, then average and score; raise ValueError for whatever a user can fix."""
    # Imported here, so that --help need not wait for torch.
    from vaswani_tx.training.engine import run
    from vaswani_tx.training.tasks import translation

    run.train(settings, translation.prepare)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return command(argv, TranslationSettings, __doc__, train)


if __name__ == "__main__":
    sys.exit(main())
