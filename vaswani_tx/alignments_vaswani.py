# Shapes: B sources, R hypotheses (B times those of each), S source length, T target length, H heads, V vocabulary.
"""Log-probabilities and alignments of finished translations, from a second pass through the model.

One pass of the model over source and translation together, without search, gives both. It costs little beside
the search, and no memory that grows with the vocabulary times the length, as keeping every step's numbers would.
"""

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch

# Logits of one pass are held to this many numbers (128 MB): further rows go into another pass.
MAX_LOGITS = 2**25


@dataclass
class Reading:
    """One hypothesis as the model reads it again."""

    log_prob: float  # of the generated tokens, without those that were given or forced
    num_tokens: int  # generated, with the end of sentence
    links: list[tuple[int, float]]  # for each generated token its source token and the attention paid to it


@torch.no_grad()
def read_again(
    model: Any,
    input_ids: torch.Tensor,
    attention_mask: torch.Tensor,
    sequences: torch.Tensor,
    *,
    lengths: Sequence[int],
    prompt_length: int = 1,
    certain: Mapping[int, set[int]] | None = None,
    layer: int | None = None,
    sources: torch.Tensor | None = None,
) -> list[Reading]:
    """Compute the log-probability of hypotheses, and where `sources` are given, align them.

    Args:
        input_ids, attention_mask: [B, S].
        sequences: [R, T], as `generate` returns them: start token first, padding last.
        lengths: for each of them how many tokens were generated.
        prompt_length: tokens at the front of every sequence that were given and not generated.
        certain: position in the sequence -> the ids that generation puts there, whatever their probability.
        layer: the decoder layer whose cross-attention, averaged over its heads, makes the alignment.
        sources: [B, S], True for the source tokens that may be aligned to; None: no alignment is made.

    Raises:
        ValueError: the model has no such layer.
    """
    per_source = sequences.shape[0] // input_ids.shape[0]
    readings: list[Reading] = []
    with _weights_kept(model, sources is not None):
        step = 1  # the first pass shows how wide the logits are
        while len(readings) < len(sequences):
            first = len(readings)
            rows = sequences[first : first + step]
            of = torch.arange(first, first + len(rows), device=input_ids.device) // per_source  # [R] -> source
            outputs = model(
                input_ids=input_ids[of],
                attention_mask=attention_mask[of],
                decoder_input_ids=rows[:, :-1].contiguous(),  # quantised embeddings need it
                output_attentions=sources is not None,
                use_cache=False,
                return_dict=True,
            )
            step = max(1, MAX_LOGITS // max(outputs.logits[0].numel(), 1))
            labels = rows[:, 1:]
            log_probs = outputs.logits.float().log_softmax(-1).gather(-1, labels[..., None])[..., 0]  # [R, T - 1]
            for position, ids in (certain or {}).items():
                if position <= labels.shape[1]:
                    forced = torch.isin(labels[:, position - 1], torch.tensor(sorted(ids), device=labels.device))
                    log_probs[:, position - 1].masked_fill_(forced, 0.0)
            links = None if sources is None else _links(outputs.cross_attentions, layer, sources[of])
            for row in range(len(rows)):
                begin, length = prompt_length - 1, lengths[first + row]
                total = float(log_probs[row, begin : begin + length].sum())
                # Every generated token has its links, the given ones before them too, for the spans of the text.
                readings.append(Reading(total, length, [] if links is None else links[row][: begin + length]))
    return readings


def _links(attentions: Sequence[torch.Tensor] | None, layer: int | None, sources: torch.Tensor) -> list[list[Any]]:
    """Return for each row and target position (source position, weight), from weights [R, H, T, S] of one layer."""
    if not attentions or attentions[0] is None:
        raise ValueError("this model gives no cross-attention weights, so there is nothing to align by.")
    count = len(attentions)
    # The last layer but one aligns best, lower ones attend to the token before (Garg et al. 2019).
    layer = max(count - 2, 0) if layer is None else layer
    if not -count <= layer < count:
        raise ValueError(f"alignment_layer is {layer}, but the decoder has {count} layers: give 0 to {count - 1}.")
    weights = attentions[layer].float().mean(dim=1)  # [R, H, T, S] -> [R, T, S]
    best = weights.masked_fill(~sources[:, None, :], -1.0).max(dim=-1)
    return [list(zip(*pair, strict=True)) for pair in zip(best.indices.tolist(), best.values.tolist(), strict=True)]


@contextmanager
def _weights_kept(model: Any, wanted: bool) -> Iterator[None]:
    """Use plain attention within the block: the fused one never forms the weights."""
    name = getattr(model.config, "_attn_implementation", None)
    if not wanted or name in (None, "eager"):
        yield
        return
    model.set_attn_implementation("eager")
    try:
        yield
    finally:
        model.set_attn_implementation(name)


def target_spans(tokenizer: Any, ids: list[int], text: str, **decoding: Any) -> list[tuple[int, int]]:
    """Return the span of each of `ids` in `text`, without the space before it.

    A character of several tokens belongs to the last of them.
    """
    ends: list[int] = []
    for count in range(1, len(ids) + 1):
        before = tokenizer.decode(ids[:count], skip_special_tokens=True, **decoding)
        common = next(
            (i for i, (a, b) in enumerate(zip(before, text, strict=False)) if a != b), min(len(before), len(text))
        )
        ends.append(max(common, ends[-1] if ends else 0))
    return [_trimmed(text, start, end) for start, end in zip([0, *ends], ends, strict=False)]


def _trimmed(text: str, start: int, end: int) -> tuple[int, int]:
    piece = text[start:end]
    return (start + len(piece) - len(piece.lstrip()), end) if piece.strip() else (start, end)


def word_alignment(tokens: list[dict[str, Any]], source: str, target: str) -> list[dict[str, Any]]:
    """Join an alignment of tokens to one of words: each target word with the source word most attended to.

    Args:
        tokens: entries with `source_span`, `target_span` and `weight`, as the pipelines return them.
    """
    words = []
    source_words = _word_spans(source)
    for start, end in _word_spans(target):
        votes: dict[tuple[int, int], float] = {}
        for token in tokens:
            low, high = token["target_span"]
            first = token["source_span"][0]
            word = next((span for span in source_words if span[0] <= first < span[1]), None)
            if word is not None and low < high and start <= low < end:
                votes[word] = votes.get(word, 0.0) + token["weight"]
        if votes:
            best = max(votes, key=votes.__getitem__)
            entry = {"target": target[start:end], "source": source[best[0] : best[1]]}
            words.append({**entry, "target_span": (start, end), "source_span": best, "weight": votes[best]})
    return words


def _word_spans(text: str) -> list[tuple[int, int]]:
    spans: list[tuple[int, int]] = []
    start: int | None = None
    for position, character in enumerate(text + " "):
        if character.isspace():
            if start is not None:
                spans.append((start, position))
            start = None
        elif start is None:
            start = position
    return spans


__all__ = ["Reading", "read_again", "target_spans", "word_alignment"]
