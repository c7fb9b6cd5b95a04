"""Ten updates of the demo and of one recipe a task, whose losses are kept in `tests/golden/losses.json`.

    python -m tests.helpers.golden_losses                  # show the greatest deviation of every run
    python -m tests.helpers.golden_losses --write          # rewrite the file, after a change that is meant to show

The texts and trees are in `tests/golden/losses_data`: drawn once from the project's grammars and kept, so that a new
rule of a grammar does not change a loss. Every run is a public command with a recipe of `training/recipes`, made small
by flags; its values are read from `metrics.jsonl`.
"""

import argparse
import contextlib
import importlib
import json
import os
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.helpers import ROOT

FILE = ROOT / "tests" / "golden" / "losses.json"
DATA = ROOT / "tests" / "golden" / "losses_data"
RECIPES = ROOT / "training" / "recipes"
UPDATES = 10
# One machine repeats a run to the last bit. Another processor adds up in another order, and every update lets that
# rounding grow: between plain, AVX2 and AVX-512 kernels (ATen, MKL, oneDNN) the losses differ by 9e-5 at most, nearly
# always by less than 2e-6; by 1e-3 with the recipes' Adam epsilon of 1e-9, so the runs take ADAM_EPSILON. The first
# update has no rounding to grow.
RELATIVE_TOLERANCE = 5e-4
FIRST_TOLERANCE = 1e-5
ADAM_EPSILON = 1e-6
# What does not come from floating-point sums must be the same everywhere.
EXACT = ("step", "epoch", "target_tokens", "padding", "learning_rate")
TEXT = {"data_dir": DATA, "tokenizer_vocab_size": 400, "warmup_steps": 4}
PAIRS = TEXT | {"max_source_tokens": 500, "max_target_tokens": 500, "eval_sentences": 4, "final_beam": 1}
LANGUAGE = TEXT | {
    "train_text": "train.en", "validation_text": "val.en", "row_length": 32, "batch_tokens": 640, "eval_samples": 1,
}  # fmt: skip
LABELLED = TEXT | {"data_dir": "{data}", "batch_size": 32}


def _nothing(folder: Path) -> None:
    """Make no data: the run reads what is kept in git."""


def _sources(folder: Path) -> None:
    from vaswani_tx.training.data import labelled_corpora

    texts = [f"english={DATA / 'train.en'}", f"german={DATA / 'train.de'}"]
    words = ["source", "--text", *texts, "--words", "3", "--validation", "8", "--test", "8", "--output", str(folder)]
    assert labelled_corpora.main(words) == 0


def _punctuation(folder: Path) -> None:
    from vaswani_tx.training.data import labelled_corpora

    folder.mkdir()
    for name in ("train", "val"):
        words = ["punctuation", "--text", str(DATA / f"{name}.en"), "--output", str(folder / f"{name}.conll")]
        assert labelled_corpora.main(words) == 0


def _summaries(folder: Path) -> None:
    # The texts have no paragraphs: each of these is five lines of one.
    folder.mkdir()
    for name in ("train", "val"):
        lines = (DATA / f"{name}.en").read_text(encoding="utf-8").splitlines()
        rows = [{"document": " ".join(lines[i + 1 : i + 5]), "summary": lines[i]} for i in range(0, len(lines) - 4, 5)]
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def _trees(folder: Path) -> None:
    from vaswani_tx.training.parsing import prepare

    words = ["--train", str(DATA / "train.mrg"), "--validation", str(DATA / "val.mrg"), "--vocab-size", "500"]
    assert prepare.main([*words, "--output", str(folder)]) == 0


# Name of the run: command, recipe, what makes its data, flags.
RUNS: dict[str, tuple[str, str, Callable[[Path], None], dict[str, Any]]] = {
    "demo": ("train_translation", "demo_en_de.yaml", _nothing, PAIRS),
    "translation": ("train_translation", "multi30k_en_de_cpu.yaml", _nothing, PAIRS | {"lr_factor": 0.1}),
    "lstm": ("train_translation", "multi30k_en_de_lstm.yaml", _nothing, PAIRS | {"model.hidden_size": 64}),
    "parsing": (
        "train_parsing", "grammar_parsing.yaml", _trees,
        {
            "data_dir": "{data}", "tokenizer": "{data}/tokenizer", "warmup_steps": 4, "max_target_tokens": 400,
            "eval_sentences": 4, "final_beam": 1,
        },
    ),
    "summarization": (
        "train_summarization", "summarization/first_sentence.yaml", _summaries,
        PAIRS | {"data_dir": "{data}", "max_source_tokens": 800, "eval_sentences": 2},
    ),
    "causal_lm": ("train_causal_lm", "causal_lm/tatoeba_en.yaml", _nothing, LANGUAGE | {"sample_tokens": 2}),
    "masked_lm": ("train_masked_lm", "masked_lm/tatoeba_en.yaml", _nothing, LANGUAGE),
    "classification": ("train_classifier", "classifier/source.yaml", _sources, LABELLED),
    "tagging": ("train_classifier", "classifier/punctuation.yaml", _punctuation, LABELLED),
    "image_classification": (
        "train_image_classifier", "image_classifier/digits.yaml", _nothing,
        {"warmup_steps": 4, "batch_size": 192},
    ),
}  # fmt: skip


