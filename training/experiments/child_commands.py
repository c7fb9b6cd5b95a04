"""Commands that run one after another in processes of their own, and signals that reach them."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path
from typing import Any

import psutil

import vaswani_tx

TRAIN = "vaswani_tx.training.train_translation"
LAUNCHER = "accelerate.commands.launch"
# Where a child process finds this package, too.
ROOT = Path(vaswani_tx.__file__).parent.parent


class Commands:
    """Run one command at a time, and pass SIGTERM and SIGINT to it once, so that a training run saves first.

    A command gets a session of its own: Ctrl-C on the terminal would else reach it twice, which ends it at once.
    """

    SIGNALS = {signal.SIGINT: signal.SIGINT, signal.SIGTERM: signal.SIGTERM, signal.SIGHUP: signal.SIGTERM}

    def __init__(self):
        self.signum = 0
        self.process: subprocess.Popen | None = None
        self._passed_on = False
        self._former: dict[int, Any] = {}

    def __enter__(self):
        for signum in self.SIGNALS:
            # Under nohup a closed terminal is to be ignored.
            if signal.getsignal(signum) != signal.SIG_IGN:
                self._former[signum] = signal.signal(signum, self._handle)
        return self

    def __exit__(self, *_):
        for signum, former in self._former.items():
            signal.signal(signum, former)

    def run(self, words: list[str]) -> int:
        """Return the exit status of a command, or 128 plus the number of the signal that ended it or came before it."""
        if self.signum:
            return 128 + self.signum
        path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
        self._passed_on = False
        self.process = subprocess.Popen(words, env=os.environ | {"PYTHONPATH": path}, start_new_session=True)
        if self.signum and not self._passed_on:
            self._pass_on()
        status = self.process.wait()
        self.process = None
        return status if status >= 0 else 128 - status

    def _handle(self, signum, frame):
        self.signum = signum
        if self.process is not None:
            self._pass_on()

    def _pass_on(self) -> None:
        self._passed_on = True
        # accelerate's launcher would leave its processes behind or kill them after 30 seconds: they get the signal.
        pids = _trainers(self.process.pid) if LAUNCHER in self.process.args else []
        for pid in pids or [self.process.pid]:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, self.SIGNALS[self.signum])


def _trainers(launcher: int) -> list[int]:
    """Return the ids of the training processes that accelerate's launcher has started by now."""
    try:
        return [child.pid for child in psutil.Process(launcher).children() if TRAIN in child.cmdline()]
    except psutil.Error:
        return []
