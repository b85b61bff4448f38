import re

import numpy as np
import pytest

from onnxq.errors import ModelError, RecipeError, UnknownNameError, UnsupportedError
from onnxq.graph.io import from_proto
from onnxq.plan import Plan, observable
from onnxq.ranges.minmax import MinMax
from onnxq.ranges.mse import Mse
from onnxq.ranges.percentile import Percentile
from onnxq.recipe import NodeRule, Recipe, TensorRule
from onnxq.types import IntType
from tests.graphs import build, eager, plan_of

UINT8, INT8 = IntType(8, signed=False), IntType(8, signed=True)
PAD = "<pads = [1, 1, 1, 1]>"
NET = f"""
net (float[N, 3, 8, 8] x) => (float[N, 5] y)
{{
    c = Conv{PAD}(x, w, b)
    r = Relu(c)
    d = Conv{PAD}(r, k)
    a = Add(d, r)
    p = MaxPool<kernel_shape = [2, 2], strides = [2, 2]>(a)
    q = GlobalAveragePool(p)
    f = Flatten(q)
    g = Gemm<transB = 1>(f, v, e)
    y = MatMul(g, z)
}}
"""
WEIGHTS = {
    "w": (4, 3, 3, 3),
    "b": (4,),
    "k": (4, 4, 3, 3),
    "v": (6, 4),
    "e": (6,),
    "z": (6, 5),
}


def planned(recipe: Recipe | None = None, *, named: bool = False) -> Plan:
    proto = build(NET, WEIGHTS)
    if named:
        for node in proto.graph.node:
            node.name = f"/{'head' if node.output[0] in 'gy' else 'body'}/{node.op_type}"
    return plan_of(proto, recipe)


def rules(*entries: NodeRule) -> Recipe:
    return Recipe(rules=entries)


# --- defaults of the target


def test_activations_are_uint8_affine_with_one_scale() -> None:
    for plan in planned().activations.values():
        assert plan.spec.dtype == UINT8
        assert not plan.spec.symmetric
        assert plan.spec.tile == ()
        assert plan.spec.range == MinMax()


def test_weights_are_int8_symmetric_per_output_channel() -> None:
    plan = planned()
    tiles = {w.name: w.spec.tile for node in plan.nodes.values() for w in node.weights}
    assert tiles == {"w": (1, 0, 0, 0), "k": (1, 0, 0, 0), "v": (1, 0), "z": (0, 1)}
    specs = [w.spec for node in plan.nodes.values() for w in node.weights]
    assert all(spec.dtype == INT8 and spec.symmetric for spec in specs)


def test_biases_are_planned_where_there_are_any() -> None:
    found = {key: node.bias for key, node in planned().nodes.items() if node.quantized}
    assert found["c"] == 2
    assert found["g"] == 2
    assert found["d"] is None
    assert found["y"] is None


def test_an_empty_bias_is_none() -> None:
    proto = build(
        "net (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) { y = Conv(x, w, b) }", WEIGHTS
    )
    proto.graph.node[0].input[2] = ""
    assert plan_of(proto).nodes["y"].bias is None


def test_which_tensors_are_quantized() -> None:
    plan = planned()
    written = {name for name, tensor in plan.activations.items() if tensor.written}
    assert list(plan.activations) == ["x", "r", "d", "a", "p", "q", "f", "g"]
    assert written == {"r", "d", "a", "p", "q", "f", "g"}
    assert "c" not in plan.activations  # inside of Conv and Relu
    assert "y" not in plan.activations  # MatMul can write floats, and nothing integer reads it


def test_a_conv_always_writes_integers() -> None:
    proto = build("net (float[N, 3, 8, 8] x) => (float[N, 4, 6, 6] y) { y = Conv(x, w) }", WEIGHTS)
    assert list(plan_of(proto).activations) == ["x", "y"]


def test_every_activation_has_a_reason() -> None:
    plan = planned().activations
    assert plan["x"].reason == "read by Conv(c)"
    assert plan["r"].reason == "written by Conv(c)"
    assert plan["p"].reason == "written by MaxPool(p); shares the parameters of 'a'"


def test_the_plan_knows_what_was_asked() -> None:
    recipe = Recipe(weights=TensorRule(range="mse"))
    plan = planned(recipe)
    assert plan.recipe is recipe
    assert plan.target.name == "cpu"


