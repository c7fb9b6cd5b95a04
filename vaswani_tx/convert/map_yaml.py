"""YAML of key maps as plain values that remember their lines, so that every message can name one.

map.yaml -> compose -> Place(file, line, keys) for each value
"""

from collections.abc import Hashable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from vaswani_tx.convert.core import ConversionError
from vaswani_tx.suggestions import did_you_mean

_LARGEST_MAP = 1 << 20  # bytes; a map is written by hand
_DEEPEST = 20


@dataclass(frozen=True)
class Place:
    """The place of a value in a map: file, line, and the keys that lead to it."""

    file: Path
    line: int
    keys: tuple[str, ...] = ()

    def error(self, message: str) -> ConversionError:
        """Return an error that names the place."""
        keys = f", {' > '.join(self.keys)}" if self.keys else ""
        return ConversionError(f"{self.file}, line {self.line}{keys}: {message}")


@dataclass(frozen=True)
class Value:
    """A value of a map: a scalar, a list of values, or a mapping of names to values, with its place."""

    content: Any
    place: Place

    def error(self, message: str) -> ConversionError:
        """Return an error that names the value's place."""
        return self.place.error(message)

    def plain(self) -> Any:
        """Return the value without places."""
        if isinstance(self.content, dict):
            return {name: value.plain() for name, value in self.content.items()}
        if isinstance(self.content, list):
            return [value.plain() for value in self.content]
        return self.content

    def mapping(self, known: Iterable[str] | None = None) -> dict[str, "Value"]:
        """Return a mapping's entries.

        Args:
            known: the keys that there may be; None: any.

        Raises:
            ConversionError: it is no mapping, or has another key.
        """
        if not isinstance(self.content, dict):
            raise self.error(f"must be a mapping (`key: value` lines), not {shown(self.content)}.")
        names = None if known is None else sorted(known)
        for name, value in self.content.items():
            if names is not None and name not in names:
                raise value.error(f"unknown key {name!r}{did_you_mean(name, names) or '.'} Known: {', '.join(names)}.")
        return self.content

    def text(self) -> str:
        """Return a text; raise ConversionError where it is none."""
        if not isinstance(self.content, str) or not self.content:
            raise self.error(f"must be a text, not {shown(self.content)}.")
        return self.content

    def texts(self) -> list[str]:
        """Return the texts of a list, or a single one as a list of one."""
        return [value.text() for value in self.content] if isinstance(self.content, list) else [self.text()]

    def flag(self) -> bool:
        """Return true or false; raise ConversionError where it is neither."""
        if not isinstance(self.content, bool):
            raise self.error(f"must be true or false, not {shown(self.content)}.")
        return self.content

    def integer(self, least: int = 0) -> int:
        """Return a whole number of at least `least`; raise ConversionError where it is none."""
        if type(self.content) is not int or self.content < least:
            raise self.error(f"must be a whole number from {least} on, not {shown(self.content)}.")
        return self.content

    def number(self) -> float:
        """Return a number, also where YAML reads it as text (`1e-5`); raise ConversionError where it is none."""
        found = as_number(self.content)
        if not isinstance(found, (int, float)) or isinstance(found, bool) or found != found:
            raise self.error(f"must be a number, not {shown(self.content)}.")
        return found

    def one_of(self, choices: Iterable[str]) -> str:
        """Return one of some words; raise ConversionError where it is none of them."""
        choices = list(choices)
        if self.content not in choices:
            hint = did_you_mean(str(self.content), choices) or "."
            raise self.error(f"must be {' or '.join(map(repr, choices))}, not {shown(self.content)}{hint}")
        return self.content


def as_number(content: Any) -> Any:
    """Return a number for text that is one but for YAML 1.1 (`1e-5`); anything else as it is."""
    if isinstance(content, str):
        try:
            return float(content)
        except ValueError:
            return content
    return content


def shown(content: Any) -> str:
    """Return a short form of a value for a message."""
    if isinstance(content, dict):
        return "a mapping"
    if isinstance(content, list):
        return "a list"
    return "nothing" if content is None else repr(content) if len(repr(content)) < 60 else repr(content)[:56] + "..."


def read_yaml(path: Path) -> Value:
    """Read a map.

    Raises:
        ConversionError: the file cannot be read, is no YAML, has a key twice, or is no mapping.
    """
    try:
        if path.stat().st_size > _LARGEST_MAP:
            raise ConversionError(
                f"{path}: is {path.stat().st_size:,} bytes long, which no map is: name the YAML file."
            )
        text = path.read_text(encoding="utf-8-sig")
    except OSError as error:
        raise ConversionError(f"{path}: the map cannot be read ({error.strerror}).") from None
    except UnicodeDecodeError:
        raise ConversionError(f"{path}: the map is no UTF-8 text: save it as UTF-8.") from None
    try:
        loader = yaml.SafeLoader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                raise ConversionError(f"{path}: the map is empty.")
            return _Reader(path, loader).value(node, ())
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        line = error.problem_mark.line + 1 if error.problem_mark else 1
        raise ConversionError(
            f"{path}, line {line}: is no YAML ({error.problem}). Names that begin with '{{' or '*' need quotes."
        ) from None
    except yaml.YAMLError as error:
        raise ConversionError(f"{path}: is no YAML ({str(error).splitlines()[0]}).") from None


@dataclass
class _Reader:
    """A walk through the nodes of one file."""

    path: Path
    loader: Any
    seen: set[int] = field(default_factory=set)

    def value(self, node: yaml.Node, keys: tuple[str, ...]) -> Value:
        place = Place(self.path, node.start_mark.line + 1, keys)
        if len(keys) > _DEEPEST:
            raise place.error("is nested too deeply.")
        if id(node) in self.seen:
            raise place.error("repeats a part by an alias (`*name`), which maps do not have: write it out.")
        self.seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            return Value(self._mapping(node, keys), place)
        if isinstance(node, yaml.SequenceNode):
            entries = [self.value(each, (*keys, f"entry {number}")) for number, each in enumerate(node.value, start=1)]
            return Value(entries, place)
        return Value(self._scalar(node, place), place)

    def _mapping(self, node: yaml.MappingNode, keys: tuple[str, ...]) -> dict[str, Value]:
        found: dict[str, Value] = {}
        for key_node, value_node in node.value:
            place = Place(self.path, key_node.start_mark.line + 1, keys)
            if not isinstance(key_node, yaml.ScalarNode):
                raise place.error("a key cannot be a list or mapping; a name that begins with '{' needs quotes.")
            name = key_node.value
            if name in found:
                raise place.error(f"the key {name!r} is given twice; the first is in line {found[name].place.line}.")
            value = self.value(value_node, (*keys, name))
            found[name] = Value(value.content, Place(self.path, place.line, value.place.keys))
        return found

    def _scalar(self, node: yaml.ScalarNode, place: Place) -> Hashable:
        try:
            return self.loader.construct_object(node)
        except (yaml.YAMLError, ValueError) as error:
            raise place.error(f"cannot be read ({getattr(error, 'problem', error)}).") from None


__all__ = ["Place", "Value", "as_number", "read_yaml", "shown"]
