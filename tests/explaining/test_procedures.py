"""Methods that run the model in their own way: what they run, how often, and to what end."""

from __future__ import annotations

import functools

import networks
import numpy as np
import pytest
from networks import Case

import gradcam
from gradcam import backends, targets
from gradcam._arrays import constant, to_numpy
from gradcam.explaining.prepare import prepare
from gradcam.explaining.run import ModelRun
from gradcam.methods import TABLE
from gradcam.methods.procedures.at_input import contributions
from gradcam.model import INPUT, scorer

LAYER = [
    entry.name
    for entry in TABLE
    if entry.needs not in ("attention", "biases", "a linear head", "curvatures")
]


@functools.cache
def reference(method: str, several: bool) -> np.ndarray:
    case = networks.case("numpy")
    target = [[1, 3]] if several else 2
    return gradcam.explain(case.model, case.inputs(), target=target, method=method).maps


@pytest.mark.parametrize("several", [False, True])
@pytest.mark.parametrize("method", LAYER)
@pytest.mark.filterwarnings("ignore::gradcam.BlankMapWarning")
def test_every_backend_gives_the_black_boxes_map(some_case: Case, method, several):
    case = some_case
    target = [[1, 3]] if several else 2
    found = gradcam.explain(case.model, case.inputs(), case.second, target, method, batch=7).numpy()
    expected = reference(method, several)
    assert found.maps.shape == ((3, 2, 4, 5) if several else (3, 4, 5))
    np.testing.assert_allclose(found.maps, expected, rtol=1e-6, atol=1e-7 * np.abs(expected).max())


def test_the_seam_scores_variants_of_a_layer_and_of_the_input(some_case: Case):
    case = some_case
    score = scorer(case.tapped, case.inputs(), case.second, targets.as_target(1))
    activations = case.tapped.capture(case.inputs(), (case.second,), None).activations[0]
    factors = constant(
        np.array([1.0, 0.5, -2.0]).reshape(3, *(1,) * activations.ndim), like=activations
    )
    found = to_numpy(score(activations * factors))
    features = networks.features_numpy(networks.images())
    expected = np.stack([networks.head_numpy(features * factor)[:, 1] for factor in (1, 0.5, -2)])
    np.testing.assert_allclose(found, expected, rtol=1e-10)
    of_input = scorer(case.tapped, case.inputs(), INPUT, targets.as_target([[0, 4]]))
    inputs = case.inputs()
    found = to_numpy(
        of_input(
            inputs * constant(np.array([1.0, 0.0]).reshape(2, *(1,) * inputs.ndim), like=inputs)
        )
    )
    whole = networks.head_numpy(features)[:, [0, 4]]
    nothing = networks.head_numpy(networks.features_numpy(np.zeros((3, 3, 8, 10))))[:, [0, 4]]
    np.testing.assert_allclose(found, np.stack([whole, nothing]), rtol=1e-10)


def test_a_target_of_each_samples_own_sees_batches_of_its_own_size(some_case: Case):
    case = some_case
    expected = gradcam.explain(
        case.model, case.inputs(), case.second, [4, 0, 2], "ablation-cam"
    ).numpy()

    def own(outputs):
        return outputs[(0, 1, 2), (4, 0, 2)]

    found = gradcam.explain(case.model, case.inputs(), case.second, own, "ablation-cam").numpy()
    np.testing.assert_allclose(found.maps, expected.maps, rtol=1e-9)


def test_integrated_gradients_are_complete(some_case: Case):
    """The mean gradient times the activations sums to y(A) - y(0), whatever the head."""
    case = some_case
    prepared = prepare(case.model, case.inputs(), case.second, 1)
    run = ModelRun(prepared, case.second, batch=8, tracker=lambda steps, doing: steps)
    activations = run.first.activations[0]
    mean = (
        sum(
            to_numpy(run.capture(at=activations * ((s + 0.5) / 64)).gradients[0]) for s in range(64)
        )
        / 64
    )
    total = (mean * to_numpy(activations)).reshape(3, -1).sum(1)
    nothing = networks.head_numpy(np.zeros((3, 6, 4, 5)))[:, 1]
    np.testing.assert_allclose(total, to_numpy(run.first.scores) - nothing, rtol=1e-4)


