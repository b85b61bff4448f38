import pytest

from onnxq.graph.io import Node, from_proto
from onnxq.targets import Worth, target
from onnxq.worth import not_worth
from tests.graphs import build


def conv(outputs: int, inputs: int, group: int) -> Node:
    weights = {"w": (outputs, inputs // group, 1, 1)}
    text = f"""g (float[1, {inputs}, 4, 4] x) => (float[1, {outputs}, 4, 4] y)
        {{ y = Conv<group = {group}>(x, w) }}"""
    return from_proto(build(text, weights)).graph.nodes[0]


@pytest.mark.parametrize(
    ("outputs", "inputs", "group", "stays"),
    [
        (16, 8, 1, ""),
        (15, 8, 1, "15 output channels"),
        (32, 32, 32, ""),
        (40, 40, 40, "40 grouped channels"),
        (40, 8, 1, ""),
    ],
)
def test_narrow_and_ragged_convolutions_stay_float_on_cpu(
    outputs: int, inputs: int, group: int, stays: str
) -> None:
    reason = not_worth(conv(outputs, inputs, group), target("cpu").worth, (False, False))
    assert stays in reason
    assert bool(reason) == bool(stays)


def test_by_default_everything_is_worth_it() -> None:
    assert not not_worth(conv(3, 3, 3), Worth(), (True, True))


@pytest.mark.parametrize(
    ("conversions", "pays"),
    [((False, False), True), ((True, False), True), ((False, True), True), ((True, True), False)],
)
def test_what_is_saved_outweighs_the_conversions(
    conversions: tuple[bool, bool], pays: bool
) -> None:
    node = conv(32, 32, 1)  # 1024 products a position, 32 values read, 32 written
    reason = not_worth(node, Worth(min_products=20), conversions)
    assert bool(reason) != pays
    assert pays or "16 products for every value converted" in reason
