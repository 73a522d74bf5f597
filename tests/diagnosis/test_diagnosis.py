"""Why a map is blank: each reason, made by a small model."""

from __future__ import annotations

import gc
import importlib.util
import pickle
import re
import warnings
import weakref
from pathlib import Path

import numpy as np
import pytest

import gradcam
from gradcam import BlankMapWarning
from gradcam._arrays import array_namespace, constant, to_numpy
from gradcam.diagnosis import REASONS
from gradcam.diagnosis.classes import Classes
from gradcam.explaining import explainer
from gradcam.targets import ClassScore, LogProbability, Probability

# columns: for the score, against it, without weight; and one for a single channel
WEIGHTS = np.array([[0.2, -0.2, 0.0, 0.2], [0.4, -0.6, 0.0, 0.0]])


@pytest.fixture(params=["numpy", "torch", "jax"])
def give(request):
    """From NumPy to the arrays of a framework, in float32."""
    if importlib.util.find_spec(request.param) is None:
        pytest.skip(f"{request.param} is not installed")
    if request.param == "torch":
        import torch

        return lambda array: torch.from_numpy(np.asarray(array, np.float32))
    if request.param == "jax":
        import jax.numpy as jnp

        return lambda array: jnp.asarray(array, jnp.float32)
    return lambda array: np.asarray(array, np.float32)


def activations(samples=3):
    """(N, 2, 3, 4), positive."""
    return 1 + np.random.default_rng(0).random((samples, 2, 3, 4))


def pooled(a, weights=WEIGHTS):
    """Four scores of the means over positions."""
    return a.mean((2, 3)) @ constant(weights, like=a)


def split(head=pooled):
    """A model whose activations are its inputs."""
    return gradcam.Split(lambda x: x, head, layout="channels_first")


def blank(*args, **options):
    with pytest.warns(BlankMapWarning):
        e = gradcam.explain(*args, **options)
    assert not to_numpy(e.maps).all()
    return e


# -------------------------------------------------------------------------- maps that are not blank


def test_a_healthy_map_has_no_findings(some_case):
    e = gradcam.explain(some_case.model, some_case.inputs(), layer=some_case.second, relu=False)
    diagnosis = e.diagnose()
    assert not diagnosis
    assert list(diagnosis) == []
    assert str(diagnosis) == "nothing is wrong with the 3 maps"
    assert "nothing is wrong with the map" in str(
        gradcam.explain(split(), activations(1), target=0).diagnose()
    )


def test_for_a_healthy_map_nothing_runs_again():
    calls = []

    def head(a):
        calls.append(len(a))
        return pooled(a)

    e = gradcam.explain(split(head), activations(), target=0)
    before = len(calls)
    e.diagnose()
    assert len(calls) == before


def test_each_question_is_asked_once_for_the_whole_batch():
    torch = pytest.importorskip("torch")
    calls = []

    def head(a):
        calls.append(len(a))
        return pooled(a)

    def asked(samples):
        x = torch.from_numpy(activations(samples))
        e = blank(split(head), x, target=[[1, 2]])
        before = len(calls)
        assert e.diagnose().reasons == ("negative", "unused")
        return len(calls) - before

    assert asked(5) == asked(1)


def test_negative_maps_without_relu_are_not_blank(give):
    e = gradcam.explain(split(), give(activations()), target=1, relu=False)  # and does not warn
    assert not e.diagnose()
    assert blank(split(), give(activations()), target=2, relu=False).diagnose().reasons == (
        "unused",
    )


# -------------------------------------------------------------------------------------- the reasons


@pytest.mark.parametrize("method", ["grad-cam", "layer-cam", "hires-cam", "ablation-cam"])
def test_all_evidence_is_negative_and_how_much(give, method):
    model, x = split(), give(activations())
    e = blank(model, x, target=1, method=method)
    diagnosis = e.diagnose()
    assert [(f.reason, f.sample, f.target, f.layer) for f in diagnosis] == [
        ("negative", n, None, "features") for n in range(3)
    ]
    counterfactual = gradcam.explain(model, x, target=-ClassScore(1), method=method)
    amounts = -to_numpy(counterfactual.maps).sum((1, 2))
    np.testing.assert_allclose([f.amount for f in diagnosis], amounts, rtol=1e-3)
    assert (
        "the counterfactual, target=-ClassScore(1), or at the signed map, relu=False"
        in diagnosis[0].message
    )
    assert str(diagnosis).startswith(
        "3 of 3 maps:\n  sample 0: negative: all evidence is against the score"
    )


