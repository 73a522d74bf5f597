from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from gradcam.metrics import confidence
from gradcam.metrics.subject import Subject

WEIGHTS = np.array([[0.4, 0.2], [0.1, -0.1]])
MEASURES = ("average-drop", "increase-in-confidence", "average-gain")
grids = hnp.arrays(np.float64, (3, 4, 4), elements=st.floats(0, 10).map(lambda x: round(x, 3)))


def probability(inputs):
    """The class's probability is the weighted sum of a 2 x 2 image, and the other class has the
    rest.
    """
    one = (inputs[:, 0] * WEIGHTS).sum((1, 2)).clip(0, 1)
    return np.stack([one, 1 - one], -1)


def left_not_right(inputs):
    """The left half is evidence for the class, the right half is half as much against it."""
    left, right = inputs[:, 0, :, :2].mean((1, 2)), inputs[:, 0, :, 2:].mean((1, 2))
    return np.stack([4 * left - 2 * right, np.zeros_like(left)], -1)


def of_ones(count=1, **options):
    return Subject(probability, np.ones((count, 1, 2, 2)), 0, confidence="outputs", **options)


LEFT = np.array([[[1.0, 1, 0, 0]] * 4])


def test_the_change_of_confidence_by_hand():
    # Y = 0.4 + 0.2 + 0.1 - 0.1 = 0.6
    # masks [[1, 1/2], [0, 0]]: O = 0.4 + 0.1 = 0.5, of which the drop is 0.1 / 0.6
    # masks [[1, 1], [1, 0]]:   O = 0.7, of which the gain is 0.1 / (1 - 0.6)
    maps = np.array([[[8.0, 4.0], [0.0, 0.0]], [[3.0, 3.0], [3.0, 0.0]]])
    found = confidence.confidence_measures(of_ones(2), maps)
    assert tuple(found) == MEASURES
    np.testing.assert_allclose(found["average-drop"].values, [1 / 6, 0])
    np.testing.assert_array_equal(found["increase-in-confidence"].values, [0, 1])
    np.testing.assert_allclose(found["average-gain"].values, [0, 1 / 4])
    assert found["average-drop"].value == pytest.approx(1 / 12)
    assert [found[name].better for name in MEASURES] == ["lower", "higher", "higher"]
    assert [found[name].name for name in MEASURES] == list(MEASURES)
    assert found["average-gain"].settings == {
        "baseline": "zero",
        "seed": 0,
        "confidence": "outputs",
    }


@pytest.mark.parametrize(
    ("function", "name"),
    [
        (confidence.average_drop, "average-drop"),
        (confidence.increase_in_confidence, "increase-in-confidence"),
        (confidence.average_gain, "average-gain"),
    ],
)
def test_each_function_is_its_entry(function, name):
    maps, subject = np.random.default_rng(0).random((4, 2, 2)), of_ones(4)
    for baseline in ("zero", "noise"):
        entry = confidence.confidence_measures(subject, maps, baseline=baseline, seed=3)[name]
        found = function(subject, maps, baseline=baseline, seed=3)
        np.testing.assert_array_equal(found.values, entry.values)
        assert (found.name, found.better, found.settings) == (
            entry.name,
            entry.better,
            entry.settings,
        )


def test_the_baseline_by_hand():
    # Y = 0.4 * 1.5 = 0.6; the map shows the last pixel, so the first becomes 0, or the mean 1.5 / 4
    inputs = np.array([[[[1.5, 0.0], [0.0, 0.0]]]])
    subject = Subject(lambda x: 0.4 * x[:, 0, :1, 0], inputs, 0, confidence="outputs")
    maps = np.array([[[0.0, 0.0], [0.0, 1.0]]])
    assert confidence.average_drop(subject, maps).value == pytest.approx(1)
    assert confidence.average_drop(subject, maps, baseline="mean").value == pytest.approx(1 - 1 / 4)


def test_the_right_map_scores_best_and_its_inverse_worst():
    subject = Subject(left_not_right, np.ones((1, 1, 4, 4)), 0)
    # the scores are 4 for the left alone, 4 - 2 for both, 0 for neither and -2 for the right alone
    both, left, neither, right = 1 / (1 + np.exp(-np.array([2.0, 4.0, 0.0, -2.0])))
    found = [confidence.confidence_measures(subject, maps) for maps in (LEFT, 0 * LEFT, 1 - LEFT)]
    drops = [one["average-drop"].value for one in found]
    np.testing.assert_allclose(drops, [0, (both - neither) / both, (both - right) / both])
    assert drops[0] < drops[1] < drops[2]
    assert [one["increase-in-confidence"].value for one in found] == [1, 0, 0]
    np.testing.assert_allclose(
        [one["average-gain"].value for one in found], [(left - both) / (1 - both), 0, 0]
    )


