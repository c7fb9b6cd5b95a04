"""Tiny models of each kind with their tokenizers, as folders."""

import subprocess
import sys

import pytest
import torch

from tests.helpers.cli_runs import TEXT
from vaswani_tx import (
    VaswaniConfig,
    VaswaniDecoderConfig,
    VaswaniEncoderConfig,
    VaswaniForCausalLM,
    VaswaniForConditionalGeneration,
    VaswaniForMaskedLM,
    VaswaniTokenizer,
)

SIZES = {"d_model": 24, "d_ff": 40, "num_heads": 3}
KINDS = {
    "encoder-decoder": (VaswaniForConditionalGeneration, VaswaniConfig, {"encoder_layers": 2, "decoder_layers": 2}),
    "decoder": (VaswaniForCausalLM, VaswaniDecoderConfig, {"num_hidden_layers": 2}),
    "encoder": (VaswaniForMaskedLM, VaswaniEncoderConfig, {"num_hidden_layers": 2}),
}


@pytest.fixture(scope="session")
def words():
    return VaswaniTokenizer.train_from_iterator(TEXT.splitlines() * 3, 320, show_progress=False)


def tiny(words, kind="encoder-decoder", **fields):
    """Return a random model of a kind that writes texts of several tokens, not one token again and again."""
    model_class, config_class, layers = KINDS[kind]
    torch.manual_seed(3)
    model = model_class(config_class(**{"vocab_size": len(words), **layers, **SIZES, **fields})).eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name or name.endswith("bias"):
                parameter.add_(torch.randn_like(parameter) * 0.3)
            elif "embed" in name or "shared" in name:
                parameter.mul_(1.5)
            else:
                parameter.mul_(2.0)
    return model


@pytest.fixture(scope="session")
def saved(tmp_path_factory, words):
    """Return a function that saves a tiny model of given fields, once, and returns its folder."""
    folders = {}

    def save(kind="encoder-decoder", **fields):
        key = (kind, *sorted(fields.items()))
        if key not in folders:
            folder = tmp_path_factory.mktemp("model")
            model = tiny(words, kind, **fields)
            if kind == "encoder-decoder":
                model.generation_config.max_extra_tokens = 6
            model.save_pretrained(folder)
            (words.for_continuation() if kind == "decoder" else words).save_pretrained(folder)
            folders[key] = folder
        return folders[key]

    return save


@pytest.fixture(scope="session")
def run_readme():
    """Return a function that runs the program of a folder's README in a new Python and returns what it prints."""

    def start(folder):
        text = (folder / "README.md").read_text(encoding="utf-8")
        code = text.partition("```python\n")[2].partition("```")[0]
        assert code, text
        done = subprocess.run([sys.executable, "-c", code], cwd=folder, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return start
