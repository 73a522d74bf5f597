"""Functions that a compiled program is kept for: the same code, reading the same values."""

from __future__ import annotations

import functools
import gc
import warnings

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

import gradcam
from gradcam._functions import Keyed, keyed
from gradcam.backends.jax.compiled import Compiled

X = jax.random.normal(jax.random.key(0), (2, 4, 4, 3))
WEIGHTS = {"w": jnp.ones((3, 2))}


def scaled(factor):
    return lambda x: factor * x


def of_globals(x):
    return jnp.tanh(x).mean((1, 2)) @ WEIGHTS["w"]


def scores(function):
    return np.asarray(gradcam.explain(function, X, target=1).scores)


def test_the_same_code_with_the_same_values_is_the_same():
    assert Keyed(scaled(2.0)) == Keyed(scaled(2.0))
    assert hash(Keyed(scaled(2.0))) == hash(Keyed(scaled(2.0)))
    assert Keyed(scaled(2.0)) != Keyed(scaled(3.0))
    assert Keyed(scaled(1)) != Keyed(scaled(True))
    assert Keyed(scaled(2.0)) != Keyed(lambda x: 2.0 * x)
    assert Keyed(functools.partial(of_globals, 1)) == Keyed(functools.partial(of_globals, 1))
    assert Keyed(functools.partial(of_globals, 1)) != Keyed(functools.partial(of_globals, 2))
    weights = jnp.ones(3)
    assert Keyed(scaled(weights)) == Keyed(scaled(weights))
    assert Keyed(scaled(weights)) != Keyed(scaled(jnp.ones(3)))
    assert Keyed(scaled(np.ones(3))) == Keyed(scaled(np.ones(3)))
    assert Keyed(scaled(np.ones(3))) != Keyed(scaled(np.zeros(3)))
    assert Keyed(scaled([1, {"a": 2}])) != Keyed(scaled([1, {"a": 3}]))
    assert Keyed(scaled([weights])) != Keyed(scaled([jnp.ones(3)]))
    assert Keyed(scaled([1])) == Keyed(scaled([1, 2]))  # it may count its own calls
    assert Keyed(scaled(np.array([{}]))) != Keyed(scaled(np.array([{}])))  # not to be compared
    assert keyed("a name") == "a name"


def test_a_function_that_reads_itself_or_very_much_is_keyed_too(monkeypatch):
    def recursive(n):
        return n and recursive(n - 1)

    assert Keyed(recursive) == Keyed(recursive)
    monkeypatch.setattr("gradcam._functions.MOST_PARTS", 10)
    much = [object() for _ in range(20)]
    assert Keyed(scaled(much)) != Keyed(scaled(much))
    assert Keyed(scaled(2))(3) == 6


def test_weights_that_are_rebound_or_changed_are_read_anew(monkeypatch):
    before = scores(of_globals)
    monkeypatch.setitem(WEIGHTS, "w", 2 * WEIGHTS["w"])
    np.testing.assert_allclose(scores(of_globals), 2 * before, rtol=1e-6)

    params = jnp.ones((3, 2))

    def of_closure(x):
        return jnp.tanh(x).mean((1, 2)) @ params

    before = scores(of_closure)
    params = 3 * params
    np.testing.assert_allclose(scores(of_closure), 3 * before, rtol=1e-6)

    array = np.ones((3, 2), np.float32)

    def of_numpy(x):
        return jnp.tanh(x).mean((1, 2)) @ array

    before = scores(of_numpy)
    array *= 4  # in place
    np.testing.assert_allclose(scores(of_numpy), 4 * before, rtol=1e-6)


def test_an_explainer_that_is_kept_reads_everything_anew(monkeypatch):
    explainer = gradcam.Explainer(of_globals, method=lambda a, g: a.sum(-2) * WEIGHTS["w"][0, 0])
    before = explainer(X, 1)
    monkeypatch.setitem(WEIGHTS, "w", 2 * WEIGHTS["w"])
    np.testing.assert_allclose(explainer(X, 1).scores, 2 * before.scores, rtol=1e-6)
    np.testing.assert_allclose(explainer(X, 1).maps, 2 * before.maps, rtol=1e-6)


def test_a_module_in_a_closure_is_read_anew():
    net = nnx.Linear(3, 2, use_bias=False, rngs=nnx.Rngs(0))

    def of_module(x):
        return net(jnp.tanh(x).mean((1, 2)))

    before = scores(of_module)
    net.kernel.set_value(net.kernel.get_value() * 2)
    np.testing.assert_allclose(scores(of_module), 2 * before, rtol=1e-5)


def test_a_new_lambda_from_the_same_line_compiles_nothing():
    traces = []

    def model(weights, x):
        traces.append(1)
        return jnp.tanh(x).mean((1, 2)) @ weights

    explainer = gradcam.Explainer(functools.partial(model, jnp.ones((3, 2))))
    counts = []
    for _ in range(4):
        explainer(X, lambda outputs: outputs[:, 1])
        counts.append(len(traces))
    assert counts[1:] == [counts[0]] * 3
    explainer(X, lambda outputs: outputs[:, 0])
    assert len(traces) > counts[0]


def test_a_new_partial_as_method_compiles_nothing():
    traces = []

    def model(weights, x):
        traces.append(1)
        return jnp.tanh(x).mean((1, 2)) @ weights

    bound = functools.partial(model, jnp.ones((3, 2)))
    counts = []
    for _ in range(4):
        method = functools.partial(gradcam.methods.layer_cam, gamma=2.0)
        assert gradcam.explain(bound, X, target=1, method=method).method == "layer_cam(gamma=2.0)"
        counts.append(len(traces))
    assert counts[1:] == [counts[0]] * 3


def test_old_programs_are_let_go_and_a_warning_says_what_to_do(monkeypatch):
    monkeypatch.setattr("gradcam.backends.jax.compiled.MOST", 3)
    compiled = Compiled(lambda what, x: what.function(x))
    live = jax.devices()[0].client.live_executables
    before = len(live())
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        for n in range(12):
            assert compiled(Keyed(scaled(jnp.array(n + 0.5))), X).shape == X.shape
    assert len(warned) == 1
    assert "functools.partial(function, weights)" in str(warned[0].message)
    gc.collect()
    assert len(live()) <= before + 3 + 2  # and those of constants
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for n in range(12):  # one function, many programs; many functions
            compiled.program((n, Keyed(of_globals)))
            compiled.program(Keyed(scaled(n)))
