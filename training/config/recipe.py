"""How a recipe, a YAML file, and flags become one checked settings object, whatever the command.

A recipe is a flat YAML mapping whose keys are the fields of a dataclass. Flags override it: `--max-steps 9` and
`--max_steps 9` are the same, `--compile` and `--no-compile` switch, `--max-steps null` empties a key, and
`--model.dropout 0.3` sets one entry of the `model` mapping. A flag of a key that holds text is taken to the letter:
`--output-dir "runs/exp #2"`, `--target-field no`, `--dataset-config 2024_01` are what they say.

A key may have a second name, for recipes and flags alike; a resolved recipe has the first.
"""

import dataclasses
import datetime
import functools
import math
import os
import sys
import types
import typing
from dataclasses import field
from typing import Any, Literal

import yaml

from vaswani_tx.limits import Bounds, shown
from vaswani_tx.suggestions import nearest_name
from vaswani_tx.training.config.shipped import find_shipped, known_files
from vaswani_tx.training.errors import SettingsError


def key(
    default: Any,
    help: str,
    choices: typing.Iterable[str] | None = None,
    bounds: Bounds | None = None,
    also: str | None = None,
) -> Any:
    """Return a key of a recipe as a field of a dataclass.

    Args:
        default: its value where neither a recipe nor a flag sets it; of a list, each object gets its own copy.
        help: its line in `--help` and its comment in a resolved recipe.
        choices: the names that it may have, or of a list its entries.
        bounds: the numbers that it may be, where the usual ones are too wide.
        also: its second name.
    """
    metadata: dict[str, Any] = {"help": help} | ({} if choices is None else {"choices": tuple(choices)})
    if bounds is not None:
        metadata["bounds"] = bounds
    if also is not None:
        metadata["also"] = also
    if isinstance(default, list):
        return field(default_factory=lambda: list(default), metadata=metadata)
    return field(default=default, metadata=metadata)


def parse(argv: list[str] | None, settings_class: type) -> Any:
    """Return the settings from a command line: at most one recipe file, then flags that override it.

    Raises:
        SettingsError: unknown key or flag (with the nearest known one), a value of the wrong type, no such recipe.
    """
    argv = list(sys.argv[1:] if argv is None else argv)
    recipe, flags = _split(argv, settings_class)
    values = read_recipe(recipe, settings_class) if recipe else {}
    model = dict(values.get("model") or {})
    for name, text, origin in flags:
        if name.startswith("model."):
            model[name.removeprefix("model.")] = _yaml_value(text, origin)
        elif name == "model":
            model = _coerce(settings_class, "model", _yaml_value(text, origin), origin)
        else:
            values[name] = _coerce(settings_class, name, _flag_value(settings_class, name, text, origin), origin)
    if model:
        values["model"] = model
    return settings_class(**values)


def read_recipe(path: str | os.PathLike, settings_class: type) -> dict[str, Any]:
    """Return the checked keys of one YAML recipe for a dataclass of keys; raise SettingsError naming file and key.

    Args:
        path: a file, or the name of a ready-made recipe, such as `multi30k_en_de`.
    """
    try:
        path = find_shipped(path, "recipes")
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise SettingsError(f"No recipe at '{path}'. {known_files('recipes', path)}") from None
    except (OSError, ValueError) as error:  # no UTF-8, or no name of a file
        raise SettingsError(f"The recipe {shown(str(path))} cannot be read: {error}.") from error
    try:
        values = load_yaml(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{path} is not a YAML mapping: {' '.join(str(error).split())}") from error
    if values is None:
        return {}
    if not isinstance(values, dict):
        raise SettingsError(f"{path} must be a mapping of keys to values, got a {type(values).__name__}.")
    for name in values:
        check_known(str(name), _names(settings_class), f"{path}: unknown key {_quoted(name)}")
    values = _with_first_names(values, settings_class, str(path))
    return {name: _coerce(settings_class, name, value, str(path)) for name, value in values.items()}


def usage(settings_class: type) -> str:
    """Return one line for each key of a settings class: flag, meaning, choices and default."""
    lines = []
    for item in dataclasses.fields(settings_class):
        default = item.default if item.default is not dataclasses.MISSING else item.default_factory()
        choices = item.metadata.get("choices")
        one_of = f"; one of {', '.join(choices)}" if choices else ""
        lines.append(f"  {_flag(item.name):28}{item.metadata['help']} (default: {default!r}{one_of})")
    return "\n".join(lines)


class UniqueKeyLoader(yaml.SafeLoader):
    """A safe loader that refuses a key given twice, where YAML would silently keep the last."""

    def construct_mapping(self, node, deep=False):
        seen = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=deep)
            if isinstance(key, (list, dict, set)):
                raise yaml.YAMLError(f"a key cannot be a list or mapping (line {key_node.start_mark.line + 1}).")
            if key in seen:
                raise yaml.YAMLError(f"key '{key}' is given twice (line {key_node.start_mark.line + 1}).")
            seen.add(key)
        return super().construct_mapping(node, deep)


