"""The whole path of parsing without a treebank: trees from a grammar, a model, its F1, its trees.

    python -m vaswani_tx.training.parsing_demo --output runs/parsing

It draws 16,000 trees over different sentences (training/experiments/english_treebank.py), trains for some five minutes
on one core (training/recipes/grammar_parsing.yaml), parses the 500 test sentences, none of which was trained on, as the
paper does (beam 21, alpha 0.3, input + 300), and prints the scores by evalb's definition beside those of a
right-branching tree. OUTPUT then holds `data/`, `run/` (the training run), `model/` (with that decoding as its own),
`test.mrg` (the model's trees, one a line) and `scores.json`."""

import argparse
import json
import shutil
import sys
import time
from pathlib import Path
from typing import Any

from vaswani_tx.limits import BEAMS, SEED, VOCABULARY
from vaswani_tx.training.command_line import exit_status, make_parser, positive_int
from vaswani_tx.training.errors import DataError
from vaswani_tx.training.experiments.english_treebank import generate_trees, split_trees
from vaswani_tx.training.files import atomic_folder, atomic_text
from vaswani_tx.training.parsing.evaluate import describe, evaluate
from vaswani_tx.training.parsing.linear import LEAVES
from vaswani_tx.training.parsing.outputs import PAPER_PARSING
from vaswani_tx.training.parsing.prepare import MARK, write_parts
from vaswani_tx.training.parsing.prepare import describe as describe_data
from vaswani_tx.training.parsing.trees import Tree, sentence, write_trees
from vaswani_tx.training.train_parsing import main as train_parsing

RECIPE = Path(__file__).parent / "recipes" / "grammar_parsing.yaml"
HELD_OUT = 500
SHOWN = 3


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "python -m vaswani_tx.training.parsing_demo")
    parser.add_argument("--output", type=Path, default=Path("runs/parsing"), help="replaced if it is a demo's folder")
    parser.add_argument("--trees", type=positive_int, default=16000, help="trees in all, 500 each to validate and test")
    parser.add_argument("--leaves", choices=LEAVES, default="words", help="symbol of a word in a tree (words)")
    parser.add_argument("--vocab-size", type=VOCABULARY, default=1584, help="entries of the vocabulary (1584)")
    parser.add_argument("--max-steps", type=positive_int, help="updates; the recipe's number if absent")
    parser.add_argument("--beam", type=BEAMS, default=PAPER_PARSING["num_beams"], help="beam of the evaluation (21)")
    parser.add_argument("--seed", type=SEED, default=2015, help="of the trees and their split")
    return parser.parse_args(argv)


def make_data(folder: Path, options: argparse.Namespace) -> dict[str, list[Tree]]:
    """Draw the trees, split them so that no sentence is in two parts, write and return the parts."""
    held_out = min(HELD_OUT, options.trees // 10)
    if held_out < 1:
        raise DataError(f"--trees is {options.trees}: give at least 10")
    trees = generate_trees(options.trees, options.seed)
    validation, test, train = split_trees(trees, (held_out, held_out), options.seed)
    parts = {"train": train, "validation": validation, "test": test}
    report = write_parts(parts, folder, options.vocab_size, options.leaves, seed=options.seed)
    print("\n".join(describe_data(report)))
    return parts


def train(folder: Path, max_steps: int | None) -> None:
    """Train by the recipe on the data in `folder/data`; raise SystemExit with its status if that fails."""
    flags = ["--data-dir", str(folder / "data"), "--tokenizer", str(folder / "data" / "tokenizer")]
    flags += ["--output-dir", str(folder / "run"), *(["--max-steps", str(max_steps)] if max_steps else [])]
    if status := train_parsing([str(RECIPE), *flags]):
        raise SystemExit(status)


def keep_model(run: Path, target: Path) -> None:
    """Copy the averaged or the best model, whichever has the lower validation loss, with the paper's decoding."""
    # Imported here, so that --help need not wait for torch and matplotlib.
    from vaswani_tx.training.inference.translation import load_model_and_tokenizer
    from vaswani_tx.training.reporting.plots import read_metrics

    events = read_metrics(run / "metrics.jsonl")
    losses = {name: events[name][-1]["loss"] for name in ("averaged", "best") if name in events}
    chosen = run / min(losses, key=losses.get)
    model, _ = load_model_and_tokenizer(str(chosen))
    model.generation_config.update(**PAPER_PARSING)
    with atomic_folder(target) as folder:
        shutil.copytree(chosen, folder, dirs_exist_ok=True)
        model.generation_config.save_pretrained(folder)


def show(test: list[Tree], parsed: list[Tree], count: int = SHOWN) -> None:
    """Print a few of the model's trees, one of them wrong if there is one, with the gold tree then."""
    wrong = [number for number in range(len(test)) if test[number] != parsed[number]]
    right = [number for number in range(len(test)) if test[number] == parsed[number]]
    for number in (right[: count - bool(wrong)] + wrong)[:count]:
        print(f"\n{sentence(test[number])}\n{parsed[number].pretty()}")
        if parsed[number] != test[number]:
            print(f"the grammar says:\n{test[number].pretty()}")


def demonstrate(options: argparse.Namespace) -> dict[str, Any]:
    """Run all the stages and return the scores."""
    from vaswani_tx.training.inference.translation import load_model_and_tokenizer

    began = time.monotonic()

    def stage(text: str) -> None:
        print(f"\n== {text}   [{time.monotonic() - began:.0f} s]", flush=True)

    folder = options.output
    if folder.exists() and any(folder.iterdir()):
        if not (folder / "data" / MARK).is_file():
            raise DataError(f"{folder} is not empty and not from an earlier demonstration: give another --output")
        shutil.rmtree(folder)
    stage(f"{options.trees:,} trees from a grammar")
    parts = make_data(folder / "data", options)
    stage("training")
    train(folder, options.max_steps)
    keep_model(folder / "run", folder / "model")
    test = parts["test"]
    stage(f"parsing the {len(test)} test sentences, beam {options.beam}")
    model, tokenizer = load_model_and_tokenizer(str(folder / "model"))
    scores, parsed = evaluate(model, tokenizer, test, num_beams=options.beam, batch_tokens=600)
    scores["seconds"] = round(time.monotonic() - began, 1)
    atomic_text(folder / "test.mrg", write_trees(parsed))
    atomic_text(folder / "scores.json", json.dumps(scores, indent=1) + "\n")
    print(describe(scores))
    show(test, parsed)
    stage(f"done: labelled F1 {scores['f1']:.2f}, right-branching {scores['right_branching']['f1']:.2f}")
    return scores


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parse(argv)

    def work() -> None:
        demonstrate(options)

    return exit_status(work)


if __name__ == "__main__":
    sys.exit(main())
