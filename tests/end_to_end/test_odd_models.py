"""Models as people have them: each is quantized and right, or refused in one clear line."""

import errno
import logging
import os
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import ml_dtypes
import numpy as np
import onnx
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper
from typer.testing import CliRunner

from onnxq import pipeline, table_file
from onnxq.cli.app import app
from onnxq.errors import CalibrationError, ModelError, OutputError
from onnxq.feeds import Cut
from onnxq.graph import external as external_data
from onnxq.graph import io
from onnxq.pipeline import Source
from onnxq.recipe import Recipe
from onnxq.results import Quantized
from onnxq.types import Array
from tests.graphs import batchnorm, build, copy, cosine, normal

LIGHT = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
BIG = os.environ.get("ONNXQ_BIG") == "1"
WIDE = 32
Feeds = Mapping[str, Array] | list[dict[str, Array]]


def draw(*shape: int) -> Array:
    return np.random.default_rng(shape).normal(size=shape).astype(np.float32)


def saved(proto: onnx.ModelProto, folder: Path) -> Path:
    path = folder / "m.onnx"
    path.write_bytes(proto.SerializeToString())
    return path


def source(feeds: Feeds, folder: Path) -> Source:
    """Write feeds as users have them: stacked in one file, or one file each."""
    if not isinstance(feeds, list):
        np.savez(folder / "data.npz", **feeds)
        return Source(data=str(folder / "data.npz"), cut=Cut(batch_size=4))
    (folder / "data").mkdir()
    for number, feed in enumerate(feeds):
        np.savez(folder / "data" / f"{number}.npz", **feed)
    return Source(data=str(folder / "data"))


def quantized(proto: onnx.ModelProto, feeds: Feeds, folder: Path) -> Quantized:
    path, data = saved(proto, folder), source(feeds, folder)
    table = pipeline.calibrate(path, data)
    result = pipeline.quantize(path, table, Recipe(), folder / "q.onnx")
    compared = pipeline.compare(path, result.path, data).comparison
    for output in compared.outputs:
        if output.similarity.samples:
            assert output.similarity.cosine > 0.995, output
            assert not output.similarity.unequal
    return result


def ops_of(result: Quantized) -> list[str]:
    return [node.op for node in result.plan.nodes.values() if node.quantized]


def reasons(result: Quantized, op: str) -> set[str]:
    return {n.reason for n in result.plan.nodes.values() if n.op == op and not n.quantized}


def rows(
    text: str, weights: Mapping[str, tuple[int, ...] | Array], **versions: int
) -> onnx.ModelProto:
    """A model of rows of 32 numbers."""
    return build(f"g (float[N,{WIDE}] x) => (float[N,{WIDE}] y) {{ {text} }}", weights, **versions)


ROWS = {"x": draw(4, WIDE)}
SQUARE = (WIDE, WIDE)


# --- weights behind something else


HALF = normal(np.random.default_rng(7), SQUARE)
ALIASED = {
    "Identity": ("v = Identity(w) y = MatMul(x, v)", HALF),
    "Transpose": ("v = Transpose(w) y = MatMul(x, v)", HALF),
    "Reshape": ("v = Reshape(w, s) y = MatMul(x, v)", HALF.reshape(-1)),
    "float16": ("v = Cast<to = 1>(w) y = MatMul(x, v)", HALF.astype(np.float16)),
    "bfloat16": ("v = Cast<to = 1>(w) y = MatMul(x, v)", HALF.astype(ml_dtypes.bfloat16)),
}


@pytest.mark.parametrize("kind", ALIASED)
def test_aliased_weights_are_quantized(kind: str, tmp_path: Path) -> None:
    text, weight = ALIASED[kind]
    result = quantized(rows(text, {"w": weight, "s": np.array(SQUARE)}), ROWS, tmp_path)
    assert ops_of(result) == ["MatMul"]
    assert result.emitted.weights == 1


def test_shared_weights_of_unnamed_nodes_are_quantized(tmp_path: Path) -> None:
    result = quantized(
        rows("a = Gemm(x, w) y = Gemm<transB = 1>(a, w)", {"w": SQUARE}), ROWS, tmp_path
    )
    assert ops_of(result) == ["Gemm", "Gemm"]


