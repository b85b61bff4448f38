"""Images: geometry, colours and values against results worked out by hand."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from calib_readers.images import ImageReader


@dataclass(frozen=True)
class Input:
    name: str = "x"
    dtype: str = "float32"
    shape: tuple[int | None, ...] | None = (None, 3, 4, 4)


RED, BLUE = (255, 0, 0), (0, 0, 255)
RAW = {"preset": "raw255"}
FLAT = {"preset": "raw255", "resize": "none"}


def saved(path: Path, image: Image.Image, **options: Any) -> Path:
    image.save(path, **options)
    return path


def plain(path: Path, colour: Any = RED, size: tuple[int, int] = (4, 4), mode: str = "RGB") -> Path:
    return saved(path, Image.new(mode, size, colour))


def read(source: Path, item: Input | None = None, **options: Any) -> np.ndarray:
    (feed,) = ImageReader(source, [item or Input()], **options)
    return feed["x"]


def refusal(source: Path, item: Input | None = None, **options: Any) -> str:
    with pytest.raises(ValueError, match=r"\A.+\Z") as caught:
        list(ImageReader(source, [item or Input()], **options))
    return str(caught.value)


@pytest.fixture
def red(tmp_path: Path) -> Path:
    return plain(tmp_path / "red.png")


# values


def test_default_is_imagenet_and_says_so(red: Path) -> None:
    reader = ImageReader(red, [Input()])
    (feed,) = reader
    expected = [(1 - 0.485) / 0.229, -0.456 / 0.224, -0.406 / 0.225]
    np.testing.assert_allclose(feed["x"][0, :, 0, 0], expected, rtol=1e-5)
    assert feed["x"].shape == (1, 3, 4, 4)
    assert feed["x"].dtype == np.float32
    assert "preset imagenet by default" in reader.notes[0]
    assert "4x4, NCHW, RGB, short side to 5, center crop, bilinear" in reader.notes[0]
    assert "-2.118..2.64" in reader.notes[1]


@pytest.mark.parametrize(
    ("preset", "expected"),
    [
        ("zero-one", [1, 0, 0]),
        ("minus-one-one", [1, -1, -1]),
        ("raw255", [255, 0, 0]),
        ("caffe-bgr", [-103.939, -116.779, 255 - 123.68]),
        ("yolo", [1, 0, 0]),
    ],
)
def test_presets(red: Path, preset: str, expected: list[float]) -> None:
    np.testing.assert_allclose(read(red, preset=preset)[0, :, 0, 0], expected, rtol=1e-5)


def test_preset_means_follow_the_channel_order(red: Path) -> None:
    rgb, bgr = read(red, preset="imagenet"), read(red, preset="imagenet", channels="bgr")
    np.testing.assert_array_equal(rgb, bgr[:, ::-1])


@pytest.mark.parametrize(
    "options",
    [
        {"scale": "1/255", "mean": "0.5,0.25,0", "std": "0.5"},
        {"scale": 1 / 255, "mean": [0.5, 0.25, 0], "std": 0.5},
    ],
)
def test_options_are_text_or_numbers_and_win_over_the_preset(
    red: Path, options: dict[str, Any]
) -> None:
    values = read(red, preset="raw255", **options)[0, :, 0, 0]
    np.testing.assert_allclose(values, [1, -0.5, 0], atol=1e-6)


@pytest.mark.parametrize("dtype", ["float16", "float64", "uint8", "int32"])
def test_dtype_is_the_inputs(red: Path, dtype: str) -> None:
    array = read(red, Input(dtype=dtype), **RAW)
    assert array.dtype == dtype
    assert array[0, :, 0, 0].tolist() == [255, 0, 0]


def test_integers_take_raw_values_by_default(red: Path) -> None:
    assert read(red, Input(dtype="uint8"))[0, 0].max() == 255
    assert read(red, Input(dtype="int8"), mean=128)[0, :, 0, 0].tolist() == [127, -128, -128]


def test_integers_are_rounded(red: Path) -> None:
    assert read(red, Input(dtype="uint8"), scale=0.5)[0, 0].max() == 128  # of 127.5


# geometry


def halves(path: Path, size: tuple[int, int] = (8, 4)) -> Path:
    """Left half red, right half blue."""
    image = Image.new("RGB", size, RED)
    image.paste(BLUE, (size[0] // 2, 0, *size))
    return saved(path, image)


def red_columns(array: np.ndarray) -> list[bool]:
    return (array[0, 0, array.shape[2] // 2] > 128).tolist()


def test_short_side_then_center_crop(tmp_path: Path) -> None:
    path = halves(tmp_path / "a.png")
    array = read(path, short=4, interpolation="nearest", **RAW)
    assert red_columns(array) == [True, True, False, False]
    assert array.shape == (1, 3, 4, 4)


def test_short_crops_off_the_border(tmp_path: Path) -> None:
    image = Image.new("RGB", (6, 6), BLUE)
    image.paste(RED, (1, 1, 5, 5))
    array = read(saved(tmp_path / "a.png", image), short=6, interpolation="nearest", **RAW)
    assert array[0, 0].min() == 255


def test_stretch_keeps_everything(tmp_path: Path) -> None:
    array = read(halves(tmp_path / "a.png", (16, 2)), resize="stretch", **RAW)
    assert red_columns(array) == [True, True, False, False]
    assert array[0, 0, 0, 0] == 255


def test_pad_fills_above_and_below(tmp_path: Path) -> None:
    array = read(plain(tmp_path / "a.png", RED, (8, 4)), preset="yolo", pad_value=51)
    np.testing.assert_allclose(array[0, :, 0, 0], [0.2] * 3, atol=1e-6)
    np.testing.assert_allclose(array[0, :, 1:3], np.eye(3)[0][:, None, None] * np.ones((2, 4)))
    np.testing.assert_allclose(array[0, :, 3], 0.2, atol=1e-6)


def test_no_resizing_refuses_another_size(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.png", size=(5, 4))
    message = refusal(path, **FLAT)
    assert str(path) in message
    assert "4x5, not 4x4" in message


@pytest.mark.parametrize("size", ["2x6", (2, 6), [2, "6"]])
def test_size_is_height_then_width(red: Path, size: Any) -> None:
    assert read(red, Input(shape=(1, 3, None, None)), size=size).shape == (1, 3, 2, 6)


def test_size_that_is_not_square_is_covered(tmp_path: Path) -> None:
    image = halves(tmp_path / "a.png", (12, 4))
    array = read(image, Input(shape=(1, 3, 2, 6)), short=2, **RAW)
    assert red_columns(array) == [True] * 3 + [False] * 3


def test_exif_orientation_is_applied(tmp_path: Path) -> None:
    image = Image.open(halves(tmp_path / "a.png"))
    exif = Image.Exif()
    exif[0x0112] = 3  # upside down
    path = saved(tmp_path / "b.png", image, exif=exif)
    options = {"short": 4, "interpolation": "nearest", **RAW}
    assert red_columns(read(path, **options)) == [False, False, True, True]


# layout and channels


def test_layout_follows_the_shape(red: Path) -> None:
    array = read(red, Input(shape=(None, 4, 4, 3)), **RAW)
    assert array.shape == (1, 4, 4, 3)
    assert array[0, 0, 0].tolist() == [255, 0, 0]


def test_gray_follows_the_shape(red: Path) -> None:
    reader = ImageReader(red, [Input(shape=(None, 1, 4, 4))])
    (feed,) = reader
    assert "preset zero-one by default" in reader.notes[0]
    np.testing.assert_allclose(feed["x"], 76 / 255, rtol=1e-6)  # 0.299 * 255
    assert feed["x"].shape == (1, 1, 4, 4)


def test_layout_must_be_said_when_the_shape_does_not(red: Path) -> None:
    for shape in [(None, None, None, None), (1, 3, 8, 3), None]:
        assert "layout=nchw or nhwc" in refusal(red, Input(shape=shape), size=4)
    assert read(red, Input(shape=None), size=2, layout="NHWC").shape == (1, 2, 2, 3)


# image modes


@pytest.mark.parametrize(
    ("mode", "colour", "suffix", "expected"),
    [
        ("L", 7, "png", [7, 7, 7]),
        ("1", 1, "png", [255, 255, 255]),
        ("LA", (10, 255), "png", [10, 10, 10]),
        ("RGBA", (9, 8, 7, 255), "png", [9, 8, 7]),
        ("RGBA", (9, 8, 7, 0), "png", [255, 255, 255]),
        ("RGBA", (0, 0, 0, 51), "png", [204, 204, 204]),
        ("I;16", 65535, "png", [255, 255, 255]),
        ("I;16", 257 * 100, "png", [100, 100, 100]),
        ("CMYK", (0, 0, 0, 255), "jpg", [0, 0, 0]),
        ("RGB", (9, 8, 7), "bmp", [9, 8, 7]),
    ],
)
def test_modes(tmp_path: Path, mode: str, colour: Any, suffix: str, expected: list[int]) -> None:
    path = plain(tmp_path / f"a.{suffix}", colour, mode=mode)
    np.testing.assert_allclose(read(path, **FLAT)[0, :, 0, 0], expected, atol=1)


def test_palette_with_a_transparent_entry(tmp_path: Path) -> None:
    image = Image.new("P", (4, 4), 0)
    image.putpalette([0, 200, 0, 255, 0, 0])
    image.paste(1, (0, 0, 2, 4))
    path = saved(tmp_path / "a.png", image, transparency=0)
    array = read(path, **FLAT)
    assert array[0, :, 0, 0].tolist() == [255, 0, 0]
    assert array[0, :, 0, 3].tolist() == [255, 255, 255]


# sources


def test_directory_is_read_in_order_with_folders_in_turn(tmp_path: Path) -> None:
    for name, value in [("b/1", 21), ("b/2", 22), ("a/1", 11), ("a/2", 12), ("a/3", 13)]:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        plain(tmp_path / f"{name}.PNG", (value, 0, 0))
    (tmp_path / "labels.txt").touch()
    (tmp_path / ".hidden.png").touch()
    reader = ImageReader(tmp_path, [Input()], **FLAT)
    assert [feed["x"][0, 0, 0, 0] for feed in reader] == [11, 21, 12, 22, 13]
    assert len(reader) == 5
    assert reader.notes[0].endswith("1 of other kinds")
    assert "2 folders" in reader.notes[1]


def test_directory_without_images_is_refused(tmp_path: Path) -> None:
    plain(tmp_path / "a.gif")
    assert "no image (.bmp .jpeg .jpg .png .webp)" in refusal(tmp_path)


def test_linked_folders_are_read_once(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    plain(tmp_path / "a" / "1.png")
    try:
        (tmp_path / "b").symlink_to(tmp_path / "a", target_is_directory=True)
        (tmp_path / "a" / "loop").symlink_to(tmp_path, target_is_directory=True)
    except OSError:
        pytest.skip("no links here")
    assert len(ImageReader(tmp_path, [Input()])) == 1


def test_errors_name_the_damaged_image(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.jpg", size=(64, 64))
    path.write_bytes(path.read_bytes()[:-60])
    assert refusal(path).startswith(f"{path}: cannot read the image")
    path.write_bytes(b"no image")
    assert refusal(path).startswith(f"{path}: no JPEG, PNG, BMP or WebP")


def test_other_decoders_do_not_run_under_an_image_name(tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    Image.new("RGB", (4, 4)).save(path, format="GIF")
    assert "no JPEG, PNG" in refusal(path)


def test_bombs_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    assert "decompression bomb" in refusal(plain(tmp_path / "a.png", size=(30, 30)))


def test_extreme_shapes_are_refused_before_they_are_scaled(tmp_path: Path) -> None:
    path = plain(tmp_path / "a.png", size=(20000, 1))
    assert "too narrow" in refusal(path, Input(shape=(1, 3, 224, 224)))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"preset": "imagnet"}, "did you mean 'imagenet'?"),
        ({"mean": "123.675,116.28,103.53"}, "do not belong together"),
        ({"preset": "raw255", "mean": "0.485", "std": "0.229"}, "do not belong together"),
        ({"mean": "1,2"}, "2 numbers for rgb"),
        ({"mean": "a,b,c"}, "option mean: 'a,b,c'"),
        ({"std": 0}, "above 0"),
        ({"scale": "1/0"}, "option scale"),
        ({"scale": "nan"}, "option scale"),
        ({"scale": "1,2"}, "not one number"),
        ({"size": "4x"}, "option size"),
        ({"size": "4x4x4"}, "HEIGHTxWIDTH"),
        ({"short": 3}, "less than the size 4"),
        ({"short": True}, "no whole number"),
        ({"short": 4.5}, "no whole number"),
        ({"short": 8, "resize": "pad"}, "needs resize=short"),
        ({"pad_value": 8}, "needs resize=pad"),
        ({"pad_value": 256, "resize": "pad"}, "above 255"),
        ({"channels": "gray"}, "has 3 channels"),
        ({"layout": "chw"}, "none of 'nchw', 'nhwc'"),
        ({"interpolation": "cubic"}, "did you mean 'bicubic'?"),
    ],
)
def test_options_that_cannot_be_meant(red: Path, options: dict[str, Any], words: str) -> None:
    assert words in refusal(red, **options)


@pytest.mark.parametrize(
    ("item", "words"),
    [
        (Input(shape=(None, 3)), "4 axes"),
        (Input(shape=(None, 4, 8, 8)), "layout"),
        (Input(shape=(None, 3, None, 4)), "size=224"),
        (Input(dtype="str"), "no str"),
        (Input(dtype="bfloat16"), "no bfloat16"),
        (Input(dtype="nonsense"), "no nonsense"),
    ],
)
def test_inputs_that_take_no_images(red: Path, item: Input, words: str) -> None:
    assert words in refusal(red, item)


def test_gray_input_refuses_a_preset_for_colours(red: Path) -> None:
    assert "preset zero-one" in refusal(red, Input(shape=(1, 1, 4, 4)), preset="imagenet")


def test_integer_input_refuses_normalised_values(red: Path) -> None:
    for preset in ("imagenet", "zero-one"):
        message = refusal(red, Input(dtype="uint8"), preset=preset)
        assert "try preset raw255" in message


def test_two_inputs_are_refused(red: Path) -> None:
    with pytest.raises(ValueError, match=r"models of one input.*'x', 'size'"):
        ImageReader(red, [Input(), Input("size")])
