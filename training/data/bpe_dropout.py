"""BPE-dropout (Provilkov, Emelianenko and Voita 2020, arXiv 1910.13267): the same words in other subwords every epoch.

    plain ids, starts of words -> smallest symbols of each word -> merges, some left out at random -> ids of an epoch

The paper's algorithm 1, for each word: of all merges possible at the moment, each is left out with probability p; of
those that remain, the one learned first is applied, the leftmost where there are several; the word is finished where
none remains. p = 0 is plain byte-pair encoding, p = 1 leaves the smallest symbols (of ours, bytes).

Every draw is a hash of (seed, epoch, side, example, word, step, position) and depends on nothing else: processes,
chunks and resumed runs agree. The dropout of the library `tokenizers` draws from a generator that nobody can seed. All
words of a length are merged at once: each step takes one symbol from each of them.

N examples, W words, n symbols of a word.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from vaswani_tx.token_texts_vaswani import source_of, target_of
from vaswani_tx.training.data.batching import BatchPlan, PaddingWaste, Side, WeightedPlan, pair_sides
from vaswani_tx.training.data.parallel import TokenizedPairs
from vaswani_tx.training.errors import DataError

SIDES = {"source": source_of, "target": target_of}
# Examples that are split at once, and that the merges must give the tokenizer's own tokens of.
CHUNK, CHECKED = 8192, 1000
GOLDEN = 0x9E3779B97F4A7C15
_WORD = (1 << 64) - 1
_BITS = 53  # of a draw, as many as a float has


class Merges:
    """The merges of a byte-pair vocabulary as arrays.

    Args:
        tokenizer: of one vocabulary.
        name: what it is called in messages.

    Raises:
        DataError: its model is no byte-pair encoding.
    """

    def __init__(self, tokenizer: Any, name: str = "the tokenizer"):
        backend = getattr(tokenizer, "backend_tokenizer", None)
        model = json.loads(backend.to_str())["model"] if backend is not None else {"type": type(tokenizer).__name__}
        if model["type"] != "BPE":
            raise DataError(
                f"bpe_dropout: {name} is {model['type']}, which has no merges to leave out: use a byte-pair vocabulary "
                "such as `vaswani-tx train tokenizer` makes, or set bpe_dropout to 0."
            )
        vocabulary, prefix = model["vocab"], model.get("continuing_subword_prefix") or ""
        self.size = max(vocabulary.values()) + 1
        ranks: dict[int, tuple[int, int]] = {}
        parts: dict[int, tuple[int, int]] = {}
        for rank, merge in enumerate(model["merges"]):
            left, right = merge.split(" ") if isinstance(merge, str) else merge
            pair = vocabulary[left], vocabulary[right]
            result = vocabulary[left + right.removeprefix(prefix)]
            ranks[pair[0] * self.size + pair[1]] = (rank, result)
            parts.setdefault(result, pair)
        whole = getattr(tokenizer, "init_kwargs", {}).get("whole_words") or ()
        # With another word before it, as in the middle of a text.
        words = [tokenizer(f". {word}", add_special_tokens=False)["input_ids"][-1] for word in whole]
        self.none = len(model["merges"])  # the rank of no merge
        self._pairs = np.array(sorted(ranks), dtype=np.int64)
        self._ranks = np.array([ranks[pair][0] for pair in self._pairs.tolist()], dtype=np.int64)
        self._results = np.zeros(self.none + 1, dtype=np.int64)
        for rank, result in ranks.values():
            self._results[rank] = result
        symbols, self._offsets = _symbols(parts, len(tokenizer))
        self._own = len(symbols)  # where the ids themselves begin, as their own symbols
        self._symbols = np.concatenate((symbols, np.arange(len(tokenizer))))
        self._whole = np.zeros(len(tokenizer), dtype=bool)
        self._whole[words] = True

    def symbols_of(self, ids: np.ndarray, alone: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the smallest symbols of tokens in one array, and how many each has.

        `alone` says of each whether it is all of its word; a word that must stay whole is then a symbol by itself.
        """
        starts, lengths = self._offsets[ids], self._offsets[ids + 1] - self._offsets[ids]
        whole = alone & self._whole[ids]
        starts, lengths = np.where(whole, self._own + ids, starts), np.where(whole, 1, lengths)
        return self._symbols[_ragged(starts, lengths)], lengths

    def split(
        self, symbols: np.ndarray, lengths: np.ndarray, rate: float, keys: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of words in one array, and how many each has.

        Args:
            symbols: the smallest symbols of all words, one after another.
            lengths: how many each word has, [W].
            rate: p.
            keys: the start of each word's draws, uint64 [W].
        """
        starts, found = np.cumsum(lengths) - lengths, []
        order = np.argsort(lengths, kind="stable")
        for words in np.split(order, np.flatnonzero(np.diff(lengths[order])) + 1):
            if len(words):
                rows = symbols[starts[words][:, None] + np.arange(lengths[words[0]])]
                found += self._merge(rows, words, rate, keys[words])
        counts = np.zeros(len(lengths), dtype=np.int64)
        for words, rows in found:
            counts[words] = rows.shape[1]
        begin, tokens = np.cumsum(counts) - counts, np.zeros(int(counts.sum()), dtype=np.int32)
        for words, rows in found:
            tokens[begin[words][:, None] + np.arange(rows.shape[1])] = rows
        return tokens, counts

    def _merge(
        self, rows: np.ndarray, words: np.ndarray, rate: float, keys: np.ndarray
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Yield words of n symbols [W, n] as they are finished, those of equally many tokens together."""
        ranks = self._ranks_of(rows[:, :-1], rows[:, 1:])  # [W, n - 1]
        step = 0
        while rows.shape[1] > 1:
            left = ranks
            if rate:
                left = np.where(draws(keys, step, ranks.shape[1]) < int(rate * 2**_BITS), self.none, ranks)
            place = left.argmin(axis=1)
            best = np.take_along_axis(left, place[:, None], axis=1)[:, 0]
            merged = best < self.none
            if not merged.all():
                yield words[~merged], rows[~merged]
                rows, words, keys, ranks, place, best = (a[merged] for a in (rows, words, keys, ranks, place, best))
            if not len(rows):
                return
            # [W, n] -> [W, n - 1]: the right symbol goes, the left one becomes the result.
            rows, ranks = _without(rows, place + 1), _without(ranks, place)
            every = np.arange(len(rows))
            rows[every, place] = self._results[best]
            before = np.flatnonzero(place > 0)
            at = place[before]
            ranks[before, at - 1] = self._ranks_of(rows[before, at - 1], rows[before, at])
            after = np.flatnonzero(place < ranks.shape[1])
            at = place[after]
            ranks[after, at] = self._ranks_of(rows[after, at], rows[after, at + 1])
            step += 1
        yield words, rows

    def _ranks_of(self, left: np.ndarray, right: np.ndarray) -> np.ndarray:
        """Return the rank of the merge of each two symbols, `none` where there is none."""
        pairs = left * self.size + right
        if not len(self._pairs):
            return np.full(pairs.shape, self.none)
        places = np.minimum(np.searchsorted(self._pairs, pairs), len(self._pairs) - 1)
        return np.where(self._pairs[places] == pairs, self._ranks[places], self.none)


def _symbols(parts: dict[int, tuple[int, int]], size: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the smallest symbols of every id in one array, and where those of each begin; of no merge: itself."""
    known: dict[int, list[int]] = {}

    def of(index: int) -> list[int]:
        if index not in known:
            known[index] = [s for part in parts[index] for s in of(part)] if index in parts else [index]
        return known[index]

    lists = [of(index) for index in range(size)]
    offsets = np.concatenate(([0], np.cumsum([len(symbols) for symbols in lists])))
    return np.array([symbol for symbols in lists for symbol in symbols], dtype=np.int64), offsets


def _without(rows: np.ndarray, place: np.ndarray) -> np.ndarray:
    """Return rows less one column each."""
    keep = np.arange(rows.shape[1]) != place[:, None]
    return rows[keep].reshape(len(rows), rows.shape[1] - 1)


def _ragged(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Return the indices from each start on, `lengths` of them, in one array."""
    return np.repeat(starts - (np.cumsum(lengths) - lengths), lengths) + np.arange(int(lengths.sum()))


def mixed(values: np.ndarray) -> np.ndarray:
    """Return 64-bit hashes: the last part of the generator splitmix64 (Steele, Lea and Flood 2014)."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def folded(key: np.ndarray, number: np.ndarray | int) -> np.ndarray:
    """Return the key of one further number, such as an epoch or a place; arrays of uint64."""
    number = np.atleast_1d(np.asarray(number)).astype(np.uint64)
    return mixed(key + (number + np.uint64(1)) * np.uint64(GOLDEN))


def draws(keys: np.ndarray, step: int, count: int) -> np.ndarray:
    """Return whole numbers below 2 ** 53 for the positions of a step, [W, count]."""
    counters = (np.arange(count, dtype=np.uint64) + np.uint64((step << 32) + 1)) * np.uint64(GOLDEN)
    return mixed(keys[:, None] + counters) >> np.uint64(64 - _BITS)


@dataclass(frozen=True)
class BpeDropout:
    """BPE-dropout of the sides of training pairs.

    Args:
        rate: p.
        seed: of the run.
        merges: side -> its merges, of the sides that are split at random.
        limits: side -> most tokens of an example. One that would be longer keeps its plain tokens in that epoch.
    """

    rate: float
    seed: int
    merges: dict[str, Merges]
    limits: dict[str, int]

    @classmethod
    def of_tokenizer(
        cls, tokenizer: Any, rate: float, seed: int, limits: dict[str, int], sides: Sequence[str] = tuple(SIDES)
    ) -> "BpeDropout":
        """Return that of a tokenizer, of one vocabulary or of one for each side."""
        made: dict[int, Merges] = {}
        found = {}
        for side in sides:
            own = SIDES[side](tokenizer)
            if id(own) not in made:
                made[id(own)] = Merges(own, f"the {side}'s vocabulary")
            found[side] = made[id(own)]
        return cls(rate, seed, found, limits)

    def check(self, pairs: TokenizedPairs) -> None:
        """Raise DataError where merges alone do not give the tokenizer's own tokens of the first pairs."""
        first = np.arange(min(len(pairs), CHECKED))
        for side in self.merges:
            flat, lengths = self._split(pairs, side, first, 0, 0.0)
            offsets = getattr(pairs, f"{side}_offsets")
            plain = np.asarray(getattr(pairs, f"{side}_flat")[: offsets[len(first)]])
            if not np.array_equal(flat, plain):
                ends = np.cumsum(lengths)
                same = [
                    np.array_equal(flat[end - n : end], getattr(pairs, f"{side}_ids")(i))
                    for i, (end, n) in enumerate(zip(ends, lengths, strict=True))
                ]
                raise DataError(
                    f"bpe_dropout: the {side}'s tokenizer gives other tokens than its merges do, as in "
                    f"{pairs.locate(same.index(False))}: its words cannot be split at random. Set bpe_dropout to 0, or "
                    "use another vocabulary."
                )

    def pairs_of(self, pairs: TokenizedPairs, epoch: int, chosen: np.ndarray | None = None) -> TokenizedPairs:
        """Return the pairs of an epoch, split at random.

        Args:
            pairs: with the starts of their words.
            chosen: indices of pairs, some perhaps repeated, each of which is then split in its own way; None: all.
        """
        chosen = np.arange(len(pairs)) if chosen is None else chosen
        arrays: dict[str, Any] = {}
        for side in SIDES:
            if side in self.merges:
                flat, lengths = self._split(pairs, side, chosen, epoch, self.rate)
            else:
                flat, lengths = _taken(pairs, side, chosen)
            arrays |= {f"{side}_flat": flat, f"{side}_offsets": np.concatenate(([0], np.cumsum(lengths)))}
            arrays[f"{side}_starts"] = None
        lines, files = np.asarray(pairs.lines)[chosen], np.asarray(pairs.file_index)[chosen]
        return replace(pairs, **arrays, lines=lines, file_index=files, bounds=())

    def _split(
        self, pairs: TokenizedPairs, side: str, chosen: np.ndarray, epoch: int, rate: float
    ) -> tuple[np.ndarray, np.ndarray]:
        """Return the tokens of one side of some pairs in one array, and how many each has."""
        key = np.zeros(1, dtype=np.uint64)
        for number in (self.seed, epoch, list(SIDES).index(side)):
            key = folded(key, number)
        parts = [
            self._split_some(pairs, side, chosen[start : start + CHUNK], folded(key, np.arange(start, stop)), rate)
            for start in range(0, len(chosen), CHUNK)
            for stop in [min(start + CHUNK, len(chosen))]
        ]
        flat, lengths = zip(*parts, strict=True) if parts else (([np.zeros(0, np.int32)],) * 2)
        return np.concatenate(flat), np.concatenate(lengths).astype(np.int64)

    def _split_some(
        self, pairs: TokenizedPairs, side: str, chosen: np.ndarray, keys: np.ndarray, rate: float
    ) -> tuple[np.ndarray, np.ndarray]:
        merges, plain, plain_lengths = self.merges[side], *_taken(pairs, side, chosen)
        starts, _ = _taken(pairs, side, chosen, "starts")
        first = np.flatnonzero(starts)  # [W], tokens that begin a word
        example = np.repeat(np.arange(len(chosen)), plain_lengths)[first]
        words_before = np.searchsorted(example, np.arange(len(chosen)))
        alone = starts & np.append(starts[1:], True)
        symbols, lengths = merges.symbols_of(plain, alone)
        keys = folded(keys[example], np.arange(len(first)) - words_before[example])
        flat, counts = merges.split(symbols, np.add.reduceat(lengths, first), rate, keys)
        found = np.add.reduceat(counts, words_before)  # [N]
        over = found > self.limits[side]
        if not over.any() or not rate:
            return flat, found
        own = np.where(over, plain_lengths, found)
        kept, result = np.repeat(over, own), np.empty(int(own.sum()), dtype=np.int32)
        result[kept] = plain[np.repeat(over, plain_lengths)]
        result[~kept] = flat[np.repeat(~over, found)]
        return result, own


def _taken(pairs: TokenizedPairs, side: str, chosen: np.ndarray, what: str = "flat") -> tuple[np.ndarray, np.ndarray]:
    """Return one side of some pairs in one array, and the length of each."""
    offsets = np.asarray(getattr(pairs, f"{side}_offsets"))
    starts, lengths = offsets[chosen], offsets[chosen + 1] - offsets[chosen]
    return getattr(pairs, f"{side}_{what}")[_ragged(starts, lengths)], lengths


class DropoutPlan:
    """A plan whose epochs hold the pairs of another plan's, split at random; indices count the current epoch's.

    The batches of an epoch are cut by that epoch's lengths, within the same budgets.

    Args:
        plain: the plan of the plain tokens.
        pairs: those tokens, with the starts of their words.
        options: further arguments of `BatchPlan`.
    """

    def __init__(
        self, plain: BatchPlan | WeightedPlan, pairs: TokenizedPairs, dropout: BpeDropout, budgets: tuple[int, int],
        **options: Any,
    ):  # fmt: skip
        self.plain, self.pairs, self.dropout = plain, pairs, dropout
        self._budgets, self._options = budgets, options
        self._epoch = -1
        dropout.check(pairs)

    def __len__(self) -> int:
        return len(self.plain)

    @property
    def examples(self) -> TokenizedPairs:
        """Return the pairs of the current epoch; those of the first one where none was asked for yet."""
        if self._epoch < 0:
            self.epoch(0)
        return self._examples

    def sizes(self) -> list[int]:
        """Return how many pairs an epoch takes of each corpus."""
        return self.plain.sizes() if isinstance(self.plain, WeightedPlan) else np.diff(self.pairs.bounds).tolist()

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """Split the pairs of an epoch and return its batches in order, each an array of indices."""
        if epoch != self._epoch:
            chosen = self.plain.drawn(epoch) if isinstance(self.plain, WeightedPlan) else None
            self._examples = self.dropout.pairs_of(self.pairs, epoch, chosen)
            self._epoch = epoch
            self.__dict__.pop("_batches", None)
        return self._batches

    @cached_property
    def _batches(self) -> list[np.ndarray]:
        self._plan = BatchPlan(self._sides(), self.dropout.seed, order=self.plain.order, **self._options)
        return self._plan.epoch(self._epoch)

    def _sides(self) -> list[Side]:
        return pair_sides(self._examples.source_lengths, self._examples.target_lengths, *self._budgets)

    def padding_waste(self, batches: Sequence[np.ndarray | None]) -> PaddingWaste:
        """Return what share of these batches' matrices is padding; of the current epoch's batches."""
        return self._plan.padding_waste(batches)
