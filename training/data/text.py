"""Text for language models: where documents come from, and how they are read.

recipe -> text_corpora_of -> TextCorpus.chunks -> documents
"""

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from vaswani_tx.training.config.language_modeling import LanguageModelSettings
from vaswani_tx.training.data.filters import FilterCounts
from vaswani_tx.training.data.parallel import hub_chunks, is_dataset_name, open_hub
from vaswani_tx.training.data.readers import NAMED_IN_ERRORS, READERS, Chunk, Paths, as_list, read_files, suffix
from vaswani_tx.training.errors import DataError
from vaswani_tx.training.files import resolve_path

# With so many documents of each corpus a vocabulary of some ten thousand entries changes little.
TOKENIZER_DOCUMENTS = 2_000_000
# What readers of parallel text say that is of no use to one who has no second side.
_WORDING = {
    "Set `source_field` and `target_field`": "Set text_field",
    "an object with two fields": "an object with a field of text",
    ", or remove the line on both sides": ", or remove the line",
}


@dataclass(frozen=True)
class TextCorpus:
    """One corpus: text files, files with a field of text, or a data set of the Hub.

    Args:
        documents: "line" or "paragraph", of text files.
        empty: "drop" or "error", for documents without text.
    """

    text: Paths
    weight: float = 1.0
    split: str = "train"
    config: str | None = None
    field: str = "text"
    documents: str = "line"
    empty: str = "drop"

    @property
    def from_hub(self) -> bool:
        paths = as_list(self.text)
        return len(paths) == 1 and is_data_set(paths[0])

    @property
    def files(self) -> list[str]:
        """The names that its chunks carry."""
        return [f"{as_list(self.text)[0]} ({self.split})"] if self.from_hub else as_list(self.text)

    @property
    def name(self) -> str:
        """For messages: its first file."""
        files = self.files
        return files[0] + (f" and {len(files) - 1} more" if len(files) > 1 else "") if files else "a corpus"

    def chunks(self, counts: FilterCounts | None = None, streaming: bool = False) -> Iterator[Chunk]:
        """Its documents in order, on both sides of a chunk the same; those without text are counted, or raise.

        Raises:
            DataError: files that cannot be read (file and line), no such field, or no document with text.
        """
        counts = counts or FilterCounts()
        any_text = False
        for file, chunks in self._sources(streaming):
            try:
                for lines, texts in self._documents(file, chunks):
                    keep = [i for i, text in enumerate(texts) if text and not text.isspace()]
                    if len(keep) < len(texts):
                        self._drop(file, np.delete(lines, keep), counts)
                        lines, texts = lines[keep], [texts[i] for i in keep]
                    if texts:
                        any_text = True
                        yield Chunk(file, lines, texts, texts)
            except DataError as error:
                raise DataError(_reworded(str(error), file)) from None
        if not any_text:
            raise DataError(f"{self.name} holds no document with text: nothing is left.")

    def _sources(self, streaming: bool) -> Iterator[tuple[str, Iterator[Chunk]]]:
        if self.from_hub:
            dataset = open_hub(as_list(self.text)[0], self.split, self.config, streaming)
            yield self.files[0], hub_chunks(dataset, self.files[0], self.field, self.field)
            return
        if not self.files:
            raise DataError("No file was given as text.")
        for path in self.files:
            table = suffix(path) in READERS
            yield path, read_files(path, None if table else path, self.field, self.field)

    def _documents(self, file: str, chunks: Iterable[Chunk]) -> Iterator[tuple[np.ndarray, list[str]]]:
        """Documents and the lines that they begin in."""
        if self.documents == "line" or self.from_hub or suffix(file) in READERS:
            yield from ((chunk.lines, chunk.source) for chunk in chunks)
            return
        first, open_lines = 0, []
        for chunk in chunks:
            lines, texts = [], []
            for number, line in zip(chunk.lines, chunk.source, strict=True):
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

    def _drop(self, file: str, lines: np.ndarray, counts: FilterCounts) -> None:
        places = [f"{file} line {line}" for line in lines[:NAMED_IN_ERRORS]]
        if self.empty == "error":
            raise DataError(f"{places[0]} holds no text. Fill it, or let such lines be dropped (empty_lines: drop).")
        counts.read, counts.empty = counts.read + len(lines), counts.empty + len(lines)
        counts.empty_places += places[: NAMED_IN_ERRORS - len(counts.empty_places)]


def _reworded(message: str, file: str) -> str:
    message = message.replace(f"{file} and {file} are empty files", f"{file} is an empty file")
    for said, meant in _WORDING.items():
        message = message.replace(said, meant)
    return message


def text_corpora_of(arguments: LanguageModelSettings) -> list[TextCorpus]:
    """The training corpora of a recipe: the entries of `corpora`, or the one of `train_text`."""
    entries = arguments.corpora or [{"text": arguments.train_text}]
    defaults = {"weight": 1.0, "split": arguments.train_split, "config": arguments.dataset_config}
    defaults |= {"field": arguments.text_field, "documents": arguments.documents, "empty": arguments.empty_lines}
    corpora = []
    for entry in entries:
        values = defaults | {name: value for name, value in entry.items() if value is not None}
        corpora.append(TextCorpus(**values | {"text": placed(arguments.data_dir, values["text"])}))
    return corpora


def placed(data_dir: str | None, paths: Paths) -> list[str]:
    """Files as the recipe names them, from `data_dir` where that is set; a data set of the Hub stays its name."""
    found = []
    for path in as_list(paths):
        joined = resolve_path(data_dir, path)
        found.append(path if not os.path.exists(joined) and is_data_set(path) else joined)
    return found


def is_data_set(path: str) -> bool:
    """Whether a name is that of a data set, on the Hub or a folder here, rather than of a file such as `train.en`."""
    looks_like_file = suffix(path)[1:].isalpha() and not os.path.isdir(path)
    return is_dataset_name(path) and not looks_like_file


def training_texts(arguments: LanguageModelSettings) -> Iterator[list[str]]:
    """Lists of documents of all corpora, for a tokenizer to be trained on."""
    for corpus in text_corpora_of(arguments):
        left = TOKENIZER_DOCUMENTS
        for chunk in corpus.chunks(streaming=arguments.streaming):
            yield chunk.source[:left]
            left -= len(chunk.source)
            if left <= 0:
                break
