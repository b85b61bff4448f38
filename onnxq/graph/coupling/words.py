"""What the rules of several operators say."""

import math

from onnxq.graph.coupling.book import Book, Shape
from onnxq.graph.io import Constant, Node, Tensor, array_of
from onnxq.graph.query import label
from onnxq.types import Array

OPEN = "the sizes of its axes are not known"


def stop(book: Book, tensor: Tensor, reason: str) -> None:
    """Let a tensor stay as it is."""
    if isinstance(tensor, Constant):
        book.hold(tensor.name, reason)
    else:
        book.fix(book.atoms.get(tensor.name), reason)


def stop_all(book: Book, node: Node, reason: str) -> None:
    """Let all that a node reads stay as it is."""
    for tensor in node.inputs:
        stop(book, tensor, reason)


def stop_arguments(book: Book, node: Node) -> None:
    """Let the inputs behind the first stay as they are: sizes, axes and the like."""
    for tensor in node.inputs[1:]:
        stop(book, tensor, f"an argument of {label(node)}")


def stop_rest(book: Book, node: Node) -> None:
    """Leave the outputs behind the first without atoms; if they are read, nothing moves."""
    for tensor in node.outputs[1:]:
        if tensor.name in book.read:
            stop_all(book, node, f"{label(node)}: its output {tensor.name!r} is read")


def hold_constants(book: Book, node: Node) -> None:
    """Let the constants of a node stay as they are."""
    for tensor in node.inputs:
        if isinstance(tensor, Constant):
            book.hold(tensor.name, f"{label(node)} reads nothing that moves")


def padded(shape: Shape, rank: int) -> Shape:
    """Put axes of size 1 in front."""
    return (1,) * (rank - len(shape)) + shape


def rank_of(book: Book, tensor: Tensor) -> int | None:
    """Return the rank of a tensor, None if it is not known."""
    if isinstance(tensor, Constant):
        return len(tensor.shape)
    atoms, shape = book.atoms.get(tensor.name), book.shape(tensor.name)
    return atoms.ndim if atoms is not None else None if shape is None else len(shape)


def along(book: Book, tensor: Tensor, axis: int, why: str) -> Array | None:
    """Return the atoms of a tensor along one axis, the others fixed; None if it has none there."""
    atoms = book.atoms.get(tensor.name)
    if atoms is None:
        return None
    axis %= atoms.ndim
    if atoms.shape[axis] == 1:
        book.fix(atoms, why)
        return None
    return book.alone(atoms, axis)


def why_not(book: Book, tensor: Tensor) -> str:
    """Return why a tensor has no atoms."""
    return book.why.get(tensor.name, f"{tensor.name!r} is constant")


def keeps(after: Shape | None, atoms: Array) -> bool:
    """Say whether the axes with atoms have the same size before and after."""
    if after is None:
        return False
    return all(after[i] == size for i, size in enumerate(atoms.shape) if size > 1)


def axes_of(node: Node) -> list[int] | None:
    """Return the axes a node names, empty if it names none, None if they are computed."""
    for given in node.inputs[1:2]:
        if given.name:
            return array_of(given).ravel().tolist() if isinstance(given, Constant) else None
    return list(node.attrs.get("axes") or [])


def operand(book: Book, node: Node, tensor: Tensor, atoms: Array) -> None:
    """Tie a constant operand to the atoms it meets."""
    shape = (1,) * (atoms.ndim - len(tensor.shape)) + tuple(tensor.shape)
    axes = [i for i, own in enumerate(atoms.shape) if own > 1]
    full = [i for i in axes if shape[i] == atoms.shape[i]]
    if not full:
        _unused(book, tensor)
        return
    if full != axes:
        if len(full) > 1:
            book.fix(atoms, f"{label(node)}: {tensor.name!r} has some of the axes only")
            book.hold(tensor.name, f"read by {label(node)}")
            return
        atoms = book.alone(atoms, full[0])
    wanted = tuple(n if i in full else 1 for i, n in enumerate(shape))
    start = atoms.ndim - len(tensor.shape)
    used = book.use(tensor.name, shape[start:], wanted[start:])
    book.same(used.reshape(wanted), atoms)


def matched(book: Book, node: Node, one: Array, other: Array) -> Array:
    """Tie the atoms of two operands; return those of the result."""
    if one.shape == other.shape:
        book.same(one, other)
        return one
    reason = f"{label(node)} joins channels along different axes"
    book.fix(one, reason)
    book.fix(other, reason)
    return one


def _unused(book: Book, tensor: Tensor) -> None:
    """Say that a node does not see the order of a constant's values along any axis."""
    if isinstance(tensor, Constant) and math.prod(tensor.shape) > 1:
        book.hold(tensor.name, "it meets no channels")


def vector(book: Book, node: Node, index: int, atoms: Array) -> None:
    """Tie a constant with one value an atom."""
    if len(node.inputs) <= index or not node.inputs[index].name:
        return
    tensor = node.inputs[index]
    if isinstance(tensor, Constant) and math.prod(tensor.shape) == atoms.size:
        shape = tuple(tensor.shape)
        book.same(book.use(tensor.name, shape, shape), atoms)
    elif isinstance(tensor, Constant):
        book.fix(atoms, f"{label(node)}: {tensor.name!r} has another size")
        book.hold(tensor.name, f"read by {label(node)}")
    else:
        stop(book, tensor, f"{label(node)} computes with it")
        book.fix(atoms, f"{label(node)}: {tensor.name!r} is computed")
