"""Make the data of `vaswani-tx train parsing` from treebank files: words, linearised trees and a vocabulary.

    python -m vaswani_tx.training.parsing.prepare --train wsj/02 ... wsj/21 --validation wsj/22 --test wsj/23 \\
        --output data/wsj
    vaswani-tx train parsing training/recipes/wsj_parsing.yaml
    vaswani-tx evaluate parsing --model runs/wsj_parsing/averaged --trees data/wsj/test.mrg

Files or folders in Penn Treebank brackets. Traces and function tags are removed (training/parsing/trees.py). OUTPUT
gets for each part PART.words (a sentence a line), PART.trees (its linearised tree), PART.mrg (the cleaned tree), and
`tokenizer/`, a joint vocabulary learned on the training part in which every symbol of a tree is one token, with
`symbols.txt` and `parsing.json` (counts, settings). It is there whole or not at all.

With `--source-vocab-size` the sentences get a vocabulary of their own, and so an embedding (train with the same
`--source-vocab-size`); that of the trees then holds their symbols, bytes, and with `--leaves words` up to
`--vocab-size` entries for the words.
"""

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vaswani_tx.limits import VOCABULARY
from vaswani_tx.training.command_line import exit_status, make_parser
from vaswani_tx.training.data.lines import words_of
from vaswani_tx.training.errors import TreeError
from vaswani_tx.training.files import atomic_folder
from vaswani_tx.training.parsing.linear import LEAVES, linearise, symbols_of
from vaswani_tx.training.parsing.trees import Tree, clean_trees, sentence, write_trees

PARTS = ("train", "validation", "test")
MARK = "parsing.json"


