"""Load a model and its tokenizer for the command line, and share the work among several processes.

Whatever is missing, damaged or unknown becomes one `CliError` that says what to do. No code of a checkpoint runs unless
`--trust-remote-code` was given.
"""

import hashlib
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer

from vaswani_tx.cli.common import CliError, CliFailure, shorten

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
        CliError: no such device here, or several processes without accelerate.
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
    if device is None:
        found = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
        # Apple's lacks operations that a beam search needs: on request only.
        return ProcessContext(torch.device(found if found is not None and found.type != "mps" else "cpu"))
    try:
        context = ProcessContext(torch.device(device))
        torch.empty(1, device=context.device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise CliError(f"--device {device} cannot be used here ({shorten(error, 120)}): try cpu.") from None
    return context


def looks_like_path(name: str) -> bool:
    """Return whether a name can only be meant as a folder: the Hub knows `name` and `owner/name`."""
    parts = name.split("/")
    if name.startswith((".", "/", "~")) or "\\" in name or len(parts) > 2:
        return True
    return len(parts) == 2 and Path(parts[0]).is_dir()


def check_folder(name: str, what: str = "model") -> None:
    """Raise CliError where a name means a folder that does not exist, or one that holds no model."""
    folder = Path(name)
    if folder.is_file():
        raise CliError(f"'{name}' is a file: name the {what}'s folder.")
    if not folder.is_dir():
        if looks_like_path(name):
            raise CliError(f"there is no {what} folder '{name}'.")
        return
    marker = "config.json" if what == "model" else "tokenizer_config.json"
    if not (folder / marker).is_file():
        inside = [part for part in ("averaged", "best") if (folder / part / marker).is_file()]
        hint = f": did you mean '{folder / inside[0]}'?" if inside else ", so it holds no " + what + "."
        raise CliError(f"'{name}' has no {marker}{hint}")


def load(
    model: str, tokenizer: str | None = None, *, device: torch.device, precision: str | None, trust: bool = False
) -> tuple[Any, Any]:
    """Load any encoder-decoder of the Auto classes and its tokenizer, ready to translate.

    Raises:
        CliError: something is missing, damaged, not an encoder-decoder, or does not fit together.
    """
    check_folder(model)
    if tokenizer is not None:
        check_folder(tokenizer, "tokenizer")
    config = _explained(model, "model", trust, AutoConfig.from_pretrained, model)
    if not trust and type(config) not in AutoModelForSeq2SeqLM._model_mapping:
        raise CliError(
            f"'{model}' is a {getattr(config, 'model_type', None) or type(config).__name__} model, which is no "
            "encoder-decoder that writes text: name one that AutoModelForSeq2SeqLM loads."
        )
    words = _explained(tokenizer or model, "tokenizer", trust, AutoTokenizer.from_pretrained, tokenizer or model)
    options = {"dtype": DTYPES[precision]} if precision else {}
    loaded, report = _explained(
        model, "model", trust, AutoModelForSeq2SeqLM.from_pretrained, model, output_loading_info=True, **options
    )
    # from_pretrained only warns and leaves random numbers in these tensors.
    if missing := sorted(report["missing_keys"]):
        raise CliError(
            f"the weights of '{model}' lack {len(missing)} tensors, first {missing[0]}: the folder is incomplete, or "
            "its config.json belongs to another model."
        )
    _check_vocabulary(loaded, words, model)
    try:
        return loaded.to(device).eval(), words
    except torch.OutOfMemoryError:
        raise CliFailure(f"'{model}' does not fit into the memory of {device}: try --precision bf16.") from None


def _check_vocabulary(model: Any, tokenizer: Any, name: str) -> None:
    known = model.get_input_embeddings().num_embeddings
    if len(tokenizer) > known:
        raise CliError(
            f"the tokenizer has {len(tokenizer)} tokens but '{name}' has embeddings for {known}: name the tokenizer "
            "that the model was trained with (--tokenizer)."
        )
    own, models = tokenizer.eos_token_id, model.config.eos_token_id
    if own is not None and isinstance(models, int) and own != models:
        raise CliError(
            f"the end of sentence is {own} in the tokenizer but {models} in '{name}': name the tokenizer that the "
            "model was trained with (--tokenizer)."
        )


def _explained(name: str, what: str, trust: bool, load: Any, *args: Any, **kwargs: Any) -> Any:
    """Call a loader; turn what damaged files and absent names make it raise into a CliError of one line."""
    try:
        return load(*args, trust_remote_code=trust, **kwargs)
    except torch.OutOfMemoryError:
        raise
    except Exception as error:
        reason = f" ({type(error).__name__}: {shorten(error)})"
        if "trust_remote_code" in str(error):
            raise CliError(
                f"the {what} '{name}' brings Python code of its own, which was not run: read that code, and if you "
                "trust it, add --trust-remote-code."
            ) from None
        if Path(name).is_dir():
            cause = "a file is missing or damaged, or the installed transformers does not know its kind"
        else:
            cause = "there is no such folder, and no model of that name could be had from the Hub"
        raise CliError(f"the {what} '{name}' cannot be loaded: {cause}{reason}") from None


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
