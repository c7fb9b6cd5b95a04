# Shapes: k beams, V vocabulary, L tokens so far.
"""Replay the decoding of a model: at each step its beams, their best continuations, and what became of these.

The search is transformers' own `generate`. A logits processor that changes nothing notes the beams of every step, and
the scores that `generate` returns are those that it ranked; nothing is searched again here.
"""

from dataclasses import dataclass
from typing import Any

import torch
from transformers import GenerationConfig, LogitsProcessor, LogitsProcessorList

from vaswani_tx.explain.errors import ExplainError
from vaswani_tx.generation_vaswani import GNMTLengthPenalty

MAX_BEAMS = 16


class BeamRecorder(LogitsProcessor):
    """Notes the running hypotheses of each step, and leaves the scores as they are."""

    def __init__(self) -> None:
        self.steps: list[torch.Tensor] = []

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        self.steps.append(input_ids.clone())
        return scores


@dataclass
class Decoding:
    """A finished search as the page plays it; every score is a natural logarithm."""

    settings: dict[str, Any]  # num_beams, length_penalty, rule
    steps: list[dict[str, Any]]
    hypotheses: list[dict[str, Any]]  # best first: tokens, score as `generate` returns it (after the length rule)


def length_rule(config: GenerationConfig) -> tuple[str, float]:
    """Return the name and exponent of the rule that ranks hypotheses of different lengths."""
    alpha = getattr(config, "gnmt_alpha", None)
    if (config.num_beams or 1) < 2:
        return "none", 0.0
    if alpha:
        return "gnmt", float(alpha)
    return "power", float(1.0 if config.length_penalty is None else config.length_penalty)


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
        ExplainError: more beams than a reader can follow.
    """
    config = model.generation_config
    beams = config.num_beams or 1
    if beams > MAX_BEAMS:
        raise ExplainError(f"num_beams is {beams}, and a page can show {MAX_BEAMS}: set a smaller number.")
    recorder = BeamRecorder()
    limit = {} if max_new_tokens is None else {"max_new_tokens": max_new_tokens}
    output = model.generate(
        **inputs,
        do_sample=False,
        num_return_sequences=beams,
        logits_processor=LogitsProcessorList([recorder]),
        return_dict_in_generate=True,
        output_scores=True,
        **limit,
    )
    rule, exponent = length_rule(config)
    ends = config.eos_token_id
    ends = {int(end) for end in (ends if isinstance(ends, list | tuple) else [ends]) if end is not None}
    prompt = 1 if model.config.is_encoder_decoder else inputs["input_ids"].shape[1]
    log_probs = [step.float() if beams > 1 else step.float().log_softmax(-1) for step in output.scores]
    steps = _steps(recorder.steps, log_probs, prompt, ends, (rule, exponent))
    scores = output.sequences_scores.tolist() if beams > 1 else [_greedy_score(output.sequences[0], log_probs, prompt)]
    hypotheses = [
        {"tokens": _cut(row[prompt:].tolist(), ends), "score": score}
        for row, score in zip(output.sequences, scores, strict=True)
    ]
    settings = {"num_beams": beams, "rule": rule, "exponent": exponent, "prompt": recorder.steps[0][0].tolist()}
    return Decoding(settings, steps, hypotheses)


def _cut(ids: list[int], ends: set[int]) -> list[int]:
    """Return a sequence up to its end token, without the padding behind it."""
    for position, number in enumerate(ids):
        if number in ends:
            return ids[: position + 1]
    return ids


def _greedy_score(row: torch.Tensor, log_probs: list[torch.Tensor], prompt: int) -> float:
    return sum(float(step[0, token]) for step, token in zip(log_probs, row[prompt:].tolist(), strict=False))


def _steps(
    rows: list[torch.Tensor], log_probs: list[torch.Tensor], prompt: int, ends: set[int], rule: tuple[str, float]
) -> list[dict[str, Any]]:
    steps = []
    # Every beam starts with the same tokens: only the first counts at the first step, as in `generate`.
    running = {tuple(rows[0][0].tolist()): 0.0}
    for number, (step_rows, step_scores) in enumerate(zip(rows, log_probs, strict=False)):
        beams: list[dict[str, Any]] = []
        where: list[int] = []
        for index, row in enumerate(step_rows.tolist()):
            key = tuple(row)
            if key in running and all(key != tuple(other["tokens"]) for other in beams):
                beams.append({"tokens": row, "score": running[key]})
                where.append(index)
        following = {tuple(row) for row in rows[number + 1].tolist()} if number + 1 < len(rows) else set()
        totals = torch.stack([step_scores[index] + beam["score"] for index, beam in zip(where, beams, strict=True)])
        wide = len(step_rows)
        best = totals.flatten().topk(min(max(2 * wide, 4), totals.numel()))
        candidates, running = [], {}
        for rank, (total, flat) in enumerate(zip(best.values.tolist(), best.indices.tolist(), strict=True)):
            parent, token = divmod(flat, totals.shape[1])
            if total == -float("inf") or total < -1e8:
                continue
            path = (*beams[parent]["tokens"], token)
            fate = "left"
            if token in ends:
                fate = "finished" if rank < wide else "left"
            elif path in following:
                fate, running[path] = "kept", total
            length = len(path) - prompt
            candidates.append(
                {
                    "parent": parent,
                    "token": token,
                    "log_prob": total - beams[parent]["score"],
                    "score": total,
                    "ranked": total / divisor(*rule, length),
                    "fate": fate,
                }
            )
        steps.append(
            {"beams": [{**beam, "tokens": beam["tokens"][prompt:]} for beam in beams], "candidates": candidates}
        )
    return steps
