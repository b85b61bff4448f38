"""What a small table tells, in values, lines and pictures."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from onnxq.errors import LISTED, RecipeError, UnknownNameError
from onnxq.numerics.affine import fake_quantize
from onnxq.numerics.observe import observe
from onnxq.numerics.tiles import channel_tile
from onnxq.ranges import RANGES
from onnxq.recipe import TensorRule
from onnxq.report.drawing import ASCII, drawn
from onnxq.report.table_closeup import closeup_dict, closeup_lines
from onnxq.report.table_overview import overview_dict, overview_lines
from onnxq.report.values import compact
from onnxq.table import CalibrationTable, Group
from onnxq.table_file import is_table, save
from onnxq.table_inspection import closeup, overview
from onnxq.types import Array, TensorStats

RNG = np.random.default_rng(5)
NORMAL = RNG.normal(0, 1, (40, 8, 100)).astype(np.float32)
NORMAL[:, 3] *= 4
OUTLIERS = np.concatenate([np.maximum(RNG.normal(0, 1, 20_000), 0), [30, 45, 60]])
OUTLIERS = OUTLIERS.astype(np.float32)
UINT8 = TensorRule(dtype="uint8", symmetric=False, range="mse")


def saved(folder: Path, **tensors: TensorStats) -> Path:
    seen = {
        "net/a/normal": observe(NORMAL, keep=64),
        "net/b/outliers": observe(OUTLIERS, keep=64),
        "zero": observe(np.zeros(10, np.float32), keep=64),
        **tensors,
    }
    channels = {"net/a/normal": observe(NORMAL, channel_tile(3, 1), histogram=False)}
    group = Group(samples=40, tensors=seen, channels=channels)
    table = CalibrationTable(
        model_sha256="ab" * 32, groups=(group,), batch_size=4, versions={"onnxq": "0.1.0"}
    )
    save(table, folder / "table")
    return folder / "table"


def test_the_most_outlier_like_tensor_comes_first(tmp_path: Path) -> None:
    found = overview(saved(tmp_path))
    assert [seen.name for seen in found.tensors] == ["net/b/outliers", "net/a/normal", "zero"]
    plain = overview_dict(found)
    json.dumps(plain, allow_nan=False)
    assert plain["samples"] == 40
    first = plain["tensors"][0]
    assert first["outlier_var"]["upper"]["tendency"] > 0.1
    assert first["outlier_var"]["lower"]["k"] == 0
    assert first["zeros"] == pytest.approx((OUTLIERS == 0).mean())
    assert [tensor["channels"] for tensor in plain["tensors"]] == [None, 8, None]


def test_a_row_a_tensor_fits_a_terminal(tmp_path: Path) -> None:
    lines = list(overview_lines(overview(saved(tmp_path))))
    assert all(len(line) <= 100 for line in lines[1:])
    assert lines[1] == "40 samples in batches of 4, all cores, 1 group(s)"
    (row,) = (line for line in lines if line.endswith("net/a/normal"))
    assert row.split()[:2] == ["32k", f"{NORMAL.min():.3g}"]
    assert "NaN" not in next(line for line in lines if line.endswith("tensor"))
    assert "no value is NaN, infinite or huge" in lines


def test_odd_values_get_columns(tmp_path: Path) -> None:
    odd = np.array([np.nan, np.inf, 1.0, -1.0, 3e38], np.float32)
    nothing = np.array([np.nan] * 3, np.float32)
    path = saved(tmp_path, odd=observe(odd, keep=8), nothing=observe(nothing))
    lines = list(overview_lines(overview(path)))
    rows = {line.split()[-1]: line.split() for line in lines if line}
    assert rows["tensor"][-3:-1] == ["NaN", "huge"]
    assert rows["odd"][-3:-1] == ["1", "2"]
    assert rows["nothing"] == ["3", *"-------", "3", "0", "nothing"]
    assert "keeps such a tensor float" in "\n".join(closeup_lines(closeup(path, "odd", UINT8)))
    shown = "\n".join(closeup_lines(closeup(path, "nothing", UINT8)))
    assert "no ordinary value was seen" in shown
    assert "no values but zero" in shown
    json.dumps(closeup_dict(closeup(path, "nothing", UINT8)), allow_nan=False)


def test_a_table_without_ends_still_shows_the_rest(tmp_path: Path) -> None:
    path = saved(tmp_path, bare=observe(NORMAL))
    assert overview_dict(overview(path))["keep_extremes"] == 64
    found = closeup(path, "bare", UINT8)
    assert "--keep-extremes" in found.refused["outlier-var"]
    assert {choice.spec.range.name for choice in found.choices} == {cls.name for cls in RANGES} - {
        "outlier-var"
    }
    assert any("outlier-var" in line and "none: " in line for line in closeup_lines(found))


# --- one tensor


@pytest.mark.parametrize("symmetric", [True, False])
@pytest.mark.parametrize(("name", "values"), [("normal", NORMAL), ("outliers", OUTLIERS)])
def test_sqnr_is_that_of_quantizing_the_values(
    name: str, values: Array, symmetric: bool, tmp_path: Path
) -> None:
    rule = replace(UINT8, dtype="int8", symmetric=symmetric)
    found = closeup(saved(tmp_path), name, rule)
    assert len(found.choices) == len(RANGES)
    for choice in found.choices:
        error = fake_quantize(values, choice.params).astype(np.float64) - values
        exact = 10 * np.log10((values.astype(np.float64) ** 2).sum() / (error**2).sum())
        assert choice.sqnr == pytest.approx(exact, abs=0.1)
        lo, hi = choice.range.lo.item(), choice.range.hi.item()
        reach = max(-lo, hi)
        lo, hi = (-reach, reach) if symmetric else (lo, hi)
        assert choice.clipped == pytest.approx(((values < lo) | (values > hi)).mean(), abs=1e-3)


def test_flags_reach_the_algorithms(tmp_path: Path) -> None:
    rule = replace(UINT8, range="percentile", range_options={"percentile": "99"})
    found = closeup(saved(tmp_path), "outliers", rule, {"alpha": 0, "k1": 3})
    plain = {choice["name"]: choice for choice in closeup_dict(found)["ranges"]}
    assert plain["percentile"]["options"] == {"percentile": 99}
    assert plain["outlier-var"]["options"]["k1"] == 3
    assert plain["outlier-var"]["hi"] == 60
    assert found.seen.limits is not None
    assert found.seen.limits[1].k == 3
    rule = replace(UINT8, range="outlier-var", range_options={"alpha": float("inf"), "k1": 2})
    found = closeup(saved(tmp_path), "outliers", rule, {"k1": 3})
    plain = {choice["name"]: choice for choice in closeup_dict(found)["ranges"]}
    assert plain["outlier-var"]["hi"] == 30
    json.dumps(plain, allow_nan=False)


def test_a_closeup_says_what_json_holds(tmp_path: Path) -> None:
    found = closeup(saved(tmp_path), "net/a/normal", UINT8)
    lines = list(closeup_lines(found))
    assert all(len(line) <= 100 for line in lines)
    assert any(line.startswith("  widest") and line.endswith("channel 3") for line in lines)
    assert any(line.startswith("* mse ") for line in lines)
    plain = closeup_dict(found)
    json.dumps(plain, allow_nan=False)
    assert sum(plain["histogram"]["counts"]) == NORMAL.size
    assert plain["ends"][0]["largest"] == np.sort(NORMAL.reshape(-1))[::-1][:64].tolist()
    assert plain["channel_ranges"]["hi"][3] == NORMAL[:, 3].max()


def test_a_name_may_be_short_but_not_wrong(tmp_path: Path) -> None:
    path = saved(tmp_path)
    assert closeup(path, "b/out", UINT8).seen.name == "net/b/outliers"
    with pytest.raises(UnknownNameError, match="did you mean 'net/a/normal'"):
        closeup(path, "net/a/normla", UINT8)
    with pytest.raises(RecipeError, match=r"part of 2 tensor names.*net/a/normal, net/b/outliers"):
        closeup(path, "net/", UINT8)
    with pytest.raises(UnknownNameError, match="unknown range 'msse'"):
        closeup(path, "zero", replace(UINT8, range="msse"))
    with pytest.raises(RecipeError, match="no integer type"):
        closeup(path, "zero", replace(UINT8, dtype="float"))


def test_a_long_list_of_names_is_cut() -> None:
    error = UnknownNameError("tensor", "x", [f"t{i:02}" for i in range(LISTED + 5)])
    assert str(error).endswith(f"t{LISTED - 1:02} and 5 more")


# --- positions


def test_positions_are_those_the_algorithms_take(tmp_path: Path) -> None:
    rule = replace(UINT8, dtype="int6", symmetric=True)
    found = closeup(saved(tmp_path), "outliers", rule, power_of_two=True)
    assert found.positions is not None
    scales = {c.spec.range.name: c.params.scale.item() for c in found.choices}
    chosen = found.positions.chosen
    assert list(chosen) == ["adaptive-kl", "plain-kl", "mse", "minmax"]
    assert {name: 2.0**-position for name, position in chosen.items()} == {
        name: scales[name] for name in chosen
    }
    assert chosen["minmax"] == found.positions.tried[0]
    for name, each in (
        ("adaptive-kl", found.positions.adaptive),
        ("plain-kl", found.positions.plain),
    ):
        assert found.positions.tried[each.argmin()] == chosen[name]
    lines = list(closeup_lines(found))
    rows = [line.split() for line in lines[lines.index(next(x for x in lines if "nats" in x)) :]]
    for name, position in chosen.items():
        (row,) = (row for row in rows if row[:1] == [str(position)])
        assert name in " ".join(row)
    plain = closeup_dict(found)["positions"]
    json.dumps(plain, allow_nan=False)
    assert plain["bits"] == 6
    assert len(plain["candidates"]) == 6
    assert len(plain["weights"]) == len(closeup_dict(found)["histogram"]["values"])


def test_positions_follow_width_chip_and_options(tmp_path: Path) -> None:
    path = saved(tmp_path)
    options = {"sharpness": "0", "epsilon": "1e-6"}
    rule = replace(UINT8, range="adaptive-kl", range_options=options)
    usual, other = closeup(path, "outliers", UINT8), closeup(path, "outliers", rule, chip=True)
    assert usual.positions is not None
    assert other.positions is not None
    assert usual.positions.curve.sharpness == pytest.approx(8 * other.positions.curve.sharpness)
    assert usual.positions.tried.tolist() == list(range(1, 9))
    assert other.positions.tried.tolist() == list(range(1, 8))
    assert (usual.positions.plain[:7] == other.positions.plain).all()


@pytest.mark.parametrize("name", ["zero", "nothing", "wide"])
def test_without_candidates_there_are_no_positions(name: str, tmp_path: Path) -> None:
    path = saved(
        tmp_path, nothing=observe(np.zeros(0, np.float32)), wide=observe(NORMAL, histogram=False)
    )
    found = closeup(path, name, UINT8)
    assert found.positions is None
    assert closeup_dict(found)["positions"] is None
    assert not any("positions" in line for line in closeup_lines(found))


# --- drawing


def test_a_shade_is_drawn_in_eighths_over_the_columns_of_the_picture() -> None:
    points = np.array([-1.0, 1.0]), np.array([5, 5])
    shades = {"up": lambda values: (values + 1) / 2}
    lines = list(drawn(points, (-1.0, 1.0), {"all": (-1.0, 1.0)}, 33, shades=shades))
    shade = lines[-2]
    assert shade.endswith("  up")
    assert shade[8:-4] == " ▁▁▁▂▂▃▃▃▄▄▅▅▅▆▆▇▇▇█"
    assert len(shade[8:-4]) == lines[-1][8:].index("┤") + 1


def test_a_picture_keeps_its_width_and_marks_ranges() -> None:
    points = np.array([-1.0, 0.0, 0.5, 3.0]), np.array([1, 1000, 10, 1])
    lines = list(drawn(points, (-1.0, 3.0), {"all": (-1.0, 3.0), "less": (0.0, 9.0)}, 60, ASCII))
    assert all(len(line) <= 60 for line in lines)
    assert all(line.isascii() for line in lines)
    picture = [line[8:] for line in lines[:8]]
    zero = picture[0].index("#")
    assert zero == lines[9][8:].index(" 0 ") + 1
    assert picture[-1][0] == "#"
    columns = 60 - 7 - 3 - len("less")
    assert lines[-2][8:] == "|" + "-" * (columns - 2) + "|  all"
    assert lines[-1][8:] == " " * zero + "|" + "-" * (columns - zero - 2) + "|  less"


def test_blocks_show_eighths_and_an_empty_range_is_one_line() -> None:
    points = np.array([1.0, 2.0]), np.array([1, 10**6])
    lines = list(drawn(points, (0.0, 2.0), {"none": (0.0, 0.0)}, 10))
    assert lines[0] == f"    1M │{' ' * 19}█"
    assert lines[4].startswith("   999 │")
    assert not any(line.isascii() for line in lines[:9])
    assert lines[-1][8:].split() == ["│", "none"]


def test_zeros_make_no_picture() -> None:
    points = np.zeros(1), np.array([9])
    assert [*drawn(points, (0.0, 0.0), {}, 80)] == ["nothing to draw: there are no values but zero"]


@pytest.mark.parametrize(
    ("count", "text"),
    [
        (0, "0"),
        (9999, "9999"),
        (10_000, "10k"),
        (999_499, "999k"),
        (999_600, "1M"),
        (3 * 10**9, "3G"),
    ],
)
def test_counts_are_short(count: int, text: str) -> None:
    assert compact(count) == text


def test_a_table_is_told_by_its_first_bytes(tmp_path: Path) -> None:
    assert is_table(saved(tmp_path))
    (tmp_path / "model").write_bytes(b"\x08\x08PK")
    assert not is_table(tmp_path / "model")
    assert not is_table(tmp_path / "missing")
