"""Training that is killed (SIGKILL, which cannot be handled) at any moment resumes as if nothing had happened.

Every run is a child forked from this process. A child that is to die at a certain moment has the function replaced that
is at work then.
"""

import json
import os
import random
import signal
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from tests.helpers.processes import Child
from tests.helpers.training_runs import flags, records, steps
from vaswani_tx import VaswaniForConditionalGeneration
from vaswani_tx.training import files, train_translation
from vaswani_tx.training.engine import checkpoints
from vaswani_tx.training.engine.checkpoints import list_checkpoints, read_state, write_checkpoint
from vaswani_tx.training.engine.loop import TrainingLoop
from vaswani_tx.training.engine.progress import MetricsLog
from vaswani_tx.training.files import clean_leftovers

# Half a minute on an idle machine: some 25 runs in the first test's fixture.
pytestmark = [pytest.mark.timeout(900), pytest.mark.fresh]

STEPS = 6
SETTINGS = {
    "max_steps": STEPS, "save_every": 1, "eval_every": 2, "keep_last": 2, "average_last": 2, "ema_decay": 0.9,
    "log_every": 3, "eval_sentences": 0, "validation_source": "v.src", "validation_target": "v.tgt",
}  # fmt: skip


def die():
    os.kill(os.getpid(), signal.SIGKILL)


def replace(owner, name, work):
    """`work(original, *arguments)` in place of a function."""
    original = getattr(owner, name)
    setattr(owner, name, lambda *arguments, **options: work(original, *arguments, **options))


# The moments: each function prepares the death of the process that calls it.


def half_of_the_weights():
    def work(original, model, folder, **options):
        original(model, folder, **options)
        if folder.name == ".tmp-step-00000004":
            os.truncate(folder / "model.safetensors", 1000)
            die()

    replace(VaswaniForConditionalGeneration, "save_pretrained", work)


def half_of_the_optimiser():
    def work(original, tensors, path, **options):
        if path.name == "optimizer.safetensors" and ".tmp-step-00000004" in path.parts:
            path.write_bytes(b"half")
            die()
        original(tensors, path, **options)

    replace(checkpoints, "save_file", work)


def before_a_checkpoint_has_its_name():
    replace(files, "_put_in_place", lambda original, source, target: (
        die() if target.name == "step-00000004" else original(source, target)))  # fmt: skip


def half_of_an_old_checkpoint_deleted():
    def work(original, path, *arguments, **options):
        if path.name == ".tmp-step-00000002" and path.is_dir():
            (path / "model.safetensors").unlink()
            die()
        original(path, *arguments, **options)

    replace(files.shutil, "rmtree", work)


def between_the_renames_that_replace_the_best():
    def work(original, path, target):
        if path.name == ".tmp-best" and (path.parent / ".old-best").exists():
            die()
        return original(path, target)

    replace(Path, "rename", work)


def half_of_a_record():
    def work(original, log, record):
        if record["step"] == 4:
            with log.path.open("a") as file:
                file.write(json.dumps(record)[:20])
            die()
        original(log, record)

    replace(MetricsLog, "write", work)


def middle_of_an_update():
    def work(original, loop, *rest):
        loss = original(loop, *rest)
        if loop.state.step == 3:
            die()
        return loss

    replace(TrainingLoop, "_backward", work)


def averaged_weights_in_place():
    replace(TrainingLoop, "score", lambda original, loop, *rest, **options: (
        die() if loop.state.step == 4 else original(loop, *rest, **options)))  # fmt: skip


def last_average_half_written():
    def work(original, tensors, path, **options):
        if path.parent.name == ".tmp-averaged":
            path.write_bytes(b"half")
            die()
        original(tensors, path, **options)

    from vaswani_tx.training.engine import averaging

    replace(averaging, "save_file", work)


# The step of the last checkpoint that each leaves behind.
MOMENTS = {
    half_of_the_weights: 3, half_of_the_optimiser: 3, before_a_checkpoint_has_its_name: 3,
    half_of_an_old_checkpoint_deleted: 4, between_the_renames_that_replace_the_best: 4, half_of_a_record: 4,
    middle_of_an_update: 3, averaged_weights_in_place: 4, last_average_half_written: STEPS,
}  # fmt: skip


# The runs


def train(data, folder, prepare=lambda: None):
    def work():
        prepare()
        return train_translation.main(flags(data, folder, **SETTINGS))

    return Child(work)


