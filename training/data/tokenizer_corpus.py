"""The parallel text that a tokenizer, of both sides or of each, is trained on, the training, and its measures.

`vaswani_tx.training.train_tokenizer` is the command and describes its options.
"""

import argparse
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from vaswani_tx.token_texts_vaswani import source_of, target_of
from vaswani_tx.tokenization_vaswani import VaswaniTokenizer
from vaswani_tx.tokenizer_training import check_vocab_size
from vaswani_tx.training.data.hub import is_dataset_name
from vaswani_tx.training.data.lines import read_lines
from vaswani_tx.training.data.pairs import iterate_parallel
from vaswani_tx.training.data.parallel import load_parallel
from vaswani_tx.training.data.whole_words import train_with_whole_words
from vaswani_tx.training.errors import DataError
from vaswani_tx.training.files import atomic_folder

SAMPLE_PAIRS = 10_000
SIDES = ("source", "target")


class Corpus:
    """The sentences of some sides for the trainer; counts the pairs and keeps the first ones to measure with.

    Args:
        sides: names of the sides.
    """

    def __init__(self, options: argparse.Namespace, sides: Sequence[str] = SIDES):
        self.options, self.sides, self.pairs = options, sides, 0
        self.first: dict[str, list[str]] = {side: [] for side in sides}

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
        for piece in self._pieces():
            texts = dict(zip(SIDES, piece, strict=True))
            for side in self.sides:
                self.first[side] += texts[side][: max(0, SAMPLE_PAIRS - len(self.first[side]))]
            self.pairs += len(piece[0])
            yield from (texts[side] for side in self.sides)


def train_and_save(options: argparse.Namespace) -> None:
    """Train, write and report; raise a ValueError that says what is wrong."""
    output: Path = options.output
    if output.exists() and not output.is_dir():
        raise DataError(f"{output} is a file: give a folder as --output.")
    occupied = output.is_dir() and any(output.iterdir())
    if occupied and not options.overwrite:
        raise DataError(f"{output} exists and is not empty. Give another --output, or --overwrite to replace it.")
    _check_choices(options)
    start = time.perf_counter()
    if options.source_vocab_size is None:
        corpora = [Corpus(options)]
        tokenizer = _train(corpora[0], options, options.vocab_size, options.whole_words)
    else:
        corpora = [Corpus(options, (side,)) for side in SIDES]
        source = _train(corpora[0], options, options.source_vocab_size, options.source_whole_words)
        tokenizer = VaswaniTokenizer.pair(source, _train(corpora[1], options, options.vocab_size, options.whole_words))
    seconds = time.perf_counter() - start
    with atomic_folder(output, replace=output.exists()) as folder:
        _save(tokenizer, folder)
    print(f"{_entries(tokenizer)} from {corpora[0].pairs} pairs in {seconds:.1f} s")
    for side, of_side in zip(SIDES, (source_of, target_of), strict=True):
        sentences = next(corpus.first[side] for corpus in corpora if side in corpus.sides)
        print(f"{side}: {_measure(of_side(tokenizer), sentences)}")
    print(f"written to {output}")


def _check_choices(options: argparse.Namespace) -> None:
    if options.whole_words and options.mask_token:
        raise DataError("--whole-words and --mask-token do not go together yet: leave one of them out.")
    if options.source_whole_words and options.source_vocab_size is None:
        raise DataError(
            "--source-whole-words needs --source-vocab-size: words of the one vocabulary are --whole-words."
        )
    if options.mask_token and options.source_vocab_size is not None:
        raise DataError(
            "--mask-token is of masked language models, which read one vocabulary: leave out --source-vocab-size, or "
            "join two tokenizers with VaswaniTokenizer.pair."
        )
    if options.source_vocab_size is not None:  # now, not when the source's vocabulary has been learned
        for name in ("source_vocab_size", "vocab_size"):
            check_vocab_size(name, getattr(options, name), {})


def _train(corpus: Corpus, options: argparse.Namespace, vocab_size: int, whole_words: str | None) -> VaswaniTokenizer:
    # Without a terminal the library's bar writes nothing but blank lines.
    bar = sys.stderr.isatty() and not options.quiet
    settings = {"min_frequency": options.min_frequency, "show_progress": bar}
    if options.mask_token:
        settings["mask_token"] = options.mask_token
    if whole_words:
        return train_with_whole_words(corpus, read_lines(whole_words), vocab_size, **settings)
    return VaswaniTokenizer.train(corpus, vocab_size, **settings)


def _entries(tokenizer: VaswaniTokenizer) -> str:
    if not tokenizer.has_target:
        return f"vocabulary: {len(tokenizer)} entries"
    return f"vocabularies: {len(tokenizer.source)} entries of the source and {len(tokenizer.target)} of the target"


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