def test_integrated_grad_cam_is_the_loop_over_midpoints(some_case: Case):
    case = some_case
    features, h = networks.features_numpy(networks.images()), 1e-4
    alpha = np.zeros((3, 6))
    for step in range(4):
        on_path = features * ((step + 0.5) / 4)
        for k in range(6):
            lift = np.zeros((6, 1, 1))
            lift[k] = h  # alpha is the slope as a channel is lifted, over the 20 positions
            up, down = (networks.head_numpy(on_path + s * lift)[:, 1] for s in (1, -1))
            alpha[:, k] += (up - down) / (2 * h) / 20 / 4
    expected = np.einsum("nk,nkhw->nhw", alpha, features)
    found = gradcam.explain(
        case.model, case.inputs(), case.second, 1, "integrated-grad-cam", steps=4, relu=False
    ).numpy()
    np.testing.assert_allclose(found.maps, expected, rtol=1e-5, atol=1e-7)


def test_curvature_is_the_derivative_of_the_gradient(some_case: Case):
    case = some_case
    if case.name == "numpy":
        with pytest.raises(
            ValueError, match="second derivatives of a black box have no digits left"
        ):
            gradcam.explain(case.model, case.inputs(), method="shapley-cam")
        return
    found = case.tapped.capture(
        case.inputs(), (case.second,), targets.as_target([[1, 3]]), curvature=True
    )
    activations, h = found.activations[0], 1e-5
    up, down = (
        case.tapped.capture(
            case.inputs(),
            (case.second,),
            targets.as_target([[1, 3]]),
            at=(activations * (1 + s * h),),
        )
        for s in (1, -1)
    )
    expected = (to_numpy(up.gradients[0]) - to_numpy(down.gradients[0])) / (2 * h)
    curvature = to_numpy(found.curvatures[0])
    np.testing.assert_allclose(curvature, expected, rtol=1e-5, atol=1e-8 * np.abs(expected).max())
    assert np.abs(curvature).max() > 0.01 * np.abs(to_numpy(found.gradients[0])).max()
    one = case.tapped.capture(case.inputs(), (case.second,), targets.as_target(3), curvature=True)
    np.testing.assert_allclose(to_numpy(one.curvatures[0]), curvature[:, 1], rtol=1e-9)


@pytest.mark.filterwarnings("ignore::gradcam.BlankMapWarning")
def test_channels_that_are_zero_everywhere_are_not_run():
    seen = []

    def features(x):
        return networks.features_numpy(x) * np.array([1, 0, 1, 0, 0, 1.0])[:, None, None]

    def head(a):
        seen.append(len(a))
        return networks.head_numpy(a)

    found = gradcam.explain(
        gradcam.Split(features, head), networks.images(), target=1, method="ablation-cam", batch=1
    )
    # the score, three channels that are alive, and all channels again
    assert len(seen) == 1 + 3 + 1
    nothing = gradcam.Split(lambda x: 0 * networks.features_numpy(x), networks.head_numpy)
    blank = gradcam.explain(nothing, networks.images(), target=1, method="ablation-cam")
    assert not blank.maps.any()
    features_ = features(networks.images())
    y = networks.head_numpy(features_)[:, 1]
    drops = []
    for k in range(6):
        ablated = features_.copy()
        ablated[:, k] = 0
        drops.append((y - networks.head_numpy(ablated)[:, 1]) / np.abs(y))
    expected = np.maximum(np.einsum("kn,nkhw->nhw", np.array(drops), features_), 0)
    np.testing.assert_allclose(found.maps, expected, rtol=1e-9)


def test_cam_says_where_there_is_none(some_case: Case):
    case = some_case
    with pytest.raises(
        ValueError,
        match=r"CAM needs global average pooling and one linear layer.*depends on the acti",
    ):
        gradcam.explain(case.model, case.inputs(), case.second, method="cam")


def test_cam_is_the_linear_heads_weights():
    w = np.random.default_rng(0).normal(size=(6, 5))
    model = gradcam.Split(networks.features_numpy, lambda a: a.mean((2, 3)) @ w + 1)
    found = gradcam.explain(model, networks.images(), target=3, method="cam", relu=False)
    expected = np.einsum("nkhw,k->nhw", networks.features_numpy(networks.images()), w[:, 3])
    np.testing.assert_allclose(found.maps, expected, rtol=1e-6, atol=1e-9)
    grad = gradcam.explain(model, networks.images(), target=3, relu=False)
    np.testing.assert_allclose(found.maps, 20 * grad.maps, rtol=1e-6, atol=1e-9)
    uneven = gradcam.Split(networks.features_numpy, lambda a: a[:, :, 0].mean(2) @ w)
    with pytest.raises(ValueError, match="differs between positions"):
        gradcam.explain(uneven, networks.images(), target=3, method="cam")


