"""Channels that must be divided by the same factors, and the layers around them.

A tensor whose channels are divided by s, one positive factor each, is still right if all that
write it and all that read it take part: a layer takes s into its weights, an operator with
f(x/s) = f(x)/s hands it on, and so does an Add whose other side is divided too. Tensors tied that
way are a family; one that meets any other operator, or the model's inputs or outputs, stays.

A Clip at other ends than 0 only hands s on for channels that never reach these ends
(`onnxq.numerics.equalization.clip_room`); it is for whoever scales a family to heed its clips.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from onnxq.graph.bounds import why_not_zeros
from onnxq.graph.io import Constant, Model, Node, Tensor, array_of
from onnxq.graph.linear import LINEAR, by_group, why_not_linear
from onnxq.graph.query import TensorType, activation_bounds, is_standard, label, tensor_types
from onnxq.types import Array

POINTWISE = ("Relu", "LeakyRelu", "PRelu", "Identity")
OUTPUT = "it is an output of the model"
POOLING = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a family meets constants that depend on its factors.

    Attributes:
        node: An Add, or a Clip.
        index: Which of its inputs is a constant that is added.
        rank: Rank of what it reads.
    """

    node: Node
    index: int
    rank: int


@dataclass(frozen=True, kw_only=True)
class Family:
    """Tensors whose channels share one factor each.

    Attributes:
        tensors: All of them, in graph order.
        axis: Where their channels lie.
        writers: Layers that write one of them.
        readers: Layers that read one of them.
        clips: Where values are cut off inside.
        offsets: Constants that are added inside.
        reason: Why it has to stay as it is, or nothing.
    """

    tensors: list[Tensor]
    axis: int
    writers: list[Node]
    readers: list[Node]
    clips: list[Place]
    offsets: list[Place]
    reason: str

    @property
    def channels(self) -> int:
        """How many channels it has."""
        return _outputs(self.writers[0])


def families(model: Model) -> list[Family]:
    """Return the families that a layer writes and a layer reads, or would but for a reason."""
    ties = _Ties(types=tensor_types(model))
    _interface(model, ties)
    for node in model.graph.nodes:
        RULES.get(node.op if is_standard(node) else "", _other)(ties, node)
    found: dict[str, list[Tensor]] = {}
    for name, tensor in ties.tensors.items():
        found.setdefault(ties.root(name), []).append(tensor)
    candidates = [_family(ties, members) for members in found.values()]
    return [
        each
        for each in candidates
        if each.writers and (each.readers or each.reason not in ("", OUTPUT))
    ]


@dataclass
class _Ties:
    """What the operators of a model say, as they are gone through.

    Attributes:
        types: What is known of the shapes of tensors.
        tensors: All activations met so far.
        why: Reasons to stay, by tensor name.
        axes: Tensor name to the axes its neighbours take for its channels.
        nodes: Tensor name to the layers around it, each with ``reads`` or ``writes``.
        places: Tensor name to what is added to it or cut off, with the operator's type.
    """

    types: dict[str, TensorType]
    tensors: dict[str, Tensor] = field(default_factory=dict)
    why: dict[str, str] = field(default_factory=dict)
    axes: dict[str, set[int]] = field(default_factory=dict)
    nodes: dict[str, list[tuple[str, Node]]] = field(default_factory=dict)
    places: dict[str, list[Place]] = field(default_factory=dict)
    _parents: dict[str, str] = field(default_factory=dict)

    def root(self, name: str) -> str:
        """Return the tensor that stands for a family."""
        while self._parents.get(name, name) != name:
            name = self._parents[name]
        return name

    def touch(self, tensor: Tensor, axis: int | None = None) -> None:
        """Meet a tensor, and know its axis of channels."""
        self.tensors.setdefault(tensor.name, tensor)
        if axis is not None:
            self.axes.setdefault(tensor.name, set()).add(axis)

    def tie(self, *tensors: Tensor, axis: int | None = None) -> None:
        """Let tensors be of one family."""
        for tensor in tensors:
            self.touch(tensor, axis)
            self._parents[self.root(tensor.name)] = self.root(tensors[0].name)

    def fix(self, tensor: Tensor, reason: str) -> None:
        """Let the family of a tensor stay."""
        if tensor.name and not isinstance(tensor, Constant):
            self.touch(tensor)
            self.why.setdefault(tensor.name, reason)

    def note(self, kind: str, tensor: Tensor, node: Node) -> None:
        """Remember what a node does to a family."""
        self.nodes.setdefault(tensor.name, []).append((kind, node))

    def rank(self, tensor: Tensor) -> int | None:
        """Return the rank of a tensor, None if it is not known."""
        kind = self.types.get(tensor.name)
        return None if kind is None or kind.shape is None else len(kind.shape)


