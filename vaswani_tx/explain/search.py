# Shapes: k beams, c candidates of a step, L tokens so far.
"""Replay the decoding of a model: at each step its beams, their best continuations, and what became of these.

The search is transformers' own `generate`, and nothing is searched again here: the two methods with which it keeps its
finished hypotheses and decides when to stop are watched, and what they were given and returned is written down.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch

from vaswani_tx.errors import ExplainError
from vaswani_tx.explain.recording import readable
from vaswani_tx.generation_vaswani import GNMTLengthPenalty

MAX_BEAMS = 16
GREEDY_CANDIDATES = 4
# transformers gives -1e9 to what does not count: unused beams, beams that have ended, ruled out tokens (-inf).
NOTHING = -1e8
FINISHED_METHOD, STOP_METHOD = "_update_finished_beams", "_beam_search_has_unfinished_sequences"


@dataclass
class Decoding:
    """A finished search as the page plays it; every score is a natural logarithm.

    A step holds `beams` (tokens, score, and end_log_prob, that of ending now), `candidates` (parent, token, log_prob,
    score, ranked, fate, and the `beam` of the next step that a kept one becomes), `finished` (the finished hypotheses
    after it, best first, as indices into `ended`) and `dropped` (those that it pushed out). Fates: "kept"; "finished",
    which joins the finished hypotheses; "worse", which has ended but scores below them all; "outside", which has ended
    but is not among the best k candidates; "left".
    """

    settings: dict[str, Any]
    steps: list[dict[str, Any]]
    ended: list[dict[str, Any]]  # every hypothesis that was finished at some time: tokens, log_prob, score, end, step
    hypotheses: list[dict[str, Any]]  # those left at the end, best first; `score` as `generate` returns it


@dataclass
class _Watch:
    steps: list[dict[str, Any]] = field(default_factory=list)  # arguments of FINISHED_METHOD with what it returned
    stop: str = ""


def rule_of(penalty: Any) -> tuple[str, float]:
    """Return the name and exponent of the rule that ranks hypotheses of different lengths."""
    return ("gnmt" if isinstance(penalty, GNMTLengthPenalty) else "power"), float(penalty)


def divisor(rule: str, exponent: float, length: int) -> float:
    """Return what the log-probability of `length` generated tokens is divided by (Wu et al. 2016, equation 14)."""
    if rule == "gnmt":
        return GNMTLengthPenalty(exponent).of(length)
    return float(length) ** exponent if rule == "power" else 1.0


@torch.no_grad()
def replay(model: Any, inputs: dict[str, torch.Tensor], max_new_tokens: int | None = None) -> Decoding:
    """Generate from `inputs` (one sentence), as the model's generation configuration says, and return the search.

    Sampling is left out: the page plays what can be played again.

    Raises:
        ExplainError: more beams than a reader can follow, or a search of the model's own.
    """
    config = model.generation_config
    beams = config.num_beams or 1
    if beams > MAX_BEAMS:
        raise ExplainError(f"num_beams is {beams}, and a page can show {MAX_BEAMS}: set a smaller number.")
    limit = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    if beams == 1:
        limit["num_return_sequences"] = 1
    settings = {"do_sample": False, "return_dict_in_generate": True, "output_scores": True, **limit}
    with _watched(model) as watch, readable(model, inputs["input_ids"].shape[-1]):
        output = model.generate(**inputs, **settings)
    ends = _end_tokens(config)
    if beams == 1:
        prompt = output.sequences.shape[1] - len(output.scores)
        return _greedy(output, prompt, ends)
    if not watch.steps:
        raise ExplainError(
            f"{type(model).__name__} searches with code of its own, which cannot be followed: set num_beams=1 in its "
            "generation configuration, or decode without `custom_generate`."
        )
    return _beams(watch, output.scores, ends)


def _end_tokens(config: Any) -> set[int]:
    ends = config.eos_token_id
    return {int(end) for end in (ends if isinstance(ends, list | tuple) else [ends]) if end is not None}


@contextmanager
def _watched(model: Any) -> Iterator[_Watch]:
    """Write down what the beam search of `model` is told and decides; the model itself does not change."""
    watch = _Watch()
    update, unfinished = getattr(model, FINISHED_METHOD), getattr(model, STOP_METHOD)

    def update_and_note(**state):
        result = update(**state)
        names = ("sequences", "beam_scores", "beam_indices", "is_sent_finished")
        after = {f"new_{name}": tensor.clone() for name, tensor in zip(names, result, strict=True)}
        watch.steps.append({**state, **after})
        return result

    def unfinished_and_note(can_improve, is_sent_finished, hits, early_stopping):
        result = unfinished(can_improve, is_sent_finished, hits, early_stopping)
        if not bool(result):
            is_full = early_stopping is True and bool(is_sent_finished.all())
            watch.stop = "length" if bool(hits.all()) else "full" if is_full else "best"
        return result

    try:
        setattr(model, FINISHED_METHOD, update_and_note)
        setattr(model, STOP_METHOD, unfinished_and_note)
        yield watch
    finally:
        for name in (FINISHED_METHOD, STOP_METHOD):
            vars(model).pop(name, None)


def _beams(watch: _Watch, scores: Any, ends: set[int]) -> Decoding:
    first = watch.steps[0]
    prompt = first["decoder_prompt_len"]
    rule, exponent = rule_of(first["length_penalty"])
    wide = first["num_beams"]
    start = first["topk_running_sequences"][0, 0, :prompt].tolist()
    beams: list[dict[str, Any]] = [{"tokens": [], "score": 0.0}]
    steps: list[dict[str, Any]] = []
    ended: list[dict[str, Any]] = []
    for number, state in enumerate(watch.steps):
        candidates = _candidates(state, beams, (rule, exponent))
        _add_end(state, beams, scores[number], ends)
        known = {tuple(item["tokens"]): index for index, item in enumerate(ended)}
        finished = []
        for tokens, score in _finished(state, prompt):
            if tokens not in known:
                candidate = next(item for item in candidates if item["path"] == tokens)
                candidate["fate"] = "finished"
                known[tokens] = len(ended)
                end = "eos" if tokens[-1] in ends else "length"
                log_prob = candidate["score"]
                ended.append({"tokens": list(tokens), "log_prob": log_prob, "score": score, "end": end, "step": number})
            finished.append(known[tokens])
        following = _following(candidates, wide)
        before = steps[-1]["finished"] if steps else []
        steps.append(
            {
                "beams": beams,
                "candidates": [_without(item, "path") for item in candidates],
                "finished": finished,
                "dropped": [index for index in before if index not in finished],
            }
        )
        beams = following
    settings = {
        "num_beams": wide, "rule": rule, "exponent": exponent, "prompt": start, "stop": watch.stop,
        "early_stopping": first["early_stopping"], "limit": first["sequences"].shape[-1] - prompt,
        "last": beams,  # the beams that were still running when the search ended
    }  # fmt: skip
    hypotheses = [dict(ended[index]) for index in steps[-1]["finished"]]
    if not hypotheses:
        raise ExplainError(
            "The search ended without a hypothesis: the model's probabilities are not finite, so its weights are "
            "damaged or overflow; load it in float32, or check the checkpoint."
        )
    return Decoding(settings, steps, ended, hypotheses)


def _candidates(state, beams, rule: tuple[str, float]) -> list[dict[str, Any]]:
    """Return the continuations that `generate` considered at this step, best first."""
    prompt, length = state["decoder_prompt_len"], state["cur_len"] + 1 - state["decoder_prompt_len"]
    rows = state["topk_running_sequences"][0, :, prompt : prompt + length].tolist()
    totals = state["topk_log_probs"][0].tolist()
    has_ended = state["next_token_hits_stopping_criteria"][0].tolist()
    counts = state["top_num_beam_mask"].tolist()
    found = []
    # By its tokens: `generate` may number beams of equal scores in another order.
    places = {tuple(beam["tokens"]): place for place, beam in enumerate(beams)}
    for path, total, ends, is_top in zip(rows, totals, has_ended, counts, strict=True):
        if total < NOTHING:
            continue
        place = places[tuple(path[:-1])]
        fate = "left" if not ends else "worse" if is_top else "outside"
        found.append(
            {
                "parent": place,
                "token": path[-1],
                "log_prob": total - beams[place]["score"],
                "score": total,
                "ranked": total / divisor(*rule, length),
                "fate": fate,
                "path": tuple(path),
            }
        )
    return found


def _add_end(state, beams, scores: torch.Tensor, ends: set[int]) -> None:
    """Note the log-probability with which each beam would end now; None where no end is possible."""
    prompt, length = state["decoder_prompt_len"], state["cur_len"] - state["decoder_prompt_len"]
    rows = state["topk_running_sequences"][0, :, prompt : prompt + length].tolist()
    parents = state["topk_running_beam_indices"][0, :, length].tolist()
    numbers = {tuple(row): number for row, number in zip(reversed(rows), reversed(parents), strict=True)}
    for place, beam in enumerate(beams):
        row = scores[numbers.get(tuple(beam["tokens"]), place)]
        beam["end_log_prob"] = _end_log_prob(row, ends)


def _end_log_prob(log_probs: torch.Tensor, ends: set[int]) -> float | None:
    total = float(log_probs[sorted(ends)].float().logsumexp(-1)) if ends else float("-inf")
    return total if total > NOTHING else None


def _finished(state, prompt: int) -> list[tuple[tuple[int, ...], float]]:
    """Return the finished hypotheses after this step, best first: their tokens and scores."""
    lengths = (state["new_beam_indices"][0] >= 0).sum(dim=-1).tolist()
    flags, scores = state["new_is_sent_finished"][0].tolist(), state["new_beam_scores"][0].tolist()
    rows = state["new_sequences"][0, :, prompt:].tolist()
    return [
        (tuple(row[:length]), score)
        for row, length, flag, score in zip(rows, lengths, flags, scores, strict=True)
        if flag and score > NOTHING
    ]


def _following(candidates: list[dict[str, Any]], wide: int) -> list[dict[str, Any]]:
    """Mark the candidates that stay in the beam, and return the next step's beams."""
    beams: list[dict[str, Any]] = []
    for candidate in candidates:
        if candidate["fate"] == "left" and len(beams) < wide:
            candidate["fate"], candidate["beam"] = "kept", len(beams)
            beams.append({"tokens": list(candidate["path"]), "score": candidate["score"]})
    return beams


