"""Models that choose their own precision: the differences are sharp all the same."""

from __future__ import annotations

import contextlib
import dataclasses
import functools

import jax
import jax.ad_checkpoint
import jax.numpy as jnp
import numpy as np
import pytest
import torch
from flax import linen
from jax import lax
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_map_only

import gradcam
from gradcam import backends
from gradcam.backends import environment


class Scaled:
    """A model whose captured gradients are off by a factor, also those of its float64 copy."""

    def __init__(self, inner, factor):
        self.inner, self.factor = inner, factor
        self.channels_first = inner.channels_first
        self.replay, self.layers, self.in_double = inner.replay, inner.layers, inner.in_double

    def capture(self, *args, **options):
        found = self.inner.capture(*args, **options)
        gradients = tuple(g * self.factor for g in found.gradients)
        return dataclasses.replace(found, gradients=gradients)

    @contextlib.contextmanager
    def float64(self, inputs):
        with self.inner.float64(inputs) as (double, wide):
            yield self if double is self.inner else Scaled(double, self.factor), wide


class Mixed(linen.Module):
    """Modules of dtype=float32 and of no dtype: with float64 weights these do not fit together."""

    @linen.compact
    def __call__(self, x):
        x = linen.relu(linen.Conv(8, (3, 3), dtype=jnp.float32, name="first")(x))
        x = linen.max_pool(x, (2, 2), (2, 2))
        kernel = self.param("kernel", linen.initializers.lecun_normal(), (3, 3, 8, 8))
        x = lax.conv(jnp.moveaxis(x, 3, 1), jnp.transpose(kernel, (3, 2, 0, 1)), (1, 1), "SAME")
        return linen.Dense(5, dtype=jnp.float32)(linen.relu(x).mean((2, 3)))


def mixed(seed=0):
    x = jax.random.normal(jax.random.key(seed), (2, 16, 16, 3))
    net = Mixed()
    return backends.adapt((net, net.init(jax.random.key(seed), x)), x), x


@pytest.mark.parametrize("seed", range(5))
def test_a_jax_model_with_dtypes_of_its_own_passes_and_a_thousandth_fails(seed):
    model, x = mixed(seed)
    right = gradcam.verify(model, x, "first", 1)
    right.assert_passed()
    assert (right.dtype, right.replay_dtype) == ("float32", "float64")
    assert right.resolution <= 5e-4
    assert "no float64 copy is checked: " in str(right)
    wrong = gradcam.verify(Scaled(model, 1.001), x, "first", 1)
    assert wrong.verdict == "failed"
    assert "1.001" in wrong.fault


class MaskedAttention(nn.Module):
    """Attention whose mask stays in float32, which PyTorch's CPU kernel misreads beside float64."""

    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 8, 4, 4)
        self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
        self.head = nn.Linear(8, 5)

    def forward(self, x):
        tokens = self.patches(x).flatten(2).mT
        mask = torch.zeros(16, 16, dtype=torch.float32)
        mask[0, 3:] = -5
        mixed, _ = self.attention(tokens, tokens, tokens, attn_mask=mask, need_weights=False)
        return self.head(tokens + mixed).mean(1)


class SingleNorm(nn.Module):
    """A norm that computes in float32, as many language models have."""

    def forward(self, x):
        y = x.float()
        y = (y - y.mean(1, keepdim=True)) * torch.rsqrt(y.var(1, keepdim=True) + 1e-5)
        return y.to(x.dtype)


def torch_models():
    torch.manual_seed(0)
    yield "attention", MaskedAttention().eval(), "patches"
    head = [nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5)]
    norm = nn.Sequential(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.MaxPool2d(2), SingleNorm(),
                         nn.Conv2d(8, 8, 3), nn.ReLU(), *head)  # fmt: skip
    yield "norm", norm.eval(), "1"


@pytest.mark.parametrize(("model", "layer"), [case[1:] for case in torch_models()])
def test_a_torch_model_with_dtypes_of_its_own_passes_and_a_thousandth_fails(model, layer):
    x = torch.randn(2, 3, 16, 16, generator=torch.Generator().manual_seed(0))
    right = gradcam.verify(model, x, layer, 1)
    right.assert_passed()
    assert right.resolution <= 5e-4
    wrong = Scaled(backends.adapt(model, x), 1.001)
    assert gradcam.verify(wrong, x, layer, 1).verdict == "failed"


