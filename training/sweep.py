"""Trains the rows of a table one after another, scores each on the development set, and writes the table.

    python -m vaswani_tx.training.sweep training/sweeps/table3.yaml --output-dir runs/table3 --dry-run
    python -m vaswani_tx.training.sweep training/sweeps/table3.yaml --output-dir runs/table3 --only base A1 --max-steps 5000

The file comes first; every further flag is one of the training command's, for all rows, and goes before what they set.
A row trains into OUTPUT_DIR/ROW, with `--launch training/accelerate_configs/ddp.yaml` (or more of accelerate's own flags:
`--launch "training/accelerate_configs/ddp.yaml --num_processes 2"`) through `accelerate launch`. OUTPUT_DIR/table.md and
table.json are rewritten after each row. The same command goes on where it stopped: finished rows are skipped, a stopped
one resumes. A row that fails is reported and the next one started; the exit status is then 1. SIGTERM and Ctrl-C let
the run at hand save first; the exit status is then 128 plus the signal's number. A file or flag that cannot be used
ends with status 2 before anything starts.

A sweep file is a YAML mapping:

    title: what the table is called          # all keys but rows or grid may be left out
    recipe: ../recipes/multi30k_en_de.yaml   # beside this file; base of all rows
    set: {max_steps: 1000}                   # keys of the recipe for all rows
    evaluation: {model: averaged}            # or best, last; source, target, split, beam, ... in place of validation's
    rows:
      narrow:
        set: {model.d_ff: 128}               # keys of the recipe for this row; model.FIELD is one field of the model
        paper: {perplexity: 5, bleu: 25, parameters: 36}   # put beside the row's own; parameters in millions
      wide:
        set: {model.d_ff: 512}
    grid: {seed: [1, 2]}                     # every row with every combination: narrow,seed=1 narrow,seed=2 ...
    note: text below the table
"""

import argparse
import contextlib
import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psutil

from vaswani_tx.training import evaluate_translation
from vaswani_tx.training.errors import CheckpointError, SweepError
from vaswani_tx.training.files import atomic_text

if TYPE_CHECKING:
    from vaswani_tx.training.experiments.sweep_rows import Row, Sweep


TRAIN, EVALUATE = "vaswani_tx.training.train_translation", "vaswani_tx.training.evaluate_translation"
LAUNCHER = "accelerate.commands.launch"
ROOT = Path(__file__).parent.parent
BLEU_COLUMNS = {
    "bleu": "BLEU",
    "bleu_compound_split": "BLEU, compounds split",
    "bleu_tokenised_lowercase": "BLEU, tokenised lowercase",
}
PAPER_COLUMNS = {
    "perplexity": ("paper's PPL", "{:.2f}"),
    "bleu": ("paper's BLEU", "{}"),
    "parameters": ("paper's parameters", "{} M"),
}
# What a tokenizer is made from: rows that agree in these share the one of the first of them.
TOKENIZER_KEYS = (
    "data_dir", "train_source", "train_target", "train_split", "dataset_config", "corpora", "source_field",
    "target_field", "empty_lines", "drop_duplicates", "drop_copies", "tokenizer_vocab_size",
)  # fmt: skip


# State


def scored_model(row: "Row") -> Path:
    """The model folder that the table scores; where there is no average, the last checkpoint."""
    from vaswani_tx.training.engine.checkpoints import latest_checkpoint

    folder = row.folder
    chosen = {"averaged": folder.averaged, "best": folder.best}.get(row.evaluation["model"])
    return chosen if chosen and chosen.is_dir() else latest_checkpoint(folder.checkpoints) or folder.checkpoints


def evaluation_words(row: "Row") -> list[str]:
    """The evaluation command's arguments: the row's own development set and beam unless the sweep names others."""
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
    words = [f"--{key}" if value is True else f"--{key}={value}" for key, value in given.items()]
    files = [f"--json={row.folder.path / 'evaluation.json'}", f"--output={row.folder.path / 'hypotheses.txt'}"]
    return [f"--model={scored_model(row)}", *words, "--perplexity", *files]


def evaluation_result(row: "Row") -> dict[str, Any] | None:
    """The scores of the row's model as the sweep asks for them, or None if there are none of it yet."""
    from vaswani_tx.training.experiments.sweep_rows import is_finished

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


def shared_tokenizer(sweep: "Sweep", row: "Row") -> list[str]:
    """`--tokenizer` of the first row with the same text, so that it is trained once and the rows can be compared."""
    from vaswani_tx.training.experiments.sweep_rows import flag_text

    arguments = row.arguments
    if arguments.tokenizer or arguments.init_from:
        return []
    for other in itertools.takewhile(lambda other: other is not row, sweep.rows):
        same = all(getattr(other.arguments, key) == getattr(arguments, key) for key in TOKENIZER_KEYS)
        if same and (other.folder.tokenizer / "tokenizer.json").is_file():
            return [f"--tokenizer={flag_text(str(other.folder.tokenizer))}"]
    return []


