"""Measures of the map alone."""

from __future__ import annotations

import numpy as np
import pytest

from gradcam.metrics import MEASURES, Context, Subject, complexity


def test_complexity_worked_by_hand():
    maps = np.array([[[8.0, 4.0], [0.0, -4.0]]])  # (1 + 1/2 + 0 + 0) / 4
    found = complexity(maps, size=(2, 2))
    assert (found.name, found.better, found.value) == ("complexity", "lower", 3 / 8)
    assert complexity(3 * maps, size=(2, 2)).value == found.value


def test_complexity_is_1_of_a_flat_map_and_0_of_a_blank_one():
    maps = np.stack([np.full((2, 3), 7.0), np.zeros((2, 3)), np.full((2, 3), -1.0)])
    np.testing.assert_array_equal(complexity(maps, size=(5, 4)).values, [1, 0, 0])


def test_what_is_no_map_is_refused():
    with pytest.raises(ValueError, match=r"`maps` must be \(N, h, w\), but have shape \(2, 2\)"):
        complexity(np.ones((2, 2)), size=(2, 2))
    with pytest.raises(ValueError, match="`maps` are NaN or infinite somewhere"):
        complexity(np.full((1, 2, 2), np.nan), size=(2, 2))


@pytest.mark.parametrize(
    "measure", [one for one in MEASURES.values() if one.needs == "maps"], ids=lambda one: one.name
)
def test_what_needs_maps_alone_asks_nothing_of_the_model(measure):
    def never(*_):
        raise AssertionError("the model was asked")

    maps = np.random.default_rng(0).normal(size=(2, 3, 3))
    context = Context(Subject(never, np.zeros((2, 1, 6, 6)), [0, 1]), maps, explain=never)
    assert measure.run(context).values.shape == (2,)
