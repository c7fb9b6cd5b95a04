"""What every test runs under: no network, one CPU thread, and deprecations of transformers as failures."""

import logging
import os
import shutil
import signal
import tempfile
from pathlib import Path

# Read by the libraries when they are imported, so set before anything imports them.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("HF_DATASETS_OFFLINE", "1")
os.environ.setdefault("HF_EVALUATE_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("ACCELERATE_USE_CPU", "true")
os.environ.setdefault("OMP_NUM_THREADS", "1")
# Tokenised data of the tests' corpora must not stay in the cache of whoever runs them.
os.environ["VASWANI_TX_CACHE"] = tempfile.mkdtemp(prefix="token-cache-")

import pytest
import torch

# The helpers hold assertions too. They are no plugins, so pytest has to be told before the first of them is imported.
pytest.register_assert_rewrite("tests.helpers")

# Files whose tests mostly start processes, train or search for long; `make test-fast` leaves them out.
SLOW_FILES = {
    "cli/test_commands.py", "cli/test_resume_of_translate.py", "cli/test_translate_command.py", "hub/test_saving.py",
    "library/test_causal_generation.py", "library/test_constraints.py", "library/test_ecosystem.py",
    "library/test_generation_paper.py", "library/test_trainer.py", "training/baselines/test_marian.py",
    "training/config/test_recipes.py", "training/engine/test_averaging.py", "training/engine/test_distributed.py",
    "training/engine/test_kill.py", "training/engine/test_trackers.py",
    "training/experiments/test_compare_architectures.py", "training/experiments/test_scaling.py",
    "training/experiments/test_sweep.py", "training/models/test_lstm.py", "training/parsing/test_parsing.py",
    "library/test_modeling_vision.py", "training/parsing/test_parsing_task.py", "training/reporting/test_report.py",
    "training/experiments/test_english_german_grammar.py",
    "training/test_demo.py", "training/test_evaluate_language_model.py", "training/test_evaluate_translation.py",
    "training/test_golden_losses.py", "training/test_train_classifier.py", "training/test_train_image_classifier.py",
    "training/test_train_language.py", "training/test_train_translation.py",
}  # fmt: skip

# Files that compare conversions and exports with other software, which `make test-rest` runs; the few named stay in
# `make test`, one for each way in and out.
PEER_FILES = {
    "convert/test_foreign_tokenizers.py", "convert/test_hugging_face.py", "convert/test_mapped.py",
    "convert/test_marian_npz.py", "convert/test_sentencepiece.py", "convert/test_tensor_bundle.py",
    "convert/test_toolkits.py", "export/test_ctranslate2.py", "export/test_folders.py", "export/test_marian.py",
}  # fmt: skip
FEW_OF_PEERS = (
    "test_marian_logits_and_tokens_are_equal[shared]", "test_nn_transformer[defaults]",
    "test_tokenizer_of_marian_gives_its_ids_and_texts[False-unigram]", "test_pipelines",
    "test_fairseq_gives_its_logits_and_tokens[learned]", "test_translations_of_every_configuration_are_equal[fields0]",
)  # fmt: skip

# More threads than idle cores make tiny models many times slower: they wait for each other at every operation.
torch.set_num_threads(1)


def pytest_collection_modifyitems(config, items):
    """Mark the tests of the files that are named above."""
    folder = Path(__file__).parent
    for item in items:
        file = item.path.relative_to(folder).as_posix() if item.path.is_relative_to(folder) else ""
        if file in SLOW_FILES:
            item.add_marker(pytest.mark.slow)
        if file in PEER_FILES and item.name not in FEW_OF_PEERS:
            item.add_marker(pytest.mark.peers)


@pytest.fixture(autouse=True)
def graphs_are_forgotten(request):
    """Let no test that compiles meet the graphs of others: of one piece of code torch keeps only so many."""
    yield
    if request.node.get_closest_marker("fresh"):
        torch._dynamo.reset()


@pytest.fixture(scope="session", autouse=True)
def token_cache_is_removed():
    """Leave nothing behind."""
    yield
    shutil.rmtree(os.environ["VASWANI_TX_CACHE"], ignore_errors=True)


@pytest.fixture
def default_signal_handlers():
    """What starts the tests in the background may have them ignore SIGINT or SIGHUP, which their children inherit."""
    former = {
        signal.SIGHUP: signal.signal(signal.SIGHUP, signal.SIG_DFL),
        signal.SIGINT: signal.signal(signal.SIGINT, signal.default_int_handler),
    }
    yield
    for signum, handler in former.items():
        signal.signal(signum, handler)


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
