"""Greedy search, sampling and beam search over `FastDecoder`, with the results of transformers' own loops.

Each sentence leaves the batch some time after its result is settled, which changes nothing for the others. A result is
settled, as in transformers, when no running hypothesis can still enter what is kept of the sentence.

Shapes: B sentences in the batch, M hypotheses of each, R = B * M rows, C candidates of a sentence, T target length,
V vocabulary, L most tokens of a target.
"""

from dataclasses import dataclass
from typing import Any

import torch

from .fast_decoder_vaswani import FastDecoder
from .fast_scores_vaswani import EndOfTargets, ScoreProcessors, best_continuations, best_token
from .generation_vaswani import GNMTLengthPenalty

# Finished sentences leave as soon as they are this part of the batch: a step's work is then worth the copying.
LEAVING = 1 / 8
DEAD = -1.0e9  # the score that transformers gives a hypothesis that is none


@dataclass
class Searched:
    """What a search found, the sentences in their order."""

    sequences: torch.Tensor  # [R, T], R hypotheses that are returned
    lengths: torch.Tensor  # [R], generated tokens of each
    scores: torch.Tensor | None = None  # [R], of a beam search
    beam_indices: torch.Tensor | None = None  # [R, T], the row of each token's beam, -1 after the end


class _Batch:
    """The sentences that are still searched, by their number in the whole batch."""

    def __init__(self, decoder: FastDecoder, processors: ScoreProcessors, criteria: EndOfTargets, count: int, device):
        self.decoder, self.processors, self.criteria = decoder, processors, criteria
        self.alive = torch.arange(count, device=device)
        self._may_leave = processors.lets_leave and criteria.lets_leave

    def staying(self, done: torch.Tensor) -> torch.Tensor | None:
        """Return the places of the sentences that stay where it is time for others to leave, [B'], else None.

        Args:
            done: [B], which sentences are settled.
        """
        count = int(done.sum())
        if not self._may_leave or count == 0 or count < LEAVING * len(done):
            return None
        return (~done).nonzero().squeeze(1)

    def keep(self, sentences: torch.Tensor) -> None:
        """Drop all sentences but those at `sentences`, [B']."""
        self.alive = self.alive.index_select(0, sentences)
        self.decoder.keep(sentences)
        self.processors.keep(sentences)


def _read_prompt(decoder: FastDecoder, prompt: torch.Tensor) -> torch.Tensor:
    """Read all of the prompt [R, T] but its last token, which is returned, [R]."""
    for place in range(prompt.shape[1] - 1):
        decoder.hidden(prompt[:, place])
    return prompt[:, -1]


def greedy_search(
    decoder: FastDecoder,
    prompt: torch.Tensor,
    processors: ScoreProcessors,
    criteria: EndOfTargets,
    padding: torch.Tensor | None,
    samples: bool = False,
) -> Searched:
    """Take the best token of each step, or draw one.

    Args:
        decoder: one of a row for each hypothesis or, for several samples of a sentence, of several beams.
        prompt: [R, T], how each target begins.
        padding: the token after the end.
        samples: draw from the distribution; all rows then stay in the batch, so that the numbers are transformers'.
    """
    rows, start = prompt.shape
    device = prompt.device
    tokens, length = _read_prompt(decoder, prompt), start
    ids = prompt  # of the rows that are in the batch
    found: list[torch.Tensor] = []  # the tokens of each step, of all rows
    fill = torch.zeros((), dtype=torch.long, device=device) if padding is None else padding.to(device)
    lengths = torch.zeros(rows, dtype=torch.long, device=device)
    batch = _Batch(decoder, processors, criteria, rows, device)
    done = torch.zeros(rows, dtype=torch.bool, device=device)
    reads_ids = bool(processors) or criteria.reads_ids
    while True:
        scores = decoder.scores(tokens)
        if processors:
            scores = processors(ids, scores)
        if samples:
            tokens = torch.multinomial(torch.softmax(scores, dim=-1), num_samples=1).squeeze(1)
        else:
            tokens = best_token(scores)
        if criteria.has_end:
            tokens = torch.where(done, fill, tokens)
        whole = len(batch.alive) == rows
        found.append(tokens if whole else torch.full_like(lengths, int(fill)).index_copy_(0, batch.alive, tokens))
        length += 1
        ids = torch.cat((ids, tokens[:, None]), dim=1) if reads_ids else ids
        ended = criteria(tokens, length, lambda: ids) & ~done  # noqa: B023
        if bool(ended.any()):
            lengths[batch.alive[ended]] = length - start
            done = done | ended
            if bool(done.all()):
                return Searched(torch.cat((prompt, torch.stack(found, dim=1)), dim=1), lengths)
            staying = None if samples or decoder.num_beams > 1 else batch.staying(done)
            if staying is not None:
                batch.keep(staying)
                tokens, ids, done = (state.index_select(0, staying) for state in (tokens, ids, done))


