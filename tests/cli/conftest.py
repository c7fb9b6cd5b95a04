"""Fixtures of the tests of the command line: a saved model, and the same one loaded."""

from tests.helpers.cli_runs import folder, loaded

__all__ = ["folder", "loaded"]
