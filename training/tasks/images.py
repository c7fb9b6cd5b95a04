"""Classes of images: the encoder over patches, with validation by loss, accuracy, F1 and the confusion matrix.

    recipe -> prepare -> TaskComponents -> engine

Shapes: B batch, C classes, P patches of an image.
"""

import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForImageClassification, PreTrainedModel, ViTConfig, ViTForImageClassification

from vaswani_tx import VaswaniForImageClassification, VaswaniImageProcessor, VaswaniVisionConfig
from vaswani_tx.loading import explained, read_object
from vaswani_tx.training.config.images import ImageSettings
from vaswani_tx.training.data.image_batches import ImagePlan, Pixels, statistics
from vaswani_tx.training.data.images import ImageData, Images, load_images
from vaswani_tx.training.engine.run import RunContext, configure_model
from vaswani_tx.training.engine.task import BatchSize, TaskComponents, Validation
from vaswani_tx.training.errors import CheckpointError
from vaswani_tx.training.metrics import registry
from vaswani_tx.training.models.initialization import scale_attention
from vaswani_tx.training.models.loading import build_model, load_changed, load_pretrained, training_copies
from vaswani_tx.training.tasks.measured import MeasuredTask, pair_fingerprint


class ImageTask(MeasuredTask):
    """Images with one class each; the loss counts images.

    Args:
        data: the images of the three splits.
        processor: the image processor of the run.
        settings: the recipe.
    """

    family = registry.IMAGES

    def __init__(self, data: ImageData, processor: VaswaniImageProcessor, settings: ImageSettings):
        plan = ImagePlan(len(data.train), settings.batch_size, settings.seed, settings.shift, settings.flip)
        super().__init__(plan, {"label_smoothing": settings.label_smoothing} if settings.label_smoothing else {})
        self.data, self.processor, self.settings = data, processor, settings
        self.pixels = self.pixels_of(data.train)
        self.patches = 1
        self._validation = self.pixels_of(data.validation) if len(data.validation) else None

    def pixels_of(self, images: Images) -> Pixels:
        """Return the images of a split as bytes, kept where `image_memory` allows."""
        return Pixels(images, self.processor, int(self.settings.image_memory * 2**30))

    def for_model(self, model: PreTrainedModel) -> "ImageTask":
        """Set how many patches the model makes of an image; return the task."""
        patch = getattr(model.config, "patch_size", 1)
        height, width = patch if isinstance(patch, (list, tuple)) else (patch, patch)
        self.patches = (self.pixels.shape[1] // height) * (self.pixels.shape[2] // width)
        return self

    @property
    def validates(self) -> bool:
        """Return whether there are validation images."""
        return self._validation is not None

    def collate(self, indices: np.ndarray) -> dict[str, torch.Tensor]:
        """Return `pixel_values` [B, channels, height, width], shifted and mirrored by the epoch, and `labels` [B]."""
        pixels = self.plan.changed(self.pixels.bytes(indices), indices)
        labels = torch.from_numpy(self.data.train.labels[indices])
        return {"pixel_values": self.pixels.tensor(pixels), "labels": labels}

    def size(self, indices: np.ndarray) -> BatchSize:
        """Return the images, and their patches: nothing is padded."""
        return BatchSize(len(indices), len(indices) * self.patches, len(indices) * self.patches)

    def locate(self, index: int) -> str:
        """Return the place of an image."""
        return self.data.train.locate(index)

    def fingerprint(self) -> dict[str, int]:
        """Return the numbers of images, patches and labels."""
        count = len(self.data.train)
        return pair_fingerprint(count, count * self.patches, count)

    def validate(self, model: torch.nn.Module, *, final: bool, distributed: bool) -> Validation:
        """Score `loss` (nats an image, not smoothed), `accuracy` and `f1` (the mean over classes), both from 0 to 1."""
        return self.score(model, self._validation, distributed)

    def score_test(self, model: torch.nn.Module) -> Validation | None:
        """Score a model on the test split; None where there is none."""
        return self.score(model, self.pixels_of(self.data.test)) if len(self.data.test) else None

    def score(self, model: torch.nn.Module, pixels: Pixels, distributed: bool = False) -> Validation:
        """Score a model on the images of a split; the details hold every class and the confusion matrix."""
        start = time.monotonic()
        total_loss, confusion = count_confusion(
            model, pixels, len(self.data.names), 4 * self.settings.batch_size, distributed
        )
        total = int(confusion.sum())
        scores = {"loss": total_loss / total, "accuracy": float(np.trace(confusion) / total), "f1": macro_f1(confusion)}
        scores |= {"images": total, "validation_seconds": round(time.monotonic() - start, 3)}
        return Validation(scores, details=full_scores(scores, confusion, self.data.names))

    def describe_size(self) -> str:
        """Return the amount of data in a few words."""
        data = self.data
        return (
            f"{len(data.train):,} images of {len(data.names)} classes, {len(data.validation):,} to validate, "
            f"{len(data.test):,} to test"
        )


def prepare(context: RunContext) -> TaskComponents:
    """Return images, image processor, model and validation of a run."""
    settings = context.settings
    data = load_images(settings)
    processor = make_processor(context, data)
    task = ImageTask(data, processor, settings)
    return TaskComponents(
        make_model=lambda: make_model(context, data.names),
        make_task=task.for_model,
        load_model=load_model,
        processor=processor,
        describe_data=data.to_dict,
        size=task.describe_size(),
        processor_folder="processor",
    )


def make_model(context: RunContext, names: list[str]) -> PreTrainedModel:
    """Return a new model, or the one that a folder holds; raise ValueError where it does not suit the images."""
    settings = context.settings
    if context.resume_from:
        model = load_model(context.resume_from)
    elif settings.architecture == "vit":
        config = vit_config(make_config(settings, names))
        model = build_model(ViTForImageClassification, config, training_copies(settings))
    elif settings.init_from:
        # A model of as many other classes fits too, and starts with what it learned about those.
        model, new, _ = load_changed(
            VaswaniForImageClassification, settings.init_from, dtype=torch.float32, **class_names(names),
            **settings.model,
        )  # fmt: skip
        if lost := sorted(name for name in new if not name.startswith("classifier.")):
            raise CheckpointError(
                f"init_from '{settings.init_from}' lacks {len(lost)} weights of the encoder or has others of their "
                f"names, first {lost[0]!r}: its config.json belongs to another model, or `model` changes sizes."
            )
    else:
        config = make_config(settings, names)
        model = build_model(VaswaniForImageClassification, config, training_copies(settings))
        scale_attention(model, settings.attention_init_gain)
    return configure_model(model, settings)


def class_names(names: list[str]) -> dict[str, dict]:
    """Return the fields of a configuration that name the classes."""
    return {"id2label": dict(enumerate(names)), "label2id": {name: number for number, name in enumerate(names)}}


def make_config(settings: ImageSettings, names: list[str]) -> VaswaniVisionConfig:
    """Return the configuration of a new model; raise ValueError where sizes contradict each other."""
    return VaswaniVisionConfig.from_preset(
        settings.preset, problem_type="single_label_classification", **class_names(names), **settings.model_fields
    )


def vit_config(config: VaswaniVisionConfig) -> ViTConfig:
    """Return a ViT of the same sizes and rates; all else (norms first, GELU, learned positions) is ViT's."""
    return ViTConfig(
        hidden_size=config.d_model, intermediate_size=config.d_ff, num_attention_heads=config.num_heads,
        num_hidden_layers=config.num_hidden_layers, image_size=config.image_size, patch_size=config.patch_size,
        num_channels=config.num_channels, hidden_dropout_prob=config.dropout,
        attention_probs_dropout_prob=config.attention_dropout, problem_type=config.problem_type,
        id2label=config.id2label, label2id=config.label2id,
    )  # fmt: skip


def make_processor(context: RunContext, data: ImageData) -> VaswaniImageProcessor:
    """Return the image processor: its model's own, or a new one for the recipe's size, channels and `normalize`."""
    settings = context.settings
    for folder in filter(None, (context.resume_from, settings.init_from)):
        if (Path(folder) / "preprocessor_config.json").is_file():
            read_object(Path(folder) / "preprocessor_config.json")
            found = explained(str(folder), "image processor", None, VaswaniImageProcessor.from_pretrained, folder)
            if not isinstance(found.rescale_factor, (int, float)):
                raise CheckpointError(f"preprocessor_config.json of '{folder}': rescale_factor must be a number.")
            return found
    processor = VaswaniImageProcessor.from_config(make_config(settings, data.names))
    if settings.normalize == "data":
        mean, deviation = statistics(Pixels(data.train, processor, 0))
        processor.image_mean, processor.image_std = tuple(mean), tuple(deviation)
    return processor


def load_model(folder: Path) -> PreTrainedModel:
    """Return the classifier that a folder holds, of either architecture."""
    return load_pretrained(AutoModelForImageClassification, folder, dtype=torch.float32)


@torch.inference_mode()
def count_confusion(
    model: torch.nn.Module, pixels: Pixels, classes: int, batch_size: int = 256, distributed: bool = False
) -> tuple[float, np.ndarray]:
    """Return the summed loss, and [C, C]: how many images of class i were taken for class j.

    Args:
        distributed: processes share the work. A sharded model cannot: there every process does all of it in step.
    """
    device = next(model.parameters()).device
    shares = distributed and torch.distributed.is_initialized()
    rank, world = (torch.distributed.get_rank(), torch.distributed.get_world_size()) if shares else (0, 1)
    loss = torch.zeros((), dtype=torch.float64, device=device)
    confusion = torch.zeros(classes**2, dtype=torch.int64, device=device)
    training = model.training
    model.eval()
    for first in range(rank * batch_size, len(pixels), world * batch_size):
        indices = np.arange(first, min(first + batch_size, len(pixels)))
        images = pixels.tensor(pixels.bytes(indices)).to(device)
        labels = torch.from_numpy(pixels.images.labels[indices]).to(device)
        logits = model(pixel_values=images).logits.float()
        loss += torch.nn.functional.cross_entropy(logits, labels, reduction="sum").double()
        cells = labels * classes + logits.argmax(dim=-1)
        confusion += torch.bincount(cells, minlength=classes**2)
    model.train(training)
    if shares:
        torch.distributed.all_reduce(loss)
        torch.distributed.all_reduce(confusion)
    return float(loss), confusion.reshape(classes, classes).cpu().numpy()


def class_scores(confusion: np.ndarray) -> dict[str, list[float]]:
    """Return precision, recall and F1 of every class from a confusion matrix [C, C]; 0 where nothing counts."""
    hits = np.diag(confusion).astype(float)
    found, present = confusion.sum(axis=0), confusion.sum(axis=1)
    precision = hits / np.maximum(found, 1)
    recall = hits / np.maximum(present, 1)
    f1 = 2 * hits / np.maximum(found + present, 1)
    return {"precision": precision.tolist(), "recall": recall.tolist(), "f1": f1.tolist()}


def macro_f1(confusion: np.ndarray) -> float:
    """Return the mean F1 of the classes that occur, as an image's own or as a predicted one."""
    occurs = confusion.sum(axis=0) + confusion.sum(axis=1) > 0
    return float(np.mean(np.array(class_scores(confusion)["f1"])[occurs]))


def full_scores(scores: dict[str, Any], confusion: np.ndarray, names: list[str]) -> dict[str, Any]:
    """Return what goes into a file of scores: the numbers, those of each class, the confusion matrix."""
    per_class = class_scores(confusion)
    counts = confusion.sum(axis=1).tolist()
    return {
        "images": scores["images"],
        "accuracy": scores["accuracy"],
        "macro_f1": scores["f1"],
        "loss": scores["loss"],
        "classes": {
            name: {"images": counts[number], **{key: values[number] for key, values in per_class.items()}}
            for number, name in enumerate(names)
        },
        "confusion": confusion.tolist(),
    }


def show_confusion(confusion: list[list[int]], names: list[str]) -> str:
    """Return a confusion matrix as a table: a row for each true class, a column for each predicted one."""
    cells = [["", *names], *([name, *map(str, row)] for name, row in zip(names, confusion, strict=True))]
    widths = [max(len(row[column]) for row in cells) for column in range(len(cells[0]))]
    return "\n".join(" ".join(cell.rjust(width) for cell, width in zip(row, widths, strict=True)) for row in cells)
