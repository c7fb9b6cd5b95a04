"""Train a constituency parser: the encoder-decoder writes the tree of a sentence as symbols (section 6.3).

    python -m vaswani_tx.training.parsing.prepare --train wsj/02 ... wsj/21 --validation wsj/22 --output data/wsj
    vaswani-tx train parsing training/recipes/wsj_parsing.yaml
    vaswani-tx train parsing --data-dir data/mine --tokenizer data/mine/tokenizer --preset tiny \\
        --max-minutes 30 --output-dir runs/parser

`parsing.prepare` makes the data of trees in Penn Treebank brackets: sentences, linearised trees, and a tokenizer in
which every symbol of a tree is one token. A validation parses sentences of the validation set, reads the trees back
(malformed ones are repaired) and scores their brackets as evalb does: labelled F1, precision and recall, complete
match; labelled F1 chooses `best/`. `vaswani-tx evaluate parsing` scores a model on a test set.

A recipe is a YAML file; every key is also a flag (`--max-steps 100`, `--model.dropout 0.3`). The run folder, resuming,
signals and the exit status are those of `vaswani-tx train translation`; a run that it began with the same data can be
resumed here.
"""

import sys

from vaswani_tx.training.command_line import command
from vaswani_tx.training.config.parsing import ParsingSettings


def train(settings: ParsingSettings) -> None:
    """Train as the settings say, then average and score; raise ValueError for whatever a user can fix."""
    # Imported here, so that --help need not wait for torch.
    from vaswani_tx.training.engine import run
    from vaswani_tx.training.tasks import parsing

    run.train(settings, parsing.prepare)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return command(argv, ParsingSettings, __doc__, train)


if __name__ == "__main__":
    sys.exit(main())
