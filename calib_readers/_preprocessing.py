"""From an opened image to the array a model takes, and the presets that say how.

    value = (pixel * scale - mean) / std        pixel in 0..255, mean and std one a channel

The mean is taken after scaling: ImageNet means are 0.485 with scale 1/255, 123.675 with scale 1.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

RESIZE = ("short", "stretch", "pad", "none")
INTERPOLATION = {
    "nearest": Image.Resampling.NEAREST,
    "bilinear": Image.Resampling.BILINEAR,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}
CHANNELS = {"rgb": 3, "bgr": 3, "gray": 1}
LAYOUTS = {"nchw": 1, "nhwc": 3}  # and the axis of the channels


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """How an image becomes one sample.

    Attributes:
        size: Height and width of the result, in pixels.
        resize: ``short``: scale the short side to ``short``, keep the middle; ``stretch``: scale
            each side on its own; ``pad``: scale to fit inside and fill up around (letterbox);
            ``none``: refuse images of another size.
        short: Length of the short side before cropping. For a size that is not square, the
            image covers ``size * short / min(size)``.
        pad_value: Pixel value around the image with ``pad``.
        interpolation: Of the resizing; Pillow's, which averages when it shrinks.
        layout: ``nchw`` or ``nhwc``.
        channels: ``rgb``, ``bgr`` or ``gray``.
        scale: Factor on pixel values.
        mean: Taken off after scaling; one, or one a channel in the model's order.
        std: Divided by at last; one, or one a channel in the model's order.
        dtype: Of the result; integers are rounded.
    """

    size: tuple[int, int]
    resize: str
    short: int
    pad_value: int
    interpolation: str
    layout: str
    channels: str
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    dtype: np.dtype[Any]

    def __post_init__(self) -> None:
        """Refuse what cannot be meant.

        Raises:
            ValueError: An option is out of its bounds, or the values would be absurd.
        """
        for option, values in (("mean", self.mean), ("std", self.std)):
            if len(values) not in (1, CHANNELS[self.channels]):
                raise ValueError(f"option {option}: {len(values)} numbers for {self.channels}")
        if self.scale <= 0 or min(self.std) <= 0:
            raise ValueError("options scale and std must be above 0")
        if self.short < min(self.size):
            raise ValueError(f"option short: {self.short} is less than the size {min(self.size)}")
        if self.pad_value > 255:
            raise ValueError(f"option pad_value: {self.pad_value} is above 255")
        self._check_values()

    def _check_values(self) -> None:
        low, high = self.value_range
        values = f"preprocessing gives values {low:.4g}..{high:.4g}"
        if max(self.mean) > 255 * self.scale or max(-low, high) > 256:
            raise ValueError(
                f"{values}: scale and mean do not belong together; the mean is taken after "
                "scaling: mean 0.5 with scale 1/255, or mean 127.5 with scale 1"
            )
        if self.dtype.kind in "iu":
            limits = np.iinfo(self.dtype)
            if low < limits.min - 0.5 or high > limits.max + 0.5 or high - low < 16:
                raise ValueError(f"{values}, but the input is {self.dtype}: try preset raw255")

    @property
    def value_range(self) -> tuple[float, float]:
        """What black and white become, over all channels."""
        ends = self._values(np.array([[[0.0]], [[255.0]]], np.float32))
        return float(ends.min()), float(ends.max())

    def __call__(self, image: Image.Image) -> npt.NDArray[Any]:
        """Turn an image into one sample with a batch axis of 1.

        Args:
            image: Of any mode and size; its EXIF orientation is applied.

        Raises:
            ValueError: The size or mode cannot be handled.
        """
        upright = ImageOps.exif_transpose(image)
        plain = eight_bit(upright).convert("L" if self.channels == "gray" else "RGB")
        pixels = np.asarray(_RESIZERS[self.resize](self, plain), np.float32)
        pixels = pixels.reshape(*self.size, CHANNELS[self.channels])
        if self.channels == "bgr":
            pixels = pixels[..., ::-1]
        values = self._values(pixels)
        if self.dtype.kind in "iu":
            values = np.rint(values)
        if self.layout == "nchw":
            values = values.transpose(2, 0, 1)
        return np.ascontiguousarray(values[None], dtype=self.dtype)

    def _values(self, pixels: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
        mean, std = np.array(self.mean, np.float32), np.array(self.std, np.float32)
        values: npt.NDArray[np.float32] = (pixels * np.float32(self.scale) - mean) / std
        return values


def eight_bit(image: Image.Image) -> Image.Image:
    """Bring 16 bit grey to 8 bit, and show transparent pixels on white.

    Args:
        image: As opened.

    Returns:
        An image whose conversion to ``L`` or ``RGB`` keeps what is seen.
    """
    if image.mode.startswith("I"):  # what Pillow calls 16 bit PNG
        wide = np.asarray(image).astype(np.int64).clip(0, 65535)
        return Image.fromarray(((wide + 128) // 257).astype(np.uint8))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA"))
    return image


def _short(how: Preprocessing, image: Image.Image) -> Image.Image:
    height, width = how.size
    factor = how.short / min(how.size)
    ratio = max(factor * height / image.height, factor * width / image.width)
    # Rounded down as torchvision does; the small term is for 255.99999.
    tall = max(height, int(image.height * ratio + 1e-6))
    wide = max(width, int(image.width * ratio + 1e-6))
    if tall * wide > (Image.MAX_IMAGE_PIXELS or 1 << 27):
        raise ValueError(f"{image.width}x{image.height} is too narrow to scale the short side")
    left, top = round((wide - width) / 2), round((tall - height) / 2)
    scaled = image.resize((wide, tall), INTERPOLATION[how.interpolation])
    return scaled.crop((left, top, left + width, top + height))


def _stretch(how: Preprocessing, image: Image.Image) -> Image.Image:
    return image.resize(how.size[::-1], INTERPOLATION[how.interpolation])


def _pad(how: Preprocessing, image: Image.Image) -> Image.Image:
    height, width = how.size
    ratio = min(height / image.height, width / image.width)
    inside = max(1, round(image.width * ratio)), max(1, round(image.height * ratio))
    fill = (how.pad_value,) * len(image.getbands())
    canvas = Image.new(image.mode, (width, height), fill if len(fill) > 1 else fill[0])
    scaled = image.resize(inside, INTERPOLATION[how.interpolation])
    canvas.paste(scaled, ((width - inside[0]) // 2, (height - inside[1]) // 2))
    return canvas


def _as_is(how: Preprocessing, image: Image.Image) -> Image.Image:
    if (image.height, image.width) != how.size:
        raise ValueError(
            f"the image is {image.height}x{image.width}, not {how.size[0]}x{how.size[1]}, "
            "and resize is none"
        )
    return image


_RESIZERS: dict[str, Callable[[Preprocessing, Image.Image], Image.Image]] = {
    "short": _short,
    "stretch": _stretch,
    "pad": _pad,
    "none": _as_is,
}
