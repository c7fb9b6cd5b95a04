"""Pack arrays and texts into one compressed block that a page can carry, and read it back.

A number is stored as a whole multiple of a power of ten (0.1234 as 1234 times 0.0001), so the digits that a page shows
are the rounded digits of the model, not those of some other scale. Layout before compression: the length of the header
in four bytes (little endian), the header as JSON in UTF-8, then the arrays, one after the other. Integers of two and
four bytes are stored byte plane by byte plane, lowest bytes first: the high bytes of small numbers then compress well.
"""

import base64
import json
import zlib
from typing import Any

import numpy as np

from vaswani_tx.errors import ExplainError

TYPES = (np.uint8, np.uint16, np.int16, np.uint32, np.int32)


class Packer:
    """Collects arrays under names; `pack` returns the block and `size` estimates it."""

    def __init__(self) -> None:
        self.entries: list[dict[str, Any]] = []
        self.blocks: list[bytes] = []

    def add(self, name: str, values: Any, decimals: int = 0) -> str:
        """Store `values` rounded to `decimals` digits after the point, and return the name.

        Fewer digits are kept where the numbers are so large that 32 bits do not hold them.

        Raises:
            ExplainError: a value is not finite.
        """
        array = np.asarray(values, dtype=np.float64)
        if not np.isfinite(array).all():
            raise ExplainError(
                f"The model computes numbers that are not finite ({name}): its weights are damaged or overflow in this "
                "type; load it in float32, or check the checkpoint."
            )
        largest = float(np.abs(array).max(initial=0.0))
        while largest * 10.0**decimals > 2**31 - 1:
            decimals -= 1
        whole = np.rint(array * 10.0**decimals)
        kind = next(kind for kind in TYPES if _fits(whole, kind))
        whole = whole.astype(kind)
        planes = whole.reshape(-1, 1).view(np.uint8).reshape(whole.size, whole.itemsize)
        self.entries.append(
            {"name": name, "type": np.dtype(kind).name, "shape": list(array.shape), "decimals": decimals}
        )
        self.blocks.append(planes.T.tobytes())
        return name

    def pack(self, meta: dict[str, Any]) -> str:
        """Return the block with `meta` and all arrays as base64 of a zlib stream."""
        header = json.dumps({"meta": meta, "arrays": self.entries}, ensure_ascii=False, allow_nan=False).encode("utf-8")
        raw = b"".join([len(header).to_bytes(4, "little"), header, *self.blocks])
        return base64.b64encode(zlib.compress(raw, 9)).decode("ascii")


def _fits(whole: np.ndarray, kind: type) -> bool:
    limits = np.iinfo(kind)
    return whole.size == 0 or (whole.min() >= limits.min and whole.max() <= limits.max)


def unpack(text: str) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what was packed: `meta`, and each array as float64 with the digits that were kept."""
    raw = zlib.decompress(base64.b64decode(text))
    start = 4 + int.from_bytes(raw[:4], "little")
    header = json.loads(raw[4:start].decode("utf-8"))
    arrays = {}
    for entry in header["arrays"]:
        kind = np.dtype(entry["type"])
        count = int(np.prod(entry["shape"], dtype=np.int64))
        block = np.frombuffer(raw, np.uint8, count * kind.itemsize, start).reshape(kind.itemsize, count)
        whole = np.ascontiguousarray(block.T).view(kind).reshape(entry["shape"])
        arrays[entry["name"]] = whole / 10.0 ** entry["decimals"]
        start += count * kind.itemsize
    return header["meta"], arrays
