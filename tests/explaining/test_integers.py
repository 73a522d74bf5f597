"""Images as integers, which the model makes floats of itself."""

from __future__ import annotations

import functools

import numpy as np
import pytest

import gradcam

X = np.random.default_rng(5).integers(0, 256, (2, 8, 9, 3)).astype("uint8")


def torch_model():
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Casts(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.conv, self.linear = nn.Conv2d(3, 6, 3), nn.Linear(6, 5)

        def forward(self, x):
            return self.linear(torch.tanh(self.conv(x.float() / 255)).mean((2, 3)))

    return Casts().eval(), torch.from_numpy(X.transpose(0, 3, 1, 2).copy()), "conv"


def weights():
    jnp = pytest.importorskip("jax").numpy
    draw = np.random.default_rng(0).normal
    return jnp.asarray(draw(size=(3, 3, 3, 6)), "float32"), jnp.asarray(
        draw(size=(6, 5)), "float32"
    )


def function():
    jax = pytest.importorskip("jax")
    from jax.ad_checkpoint import checkpoint_name

    def model(weights, x):
        x = x.astype("float32") / 255
        a = jax.lax.conv_general_dilated(
            x, weights[0], (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
        )
        return jax.numpy.tanh(checkpoint_name(a, "conv")).mean((1, 2)) @ weights[1]

    return functools.partial(model, weights()), jax.numpy.asarray(X), "conv"


def linen():
    nn = pytest.importorskip("flax.linen")
    import jax

    class Casts(nn.Module):
        @nn.compact
        def __call__(self, x):
            a = nn.Conv(6, (3, 3), name="conv")(x.astype("float32") / 255)
            return nn.Dense(5)(jax.numpy.tanh(a).mean((1, 2)))

    x = jax.numpy.asarray(X)
    return (Casts(), Casts().init(jax.random.key(0), x)), x, "conv"


def nnx():
    nnx = pytest.importorskip("flax.nnx")
    import jax

    class Casts(nnx.Module):
        def __init__(self) -> None:
            rngs = nnx.Rngs(0)
            self.conv = nnx.Conv(3, 6, (3, 3), rngs=rngs)
            self.dense = nnx.Linear(6, 5, rngs=rngs)

        def __call__(self, x):
            a = self.conv(x.astype("float32") / 255)
            return self.dense(jax.numpy.tanh(a).mean((1, 2)))

    return Casts(), jax.numpy.asarray(X), "conv"


def equinox():
    eqx = pytest.importorskip("equinox")
    import jax

    class Casts(eqx.Module):
        conv: eqx.nn.Conv2d
        linear: eqx.nn.Linear

        def __call__(self, x):
            return self.linear(jax.numpy.tanh(self.conv(x.astype("float32") / 255)).mean((1, 2)))

    a, b = jax.random.split(jax.random.key(0))
    model = Casts(eqx.nn.Conv2d(3, 6, 3, key=a), eqx.nn.Linear(6, 5, key=b))
    return model, jax.numpy.asarray(X.transpose(0, 3, 1, 2)), "conv"


def keras():
    keras = pytest.importorskip("keras")
    if keras.backend.backend() != "jax":
        pytest.skip("its arrays are those of the other backend")
    keras.utils.set_random_seed(0)
    layers = keras.layers
    stack = [
        layers.Input((8, 9, 3), dtype="uint8"),
        layers.Rescaling(1 / 255),
        layers.Conv2D(6, 3, name="conv"),
        layers.Activation("tanh"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(5),
    ]
    return keras.Sequential(stack), pytest.importorskip("jax").numpy.asarray(X), "conv"


MODELS = [torch_model, function, linen, nnx, equinox, keras]


def floats(x):
    return x.float() if hasattr(x, "float") else x.astype("float32")


@pytest.fixture(params=MODELS, ids=lambda made: made.__name__)
def integers(request):
    return request.param()


@pytest.mark.parametrize("method", ["grad-cam", "ablation-cam", "score-cam", "ss-cam", "is-cam"])
@pytest.mark.filterwarnings("ignore::gradcam.BlankMapWarning")
def test_a_map_of_integers_is_that_of_the_same_floats(integers, method):
    """Masked images are rounded to integers, and masks are not."""
    model, x, layer = integers
    options = {"target": [[1, 3]], "method": method, "relu": False}
    found = gradcam.explain(model, x, layer, **options).numpy().maps
    expected = gradcam.explain(model, floats(x), layer, **options).numpy().maps
    np.testing.assert_allclose(found, expected, rtol=0, atol=5e-3 * np.abs(expected).max())


def test_flips_of_integers_are_integers(integers):
    model, x, layer = integers
    flips = {"target": 1, "smoothing": gradcam.Smoothing(), "relu": False}
    found = gradcam.explain(model, x, layer, **flips).numpy().maps
    expected = gradcam.explain(model, floats(x), layer, **flips).numpy().maps
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_a_layer_behind_integers_can_be_verified(integers):
    """No gradient at the input is needed. A copy in float64 may not run: the model casts."""
    model, x, layer = integers
    gradcam.verify(model, x, layer, 1).assert_passed()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"method": "full-grad"}, "a gradient at the input"),
        ({"method": "smooth-grad-cam++"}, "by fractions"),
        ({"smoothing": gradcam.Smoothing(noise=0.1)}, "by fractions"),
        ({"smoothing": gradcam.Smoothing(scales=(0.5, 1))}, "by fractions"),
    ],
)
@pytest.mark.parametrize("made", [torch_model, linen])
def test_what_integers_cannot_hold_says_to_pass_floats(made, options, says):
    model, x, layer = made()
    with pytest.raises(TypeError, match=rf"{says}, but `inputs` are of dtype .*uint8; pass float"):
        gradcam.explain(model, x, layer, **options)
