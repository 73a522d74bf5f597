from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradcam.metrics.curves import deletion, insertion
from gradcam.metrics.subject import Subject

BOTH = (deletion, insertion)
tied = hnp.arrays(np.int64, (2, 3, 4), elements=st.integers(-5, 5))
orders = st.permutations(range(12)).map(lambda order: np.array(order, float).reshape(1, 3, 4))


def total(inputs):
    return inputs.sum((1, 2, 3))[:, None]


def nonlinear(inputs):
    left, right = inputs[:, 0, :, :2].mean((1, 2)), inputs[:, -1, :, 2:].mean((1, 2))
    return np.stack([3 * left - right, left * right, right], -1)


def summed(image, **options):
    """A subject whose confidence is the sum of a one-channel image."""
    return Subject(total, np.array(image, float)[None, None], 0, confidence="outputs", **options)


def random_subject(count=2, **options):
    return Subject(nonlinear, np.random.default_rng(0).normal(size=(count, 2, 3, 4)), **options)


def test_deletion_and_insertion_by_hand():
    image = [[3.0, 1.0], [4.0, 2.0]]
    # pixels go in the order 4, 3, 2, 1. Left: 10, 6, 3, 1, 0, of area (10/2 + 6 + 3 + 1 + 0/2) / 4
    found = deletion(summed(image), np.array([image]))
    np.testing.assert_allclose(found.curves["fraction"], [0, 0.25, 0.5, 0.75, 1])
    np.testing.assert_allclose(found.curves["confidence"], [[10, 6, 3, 1, 0]])
    np.testing.assert_allclose(found.values, [15 / 4])
    assert (found.name, found.better) == ("deletion", "lower")
    assert found.settings == {
        "steps": 20,
        "baseline": "zero",
        "seed": 0,
        "ties": "random",
        "confidence": "outputs",
    }
    # come: 0, 4, 7, 9, 10, of area (0/2 + 4 + 7 + 9 + 10/2) / 4
    found = insertion(summed(image), np.array([image]), baseline="zero")
    np.testing.assert_allclose(found.curves["confidence"], [[0, 4, 7, 9, 10]])
    np.testing.assert_allclose(found.values, [25 / 4])
    assert (found.name, found.better) == ("insertion", "higher")


def test_all_the_channels_of_a_pixel_go_together_into_its_baseline():
    inputs = np.arange(1.0, 9.0).reshape(
        1, 2, 2, 2
    )  # channels [[1, 2], [3, 4]] and [[5, 6], [7, 8]]
    seen = []

    def predict(variants):
        seen.extend(variants.tolist())
        return total(variants)

    maps = np.array([[[0.0, 3.0], [2.0, 1.0]]])
    subject = Subject(predict, inputs, 0, confidence="outputs")
    subject.clean  # noqa: B018, asked for now, so that it is not among those seen
    seen.clear()
    deletion(subject, maps, baseline="mean", steps=2)  # means 2.5 and 6.5
    assert seen == [
        [[[1, 2.5], [2.5, 4]], [[5, 6.5], [6.5, 8]]],
        [[[2.5, 2.5], [2.5, 2.5]], [[6.5, 6.5], [6.5, 6.5]]],
    ]
    seen.clear()
    insertion(subject, maps, baseline="mean", steps=2)
    assert seen == [
        [[[2.5, 2.5], [2.5, 2.5]], [[6.5, 6.5], [6.5, 6.5]]],
        [[[2.5, 2], [3, 2.5]], [[6.5, 6], [7, 6.5]]],
    ]


def test_the_right_order_is_best_of_all_and_its_inverse_worst():
    image = np.array([[3.0, 1.0], [4.0, 2.0]])
    maps = [np.array(order).reshape(1, 2, 2) for order in itertools.permutations(range(4))]
    gone = {m.tobytes(): deletion(summed(image), m).value for m in maps}
    come = {m.tobytes(): insertion(summed(image), m, baseline="zero").value for m in maps}
    right = np.array([[[2, 0], [3, 1]]])
    wrong = 3 - right
    assert gone[right.tobytes()] == min(gone.values()) < max(gone.values()) == gone[wrong.tobytes()]
    assert come[right.tobytes()] == max(come.values()) > min(come.values()) == come[wrong.tobytes()]


