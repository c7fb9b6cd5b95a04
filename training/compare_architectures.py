"""Why the Transformer: measured beside the LSTM encoder-decoder with attention that stood before it.

    python -m vaswani_tx.training.compare_architectures --output runs/before
    python -m vaswani_tx.training.compare_architectures --output runs/before --run Transformer=runs/multi30k \\
        --run LSTM=runs/multi30k_lstm --test Transformer=transformer.json --test LSTM=lstm.json

Writes `speed.png` (training steps a second against length), `gradients.png` (gradient norm at the first source token
against distance), `runs.png` (BLEU and loss of finished runs at equal time and at equal updates) and `results.json`
with all numbers and their units; prints the tables. Speed and gradients are of new models of a preset's size, the LSTMs
made as wide as gives them the Transformer's number of parameters; they take a few minutes on one CPU core. `--parts`
measures some of the three only and keeps what `results.json` has of the others. Runs come from
`vaswani_tx.training.train_translation`, their test scores from `vaswani_tx.training.evaluate_translation --json`.
"""

import argparse
import json
import sys
from functools import partial
from pathlib import Path
from typing import Any

import torch

from vaswani_tx.training.engine.environment import hardware, versions
from vaswani_tx.training.errors import MeasurementError
from vaswani_tx.training.experiments.architecture_gradients import gradient_table, measure_gradients
from vaswani_tx.training.experiments.architecture_models import CONTENDERS, load_contenders, make_contenders
from vaswani_tx.training.experiments.architecture_plots import draw_gradients, draw_runs, draw_speed
from vaswani_tx.training.experiments.architecture_runs import compare_runs, read_run, read_test, run_table
from vaswani_tx.training.experiments.architecture_speed import measure_speed, speed_table
from vaswani_tx.training.files import atomic_text
from vaswani_tx.training.models.architectures import ARCHITECTURES

