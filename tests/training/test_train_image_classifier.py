"""Training image classifiers: splits, batches, scores, the command from a folder of pictures to the pipeline."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace

import datasets
import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from PIL import Image
from transformers import AutoModelForImageClassification, ViTForImageClassification, pipeline

from tests.helpers import ROOT
from tests.helpers.processes import run_child
from tests.helpers.training_runs import CLOCKS, records
from vaswani_tx import VaswaniImageProcessor
from vaswani_tx.training import train_image_classifier
from vaswani_tx.training.config.images import ImageSettings
from vaswani_tx.training.config.recipe import parse
from vaswani_tx.training.data.image_batches import ImagePlan, Pixels, shifted, statistics
from vaswani_tx.training.data.images import Images, cut, load_images
from vaswani_tx.training.engine.checkpoints import list_checkpoints
from vaswani_tx.training.errors import ImageDataError, SettingsError
from vaswani_tx.training.tasks.images import class_scores, count_confusion, macro_f1, show_confusion

CLASSES = ["across", "cross", "down"]


def drawing(kind: str, random: np.random.Generator) -> np.ndarray:
    """A grey picture of 8 x 8 pixels with a bright row, a bright column or both, on noise."""
    pixels = random.integers(0, 60, (8, 8), dtype=np.uint8)
    row, column = random.integers(1, 7, 2)
    if kind != "down":
        pixels[row] = 255
    if kind != "across":
        pixels[:, column] = 255
    return pixels


def draw(folder: Path, count: int, seed: int = 0) -> Path:
    random = np.random.default_rng(seed)
    for kind in CLASSES:
        (folder / kind).mkdir(parents=True)
        for number in range(count):
            Image.fromarray(drawing(kind, random)).save(folder / kind / f"{number:02}.png")
    return folder


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """20 pictures of each of three classes."""
    return draw(tmp_path_factory.mktemp("pictures") / "all", 20)


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path_factory):
    """What datasets makes of folders stays out of the user's cache."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")


def keys(**changes) -> ImageSettings:
    return ImageSettings(**{"schedule": "constant", "learning_rate": 1e-3, **changes})


def flags(data, output, **changes):
    values = {
        "output_dir": output, "dataset": data, "validation_share": 0.2, "test_share": 0.2, "preset": "tiny",
        "model.image_size": 8, "model.patch_size": 4, "model.num_channels": 1, "model.d_model": 16, "model.d_ff": 32,
        "model.num_heads": 2, "model.num_hidden_layers": 1, "model.dropout": 0.1, "batch_size": 16, "shift": 1,
        "flip": "true", "schedule": "constant", "learning_rate": 0.003, "warmup_steps": 5, "log_every": 2,
        "eval_every": "null", "save_every": 3, "tracker": "none", "max_steps": 6, "average_last": 2,
    }  # fmt: skip
    values |= changes
    return [word for name, value in values.items() for word in (f"--{name}", str(value))]


def run(data, output, expect=0, **changes):
    AcceleratorState._reset_state(reset_partial_state=True)
    assert train_image_classifier.main(flags(data, output, **changes)) == expect
    return Path(output)


# Batches


def test_shifts_move_zeros_in():
    random = np.random.default_rng(0)
    pixels = random.integers(1, 256, (6, 2, 5, 4), dtype=np.uint8)
    shifts = np.array([[0, 0], [1, 0], [0, -2], [-1, 2], [2, 2], [-5, 0]])
    found = shifted(pixels, shifts)
    for image, moved, (down, right) in zip(pixels, found, shifts, strict=True):
        for x in range(5):
            for y in range(4):
                inside = 0 <= x - down < 5 and 0 <= y - right < 4
                expected = image[:, x - down, y - right] if inside else [0, 0]
                assert moved[:, x, y].tolist() == list(expected)


