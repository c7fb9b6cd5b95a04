"""Checkpoints of TensorFlow, `model.ckpt-N.index` with `model.ckpt-N.data-00000-of-0000M`, read without TensorFlow.

The index is a sorted table of LevelDB's form: blocks of entries whose keys share beginnings, an index of the blocks,
and a footer. The entry "" holds the header of the bundle, every other the record of a tensor: type, shape, and where in
which data file its bytes are. Blocks and tensors carry masked CRC-32C sums, all of which are checked.
"""

import math
import re
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch

from vaswani_tx.errors import CheckpointError

_MAGIC = 0xDB4775248B80FB57
_FOOTER_BYTES = 48
_TRAILER_BYTES = 5  # of a block: a type of compression, and a sum
# Numbers of TensorFlow's types; half types that NumPy lacks are read as integers of their width.
_TYPES = {1: "<f4", 2: "<f8", 3: "<i4", 4: "|u1", 5: "<i2", 6: "|i1", 9: "<i8", 10: "|b1", 14: "<u2", 19: "<f2"}
_BFLOAT16 = 14
_ROW = 1 << 10  # bytes of a row, a power of two


@dataclass
class Entry:
    """The record of one tensor in the index."""

    dtype: int = 0
    shape: tuple[int, ...] = ()
    shard: int = 0
    offset: int = 0
    size: int = 0
    checksum: int = 0
    is_sliced: bool = False


@dataclass
class Bundle:
    """A checkpoint: the records of its tensors by name, read from the index; the tensors are read one by one."""

    prefix: Path
    shards: int = 1
    entries: dict[str, Entry] = field(default_factory=dict)

    def tensor(self, name: str) -> torch.Tensor:
        """Read a tensor.

        Raises:
            CheckpointError: its bytes are missing or damaged, or its type or layout is none that is read.
        """
        entry = self.entries[name]
        path = self.prefix.with_name(f"{self.prefix.name}.data-{entry.shard:05d}-of-{self.shards:05d}")
        where = f"{path}, tensor {name!r}"
        if entry.is_sliced:
            raise CheckpointError(f"{where}: is saved in slices of a partitioned variable, which is not read.")
        if entry.dtype not in _TYPES:
            raise CheckpointError(f"{where}: has TensorFlow's type {entry.dtype}, which is not read.")
        kind = np.dtype(_TYPES[entry.dtype])
        if entry.size != math.prod(entry.shape) * kind.itemsize:
            raise CheckpointError(f"{where}: {entry.size} bytes do not hold the shape {entry.shape}; copy it again.")
        try:
            with open(path, "rb") as stream:
                stream.seek(entry.offset)
                raw = stream.read(entry.size)
        except OSError as error:
            raise CheckpointError(f"{path}: cannot be read ({error.strerror}); copy the whole checkpoint.") from None
        if len(raw) != entry.size or masked_crc32c(raw) != entry.checksum:
            raise CheckpointError(f"{where}: is damaged (its bytes do not have the sum of the index); copy it again.")
        values = torch.from_numpy(np.frombuffer(raw, kind).copy()).reshape(entry.shape)
        return values.view(torch.bfloat16) if entry.dtype == _BFLOAT16 else values


def _crc_table() -> np.ndarray:
    """Return the remainders of all bytes for CRC-32C (Castagnoli)."""
    table = np.arange(256, dtype=np.uint32)
    for _ in range(8):
        table = np.where(table & 1, (table >> 1) ^ np.uint32(0x82F63B78), table >> 1).astype(np.uint32)
    return table


_TABLE = _crc_table()


def _times(matrix: np.ndarray, registers: np.ndarray) -> np.ndarray:
    """Return registers after the step whose effect on each bit is a row of `matrix` [32]."""
    result = np.zeros_like(registers)
    for bit in range(32):
        result ^= np.where(registers >> np.uint32(bit) & 1, matrix[bit], 0).astype(np.uint32)
    return result


