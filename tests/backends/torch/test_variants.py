"""Score-CAM's many passes in PyTorch: what is left out and what is batched, counted, and that nothing changes."""

import numpy as np
import pytest

import gradcam
from gradcam import maps as maps_

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402
from torch.nn.functional import batch_norm, conv2d  # noqa: E402
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
    """`block`, from 4 channels to 6, then a batch norm that follows no convolution, and a linear head."""

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


class Twice(nn.Module):
    """The convolution's output goes to its batch norm and elsewhere as well."""

    def __init__(self, how):
        super().__init__()
        self.conv, self.norm, self.how = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), how

    def forward(self, x):
        y = self.conv(x)
        if self.how == "added":
            return self.norm(y) + y
        if self.how == "normed twice":
            return self.norm(y) * self.norm(y)
        if self.how == "changed in place":
            return self.norm(y.mul_(2))
        if self.how == "branched on":
            return self.norm(y) if y.sum() > -1e9 else y
        if self.how == "a view":
            return self.norm(y) + y[:, :, :1]
        shared = self.norm(y) + self.norm(self.conv(x + 1))
        return shared


class Flat(nn.Module):
    def forward(self, x):
        return x.view(len(x), -1).view(x.shape)


class Slices(nn.Module):
    """Weights that are made in the pass, whose identities are used again, and one batch norm for all."""

    def __init__(self):
        super().__init__()
        self.weights, self.norm = nn.Parameter(torch.randn(4, 6, 4, 3, 3)), nn.BatchNorm2d(6)

    def forward(self, x):
        return sum(k * self.norm(conv2d(x, self.weights[n])) for n, k in enumerate((1, -2, 3, 0)))


class Kept(nn.Module):
    """What the convolution made stays where another may read it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6)

    def forward(self, x):
        self.there = self.conv(x)
        return self.norm(self.there)


class Computed(nn.Module):
    """A part that depends on the input: of the mean of all the samples."""

    def __init__(self, what):
        super().__init__()
        self.conv, self.norm, self.part, self.what = (
            nn.Conv2d(4, 6, 3),
            nn.BatchNorm2d(6),
            nn.Linear(4, 6),
            what,
        )

    def forward(self, x):
        part, norm = self.part(x.mean((0, 2, 3))), self.norm
        y = conv2d(x, self.conv.weight, part if self.what == "bias" else self.conv.bias)
        gain, shift = (part if self.what == one else None for one in ("gain", "shift"))
        return batch_norm(y, norm.running_mean, norm.running_var, gain, shift)


FOLDED = {
    "plain": lambda: nn.Sequential(
        nn.Conv2d(4, 5, 3, padding=1, bias=False), nn.BatchNorm2d(5), nn.Conv2d(5, 6, 1)
    ),
    "with a bias": lambda: nn.Sequential(
        nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.ReLU(inplace=True)
    ),
    "not affine": lambda: nn.Sequential(nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, affine=False)),
    "grouped": lambda: nn.Sequential(
        nn.Conv2d(4, 6, 3, groups=2, stride=2, dilation=2), nn.BatchNorm2d(6, eps=0.1)
    ),
    "a model that forbids channels_last": lambda: nn.Sequential(
        nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), Flat()
    ),
    "padded": lambda: nn.Sequential(
        nn.Conv2d(4, 6, 3, padding=1, padding_mode="reflect"), nn.BatchNorm2d(6)
    ),
}
WHOLE = {
    "of a batch": lambda: nn.Sequential(
        nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6, track_running_stats=False)
    ),
    "transposed": lambda: nn.Sequential(nn.ConvTranspose2d(4, 6, 3), nn.BatchNorm2d(6)),
    "not behind": lambda: nn.Sequential(nn.BatchNorm2d(4), nn.Conv2d(4, 6, 3)),
    "weights made on the way": lambda: Slices(),
    "kept by the model": lambda: Kept(),
    **{f"its own {what}": lambda what=what: Computed(what) for what in ("bias", "gain", "shift")},
    **{
        how: lambda how=how: Twice(how)
        for how in (
            "added",
            "normed twice",
            "changed in place",
            "branched on",
            "a view",
            "used for two inputs",
        )
    },
}


@pytest.mark.parametrize("name", [*FOLDED, *WHOLE])
def test_a_batch_norm_is_part_of_its_convolution_where_nothing_else_sees_it(name):
    model, x = made((FOLDED | WHOLE)[name])
    if name == "of a batch" or name.startswith("its own"):
        x = x[:1]  # what runs together is not told apart
    chunk = 1 if name.startswith("its own") else 32
    with Counted() as counted:
        found = gradcam.explain(model, x, "block", 1, "score-cam", relu=False, batch=chunk).maps
    if name != "of a batch":
        torch.testing.assert_close(found, expected(model, x), rtol=1e-12, atol=1e-12)
    norms = sum(isinstance(module, nn.BatchNorm2d) for module in model.modules())
    norms += {"normed twice": 1, "used for two inputs": 1, "weights made on the way": 3}.get(
        name, 0
    )
    # the capture and the first variant, which is watched, run all of them; the other five variants run at once
    batches = 1 if chunk > 1 else 5
    vain = 1 if name == "a model that forbids channels_last" else 0
    assert len(counted.rows["native_batch_norm"]) == 2 * norms + vain + batches * (
        1 if name in FOLDED else norms
    )


class Outputs(dict):
    """A mapping that PyTorch's trees do not know."""