def test_an_epoch_shows_every_image_once_and_depends_on_seed_and_epoch_alone():
    plan, other = (ImagePlan(23, 5, seed=3, shift=2, flip=True) for _ in range(2))
    pixels = np.arange(23 * 9, dtype=np.uint8).reshape(23, 1, 3, 3)
    other.epoch(7)  # asked for in another order, as a resumed run does
    seen = []
    for epoch in (0, 1):
        batches, again = plan.epoch(epoch), other.epoch(epoch)
        assert [len(batch) for batch in batches] == [5, 5, 5, 5, 3]
        assert sorted(np.concatenate(batches)) == list(range(23))
        for batch, repeated in zip(batches, again, strict=True):
            np.testing.assert_array_equal(batch, repeated)
            np.testing.assert_array_equal(plan.changed(pixels[batch], batch), other.changed(pixels[batch], batch))
        assert plan.shifts.min() == -2 and plan.shifts.max() == 2 and 0 < plan.flips.sum() < 23
        seen.append((np.concatenate(batches), plan.shifts, plan.flips))
    assert all((first != second).any() for first, second in zip(*seen, strict=True))
    still = ImagePlan(23, 5)
    batch = still.epoch(0)[0]
    np.testing.assert_array_equal(still.changed(pixels[batch], batch), pixels[batch])


def test_a_mirrored_image_is_mirrored_left_to_right():
    plan = ImagePlan(2, 2, flip=True)
    plan.flips = np.array([False, True])
    pixels = np.arange(12, dtype=np.uint8).reshape(2, 1, 2, 3)
    found = plan.changed(pixels, np.array([0, 1]))
    assert found[0].tolist() == pixels[0].tolist() and found[1, 0].tolist() == [[8, 7, 6], [11, 10, 9]]
    assert pixels[1, 0].tolist() == [[6, 7, 8], [9, 10, 11]]


@pytest.mark.parametrize("memory", [0, 10**6])
def test_pixels_are_what_the_image_processor_gives(memory):
    source = np.random.default_rng(0).integers(0, 256, (9, 10, 12), dtype=np.uint8)
    images = Images(source, np.array([8, 2, 5, 0]), np.zeros(4, dtype=np.int64), "noise")
    processor = VaswaniImageProcessor(size=[8, 6], num_channels=3, image_mean=[0.1, 0.2, 0.3], image_std=0.7)
    pixels = Pixels(images, processor, memory)
    for indices in ([1, 3], [3, 0, 1], [2]):
        found = pixels.tensor(pixels.bytes(indices))
        expected = processor(list(source[images.rows[indices]]), return_tensors="pt")["pixel_values"]
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=0)
    plain = VaswaniImageProcessor(size=8, num_channels=1)
    mean, deviation = statistics(Pixels(images, plain, 0))
    values = plain(list(source[images.rows]), do_normalize=False, return_tensors="np")["pixel_values"]
    assert mean == [pytest.approx(values.mean(), abs=1e-5)] and deviation == [pytest.approx(values.std(), abs=1e-5)]


# Data


def test_parts_are_cut_by_class_and_seed():
    labels = np.repeat([0, 1, 2], [50, 30, 21])
    images = Images(np.zeros((101, 1, 1)), np.arange(101), labels, "x")
    parts = cut(images, [0.2, 0.1], seed=4)
    assert sorted(np.concatenate([part.rows for part in parts])) == list(range(101))
    assert [np.bincount(part.labels).tolist() for part in parts] == [[10, 6, 4], [5, 3, 2], [35, 21, 15]]
    for part, again, other in zip(parts, cut(images, [0.2, 0.1], 4), cut(images, [0.2, 0.1], 5), strict=True):
        assert (part.labels == labels[part.rows]).all()
        assert part.rows.tolist() == again.rows.tolist() != other.rows.tolist()


def test_a_folder_without_splits_is_cut_and_one_with_splits_is_not(pictures, tmp_path):
    data = load_images(keys(dataset=str(pictures), test_share=0.25))
    assert data.names == CLASSES and [len(data.train), len(data.validation), len(data.test)] == [39, 6, 15]
    assert data.to_dict()["test"]["classes"] == {"across": 5, "cross": 5, "down": 5}
    files = [np.array(Image.open(file)) for kind in CLASSES for file in sorted((pictures / kind).iterdir())]
    for part in (data.train, data.validation, data.test):
        for label, row, picture in zip(part.labels, part.rows, part.pictures(np.arange(len(part))), strict=True):
            assert label == row // 20 and (np.array(picture) == files[row]).all()
    for name, count in (("train", 6), ("validation", 2), ("test", 3)):
        draw(tmp_path / "split" / name, count, seed=count)
    named = load_images(keys(dataset=str(tmp_path / "split")))
    assert [len(named.train), len(named.validation), len(named.test)] == [18, 6, 9]
    renamed = load_images(keys(dataset=str(tmp_path / "split"), validation_split="test", test_split="validation"))
    assert [len(renamed.validation), len(renamed.test)] == [9, 6]


