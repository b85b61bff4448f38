"""Run a quantized model in pieces, one after the other, and change the constants of some of them.

    x ─ Q ─┊─ DQ ─ Conv ─ Q ─ DQ ─ Conv ─ Q ─┊─ DQ ─ Add ─ Q ─ DQ ─ …
         piece 0           piece 1               piece 2

What pieces hand on is mostly codes. Each is a session of its own with its own integer kernels, so
that new constants cost the building of a small session, and what comes before is not run again. A
DequantizeLinear whose codes come from an earlier piece is written in every piece that needs it.
"""

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx.external_data_helper import load_external_data_for_tensor

from onnxq.graph.external import is_external
from onnxq.graph.messages import in_order, inputs_of
from onnxq.graph.session import Runtime, Session
from onnxq.types import Array

PIECES = 16
FLOAT_COST = 4  # bytes a float is handed on with; a code costs 1


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some nodes of a model.

    Attributes:
        nodes: In order, with those that are repeated for it.
        constants: Names of the initializers they read.
        reads: What they read of what comes before.
        writes: What they write for what comes after.
        needed: What of all that came before, and of this, is still needed afterwards.
    """

    nodes: tuple[onnx.NodeProto, ...]
    constants: frozenset[str]
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    needed: frozenset[str]


def cut(proto: onnx.ModelProto, count: int, behind: Collection[str] = ()) -> list[Piece]:
    """Cut a model into at most so many pieces, where little is handed on.

    Args:
        proto: The model.
        count: How many; fewer where the model is small.
        behind: Cut behind the nodes that write these tensors instead, and nowhere else.
    """
    graph = proto.graph
    constants = {tensor.name for tensor in graph.initializer}
    constants |= {sparse.values.name for sparse in graph.sparse_initializer}
    maker = {name: node for node in graph.node for name in node.output if name}
    outputs = [value.name for value in graph.output]
    repeated = _repeated(graph.node, constants, set(outputs))
    nodes = in_order([node for node in graph.node if id(node) not in repeated])

    def reads(node: onnx.NodeProto) -> set[str]:
        """Return what a node reads, in place of what is repeated what that reads."""
        found: set[str] = set()
        for name in inputs_of(node) - constants - {""}:
            before = maker.get(name)
            again = before is not None and id(before) in repeated
            found |= reads(before) if again and before is not None else {name}
        return found

    needs = [reads(node) for node in nodes]
    last: dict[str, int] = {}
    for index, names in enumerate(needs):
        last.update(dict.fromkeys(names, index))
    last.update(dict.fromkeys(outputs, len(nodes)))
    cuts = _behind(nodes, behind) if behind else _cuts(nodes, last, count)
    pieces = []
    for start, stop in zip([0, *cuts], [*cuts, len(nodes)], strict=True):
        own = nodes[start:stop]
        made = {name for node in own for name in node.output}
        held = _with_repeated(own, maker, repeated)
        read = set().union(*needs[start:stop]) - made
        pieces.append(
            Piece(
                nodes=tuple(held),
                constants=frozenset(set().union(*map(inputs_of, held)) & constants),
                reads=tuple(sorted(read)),
                writes=tuple(name for name in sorted(made) if last.get(name, -1) >= stop),
                needed=frozenset(name for name, index in last.items() if index >= stop),
            )
        )
    return pieces


def _repeated(nodes: Iterable[onnx.NodeProto], constants: set[str], outputs: set[str]) -> set[int]:
    """Return the nodes every piece may have for itself: DequantizeLinear, and what is constant."""
    found: set[int] = set()
    still = set(constants)
    for node in nodes:
        fixed = inputs_of(node) - {""} <= still and not _is_random(node)
        if (fixed or node.op_type == "DequantizeLinear") and not outputs & set(node.output):
            found.add(id(node))
            still |= set(node.output) if fixed else set()
    return found


def _is_random(node: onnx.NodeProto) -> bool:
    """Say whether a node may give other values each time."""
    return "Random" in node.op_type or node.op_type in ("Bernoulli", "Multinomial")


def _with_repeated(
    own: Sequence[onnx.NodeProto], maker: Mapping[str, onnx.NodeProto], repeated: set[int]
) -> list[onnx.NodeProto]:
    """Return nodes in order, those that are repeated for them included."""
    held: dict[int, onnx.NodeProto] = {}

    def add(node: onnx.NodeProto) -> None:
        for name in sorted(inputs_of(node)):
            before = maker.get(name)
            if before is not None and id(before) in repeated and id(before) not in held:
                add(before)
        held[id(node)] = node

    for node in own:
        add(node)
    return list(held.values())


def _cuts(nodes: Sequence[onnx.NodeProto], last: Mapping[str, int], count: int) -> list[int]:
    """Return before which nodes to cut: evenly, but where the least is handed on."""
    cost = np.zeros(len(nodes) + 1)
    for index, node in enumerate(nodes):
        weight = 1 if node.op_type == "QuantizeLinear" else FLOAT_COST
        for name in node.output:
            cost[index + 1 : last.get(name, index) + 1] += weight
    count = min(count, max(len(nodes) // 4, 1))
    ends = np.linspace(0, len(nodes), count + 1)
    half = len(nodes) / count / 2
    found: set[int] = set()
    for end in ends[1:-1]:
        near = range(max(int(end - half), 1), min(int(end + half) + 1, len(nodes)))
        found.add(min(near, key=lambda i: (cost[i], abs(i - end))))
    return sorted(found)


def _behind(nodes: Sequence[onnx.NodeProto], tensors: Collection[str]) -> list[int]:
    """Return before which nodes to cut: behind those that write some tensors."""
    wanted = set(tensors)
    ends = [index + 1 for index, node in enumerate(nodes) if wanted & set(node.output)]
    return [end for end in ends if end < len(nodes)]


class Chain:
    """A model in pieces.

    Attributes:
        pieces: In order.
    """

    def __init__(
        self,
        proto: onnx.ModelProto,
        folder: Path,
        runtime: Runtime,
        count: int = PIECES,
        behind: Collection[str] = (),
    ) -> None:
        """Cut a model.

        Args:
            proto: The model; it belongs to the chain afterwards.
            folder: Where its external data lies.
            runtime: How to run it.
            count: Into how many pieces at most.
            behind: Cut behind the nodes that write these tensors instead.
        """
        for tensor in proto.graph.initializer:
            if is_external(tensor):
                load_external_data_for_tensor(tensor, str(folder))
        self.pieces = cut(proto, count, behind)
        self._proto, self._runtime = proto, runtime
        self._constants = {tensor.name: tensor for tensor in proto.graph.initializer}
        self._sparse = {each.values.name: each for each in proto.graph.sparse_initializer}
        self._outputs = [value.name for value in proto.graph.output]
        self._types: dict[str, tuple[np.dtype[Any], int]] = {}
        self._sessions: dict[int, Session] = {}

    def first(self, constants: Iterable[str]) -> int:
        """Return the first piece that reads some constants; past the last if none does."""
        return min(self._reading(constants), default=len(self.pieces))

    def _reading(self, constants: Iterable[str]) -> list[int]:
        """Return the pieces that read some constants."""
        wanted = set(constants)
        return [i for i, piece in enumerate(self.pieces) if piece.constants & wanted]

    def run(
        self,
        values: Mapping[str, Any],
        start: int,
        stop: int | None = None,
        sessions: Mapping[int, Session] | None = None,
    ) -> dict[str, Any]:
        """Run some pieces.

        Args:
            values: What is needed of what comes before the first of them: for piece 0 the inputs.
            start: The first piece.
            stop: The piece to stop before; None to run them all.
            sessions: Use these in place of the pieces' own.

        Returns:
            What is still needed afterwards; in the end, the outputs.

        Raises:
            ModelError: A piece cannot run.
        """
        values, stop = dict(values), len(self.pieces) if stop is None else stop
        for index in range(start, stop):
            piece = self.pieces[index]
            if piece.writes:
                session = (sessions or {}).get(index) or self._session(index, values)
                made = session.run({name: values[name] for name in piece.reads})
                values.update(zip(piece.writes, made, strict=True))
            values = {name: value for name, value in values.items() if name in piece.needed}
        if stop == len(self.pieces):
            return {name: values[name] for name in self._outputs}
        return values

    def _session(self, index: int, values: Mapping[str, Any]) -> Session:
        """Return the session of a piece, built when it is first run."""
        if index not in self._sessions:
            for name in self.pieces[index].reads:
                array = np.asarray(values[name])
                self._types[name] = array.dtype, array.ndim
            self._sessions[index] = self._built(index, {})
        return self._sessions[index]

    def forget(self, index: int) -> None:
        """Let go of the session of a piece; it is built again if it is run again."""
        self._sessions.pop(index, None)

    def changed(self, constants: Mapping[str, Array]) -> dict[int, Session]:
        """Return new sessions of the pieces that read some constants, with other values there.

        Every piece must have been run before.
        """
        return {index: self._built(index, constants) for index in self._reading(constants)}

    def keep(self, constants: Mapping[str, Array], sessions: Mapping[int, Session]) -> None:
        """Make a change last, with the sessions `changed` gave."""
        for name, value in constants.items():
            self._constants[name] = onnx.numpy_helper.from_array(value, name)
        self._sessions.update(sessions)

    def _built(self, index: int, constants: Mapping[str, Array]) -> Session:
        """Build the session of a piece."""
        piece, original = self.pieces[index], self._proto
        proto = onnx.ModelProto(ir_version=original.ir_version)
        proto.opset_import.extend(original.opset_import)
        proto.functions.extend(original.functions)
        proto.graph.name = "piece"
        proto.graph.node.extend(piece.nodes)
        for name in sorted(piece.constants):
            if name in constants:
                value = onnx.numpy_helper.from_array(constants[name], name)
                proto.graph.initializer.append(value)
            elif name in self._constants:
                proto.graph.initializer.append(self._constants[name])
            else:
                proto.graph.sparse_initializer.append(self._sparse[name])
        for name in piece.reads:
            dtype, rank = self._types[name]
            kind = onnx.helper.np_dtype_to_tensor_dtype(dtype)
            described = onnx.helper.make_tensor_value_info(name, kind, [None] * rank)
            proto.graph.input.append(described)
        proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in piece.writes)
        return Session(proto, self._runtime)
