"""Imputation, and the confidence as pixels go by it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradcam.metrics.imputation import NEIGHBOURS, _dissection, impute
from gradcam.metrics.road import removed, road, road_combined
from gradcam.metrics.subject import Subject


def subject(**options):
    """The score is the mean of the middle of the first channel: all evidence lies in 4 x 4 of 12 x
    12.
    """
    inputs = np.random.default_rng(0).random((2, 2, 12, 12)) * 0.1
    inputs[:, 0, 4:8, 4:8] += 1
    return Subject(
        lambda x: np.stack([x[:, 0, 4:8, 4:8].mean((1, 2)), 0 * x[:, 0, 0, 0]], 1),
        inputs,
        0,
        **options,
    )


TRUE = np.zeros((2, 12, 12))
TRUE[:, 4:8, 4:8] = 1
TRUE += 1e-3 * np.random.default_rng(1).random(TRUE.shape)  # no ties


# --------------------------------------------------------------------------------------- imputation


def test_a_missing_pixel_is_the_weighted_mean_of_its_neighbours():
    image = np.arange(9.0).reshape(3, 3)
    kept = np.ones((3, 3), dtype=bool)
    kept[1, 1] = False
    # beside it 1, 3, 5 and 7, at 1/6, and across its corners 0, 2, 6 and 8, at 1/12: 16 / 6 + 16 /
    # 12 = 4
    assert impute(np.where(kept, image, 99), kept)[1, 1] == pytest.approx(4)
    kept = np.ones((3, 3), dtype=bool)
    kept[0, 0] = False
    # only 1 and 3, at 1/6, and 4, at 1/12, lie in the image: (4 / 6 + 4 / 12) / (5 / 12) = 2.4
    assert impute(image, kept)[0, 0] == pytest.approx(2.4)


@given(st.integers(1, 9), st.integers(2, 9), st.integers(0, 1000))
def test_every_missing_pixel_solves_its_equation_and_known_ones_stay(height, width, seed):
    random = np.random.default_rng(seed)
    image, kept = random.normal(size=(height, width, 2)), random.random((height, width)) < 0.4
    kept[0, 0] = True
    found = impute(image, kept)
    np.testing.assert_array_equal(found[kept], image[kept])
    padded = np.pad(found, ((1, 1), (1, 1), (0, 0)))
    inside = np.pad(np.ones((height, width)), 1)
    total = sum(w * padded[1 + d : height + 1 + d, 1 + a : width + 1 + a] for d, a, w in NEIGHBOURS)
    weight = sum(
        w * inside[1 + d : height + 1 + d, 1 + a : width + 1 + a] for d, a, w in NEIGHBOURS
    )
    np.testing.assert_allclose((found - total / weight[..., None])[~kept], 0, atol=1e-12)
    assert found[~kept].max(initial=-np.inf) <= image[kept].max() + 1e-12  # no new extremes


def test_a_plane_is_continued():
    rows, columns = np.mgrid[:15, :15]
    plane = 2.0 * rows - columns
    kept = np.ones((15, 15), dtype=bool)
    kept[3:12, 4:11] = False
    np.testing.assert_allclose(impute(plane, kept), plane, atol=1e-10)


def test_noise_has_its_deviation_and_seed_and_stays_on_missing_pixels():
    image, kept = np.zeros((60, 60)), np.zeros((60, 60), dtype=bool)
    kept[0] = True
    found = impute(image, kept, noise=0.5, seed=3)
    assert found[1:].std() == pytest.approx(0.5, rel=0.05)
    assert not found[0].any()
    np.testing.assert_array_equal(found, impute(image, kept, noise=0.5, seed=3))
    assert impute(image.astype(np.float32), kept).dtype == np.float32
    np.testing.assert_array_equal(impute(image, ~np.zeros_like(kept)), image)


@pytest.mark.parametrize("shape", [(1, 1), (3, 17), (20, 9), (224, 224)])
def test_the_order_of_dissection_has_every_pixel_once(shape):
    assert sorted(_dissection(*shape).ravel()) == list(range(shape[0] * shape[1]))


# --------------------------------------------------------------------------------------------- road


@pytest.mark.parametrize("channel_axis", [1, -1])
def test_a_true_map_is_best_and_its_inverse_worst(channel_axis):
    given = subject(confidence="outputs")
    if channel_axis == -1:
        first = given.predict
        inputs = given.inputs.transpose(0, 2, 3, 1)
        given = Subject(
            lambda x: first(x.transpose(0, 3, 1, 2)),
            inputs,
            0,
            channel_axis=-1,
            confidence="outputs",
        )
    most, least = (
        road(given, TRUE, order=order, shares=[0.2], noise=0) for order in ("most", "least")
    )
    # a fifth of 144 is 29 pixels, all 16 that count among them: filled from around, about .05; the
    # others leave 1.05
    np.testing.assert_allclose(most.values, 0.05, atol=0.03)
    np.testing.assert_allclose(least.values, given.clean, rtol=1e-12)
    assert (most.better, least.better) == ("lower", "higher")
    best, worst = road_combined(given, TRUE, noise=0), road_combined(given, -TRUE, noise=0)
    np.testing.assert_allclose(worst.values, -best.values, rtol=1e-9)
    flat = road_combined(given, np.ones((2, 3, 3)), noise=0)
    assert (worst.values < flat.values - 0.1).all()
    assert (flat.values < best.values - 0.1).all()
    assert best.curves["most"].shape == best.curves["least"].shape == (2, 9)


def test_only_the_order_counts():
    given = subject()
    np.testing.assert_array_equal(road(given, TRUE).values, road(given, np.exp(3 * TRUE)).values)


def test_a_result_says_what_it_was_measured_with():
    shares = [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9]
    settings = {"shares": shares, "noise": 0.01, "seed": 0, "ties": "random"}
    settings["confidence"] = "softmax"
    assert road_combined(subject(), TRUE).settings == settings
    for order, better in (("most", "lower"), ("least", "higher")):
        found = road(subject(), TRUE, order=order)
        assert found.settings == {"order": order, **settings}
        assert (found.name, found.better) == (f"road-{order}", better)


def test_a_sample_is_by_itself():
    whole = road(subject(batch=3), TRUE, noise=0)
    one = subject()
    alone = road(Subject(one.predict, one.inputs[1:], 0), TRUE[1:], noise=0)
    np.testing.assert_allclose(alone.values, whole.values[1:])


@pytest.mark.parametrize("share", [0.1, 0.25, 0.5, 0.77, 0.9])
def test_as_many_go_as_are_above_the_quantile(share):
    values = np.random.default_rng(0).random(50176)
    assert removed(values.size, share) == (values >= np.quantile(values, 1 - share)).sum()


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (lambda: road(subject(), TRUE, shares=[0.0, 0.5]), "`shares` must lie between 0 and 1"),
        (lambda: road(subject(), TRUE, shares=[0.5, 1]), r"without them, but are \[0.5, 1.0\]"),
        (lambda: road(subject(), TRUE, shares=[]), "`shares` must lie between 0 and 1"),
        (
            lambda: road(subject(), TRUE, order="worst"),
            '`order` must be "most" or "least", but is \'worst\'',
        ),
        (lambda: road(subject(), TRUE, noise=-1), "`noise` must not be negative, but is -1"),
        (lambda: impute(np.zeros((2, 2), int), np.ones((2, 2), bool)), "`image` must be of floats"),
        (
            lambda: impute(np.zeros((2, 2)), np.ones((2, 3), bool)),
            r"`kept` must be booleans \(2, 2\)",
        ),
        (lambda: impute(np.zeros((2, 2)), np.zeros((2, 2), bool)), "`kept` keeps no pixel"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()