def test_how_far_from_linear_a_head_may_be_for_cam():
    w = np.random.default_rng(0).normal(size=(6, 5))
    largest = np.abs(w[:, 3]).max()
    position = np.zeros((4, 5))
    position[1, 2] = 1

    def cam(off, **options):
        # of the largest gradient, w / 20, the first channel has the share `off` more at one place
        bump = np.zeros((6, 1, 1))
        bump[0] = off * largest / 20

        def head(a):
            return a.mean((2, 3)) @ w + (bump * position * a).sum((1, 2, 3))[:, None]

        model = gradcam.Split(networks.features_numpy, head)
        return gradcam.explain(model, networks.images(), target=3, method="cam", **options)

    assert cam(0.0008).maps.any()
    with pytest.raises(ValueError, match="differs between positions"):
        cam(0.0013)
    assert cam(0.1, tolerance=0.2).maps.any()
    with pytest.raises(ValueError, match="differs between positions"):
        cam(0.1, tolerance=0.05)


def test_score_cams_channels_are_those_of_largest_variance(some_case: Case):
    case = some_case
    model, inputs = case.model, case.inputs()
    all_of_them = gradcam.explain(model, inputs, case.second, 1, "score-cam").numpy()
    six = gradcam.explain(model, inputs, case.second, 1, "score-cam", channels=6).numpy()
    np.testing.assert_allclose(six.maps, all_of_them.maps, rtol=1e-9)
    one = gradcam.explain(model, inputs, case.second, 1, "score-cam", channels=1).numpy()
    features = networks.features_numpy(networks.images())
    strongest = features.reshape(3, 6, -1).var(2).argmax(1)
    np.testing.assert_allclose(one.maps, features[np.arange(3), strongest], rtol=1e-9)


def test_score_cam_is_the_papers_loop():
    case = networks.case("numpy")
    images, features = networks.images(), networks.features_numpy(networks.images())
    maps = np.zeros((3, 4, 5))
    for n in range(3):
        scores = []
        for k in range(6):
            up = gradcam.maps.resize(features[n, k], (8, 10))
            mask = (up - up.min()) / (up.max() - up.min())
            scores.append(
                networks.head_numpy(networks.features_numpy(images[n : n + 1] * mask))[0, 1]
            )
        weights = np.exp(scores) / np.exp(scores).sum()
        maps[n] = np.maximum(sum(w * a for w, a in zip(weights, features[n], strict=True)), 0)
    found = gradcam.explain(case.model, case.inputs(), target=1, method="score-cam")
    np.testing.assert_allclose(found.maps, maps, rtol=1e-9)


def masked_loop(features, head, images, samples, change_map, change_mask):
    """Score-CAM's maps (N, h, w) from the mean scores of `samples` changed masks of each channel."""
    maps = np.zeros((len(images), *features(images).shape[2:]))
    for n, activations in enumerate(features(images)):
        scores = []
        for k, channel in enumerate(activations):
            total = 0.0
            for i in range(samples):
                up = gradcam.maps.resize(change_map(channel, k, i), images.shape[2:])
                span = up.max() - up.min()
                mask = (up - up.min()) / span if np.ptp(channel) else 0 * up
                total += head(features(images[n : n + 1] * change_mask(mask, i)))[0, 1]
            scores.append(total / samples)
        weights = np.exp(scores) / np.exp(scores).sum()
        maps[n] = np.maximum(np.einsum("k,khw->hw", weights, activations), 0)
    return maps


def some_constant(x):
    """Channels 1 and 4 are constant in all images, and 3 in those whose first pixel is negative."""
    features = networks.features_numpy(x)
    features[:, 1] = 0
    features[:, 4] = 0.5
    features[x[:, 0, 0, 0] < 0, 3] = 0.25
    return features


@pytest.mark.parametrize("accumulate", [False, True])
@pytest.mark.parametrize("features", [networks.features_numpy, some_constant])
def test_is_cam_is_the_papers_loop(features, accumulate):
    shares = [1 / 3, 3 / 3, 6 / 3] if accumulate else [1 / 3, 2 / 3, 3 / 3]
    images = networks.images()
    expected = masked_loop(
        features, networks.head_numpy, images, 3, lambda c, k, i: c, lambda m, i: m * shares[i]
    )
    model = gradcam.Split(features, networks.head_numpy)
    found = gradcam.explain(
        model, images, target=1, method="is-cam", samples=3, accumulate=accumulate, batch=4
    )
    np.testing.assert_allclose(found.maps, expected, rtol=1e-9)


