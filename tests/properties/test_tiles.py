"""Cutting and expanding, for any shape and tile."""

import numpy as np
from hypothesis import given

from onnxq.numerics.tiles import expand, grid, iterate, reduce
from onnxq.types import Array, Tile
from tests import oracles, strategies


@given(strategies.tiled())
def test_expand_of_reduce_keeps_the_shape(tiled: tuple[Array, Tile]) -> None:
    array, tile = tiled
    expanded = expand(reduce(array, tile, np.max), array.shape, tile)
    assert np.broadcast_shapes(expanded.shape, array.shape) == array.shape
    assert (array <= expanded).all()


@given(strategies.tiled())
def test_expand_puts_each_value_on_its_tile(tiled: tuple[Array, Tile]) -> None:
    array, tile = tiled
    members = oracles.tile_members(array.shape, tile)
    shape = grid(array.shape, tile)
    numbers = np.arange(np.prod(shape, dtype=int)).reshape(shape)
    expanded = np.broadcast_to(expand(numbers, array.shape, tile), array.shape)
    assert set(members) == set(np.ndindex(shape))
    for where, indices in members.items():
        assert {int(expanded[index]) for index in indices} == {int(numbers[where])}


@given(strategies.tiled())
def test_tiles_hold_every_element_once(tiled: tuple[Array, Tile]) -> None:
    array, tile = tiled
    members = oracles.tile_members(array.shape, tile)
    parts = list(iterate(array, tile))
    assert len(parts) == len(members)
    for part, where in zip(parts, sorted(members), strict=True):
        expected = [array[index] for index in members[where]]
        np.testing.assert_array_equal(part.reshape(-1), np.array(expected, np.float32))
        assert np.shares_memory(part, array)
