"""Operators that leave every channel where it is: elementwise, pooling, normalizing."""

from onnxq.graph.coupling.book import Book
from onnxq.graph.coupling.words import (
    OPEN,
    along,
    hold_constants,
    keeps,
    operand,
    padded,
    rank_of,
    stop,
    stop_all,
    stop_arguments,
    stop_rest,
    vector,
)
from onnxq.graph.io import Constant, Node, array_of
from onnxq.graph.query import label
from onnxq.types import Array

EACH = (
    "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish",
    "Softplus", "Softsign", "Gelu", "Mish", "Swish", "Erf", "Exp", "Log", "Sqrt", "Reciprocal",
    "Abs", "Neg", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Not", "Identity", "Cast",
    "Dropout", "ThresholdedRelu", "Clip", "IsNaN", "IsInf", "Softmax", "LogSoftmax", "CastLike",
    "LpNormalization", "MeanVarianceNormalization", "Shrink", "Atan", "BitwiseNot",
)  # fmt: skip
BROADCAST = (
    "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "Where", "PRelu", "Mod",
    "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor",
)  # fmt: skip
POOLS = (
    "MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool",
    "Resize", "Upsample",
)  # fmt: skip
REDUCTIONS = (
    "ReduceMean", "ReduceSum", "ReduceMax", "ReduceMin", "ReduceProd", "ReduceL1", "ReduceL2",
    "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp",
)  # fmt: skip
ARGUMENTS = {"Clip": (1, 2), "Dropout": (1, 2), "CastLike": (1,)}  # inputs that are no data


def _each(book: Book, node: Node) -> None:
    """Hand the atoms on: each value by itself, or all along an axis alike."""
    for index in ARGUMENTS.get(node.op, ()):
        if len(node.inputs) > index:
            stop(book, node.inputs[index], f"an argument of {label(node)}")
    atoms = book.atoms.get(node.inputs[0].name)
    if atoms is not None:
        book.atoms.update({tensor.name: atoms for tensor in node.outputs})
    elif isinstance(node.inputs[0], Constant):
        book.hold(node.inputs[0].name, f"read by {label(node)}")


def _broadcast(book: Book, node: Node) -> None:
    """Tie the atoms of all operands where they broadcast against each other."""
    ranks = [rank_of(book, tensor) for tensor in node.inputs]
    if any(rank is None for rank in ranks):
        stop_all(book, node, f"{label(node)}: {OPEN}")
        return
    rank = max(each for each in ranks if each is not None)
    result = _joined(book, node, rank)
    result = _spread(book, node, rank) if result is None else result
    if result is None:
        hold_constants(book, node)
        return
    for tensor in node.inputs:
        if isinstance(tensor, Constant):
            operand(book, node, tensor, result)
        elif tensor.name not in book.atoms:
            size = padded(book.shape(tensor.name) or (), rank)
            if any(n != 1 for n, own in zip(size, result.shape, strict=True) if own > 1):
                why = book.why.get(tensor.name, "")
                book.fix(result, f"{label(node)} joins it with {tensor.name!r}: {why}")
    book.atoms[node.outputs[0].name] = result


def _joined(book: Book, node: Node, rank: int) -> Array | None:
    """Tie the atoms of all operands that have some; return those of the result."""
    result: Array | None = None
    for tensor in node.inputs:
        atoms = book.atoms.get(tensor.name)
        if atoms is not None:
            atoms = atoms.reshape((1,) * (rank - atoms.ndim) + atoms.shape)
            result = atoms if result is None else _matched(book, node, result, atoms)
    return result


def _spread(book: Book, node: Node, rank: int) -> Array | None:
    """Return new atoms along the one axis that all operands but a constant are spread over."""
    shapes = [
        padded(tuple(t.shape) if isinstance(t, Constant) else book.shape(t.name) or (), rank)
        for t in node.inputs
    ]
    for tensor, shape in zip(node.inputs, shapes, strict=True):
        axes = [axis for axis, size in enumerate(shape) if size != 1]
        if isinstance(tensor, Constant) and len(axes) == 1:
            own = [other[axes[0]] for other in shapes]
            if own.count(1) == len(own) - 1:
                return book.new([size or 1 for size in shape])
    return None


