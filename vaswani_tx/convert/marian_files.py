"""Marian's own files of weights: `model.npz`, and the binary `.bin` with float or int8 matrices; and its vocabularies.

A `.bin` of version 1 is, all numbers little-endian: version and number of tensors (uint64); for each tensor the lengths
of its name (with a zero), its type, the number of dimensions and the bytes of its data (uint64 each); all names; all
shapes (int32); the number of bytes of padding (uint64) and the padding; all data.

A matrix of type intgemm8 [rows, columns] is `round(values * scale)` in int8, stored as its transpose, with the float32
scale behind it. Embeddings are not transposed (`Wemb`, of browsermt's Marian, whose types are numbered otherwise).
"""

import json
import struct
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from vaswani_tx.convert.core import ConversionError
from vaswani_tx.failures import shorten

SETTINGS = "special:model.yml"
_VERSION = struct.pack("<Q", 1)
# Most tensors and dimensions that a file may have: more are damage.
_MOST_TENSORS, _MOST_DIMENSIONS = 1_000_000, 8
_TYPES: dict[int, Any] = {0x0402: np.float16, 0x0404: np.float32, 0x0408: np.float64, 0x0101: np.int8}
# Type -> what it holds, of marian-nmt and of browsermt, where they differ.
_QUANTISED: dict[int, Any] = {0x10001: np.int8, 0x4101: np.int8, 0x10002: np.int16, 0x4102: np.int16}
_PACKED = {
    0x0802: "packed16",
    0x1801: "packed8avx2",
    0x2801: "packed8avx512",
    0x18001: "intgemm8ssse3",
    0x11001: "intgemm8avx2",
    0x12001: "intgemm8avx512",
    0x13001: "intgemm8avx512vnni",
    0x14002: "intgemm16sse2",
    0x11002: "intgemm16avx2",
    0x12002: "intgemm16avx512",
}


@dataclass
class MarianFile:
    """What a file of weights holds.

    Args:
        weights: name -> tensor as Marian computes with it, float32 or wider; int8 ones are multiplied out.
        settings: the model's settings, of its `special:model.yml`.
        quantised: names of the weights that the file has in 8 or 16 bits.
    """

    weights: dict[str, torch.Tensor]
    settings: dict[str, Any]
    quantised: list[str] = field(default_factory=list)


def is_weights(path: Path) -> bool:
    """Return whether a file is one of Marian's weights, by its first bytes and the name of its settings."""
    try:
        if path.suffix == ".npz":
            with zipfile.ZipFile(path) as archive:
                return f"{SETTINGS}.npy" in archive.namelist()
        if path.suffix == ".bin":
            with path.open("rb") as stream:
                # The settings, last of the names, are within the headers of some thousand tensors.
                head = stream.read(1 << 20)
            return head.startswith((_VERSION, struct.pack("<Q", 2))) and SETTINGS.encode() in head
    except (OSError, zipfile.BadZipFile, NotImplementedError, ValueError):
        return False
    return False


def read_marian(path: Path) -> MarianFile:
    """Read a file of weights.

    Raises:
        ConversionError: it is damaged, encrypted, packed for one kind of processor, or has no settings.
    """
    try:
        found = _read_npz(path) if path.suffix == ".npz" else _read_bin(path)
    except OSError as error:
        raise ConversionError(f"'{path}' cannot be read: {error.strerror or shorten(error, 200)}.") from None
    if not found.settings:
        raise ConversionError(
            f"'{path}' has no {SETTINGS}, the settings that Marian writes into its models: without them the weights "
            "make no model. Is it a checkpoint of the optimiser, or a vocabulary?"
        )
    return found


