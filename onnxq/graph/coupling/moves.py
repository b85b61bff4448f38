"""Operators that move, join or repeat."""

import numpy as np

from onnxq.graph.coupling.book import Book, Shape
from onnxq.graph.coupling.regroup import regrouped
from onnxq.graph.coupling.words import (
    OPEN,
    along,
    axes_of,
    hold_constants,
    keeps,
    matched,
    operand,
    padded,
    rank_of,
    stop_all,
    stop_arguments,
    why_not,
)
from onnxq.graph.io import Constant, Node, Tensor, array_of
from onnxq.graph.query import label
from onnxq.types import Array


def _reshape(book: Book, node: Node) -> None:
    """Hand atoms on to the axes a Reshape makes of those they lay on."""
    stop_arguments(book, node)
    atoms = book.atoms.get(node.inputs[0].name)
    if atoms is None:
        hold_constants(book, node)
        return
    before = book.sizes(node.inputs[0].name) or (None,) * atoms.ndim
    known = tuple(n if own == 1 else own for n, own in zip(before, atoms.shape, strict=True))
    after = book.sizes(node.outputs[0].name)
    result = None if after is None else regrouped(book, atoms, known, after)
    if result is None:
        book.fix(atoms, f"{label(node)}: where its channels end up is not known")
    else:
        book.atoms[node.outputs[0].name] = result


def _squeeze(book: Book, node: Node) -> None:
    """Drop or add axes of size 1, of which the sizes of the others need not be known."""
    atoms, axes = book.atoms.get(node.inputs[0].name), axes_of(node)
    if atoms is None or not axes:
        _reshape(book, node)
        return
    stop_arguments(book, node)
    change = np.squeeze if node.op == "Squeeze" else np.expand_dims
    book.atoms[node.outputs[0].name] = change(atoms, tuple(axes))


def _transpose(book: Book, node: Node) -> None:
    """Transpose the atoms as the tensor."""
    atoms = book.atoms.get(node.inputs[0].name)
    if atoms is None:
        hold_constants(book, node)
        return
    order = node.attrs.get("perm", list(range(atoms.ndim))[::-1])
    book.atoms[node.outputs[0].name] = atoms.transpose(order)


def _concat(book: Book, node: Node) -> None:
    """Tie places in front of a Concat to those behind it."""
    ranks = [rank_of(book, tensor) for tensor in node.inputs]
    found = [book.atoms.get(tensor.name) for tensor in node.inputs]
    moving = [atoms for atoms in found if atoms is not None]
    if not moving or any(rank != moving[0].ndim for rank in ranks):
        stop_all(book, node, f"{label(node)}: {OPEN}" if moving else f"{label(node)} joins it")
        return
    axis = node.attrs["axis"] % moving[0].ndim
    if all(atoms.shape[axis] == 1 for atoms in moving):
        _side_by_side(book, node, moving[0])
        return
    if any(_size(book, tensor, axis) is None for tensor in node.inputs):
        stop_all(book, node, f"{label(node)}: {OPEN}")
        return
    lines = {atoms.shape[:axis] + atoms.shape[axis + 1 :] for atoms in moving}
    joint = all(each is not None and each.shape[axis] > 1 for each in found) and len(lines) == 1
    parts = [_part(book, node, tensor, axis, joint=joint) for tensor in node.inputs]
    book.atoms[node.outputs[0].name] = np.concatenate(parts, axis=axis)


def _part(book: Book, node: Node, tensor: Tensor, axis: int, *, joint: bool) -> Array:
    """Return new atoms behind a Concat, tied to those of one of its inputs.

    Args:
        book: Gets the atoms.
        node: The Concat.
        tensor: The input.
        axis: Along which they are joined.
        joint: Keep those along other axes too.
    """
    atoms = book.atoms.get(tensor.name)
    if atoms is not None and atoms.shape[axis] > 1:
        atoms = atoms if joint else book.alone(atoms, axis)
        part = book.new(atoms.shape)
        book.same(part, atoms)
        return part
    rank, size = rank_of(book, tensor) or 0, _size(book, tensor, axis) or 0
    wanted = [size if i == axis else 1 for i in range(rank)]
    part = book.new(wanted)
    if isinstance(tensor, Constant):
        book.same(part, book.use(tensor.name, tuple(tensor.shape), wanted))
    else:
        book.fix(part, why_not(book, tensor))
        book.fix(atoms, f"{label(node)} joins channels along different axes")
    return part


