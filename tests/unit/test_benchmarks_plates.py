"""Number plates of the benchmark: what they say, and how they are seen."""

import re

import numpy as np

from benchmarks.fetch import plates


def test_texts_follow_a_pattern_without_letters_that_look_like_digits() -> None:
    rng = np.random.default_rng(0)
    texts = [plates.number_of(rng) for _ in range(500)]
    shapes = {re.sub("[A-Z]", "A", re.sub("[0-9]", "9", text)) for text in texts}
    assert shapes == set(plates.PATTERNS)
    assert not set("IOQ") & set("".join(texts))
    assert len(set(texts)) > 490


def test_the_parts_are_drawn_from_seeds_of_their_own() -> None:
    assert len({seed for _, seed in plates.PARTS.values()}) == len(plates.PARTS)
    assert plates.PARTS["calib"][0] >= 128
    assert sum(number for number, _ in plates.PARTS.values()) >= 500


def test_a_perspective_maps_what_is_seen_to_the_corners() -> None:
    corners = np.array([(0, 0), (0, 64), (200, 64), (200, 0)], np.float64)
    seen = corners + np.random.default_rng(1).uniform(-6, 6, (4, 2))
    a, b, c, d, e, f, g, h = plates.perspective(seen, corners)
    for (x, y), corner in zip(seen, corners, strict=True):
        below = g * x + h * y + 1
        found = (a * x + b * y + c) / below, (d * x + e * y + f) / below
        np.testing.assert_allclose(found, corner, atol=1e-9)
