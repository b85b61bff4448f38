"""Grids by hand, and what does not fit."""

import numpy as np
import pytest

from onnxq.numerics.extremes import extremes
from onnxq.numerics.tiles import channel_tile, expand, grid, iterate, reduce
from onnxq.types import Tile


@pytest.mark.parametrize(
    ("shape", "tile", "expected"),
    [
        ((4, 6), (), ()),
        ((), (), ()),
        ((4, 6), (0, 0), (1, 1)),
        ((4, 6), (4, 6), (1, 1)),
        ((4, 6), (1, 0), (4, 1)),
        ((4, 6), (2, 4), (2, 2)),
        ((5, 7), (2, 3), (3, 3)),
        ((5, 7), (9, 9), (1, 1)),
        ((0, 3), (0, 1), (1, 3)),
        ((0, 3), (1, 1), (0, 3)),
    ],
)
def test_grid(shape: tuple[int, ...], tile: Tile, expected: tuple[int, ...]) -> None:
    assert grid(shape, tile) == expected
    assert len(list(iterate(np.zeros(shape), tile))) == np.prod(expected)


@pytest.mark.parametrize("tile", [(1,), (1, 1, 1), (-1, 2)])
def test_a_tile_that_does_not_fit(tile: Tile) -> None:
    with pytest.raises(ValueError, match="does not fit"):
        grid((4, 6), tile)


def test_short_last_tiles() -> None:
    array = np.arange(15.0).reshape(3, 5)
    largest = reduce(array, (2, 3), np.max)
    assert largest.tolist() == [[7, 9], [12, 14]]
    assert expand(largest, (3, 5), (2, 3)).tolist() == [
        [7, 7, 7, 9, 9],
        [7, 7, 7, 9, 9],
        [12, 12, 12, 14, 14],
    ]


def test_axes_with_one_tile_stay_short() -> None:
    values = np.arange(4.0).reshape(4, 1)
    assert expand(values, (4, 6), (1, 0)).shape == (4, 1)
    assert expand(np.float64(7), (4, 6), ()).shape == ()


def test_expand_refuses_another_grid() -> None:
    with pytest.raises(ValueError, match="for a grid"):
        expand(np.zeros((2, 1)), (4, 6), (1, 0))


@pytest.mark.parametrize(
    ("rank", "axis", "expected"),
    [(4, 0, (1, 0, 0, 0)), (4, 1, (0, 1, 0, 0)), (2, -1, (0, 1)), (1, 0, (1,))],
)
def test_channel_tile(rank: int, axis: int, expected: Tile) -> None:
    assert channel_tile(rank, axis) == expected


@pytest.mark.parametrize(("rank", "axis"), [(2, 2), (2, -3), (0, 0)])
def test_no_such_axis(rank: int, axis: int) -> None:
    with pytest.raises(ValueError, match="does not exist"):
        channel_tile(rank, axis)


def test_extremes() -> None:
    stats = extremes(np.array([[1.0, -2.0, 3.0], [0.0, 5.0, -6.0]]), (1, 2))
    assert stats.count.tolist() == [[2, 1], [2, 1]]
    assert stats.lo.tolist() == [[-2, 3], [0, -6]]
    assert stats.hi.tolist() == [[1, 3], [5, -6]]
    assert stats.histograms == ()
