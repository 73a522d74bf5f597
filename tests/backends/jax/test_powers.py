"""What a JAX model can do besides the two verbs: weights, bare passes, arrays."""

from __future__ import annotations

import networks
import numpy as np
import pytest

import gradcam
from gradcam.model import HasWeights, MakesArrays, RunsBare

jax = pytest.importorskip("jax")
jnp = jax.numpy
KINDS = {
    "linen": "flax",
    "linen-bound": "flax",
    "nnx": "flax",
    "equinox": "equinox",
    "haiku": "haiku",
}


@pytest.fixture(params=KINDS)
def subject(request):
    """A network of each kind, in float64, with its inputs and its backend."""
    pytest.importorskip(KINDS[request.param])
    with jax.enable_x64(True):
        case = networks.case(request.param)
        yield case, gradcam.backends.adapt(case.model, case.inputs())


def test_every_power_is_there(subject):
    for power in (HasWeights, MakesArrays, RunsBare):
        assert isinstance(subject[1], power)


def test_weights_are_those_of_the_layers_by_their_paths(subject):
    case, model = subject
    weights = model.weights()
    assert len(weights) == 6
    assert sum(array.size for array in weights.values()) == sum(
        array.size for array in networks.weights().values()
    )
    paths = [layer.path for layer in model.layers(case.inputs())]
    assert all(any(name.startswith(path) for path in paths) for name in weights)


def test_a_copy_has_the_new_weights_and_the_model_keeps_its_own(subject):
    case, model = subject
    before = {name: np.array(array) for name, array in model.weights().items()}
    new = {name: jnp.asarray(array) + 1 for name, array in before.items()}
    twin = model.with_weights(new)
    assert isinstance(twin, type(case.model))
    twin_model = gradcam.backends.adapt(twin, case.inputs())
    for name, array in twin_model.weights().items():
        np.testing.assert_array_equal(array, new[name])
    assert not np.allclose(twin_model.forward(case.inputs()), model.forward(case.inputs()))
    for name, array in model.weights().items():
        np.testing.assert_array_equal(array, before[name])


def test_a_bare_pass_gives_the_outputs(subject):
    case, model = subject
    expected = model.replay(case.inputs(), (), ())
    np.testing.assert_allclose(model.forward(case.inputs()), expected, rtol=1e-12)


def test_an_array_is_jax_s_own(subject):
    array = subject[1].array(np.ones((2, 3)))
    assert isinstance(array, jax.Array)
    assert array.dtype == jnp.float64


def test_a_function_has_no_weights_by_name():
    model = gradcam.backends.adapt(jnp.tanh, jnp.ones((1, 2, 2, 3)))
    with pytest.raises(TypeError, match=r"the weights of a .* cannot be found: it is no tree of"):
        model.weights()


def test_batch_statistics_are_no_weights():
    nn = pytest.importorskip("flax.linen")
    module, x = nn.BatchNorm(use_running_average=True), jnp.ones((1, 2, 2, 3))
    variables = module.init(jax.random.key(0), x)
    assert set(gradcam.backends.adapt((module, variables), x).weights()) == {"scale", "bias"}
