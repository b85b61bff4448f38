"""Summaries of models, and how they and plans are spelled."""

from pathlib import Path

import onnx

from onnxq.graph.io import from_proto
from onnxq.graph.query import TensorType
from onnxq.graph.summary import Summary, summarize
from onnxq.inspection import planned, summary
from onnxq.recipe import NodeRule, Recipe, TensorRule
from onnxq.report.inspect import plan_dict, plan_text, summary_dict, summary_lines
from tests.graphs import batchnorm, build

NET = """
g (float[N, 4, 8, 8] x, float[N, 3, ?] z) => (float[N, 10] y, float[N, 3, 5] v)
{
  c = Conv<pads = [1, 1, 1, 1]>(x, w) r = Relu(c)
  t = ConvTranspose<group = 2>(r, wt)
  p = GlobalAveragePool(t) f = Flatten(p)
  y = Gemm<transB = 1>(f, wg, bg) v = MatMul(z, wm)
}
"""
WEIGHTS = {"w": (32, 4, 3, 3), "wt": (32, 16, 1, 1), "wg": (10, 32), "bg": (10,), "wm": (7, 5)}


def net() -> Summary:
    return summarize(from_proto(build(NET, WEIGHTS)))


def test_multiply_adds_by_hand() -> None:
    assert net().macs == {
        "Conv(c)": 32 * 8 * 8 * 4 * 9,
        "ConvTranspose(t)": 32 * 8 * 8 * 16,
        "Gemm(y)": 10 * 32,
        "MatMul(v)": 3 * 5 * 7,
    }


def test_open_shapes_make_multiply_adds_unknown() -> None:
    text = NET.replace("float[N, 4, 8, 8] x", "float[N, 4, ?, ?] x")
    found = summarize(from_proto(build(text, WEIGHTS)))
    assert found.macs["Conv(c)"] is None
    assert found.macs["Gemm(y)"] == 320
    assert any("2 nodes are unknown" in line for line in summary_lines(found))


def test_constants_are_counted_in_bytes() -> None:
    assert net().weights == 5
    assert net().weight_bytes == 4 * (32 * 36 + 32 * 16 + 320 + 10 + 35)


def test_four_bit_constants_take_half_a_byte() -> None:
    proto = build("g (float[4] x) => (float[4] y) { y = Add(x, w) }", {"w": (4,)}, opset=21, ir=10)
    proto.graph.initializer.append(
        onnx.helper.make_tensor("q", onnx.TensorProto.INT4, [5], [1, 2, 3, 4, 5])
    )
    assert summarize(from_proto(proto)).weight_bytes == 16 + 3


def test_constant_nodes_count_as_weights(tmp_path: Path) -> None:
    text = (
        "g (float[2] x) => (float[2] y) { w = Constant<value_floats = [1.0, 2.0]>() y = Add(x, w) }"
    )
    onnx.save(build(text), tmp_path / "m.onnx")
    assert summary(tmp_path / "m.onnx").weights == 1


def test_lines_tell_types_and_counts() -> None:
    lines = list(summary_lines(net()))
    assert "input x: float ?×4×8×8" in lines
    assert "input z: float ?×3×?" in lines
    assert any("opset ai.onnx 13; IR 8; onnxruntime 1.6" in line for line in lines)
    assert any(line.startswith("7 nodes: ") for line in lines)


def test_a_scalar_and_an_unknown_shape_are_named() -> None:
    proto = build("g (float x) => (float y) { y = Neg(x) }")
    found = summarize(from_proto(proto))
    assert "input x: float scalar" in list(summary_lines(found))
    found.inputs["x"] = TensorType("float", None)  # type: ignore[index]
    assert "input x: float, shape unknown" in list(summary_lines(found))


def test_metadata_is_kept_to_one_line_each() -> None:
    proto = build(NET, WEIGHTS)
    proto.metadata_props.add(key="characters", value="a\n" * 5000)
    found = summarize(from_proto(proto))
    shown = [line for line in summary_lines(found) if line.startswith("metadata")]
    assert len(shown) == 1
    assert len(shown[0]) < 250
    assert "10000 characters" in shown[0]
    assert summary_dict(found)["metadata"]["characters"] == "a\n" * 5000


# --- plans

