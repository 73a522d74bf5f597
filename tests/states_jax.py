"""States of JAX models."""

from __future__ import annotations

import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from jax import lax
from jax.ad_checkpoint import checkpoint_name
from states import Explained, state

import gradcam

HALF = 2e-2
random = np.random.default_rng(3)
K1, K2, K3 = (
    random.normal(size=shape).astype("float32") for shape in ((3, 3, 3, 6), (3, 3, 6, 8), (8, 5))
)
W = (jnp.asarray(K1 * 0.3), jnp.asarray(K2 * 0.3), jnp.asarray(K3))
explain = functools.partial(gradcam.explain, target=[[1, 3]])


def images() -> Any:
    return jnp.asarray(np.random.default_rng(4).normal(size=(2, 8, 10, 3)), jnp.float32)


def conv(x: Any, w: Any, stride: int = 1) -> Any:
    return lax.conv_general_dilated(
        x, w, (stride, stride), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


def layer(w: Any, x: Any) -> Any:
    return checkpoint_name(conv(jax.nn.relu(x), w, 2), "layer")


def head(w: Any, a: Any) -> Any:
    return jnp.tanh(a).mean((1, 2)) @ w


def model(w: Any, x: Any) -> Any:
    return head(w[2], layer(w[1], conv(x, w[0])))


@functools.cache
def plain() -> Any:
    """The maps of the plain model, by jax.grad alone."""
    a = conv(jax.nn.relu(conv(images(), W[0])), W[1], 2)
    slopes = [jax.grad(lambda a, k=k: head(W[2], a)[:, k].sum())(a).mean((1, 2)) for k in (1, 3)]
    return jax.nn.relu(jnp.einsum("nkc,nhwc->nkhw", jnp.stack(slopes, 1), a))


def of(function: Any, path: str | None = "layer") -> Explained:
    """`function(w, x)` explained, its weights as arguments."""
    return explain(functools.partial(function, W), images(), path).maps, plain()


jax_state = functools.partial(state, "JAX")

# ---------------------------------------------------------------------------------- transformations

inside = functools.partial(jax_state, "The layer inside a transformation")
cached = jax.jit(layer)


@inside("an inner `jit`, already compiled and cached")
def inner_jit() -> Explained:
    cached(W[1], conv(images(), W[0]))
    return of(lambda w, x: head(w[2], cached(w[1], conv(x, w[0]))))


@inside("a model that is jitted as a whole, already compiled")
def whole_jit() -> Explained:
    jitted = jax.jit(model)
    jitted(W, images())
    return of(jitted)


inside("`remat`")(lambda: of(lambda w, x: head(w[2], jax.remat(layer)(w[1], conv(x, w[0])))))


@inside("`vmap` over the samples")
def vmapped() -> Explained:
    def sample(w: Any, x: Any) -> Any:
        a = checkpoint_name(conv(jax.nn.relu(conv(x[None], w[0])), w[1], 2)[0], "layer")
        return jnp.tanh(a).mean((0, 1)) @ w[2]

    return of(lambda w, x: jax.vmap(lambda one: sample(w, one))(x))


@inside("`scan`: each step is a call, `layer#1`")
def scanned() -> Explained:
    def twice(w: Any, x: Any) -> Any:
        def step(carry: Any, _: Any) -> Any:
            return carry, layer(w[1], conv(carry, w[0]))

        return head(w[2], lax.scan(step, x, None, length=2)[1][1])

    return of(twice, "layer#1")


@inside("`custom_jvp`")
def custom_jvp() -> Explained:
    rule = jax.custom_jvp(layer)
    rule.defjvp(lambda primals, tangents: jax.jvp(layer, primals, tangents))
    return of(lambda w, x: head(w[2], rule(w[1], conv(x, w[0]))))


@inside("`custom_vjp`")
def custom_vjp() -> Explained:
    rule = jax.custom_vjp(layer)
    rule.defvjp(lambda w, x: jax.vjp(layer, w, x), lambda pullback, incoming: pullback(incoming))
    return of(lambda w, x: head(w[2], rule(w[1], conv(x, w[0]))))


@inside("`cond`", error=ValueError, says='layer "layer" runs inside lax.cond or lax.switch')
def inside_cond() -> Explained:
    return of(lambda w, x: head(w[2], lax.cond(x.sum() < 1e9, layer, layer, w[1], conv(x, w[0]))))


@inside(
    "`while_loop`",
    error=ValueError,
    says='layer "layer" runs inside lax.while_loop or lax.fori_loop',
)
def inside_while() -> Explained:
    def loop(w: Any, x: Any) -> Any:
        start = jnp.zeros((*x.shape[:1], 4, 5, 8))
        return head(
            w[2],
            lax.while_loop(
                lambda a: a.sum() < -1e9, lambda a: layer(w[1], conv(x, w[0])) + a, start
            ),
        )

    return of(loop)


@inside("below a `cond`")
def below_cond() -> Explained:
    def branch(w: Any, x: Any) -> Any:
        return lax.cond(
            x.sum() < 1e9,
            lambda a: head(w[2], a),
            lambda a: head(w[2], a * 2),
            layer(w[1], conv(x, w[0])),
        )

    return of(branch)


def at_the_end() -> Any:
    """The maps of tanh's values, the last that everything flows through: behind them all is
    linear.
    """
    a = jnp.tanh(conv(jax.nn.relu(conv(images(), W[0])), W[1], 2))
    return jax.nn.relu(jnp.einsum("ck,nhwc->nkhw", W[2][:, [1, 3]] / 20, a))


@inside("none: a function that names no layer, the last value that everything flows through")
def automatic() -> Explained:
    def bare(w: Any, x: Any) -> Any:
        return jnp.tanh(conv(jax.nn.relu(conv(x, w[0])), w[1], 2)).mean((1, 2)) @ w[2]

    return of(bare, None)[0], at_the_end()


@inside(
    "none: the same, jitted and with a residual connection, the first path of a branch at the end"
)
def automatic_inside() -> Explained:
    def bare(w: Any, x: Any) -> Any:
        a = conv(x, w[0])
        a = jax.nn.relu(a + 0 * jnp.sin(a))
        a = jnp.tanh(conv(a, w[1], 2))
        return (a * 2).mean((1, 2)) @ w[2] - (a * a.mean() * 0 + a).mean((1, 2)) @ w[2]

    return of(jax.jit(bare), None)[0], at_the_end()


# ------------------------------------------------------------------------------------- flax modules

flax = functools.partial(jax_state, "Modules of Flax")


class Linen(nn.Module):
    """conv1, batch norm, dropout, the layer "conv2", dropout, head; as `model` where the norm does
    nothing.
    """

    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Any, train: bool = False) -> Any:
        x = nn.Conv(6, (3, 3), use_bias=False, dtype=self.dtype, name="conv1")(x)
        x = nn.BatchNorm(use_running_average=not train, epsilon=0.0, dtype=self.dtype, name="norm")(
            x
        )
        x = nn.Dropout(0.5, deterministic=not train)(x)
        x = nn.Conv(8, (3, 3), 2, use_bias=False, dtype=self.dtype, name="conv2")(nn.relu(x))
        x = nn.Dropout(0.5, deterministic=not train)(jnp.tanh(x))
        return nn.Dense(5, use_bias=False, dtype=self.dtype, name="linear")(x.mean((1, 2)))


