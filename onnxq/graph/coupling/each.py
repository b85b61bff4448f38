"""Operators that leave every channel where it is: elementwise, pooling, summing."""

import math

from onnxq.graph.coupling.book import Book
from onnxq.graph.coupling.words import (
    OPEN,
    axes_of,
    hold_constants,
    keeps,
    matched,
    operand,
    padded,
    rank_of,
    stop,
    stop_all,
    stop_arguments,
    stop_rest,
)
from onnxq.graph.io import Constant, Node, array_of
from onnxq.graph.query import label
from onnxq.types import Array

EACH = (
    "Relu", "LeakyRelu", "Sigmoid", "Tanh", "Elu", "Selu", "Celu", "HardSigmoid", "HardSwish",
    "Softplus", "Softsign", "Gelu", "Mish", "Swish", "Erf", "Exp", "Log", "Sqrt", "Reciprocal",
    "Abs", "Neg", "Floor", "Ceil", "Round", "Sign", "Sin", "Cos", "Not", "Identity", "Cast",
    "Dropout", "ThresholdedRelu", "Clip", "IsNaN", "IsInf", "CastLike", "Shrink", "BitwiseNot",
    "Tan", "Asin", "Acos", "Atan", "Sinh", "Cosh", "Asinh", "Acosh", "Atanh",
)  # fmt: skip
BROADCAST = (
    "Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Sum", "Mean", "Where", "PRelu", "Mod",
    "Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual", "And", "Or", "Xor",
)  # fmt: skip
POOLS = (
    "MaxPool", "AveragePool", "LpPool", "GlobalMaxPool", "GlobalAveragePool", "GlobalLpPool",
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
        elif tensor.name not in book.atoms and tensor.name not in book.alike:
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
            result = atoms if result is None else matched(book, node, result, atoms)
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


def _pool(book: Book, node: Node) -> None:
    """Hand the atoms of channels on, each by itself; places inside a map stay."""
    stop_arguments(book, node)
    atoms = book.atoms.get(node.inputs[0].name)
    if atoms is None:
        return
    if max(atoms.shape[2:], default=1) > 1:
        book.fix(atoms, f"{label(node)} mixes its places")
        return
    book.atoms[node.outputs[0].name] = atoms
    stop_rest(book, node)


def _resize(book: Book, node: Node) -> None:
    """Hand the atoms on of axes that keep their places."""
    stop_arguments(book, node)
    atoms = book.atoms.get(node.inputs[0].name)
    if atoms is None:
        return
    moving = [axis for axis, size in enumerate(atoms.shape) if size > 1]
    scales = _scales(node, atoms.ndim)
    if scales is None:  # sizes are asked for
        same = keeps(book.shape(node.outputs[0].name), atoms)
        same &= node.attrs.get("keep_aspect_ratio_policy", "stretch") == "stretch"
    else:
        same = all(scales[axis] == 1 for axis in moving)
    if not same or node.attrs.get("coordinate_transformation_mode") == "tf_crop_and_resize":
        book.fix(atoms, f"{label(node)} mixes its places")
        return
    book.atoms[node.outputs[0].name] = atoms


def _scales(node: Node, rank: int) -> list[float] | None:
    """Return by how much each axis grows, NaN if that is computed; None if sizes are given."""
    if len(node.inputs) > 3 and node.inputs[3].name:
        return None
    given = node.inputs[2 if len(node.inputs) > 2 else 1 :]
    scales = node.attrs.get("scales")
    if given and isinstance(given[0], Constant):
        scales = array_of(given[0]).tolist()
    axes = node.attrs.get("axes") or range(rank)
    if scales is None or len(scales) != len(axes):
        return [math.nan] * rank
    found = [1.0] * rank
    for axis, scale in zip(axes, scales, strict=True):
        found[axis] = scale
    return found


def _reduce(book: Book, node: Node) -> None:
    """Leave the axes that are summed over: their order does not matter."""
    stop_arguments(book, node)
    atoms = book.atoms.get(node.inputs[0].name)
    if atoms is None:
        return
    axes = axes_of(node)
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


RULES = {
    **dict.fromkeys(EACH, _each),
    **dict.fromkeys(BROADCAST, _broadcast),
    **dict.fromkeys(POOLS, _pool),
    **dict.fromkeys(REDUCTIONS, _reduce),
    **dict.fromkeys(("Resize", "Upsample"), _resize),
}