def test_weights_that_are_quantized_already_stay(tmp_path: Path) -> None:
    codes = np.random.default_rng(7).integers(-8, 8, SQUARE).astype(ml_dtypes.int4)
    weights = {"w": codes, "s": np.array(0.02, np.float32), "u": SQUARE}
    text = "v = DequantizeLinear(w, s) t = MatMul(x, v) y = MatMul(t, u)"
    result = quantized(rows(text, weights, opset=21, ir=10), ROWS, tmp_path)
    stored = {t.name: t.data_type for t in onnx.load(result.path).graph.initializer}
    assert stored["w"] == onnx.TensorProto.INT4


def test_a_sparse_weight_stays_and_is_named(tmp_path: Path) -> None:
    proto = rows("t = MatMul(x, w) y = MatMul(t, v)", {"w": SQUARE, "v": SQUARE})
    del proto.graph.initializer[0]
    values = numpy_helper.from_array(np.array([2, 3], np.float32), "w")
    where = numpy_helper.from_array(np.array([1, 60]), "where")
    proto.graph.sparse_initializer.append(helper.make_sparse_tensor(values, where, SQUARE))
    result = quantized(proto, ROWS, tmp_path)
    assert reasons(result, "MatMul") == {"'w' is sparse float, not float"}


# --- inputs