def test_a_flat_map_is_a_random_order():
    image = np.arange(9.0).reshape(3, 3) ** 2
    flat = np.full((1, 3, 3), 0.3)
    for measure in BOTH:
        found = np.array(
            [measure(summed(image), flat, baseline="zero", seed=s).value for s in range(200)]
        )
        # of a sum, whose every pixel is as likely to go early as late, half is under the curve
        assert found.mean() == pytest.approx(image.sum() / 2, abs=3 * found.std() / np.sqrt(200))
        assert found.std() > 0.05 * image.sum()


def test_ties_favour_no_corner_unless_they_go_by_rows():
    image = np.eye(1, 9, 0).reshape(3, 3)  # one bright pixel, in the top left corner
    flat = np.zeros((1, 1, 1))
    by_rows = deletion(summed(image), flat, ties="rows").curves["confidence"]
    np.testing.assert_array_equal(by_rows, [[1, *[0] * 9]])
    when = {
        int(deletion(summed(image), flat, seed=s).curves["confidence"].sum()) for s in range(100)
    }
    assert when == set(range(1, 10))


def test_many_ties_by_rows_keep_their_order():
    maps = np.tile([1.0, 2.0], (1, 20, 10))  # every other pixel higher
    image = np.arange(400.0).reshape(20, 20)
    found = deletion(summed(image), maps, steps=400, ties="rows").curves["confidence"][0]
    np.testing.assert_array_equal(-np.diff(found), [*range(1, 400, 2), *range(0, 400, 2)])


def test_ties_are_broken_only_among_themselves():
    image = np.array([[1.0, 2.0, 4.0, 8.0]])
    maps = np.array([[[0.0, 5.0, 5.0, 9.0]]])
    found = {
        tuple(deletion(summed(image), maps, seed=s).curves["confidence"][0]) for s in range(20)
    }
    assert found == {(15, 7, 5, 1, 0), (15, 7, 3, 1, 0)}


@pytest.mark.parametrize("measure", BOTH)
@given(tied)
def test_only_the_order_counts(measure, maps):
    subject = random_subject()
    expected = measure(subject, maps, steps=5, baseline="mean")
    for rising in (np.exp, lambda m: m.astype(float) ** 3, lambda m: 1e-9 * m - 4):
        found = measure(subject, rising(maps), steps=5, baseline="mean")
        np.testing.assert_array_equal(found.curves["confidence"], expected.curves["confidence"])


@given(orders, st.sampled_from([1, 2, 3, 4, 6, 12]))
def test_insertion_is_the_deletion_of_the_negative_map_from_its_end(maps, steps):
    subject = random_subject(1)
    come = insertion(subject, maps, steps=steps, baseline="mean")
    gone = deletion(subject, -maps, steps=steps, baseline="mean")
    np.testing.assert_allclose(come.curves["confidence"], gone.curves["confidence"][:, ::-1])
    np.testing.assert_allclose(come.values, gone.values)


@given(orders, st.integers(1, 30))
def test_a_model_that_sees_nothing_has_its_confidence_for_an_area(maps, steps):
    subject = Subject(lambda x: np.zeros((len(x), 4)), np.ones((1, 1, 3, 4)), 0)
    for measure in BOTH:
        np.testing.assert_allclose(measure(subject, maps, steps=steps).values, 0.25)


@pytest.mark.parametrize(
    ("steps", "counts"),
    [
        (1, [0, 9]),
        (2, [0, 5, 9]),  # 5 = ceil(9 / 2), and the 4 that are left
        (3, [0, 3, 6, 9]),
        (5, [0, 2, 4, 6, 8, 9]),
        (6, [0, 2, 4, 6, 8, 9]),  # shares of ceil(9 / 6) = 2: only 5 of them
        (20, list(range(10))),
        (np.int64(3), [0, 3, 6, 9]),
    ],
)
def test_steps_part_the_pixels_into_equal_shares_and_a_last(steps, counts):
    image = np.ones((3, 3))
    found = deletion(summed(image), image[None], steps=steps)
    np.testing.assert_allclose(found.curves["fraction"], np.array(counts) / 9)
    np.testing.assert_allclose(found.curves["confidence"], [9 - np.array(counts)])
    np.testing.assert_allclose(found.values, 4.5)  # a straight line, at whatever points


