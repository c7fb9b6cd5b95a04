"""Fixtures of the tests of the models: poisoned memory for every one, tiny corpora for those that train."""

import pytest
import torch

from tests.helpers.generation_references import one_thread
from tests.helpers.training_runs import fresh_accelerate, reversal

__all__ = ["fresh_accelerate", "one_thread", "poisoned_memory", "reversal"]


@pytest.fixture(autouse=True)
def poisoned_memory():
    """Have torch fill the memory that it allocates without a value with NaN, so that a read of it shows."""
    before = torch.are_deterministic_algorithms_enabled(), torch.utils.deterministic.fill_uninitialized_memory
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.utils.deterministic.fill_uninitialized_memory = True
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(before[0])
    torch.utils.deterministic.fill_uninitialized_memory = before[1]
