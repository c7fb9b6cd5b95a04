# Shapes: B sentences, M beams, R = B * M rows of the decoder, V vocabulary, T target length so far.
"""Required and forbidden phrases: beam search whose results all hold the required phrases.

Lexically constrained decoding by dynamic beam allocation (Post & Vilar 2018, section 3): the beams of a sentence are
shared out among banks, one for each number of required tokens that are still missing, so that hypotheses which have
begun a phrase are not displaced by those that have not. One automaton for all phrases of a sentence (Aho &
Corasick 1975) tells what a hypothesis holds, with overlaps, and how many tokens it still needs at least. A token
that would leave too few tokens for the rest is never taken, so none reaches its limit without its phrases.

The search is a plain function for `generate(custom_generate=constrained_beam_search, required_ids=...)`, which works
with every encoder-decoder of transformers 5.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from transformers.generation.utils import GenerateBeamDecoderOnlyOutput, GenerateBeamEncoderDecoderOutput

from .phrases_vaswani import ConstraintError, RequiredPhrases, State, check_token_ids
from .search_vaswani import current_record

DEAD = -1.0e9  # the score that transformers gives a beam that holds nothing


@dataclass
class _Sentence:
    """The search of one sentence: what its beams hold, and its complete hypotheses, best first."""

    phrases: RequiredPhrases
    limit: int  # tokens of the whole target with the start token
    must_end: bool  # whether the last of them is </s>
    states: list[State]
    finished: list[tuple[float, torch.Tensor, torch.Tensor]] = field(default_factory=list)
    done: bool = False

    def tokens_left(self, length: int) -> int:
        """Return how many tokens may still be given to phrases after `length` tokens."""
        return self.limit - length - int(self.must_end)

    def keep(self, score: float, tokens: torch.Tensor, history: torch.Tensor, most: int) -> None:
        self.finished.append((score, tokens, history))
        self.finished.sort(key=lambda found: -found[0])
        del self.finished[most:]

    def choose(
        self, candidates: dict[tuple[int, int], float], ends: set[int], length: int, num_beams: int
    ) -> tuple[list[tuple[int, int]], list[tuple[int, int]]]:
        """Divide the beams among the banks; return the (beam, token) that continue, and those that end."""
        banks: dict[int, list[tuple[float, int, int]]] = {}
        for (beam, token), score in candidates.items():
            ended = token in ends  # only offered where nothing is missing
            missing = 0 if ended else self.phrases.need(self.phrases.step(self.states[beam], token))
            if ended or missing <= self.tokens_left(length):
                banks.setdefault(missing, []).append((score, -beam, -token))
        for bank in banks.values():
            bank.sort(reverse=True)  # equal scores: the first beam and token, as topk has them
        complete = banks.get(0, [])[:num_beams]
        finished = [(-beam, -token) for _, beam, token in complete if -token in ends]
        open_banks = [[(-b, -t) for _, b, t in banks[missing] if -t not in ends] for missing in sorted(banks)]
        chosen: list[tuple[int, int]] = []
        for rank in range(num_beams):
            chosen += [bank[rank] for bank in open_banks if rank < len(bank)]
        return chosen[:num_beams], finished


@torch.no_grad()
def constrained_beam_search(
    model: Any,
    input_ids: torch.LongTensor,
    logits_processor: Any,
    stopping_criteria: Any,
    generation_config: Any,
    required_ids: Sequence[Sequence] | None = None,
    force_words_ids: Sequence | None = None,
    synced_gpus: bool = False,
    **model_kwargs: Any,
) -> torch.LongTensor | GenerateBeamEncoderDecoderOutput | GenerateBeamDecoderOnlyOutput:
    """Search with beams for the best hypotheses that hold every required phrase.

    To be called by `generate`, which prepares everything else:
    `model.generate(**batch, num_beams=8, custom_generate=constrained_beam_search, required_ids=...)`.

    Args:
        input_ids: [R, T], start tokens with what `decoder_input_ids` gave; phrases in that prefix count.
        required_ids: for each sentence of the batch a list of constraints (see `RequiredPhrases`).
        force_words_ids: constraints that hold for every sentence.

    Returns:
        Sequences [B * num_return_sequences, T] as `generate` does, with `sequences_scores` where scores are asked for.
        A sentence with fewer hypotheses than that repeats its last one.

    Raises:
        ConstraintError: a phrase is impossible: its ids are not the model's, it does not fit into the sentence's limit,
            or other settings forbid it.

    Source: Post & Vilar 2018, "Fast Lexically Constrained Decoding with Dynamic Beam Allocation for NMT".
    """
    config = generation_config
    _check_settings(config)
    search = _Search(model, input_ids, config, _constraints(required_ids, force_words_ids, input_ids, config))
    sequences: torch.Tensor = input_ids
    first, finished_here = True, False
    while model._has_unfinished_sequences(finished_here, synced_gpus, device=input_ids.device):
        only_last = 1 if model_kwargs.get("use_cache") and not first else None
        inputs = model.prepare_inputs_for_generation(
            sequences, next_sequence_length=only_last, is_first_iteration=first, **model_kwargs
        )
        outputs = model(**inputs, return_dict=True)
        model_kwargs = model._update_model_kwargs_for_generation(
            outputs, model_kwargs, is_encoder_decoder=model.config.is_encoder_decoder
        )
        first = False
        if finished_here:
            continue
        logits = outputs.logits[:, -1, :].to(copy=True, dtype=torch.float32, device=input_ids.device)
        del outputs
        if sequences is input_ids:
            check_token_ids(search.required, logits.shape[-1], search.ends)
        log_probs = logits_processor(sequences, logits.log_softmax(dim=-1))
        sequences, rows = search.advance(sequences, log_probs)
        search.drop(stopping_criteria(sequences, None), sequences)
        if model_kwargs.get("past_key_values") is not None:
            model_kwargs["past_key_values"] = _reordered(model, model_kwargs["past_key_values"], rows)
        finished_here = search.is_done(sequences.shape[1])
    return search.result()


class _Search:
    """The sentences of a batch, and the scores of their beams."""

    def __init__(self, model: Any, input_ids: torch.Tensor, config: Any, required: list[RequiredPhrases]):
        self.config, self.num_beams = config, config.num_beams
        encodes = model.config.is_encoder_decoder
        self.output_class = GenerateBeamEncoderDecoderOutput if encodes else GenerateBeamDecoderOnlyOutput
        self.prompt_length = input_ids.shape[1]
        self.device = input_ids.device
        ends = getattr(config, "_eos_token_tensor", None)
        self.ends = set() if ends is None else set(ends.tolist())
        padding = getattr(config, "_pad_token_tensor", None)
        self.padding = int(padding) if padding is not None else min(self.ends, default=0)
        self.scores = torch.full((len(required), self.num_beams), DEAD, device=self.device)  # [B, M]
        self.scores[:, 0] = 0.0
        self.history = torch.zeros((len(input_ids), 0), dtype=torch.long, device=self.device)  # [R, generated]
        self.all_scores: list[torch.Tensor] = []
        limits = getattr(config, "_target_limits", None)
        bounds = [config.max_length] * len(required) if limits is None else limits.tolist()
        self.required = required
        self.sentences = []
        for number, (phrases, bound) in enumerate(zip(required, bounds, strict=True)):
            # A decoder's own prompt is not part of what it writes.
            prefix = input_ids[number * self.num_beams].tolist() if model.config.is_encoder_decoder else ()
            state = phrases.start(prefix)
            bound = min(int(bound), config.max_length)
            sentence = _Sentence(phrases, bound, limits is not None and bool(self.ends), [state] * self.num_beams)
            if phrases.need(state) > sentence.tokens_left(self.prompt_length):
                raise ConstraintError(
                    f"the phrases required of sentence {number + 1} of the batch need {phrases.need(state)} tokens, "
                    f"but its target may have only {max(sentence.tokens_left(self.prompt_length), 0)} more: raise "
                    "`max_extra_tokens` or `max_new_tokens`, or require less."
                )
            self.sentences.append(sentence)

    def advance(self, sequences: torch.Tensor, log_probs: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Take one token for every beam; return the sequences [R, T + 1] and the rows [R] that they continue."""
        if self.config.output_scores and self.config.return_dict_in_generate:
            self.all_scores.append(log_probs.clone())
        total = log_probs.view(len(self.sentences), self.num_beams, -1) + self.scores[:, :, None]  # [R, V] -> [B, M, V]
        offered = self._candidates(total)
        length = sequences.shape[1] + 1
        picked: list[list[tuple[int, int]]] = []
        for number, (sentence, candidates) in enumerate(zip(self.sentences, offered, strict=True)):
            offset = number * self.num_beams
            chosen: list[tuple[int, int]] = []
            if not sentence.done:
                chosen, ended = sentence.choose(candidates, self.ends, length, self.num_beams)
                for beam, token in ended:
                    self._finish(sentence, candidates[beam, token], sequences[offset + beam], offset + beam, token)
                sentence.states = [sentence.phrases.step(sentence.states[beam], token) for beam, token in chosen]
            missing = self.num_beams - len(chosen)
            sentence.states = sentence.states[: len(chosen)] + [(0, 0)] * missing
            values = [candidates[pair] for pair in chosen] + [DEAD] * missing
            self.scores[number] = torch.tensor(values, device=self.device)
            picked.append(chosen + [(0, self.padding)] * missing)
        beams = torch.tensor([[beam for beam, _ in pairs] for pairs in picked], device=self.device)  # [B, M]
        tokens = torch.tensor([[token for _, token in pairs] for pairs in picked], device=self.device).view(-1, 1)
        rows = (beams + torch.arange(len(picked), device=self.device)[:, None] * self.num_beams).view(-1)  # [R]
        self.history = torch.cat((self.history[rows], rows[:, None]), dim=1)
        return torch.cat((sequences[rows], tokens), dim=1), rows

    def _candidates(self, total: torch.Tensor) -> list[dict[tuple[int, int], float]]:
        """Return for each sentence its (beam, token) with their scores.

        They are each beam's best tokens and the tokens that begin or continue a required phrase.
        """
        met = [[s.phrases.is_met(state) for state in s.states] for s in self.sentences]
        unmet = ~torch.tensor(met, device=self.device)  # [B, M]
        for end in self.ends:
            total[:, :, end] = total[:, :, end].masked_fill(unmet, -torch.inf)
        best, ids = (x.tolist() for x in total.topk(min(total.shape[-1], self.num_beams + 1 + len(self.ends)), dim=-1))
        offered: list[dict[tuple[int, int], float]] = []
        for number, sentence in enumerate(self.sentences):
            found = {
                (beam, token): score
                for beam in range(self.num_beams)
                for token, score in zip(ids[number][beam], best[number][beam], strict=True)
                if score > DEAD / 2
            }
            wanted = [(b, t) for b, state in enumerate(sentence.states) for t in sentence.phrases.tokens(state)]
            if wanted and not sentence.done:
                places = torch.tensor(wanted, device=self.device)
                scores = total[number, places[:, 0], places[:, 1]].tolist()
                found |= {pair: score for pair, score in zip(wanted, scores, strict=True) if score > DEAD / 2}
            offered.append(found)
        return offered

    def _finish(self, sentence: _Sentence, total: float, sequence: torch.Tensor, row: int, token: int | None) -> None:
        tail = [] if token is None else [token]
        sequence = torch.cat((sequence, sequence.new_tensor(tail)))
        history = torch.cat((self.history[row], self.history.new_tensor([row] * len(tail))))
        count = len(sequence) - self.prompt_length
        sentence.keep(total / float(count**self.config.length_penalty), sequence, history, self.num_beams)

    def drop(self, stopped: torch.Tensor, sequences: torch.Tensor) -> None:
        """Take the beams that a stopping criterion has ended [R]: complete ones are hypotheses, others are lost."""
        for row in stopped.nonzero().flatten().tolist():
            number, beam = divmod(row, self.num_beams)
            sentence, score = self.sentences[number], float(self.scores[number, beam])
            if not sentence.done and score > DEAD / 2 and sentence.phrases.is_met(sentence.states[beam]):
                self._finish(sentence, score, sequences[row], row, None)
            self.scores[number, beam] = DEAD

    def is_done(self, length: int) -> bool:
        """Return whether no running beam of any sentence can still change the result."""
        best = self.scores.max(dim=-1).values.tolist()
        penalty, early = self.config.length_penalty, self.config.early_stopping
        for sentence, score in zip(self.sentences, best, strict=True):
            wanted = self.config.num_return_sequences if early is False else self.num_beams
            full = len(sentence.finished) >= wanted
            # Log-probabilities are negative: the length with the largest divisor gives the upper bound.
            counts = [n - self.prompt_length for n in (length + 1, max(sentence.limit, length + 1))]
            bound = max(score / float(count**penalty) for count in counts)
            hopeless = full and (early is True or bound <= sentence.finished[wanted - 1][0])
            sentence.done = sentence.done or score <= DEAD / 2 or hopeless
        return all(sentence.done for sentence in self.sentences)

    def result(self) -> torch.LongTensor | GenerateBeamEncoderDecoderOutput | GenerateBeamDecoderOnlyOutput:
        """Return the best hypotheses in `generate`'s shape."""
        rows = []
        for number, sentence in enumerate(self.sentences):
            if not sentence.finished:
                raise ConstraintError(
                    f"no target of sentence {number + 1} of the batch can hold its required phrases: other settings "
                    "(forbidden words, no_repeat_ngram_size, a stopping criterion) rule their tokens out."
                )
            count = self.config.num_return_sequences
            rows += (sentence.finished + sentence.finished[-1:] * count)[:count]
        longest = max(len(tokens) for _, tokens, _ in rows)
        sequences = torch.full((len(rows), longest), self.padding, device=self.device)
        indices = torch.full((len(rows), longest - self.prompt_length), -1, device=self.device)
        for row, (_, tokens, history) in enumerate(rows):
            sequences[row, : len(tokens)] = tokens
            indices[row, : len(history)] = history
        scores = torch.tensor([score for score, _, _ in rows], device=self.device)
        if (record := current_record()) is not None:
            record.scores, record.lengths = scores, (indices >= 0).sum(dim=-1)
        if not self.config.return_dict_in_generate:
            return sequences
        asked = self.config.output_scores
        return self.output_class(
            sequences=sequences,
            sequences_scores=scores if asked else None,
            scores=tuple(self.all_scores) if asked else None,
            beam_indices=indices,
        )


