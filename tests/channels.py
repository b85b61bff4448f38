"""Small models whose channels are moved, and the question whether they still compute the same."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx

from onnxq.graph.coupling import Channels, channels_of
from onnxq.graph.io import Model, from_proto, sync
from onnxq.passes.reorder_channels import reorder_channels
from onnxq.types import Array
from tests.graphs import Feed, Weights, build, copy, feed_for, run

ENDS = {"A": (8, 4, 1, 1), "a": (8,), "Z": (3, 8, 1, 1)}  # of the two Convs of `between`
MAP = "float[N, 4, 6, 6] x"
LAST = (1 << 63) - 1  # beyond any axis


@dataclass(frozen=True)
class Case:
    """A model, and how many channels each family of movers has, the largest first."""

    proto: onnx.ModelProto
    families: Sequence[int]


def alone(
    body: str,
    families: Sequence[int],
    *,
    x: str = MAP,
    y: str = "y",
    opset: int = 13,
    ir: int = 8,
    **weights: tuple[int, ...] | Array,
) -> Case:
    """Make a model of the whole body."""
    given: Weights = {k: v if isinstance(v, np.ndarray) else tuple(v) for k, v in weights.items()}
    return Case(build(f"g ({x}) => ({y}) {{ {body} }}", given, opset=opset, ir=ir), families)


def between(
    body: str,
    families: Sequence[int],
    *,
    opset: int = 13,
    ir: int = 8,
    **weights: tuple[int, ...] | Array,
) -> Case:
    """Make a model of two Convs and what makes z of the 8 channels of c between them."""
    body = f"c = Conv(x, A, a) {body} y = Conv(z, Z)"
    return alone(body, families, y="float[a, b, c, d] y", opset=opset, ir=ir, **{**ENDS, **weights})


def ints(*values: int) -> Array:
    return np.array(values, np.int64)


def floats(*values: float) -> Array:
    return np.array(values, np.float32)


def sizes(channels: Channels) -> list[int]:
    """Return how many channels each family has, the largest first."""
    return sorted((len(family) for family in channels.movers.families), reverse=True)


def orders(channels: Channels, seed: int) -> list[Array]:
    """Draw a permutation of every family."""
    rng = np.random.default_rng(seed)
    return [rng.permutation(len(family)) for family in channels.movers.families]


def shuffle(model: Model, seed: int) -> tuple[str, ...]:
    """Put the channels of a model into some other order; return the constants that changed."""
    channels = channels_of(model)
    return reorder_channels(model, channels, orders(channels, seed)).changed


def assert_function_kept(
    proto: onnx.ModelProto, seeds: Iterable[int] = range(2), feed: Feed | None = None
) -> None:
    """Compare all outputs of a model with those of its shuffled versions, within 1e-4."""
    feed = feed or feed_for(proto)
    expected = run(proto, feed)
    for seed in seeds:
        model = from_proto(copy(proto))
        shuffle(model, seed)
        for a, b in zip(expected, run(sync(model), feed), strict=True):
            assert a.dtype == b.dtype
            if a.dtype.kind == "f":
                bound = 1e-4 * max(float(np.abs(a).max()), 1e-6)
                np.testing.assert_allclose(b, a, rtol=0, atol=bound)
            else:
                np.testing.assert_array_equal(b, a)
