"""Fold a Pad of zeros into the Conv or pooling behind it.

Before:
    p = Pad(x, pads)
    y = Conv<pads = [a, b, c, d]>(p, W)

After:
    y = Conv<pads = [a + t, b + l, c + u, d + r]>(x, W)

Exporters write "same" padding this way; a Pad of its own between quantized operators costs a
conversion to float and back. Refused: (1) the padding is not constant, not of zeros, or
negative; (2) it pads the batch or channel axis; (3) something else reads the padded tensor, or it
is a graph output; (4) the Conv pads by itself (auto_pad).
"""

import numpy as np

from onnxq.graph.edit import replace_attribute, set_inputs
from onnxq.graph.io import Constant, Model, Node, array_of
from onnxq.graph.query import label
from onnxq.passes import PassReport


def fold_padding(model: Model) -> PassReport:
    """Apply the pass; the Conv keeps its name and output."""
    outputs = {tensor.name for tensor in model.graph.outputs}
    changed, skipped = [], []
    for pad in [node for node in model.graph.nodes if node.op == "Pad"]:
        reason = _refuse(pad, outputs) or _outside(model, pad.outputs[0].outputs[0])
        if reason:
            skipped.append((label(pad), reason))
            continue
        conv = pad.outputs[0].outputs[0]
        own = conv.attrs.get("pads") or [0] * len(_amounts(pad))
        replace_attribute(
            conv, "pads", [int(a + b) for a, b in zip(own, _amounts(pad), strict=True)]
        )
        set_inputs(conv, [pad.inputs[0], *conv.inputs[1:]])
        set_inputs(pad, [])
        model.graph.nodes.remove(pad)
        changed.append(label(pad))
    return PassReport(name="fold_padding", changed=tuple(changed), skipped=tuple(skipped))


def _refuse(pad: Node, outputs: set[str]) -> str:
    """Return why a Pad cannot be folded, or nothing."""
    pads = _pads(pad)
    if pads is None or (pads < 0).any() or not _zeros(pad):
        return "it is not a constant padding of zeros"  # case 1
    half = len(pads) // 2
    if half < 3 or pads[[0, 1, half, half + 1]].any():
        return "it pads the batch or channel axis"  # case 2
    readers = pad.outputs[0].outputs
    if len(readers) != 1 or pad.outputs[0].name in outputs or readers[0].op != "Conv":
        return "something else than one Conv reads it"  # case 3
    if readers[0].attrs.get("auto_pad", "NOTSET") != "NOTSET":
        return "the Conv pads by itself"  # case 4
    return ""


def _pads(pad: Node) -> np.ndarray | None:
    """Return the paddings, begins then ends of every axis, or None if they are computed."""
    if len(pad.inputs) > 3 and pad.inputs[3].name:
        return None  # only some axes: opset 18
    if "pads" in pad.attrs:
        return np.asarray(pad.attrs["pads"])
    if len(pad.inputs) > 1 and isinstance(pad.inputs[1], Constant):
        return array_of(pad.inputs[1])
    return None


def _outside(model: Model, conv: Node) -> str:
    """Return why a Conv cannot be changed, or nothing."""
    if any(conv is node for node in model.graph.nodes):
        return ""
    return "something else than one Conv reads it: a subgraph does"  # case 3


def _zeros(pad: Node) -> bool:
    """Say whether it pads with zeros."""
    if pad.attrs.get("mode", "constant") != "constant":
        return False
    value = pad.attrs.get("value", 0.0)
    if len(pad.inputs) > 2 and pad.inputs[2].name:
        if not isinstance(pad.inputs[2], Constant):
            return False
        value = float(array_of(pad.inputs[2]).reshape(-1)[0])
    return bool(value == 0)


def _amounts(pad: Node) -> list[int]:
    """Return the paddings of the spatial axes, begins then ends, as Conv writes them."""
    pads = _pads(pad)
    assert pads is not None
    half = len(pads) // 2
    return [*map(int, pads[2:half]), *map(int, pads[half + 2 :])]
