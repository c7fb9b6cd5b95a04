"""Children forked from the process of the tests: signals, exit status and ranks of their own, without the imports.

A new interpreter spends 5 to 9 CPU seconds on importing torch, transformers and accelerate; a fork has them. Whether
`python -m` and the installed commands start at all is shown by the tests that do start one.
"""

import contextlib
import logging
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections.abc import Callable
from unittest import mock

import torch
import tqdm
from accelerate.commands.launch import launch_command, launch_command_parser
from accelerate.state import AcceleratorState, GradientState, PartialState

from tests.helpers import ROOT

CONFIGURATIONS = ROOT / "training" / "accelerate_configs"


class Child:
    """A forked process that runs a function, with the methods of Popen that tests use.

    The function's value is the exit status, None being 0; an exception ends it with 1 and its traceback. Its output and
    errors go to files, so that nothing fills up.

    Args:
        work: what the child does.
        environment: variables that it has beside those of this process.
        folder: where it works; here if None.
    """

    def __init__(self, work: Callable[[], int | None], environment: dict[str, str] | None = None, folder=None):
        self._streams = tempfile.TemporaryFile(), tempfile.TemporaryFile()  # noqa: SIM115
        self.returncode: int | None = None
        sys.stdout.flush()
        sys.stderr.flush()
        with warnings.catch_warnings():
            # Python warns of forks beside other threads: those of xdist and tqdm, whose locks the child does not take.
            warnings.simplefilter("ignore", DeprecationWarning)
            self.pid = os.fork()
        if self.pid == 0:
            status = 1
            try:
                become_own_process(*self._streams, environment or {}, folder)
                status = run_to_its_status(work)
            finally:
                with contextlib.suppress(OSError):
                    sys.stdout.flush()
                    sys.stderr.flush()
                os._exit(status)

    def poll(self) -> int | None:
        """Return the exit status, negative for a signal, or None while the child runs."""
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float = 300) -> int:
        """Return the exit status; kill the child and raise TimeoutExpired where it takes longer."""
        end = time.monotonic() + timeout
        pause = 0.002
        while self.poll() is None:
            if time.monotonic() > end:
                self.kill()
                raise subprocess.TimeoutExpired("a forked child", timeout, self.output, self.errors)
            time.sleep(pause)
            pause = min(0.05, pause * 1.5)
        return self.returncode

    def send_signal(self, signum: int) -> None:
        """Send a signal if the child still runs."""
        if self.poll() is None:
            os.kill(self.pid, signum)

    def kill(self) -> None:
        """Kill the child if it still runs."""
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])

    @property
    def output(self) -> str:
        """What the child and its own children have written to standard output."""
        return self._read(0)

    @property
    def errors(self) -> str:
        """What they have written to standard error."""
        return self._read(1)

    def _read(self, index: int) -> str:
        # Not `seek`: the position is the child's too.
        stream = self._streams[index]
        return os.pread(stream.fileno(), os.fstat(stream.fileno()).st_size, 0).decode()


def run_child(work: Callable[[], int | None], timeout: float = 300, **settings) -> Child:
    """Run a function in a child to its end."""
    child = Child(work, **settings)
    child.wait(timeout)
    return child


def become_own_process(output, errors, environment: dict[str, str], folder) -> None:
    """Give a fork the state of a new process: streams, signals, environment, and nothing of what was tested before."""
    for number, stream in enumerate((output, errors), start=1):
        os.dup2(stream.fileno(), number)
    with open(os.devnull, "rb") as nothing:
        os.dup2(nothing.fileno(), 0)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", 1, encoding="utf-8", closefd=False)  # noqa: SIM115
    for logger in (logging.root, *map(logging.getLogger, logging.root.manager.loggerDict)):
        for handler in logger.handlers:
            if type(handler) is logging.StreamHandler:
                handler.stream = sys.stderr
    default_signals()
    warnings.resetwarnings()
    for category in (DeprecationWarning, PendingDeprecationWarning, ImportWarning, ResourceWarning):
        warnings.simplefilter("ignore", category)
    torch.set_num_threads(1)
    tqdm.tqdm.set_lock(threading.RLock())
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    PartialState._reset_state()
    os.environ |= environment
    if folder is not None:
        os.chdir(folder)


def default_signals() -> None:
    """Let signals do what they do in a new Python process."""
    for signum in (signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGALRM, signal.SIGCHLD):
        signal.signal(signum, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)


def run_to_its_status(work: Callable[[], int | None]) -> int:
    """Return the status of a function as that of a program."""
    try:
        return work() or 0
    except SystemExit as ended:
        if isinstance(ended.code, str):
            print(ended.code, file=sys.stderr)
            return 1
        return ended.code or 0
    except BaseException:
        traceback.print_exc()
        return 1


def launch(configuration: str, work: Callable[[], int | None], **settings) -> Child:
    """Start `accelerate launch` with a configuration of the project, whose workers are forks that run a function."""

    def worker():
        default_signals()
        sys.exit(run_to_its_status(work))

    def launcher():
        from torch.distributed import run

        read = run.config_from_args

        def with_forks(args):
            config, _, _ = read(args)
            config.start_method = "fork"
            return config, worker, ()

        # The script is never run; accelerate wants one.
        words = ["--config_file", str(CONFIGURATIONS / configuration), "--main_process_port", "0", "work.py"]
        with mock.patch.object(run, "config_from_args", with_forks):
            launch_command(launch_command_parser().parse_args(words))

    settings["environment"] = {"OMP_NUM_THREADS": "1"} | settings.get("environment", {})
    return Child(launcher, **settings)


def run_launched(configuration: str, work: Callable[[], int | None], timeout: float = 300, **settings) -> Child:
    """Run a function in the processes of a configuration to its end."""
    child = launch(configuration, work, **settings)
    child.wait(timeout)
    return child