def _side_by_side(book: Book, node: Node, result: Array) -> None:
    """Tie what is joined along another axis than that of the channels."""
    for tensor in node.inputs:
        atoms = book.atoms.get(tensor.name)
        if isinstance(tensor, Constant):
            operand(book, node, tensor, result)
        elif atoms is None:
            why = why_not(book, tensor)
            book.fix(result, f"{label(node)} joins it with {tensor.name!r}: {why}")
        else:
            matched(book, node, result, atoms)
    book.atoms[node.outputs[0].name] = result


def _size(book: Book, tensor: Tensor, axis: int) -> int | None:
    """Return the size of an axis of a tensor, None if it is not known."""
    atoms = book.atoms.get(tensor.name)
    if atoms is not None and atoms.shape[axis] > 1:
        return int(atoms.shape[axis])
    shape = tuple(tensor.shape) if isinstance(tensor, Constant) else book.shape(tensor.name)
    return None if shape is None else shape[axis]


def _expand(book: Book, node: Node) -> None:
    """Hand atoms on where an axis stays as long as it was; what was repeated is all the same."""
    stop_arguments(book, node)
    atoms, after = book.atoms.get(node.inputs[0].name), book.shape(node.outputs[0].name)
    if atoms is None:
        _repeated(book, node, after)
        return
    if after is not None and len(after) >= atoms.ndim:
        atoms = atoms.reshape((1,) * (len(after) - atoms.ndim) + atoms.shape)
    if after is None or not keeps(after, atoms):
        book.fix(atoms, f"{label(node)} repeats it, or its sizes are not known")
        return
    book.atoms[node.outputs[0].name] = atoms


def _repeated(book: Book, node: Node, after: Shape | None) -> None:
    """Give atoms to the one long axis of a constant, or the one along which all is the same."""
    tensor = node.inputs[0]
    before = tuple(tensor.shape) if isinstance(tensor, Constant) else book.shape(tensor.name)
    if before is None or after is None or len(before) > len(after):
        hold_constants(book, node)
        return
    before = padded(before, len(after))
    pairs = list(zip(before, after, strict=True))
    if isinstance(tensor, Constant) and len(np.unique(array_of(tensor))) == 1:
        book.alike.add(node.outputs[0].name)
    long = [size for size, _ in pairs if size != 1]
    if isinstance(tensor, Constant) and len(long) == 1 and (long[0], long[0]) in pairs:
        used = book.use(tensor.name, tuple(tensor.shape), tuple(tensor.shape))
        book.atoms[node.outputs[0].name] = used.reshape([size or 1 for size in before])
        return
    hold_constants(book, node)
    grown = [i for i, (old, new) in enumerate(pairs) if old == 1 and new is not None and new > 1]
    if len(grown) == 1:
        shape = [after[i] if i in grown else 1 for i in range(len(after))]
        book.atoms[node.outputs[0].name] = book.new([n or 1 for n in shape])


def _depth_to_space(book: Book, node: Node) -> None:
    """Take blocks of channels apart; what becomes of the rest moves together."""
    atoms = along(book, node.inputs[0], 1, f"{label(node)} takes it for a place")
    if atoms is None:
        return
    squared = node.attrs["blocksize"] ** 2
    if node.attrs.get("mode", "DCR") == "DCR":
        rows = atoms.reshape(squared, -1).T
    else:
        rows = atoms.reshape(-1, squared)
    out = book.new((len(rows),))
    book.tie(out, rows)
    book.atoms[node.outputs[0].name] = out.reshape(1, -1, 1, 1)


def _space_to_depth(book: Book, node: Node) -> None:
    """Let what becomes of a channel move together: as many channels as a block has places."""
    atoms = along(book, node.inputs[0], 1, f"{label(node)} takes it for a place")
    if atoms is None:
        return
    out = book.new((node.attrs["blocksize"] ** 2, atoms.size))
    book.tie(atoms.ravel(), out.T)
    book.atoms[node.outputs[0].name] = out.reshape(1, -1, 1, 1)


def _constant_of_shape(book: Book, node: Node) -> None:
    """Know that all values are the same."""
    stop_all(book, node, f"an argument of {label(node)}")
    book.alike.add(node.outputs[0].name)


def _shape(book: Book, node: Node) -> None:
    """Know that sizes do not depend on the order; a constant read so stays."""
    hold_constants(book, node)


RULES = {
    **dict.fromkeys(("Reshape", "Flatten"), _reshape),
    **dict.fromkeys(("Squeeze", "Unsqueeze"), _squeeze),
    **dict.fromkeys(("Expand", "Tile"), _expand),
    **dict.fromkeys(("Shape", "Size"), _shape),
    "ConstantOfShape": _constant_of_shape,
    "Transpose": _transpose,
    "Concat": _concat,
    "DepthToSpace": _depth_to_space,
    "SpaceToDepth": _space_to_depth,
}
