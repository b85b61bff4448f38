"""Random networks: convolutions, joins, cuts, shuffles and tokens in any order, tiny tensors."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from hypothesis import strategies as st
from onnx import helper

from onnxq.types import Array

SIDE = 4  # of all maps
Draw = st.DrawFn


@dataclass
class Net:
    """A graph in the making; every step reads some of its maps and adds others.

    Attributes:
        rng: Draws the weights.
        maps: Name and channels of what there is to read, all of shape (2, C, SIDE, SIDE).
    """

    rng: np.random.Generator
    maps: list[tuple[str, int]]
    nodes: list[onnx.NodeProto] = field(default_factory=list)
    constants: dict[str, Array] = field(default_factory=dict)

    def add(self, op: str, inputs: Sequence[str], outputs: int = 1, **attributes: Any) -> list[str]:
        names = [f"t{len(self.nodes)}_{index}" for index in range(outputs)]
        self.nodes.append(helper.make_node(op, inputs, names, **attributes))
        return names

    def one(self, op: str, *inputs: str, **attributes: Any) -> str:
        return self.add(op, inputs, **attributes)[0]

    def hold(self, values: Array) -> str:
        name = f"k{len(self.constants)}"
        self.constants[name] = values
        return name

    def ints(self, *values: int) -> str:
        return self.hold(np.array(values, np.int64))

    def floats(self, *shape: int) -> str:
        scale = np.sqrt(max(np.prod(shape[1:]), 1))
        return self.hold((self.rng.normal(size=shape) / scale).astype(np.float32))

    def weights(self, draw: Draw, *shape: int) -> str:
        """Return new weights, or some of that shape that others read."""
        known = [name for name, values in self.constants.items() if values.shape == shape]
        known = [name for name in known if self.constants[name].dtype == np.float32]
        return draw(st.sampled_from(known)) if known and draw(odds(2)) else self.floats(*shape)

    def pick(self, draw: Draw, multiple: int = 1) -> tuple[str, int]:
        """Return one of the maps, with a multiple of so many channels."""
        fit = [each for each in self.maps if each[1] % multiple == 0]
        if fit:
            return draw(st.sampled_from(fit[-4:]))
        name, channels = self.maps[-1]
        weights = self.floats(2 * multiple, channels, 1, 1)
        return self.one("Conv", name, weights), 2 * multiple


def odds(out_of: int) -> st.SearchStrategy[bool]:
    return st.integers(1, out_of).map(lambda drawn: drawn == out_of)


def conv(draw: Draw, net: Net) -> None:
    name, channels = net.pick(draw)
    groups = draw(st.sampled_from([n for n in (1, 1, 2, 3, channels) if channels % n == 0]))
    out = groups * draw(st.integers(1, 8 // groups + 1))
    kernel = draw(st.sampled_from([1, 3]))
    transposed = draw(odds(5))
    shape = (channels, out // groups) if transposed else (out, channels // groups)
    inputs = [name, net.weights(draw, *shape, kernel, kernel)]
    if draw(st.booleans()):
        inputs.append(net.weights(draw, out))
    op = "ConvTranspose" if transposed else "Conv"
    (made,) = net.add(op, inputs, group=groups, pads=[kernel // 2] * 4)
    net.maps.append((made, out))


def activation(draw: Draw, net: Net) -> None:
    name, channels = net.pick(draw)
    op = draw(st.sampled_from(["Relu", "Sigmoid", "HardSwish", "PRelu", "Softmax", "Clip"]))
    more: tuple[str, ...] = ()
    if op == "PRelu":
        shapes = [(channels, 1, 1), (1,), (1, channels, 1, 1), (1, 1, SIDE)]
        more = (net.weights(draw, *draw(st.sampled_from(shapes))),)
    elif op == "Clip":
        more = ("", net.hold(np.array(0.5, np.float32)))
    attributes = {"axis": draw(st.sampled_from([1, -1, 2]))} if op == "Softmax" else {}
    net.maps.append((net.one(op, name, *more, **attributes), channels))


def normalization(draw: Draw, net: Net) -> None:
    name, channels = net.pick(draw)
    op = draw(st.sampled_from(["BatchNormalization", "InstanceNormalization"]))
    vectors = [net.weights(draw, channels) for _ in range(2)]
    if op == "BatchNormalization":
        spread = net.rng.uniform(0.5, 2, channels).astype(np.float32)
        vectors += [net.weights(draw, channels), net.hold(spread)]
    net.maps.append((net.one(op, name, *vectors, epsilon=0.01), channels))


def constant(draw: Draw, net: Net) -> None:
    name, c = net.pick(draw)
    shapes = [(c, 1, 1), (1, c, 1, 1), (1,), (), (c, SIDE, SIDE), (SIDE,), (2, 1, 1, 1)]
    held = net.weights(draw, *draw(st.sampled_from(shapes)))
    pair = [name, held] if draw(st.booleans()) else [held, name]
    op = draw(st.sampled_from(["Add", "Sub", "Mul", "Max", "Min"]))
    net.maps.append((net.one(op, *pair), c))


def join(draw: Draw, net: Net) -> None:
    name, channels = net.pick(draw)
    fit = [other for other, size in net.maps if size in (1, channels)]
    others = draw(st.lists(st.sampled_from(fit or [name]), min_size=1, max_size=2))
    op = draw(st.sampled_from(["Sum", "Max", "Mean"] if len(others) > 1 else ["Add", "Mul"]))
    net.maps.append((net.one(op, name, *others), channels))


def concat(draw: Draw, net: Net) -> None:
    parts = [net.pick(draw) for _ in range(draw(st.integers(2, 3)))]
    if draw(odds(4)):
        parts.append((net.floats(2, 2, SIDE, SIDE), 2))
    made = net.one("Concat", *(name for name, _ in parts), axis=draw(st.sampled_from([1, -3])))
    net.maps.append((made, sum(channels for _, channels in parts)))


def split(draw: Draw, net: Net) -> None:
    name, channels = net.pick(draw, 2)
    at = draw(st.integers(1, channels - 1))
    sizes = net.ints(at, channels - at)
    first, second = net.add("Split", [name, sizes], 2, axis=draw(st.sampled_from([1, -3])))
    net.maps += [(first, at), (second, channels - at)]


def take(draw: Draw, net: Net) -> None:
    name, channels = net.pick(draw)
    if draw(st.booleans()):
        picked = draw(st.lists(st.integers(-channels, channels - 1), min_size=1, max_size=6))
        if draw(st.booleans()):
            picked = draw(st.permutations(range(channels)))
        made = net.one("Gather", name, net.ints(*picked), axis=1)
        net.maps.append((made, len(picked)))
        return
    start, end = sorted(draw(st.lists(st.integers(0, channels), min_size=2, max_size=2)))
    step = draw(st.sampled_from([1, 1, 2, -1]))
    kept = slice(start, end, step) if step > 0 else slice(None, None, -1)
    cut = (start, end) if step > 0 else (-1, -(1 << 63))
    count = len(range(channels)[kept])
    if count:
        arguments = [net.ints(value) for value in (*cut, 1, step)]
        net.maps.append((net.one("Slice", name, *arguments), count))


def pad(draw: Draw, net: Net) -> None:
    name, channels = net.pick(draw)
    front, back = draw(st.integers(0, 2)), draw(st.integers(0, 2))
    value = net.hold(np.array(draw(st.sampled_from([0, 0.5])), np.float32))
    made = net.one("Pad", name, net.ints(0, front, 0, 0, 0, back, 0, 0), value)
    net.maps.append((made, channels + front + back))


def pool(draw: Draw, net: Net) -> None:
    name, channels = net.pick(draw)
    op = draw(st.sampled_from(["MaxPool", "AveragePool"]))
    net.maps.append((net.one(op, name, kernel_shape=[3, 3], pads=[1] * 4), channels))


def gate(draw: Draw, net: Net) -> None:
    """Squeeze and excite."""
    name, channels = net.pick(draw)
    inner = draw(st.integers(1, 4))
    pooled = net.one("GlobalAveragePool", name)
    small = net.one("Relu", net.one("Conv", pooled, net.floats(inner, channels, 1, 1)))
    large = net.one("Sigmoid", net.one("Conv", small, net.floats(channels, inner, 1, 1)))
    net.maps.append((net.one("Mul", name, large), channels))


def centre(draw: Draw, net: Net) -> None:
    name, channels = net.pick(draw)
    axes = draw(st.sampled_from([[1], [2, 3], [-3], [0, 1], [1, 2, 3]]))
    op = draw(st.sampled_from(["ReduceMean", "ReduceMax"]))
    net.maps.append((net.one("Sub", name, net.one(op, name, axes=axes)), channels))


def shuffle(draw: Draw, net: Net) -> None:
    """Channel shuffle."""
    name, channels = net.pick(draw, 2)
    apart = net.one("Reshape", name, net.ints(0, 2, -1, SIDE, SIDE))
    if draw(odds(3)):  # a group normalization
        apart = net.one("InstanceNormalization", apart, net.floats(2), net.floats(2), epsilon=0.1)
    if draw(st.booleans()):
        apart = net.one("Transpose", apart, perm=[0, 2, 1, 3, 4])
    net.maps.append((net.one("Reshape", apart, net.ints(2, channels, SIDE, -1)), channels))


def fold(draw: Draw, net: Net) -> None:
    """From depth to space and back."""
    name, channels = net.pick(draw, 4)
    mode = draw(st.sampled_from(["DCR", "CRD"]))
    large = net.one("DepthToSpace", name, blocksize=2, mode=mode)
    mixed = net.one("Conv", large, net.floats(2, channels // 4, 1, 1))
    back = net.one("SpaceToDepth", mixed, blocksize=2)
    net.maps.append((net.one("Conv", back, net.floats(3, 8, 1, 1)), 3))


def tokens(draw: Draw, net: Net) -> None:
    """A linear layer over the channels of every place."""
    name, channels = net.pick(draw)
    rows = net.one("Transpose", net.one("Reshape", name, net.ints(0, 0, -1)), perm=[0, 2, 1])
    width = draw(st.integers(1, 6))
    made = net.one("MatMul", rows, net.weights(draw, channels, width))
    if draw(st.booleans()):
        made = net.one("Add", made, net.weights(draw, width))
    if draw(st.booleans()):
        vectors = net.weights(draw, width), net.weights(draw, width)
        made = net.one("LayerNormalization", made, *vectors, epsilon=0.01)
    made = net.one("Transpose", made, perm=[0, 2, 1])
    net.maps.append((net.one("Reshape", made, net.ints(0, width, SIDE, SIDE)), width))


def attention(draw: Draw, net: Net) -> None:
    """Two heads over the places of a map."""
    name, channels = net.pick(draw)
    rows = net.one("Transpose", net.one("Reshape", name, net.ints(0, 0, -1)), perm=[0, 2, 1])
    width = draw(st.integers(1, 3))
    parts = []
    for turn in ([0, 2, 1, 3], [0, 2, 3, 1], [0, 2, 1, 3]):
        made = net.one("MatMul", rows, net.weights(draw, channels, 2 * width))
        made = net.one("Reshape", made, net.ints(0, 0, 2, width))
        parts.append(net.one("Transpose", made, perm=turn))
    weights = net.one("Softmax", net.one("MatMul", parts[0], parts[1]), axis=-1)
    made = net.one("Transpose", net.one("MatMul", weights, parts[2]), perm=[0, 1, 3, 2])
    net.maps.append((net.one("Reshape", made, net.ints(2, -1, SIDE, SIDE)), 2 * width))


STEPS: tuple[Callable[[Draw, Net], None], ...] = (
    conv, conv, conv, activation, normalization, constant, join, join, concat, split, take, pad,
    pool, gate, centre, shuffle, fold, tokens, attention,
)  # fmt: skip


def head(draw: Draw, net: Net, index: int) -> str:
    """Return an output: a map as it is, or what a linear layer makes of it."""
    name, channels = net.maps[-1 - index]
    kind = draw(st.sampled_from(["flatten", "pool", "conv", "map"]))
    if kind == "map":
        return name
    if kind == "conv":
        return net.one("Conv", name, net.floats(2, channels, 1, 1))
    if kind == "pool":
        flat = net.one("Squeeze", net.one("GlobalMaxPool", name), net.ints(2, 3))
        return net.one("MatMul", flat, net.weights(draw, channels, 3))
    hidden = net.one("Relu", gemm(draw, net, net.one("Flatten", name), channels * SIDE * SIDE, 4))
    return gemm(draw, net, hidden, 4, 3)


def gemm(draw: Draw, net: Net, name: str, rows: int, columns: int) -> str:
    transposed = draw(st.booleans())
    shape = (columns, rows) if transposed else (rows, columns)
    bias = net.weights(draw, *draw(st.sampled_from([(columns,), (1, columns), (2, 1), ()])))
    return net.one("Gemm", name, net.weights(draw, *shape), bias, transB=int(transposed))


@st.composite
def networks(draw: Draw) -> onnx.ModelProto:
    """Models of 3 to 12 steps, one or two outputs, weights from a seed."""
    net = Net(np.random.default_rng(draw(st.integers(0, 10**6))), [("x", 3)])
    conv(draw, net)
    for step in draw(st.lists(st.sampled_from(STEPS), min_size=2, max_size=11)):
        step(draw, net)
    outputs = dict.fromkeys(head(draw, net, index) for index in range(draw(st.integers(1, 2))))
    return model_of(net, list(outputs))


def model_of(net: Net, outputs: Sequence[str]) -> onnx.ModelProto:
    """Return the model of a net, its inferred shapes included."""
    size = [2, 3, SIDE, SIDE]
    graph = helper.make_graph(
        net.nodes,
        "net",
        [helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, size)],
        [onnx.ValueInfoProto(name=name) for name in outputs],
        [onnx.numpy_helper.from_array(values, name) for name, values in net.constants.items()],
    )
    opset = [helper.make_opsetid("", 17)]
    return onnx.shape_inference.infer_shapes(
        helper.make_model(graph, opset_imports=opset, ir_version=8), data_prop=True
    )
