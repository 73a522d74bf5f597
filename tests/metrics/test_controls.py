"""Controls, likeness of maps, and the summary of a measure."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradcam.metrics.controls import CONTROLS
from gradcam.metrics.result import Result, mean
from gradcam.metrics.similarity import rank_correlation, ranks, structural_similarity

INPUTS = np.random.default_rng(0).normal(size=(2, 3, 12, 16)).astype(np.float32)


@pytest.mark.parametrize("name", CONTROLS)
def test_every_control_is_a_map_of_the_same_kind(name):
    found = CONTROLS[name](INPUTS, 1, 0)
    assert found.ndim == 3
    assert len(found) == 2
    assert (found >= 0).all()
    np.testing.assert_array_equal(found, CONTROLS[name](INPUTS, 1, 0))
    last = CONTROLS[name](INPUTS.transpose(0, 2, 3, 1), -1, 0)
    np.testing.assert_allclose(last, found, rtol=1e-6)


def test_random_maps_differ_by_seed_and_sample():
    found = CONTROLS["random"](INPUTS, 1, 0)
    assert not np.array_equal(found[0], found[1])
    assert not np.array_equal(found, CONTROLS["random"](INPUTS, 1, 1))
    assert not np.array_equal(found, CONTROLS["random"](INPUTS + 1, 1, 0))
    np.testing.assert_array_equal(found[1:], CONTROLS["random"](INPUTS[1:], 1, 0))


def test_the_centre_is_in_the_centre():
    (one, _) = CONTROLS["centre"](INPUTS, 1, 0)
    np.testing.assert_allclose(one, one[::-1, ::-1])
    assert one[5, 7] == one.max()
    # half a deviation, an eighth of the side, from the middle: exp(-1 / 8); rows 5 and 6 lie 1/24
    # from it
    assert CONTROLS["centre"](np.zeros((1, 1, 1, 4)), 1, 0)[0, 0, 1] == pytest.approx(
        np.exp(-1 / 8)
    )


def test_edges_are_where_the_picture_changes():
    step = np.zeros((1, 3, 6, 8))
    step[..., 4:] = 3.0
    found = CONTROLS["edges"](step, 1, 0)[0]
    np.testing.assert_allclose(found, np.tile([0, 0, 0, 1.5, 1.5, 0, 0, 0], (6, 1)))


def test_edges_of_a_picture_one_pixel_high():
    line = np.array([0.0, 0.0, 2.0, 2.0]).reshape(1, 1, 1, 4)
    np.testing.assert_array_equal(CONTROLS["edges"](line, 1, 0), [[[0, 1, 1, 0]]])
    np.testing.assert_array_equal(
        CONTROLS["edges"](line.transpose(0, 1, 3, 2), 1, 0), [[[0], [1], [1], [0]]]
    )


# ----------------------------------------------------------------------------------------- likeness


@given(st.lists(st.lists(st.integers(-3, 3), min_size=6, max_size=6), min_size=2, max_size=2))
def test_rank_correlation_is_scipys(rows):
    from scipy.stats import spearmanr

    a, b = (np.array(row, dtype=float) for row in rows)
    found = rank_correlation(a[None], b[None])[0]
    if np.ptp(a) == 0 or np.ptp(b) == 0:
        assert np.isnan(found)
    else:
        assert found == pytest.approx(spearmanr(a, b).statistic, abs=1e-12)
        assert rank_correlation(np.exp(a)[None], b[None])[0] == pytest.approx(found)
        assert rank_correlation(-a[None], b[None])[0] == pytest.approx(-found)


def test_nan_has_no_rank():
    a, b = (
        np.array([[1.0, np.nan, 2.0], [1.0, 2.0, 3.0]]),
        np.array([[1.0, 2.0, 3.0], [1.0, 2.0, 3.0]]),
    )
    np.testing.assert_array_equal(rank_correlation(a, b), [np.nan, 1])
    np.testing.assert_array_equal(rank_correlation(b, a), [np.nan, 1])


def test_ranks_of_ties_are_the_mean_of_theirs():
    np.testing.assert_array_equal(ranks(np.array([[5.0, 1.0, 5.0, 0.0]])), [[2.5, 1.0, 2.5, 0.0]])


@pytest.mark.parametrize("shape", [(9, 9), (20, 31)])
def test_structural_similarity_is_scikit_images(shape):
    skimage = pytest.importorskip("skimage.metrics")
    a, b = np.random.default_rng(0).random((2, 3, *shape))
    b[1] = a[1]
    expected = [
        skimage.structural_similarity(x, y, data_range=1.0) for x, y in zip(a, b, strict=True)
    ]
    found = structural_similarity(a, b)
    assert found[1] == pytest.approx(1, abs=1e-12)
    # both are means over whole windows of 7 x 7
    np.testing.assert_allclose(found, expected, rtol=1e-9)


def test_structural_similarity_by_hand():
    # one window of 2 x 2; means 1/2 and 1/2, variances 1/3 (unbiased), covariance -1/3
    a, b = np.array([[[1.0, 0.0], [0.0, 1.0]]]), np.array([[[0.0, 1.0], [1.0, 0.0]]])
    c2 = 0.03**2
    assert structural_similarity(a, b)[0] == pytest.approx((-2 / 3 + c2) / (2 / 3 + c2))
    assert structural_similarity(0 * a, 0 * b)[0] == 1


def test_structural_similarity_copies_no_windows():
    a = np.random.default_rng(0).random((2, 64, 64))
    tracemalloc.start()
    try:
        found = structural_similarity(a, a)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    np.testing.assert_array_equal(found, 1)
    assert peak < 15 * a.nbytes  # a window of 7 x 7 for each pixel is 40 times the maps


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: rank_correlation(np.zeros((1, 2)), np.zeros((1, 3))),
            "`a` and `b` must have one shape",
        ),
        (
            lambda: structural_similarity(np.zeros((2, 2)), np.zeros((2, 2))),
            r"must be maps \(N, h, w\)",
        ),
        (
            lambda: structural_similarity(np.zeros((1, 2, 2)), np.zeros((1, 2, 2)), window=1),
            "`window` must be at least 2",
        ),
        (
            lambda: Result("a", np.zeros(3), "higher").interval(level=1.0),
            "`level` must lie between 0 and 1, but is 1.0",
        ),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()


# ---------------------------------------------------------------------------------------- summaries


def test_a_result_skips_samples_without_a_value():
    found = Result("a", np.array([1.0, np.nan, 3.0]), "higher")
    assert found.value == 2
    assert "a 2.000 (" in str(found)
    assert np.isnan(Result("a", np.array([np.nan]), "higher").value)
    assert np.isnan(Result("a", np.array([np.nan]), "higher").interval()).all()


def test_the_interval_is_that_of_the_mean():
    values = np.random.default_rng(0).normal(5.0, 2.0, 400)
    low, high = Result("a", values, "higher").interval()
    # the mean's standard error is 2 / 20: 1.96 of it to either side
    assert low == pytest.approx(values.mean() - 0.196, abs=0.03)
    assert high == pytest.approx(values.mean() + 0.196, abs=0.03)
    assert Result("a", values, "higher").interval() == (low, high)
    narrow = Result("a", values, "higher").interval(level=0.5)
    assert low < narrow[0] < narrow[1] < high
    assert Result("a", np.array([4.0]), "higher").interval() == (4.0, 4.0)


def test_the_interval_of_infinite_values_is_a_number_or_infinite():
    low, high = Result("a", np.array([1.0, 2.0, np.inf]), "higher").interval()
    assert low == 1.0
    assert high == np.inf


def test_the_interval_is_that_of_resamples_taken_one_by_one():
    values = np.random.default_rng(0).normal(size=(40, 3))
    values[::5] = np.nan

    def one_by_one(values):  # the mean, by another name: the loop
        return mean(values)

    found = Result("a", values, "higher")
    assert found.interval() == Result("a", values, "higher", summary=one_by_one).interval()
    assert found.interval() is found.interval()  # computed once


def test_asking_for_the_interval_changes_nothing_of_a_result():
    values = np.arange(5.0)
    found, untouched = Result("a", values, "higher"), Result("a", values, "higher")
    found.interval()
    assert repr(found) == repr(untouched)
    assert found == untouched
