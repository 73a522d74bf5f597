"""Odd arguments: each is refused in a sentence that names it, or means what it says."""

from __future__ import annotations

import copy
import functools
import re

import jax
import jax.ad_checkpoint
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

import gradcam
from gradcam.backends.torch.passes import outputs_of

torch.manual_seed(0)
NET = torch.nn.Sequential(
    torch.nn.Conv2d(3, 8, 3),
    torch.nn.ReLU(),
    torch.nn.AdaptiveAvgPool2d(1),
    torch.nn.Flatten(),
    torch.nn.Linear(8, 5),
).eval()
X = torch.randn(2, 3, 12, 12)


def jax_net(weights, x):
    h = jax.nn.relu(jax.lax.conv(x, weights["conv"], (1, 1), "SAME"))
    return jax.ad_checkpoint.checkpoint_name(h, "1").mean((2, 3)) @ weights["head"]


WEIGHTS = {"conv": jnp.ones((4, 3, 3, 3)), "head": jnp.eye(4, 5)}
JAX_NET = functools.partial(jax_net, WEIGHTS)


def explain(**options):
    return gradcam.explain(NET, X, "1", 1, **options)


def verify(**options):
    return gradcam.verify(NET, X, "1", 1, **options)


def smooth(**options):
    return gradcam.explain(NET, X, "1", 1, smoothing=gradcam.Smoothing(**options))


NOT_WHOLE = [1.5, "a", True]
WHOLE = [
    (explain, "batch", 1, {"method": "ablation-cam"}),
    (explain, "channels", 1, {"method": "score-cam"}),
    (explain, "samples", 1, {"method": "ss-cam"}),
    (explain, "seed", 0, {"method": "ss-cam"}),
    (explain, "seed", 0, {"method": "random-cam"}),
    (explain, "steps", 1, {"method": "integrated-grad-cam"}),
    (smooth, "samples", 1, {}),
    (smooth, "seed", 0, {}),
    (verify, "channels", 0, {}),
    (verify, "directions", 0, {}),
    (verify, "seed", 0, {}),
]


@pytest.mark.parametrize(("call", "name", "least", "options"), WHOLE)
def test_whole_numbers(call, name, least, options):
    for value in NOT_WHOLE:
        with pytest.raises(TypeError, match=f"`{name}` must be a whole number, but is {value!r}"):
            call(**options, **{name: value})
    with pytest.raises(ValueError, match=f"`{name}` must be at least {least}, but is {least - 1}"):
        call(**options, **{name: least - 1})
    call(**options, **{name: np.int64(least)})


@pytest.mark.parametrize("name", ["step", "tolerance"])
@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (0, ValueError, "must be more than 0"),
        (-1.0, ValueError, "must be more than 0"),
        (float("nan"), ValueError, "must be finite"),
        ("a", TypeError, "must be a number"),
    ],
)
def test_real_numbers(name, value, error, text):
    with pytest.raises(error, match=f"`{name}` {text}, but is {value!r}"):
        verify(**{name: value})


def test_nothing_to_verify():
    with pytest.raises(ValueError, match="are both 0: nothing would be verified"):
        verify(directions=0, channels=0)


def test_sizes_and_thresholds():
    explanation = explain()
    with pytest.raises(TypeError, match=r"`size` must be a whole number, but is 1\.5"):
        explanation.heatmaps((1.5, 3))
    with pytest.raises(TypeError, match="`threshold` must be a number, but is 'a'"):
        explanation.boxes("a")
    with pytest.raises(TypeError, match="`gamma` must be a number, but is 'a'"):
        explain(method="layer-cam", gamma="a")


def test_parameters_of_a_users_own_method_are_theirs():
    def own(activations, gradients, seed="a"):
        return activations[..., 0, :] * len(seed)

    assert explain(method=own, seed="abc").maps.shape == (2, 10, 10)


def test_inputs_of_another_framework():
    with pytest.raises(TypeError, match="`inputs` are NumPy arrays, which this model does not"):
        gradcam.explain(NET, X.numpy(), "1", 1)
    with pytest.raises(TypeError, match=r"`inputs` hold a torch\.Tensor, which is no array of JAX"):
        gradcam.explain(_flax_net(), X, "conv", 1)
    with pytest.raises(TypeError, match="`model` is the class Sequential; pass an instance of it"):
        gradcam.explain(torch.nn.Sequential, X, "1", 1)


