"""The image processor against arithmetic written out in numpy, against ViT's, and through the Auto class."""

import json
import subprocess
import sys

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import AutoImageProcessor, ViTImageProcessorPil

from vaswani_tx import VaswaniImageProcessor, VaswaniVisionConfig


def pixels(height=10, width=14, channels=3, seed=0):
    shape = (height, width, channels) if channels > 1 else (height, width)
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


def picture(*shape, **options):
    return Image.fromarray(pixels(*shape, **options))


def run(images, **options):
    return VaswaniImageProcessor(**options)(images, return_tensors="np")["pixel_values"]


def untouched(num_channels=3, **options):
    """A processor that changes nothing but the channels."""
    return {"num_channels": num_channels, "do_resize": False, "do_rescale": False, "do_normalize": False, **options}


def test_the_values_are_those_of_the_formula():
    image = pixels(6, 8)
    means, deviations = [0.1, 0.2, 0.3], [0.5, 0.25, 2.0]
    found = run(Image.fromarray(image), size=[6, 8], image_mean=means, image_std=deviations)
    expected = np.zeros((1, 3, 6, 8))
    for channel in range(3):
        expected[0, channel] = (image[:, :, channel] / 255 - means[channel]) / deviations[channel]
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, atol=1e-6)


def test_halving_a_picture_of_even_squares_gives_their_values():
    # Every 4 x 4 square has one value, so that the bilinear filter's reach stays within it at the squares' middle.
    squares = pixels(3, 5, channels=1)
    large = np.kron(squares, np.ones((9, 9), dtype=np.uint8))
    found = run(Image.fromarray(large), **untouched(1, do_resize=True, size=[9, 15]))
    assert found.shape == (1, 1, 9, 15)
    np.testing.assert_array_equal(found[0, 0, 1::3, 1::3], squares)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"size": {"height": 16, "width": 9}},
        {"size": {"shortest_edge": 7}},
        {"size": 8, "resample": 3},
        {"do_resize": False},
        {"do_rescale": False},
        {"do_normalize": False},
        {"image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.1]},
        {"do_center_crop": True, "crop_size": {"height": 5, "width": 6}},
        {"do_pad": True, "pad_size": {"height": 240, "width": 230}},
    ],
)
def test_colour_pictures_give_what_vits_processor_gives(options):
    images = [picture(10, 14, seed=seed) for seed in range(2)]
    expected = ViTImageProcessorPil(**options)(images, return_tensors="np")["pixel_values"]
    np.testing.assert_array_equal(run(images, **options), expected)


# Channels


def test_grey_pictures_become_colour_and_colour_ones_grey():
    grey, colour = pixels(4, 5, channels=1), pixels(4, 5)
    np.testing.assert_array_equal(run(Image.fromarray(grey), **untouched(3))[0], np.stack([grey] * 3))
    found = run(Image.fromarray(colour), **untouched(1))[0, 0].astype(int)
    expected = colour @ [0.299, 0.587, 0.114]
    assert np.abs(found - expected).max() <= 1
    np.testing.assert_array_equal(run(Image.fromarray(grey), **untouched(1))[0, 0], grey)


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "RGBA", "LA", "CMYK", "YCbCr", "I;16"])
@pytest.mark.parametrize("num_channels", [1, 3])
def test_every_kind_of_picture_is_taken(mode, num_channels):
    image = Image.fromarray(pixels(6, 7, channels=1).astype(np.uint16) * 256 + 77) if mode == "I;16" else picture(6, 7)
    image = image if image.mode == mode else image.convert(mode)
    found = run(image, **untouched(num_channels))
    assert found.shape == (1, num_channels, 6, 7) and found.dtype == np.uint8
    if mode == "I;16":
        np.testing.assert_array_equal(found[0, 0], pixels(6, 7, channels=1))
    else:
        np.testing.assert_array_equal(found[0, 0], np.array(image.convert("RGB" if num_channels == 3 else "L"))
                                      .reshape(6, 7, -1)[..., 0])  # fmt: skip


def test_what_is_transparent_is_white():
    image = np.zeros((2, 2, 4), dtype=np.uint8)
    image[0, 0, 3], image[0, 1, 3] = 255, 128  # black, half black; the second row is transparent
    for found in (
        run(Image.fromarray(image, "RGBA"), **untouched(3)),
        run(image, **untouched(3)),
        np.repeat(run(image, **untouched(1)), 3, axis=1),
        np.repeat(run(Image.fromarray(image, "RGBA"), **untouched(1)), 3, axis=1),
    ):
        assert found[0, :, 0].tolist() == [[0, 127]] * 3 and (found[0, :, 1] == 255).all()
    shares = run(image / 255, **untouched(3))
    assert shares[0, 0, 0, 0] == 0 and shares[0, 0, 0, 1] == pytest.approx(1 - 128 / 255) and shares[0, 0, 1, 1] == 1
    palette = Image.new("P", (2, 1), 1)
    palette.putpalette([9, 9, 9, 50, 60, 70])
    palette.putpixel((0, 0), 0)
    palette.info["transparency"] = 0
    assert run(palette, **untouched(3))[0, :, 0].tolist() == [[255, 50], [255, 60], [255, 70]]


