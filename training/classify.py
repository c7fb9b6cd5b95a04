"""Predict with a classifier, a tagger or a question answering model, and score where the labels are known.

    vaswani-tx classify --model runs/first/best --input test.tsv --output found.jsonl --scores scores.json
    echo "what a day" | vaswani-tx classify --model runs/first/best --input -

The input is what `vaswani-tx train classifier` reads, labels optional. `-` (standard input) and, for texts, a .txt file
hold one text a line, and so does any file with `--lines`: a tagger splits them at spaces. `python -m
vaswani_tx.training.classify` is the same command. Each example gives one line of JSON:

    classification      {"text": ..., "label": "positive", "score": 0.98, "scores": {...}}
    multi_label         {"text": ..., "label": ["a", "b"], "scores": {...}}
    regression          {"text": ..., "label": 3.5}
    tagging             {"tokens": [...], "tags": [...], "scores": [...], "spans": [{"type", "first", "last", "text"}]}
    question_answering  {"id": ..., "question": ..., "answer": "in 1990", "score": 0.8, "start": 17}

`--scores FILE` asks for labels and writes accuracy, F1 and so on with each label and the confusion matrix. The model is
one that `vaswani-tx train classifier` made. For programs:

    from vaswani_tx.training.inference.classifier import Classifier
    classifier = Classifier.load("runs/first/best")
    classifier.texts(["what a day"]); classifier.tag([["Ann", "ran"]]); classifier.answer("When?", "It was in 1990.")
"""

import argparse
import sys
from pathlib import Path

from vaswani_tx.limits import whole
from vaswani_tx.training.command_line import check_writable, exit_status, make_parser, positive_int
from vaswani_tx.training.config.labelled import Fields


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; the header of this file is its manual."""
    parser = make_parser(__doc__, "vaswani-tx classify")
    parser.add_argument("--model", required=True, help="folder of a model, such as a run's best/")
    parser.add_argument("--input", required=True, help="file of examples, data set of the Hub, or - for lines of text")
    parser.add_argument("--output", type=Path, help="file for the predictions; standard output if absent")
    parser.add_argument("--scores", type=Path, help="file for the scores; the input then needs labels")
    parser.add_argument("--lines", action="store_true", help="the input holds one text a line")
    parser.add_argument("--split", default="test", help="split of a data set of the Hub (test)")
    parser.add_argument("--dataset-config", help="configuration of a data set of the Hub")
    for name, default in ((name, field.default) for name, field in Fields.__dataclass_fields__.items()):
        flag = "--label-separator" if name == "separator" else f"--{name}-field"
        meaning = "what separates several labels in a cell" if name == "separator" else f"field of the {name}"
        parser.add_argument(flag, dest=name, default=default, help=f"{meaning} ({default or 'none'})")
    parser.add_argument("--max-length", type=positive_int, help="longest row in tokens; the model's own if absent")
    parser.add_argument("--stride", type=whole(0), help="tokens that two windows share; the model's own if absent")
    parser.add_argument("--batch-tokens", type=positive_int, default=8192, help="tokens of a batch with padding (8192)")
    parser.add_argument("--device", help="such as cpu or cuda:1; a GPU if there is one")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> None:
    """Predict, write and score; raise ValueError where the model or its input cannot be used."""
    for path in (options.output, options.scores):
        check_writable(path)
    # Imported here, so that --help need not wait for torch.
    import transformers

    from vaswani_tx.training.inference.classified_files import classify_file

    transformers.utils.logging.disable_progress_bar()
    classify_file(options)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parse(argv)
    return exit_status(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