class _Beams:
    """Running and finished hypotheses of the sentences in the batch.

    Args:
        prompt: [R, T].
        num_beams: M.
        longest: L.
        fill: the token after the end.
        traces: also keep the row of each token's beam.
    """

    def __init__(self, prompt: torch.Tensor, num_beams: int, longest: int, fill: int, traces: bool):
        rows, self.start = prompt.shape
        self.count, self.device = num_beams, prompt.device
        batch = rows // num_beams
        running = torch.full((batch, num_beams, longest), fill, device=prompt.device)
        running[:, :, : self.start] = prompt.view(batch, num_beams, -1)
        self.ids, self.finished = running, running.clone()  # [B, M, L]
        self.scores = torch.zeros(batch, num_beams, device=prompt.device)
        self.scores[:, 1:] = DEAD  # only the first beam is continued at first: the others are the same
        self.finished_scores = torch.full_like(self.scores, DEAD)
        self.is_finished = torch.zeros_like(self.scores, dtype=torch.bool)
        self.finished_lengths = torch.zeros_like(self.scores, dtype=torch.long)
        self.can_improve = torch.ones(batch, 1, dtype=torch.bool, device=prompt.device)
        self.rows = torch.arange(batch, device=prompt.device)[:, None] * num_beams  # [B, 1], as the batch is
        self.names = self.rows.clone()  # [B, 1], as it was at the beginning
        self.trace: torch.Tensor | None = None
        self.finished_trace: torch.Tensor | None = None
        if traces:
            self.trace = torch.full_like(self.ids[:, :, self.start :], -1, dtype=torch.int32)
            self.finished_trace = self.trace.clone()

    RESULT = ("finished", "finished_scores", "finished_lengths", "finished_trace")
    STATE = (*RESULT, "ids", "scores", "is_finished", "can_improve", "names", "trace")

    def select(self, sentences: torch.Tensor) -> None:
        """Drop all sentences but those at `sentences`, [B']."""
        for name in self.STATE:
            held = getattr(self, name)
            if held is not None:
                setattr(self, name, held.index_select(0, sentences))
        self.rows = torch.arange(len(sentences), device=self.device)[:, None] * self.count

    def candidates(self, beams: torch.Tensor, tokens: torch.Tensor, length: int) -> torch.Tensor:
        """Return the targets [B, C, T + 1] that continue `beams` [B, C] with `tokens` [B, C]."""
        known = self.ids[:, :, :length].flatten(0, 1).index_select(0, (beams + self.rows).flatten())
        return torch.cat((known.view(*beams.shape, length), tokens[:, :, None]), dim=2)

    def advance(self, beams: torch.Tensor, tokens: torch.Tensor, scores: torch.Tensor, length: int) -> torch.Tensor:
        """Let the running hypotheses be those that continue `beams` [B, M]; return their rows [R]."""
        parents = (beams + self.rows).flatten()
        known = self.ids.flatten(0, 1)[:, :length].index_select(0, parents)
        self.ids[:, :, :length] = known.view(*beams.shape, length)
        self.ids[:, :, length] = tokens
        self.scores = scores
        if self.trace is not None:
            place = length - self.start
            known = self.trace.flatten(0, 1)[:, :place].index_select(0, parents)
            self.trace[:, :, :place] = known.view(*beams.shape, place)
            self.trace[:, :, place] = beams + self.names
        return parents

    def finish(self, ended: torch.Tensor, beams, tokens, scores: torch.Tensor, length: int, penalty, early) -> None:
        """Take in the candidates that `ended` [B, C] and are among the first M; keep the best M.

        Args:
            beams, tokens: [B, C], the beam that each candidate continues, and with what.
            scores: [B, C], their log-probabilities.
            length: tokens of each before that.
            penalty: exponent of the length.
            early: `early_stopping`.
        """
        ended = ended.clone()
        ended[:, self.count :] = False
        scores = scores / ((length + 1 - self.start) ** penalty)
        if early is True:
            scores = scores + self.is_finished.all(-1, keepdim=True) * DEAD
        scores = scores + ~self.can_improve * DEAD + ~ended * DEAD
        merged = torch.cat((self.finished_scores, scores), dim=1)
        self.finished_scores, chosen = merged.topk(self.count, dim=-1)
        self.is_finished = torch.cat((self.is_finished, ended), 1).gather(1, chosen)
        lengths = torch.full_like(beams, length + 1 - self.start)
        self.finished_lengths = torch.cat((self.finished_lengths, lengths), 1).gather(1, chosen)
        grown = torch.cat((self.ids[:, :, :length].gather(1, _for_all(beams, length)), tokens[:, :, None]), dim=2)
        self.finished[:, :, : length + 1] = torch.cat((self.finished[:, :, : length + 1], grown), 1).gather(
            1, _for_all(chosen, length + 1)
        )
        if self.trace is not None and self.finished_trace is not None:
            place = length - self.start
            history = self.trace[:, :, :place].gather(1, _for_all(beams, place))
            history = torch.cat((history, (beams + self.names)[:, :, None].to(torch.int32)), dim=2)
            both = torch.cat((self.finished_trace[:, :, : place + 1], history), 1)
            self.finished_trace[:, :, : place + 1] = both.gather(1, _for_all(chosen, place + 1))


