"""Training of `VaswaniTokenizer` vocabularies on files or sentences; no trained tokenizer needs this file.

The pipeline is built here once and saved whole in `tokenizer.json`; `tokenization_vaswani.py` describes it.
"""

import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers.utils import logging

from vaswani_tx.text_files import open_bytes, text_of_line
from vaswani_tx.tokenization_vaswani import (
    EOS_TOKEN,
    MINIMAL_VOCAB_SIZE,
    NAMED_TOKENS,
    SPECIAL_TOKENS,
    UNK_TOKEN,
    VaswaniTokenizer,
    front_normalizer,
    front_pre_tokenizers,
)

logger = logging.get_logger(__name__)

# A word keeps its inner apostrophes (don't, l'homme): merges then decide where to split it. Digits are single, so that
# a number never seen in training is still copied digit by digit. The last space of a run goes to the word that follows.
WORD_PATTERN = "|".join(
    (
        r" ?[\p{L}\p{M}]+(?:['’][\p{L}\p{M}]+)*",
        r" ?\p{N}",
        r" ?[^\s\p{L}\p{M}\p{N}]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)
LINES_PER_CHUNK = 1000
# What a path has and a sentence does not: a folder, or an ending of letters.
_PATH = re.compile(r"[/\\]|\.[A-Za-z][A-Za-z0-9]{0,7}\Z")


def train_tokenizer(
    tokenizer_class: type[VaswaniTokenizer],
    corpus: Any,
    vocab_size: int = 37000,
    min_frequency: int = 2,
    show_progress: bool = True,
    length: int | None = None,
    mask_token: str | None = None,
    control_tokens: Sequence[str] = (),
    **kwargs: Any,
) -> VaswaniTokenizer:
    """Learn the joint vocabulary from the text of both languages; equal text gives an equal vocabulary.

    Args:
        tokenizer_class: `VaswaniTokenizer`, or a class derived from it.
        corpus: a path or a list of paths of text files (UTF-8, one sentence a line), or an iterable that yields
            sentences or lists of sentences. A list of strings is one of sentences where none of them is a file, and
            at least one of them has white space and no look of a path; `train_from_iterator` never looks for files.
        vocab_size: entries wanted, with the 4 special tokens and the 256 bytes. A small corpus may not fill it.
        min_frequency: a pair of tokens seen less often is not merged.
        show_progress: show a progress bar on the terminal.
        length: number of sentences in an iterable, for the progress bar.
        mask_token: "<mask>" for masked language models: the entry after the 4 special tokens. In text it is read as
            the mask where it is a separate word, at the front or after a space.
        control_tokens: further special tokens, such as `CHAT_TOKENS`, which come next.
        kwargs: given to the tokenizer, `model_max_length=512` for example.

    Raises:
        ValueError: no file, a missing file, invalid UTF-8 (file, line and byte), a corpus without text, or a
            `vocab_size` below 260.
    """
    further = [*filter(None, [mask_token]), *control_tokens]
    check_vocab_size("vocab_size", vocab_size, {"mask_token": mask_token, "control_tokens": control_tokens})
    _check_size("min_frequency", min_frequency, 1, "a pair that occurs")
    files = _file_list(corpus)
    if files is not None:
        length = sum(sum(map(len, _read_chunks(file))) for file in files)
        chunks: Iterator[list[str]] = (chunk for file in files for chunk in _read_chunks(file))
    else:
        chunks = _text_chunks(corpus)
    counter = _Counter(chunks)
    backend = _untrained_backend()
    backend.train_from_iterator(counter, _trainer(vocab_size, min_frequency, show_progress, further), length=length)
    if not counter.sentences:
        where = f"the files {', '.join(files)}" if files else "the corpus"
        raise ValueError(f"No text to train on: {where} held no line with text. Check what was passed as `corpus`.")
    backend.post_processor = _append_eos(backend)
    if backend.get_vocab_size() < vocab_size:
        logger.warning(
            f"The vocabulary has {backend.get_vocab_size()} entries instead of the {vocab_size} asked for: the "
            f"{counter.sentences} sentences hold no further pair seen {min_frequency} times. Give this number to "
            "the model, or use more text or a smaller `min_frequency`."
        )
    kwargs = {**NAMED_TOKENS, "split_special_tokens": True, "clean_up_tokenization_spaces": False, **kwargs}
    if mask_token is not None:
        backend, kwargs["mask_token"] = _mask_in_text(backend, mask_token), mask_token
    if control_tokens:
        kwargs["extra_special_tokens"] = list(control_tokens)
    return tokenizer_class(tokenizer_object=backend, **kwargs)


class _Counter:
    """An iterable of chunks that counts their sentences."""

    def __init__(self, chunks: Iterable[list[str]]):
        self.chunks, self.sentences = chunks, 0

    def __iter__(self) -> Iterator[list[str]]:
        for chunk in self.chunks:
            self.sentences += len(chunk)
            yield chunk


def _untrained_backend() -> Tokenizer:
    """Build the pipeline without any merge."""
    backend = Tokenizer(BPE(unk_token=UNK_TOKEN))
    backend.normalizer = front_normalizer()
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            *front_pre_tokenizers(),
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    # ByteLevel joins all tokens into one text first: Strip then sees the front of the sentence, not of each token.
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", left=1, right=0)])
    return backend


def _trainer(vocab_size: int, min_frequency: int, show_progress: bool, further: Sequence[str]) -> trainers.BpeTrainer:
    """Order the entries: special tokens (ids 0 to 3), `further` ones, every byte, seen or not, then the merges."""
    special = [AddedToken(token, special=True, normalized=False) for token in (*SPECIAL_TOKENS, *further)]
    return trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        show_progress=show_progress,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )


def _mask_in_text(backend: Tokenizer, mask: str) -> Tokenizer:
    """Return a tokenizer that finds its entry `mask` in text: normalised as text is, it has a space in front there."""
    backend.normalizer = front_normalizer(mask)
    pipeline = json.loads(backend.to_str())
    for token in pipeline["added_tokens"]:
        if token["content"] == mask:
            token.update(special=False, normalized=True)
    return Tokenizer.from_str(json.dumps(pipeline))


def _append_eos(backend: Tokenizer) -> processors.PostProcessor:
    return processors.TemplateProcessing(
        single=f"$A:0 {EOS_TOKEN}:0",
        pair=f"$A:0 {EOS_TOKEN}:0 $B:1 {EOS_TOKEN}:1",
        special_tokens=[(EOS_TOKEN, backend.token_to_id(EOS_TOKEN))],
    )


def check_vocab_size(name: str, value: Any, settings: Mapping[str, Any]) -> None:
    """Raise ValueError unless a vocabulary of a size holds the bytes and all special tokens of some settings."""
    further = [*filter(None, [settings.get("mask_token")]), *settings.get("control_tokens", ())]
    reason = "the special tokens and the 256 bytes" if further else "the 4 special tokens and the 256 bytes"
    _check_size(name, value, MINIMAL_VOCAB_SIZE + len(further), reason)


def _check_size(name: str, value: Any, least: int, reason: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` is {value!r}: give a whole number of at least {least} ({reason}).")


def texts_of(texts: Any) -> Iterator[Any]:
    """Return an iterator over texts, which is never read as a list of paths."""
    if isinstance(texts, (str, os.PathLike)):
        raise ValueError(f"{os.fspath(texts)[:80]!r} is one text or path: pass a list of texts, or files to `train`.")
    try:
        return iter(texts)
    except TypeError:
        raise ValueError(
            f"The texts are {type(texts).__name__}: pass an iterable of sentences or lists of them."
        ) from None


def _file_list(corpus: Any) -> list[str] | None:
    """Return the paths in `corpus` as strings, each an existing file, or None when it holds text instead."""
    if isinstance(corpus, (str, os.PathLike)):
        corpus = [corpus]
    elif not isinstance(corpus, (list, tuple)):
        return None
    elif not corpus:
        raise ValueError("No files to train on: `corpus` is an empty list. Pass the files of both languages.")
    elif not all(isinstance(item, (str, os.PathLike)) for item in corpus) or _are_sentences(corpus):
        return None
    files = [os.fspath(item) for item in corpus]
    for file in files:
        if not os.path.isfile(file):
            raise ValueError(
                f"{file[:200]!r} in `corpus` is not a file. Strings that may be paths are read as paths: check the "
                "path, or pass `iter(sentences)`, or call `train_from_iterator`, to train on the strings themselves."
            )
    return files


def _are_sentences(strings: Sequence[Any]) -> bool:
    """Return whether a list holds sentences: none is a file, and one has white space and no look of a path."""
    if any(isinstance(item, os.PathLike) or os.path.exists(item[:4096]) for item in strings):
        return False
    return any(len(item.split()) > 1 and not _PATH.search(item) for item in strings)


def _read_chunks(file: str) -> Iterator[list[str]]:
    """Yield lists of the lines with text, split at \\n only; raise ValueError at the first byte that is not UTF-8."""
    lines: list[str] = []
    with open_bytes(file) as stream:
        for number, raw in enumerate(stream, start=1):
            line = text_of_line(raw, number, file, remedy="Convert the file, with `iconv -t UTF-8` for example.")
            if line and not line.isspace():
                lines.append(line)
            if len(lines) == LINES_PER_CHUNK:
                yield lines
                lines = []
    if lines:
        yield lines


def _text_chunks(corpus: Iterable[Any]) -> Iterator[list[str]]:
    """Yield lists of sentences from an iterable of sentences or of lists of them, without the blank ones."""
    try:
        items = iter(corpus)
    except TypeError:
        raise ValueError(
            f"`corpus` is {type(corpus).__name__}: pass a list of paths, or an iterable of sentences or lists of them."
        ) from None
    lines: list[str] = []
    for number, item in enumerate(items, start=1):
        for text in item if isinstance(item, (list, tuple)) else (item,):
            if not isinstance(text, str):
                raise ValueError(
                    f"Item {number} of `corpus` holds {text!r} ({type(text).__name__}): give strings or lists of them."
                )
            _check_unicode(text, number)
            if text and not text.isspace():
                lines.append(text)
        if len(lines) >= LINES_PER_CHUNK:
            yield lines
            lines = []
    if lines:
        yield lines


def _check_unicode(text: str, number: int) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(
            f"Item {number} of `corpus` holds half of a surrogate pair (character {error.start + 1} of {text[:80]!r}), "
            "which is not text: repair the source that it was read from."
        ) from None
