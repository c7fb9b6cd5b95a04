"""The paper's learning rates to the last digit, and the usual other schedules."""

import math

import pytest
import torch

from tests.helpers import GOLDEN_PAPER
from vaswani_tx.training.config.schedules import NoamSchedule, PeakSchedule, make_schedule
from vaswani_tx.training.engine.optimizer import PaperAdam, set_learning_rate

GOLDEN = GOLDEN_PAPER["noam_lr"]


@pytest.mark.parametrize("name", [name for name in GOLDEN if name.startswith("d")])
def test_paper_schedule_has_the_golden_values(name):
    d_model, warmup = (int(part[1:]) for part in name.split("_")[:2])
    schedule = NoamSchedule(d_model, warmup)
    for step, value in GOLDEN[name]:
        assert schedule(step) == pytest.approx(value, rel=1e-14), f"{name}, step {step}"


def test_paper_schedule_peaks_at_the_end_of_warmup_and_takes_a_factor():
    schedule = NoamSchedule(512, 4000)
    assert schedule(4000) > schedule(3999)
    assert schedule(4000) > schedule(4001)
    assert NoamSchedule(512, 4000, factor=2.0)(7) == 2 * schedule(7)


def test_the_first_update_is_step_one():
    with pytest.raises(ValueError, match="step 1"):
        NoamSchedule(512, 4000)(0)
    with pytest.raises(ValueError, match="step 1"):
        PeakSchedule("constant", 0.1)(0)


def test_other_schedules():
    inverse = PeakSchedule("inverse_sqrt", 0.005, warmup=2000)
    assert inverse(1000) == 0.0025
    assert inverse(2000) == 0.005
    assert inverse(8000) == pytest.approx(0.0025)
    linear = PeakSchedule("linear", 1.0, warmup=10, total=110)
    assert [linear(5), linear(10), linear(60), linear(110), linear(200)] == [0.5, 1.0, 0.5, 0.0, 0.0]
    cosine = PeakSchedule("cosine", 1.0, warmup=0, total=100)
    assert cosine(50) == pytest.approx(0.5)
    assert cosine(25) == pytest.approx(0.5 * (1 + math.cos(math.pi / 4)))
    assert PeakSchedule("constant", 0.3, warmup=3)(99) == 0.3


def test_bad_schedules_name_the_key():
    with pytest.raises(ValueError, match="warmup_steps"):
        make_schedule("noam", 512, 0)
    with pytest.raises(ValueError, match="learning_rate"):
        make_schedule("cosine", 512, 10)
    with pytest.raises(ValueError, match="decay_steps"):
        make_schedule("linear", 512, 10, learning_rate=0.1)
    with pytest.raises(ValueError, match="Unknown schedule"):
        PeakSchedule("cosin", 0.1)


def test_paper_adam_has_the_papers_settings_and_decays_matrices_only():
    module = torch.nn.Linear(3, 2)
    optimizer = PaperAdam().build(module.parameters())
    assert type(optimizer) is torch.optim.Adam
    assert optimizer.defaults["betas"] == (0.9, 0.98)
    assert optimizer.defaults["eps"] == 1e-9
    assert optimizer.defaults["weight_decay"] == 0
    decaying = PaperAdam(weight_decay=0.1).build(module.parameters())
    assert type(decaying) is torch.optim.AdamW
    assert [(group["weight_decay"], group["params"][0].dim()) for group in decaying.param_groups] == [(0.1, 2), (0, 1)]
    set_learning_rate(decaying, 0.25)
    assert [group["lr"] for group in decaying.param_groups] == [0.25, 0.25]
