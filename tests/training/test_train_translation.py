"""The training command: exact resume, ends, signals, refusals, and two processes that train like one."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.helpers import ROOT
from tests.helpers.processes import Child
from tests.helpers.training_runs import flags, records, run, steps
from vaswani_tx import VaswaniForConditionalGeneration, VaswaniTokenizer
from vaswani_tx.training import train_translation
from vaswani_tx.training.engine.loop import TrainingLoop

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


# Resume


def test_resume_is_exact(reversal, tmp_path):
    """Seven updates at once, and in three pieces that end off the rasters of logging and validation."""
    validation = {"validation_source": "v.src", "validation_target": "v.tgt", "final_beam": 1}
    options = {"eval_every": 2, "log_every": 3, "save_every": 3, "keep_last": 9} | validation
    whole = run(reversal, tmp_path / "whole", max_steps=7, **options)
    pieces = tmp_path / "pieces"
    for limit in (2, 5, 7):
        run(reversal, pieces, max_steps=limit, **options)
    last = "checkpoints/step-00000007/"
    for name in ("model.safetensors", "training_state/optimizer.safetensors", "training_state/rng.json"):
        assert (whole / last / name).read_bytes() == (pieces / last / name).read_bytes(), name
    states = [json.loads((folder / last / "training_state/state.json").read_text()) for folder in (whole, pieces)]
    for state in states:
        state.pop("seconds")
        state["window"].pop("fresh_tokens")
    assert states[0] == states[1]
    averaged = ("averaged",)  # the pieces have more checkpoints to average
    assert [r for r in records(whole) if r["event"] not in averaged] == [
        r for r in records(pieces) if r["event"] not in averaged
    ]
    assert [record["step"] for record in records(whole, "train")] == [3, 6, 7]


def test_going_back_to_an_older_checkpoint(reversal, tmp_path):
    output = run(reversal, tmp_path / "run", max_steps=4, save_every=2, keep_last=9)
    first = (output / "checkpoints/step-00000004/model.safetensors").read_bytes()
    again = run(
        reversal, output, max_steps=4, save_every=2, keep_last=9, resume=output / "checkpoints" / "step-00000002"
    )
    assert (again / "checkpoints/step-00000004/model.safetensors").read_bytes() == first
    assert [record["step"] for record in records(output, "train")] == [2, 4]


def test_a_killed_run_loses_only_what_came_after_its_last_checkpoint(reversal, tmp_path):
    whole = run(reversal, tmp_path / "whole", max_steps=4, save_every=2)
    output = run(reversal, tmp_path / "run", max_steps=2, save_every=2)
    # As a kill in the middle of the next checkpoint leaves it: half a folder, half a line, no mark of an end.
    (output / "checkpoints" / ".tmp-step-00000003").mkdir()
    (output / "checkpoints" / ".tmp-step-00000003" / "model.safetensors").write_bytes(b"half")
    (output / "finished.json").unlink()
    with (output / "metrics.jsonl").open("a") as file:
        file.write('{"event": "train", "step": 4, "lo')
    run(reversal, output, max_steps=4, save_every=2)
    last = "checkpoints/step-00000004/model.safetensors"
    assert (output / last).read_bytes() == (whole / last).read_bytes()
    assert records(output, "train") == records(whole, "train")
    assert sorted(path.name for path in (output / "checkpoints").iterdir()) == ["step-00000002", "step-00000004"]


def test_other_data_do_not_resume(reversal, tmp_path, capsys):
    output = run(reversal, tmp_path / "run", max_steps=2)
    for side in ("src", "tgt"):
        (tmp_path / f"a.{side}").write_text("ba be bi\n" * 20)
    run(reversal, output, expect=2, max_steps=4, data_dir=tmp_path)
    assert "other data or another tokenizer" in capsys.readouterr().err


# Limits and ends


def test_a_run_ends_with_loadable_best_and_averaged_models(reversal, tmp_path, capsys):
    options = {"validation_source": "v.src", "validation_target": "v.tgt", "eval_every": 2, "eval_sentences": 1}
    options |= {"save_every": 2, "keep_last": 3, "average_last": 2, "final_beam": 2}
    output = run(reversal, tmp_path / "run", max_steps=6, **options)
    assert steps(output) == [2, 4, 6]
    chosen = [load_file(output / f"checkpoints/step-0000000{step}/model.safetensors") for step in (4, 6)]
    averaged = VaswaniForConditionalGeneration.from_pretrained(output / "averaged").state_dict()
    for name in chosen[0]:
        torch.testing.assert_close(averaged[name], (chosen[0][name] + chosen[1][name]) / 2, rtol=0, atol=1e-7)
    VaswaniForConditionalGeneration.from_pretrained(output / "best")
    VaswaniTokenizer.from_pretrained(output / "best")
    best = [record["step"] for record in records(output, "validation") if record["best"]][-1]
    assert json.loads((output / "best" / "validation.json").read_text())["step"] == best
    scores = records(output, "averaged")[0]
    assert scores["beam"] == 2
    assert {"loss", "perplexity", "bleu", "chrf", "bleu_signature", "chrf_signature"} <= scores.keys()
    error = capsys.readouterr().err
    assert "averaged: validation loss" in error
    assert "finished at step 6 (max_steps)" in error


def test_a_time_budget_counts_over_resumes(reversal, tmp_path):
    output = run(reversal, tmp_path / "run", max_steps="null", max_minutes=1e-6)
    assert steps(output) == [1]
    assert json.loads((output / "finished.json").read_text())["reason"] == "max_minutes"
    seconds = json.loads((output / "checkpoints/step-00000001/training_state/state.json").read_text())["seconds"]
    assert seconds > 0
    run(reversal, output, max_steps="null", max_minutes=(seconds + 0.01) / 60)
    assert 1 < steps(output)[-1] < 100


def test_fine_tuning_starts_from_a_model(reversal, tmp_path):
    first = run(reversal, tmp_path / "first", max_steps=2)
    start = first / "checkpoints" / "step-00000002"
    second = run(reversal, tmp_path / "second", max_steps=1, init_from=start, lr_factor=1e-30)
    one, two = (load_file(path / "model.safetensors") for path in (start, second / "checkpoints/step-00000001"))
    assert all(torch.equal(one[name], two[name]) for name in one)


def test_a_tokenizer_is_trained_where_there_is_none(reversal, tmp_path):
    output = run(reversal, tmp_path / "run", max_steps=1, tokenizer="null", tokenizer_vocab_size=280)
    assert len(VaswaniTokenizer.from_pretrained(output / "tokenizer")) <= 280


def test_bfloat16_checkpointing_and_clipping_train(reversal, tmp_path):
    output = run(reversal, tmp_path / "run", precision="bf16", gradient_checkpointing=True, max_grad_norm=0.5)
    losses = [record["loss"] for record in records(output, "train")]
    assert losses[-1] < losses[0]
    weights = load_file(output / "checkpoints/step-00000006/model.safetensors")
    assert weights["model.shared.weight"].dtype == torch.float32


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_saves_and_reports_it(reversal, tmp_path, monkeypatch, capsys, signum):
    output = tmp_path / "run"
    update = TrainingLoop._update

    def interrupted_update(self, *window):
        update(self, *window)
        if self.state.step == 3:
            os.kill(os.getpid(), signum)

    monkeypatch.setattr(TrainingLoop, "_update", interrupted_update)
    run(reversal, output, expect=128 + signum)
    monkeypatch.undo()
    error = capsys.readouterr().err
    assert f"stopped by {signal.Signals(signum).name}; saved as {output}/checkpoints/step-00000003" in error
    run(reversal, output)
    whole = run(reversal, tmp_path / "whole")
    last = "checkpoints/step-00000006/model.safetensors"
    assert (output / last).read_bytes() == (whole / last).read_bytes()
    assert records(output, "train") == records(whole, "train")


def test_sigterm_ends_the_process_with_its_status(reversal, tmp_path):
    words = flags(reversal, tmp_path / "run", max_steps=1_000_000, log_every=5)
    process = Child(lambda: train_translation.main(words))
    try:
        metrics = tmp_path / "run" / "metrics.jsonl"
        deadline = time.monotonic() + 120
        while not (metrics.exists() and metrics.stat().st_size) and time.monotonic() < deadline:
            assert process.poll() is None, process.errors
            time.sleep(0.05)
        process.send_signal(signal.SIGTERM)
        process.wait(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 128 + signal.SIGTERM
    assert "stopped by SIGTERM; saved as" in process.errors
    assert len(steps(tmp_path / "run")) == 1


# Refusals and errors


def test_a_finished_or_different_run_is_not_touched(reversal, tmp_path, capsys):
    output = run(reversal, tmp_path / "run", max_steps=2)
    before = (output / "metrics.jsonl").read_bytes()
    for message, changes in (
        ("is finished (step 2, max_steps 2): raise max_steps", {}),
        ("holds a different run: seed was 1 and is now 2", {"seed": 2, "max_steps": 9}),
        ("--resume auto continues it", {"resume": "never"}),
        ("no such checkpoint", {"resume": "elsewhere"}),
    ):
        run(reversal, output, expect=2, **({"max_steps": 2} | changes))
        assert message in capsys.readouterr().err
    assert (output / "metrics.jsonl").read_bytes() == before
    (output / "notes.txt").write_text("mine")
    run(reversal, output, max_steps=1, seed=2, overwrite="true")
    assert steps(output) == [1]
    assert (output / "notes.txt").read_text() == "mine"


@pytest.mark.parametrize(
    ("message", "changes"),
    [
        ("There is no tokenizer.json in 'nowhere'", {"tokenizer": "nowhere"}),
        ("model.vocab_size is 50 but the tokenizer has", {"model.vocab_size": 50}),
        ("there is no such file", {"train_source": "b.src"}),
        ("fp16 needs a GPU", {"precision": "fp16"}),
        ("The run has no end", {"max_steps": "null"}),
        ("There is no checkpoint folder 'nowhere'", {"init_from": "nowhere"}),
    ],
)
def test_what_cannot_work_is_reported_before_anything_is_written(reversal, tmp_path, capsys, message, changes):
    run(reversal, tmp_path / "run", expect=2, **changes)
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_truncated_checkpoint_is_named_with_the_fix(reversal, tmp_path, capsys):
    output = run(reversal, tmp_path / "run", max_steps=4, save_every=2)
    weights = output / "checkpoints/step-00000004/model.safetensors"
    weights.write_bytes(weights.read_bytes()[:1000])
    run(reversal, output, expect=2, max_steps=6)
    error = capsys.readouterr().err
    assert "model.safetensors' is damaged" in error
    assert "to resume from 'step-00000002'" in error


# Several processes


@pytest.mark.distributed
@pytest.mark.fresh
def test_two_processes_train_like_one(reversal, tmp_path):
    """Two gloo processes x 1 batch against one process x 2, odd last window included; saved and resumed on the way."""
    options = {"max_steps": 8, "model.dropout": 0, "save_every": 4, "max_source_tokens": 55, "max_target_tokens": 55}
    alone = run(reversal, tmp_path / "alone", accumulation_steps=2, **options)
    words = flags(reversal, tmp_path / "both", **options)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", "--no_python"]
    environment = os.environ | {"OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"}
    command += [sys.executable, "-m", "vaswani_tx.training.train_translation", *words]
    pipes = {"stderr": subprocess.PIPE, "text": True}
    process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=True, **pipes)
    try:
        _, error = process.communicate(timeout=280)
    except subprocess.TimeoutExpired:
        # The launcher alone would leave its workers behind.
        os.killpg(process.pid, signal.SIGKILL)
        raise
    assert process.returncode == 0, error[-3000:]
    last = "checkpoints/step-00000008/model.safetensors"
    one, two = load_file(alone / last), load_file(tmp_path / "both" / last)
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=0, atol=1e-6, msg=name)
    losses = [[record["loss"] for record in records(folder, "train")] for folder in (alone, tmp_path / "both")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)
    # Seven batches an epoch: in every fourth update the second process has none.
    assert [record["epoch"] for record in records(alone, "train")] == [0, 1, 1, 2]


LINEAR = {"schedule": "linear", "learning_rate": 0.01, "warmup_steps": 2, "log_every": 1, "save_every": 2}


def rates(folder):
    return [record["learning_rate"] for record in records(folder, "train")]


def test_more_updates_do_not_move_the_schedule_of_a_run(reversal, tmp_path, capsys):
    whole = run(reversal, tmp_path / "whole", max_steps=8, **LINEAR)
    parts = run(reversal, tmp_path / "parts", max_steps=8, max_epochs=1, **LINEAR)
    assert len(rates(parts)) < 8
    capsys.readouterr()
    run(reversal, parts, max_steps=12, **LINEAR)
    assert rates(parts) == [*rates(whole), 0.0, 0.0, 0.0, 0.0]
    said = capsys.readouterr().err
    assert "schedule of this run ends at update 8 (decay_steps): from there to 12, the learning rate is 0" in said
    assert yaml.safe_load((parts / "recipe.yaml").read_text())["decay_steps"] == 8
    run(reversal, parts, expect=2, max_steps=12, decay_steps=12, **LINEAR)
    assert "decay_steps was 8 and is now 12" in capsys.readouterr().err


def test_updates_beyond_the_decay_are_announced(reversal, tmp_path, capsys):
    run(reversal, tmp_path / "run", max_steps=6, decay_steps=3, **LINEAR | {"schedule": "cosine"})
    assert "ends at update 3 (decay_steps): from there to 6, the learning rate is 0" in capsys.readouterr().err
