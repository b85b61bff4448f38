"""Weights as matrices and their tiles, for any layer and any size of array."""

import math
from dataclasses import dataclass, replace

import numpy as np
import onnx_graphsurgeon as gs
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxq.emit.blocks import block_codes, block_steps, block_values
from onnxq.graph.matrices import matrix_view
from onnxq.numerics.affine import dequantize, fake_quantize, params_of, quantize
from onnxq.numerics.extremes import extremes
from onnxq.numerics.matrices import index_bits, matrices, restored, utilisation
from onnxq.numerics.tiles import grid
from onnxq.ranges.minmax import MinMax
from onnxq.types import Array, IntType, MatrixView, QuantParams, QuantSpec
from tests import oracles

_sizes = st.integers(1, 9)
_values = st.just(0.0) | st.floats(2.0**-10, 8, width=32) | st.floats(-8, -(2.0**-10), width=32)


@dataclass(frozen=True)
class Layer:
    op: str
    weight: Array
    groups: int
    outputs_first: bool
    rows: str
    index: int
    orders: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    @property
    def view(self) -> MatrixView:
        return replace(self.natural, row_order=self.orders[0], column_order=self.orders[1])

    @property
    def natural(self) -> MatrixView:
        attrs = {"group": self.groups} if "Conv" in self.op else {}
        if self.op == "Gemm":
            attrs = {"transB": int(self.outputs_first)}
        return matrix_view(gs.Node(self.op, attrs=attrs), self.index, self.weight.shape, self.rows)

    @property
    def stack(self) -> Array:
        """The matrices as they are stored, weight by weight."""
        stack = oracles.layer_matrix(
            self.op,
            self.weight,
            self.groups,
            kernel_major=self.rows == "kernel",
            outputs_first=self.outputs_first,
        )
        return oracles.stored(stack, *self.orders)


@st.composite
def layers(draw: st.DrawFn) -> Layer:
    """A layer with weights of every kind of shape."""
    op = draw(st.sampled_from(["Conv", "ConvTranspose", "Gemm", "MatMul"]))
    groups, first = 1, False
    few = st.integers(1, 4)
    if "Conv" in op:
        groups = draw(st.integers(1, 3))
        kernel = draw(st.lists(st.integers(1, 3), min_size=1, max_size=2))
        shape: tuple[int, ...] = (groups * draw(few), draw(few), *kernel)
    elif op == "Gemm":
        shape, first = (draw(_sizes), draw(_sizes)), draw(st.booleans())
    else:
        shape = tuple(draw(st.lists(few, min_size=1, max_size=4)))
        first = draw(st.booleans())
    weight = draw(hnp.arrays(np.float32, shape, elements=_values))
    index = 0 if op == "MatMul" and first else 1
    layer = Layer(op, weight, groups, first, draw(st.sampled_from(["channel", "kernel"])), index)
    stacks, inputs, outputs = layer.natural.shape
    rows = draw(st.just([]) | st.permutations(range(inputs)))
    columns = [
        g * outputs + j for g in range(stacks) for j in draw(st.permutations(range(outputs)))
    ]
    return replace(layer, orders=(tuple(rows), tuple(columns)))


def params(layer: Layer, size: tuple[int, int], bits: int) -> QuantParams:
    spec = QuantSpec(
        dtype=IntType(bits, signed=True),
        symmetric=True,
        range=MinMax(),
        tile=(1, *size),
        matrix=layer.view,
    )
    stats = extremes(matrices(layer.weight, layer.view), spec.tile)
    return params_of(spec.range(stats, spec), spec)


arrays = st.tuples(_sizes, _sizes)


@given(layers())
def test_matrices_hold_what_the_definition_says_and_come_back(layer: Layer) -> None:
    found = matrices(layer.weight, layer.view)
    np.testing.assert_array_equal(found, layer.stack)
    np.testing.assert_array_equal(restored(found, layer.view, layer.weight.shape), layer.weight)