class Telling(nn.Module):
    """Its output tells what the convolution made as well, or leaves it where the target finds it."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), nn.Linear(6, 3)

    def forward(self, x):
        self.raw = self.conv(x)
        raw = self.raw.mean((1, 2, 3))
        shown = self.raw if self.kept else None
        out = self.head(self.norm(self.raw).relu().mean((2, 3)))
        return Outputs(raw=shown, logits=out) if self.kept else (out, raw)


def test_what_the_outputs_or_the_target_may_read_is_not_folded():
    torch.manual_seed(0)
    model, x = Telling().double().eval(), torch.rand(1, 4, 9, 8, dtype=torch.float64)
    model.norm.running_mean.uniform_(-1, 1)
    model.kept = False
    plain = gradcam.explain(
        model, x, "conv", lambda out: out[0][:, 1] + out[1], "score-cam", relu=False
    ).maps
    model.kept = True
    target = lambda out: out["logits"][:, 1] + out["raw"].mean((1, 2, 3))  # noqa: E731
    shown = gradcam.explain(model, x, "conv", target, "score-cam", relu=False).maps
    stashed = lambda out: out["logits"][:, 1] + model.raw.mean((1, 2, 3))  # noqa: E731
    found = gradcam.explain(model, x, "conv", stashed, "score-cam", relu=False, batch=1).maps
    torch.testing.assert_close(shown, plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)


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
    assert model.block.rows[-2:] == [
        2,
        10,
    ]  # the first variant, which was to be watched; the others at once
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
    assert counted.rows["convolution"] == [2, 2, 10]


def test_a_watched_pass_keeps_nothing():
    """Of twenty layers no more live at once, watched and folded, than in a plain pass and one."""
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


@pytest.mark.parametrize("way", ["another norm", "no norm", "added", "swallowed"])
def test_a_model_that_then_takes_another_way_is_run_as_it_is(way):
    class Turning(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv, self.norm, self.calls = nn.Conv2d(4, 6, 3), nn.BatchNorm2d(6), 0

        def forward(self, x):
            self.calls += 1
            y = self.conv(x)
            if self.way == "another norm" and self.calls > 2:
                return self.other(y)
            if self.way == "no norm" and self.calls > 2:
                return y
            if self.way == "swallowed" and self.calls > 2:
                try:
                    return self.norm(y) + y
                except Exception:
                    return self.norm(self.conv(x))
            return self.norm(y) + y if self.way == "added" and self.calls > 2 else self.norm(y)

    model, x = made(Turning)
    model.block.way, model.block.other = way, nn.BatchNorm2d(6).double().eval()
    found = gradcam.explain(model, x, "block", 1, "score-cam", relu=False, batch=2).maps
    model.block.calls = 0
    activations = model.block(x)
    weights = []
    for n, channel in enumerate(activations.unbind(1)):
        model.block.calls = (
            1 if n == 0 else 9
        )  # the capture is the first call, what is watched the second
        mask = maps_.scale(maps_.resize(channel, (9, 8)), 2, "minmax")
        weights.append(model(x * mask[:, None])[:, 1])
    weights = torch.stack(weights, 1).softmax(1)
    torch.testing.assert_close(
        found, torch.einsum("nc,nchw->nhw", weights, activations), rtol=1e-12, atol=1e-12
    )


def test_the_weights_and_what_the_model_gives_stay_what_they_were():
    model, x = made(FOLDED["plain"])
    before, outputs = {name: value.clone() for name, value in model.state_dict().items()}, model(x)
    gradcam.explain(model, x, "block", 1, "score-cam")
    for name, value in model.state_dict().items():
        torch.testing.assert_close(value, before[name], rtol=0, atol=0)
    torch.testing.assert_close(model(x), outputs, rtol=0, atol=0)


@pytest.mark.parametrize(("largest", "rows"), [(3, [6, 6, 4]), (1, [2] * 8), (100, [16])])
def test_no_pass_is_larger_than_the_allocator_keeps(monkeypatch, largest, rows):
    """9 channels of 2 images: after the one that is watched 16 rows, whose widest layer is 24 channels."""
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
    assert sum(counted.rows["convolution"]) == 2 * (1 + runs)
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
    assert len(shown) == 3  # the image, seen through the first channel, and nothing of it
    assert np.zeros_like(image[0]).tobytes() in shown
