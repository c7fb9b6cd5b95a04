"""Fixtures of the tests of training: tiny corpora, and an accelerate that forgets the test before."""

from tests.helpers.language_runs import language
from tests.helpers.training_runs import fresh_accelerate, reversal
from tests.helpers.translators import folder

__all__ = ["folder", "fresh_accelerate", "language", "reversal"]
