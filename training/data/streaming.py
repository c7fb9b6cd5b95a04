"""Training data of any size: read, filtered, tokenised and planned buffer by buffer, never held as a whole.

    corpora -> buffers of `stream_buffer` examples -> tokenised -> BatchPlan of the buffer -> batches

A buffer is an epoch to the training loop: `plan.epoch(k)` loads buffer k. Which examples it holds depends on the
corpora, their weights and the buffer's size only, and the order of its batches on the seed too. So every process cuts
the same buffers, and a resumed run reads, without tokenising, what came before.
"""

import copy
import threading
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction
from typing import Any, NamedTuple

import numpy as np

from vaswani_tx.training.data.batching import BatchPlan, PaddingWaste, Side, pair_sides
from vaswani_tx.training.data.bpe_dropout import BpeDropout
from vaswani_tx.training.data.corpora import Corpus
from vaswani_tx.training.data.filters import FilterCounts, PairFilter
from vaswani_tx.training.data.parallel import PairTokenizer, TokenizedPairs, join_parts
from vaswani_tx.training.data.readers import Chunk
from vaswani_tx.training.errors import DataError


class Buffer(NamedTuple):
    """What is known of one buffer of a stream; `examples` are tokenised pairs or rows."""

    number: int
    examples: Any
    plan: BatchPlan | None  # None where no example is left
    batches: list[np.ndarray]
    ends_pass: bool


