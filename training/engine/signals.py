"""Signals that ask a run to stop: the loop saves first, and ends between two updates."""

import logging
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from vaswani_tx.training.errors import Interrupted

logger = logging.getLogger(__name__)


class Interruption:
    """A context that catches SIGTERM and SIGINT and keeps the signal's number, for the loop to read after the update.

    A second signal has its default effect: it ends the process at once.
    """

    def __init__(self):
        self.signum = 0
        self._at_once = False
        self._former: dict[int, Any] = {}

    def __enter__(self):
        if threading.current_thread() is threading.main_thread():
            for signum in (signal.SIGTERM, signal.SIGINT):
                self._former[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_):
        for signum, former in self._former.items():
            signal.signal(signum, former)

    @contextmanager
    def at_once(self, allowed: bool = True) -> Iterator[None]:
        """Let a signal raise Interrupted within the block, where the work can be repeated, as a validation can."""
        if allowed and self.signum:
            raise Interrupted(self.signum)
        self._at_once = allowed
        try:
            yield
        finally:
            self._at_once = False

    def _handle(self, signum, frame):
        if self.signum:
            signal.signal(signum, signal.SIG_DFL)
            signal.raise_signal(signum)
        self.signum = signum
        if self._at_once:
            self._at_once = False
            raise Interrupted(signum)
        logger.warning("%s: saving after this update; once more to stop without saving.", signal.Signals(signum).name)