def variables() -> Any:
    names = ("conv1", "conv2", "linear")
    found: dict[str, Any] = {name: {"kernel": w} for name, w in zip(names, W, strict=True)}
    found["norm"] = {"scale": jnp.ones(6), "bias": jnp.zeros(6)}
    return {"params": found, "batch_stats": {"norm": {"mean": jnp.zeros(6), "var": jnp.ones(6)}}}


@flax("linen: batch norm's collection, in inference mode; dropout off by default")
def linen() -> Explained:
    return explain((Linen(), variables()), images(), "conv2").maps, plain()


@flax("linen: a Python flag, `{'x': x, 'train': False}`")
def linen_flag() -> Explained:
    return explain((Linen(), variables()), {"x": images(), "train": False}, "conv2").maps, plain()


@flax("linen: dropout on, its key and `mutable` passed through")
def linen_key() -> Explained:
    inputs = {
        "x": images(),
        "train": True,
        "rngs": {"dropout": jax.random.key(1)},
        "mutable": ["batch_stats"],
    }
    # Its batch norm mixes the samples, so that the network cannot be asked where they are.
    explainer = gradcam.Explainer((Linen(), variables()), "conv2", layout="channels_last")
    maps = explainer(inputs, lambda outputs: outputs[0][:, [1, 3]]).maps
    again = explainer(inputs, lambda outputs: outputs[0][:, [1, 3]]).maps
    assert float(jnp.abs(maps - plain()).max()) > 0.01  # it was on
    return again, maps


@flax("linen: bfloat16, pooled in float32", tolerance=HALF)
def linen_brain() -> Explained:
    maps = explain((Linen(jnp.bfloat16), variables()), images(), "conv2").maps
    assert maps.dtype == jnp.float32
    return maps, plain()


