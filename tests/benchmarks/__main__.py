"""Run the benchmark.

    make bench                                     # the standard set, about 25 minutes on two cores
    make bench BENCH_ARGS='--quick'                # under 3 minutes: whether everything works
    python -m tests.benchmarks --only training --works tiny --rounds 7
    python -m tests.benchmarks --only decoding --contenders ours,ours-fast
    python -m tests.benchmarks --model runs/first/averaged --source test2016.en
    python -m tests.benchmarks --contender mine=my_package.my_module:MyTrainer --only training

Results are written to build/benchmarks/results.json, beside those of works that did not run this time; --docs writes
tables and curves into docs/speed.md as well. Where a contender's outputs differ the status is 1 and nothing is written.
"""

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.benchmarks import plots, results, standard, startup
from tests.benchmarks.contenders import CONTENDERS, load_factory, parse_contender
from tests.benchmarks.harness import ROOT, Benchmark, ContenderFailed, OutputsDiffer
from tests.benchmarks.measuring import machine
from tests.benchmarks.works import TrainingWork, Work
from vaswani_tx.training.files import atomic_text

PARTS = ("training", "curves", "decoding", "corpus", "startup")
KINDS = {"training": "training", "curves": "training", "decoding": "decoding", "corpus": "corpus"}
PAGE = ROOT / "docs" / "speed.md"
RECORD = ROOT / "docs" / "speed.json"
OUTPUT = ROOT / "build" / "benchmarks" / "results.json"


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command."""
    found = argparse.ArgumentParser(
        prog="python -m tests.benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = found.add_argument
    add("--only", action="append", choices=PARTS, help="this part; may be repeated; default: all")
    add("--works", default="", metavar="TEXT", help="of the parts only the works whose name has this in it")
    add("--contenders", default="", metavar="NAMES", help="only these, by commas, and the one that ratios are to")
    add("--contender", action="append", default=[], metavar="NAME=MODULE:FACTORY", help="one more contender")
    add("--threads", type=int, default=1, metavar="N", help="of each contender; default: 1")
    add("--rounds", type=int, metavar="N", help="turns of each contender; default: the work's own, 2 to 5")
    add("--quick", action="store_true", help="fewer and shorter works: whether everything works, not how fast")
    add("--model", metavar="DIR", help="trained model of this package, for the parts corpus and startup")
    add("--source", metavar="FILE", help="text that it translates, one sentence a line")
    add("--lengths", metavar="FILE:FILE", help="take lengths of training from these two texts, line by line")
    add("--output", type=Path, default=OUTPUT, metavar="FILE", help="results as JSON; default: %(default)s")
    add("--docs", action="store_true", help="write tables and curves into docs/speed.md, results into docs/speed.json")
    add("--render", action="store_true", help="measure nothing: write the page again from docs/speed.json")
    add("--list", action="store_true", help="print the names of parts, works and contenders")
    return found


def chosen_works(options: argparse.Namespace) -> list[tuple[str, Work]]:
    """Return part and work of everything that is to run, in order.

    Raises:
        ValueError: options do not go together.
    """
    parts = options.only or [part for part in PARTS if part != "corpus" or options.model]
    if (options.model is None) != (options.source is None):
        raise ValueError("--model and --source go together: a trained model, and a text for it.")
    if "corpus" in parts and not options.model:
        raise ValueError("the part corpus needs --model DIR and --source FILE.")
    lines = 0
    if options.source:
        for path, is_there in ((options.source, Path.is_file), (options.model, Path.is_dir)):
            if not is_there(Path(path)):
                raise ValueError(f"'{path}' is not there: --source is a file, --model the folder of a model.")
        lines = len(Path(options.source).read_text(encoding="utf-8").splitlines())
    makers = {
        "training": standard.training, "curves": standard.curves, "decoding": standard.decoding,
        "corpus": lambda: standard.corpus(options.model, options.source, lines),
    }  # fmt: skip
    found = []
    for part in parts:
        works: list[Work] = list(makers[part]()) if part in makers else []
        if options.quick:
            works = standard.quick(works)
        if options.lengths:
            works = [_with_lengths(work, options.lengths) for work in works]
        found += [(part, work) for work in works if options.works in work.name]
    return found


def _with_lengths(work: Work, files: str) -> Work:
    fixed = not isinstance(work, TrainingWork) or work.lengths.startswith("fill:")
    return work if fixed else replace(work, lengths=f"files:{files}")


def further_contenders(options: argparse.Namespace) -> dict[str, str]:
    """Return address by name of the contenders that were added.

    Raises:
        ValueError: an address leads to nothing, or one is added to more than one kind of work.
    """
    found = dict(map(parse_contender, options.contender))
    for address in found.values():
        load_factory(address)
    if found and (not options.only or len({KINDS.get(part) for part in options.only}) != 1):
        raise ValueError("--contender needs --only with the part that it takes part in: training, decoding or corpus.")
    known = {name for names in CONTENDERS.values() for name in names} | set(found)
    for name in filter(None, options.contenders.split(",")):
        if name not in known:
            raise ValueError(f"--contenders: there is no {name!r}; known are {', '.join(sorted(known))}.")
    return found


def show(entry: dict[str, Any], seconds: float) -> None:
    """Print a work's result as soon as it is there."""
    print(f"\n{entry['work']['name']}: {entry['about']} ({seconds:.0f} s)")
    first = next(iter(entry["contenders"].values()))
    width = max(len(name) for name in (*entry["contenders"], *entry["skipped"]))
    for name, record in entry["contenders"].items():
        wall = results.spread(record["wall"])
        line = f"  {name:{width}}  {wall.median:8.3f} s"
        if "step_memory" in record:
            wall, cpu = (results.spread(results.ratios(first[clock], record[clock])) for clock in ("wall", "cpu"))
            memory = record["step_memory"] / results.MEGABYTE
            line += (
                f"  ratio {wall.median:5.2f} ({wall.low:.2f}-{wall.high:.2f})  CPU {cpu.median:5.2f}  {memory:6,.0f} MB"
            )
        if "agreement" in record:
            line += f"  {record['agreement']:.0%} equal"
        print(line)
    for name, reason in entry["skipped"].items():
        print(f"  {name:{width}}  not measured: {reason}")
    sys.stdout.flush()


