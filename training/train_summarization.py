"""Trains a model that shortens documents, from pairs of a document and its summary.

    vaswani-tx train summarization training/recipes/summarization/first_sentence.yaml --data-dir DATA
    accelerate launch --config_file training/accelerate_configs/ddp.yaml \\
        -m vaswani_tx.training.train_summarization RECIPE [--flags]

A recipe is a YAML file; every key is also a flag, `--help` lists them. A file of pairs is enough:

    vaswani-tx train summarization --preset tiny --train-source train.jsonl --validation-source val.jsonl \\
        --tokenizer-vocab-size 8000 --max-minutes 30 --output-dir runs/summaries

Each line of such a file is `{"document": "...", "summary": "..."}`; .csv, .tsv, .parquet, data sets of the Hub and two
line-aligned text files (`--train-source`, `--train-target`) work alike. A document longer than `max_source_length` is
cut. Validation writes summaries and scores them by ROUGE; `lead_sentences` of the document are the baseline, printed
when a run begins. The run folder is that of `vaswani-tx train translation`; `best/`, `averaged/` and each checkpoint
load with `AutoModelForSeq2SeqLM` and shorten text in `pipeline("summarization")`. To score a test set:

    vaswani-tx evaluate --model runs/summaries/best --source test.jsonl --source-field document \\
        --target-field summary --metrics rouge1 rouge2 rougeL --target-language en
"""

import sys

from vaswani_tx.training.command_line import command
from vaswani_tx.training.config.summarization import SummarizationSettings


def train(settings: SummarizationSettings) -> None:
    """Train as the settings say, then average and score; raise ValueError for whatever a user can fix."""
    # Imported here, so that --help need not wait for torch.
    from vaswani_tx.training.engine import run
    from vaswani_tx.training.tasks import summarization

    run.train(settings, summarization.prepare)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    return command(argv, SummarizationSettings, __doc__, train)


if __name__ == "__main__":
    sys.exit(main())
