"""The engine's protocol: a task of numbers, without text, tokenizer or metric of the project, trains as any other."""

import importlib
import json
import pkgutil
import sys
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from tests.helpers.processes import run_child
from tests.helpers.training_runs import records, steps
from vaswani_tx.training import engine
from vaswani_tx.training.config.run_settings import RunSettings
from vaswani_tx.training.engine.run import train
from vaswani_tx.training.engine.task import BatchSize, PlannedTask, TaskComponents, Validation, best_key, ranking
from vaswani_tx.training.errors import CheckpointError, TrainingError

pytestmark = pytest.mark.usefixtures("fresh_accelerate")

SLOPE = torch.tensor([2.0, -1.0])


class Line(torch.nn.Module):
    """A linear function of two numbers, as much of a model as the engine asks for."""

    config = SimpleNamespace(hidden_size=2)

    def __init__(self):
        super().__init__()
        self.linear, self.dropout = torch.nn.Linear(2, 1), torch.nn.Dropout(0.1)

    def forward(self, x, y, num_items_in_batch=None):
        squares = (self.linear(self.dropout(x))[:, 0] - y).square()
        return SimpleNamespace(loss=squares.sum() / (num_items_in_batch or len(y)))

    def save_pretrained(self, folder, state_dict=None):
        (folder / "config.json").write_text(json.dumps(vars(self.config)), encoding="utf-8")
        save_file(state_dict or self.state_dict(), folder / "model.safetensors")

    @classmethod
    def load(cls, folder):
        model = cls()
        model.load_state_dict(load_file(folder / "model.safetensors"))
        return model


class Distance:
    """A score of this task alone."""

    title, higher_is_better = "distance", False

    @staticmethod
    def show(value):
        return f"{value:.1f}"


class Plan:
    """Eight batches of five numbers, in another order each epoch."""

    @staticmethod
    def epoch(number):
        return np.split(np.random.default_rng(number).permutation(40), 8)


class Fit(PlannedTask):
    """Find the slope of a line."""

    metrics = {"loss": Distance, "distance": Distance}
    validates = True

    def __init__(self, faulty=None):
        super().__init__(Plan())
        self.x = torch.randn(40, 2, generator=torch.Generator().manual_seed(0))
        self.y, self.faulty = self.x @ SLOPE, faulty

    def collate(self, indices):
        y = self.y[indices].clone()
        if self.faulty is not None:
            y[torch.from_numpy(indices == self.faulty)] = torch.nan
        return {"x": self.x[indices], "y": y}

    def size(self, indices):
        return BatchSize.of_lengths(len(indices), np.ones(len(indices), dtype=int))

    def locate(self, index):
        return f"number {index}"

    def fingerprint(self):
        return {"numbers": len(self.x), "faulty": self.faulty or 0}

    def validate(self, model, *, final, distributed):
        distance = float((model.linear.weight[0].detach() - SLOPE).abs().sum())
        return Validation({"loss": 1.0, "distance": distance}, [{"slope": model.linear.weight[0].tolist()}])


class Nothing:
    """A processor with nothing in it."""

    @staticmethod
    def save_pretrained(folder):
        (folder / "processor.json").write_text("{}", encoding="utf-8")


def fit(output, faulty=None, **changes):
    def prepare(context):
        make = (lambda: Line.load(context.weights)) if context.weights else Line
        return TaskComponents(make, lambda model: Fit(faulty), Line.load, Nothing(), dict, "40 numbers", "numbers")

    values = {"max_steps": 12, "log_every": 1, "eval_every": 2, "save_every": 5, "average_last": 2, "ema_decay": 0.5,
              "schedule": "constant", "learning_rate": 0.3, "warmup_steps": 1, "best_by": "distance"}  # fmt: skip
    return train(RunSettings(output_dir=str(output), tracker="none", num_threads=1, **(values | changes)), prepare)


