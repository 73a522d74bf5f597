"""Measures against boxes and masks, and the grid pointing game."""

from __future__ import annotations

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradcam.metrics import grid, localisation
from gradcam.metrics.boxes import __all__ as public_boxes
from gradcam.metrics.boxes import box_masks, boxes, iou
from gradcam.metrics.localisation import (
    box_contrast,
    energy,
    localisation_error,
    mask_iou,
    max_box_accuracy,
    pointing_game,
    pointing_game_with_rejection,
)

SIZE = (12, 16)
BOX = (4, 2, 10, 8)  # x0, y0, x1, y1: 6 x 6 = 36 of 192 pixels
MASK = box_masks([[BOX]], SIZE)
PERFECT, UNIFORM, INVERTED = MASK.astype(float), np.ones((1, *SIZE)), 1.0 - MASK


def one(function, maps, *args, **options):
    return float(function(maps, *args, **options).values[0])


# ------------------------------------------------------------------------------------------- limits


@pytest.mark.parametrize(
    ("function", "best", "chance", "worst"),
    [
        (pointing_game, 1.0, 36 / 192, 0.0),
        (energy, 1.0, 36 / 192, 0.0),
        (box_contrast, np.inf, 1.0, 0.0),
        (mask_iou, 1.0, 36 / 192, 0.0),
    ],
)
def test_a_perfect_map_is_best_a_uniform_one_chance_the_inverse_worst(
    function, best, chance, worst
):
    assert one(function, PERFECT, MASK) == best
    assert one(function, UNIFORM, MASK) == pytest.approx(chance)
    assert one(function, INVERTED, MASK) == worst
    assert function(PERFECT, MASK).better == "higher"


@pytest.mark.parametrize("function", [pointing_game, energy, box_contrast, mask_iou])
def test_scale_changes_nothing_and_an_empty_mask_has_no_value(function):
    heat = np.random.default_rng(0).random((3, 4, 5))
    masks = np.concatenate([MASK, MASK[:, ::-1], np.zeros_like(MASK)])
    found = function(heat, masks).values
    np.testing.assert_allclose(function(1e-12 * heat, masks).values, found, rtol=1e-9)
    assert np.isnan(found).tolist() == [False, False, True]


def test_pointing_is_by_order_alone():
    heat = np.random.default_rng(1).normal(size=(5, *SIZE))
    masks = np.repeat(MASK, 5, axis=0)
    np.testing.assert_array_equal(
        pointing_game(heat, masks).values, pointing_game(np.exp(heat), masks).values
    )


# ------------------------------------------------------------------------------------------ by hand


def test_energy_and_contrast_by_hand():
    # 2 inside, 1 and 3 outside, and a negative that counts as 0: energy 2 / 6; inside 1 pixel, 3
    # outside: 2 / (4 / 3)
    heat, mask = np.array([[[2.0, 1.0], [3.0, -9.0]]]), np.array([[[True, False], [False, False]]])
    assert one(energy, heat, mask) == pytest.approx(1 / 3)
    assert one(box_contrast, heat, mask) == pytest.approx(1.5)


def test_the_tolerance_is_a_distance():
    heat = np.zeros((1, *SIZE))
    heat[0, 11, 13] = 1  # 4 right of x = 9 and 4 below y = 7: sqrt(32) = 5.66 away
    assert one(pointing_game, heat, MASK) == 0
    assert one(pointing_game, heat, MASK, tolerance=5.6) == 0
    assert one(pointing_game, heat, MASK, tolerance=5.7) == 1


def test_a_map_may_say_that_its_class_is_not_there():
    # present and pointed at; present, pointed at, but rejected; absent and rejected; absent, and a
    # map all the same; present, and pointed elsewhere
    heat = np.stack([2.0 * MASK[0], 0.1 * MASK[0], 0.1 * MASK[0], 2.0 * MASK[0], 2.0 * ~MASK[0]])
    masks = np.stack([MASK[0], MASK[0], ~MASK[0] & MASK[0], ~MASK[0] & MASK[0], MASK[0]])
    found = pointing_game_with_rejection(heat, masks, threshold=1.0)
    np.testing.assert_array_equal(found.values, [1, 0, 1, 0, 0])
    assert found.value == pytest.approx(0.4)


def test_mask_iou_by_hand():
    # of 1, .5, .2, .1 at a threshold of .15: three pixels, of which two are the object's three: 2 /
    # 4
    heat, mask = np.array([[[1.0, 0.5], [0.2, 0.1]]]), np.array([[[True, True], [False, True]]])
    assert one(mask_iou, heat, mask) == pytest.approx(0.5)
    assert one(mask_iou, 0 * heat, mask) == 0
    # a pixel at the threshold itself is in: two of two pixels are among the object's three
    assert one(mask_iou, heat, mask, threshold=0.5) == pytest.approx(2 / 3)


