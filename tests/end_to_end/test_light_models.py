"""Passes on the structures of classic networks: the function stays.

The onnx package ships them with constant weights, which any order and any factor leaves as they
are; here they get random ones.
"""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.graph import io
from onnxq.graph.coupling import channels_of
from onnxq.graph.edit import replace_values
from onnxq.graph.io import Constant, Model, array_of, become_constant
from onnxq.graph.session import Runtime, Session
from onnxq.passes.equalize import equalize
from onnxq.passes.prepare import prepare
from onnxq.passes.reorder_channels import reorder_channels
from onnxq.types import Array

FOLDER = Path(onnx.__file__).parent / "backend" / "test" / "data" / "light"
RUNTIME = Runtime(threads=1)
NAMES = ("squeezenet", "shufflenet", "inception_v2")


def weights(rng: np.random.Generator, shape: tuple[int, ...]) -> Array:
    """Return weights that neither blow up nor vanish, or scales and shifts."""
    if len(shape) < 2:
        return rng.uniform(0.5, 1.5, size=shape).astype(np.float32)
    spread = (2 / np.prod(shape[1:])) ** 0.5
    return (rng.normal(size=shape) * spread).astype(np.float32)


def network(name: str) -> Model:
    model, rng = io.load(FOLDER / f"light_{name}.onnx"), np.random.default_rng(0)
    constants = [t for t in model.graph.tensors().values() if isinstance(t, Constant)]
    floats = {t.name: array_of(t) for t in constants if t.dtype == np.float32}
    replace_values(model, {n: weights(rng, a.shape) for n, a in floats.items() if a.size > 1})
    for node in list(model.graph.nodes):
        if node.op == "ConstantOfShape" and isinstance(node.inputs[0], Constant):
            values = weights(rng, tuple(array_of(node.inputs[0]).tolist()))
            tensor = node.outputs[0]
            node.inputs.clear()
            model.graph.nodes.remove(node)
            become_constant(model, tensor, onnx.numpy_helper.from_array(values, tensor.name))
    prepare(model)
    return model


def outputs(model: Model) -> list[Array]:
    session, rng = Session(model, RUNTIME), np.random.default_rng(1)
    sizes = {i.name: [size or 1 for size in i.shape or ()] for i in session.inputs}
    feed = {name: rng.normal(size=size).astype(np.float32) for name, size in sizes.items()}
    return [np.asarray(value) for value in session.run(feed)]


def assert_same(before: list[Array], after: list[Array]) -> None:
    for one, other in zip(before, after, strict=True):
        assert np.ptp(one) > 0
        assert np.abs(one - other).max() < 1e-4 * np.abs(one).max()


@pytest.mark.parametrize("name", NAMES)
def test_channels_in_random_order_compute_the_same(name: str) -> None:
    model, rng = network(name), np.random.default_rng(2)
    before = outputs(model)
    channels = channels_of(model)
    families = channels.movers.families
    report = reorder_channels(model, channels, [rng.permutation(len(f)) for f in families])
    assert len(report.changed) > 20
    assert_same(before, outputs(model))


@pytest.mark.parametrize("name", NAMES)
def test_equalized_channels_compute_the_same(name: str) -> None:
    model = network(name)
    before = outputs(model)
    report = equalize(model, None, cut=True)
    assert len(report.changed) > 3
    assert_same(before, outputs(model))
