"""Images as `VaswaniVisionModel` takes them: colour or grey, resized, rescaled, normalised, by Pillow and numpy only.

Shapes: B batch, I channels, X image height, Y image width.
"""

from typing import Any

import numpy as np
from transformers.image_processing_backends import PilBackend
from transformers.image_utils import ChannelDimension, infer_channel_dimension_format
from transformers.processing_utils import ImagesKwargs, Unpack
from transformers.utils import requires_backends

# Pillow's number of the bilinear filter: the name would need Pillow to be installed when this file is imported.
BILINEAR = 2
# The share of red, green and blue in a grey value (ITU-R BT.601), as in Pillow's mode "L".
LUMA = (0.299, 0.587, 0.114)
# How many axes of an array may be channels.
_KNOWN_CHANNELS = (1, 3, 4)


class VaswaniImageKwargs(ImagesKwargs, total=False):
    """Keywords of an image processor, and of one call of it, beside transformers' own.

    Args:
        num_channels: channels that the model takes: 3 for colour, 1 for grey, others for arrays that have as many.
    """

    num_channels: int | None


class VaswaniImageProcessor(PilBackend):
    """A processor that turns pictures, arrays or tensors into `pixel_values` [B, I, X, Y].

    The steps, each with transformers' usual keywords: to `num_channels` (`do_convert_rgb`; transparency is laid over
    white), resize (`do_resize`, `size`, `resample`), crop (`do_center_crop`, `crop_size`), times `rescale_factor`
    (`do_rescale`), minus `image_mean`, over `image_std` (`do_normalize`; one number, or one for each channel), pad.

    Raises:
        ValueError: a mean or deviation of another length than `num_channels`, or an image that cannot be brought to it.
    """

    valid_kwargs = VaswaniImageKwargs
    resample = BILINEAR
    image_mean = 0.5
    image_std = 0.5
    size = {"height": 224, "width": 224}
    num_channels = 3
    do_convert_rgb = True
    do_resize = True
    do_rescale = True
    do_normalize = True

    def __init__(self, **kwargs: Unpack[VaswaniImageKwargs]):
        requires_backends(self, ["vision"])
        super().__init__(**kwargs)

    @classmethod
    def from_config(cls, config, **kwargs):
        """Build the processor that suits a model: its image size and number of channels.

        Args:
            config: a `VaswaniVisionConfig`.
            **kwargs: keywords that take precedence.
        """
        height, width = config.image_size if isinstance(config.image_size, (list, tuple)) else [config.image_size] * 2
        return cls(**{"size": {"height": height, "width": width}, "num_channels": config.num_channels, **kwargs})

    def _standardize_kwargs(self, num_channels: int | None = None, **kwargs) -> dict[str, Any]:
        """Write a mean or deviation that is one number once for each channel."""
        kwargs = super()._standardize_kwargs(**kwargs)
        if num_channels is None or num_channels < 1:
            raise ValueError(f"num_channels must be 3 for colour, 1 for grey, or another number; not {num_channels!r}.")
        for name in ("image_mean", "image_std"):
            value = kwargs[name]
            if isinstance(value, (int, float)):
                kwargs[name] = (float(value),) * num_channels
            elif value is not None and len(value) != num_channels:
                raise ValueError(
                    f"{name} has {len(value)} numbers but num_channels is {num_channels}: give one number, or one for "
                    "each channel."
                )
        return {**kwargs, "num_channels": num_channels}

    def _prepare_images_structure(self, images, expected_ndims: int = 3):
        """Accept lists of grey arrays [X, Y] too, which transformers accepts only one by one."""
        if isinstance(images, (list, tuple)):
            images = [image[None] if getattr(image, "ndim", None) == 2 else image for image in images]
        return super()._prepare_images_structure(images, expected_ndims)

    def process_image(
        self,
        image,
        do_convert_rgb: bool | None = None,
        input_data_format: str | ChannelDimension | None = None,
        num_channels: int | None = None,
        **kwargs,
    ) -> np.ndarray:
        """Turn one picture, array or tensor into an array [I, X, Y] of `num_channels` channels, values unchanged."""
        if hasattr(image, "getbands"):
            image, axis = _plain_picture(image, num_channels if do_convert_rgb else None), ChannelDimension.LAST
        else:
            # The backend's own steps are not used: they differ between versions of transformers.
            image = image.numpy(force=True) if hasattr(image, "numpy") else np.asarray(image)
            axis = input_data_format or (self._channel_axis(image, num_channels) if image.ndim == 3 else None)
        if image.ndim == 2:
            pixels = image[None]  # [X, Y] -> [1, X, Y]
        else:
            pixels = np.moveaxis(image, -1, 0) if axis == ChannelDimension.LAST else image
        if do_convert_rgb and pixels.shape[0] != num_channels:
            pixels = _with_channels(pixels, num_channels)
        if pixels.shape[0] != num_channels:
            raise ValueError(
                f"An image has {pixels.shape[0]} channels, but num_channels is {num_channels}: convert it, give "
                "input_data_format='channels_first' or 'channels_last', or set num_channels."
            )
        return pixels

    @staticmethod
    def _channel_axis(image: np.ndarray, num_channels: int | None) -> ChannelDimension:
        matches = [image.shape[axis] == num_channels for axis in (0, -1)]
        if matches.count(True) == 1:
            return ChannelDimension.FIRST if matches[0] else ChannelDimension.LAST
        known = tuple(dict.fromkeys((num_channels, *_KNOWN_CHANNELS)))
        try:
            return infer_channel_dimension_format(image, num_channels=known)
        except ValueError:
            raise ValueError(
                f"An array of shape {list(image.shape)} has no axis of {', '.join(map(str, known))} channels first or "
                "last: give input_data_format='channels_first' or 'channels_last'."
            ) from None


