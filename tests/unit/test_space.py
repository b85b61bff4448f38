"""What may be chosen: the recipe first, then what changes it, one tensor at a time."""

import math
from collections.abc import Iterator, Sequence
from itertools import product

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onnxq.errors import NothingToQuantizeError, UsageError
from onnxq.graph.io import Model, from_proto
from onnxq.parameters import weight_params
from onnxq.passes.prepare import prepare
from onnxq.plan import Plan, resolve
from onnxq.ranges.entropy import Entropy
from onnxq.ranges.minmax import MinMax
from onnxq.ranges.percentile import Percentile
from onnxq.recipe import NodeRule, Recipe, TensorRule
from onnxq.search.opening import MOST, WEIGHT_RANGES, space_of, spelled
from onnxq.search.space import FACTORS, Gene, Option
from onnxq.types import IntType, QuantSpec
from tests.graphs import build, copy, eager, sized
from tests.networks import networks

CONVS = """g (float[N, 3, 8, 8] x) => (float[N, 5] y) {
    a = Conv <pads = [1, 1, 1, 1]> (x, w1, b1)
    r = Relu(a)
    c = Conv <pads = [1, 1, 1, 1]> (r, w2, b2)
    s = Add(c, r)
    m = MaxPool <kernel_shape = [2, 2], strides = [2, 2]> (s)
    p = GlobalAveragePool(m)
    f = Flatten(p)
    y = Gemm <transB = 1> (f, w3, b3)
}"""
TOKENS = """g (float[N, 4, 8] x) => (float[N, 4, 6] y) {
    q = MatMul(x, w1)
    k = Add(q, b1)
    r = Relu(k)
    z = MatMul(r, w2)
    d = Concat <axis = -1> (z, x)
    y = MatMul(d, w3)
}"""
NETS = {
    "convs": build(
        CONVS,
        {"w1": (6, 3, 3, 3), "b1": (6,), "w2": (6, 6, 3, 3), "b2": (6,), "w3": (5, 6), "b3": (5,)},
    ),
    "tokens": build(TOKENS, {"w1": (8, 12), "b1": (12,), "w2": (12, 8), "w3": (16, 6)}),
}
TARGETS = ["cpu", "generic", "fixed-point", "qnn", "openvino", "tensorrt", "crossbar"]
OPENED = [
    *((on, FACTORS) for on in TARGETS),
    *product(["cpu", "fixed-point", "qnn"], [("ranges",), ("widths",)]),
]
COMPUTING = ("Conv", "Gemm", "MatMul")
PLAIN = Recipe()
Key = str | tuple[str, int]


class Case:
    """A model, what the recipe alone makes of it, and what may be chosen."""

    def __init__(
        self,
        net: str | onnx.ModelProto,
        on: str,
        factors: Sequence[str],
        base: Recipe = PLAIN,
        groups: Sequence[int] = (),
    ) -> None:
        self.model: Model = from_proto(copy(NETS[net] if isinstance(net, str) else net))
        prepare(self.model)
        self.target, self.base = eager(on), sized(base, on)
        self.plan = resolve(self.model, self.target, self.base)
        self.space = space_of(self.model, self.plan, self.base, factors, groups)

    def planned(self, genes: Sequence[int]) -> Plan:
        return resolve(self.model, self.target, self.space.recipe(genes))

    @property
    def zeros(self) -> tuple[int, ...]:
        return (0,) * len(self.space.genes)

    def changes(self) -> Iterator[tuple[Gene, Option, tuple[int, ...]]]:
        """Yield all strategies that differ from the recipe in one choice."""
        for number, gene in enumerate(self.space.genes):
            for value, option in enumerate(gene.options[1:], 1):
                yield gene, option, (*self.zeros[:number], value, *self.zeros[number + 1 :])

    def gene(self, name: str) -> Gene:
        (found,) = (gene for gene in self.space.genes if gene.name == name)
        return found

    def genes(self, **chosen: str) -> tuple[int, ...]:
        """Return the strategy that takes some options, by their labels."""
        return tuple(
            [o.label for o in gene.options].index(chosen[gene.name]) if gene.name in chosen else 0
            for gene in self.space.genes
        )


def specs(plan: Plan) -> dict[Key, QuantSpec]:
    """Return what is asked of all tensors."""
    found: dict[Key, QuantSpec] = {name: each.spec for name, each in plan.activations.items()}
    weights = ((output, weight) for output, n in plan.nodes.items() for weight in n.weights)
    return found | {(output, weight.index): weight.spec for output, weight in weights}


