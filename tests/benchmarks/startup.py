"""Start-up: whole processes of the command line, from their start to their first line and to their end."""

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.benchmarks.works import END, PAD, SIZES, START

COMMAND = [sys.executable, "-m", "vaswani_tx"]
WORDS = 8000


def make_model(folder: Path) -> None:
    """Write a tiny model of random weights with a tokenizer of made-up words."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors
    from transformers import TokenizersBackend

    from tests.benchmarks.training_contenders import own_model

    names = ["<pad>", "<s>", "</s>", "<unk>", *(f"w{index}" for index in range(4, WORDS))]
    backend = Tokenizer(models.WordLevel({name: index for index, name in enumerate(names)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    backend.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", END)])
    special = {"pad_token": names[PAD], "bos_token": names[START], "eos_token": names[END], "unk_token": "<unk>"}
    own_model(SIZES["tiny"], WORDS, 0.0).save_pretrained(folder)
    TokenizersBackend(tokenizer_object=backend, padding_side="right", **special).save_pretrained(folder)


def lines_of(source: str | None, count: int) -> str:
    """Return lines of a text, or made-up ones of twelve words."""
    if source:
        return "".join(f"{line}\n" for line in Path(source).read_text(encoding="utf-8").splitlines()[:count])
    return "".join(" ".join(f"w{4 + (7 * line + word) % 900}" for word in range(12)) + "\n" for line in range(count))


def run_process(arguments: list[str], given: str, threads: int) -> dict[str, float]:
    """Run the command line once; return wall and CPU seconds, and when the first line came.

    Raises:
        RuntimeError: it failed.
    """
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "HF_HUB_OFFLINE": "1"}
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    with tempfile.TemporaryFile("w+") as text, tempfile.TemporaryFile("w+") as errors:
        text.write(given)
        text.seek(0)
        process = subprocess.Popen(
            [*COMMAND, *arguments], stdin=text, stdout=subprocess.PIPE, stderr=errors, text=True, env=environment
        )
        assert process.stdout is not None
        process.stdout.readline()
        first = time.perf_counter() - start
        process.stdout.read()
        process.stdout.close()
        if process.wait():
            errors.seek(0)
            raise RuntimeError(f"vaswani-tx {' '.join(arguments)} failed: {errors.read()[-400:]}")
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {"wall": wall, "cpu": cpu, "first": first}


def measure(model: str | None, source: str | None, threads: int, rounds: int) -> dict[str, Any]:
    """Run each command in turn; return what the results keep of it."""
    with tempfile.TemporaryDirectory() as folder:
        bounded = []
        if not model:
            make_model(Path(folder))
            bounded = ["--max-length", "16"]  # random weights hardly ever end a sentence
        chosen = ["translate", model or folder, *bounded, "--num-threads", str(threads)]
        commands = {
            "vaswani-tx --help": (["--help"], ""),
            "vaswani-tx translate MODEL, 1 line": (chosen, lines_of(source, 1)),
            "vaswani-tx translate MODEL, 1,000 lines": (chosen, lines_of(source, 1000)),
        }
        records: dict[str, dict[str, list[float]]] = {name: {"wall": [], "cpu": [], "first": []} for name in commands}
        for turn in range(rounds + 1):
            for name, (arguments, given) in commands.items():
                # The first turn reads the files from the disk, for which a line is enough.
                if not turn and len(given.splitlines()) > 1:
                    continue
                times = run_process(arguments, given, threads)
                # A help's first line says nothing.
                for clock in ("wall", "cpu", *(["first"] if given else [])) if turn else ():
                    records[name][clock].append(times[clock])
    about = "whole processes" + (", a trained model" if model else ", a tiny model of random weights, 16 tokens a line")
    return {"work": {"kind": "startup", "name": "startup"}, "about": about, "contenders": records, "skipped": {}}