class TF32(TorchDispatchMode):
    """Products of float32 numbers that are rounded to 10 bits first, as a GPU's are."""

    products = (
        torch.ops.aten.convolution.default,
        torch.ops.aten.convolution_backward.default,
        torch.ops.aten.mm.default,
        torch.ops.aten.addmm.default,
    )

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        args = tree_map_only(torch.Tensor, self.rounded, args) if func in self.products else args
        return func(*args, **(kwargs or {}))

    @staticmethod
    def rounded(x):
        if x.dtype != torch.float32:
            return x
        return ((x.contiguous().view(torch.int32) + 2**12) & -(2**13)).view(torch.float32)


@pytest.mark.parametrize("seed", range(4))
def test_gradients_of_products_in_tf32_are_right_up_to_its_digits(monkeypatch, seed):
    torch.manual_seed(seed)
    body = [nn.Conv2d(3, 8, 3), nn.SiLU(), nn.Conv2d(8, 16, 3), nn.SiLU()]
    model = nn.Sequential(*body, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(16, 5)).eval()
    x = torch.randn(2, 3, 16, 16)
    wrong = Scaled(backends.adapt(model, x), 1.03)
    with TF32():
        # On the host float32 products have all digits, and these do not.
        assert gradcam.verify(model, x, "1", 1, float64=False).verdict == "failed"
        row = environment.Framework("torch", "torch", rounds=lambda torch, array: True)
        monkeypatch.setattr(environment, "FRAMEWORKS", (row,))
        right = gradcam.verify(model, x, "1", 1, float64=False)
        right.assert_passed()
        assert (right.dtype, right.replay_dtype, right.tolerance) == ("float32", "float64", 1e-2)
        assert gradcam.verify(wrong, x, "1", 1, float64=False).verdict == "failed"
        sharp = gradcam.verify(model, x, "1", 1)  # a copy in float64 has all digits
        sharp.assert_passed()
        assert (sharp.dtype, sharp.tolerance) == ("float64", 5e-7)


# ----------------------------------------------------------------------------- the replays in double


def test_in_double_is_the_double_precision_model():
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(inplace=True), nn.MaxPool2d(2),
        nn.Flatten(2), nn.TransformerEncoderLayer(49, 7, 16, batch_first=True),
        nn.Flatten(), nn.Linear(8 * 49, 5), nn.Softmax(1),
    ).eval()  # fmt: skip
    x = torch.randn(2, 3, 16, 16)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    with backends.adapt(model, x).in_double(x) as (double, inputs):
        (activations,) = double.capture(inputs, ("0",), None).activations
        found = double.replay(inputs, ("0",), (activations,))
    assert found.dtype == activations.dtype == torch.float64
    np.testing.assert_allclose(found, model.double()(x.double()).detach(), rtol=1e-12, atol=1e-15)
    assert all(torch.equal(before[k], v.to(before[k].dtype)) for k, v in model.state_dict().items())


def test_in_double_writes_what_a_model_writes():
    class Counts(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)
            self.register_buffer("seen", torch.zeros(()))
            self.single = torch.zeros(2)[0]  # no part of the module's state

        def forward(self, x):
            out = torch.empty(len(x))
            self.seen += x.mean()
            self.single.copy_(x.mean())
            y = self.conv(x.float().to(torch.float16)).relu_()
            y[:, 0] = 0.0
            out[:] = y.sum((1, 2, 3))
            return torch.stack([y.sum((1, 2, 3)), out, self.seen.expand(len(x))], 1)

    model = Counts().eval()
    x = torch.randn(2, 3, 8, 8)
    with backends.adapt(model, x).in_double(x) as (double, inputs):
        found = double.replay(inputs, (), ())
    assert model.seen == model.single == 0
    wide = nn.Conv2d(3, 4, 3).double()
    wide.load_state_dict(model.conv.state_dict())
    expected = wide(x.double()).relu()[:, 1:].sum((1, 2, 3)).detach()
    np.testing.assert_allclose(found[:, 0], expected, rtol=1e-12)
    np.testing.assert_allclose(found[:, 1], expected, rtol=1e-12)
    np.testing.assert_allclose(found[:, 2], x.double().mean(), rtol=1e-12)