def _for_all(indices: torch.Tensor, length: int) -> torch.Tensor:
    """Return indices [B, C] as [B, C, length], for `gather`."""
    return indices[:, :, None].expand(-1, -1, length)


def _improvable(beams: _Beams, length: int, longest: int, penalty: float, early: bool | str) -> torch.Tensor:
    """Return [B, 1]: can a running hypothesis still change what is kept of its sentence? As `generate` has it."""
    best, finished = beams.scores[:, :1], beams.finished_scores
    if isinstance(penalty, GNMTLengthPenalty):
        limit: Any = longest - beams.start + penalty.prefix_length
        if penalty.longest is not None:
            limit = penalty.longest.to(best.device).index_select(0, beams.names.flatten() // beams.count)
        rank = beams.count if early == "never" else penalty.num_returned
        return beams.can_improve & (best / penalty.of(limit) > finished[:, rank - 1 : rank])
    reached = longest if early == "never" and penalty > 0.0 else length
    worst = torch.where(beams.is_finished, finished.amin(dim=1, keepdim=True), DEAD)
    possible = best / ((reached - beams.start) ** penalty)
    return beams.can_improve & (possible > worst).any(dim=-1, keepdim=True)


def beam_search(
    decoder: FastDecoder,
    prompt: torch.Tensor,
    processors: ScoreProcessors,
    criteria: EndOfTargets,
    config: Any,
    fill: int,
    traces: bool,
) -> Searched:
    """Search with beams for the best hypotheses.

    Args:
        decoder: one of as many beams as `config` asks for.
        prompt: [R, T], how each target begins.
        config: the prepared generation configuration.
        fill: the token after the end.
        traces: return `beam_indices`.
    """
    count, penalty, early, longest = config.num_beams, config.length_penalty, config.early_stopping, config.max_length
    ends = config._eos_token_tensor
    wanted = max(2, 1 + (0 if ends is None else len(ends))) * count  # C
    batch = _Batch(decoder, processors, criteria, len(prompt) // count, prompt.device)
    beams = _Beams(prompt, count, longest, fill, traces)
    results = {name: getattr(beams, name).clone() for name in beams.RESULT if getattr(beams, name) is not None}
    tokens, length = _read_prompt(decoder, prompt), prompt.shape[1]
    while True:
        scores = decoder.scores(tokens)
        scores = torch.log_softmax(scores, dim=-1, out=scores)
        if processors:
            scores = processors(beams.ids[:, :, :length].flatten(0, 1), scores)
        values, origins, followers = best_continuations(scores, beams.scores, wanted)  # [B, C]
        pending = (origins, followers, length)
        ended = criteria(followers, length + 1, lambda: beams.candidates(*pending).flatten(0, 1))  # noqa: B023
        ends_any = bool(ended.any())
        if ends_any:
            beams.finish(ended, origins, followers, values, length, penalty, early)
            running, kept = (values + ended * DEAD).topk(count, dim=-1)
            origins, followers = origins.gather(1, kept), followers.gather(1, kept)
        else:
            running, origins, followers = values[:, :count], origins[:, :count], followers[:, :count]
        parents = beams.advance(origins, followers, running, length)
        tokens, length = followers.flatten(), length + 1
        beams.can_improve = _improvable(beams, length, longest, penalty, early)
        done = ~beams.can_improve.squeeze(1)
        if early is True:
            done = done | beams.is_finished.all(dim=1)
        if bool(done.all()) or (ends_any and bool(ended.all())):
            break
        decoder.follow(parents)
        staying = batch.staying(done)
        if staying is not None:
            _store(results, beams, batch.alive)
            batch.keep(staying)
            beams.select(staying)
            tokens = tokens.view(-1, count).index_select(0, staying).flatten()
    _store(results, beams, batch.alive)
    return _best(results, prompt.shape[1], config.num_return_sequences)


def _store(results: dict[str, torch.Tensor], beams: _Beams, alive: torch.Tensor) -> None:
    """Write what is kept of the sentences in the batch to where they are in the whole."""
    for name, whole in results.items():
        whole.index_copy_(0, alive, getattr(beams, name))


def _best(results: dict[str, torch.Tensor], start: int, count: int) -> Searched:
    lengths = results["finished_lengths"][:, :count].flatten()
    longest = int(lengths.max())
    trace = results.get("finished_trace")
    return Searched(
        results["finished"][:, :count].flatten(0, 1)[:, : start + longest],
        lengths,
        results["finished_scores"][:, :count].flatten(),
        None if trace is None else trace[:, :count].flatten(0, 1)[:, :longest],
    )


__all__ = ["Searched", "beam_search", "greedy_search"]
