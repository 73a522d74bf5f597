"""Attention weights, and the methods that are made of them, in PyTorch and in Flax."""

from __future__ import annotations

import numpy as np
import pytest

import gradcam
from gradcam import backends, methods
from gradcam._arrays import to_numpy

torch = pytest.importorskip("torch")
jax = pytest.importorskip("jax")
jnp = jax.numpy


class Block(torch.nn.Module):
    def __init__(self, kind, width=8, heads=2):
        super().__init__()
        self.kind, self.heads = kind, heads
        self.attention = torch.nn.MultiheadAttention(width, heads, batch_first=True)

    def forward(self, x):
        if self.kind == "module":
            return x + self.attention(x, x, x, need_weights=False)[0]
        if self.kind == "module with weights":
            return x + self.attention(x, x, x, need_weights=True)[0]
        n, t, c = x.shape
        qkv = torch.nn.functional.linear(
            x, self.attention.in_proj_weight, self.attention.in_proj_bias
        )
        q, k, v = qkv.reshape(n, t, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        if self.kind == "fused":
            y = torch.nn.functional.scaled_dot_product_attention(q, k, v)
        else:
            y = ((q * (c // self.heads) ** -0.5) @ k.transpose(-2, -1)).softmax(dim=-1) @ v
        return x + self.attention.out_proj(y.transpose(1, 2).reshape(n, t, c))


class Transformer(torch.nn.Module):
    def __init__(self, kind="fused"):
        super().__init__()
        torch.manual_seed(0)
        self.embed = torch.nn.Conv2d(3, 8, 4, stride=4)
        self.token = torch.nn.Parameter(torch.randn(1, 1, 8))
        self.blocks = torch.nn.ModuleList(Block(kind) for _ in range(3))
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, 0])


KINDS = ["module", "module with weights", "fused", "spelled out"]


def model(kind="fused"):
    return Transformer(kind).double().eval()


def images(count=2):
    return torch.from_numpy(np.random.default_rng(0).normal(size=(count, 3, 8, 12)))


@pytest.mark.parametrize("kind", KINDS)
def test_attention_weights_are_had_however_they_are_computed(kind):
    tapped = backends.adapt(model(kind), images())
    found = tapped.attentions(images())
    assert [layer.path for layer in found] == ["<attention>", "<attention>#1", "<attention>#2"]
    assert {layer.shape for layer in found} == {(2, 2, 7, 7)}
    first = tapped.capture(images(), ("<attention>",), None).activations[0]
    net = model("module")
    x = net.embed(images()).flatten(2).transpose(1, 2)
    x = torch.cat([net.token.expand(len(x), -1, -1), x], 1)
    expected = net.blocks[0].attention(x, x, x, average_attn_weights=False)[1]
    np.testing.assert_allclose(first, expected.detach(), rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_their_gradients_agree_with_finite_differences(kind):
    for layer in ("<attention>", "<attention>#2"):
        gradcam.verify(model(kind), images(), layer=layer, target=2).assert_passed()


@pytest.mark.parametrize("method", ["legrad", "attention-rollout"])
@pytest.mark.parametrize("kind", KINDS)
def test_maps_do_not_depend_on_how_attention_is_spelled(kind, method):
    expected = gradcam.explain(model("spelled out"), images(), target=1, method=method)
    found = gradcam.explain(model(kind), images(), target=1, method=method)
    assert found.maps.shape == (2, 2, 3)
    np.testing.assert_allclose(found.maps, expected.maps, rtol=1e-9, atol=1e-15)
    assert found.maps.max() > 0


def test_rollout_is_the_product_by_hand():
    tapped = backends.adapt(model(), images())
    attentions = tapped.capture(
        images(), ("<attention>", "<attention>#1", "<attention>#2"), None
    ).activations
    rolled = np.eye(7)[None].repeat(2, 0)
    for attention in attentions:
        rolled = (attention.numpy().mean(1) / 2 + np.eye(7) / 2) @ rolled
    found = gradcam.explain(
        model(), images(), target=[[0, 1]], method="attention-rollout", relu=False
    )
    assert found.maps.shape == (2, 2, 2, 3)
    np.testing.assert_allclose(found.maps[:, 0].reshape(2, 6), rolled[:, 0, 1:], rtol=1e-9)
    np.testing.assert_allclose(found.maps[:, 0], found.maps[:, 1])  # it looks at no class


def test_legrad_of_k_targets_is_k_legrads():
    together = gradcam.explain(model(), images(), target=[[0, 3]], method="legrad").maps
    for k, index in enumerate((0, 3)):
        alone = gradcam.explain(model(), images(), target=index, method="legrad").maps
        np.testing.assert_allclose(together[:, k], alone, rtol=1e-9)


def test_a_model_without_attention_is_an_error():
    plain = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    ).eval()
    with pytest.raises(
        ValueError, match=r"no attention weights of self-attention, \(N, heads, T, T\), were found"
    ):
        gradcam.explain(plain, images().float(), method="legrad")


@pytest.mark.parametrize(
    "method",
    ["grad-cam", "layer-cam", "ablation-cam", "score-cam", "eigen-cam", "integrated-grad-cam"],
)
def test_every_other_method_runs_on_tokens(method):
    found = gradcam.explain(model(), images(), layer="blocks.1", target=1, method=method)
    assert found.maps.shape == (2, 2, 3)
    assert torch.isfinite(found.maps).all()


def flax_transformer():
    """The same network with the same weights."""
    from flax import nnx

    source = model()

    class FlaxBlock(nnx.Module):
        def __init__(self, block):
            self.attention = nnx.MultiHeadAttention(
                2, 8, decode=False, param_dtype=jnp.float64, rngs=nnx.Rngs(0), deterministic=True
            )
            weight = block.attention.in_proj_weight.detach().numpy().reshape(3, 2, 4, 8)
            bias = block.attention.in_proj_bias.detach().numpy().reshape(3, 2, 4)
            for i, part in enumerate(
                (self.attention.query, self.attention.key, self.attention.value)
            ):
                part.kernel[...] = jnp.asarray(weight[i].transpose(2, 0, 1))
                part.bias[...] = jnp.asarray(bias[i])
            out = block.attention.out_proj
            self.attention.out.kernel[...] = jnp.asarray(
                out.weight.detach().numpy().T.reshape(2, 4, 8)
            )
            self.attention.out.bias[...] = jnp.asarray(out.bias.detach().numpy())

        def __call__(self, x):
            return x + self.attention(x)

    class Flax(nnx.Module):
        def __init__(self):
            def array(tensor):
                return nnx.Param(jnp.asarray(tensor.detach().numpy()))

            self.embed = array(source.embed.weight.permute(2, 3, 1, 0))
            self.embed_bias = array(source.embed.bias)
            self.token = array(source.token)
            self.blocks = nnx.List(FlaxBlock(block) for block in source.blocks)
            self.head = array(source.head.weight.T)
            self.head_bias = array(source.head.bias)

        def __call__(self, x):
            x = jax.lax.conv_general_dilated(
                x, self.embed[...], (4, 4), "VALID", dimension_numbers=("NHWC", "HWIO", "NHWC")
            )
            x = (x + self.embed_bias[...]).reshape(len(x), -1, 8)
            x = jnp.concatenate([jnp.broadcast_to(self.token[...], (len(x), 1, 8)), x], 1)
            for block in self.blocks:
                x = block(x)
            return x[:, 0] @ self.head[...] + self.head_bias[...]

    return Flax()


@pytest.mark.parametrize("method", ["legrad", "attention-rollout", "grad-cam", "ablation-cam"])
@pytest.mark.filterwarnings("ignore::gradcam.BlankMapWarning")
def test_flax_agrees_with_pytorch(method):
    with jax.enable_x64(True):
        net, x = flax_transformer(), jnp.asarray(images().numpy().transpose(0, 2, 3, 1))
        layers = {"layer": "blocks/1"} if "-cam" in method else {}
        found = gradcam.explain(net, x, target=[[1, 4]], method=method, **layers).numpy()
    layers = {"layer": "blocks.1"} if "-cam" in method else {}
    expected = gradcam.explain(model(), images(), target=[[1, 4]], method=method, **layers).numpy()
    np.testing.assert_allclose(np.asarray(found.outputs), expected.outputs, atol=1e-6)
    np.testing.assert_allclose(found.maps, expected.maps, atol=1e-5 * expected.maps.max())


def test_flax_attention_gradients_agree_with_finite_differences():
    with jax.enable_x64(True):
        net, x = flax_transformer(), jnp.asarray(images().numpy().transpose(0, 2, 3, 1))
        assert [layer.shape for layer in backends.adapt(net, x).attentions(x)] == [(2, 2, 7, 7)] * 3
        gradcam.verify(net, x, layer="<attention>#1", target=2).assert_passed()


@pytest.mark.parametrize("implementation", ["softmax", "dot_product_attention", "grouped"])
def test_attention_of_plain_jax_functions(implementation):
    def function(x):
        q = x.reshape(2, 6, 4, 2)
        if implementation == "softmax":
            weights = jax.nn.softmax(jnp.einsum("nqhd,nkhd->nhqk", q, q))
            y = jnp.einsum("nhqk,nkhd->nqhd", weights, q)
        else:
            k = q if implementation == "dot_product_attention" else q[:, :, :2]
            y = jax.nn.dot_product_attention(q, k, k)
        return y.reshape(2, 6, 8).mean(1)

    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 8)), jnp.float32)
    tapped = backends.adapt(function, x)
    assert [layer.shape for layer in tapped.attentions(x)] == [(2, 4, 6, 6)]
    weights = to_numpy(tapped.capture(x, ("<attention>",), None).activations[0])
    np.testing.assert_allclose(weights.sum(-1), 1, rtol=1e-5)
    gradcam.verify(function, x, layer="<attention>", target=1).assert_passed()


def test_a_softmax_that_is_no_attention_is_left_alone():
    def function(x):
        return jax.nn.softmax(x.mean((1, 2)))

    x = jnp.ones((2, 3, 3, 4))
    assert backends.adapt(function, x).attentions(x) == []


def test_the_array_math_needs_something():
    with pytest.raises(ValueError, match="`attentions` is empty"):
        methods.attention_rollout([])
    with pytest.raises(ValueError, match="`gradients` is empty"):
        methods.legrad([])
