"""What may change places, against all permutations there are."""

from itertools import permutations, product

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxq.numerics.movers import moved, movers
from onnxq.types import Array

MOST = 6  # atoms: 720 permutations


@st.composite
def ties(draw: st.DrawFn) -> tuple[int, list[Array]]:
    """Atoms, and ties whose rows differ from each other; every atom is in one."""
    count = draw(st.integers(2, MOST))
    atom = st.integers(0, count - 1)
    found = [np.arange(count).reshape(-1, 1)] if draw(st.booleans()) else []
    for _ in range(draw(st.integers(0, 3))):
        row = st.tuples(*[atom] * draw(st.integers(1, 3)))
        rows = draw(st.lists(row, min_size=1, max_size=4, unique=True))
        found.append(np.array(rows))
    held = np.concatenate([each.ravel() for each in found]) if found else np.array([], int)
    rest = np.setdiff1d(np.arange(count), held)
    return count, [*found, rest.reshape(-1, 1)] if rest.size else found


def keeps(source: Array, tie: Array) -> bool:
    """Say whether a permutation of atoms puts the rows of a tie onto each other."""
    return sorted(map(tuple, source[tie].tolist())) == sorted(map(tuple, tie.tolist()))


@settings(max_examples=200)
@given(ties(), st.data())
def test_orders_of_families_map_ties_onto_themselves(
    drawn: tuple[int, list[Array]], data: st.DataObject
) -> None:
    count, matrices = drawn
    fixed = np.array(data.draw(st.lists(st.integers(0, count - 1), max_size=2)), int)
    found = movers(count, matrices, [(fixed, "it stays")])
    moving = {int(atom) for family in found.families for atom in family.ravel()}
    assert moving | set(found.stays) == set(range(count))
    assert not moving & set(found.stays)
    for orders in product(*(permutations(range(len(family))) for family in found.families)):
        source = moved(found, [np.array(order) for order in orders], count)
        assert sorted(source) == list(range(count))
        assert all(keeps(source, tie) for tie in matrices)
        assert all(source[atom] == atom for atom in found.stays)


@settings(max_examples=100)
@given(ties())
def test_all_that_may_change_places_alone_does(drawn: tuple[int, list[Array]]) -> None:
    """Movers of one atom are all exchanged that any permutation of only two atoms exchanges."""
    count, matrices = drawn
    found = movers(count, matrices, [])
    family_of = {int(a): index for index, f in enumerate(found.families) for a in f.ravel()}
    tied = {int(a) for tie in matrices for row in tie for a in row if len(set(row.tolist())) > 1}
    for one, other in permutations(set(range(count)) - tied, 2):
        source = np.arange(count)
        source[[one, other]] = other, one
        may = all(keeps(source, tie) for tie in matrices)
        assert may == (family_of.get(one, -1) == family_of.get(other, -2))
