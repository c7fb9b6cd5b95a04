"""A writer of TensorFlow's checkpoints, for tests of the reader: one data file, an index of small blocks."""

import struct
from pathlib import Path

import torch

NUMBERS = {torch.float32: 1, torch.float64: 2, torch.int32: 3, torch.int64: 9, torch.bfloat16: 14, torch.float16: 19}


def crc32c(data: bytes) -> int:
    register = 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = (register >> 1) ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


def masked(data: bytes) -> int:
    crc = crc32c(data)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


def varint(value: int) -> bytes:
    encoded = b""
    while value >= 0x80:
        encoded += bytes([value & 0x7F | 0x80])
        value >>= 7
    return encoded + bytes([value])


def _field(number: int, value: int | bytes) -> bytes:
    if isinstance(value, bytes):
        return varint(number << 3 | 2) + varint(len(value)) + value
    return varint(number << 3) + varint(value)


def _record(tensor: torch.Tensor, offset: int, raw: bytes) -> bytes:
    shape = b"".join(_field(2, _field(1, size)) for size in tensor.shape)
    return (
        _field(1, NUMBERS[tensor.dtype]) + _field(2, shape) + _field(4, offset) + _field(5, len(raw))
        + varint(6 << 3 | 5) + struct.pack("<I", masked(raw))
    )  # fmt: skip


def _block(entries: list[tuple[bytes, bytes]]) -> bytes:
    """Return a block whose keys are shortened by what they share with the one before."""
    block, before = b"", b""
    for key, value in entries:
        shared = next(
            (i for i, (a, b) in enumerate(zip(key, before, strict=False)) if a != b), min(len(key), len(before))
        )
        block += varint(shared) + varint(len(key) - shared) + varint(len(value)) + key[shared:] + value
        before = key
    return block + struct.pack("<II", 0, 1)


def write_bundle(prefix: Path, tensors: dict[str, torch.Tensor], block: int = 8) -> None:
    """Write `prefix`.index and its data file, `block` entries in each block of the index."""
    data, entries = b"", [(b"", _field(1, 1))]
    for name in sorted(tensors):
        raw = tensors[name].contiguous().reshape(-1).view(torch.uint8).numpy().tobytes()
        entries.append((name.encode(), _record(tensors[name], len(data), raw)))
        data += raw
    prefix.with_name(prefix.name + ".data-00000-of-00001").write_bytes(data)
    index, handles = b"", []

    def add(content: bytes) -> bytes:
        nonlocal index
        handle = varint(len(index)) + varint(len(content))
        index += content + b"\0" + struct.pack("<I", masked(content + b"\0"))
        return handle

    for start in range(0, len(entries), block):
        part = entries[start : start + block]
        handles.append((part[-1][0], add(_block(part))))
    filters, blocks = add(_block([])), add(_block(handles))
    footer = (filters + blocks).ljust(40, b"\0") + struct.pack("<Q", 0xDB4775248B80FB57)
    prefix.with_name(prefix.name + ".index").write_bytes(index + footer)
