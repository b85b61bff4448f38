"""Which channels of a model move together, and which constants with them."""

from onnxq.graph.coupling.book import Axes, Channels, permuted
from onnxq.graph.coupling.rules import channels_of

__all__ = ["Axes", "Channels", "channels_of", "permuted"]