def _read_npz(path: Path) -> MarianFile:
    weights: dict[str, torch.Tensor] = {}
    settings: dict[str, Any] = {}
    if path.is_file() and not zipfile.is_zipfile(path):
        raise ConversionError(f"'{path}' is damaged, or no archive of numpy: copy it again.")
    try:
        with np.load(path, allow_pickle=False) as archive:
            for name in archive.files:
                array = archive[name]
                if not isinstance(array, np.ndarray):
                    raise ConversionError(f"'{path}' is damaged: {name!r} is no array.")
                if name == SETTINGS:
                    settings = _settings(array.tobytes(), path)
                elif array.dtype.kind != "f":
                    raise ConversionError(
                        f"'{path}': {name!r} is of type {array.dtype}, not of floating-point numbers: this is no model "
                        "that Marian trained."
                    )
                else:
                    weights[name] = _tensor(array)
    except ConversionError:
        raise
    except (ValueError, KeyError, EOFError, zipfile.BadZipFile, NotImplementedError, MemoryError) as error:
        if "pickle" in str(error).lower():
            raise ConversionError(
                f"'{path}' is refused: it holds Python objects, which could run code, and Marian writes numbers only."
            ) from None
        raise ConversionError(f"'{path}' is damaged, or no archive of numpy ({shorten(error, 200)}).") from None
    return MarianFile(weights, settings)


def _tensor(array: np.ndarray) -> torch.Tensor:
    """Return a tensor of at least float32, in the machine's order of bytes."""
    dtype = np.float64 if array.dtype.itemsize == 8 else np.float32
    return torch.from_numpy(np.ascontiguousarray(array, dtype=dtype).copy())


