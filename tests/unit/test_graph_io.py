import hashlib
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest

from onnxq.errors import ModelError
from onnxq.graph import io
from onnxq.graph.edit import set_inputs
from onnxq.graph.io import array_of, constant, from_proto, load, sync, write
from onnxq.graph.messages import inputs_of
from tests.graphs import assert_same_function, build, copy, initializers, ops, run

RELU = "g (float[N, 4] x) => (float[N, 4] y) { y = Relu(x) }"

KITCHEN_SINK = """
g (float[N, 4] x, bool c) => (float[N, 4] y, float[N, 4] z)
{
    k = Constant<value = float[4] {1.0, 2.0, 3.0, 4.0}>()
    r = Clip(x, , top)
    s = com.test.Custom<alpha = 1.5, name = "n">(r)
    t = com.test.twice(r)
    y = If(c) <
        then_branch = yes () => (float[N, 4] a) { a = Add(t, k) },
        else_branch = no () => (float[N, 4] b) { o = Neg(t) b = Mul(o, w) }
    >
    z = Identity(s)
}
<domain: "com.test", opset_import: ["" : 21]>
twice (v) => (d) { d = Add(v, v) }
"""


def kitchen_sink() -> onnx.ModelProto:
    """One model with every kind of field that a careless exporter drops."""
    weights = {
        "w": (4,),
        "top": np.array(6, np.float32),
        "unused": np.arange(3.0),
        "i4": np.array([-8, 7, 1], ml_dtypes.int4),
        "u4": np.array([15, 0, 1], ml_dtypes.uint4),
        "bf": np.array([1.5, -2], ml_dtypes.bfloat16),
        "f8": np.array([1.5, -2], ml_dtypes.float8_e4m3fn),
        "f8b": np.array([1.5, -2], ml_dtypes.float8_e5m2),
        "scale": np.array(0.5, np.float32),
    }
    proto = build(KITCHEN_SINK, weights, opset=21, ir=10)
    graph = proto.graph
    for number, message in enumerate((proto, graph, *graph.node, *graph.initializer)):
        message.metadata_props.add(key=f"key{number}", value="kept")
        message.doc_string = f"about {number}"
    graph.value_info.append(onnx.helper.make_tensor_value_info("r", 1, ["N", 4], "about r"))
    annotation = graph.quantization_annotation.add(tensor_name="r")
    annotation.quant_parameter_tensor_names.add(key="SCALE_TENSOR", value="scale")
    values = onnx.numpy_helper.from_array(np.array([2.5], np.float32), "sparse")
    indices = onnx.numpy_helper.from_array(np.array([3], np.int64), "sparse_indices")
    graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [5]))
    graph.input[0].doc_string = "about x"
    graph.input[0].type.denotation = "TENSOR"
    proto.producer_name, proto.producer_version = "maker", "1.2"
    proto.domain, proto.model_version = "org.maker", 7
    onnx.checker.check_model(proto)
    return proto


def unlinked(proto: onnx.ModelProto) -> io.Model:
    return from_proto(copy(proto))


def saved(proto: onnx.ModelProto, path: Path, **options: object) -> Path:
    onnx.save(proto, path, **options)
    return path


def external(folder: Path, value: float = 1.0) -> Path:
    proto = build(
        "g (float[N, 4] x) => (float[N, 4] y) { y = Add(x, w) }",
        {"w": np.full(4, value, np.float32)},
    )
    folder.mkdir(exist_ok=True)
    options = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    return saved(proto, folder / "m.onnx", **options)


# --- round trip


def test_round_trip_keeps_every_byte(tmp_path: Path) -> None:
    path = tmp_path / "a.onnx"
    path.write_bytes(kitchen_sink().SerializeToString(deterministic=True))
    write(load(path), tmp_path / "b.onnx")
    assert (tmp_path / "b.onnx").read_bytes() == path.read_bytes()


def test_round_trip_twice_through_sync_keeps_every_field() -> None:
    proto = kitchen_sink()
    model = unlinked(proto)
    sync(model)
    assert sync(model) == proto


