"""The passes that each row of the table of methods claims, counted."""

import math
import re
from unittest import mock

import numpy as np
import pytest

import gradcam
from gradcam.methods import METHODS, TABLE

C, S, N = 6, 4, 2


def claimed(cost):
    """ "C S + 4 forward, 1 backward" -> {"forward": 28, "backward": 1}, for the C and S above."""
    found = {}
    for part in cost.split(", "):
        number, kind = re.fullmatch(r"(.+) (forward|backward|of the head)", part).groups()
        terms = [math.prod({"C": C, "S": S}.get(f) or int(f) for f in term.split())
                 for term in number.split(" + ")]  # fmt: skip
        found[kind] = sum(terms)
    return found


def options(name):
    own = METHODS[name].parameters
    return {key: S for key in ("steps", "samples") if key in own}


# ------------------------------------------------------------------------------------ PyTorch


def network(method):
    import torch
    from torch import nn

    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, C, 4, 4)
            if METHODS[method].needs == "attention":
                self.attention = nn.MultiheadAttention(C, 2, batch_first=True)
            self.head = nn.Linear(C, 5)

        def forward(self, x):
            y = self.body(x)
            if METHODS[method].needs == "attention":
                y = y.flatten(2).mT
                y = y + self.attention(y, y, y, need_weights=False)[0]
                return self.head(y.mean(1))
            if method != "cam":
                y = y.sigmoid()
            return self.head(y.mean((2, 3)))

    torch.manual_seed(0)
    return Net().eval()


@pytest.mark.parametrize("name", METHODS)
def test_in_torch(name):
    torch = pytest.importorskip("torch")
    net = network(name)
    counts = {"forward": 0, "backward": 0, "of the head": 0}

    def count(kind):
        return lambda module, args, output: counts.update({kind: counts[kind] + len(output) // N})

    x = torch.rand(N, 3, 16, 16)
    layer = "body" if METHODS[name].uses_layer else None
    # the first call may ask the network where space is; what it answers is kept
    gradcam.explain(net, x, layer, 1, name, relu=False, **options(name))
    net.body.register_forward_hook(count("forward"))
    gradients = torch.autograd.grad

    def counted(*args, **kwargs):
        counts["backward"] += 1
        return gradients(*args, **kwargs)

    heads = []
    aten = torch.ops.aten
    products = (aten.addmm.default, aten.mm.default, aten.bmm.default)

    class Heads(torch.utils._python_dispatch.TorchDispatchMode):
        """Under `torch.vmap` the head is another operation: its rows tell the variants."""

        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            result = func(*args, **(kwargs or {}))
            if func in products and result.shape[-1] == 5:
                heads.append(result.numel() // (5 * N))
            return result

    with mock.patch.object(torch.autograd, "grad", counted), Heads():
        gradcam.explain(net, x, layer, 1, name, relu=False, **options(name))
    claims = claimed(METHODS[name].cost)
    assert counts["forward"] == claims["forward"]
    assert counts["backward"] == claims.get("backward", 0)
    if "of the head" in claims:
        assert sum(heads) - counts["forward"] == claims["of the head"]


# ---------------------------------------------------------------------------------------- JAX


@pytest.mark.parametrize("name", [spec.name for spec in TABLE if spec.uses_layer])
def test_in_jax_at_most_as_many(name):
    """By the operations of the compiled programs, of which nearly all are below the layer."""
    jax = pytest.importorskip("jax")
    from jax.ad_checkpoint import checkpoint_name

    from gradcam.backends.jax import model, scorer

    random = np.random.default_rng(0)
    below = jax.numpy.asarray(random.normal(size=(3, C)), "float32")
    above = jax.numpy.asarray(random.normal(size=(C, 5)), "float32")
    middle = jax.numpy.asarray(np.linalg.qr(random.normal(size=(C, C)))[0], "float32")

    def net(x):
        y = x @ below
        for _ in range(200):
            y = y @ middle
        y = checkpoint_name(y, "layer")
        return (y if name == "cam" else jax.numpy.tanh(y)).mean((1, 2)) @ above

    x = jax.numpy.asarray(random.random((N, 4, 4, 3)), "float32")
    bare = jax.jit(net).lower(x).compile().cost_analysis()["flops"]
    total = []

    def counted(function):
        def run(what, *arrays):
            program = function.program(what).lower(*arrays).compile()
            total.append(program.cost_analysis().get("flops", 0.0))
            return function(what, *arrays)

        return run

    with (
        mock.patch.object(model, "run_program", counted(model.run_program)),
        mock.patch.object(scorer, "residuals", counted(scorer.residuals)),
        mock.patch.object(scorer, "scores", counted(scorer.scores)),
    ):
        gradcam.explain(net, x, "layer", 1, name, relu=False, check=False, batch=1, **options(name))
    claims = claimed(METHODS[name].cost)
    passes = sum(total) / bare
    assert 0.99 < passes <= 1.05 * claims["forward"]
    if METHODS[name].needs in ("replays", "a linear head"):
        assert passes < 1.05 * 2
