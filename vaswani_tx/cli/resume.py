"""Translations of a large input that survive a kill: a partial output with a small state file beside it.

`FILE.part` holds the lines that are done, `FILE.part.json` how many of its bytes are valid, the settings, and a hash of
the input so far. The same command resumes from there and ends with the same bytes as an uninterrupted one; `FILE`
appears when it is complete. The state is written after the text that it describes has reached the disk; text beyond it
is cut off.
"""

import hashlib
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, BinaryIO

from vaswani_tx.cli.common import CliError, CliFailure, check_output
from vaswani_tx.cli.lines import Block, skip

try:
    import fcntl
except ImportError:  # Windows: nothing prevents two commands from writing one file
    fcntl = None

VERSION = 1


class PartialOutput:
    """The output of one command, from its first line or from where an earlier one stopped.

    Args:
        target: the file that appears in the end.
        settings: everything besides the input that determines the output.
        restart: discard an earlier part.

    Raises:
        CliError: another command writes here, or an earlier part has other settings or is damaged.
        CliFailure: the disk is full or broken.
    """

    def __init__(self, target: Path, settings: dict[str, Any], restart: bool = False):
        check_output(target)
        self.target, self.settings = target, settings
        self.part, self.record = (target.with_name(target.name + end) for end in (".part", ".part.json"))
        self.lines = self.consumed = self.size = 0
        self._input = hashlib.sha256()
        self._input_hash = self._input.hexdigest()
        self._file: BinaryIO | None = None
        with _disk(self.part):
            self._open(restart)

    def _open(self, restart: bool) -> None:
        state = None if restart else self._read()
        if state is not None and not self.part.exists():
            state = None  # killed between the last two steps of `finish`
        elif state is None and not restart and self.part.exists() and self.part.stat().st_size:
            raise CliError(f"'{self.part}' is in the way and not from this command: move it, or give --restart.")
        # Opened without emptying it: it may belong to a command that is still running.
        self._file = self.part.open("ab")
        if fcntl is not None:
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                self._file.close()
                raise CliError(
                    f"another command is writing '{self.target}': wait for it, or choose another file."
                ) from None
        if state is not None:
            self._check(state)
            self.lines, self.consumed, self.size = state["lines"], state["consumed"], state["bytes"]
            self._input_hash = state["input"]
        self._file.truncate(self.size)
        self._save()

    def _read(self) -> dict[str, Any] | None:
        if not self.record.exists():
            return None
        try:
            state = json.loads(self.record.read_text(encoding="utf-8"))
            numbers = [state[name] for name in ("lines", "consumed", "bytes", "version")]
            if not (isinstance(state["settings"], dict) and isinstance(state["input"], str)):
                raise TypeError
            if not all(isinstance(number, int) and number >= 0 for number in numbers):
                raise TypeError
        except (ValueError, KeyError, TypeError):
            raise CliError(f"'{self.record}' is damaged: start again with --restart.") from None
        return state

    def _check(self, state: dict[str, Any]) -> None:
        was, now = {"version": state["version"], **state["settings"]}, {"version": VERSION, **self.settings}
        if changed := [name for name in sorted(was.keys() | now.keys()) if was.get(name) != now.get(name)]:
            told = ", ".join(f"{name} was {was.get(name)!r} and is {now.get(name)!r}" for name in changed[:3])
            raise CliError(
                f"'{self.part}' was made with other settings ({told}): give the same command to resume, or "
                "--restart to start again."
            )
        if self.part.stat().st_size < state["bytes"]:
            raise CliError(f"'{self.part}' is shorter than '{self.record}' says: start again with --restart.")

    def skip_done(self, stream: BinaryIO, name: str) -> None:
        """Read past the input that is done; raise CliError where it has changed."""
        skip(stream, self.consumed, self._input)
        if self._input.hexdigest() != self._input_hash:
            raise CliError(
                f"the first {self.lines} lines of {name} are no longer those that '{self.part}' was made from: restore "
                "the input to resume, or give --restart to start again."
            )

    def write(self, text: str, block: Block) -> None:
        """Add the output of the next lines and save the state: a kill loses only what comes after."""
        data = text.encode("utf-8")
        with _disk(self.part):
            self._file.write(data)
            self._file.flush()
            os.fsync(self._file.fileno())
            self.size += len(data)
            self.lines += len(block.texts)
            for raw in block.raw:
                self.consumed += len(raw)
                self._input.update(raw)
            self._input_hash = self._input.hexdigest()
            self._save()

    def finish(self) -> None:
        """Give the output its name, and remove the state file."""
        with _disk(self.target):
            self._file.close()
            self.part.replace(self.target)
            self.record.unlink()

    def close(self) -> None:
        """Stop writing; keep an output that has lines for the next command, and remove an empty one."""
        if self._file is None or self._file.closed:
            return
        if self.lines == 0:
            with suppress(OSError):
                self.record.unlink()
                self.part.unlink()
        self._file.close()

    def _save(self) -> None:
        values = {"version": VERSION, "lines": self.lines, "consumed": self.consumed, "bytes": self.size}
        values |= {"input": self._input_hash, "settings": self.settings}
        temporary = self.record.with_name(f".tmp-{self.record.name}")
        with temporary.open("w", encoding="utf-8") as file:
            json.dump(values, file, indent=1, ensure_ascii=False)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self.record)


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turn an error of the disk into a CliFailure of one line."""
    try:
        yield
    except OSError as error:
        raise CliFailure(
            f"'{path}' could not be written ({error.strerror or error}); what is done is kept: free some space, then "
            "repeat the command."
        ) from None