@pytest.mark.parametrize(("opset", "ir"), [(7, 3), (8, 3), (9, 4), (13, 3), (13, 8)])
def test_initializers_that_are_inputs_stay_inputs(opset: int, ir: int, tmp_path: Path) -> None:
    proto = build(
        "g (float[N, 4] x) => (float[N, 4] y) { y = Add(x, w) }", {"w": (4,)}, opset=opset
    )
    proto.ir_version = ir
    proto.graph.input.append(onnx.helper.make_tensor_value_info("w", 1, [4]))
    path = saved(proto, tmp_path / "a.onnx")
    model = load(path)
    assert [tensor.name for tensor in model.graph.inputs] == ["x"]
    assert sync(model) == proto


def test_edits_keep_what_they_do_not_touch() -> None:
    proto = kitchen_sink()
    model = unlinked(proto)
    node = model.graph.nodes[-1]
    added = gs.Variable("added")
    model.graph.nodes.append(gs.Node("Relu", name="new", inputs=[node.inputs[0]], outputs=[added]))
    set_inputs(node, [added])
    result = sync(model)
    new = next(n for n in result.graph.node if n.name == "new")
    assert list(new.input) == ["s"]
    expected = copy(proto)
    expected.graph.node[-1].input[0] = "added"
    expected.graph.node.insert(len(expected.graph.node) - 1, new)
    assert result == expected


def test_int4_constants_keep_their_values() -> None:
    values = initializers(sync(unlinked(kitchen_sink())))
    assert values["i4"].dtype == ml_dtypes.int4
    assert values["i4"].astype(int).tolist() == [-8, 7, 1]
    assert values["u4"].astype(int).tolist() == [15, 0, 1]


# --- digest


def test_digest_is_of_the_file(tmp_path: Path) -> None:
    path = saved(build(RELU), tmp_path / "a.onnx")
    assert load(path).sha256 == hashlib.sha256(path.read_bytes()).hexdigest()


def test_digest_covers_external_data(tmp_path: Path) -> None:
    one, two = external(tmp_path / "1", 1.0), external(tmp_path / "2", 2.0)
    assert one.read_bytes() == two.read_bytes()
    assert load(one).sha256 != load(two).sha256


def test_digest_covers_external_data_inside_subgraphs(tmp_path: Path) -> None:
    digests = []
    for value in (1.0, 2.0):
        text = """g (float[N, 1] x, bool c) => (float[N, 1] y) {
            y = If(c) <
                then_branch = a () => (float[N, 1] p) {
                    k = Constant<value = float[1] {1.0}>()
                    p = Add(x, k)
                },
                else_branch = b () => (float[N, 1] q) { q = Neg(x) }
            >
        }"""
        proto = build(text)
        tensor = proto.graph.node[0].attribute[0].g.node[0].attribute[0].t
        tensor.ClearField("float_data")
        tensor.data_location = onnx.TensorProto.EXTERNAL
        tensor.external_data.add(key="location", value="k.bin")
        folder = tmp_path / str(value)
        folder.mkdir()
        (folder / "k.bin").write_bytes(np.float32(value).tobytes())
        digests.append(load(saved(proto, folder / "m.onnx")).sha256)
    assert digests[0] != digests[1]


# --- external data


def test_external_data_is_read(tmp_path: Path) -> None:
    model = load(external(tmp_path, 3.0))
    add = model.graph.nodes[0]
    assert array_of(add.inputs[1]).tolist() == [3.0] * 4


def test_external_data_is_written_inside_when_it_fits(tmp_path: Path) -> None:
    model = load(external(tmp_path, 3.0))
    (tmp_path / "w.bin").unlink()
    write(model, tmp_path / "b.onnx")
    assert initializers(onnx.load(tmp_path / "b.onnx"))["w"].tolist() == [3.0] * 4


def test_size_counts_external_data(tmp_path: Path) -> None:
    path = external(tmp_path)
    assert io.size_of(path) == path.stat().st_size + 16


