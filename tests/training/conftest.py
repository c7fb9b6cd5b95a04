"""Fixtures of the tests of training: tiny corpora, and an accelerate that forgets the test before."""

from tests.helpers.language_runs import language
from tests.helpers.training_runs import fresh_accelerate, reversal

__all__ = ["fresh_accelerate", "language", "reversal"]
