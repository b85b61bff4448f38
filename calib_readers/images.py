"""Images: a file, or a directory with all images below it."""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from calib_readers._common import (
    IMAGE_SUFFIXES,
    Feed,
    Input,
    kind_of,
    left_aside,
    one_line,
    only_input,
    walk,
)
from calib_readers._labels import Label, labels_of
from calib_readers._options import Option

if TYPE_CHECKING:
    from calib_readers._preprocessing import Preprocessing

FORMATS = ("JPEG", "PNG", "BMP", "WEBP")  # whatever a file is called, no other decoder runs


class ImageReader:
    """Read images for a model with one input of four axes, one image a feed.

    How images become values is wrong silently when it differs from training, so what is done is
    said in ``notes``. Images are sorted by path; from several folders they come one of each in
    turn, so that the first few are not all of one class.

    Attributes:
        preprocessing: What is done, resolved.
        notes: The same for people: preset, size, layout, resizing, values.
    """

    name: ClassVar[str] = "images"
    stackable = True

    def __init__(  # noqa: PLR0913 - the options are keywords by contract
        self,
        source: Path,
        inputs: Sequence[Input],
        *,
        preset: Option = None,
        size: Option = None,
        resize: Option = None,
        short: Option = None,
        pad_value: Option = None,
        interpolation: Option = None,
        layout: Option = None,
        channels: Option = None,
        scale: Option = None,
        mean: Option = None,
        std: Option = None,
        labels: Option = None,
    ) -> None:
        """List the images and resolve the preprocessing; open none.

        Args:
            source: An image, or a directory.
            inputs: The model's inputs; there must be one.
            preset: ``imagenet``, ``zero-one``, ``minus-one-one``, ``raw255``, ``caffe-bgr`` or
                ``yolo``; by default ``imagenet``, for gray ``zero-one``, for integers ``raw255``.
            size: ``224`` or ``480x640``, height first; by default the input's.
            resize: ``short`` (then cropped), ``stretch``, ``pad`` or ``none``.
            short: Length of the short side before cropping; by default size * 256 / 224.
            pad_value: 0 to 255, with ``resize=pad``.
            interpolation: ``nearest``, ``bilinear``, ``bicubic`` or ``lanczos``.
            layout: ``nchw`` or ``nhwc``; by default by the axis of length 1 or 3.
            channels: ``rgb``, ``bgr`` or ``gray``; by default by the number of channels.
            scale: Factor on pixels 0..255, e.g. ``1/255``.
            mean: Taken off after scaling, e.g. ``0.485,0.456,0.406``, in the model's order.
            std: Divided by at last, likewise.
            labels: A CSV or JSON file from file name to label, or ``folders`` for images that lie
                in one folder a class; by default no labels.

        Raises:
            OSError: The source cannot be read.
            ValueError: An option is wrong, the input is no image, or there is none in the source.
        """
        from calib_readers import _presets  # noqa: PLC0415 - Pillow, only when it is wanted

        self._files, self.notes = _images(source)
        self._labels: Sequence[Label] = ()
        if labels is not None:
            self._labels, said = labels_of(str(labels), self._files, source)
            self.notes += said
        item = only_input(inputs, self.name)
        chosen = _presets.default_preset(item) if preset is None else preset
        options: dict[str, Option] = {
            "preset": chosen,
            "size": size,
            "resize": resize,
            "short": short,
            "pad_value": pad_value,
            "interpolation": interpolation,
            "layout": layout,
            "channels": channels,
            "scale": scale,
            "mean": mean,
            "std": std,
        }
        self._input = item.name
        self.preprocessing = _presets.resolve(item, options)
        by_default = " by default (option preset names another)" if preset is None else ""
        self.notes += _described(self.preprocessing, f"preset {chosen}{by_default}")

    @staticmethod
    def accepts(path: Path) -> bool:
        """Tell whether this is an image, or a directory with images and no arrays."""
        return kind_of(path) == "images"

    def __len__(self) -> int:
        """Return the number of images."""
        return len(self._files)

    def __iter__(self) -> Iterator[Feed]:
        """Yield one image a feed."""
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - as above

        for number, path in enumerate(self._files):
            try:
                with Image.open(path, formats=FORMATS) as image:
                    array = self.preprocessing(image)
            except UnidentifiedImageError as error:
                raise ValueError(f"{path}: no JPEG, PNG, BMP or WebP image, or damaged") from error
            except Exception as error:  # decoders raise many kinds for damaged files
                raise ValueError(f"{path}: cannot read the image: {one_line(error)}") from error
            feed = {self._input: array}
            if self._labels:
                feed["label"] = self._labels[number]
            yield feed


def _images(source: Path) -> tuple[list[Path], tuple[str, ...]]:
    """List the images of a source in the order they are read, and what there is to say of it."""
    source.stat()
    if not source.is_dir():
        return [source], ()
    folders: dict[Path, list[Path]] = defaultdict(list)
    others = 0
    for file in walk(source):
        if file.suffix.lower() in IMAGE_SUFFIXES:
            folders[file.parent].append(file)
        else:
            others += 1
    if not folders:
        kinds = " ".join(sorted(IMAGE_SUFFIXES))
        raise ValueError(f"{source}: no image ({kinds}) in this directory or below")
    ordered = [folders[folder] for folder in sorted(folders)]
    turns = chain.from_iterable(zip_longest(*ordered))
    notes = left_aside("images", others, source)
    if len(folders) > 1:
        notes += (f"images: {len(folders)} folders, one image of each in turn",)
    return [file for file in turns if file is not None], notes


def _described(how: "Preprocessing", preset: str) -> tuple[str, ...]:
    """Say what is done to an image, in two lines."""
    height, width = how.size
    resizing = {
        "short": f"short side to {how.short}, center crop, {how.interpolation}",
        "stretch": f"stretched, {how.interpolation}",
        "pad": f"letterbox on {how.pad_value}, {how.interpolation}",
        "none": "no resizing",
    }[how.resize]
    low, high = how.value_range
    mean, std = (",".join(f"{value:g}" for value in values) for values in (how.mean, how.std))
    kind = f"{how.layout.upper()}, {how.channels.upper()}"
    return (
        f"images: {preset}, {height}x{width}, {kind}, {resizing}",
        f"images: (pixel * {how.scale:.6g} - {mean}) / {std}: {low:.4g}..{high:.4g}, {how.dtype}",
    )
