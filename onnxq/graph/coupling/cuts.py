"""Operators that cut, pick or add along the axes of channels."""

import numpy as np

from onnxq.graph.coupling.book import Book
from onnxq.graph.coupling.words import (
    OPEN,
    rank_of,
    stop,
    stop_all,
    stop_arguments,
)
from onnxq.graph.io import Constant, Node, array_of
from onnxq.graph.query import label


def _split(book: Book, node: Node) -> None:
    """Hand each part of the atoms on."""
    stop_arguments(book, node)
    atoms = book.atoms.get(node.inputs[0].name)
    if atoms is None:
        return
    axis = node.attrs.get("axis", 0) % atoms.ndim
    if atoms.shape[axis] == 1:
        book.atoms.update({tensor.name: atoms for tensor in node.outputs})
        return
    sizes = [(book.shape(t.name) or (None,) * atoms.ndim)[axis] for t in node.outputs]
    if None in sizes or sum(filter(None, sizes)) != atoms.shape[axis]:
        book.fix(atoms, f"{label(node)}: {OPEN}")
        return
    ends = np.cumsum([size for size in sizes if size is not None])[:-1]
    for tensor, part in zip(node.outputs, np.split(atoms, ends, axis=axis), strict=True):
        book.tie(part.ravel())
        book.atoms[tensor.name] = part


def _slice(book: Book, node: Node) -> None:
    """Hand the part of the atoms on that is left."""
    stop_arguments(book, node)
    atoms = book.atoms.get(node.inputs[0].name)
    if atoms is None:
        return
    cuts = _cuts(node, atoms.ndim)
    if cuts is None:
        book.fix(atoms, f"{label(node)}: where it cuts is computed")
        return
    for axis in [axis for axis in cuts if atoms.shape[axis] > 1]:
        atoms = atoms.take(np.arange(atoms.shape[axis])[cuts[axis]], axis=axis)
        book.tie(atoms.ravel())
    if atoms.size:
        book.atoms[node.outputs[0].name] = atoms


def _cuts(node: Node, rank: int) -> dict[int, slice] | None:
    """Return what a Slice leaves of each axis it cuts, None if that is computed."""
    given = list(node.inputs[1:])
    if given and not all(isinstance(t, Constant) or not t.name for t in given):
        return None
    if given:
        values = [array_of(t).tolist() if t.name else None for t in given]
    else:
        values = [node.attrs.get(key) for key in ("starts", "ends", "axes")]
    starts, ends, axes, steps = (*values, None, None)[:4]
    if starts is None or ends is None:
        return None
    axes = list(range(len(starts))) if axes is None else axes
    steps = [1] * len(starts) if steps is None else steps
    cuts = {}
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        stop = None if step < 0 and end < -(1 << 30) else end
        cuts[axis % rank] = slice(start, stop, step)
    return cuts


def _gather(book: Book, node: Node) -> None:
    """Hand the atoms on that are picked; rows picked from a constant have atoms of their own."""
    data, indices = node.inputs
    axis, rank = node.attrs.get("axis", 0), rank_of(book, indices)
    if isinstance(data, Constant):
        _picked_rows(book, node, axis, rank)
        return
    stop(book, indices, f"{label(node)} picks by it")
    atoms = book.atoms.get(data.name)
    if atoms is None:
        return
    axis %= atoms.ndim
    if rank is None:
        book.fix(atoms, f"{label(node)}: {OPEN}")
    elif atoms.shape[axis] == 1:
        before, after = atoms.shape[:axis], atoms.shape[axis + 1 :]
        book.atoms[node.outputs[0].name] = atoms.reshape(*before, *(1,) * rank, *after)
    elif not isinstance(indices, Constant):
        book.fix(atoms, f"{label(node)} picks of it at run time")
    else:
        picked = atoms.take(array_of(indices), axis=axis)
        book.tie(np.unique(picked))
        if picked.size == 1 or len(np.unique(picked)) < picked.size:
            book.fix(picked, f"{label(node)} picks it{' twice' if picked.size > 1 else ''}")
        book.atoms[node.outputs[0].name] = picked


def _picked_rows(book: Book, node: Node, axis: int, rank: int | None) -> None:
    """Give what an embedding returns the atoms of its columns."""
    table = node.inputs[0]
    shape = tuple(table.shape)
    if rank is None or len(shape) != 2 or axis % 2:
        stop_all(book, node, f"{label(node)} picks of it at run time")
        return
    stop(book, node.inputs[1], f"{label(node)} picks by it")
    columns = book.use(table.name, shape, (1, shape[1]))
    book.atoms[node.outputs[0].name] = columns.reshape(*(1,) * rank, -1)


def _pad(book: Book, node: Node) -> None:
    """Hand atoms on where nothing is added along their axes; zeros added there stay."""
    stop_arguments(book, node)
    atoms = book.atoms.get(node.inputs[0].name)
    if atoms is None:
        return
    moving = [i for i, size in enumerate(atoms.shape) if size > 1]
    pads = _pads(node, atoms.ndim)
    if pads is None:
        book.fix(atoms, f"{label(node)}: what it adds is computed")
        return
    if not any(any(pads[i]) for i in moving):
        book.atoms[node.outputs[0].name] = atoms
        return
    if node.attrs.get("mode", "constant") != "constant" or len(moving) > 1:
        book.fix(atoms, f"{label(node)} adds to it")
        return
    (axis,) = moving
    ends = pads[axis]
    if min(ends) < 0:
        book.fix(atoms, f"{label(node)} cuts it")
        return
    added = np.split(book.new((sum(ends),)), [ends[0]])  # all the same, and so free
    inside = book.new((atoms.size,))
    book.same(inside, atoms)
    shape = [1] * atoms.ndim
    shape[axis] = -1
    book.atoms[node.outputs[0].name] = np.concatenate([added[0], inside, added[1]]).reshape(shape)


def _pads(node: Node, rank: int) -> list[tuple[int, int]] | None:
    """Return what a Pad adds in front of and behind each axis, None if that is computed."""
    given = [tensor for index, tensor in enumerate(node.inputs) if index in (1, 3) and tensor.name]
    if not all(isinstance(tensor, Constant) for tensor in given):
        return None
    pads, axes = node.attrs.get("pads"), list(range(rank))
    if given:
        pads = array_of(given[0]).tolist()
    if len(given) > 1:
        axes = array_of(given[1]).tolist()
    if pads is None or len(pads) != 2 * len(axes):
        return None
    found = [(0, 0)] * rank
    for index, axis in enumerate(axes):
        found[axis] = pads[index], pads[index + len(axes)]
    return found


RULES = {"Split": _split, "Slice": _slice, "Gather": _gather, "Pad": _pad}