def test_the_score_does_not_depend_on_the_layer(give):
    for method in ("grad-cam", "hires-cam", "ablation-cam"):
        diagnosis = blank(split(), give(activations()), target=2, method=method).diagnose()
        assert diagnosis.reasons == ("unused",)
        assert (
            'does not depend on layer "features": with its output set to zero, negated or'
            in diagnosis[0].message
        )


def test_the_gradient_is_cut_on_the_way(give):
    def rounded(a):
        return array_namespace(a).floor(10 * pooled(a) + 0.25) / 10

    diagnosis = blank(
        split(rounded), give(np.full((1, 2, 3, 4), 1.0) + np.arange(4)), target=3
    ).diagnose()
    assert diagnosis.reasons == ("no-gradient",)
    assert "blocks it (detach, stop_gradient, argmax, rounding)" in diagnosis[0].message


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_the_gradient_is_detached(framework):
    framework = pytest.importorskip(framework)
    if framework.__name__ == "torch":
        x, cut = framework.from_numpy(activations()), lambda a: a.detach()
    else:
        import jax.numpy as jnp

        x, cut = jnp.asarray(activations()), framework.lax.stop_gradient

    def head(a):  # class 0 of what is cut, class 1 of what is not
        return array_namespace(a).stack([cut(a).mean((1, 2, 3)), a.mean((1, 2, 3))], axis=1)

    assert blank(split(head), x, target=0).diagnose().reasons == ("no-gradient",)
    assert not gradcam.explain(split(head), x, target=1).diagnose()


@pytest.mark.parametrize(
    "target", [Probability(0), LogProbability(0), -Probability(3), Probability()]
)
def test_a_softmax_is_saturated(give, target):
    x = give(1000 * activations())
    diagnosis = blank(split(), x, target=target).diagnose()
    assert diagnosis.reasons == ("saturated",)
    assert "softmax" in diagnosis[0].message
    assert "explain the class score before the softmax, ClassScore(" in diagnosis[0].message
    assert not gradcam.explain(split(), x, target=0).diagnose()  # what the hint says


def test_a_softmax_or_sigmoid_in_the_model_is_saturated(give):
    def softmax(a):
        xp, scores = array_namespace(a), pooled(a)
        e = xp.exp(scores - xp.max(scores, axis=1, keepdims=True))
        return e / xp.sum(e, axis=1, keepdims=True)

    def sigmoid(a):
        return 0.5 + array_namespace(a).tanh(pooled(a) / 2) / 2

    for head, size in ((softmax, 1000), (sigmoid, 100)):
        diagnosis = blank(split(head), give(size * activations()), target=0).diagnose()
        assert diagnosis.reasons == ("saturated",)
        assert "remove it from the model" in diagnosis[0].message


def test_what_is_left_of_a_saturated_softmax_is_rounding():
    e = gradcam.Explanation(
        np.eye(3)[None], np.ones(1), Probability(np.array([0])), np.array([[20.0, 0.0]], np.float32)
    )
    assert e.diagnose()[0].message.startswith(
        "the map consists of rounding errors: the softmax of Probability(0)"
    )
    healthy = gradcam.Explanation(
        np.eye(3)[None], np.ones(1), Probability(0), np.array([[9.0, 0.0]], np.float32)
    )
    assert not healthy.diagnose()


def test_activations_are_0(give):
    x = activations()
    x[1] = 0
    e = blank(split(), give(x), target=0)
    diagnosis = e.diagnose()
    assert [(f.reason, f.sample) for f in diagnosis] == [("flat", 1)]
    assert 'the activations of layer "features" are 0 at every position' in diagnosis[0].message


