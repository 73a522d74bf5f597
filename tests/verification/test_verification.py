"""Tests of the checker: that it passes what is right, and that it can fail."""

from __future__ import annotations

import contextlib
import dataclasses

import networks
import numpy as np
import pytest

import gradcam
from gradcam.backends.numpy import NumpyModel
from gradcam.model import Capture
from gradcam.targets import TopClass, as_target


class Wrong:
    """The NumPy reference with a wrong capture or replay: an object with the two verbs alone."""

    def __init__(
        self, capture=lambda c: c, target=lambda t: t, replay=lambda o: o, activations=lambda a: a
    ):
        self.inner = NumpyModel(networks.features_numpy, networks.head_numpy)
        self.change, self.target, self.output, self.activations = (
            capture,
            target,
            replay,
            activations,
        )

    def capture(self, inputs, layers, target, pooled=None):
        return self.change(self.inner.capture(inputs, layers, self.target(target)))

    def replay(self, inputs, layers, activations):
        return self.output(
            self.inner.replay(inputs, layers, [self.activations(a) for a in activations])
        )


def check(model, **options):
    return gradcam.verify(model, networks.images(), layer="features", **{"target": 1, **options})


def gradients(change):
    return lambda capture: dataclasses.replace(capture, gradients=(change(capture.gradients[0]),))


def test_any_object_with_the_two_verbs_is_a_model():
    check(Wrong()).assert_passed()
    explanation = gradcam.explain(Wrong(), networks.images(), layer="features", target=1)
    expected = gradcam.explain(networks.case("numpy").model, networks.images(), target=1)
    np.testing.assert_allclose(explanation.maps, expected.maps, rtol=1e-6)
    with pytest.raises(TypeError, match="Wrong has no method `layers"):
        gradcam.explain(Wrong(), networks.images())


@pytest.mark.parametrize(
    "change", [lambda g: g * 1.001, lambda g: g * 0.999, lambda g: -g, lambda g: 0 * g]
)
def test_a_gradient_wrong_by_a_thousandth_is_caught(change):
    report = check(Wrong(capture=gradients(change)))
    assert report.verdict == "failed"
    assert report.gradient_error > 5e-4
    assert report.alpha_error > 5e-4
    with pytest.raises(AssertionError, match='gradients at layer "features": failed'):
        report.assert_passed()


def test_one_wrong_channel_is_caught():
    def change(g):
        g = g.copy()
        g[:, 2] *= 1.01
        return g

    assert check(Wrong(capture=gradients(change)), channels=6).verdict == "failed"


def test_gradients_of_other_positions_are_caught_though_alpha_is_right():
    def change(g):  # sums over positions, and so alphas, stay
        return np.broadcast_to(np.arange(g.shape[-1]) - 2.0, g.shape) * np.abs(g).max() + g

    report = check(Wrong(capture=gradients(change)))
    assert report.alpha_error < 1e-6
    assert report.gradient_error > 1e-3
    assert not report.passed


def test_a_class_index_off_by_one_is_caught():
    report = check(Wrong(target=lambda target: lambda outputs: outputs[:, 2]))
    assert report.verdict == "failed"


def test_activations_taken_before_an_in_place_operation_are_caught():
    """The rest of the model saw max(A - 0.5, 0), but A was captured."""

    def before(capture):
        return dataclasses.replace(capture, activations=(capture.activations[0] + 0.5,))

    report = check(Wrong(capture=before))
    assert report.verdict == "failed"
    assert report.replay_error > 1e-3
    assert "the captured activations are not those that the rest of the model saw" in str(report)


def test_a_model_that_depends_on_chance_is_caught():
    random = np.random.default_rng(0)
    assert (
        check(Wrong(replay=lambda out: out + random.normal(size=out.shape) * 1e-3)).verdict
        == "failed"
    )


