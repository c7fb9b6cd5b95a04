"""Trains an image classifier: the paper's encoder over patches, on scikit-learn's digits, a folder or a Hub data set.

    python -m vaswani_tx.training.train_image_classifier training/recipes/image_classifier/digits.yaml --output-dir runs/digits
    python -m vaswani_tx.training.train_image_classifier --dataset pictures/ --preset tiny --model.image_size 64 \\
        --model.patch_size 8 --schedule cosine --learning-rate 1e-3 --max-epochs 30 --output-dir runs/pictures

`dataset` is `digits` (scikit-learn's, 8 x 8 grey), a folder with a sub-folder of image files for each class (or with
`train/`, `validation/`, `test/` above these), or the name of a data set on the Hub. Columns of images and labels are
found, or given. Splits that the data set lacks are cut from its training split, every class by its share, by
`split_seed`. A recipe is a YAML file; every key is also a flag (`--max-steps 100`, `--model.dropout 0.3`).

The run folder gets what `train_translation` writes (`metrics.jsonl`, `checkpoints/`, `best/`, `averaged/`, ...), the
image processor as `processor/`, and `scores.json`: accuracy, macro F1, every class and the confusion matrix on the test
split, which nothing before has looked at. `best/` is a folder for `pipeline("image-classification", model=...)`. The
same command goes on where the run stopped. A command, a recipe or data that cannot be used end with status 2.
"""

import dataclasses
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from transformers import AutoModelForImageClassification, PreTrainedModel, ViTConfig, ViTForImageClassification

from vaswani_tx import PRESETS, VaswaniForImageClassification, VaswaniImageProcessor, VaswaniVisionConfig
from vaswani_tx.training.config.recipe import key
from vaswani_tx.training.config.run_settings import RunSettings
from vaswani_tx.training.data.image_batches import ImagePlan, ImageTask, Pixels, statistics
from vaswani_tx.training.data.images import ImageData, load_images
from vaswani_tx.training.engine.checkpoint_manager import Task
from vaswani_tx.training.engine.checkpoints import latest_checkpoint
from vaswani_tx.training.engine.run import (
    RunContext,
    TaskComponents,
    command,
    configure_model,
    print_status,
    scale_attention,
    train,
)
from vaswani_tx.training.engine.run_folder import RunFolder
from vaswani_tx.training.errors import SettingsError
from vaswani_tx.training.files import atomic_text
from vaswani_tx.training.models.loading import load_pretrained
from vaswani_tx.training.tasks.image_scores import ImageValidator, full_scores, show_confusion


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
    split_seed: int = key(1, "Seed of these cuts.")
    image_memory: float = key(2.0, "GiB that decoded images may fill; a larger split is read anew in every epoch.")

    architecture: Literal["vaswani", "vit"] = key("vaswani", "vit: transformers' ViT of the same sizes, to compare.")
    normalize: Literal["half", "data"] = key("half", "Pixels less 0.5, over 0.5; data: by the training images' own.")
    batch_size: int = key(64, "Images of one batch on one process.")
    shift: int = key(0, "Move training images by up to so many pixels in both directions, anew in every epoch.")
    flip: bool = key(False, "Mirror half of the training images left to right, others in every epoch.")
    best_by: Literal["accuracy", "f1", "loss"] = key("accuracy", "Validation score that chooses best/.")

    def check(self) -> None:
        """Raises SettingsError, naming the key and the mend, where values contradict themselves."""
        super().check()
        self.check_model(PRESETS, VaswaniVisionConfig)
        self.check_least(0, "shift", "split_seed", "image_memory")
        for name in ("validation_share", "test_share"):
            if not 0.0 <= getattr(self, name) < 1.0:
                raise SettingsError(f"{name} must be at least 0 and below 1, got {getattr(self, name)}.")
        if self.validation_share + self.test_share >= 1.0:
            raise SettingsError("validation_share and test_share together leave nothing to train on: lower them.")
        if self.architecture == "vit" and (self.label_smoothing or self.init_from):
            raise SettingsError("architecture: vit is there to compare: set label_smoothing 0 and leave init_from out.")

    def check_data(self) -> None:
        """Raises SettingsError when the recipe names no images."""
        if not self.dataset:
            raise SettingsError("dataset is empty: digits, a folder of images, or a data set of the Hub.")


