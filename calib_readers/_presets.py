"""Presets of image preprocessing, and what a model's input says about the rest."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from calib_readers._common import Input
from calib_readers._options import Option, choice, height_width, integer, number, numbers
from calib_readers._preprocessing import CHANNELS, INTERPOLATION, LAYOUTS, RESIZE, Preprocessing

# Means and deviations in the order red, green, blue, whatever order the model wants.
PRESETS: dict[str, dict[str, Any]] = {
    # torchvision, timm: 1/255, then the mean and deviation of ImageNet
    "imagenet": {
        "scale": 1 / 255,
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
    },
    "zero-one": {"scale": 1 / 255},  # 0..1
    "minus-one-one": {"scale": 1 / 127.5, "mean": (1.0,)},  # TensorFlow, Inception: -1..1
    "raw255": {},  # 0..255, for models that normalise inside, and for integer inputs
    "caffe-bgr": {"channels": "bgr", "mean": (123.68, 116.779, 103.939)},  # Caffe, Keras ResNet
    "yolo": {"scale": 1 / 255, "resize": "pad"},  # letterbox on grey 114, then 0..1
}

_SHORT_TO_SIZE = 256 / 224  # what torchvision resizes to before it crops to 224


def default_preset(item: Input) -> str:
    """Return the preset for an input when nobody names one.

    Args:
        item: The image input.

    Returns:
        ``raw255`` for integers, ``zero-one`` for one channel, else ``imagenet``.
    """
    if "int" in item.dtype:
        return "raw255"
    shape = item.shape or ()
    colour = 3 in shape or 1 not in shape[1:]
    return "imagenet" if colour else "zero-one"


def resolve(item: Input, options: Mapping[str, Option]) -> Preprocessing:
    """Combine options, preset and the input's shape; the earlier wins.

    Args:
        item: The image input.
        options: By name, None where not given; ``preset`` is given.

    Raises:
        ValueError: An option is wrong, or something is left open.
    """
    shape = item.shape or (None,) * 4
    if len(shape) != 4:
        raise ValueError(f"reader 'images' makes 4 axes, input {item.name!r} has {len(shape)}")
    preset = PRESETS[choice("preset", options["preset"], PRESETS)]
    layout = _layout(item, shape, options["layout"])
    spatial = shape[2:] if layout == "nchw" else shape[1:3]
    size = _size(item, spatial, options["size"])
    channels = _channels(item, shape[LAYOUTS[layout]], options["channels"], preset)
    resize = choice("resize", options["resize"] or preset.get("resize", "short"), RESIZE)
    _refuse_idle(options, resize)
    return Preprocessing(
        size=size,
        resize=resize,
        short=_or(options, "short", round(min(size) * _SHORT_TO_SIZE), least=1),
        pad_value=_or(options, "pad_value", 114, least=0),
        interpolation=choice(
            "interpolation", options["interpolation"] or "bilinear", INTERPOLATION
        ),
        layout=layout,
        channels=channels,
        scale=number("scale", _given(options["scale"], preset.get("scale", 1.0))),
        mean=_per_channel("mean", options, preset.get("mean", (0.0,)), channels),
        std=_per_channel("std", options, preset.get("std", (1.0,)), channels),
        dtype=_dtype(item),
    )


def _given(value: Option, otherwise: Option) -> Option:
    return otherwise if value is None else value


def _or(options: Mapping[str, Option], option: str, otherwise: int, *, least: int) -> int:
    return integer(option, _given(options[option], otherwise), least=least)


def _layout(item: Input, shape: tuple[int | None, ...], value: Option) -> str:
    if value is not None:
        return choice("layout", value, LAYOUTS)
    fitting = [name for name, axis in LAYOUTS.items() if shape[axis] in (1, 3)]
    if len(fitting) != 1:
        raise ValueError(
            f"reader 'images': shape {shape} of input {item.name!r} does not tell where the "
            "channels are: give option layout=nchw or nhwc"
        )
    return fitting[0]


def _size(item: Input, spatial: tuple[int | None, ...], value: Option) -> tuple[int, int]:
    if value is not None:
        return height_width("size", value)
    height, width = spatial
    if height is None or width is None:
        raise ValueError(
            f"reader 'images': input {item.name!r} takes images of any size: "
            "give option size, e.g. size=224 or size=480x640"
        )
    return height, width


def _channels(item: Input, count: int | None, value: Option, preset: Mapping[str, Any]) -> str:
    if value is not None:
        channels = choice("channels", value, CHANNELS)
    else:
        channels = "gray" if count == 1 else str(preset.get("channels", "rgb"))
    if count not in (None, CHANNELS[channels]):
        raise ValueError(f"input {item.name!r} has {count} channels, {channels} images do not")
    return channels


def _per_channel(
    option: str, options: Mapping[str, Option], preset: tuple[float, ...], channels: str
) -> tuple[float, ...]:
    """Return the user's numbers, in the model's order, or the preset's brought into it."""
    if options[option] is not None:
        return numbers(option, options[option])
    if len(preset) > CHANNELS[channels]:
        raise ValueError(
            f"preset {options['preset']} is for colours, the input takes gray: "
            f"give option {option}, or preset zero-one"
        )
    return preset[::-1] if channels == "bgr" else preset


def _refuse_idle(options: Mapping[str, Option], resize: str) -> None:
    """Refuse options that would do nothing."""
    for option, needed in (("short", "short"), ("pad_value", "pad")):
        if options[option] is not None and resize != needed:
            raise ValueError(f"option {option} needs resize={needed}, resize is {resize}")


def _dtype(item: Input) -> np.dtype[Any]:
    try:
        dtype = np.dtype(item.dtype)
    except TypeError:
        dtype = np.dtype(object)
    if dtype.kind not in "fiu":
        raise ValueError(f"reader 'images' makes no {item.dtype} for input {item.name!r}")
    return dtype
