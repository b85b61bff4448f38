"""The largest values of channels on samples."""

import numpy as np

from onnxq.graph.io import from_proto
from onnxq.graph.session import Runtime
from onnxq.recipe import Recipe
from onnxq.rescaling import maxima, rescaled
from tests.graphs import build

ONE = Runtime(threads=1)
NET = "g (float[N, M, 3] x) => (y) { r = Log(x) y = Abs(x) }"


def feed(*rows: list[float]) -> dict[str, np.ndarray]:
    return {"x": np.array([rows], np.float32)}


def test_each_channel_has_its_largest_magnitude_over_all_samples() -> None:
    feeds = [feed([1, -2, 3], [0, 1, 0]), feed([-4, 1, 0])]
    found = maxima(from_proto(build(NET)), {"x": -1, "y": 2}, feeds, ONE)
    assert found["x"].tolist() == found["y"].tolist() == [4, 2, 3]


def test_a_changing_number_of_channels_is_none() -> None:
    feeds = [feed([1, 1, 1]), feed([1, 1, 1], [2, 2, 2])]
    assert maxima(from_proto(build(NET)), {"x": 1}, feeds, ONE) == {}


def test_what_is_not_finite_says_nothing() -> None:
    assert maxima(from_proto(build(NET)), {"r": -1}, [feed([0, 1, 2])], ONE) == {}


def test_a_recipe_asks_for_each_pass_by_itself() -> None:
    assert not Recipe(equalize=False).rescales
    assert Recipe(smooth=0.0).rescales
    model = from_proto(build(NET))
    feeds = [feed([1, 1, 1])]
    asked = {"equalize": Recipe(equalize=True), "smooth": Recipe(smooth=0.5)}
    for name, recipe in asked.items():
        assert [report.name for report in rescaled(model, recipe, feeds, ONE)] == [name]
    assert rescaled(model, asked["smooth"], [], ONE) == []