def test_a_detached_head_is_caught():
    torch = pytest.importorskip("torch")

    class Detached(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.network = networks.torch_network()

        def forward(self, x):
            a = self.network.second(self.network.conv2(self.network.first(self.network.conv1(x))))
            pooled = 0.5 * a.mean((2, 3)) + 0.5 * a.detach().mean((2, 3))
            return torch.tanh(self.network.linear(pooled))

    report = gradcam.verify(
        Detached().eval(), torch.from_numpy(networks.images()), "network.second"
    )
    assert report.verdict == "failed"
    assert report.alpha_error > 0.1


def test_a_hook_that_misses_the_in_place_operation_is_caught():
    """Activations copied before `ReLU(inplace=True)`, with the gradient of what it wrote there."""
    torch = pytest.importorskip("torch")
    nn = torch.nn
    torch.manual_seed(0)
    model = (
        nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.Conv2d(4, 2, 3), nn.Flatten(2))
        .double()
        .eval()
    )

    class Naive:
        """Keeps a copy of the layer's output, and lets the in-place operation have the tensor."""

        def capture(self, inputs, layers, target, pooled=None):
            kept, copies = [], []
            handle = model[0].register_forward_hook(
                lambda m, i, o: kept.append(o) or copies.append(o.clone())
            )
            with torch.enable_grad():
                outputs = model(inputs).mean(2)
                scores = target(outputs)
                gradient = torch.autograd.grad(scores.sum(), kept[0], retain_graph=True)[0]
            handle.remove()
            return Capture(outputs.detach(), scores.detach(), (copies[0].detach(),), (gradient,))

        def replay(self, inputs, layers, activations):
            with torch.no_grad():
                return model[1:](activations[0].clone()).mean(2)

    inputs = torch.randn(2, 3, 8, 8, dtype=torch.float64)
    assert gradcam.verify(Naive(), inputs, "0", 1).verdict == "failed"
    right = gradcam.verify(model, inputs, "0", lambda out: out[:, 1].mean(1))
    right.assert_passed()


class Autograd:
    """y = mean relu(A) W, with the subgradient that autograd gives: relu'(0) = 0."""

    def __init__(self, factor=1.0):
        self.factor = factor
        self.w = np.random.default_rng(0).normal(size=(3, 2))

    def replay(self, inputs, layers, activations):
        return np.maximum(activations[0], 0).mean((2, 3)) @ self.w

    def capture(self, inputs, layers, target, pooled=None):
        outputs = self.replay(inputs, layers, (inputs,))
        slope = (inputs > 0) * self.w[:, 1][:, None, None] / inputs[0, 0].size * self.factor
        return Capture(outputs, outputs[:, 1], (inputs,), (slope,))


def test_kinks_are_told_from_wrong_gradients():
    values = np.abs(np.random.default_rng(1).normal(size=(2, 3, 4, 4))) + 0.1
    values[:, :, 0] = 0.0  # a quarter of all positions lies on the kink of the ReLU that follows
    report = gradcam.verify(Autograd(), values, "a", 1)
    assert report.held_zeros
    assert report.verdict == "passed"
    assert "activations that are 0 lie on kinks and were kept at 0" in str(report)
    assert gradcam.verify(Autograd(1.001), values, "a", 1).verdict == "failed"


def test_a_kink_beside_the_point_is_passed_by_smaller_steps():
    values = np.full((1, 3, 4, 4), 1.0)
    values[0, 0, 0, 0] = 1e-7  # nearer to the kink than the first step
    report = gradcam.verify(Autograd(), values, "a", 1, directions=32, channels=3)
    assert (report.verdict, report.kinks) == ("passed", 0)
    assert report.passes > 2 * len(report.checks) + 2


def test_a_kink_that_no_step_passes_is_counted():
    values = np.full((1, 3, 4, 4), 1.0)
    values[0, 0, 0, 0] = 1e-13
    report = gradcam.verify(Autograd(), values, "a", 1, directions=32, channels=3)
    assert 0 < report.kinks < report.points
    assert report.lost == 0
    assert report.verdict in ("passed", "inconclusive")


