"""Whatever raises, wherever: afterwards model, inputs and the frameworks' global state are as they
were.
"""

from __future__ import annotations

import functools
import random as python_random

import networks
import numpy as np
import pytest

import gradcam
from gradcam.methods import TABLE
from gradcam.space.memory import forget

pytestmark = pytest.mark.filterwarnings("ignore::gradcam.BlankMapWarning")


class BoomError(Exception):
    pass


ATTENTION = ("legrad", "attention-rollout")
METHODS = [
    entry.name for entry in TABLE if entry.name not in (*ATTENTION, "cam")
]  # CAM needs a linear head


def entries(layer):
    """Every public way into a model: (model, inputs, target) -> anything."""
    found = {
        f"explain {name}": functools.partial(
            lambda name, m, x, t: gradcam.explain(m, x, layer, t, name, batch=2).heatmaps(), name
        )
        for name in METHODS
    }

    def layer_found(m, x, t):
        forget(m)  # so that the search for a layer runs, and fails, each time
        return gradcam.explain(m, x, None, t)

    found["explain, layer found"] = layer_found
    found["explain several layers, smoothed"] = lambda m, x, t: gradcam.explain(
        m, x, [layer, layer], t, smoothing=gradcam.Smoothing(noise=0.1)
    )
    found["heatmaps"] = lambda m, x, t: gradcam.Explainer(m, layer).heatmaps(x, t)
    found["compare"] = lambda m, x, t: gradcam.compare(
        m, x, layer, t, ["grad-cam", "eigen-cam", "ablation-cam"]
    )
    found["layers"] = lambda m, x, t: gradcam.layers(m, x)
    found["verify"] = lambda m, x, t: gradcam.verify(m, x, layer, t, directions=1, channels=1)
    found["words"] = lambda m, x, t: gradcam.words(m, x, layer, t)
    found["factorise"] = lambda m, x, t: gradcam.factorise(m, x, layer, 2, iterations=2)
    found["guided_backprop"] = gradcam.guided_backprop
    found["guided_grad_cam"] = lambda m, x, t: gradcam.guided_grad_cam(m, x, layer, t)
    return found


ENTRIES = entries("second")
NO_TARGET = ("layers", "factorise")
NEVER_ALL = ("layers",)


class Fuse:
    """Blows at its n-th use, once it is armed."""

    def __init__(self, error=BoomError):
        self.error, self.left, self.blown = error, None, False

    def arm(self, uses):
        self.left, self.blown = uses, False

    def __call__(self, *_):
        if self.left is not None:
            self.left -= 1
            if self.left < 0:
                self.left, self.blown = None, True
                raise self.error


# -------------------------------------------------------------------------------------------- torch


def torch_state(model, inputs):
    """Everything that an explanation could leave changed."""
    import torch
    import torch.utils.checkpoint
    from torch.nn.modules import module as modules

    from gradcam.backends.torch.sessions import Session

    kinds = [name for name in vars(model) if name.endswith("_hooks")]
    import torch._dynamo

    return {
        "hooks": [
            [list(getattr(m, kind)) for kind in kinds if hasattr(m, kind)] for m in model.modules()
        ],
        "attributes": [sorted(vars(m)) for m in model.modules()],
        "types": [type(m) for m in model.modules()],
        "training": [m.training for m in model.modules()],
        "parameters": [
            (p.tolist(), p.requires_grad, p.grad is None or p.grad.tolist())
            for p in model.parameters()
        ],
        "identity": [id(p) for p in model.parameters()],
        "buffers": [b.tolist() for b in model.buffers()],
        "inputs": (inputs.tolist(), inputs.requires_grad, inputs.grad is None),
        "modes": (
            torch.is_grad_enabled(),
            torch.is_inference_mode_enabled(),
            torch.is_autocast_enabled("cpu"),
            torch._C._len_torch_function_stack(),
            torch._C._len_torch_dispatch_stack(),
            torch.get_default_dtype(),
            torch.are_deterministic_algorithms_enabled(),
            torch.backends.mha.get_fastpath_enabled(),
        ),
        "patched": (
            torch.utils.checkpoint.CheckpointFunction,
            torch.nn.functional.multi_head_attention_forward,
            torch.nn.functional.scaled_dot_product_attention,
            torch._dynamo.eval_frame._stance,
            [
                len(vars(modules)[name])
                for name in vars(modules)
                if name.startswith("_global_") and "hooks" in name
            ],
        ),
        "session": Session.innermost(),
        "random": (
            torch.get_rng_state().tolist(),
            np.random.get_state()[1].tolist(),  # noqa: NPY002
            python_random.getstate(),
        ),
    }


