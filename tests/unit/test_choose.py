"""Which nodes are quantized, and the reason given for every node."""

import ml_dtypes
import numpy as np
import onnx
import pytest

from onnxq.graph.io import from_proto
from onnxq.plan import Plan, resolve
from onnxq.recipe import NodeRule, Recipe
from tests.graphs import Weights, build, copy, eager, plan_of

CONV = {"w": (4, 3, 3, 3), "b": (4,)}
PAD = "<pads = [1, 1, 1, 1]>"


def image(body: str, weights: Weights = CONV, *, outputs: str = "y", opset: int = 13) -> Plan:
    """Plan a graph that takes images x and u, and vectors v."""
    return plan_of(build(_image(body, outputs), {**CONV, **weights}, opset=opset))


def _image(body: str, outputs: str) -> str:
    kinds = ", ".join(
        f"float[N, c{i}, h{i}, w{i}] {name}" for i, name in enumerate(outputs.split())
    )
    return f"net (float[N, 3, 8, 8] x, float[N, 4, 8, 8] u, float low) => ({kinds}) {{ {body} }}"


def vector(body: str, weights: Weights, *, out: str = "float[N, 4] y") -> Plan:
    return plan_of(build(f"net (float[N, 8] x) => ({out}) {{ {body} }}", weights))


def integer(plan: Plan) -> list[str]:
    return [key for key, node in plan.nodes.items() if node.quantized]


def reason(plan: Plan, key: str) -> str:
    assert not plan.nodes[key].quantized
    return plan.nodes[key].reason


# --- computing operators


def test_computing_operators_are_quantized_by_themselves() -> None:
    assert integer(image("y = Conv(x, w, b)")) == ["y"]
    assert integer(vector("y = Gemm(x, w, b)", {"w": (8, 4), "b": (4,)})) == ["y"]
    assert integer(vector("y = MatMul(x, w)", {"w": (8, 4)})) == ["y"]


def test_the_reason_names_operator_and_target() -> None:
    assert image("y = Conv(x, w)").nodes["y"].reason == "Conv has an integer kernel on cpu"


def test_every_node_has_a_reason() -> None:
    plan = image(f"c = Conv{PAD}(x, w) r = Relu(c) s = Sigmoid(r) y = Add(s, u)")
    assert list(plan.nodes) == ["c", "r", "s", "y"]
    assert all(node.reason for node in plan.nodes.values())


def test_matmul_of_two_activations() -> None:
    plan = vector("t = Transpose(x) y = MatMul(t, x)", {}, out="float[8, 8] y")
    assert integer(plan) == ["t", "y"]