def _matched(book: Book, node: Node, one: Array, other: Array) -> Array:
    """Tie the atoms of two operands; return those of the result."""
    if one.shape == other.shape:
        book.same(one, other)
        return one
    reason = f"{label(node)} joins channels along different axes"
    book.fix(one, reason)
    book.fix(other, reason)
    return one


def _normalization(book: Book, node: Node) -> None:
    """Couple channels with the vectors of a BatchNormalization or InstanceNormalization."""
    read = along(book, node.inputs[0], 1, f"{label(node)} takes it for a place")
    if read is None:
        hold_constants(book, node)
        return
    for index in range(1, len(node.inputs)):
        vector(book, node, index, read.reshape(-1))
    book.atoms[node.outputs[0].name] = read


def _layer_normalization(book: Book, node: Node) -> None:
    """Couple what is normalized with scale and bias."""
    atoms = book.atoms.get(node.inputs[0].name)
    if atoms is None:
        hold_constants(book, node)
        return
    axis = node.attrs.get("axis", -1) % atoms.ndim
    inside = [i for i, size in enumerate(atoms.shape) if size > 1 and i >= axis]
    if inside and max(atoms.shape[:axis], default=1) > 1:
        book.fix(atoms, f"{label(node)} normalizes some of its axes")
    for tensor in node.inputs[1:]:
        if isinstance(tensor, Constant):
            operand(book, node, tensor, atoms)
        elif tensor.name:
            book.fix(atoms, f"{label(node)}: {tensor.name!r} is computed")
    book.atoms[node.outputs[0].name] = atoms
    stop_rest(book, node)


def _pool(book: Book, node: Node) -> None:
    """Hand the atoms of channels on, each by itself; places inside a map stay."""
    stop_arguments(book, node)
    atoms = book.atoms.get(node.inputs[0].name)
    if atoms is None:
        return
    after = book.shape(node.outputs[0].name)
    if max(atoms.shape[2:], default=1) > 1 or (
        node.op in ("Resize", "Upsample") and not keeps(after, atoms)
    ):
        book.fix(atoms, f"{label(node)} mixes its places")
        return
    book.atoms[node.outputs[0].name] = atoms
    stop_rest(book, node)


def _reduce(book: Book, node: Node) -> None:
    """Leave the axes that are summed over: their order does not matter."""
    stop_arguments(book, node)
    atoms = book.atoms.get(node.inputs[0].name)
    if atoms is None:
        return
    axes = _summed_axes(node)
    if axes is None:
        book.fix(atoms, f"{label(node)}: its axes are computed")
        return
    everything = not axes and not node.attrs.get("noop_with_empty_axes", 0)
    gone = set(range(atoms.ndim)) if everything else {axis % atoms.ndim for axis in axes}
    kept = [i for i, size in enumerate(atoms.shape) if size > 1 and i not in gone]
    summed = [i for i, size in enumerate(atoms.shape) if size > 1 and i in gone]
    if not kept:
        return
    if summed and len(kept) > 1:
        book.fix(atoms, f"{label(node)} sums over some of its axes")
        return
    atoms = book.alone(atoms, kept[0]) if summed else atoms
    if not node.attrs.get("keepdims", 1):
        atoms = atoms.reshape([n for i, n in enumerate(atoms.shape) if i not in gone])
    book.atoms[node.outputs[0].name] = atoms


def _summed_axes(node: Node) -> list[int] | None:
    """Return the axes a reduction sums over, empty if none are named, None if computed."""
    for given in node.inputs[1:2]:
        if given.name:
            return array_of(given).tolist() if isinstance(given, Constant) else None
    return list(node.attrs.get("axes") or [])


RULES = {
    **dict.fromkeys(EACH, _each),
    **dict.fromkeys(BROADCAST, _broadcast),
    **dict.fromkeys(POOLS, _pool),
    **dict.fromkeys(REDUCTIONS, _reduce),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), _normalization),
    "LayerNormalization": _layer_normalization,
}
