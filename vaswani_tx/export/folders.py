"""What all formats of export share: errors, a folder that is whole or absent, the note of what it holds, the report."""

import hashlib
import importlib
import json
import os
import secrets
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import ModuleType
from typing import Any

import torch

from vaswani_tx.errors import ExportError

# The file that says what an exported folder holds; a folder without it is never replaced.
NOTE = "vaswani_export.json"
# What is compared where no sentences are given: long and short, with digits, accents and one word alone.
SENTENCES = (
    "A dog runs on the green grass.",
    "Two men are talking.",
    "The old teacher repairs the clock because he needs it.",
    "Ein Hund läuft über das grüne Gras, und zwei Männer sehen ihm zu.",
    "In 2017 there were 8 heads, 6 layers and one paper.",
    "Hello",
    "A woman in a red coat reads a long book to a small child who sits on the floor of the library and listens.",
    "Où est la gare ?",
)
KINDS = {"vaswani": "encoder-decoder", "vaswani_decoder": "decoder", "vaswani_encoder": "encoder"}
PACKAGES = {"onnx": "onnx", "onnxruntime": "onnxruntime", "onnxscript": "onnxscript", "ctranslate2": "ctranslate2"}

# `generate` without any setting of the model's that a loop over argmax does not have.
PLAIN_GREEDY: dict[str, Any] = {
    "num_beams": 1, "do_sample": False, "min_length": None, "min_new_tokens": None, "no_repeat_ngram_size": None,
    "bad_words_ids": None, "suppress_tokens": None, "begin_suppress_tokens": None, "forced_bos_token_id": None,
    "forced_eos_token_id": None, "repetition_penalty": None, "encoder_repetition_penalty": None,
    "encoder_no_repeat_ngram_size": None, "exponential_decay_length_penalty": None, "sequence_bias": None,
}  # fmt: skip


@dataclass
class Comparison:
    """One thing that was compared between a model and its export.

    Args:
        what: the thing and its settings.
        total: how many were compared.
        equal: how many of them were equal.
        largest: the largest difference of numbers, None where tokens were compared.
        bound: what `largest` may be.
    """

    what: str
    total: int
    equal: int
    largest: float | None = None
    bound: float | None = None

    @property
    def passed(self) -> bool:
        """Whether everything was equal, or near enough."""
        return self.equal == self.total and (self.largest is None or self.bound is None or self.largest <= self.bound)

    def __str__(self) -> str:
        numbers = "" if self.largest is None else f", largest difference {self.largest:.2g} (allowed: {self.bound:g})"
        return f"{self.what}: {self.equal} of {self.total} equal{numbers}"


@dataclass
class Report:
    """What an export wrote and what was compared.

    Args:
        folder: the exported folder.
        format: the format's name.
        files: name -> size in bytes.
        notes: what is different from the model, and what to know.
        comparisons: what `verify` compared; empty where it did not.
    """

    folder: Path
    format: str
    files: dict[str, int] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    comparisons: list[Comparison] = field(default_factory=list)

    @property
    def passed(self) -> bool:
        """Whether all that was compared is equal."""
        return all(one.passed for one in self.comparisons)

    def __str__(self) -> str:
        size = sum(self.files.values())
        lines = [f"{self.folder}: {self.format}, {len(self.files)} files, {size / 1e6:,.1f} MB"]
        lines += [f"note: {note}" for note in self.notes]
        lines += [f"{'equal' if one.passed else 'NOT EQUAL'}: {one}" for one in self.comparisons]
        return "\n".join(lines)


def need(package: str, purpose: str) -> ModuleType:
    """Import an optional package.

    Raises:
        ExportError: it is not installed; the message says how to install it.
    """
    try:
        return importlib.import_module(package)
    except ImportError as error:
        raise ExportError(
            f"{purpose} needs the package {PACKAGES.get(package, package)}, which cannot be imported ({error}): "
            "pip install 'vaswani-tx[export]'."
        ) from None


def kind_of(config: Any) -> str:
    """Return "encoder-decoder", "decoder" or "encoder".

    Raises:
        ExportError: another model's configuration.
    """
    kind = KINDS.get(getattr(config, "model_type", None) or "")
    if kind is None:
        known = ", ".join(KINDS)
        raise ExportError(f"models of type {config.model_type!r} cannot be exported: this package exports {known}.")
    return kind


