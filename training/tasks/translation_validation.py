"""Validation during training: loss and perplexity of the references, BLEU and chrF of fresh translations."""

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from vaswani_tx.training.inference.translation import perplexity, translate
from vaswani_tx.training.metrics.scoring import score_translations

SAMPLES = 8  # translations kept for people to read
# Further scores that tasks may have, as a line for people calls them.
NAMED = {
    "accuracy": "accuracy",
    "f1": "F1",
    "exact_match": "exact match",
    "mean_squared_error": "mean squared error",
    "spearman": "Spearman correlation",
    "bits_per_byte": "bits per byte",
}


@dataclass
class Validator:
    """Scores a model on one validation set.

    Args:
        sentences: how many of the sentences are translated, spread evenly over the set; None: all, 0: none.
        samples: the first translations of the last call, with source and reference.
        distributed: processes share the work. A sharded model cannot: there every process does all of it in step.
    """

    tokenizer: Any
    sources: Sequence[str]
    targets: Sequence[str]
    sentences: int | None = None
    batch_tokens: int = 4096
    distributed: bool = False
    samples: list[dict[str, str]] = field(default_factory=list, init=False)

    def __call__(self, model: torch.nn.Module, beam: int) -> dict[str, Any]:
        """`loss` (nats a token, not smoothed), `perplexity`, and with translations `bleu`, `chrf` and signatures."""
        start = time.monotonic()
        shared = {"batch_tokens": self.batch_tokens, "distributed": self.distributed}
        quality = perplexity(model, self.tokenizer, self.sources, self.targets, **shared)
        # JSON knows no infinity; a perplexity that large says nothing that the loss does not.
        scores: dict[str, Any] = {"loss": quality["nll"], "perplexity": min(quality["perplexity"], 1e300)}
        chosen = self._chosen()
        if chosen:
            hypotheses = translate(
                model, self.tokenizer, [self.sources[i] for i in chosen], num_beams=beam, do_sample=False, **shared
            )
            self.samples = [
                {"source": self.sources[i], "reference": self.targets[i], "hypothesis": text}
                for i, text in zip(chosen[:SAMPLES], hypotheses, strict=False)
            ]
            found = score_translations(hypotheses, [self.targets[i] for i in chosen])
            scores |= {name: found[name] for name in ("bleu", "chrf", "bleu_signature", "chrf_signature")}
            scores |= {"beam": beam, "sentences": len(chosen)}
        scores["validation_seconds"] = round(time.monotonic() - start, 3)
        return scores

    def _chosen(self) -> list[int]:
        total = len(self.sources)
        count = total if self.sentences is None else min(self.sentences, total)
        return [position * total // count for position in range(count)]


def describe(scores: dict[str, Any]) -> str:
    """One line for people."""
    text = f"loss {scores['loss']:.4f}"
    if "perplexity" in scores:
        text += f", perplexity {scores['perplexity']:.2f}"
    for name in (name for name in scores if name in NAMED):
        text += f", {NAMED[name]} {scores[name]:.4f}"
    if "bleu" in scores:
        text += f", BLEU {scores['bleu']:.2f}, chrF {scores['chrf']:.2f}"
        text += f" (beam {scores['beam']}, {scores['sentences']} sentences, {scores['bleu_signature']})"
    return text