def test_beyond_the_limit_weights_go_beside_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = build("g (float[N, 40] x) => (float[N, 40] y) { y = MatMul(x, w) }", {"w": (40, 40)})
    monkeypatch.setattr(io, "PROTO_LIMIT", 1000)
    monkeypatch.chdir(tmp_path)
    for _ in range(2):  # the second time m.onnx.data is there already
        write(unlinked(proto), tmp_path / "m.onnx")
        assert (tmp_path / "m.onnx").stat().st_size < 1000
        assert (tmp_path / "m.onnx.data").stat().st_size == 40 * 40 * 4
        assert_same_function(proto, onnx.load(tmp_path / "m.onnx"))


# --- what cannot be loaded


def broken(folder: Path, kind: str) -> Path:
    """Make a path that is no loadable model."""
    path = folder / "m.onnx"
    whole = build("g (float[N, 4] x) => (float[N, 4] y) { y = Add(x, w) }", {"w": (4,)})
    contents = {
        "empty": b"",
        "truncated": whole.SerializeToString()[:-20],
        "text": b"This is a README, not a model.\n" * 10,
        "other protobuf": whole.graph.initializer[0].SerializeToString(),
        "png": b"\x89PNG\r\n\x1a\n" + bytes(100),
    }
    if kind == "folder":
        path.mkdir()
    elif kind in contents:
        path.write_bytes(contents[kind])
    elif kind == "no such operator":
        whole.graph.node[0].op_type = "Addd"
        saved(whole, path)
    elif kind == "external data missing":
        external(folder)
        (folder / "w.bin").unlink()
    elif kind == "external data truncated":
        external(folder)
        (folder / "w.bin").write_bytes(b"123")
    elif kind.startswith("external data outside"):
        inside = folder / "inside"
        path = external(inside)
        (inside / "w.bin").rename(folder / "w.bin")
        proto = onnx.load(path, load_external_data=False)
        outside = folder / "w.bin" if kind.endswith("absolute") else "../w.bin"
        proto.graph.initializer[0].external_data[0].value = str(outside)
        path.write_bytes(proto.SerializeToString())
    elif kind == "binary attribute":
        proto = build(
            "g (float[N] x) => (float[N] y) { y = com.test.Blob<data = 's'>(x) }".replace("'", '"')
        )
        proto.graph.node[0].attribute[0].s = b"\xff\xfe"
        saved(proto, path)
    return path


BROKEN = [
    "missing",
    "folder",
    "empty",
    "truncated",
    "text",
    "other protobuf",
    "png",
    "no such operator",
    "external data missing",
    "external data truncated",
    "external data outside",
    "external data outside, absolute",
    "binary attribute",
]


@pytest.mark.parametrize("kind", BROKEN)
def test_what_cannot_be_loaded_is_a_model_error_of_one_line(kind: str, tmp_path: Path) -> None:
    path = broken(tmp_path, kind)
    with pytest.raises(ModelError) as caught:
        load(path)
    message = str(caught.value)
    assert str(path) in message
    assert "\n" not in message
    assert len(message) > len(str(path)) + 5


