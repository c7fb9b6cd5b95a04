"""Ten updates of every task give the losses kept in git, which `python -m tests.helpers.golden_losses` renews."""

import pytest

from tests.helpers import golden_losses
from tests.helpers.golden_losses import RUNS, differences, measure

pytestmark = pytest.mark.usefixtures("fresh_accelerate")


def test_every_run_is_kept():
    assert list(golden_losses.read()) == list(RUNS)


@pytest.mark.parametrize("name", RUNS)
def test_ten_updates_give_the_golden_losses(name, tmp_path):
    assert differences(measure(name, tmp_path), golden_losses.read()[name]) == []
