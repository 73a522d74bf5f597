"""The edges of the checker: odd layers, precisions and reports."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

import gradcam
from gradcam.model import Capture
from gradcam.verification.report import Check, Verification

VALUES = np.random.default_rng(1).normal(size=(2, 3, 4, 4))
W = np.random.default_rng(0).normal(size=(3, 2))


class Tanh:
    """y = mean tanh(A - middle) W, with a gradient that is off by a factor, in a dtype."""

    def __init__(self, factor=1.0, middle=0.0, dtype=np.float64):
        self.factor, self.middle, self.dtype = factor, middle, dtype
        self.seen = []

    def replay(self, inputs, layers, activations):
        self.seen.append(activations[0])
        return np.tanh(activations[0] - self.middle).mean((2, 3)) @ W

    def capture(self, inputs, layers, target, pooled=None):
        outputs = np.tanh(inputs - self.middle).mean((2, 3)) @ W
        scores = target(outputs)
        slope = (1 - np.tanh(inputs - self.middle) ** 2) / 16
        # Of class 1, or of both classes where there are K targets: (N, K, C, H, W).
        slopes = np.stack([slope * W[:, c][:, None, None] for c in (0, 1)], axis=1)
        if scores.ndim == 1:
            slopes = slopes[:, 1]
        return Capture(outputs, scores, (inputs,), ((slopes * self.factor).astype(self.dtype),))


def test_a_report_made_by_hand_says_what_its_checks_say():
    good = Check("direction", error=1e-9, kinks=0, of=2)
    channel = Check("alpha", error=2e-9, kinks=1, of=2)
    report = Verification("a", "float64", 6e-6, 5e-7, 0.0, (good, channel))
    assert report.passed
    assert (report.gradient_error, report.alpha_error, report.error) == (1e-9, 2e-9, 2e-9)
    assert (report.kinks, report.points, report.flat, report.lost) == (1, 4, 0, 0)
    for verdict, changed in (
        ("failed", dataclasses.replace(good, wrong=1)),
        ("inconclusive", dataclasses.replace(good, kinks=2)),
        ("inconclusive", dataclasses.replace(good, kinks=1, lost=1)),
        ("passed", dataclasses.replace(good, kinks=1)),  # one half is not most of them
        ("passed", dataclasses.replace(good, flat=2)),  # the channel was tested
    ):
        assert dataclasses.replace(report, checks=(changed, channel)).verdict == verdict
    flat = dataclasses.replace(good, flat=2)
    assert dataclasses.replace(report, checks=(flat, flat)).verdict == "untested"
    assert dataclasses.replace(report, checks=()).verdict == "passed"
    assert dataclasses.replace(report, replay_error=float("nan")).verdict == "failed"
    assert dataclasses.replace(report, replay_error=5e-7).verdict == "passed"
    for frozen, name in ((good, "error"), (report, "layer")):
        with pytest.raises(dataclasses.FrozenInstanceError):
            setattr(frozen, name, 0)


def test_a_wrong_gradient_is_not_blamed_on_the_replay():
    report = gradcam.verify(Tanh(1.01), VALUES, "a", 1)
    assert report.verdict == "failed"
    assert report.replay_error < report.tolerance
    assert "replaying" not in str(report).replace("captured activations are replayed", "")


def test_a_gradient_of_zero_is_wrong_without_bounds():
    report = gradcam.verify(Tanh(0.0), VALUES, "a", 1)
    assert report.verdict == "failed"
    assert report.gradient_error == report.alpha_error == np.inf


@pytest.mark.parametrize(("directions", "channels"), [(8, 8), (3, 2), (1, 1), (1, 3), (2, 0)])
def test_two_passes_for_each_direction_and_channel(directions, channels):
    model = Tanh()
    report = gradcam.verify(model, VALUES, "a", 1, directions=directions, channels=channels)
    report.assert_passed()
    kinds = [check.what for check in report.checks]
    lifted = min(channels, 3)
    assert kinds == ["direction"] * directions + ["alpha"] * lifted
    assert f"along {directions} random directions" in str(report)
    assert f"of alpha, {lifted} channels lifted" in str(report)
    assert report.points == 2 * len(kinds)
    # besides, one capture and one replay of what was captured
    assert report.passes == 2 + 2 * len(kinds)
    assert len(model.seen) == 1 + 2 * len(kinds)


@pytest.mark.parametrize("target", [1, [[0, 1]]])
def test_errors_are_relative_to_each_samples_own_size(target):
    """Whatever the samples' sizes, of a gradient that is 1 % too large 1 in 101 is wrong."""
    values = VALUES * np.array([1.0, 1e-3])[:, None, None, None]
    report = gradcam.verify(Tanh(1.01), values, "a", target)
    assert report.verdict == "failed"
    assert report.alpha_error == pytest.approx(1 / 101, rel=1e-3)
    assert 0.005 < report.gradient_error < 0.05  # 0.01 in the root mean square of directions


