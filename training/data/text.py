"""Text for language models: the sources of documents, and how they are read.

recipe -> text_corpora_of -> TextCorpus.chunks -> documents
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from vaswani_tx.training.data.filters import FilterCounts
from vaswani_tx.training.data.hub import hub_records, is_dataset_name, open_hub
from vaswani_tx.training.data.lines import check_file, line_chunks
from vaswani_tx.training.data.pairs import NAMED_IN_ERRORS
from vaswani_tx.training.data.readers import (
    Chunk,
    Paths,
    Records,
    Wanted,
    as_list,
    has_fields,
    read_records,
    text_columns,
)
from vaswani_tx.training.data.sources import CorpusSource, corpus_entries, placed
from vaswani_tx.training.errors import DataError

if TYPE_CHECKING:
    from vaswani_tx.training.config.language_modeling import LanguageModelSettings

# With so many documents of each corpus a vocabulary of some ten thousand entries changes little.
TOKENIZER_DOCUMENTS = 2_000_000
Documents = tuple[np.ndarray, list[str]]


@dataclass(frozen=True)
class TextCorpus(CorpusSource):
    """One corpus: text files, files with a field of text, or a data set of the Hub.

    Args:
        documents: "line" or "paragraph", of text files.
        empty: "drop", "error" or "keep", for documents without text.
    """

    text: Paths
    weight: float = 1.0
    split: str = "train"
    config: str | None = None
    field: str = "text"
    documents: str = "line"
    empty: str = "drop"

    @property
    def paths(self) -> list[str]:
        return as_list(self.text)

    @property
    def from_hub(self) -> bool:
        return len(self.paths) == 1 and is_dataset_name(self.paths[0], text_files=True)

    def chunks(self, counts: FilterCounts | None = None, streaming: bool = False) -> Iterator[Chunk]:
        """Yield its documents in order, the same on both sides of a chunk; those without text are counted, or raise.

        Raises:
            DataError: files that cannot be read (file and line), no such field, or no document with text.
        """
        counts = counts or FilterCounts()
        any_text = False
        for file, documents in self._sources(streaming):
            for lines, texts in documents:
                keep = [i for i, text in enumerate(texts) if text and not text.isspace()]
                any_text = any_text or bool(keep)
                if len(keep) < len(texts) and self.empty != "keep":
                    self._drop(file, np.delete(lines, keep), counts)
                    lines, texts = lines[keep], [texts[i] for i in keep]
                if texts:
                    yield Chunk(file, lines, texts, texts)
        if not any_text:
            raise DataError(f"{self.name} holds no document with text; give another file or field.")

    def _sources(self, streaming: bool) -> Iterator[tuple[str, Iterator[Documents]]]:
        """Yield its files, and of each the documents with the lines where they begin."""
        wanted = Wanted((self.field,), "text_field")
        if self.from_hub:
            dataset = open_hub(self.paths[0], self.split, self.config, streaming)
            yield self.files[0], _fields(hub_records(dataset, self.files[0], wanted), wanted)
            return
        if not self.files:
            raise DataError("No file was given as text; name one.")
        for path in self.files:
            check_file(path)
        for path in self.files:
            if has_fields(path):
                yield path, _fields(read_records(path, wanted), wanted)
            else:
                yield path, (_paragraphs if self.documents == "paragraph" else _lines)(path)

    def _drop(self, file: str, lines: np.ndarray, counts: FilterCounts) -> None:
        places = [f"{file} line {line}" for line in lines[:NAMED_IN_ERRORS]]
        if self.empty == "error":
            raise DataError(f"{places[0]} holds no text. Fill it, or let such lines be dropped (empty_lines: drop).")
        counts.read, counts.empty = counts.read + len(lines), counts.empty + len(lines)
        counts.empty_places += places[: NAMED_IN_ERRORS - len(counts.empty_places)]


def _fields(records: Iterator[Records], wanted: Wanted) -> Iterator[Documents]:
    for lines, (texts,) in text_columns(records, wanted):
        yield lines, texts


def _lines(path: str) -> Iterator[Documents]:
    first = 1
    for lines in line_chunks(path):
        yield np.arange(first, first + len(lines)), lines
        first += len(lines)
    if first == 1:
        raise DataError(f"{path} is an empty file; give one with text.")


def _paragraphs(path: str) -> Iterator[Documents]:
    """Yield the paragraphs of a text file: lines up to a blank one."""
    first, open_lines = 0, []
    for chunk, all_lines in _lines(path):
        lines, texts = [], []
        for number, line in zip(chunk, all_lines, strict=True):
            if line and not line.isspace():
                first = first if open_lines else int(number)
                open_lines.append(line)
            elif open_lines:
                lines.append(first)
                texts.append("\n".join(open_lines))
                open_lines = []
        yield np.asarray(lines, dtype=np.int64), texts
    if open_lines:
        yield np.asarray([first]), ["\n".join(open_lines)]


def text_corpora_of(settings: "LanguageModelSettings") -> list[TextCorpus]:
    """Return the training corpora of a recipe: the entries of `corpora`, or the one of `train_text`."""
    entries = settings.corpora or [{"text": settings.train_text}]
    defaults = {"weight": 1.0, "split": settings.train_split, "config": settings.dataset_config}
    defaults |= {"field": settings.text_field, "documents": settings.documents, "empty": settings.empty_lines}
    corpora = []
    for values in corpus_entries(entries, defaults):
        values["text"] = placed(settings.data_dir, values["text"], text_files=True)
        corpora.append(TextCorpus(**values))
    return corpora


def training_texts(settings: "LanguageModelSettings") -> Iterator[list[str]]:
    """Yield lists of documents of all corpora, for a tokenizer to be trained on."""
    for corpus in text_corpora_of(settings):
        left = TOKENIZER_DOCUMENTS
        for chunk in corpus.chunks(streaming=settings.streaming):
            yield chunk.source[:left]
            left -= len(chunk.source)
            if left <= 0:
                break