@pytest.mark.parametrize("features", [networks.features_numpy, some_constant])
def test_ss_cam_is_the_loop_over_noisy_maps_whose_noise_goes_by_their_range(features):
    images = networks.images()

    def noisy(channel, k, i):
        draw = np.random.default_rng((7, 2 * k + i)).standard_normal(channel.shape)
        return channel + draw * 0.3 * np.ptp(channel)

    expected = masked_loop(features, networks.head_numpy, images, 2, noisy, lambda m, i: m)
    model = gradcam.Split(features, networks.head_numpy)
    for batch in (1, 5, 32):
        found = gradcam.explain(
            model, images, target=1, method="ss-cam", samples=2, noise=0.3, seed=7, batch=batch
        )
        np.testing.assert_allclose(found.maps, expected, rtol=1e-9)


def test_the_mask_of_a_constant_channel_hides_all_of_the_input():
    images = networks.images()
    expected = masked_loop(
        some_constant, networks.head_numpy, images, 1, lambda c, k, i: c, lambda m, i: m
    )
    model = gradcam.Split(some_constant, networks.head_numpy)
    found = gradcam.explain(model, images, target=1, method="score-cam", batch=4)
    np.testing.assert_allclose(found.maps, expected, rtol=1e-9)


@pytest.mark.parametrize("samples", [1, 2])
def test_of_all_constant_channels_only_one_is_run(samples):
    def passes(constant):
        calls = []

        def features(x):
            calls.append(len(x))
            features = networks.features_numpy(x)
            features[:, constant] = np.arange(len(constant))[:, None, None]
            return features

        model = gradcam.Split(features, networks.head_numpy)
        options = {"method": "is-cam", "samples": samples, "batch": 1}
        gradcam.explain(model, networks.images(), target=1, **options)
        return len(calls)

    assert passes([]) == passes([1])  # six channels, or five and the constant one
    assert passes([1]) - passes([1, 2, 4]) == 2 * samples


def test_noise_and_growing_masks_end_in_score_cam(some_case: Case):
    case = some_case
    model, inputs = case.model, case.inputs()
    expected = gradcam.explain(model, inputs, case.second, 1, "score-cam").numpy().maps
    still = gradcam.explain(model, inputs, case.second, 1, "ss-cam", noise=0.0, samples=2).numpy()
    np.testing.assert_allclose(still.maps, expected, rtol=1e-9)
    once = gradcam.explain(model, inputs, case.second, 1, "is-cam", samples=1).numpy()
    np.testing.assert_allclose(once.maps, expected, rtol=1e-9)
    noisy = gradcam.explain(model, inputs, case.second, 1, "ss-cam", samples=2, noise=0.5).numpy()
    assert not np.allclose(noisy.maps, expected, rtol=1e-6)


def test_is_cam_can_accumulate_its_masks():
    """Shares 1/2 and 3/2 have the mean 1, with which a linear model scores the mask itself."""
    x = np.random.default_rng(0).random((2, 3, 4, 5))
    model = gradcam.Split(lambda x: x, lambda a: a.sum((2, 3)))

    def maps(method, **options):
        return gradcam.explain(model, x, target=1, method=method, **options).maps

    np.testing.assert_allclose(
        maps("is-cam", samples=2, accumulate=True), maps("score-cam"), rtol=1e-12
    )
    assert not np.allclose(maps("is-cam", samples=2), maps("score-cam"), rtol=1e-3)


def test_without_noise_smooth_grad_cam_pp_is_grad_cam_pp(some_case: Case):
    case = some_case
    expected = gradcam.explain(case.model, case.inputs(), case.second, 1, "grad-cam++").numpy()
    found = gradcam.explain(
        case.model, case.inputs(), case.second, 1, "smooth-grad-cam++", noise=0.0, samples=3
    ).numpy()
    np.testing.assert_allclose(found.maps, expected.maps, rtol=1e-7)
    one, two = (
        gradcam.explain(case.model, case.inputs(), case.second, 1, "smooth-grad-cam++", seed=seed)
        .numpy()
        .maps
        for seed in (0, 1)
    )
    assert not np.allclose(one, two)


