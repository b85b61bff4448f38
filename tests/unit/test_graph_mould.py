"""A mould: other constants in the same places, casts that do not touch each other."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.graph.io import load, sync
from onnxq.graph.mould import Mould
from onnxq.types import Array
from tests.graphs import build, copy, initializers, run

NET = "g (float[N, 3] x) => (float[N, 2] y) { y = Gemm(x, w, b) }"
FEED = {"x": np.eye(3, dtype=np.float32)}


def arrays(seed: int) -> dict[str, Array]:
    rng = np.random.default_rng(seed)
    return {
        "w": rng.normal(size=(3, 2)).astype(np.float32),
        "b": rng.normal(size=2).astype(np.float32),
    }


def expected(constants: dict[str, Array]) -> Array:
    return FEED["x"] @ constants["w"] + constants["b"]


@pytest.fixture
def mould() -> Mould:
    return Mould(copy(build(NET, arrays(0))), Path())


def test_constants_are_exchanged(mould: Mould) -> None:
    assert mould.names == {"w", "b"}
    for seed in (1, 2, 1):
        cast = mould.cast(arrays(seed))
        onnx.checker.check_model(cast)
        np.testing.assert_allclose(run(cast, FEED)[0], expected(arrays(seed)), rtol=1e-6)


def test_what_is_not_given_stays_as_it_was_cast_last(mould: Mould) -> None:
    first, second = arrays(1), arrays(2)
    mould.cast({"w": first["w"]})
    cast = mould.cast({"b": second["b"]})
    held = initializers(cast)
    np.testing.assert_array_equal(held["w"], first["w"])
    np.testing.assert_array_equal(held["b"], second["b"])


def test_casts_do_not_touch_each_other(mould: Mould) -> None:
    before = mould.cast(arrays(1))
    after = mould.cast(arrays(2))
    np.testing.assert_array_equal(initializers(before)["w"], arrays(1)["w"])
    after.graph.node[0].op_type = "Broken"
    assert mould.cast(arrays(1)).graph.node[0].op_type == "Gemm"


def test_an_array_that_comes_back_is_written_again(mould: Mould) -> None:
    one, other = arrays(1), arrays(2)
    for constants in (one, other, one, one):
        np.testing.assert_array_equal(initializers(mould.cast(constants))["w"], constants["w"])


def test_shapes_and_types_may_be_others(mould: Mould) -> None:
    held = initializers(mould.cast({"w": np.ones((3, 5), np.int8)}))
    assert (held["w"].shape, held["w"].dtype) == ((3, 5), np.int8)


def test_constants_that_are_not_there_are_refused(mould: Mould) -> None:
    with pytest.raises(KeyError):
        mould.cast({"c": np.ones(2)})


def test_weights_in_other_files_are_held(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(
        build(NET, arrays(3)), path, save_as_external_data=True, location="d", size_threshold=0
    )
    model = load(path)
    mould = Mould(sync(model), path.parent)
    (tmp_path / "d").unlink()
    cast = mould.cast({"b": arrays(4)["b"]})
    found = run(cast, FEED)[0]
    np.testing.assert_allclose(found, expected({**arrays(3), "b": arrays(4)["b"]}), rtol=1e-6)
