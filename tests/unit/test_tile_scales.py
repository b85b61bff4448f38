"""Scales of tiles by the cosine of the layer's output: as plain numpy on the layer's inputs."""

from dataclasses import replace

import numpy as np
import onnx
import pytest

from onnxq.feeds import Batch
from onnxq.graph.io import from_proto
from onnxq.graph.matrices import matrix_view
from onnxq.graph.session import Runtime
from onnxq.graph.unfold import by_row, unfolding
from onnxq.numerics.affine import fake_quantize
from onnxq.numerics.gram import FACTORS, cosine_scales, output_cosine
from onnxq.numerics.matrices import matrices, row_order, stored_products
from onnxq.parameters import weight_params
from onnxq.plan import resolve
from onnxq.recipe import Recipe, TensorRule
from onnxq.targets import target
from onnxq.tile_scales import searched
from onnxq.types import Array, IntType, MatrixView
from tests.graphs import build, cosine, feed_for, initializers, run, shuffled

RNG = np.random.default_rng(2)

LAYERS = {
    "conv": ("Conv<pads = [1, 1, 0, 2], strides = [2, 1], dilations = [1, 2]>(x, w)", (4, 6, 3, 2)),
    "grouped conv": ("Conv<group = 2>(x, w)", (4, 3, 3, 3)),
    "depthwise conv": ("Conv<group = 6>(x, w)", (6, 1, 3, 3)),
    "conv transpose": ("ConvTranspose<strides = [2, 2]>(x, w)", (6, 4, 3, 2)),
    "grouped conv transpose": ("ConvTranspose<group = 3, strides = [2, 1]>(x, w)", (6, 4, 3, 3)),
    "matmul": ("MatMul(x, w)", (7, 5)),
    "matmul, a vector": ("MatMul(x, w)", (7,)),
    "matmul, left": ("MatMul(w, x)", (4, 7)),
    "gemm": ("Gemm(m, w)", (7, 5)),
    "gemm, transposed": ("Gemm<transB = 1, transA = 1>(m, w)", (5, 9)),
}


def layer(name: str) -> tuple[onnx.ModelProto, str]:
    call, shape = LAYERS[name]
    read = "float[9, 7] m" if "gemm" in name else "float[2, 6, 7, 7] x"
    body = f"t = {call} y = Identity(t)"
    proto = build(f"net ({read}) => (float[a] y) {{ {body} }}", {"w": shape})
    del proto.graph.output[0].type.tensor_type.shape.dim[:]
    proto.graph.output[0].type.tensor_type.ClearField("shape")
    return proto, read[-1]


def permutation(size: int) -> tuple[int, ...]:
    return tuple(np.random.default_rng(size).permutation(size).tolist())


@pytest.mark.parametrize("moved", [False, True])
@pytest.mark.parametrize("rows", ["channel", "kernel"])
@pytest.mark.parametrize("name", LAYERS)
def test_what_a_layer_reads_row_by_row_times_its_matrix_is_what_it_writes(
    name: str, rows: str, *, moved: bool
) -> None:
    proto, read = layer(name)
    model = from_proto(proto)
    node, weight = model.graph.nodes[0], initializers(proto)["w"]
    index = 0 if "left" in name else 1
    view = matrix_view(node, index, weight.shape, rows)
    if moved:
        view = replace(view, row_order=permutation(view.shape[1]))
    feed = feed_for(proto)
    (written,) = run(unfolding(model, node, index, view), {read: feed[read]})
    inputs = by_row(node, index, written, view.shape[0])[:, row_order(view)]
    product = matrices(weight, view).transpose(0, 2, 1) @ inputs
    expected = run(proto, feed)[0]
    assert product.size == expected.size
    assert np.linalg.norm(product) == pytest.approx(np.linalg.norm(expected), rel=1e-5)
    if "conv" in name:
        groups, outputs, _ = product.shape
        places = product.reshape(groups, outputs, len(expected), -1).transpose(2, 0, 1, 3)
        np.testing.assert_allclose(places.reshape(expected.shape), expected, atol=1e-4)


def outputs(stack: Array, inputs: Array) -> Array:
    return stack.transpose(0, 2, 1) @ inputs


def test_the_cosine_is_that_of_the_outputs() -> None:
    stack, inputs = RNG.normal(size=(2, 6, 4)), RNG.normal(size=(2, 6, 50))
    other = stack + 0.3 * RNG.normal(size=stack.shape)
    gram = inputs @ inputs.transpose(0, 2, 1)
    expected = cosine(outputs(stack, inputs), outputs(other, inputs))
    assert output_cosine(stack, other, gram) == pytest.approx(expected, rel=1e-9)


def quantized(stack: Array, scale: Array, size: tuple[int, int], bits: int) -> Array:
    wide = scale.repeat(size[0], axis=1).repeat(size[1], axis=2)
    wide = wide[:, : stack.shape[1], : stack.shape[2]]
    codes = np.clip(np.rint(stack / wide), -(2 ** (bits - 1)), 2 ** (bits - 1) - 1)
    return codes * wide.astype(np.float64)


