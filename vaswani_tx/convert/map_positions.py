"""Positions of a mapped model: sinusoids of some layout, checked against a stored table, or a learned table.

Shapes: L positions, D d_model.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch

from vaswani_tx.convert.map_file import ModelMap
from vaswani_tx.convert.map_rows import Applied, Row
from vaswani_tx.convert.map_yaml import Value

LAYOUTS = ("interleaved", "halves")
FREQUENCIES = ("paper", "tensor2tensor")
_OFFSETS = (0, 1, 2)
_ROWS = 512  # of a stored table that are compared: float32 arithmetic is further and further off beyond them


@dataclass(frozen=True)
class Positions:
    """What the positions are.

    Args:
        fields: of the configuration.
        halves: whether sines come before cosines in the source, so that channels are to be permuted.
        table: [L, D] as the source has it, None where it has none.
    """

    fields: dict[str, Any]
    halves: bool = False
    table: torch.Tensor | None = None


def sinusoid_table(rows: int, width: int, layout: str, frequencies: str, offset: int) -> torch.Tensor:
    """Return sinusoids [rows, width] in float64, of any layout."""
    steps = torch.arange(width // 2, dtype=torch.float64)
    exponents = steps / (width // 2 - 1) if frequencies == "tensor2tensor" else 2 * steps / width
    angles = (torch.arange(rows, dtype=torch.float64) + offset)[:, None] * torch.exp(-math.log(10000.0) * exponents)
    if layout == "halves":
        return torch.cat((angles.sin(), angles.cos()), dim=1)
    return torch.stack((angles.sin(), angles.cos()), dim=2).flatten(1)


def read_positions(
    model_map: ModelMap, weights: Mapping[str, torch.Tensor], applied: Applied, stacks: tuple[str, ...]
) -> Positions:
    """Return the positions that a map says, checked against the source's table.

    A table that is used is taken off `applied.left`; a learned one is put into `applied.state`.

    Raises:
        ConversionError: the map leaves out what is needed, or the table is another than it says.
    """
    section = model_map.section("positions")
    if "kind" not in section:
        raise model_map.place("positions").error("the map must say `positions: {kind: ...}`: sinusoidal or learned.")
    kind = section["kind"].one_of(("sinusoidal", "learned"))
    tables = _tables(model_map, section.get("table"), weights)
    if kind == "learned":
        for key in ("layout", "frequencies", "offset"):
            if key in section:
                raise section[key].error("is of sinusoids: leave it out with `kind: learned`.")
        _take_tables(section.get("table"), tables, applied, stacks)
        lengths = {
            stack: applied.state[f"{stack}positional_encoding.positions.weight"].shape[0]
            for stack in stacks
            if f"{stack}positional_encoding.positions.weight" in applied.state
        }
        if len(set(lengths.values())) > 1:
            raise model_map.place("positions").error(
                f"the stacks have tables of different lengths ({', '.join(map(str, lengths.values()))}), and our "
                f"models one length: cut the longer with `do: [{{slice: [0, {min(lengths.values())}]}}]` in its row."
            )
        return Positions({"position_embedding": "learned"})
    found: tuple[dict[str, Any], str] | None = None
    for name, table in tables.items() or [(None, None)]:
        fields, layout, note = _sinusoids(model_map, section, name, table)
        if name is not None:
            _claim(applied, name, note)
        size = "max_position_embeddings"
        if found is not None and (layout != found[1] or {**fields, size: 0} != {**found[0], size: 0}):
            raise section["table"].error(f"{name!r} holds other sinusoids than {next(iter(tables))!r}.")
        found = found or (fields, layout)
    assert found is not None
    fields, layout = found
    return Positions(
        {"position_embedding": "sinusoidal", **fields}, layout == "halves", next(iter(tables.values()), None)
    )


def _take_tables(
    value: Value | None, tables: dict[str, torch.Tensor], applied: Applied, stacks: tuple[str, ...]
) -> None:
    """Put a table for all stacks, or one for each, among our weights."""
    if value is None or not tables:
        return
    if len(tables) not in (1, len(stacks)):
        raise value.error(f"{len(tables)} tables are in the source: name one, or one for each of {len(stacks)} stacks.")
    names = list(tables) if len(tables) == len(stacks) else list(tables) * len(stacks)
    for stack, name in zip(stacks, names, strict=True):
        ours = f"{stack}positional_encoding.positions.weight"
        _claim(applied, name, None)
        applied.state[ours] = tables[name].clone()
        applied.origin[ours] = (name, Row(name, (ours,), "to", (), value.place))
        applied.used[name] = ((*applied.used.get(name, ((), ""))[0], ours), "as is")


def _claim(applied: Applied, name: str, reason: str | None) -> None:
    if name in applied.left:
        applied.left.remove(name)
    applied.ignored.pop(name, None)
    if reason is not None and name not in applied.used:
        applied.ignored[name] = reason


def _tables(model_map: ModelMap, value: Value | None, weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Return the tables [L, D] that the source has, by name."""
    found = {}
    values = [] if value is None else value.content if isinstance(value.content, list) else [value]
    for each in values:
        name = model_map.fill(each)
        if name in weights:
            table = weights[name]
            found[name] = table.reshape([side for side in table.shape if side != 1] or [1])
            if found[name].dim() != 2 or not table.is_floating_point():
                raise each.error(f"{name!r} of shape {list(table.shape)} is no table of positions.")
    return found


