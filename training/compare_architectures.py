"""Why the Transformer: measured beside the LSTM encoder-decoder with attention that preceded it.

    python -m vaswani_tx.training.compare_architectures --output runs/before
    python -m vaswani_tx.training.compare_architectures --output runs/before --run Transformer=runs/multi30k \\
        --run LSTM=runs/multi30k_lstm --test Transformer=transformer.json --test LSTM=lstm.json

Writes `speed.png` (training steps a second against length), `gradients.png` (gradient norm at the first source token
against distance), `runs.png` (BLEU and loss of finished runs at equal time and at equal updates) and `results.json`
with all numbers and their units; prints the tables. Speed and gradients are of new models of a preset's size, the LSTMs
made as wide as gives them the Transformer's number of parameters; they take a few minutes on one CPU core. `--parts`
measures some of the three only and keeps what `results.json` has of the others. Runs come from
`vaswani-tx train translation`, their test scores from `vaswani-tx evaluate --json`.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM

from vaswani_tx.limits import thread_bounds
from vaswani_tx.training.command_line import exit_status, make_parser, positive_int
from vaswani_tx.training.engine.environment import hardware, versions
from vaswani_tx.training.errors import MeasurementError
from vaswani_tx.training.experiments import architecture_measurements as measurements
from vaswani_tx.training.experiments.architecture_plots import draw_gradients, draw_runs, draw_speed
from vaswani_tx.training.experiments.architecture_runs import compare_runs, read_run, read_test, run_table
from vaswani_tx.training.files import atomic_text
from vaswani_tx.training.models.architectures import ARCHITECTURES
from vaswani_tx.training.models.loading import check_folder, load_pretrained

PARTS = ("speed", "gradients", "runs")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; the header of this file is its manual."""
    parser = make_parser(__doc__, "python -m vaswani_tx.training.compare_architectures")
    add = parser.add_argument
    presets = [name for name in ARCHITECTURES["lstm"].presets if name in ARCHITECTURES["vaswani"].presets]
    add("--output", type=Path, required=True, metavar="DIR", help="where pictures and results.json go")
    add("--parts", nargs="+", choices=PARTS, help="default: speed, gradients, and runs where --run is given")
    add("--preset", default="tiny", choices=presets, help="size of new models; default: tiny")
    add("--vocab-size", type=positive_int, default=10_000, metavar="N", help="shared vocabulary; default: 10000")
    add("--models", nargs="+", choices=measurements.CONTENDERS,
        default=list(measurements.CONTENDERS), help="default: all of them")  # fmt: skip
    add("--lengths", nargs="+", type=positive_int, default=[8, 16, 32, 64, 128, 256, 512], metavar="N",
        help="lengths to time, in tokens")  # fmt: skip
    add("--batch-tokens", type=positive_int, default=2048, metavar="N", help="target tokens of a timed step")
    add("--rounds", type=positive_int, default=5, metavar="N", help="timings of each, after a warm-up")
    add("--gradient-length", type=positive_int, default=256, metavar="N", help="tokens of source and target")
    add("--gradient-rows", type=positive_int, default=4, metavar="N", help="sentences of a batch")
    add("--seeds", type=positive_int, default=3, metavar="N", help="initialisations of each model")
    add("--checkpoint", action="append", default=[], metavar="NAME=DIR", help="gradients of a trained model as well")
    add("--text", nargs=2, metavar=("SOURCE", "TARGET"), help="tokens of trained models' gradients; default: random")
    add("--run", action="append", default=[], metavar="NAME=DIR", help="run folder to compare")
    add("--test", action="append", default=[], metavar="NAME=FILE", help="a run's test scores, as JSON")
    add("--num-threads", type=thread_bounds(), metavar="N", help="CPU threads of PyTorch; default: its own")
    add("--device", help="device of the timings; default: a GPU if there is one")
    add("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(argv)
    options.parts = options.parts or [*PARTS[:2], *(["runs"] if options.run else [])]
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Make the measurements asked for, write pictures and `results.json`, and return the latter's content.

    Raises ValueError for a flag, folder or file that cannot be used.
    """
    runs, tests = _pairs(options.run, "--run"), _pairs(options.test, "--test")
    checkpoints = _pairs(options.checkpoint, "--checkpoint")
    if "runs" in options.parts and not runs:
        raise MeasurementError("--parts runs needs at least one --run NAME=DIR.")
    if unknown := tests.keys() - runs.keys():
        raise MeasurementError(f"--test {sorted(unknown)[0]}: there is no --run of that name.")
    if options.text and not checkpoints:
        raise MeasurementError("--text is for trained models: name one with --checkpoint NAME=DIR.")
    if taken := checkpoints.keys() & set(options.models):
        raise MeasurementError(f"--checkpoint {sorted(taken)[0]}: that is the name of a new model; choose another.")
    if options.num_threads:
        torch.set_num_threads(options.num_threads)
    results = _earlier(options.output / "results.json")
    options.output.mkdir(parents=True, exist_ok=True)
    if "runs" in options.parts:  # first, since it is the one whose input can be wrong
        courses = {name: read_run(folder) for name, folder in runs.items()}
        results["runs"] = compare_runs(courses, {name: read_test(path) for name, path in tests.items()})
        draw_runs(results["runs"], options.output / "runs.png")
    trained = _load(checkpoints) if "gradients" in options.parts else {}
    make = partial(measurements.make_contender, preset=options.preset, vocab_size=options.vocab_size)
    if "speed" in options.parts:
        device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        models = {name: make(name, seed=1) for name in options.models}
        results["speed"] = measurements.measure_speed(
            models, options.lengths, options.batch_tokens, options.rounds, device, progress=not options.quiet
        )
        results["speed"] |= {"preset": options.preset, "device": str(device), "threads": torch.get_num_threads(),
                             "hardware": hardware(), "versions": versions()}  # fmt: skip
        draw_speed(results["speed"], options.output / "speed.png")
    if "gradients" in options.parts:
        size = {"length": options.gradient_length, "rows": options.gradient_rows, "seeds": options.seeds}
        new = {name: lambda seed, name=name: make(name, seed=seed) for name in options.models}
        found = measurements.measure_gradients(new, **size) | {"preset": options.preset, "versions": versions()}
        if trained:
            same = {name: lambda seed, model=model: model for name, model in trained.items()}
            more = measurements.measure_gradients(same, **size, text=options.text)
            found["models"] |= more["models"]
            found["tokens_of_trained_models"] = more["tokens"]
        results["gradients"] = found
        draw_gradients(found, options.output / "gradients.png")
    atomic_text(options.output / "results.json", json.dumps(results, indent=1) + "\n")
    return results


def _load(checkpoints: dict[str, str]) -> dict[str, torch.nn.Module]:
    for folder in checkpoints.values():
        check_folder(Path(folder))
    return {name: load_pretrained(AutoModelForSeq2SeqLM, folder, dtype=torch.float32)
            for name, folder in checkpoints.items()}  # fmt: skip


def report(results: dict[str, Any], parts: list[str]) -> str:
    """Return the tables of what was measured."""
    tables = {"speed": measurements.speed_table, "gradients": measurements.gradient_table, "runs": run_table}
    texts = []
    for part, table in tables.items():
        if part in parts:
            rows = table(results[part])
            first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))
            lines = ["Training steps a second"] if part == "speed" else []
            for row in rows:
                cells = (cell.rjust(width) for cell, width in zip(row[1:], others, strict=True))
                lines.append("  ".join([row[0].ljust(first), *cells]))
            texts.append("\n".join(lines))
    return "\n\n".join(texts)


def _earlier(path: Path) -> dict[str, Any]:
    """Return what an earlier command measured, of which the other parts stay."""
    if not path.exists():
        return {}
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(found, dict):
            raise ValueError("not an object")
        return found
    except ValueError as error:
        raise MeasurementError(
            f"'{path}' is not a result of this command ({error}): choose another --output."
        ) from error


def _pairs(given: list[str], flag: str) -> dict[str, str]:
    pairs: dict[str, str] = {}
    for text in given:
        name, _, value = text.partition("=")
        if not (name and value):
            raise MeasurementError(f"{flag} {text}: write NAME=PLACE.")
        if name in pairs:
            raise MeasurementError(f"{flag} {text}: the name {name} is given twice.")
        pairs[name] = value
    return pairs


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status; a folder that holds no model is a wrong input here."""
    options = parse(argv)
    return exit_status(lambda: print(report(measure(options), options.parts)))


if __name__ == "__main__":
    sys.exit(main())