def test_one_tile_takes_the_best_of_all_factors() -> None:
    stack = RNG.normal(size=(1, 8, 3)).astype(np.float32)
    inputs = RNG.normal(size=(1, 8, 40)) * np.linspace(0.1, 3, 8).reshape(1, -1, 1)
    scale = np.abs(stack).max(keepdims=True) / np.float32(7)
    found = cosine_scales(
        stack, inputs @ inputs.transpose(0, 2, 1), scale, (8, 3), IntType(4, signed=True)
    )
    wanted = outputs(stack, inputs)
    tried = [found, *((scale * f).astype(np.float32) for f in FACTORS)]
    assert any((found == each).all() for each in tried[1:])
    scores = [cosine(wanted, outputs(quantized(stack, s, (8, 3), 4), inputs)) for s in tried]
    # scales that give the same codes, or none that do better than rounding, are equally good
    assert scores[0] == pytest.approx(max(scores), rel=1e-8)


def test_many_tiles_gain_together_and_zeros_stay() -> None:
    size, bits = (5, 2), 3
    stack = RNG.normal(size=(2, 12, 5)).astype(np.float32)
    stack[0, :5, :2] = 0
    inputs = RNG.normal(size=(2, 12, 60)) * np.linspace(0.1, 3, 12).reshape(1, -1, 1)
    gram = inputs @ inputs.transpose(0, 2, 1)
    scale = np.full((2, 3, 3), np.abs(stack).max() / 3, np.float32)
    before = scale.copy()
    found = cosine_scales(stack, gram, scale, size, IntType(bits, signed=True))
    np.testing.assert_array_equal(scale, before)
    assert found[0, 0, 0] == scale[0, 0, 0]
    scores = [output_cosine(stack, quantized(stack, s, size, bits), gram) for s in (scale, found)]
    assert scores[1] > scores[0]


def test_a_model_keeps_stacks_and_moves_all_else() -> None:
    proto = build(
        """net (float[4, 3, 8, 8] x) => (float[4, 4, 3, 3] y) {
        c = Conv<strides = [2, 2]>(x, w, b) s = MatMul(c, u) y = MatMul(s, v) }""",
        {"w": (4, 3, 4, 4), "b": (4,), "u": (3, 5), "v": (4, 5, 3)},
        opset=21,
        ir=10,
    )
    model = from_proto(proto)
    recipe = Recipe(crossbar="16x2", weights=TensorRule(dtype="int4"))
    plan = resolve(model, target("crossbar"), recipe)
    weights = weight_params(plan, model)
    feeds = [feed_for(proto, seed) for seed in range(2)]
    samples = [Batch(inputs=feed, labels={}, samples=4, splittable=False) for feed in feeds]
    found = searched(model, plan, weights, samples, Runtime())
    assert found["y", 1] == weights["y", 1]
    for key, name in ((("c", 1), "w"), (("s", 1), "u")):
        assert (found[key].scale != weights[key].scale).any()
        assert found[key].scale.shape == weights[key].scale.shape
        alone = initializers(proto)[name]
        near = [cosine(alone, fake_quantize(alone, each[key])) for each in (weights, found)]
        assert min(near) > 0.98


def test_products_are_those_of_the_stored_rows() -> None:
    inputs = np.random.default_rng(6).normal(size=(2, 6, 50))
    view = MatrixView(
        split=(2, 3, 6), names=("group", "output", "input"), groups=(0,), rows=(2,), columns=(1,)
    )
    gram = inputs @ inputs.transpose(0, 2, 1)
    assert stored_products(gram, view) is gram
    moved = replace(view, row_order=permutation(6))
    stored = inputs[:, list(permutation(6))]
    expected = stored @ stored.transpose(0, 2, 1)
    np.testing.assert_allclose(stored_products(gram, moved), expected, rtol=1e-12)


def test_reordered_layers_get_the_scales_of_a_layer_that_lies_so() -> None:
    """Moving rows and columns of the weight itself, and what it reads, is the same."""
    text = "net (float[6, 20] x) => (float[6, 9] y) { y = MatMul(x, w) }"
    rng = np.random.default_rng(7)
    weight, x = rng.normal(size=(20, 9)), rng.normal(size=(6, 20)) * np.linspace(0.1, 3, 20)
    recipe = Recipe(crossbar="6x4", weights=TensorRule(dtype="int4"))

    def scales(weight: Array, x: Array, *, moved: bool) -> tuple[Array, MatrixView]:
        proto = build(text, {"w": weight.astype(np.float32)}, opset=21, ir=10)
        model = from_proto(proto)
        plan = resolve(model, target("crossbar"), recipe)
        plan = shuffled(plan) if moved else plan
        sample = Batch(inputs={"x": x.astype(np.float32)}, labels={}, samples=6, splittable=False)
        found = searched(model, plan, weight_params(plan, model), [sample], Runtime())["y", 1]
        assert found.matrix is not None
        return found.scale, found.matrix

    found, view = scales(weight, x, moved=True)
    rows, columns = list(view.row_order), list(view.column_order)
    expected, _ = scales(weight[rows][:, columns], x[:, rows], moved=False)
    np.testing.assert_array_equal(found, expected)
