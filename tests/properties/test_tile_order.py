"""Orders of channels on tiles: what moves, what is predicted, what a search may never do."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxq.numerics.tile_cells import cells_of, fill, improve, lines_of
from onnxq.numerics.tile_order import (
    Family,
    Lines,
    Orders,
    TiledMatrix,
    permuted,
    predicted,
    random_order,
    starting_orders,
    total,
)
from onnxq.numerics.tile_search import Effort, cluster_order, combined
from onnxq.types import Array

FEW = Effort(rounds=2, tries=50)


@dataclass(frozen=True)
class Network:
    matrices: list[TiledMatrix]
    families: list[Family]
    seed: int

    @property
    def none(self) -> Orders:
        return [np.arange(family.channels) for family in self.families]


def lines(matrix: TiledMatrix, number: int, side: Literal["rows", "columns"], k: int) -> Lines:
    """All whole channels of k neighbouring lines, in all groups."""
    count = matrix.power.size if side == "rows" else matrix.values[:, 0].size
    return Lines(matrix=number, side=side, lines=np.arange(count // k * k).reshape(-1, k))


@st.composite
def networks(draw: st.DrawFn) -> Network:
    """A chain of layers; one family may have lines on both sides of one of them."""
    size, bits = draw(st.tuples(st.integers(0, 5), st.integers(0, 5))), draw(st.integers(2, 8))
    groups, channels, k = draw(st.integers(1, 2)), draw(st.integers(1, 5)), draw(st.integers(1, 2))
    rng = np.random.default_rng(draw(st.integers(0, 1000)))
    shapes = [(groups, draw(st.integers(1, 6)), channels), (groups, channels * k, channels)]
    made = []
    for shape in shapes:
        values = rng.standard_t(2, size=shape) * draw(st.sampled_from([0.0, 1e-44, 1.0, 1e20]))
        values[rng.random(shape) < draw(st.sampled_from([0.0, 0.5]))] = 0
        power = rng.random(shape[:2])
        one = TiledMatrix(values=values.astype(np.float32), power=power, size=size, bits=bits)
        made.append(one)
    places = (lines(made[0], 0, "columns", 1), lines(made[1], 1, "rows", k))
    last = lines(made[1], 1, "columns", 1)
    families = [[Family(places=places)], [Family(places=(lines(made[0], 0, "rows", 1),))]]
    if groups == 1:  # rows and columns of several groups do not commute
        families.append([Family(places=(*places, last))])
        families.append([Family(places=places), Family(places=(last,))])
    return Network(made, draw(st.sampled_from(families)), draw(st.integers(0, 1000)))


def loss(matrix: TiledMatrix) -> Array:
    """A loop over tiles."""
    (rows, columns), found = matrix.steps, np.zeros(matrix.grid)
    for group, down, across in np.ndindex(*matrix.grid):
        top, left = down * rows, across * columns
        part = matrix.values[group, top : top + rows, left : left + columns]
        power = matrix.power[group, top : top + rows, None]
        half = 2 ** (matrix.bits - 1) - 1
        scale = max(np.abs(part).max() / np.float32(half), np.float32(2.0**-126))
        codes = np.clip(np.rint(part / scale), -half - 1, half)
        found[group, down, across] = ((part - codes * scale).astype(np.float64) ** 2 * power).sum()
    return found


@given(networks())
def test_orders_are_permutations(network: Network) -> None:
    matrices, families = network.matrices, network.families
    for orders in (
        random_order(families, network.seed),
        *starting_orders(matrices, families),
        cluster_order(matrices, families, [network.none], network.seed, FEW),
    ):
        for family, order in zip(families, orders, strict=True):
            assert sorted(order) == list(range(family.channels))


@given(networks())
def test_the_weights_of_a_layer_stay_its_weights(network: Network) -> None:
    moved = permuted(network.matrices, network.families, random_order(network.families, 7))
    for before, after in zip(network.matrices, moved, strict=True):
        np.testing.assert_array_equal(np.sort(before.values, None), np.sort(after.values, None))
        np.testing.assert_array_equal(np.sort(before.power, None), np.sort(after.power, None))
        assert before.share == after.share


@given(networks())
def test_an_order_and_its_inverse_change_nothing(network: Network) -> None:
    orders = random_order(network.families, network.seed)
    there = permuted(network.matrices, network.families, orders)
    back = permuted(there, network.families, [np.argsort(order) for order in orders])
    same = permuted(network.matrices, network.families, network.none)
    for before, after, kept in zip(network.matrices, back, same, strict=True):
        np.testing.assert_array_equal(before.values, after.values)
        np.testing.assert_array_equal(before.values, kept.values)
        np.testing.assert_array_equal(before.power, after.power)


@given(networks())
def test_what_is_predicted_is_what_a_loop_finds(network: Network) -> None:
    for matrix in network.matrices:
        np.testing.assert_allclose(predicted(matrix), loss(matrix), rtol=1e-9)


@given(networks())
def test_what_is_kept_while_swapping_is_what_is_there(network: Network) -> None:
    matrices, families = network.matrices, network.families
    cells, orders = cells_of(matrices), network.none
    fill(cells)
    before = cells.errors.sum()
    np.testing.assert_allclose(before, total(matrices), rtol=1e-9)
    rng = np.random.default_rng(network.seed)
    for family, order in zip(families, orders, strict=True):
        pairs = rng.integers(family.channels, size=(40, 2))
        improve(cells, lines_of(matrices, family), order, pairs)
    made = permuted(matrices, families, orders)
    np.testing.assert_array_equal(
        cells.values, np.concatenate([matrix.values.reshape(-1) for matrix in made])
    )
    np.testing.assert_allclose(cells.errors.sum(), total(made), rtol=1e-9)
    assert cells.errors.sum() <= before
    peaks = cells.peaks.copy()
    fill(cells)
    np.testing.assert_array_equal(cells.peaks, peaks)


@given(networks())
def test_a_search_ends_no_higher_than_it_begins_and_repeats(network: Network) -> None:
    matrices, families = network.matrices, network.families
    starts = [random_order(families, network.seed), *starting_orders(matrices, families)]
    found, again = (cluster_order(matrices, families, starts, network.seed, FEW) for _ in range(2))
    for one, other in zip(found, again, strict=True):
        np.testing.assert_array_equal(one, other)
    best = total(permuted(matrices, families, found))
    joined = total(permuted(matrices, families, combined(matrices, families, starts)))
    assert best <= joined * (1 + 1e-9)
    assert joined <= min(total(permuted(matrices, families, start)) for start in starts) * (
        1 + 1e-9
    )


@given(networks())
def test_what_one_tile_holds_stays_where_it_is(network: Network) -> None:
    matrices = [
        TiledMatrix(values=m.values[:1], power=m.power[:1], size=(99, 99), bits=m.bits)
        for m in network.matrices
    ]
    families = [Family(places=(lines(matrices[0], 0, "columns", 1),))]
    none = np.arange(families[0].channels)
    (order,) = cluster_order(matrices, families, [[none]], network.seed, FEW)
    np.testing.assert_array_equal(order, none)