@pytest.mark.parametrize("name", ["m.json", "m.pbtxt", "m.onnxtxt", "m.txt"])
def test_the_file_extension_does_not_choose_another_format(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("hello")
    with pytest.raises(ModelError, match="not an ONNX model"):
        load(tmp_path / name)


def test_an_unreadable_file_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(build(RELU), tmp_path / "a.onnx")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(onnx, "load", refuse)
    with pytest.raises(ModelError, match=r"a\.onnx: cannot be read: Permission denied"):
        load(path)


def test_first_line_skips_empty_lines() -> None:
    assert io.first_line(ValueError("\n\n  what  \nwhere")) == "what"
    assert io.first_line(ValueError("")) == "ValueError"


# --- sync after edits


CHAIN = "g (float[N, 4] x) => (float[N, 4] y) { a = Relu(x) b = Add(a, w) y = Mul(b, v) }"


def test_new_nodes_are_put_in_topological_order() -> None:
    model = unlinked(build(CHAIN, {"w": (4,), "v": (4,)}))
    add = model.graph.nodes[1]
    relu_out = add.inputs[0]
    late = gs.Variable("late")
    model.graph.nodes.append(gs.Node("Neg", name="neg", inputs=[relu_out], outputs=[late]))
    set_inputs(add, [late, add.inputs[1]])
    result = sync(model)
    assert ops(result) == ["Relu", "Neg", "Add", "Mul"]
    onnx.checker.check_model(result)
    run(result)


def test_order_is_kept_where_it_may_be() -> None:
    text = """g (float[4] x) => (float[4] a, float[4] b, float[4] c)
    { c = Neg(x) b = Abs(x) a = Exp(x) }"""
    assert ops(sync(unlinked(build(text)))) == ["Neg", "Abs", "Exp"]


CAPTURE = """g (float[N, 4] x, bool c) => (float[N, 4] y) {
    t = Relu(x)
    y = If(c) <
        then_branch = yes () => (float[N, 4] a) {
            a = If(c) <
                then_branch = inner () => (float[N, 4] d) { d = Add(t, w) },
                else_branch = other () => (float[N, 4] e) { e = Neg(x) }
            >
        },
        else_branch = no () => (float[N, 4] b) { b = Sub(x, w) }
    >
}"""


def test_producers_come_before_nodes_whose_subgraphs_capture_their_tensor() -> None:
    model = unlinked(build(CAPTURE, {"w": (4,)}))
    relu, conditional = model.graph.nodes
    before = gs.Variable("before")
    captured = relu.outputs[0]
    relu.outputs[0] = before
    model.graph.nodes.append(gs.Node("Neg", inputs=[before], outputs=[captured]))
    assert captured.name == "t"
    result = sync(model)
    assert ops(result) == ["Relu", "Neg", "If"]
    assert [tensor.name for tensor in result.graph.initializer] == ["w"]  # captured only
    onnx.checker.check_model(result)
    for value in (True, False):
        run(result, {"x": np.ones((2, 4), np.float32), "c": np.array(value)})
    assert conditional.op == "If"


def test_what_an_edit_leaves_unused_goes_and_what_was_unused_stays() -> None:
    proto = build(CHAIN, {"w": (4,), "v": (4,), "never": (4,)})
    for name in ("a", "b"):
        proto.graph.value_info.append(onnx.helper.make_tensor_value_info(name, 1, ["N", 4]))
        proto.graph.quantization_annotation.add(tensor_name=name)
    model = unlinked(proto)
    relu, add, mul = model.graph.nodes
    set_inputs(mul, [relu.outputs[0], mul.inputs[1]])
    add.inputs.clear()
    add.outputs.clear()
    model.graph.nodes.remove(add)
    result = sync(model).graph
    assert [tensor.name for tensor in result.initializer] == ["v", "never"]
    assert [value.name for value in result.value_info] == ["a"]
    assert [entry.tensor_name for entry in result.quantization_annotation] == ["a"]
    assert [value.name for value in result.input] == ["x"]


def test_graph_inputs_stay_even_when_an_edit_leaves_them_unused() -> None:
    model = unlinked(build("g (float[4] x, float[4] u) => (float[4] y) { y = Add(x, u) }"))
    add = model.graph.nodes[0]
    set_inputs(add, [add.inputs[0], add.inputs[0]])
    assert [value.name for value in sync(model).graph.input] == ["x", "u"]


def test_new_constants_are_written_once() -> None:
    model = unlinked(build(CHAIN, {"w": (4,), "v": (4,)}))
    _, add, mul = model.graph.nodes
    shared = constant("shared", np.full(4, 2, np.float32))
    for node in (add, mul):
        set_inputs(node, [node.inputs[0], shared])
    result = sync(model)
    assert list(initializers(result)) == ["shared"]
    assert run(result, {"x": np.ones((1, 4), np.float32)})[0].tolist() == [[6.0] * 4]


def test_unused_sparse_constants_go_too() -> None:
    proto = build("g (float[N, 4] x) => (float[N, 4] y) { y = Add(x, w) }", {"w": (4,)})
    del proto.graph.initializer[:]
    values = onnx.numpy_helper.from_array(np.array([2], np.float32), "w")
    indices = onnx.numpy_helper.from_array(np.array([1], np.int64), "i")
    proto.graph.sparse_initializer.append(onnx.helper.make_sparse_tensor(values, indices, [4]))
    model = unlinked(proto)
    add = model.graph.nodes[0]
    assert array_of(add.inputs[1]).tolist() == [0, 2, 0, 0]
    set_inputs(add, [add.inputs[0], constant("dense", array_of(add.inputs[1]))])
    result = sync(model)
    assert not result.graph.sparse_initializer
    assert_same_function(proto, result)


def test_sparse_constants_with_coordinates_are_read() -> None:
    values = onnx.numpy_helper.from_array(np.array([5, -6], np.float32), "w")
    where = onnx.numpy_helper.from_array(np.array([[0, 2], [1, 0]], np.int64), "i")
    sparse = onnx.helper.make_sparse_tensor(values, where, [2, 3])
    proto = build("g (float[2, 3] x) => (float[2, 3] y) { y = Add(x, w) }", {"w": (2, 3)})
    del proto.graph.initializer[:]
    proto.graph.sparse_initializer.append(sparse)
    add = unlinked(proto).graph.nodes[0]
    assert array_of(add.inputs[1]).tolist() == [[0, 0, 5], [-6, 0, 0]]


def test_new_constants_before_ir_4_raise_the_ir_version() -> None:
    proto = build(
        "g (float[N, 4] x) => (float[N, 4] y) { y = Add(x, w) }", {"w": (4,)}, opset=8, ir=3
    )
    model = unlinked(proto)
    assert sync(model).ir_version == 3
    add = model.graph.nodes[0]
    set_inputs(add, [add.inputs[0], constant("new", np.ones(4, np.float32))])
    result = sync(model)
    assert result.ir_version == 4
    onnx.checker.check_model(result)


def test_write_refuses_an_invalid_result(tmp_path: Path) -> None:
    model = unlinked(build(CHAIN, {"w": (4,), "v": (4,)}))
    model.graph.nodes[0].op = "ignored"  # the message it came from decides
    write(model, tmp_path / "fine.onnx")
    model.graph.nodes.append(gs.Node("Relu", inputs=[], outputs=[gs.Variable("q")]))
    with pytest.raises(ModelError, match=r"bad\.onnx: the result is invalid") as caught:
        write(model, tmp_path / "bad.onnx")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    "dtype",
    ["float16", "float32", "int8", "uint16", "bfloat16", "int4", "uint4", "float8_e4m3fn"],
)
def test_constants_of_any_element_type(dtype: str) -> None:
    values = np.array([[1, 0], [3, 2]]).astype(getattr(ml_dtypes, dtype, dtype))
    back = array_of(constant("c", values))
    assert back.dtype == values.dtype
    assert back.astype(float).tolist() == [[1, 0], [3, 2]]


@pytest.mark.parametrize(("domain", "expected"), [("", 13), ("ai.onnx", 13), ("com.test", 1)])
def test_opset_is_that_of_the_standard_domain(domain: str, expected: int) -> None:
    proto = build(RELU)
    proto.opset_import[0].domain = domain
    assert unlinked(proto).opset == expected


def test_a_body_may_define_the_name_of_a_tensor_that_comes_later() -> None:
    """What it reads is its own: the node that holds it does not wait for the later tensor."""
    proto = build("""g (float[N, 2] x, bool c) => (float[N, 2] y, float[N, 2] z) {
        y = If(c) <
            then_branch = yes () => (float[N, 2] p) { z = Exp(x) p = Neg(z) },
            else_branch = no () => (float[N, 2] q) { q = Neg(x) }
        >
        z = Relu(y)
    }""")
    model = from_proto(copy(proto))
    assert inputs_of(proto.graph.node[0]) == {"c", "x"}
    assert sync(model) == proto