def _plain_picture(image, num_channels: int | None) -> np.ndarray:
    """Return a picture's values as an array [X, Y] or [X, Y, I]: grey or colour where one of them is asked for."""
    if image.mode.startswith("I;16"):
        # 16 bits a pixel: converted by Pillow, all but the darkest 255 of 65536 values would become white.
        array = np.asarray(image)
        return (array >> 8).astype(np.uint8)
    if num_channels not in (1, 3):
        return np.array(image)
    if image.mode in ("I", "F"):
        raise ValueError(
            f"A picture of mode {image.mode!r} (32 bits) has no known range of values: convert it to 8 bits first."
        )
    if "A" in image.getbands() or "transparency" in image.info:
        image = image.convert("RGBA")
        background = image.copy()
        background.paste((255, 255, 255, 255), (0, 0, *image.size))
        background.alpha_composite(image)
        image = background.convert("RGB")
    return np.array(image.convert("L" if num_channels == 1 else "RGB"))


def _with_channels(pixels: np.ndarray, num_channels: int) -> np.ndarray:
    """Bring an array [I, X, Y] of 1, 3 or 4 channels (the fourth: opacity) to 1 or 3; others are unchanged."""
    if num_channels not in (1, 3) or pixels.shape[0] not in _KNOWN_CHANNELS:
        return pixels
    whole = np.issubdtype(pixels.dtype, np.integer)
    values = pixels.astype(np.float64)
    if len(values) == 4:
        # Where numbers are not whole, 1 is white and opaque.
        white = 255.0 if whole else 1.0
        values = white + (values[:3] - white) * (values[3:] / white)
    if num_channels == 1 and len(values) == 3:
        values = np.tensordot(LUMA, values, axes=1)[None]
    if num_channels == 3 and len(values) == 1:
        values = np.repeat(values, 3, axis=0)
    return (np.rint(values) if whole else values).astype(pixels.dtype)


__all__ = ["VaswaniImageProcessor"]
