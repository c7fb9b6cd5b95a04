"""Masks for masked language models: whole words, other ones in each epoch (Devlin et al. 2019; Liu et al. 2019).

Each row's mask comes from a generator of its own, seeded by the run's seed, the epoch and the row's number. So every
process knows how many tokens of any row are to be predicted, and a resumed run masks as if it had not stopped.

L tokens of a row.
"""

from dataclasses import dataclass
from typing import Any

import numpy as np

from vaswani_tx.training.data.batching import IGNORED_LABEL
from vaswani_tx.training.errors import MaskingError

# What a token is to the masks: never masked, the first of a word, or a later one of it.
SPECIAL, START, INNER = 0, 1, 2


@dataclass(frozen=True)
class Masker:
    """A chooser of words of a row, and of what replaces them.

    Args:
        mask_id: the id of the mask.
        ordinary: ids that may replace a token at random.
        rate: share of a row's words that are to be predicted; a fraction of a word is rounded at random.
        as_mask, as_random: shares of their tokens that the mask and a random token replace; the others are kept.
    """

    mask_id: int
    ordinary: np.ndarray
    rate: float = 0.15
    as_mask: float = 0.8
    as_random: float = 0.1
    seed: int = 0

    @classmethod
    def of(cls, tokenizer: Any, **settings: Any) -> "Masker":
        """Return a masker for a tokenizer; raise MaskingError where it has no mask token."""
        if tokenizer.mask_token_id is None:
            raise MaskingError(
                "The tokenizer has no mask token: train it with `VaswaniTokenizer.train(..., mask_token='<mask>')`, or "
                "let this command train one (tokenizer_vocab_size)."
            )
        special = {*tokenizer.all_special_ids, *tokenizer.convert_tokens_to_ids(tokenizer.extra_special_tokens)}
        ordinary = np.setdiff1d(np.arange(len(tokenizer)), sorted(special))
        return cls(tokenizer.mask_token_id, ordinary, **settings)

    def chosen(self, words: np.ndarray, epoch: int, row: int) -> tuple[np.ndarray, np.random.Generator]:
        """Return which tokens of a row are to be predicted, [L] of bool, and the generator for all that follows.

        Args:
            words: SPECIAL, START or INNER for each token, [L].
        """
        random = np.random.default_rng([self.seed, epoch, row])
        count = int(np.count_nonzero(words == START))
        wanted = min(count, max(1, int(self.rate * count + random.random())))
        taken = np.zeros(count + 1, dtype=bool)
        taken[random.permutation(count)[:wanted]] = True
        return taken[np.cumsum(words == START) - 1] & (words != SPECIAL), random

    def __call__(self, ids: np.ndarray, words: np.ndarray, epoch: int, row: int) -> tuple[np.ndarray, np.ndarray]:
        """Return the row as the model sees it, and its labels, both [L]; -100 where nothing is to be predicted."""
        where, random = self.chosen(words, epoch, row)
        positions = np.flatnonzero(where)
        draw = random.random(len(positions))
        others = random.choice(self.ordinary, len(positions))
        seen = ids.copy()
        seen[positions[draw < self.as_mask]] = self.mask_id
        swapped = (draw >= self.as_mask) & (draw < self.as_mask + self.as_random)
        seen[positions[swapped]] = others[swapped]
        return seen, np.where(where, ids, IGNORED_LABEL)
