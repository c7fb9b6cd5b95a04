"""Sentences as the older tokenised BLEU scores need them: by the Moses scripts, in their Python port sacremoses.

Two conventions of the literature, for the same n-gram BLEU without smoothing (Moses' `multi-bleu.perl`):

- `compound_split`: the paper's WMT14 English-German and English-French scores. Unicode punctuation to ASCII, Moses
  tokeniser, and `rich-text` as three tokens, `rich ##AT##-##AT## text`, as tensor2tensor's `get_ende_bleu.sh` has it.
- `tokenised_lowercase`: Multi30k's distributed test files and results upon them (Wu et al. 2021). Lowercased,
  punctuation normalised, Moses tokeniser.

Both leave out Moses' XML escapes (`&apos;` for `'`): they rename tokens one to one, the same on both sides, so that no
n-gram count changes. Give hypotheses and references alike to the same function.
"""

import re
from collections.abc import Sequence

from sacremoses import MosesPunctNormalizer, MosesTokenizer
from sacremoses.corpus import NonbreakingPrefixes

# The tokeniser has rules for these without a list of abbreviations.
WITHOUT_ABBREVIATIONS = {"ja", "ko"}


def split_compounds(text: str) -> str:
    """Make a token of its own of a hyphen between two non-space characters: `a-b` is `a ##AT##-##AT## b`.

    As in the script that made the published numbers, a match uses up both neighbours: of `a-b-c` it splits the first
    hyphen only, of `ab-cd-ef` both.
    """
    return re.sub(r"(\S)-(\S)", r"\1 ##AT##-##AT## \2", text)


def compound_split(sentences: Sequence[str], language: str = "de") -> list[str]:
    """Turn plain sentences into the paper's tokens, separated by spaces; ValueError for an unknown language."""
    tokenizer = _tokenizer(language)
    unicode = MosesPunctNormalizer(language, perl_parity=True).replace_unicode_punct
    return [split_compounds(_tokens(tokenizer, unicode(text))) for text in sentences]


def tokenised_lowercase(sentences: Sequence[str], language: str = "de") -> list[str]:
    """Turn plain sentences into Multi30k's tokens, separated by spaces; ValueError for an unknown language."""
    tokenizer = _tokenizer(language)
    normalise = MosesPunctNormalizer(language, perl_parity=True).normalize
    return [_tokens(tokenizer, normalise(text.lower())) for text in sentences]


def _tokens(tokenizer: MosesTokenizer, text: str) -> str:
    return tokenizer.tokenize(text, return_str=True, escape=False)


def _tokenizer(language: str) -> MosesTokenizer:
    """Return the Moses tokeniser of a language; ValueError for an unknown one, where sacremoses takes English rules."""
    known = {*NonbreakingPrefixes().available_langs.values(), *WITHOUT_ABBREVIATIONS}
    if language not in known:
        raise ValueError(f"the Moses tokeniser has no rules for {language!r}: choose one of {', '.join(sorted(known))}")
    return MosesTokenizer(language)
