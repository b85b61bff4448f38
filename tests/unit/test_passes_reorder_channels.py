"""Constants of every kind are moved, or stay where they must; the sample models move."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.graph.coupling import channels_of
from onnxq.graph.io import array_of, from_proto, load, sync, write
from onnxq.passes.prepare import prepare
from onnxq.passes.reorder_channels import reorder_channels
from tests.channels import alone, assert_function_kept, between, orders, shuffle, sizes
from tests.graphs import copy, initializers, run

SAMPLES = Path(__file__).parents[2] / "sample_models"
MODELS = {  # how many channels move, and in how many families
    "fashion_detect": (560, 8),
    "fashion_mobilenet": (1344, 9),
    "fashion_resnet": (416, 5),
    "fashion_segment": (592, 12),
}
PLAIN = between("z = Relu(c)", [8]).proto


def test_the_report_names_the_constants_that_changed() -> None:
    model = from_proto(copy(PLAIN))
    channels = channels_of(model)
    report = reorder_channels(model, channels, [np.roll(np.arange(8), 1)])
    assert report.changed == ("A", "a", "Z")
    before, after = initializers(PLAIN), initializers(sync(model))
    np.testing.assert_array_equal(after["A"], np.roll(before["A"], 1, axis=0))
    np.testing.assert_array_equal(after["a"], np.roll(before["a"], 1))
    np.testing.assert_array_equal(after["Z"], np.roll(before["Z"], 1, axis=1))
    np.testing.assert_array_equal(array_of(model.graph.tensors()["A"]), after["A"])


def test_the_same_order_changes_nothing() -> None:
    model = from_proto(copy(PLAIN))
    assert not reorder_channels(model, channels_of(model), [np.arange(8)]).modified
    assert sync(model) == PLAIN


def test_an_order_that_is_no_permutation_is_refused() -> None:
    model = from_proto(copy(PLAIN))
    with pytest.raises(ValueError, match="order of 8 channels"):
        reorder_channels(model, channels_of(model), [np.zeros(8, int)])


def test_what_stays_says_why() -> None:
    channels = channels_of(from_proto(copy(PLAIN)))
    assert set(channels.movers.stays.values()) == {"model input 'x'", "model output 'y'"}
    loose = between("d = CumSum(c, at) z = Relu(d)", [], at=np.array(1)).proto
    reasons = set(channels_of(from_proto(copy(loose))).movers.stays.values())
    assert "CumSum(d): what CumSum does to channels is not known" in reasons


def sparse(proto: onnx.ModelProto, name: str) -> onnx.ModelProto:
    """Give a constant a sparse message."""
    (dense,) = [tensor for tensor in proto.graph.initializer if tensor.name == name]
    values = onnx.numpy_helper.to_array(dense)
    where = np.flatnonzero(values)
    held = onnx.numpy_helper.from_array(values.ravel()[where], name)
    places = onnx.numpy_helper.from_array(where)
    made = copy(proto)
    made.graph.initializer.remove(dense)
    made.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(held, places, values.shape))
    return made


def test_a_sparse_constant_stays() -> None:
    proto = sparse(PLAIN, "A")
    channels = channels_of(from_proto(copy(proto)))
    assert sizes(channels) == []
    assert "'A' is sparse" in channels.movers.stays.values()
    assert_function_kept(proto)


def test_constants_that_old_models_list_as_inputs_move() -> None:
    proto = between("z = Relu(c)", [8], ir=3, opset=8).proto
    assert sizes(channels_of(from_proto(copy(proto)))) == [8]
    assert_function_kept(proto)


def test_operators_of_old_sets_stay() -> None:
    proto = between("z = Relu(c)", [], opset=6).proto
    assert sizes(channels_of(from_proto(copy(proto)))) == []


def test_a_custom_operator_stops_channels() -> None:
    proto = alone("c = Conv(x, A) d = com.test.Relu(c) y = Conv(d, Z)", [], opset=13,
                  y="float[a, b, c, d] y", A=(8, 4, 1, 1), Z=(3, 8, 1, 1)).proto  # fmt: skip
    assert sizes(channels_of(from_proto(copy(proto)))) == []


def test_half_precision_moves() -> None:
    body = "h = Cast<to = 10>(x) c = Conv(h, A) d = Relu(c) e = Conv(d, Z) y = Cast<to = 1>(e)"
    draw = np.random.default_rng(0).normal
    weights = {"A": draw(size=(8, 4, 1, 1)), "Z": draw(size=(3, 8, 1, 1))}
    case = alone(body, [8], **{k: v.astype(np.float16) for k, v in weights.items()})
    model = from_proto(copy(case.proto))
    assert shuffle(model, 0) == ("A", "Z")
    (a,), (b,) = run(case.proto), run(sync(model))
    np.testing.assert_allclose(a, b, atol=0.02)


def test_external_data_moves(tmp_path: Path) -> None:
    path = tmp_path / "model.onnx"
    onnx.save(copy(PLAIN), path, save_as_external_data=True, size_threshold=0, location="w.data")
    model = load(path)
    assert shuffle(model, 1) == ("A", "a", "Z")
    write(model, tmp_path / "moved.onnx")
    (a,), (b,) = run(PLAIN), run(onnx.load(tmp_path / "moved.onnx"))
    np.testing.assert_allclose(b, a, atol=1e-4 * float(np.abs(a).max()))


@pytest.mark.parametrize("name", MODELS)
def test_sample_models_keep_their_function(name: str) -> None:
    path = SAMPLES / name / "model.onnx"
    prepared = load(path)
    prepare(prepared)
    channels = channels_of(prepared)
    found = channels.movers.families
    assert (sum(map(len, found)), len(found)) == MODELS[name]
    with np.load(SAMPLES / name / "eval.npz") as data:
        feed = {value.name: data[value.name][:4] for value in prepared.proto.graph.input}
    reorder_channels(prepared, channels, orders(channels, 0))
    for a, b in zip(run(onnx.load(path), feed), run(sync(prepared), feed), strict=True):
        np.testing.assert_allclose(b, a, rtol=0, atol=1e-4 * float(np.abs(a).max()))
