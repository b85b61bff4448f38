"""The target fixed-point: what is written, and that a chip of shifts and adds gets the same."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

from onnxq import pipeline
from onnxq.errors import OutputError, RecipeError, UnknownNameError, UnsupportedError
from onnxq.graph.io import from_proto
from onnxq.numerics.fixed_point import power_above, worst_sums
from onnxq.parameters import weight_params
from onnxq.plan import resolve
from onnxq.recipe import NodeRule, Recipe, TensorRule
from onnxq.targets import target
from onnxq.types import Array, QuantParams
from tests.graphs import build, copy, eager, initializers, normal, ops, quantized, run

RNG = np.random.default_rng(3)
NET = build(
    """net (float[N, 3, 6, 6] x) => (float[N, 5] y) {
        c = Conv<pads = [1, 1, 1, 1], strides = [2, 2]>(x, w, b) r = Relu(c)
        f = Flatten(r) y = Gemm<transB = 1>(f, u, e) }""",
    {
        "w": normal(RNG, (4, 3, 3, 3)),
        "b": normal(RNG, (4,)),
        "u": normal(RNG, (5, 36)) / 8,
        "e": normal(RNG, (5,)),
    },
)


def recipe_of(bits: int = 8, **keys: Any) -> Recipe:
    rule = TensorRule(dtype=f"int{bits}")
    return Recipe(activations=rule, weights=rule, **keys)


def notes(model: onnx.ModelProto, op: str) -> dict[str, str]:
    (node,) = (node for node in model.graph.node if node.op_type == op)
    return {entry.key: entry.value for entry in node.metadata_props}


# --- a chip, from the file alone: int64 shifts and adds


class Chip:
    """Computes NET in integers from the metadata and codes of a written model."""

    def __init__(self, model: onnx.ModelProto) -> None:
        self.held = initializers(model)
        self.made = {node.output[0]: node for node in model.graph.node}
        self.nodes = {node.op_type: node for node in model.graph.node}
        self.notes = {op: notes(model, op) for op in ("Conv", "Flatten", "Gemm")}

    def __call__(self, x: Array) -> Array:
        conv, gemm = self.notes["Conv"], self.notes["Gemm"]
        first = int(conv["onnxq.input.0.position"])
        codes = clamp(
            np.rint(np.ldexp(x.astype(np.float64), first)).astype(np.int64), conv, "input"
        )
        weight, bias = self.codes("Conv", 1), self.codes("Conv", 2)
        padded = np.pad(codes, ((0, 0), (0, 0), (1, 1), (1, 1)))
        sums = np.zeros((len(x), 4, 3, 3), np.int64)
        for row in range(3):
            for column in range(3):
                part = padded[:, :, 2 * row : 2 * row + 3, 2 * column : 2 * column + 3]
                sums[:, :, row, column] = np.einsum("ncij,ocij->no", part, weight)
        sums = np.maximum(sums + bias[:, None, None], 0)
        flat = self.shifted(sums, conv, (-1, 1, 1)).reshape(len(x), -1)
        sums = flat @ self.codes("Gemm", 1).T + self.codes("Gemm", 2)
        last = self.shifted(sums, gemm, (-1,))
        assert np.abs(sums).max() < 1 << 24
        return np.ldexp(last.astype(np.float32), -int(gemm["onnxq.output.0.position"]))

    def codes(self, op: str, index: int) -> Array:
        stored = self.made[self.nodes[op].input[index]].input[0]
        return self.held[stored].astype(np.int64)

    def shifted(self, sums: Array, note: dict[str, str], shape: tuple[int, ...]) -> Array:
        weights = np.array([int(p) for p in note["onnxq.weight.1.position"].split(",")])
        places = int(note["onnxq.input.0.position"]) + weights
        biases = np.array([int(p) for p in note["onnxq.bias.2.position"].split(",")])
        assert (biases == places).all()
        shift = np.broadcast_to(
            (places - int(note["onnxq.output.0.position"])).reshape(shape), sums.shape
        )
        assert (shift > 0).all()
        down, rest = sums >> shift, sums & ((1 << shift) - 1)
        half = 1 << (shift - 1)
        up = {
            "floor": np.zeros(sums.shape, bool),
            "half-up": rest >= half,
            "half-even": (rest > half) | ((rest == half) & (down & 1 == 1)),
        }[note["onnxq.rounding"]]
        return clamp(down + up, note, "output")


def clamp(codes: Array, note: dict[str, str], role: str) -> Array:
    half = 1 << (int(note[f"onnxq.{role}.0.bits"]) - 1)
    return np.clip(codes, -half, half - 1)


@pytest.mark.parametrize("rounding", ["half-even", "half-up", "floor"])
@pytest.mark.parametrize("bits", [8, 7, 6, 5, 4, 3])
@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_shifts_and_adds_give_what_the_graph_gives(
    rounding: str, bits: int, granularity: str
) -> None:
    rule = TensorRule(dtype=f"int{bits}")
    recipe = Recipe(
        rounding=rounding, activations=rule, weights=replace(rule, granularity=granularity)
    )
    result = quantized(NET, recipe, on="fixed-point")
    model = onnx.ModelProto.FromString(result.model.SerializeToString())
    onnx.checker.check_model(model, full_check=True)
    x = 1.5 * normal(np.random.default_rng(9), (50, 3, 6, 6))  # beyond what was seen: clips
    wanted = Chip(model)(x)
    assert len(np.unique(wanted)) > 2
    assert np.array_equal(run(model, {"x": x}, optimize=False)[0], wanted)
    assert np.array_equal(run(model, {"x": x}, optimize=True)[0], wanted)


# --- what is written


def test_positions_stand_on_every_quantized_node() -> None:
    result = quantized(NET, recipe_of(6), on="fixed-point")
    note = notes(result.model, "Conv")
    assert note["onnxq.input.0.bits"] == note["onnxq.weight.1.bits"] == "6"
    assert note["onnxq.bias.2.bits"] == "32"
    scale = float(result.activations["r"].scale)
    assert scale == 2.0 ** -int(note["onnxq.output.0.position"])
    assert result.model.ir_version == 10
    assert set(notes(result.model, "Flatten")) >= {"onnxq.input.0.position", "onnxq.rounding"}


def test_annotations_name_scale_and_zero_point() -> None:
    model = quantized(NET, on="fixed-point").model
    held = initializers(model)
    annotated = {
        entry.tensor_name: {p.key: p.value for p in entry.quant_parameter_tensor_names}
        for entry in model.graph.quantization_annotation
    }
    assert {"x", "r", "f", "y", "w_quantized", "u_quantized"} <= set(annotated)
    for name in ("x", "r", "y", "w_quantized"):
        assert np.frexp(held[annotated[name]["SCALE_TENSOR"]])[0] == 0.5
        assert held[annotated[name]["ZERO_POINT_TENSOR"]] == 0
    assert set(annotated["b_quantized"]) == {"SCALE_TENSOR"}


def test_codes_use_the_full_range_of_their_width_only() -> None:
    model = quantized(NET, recipe_of(6), on="fixed-point").model
    kept = [node for node in model.graph.node if node.op_type == "QuantizeLinear"]
    outputs = {node.output[0] for node in kept}
    probe = copy(model)
    probe.graph.output.extend(onnx.ValueInfoProto(name=name) for name in sorted(outputs))
    x = np.float32([[-1e4], [1e4]]).reshape(2, 1, 1, 1) * np.ones((2, 3, 6, 6), np.float32)
    _, *codes = run(probe, {"x": x})
    assert min(found.min() for found in codes) == -32
    assert max(found.max() for found in codes) == 31


def test_without_q_and_dq_weights_lie_on_their_grids() -> None:
    result = quantized(NET, recipe_of(5, qdq=False), on="fixed-point")
    assert ops(result.model) == ["Conv", "Relu", "Flatten", "Gemm"]
    note, held = notes(result.model, "Conv"), initializers(result.model)
    for index, role in ((1, "weight"), (2, "bias")):
        node = next(node for node in result.model.graph.node if node.op_type == "Conv")
        codes = np.ldexp(held[node.input[index]], int(note[f"onnxq.{role}.{index}.position"]))
        assert np.array_equal(codes, np.rint(codes))
    assert not result.model.graph.quantization_annotation
    assert set(held) == {"w_snapped", "b_snapped", "u_snapped", "e_snapped"}
    run(result.model, result.feed)


def test_widths_can_be_mixed_by_a_rule() -> None:
    recipe = Recipe(rules=(NodeRule(op="Gemm", weights=TensorRule(dtype="int4")),))
    result = quantized(NET, recipe, on="fixed-point")
    assert notes(result.model, "Gemm")["onnxq.weight.1.bits"] == "4"
    assert notes(result.model, "Conv")["onnxq.weight.1.bits"] == "8"
    codes = initializers(result.model)["u_quantized"]
    assert codes.dtype == np.int8
    assert -8 <= codes.min() < codes.max() <= 7


def test_weight_scales_are_raised_to_powers_of_two() -> None:
    net = copy(NET)
    for tensor in net.graph.initializer:
        if tensor.name == "b":
            tensor.CopyFrom(numpy_helper.from_array(np.float32([1e9, 0, 0, 0]), "b"))
    result = quantized(net, on="fixed-point")
    (count,) = result.emitted.raised.values()
    assert count == 1
    scale = next(v for k, v in initializers(result.model).items() if k.startswith("w_scale"))
    assert np.frexp(scale)[0] == 0.5
    assert power_above(np.array([0.75, 1.0, 1.25])).tolist() == [1, 1, 2]


def test_an_accumulator_that_can_overflow_is_named() -> None:
    wide = build(
        "net (float[N, 70000] x) => (float[N, 1] y) { y = Gemm<transB = 1>(x, u) }",
        {"u": np.full((1, 70000), 0.99, np.float32)},
    )
    assert quantized(wide, on="fixed-point").emitted.overflowing == ()
    emitted = quantized(wide, recipe_of(16), on="fixed-point").emitted
    assert emitted.overflowing == ("Gemm(y)",)


def test_worst_sums_are_those_of_each_output_channel() -> None:
    codes = RNG.integers(-128, 128, (4, 3, 2)).astype(np.int8)
    wide = np.abs(codes.astype(int))
    assert worst_sums(codes, 8, 0).tolist() == (wide.sum(axis=(1, 2)) * 128).tolist()
    assert worst_sums(codes, 4, 1).tolist() == (wide.sum(axis=(0, 2)) * 8).tolist()
    grouped = [wide[2 * g : 2 * g + 2, o].sum() * 2 for g in range(2) for o in range(3)]
    assert worst_sums(codes, 2, None, 2).tolist() == grouped


@pytest.mark.parametrize(
    ("body", "shape"),
    [
        ("y = MatMul(x, m)", (8, 4)),
        ("y = MatMul(m, x)", (2, 2)),
        ("y = MatMul(x, m)", (8,)),
    ],
)
def test_multiplications_with_weights_on_either_side(body: str, shape: tuple[int, ...]) -> None:
    output = "float[2]" if len(shape) == 1 else "float[2, K]"
    net = build(f"net (float[2, 8] x) => ({output} y) {{ {body} }}", {"m": shape})
    result = quantized(net, on="fixed-point")
    (row,) = result.emitted.table["nodes"] if result.emitted.table else ()
    assert row["worst_accumulator"] > 0
    run(result.model, result.feed)


# --- asked in the wrong place


@pytest.mark.parametrize("key", ["positions", "rounding", "qdq"])
def test_other_targets_refuse_what_is_for_powers_of_two(key: str) -> None:
    value = {"positions": "chip", "rounding": "floor", "qdq": False}[key]
    with pytest.raises(RecipeError, match=f"{key} is for targets with powers of two"):
        resolve(from_proto(copy(NET)), eager(), Recipe.from_dict({key: value}))


def test_words_that_mean_nothing_are_refused() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'half-up'"):
        Recipe(rounding="halfup")
    with pytest.raises(UnknownNameError, match="unknown positions 'all'"):
        Recipe.from_dict({"positions": "all"})
    with pytest.raises(UnsupportedError, match="symmetric activations only"):
        resolve(
            from_proto(copy(NET)),
            target("fixed-point"),
            Recipe(activations=TensorRule(symmetric=False)),
        )
    with pytest.raises(UnsupportedError, match="has no int17 weights"):
        resolve(
            from_proto(copy(NET)), target("fixed-point"), Recipe(weights=TensorRule(dtype="int17"))
        )


def test_recipes_are_laid_over_each_other() -> None:
    over = Recipe(qdq=False, positions="chip").over(Recipe(qdq=True, rounding="floor"))
    assert (over.qdq, over.positions, over.rounding) == (False, "chip", "floor")
    assert Recipe.from_dict(over.to_dict()) == over


# --- the whole path


def test_a_table_lies_beside_the_model(tmp_path: Path) -> None:
    model, out = tmp_path / "net.onnx", tmp_path / "out.onnx"
    onnx.save(NET, model)
    np.savez(tmp_path / "x.npz", x=normal(RNG, (16, 3, 6, 6)))
    table = pipeline.calibrate(model, pipeline.Source(data=str(tmp_path / "x.npz")))
    recipe = Recipe(target="fixed-point", positions="chip", rounding="half-up")
    result = pipeline.quantize(model, table, recipe, out)
    held = json.loads((tmp_path / "out.onnx.json").read_text())
    assert held["rounding"] == "half-up"
    assert held["tensors"]["y"] == {"position": held["tensors"]["y"]["position"], "bits": 8}
    assert [node["op"] for node in held["nodes"]] == ["Conv", "Flatten", "Gemm"]
    assert all(0 <= tensor["position"] <= 7 for tensor in held["tensors"].values())
    assert result.onnxruntime == "1.18"
    written = onnx.load(out)
    assert notes(written, "Gemm")["onnxq.rounding"] == "half-up"


def test_a_table_that_would_replace_the_model_is_refused(tmp_path: Path) -> None:
    model = tmp_path / "net.onnx.json"
    onnx.save_model(NET, str(model), format="protobuf")
    np.savez(tmp_path / "x.npz", x=normal(RNG, (16, 3, 6, 6)))
    table = pipeline.calibrate(model, pipeline.Source(data=str(tmp_path / "x.npz")))
    with pytest.raises(OutputError, match="would replace the input"):
        pipeline.quantize(model, table, Recipe(target="fixed-point"), tmp_path / "net.onnx")


def test_chip_positions_far_from_the_data_are_warned_about(
    caplog: pytest.LogCaptureFixture,
) -> None:
    net = copy(NET)
    for tensor in net.graph.initializer:
        if tensor.name == "w":
            small = numpy_helper.to_array(tensor) * np.float32(2**-20)
            tensor.CopyFrom(numpy_helper.from_array(small, "w"))
    model = from_proto(net)
    plan = resolve(model, eager("fixed-point"), Recipe(positions="chip"))
    params = weight_params(plan, model)
    assert "w: no position within 0 … 7 fits its values" in caplog.text
    assert isinstance(params["c", 1], QuantParams)
    assert float(params["c", 1].scale) == 2.0**-7
