from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.errors import ModelError, UsageError
from onnxq.graph import session as session_module
from onnxq.graph.session import Runtime, Session, feed_of
from onnxq.readers import InputInfo
from tests.graphs import build, copy

CHAIN = """
g (float[N, 4] x, int64[2, ?] i, double d) => (float[N, 4] y, int64[2, ?] j)
{ a = Relu(x) b = Neg(a) y = Exp(b) j = Abs(i) e = Abs(d) }
"""
RUNTIME = Runtime(threads=1)


def feed(rows: int = 2) -> dict[str, np.ndarray]:
    x = np.arange(rows * 4, dtype=np.float32).reshape(rows, 4) - 3
    return {"x": x, "i": np.array([[1], [-2]]), "d": np.array(1.0)}


def one_line(error: BaseException, start: str) -> None:
    assert str(error).startswith(start)
    assert "\n" not in str(error)
    assert len(str(error)) > len(start) + 5


def test_inputs_and_outputs_are_described() -> None:
    session = Session(build(CHAIN), RUNTIME)
    assert session.inputs == [
        InputInfo("x", "float32", (None, 4)),
        InputInfo("i", "int64", (2, None)),
        InputInfo("d", "float64", ()),
    ]
    assert session.outputs == ["y", "j"]


@pytest.mark.parametrize(
    ("onnx_type", "dtype"),
    [("float16", "float16"), ("uint8", "uint8"), ("bool", "bool"), ("string", "object")],
)
def test_element_types_are_named_as_numpy_does(onnx_type: str, dtype: str) -> None:
    proto = build(f"g ({onnx_type}[N] x) => ({onnx_type}[N] y) {{ y = Identity(x) }}")
    assert Session(proto, RUNTIME).inputs[0].dtype == dtype


@pytest.mark.parametrize("optimize", [True, False])
def test_run_returns_the_outputs_in_order(*, optimize: bool) -> None:
    y, j = Session(build(CHAIN), Runtime(threads=1, optimize=optimize)).run(feed())
    np.testing.assert_allclose(y, np.exp(-np.maximum(feed()["x"], 0)), rtol=1e-6)
    assert j.tolist() == [[1], [2]]


def test_a_file_can_be_loaded(tmp_path: Path) -> None:
    onnx.save(build(CHAIN), tmp_path / "m.onnx")
    assert Session(tmp_path / "m.onnx", RUNTIME).outputs == ["y", "j"]


# --- exposing


def test_exposed_tensors_replace_the_outputs_in_the_order_asked() -> None:
    session = Session(build(CHAIN), RUNTIME, expose=["b", "a"])
    assert session.outputs == ["b", "a"]
    b, a = session.run(feed())
    np.testing.assert_array_equal(a, np.maximum(feed()["x"], 0))
    np.testing.assert_array_equal(b, -a)


def test_an_output_can_be_exposed_too() -> None:
    session = Session(build(CHAIN), RUNTIME, expose=["y", "a"])
    y, a = session.run(feed())
    np.testing.assert_allclose(y, np.exp(-a), rtol=1e-6)


def test_exposing_leaves_the_model_unchanged() -> None:
    proto = build(CHAIN)
    before = copy(proto)
    Session(proto, RUNTIME, expose=["a", "b"])
    assert proto == before


def test_exposing_leaves_the_model_unchanged_when_loading_fails() -> None:
    proto = build("g (float[N] x) => (float[N] y) { a = Relu(x) y = com.test.Nothing(a) }")
    before = copy(proto)
    with pytest.raises(ModelError):
        Session(proto, RUNTIME, expose=["a"])
    assert proto == before


# --- any order


CONVOLUTIONS = """
g (float[N, 3, 8, 8] x) => (float[N, 16, 1, 1] y)
{ a = Conv(x, V) b = Relu(a) c = Conv(b, W) d = Relu(c) e = Conv(d, U) f = Relu(e)
  y = GlobalAveragePool(f) }
"""
INSIDE = ["b", "d", "f"]


def convolutions() -> onnx.ModelProto:
    """Return a model of two tensors that fill blocks of 16 channels, and one that does not."""
    return build(CONVOLUTIONS, {"V": (32, 3, 3, 3), "W": (24, 32, 3, 3), "U": (16, 24, 1, 1)})


def pictures() -> dict[str, np.ndarray]:
    return {"x": np.random.default_rng(3).normal(size=(2, 3, 8, 8)).astype(np.float32)}