def test_where_nearly_everything_is_a_kink_the_verdict_is_inconclusive():
    values = np.full((1, 3, 4, 4), 1e-13)
    values[0, 0, 0, 0] = 1.0
    report = gradcam.verify(Autograd(), values, "a", 1)
    assert report.verdict == "inconclusive"
    assert "try another layer or other inputs" in str(report)
    with pytest.raises(AssertionError):
        report.assert_passed()


def test_without_float64_the_own_gradients_are_checked_by_the_copys_differences():
    torch = pytest.importorskip("torch")
    network = networks.torch_network().float()
    inputs = torch.from_numpy(networks.images()).float()
    single = gradcam.verify(network, inputs, "second", float64=False)
    double = gradcam.verify(network, inputs, "second")
    assert (single.dtype, double.dtype) == ("float32", "float64")
    assert (single.replay_dtype, single.tolerance) == ("float64", 5e-4)
    assert 1e-9 < single.error < 1e-5  # the rounding of float32
    single.assert_passed()
    double.assert_passed()
    assert next(network.parameters()).dtype == torch.float32  # a copy was checked


def test_what_is_verified_is_the_same_for_one_seed():
    a, b = (check(Wrong(), target=None) for _ in range(2))
    assert a == b
    assert check(Wrong(), seed=1) != a


class ThrownAway:
    """A backend that runs the whole model whatever is replayed, as one that ignores its tap does."""

    def replay(self, inputs, layers, activations):
        return inputs.sum((2, 3))

    def capture(self, inputs, layers, target, pooled=None):
        outputs = self.replay(inputs, (), ())
        return Capture(outputs, target(outputs), (inputs,), (0 * inputs,))


def test_a_backend_that_ignores_the_replayed_activations_does_not_pass():
    report = gradcam.verify(ThrownAway(), networks.images(), "a", 1)
    assert (report.verdict, report.error, report.ignored) == ("untested", 0, True)
    assert "nothing was tested: the gradient is 0, and the score stays the same" in str(report)
    assert "or the backend does not put the replayed activations in its place" in str(report)
    with pytest.raises(AssertionError, match='gradients at layer "a": untested'):
        report.assert_passed()


def test_a_layer_in_front_of_dead_relus_is_not_said_to_be_wrong():
    values = -1.0 - np.abs(np.random.default_rng(1).normal(size=(2, 3, 4, 4)))
    report = gradcam.verify(Autograd(), values, "a", 1)
    assert (report.verdict, report.ignored) == ("untested", False)
    assert "the layer is used, but it is flat here" in str(report)
    values[0] *= -1  # one sample of two that is not dead tests the gradient
    gradcam.verify(Autograd(), values, "a", 1).assert_passed()
    assert gradcam.verify(Autograd(1.001), values, "a", 1).verdict == "failed"


def test_zeros_that_were_all_held_test_nothing():
    report = gradcam.verify(Autograd(), np.zeros((1, 3, 4, 4)), "a", 1)
    assert report.held_zeros
    assert (report.verdict, report.ignored) == ("untested", False)


def test_a_score_at_its_minimum_is_tested():
    class Squared(Autograd):
        def replay(self, inputs, layers, activations):
            return (activations[0] ** 2).mean((2, 3)) @ self.w

        def capture(self, inputs, layers, target, pooled=None):
            outputs = self.replay(inputs, layers, (inputs,))
            return Capture(outputs, outputs[:, 1], (inputs,), (0 * inputs,))

    gradcam.verify(Squared(), np.zeros((1, 3, 4, 4)), "a", 1).assert_passed()


def test_errors():
    with pytest.raises(TypeError, match="`layer` must be one layer"):
        gradcam.verify(Wrong(), networks.images(), layer=["a", "b"])
    with pytest.raises(IndexError, match="is no class"):
        check(Wrong(), target=17)


