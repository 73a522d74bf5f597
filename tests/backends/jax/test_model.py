"""What only JAX can get wrong: layers in transformations, repeated traces, constant weights."""

from __future__ import annotations

import functools
import re

import numpy as np
import pytest

import gradcam

jax = pytest.importorskip("jax")
jnp = jax.numpy
nn = pytest.importorskip("flax.linen")
from flax import nnx  # noqa: E402
from jax.ad_checkpoint import checkpoint_name  # noqa: E402

W = jnp.asarray(np.random.default_rng(0).normal(size=(3, 5)), jnp.float32)
X = jnp.asarray(np.random.default_rng(1).normal(size=(2, 6, 7, 3)), jnp.float32)


def body(x):
    return checkpoint_name(jnp.tanh(x), "features")


def head(w, a):
    return jnp.tanh(a.mean((1, 2)) @ w)


def plain(w, x):
    return head(w, body(x))


@jax.jit
def cached(x):
    return body(x)


def scanned(w, x):
    def step(carry, _):
        return body(carry) * 1.1, None

    return head(w, jax.lax.scan(step, x, None, length=3)[0])


WRAPPED = {
    "jit": lambda w, x: head(w, jax.jit(body)(x)),
    "a cached jit": lambda w, x: head(w, cached(x)),
    "an outer jit": jax.jit(plain),
    "remat": lambda w, x: head(w, jax.checkpoint(body)(x)),
    "vmap": lambda w, x: head(w, jax.vmap(body)(x)),
    "vmap of all": lambda w, x: jax.vmap(lambda one: plain(w, one[None])[0])(x),
    "custom_jvp": lambda w, x: head(w, _custom_jvp(x)),
    "custom_vjp": lambda w, x: head(w, _custom_vjp(x)),
}

_custom_jvp = jax.custom_jvp(body)
_custom_jvp.defjvp(lambda primals, tangents: (body(*primals), tangents[0]))
_custom_vjp = jax.custom_vjp(body)
_custom_vjp.defvjp(lambda x: (body(x), None), lambda _, g: (g,))


@pytest.mark.parametrize("where", WRAPPED)
def test_layers_inside_transformations_are_tapped(where):
    cached(X)  # compiled, and in JAX's cache, before anyone asks for its layers
    expected = gradcam.explain(functools.partial(plain, W), X)
    function = functools.partial(WRAPPED[where], W)
    layers = gradcam.layers(function, X)
    assert [layer.path for layer in layers] == ["features"]
    if where == "vmap of all":  # one sample each: the batch is the vmap's
        assert layers[0].shape == (2, 1, 6, 7, 3)
        return
    found = gradcam.explain(function, X, layer="features")
    np.testing.assert_allclose(found.maps, expected.maps, rtol=1e-6, atol=1e-9)


def test_each_step_of_a_scan_is_a_call():
    function = functools.partial(scanned, W)
    assert [layer.path for layer in gradcam.layers(function, X)] == [
        "features",
        "features#1",
        "features#2",
    ]
    for layer in ("features", "features#1", "features#2"):
        gradcam.verify(function, X, layer).assert_passed()

    def unrolled(w, x):
        for n in range(3):
            x = checkpoint_name(jnp.tanh(x), f"f{n}") * 1.1
        return head(w, x)

    for n, layer in enumerate(("features", "features#1", "features#2")):
        found = gradcam.explain(function, X, layer)
        expected = gradcam.explain(functools.partial(unrolled, W), X, f"f{n}")
        np.testing.assert_allclose(found.maps, expected.maps, rtol=1e-5)


def test_a_reversed_scan_that_stacks_keeps_its_order():
    def function(w, x):
        def step(carry, s):
            carry = body(carry * s)
            return carry, carry

        last, every = jax.lax.scan(step, x, jnp.array([1.0, 0.5, 2.0]), reverse=True)
        return head(w, last + every[0] * 0.3 + every[2] * 0.1)

    for layer in ("features", "features#2"):
        gradcam.verify(functools.partial(function, W), X, layer).assert_passed()


class Net(nn.Module):
    features: tuple = (8, 16)

    @nn.compact
    def __call__(self, x):
        for i, n in enumerate(self.features):
            x = nn.relu(
                nn.BatchNorm(use_running_average=True, name=f"norm{i}")(
                    nn.Conv(n, (3, 3), name=f"conv{i}")(x)
                )
            )
        return nn.Dense(5, name="dense")(x.mean((1, 2)))