def table(folder: Path, **columns) -> str:
    """A folder that holds one parquet file for each split, images stored as a data set of the Hub does."""
    folder.mkdir()
    for split, labels in columns.items():
        random = np.random.default_rng(1)
        drawn = [Image.fromarray(drawing("cross", random)) for _ in labels]
        found = datasets.Dataset.from_dict({"photo": drawn, "kind": labels, "extra": labels})
        found.cast_column("photo", datasets.Image()).to_parquet(folder / f"{split}.parquet")
    return str(folder)


def test_columns_are_found_or_given_and_classes_may_be_words(tmp_path):
    words = ["cat", "ant", "bee", "cat"] * 5
    place = table(tmp_path / "words", train=words)
    with pytest.raises(ImageDataError, match=r"photo, kind, extra.*set label_column"):
        load_images(keys(dataset=place))
    with pytest.raises(ImageDataError, match="label_column 'sort' is none of the columns photo, kind, extra"):
        load_images(keys(dataset=place, label_column="sort"))
    data = load_images(keys(dataset=place, label_column="kind"))
    assert data.names == ["ant", "bee", "cat"]
    assert np.bincount(data.train.labels).tolist() == [4, 4, 8]
    assert data.train.pictures([0, 1])[1].size == (8, 8)
    assert load_images(keys(dataset=place, label_column="kind", image_column="photo")).names == data.names


def test_labels_that_are_withheld_or_unknown(tmp_path):
    place = table(tmp_path / "withheld", train=["a", "b"] * 10, test=[None, None])
    data = load_images(keys(dataset=place, label_column="kind"))
    assert len(data.test) == 2 and data.test.origin.endswith("split train")
    with pytest.raises(ImageDataError, match="no labelled split 'test'"):
        load_images(keys(dataset=place, label_column="kind", test_split="test"))
    place = table(tmp_path / "unknown", train=["a", "b"] * 10, test=["a", "c"])
    with pytest.raises(ImageDataError, match="split test, row 1: the label 'c' in 'kind' is none of the classes"):
        load_images(keys(dataset=place, label_column="kind"))
    place = table(tmp_path / "null", train=[None, *["a", "b"] * 10])
    with pytest.raises(ImageDataError, match=r"split train, row 0: the label None in 'kind' .* remove the row"):
        load_images(keys(dataset=place, label_column="kind"))
    place = table(tmp_path / "single", train=["a"] * 4)
    with pytest.raises(ImageDataError, match="has 1 class"):
        load_images(keys(dataset=place, label_column="kind"))


def test_data_sets_that_are_not_there(tmp_path, pictures):
    with pytest.raises(ImageDataError, match="neither 'digits', nor a folder"):
        load_images(keys(dataset=str(tmp_path / "nowhere")))
    (tmp_path / "file.png").write_bytes(b"")
    with pytest.raises(ImageDataError, match="is a file"):
        load_images(keys(dataset=str(tmp_path / "file.png")))
    with pytest.raises(ImageDataError, match="no split 'learn' but train: set train_split"):
        load_images(keys(dataset=str(pictures), train_split="learn"))


