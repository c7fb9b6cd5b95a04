"""Test whether one system's translation of a test set is better than another's, or the difference is chance.

    vaswani-tx compare --target test.de baseline.de other.de

The first file is the baseline; each further one is compared with it. All are plain detokenised text, one sentence a
line, as `vaswani-tx evaluate --output` writes them. For every score the table shows each system's
value, its mean and 95 % interval, the difference from the baseline, and p: how often chance alone would make a
difference at least as large. `*` marks p < 0.05; without it, do not call one system the better.

`--method bootstrap` (default; 1,000 resamples of the test set, Koehn 2004) or `--method randomization` (10,000 random
exchanges of the two systems' sentences, Riezler and Maxwell 2005; no intervals). The former's p is the smaller, because
it regards one direction only: name the method beside a p. `--samples N` changes the number. Both are sacreBLEU's, with
its fixed seed 12345, which the environment variable SACREBLEU_SEED replaces: the same files give the same table. Of
many systems no better than the baseline, 1 in 20 is marked all the same.

    vaswani-tx compare --target a.de --target b.de A.de B.de C.de --metrics bleu ter
    vaswani-tx compare --target test.de A.de B.de --metrics rouge1 --json test.json
    vaswani-tx compare --target test.de A.de B.de --source test.en --examples 5

`--metrics`: every metric of texts of training/metrics/registry.py, such as rouge1 (`--help` lists them; the two older
tokenised BLEU scores and ROUGE regard `--target-language`). `--examples N` prints the N sentences whose chrF differs
most, with their sources.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vaswani_tx.limits import RESAMPLES
from vaswani_tx.training.command_line import check_writable, exit_status, make_parser, positive_int
from vaswani_tx.training.data.lines import read_lines
from vaswani_tx.training.errors import DataError
from vaswani_tx.training.files import atomic_text
from vaswani_tx.training.metrics.registry import BY_NAME, DEFAULT_METRICS, signed_metrics

# Methods of testing, each with its usual number of samples.
SAMPLES = {"bootstrap": 1000, "randomization": 10000}
LEVEL = 0.05


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; the header of this file is its manual."""
    parser = make_parser(__doc__, "vaswani-tx compare")
    add = parser.add_argument
    add("systems", nargs="+", metavar="FILE", help="hypotheses, one a line: the baseline first, then one or more")
    add("--target", action="append", required=True, metavar="FILE", help="references; again for several of a sentence")
    add("--source", metavar="FILE", help="sources, shown with --examples; their number is checked")
    names, default = ", ".join(signed_metrics()), " ".join(DEFAULT_METRICS)
    add("--metrics", nargs="+", choices=signed_metrics(), default=list(DEFAULT_METRICS), metavar="NAME",
        help=f"{names}; default: {default}")  # fmt: skip
    add("--method", choices=tuple(SAMPLES), default="bootstrap", help="default: bootstrap")
    add("--samples", type=RESAMPLES, metavar="N", help="resamples; default: 1000 (randomization: 10000)")
    add("--lowercase", action="store_true", help="score without regard to case")
    add("--bleu-tokenizer", default="13a", help="sacreBLEU's tokeniser for bleu: 13a, intl, char, none, ...")
    add("--target-language", default="de", metavar="CODE", help="for Moses' tokeniser and ROUGE's stemmer; default: de")
    add("--examples", type=positive_int, metavar="N", help="also print the N sentences that differ most")
    add("--json", type=Path, metavar="FILE", help="write the numbers here")
    options = parser.parse_args(argv)
    if len(options.systems) < 2:
        parser.error("give two files at least: the baseline's hypotheses and another system's")
    return options


def compare(options: argparse.Namespace) -> dict[str, Any]:
    """Run the tests that the options describe and return their results; prints and writes nothing.

    Raises ValueError (DataError for files) with the file's name and numbers of lines.
    """
    # Imported here, so that --help need not wait for sacreBLEU.
    from vaswani_tx.training.metrics.scoring import make_text_metric
    from vaswani_tx.training.metrics.text_metrics import check_seed

    references, systems, sources = read_files(options.target, options.systems, options.source)
    samples = options.samples or SAMPLES[options.method]
    result: dict[str, Any] = {
        "target": options.target,
        "baseline": options.systems[0],
        "sentences": len(references[0]),
        "method": options.method,
        "samples": samples,
        "seed": check_seed(),
        "metrics": {},
    }
    choices = {"lowercase": options.lowercase, "tokenize": options.bleu_tokenizer, "language": options.target_language}
    for name in dict.fromkeys(options.metrics):
        signature, found = make_text_metric(name, **choices).paired_test(systems, references, options.method, samples)
        rows = [_row(system, one, found[0]) for system, one in zip(systems, found, strict=True)]
        result["metrics"][name] = {
            "signature": signature,
            "lower_is_better": not BY_NAME[name].higher_is_better,
            "systems": rows,
        }
    if options.examples:
        result["examples"] = examples(systems, references, sources, options.examples)
    return result


