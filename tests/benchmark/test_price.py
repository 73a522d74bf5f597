"""The price of an explanation in PyTorch, held by counts that do not vary; of JAX in
test_jax.py.
"""

from __future__ import annotations

import numpy as np
import pytest

import gradcam

torch = pytest.importorskip("torch")
nn = torch.nn
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402
from torch.utils.flop_counter import FlopCounterMode  # noqa: E402

from gradcam.backends.torch import gradients as backend  # noqa: E402


class Largest(TorchDispatchMode):
    """The most values that any one tensor held that was made."""

    def __init__(self):
        super().__init__()
        self.values = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        found = func(*args, **(kwargs or {}))
        for one in torch.utils._pytree.tree_leaves(found):
            if (
                isinstance(one, torch.Tensor)
                and one.untyped_storage().nbytes() >= one.numel() * one.element_size()
            ):
                self.values = max(self.values, one.numel())
        return found


class Network(nn.Module):
    """conv [layer "conv"], then what `pool` makes of it, then a linear head of 60 classes, then
    tanh.
    """

    def __init__(self, pool):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.fc = nn.Linear(12, 60)
        self.pool = pool

    def forward(self, x):
        return torch.tanh(self.fc(self.pool(self.conv(x))))


POOLS = {
    "adaptive": (lambda a: nn.functional.adaptive_avg_pool2d(a, 1).flatten(1), True),
    "mean": (lambda a: a.mean((-1, -2)), True),
    "kept": (lambda a: a.mean((2, 3), keepdim=True)[:, :, 0, 0], True),
    "one axis": (lambda a: a.mean(3).mean(2), False),
    "channels as well": (lambda a: a.mean((2, 3)) + a.mean((1, 2, 3))[:, None], False),
    "twice": (lambda a: a.mean((2, 3)) + a.amax((2, 3)), False),
    "curved": (lambda a: nn.functional.silu(a).mean((2, 3)), False),
    "everything": (lambda a: a.mean() + a.mean((2, 3)), False),
}
"""What a network makes of its layer, and whether that is its mean over space and nothing else."""


def network(pool):
    torch.manual_seed(0)
    return Network(POOLS[pool][0]).eval().double()


def inputs(count=2):
    return torch.from_numpy(np.random.default_rng(0).standard_normal((count, 3, 8, 10)))


@pytest.mark.filterwarnings("ignore::gradcam.BlankMapWarning")
@pytest.mark.parametrize("method", ["grad-cam", "hires-cam"])
@pytest.mark.parametrize("pool", POOLS)
@pytest.mark.parametrize(
    "values", [None, 7000]
)  # at a time: all, and so few that there are several parts
def test_many_targets_are_the_same_as_one_by_one(pool, method, values, monkeypatch):
    if values:
        monkeypatch.setattr(backend, "POOLED_VALUES", values)
    if pool == "everything":
        x = inputs(1)  # else samples would depend on each other
    else:
        x = inputs()
    explainer = gradcam.Explainer(network(pool), "conv", method, relu=False)
    together = explainer(x, np.arange(60)[None]).maps
    alone = torch.stack([explainer(x, k).maps for k in range(60)], dim=1)
    torch.testing.assert_close(together, alone, rtol=1e-12, atol=1e-14)
    assert alone.abs().max() > 1e-3


@pytest.mark.parametrize("pool", POOLS)
def test_through_a_mean_no_gradient_has_the_layers_size(pool):
    x, layer, maps = inputs(1), 12 * 8 * 10, 60 * 8 * 10
    with Largest() as largest:
        gradcam.explain(network(pool), x, "conv", np.arange(60)[None], relu=False, check=False)
    if POOLS[pool][1]:
        assert largest.values == maps  # the result is the largest
    else:
        assert largest.values == 60 * layer


def test_gradients_that_are_averaged_are_held_a_few_at_a_time(monkeypatch):
    monkeypatch.setattr(backend, "POOLED_VALUES", 7 * 960)
    with Largest() as largest:
        gradcam.explain(
            network("twice"), inputs(1), "conv", np.arange(60)[None], relu=False, check=False
        )
    assert largest.values == 7 * 960


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_is_averaged_in_single(dtype):
    model, x = network("twice"), inputs()
    exact = gradcam.explain(model, x, "conv", [[0, 1, 2]], relu=False).maps
    found = gradcam.explain(model.to(dtype), x.to(dtype), "conv", [[0, 1, 2]], relu=False).maps
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), exact, rtol=0, atol=0.02 * float(exact.abs().max()))


def operations(call):
    with FlopCounterMode(display=False) as counter:
        call()
    return counter.get_total_flops()


@pytest.mark.parametrize("count", [1, 10, 60])
def test_operations_beyond_a_forward_pass_are_the_heads_and_the_maps(count):
    model, x = network("mean"), inputs(1)
    bare = operations(lambda: model(x))
    found = operations(
        lambda: gradcam.explain(model, x, "conv", np.arange(count)[None], relu=False)
    )
    # backward through the head is 2 x 60 x 12 for each target, the map 2 x 12 x 80
    assert found - bare <= count * (2 * 60 * 12 + 2 * 12 * 80)


def test_all_methods_together_make_one_forward_and_one_backward_pass():
    model, x = network("curved"), inputs(1)
    calls = {"forward": 0}
    model.register_forward_hook(lambda *_: calls.update(forward=calls["forward"] + 1))
    model.fc.weight.register_hook(lambda _: pytest.fail("a weight's gradient was computed"))
    names = [
        entry.name for entry in gradcam.methods.TABLE if entry.needs in ("gradients", "activations")
    ]
    found = gradcam.compare(model, x, "conv", 3, names, relu=False)
    assert len(found) == len(names) > 10
    assert calls["forward"] == 1


def test_full_grad_resizes_no_channel_by_itself():
    model = nn.Sequential(
        nn.Conv2d(3, 40, 3, stride=4),
        nn.ReLU(),
        nn.Conv2d(40, 40, 1),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
    )
    x = torch.randn(2, 3, 32, 32)
    with Largest() as largest:
        gradcam.explain(model.eval(), x, "1", 3, "full-grad")
    assert (
        x.numel() <= largest.values < 2 * 40 * 32 * 8
    )  # the channels at one full axis are not there