def test_boxes_and_their_overlap():
    np.testing.assert_array_equal(boxes(PERFECT, SIZE), [BOX])
    np.testing.assert_array_equal(boxes(0 * PERFECT, SIZE), [[0, 0, 0, 0]])
    np.testing.assert_array_equal(boxes(-PERFECT - 1, SIZE), [[0, 0, 0, 0]])
    # two segments above .15: 3 x 2 pixels, and 1 pixel though the higher; between them .1
    two = np.array([[[0.5, 0.5, 0.5, 0.1, 1.0], [0.5, 0.5, 0.5, 0.1, 0.1]]])
    np.testing.assert_array_equal(boxes(two, (2, 5)), [[0, 0, 3, 2]])
    np.testing.assert_array_equal(boxes(two, (2, 5), threshold=0.6), [[4, 0, 5, 1]])
    assert boxes(np.zeros((0, 2, 5)), (2, 5)).shape == (0, 4)
    assert iou(BOX, BOX) == 1
    assert iou((0, 0, 4, 4), (2, 2, 6, 6)) == pytest.approx(4 / 28)
    assert iou((0.0, 0.0, 0.5, 0.5), (0.0, 0.25, 0.5, 0.75)) == pytest.approx(1 / 3)
    assert iou((3, 3, 1, 1), (0, 0, 4, 4)) == 0  # a box that ends before it starts is empty
    assert iou((0, 0, 4, 4), (4, 0, 8, 4)) == iou((0, 0, 0, 0), BOX) == 0


@given(st.integers(1, 9), st.integers(1, 9), st.floats(1e-300, 1e300), st.floats(0.01, 1))
def test_the_box_of_a_uniform_map_is_the_picture(height, width, level, threshold):
    """So that the uniform control has the score of "all of it", and not of none."""
    flat = np.full((1, height, width), level)
    np.testing.assert_array_equal(
        boxes(flat, (height, width), threshold=threshold), [[0, 0, width, height]]
    )


def test_measures_of_boxes_take_a_uniform_map_for_all_of_the_picture():
    wide, narrow = (
        (0, 0, 16, 6),
        (0, 0, 16, 5),
    )  # 96 and 80 of 192 pixels: IoU .5 and .42 with all of it
    args = {"size": SIZE, "labels": [0, 0], "outputs": np.zeros((2, 1))}
    flat = np.ones((2, 1, 1))
    np.testing.assert_array_equal(
        localisation_error(flat, [[wide], [narrow]], **args).values, [0, 1]
    )
    assert max_box_accuracy(flat, [[wide], [narrow]], size=SIZE).value == 0.5


def test_a_sample_with_no_true_box_has_no_value():
    maps, true = np.repeat(PERFECT, 2, axis=0), [[BOX], []]
    found = localisation_error(maps, true, [0, 0], np.zeros((2, 1)), size=SIZE)
    np.testing.assert_array_equal(found.values, [0, np.nan])
    best = max_box_accuracy(maps, true, size=SIZE, thresholds=[0.5])
    np.testing.assert_array_equal(best.values, [[1], [np.nan]])
    assert best.value == 1
    assert best.interval() == (1, 1)
    assert np.isnan(max_box_accuracy(PERFECT, [[]], size=SIZE).value)


def test_a_perfect_map_has_the_best_box_at_every_overlap_and_its_inverse_the_worst():
    overlaps = np.array([0.3, 0.5, 0.7], dtype=np.float32)
    assert max_box_accuracy(PERFECT, [[BOX]], size=SIZE, overlap=overlaps).value == 1
    assert max_box_accuracy(INVERTED, [[BOX]], size=SIZE, overlap=overlaps[0]).value == 0


@given(st.lists(st.integers(0, 20), min_size=8, max_size=8))
def test_iou_is_that_of_masks(edges):
    a, b = (
        (min(x), min(y), max(x), max(y))
        for x, y in ((edges[:2], edges[2:4]), (edges[4:6], edges[6:]))
    )
    first, second = box_masks([[a], [b]], (20, 20))
    either = (first | second).sum()
    assert iou(a, b) == pytest.approx((first & second).sum() / either if either else 0)
    assert iou(a, b) == iou(b, a)