def test_digits_need_scikit_learn(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.datasets", None)
    with pytest.raises(ImageDataError, match="pip install scikit-learn"):
        load_images(keys(dataset="digits"))


def test_the_recipe_of_the_digits_names_images_that_are_there():
    pytest.importorskip("sklearn")
    arguments = parse([str(ROOT / "training" / "recipes" / "image_classifier" / "digits.yaml")], ImageSettings)
    data = load_images(arguments)
    assert [len(data.train), len(data.validation), len(data.test)] == [1258, 180, 359]
    assert data.names == list("0123456789")
    pixels = Pixels(data.train, VaswaniImageProcessor(size=8, num_channels=1), 0).bytes([0, 1])
    assert pixels.shape == (2, 1, 8, 8) and pixels.max() == 255


# Scores


def test_scores_are_those_of_the_definitions():
    confusion = np.array([[3, 1, 0], [0, 0, 0], [2, 0, 4]])
    found = class_scores(confusion)
    assert found["precision"] == [3 / 5, 0, 1] and found["recall"] == [3 / 4, 0, 4 / 6]
    assert found["f1"] == pytest.approx([2 * 3 / 9, 0, 2 * 4 / 10])
    assert macro_f1(confusion) == pytest.approx((2 / 3 + 0 + 0.8) / 3)  # class 1 was found, though it was never there
    assert macro_f1(np.diag([2, 0, 1])) == 1.0
    lines = show_confusion(confusion.tolist(), ["a", "bb", "c"]).splitlines()
    assert lines[0].split() == ["a", "bb", "c"] and lines[3].split() == ["c", "2", "0", "4"]
    assert len({len(line) for line in lines}) == 1


def test_every_image_is_counted_once():
    source = np.zeros((11, 2, 2), dtype=np.uint8)
    source[:, 0, 0] = np.arange(11)
    labels = np.arange(11) % 3
    images = Images(source, np.arange(11), labels, "x")
    processor = VaswaniImageProcessor(size=2, num_channels=1, do_normalize=False, rescale_factor=1.0)

    class Guess(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.unused = torch.nn.Parameter(torch.zeros(()))

        def forward(self, pixel_values):
            guessed = (pixel_values[:, 0, 0, 0].long() // 2) % 3
            return SimpleNamespace(logits=4.0 * torch.nn.functional.one_hot(guessed, 3).float())

    model = Guess().train()
    loss, confusion = count_confusion(model, Pixels(images, processor, 0), 3, batch_size=4)
    guesses = np.arange(11) // 2 % 3
    expected = np.zeros((3, 3), dtype=int)
    for label, guess in zip(labels, guesses, strict=True):
        expected[label, guess] += 1
    assert confusion.tolist() == expected.tolist() and confusion.sum() == 11 and model.training
    assert np.trace(confusion) / 11 == pytest.approx((labels == guesses).mean())
    logits = 4.0 * np.eye(3)[guesses]
    nats = -(logits[np.arange(11), labels] - np.log(np.exp(logits).sum(-1))).mean()
    assert loss / 11 == pytest.approx(nats, abs=1e-6)


# The command


@pytest.mark.parametrize(
    "changes, expected",
    [
        ({"shift": -1}, "shift must be at least 0"),
        ({"test_share": 1.0}, "test_share must be at least 0 and below 1"),
        ({"test_share": 0.6, "validation_share": 0.5}, "leave nothing to train on"),
        ({"model": {"patch": 2}}, "VaswaniVisionConfig has no field 'patch': did you mean 'patch_size'"),
        ({"preset": "tin"}, "preset.*did you mean 'tiny'"),
        ({"architecture": "vit"}, "set label_smoothing 0"),
        ({"batch_size": 0}, "batch_size must be greater than 0"),
    ],
)
def test_keys_that_cannot_be_used(changes, expected):
    with pytest.raises(SettingsError, match=expected):
        keys(**changes)


def test_wrong_commands_end_with_status_2_and_leave_nothing(pictures, tmp_path, capsys, fresh_accelerate):
    for changes, expected in (
        ({"dataset": ""}, "dataset is empty"),
        ({"model.patch_size": 3}, "patch_size=3 does not divide image_size=8"),
        ({"test_share": 0.5, "validation_share": 0.499}, "no image is left"),
    ):
        run(pictures, tmp_path / "run", expect=2, **changes)
        assert expected in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def trained(pictures, tmp_path_factory):
    """A run that has learned to tell the three classes apart."""
    changes = {"max_steps": 150, "log_every": 50, "eval_every": 50, "save_every": 50, "model.dropout": 0.0, "shift": 0,
               "label_smoothing": 0.0, "learning_rate": 0.01, "normalize": "data", "model.patch_size": 8}  # fmt: skip
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.getbasetemp() / "datasets")
        yield run(pictures, tmp_path_factory.mktemp("runs") / "trained", **changes)


def test_a_folder_of_pictures_is_learned_and_scored(trained, fresh_accelerate):
    scores = json.loads((trained / "scores.json").read_text(encoding="utf-8"))
    assert scores["names"] == CLASSES and scores["best"]["images"] == 12
    assert np.sum(scores["best"]["confusion"]) == 12
    assert scores["best"]["accuracy"] == np.trace(scores["best"]["confusion"]) / 12 > 0.6
    assert set(scores["best"]["classes"]["cross"]) == {"images", "precision", "recall", "f1"}
    losses = [record["loss"] for record in records(trained, "train")]
    assert losses[-1] < 0.5 * losses[0]
    assert records(trained, "train")[-1]["target_tokens"] == 150 // 3 * 36  # images seen: 36 in batches of 16, 16, 4
    assert {"loss", "accuracy", "f1"} <= set(records(trained, "validation")[-1])
    assert (trained / "processor" / "preprocessor_config.json").is_file()
    data = json.loads((trained / "data.json").read_text(encoding="utf-8"))
    assert data["train"]["classes"] == dict.fromkeys(CLASSES, 12)
    mean = json.loads((trained / "best" / "preprocessor_config.json").read_text(encoding="utf-8"))["image_mean"]
    assert len(mean) == 1 and mean[0] != 0.5


def test_a_process_that_did_not_train_classifies_by_name(trained, tmp_path):
    picture = tmp_path / "new.png"
    Image.fromarray(drawing("down", np.random.default_rng(9))).convert("RGB").resize((40, 40)).save(picture)

    def classify():
        print(json.dumps(pipeline("image-classification", model=str(trained / "best"))(str(picture))))

    done = run_child(classify)
    assert done.returncode == 0 and "not supported" not in done.errors, done.errors
    answer = json.loads(done.output)
    assert sorted(entry["label"] for entry in answer) == CLASSES
    assert sum(entry["score"] for entry in answer) == pytest.approx(1, abs=1e-3)


def test_a_resumed_run_equals_the_run_that_never_stopped(pictures, tmp_path, fresh_accelerate):
    whole = run(pictures, tmp_path / "whole", max_steps=7)
    stopped = run(pictures, tmp_path / "stopped", max_steps=4)
    run(pictures, stopped, max_steps=7)
    first, second = (
        [{name: value for name, value in record.items() if name not in CLOCKS} for record in records(folder, "train")]
        for folder in (whole, stopped)
    )
    assert [record for record in second if record["step"] != 4 or record in first] == first
    for one, other in ((list_checkpoints(folder / "checkpoints")[-1] for folder in (whole, stopped)),):
        models = [AutoModelForImageClassification.from_pretrained(place) for place in (one, other)]
        for name, weight in models[0].state_dict().items():
            assert torch.equal(weight, models[1].state_dict()[name]), name


def test_a_finished_run_is_left_alone_and_one_without_scores_gets_them(pictures, tmp_path, capsys, fresh_accelerate):
    output = run(pictures, tmp_path / "run")
    before = (output / "scores.json").read_text(encoding="utf-8")
    run(pictures, output, expect=2)
    assert "is finished" in capsys.readouterr().err
    (output / "scores.json").unlink()
    run(pictures, output)
    assert (output / "scores.json").read_text(encoding="utf-8") == before
    (output / "scores.json").unlink()
    run(pictures, output, expect=2, batch_size=8)
    assert re.search("holds a different run: batch_size was 16 and is now 8", capsys.readouterr().err)


def test_a_trained_model_learns_other_classes(trained, tmp_path, fresh_accelerate):
    random = np.random.default_rng(3)
    for kind in ("down", "across"):
        (tmp_path / "two" / f"new_{kind}").mkdir(parents=True)
        for number in range(10):
            Image.fromarray(drawing(kind, random)).save(tmp_path / "two" / f"new_{kind}" / f"{number}.png")
    changes = {"init_from": trained / "best", "max_steps": 2}
    changes |= {"model.patch_size": 8, "model.dropout": 0.0}
    output = run(tmp_path / "two", tmp_path / "run", **changes)
    model = AutoModelForImageClassification.from_pretrained(output / "best")
    assert model.config.id2label == {0: "new_across", 1: "new_down"} and model.classifier.out_features == 2
    former = AutoModelForImageClassification.from_pretrained(trained / "best")
    distance = (model.model.embedding.projection.weight - former.model.embedding.projection.weight).abs().max()
    assert 0 < distance < 0.05
    kept = [
        json.loads((place / "preprocessor_config.json").read_text()) for place in (output / "best", trained / "best")
    ]
    assert kept[0] == kept[1]


def test_transformers_vit_is_trained_by_the_same_command(pictures, tmp_path, fresh_accelerate):
    output = run(pictures, tmp_path / "run", architecture="vit", label_smoothing=0.0, max_steps=3)
    model = AutoModelForImageClassification.from_pretrained(output / "best")
    assert isinstance(model, ViTForImageClassification) and model.config.id2label[1] == "cross"
    assert json.loads((output / "scores.json").read_text(encoding="utf-8"))["best"]["images"] == 12