def lowered(net, variables, x, layer, target, methods):
    """The one program of an explanation of a flax.linen `net`, before it is compiled."""
    from gradcam import backends
    from gradcam.backends.jax.model import Program, run_program
    from gradcam.explaining.pipeline import Pipeline
    from gradcam.methods import as_spec
    from gradcam.targets import as_target, split

    model = backends.adapt((net, variables), x)
    size = x.shape[1:3]
    entries = tuple((as_spec(method), ()) for method in methods)
    pipeline = Pipeline((layer,), entries, size, "channels_last", picture=(size, "max"))
    indices, rest = split(as_target(target))
    program = run_program.program(Program(pipeline, model.run, False, rest))
    return program.lower(model.values, x, indices, ())


def test_the_explanation_costs_hardly_more_operations_than_the_forward_pass():
    if jax.default_backend() != "cpu":
        pytest.skip("a GPU's convolutions are calls of a library, whose operations are not counted")
    x = jnp.ones((4, 32, 32, 3))
    net = Net((32, 64))
    variables = net.init(jax.random.key(0), x)
    bare = jax.jit(net.apply).lower(variables, x).compile().cost_analysis()["flops"]
    program = lowered(net, variables, x, "conv1", 1, ["grad-cam"])
    explained = program.compile().cost_analysis()["flops"]
    assert bare < explained <= 1.05 * bare
    # no convolution runs backward
    text = program.as_text()
    assert text.count("stablehlo.convolution") == 2
    # weights are arguments: none of them is a constant of the program
    assert len(text) < 30_000


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="of the CPU's kernels")
def test_eigenvectors_are_found_one_matrix_at_a_time_on_the_cpu():
    """Two batches of them at once wait for each other for ever: see `gradcam._arrays.eigh`."""
    x = jnp.ones((3, 16, 16, 3))
    methods = ["eigen-cam", "eigen-grad-cam", "kpca-cam", "seg-eigen-cam"]
    program = lowered(Net(), Net().init(jax.random.key(0), x), x, "conv1", [[1, 2]], methods)
    matrices = re.findall(
        r"%eigh\S* = \(f32\[([\d,]*)\].* custom-call\(", program.compile().as_text()
    )
    assert len(matrices) == len(methods)
    assert all(shape.count(",") == 1 for shape in matrices), matrices


def counting(counter):
    """Grad-CAM that counts how often it is traced."""

    def method(activations, gradients):
        counter.append(1)
        return gradcam.METHODS["grad-cam"](activations, gradients)

    return method


def test_a_second_call_and_new_weights_trace_nothing():
    traces = []
    method = counting(traces)
    variables = Net().init(jax.random.key(0), X)
    explainer = gradcam.Explainer((Net(), variables), "conv1", method)
    first = explainer(X, 1)
    explainer(X, 2)
    explainer(X + 1, [3, 4])
    assert len(traces) == 2  # one int for all, and one for each sample
    others = Net().init(jax.random.key(1), X)
    second = gradcam.explain(Net().bind(others), X, "conv1", 1, method)
    assert len(traces) == 2
    assert not np.allclose(first.maps, second.maps)
    explainer(X[:1], 1)
    assert len(traces) == 3  # another shape


