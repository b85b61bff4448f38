"""How channels are moved by operators with weights."""

import numpy as np
import pytest

from onnxq.graph.coupling import channels_of
from onnxq.graph.io import from_proto
from tests.channels import Case, alone, assert_function_kept, between, ints, sizes
from tests.graphs import copy

CASES: dict[str, Case] = {
    "depthwise": between("z = Conv<group=8>(c, D, d)", [8], D=(8, 1, 3, 3), d=(8,)),
    "depthwise with multiplier": alone(
        "c = Conv(x, A) d = Conv<group=8>(c, D, e) y = Conv(d, Z)",
        [8],
        A=(8, 4, 1, 1),
        D=(16, 1, 3, 3),
        e=(16,),
        Z=(3, 16, 1, 1),
    ),
    "grouped": between("z = Conv<group=2>(c, D, d)", [4, 4, 4, 4], D=(8, 4, 3, 3), d=(8,)),
    "groups joint conv": alone(
        "c = Conv<group=2>(x, G) r = Conv<group=2>(c, D) y = Conv(r, Z)",
        [4, 4, 4, 4],
        G=(8, 2, 1, 1),
        D=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
    ),
    "grouped shuffled": alone(
        (
            "c = Conv<group=2>(x, G) r = Reshape(c, s) t = Transpose<perm=[0, 2, 1, 3, "
            "4]>(r) z = Reshape(t, u) d = Conv<group=2>(z, D) y = Conv(d, Z)"
        ),
        [4, 4, 2, 2, 2, 2],
        G=(8, 2, 1, 1),
        D=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
        s=ints(0, 2, 4, 6, 6),
        u=ints(0, 8, 6, 6),
    ),
    "transposed conv": between("z = ConvTranspose(c, D, d)", [8, 8], D=(8, 8, 3, 3), d=(8,)),
    "transposed conv in groups": alone(
        "c = Conv(x, A) d = ConvTranspose<group=2>(c, D, e) y = Conv(d, Z)",
        [4, 4, 3, 3],
        A=(8, 4, 1, 1),
        D=(8, 3, 3, 3),
        e=(6,),
        Z=(3, 6, 1, 1),
    ),
    "transposed depthwise conv": alone(
        "c = Conv(x, A) d = ConvTranspose<group=8>(c, D, e) y = Conv(d, Z)",
        [8],
        A=(8, 4, 1, 1),
        D=(8, 2, 3, 3),
        e=(16,),
        Z=(3, 16, 1, 1),
    ),
    "transposed depthwise conv of the input": alone(
        "d = ConvTranspose<group=4>(x, D) y = Conv(d, Z)", [], D=(4, 2, 3, 3), Z=(3, 8, 1, 1)
    ),
    "matmul vector": alone(
        "c = MatMul(x, A) r = Relu(c) y = MatMul(r, v)", [8], x="float[N,3,4] x", A=(4, 8), v=(8,)
    ),
    "vector matmul": alone(
        "c = MatMul(A, x) r = Relu(c) y = MatMul(v, r)", [8], x="float[N,4,3] x", A=(8, 4), v=(8,)
    ),
    "left const": alone(
        "c = MatMul(A, x) r = Relu(c) y = MatMul(Z, r)", [8], x="float[N,4,3] x", A=(8, 4), Z=(5, 8)
    ),
    "both sides": alone(
        "c = MatMul(A, x) r = Relu(c) d = MatMul(r, B) y = MatMul(Z, d)",
        [8],
        x="float[N,4,3] x",
        A=(8, 4),
        B=(3, 5),
        Z=(5, 8),
    ),
    "stacked": alone(
        "c = MatMul(x, A) r = Relu(c) y = MatMul(r, Z)",
        [8],
        x="float[3,2,4] x",
        A=(3, 4, 8),
        Z=(3, 8, 5),
    ),
    "stacked with heads": alone(
        "c = Conv(x, A) r = Relu(c) y = MatMul(r, Z)", [], A=(8, 4, 1, 1), Z=(8, 6, 5)
    ),
    "weight rank above": alone(
        "c = MatMul(x, A) r = Relu(c) y = MatMul(r, Z)",
        [],
        x="float[2,4] x",
        A=(3, 4, 8),
        Z=(3, 8, 5),
    ),
    "gemm transA": alone(
        "t = MatMul(W, x) c = Gemm<transA=1>(t, A, b) y = Gemm(c, Z, b2)",
        [8, 6],
        x="float[4,3] x",
        W=(6, 4),
        A=(6, 8),
        b=(1, 8),
        Z=(8, 5),
        b2=(3, 1),
    ),
    "gemm with a bias by row and column": alone(
        "c = Gemm(x, A, b) y = Gemm(c, Z, b2)",
        [8],
        x="float[3,4] x",
        A=(4, 8),
        b=(3, 8),
        Z=(8, 5),
        b2=np.array(1.5, np.float32),
    ),
    "gemm computed bias": alone(
        "u = Gemm(x, B) c = Gemm(x, A, u) y = Gemm(c, Z)",
        [],
        x="float[3,4] x",
        A=(4, 8),
        B=(4, 8),
        Z=(8, 5),
    ),
    "gram matrix of tokens": alone(
        "c = MatMul(x, A) t = Transpose<perm=[0, 2, 1]>(c) y = MatMul(c, t)",
        [8],
        x="float[N,3,4] x",
        A=(4, 8),
    ),
    "gram matrix of channels": alone(
        ("c = MatMul(x, A) t = Transpose<perm=[0, 2, 1]>(c) p = MatMul(t, c) y = MatMul(c, p)"),
        [],
        x="float[N,3,4] x",
        A=(4, 8),
    ),
    "product with itself, kept on both sides": alone(
        (
            "c = MatMul(x, A) t = Transpose<perm=[0, 2, 1]>(c) p = MatMul(t, c) y = "
            "ReduceSum<axes=[1, 2]>(p)"
        ),
        [],
        x="float[N,3,4] x",
        opset=12,
        A=(4, 8),
    ),
    "linear attention": alone(
        (
            "q = MatMul(x, Q) k = MatMul(x, K) v = MatMul(x, V) kt = Transpose<perm=[0, "
            "2, 1]>(k) p = MatMul(kt, v) o = MatMul(q, p) y = MatMul(o, Z)"
        ),
        [8],
        x="float[N,3,4] x",
        Q=(4, 8),
        K=(4, 8),
        V=(4, 6),
        Z=(6, 5),
    ),
    "attention": alone(
        (
            "q = MatMul(x, Q) qb = Add(q, bq) k = MatMul(x, K) v = MatMul(x, V) q4 = "
            "Reshape(qb, s) k4 = Reshape(k, s) v4 = Reshape(v, s) qt = Transpose<perm=[0, "
            "2, 1, 3]>(q4) kt = Transpose<perm=[0, 2, 3, 1]>(k4) vt = Transpose<perm=[0, "
            "2, 1, 3]>(v4) p = MatMul(qt, kt) p2 = Softmax<axis=-1>(p) o = MatMul(p2, vt) "
            "ot = Transpose<perm=[0, 2, 1, 3]>(o) f = Reshape(ot, u) y = MatMul(f, Z)"
        ),
        [4, 4, 4, 4],
        x="float[N,T,6] x",
        Q=(6, 8),
        bq=(8,),
        K=(6, 8),
        V=(6, 8),
        s=ints(0, 0, 2, 4),
        u=ints(0, 0, 8),
        Z=(8, 5),
    ),
    "attention fused qkv": alone(
        (
            "q = MatMul(x, Q) r = Reshape(q, s) t = Transpose<perm=[2, 0, 3, 1, 4]>(r) a "
            "= Gather<axis=0>(t, i0) b = Gather<axis=0>(t, i1) c = Gather<axis=0>(t, i2) "
            "bt = Transpose<perm=[0, 1, 3, 2]>(b) p = MatMul(a, bt) p2 = "
            "Softmax<axis=-1>(p) o = MatMul(p2, c) ot = Transpose<perm=[0, 2, 1, 3]>(o) f "
            "= Reshape(ot, u) y = MatMul(f, Z)"
        ),
        [4, 4, 4, 4],
        x="float[N,3,6] x",
        Q=(6, 24),
        s=ints(0, 3, 3, 2, 4),
        u=ints(0, 3, 8),
        Z=(8, 5),
        i0=np.array(0),
        i1=np.array(1),
        i2=np.array(2),
    ),
    "rotary": alone(
        (
            "q = MatMul(x, Q) r = Reshape(q, s) a, b = Split<axis=-1>(r) n = Neg(b) ro = "
            "Concat<axis=-1>(n, a) m1 = Mul(r, co) m2 = Mul(ro, si) m = Add(m1, m2) f = "
            "Reshape(m, t) y = MatMul(f, Z)"
        ),
        [2],
        x="float[N,3,6] x",
        Q=(6, 12),
        s=ints(0, 3, 3, 4),
        t=ints(0, 3, 12),
        Z=(12, 5),
        co=(3, 1, 4),
        si=(3, 1, 4),
    ),
    "einsum": between('z = Einsum<equation="nchw,c->nchw">(c,k)', [], k=(8,)),
    "einsum matmul": alone(
        'c = MatMul(x,A) y = Einsum<equation="nti,io->nto">(c,Z)',
        [],
        x="float[N,3,4] x",
        A=(4, 8),
        Z=(8, 5),
    ),
    "lstm": alone(
        (
            "c = MatMul(x, A) o, h, k = LSTM<hidden_size=5>(c, W, R, B) s = Squeeze(o, "
            "one) y = MatMul(s, Z)"
        ),
        [8, 5],
        x="float[7,N,4] x",
        opset=14,
        W=(1, 20, 8),
        R=(1, 20, 5),
        B=(1, 40),
        A=(4, 8),
        one=ints(1),
        Z=(5, 3),
    ),
    "bilstm": alone(
        (
            'c = MatMul(x,A) o = LSTM<hidden_size=5,direction="bidirectional">(c,W,R,B) t '
            "= Transpose<perm=[0,2,1,3]>(o) s = Reshape(t,q) y = MatMul(s,Z)"
        ),
        [8, 5, 5],
        x="float[7,N,4] x",
        opset=14,
        W=(2, 20, 8),
        R=(2, 20, 5),
        B=(2, 40),
        A=(4, 8),
        q=ints(0, 0, -1),
        Z=(10, 3),
    ),
    "lstm with states and peepholes": alone(
        (
            "c = MatMul(x, A) o, h, k = LSTM<hidden_size=5>(c, W, R, B, , h0, c0, P) s = "
            "Squeeze(o, one) y = MatMul(s, Z)"
        ),
        [8],
        x="float[7,2,4] x",
        y="y, h",
        opset=14,
        W=(1, 20, 8),
        R=(1, 20, 5),
        B=(1, 40),
        A=(4, 8),
        one=ints(1),
        Z=(5, 3),
        h0=(1, 2, 5),
        c0=(1, 2, 5),
        P=(1, 15),
    ),
    "lstm from zeros": alone(
        (
            "sh = Shape(x) n = Slice(sh, i1, i2) d = Concat<axis=0>(one, n, five) h0 = "
            "ConstantOfShape(d) c = MatMul(x, A) o, h, k = LSTM<hidden_size=5>(c, W, R, "
            "B, , h0, h0) s = Squeeze(o, one) y = MatMul(s, Z)"
        ),
        [8, 5],
        x="float[7,N,4] x",
        opset=14,
        W=(1, 20, 8),
        R=(1, 20, 5),
        B=(1, 40),
        A=(4, 8),
        one=ints(1),
        i1=ints(1),
        i2=ints(2),
        five=ints(5),
        Z=(5, 3),
    ),
    "lstm that goes on from another": alone(
        (
            "o, h, k = LSTM<hidden_size=5>(x, W, R, B) s = Squeeze(o, one) o2, h2, k2 = "
            "LSTM<hidden_size=5>(s, W2, R2, B2, , h, k) y = Squeeze(o2, one)"
        ),
        [],
        x="float[7,N,4] x",
        y="float[a,b,c] y",
        opset=14,
        W=(1, 20, 4),
        R=(1, 20, 5),
        B=(1, 40),
        W2=(1, 20, 5),
        R2=(1, 20, 5),
        B2=(1, 40),
        one=ints(1),
    ),
    "lstm behind a map": alone(
        (
            "c = Conv(x, A) t = Transpose<perm=[3, 0, 1, 2]>(c) f = Reshape(t, s) o = "
            "LSTM<hidden_size=5>(f, W, R) y = MatMul(o, Z)"
        ),
        [8, 5],
        opset=14,
        A=(8, 4, 1, 1),
        Z=(5, 3),
        a=(8,),
        s=ints(6, -1, 48),
        W=(1, 20, 48),
        R=(1, 20, 5),
    ),
    "gru": alone(
        (
            "c = MatMul(x, A) o, h = GRU<hidden_size=5, linear_before_reset=1>(c, W, R, "
            "B) s = Squeeze(h, zero) y = MatMul(s, Z)"
        ),
        [8, 5],
        x="float[7,N,4] x",
        opset=14,
        W=(1, 15, 8),
        R=(1, 15, 5),
        B=(1, 30),
        A=(4, 8),
        zero=ints(0),
        Z=(5, 3),
    ),
    "rnn": alone(
        "o, h = RNN<hidden_size=5>(x, W, R) y = MatMul(o, Z)",
        [5],
        x="float[7,N,4] x",
        opset=14,
        W=(1, 5, 4),
        R=(1, 5, 5),
        Z=(5, 3),
    ),
    "shared bias": alone(
        "c = Conv(x, A, a) d = Conv(x, B, a) e = Add(c, d) z = Relu(e) y = Conv(z, Z)",
        [8],
        A=(8, 4, 1, 1),
        B=(8, 4, 1, 1),
        a=(8,),
        Z=(3, 8, 1, 1),
    ),
    "shared bias, once of the output": alone(
        "c = Conv(x, A, a) z = Relu(c) y = Conv(z, Z, a)",
        [],
        A=(8, 4, 1, 1),
        a=(8,),
        Z=(8, 8, 1, 1),
    ),
    "table that is read along one axis and along both": alone(
        "e = Gather(E, x) r = Relu(e) q = MatMul(r, W) h = Gemm<transB=1>(q, E) y = Gemm(h, Z)",
        [8],
        x="int64[N] x",
        E=(20, 8),
        W=(8, 8),
        Z=(20, 3),
    ),
    "shared weights": alone(
        "c = Conv(x, A) d = Conv(c, W) e = Relu(d) f = Conv(e, W) y = Conv(f, Z)",
        [8],
        A=(8, 4, 1, 1),
        W=(8, 8, 1, 1),
        Z=(3, 8, 1, 1),
    ),
    "shared weights, other groups": alone(
        "c = Conv(x, A) d = Conv<group=4>(x, A2) e = Conv(x2, A2) y = Add(d, e)",
        [8],
        x="float[N,4,6,6] x, float[N,1,6,6] x2",
        A=(8, 4, 1, 1),
        A2=(8, 1, 1, 1),
    ),
    "unused": alone(
        "c = Conv(x, A) u = Conv(c, U, k) y = Conv(c, Z)",
        [8, 6],
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
        a=(8,),
        U=(6, 8, 1, 1),
        k=(6,),
    ),
    "also returned": alone(
        "c = Conv(x, A) y = Conv(c, Z)", [], y="c, y", A=(8, 4, 1, 1), Z=(3, 8, 1, 1), a=(8,)
    ),
    "constant returned": alone(
        "c = Conv(x, A, k) y = Conv(c, Z)",
        [],
        y="float[a,b,c,d] y, float[8] k",
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
        a=(8,),
        k=(8,),
    ),
    "constant the user may replace": alone(
        "c = Conv(x, A, k) y = Conv(c, Z)",
        [],
        x="float[N,4,6,6] x, float[8] k",
        y="float[a,b,c,d] y",
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
        a=(8,),
        k=(8,),
    ),
    "read in a body": alone(
        (
            "c = Conv(x, A, a) z = If(cond) <then_branch = t () => (o) { o = Add(c, k) }, "
            "else_branch = e () => (p) { p = Mul(c, k) }> y = Conv(z, Z)"
        ),
        [],
        x="float[N,4,6,6] x, bool cond",
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
        a=(8,),
        k=(8, 1, 1),
    ),
    "constant read in a body": alone(
        (
            "c = Conv(x, A, k) q = If(cond) <then_branch = t () => (o) { o = Identity(k) "
            "}, else_branch = e () => (p) { p = Neg(k) }> z = Conv(c, Z) y = Reshape(q, "
            "m)"
        ),
        [],
        x="float[N,4,6,6] x, bool cond",
        y="y, z",
        A=(8, 4, 1, 1),
        Z=(3, 8, 1, 1),
        a=(8,),
        k=(8,),
        m=ints(-1),
    ),
    "the shape of a constant is read": between(
        ("d = Add(c, k) s = Shape(k) q = Cast<to=1>(s) m = ReduceSum<keepdims=0>(q) z = Mul(d, m)"),
        [],
        k=(8, 1, 1),
    ),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES)
def test_channels_move_and_the_function_stays(case: Case) -> None:
    assert sizes(channels_of(from_proto(copy(case.proto)))) == case.families
    assert_function_kept(case.proto)
