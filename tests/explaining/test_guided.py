"""Guided backpropagation, the deconvnet and Guided Grad-CAM: by hand, in every spelling, in both
frameworks.
"""

from __future__ import annotations

import functools
import threading

import networks
import numpy as np
import pytest

import gradcam
from gradcam._arrays import to_numpy
from gradcam.explaining.guided import Guided

RULES = ("guided", "deconvnet")


@pytest.fixture
def torch():
    return pytest.importorskip("torch")


@pytest.fixture
def jax():
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        yield jax


@pytest.fixture(autouse=True)
def skips_numpy(request):
    """A head that is a black box has no ReLUs to guide."""
    if "case" in request.fixturenames and request.getfixturevalue("case").name == "numpy":
        pytest.skip("NumPy has no derivatives")


def torch_network(act, w1, w2, second=None):
    """act(x W1) W2, on vectors (N, C) or on tokens (N, T, C), whose scores are averaged."""
    import torch

    class Network(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.w1 = torch.nn.Parameter(torch.from_numpy(np.asarray(w1, float)))
            self.w2 = torch.nn.Parameter(torch.from_numpy(np.asarray(w2, float)))

        def forward(self, x):
            y = torch.nn.functional.linear(x, self.w1.T, torch.zeros(len(self.w1.T)).double())
            y = (second or (lambda y: y))(act(y)) @ self.w2
            return y if y.ndim == 2 else y.mean(1)

    return Network().eval()


def jax_network(act, w1, w2, second=None):
    import jax.numpy as jnp

    def network(w1, w2, x):
        y = (second or (lambda y: y))(act(x @ w1)) @ w2
        return y if y.ndim == 2 else y.mean(1)

    return functools.partial(
        network, jnp.asarray(np.asarray(w1, float)), jnp.asarray(np.asarray(w2, float))
    )


# ------------------------------------------------------------------------------------------ by hand

# h1 = x1 + x2, h2 = x1 - x2, h3 = 2 x2, and y = 2 relu(h1) + 3 relu(h2) - relu(h3); at x = (1, 2):
# h = (3, -1, 4), y = 2*3 + 3*0 - 4 = 2, and R_out = dy/drelu(h) = (2, 3, -1)
W1, W2, X = [[1, 1, 0], [1, -1, 2]], [[2], [3], [-1]], [[1.0, 2.0]]
BY_HAND = {
    # [h > 0] and [R > 0]: R_in = (2, 0, 0), so dx = 2 (1, 1)
    "guided": [[2.0, 2.0]],
    # [R > 0] alone: R_in = (2, 3, 0), so dx = 2 (1, 1) + 3 (1, -1)
    "deconvnet": [[5.0, -1.0]],
}  # the gradient has R_in = (2, 0, -1), so dx = 2 (1, 1) - (0, 2) = (2, 0)


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_by_hand_in_torch(torch, rule):
    found = gradcam.guided_backprop(
        torch_network(torch.relu, W1, W2), torch.tensor(X).double(), rule=rule
    )
    assert isinstance(found, Guided)
    np.testing.assert_allclose(found.gradients, BY_HAND[rule])
    np.testing.assert_allclose(found.scores, [2])
    np.testing.assert_array_equal(found.target, [0])


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_by_hand_in_jax(jax, rule):
    found = gradcam.guided_backprop(
        jax_network(jax.nn.relu, W1, W2), jax.numpy.asarray(X), rule=rule
    ).numpy()
    np.testing.assert_allclose(found.gradients, BY_HAND[rule])
    np.testing.assert_allclose(found.scores, [2])
    np.testing.assert_array_equal(found.target, [0])


# f = SiLU: f'(h) = s(h) (1 + h (1 - s(h))), so f'(3) = 0.952574 (1 + 3 * 0.047426) = 1.088104; R =
# (2, 3, -1) again. guided: only h1 has h > 0 and R > 0: R_in = (2 f'(3), 0, 0); deconvnet: R_in =
# (2, 3, 0), as for a ReLU
SMOOTH_BY_HAND = {"guided": [[2.176208, 2.176208]], "deconvnet": [[5.0, -1.0]]}


@pytest.mark.parametrize("rule", RULES)
def test_a_smooth_activation_is_guided_by_hand_in_torch(torch, rule):
    model = torch_network(torch.nn.SiLU(), W1, W2)
    found = gradcam.guided_backprop(model, torch.tensor(X).double(), rule=rule, smooth="guided")
    np.testing.assert_allclose(found.gradients, SMOOTH_BY_HAND[rule], rtol=1e-6)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("spelling", ["jax.nn.silu", "x * sigmoid(x)"])
def test_a_smooth_activation_is_guided_by_hand_in_jax(jax, rule, spelling):
    act = jax.nn.silu if spelling == "jax.nn.silu" else lambda x: x * jax.nn.sigmoid(x)
    found = gradcam.guided_backprop(
        jax_network(act, W1, W2), jax.numpy.asarray(X), rule=rule, smooth="guided"
    )
    np.testing.assert_allclose(found.gradients, SMOOTH_BY_HAND[rule], rtol=1e-6)


# x = (1, 2, -1, 3) as one row; features = relu of the means of pairs: A = (1.5, 1). The score is
# twice A's mean, so dy/dA = (1, 1), alpha = 1 and L = (1.5, 1), on 4 pixels (1.5, 1.375, 1.125, 1)
# with half-pixel centres. Guided backpropagation has R = 1 at both ReLUs, of which each input of a
# pair gets 1/2.
PRODUCT = [[[[0.75, 0.6875, 0.5625, 0.5]]]]


def test_guided_grad_cam_by_hand_in_torch(torch):
    split = gradcam.Split(
        lambda x: torch.nn.functional.avg_pool2d(x, (1, 2)).relu(), lambda a: 2 * a.mean((2, 3))
    )
    x = torch.tensor([[[[1.0, 2, -1, 3]]]])
    np.testing.assert_allclose(gradcam.guided_grad_cam(split, x).gradients, PRODUCT)
    twice = gradcam.guided_grad_cam(split, x, target=[[0, 0]])
    np.testing.assert_allclose(twice.gradients, [PRODUCT * 2])
    assert tuple(twice.scores.shape) == (1, 2)


def test_guided_grad_cam_by_hand_in_jax(jax):
    split = gradcam.Split(
        lambda x: jax.nn.relu(x.reshape(1, 1, 2, 2, 1).mean(3)), lambda a: 2 * a.mean((1, 2))
    )
    x = jax.numpy.asarray([1.0, 2, -1, 3]).reshape(1, 1, 4, 1)  # channels last
    found = gradcam.guided_grad_cam(split, x)
    np.testing.assert_allclose(found.gradients, np.moveaxis(PRODUCT, 1, -1))


# ----------------------------------------------------------------------------------- every spelling

TORCH = {
    "F.relu": lambda t, x: t.nn.functional.relu(x),
    "F.relu, in place": lambda t, x: t.nn.functional.relu(x, inplace=True),
    "F.relu_": lambda t, x: t.nn.functional.relu_(x),
    "nn.ReLU, in place": lambda t, x: t.nn.ReLU(inplace=True)(x),
    "torch.relu": lambda t, x: t.relu(x),
    "torch.relu_": lambda t, x: t.relu_(x),
    "Tensor.relu": lambda t, x: x.relu(),
    "Tensor.relu_": lambda t, x: x.relu_(),
    "aten.relu": lambda t, x: t.ops.aten.relu.default(x),
    "hardtanh": lambda t, x: t.nn.functional.hardtanh(x, 0, 1e9),
    "hardtanh, in place": lambda t, x: t.nn.functional.hardtanh(x, 0.0, 1e9, inplace=True),
    "hardtanh_": lambda t, x: t.nn.functional.hardtanh_(x, 0.0, 1e9),
    "clamp": lambda t, x: x.clamp(min=0),
    "torch.clamp": lambda t, x: t.clamp(x, 0),
    "clamp_": lambda t, x: x.clamp_(min=0),
    "clamp to a tensor": lambda t, x: x.clamp(min=t.zeros(())),
    "clip_": lambda t, x: x.clip_(0.0, None),
    "clamp_min": lambda t, x: x.clamp_min(0),
    "clamp_min_": lambda t, x: t.clamp_min_(x, 0),
    "maximum": lambda t, x: t.maximum(x, t.zeros(()).to(x)),
    "maximum, zeros first": lambda t, x: t.maximum(t.zeros_like(x), x),
    "torch.max": lambda t, x: t.max(x, t.zeros_like(x)),
    "threshold": lambda t, x: t.nn.functional.threshold(x, 0, 0),
    "threshold, in place": lambda t, x: t.nn.functional.threshold(x, 0, 0, inplace=True),
    "threshold_": lambda t, x: t.nn.functional.threshold_(x, 0, 0),
    "where": lambda t, x: t.where(x > 0, x, 0.0),
    "where, the other way": lambda t, x: t.where(x <= 0, t.zeros_like(x), x),
    "Tensor.where": lambda t, x: x.where(x >= 0, t.zeros_like(x)),
    "leaky without a slope": lambda t, x: t.nn.functional.leaky_relu(x, 0.0),
    "vmap": lambda t, x: t.vmap(t.relu)(x),
    "checkpoint": lambda t, x: t.utils.checkpoint.checkpoint(t.relu, x, use_reentrant=False),
    "in place on halves": lambda t, x: [x[..., :3].relu_(), x[..., 3:].relu_(), x][2],
}
TORCH_6 = {
    "nn.ReLU6": lambda t, x: t.nn.ReLU6()(x),
    "nn.ReLU6, in place": lambda t, x: t.nn.ReLU6(inplace=True)(x),
    "F.relu6": lambda t, x: t.nn.functional.relu6(x),
    "F.relu6, in place": lambda t, x: t.nn.functional.relu6(x, inplace=True),
    "clamp": lambda t, x: x.clamp(0, 6),
    "clamp_": lambda t, x: x.clamp_(min=0, max=6),
    "hardtanh": lambda t, x: t.nn.functional.hardtanh(x, 0, 6),
}


def arrays(scale=1.0):
    """Inputs (N, T, C), one of whose tokens is 0, and the weights of a network."""
    random = np.random.default_rng(3)
    x, w1, w2 = (random.normal(size=shape) for shape in ((2, 5, 4), (4, 6), (6, 3)))
    x[0, 0] = 0  # where max(x, 0) has no one derivative
    return x * scale, w1, w2


def in_torch(torch, act, rule, scale=1.0, **options):
    """Both ReLUs in this spelling: the first on a view, which is what `linear` makes of tokens."""
    x, w1, w2 = arrays(scale)
    model = torch_network(functools.partial(act, torch), w1, w2, lambda y: act(torch, y - 0.1))
    return (
        gradcam.guided_backprop(model, torch.from_numpy(x), 1, rule=rule, **options)
        .numpy()
        .gradients
    )


@functools.cache
def reference(rule, scale=1.0):
    """`jax.nn.relu`, or `jax.nn.relu6` on larger inputs."""
    jax = pytest.importorskip("jax")
    return in_jax(jax, lambda jax, x: (jax.nn.relu if scale == 1 else jax.nn.relu6)(x), rule, scale)


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("spelling", TORCH)
def test_every_spelling_in_torch_is_nn_relu(torch, rule, spelling):
    expected = in_torch(torch, lambda t, x: t.nn.ReLU()(x), rule)
    np.testing.assert_allclose(
        in_torch(torch, TORCH[spelling], rule), expected, rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("spelling", TORCH_6)
def test_every_spelling_of_relu6_in_torch_is_that_of_jax(torch, rule, spelling):
    found = in_torch(torch, TORCH_6[spelling], rule, 5)
    np.testing.assert_allclose(found, reference(rule, 5), rtol=1e-9, atol=1e-15)
    # an upper end that a gradient is stopped by, but no deconvnet
    assert (np.abs(found - in_torch(torch, TORCH["F.relu"], rule, 5)).max() > 0) == (
        rule == "guided"
    )


@pytest.mark.parametrize("rule", RULES)
def test_torch_and_jax_agree(torch, rule):
    np.testing.assert_allclose(
        in_torch(torch, TORCH["F.relu"], rule), reference(rule), rtol=1e-9, atol=1e-15
    )


def own_vjp(jax, x):
    @jax.custom_vjp
    def relu(x):
        return jax.numpy.maximum(x, 0)

    relu.defvjp(lambda x: (relu(x), x), lambda x, g: (g * (x > 0),))
    return relu(x)


def own_jvp(jax, x):
    @jax.custom_jvp
    def relu(x):
        return jax.numpy.maximum(x, 0)

    relu.defjvp(lambda x, t: (relu(x[0]), t[0] * (x[0] > 0)))
    return relu(x)


ZERO = np.zeros(())
JAX = {
    "maximum": lambda jax, x: jax.numpy.maximum(x, 0),
    "maximum, zero first": lambda jax, x: jax.numpy.maximum(0.0, x),
    "maximum of zeros": lambda jax, x: jax.numpy.maximum(x, jax.numpy.zeros_like(x)),
    "maximum of a constant": lambda jax, x: jax.numpy.maximum(x, ZERO),
    "lax.max": lambda jax, x: jax.lax.max(x, 0.0),
    "where": lambda jax, x: jax.numpy.where(x > 0, x, 0),
    "where, the other way": lambda jax, x: jax.numpy.where(x <= 0, jax.numpy.zeros_like(x), x),
    "lax.select": lambda jax, x: jax.lax.select(x >= 0, x, jax.numpy.zeros_like(x)),
    "clip": lambda jax, x: jax.numpy.clip(x, 0),
    "clip, both ends": lambda jax, x: jax.numpy.clip(x, 0, 1e9),
    "clamp": lambda jax, x: jax.lax.clamp(0.0, x, 1e9),
    "jit": lambda jax, x: jax.jit(jax.nn.relu)(x),
    "remat": lambda jax, x: jax.checkpoint(jax.nn.relu)(x),
    "vmap": lambda jax, x: jax.vmap(jax.vmap(lambda x: jax.numpy.maximum(x, 0)))(x),
    "scan": lambda jax, x: jax.lax.map(jax.nn.relu, x),
    "scan, carried": lambda jax, x: jax.lax.scan(lambda x, _: (jax.nn.relu(x), None), x, length=2)[
        0
    ],
    "fori_loop": lambda jax, x: jax.lax.fori_loop(0, 2, lambda _, x: jax.nn.relu(x), x),
    "cond": lambda jax, x: jax.lax.cond(x.sum() < 1e9, jax.nn.relu, lambda x: x, x),
    "custom_vjp": own_vjp,
    "custom_jvp": own_jvp,
}
JAX_6 = {
    "clip": lambda jax, x: jax.numpy.clip(x, 0, 6),
    "clamp": lambda jax, x: jax.lax.clamp(0.0, x, 6.0),
    "minimum": lambda jax, x: jax.numpy.minimum(jax.numpy.maximum(x, 0), 6),
    "minimum, the end first": lambda jax, x: jax.numpy.minimum(6.0, jax.nn.relu(x)),
}


def in_jax(jax, act, rule, scale=1.0, **options):
    x, w1, w2 = arrays(scale)
    with jax.enable_x64(True):
        model = jax_network(functools.partial(act, jax), w1, w2, lambda y: act(jax, y - 0.1))
        return (
            gradcam.guided_backprop(model, jax.numpy.asarray(x), 1, rule=rule, **options)
            .numpy()
            .gradients
        )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("spelling", JAX)
def test_every_spelling_in_jax_is_jax_nn_relu(jax, rule, spelling):
    np.testing.assert_allclose(
        in_jax(jax, JAX[spelling], rule), reference(rule), rtol=1e-12, atol=1e-15
    )


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("spelling", JAX_6)
def test_every_spelling_of_relu6_in_jax_is_jax_nn_relu6(jax, rule, spelling):
    np.testing.assert_allclose(
        in_jax(jax, JAX_6[spelling], rule, 5), reference(rule, 5), rtol=1e-12, atol=1e-15
    )


def test_a_relu_in_a_block_with_a_derivative_of_its_own_is_guided(jax):
    x, w1, w2 = arrays()

    @jax.custom_vjp
    def block(x):
        return jax.nn.relu(x @ w1)

    block.defvjp(lambda x: (block(x), x), lambda x, g: ((g * (x @ w1 > 0)) @ w1.T,))
    found = gradcam.guided_backprop(
        lambda x: (block(x) @ w2).mean(1), jax.numpy.asarray(x), 1
    ).gradients
    expected = gradcam.guided_backprop(
        jax_network(jax.nn.relu, w1, w2), jax.numpy.asarray(x), 1
    ).gradients
    np.testing.assert_allclose(found, expected, rtol=1e-12)


# ------------------------------------------------------------------------------------ every backend


@functools.cache
def expected(rule, smooth, target):
    """The network of `networks` with the rule at its ReLU (and softplus), as plain autograd has
    it.
    """
    import torch

    def activation(function):
        class Activation(torch.autograd.Function):
            @staticmethod
            def forward(context, x):
                context.save_for_backward(x)
                return function(x)

            @staticmethod
            def backward(context, incoming):
                (x,) = context.saved_tensors
                positive = torch.where(incoming > 0, incoming, 0)
                if rule == "deconvnet":
                    return positive
                with torch.enable_grad():
                    x = x.detach().requires_grad_()
                    (slope,) = torch.autograd.grad(function(x).sum(), x)
                return slope * positive * (x > 0)

        module = torch.nn.Module()
        module.forward = Activation.apply
        return module

    model = networks.torch_network()
    model.first = activation(torch.relu)
    if smooth == "guided":
        model.second = activation(torch.nn.functional.softplus)
    x = torch.from_numpy(networks.images()).requires_grad_()
    return torch.autograd.grad(model(x)[:, target].sum(), x)[0].numpy()


@pytest.mark.parametrize(
    ("rule", "smooth"), [("guided", "plain"), ("deconvnet", "plain"), ("guided", "guided")]
)
def test_the_rule_is_followed_at_every_activation(case, torch, rule, smooth):
    found = gradcam.guided_backprop(case.model, case.inputs(), 2, rule=rule, smooth=smooth)
    assert type(found.gradients) is type(case.inputs())
    np.testing.assert_allclose(
        case.take(to_numpy(found.gradients)), expected(rule, smooth, 2), rtol=1e-9, atol=1e-15
    )


def test_k_targets_are_k_calls(case):
    together = gradcam.guided_backprop(case.model, case.inputs(), [[0, 3], [1, 2], [4, 0]]).numpy()
    assert together.gradients.shape == (3, 2, *case.inputs().shape[1:])
    assert together.scores.shape == together.target.shape == (3, 2)
    for k, target in enumerate([[0, 1, 4], [3, 2, 0]]):
        alone = gradcam.guided_backprop(case.model, case.inputs(), target).numpy()
        np.testing.assert_allclose(together.gradients[:, k], alone.gradients, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(together.scores[:, k], alone.scores)


def test_every_sample_is_by_itself(case):
    whole = gradcam.guided_backprop(case.model, case.inputs(3)).numpy()
    for n in range(3):
        alone = gradcam.guided_backprop(case.model, case.inputs(3)[n : n + 1]).numpy()
        np.testing.assert_allclose(alone.gradients[0], whole.gradients[n], rtol=1e-9, atol=1e-15)
        assert np.abs(alone.gradients).max() > 0


def test_guided_grad_cam_is_the_product(case):
    product = gradcam.guided_grad_cam(case.model, case.inputs(), case.second, [[1, 3]]).numpy()
    raw = gradcam.explain(case.model, case.inputs(), case.second, [[1, 3]]).numpy()
    found = gradcam.guided_backprop(case.model, case.inputs(), [[1, 3]]).numpy()
    up = np.expand_dims(gradcam.maps.resize(raw.maps, (8, 10)), -3)
    np.testing.assert_allclose(
        case.take(product.gradients), case.take(found.gradients) * up, rtol=1e-9, atol=1e-15
    )
    np.testing.assert_allclose(product.scores, found.scores)


def test_guided_grad_cam_takes_options_of_the_explainer(torch):
    case = networks.case("torch")
    found = gradcam.guided_grad_cam(
        case.model, case.inputs(), case.first, 1, method="hires-cam"
    ).gradients
    raw = gradcam.explain(case.model, case.inputs(), case.first, 1, "hires-cam").maps
    expected = gradcam.guided_backprop(case.model, case.inputs(), 1).gradients * raw[:, None]
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)


def test_a_function_target_is_its_class(torch, jax):
    x, w1, w2 = arrays()
    for model, inputs in (
        (torch_network(torch.relu, w1, w2), torch.from_numpy(x)),
        (jax_network(jax.nn.relu, w1, w2), jax.numpy.asarray(x)),
    ):
        by_index = gradcam.guided_backprop(model, inputs, 2).numpy()
        by_function = gradcam.guided_backprop(model, inputs, lambda outputs: outputs[:, 2]).numpy()
        np.testing.assert_allclose(by_function.gradients, by_index.gradients, rtol=1e-9, atol=1e-15)
        assert callable(by_function.target)


def test_without_negative_gradients_it_is_the_gradient(torch):
    # all weights are positive: so is every R, and the plain rule's [x > 0] is all there is
    x, w1, w2 = arrays()
    model = torch_network(torch.relu, np.abs(w1), np.abs(w2), torch.relu)
    leaf = torch.from_numpy(x).requires_grad_()
    (plain,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    found = gradcam.guided_backprop(model, torch.from_numpy(x), 1).gradients
    np.testing.assert_allclose(found, plain, rtol=1e-12)
    assert 0 < (found == 0).double().mean() < 1


# --------------------------------------------------------------------------------- nothing to guide


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("act", ["tanh", "sigmoid"])
def test_a_model_without_relu_is_an_error(torch, jax, rule, act):
    match = rf'no ReLU was found between the input and the score, so that rule="{rule}" would be the plain gradient'
    for smooth in ("plain", "guided"):
        with pytest.raises(ValueError, match=match):
            in_torch(torch, lambda t, x: getattr(t, act)(x), rule, smooth=smooth)
        with pytest.raises(ValueError, match=match):
            in_jax(jax, lambda jax, x: getattr(jax.nn, act)(x), rule, smooth=smooth)


SMOOTH = {
    "GELU": (
        lambda t, x: t.nn.functional.gelu(x),
        lambda jax, x: jax.nn.gelu(x, approximate=False),
    ),
    "GELU, tanh": (lambda t, x: t.nn.GELU("tanh")(x), lambda jax, x: jax.nn.gelu(x)),
    "SiLU": (lambda t, x: t.nn.SiLU(inplace=True)(x), lambda jax, x: jax.nn.silu(x)),
    "Mish": (lambda t, x: t.nn.Mish()(x), lambda jax, x: jax.nn.mish(x)),
    "Softplus": (lambda t, x: t.nn.Softplus()(x), lambda jax, x: jax.nn.softplus(x)),
    "ELU": (lambda t, x: t.nn.functional.elu_(x), lambda jax, x: jax.nn.elu(x)),
    "SELU": (lambda t, x: t.nn.SELU(inplace=True)(x), lambda jax, x: jax.nn.selu(x)),
    "CELU": (lambda t, x: t.nn.CELU(2.0)(x), lambda jax, x: jax.nn.celu(x, 2.0)),
    "LeakyReLU": (
        lambda t, x: t.nn.LeakyReLU(0.1, inplace=True)(x),
        lambda jax, x: jax.nn.leaky_relu(x, 0.1),
    ),
    "Hardswish": (lambda t, x: t.nn.functional.hardswish(x), lambda jax, x: jax.nn.hard_swish(x)),
}


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_activations_alone_are_an_error_until_they_are_chosen(torch, jax, name):
    torch_act, jax_act = SMOOTH[name]
    match = (
        'no ReLU was found .* there: pass smooth="guided" to have their derivative guided as well'
    )
    with pytest.raises(ValueError, match=match):
        in_torch(torch, torch_act, "guided")
    with pytest.raises(ValueError, match=match):
        in_jax(jax, jax_act, "guided")
    found = in_torch(torch, torch_act, "guided", smooth="guided")
    np.testing.assert_allclose(
        found, in_jax(jax, jax_act, "guided", smooth="guided"), rtol=1e-6, atol=1e-9
    )
    assert np.abs(found).max() > 0


@pytest.mark.parametrize("name", SMOOTH)
def test_smooth_activations_beside_relus_pass_their_derivative(torch, jax, name):
    torch_act, jax_act = SMOOTH[name]
    x, w1, w2 = arrays()
    w1, w2 = np.abs(w1), np.abs(w2)
    leaf = torch.from_numpy(x).requires_grad_()
    # behind the ReLU the gradient of these stays positive, so that the rule changes nothing
    model = torch_network(torch.relu, w1, w2, lambda y: torch_act(torch, y.clone()))
    (plain,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    found = gradcam.guided_backprop(model, torch.from_numpy(x), 1).gradients
    np.testing.assert_allclose(found, plain, rtol=1e-9, atol=1e-15)
    model = jax_network(jax.nn.relu, w1, w2, lambda y: jax_act(jax, y))
    found = gradcam.guided_backprop(model, jax.numpy.asarray(x), 1).gradients
    np.testing.assert_allclose(found, plain, rtol=1e-6, atol=1e-9)


def test_the_clamp_of_a_variance_is_no_relu(jax):
    nn = pytest.importorskip("flax.linen")
    x = jax.numpy.asarray(arrays()[0])
    for norm in (nn.LayerNorm(), nn.GroupNorm(2)):
        model = nn.Sequential([nn.Dense(6), norm, nn.tanh, nn.Dense(3), lambda y: y.mean(1)])
        variables = model.init(jax.random.key(0), x)
        with pytest.raises(ValueError, match="no ReLU was found"):
            gradcam.guided_backprop((model, variables), x, 1)


def test_hard_sigmoid_and_log_sigmoid_are_no_relus(jax):
    for act in (jax.nn.hard_sigmoid, jax.nn.log_sigmoid):
        with pytest.raises(ValueError, match="no ReLU was found"):
            in_jax(jax, lambda _, x, act=act: act(x), "guided", smooth="guided")


def test_a_relu_beside_the_way_to_the_input_does_not_count(torch, jax):
    x, w1, _ = arrays()
    with pytest.raises(ValueError, match="no ReLU was found"):
        gradcam.guided_backprop(
            lambda x: (x @ w1).mean(1) + jax.nn.relu(w1).sum(), jax.numpy.asarray(x), 1
        )
    with pytest.raises(ValueError, match="no ReLU was found"):
        gradcam.guided_backprop(
            lambda x: (x @ w1).mean(1) + jax.lax.stop_gradient(jax.nn.relu(x).sum()),
            jax.numpy.asarray(x),
            1,
        )
    split = gradcam.Split(
        lambda x: x @ torch.tensor(w1), lambda a: a.mean(1) + a.detach().relu().sum()
    )
    with pytest.raises(ValueError, match="no ReLU was found"):
        gradcam.guided_backprop(split, torch.from_numpy(x), 1)


def test_a_score_that_does_not_depend_on_the_input_is_an_error(torch, jax):
    x, w1, w2 = arrays()
    with pytest.raises(RuntimeError, match="the score does not depend on"):
        gradcam.guided_backprop(
            torch_network(lambda y: y.detach().relu(), w1, w2), torch.from_numpy(x), 1
        )
    with pytest.raises(RuntimeError, match="the score does not depend on"):
        gradcam.guided_backprop(jax_network(jax.lax.stop_gradient, w1, w2), jax.numpy.asarray(x), 1)


# ------------------------------------------------------------------------------------------ errors


def test_numpy_functions_have_no_derivative_to_change():
    case = networks.case("numpy")
    for call in (gradcam.guided_backprop, gradcam.guided_grad_cam):
        with pytest.raises(
            TypeError,
            match="which NumpyModel cannot: it has no `input_gradients`; pass a PyTorch or",
        ):
            call(case.model, case.inputs())


def test_token_ids_have_no_gradient(torch, jax):
    _, w1, w2 = arrays()
    match = r"gradient at the input, but `inputs` are of dtype .*int64; pass floating-point inputs"
    with pytest.raises(TypeError, match=match):
        gradcam.guided_backprop(
            torch_network(torch.relu, w1, w2), torch.ones((2, 5), dtype=torch.int64)
        )
    with pytest.raises(TypeError, match=match):
        gradcam.guided_backprop(jax_network(jax.nn.relu, w1, w2), jax.numpy.ones((2, 5), "int64"))


def test_of_several_inputs_the_one_with_space_has_the_gradient(torch, jax):
    x, w1, w2 = arrays()
    shift = np.array(
        [[1.0], [2.0]]
    )  # (N, 1), in front of the inputs (N, T, C): it changes no gradient
    expected = gradcam.guided_backprop(
        jax_network(jax.nn.relu, w1, w2), jax.numpy.asarray(x), 1
    ).gradients
    network, inputs = (
        jax_network(jax.nn.relu, w1, w2),
        {"shift": jax.numpy.asarray(shift), "x": jax.numpy.asarray(x)},
    )
    found = gradcam.guided_backprop(lambda shift, x: network(x) + shift, inputs, 1).gradients
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    model = torch_network(torch.relu, w1, w2)
    split = gradcam.Split(lambda shift, x: model(x) + shift, lambda outputs: outputs)
    found = gradcam.guided_backprop(split, (torch.tensor(shift), torch.from_numpy(x)), 1).gradients
    np.testing.assert_allclose(found, expected, rtol=1e-9, atol=1e-15)


def test_choices_are_named(torch):
    with pytest.raises(
        ValueError, match='`rule` must be "guided" or "deconvnet", but is \'plain\''
    ):
        in_torch(torch, TORCH["F.relu"], "plain")
    with pytest.raises(ValueError, match='`smooth` must be "plain" or "guided", but is True'):
        in_torch(torch, TORCH["F.relu"], "guided", smooth=True)


@pytest.mark.filterwarnings("ignore::gradcam.GuessedAxesWarning")  # of a picture made of vectors
def test_guided_grad_cam_needs_an_input_with_space(torch):
    split = gradcam.Split(lambda x: x.relu().reshape(2, 1, 2, 3), lambda a: a.mean((2, 3)))
    with pytest.raises(
        ValueError, match=r"needs `inputs` with channels and as many spatial axes as the map"
    ):
        gradcam.guided_grad_cam(split, torch.randn(2, 6))


def test_a_model_in_training_mode_is_an_error_unless_allowed(torch):
    x, w1, w2 = arrays()
    model = torch_network(torch.relu, w1, w2).train()
    with pytest.raises(ValueError, match="the model is in training mode"):
        gradcam.guided_backprop(model, torch.from_numpy(x), 1)
    gradcam.guided_backprop(model, torch.from_numpy(x), 1, allow_training=True)
    assert model.training


def test_a_compiled_part_is_an_error_and_a_compiled_model_is_not(torch):
    class CompiledFunction(
        torch.autograd.Function
    ):  # the name that AOTAutograd leaves in the graph
        @staticmethod
        def forward(context, x):
            return x.clone()

        @staticmethod
        def backward(context, incoming):
            return incoming

    x, w1, w2 = arrays()
    with pytest.raises(
        RuntimeError,
        match=r"a compiled part of the model \(CompiledFunctionBackward\) hides its ReLUs",
    ):
        gradcam.guided_backprop(
            torch_network(CompiledFunction.apply, w1, w2), torch.from_numpy(x), 1
        )
    model = torch_network(torch.relu, w1, w2)
    found = gradcam.guided_backprop(
        torch.compile(model, backend="eager"), torch.from_numpy(x), 1
    ).gradients
    np.testing.assert_allclose(
        found, gradcam.guided_backprop(model, torch.from_numpy(x), 1).gradients
    )


# ------------------------------------------------------------------------------------------ what is
# left behind


def state(torch, model):
    return {
        "hooks": [
            (
                len(m._forward_hooks),
                len(m._forward_pre_hooks),
                len(m._backward_hooks),
                m.training,
                sorted(m.__dict__),
            )
            for m in model.modules()
        ],
        "modules": [id(m) for m in model.modules()],
        "parameters": [(p.tolist(), p.requires_grad, p.grad.tolist()) for p in model.parameters()],
        "grad": torch.is_grad_enabled(),
    }


@pytest.mark.parametrize("fails", [None, "model", "target"])
def test_nothing_of_the_users_changes_in_torch(torch, fails):
    model = networks.torch_network()
    model.first = torch.nn.ReLU(inplace=True).eval()
    x = torch.from_numpy(networks.images()).requires_grad_()
    model(x).sum().backward()
    grad, values = x.grad.clone(), x.detach().clone()

    def boom(*_):
        raise LookupError("mine")

    if fails == "model":
        model.linear.register_forward_hook(boom)
    for switched in (torch.enable_grad, torch.no_grad, torch.inference_mode):
        with switched():
            before = state(torch, model)
            if fails is None:
                found = gradcam.guided_backprop(model, x, 1)
                assert not found.gradients.requires_grad
                assert not found.scores.requires_grad
            else:
                with pytest.raises(LookupError, match="mine"):
                    gradcam.guided_backprop(model, x, boom if fails == "target" else 1)
            assert state(torch, model) == before
    assert torch.equal(x.grad, grad)
    assert torch.equal(x, values)
    # and no rule stays behind
    if fails is None:
        (again,) = torch.autograd.grad(model(x).sum(), x)
        assert torch.equal(again, grad)


def test_nothing_of_the_users_changes_in_nnx(jax):
    nnx = pytest.importorskip("flax.nnx")
    model = networks.nnx_network()
    before = nnx.split(model)
    gradcam.guided_backprop(model, networks.case("nnx").inputs())
    after = nnx.split(model)
    assert after[0] == before[0]
    assert all(
        a is b for a, b in zip(jax.tree.leaves(after[1]), jax.tree.leaves(before[1]), strict=True)
    )


def test_threads_share_a_model(torch):
    model, x = networks.torch_network(), torch.from_numpy(networks.images())
    wanted = {rule: gradcam.guided_backprop(model, x, 1, rule=rule).gradients for rule in RULES}
    leaf = x.clone().requires_grad_()
    (plain,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
    wrong = []

    def work(rule):
        for _ in range(10):
            if rule == "gradient":
                leaf = x.clone().requires_grad_()
                (found,) = torch.autograd.grad(model(leaf)[:, 1].sum(), leaf)
            else:
                found = gradcam.guided_backprop(model, x, 1, rule=rule).gradients
            if not torch.equal(found, wanted.get(rule, plain)):
                wrong.append(rule)

    threads = [threading.Thread(target=work, args=(rule,)) for rule in (*RULES, "gradient")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


def test_a_classifier_knows_names(torch):
    case = networks.case("torch")
    classifier = gradcam.Classifier(case.model, labels=["a", "b", "c", "d", "e"], layer=case.second)
    named = gradcam.guided_grad_cam(classifier, case.inputs(), target="c").numpy()
    by_index = gradcam.guided_grad_cam(case.model, case.inputs(), case.second, 2).numpy()
    np.testing.assert_allclose(named.gradients, by_index.gradients)
    np.testing.assert_allclose(
        gradcam.guided_backprop(classifier, case.inputs(), "c").gradients,
        gradcam.guided_backprop(case.model, case.inputs(), 2).gradients,
    )