def test_weights_that_are_inputs_become_constants_and_that_is_said(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    text = f"""g (float[N,{WIDE}] x, float[{WIDE},{WIDE}] w) => (float[N,{WIDE}] y)
    {{ y = MatMul(x, w) }}"""
    with caplog.at_level(logging.WARNING, "onnxq"):
        result = quantized(build(text, {"w": SQUARE}), ROWS, tmp_path)
    assert "weights that are inputs too: 'w', 1 in all" in caplog.text
    session = ort.InferenceSession(str(result.path))
    with pytest.raises(Exception, match="w"):  # what is given is refused, not ignored
        session.run(None, {**ROWS, "w": np.zeros(SQUARE, np.float32)})


def test_unknown_rank_and_negative_dimensions(tmp_path: Path) -> None:
    proto = rows("y = MatMul(x, w)", {"w": SQUARE})
    proto.graph.input[0].type.tensor_type.ClearField("shape")
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    assert ops_of(quantized(proto, ROWS, tmp_path)) == ["MatMul"]
    (tmp_path / "2").mkdir()
    proto = rows("y = MatMul(x, w)", {"w": SQUARE})
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = -1
    assert ops_of(quantized(proto, ROWS, tmp_path / "2")) == ["MatMul"]


def test_several_and_integer_inputs(tmp_path: Path) -> None:
    text = """g (int64[N, T] ids, float[N, 32] e) => (float[N, T, 32] y) {
        t = Gather(table, ids) m = MatMul(t, w) u = Unsqueeze(e, ax) y = Add(m, u) }"""
    weights = {"table": (20, WIDE), "w": SQUARE, "ax": np.array([1])}
    feeds = {"ids": np.random.default_rng(7).integers(0, 20, (4, 5)), "e": draw(4, WIDE)}
    assert "MatMul" in ops_of(quantized(build(text, weights), feeds, tmp_path))


def test_recurrent_state_comes_from_a_folder_of_feeds(tmp_path: Path) -> None:
    text = """g (float[T, N, 32] x, float[1, N, 4] h0, float[1, N, 4] c0)
        => (float[T, 1, N, 4] y, float[1, N, 4] h, float[1, N, 4] c)
    { t = MatMul(x, m) y, h, c = LSTM<hidden_size = 4>(t, w, r, , , h0, c0) }"""
    proto = build(text, {"m": SQUARE, "w": (1, 16, WIDE), "r": (1, 16, 4)})
    feeds = [
        {"x": draw(3 + i, 2, WIDE), "h0": draw(1, 2, 4), "c0": draw(1, 2, 4)} for i in range(3)
    ]
    assert ops_of(quantized(proto, feeds, tmp_path)) == ["MatMul"]


def test_texts_go_through(tmp_path: Path) -> None:
    text = f"""g (float[N,{WIDE}] x, string[N] q) => (float[N,{WIDE}] y, string[N] s)
    {{ y = MatMul(x, w) s = Identity(q) }}"""
    quantized(build(text, {"w": SQUARE}), {**ROWS, "q": np.array(list("abcd"))}, tmp_path)


# --- outputs


def test_sequences_optionals_and_maps_are_not_compared_but_kept(tmp_path: Path) -> None:
    text = f"""g (float[N,{WIDE}] x) => (float[N,{WIDE}] y, seq(float[N,{WIDE}]) s,
        optional(float[N,{WIDE}]) o, float[N,{WIDE}] x) {{
        y = MatMul(x, w) s = SequenceConstruct(x, y) o = Optional(y) }}"""
    proto = build(text, {"w": SQUARE}, opset=18)
    proto.graph.node.append(
        helper.make_node(
            "ZipMap", ["y"], ["z"], domain="ai.onnx.ml", classlabels_int64s=range(WIDE)
        )
    )
    proto.opset_import.append(helper.make_opsetid("ai.onnx.ml", 2))
    number = helper.make_tensor_type_proto(onnx.TensorProto.FLOAT, [])
    scores = helper.make_sequence_type_proto(helper.make_map_type_proto(7, number))
    proto.graph.output.append(helper.make_value_info("z", scores))
    assert ops_of(quantized(proto, ROWS, tmp_path)) == ["MatMul"]


# --- operator sets


@pytest.mark.parametrize("opset", [7, 8, 9])
def test_old_operator_sets(opset: int, tmp_path: Path) -> None:
    spatial = "<spatial = 1>" if opset < 9 else ""
    up = "Upsample(r, sc)" if opset > 8 else "Upsample<scales = [1.0, 1.0, 2.0, 2.0]>(r)"
    text = f"""g (float[N,16,8,8] x) => (float[N,32,16,16] y) {{
        c = Conv<pads = [1, 1, 1, 1]>(x, w, b) n = BatchNormalization{spatial}(c, g, b, b, v)
        d, mask = Dropout(n) r = Relu(d) u = {up} y = Conv<pads = [1, 1, 1, 1]>(u, z) }}"""
    weights = {"w": (32, 16, 3, 3), "b": (32,), "g": (32,), "v": np.ones(32, np.float32)}
    weights |= {"z": (32, 32, 3, 3)}
    if opset > 8:
        weights["sc"] = np.array([1, 1, 2, 2], np.float32)
    proto = build(text, weights, opset=opset, ir=3)
    result = quantized(proto, {"x": draw(4, 16, 8, 8)}, tmp_path)
    assert ops_of(result).count("Conv") == 2
    assert result.opset == (opset, 13)


SHIPPED = sorted(path.name for path in LIGHT.glob("*.onnx"))
QUICK = ("light_shufflenet.onnx", "light_squeezenet.onnx")


@pytest.mark.parametrize("name", SHIPPED if BIG else QUICK)
def test_classic_networks_of_opset_9(name: str, tmp_path: Path) -> None:
    data = Source(data="random", cut=Cut(batch_size=1, samples=2))
    table = pipeline.calibrate(LIGHT / name, data)
    result = pipeline.quantize(LIGHT / name, table, Recipe(), tmp_path / "q.onnx")
    assert result.check is not None
    assert result.check.cosine > 0.995
    assert result.opset == (9, 13)


# --- element types


def test_float16_models_are_refused_by_name(tmp_path: Path) -> None:
    whole = build(
        f"g (float16[N,{WIDE}] x) => (float16[N,{WIDE}] y) {{ y = MatMul(x, w) }}",
        {"w": HALF.astype(np.float16)},
    )
    inside = rows(
        "h = Cast<to = 10>(x) m = MatMul(h, w) y = Cast<to = 1>(m)", {"w": HALF.astype(np.float16)}
    )
    for proto, data in ((whole, draw(4, WIDE).astype(np.float16)), (inside, draw(4, WIDE))):
        with pytest.raises(ModelError, match=r"nothing to quantize: .* is float16, not float"):
            quantized(proto, {"x": data}, tmp_path)


def test_the_float32_part_of_a_mixed_model_is_quantized(tmp_path: Path) -> None:
    text = "t = MatMul(x, v) h = Cast<to = 10>(t) m = MatMul(h, w) y = Cast<to = 1>(m)"
    proto = rows(text, {"v": SQUARE, "w": HALF.astype(np.float16)})
    result = quantized(proto, ROWS, tmp_path)
    assert ops_of(result) == ["MatMul"]
    assert reasons(result, "MatMul") == {"'h' is float16, not float"}


# --- values


@pytest.mark.parametrize("kind", ["zero weights", "zero data", "constant", "one sample", "channel"])
def test_degenerate_values(kind: str, tmp_path: Path) -> None:
    weight, data = normal(np.random.default_rng(7), SQUARE), draw(4, WIDE)
    if kind == "zero weights":
        weight = np.zeros(SQUARE, np.float32)
    elif kind == "zero data":
        data = np.zeros_like(data)
    elif kind == "constant":
        weight, data = np.full(SQUARE, 0.3, np.float32), np.full_like(data, 2)
    elif kind == "one sample":
        data = data[:1]
    else:
        weight[:, 3], weight[:, 4] = 0, 1e-40
    proto = rows("t = MatMul(x, w) y = Gemm(t, v, b)", {"w": weight, "v": SQUARE, "b": (WIDE,)})
    assert ops_of(quantized(proto, {"x": data}, tmp_path)) == ["MatMul", "Gemm"]


def test_empty_tensors_stay_float(tmp_path: Path) -> None:
    text = f"""g (float[N,{WIDE}] x) => (float[N,{WIDE}] y, float[M,{WIDE}] z, float[N,0] e) {{
        y = MatMul(x, w) t = Slice(x, begin, begin) s = Neg(t) z = MatMul(s, w)
        e = MatMul(x, none) }}"""
    weights = {"w": SQUARE, "begin": np.array([0]), "none": np.zeros((WIDE, 0), np.float32)}
    result = quantized(build(text, weights), ROWS, tmp_path)
    assert ops_of(result) == ["MatMul"]
    assert reasons(result, "MatMul") == {
        "'s' was empty in all calibration data",
        "the constant 'none' is empty or holds infinite or huge values",
    }


ATTENTION = """g (float[N,8,32] x, float[N,8] keep) => (float[N,8,8] p, float[N,8,32] y) {
    q = MatMul(x, wq) k = MatMul(x, wk) kt = Transpose<perm = [0, 2, 1]>(k) s = MatMul(q, kt)
    off = Sub(one, keep) u = Unsqueeze(off, ax) m = Mul(u, low) a = Add(s, m)
    p = Softmax<axis = -1>(a) v = MatMul(x, wv) y = MatMul(p, v) }"""


@pytest.mark.parametrize("low", [-3.4028235e38, -1e9, -1e4])
def test_attention_masks_keep_their_meaning(low: float, tmp_path: Path) -> None:
    weights = dict.fromkeys(("wq", "wk", "wv"), SQUARE)
    one, ax = np.array(1, np.float32), np.array([1])
    proto = build(ATTENTION, {**weights, "one": one, "ax": ax, "low": np.array(low, np.float32)})
    keep = (np.arange(8) < np.array([[8], [5], [3], [6]])).astype(np.float32)
    feed = {"x": draw(4, 8, WIDE), "keep": keep}
    result = quantized(proto, feed, tmp_path)
    assert "MatMul" in ops_of(result)
    masked = ort.InferenceSession(str(result.path)).run(["p"], feed)[0]
    assert (masked * (1 - keep[:, None])).max() < 1e-3


def test_a_masked_tensor_is_not_clipped_into_integers(tmp_path: Path) -> None:
    text = """k = Add(x, low) r = Reshape(k, s) m = MatMul(r, w)
        t = Max(k, m) u = MatMul(x, w) y = Add(t, u)"""
    low = np.zeros(WIDE, np.float32)
    low[3] = -3.4e38
    weight = normal(np.random.default_rng(7), SQUARE)
    weight[3] = 0
    proto = rows(text, {"low": low, "s": np.array([-1, WIDE]), "w": weight})
    result = quantized(proto, ROWS, tmp_path)
    assert ops_of(result) == ["MatMul"]
    (reason,) = reasons(result, "MatMul")
    assert reason == "'r' holds infinite or huge values, which integers would cut off"


def test_a_tensor_with_nan_stays_float(tmp_path: Path) -> None:
    text = "l = Log(x) t = MatMul(l, w) u = MatMul(x, w) y = Max(u, t)"
    result = quantized(rows(text, {"w": SQUARE}), ROWS, tmp_path)
    assert reasons(result, "MatMul") == {"'l' holds NaN on the calibration data"}


# --- graphs inside graphs


IF = f"""g (float[N,{WIDE}] x, bool c) => (float[N,{WIDE}] y) {{ t = MatMul(x, w)
    y = If(c) <
        then_branch = yes () => (float[N,{WIDE}] p) {{ q = MatMul(t, v) p = Relu(q) }},
        else_branch = no () => (float[N,{WIDE}] r) {{ r = MatMul(t, u) }}
    > }}"""
LOOP = f"""g (float[4,{WIDE}] x) => (float[4,{WIDE}] y) {{ t = MatMul(x, w)
    z = Loop(n, , t) <
        body = b (int64 i, bool go, float[4,{WIDE}] s) => (bool on, float[4,{WIDE}] o)
        {{ on = Identity(go) m = MatMul(s, v) q = Add(m, t) o = Tanh(q) }} >
    y = Gemm(z, u) }}"""
THREE = {"w": SQUARE, "v": SQUARE, "u": SQUARE}


def test_a_branch_never_taken(tmp_path: Path) -> None:
    feeds = [{"x": draw(3, WIDE), "c": np.array(True)} for _ in range(2)]
    result = quantized(build(IF, THREE), feeds, tmp_path)
    assert ops_of(result) == ["MatMul"]
    assert reasons(result, "MatMul") == {
        "inside a branch of If, whose condition is known at run time only"
    }
    feed = {"x": draw(3, WIDE), "c": np.array(False)}  # and the other one still works
    a, b = (
        ort.InferenceSession(str(path)).run(None, feed)[0]
        for path in (tmp_path / "m.onnx", result.path)
    )
    assert cosine(a, b) > 0.995


def test_a_branch_with_a_constant_condition(tmp_path: Path) -> None:
    proto = build(IF.replace(", bool c", ""), {**THREE, "c": np.array(True)})
    result = quantized(proto, ROWS, tmp_path)
    assert ops_of(result) == ["MatMul", "MatMul"]
    assert [n.op for n in result.plan.nodes.values()] == ["MatMul", "MatMul", "Relu"]


BRANCH = """g (float[N, 32, SIZE, 12] x) => (float[N, M, 10, 10] y) {
    s = Shape(x)
    d = Gather(s, axis)
    known = Equal(d, twelve)
    y = If(known) <
        then_branch = yes () => (float[N, 32, 10, 10] p) <float zero = {0.0}> {
            t = Relu(x)
            u = Max(t, zero)
            c = Conv<pads = [1, 1, 1, 1]>(u, w)
            n = BatchNormalization(c, g, b, m, v)
            r = Relu(n)
            p = Conv(r, k)
        },
        else_branch = no () => (float[N, 32, 10, 10] p) { t = Exp(x) p = Conv(t, w) }
    >
}"""
KERNELS = {"w": (WIDE, WIDE, 3, 3), "k": (WIDE, WIDE, 3, 3), **batchnorm(WIDE)}


@pytest.mark.parametrize("size", ["12", "H"])
def test_convolutions_inside_an_if(size: str, tmp_path: Path) -> None:
    """All are quantized if the input fixes the condition, and the plan says why if not."""
    numbers = {"axis": np.array(2), "twelve": np.array(12)}
    path = saved(build(BRANCH.replace("SIZE", size), {**KERNELS, **numbers}), tmp_path)
    feed = {"x": draw(4, WIDE, 12, 12)}
    command = ["quantize", str(path), "--data", source(feed, tmp_path).data]
    done = CliRunner().invoke(app, [*command, "-o", str(tmp_path / "q.onnx")])
    if size == "H":
        assert done.exit_code == 3, done.output
        assert "inside a branch of If, whose condition is known at run time only" in done.output
        return
    assert done.exit_code == 0, done.output
    graph = onnx.load(tmp_path / "q.onnx").graph
    ops = [node.op_type for node in graph.node]
    assert ops.count("Conv") == 2
    assert "If" not in ops
    assert sum(tensor.data_type == onnx.TensorProto.INT8 for tensor in graph.initializer) == 2 + 2
    a, b = (
        ort.InferenceSession(str(each)).run(None, feed)[0] for each in (path, tmp_path / "q.onnx")
    )
    assert cosine(a, b) > 0.995
    command[0] = "compare"
    done = CliRunner().invoke(
        app, [*command[:2], str(tmp_path / "q.onnx"), *command[2:], "--layers"]
    )
    assert done.exit_code == 0, done.output
    assert "Conv(y)" in done.output


def test_loop_bodies_stay_float_and_the_report_says_so(tmp_path: Path) -> None:
    path = saved(build(LOOP, {**THREE, "n": np.array(3)}), tmp_path)
    data = source(ROWS, tmp_path).data
    command = ["quantize", str(path), "--data", data, "-o", str(tmp_path / "q.onnx")]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "1 MatMul: inside the body of Loop, which would have to return" in done.output


def test_only_bodies_to_quantize(tmp_path: Path) -> None:
    proto = build(IF.replace("MatMul(x, w)", "Neg(x)"), {"v": SQUARE, "u": SQUARE})
    feeds = [{"x": draw(3, WIDE), "c": np.array(True)}]
    with pytest.raises(ModelError, match="nothing to quantize: inside a branch of If"):
        quantized(proto, feeds, tmp_path)


FUNCTIONS = f"""<ir_version: 8, opset_import: ["" : 13, "my" : 1]>
g (float[N,{WIDE}] x) => (float[N,{WIDE}] y) {{ t = my.dense(x, w) y = my.dense(t, w) }}
<domain: "my", opset_import: ["" : 13]>
dense (a, b) => (c) {{ m = MatMul(a, b) c = Relu(m) }}"""


@pytest.mark.parametrize("opset", [11, 13])
def test_local_functions_are_inlined_and_quantized(opset: int, tmp_path: Path) -> None:
    proto = onnx.parser.parse_model(FUNCTIONS)
    proto.opset_import[0].version = proto.functions[0].opset_import[0].version = opset
    proto.functions[0].node[0].name = "same"
    proto.graph.initializer.append(numpy_helper.from_array(HALF, "w"))
    result = quantized(proto, ROWS, tmp_path)
    assert ops_of(result) == ["MatMul", "MatMul"]
    names = [node.name for node in onnx.load(result.path).graph.node if node.name]
    assert len(names) == len(set(names))


def test_custom_operators_are_named(tmp_path: Path) -> None:
    proto = rows("t = com.test.Custom(x) y = MatMul(t, w)", {"w": SQUARE})
    with pytest.raises(ModelError, match=r"onnxruntime cannot load the model: .*Custom"):
        quantized(proto, ROWS, tmp_path)


def test_training_information_is_kept(tmp_path: Path) -> None:
    proto = rows("y = MatMul(x, w)", {"w": SQUARE})
    proto.training_info.add().initialization.name = "init"
    result = quantized(proto, ROWS, tmp_path)
    assert onnx.load(result.path).training_info[0].initialization.name == "init"


def test_two_nodes_of_one_name_are_refused_in_one_line(tmp_path: Path) -> None:
    proto = rows("t = MatMul(x, w) y = MatMul(t, w)", {"w": SQUARE})
    for node in proto.graph.node:
        node.name = "same"
    with pytest.raises(ModelError, match="two nodes with same node name"):  # onnxruntime's rule
        quantized(proto, ROWS, tmp_path)


# --- external data


def external(folder: Path, proto: onnx.ModelProto) -> Path:
    path = folder / "m.onnx"
    options = {"save_as_external_data": True, "location": "w.bin", "size_threshold": 0}
    onnx.save(copy(proto), path, **options)
    return path


def test_external_data_stays_outside_and_the_result_is_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    proto = rows("t = MatMul(x, w) a = Relu(t) y = MatMul(a, v)", {"w": SQUARE, "v": SQUARE})
    data = source(ROWS, tmp_path)
    monkeypatch.setattr(external_data, "LAZY", 0)
    for limit, name in ((external_data.PROTO_LIMIT, "in.onnx"), (500, "out.onnx")):
        monkeypatch.setattr(io, "PROTO_LIMIT", limit)
        path = external(tmp_path, proto)
        table = pipeline.calibrate(path, data)
        result = pipeline.quantize(path, table, Recipe(), tmp_path / name)
        assert result.check is not None
        assert result.check.cosine > 0.999
    assert not (tmp_path / "in.onnx.data").exists()
    assert (tmp_path / "out.onnx").stat().st_size < (tmp_path / "in.onnx").stat().st_size
    assert (tmp_path / "out.onnx.data").is_file()
    a, b = (
        ort.InferenceSession(str(tmp_path / name)).run(None, ROWS)[0]
        for name in ("in.onnx", "out.onnx")
    )
    assert (a == b).all()


def test_the_data_file_of_the_result_must_not_be_that_of_the_input(tmp_path: Path) -> None:
    path = external(tmp_path, rows("y = MatMul(x, w)", {"w": SQUARE}))
    (tmp_path / "w.bin").rename(tmp_path / "q.onnx.data")
    proto = onnx.load(path, load_external_data=False)
    for tensor in proto.graph.initializer:
        tensor.external_data[0].value = "q.onnx.data"
    path.write_bytes(proto.SerializeToString())
    table = pipeline.calibrate(path, source(ROWS, tmp_path))
    with pytest.raises(OutputError, match="would replace the input"):
        pipeline.quantize(path, table, Recipe(), tmp_path / "q.onnx")


BIG_RUN = """
import sys
from pathlib import Path
import numpy as np
folder = Path(sys.argv[2])
if sys.argv[1] == "bare":
    import onnxruntime as ort
    data = np.load(folder / "data.npz")["x"]
    ort.InferenceSession(str(folder / "m.onnx")).run(None, {"x": data})
else:
    from onnxq import pipeline, table_file
    if sys.argv[1] == "calibrate":
        data = pipeline.Source(data=str(folder / "data.npz"))
        table = pipeline.calibrate(folder / "m.onnx", data)
        table_file.save(table, folder / "m.calib")
    else:
        table = table_file.load(folder / "m.calib")
        done = pipeline.quantize(folder / "m.onnx", table, pipeline.Recipe(), folder / "q.onnx")
        assert done.check.cosine > 0.99
status = Path("/proc/self/status").read_text().splitlines()
print(next(line.split()[1] for line in status if line.startswith("VmHWM")))
"""


def peak(stage: str, folder: Path) -> int:
    """Run a stage in a process of its own and return its largest memory in bytes."""
    command = [sys.executable, "-c", BIG_RUN, stage, str(folder)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1]) * 1024


