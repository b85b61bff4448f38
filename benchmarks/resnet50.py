"""A network of ResNet-50's structure with seeded random weights: its work without its download."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

SEED = 50
STAGES = ((3, 64), (4, 128), (6, 256), (3, 512))  # blocks, channels inside a block
WIDER = 4  # channels of a block's output ÷ those inside
CLASSES = 1000
SAMPLES = 32
BRANCH = 0.3  # gain of a block's last convolution, so that sums of blocks stay small


class ResNet50:
    """ResNet-50 version 1, normalizations folded into the convolutions.

    Attributes:
        nodes: The nodes so far.
        weights: The initializers so far.
    """

    def __init__(self) -> None:
        """Build the nodes from ``image`` to ``logits``."""
        self._rng = np.random.default_rng(SEED)
        self.nodes: list[onnx.NodeProto] = []
        self.weights: list[onnx.TensorProto] = []
        x = self._relu(self._conv("image", (3, 64), 7, stride=2))
        x = self._node("MaxPool", [x], kernel_shape=[3, 3], strides=[2, 2], pads=[1] * 4)
        channels = 64
        for stage, (blocks, inside) in enumerate(STAGES):
            for block in range(blocks):
                stride = 2 if stage and not block else 1
                x = self._block(x, channels, inside, stride)
                channels = inside * WIDER
        x = self._node("Flatten", [self._node("GlobalAveragePool", [x])])
        weight = self._weight((channels, CLASSES), 1.0, channels)
        self._node("Gemm", [x, weight, self._weight((CLASSES,), 0.1, 1)], name="logits")

    def _block(self, x: str, channels: int, inside: int, stride: int) -> str:
        """Add a bottleneck; the stride is in the middle convolution."""
        y = self._relu(self._conv(x, (channels, inside), 1))
        y = self._relu(self._conv(y, (inside, inside), 3, stride=stride))
        y = self._conv(y, (inside, inside * WIDER), 1, gain=BRANCH)
        if channels != inside * WIDER:
            x = self._conv(x, (channels, inside * WIDER), 1, stride=stride, gain=0.5)
        return self._relu(self._node("Add", [x, y]))

    def _conv(
        self, x: str, channels: tuple[int, int], kernel: int, *, stride: int = 1, gain: float = 1.0
    ) -> str:
        """Add a convolution."""
        before, after = channels
        shape = (after, before, kernel, kernel)
        weight = self._weight(shape, gain * np.sqrt(2), before * kernel**2)
        bias = self._weight((after,), 0.1, 1)
        strides, pads = [stride] * 2, [kernel // 2] * 4
        return self._node("Conv", [x, weight, bias], strides=strides, pads=pads)

    def _relu(self, x: str) -> str:
        """Add a Relu."""
        return self._node("Relu", [x])

    def _weight(self, shape: tuple[int, ...], gain: float, inputs: int) -> str:
        """Add normal values of deviation gain / √inputs."""
        values = self._rng.standard_normal(shape, np.float32) * np.float32(gain / np.sqrt(inputs))
        name = f"weight_{len(self.weights)}"
        self.weights.append(numpy_helper.from_array(values, name))
        return name

    def _node(self, kind: str, inputs: Sequence[str], name: str = "", **attributes: object) -> str:
        """Add a node, return the name of its output."""
        name = name or f"{kind}_{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], name=name, **attributes))
        return name


def build(folder: Path) -> None:
    """Write ``model.onnx`` and ``calib.npz``, normal values from a seed.

    Args:
        folder: Made if it is not there.
    """
    folder.mkdir(parents=True, exist_ok=True)
    network = ResNet50()
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        network.nodes,
        "resnet50",
        [info("image", TensorProto.FLOAT, ["N", 3, 224, 224])],
        [info("logits", TensorProto.FLOAT, ["N", CLASSES])],
        network.weights,
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(graph, ir_version=8, opset_imports=opsets)
    onnx.checker.check_model(model, full_check=True)
    samples = np.random.default_rng(SEED + 1).standard_normal((SAMPLES, 3, 224, 224), np.float32)
    np.savez(folder / "calib.npz", image=samples)
    onnx.save(model, folder / "model.onnx")
