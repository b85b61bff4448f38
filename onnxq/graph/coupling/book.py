"""Which channels of a model may be moved, and the constants that must be moved with them.

Exchange two output channels of a Conv and the input channels of all that read them, and the model
computes what it did. `onnxq.graph.coupling.rules` knows, operator by operator, which places along
the axes of its inputs, outputs and constants move together; here is the book they write into.

    Conv   ──── (1, C, 1, 1) ──── Relu ──── (1, C, 1, 1) ──── Conv
    W₁ (C, ·, ·, ·)                                           W₂ (·, C, ·, ·)

The places of a tensor are an array of *atoms* (`onnxq.numerics.movers`) that broadcasts against it:
as long as the tensor along the axes that may be permuted, 1 along the others. Several axes may be
permuted as one, e.g. those a Reshape has made of the channels.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

import numpy as np

from onnxq.graph.query import TensorType
from onnxq.numerics.movers import Movers, moved, movers
from onnxq.types import Array

Shape = tuple[int | None, ...]
Sizes = tuple[int | str | None, ...]  # open axes by name, as far as they have one


@dataclass(frozen=True, kw_only=True)
class Axes:
    """Axes of a constant that are permuted as one.

    Attributes:
        view: Shape of the constant, axes that count groups and something else cut in two.
        atoms: Broadcasts against the view.
    """

    view: tuple[int, ...]
    atoms: Array


@dataclass(frozen=True, kw_only=True)
class Channels:
    """Which channels of a model may be moved.

    Attributes:
        count: Number of atoms.
        movers: Those that may change places.
        constants: The axes of constants that have atoms, by name.
    """

    count: int
    movers: Movers
    constants: dict[str, tuple[Axes, ...]]

    def reordered(self, orders: Sequence[Array]) -> dict[str, tuple[Array, ...]]:
        """Return where constants take their values from.

        Args:
            orders: One permutation a family of movers.

        Returns:
            Name of each constant that changes, to index arrays into its view, one an axis.
        """
        source = moved(self.movers, orders, self.count)
        found = {}
        for name, axes in self.constants.items():
            if any((source[each.atoms] != each.atoms).any() for each in axes):
                found[name] = _indices(axes, source)
        return found


def _indices(axes: Sequence[Axes], source: Array) -> tuple[Array, ...]:
    """Return whose content each place of a view gets, as index arrays that broadcast."""
    view = axes[0].view
    indices = list(np.ogrid[tuple(slice(size) for size in view)])
    for each in axes:
        shape = each.atoms.shape
        place = np.full(int(source.size), -1)
        place[each.atoms.ravel()] = np.arange(each.atoms.size)
        taken = np.unravel_index(place[source[each.atoms]], shape)
        for axis, size in enumerate(shape):
            if size > 1:
                indices[axis] = taken[axis]
    return tuple(indices)


def permuted(values: Array, view: tuple[int, ...], indices: tuple[Array, ...]) -> Array:
    """Return a constant with its values taken from elsewhere, in its own shape."""
    return np.ascontiguousarray(values.reshape(view)[indices]).reshape(values.shape)


@dataclass
class Book:
    """What the operators of a model say about its channels, as they are gone through.

    Attributes:
        types: What is known of the shapes of tensors.
        read: Names of the tensors that someone reads, be it the user.
        opset: Version of the standard operator set.
        atoms: Atoms of activations by tensor name; a tensor without any stays as it is.
        why: The reason why a tensor has none, by name.
        alike: Names of tensors that hold one and the same value everywhere.
    """

    types: dict[str, TensorType]
    read: frozenset[str]
    opset: int
    atoms: dict[str, Array] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    alike: set[str] = field(default_factory=set)
    _count: int = 0
    _ties: list[Array] = field(default_factory=list)
    _fixed: list[tuple[Array, str]] = field(default_factory=list)
    _uses: dict[str, list[Axes]] = field(default_factory=dict)
    _times: dict[str, list[int]] = field(default_factory=dict)
    _held: dict[str, str] = field(default_factory=dict)

    def shape(self, name: str) -> Shape | None:
        """Return what is known of a tensor's shape; some exporters write −1 or 0 for open axes."""
        shape = self.types[name].shape if name in self.types else None
        return None if shape is None else tuple(n if n and n > 0 else None for n in shape)

    def sizes(self, name: str) -> Sizes | None:
        """Return what is known of a tensor's shape, and the names of open axes."""
        shape = self.shape(name)
        if shape is None:
            return None
        names = self.types[name].names or ("",) * len(shape)
        return tuple(called or None if n is None else n
                     for n, called in zip(shape, names, strict=True))  # fmt: skip

    def new(self, shape: Sequence[int]) -> Array:
        """Return atoms that may be exchanged with each other."""
        size = int(np.prod(shape, dtype=np.int64))
        atoms = np.arange(self._count, self._count + size)
        self._count += size
        self._ties.append(atoms.reshape(-1, 1))
        return atoms.reshape(shape)

    def tie(self, *columns: Array) -> None:
        """Let atoms move together, row by row: arrays of ``n`` atoms, or of ``(n, …)``."""
        count = len(columns[0])
        self._ties.append(np.concatenate([each.reshape(count, -1) for each in columns], axis=1))

    def same(self, one: Array, other: Array) -> None:
        """Let the places of two arrays of the same size move together."""
        if one is not other:
            self.tie(one.ravel(), other.ravel())

    def fix(self, atoms: Array | None, reason: str) -> None:
        """Let atoms stay where they are."""
        if atoms is not None and atoms.size:
            self._fixed.append((atoms, reason))

    def within(self, atoms: Array, axes: Collection[int]) -> None:
        """Let atoms that lie along several axes change their places along some of them only."""
        inside = [i for i, size in enumerate(atoms.shape) if size > 1 and i in axes]
        outside = [i for i, size in enumerate(atoms.shape) if size > 1 and i not in axes]
        if inside and outside:
            count = math.prod(atoms.shape[i] for i in outside)
            for part in np.moveaxis(atoms, outside, range(len(outside))).reshape(count, -1):
                self.tie(part)

    def alone(self, atoms: Array, axis: int) -> Array:
        """Return atoms along one axis of several that were permuted as one."""
        if atoms.shape[axis] == atoms.size:
            return atoms
        shape = [1] * atoms.ndim
        shape[axis] = atoms.shape[axis]
        single = self.new(shape)
        self.tie(single.ravel(), np.moveaxis(atoms, axis, 0).reshape(atoms.shape[axis], -1))
        return single

    def use(self, name: str, view: Sequence[int], shape: Sequence[int]) -> Array:
        """Return the atoms of some axes of a constant.

        Args:
            name: The constant.
            view: Its shape, or that shape with some axes cut in two.
            shape: The view with 1 for the axes that are not meant.

        Returns:
            Atoms of that shape; they stay if another reader cuts the axes in another way.
        """
        uses, times = self._uses.setdefault(name, []), self._times.setdefault(name, [])
        for index, known in enumerate(uses):
            if known.view == tuple(view) and known.atoms.shape == tuple(shape):
                times[index] += 1
                return known.atoms
        atoms = self.new(shape)
        uses.append(Axes(view=tuple(view), atoms=atoms))
        times.append(1)
        return atoms

    def hold(self, name: str, reason: str) -> None:
        """Let a constant stay as it is."""
        self._held.setdefault(name, reason)

    def close(self, readers: dict[str, int]) -> Channels:
        """Return what was found.

        Args:
            readers: How often each constant is read.
        """
        for name, uses in self._uses.items():
            for axes, times in zip(uses, self._times[name], strict=True):
                if name in self._held:
                    self.fix(axes.atoms, self._held[name])
                elif times < readers[name] or any(axes.view != other.view for other in uses):
                    self.fix(axes.atoms, f"{name!r} is read in other ways too")
        found = movers(self._count, self._ties, self._fixed)
        constants = {name: tuple(uses) for name, uses in self._uses.items()}
        return Channels(count=self._count, movers=found, constants=constants)