def read_files(
    targets: Sequence[str], systems: Sequence[str], source: str | None
) -> tuple[list[list[str]], dict[str, list[str]], list[str] | None]:
    """Return references by file, hypotheses by file name, and sources; DataError unless all have as many lines."""
    repeated = {name for name in systems if systems.count(name) > 1}
    if repeated:
        raise DataError(f"{sorted(repeated)[0]} is named twice: name every system's file once.")
    files = {name: read_lines(name) for name in [*targets, *systems, *([source] if source else [])]}
    expected = len(files[targets[0]])
    if not expected:
        raise DataError(f"{targets[0]} is empty: there are no sentences to compare.")
    for name, lines in files.items():
        if len(lines) != expected:
            raise DataError(
                f"{name} has {len(lines)} lines but {targets[0]} has {expected}: each line must be one sentence of the "
                "same test set, in the same order."
            )
    hypotheses = {name: files[name] for name in systems}
    return [files[name] for name in targets], hypotheses, files[source] if source else None


def examples(
    systems: dict[str, list[str]], references: list[list[str]], sources: list[str] | None, count: int
) -> list[dict[str, Any]]:
    """Return for each system the sentences whose chrF differs most from the baseline's, largest difference first."""
    from vaswani_tx.training.metrics.scoring import make_text_metric

    chrf = make_text_metric("chrf").metric
    groups = list(zip(*references, strict=True))
    scores = {
        name: [chrf.sentence_score(line, group).score for line, group in zip(lines, groups, strict=True)]
        for name, lines in systems.items()
    }
    baseline, *others = systems
    shown = []
    for name in others:
        differences = [other - own for other, own in zip(scores[name], scores[baseline], strict=True)]
        order = sorted(range(len(groups)), key=lambda i: (-abs(differences[i]), i))
        for i in order[:count]:
            lines = {"source": sources[i]} if sources else {}
            lines |= {"reference": groups[i][0], baseline: systems[baseline][i], name: systems[name][i]}
            shown.append({"line": i + 1, "system": name, "difference": differences[i], "sentences": lines})
    return shown


def report(result: dict[str, Any]) -> str:
    """Return the results as a table of text, one block a score."""
    method = {"bootstrap": "paired bootstrap", "randomization": "paired approximate randomization"}[result["method"]]
    lines = [
        f"{result['sentences']:,} sentences, {method}, {result['samples']:,} samples, seed {result['seed']}",
        f"* p < {LEVEL} against the baseline {result['baseline']}",
    ]
    for name, found in result["metrics"].items():
        note = " (lower is better)" if found["lower_is_better"] else ""
        spec = BY_NAME[name]
        lines += ["", f"{spec.title}{note}   {found['signature']}"]
        width = max(len(row["system"]) for row in found["systems"])
        for row in found["systems"]:
            text = f"  {row['system']:<{width}}  {spec.show(row['score']):>6}"
            if "mean" in row:
                text += f"   {spec.show(row['mean']):>6} ± {spec.show(row['half_width'])}"
            if "p_value" in row:
                mark = " *" if row["p_value"] < LEVEL else ""
                text += f"   {row['difference']:+{spec.number}}   p = {row['p_value']:.4f}{mark}"
            lines.append(text)
    for example in result.get("examples", ()):
        lines += ["", f"line {example['line']}: {example['difference']:+.1f} chrF"]
        width = max(map(len, example["sentences"]))
        lines += [f"  {name:<{width}}  {text}" for name, text in example["sentences"].items()]
    return "\n".join(lines)


def _row(system: str, found: Any, baseline: Any) -> dict[str, Any]:
    row: dict[str, Any] = {"system": system, "score": float(found.score)}
    if found.mean is not None:
        row |= {"mean": float(found.mean), "half_width": float(found.ci)}
    if found.p_value is not None:
        difference = row["score"] - float(baseline.score)
        # For a file and its copy sacreBLEU returns the smallest p that there is; but chance always makes as much as 0.
        row |= {"difference": difference, "p_value": float(found.p_value) if difference else 1.0}
    return row


def run(options: argparse.Namespace) -> None:
    """Compare, write what was asked for and print the table; raise ValueError for input that cannot be used."""
    check_writable(options.json)
    result = compare(options)
    if options.json:
        atomic_text(options.json, json.dumps(result, indent=2, ensure_ascii=False) + "\n")
    print(report(result))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parse(argv)
    return exit_status(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
