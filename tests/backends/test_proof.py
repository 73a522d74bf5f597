"""Faster ways to the scores of many variants: believed where they prove themselves."""

import logging
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

import gradcam
from gradcam import maps

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

WEIGHTS = torch.randn(5, 6, generator=torch.Generator().manual_seed(0))
POOL = ThreadPoolExecutor(1)


class InNumpy(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return torch.from_numpy(np.tanh(x.detach().numpy()))


class SetsData(nn.Linear):
    def forward(self, a):
        means = a.mean((2, 3))
        self.bias.data = means.mean(0)[:5] * 3
        return super().forward(means)


class Swaps(nn.Linear):
    def forward(self, a):
        means = a.mean((2, 3))
        bias = nn.Parameter(means.mean(0)[:5].clone())
        torch.utils.swap_tensors(self.bias, bias)
        return super().forward(means)


def linear(a):
    return a.mean((2, 3)) @ WEIGHTS.T


def in_numpy(a):
    return torch.from_numpy(a.numpy().mean((2, 3)) @ WEIGHTS.numpy().T)


def partly_in_numpy(a):
    return linear(a) + torch.from_numpy(np.asarray(a).max((1, 2, 3)))[:, None] * WEIGHTS[:, 0]


def in_a_thread(a):
    return linear(a) * POOL.submit(lambda: a.amax((1, 2, 3))).result()[:, None]


def by_cond(a):
    return torch.cond(a.mean() > 0, linear, lambda a: -linear(a), (a,))


HEADS = {
    "recorded": linear,
    "in NumPy": in_numpy,
    "partly in NumPy": partly_in_numpy,
    "by tolist": lambda a: torch.tensor(a.mean((2, 3)).tolist()) @ WEIGHTS.T,
    "in a function": lambda a: linear(InNumpy.apply(a)),
    "in a thread": in_a_thread,
    "a parameter's data set": SetsData(6, 5),
    "a parameter swapped": Swaps(6, 5),
    "torch.cond": by_cond,
}


class Tagged(torch.Tensor):
    """A subclass, as fastai's and torchvision's."""


class Net(nn.Module):
    def __init__(self, head):
        super().__init__()
        torch.manual_seed(1)
        self.features, self.head = nn.Conv2d(3, 6, 3), head

    def forward(self, x):
        return self.head(self.features(x))


@pytest.mark.parametrize("kind", ["tensor", "subclass", "parameter"])
@pytest.mark.parametrize("name", HEADS)
def test_ablation_is_that_of_a_loop(name, kind):
    net = Net(HEADS[name]).eval()
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    given = {"tensor": x, "subclass": x.as_subclass(Tagged), "parameter": nn.Parameter(x.clone())}
    calls = []
    net.features.register_forward_hook(lambda *_: calls.append(1))
    e = gradcam.explain(net, given[kind], "features", 1, "ablation-cam", relu=False)
    # the capture, the tape and its proof; or besides one for each channel, and for none of them
    assert len(calls) == 3 if name == "recorded" else 3 < len(calls) <= 3 + 7
    with torch.no_grad():
        a = net.features(x)
        full = net.head(a)[:, 1]
        weights = []
        for k in range(6):
            ablated = a.clone()
            ablated[:, k] = 0
            weights.append((full - net.head(ablated)[:, 1]) / full.abs())
    expected = torch.einsum("nk,nkhw->nhw", torch.stack(weights, 1), a)
    torch.testing.assert_close(torch.Tensor(e.maps), expected, rtol=1e-4, atol=1e-5)


class Small(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.linear = nn.Conv2d(3, 6, 3), nn.Linear(6, 5)
        self.norm = nn.BatchNorm2d(3, track_running_stats=False)

    def scores(self, x):
        return self.linear(torch.relu(self.conv(x)).mean((2, 3)))


class OverTheLargest(Small):
    def forward(self, x):
        return self.scores(x / x.max())


class OverTheNumber(Small):
    def forward(self, x):
        return self.scores(x) / len(x)


class OfTheBatch(Small):
    def forward(self, x):
        return self.scores(self.norm(x))


class Scaled(Small):
    def forward(self, x, scale):
        return self.scores(x) * float(scale)


class Resized(Small):
    def forward(self, x, size):
        return self.scores(nn.functional.interpolate(x, size=tuple(size.tolist())))


class Prompted(Small):
    def forward(self, x, prompts):
        return (self.scores(x) @ prompts.T).softmax(-1)


class OfItsStrides(Small):
    def forward(self, x):
        return self.scores(x) * x.stride()[1]


class Plain(Small):
    def forward(self, x):
        return self.scores(x)


MIXING = {
    Plain: (),
    OverTheLargest: (),
    OverTheNumber: (),
    OfTheBatch: (),
    Scaled: (torch.tensor([1.7]),),
    Resized: (torch.tensor([10, 9]),),
    Prompted: (torch.randn(2, 5, generator=torch.Generator().manual_seed(5)),),
    OfItsStrides: (),
}


@pytest.mark.parametrize("samples", [1, 2])
@pytest.mark.parametrize("kind", MIXING)
def test_score_cam_is_that_of_a_loop(kind, samples, caplog):
    caplog.set_level(logging.DEBUG, "gradcam")
    model, others = kind().eval(), MIXING[kind]
    x = torch.rand(samples, 3, 10, 9, generator=torch.Generator().manual_seed(3))
    seen = []
    hook = model.conv.register_forward_hook(lambda module, args, output: seen.append(output))
    e = gradcam.explain(model, (x, *others), "conv", 1, "score-cam", relu=False)
    # the capture, one variant, the proof, and all others at once, with the image itself
    rows = [len(output) // samples for output in seen]
    if "variants run one at a time" in caplog.text:
        assert kind not in (Plain, OfItsStrides)
        assert rows == [1, 1, 2] + [1] * 6 or rows == [1] * 8
    else:  # two images have no scale each, and one image has no two prompts
        assert kind in (Plain, OfItsStrides, Scaled, Resized, Prompted)
        assert rows == [1, 1, 2, 6]
    hook.remove()
    found = []
    with torch.no_grad():
        for channel in seen[0].unbind(1):
            mask = maps.scale(maps.resize(channel, (10, 9)), 2, "minmax")
            found.append(model(x * mask[:, None], *others)[:, 1])
    expected = torch.einsum("nc,nchw->nhw", torch.stack(found, 1).softmax(1), seen[0])
    torch.testing.assert_close(e.maps, expected, rtol=1e-4, atol=1e-5)


def test_both_frameworks_mean_the_same_by_a_batch():
    """A head that mixes the samples of a batch mixes those of one variant, and no others."""
    jnp = pytest.importorskip("jax").numpy
    x = np.random.default_rng(0).random((2, 3, 6, 5)).astype(np.float32)

    def model(library, axes):
        def head(a):
            means = a.mean(axes)
            return means**2 / means.max()

        return gradcam.Split(lambda x: library.tanh(x * 3), head)

    models = {
        "torch": (model(torch, (2, 3)), torch.from_numpy(x)),
        "numpy": (model(np, (2, 3)), x.astype(np.float64)),
        "jax": (model(jnp, (1, 2)), jnp.asarray(x.transpose(0, 2, 3, 1))),
    }
    for method in ("score-cam", "ablation-cam"):
        found = {
            name: gradcam.explain(*given, target=1, method=method, relu=False).numpy().maps
            for name, given in models.items()
        }
        np.testing.assert_allclose(found["torch"], found["jax"], rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(found["numpy"], found["jax"], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("method", ["ablation-cam", "score-cam"])
@pytest.mark.parametrize(
    "head",
    [
        lambda a: linear(a) + torch.randn(len(a), 5),
        lambda a: linear(nn.functional.dropout(a, 0.5, training=True)),
    ],
)
def test_a_model_of_chance_is_told(method, head):
    x = torch.rand(2, 3, 8, 8, generator=torch.Generator().manual_seed(2))
    with pytest.warns(UserWarning, match="other scores for the same input in another pass"):
        gradcam.explain(Net(head).eval(), x, "features", 1, method, relu=False)


def test_bytes_are_masked_as_bytes():
    class OfBytes(Plain):
        def forward(self, x):
            return self.scores(x.float() / 255)

    model = OfBytes().eval()
    x = torch.randint(0, 256, (2, 3, 10, 9), dtype=torch.uint8)
    of_bytes = gradcam.explain(model, x, "conv", 1, "score-cam", relu=False).maps
    of_floats = gradcam.explain(model, x.float(), "conv", 1, "score-cam", relu=False).maps
    torch.testing.assert_close(of_bytes, of_floats, rtol=1e-2, atol=1e-3)
