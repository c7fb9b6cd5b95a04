"""`VaswaniTokenizer`: one byte-level byte-pair vocabulary for source and target (the paper's section 5.1).

The whole pipeline stands in `tokenizer.json`, so `tokenizers.Tokenizer.from_file` and transformers' own fast class give
the same ids without this package:

    text -> one space in front -> letters | digit | punctuation | white space -> bytes -> merges -> `</s>` at the end

No Unicode normalisation and all 256 bytes in the vocabulary: decoding gives back exactly the text that was encoded. The
space in front makes the first word of a sentence the same token as inside a sentence; decoding takes exactly it away.
"""

import os
from collections.abc import Iterable, Iterator
from typing import Any

from tokenizers import AddedToken, Regex, Tokenizer, decoders, normalizers, pre_tokenizers, processors, trainers
from tokenizers.models import BPE
from transformers import TokenizersBackend
from transformers.utils import logging

logger = logging.get_logger(__name__)

PAD_TOKEN, BOS_TOKEN, EOS_TOKEN, UNK_TOKEN = SPECIAL_TOKENS = ("<pad>", "<s>", "</s>", "<unk>")
NAMED_TOKENS = {"pad_token": PAD_TOKEN, "bos_token": BOS_TOKEN, "eos_token": EOS_TOKEN, "unk_token": UNK_TOKEN}
MINIMAL_VOCAB_SIZE = len(SPECIAL_TOKENS) + 256

# A word keeps its inner apostrophes (don't, l'homme): merges then decide where it parts. Digits stand alone, so that a
# number never seen in training is still copied digit by digit. The last space of a run goes to the word that follows.
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


class VaswaniTokenizer(TokenizersBackend):
    """Byte-level byte-pair tokenizer, shared by source and target, that appends `</s>` and loses no character.

    Text that looks like a special token (`a </s> b`) is text: `split_special_tokens` is on, and saved as such, so no
    input can end or pad a sentence. Pass `split_special_tokens=False` to a call to have it read as a control token.
    """

    vocab_files_names = {"tokenizer_file": "tokenizer.json"}
    model_input_names = ["input_ids", "attention_mask"]
    padding_side = "right"
    truncation_side = "right"
    model = BPE

    @classmethod
    def convert_to_native_format(cls, trust_remote_code: bool = False, **kwargs: Any) -> dict[str, Any]:
        """Name the special tokens where a folder holds `tokenizer.json` and no `tokenizer_config.json`."""
        if not any(kwargs.get(name) for name in NAMED_TOKENS):
            kwargs.update(NAMED_TOKENS)
            kwargs.setdefault("split_special_tokens", True)
        return super().convert_to_native_format(trust_remote_code=trust_remote_code, **kwargs)

    @classmethod
    def train(
        cls,
        corpus: Any,
        vocab_size: int = 37000,
        min_frequency: int = 2,
        show_progress: bool = True,
        length: int | None = None,
        **kwargs: Any,
    ) -> "VaswaniTokenizer":
        """Learn the joint vocabulary from the text of both languages; equal text gives an equal vocabulary.

        Args:
            corpus: a path or a list of paths of text files (UTF-8, one sentence a line), or an iterable, other than a
                list of strings, that yields sentences or lists of sentences.
            vocab_size: entries wanted, with the 4 special tokens and the 256 bytes. A small corpus may not fill it.
            min_frequency: a pair of tokens seen less often is not merged.
            length: number of sentences in an iterable, for the progress bar.
            kwargs: handed to the tokenizer, `model_max_length=512` for example.

        Raises:
            ValueError: no file, a missing file, invalid UTF-8 (file, line and byte), a corpus without text, or a
                `vocab_size` below 260.
        """
        _check_size("vocab_size", vocab_size, MINIMAL_VOCAB_SIZE, "the 4 special tokens and the 256 bytes")
        _check_size("min_frequency", min_frequency, 1, "a pair that occurs")
        files = _file_list(corpus)
        if files is not None:
            length = sum(sum(map(len, _read_chunks(file))) for file in files)
            chunks: Iterator[list[str]] = (chunk for file in files for chunk in _read_chunks(file))
        else:
            chunks = _text_chunks(corpus)
        counter = _Counter(chunks)
        backend = _untrained_backend()
        backend.train_from_iterator(counter, _trainer(vocab_size, min_frequency, show_progress), length=length)
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
        return cls(tokenizer_object=backend, **kwargs)