@pytest.mark.skipif(not BIG, reason="writes and reads 3 GB; set ONNXQ_BIG=1")
def test_a_model_beyond_2_gb(tmp_path: Path) -> None:
    size, layers = 3840, 40
    proto = onnx.ModelProto(ir_version=8)
    proto.opset_import.append(helper.make_opsetid("", 13))
    graph, read = proto.graph, "x"
    graph.name = "big"
    block = draw(size, size) * np.float32(1.4 / np.sqrt(size))
    with (tmp_path / "w.bin").open("wb") as stream:
        for i in range(layers):
            tensor = graph.initializer.add(name=f"w{i}", data_type=1, dims=[size, size])
            tensor.data_location = onnx.TensorProto.EXTERNAL
            tensor.external_data.add(key="location", value="w.bin")
            tensor.external_data.add(key="offset", value=str(stream.tell()))
            tensor.external_data.add(key="length", value=str(block.nbytes))
            stream.write(np.roll(block, 17 * i + 1, axis=i % 2).tobytes())
            graph.node.append(helper.make_node("MatMul", [read, f"w{i}"], [f"m{i}"]))
            graph.node.append(helper.make_node("Relu", [f"m{i}"], [f"r{i}"]))
            read = f"r{i}"
    graph.input.append(helper.make_tensor_value_info("x", 1, ["N", size]))
    graph.output.append(helper.make_tensor_value_info(read, 1, ["N", size]))
    saved(proto, tmp_path)
    np.savez(tmp_path / "data.npz", x=draw(8, size))
    total = layers * block.nbytes
    assert total > 2**31
    bare = peak("bare", tmp_path)
    used = {stage: (peak(stage, tmp_path) - bare) / total for stage in ("calibrate", "quantize")}
    assert max(used.values()) <= 1.3, (total, bare, used)


