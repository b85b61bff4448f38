"""Put the channels of a model into another order.

Before:
    y = Conv(x, W₁, b₁)
    z = Conv(Relu(y), W₂, b₂)

After:
    y = Conv(x, W₁[o], b₁[o])        o: a permutation of the channels of y
    z = Conv(Relu(y), W₂[:, o], b₂)

`onnxq.graph.coupling` says which channels move together, with which constants. What the model
reads and writes stays as it is, and so does all that is tied to it.
"""

from collections.abc import Sequence

from onnxq.graph.coupling import Channels, permuted
from onnxq.graph.edit import replace_values
from onnxq.graph.io import Model, array_of
from onnxq.passes import PassReport
from onnxq.types import Array


def reorder_channels(model: Model, channels: Channels, orders: Sequence[Array]) -> PassReport:
    """Apply the pass in place; names of tensors stay.

    Args:
        model: The prepared model.
        channels: Which of its channels may be moved.
        orders: One permutation a family: its place i gets what was at ``order[i]``.

    Returns:
        What changed; the constants are named.

    Raises:
        ValueError: An order is no permutation of its family.
    """
    tensors = model.graph.tensors()
    values = {}
    for name, indices in channels.reordered(orders).items():
        view = channels.constants[name][0].view
        values[name] = permuted(array_of(tensors[name]), view, indices)
    replace_values(model, values)
    return PassReport(name="reorder_channels", changed=tuple(values))
