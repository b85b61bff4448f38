"""How channels are moved by operators that move, join, cut or repeat them."""

import numpy as np
import pytest

from onnxq.graph.coupling import channels_of
from onnxq.graph.io import from_proto
from tests.channels import LAST, Case, alone, assert_function_kept, between, ints, sizes
from tests.graphs import copy

CASES: dict[str, Case] = {
    "concat of single channels": alone(
        "c = Conv(x, A) d = Conv(x, B) e = Concat<axis=1>(c, d) y = Conv(e, Z)",
        [],
        A=(1, 4, 1, 1),
        B=(1, 4, 1, 1),
        Z=(3, 2, 1, 1),
    ),
    "sum with its own reverse": alone(
        "c = Conv(x, A) r = Slice(c, s, e, ax, st) z = Add(c, r) y = Conv(z, Z)",
        [],
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
        s=ints(-1),
        e=ints(-LAST),
        ax=ints(1),
        st=ints(-1),
    ),
    "difference to the next channel": alone(
        "c = Conv(x, A) r = Gather<axis=1>(c, i) z = Sub(c, r) y = Conv(z, Z)",
        [],
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
        i=ints(1, 2, 3, 4, 5, 6, 7, 0),
    ),
    "difference of halves and halves": alone(
        "c = Conv(x, A) r = Gather<axis=1>(c, i) z = Sub(c, r) y = Conv(z, Z)",
        [],
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
        i=ints(4, 5, 6, 7, 0, 1, 2, 3),
    ),
    "slice to the end": alone(
        "c = Conv(x, A) z = Slice(c, s, e, ax) y = Conv(z, Z)",
        [5, 3],
        A=(8, 4, 1, 1),
        Z=(3, 5, 1, 1),
        s=ints(3),
        e=ints(LAST),
        ax=ints(-3),
    ),
    "slice of every second": alone(
        "c = Conv(x, A) z = Slice(c, s, e, ax, st) y = Conv(z, Z)",
        [4, 4],
        A=(8, 4, 1, 1),
        Z=(3, 4, 1, 1),
        s=ints(0),
        e=ints(LAST),
        ax=ints(1),
        st=ints(2),
    ),
    "slice from beyond the end, backwards": alone(
        "c = Conv(x, A) z = Slice(c, s, e, ax, st) y = Conv(z, Z)",
        [4, 4],
        A=(8, 4, 1, 1),
        Z=(3, 4, 1, 1),
        s=ints(100),
        e=ints(3),
        ax=ints(1),
        st=ints(-1),
    ),
    "slice, opset 9": alone(
        (
            "c = Conv(x, A) z = Slice<axes=[1], starts=[0], "
            "ends=[9223372036854775807]>(c) y = Conv(z, Z)"
        ),
        [8],
        opset=9,
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
    ),
    "slice of places, backwards": between(
        "z = Slice(c, s, e, ax, st)", [8], s=ints(-1), e=ints(-LAST), ax=ints(2), st=ints(-1)
    ),
    "slice that leaves all": between(
        "d = Slice(c, s, e) z = Relu(d)", [8], s=ints(0, 0), e=ints(LAST, LAST)
    ),
    "gather from the end": between(
        "z = Gather<axis=-3>(c, i)", [8], i=ints(-1, -2, -3, -4, 3, 2, 1, 0)
    ),
    "gather one twice": alone(
        "c = Conv(x, A) z = Gather<axis=1>(c, i) y = Conv(z, Z)",
        [5],
        A=(8, 4, 1, 1),
        Z=(3, 4, 1, 1),
        i=ints(0, 0, 1, 2),
    ),
    "gather one": alone(
        (
            "c = Conv(x, A) z = Gather<axis=1>(c, i) d = Conv(c, Z) u = Unsqueeze(z, one) "
            "y = Add(u, d)"
        ),
        [7],
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
        i=np.array(-2),
        one=ints(1),
    ),
    "gather a column of the map": alone(
        "c = Conv(x, A) z = Gather<axis=3>(c, i) y = Conv(z, Z)",
        [8],
        A=(8, 4, 1, 1),
        Z=(3, 8, 1),
        i=np.array(-2),
    ),
    "gather into two axes": alone(
        "c = Conv(x, A) z = Gather<axis=1>(c, i) r = Reshape(z, s) y = Conv(r, Z)",
        [8],
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
        i=ints(3, 2, 1, 0, 7, 5, 6, 4).reshape(2, 4),
        s=ints(0, 8, 6, 6),
    ),
    "gather into two axes, one summed over": alone(
        ("c = Conv(x, A) z = Gather<axis=1>(c, i) r = ReduceSum<keepdims=0>(z, s) y = Conv(r, Z)"),
        [4],
        A=(8, 4, 1, 1),
        Z=(3, 4, 1, 1),
        i=ints(3, 2, 1, 0, 7, 5, 6, 4).reshape(2, 4),
        s=ints(1),
    ),
    "embedding": alone(
        "e = Gather(E, x) r = Add(e, p) y = MatMul(r, Z)",
        [8],
        x="int64[N,3] x",
        E=(20, 8),
        p=(8,),
        Z=(8, 5),
    ),
    "embedding whose table is the last weight too": alone(
        "e = Gather(E, x) r = Relu(e) q = MatMul(r, W) y = Gemm<transB=1>(q, E)",
        [8],
        x="int64[N] x",
        E=(20, 8),
        W=(8, 8),
    ),
    "embedding of constant indices": alone(
        "e = Gather(E, i) m = MatMul(x, W) r = Add(e, m) y = MatMul(r, Z)",
        [8],
        x="float[N,3,4] x",
        E=(20, 8),
        W=(4, 8),
        Z=(8, 5),
        i=ints(1, 2, 3),
    ),
    "embedding, axis from the end": alone(
        "e = Gather<axis=-2>(E, x) y = MatMul(e, Z)", [8], x="int64[N,3] x", E=(20, 8), Z=(8, 5)
    ),
    "concat of the same": alone(
        "c = Conv(x, A) d = Relu(c) z = Concat<axis=1>(c, d, c) y = Conv(z, Z)",
        [8],
        A=(8, 4, 1, 1),
        Z=(3, 24, 1, 1),
    ),
    "concat with the input": alone(
        "c = Conv(x, A) z = Concat<axis=-3>(c, x) y = Conv(z, Z)",
        [8],
        A=(8, 4, 1, 1),
        Z=(3, 12, 1, 1),
    ),
    "concat of places": between("d = Relu(c) z = Concat<axis=2>(c, d)", [8]),
    "concat of places with a constant": alone(
        "c = Conv(x, A) z = Concat<axis=2>(c, k) y = Conv(z, Z)",
        [8],
        x="float[2,4,6,6] x",
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
        k=(2, 8, 3, 6),
    ),
    "concat with a constant": alone(
        "c = Conv(x, A) z = Concat<axis=1>(c, k) y = Conv(z, Z)",
        [8, 4],
        x="float[2,4,6,6] x",
        A=(8, 4, 1, 1),
        Z=(3, 12, 1, 1),
        k=(2, 4, 6, 6),
    ),
    "class token": alone(
        "c = MatMul(x, A) z = Concat<axis=1>(k, c) q = Add(z, pos) y = MatMul(q, Z)",
        [8],
        x="float[1,3,4] x",
        A=(4, 8),
        k=(1, 1, 8),
        pos=(1, 4, 8),
        Z=(8, 5),
    ),
    "class token for any batch": alone(
        (
            "c = MatMul(x, A) s = Shape(x) n = Gather(s, zero) zz = Unsqueeze(n, zero1) "
            "sh = Concat<axis=0>(zz, ones) e = Expand(k, sh) z = Concat<axis=1>(e, c) q = "
            "Add(z, pos) y = MatMul(q, Z)"
        ),
        [8],
        x="float[N,3,4] x",
        A=(4, 8),
        k=(1, 1, 8),
        pos=(1, 4, 8),
        Z=(8, 5),
        zero=np.array(0),
        zero1=ints(0),
        ones=ints(1, 8),
    ),
    "reshape 0 -1": alone(
        "c = Conv(x, A) z = Reshape(c, s) y = MatMul(z, Z)",
        [8],
        A=(8, 4, 1, 1),
        s=ints(0, -1),
        Z=(288, 5),
    ),
    "flatten gemm": alone(
        "c = Conv(x, A) z = Flatten(c) y = Gemm<transB=1>(z, Z, b)",
        [8],
        A=(8, 4, 1, 1),
        Z=(5, 288),
        b=(5,),
    ),
    "flatten channels into the batch": alone(
        "c = Conv(x, A) z = Flatten<axis=2>(c) y = MatMul(z, Z)", [], A=(8, 4, 1, 1), Z=(36, 5)
    ),
    "flatten, axis from the end": alone(
        "c = Conv(x, A) z = Flatten<axis=-3>(c) y = MatMul(z, Z)", [8], A=(8, 4, 1, 1), Z=(288, 5)
    ),
    "flatten the batch too": alone(
        "c = Conv(x, A) z = Flatten<axis=0>(c) y = MatMul(z, Z)",
        [8],
        x="float[2,4,6,6] x",
        A=(8, 4, 1, 1),
        Z=(576, 5),
    ),
    "channel shuffle": between(
        "r = Reshape(c, s) t = Transpose<perm=[0, 2, 1, 3, 4]>(r) z = Reshape(t, u)",
        [8],
        s=ints(0, 2, 4, 6, 6),
        u=ints(0, 8, 6, 6),
    ),
    "channel shuffle of open places": alone(
        (
            "c = Conv(x, A) r = Reshape(c, s) t = Transpose<perm=[0, 2, 1, 3]>(r) z = "
            "Reshape(t, u) y = Conv(z, Z)"
        ),
        [8],
        x="float[N,4,L] x",
        A=(8, 4, 1),
        Z=(3, 8, 1),
        s=ints(0, 2, 4, -1),
        u=ints(0, 8, -1),
    ),
    "reshape that swaps open axes": alone(
        (
            "c = Conv(x, A) s = Shape(x) n = Slice(s, i0, i1) l = Slice(s, i2, i3) q = "
            "Concat<axis=0>(l, e, n) z = Reshape(c, q) y = Conv(z, Z)"
        ),
        [],
        x="float[N,4,L] x",
        y="float[a,b,e] y",
        A=(8, 4, 1),
        Z=(3, 8, 1),
        e=ints(8),
        i0=ints(0),
        i1=ints(1),
        i2=ints(2),
        i3=ints(3),
    ),
    "reshape that takes from an open axis": alone(
        (
            "c = MatMul(x, A) s = Shape(x) n = Slice(s, i0, i1) m = Mul(n, two) q = "
            "Concat<axis=0>(m, minus) z = Reshape(c, q) y = MatMul(z, Z)"
        ),
        [],
        x="float[N,4,4] x",
        y="float[a,b,e] y",
        A=(4, 8),
        Z=(16, 5),
        minus=ints(-1),
        two=ints(2),
        i0=ints(0),
        i1=ints(1),
    ),
    "depth to space": alone(
        "c = Conv(x, A) z = DepthToSpace<blocksize=2>(c) y = Conv(z, Z)",
        [4],
        A=(16, 4, 1, 1),
        Z=(3, 4, 1, 1),
    ),
    "depth to space, columns first": alone(
        'c = Conv(x,A) z = DepthToSpace<blocksize=2,mode="CRD">(c) y = Conv(z,Z)',
        [4],
        A=(16, 4, 1, 1),
        Z=(3, 4, 1, 1),
    ),
    "space to depth": alone(
        "c = Conv(x, A) z = SpaceToDepth<blocksize=2>(c) y = Conv(z, Z)",
        [8],
        A=(8, 4, 1, 1),
        Z=(3, 32, 1, 1),
    ),
    "pixel shuffle by hand": alone(
        (
            "c = Conv(x, A) r = Reshape(c, s) t = Transpose<perm=[0, 1, 4, 2, 5, 3]>(r) z "
            "= Reshape(t, u) y = Conv(z, Z)"
        ),
        [4],
        A=(16, 4, 1, 1),
        Z=(3, 4, 1, 1),
        s=ints(0, 4, 2, 2, 6, 6),
        u=ints(0, 4, 12, 12),
    ),
    "pad": between("z = Pad(c, p)", [8], p=ints(0, 0, 1, 1, 0, 0, 1, 1)),
    "pad reflect": between('z = Pad<mode="reflect">(c,p)', [8], p=ints(0, 0, 1, 1, 0, 0, 1, 1)),
    "pad of channels": alone(
        "c = Conv(x, A) z = Pad(c, p, v) y = Conv(z, Z)",
        [8, 5],
        A=(8, 4, 1, 1),
        Z=(3, 13, 1, 1),
        a=(8,),
        p=ints(0, 2, 0, 0, 0, 3, 0, 0),
        v=np.array(0.7, np.float32),
    ),
    "pad that cuts channels": alone(
        "c = Conv(x, A) z = Pad(c, p) y = Conv(z, Z)",
        [],
        A=(8, 4, 1, 1),
        Z=(3, 5, 1, 1),
        a=(8,),
        p=ints(0, -3, 0, 0, 0, 0, 0, 0),
    ),
    "pad that repeats channels": alone(
        'c = Conv(x,A) z = Pad<mode="reflect">(c,p) y = Conv(z,Z)',
        [],
        A=(8, 4, 1, 1),
        Z=(3, 10, 1, 1),
        a=(8,),
        p=ints(0, 1, 0, 0, 0, 1, 0, 0),
    ),
    "pad axes": between("z = Pad(c, p, , ax)", [8], opset=18, p=ints(1, 1, 1, 1), ax=ints(2, 3)),
    "pad, opset 10": between("z = Pad<pads=[0, 0, 1, 1, 0, 0, 1, 1]>(c)", [8], opset=10),
    "pad shortcut": alone(
        ("c = Conv(x, A) r = Relu(c) d = Conv(r, D) p = Pad(r, q) e = Add(d, p) y = Conv(e, Z)"),
        [4, 4],
        A=(4, 4, 1, 1),
        D=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
        q=ints(0, 2, 0, 0, 0, 2, 0, 0),
    ),
    "expand": alone(
        "c = Conv(x, A) p = GlobalAveragePool(c) z = Expand(p, s) y = Conv(z, Z)",
        [8],
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
        a=(8,),
        s=ints(1, 1, 6, 6),
    ),
    "expand to a higher rank": alone(
        "c = Gemm(x, A) z = Expand(c, s) y = MatMul(z, Z)",
        [8],
        x="float[N,4] x",
        A=(4, 8),
        Z=(8, 5),
        s=ints(3, 1, 1),
    ),
    "tile of channels": alone(
        "c = Conv(x, A) z = Tile(c, s) y = Conv(z, Z)",
        [],
        A=(8, 4, 1, 1),
        Z=(3, 16, 1, 1),
        a=(8,),
        s=ints(1, 2, 1, 1),
    ),
    "tile of places": between("z = Tile(c, s)", [8], s=ints(1, 1, 2, 1)),
    "tile of one channel": alone(
        "z = Tile(x, s) y = Conv(z, Z)",
        [8],
        x="float[N,1,6,6] x",
        Z=(3, 8, 1, 1),
        s=ints(1, 8, 1, 1),
    ),
    "split into halves": alone(
        ("c = Conv(x, A) p, q = Split<axis=1>(c) s = Sigmoid(q) z = Mul(p, s) y = Conv(z, Z)"),
        [4],
        A=(8, 4, 1, 1),
        Z=(3, 4, 1, 1),
        a=(8,),
    ),
    "split sizes": alone(
        ("c = Conv(x, A) p, q = Split<axis=-3>(c, s) z = Conv(p, P) w = Conv(q, Q) y = Add(z, w)"),
        [5, 3],
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
        a=(8,),
        s=ints(3, 5),
        P=(3, 3, 1, 1),
        Q=(3, 5, 1, 1),
    ),
    "split, opset 11": alone(
        (
            "c = Conv(x, A) p, q = Split<axis=1, split=[3, 5]>(c) z = Conv(p, P) w = "
            "Conv(q, Q) y = Add(z, w)"
        ),
        [5, 3],
        opset=11,
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
        a=(8,),
        P=(3, 3, 1, 1),
        Q=(3, 5, 1, 1),
    ),
    "split off single channels": alone(
        ("c = Conv(x, A) p, q, r = Split<axis=1>(c, s) t = Mul(p, q) z = Conv(r, Z) y = Add(t, z)"),
        [6],
        A=(8, 4, 1, 1),
        Z=(3, 6, 1, 1),
        a=(8,),
        s=ints(1, 1, 6),
    ),
    "split into a number of parts": alone(
        (
            "c = Conv(x, A) p, q, r = Split<axis=1, num_outputs=3>(c) d = "
            "Concat<axis=1>(r, p, q) y = Conv(d, Z)"
        ),
        [3, 3, 2],
        opset=18,
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
        a=(8,),
    ),
    "squeeze of an axis of unknown size": alone(
        "c = Conv(x, A) p = ReduceMean<axes=[2]>(c) s = Squeeze(p, two) "
        "u = Unsqueeze(s, last) q = Squeeze(u, last) y = Conv(q, Z)",
        [8],
        x="float[N, 4, H, W] x",
        A=(8, 4, 1, 1),
        Z=(3, 8, 1),
        two=ints(-2),
        last=ints(-1),
    ),
    "squeeze, opset 11": alone(
        ("c = Conv(x, A) p = GlobalAveragePool(c) s = Squeeze<axes=[2, 3]>(p) y = Gemm(s, Z)"),
        [8],
        opset=11,
        A=(8, 4, 1, 1),
        Z=(8, 5),
        a=(8,),
    ),
    "squeeze all": alone(
        "c = Conv(x, A) p = GlobalAveragePool(c) s = Squeeze(p) y = MatMul(s, Z)",
        [8],
        x="float[2,4,6,6] x",
        A=(8, 4, 1, 1),
        Z=(8, 5),
        a=(8,),
    ),
    "transpose default": alone(
        "c = MatMul(x, A) t = Transpose(c) y = MatMul(Z, t)",
        [8],
        x="float[N,4] x",
        A=(4, 8),
        Z=(5, 8),
    ),
    "channels last": alone(
        (
            "c = Conv(x, A) t = Transpose<perm=[0, 2, 3, 1]>(c) m = MatMul(t, M) r = "
            "Relu(m) u = Transpose<perm=[0, 3, 1, 2]>(r) y = Conv(u, Z)"
        ),
        [8, 8],
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
        a=(8,),
        M=(8, 8),
    ),
    "swin windows": alone(
        (
            "c = MatMul(x, A) r = Reshape(c, s) t = Transpose<perm=[0, 1, 3, 2, 4, 5]>(r) "
            "w = Reshape(t, u) y = MatMul(w, Z)"
        ),
        [8],
        x="float[N,6,6,4] x",
        A=(4, 8),
        s=ints(-1, 2, 3, 2, 3, 8),
        u=ints(-1, 9, 8),
        Z=(8, 5),
    ),
    "patch merging": alone(
        (
            "c = MatMul(x, A) a = Slice(c, s0, e, ax, st) b = Slice(c, s1, e, ax, st) d = "
            "Concat<axis=-1>(a, b) y = MatMul(d, Z)"
        ),
        [8],
        x="float[N,6,4] x",
        A=(4, 8),
        s0=ints(0),
        s1=ints(1),
        e=ints(LAST),
        ax=ints(1),
        st=ints(2),
        Z=(16, 5),
    ),
    "gated conv": alone(
        (
            "c = Conv(x, A) p, q = Split<axis=1>(c) s = Sigmoid(q) t = Tanh(p) m = Mul(s, "
            "t) y = Conv(m, Z)"
        ),
        [4],
        x="float[N,4,9] x",
        A=(8, 4, 3),
        Z=(3, 4, 1),
    ),
    "gather joint pair": alone(
        (
            "q = MatMul(x, Q) r = Reshape(q, s) a = Gather<axis=2>(r, i) f = Reshape(a, "
            "t) y = MatMul(f, Z)"
        ),
        [8, 4],
        x="float[N,3,6] x",
        Q=(6, 12),
        s=ints(0, 3, 3, 4),
        i=ints(2, 0),
        t=ints(0, 3, 8),
        Z=(8, 5),
    ),
    "split joint": alone(
        (
            "q = MatMul(x, Q) r = Reshape(q, s) a, b = Split<axis=-1>(r) m = Mul(a, b) f "
            "= Reshape(m, t) y = MatMul(f, Z)"
        ),
        [6],
        x="float[N,3,6] x",
        Q=(6, 12),
        s=ints(0, 3, 3, 4),
        t=ints(0, 3, 6),
        Z=(6, 5),
    ),
    "class token before patches": alone(
        (
            "c = Conv(x, A) f = Reshape(c, s) t = Transpose<perm=[0, 2, 1]>(f) sh = "
            "Shape(x) n = Slice(sh, i0, i1) d = Concat<axis=0>(n, ones) e = Expand(k, d) "
            "z = Concat<axis=1>(e, t) l = LayerNormalization(z, ls, lb) y = MatMul(l, Z)"
        ),
        [8],
        opset=17,
        A=(8, 4, 3, 3),
        s=ints(0, 8, -1),
        i0=ints(0),
        i1=ints(1),
        ones=ints(1, 1),
        k=(1, 1, 8),
        ls=(8,),
        lb=(8,),
        Z=(8, 5),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_channels_move_and_the_function_stays(case: Case) -> None:
    assert sizes(channels_of(from_proto(copy(case.proto)))) == case.families
    assert_function_kept(case.proto)
