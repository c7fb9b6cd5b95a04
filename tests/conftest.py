"""What every test runs under: no network, one CPU thread, and deprecations of transformers as failures."""

import logging
import os

# Read by the libraries when they are imported, so set before anything imports them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_EVALUATE_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("ACCELERATE_USE_CPU", "true")

import pytest
import torch

# More threads than idle cores make tiny models many times slower: they wait for each other at every operation.
torch.set_num_threads(1)


class _Deprecations(logging.Handler):
    """Keeps what transformers logs about deprecations: most of them never become a Python warning."""

    def __init__(self):
        super().__init__(logging.WARNING)
        self.messages = []

    def emit(self, record):
        message = record.getMessage()
        if "deprecated" in message.lower():
            self.messages.append(message)


@pytest.fixture(autouse=True)
def no_deprecated_use_of_transformers():
    """Fail a test in which transformers logs that something is deprecated."""
    handler = _Deprecations()
    logger = logging.getLogger("transformers")
    logger.addHandler(handler)
    yield
    logger.removeHandler(handler)
    assert not handler.messages, f"transformers logged a deprecation: {handler.messages}"
