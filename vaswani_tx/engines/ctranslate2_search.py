"""Beam search with CTranslate2 that returns what `generate` returns, with the paper's ranking and limits.

CTranslate2 ranks by log P / length^p and stops at a number of hypotheses; neither is GNMT's penalty with a proof that
nothing better follows. But the beams that run do not depend on what is finished. So all hypotheses that finish within T
steps are taken, with those that still run at step T; they are ranked here; and where a running one could still get
into the answer, at the largest penalty that it can reach, T is raised. That is the rule of `generate`.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

# An exponent of lengths that leaves all log-probabilities as they are; 0 itself makes CTranslate2 stop early.
NO_PENALTY = 1e-30
# Steps of a first try, by the length of the source, and how a try grows.
FIRST_SLOPE, FIRST_STEPS, GROWTH = 1.1, 5, 1.6
# Sources of one try: all of them run for as many steps as the longest needs.
SOURCES_AT_ONCE = 32


@dataclass
class Hypothesis:
    """A target: its ids with the end of sentence, its log-probability, and what it is ranked by.

    `free` tokens at its end cost nothing: 1 where the end is forced.
    """

    ids: list[int]
    log_prob: float
    score: float = 0.0
    ended: bool = True
    free: int = 0


@dataclass
class Settings:
    """What a search is asked for.

    Args:
        beams: 1 is greedy.
        returned: hypotheses of a source.
        penalty: the divisor of the log-probability of a target of so many tokens.
        stops_early: end a source as soon as `beams` hypotheses are complete; else when nothing can improve.
        exponent: where the penalty is a power of the length, its exponent.
        closes: at the limit a target ends with the end of sentence at its probability; else it is cut.
        forced: the end of sentence that closes a target at no cost, `forced_eos_token_id`; None: see `closes`.
        options: further keywords of CTranslate2's `translate_batch`.
    """

    beams: int
    returned: int
    penalty: Callable[[int], float]
    stops_early: bool
    exponent: float | None
    closes: bool
    forced: int | None = None
    options: dict[str, Any] = field(default_factory=dict)


class Search:
    """Searches of one CTranslate2 translator.

    Args:
        translator: `ctranslate2.Translator`.
        source_tokens, target_tokens: the vocabularies, in the order of ids.
        ends: ids that end a target.
    """

    def __init__(self, translator: Any, source_tokens: list[str], target_tokens: list[str], ends: Sequence[int]):
        self.translator = translator
        self.source_tokens, self.target_tokens = source_tokens, target_tokens
        self.ids = {token: index for index, token in enumerate(target_tokens)}
        self.ends = list(ends)
        self.uncertain = 0  # sources whose answer at the limit is not proved to be the best

    def __call__(self, rows: list[list[int]], limits: list[int], settings: Settings) -> list[list[Hypothesis]]:
        """Return the hypotheses of each source, best first.

        Args:
            rows: ids of the sources, without padding.
            limits: the most tokens of each target, its end included.
        """
        sources = [[self.source_tokens[index] for index in row] for row in rows]
        if settings.beams == 1:
            return self._greedy(sources, limits, settings)
        if settings.exponent is not None and settings.stops_early:
            return self._stopping(sources, limits, settings)
        return self._proving(sources, limits, settings)

    # One call of the engine

    def _call(self, sources: list[list[str]], longest: int, settings: Settings, **options: Any) -> Any:
        return self.translator.translate_batch(
            sources,
            beam_size=settings.beams,
            max_decoding_length=longest,
            max_input_length=0,
            return_scores=True,
            return_end_token=True,
            end_token=self.ends,
            **{"min_decoding_length": 0, **settings.options, **options},
        )

    def _read(self, result: Any, exponent: float = 0.0) -> list[Hypothesis]:
        found = []
        for tokens, score in zip(result.hypotheses, result.scores, strict=True):
            ids = [self.ids[token] for token in tokens]
            log_prob = score * len(ids) ** exponent if exponent else score
            found.append(Hypothesis(ids, log_prob, ended=bool(ids) and ids[-1] in self.ends))
        return found

    def _closed(
        self, sources: list[list[str]], open_ones: list[list[int]], forced: int | None = None
    ) -> list[Hypothesis]:
        """End targets with the most probable end of sentence, at its probability; with a forced one at no cost."""
        ends, free = (self.ends, 0) if forced is None else ([forced], 1)
        candidates = [(row, end) for row in range(len(open_ones)) for end in ends]
        targets = [[self.target_tokens[i] for i in [*open_ones[row], end]] for row, end in candidates]
        # Each token's score; CTranslate2 appends the model's own end of sentence, which is left out.
        scored = self.translator.score_batch([sources[row] for row, _ in candidates], targets, max_input_length=0)
        best: list[Hypothesis | None] = [None] * len(open_ones)
        for (row, end), one in zip(candidates, scored, strict=True):
            ids = [*open_ones[row], end]
            log_prob = math.fsum(one.log_probs[: len(ids) - free])
            known = best[row]
            if known is None or log_prob > known.log_prob:
                best[row] = Hypothesis(ids, log_prob, free=free)
        return [one for one in best if one is not None]

    def scored(
        self, rows: list[list[int]], found: list[list[Hypothesis]], settings: Settings
    ) -> list[list[Hypothesis]]:
        """Return hypotheses with the model's own log-probabilities, ranked by them."""
        pairs = [(row, one) for row, each in enumerate(found) for one in each]
        sources = [[self.source_tokens[index] for index in rows[row]] for row, _ in pairs]
        targets = [[self.target_tokens[index] for index in one.ids] for _, one in pairs]
        results = self.translator.score_batch(sources, targets, max_input_length=0)
        for (_, one), result in zip(pairs, results, strict=True):
            one.log_prob = math.fsum(result.log_probs[: len(one.ids) - one.free])
        return [self._ranked(each, settings) for each in found]

    # Greedy

    def _greedy(self, sources: list[list[str]], limits: list[int], settings: Settings) -> list[list[Hypothesis]]:
        results = self._call(sources, max(limits), settings, length_penalty=0)
        found = [self._read(result)[0] for result in results]
        free = settings.forced is not None  # at the limit an end costs nothing, also one that the model chose
        cut = [row for row, one in enumerate(found) if len(one.ids) + free > limits[row] or not one.ended]
        if settings.closes and cut:
            begun = [found[row].ids[: limits[row] - 1] for row in cut]
            ends = self._closed([sources[row] for row in cut], begun, settings.forced)
            for row, one in zip(cut, ends, strict=True):
                found[row] = one
        for one in found:
            one.score = one.log_prob / settings.penalty(max(len(one.ids), 1))
        return [[one] for one in found]

    # Beams that end as soon as there are as many hypotheses

    def _stopping(self, sources: list[list[str]], limits: list[int], settings: Settings) -> list[list[Hypothesis]]:
        exponent = settings.exponent or 0.0
        # Without a penalty CTranslate2 would stop at the first hypothesis.
        options = {"length_penalty": exponent or NO_PENALTY, "num_hypotheses": settings.beams, "patience": 1}
        results = self._call(sources, max(limits), settings, **options)
        found: list[list[Hypothesis]] = []
        again = []
        for row, result in enumerate(results):
            pool = self._read(result, exponent)
            # What ended last is among those returned, so their longest tells when the search ended.
            if max(len(one.ids) for one in pool) >= limits[row] and (settings.closes or limits[row] < max(limits)):
                again.append(row)
            found.append(self._ranked(pool, settings))
        if again:
            pools = self._proving([sources[row] for row in again], [limits[row] for row in again], settings)
            for row, pool in zip(again, pools, strict=True):
                found[row] = pool
        return found

    # Beams with a proof that nothing better follows

    def _proving(self, sources: list[list[str]], limits: list[int], settings: Settings) -> list[list[Hypothesis]]:
        found: list[list[Hypothesis]] = [[] for _ in sources]
        order = sorted(range(len(sources)), key=lambda row: len(sources[row]))
        for first in range(0, len(order), SOURCES_AT_ONCE):
            rows = order[first : first + SOURCES_AT_ONCE]
            made = self._proved([sources[row] for row in rows], [limits[row] for row in rows], settings)
            for row, one in zip(rows, made, strict=True):
                found[row] = one
        return found

    def _proved(self, sources: list[list[str]], limits: list[int], settings: Settings) -> list[list[Hypothesis]]:
        # Where a target is closed at its limit, the search itself is one step shorter.
        finals = [max(limit - settings.closes, 1) for limit in limits]
        found: list[list[Hypothesis]] = [[] for _ in sources]
        waiting = list(range(len(sources)))
        steps = math.ceil(FIRST_SLOPE * max(map(len, sources))) + FIRST_STEPS
        while waiting:
            steps = min(steps, *(finals[row] for row in waiting))
            options = {
                "length_penalty": NO_PENALTY,
                "patience": steps + 1,
                "num_hypotheses": settings.beams * steps,
            }
            results = self._call([sources[row] for row in waiting], steps, settings, **options)
            rest = []
            for row, result in zip(waiting, results, strict=True):
                answer = self._judge(self._read(result), sources[row], steps, limits[row], finals[row], settings)
                if answer is None:
                    rest.append(row)
                else:
                    found[row] = answer
            waiting, steps = rest, math.ceil(GROWTH * steps)
        return found

    def _judge(
        self,
        pool: list[Hypothesis],
        source: list[str],
        steps: int,
        limit: int,
        final: int,
        settings: Settings,
    ) -> list[Hypothesis] | None:
        """Return the answer where more steps cannot change it, None where they may."""
        ended = [one for one in pool if one.ended]
        running = [one for one in pool if not one.ended]
        if settings.stops_early:
            until = self._full_at(ended, settings.beams)
            if until is not None:
                return self._ranked([one for one in ended if len(one.ids) <= until], settings)
        ranked = self._ranked(ended, settings)
        # Of the candidates of the last step those that ended hide others, which are less probable than all of them.
        last = [one.log_prob for one in pool if len(one.ids) == steps]
        bound = max((one.log_prob for one in running), default=min(last, default=-math.inf))
        best_possible = bound / settings.penalty(limit)
        wanted = settings.returned
        if not settings.stops_early and len(ranked) >= wanted and best_possible <= ranked[wanted - 1].score:
            return ranked
        if steps < final:
            return None
        if settings.closes and limit > steps:
            if settings.forced is not None:
                running = [Hypothesis([*one.ids, settings.forced], one.log_prob, free=1) for one in running]
            elif running:
                running = self._closed([source] * len(running), [one.ids for one in running])
        answer = self._ranked([*ended, *running], settings)
        hidden = min(last, default=-math.inf) / settings.penalty(limit)
        if len(last) > len(running) and (len(answer) < wanted or hidden > answer[wanted - 1].score):
            self.uncertain += 1
        return answer

    @staticmethod
    def _full_at(ended: list[Hypothesis], beams: int) -> int | None:
        """Return the step at which `beams` hypotheses are complete."""
        lengths = sorted(len(one.ids) for one in ended)
        return lengths[beams - 1] if len(lengths) >= beams else None

    @staticmethod
    def _ranked(pool: list[Hypothesis], settings: Settings) -> list[Hypothesis]:
        for one in pool:
            one.score = one.log_prob / settings.penalty(len(one.ids))
        return sorted(pool, key=lambda one: -one.score)[: settings.returned]
