"""The metric `noise` is SQNR as a ratio, whatever the values, batches and outputs."""

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from onnxq.metrics.answers import Answers
from onnxq.metrics.similarity import powers, similarity
from onnxq.metrics.unlabelled import Noise
from onnxq.types import Array
from tests import strategies

Pair = tuple[Array, Array]
NUMBERS = st.sampled_from([strategies.MODERATE, strategies.ANYTHING, st.just(0.0)])


@st.composite
def pairs(draw: st.DrawFn, samples: int | None = None) -> Pair:
    """Draw an output of the float model and one that is like it here and there."""
    rows = samples or draw(st.integers(1, 6))
    shape = (rows, *draw(hnp.array_shapes(min_dims=0, max_dims=2, max_side=4)))
    reference = draw(hnp.arrays(np.float32, shape, elements=draw(NUMBERS)))
    got = draw(hnp.arrays(np.float32, shape, elements=draw(NUMBERS)))
    same = draw(hnp.arrays(np.bool_, shape))
    return reference, np.where(same, reference, got)


def answered(outputs: dict[str, Pair]) -> Answers:
    samples = len(next(iter(outputs.values()))[0])
    return Answers(
        outputs={name: got for name, (_, got) in outputs.items()},
        reference={name: reference for name, (reference, _) in outputs.items()},
        samples=samples,
    )


def ratio(pair: Pair) -> float:
    """Noise over signal of one output, from its SQNR."""
    found = similarity(*pair)
    return 10 ** (-found.sqnr / 10) if found.signal else found.noise


def score(outputs: dict[str, Pair]) -> float:
    return Noise().score(Noise().evidence(answered(outputs)))


@given(pairs())
def test_powers_are_those_of_similarity(pair: Pair) -> None:
    signal, noise = powers(*pair)
    found = similarity(*pair)
    assert len(signal) == len(noise) == found.samples
    assert math.fsum(signal) == pytest.approx(found.signal)
    assert math.fsum(noise) == pytest.approx(found.noise)


@given(pairs())
def test_the_score_is_minus_the_noise_over_the_signal(pair: Pair) -> None:
    found = score({"y": pair})
    assert found == pytest.approx(-ratio(pair))
    assert found <= 0
    assert math.copysign(1, found) == (1 if found == 0 else -1), "no minus zero"


@given(st.integers(1, 6).flatmap(lambda rows: st.lists(pairs(rows), min_size=1, max_size=4)))
def test_the_worst_output_counts(drawn: list[Pair]) -> None:
    outputs = {f"y{number}": pair for number, pair in enumerate(drawn)}
    assert score(outputs) == pytest.approx(-max(map(ratio, drawn)))
    for name, pair in outputs.items():
        alone = Noise(output=name)
        assert alone.score(alone.evidence(answered(outputs))) == pytest.approx(-ratio(pair))


@given(pairs())
def test_the_units_of_a_batch_average_to_its_score(pair: Pair) -> None:
    evidence = Noise().evidence(answered({"y": pair}))
    units = Noise().units(evidence)
    assert len(units) == len(pair[0])
    assert all(each <= 0 for each in units)
    assume(similarity(*pair).signal)
    assert np.mean(units) == pytest.approx(Noise().score(evidence))


@given(pairs(), st.integers(0, 6))
def test_the_units_of_all_batches_average_to_the_score(pair: Pair, at: int) -> None:
    assume(similarity(*pair).signal)
    whole = Noise().evidence(answered({"y": pair}))
    signal = Noise().signal(whole)
    parts = [part for part in (whole[:at], whole[at:]) if part]
    units = [unit for part in parts for unit in Noise().units(part, signal)]
    assert np.mean(units) == pytest.approx(Noise().score(whole))


@given(st.integers(1, 6).flatmap(lambda rows: st.lists(pairs(rows), min_size=2, max_size=3)))
def test_units_are_no_better_than_the_worst_output(drawn: list[Pair]) -> None:
    outputs = {f"y{number}": pair for number, pair in enumerate(drawn)}
    units = Noise().units(Noise().evidence(answered(outputs)))
    alone = [Noise().units(Noise().evidence(answered({"y": pair}))) for pair in drawn]
    np.testing.assert_allclose(units, np.min(alone, axis=0))


@given(pairs(), st.integers(0, 6))
def test_batches_do_not_matter(pair: Pair, at: int) -> None:
    reference, got = pair
    parts = [(reference[:at], got[:at]), (reference[at:], got[at:])]
    evidence = [
        item for part in parts if len(part[0]) for item in Noise().evidence(answered({"y": part}))
    ]
    assert Noise().score(evidence) == pytest.approx(score({"y": pair}))


def test_answers_that_are_no_numbers_are_not_right() -> None:
    reference = np.arange(1.0, 7.0).reshape(2, 3)
    assert score({"y": (reference, np.full((2, 3), np.nan))}) == -1
    masked = np.where(reference > 4, -np.inf, reference)
    assert score({"y": (masked, masked)}) == 0


def test_an_output_that_does_not_count_samples_is_one() -> None:
    reference, got = np.arange(6.0).reshape(2, 3), np.arange(6.0).reshape(2, 3) + 0.5
    answers = Answers(outputs={"y": got}, reference={"y": reference}, samples=5)
    evidence = Noise().evidence(answers)
    assert len(evidence) == 1
    assert Noise().score(evidence) == pytest.approx(-6 * 0.25 / 55)


def test_texts_are_left_out() -> None:
    words = np.array(["a", "b"], object)
    ones = np.ones((2, 3))
    outputs = {"y": (ones, 2 * ones), "text": (words, words)}
    assert score(outputs) == -1.0
