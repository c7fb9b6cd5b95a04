"""Key maps: YAML that says which weight of a foreign checkpoint is which weight of a model of ours, and all else.

`docs/convert_maps.md` documents the format; `maps/` holds the ready ones. A map may extend another: its entries count
first, and an entry of null takes one of the other's away.
"""

import re
from dataclasses import dataclass, field
from pathlib import Path

from vaswani_tx.convert.core import ConversionError
from vaswani_tx.convert.map_rows import Ignored, Row, read_ignored, read_rows
from vaswani_tx.convert.map_yaml import Place, Value, read_yaml
from vaswani_tx.suggestions import did_you_mean

READY_MAPS = Path(__file__).parent / "maps"
FAMILIES = ("encoder-decoder", "encoder", "decoder")
HEADS = ("token-classification", "sequence-classification", "masked-lm", "none")
ORIGINALS = ("torch.nn.Transformer", "torch.nn.TransformerEncoder")
TOKENS = ("pad", "bos", "eos", "unk")
_TEXTS = ("kind", "pattern", "lowercase", "normalise", "vocabulary", "begin", "end", "separator", "tokens")
# The keys of a map, and of each of its sections; None: anything, which is checked where it is read.
SECTIONS: dict[str, tuple[str, ...] | None] = {
    "title": None,
    "extends": None,
    "family": None,
    "head": None,
    "pooling": None,
    "names": None,
    "weights": ("file", "under", "strip"),
    "config": None,
    "positions": ("kind", "layout", "frequencies", "offset", "table"),
    "rows": None,
    "ignore": None,
    "refuse": None,
    "tokens": TOKENS,
    "tokenizer": (*_TEXTS, "padding", "max_length", "source", "target"),
    "labels": None,
    "generation": None,
    "original": ("class", "at", "embed"),
}
_ADDED_TO = (
    "names",
    "weights",
    "config",
    "positions",
    "rows",
    "ignore",
    "refuse",
    "tokens",
    "tokenizer",
    "generation",
    "original",
)
_NAME = re.compile(r"\{(\w+)\}")
_INDICES = ("i", "h")  # a layer, and one of the parts that `join` puts together


@dataclass(frozen=True)
class ModelMap:
    """A key map, with those that it extends.

    Args:
        path: the file that the user named.
        sections: each section with the entries of all maps, the user's first.
        rows: source pattern -> our names, in the order in which they are tried.
        ignored: patterns of weights that are left out, with the reason.
        refused: patterns of weights that show another architecture, with the reason.
    """

    path: Path
    sections: dict[str, Value]
    rows: tuple[Row, ...]
    ignored: tuple[Ignored, ...]
    refused: tuple[Ignored, ...]
    names: dict[str, str] = field(default_factory=dict)

    @property
    def family(self) -> str:
        """The family of models."""
        return self.required("family").one_of(FAMILIES)

    @property
    def head(self) -> str:
        """The layer on top of an encoder."""
        return self.required("head").one_of(HEADS) if self.family == "encoder" else "none"

    def section(self, name: str) -> dict[str, Value]:
        """Return the entries of a section without those that are null; empty where the map has none."""
        entries = self.sections[name].mapping(SECTIONS[name]) if name in self.sections else {}
        return {key: value for key, value in entries.items() if value.content is not None}

    def required(self, name: str) -> Value:
        """Return a section that there must be."""
        if name not in self.sections:
            raise ConversionError(f"{self.path}: the map says no {name!r}{_choices(name)}")
        return self.sections[name]

    def place(self, *keys: str) -> Place:
        """Return where a value is, or its section, or the map."""
        value = self.sections.get(keys[0])
        for key in keys[1:]:
            if value is None or not isinstance(value.content, dict) or key not in value.content:
                break
            value = value.content[key]
        return Place(self.path, 1, keys) if value is None else Place(value.place.file, value.place.line, keys)

    def fill(self, pattern: Value) -> str:
        """Return a text with its `{name}` replaced by what `names` has for them."""
        return _filled(pattern.text(), self.names, pattern)


def _choices(name: str) -> str:
    choices = {"family": FAMILIES, "head": HEADS}.get(name)
    return f": add `{name}:` with one of {', '.join(choices)}." if choices else ": add it."