def replace_a_checkpoint(folder):
    """Writes the checkpoint of step 1 twice; killed between the renames of the second."""

    def work():
        write = {"write_model": lambda place: None, "optimizer": {"t": torch.ones(2)}, "rng": []}
        write_checkpoint(folder / "step-00000001", state={"turn": 1}, **write)

        def rename(original, path, target):
            if path.name == ".tmp-step-00000001" and not target.exists():
                die()
            return original(path, target)

        replace(Path, "rename", rename)
        write_checkpoint(folder / "step-00000001", state={"turn": 2}, **write)

    return Child(work)


def kill_again_and_again(data, folder, seed=0):
    """Kills at random times, two checkpoints after the last, until a run gets to its end; returns how often."""
    chance, kills = random.Random(seed), 0
    while True:
        goal, child = max([0, *steps(folder)]) + 2, train(data, folder)
        while max([0, *steps(folder)]) < goal and child.poll() is None:
            time.sleep(0.01)
        time.sleep(chance.random() * 0.05)
        child.kill()
        if (status := child.wait()) != -signal.SIGKILL:
            return kills if status == 0 else -1
        kills += 1
        for path in list_checkpoints(folder / "checkpoints"):
            read_state(path)


def run_all(data, output):
    """Make all runs; return what became of them."""
    note = {"whole": train(data, output / "whole").wait()}
    for moment in MOMENTS:
        folder = output / moment.__name__
        killed = train(data, folder, moment).wait()
        left = [path.name for path in list_checkpoints(folder / "checkpoints")]
        for name in left:
            read_state(folder / "checkpoints" / name)
        note[moment.__name__] = {"killed": killed, "left": left, "resumed": train(data, folder).wait()}
    note["replaced"] = replace_a_checkpoint(output / "replaced").wait()
    note["kills"] = kill_again_and_again(data, output / "again")
    return note


# The tests


@pytest.fixture(scope="module")
def killed(reversal, tmp_path_factory):
    """The folder with all runs, and what became of them."""
    output = tmp_path_factory.mktemp("killed")
    return output, run_all(reversal, output)


def everything(folder):
    """All that a run leaves, without its clocks."""
    files = sorted(folder.rglob("*.safetensors")) + sorted(folder.rglob("rng.json"))
    found = {str(path.relative_to(folder)): path.read_bytes() for path in files}
    for path in sorted(folder.rglob("state.json")):
        state = json.loads(path.read_text()) | {"seconds": None}
        # Tokens seen since the last record by the process that will write the next one.
        state["window"].pop("fresh_tokens", None)
        found[str(path.relative_to(folder))] = state
    return found | {"metrics.jsonl": records(folder), "best": json.loads((folder / "best/validation.json").read_text())}


@pytest.mark.parametrize("moment", MOMENTS, ids=lambda moment: moment.__name__)
def test_a_killed_run_resumes_bit_by_bit(killed, moment):
    output, note = killed
    name = moment.__name__
    assert note[name]["killed"] == -signal.SIGKILL
    assert note[name]["left"][-1] == f"step-{MOMENTS[moment]:08d}"
    assert note[name]["resumed"] == 0
    assert everything(output / name) == everything(output / "whole")
    assert not list((output / name).rglob(".tmp-*")) + list((output / name).rglob(".old-*"))


def test_the_comparison_sees_all_parts_of_a_run(killed):
    output, note = killed
    assert note["whole"] == 0
    names = everything(output / "whole").keys()
    parts = [f"{folder}/model.safetensors" for folder in ("best", "averaged", "ema")]
    for step in (STEPS - 1, STEPS):
        place = f"checkpoints/step-{step:08d}"
        parts += [f"{place}/model.safetensors"]
        parts += [f"{place}/training_state/{file}" for file in
                  ("optimizer.safetensors", "ema.safetensors", "rng.json", "state.json")]  # fmt: skip
    assert names == {*parts, "metrics.jsonl", "best"}
    last = load_file(output / "whole" / "checkpoints" / f"step-{STEPS:08d}" / "model.safetensors")
    assert any(not torch.equal(tensor, last[name])
               for name, tensor in load_file(output / "whole" / "ema" / "model.safetensors").items())  # fmt: skip


def test_a_run_killed_again_and_again_ends_like_one_that_was_not(killed):
    output, note = killed
    assert note["kills"] >= 1
    assert everything(output / "again") == everything(output / "whole")


def test_a_checkpoint_about_to_be_replaced_comes_back(killed):
    output, note = killed
    assert note["replaced"] == -signal.SIGKILL
    assert list_checkpoints(output / "replaced") == []
    clean_leftovers(output / "replaced")
    (checkpoint,) = list_checkpoints(output / "replaced")
    assert read_state(checkpoint) == {"turn": 1}