# Running


class Commands:
    """Runs one command at a time, and hands SIGTERM and SIGINT on to it once, so that a training run saves first.

    A command gets a session of its own: Ctrl-C on the terminal would else reach it twice, which ends it at once.
    """

    SIGNALS = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM, signal.SIGHUP: signal.SIGTERM}

    def __init__(self):
        self.signum = 0
        self.process: subprocess.Popen | None = None
        self._handed_on = False
        self._former: dict[int, Any] = {}

    def __enter__(self):
        for signum in self.SIGNALS:
            # Under nohup a closed terminal is to be ignored.
            if signal.getsignal(signum) != signal.SIG_IGN:
                self._former[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_):
        for signum, former in self._former.items():
            signal.signal(signum, former)

    def run(self, words: list[str]) -> int:
        """The exit status of a command; 128 plus the number of the signal that ended it, or that came before it."""
        if self.signum:
            return 128 + self.signum
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._handed_on = False
        self.process = subprocess.Popen(words, env=os.environ | {"PYTHONPATH": path}, start_new_session=True)
        if self.signum and not self._handed_on:
            self._hand_on()
        status = self.process.wait()
        self.process = None
        return status if status >= 0 else 128 - status

    def _handle(self, signum, frame):
        self.signum = signum
        if self.process is not None:
            self._hand_on()

    def _hand_on(self) -> None:
        self._handed_on = True
        # accelerate's launcher would leave its processes behind, or kill them after 30 seconds: they are told, not it.
        pids = _trainers(self.process.pid) if LAUNCHER in self.process.args else []
        for pid in pids or [self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, self.SIGNALS[self.signum])


def _trainers(launcher: int) -> list[int]:
    """The training processes that accelerate's launcher has started by now."""
    try:
        return [child.pid for child in psutil.Process(launcher).children() if TRAIN in child.cmdline()]
    except psutil.Error:
        return []


def training_command(sweep: "Sweep", row: "Row", launch: str | None) -> list[str]:
    """The command line that trains a row."""
    launcher: list[str] = []
    if launch is not None:
        words = shlex.split(launch)
        config = words[:1] if words and not words[0].startswith("-") else []
        named = ["--config_file", *config] if config else []
        launcher = ["-m", LAUNCHER, *named, *words[len(config) :]]
    return [sys.executable, *launcher, "-m", TRAIN, *row.words, *shared_tokenizer(sweep, row)]


def run_sweep(sweep: "Sweep", rows: "list[Row]", launch: str | None = None) -> int:
    """Trains and scores the rows in order; returns the command's exit status."""
    problems: dict[str, str] = {}
    with Commands() as commands:
        for number, row in enumerate(rows, start=1):
            say(f"row {row.name} ({number} of {len(rows)}): {row.changed}")
            problem = _run_row(commands, sweep, row, launch)
            if commands.signum:
                name = signal.Signals(commands.signum).name
                say(f"sweep stopped by {name} in row {row.name}; the same command goes on from there.")
                write_table(sweep, problems)
                return 128 + commands.signum
            if problem:
                problems[row.name] = problem
                say(f"row {row.name} {problem}; going on with the next row.")
            write_table(sweep, problems)
    say(f"results: {sweep.output_dir / 'table.md'}")
    if problems:
        say("not done: " + "; ".join(f"{name} {problem}" for name, problem in problems.items()))
    return 1 if problems else 0


def _run_row(commands: Commands, sweep: "Sweep", row: "Row", launch: str | None) -> str | None:
    """Does what is left to do of a row; returns what went wrong, if anything."""
    from vaswani_tx.training.experiments.sweep_rows import is_finished

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


def row_results(row: "Row", problem: str | None = None) -> dict[str, Any]:
    """What is known of a row by now, for table.json."""
    from transformers import AutoConfig

    from vaswani_tx.training.engine.checkpoints import latest_checkpoint, read_state
    from vaswani_tx.training.experiments.sweep_rows import count_parameters, is_finished

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
        **{key: value for key, value in result.items() if key.startswith(("bleu", "chrf"))},
        "paper": row.paper,
    }


