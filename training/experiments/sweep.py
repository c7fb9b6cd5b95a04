"""A sweep: train its rows one after another, score each, and write the table of what is known by now.

`vaswani_tx.training.sweep` is the command and describes it.
"""

import itertools
import json
import os
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformers import AutoConfig

from vaswani_tx.training import evaluate_translation
from vaswani_tx.training.command_line import print_status
from vaswani_tx.training.config.shipped import find_shipped, known_files
from vaswani_tx.training.engine.checkpoints import latest_checkpoint, read_state
from vaswani_tx.training.errors import SweepError
from vaswani_tx.training.experiments.child_commands import LAUNCHER, TRAIN, Commands
from vaswani_tx.training.experiments.sweep_rows import (
    Row,
    Sweep,
    count_parameters,
    is_finished,
    make_config,
)
from vaswani_tx.training.files import atomic_text
from vaswani_tx.training.inference.evaluation import EXTRA_METRICS
from vaswani_tx.training.metrics.registry import BY_NAME, MAIN_METRICS, TEXT, MetricSpec, signed_metrics

EVALUATE = "vaswani_tx.training.evaluate_translation"
# What a tokenizer is made from: rows that agree in these share the one of the first of them.
TOKENIZER_KEYS = (
    "data_dir", "train_source", "train_target", "train_split", "dataset_config", "corpora", "source_field",
    "target_field", "empty_lines", "drop_duplicates", "drop_copies", "tokenizer_vocab_size", "source_vocab_size",
)  # fmt: skip


# State


def scored_model(row: Row) -> Path:
    """Return the model folder that the table scores; where there is no average, the last checkpoint."""
    folder = row.folder
    chosen = {"averaged": folder.averaged, "best": folder.best}.get(row.evaluation["model"])
    return chosen if chosen and chosen.is_dir() else latest_checkpoint(folder.checkpoints) or folder.checkpoints


def evaluation_words(row: Row) -> list[str]:
    """Return the evaluation command's arguments: its development set and beam unless the sweep names others."""
    arguments = row.arguments
    values = {
        "source": arguments.validation_source, "target": arguments.validation_target,
        "split": arguments.validation_split, "dataset_config": arguments.dataset_config,
        "source_field": arguments.source_field, "target_field": arguments.target_field, "beam": arguments.final_beam,
    }  # fmt: skip
    if "source" in row.evaluation:
        values["target"] = None
    values |= {key: value for key, value in row.evaluation.items() if key != "model"}
    for side in ("source", "target"):
        if arguments.data_dir and values[side]:
            values[side] = os.path.join(arguments.data_dir, values[side])
    given = {key.replace("_", "-"): value for key, value in values.items() if value not in (None, False)}
    words = [word for key, value in given.items() for word in _flag_words(key, value)]
    files = [f"--json={row.folder.path / 'evaluation.json'}", f"--output={row.folder.path / 'hypotheses.txt'}"]
    return [f"--model={scored_model(row)}", *words, "--perplexity", *files]


def _flag_words(key: str, value: Any) -> list[str]:
    if isinstance(value, list):
        return [f"--{key}", *map(str, value)]
    return [f"--{key}" if value is True else f"--{key}={value}"]


def evaluation_result(row: Row) -> dict[str, Any] | None:
    """Return the scores of the row's model as the sweep asks for them, or None if there are none of it yet."""
    file = row.folder.path / "evaluation.json"
    if not is_finished(row) or not file.exists() or file.stat().st_mtime < row.folder.finished.stat().st_mtime:
        return None
    result = json.loads(file.read_text(encoding="utf-8"))
    asked = vars(evaluate_translation.parse(evaluation_words(row)))
    # The settings hold the device that was taken, not the one that was asked for.
    asked = {
        name: str(value) if isinstance(value, Path) else value for name, value in asked.items() if name != "device"
    }
    return result if asked.items() <= result.get("settings", {}).items() else None


