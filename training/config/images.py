"""The keys of an image classifier's recipe, each also a flag of `vaswani-tx train image-classifier`."""

from dataclasses import dataclass
from typing import Literal

import vaswani_tx
from vaswani_tx.limits import SEED
from vaswani_tx.training.config.recipe import key
from vaswani_tx.training.config.run_settings import RunSettings
from vaswani_tx.training.errors import SettingsError
from vaswani_tx.training.metrics.registry import IMAGES, metrics_for


@dataclass
class ImageSettings(RunSettings):
    """Everything that decides the training of an image classifier."""

    positive = (*RunSettings.positive, "batch_size")

    dataset: str = key("", "digits, a folder with a sub-folder of images for each class, or a data set of the Hub.")
    dataset_config: str | None = key(None, "Configuration name of a Hub data set.")
    image_column: str | None = key(None, "Column of the images; empty: found by type and name.")
    label_column: str | None = key(None, "Column of the classes; empty: found by type and name.")
    train_split: str = key("train", "Split to train on.")
    validation_split: str | None = key(None, "Split to validate on; empty: validation, or cut from train_split.")
    test_split: str | None = key(None, "Split for the scores at the end; empty: test, or cut from train_split.")
    validation_share: float = key(0.1, "Share of train_split that is cut out for validation where there is no split.")
    test_share: float = key(0.1, "Share of train_split that is cut out as test set where there is no split.")
    split_seed: int = key(1, "Seed of these cuts.", bounds=SEED)
    image_memory: float = key(2.0, "GiB that decoded images may fill; a larger split is read again in every epoch.")

    architecture: Literal["vaswani", "vit"] = key("vaswani", "vit: transformers' ViT of the same sizes, to compare.")
    normalize: Literal["half", "data"] = key("half", "Pixels less 0.5, over 0.5; data: by the training images' own.")
    batch_size: int = key(64, "Images of one batch on one process.")
    shift: int = key(0, "Move training images by up to so many pixels in both directions, differently in every epoch.")
    flip: bool = key(False, "Mirror half of the training images left to right, others in every epoch.")
    best_by: str = key("accuracy", "Validation score that chooses best/.", choices=metrics_for(IMAGES))

    def check(self) -> None:
        """Raise SettingsError, naming the key and how to fix it, where values contradict each other."""
        super().check()
        self.check_model(vaswani_tx.PRESETS, vaswani_tx.VaswaniVisionConfig)
        self.check_least(0, "shift", "split_seed", "image_memory")
        for name in ("validation_share", "test_share"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise SettingsError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}.")
        if self.validation_share + self.test_share >= 1.0:
            raise SettingsError("validation_share and test_share together leave nothing to train on: lower them.")
        if self.architecture == "vit" and (self.label_smoothing or self.init_from):
            raise SettingsError("architecture: vit is there to compare: set label_smoothing 0 and leave init_from out.")

    def check_data(self) -> None:
        """Raise SettingsError when the recipe names no images."""
        if not self.dataset:
            raise SettingsError("dataset is empty: digits, a folder of images, or a data set of the Hub.")
