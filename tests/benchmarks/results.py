"""Results: medians, spread and ratios of rounds, the file that keeps them, and the tables of `docs/speed.md`."""

import json
import statistics
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from vaswani_tx.training.files import atomic_text

FORMAT = 1
LABELS = {
    "marian": "HF MarianMT",
    "marian-trainer": "MarianMT, Trainer's smoother",
    "hf-practice": "HF script's practice",
    "ours": "vaswani-tx",
    "ours-plain": "vaswani-tx, padded",
    "ours-logits": "vaswani-tx, all logits",
    "ours-fast": "vaswani-tx, fast decoder",
    "ctranslate2": "CTranslate2",
    "ctranslate2-int8": "CTranslate2, int8",
}
SECTIONS = ("machine", "training", "decoding", "startup")
MEGABYTE = 1 << 20


class Spread(NamedTuple):
    """A median with the smallest and the largest value."""

    median: float
    low: float
    high: float


def spread(values: Sequence[float]) -> Spread:
    """Return median and range."""
    return Spread(statistics.median(values), min(values), max(values))


def ratios(first: Sequence[float], other: Sequence[float]) -> list[float]:
    """Return how many times as fast as the first another is, round by round."""
    return [one / two for one, two in zip(first, other, strict=True)]


def label(name: str) -> str:
    """Return a contender's name in tables."""
    return LABELS.get(name, name)


def merge(path: Path, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Write the results of works into a file beside those of other works, and return all.

    Raises:
        ValueError: the file is none of results.
    """
    found = read(path) if path.exists() else {"format": FORMAT, "entries": {}}
    found["entries"] |= entries
    path.parent.mkdir(parents=True, exist_ok=True)
    atomic_text(path, json.dumps(found, indent=1) + "\n")
    return found


def read(path: Path) -> dict[str, Any]:
    """Return the results of a file.

    Raises:
        ValueError: it is none of this format.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"'{path}' is no file of results ({error}): remove it or name another.") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise ValueError(f"'{path}' is no file of results of this version: remove it or name another.")
    return found


def of_kind(entries: Mapping[str, Any], *kinds: str) -> dict[str, Any]:
    """Return the entries of some kinds that belong into tables."""
    return {
        name: entry
        for name, entry in entries.items()
        if entry["work"]["kind"] in kinds and not entry["work"]["name"].startswith("curve-")
    }