def test_top_1_and_top_5_error():
    outputs = np.array([[0.1, 3.0, 2.0], [0.1, 3.0, 2.0]])
    # the second sample's label is second: right with two guesses if that class's map has the box
    maps = np.stack([np.stack([PERFECT[0], INVERTED[0]]), np.stack([INVERTED[0], PERFECT[0]])])
    args = {"true_boxes": [[BOX]] * 2, "labels": [1, 2], "outputs": outputs, "size": SIZE}
    found = localisation_error(maps, top=2, **args)
    np.testing.assert_array_equal(found.values, [0, 0])
    assert found.name == "top-2-localisation-error"
    assert found.better == "lower"
    np.testing.assert_array_equal(
        localisation_error(maps[:, 0], top=1, **args).values, [0, 1]
    )  # the wrong class
    np.testing.assert_array_equal(
        localisation_error(maps[:, ::-1], top=2, **args).values, [1, 1]
    )  # the wrong boxes
    several = {**args, "true_boxes": [[(0, 0, 1, 1), BOX]] * 2}
    np.testing.assert_array_equal(localisation_error(maps, top=2, **several).values, [0, 0])


def test_max_box_accuracy_takes_the_best_threshold_for_all_together():
    # a halo of .3 round the object: the box is right from a threshold above that
    halo = np.where(MASK, 1.0, np.where(box_masks([[(0, 0, 14, 11)]], SIZE), 0.3, 0))
    found = max_box_accuracy(
        np.concatenate([halo, halo * 5]), [[BOX]] * 2, size=SIZE, thresholds=[0.2, 0.5, 0.9]
    )
    np.testing.assert_array_equal(found.values, [[0, 1, 1]] * 2)
    assert found.value == 1
    # each is right at one threshold, but not the same one: half of them at the best
    wide = [[BOX], [(0, 0, 14, 11)]]
    both = max_box_accuracy(np.concatenate([halo, halo]), wide, size=SIZE, thresholds=[0.2, 0.5])
    assert both.value == 0.5
    low, high = both.interval()
    assert 0.5 <= low <= high == 1  # both samples drawn alike
    # halo's box is 14 x 11 = 154, the object's 36: IoU .23; at .2 only the easiest overlap of two
    # is met
    graded = max_box_accuracy(halo, [[BOX]], size=SIZE, overlap=(0.2, 0.5), thresholds=[0.2])
    assert graded.value == 0.5


# ----------------------------------------------------------------------------------------- the grid


def test_the_grid_pointing_game_by_hand():
    heat = np.array([[[1.0, 2.0, 3.0, 4.0]]])  # 3 on the left, 7 on the right
    assert grid.grid_pointing_game(heat, 0).value == pytest.approx(0.3)
    assert grid.grid_pointing_game(heat, 1).value == pytest.approx(0.7)
    # three positions: the middle one is shared
    assert grid.grid_pointing_game(np.array([[[1.0, 2.0, 5.0]]]), 0).value == pytest.approx(2 / 8)
    assert np.isnan(grid.grid_pointing_game(-heat, 0).value)


@given(st.integers(1, 3), st.integers(1, 3), st.integers(1, 9), st.integers(1, 9))
def test_a_uniform_map_scores_chance_and_the_shares_sum_to_one(rows, columns, height, width):
    heat = np.random.default_rng(height + 10 * width).random((1, height, width))
    cells = range(rows * columns)
    shares = [grid.grid_pointing_game(heat, cell, (rows, columns)).value for cell in cells]
    assert sum(shares) == pytest.approx(1)
    for cell in cells:
        uniform = grid.grid_pointing_game(np.ones((1, height, width)), cell, (rows, columns)).value
        assert uniform == pytest.approx(1 / (rows * columns))


def test_collages_are_all_orders_and_both_ways():
    photographs = [np.full((2, 3, 3), n) + np.arange(3)[:, None] * 10 for n in range(3)]
    found = grid.collages(photographs, mirrored=True)
    assert len(found) == 12  # 3 x 2 orders, each mirrored
    assert {order for _, order in found} == {(a, b) for a in range(3) for b in range(3) if a != b}
    for n, (picture, (left, right)) in enumerate(found):
        assert picture.shape == (2, 6, 3)
        turn = slice(None, None, -1 if n % 2 else 1)
        np.testing.assert_array_equal(picture[:, :3], photographs[left][:, turn])
        np.testing.assert_array_equal(picture[:, 3:], photographs[right][:, turn])
    square = grid.collage([photographs[n] for n in (0, 1, 2, 0)], (2, 2))
    np.testing.assert_array_equal(square[2:, :3], photographs[2])