PARTS = ("speed", "gradients", "runs")


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; the header of this file is its manual."""
    parser = argparse.ArgumentParser(
        prog="python -m vaswani_tx.training.compare_architectures",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    add = parser.add_argument
    add("--output", type=Path, required=True, metavar="DIR", help="where pictures and results.json go")
    add("--parts", nargs="+", choices=PARTS, help="default: speed, gradients, and runs where --run is given")
    add("--preset", default="tiny", choices=_common_presets(), help="size of new models; default: tiny")
    add("--vocab-size", type=_positive, default=10_000, metavar="N", help="shared vocabulary; default: 10000")
    add("--models", nargs="+", choices=CONTENDERS, default=list(CONTENDERS), help="default: all of them")
    add("--lengths", nargs="+", type=_positive, default=[8, 16, 32, 64, 128, 256, 512], metavar="N",
        help="lengths to time, in tokens")  # fmt: skip
    add("--batch-tokens", type=_positive, default=2048, metavar="N", help="target tokens of a timed step")
    add("--rounds", type=_positive, default=5, metavar="N", help="timings of each, after a warm-up")
    add("--gradient-length", type=_positive, default=256, metavar="N", help="tokens of source and target")
    add("--gradient-rows", type=_positive, default=4, metavar="N", help="sentences of a batch")
    add("--seeds", type=_positive, default=3, metavar="N", help="initialisations of each model")
    add("--checkpoint", action="append", default=[], metavar="NAME=DIR", help="gradients of a trained model as well")
    add("--text", nargs=2, metavar=("SOURCE", "TARGET"), help="tokens of trained models' gradients; default: random")
    add("--run", action="append", default=[], metavar="NAME=DIR", help="run folder to compare")
    add("--test", action="append", default=[], metavar="NAME=FILE", help="a run's test scores, as JSON")
    add("--num-threads", type=_positive, metavar="N", help="CPU threads of PyTorch; default: its own")
    add("--device", help="device of the timings; default: a GPU if there is one")
    add("--quiet", action="store_true", help="no progress bar")
    options = parser.parse_args(argv)
    options.parts = options.parts or [*PARTS[:2], *(["runs"] if options.run else [])]
    return options


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Makes the measurements asked for, writes pictures and `results.json`, and returns the latter's content.

    Raises:
        ValueError: a flag, folder or file that cannot be used.
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
    results = _former(options.output / "results.json")
    options.output.mkdir(parents=True, exist_ok=True)
    if "runs" in options.parts:  # first, since it is the one whose input can be wrong
        found = [read_run(name, folder) for name, folder in runs.items()]
        results["runs"] = compare_runs(found, {name: read_test(path) for name, path in tests.items()})
        draw_runs(results["runs"], options.output / "runs.png")
    trained = load_contenders(checkpoints) if "gradients" in options.parts else {}
    if "speed" in options.parts:
        models = make_contenders(options.models, options.preset, options.vocab_size, seed=1)
        device = torch.device(options.device or ("cuda" if torch.cuda.is_available() else "cpu"))
        results["speed"] = measure_speed(
            models, options.lengths, options.batch_tokens, options.rounds, device, progress=not options.quiet
        )
        results["speed"] |= {"preset": options.preset} | _machine(device)
        draw_speed(results["speed"], options.output / "speed.png")
    if "gradients" in options.parts:
        results["gradients"] = _gradients(options, trained)
        draw_gradients(results["gradients"], options.output / "gradients.png")
    atomic_text(options.output / "results.json", json.dumps(results, indent=1) + "\n")
    return results


def _gradients(options: argparse.Namespace, trained: dict[str, Any]) -> dict[str, Any]:
    """New models on random tokens, trained ones on text where it is given."""
    size = {"length": options.gradient_length, "rows": options.gradient_rows, "seeds": options.seeds}
    makers = {name: partial(_make_one, name, options.preset, options.vocab_size) for name in options.models}
    result = measure_gradients(makers, **size) | {"preset": options.preset, "versions": versions()}
    if trained:
        same = {name: (lambda seed, model=model: model) for name, model in trained.items()}
        more = measure_gradients(same, **size, text=tuple(options.text) if options.text else None)
        result["models"] |= more["models"]
        result["tokens_of_trained_models"] = more["tokens"]
    return result


def _make_one(name: str, preset: str, vocab_size: int, seed: int) -> torch.nn.Module:
    return make_contenders([name], preset, vocab_size, seed)[name]


def report(results: dict[str, Any], parts: list[str]) -> str:
    """The tables of what was measured, for people."""
    tables = {"speed": ("Training steps a second", speed_table), "gradients": ("", gradient_table),
              "runs": ("", run_table)}  # fmt: skip
    texts = []
    for part, (title, table) in tables.items():
        if part in parts:
            texts.append("\n".join([*([title] if title else []), *_aligned(table(results[part]))]))
    return "\n\n".join(texts)


def _aligned(rows: list[list[str]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return ["  ".join([row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in
            zip(row[1:], widths[1:], strict=True))]) for row in rows]  # fmt: skip


def _machine(device: torch.device) -> dict[str, Any]:
    return {
        "device": str(device), "threads": torch.get_num_threads(), "hardware": hardware(), "versions": versions(),
    }  # fmt: skip


def _former(path: Path) -> dict[str, Any]:
    """What an earlier command measured; its other parts stay."""
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
        name, equals, place = text.partition("=")
        if not (name and equals and place):
            raise MeasurementError(f"{flag} {text}: write NAME=PLACE.")
        if name in pairs:
            raise MeasurementError(f"{flag} {text}: the name {name} is given twice.")
        pairs[name] = place
    return pairs


def _common_presets() -> list[str]:
    """The named sizes that every architecture has."""
    return [name for name in ARCHITECTURES["lstm"].presets if name in ARCHITECTURES["vaswani"].presets]


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} must be at least 1")
    return value


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status: 2, with one line on stderr, for input that cannot be used."""
    options = parse(argv)
    try:
        print(report(measure(options), options.parts))
    except (ValueError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
