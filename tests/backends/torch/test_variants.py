"""Score-CAM's many passes in PyTorch: what is batched, counted, and that nothing changes."""

import numpy as np
import pytest

import gradcam
from gradcam import maps as maps_

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.utils._python_dispatch import TorchDispatchMode  # noqa: E402

from gradcam.backends.torch import variants as torch_variants  # noqa: E402


class Counted(TorchDispatchMode):
    """The rows that each operation was run on."""

    def __init__(self):
        super().__init__()
        self.rows = {}

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        if args and isinstance(args[0], torch.Tensor) and args[0].ndim:
            self.rows.setdefault(func._schema.name.removeprefix("aten::"), []).append(len(args[0]))
        return func(*args, **(kwargs or {}))


class Network(nn.Module):
    """`block`, from 4 channels to 6, then a batch norm that follows no convolution, and a linear
    head.
    """

    def __init__(self, block):
        super().__init__()
        self.block, self.norm, self.head = block, nn.BatchNorm2d(6), nn.Linear(6, 3)

    def forward(self, x):
        y = self.block(x)
        y = y[0] if isinstance(y, tuple) else y
        return self.head((self.norm(y.relu()) * 1.5).mean((2, 3)))


def made(block):
    """The network with batch norms that do something, in double precision."""
    torch.manual_seed(0)
    model = Network(block()).double().eval()
    for module in model.modules():
        if isinstance(module, nn.BatchNorm2d) and module.track_running_stats:
            module.running_mean.uniform_(-1, 1)
            module.running_var.uniform_(0.2, 3)
            if module.affine:
                nn.init.uniform_(module.weight, -2, 2)
                nn.init.uniform_(module.bias, -1, 1)
    return model, torch.rand(2, 4, 9, 8, dtype=torch.float64)


def scores(model, x, layer="block"):
    """Score-CAM's scores of class 1, one variant at a time: (N, C)."""
    found = []
    with torch.no_grad():
        taken = []
        handle = model.get_submodule(layer).register_forward_hook(
            lambda module, args, out: taken.append(out)
        )
        model(x)
        handle.remove()
        for channel in taken[0].unbind(1):
            mask = maps_.scale(maps_.resize(channel, (9, 8)), 2, "minmax")
            found.append(model(x * mask[:, None])[:, 1])
    return torch.stack(found, 1), taken[0]


def expected(model, x, layer="block"):
    weights, activations = scores(model, x, layer)
    return torch.einsum("nc,nchw->nhw", weights.softmax(1), activations)


class Flat(nn.Module):
    def forward(self, x):
        return x.view(len(x), -1).view(x.shape)


NETWORKS = {
    "plain": lambda: nn.Sequential(
        nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.Conv2d(5, 6, 1)
    ),
    "written in place": lambda: nn.Sequential(
        nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
    ),
    "grouped": lambda: nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2, stride=2, dilation=2), nn.BatchNorm2d(6, eps=0.1)
    ),
    "a model that views its input": lambda: nn.Sequential(
        nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), Flat()
    ),
    "padded": lambda: nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6)
    ),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6)),
}


@pytest.mark.parametrize("name", NETWORKS)
def test_scores_are_those_of_one_variant_at_a_time(name):
    model, x = made(NETWORKS[name])
    found = gradcam.explain(model, x, "block", 1, "score-cam", relu=False).maps
    torch.testing.assert_close(found, expected(model, x), rtol=1e-12, atol=1e-12)


def test_a_model_that_cannot_be_watched_is_run_as_it_is():
    class Sparse(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.rows = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), []

        def forward(self, x):
            self.rows.append(len(x))
            y = self.norm(self.conv(x))
            if torch.utils._python_dispatch._get_current_dispatch_mode() is not None:
                raise NotImplementedError("no rule for this operator in a mode")
            return (
                torch.sparse.mm(
                    torch.eye(7, dtype=y.dtype).to_sparse(), y.transpose(0, 2).flatten(1)
                )
                .reshape(7, 6, len(x), 6)
                .transpose(0, 2)
            )

    model, x = made(Sparse)
    with torch.no_grad():
        found = gradcam.explain(model, x, "block", 1, "score-cam", relu=False).maps
    # the first variant, which was to be watched; the proof; the others at once, and the input
    assert model.block.rows[-3:] == [2, 4, 12]
    torch.testing.assert_close(found, expected(model, x), rtol=1e-12, atol=1e-12)


def test_what_does_not_grow_with_the_batch_is_not_counted(monkeypatch):
    class Weighty(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 6, 3)
            self.register_buffer("large", torch.ones(1000, 1000))

        def forward(self, x):
            return self.conv(x) + (self.large + 0).double()[0, 0] + torch.zeros(1000, 1000)[0, 0]

    model, x = made(Weighty)
    monkeypatch.setattr(torch_variants, "LIMIT", 10 * 2 * 6 * 9 * 8 * 8)
    with Counted() as counted:
        gradcam.explain(model, x, "block", 1, "score-cam")
    assert counted.rows["convolution"] == [2, 2, 4, 12]


