"""A tiny model and the command line in this process, shared by the tests of its verbs."""

import io
import os
import sys
from dataclasses import dataclass
from unittest import mock

import pytest
import torch

from tests.helpers import ROOT
from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration, VaswaniTokenizer
from vaswani_tx.cli import main

LINES = [
    "A dog runs on the green grass.",
    "Two men talk.",
    "A woman reads the old book to a child.",
    "The dog sleeps.",
    "Ein Hund läuft über das grüne Gras.",
    "Zwei Männer reden.",
    "Eine Frau liest dem Kind das alte Buch vor.",
]
TEXT = "".join(f"{line}\n" for line in LINES)


@dataclass
class Done:
    """What a command left behind."""

    status: int
    raw: bytes
    err: str

    @property
    def out(self):
        return self.raw.decode("utf-8")

    @property
    def lines(self):
        return self.out.split("\n")[:-1]


class Input(io.BytesIO):
    """Standard input as a pipe: bytes in chunks of a few, and no descriptor."""

    def read(self, size=-1):
        return super().read(size if size < 0 else min(size, 7))


class Terminal(io.StringIO):
    """A stream of a terminal."""

    buffer = None

    def isatty(self):
        return True


def command(*words, stdin=b"", typed=None, out=None):
    """Run `vaswani-tx WORDS` here; `typed` are lines at a prompt instead of a pipe, `out` another standard output."""
    data = stdin.encode() if isinstance(stdin, str) else stdin
    given = io.TextIOWrapper(Input(data), "utf-8") if typed is None else Terminal("".join(f"{t}\n" for t in typed))
    made, err = out or io.TextIOWrapper(io.BytesIO(), "utf-8", write_through=True), io.StringIO()
    with mock.patch.multiple(sys, stdin=given, stdout=made, stderr=err):
        try:
            status = main([str(word) for word in words])
        except SystemExit as ended:
            status = ended.code or 0
    return Done(status, made.buffer.getvalue() if out is None else b"", err.getvalue())


def refused(done, *words, status=2):
    """The one line that a command failed with; everything in `words` must be in it."""
    assert done.status == status, done.err
    last = done.err.splitlines()[-1]
    assert last.startswith("vaswani-tx: ") and "Traceback" not in done.err
    assert all(word in last for word in words), last
    return last


def environment(**changes):
    """The environment of a new process that runs this checkout, with Python's buffers as they usually are."""
    own = {name: value for name, value in os.environ.items() if name != "PYTHONUNBUFFERED"}
    return own | {"OMP_NUM_THREADS": "1", "PYTHONPATH": f"{ROOT}"} | changes


def save_model(folder, seed=1, vocabulary=320):
    """A random model whose answers differ from line to line, and its tokenizer, in a folder."""
    tokenizer = VaswaniTokenizer.train(iter(LINES * 3), vocab_size=vocabulary, show_progress=False)
    sizes = {"d_model": 16, "d_ff": 32, "num_heads": 2, "encoder_layers": 2, "decoder_layers": 3}
    config = VaswaniConfig(vocab_size=len(tokenizer), lm_head_bias=True, tie_word_embeddings=False, **sizes)
    model = VaswaniForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() > 1:
                parameter.normal_(0, 0.3, generator=generator)
        model.lm_head.weight.normal_(0, 1, generator=generator)
        model.lm_head.bias[: tokenizer.vocab_size - 60] -= 4  # words rather than bytes
        model.lm_head.bias[tokenizer.eos_token_id] = 2.0
    model.generation_config.max_extra_tokens = 8
    model.generation_config.no_repeat_ngram_size = 2  # a random model repeats one token otherwise
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("cli") / "model")


@pytest.fixture(scope="session")
def loaded(folder):
    """The model and tokenizer of `folder`."""
    return VaswaniForConditionalGeneration.from_pretrained(folder).eval(), VaswaniTokenizer.from_pretrained(folder)