def refuse_fields(config: Any, format_name: str, wrong: Sequence[str]) -> None:
    """Raise ExportError where a configuration has what a format cannot hold; `wrong` holds the reasons."""
    if wrong:
        raise ExportError(f"{format_name} cannot hold this model: {'; '.join(wrong)}.")


def weights_hash(folder: Path, further: Sequence[str] = ()) -> str:
    """Return a hash of all files of a model folder that determine its export, and of `further` options."""
    digest = hashlib.sha256()
    for path in sorted(folder.iterdir()):
        if path.is_file() and path.suffix in (".json", ".safetensors", ".bin", ".jinja"):
            digest.update(f"{path.name} {path.stat().st_size}\n".encode())
            with path.open("rb") as file:
                digest.update(hashlib.file_digest(file, "sha256").digest())
    for text in further:
        digest.update(f"{text}\n".encode())
    return digest.hexdigest()[:32]


def read_note(folder: str | Path) -> dict[str, Any] | None:
    """Return what an exported folder says of itself, None for any other folder.

    Raises:
        ExportError: the note is damaged.
    """
    path = Path(folder) / NOTE
    if not path.is_file():
        return None
    try:
        note = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ExportError(f"'{path}' is damaged ({error}): export the model again.") from None
    if not isinstance(note, dict) or not isinstance(note.get("format"), str):
        raise ExportError(f"'{path}' does not say which format the folder holds: export the model again.")
    return note


def write_json(path: Path, values: Any) -> None:
    path.write_text(json.dumps(values, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


@contextmanager
def whole_folder(target: str | Path, overwrite: bool) -> Iterator[Path]:
    """Yield a folder beside `target` that takes its name when the block succeeds, and is deleted otherwise.

    Raises:
        ExportError: `target` is a file, is not empty (without `overwrite`), holds no export (with it), or cannot be
            written.
    """
    target = Path(os.path.abspath(target))
    check_target(target, overwrite)
    mark = secrets.token_hex(4)
    new, old = (target.parent / f".{target.name}.{kind}-{mark}" for kind in ("new", "old"))
    try:
        new.mkdir(parents=True)
        yield new
        for path in new.rglob("*"):
            if path.is_file():
                with path.open("r+b") as file:
                    os.fsync(file.fileno())
        if target.exists():
            target.rename(old)
        new.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    except BaseException as error:
        if old.exists() and not target.exists():
            old.rename(target)
        shutil.rmtree(new, ignore_errors=True)
        if isinstance(error, OSError):
            raise ExportError(f"'{target}' could not be written: {error}. Nothing half-written is left.") from None
        raise


def check_target(target: Path, overwrite: bool) -> None:
    """Raise ExportError where a folder must not be written, before any work is done."""
    if target.exists() and not target.is_dir():
        raise ExportError(f"'{target}' is a file: name a folder.")
    present = sorted(path.name for path in target.iterdir()) if target.is_dir() else []
    if not present:
        return
    shown = ", ".join(present[:4]) + (", ..." if len(present) > 4 else "")
    if not overwrite:
        raise ExportError(f"'{target}' is not empty ({shown}): choose another folder, or give --overwrite.")
    if NOTE not in present:
        raise ExportError(f"'{target}' holds no export ({shown}), so it is not replaced: choose another folder.")


def sizes_of(folder: Path) -> dict[str, int]:
    paths = sorted(path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in paths}


def batch_of(tokenizer: Any, sentences: Sequence[str]) -> dict[str, torch.Tensor]:
    """Return the padded ids [B, S] and mask [B, S] of sentences, padding on the right."""
    rows = tokenizer(list(sentences), verbose=False)["input_ids"]
    width, padding = max(map(len, rows)), tokenizer.pad_token_id or 0
    ids = torch.full((len(rows), width), padding)
    mask = torch.zeros_like(ids)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = torch.tensor(tokens)
        mask[row, : len(tokens)] = 1
    return {"input_ids": ids, "attention_mask": mask}


def save_words(model: Any, tokenizer: Any, folder: Path) -> None:
    """Save the tokenizer, and the settings of generation where the model has them."""
    tokenizer.save_pretrained(folder)
    if model.can_generate():
        model.generation_config.save_pretrained(folder)