def _settings(content: bytes, path: Path) -> dict[str, Any]:
    try:
        found = yaml.safe_load(content.split(b"\0")[0].decode("utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise ConversionError(f"'{path}': {SETTINGS} is damaged ({shorten(error, 200)}).") from None
    if not isinstance(found, dict) or not all(isinstance(name, str) for name in found):
        raise ConversionError(f"'{path}': {SETTINGS} holds no settings by name.")
    return found


class _Reader:
    """The bytes of a file, read from front to back; raises ConversionError where they end too early."""

    def __init__(self, path: Path):
        self.path, self.at = path, 0
        self.content = path.read_bytes()

    def take(self, size: int) -> bytes:
        part = self.content[self.at : self.at + size]
        if size < 0 or len(part) < size:
            raise ConversionError(
                f"'{self.path}' ends after {len(self.content):,} bytes, before all of its tensors: copy it again."
            )
        self.at += size
        return part

    def numbers(self, code: str, count: int) -> tuple[int, ...]:
        return struct.unpack(f"<{count}{code}", self.take(count * struct.calcsize(code)))


def _read_bin(path: Path) -> MarianFile:
    reader = _Reader(path)
    version, count = reader.numbers("Q", 2)
    if version == 2:
        raise ConversionError(f"'{path}' is encrypted (version 2 of Marian's format): save it as .npz with its key.")
    if version != 1 or count > _MOST_TENSORS:
        raise ConversionError(f"'{path}' is not a binary file of Marian: it begins with other bytes.")
    headers = [reader.numbers("Q", 4) for _ in range(count)]
    names = [_name(reader.take(header[0]), path) for header in headers]
    shapes = []
    for (_, _, dimensions, _), name in zip(headers, names, strict=True):
        if dimensions > _MOST_DIMENSIONS:
            raise ConversionError(f"'{path}' is damaged: {name!r} has {dimensions} dimensions.")
        shapes.append(reader.numbers("i", dimensions))
    reader.take(reader.numbers("Q", 1)[0])
    found = MarianFile({}, {})
    for (_, kind, _, size), name, shape in zip(headers, names, shapes, strict=True):
        content = reader.take(size)
        if name == SETTINGS:
            found.settings = _settings(content, path)
            continue
        if kind in _QUANTISED:
            found.quantised.append(name)
        found.weights[name] = _decoded(content, kind, shape, name, path)
    if reader.at != len(reader.content):
        raise ConversionError(f"'{path}' has bytes behind its last tensor: it is damaged.")
    return found


def _name(content: bytes, path: Path) -> str:
    try:
        return content.removesuffix(b"\0").decode("utf-8")
    except UnicodeDecodeError:
        raise ConversionError(f"'{path}' is damaged: the name of a tensor is no text.") from None


def _decoded(content: bytes, kind: int, shape: tuple[int, ...], name: str, path: Path) -> torch.Tensor:
    """Return a tensor of a `.bin` in floating point."""
    what = f"'{path}': {name!r}"
    if kind in _PACKED:
        raise ConversionError(
            f"{what} is packed for one kind of processor ({_PACKED[kind]}), an order of bytes that is not described: "
            "convert the model's .npz, or its .bin of type float32 or intgemm8."
        )
    if kind not in _QUANTISED and kind not in _TYPES:
        raise ConversionError(f"{what} has an unknown type, {kind:#x}.")
    dtype = np.dtype((_QUANTISED | _TYPES)[kind]).newbyteorder("<")
    if any(side < 0 for side in shape):
        raise ConversionError(f"{what} has the impossible shape {list(shape)}.")
    elements = int(np.prod(shape, dtype=np.int64))
    needed = elements * dtype.itemsize + (4 if kind in _QUANTISED else 0)
    if needed > len(content):
        raise ConversionError(f"{what} of shape {list(shape)} has {len(content):,} bytes, too few.")
    array = np.frombuffer(content, dtype, elements)
    if kind not in _QUANTISED:
        return _tensor(array.reshape(shape))
    scale = np.frombuffer(content, "<f4", 1, elements * dtype.itemsize)[0]
    if not (np.isfinite(scale) and scale > 0):
        raise ConversionError(f"{what} has the impossible scale {scale}: the file is damaged.")
    columns = shape[-1] if shape else 1
    if "Wemb" in name:
        matrix = array.reshape(-1, columns)
    else:
        matrix = array.reshape(columns, -1).T
    values = matrix.astype(np.float32) * np.float32(np.float32(1) / scale)  # as Marian does, in float32
    return torch.from_numpy(np.ascontiguousarray(values).reshape(shape))


def read_vocabulary(path: Path) -> dict[str, int]:
    """Read a vocabulary of words: `word: id` in YAML or JSON, or a word a line.

    Raises:
        ConversionError: it is damaged, has two words of one id, or lacks `</s>` or `<unk>`.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ConversionError(f"'{path}' cannot be read: {error.strerror}.") from None
    except UnicodeDecodeError:
        raise ConversionError(f"'{path}' is not text in UTF-8.") from None
    if path.suffix in (".yml", ".yaml", ".json"):
        words = _words_by_id(text, path)
    else:
        lines = text.split("\n")
        words = {word: index for index, word in enumerate(lines[:-1] if lines[-1] == "" else lines)}
        if len(words) != len(lines) - (lines[-1] == ""):
            raise ConversionError(f"'{path}' holds a word twice.")
    return _with_required_words(words, path)


def _words_by_id(text: str, path: Path) -> dict[str, int]:
    loader = getattr(yaml, "CBaseLoader", yaml.BaseLoader)  # text only: a word may look like a number or `null`
    try:
        found = json.loads(text) if path.suffix == ".json" else yaml.load(text, Loader=loader)
        words = {str(word): int(index) for word, index in found.items()}
    except (yaml.YAMLError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ConversionError(f"'{path}' holds no table of words and ids ({shorten(error, 200)}).") from None
    if any(index < 0 for index in words.values()):
        raise ConversionError(f"'{path}' gives a word a negative id.")
    if len(set(words.values())) != len(words):
        raise ConversionError(f"'{path}' gives two words one id.")
    return words


def _with_required_words(words: Mapping[str, int], path: Path) -> dict[str, int]:
    """Return the words with `</s>` and `<unk>`, which vocabularies of Nematus have under other names at 0 and 1."""
    words = dict(words)
    texts = {index: word for word, index in words.items()}
    for name, former, index in (("</s>", "eos", 0), ("<unk>", "UNK", 1)):
        if texts.get(index, former) == former and name not in words:
            words.pop(former, None)
            words[name] = index
        if name not in words:
            raise ConversionError(f"'{path}' has no {name!r}, which Marian needs: it is not one of its vocabularies.")
    return words


__all__ = ["SETTINGS", "MarianFile", "is_weights", "read_marian", "read_vocabulary"]
