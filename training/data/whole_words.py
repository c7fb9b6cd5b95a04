"""Words that a tokenizer must never cut, such as the symbols of a linearised tree: each becomes one token.

They are words between spaces, tabs and ends of lines (or the ends of the text), whatever characters they are made of:
`(NP` and `)NP` are as good as `XX`. A whole word is no control token: it is text like any other, and decoding gives
back exactly the text that was encoded. The byte-pair merges are learned from the text without these words.
"""

import json
import re
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from tokenizers import Tokenizer
from tokenizers.pre_tokenizers import ByteLevel

from vaswani_tx.tokenization_vaswani import MINIMAL_VOCAB_SIZE, NAMED_TOKENS, VaswaniTokenizer
from vaswani_tx.training.errors import DataError


def train_with_whole_words(
    corpus: Iterable[list[str]], words: Sequence[str], vocab_size: int, min_frequency: int = 2, **kwargs: Any
) -> VaswaniTokenizer:
    """Learn a vocabulary of `vocab_size` entries in which each of `words` is one.

    Args:
        corpus: lists of sentences.
        words: what must stay whole; also kept in `tokenizer_config.json`, as `whole_words`.
        kwargs: passed to `VaswaniTokenizer.train`.

    Raises:
        DataError: words that cannot be whole words.
        ValueError: as `VaswaniTokenizer.train`.
    """
    words = check_whole_words(words)
    if vocab_size < MINIMAL_VOCAB_SIZE + len(words):
        raise DataError(
            f"A vocabulary of {vocab_size} entries does not hold {len(words)} whole words, the 4 special tokens and "
            f"the 256 bytes: give at least {MINIMAL_VOCAB_SIZE + len(words)}."
        )
    tokenizer = VaswaniTokenizer.train(_without(corpus, set(words)), vocab_size - len(words), min_frequency, **kwargs)
    return add_whole_words(tokenizer, words)


def add_whole_words(tokenizer: VaswaniTokenizer, words: Sequence[str]) -> VaswaniTokenizer:
    """Return a tokenizer with `words` as further entries at the end of its vocabulary; the given one is not changed."""
    words = check_whole_words(words)
    pipeline = json.loads(tokenizer.backend_tokenizer.to_str())
    vocabulary = pipeline["model"]["vocab"]
    for word in words:
        vocabulary.setdefault(_in_bytes(tokenizer, f" {word}"), len(vocabulary))
    # Found in the vocabulary as a whole, such a word needs no merges.
    pipeline["model"]["ignore_merges"] = True
    # The last two steps are the split into words and the bytes.
    split = pipeline["pre_tokenizer"]["pretokenizers"][-2]["pattern"]
    # Longest first, though the white space behind a word leaves only one of them: the order then does not matter.
    choices = "|".join(map(re.escape, sorted(words, key=lambda word: (-len(word), word))))
    split["Regex"] = f" (?:{choices})(?![^ \\t\\r\\n])|{split['Regex']}"
    options = {"split_special_tokens": True, "clean_up_tokenization_spaces": False, "whole_words": list(words)}
    return VaswaniTokenizer(tokenizer_object=Tokenizer.from_str(json.dumps(pipeline)), **NAMED_TOKENS, **options)


def check_whole_words(words: Sequence[str]) -> list[str]:
    """Return the words without repetition; raise DataError if there are none, or one is empty or holds a space."""
    words = list(dict.fromkeys(words))
    if not words:
        raise DataError("There are no whole words: give one a line, or leave the option out.")
    for word in words:
        if not word or re.search(r"\s", word):
            raise DataError(f"{word!r} cannot be a whole word: it is empty or holds white space. Give one word a line.")
    return words


def _without(corpus: Iterable[list[str]], words: set[str]) -> Iterator[list[str]]:
    for sentences in corpus:
        kept = [" ".join(part for part in text.split(" ") if part not in words) for text in sentences]
        yield [text for text in kept if text]


def _in_bytes(tokenizer: VaswaniTokenizer, text: str) -> str:
    """Return `text` in the alphabet of the vocabulary, in which every byte is a character."""
    return ByteLevel(add_prefix_space=False, use_regex=False).pre_tokenize_str(text)[0][0]
