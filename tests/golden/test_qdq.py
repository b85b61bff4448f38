"""Quantized graphs against the ones on file: structure as ONNX text, parameters as JSON.

``REGEN_GOLDEN=1 pytest tests/golden`` writes the files anew; read the diff. Weights come from a
seed and show as hashes. Ranges are made up from the tensors' places in the graph and no runtime
is asked, so that the files are the same on every machine.
"""

import hashlib
import json
import math
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxq.emit import emit
from onnxq.emit.qdq import Emitted
from onnxq.graph.io import Model, from_proto, sync
from onnxq.graph.query import tensor_types
from onnxq.numerics.affine import params_of
from onnxq.numerics.tiles import grid
from onnxq.parameters import weight_params
from onnxq.passes.prepare import prepare
from onnxq.plan import Plan, resolve
from onnxq.recipe import NodeRule, Recipe, TensorRule
from onnxq.types import Array, QuantParams, Range
from tests.graphs import batchnorm, build, copy, eager

FOLDER = Path(__file__).parent

RESIDUAL = """
residual (float[N, 3, 8, 8] image) => (float[N, 5] scores)
{
    c1 = Conv<pads = [1, 1, 1, 1]>(image, w1)
    n1 = BatchNormalization(c1, g, b, m, v)
    r1 = Relu(n1)
    c2 = Conv<pads = [1, 1, 1, 1]>(r1, w2, b2)
    sum = Add(c2, r1)
    small = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(sum)
    mean = GlobalAveragePool(small)
    flat = Flatten(mean)
    scores = Gemm<transB = 1>(flat, w3, b3)
}
"""
RESIDUAL_WEIGHTS = {
    "w1": (4, 3, 3, 3),
    "w2": (4, 4, 3, 3),
    "b2": (4,),
    "w3": (5, 4),
    "b3": (5,),
    **batchnorm(4),
}
BRANCHES = """
branches (float[N, 3, 8, 8] image, bool which) => (float[N, 8, 8, 8] wide, float[N, 4, 8, 8] other)
{
    six = Constant<value = float {6.0}>()
    zero = Constant<value = float {0.0}>()
    c1 = Conv<pads = [1, 1, 1, 1]>(image, w, b)
    r1 = Clip(c1, zero, six)
    c2 = Conv<pads = [1, 1, 1, 1]>(image, w, b)
    s = Sigmoid(c2)
    both = Concat<axis = 1>(r1, c2)
    wide = Conv<group = 8>(both, depth)
    other = If(which) <
        then_branch = yes () => (float[N, 4, 8, 8] p) { p = Add(r1, s) },
        else_branch = no () => (float[N, 4, 8, 8] q) { q = Conv<pads = [1, 1, 1, 1]>(image, w, b) }
    >
}
"""
ATTENTION = """
attention (float[2, 6, 8] tokens) => (float[2, 6, 8] y)
{
    q = MatMul(tokens, wq)
    k = MatMul(tokens, wk)
    t = Transpose<perm = [0, 2, 1]>(k)
    dots = MatMul(q, t)
    p = Softmax(dots)
    u = MatMul(tokens, wq)
    o = MatMul(p, u)
    h = Mul(o, half)
    y = MatMul(h, wk)
}
"""
DENSE = """
dense (float[N, 8] x) => (float[N, 4] y, float[N, 4] z)
{
    h = Gemm(x, w1, huge)
    r = Relu(h)
    y = Gemm<transB = 1>(r, w2)
    z = MatMul(r, w3)
}
"""
CHANNELS = """
channels (float[N, 3, 8, 8] x) => (float[N, 5] y)
{
    c = Conv<pads = [1, 1, 1, 1]>(x, w, b)
    r = Relu(c)
    p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(r)
    q = GlobalAveragePool(p)
    f = Flatten(q)
    h = Gemm<transB = 1>(f, v, e)
    y = MatMul(h, u)
}
"""
NORMS = """
norms (float[N, 4, 8, 8] image) => (float[N, 5] scores)
{
    n1 = BatchNormalization(image, g, b, m, v)
    c1 = Conv<group = 2>(n1, w1, b1)
    r1 = Relu(c1)
    n2 = BatchNormalization(r1, g, b, m, v)
    c2 = Conv<pads = [1, 1, 1, 1]>(n2, w2)
    c3 = Conv(c2, w2)
    n3 = BatchNormalization(c3, g, b, m, v)
    mean = GlobalAveragePool(n3)
    flat = Flatten(mean)
    scores = Gemm<transB = 1>(flat, w3, b3)
}
"""
CASES: dict[str, tuple[Callable[[], onnx.ModelProto], Recipe]] = {
    "residual": (lambda: build(RESIDUAL, RESIDUAL_WEIGHTS), Recipe()),
    "residual_per_tensor_opset_10": (
        lambda: build(RESIDUAL, RESIDUAL_WEIGHTS, opset=10, ir=5),
        Recipe(weights=TensorRule(granularity="tensor")),
    ),
    "residual_head_float": (
        lambda: build(RESIDUAL, RESIDUAL_WEIGHTS),
        Recipe(rules=(NodeRule(op="Gemm", quantize=False),)),
    ),
    "branches": (
        lambda: build(BRANCHES, {"w": (4, 3, 3, 3), "b": (4,), "depth": (8, 1, 1, 1)}),
        Recipe(),
    ),
    "norms_fixed_point": (
        lambda: build(
            NORMS,
            {
                "w1": (4, 2, 3, 3),
                "b1": (4,),
                "w2": (4, 4, 3, 3),
                "w3": (5, 4),
                "b3": (5,),
                **batchnorm(4),
            },
        ),
        Recipe(target="fixed-point"),
    ),
    "attention": (
        lambda: build(ATTENTION, {"wq": (8, 8), "wk": (8, 8), "half": np.array(0.5, np.float32)}),
        Recipe(activations=TensorRule(symmetric=True)),
    ),
    "channels": (
        lambda: build(
            CHANNELS,
            {"w": (4, 3, 3, 3), "b": (4,), "v": (6, 4), "e": (6,), "u": (6, 5)},
        ),
        Recipe(target="generic", activations=TensorRule(granularity="channel")),
    ),
    "crossbar": (
        lambda: build(RESIDUAL, RESIDUAL_WEIGHTS, opset=21, ir=10),
        Recipe(target="crossbar", crossbar="16x3", weights=TensorRule(dtype="int4")),
    ),
    "dense": (
        lambda: build(
            DENSE,
            {
                "w1": (8, 6),
                "huge": np.array([1e6, 0, 1, -1e7, 2, 3], np.float32),
                "w2": (4, 6),
                "w3": (6, 4),
            },
        ),
        Recipe(weights=TensorRule(dtype="uint8")),
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_quantized_graph(name: str) -> None:
    make, recipe = CASES[name]
    model = from_proto(make())
    prepare(model)
    plan = resolve(model, eager(recipe.target or "cpu"), recipe)
    activations = made_up(plan, model)
    emitted = emit(model, plan, activations, weight_params(plan, model))
    proto = sync(model)
    onnx.checker.check_model(proto, full_check=True)
    found = {
        FOLDER / f"{name}.txt": text_of(proto),
        FOLDER / f"{name}.json": json_of(plan, activations, emitted),
    }
    for path, text in found.items():
        if os.environ.get("REGEN_GOLDEN"):
            path.write_text(text, encoding="utf-8")
        assert path.is_file(), f"REGEN_GOLDEN=1 pytest tests/golden writes {path.name}"
        assert text == path.read_text(encoding="utf-8")


def test_every_file_belongs_to_a_case() -> None:
    assert {path.stem for path in FOLDER.iterdir() if path.suffix in (".txt", ".json")} <= set(
        CASES
    )


def made_up(plan: Plan, model: Model) -> dict[str, QuantParams]:
    """Give every activation a range of its own, from its place in the graph, or one a channel."""
    types = tensor_types(model)
    chosen: dict[str, QuantParams] = {}
    for place, (name, activation) in enumerate(plan.activations.items(), 1):
        if activation.shares != name:
            chosen[name] = chosen[activation.shares]
            continue
        shape = grid(types[name].shape or (), activation.spec.tile)
        widths = np.arange(1, 1 + math.prod(shape), dtype=np.float64).reshape(shape)
        interval = Range(-0.5 * place * widths, (1.0 + place) * widths)
        chosen[name] = params_of(interval.within(*activation.spec.bounds), activation.spec)
    return chosen


def text_of(proto: onnx.ModelProto) -> str:
    """Print a model, its initializers in one line each."""
    bare = copy(proto)
    del bare.graph.initializer[:]
    held = [f"{t.name} = {shown(onnx.numpy_helper.to_array(t))}" for t in proto.graph.initializer]
    return "\n".join([onnx.printer.to_text(bare), "", *sorted(held), ""])


def shown(values: Array) -> str:
    """Show a few numbers as they are, many as a hash."""
    kind = f"{values.dtype}{list(values.shape)}"
    if values.size <= 8:
        return f"{kind} {' '.join(f'{value:.8g}' for value in values.reshape(-1).tolist())}"
    digest = hashlib.sha256(np.ascontiguousarray(values).tobytes()).hexdigest()
    return f"{kind} sha256 {digest[:16]}"


def rounded(scale: Array) -> float | list[float]:
    """Return a scale with as many digits as float32 has, or a list of one a channel."""
    digits = [float(f"{value:.8g}") for value in scale.reshape(-1).tolist()]
    return digits if scale.ndim else digits[0]


def json_of(plan: Plan, activations: dict[str, QuantParams], emitted: Emitted) -> str:
    """Print what was decided and used."""
    content: dict[str, Any] = {
        "nodes": {
            node.label: node.reason if not node.quantized else "integer"
            for node in plan.nodes.values()
        },
        "activations": {
            name: {
                "dtype": params.dtype.name,
                "scale": rounded(params.scale),
                "zero_point": params.zero_point.reshape(-1).tolist()
                if params.tile
                else int(params.zero_point),
                "shares": plan.activations[name].shares,
                "sources": ", ".join(plan.activations[name].sources),
                "written": plan.activations[name].written,
                "reason": plan.activations[name].reason,
            }
            for name, params in activations.items()
        },
        "weights": {
            f"{node.label}[{weight.index}]": {
                "name": weight.name,
                "dtype": weight.spec.dtype.name,
                "symmetric": weight.spec.symmetric,
                "tile": str(weight.spec.tile),
            }
            for node in plan.nodes.values()
            for weight in node.weights
        },
        "raised": dict(emitted.raised),
    }
    return json.dumps(content, indent=1, ensure_ascii=False) + "\n"