@pytest.mark.parametrize("method", ["random-cam", "smooth-grad-cam++", "ss-cam"])
def test_one_samples_noise_does_not_depend_on_the_others(some_case: Case, method):
    case = some_case
    whole = gradcam.explain(case.model, case.inputs(), case.second, 1, method).numpy()
    alone = gradcam.explain(case.model, case.inputs()[2:], case.second, 1, method).numpy()
    np.testing.assert_allclose(alone.maps[0], whole.maps[2], rtol=1e-6, atol=1e-12)


# ------------------------------------------------------------------------------------------ counts,
# in torch


class Counted:
    """A torch network whose layers count their calls, sample by sample."""

    def __init__(self):
        torch = pytest.importorskip("torch")
        self.model = networks.torch_network()
        self.calls = {"conv1": 0, "linear": 0}
        for name in self.calls:
            self.model.get_submodule(name).register_forward_hook(
                lambda m, i, o, name=name: self.calls.__setitem__(name, self.calls[name] + 1)
            )
        self.inputs = torch.from_numpy(networks.images())


def test_ablation_runs_the_body_once():
    counted = Counted()
    gradcam.explain(counted.model, counted.inputs, "second", 1, "ablation-cam", batch=2)
    # for the activations and the score, for the tape of the head, and for the tape's proof
    assert counted.calls["conv1"] == 3
    fine = Counted()
    gradcam.explain(fine.model, fine.inputs, "second", 1, "ablation-cam", batch=1)
    assert fine.calls == counted.calls  # whatever the number of batches: six channels, one by one


@pytest.mark.filterwarnings("ignore::gradcam.BlankMapWarning")
def test_all_gradient_methods_take_one_forward_and_one_backward_pass():
    torch = pytest.importorskip("torch")
    counted, backward = Counted(), []
    names = [entry.name for entry in TABLE if entry.needs in ("gradients", "activations")]
    original = torch.autograd.grad
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(
            torch.autograd, "grad", lambda *a, **k: (backward.append(1), original(*a, **k))[1]
        )
        found = gradcam.compare(counted.model, counted.inputs, "second", 1, methods=names)
    assert list(found) == names
    assert counted.calls == {"conv1": 1, "linear": 1}
    assert len(backward) == 1


def test_eigen_cam_runs_no_backward_pass():
    torch = pytest.importorskip("torch")
    saved = []
    counted = Counted()
    with torch.autograd.graph.saved_tensors_hooks(
        lambda t: (saved.append(t.nbytes), t)[1], lambda t: t
    ):
        gradcam.explain(counted.model, counted.inputs, "second", 1, "eigen-cam")
    assert not saved
    assert counted.calls["conv1"] == 1


def test_compare_takes_methods_of_all_kinds(some_case: Case):
    case = some_case
    names = ["grad-cam", "ablation-cam", "eigen-cam", "score-cam"]
    found = gradcam.compare(case.model, case.inputs(), case.second, 1, methods=names)
    assert list(found) == names
    for name in names:
        alone = gradcam.explain(case.model, case.inputs(), case.second, 1, name).numpy()
        np.testing.assert_allclose(to_numpy(found[name].maps), alone.maps, rtol=1e-6, atol=1e-9)


