"""Codes of strategies: there and back, and what is no code of a space."""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from onnxq.errors import RecipeError
from onnxq.recipe import Recipe, TensorRule
from onnxq.search.opening import MOST
from onnxq.search.space import FACTORS, Gene, Option, Space
from onnxq.search.strategy import DIGITS, decode, encode, factors_of, space_id

KINDS = st.sampled_from(["all", "activation", "weight", "node"])
HEAD = 18  # digits before the dash


def gene(name: str, labels: list[str], kind: str = "activation") -> Gene:
    options = tuple(Option(label=label) for label in labels)
    return Gene(name=name, kind=kind, reason="", options=options)


def space(*genes: Gene, factors: tuple[str, ...] = ("ranges",)) -> Space:
    return Space(
        genes=genes, base=Recipe(), factors=factors, target="cpu", model_sha256="5eed" * 16
    )


SPACE = space(gene("x", ["mse", "minmax"]), gene("y", ["mse", "minmax", "entropy"]))


@st.composite
def spaces(draw: st.DrawFn) -> Space:
    names = draw(st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=8, unique=True))
    counts = [draw(st.integers(2, MOST)) for _ in names]
    genes = [
        gene(name, [f"o{number}" for number in range(count)], draw(KINDS))
        for name, count in zip(names, counts, strict=True)
    ]
    opened = draw(st.sets(st.sampled_from(FACTORS), min_size=1))
    return space(*genes, factors=tuple(each for each in FACTORS if each in opened))


@given(spaces(), st.data())
def test_codes_are_decoded(drawn: Space, data: st.DataObject) -> None:
    genes = tuple(data.draw(st.integers(0, count - 1)) for count in drawn.counts.tolist())
    code = encode(drawn, genes)
    assert decode(drawn, code) == genes
    assert factors_of(code) == drawn.factors
    assert code == encode(drawn, np.array(genes)) == f"{space_id(drawn)}-{code[HEAD + 1 :]}"
    assert len(code) == HEAD + 1 + len(genes)
    assert set(code) <= {*DIGITS, "-"}


@given(spaces(), spaces())
def test_codes_of_different_spaces_differ(one: Space, other: Space) -> None:
    same = (one.genes, one.factors) == (other.genes, other.factors)
    assert (space_id(one) == space_id(other)) is same


OTHERS: dict[str, Callable[[Space], Space]] = {
    "model": lambda s: replace(s, model_sha256="0" * 64),
    "target": lambda s: replace(s, target="generic"),
    "recipe": lambda s: replace(s, base=Recipe(weights=TensorRule(range="mse"))),
    "options": lambda s: replace(s, genes=(gene("x", ["mse", "plain-kl"]), s.genes[1])),
}


@pytest.mark.parametrize(("name", "other"), OTHERS.items())
def test_a_code_of_another_space_names_what_is_different(
    name: str, other: Callable[[Space], Space]
) -> None:
    code = encode(other(SPACE), (1, 2))
    assert code != encode(SPACE, (1, 2))
    with pytest.raises(RecipeError, match=rf"\A.*'{code}' is for another {name}.*\Z"):
        decode(SPACE, code)


def test_the_first_difference_is_named_and_what_helps() -> None:
    with pytest.raises(RecipeError, match="another recipe: give the flags"):
        decode(SPACE, encode(OTHERS["options"](OTHERS["recipe"](SPACE)), (0, 0)))
    with pytest.raises(RecipeError, match="another options: another version of onnxq, or a table"):
        decode(SPACE, encode(OTHERS["options"](SPACE), (0, 0)))


@pytest.mark.parametrize(
    "other",
    [
        space(*SPACE.genes[::-1]),
        space(SPACE.genes[0]),
        space(replace(SPACE.genes[0], name="z"), SPACE.genes[1]),
        space(replace(SPACE.genes[0], kind="weight"), SPACE.genes[1]),
        space(gene("x", ["mse", "minmax", "more"]), SPACE.genes[1]),
    ],
    ids=["order", "fewer", "name", "kind", "more"],
)
def test_all_that_makes_options_counts(other: Space) -> None:
    code = encode(other, (0,) * len(other.genes))
    with pytest.raises(RecipeError, match="another options"):
        decode(SPACE, code)


def test_other_factors_with_the_same_options_are_another_space() -> None:
    code = encode(replace(SPACE, factors=("ranges", "float")), (0, 0))
    assert factors_of(code) == ("ranges", "float")
    with pytest.raises(RecipeError, match="not in this space"):
        decode(SPACE, code)


ID = space_id(SPACE)


@pytest.mark.parametrize(
    "code",
    [
        "", "-", "00", "garbage", ID, f"{ID}-", f"-{ID}", ID[:-1] + "-00", f"{ID}0-00",
        f"{ID}-0O", f"{ID}-0 0", f"{ID}-0-0", f"{ID}–00", f"{ID.upper()}-00", f"{ID}-00\n",
        f" {ID}-00", f"{ID}-٠٠", f"{ID[:-1]}é-00",
    ],
)  # fmt: skip
def test_what_is_no_code(code: str) -> None:
    for read in (factors_of, lambda each: decode(SPACE, each)):
        with pytest.raises(RecipeError, match=r"\A.*a code is 18 digits.*\Z"):
            read(code)


@pytest.mark.parametrize("digits", ["0", "000", "20", "03", "z0", "0z"])
def test_choices_that_are_not_there(digits: str) -> None:
    assert decode(SPACE, f"{ID}-12") == (1, 2)
    with pytest.raises(RecipeError, match=r"\A.*not in this space\Z"):
        decode(SPACE, f"{ID}-{digits}")


@given(st.sets(st.sampled_from(FACTORS), min_size=1))
def test_a_code_tells_the_factors_in_order(opened: set[str]) -> None:
    factors = tuple(each for each in FACTORS if each in opened)
    assert factors_of(encode(replace(SPACE, factors=factors), (0, 0))) == factors


def test_factors_that_nobody_knows_yet() -> None:
    with pytest.raises(RecipeError, match="opens nothing that this version"):
        factors_of(f"zz{ID[2:]}-00")
