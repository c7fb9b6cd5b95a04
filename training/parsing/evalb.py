"""Bracketing scores by the definition of evalb with its parameter file COLLINS.prm, as parsing results are published.

    python -m vaswani_tx.training.parsing.evalb GOLD TEST

Both files hold one tree a line; a blank line in TEST is a sentence that the parser gave up (evalb's "skip").

For each pair of trees:

- Words with the tags `, : `` '' .` and -NONE- are removed before positions are counted. If the trees then differ in
  length or in a word, the sentence is an error; errors and skipped sentences are counted and enter no score.
- Brackets are (label, start, end) of every constituent, as a multiset: two equal ones need two partners. Labels end at
  the first `-` or `=`, PRT is ADVP; TOP, ROOT and S1 and constituents without a word do not count.
- Recall and precision are matched brackets over those of the gold trees and of the test trees, summed over sentences.
- Complete match: sentences with all brackets right. Crossing: test brackets that overlap some gold bracket without
  holding it or being held. Tagging accuracy: over the words that are left.
"""

import argparse
import sys
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from vaswani_tx.training.command_line import exit_status, make_parser
from vaswani_tx.training.data.lines import read_lines
from vaswani_tx.training.errors import TreeError
from vaswani_tx.training.parsing.trees import Tree, parse_trees

REMOVED_TAGS = frozenset({"-NONE-", ",", ":", "``", "''", "."})
UNCOUNTED = REMOVED_TAGS | {"TOP", "ROOT", "S1"}
EQUAL_LABELS = {"PRT": "ADVP"}


@dataclass(frozen=True)
class SentenceScore:
    """Counts of one sentence; all are 0 where `status` is not "valid"."""

    status: str = "valid"  # or "error", "skip"
    matched: int = 0
    gold: int = 0
    test: int = 0
    crossing: int = 0
    words: int = 0
    correct_tags: int = 0

    @property
    def complete(self) -> bool:
        """Return whether the sentence has all brackets of the gold tree and no other."""
        return self.status == "valid" and self.gold == self.test == self.matched


def score_sentence(gold: Tree, test: Tree | None, labelled: bool = True) -> SentenceScore:
    """Compare two trees over one sentence; `test` None is a sentence that was given up.

    Args:
        labelled: False compares spans only.
    """
    test_words, test_brackets = _brackets(test) if test is not None else ([], [])
    if not test_words:
        return SentenceScore("skip")
    gold_words, gold_brackets = _brackets(gold)
    if [leaf.word for leaf in gold_words] != [leaf.word for leaf in test_words]:
        return SentenceScore("error")
    if not labelled:
        gold_brackets, test_brackets = ([("", *span) for _, *span in side] for side in (gold_brackets, test_brackets))
    matched = Counter(gold_brackets) & Counter(test_brackets)
    spans = {(start, end) for _, start, end in gold_brackets}
    crossing = sum(any(_cross(span, (start, end)) for span in spans) for _, start, end in test_brackets)
    pairs = zip(gold_words, test_words, strict=True)
    return SentenceScore(
        matched=matched.total(),
        gold=len(gold_brackets),
        test=len(test_brackets),
        crossing=crossing,
        words=len(gold_words),
        correct_tags=sum(_equal(one.label) == _equal(other.label) for one, other in pairs),
    )


def score_trees(gold: Sequence[Tree], test: Sequence[Tree | None], labelled: bool = True) -> dict[str, float | int]:
    """Return the scores of a test set, as from `summarise`; raise ValueError if the numbers of trees differ."""
    if len(gold) != len(test):
        raise ValueError(f"{len(gold)} gold trees but {len(test)} to score: give one for each sentence")
    return summarise([score_sentence(*pair, labelled) for pair in zip(gold, test, strict=True)])


