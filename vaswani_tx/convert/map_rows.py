"""The rows of a key map: patterns of names in the source, our names, and what is done to the tensor in between.

encoder.{i}.fc.{weight,bias}: model.encoder.layers.{i}.feed_forward.fc1.{weight,bias}      # two rows, as they are
encoder.{i}.in_proj_weight: {split: "model.encoder.layers.{i}.self_attn.{q,k,v}_proj.weight"}
h.{i}.fc.weight: {do: [transpose], to: "model.layers.{i}.feed_forward.fc1.weight"}
heads.{i}.{h}.key.weight: {join: "model.layers.{i}.self_attn.k_proj.weight"}
"""

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch

from vaswani_tx.convert.map_yaml import Place, Value

_KINDS = ("to", "split", "join")
_STEPS = ("transpose", "squeeze", "slice", "scale")
_ALTERNATIVES = re.compile(r"\{(\w+(?:,\w+)+)\}")
Step = Callable[[torch.Tensor], torch.Tensor]


@dataclass(frozen=True)
class Row:
    """A pattern of weights and where they go.

    Args:
        pattern: names in the source; `{i}` is the number of a layer, `{h}` of a part that is joined.
        targets: names in our state dict; the same tensor for each ("to"), equal parts of its rows ("split"), or one
            name for the parts joined along their rows ("join").
        kind: "to", "split" or "join".
        steps: names and functions of what is done to the tensor first.
        place: where the row is.
    """

    pattern: str
    targets: tuple[str, ...]
    kind: str
    steps: tuple[tuple[str, Step], ...]
    place: Place

    def described(self) -> str:
        """Return what the row does to a tensor, for the report."""
        words = [name for name, _ in self.steps]
        if self.kind != "to":
            words.append(f"{self.kind} {len(self.targets)}" if self.kind == "split" else self.kind)
        return ", ".join(words) or "as is"


@dataclass(frozen=True)
class Ignored:
    """A pattern of weights, `*` for any part of a name, with the reason for what happens to them."""

    pattern: str
    reason: str
    place: Place

    def fits(self, name: str) -> bool:
        """Return whether the pattern is one of the weight's."""
        return _compiled(self.pattern).fullmatch(name) is not None


def read_rows(pattern: str, value: Value, fill: Callable[[str, Value], str]) -> list[Row]:
    """Return the rows of an entry of the map, several where its name has alternatives `{weight,bias}`.

    Args:
        pattern: the entry's name.
        value: our name, or a mapping with `to`, `split` or `join`, and `do`.
        fill: replaces the `{name}` in a text.
    """
    group = _ALTERNATIVES.search(pattern)
    if group is not None:
        rows = []
        for choice in group[1].split(","):

            def chosen(text: str, at: Value, choice: str = choice) -> str:
                return fill(text.replace(group[0], choice), at)

            rows += read_rows(pattern.replace(group[0], choice), value, chosen)
        return rows
    return [_read_row(fill(pattern, value), value, fill)]


def _read_row(source: str, value: Value, fill: Callable[[str, Value], str]) -> Row:
    _compiled(source, value.place)
    steps: list[tuple[str, Step]] = []
    kind, targets = "to", value
    if isinstance(value.content, dict):
        entries = value.mapping((*_KINDS, "do"))
        kinds = [name for name in _KINDS if name in entries]
        if len(kinds) != 1:
            raise value.error(f"needs one of {', '.join(_KINDS)}, with our name or names.")
        kind, targets = kinds[0], entries[kinds[0]]
        steps = _steps(entries["do"]) if "do" in entries else []
    names = tuple(each for name in targets.texts() for each in _alternatives(fill(name, targets)))
    if kind == "join" and len(names) != 1:
        raise targets.error("join makes one weight: give one name.")
    if kind == "split" and len(names) < 2:
        raise targets.error("split makes at least two weights: give a list of names, or `{q,k,v}` in one.")
    if ("{h}" in source) != (kind == "join"):
        raise value.error("{h} numbers the parts that `join` puts together: use both or neither.")
    if any(("{i}" in name) != ("{i}" in source) for name in names):
        raise targets.error(f"{{i}} must be in {source!r} and in our names, or in none of them.")
    return Row(source, names, kind, tuple(steps), value.place)