WIDE = """
g (float[N, 32, 8, 8] x) => (float[N, 32, 8, 8] y)
{ c = Conv<pads = [1, 1, 1, 1]>(x, w) r = Relu(c) e = Exp(r)
  y = Conv<pads = [1, 1, 1, 1]>(e, v) }
"""


def saved(folder: Path) -> Path:
    path = folder / "m.onnx"
    onnx.save(build(WIDE, {"w": (32, 32, 3, 3), "v": (32, 32, 3, 3)}), path)
    return path


def test_every_node_and_tensor_of_a_plan_has_a_reason(tmp_path: Path) -> None:
    found = plan_dict(planned(saved(tmp_path), Recipe()))
    nodes = {node["name"]: node for node in found["nodes"]}
    assert len(nodes) == 4
    assert all(entry["reason"] for entry in (*found["nodes"], *found["tensors"]))
    assert nodes["Conv(c)"]["quantized"]
    assert not nodes["Exp(e)"]["quantized"]
    tensors = {tensor["name"]: tensor for tensor in found["tensors"]}
    assert tensors["w"]["granularity"] == "channel, axis 0"
    assert tensors["x"]["granularity"] == "tensor"
    assert tensors["x"]["dtype"] == "uint8"
    assert found["multiply_adds_quantized"] == 1.0


def test_a_plan_obeys_the_recipe(tmp_path: Path) -> None:
    recipe = Recipe(
        weights=TensorRule(granularity="tensor"),
        activations=TensorRule(range="percentile"),
        rules=(NodeRule(name="y", quantize=False),),
    )
    found = planned(saved(tmp_path), recipe)
    content = plan_dict(found)
    assert found.covered == 0.5
    assert {t["range"] for t in content["tensors"] if t["kind"] == "activation"} == {"percentile"}
    assert {t["granularity"] for t in content["tensors"]} == {"tensor"}
    assert content["recipe"]["rules"] == [{"name": "y", "quantize": False}]


def test_the_text_of_a_plan_counts_first(tmp_path: Path) -> None:
    lines = list(plan_text(planned(saved(tmp_path), Recipe())))
    assert lines[0] == "2 of 4 nodes quantized on cpu: 2 Conv"
    headings = [line.split()[0] for line in lines if line.split()[:1] in (["node"], ["tensor"])]
    assert headings == ["node", "tensor"]
    row = next(line for line in lines if line.startswith("Conv(c)"))
    assert row.split()[1:3] == ["Conv", "integer"]


def test_reasons_that_differ_in_names_only_are_counted_together(tmp_path: Path) -> None:
    text = """
    g (float[N, 32, 8, 8] x, float[8] d, float[8] e) =>
      (float[N, 32, 8, 8] y, float[8] f, float[8] h)
    { y = Conv<pads = [1, 1, 1, 1]>(x, w) f = Add(d, d) h = Add(e, e) }
    """
    onnx.save(build(text, {"w": (32, 32, 3, 3)}), tmp_path / "m.onnx")
    lines = list(plan_text(planned(tmp_path / "m.onnx", Recipe())))
    assert any(line.startswith("float: 2 Add: ") for line in lines)


def test_planning_leaves_the_file_as_it_is(tmp_path: Path) -> None:
    path = saved(tmp_path)
    before = path.read_bytes()
    planned(path, Recipe())
    assert path.read_bytes() == before


def test_what_a_pass_refuses_is_told(tmp_path: Path) -> None:
    text = """g (float[N, 32, 8, 8] x) => (float[N, 32, 6, 6] y)
    { n = BatchNormalization(x, g, b, m, v) a = Abs(n) y = Conv(a, w) }"""
    onnx.save(build(text, {"w": (32, 32, 3, 3), **batchnorm(32)}), tmp_path / "m.onnx")
    found = planned(tmp_path / "m.onnx", Recipe())
    reason = "no Conv, ConvTranspose or Gemm comes before it or reads it"
    assert f"fold_batchnorm left 1 as it is: {reason}" in list(plan_text(found))
    (entry,) = (e for e in plan_dict(found)["passes"] if e["name"] == "fold_batchnorm")
    assert entry["changed"] == []
    assert entry["skipped"] == [{"node": "BatchNormalization(n)", "reason": reason}]
