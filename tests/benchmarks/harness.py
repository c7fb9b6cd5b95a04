"""Contenders in turn: processes that stay, one of which computes at a time; outputs are compared before times count."""

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.benchmarks.contenders import CONTENDERS, INEXACT
from tests.benchmarks.works import DecodingWork, TrainingWork, Work, as_fields

ROOT = Path(__file__).parents[2]
# Of losses and of gradients' norms, relative. Norms below a hundredth of the whole one are compared with that: the
# gradient of a key's bias is 0 but for rounding.
TOLERANCE = 1e-4
SMALL_SHARE = 0.01


class OutputsDiffer(Exception):
    """What a contender computed and the first one did not."""


class ContenderFailed(Exception):
    """The error of a contender's process."""


class Worker:
    """A contender's process.

    Args:
        name: of the contender.
        threads: of its computations.
    """

    def __init__(self, name: str, threads: int):
        self.name, self.threads = name, threads
        self._log = tempfile.TemporaryFile("w+")  # noqa: SIM115  closed with the process
        environment = {
            **os.environ, "OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1",
            "HF_DATASETS_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false", "PYTHONPATH": _with_root(),
        }  # fmt: skip
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.benchmarks.worker"],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._log, text=True, env=environment,
        )  # fmt: skip

    def send(self, command: str, **fields: Any) -> None:
        """Ask for something.

        Raises:
            ContenderFailed: the process has ended.
        """
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps({"command": command, **fields}) + "\n")
            self._process.stdin.flush()
        except BrokenPipeError:
            raise ContenderFailed(f"{self.name}: its process has ended.\n{self._tail()}") from None

    def receive(self) -> dict[str, Any]:
        """Return the answer.

        Raises:
            ContenderFailed: it is an error, or the process has ended.
        """
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            status = self._process.wait()
            raise ContenderFailed(f"{self.name}: its process ended with status {status}.\n{self._tail()}")
        answer = json.loads(line)
        if "error" in answer:
            raise ContenderFailed(f"{self.name}: {answer['error']}\n{self._tail()}")
        return answer

    def ask(self, command: str, **fields: Any) -> dict[str, Any]:
        """Ask for something and return the answer."""
        self.send(command, **fields)
        return self.receive()

    def close(self) -> None:
        """End the process."""
        for stream in (self._process.stdin, self._process.stdout):
            if stream is not None:
                with contextlib.suppress(BrokenPipeError):
                    stream.close()
        try:
            self._process.wait(timeout=10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
        self._log.close()

    def _tail(self) -> str:
        self._log.seek(0)
        return "".join(self._log.readlines()[-12:])


def _with_root() -> str:
    return os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))


class Benchmark:
    """A run: the processes of all contenders that it has had so far.

    Args:
        threads: of every contender's computations.
        addresses: module:factory of further contenders by name; they take part in every work of their kind.
        chosen: names of the contenders that take part; empty: all. The first one of a work always does.
        rounds: overrides the works' own; None: theirs.
        make_worker: makes the process of a contender, of its name and the threads.
    """

    def __init__(
        self,
        threads: int = 1,
        addresses: Mapping[str, str] | None = None,
        chosen: frozenset[str] = frozenset(),
        rounds: int | None = None,
        make_worker: Callable[[str, int], Any] = Worker,
    ):
        self.threads, self.further, self.chosen, self.rounds = threads, dict(addresses or {}), chosen, rounds
        self._make_worker, self._workers = make_worker, {}

    def __enter__(self) -> "Benchmark":
        return self

    def __exit__(self, *_: object) -> None:
        for worker in self._workers.values():
            worker.close()
        self._workers.clear()

    def run(self, work: Work) -> dict[str, Any]:
        """Compare and time the contenders of a work; return what the results keep of it.

        Raises:
            OutputsDiffer: a contender's outputs are others than those of the first.
            ContenderFailed: a contender raised an error, or its process ended.
        """
        workers, skipped = self._build(work)
        found = {name: worker.ask("compare") for name, worker in workers.items()}
        agreement = compare(work, found)
        records = {name: {**worker.ask("warm"), "wall": [], "cpu": []} for name, worker in workers.items()}
        for _ in range(self.rounds or work.rounds):
            for name, worker in workers.items():
                times = worker.ask("round")
                for clock in ("wall", "cpu"):
                    records[name][clock].append(times[clock])
        for name, record in records.items():
            kept = ("real_tokens", "fill", "tokens", "loss")
            record |= {key: found[name][key] for key in kept if key in found[name]}
            if name in agreement:
                record["agreement"] = agreement[name]
        return {"work": as_fields(work), "about": work.describe(), "contenders": records, "skipped": skipped}

    def _build(self, work: Work) -> tuple[dict[str, Worker], dict[str, str]]:
        known = {**CONTENDERS[work.kind], **self.further}
        names = [*work.contenders, *(name for name in self.further if name not in work.contenders)]
        if self.chosen:
            names = [name for name in names if name in self.chosen or name == work.contenders[0]]
        for name in names:
            if name not in self._workers:
                self._workers[name] = self._make_worker(name, self.threads)
        for name in names:
            self._workers[name].send(
                "build", work=as_fields(work), address=known[name], name=name, threads=self.threads
            )
        answers = {name: self._workers[name].receive() for name in names}
        skipped = {name: one["unavailable"] for name, one in answers.items() if "unavailable" in one}
        if names[0] in skipped:
            raise ContenderFailed(f"{names[0]}, which all are compared with: {skipped[names[0]]}")
        return {name: self._workers[name] for name in names if name not in skipped}, skipped