def test_activations_are_flat(give):
    x = np.ones((2, 2, 3, 4))
    x[1] = activations(1)
    model, inputs = split(), give(x)
    e = gradcam.explain(model, inputs, target=0)  # not blank, but a picture of it is
    assert not to_numpy(e.heatmaps())[0].any()
    assert [(f.reason, f.sample) for f in e.diagnose()] == [("flat", 0)]
    assert "the same at every position" in e.diagnose()[0].message
    x[1, 1] = np.arange(12).reshape(3, 4)
    x[1, 0] = 1
    inputs = give(x)
    diagnosis = gradcam.explain(model, inputs, target=3).diagnose()  # of channel 0 alone
    assert [(f.reason, f.sample) for f in diagnosis] == [("flat", 0), ("flat", 1)]
    assert "activations that count in this map" in diagnosis[1].message
    inputs = give(np.ones((1, 2, 1, 1)))
    diagnosis = gradcam.explain(model, inputs, layer="features", target=0).diagnose()
    assert 'layer "features" has a single position' in diagnosis[0].message


def test_methods_that_look_at_no_score():
    x = -activations(1)
    x[0, 1] = 0
    diagnosis = blank(split(), x, target=0, method=lambda a, g: a.sum(-2)).diagnose()
    assert diagnosis.reasons == ("negative",)
    assert blank(
        split(), np.zeros((1, 2, 3, 4)), target=0, method="eigen-cam"
    ).diagnose().reasons == ("flat",)

    signed = gradcam.explain(split(), activations(1), target=0, method="eigen-cam", relu=False)
    assert signed.diagnose().reasons == ()


def test_activations_and_gradients_cancel(give):
    if isinstance(x := give(activations()), np.ndarray):
        pytest.skip("finite differences leave rounding where a mean is 0")
    signs = constant(np.where(np.arange(12).reshape(3, 4) % 2, 1.0, -1.0), like=x)
    model = split(
        lambda a: pooled(a * signs)
    )  # every second position speaks for it, the others against it
    diagnosis = blank(model, x, target=0).diagnose()
    assert diagnosis.reasons == ("cancels",)
    assert 'try method="layer-cam"' in diagnosis[0].message
    assert not gradcam.explain(model, x, target=0, method="layer-cam").diagnose()


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_the_spatial_tokens_of_a_last_block_do_not_reach_the_output(framework):
    weights = np.random.default_rng(0).normal(size=(8, 5))
    x = np.random.default_rng(1).normal(size=(2, 3, 8, 8))
    if framework == "torch":
        torch = pytest.importorskip("torch")

        class Patches(torch.nn.Module):
            def forward(self, x):
                tokens = torch.nn.functional.unfold(x, 2, stride=2).transpose(1, 2)[..., :8]
                return torch.cat([tokens.mean(1, keepdim=True), tokens], 1)

        class Mix(torch.nn.Module):
            def forward(self, x):
                return x + torch.tanh(x).mean(1, keepdim=True)

        class Alone(torch.nn.Module):
            def forward(self, x):
                return x + torch.tanh(x)

        class Read(torch.nn.Module):
            def forward(self, x):
                return x[:, 0] @ torch.from_numpy(weights)

        model = torch.nn.Sequential(Patches(), Mix(), Mix(), Alone(), Read()).eval()
        inputs, names = torch.from_numpy(x), ("2", "3")
        earlier = '"1" is the last whose spatial tokens do'
    else:
        jnp = pytest.importorskip("jax").numpy
        from jax.ad_checkpoint import checkpoint_name

        def model(x):
            tokens = (
                x.reshape(2, 4, 2, 4, 2, 3).transpose(0, 1, 3, 2, 4, 5).reshape(2, 16, 12)[..., :8]
            )
            tokens = jnp.concatenate([tokens.mean(1, keepdims=True), tokens], 1)
            for n in range(3):
                tokens = checkpoint_name(
                    tokens + jnp.tanh(tokens).mean(1, keepdims=True), f"mixed{n}"
                )
            return checkpoint_name(tokens + jnp.tanh(tokens), "alone")[:, 0] @ jnp.asarray(weights)

        inputs = jnp.asarray(x.transpose(0, 2, 3, 1))
        names, earlier = ("mixed2", "alone"), '"mixed1" is the last whose spatial tokens do'
    for name in names:
        diagnosis = blank(model, inputs, layer=name, target=1).diagnose()
        assert diagnosis.reasons[0] == "class-token"
        assert "after the last attention" in diagnosis[0].message
        assert earlier in diagnosis[0].message
    assert not gradcam.explain(model, inputs, target=1, relu=False).diagnose()


