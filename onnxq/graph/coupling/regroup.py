"""What a Reshape makes of the atoms along the axes of a tensor."""

import math
from itertools import product

import numpy as np

from onnxq.graph.coupling.book import Book, Sizes
from onnxq.types import Array

LARGEST = 1 << 22  # places; more are not numbered one by one


def regrouped(book: Book, atoms: Array, before: Sizes, after: Sizes) -> Array | None:
    """Return the atoms behind a Reshape, or None where the sizes do not tell.

    The axes with atoms, and as few around them as possible, are those that some axes behind the
    Reshape hold as many values as; all else stays left or right of them.

    Args:
        book: Gets new atoms where places were numbered by the channel and something else.
        atoms: In front of it.
        before: Sizes in front of it.
        after: Sizes behind it.
    """
    after = _filled(before, after)
    found = _block(atoms, before, after)
    if found is None:
        return None
    (first, last), (start, stop) = found
    inside, made = _known(before[first:last]), _known(after[start:stop])
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


def _known(sizes: Sizes) -> list[int]:
    """Return the sizes that are numbers."""
    return [size for size in sizes if isinstance(size, int)]


def _filled(before: Sizes, after: Sizes) -> Sizes:
    """Work out the size of a single open axis behind axes that are the same."""
    same = 0
    while same < min(len(before), len(after)) and before[same] == after[same] is not None:
        same += 1
    known, rest = _known(after[same:]), _known(before[same:])
    total, part = math.prod(rest), math.prod(known)
    if len(known) + 1 < len(after) - same or len(rest) < len(before) - same or total % part:
        return after
    filled = [size if isinstance(size, int) else total // part for size in after[same:]]
    return (*after[:same], *filled)


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
    atoms: Array, before: Sizes, after: Sizes
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


def _equal(before: Sizes, after: Sizes) -> bool:
    """Say whether some axes of known sizes hold as many values as others."""
    return _numbers(before, after) and math.prod(_known(before)) == math.prod(_known(after))


def _same(before: Sizes, after: Sizes) -> bool:
    """Say whether some axes surely hold as many values as others; open ones have names."""
    names = [sorted(n for n in sizes if isinstance(n, str)) for sizes in (before, after)]
    known = [_known(sizes) for sizes in (before, after)]
    sure = None not in before and None not in after
    return sure and names[0] == names[1] and math.prod(known[0]) == math.prod(known[1])


def _differ(before: Sizes, after: Sizes) -> bool:
    """Say whether some axes surely hold more or fewer values than others."""
    return _numbers(before, after) and not _equal(before, after)


def _numbers(before: Sizes, after: Sizes) -> bool:
    """Say whether all sizes are known."""
    return all(isinstance(size, int) for size in (*before, *after))