def crc32c(data: bytes) -> int:
    """Return the CRC-32C of bytes.

    A register that begins at zero ignores zeros in front. So the bytes, with the usual start put into the first four,
    fill rows from behind; the rows are summed side by side, and then neighbours are put together until one is left.
    """
    values = np.frombuffer(data, np.uint8)
    if len(values) < 4:
        register = np.uint32(0xFFFFFFFF)
        for byte in values:
            register = _TABLE[(register ^ byte) & 0xFF] ^ (register >> np.uint32(8))
        return int(register) ^ 0xFFFFFFFF
    rows = 1 << max(0, -(-len(values) // _ROW) - 1).bit_length()
    filled = np.zeros(rows * _ROW, np.uint8)
    filled[-len(values) :] = values
    filled[-len(values) : filled.size - len(values) + 4] ^= 0xFF
    sums = np.zeros(rows, np.uint32)
    for column in np.ascontiguousarray(filled.reshape(rows, _ROW).T):
        sums = _TABLE[(sums ^ column) & 0xFF] ^ (sums >> np.uint32(8))
    bits = np.uint32(1) << np.arange(32, dtype=np.uint32)
    step = _TABLE[bits & 0xFF] ^ (bits >> np.uint32(8))  # a zero byte
    for _ in range(_ROW.bit_length() - 1):
        step = _times(step, step)  # twice as many of them
    while len(sums) > 1:
        sums = _times(step, sums[0::2]) ^ sums[1::2]
        step = _times(step, step)
    return int(sums[0]) ^ 0xFFFFFFFF


def masked_crc32c(data: bytes) -> int:
    """Return the sum as TensorFlow and LevelDB store it: rotated by 15 bits, plus a constant."""
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


class _Reader:
    """A place in bytes; every number that is read must be inside of them."""

    def __init__(self, data: bytes, place: int = 0):
        self.data, self.place = data, place

    def take(self, count: int) -> bytes:
        if self.place + count > len(self.data):
            raise IndexError("the bytes end too early")
        self.place += count
        return self.data[self.place - count : self.place]

    def varint(self) -> int:
        value = shift = 0
        while True:
            byte = self.take(1)[0]
            value |= (byte & 0x7F) << shift
            if byte < 0x80:
                return value
            shift += 7
            if shift > 63:
                raise IndexError("a number is too long")

    def fields(self) -> Iterator[tuple[int, int | bytes]]:
        """Yield the fields of a protocol buffer: numbers, and values of their wire types."""
        while self.place < len(self.data):
            key = self.varint()
            number, wire = key >> 3, key & 7
            if wire == 0:
                yield number, self.varint()
            elif wire == 2:
                yield number, self.take(self.varint())
            elif wire in (1, 5):
                yield number, int.from_bytes(self.take(8 if wire == 1 else 4), "little")
            else:
                raise IndexError(f"a field has the wire type {wire}")


def read_bundle(prefix: str | Path) -> Bundle:
    """Read the index of a checkpoint.

    Args:
        prefix: the path up to `.index`.

    Raises:
        CheckpointError: a file that is missing, damaged, or of a form that is not read.
    """
    prefix = Path(prefix)
    path = prefix.with_name(prefix.name + ".index")
    try:
        data = path.read_bytes()
    except OSError as error:
        raise CheckpointError(f"{path}: cannot be read ({error.strerror}).") from None
    try:
        return _parsed(prefix, path, data)
    except (IndexError, struct.error, UnicodeDecodeError) as error:
        raise CheckpointError(f"{path}: is damaged, or no index of a checkpoint ({error}); copy it again.") from None


def _parsed(prefix: Path, path: Path, data: bytes) -> Bundle:
    if len(data) < _FOOTER_BYTES or struct.unpack("<Q", data[-8:])[0] != _MAGIC:
        raise CheckpointError(f"{path}: is no index of a TensorFlow checkpoint, or was cut off; copy it again.")
    footer = _Reader(data[-_FOOTER_BYTES:])
    footer.varint(), footer.varint()  # the block of filters, which bundles lack
    bundle = Bundle(prefix)
    for _, handle in _block(path, data, footer.varint(), footer.varint()):
        place = _Reader(handle)
        for key, value in _block(path, data, place.varint(), place.varint()):
            if key == b"":
                bundle.shards = _header(path, value)
            elif not _is_slice(key):
                bundle.entries[key.decode("utf-8")] = _entry(value)
    return bundle


def _is_slice(key: bytes) -> bool:
    """Return whether a key names a slice of a partitioned variable; such begin with a zero byte."""
    return key[:1] == b"\0"


def _block(path: Path, data: bytes, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
    """Yield the entries of a block, whose keys are given by what they share with the one before."""
    whole = _Reader(data, offset).take(size + _TRAILER_BYTES)
    compression, checksum = whole[size], struct.unpack("<I", whole[size + 1 :])[0]
    if masked_crc32c(whole[: size + 1]) != checksum:
        raise CheckpointError(f"{path}: is damaged (a block does not have its sum); copy it again.")
    if compression:
        raise CheckpointError(f"{path}: is compressed (type {compression}), which is not read.")
    block = whole[:size]
    restarts = struct.unpack("<I", _Reader(block, size - 4).take(4))[0]
    entries, key = _Reader(block[: size - 4 * (restarts + 1)]), b""
    while entries.place < len(entries.data):
        shared, rest, length = entries.varint(), entries.varint(), entries.varint()
        key = key[:shared] + entries.take(rest)
        yield key, entries.take(length)


def _header(path: Path, value: bytes) -> int:
    shards, little = 1, True
    for number, content in _Reader(value).fields():
        if number == 1:
            shards = int(content)
        elif number == 2:
            little = content == 0
    if not little:
        raise CheckpointError(f"{path}: was written on a big-endian machine, which is not read.")
    return shards


def _entry(value: bytes) -> Entry:
    entry = Entry()
    names: dict[int, str] = {1: "dtype", 3: "shard", 4: "offset", 5: "size", 6: "checksum"}
    for number, content in _Reader(value).fields():
        if number == 2 and isinstance(content, bytes):
            entry.shape = tuple(_dimensions(content))
        elif number == 7:
            entry.is_sliced = True
        elif number in names:
            setattr(entry, names[number], int(content))
    return entry


def _dimensions(value: bytes) -> Iterator[int]:
    for number, content in _Reader(value).fields():
        if number == 2 and isinstance(content, bytes):
            yield next((int(size) for inner, size in _Reader(content).fields() if inner == 1), 0)


def find_prefix(path: str | Path) -> Path | None:
    """Return the prefix of the checkpoint at a path: a prefix, its index, or a folder, whose newest one it is."""
    path = Path(path)
    if path.is_dir():
        order: Callable[[Path], tuple[int, str]] = lambda p: (int((re.findall(r"\d+", p.stem) or ["0"])[-1]), p.name)  # noqa: E731
        found = sorted(path.glob("*.index"), key=order)
        return found[-1].with_suffix("") if found else None
    if path.name.endswith(".index"):
        return path.with_name(path.name.removesuffix(".index"))
    return path if path.with_name(path.name + ".index").is_file() else None


__all__ = ["Bundle", "Entry", "crc32c", "find_prefix", "masked_crc32c", "read_bundle"]