def test_nnx_weights_are_read_at_each_call_and_trace_nothing():
    class Model(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(3, 5, (3, 3), rngs=nnx.Rngs(0))
            self.drop = nnx.Dropout(0.5, rngs=nnx.Rngs(1))

        def __call__(self, x):
            return self.drop(self.conv(x)).mean((1, 2))

    traces, model = [], Model()
    explainer = gradcam.Explainer(model, "conv", counting(traces))
    first = explainer(X, 1)
    np.testing.assert_array_equal(explainer(X, 1).maps, first.maps)  # dropout is off
    model.conv.kernel[...] = model.conv.kernel[...] * 2
    np.testing.assert_allclose(
        explainer(
            X,
            1,
        ).scores,
        2 * np.asarray(first.scores),
        rtol=1e-5,
    )
    assert len(traces) == 1


def test_the_users_nnx_module_is_untouched():
    class Model(nnx.Module):
        def __init__(self):
            self.conv = nnx.Conv(3, 5, (3, 3), rngs=nnx.Rngs(0))
            self.norm = nnx.BatchNorm(5, rngs=nnx.Rngs(0))

        def __call__(self, x):
            return self.norm(self.conv(x)).mean((1, 2))

    model = Model()
    model.train()
    before, kinds = nnx.split(model), [type(m) for _, m in nnx.iter_graph(model)]
    attributes = [sorted(vars(m)) for _, m in nnx.iter_graph(model) if isinstance(m, nnx.Module)]
    gradcam.explain(model, X)
    gradcam.explain(model, X, layer=model.conv)
    with pytest.raises(ZeroDivisionError):
        gradcam.explain(model, X, target=lambda out: 1 / 0)
    after = nnx.split(model)
    assert before[0] == after[0]
    jax.tree.map(np.testing.assert_array_equal, before[1], after[1])
    assert kinds == [type(m) for _, m in nnx.iter_graph(model)]
    assert attributes == [
        sorted(vars(m)) for _, m in nnx.iter_graph(model) if isinstance(m, nnx.Module)
    ]
    assert not model.norm.use_running_average  # still in training mode


def test_linen_methods_scans_and_remat():
    class Step(nn.Module):
        @nn.compact
        def __call__(self, x, _):
            return jnp.tanh(nn.Conv(3, (3, 3), name="conv")(x)), None

    class Model(nn.Module):
        def setup(self):
            self.body = nn.scan(
                nn.remat(Step), {"params": 0}, split_rngs={"params": True}, length=2
            )()
            self.dense = nn.Dense(5)

        def features(self, x):
            return self.body(x, None)[0]

        def __call__(self, x):
            return self.dense(self.features(x).mean((1, 2)))

    variables = Model().init(jax.random.key(0), X)
    paths = [layer.path for layer in gradcam.layers((Model(), variables), X)]
    assert "body/conv" in paths
    assert "body/conv#1" in paths
    for path in ("body/conv", "body/conv#1"):
        gradcam.verify((Model(), variables), X, path).assert_passed()


def test_an_unbound_linen_module_says_what_it_lacks():
    with pytest.raises(ValueError, match=r"a flax.linen module holds no weights; pass a bound one"):
        gradcam.explain(Net(), X)


def test_a_layer_of_linen_is_named_by_its_path_alone():
    bound = Net().bind(Net().init(jax.random.key(0), X))
    match = r"`layer` must be a path, but is of type flax.*Conv; layers of flax.linen are named by"
    with pytest.raises(TypeError, match=match):
        gradcam.explain(bound, X, layer=nn.Conv(3, (3, 3)))


def test_an_explanation_can_be_part_of_the_users_own_program():
    @jax.jit
    def maps(w, x):
        return gradcam.explain(functools.partial(plain, w), x, "features", 1, check=False).maps

    expected = gradcam.explain(functools.partial(plain, W), X, "features", 1).maps
    np.testing.assert_allclose(maps(W, X), expected, rtol=1e-6)


def test_float64_is_on_only_while_verifying():
    report = gradcam.verify(functools.partial(plain, W), X)
    assert report.dtype == "float64"
    assert not jax.config.jax_enable_x64
    report.assert_passed()
    single = gradcam.verify(functools.partial(plain, W), X, float64=False)
    assert single.dtype == "float32"
    single.assert_passed()


class Nested(nnx.Module):
    def __init__(self, rngs):
        self.conv = nnx.Conv(2, 3, (3, 3), rngs=rngs)
        self.blocks = nnx.List([nnx.Conv(3, 3, (1, 1), rngs=rngs)])
        self.scale = nnx.data(jnp.ones(3))
        self.root = self  # a cycle
        self.power = 1
        self.act = nnx.relu
        self.head = nnx.Linear(3, 2, rngs=rngs)

    def __call__(self, x):
        x = self.act(self.conv(x)) * self.scale
        for block in self.blocks:
            x = block(x) ** self.power
        return self.head(x.mean((1, 2)))


def doubled(variable):
    variable[...] = 2 * variable[...]


CHANGES = {
    "a weight in place": lambda m: doubled(m.conv.kernel),
    "an array of its own": lambda m: setattr(m, "scale", 2 * m.scale),
    "a Variable": lambda m: setattr(m.conv, "kernel", nnx.Param(m.conv.kernel[...] * 2)),
    "a function": lambda m: setattr(m, "act", nnx.gelu),
    "a number": lambda m: setattr(m, "power", 2),
    "another block": lambda m: m.blocks.append(nnx.Conv(3, 3, (1, 1), rngs=nnx.Rngs(5))),
    "a replaced layer": lambda m: setattr(m, "head", nnx.Linear(3, 2, rngs=nnx.Rngs(7))),
    "a shared layer": lambda m: m.blocks.append(m.blocks[0]),
}


@pytest.mark.parametrize("change", CHANGES)
def test_a_module_that_changed_is_read_anew(change):
    module, x = Nested(nnx.Rngs(0)), X[:1, ..., :2]
    explainer = gradcam.Explainer(module, layer="conv")
    explainer(x, 1)
    CHANGES[change](module)
    assert np.asarray(explainer(x, 1).outputs) == pytest.approx(np.asarray(module(x)), rel=1e-5)


def test_a_module_is_split_once(monkeypatch):
    module, x = Nested(nnx.Rngs(0)), jnp.ones((1, 5, 5, 2))
    calls, split = [], nnx.split
    monkeypatch.setattr(nnx, "split", lambda *args: calls.append(1) or split(*args))
    for _ in range(3):
        gradcam.explain(module, x, layer="conv", target=1)
        doubled(module.conv.kernel)
    assert len(calls) == 1