def base_of(entry: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the record of the contender that ratios are to: the work's first one."""
    return entry["contenders"][entry["work"]["contenders"][0]]


def records_of(entry: Mapping[str, Any]) -> dict[str, Mapping[str, Any]]:
    """Return the records of all contenders, in the order of the work."""
    records, order = entry["contenders"], entry["work"].get("contenders", [])
    return {
        name: records[name] for name in [*filter(records.__contains__, order), *(n for n in records if n not in order)]
    }


def rounded(value: float) -> str:
    """Return a ratio as tables show it."""
    return f"{value:.2f}" if value < 10 else f"{value:.1f}"


def table(rows: Iterable[Sequence[str]], heads: Sequence[str]) -> str:
    """Return a table of Markdown; all columns but the first two are numbers."""
    marks = ["---" if place < 1 else "---:" for place in range(len(heads))]
    lines = [heads, marks, *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def summary(entries: Mapping[str, Any]) -> str:
    """Return the table of medians of ratios: a row for each work, a column for each contender."""
    names = list(dict.fromkeys(name for entry in entries.values() for name in entry["contenders"]))
    names.sort(key=lambda name: list(LABELS).index(name) if name in LABELS else len(LABELS))
    rows = []
    for entry in entries.values():
        first = base_of(entry)
        cells = []
        for name in names:
            record = entry["contenders"].get(name)
            if record is None:
                cells.append("")
                continue
            value = rounded(spread(ratios(first["wall"], record["wall"])).median)
            cells.append(f"**{value}**" if name == "ours" or name == "ours-fast" else value)
        rows.append([entry["about"], *cells])
    return table(rows, ["work", *map(label, names)])


def details(entries: Mapping[str, Any]) -> str:
    """Return the table of times, spread and memory: a row for each contender of each work."""
    rows = []
    for entry in entries.values():
        first = base_of(entry)
        about = entry["about"]
        for name, record in records_of(entry).items():
            rows.append([about, label(name), *_times(first, record), *_memory(first, record), _note(record)])
            about = ""
        for name, reason in entry["skipped"].items():
            rows.append([about, label(name), *[""] * 6, f"not measured: {reason}"])
    heads = [
        "work", "contender", "seconds", "ratio (range)", "ratio of CPU time", "a second", "step memory", "all memory",
        "remarks",
    ]  # fmt: skip
    return table(rows, heads)


def _times(first: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    wall, against = spread(record["wall"]), spread(ratios(first["wall"], record["wall"]))
    cpu = spread(ratios(first["cpu"], record["cpu"]))
    tokens = record.get("real_tokens", record.get("tokens", 0))
    shown = f"{rounded(against.median)} ({rounded(against.low)}-{rounded(against.high)})"
    return [f"{wall.median:.3g}", shown, rounded(cpu.median), f"{tokens / wall.median:,.0f}"]


def _memory(first: Mapping[str, Any], record: Mapping[str, Any]) -> list[str]:
    step = record["step_memory"] / MEGABYTE
    share = f" ({record['step_memory'] / first['step_memory']:.2f})" if first["step_memory"] else ""
    return [f"{step:,.0f} MB{share}", f"{record['total_memory'] / MEGABYTE:,.0f} MB"]


def _note(record: Mapping[str, Any]) -> str:
    notes = []
    if "fill" in record:
        notes.append(f"fill {record['fill']:.2f}")
    if "agreement" in record:
        notes.append(f"{record['agreement']:.0%} of outputs equal")
    return ", ".join(notes)


def startup_table(entries: Mapping[str, Any]) -> str:
    """Return the table of whole processes."""
    rows = []
    for entry in entries.values():
        for name, record in entry["contenders"].items():
            wall, cpu = spread(record["wall"]), spread(record["cpu"])
            first = f"{spread(record['first']).median:.2f}" if record.get("first") else ""
            rows.append(
                [f"`{name}`", f"{wall.median:.2f} ({wall.low:.2f}-{wall.high:.2f})", first, f"{cpu.median:.2f}"]
            )
    return table(rows, ["command", "seconds (range)", "until the first line", "CPU seconds"])


def about_machine(entries: Mapping[str, Any]) -> str:
    """Return where the numbers come from, a paragraph for each machine and date."""
    found: dict[str, list[str]] = {}
    for entry in entries.values():
        one = entry["machine"]
        versions = ", ".join(f"{name} {version}" for name, version in one["versions"].items())
        threads = "one thread" if one["threads"] == 1 else f"{one['threads']} threads"
        text = (
            f"{one['date']}: {one['processor']}, {one['cores']} cores, {threads} for each contender; "
            f"{', '.join(one['instructions'])}; {versions}; float32 where nothing else is said."
        )
        found.setdefault(text, []).append(entry["work"]["name"])
    if len(found) < 2:
        return "\n\n".join(found)
    return "\n\n".join(f"{text} ({', '.join(names)})" for text, names in found.items())


def render(results: Mapping[str, Any]) -> dict[str, str]:
    """Return the text of each section of the page that has results."""
    entries = dict(sorted(results["entries"].items(), key=lambda item: item[1].get("order", 0)))
    training, decoding = of_kind(entries, "training"), of_kind(entries, "decoding", "corpus")
    startup = of_kind(entries, "startup")
    found = {"machine": about_machine(entries)} if entries else {}
    for name, some in (("training", training), ("decoding", decoding)):
        if some:
            found[name] = f"{summary(some)}\n\n### Times and memory of {name}\n\n{details(some)}"
    if startup:
        found["startup"] = startup_table(startup)
    return found


def markers(section: str) -> tuple[str, str]:
    """Return the comments between which a section of the page is written."""
    return f"<!-- benchmark {section}: begin -->", f"<!-- benchmark {section}: end -->"


def into_page(page: str, sections: Mapping[str, str]) -> str:
    """Return a page with sections between their markers.

    Raises:
        ValueError: the page lacks a marker.
    """
    for name, text in sections.items():
        begin, end = markers(name)
        before, found, rest = page.partition(begin)
        _, also, after = rest.partition(end)
        if not (found and also):
            raise ValueError(f"the page has no lines {begin} and {end}: put them where the table belongs.")
        page = f"{before}{begin}\n\n{text}\n\n{end}{after}"
    return page
