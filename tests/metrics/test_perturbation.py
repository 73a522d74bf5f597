"""Infidelity, sensitivity, and the correlation with occlusion."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from gradcam.metrics.perturbation import (
    infidelity,
    max_sensitivity,
    occlusion,
    occlusion_correlation,
)
from gradcam.metrics.subject import Subject

WEIGHTS = np.random.default_rng(5).normal(size=(12, 16))
INPUTS = np.random.default_rng(0).random((2, 3, 12, 16))


def linear(**options):
    """The score is the sum over channels and pixels of the weights times the input."""
    return Subject(
        lambda x: np.stack([(x * WEIGHTS).sum((1, 2, 3))] * 2, 1),
        INPUTS,
        0,
        confidence="outputs",
        **options,
    )


MAPS = np.repeat(WEIGHTS[None], 2, axis=0)


@pytest.mark.parametrize("perturbation", ["square", "noise"])
def test_the_gradient_of_a_linear_model_has_no_infidelity_at_any_scale(perturbation):
    found = infidelity(linear(), MAPS, perturbation=perturbation)
    np.testing.assert_allclose(found.values, 0, atol=1e-18)
    np.testing.assert_allclose(
        infidelity(linear(), -7e-3 * MAPS, perturbation=perturbation).values, 0, atol=1e-18
    )
    other = infidelity(
        linear(), np.random.default_rng(9).normal(size=MAPS.shape), perturbation=perturbation
    )
    assert (other.values > 0.1).all()
    # a map that says nothing is as wrong as the changes of the score are large
    nothing = infidelity(linear(), 0 * MAPS, perturbation=perturbation)
    assert (nothing.values >= other.values).all()
    assert found.better == "lower"


def test_infidelity_by_hand():
    # one pixel: squares are always it, I = x: two equal samples, so beta makes x beta phi the drop,
    # and nothing is left
    given = Subject(
        lambda x: np.repeat(x[:, :, 0, 0] ** 2, 2, 1),
        np.full((1, 1, 1, 1), 3.0),
        0,
        confidence="outputs",
    )
    assert infidelity(given, np.ones((1, 1, 1)), samples=2).value == pytest.approx(0)
    # of a map of 0 beta is 0: the mean of (9 - 0)^2
    assert infidelity(given, np.zeros((1, 1, 1)), samples=2).value == pytest.approx(81)


def test_max_sensitivity_by_hand():
    # the map is the input's first channel: it moves by at most radius x range in each pixel
    def explain(inputs, classes):
        assert classes.tolist() == [0] * len(inputs)
        assert len(inputs) <= linear().batch
        return inputs[:, 0]

    found = max_sensitivity(linear(), INPUTS[:, 0], explain, radius=0.1, samples=50).values
    bound = (
        0.1
        * np.ptp(INPUTS.reshape(2, -1), axis=1)
        * np.sqrt(192)
        / np.sqrt((INPUTS[:, 0] ** 2).sum((1, 2)))
    )
    assert (found < bound).all()
    assert (found > 0.5 * bound).all()  # of uniform shifts the norm is 1 / sqrt(3) of the largest
    doubled = max_sensitivity(
        linear(), 2 * INPUTS[:, 0], lambda x, c: 2 * x[:, 0], radius=0.1, samples=50
    )
    np.testing.assert_allclose(doubled.values, found)
    constant = max_sensitivity(linear(), MAPS[[0, 0]], lambda x, c: MAPS[[0] * len(x)])
    np.testing.assert_array_equal(constant.values, 0)
    one = max_sensitivity(linear(), INPUTS[:, 0], explain, samples=1)
    assert (one.values <= max_sensitivity(linear(), INPUTS[:, 0], explain, samples=9).values).all()
    assert np.isnan(max_sensitivity(linear(), 0 * MAPS, lambda x, c: 0 * x[:, 0]).values).all()


@pytest.mark.parametrize("channel_axis", [1, -1])
def test_occlusion_by_hand(channel_axis):
    given = linear()
    if channel_axis == -1:
        first = given.predict
        inputs = INPUTS.transpose(0, 2, 3, 1)
        given = Subject(
            lambda x: first(x.transpose(0, 3, 1, 2)),
            inputs,
            0,
            channel_axis=-1,
            confidence="outputs",
        )
    found = occlusion(given, patch=4, stride=4, baseline="zero")
    assert found.shape == (2, 3, 4)
    expected = (INPUTS * WEIGHTS).sum(1).reshape(2, 3, 4, 4, 4).sum((2, 4))
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_a_map_of_what_covering_costs_correlates_wholly():
    given = linear(batch=5)
    costs = occlusion(given, patch=4, stride=4, baseline="zero")
    settings = {"patch": 4, "stride": 4, "baseline": "zero"}
    tiled = costs.repeat(4, 1).repeat(4, 2)
    assert occlusion_correlation(given, tiled, **settings).values == pytest.approx([1, 1])
    assert occlusion_correlation(given, -tiled, **settings).values == pytest.approx([-1, -1])
    assert occlusion_correlation(
        given, np.exp(tiled / 9), occluded=costs, **settings
    ).values == pytest.approx([1, 1])
    assert np.isnan(occlusion_correlation(given, np.full((2, 5, 5), 0.3), **settings).values).all()
    random = np.random.default_rng(0).normal(size=MAPS.shape)
    assert (np.abs(occlusion_correlation(given, random, **settings).values) < 0.8).all()


def test_occlusion_is_shared_between_methods():
    calls = []
    given = linear()
    counted = Subject(
        lambda x: (calls.append(len(x)), given.predict(x))[1], INPUTS, 0, confidence="outputs"
    )
    costs = occlusion(counted, patch=4, stride=4)
    before = sum(calls)
    occlusion_correlation(counted, MAPS, patch=4, stride=4, occluded=costs)
    assert sum(calls) == before == 2 + 2 * 12


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: infidelity(linear(), MAPS, samples=1), "`samples` must be at least 2, but is 1"),
        (
            lambda: infidelity(linear(), MAPS, perturbation="hole"),
            '`perturbation` must be "square" or "noise"',
        ),
        (
            lambda: max_sensitivity(linear(), MAPS, lambda x, c: MAPS, radius=0),
            "`radius` must be positive",
        ),
        (
            lambda: max_sensitivity(linear(), MAPS, lambda x, c: MAPS, samples=0),
            "`samples` at least 1, but are 0.02 and 0",
        ),
        (
            lambda: max_sensitivity(linear(), MAPS, lambda x, c: x),
            r"`explain` must give maps \(20, 12, 16\)",
        ),
        (
            lambda: occlusion(linear(), patch=13),
            "`patch` must be 1 to 12 and `stride` at least 1: are 13 and 6",
        ),
        (
            lambda: occlusion_correlation(
                linear(), MAPS, patch=4, stride=4, occluded=np.zeros((2, 1, 1))
            ),
            r"`occluded` must be \(2, 3, 4\)",
        ),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_integers_are_refused():
    given = Subject(lambda x: x.mean((2, 3)), np.ones((1, 2, 4, 4), np.uint8), 0)
    for call in (
        lambda: infidelity(given, np.ones((1, 4, 4))),
        lambda: max_sensitivity(given, np.ones((1, 4, 4)), None),
    ):
        with pytest.raises(ValueError, match="`inputs` must be floats to be changed by a little"):
            call()


def test_results_say_what_they_were_measured_with():
    outputs = {"confidence": "outputs"}
    found = infidelity(linear(), MAPS)
    drawn = {"samples": 50, "perturbation": "square", "seed": 0}
    assert found.settings == {**drawn, "baseline": "zero", **outputs}
    found = infidelity(linear(), MAPS, perturbation="noise")
    drawn["perturbation"] = "noise"
    assert found.settings == {**drawn, "deviation": 0.2, **outputs}
    found = max_sensitivity(linear(), MAPS, lambda x, c: MAPS[[0] * len(x)])
    assert found.settings == {"radius": 0.02, "samples": 10, "seed": 0}
    found = occlusion_correlation(linear(), MAPS)
    # a seventh of 12 pixels, and half of that
    assert found.settings == {"patch": 1, "stride": 1, "baseline": "mean", **outputs}


def test_squares_are_a_seventh_of_the_shorter_side():
    small = Subject(
        lambda x: x.mean((2, 3)),
        np.random.default_rng(0).random((1, 2, 14, 20)),
        0,
        confidence="outputs",
    )
    np.testing.assert_array_equal(occlusion(small), occlusion(small, patch=2, stride=1))
    tiny = dataclasses.replace(small, inputs=small.inputs[:, :, :5, :6])  # one pixel at least
    np.testing.assert_array_equal(occlusion(tiny), occlusion(tiny, patch=1, stride=1))
    assert occlusion(tiny).shape == (1, 5, 6)
