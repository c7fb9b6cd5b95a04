"""Batches of images: decoded and resized once where memory allows, shifted and mirrored differently in every epoch.

Shapes: N images of a split, B batch, C channels, X image height, Y image width.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from vaswani_tx.training.data.images import Images


class Pixels:
    """The images of one split as bytes, [C, X, Y] each, by the steps of an image processor that come before rescaling.

    Args:
        images: the split.
        processor: a `VaswaniImageProcessor`.
        memory: bytes that decoded images may fill; a larger split is read again for every batch.
    """

    def __init__(self, images: Images, processor: Any, memory: int):
        self.images, self.processor = images, processor
        size = processor.size
        self.shape = (processor.num_channels, size.height, size.width)
        fits = len(images) * int(np.prod(self.shape)) <= memory
        self._kept = np.empty((len(images), *self.shape), dtype=np.uint8) if fits else None
        self._known = np.zeros(len(images), dtype=bool)

    def __len__(self) -> int:
        return len(self.images)

    def bytes(self, indices: Sequence[int] | np.ndarray) -> np.ndarray:
        """Return the images of these indices, [B, C, X, Y] in uint8."""
        indices = np.asarray(indices)
        if self._kept is None:
            return self._read(indices)
        missing = indices[~self._known[indices]]
        if len(missing):
            self._kept[missing] = self._read(missing)
            self._known[missing] = True
        return self._kept[indices]

    def _read(self, indices: np.ndarray) -> np.ndarray:
        pictures = self.images.pictures(indices)
        return self.processor(pictures, do_rescale=False, do_normalize=False, return_tensors="np")["pixel_values"]

    def tensor(self, pixels: np.ndarray) -> torch.Tensor:
        """Return bytes [B, C, X, Y] as `pixel_values` in float32, the values that the image processor gives."""
        values = torch.from_numpy(np.ascontiguousarray(pixels)).to(torch.float32)
        if self.processor.do_rescale:
            values *= self.processor.rescale_factor
        if self.processor.do_normalize:
            mean, deviation = (
                torch.tensor(numbers, dtype=torch.float32)[:, None, None]
                for numbers in (self.processor.image_mean, self.processor.image_std)
            )
            values = (values - mean) / deviation
        return values


class ImagePlan:
    """The batches of every epoch, and how each image is shifted and mirrored in it: functions of seed and epoch alone.

    So neither resuming nor the number of processes changes what is seen.

    Args:
        size: N.
        batch_size: images of a batch; the last one of an epoch may be smaller.
        seed: with the epoch's number, decides order, shifts and mirrors.
        shift: pixels up and down, left and right, by which an image may be moved.
        flip: whether half of the images are mirrored left to right.
    """

    def __init__(self, size: int, batch_size: int, seed: int = 0, shift: int = 0, flip: bool = False):
        self.size, self.batch_size, self.seed, self.shift, self.flip = size, batch_size, seed, shift, flip
        self.shifts, self.flips = np.zeros((size, 2), dtype=np.int64), np.zeros(size, dtype=bool)

    def epoch(self, epoch: int) -> list[np.ndarray]:
        """Return all batches of an epoch in order; `changed` then changes images as this epoch does."""
        random = np.random.default_rng([self.seed, epoch])
        order = random.permutation(self.size)
        self.shifts = random.integers(-self.shift, self.shift + 1, size=(self.size, 2))
        self.flips = (random.random(self.size) < 0.5) & self.flip
        return [order[start : start + self.batch_size] for start in range(0, self.size, self.batch_size)]

    def changed(self, pixels: np.ndarray, indices: np.ndarray) -> np.ndarray:
        """Return the images [B, C, X, Y] of these indices, shifted (zeros move in) and mirrored."""
        flips = self.flips[indices]
        if flips.any():
            pixels = pixels.copy()
            pixels[flips] = pixels[flips, :, :, ::-1]
        return shifted(pixels, self.shifts[indices]) if self.shift else pixels


def shifted(pixels: np.ndarray, shifts: np.ndarray) -> np.ndarray:
    """Return images [B, C, X, Y] moved down and to the right by `shifts` [B, 2] pixels, zeros at the edges."""
    batch, channels, height, width = pixels.shape
    most = int(np.abs(shifts).max(initial=0))
    padded = np.pad(pixels, ((0, 0), (0, 0), (most, most), (most, most)))
    rows = most - shifts[:, :1] + np.arange(height)  # [B, X]
    columns = most - shifts[:, 1:] + np.arange(width)  # [B, Y]
    first = np.arange(batch)[:, None, None, None], np.arange(channels)[None, :, None, None]
    return padded[*first, rows[:, None, :, None], columns[:, None, None, :]]


def statistics(pixels: Pixels, most: int = 2000) -> tuple[list[float], list[float]]:
    """Return mean and standard deviation of each channel, as shares of 255, over at most `most` images."""
    count = min(most, len(pixels))
    chosen = np.arange(count) * len(pixels) // count
    total, squares, cells = np.zeros(pixels.shape[0]), np.zeros(pixels.shape[0]), 0
    for start in range(0, count, 256):
        values = pixels.bytes(chosen[start : start + 256]).astype(np.float64) / 255
        total += values.sum(axis=(0, 2, 3))
        squares += (values**2).sum(axis=(0, 2, 3))
        cells += values[:, 0].size
    mean = total / cells
    deviation = np.sqrt(np.maximum(squares / cells - mean**2, 0.0))
    # Images of one value only would otherwise be divided by zero.
    return [round(x, 6) for x in mean], [round(max(x, 1e-3), 6) for x in deviation]
