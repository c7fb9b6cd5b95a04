"""Two real processes on the CPU (gloo), the model copied (DDP) or in shards (FSDP2): the same updates as one process.

All of the loops run in one launch, and the tests look at what they left.
"""

import json
import os
import re
import signal
import time
from unittest import mock

import numpy as np
import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from tests.helpers.processes import CONFIGURATIONS, launch
from tests.helpers.training_runs import flags, make_loop, records, run, steps
from vaswani_tx import VaswaniForConditionalGeneration, VaswaniTokenizer
from vaswani_tx.training import train_translation
from vaswani_tx.training.engine.task import Validation
from vaswani_tx.training.models.loading import read_tensors
from vaswani_tx.training.tasks import objectives

# Half a minute on an idle machine; processes that wait for each other suffer most from a busy one.
pytestmark = pytest.mark.timeout(900)

# Windows of four batches, the last one of an epoch short: a process then has a batch less than the other.
BATCHES = [range(3), range(3, 10), range(10, 11), range(11, 20), range(20, 26), range(26, 28), range(28, 33),
           range(33, 40), range(40, 43)]  # fmt: skip
WINDOWS = [range(20), range(20, 40), range(40, 43)]
# Adam divides each gradient by its own size. With the paper's epsilon of 1e-9 a wrong factor on all of them would not
# show, and rounding noise in one that is nearly zero would be a step in full.
SETTINGS = {"max_steps": 7, "adam_epsilon": 1e-4, "max_grad_norm": 0.5, "ema_decay": 0.8, "save_every": 3,
            "eval_every": 2, "best_by": "chrf"}  # fmt: skip
OBJECTIVE = {"simcut_weight": 3.0, "distillation_weight": 0.3, "distillation_temperature": 2.0}


def objective(output):
    """Settings of a loss with terms beside the cross entropy, its teacher an earlier run's model."""
    return OBJECTIVE | {"teacher": str(output / "start" / "checkpoints" / "step-00000003")}


def go(name, data, output, batches, start=None, precision="no", **changes):
    """One loop of the comparison; its run folder is `output / name`."""
    AcceleratorState._reset_state(reset_partial_state=True)
    # Chosen by the token, not by chance, which differs between processes.
    with mock.patch.object(objectives, "chosen_to_cut", lambda tokens, probability: tokens % 3 == 0):
        loop = make_loop(data, output / name, batches, start=start, precision=precision, **(SETTINGS | changes))
        return run_loop(loop, start)


def run_loop(loop, start):
    def validate(model, final, distributed):
        with torch.no_grad():
            loss = model(**loop.task.collate(np.arange(10))).loss.item()
        # Only the first one is kept as best: writing a model drops what a validation leaves gathered.
        return Validation({"loss": loss, "perplexity": 0.0, "chrf": -loop.state.step})

    loop.task.validation, loop.task.validate = ([], []), validate
    loop.run(start)
    return loop


def translations(model, task):
    inputs = task.collate(np.arange(4))
    del inputs["labels"]
    return model.generate(**inputs, num_beams=2, max_new_tokens=6).tolist()


def in_two_processes(data, output):
    """What each of the two processes runs."""
    torch.set_num_threads(1)
    go("copied", data, output, BATCHES, accumulation_steps=2)
    go("copied_objective", data, output, BATCHES, accumulation_steps=2, **objective(output))
    os.environ |= {"ACCELERATE_USE_FSDP": "true", "FSDP_VERSION": "2"}
    loop = go("sharded", data, output, BATCHES, accumulation_steps=2)
    before = [parameter.to_local().clone() for parameter in loop.parameters]
    shares = [sum(tensor.numel() for tensor in tensors) for tensors in (before, loop.parameters)]
    loop.checkpoints.save_average(output / "average")
    same = all(torch.equal(old, new.to_local()) for old, new in zip(before, loop.parameters, strict=True))
    # At once: no earlier forward pass has gathered what the encoder by itself cannot.
    note = {"shares": shares, "untouched": same, "translations": translations(loop.model.eval(), loop.task)}
    (output / f"process{loop.accelerator.process_index}.json").write_text(json.dumps(note))
    half = output / "sharded" / "checkpoints" / "step-00000003"
    go("sharded_resumed", data, output, BATCHES, start=half, accumulation_steps=2)
    go("sharded_from_one", data, output, BATCHES, start=output / "start" / "checkpoints" / "step-00000003",
       accumulation_steps=2)  # fmt: skip
    go("sharded_objective", data, output, BATCHES, accumulation_steps=2, **objective(output))
    go("sharded_bf16", data, output, BATCHES, accumulation_steps=2, precision="bf16")
    os.environ["FSDP_VERSION"] = "1"
    try:
        go("refused", data, output, BATCHES)
    except ValueError as error:
        (output / "refused.txt").write_text(str(error))