def shared_tokenizer(sweep: Sweep, row: Row) -> list[str]:
    """Return `--tokenizer` of the first row with the same text: it is trained once, and the rows can be compared."""
    arguments = row.arguments
    if arguments.tokenizer or arguments.init_from:
        return []
    for other in itertools.takewhile(lambda other: other is not row, sweep.rows):
        same = all(getattr(other.arguments, key) == getattr(arguments, key) for key in TOKENIZER_KEYS)
        if same and (other.folder.tokenizer / "tokenizer.json").is_file():
            return [f"--tokenizer={other.folder.tokenizer}"]
    return []


# Running


def launch_words(text: str | None) -> list[str]:
    """Return Python's arguments of accelerate's launcher, none where the rows train without it.

    Args:
        text: a configuration of accelerate, by its file or the name of a ready-made one, then flags of the launcher.

    Raises:
        SweepError: there is no such configuration.
    """
    if text is None:
        return []
    words = shlex.split(text)
    if not words or words[0].startswith("-"):
        return ["-m", LAUNCHER, *words]
    found = find_shipped(words[0], "accelerate_configs")
    if not found.is_file():
        raise SweepError(
            f"--launch: no configuration of accelerate at '{words[0]}'. {known_files('accelerate_configs', words[0])}"
        )
    return ["-m", LAUNCHER, "--config_file", str(found), *words[1:]]


def training_command(sweep: Sweep, row: Row, launch: Sequence[str]) -> list[str]:
    """Return the command line that trains a row, with what `launch_words` returned."""
    return [sys.executable, *launch, "-m", TRAIN, *row.words, *shared_tokenizer(sweep, row)]


def run_sweep(sweep: Sweep, rows: list[Row], launch: Sequence[str] = ()) -> int:
    """Train and score the rows in order; return the command's exit status."""
    problems: dict[str, str] = {}
    with Commands() as commands:
        for number, row in enumerate(rows, start=1):
            print_status(f"row {row.name} ({number} of {len(rows)}): {row.changed}")
            problem = _run_row(commands, sweep, row, launch)
            if commands.signum:
                name = signal.Signals(commands.signum).name
                print_status(f"sweep stopped by {name} in row {row.name}; the same command resumes there.")
                write_table(sweep, problems)
                return 128 + commands.signum
            if problem:
                problems[row.name] = problem
                print_status(f"row {row.name} {problem}; continuing with the next row.")
            write_table(sweep, problems)
    print_status(f"results: {sweep.output_dir / 'table.md'}")
    if problems:
        print_status("not done: " + "; ".join(f"{name} {problem}" for name, problem in problems.items()))
    return 1 if problems else 0


def _run_row(commands: Commands, sweep: Sweep, row: Row, launch: Sequence[str]) -> str | None:
    """Do what is left to do of a row; return what went wrong, if anything."""
    if row.arguments.overwrite or not is_finished(row):
        status = commands.run(training_command(sweep, row, launch))
        if status or commands.signum:
            return f"failed with status {status}"
    if evaluation_result(row) is None:
        status = commands.run([sys.executable, "-m", EVALUATE, *evaluation_words(row)])
        if status:
            return f"could not be scored, status {status}"
    return None


# The table


def row_results(row: Row, problem: str | None = None) -> dict[str, Any]:
    """Return what is known of a row by now, for table.json."""
    result = evaluation_result(row) or {}
    newest = latest_checkpoint(row.folder.checkpoints)
    state = read_state(newest) if newest else {}
    done = "finished" if is_finished(row) else "begun" if newest else "not begun"
    return {
        "row": row.name,
        "changed": row.changed,
        "set": row.changes,
        "state": problem or done,
        "updates": state.get("step", 0),
        "minutes": round(state.get("seconds", 0.0) / 60, 1),
        "parameters": count_parameters(AutoConfig.from_pretrained(newest)) if newest else None,
        "scored": scored_model(row).name if result else None,
        "sentences": result.get("sentences"),
        "perplexity": result.get("perplexity"),
        **{key: value for key, value in result.items() if key.removesuffix("_signature") in signed_metrics()},
        "paper": row.paper,
    }


