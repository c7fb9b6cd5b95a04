"""A tiny corpus and tiny runs on it, shared by the tests of the training loop and of its command."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState

from vaswani_tx import VaswaniConfig, VaswaniForConditionalGeneration, VaswaniTokenizer
from vaswani_tx.training import train_translation
from vaswani_tx.training.config.schedules import NoamSchedule
from vaswani_tx.training.config.translation import TranslationSettings
from vaswani_tx.training.data.parallel import load_parallel, tokenize_parallel
from vaswani_tx.training.data.translation_data import TrainingData
from vaswani_tx.training.engine.checkpoints import list_checkpoints
from vaswani_tx.training.engine.fsdp import shard_if_asked
from vaswani_tx.training.engine.loop import TrainingLoop
from vaswani_tx.training.engine.optimizer import PaperAdam
from vaswani_tx.training.engine.run_folder import RunFolder
from vaswani_tx.training.tasks.objectives import make_objective
from vaswani_tx.training.tasks.translation import TranslationTask

SMALL = {"d_model": 16, "d_ff": 32, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1}
WORDS = ["ba", "be", "bi", "bo", "bu", "da", "de", "di", "do", "du"]
# What two runs of the same updates may differ in.
CLOCKS = {"seconds", "tokens_per_second", "validation_seconds"}


@pytest.fixture
def fresh_accelerate():
    """accelerate keeps its state for the life of a process; and models this small are slower on two threads."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()


@pytest.fixture(scope="session")
def reversal(tmp_path_factory):
    """48 pairs of made-up words, the target being the source in reverse, and a tokenizer."""
    folder = tmp_path_factory.mktemp("data")
    random = np.random.default_rng(0)
    sentences = [list(random.choice(WORDS, size=random.integers(2, 9))) for _ in range(48)]
    (folder / "a.src").write_text("".join(" ".join(words) + "\n" for words in sentences), encoding="utf-8")
    (folder / "a.tgt").write_text("".join(" ".join(words[::-1]) + "\n" for words in sentences), encoding="utf-8")
    for side in ("src", "tgt"):
        (folder / f"v.{side}").write_text("ba be\nbi\n", encoding="utf-8")
    files = [folder / "a.src", folder / "a.tgt"]
    VaswaniTokenizer.train(files, vocab_size=290, show_progress=False).save_pretrained(folder / "tokenizer")
    return folder


def flags(data, output, **changes):
    values = {
        "output_dir": output, "data_dir": data, "train_source": "a.src", "train_target": "a.tgt",
        "tokenizer": data / "tokenizer", "preset": "tiny", "max_source_length": 20, "max_target_length": 20,
        "max_source_tokens": 60, "max_target_tokens": 60, "warmup_steps": 20, "log_every": 2, "eval_every": "null",
        "save_every": "null", "tracker": "none", "max_steps": 6, "model.dropout": 0.1,
    }  # fmt: skip
    values |= {f"model.{name}": value for name, value in SMALL.items()}
    values |= changes
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def run(data, output, expect=0, **changes):
    AcceleratorState._reset_state(reset_partial_state=True)
    assert train_translation.main(flags(data, output, **changes)) == expect
    return Path(output)


def records(folder, event=None):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]
    kept = [{name: value for name, value in record.items() if name not in CLOCKS} for record in found]
    return [record for record in kept if event in (None, record["event"])]


def steps(folder):
    return [int(path.name[5:]) for path in list_checkpoints(folder / "checkpoints")]


class FixedPlan:
    """The same batches in every epoch."""

    def __init__(self, batches):
        self.batches = batches

    def epoch(self, epoch):
        return self.batches


def make_loop(data, output, batches, schedule=None, dropout=0.0, start=None, precision="no", **arguments):
    """A loop over chosen batches, without the command around it; `start` is a checkpoint to take the weights from."""
    accelerator = Accelerator(cpu=True, mixed_precision=precision)
    tokenizer = VaswaniTokenizer.from_pretrained(data / "tokenizer")
    dataset = load_parallel(data / "a.src", data / "a.tgt")
    pairs = tokenize_parallel(dataset, tokenizer, 20, 20, disable_progress=True)
    torch.manual_seed(0)
    config = VaswaniConfig(vocab_size=len(tokenizer), dropout=dropout, **SMALL)
    model = VaswaniForConditionalGeneration.from_pretrained(start) if start else VaswaniForConditionalGeneration(config)
    plan = FixedPlan([np.array(batch) for batch in batches])
    training_data = TrainingData(plan, pairs, [], None, None, tokenizer.pad_token_id, 1)
    values = {"output_dir": str(output), "train_source": "a.src", "tokenizer_vocab_size": 290, "max_steps": 3}
    values = TranslationSettings(**(values | {"log_every": 1, "save_every": None, "eval_every": None} | arguments))
    options = {"label_smoothing": 0.1, "skip_logits": True}
    objective = make_objective(values, tokenizer)
    if objective:
        objective.attach(model)
    task = TranslationTask(training_data, tokenizer, None, values, options, objective)
    shard_if_asked(accelerator, model)
    optimizer = PaperAdam(epsilon=values.adam_epsilon).build(model.parameters())
    folder = RunFolder(output)
    return TrainingLoop(values, accelerator, model, optimizer, schedule or NoamSchedule(16, 20), task, folder)
