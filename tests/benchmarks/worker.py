"""One contender in a process of its own: reads requests, a line of JSON each, and answers each with a line.

    build   {"work": fields, "address": module:factory, "threads": n}   -> {} or {"unavailable": reason}
    compare {}   -> what the benchmark compares between contenders
    warm    {}   -> memory of the first round, which is not timed
    round   {}   -> {"wall": seconds, "cpu": seconds}

A request that fails is answered with {"error": text}; the process stays.
"""

import json
import os
import sys
import traceback
from typing import Any, TextIO

import torch

from tests.benchmarks import measuring
from tests.benchmarks.contenders import Unavailable, load_factory
from tests.benchmarks.weights import seeded_weights
from tests.benchmarks.works import (
    SIZES,
    CorpusWork,
    DecodingWork,
    TrainingWork,
    Work,
    check_batch,
    decoding_batches,
    digest,
    fill,
    real_tokens,
    training_batches,
    work_from,
)

# With it the best word is well ahead of the second, so rounding decides nothing.
DECODING_GAIN = 6.0


class TrainingRunner:
    """A contender of training with its batches."""

    def __init__(self, work: TrainingWork, factory: Any, name: str):
        self.work = work
        self.trainer = factory(work, seeded_weights(SIZES[work.size], work.vocab_size, work.seed))
        self.batches = training_batches(work, own_practice=name == "hf-practice")

    def compare(self) -> dict[str, Any]:
        """Return loss, gradients' norms and the loss after an update, without dropout, on the batch of all."""
        batch = check_batch(self.work)
        torch.manual_seed(self.work.seed)
        self.trainer.set_dropout(False)
        loss = self.trainer.loss(batch)
        loss.backward()
        norms = {name: float(one.double().norm()) for name, one in self.trainer.gradients().items()}
        self.trainer.update()
        with torch.no_grad():
            after = float(self.trainer.loss(batch))
        self.trainer.set_dropout(True)
        return {
            "batch": digest([batch]),
            "loss": float(loss.detach()),
            "gradient_norms": norms,
            "loss_after_update": after,
            "real_tokens": real_tokens(self.batches),
            "fill": fill(self.batches),
        }

    def run(self) -> None:
        """Make one update for each batch."""
        for batch in self.batches:
            self.trainer.loss(batch).backward()
            self.trainer.update()


class DecodingRunner:
    """A contender of translation with its sources."""

    def __init__(self, work: DecodingWork, factory: Any, name: str):
        self.work = work
        weights = seeded_weights(SIZES[work.size], work.vocab_size, work.seed, DECODING_GAIN)
        self.translator = factory(work, weights)
        self.batches = decoding_batches(work)

    def compare(self) -> dict[str, Any]:
        """Return the tokens of all sources."""
        return {
            "batch": digest(self.batches),
            "outputs": self.run(),
            "tokens": self.work.sentences * self.work.new_tokens,
        }

    def run(self) -> list[list[int]]:
        """Translate all sources."""
        return [row for batch in self.batches for row in self.translator.translate(batch)]


class CorpusRunner:
    """A contender of translation of a text."""

    def __init__(self, work: CorpusWork, factory: Any, name: str):
        with open(work.source, encoding="utf-8") as file:
            lines = file.read().splitlines()
        self.lines = lines[: work.lines] if work.lines else lines
        self.translator = factory(work)

    def compare(self) -> dict[str, Any]:
        """Return all translations."""
        return {"batch": str(len(self.lines)), "outputs": self.run(), "tokens": len(self.lines)}

    def run(self) -> list[str]:
        """Translate the text."""
        return self.translator.translate_lines(self.lines)


RUNNERS = {"training": TrainingRunner, "decoding": DecodingRunner, "corpus": CorpusRunner}


class Server:
    """The answers to requests."""

    def __init__(self) -> None:
        self.runner: Any = None

    def build(self, work: dict[str, Any], address: str, name: str, threads: int) -> dict[str, Any]:
        """Make the contender for a work; the one before it is dropped."""
        self.runner = None
        measuring.settle()
        torch.set_num_threads(threads)
        torch.manual_seed(1)
        wanted: Work = work_from(work)
        try:
            self.runner = RUNNERS[wanted.kind](wanted, load_factory(address), name)
        except Unavailable as reason:
            return {"unavailable": str(reason)}
        return {}

    def compare(self) -> dict[str, Any]:
        """Return what is compared between contenders."""
        return self.runner.compare()

    def warm(self) -> dict[str, Any]:
        """Run a round that is not timed; return memory in bytes: of the process, and what the round added at most."""
        measuring.settle()
        base = measuring.resident()
        _, peak = measuring.peak_of(self.runner.run)
        return {"step_memory": max(peak - base, 0), "total_memory": peak}

    def round(self) -> dict[str, Any]:
        """Run a round and time it."""
        _, wall, cpu = measuring.timed(self.runner.run)
        return {"wall": wall, "cpu": cpu}


def serve(requests: TextIO, answers: TextIO) -> None:
    """Answer requests until they end."""
    server = Server()
    for line in requests:
        request = json.loads(line)
        try:
            answer = getattr(server, request.pop("command"))(**request)
        except Exception as error:
            traceback.print_exc()
            answer = {"error": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def main() -> None:
    """Serve; what a contender prints goes to standard error, so that answers are alone on standard output."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import transformers

    transformers.utils.logging.set_verbosity_error()
    serve(sys.stdin, answers)


if __name__ == "__main__":
    main()
