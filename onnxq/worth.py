"""Which convolutions are not worth integers: their float kernels are as fast and more exact.

Measured on onnxruntime's CPU kernels (docs/decisions/0004): a convolution with fewer than 16
output channels takes up to 4 times as long in integers, a depthwise one whose channels are no
multiple of 16 up to 7 times. What the others save has to outweigh converting what they read from
floats and what is read of them as floats; between integer operators there is nothing to convert.
"""

import math

from onnxq.graph.io import Node
from onnxq.targets import Worth


def not_worth(node: Node, worth: Worth, conversions: tuple[bool, bool]) -> str:
    """Return why a Conv stays float for speed, or nothing.

    Args:
        node: Any chosen node; for other operators than Conv the answer is always nothing.
        worth: What the target asks for.
        conversions: Whether its input must be converted from float, and its result to float.
    """
    if node.op != "Conv":
        return ""
    shape = node.inputs[1].shape
    outputs, group = int(shape[0]), int(node.attrs.get("group", 1))
    if group > 1 and outputs % worth.grouped_multiple:
        multiple = worth.grouped_multiple
        return f"integers do not pay: {outputs} grouped channels, no multiple of {multiple}"
    if outputs < worth.min_outputs:
        return f"integers do not pay: {outputs} output channels, fewer than {worth.min_outputs}"
    strides = math.prod(node.attrs.get("strides") or [1])
    read, written = conversions
    converted = read * int(shape[1]) * group * strides + written * outputs
    if converted and math.prod(shape) / converted < worth.min_products:
        found = math.prod(shape) / converted
        return f"integers do not pay: {found:.0f} products for every value converted"
    return ""