# --- sharing


def test_moving_values_shares_parameters_along_the_chain() -> None:
    proto = build(
        f"""net (float[N, 3, 8, 8] x) => (float[N, 5] y) {{
            c = Conv{PAD}(x, w)
            p = MaxPool<kernel_shape = [2, 2]>(c)
            t = Transpose<perm = [0, 2, 3, 1]>(p)
            s = Reshape(t, shape)
            f = Flatten(s)
            y = Gemm(f, v)
        }}""",
        {"w": (4, 3, 3, 3), "shape": np.array([0, 7, 28]), "v": (196, 5)},
    )
    plan = plan_of(proto)
    shares = {name: tensor.shares for name, tensor in plan.activations.items()}
    assert shares == {"x": "x", "c": "c", "p": "c", "t": "c", "s": "c", "f": "c"}
    assert plan.observed == ["x", "c"]
    assert all(plan.activations[name].spec is plan.activations["c"].spec for name in "ptsf")


def test_sharing_keeps_the_bounds_of_the_source() -> None:
    proto = build(
        f"""net (float[N, 3, 8, 8] x) => (float[N, 4, 7, 7] y) {{
            c = Conv{PAD}(x, w) r = Relu(c)
            p = MaxPool<kernel_shape = [2, 2]>(r)
            y = Conv(p, k)
        }}""",
        {"w": (4, 3, 3, 3), "k": (4, 4, 1, 1)},
    )
    plan = plan_of(proto)
    assert plan.activations["p"].spec.bounds == (0, np.inf)
    assert plan.activations["p"].shares == "r"


def test_arithmetic_has_parameters_of_its_own() -> None:
    plan = planned()
    for name in ("a", "q", "g"):
        assert plan.activations[name].shares == name
        assert plan.activations[name].sources == (name,)


def test_sharing_a_graph_input() -> None:
    proto = build(
        """net (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y, float[N, 4, 7, 7] z) {
            y = Conv(x, w) p = MaxPool<kernel_shape = [2, 2]>(x) z = Conv(p, w)
        }""",
        {"w": (4, 3, 1, 1)},
    )
    plan = plan_of(proto)
    assert plan.activations["p"].shares == "x"
    assert plan.observed == ["x", "y", "z"]


def test_a_tensor_behind_float_moves_can_use_statistics_from_before_them() -> None:
    proto = build(
        """net (float[N, 8, 3] x) => (float[N, 4] y)
        { t = Transpose<perm = [0, 2, 1]>(x) f = Flatten(t) y = MatMul(f, w) }""",
        {"w": (24, 4)},
    )
    plan = plan_of(proto)
    assert list(plan.activations) == ["f"]
    assert plan.activations["f"].sources == ("f", "t", "x")
    assert plan.activations["f"].shares == "f"
    assert plan.observed == ["x"]


# --- what calibration may have to observe


FLOAT_RULES = [
    *(NodeRule(op=op, quantize=False) for op in ("Conv", "Add", "MaxPool", "Flatten", "Gemm")),
    *(NodeRule(name=rf"\({name}\)$", quantize=False) for name in "cdapqfgy"),
]


@pytest.mark.parametrize("rule", FLOAT_RULES, ids=str)
def test_observable_covers_what_a_rule_keeps_float(rule: NodeRule) -> None:
    seen = set(observable(from_proto(build(NET, WEIGHTS)), eager()))
    for activation in planned(rules(rule)).activations.values():
        assert seen & set(activation.sources), activation.name


def test_observable_leaves_out_what_an_activation_absorbs() -> None:
    seen = observable(from_proto(build(NET, WEIGHTS)), eager())
    assert "c" not in seen
    assert {"x", "r", "d", "a", "q", "g"} <= set(seen)


def test_observable_leaves_out_what_only_moves_values() -> None:
    assert not {"p", "f"} & set(observable(from_proto(build(NET, WEIGHTS)), eager()))


# --- shared weights


def test_weights_shared_by_two_convs_are_planned_for_both() -> None:
    proto = build(
        f"""net (float[N, 3, 8, 8] x) => (float[N, 3, 8, 8] y)
        {{ c = Conv{PAD}(x, w) y = Conv{PAD}(c, w) }}""",
        {"w": (3, 3, 3, 3)},
    )
    nodes = plan_of(proto).nodes
    assert nodes["c"].weights == nodes["y"].weights


