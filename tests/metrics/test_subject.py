"""The model as a function of changed inputs: its confidence, its classes and its baselines."""

from __future__ import annotations

import math

import numpy as np
import pytest

from gradcam.metrics.subject import Subject, relative_heat

LOGITS = np.array([[1.0, -2.0, 0.5], [0.0, 3.0, -1.0]])
INPUTS = np.random.default_rng(0).normal(size=(2, 3, 4, 6))


def subject(**options):
    return Subject(lambda x: LOGITS[: len(x)], INPUTS, **options)


def test_the_confidence_is_the_formula_worked_out_class_by_class():
    sigmoid = [1 / (1 + math.exp(-LOGITS[n, c])) for n, c in enumerate([2, 0])]
    np.testing.assert_allclose(subject(target=[2, 0], confidence="sigmoid").clean, sigmoid)
    softmax = [math.exp(LOGITS[n, c]) / sum(map(math.exp, LOGITS[n])) for n, c in enumerate([2, 0])]
    np.testing.assert_allclose(subject(target=[2, 0]).clean, softmax)
    np.testing.assert_array_equal(subject(target=[2, 0], confidence="outputs").clean, [0.5, 0])


@pytest.mark.parametrize(("confidence", "values"), [("softmax", [1, 0]), ("sigmoid", [1, 0])])
def test_huge_outputs_do_not_overflow(confidence, values):
    for target, value in enumerate(values):
        huge = Subject(lambda x: np.array([[1e6, -1e6]]), INPUTS[:1], target, confidence=confidence)
        assert huge.clean.tolist() == [value]


def test_without_a_target_each_sample_has_its_top_class():
    assert subject().classes.tolist() == [0, 1]
    assert subject(target=2).classes.tolist() == [2, 2]
    assert subject(target=[2, 0]).classes.tolist() == [2, 0]


@pytest.mark.parametrize("channel_axis", [1, -1, 3])
def test_baselines_are_those_of_each_sample_and_channel(channel_axis):
    given = Subject(lambda x: x, np.moveaxis(INPUTS, 1, channel_axis), channel_axis=channel_axis)
    assert given.size == (4, 6)
    np.testing.assert_array_equal(given.baseline("zero"), np.zeros_like(given.inputs))
    mean = np.moveaxis(given.baseline("mean"), channel_axis, 1)
    noise = np.moveaxis(given.baseline("noise", 3), channel_axis, 1)
    draws = np.moveaxis(
        np.random.default_rng(3).standard_normal(given.inputs.shape), channel_axis, 1
    )
    for n in range(2):
        for c in range(3):
            pixels = INPUTS[n, c].ravel()
            middle = sum(pixels) / 24
            deviation = math.sqrt(sum((pixels - middle) ** 2) / 24)
            np.testing.assert_allclose(mean[n, c], middle)
            np.testing.assert_allclose(noise[n, c], middle + deviation * draws[n, c])
    assert (given.baseline("noise", 3) != given.baseline("noise", 4)).all()
    np.testing.assert_array_equal(given.baseline("noise"), given.baseline("noise", 0))


def test_the_blur_is_a_twentieth_of_the_longer_side_and_mixes_no_channels():
    from scipy.ndimage import gaussian_filter

    inputs = np.zeros((1, 2, 20, 40))
    inputs[0, 0, 10, 20] = 1
    found = Subject(lambda x: x, inputs).baseline("blur")
    np.testing.assert_allclose(found[0, 0], gaussian_filter(inputs[0, 0], 2.0))
    np.testing.assert_array_equal(found[0, 1], 0)


def test_what_is_shown_of_a_map_is_its_positive_part_over_its_maximum():
    maps = np.array([[[4.0, -8.0], [1.0, 0.0]], [[-1.0, -2.0], [0.0, -3.0]], [[5.0, 5], [5, 5]]])
    found = relative_heat(maps, (2, 2))
    np.testing.assert_array_equal(found, [[[1, 0], [0.25, 0]], np.zeros((2, 2)), np.ones((2, 2))])


def test_no_more_than_a_batch_is_predicted_at_a_time():
    sizes = []

    def predict(x):
        sizes.append(len(x))
        return np.stack([x.mean((1, 2, 3)), 0 * x[:, 0, 0, 0]], 1)

    given = Subject(predict, INPUTS, 0, confidence="outputs", batch=3)
    variants = np.random.default_rng(1).normal(size=(7, 3, 4, 6))
    samples = [0, 0, 0, 0, 1, 1, 1]
    expected = [variant.mean() for variant in variants]
    np.testing.assert_allclose(given.stream(iter(variants), samples), expected)
    np.testing.assert_allclose(given.scores(variants, np.array(samples)), expected)
    # 7 variants twice, and once the inputs themselves, for the classes
    assert sorted(sizes) == [1, 1, 2, 3, 3, 3, 3]
    assert given.stream(iter([]), []).shape == (0,)


@pytest.mark.parametrize(
    ("make", "error", "match"),
    [
        (lambda: Subject(len, INPUTS[0]), ValueError, r"but have shape \(3, 4, 6\)"),
        (lambda: Subject(len, INPUTS[:0]), ValueError, r"but have shape \(0, 3, 4, 6\)"),
        (lambda: subject(channel_axis=2), ValueError, "`channel_axis` must be 1 or -1, but is 2"),
        (lambda: subject(batch=0), ValueError, "`batch` must be at least 1, but is 0"),
        (lambda: subject(target=3).classes, ValueError, r"must be classes 0 to 2, but is \[3\]"),
        (lambda: subject(target=-1).classes, ValueError, r"must be classes 0 to 2, but is \[-1\]"),
        (lambda: subject(target=1.0).classes, TypeError, "must be ints, one or .* dtype float64"),
        (lambda: subject(confidence="logit").clean, ValueError, "must be .* but is 'logit'"),
        (
            lambda: Subject(lambda x: x[:, 0, 0, 0], INPUTS).outputs,
            ValueError,
            r"`predict` must give outputs \(M, K\) for 2 inputs, but gave \(2,\)",
        ),
        (
            lambda: Subject(lambda x: LOGITS[:1], INPUTS).outputs,
            ValueError,
            r"for 2 inputs, but gave \(1, 3\)",
        ),
        (
            lambda: Subject(lambda x: x[:, 0, :1, 0], INPUTS).clean,
            ValueError,
            'a "softmax" of one output is always 1; pass confidence="sigmoid"',
        ),
        (lambda: subject().heat(np.zeros((3, 4, 6))), ValueError, "for 2 inputs, but have shape"),
        (lambda: subject().heat(np.zeros((2, 1, 4, 6))), ValueError, r"`maps` must be \(N, h, w\)"),
        (lambda: subject().heat(np.full((2, 4, 6), np.inf)), ValueError, "NaN or infinite"),
    ],
)
def test_bad_input(make, error, match):
    with pytest.raises(error, match=match):
        make()
