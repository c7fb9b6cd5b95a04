"""Learn one byte-pair vocabulary from both sides of parallel text, or one of each, and write a tokenizer folder.

    vaswani-tx train tokenizer --source train.en --target train.de --vocab-size 10000 --output tokenizer

With `--source-vocab-size` each side gets a vocabulary of its own, learned from its text alone, as for languages in
different scripts; `--vocab-size` is then the target's. The folder is one tokenizer all the same (`text_target=` encodes
the target), and the model gets two embeddings. Train on it with the same `--source-vocab-size`:

    vaswani-tx train tokenizer --source train.en --target train.el --source-vocab-size 8000 --vocab-size 10000 \
        --output tokenizer

Runs on a laptop: 29,000 pairs take about a second, a million pairs about a minute. The folder loads with
`AutoTokenizer.from_pretrained` after `import vaswani_tx`; its `tokenizer.json` also works without this package.

The text is given as to `vaswani-tx train translation`: line-aligned text files (several: `--source a.en b.en --target
a.de b.de`), one or more .jsonl, .json, .csv, .tsv or .parquet files as `--source` alone with `--source-field` and
`--target-field`, all of them also compressed (.gz, .bz2, .xz, .zst), or the name of a data set on the Hub with
`--split` and `--dataset-config`. Train on the training split only.

`--whole-words FILE` names words, one a line, that stay one token each whatever they are made of: symbols, not language.
With two vocabularies they are the target's, and `--source-whole-words FILE` names the source's.

The folder is written under another name and renamed: it is there whole or not at all. An existing one is only replaced
with `--overwrite`.
"""

import argparse
import sys
from pathlib import Path

from vaswani_tx.limits import VOCABULARY, whole
from vaswani_tx.training.command_line import exit_status, make_parser


def parse(argv: list[str] | None) -> argparse.Namespace:
    """Read the command line; the header of this file is its manual."""
    parser = make_parser(__doc__, "vaswani-tx train tokenizer")
    parser.add_argument(
        "--source", nargs="+", required=True, help="source text files, files of both sides, or a data set"
    )
    parser.add_argument("--target", nargs="+", help="target text files, line-aligned with --source")
    parser.add_argument("--source-field", default="source", help="field or column of the source; a number in plain TSV")
    parser.add_argument("--target-field", default="target", help="field or column of the target; a number in plain TSV")
    parser.add_argument("--split", default="train", help="split of a Hub data set (train)")
    parser.add_argument("--dataset-config", help="configuration of a Hub data set, such as de-en")
    parser.add_argument("--empty", default="error", choices=("error", "drop"), help="what pairs with a blank side are")
    parser.add_argument(
        "--vocab-size", type=VOCABULARY, default=37000, help="entries, special tokens and bytes included (37000)"
    )
    parser.add_argument("--source-vocab-size", type=VOCABULARY, help="entries of a vocabulary of the source alone")
    parser.add_argument(
        "--min-frequency", type=whole(0), default=2, help="pairs of tokens seen less often are not merged (2)"
    )
    parser.add_argument("--whole-words", metavar="FILE", help="words that are never cut, one a line")
    parser.add_argument("--source-whole-words", metavar="FILE", help="those of the source, with --source-vocab-size")
    parser.add_argument("--mask-token", metavar="TOKEN", help="control token of masked language models, such as <mask>")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(argv)


def main(argv: list[str] | None = None) -> int:
    """Run the command and return its exit status."""
    options = parse(argv)
    # Imported here, so that --help need not wait for torch.
    from vaswani_tx.training.data.tokenizer_corpus import train_and_save

    return exit_status(lambda: train_and_save(options))


if __name__ == "__main__":
    sys.exit(main())