def test_no_more_than_a_batch_is_predicted_and_the_input_only_once():
    asked = []

    def predict(variants):
        asked.append(len(variants))
        return nonlinear(variants)

    subject = Subject(predict, np.random.default_rng(0).normal(size=(3, 2, 3, 4)), batch=5)
    maps = np.random.default_rng(1).random((3, 3, 4))
    deletion(subject, maps, steps=4)
    insertion(subject, maps, steps=4)
    # the 3 inputs, whose class and confidence serve both, then 3 x 4 variants twice
    assert asked == [3, 5, 5, 2, 5, 5, 2]


@pytest.mark.parametrize("measure", BOTH)
def test_neither_the_batch_nor_the_other_samples_matter_nor_is_the_input_changed(measure):
    maps = np.random.default_rng(1).integers(0, 3, (4, 3, 4))
    whole = random_subject(4)
    before = whole.inputs.copy()
    expected = measure(whole, maps).values
    np.testing.assert_allclose(measure(random_subject(4, batch=3), maps).values, expected)
    some = [3, 1]
    np.testing.assert_allclose(
        measure(Subject(nonlinear, whole.inputs[some]), maps[some]).values, expected[some]
    )
    np.testing.assert_array_equal(whole.inputs, before)


@pytest.mark.parametrize("measure", BOTH)
def test_channels_last_are_channels_first(measure):
    first, maps = random_subject(), np.random.default_rng(1).random((2, 2, 2))
    last = Subject(
        lambda x: nonlinear(np.moveaxis(x, -1, 1)),
        np.ascontiguousarray(np.moveaxis(first.inputs, 1, -1)),
        channel_axis=-1,
    )
    np.testing.assert_allclose(
        measure(last, maps, steps=4).curves["confidence"],
        measure(first, maps, steps=4).curves["confidence"],
    )


def test_insertion_starts_from_the_blurred_input_and_deletion_ends_at_0():
    subject, maps = random_subject(), np.random.default_rng(1).random((2, 3, 4))
    found = insertion(subject, maps, steps=4)
    assert found.settings["baseline"] == "blur"
    np.testing.assert_allclose(
        found.curves["confidence"][:, 0], subject.scores(subject.baseline("blur"))
    )
    np.testing.assert_allclose(found.curves["confidence"][:, -1], subject.clean)
    found = deletion(subject, maps, steps=4)
    np.testing.assert_allclose(found.curves["confidence"][:, 0], subject.clean)
    np.testing.assert_allclose(found.curves["confidence"][:, -1], 1 / 3)


def test_integers_stay_integers():
    image, seen = np.array([[[[200, 100], [50, 0]]]], np.uint8), []

    def predict(variants):
        seen.append(variants.dtype)
        return total(variants.astype(float))

    found = deletion(Subject(predict, image, 0, confidence="outputs"), image[:, 0])
    np.testing.assert_allclose(found.curves["confidence"], [[350, 150, 50, 0, 0]])
    assert set(seen) == {np.dtype(np.uint8)}


def test_a_prediction_that_is_nan_leaves_its_sample_out():
    def predict(inputs):
        return np.where(total(inputs) > 9, np.nan, total(inputs))

    inputs = np.stack([np.full((1, 2, 2), 1.0), np.full((1, 2, 2), 9.0)])
    found = deletion(Subject(predict, inputs, 0, confidence="outputs"), np.ones((2, 1, 1)))
    np.testing.assert_array_equal(found.values, [2, np.nan])
    assert found.value == 2


@pytest.mark.parametrize("measure", BOTH)
def test_bad_options_are_refused(measure):
    subject, maps = random_subject(), np.ones((2, 3, 4))
    for steps in (0, -1, 2.5, None):
        with pytest.raises(
            ValueError, match=rf"`steps` must be a whole number of at least 1, but is {steps}"
        ):
            measure(subject, maps, steps=steps)
    with pytest.raises(ValueError, match=r"`ties` must be \"random\" or \"rows\", but is 'first'"):
        measure(subject, maps, ties="first")
    with pytest.raises(ValueError, match=r"`baseline` must be .*, but is 'grey'"):
        measure(subject, maps, baseline="grey")
    with pytest.raises(ValueError, match=r"`maps` must be \(N, h, w\) for 2 inputs"):
        measure(subject, maps[:1])
