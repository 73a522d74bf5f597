"""Through which layers everything flows: read off a graph, and compared with holding each layer.

The oracle is made of plain hooks, or of a plain interpreter: with one layer's output held, other
inputs must give the same scores.
"""

from __future__ import annotations

import random

import numpy as np
import pytest

import gradcam
from gradcam import backends

LAYERS = 9


def wiring(seed):
    """For each layer the one or two earlier values that it takes; 0 is the input."""
    draw = random.Random(seed)
    return [draw.sample(range(n + 1), min(n + 1, draw.choice([1, 1, 2]))) for n in range(LAYERS)]


def outputs_of(seed):
    draw = random.Random(1000 + seed)
    return draw.sample(range(LAYERS - 3, LAYERS + 1), draw.choice([1, 2]))


@pytest.mark.parametrize("seed", range(25))
def test_pytorchs_graph_says_what_holding_each_layer_says(seed):
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Wired(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(seed)
            self.layers = nn.ModuleList(nn.Linear(4, 4).double() for _ in range(LAYERS))

        def forward(self, x):
            values = [x]
            for layer, sources in zip(self.layers, wiring(seed), strict=True):
                values.append(layer(torch.tanh(sum(values[n] for n in sources))))
            return sum(values[n] for n in outputs_of(seed))

    model = Wired().eval()
    x, other = torch.randn(2, 4).double(), torch.randn(2, 4).double()
    expected = set()
    for path, module in model.named_modules():
        if path.startswith("layers."):
            kept = []
            hook = module.register_forward_hook(lambda m, i, o, kept=kept: kept.append(o))
            scores = model(x)
            hook.remove()
            hook = module.register_forward_hook(lambda m, i, o, kept=kept: kept[0])
            held = model(other)
            hook.remove()
            if torch.allclose(held, scores, rtol=1e-9):
                expected.add(path)
    assert set(backends.adapt(model, x).flow(x, lambda scores: scores)) == expected


@pytest.mark.parametrize("seed", range(25))
def test_jaxs_program_says_what_holding_each_layer_says(seed):
    jax = pytest.importorskip("jax")
    nn = pytest.importorskip("flax.linen")

    class Wired(nn.Module):
        @nn.compact
        def __call__(self, x):
            values = [x]
            for n, sources in enumerate(wiring(seed)):
                total = sum(values[source] for source in sources)
                values.append(nn.Dense(4, name=f"layer{n}")(jax.nn.tanh(total)))
            return sum(values[n] for n in outputs_of(seed))

    x, other = jax.random.normal(jax.random.key(0), (2, 2, 4))
    variables = Wired().init(jax.random.key(seed), x)

    def scores(x, held=None):
        """The scores, and the layers' outputs, by a loop of its own."""
        values = [np.asarray(x, np.float64)]
        weights = variables["params"]
        for n, sources in enumerate(wiring(seed)):
            total = np.tanh(sum(values[source] for source in sources))
            layer = weights[f"layer{n}"]
            values.append(total @ np.asarray(layer["kernel"], np.float64) + layer["bias"])
            if held is not None and held[0] == n:
                values[-1] = held[1]
        return sum(values[n] for n in outputs_of(seed)), values[1:]

    before, layers = scores(x)
    expected = set()
    for n, value in enumerate(layers):
        if np.allclose(scores(other, (n, value))[0], before, rtol=1e-9):
            expected.add(f"layer{n}")
    found = backends.adapt((Wired(), variables), x).flow(x, lambda scores: scores)
    assert set(found) == expected


STEPS = {
    # from the carry, the layer of this step and the input: the new carry and what is stacked
    "all through the layer": lambda c, layer, x: (jnp_tanh(layer), None),
    "round the layer": lambda c, layer, x: (c + layer, None),
    "also stacked": lambda c, layer, x: (jnp_tanh(layer), c),
    "the input beside the carry": lambda c, layer, x: (layer + x, None),
}


def jnp_tanh(value):
    import jax.numpy as jnp

    return jnp.tanh(value)


@pytest.mark.parametrize("kind", STEPS)
def test_in_a_scan_too(kind):
    jax = pytest.importorskip("jax")
    nn = pytest.importorskip("flax.linen")
    step = STEPS[kind]

    class Step(nn.Module):
        @nn.compact
        def __call__(self, carry, x):
            return step(carry, nn.Dense(4, name="layer")(carry), x)

    class Scanned(nn.Module):
        @nn.compact
        def __call__(self, x):
            options = {"variable_axes": {"params": 0}, "split_rngs": {"params": True}}
            scan = nn.scan(Step, in_axes=nn.broadcast, length=3, **options)
            carry, stacked = scan(name="steps")(nn.Dense(4, name="first")(x), x)
            total = 0 if stacked is None else stacked.sum(0)
            return carry + total

    x, other = jax.random.normal(jax.random.key(0), (2, 2, 4))
    variables = Scanned().init(jax.random.key(1), x)

    def scores(x, held=None):
        """The scores, and the layer's outputs in each step, by a loop of its own."""
        weights = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), variables["params"])
        x = np.asarray(x, np.float64)
        carry = x @ weights["first"]["kernel"] + weights["first"]["bias"]
        layers, total = [], 0
        for n in range(3):
            layer = weights["steps"]["layer"]
            layers.append(carry @ layer["kernel"][n] + layer["bias"][n])
            if held is not None and held[0] == n:
                layers[-1] = held[1]
            if kind == "all through the layer":
                carry = np.tanh(layers[-1])
            elif kind == "round the layer":
                carry = carry + layers[-1]
            elif kind == "also stacked":
                total = total + carry
                carry = np.tanh(layers[-1])
            else:
                carry = layers[-1] + x
        return carry + total, layers

    before, layers = scores(x)
    expected = set()
    for n, value in enumerate(layers):
        if np.allclose(scores(other, (n, value))[0], before, rtol=1e-9):
            expected.add(f"steps/layer#{n}" if n else "steps/layer")
    found = backends.adapt((Scanned(), variables), x).flow(x, lambda scores: scores)
    assert {path for path in found if path.startswith("steps/layer")} == expected