class Nnx(nnx.Module):
    def __init__(self) -> None:
        rngs = nnx.Rngs(0)
        self.conv1 = nnx.Conv(3, 6, (3, 3), use_bias=False, rngs=rngs)
        self.norm = nnx.BatchNorm(6, epsilon=0.0, rngs=rngs)
        self.drop = nnx.Dropout(0.5, rngs=rngs)
        self.conv2 = nnx.Conv(6, 8, (3, 3), 2, use_bias=False, rngs=rngs)
        self.linear = nnx.Linear(8, 5, use_bias=False, rngs=rngs)
        for module, w in zip((self.conv1, self.conv2, self.linear), W, strict=True):
            module.kernel[...] = w

    def __call__(self, x: Any) -> Any:
        x = self.conv2(nnx.relu(self.drop(self.norm(self.conv1(x)))))
        return self.linear(self.drop(jnp.tanh(x)).mean((1, 2)))


@flax(
    "nnx: batch norm and dropout in training mode: explained in evaluation mode, and left as "
    "they are"
)
def nnx_training() -> Explained:
    module = Nnx()
    module.train()
    maps = explain(module, images(), "conv2").maps
    assert not module.norm.use_running_average
    assert not module.drop.deterministic
    return maps, plain()


@flax("nnx: jitted by the user, `nnx.jit(model)`: pass the module itself")
def nnx_jit() -> Explained:
    module = Nnx()
    module.eval()
    nnx.jit(lambda m, x: m(x))(module, images())
    return explain(module, images(), "conv2").maps, plain()


# ------------------------------------------------------------------------------- numbers and inputs

numbers = functools.partial(jax_state, "Numbers, inputs and outputs")


@numbers("bfloat16 weights and inputs, pooled in float32", tolerance=HALF)
def brain() -> Explained:
    half = functools.partial(model, tuple(w.astype(jnp.bfloat16) for w in W))
    maps = explain(half, images().astype(jnp.bfloat16), "layer").maps
    assert maps.dtype == jnp.float32
    return maps, plain()


@numbers("`jax_enable_x64` on, float32 model")
def x64() -> Explained:
    expected = plain()
    with jax.enable_x64(True):
        maps = of(model)[0]
    assert maps.dtype == jnp.float32
    return maps, expected


@numbers("`jax_enable_x64` on, float64 model")
def x64_model() -> Explained:
    expected = plain()
    with jax.enable_x64(True):
        wide = functools.partial(model, tuple(jnp.asarray(w, jnp.float64) for w in W))
        maps = explain(wide, jnp.asarray(images(), jnp.float64), "layer").maps
    assert maps.dtype == np.float64
    return maps, expected


@numbers("several arrays, a Python flag and a number among them, as a tuple")
def several() -> Explained:
    def flagged(w: Any, x: Any, scale: Any, plain: bool, power: int) -> Any:
        return model(w, x * scale) if plain else x.reshape(power)

    return explain(
        functools.partial(flagged, W), (images(), jnp.ones(()), True, 3), "layer"
    ).maps, plain()


@numbers("a flag bound by `functools.partial`")
def bound() -> Explained:
    def flagged(w: Any, x: Any, *, plain: bool) -> Any:
        return model(w, x) if plain else x

    return explain(functools.partial(flagged, W, plain=True), images(), "layer").maps, plain()


@numbers(
    "an input that is neither an array nor hashable",
    error=TypeError,
    says="neither an array nor hashable",
)
def unhashable() -> Explained:
    return explain(functools.partial(model, W), (images(), {1, 2}), "layer").maps, plain()


@numbers("a batch of one")
def one() -> Explained:
    return explain(functools.partial(model, W), images()[:1], "layer").maps, plain()[:1]


@numbers("token ids, a layer (N, T, C)")
def token_ids() -> Explained:
    ids = jnp.arange(18).reshape(2, 9)
    table, mix = (
        jnp.asarray(random.normal(size=(20, 6)), jnp.float32),
        jnp.asarray(random.normal(size=(6, 5)), "float32"),
    )

    def text(ids: Any) -> Any:
        return jnp.tanh(checkpoint_name(table[ids], "embedding") * 0.5).mean(1) @ mix

    explanation = explain(text, ids, "embedding")
    a = table[ids]
    slopes = [
        jax.grad(lambda a, k=k: (jnp.tanh(a * 0.5).mean(1) @ mix)[:, k].sum())(a).mean(1)
        for k in (1, 3)
    ]
    return explanation.maps, jax.nn.relu(jnp.einsum("nkc,ntc->nkt", jnp.stack(slopes, 1), a))


numbers("a dictionary with logits")(lambda: of(lambda w, x: {"logits": model(w, x), "loss": 0.0}))
numbers("a tuple, logits first")(lambda: of(lambda w, x: (model(w, x), x)))