# --- disks


@pytest.mark.parametrize("method", ["write_bytes", "replace"])
def test_a_full_disk_leaves_nothing(
    method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(rows("y = MatMul(x, w)", {"w": SQUARE}), tmp_path)
    table = pipeline.calibrate(path, source(ROWS, tmp_path))
    before = sorted(tmp_path.iterdir())

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(Path, method, full)
    with pytest.raises(OutputError, match=r"q\.onnx: cannot be written: No space left on device"):
        pipeline.quantize(path, table, Recipe(), tmp_path / "q.onnx")
    assert sorted(tmp_path.iterdir()) == before


def test_a_full_disk_leaves_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = saved(rows("y = MatMul(x, w)", {"w": SQUARE}), tmp_path)
    table = pipeline.calibrate(path, source(ROWS, tmp_path))

    def full(*_: object, **__: object) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(zipfile.ZipFile, "writestr", full)
    with pytest.raises(OutputError, match=r"m\.calib: cannot be written: No space left"):
        table_file.save(table, tmp_path / "m.calib")
    assert not (tmp_path / "m.calib").exists()


@pytest.mark.skipif(os.name == "nt" or os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_cannot_be_written_to(tmp_path: Path) -> None:
    path = saved(rows("y = MatMul(x, w)", {"w": SQUARE}), tmp_path)
    table = pipeline.calibrate(path, source(ROWS, tmp_path))
    (tmp_path / "closed").mkdir(mode=0o555)
    with pytest.raises(OutputError, match="Permission denied"):
        pipeline.quantize(path, table, Recipe(), tmp_path / "closed" / "q.onnx")


# --- files that mean harm


def test_a_zip_bomb_is_no_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "bomb.calib"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("table.json", b" " * 10_000_000)
    monkeypatch.setattr(table_file, "LARGEST_MEMBER", 1_000_000)
    with pytest.raises(CalibrationError, match="not a calibration table"):
        table_file.load(path)


def test_a_pickle_in_a_table_is_not_loaded(tmp_path: Path) -> None:
    proto = rows("y = MatMul(x, w)", {"w": SQUARE})
    path = saved(proto, tmp_path)
    good, bad = tmp_path / "good.calib", tmp_path / "bad.calib"
    table_file.save(pipeline.calibrate(path, source(ROWS, tmp_path)), good)
    np.save(tmp_path / "p.npy", np.array([{"a": 1}], object), allow_pickle=True)
    with zipfile.ZipFile(good) as old, zipfile.ZipFile(bad, "w") as new:
        for name in old.namelist():
            harm = (tmp_path / "p.npy").read_bytes()
            new.writestr(name, harm if name == "g0.t0.npy" else old.read(name))
    with pytest.raises(CalibrationError, match="not a calibration table"):
        table_file.load(bad)


def test_a_yaml_tag_runs_nothing(tmp_path: Path) -> None:
    path = saved(rows("y = MatMul(x, w)", {"w": SQUARE}), tmp_path)
    made = tmp_path / "made"
    recipe = tmp_path / "r.yaml"
    recipe.write_text(f"target: !!python/object/apply:os.mkdir ['{made}']\n")
    data = source(ROWS, tmp_path).data
    command = ["quantize", path, "--data", data, "--recipe", recipe, "-o", tmp_path / "q.onnx"]
    done = CliRunner().invoke(app, [*map(str, command)])
    assert done.exit_code == 5, done.output
    assert not made.exists()


@pytest.mark.parametrize("size", [WIDE, 600])  # read at once, and left in its file
def test_external_data_outside_of_the_folder_is_refused(size: int, tmp_path: Path) -> None:
    text = f"g (float[N,{size}] x) => (float[N,{size}] y) {{ y = MatMul(x, w) }}"
    inside = tmp_path / "inside"
    inside.mkdir()
    path = external(inside, build(text, {"w": (size, size)}))
    (inside / "w.bin").rename(tmp_path / "w.bin")
    (inside / "link.bin").symlink_to(tmp_path / "w.bin")
    proto = onnx.load(path, load_external_data=False)
    for location in ("../w.bin", str(tmp_path / "w.bin"), "link.bin", "nothing.bin"):
        proto.graph.initializer[0].external_data[0].value = location
        path.write_bytes(proto.SerializeToString())
        with pytest.raises(ModelError):
            io.load(path)