def load_yaml(text: str) -> Any:
    """Return what YAML makes of a text; raise yaml.YAMLError for whatever it cannot read."""
    try:
        return yaml.load(text, Loader=UniqueKeyLoader)
    except RecursionError:
        raise yaml.YAMLError("it is nested too deeply.") from None
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError) as error:
        # A tag that its value does not suit, a date that does not exist, a number of thousands of digits.
        raise yaml.YAMLError(f"a value is not what it is written as ({error}).") from error


@functools.cache
def _types(settings_class: type) -> dict[str, Any]:
    hints = typing.get_type_hints(settings_class)
    return {item.name: hints[item.name] for item in dataclasses.fields(settings_class)}


@functools.cache
def _names(settings_class: type) -> dict[str, str]:
    """Return key by name: each key's own name and its second one."""
    items = dataclasses.fields(settings_class)
    second = {item.metadata["also"]: item.name for item in items if "also" in item.metadata}
    return {item.name: item.name for item in items} | second


def _with_first_names(values: dict[str, Any], settings_class: type, origin: str) -> dict[str, Any]:
    names, found = _names(settings_class), {}
    for name, value in values.items():
        if names[name] in found:
            both = " and ".join(other for other in values if names[other] == names[name])
            raise SettingsError(f"{origin}: {both} are one key: give it once.")
        found[names[name]] = value
    return found


def _split(argv: list[str], settings_class: type) -> tuple[str | None, list[tuple[str, str, str]]]:
    """Return the recipe's path and the flags as (key, text, flag as typed)."""
    recipe, flags = None, []
    position = 0
    while position < len(argv):
        word = argv[position]
        position += 1
        if not word.startswith("--"):
            if recipe is not None:
                raise SettingsError(f"'{word}' is a second recipe beside '{recipe}': give one file, then --flags.")
            recipe = word
            continue
        flag, equals, text = word.partition("=")
        name = flag[2:].replace("-", "_")
        if name == "recipe":
            recipe, position = (text, position) if equals else (_value(argv, position, flag), position + 1)
            continue
        name, text_of_switch = _switch(name, settings_class)
        check_known(name.partition(".")[0], _names(settings_class), f"Unknown flag '{flag}'", as_flag=True)
        name = _names(settings_class).get(name, name)
        if "." in name and not name.startswith("model."):
            raise SettingsError(f"Unknown flag '{flag}': only --model.FIELD has a dot.")
        if equals:
            pass
        elif text_of_switch is not None:
            text = text_of_switch
        elif _types(settings_class).get(name) is bool and not (position < len(argv) and _is_boolean(argv[position])):
            text = "true"
        else:
            text, position = _value(argv, position, flag), position + 1
        flags.append((name, text, flag))
    return recipe, flags


def _switch(name: str, settings_class: type) -> tuple[str, str | None]:
    positive = name.removeprefix("no_")
    if positive != name and _types(settings_class).get(positive) is bool:
        return positive, "false"
    return name, None


def _value(argv: list[str], position: int, flag: str) -> str:
    if position >= len(argv) or argv[position].startswith("--"):
        raise SettingsError(f"{flag} needs a value.")
    return argv[position]


def _is_boolean(word: str) -> bool:
    return word.lower() in ("true", "false", "yes", "no")


def _yaml_value(text: str, origin: str) -> Any:
    try:
        return load_yaml(text)
    except yaml.YAMLError as error:
        raise SettingsError(f"{origin}: {_quoted(text)} cannot be read: {' '.join(str(error).split())}") from error


def _flag_value(settings_class: type, name: str, text: str, origin: str) -> Any:
    """Return what a flag gives: of a key that holds text the words to the letter, else what YAML makes of them.

    `null` empties a key; the text itself is `'null'`. A list of texts is split at commas, or written as `[a, b]`.
    """
    found = _value_type(_types(settings_class)[name])
    is_list = found == list[str]
    if not (found is str or is_list or typing.get_origin(found) is Literal):
        return _yaml_value(text, origin)
    if text == "null" or (text == "" and type(None) in typing.get_args(_types(settings_class)[name])):
        return None
    if text in ("'null'", '"null"'):
        text = "null"
    if is_list and text.startswith("[") and text.endswith("]"):
        return _yaml_value(text, origin)
    return text