def summarise(scores: Iterable[SentenceScore]) -> dict[str, float | int]:
    """Return evalb's summary: shares in percent, `average_crossing` in brackets a sentence; 0 for shares of nothing.

    Keys: sentences, errors, skipped, valid, recall, precision, f1, complete_match, average_crossing, no_crossing,
    two_or_less_crossing, tagging_accuracy.
    """
    scores = list(scores)
    valid = [score for score in scores if score.status == "valid"]
    names = [name for name in SentenceScore.__annotations__ if name != "status"]
    total = {name: sum(getattr(score, name) for score in valid) for name in names}
    recall, precision = _percent(total["matched"], total["gold"]), _percent(total["matched"], total["test"])
    return {
        "sentences": len(scores),
        "errors": sum(score.status == "error" for score in scores),
        "skipped": sum(score.status == "skip" for score in scores),
        "valid": len(valid),
        "recall": recall,
        "precision": precision,
        "f1": 2 * recall * precision / (recall + precision) if recall + precision else 0.0,
        "complete_match": _percent(sum(score.complete for score in valid), len(valid)),
        "average_crossing": total["crossing"] / len(valid) if valid else 0.0,
        "no_crossing": _percent(sum(score.crossing == 0 for score in valid), len(valid)),
        "two_or_less_crossing": _percent(sum(score.crossing <= 2 for score in valid), len(valid)),
        "tagging_accuracy": _percent(total["correct_tags"], total["words"]),
    }


def report(summary: dict[str, float | int], tags: bool = True) -> str:
    """Return the summary as text; `tags` False omits the tagging accuracy, where tags were not predicted."""
    # Imported here, so that --help need not wait for sacreBLEU.
    from vaswani_tx.training.metrics.scoring import aligned

    rows = [
        ("sentences", f"{summary['sentences']}   ({summary['errors']} errors, {summary['skipped']} skipped)"),
        ("labelled recall", f"{summary['recall']:.2f}"),
        ("labelled precision", f"{summary['precision']:.2f}"),
        ("labelled F1", f"{summary['f1']:.2f}"),
        ("complete match", f"{summary['complete_match']:.2f} %"),
        ("average crossing", f"{summary['average_crossing']:.2f}"),
        ("no crossing", f"{summary['no_crossing']:.2f} %"),
        ("2 or less crossing", f"{summary['two_or_less_crossing']:.2f} %"),
    ]
    if tags:
        rows.append(("tagging accuracy", f"{summary['tagging_accuracy']:.2f} %"))
    return "\n".join(aligned(rows))


def read_lines_of_trees(path: str | Path) -> list[Tree | None]:
    """Return one tree a line, None for a blank line; a TreeError names file and line of anything else."""
    trees: list[Tree | None] = []
    for number, line in enumerate(read_lines(path), start=1):
        try:
            found = parse_trees(line, str(path))
        except TreeError as error:
            # The reader counts lines within this one line.
            raise TreeError(str(error).replace(f"{path}, line 1:", f"{path}, line {number}:", 1)) from None
        if len(found) > 1:
            raise TreeError(f"{path}, line {number}: {len(found)} trees are on one line. Write one tree a line.")
        trees.append(found[0] if found else None)
    return trees


def _brackets(tree: Tree) -> tuple[list[Tree], list[tuple[str, int, int]]]:
    """Return the words that count, and (label, start, end) of the brackets that do, as positions in these words."""
    words: list[Tree] = []
    brackets: list[tuple[str, int, int]] = []

    def visit(node: Tree) -> None:
        if node.is_leaf:
            if node.label not in REMOVED_TAGS:
                words.append(node)
            return
        start = len(words)
        for child in node.children:
            visit(child)
        label = node.label.split("-")[0].split("=")[0]
        if len(words) > start and label not in UNCOUNTED:
            brackets.append((_equal(label), start, len(words)))

    visit(tree)
    return words, brackets


def _equal(label: str) -> str:
    return EQUAL_LABELS.get(label, label)


def _cross(one: tuple[int, int], other: tuple[int, int]) -> bool:
    """Return whether two spans overlap and neither holds the other."""
    return one[0] < other[0] < one[1] < other[1] or other[0] < one[0] < other[1] < one[1]


def _percent(part: int, whole: int) -> float:
    return 100.0 * part / whole if whole else 0.0


def run(options: argparse.Namespace) -> None:
    """Score one file against another and print the summary; raise TreeError for files that do not match."""
    gold, test = read_lines_of_trees(options.gold), read_lines_of_trees(options.test)
    if None in gold:
        raise TreeError(f"{options.gold}, line {gold.index(None) + 1}: a gold tree is missing. Give one a line.")
    if len(gold) != len(test):
        raise TreeError(f"{options.gold} has {len(gold)} trees but {options.test} {len(test)}: one for each sentence.")
    print(report(score_trees(gold, test)))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = make_parser(__doc__, "python -m vaswani_tx.training.parsing.evalb")
    parser.add_argument("gold", help="gold trees, one a line")
    parser.add_argument("test", help="trees to score, one a line, blank where there is none")
    options = parser.parse_args(argv)
    return exit_status(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