def followers(plan: Plan, gene: Gene) -> set[Key]:
    """Return what a choice about a tensor is about: that tensor, and what has its parameters."""
    if gene.kind == "activation":
        return {name for name, each in plan.activations.items() if each.shares == gene.name}
    return {
        (output, weight.index)
        for output, node in plan.nodes.items()
        for weight in node.weights
        if weight.name == gene.name
    }


def labels(case: Case, name: str) -> list[str]:
    return [option.label for option in case.gene(name).options]


@pytest.mark.parametrize(("on", "factors"), OPENED, ids=str)
@pytest.mark.parametrize("net", NETS)
def test_a_strategy_of_zeros_is_the_recipe(on: str, net: str, factors: tuple[str, ...]) -> None:
    case = Case(net, on, factors, groups=(0, 1))
    after = case.planned(case.zeros)
    assert specs(after) == specs(case.plan)
    assert {n: each.quantized for n, each in after.nodes.items()} == {
        n: each.quantized for n, each in case.plan.nodes.items()
    }
    assert case.space.whole(case.zeros) == case.base
    assert case.space.groups(case.zeros) is None


@pytest.mark.parametrize(("on", "factors"), OPENED, ids=str)
@pytest.mark.parametrize("net", NETS)
def test_one_choice_changes_one_tensor(on: str, net: str, factors: tuple[str, ...]) -> None:
    case = Case(net, on, factors)
    before = specs(case.plan)
    for gene, option, genes in case.changes():
        if option.spec is None:
            continue
        about, after = followers(case.plan, gene), specs(case.planned(genes))
        key = gene.place or gene.name
        assert option.spec == after[key] != before[key]
        assert {k: s for k, s in after.items() if k not in about} == {
            k: s for k, s in before.items() if k not in about
        }


@given(networks(), st.sampled_from(TARGETS), st.data())
def test_every_tensor_gets_what_is_chosen_for_it(
    proto: onnx.ModelProto, on: str, data: st.DataObject
) -> None:
    opened = data.draw(st.sampled_from([("ranges",), ("widths",), ("ranges", "widths")]))
    try:
        case = Case(proto, on, opened)
    except (NothingToQuantizeError, UsageError):
        return
    assert specs(case.planned(case.zeros)) == specs(case.plan)
    genes = [data.draw(st.integers(0, count - 1)) for count in case.space.counts.tolist()]
    after = specs(case.planned(genes))
    for gene, option in case.space.chosen(genes):
        assert after[gene.place or gene.name] == option.spec