def _without(item: dict[str, Any], *names: str) -> dict[str, Any]:
    return {name: value for name, value in item.items() if name not in names}


def _greedy(output: Any, prompt: int, ends: set[int]) -> Decoding:
    """Return greedy decoding as a search with one beam, ranked by log P itself."""
    row = output.sequences[0].tolist()
    tokens: list[int] = []
    steps: list[dict[str, Any]] = []
    total = 0.0
    for number, (scores, chosen) in enumerate(zip(output.scores, row[prompt:], strict=True)):
        log_probs = scores[0].float().log_softmax(-1)
        is_last = number + 1 == len(output.scores)
        best = log_probs.topk(min(GREEDY_CANDIDATES, len(log_probs))).indices.tolist()
        candidates = [_greedy_candidate(log_probs, token, total, "left") for token in best if token != chosen]
        taken = _greedy_candidate(log_probs, chosen, total, "finished" if is_last else "kept")
        if not is_last:
            taken["beam"] = 0
        candidates = [taken, *(item for item in candidates if item["score"] > NOTHING)][:GREEDY_CANDIDATES]
        end_log_prob = float(log_probs[sorted(ends)].logsumexp(-1)) if ends else float("-inf")
        beam = {
            "tokens": list(tokens),
            "score": total,
            "end_log_prob": end_log_prob if end_log_prob > NOTHING else None,
        }
        steps.append({"beams": [beam], "candidates": candidates, "finished": [0] if is_last else [], "dropped": []})
        tokens.append(chosen)
        total = taken["score"]
    end = "eos" if tokens[-1] in ends else "length"
    ended = [{"tokens": tokens, "log_prob": total, "score": total, "end": end, "step": len(steps) - 1}]
    settings = {
        "num_beams": 1, "rule": "none", "exponent": 0.0, "prompt": row[:prompt],
        "stop": "end" if end == "eos" else "length", "early_stopping": False, "limit": None, "last": [],
    }  # fmt: skip
    return Decoding(settings, steps, ended, [dict(ended[0])])


def _greedy_candidate(log_probs: torch.Tensor, token: int, before: float, fate: str) -> dict[str, Any]:
    log_prob = float(log_probs[token])
    total = before + log_prob
    return {"parent": 0, "token": token, "log_prob": log_prob, "score": total, "ranked": total, "fate": fate}