REFUSED = {
    "conv, computed weights": ("a = Abs(w) y = Conv(x, a)", "y", "weights are not constant"),
    "conv, computed bias": ("a = Abs(b) y = Conv(x, w, a)", "y", "bias is no constant"),
    "softmax": ("c = Conv(x, w) y = Softmax(c)", "y", "Softmax is not quantized on cpu"),
    "other domain": ("c = Conv(x, w) y = com.test.Conv(c, w)", "y", "Conv is not quantized on cpu"),
    "several outputs": ("c = Conv(x, w) y, at = MaxPool<kernel_shape = [1, 1]>(c)", "y", "outputs"),
    "unknown type": ("c = Conv(x, w) d = com.test.Any(c) y = Conv(d, w)", "y", "'d' is of unknown"),
    "infinite weights": ("y = Conv(x, wi)", "y", "the constant 'wi' is empty or holds infinite"),
    "huge weights": ("y = Conv(x, wh)", "y", "the constant 'wh' is empty or holds infinite"),
    "NaN weights": ("y = Conv(x, wn)", "y", "the constant 'wn' is empty or holds infinite"),
    "infinite bias": ("y = Conv(x, w, bi)", "y", "its bias 'bi' holds infinite or huge values"),
    "NaN bias": ("y = Conv(x, w, bn)", "y", "its bias 'bn' holds infinite or huge values"),
    "infinite addend": ("c = Conv(x, w) d = Add(c, i) y = Conv(d, q)", "d", "the constant 'i'"),
    "constant input": ("k = Conv(xc, w) z = Conv(x, w) y = Add(k, z)", "k", "both of its inputs"),
}
VALUES = {
    "wi": np.full((4, 3, 3, 3), -np.inf, np.float32),
    "wh": np.full((4, 3, 3, 3), 1e30, np.float32),
    "wn": np.full((4, 3, 3, 3), np.nan, np.float32),
    "bi": np.array([0, 0, np.inf, 0], np.float32),
    "bn": np.array([0, 0, np.nan, 0], np.float32),
    "i": np.array([-np.inf], np.float32),
    "q": (4, 4, 1, 1),
    "xc": (1, 3, 8, 8),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_stays_float_says_why(case: str) -> None:
    body, key, why = REFUSED[case]
    plan = image(f"{body} also = Conv(x, w)", VALUES)
    assert why in reason(plan, key)


@pytest.mark.parametrize(
    ("body", "weights", "why"),
    [
        ("y = Gemm<transA = 1>(x, w)", {"w": (2, 4)}, "transposes its input"),
        ("y = Gemm<alpha = 0.5>(x, w)", {"w": (8, 4)}, "scales by alpha or beta"),
        ("y = Gemm<beta = 0.5>(x, w, b)", {"w": (8, 4), "b": (4,)}, "scales by alpha or beta"),
        ("y = Gemm(x, w, b)", {"w": (8, 4), "b": (1, 4)}, "one value an output channel"),
        ("y = Gemm(x, w, b)", {"w": (8, 4), "b": (1,)}, "one value an output channel"),
        ("y = Gemm(x, w, b)", {"w": (8, 4), "b": np.zeros((), np.float32)}, "an output channel"),
        ("y = Gemm(a, w, b)", {"a": (2, 8), "w": (8, 4), "b": (4,)}, "both of its inputs"),
        ("y = MatMul(a, w)", {"a": (2, 8), "w": (8, 4)}, "both of its inputs"),
    ],
)
def test_forms_without_an_integer_kernel(body: str, weights: Weights, why: str) -> None:
    plan = vector(f"{body} also = MatMul(x, k)", {**weights, "k": (8, 4)})
    assert why in reason(plan, "y")
    assert integer(plan) == ["also"]


@pytest.mark.parametrize(
    ("kind", "dtype"), [("float16", np.float16), ("double", np.float64), ("int64", np.int64)]
)
def test_other_element_types_stay_float(kind: str, dtype: type) -> None:
    proto = build(
        f"""net (float[N, 8] x, {kind}[N, 8] i) => (float[N, 4] y, {kind}[N, 4] z)
        {{ y = MatMul(x, w) z = MatMul(i, k) }}""",
        {"w": (8, 4), "k": np.ones((8, 4), dtype)},
    )
    plan = plan_of(proto)
    assert integer(plan) == ["y"]
    assert reason(plan, "z") == f"'i' is {kind}, not float"


def test_bfloat16_stays_float() -> None:
    proto = build(
        """net (float[N, 8] x, bfloat16[N, 8] i) => (float[N, 4] y, bfloat16[N, 4] z)
        { y = MatMul(x, w) z = MatMul(i, k) }""",
        {"w": (8, 4), "k": np.ones((8, 4), ml_dtypes.bfloat16)},
    )
    assert reason(plan_of(proto), "z") == "'i' is bfloat16, not float"


# --- operators that follow


def test_followers_between_integer_operators() -> None:
    plan = image(
        f"""c = Conv{PAD}(x, w) a = Add(c, c) m = Mul(a, a) p = MaxPool<kernel_shape = [1, 1]>(m)
            y = Conv{PAD}(p, k)""",
        {"k": (4, 4, 3, 3)},
    )
    assert integer(plan) == ["c", "a", "m", "p", "y"]


def test_a_follower_of_a_float_tensor_stays_float() -> None:
    plan = image(
        f"c = Conv{PAD}(x, w) s = Sigmoid(c) a = Add(c, s) y = Conv(a, k)", {"k": (4, 4, 1, 1)}
    )
    assert integer(plan) == ["c", "y"]
    assert reason(plan, "a") == "it reads 's', which is float"


def test_a_follower_nobody_reads_in_integers_stays_float() -> None:
    plan = image(f"c = Conv{PAD}(x, w) a = Add(c, c) m = Mul(a, a) y = Sigmoid(m)")
    assert integer(plan) == ["c"]
    assert reason(plan, "m") == "nothing integer reads its result"
    assert reason(plan, "a") == "nothing integer reads its result"


def test_a_follower_of_a_graph_input_that_is_quantized_anyway() -> None:
    both = image("c = Conv(x, w) a = Add(x, x) y = Conv(a, w)")
    assert integer(both) == ["c", "a", "y"]
    alone = image("a = Add(x, x) y = Conv(a, w)")
    assert integer(alone) == ["y"]
    assert reason(alone, "a") == "it reads 'x', which is float"


def test_a_follower_may_read_constants() -> None:
    plan = image(
        f"c = Conv{PAD}(x, w) a = Add(c, k) y = Conv(a, q)", {"k": (1,), "q": (4, 4, 1, 1)}
    )
    assert integer(plan) == ["c", "a", "y"]
    assert [(weight.index, weight.name) for weight in plan.nodes["a"].weights] == [(1, "k")]


def test_one_failure_makes_the_neighbours_fail() -> None:
    plan = image(
        f"""c = Conv{PAD}(x, w) a = Add(c, c) s = Sin(a) m = Mul(a, s) n = Mul(m, a)
            y = Sigmoid(n)"""
    )
    assert integer(plan) == ["c"]


# --- activations that disappear


def absorbed(plan: Plan, between: str, behind: str) -> bool:
    """Whether the tensor between is planned no more, the one behind is."""
    part = plan.nodes[behind].reason.startswith("part of ")
    assert part == (between not in plan.activations)
    assert not plan.nodes[behind].quantized
    return part


def scalar(value: float) -> np.ndarray:
    return np.array(value, np.float32)


@pytest.mark.parametrize(
    ("activation", "bounds"),
    [
        ("Relu(c)", (0, np.inf)),
        ("Clip(c, zero, six)", (0, 6)),
        ("Clip(c, minus, six)", (-1, 6)),
        ("Clip(c, , six)", (-np.inf, 6)),
        ("Clip(c)", (-np.inf, np.inf)),
        ("Clip(c, minus, zero)", (-1, 0)),
    ],
)
def test_an_activation_is_absorbed_and_bounds_the_range(
    activation: str, bounds: tuple[float, float]
) -> None:
    weights = {"zero": scalar(0), "six": scalar(6), "minus": scalar(-1)}
    plan = image(f"c = Conv(x, w, b) y = {activation}", weights)
    assert absorbed(plan, "c", "y")
    assert plan.nodes["y"].reason == "part of Conv(c)"
    assert plan.activations["y"].spec.bounds == bounds
    assert plan.observed == ["x", "y"]


def test_clip_attributes_of_old_opsets() -> None:
    plan = image("c = Conv(x, w, b) y = Clip<min = 0.0, max = 6.0>(c)", opset=9)
    assert absorbed(plan, "c", "y")
    assert plan.activations["y"].spec.bounds == (0, 6)


@pytest.mark.parametrize(
    ("activation", "why"),
    [
        ("Clip(c, half, six)", "zero is no value of the result"),
        ("Clip(c, less, minus)", "zero is no value of the result"),
        ("Clip(c, low)", "the bound is an input"),
        ("com.test.Relu(c)", "another domain"),
    ],
)
def test_activations_the_codes_cannot_imitate_are_not_absorbed(activation: str, why: str) -> None:
    weights = {"half": scalar(0.5), "six": scalar(6), "minus": scalar(-1), "less": scalar(-2)}
    plan = image(f"c = Conv(x, w, b) y = {activation}", weights)
    assert not absorbed(plan, "c", "y"), why
    assert plan.activations["c"].written


def test_not_absorbed_when_the_tensor_between_has_another_reader() -> None:
    plan = image("c = Conv(x, w) y = Relu(c) z = Sigmoid(c)", outputs="y z")
    assert not absorbed(plan, "c", "y")


def test_not_absorbed_when_a_subgraph_reads_the_tensor_between() -> None:
    proto = build(
        """net (float[N, 3, 8, 8] x, bool t) => (float[N, 4, 6, 6] y, float[N, 4, 6, 6] z) {
            c = Conv(x, w)
            y = Relu(c)
            z = If(t) <
                then_branch = yes () => (float[N, 4, 6, 6] p) { p = Sigmoid(c) },
                else_branch = no () => (float[N, 4, 6, 6] q) { q = Neg(c) }
            >
        }""",
        {"w": (4, 3, 3, 3)},
    )
    assert not absorbed(plan_of(proto), "c", "y")


def test_not_absorbed_when_the_tensor_between_is_a_graph_output() -> None:
    assert not absorbed(image("c = Conv(x, w) y = Relu(c)", outputs="y c"), "c", "y")


def test_not_absorbed_by_a_float_operator() -> None:
    plan = image("d = Conv(x, w) s = Sin(x) c = Add(x, s) y = Relu(c)", outputs="y d")
    assert plan.nodes["c"].reason == "it reads 's', which is float"
    assert plan.nodes["y"].reason == "Relu is not quantized on cpu"


def test_not_absorbed_by_an_operator_that_only_moves_values() -> None:
    plan = image(
        f"d = Conv{PAD}(x, w) c = MaxPool<kernel_shape = [1, 1]>(d) r = Relu(c) y = Conv(r, k)",
        {"k": (4, 4, 1, 1)},
    )
    assert plan.nodes["r"].reason == "Relu is not quantized on cpu"
    assert plan.activations["r"].shares == "r"
    assert plan.activations["r"].spec.bounds == (0, np.inf)


def test_not_absorbed_against_a_rule() -> None:
    proto = build(_image("c = Conv(x, w) y = Relu(c)", "y"), CONV)
    plan = plan_of(proto, Recipe(rules=(NodeRule(op="Relu", quantize=False),)))
    assert not absorbed(plan, "c", "y")
    assert plan.nodes["y"].reason == "kept float by a rule"


def test_a_second_activation_is_not_absorbed() -> None:
    plan = image("c = Conv(x, w) r = Relu(c) y = Clip(r, , six)", {"six": scalar(6)})
    assert absorbed(plan, "c", "r")
    assert not absorbed(plan, "r", "y")


def test_an_absorbed_activation_counts_as_integer() -> None:
    plan = image(
        f"c = Conv{PAD}(x, w) r = Relu(c) a = Add(r, r) y = Conv(a, k)", {"k": (4, 4, 1, 1)}
    )
    assert integer(plan) == ["c", "a", "y"]


def test_a_relu_of_a_follower_is_absorbed() -> None:
    plan = image(
        f"c = Conv{PAD}(x, w) d = Conv{PAD}(x, w) a = Add(c, d) r = Relu(a) y = Conv(r, k)",
        {"k": (4, 4, 1, 1)},
    )
    assert absorbed(plan, "a", "r")


# --- unnamed and odd nodes


def test_nodes_without_names_are_labelled_by_their_output() -> None:
    plan = image("y = Conv(x, w)")
    assert plan.nodes["y"].label == "Conv(y)"


def test_nodes_without_outputs_names_do_not_matter() -> None:
    proto = build("net (float[N, 8] x) => (float[N, 4] y) { y = MatMul(x, w) }", {"w": (8, 4)})
    model = from_proto(copy(proto))
    orphan = onnx.helper.make_node("Relu", ["x"], ["q"])
    model.proto.graph.node.append(orphan)
    model = from_proto(model.proto)
    model.graph.nodes[1].outputs.clear()
    plan = resolve(model, eager(), Recipe())
    assert list(plan.nodes) == ["y"]
