"""The target crossbar: what is written computes what tiles and plain numpy say, however it runs."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import numpy as np
import onnx
import pytest

from onnxq.emit.blocks import block_steps
from onnxq.errors import RecipeError, UnknownNameError, UnsupportedError
from onnxq.graph.io import from_proto
from onnxq.parameters import weight_params
from onnxq.plan import Plan, resolve
from onnxq.planning import check_size
from onnxq.recipe import NodeRule, Recipe, TensorRule, crossbar_size
from onnxq.targets import target
from onnxq.types import Array, MatrixView
from tests import oracles
from tests.graphs import Result, build, initializers, ops, quantized, run, shuffled
from tests.layers import LAYERS, matrices_of, model, unfolded

FLOAT = TensorRule(dtype="float")


def view_of(result: Result, output: str = "y") -> MatrixView:
    """Return how the weight of a layer lies on arrays."""
    view = result.plan.nodes[output].weights[0].spec.matrix
    assert view is not None
    return view


def expected(result: Result, name: str, size: str, bits: int, rows: str) -> Array:
    """Compute a layer from the tiles of its weight."""
    weight, view = initializers(result.original)["w"], view_of(result)
    stack = matrices_of(name, weight, view, kernel_major=rows == "kernel")
    height, width = crossbar_size(size)
    codes, scales = oracles.tiled_codes(stack, (height, width), bits)
    wide = scales.repeat(height, axis=1).repeat(width, axis=2)
    real = codes * wide[:, : stack.shape[1], : stack.shape[2]].astype(np.float64)
    used = unfolded(name, real, view, kernel_major=rows == "kernel")
    x = result.feed["x"].astype(np.float64)
    for params in result.activations.values():
        codes = np.rint(result.feed["x"] / params.scale) + params.zero_point
        codes = np.clip(codes, params.dtype.qmin, params.dtype.qmax)
        x = (codes - params.zero_point) * np.float64(params.scale)
    return LAYERS[name][3](x, used)


def check(
    name: str,
    size: str,
    bits: int,
    activations: str,
    rows: str = "channel",
    change: Callable[[Plan], Plan] = lambda plan: plan,
) -> Result:
    recipe = Recipe(
        crossbar=size,
        rows=rows,
        weights=TensorRule(dtype=f"int{bits}"),
        activations=TensorRule(dtype=activations),
    )
    result = quantized(model(name), recipe, on="crossbar", change=change)
    onnx.checker.check_model(result.model, full_check=True)
    wanted = expected(result, name, size, bits, rows)
    for optimize in (False, True):
        got = run(result.model, result.feed, optimize=optimize)[0]
        assert got.shape == wanted.shape
        np.testing.assert_allclose(got, wanted, rtol=1e-6, atol=1e-6 * np.abs(wanted).max())
    assert len(result.activations) == (activations != "float")
    return result


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("activations", ["float", "uint8", "int8"])
@pytest.mark.parametrize(("size", "bits"), [("4x3", 4), ("8x8", 8), ("100x1", 3), ("5x100", 6)])
def test_every_layer_computes_what_its_tiles_say(
    name: str, size: str, bits: int, activations: str
) -> None:
    check(name, size, bits, activations)


@pytest.mark.parametrize("name", [name for name in LAYERS if "conv" in name])
@pytest.mark.parametrize("activations", ["float", "uint8"])
@pytest.mark.parametrize(("size", "bits"), [("4x3", 4), ("8x8", 8), ("100x100", 2)])
def test_rows_by_place_in_the_kernel(name: str, size: str, bits: int, activations: str) -> None:
    check(name, size, bits, activations, "kernel")


@pytest.mark.parametrize("name", [name for name in LAYERS if "wide" in name])
@pytest.mark.parametrize("activations", ["float", "uint8", "int8"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("moved", [False, True])
def test_blocks_of_the_sizes_kernels_know(
    name: str, activations: str, bits: int, *, moved: bool
) -> None:
    """Fused kernels take blocks of 16, 32, …: nothing may become one."""
    check(name, "32x16", bits, activations, change=shuffled if moved else lambda plan: plan)


# --- orders


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("activations", ["float", "uint8", "int8"])
@pytest.mark.parametrize(("size", "bits"), [("4x3", 4), ("8x8", 8), ("5x100", 4)])
def test_every_layer_computes_what_its_tiles_say_in_any_order(
    name: str, size: str, bits: int, activations: str
) -> None:
    view = view_of(check(name, size, bits, activations, change=shuffled))
    assert view.row_order
    assert bool(view.column_order) == (view.shape[2] > 1)


@pytest.mark.parametrize("name", [name for name in LAYERS if "conv" in name])
@pytest.mark.parametrize("activations", ["float", "uint8"])
def test_rows_by_place_in_the_kernel_in_any_order(name: str, activations: str) -> None:
    check(name, "4x3", 4, activations, "kernel", shuffled)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("activations", ["float", "uint8"])
@pytest.mark.parametrize("bits", [4, 8])
@pytest.mark.parametrize("moved", ["rows", "columns"])
def test_rows_or_columns_alone_may_be_moved(
    name: str, activations: str, bits: int, moved: str
) -> None:
    change = partial(shuffled, rows=moved == "rows", columns=moved == "columns")
    result = check(name, "4x3", bits, activations, change=change)
    view = view_of(result)
    assert ops(result.model).count("Gather") == bool(view.row_order) + bool(view.column_order) <= 1


@pytest.mark.parametrize("name", LAYERS)
def test_the_natural_order_leaves_no_trace_in_the_model(name: str) -> None:
    def spelled_out(plan: Plan) -> Plan:
        moved = shuffled(plan)
        (node,) = (node for node in moved.nodes.values() if node.weights)
        (weight,) = node.weights
        assert weight.spec.matrix is not None
        groups, rows, columns = weight.spec.matrix.shape
        orders = tuple(range(rows)), tuple(range(groups * columns))
        view = replace(weight.spec.matrix, row_order=orders[0], column_order=orders[1])
        weights = (replace(weight, spec=replace(weight.spec, matrix=view)),)
        return replace(plan, nodes={**plan.nodes, node.output: replace(node, weights=weights)})

    recipe = Recipe(crossbar="4x3", weights=TensorRule(dtype="int4"))
    plain = quantized(model(name), recipe, on="crossbar")
    result = quantized(model(name), recipe, on="crossbar", change=spelled_out)
    assert view_of(result) == view_of(plain)
    assert result.model.SerializeToString() == plain.model.SerializeToString()
    assert "Gather" not in ops(plain.model)
    assert not any("order" in e.key for n in plain.model.graph.node for e in n.metadata_props)
    assert plain.emitted.table is not None
    (layer,) = plain.emitted.table["layers"]
    assert (layer["row_order"], layer["column_order"], layer["index_bits"]) == ("natural",) * 2 + (
        0,
    )
    assert plain.emitted.table["index_bits"] == 0
    assert set(plain.emitted.arrays) == {"codes 0", "scales 0"}


def test_the_map_holds_orders_and_what_they_cost() -> None:
    result = quantized(
        model("grouped conv"), Recipe(crossbar="4x3"), on="crossbar", change=shuffled
    )
    view, table = view_of(result), result.emitted.table
    assert table is not None
    (layer,) = table["layers"]
    rows, columns = (result.emitted.arrays[layer[key]] for key in ("row_order", "column_order"))
    assert rows.dtype == columns.dtype == np.uint8
    assert tuple(rows.tolist()) == view.row_order
    assert columns.shape == (3, 3)
    assert (
        tuple((columns + np.arange(0, 9, 3)[:, np.newaxis]).ravel().tolist()) == view.column_order
    )
    assert layer["index_bits"] == table["index_bits"] == 18 * 5 + 9 * 2
    (notes,) = (
        {e.key: e.value for e in n.metadata_props}
        for n in result.model.graph.node
        if n.metadata_props
    )
    assert notes["onnxq.crossbar.row_order"] == "row order 0"
    assert notes["onnxq.crossbar.column_order"] == "column order 0"
    assert notes["onnxq.crossbar.index_bits"] == "108"


@pytest.mark.parametrize(("inputs", "kind"), [(256, np.uint8), (257, np.uint16)])
def test_orders_take_the_smallest_type(inputs: int, kind: type[np.unsignedinteger[Any]]) -> None:
    proto = build(
        f"net (float[2, {inputs}] x) => (float[2, 3] y) {{ y = MatMul(x, w) }}", {"w": (inputs, 3)}
    )
    result = quantized(proto, Recipe(crossbar="64x64"), on="crossbar", change=shuffled)
    assert result.emitted.arrays["row order 0"].dtype == kind


def test_equal_index_tables_are_stored_once() -> None:
    def alike(plan: Plan) -> Plan:
        return replace(
            plan,
            nodes={
                key: shuffled(replace(plan, nodes={key: node})).nodes[key]
                for key, node in plan.nodes.items()
            },
        )

    proto = build(
        "net (float[4, 6] x) => (float[4, 6] y) { a = MatMul(x, w) b = Relu(a) y = MatMul(b, v) }",
        {"w": (6, 6), "v": (6, 6)},
    )
    result = quantized(proto, Recipe(crossbar="4x4"), on="crossbar", change=alike)
    assert ops(result.model).count("Gather") == 4
    tables = {name: array for name, array in initializers(result.model).items() if "index" in name}
    assert set(tables) == {"w_row_index", "w_column_index"}
    assert {array.dtype for array in tables.values()} == {np.dtype(np.int64)}
    got = [run(result.model, result.feed, optimize=level)[0] for level in (False, True)]
    np.testing.assert_allclose(got[0], got[1], rtol=1e-6, atol=1e-6 * np.abs(got[0]).max())


@pytest.mark.parametrize(
    ("order", "message"),
    [
        ({"row_order": (0, 1, 2)}, "row_order is no permutation of 18"),
        ({"row_order": (1, *range(1, 18))}, "row_order is no permutation of 18"),
        ({"column_order": (0, 1, 2)}, "column_order is no permutation of 9"),
        ({"column_order": (3, 1, 2, 0, *range(4, 9))}, "moves a column to another group"),
    ],
)
def test_what_is_no_order_is_refused(order: dict[str, tuple[int, ...]], message: str) -> None:
    view = view_of(quantized(model("grouped conv"), Recipe(crossbar="4x3"), on="crossbar"))
    with pytest.raises(ValueError, match=message):
        replace(view, **order)


# --- what is written


@pytest.mark.parametrize("change", [lambda plan: plan, shuffled])
def test_no_blocks_go_straight_into_an_operator(change: Callable[[Plan], Plan]) -> None:
    for name in LAYERS:
        proto = quantized(model(name), Recipe(crossbar="4x3"), on="crossbar", change=change).model
        (blocks,) = (
            n for n in proto.graph.node if any(a.name == "block_size" for a in n.attribute)
        )
        readers = {n.op_type for n in proto.graph.node if blocks.output[0] in n.input}
        assert readers <= {"Gather", "Reshape", "Transpose", "Max"}, name


@pytest.mark.parametrize(
    ("name", "rows", "steps"),
    [
        ("conv", "channel", ["Reshape"]),
        ("conv", "kernel", ["Reshape", "Transpose"]),
        ("grouped conv", "kernel", ["Reshape", "Transpose", "Reshape"]),
        ("grouped conv", "channel", ["Reshape"]),
        ("conv transpose", "channel", ["Reshape", "Transpose"]),
        ("grouped conv transpose", "channel", ["Reshape", "Transpose", "Reshape"]),
        ("gemm", "channel", ["Transpose"]),
        ("gemm, transB", "channel", []),
        ("matmul, a stack", "channel", ["Reshape", "Transpose"]),
        ("matmul, left", "channel", []),
    ],
)
def test_steps_that_do_nothing_are_left_out(name: str, rows: str, steps: list[str]) -> None:
    result = quantized(model(name), Recipe(crossbar="4x3", rows=rows), on="crossbar")
    spec = result.plan.nodes["y"].weights[0].spec
    assert spec.matrix is not None
    assert [step.op for step in block_steps(spec.matrix, LAYERS[name][2])] == steps


@pytest.mark.parametrize(
    ("bits", "kind"), [(2, "INT4"), (3, "INT4"), (4, "INT4"), (5, "INT8"), (7, "INT8"), (8, "INT8")]
)
def test_codes_are_stored_in_four_or_eight_bits(bits: int, kind: str) -> None:
    recipe = Recipe(crossbar="8x8", weights=TensorRule(dtype=f"int{bits}"))
    proto = quantized(model("conv"), recipe, on="crossbar").model
    (codes,) = (t for t in proto.graph.initializer if t.name == "w_quantized")
    assert codes.data_type == getattr(onnx.TensorProto, kind)
    assert proto.opset_import[0].version == 21


def test_one_tile_is_per_tensor_and_one_column_per_channel() -> None:
    proto = model("conv")
    weight = initializers(proto)["w"]
    for size, largest in (
        ("999x999", np.abs(weight).max()),
        ("999x1", np.abs(weight).max(axis=(1, 2, 3))),
    ):
        result = quantized(proto, Recipe(crossbar=size), on="crossbar")
        scale = initializers(result.model)["w_scale"]
        np.testing.assert_allclose(scale[:, 0], np.broadcast_to(largest / 127, 7), rtol=1e-6)


NET = """net (float[N, 3, 8, 8] x) => (float[N, 5] y) {
    c = Conv(x, w, b) r = Relu(c) d = Conv(r, k) s = Relu(d)
    q = GlobalAveragePool(s) f = Flatten(q) y = Gemm<transB = 1>(f, u, e) }"""
WEIGHTS = {"w": (6, 3, 3, 3), "b": (6,), "k": (4, 6, 3, 3), "u": (5, 4), "e": (5,)}


def test_a_convolution_kept_float_keeps_its_weights() -> None:
    proto = build(NET, WEIGHTS)
    recipe = Recipe(crossbar="16x4", rules=(NodeRule(name=r"Conv\(d\)", quantize=False),))
    result = quantized(proto, recipe, on="crossbar")
    got = [run(result.model, result.feed, optimize=level)[0] for level in (False, True)]
    np.testing.assert_allclose(got[0], got[1], rtol=1e-5, atol=1e-6 * np.abs(got[0]).max())
    assert "k" in initializers(result.model)
    assert "k_quantized" not in initializers(result.model)


def test_a_rule_leaves_the_activations_of_some_nodes_float() -> None:
    rule = NodeRule(op="Conv", activations=FLOAT)
    result = quantized(build(NET, WEIGHTS), Recipe(crossbar="16x4", rules=(rule,)), on="crossbar")
    assert set(result.activations) == {"f"}
    assert {node.op for node in result.plan.nodes.values() if node.weight_only} == {"Conv"}
    assert ops(result.model).count("QuantizeLinear") == 1


def test_a_weight_two_layers_read_in_different_ways_is_there_twice() -> None:
    proto = build(
        "net (float[6, 6] x) => (float[6, 6] y) { c = MatMul(x, w) y = MatMul(w, c) }",
        {"w": (6, 6)},
    )
    result = quantized(proto, Recipe(crossbar="4x4"), on="crossbar")
    assert {"w_quantized", "w_quantized_2"} <= set(initializers(result.model))
    got = [run(result.model, result.feed, optimize=level)[0] for level in (False, True)]
    np.testing.assert_allclose(got[0], got[1], rtol=1e-6, atol=1e-6 * np.abs(got[0]).max())


@pytest.mark.parametrize("algorithm", ["mse", "percentile", "outlier-var"])
def test_ranges_are_chosen_tile_by_tile(algorithm: str) -> None:
    weights = TensorRule(dtype="int4", range=algorithm)
    recipe = Recipe(crossbar="6x4", weights=weights, activations=FLOAT)
    graph = from_proto(build(NET, WEIGHTS, opset=21, ir=10))
    plan = resolve(graph, target("crossbar"), recipe)
    found = weight_params(plan, graph)["d", 1]
    assert found.scale.shape == (1, 9, 1)
    stack = oracles.layer_matrix("Conv", graph.graph.tensors()["k"].values, 1, kernel_major=False)
    for row in range(9):
        largest = np.abs(stack[0, 6 * row : 6 * row + 6]).max()
        assert found.scale[0, row, 0] <= largest / 7 * (1 + 1e-6)
    assert len(set(found.scale.ravel().tolist())) == 9


# --- what is not asked for, or cannot be


def test_two_activations_are_not_multiplied_on_arrays() -> None:
    proto = build(
        "net (float[4, 6] x) => (float[4, 4] y) {"
        " a = MatMul(x, w) t = Transpose(a) y = MatMul(a, t) }",
        {"w": (6, 6)},
    )
    plan = quantized(proto, on="crossbar").plan
    assert plan.nodes["a"].quantized
    assert plan.nodes["y"].reason == "neither input is constant, and arrays hold constants"


@pytest.mark.parametrize("text", ["128", "128x", "0x4", "4x0", "-1x4", "axb", "1.5x2", "4x4x4", ""])
def test_what_is_no_size_is_refused(text: str) -> None:
    with pytest.raises(RecipeError, match="rows x columns of an array"):
        Recipe(crossbar=text)


def test_rows_are_channel_or_kernel() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'kernel'"):
        Recipe(rows="kernal")


def test_arrays_need_a_size() -> None:
    with pytest.raises(RecipeError, match="crossbar needs the size of its arrays"):
        check_size(Recipe(target="crossbar"))
    check_size(Recipe(target="cpu"))


@pytest.mark.parametrize("keys", [{"crossbar": "8x8"}, {"rows": "kernel"}])
def test_arrays_are_of_the_target_crossbar_only(keys: dict[str, str]) -> None:
    with pytest.raises(RecipeError, match="is for targets with one scale an array, like crossbar"):
        resolve(from_proto(build(NET, WEIGHTS)), target("cpu"), Recipe(**keys))


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_another_granularity_is_refused(granularity: str) -> None:
    recipe = Recipe(crossbar="8x8", weights=TensorRule(granularity=granularity))
    with pytest.raises(UnsupportedError, match=f"one weight scale an array, not a {granularity}"):
        resolve(from_proto(build(NET, WEIGHTS)), target("crossbar"), recipe)


@pytest.mark.parametrize("dtype", ["int9", "int16", "uint8"])
def test_widths_the_emitter_cannot_hold_are_refused(dtype: str) -> None:
    recipe = Recipe(crossbar="8x8", weights=TensorRule(dtype=dtype))
    with pytest.raises(UnsupportedError, match=f"crossbar has no {dtype} weights; it has int2"):
        resolve(from_proto(build(NET, WEIGHTS)), target("crossbar"), recipe)


def test_codes_pass_through_what_only_moves_them() -> None:
    proto = build(
        """net (float[N, 3, 8, 8] x) => (float[N, 4, 4, 4] y) {
        c = Conv(x, w, b) r = Relu(c) p = MaxPool<kernel_shape = [3, 3]>(r)
        d = Conv<pads = [1, 1, 1, 1]>(p, k) e = Conv(r, k) y = Add(d, e) }""",
        {"w": (6, 3, 3, 3), "b": (6,), "k": (4, 6, 3, 3)},
    )
    result = quantized(proto, Recipe(crossbar="16x4"), on="crossbar")
    assert list(result.plan.activations) == ["x", "r", "p"]
    assert result.plan.activations["p"].carried
    result = quantized(proto, Recipe(crossbar="16x4", activations=FLOAT), on="crossbar")
    assert not result.activations
    assert result.plan.nodes["p"].reason == "its activations stay float, as asked"