def test_weights_shared_by_gemm_and_matmul_have_channels_on_different_axes() -> None:
    proto = build(
        "net (float[N, 4] x) => (float[N, 4] y) { g = Gemm<transB = 1>(x, w) y = MatMul(g, w) }",
        {"w": (4, 4)},
    )
    nodes = plan_of(proto).nodes
    assert nodes["g"].weights[0].spec.tile == (1, 0)
    assert nodes["y"].weights[0].spec.tile == (0, 1)


# --- granularity


@pytest.mark.parametrize("granularity", ["tensor", "channel"])
def test_granularity_of_weights(granularity: str) -> None:
    plan = planned(Recipe(weights=TensorRule(granularity=granularity)))
    tiles = [w.spec.tile for node in plan.nodes.values() for w in node.weights]
    assert all(bool(tile) == (granularity == "channel") for tile in tiles)


def test_weights_without_a_channel_axis_have_one_scale() -> None:
    proto = build(
        """net (float[2, 4, 8] x) => (float[2, 4, 5] y, float[2, 3, 8] z)
        { y = MatMul(x, batched) z = MatMul(left, x) }""",
        {"batched": (2, 8, 5), "left": (3, 4)},
    )
    nodes = plan_of(proto).nodes
    assert (nodes["y"].weights[0].index, nodes["y"].weights[0].spec.tile) == (1, ())
    assert (nodes["z"].weights[0].index, nodes["z"].weights[0].spec.tile) == (0, ())


def test_constants_of_followers_are_quantized_like_activations() -> None:
    proto = build(
        f"""net (float[N, 3, 8, 8] x) => (float[N, 4, 8, 8] y)
        {{ c = Conv{PAD}(x, w) a = Mul(c, s) y = Conv(a, k) }}""",
        {"w": (4, 3, 3, 3), "s": (4, 1, 1), "k": (4, 4, 1, 1)},
    )
    recipe = Recipe(activations=TensorRule(range="percentile"))
    (weight,) = plan_of(proto, recipe).nodes["a"].weights
    assert weight.spec.dtype == UINT8
    assert weight.spec.tile == ()
    assert weight.spec.range == MinMax()


# --- recipes


def test_rules_over_recipe_over_target() -> None:
    recipe = Recipe(
        activations=TensorRule(range="percentile", range_options={"percentile": 99.0}),
        weights=TensorRule(range="mse"),
        rules=(
            NodeRule(
                op="Gemm",
                weights=TensorRule(granularity="tensor", range="minmax"),
                activations=TensorRule(symmetric=True),
            ),
        ),
    )
    plan = planned(recipe)
    gemm, conv = plan.nodes["g"].weights[0].spec, plan.nodes["c"].weights[0].spec
    assert (gemm.tile, gemm.range) == ((), MinMax())
    assert (conv.tile, conv.range) == ((1, 0, 0, 0), Mse())
    assert plan.activations["x"].spec.range == Percentile(percentile=99.0)
    assert plan.activations["g"].spec.symmetric
    assert plan.activations["g"].spec.range == Percentile(percentile=99.0)


def test_the_first_matching_rule_wins() -> None:
    plan = planned(
        rules(
            NodeRule(op="Conv", weights=TensorRule(dtype="uint8")),
            NodeRule(name="Conv", quantize=False),
        )
    )
    assert plan.nodes["c"].quantized
    assert plan.nodes["c"].weights[0].spec.dtype == IntType(8, signed=False)


@pytest.mark.parametrize(
    ("rule", "float_nodes"),
    [
        (NodeRule(name="^/head/", quantize=False), {"g", "y"}),
        (NodeRule(op="MatMul", quantize=False), {"y"}),
        (NodeRule(name="head", op="Gemm", quantize=False), {"g"}),
        (NodeRule(name="^/body/Add$", quantize=False), {"a"}),
    ],
)
def test_rules_keep_nodes_float(rule: NodeRule, float_nodes: set[str]) -> None:
    plan = planned(rules(rule), named=True)
    kept = {key for key, node in plan.nodes.items() if node.reason == "kept float by a rule"}
    assert kept == float_nodes
    assert not any(plan.nodes[key].quantized for key in kept)