def test_arrays_and_tensors_of_either_order_of_axes():
    image = pixels(6, 7)
    expected = run(Image.fromarray(image), **untouched(3))
    for given in (image, image.transpose(2, 0, 1), torch.from_numpy(image), torch.from_numpy(image).permute(2, 0, 1)):
        np.testing.assert_array_equal(run(given, **untouched(3)), expected)
    # Four rows are no four channels where three are wanted and three come last.
    np.testing.assert_array_equal(run(pixels(4, 7), **untouched(3))[0], pixels(4, 7).transpose(2, 0, 1))
    narrow = pixels(3, 7)  # three rows and three channels: told apart by the keyword
    found = VaswaniImageProcessor(**untouched(3))(narrow, input_data_format="channels_last", return_tensors="np")
    np.testing.assert_array_equal(found["pixel_values"][0], narrow.transpose(2, 0, 1))
    six = np.random.default_rng(0).random((6, 5, 5))  # such as satellite images
    np.testing.assert_array_equal(run(six, **untouched(6))[0], six)
    np.testing.assert_array_equal(run(six.transpose(1, 2, 0), **untouched(6))[0], six)
    grey = pixels(6, 7, channels=1)
    np.testing.assert_array_equal(run([grey, grey], **untouched(3)), np.tile(grey, (2, 3, 1, 1)))
    batch = [Image.fromarray(image), image, grey]
    assert run(batch, **untouched(3)).shape == (3, 3, 6, 7)


def test_pictures_of_different_sizes_make_one_batch():
    found = run([picture(5, 9), picture(20, 20), picture(8, 8, channels=1)], size=8)
    assert found.shape == (3, 3, 8, 8) and found.min() >= -1 and found.max() <= 1


# Errors


@pytest.mark.parametrize(
    "options, expected",
    [
        ({"image_mean": [0.5, 0.5, 0.5], "num_channels": 1}, "image_mean has 3 numbers but num_channels is 1"),
        ({"image_std": [0.5]}, "image_std has 1 numbers but num_channels is 3"),
        ({"num_channels": 0}, "num_channels must be 3 for colour"),
    ],
)
def test_settings_that_contradict_each_other(options, expected):
    with pytest.raises(ValueError, match=expected):
        VaswaniImageProcessor(**options)


def test_images_that_cannot_be_brought_to_the_channels():
    with pytest.raises(ValueError, match="has 1 channels, but num_channels is 3"):
        run(picture(4, 4, channels=1), **untouched(3, do_convert_rgb=False))
    with pytest.raises(ValueError, match=r"shape \[5, 6, 7\] has no axis of 3, 1, 4 channels"):
        run(np.zeros((5, 6, 7)), **untouched(3))
    with pytest.raises(ValueError, match="has 3 channels, but num_channels is 6"):
        run(picture(4, 4), **untouched(6))
    with pytest.raises(ValueError, match=r"mode 'F'.*8 bits"):
        run(Image.fromarray(np.zeros((4, 4), dtype=np.float32)), **untouched(3))


# Saving and loading


def test_it_is_saved_and_loaded_whole(tmp_path):
    config = VaswaniVisionConfig(image_size=[8, 12], patch_size=2, num_channels=1)
    processor = VaswaniImageProcessor.from_config(config, image_mean=0.3, resample=3)
    assert dict(processor.size) == {"height": 8, "width": 12}
    processor.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "preprocessor_config.json").read_text(encoding="utf-8"))
    assert saved["image_processor_type"] == "VaswaniImageProcessor"
    assert saved["num_channels"] == 1 and saved["image_mean"] == [0.3] and saved["resample"] == 3
    assert "auto_map" not in saved
    config.save_pretrained(tmp_path)
    for loaded in (
        VaswaniImageProcessor.from_pretrained(tmp_path),
        AutoImageProcessor.from_pretrained(tmp_path),
        AutoImageProcessor.from_pretrained(tmp_path, backend="pil"),
        AutoImageProcessor.from_pretrained(tmp_path, backend="torchvision"),
    ):
        assert isinstance(loaded, VaswaniImageProcessor)
        assert loaded.to_dict() == processor.to_dict()
        image = picture(9, 9)
        for format in ("np", "pt"):
            found = loaded(image, return_tensors=format)["pixel_values"]
            np.testing.assert_array_equal(found, processor(image, return_tensors=format)["pixel_values"])
    changed = AutoImageProcessor.from_pretrained(tmp_path, num_channels=3, image_mean=0.5, image_std=0.5)
    assert changed(picture(9, 9), return_tensors="np")["pixel_values"].shape == (1, 3, 8, 12)


def test_a_call_can_change_one_setting():
    processor = VaswaniImageProcessor(size=8)
    image = picture(9, 9)
    found = processor(image, size={"height": 4, "width": 5}, do_normalize=False, return_tensors="np")["pixel_values"]
    assert found.shape == (1, 3, 4, 5) and found.min() >= 0
    assert processor(image, return_tensors="np")["pixel_values"].shape == (1, 3, 8, 8)


@pytest.mark.fresh
def test_the_package_is_imported_without_pillow():
    script = (
        "import sys\nsys.modules['PIL'] = None\n"
        "import importlib.util as u\nfound = u.find_spec\n"
        "u.find_spec = lambda name, *rest: None if name.split('.')[0] == 'PIL' else found(name, *rest)\n"
        "import vaswani_tx\n"
        "try:\n    vaswani_tx.VaswaniImageProcessor()\nexcept ImportError as error:\n    print(error)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "pillow" in done.stdout.lower()
