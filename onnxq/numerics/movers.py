"""Which channels may change places, from the rows in which they are tied to each other.

Every place along an axis that could be permuted is an *atom*, a number. A *tie* is a matrix of
atoms, n × m: its n rows may be exchanged, each row as a whole. Atoms that share a row move
together; all that hangs together so is a *mover*. Two movers may change places if the ties see no
difference between them: each tie holds as many rows of the one as of the other, and atoms that are
the same one in one mover are the same one in the other.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onnxq.types import Array

ALIKE = "no other channel is tied to others in the same way"
TWICE = "it is tied to itself in another place"

Row = tuple[int, tuple[int, ...]]  # the tie, and its atoms


@dataclass(frozen=True, kw_only=True)
class Movers:
    """What may change places.

    Attributes:
        families: Matrices of atoms, one row a mover, two rows or more: rows of the same matrix may
            be exchanged.
        stays: Every other atom, with the reason.
    """

    families: tuple[Array, ...]
    stays: Mapping[int, str]


def movers(count: int, ties: Sequence[Array], fixed: Iterable[tuple[Array, str]]) -> Movers:
    """Find what may change places.

    Args:
        count: Number of atoms; they are 0 … count − 1.
        ties: Matrices of atoms, ``(n, m)`` each.
        fixed: Atoms that stay, with the reason.
    """
    owner = _joined(count, ties)
    reasons: dict[int, str] = {}
    for atoms, reason in fixed:
        for mover in np.unique(owner[atoms.ravel()]).tolist():
            reasons.setdefault(mover, reason)
    rows: dict[int, list[Row]] = {}
    for number, tie in enumerate(ties):
        for mover, row in zip(owner[tie[:, 0]].tolist(), tie.tolist(), strict=True):
            rows.setdefault(mover, []).append((number, tuple(row)))
    alike: dict[tuple[Row, ...], list[list[int]]] = {}
    for mover, held in rows.items():
        if mover not in reasons:
            order = _ranked(held)
            if order is None:
                reasons[mover] = TWICE
                continue
            rank = {atom: number for number, atom in enumerate(order)}
            form = sorted((tie, tuple(rank[atom] for atom in row)) for tie, row in held)
            alike.setdefault(tuple(form), []).append(order)
    families = tuple(np.array(orders) for orders in alike.values() if len(orders) > 1)
    moving = {atom for family in families for atom in family.ravel().tolist()}
    stays = {a: reasons.get(int(owner[a]), ALIKE) for a in range(count) if a not in moving}
    return Movers(families=families, stays=stays)


def _ranked(rows: Sequence[Row]) -> list[int] | None:
    """Return the atoms of a mover in an order that is the same for all that are tied alike.

    Atoms are told apart by the ties and columns they are in, then by the atoms beside them, as
    long as that tells more. None where some remain that nothing tells apart: which of them takes
    whose place would be a guess.
    """
    if len({tie for tie, _ in rows}) == len(rows):
        return list(dict.fromkeys(atom for _, row in rows for atom in row))
    colour = dict.fromkeys((atom for _, row in rows for atom in row), 0)
    count = 0
    while True:
        seen: dict[int, list[tuple[int, int, tuple[int, ...]]]] = {atom: [] for atom in colour}
        for tie, row in rows:
            beside = tuple(colour[atom] for atom in row)
            for column, atom in enumerate(row):
                seen[atom].append((tie, column, beside))
        looks = {atom: tuple(sorted(each)) for atom, each in seen.items()}
        ranks = {look: rank for rank, look in enumerate(sorted(set(looks.values())))}
        colour = {atom: ranks[look] for atom, look in looks.items()}
        if len(ranks) == len(colour):
            return sorted(colour, key=colour.__getitem__)
        if len(ranks) == count:
            return None
        count = len(ranks)


def _joined(count: int, ties: Sequence[Array]) -> Array:
    """Return the smallest atom that hangs together with each atom."""
    parent = list(range(count))

    def root(atom: int) -> int:
        while parent[atom] != atom:
            parent[atom] = atom = parent[parent[atom]]
        return atom

    for tie in ties:
        for first, *others in tie.tolist():
            for other in others:
                one, two = root(first), root(other)
                parent[max(one, two)] = min(one, two)
    return np.array([root(atom) for atom in range(count)], np.int64)


def moved(found: Movers, orders: Sequence[Array], count: int) -> Array:
    """Return whose content each atom gets.

    Args:
        found: What may change places.
        orders: One permutation a family: mover i takes the place's content from ``order[i]``.
        count: Number of atoms.

    Raises:
        ValueError: An order is no permutation of its family.
    """
    source = np.arange(count)
    for family, order in zip(found.families, orders, strict=True):
        if not np.array_equal(np.sort(order), np.arange(len(family))):
            raise ValueError(f"the order of {len(family)} channels is no permutation of them")
        source[family] = family[order]
    return source