class StreamPlan(ABC):
    """Batches of a stream; indices count the examples of the current buffer.

    Several corpora share a buffer by their weights. The first of them decides where a pass over the data ends: there a
    buffer ends early, and the next one starts from the corpus's beginning; the others restart whenever they are
    exhausted. While one buffer is trained on, a thread makes the next one: two of them are in memory.

    A subclass says how the text of a buffer is tokenised.

    Args:
        corpora: each with a weight, and `chunks(counts, streaming=True)`.
        rules: reports what was dropped, and makes the error where nothing is left.
        stream_buffer: examples of one buffer before the filters, the last one of a pass may be shorter. Similar lengths
            are looked for, and duplicates found, within a buffer only.
        quiet: do not log each buffer.
        prefetch: make the next buffer while the current one is in use.
        options: further arguments of `BatchPlan`.

    Raises:
        DataError: text that cannot be read or used (file and line); a whole pass of which the filters leave nothing; a
            buffer too small for the weights.
        BatchError: an example longer than a batch's budget.
    """

    empty_corpus = "no example with text"  # the description of a corpus of which nothing can be read

    def __init__(
        self,
        corpora: Sequence[Any],
        tokenizer: Any,
        rules: Any,
        stream_buffer: int,
        seed: int = 0,
        quiet: bool = False,
        prefetch: bool = True,
        **options: Any,
    ):
        self.corpora, self.rules = list(corpora), rules
        # A copy: two threads may not use one tokenizer at the same time, and validation uses the other.
        self.tokenizer = copy.deepcopy(tokenizer)
        self.seed, self.quiet, self.prefetch, self._options = seed, quiet, prefetch, options
        self.names = list(dict.fromkeys(name for corpus in self.corpora for name in corpus.files))
        self.counts = FilterCounts()  # of all buffers loaded so far
        self.shares = _shares([corpus.weight for corpus in self.corpora])
        self._first_rows = round(stream_buffer * self.shares[0])
        if self._first_rows < 1:
            raise DataError(
                f"stream_buffer={stream_buffer} leaves the first corpus, {self.corpora[0].name}, nothing in a buffer: "
                f"its share is {float(self.shares[0]):.6f}. Raise it to {int(1 / self.shares[0]) + 1} or more."
            )
        self._buffer: Buffer | None = None
        self._made: Buffer | BaseException | None = None  # by the thread
        self._thread: threading.Thread | None = None
        self._rewind()

    @abstractmethod
    def tokenize(self, groups: list[list[Chunk]], counts: FilterCounts, number: int) -> tuple[Any, list[Side]] | None:
        """Tokenise the text of buffer `number`.

        Args:
            groups: the chunks of each corpus.
            counts: what reading has counted so far; the examples keep it as their `counts`.

        Returns:
            the examples, and the sides to plan their batches by; None where the program has ended meanwhile.
        """

    @property
    def examples(self) -> Any:
        """Return the examples of the current buffer; those of the first one where none was loaded yet."""
        if self._buffer is None:
            self.epoch(0)
        return self._buffer.examples

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """Load buffer number `epoch` and return its batches; none where the filters leave nothing of it."""
        if self._buffer is None or epoch != self._buffer.number:
            self._load(epoch)
        return self._buffer.batches

    def passes(self, epoch: int) -> int:
        """Return how many passes over the first corpus are complete where buffer `epoch` starts; read that far."""
        if len(self._passes) <= epoch:
            self._join()
        while len(self._passes) <= epoch:
            self._next_rows(FilterCounts(), skip=True)
        return self._passes[epoch]

    def padding_waste(self, batches: Sequence[np.ndarray | None]) -> PaddingWaste:
        """Return what share of these batches' matrices is padding; of the current buffer's batches."""
        return self._buffer.plan.padding_waste(batches)

    def _load(self, number: int) -> None:
        self._join()
        made, self._made = self._made, None
        self._buffer = None  # the former buffer is freed before another one is made
        try:
            if isinstance(made, BaseException):
                raise made
            if made is None or made.number != number:
                if number < self._next:
                    self._rewind()
                self.passes(number)  # skips the buffers before it
                made = self._make(number)
        except BaseException:
            self._rewind()  # some rows are lost
            raise
        self._buffer, counts = made, made.examples.counts
        self.counts.add(counts)
        self.rules.report(counts, f"Buffer {number} of the stream: ", self.quiet)
        self._check_pass(made)
        if self.prefetch and self._next == number + 1:
            self._thread = threading.Thread(target=self._make_ahead, args=(number + 1,))
            self._thread.start()

    def _make(self, number: int) -> Buffer | None:
        """Read and tokenise the buffer that comes next; None where the program ends meanwhile."""
        before, counts = self._passes[number], FilterCounts()
        made = self.tokenize(self._next_rows(counts), counts, number)
        if made is None:
            return None
        examples, sides = made
        plan, batches = None, []
        if len(examples):
            plan = BatchPlan(sides, self.seed, locate=examples.locate, **self._options)
            batches = plan.epoch(number)
        return Buffer(number, examples, plan, batches, before < self._passes[number + 1])

    def _make_ahead(self, number: int) -> None:
        try:
            self._made = self._make(number)
        except BaseException as error:  # raised again where this buffer is asked for
            self._made = error

    def _join(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _check_pass(self, buffer: Buffer) -> None:
        """Raise DataError where nothing was left of a whole pass: the loop would read for ever."""
        self._pass_counts.add(buffer.examples.counts)
        if buffer.ends_pass:
            counts, whole = self._pass_counts, self._whole_pass
            self._pass_counts, self._whole_pass = FilterCounts(), True
            if whole and not counts.kept:
                raise self.rules.nothing_left(counts, f"a whole pass over {self.corpora[0].name}")

    def _rewind(self) -> None:
        self._readers = [_Rows(corpus, self.empty_corpus) for corpus in self.corpora]
        self._taken = [0] * len(self.corpora)
        self._next, self._passes = 0, [0]
        self._pass_counts, self._whole_pass = FilterCounts(), True

    def _next_rows(self, counts: FilterCounts, skip: bool = False) -> list[list[Chunk]]:
        """Return the text of the next buffer, a list of chunks for every corpus; with `skip` it is only read."""
        first = self._readers[0]
        groups = [first.take(self._first_rows, counts, skip)]
        self._taken[0] += first.count
        for number, reader in enumerate(self._readers[1:], start=1):
            due = int(self._taken[0] * self.shares[number] / self.shares[0]) - self._taken[number]
            group = []
            while due:
                group += reader.take(due, counts, skip)
                due -= reader.count
                self._taken[number] += reader.count
                if reader.at_end(counts):
                    reader.restart()
            groups.append(group)
        ended = first.at_end(counts)
        if ended:
            first.restart()
        if skip:
            self._pass_counts, self._whole_pass = FilterCounts(), ended
        self._next += 1
        self._passes.append(self._passes[-1] + ended)
        return groups


class PairStream(StreamPlan):
    """Batches of a stream of parallel text.

    Args:
        max_source_tokens, max_target_tokens: a batch's budgets.
        dropout: splits the words of each buffer at random.
        options: further arguments of `StreamPlan` and `BatchPlan`.
    """

    empty_corpus = "no pair with text on both sides"

    def __init__(
        self, corpora: Sequence[Corpus], tokenizer: Any, rules: PairFilter, max_source_tokens: int,
        max_target_tokens: int, stream_buffer: int, dropout: BpeDropout | None = None, **options: Any,
    ):  # fmt: skip
        self._budgets, self._dropout = (max_source_tokens, max_target_tokens), dropout
        super().__init__(corpora, tokenizer, rules, stream_buffer, **options)

    def tokenize(
        self, groups: list[list[Chunk]], counts: FilterCounts, number: int
    ) -> tuple[TokenizedPairs, list[Side]] | None:
        """Tokenise and filter the pairs of a buffer."""
        encode = PairTokenizer(self.tokenizer, self.rules, self.names, counts, words=self._dropout is not None)
        parts, bounds = [], [0]
        for group in groups:
            for part in encode.parts(group):
                parts.append(part)
                if not threading.main_thread().is_alive():
                    return None
            bounds.append(encode.counts.kept)
        pairs = join_parts(parts, self.names, encode.counts, tuple(bounds))
        if self._dropout is not None:
            if number == 0:
                self._dropout.check(pairs)
            pairs = replace(self._dropout.pairs_of(pairs, number), bounds=pairs.bounds)
        return pairs, pair_sides(pairs.source_lengths, pairs.target_lengths, *self._budgets)


class _Rows:
    """A reader of the examples of a corpus one after another, pass after pass, in chunks of any size."""

    def __init__(self, corpus: Any, empty: str):
        self.corpus, self.empty = corpus, empty
        self.restart()

    def restart(self) -> None:
        """Begin the next pass."""
        self._own = FilterCounts()
        self._chunks = self.corpus.chunks(self._own, streaming=True)
        self._chunk: Chunk | None = None
        self._start = 0  # of what is left of the chunk
        self._any = False

    def take(self, most: int, counts: FilterCounts, skip: bool) -> list[Chunk]:
        """Return the next examples, `count` of them: at most so many, and none beyond the end of the pass."""
        taken, self.count = [], 0
        while self.count < most and not self.at_end(counts):
            stop = min(len(self._chunk.lines), self._start + most - self.count)
            if not skip:
                taken.append(_cut(self._chunk, self._start, stop))
            self.count, self._start = self.count + stop - self._start, stop
        return taken

    def at_end(self, counts: FilterCounts) -> bool:
        """Return whether the pass is over; look ahead, so that a pass that ends with a buffer is known to end there."""
        while self._chunk is None or self._start == len(self._chunk.lines):
            self._chunk, self._start = None, 0
            self._chunk = next(self._chunks, None)
            self._own.move_to(counts)
            if self._chunk is None:
                if not self._any:
                    raise DataError(f"{self.corpus.name} holds {self.empty}: nothing is left.")
                return True
            self._any = True
        return False


def _cut(chunk: Chunk, start: int, stop: int) -> Chunk:
    if start == 0 and stop == len(chunk.lines):
        return chunk
    source, target = chunk.source[start:stop], chunk.target[start:stop]
    return chunk._replace(lines=chunk.lines[start:stop], source=source, target=target)


def _shares(weights: Sequence[float]) -> list[Fraction]:
    exact = [Fraction(str(weight)) for weight in weights]
    return [weight / sum(exact) for weight in exact]
