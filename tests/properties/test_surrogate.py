"""The additive model against the same regression written with a design matrix."""

from dataclasses import dataclass

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from onnxq.search.evolution import spearman
from onnxq.search.surrogate import BELIEF, FLOOR, NOISE, UNKNOWN, Surrogate
from onnxq.types import Array

HELD = 200  # strategies to predict that nothing was learned from


@dataclass(frozen=True)
class World:
    """Options a gene, effects believed, and strategies with their losses."""

    counts: tuple[int, ...]
    base: float
    effects: list[Array]
    population: Array
    losses: Array


@st.composite
def worlds(draw: st.DrawFn) -> World:
    """Draw beliefs and losses that have little to do with each other."""
    counts = tuple(draw(st.lists(st.integers(1, 4), min_size=1, max_size=6)))
    rng = np.random.default_rng(draw(st.integers(0, 10**6)))
    empty = draw(st.sampled_from([0.0, 0.3, 1.0]))
    effects = [
        rng.normal(size=n) * (rng.random(n) >= empty) * 10.0 ** rng.integers(-3, 1) for n in counts
    ]
    population = rng.integers(counts, size=(draw(st.integers(1, 12)), len(counts)))
    losses = np.abs(rng.normal(size=len(population))) + 0.01
    return World(counts, float(rng.uniform(0.1, 2)), effects, population, losses)


def designed(population: Array, counts: tuple[int, ...]) -> Array:
    """One column an option, 1 where a strategy takes it."""
    return np.concatenate(
        [np.eye(n)[values] for n, values in zip(counts, population.T, strict=True)], axis=1
    )


def regressed(world: World) -> Array:
    """Effects after seeing the losses: the mean of a Gaussian with precision P + XᵀR⁻¹X."""
    x, prior = designed(world.population, world.counts), np.concatenate(world.effects)
    sizes = np.abs(prior)
    floor = FLOOR * np.median(sizes[sizes > 0]) if sizes.any() else UNKNOWN * abs(world.base)
    precision = np.diag(1 / np.maximum(BELIEF * sizes, floor) ** 2)
    believed = world.base + x @ prior
    noise = NOISE * np.maximum(np.minimum(np.abs(world.losses), np.abs(believed)), 1e-12)
    weighted = x.T / noise**2
    gained = weighted @ (world.losses - believed)
    return prior + np.linalg.solve(precision + weighted @ x, gained)


def model(world: World) -> Surrogate:
    return Surrogate(world.base, [each.copy() for each in world.effects])


@given(worlds())
def test_learning_is_bayesian_regression(world: World) -> None:
    surrogate = model(world)
    surrogate.learn(world.population, world.losses)
    expected = regressed(world)
    size = np.abs(expected).max() + np.abs(np.concatenate(world.effects)).max()
    found = np.concatenate(surrogate.effects)
    np.testing.assert_allclose(found, expected, rtol=1e-6, atol=1e-7 * size)


@given(worlds())
def test_predictions_are_sums_of_effects(world: World) -> None:
    surrogate = model(world)
    for _ in range(2):
        x, effects = designed(world.population, world.counts), np.concatenate(surrogate.effects)
        found = surrogate.predict(world.population)
        np.testing.assert_allclose(found, world.base + x @ effects, atol=1e-9)
        surrogate.learn(world.population, world.losses)


@given(worlds(), worlds())
def test_learning_begins_with_what_was_believed_each_time(world: World, other: World) -> None:
    once, twice = model(world), model(world)
    once.learn(world.population, world.losses)
    twice.learn(world.population[:1], world.losses[:1] + other.base)
    twice.learn(world.population, world.losses)
    twice.learn(world.population, world.losses)
    for one, same in zip(once.effects, twice.effects, strict=True):
        np.testing.assert_array_equal(one, same)


@given(worlds())
def test_what_no_strategy_took_stays_as_believed(world: World) -> None:
    surrogate = model(world)
    surrogate.learn(world.population, world.losses)
    for number, (before, after) in enumerate(zip(world.effects, surrogate.effects, strict=True)):
        unseen = np.setdiff1d(np.arange(len(before)), world.population[:, number])
        np.testing.assert_array_equal(after[unseen], before[unseen])


@given(worlds())
def test_what_was_expected_changes_nothing(world: World) -> None:
    surrogate = model(world)
    surrogate.learn(world.population, surrogate.predict(world.population))
    for before, after in zip(world.effects, surrogate.effects, strict=True):
        np.testing.assert_allclose(after, before, atol=1e-9)


@given(st.integers(0, 10**6))
def test_additive_losses_are_recovered_from_wrong_beliefs(seed: int) -> None:
    rng = np.random.default_rng(seed)
    counts = np.array([2, 3, 5, 4, 3, 3])
    true = [np.append(0.0, rng.exponential(size=n - 1)) for n in counts]
    wrong = [each * rng.uniform(0.3, 1.7, len(each)) for each in true]
    seen, others = rng.integers(counts, size=(60, 6)), rng.integers(counts, size=(HELD, 6))
    truth = Surrogate(0.5, true)
    surrogate = Surrogate(0.5, wrong)
    before = spearman(surrogate.predict(others), truth.predict(others))
    surrogate.learn(seen, truth.predict(seen))
    found, losses = surrogate.predict(others), truth.predict(others)
    assert spearman(found, losses) > max(0.99, before)
    np.testing.assert_allclose(found, losses, rtol=0.1)


def test_a_model_that_believes_in_nothing_can_learn() -> None:
    rng = np.random.default_rng(0)
    counts = np.array([3, 3, 3])
    truth = Surrogate(1.0, [np.array([0.0, 0.3, 0.6])] * 3)
    surrogate = Surrogate(1.0, [np.zeros(3)] * 3)
    assert (surrogate.predict(np.zeros((4, 3), np.int64)) == 1.0).all()
    seen = rng.integers(counts, size=(40, 3))
    surrogate.learn(seen, truth.predict(seen))
    assert spearman(surrogate.predict(seen), truth.predict(seen)) > 0.9