def read_map(source: str | Path) -> ModelMap:
    """Read a map and those that it extends.

    Args:
        source: a file, or the name of a ready map.

    Raises:
        ConversionError: a map that cannot be read, or an entry that no map has; file, line and key are named.
    """
    path = find_map(str(source), None)
    sections = _with_extended(path, [])
    names = {key: _name_value(value) for key, value in _entries(sections, "names").items()}
    rows = [
        row
        for key, value in _pairs(sections, "rows")
        for row in read_rows(key, value, lambda text, at: _filled(text, names, at))
    ]
    ignored, refused = (
        tuple(read_ignored(_filled(key, names, value), value) for key, value in _pairs(sections, name))
        for name in ("ignore", "refuse")
    )
    if not rows:
        raise ConversionError(f"{path}: the map has no rows: add `rows:` with lines `name in the source: our name`.")
    found = ModelMap(path, sections, tuple(rows), ignored, refused, names)
    for name, keys in SECTIONS.items():
        if keys is not None:
            found.section(name)
    return found


def find_map(name: str, beside: Place | None) -> Path:
    """Return the file of a map: relative to the map that extends it, or a ready one by its name.

    Raises:
        ConversionError: there is no such file and no such ready map.
    """
    given = Path(name) if beside is None else beside.file.parent / name
    if given.is_file():
        return given
    ready = ready_maps()
    if name in ready:
        return ready[name]
    message = f"there is no file {str(given)!r} and no ready map {name!r}{did_you_mean(name, ready) or '.'}"
    message += f" Ready maps: {', '.join(ready)}."
    raise ConversionError(message[0].upper() + message[1:]) if beside is None else beside.error(message)


def ready_maps() -> dict[str, Path]:
    """Return the ready maps by name."""
    return {path.stem: path for path in sorted(READY_MAPS.glob("*.yaml"))}


def _with_extended(path: Path, before: list[Path]) -> dict[str, Value]:
    root = read_yaml(path)
    sections = dict(root.mapping(SECTIONS))
    extends = sections.pop("extends", None)
    if extends is None:
        return {name: value for name, value in sections.items() if value.content is not None}
    parent = find_map(extends.text(), extends.place)
    if parent.resolve() in [each.resolve() for each in (*before, path)]:
        raise extends.error(f"{parent} extends this map already: a map cannot extend itself.")
    inherited = _with_extended(parent, [*before, path])
    for name, value in inherited.items():
        own = sections.get(name)
        if own is None:
            sections[name] = value
        elif name in _ADDED_TO and own.content is not None:
            sections[name] = _joined(own, value)
    return {name: value for name, value in sections.items() if value.content is not None}


def _joined(own: Value, inherited: Value) -> Value:
    """Return the entries of both, the map's own first; an own one replaces one of the same name."""
    mine, theirs = own.mapping(), inherited.mapping()
    return Value({**mine, **{key: value for key, value in theirs.items() if key not in mine}}, own.place)


def _entries(sections: dict[str, Value], name: str) -> dict[str, Value]:
    return sections[name].mapping() if name in sections else {}


def _pairs(sections: dict[str, Value], name: str) -> list[tuple[str, Value]]:
    return [(key, value) for key, value in _entries(sections, name).items() if value.content is not None]


def _name_value(value: Value) -> str:
    """Return what a name is replaced by, which may be nothing."""
    if not isinstance(value.content, str):
        raise value.error("must be a text, in quotes where it is empty.")
    return value.content


def _filled(text: str, names: dict[str, str], value: Value) -> str:
    """Replace `{name}`; `{i}` and `{h}` stay."""

    def replaced(found: re.Match) -> str:
        name = found[1]
        if name in _INDICES:
            return found[0]
        if name not in names:
            known = f" Known: {', '.join(names)}." if names else ""
            raise value.error(f"{{{name}}} is not in `names`{did_you_mean(name, names) or '.'}{known}")
        return names[name]

    return _NAME.sub(replaced, text)


__all__ = [
    "FAMILIES",
    "HEADS",
    "ORIGINALS",
    "SECTIONS",
    "TOKENS",
    "ModelMap",
    "find_map",
    "read_map",
    "ready_maps",
]
