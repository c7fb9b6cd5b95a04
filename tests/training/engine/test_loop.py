"""The training loop: equal updates however they are divided, the best model, clean stops."""

import json
import os
import signal
import time

import numpy as np
import pytest
import torch

from tests.helpers.training_runs import make_loop, records, steps
from vaswani_tx import VaswaniForConditionalGeneration
from vaswani_tx.training.config.schedules import NoamSchedule
from vaswani_tx.training.data.batching import collate_pairs
from vaswani_tx.training.engine import loop as loop_module
from vaswani_tx.training.engine.progress import MetricsLog
from vaswani_tx.training.engine.task import Validation
from vaswani_tx.training.errors import CheckpointError, TrainingError

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


# Updates


def test_one_batch_and_four_of_different_sizes_make_the_same_update(reversal, tmp_path):
    whole = list(range(40))
    parts = [whole[:3], whole[3:20], whole[20:21], whole[21:]]
    one = make_loop(reversal, tmp_path / "one", [whole])
    one.run()
    four = make_loop(reversal, tmp_path / "four", parts, accumulation_steps=4)
    four.run()
    start = make_loop(reversal, tmp_path / "start", [whole]).model.state_dict()
    for name, tensor in one.model.state_dict().items():
        assert not torch.equal(tensor, start[name]), name
        torch.testing.assert_close(four.model.state_dict()[name], tensor, rtol=0, atol=1e-6, msg=name)
    losses = [[record["loss"] for record in records(tmp_path / name, "train")] for name in ("one", "four")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-6)


def test_the_logged_loss_is_the_mean_over_target_tokens(reversal, tmp_path):
    loop = make_loop(reversal, tmp_path, [range(10)], max_steps=1)
    batch = loop.task.collate(np.arange(10))
    with torch.no_grad():
        expected = loop.model(**batch, label_smoothing=0.1).loss.item()
        cells = batch["labels"].numel() + batch["input_ids"].numel()
    loop.run()
    record = records(tmp_path)[0]
    real = int(loop.task.data.pairs.target_lengths[:10].sum() + loop.task.data.pairs.source_lengths[:10].sum())
    assert record["loss"] == pytest.approx(expected, rel=1e-6)
    assert record["target_tokens"] == int((batch["labels"] != -100).sum())
    assert record["padding"] == pytest.approx(1 - real / cells)
    assert record["learning_rate"] == NoamSchedule(16, 20)(1)


def test_a_short_last_window_is_an_update_of_its_own(reversal, tmp_path):
    loop = make_loop(reversal, tmp_path, [range(5), range(5, 9), range(9, 30)], accumulation_steps=2, max_epochs=2)
    loop.settings.max_steps = None
    assert loop.run() == "max_epochs"
    assert (loop.state.step, loop.state.epoch, loop.state.batches_done) == (4, 2, 0)
    assert loop.state.target_tokens == 2 * int(loop.task.data.pairs.target_lengths[:30].sum())


def test_a_run_resumes_with_windows_of_another_size(reversal, tmp_path):
    loop = make_loop(reversal, tmp_path, [range(i, i + 4) for i in range(0, 28, 4)], accumulation_steps=2, max_epochs=2)
    loop.settings.max_steps = None
    loop.state.batches_done = 3
    loop.run()
    # Of the first epoch's 7 batches, the 3 that are left after the window that was cut: two windows; then four.
    assert (loop.state.step, loop.state.epoch, loop.state.batches_done) == (6, 2, 0)


