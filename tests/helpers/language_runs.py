"""A tiny corpus for language models and tiny runs on it, shared by their tests."""

from pathlib import Path

import numpy as np
import pytest
from accelerate.state import AcceleratorState

from vaswani_tx import VaswaniTokenizer
from vaswani_tx.training import train_causal_lm, train_masked_lm

COMMANDS = {"causal": train_causal_lm, "masked": train_masked_lm}
WORDS = ["bade", "beda", "bidu", "bodo", "budi", "da", "de", "di", "do", "du"]


@pytest.fixture(scope="session")
def language(tmp_path_factory):
    """60 lines of made-up words, one of them long, 6 to validate on, and a tokenizer with a mask."""
    folder = tmp_path_factory.mktemp("language")
    random = np.random.default_rng(0)
    lines = [" ".join(random.choice(WORDS, size=random.integers(2, 9))) for _ in range(60)]
    lines[7] = " ".join(random.choice(WORDS, size=40))
    (folder / "a.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
    (folder / "v.txt").write_text("\n".join(line[::-1] for line in lines[:6]) + "\n", encoding="utf-8")
    tokenizer = VaswaniTokenizer.train(folder / "a.txt", vocab_size=275, show_progress=False, mask_token="<mask>")
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


def flags(data, output, **changes):
    values = {
        "output_dir": output, "data_dir": data, "train_text": "a.txt", "tokenizer": data / "tokenizer",
        "preset": "tiny", "row_length": 24, "batch_tokens": 72, "warmup_steps": 20, "log_every": 1, "max_steps": 6,
        "eval_every": "null", "save_every": "null", "tracker": "none", "average_last": 0, "num_threads": 1,
        "model.d_model": 16, "model.d_ff": 32, "model.num_heads": 2, "model.num_hidden_layers": 1,
        "model.dropout": 0.1,
    } | changes  # fmt: skip
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def run(kind, data, output, expect=0, **changes):
    AcceleratorState._reset_state(reset_partial_state=True)
    assert COMMANDS[kind].main(flags(data, output, **changes)) == expect
    return Path(output)
