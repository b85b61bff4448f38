"""Recurrent operators: what they read, and their hidden units.

    W (directions, gates · H, inputs)
    R (directions, gates · H, H)
    B (directions, 2 · gates · H)

The units of a direction may be exchanged with each other: in every gate, in what is fed back, and
in what is returned.
"""

import math

from onnxq.graph.coupling.book import Book
from onnxq.graph.coupling.words import along, matched, operand, stop, stop_all, why_not
from onnxq.graph.io import Constant, Node
from onnxq.graph.query import label
from onnxq.types import Array

GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}
STATES = (5, 6)  # inputs, of the first step
BY_UNIT = (3, 7)  # inputs: bias, peepholes


def _recurrent(book: Book, node: Node) -> None:
    """Couple what is read with the weights, and the units with all that is theirs."""
    weights, fed_back = node.inputs[1:3]
    if node.attrs.get("layout", 0):
        stop_all(book, node, f"{label(node)} has another layout")
        return
    read = along(book, node.inputs[0], 2, f"{label(node)} goes through it step by step")
    if not isinstance(weights, Constant) or not isinstance(fed_back, Constant):
        book.fix(read, f"{label(node)}: its weights are computed")
        stop_all(book, node, f"{label(node)}: its weights are computed")
        return
    directions, _, size = fed_back.shape
    view = (directions, GATES[node.op], size, weights.shape[2])
    into = book.use(weights.name, view, (1, 1, 1, view[3]))
    if read is None:
        book.fix(into, why_not(book, node.inputs[0]))
    else:
        book.same(into, read)
    units = book.use(weights.name, view, (directions, 1, size, 1)).reshape(directions, size)
    book.within(units, (1,))
    view = (directions, GATES[node.op], size, size)
    book.same(units, book.use(fed_back.name, view, (directions, 1, size, 1)))
    book.same(units, book.use(fed_back.name, view, (directions, 1, 1, size)))
    _couple_rest(book, node, units)
    _hand_on(book, node, units)


def _couple_rest(book: Book, node: Node, units: Array) -> None:
    """Couple the units with the inputs behind the weights."""
    for index, tensor in enumerate(node.inputs[3:], 3):
        if index in BY_UNIT and isinstance(tensor, Constant):
            directions, size = units.shape
            view = (directions, math.prod(tensor.shape) // units.size, size)
            book.same(units, book.use(tensor.name, view, (directions, 1, size)))
        elif index in STATES and isinstance(tensor, Constant):
            operand(book, node, tensor, units[:, None])
        elif index in STATES and tensor.name in book.atoms:
            matched(book, node, units[:, None], book.atoms[tensor.name])
        elif tensor.name not in book.alike:
            stop(book, tensor, f"an argument of {label(node)}")
            if tensor.name and index in (*BY_UNIT, *STATES):
                book.fix(units, f"{label(node)}: {tensor.name!r} is computed")


def _hand_on(book: Book, node: Node, units: Array) -> None:
    """Give the outputs the atoms of the units: all steps, and the states after the last."""
    state = units[:, None]
    for tensor, atoms in zip(node.outputs, (state[None], state, state), strict=False):
        book.atoms[tensor.name] = atoms


RULES = dict.fromkeys(GATES, _recurrent)