def write_table(sweep: Sweep, problems: dict[str, str]) -> None:
    """Write table.json and table.md from what the rows have by now."""
    rows = [row_results(row, problems.get(row.name)) for row in sweep.rows]
    content = {"title": sweep.title, "recipe": sweep.recipe, "shared": sweep.shared, "rows": rows}
    atomic_text(sweep.output_dir / "table.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    atomic_text(sweep.output_dir / "table.md", table_text(sweep, rows))


def table_text(sweep: Sweep, rows: list[dict[str, Any]]) -> str:
    """Return the table in Markdown: the rows' own numbers, and the published ones beside them."""
    shown = _shown_metrics(sweep, rows)
    scores = [(_column(spec), spec.name, spec.show_precisely) for spec in [BY_NAME["perplexity"], *shown]]
    columns = [("parameters", "parameters", "{:,}".format), ("updates", "updates", "{:,}".format), *scores]
    columns += [("minutes", "minutes", "{:,.1f}".format)]
    published = [
        (f"paper's {_column(spec)}", name, lambda value, spec=spec: format(value, spec.published))
        for name, spec in BY_NAME.items()
    ]
    published += [("paper's parameters", "parameters", "{} M".format)]
    published = [column for column in published if any(column[1] in row["paper"] for row in rows)]
    lines = [["row", "changed", *(title for title, _, _ in columns), *(title for title, _, _ in published), "state"]]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        own = [show(row[key]) if row.get(key) else "" for _, key, show in columns]
        paper = [show(row["paper"][key]) if key in row["paper"] else "" for _, key, show in published]
        lines.append([row["row"], row["changed"], *own, *paper, row["state"]])
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([f"# {sweep.title}", "", *table, "", *_notes(sweep, rows, shown)]) + "\n"


def _column(spec: MetricSpec) -> str:
    return spec.column or spec.title


def _shown_metrics(sweep: Sweep, rows: list[dict[str, Any]]) -> list[MetricSpec]:
    """Return the metrics that the sweep's evaluation names, or else the usual one, of which any row has a score."""
    asked = sweep.rows[0].evaluation
    names = [*asked.get("metrics", [MAIN_METRICS[TEXT]])]
    names += [name for flag, name in EXTRA_METRICS.items() if asked.get(flag)]
    return [spec for name, spec in signed_metrics().items() if name in names and any(name in row for row in rows)]


def _notes(sweep: Sweep, rows: list[dict[str, Any]], shown: list[MetricSpec]) -> list[str]:
    """Return what the numbers of the table are, as lines."""
    shared = f" with `{shlex.join(sweep.shared)}`" if sweep.shared else ""
    notes = [f"- Recipe of all rows: `{sweep.recipe}`{shared}."]
    scored = dict.fromkeys((row["scored"], row["sentences"]) for row in rows if row["scored"])
    for model, sentences in scored:
        names = [row["row"] for row in rows if (row["scored"], row["sentences"]) == (model, sentences)]
        notes.append(f"- Scored: `{model}` on {sentences:,} sentences{_of(names, rows)}; PPL is per token.")
    for spec in shown:
        key = f"{spec.name}_signature"
        for signature in dict.fromkeys(row[key] for row in rows if key in row):
            names = [row["row"] for row in rows if row.get(key) == signature]
            notes.append(f"- {spec.title}: `{signature}`{_of(names, rows)}")
    return [*notes, *([f"- {' '.join(sweep.note.split())}"] if sweep.note else [])]


def _of(names: list[str], rows: list[dict[str, Any]]) -> str:
    done = [row["row"] for row in rows if row["scored"]]
    return "" if names == done else f" ({', '.join(names)})"


def describe(sweep: Sweep, rows: list[Row], launch: Sequence[str]) -> str:
    """Return what a sweep would do, as text: state, size and command of each row."""
    lines = []
    for row in rows:
        config = make_config(row.arguments)
        known = "vocab_size" in row.arguments.model or row.arguments.tokenizer_vocab_size
        size = (
            f"{count_parameters(config):,} parameters with {config.vocab_size:,} tokens" if known else "size not known"
        )
        state = "scored" if evaluation_result(row) else "finished" if is_finished(row) else "to train"
        lines += [
            f"{row.name}: {row.changed}; {size}; {state}",
            f"    {shlex.join(training_command(sweep, row, launch))}",
        ]
    return "\n".join(lines)