@settings(max_examples=max(10, settings().max_examples // 3))
@given(networks(), st.sampled_from(TARGETS))
def test_options_are_different_and_have_different_names(proto: onnx.ModelProto, on: str) -> None:
    try:
        space = Case(proto, on, FACTORS, groups=(0, 1)).space
    except NothingToQuantizeError:
        return
    for gene in space.genes:
        assert 1 < len(gene.options) <= MOST
        told = [option.label for option in gene.options]
        assert len(set(told)) == len(told)
        if gene.kind in ("activation", "weight"):
            assert len({repr(option.spec) for option in gene.options}) == len(told)
    order = [gene.kind for gene in space.genes]
    assert order == sorted(order, key=["all", "activation", "weight", "node"].index)
    assert len({(gene.kind, gene.name) for gene in space.genes}) == len(order)
    assert space.log10_strategies == pytest.approx(
        sum(math.log10(len(gene.options)) for gene in space.genes)
    )


# --- what the recipe says is no choice


def test_what_the_recipe_asks_of_all_weights_is_no_choice() -> None:
    base = Recipe(weights=TensorRule(range="percentile", range_options={"percentile": 99.0}))
    case = Case("convs", "cpu", ("ranges",), base)
    assert {gene.kind for gene in case.space.genes} == {"activation"}
    wide = Case("convs", "cpu", ("ranges", "widths"), base)
    weights = [gene for gene in wide.space.genes if gene.kind == "weight"]
    assert [gene.name for gene in weights] == ["w1", "w2", "w3"]
    for gene in weights:
        assert [option.spec.dtype.bits for option in gene.options if option.spec] == [
            8, 7, 6, 5, 4, 3, 2,
        ]  # fmt: skip
        assert {option.spec.range for option in gene.options if option.spec} == {
            Percentile(percentile=99.0)
        }


def test_what_the_recipe_asks_of_all_activations_is_no_choice() -> None:
    base = Recipe(activations=TensorRule(dtype="int16"), weights=TensorRule(dtype="int8"))
    case = Case("tokens", "generic", ("widths", "ranges"), base)
    assert {gene.kind for gene in case.space.genes} == {"activation", "weight"}
    for gene in case.space.genes:
        bits = {option.spec.dtype.bits for option in gene.options if option.spec}
        assert bits == ({16} if gene.kind == "activation" else {8})


def test_what_a_rule_asks_of_a_node_is_no_choice() -> None:
    rule = NodeRule(
        name=r"^Conv\(c\)$",
        activations=TensorRule(range="minmax"),
        weights=TensorRule(dtype="int4"),
    )
    plain = Case("convs", "cpu", ("ranges", "widths"))
    case = Case("convs", "cpu", ("ranges", "widths"), Recipe(rules=(rule,)))
    changed = {"c", "w2"}  # what the node reads is x and r, and the first reader of these decides
    names = {gene.name for gene in plain.space.genes}
    assert names - {gene.name for gene in case.space.genes} <= changed
    assert "c" not in {gene.name for gene in case.space.genes}
    assert {option.spec.dtype.bits for option in case.gene("w2").options if option.spec} == {4}
    assert labels(case, "w1") == labels(plain, "w1")
    for gene, option, genes in case.changes():
        after = specs(case.planned(genes))
        assert after[gene.place or gene.name] == option.spec
        assert after["c"].range == MinMax()
        assert after["c", 1].dtype == IntType(4, signed=True)


def test_a_node_the_recipe_keeps_float_has_no_choices() -> None:
    rule = NodeRule(name=r"^Gemm\(y\)$", quantize=False)
    names = {gene.name for gene in Case("convs", "cpu", FACTORS, Recipe(rules=(rule,))).space.genes}
    assert "w2" in names
    assert "Conv(c)" in names
    assert not names & {"w3", "Gemm(y)"}


@pytest.mark.parametrize(
    ("rule", "left"),
    [
        (TensorRule(range="given", range_options={"lo": -1.0, "hi": 1.0}), 0),
        (TensorRule(range="mse"), 7),
        (TensorRule(dtype="int8"), 5),
        (TensorRule(dtype="int8", range="minmax"), 0),
    ],
)
def test_what_the_recipe_asks_of_a_tensor_is_no_choice(rule: TensorRule, left: int) -> None:
    base = Recipe(tensors={"w1": rule})
    case = Case("convs", "cpu", ("ranges", "widths"), base)
    found = {gene.name: gene for gene in case.space.genes}
    assert ("w1" in found) == bool(left)
    assert len(found["w2"].options) == 7 * len(WEIGHT_RANGES)
    if left:
        assert len(found["w1"].options) == left
    every = tuple(len(gene.options) - 1 for gene in case.space.genes)
    after = specs(case.planned(every))["a", 1]
    assert rule.dtype in (None, after.dtype.name)
    assert rule.range in (None, after.range.name)


def test_a_range_given_for_an_activation_is_no_choice() -> None:
    rule = TensorRule(range="given", range_options={"lo": -1.0, "hi": 1.0})
    case = Case("convs", "generic", ("ranges", "widths"), Recipe(tensors={"x": rule}))
    assert "x" not in {gene.name for gene in case.space.genes}
    assert "r" in {gene.name for gene in case.space.genes}


def test_sharers_have_no_choice_of_their_own() -> None:
    case = Case("convs", "cpu", ("ranges",))
    leaders = {name for name, each in case.plan.activations.items() if each.shares == name}
    assert leaders < set(case.plan.activations)
    assert {g.name for g in case.space.genes if g.kind == "activation"} == leaders


def test_nothing_to_choose_is_refused() -> None:
    base = Recipe(weights=TensorRule(range="mse"), activations=TensorRule(range="minmax"))
    with pytest.raises(UsageError, match="leaves nothing to choose"):
        Case("convs", "cpu", ("ranges",), base)
    with pytest.raises(UsageError, match="leaves nothing to choose"):
        Case("convs", "cpu", ("samples",), groups=(0,))
    with pytest.raises(UsageError, match="leaves nothing to choose"):
        Case("convs", "cpu", ())


def test_factors_that_are_none_are_refused() -> None:
    with pytest.raises(UsageError, match=r"\Ano factor 'colour': there are samples, ranges, .+\Z"):
        Case("convs", "cpu", ("ranges", "colour"))


# --- what each factor opens


@pytest.mark.parametrize("on", TARGETS)
def test_widths_are_open_only_where_they_are_asked_for(on: str) -> None:
    before = specs(Case("tokens", on, ("ranges",)).plan)
    for factors in (("ranges",), ("ranges", "widths")):
        case = Case("tokens", on, factors)
        for gene in case.space.genes:
            base = before[gene.place or gene.name].dtype
            types = {option.spec.dtype for option in gene.options if option.spec}
            assert {each.signed for each in types} == {base.signed}
            if "widths" not in factors:
                assert types == {base}
            allowed = case.target.dtypes["weights" if gene.kind == "weight" else "activations"]
            known = {each for each in map(IntType.parse, allowed) if each.signed == base.signed}
            limits = range(2, 9) if gene.kind == "weight" else (8, 16)
            if "widths" in factors:
                assert types == {each for each in known if each.bits in limits}


def test_widths_alone_leave_the_ranges() -> None:
    case = Case("convs", "generic", ("widths",))
    for gene in case.space.genes:
        assert {option.spec.range for option in gene.options if option.spec} == {MinMax()}
        assert labels(case, gene.name)[0] == "int8, minmax"


def test_powers_of_two_have_ranges_of_their_own() -> None:
    found = {
        gene.kind: gene.options for gene in Case("convs", "fixed-point", ("ranges",)).space.genes
    }
    for options in found.values():
        assert [option.label for option in options] == ["minmax", "mse", "adaptive-kl", "plain-kl"]


def test_samples_are_chosen_by_group() -> None:
    case = Case("convs", "cpu", ("samples",), groups=(0, 2, 3))
    (gene,) = case.space.genes
    assert [option.groups for option in gene.options] == [
        None, (0, 2), (0, 3), (2, 3), (0,), (2,), (3,),
    ]  # fmt: skip
    assert [case.space.groups((value,)) for value in range(7)] == [o.groups for o in gene.options]
    assert case.space.recipe((3,)) == Recipe()
    many = Case("convs", "cpu", ("samples",), groups=range(6)).gene("samples")
    assert [len(option.groups or ()) for option in many.options] == [0, *[5] * 6, *[1] * 6]
    most = Case("convs", "cpu", ("samples",), groups=range(30)).gene("samples")
    assert len(most.options) == MOST


def test_repairs_are_tried_where_they_apply() -> None:
    case = Case("convs", "cpu", ("repairs",))
    assert labels(case, "correct_bias") == ["true", "false"]
    assert labels(case, "rescale") == ["none", "equalize", "smooth 0.5", "smooth 0.75"]
    assert case.space.whole(case.genes(correct_bias="false")).correct_bias is False
    asked = case.space.whole(case.genes(rescale="smooth 0.75"))
    assert (asked.smooth, asked.smooth_insert, asked.equalize) == (0.75, True, None)
    assert labels(Case("convs", "generic", ("repairs",)), "correct_bias") == ["false", "true"]
    tokens = Case("tokens", "cpu", ("repairs",)).space.genes
    assert [gene.name for gene in tokens] == ["rescale"]
    tiled = Case("convs", "crossbar", ("repairs",)).space.genes
    assert "rescale" not in {gene.name for gene in tiled}


def test_how_repairs_are_made_is_as_the_recipe_says() -> None:
    case = Case("convs", "cpu", ("repairs",), Recipe(smooth_insert=False))
    asked = case.space.recipe(case.genes(rescale="smooth 0.5"))
    assert (asked.smooth, asked.smooth_insert) == (0.5, False)


@pytest.mark.parametrize(
    ("base", "left"),
    [
        (Recipe(correct_bias=True), {"rescale"}),
        (Recipe(bias_correction="empirical"), {"rescale"}),
        (Recipe(equalize=False), {"correct_bias"}),
        (Recipe(smooth=0.3), {"correct_bias"}),
    ],
)
def test_repairs_the_recipe_decides_are_no_choice(base: Recipe, left: set[str]) -> None:
    assert {gene.name for gene in Case("convs", "cpu", ("repairs",), base).space.genes} == left


def test_symmetry_and_granularity_are_chosen_for_all() -> None:
    case = Case("convs", "cpu", ("symmetric", "granularity", "ranges"))
    assert labels(case, "activations.symmetric") == ["as the recipe says", "symmetric true"]
    assert labels(case, "weights.granularity") == ["as the recipe says", "tensor"]
    chosen = {"activations.symmetric": "symmetric true", "weights.granularity": "tensor"}
    after = specs(case.planned(case.genes(**chosen, w2="mse", r="minmax")))
    for key, spec in after.items():
        assert spec.tile == ()
        assert spec.symmetric
        assert (spec.range.name == "mse") == (key == ("c", 1))
    symmetric = Recipe(activations=TensorRule(symmetric=True))
    with pytest.raises(UsageError, match="nothing to choose"):
        Case("convs", "fixed-point", ("symmetric",))
    with pytest.raises(UsageError, match="nothing to choose"):
        Case("convs", "cpu", ("symmetric",), symmetric)


def test_a_lifted_node_is_float_with_the_activation_it_absorbs() -> None:
    case = Case("convs", "cpu", ("float",))
    assert [gene.name for gene in case.space.genes] == ["Conv(a)", "Conv(c)", "Gemm(y)"]
    for gene, option, genes in case.changes():
        assert option.lifts
        after = case.planned(genes)
        quantized = {each.label for each in after.nodes.values() if each.quantized}
        assert {"Conv(a)", "Conv(c)", "Gemm(y)"} - quantized == {gene.name}
    fixed = Case("convs", "fixed-point", ("float",))
    assert fixed.space.absorbed == {"Conv(a)": ("Relu(r)", "Relu")}
    after = fixed.planned(fixed.genes(**{"Conv(a)": "float"}))
    assert not after.nodes["a"].quantized
    assert not after.nodes["r"].quantized
    assert after.nodes["c"].quantized


# --- what strategies are as recipes


def test_a_recipe_says_what_is_usual_once() -> None:
    case = Case("convs", "cpu", ("ranges",))
    every = {gene.name: "entropy" for gene in case.space.genes if gene.kind == "activation"}
    assert len(every) > 2
    recipe = case.space.recipe(case.genes(**every, w2="mse"))
    assert recipe.activations == TensorRule(range="entropy")
    assert recipe.weights == TensorRule(range="minmax")
    assert recipe.tensors == {"w2": TensorRule(range="mse")}
    but_one = case.space.recipe(case.genes(**{**every, "x": "percentile 99.9"}))
    asked = TensorRule(range="percentile", range_options={"percentile": 99.9})
    assert but_one.tensors == {"x": asked}


def test_what_passes_renamed_is_called_by_its_new_name() -> None:
    case = Case("convs", "cpu", ("ranges",))
    recipe = case.space.recipe(case.genes(w2="mse", x="mse"), {"w2": "w2_equalized"})
    assert set(recipe.tensors) == {"w2_equalized", "x"}


def test_nodes_that_passes_renamed_are_lifted_by_their_new_name() -> None:
    case = Case("convs", "fixed-point", ("float",))
    new = {"Conv(a)": "Conv(a_equalized)", "Relu(r)": "Relu(r_equalized)"}
    (first, second) = case.space.recipe(case.genes(**{"Conv(a)": "float"}), labels=new).rules
    assert first.matches("Conv(a_equalized)", "Conv")
    assert not first.matches("Conv(a)", "Conv")
    assert second.matches("Relu(r_equalized)", "Relu")


def test_what_is_usual_does_not_replace_what_the_recipe_says() -> None:
    rule = NodeRule(op="Conv", weights=TensorRule(range="mse"))
    base = Recipe(weights=TensorRule(range="outlier-var"), rules=(rule,))
    case = Case("convs", "cpu", ("ranges", "widths"), base)
    recipe = case.space.recipe(case.genes(w1="int4, mse", w2="int4, mse"))
    assert recipe.weights == TensorRule(range="outlier-var", dtype="int4")
    after = specs(case.planned(case.genes(w1="int4, mse", w2="int4, mse")))
    assert {key: spec.range.name for key, spec in after.items() if isinstance(key, tuple)} == {
        ("a", 1): "mse",
        ("c", 1): "mse",
        ("y", 1): "outlier-var",
    }


def test_what_the_recipe_says_stays() -> None:
    rule = NodeRule(op="Gemm", weights=TensorRule(range="mse"))
    base = Recipe(
        target="cpu",
        activations=TensorRule(symmetric=True),
        rules=(rule,),
        tensors={"x": TensorRule(range="minmax")},
        correct_bias=False,
    )
    case = Case("convs", "cpu", FACTORS, base, groups=(0, 1))
    for genes in (case.zeros, tuple(case.space.counts - 1)):
        recipe = case.space.recipe(genes)
        assert recipe.rules[-1] == rule
        assert recipe.tensors["x"].range == "minmax"
        assert recipe.activations.symmetric is True
        assert (recipe.target, recipe.correct_bias) == ("cpu", False)


@pytest.mark.parametrize(
    ("algorithm", "text"),
    [
        (MinMax(), "minmax"),
        (Percentile(percentile=99.9), "percentile 99.9"),
        (Percentile(), f"percentile {Percentile().percentile}"),
        (Entropy(), "entropy"),
    ],
)
def test_ranges_as_people_read_them(algorithm: object, text: str) -> None:
    assert spelled(algorithm) == text  # type: ignore[arg-type]


# --- what weights take


def weighed(case: Case, genes: Sequence[int]) -> int:
    """Return what the weights take, from the plan and the parameters of the strategy."""
    after = case.planned(genes)
    used = weight_params(after, case.model)
    total = 0
    for output, node in case.plan.nodes.items():
        for weight in node.weights if node.op in COMPUTING else ():
            elements = math.prod(case.model.graph.tensors()[weight.name].shape)
            if after.nodes[output].quantized:
                params = used[output, weight.index]
                zero_point = 0 if params.dtype.signed else params.dtype.bits
                total += elements * params.dtype.bits + params.scale.size * (32 + zero_point)
            else:
                total += 32 * elements
    return total


@pytest.mark.parametrize("on", ["cpu", "fixed-point", "crossbar"])
@pytest.mark.parametrize("net", NETS)
def test_bits_are_those_of_codes_and_scales(on: str, net: str) -> None:
    case = Case(net, on, ("widths", "ranges"))
    assert case.space.bits(case.zeros) == weighed(case, case.zeros)
    rng = np.random.default_rng(0)
    drawn = rng.integers(case.space.counts, size=(8, len(case.space.genes)))
    expected = [weighed(case, genes) for genes in drawn]
    assert len(set(expected)) > 5
    assert case.space.bits_of(drawn).tolist() == expected
    assert [case.space.bits(genes) for genes in drawn] == expected


def test_by_hand() -> None:
    case = Case("convs", "cpu", ("widths",))
    first, second, third = 6 * 3 * 9, 6 * 6 * 9, 5 * 6
    scales = 32 * (6 + 6 + 5)
    assert case.space.bits(case.zeros) == 8 * (first + second + third) + scales
    four = case.genes(w2="int4, minmax")
    assert case.space.bits(four) == 8 * (first + third) + 4 * second + scales


@pytest.mark.parametrize("on", ["cpu", "generic", "fixed-point"])
def test_the_granularity_of_weights_counts(on: str) -> None:
    case = Case("convs", on, ("granularity", "widths"))
    assert case.space.genes[0].name == "weights.granularity"
    found = set()
    for grain, width in product(range(len(case.space.genes[0].options)), (0, 1)):
        genes = (grain, *(width for _ in case.space.genes[1:]))
        found.add(case.space.bits(genes))
        assert case.space.bits(genes) == weighed(case, genes)
    assert len(found) == 4


def test_zero_points_of_weights_count() -> None:
    base = Recipe(weights=TensorRule(dtype="uint8", symmetric=False))
    case = Case("convs", "generic", ("ranges",), base)
    assert case.space.bits(case.zeros) == weighed(case, case.zeros)


@pytest.mark.parametrize("on", ["cpu", "fixed-point"])
@pytest.mark.parametrize("factors", [("float",), ("float", "widths")], ids=len)
def test_a_lifted_weight_takes_32_bits(on: str, factors: tuple[str, ...]) -> None:
    case = Case("convs", on, factors)
    some = case.genes(**{"Conv(c)": "float"})
    assert case.space.bits(some) == weighed(case, some)
    first, second, third = 6 * 3 * 9, 6 * 6 * 9, 5 * 6
    scales = 32 * (11 if on == "cpu" else 2)
    assert case.space.bits(some) == 8 * (first + third) + 32 * second + scales


def test_weights_that_are_no_choice_take_bits_too() -> None:
    rule = NodeRule(name=r"^Conv\(c\)$", weights=TensorRule(dtype="int4", range="minmax"))
    base = Recipe(rules=(rule,))
    case = Case("convs", "cpu", ("widths",), base)
    assert "w2" not in {gene.name for gene in case.space.genes}
    assert case.space.bits(case.zeros) == weighed(case, case.zeros)
    lifting = Case("convs", "cpu", ("float",), base)
    some = lifting.genes(**{"Conv(c)": "float"})
    assert lifting.space.bits(some) == weighed(lifting, some)
