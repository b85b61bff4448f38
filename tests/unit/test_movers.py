"""What may change places, for ties made by hand."""

import numpy as np
import pytest

from onnxq.numerics.movers import ALIKE, TWICE, Movers, moved, movers
from onnxq.types import Array


def found(
    count: int, *ties: list[list[int]], fixed: tuple[list[int], ...] = ()
) -> tuple[list[list[list[int]]], dict[int, str]]:
    """Return families and what stays, as lists."""
    reasons = [(np.array(atoms), f"reason {index}") for index, atoms in enumerate(fixed)]
    result = movers(count, [np.array(tie) for tie in ties], reasons)
    return [family.tolist() for family in result.families], dict(result.stays)


def test_rows_of_a_tie_are_a_family() -> None:
    assert found(3, [[0], [1], [2]]) == ([[[0], [1], [2]]], {})


def test_atoms_of_a_row_move_together() -> None:
    families, stays = found(6, [[0, 3], [1, 4], [2, 5]])
    assert families == [[[0, 3], [1, 4], [2, 5]]]
    assert stays == {}


def test_ties_that_share_atoms_make_larger_movers() -> None:
    families, _ = found(6, [[0, 2], [1, 3]], [[2, 4], [3, 5]])
    assert families == [[[0, 2, 4], [1, 3, 5]]]


def test_rows_in_another_order_still_fit() -> None:
    families, _ = found(6, [[0, 2], [1, 3]], [[3, 5], [2, 4]])
    assert sorted(families[0]) == [[0, 2, 4], [1, 3, 5]]


def test_what_is_in_no_common_tie_stays_apart() -> None:
    families, stays = found(4, [[0], [1]], [[2], [3]])
    assert families == [[[0], [1]], [[2], [3]]]
    assert stays == {}


def test_a_part_of_a_tie_is_a_family_of_its_own() -> None:
    families, stays = found(5, [[0], [1], [2], [3], [4]], [[0], [1]])
    assert families == [[[0], [1]], [[2], [3], [4]]]
    assert stays == {}


def test_what_is_fixed_stays_with_all_that_is_tied_to_it() -> None:
    families, stays = found(6, [[0, 3], [1, 4], [2, 5]], fixed=([4],))
    assert families == [[[0, 3], [2, 5]]]
    assert stays == {1: "reason 0", 4: "reason 0"}


def test_the_first_reason_counts() -> None:
    _, stays = found(2, [[0], [1]], fixed=([0], [0, 1]))
    assert stays == {0: "reason 0", 1: "reason 1"}


def test_what_is_like_nothing_else_stays() -> None:
    assert found(3, [[0], [1]], [[2]]) == ([[[0], [1]]], {2: ALIKE})
    assert found(3, [[0], [1], [2]], [[2]]) == ([[[0], [1]]], {2: ALIKE})


def test_unlike_numbers_of_rows_are_unlike() -> None:
    families, stays = found(3, [[0, 2], [1, 2]])
    assert families == []
    assert set(stays) == {0, 1, 2}


def test_a_column_is_not_another() -> None:
    families, stays = found(4, [[0, 1]], [[3, 2]], [[0], [1], [2], [3]])
    assert families == []
    assert set(stays.values()) == {ALIKE}


def test_a_mover_that_lies_in_a_tie_twice_is_ordered_by_what_tells_its_atoms_apart() -> None:
    halves = [[0, 4], [1, 5], [2, 6], [3, 7]]  # 0 and 1 move together, as 2 and 3 do
    families, stays = found(8, halves, [[0, 1], [2, 3]])
    assert stays == {}
    assert len(families) == 1
    assert {tuple(sorted(row)) for row in families[0]} == {(0, 1, 4, 5), (2, 3, 6, 7)}
    order = [family.index(0) for family in families[0] if 0 in family]
    assert families[0][1 - families[0].index(next(r for r in families[0] if 0 in r))][order[0]] == 2


def test_atoms_that_nothing_tells_apart_stay() -> None:
    ring = [[0, 1], [1, 0], [2, 3], [3, 2]]
    assert found(4, ring) == ([], dict.fromkeys(range(4), TWICE))


def test_a_row_may_hold_an_atom_twice() -> None:
    families, _ = found(4, [[0, 0], [1, 1]], [[0, 2], [1, 3]])
    assert families == [[[0, 2], [1, 3]]]


def test_nothing_at_all() -> None:
    assert found(0) == ([], {})


FAMILY = np.array([[0, 3], [1, 4], [2, 5]])


def moved_by(order: list[int]) -> Array:
    return moved(Movers(families=(FAMILY,), stays={6: "it stays"}), [np.array(order)], 7)


def test_a_place_gets_the_content_of_the_mover_it_is_given() -> None:
    assert moved_by([2, 0, 1]).tolist() == [2, 0, 1, 5, 3, 4, 6]
    assert moved_by([0, 1, 2]).tolist() == list(range(7))


@pytest.mark.parametrize("order", [[0, 1, 1], [0, 1], [1, 2, 3], [0, 1, 2, 3]])
def test_an_order_that_is_no_permutation_is_refused(order: list[int]) -> None:
    with pytest.raises(ValueError, match="no permutation"):
        moved_by(order)


def test_every_family_needs_an_order() -> None:
    with pytest.raises(ValueError, match="shorter"):
        moved(Movers(families=(FAMILY,), stays={}), [], 7)
