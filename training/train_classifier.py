"""Train a classifier of texts, a tagger of words, or a reader that finds answers in a context.

    vaswani-tx train classifier --train-file train.tsv --validation-file val.tsv --preset tiny \\
        --tokenizer-vocab-size 8000 --max-steps 1000 --output-dir runs/first
    vaswani-tx train classifier classifier/tagging --init-from runs/masked/averaged

A recipe is a YAML file, or the name of a ready-made one; every key is also a flag (`--max-steps 100`, `--model.dropout
0.3`). Five tasks (`--task`):

    classification      {"text": "so good", "label": "positive"}         accuracy, macro F1 (f1), Matthews
    multi_label         {"text": "...", "label": ["a", "b"]}             micro F1 (f1), macro F1, exact match
    regression          {"text": "...", "label": 3.5}                    squared error, Pearson, Spearman
    tagging             {"tokens": ["Ann", "ran"], "tags": ["B-PER", "O"]}  F1 of spans, or of tags beside O; accuracy
    question_answering  SQuAD's JSON, or lines with its fields           exact match and F1 as SQuAD counts them

Data come from .jsonl, .json, .csv, .tsv (names of columns in the first line; several labels in a cell: `a,b`),
.parquet, CoNLL files (`word TAB tag`, a blank line ends a sentence), all of them also compressed (.gz, .zst, ...), or a
data set of the Hub. `--pair-field` names the second text of a pair, `--text-field`, `--label-field`, ... other fields
that have another name.

`--init-from` takes a pre-trained masked language model (or a classifier): its encoder by the names of its weights, with
a new last layer, and its tokenizer; `--freeze model.embed_tokens,model.layers.0` and `--layer-lr-decay 0.8` spare it.
Without it weights are random and `--tokenizer-vocab-size` has a vocabulary trained on the training texts.

The run folder gets what `train translation` writes (`recipe.yaml`, `metrics.jsonl`, `checkpoints/`, `best/`, ...),
`samples.jsonl`, and `scores.json`: all scores of best/ (and averaged/, ema/), each label, the confusion matrix. `best/`
loads with the Auto classes and pipelines; `vaswani-tx classify --model RUN/best --input FILE` predicts. The same
command resumes where the run stopped. A command, a recipe or data that cannot be used end with status 2.
"""

import json
import sys

from vaswani_tx.training.command_line import command
from vaswani_tx.training.config.classification import ClassifierSettings
from vaswani_tx.training.files import atomic_text


def train(settings: ClassifierSettings) -> None:
    """Train as the settings say, then write scores.json; raise ValueError for whatever a user can fix."""
    # Imported here, so that --help need not wait for torch.
    from vaswani_tx.training.engine import run
    from vaswani_tx.training.tasks import classification

    result = run.train(settings, classification.prepare)
    if result.validations:
        content = {name: validation.details for name, validation in result.validations.items()}
        text = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
        atomic_text(result.context.folder.path / "scores.json", text)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return command(argv, ClassifierSettings, __doc__, train)


if __name__ == "__main__":
    sys.exit(main())