def test_a_task_of_numbers_trains_and_keeps_its_best(tmp_path, capsys):
    result = fit(tmp_path / "run")
    assert (result.reason, result.step) == ("max_steps", 12) and isinstance(result.task, Fit)
    assert set(result.validations) == {"best", "averaged", "ema"}
    distances = {record["step"]: record["distance"] for record in records(tmp_path / "run", "validation")}
    assert list(distances) == [2, 4, 6, 8, 10, 12] and distances[12] < 0.6 * distances[2]
    best = min(distances, key=distances.get)
    note = json.loads((tmp_path / "run" / "best" / "validation.json").read_text(encoding="utf-8"))
    assert note == {"step": best, "by": "distance", "value": [-distances[best], -1.0]}
    weight = Line.load(tmp_path / "run" / "best").linear.weight[0].detach()
    assert float((weight - SLOPE).abs().sum()) == pytest.approx(distances[best])
    assert steps(tmp_path / "run") == [5, 10, 12]
    assert [record["target_tokens"] for record in records(tmp_path / "run", "train")] == list(range(5, 65, 5))
    assert (tmp_path / "run" / "numbers" / "processor.json").is_file()
    said = capsys.readouterr().err
    assert "3 parameters, 40 numbers, from random weights" in said
    assert f"best: validation distance 1.0, distance {distances[best]:.1f}" in said


def test_it_resumes_to_the_last_bit(tmp_path):
    fit(tmp_path / "whole")
    for limit in (3, 9, 12):
        fit(tmp_path / "parts", max_steps=limit)
    for name in ("model.safetensors", "training_state/optimizer.safetensors", "training_state/ema.safetensors"):
        place = f"checkpoints/step-00000012/{name}"
        assert (tmp_path / "whole" / place).read_bytes() == (tmp_path / "parts" / place).read_bytes()
    for event in ("train", "validation"):
        assert records(tmp_path / "parts", event) == records(tmp_path / "whole", event)
    assert (tmp_path / "parts/best/model.safetensors").read_bytes() == (
        tmp_path / "whole/best/model.safetensors"
    ).read_bytes()


def test_the_task_names_its_bad_examples_and_its_other_data(tmp_path):
    with pytest.raises(TrainingError, match=r"The loss became nan at step \d.*number 7\b"):
        fit(tmp_path / "bad", faulty=7)
    fit(tmp_path / "run", max_steps=3)
    with pytest.raises(CheckpointError, match="was trained on other data"):
        fit(tmp_path / "run", faulty=7)


def test_the_direction_of_a_score_is_the_tasks():
    scores = {"loss": 2.0, "distance": 3.0}
    assert best_key(scores, "distance") == "distance" and best_key(scores, "bleu") == "loss"
    assert ranking(scores, "distance", Fit.metrics) == [-3.0, -2.0]
    assert ranking(scores, "loss", Fit.metrics) == [-2.0]


def test_a_task_without_validation_data_says_so():
    with pytest.raises(NotImplementedError, match="PlannedTask has no validation data"):
        PlannedTask(Plan()).validate(Line(), final=False, distributed=False)


def imported_by_the_engine():
    """Import every module of the engine as if nothing of training were there yet; print what came along."""
    dropped = ("vaswani_tx.training", "sacrebleu", "rouge_score", "evaluate", "datasets")
    for name in [name for name in sys.modules if name.startswith(dropped)]:
        del sys.modules[name]
    for module in pkgutil.iter_modules(engine.__path__):
        importlib.import_module(f"vaswani_tx.training.engine.{module.name}")
    print(json.dumps(sorted(sys.modules)))


def test_the_engine_imports_no_task_and_no_metric():
    child = run_child(imported_by_the_engine)
    assert child.returncode == 0, child.errors
    names = set(json.loads(child.output))
    assert {"vaswani_tx.training.engine.loop", "vaswani_tx.training.engine.run"} <= names
    for package in ("tasks", "metrics", "inference"):
        found = [name for name in names if name.startswith(f"vaswani_tx.training.{package}")]
        assert not found, found
    assert not names & {"sacrebleu", "rouge_score", "evaluate"}