@given(layers(), arrays, st.integers(2, 8))
def test_codes_and_scales_are_those_of_a_loop_over_the_tiles(
    layer: Layer, size: tuple[int, int], bits: int
) -> None:
    used = params(layer, size, bits)
    codes, scales = oracles.tiled_codes(layer.stack, size, bits)
    assert used.scale.shape == grid(layer.stack.shape, (1, *size)) == scales.shape
    # a loop takes the nearest scale, onnxq the next smaller one: codes on a tie may differ
    np.testing.assert_allclose(used.scale, scales, rtol=3e-7)
    found = matrices(quantize(layer.weight, used), layer.view).astype(np.int64)
    wide = scales.repeat(size[0], axis=1).repeat(size[1], axis=2)
    wide = wide[:, : codes.shape[1], : codes.shape[2]]
    tie = np.abs(np.abs(layer.stack / wide) % 1 - 0.5) < 1e-4
    assert (found == codes)[~tie].all()
    assert (np.abs(found - codes) <= 1).all()


@given(layers(), arrays, st.integers(2, 8))
def test_what_is_stored_in_blocks_unfolds_to_the_weight(
    layer: Layer, size: tuple[int, int], bits: int
) -> None:
    used, view = params(layer, size, bits), layer.view
    codes = quantize(layer.weight, used)
    rows, scales = block_codes(codes, view), block_values(used.scale, used, view)
    real = rows.astype(np.float32) * scales.repeat(size[0], axis=1)[:, : rows.shape[1]]
    for op, to, axis in block_steps(view, layer.weight.shape):
        if op == "Gather":
            real = real.take(to, axis)
        else:
            real = real.reshape(to) if op == "Reshape" else real.transpose(to)
    np.testing.assert_array_equal(real, dequantize(codes, used))


@given(layers(), st.integers(2, 8))
def test_one_tile_is_one_scale_a_group(layer: Layer, bits: int) -> None:
    wide = fake_quantize(layer.weight, params(layer, (999, 999), bits))
    spec = QuantSpec(dtype=IntType(bits, signed=True), symmetric=True, range=MinMax())
    for part, found in zip(layer.stack, matrices(wide, layer.view), strict=True):
        alone = params_of(spec.range(extremes(part), spec), spec)
        np.testing.assert_array_equal(found, fake_quantize(part, alone))


@given(layers(), st.integers(2, 8))
def test_a_block_as_large_as_the_layer_is_one_scale_an_output(layer: Layer, bits: int) -> None:
    used = params(layer, (layer.view.shape[1] + bits, 1), bits)
    spec = QuantSpec(dtype=IntType(bits, signed=True), symmetric=True, range=MinMax(), tile=(0, 1))
    for part, scale in zip(layer.stack, used.scale, strict=True):
        alone = params_of(spec.range(extremes(part, spec.tile), spec), spec)
        np.testing.assert_array_equal(scale, alone.scale)


@given(layers(), arrays, st.integers(2, 8))
def test_no_weight_is_farther_off_than_half_a_step(
    layer: Layer, size: tuple[int, int], bits: int
) -> None:
    used = params(layer, size, bits)
    error = np.abs(layer.stack - matrices(fake_quantize(layer.weight, used), layer.view))
    wide = used.scale.repeat(size[0], axis=1).repeat(size[1], axis=2)
    assert (error <= 0.5001 * wide[:, : error.shape[1], : error.shape[2]]).all()


@given(layers(), arrays)
def test_utilisation_counts_cells(layer: Layer, size: tuple[int, int]) -> None:
    used, cells = utilisation(layer.view, (1, *size))
    tiles = oracles.tile_members(layer.stack.shape, (1, *size))
    assert used == layer.weight.size
    assert cells == len(tiles) * size[0] * size[1]
    assert used <= cells


@given(layers(), arrays, st.integers(2, 8))
def test_codes_of_reordered_weights_are_reordered_codes(
    layer: Layer, size: tuple[int, int], bits: int
) -> None:
    """Weights that lie in the stored order already, as a plain matrix, get the same codes."""
    used = params(layer, size, bits)
    plain = Layer("MatMul", layer.stack, 1, outputs_first=False, rows="channel", index=1)
    alone = params(plain, size, bits)
    np.testing.assert_array_equal(alone.scale, used.scale)
    codes = quantize(layer.weight, used)
    np.testing.assert_array_equal(matrices(codes, layer.view), quantize(plain.weight, alone))
    assert codes.shape == layer.weight.shape


@given(layers())
def test_index_tables_have_an_entry_for_what_is_moved(layer: Layer) -> None:
    _, inputs, outputs = layer.view.shape
    bits = 0
    for order, size in ((layer.view.row_order, inputs), (layer.view.column_order, outputs)):
        assert order == () or list(order) != sorted(order)
        bits += len(order) * math.ceil(math.log2(size))
    assert index_bits(layer.view) == bits
