"""The mechanisms behind odd models, each by itself."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.calibration import unfit
from onnxq.errors import ModelError, UnsupportedError
from onnxq.graph import external as external_data
from onnxq.graph import io
from onnxq.graph.external import write_parted
from onnxq.graph.io import array_of, from_proto, load, overridable
from onnxq.graph.opset import raise_opset
from onnxq.graph.session import Recorded, Runtime, Session
from onnxq.numerics.observe import observe
from onnxq.passes.inline_functions import inline_functions
from onnxq.plan import resolve
from onnxq.planning import _raised
from onnxq.recipe import Recipe
from tests.graphs import assert_same_function, build, copy, eager, feed_for, initializers, run

TWO = "g (float[N, 40] x) => (float[N, 40] y) { t = MatMul(x, w) y = MatMul(t, v) }"
WEIGHTS = {"w": (40, 40), "v": (40, 40)}


def external(folder: Path, proto: onnx.ModelProto) -> Path:
    options = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    onnx.save(copy(proto), folder / "m.onnx", **options)
    return folder / "m.onnx"


# --- external data


def test_large_external_data_stays_in_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external_data, "LAZY", 0)
    proto = build(TWO, WEIGHTS)
    model = load(external(tmp_path, proto))
    assert model.proto.ByteSize() < 1000
    for tensor in model.graph.nodes[0].inputs[1], model.graph.nodes[1].inputs[1]:
        assert (array_of(tensor) == initializers(proto)[tensor.name]).all()
    feed = feed_for(proto)
    assert (Session(model, Runtime()).run(feed)[0] == run(proto, feed, optimize=True)[0]).all()


def test_external_data_that_is_too_short_is_refused_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(external_data, "LAZY", 0)
    path = external(tmp_path, build(TWO, WEIGHTS))
    (tmp_path / "w.bin").write_bytes(bytes(10_000))
    with pytest.raises(ModelError, match=r"m\.onnx: .*w\.bin.* too short for tensor"):
        load(path)


def test_a_message_beyond_the_limit_runs_from_a_temporary_file(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    proto = build(TWO, WEIGHTS)
    feed, expected = feed_for(proto), run(proto, names=["t"])
    monkeypatch.setattr(io, "PROTO_LIMIT", 100)
    before = copy(proto)
    session = Session(proto, Runtime(), expose=["t"])
    np.testing.assert_allclose(session.run(feed)[0], expected[0], rtol=1e-5, atol=1e-5)
    assert proto == before


def test_parted_files_hold_every_form_of_tensor(tmp_path: Path) -> None:
    proto = build(TWO, WEIGHTS)
    w, v = proto.graph.initializer
    values = onnx.numpy_helper.to_array(w)
    w.ClearField("raw_data")
    w.float_data.extend(values.ravel().tolist())  # not raw
    v.doc_string = "kept"
    v.metadata_props.add(key="k", value="kept")
    names = onnx.helper.make_tensor("names", onnx.TensorProto.STRING, [300], [b"abcdef"] * 300)
    proto.graph.initializer.append(names)
    write_parted(proto, tmp_path, tmp_path / "p.onnx")
    onnx.checker.check_model(str(tmp_path / "p.onnx"))
    assert (tmp_path / "p.onnx").stat().st_size < 5000
    read = onnx.load(tmp_path / "p.onnx")
    assert_same_function(proto, read)
    assert read.graph.initializer[1].doc_string == "kept"
    assert read.graph.initializer[1].metadata_props[0].value == "kept"


def test_recorded_results_need_no_session() -> None:
    proto = build(TWO, WEIGHTS)
    feed = feed_for(proto)
    session = Session(proto, Runtime())
    recorded = Recorded(session, [feed])
    assert recorded.outputs == ["y"]
    assert (recorded.run(feed)[0] == session.run(feed)[0]).all()


# --- inputs


@pytest.mark.parametrize(("ir", "expected"), [(3, []), (8, ["w"])])
def test_overridable_weights(ir: int, expected: list[str]) -> None:
    proto = build(TWO, WEIGHTS, opset=8, ir=3)
    proto.ir_version = ir
    del proto.graph.input[2:]
    assert overridable(from_proto(proto)) == expected


def test_unknown_rank_is_told_from_a_scalar() -> None:
    proto = build("g (float x, float[N] u) => (float[N] y) { y = Add(x, u) }")
    proto.graph.input[1].type.tensor_type.ClearField("shape")
    shapes = {info.name: info.shape for info in Session(proto, Runtime()).inputs}
    assert shapes == {"x": (), "u": None}


# --- operator sets


def test_what_the_converter_renames_gets_its_name_back() -> None:
    text = """g (float[1,2,4,4] x) => (float[1,2,8,8] y, float[1,2,8,8] z) {
        u = Upsample<scales = [1.0, 1.0, 2.0, 2.0]>(x) y = Relu(u) z = Neg(u) }"""
    proto = build(text, opset=7, ir=3)
    raised = raise_opset(from_proto(copy(proto)), 13).proto
    assert [list(n.output) for n in raised.graph.node if n.op_type == "Resize"] == [["u"]]
    assert_same_function(proto, raised)


def test_a_model_that_cannot_be_raised_names_the_flag_that_does_without() -> None:
    proto = build("g (float[N] x) => (float[N] y) { y = Relu(x) }", opset=11)
    proto.functions.append(
        onnx.helper.make_function(
            "my", "f", ["a"], ["b"], [onnx.helper.make_node("Neg", ["a"], ["b"])],
            [onnx.helper.make_opsetid("", 9)],
        )
    )  # fmt: skip
    proto.opset_import.append(onnx.helper.make_opsetid("my", 1))
    proto.graph.node.append(onnx.helper.make_node("NoSuch", ["y"], ["z"], domain=""))
    for feature, hint in (("per-channel weights", True), ("int16", False)):
        with pytest.raises(UnsupportedError) as caught:
            _raised(from_proto(copy(proto)), 13, feature)
        assert ("--per-tensor" in str(caught.value)) == hint


# --- local functions


FUNCTION = """<ir_version: 10, opset_import: ["" : 13, "my" : 1]>
g (float[N, 40] x) => (float[N, 40] y)
{ t = my.two(x, w) r = Relu(t) u = my.two(r, w) y = Identity(u) }
<domain: "my", opset_import: ["" : 13]> two (a, b) => (c) { m = MatMul(a, b) c = Neg(m) }"""


def test_inlining_keeps_the_function_and_what_it_does_not_touch() -> None:
    proto = onnx.parser.parse_model(FUNCTION)
    weight = np.random.default_rng(0).normal(size=(40, 40)).astype(np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    proto.graph.node[1].name = "relu"
    for message in (proto, proto.graph, proto.graph.node[1]):
        message.metadata_props.add(key="k", value="kept")
    proto.graph.quantization_annotation.add(tensor_name="r")
    model = from_proto(copy(proto))
    report = inline_functions(model)
    assert report.changed == ("two(t)", "two(u)")
    assert [node.op for node in model.graph.nodes] == [
        "MatMul", "Neg", "Relu", "MatMul", "Neg", "Identity"
    ]  # fmt: skip
    result = io.sync(model)
    relu = next(node for node in result.graph.node if node.op_type == "Relu")
    assert relu.name == "relu"
    for message in (result, result.graph, relu):
        assert [(p.key, p.value) for p in message.metadata_props] == [("k", "kept")]
    assert result.graph.quantization_annotation == proto.graph.quantization_annotation
    assert not result.functions
    assert {"t", "r", "u"} <= {name for node in result.graph.node for name in node.output}
    assert_same_function(proto, result)
    assert inline_functions(model).changed == ()


def test_functions_of_another_operator_set_are_inlined_too() -> None:
    proto = onnx.parser.parse_model(FUNCTION)
    proto.opset_import[0].version = 15
    weight = np.ones((40, 40), np.float32)
    proto.graph.initializer.append(onnx.numpy_helper.from_array(weight, "w"))
    onnx.checker.check_model(proto)
    model = from_proto(copy(proto))
    assert inline_functions(model).changed == ("two(t)", "two(u)")
    assert_same_function(proto, io.sync(model))


# --- tensors unfit for integers


def test_what_makes_a_tensor_unfit() -> None:
    seen = {
        "fine": observe(np.array([1, 2], np.float32)),
        "infinite": observe(np.array([1, -np.inf], np.float32)),
        "huge": observe(np.array([1, 3e38, np.nan], np.float32)),
        "nan": observe(np.array([1, np.nan], np.float32)),
        "empty": observe(np.zeros((0, 4), np.float32)),
    }
    found = unfit(seen)
    assert set(found) == {"infinite", "huge", "nan", "empty"}
    assert "infinite or huge" in found["huge"]


def test_neighbours_of_an_unfit_tensor_are_float_with_its_reason() -> None:
    model = from_proto(build(TWO, WEIGHTS))
    plan = resolve(model, eager(), Recipe(), {"t": "is odd"})
    assert plan.nodes["t"].quantized  # its integer kernel can write floats
    assert "t" not in plan.activations
    assert not plan.nodes["y"].quantized
    assert plan.nodes["y"].reason == "'t' is odd"
    with pytest.raises(ModelError, match="nothing to quantize: 'x' is odd"):
        resolve(model, eager(), Recipe(), {"x": "is odd", "t": "is odd", "y": "is odd"})


def test_a_conv_that_would_write_an_unfit_tensor_is_float() -> None:
    text = "g (float[N, 16, 8, 8] x) => (float[N, 16, 8, 8] y) { c = Conv(x, w) y = Relu(c) }"
    model = from_proto(build(text.replace("y) {", "y) {"), {"w": (16, 16, 1, 1)}))
    with pytest.raises(ModelError, match="'y' is odd"):
        resolve(model, eager(), Recipe(), {"y": "is odd"})