def _sinusoids(
    model_map: ModelMap, section: dict[str, Value], name: str | None, table: torch.Tensor | None
) -> tuple[dict[str, Any], str, str]:
    layout = section["layout"].one_of(LAYOUTS) if "layout" in section else None
    frequencies = section["frequencies"].one_of(FREQUENCIES) if "frequencies" in section else None
    offset = section["offset"].integer() if "offset" in section else None
    if table is None:
        if layout is None:
            raise model_map.place("positions").error(
                "say `layout:` interleaved (sine, cosine, sine, ...) or halves (all sines, then all cosines); or name "
                "the table with `table:`, where the source has it."
            )
        fields = {"position_frequencies": frequencies or "paper", "position_offset": offset or 0}
        return fields, layout, ""
    rows = min(_ROWS, table.shape[0])
    candidates = [
        (one, of, first)
        for one in ([layout] if layout else LAYOUTS)
        for of in ([frequencies] if frequencies else FREQUENCIES)
        for first in ([offset] if offset is not None else _OFFSETS)
    ]
    found = _nearest(table[:rows], candidates)
    if found is None:
        other = _nearest(table[:rows], [(a, b, c) for a in LAYOUTS for b in FREQUENCIES for c in _OFFSETS])
        hint = (
            f"It is layout {other[0][0]}, frequencies {other[0][1]}, offset {other[0][2]}."
            if other is not None
            else "Say `kind: learned`, which keeps the table as it is, for texts no longer than it."
        )
        raise section["table"].error(f"{name!r} does not hold the sinusoids that the map says. {hint}")
    (layout, frequencies, offset), difference = found
    note = (
        f"sinusoids ({layout}, {frequencies}, offset {offset}), computed here; the table is {difference:.0e} off in "
        f"its first {rows} rows"
    )
    fields = {"position_frequencies": frequencies, "position_offset": offset}
    return fields | {"max_position_embeddings": table.shape[0]}, layout, note


def _nearest(table: torch.Tensor, candidates: list) -> tuple[tuple[str, str, int], float] | None:
    """Return the first kind of sinusoids that a table [L, D] holds, up to rounding, and the largest difference."""
    rows, width = table.shape
    if width % 2 or width < 4:
        return None
    # Angles are computed in float32 at best, which is further off the further the position.
    rounding = 2e-6 + 2 * torch.finfo(table.dtype).eps
    allowed = rounding + 1.5e-6 * torch.arange(rows, dtype=torch.float64)[:, None]
    for layout, frequencies, offset in candidates:
        difference = (table.double() - sinusoid_table(rows, width, layout, frequencies, offset)).abs()
        if bool((difference <= allowed).all()):
            return (layout, frequencies, offset), difference.max().item()
    return None


__all__ = ["LAYOUTS", "Positions", "read_positions", "sinusoid_table"]