def write_table(sweep: "Sweep", problems: dict[str, str]) -> None:
    """Writes table.json and table.md as the rows stand."""
    rows = [row_results(row, problems.get(row.name)) for row in sweep.rows]
    content = {"title": sweep.title, "recipe": sweep.recipe, "shared": sweep.shared, "rows": rows}
    atomic_text(sweep.output_dir / "table.json", json.dumps(content, indent=1, ensure_ascii=False) + "\n")
    atomic_text(sweep.output_dir / "table.md", table_text(sweep, rows))


def table_text(sweep: "Sweep", rows: list[dict[str, Any]]) -> str:
    """The table in Markdown: the rows' own numbers, and the published ones beside them."""
    columns = [("parameters", "parameters", ","), ("updates", "updates", ","), ("PPL", "perplexity", ".3f")]
    scores = {key: name for key, name in BLEU_COLUMNS.items() if any(key in row for row in rows)}
    columns += [(name, key, ".2f") for key, name in scores.items()] + [("minutes", "minutes", ",.1f")]
    published = [key for key in PAPER_COLUMNS if any(key in row["paper"] for row in rows)]
    lines = [
        ["row", "changed", *(name for name, _, _ in columns), *(PAPER_COLUMNS[key][0] for key in published), "state"]
    ]
    lines.append(["---"] * len(lines[0]))
    for row in rows:
        own = [format(row[key], form) if row.get(key) else "" for _, key, form in columns]
        paper = [PAPER_COLUMNS[key][1].format(row["paper"][key]) if key in row["paper"] else "" for key in published]
        lines.append([row["row"], row["changed"], *own, *paper, row["state"]])
    table = ["| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines]
    return "\n".join([f"# {sweep.title}", "", *table, "", *_notes(sweep, rows, scores)]) + "\n"


def _notes(sweep: "Sweep", rows: list[dict[str, Any]], scores: dict[str, str]) -> list[str]:
    """What the numbers of the table are."""
    shared = f" with `{shlex.join(sweep.shared)}`" if sweep.shared else ""
    notes = [f"- Recipe of all rows: `{sweep.recipe}`{shared}."]
    scored = dict.fromkeys((row["scored"], row["sentences"]) for row in rows if row["scored"])
    for model, sentences in scored:
        names = [row["row"] for row in rows if (row["scored"], row["sentences"]) == (model, sentences)]
        notes.append(f"- Scored: `{model}` on {sentences:,} sentences{_of(names, rows)}; PPL is per token.")
    for key, name in scores.items():
        signatures = dict.fromkeys(row[f"{key}_signature"] for row in rows if f"{key}_signature" in row)
        for signature in signatures:
            names = [row["row"] for row in rows if row.get(f"{key}_signature") == signature]
            notes.append(f"- {name}: `{signature}`{_of(names, rows)}")
    return [*notes, *([f"- {' '.join(sweep.note.split())}"] if sweep.note else [])]


def _of(names: list[str], rows: list[dict[str, Any]]) -> str:
    done = [row["row"] for row in rows if row["scored"]]
    return "" if names == done else f" ({', '.join(names)})"


# The command


def describe(sweep: "Sweep", rows: "list[Row]", launch: str | None) -> str:
    """What a sweep would do: state, size and command of each row."""
    from vaswani_tx.training.experiments.sweep_rows import count_parameters, is_finished, make_config

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


def say(text: str) -> None:
    """Tells the user."""
    print(text, file=sys.stderr, flush=True)


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    usage = "%(prog)s FILE [--output-dir DIR] [--only ROW ...] [--dry-run] [--launch CONFIG] [--KEY VALUE ...]"
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(
        prog="python -m vaswani_tx.training.sweep",
        description=__doc__,
        formatter_class=form,
        usage=usage,
        allow_abbrev=False,
    )
    parser.add_argument("file", help="sweep file")
    parser.add_argument("--output-dir", "--output_dir", metavar="DIR", help="place of the table and of the rows' runs")
    parser.add_argument("--only", nargs="+", metavar="ROW", help="only these rows; the table shows all")
    parser.add_argument("--dry-run", action="store_true", help="check everything, print the commands, start nothing")
    parser.add_argument("--launch", metavar="CONFIG", help="train through accelerate launch with this configuration")
    options, flags = parser.parse_known_args(argv)
    from vaswani_tx.training.experiments.sweep_rows import read_sweep

    try:
        sweep = read_sweep(options.file, flags, options.output_dir)
        rows = sweep.choose(options.only)
        if options.dry_run:
            print(describe(sweep, rows, options.launch))
            return 0
        write_table(sweep, {})
        return run_sweep(sweep, rows, options.launch)
    except (SweepError, CheckpointError) as error:
        say(f"error: {error}")
        return 2 if isinstance(error, SweepError) else 1


if __name__ == "__main__":
    sys.exit(main())