def _alternatives(name: str) -> list[str]:
    group = _ALTERNATIVES.search(name)
    if group is None:
        return [name]
    return [each for choice in group[1].split(",") for each in _alternatives(name.replace(group[0], choice, 1))]


def read_ignored(pattern: str, value: Value) -> Ignored:
    """Return a pattern with its reason, which there must be."""
    _compiled(pattern, value.place)
    return Ignored(pattern, value.text(), value.place)


def _steps(value: Value) -> list[tuple[str, Step]]:
    given = value.content if isinstance(value.content, list) else [value]
    return [_step(each) for each in given]


def _step(value: Value) -> tuple[str, Step]:
    if isinstance(value.content, dict):
        entries = value.mapping(("slice", "scale"))
        if len(entries) != 1:
            raise value.error("a step is one of `slice: [first, end]` and `scale: number`.")
        name, argument = next(iter(entries.items()))
        return _slice(argument) if name == "slice" else _scale(argument)
    name = value.one_of(_STEPS)
    if name == "transpose":
        return "transpose", _transposed
    if name == "squeeze":
        return "squeeze", torch.squeeze
    raise value.error(f"{name} needs a value: `{name}: ...`.")


def _transposed(tensor: torch.Tensor) -> torch.Tensor:
    if tensor.dim() != 2:
        raise ValueError(f"transpose needs two dimensions, not shape {list(tensor.shape)}")
    return tensor.t()


def _slice(value: Value) -> tuple[str, Step]:
    ends = value.plain()
    if not isinstance(ends, list) or len(ends) != 2 or any(type(end) not in (int, type(None)) for end in ends):
        raise value.error("must be [first row, row after the last], null for an end of the tensor.")
    first, end = ends

    def sliced(tensor: torch.Tensor) -> torch.Tensor:
        count = tensor.shape[0] if tensor.dim() else 0
        start, stop = first or 0, count if end is None else end
        if not 0 <= start < stop <= count:
            raise ValueError(f"slice [{first}, {end}] is not within {count} rows")
        return tensor[start:stop]

    return f"rows {0 if first is None else first} to {'the end' if end is None else end}", sliced


def _scale(value: Value) -> tuple[str, Step]:
    """Return a multiplication by a number or, by name, by a power of the tensor's last dimension."""
    named = {
        "sqrt_width": lambda tensor: tensor * math.sqrt(tensor.shape[-1]),
        "1/sqrt_width": lambda tensor: tensor / math.sqrt(tensor.shape[-1]),
    }
    if value.content in named:
        return f"times {value.content}", named[value.content]
    factor = value.number()
    return f"times {factor:g}", lambda tensor: tensor * factor


def _compiled(pattern: str, place: Place | None = None) -> re.Pattern:
    parts, seen = [], set()
    for part in re.split(r"(\{[ih]\}|\*)", pattern):
        if part in ("{i}", "{h}"):
            if part in seen and place is not None:
                raise place.error(f"{part} is in {pattern!r} twice.")
            seen.add(part)
            parts.append(rf"(?P<{part[1]}>\d+)")
        else:
            parts.append(".*" if part == "*" else re.escape(part))
    return re.compile("".join(parts))


@dataclass
class Applied:
    """What the rows made of a source.

    Args:
        state: our names -> tensors.
        used: source name -> (our names, what was done), for the report.
        origin: our name -> source names and the row.
        left: source names that no row and no reason covers.
        ignored: source name -> reason.
        idle: rows that found nothing.
    """

    state: dict[str, torch.Tensor]
    used: dict[str, tuple[tuple[str, ...], str]]
    origin: dict[str, tuple[str, Row]]
    left: list[str]
    ignored: dict[str, str]
    idle: list[Row]