def test_metrics_after_the_checkpoint_are_dropped_and_a_torn_line_too(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    for step in range(4):
        log.write({"step": step})
    with log.path.open("a") as file:
        file.write('{"step": 4')
    resumed = MetricsLog(log.path, keep=3)
    resumed.write({"step": 3})
    assert [json.loads(line)["step"] for line in log.path.read_text().splitlines()] == [0, 1, 2, 3]
    assert resumed.count == 4


def test_the_best_model_is_kept_and_patience_ends_the_run(reversal, tmp_path):
    loop = make_loop(reversal, tmp_path, [range(5)], max_steps=50, eval_every=1, patience=2, best_by="chrf")
    quality = iter([(3.0, 5.0), (9.0, 4.0), (9.0, 3.0), (8.0, 1.0), (9.0, 3.5)])

    def validate(model, final, distributed):
        chrf, loss = next(quality)
        return Validation({"loss": loss, "perplexity": 1.0, "bleu": 0.0, "chrf": chrf, "bleu_signature": "", "beam": 1,
                           "sentences": 1})  # fmt: skip

    loop.task.validation, loop.task.validate = ([], []), validate
    assert loop.run() == "patience"
    assert [record["best"] for record in records(tmp_path, "validation")] == [True, True, True, False, False]
    assert json.loads((tmp_path / "best" / "validation.json").read_text())["step"] == 3
    assert loop.state.step == 5


# Data in buffers


class Buffers:
    """Three buffers of the data, the second one empty, over and over; it is itself the examples of the current one."""

    def __init__(self, pairs, size=8):
        self.all, self.size, self.loaded, self.first = pairs, size, [], 0

    def epoch(self, number):
        self.loaded.append(number)
        self.first = number % 3 * self.size
        return [] if number % 3 == 1 else [np.arange(3), np.arange(3, self.size)]

    def passes(self, epoch):
        return epoch // 3

    @property
    def examples(self):
        return self

    def __len__(self):
        return len(self.source_lengths)

    @property
    def source_lengths(self):
        return self.all.source_lengths[self.first : self.first + self.size]

    @property
    def target_lengths(self):
        return self.all.target_lengths[self.first : self.first + self.size]

    def locate(self, index):
        return self.all.locate(self.first + index)


def loop_in_buffers(data, output, spoiled=None, **changes):
    loop = make_loop(data, output, [], **changes)
    all_pairs = loop.task.data.pairs
    plan = Buffers(all_pairs)
    loop.task.plan = loop.task.data.plan = plan
    loop.task.data.all_pairs = None

    def collate(indices):
        if spoiled == (plan.first, indices[0]):
            with torch.no_grad():
                loop.bare_model.model.shared.weight[5] = float("nan")
        return collate_pairs(all_pairs, indices + plan.first, loop.task.tokenizer.pad_token_id)

    loop.task.collate = collate
    return loop


def test_buffers_of_the_data_are_one_epoch_after_another(reversal, tmp_path):
    rows = [range(3), range(3, 8), range(16, 19), range(19, 24)]
    limits = {"max_steps": None, "max_epochs": 2, "log_every": 3}
    whole = make_loop(reversal, tmp_path / "whole", rows, **limits)
    whole.run()
    buffers = loop_in_buffers(reversal, tmp_path / "buffers", **limits)
    assert buffers.run() == "max_epochs"
    # Each buffer is read once, when its turn comes: neither the bar nor the limit looks ahead.
    assert buffers.task.plan.loaded == [0, 1, 2, 3, 4, 5]
    assert buffers.state.step == 8
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(buffers.model.state_dict()[name], tensor), name
    numbers = [[{**record, "epoch": 0} for record in records(tmp_path / name)] for name in ("whole", "buffers")]
    assert numbers[0] == numbers[1]


@pytest.mark.parametrize("at_once", [True, False])
def test_lines_of_a_bad_loss_are_right_though_the_next_buffer_is_there(reversal, tmp_path, at_once):
    loop = loop_in_buffers(reversal, tmp_path, spoiled=(16, 3), max_steps=20, log_every=6)
    loop.looks_at_once = at_once
    with pytest.raises(TrainingError, match=r"became nan at step 4 .*5 training examples.*a\.src line 20, "):
        loop.run()


@pytest.mark.parametrize("step", [3, 4])
def test_a_run_resumes_in_the_middle_and_at_the_end_of_a_buffer(reversal, tmp_path, step):
    whole = loop_in_buffers(reversal, tmp_path / "whole", max_steps=6)
    whole.run()
    loop_in_buffers(reversal, tmp_path / "half", max_steps=step).run()
    point = tmp_path / "half" / "checkpoints" / f"step-{step:08d}"
    resumed = loop_in_buffers(reversal, tmp_path / "half", max_steps=6, start=point)
    assert resumed.run(point) == "max_steps"
    for name, tensor in whole.model.state_dict().items():
        assert torch.equal(resumed.model.state_dict()[name], tensor), name
    other = loop_in_buffers(reversal, tmp_path / "half", max_steps=6, start=point)
    other.task.plan.size = 9
    with pytest.raises(CheckpointError, match="other data"):
        other.run(point)


# Stops


def test_a_loss_that_is_not_finite_stops_with_step_lines_and_last_good_checkpoint(reversal, tmp_path):
    batches = [range(5), range(5, 9), range(20, 25)]
    loop = make_loop(reversal, tmp_path, batches, save_every=1)
    collate_all = loop.task.collate

    def spoiled(indices):
        if 20 in indices:
            with torch.no_grad():
                loop.bare_model.model.shared.weight[5] = float("nan")
        return collate_all(indices)

    loop.task.collate = spoiled
    with pytest.raises(TrainingError, match=r"became nan at step 3 .*a\.src line 21, .*line 25 .*step-00000002"):
        loop.run()
    assert steps(tmp_path) == [1, 2]
    report = json.loads((tmp_path / "bad_batch.json").read_text())
    assert (report["step"], len(report["lines"])) == (3, 5)


def test_weights_that_are_not_finite_are_never_saved(reversal, tmp_path):
    loop = make_loop(reversal, tmp_path, [range(5)], schedule=lambda step: 1e-3 if step < 2 else 1e39, save_every=1)
    with pytest.raises(TrainingError, match="not finite after step 2"):
        loop.run()
    assert steps(tmp_path) == [1]


def test_a_signal_during_validation_does_not_wait_for_it(reversal, tmp_path):
    loop = make_loop(reversal, tmp_path, [range(5)], eval_every=2)

    def validate(model, final, distributed):
        os.kill(os.getpid(), signal.SIGTERM)
        time.sleep(5)
        raise AssertionError("the signal was not heeded")

    loop.task.validation, loop.task.validate = ([], []), validate
    with pytest.raises(loop_module.Interrupted):
        loop.run()
    assert steps(tmp_path) == [2]


def test_a_full_disk_stops_the_run_and_keeps_what_was_there(reversal, tmp_path, monkeypatch):
    loop = make_loop(reversal, tmp_path, [range(5)], save_every=1)
    write = VaswaniForConditionalGeneration.save_pretrained

    def full(self, folder, **options):
        if loop.state.step == 3:
            raise OSError(28, "No space left on device")
        write(self, folder, **options)

    monkeypatch.setattr(VaswaniForConditionalGeneration, "save_pretrained", full)
    with pytest.raises(CheckpointError, match=r"step-00000003' could not be written: the disk is full"):
        loop.run()
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["step-00000001", "step-00000002"]