def test_the_tape_falls_back_where_it_cannot_be_trusted():
    torch = pytest.importorskip("torch")

    class Branching(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.features = torch.nn.Conv2d(3, 4, 3)

        def forward(self, x):
            a = self.features(x)
            if a.mean().item() > 1:  # a branch on the very values that are changed
                return a.mean((2, 3)) * 3
            return a.mean((2, 3)) ** 2

    model, inputs = Branching().double().eval(), torch.from_numpy(networks.images())
    score = scorer(backends.adapt(model, inputs), inputs, "features", targets.as_target(1))
    activations = backends.adapt(model, inputs).capture(inputs, ("features",), None).activations[0]
    variants = torch.stack([activations * 0 + 5, activations * 0 + 0.5])
    np.testing.assert_allclose(score(variants).numpy(), [[15.0] * 3, [0.25] * 3])


def test_the_tape_knows_skips_and_in_place_operations():
    torch = pytest.importorskip("torch")

    class Skips(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.stem = torch.nn.Conv2d(3, 4, 3, padding=1)
            self.features = torch.nn.Conv2d(4, 4, 3, padding=1)
            self.relu = torch.nn.ReLU(inplace=True)

        def forward(self, x):
            y = self.stem(x)
            z = self.relu(self.features(y))
            z += y
            return z.view(len(z), 4, -1).mean(-1)

    torch.manual_seed(0)
    model, inputs = Skips().double().eval(), torch.from_numpy(networks.images())
    tapped = backends.adapt(model, inputs)
    activations = tapped.capture(inputs, ("features",), None).activations[0]
    variants = torch.stack([activations, activations * 0, -activations])
    kept = variants.clone()
    with torch.no_grad():
        found = scorer(tapped, inputs, "features", targets.as_target(1))(variants)
        expected = torch.stack(
            [tapped.replay(inputs, ("features",), (one,))[:, 1] for one in variants]
        )
    np.testing.assert_allclose(found.numpy(), expected.numpy(), rtol=1e-12)
    assert torch.equal(variants, kept)


HEADS = {
    "mean": (lambda a: a.mean((2, 3)) ** 3, True),
    "kept": (lambda a: a.mean((2, 3), keepdim=True)[:, :, 0, 0] + 1, True),
    "pooled": (lambda a: a.sum((2, 3)) / 7, None),  # a sum is what JAX sees of a mean
    "one axis": (lambda a: a.mean(3).amax(2), False),
    "twice": (lambda a: a.mean((2, 3)) + a.amax((2, 3)), False),
    "skip": (lambda a: a.mean((2, 3)) * a.detach()[:, :, 0, 0], False),
    "samples": (lambda a: a.mean((2, 3)) - a.mean((0, 2, 3)), False),
}
"""Heads of a layer (N, C, H, W), and whether all that they take of it is its mean over space."""


@pytest.mark.parametrize("head", HEADS)
def test_a_head_that_takes_a_mean_is_replayed_from_the_mean(head):
    torch = pytest.importorskip("torch")
    function, averages = HEADS[head]
    model, x = (
        gradcam.Split(torch.nn.Conv2d(3, 4, 3).double().eval(), function),
        torch.from_numpy(networks.images()),
    )
    score = scorer(backends.adapt(model, x), x, "features", targets.as_target(1))
    activations = backends.adapt(model, x).capture(x, ("features",), None).activations[0].detach()
    variants = torch.stack([activations, activations * 0.5, -activations])
    if not averages:
        assert score.averaged is None or score.axes != (2, 3)
        return
    assert score.axes == (2, 3)
    torch.testing.assert_close(score.averaged(variants.mean((3, 4), keepdim=True)), score(variants))


@pytest.mark.parametrize("head", ["mean", "sum", "kept", "one axis", "twice", "all of it"])
def test_a_head_that_takes_a_mean_is_replayed_from_the_mean_in_jax(head):
    jax = pytest.importorskip("jax")
    jnp = jax.numpy
    heads = {
        "mean": lambda a: a.mean((1, 2)) ** 3,
        "sum": lambda a: a.sum((1, 2)) / 7,
        "kept": lambda a: jnp.squeeze(a.mean((1, 2), keepdims=True), (1, 2)) + 1,
        "one axis": lambda a: a.mean(2).max(1),
        "twice": lambda a: a.mean((1, 2)) + a.max((1, 2)),
        "all of it": lambda a: a.mean((0, 1, 2))[None] + jnp.zeros((3, 3)),
    }
    x = jnp.asarray(networks.images().transpose(0, 2, 3, 1), jnp.float32)
    model = gradcam.Split(lambda x: jnp.tanh(x * 2), heads[head])
    tapped = backends.adapt(model, x)
    score = scorer(tapped, x, "features", targets.as_target(1))
    assert (score.axes == (1, 2)) == (head in ("mean", "sum", "kept"))
    if score.axes == (1, 2):
        variants = jnp.stack([jnp.tanh(x * 2), x, -x])
        found = score.averaged(variants.mean((2, 3), keepdims=True))
        np.testing.assert_allclose(found, score(variants), rtol=2e-5, atol=1e-6)


def test_ablation_holds_no_variant_of_the_layer_where_the_head_takes_its_mean():
    torch = pytest.importorskip("torch")
    from torch.utils._python_dispatch import TorchDispatchMode

    largest = [0]

    class Largest(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            found = func(*args, **(kwargs or {}))
            largest[0] = max(
                [largest[0], *(t.numel() for t in torch.utils._pytree.tree_leaves(found))]
            )
            return found

    torch.manual_seed(0)
    model = torch.nn.Sequential(
        torch.nn.Conv2d(3, 40, 3),
        torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(),
        torch.nn.Linear(40, 5),
    ).eval()
    x = torch.from_numpy(networks.images(1, (32, 32))).float()
    with Largest():
        gradcam.explain(model, x, "0", 1, "ablation-cam", relu=False)
    assert largest[0] == 40 * 30 * 30  # the layer itself; 40 variants would be 40 times as many


# ---------------------------------------------------------------------------------------- full-grad


def relu_network(name):
    """conv with bias, batch norm, ReLU, max pooling, conv, ReLU, mean, linear with bias: linear
    piece by piece.
    """
    if name == "torch":
        torch = pytest.importorskip("torch")
        torch.manual_seed(0)
        model = torch.nn.Sequential(
            torch.nn.Conv2d(3, 4, 3, padding=1), torch.nn.BatchNorm2d(4), torch.nn.ReLU(), torch.nn.MaxPool2d(2),
            torch.nn.Conv2d(4, 6, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten(),
            torch.nn.Linear(6, 5),
        ).double()  # fmt: skip
        for _ in range(3):
            model(
                torch.randn(8, 3, 8, 10, dtype=torch.float64) * 2 + 1
            )  # running means that are not 0
        torch.nn.init.normal_(model[1].bias)
        return model.eval(), torch.from_numpy(networks.images())
    import jax
    import jax.numpy as jnp

    x = jnp.asarray(networks.images().transpose(0, 2, 3, 1))
    if name == "linen":
        import flax.linen as nn

        class Net(nn.Module):
            @nn.compact
            def __call__(self, x):
                y = nn.Conv(
                    4, (3, 3), param_dtype=jnp.float64, bias_init=nn.initializers.normal(1)
                )(x)
                y = nn.relu(nn.BatchNorm(use_running_average=True, param_dtype=jnp.float64)(y))
                y = nn.max_pool(y, (2, 2), (2, 2))
                y = nn.relu(
                    nn.Conv(
                        6, (3, 3), param_dtype=jnp.float64, bias_init=nn.initializers.normal(1)
                    )(y)
                )
                return nn.Dense(5, param_dtype=jnp.float64, bias_init=nn.initializers.normal(1))(
                    y.mean((1, 2))
                )

        variables = Net().init(jax.random.key(0), x)
        variables["batch_stats"]["BatchNorm_0"]["mean"] = jnp.arange(4.0)
        return (Net(), variables), x
    from flax import nnx

    class Model(nnx.Module):
        def __init__(self):
            rngs = nnx.Rngs(0)
            self.conv = nnx.Conv(3, 4, (3, 3), param_dtype=jnp.float64, rngs=rngs)
            self.conv.bias[...] = jnp.arange(4.0)
            self.norm = nnx.BatchNorm(4, param_dtype=jnp.float64, rngs=rngs)
            self.norm.mean[...] = jnp.arange(4, dtype=jnp.float32)
            self.norm.bias[...] = jnp.arange(4.0) - 2
            self.linear = nnx.Linear(4, 5, param_dtype=jnp.float64, rngs=rngs)
            self.linear.bias[...] = jnp.arange(5.0)

        def __call__(self, x):
            return self.linear(
                nnx.max_pool(nnx.relu(self.norm(self.conv(x))), (2, 2), (2, 2)).mean((1, 2))
            )

    return Model(), x


@pytest.mark.filterwarnings("ignore::gradcam.GuessedAxesWarning")  # 4 x 5 positions tell little
@pytest.mark.parametrize("target", [1, [[0, 4]]])
@pytest.mark.parametrize("name", ["torch", "linen", "nnx"])
def test_the_input_and_all_biases_sum_to_the_score(name, target):
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        model, inputs = relu_network(name)
        prepared = prepare(model, inputs, INPUT, target)
        run = ModelRun(prepared, INPUT, batch=8, tracker=lambda steps, doing: steps)
        capture, found = contributions(run)
        scores = to_numpy(capture.scores)
        total = sum(to_numpy(product).reshape(*scores.shape, -1).sum(-1) for _, _, product in found)
        np.testing.assert_allclose(total, scores, rtol=1e-10)
        kinds = {path: float(np.abs(to_numpy(product)).max()) for path, _, product in found}
        assert all(size > 0 for path, size in kinds.items()), kinds  # each of them counts
        explained = gradcam.explain(model, inputs, target=target, method="full-grad").numpy()
        assert explained.maps.shape == (*scores.shape, 8, 10)


def test_full_grad_says_what_it_lacks():
    case = networks.case("numpy")
    with pytest.raises(
        TypeError, match="full-grad needs a network's biases, which NumpyModel does not give"
    ):
        gradcam.explain(case.model, case.inputs(), method="full-grad")


class Reshaped:
    """A network whose first convolution sees the input in another shape."""

    def __new__(cls, *sample):
        nn = pytest.importorskip("torch").nn
        return nn.Sequential(
            nn.Flatten(), nn.Unflatten(1, sample), nn.Conv2d(sample[0], 4, 3), nn.ReLU(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 3),
        ).eval()  # fmt: skip


def test_full_grad_needs_an_input_with_the_space_of_its_layers():
    torch = pytest.importorskip("torch")
    with pytest.raises(ValueError, match="full-grad needs an input with channels and space"):
        gradcam.explain(Reshaped(1, 8, 8), torch.randn(2, 64), "2", 1, "full-grad")
    for samples in (2, 6):  # six have as many entries as the layer has rows
        x = torch.randn(samples, 8, 8)
        with pytest.raises(ValueError, match=r"as many spatial axes as its layers, .*'2' \(6, 6\)"):
            gradcam.explain(Reshaped(1, 8, 8), x, "2", 1, "full-grad")


# --------------------------------------------------------------------------------- their parameters


def test_a_methods_own_parameters(some_case: Case):
    case = some_case
    plain = gradcam.explain(case.model, case.inputs(), case.second, 1, "layer-cam").numpy()
    tanh = gradcam.explain(case.model, case.inputs(), case.second, 1, "layer-cam", gamma=2).numpy()
    peak = plain.maps.max((1, 2), keepdims=True)
    np.testing.assert_allclose(tanh.maps, np.tanh(2 * plain.maps / peak), rtol=1e-7)


def test_parameters_that_a_method_does_not_have():
    case = networks.case("numpy")
    with pytest.raises(
        TypeError,
        match=r"`gama` is no option of gradcam.explain and no parameter of layer-cam; its own are g",
    ):
        gradcam.explain(case.model, case.inputs(), method="layer-cam", gama=2)
    for call, name in (
        (gradcam.explain, "explain"),
        (gradcam.compare, "compare"),
        (gradcam.Explainer, "Explainer"),
        (gradcam.guided_grad_cam, "guided_grad_cam"),
    ):
        says = rf"`reluu` is no option of gradcam\.{name}[ ;].*did you mean `relu`\?"
        torch_case = networks.case("torch") if call is gradcam.guided_grad_cam else case
        inputs = () if call is gradcam.Explainer else (torch_case.inputs(),)
        with pytest.raises(TypeError, match=says):
            call(torch_case.model, *inputs, reluu=True)
    with pytest.raises(TypeError, match=r'as in methods=\[\("layer-cam", {"steps": ...}\)\]'):
        gradcam.compare(case.model, case.inputs(), steps=3)
    with pytest.raises(TypeError, match="no parameter of grad-cam; it has none of its own"):
        gradcam.explain(case.model, case.inputs(), steps=3)
    with pytest.raises(ValueError, match="`steps` must be at least 1"):
        gradcam.explain(case.model, case.inputs(), method="integrated-grad-cam", steps=0)
    with pytest.raises(ValueError, match="`channels` must be at least 1"):
        gradcam.explain(case.model, case.inputs(), method="score-cam", channels=0)
    with pytest.raises(ValueError, match="`batch` must be at least 1"):
        gradcam.explain(case.model, case.inputs(), method="score-cam", batch=0)


def test_a_progress_bar_changes_nothing(capsys):
    pytest.importorskip("rich")
    case = networks.case("numpy")
    shown = gradcam.explain(
        case.model, case.inputs(), target=1, method="ablation-cam", progress=True, batch=2
    )
    hidden = gradcam.explain(case.model, case.inputs(), target=1, method="ablation-cam")
    np.testing.assert_array_equal(shown.maps, hidden.maps)


def test_every_entry_of_the_table_can_run():
    for entry in TABLE:
        assert (entry.procedure is not None) == (
            entry.needs not in ("gradients", "activations", "curvatures")
        ), entry.name


def test_score_cam_needs_an_input_with_space():
    torch = pytest.importorskip("torch")
    model = torch.nn.Sequential(
        torch.nn.Embedding(9, 4), torch.nn.Conv1d(7, 5, 1), torch.nn.AdaptiveAvgPool1d(1)
    )
    with pytest.raises(ValueError, match="shows the model its input through the maps"):
        gradcam.explain(
            torch.nn.Sequential(model, torch.nn.Flatten()).eval(),
            torch.zeros(2, 7, dtype=torch.long),
            "0.1",
            1,
            "score-cam",
        )