def measure(options: argparse.Namespace) -> dict[str, Any]:
    """Run everything that was asked for; return the results by the works' names.

    Raises:
        OutputsDiffer, ContenderFailed: as `Benchmark.run`.
    """
    works, further = chosen_works(options), further_contenders(options)
    with_startup = "startup" in (options.only or PARTS) and options.works in "startup"
    if not works and not with_startup:
        raise ValueError(f"no work of these parts has {options.works!r} in its name: --list prints them.")
    chosen = frozenset(filter(None, options.contenders.split(",")))
    found: dict[str, Any] = {}
    for part in dict.fromkeys(part for part, _ in works):
        with Benchmark(options.threads, further, chosen, options.rounds) as benchmark:
            for work in (work for own, work in works if own == part):
                start = time.monotonic()
                found[work.name] = benchmark.run(work)
                show(found[work.name], time.monotonic() - start)
    if with_startup:
        start = time.monotonic()
        rounds = options.rounds or (1 if options.quick else 3)
        found["startup"] = startup.measure(options.model, options.source, options.threads, rounds)
        show(found["startup"], time.monotonic() - start)
    order = {work.name: number for number, (_, work) in enumerate(_all_works(options))}
    about = machine(options.threads)
    for name, entry in found.items():
        entry |= {"machine": about, "quick": options.quick, "order": order.get(name, len(order))}
        for private in ("model", "source"):
            entry["work"].pop(private, None)  # a path of this machine
    return found


def _all_works(options: argparse.Namespace) -> list[tuple[str, Work]]:
    everything = argparse.Namespace(**{**vars(options), "only": None, "works": "", "quick": False})
    return chosen_works(everything)


def write_page(found: dict[str, Any]) -> None:
    """Write tables and curves of results into the page."""
    sections = results.render(found) | plots.section(plots.draw(found, PAGE.parent))
    page = results.into_page(PAGE.read_text(encoding="utf-8"), sections)
    atomic_text(PAGE, page)


def main(argv: list[str] | None = None) -> int:
    """Run the command; return 0, 1 where outputs differ or a contender failed, 2 for wrong options."""
    options = parser().parse_args(argv)
    try:
        if options.list:
            for part, work in chosen_works(options):
                print(f"{part}: {work.name}: {work.describe()}; {', '.join(work.contenders)}")
            return 0
        if options.render:
            write_page(results.read(RECORD))
            return 0
        if options.docs and (options.quick or options.contender or options.contenders):
            raise ValueError("--docs is for the whole set: not with --quick, --contender or --contenders.")
        found = measure(options)
        results.merge(options.output, found)
        print(f"\nresults: {options.output}")
        if options.docs:
            write_page(results.merge(RECORD, found))
            print(f"page: {PAGE}")
    except (OutputsDiffer, ContenderFailed, RuntimeError) as error:
        print(f"\nerror: {error}\nNothing was written.", file=sys.stderr)
        return 1
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())