def test_one_tensor_may_be_the_output_of_several_layers_each_a_way_of_its_own():
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Features(nn.Module):
        """Returns the same tensor twice."""

        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x):
            y = self.conv(x)
            return [y, y]

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = Features()
            self.head = nn.Linear(4, 5)

        def forward(self, x):
            first, second = self.features(x)
            return self.head((first.relu() + second.tanh()).mean((2, 3)))

    model, x = Model().eval(), torch.randn(2, 3, 8, 8)
    found = backends.adapt(model, x).flow(x, lambda scores: scores)
    assert list(found) == ["features.conv", "head"]
    assert gradcam.explain(model, x, target=1).layer == "features.conv"


def test_branches_that_meet_only_in_the_scores_are_said_to_be_parts():
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Branches(nn.Module):
        def __init__(self):
            super().__init__()
            self.left = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU())
            self.right = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.Tanh())
            self.heads = nn.ModuleList([nn.Linear(4, 5), nn.Linear(4, 5)])

        def forward(self, x):
            return self.heads[0](self.left(x).mean((2, 3))) + self.heads[1](
                self.right(x).mean((2, 3))
            )

    torch.manual_seed(0)
    model, x = Branches().eval(), torch.randn(2, 3, 16, 16)
    with pytest.warns(gradcam.GuessedLayerWarning, match="no one layer carries all"):
        e = gradcam.explain(model, x, target=1)
    assert e.layer == "right"
    assert not e.choice.everything


def test_one_position_that_the_score_reads_is_no_map():
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Pixel(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 6, 3, padding=1)
            self.rest = nn.Conv2d(6, 4, 3, padding=1)

        def forward(self, x):
            return self.rest(self.body(x).relu())

    torch.manual_seed(0)
    e = gradcam.explain(
        Pixel().eval(), torch.randn(2, 3, 16, 16), target=lambda scores: scores[:, 1, 5, 9]
    )
    assert e.layer == "body"  # the pixel reads 3 x 3 positions of it


def test_a_view_that_is_written_into_behind_the_layer():
    """Such as GhostNet's: made while no graph is kept, and written into while one is."""
    torch = pytest.importorskip("torch")
    nn = torch.nn

    class Views(nn.Module):
        def __init__(self):
            super().__init__()
            self.first = nn.Conv2d(3, 8, 3, padding=1)
            self.second = nn.Conv2d(4, 4, 3, padding=1)
            self.head = nn.Linear(4, 5)

        def forward(self, x):
            y = self.first(x)
            left, right = y[:, :4], y[:, 4:]
            z = self.second(right.relu())
            left += z
            return self.head(left.mean((2, 3)))

    torch.manual_seed(0)
    model, x = Views().eval(), torch.randn(2, 3, 8, 8)
    kept = []
    hook = model.second.register_forward_hook(lambda m, i, o: kept.append(o))
    scores = model(x)
    hook.remove()
    (gradient,) = torch.autograd.grad(scores[:, 1].sum(), kept[0])
    expected = (gradient.mean((2, 3), keepdim=True) * kept[0]).sum(1).relu().detach()
    torch.testing.assert_close(gradcam.explain(model, x, "second", 1).maps, expected)