def apply_rows(source: Mapping[str, torch.Tensor], rows: tuple[Row, ...], ignored: tuple[Ignored, ...]) -> Applied:
    """Send every weight of the source through the first row that fits its name.

    Raises:
        ConversionError: a step that does not suit a tensor, layers whose numbers have gaps, or two weights of one name.
    """
    found: dict[int, dict[str, re.Match]] = {index: {} for index in range(len(rows))}
    applied = Applied({}, {}, {}, [], {}, [])
    patterns = [_compiled(row.pattern) for row in rows]
    for name in source:
        for index, pattern in enumerate(patterns):
            if (match := pattern.fullmatch(name)) is not None:
                found[index][name] = match
                break
        else:
            reason = next((each.reason for each in ignored if each.fits(name)), None)
            if reason is None:
                applied.left.append(name)
            else:
                applied.ignored[name] = reason
    numbers = [int(match["i"]) for each in found.values() for match in each.values() if match.groupdict().get("i")]
    for index, row in enumerate(rows):
        if not found[index]:
            applied.idle.append(row)
            continue
        for layer, names in _layers(row, found[index], min(numbers, default=0)).items():
            parts = [_through_steps(row, name, source[name]) for name in names]
            _put(applied, row, layer, names, parts)
    return applied


def _layers(row: Row, matches: dict[str, re.Match], first: int) -> dict[str, list[str]]:
    """Group the names of a row by layer, the parts to be joined in their order.

    Args:
        row: the row.
        matches: source name -> match of the row's pattern.
        first: number of the source's first layer, 0 or 1, which is 0 here.
    """
    groups: dict[int, list[tuple[int, str]]] = {}
    for name, match in matches.items():
        parts = match.groupdict()
        groups.setdefault(int(parts.get("i") or 0), []).append((int(parts.get("h") or 0), name))
    numbers = sorted(groups)
    first = first if "{i}" in row.pattern else 0
    if first > 1 or numbers != list(range(first, first + len(numbers))):
        raise row.place.error(
            f"the layers of {row.pattern!r} in the source are {', '.join(map(str, numbers))}: they must be 0, 1, 2, "
            "..., or 1, 2, ..., without gaps."
        )
    for number in numbers:
        heads = sorted(head for head, _ in groups[number])
        if len(set(heads)) != len(heads) or heads != list(range(heads[0], heads[0] + len(heads))):
            raise row.place.error(f"the parts {{h}} of {row.pattern!r} have gaps: there are {heads}.")
    return {str(number - first): [name for _, name in sorted(groups[number])] for number in numbers}


def _through_steps(row: Row, name: str, tensor: torch.Tensor) -> torch.Tensor:
    for _, step in row.steps:
        try:
            tensor = step(tensor)
        except ValueError as error:
            raise row.place.error(f"{error}, which is what {name!r} comes to.") from None
    return tensor


def _put(applied: Applied, row: Row, layer: str, names: list[str], parts: list[torch.Tensor]) -> None:
    shapes = {tuple(part.shape[1:]) for part in parts}
    if len(shapes) > 1:
        raise row.place.error(f"{', '.join(names)} cannot be joined: their shapes differ.")
    whole = torch.cat(parts) if row.kind == "join" else parts[0]
    if row.kind == "split":
        if whole.dim() == 0 or whole.shape[0] % len(row.targets):
            raise row.place.error(
                f"{names[0]!r} of shape {list(whole.shape)} has no rows for {len(row.targets)} equal parts."
            )
        results = list(whole.chunk(len(row.targets)))
    else:
        results = [whole] * len(row.targets)
    targets = tuple(target.replace("{i}", layer) for target in row.targets)
    for target, result in zip(targets, results, strict=True):
        if target in applied.state:
            other, first = applied.origin[target]
            raise row.place.error(
                f"{names[0]!r} and {other!r} (line {first.place.line}) would both be {target}: keep one of the rows."
            )
        applied.state[target] = result.detach().clone().contiguous()
        applied.origin[target] = (names[0], row)
    for name in names:
        applied.used[name] = (targets, row.described())


__all__ = ["Applied", "Ignored", "Row", "apply_rows", "read_ignored", "read_rows"]
