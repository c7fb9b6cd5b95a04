"""Parse the sentences of gold trees with a trained model and score the brackets as evalb does.

    vaswani-tx evaluate parsing --model runs/parsing/model --trees data/test.mrg --output parsed.mrg

`--trees` takes files or folders in Penn Treebank brackets; traces and function tags are removed first. The model sees
only the words. Each output becomes a tree over all words, repaired where it is malformed; the words, and unless the
model learned tags the gold tags, are inserted. `--output` keeps the trees, one a line, `--json` every number.

The baseline needs no learning: a right-branching tree over each sentence, its last punctuation under
the root, all inner brackets with the one label that scores best.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from vaswani_tx.training.command_line import check_writable, exit_status, make_parser, positive_int
from vaswani_tx.training.files import atomic_text
from vaswani_tx.training.parsing.evalb import REMOVED_TAGS, report, score_trees
from vaswani_tx.training.parsing.linear import ROOT, count_faults
from vaswani_tx.training.parsing.outputs import learned_leaves, score_outputs
from vaswani_tx.training.parsing.parse import add_decoding, decoding, fault_line, load_parser, parse_sentences
from vaswani_tx.training.parsing.trees import Tree, clean_trees, write_trees


def evaluate(model: Any, tokenizer: Any, gold: Sequence[Tree], **options: Any) -> tuple[dict[str, Any], list[Tree]]:
    """Return the scores of a model on cleaned trees, and its trees in their order.

    Args:
        options: handed to `parse_sentences`.

    Returns evalb's summary with `unlabelled_f1`, `faults` (see `count_faults`), `right_branching` and `tags`, whether
    the model predicted them.
    """
    results, _ = parse_sentences(model, tokenizer, [tree.words() for tree in gold], **options)
    leaves = learned_leaves(tokenizer)
    tags = leaves == "tags"
    summary, parsed = score_outputs(results, gold, leaves)
    scores: dict[str, Any] = dict(summary)
    scores["unlabelled_f1"] = score_trees(gold, parsed, labelled=False)["f1"]
    scores |= {"faults": count_faults(results), "right_branching": score_right_branching(gold), "tags": tags}
    return scores, parsed


def right_branching(tree: Tree, label: str) -> Tree:
    """Return the right-branching tree over the tagged words of `tree`; its last punctuation is under the root."""
    leaves = tree.leaves()
    end = len(leaves)
    while end > 1 and leaves[end - 1].label in REMOVED_TAGS:
        end -= 1
    inner = leaves[end - 1]
    for one in reversed(leaves[1 : end - 1]):
        inner = Tree(label, (one, inner))
    return Tree(ROOT, (leaves[0], *([inner] if end > 1 else []), *leaves[end:]))


def score_right_branching(gold: Sequence[Tree]) -> dict[str, float | str]:
    """Return `f1` with the best `label` for all inner brackets, and `unlabelled_f1`."""
    labels = sorted({part.label for tree in gold for part in tree.constituents()})
    found = {label: score_trees(gold, [right_branching(tree, label) for tree in gold])["f1"] for label in labels}
    label = max(found, key=found.get)
    trees = [right_branching(tree, label) for tree in gold]
    return {"label": label, "f1": found[label], "unlabelled_f1": score_trees(gold, trees, labelled=False)["f1"]}


def describe(scores: dict[str, Any]) -> str:
    """Return the scores as text."""
    base = scores["right_branching"]
    return "\n".join(
        [
            report(scores, tags=scores["tags"]),
            f"unlabelled F1       {scores['unlabelled_f1']:.2f}",
            f"right-branching     {base['f1']:.2f} labelled F1 (all {base['label']}), "
            f"{base['unlabelled_f1']:.2f} unlabelled",
            fault_line(scores["faults"], scores["sentences"]),
        ]
    )


def run(options: argparse.Namespace) -> None:
    """Parse the sentences of the gold trees, print the scores and write what was asked for."""
    for path in (options.output, options.json):
        check_writable(path)
    gold = clean_trees(options.trees)[0][: options.limit]
    model, tokenizer = load_parser(options)
    scores, parsed = evaluate(model, tokenizer, gold, **decoding(options))
    if options.output:
        atomic_text(options.output, write_trees(parsed))
    if options.json:
        settings = {name: str(value) if isinstance(value, Path) else value for name, value in vars(options).items()}
        atomic_text(options.json, json.dumps(scores | {"settings": settings}, indent=1, ensure_ascii=False) + "\n")
    print(describe(scores))


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    parser = make_parser(__doc__, "vaswani-tx evaluate parsing")
    add_decoding(parser)
    parser.add_argument("--trees", nargs="+", required=True, metavar="PATH", help="gold trees: files or folders")
    parser.add_argument("--limit", type=positive_int, metavar="N", help="only the first N trees")
    parser.add_argument("--output", type=Path, metavar="FILE", help="write the model's trees here, one a line")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the scores and settings here")
    options = parser.parse_args(argv)
    return exit_status(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
