"""Learns one byte-pair vocabulary from both sides of parallel text and writes it as a tokenizer folder.

    python -m vaswani_tx.training.train_tokenizer --source train.en --target train.de --vocab-size 10000 --output tokenizer

Runs on a laptop: 29,000 pairs take about a second, a million pairs about a minute. The folder loads with
`AutoTokenizer.from_pretrained` after `import vaswani_tx`; its `tokenizer.json` also works without this package.

The text is given as to `train_translation`: line-aligned text files (several: `--source a.en b.en --target a.de b.de`),
one or more .jsonl, .tsv or .parquet files as `--source` alone with `--source-field` and `--target-field`, or the name
of a data set on the Hub with `--split` and `--dataset-config`. Train on the training split only.

`--whole-words FILE` names words, one a line, that stay one token each whatever they are made of: symbols, not language.

The folder is written under another name and renamed: it is there whole or not at all. An existing one is only replaced
with `--overwrite`.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from vaswani_tx.training.data.readers import iterate_parallel
from vaswani_tx.training.errors import DataError
from vaswani_tx.training.files import atomic_folder

if TYPE_CHECKING:
    from vaswani_tx.tokenization_vaswani import VaswaniTokenizer


SAMPLE_PAIRS = 10_000


class Corpus:
    """The sentences of both sides for the trainer; counts the pairs and keeps the first ones to measure with."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.pairs = options, 0
        self.source: list[str] = []
        self.target: list[str] = []

    def _pieces(self) -> Iterator[tuple[list[str], list[str]]]:
        from vaswani_tx.training.data.parallel import is_dataset_name, load_parallel

        options = self.options
        files = (options.source, options.target)
        fields = {"source_field": options.source_field, "target_field": options.target_field, "empty": options.empty}
        if options.target is None and len(options.source) == 1 and is_dataset_name(options.source[0]):
            dataset = load_parallel(options.source[0], split=options.split, name=options.dataset_config, **fields)
            for batch in dataset.iter(SAMPLE_PAIRS):
                yield batch["source"], batch["target"]
        else:
            for chunk in iterate_parallel(*files, **fields):
                yield chunk.source, chunk.target

    def __iter__(self) -> Iterator[list[str]]:
        for source, target in self._pieces():
            missing = max(0, SAMPLE_PAIRS - len(self.source))
            self.source += source[:missing]
            self.target += target[:missing]
            self.pairs += len(source)
            yield source
            yield target


def parse(argv: list[str] | None) -> argparse.Namespace:
    """The command line as a namespace."""
    parser = argparse.ArgumentParser(
        prog="python -m vaswani_tx.training.train_tokenizer",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
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
        "--vocab-size", type=int, default=37000, help="entries, special tokens and bytes included (37000)"
    )
    parser.add_argument(
        "--min-frequency", type=int, default=2, help="pairs of tokens seen less often are not merged (2)"
    )
    parser.add_argument("--whole-words", metavar="FILE", help="words that are never cut, one a line")
    parser.add_argument("--mask-token", metavar="TOKEN", help="control token of masked language models, such as <mask>")
    parser.add_argument("--output", type=Path, required=True, help="folder to write")
    parser.add_argument("--overwrite", action="store_true", help="replace an existing folder")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    return parser.parse_args(argv)


def run(options: argparse.Namespace) -> None:
    """Train, write, report; raises a ValueError that says what is wrong."""
    from vaswani_tx.tokenization_vaswani import VaswaniTokenizer
    from vaswani_tx.training.data.whole_words import train_with_whole_words
    from vaswani_tx.training.metrics.scoring import read_lines

    output: Path = options.output
    if output.exists() and not output.is_dir():
        raise DataError(f"{output} is a file: give a folder as --output.")
    occupied = output.is_dir() and any(output.iterdir())
    if occupied and not options.overwrite:
        raise DataError(f"{output} exists and is not empty. Give another --output, or --overwrite to replace it.")
    corpus = Corpus(options)
    start = time.perf_counter()
    # Without a terminal the library's bar writes nothing but blank lines.
    bar = sys.stderr.isatty() and not options.quiet
    settings = {"min_frequency": options.min_frequency, "show_progress": bar}
    if options.whole_words and options.mask_token:
        raise DataError("--whole-words and --mask-token do not go together yet: leave one of them out.")
    if options.mask_token:
        settings["mask_token"] = options.mask_token
    if options.whole_words:
        words = read_lines(options.whole_words)
        tokenizer = train_with_whole_words(corpus, words, options.vocab_size, **settings)
    else:
        tokenizer = VaswaniTokenizer.train(corpus, options.vocab_size, **settings)
    seconds = time.perf_counter() - start
    with atomic_folder(output, replace=output.exists()) as folder:
        _save(tokenizer, folder)
    print(f"vocabulary: {len(tokenizer)} entries from {corpus.pairs} pairs in {seconds:.1f} s")
    for side in ("source", "target"):
        print(f"{side}: {_measure(tokenizer, getattr(corpus, side))}")
    print(f"written to {output}")


def _save(tokenizer: "VaswaniTokenizer", folder: Path) -> None:
    try:
        tokenizer.save_pretrained(folder)
    except Exception as error:
        if "os error" in str(error):  # how the tokenizers library reports a full disk: as a bare Exception
            raise OSError(str(error)) from error
        raise


def _measure(tokenizer: Any, sentences: list[str]) -> str:
    lengths = [len(ids) for ids in tokenizer(sentences, return_attention_mask=False, verbose=False)["input_ids"]]
    tokens = sum(lengths)
    characters = sum(map(len, sentences)) / max(1, tokens - len(sentences))
    return (
        f"{tokens / len(sentences):.1f} tokens a sentence with </s> (longest {max(lengths)}), {characters:.2f} "
        f"characters a token, in the first {len(sentences)} pairs"
    )


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    options = parse(argv)
    try:
        run(options)
    except ValueError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
