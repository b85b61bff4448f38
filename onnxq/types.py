"""The four values a tensor passes through: asked, seen, chosen, used.

    QuantSpec  ─┐
    TensorStats ─┴─ range algorithm ─► Range ─► QuantParams

All are frozen. Arrays inside are made read-only, and every invariant a docstring states is
checked on construction. A *tile* says how far one scale reaches: ``tile[i]`` elements along
axis i, 0 for the whole axis; the empty tile is one scale for the whole tensor. So
``scale.shape[i] == ceil(shape[i] / tile[i])`` serves per tensor, per channel and crossbar
tiles alike. The tile of a weight on crossbars cuts its matrices, see `MatrixView`, not the
tensor itself.
"""

import math
import re
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol, Self

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]
Tile = tuple[int, ...]

ANY_POSITION = (-126, 126)  # of a power of two that is a normal float32, as is its inverse


def _readonly(array: npt.ArrayLike, dtype: npt.DTypeLike) -> Array:
    """Copy into a read-only array of one dtype."""
    copy = np.array(array, dtype=dtype)
    copy.flags.writeable = False
    return copy


@dataclass(frozen=True)
class IntType:
    """An integer type of 2 to 32 bits.

    Attributes:
        bits: Width, sign bit included.
        signed: Two's complement or unsigned.
    """

    bits: int
    signed: bool

    def __post_init__(self) -> None:
        """Refuse widths no emitter can hold.

        Raises:
            ValueError: ``bits`` is not within 2 … 32.
        """
        if not 2 <= self.bits <= 32:
            raise ValueError(f"an integer type has 2 to 32 bits, not {self.bits}")

    @classmethod
    def parse(cls, name: str) -> Self:
        """Read ``int8``, ``uint4``, ….

        Raises:
            ValueError: The name is not of that form.
        """
        match = re.fullmatch(r"(u?)int(\d+)", name)
        if not match:
            raise ValueError(f"{name!r} is no integer type; write int8, uint8, int4, int16, …")
        return cls(int(match[2]), not match[1])

    @property
    def name(self) -> str:
        """The standard spelling, e.g. ``uint8``."""
        return f"{'' if self.signed else 'u'}int{self.bits}"

    @property
    def qmin(self) -> int:
        """Smallest code."""
        return -(1 << (self.bits - 1)) if self.signed else 0

    @property
    def qmax(self) -> int:
        """Largest code."""
        return (1 << (self.bits - 1)) - 1 if self.signed else (1 << self.bits) - 1