def compare(work: Work, found: Mapping[str, dict[str, Any]]) -> dict[str, float]:
    """Compare every contender's outputs with the first one's; return the share that agrees of those that may differ.

    Raises:
        OutputsDiffer: they are not equal; the message says whose, and in what.
    """
    (first, wanted), *others = found.items()
    agreement = {}
    for name, other in others:
        if other["batch"] != wanted["batch"]:
            raise OutputsDiffer(f"{work.name}: {name} was given other sentences than {first}.")
        if isinstance(work, TrainingWork):
            problems = compare_training(wanted, other)
        else:
            share = agreement_of(wanted["outputs"], other["outputs"])
            if name in INEXACT:
                agreement[name] = share
                _check_lengths(work, name, other["outputs"])
            problems = [] if share == 1 or name in INEXACT else [_first_difference(wanted["outputs"], other["outputs"])]
        if problems:
            raise OutputsDiffer(f"{work.name}: {name} computes something else than {first}: {'; '.join(problems)}.")
    return agreement


def compare_training(wanted: Mapping[str, Any], other: Mapping[str, Any]) -> list[str]:
    """Return in what a contender's loss, gradients and update differ from the first one's."""
    problems = []
    common = [name for name in other["gradient_norms"] if name in wanted["gradient_norms"]]
    pairs = [("loss", wanted["loss"], other["loss"])]
    norms = [{name: one["gradient_norms"][name] for name in common} for one in (wanted, other)]
    whole = [sum(value**2 for value in one.values()) ** 0.5 for one in norms]
    pairs.append(("gradient norm", *whole))
    # An update moves what another contender may not have.
    if set(common) == set(wanted["gradient_norms"]) == set(other["gradient_norms"]):
        pairs.append(("loss after an update", wanted["loss_after_update"], other["loss_after_update"]))
    elif not common:
        problems.append("it has none of the first one's weights")
    for what, one, two in pairs:
        if not abs(one - two) <= TOLERANCE * abs(one):
            problems.append(f"{what} {two:.7g} instead of {one:.7g}")
    least = SMALL_SHARE * whole[0]
    far = [n for n in common if not abs(norms[0][n] - norms[1][n]) <= TOLERANCE * max(norms[0][n], least)]
    if far and not problems:
        problems.append(f"norm of the gradient of {far[0]} {norms[1][far[0]]:.7g} instead of {norms[0][far[0]]:.7g}")
    return problems


def agreement_of(wanted: list[Any], other: list[Any]) -> float:
    """Return the share of outputs that are equal."""
    return sum(one == two for one, two in zip(wanted, other, strict=True)) / len(wanted)


def _check_lengths(work: Work, name: str, outputs: list[Any]) -> None:
    if isinstance(work, DecodingWork) and any(len(one) != work.new_tokens for one in outputs):
        raise OutputsDiffer(f"{work.name}: {name} wrote targets of other lengths than {work.new_tokens} tokens.")


def _first_difference(wanted: list[Any], other: list[Any]) -> str:
    if len(wanted) != len(other):
        return f"{len(other)} outputs instead of {len(wanted)}"
    at, one, two = next((i, a, b) for i, (a, b) in enumerate(zip(wanted, other, strict=True)) if a != b)
    place = next((i for i, (a, b) in enumerate(zip(one, two, strict=False)) if a != b), min(len(one), len(two)))
    count = sum(a != b for a, b in zip(wanted, other, strict=True))
    return (
        f"{count} of {len(wanted)} outputs differ, first in sentence {at + 1} from place {place + 1}: "
        f"{two[place : place + 8]!r} instead of {one[place : place + 8]!r}"
    )