@given(grids, grids)
def test_what_is_dropped_and_what_is_gained_add_up_to_the_change(inputs, maps):
    subject = Subject(left_not_right, inputs[:, None] / 10, 0)
    found = confidence.confidence_measures(subject, maps)
    drop, increase, gain = (found[name].values for name in MEASURES)
    shown = subject.scores(subject.inputs * subject.masks(maps)[:, None])
    clean = subject.clean
    np.testing.assert_allclose(clean * drop - (1 - clean) * gain, clean - shown, atol=1e-12)
    np.testing.assert_array_equal(increase, shown > clean)
    for values in (drop, gain):
        assert ((values >= 0) & (values <= 1)).all()


@given(grids, st.floats(1e-3, 1e3))
def test_the_scale_of_a_map_does_not_matter(maps, factor):
    subject = Subject(left_not_right, np.random.default_rng(0).random((3, 1, 4, 4)), 0)
    one, other = (confidence.confidence_measures(subject, m) for m in (maps, maps * factor))
    for name in ("average-drop", "average-gain"):
        np.testing.assert_allclose(other[name].values, one[name].values, atol=1e-9)


def test_a_confidence_of_0_has_no_drop_and_one_of_1_nothing_to_gain():
    inputs = np.array([0.0, 1, 0.5]).reshape(3, 1, 1, 1) * np.ones((2, 2))
    subject = Subject(lambda x: x[:, 0, :1, 0], inputs, 0, confidence="outputs")
    found = confidence.confidence_measures(subject, np.array([[[1.0, 1], [1, 0]]] * 3))
    np.testing.assert_array_equal(found["average-drop"].values, [np.nan, 0, 0])
    assert found["average-drop"].value == 0
    for name in MEASURES[1:]:
        np.testing.assert_array_equal(found[name].values, [0, 0, 0])


def test_a_prediction_that_is_nan_has_no_measure():
    subject = Subject(
        lambda x: np.where(x[:, 0, :1, 1] == 0, np.nan, 0.5),
        np.ones((2, 1, 2, 2)),
        0,
        confidence="outputs",
    )
    maps = np.array([[[1.0, 0], [0, 0]], [[1, 1], [0, 0]]])
    for found in confidence.confidence_measures(subject, maps).values():
        np.testing.assert_array_equal(np.isnan(found.values), [True, False])


def test_probabilities_just_past_1_are_1_but_scores_are_refused():
    def subject(value):
        return Subject(
            lambda x: np.full((len(x), 1), value), np.ones((1, 1, 2, 2)), 0, confidence="outputs"
        )

    # the input has 1 + 1e-7, and what the map shows of it 1 + 2e-7
    rounded = Subject(
        lambda x: 1 + 4e-7 / x.sum((2, 3)), np.ones((1, 1, 2, 2)), 0, confidence="outputs"
    )
    for found in confidence.confidence_measures(rounded, np.eye(2)[None]).values():
        assert found.value == 0
    for value in (1.01, -0.01):
        with pytest.raises(
            ValueError, match=r"`confidence` .* gave -?[01]\.01; .* confidence=\"softmax\""
        ):
            confidence.average_drop(subject(value), np.eye(2)[None])


def test_integers_are_refused_for_a_mask_in_their_dtype_is_0():
    subject = Subject(probability, np.ones((1, 1, 2, 2), np.uint8), 0)
    with pytest.raises(
        ValueError, match=r"`inputs` must be floats .* dtype uint8; pass inputs.astype"
    ):
        confidence.average_drop(subject, np.eye(2)[None])


def test_channels_last_are_channels_first():
    rng = np.random.default_rng(0)
    inputs, maps = rng.random((3, 2, 4, 4)), rng.random((3, 2, 2))
    first = Subject(left_not_right, inputs, 0)
    last = Subject(
        lambda x: left_not_right(np.moveaxis(x, -1, 1)),
        np.moveaxis(inputs, 1, -1),
        0,
        channel_axis=-1,
    )
    for baseline in ("zero", "mean"):
        one, other = (
            confidence.adcc_parts(subject, maps, lambda x, target: maps[::-1], baseline=baseline)
            for subject in (first, last)
        )
        for name in one:
            np.testing.assert_allclose(other[name].values, one[name].values)