def test_half_of_the_channels_are_those_of_largest_alpha():
    model = Tanh()
    gradcam.verify(model, VALUES, "a", 1, directions=1, channels=2)
    lifted = {tuple(np.flatnonzero(np.ptp(seen - VALUES, (0, 2, 3)) > 0)) for seen in model.seen}
    slopes = np.abs(((1 - np.tanh(VALUES) ** 2).mean((2, 3)) * W[:, 1]).max(0))
    assert (int(np.abs(slopes).argmax()),) in lifted


def test_the_step_is_a_share_of_each_samples_deviation():
    """Or of a thousandth of their root mean square, where that is more."""
    for middle in (0.0, 30.0, 3000.0):
        model = Tanh(middle=middle)
        values = VALUES * np.array([1.0, 0.1])[:, None, None, None] + middle
        report = gradcam.verify(model, values, "a", 1, directions=1, channels=1)
        report.assert_passed()
        assert report.passes == 6
        # After the captured activations and two steps along a direction, a channel is lifted.
        moved = np.abs(model.seen[3] - values).max((1, 2, 3))
        root_mean_square = np.sqrt((values**2).mean((1, 2, 3)))
        size = np.maximum(values.std((1, 2, 3)), 1e-3 * root_mean_square)
        np.testing.assert_allclose(moved, report.step * size, rtol=1e-4)
        assert report.step == pytest.approx(2 ** (-52 / 3))


def test_a_wrong_gradient_is_sought_at_smaller_steps_alone_where_rounding_hides_nothing():
    model = Tanh(1.01)
    report = gradcam.verify(model, VALUES, "a", 1, directions=1, channels=1)
    assert report.verdict == "failed"
    moved = np.array([np.abs(seen - VALUES).max((0, 2, 3)) for seen in model.seen])
    # Where all channels move, the noise of the score is measured.
    steps = moved[(moved > 0).sum(1) == 1].max(1)
    assert steps.max() == pytest.approx(steps[0])
    assert np.isclose(steps, steps[0] / 8, rtol=1e-3).sum() == 2  # to either side


def test_a_step_and_a_tolerance_of_ones_own_are_used():
    report = gradcam.verify(Tanh(1.01), VALUES, "a", 1, step=1e-3, tolerance=0.05)
    assert (report.step, report.tolerance) == (1e-3, 0.05)
    assert report.passed
    assert gradcam.verify(Tanh(1.01), VALUES, "a", 1, tolerance=0.001).verdict == "failed"


def test_gradients_in_half_precision_are_held_to_a_tenth():
    report = gradcam.verify(Tanh(1.02, dtype=np.float16), VALUES, "a", 1)
    assert (report.dtype, report.replay_dtype, report.tolerance) == ("float16", "float64", 0.1)
    report.assert_passed()
    assert gradcam.verify(Tanh(1.3, dtype=np.float16), VALUES, "a", 1).verdict == "failed"
    single = gradcam.verify(Tanh(dtype=np.float32), VALUES, "a", 1)
    assert (single.dtype, single.tolerance) == ("float32", 5e-4)
    single.assert_passed()


def test_frames_that_a_layer_takes_for_samples_count_together():
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Video(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.head = nn.Conv2d(3, 4, 3), nn.Linear(4, 2)

        def forward(self, x):
            frames = torch.tanh(self.conv(x.flatten(0, 1))).mean((2, 3))
            return self.head(frames).reshape(*x.shape[:2], -1).mean(1)

    torch.manual_seed(0)
    report = gradcam.verify(Video().eval(), torch.randn(2, 5, 3, 8, 8), "conv", 1)
    report.assert_passed()
    assert report.points == 2 * (8 + 4)
    assert 0 < report.alpha_error < 1e-7