def _family(ties: _Ties, members: list[Tensor]) -> Family:
    """Put together what is known of one family."""
    names = [tensor.name for tensor in members]
    noted = [entry for name in names for entry in ties.nodes.get(name, ())]
    places = [place for name in names for place in ties.places.get(name, ())]
    axes = {axis for name in names for axis in ties.axes.get(name, ())}
    of = {kind: [n for k, n in noted if k == kind] for kind in ("writes", "reads")}
    sizes = {_outputs(node) for node in of["writes"]} | {_inputs(node) for node in of["reads"]}
    reasons = [ties.why[name] for name in names if name in ties.why]
    if len(axes) > 1:
        reasons.append("its channels lie on different axes")
    if len(sizes) > 1:
        reasons.append("its layers have different numbers of channels")
    return Family(
        tensors=members,
        axis=min(axes, default=1),
        writers=of["writes"],
        readers=of["reads"],
        clips=[place for place in places if place.node.op == "Clip"],
        offsets=[place for place in places if place.node.op == "Add"],
        reason=reasons[0] if reasons else "",
    )


def _outputs(layer: Node) -> int:
    """Return how many channels a layer writes."""
    return int(_sizes(layer)[0] * _sizes(layer)[1])


def _inputs(layer: Node) -> int:
    """Return how many channels a layer reads."""
    return int(_sizes(layer)[0] * _sizes(layer)[2])


def _sizes(layer: Node) -> tuple[int, ...]:
    """Return groups, outputs and inputs of a layer."""
    grouped: Array = by_group(layer, array_of(layer.inputs[1]))
    return grouped.shape


def _interface(model: Model, ties: _Ties) -> None:
    """Let stay what the user reads and writes, and what bodies of If, Loop and Scan read."""
    for tensor in model.graph.inputs:
        ties.fix(tensor, "the model reads it")
    for tensor in model.graph.outputs:
        ties.fix(tensor, OUTPUT)
    for graph in model.graph.subgraphs(recursive=True):
        for node in graph.nodes:
            for tensor in node.inputs:
                ties.fix(tensor, f"{label(node)} in a body of If, Loop or Scan reads it")
        for tensor in graph.outputs:
            ties.fix(tensor, "a body of If, Loop or Scan returns it")


def _layer(ties: _Ties, node: Node) -> None:
    """Let a layer take factors of its inputs and outputs."""
    why = why_not_linear(node)
    if why:
        _stop(ties, node, f"{label(node)}: {why}")
        return
    read, written = node.inputs[0], node.outputs[0]
    for kind, tensor in (("reads", read), ("writes", written)):
        axis = 1
        if node.op == "MatMul":
            rank = ties.rank(tensor)
            if rank is None:
                ties.fix(tensor, f"{label(node)}: the number of its axes is not known")
            axis = (rank or 1) - 1
        ties.touch(tensor, axis)
        ties.note(kind, tensor, node)


def _handed_on(ties: _Ties, node: Node) -> None:
    """Tie what an operator reads and writes."""
    arguments = [tensor for tensor in node.inputs[1:] if tensor.name]
    if len(node.outputs) > 1 or not all(isinstance(tensor, Constant) for tensor in arguments):
        _stop(ties, node, f"{label(node)} has several outputs, or computed arguments")
        return
    channels = None if node.op in POINTWISE else 1
    ties.tie(node.inputs[0], node.outputs[0], axis=channels)


