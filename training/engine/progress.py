"""Reports of a run while it trains: records in `metrics.jsonl`, and the progress bar."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from vaswani_tx.training.errors import WriteError


class MetricsLog:
    """The file `metrics.jsonl`: one whole record a line, flushed at once.

    Resuming keeps the first `keep` records, those written before the checkpoint, so that no step appears twice.
    """

    def __init__(self, path: Path, keep: int | None = None):
        self.path = Path(path)
        self.count = 0
        if keep is None or not self.path.exists():
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self.path.touch()
            return
        whole = [line for line in self.path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")][:keep]
        self.count = len(whole)
        temporary = self.path.with_name(f".tmp-{self.path.name}")
        temporary.write_bytes(b"".join(whole))
        temporary.replace(self.path)

    def write(self, record: dict[str, Any]) -> None:
        """Append one record; raise WriteError, with the file unchanged, where the disk is full."""
        line = json.dumps(record, allow_nan=False, ensure_ascii=False) + "\n"
        size = self.path.stat().st_size
        try:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(line)
        except OSError as error:
            os.truncate(self.path, size)
            raise WriteError(f"'{self.path}' could not be written: {error}. Free some space and run again.") from error
        self.count += 1


class Progress:
    """The progress bar: updates, loss, target tokens a second, learning rate and time left."""

    def __init__(self, step: int, total: int | None, enabled: bool):
        self.total = total
        self._started, self._first = time.monotonic(), step
        # In a log file a bar is noise: there one line in half a minute is enough.
        interval = 0.5 if sys.stderr.isatty() else 30.0
        self._bar = tqdm(
            total=total, initial=step, disable=not enabled, unit="step", mininterval=interval, dynamic_ncols=True,
            bar_format="{desc}{percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]" if total else
            "{desc}{n_fmt} steps [{elapsed}{postfix}]",
        )  # fmt: skip

    def advance(self) -> None:
        """Count one update."""
        self._bar.update(1)

    def show(self, loss: float, tokens_per_second: float, rate: float, left: float | None) -> None:
        """Show the newest numbers; `left` are seconds."""
        text = f"loss {loss:.3f}, {tokens_per_second:,.0f} tok/s, lr {rate:.2e}"
        if left is not None:
            text += f", {tqdm.format_interval(max(0, int(left)))} left"
        self._bar.set_postfix_str(text, refresh=False)

    def print_line(self, text: str) -> None:
        """Print a line above the bar."""
        if not self._bar.disable:
            tqdm.write(text, file=sys.stderr)

    def close(self) -> None:
        """End the bar."""
        self._bar.close()
