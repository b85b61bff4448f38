"""Models in pieces: the same values, and the same change as emitting anew."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from onnxq.drafting import draft
from onnxq.emit import emit
from onnxq.graph import io
from onnxq.graph.chain import Chain, cut
from onnxq.graph.session import Runtime, Session
from onnxq.pipeline import Collection, Source, calibrate
from onnxq.recipe import Recipe
from onnxq.search.candidates import coordinates
from onnxq.search.emission import Emission
from onnxq.search.patches import Patches
from tests.graphs import build

NETWORK = """agraph (float[N, 4, 8, 8] x) => (float[N, 4, 8, 8] y, float[N, 4] z) {
    a = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1]>(x, w0, b0)
    r = Relu(a)
    b = Conv<kernel_shape=[3, 3], pads=[1, 1, 1, 1], group=4>(r, w1, b1)
    s = Sigmoid(b)
    m = Mul(b, s)
    c = Conv<kernel_shape=[1, 1]>(m, w2, b2)
    d = Add(c, r)
    y = Relu(d)
    p = GlobalAveragePool(y)
    f = Flatten(p)
    z = Gemm(f, w3, b3)
}"""
SHAPES = {
    "w0": (4, 4, 3, 3),
    "w1": (4, 1, 3, 3),
    "w2": (4, 4, 1, 1),
    "w3": (4, 4),
    **{f"b{i}": (4,) for i in range(4)},
}
RUNTIME = Runtime(threads=1)


@pytest.fixture(scope="module", params=["fixed-point", "cpu"])
def emission(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Emission:
    folder = tmp_path_factory.mktemp("chain")
    path = folder / "m.onnx"
    onnx.save(build(NETWORK, SHAPES, opset=13), path)
    values = np.random.default_rng(0).normal(size=(16, 4, 8, 8)).astype(np.float32)
    np.savez(folder / "d.npz", x=values)
    table = calibrate(path, Source(data=str(folder / "d.npz")), collection=Collection(workers=1))
    rounding = "half-up" if request.param == "fixed-point" else None
    weights = {
        "dtype": "int5" if rounding else "int7",
        "granularity": "tensor" if rounding else "channel",
    }
    asked = {"target": request.param, "weights": weights, "rounding": rounding}
    made = draft(path, table, Recipe.from_dict(asked), runtime=RUNTIME)
    return Emission.of(made, folder / "q.onnx")


@pytest.fixture(scope="module")
def feed() -> dict[str, np.ndarray]:
    values = np.random.default_rng(1).normal(size=(3, 4, 8, 8))
    return {"x": values.astype(np.float32)}


def answers(model: io.Model, feed: dict[str, np.ndarray]) -> list[np.ndarray]:
    return Session(io.sync(model), RUNTIME).run(feed)


def same(one: np.ndarray, other: np.ndarray) -> None:
    """The last bits of floats depend on how they lie in memory."""
    np.testing.assert_allclose(one, other, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("count", [1, 2, 5, 99])
def test_pieces_compute_what_the_whole_does(
    emission: Emission, feed: dict[str, np.ndarray], count: int
) -> None:
    chain = Chain(io.sync(emission.model), Path(), RUNTIME, count)
    assert 1 <= len(chain.pieces) <= count
    whole = answers(emission.model, feed)
    for one, other in zip(chain.run(feed, 0).values(), whole, strict=True):
        same(one, other)
    middle = len(chain.pieces) // 2
    halves = chain.run(chain.run(feed, 0, middle), middle)
    same(halves["y"], whole[0])


def test_every_node_is_in_a_piece(emission: Emission) -> None:
    proto = io.sync(emission.model)
    pieces = cut(proto, 4)
    assert 2 < len(pieces) <= 4
    held = [node.output[0] for piece in pieces for node in piece.nodes]
    assert set(held) == {node.output[0] for node in proto.graph.node}
    again = {node.op_type for p in pieces for node in p.nodes if held.count(node.output[0]) > 1}
    assert again <= {"DequantizeLinear"}


def test_a_change_is_that_of_emitting_anew(emission: Emission, feed: dict[str, np.ndarray]) -> None:
    made = emission.draft
    used = dict(made.activations.items()) | dict(made.weights.items())
    chain = Chain(io.sync(emission.model), Path(), RUNTIME, 4)
    before = chain.run(feed, 0)
    patches = Patches(made.prepared, made.plan, used, emission.emitted.places)
    found = coordinates(made.prepared, made.plan, made.seen, used, "both")
    assert {each.kind for each in found} == {"activation", "weight"}
    different = 0
    for each in found:
        for choice in {0, each.start - 1, len(each.choices) - 1} - {-1}:
            change = each.change(choice)
            constants = patches.constants(change)
            assert constants is not None
            got = chain.run(feed, 0, sessions=chain.changed(constants))
            model = io.copied(made.prepared)
            after = {**used, **change}
            emit(
                model,
                made.plan,
                {name: params for name, params in after.items() if isinstance(name, str)},
                {key: params for key, params in after.items() if not isinstance(key, str)},
            )
            for one, other in zip(got.values(), answers(model, feed), strict=True):
                same(one, other)
            different += any(not np.array_equal(got[name], before[name]) for name in got)
    assert different >= len(found)


def test_a_change_lasts_only_when_kept(emission: Emission, feed: dict[str, np.ndarray]) -> None:
    made = emission.draft
    used = dict(made.activations.items()) | dict(made.weights.items())
    chain = Chain(io.sync(emission.model), Path(), RUNTIME, 4)
    before = chain.run(feed, 0)["z"]
    patches = Patches(made.prepared, made.plan, used, emission.emitted.places)
    each = coordinates(made.prepared, made.plan, made.seen, used, "weights")[-1]
    constants = patches.constants(each.change(len(each.choices) - 1))
    assert constants is not None
    sessions = chain.changed(constants)
    changed = chain.run(feed, 0, sessions=sessions)["z"]
    np.testing.assert_array_equal(chain.run(feed, 0)["z"], before)
    chain.keep(constants, sessions)
    np.testing.assert_array_equal(chain.run(feed, 0)["z"], changed)
    assert not np.array_equal(before, changed)