@pytest.fixture(scope="module")
def runs(reversal, tmp_path_factory):
    """The run folders of one process and of two."""
    output = tmp_path_factory.mktemp("runs")
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    go("start", reversal, output, BATCHES, accumulation_steps=4, max_steps=3)
    tokenizer = VaswaniTokenizer.from_pretrained(reversal / "tokenizer")
    tokenizer.save_pretrained(output / "start" / "checkpoints" / "step-00000003")
    process = launch("cpu.yaml", lambda: in_two_processes(reversal, output))
    go("one", reversal, output, BATCHES, accumulation_steps=4)
    go("large", reversal, output, WINDOWS)
    go("one_objective", reversal, output, BATCHES, accumulation_steps=4, **objective(output))
    go("one_bf16", reversal, output, BATCHES, accumulation_steps=4, precision="bf16")
    assert process.wait(timeout=900) == 0, process.errors[-4000:]
    go("one_from_shards", reversal, output, BATCHES, accumulation_steps=4,
       start=output / "sharded" / "checkpoints" / "step-00000003")  # fmt: skip
    torch.set_num_threads(threads)
    yield output
    AcceleratorState._reset_state(reset_partial_state=True)


def state(folder, step=7):
    """Weights, optimiser and average of a checkpoint under one name each."""
    place = folder / "checkpoints" / f"step-{step:08d}"
    files = ("model.safetensors", "training_state/optimizer.safetensors", "training_state/ema.safetensors")
    return {f"{file}: {name}": tensor for file in files for name, tensor in load_file(place / file).items()}


def assert_same(folder, other, tolerance, step=7):
    found, expected = state(folder, step), state(other, step)
    assert found.keys() == expected.keys()
    for name, tensor in expected.items():
        torch.testing.assert_close(found[name], tensor, rtol=0, atol=tolerance, msg=lambda text, n=name: f"{n}: {text}")


# Updates


@pytest.mark.parametrize("name", ["large", "copied", "sharded"])
def test_four_batches_in_one_process_or_two_are_one_large_batch(runs, name):
    assert_same(runs / name, runs / "one", 1e-6)
    for event in ("train", "validation"):
        losses = [[record["loss"] for record in records(runs / each, event)] for each in (name, "one")]
        assert losses[0] == pytest.approx(losses[1], abs=2e-6)
        assert len(losses[0]) == {"train": 7, "validation": 4}[event]
    assert steps(runs / name) == [3, 6, 7]
    start, end = (load_file(runs / name / "checkpoints" / f"step-{n:08d}" / "model.safetensors") for n in (3, 7))
    assert all((end[key] - start[key]).abs().max() > 1e-3 for key in start)


@pytest.mark.parametrize("name", ["copied_objective", "sharded_objective"])
def test_terms_beside_the_cross_entropy_are_divided_as_it_is(runs, name):
    assert_same(runs / name, runs / "one_objective", 1e-6)
    for term in ("loss", "simcut", "distillation"):
        values = [[record[term] for record in records(runs / each, "train")] for each in (name, "one_objective")]
        assert values[0] == pytest.approx(values[1], abs=2e-6), term
        assert min(values[0]) > 1e-3