def test_a_watched_pass_keeps_nothing():
    """Of twenty layers no more live at once while a pass is measured than in a plain pass and
    one.
    """
    alive, most = [], []

    def hook(module, args, out):
        alive.append(torch.utils.weak.TensorWeakRef(out))
        most.append(sum(one() is not None for one in alive))

    def block():
        return nn.Sequential(
            *[nn.Sequential(nn.Conv2d(4, 4, 1), nn.BatchNorm2d(4), nn.ReLU()) for _ in range(20)]
        )

    model, x = made(lambda: nn.Sequential(block(), nn.Conv2d(4, 6, 1)))
    for module in model.block[0]:
        module[2].register_forward_hook(hook)
    model(x)
    plain = max(most)
    most.clear()
    with torch.no_grad():
        model(x)
    plain = max(most)
    alive.clear(), most.clear()
    gradcam.explain(model, x, "block", 1, "score-cam", relu=False, batch=1)
    assert max(most) <= plain + 1


def test_the_weights_and_what_the_model_gives_stay_what_they_were():
    model, x = made(NETWORKS["plain"])
    before, outputs = {name: value.clone() for name, value in model.state_dict().items()}, model(x)
    gradcam.explain(model, x, "block", 1, "score-cam")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    torch.testing.assert_close(model(x), outputs, rtol=0, atol=0)


@pytest.mark.parametrize(("largest", "rows"), [(3, [4, 6, 6, 6]), (1, [2] * 9), (100, [4, 18])])
def test_no_pass_is_larger_than_the_allocator_keeps(monkeypatch, largest, rows):
    """9 channels of 2 images, and the images themselves: after the variant that is watched, and
    the proof of 4 rows, 18 rows, whose widest layer is 24 channels.
    """
    model, x = made(
        lambda: nn.Sequential(
            nn.Conv2d(4, 24, 3, padding=1), nn.Conv2d(24, 6, 1), nn.Conv2d(6, 9, 1)
        )
    )
    model.norm, model.head = nn.BatchNorm2d(9).double(), nn.Linear(9, 3).double()
    model.eval()
    monkeypatch.setattr(torch_variants, "LIMIT", largest * (2 * 24 * 9 * 8 * 8))
    with Counted() as counted:
        found = gradcam.explain(model, x, "block", 1, "score-cam", relu=False).maps
    widest = counted.rows["convolution"][::3]
    assert widest == [2, 2, *rows]  # the capture, the one that is watched, and the others
    torch.testing.assert_close(found, expected(model, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("method", ["score-cam", "ss-cam", "is-cam"])
def test_flat_channels_run_once(method):
    class Flat(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(4, 6, 3)

        def forward(self, x):
            y = self.conv(x)
            return torch.stack(
                [y[:, 0], y[:, 1] * 0 + 2, y[:, 2], y[:, 3] * 0, y[:, 4], y[:, 5] * 0 - 1], 1
            )

    model, x = made(Flat)
    options = {} if method == "score-cam" else {"samples": 2}
    with Counted() as counted:
        found = gradcam.explain(model, x, "block", 1, method, relu=False, **options).maps
    runs = 4 * options.get("samples", 1)  # three channels, and one for the three flat ones
    # the capture, the input itself, and a proof of two
    assert sum(counted.rows["convolution"]) == 2 * (1 + runs + 1 + 2)
    if method == "score-cam":
        torch.testing.assert_close(found, expected(model, x), rtol=1e-12, atol=1e-12)
    alone = torch.cat(
        [
            gradcam.explain(model, x[n : n + 1], "block", 1, method, relu=False, **options).maps
            for n in (0, 1)
        ]
    )
    torch.testing.assert_close(found, alone, rtol=1e-12, atol=1e-12)


def test_a_channel_that_is_flat_for_one_image_alone_keeps_its_score():
    features = np.random.default_rng(0).random((2, 4, 5, 6))
    features[0, 1] = 3.0
    model = gradcam.Split(lambda x: x, lambda a: a.sum((2, 3)))
    both = gradcam.explain(model, features, target=1, method="score-cam", relu=False).numpy().maps
    for n in (0, 1):
        one = (
            gradcam.explain(model, features[n : n + 1], target=1, method="score-cam", relu=False)
            .numpy()
            .maps
        )
        np.testing.assert_allclose(both[n], one[0], rtol=1e-12)


def test_a_constant_that_resizing_would_round_shows_nothing():
    """0.1 resized to 9 x 8 is 0.1 up to rounding, which minmax would blow up to a mask."""
    random = np.random.default_rng(0)
    features = random.random((1, 3, 7, 6), dtype=np.float32)
    features[0, 1], features[0, 2] = 0.1, 0.3
    image = random.random((1, 4, 9, 8), dtype=np.float32)
    seen = []

    def constant(x):
        seen.extend(np.asarray(x).copy())
        return np.repeat(features, len(x), axis=0)

    gradcam.explain(
        gradcam.Split(constant, lambda a: a.sum((2, 3))), image, method="score-cam", target=1
    )
    shown = {one.tobytes() for one in seen}
    # the image, seen through the first channel, nothing of it, and the proof's other variant
    assert len(shown) == 4
    assert np.zeros_like(image[0]).tobytes() in shown
