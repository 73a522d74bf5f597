"""Readings of a layer's axes against responses that are made by hand: no network is needed."""

from __future__ import annotations

import numpy as np
import pytest

from gradcam.layouts import Layout, Samples
from gradcam.space.patterns import Pattern, patterns_of, sides
from gradcam.space.readings import (
    Reading,
    Response,
    agreement,
    best_reading,
    framed_readings,
    readings,
    sample_arrangements,
    spaces_of,
)

SIZE = (24, 36)
INPUT = (2, 3, *SIZE)


def responses_of(layout, channels=5, frames=None, leak=0.1):
    """What a layer of that layout answers: mostly at the positions under each stripe."""
    random = np.random.default_rng(0)
    answers = []
    for pattern in patterns_of(INPUT, (2, 3)):
        side = sides(layout.grid[pattern.axis - 2], pattern.stripes)
        shape = [1, 1]
        shape[pattern.axis - 2] = -1
        odd = np.broadcast_to(side.reshape(shape) > 0, layout.grid).astype(float) + leak
        even = 1 + 2 * leak - odd
        gain = random.uniform(0.1, 5, (channels, *layout.grid))  # each position has its own
        answers.append(
            Response(pattern, arranged(even * gain, layout), arranged(odd * gain, layout))
        )
    return answers


def arranged(values, layout):
    """(C, *grid) as the layout has it; class and register tokens answer to everything alike."""
    if not layout.of_tokens:
        return layout.arranged(values)
    tokens = np.full((len(values), layout.prefix + values[0].size + layout.suffix), 3.0)
    tokens[:, layout.prefix : layout.prefix + values[0].size] = values.reshape(len(values), -1)
    return tokens if layout.kind == "tokens_last" else tokens.T


def found(sample, responses, space=(2, 3)):
    return best_reading(list(readings(sample, Samples(), space, INPUT)), responses, SIZE)


@pytest.mark.parametrize(
    "layout",
    [
        Layout("channels_first", (6, 9)),
        Layout("channels_last", (6, 9)),
        Layout("tokens", (6, 9)),
        Layout("tokens", (6, 9), prefix=1),
        Layout("tokens", (6, 9), prefix=5),
        Layout("tokens", (6, 9), prefix=1, suffix=2),
        Layout("tokens_last", (6, 9), prefix=1),
        Layout("tokens", (4, 18)),  # no square patch makes it
    ],
    ids=str,
)
def test_the_reading_that_made_the_responses_is_found(layout):
    responses = responses_of(layout)
    reading, value = found(responses[0].odd.shape, responses)
    assert reading.layout == layout
    assert value > 0.5


def test_channels_as_many_as_a_side_are_told_from_positions():
    layout = Layout("channels_last", (9, 9))
    reading, _ = found((9, 9, 9), responses_of(layout, channels=9))
    assert reading.layout == layout


def test_a_transposed_grid_and_a_shifted_prefix_agree_less():
    layout = Layout("tokens", (6, 9), prefix=1)
    responses = responses_of(layout)
    right = agreement(Reading(layout, (2, 3)), responses)
    turned = agreement(Reading(Layout("tokens", (9, 6), prefix=1), (2, 3)), responses)
    shifted = agreement(Reading(Layout("tokens", (6, 9), prefix=0, suffix=1), (2, 3)), responses)
    assert right > 0.5
    assert turned < 0.3 * right
    assert shifted < right


def test_where_all_answers_to_all_nothing_agrees():
    layout = Layout("tokens", (6, 9), prefix=1)
    _, value = found((55, 5), [
        Response(r.pattern, np.ones((55, 5)), np.ones((55, 5))) for r in responses_of(layout)
    ])  # fmt: skip
    assert value < 0.05


def test_frames_are_read_where_no_picture_agrees():
    plain = responses_of(Layout("channels_first", (6, 9)))
    frames = [Response(r.pattern, np.stack([r.even] * 4), np.stack([r.odd] * 4)) for r in plain]
    folded = Samples(0, folded=4)
    assert found((4, 5, 6, 9), frames)[0] is None
    candidates = list(framed_readings((4, 5, 6, 9), folded, (2, 3), INPUT))
    reading, value = best_reading(candidates, frames, SIZE)
    assert reading.layout == Layout("channels_first", (6, 9), samples=folded)
    assert value > 0.5


def test_patterns_are_stripes_and_their_complement():
    np.testing.assert_array_equal(Pattern(1, 2).mask(8), [0, 0, 0, 0, 1, 1, 1, 1])
    np.testing.assert_array_equal(Pattern(1, 4).mask(8), [0, 0, 1, 1, 0, 0, 1, 1])
    assert [(p.axis, p.stripes) for p in patterns_of((2, 3, 4, 1), (1, 2, 3))] == [
        (1, 2),
        (2, 2),
        (2, 4),
    ]


@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((2, 5, 7), [Samples()]),
        ((5, 2, 7), [Samples(1)]),
        ((2, 2, 7), [Samples(), Samples(1)]),
        ((8, 5, 7), [Samples(0, 4), Samples(0, 4, samples_outer=False)]),
    ],
)
def test_where_two_samples_may_be(shape, expected):
    assert list(sample_arrangements(shape, 2)) == expected


@pytest.mark.parametrize("lead", [0, 1])
@pytest.mark.parametrize(
    "samples", [Samples(1), Samples(2), Samples(0, 3), Samples(0, 3, samples_outer=False)], ids=str
)
def test_samples_come_first_and_go_back(samples, lead):
    random = np.random.default_rng(0)
    whole = random.normal(size=(6, 6, 6))
    arranged_ = samples.arrange(whole)
    np.testing.assert_array_equal(samples.restore(arranged_), whole)
    if lead:
        targets = np.stack([whole, 2 * whole], axis=1)
        both = samples.arrange(targets, lead=1)
        np.testing.assert_array_equal(both[:, 0], arranged_)
        np.testing.assert_array_equal(both[:, 1], 2 * arranged_)


@pytest.mark.parametrize(("of_likely", "taken"), [(0.5, (4, 6)), (0.4, (3, 8))])
def test_a_grid_of_square_patches_needs_less_agreement_than_another(monkeypatch, of_likely, taken):
    values = {(4, 6): of_likely, (3, 8): 0.7}
    candidates = [Reading(Layout("tokens", grid), (2, 3)) for grid in values]
    monkeypatch.setattr(
        "gradcam.space.readings.agreement", lambda reading, _: values[reading.layout.grid]
    )
    best, value = best_reading(candidates, [], SIZE)
    assert (best.layout.grid, value) == (taken, values[taken])


@pytest.mark.parametrize(
    ("channels_first", "expected"), [(True, (2, 3)), (False, (1, 2))]
)  # fmt: skip
def test_the_frameworks_own_order_is_the_likeliest_space(channels_first, expected):
    assert spaces_of((2, 13, 24, 36), None, channels_first)[0] == expected
    assert spaces_of((2, 13, 24, 36), (2, 3), channels_first) == [(2, 3)]
