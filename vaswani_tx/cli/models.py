"""Load a model and its tokenizer for the command line, and share the work among several processes.

What is loaded is checked by `vaswani_tx.loading`, as in every other command. No code of a checkpoint runs unless
`--trust-remote-code` was given.
"""

import argparse
import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from vaswani_tx.cli.common import CliError, CliFailure, print_status
from vaswani_tx.devices import choose_device, slow_bfloat16
from vaswani_tx.loading import load_translator

DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}
# Longest source in tokens where neither model nor tokenizer names one.
DEFAULT_LIMIT = 1024


@dataclass(frozen=True)
class ProcessContext:
    """The device of this process, its rank, and the number of processes."""

    device: torch.device
    rank: int = 0
    world: int = 1

    @property
    def is_first(self) -> bool:
        return self.rank == 0

    def gather(self, value: Any) -> list[Any]:
        """Return the values of all processes, in their order; every process must call this."""
        if self.world == 1:
            return [value]
        values: list[Any] = [None] * self.world
        torch.distributed.all_gather_object(values, value)
        return values

    def leave(self) -> None:
        """End the group of processes; a process that stops without this makes torch complain."""
        if self.world > 1 and torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


def process_context(device: str | None, threads: int | None = None) -> ProcessContext:
    """Choose the device; under `accelerate launch` (or torchrun) join the other processes.

    Raises:
        CliError: several processes without accelerate.
        DeviceError: no such device here.
    """
    if threads:
        torch.set_num_threads(threads)
    wanted = int(os.environ.get("WORLD_SIZE", "1"))
    if wanted > 1:
        try:
            from accelerate import PartialState
        except ImportError:
            raise CliError("several processes need accelerate: pip install 'vaswani-tx[train]'.") from None
        # Without a GPU accelerate makes a group only where it is told of the CPU, and else one process of each.
        state = PartialState(cpu=device == "cpu" or not torch.accelerator.is_available())
        if state.num_processes != wanted:
            raise CliError(f"accelerate found {state.num_processes} of {wanted} processes: give --device cpu.")
        return ProcessContext(state.device, state.process_index, state.num_processes)
    return ProcessContext(choose_device(device))


def load(
    model: str,
    tokenizer: str | None = None,
    *,
    device: torch.device,
    precision: str | None,
    trust: bool = False,
    quiet: bool = False,
) -> tuple[Any, Any]:
    """Load any encoder-decoder of the Auto classes and its tokenizer, ready to translate.

    Raises:
        CheckpointError: something is missing, damaged, not an encoder-decoder, or does not fit together.
    """
    options: dict[str, Any] = {"dtype": DTYPES[precision]} if precision else {}
    loaded, words = load_translator(model, tokenizer, trust=trust, **options)
    slow = slow_bfloat16(device, "--precision fp32") if loaded.dtype == torch.bfloat16 else ""
    if slow and not quiet:
        print_status(slow)
    try:
        return loaded.to(device), words
    except torch.OutOfMemoryError:
        raise CliFailure(f"'{model}' does not fit into the memory of {device}: try --precision bf16.") from None


# Options of `translate` by what an engine may lack.
ENGINE_OPTIONS = {
    "alignments": "alignments",
    "require": "required phrases",
    "prefix": "a forced prefix",
    "whole_words": "whole words",
    "src_lang": "a language",
    "tgt_lang": "a language",
}


def load_for_engine(options: argparse.Namespace) -> tuple[Any, Any]:
    """Load a model for `--engine`, and its tokenizer.

    Raises:
        DeviceError: --device names another than the CPU.
        ExportError: the engine cannot run the model.
    """
    from vaswani_tx.engines import load_engine

    return load_engine(
        options.model,
        options.engine,
        options.tokenizer,
        quantization=options.quantization,
        threads=options.num_threads,
        device=options.device,
    )


def check_engine(model: Any, options: argparse.Namespace) -> None:
    """Raise CliError where an option is given that the model's engine has not."""
    lacks = getattr(model, "lacks", {})
    for option, what in ENGINE_OPTIONS.items():
        if getattr(options, option) and what in lacks:
            flag = "--" + option.replace("_", "-")
            raise CliError(f"{flag} is not available with --engine {model.engine}: {lacks[what]}.")


def source_limit(model: Any, tokenizer: Any) -> int:
    """Return the longest source in tokens that a model is meant for; sinusoids have no limit, but quality has."""
    known = (getattr(model.config, "max_position_embeddings", None), tokenizer.model_max_length)
    return min([DEFAULT_LIMIT, *(value for value in known if isinstance(value, int) and value > 0)])


def fingerprint(model: str, loaded: Any, tokenizer: str | None) -> str:
    """Return what identifies a model besides its name: the hash of a folder's files, or the Hub's revision."""
    digest = hashlib.sha256()
    for name in filter(None, (model, tokenizer)):
        folder = Path(name)
        if not folder.is_dir():
            revision = getattr(loaded.config, "_commit_hash", None) if name == model else None
            digest.update(f"{name} {revision}\n".encode())
            continue
        for path in sorted(folder.iterdir()):
            # Only what loading reads: notes, cards and logs beside it may change.
            if path.suffix in (".json", ".safetensors", ".bin", ".model", ".spm", ".txt"):
                digest.update(f"{path.name} {path.stat().st_size}\n".encode())
                with path.open("rb") as file:
                    digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()[:32]