def test_names_of_unnamed_nodes_can_be_matched() -> None:
    plan = planned(rules(NodeRule(name=r"^Conv\(c\)$", quantize=False)))
    assert plan.nodes["c"].reason == "kept float by a rule"
    assert plan.nodes["d"].quantized


@pytest.mark.parametrize(
    "rule",
    [
        NodeRule(name="^/nowhere", quantize=False),
        NodeRule(op="Einsum"),
        NodeRule(op="Conv", name="Gemm"),
    ],
)
def test_a_rule_that_matches_nothing_is_refused(rule: NodeRule) -> None:
    with pytest.raises(RecipeError, match=re.escape(f"the rule for {rule} matches no node")):
        planned(rules(rule))


@pytest.mark.parametrize("kind", ["activations", "weights"])
@pytest.mark.parametrize("dtype", ["float8", "int99", "int1", "8", "INT8"])
def test_a_type_that_does_not_exist_is_a_recipe_error(kind: str, dtype: str) -> None:
    with pytest.raises(RecipeError, match=kind):
        planned(Recipe(**{kind: TensorRule(dtype=dtype)}))


@pytest.mark.parametrize("kind", ["activations", "weights"])
@pytest.mark.parametrize("dtype", ["uint4", "uint16", "int32"])
def test_a_type_the_target_lacks_is_unsupported(kind: str, dtype: str) -> None:
    with pytest.raises(UnsupportedError, match=f"target cpu has no {dtype} {kind}; it has .*int8"):
        planned(Recipe(**{kind: TensorRule(dtype=dtype)}))


def test_activations_per_channel_are_unsupported() -> None:
    with pytest.raises(UnsupportedError, match="per-channel activations"):
        planned(Recipe(activations=TensorRule(granularity="channel")))


def test_an_unknown_range_algorithm_offers_the_nearest() -> None:
    with pytest.raises(UnknownNameError, match="did you mean 'percentile'"):
        planned(Recipe(activations=TensorRule(range="percentil")))


# --- nothing to quantize


def test_nothing_to_quantize_is_an_error_with_the_commonest_reason() -> None:
    proto = build(
        "net (float[N, 4] x) => (float[N, 4] y) { a = Sin(x) b = Sin(a) c = Sin(b) y = Exp(c) }"
    )
    with pytest.raises(ModelError, match="nothing to quantize: Sin is not quantized on cpu"):
        plan_of(proto)


def test_nothing_left_by_the_rules_is_an_error() -> None:
    entries = [NodeRule(op=op, quantize=False) for op in ("Conv", "Gemm", "MatMul")]
    with pytest.raises(ModelError, match="nothing to quantize: "):
        planned(rules(*entries))


def test_a_graph_without_nodes_is_an_error() -> None:
    with pytest.raises(ModelError, match="the graph has no nodes"):
        plan_of(build("net (float[N] x) => (float[N] x) { }"))


def test_a_tie_of_reasons_goes_to_the_first() -> None:
    proto = build("net (float[N, 4] x) => (float[N, 4] y) { a = Sin(x) b = Cos(a) y = Exp(b) }")
    with pytest.raises(ModelError, match="Sin is not quantized"):  # the first of the commonest
        plan_of(proto)


def test_nodes_inside_bodies_name_the_node_that_holds_them() -> None:
    proto = build(
        """g (float[4, 8] x, bool c) => (float[4, 8] y) {
            t = MatMul(x, w)
            y = If(c) <
                then_branch = yes () => (float[4, 8] p) {
                    q = MatMul(t, w)
                    p = Loop(n, , q) <
                        body = b (int64 i, bool go, float[4, 8] s) => (bool on, float[4, 8] o)
                        { on = Identity(go) o = Tanh(s) }
                    >
                },
                else_branch = no () => (float[4, 8] r) { r = Neg(t) }
            >
        }""",
        {"w": (8, 8), "n": np.array(3)},
    )
    plans = plan_of(proto).nodes.values()
    reasons = {plan.label: plan.reason for plan in plans if "/" in plan.output}
    assert list(reasons) == ["MatMul(q)", "Loop(p)", "Identity(on)", "Tanh(o)", "Neg(r)"]
    assert all("a branch of If" in reasons[name] for name in ("MatMul(q)", "Loop(p)", "Neg(r)"))
    assert all("the body of Loop" in reasons[name] for name in ("Identity(on)", "Tanh(o)"))