def _value_type(hint: Any) -> Any:
    """Return the type of a key's value where there is one, `str` of `str | None`."""
    options = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    return next(option for option in options if option is not type(None))


def check_text(name: str, value: Any, origin: str) -> str:
    """Return a text; raise SettingsError where YAML made something else of it, whose spelling is lost."""
    if isinstance(value, str):
        return value
    if isinstance(value, (bool, int, float, datetime.date)):
        what = {bool: "true or false", int: "a number", float: "a number"}.get(type(value), "a date")
        raise SettingsError(
            f"{origin}: {name} holds text, which YAML read as {what} here ({_quoted(value)[1:-1]}): quote it, "
            f"such as '{name}: \"...\"'."
        )
    raise SettingsError(f"{origin}: {name} must be text, got {_quoted(value)}.")


def _coerce(settings_class: type, name: str, value: Any, origin: str) -> Any:
    """Return `value` as the type of field `name`; a rate may be 1e-9 or 3, text and a whole number to YAML."""
    declared = _types(settings_class)[name]
    options = typing.get_args(declared) if isinstance(declared, types.UnionType) else (declared,)
    if value is None:
        if type(None) in options:
            return None
        if typing.get_origin(declared) is dict:
            return {}
        raise SettingsError(f"{origin}: {name} must not be empty.")
    expected = _value_type(declared)
    if expected == list[str]:
        entries = value.split(",") if isinstance(value, str) else value
        if not isinstance(entries, list):
            raise SettingsError(f"{origin}: {name} must be a list of names, got {_quoted(value)}.")
        return [_chosen(settings_class, name, check_text(name, entry, origin).strip(), origin) for entry in entries]
    if typing.get_origin(expected) is list:
        if not isinstance(value, list) or not all(isinstance(entry, dict) for entry in value):
            raise SettingsError(f"{origin}: {name} must be a list of mappings, got {_quoted(value)}.")
        return [{str(key): entry for key, entry in item.items()} for item in value]
    if typing.get_origin(expected) is Literal:
        choices = typing.get_args(expected)
        text = "none" if value is False else str(value)
        if text not in choices:
            raise SettingsError(f"{origin}: {name} must be one of {', '.join(choices)}, got {_quoted(value)}.")
        return text
    if typing.get_origin(expected) is dict:
        if not isinstance(value, dict):
            raise SettingsError(f"{origin}: {name} must be a mapping of fields to values, got {_quoted(value)}.")
        return {str(key): _number(entry) for key, entry in value.items()}
    if expected is str:
        return _chosen(settings_class, name, check_text(name, value, origin), origin)
    converted = _scalar(expected, value)
    if converted is None:
        what = {int: "a whole number", float: "a number", bool: "true or false"}[expected]
        raise SettingsError(f"{origin}: {name} must be {what}, got {_quoted(value)}.")
    return converted


def _chosen(settings_class: type, name: str, text: str, origin: str) -> str:
    """Return a text that a key may have; raise SettingsError, naming its choices, where it is none of them."""
    choices = settings_class.__dataclass_fields__[name].metadata.get("choices")
    if choices and text not in choices:
        raise SettingsError(f"{origin}: {name} must be one of {', '.join(choices)}, got {_quoted(text)}.")
    return text


def _scalar(expected: type, value: Any) -> Any:
    if expected is bool:
        return value if isinstance(value, bool) else None
    if isinstance(value, bool):
        return None
    if expected is int and isinstance(value, int):
        return value
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        return None
    if expected is int:
        return int(number) if number.is_integer() else None
    return number if math.isfinite(number) else None


def _quoted(value: Any) -> str:
    """Return a value in quotes, for a message; not more of it than fits a line."""
    text = " ".join(value.split()) if isinstance(value, str) else shown(value)
    return f"'{text if len(text) <= 60 else text[:60] + '...'}'"


def _number(value: Any) -> Any:
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def check_known(name: str, known: typing.Iterable[str], message: str, as_flag: bool = False) -> None:
    """Raise SettingsError with the nearest of the known names where `name` is none of them."""
    if name in known:
        return
    nearest = nearest_name(name, known, cutoff=0.5)
    if nearest is None:
        raise SettingsError(f"{message}: --help lists all.")
    raise SettingsError(f"{message}: did you mean '{_flag(nearest) if as_flag else nearest}'?")


def _flag(name: str) -> str:
    return "--" + name.replace("_", "-")