def test_one_masked_pass_and_one_further_explanation_in_batches():
    asked, explained = [], []

    def predict(inputs):
        asked.append(len(inputs))
        return probability(inputs)

    def explain(inputs, target):
        explained.append((inputs.copy(), target.tolist()))
        return inputs[:, 0]

    inputs = np.arange(20.0).reshape(5, 1, 2, 2)
    subject = Subject(predict, inputs, [0, 1, 0, 1, 1], confidence="outputs", batch=2)
    maps = np.array([[[4.0, 2.0], [0.0, 1.0]]] * 5)
    confidence.adcc_parts(subject, maps, explain)
    assert asked == [2, 2, 1] * 2  # the inputs as they are, and masked
    assert [target for _, target in explained] == [[0, 1], [0, 1], [1]]
    np.testing.assert_array_equal(
        np.concatenate([seen for seen, _ in explained]), inputs * maps[:, None] / 4
    )
    np.testing.assert_array_equal(inputs, np.arange(20.0).reshape(5, 1, 2, 2))


def test_adcc_by_hand():
    # M = [[1, 1/2], [0, 0]], of mean 3/8; M' = [[1, 0], [0, 0]], of mean 1/4. Less their means, in
    # eighths: (5, 1, -3, -3) and (6, -2, -2, -2), whose product sums to 30 - 2 + 6 + 6 = 40, and
    # squares to 44 and 48
    maps = np.array([[[8.0, 4.0], [0.0, 0.0]]])
    coherency = (1 + 40 / np.sqrt(44 * 48)) / 2
    again = np.array([[[9.0, 0.0], [0.0, 0.0]]])
    found = confidence.adcc_parts(of_ones(), maps, lambda inputs, target: again)
    assert found["coherency"].value == pytest.approx(coherency)
    assert found["complexity"].value == pytest.approx(3 / 8)
    assert found["average-drop"].value == pytest.approx(1 / 6)  # as above
    expected = 3 / (1 / coherency + 8 / 5 + 6 / 5)
    assert found["adcc"].value == pytest.approx(expected)
    assert confidence.adcc(of_ones(), maps, lambda inputs, target: again).value == pytest.approx(
        expected
    )
    assert {name: one.better for name, one in found.items()} == {
        "coherency": "higher",
        "complexity": "lower",
        "average-drop": "lower",
        "adcc": "higher",
    }
    assert all(one.name == name for name, one in found.items())


def test_coherency_is_1_for_the_same_map_one_half_for_an_unrelated_and_0_for_the_inverse():
    maps = np.array([[[1.0, 1], [0, 0]]])
    cases = [(3 * maps, 1), (np.array([[[1.0, 0], [1, 0]]]), 1 / 2), (1 - maps, 0)]
    for again, expected in cases:
        found = confidence.adcc_parts(of_ones(), maps, lambda inputs, target, again=again: again)
        assert found["coherency"].value == pytest.approx(expected)
    assert found["adcc"].value == 0


def test_what_is_negative_in_a_map_counts_as_nothing():
    maps = np.array([[[1.0, 0.5], [0, 0]]])
    signed = np.array([[[2.0, 1.0], [-5, 0]]])
    found = confidence.adcc_parts(of_ones(), maps, lambda inputs, target: signed)
    assert found["coherency"].value == pytest.approx(1)
    expected = confidence.adcc_parts(of_ones(), signed, lambda inputs, target: maps)
    for name in found:
        assert expected[name].value == pytest.approx(found[name].value)


def test_a_map_that_shows_everything_drops_nothing_and_one_of_zeros_all():
    subject = Subject(left_not_right, np.ones((1, 1, 4, 4)), 0)
    everything, nothing = (
        confidence.average_drop(subject, level * np.ones((1, 2, 2))).value for level in (0.3, 0)
    )
    neither, both = 1 / 2, 1 / (1 + np.exp(-2.0))
    assert everything == 0
    assert nothing == pytest.approx((both - neither) / both)


