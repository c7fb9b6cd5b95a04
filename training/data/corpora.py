"""Training corpora, one or several: where their text comes from, and how much of each an epoch holds.

    recipe -> corpora_of -> Corpus.chunks -> text
A weight says how often the pairs of a corpus come in an epoch: 2 is twice, 0.5 a different half of them each epoch.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from hashlib import blake2b
from typing import Any

from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.data.filters import FilterCounts
from vaswani_tx.training.data.parallel import hub_chunks, is_dataset_name, open_hub
from vaswani_tx.training.data.readers import (
    READERS,
    Chunk,
    Paths,
    as_list,
    check_files,
    read_files,
    suffix,
    without_empty,
)
from vaswani_tx.training.errors import DataError

HASH_BLOCK = 1 << 22
# With the whole of WMT English-German (4.5 million pairs) a joint vocabulary of 37,000 changes little after this many.
TOKENIZER_PAIRS = 2_000_000


@dataclass(frozen=True)
class Corpus:
    """One training corpus: text files, files of both sides, or a data set of the Hub; fields as `load_parallel`'s."""

    source: Paths
    target: Paths | None = None
    weight: float = 1.0
    split: str = "train"
    config: str | None = None
    source_field: str | int = "source"
    target_field: str | int = "target"
    empty: str = "error"

    def __post_init__(self):
        if self.empty not in ("error", "drop"):
            raise DataError(f"empty={self.empty!r}: choose 'error' or 'drop'.")
        if not 0 < self.weight < float("inf"):
            raise DataError(f"{self.name}: weight is {self.weight}, it must be a number greater than 0.")

    @property
    def from_hub(self) -> bool:
        return self.target is None and is_dataset_name(self.source)

    @property
    def files(self) -> list[str]:
        """The names that its chunks carry."""
        return [f"{os.fspath(self.source)} ({self.split})"] if self.from_hub else as_list(self.source)

    @property
    def name(self) -> str:
        """For messages: its first file."""
        files = self.files
        return files[0] + (f" and {len(files) - 1} more" if len(files) > 1 else "") if files else "a corpus"

    def chunks(self, counts: FilterCounts | None = None, streaming: bool = False) -> Iterator[Chunk]:
        """Its pairs in order; blank ones are counted into `counts`, or raise as `empty` says.

        With `streaming` a data set of the Hub is read over the network, and a blank pair raises at once.
        """
        if self.from_hub:
            dataset = open_hub(os.fspath(self.source), self.split, self.config, True) if streaming else self._dataset
            chunks = hub_chunks(dataset, self.files[0], self.source_field, self.target_field)
        else:
            chunks = read_files(self.source, self.target, self.source_field, self.target_field)
        return without_empty(chunks, self.empty, counts, at_once=streaming)

    def fingerprint(self) -> list[Any]:
        """What decides its pairs, for a hash: the content of its files, not their names, and how they are read."""
        if self.from_hub:
            return ["hub", self._dataset._fingerprint, self.source_field, self.target_field, self.empty]
        sources, targets = as_list(self.source), as_list(self.target)
        check_files(sources, targets)
        kinds = [suffix(path) if suffix(path) in READERS else "text" for path in sources]
        fields = [] if targets else [str(self.source_field), str(self.target_field)]
        return [
            "files",
            kinds,
            *([_content_hash(path) for path in side] for side in (sources, targets)),
            fields,
            self.empty,
        ]

    @cached_property
    def _dataset(self) -> Any:
        return open_hub(os.fspath(self.source), self.split, self.config)


def _content_hash(path: str) -> str:
    digest = blake2b(digest_size=20)
    with open(path, "rb") as file:
        while block := file.read(HASH_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def corpora_of(arguments: TranslationSettings) -> list[Corpus]:
    """The training corpora of a recipe: the entries of `corpora`, or the one of `train_source`.

    What an entry leaves out is taken from the recipe's own keys (train_split, dataset_config, source_field and
    target_field); relative names start from data_dir.
    """
    entries = arguments.corpora or [{"source": arguments.train_source, "target": arguments.train_target}]
    defaults = {
        "weight": 1.0, "split": arguments.train_split, "config": arguments.dataset_config,
        "source_field": arguments.source_field, "target_field": arguments.target_field,
    }  # fmt: skip
    corpora = []
    for entry in entries:
        values = defaults | {name: value for name, value in entry.items() if value is not None}
        target = values.get("target")
        values["source"] = _placed(arguments.data_dir, values["source"], hub=target is None)
        values["target"] = None if target is None else _placed(arguments.data_dir, target)
        corpora.append(Corpus(**values, empty=arguments.empty_lines))
    return corpora


def _placed(data_dir: str | None, paths: Paths, hub: bool = False) -> Paths:
    if isinstance(paths, (list, tuple)):
        return tuple(_placed(data_dir, path) for path in paths)
    path = os.fspath(paths)
    joined = os.path.join(data_dir, path) if data_dir else path
    # A name on the Hub stands beside files of data_dir in one recipe: it is no file of that folder.
    return path if hub and not os.path.exists(joined) and is_dataset_name(path) else joined


def training_texts(
    arguments: TranslationSettings, limit: int | None = None, streaming: bool | None = None
) -> Iterator[list[str]]:
    """Lists of sentences of both sides of all corpora, for a tokenizer to be trained on.

    Args:
        limit: pairs of each corpus, the first ones; None is all, or TOKENIZER_PAIRS of a stream.
        streaming: the recipe's key of that name where None.

    Raises:
        DataError: as the training data themselves.
    """
    streaming = arguments.streaming if streaming is None else streaming
    limit = limit or (TOKENIZER_PAIRS if streaming else None)
    for corpus in corpora_of(arguments):
        left = limit
        # These counts are for nobody: the same pairs are counted and reported when they are tokenised.
        for chunk in corpus.chunks(FilterCounts(), streaming):
            yield chunk.source[:left]
            yield chunk.target[:left]
            if left is not None:
                left -= len(chunk.source)
                if left <= 0:
                    break
