"""Which channel stands where on crossbar arrays, and what the tiles then lose.

A layer is its matrices ``(G, n, m)``, see `onnxq.numerics.matrices`, cut into tiles of one scale
each. Channels that the network lets change places are a *family*; each owns lines, rows or columns,
of one matrix or of many, which move together. An *order* says which channel comes where: position i
gets the channel ``order[i]``.

Shapes: tiles of a layer ``(G, ceil(n/R), ceil(m/C))``. Errors are in units of the squared output
of the layer, shares in their inverse: a total is a sum of noise-to-signal ratios.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Literal

import numpy as np

from onnxq.numerics.affine import TINY
from onnxq.numerics.tiles import expand, grid
from onnxq.types import Array

Orders = list[Array]  # one a family, (channels,)
QUANTILES = 0.001, 0.999


@dataclass(frozen=True, kw_only=True)
class TiledMatrix:
    """The weights of a layer on arrays.

    Attributes:
        values: float32, ``(G, n, m)``.
        power: Mean square of what each row reads, float64 ``(G, n)``; ones if unknown.
        size: Rows and columns of a tile, 0 for the whole axis; groups never share one.
        bits: Width of a code.
        given_share: Weight of the layer in a total; None for one over the energy of its output.
    """

    values: Array
    power: Array
    size: tuple[int, int]
    bits: int
    given_share: float | None = None

    def __post_init__(self) -> None:
        """Check the shapes.

        Raises:
            ValueError: They do not fit.
        """
        if self.values.ndim != 3 or self.power.shape != self.values.shape[:2]:
            raise ValueError(f"power {self.power.shape} for matrices {self.values.shape}")

    @property
    def steps(self) -> tuple[int, int]:
        """Rows and columns of a tile, at least 1."""
        rows, columns = self.values.shape[1:]
        return self.size[0] or max(rows, 1), self.size[1] or max(columns, 1)

    @property
    def grid(self) -> tuple[int, ...]:
        """Number of matrices, of tiles along the rows and along the columns."""
        return grid(self.values.shape, (1, *self.steps))

    @property
    def half(self) -> int:
        """The largest code."""
        return int(2 ** (self.bits - 1)) - 1

    @cached_property
    def share(self) -> float:
        """Weight of the layer in a total; 0 for a layer whose output is zero."""
        if self.given_share is not None:
            return self.given_share
        energy = float((self.power * np.square(self.values, dtype=np.float64).sum(2)).sum())
        return 1 / energy if energy > 0 else 0.0


@dataclass(frozen=True, kw_only=True)
class Lines:
    """The lines that channels own in one layer.

    Attributes:
        matrix: Number of the layer.
        side: What the lines are.
        lines: Flat numbers, ``(channels, k)``: rows count as group·n + row, columns as
            group·m + column. Line j of a channel takes the place of line j of another.
    """

    matrix: int
    side: Literal["rows", "columns"]
    lines: Array


@dataclass(frozen=True, kw_only=True)
class Family:
    """Channels that may change places with each other.

    Attributes:
        places: Their lines, wherever they have some; at least once.
    """

    places: tuple[Lines, ...]

    @property
    def channels(self) -> int:
        """How many there are."""
        return len(self.places[0].lines)


def check(matrices: Sequence[TiledMatrix], families: Sequence[Family]) -> None:
    """Refuse families whose result depends on which of them moves first.

    Groups that move as a whole do so by their rows alone.

    Raises:
        ValueError: Both rows and columns of a layer can leave their group.
    """
    leaving: set[tuple[int, str]] = set()
    for place in (place for family in families for place in family.places):
        _, height, width = matrices[place.matrix].values.shape
        group = place.lines // (height if place.side == "rows" else width)
        if (group != group[:1]).any():
            leaving.add((place.matrix, place.side))
    for number in range(len(matrices)):
        if {(number, "rows"), (number, "columns")} <= leaving:
            raise ValueError(f"rows and columns of layer {number} leave their groups")


def permuted(
    matrices: Sequence[TiledMatrix], families: Sequence[Family], orders: Sequence[Array]
) -> list[TiledMatrix]:
    """Return the layers with their channels in another order, the power of rows with them.

    Shares stay, also where a column moves to a group whose inputs have another power.

    Args:
        matrices: The layers.
        families: What changes places.
        orders: One a family.

    Raises:
        ValueError: An order is not one of all channels of its family, or see `check`.
    """
    check(matrices, families)
    rows = [np.arange(matrix.power.size) for matrix in matrices]
    columns = [np.arange(matrix.values[:, 0].size) for matrix in matrices]
    moved = set()
    for family, order in zip(families, orders, strict=True):
        if not np.array_equal(np.sort(order), np.arange(family.channels)):
            raise ValueError("an order must name every channel once")
        for place in family.places:
            source = (rows if place.side == "rows" else columns)[place.matrix]
            source[place.lines] = source[place.lines[order]]
            moved.add(place.matrix)
    return [
        _moved(matrix, rows[i], columns[i]) if i in moved else matrix
        for i, matrix in enumerate(matrices)
    ]


def _moved(matrix: TiledMatrix, rows: Array, columns: Array) -> TiledMatrix:
    """Take rows and columns from elsewhere, flat numbers both."""
    groups, height, width = matrix.values.shape
    values = matrix.values.reshape(-1, width)[rows].reshape(groups, height, width)
    turned = values.transpose(0, 2, 1).reshape(-1, height)[columns]
    values = turned.reshape(groups, width, height).transpose(0, 2, 1)
    power = matrix.power.reshape(-1)[rows].reshape(groups, height)
    values = np.ascontiguousarray(values)
    return replace(matrix, values=values, power=power, given_share=matrix.share)


def predicted(matrix: TiledMatrix) -> Array:
    """Return what each tile adds to the squared error of the output, were inputs uncorrelated.

    ``Σ power · (w − ŵ)²`` over its cells, ``ŵ = round(w/s) · s``, ``s = max|w| / (2^(b−1) − 1)``:
    nothing reaches beyond the largest code, so there is nothing to clamp.

    Returns:
        float64, one a tile.
    """
    tile = (1, *matrix.steps)
    starts = [np.arange(0, n, step) for n, step in zip(matrix.values.shape, tile, strict=True)]
    peaks, values = np.abs(matrix.values), matrix.values
    for axis in (1, 2):
        peaks = np.maximum.reduceat(peaks, starts[axis], axis)
    scale = np.where(peaks > 0, np.maximum(peaks / np.float32(matrix.half), TINY), np.float32(1))
    wide = expand(scale, values.shape, tile)
    error: Array = (values - np.rint(values / wide) * wide).astype(np.float64)
    error *= error * matrix.power[:, :, None]
    for axis in (1, 2):
        error = np.add.reduceat(error, starts[axis], axis)
    assert error.shape == matrix.grid
    return error


def total(matrices: Sequence[TiledMatrix]) -> float:
    """Return the sum of noise-to-signal ratios of layers, as far as it is predicted."""
    return float(sum(matrix.share * predicted(matrix).sum() for matrix in matrices))


def sort_order(matrices: Sequence[TiledMatrix], families: Sequence[Family]) -> Orders:
    """Sort channels by the geometric mean of their ranges wherever they have lines, ascending.

    A range is the distance from the 0.1 % to the 99.9 % quantile. For one producer and one
    consumer the order is that by the product ``R^l · R^(l+1)``. Ties keep their order.

    Source:
        docs/crossbar.md, "Order of the channels".
    """
    return [_ascending(matrices, family, _spread) for family in families]


def starting_orders(matrices: Sequence[TiledMatrix], families: Sequence[Family]) -> list[Orders]:
    """Return orders worth a search from there: none, that of `sort_order`, by largest magnitude."""
    peaks = [_ascending(matrices, family, _peak) for family in families]
    none = [np.arange(family.channels) for family in families]
    return [none, sort_order(matrices, families), peaks]


def _ascending(
    matrices: Sequence[TiledMatrix], family: Family, key: Callable[[Array], Array]
) -> Array:
    """Sort the channels of a family by the geometric mean of a key of their weights."""
    logs = np.zeros(family.channels)
    for place in family.places:
        values = matrices[place.matrix].values.astype(np.float64)
        if place.side == "columns":
            values = values.transpose(0, 2, 1)
        owned = values.reshape(-1, values.shape[2])[place.lines]
        with np.errstate(divide="ignore"):
            logs += np.log(key(owned.reshape(family.channels, -1)))
    return np.argsort(logs, kind="stable")


def _spread(weights: Array) -> Array:
    """Return the distance between the outer quantiles of each row."""
    low, high = np.quantile(weights, QUANTILES, axis=1)
    spread: Array = high - low
    return spread


def _peak(weights: Array) -> Array:
    """Return the largest magnitude of each row."""
    peak: Array = np.abs(weights).max(axis=1, initial=0)
    return peak


def random_order(families: Sequence[Family], seed: int) -> Orders:
    """Shuffle every family."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(family.channels) for family in families]
