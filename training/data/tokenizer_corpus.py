"""The parallel text that a tokenizer is trained on, the training, and what its tokens measure.

`vaswani_tx.training.train_tokenizer` is the command and describes its options.
"""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from vaswani_tx.tokenization_vaswani import VaswaniTokenizer
from vaswani_tx.training.data.hub import is_dataset_name
from vaswani_tx.training.data.lines import read_lines
from vaswani_tx.training.data.pairs import iterate_parallel
from vaswani_tx.training.data.parallel import load_parallel
from vaswani_tx.training.data.whole_words import train_with_whole_words
from vaswani_tx.training.errors import DataError
from vaswani_tx.training.files import atomic_folder

SAMPLE_PAIRS = 10_000


class Corpus:
    """The sentences of both sides for the trainer; counts the pairs and keeps the first ones to measure with."""

    def __init__(self, options: argparse.Namespace):
        self.options, self.pairs = options, 0
        self.source: list[str] = []
        self.target: list[str] = []

    def _pieces(self) -> Iterator[tuple[list[str], list[str]]]:
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


def train_and_save(options: argparse.Namespace) -> None:
    """Train, write and report; raise a ValueError that says what is wrong."""
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


def _save(tokenizer: VaswaniTokenizer, folder: Path) -> None:
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
