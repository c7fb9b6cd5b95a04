"""The rows of a sweep: read from its YAML file, checked, and built into the training command's arguments.

`vaswani-tx sweep --help` describes the file.
"""

import dataclasses
import itertools
import json
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForSeq2SeqLM, PreTrainedConfig

from vaswani_tx.suggestions import did_you_mean
from vaswani_tx.training.config.recipe import load_yaml
from vaswani_tx.training.config.shipped import find_shipped, known_files, recipe_beside
from vaswani_tx.training.config.translation import TranslationSettings, parse_arguments
from vaswani_tx.training.engine.run_folder import RunFolder
from vaswani_tx.training.errors import CheckpointError, RunError, SweepError
from vaswani_tx.training.metrics.registry import TEXT, metrics_for, signed_metrics
from vaswani_tx.training.models.architectures import ARCHITECTURES

KEYS = ("title", "recipe", "output_dir", "set", "evaluation", "rows", "grid", "note")
ROW_KEYS, PAPER_KEYS = ("set", "paper"), (*metrics_for(TEXT), "parameters")
EVALUATION_KEYS = (
    "model", "source", "target", "split", "source_field", "target_field", "dataset_config", "limit", "beam",
    "batch_tokens", "bleu_tokenizer", "device", "dtype", "compound_split", "tokenised_lowercase", "target_language",
    "metrics",
)  # fmt: skip
MODELS = ("averaged", "best", "last")


@dataclass(frozen=True)
class Row:
    """One row: its name, the keys that it sets, published numbers, and the training command's arguments."""

    name: str
    changes: dict[str, Any]
    paper: dict[str, float]
    words: list[str]
    arguments: TranslationSettings
    evaluation: dict[str, Any]

    @property
    def folder(self) -> RunFolder:
        return RunFolder(self.arguments.output_dir)

    @property
    def changed(self) -> str:
        """Return what differs from the recipe, a preset's fields in place of its name."""
        shown: dict[str, Any] = {}
        presets = ARCHITECTURES[self.arguments.architecture].presets
        for key, value in self.changes.items():
            shown |= presets[value] if key == "preset" else {key.removeprefix("model."): value}
        return ", ".join(f"{key} {value}" for key, value in shown.items()) or "-"


@dataclass(frozen=True)
class Sweep:
    """A checked sweep file with the flags of a command line."""

    path: Path
    output_dir: Path
    title: str
    recipe: str
    shared: list[str]
    note: str
    rows: list[Row]

    def choose(self, names: list[str] | None) -> list[Row]:
        """Return the rows of those names in the file's order, or all; SweepError for a name that no row has."""
        known = [row.name for row in self.rows]
        for name in names or ():
            if name not in known:
                raise SweepError(f"--only: {self.path} has no row '{name}'{_hint(name, known)}")
        return [row for row in self.rows if not names or row.name in names]


# Reading


def read_sweep(path: str | Path, flags: list[str] | None = None, output_dir: str | None = None) -> Sweep:
    """Read and check a sweep file; `flags` are the training command's for all rows.

    Raises:
        SweepError: an unknown key (with the nearest known one), a value of the wrong type, rows that cannot be trained;
            the message names the file and the row.
    """
    path, flags = find_shipped(path, "sweeps"), list(flags or ())
    values = _read_yaml(path)
    _check_keys(values, KEYS, str(path))
    recipe = recipe_beside(path, str(values["recipe"])) if values.get("recipe") else None
    root = output_dir or values.get("output_dir")
    if not root:
        raise SweepError(f"{path}: output_dir is empty: set it there or with --output-dir.")
    common = _as_words(_changes(values.get("set"), f"{path}, set"))
    head = [*([os.path.relpath(recipe)] if recipe else []), *common]
    evaluation = _evaluation(values.get("evaluation"), f"{path}, evaluation")
    rows = [
        _make_row(path, name, changes, paper, head, flags, Path(root), evaluation)
        for name, changes, paper in _expand(path, values)
    ]
    for row in rows:
        _check_folder(path, row)
    shared = [*common, *flags]
    recipe_name = recipe.name if recipe else "-"
    title, note = (str(values.get(key) or "").strip() for key in ("title", "note"))
    return Sweep(path, Path(root), title or path.stem, recipe_name, shared, note, rows)


