"""Operators with weights: what is summed over, and what is left."""

import numpy as np

from onnxq.graph.coupling.book import Book
from onnxq.graph.coupling.words import (
    OPEN,
    along,
    operand,
    rank_of,
    stop,
    stop_all,
    vector,
    why_not,
)
from onnxq.graph.io import Constant, Node, Tensor
from onnxq.graph.query import label
from onnxq.types import Array


def _conv(book: Book, node: Node) -> None:
    """Couple the channels of a convolution: those it reads, those it writes, its groups."""
    weight = node.inputs[1]
    read = along(book, node.inputs[0], 1, f"{label(node)} moves a window along it")
    if not isinstance(weight, Constant):
        book.fix(read, f"{label(node)}: its weights are computed")
        stop_all(book, node, f"{label(node)}: its weights are computed")
        return
    groups, transposed = node.attrs.get("group", 1), node.op != "Conv"
    first, second, *kernel = weight.shape
    size = first // groups
    view = (groups, size, second, *kernel)
    ones = (1,) * len(kernel)
    inputs, outputs = (size, second) if transposed else (second, size)
    sides = (groups, size, 1, *ones), (groups, 1, second, *ones)
    into_shape, out_shape = sides if transposed else sides[::-1]
    written = book.use(weight.name, view, out_shape)
    taken = written if into_shape == out_shape else book.use(weight.name, view, into_shape)
    out, into = written.reshape(groups, outputs), taken.reshape(groups, inputs)
    if groups > 1 and inputs == 1:
        book.tie(into, out)  # a channel with all that is made of it
    elif groups > 1:
        for group in range(groups):
            book.tie(into[group])
            book.tie(out[group])
    if read is None:
        book.fix(taken, why_not(book, node.inputs[0]))
    else:
        book.same(into, read)
    vector(book, node, 2, out)
    book.atoms[node.outputs[0].name] = out.reshape(1, -1, *ones)


def _matmul(book: Book, node: Node) -> None:
    """Couple what a product sums over, and the axes that are left."""
    left, right = node.inputs
    if isinstance(right, Constant) and not isinstance(left, Constant):
        _product(book, node, (left, -1), (right, max(len(right.shape) - 2, 0)))
    elif isinstance(left, Constant) and not isinstance(right, Constant):
        _product(book, node, (right, -2), (left, len(left.shape) - 1))
    elif isinstance(left, Constant):
        stop_all(book, node, f"{label(node)}: both sides are constant")
    else:
        _between(book, node, left, right)


def _product(book: Book, node: Node, read: tuple[Tensor, int], held: tuple[Tensor, int]) -> None:
    """Couple a tensor with a constant it is multiplied by: both summed along an axis."""
    (tensor, along), (weight, summed) = read, held
    shape, rank = tuple(weight.shape), rank_of(book, tensor)
    if rank is None or rank < 2 or len(shape) > rank:
        stop_all(book, node, f"{label(node)}: {OPEN}")
        return
    ones = [1] * len(shape)
    into = book.use(weight.name, shape, [*ones[:summed], shape[summed], *ones[summed + 1 :]])
    atoms = book.atoms.get(tensor.name)
    rows = atoms is not None and atoms.shape[along] > 1
    if rows:
        assert atoms is not None
        book.same(into, book.alone(atoms, along % rank))
    else:
        book.fix(into, why_not(book, tensor) if atoms is None else f"{label(node)} sums along it")
    if len(shape) == 1:
        if atoms is not None and not rows:
            book.fix(atoms, f"{label(node)}: a vector is behind it")
        return
    other = 2 * len(shape) - 3 - summed  # of the last two axes
    wanted = [*ones[:other], shape[other], *ones[other + 1 :]]
    out = book.use(weight.name, shape, wanted)
    if atoms is not None and not rows:
        book.fix(out, f"{label(node)} keeps channels along another axis")
        if max(atoms.shape[:-2], default=1) > 1:
            book.fix(atoms, f"{label(node)} multiplies along it")
        book.atoms[node.outputs[0].name] = atoms
        return
    result = [1] * rank
    result[-1 if along == -1 else -2] = shape[other]
    book.atoms[node.outputs[0].name] = out.reshape(result)


