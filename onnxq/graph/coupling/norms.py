"""Operators that normalize what lies along some axes: each value in the light of the others."""

from collections.abc import Callable, Collection

from onnxq.graph.coupling.book import Book
from onnxq.graph.coupling.words import along, hold_constants, operand, stop, stop_rest, vector
from onnxq.graph.io import Constant, Node
from onnxq.graph.query import label

FLAT = 13  # before, a Softmax took all axes from one on as a single one

Axes = Callable[[Book, Node, int], Collection[int]]


def _softmax_axes(book: Book, node: Node, rank: int) -> Collection[int]:
    """Return the axes of a Softmax."""
    if book.opset < FLAT:
        return range(node.attrs.get("axis", 1) % rank, rank)
    return (node.attrs.get("axis", -1) % rank,)


def _norm_axes(_: Book, node: Node, rank: int) -> Collection[int]:
    """Return the axis a vector norm is taken along."""
    return (node.attrs.get("axis", -1) % rank,)


def _mean_axes(_: Book, node: Node, rank: int) -> Collection[int]:
    """Return the axes of a MeanVarianceNormalization."""
    return [axis % rank for axis in node.attrs.get("axes", [0, 2, 3])]


AXES: dict[str, Axes] = {
    "Softmax": _softmax_axes,
    "LogSoftmax": _softmax_axes,
    "LpNormalization": _norm_axes,
    "MeanVarianceNormalization": _mean_axes,
}


def _along_axes(book: Book, node: Node) -> None:
    """Hand the atoms on; none leaves the places it is normalized with."""
    atoms = book.atoms.get(node.inputs[0].name)
    if atoms is None:
        hold_constants(book, node)
        return
    book.within(atoms, AXES[node.op](book, node, atoms.ndim))
    book.atoms[node.outputs[0].name] = atoms


def _by_channel(book: Book, node: Node) -> None:
    """Couple channels with their vectors, or what lies inside of a channel with nothing else."""
    atoms = book.atoms.get(node.inputs[0].name)
    if atoms is None:
        hold_constants(book, node)
        return
    if atoms.shape[1] == atoms.size:
        for index in range(1, len(node.inputs)):
            vector(book, node, index, atoms.reshape(-1))
    else:
        book.within(atoms, [axis for axis in range(atoms.ndim) if axis != 1])
        _stop_vectors(book, node)
    book.atoms[node.outputs[0].name] = atoms
    stop_rest(book, node)


def _by_group(book: Book, node: Node) -> None:
    """Let channels move inside of their group, with scale and bias if these are by channel."""
    atoms = along(book, node.inputs[0], 1, f"{label(node)} takes it for a place")
    if atoms is None:
        hold_constants(book, node)
        return
    grouped = atoms.reshape(node.attrs["num_groups"], -1)
    book.within(grouped, (1,))
    if all(tuple(tensor.shape or ()) == (len(grouped),) for tensor in node.inputs[1:]):
        _stop_vectors(book, node)
    else:
        for index in range(1, len(node.inputs)):
            vector(book, node, index, atoms.reshape(-1))
    book.atoms[node.outputs[0].name] = atoms


def _stop_vectors(book: Book, node: Node) -> None:
    """Let vectors stay whose values belong to more than one place that moves."""
    for tensor in node.inputs[1:]:
        stop(book, tensor, f"{label(node)} reads it for channels that stay")


def _from_axis_on(book: Book, node: Node) -> None:
    """Couple what is normalized with scale and bias."""
    atoms = book.atoms.get(node.inputs[0].name)
    if atoms is None:
        hold_constants(book, node)
        return
    book.within(atoms, range(node.attrs.get("axis", -1) % atoms.ndim, atoms.ndim))
    for tensor in node.inputs[1:]:
        if isinstance(tensor, Constant):
            operand(book, node, tensor, atoms)
        elif tensor.name:
            stop(book, tensor, f"{label(node)} computes with it")
            book.fix(atoms, f"{label(node)}: {tensor.name!r} is computed")
    book.atoms[node.outputs[0].name] = atoms
    stop_rest(book, node)


RULES = {
    **dict.fromkeys(AXES, _along_axes),
    **dict.fromkeys(("BatchNormalization", "InstanceNormalization"), _by_channel),
    **dict.fromkeys(("LayerNormalization", "RMSNormalization"), _from_axis_on),
    "GroupNormalization": _by_group,
}