def _read_yaml(path: Path) -> dict[str, Any]:
    try:
        values = load_yaml(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SweepError(f"No sweep file at '{path}'; it comes first. {known_files('sweeps', path)}") from None
    except (OSError, UnicodeDecodeError) as error:
        raise SweepError(f"The sweep file '{path}' cannot be read: {error}.") from error
    except yaml.YAMLError as error:
        raise SweepError(f"{path} is not a YAML mapping: {error}") from error
    return _mapping(values, str(path))


def _mapping(value: Any, where: str) -> dict[str, Any]:
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise SweepError(f"{where} must be a mapping of keys to values, got '{value}'.")
    return {str(key): entry for key, entry in value.items()}


def _hint(name: str, known: Any) -> str:
    return did_you_mean(name, known) or f": known are {', '.join(known)}."


def _check_keys(values: dict[str, Any], known: Any, where: str) -> None:
    for name in values:
        if name not in known:
            raise SweepError(f"{where}: unknown key '{name}'{_hint(name, known)}")


def _changes(value: Any, where: str) -> dict[str, Any]:
    """Return keys of the recipe with their values; the fields under `model` each by its dotted name."""
    known = [item.name for item in dataclasses.fields(TranslationSettings)]
    flat: dict[str, Any] = {}
    for key, entry in _mapping(value, where).items():
        base, dot, _ = key.partition(".")
        if base not in known or (dot and base != "model"):
            raise SweepError(f"{where}: unknown key '{key}'{did_you_mean(base, known) or ': see the training --help.'}")
        if key == "output_dir":
            raise SweepError(f"{where}: output_dir is made from the row's name: leave it out.")
        fields = key == "model" and isinstance(entry, dict)
        flat |= {f"model.{name}": field for name, field in entry.items()} if fields else {key: entry}
    return flat


def _as_words(changes: dict[str, Any]) -> list[str]:
    """Return `--key=value` for each change, as the training command reads them."""
    return [
        f"--{key.replace('_', '-') if '.' not in key else key}={flag_text(key, value)}"
        for key, value in changes.items()
    ]


def flag_text(key: str, value: Any) -> str:
    """Return `value` as a flag of the training command spells it: texts to the letter, but for fields of the model."""
    if isinstance(value, str) and not key.startswith("model."):
        return "'null'" if value == "null" else value
    if isinstance(value, str) and re.fullmatch(r"[\w./+-]+", value) and yaml.safe_load(value) == value:
        return value
    return json.dumps(value, ensure_ascii=False)


def _evaluation(value: Any, where: str) -> dict[str, Any]:
    values = _mapping(value, where)
    _check_keys(values, EVALUATION_KEYS, where)
    if values.setdefault("model", "averaged") not in MODELS:
        raise SweepError(f"{where}: model must be one of {', '.join(MODELS)}, got '{values['model']}'.")
    for name in ("limit", "beam", "batch_tokens"):
        value = values.get(name)
        if value is not None and (not isinstance(value, int) or isinstance(value, bool) or value < 1):
            raise SweepError(f"{where}: {name} must be a whole number greater than 0, got '{value}'.")
    for name in ("compound_split", "tokenised_lowercase"):
        if not isinstance(values.get(name, False), bool):
            raise SweepError(f"{where}: {name} must be true or false, got '{values[name]}'.")
    names = values.get("metrics")
    if names is not None and not (isinstance(names, list) and names):
        raise SweepError(f"{where}: metrics must be a list of names, such as [bleu, chrf], got '{names}'.")
    for name in names or ():
        if name not in signed_metrics():
            raise SweepError(f"{where}: unknown metric '{name}'{_hint(str(name), signed_metrics())}")
    return values


def _expand(path: Path, values: dict[str, Any]) -> list[tuple[str, dict[str, Any], dict[str, float]]]:
    """Return name, changes and published numbers of each row, multiplied by the grid."""
    base = []
    for name, value in _mapping(values.get("rows"), f"{path}, rows").items():
        where = f"{path}, row {name}"
        row = _mapping(value, where)
        _check_keys(row, ROW_KEYS, where)
        paper = _mapping(row.get("paper"), f"{where}, paper")
        _check_keys(paper, PAPER_KEYS, f"{where}, paper")
        for key, number in paper.items():
            if not isinstance(number, (int, float)) or isinstance(number, bool):
                raise SweepError(f"{where}, paper: {key} must be a number, got '{number}'.")
        base.append((name, _changes(row.get("set"), where), paper))
    grid = _mapping(values.get("grid"), f"{path}, grid")
    for key, entries in grid.items():
        if not isinstance(entries, list) or not entries or any(isinstance(entry, dict) for entry in entries):
            raise SweepError(f"{path}, grid: {key} must be a list of values, got '{entries}'.")
    _changes(dict.fromkeys(grid), f"{path}, grid")
    if grid:
        points = [dict(zip(grid, point, strict=True)) for point in itertools.product(*grid.values())]
        base = [
            (",".join(filter(None, (name, *map(_point_name, point.items())))), changes | point, paper)
            for name, changes, paper in base or [("", {}, {})]
            for point in points
        ]
    if not base:
        raise SweepError(f"{path} has no rows: give rows, a grid, or both.")
    names = [name for name, _, _ in base]
    for name in names:
        if not re.fullmatch(r"[\w=+-][\w.,=+-]*", name) or names.count(name) > 1:
            raise SweepError(f"{path}, row '{name}': its folder needs a name of its own of letters, digits and _.,=+-")
    return base


def _point_name(item: tuple[str, Any]) -> str:
    key, value = item
    return f"{key.removeprefix('model.')}={re.sub(r'[^-+.A-Za-z0-9_]+', '_', str(value))}"


def _make_row(
    path: Path,
    name: str,
    changes: dict[str, Any],
    paper: dict[str, float],
    head: list[str],
    flags: list[str],
    root: Path,
    evaluation: dict[str, Any],
) -> Row:
    """Build the row's arguments; where they cannot be built, once more without the flags, to tell whose fault it is."""
    own = [*head, *_as_words(changes)]
    words = [*own, *flags, f"--output-dir={root / name}"]
    where = f"{path}, row {name}"
    try:
        arguments = _build(words)
        arguments.check_for_training()
    except ValueError as error:
        try:
            _build(own)
        except ValueError as fault:
            raise SweepError(f"{where}: {fault}") from error
        raise SweepError(f"{where}{', with the flags given' if flags else ''}: {error}") from error
    row = Row(name, changes, paper, words, arguments, evaluation)
    if not (evaluation.get("source") or arguments.validation_source):
        raise SweepError(f"{where} has no development set: set validation_source, or source under evaluation.")
    for key in changes:
        if flags and _value(parse_arguments(own), key) != _value(arguments, key):
            print(f"warning: row {name}: a flag replaces its {key}.", file=sys.stderr)
    return row


def _build(words: list[str]) -> TranslationSettings:
    arguments = parse_arguments(words)
    make_config(arguments)
    return arguments


def _value(arguments: TranslationSettings, key: str) -> Any:
    base, _, field = key.partition(".")
    return arguments.model.get(field) if field else getattr(arguments, base)


def _check_folder(path: Path, row: Row) -> None:
    """Raise SweepError for a folder of another run now, not when its turn comes after days."""
    arguments = row.arguments
    if is_finished(row):
        done = json.loads(row.folder.finished.read_text(encoding="utf-8"))
        arguments = dataclasses.replace(arguments, **{done["reason"]: None})
    try:
        row.folder.resume_point(arguments)
    except (RunError, CheckpointError) as error:
        raise SweepError(f"{path}, row {row.name}: {error}") from error


def make_config(arguments: TranslationSettings) -> PreTrainedConfig:
    """Return the configuration of the model that a recipe would train, with the vocabularies that it asks for."""
    sizes = {"vocab_size": arguments.tokenizer_vocab_size, "source_vocab_size": arguments.source_vocab_size}
    fields = {name: size for name, size in sizes.items() if size}
    kind = ARCHITECTURES[arguments.architecture]
    return kind.config_class.from_preset(arguments.preset, **(fields | arguments.model_fields))


def count_parameters(config: PreTrainedConfig) -> int:
    """Count the weights exactly, tied ones once; no memory is taken."""
    with torch.device("meta"):
        model = AutoModelForSeq2SeqLM.from_config(config)
    return sum(parameter.numel() for parameter in model.parameters())


def is_finished(row: Row) -> bool:
    """Return whether the run has reached the limit that the row asks for."""
    if not row.folder.finished.exists():
        return False
    done = json.loads(row.folder.finished.read_text(encoding="utf-8"))
    limit = getattr(row.arguments, done["reason"])
    return limit is None or limit <= done[done["reason"]]
