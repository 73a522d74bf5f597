from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradcam import maps

values = st.floats(-1e6, 1e6, allow_subnormal=False).filter(lambda x: x == 0 or abs(x) > 1e-6)
two_d = hnp.arrays(
    np.float64, hnp.array_shapes(min_dims=3, max_dims=3, max_side=6), elements=values
)


def test_relu_keeps_the_positive_part_and_nan():
    np.testing.assert_array_equal(maps.relu(np.array([-1.0, 0.0, 2.0, np.nan])), [0, 0, 2, np.nan])


def test_resize_by_hand():
    # from 2 to 4 with half-pixel centres: outputs sit at -0.25, 0.25, 0.75, 1.25 of the inputs,
    # clamped to [0, 1]
    np.testing.assert_allclose(maps.resize(np.array([[0.0, 4.0]]), (4,)), [[0, 1, 3, 4]])
    # from 4 to 2: at 0.5 and 2.5
    np.testing.assert_allclose(maps.resize(np.array([0.0, 1.0, 5.0, 7.0]), (2,)), [0.5, 6.0])
    # one pixel is spread everywhere
    np.testing.assert_array_equal(maps.resize(np.array([[3.0]]), (2, 3)), np.full((2, 3), 3.0))


@pytest.mark.parametrize("size", [(9,), (7, 160), (3, 4), (14, 5, 9), (1, 1)])
def test_resize_is_torchs_linear_interpolation(size):
    torch = pytest.importorskip("torch")
    mode = {1: "linear", 2: "bilinear", 3: "trilinear"}[len(size)]
    grid = np.random.default_rng(0).normal(size=(2, 3, *(7, 5, 4)[: len(size)]))
    expected = torch.nn.functional.interpolate(
        torch.from_numpy(grid), size, mode=mode, align_corners=False
    )
    np.testing.assert_allclose(maps.resize(grid, size), expected.numpy(), rtol=1e-12, atol=1e-12)


def test_resize_is_jaxs_linear_interpolation_inside_jit():
    jax = pytest.importorskip("jax")
    grid = np.random.default_rng(0).normal(size=(2, 7, 5)).astype(np.float32)
    expected = jax.image.resize(grid, (2, 20, 3), "linear", antialias=False)
    found = jax.jit(lambda m: maps.resize(m, (20, 3)))(grid)
    np.testing.assert_allclose(found, expected, atol=1e-6)


@given(two_d)
def test_resizing_to_the_same_size_is_the_identity(m):
    m[0, 0, 0] = np.inf
    np.testing.assert_array_equal(maps.resize(m, m.shape[1:]), m)


@given(two_d, st.integers(1, 9), st.integers(1, 9))
def test_resizing_stays_between_minimum_and_maximum(m, h, w):
    found = maps.resize(m, (h, w))
    slack = 1e-9 * (1 + np.abs(m).max())
    assert found.min() >= m.min() - slack
    assert found.max() <= m.max() + slack


def test_scale_by_hand():
    m = np.array([[-2.0, 0.0, 1.0, 4.0]])
    np.testing.assert_array_equal(maps.scale(m, 1), [[0, 0, 0.25, 1]])
    np.testing.assert_allclose(maps.scale(m, 1, "minmax"), [[0, 2 / 6, 3 / 6, 1]])
    np.testing.assert_array_equal(maps.scale(m, 1, "signed"), [[-0.5, 0, 0.25, 1]])
    np.testing.assert_array_equal(maps.scale(-m, 1, "signed"), [[0.5, 0, -0.25, -1]])


@pytest.mark.parametrize("how", ["max", "minmax", "signed"])
@pytest.mark.parametrize("value", [0.0, 3.0, -3.0])
def test_a_flat_map_scales_to_zero(how, value):
    np.testing.assert_array_equal(
        maps.scale(np.full((2, 3, 3), value), 2, how), np.zeros((2, 3, 3))
    )