def test_targets_in_another_order_than_the_samples(give):
    x = np.full((3, 3, 3, 4), 0.01) * (1 + np.arange(4))
    for n in range(3):
        x[n, n] += 1  # sample n shows class n, and channel n speaks for it and against the others
    model = split(lambda a: pooled(a, 90 * np.eye(3) - 50))
    assert not gradcam.explain(model, give(x), target=[0, 1, 2]).diagnose()
    diagnosis = blank(model, give(x), target=[1, 2, 0]).diagnose()
    assert [f.reason for f in diagnosis] == ["negative", "target"] * 3
    assert (
        "below class 0, the sample's top class, which is a target of sample 2; check that the "
        "targets are in the order of the samples"
    ) in diagnosis[1].message
    diagnosis = blank(model, give(x), target=1).diagnose()
    assert [(f.sample, f.reason) for f in diagnosis] == [
        (0, "negative"),
        (0, "target"),
        (2, "negative"),
        (2, "target"),
    ]
    assert "check that it is the class that you meant" in diagnosis[1].message


def test_targets_that_the_model_does_not_see():
    outputs = np.array([[9.0, 0.0, 0.0], [0.0, 9.0, 0.0], [0.0, 0.0, 9.0]])

    def hand(target):
        return Classes(
            gradcam.targets.as_target(target), outputs, np.zeros((3, np.size(target) // 3 or 1))
        )

    shuffled, same = hand([1, 2, 0]), hand(1)
    assert shuffled.mismatch(0, 0) == (
        "class 1 scores 9 below class 0, the sample's top class, which is a target of "
        "sample 2; check that the targets are in the order of the samples"
    )
    assert "the class that you meant" in same.mismatch(0, 0)
    assert same.mismatch(1, 0) is None
    assert hand([[0, 1], [1, 2], [2, 0]]).mismatch(0, 0) is None


# --------------------------------------------------------------------------------- NaN and infinity


def torch_net():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(2, 4, 3, padding=1),
        torch.nn.ReLU(),
        torch.nn.Conv2d(4, 4, 3, padding=1),
        torch.nn.Softplus(),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(4, 3),
    ).eval()


def raised_finding(model, inputs, layer, **options):
    """The finding for the one bad sample, which says what the error of `check=True` says."""
    with pytest.raises(
        FloatingPointError, match="or pass check=False to have the map all the same"
    ) as raised:
        gradcam.explain(model, inputs, layer=layer, **options)
    (finding,) = gradcam.explain(model, inputs, layer=layer, check=False, **options).diagnose()
    assert finding.reason == "not-finite"
    assert str(raised.value).startswith(finding.message)
    return finding


def test_nan_in_the_input(some_case):
    inputs = some_case.inputs()
    hole = np.zeros(tuple(inputs.shape))
    hole[1] = np.nan
    finding = raised_finding(
        some_case.model, inputs + constant(hole, like=inputs), some_case.second
    )
    assert finding.sample == 1
    assert "for sample 1: so is the input itself" in finding.message


@pytest.mark.parametrize(
    ("layer", "broken", "what"), [("3", 0, "activations"), ("3", 2, "activations")]
)
def test_the_layer_in_which_nan_first_appeared(layer, broken, what):
    net = torch_net()
    net[broken].weight.data[0, 0, 0, 0] = float("inf")
    x = activations()
    x[[0, 2]] = 0  # whose product with infinity is NaN too
    e = gradcam.explain(net, net[0].weight.new_tensor(x), layer=layer, check=False)
    findings = e.diagnose(net[0].weight.new_tensor(x))
    assert {f.sample for f in findings} == {0, 1, 2}
    for f in findings:
        assert f'the {what} of layer "{layer}" are NaN' in f.message
        assert f'"{broken}" is the first layer, in the order in which they run' in f.message


def test_nan_that_appears_behind_the_layer():
    net = torch_net()
    net[2].bias.data[1] = float("nan")
    x = net[0].weight.new_tensor(activations(1))
    finding = raised_finding(net, x, "1", target=0)
    assert 'the gradients of layer "1" are NaN' in finding.message
    assert '"2" is the first layer' in finding.message


def test_nan_on_the_way_back_from_the_score():
    torch = pytest.importorskip("torch")

    class Zero(torch.nn.Module):
        def forward(self, x):
            return x * 0

    class Root(torch.nn.Module):
        def forward(self, x):
            return torch.sqrt(x)

    net = torch_net()
    net.insert(4, Zero())
    net.insert(5, Root())  # whose slope is infinite at 0
    net.eval()
    x = net[0].weight.new_tensor(activations(1))
    finding = raised_finding(net, x, "1", target=0)
    assert 'the gradients of layer "1" are NaN' in finding.message
    assert (
        'on the way back from the score the gradient at layer "4" is the first' in finding.message
    )


def test_a_score_that_is_not_finite_though_all_layers_are():
    net = torch_net()
    x = net[0].weight.new_tensor(activations(1))
    finding = raised_finding(net, x, "1", target=lambda out: (out[:, 0] * 0).log())
    assert (
        "every layer's output is finite, but the score is not: check the target" in finding.message
    )


def test_a_method_that_overflows(give):
    x, model = give(1e30 * activations(1)), split()
    with np.errstate(over="ignore"):
        finding = raised_finding(model, x, None, target=0, method=lambda a, g: (a * a).sum(-2))
    assert "the method overflows their dtype" in finding.message


def test_nan_of_named_values_in_jax():
    jnp = pytest.importorskip("jax").numpy
    from jax.ad_checkpoint import checkpoint_name

    def model(x):
        a = checkpoint_name(jnp.tanh(x), "a")
        b = checkpoint_name(jnp.where(a < 0, jnp.inf, a) * 0, "b")
        return checkpoint_name(jnp.tanh(a) + b, "c").mean((1, 2))

    x = activations(3).transpose(0, 2, 3, 1)
    x[2, 1, 1, 0] = -1
    finding = raised_finding(model, jnp.asarray(x), "c", target=0)
    assert finding.sample == 2
    assert '"b" is the first layer' in finding.message


def test_a_layer_that_the_score_does_not_use_is_no_obstacle_to_finding_nan():
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.features, self.aside, self.zero = (
                torch.nn.Conv2d(2, 3, 1),
                torch.nn.Conv2d(3, 3, 1),
                torch.nn.Identity(),
            )

        def forward(self, x):
            a = self.features(x)
            self.aside(a)
            return torch.sqrt(self.zero(a * 0)).mean((2, 3))

    finding = raised_finding(
        Net().eval(), torch.from_numpy(activations(1)).float(), "features", target=0
    )
    assert 'the gradient at layer "zero" is the first' in finding.message


# ----------------------------------------------------------------------- several targets and layers


def test_of_k_targets_each_is_named(give):
    x = give(activations(2))
    with pytest.warns(
        BlankMapWarning, match=re.escape("(sample, target) (0, 1), (0, 2), (1, 1), (1, 2) are 0")
    ):
        e = gradcam.explain(split(), x, target=[[0, 1, 2]])
    reasons = [(f.sample, f.target, f.reason) for f in e.diagnose()]
    assert reasons == [(0, 1, "negative"), (0, 2, "unused"), (1, 1, "negative"), (1, 2, "unused")]
    assert str(e.diagnose()[0]).startswith("sample 0, target 1: negative: ")
    assert str(e.diagnose()).startswith("4 of 6 maps:")
    for explanation in (
        gradcam.compare(split(), x, target=[[0, 3]], methods=["grad-cam", "layer-cam"])
    ).values():
        assert not explanation.diagnose()


def test_several_layers():
    net = torch_net()
    x = net[0].weight.new_tensor(activations(2))
    net[6].weight.data[:] = -abs(net[6].weight.data)
    net[2].weight.data[:] = abs(net[2].weight.data)
    e = blank(net, x, layer=["1", "3"], target=0)
    assert [(f.reason, f.layer) for f in e.diagnose()] == [("negative", "1"), ("negative", "3")] * 2


def test_a_product_of_layers_that_see_evidence_at_no_common_position():
    torch = pytest.importorskip("torch")

    class Half(torch.nn.Module):
        def __init__(self, first):
            super().__init__()
            self.first = first

        def forward(self, x):
            return x * (torch.arange(4) < 2 if self.first else torch.arange(4) >= 2)

    class Net(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.left, self.right = Half(True), Half(False)

        def forward(self, x):
            return (self.left(x) + self.right(x)).mean((2, 3))

    x = torch.from_numpy(activations(1))
    diagnosis = blank(
        Net().eval(), x, layer=["left", "right"], target=0, fusion="product"
    ).diagnose()
    assert diagnosis.reasons == ("fusion",)
    assert not gradcam.explain(Net().eval(), x, layer=["left", "right"], target=0).diagnose()


def test_smoothed_maps_are_diagnosed_too(give):
    e = blank(split(), give(activations()), target=1, smoothing=gradcam.Smoothing(noise=0.01))
    assert e.diagnose().reasons == ("negative",)


def test_attention_methods():
    torch = pytest.importorskip("torch")

    class Net(torch.nn.Module):
        def forward(self, x):
            return (torch.softmax(x @ x.transpose(-2, -1), -1) @ x).mean((1, 2))

    x = torch.from_numpy(np.random.default_rng(0).normal(size=(1, 2, 4, 4)))
    options = {"method": "legrad", "layout": gradcam.Tokens((2, 2), 0)}
    for target in (0, [[1, 2]], -ClassScore(3)):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BlankMapWarning)
            e = gradcam.explain(Net().eval(), x, target=target, **options)
        for f in e.diagnose():
            assert f.reason in ("negative", "cancels")
            assert f.layer is None


# -------------------------------------------------------------------------------------- the warning


def test_the_warning_names_the_samples_and_is_at_the_users_line(give):
    x = activations(12)
    x[[1, 3]] = 0
    with pytest.warns(BlankMapWarning) as warned:
        gradcam.explain(split(), give(x), target=0)
    assert [w.filename for w in warned] == [__file__]
    assert str(warned[0].message) == (
        "the maps of samples 1, 3 are 0 everywhere (grad-cam of Split at 'features'); "
        ".diagnose() of the explanation says why"
    )
    x[:10] = 0
    explained = gradcam.Explainer(split())
    with pytest.warns(BlankMapWarning, match=r"samples 0, 1, 2, 3, 4, 5, 6, 7 and 2 more are 0"):
        explained.heatmaps(give(x), 0)
    with pytest.warns(BlankMapWarning, match="all 12 maps are 0 everywhere"):
        explained(give(0 * x), 0)
    with pytest.warns(BlankMapWarning, match="^the map is 0 everywhere"):
        explained(give(0 * x[:1]), 0)
    with pytest.warns(BlankMapWarning, match="^the map of sample 0 is 0 everywhere"):
        explained(give(x[9:]), 0)


def test_one_array_is_waited_for_with_check_and_none_without(give, monkeypatch):
    waited = []

    def counted(array):
        waited.append(tuple(array.shape))
        return to_numpy(array)

    monkeypatch.setattr(explainer, "to_numpy", counted)
    x = give(activations())
    gradcam.explain(split(), x, target=0)
    assert waited == [(2, 3)]
    gradcam.compare(split(), x, target=[[0, 3]], methods=["grad-cam", "layer-cam"])
    assert waited[1:] == [(4, 3, 2)]
    gradcam.explain(split(), give(0 * activations()), target=0, check=False)  # and does not warn
    assert len(waited) == 2


# ------------------------------------------------------------------------------------ what it takes


def test_a_model_that_was_changed_since():
    net = torch_net()
    x = net[0].weight.new_tensor(activations(2))
    net[6].weight.data[:] = -abs(net[6].weight.data)
    e = blank(net, x, layer="3", target=0)
    net[6].bias.data[:] += 1
    assert e.diagnose().reasons == ("changed",)
    assert "weights or inputs have changed since" in e.diagnose()[0].message
    net[6].bias.data[:] -= 1
    assert e.diagnose().reasons == ("negative",)


def test_the_state_of_the_model_is_as_it_was():
    net = torch_net()
    x = net[0].weight.new_tensor(activations(2))
    net[6].weight.data[:] = 0
    before = {key: value.clone() for key, value in net.state_dict().items()}
    assert blank(net, x, layer="3", target=0).diagnose().reasons == ("unused",)
    assert all((value == before[key]).all() for key, value in net.state_dict().items())
    assert not any(module._forward_hooks for module in net.modules())
    assert all(parameter.grad is None for parameter in net.parameters())


def test_numpy_keeps_what_a_diagnosis_takes_and_pickling_does_not(give):
    e = blank(split(), give(activations()), target=1)
    assert e.numpy().diagnose() == e.diagnose()
    stored = pickle.loads(pickle.dumps(e))
    np.testing.assert_array_equal(to_numpy(stored.maps), to_numpy(e.maps))
    diagnosis = stored.diagnose()
    assert diagnosis.reasons == ("blank",)
    assert "loaded, or made by hand: explain the inputs again" in diagnosis[0].message
    with pytest.raises(ValueError, match="this explanation has no model"):
        stored.diagnose(give(activations()))


def test_an_explanation_made_by_hand_says_what_its_maps_do():
    maps = np.stack([np.zeros((2, 2)), np.ones((2, 2)), np.full((2, 2), np.nan), np.eye(2)])
    diagnosis = gradcam.Explanation(maps, np.ones(4), 0).diagnose()
    assert [(f.sample, f.reason) for f in diagnosis] == [
        (0, "blank"),
        (1, "flat"),
        (2, "not-finite"),
    ]
    point = gradcam.Explanation(np.ones((1, 1, 1)), np.ones(1), layer="pool").diagnose()
    assert 'layer "pool" has a single position' in point[0].message


def test_only_a_blank_explanation_keeps_its_inputs():
    torch = pytest.importorskip("torch")

    def explained(target, **options):
        x = torch.from_numpy(activations())
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", BlankMapWarning)
            e = gradcam.explain(split(), (x,), target=target, **options)
        return e, weakref.ref(x)

    healthy, inputs = explained(0)
    gc.collect()
    assert inputs() is None
    assert not healthy.diagnose()
    kept, inputs = explained(1)
    gc.collect()
    assert inputs() is not None
    assert kept.diagnose().reasons == ("negative",)
    lost, inputs = explained(1, check=False)
    gc.collect()
    assert inputs() is None
    assert lost.diagnose().reasons == ("blank",)


def test_inputs_that_are_gone_can_be_passed():
    model = split()
    e = gradcam.explain(model, activations(), target=1, check=False)
    assert "its inputs are gone: pass them, .diagnose(inputs)" in e.diagnose()[0].message
    assert e.diagnose(activations()).reasons == ("negative",)
    assert e.diagnose(3 + activations()).reasons == ("changed",)
    with pytest.raises(ValueError, match="`inputs` are 2 samples, but 3 were explained"):
        e.diagnose(activations(2))
    x = activations()
    e = gradcam.explain(model, {"x": x}, target=1, check=False)
    assert e.diagnose().reasons == ("negative",)


def test_a_classifier_and_an_error_instead_of_a_warning():
    classifier = gradcam.Classifier(split(), labels=("for", "against", "none", "one"))
    with warnings.catch_warnings():
        warnings.simplefilter("error", BlankMapWarning)
        with pytest.raises(BlankMapWarning):
            gradcam.explain(classifier, activations(), target="against")
    assert blank(classifier, activations(), target="against").diagnose().reasons == ("negative",)


# ----------------------------------------------------------------------------------------- the page


def test_the_page_has_every_reason():
    page = (Path(__file__).parent.parent.parent / "docs" / "blank-maps.md").read_text(
        encoding="utf-8"
    )
    assert re.findall(r"^\| `([\w-]+)` \|", page, re.MULTILINE) == list(REASONS)
