# Shapes: R rows of the decoder, T target length so far, V vocabulary.
"""Forbidden words and phrases, matched on the text that the tokens make, however the pieces fall."""

import unicodedata
from bisect import bisect_left
from collections.abc import Iterable
from typing import Any

import torch
from transformers import LogitsProcessor

from .phrases_vaswani import checked_phrase, listed
from .token_texts_vaswani import TokenTexts, is_word_character, separates, token_texts

LONGEST_CHARACTER = 4  # bytes in UTF-8


class _Phrase:
    """One phrase: which tokens complete it where a beginning of it is already written.

    Args:
        whole: whether it counts only as whole words. Its ends that are no letters or digits need no boundary.
    """

    def __init__(self, text: str, whole: bool, texts: TokenTexts):
        self.bytes, self.texts = text.encode(), texts
        self.opens = whole and is_word_character(text[0])
        self.closes = whole and is_word_character(text[-1])
        self.inside = [token for written, token in texts.sorted if self._is_within(written)]
        self._completing: dict[int, list[int]] = {}

    def begun(self, text: bytes) -> list[int]:
        """Return how many bytes of the phrase `text` may end with, 0 for a phrase that the next token may begin."""
        longest = min(len(text), len(self.bytes) - (not self.closes))
        return [
            count
            for count in range(longest + 1)
            if text.endswith(self.bytes[:count]) and self._may_begin(text[: len(text) - count])
        ]

    def completing(self, count: int) -> list[int]:
        """Return the tokens that complete the phrase after its first `count` bytes."""
        if count not in self._completing:
            rest = self.bytes[count:]
            if rest:
                upper = rest[:-1] + bytes([rest[-1] + 1])  # UTF-8 has no byte 0xFF
                first, last = (bisect_left(self.texts.sorted, (bound,)) for bound in (rest, upper))
                found = self.texts.sorted[first:last]
                self._completing[count] = [token for text, token in found if self._may_end(text[len(rest) :])]
            else:  # all of it is written: it is a whole word if something else, or the end, follows
                separating = [token for text, token in self.texts.sorted if separates(text, unsure=True)]
                self._completing[count] = [*separating, *self.texts.textless]
        return self._completing[count]

    def _is_within(self, text: bytes) -> bool:
        place = text.find(self.bytes, 1)
        while place > 0:
            if self._may_begin(text[:place]) and self._may_end(text[place + len(self.bytes) :]):
                return True
            place = text.find(self.bytes, place + 1)
        return False

    def _may_begin(self, before: bytes) -> bool:
        if not self.opens:
            return True
        # The cut may have left a part of a character in front.
        last = before[-2 * LONGEST_CHARACTER :].decode("utf-8", errors="ignore")[-1:]
        return not last or not before.endswith(last.encode()) or not is_word_character(last)

    def _may_end(self, after: bytes) -> bool:
        return not self.closes or separates(after, unsure=True)


class ForbiddenPhrases(LogitsProcessor):
    """A processor that lets no token complete a forbidden word or phrase, whatever tokens it is written with.

    Give it to `generate` of any model: `logits_processor=[ForbiddenPhrases(tokenizer, ["jungen"])]`.

    Args:
        tokenizer: the tokenizer that decodes the targets, without `clean_up_tokenization_spaces`.
        phrases: what no text may hold, case and inner spaces as they are written.
        whole_words: "cat" is then forbidden as a word, and "cats" and "concatenate" are not. Only an absolute limit
            (`max_new_tokens`, `max_length`, `max_time`) can still cut a longer word so that a forbidden one is left.

    Raises:
        ConstraintError: a phrase is empty, not text, or holds characters that the tokenizer does not know.
    """

    def __init__(self, tokenizer: Any, phrases: Iterable[str], whole_words: bool = False):
        given = [checked_phrase(tokenizer, phrase)[0] for phrase in listed(phrases, "bad_words")]
        # Bytes can write an accent in both of Unicode's ways, which look the same.
        forms = dict.fromkeys(unicodedata.normalize(form, text) for form in ("NFC", "NFD") for text in given)
        self._texts = token_texts(tokenizer)
        self._phrases = [_Phrase(text, whole_words, self._texts) for text in dict.fromkeys([*given, *forms])]
        self._reach = max((len(phrase.bytes) for phrase in self._phrases), default=0) + 2 * LONGEST_CHARACTER
        self._tokens: dict[tuple[tuple[int, ...], ...], torch.Tensor] = {}

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.Tensor:
        if not self._phrases:
            return scores
        allowed = scores.clone()
        for row, tokens in enumerate(input_ids.tolist()):
            allowed[row, self._forbidden(tokens, scores)] = -torch.inf
        return allowed

    def _forbidden(self, tokens: list[int], scores: torch.Tensor) -> torch.Tensor:
        """Return the ids that may not follow."""
        text = b""
        for token in reversed(tokens):
            text = self._texts.of.get(token, b"") + text
            if len(text) >= self._reach:
                break
        state = tuple(tuple(phrase.begun(text)) for phrase in self._phrases)
        if state not in self._tokens:
            pairs = list(zip(self._phrases, state, strict=True))
            found = {token for phrase, counts in pairs for count in counts for token in phrase.completing(count)}
            found.update(token for phrase, _ in pairs for token in phrase.inside)
            known = sorted(token for token in found if token < scores.shape[-1])
            self._tokens[state] = torch.tensor(known, dtype=torch.long, device=scores.device)
        return self._tokens[state]


__all__ = ["ForbiddenPhrases"]