def jax_program(params, x):
    """Every kind of equation that holds others, and some that depend on digits."""

    @jax.custom_jvp
    def cube(a):
        return a**3

    @cube.defjvp
    def _(primals, tangents):
        return cube(*primals), 100 * tangents[0]

    @jax.custom_vjp
    def swish(a):
        return a * jax.nn.sigmoid(a)

    swish.defvjp(lambda a: (swish(a), None), lambda _, g: (100 * g,))

    h = jax.nn.relu(lax.conv(x, params["w"].astype(jnp.float32), (1, 1), "SAME"))
    h = gradcam_named(cube(h) + swish(h).astype(jnp.float32))
    h = jax.checkpoint(lambda a: jnp.tanh(a) * jnp.float32(0.3))(h)
    total, steps = lax.scan(lambda c, s: (0.9 * c + s.mean(), c), jnp.zeros(()), h[0])
    total = lax.fori_loop(0, 3, lambda i, v: v * (1 + i), total)
    total = lax.while_loop(lambda v: v < 2, lambda v: v * 1.5, total * total + 0.1)
    total = lax.cond(total > 0, lambda v: v * 2.0, lambda v: v, total)
    order = jnp.argsort(h.mean((1, 2, 3)))
    host = jax.pure_callback(
        lambda a: np.asarray(a, np.float32) * 2,
        jax.ShapeDtypeStruct((), jnp.float32),
        jnp.float32(1.5),
    )
    return (
        jnp.einsum("nchw,ck->nk", h, params["head"]) + total + steps.sum() + order[:, None] + host
    )


def gradcam_named(value):
    return jax.ad_checkpoint.checkpoint_name(value, "middle")


def test_in_double_is_the_jax_program_in_double():
    random = np.random.default_rng(0)
    params = {"w": random.normal(size=(4, 3, 3, 3)), "head": random.normal(size=(4, 5))}
    x = random.normal(size=(2, 3, 8, 8)).astype(np.float32)
    single = {name: jnp.asarray(value, jnp.float32) for name, value in params.items()}
    model = backends.adapt(functools.partial(jax_program, single), jnp.asarray(x))
    own = model.replay(jnp.asarray(x), (), ())
    with model.in_double(jnp.asarray(x)) as (double, inputs):
        (activations,) = double.capture(inputs, ("middle",), None).activations
        found = double.replay(inputs, ("middle",), (activations,))
        assert found.dtype == activations.dtype == jnp.float64
    np.testing.assert_allclose(found, own, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(found, reference(single, x), rtol=1e-12)


def reference(params, x):
    """`jax_program` by loops in NumPy, float64; the literals are float32 numbers as there."""
    w, head = (np.asarray(params[name], np.float64) for name in ("w", "head"))
    x = np.pad(x.astype(np.float64), ((0, 0), (0, 0), (1, 1), (1, 1)))
    h = np.zeros((2, 4, 8, 8))
    for i in range(8):
        for j in range(8):
            h[:, :, i, j] = np.einsum("ncij,kcij->nk", x[:, :, i : i + 3, j : j + 3], w)
    h = np.maximum(h, 0)
    h = np.tanh(h**3 + h / (1 + np.exp(-h))) * np.float64(np.float32(0.3))
    total, steps = 0.0, []
    for s in h[0]:
        steps.append(total)
        total = np.float64(np.float32(0.9)) * total + s.mean()
    for i in range(3):
        total *= 1 + i
    total = total * total + np.float64(np.float32(0.1))
    while total < 2:
        total *= 1.5
    total *= 2
    order = np.argsort(h.mean((1, 2, 3)))
    return np.einsum("nchw,ck->nk", h, head) + total + sum(steps) + order[:, None] + 3.0


def test_a_function_on_the_host_without_a_derivative_is_named():
    def model(params, x):
        h = gradcam_named(lax.conv(x, params, (1, 1), "SAME"))
        shape = jax.ShapeDtypeStruct(h.shape, h.dtype)
        h = jax.pure_callback(lambda a: np.tanh(a), shape, h, vmap_method="sequential")
        return h.mean((2, 3))

    x = jnp.ones((1, 3, 4, 4))
    with pytest.raises(ValueError, match=r'between layer "middle" and the score .* on the host'):
        gradcam.explain(functools.partial(model, jnp.ones((2, 3, 3, 3))), x, "middle", 0)


def test_an_output_that_is_used_before_it_is_returned_is_named():
    class Both(nn.Module):
        """Returns what its second output was made of, as vision towers do."""

        def forward(self, x):
            return x, x.tanh().mean((2, 3))

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.both, self.head = nn.Conv2d(3, 8, 3), Both(), nn.Linear(8, 5)

        def forward(self, x):
            _, pooled = self.both(self.conv(x))
            return self.head(pooled)

    torch.manual_seed(0)
    report = gradcam.verify(Net().eval(), torch.randn(2, 3, 8, 8), "both[0]", 1)
    assert report.verdict == "failed"
    assert "uses this output before the layer returns it" in report.fault