def test_a_flat_map_before_or_after_scores_0():
    maps = np.array([[[1.0, 1], [0, 0]], [[0, 0], [0, 0]], [[7, 7], [7, 7]]])
    again = np.array([[[2.0, 2], [2, 2]], [[1, 1], [0, 0]], [[7, 7], [7, 7]]])
    found = confidence.adcc_parts(of_ones(3), maps, lambda inputs, target: again)
    np.testing.assert_array_equal(found["coherency"].values, [0, 0, 0])
    np.testing.assert_array_equal(found["complexity"].values, [1 / 2, 0, 1])
    np.testing.assert_array_equal(found["adcc"].values, [0, 0, 0])


def test_adcc_of_a_confidence_of_0_is_nan_and_of_all_that_is_lost_0():
    inputs = np.array(
        [[[[0.0, 0], [0, 0]]], [[[0, 0], [1, 0]]]]
    )  # Y = 0, and 0.1 in a pixel that the map hides
    maps = np.array([[[1.0, 0.5], [0, 0]]] * 2)
    found = confidence.adcc(
        Subject(probability, inputs, 0, confidence="outputs"), maps, lambda inputs, target: maps
    )
    np.testing.assert_array_equal(found.values, [np.nan, 0])


def test_adcc_of_the_right_map_is_best_and_of_its_inverse_worst():
    def explain(inputs, target):  # the method that finds what is evidence for the class
        return inputs[:, 0] * LEFT

    subject = Subject(left_not_right, np.ones((1, 1, 4, 4)), 0)
    partly = np.array([[[1.0, 1, 1, 0]] * 4])
    right, half, wrong = (
        confidence.adcc(subject, maps, explain).value for maps in (LEFT, partly, 1 - LEFT)
    )
    assert right == pytest.approx(3 / (1 + 2 + 1))  # coherent, half of the pixels, no drop
    assert wrong == 0
    assert wrong < half < right


@given(grids, grids)
def test_adcc_is_never_above_the_mean_of_its_parts_nor_below_the_least(maps, again):
    subject = Subject(left_not_right, np.random.default_rng(0).random((3, 1, 4, 4)), 0)
    found = {
        name: r.values
        for name, r in confidence.adcc_parts(subject, maps, lambda x, target: again).items()
    }
    parts = [found["coherency"], 1 - found["complexity"], 1 - found["average-drop"]]
    assert (found["adcc"] <= np.mean(parts, axis=0) + 1e-12).all()
    assert (found["adcc"] >= np.min(parts, axis=0) - 1e-12).all()


def test_an_explanation_of_another_shape_is_refused():
    with pytest.raises(
        ValueError,
        match=r"`explain` must give maps \(M, h, w\) for 1 inputs, but gave \(1, 1, 2, 2\)",
    ):
        confidence.adcc(of_ones(), np.eye(2)[None], lambda inputs, target: inputs)
    with pytest.raises(
        ValueError, match=r"`explain` must give maps \(M, h, w\) for 1 inputs, but gave \(2, 2, 2\)"
    ):
        confidence.adcc(of_ones(), np.eye(2)[None], lambda inputs, target: np.ones((2, 2, 2)))


def test_an_explanation_that_is_nan_is_refused():
    with pytest.raises(ValueError, match=r"`explain` gave NaN .*; give 0 where"):
        confidence.adcc(
            of_ones(), np.eye(2)[None], lambda inputs, target: np.full((1, 2, 2), np.nan)
        )


def test_the_seed_is_0_unless_told():
    given, maps = of_ones(2), np.array([[[8.0, 4.0], [0.0, 0.0]], [[3.0, 3.0], [3.0, 0.0]]])

    def explain(inputs, classes):
        return inputs[:, 0]

    functions = (confidence.average_drop, confidence.increase_in_confidence)
    for function in (*functions, confidence.average_gain):
        found = function(given, maps, baseline="noise")
        assert found.settings["seed"] == 0
        np.testing.assert_array_equal(
            found.values, function(given, maps, baseline="noise", seed=0).values
        )
    assert confidence.adcc(given, maps, explain, baseline="noise").settings["seed"] == 0
    parts = confidence.adcc_parts(given, maps, explain, baseline="noise")
    assert {part.settings["seed"] for part in parts.values()} == {0}
    parts = confidence.confidence_measures(given, maps, baseline="noise")
    assert {part.settings["seed"] for part in parts.values()} == {0}


def test_an_unknown_baseline_is_refused():
    with pytest.raises(ValueError, match=r"`baseline` must be .* but is 'grey'"):
        confidence.average_drop(of_ones(), np.eye(2)[None], baseline="grey")