def measure(name: str, folder: Path) -> dict[str, Any]:
    """Run the updates of one entry of RUNS below `folder`; return the columns of its training records and scores."""
    from accelerate.state import AcceleratorState

    command, recipe, make_data, changes = RUNS[name]
    data = folder / "data"
    make_data(data)
    flags = {
        "output_dir": folder / "run", "max_steps": UPDATES, "log_every": 1, "eval_every": UPDATES, "save_every": "null",
        "average_last": 0, "tracker": "none", "num_threads": 1, "adam_epsilon": ADAM_EPSILON,
        **changes,
    }  # fmt: skip
    words = [word for key, value in flags.items() for word in (f"--{key}", str(value).replace("{data}", str(data)))]
    AcceleratorState._reset_state(reset_partial_state=True)
    status = importlib.import_module(f"vaswani_tx.training.{command}").main([str(RECIPES / recipe), *words])
    assert status == 0, f"{name}: {command} ended with status {status}"
    lines = (folder / "run" / "metrics.jsonl").read_text(encoding="utf-8").splitlines()
    records = [json.loads(line) for line in lines]
    updates = [record for record in records if record["event"] == "train"]
    (validation,) = [record for record in records if record["event"] == "validation"]
    columns = {key: [record[key] for record in updates] for key in (*EXACT, "loss")}
    return columns | {"validation_loss": validation["loss"]}


def relative_deviations(found: dict[str, Any], expected: dict[str, Any]) -> list[float]:
    """Return the relative deviation of the loss of every update and of the validation loss, in this order."""
    columns = [[*columns["loss"], columns["validation_loss"]] for columns in (found, expected)]
    return [abs(one - other) / abs(other) for one, other in zip(*columns, strict=True)]


def differences(found: dict[str, Any], expected: dict[str, Any]) -> list[str]:
    """Return what differs between a run and its golden values, in words; nothing where it is the same run."""
    wrong = [f"{key}: {found[key]} instead of {expected[key]}" for key in EXACT if found[key] != expected[key]]
    deviations = relative_deviations(found, expected)
    if deviations[0] > FIRST_TOLERANCE or max(deviations) > RELATIVE_TOLERANCE:
        wrong.append(f"loss: {found['loss']} instead of {expected['loss']}, deviations {deviations}")
    return wrong


def read() -> dict[str, Any]:
    """Return the golden runs by name."""
    return json.loads(FILE.read_text(encoding="utf-8"))["runs"]


def write(runs: dict[str, Any]) -> None:
    """Write the golden file, one column of a run a line."""
    blocks = []
    for name, columns in runs.items():
        rows = ",\n".join(f"   {json.dumps(key)}: {json.dumps(value)}" for key, value in columns.items())
        blocks.append(f"  {json.dumps(name)}: {{\n{rows}\n  }}")
    body = ",\n".join(blocks)
    settings = {"updates": UPDATES, "relative_tolerance": RELATIVE_TOLERANCE, "first_tolerance": FIRST_TOLERANCE}
    head = "".join(f" {json.dumps(key)}: {json.dumps(value)},\n" for key, value in settings.items()) + ' "runs": '
    FILE.write_text(f"{{\n{head}{{\n{body}\n }}\n}}\n", encoding="utf-8")


def main(argv: list[str] | None = None) -> int:
    """Run the command; 1 where a run deviates by more than the tolerance."""
    parser = argparse.ArgumentParser(
        prog="python -m tests.helpers.golden_losses", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("runs", nargs="*", metavar="RUN", help=f"all if absent: {', '.join(RUNS)}")
    parser.add_argument("--write", action="store_true", help="rewrite these runs in the golden file")
    options = parser.parse_args(argv)
    names = options.runs or list(RUNS)
    if unknown := set(names) - set(RUNS):
        parser.error(f"unknown run {', '.join(sorted(unknown))}; choose from {', '.join(RUNS)}")
    golden = read() if FILE.is_file() else {}
    found = {}
    for name in names:
        with tempfile.TemporaryDirectory() as folder, contextlib.redirect_stdout(sys.stderr):
            os.environ["VASWANI_TX_CACHE"] = str(Path(folder) / "cache")
            found[name] = measure(name, Path(folder))
    if options.write:
        merged = golden | found
        write({name: merged[name] for name in RUNS if name in merged})
    status = 0
    for name in names:
        if name not in golden:
            print(f"{name}: new")
            continue
        wrong = differences(found[name], golden[name])
        status = 1 if wrong else status
        print(
            "\n  ".join(
                [f"{name}: losses deviate by {max(relative_deviations(found[name], golden[name])):.1e}", *wrong]
            )
        )
    return 0 if options.write else status


if __name__ == "__main__":
    sys.exit(main())
