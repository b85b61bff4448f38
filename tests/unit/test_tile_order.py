"""Orders of channels by hand."""

import numpy as np
import pytest

from onnxq.numerics.tile_order import (
    Family,
    Lines,
    TiledMatrix,
    permuted,
    predicted,
    random_order,
    sort_order,
    starting_orders,
    total,
)
from onnxq.numerics.tile_search import Effort, cluster_order
from onnxq.types import Array


def matrix(values: Array, size: tuple[int, int], bits: int = 4) -> TiledMatrix:
    stack = np.array(values, np.float32, ndmin=3)
    return TiledMatrix(values=stack, power=np.ones(stack.shape[:2]), size=size, bits=bits)


def columns(number: int, count: int) -> Lines:
    return Lines(matrix=number, side="columns", lines=np.arange(count)[:, None])


def rows(number: int, count: int, k: int = 1) -> Lines:
    return Lines(matrix=number, side="rows", lines=np.arange(count * k).reshape(count, k))


def test_columns_and_the_rows_that_read_them_move_together() -> None:
    first, second = matrix([[1, 2, 3]], (0, 0)), matrix(np.arange(12).reshape(6, 2), (0, 0))
    family = Family(places=(columns(0, 3), rows(1, 3, k=2)))
    made = permuted([first, second], [family], [np.array([2, 0, 1])])
    assert made[0].values.tolist() == [[[3, 1, 2]]]
    assert made[1].values[0, :, 0].tolist() == [8, 10, 0, 2, 4, 6]


def test_rows_take_their_power_along() -> None:
    one = TiledMatrix(
        values=np.ones((1, 2, 1), np.float32), power=np.array([[3.0, 5.0]]), size=(0, 0), bits=4
    )
    (made,) = permuted([one], [Family(places=(rows(0, 2),))], [np.array([1, 0])])
    assert made.power.tolist() == [[5, 3]]


@pytest.mark.parametrize("order", [[0, 0], [0], [1, 2]])
def test_an_order_names_every_channel_once(order: list[int]) -> None:
    with pytest.raises(ValueError, match="every channel once"):
        permuted([matrix([[1, 2]], (0, 0))], [Family(places=(columns(0, 2),))], [np.array(order)])


def test_rows_and_columns_that_both_leave_their_groups() -> None:
    families = [Family(places=(rows(0, 4),)), Family(places=(columns(0, 4),))]
    orders = [np.arange(4), np.arange(4)]
    with pytest.raises(ValueError, match="rows and columns of layer 0"):
        permuted([matrix(np.ones((2, 2, 2)), (0, 0))], families, orders)


def test_power_that_does_not_fit() -> None:
    with pytest.raises(ValueError, match="power"):
        TiledMatrix(values=np.ones((1, 2, 3), np.float32), power=np.ones(2), size=(0, 0), bits=4)


def test_predicted_by_hand() -> None:
    one = matrix([[7, 0.25, 14], [1.5, 3, 5]], (0, 2))  # steps 1 and 2; 1.5 goes to 2, 5 to 4
    assert predicted(one).tolist() == [[[0.25**2 + 0.5**2, 1.0]]]
    energy = 49 + 0.0625 + 196 + 2.25 + 9 + 25
    assert total([one]) == pytest.approx(1.3125 / energy)


@pytest.mark.parametrize(("given", "expected"), [(None, 0.0), (2.0, 2.0)])
def test_a_layer_of_zeros_counts_nothing(given: float | None, expected: float) -> None:
    zeros = np.zeros((1, 2, 2), np.float32)
    one = TiledMatrix(values=zeros, power=np.ones((1, 2)), size=(1, 1), bits=4, given_share=given)
    assert one.share == expected
    assert total([one]) == 0


def test_sorting_is_by_the_product_of_the_ranges_and_stable() -> None:
    first = matrix([[0, 0, 0, 0], [4, 1, 4, 1]], (1, 1))  # ranges 4, 1, 4, 1, nearly
    second = matrix([[0, 1], [0, 2], [0, 2], [0, 2]], (1, 1))  # 1, 2, 2, 2: products 4, 2, 8, 2
    (order,) = sort_order([first, second], [Family(places=(columns(0, 4), rows(1, 4)))])
    assert order.tolist() == [1, 3, 0, 2]


def test_channels_without_a_range_come_first() -> None:
    one = matrix([[0, 1, 0, 2], [3, 1, 0, 1]], (1, 1))
    (order,) = sort_order([one], [Family(places=(columns(0, 4),))])
    assert order.tolist() == [1, 2, 3, 0]


def test_a_random_order_repeats() -> None:
    families = [Family(places=(columns(0, 50),))]
    same, other = random_order(families, 3), random_order(families, 4)
    np.testing.assert_array_equal(same, random_order(families, 3))
    assert (same[0] != other[0]).any()


def wide_and_narrow() -> tuple[list[TiledMatrix], list[Family]]:
    """Columns of two widths in turn, tiles of four."""
    rng = np.random.default_rng(0)
    values = rng.uniform(-1, 1, (8, 16)) * np.where(np.arange(16) % 2, 4, 1)
    return [matrix(values, (0, 4))], [Family(places=(columns(0, 16),))]


def test_wide_and_narrow_channels_part() -> None:
    matrices, families = wide_and_narrow()
    told: list[tuple[int, float]] = []
    none = [np.arange(16)]
    (order,) = cluster_order(matrices, families, [none], report=lambda *what: told.append(what))
    parities = (order % 2).reshape(4, 4)
    assert (parities == parities[:, :1]).all()
    assert told[-1][1] == pytest.approx(total(permuted(matrices, families, [order])))
    assert [number for number, _ in told] == list(range(len(told)))


def test_no_rounds_is_the_best_start() -> None:
    matrices, families = wide_and_narrow()
    starts = starting_orders(matrices, families)
    found = cluster_order(matrices, families, starts, effort=Effort(rounds=0))
    totals = [total(permuted(matrices, families, start)) for start in starts]
    assert total(permuted(matrices, families, found)) == min(totals) < totals[0]


def test_pairs_are_drawn_where_there_are_too_many() -> None:
    matrices, families = wide_and_narrow()
    found = cluster_order(matrices, families, [[np.arange(16)]], effort=Effort(tries=20))
    assert total(permuted(matrices, families, found)) < total(matrices)
