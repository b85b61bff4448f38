"""What a Reshape makes of the atoms along the axes of a tensor."""

import math
from itertools import product

import numpy as np

from onnxq.graph.coupling.book import Book, Shape
from onnxq.types import Array

LARGEST = 1 << 22  # places; more are not numbered one by one


def regrouped(book: Book, atoms: Array, before: Shape, after: Shape) -> Array | None:
    """Return the atoms behind a Reshape, or None where the sizes do not tell.

    The axes with atoms, and as few around them as possible, are those that some axes behind the
    Reshape hold as many values as; all else stays left or right of them.

    Args:
        book: Gets new atoms where places were numbered by the channel and something else.
        atoms: In front of it.
        before: Shape in front of it, None for open axes.
        after: Shape behind it.
    """
    after = _filled(before, after)
    found = _block(atoms, before, after)
    if found is None:
        return None
    (first, last), (start, stop) = found
    inside = [size for size in before[first:last] if size is not None]
    made = [size for size in after[start:stop] if size is not None]
    if math.prod(inside) > LARGEST:
        return None
    places = np.broadcast_to(atoms.reshape(atoms.shape[first:last]), inside).reshape(made)
    for axis in range(places.ndim):
        one = places.take([0], axis=axis)
        if (places == one).all():
            places = one
    if len(np.unique(places)) < places.size:
        places = _numbered(book, places)
    ones = (1,) * start, (1,) * (len(after) - stop)
    return places.reshape(*ones[0], *places.shape, *ones[1])


def _filled(before: Shape, after: Shape) -> Shape:
    """Work out the size of a single open axis, open axes in front being those of before."""
    same = 0
    while same < min(len(before), len(after)) and before[same] == after[same]:
        same += 1
    known = [size for size in after[same:] if size is not None]
    rest = [size for size in before[same:] if size is not None]
    total, part = math.prod(rest), math.prod(known)
    if len(known) + 1 < len(after) - same or len(rest) < len(before) - same or total % part:
        return after
    return tuple(total // part if n is None and i >= same else n for i, n in enumerate(after))


def _numbered(book: Book, places: Array) -> Array:
    """Return new atoms for places that belong to the same atoms, tied to these."""
    order = np.argsort(places, axis=None, kind="stable")
    owners, counts = np.unique(places, return_counts=True)
    new = book.new(places.shape)
    for count in np.unique(counts):
        held = np.isin(places.ravel()[order], owners[counts == count])
        book.tie(owners[counts == count], new.ravel()[order[held]].reshape(-1, count))
    return new


def _block(
    atoms: Array, before: Shape, after: Shape
) -> tuple[tuple[int, int], tuple[int, int]] | None:
    """Return the axes with atoms, and those that take their place."""
    axes = [i for i, size in enumerate(atoms.shape) if size > 1]
    lasts, firsts = range(axes[-1] + 1, len(before) + 1), range(axes[0], -1, -1)
    ends = product(lasts, firsts, range(len(after) + 1), range(len(after) + 1))
    for last, first, start, stop in sorted(ends, key=lambda e: (e[0] - e[1], abs(e[3] - e[2]))):
        if start > stop or not _equal(before[first:last], after[start:stop]):
            continue
        left = before[:first], after[:start]
        right = before[last:], after[stop:]
        if (_same(*left) and not _differ(*right)) or (_same(*right) and not _differ(*left)):
            return (first, last), (start, stop)
    return None


def _equal(before: Shape, after: Shape) -> bool:
    """Say whether some axes surely hold as many values as others."""
    if None in before or None in after:
        return False
    return math.prod(n or 0 for n in before) == math.prod(n or 0 for n in after)


def _same(before: Shape, after: Shape) -> bool:
    """Say whether some axes hold as many values as others; open ones at the same place do."""
    return before == after or _equal(before, after)


def _differ(before: Shape, after: Shape) -> bool:
    """Say whether some axes surely hold more or fewer values than others."""
    return None not in before and None not in after and not _equal(before, after)