def test_each_process_holds_half_of_the_weights(runs):
    notes = [json.loads((runs / f"process{index}.json").read_text()) for index in (0, 1)]
    whole = notes[0]["shares"][1]
    assert [note["shares"] for note in notes] == [[whole // 2, whole]] * 2
    assert all(note["untouched"] for note in notes)


@pytest.mark.parametrize("name", ["sharded_resumed", "sharded_from_one", "one_from_shards"])
def test_a_run_resumes_in_shards_or_without(runs, name):
    assert_same(runs / name, runs / "sharded", 0 if name == "sharded_resumed" else 1e-6)


def test_the_half_precision_of_shards_is_that_of_one_process(runs):
    losses = [[record["loss"] for record in records(runs / name, "train")]
              for name in ("sharded_bf16", "one_bf16", "one")]  # fmt: skip
    assert losses[0] == pytest.approx(losses[1], abs=0.02)
    assert losses[0] != pytest.approx(losses[2], abs=1e-5)
    weights = load_file(runs / "sharded_bf16" / "checkpoints" / "step-00000007" / "model.safetensors")
    assert {tensor.dtype for tensor in weights.values()} == {torch.float32}


def test_whole_folders_come_out_of_shards(runs):
    checkpoint = runs / "sharded" / "checkpoints" / "step-00000007"
    for folder, file in ((checkpoint, "model.safetensors"), (runs / "average", "training_state/ema.safetensors")):
        model = VaswaniForConditionalGeneration.from_pretrained(folder)
        assert model.config.architectures == ["VaswaniForConditionalGeneration"]
        for name, tensor in read_tensors(checkpoint / file).items():
            assert torch.equal(model.get_parameter(name), tensor), name


def test_shards_translate(runs, reversal, tmp_path):
    folder = runs / "sharded" / "checkpoints" / "step-00000007"
    loop = make_loop(reversal, tmp_path, BATCHES, start=folder)
    expected = translations(loop.model.eval(), loop.task)
    for index in (0, 1):
        assert json.loads((runs / f"process{index}.json").read_text())["translations"] == expected


def test_the_first_version_of_fsdp_is_refused(runs):
    assert "fsdp_version is 1: it must be 2" in (runs / "refused.txt").read_text()


# The command


@pytest.mark.fresh
def test_the_command_in_shards_stops_together_on_a_signal_and_one_process_resumes(reversal, tmp_path):
    output = tmp_path / "run"
    changes = {"eval_every": 4, "validation_source": "v.src", "validation_target": "v.tgt", "eval_beam": 2,
               "ema_decay": 0.9, "keep_last": 2, "average_last": 2, "accumulation_steps": 2}  # fmt: skip
    words = flags(reversal, output, **changes, save_every=4, max_steps=100_000, warmup_steps=1000)
    process = launch("fsdp2_cpu.yaml", lambda: train_translation.main(words))
    try:
        wait_for(process, lambda: len(records(output)) > 6 if (output / "metrics.jsonl").exists() else False)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=300)
    finally:
        process.kill()
    said = process.output + process.errors
    found = re.findall(r"stopped by SIGTERM; saved as \S+step-(\d+); the same command resumes", said)
    assert len(found) == 2, said[-4000:]
    assert len(set(found)) == 1
    last = int(found[0])
    assert steps(output)[-1] == last
    assert records(output, "validation")[0]["beam"] == 2
    run(reversal, output, **changes, save_every=2, max_steps=last + 2, warmup_steps=1000)
    assert [record["event"] for record in records(output)][-3:] == ["best", "averaged", "ema"]
    for name in ("best", "averaged", "ema"):
        VaswaniForConditionalGeneration.from_pretrained(output / name)
        VaswaniTokenizer.from_pretrained(output / name)


def wait_for(process, condition, seconds=600):
    end = time.monotonic() + seconds
    while not condition():
        if process.poll() is not None or time.monotonic() > end:
            process.kill()
            pytest.fail(f"nothing came of it: {process.errors[-4000:]}")
        time.sleep(0.1)


# Configurations


@pytest.mark.parametrize("path", sorted(CONFIGURATIONS.glob("*.yaml")), ids=lambda path: path.name)
def test_a_ready_made_configuration_is_what_accelerate_knows(path):
    configuration = load_config_from_file(str(path))
    lines = path.read_text(encoding="utf-8").splitlines()
    keys = [line for line in lines if line and not line.startswith("#")]
    assert [line for line in keys if "#" not in line] in ([], ["fsdp_config:"])
    known = {action.dest for action in launch_command_parser()._actions}
    assert set(configuration.fsdp_config or {}) <= known
    content = yaml.safe_load("\n".join(lines))
    assert (configuration.num_machines == 2) == path.stem.endswith("_multinode")
    assert ("fsdp_config" in content) == path.stem.startswith("fsdp2")
    if configuration.fsdp_config:
        assert configuration.fsdp_config["fsdp_version"] == 2
    assert f"training/accelerate_configs/{path.name}" in lines[1] + lines[2]
    launch_command_parser().parse_args(["--config_file", str(path), "-m", "vaswani_tx.training.train_translation"])
