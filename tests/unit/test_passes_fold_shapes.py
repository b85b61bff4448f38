import numpy as np
import onnx
import pytest

from onnxq.graph.io import from_proto, sync
from onnxq.passes import PassReport
from onnxq.passes.fold_shapes import fold_shapes
from onnxq.passes.prepare import prepare
from tests.graphs import assert_same_function, build, copy, initializers, ops


def folded(proto: onnx.ModelProto) -> tuple[PassReport, onnx.ModelProto]:
    model = from_proto(copy(proto))
    report = fold_shapes(model)
    result = sync(model)
    onnx.checker.check_model(result, full_check=True)
    assert_same_function(proto, result)
    return report, result


def test_a_shape_without_open_axes() -> None:
    proto = build("""g (float[2, 3, 4] x) => (int64[3] y)
        { t = Transpose<perm = [2, 0, 1]>(x) s = Shape(t) y = Neg(s) }""")
    report, result = folded(proto)
    assert report.changed == ("Shape(s)", "Transpose(t)")
    np.testing.assert_array_equal(initializers(result)["s"], [4, 2, 3])
    assert ops(result) == ["Neg"]


@pytest.mark.parametrize(("attributes", "expected"), [("start = 1", [3, 4]), ("end = -2", [])])
def test_part_of_a_shape(attributes: str, expected: list[int]) -> None:
    text = "g (float[N, 3, 4] x) => (int64[n] y) { s = Shape<ATTRIBUTES>(x) y = Neg(s) }"
    report, result = folded(build(text.replace("ATTRIBUTES", attributes), opset=15))
    if expected:
        np.testing.assert_array_equal(initializers(result)["s"], expected)
    else:
        assert not report.modified  # the one axis asked for is open


@pytest.mark.parametrize(
    ("indices", "expected"),
    [(np.array(1), 3), (np.array([2, -2]), [4, 3]), (np.array(0), None), (np.array([1, 0]), None)],
)
def test_axes_picked_from_a_shape(indices: np.ndarray, expected: list[int] | None) -> None:
    proto = build(
        "g (float[N, 3, 4] x) => (int64 y)"
        "{ s = Shape(x) d = Gather(s, i) y = ReduceSum<keepdims = 0>(d) }",
        {"i": indices},
    )
    report, result = folded(proto)
    if expected is None:
        assert not report.modified
        assert result == proto
    else:
        assert report.changed == ("Gather(d)", "Shape(s)")
        np.testing.assert_array_equal(initializers(result)["d"], expected)


REFUSED = {
    "output": "g (float[2, 3] x) => (int64[2] s, int64[2] y) { s = Shape(x) y = Neg(s) }",
    "zero": "g (float[0, 3] x) => (int64[2] y) { s = Shape(x) y = Neg(s) }",
    "unknown rank": "g (float x, int64[n] r) => (int64[n] y)"
    "{ t = Reshape(x, r) s = Shape(t) y = Neg(s) }",
    "too far": "g (float[2, 3] x) => (int64 y) { s = Shape(x) y = Gather(s, five) }",
    "of another tensor": "g (float[2, 3] x, int64 i) => (float[3] y) { y = Gather(x, i) }",
}


@pytest.mark.parametrize("case", REFUSED)
def test_left_alone(case: str) -> None:
    proto = build(REFUSED[case], {"five": np.array(5)})
    model = from_proto(copy(proto))
    report = fold_shapes(model)
    assert "y" not in initializers(sync(model))
    if case != "too far":
        assert not report.modified


@pytest.mark.parametrize("size", [1, 4])
def test_a_squeeze_as_exporters_write_it(size: int) -> None:
    """Whether there is an axis to squeeze is asked at run time, though the input fixes it."""
    proto = build(
        """g (float[N, SIZE, 4] x) => (float[N, m, k] z) {
            r = Relu(x)
            s = Shape(r)
            d = Gather(s, one)
            c = Equal(d, one)
            y = If(c) <
                then_branch = t () => (float[N, 4] p)
                    { p = ReduceMax<axes = [1], keepdims = 0>(r) },
                else_branch = e () => (float[N, m, k] q) { q = Identity(r) }
            >
            w = Neg(y)
            z = Reshape(w, to)
        }""".replace("SIZE", str(size)),
        {"one": np.array(1), "to": np.array([2, -1, 2])},
    )
    model = from_proto(copy(proto))
    prepare(model)
    expected = "ReduceMax" if size == 1 else "Identity"
    assert ops(sync(model)) == ["Relu", expected, "Neg", "Reshape"]
    assert_same_function(proto, sync(model))