@pytest.fixture
def torch_case():
    torch = pytest.importorskip("torch")
    model = networks.torch_network()
    inputs = torch.from_numpy(networks.images(2))
    model(inputs).sum().backward()  # gradients that must not be lost
    model.conv1.weight.requires_grad_(False)
    fuses = {}
    for name, module in model.named_children():
        fuses[name] = fuse = Fuse()
        module.register_forward_hook(
            lambda *_, fuse=fuse: fuse()
        )  # the user's own, which may raise
    return model, inputs, fuses


def calls(run, fuse):
    """How often one undisturbed run uses the fuse."""
    fuse.arm(10**9)
    run()
    used = 10**9 - fuse.left
    fuse.left = None
    return used


@pytest.mark.parametrize("error", [BoomError, KeyboardInterrupt])
@pytest.mark.parametrize("entry", ENTRIES)
def test_torch_is_left_as_it_was_wherever_the_model_raises(torch_case, entry, error):
    model, inputs, fuses = torch_case
    run = functools.partial(ENTRIES[entry], model, inputs, 1)
    before, blown = torch_state(model, inputs), 0
    run()  # the layer that is found is kept, so that later runs take fewer passes
    for fuse in fuses.values():
        fuse.error = error
        used = calls(run, fuse)
        for n in sorted({0, used // 2, used - 1} - {-1}):
            fuse.arm(n)
            with pytest.raises(error):
                run()
            blown += fuse.blown
            assert torch_state(model, inputs) == before
    assert blown >= len(fuses)
    assert np.isfinite(np.asarray(gradcam.explain(model, inputs, "second", 1).maps)).all()


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("entry", [name for name in ENTRIES if name not in NO_TARGET])
def test_torch_is_left_as_it_was_when_the_target_raises(torch_case, entry, grad):
    import torch

    model, inputs, _ = torch_case
    fuse = Fuse()

    def target(outputs):
        fuse()
        return outputs[:, 1]

    run = functools.partial(ENTRIES[entry], model, inputs, target)
    with torch.set_grad_enabled(grad):
        before = torch_state(model, inputs)
        used = calls(run, fuse)
        assert used > 0
        for n in sorted({0, used // 2, used - 1}):
            fuse.arm(n)
            with pytest.raises(BoomError):
                run()
            assert torch_state(model, inputs) == before


# --------------------------------------------------------------------------------------------- both


def jax_state(case):
    """What an explanation in JAX could leave changed."""
    import jax
    from flax import nnx

    from gradcam.backends.jax import tapped as backend

    model = case.model
    found = {
        "config": {
            name: getattr(jax.config, name)
            for name in ("jax_enable_x64", "jax_default_matmul_precision")
        },
        "current": backend.current(),
        "random": (np.random.get_state()[1].tolist(), python_random.getstate()),  # noqa: NPY002
    }
    if isinstance(model, nnx.Module):
        nodes = [node for _, node in nnx.iter_graph(model) if isinstance(node, nnx.Module)]
        found["nodes"] = [(id(node), type(node), sorted(vars(node))) for node in nodes]
        found["leaves"] = [np.asarray(leaf).tolist() for leaf in jax.tree.leaves(nnx.state(model))]
    return found


@pytest.mark.parametrize("entry", [name for name in ENTRIES if name not in NO_TARGET])
def test_what_a_target_raises_leaves_jax_as_it_was(entry):
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        case = networks.case("nnx")
        inputs = case.inputs(2)

        def target(outputs):
            raise BoomError

        before = jax_state(case)
        with pytest.raises(BoomError):
            ENTRIES[entry](case.model, inputs, target)
        assert jax_state(case) == before


@pytest.mark.parametrize("where", ["conv1", "first", "conv2", "second", "linear"])
def test_a_jax_model_that_raises_half_way_is_left_as_it_was(where):
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        case = networks.case("nnx")
        inner, inputs, fuse = getattr(case.model, where), case.inputs(2), Fuse()
        before = jax_state(case)

        class Fails(type(inner)):
            def __call__(self, *args):
                fuse()
                return super().__call__(*args)

        object.__setattr__(inner, "__class__", Fails)
        for entry in (
            "explain grad-cam",
            "layers",
            "verify",
            "explain score-cam",
            "guided_backprop",
        ):
            fuse.arm(0)
            with pytest.raises(BoomError):
                ENTRIES[entry](case.model, inputs, 1)
        object.__setattr__(inner, "__class__", type(inner).__mro__[1])
        assert jax_state(case) == before


def test_what_a_method_raises_leaves_everything_as_it_was(torch_case):
    model, inputs, _ = torch_case

    def method(activations, gradients):
        raise BoomError

    before = torch_state(model, inputs)
    with pytest.raises(BoomError):
        gradcam.explain(model, inputs, "second", 1, method)
    with pytest.raises(BoomError):
        gradcam.compare(model, inputs, "second", 1, ["grad-cam", method])
    assert torch_state(model, inputs) == before