def test_a_map_without_positive_evidence_scales_to_zero():
    np.testing.assert_array_equal(maps.scale(np.array([[-3.0, -1.0]]), 1), [[0, 0]])


def test_joint_scaling_keeps_maps_comparable():
    m = np.array([[1.0, 2.0], [4.0, 0.0]])
    np.testing.assert_array_equal(maps.scale(m, 1, joint=True), [[0.25, 0.5], [1, 0]])
    np.testing.assert_array_equal(maps.scale(m, 1), [[0.5, 1], [1, 0]])
    np.testing.assert_array_equal(maps.scale(m, 1, "minmax"), [[0, 1], [1, 0]])
    np.testing.assert_array_equal(maps.scale(m, 1, "minmax", joint=True), [[0.25, 0.5], [1, 0]])
    np.testing.assert_array_equal(maps.scale(-m, 1, "signed"), [[-0.5, -1], [-1, 0]])


@given(two_d, st.sampled_from(["max", "minmax", "signed"]))
def test_scaling_twice_is_scaling_once(m, how):
    once = maps.scale(m, 2, how)
    np.testing.assert_allclose(maps.scale(once, 2, how), once, atol=1e-12)


@given(two_d, st.sampled_from(["max", "minmax", "signed"]), st.sampled_from([1e-12, 1e-6, 1e3]))
def test_scaling_is_free_of_scale(m, how, factor):
    np.testing.assert_allclose(maps.scale(m * factor, 2, how), maps.scale(m, 2, how), atol=1e-9)


def test_fuse_by_hand():
    coarse, fine = np.array([[0.0, 2.0]]), np.array([[4.0, 0.0, 2.0, 4.0]])
    # scaled to their maxima, the coarse one resized: [0, .25, .75, 1] and [1, 0, .5, 1]
    np.testing.assert_allclose(maps.fuse([coarse, fine], 1, "mean"), [[0.5, 0.125, 0.625, 1]])
    np.testing.assert_allclose(maps.fuse([coarse, fine], 1, "max"), [[1, 0.25, 0.75, 1]])
    np.testing.assert_allclose(maps.fuse([coarse, fine], 1, "product"), [[0, 0, 0.375, 1]])
    assert maps.fuse([coarse, fine], 1, size=(8,)).shape == (1, 8)


def test_all_of_it_is_array_api():
    grid = np.random.default_rng(0).normal(size=(2, 4, 3))
    strict = array_api_strict.asarray(grid)
    for function in (
        maps.relu,
        lambda m: maps.resize(m, (9, 7)),
        lambda m: maps.scale(m, 2),
        lambda m: maps.scale(m, 2, "minmax"),
        lambda m: maps.scale(m, 2, "signed", joint=True),
        lambda m: maps.fuse([m, maps.resize(m, (5, 5))], 2, "product"),
    ):
        found = function(strict)
        assert type(found) is type(strict)
        np.testing.assert_allclose(np.asarray(found), function(grid), rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_dtype_is_kept(dtype):
    m = np.ones((2, 3, 3), dtype)
    assert maps.resize(m, (5, 5)).dtype == maps.scale(m, 2).dtype == maps.relu(m).dtype == dtype


def test_errors_say_what_to_do():
    m = np.ones((2, 3))
    with pytest.raises(
        ValueError, match=r"`size` \(1, 2, 3\) has more axes than `maps` of shape \(2, 3\)"
    ):
        maps.resize(m, (1, 2, 3))
    for size in ((0,), (0, 3)):
        with pytest.raises(ValueError, match="`size` must be positive"):
            maps.resize(m, size)
    with pytest.raises(
        ValueError, match='`how` must be "max", "minmax" or "signed", but is \'min\''
    ):
        maps.scale(m, 1, "min")
    with pytest.raises(ValueError, match='`how` must be "mean", "max" or "product"'):
        maps.fuse([m], 1, "sum")
    with pytest.raises(ValueError, match="`maps` is empty"):
        maps.fuse([], 1)