class _Counter:
    """Passes chunks on and counts their sentences."""

    def __init__(self, chunks: Iterable[list[str]]):
        self.chunks, self.sentences = chunks, 0

    def __iter__(self) -> Iterator[list[str]]:
        for chunk in self.chunks:
            self.sentences += len(chunk)
            yield chunk


def _untrained_backend() -> Tokenizer:
    """The pipeline of the module's head, before any merge is learned."""
    backend = Tokenizer(BPE(unk_token=UNK_TOKEN))
    backend.normalizer = normalizers.Prepend(" ")
    backend.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORD_PATTERN), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    # ByteLevel joins all tokens into one text first: Strip then sees the front of the sentence, not of each token.
    backend.decoder = decoders.Sequence([decoders.ByteLevel(), decoders.Strip(" ", left=1, right=0)])
    return backend


def _trainer(vocab_size: int, min_frequency: int, show_progress: bool) -> trainers.BpeTrainer:
    """Special tokens first (ids 0 to 3), then every byte, seen or not, then the merges."""
    return trainers.BpeTrainer(
        vocab_size=vocab_size,
        min_frequency=min_frequency,
        show_progress=show_progress,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
    )


def _append_eos(backend: Tokenizer) -> processors.PostProcessor:
    return processors.TemplateProcessing(
        single=f"$A:0 {EOS_TOKEN}:0",
        pair=f"$A:0 {EOS_TOKEN}:0 $B:1 {EOS_TOKEN}:1",
        special_tokens=[(EOS_TOKEN, backend.token_to_id(EOS_TOKEN))],
    )


def _check_size(name: str, value: Any, least: int, reason: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < least:
        raise ValueError(f"`{name}` is {value!r}: give a whole number of at least {least} ({reason}).")


def _file_list(corpus: Any) -> list[str] | None:
    """The paths in `corpus` as strings, each an existing file, or None when it holds text instead."""
    if isinstance(corpus, (str, os.PathLike)):
        corpus = [corpus]
    if not isinstance(corpus, (list, tuple)):
        return None
    if not corpus:
        raise ValueError("No files to train on: `corpus` is an empty list. Pass the files of both languages.")
    if not all(isinstance(item, (str, os.PathLike)) for item in corpus):
        return None
    files = [os.fspath(item) for item in corpus]
    for file in files:
        if not os.path.isfile(file):
            raise ValueError(
                f"{file[:200]!r} in `corpus` is not a file. A list of strings is read as a list of paths: check the "
                "path, or pass `iter(sentences)` to train on the strings themselves."
            )
    return files


def _read_chunks(file: str) -> Iterator[list[str]]:
    """Lists of the file's lines that hold text, parted at \\n only; ValueError at the first byte that is not UTF-8."""
    lines: list[str] = []
    with open(file, "rb") as stream:
        for number, raw in enumerate(stream, start=1):
            raw = raw.removeprefix(b"\xef\xbb\xbf") if number == 1 else raw
            try:
                line = raw.removesuffix(b"\n").removesuffix(b"\r").decode("utf-8")
            except UnicodeDecodeError as error:
                raise ValueError(
                    f"{file}, line {number}: byte {error.start + 1} of the line (0x{raw[error.start]:02x}) is not "
                    "valid UTF-8. Convert the file, with `iconv -t UTF-8` for example."
                ) from None
            if line and not line.isspace():
                lines.append(line)
            if len(lines) == LINES_PER_CHUNK:
                yield lines
                lines = []
    if lines:
        yield lines


def _text_chunks(corpus: Iterable[Any]) -> Iterator[list[str]]:
    """Lists of sentences from an iterable of sentences or of lists of them, without the blank ones."""
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


__all__ = ["VaswaniTokenizer"]