def _pad(ties: _Ties, node: Node) -> None:
    """Tie what is padded by zeros, or by what is there."""
    why = why_not_zeros(node)
    if why:
        _stop(ties, node, f"{label(node)}: {why}")
    else:
        _handed_on(ties, node)


def _flatten(ties: _Ties, node: Node) -> None:
    """Tie what becomes a vector a sample; a layer of another size than the channels refuses."""
    if node.attrs.get("axis", 1) != 1:
        _stop(ties, node, f"{label(node)} joins samples")
    else:
        _handed_on(ties, node)


def _clip(ties: _Ties, node: Node) -> None:
    """Tie what a Clip does not cut; where it cuts at zero, it is a Relu."""
    low, high = activation_bounds(node)
    known = all(isinstance(tensor, Constant) or not tensor.name for tensor in node.inputs[1:])
    if not known or not low <= 0 < high:
        _stop(ties, node, f"{label(node)} does not cut around 0")
        return
    ties.tie(node.inputs[0], node.outputs[0])
    _place(ties, node, 0)


def _add(ties: _Ties, node: Node) -> None:
    """Tie both sides of a sum, or the one beside a constant."""
    constants = [i for i, tensor in enumerate(node.inputs) if isinstance(tensor, Constant)]
    variables = [tensor for tensor in node.inputs if not isinstance(tensor, Constant)]
    if constants and variables:
        ties.tie(variables[0], node.outputs[0])
        _place(ties, node, constants[0])
        return
    shapes = [ties.types[t.name].shape if t.name in ties.types else None for t in node.inputs]
    if None in shapes or shapes[0] != shapes[1]:
        _stop(ties, node, f"{label(node)} adds tensors of different or unknown shapes")
    else:
        ties.tie(*variables, node.outputs[0])


def _place(ties: _Ties, node: Node, index: int) -> None:
    """Note where a constant is or may be put, whose axes have to be counted."""
    rank = ties.rank(node.outputs[0])
    read = next(tensor for tensor in node.inputs if not isinstance(tensor, Constant))
    if rank is None or ties.rank(read) != rank:
        ties.fix(node.outputs[0], f"{label(node)} adds axes, or their number is not known")
    else:
        place = Place(node=node, index=index, rank=rank)
        ties.places.setdefault(node.outputs[0].name, []).append(place)


def _multiply(ties: _Ties, node: Node) -> None:
    """Tie what is multiplied or divided by a constant."""
    variables = [tensor for tensor in node.inputs if not isinstance(tensor, Constant)]
    over = node.op == "Div" and isinstance(node.inputs[0], Constant)
    same = ties.rank(variables[0]) == ties.rank(node.outputs[0]) if variables else False
    if len(variables) != 1 or over or not same:
        _stop(ties, node, f"{label(node)} computes with two of them")
    else:
        ties.tie(variables[0], node.outputs[0])


def _shape(ties: _Ties, node: Node) -> None:
    """Sizes do not depend on values."""
    ties.fix(node.outputs[0], "it holds sizes")


def _other(ties: _Ties, node: Node) -> None:
    """Let all stay that an operator reads and writes about which nothing is known."""
    _stop(ties, node, f"{label(node)}: {node.op} does not hand a factor on")


def _stop(ties: _Ties, node: Node, reason: str) -> None:
    """Let all stay that a node reads and writes."""
    for tensor in (*node.inputs, *node.outputs):
        ties.fix(tensor, reason)


RULES: dict[str, Callable[[_Ties, Node], None]] = {
    **dict.fromkeys(LINEAR, _layer),
    **dict.fromkeys((*POINTWISE, *POOLING), _handed_on),
    **dict.fromkeys(("Mul", "Div"), _multiply),
    **dict.fromkeys(("Shape", "Size"), _shape),
    "Add": _add,
    "Clip": _clip,
    "Flatten": _flatten,
    "Pad": _pad,
}