@pytest.mark.parametrize("loose", [INSIDE, ["b"], ["d"]])
def test_loose_tensors_hold_the_same_values(loose: list[str]) -> None:
    proto = convolutions()
    plain = Session(proto, RUNTIME, expose=INSIDE)
    session = Session(proto, RUNTIME, expose=INSIDE, loose=loose)
    assert session.outputs == INSIDE
    assert session.inputs == plain.inputs
    for name, found, expected in zip(
        INSIDE, session.run(pictures()), plain.run(pictures()), strict=True
    ):
        if name in loose:
            np.testing.assert_array_equal(np.sort(found, axis=None), np.sort(expected, axis=None))
        else:
            np.testing.assert_array_equal(found, expected, strict=True)


def test_what_cannot_be_taken_loose_is_taken_as_ever(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> dict[str, str]:
        raise OSError("no room")

    plain = Session(convolutions(), RUNTIME, expose=INSIDE).run(pictures())
    monkeypatch.setattr(session_module, "take_blocked", refuse)
    found = Session(convolutions(), RUNTIME, expose=INSIDE, loose=INSIDE).run(pictures())
    for one, other in zip(found, plain, strict=True):
        np.testing.assert_array_equal(one, other)


# --- errors


def test_a_refused_model_is_a_model_error() -> None:
    proto = build("g (float[N] x) => (float[N] y) { y = com.test.Nothing(x) }")
    with pytest.raises(ModelError) as caught:
        Session(proto, RUNTIME)
    one_line(caught.value, "onnxruntime cannot load the model: ")


def test_an_ir_version_too_new_is_a_model_error() -> None:
    proto = build(CHAIN)
    proto.ir_version = 99
    with pytest.raises(ModelError) as caught:
        Session(proto, RUNTIME)
    one_line(caught.value, "onnxruntime cannot load the model: ")


def test_exposing_what_does_not_exist_is_a_model_error() -> None:
    with pytest.raises(ModelError) as caught:
        Session(build(CHAIN), RUNTIME, expose=["nowhere"])
    one_line(caught.value, "onnxruntime cannot load the model: ")


def test_a_missing_file_is_a_model_error(tmp_path: Path) -> None:
    with pytest.raises(ModelError) as caught:
        Session(tmp_path / "none.onnx", RUNTIME)
    one_line(caught.value, "onnxruntime cannot load the model: ")


def test_a_missing_custom_operator_library_is_a_model_error(tmp_path: Path) -> None:
    runtime = Runtime(custom_ops=tmp_path / "none.so")
    with pytest.raises(ModelError) as caught:
        Session(build(CHAIN), runtime)
    one_line(caught.value, "onnxruntime cannot load the model: ")
    assert "none.so" in str(caught.value)


@pytest.mark.parametrize(
    "wrong",
    [
        {"x": np.zeros((2, 5), np.float32)},
        {"x": np.zeros((2, 4), np.float64)},
        {"x": np.zeros(4, np.float32)},
        {"other": np.zeros(4, np.float32)},
    ],
)
def test_a_wrong_feed_is_a_model_error(wrong: dict[str, np.ndarray]) -> None:
    session = Session(build(CHAIN), RUNTIME)
    with pytest.raises(ModelError) as caught:
        session.run({**feed(), **wrong})
    one_line(caught.value, "onnxruntime cannot run the model: ")


def test_a_missing_input_is_a_model_error() -> None:
    session = Session(build(CHAIN), RUNTIME)
    with pytest.raises(ModelError) as caught:
        session.run({"x": feed()["x"]})
    one_line(caught.value, "onnxruntime cannot run the model: ")


@pytest.mark.parametrize("provider", ["nonsense", "qnn"])
def test_a_missing_provider_is_a_usage_error(provider: str) -> None:
    with pytest.raises(UsageError, match=f"provider '{provider}' is not in this onnxruntime: cpu"):
        Session(build(CHAIN), Runtime(provider=provider))


def test_feed_of_picks_the_inputs_and_makes_them_contiguous() -> None:
    whole = np.arange(12, dtype=np.float32).reshape(3, 4)
    infos = [InputInfo("x", "float32", (None, 3))]
    picked = feed_of({"x": whole.T, "label": np.zeros(4)}, infos)
    assert list(picked) == ["x"]
    assert picked["x"].flags.c_contiguous
    np.testing.assert_array_equal(picked["x"], whole.T)
