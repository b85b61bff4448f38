"""How channels are moved by operators that leave them where they are."""

import numpy as np
import pytest

from onnxq.graph.coupling import channels_of
from onnxq.graph.io import from_proto
from tests.channels import Case, alone, assert_function_kept, between, floats, ints, sizes
from tests.graphs import copy

CASES: dict[str, Case] = {
    "relu": between("z = Relu(c)", [8]),
    "one channel": alone(
        "c = Conv(x, A) f = Flatten(c) y = Gemm(f, Z)", [], A=(1, 4, 1, 1), Z=(36, 5)
    ),
    "hardsigmoid gate": between("h = HardSigmoid(c) z = Mul(c, h)", [8]),
    "sum self": between("z = Add(c, c)", [8]),
    "sum of one": between("z = Sum(c)", [8]),
    "where": between("q = Greater(c, k) z = Where(q, c, k2)", [8], k=(8, 1, 1), k2=(1, 8, 1, 1)),
    "max of many": between("z = Max(c, k, k2, k)", [8], k=(8, 1, 1), k2=(1,)),
    "pow": between(
        "e = Abs(c) z = Pow(e, k)", [8], k=np.linspace(1, 2, 8).reshape(8, 1, 1).astype(np.float32)
    ),
    "constant of booleans": between(
        "k = Cast<to=1>(c) z = Where(b, k, c)", [8], b=np.array([True, False] * 4).reshape(8, 1, 1)
    ),
    "input without a name": between("z = Clip(c, , hi)", [8], hi=np.array(0.5, np.float32)),
    "prelu by channel": between("z = PRelu(c, k)", [8], k=(8, 1, 1)),
    "prelu": between("z = PRelu(c, k)", [8], k=(1,)),
    "prelu of rank 4": between("z = PRelu(c, k)", [8], k=(1, 8, 1, 1)),
    "prelu by place": between("z = PRelu(c, k)", [8], k=(6, 6)),
    "prelu by value": between("z = PRelu(c, k)", [8], k=(8, 6, 6)),
    "added to the input": alone(
        "c = Conv(x, A) d = Add(c, x) y = Conv(d, Z)", [], A=(4, 4, 1, 1), Z=(3, 4, 1, 1)
    ),
    "one value added": alone(
        "c = Conv(x, A) q = Add(c, s) y = Conv(q, Z)",
        [8],
        x="float[N,4,6,6] x, float[1] s",
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
        a=(8,),
    ),
    "constant of a higher rank": alone(
        "c = Gemm(x, A) z = Add(c, k) r = Reshape(z, s) y = MatMul(z, Z)",
        [8],
        x="float[3,4] x",
        y="y",
        A=(4, 8),
        k=(5, 1, 8),
        Z=(8, 5),
        s=ints(-1),
    ),
    "outer product": alone(
        (
            "c = Gemm(x, A) u = Unsqueeze(c, m1) c2 = Unsqueeze(c, one) z = Mul(c2, u) y "
            "= MatMul(z, Z)"
        ),
        [],
        x="float[3,4] x",
        A=(4, 8),
        m1=ints(2),
        one=ints(1),
        Z=(8, 5),
    ),
    "one value times a vector": alone(
        "c = Mul(x, k) r = Relu(c) y = MatMul(r, Z)", [8], x="float[N,1] x", k=(8,), Z=(8, 5)
    ),
    "one value times a vector plus it": alone(
        "c = Mul(x, k) d = Add(c, k) r = Relu(d) y = MatMul(r, Z)",
        [8],
        x="float[N,1] x",
        k=(8,),
        Z=(8, 5),
    ),
    "residual chain": between(
        "d = Conv(c, W) e = Add(c, d) f = Conv(e, V) z = Add(f, e)",
        [8],
        W=(8, 8, 1, 1),
        V=(8, 8, 1, 1),
    ),
    "mask of a dropout is returned": alone(
        "c = Conv(x, A) d, m = Dropout(c) z = Clip(d, , hi) y = Conv(z, Z)",
        [],
        y="y, m",
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
        a=(8,),
        hi=np.array(0.5, np.float32),
    ),
    "batch normalization": between(
        "z = BatchNormalization(c, g, b, m, v)",
        [8],
        g=(8,),
        b=(8,),
        m=(8,),
        v=np.linspace(0.5, 2, 8).astype(np.float32),
    ),
    "batch normalization that reads a vector twice": between(
        "d = BatchNormalization(c, g, g, m, v) z = Add(d, c)",
        [8],
        g=(8,),
        b=(8,),
        m=(8,),
        v=np.linspace(0.5, 2, 8).astype(np.float32),
    ),
    "batch normalization of a vector": alone(
        "c = Gemm(x, A) z = BatchNormalization(c, g, b, m, v) y = Gemm(z, Z)",
        [8],
        x="float[N,4] x",
        A=(4, 8),
        Z=(8, 5),
        g=(8,),
        b=(8,),
        m=(8,),
        v=np.linspace(0.5, 2, 8).astype(np.float32),
    ),
    "batch normalization of heads": alone(
        (
            "c = MatMul(x, A) r = Reshape(c, s) q = BatchNormalization(r, g, b, m, v) f = "
            "Reshape(q, t) y = MatMul(f, Z)"
        ),
        [4, 4],
        x="float[N,4] x",
        A=(4, 8),
        s=ints(0, 2, 4),
        t=ints(0, 8),
        Z=(8, 5),
        g=(2,),
        b=(2,),
        m=(2,),
        v=floats(1, 2),
    ),
    "mean of a BatchNormalization is returned": alone(
        (
            "c = Conv(x, A) z, m, v = BatchNormalization<training_mode=1>(c, g, b, m0, "
            "v0) y = Conv(z, Z)"
        ),
        [],
        y="y, m",
        opset=15,
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
        g=(8,),
        b=(8,),
        m0=(8,),
        v0=np.abs(np.random.default_rng(0).normal(size=8)).astype(np.float32),
    ),
    "instance normalization": between(
        "z = InstanceNormalization(c, g, b)",
        [8],
        g=(8,),
        b=(8,),
        m=(8,),
        v=np.linspace(0.5, 2, 8).astype(np.float32),
    ),
    "instance normalization of tokens": alone(
        "c = MatMul(x, A) q = InstanceNormalization(c, g, b) y = MatMul(q, Z)",
        [8],
        x="float[N,3,4] x",
        A=(4, 8),
        Z=(8, 5),
        g=(3,),
        b=(3,),
    ),
    "group normalization by hand": between(
        (
            "r = Reshape(c, s) i = InstanceNormalization(r, g2, b2) q = Reshape(i, t) e = "
            "Mul(q, k) z = Add(e, k)"
        ),
        [4, 4],
        s=ints(0, 2, -1),
        t=ints(0, 8, 6, 6),
        g2=floats(1, 2),
        b2=floats(0.5, 1),
        k=(8, 1, 1),
    ),
    "group normalization": between(
        "z = GroupNormalization<num_groups=2>(c, g2, b2)", [4, 4], opset=21, ir=10, g2=(8,), b2=(8,)
    ),
    "lrn": between("z = LRN<size=3>(c)", []),
    "layer normalization": alone(
        "c = MatMul(x, A) z = LayerNormalization(c, s, b) y = MatMul(z, Z)",
        [8],
        x="float[N,5,4] x",
        opset=17,
        A=(4, 8),
        s=(8,),
        b=(8,),
        Z=(8, 5),
    ),
    "layer normalization of two axes": alone(
        "c = MatMul(x, A) z = LayerNormalization<axis=1>(c, s, b) y = MatMul(z, Z)",
        [8],
        x="float[N,5,4] x",
        opset=17,
        A=(4, 8),
        s=(5, 8),
        b=(5, 8),
        Z=(8, 5),
    ),
    "layer normalization of columns": between(
        "z = LayerNormalization<axis=-1>(c, s)", [8], opset=17, s=(6,)
    ),
    "layer normalization within heads": alone(
        (
            "c = MatMul(x, A) r = Reshape(c, s) q = LayerNormalization<axis=-1>(r, k) f = "
            "Reshape(q, t) y = MatMul(f, Z)"
        ),
        [4],
        x="float[N,4] x",
        opset=17,
        A=(4, 8),
        s=ints(0, 2, 4),
        t=ints(0, 8),
        Z=(8, 5),
        k=(4,),
    ),
    "layer normalization, one scale": alone(
        "c = MatMul(x, A) z = LayerNormalization(c, s) y = MatMul(z, Z)",
        [8],
        x="float[N,5,4] x",
        opset=17,
        A=(4, 8),
        s=(1,),
        Z=(8, 5),
    ),
    "mean of a LayerNormalization is returned": alone(
        "c = MatMul(x, A) z, m = LayerNormalization(c, s) y = MatMul(z, Z)",
        [],
        x="float[N,5,4] x",
        y="y, m",
        opset=17,
        A=(4, 8),
        s=(8,),
        Z=(8, 5),
    ),
    "softmax over channels": between("z = Softmax<axis=1>(c)", [8]),
    "softmax of a map, opset 11": between("z = Softmax(c)", [8], opset=11),
    "softmax within heads": alone(
        (
            "c = MatMul(x, A) r = Reshape(c, s) q = Softmax<axis=-1>(r) f = Reshape(q, t) "
            "y = MatMul(f, Z)"
        ),
        [4, 4],
        x="float[N,4] x",
        A=(4, 8),
        s=ints(0, 2, 4),
        t=ints(0, 8),
        Z=(8, 5),
    ),
    "softmax within heads, opset 11": alone(
        (
            "c = MatMul(x, A) r = Reshape(c, s) q = Softmax<axis=2>(r) f = Reshape(q, t) "
            "y = MatMul(f, Z)"
        ),
        [4, 4],
        x="float[N,4] x",
        opset=11,
        A=(4, 8),
        s=ints(0, 2, 4),
        t=ints(0, 8),
        Z=(8, 5),
    ),
    "softmax over all heads, opset 11": alone(
        ("c = MatMul(x, A) r = Reshape(c, s) q = Softmax(r) f = Reshape(q, t) y = MatMul(f, Z)"),
        [8],
        x="float[N,4] x",
        opset=11,
        A=(4, 8),
        s=ints(0, 2, 4),
        t=ints(0, 8),
        Z=(8, 5),
    ),
    "vector norm within heads": alone(
        (
            "c = MatMul(x, A) r = Reshape(c, s) q = LpNormalization<axis=-1>(r) f = "
            "Reshape(q, t) y = MatMul(f, Z)"
        ),
        [4, 4],
        x="float[N,4] x",
        A=(4, 8),
        s=ints(0, 2, 4),
        t=ints(0, 8),
        Z=(8, 5),
    ),
    "mean and variance": between("z = MeanVarianceNormalization(c)", [8]),
    "mean and variance within heads": alone(
        (
            "c = MatMul(x, A) r = Reshape(c, s) q = MeanVarianceNormalization<axes=[2, "
            "3]>(r) f = Reshape(q, t) y = MatMul(f, Z)"
        ),
        [4, 4],
        x="float[N,4] x",
        A=(4, 8),
        s=ints(0, 2, 4, 1),
        t=ints(0, 8),
        Z=(8, 5),
    ),
    "indices of a MaxPool are returned": alone(
        "c = Conv(x, A) p, i = MaxPool<kernel_shape=[2, 2]>(c) y = Conv(p, Z)",
        [],
        y="y, i",
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
    ),
    "indices of a MaxPool are read": alone(
        ("c = Conv(x, A) p, i = MaxPool<kernel_shape=[2, 2]>(c) y = Conv(p, Z) j = Cast<to=1>(i)"),
        [],
        y="y, j",
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
    ),
    "resize": between('z = Resize<mode="nearest">(c,,s)', [8], s=floats(1, 1, 2, 2)),
    "resize to sizes": alone(
        'c = Conv(x,A) z = Resize<mode="linear">(c,,,s) y = Conv(z,Z)',
        [8],
        x="float[2,4,6,6] x",
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
        s=ints(2, 8, 9, 9),
    ),
    "resize of channels": alone(
        'c = Conv(x,A) z = Resize<mode="nearest">(c,,s) y = Conv(z,Z)',
        [],
        A=(8, 4, 1, 1),
        Z=(3, 16, 1, 1),
        s=floats(1, 2, 1, 1),
    ),
    "resize before the channels": alone(
        'c = MatMul(x,A) z = Resize<mode="nearest">(c,,s) y = MatMul(z,Z)',
        [8],
        x="float[2,6,4] x",
        A=(4, 8),
        s=floats(1, 2, 1),
        Z=(8, 5),
    ),
    "resize of the last axis": alone(
        'c = MatMul(x,A) z = Resize<mode="nearest">(c,,s) y = MatMul(z,Z)',
        [],
        x="float[2,6,4] x",
        A=(4, 8),
        s=floats(1, 1, 2),
        Z=(16, 5),
    ),
    "resize that scales channels without more of them": between(
        (
            "z = "
            'Resize<mode="nearest",coordinate_transformation_mode="asymmetric",nearest_mode="round_prefer_floor">(c,,s)'
        ),
        [],
        s=floats(1, 1.12, 2, 2),
    ),
    "resize of named axes": between(
        'z = Resize<mode="nearest",axes=[2,3]>(c,,s)', [8], opset=18, s=floats(2, 2)
    ),
    "resize, opset 10": between(
        'z = Resize<mode="nearest">(c,s)', [8], opset=10, s=floats(1, 1, 2, 2)
    ),
    "upsample, opset 9": between(
        'z = Upsample<mode="nearest">(c,s)', [8], opset=9, s=floats(1, 1, 2, 2)
    ),
    "upsample, opset 7": between(
        'z = Upsample<mode="nearest",scales=[1.0,1.0,2.0,2.0]>(c)', [8], opset=7
    ),
    "squeeze and excite": between(
        (
            "p = GlobalAveragePool(c) q = Conv(p, E) r = Relu(q) t = Conv(r, G) u = "
            "Sigmoid(t) z = Mul(c, u)"
        ),
        [8, 4],
        E=(4, 8, 1, 1),
        G=(8, 4, 1, 1),
    ),
    "squeeze and excite, reduced": between(
        (
            "p = ReduceMean<axes=[2, 3], keepdims=0>(c) q = Gemm(p, E) r = Relu(q) t = "
            "Gemm(r, G) w = Unsqueeze(t, ax) z = Mul(c, w)"
        ),
        [8, 4],
        E=(8, 4),
        G=(4, 8),
        ax=ints(2, 3),
    ),
    "reduce over nothing": between("z = ReduceSum<noop_with_empty_axes=1>(c)", [8]),
    "reduce over everything": between("r = ReduceSum(c) z = Mul(c, r)", [8]),
    "reduce over channels": between("r = ReduceMax<axes=[1]>(c) z = Sub(c, r)", [8]),
    "reduce over channels, axis from the end": between(
        "r = ReduceMean<axes=[-3], keepdims=0>(c) u = Unsqueeze(r, one) z = Sub(c, u)",
        [8],
        one=ints(1),
    ),
    "cumsum": between("z = CumSum(c, i)", [], i=np.array(1)),
    "argmax": between("r = ArgMax<axis=1>(c) q = Cast<to=1>(r) z = Mul(c, q)", []),
    "topk": between(
        "v, i = TopK<axis=1>(c, k) r = ReduceMean<axes=[1]>(v) z = Mul(c, r)", [], k=ints(2)
    ),
    "topk of places": between("v, i = TopK<axis=3>(c, k) z = Identity(v)", [], k=ints(2)),
    "trilu": alone(
        "c = MatMul(x, A) z = Trilu(c) y = MatMul(z, Z)",
        [],
        x="float[N,3,4] x",
        opset=14,
        A=(4, 8),
        Z=(8, 5),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_channels_move_and_the_function_stays(case: Case) -> None:
    assert sizes(channels_of(from_proto(copy(case.proto)))) == case.families
    assert_function_kept(case.proto)