def write_parts(
    parts: dict[str, list[Tree]],
    folder: Path,
    vocab_size: int,
    leaves: str = "XX",
    dropped: dict[str, int] | None = None,
    replace: bool = False,
    source_vocab_size: int | None = None,
    **notes: Any,
) -> dict[str, Any]:
    """Write the parts of a treebank and the vocabulary of `parts["train"]` as the module's head says.

    Args:
        parts: cleaned trees by name.
        vocab_size: entries, the symbols, 4 special tokens and 256 bytes included.
        leaves: the symbol of a word in a linearised tree, one of LEAVES (training/parsing/linear.py).
        dropped: how many trees of each part held no word; for the report.
        replace: exchange an existing folder.
        source_vocab_size: entries of a vocabulary of the sentences alone; None: one for sentences and trees.
        notes: further entries of `parsing.json`, which is returned.
    """
    # Imported here, so that --help need not wait for it.
    from vaswani_tx.token_texts_vaswani import source_of, target_of

    symbols = symbols_of(parts["train"], leaves)
    lines = {
        name: ([sentence(tree) for tree in trees], [linearise(tree, leaves) for tree in trees])
        for name, trees in parts.items()
    }
    tokenizer = _train_tokenizer(*lines["train"], symbols, vocab_size, leaves, source_vocab_size)
    sizes = {"vocabulary": len(target_of(tokenizer))}
    if source_vocab_size is not None:
        sizes["source_vocabulary"] = len(source_of(tokenizer))
    report: dict[str, Any] = {"leaves": leaves, **sizes, "symbols": len(symbols), **notes}
    unknown = {name: set(symbols_of(trees, leaves)) - set(symbols) for name, trees in parts.items()}
    report["parts"] = {name: _measure(parts[name], lines[name], unknown[name], tokenizer) for name in parts}
    for name, count in (dropped or {}).items():
        report["parts"][name]["dropped"] = count
    with atomic_folder(folder, replace=replace) as target:
        for name, trees in parts.items():
            for suffix, texts in zip(("words", "trees"), lines[name], strict=True):
                (target / f"{name}.{suffix}").write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
            (target / f"{name}.mrg").write_text(write_trees(trees), encoding="utf-8")
        (target / "symbols.txt").write_text("".join(f"{symbol}\n" for symbol in symbols), encoding="utf-8")
        (target / MARK).write_text(json.dumps(report, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
        tokenizer.save_pretrained(target / "tokenizer")
    return report


def _train_tokenizer(
    words: list[str], trees: list[str], symbols: list[str], vocab_size: int, leaves: str, source_vocab_size: int | None
) -> Any:
    """Return the tokenizer of both sides, or one of the sentences and one of the trees as a pair."""
    from vaswani_tx.tokenization_vaswani import MINIMAL_VOCAB_SIZE, VaswaniTokenizer
    from vaswani_tx.training.data.whole_words import add_whole_words, train_with_whole_words

    if source_vocab_size is None:
        return train_with_whole_words(iter((words, trees)), symbols, vocab_size, show_progress=False)
    source = VaswaniTokenizer.train(iter([words]), source_vocab_size, show_progress=False)
    if leaves == "words":
        target = train_with_whole_words(iter([trees]), symbols, vocab_size, show_progress=False)
    else:  # nothing but symbols, from which no merges could be learned
        of_bytes = VaswaniTokenizer.train(iter([words]), MINIMAL_VOCAB_SIZE, show_progress=False)
        target = add_whole_words(of_bytes, symbols)
    return VaswaniTokenizer.pair(source, target)


def describe(report: dict[str, Any]) -> Iterator[str]:
    """Yield the lines of the report."""
    for name, part in report["parts"].items():
        line = f"{name}: {part['trees']:,} trees, {part['words'] / part['trees']:.1f} words and "
        line += f"{part['symbols'] / part['trees']:.1f} symbols a tree; longest {part['longest_source']} and "
        line += f"{part['longest_target']} tokens"
        if part["dropped"]:
            line += f"; {part['dropped']} without a word dropped"
        if part["unknown_symbols"]:
            line += f"; symbols that the training part lacks: {' '.join(part['unknown_symbols'])}"
        yield line
    if "source_vocabulary" in report:
        yield f"vocabulary of the sentences: {report['source_vocabulary']:,} entries"
    of_trees = " of the trees" if "source_vocabulary" in report else ""
    yield f"vocabulary{of_trees}: {report['vocabulary']:,} entries, {report['symbols']} of them symbols of trees"


def _measure(
    trees: list[Tree], lines: tuple[list[str], list[str]], unknown: set[str], tokenizer: Any
) -> dict[str, Any]:
    """Count one part; its longest source and target in tokens are what the recipe's limits must allow."""
    encoded = (tokenizer(lines[0], verbose=False), tokenizer(text_target=lines[1], verbose=False))
    longest = [max(map(len, side["input_ids"])) for side in encoded]
    return {
        "trees": len(trees),
        "words": sum(len(tree.words()) for tree in trees),
        "symbols": sum(len(words_of(line)) for line in lines[1]),
        "longest_source": longest[0],
        "longest_target": longest[1],
        "unknown_symbols": sorted(unknown),
        "dropped": 0,
    }


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = make_parser(__doc__, "python -m vaswani_tx.training.parsing.prepare")
    for name in PARTS:
        parser.add_argument(
            f"--{name}", nargs="+", required=name == "train", metavar="PATH", help=f"trees of the {name} part"
        )
    parser.add_argument(
        "--vocab-size", type=VOCABULARY, default=16000, help="entries of the vocabulary (16000, the paper's)"
    )
    parser.add_argument(
        "--source-vocab-size", type=VOCABULARY, help="entries of a vocabulary of the sentences alone; default: one"
    )
    parser.add_argument("--leaves", choices=LEAVES, default="XX", help="symbol of a word in a tree (XX)")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace a folder that this command wrote")
    return parser.parse_args(argv)


def check_output(folder: Path, overwrite: bool) -> None:
    """Raise TreeError unless `folder` may be written: absent, empty, or with `overwrite` written by this command."""
    if folder.exists() and not folder.is_dir():
        raise TreeError(f"{folder} is a file: give a folder as --output.")
    if folder.is_dir() and any(folder.iterdir()):
        if not (folder / MARK).is_file():
            raise TreeError(f"{folder} holds other files: give another --output.")
        if not overwrite:
            raise TreeError(f"{folder} exists: give another --output, or --overwrite to replace it.")


def run(options: argparse.Namespace) -> None:
    """Read the trees, write the data, and print how much there is."""
    check_output(options.output, options.overwrite)
    given = {name: getattr(options, name) for name in PARTS if getattr(options, name)}
    read = {name: clean_trees(paths) for name, paths in given.items()}
    parts = {name: trees for name, (trees, _) in read.items()}
    dropped = {name: count for name, (_, count) in read.items()}
    replace = options.output.exists()
    report = write_parts(
        parts, options.output, options.vocab_size, options.leaves, dropped, replace, options.source_vocab_size,
        files=given,
    )  # fmt: skip
    print("\n".join(describe(report)))
    print(f"written to {options.output}")


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parse(argv)
    return exit_status(lambda: run(options))


if __name__ == "__main__":
    sys.exit(main())