# ---------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "match"),
    [
        (
            lambda: energy(PERFECT[0], MASK),
            r"`maps` must be \(N, h, w\), but have shape \(12, 16\)",
        ),
        (lambda: energy(PERFECT, PERFECT), "`masks` must be booleans"),
        (
            lambda: energy(np.repeat(PERFECT, 2, 0), MASK),
            "`masks` must have one entry for each of the 2 maps",
        ),
        (lambda: energy(PERFECT * np.nan, MASK), "`maps` are NaN or infinite"),
        (
            lambda: pointing_game(PERFECT, MASK, tolerance=-1),
            "`tolerance` must not be negative, but is -1",
        ),
        (
            lambda: mask_iou(PERFECT, MASK, threshold=0),
            r"`threshold` is a share of the maximum, in \(0, 1\], but is 0",
        ),
        (
            lambda: localisation_error(PERFECT, [[BOX]], [0], [[1.0]], size=SIZE, top=2),
            r"`maps` must be \(N, 2, h, w\)",
        ),
        (
            lambda: localisation_error(PERFECT, [[BOX]], [0], [1.0], size=SIZE),
            r"`outputs` must be \(N, K\) with at least 1 classes, for `top`, but have \(1,\)",
        ),
        (
            lambda: localisation_error(PERFECT, [[BOX]], [0], [[1.0]], size=SIZE, top=0),
            "`top` must be at least 1, but is 0",
        ),
        (
            lambda: localisation_error(
                PERFECT[:, None].repeat(2, 1), [[BOX]], [0], [[1.0]], size=SIZE, top=2
            ),
            r"with at least 2 classes, for `top`, but have \(1, 1\)",
        ),
        (
            lambda: localisation_error(PERFECT, [[BOX]], [1], [[1.0]], size=SIZE),
            r"`labels` must be classes 0 to 0, but are \[1\]",
        ),
        (
            lambda: localisation_error(PERFECT, [[BOX]], [0], [[1.0]], size=SIZE, overlap=50),
            r"`overlap` is an IoU, or several, in \(0, 1\], but is \(50,\)",
        ),
        (lambda: max_box_accuracy(PERFECT, [[BOX]], size=SIZE, overlap=()), "`overlap` is an IoU"),
        (
            lambda: max_box_accuracy(PERFECT, [[BOX]], size=SIZE, overlap=(0.5, 1.01)),
            r"`overlap` is an IoU, or several, in \(0, 1\], but is \(0.5, 1.01\)",
        ),
        (
            lambda: max_box_accuracy(PERFECT, [[BOX]], size=SIZE, overlap=0),
            r"in \(0, 1\], but is \(0.0,\)",
        ),
        (
            lambda: max_box_accuracy(PERFECT, [[BOX]], size=SIZE, thresholds=[]),
            "`thresholds` is empty",
        ),
        (
            lambda: max_box_accuracy(PERFECT, [[BOX]], size=SIZE, thresholds=[0.0]),
            "`threshold` is a share",
        ),
        (
            lambda: max_box_accuracy(PERFECT, [BOX], size=SIZE),
            "sample 0 has .*; one box is a list of one",
        ),
        (
            lambda: box_masks([[(9, 9, 3, 3)]], SIZE),
            r"\(9, 9, 3, 3\), which ends before it starts; of \(x, y, width",
        ),
        (lambda: boxes(PERFECT, (12,)), r"`size` must be \(H, W\), but is \(12,\)"),
        (lambda: grid.grid_pointing_game(PERFECT * np.nan, 0), "`maps` are NaN or infinite"),
        (lambda: grid.grid_pointing_game(PERFECT - np.inf, 0), "`maps` are NaN or infinite"),
        (
            lambda: grid.grid_pointing_game(PERFECT, 0, (0, 2)),
            r"`grid` must be .* at least 1, but is \(0, 2\)",
        ),
        (
            lambda: grid.grid_pointing_game(PERFECT, [0, 1]),
            r"`cells` must be ints, one or \(1,\), but have shape",
        ),
        (lambda: grid.grid_pointing_game(PERFECT, 0.5), "`cells` must be ints.*dtype float64"),
        (
            lambda: grid.collages([PERFECT], (2, 2)),
            "a `grid` of 2 x 2 needs 4 different photographs, but got 1",
        ),
        (lambda: grid.grid_pointing_game(PERFECT, 2), "`cells` must be 0 to 1, but are \\[2\\]"),
        (lambda: grid.grid_pointing_game(PERFECT[0], 0), r"`maps` must be \(N, h, w\)"),
        (lambda: grid.collage([PERFECT]), "a `grid` of 1 x 2 needs 2 photographs, but got 1"),
        (lambda: grid.collage([PERFECT, PERFECT[:, 1:]]), "`photographs` must be of one size"),
    ],
)
def test_bad_input(call, match):
    with pytest.raises(ValueError, match=match):
        call()


def test_without_scipy_the_tolerance_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.ndimage", None)
    with pytest.raises(
        ImportError, match=r'a `tolerance` needs SciPy: pip install "gradcam\[images\]"'
    ):
        pointing_game(PERFECT, MASK, tolerance=1)
    assert pointing_game(PERFECT, MASK).value == 1


def test_the_module_says_what_is_public():
    public = {*localisation.__all__, *public_boxes}
    assert {function.__name__ for function in (energy, iou, boxes)} <= public