@dataclass(frozen=True, kw_only=True)
class MatrixView:
    """How the weights of a layer become matrices of n inputs × m outputs, one a group.

    ``onnxq.numerics.matrices`` turns one into the other. The axes give rows and columns their
    *natural* numbers; the orders say where each is stored. Tiles cut what is stored.

    Attributes:
        split: Shape of the weight, axes that count groups and something else cut in two.
        names: What each axis of ``split`` counts.
        groups: Axes of ``split`` that count the matrices.
        rows: Those that count inputs, slowest first.
        columns: Those that count outputs.
        row_order: Stored row i is natural row ``row_order[i]``, in all groups alike; a permutation
            of the n rows. Empty for the natural order, which is made empty.
        column_order: Stored column k is natural column ``column_order[k]``, both counted through
            all groups: column j of group g is ``g·m + j``. A permutation of the G·m columns that
            keeps each in its group. Empty for the natural order, which is made empty.
    """

    split: tuple[int, ...]
    names: tuple[str, ...]
    groups: tuple[int, ...]
    rows: tuple[int, ...]
    columns: tuple[int, ...]
    row_order: tuple[int, ...] = ()
    column_order: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        """Check that every axis counts one thing, and the orders; drop those that are natural.

        Raises:
            ValueError: An axis is missing or there twice, or has no name; an order is no
                permutation, or moves a column to another group.
        """
        axes = sorted((*self.groups, *self.rows, *self.columns))
        if axes != list(range(len(self.split))) or len(self.names) != len(self.split):
            raise ValueError(f"axes {axes} and names {self.names} do not fit {self.split}")
        groups, rows, columns = self.shape
        for name, size in (("row_order", rows), ("column_order", groups * columns)):
            order = tuple(int(number) for number in getattr(self, name))
            if order and sorted(order) != list(range(size)):
                raise ValueError(f"{name} is no permutation of {size}")
            natural = order == tuple(range(size))
            object.__setattr__(self, name, () if natural else order)
        if any(stored // columns != k // columns for k, stored in enumerate(self.column_order)):
            raise ValueError("column_order moves a column to another group")

    @property
    def shape(self) -> tuple[int, int, int]:
        """Number of matrices, of inputs and of outputs."""
        groups, rows, columns = (
            math.prod(self.split[axis] for axis in axes)
            for axes in (self.groups, self.rows, self.columns)
        )
        return groups, rows, columns


@dataclass(frozen=True, kw_only=True)
class TensorStats:
    """What was seen of a tensor, one entry a tile.

    Attributes:
        count: Values seen, non-finite ones included, shape ``(t0, …)``.
        lo: Smallest ordinary value, ``+inf`` where there was none, same shape.
        hi: Largest ordinary value, ``-inf`` where there was none, same shape.
        nan: Number of NaN.
        infinite: Number of values that are infinite or so huge (|x| ≥ 1e30) that they can
            only be masks or guards; they take part in nothing else.
        histograms: One `onnxq.numerics.histogram.FloatHistogram` a tile in C order, or empty
            where only extremes are known.
        ends: One `onnxq.numerics.ends.Ends` a tile in C order, or empty where only extremes are
            known.
    """

    count: Array
    lo: Array
    hi: Array
    nan: int = 0
    infinite: int = 0
    histograms: tuple[Any, ...] = ()
    ends: tuple[Any, ...] = ()

    def __post_init__(self) -> None:
        """Freeze the arrays and check the shapes agree."""
        object.__setattr__(self, "count", _readonly(self.count, np.int64))
        object.__setattr__(self, "lo", _readonly(self.lo, np.float64))
        object.__setattr__(self, "hi", _readonly(self.hi, np.float64))
        if not self.count.shape == self.lo.shape == self.hi.shape:
            raise ValueError("count, lo and hi must have one entry a tile")
        for what, entries in (("histograms", self.histograms), ("ends", self.ends)):
            if entries and len(entries) != self.count.size:
                raise ValueError(f"{len(entries)} {what} for {self.count.size} tiles")


@dataclass(frozen=True)
class Range:
    """The real interval a tensor's codes shall cover, one entry a tile.

    Attributes:
        lo: Lower ends in the tensor's units, ≤ 0, finite, shape ``(t0, …)``.
        hi: Upper ends, ≥ 0, finite, same shape.
    """

    lo: Array
    hi: Array

    def __post_init__(self) -> None:
        """Freeze the arrays and check that zero lies inside.

        Raises:
            ValueError: Shapes differ, an end is not finite, or zero lies outside.
        """
        object.__setattr__(self, "lo", _readonly(self.lo, np.float64))
        object.__setattr__(self, "hi", _readonly(self.hi, np.float64))
        if self.lo.shape != self.hi.shape:
            raise ValueError(f"lo has shape {self.lo.shape}, hi {self.hi.shape}")
        if not (np.isfinite(self.lo).all() and np.isfinite(self.hi).all()):
            raise ValueError("a range must be finite")
        if (self.lo > 0).any() or (self.hi < 0).any():
            raise ValueError("a range must contain zero")

    @classmethod
    def containing_zero(cls, lo: npt.ArrayLike, hi: npt.ArrayLike) -> Self:
        """Widen to contain zero; ends that never were (±inf of an unseen tile) become 0."""
        low, high = np.asarray(lo, np.float64), np.asarray(hi, np.float64)
        low = np.where(np.isfinite(low), np.minimum(low, 0.0), 0.0)
        high = np.where(np.isfinite(high), np.maximum(high, 0.0), 0.0)
        return cls(low, high)

    def within(self, lo: float, hi: float) -> "Range":
        """Cut off what cannot occur, e.g. below 0 after a Relu."""
        return Range(np.clip(self.lo, min(lo, 0.0), 0.0), np.clip(self.hi, 0.0, max(hi, 0.0)))


class RangeAlgorithm(Protocol):
    """Statistics to range: a frozen dataclass whose fields are its options.

    Attributes:
        name: What people type.
        needs_histogram: Whether it reads the histograms.
        needs_ends: Whether it reads the exact ends.
    """

    name: ClassVar[str]
    needs_histogram: ClassVar[bool]
    needs_ends: ClassVar[bool]

    def __call__(self, stats: TensorStats, spec: "QuantSpec") -> Range:
        """Choose the range.

        Args:
            stats: What was seen, one entry a tile.
            spec: What is asked: the number of codes, symmetric or affine.

        Returns:
            One interval a tile, shape of ``stats.lo``.

        Raises:
            CalibrationError: The statistics do not hold what the algorithm needs.
        """
        ...


@dataclass(frozen=True, kw_only=True)
class QuantSpec:
    """What is asked for one tensor.

    Attributes:
        dtype: Integer type of the codes.
        symmetric: Zero point fixed at the middle of the type (0 when signed).
        tile: Reach of one scale, see the module docstring.
        matrix: What the tile cuts, if it is not the tensor itself.
        range: The algorithm that turns statistics into a range.
        bounds: Interval outside of which the tensor has no values by construction, e.g.
            ``(0, 6)`` after Relu6; the range never leaves it.
        power_of_two: The scale is ``2^(−p)`` with a whole number p, the position; the zero
            point is 0 and the codes use the full range of the type.
        positions: The least and the largest position there is.
    """

    dtype: IntType
    symmetric: bool
    range: RangeAlgorithm
    tile: Tile = ()
    matrix: MatrixView | None = None
    bounds: tuple[float, float] = (float("-inf"), float("inf"))
    power_of_two: bool = False
    positions: tuple[int, int] = ANY_POSITION

    def __post_init__(self) -> None:
        """Refuse powers of two for what they are not defined for.

        Raises:
            ValueError: Powers of two are asked for with a free zero point, codes without a sign
                or of more than 16 bits, or there is no position.
        """
        if not self.power_of_two:
            return
        if not (self.symmetric and self.dtype.signed and self.dtype.bits <= 16):
            raise ValueError(
                f"powers of two go with symmetric int2 to int16, not {self.dtype.name}"
                f"{'' if self.symmetric else ' affine'}"
            )
        if not ANY_POSITION[0] <= self.positions[0] <= self.positions[1] <= ANY_POSITION[1]:
            raise ValueError(f"positions {self.positions} are not within {ANY_POSITION}")


@dataclass(frozen=True, kw_only=True)
class QuantParams:
    """What is used: ``real ≈ (code − zero_point) · scale``.

    Attributes:
        dtype: Integer type of the codes.
        scale: float32, positive and finite, one entry a tile, rank of the tensor (or shape
            ``()`` with the empty tile).
        zero_point: int64 within the type's codes, shape of ``scale``.
        tile: Reach of one scale.
        matrix: What the tile cuts, if it is not the tensor itself; the scale has its rank then.
    """

    dtype: IntType
    scale: Array
    zero_point: Array
    tile: Tile = field(default=())
    matrix: MatrixView | None = None

    def __post_init__(self) -> None:
        """Freeze the arrays and check the invariants.

        Raises:
            ValueError: A scale is not positive and finite, a zero point is no code, or the
                shapes do not fit the tile.
        """
        object.__setattr__(self, "scale", _readonly(self.scale, np.float32))
        object.__setattr__(self, "zero_point", _readonly(self.zero_point, np.int64))
        if self.scale.shape != self.zero_point.shape:
            raise ValueError("scale and zero_point must have one entry a tile")
        if self.scale.ndim != len(self.tile):
            raise ValueError(f"tile {self.tile} does not fit a scale of rank {self.scale.ndim}")
        if not (np.isfinite(self.scale).all() and (self.scale > 0).all()):
            raise ValueError("a scale must be positive and finite")
        codes = (self.zero_point >= self.dtype.qmin) & (self.zero_point <= self.dtype.qmax)
        if not codes.all():
            raise ValueError(f"a zero point must be a code of {self.dtype.name}")