def test_a_resolved_target_is_the_top_class():
    outputs = networks.head_numpy(networks.features_numpy(networks.images()))
    assert as_target(None) == TopClass()
    np.testing.assert_array_equal(TopClass().resolve(outputs).index, outputs.argmax(1))


class Linear:
    """y = offset + mean A W, computed in a dtype, with a gradient that is off by a factor."""

    def __init__(self, offset=0.0, dtype=np.float64, factor=1.0):
        self.offset, self.dtype, self.factor = offset, dtype, factor
        self.w = np.random.default_rng(0).normal(size=(3, 2))

    def replay(self, inputs, layers, activations):
        outputs = np.tanh(activations[0]).mean((2, 3)) @ self.w + self.offset
        return outputs.astype(self.dtype).astype(np.float64)

    def capture(self, inputs, layers, target, pooled=None):
        outputs = self.replay(inputs, layers, (inputs,))
        slope = (1 - np.tanh(inputs) ** 2) * self.w[:, 1][:, None, None] / inputs[0, 0].size
        return Capture(outputs, outputs[:, 1], (inputs,), (slope * self.factor,))


@pytest.mark.parametrize(("offset", "dtype"), [(1e4, np.float64), (0.0, np.float32)])
def test_a_score_that_is_rounded_passes_and_a_thousandth_does_not(offset, dtype):
    values = np.random.default_rng(1).normal(size=(2, 3, 4, 4))
    report = gradcam.verify(Linear(offset, dtype), values, "a", 1)
    report.assert_passed()
    assert report.resolution < 1e-3
    # a larger step sees past the rounding of 1e4 in float64, and past that of float32 none does
    told = "the rounding of the score hides an error below" in str(report)
    assert told == (report.resolution > report.tolerance) == (dtype is np.float32)
    assert gradcam.verify(Linear(offset, dtype, 1.001), values, "a", 1).verdict == "failed"


def test_what_rounding_hides_is_inconclusive_and_not_wrong():
    values = np.random.default_rng(1).normal(size=(2, 3, 4, 4))
    report = gradcam.verify(Linear(1e12), values, "a", 1)
    assert (report.verdict, report.kinks) == ("inconclusive", 0)
    assert report.lost == report.points
    assert "most points are lost in the rounding of the score" in str(report)


def test_a_scaled_gradient_and_a_detached_one_are_named():
    values = np.random.default_rng(1).normal(size=(2, 3, 4, 4))
    assert "the gradient is 1.03 times the score's slope" in str(
        gradcam.verify(Linear(factor=1.03), values, "a", 1)
    )
    assert "detached" in gradcam.verify(Linear(factor=0.0), values, "a", 1).fault


def test_a_copy_with_other_scores_is_not_used_and_that_is_said():
    class Copied(Linear):
        @contextlib.contextmanager
        def float64(self, inputs):
            yield Linear(offset=1.0, factor=2.0), inputs

        in_double = float64

    values = np.random.default_rng(1).normal(size=(2, 3, 4, 4))
    report = gradcam.verify(Copied(), values, "a", 1)
    report.assert_passed()
    assert "the double precision copy gives other scores" in report.remark
    assert report.remark in str(report)


def test_a_wrong_gradient_at_zeros_alone_is_caught_where_the_score_is_smooth():
    class AtZeros(Linear):
        def capture(self, inputs, layers, target, pooled=None):
            found = super().capture(inputs, layers, target)
            wrong = np.where(inputs == 0, 0.0, found.gradients[0])
            return dataclasses.replace(found, gradients=(wrong,))

    values = np.random.default_rng(1).normal(size=(2, 3, 4, 4)).clip(0)
    gradcam.verify(Linear(), values, "a", 1).assert_passed()
    assert gradcam.verify(AtZeros(), values, "a", 1).verdict == "failed"