@dataclass
class Classification:
    """A run's images and the image processor: what its parts are made of."""

    start: RunContext
    data: ImageData
    processor: VaswaniImageProcessor
    train: Pixels
    plan: ImagePlan

    def make_model(self) -> PreTrainedModel:
        """A new model, or the one that a folder holds; raises ValueError where it does not suit the images."""
        arguments, names = self.start.arguments, self.data.names
        if arguments.architecture == "vit" and not self.start.resume_from:
            return configure_model(ViTForImageClassification(vit_config(make_config(arguments, names))), arguments)
        if self.start.resume_from:
            return configure_model(load_model(self.start.resume_from), arguments)
        if arguments.init_from:
            labels = class_names(names)
            # A model of as many other classes would fit too, and would start with what it learned about those.
            model = load_pretrained(
                VaswaniForImageClassification, arguments.init_from, dtype=torch.float32, ignore_mismatched_sizes=True,
                **labels, **arguments.model,
            )  # fmt: skip
            return configure_model(model, arguments)
        model = VaswaniForImageClassification(make_config(arguments, names))
        scale_attention(model, arguments.attention_init_gain)
        return configure_model(model, arguments)

    def make_task(self, model: PreTrainedModel) -> Task:
        """Batches, and the loss that the recipe asks for."""
        smoothing = self.start.arguments.label_smoothing
        patch = getattr(model.config, "patch_size", 1)
        height, width = patch if isinstance(patch, (list, tuple)) else (patch, patch)
        patches = (self.train.shape[1] // height) * (self.train.shape[2] // width)
        options = {"label_smoothing": smoothing} if smoothing else {}
        return Task(self.plan, self.collate, ImageTask(self.data.train, patches), options)

    def collate(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """`pixel_values` [B, C, height, width] and `labels` [B] of these training images, changed as the epoch does."""
        pixels = self.plan.changed(self.train.bytes(indices), indices)
        return {
            "pixel_values": self.train.tensor(pixels),
            "labels": torch.from_numpy(self.data.train.labels[indices]),
        }

    def validator(self, part: Any) -> ImageValidator | None:
        """What scores a model on a split; None for an empty one."""
        if not len(part):
            return None
        arguments = self.start.arguments
        pixels = Pixels(part, self.processor, int(arguments.image_memory * 2**30))
        return ImageValidator(pixels, len(self.data.names), 4 * arguments.batch_size)

    def size(self) -> str:
        """The amount of data in a few words."""
        data = self.data
        return (
            f"{len(data.train):,} images of {len(data.names)} classes, {len(data.validation):,} to validate, "
            f"{len(data.test):,} to test"
        )


def class_names(names: list[str]) -> dict[str, dict]:
    """The fields of a configuration that name the classes."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def make_config(arguments: ImageSettings, names: list[str]) -> VaswaniVisionConfig:
    """The configuration of a new model; raises ValueError where sizes contradict themselves."""
    return VaswaniVisionConfig.from_preset(
        arguments.preset, problem_type="single_label_classification", **class_names(names), **arguments.model
    )


def vit_config(config: VaswaniVisionConfig) -> ViTConfig:
    """A ViT of the same sizes and rates; what else it has (norms first, GELU, learned positions) is its own."""
    return ViTConfig(
        hidden_size=config.d_model, intermediate_size=config.d_ff, num_attention_heads=config.num_heads,
        num_hidden_layers=config.num_hidden_layers, image_size=config.image_size, patch_size=config.patch_size,
        num_channels=config.num_channels, hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.attention_dropout, problem_type=config.problem_type,
        id2label=config.id2label, label2id=config.label2id,
    )  # fmt: skip


def make_processor(arguments: ImageSettings, data: ImageData, start: RunContext) -> VaswaniImageProcessor:
    """The image processor of the run: its model's own, or a new one for the recipe's size, channels and `normalize`."""
    for place in filter(None, (start.resume_from, arguments.init_from)):
        if (Path(place) / "preprocessor_config.json").is_file():
            return VaswaniImageProcessor.from_pretrained(place)
    processor = VaswaniImageProcessor.from_config(make_config(arguments, data.names))
    if arguments.normalize == "data":
        mean, deviation = statistics(Pixels(data.train, processor, 0))
        processor.image_mean, processor.image_std = tuple(mean), tuple(deviation)
    return processor


def load_model(folder: Path) -> PreTrainedModel:
    """The classifier that a folder holds, of whichever architecture."""
    return load_pretrained(AutoModelForImageClassification, folder, dtype=torch.float32)


def prepare(start: RunContext, made: list[Classification] | None = None) -> TaskComponents:
    """The parts of a run; what they are made of is put into `made`."""
    arguments = start.arguments
    data = load_images(arguments)
    processor = make_processor(arguments, data, start)
    plan = ImagePlan(len(data.train), arguments.batch_size, arguments.seed, arguments.shift, arguments.flip)
    pixels = Pixels(data.train, processor, int(arguments.image_memory * 2**30))
    run = Classification(start, data, processor, pixels, plan)
    if made is not None:
        made.append(run)
    return TaskComponents(
        make_model=run.make_model,
        make_task=run.make_task,
        load_model=load_model,
        processor=processor,
        data=data.to_dict,
        size=run.size(),
        validate=run.validator(data.validation),
        processor_folder="processor",
    )


def score_test(run: Classification) -> dict[str, Any] | None:
    """Scores the models of a finished run on the test split and writes `scores.json`; None without such a split."""
    folder = run.start.folder
    validator = run.validator(run.data.test)
    if validator is None:
        return None
    places = [place for place in (folder.best, folder.averaged, folder.ema) if place.is_dir()]
    places = places or [latest_checkpoint(folder.checkpoints)]
    scores: dict[str, Any] = {"dataset": run.start.arguments.dataset, "names": run.data.names}
    for place in places:
        model = load_model(place).to(run.start.accelerator.device)
        scores[place.name] = full_scores(validator, model, run.data.names)
        found = scores[place.name]
        print_status(
            f"{place.name}: test accuracy {found['accuracy']:.4f}, macro F1 {found['macro_f1']:.4f}, "
            f"loss {found['loss']:.4f} ({found['images']} images)"
        )
    atomic_text(folder.path / "scores.json", json.dumps(scores, indent=1, ensure_ascii=False) + "\n")
    if len(run.data.names) <= 20:
        print_status(show_confusion(scores[places[0].name]["confusion"], run.data.names))
    return scores


def run(arguments: ImageSettings) -> None:
    """Trains and scores as the arguments say; a run that was cut off before its scores only gets these."""
    made: list[Classification] = []
    folder = RunFolder(arguments.output_dir)
    unscored = folder.finished.exists() and not (folder.path / "scores.json").exists() and not arguments.overwrite
    if arguments.output_dir and unscored and _same_end(folder, arguments):
        from accelerate import Accelerator

        start = RunContext(arguments, Accelerator(cpu=not torch.accelerator.is_available()), folder, None)
        prepare(dataclasses.replace(start, resume_from=folder.best if folder.best.is_dir() else None), made)
    else:
        train(arguments, lambda start: prepare(start, made))
    if made[0].start.accelerator.is_main_process:
        score_test(made[0])


def _same_end(folder: RunFolder, arguments: ImageSettings) -> bool:
    """Whether the command asks for nothing more than what the finished run has done; raises RunError if another run."""
    done = json.loads(folder.finished.read_text(encoding="utf-8"))
    folder.check_same(arguments)
    limit = getattr(arguments, done["reason"])
    return limit is not None and limit <= done[done["reason"]]


def main(argv: list[str] | None = None) -> int:
    """Runs the command; returns the exit status."""
    return command(argv, ImageSettings, __doc__, run)


if __name__ == "__main__":
    sys.exit(main())
