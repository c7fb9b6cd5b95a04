"""The text that each token of a vocabulary adds to a target, for matching on the text rather than on tokens."""

import re
import unicodedata
from collections.abc import Callable
from functools import cached_property
from typing import Any
from weakref import WeakKeyDictionary

# Blocks of scripts that are written without spaces: Thai to Lao, Burmese, Khmer, Chinese, Japanese.
UNSPACED = (
    (0x0E00, 0x0EFF),
    (0x1000, 0x109F),
    (0x1780, 0x17FF),
    (0x2E80, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x3FFFF),
)
ANCHOR = "abcdef"  # a token to put in front: decoders take the space from the beginning of a text
BYTE_TOKEN = re.compile(r"<0x([0-9A-F]{2})>")
# First bytes of characters that are punctuation and spaces far more often than letters (U+0080 and U+2000 on).
PUNCTUATION_LEADS = (0xC2, 0xE2)


def is_unspaced(character: str) -> bool:
    """Return whether a character is of a script that is written without spaces."""
    return any(low <= ord(character) <= high for low, high in UNSPACED)


def is_word_character(character: str) -> bool:
    """Return whether a character (a letter, mark, digit or underscore) joins its neighbours to one word."""
    joins = unicodedata.category(character)[0] in "LMN" or character == "_"
    return joins and not is_unspaced(character)


class TokenTexts:
    """The bytes that each id adds to a text in UTF-8; none for special tokens, which decoding leaves out."""

    def __init__(self, tokenizer: Any):
        special = set(tokenizer.all_special_ids)
        added = {index: str(token) for index, token in tokenizer.added_tokens_decoder.items()}
        backend = getattr(tokenizer, "backend_tokenizer", None)
        # A token of a byte-level vocabulary may be a part of a character, which has no text of its own.
        read = _read_byte_level() if "ByteLevel" in repr(getattr(backend, "decoder", None)) else _read_by(tokenizer)
        self.of: dict[int, bytes] = {}
        for token, index in tokenizer.get_vocab().items():
            self.of[index] = b"" if index in special else added[index].encode() if index in added else read(token)

    @cached_property
    def sorted(self) -> list[tuple[bytes, int]]:
        """Return the texts with their ids in the order of the bytes."""
        return sorted((text, index) for index, text in self.of.items() if text)

    @cached_property
    def textless(self) -> frozenset[int]:
        """Return the ids that add nothing: special tokens."""
        return frozenset(index for index, text in self.of.items() if not text)

    @cached_property
    def separators(self) -> frozenset[int]:
        """Return the ids of the tokens that surely begin with something else than a letter or digit."""
        return frozenset(index for index, text in self.of.items() if separates(text, unsure=False))


def separates(text: bytes, unsure: bool) -> bool:
    """Return whether a text cannot continue the word before it; `unsure` for the first part of a likely such character.

    A part of a character that is no likely one continues it.
    """
    if not text:
        return False
    character = text[:4].decode("utf-8", errors="ignore")[:1]
    whole = bool(character) and text.startswith(character.encode())
    if whole:
        return not is_word_character(character)
    # A byte that cannot begin a character is decoded to U+FFFD.
    return unsure and (text[0] in PUNCTUATION_LEADS or 0x80 <= text[0] < 0xC0)


def source_of(tokenizer: Any) -> Any:
    """Return the tokenizer of what the encoder reads: of two vocabularies the source's, else the tokenizer itself."""
    return tokenizer.source if getattr(tokenizer, "has_target", False) else tokenizer


def target_of(tokenizer: Any) -> Any:
    """Return the tokenizer of what the decoder writes: of two vocabularies the target's, else the tokenizer itself."""
    return tokenizer.target if getattr(tokenizer, "has_target", False) else tokenizer


def language_tag(tokenizer: Any, language: str | None) -> str | None:
    """Return the token that names a target language in front of a source, `>>fr<<` of "fr"; None where there is none.

    MarianMT and this package's models of several directions have such tokens; other tags are given as they are written.
    """
    if not language:
        return None
    side = source_of(tokenizer)
    tag = f">>{language}<<"
    if side.convert_tokens_to_ids(tag) not in (None, side.unk_token_id):
        return tag
    return language if not language[0].isalnum() and language in side.get_added_vocab() else None


def token_texts(tokenizer: Any) -> TokenTexts:
    """Return the texts of the target's tokens; they are read once, and again when tokens were added."""
    tokenizer = target_of(tokenizer)
    known = _KNOWN.get(tokenizer)
    if known is None or known[0] != len(tokenizer):
        known = _KNOWN[tokenizer] = (len(tokenizer), TokenTexts(tokenizer))
    return known[1]


_KNOWN: WeakKeyDictionary[Any, tuple[int, TokenTexts]] = WeakKeyDictionary()


def byte_alphabet() -> dict[str, int]:
    """Return the byte that each character of a byte-level vocabulary means; only printable bytes mean themselves."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    others = [byte for byte in range(256) if byte not in printable]
    return {chr(byte): byte for byte in printable} | {chr(256 + i): byte for i, byte in enumerate(others)}


def _read_byte_level() -> Callable[[str], bytes]:
    values = byte_alphabet()

    def read(token: str) -> bytes:
        return bytes(values[c] for c in token) if values.keys() >= set(token) else token.encode()

    return read


def _read_by(tokenizer: Any) -> Callable[[str], bytes]:
    """Return how the decoder reads a token; the space between words belongs to the token that decides on it.

    That is the word behind it, as in `▁dog` or in `dog ##s`, or the one before it, as in `dog</w>` or in `dog@@ s`.
    """
    between = tokenizer.convert_tokens_to_string([ANCHOR, ANCHOR]).removeprefix(ANCHOR).removesuffix(ANCHOR)
    end = "" if between else ANCHOR  # where words have no space by themselves, what follows shows what a token adds
    joined = between and any(_joins_the_next(tokenizer, token, between) for token in tokenizer.get_vocab())

    def read(token: str) -> bytes:
        if byte := BYTE_TOKEN.fullmatch(token):
            return bytes([int(byte[1], 16)])
        if token.strip("▁") == "":
            return b" " * len(token)
        if joined:
            text = tokenizer.convert_tokens_to_string([ANCHOR, token, ANCHOR]).removeprefix(ANCHOR + between)
        else:
            text = tokenizer.convert_tokens_to_string([ANCHOR, token, *filter(None, [end])])
            text = text[text.find(ANCHOR) + len(ANCHOR) :]
        return text.removesuffix(ANCHOR).encode()

    return read


def _joins_the_next(tokenizer: Any, token: str, between: str) -> bool:
    """Return whether a token of its own word takes the space away from the word that follows, as `dog@@` does."""
    text = tokenizer.convert_tokens_to_string([ANCHOR, token, ANCHOR])
    return text.startswith(ANCHOR + between) and not text.endswith(between + ANCHOR)


__all__ = [
    "TokenTexts",
    "is_unspaced",
    "is_word_character",
    "language_tag",
    "separates",
    "source_of",
    "target_of",
    "token_texts",
]