def _between(book: Book, node: Node, left: Tensor, right: Tensor) -> None:
    """Couple two tensors that are multiplied with each other."""
    ranks = rank_of(book, left), rank_of(book, right)
    if ranks[0] is None or ranks[0] != ranks[1] or ranks[0] < 2:
        stop_all(book, node, f"{label(node)}: {OPEN}")
    else:
        _summed(book, node, ranks[0])


def _summed(book: Book, node: Node, rank: int) -> None:
    """Tie what two tensors of the same rank are summed over; hand one of the axes left on."""
    last = rank - 1, rank - 2
    summed, kept = [], []
    for tensor, axis, other in zip(node.inputs, last, last[::-1], strict=True):
        atoms = book.atoms.get(tensor.name)
        if atoms is not None and atoms.shape[axis] > 1:
            summed.append(_side(book, atoms, axis, other))
        elif atoms is not None:
            kept.append(_left(book, node, atoms, other))
    _sum_up(book, node, summed)
    for atoms in kept[1:]:
        book.fix(atoms, f"{label(node)} keeps channels of both sides")
    if kept:
        book.atoms[node.outputs[0].name] = kept[0]


def _sum_up(book: Book, node: Node, sides: list[Array]) -> None:
    """Tie what is summed over on the one side to the same on the other."""
    if len({atoms.shape for atoms in sides}) > 1:
        sides = [book.alone(atoms, 0) for atoms in sides]
    if len(sides) == 2:
        book.same(*sides)
    else:
        for atoms in sides:
            book.fix(atoms, f"{label(node)} sums it with what stays")


def _side(book: Book, atoms: Array, axis: int, other: int) -> Array:
    """Return the atoms that are summed over, that axis first; along the others they stay."""
    if atoms.shape[other] > 1:
        atoms = book.alone(atoms, axis)
    book.within(atoms, (axis,))
    return np.moveaxis(atoms, axis, 0)


def _left(book: Book, node: Node, atoms: Array, axis: int) -> Array:
    """Return the atoms a product keeps: they move along one axis, and stay along the others."""
    if atoms.shape[axis] == 1:
        book.fix(atoms, f"{label(node)} multiplies along it")
    book.within(atoms, (axis,))
    return atoms


def _gemm(book: Book, node: Node) -> None:
    """Couple rows and columns of a constant second input, and the bias."""
    tensor, weight = node.inputs[:2]
    if not isinstance(weight, Constant) or isinstance(tensor, Constant):
        stop_all(book, node, f"{label(node)}: its weights are computed")
        return
    shape = tuple(weight.shape)
    summed = 1 if node.attrs.get("transB", 0) else 0
    sides = [(shape[0], 1), (1, shape[1])]
    into = book.use(weight.name, shape, sides[summed])
    out = book.use(weight.name, shape, sides[1 - summed])
    along = 0 if node.attrs.get("transA", 0) else 1
    atoms = book.atoms.get(tensor.name)
    if atoms is not None and atoms.shape[along] > 1:
        book.same(into, book.alone(atoms, along))
    else:
        book.fix(atoms, f"{label(node)} keeps it for another axis")
        book.fix(into, why_not(book, tensor))
    result = out.reshape(1, -1)
    for bias in node.inputs[2:3]:
        if isinstance(bias, Constant):
            operand(book, node, bias, result)
        elif bias.name:
            stop(book, bias, f"{label(node)} adds it")
            book.fix(result, f"{label(node)}: {bias.name!r} is computed")
    book.atoms[node.outputs[0].name] = result


RULES = {"Conv": _conv, "ConvTranspose": _conv, "MatMul": _matmul, "Gemm": _gemm}
