"""Training corpora, one or several: the source of their text, and how much of each an epoch holds.

    recipe -> corpora_of -> Corpus.chunks -> text
A weight says how often the pairs of a corpus come in an epoch: 2 is twice, 0.5 a different half of them each epoch.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from vaswani_tx.training.config.translation import tags_in
from vaswani_tx.training.data.filters import FilterCounts
from vaswani_tx.training.data.hub import is_dataset_name, open_hub
from vaswani_tx.training.data.lines import compression_of, format_of
from vaswani_tx.training.data.pairs import check_files, hub_pairs, read_pairs, without_empty
from vaswani_tx.training.data.readers import Chunk, Paths, as_list, has_fields
from vaswani_tx.training.data.sources import CorpusSource, corpus_entries, placed
from vaswani_tx.training.errors import DataError

if TYPE_CHECKING:
    from vaswani_tx.training.config.translation import TranslationSettings

HASH_BLOCK = 1 << 22
# With the whole of WMT English-German (4.5 million pairs) a joint vocabulary of 37,000 changes little after this many.
TOKENIZER_PAIRS = 2_000_000


@dataclass(frozen=True)
class Corpus(CorpusSource):
    """One training corpus: text files, files of both sides, or a data set of the Hub; fields as `load_parallel`'s.

    Args:
        tag: tokens that are put in front of each source, separated by spaces: `>>de<<` for the language of the targets
            (Johnson et al. 2017, arXiv 1611.04558), `<BT>` for translated text (Caswell et al. 2019, arXiv 1906.06442).
        reverse: the source of a pair is what the files call the target.
    """

    source: Paths
    target: Paths | None = None
    weight: float = 1.0
    split: str = "train"
    config: str | None = None
    source_field: str | int = "source"
    target_field: str | int = "target"
    empty: str = "error"
    tag: str = ""
    reverse: bool = False

    def __post_init__(self):
        if self.empty not in ("error", "drop"):
            raise DataError(f"empty={self.empty!r}: choose 'error' or 'drop'.")
        if not 0 < self.weight < float("inf"):
            raise DataError(f"{self.name}: weight is {self.weight}, it must be a number greater than 0.")

    @property
    def paths(self) -> list[str]:
        return as_list(self.source)

    @property
    def from_hub(self) -> bool:
        return self.target is None and is_dataset_name(self.source)

    def chunks(self, counts: FilterCounts | None = None, streaming: bool = False) -> Iterator[Chunk]:
        """Yield its pairs in order; blank ones are counted into `counts`, or raise as `empty` says.

        With `streaming` a data set of the Hub is read over the network, and a blank pair raises at once.
        """
        if self.from_hub:
            dataset = open_hub(os.fspath(self.source), self.split, self.config, True) if streaming else self._dataset
            chunks = hub_pairs(dataset, self.files[0], self.source_field, self.target_field)
        else:
            chunks = read_pairs(self.source, self.target, self.source_field, self.target_field)
        chunks = without_empty(chunks, self.empty, counts, at_once=streaming)
        return chunks if not (self.tag or self.reverse) else map(self._directed, chunks)

    def _directed(self, chunk: Chunk) -> Chunk:
        """Return a chunk with the tag, its sides as the model is to read them."""
        if self.reverse:
            chunk = chunk._replace(source=chunk.target, target=chunk.source)
        return chunk._replace(tag=self.tag)

    def to_dict(self) -> dict[str, Any]:
        """Return what a run's `data.json` says of it."""
        content = {"source": self.source, "target": self.target, "weight": self.weight}
        return content | ({"tag": self.tag} if self.tag else {}) | ({"reverse": True} if self.reverse else {})

    def fingerprint(self) -> list[Any]:
        """Return what decides its pairs, for a hash: the content of its files, not their names, and how it is read."""
        directed = [{"tag": self.tag, "reverse": self.reverse}] if self.tag or self.reverse else []
        if self.from_hub:
            return ["hub", self._dataset._fingerprint, self.source_field, self.target_field, self.empty, *directed]
        sources, targets = as_list(self.source), as_list(self.target)
        check_files(sources, targets)
        formats = [(format_of(path) if has_fields(path) else "text") + compression_of(path) for path in sources]
        fields = [] if targets else [str(self.source_field), str(self.target_field)]
        return [
            "files",
            formats,
            *([_content_hash(path) for path in side] for side in (sources, targets)),
            fields,
            self.empty,
            *directed,
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


def corpora_of(settings: "TranslationSettings", both: bool | None = None) -> list[Corpus]:
    """Return the training corpora of a recipe: the entries of `corpora`, or the one of `train_source`.

    What an entry leaves out is taken from the recipe's own keys (train_split, dataset_config, source_field and
    target_field); relative names start from data_dir. With `both`, by default the key `bidirectional`, each follows
    a second time with its sides swapped.
    """
    entries = settings.corpora or [{"source": settings.train_source, "target": settings.train_target}]
    defaults = {
        "weight": 1.0, "split": settings.train_split, "config": settings.dataset_config,
        "source_field": settings.source_field, "target_field": settings.target_field,
    }  # fmt: skip
    corpora: list[Corpus] = []
    swapped: list[Corpus] = []
    for values in corpus_entries(entries, defaults):
        source, target = values["source"], values.get("target")
        hub = target is None and isinstance(source, (str, os.PathLike))
        values["source"] = placed(settings.data_dir, source, hub)
        values["target"] = None if target is None else placed(settings.data_dir, target, hub=False)
        values["tag"] = " ".join(tags_in(values.get("tag")))
        swapped_tag = " ".join(tags_in(values.pop("reverse_tag", None)))
        corpora.append(Corpus(**values, empty=settings.empty_lines))
        swapped.append(replace(corpora[-1], tag=swapped_tag, reverse=not corpora[-1].reverse))
    return corpora + (swapped if (settings.bidirectional if both is None else both) else [])


def tags_of(settings: "TranslationSettings") -> list[str]:
    """Return all tags that a recipe puts in front of sources, each once."""
    entries = [*(settings.corpora or []), *(settings.validation_sets or []), {"tag": settings.validation_tag}]
    return list(
        dict.fromkeys(tag for entry in entries for key in ("tag", "reverse_tag") for tag in tags_in(entry.get(key)))
    )


def training_texts(
    settings: "TranslationSettings", limit: int | None = None, streaming: bool | None = None,
    sides: Sequence[str] = ("source", "target"),
) -> Iterator[list[str]]:  # fmt: skip
    """Yield lists of sentences of all corpora, for a tokenizer to be trained on.

    Args:
        sides: of which side; by default of both.
        limit: pairs of each corpus, the first ones; None is all, or TOKENIZER_PAIRS of a stream.
        streaming: the recipe's key of that name where None.

    Raises:
        DataError: as the training data themselves.
    """
    streaming = settings.streaming if streaming is None else streaming
    limit = limit or (TOKENIZER_PAIRS if streaming else None)
    for corpus in corpora_of(settings, both=False):
        left = limit
        # These counts are not reported: the same pairs are counted and reported when they are tokenised.
        for chunk in corpus.chunks(FilterCounts(), streaming):
            for side in sides:
                yield getattr(chunk, side)[:left]
            if left is not None:
                left -= len(chunk.source)
                if left <= 0:
                    break