# What PyTorch says of a convolution, and of a matrix product, with weights on a GPU.
ELSEWHERE = [
    "Input type (torch.FloatTensor) and weight type (torch.cuda.FloatTensor) should be the same or "
    "input should be a MKLDNN tensor and weight is a dense tensor",
    "Expected all tensors to be on the same device, but got mat1 is on cpu, different from other "
    "tensors on cuda:0",
]


@pytest.mark.parametrize("said", ELSEWHERE)
def test_inputs_on_another_device_than_the_weights(said):
    def call(module, x):
        raise RuntimeError(said)

    elsewhere = torch.nn.Linear(3, 5, device="meta")
    with pytest.raises(
        ValueError, match=r"are on cpu, .* weights on meta: pass inputs\.to\(\"meta"
    ):
        outputs_of(call, elsewhere, X)
    for module in (NET, torch.nn.ReLU()):  # an error of the model's own stays
        with pytest.raises(RuntimeError, match=re.escape(said)):
            outputs_of(call, module, X)
    with pytest.raises(RuntimeError, match="channels"):
        outputs_of(lambda module, x: NET(x), elsewhere, X[:, :1])


def _flax_net():
    from flax import linen

    class Net(linen.Module):
        @linen.compact
        def __call__(self, x):
            return linen.Dense(5)(linen.Conv(4, (3, 3), name="conv")(x).mean((1, 2)))

    net = Net()
    return net, net.init(jax.random.key(0), jnp.ones((1, 3, 12, 12)))


def test_a_torch_model_that_takes_numpy_is_explained():
    class TakesNumPy(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.net = NET

        def forward(self, array):
            return self.net(torch.from_numpy(array))

    found = gradcam.explain(TakesNumPy().eval(), X.numpy(), "net.1", 1)
    torch.testing.assert_close(torch.as_tensor(found.maps), explain().maps)


def test_tensors_without_values():
    meta = copy.deepcopy(NET).to("meta")
    with pytest.raises(ValueError, match="the model's weights are on the meta device"):
        gradcam.explain(meta, X, "1", 1)
    with pytest.raises(ValueError, match="`inputs` are meta or fake tensors"):
        gradcam.explain(NET, X.to("meta"), "1", 1)
    fake = FakeTensorMode(allow_non_fake_inputs=True).from_tensor(X)
    with pytest.raises(ValueError, match="`inputs` are meta or fake tensors"):
        gradcam.explain(NET, fake, "1", 1)
    shape = jax.ShapeDtypeStruct((2, 3, 8, 8), jnp.float32)
    with pytest.raises(TypeError, match=r"`inputs` hold a jax\.ShapeDtypeStruct"):
        gradcam.explain(_flax_net(), shape, "conv", 1)


def test_an_explanation_inside_torch_transforms_is_refused():
    with pytest.raises(TypeError, match=r"torch\.vmap and torch\.func cannot transform"):
        torch.vmap(lambda x: gradcam.explain(NET, x[None], "1", 1).maps[0])(X)
    with pytest.raises(TypeError, match=r"torch\.vmap and torch\.func cannot transform"):
        torch.func.grad(lambda x: gradcam.explain(NET, x, "1", 1).maps.sum())(X)


def test_an_explanation_inside_a_compiled_function_breaks_its_graph():
    @functools.partial(torch.compile, backend="eager")
    def compiled(x):
        doubled = x * 2.0
        maps = gradcam.explain(NET, doubled, "1", 1).maps
        explainer = gradcam.Explainer(NET, "1", "hires-cam")
        return maps + 1, explainer(doubled, 1).heatmaps()

    maps, heat = compiled(X)
    torch.testing.assert_close(maps, gradcam.explain(NET, X * 2.0, "1", 1).maps + 1)
    expected = gradcam.explain(NET, X * 2.0, "1", 1, method="hires-cam").heatmaps()
    torch.testing.assert_close(heat, expected)
    assert torch.compiler.is_compiling() is False


@pytest.mark.parametrize(
    "call",
    [
        lambda x: gradcam.explain(JAX_NET, x, "1", 1, layout="channels_first").boxes(),
        lambda x: gradcam.verify(JAX_NET, x, "1", 1, layout="channels_first").error,
        lambda x: (
            gradcam.explain(
                JAX_NET, x, "1", x[0, 0, 0, 0].astype(int), layout="channels_first"
            ).maps
        ),
    ],
    ids=["boxes", "verify", "target"],
)
def test_what_needs_numbers_says_so_inside_jit(call):
    x = jnp.ones((2, 3, 8, 8))
    with pytest.raises(TypeError, match="numbers are needed here, but inside jit"):
        jax.jit(call)(x)
