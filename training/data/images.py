"""Labelled images for training: scikit-learn's digits, a folder with a sub-folder a class, or any data set of the Hub.

Shapes: N images of a split, C classes.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import datasets
import numpy as np

from vaswani_tx.training.errors import ImageDataError

DIGITS = "digits"
IMAGE_NAMES = ("image", "img", "picture", "pixel_values")
LABEL_NAMES = ("label", "labels", "fine_label", "class", "target", "category")
VALIDATION_NAMES = ("validation", "valid", "val", "dev")


@dataclass
class Images:
    """One split.

    Args:
        source: a `datasets.Dataset` with the column `column`, or an array [N, height, width] of grey values.
        rows: [N], which rows of the source belong to the split.
        labels: [N], the class of each, counted from 0.
        origin: what messages call the split.
    """

    source: Any
    rows: np.ndarray
    labels: np.ndarray
    origin: str
    column: str = "image"

    def __len__(self) -> int:
        return len(self.rows)

    def pictures(self, indices: Sequence[int] | np.ndarray) -> list[Any]:
        """Return the images of these indices of the split, as an image processor takes them; raise ImageDataError."""
        rows = self.rows[np.asarray(indices)]
        if isinstance(self.source, np.ndarray):
            return list(self.source[rows][:, None])  # [B, height, width] -> B times [1, height, width]
        try:
            found = self.source[rows.tolist()][self.column]
        except Exception as error:  # each decoder has exceptions of its own
            raise ImageDataError(f"{self.origin}: an image cannot be read ({error}): fix or remove it.") from error
        for row, picture in zip(rows, found, strict=True):
            if picture is None:
                raise ImageDataError(f"{self.origin}: row {row} has no image in '{self.column}': remove the row.")
        return found

    def locate(self, index: int) -> str:
        """Return a place in the split for messages."""
        return f"{self.origin}, row {self.rows[index]}"


@dataclass
class ImageData:
    """Three splits and the names of the classes; an empty split has length 0."""

    train: Images
    validation: Images
    test: Images
    names: list[str]

    def to_dict(self) -> dict[str, Any]:
        """Return how many images each split holds of each class."""
        counts = {}
        for name in ("train", "validation", "test"):
            part = getattr(self, name)
            found = np.bincount(part.labels, minlength=len(self.names))
            per_class = dict(zip(self.names, found.tolist(), strict=True))
            counts[name] = {"images": len(part), "from": part.origin, "classes": per_class}
        return counts


def load_images(settings: Any) -> ImageData:
    """Return the splits that the keys name: those of the data set, the others cut out of its training split by seed.

    Args:
        settings: `dataset`, `dataset_config`, `image_column`, `label_column`, `train_split`, `validation_split`,
            `test_split`, `validation_share`, `test_share`, `split_seed` (see `train_image_classifier`).

    Raises:
        ImageDataError: no such data set, split or column, classes without a name, or labels that are missing.
    """
    name = settings.dataset
    if name == DIGITS:
        splits, names = {settings.train_split: _digits()}, [str(digit) for digit in range(10)]
    else:
        splits, names = _labelled(_open(name, settings.dataset_config), settings)
    if settings.train_split not in splits:
        raise ImageDataError(
            f"dataset '{name}' has no split '{settings.train_split}' but {', '.join(splits)}: set train_split."
        )
    train = splits[settings.train_split]
    validation = _split(splits, settings.validation_split, VALIDATION_NAMES, name, "validation_split")
    test = _split(splits, settings.test_split, ("test",), name, "test_split")
    shares = [0.0 if test else settings.test_share, 0.0 if validation else settings.validation_share]
    cut_test, cut_validation, rest = cut(train, shares, settings.split_seed)
    if not len(rest):
        raise ImageDataError(f"{train.origin}: no image is left to train on: lower validation_share or test_share.")
    return ImageData(rest, validation or cut_validation, test or cut_test, names)


def cut(images: Images, shares: Sequence[float], seed: int) -> list[Images]:
    """Return parts of a split, one for each share and one for what remains, each class in every part by its share."""
    parts: list[list[np.ndarray]] = [[] for _ in range(len(shares) + 1)]
    for label in np.unique(images.labels):
        members = np.flatnonzero(images.labels == label)
        members = members[np.random.default_rng([seed, int(label)]).permutation(len(members))]
        ends = np.rint(np.cumsum([0.0, *shares]) * len(members)).astype(int)
        for number, (start, end) in enumerate(zip(ends, [*ends[1:], len(members)], strict=True)):
            parts[number].append(members[start:end])
    found = []
    for part in parts:
        members = np.sort(np.concatenate(part)) if part else np.zeros(0, dtype=np.int64)
        found.append(Images(images.source, images.rows[members], images.labels[members], images.origin, images.column))
    return found


def _digits() -> Images:
    try:
        from sklearn.datasets import load_digits
    except ImportError:
        raise ImageDataError(
            "dataset 'digits' is scikit-learn's, which is not installed: pip install scikit-learn, or name a folder of "
            "images or a data set of the Hub."
        ) from None
    found = load_digits()
    # 8 x 8 pixels with values from 0 to 16, as bytes, which every image file has.
    pixels = np.rint(found.images * (255 / 16)).astype(np.uint8)
    return Images(pixels, np.arange(len(pixels)), found.target.astype(np.int64), "digits")


def _open(name: str, configuration: str | None) -> dict[str, datasets.Dataset]:
    if os.path.exists(name) and not os.path.isdir(name):
        raise ImageDataError(f"dataset '{name}' is a file: name a folder with a sub-folder for each class.")
    try:
        found = datasets.load_dataset(name, configuration)
    except Exception as error:  # load_dataset raises a dozen classes, all of which mean this to the user
        raise ImageDataError(
            f"dataset '{name}' is neither 'digits', nor a folder with a sub-folder for each class, nor a data set of "
            f"the Hub that loads with dataset_config={configuration!r}: {error}"
        ) from error
    return dict(found)


def _labelled(splits: dict[str, datasets.Dataset], settings: Any) -> tuple[dict[str, Images], list[str]]:
    """Return every split with its labels as numbers, and the names of the classes."""
    train = splits.get(settings.train_split) or next(iter(splits.values()))
    image = _column(train, settings.image_column, IMAGE_NAMES, "image_column", _is_image)
    label = _column(train, settings.label_column, LABEL_NAMES, "label_column", _is_class)
    feature = train.features[label]
    # Where the data set does not name its classes, the training split's labels in order are the names.
    names = list(feature.names) if _is_class(feature) else None
    known = (
        names
        if names is not None
        else sorted(
            {value for value in _values(train, label) if value is not None}, key=lambda value: (str(type(value)), value)
        )
    )
    if len(known) < 2:
        raise ImageDataError(f"label_column '{label}' has {len(known)} class: at least two are needed.")
    numbers = {value: number for number, value in enumerate(known)}
    found = {}
    for name, split in splits.items():
        if image not in split.column_names or label not in split.column_names:
            continue
        if not _is_image(split.features[image]):
            split = split.cast_column(image, datasets.Image())
        origin = f"{settings.dataset}, split {name}"
        labels = _numbers(split, label, numbers if names is None else None, len(known), origin)
        if labels is not None:
            found[name] = Images(split, np.arange(len(split)), labels, origin, image)
    return found, [str(value) for value in known]


def _numbers(split, column: str, numbers: dict | None, count: int, origin: str) -> np.ndarray | None:
    """Return the labels of a split as numbers; None where all of them are withheld, as in test sets of contests."""
    values = _values(split, column)
    if all(value is None or value == -1 for value in values):
        return None
    found = np.empty(len(values), dtype=np.int64)
    for row, value in enumerate(values):
        number = value if numbers is None else numbers.get(value)
        if not isinstance(number, int) or not 0 <= number < count:
            fix = "name its class, or remove the row" if value is None else "fix it"
            raise ImageDataError(
                f"{origin}, row {row}: the label {value!r} in '{column}' is none of the classes; {fix}."
            )
        found[row] = number
    return found


def _values(split: datasets.Dataset, column: str) -> list[Any]:
    # Of this column only, so that no image is decoded.
    return split.select_columns([column])[:][column]


def _column(split: datasets.Dataset, given: str | None, usual: tuple[str, ...], key: str, fits) -> str:
    columns = split.column_names
    if given is not None:
        if given not in columns:
            raise ImageDataError(f"{key} '{given}' is none of the columns {', '.join(columns)}.")
        return given
    candidates = [name for name in columns if fits(split.features[name])]
    named = [name for name in usual if name in (candidates or columns)]
    if named or len(candidates) == 1:
        return named[0] if named else candidates[0]
    raise ImageDataError(f"Which of the columns {', '.join(columns)} to take is not clear: set {key}.")


def _split(splits: dict[str, Images], given: str | None, usual: tuple[str, ...], dataset: str, key: str):
    if given is not None and given not in splits:
        raise ImageDataError(
            f"dataset '{dataset}' has no labelled split '{given}' but {', '.join(splits)}: fix {key}, or leave it out "
            "to have one cut from the training split."
        )
    return splits.get(given) if given else next((splits[name] for name in usual if name in splits), None)


def _is_image(feature: Any) -> bool:
    return isinstance(feature, datasets.Image)


def _is_class(feature: Any) -> bool:
    return isinstance(feature, datasets.ClassLabel)