def _constraints(
    required_ids: Sequence[Sequence] | None, force_words_ids: Sequence | None, input_ids: torch.Tensor, config: Any
) -> list[RequiredPhrases]:
    count = len(input_ids) // config.num_beams
    own = [[]] * count if required_ids is None else list(required_ids)
    if len(own) != count:
        raise ConstraintError(
            f"required_ids has {len(own)} entries for a batch of {count} sentences: give a list of constraints for "
            "each, [] where there are none. What holds for all of them goes into force_words_ids."
        )
    return [RequiredPhrases([*(force_words_ids or []), *constraints]) for constraints in own]


def _check_settings(config: Any) -> None:
    if config.do_sample:
        raise ConstraintError("required phrases need a search: set do_sample=False.")
    if config.return_dict_in_generate and (config.output_attentions or config.output_hidden_states):
        raise ConstraintError(
            "the search for required phrases keeps no attentions and hidden states: call the model once more with the "
            "sequences as decoder_input_ids."
        )


def _reordered(model: Any, cache: Any, rows: torch.Tensor) -> Any:
    if hasattr(model, "_reorder_cache"):
        return model._reorder_cache(cache, rows)
    cache.reorder_cache(rows)
    return cache


__all__ = ["ConstraintError", "RequiredPhrases", "constrained_beam_search"]
