"""Take tensors as onnxruntime holds them, where the order of their values does not matter.

Between convolutions onnxruntime keeps tensors in blocks of channels. To return one in the layout of
the model, a node of its own reorders the values, which can cost a third of the inference itself.
Statistics over a whole tensor do without: here those nodes are taken out of the optimized model.
"""

from collections.abc import Collection
from pathlib import Path

import onnx

REORDER = "ReorderOutput"
BLOCK = 16  # channels, at most; a tensor that does not fill its blocks is padded


def take_blocked(path: Path, names: Collection[str]) -> dict[str, str]:
    """Let an optimized model return tensors as they lie in memory.

    Args:
        path: The model that onnxruntime wrote, its weights outside; replaced.
        names: Outputs whose values may come in any order.

    Returns:
        Output name to the name of what is returned in its place, for those that differ.
    """
    proto = onnx.load(path, load_external_data=False)
    nodes, outputs = proto.graph.node, proto.graph.output
    makers = {node.output[0]: node for node in nodes if node.op_type == REORDER}
    found = {
        name: makers[name].input[0] for name in names if name in makers and _is_full(makers[name])
    }
    read = {name for node in nodes for name in node.input}
    for name in found.keys() - read:
        nodes.remove(makers[name])
    kept = [onnx.ValueInfoProto(name=found.get(value.name, value.name)) for value in outputs]
    del outputs[:]
    outputs.extend(kept)
    path.write_bytes(proto.SerializeToString())
    return found


def _is_full(node: onnx.NodeProto) -> bool:
    """Say whether a tensor fills all its blocks."""
    return any(a.name == "channels" and a.i % BLOCK == 0 for a in node.attribute)
