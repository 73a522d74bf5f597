"""States of PyTorch models."""

from __future__ import annotations

import copy
import dataclasses
import functools
import warnings
from collections.abc import Callable
from typing import Any

import torch
import torch.nn.functional as F
from states import Explained, state
from torch import nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence
from torch.utils._pytree import tree_leaves
from torch.utils.checkpoint import checkpoint

import gradcam

HALF = 2e-2


class Network(nn.Module):
    """Two blocks and a head; the layer explained is "features.conv2"."""

    def __init__(self, inplace: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.features = nn.Sequential()
        self.features.add_module("conv1", nn.Conv2d(3, 8, 3, padding=1))
        self.features.add_module("norm", nn.BatchNorm2d(8))
        self.features.add_module("relu", nn.ReLU(inplace))
        self.features.add_module("conv2", nn.Conv2d(8, 12, 3, padding=1, stride=2))
        self.features.add_module("last", nn.ReLU(inplace))
        self.head = nn.Sequential(
            nn.Conv2d(12, 12, 1), nn.Tanh(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.linear = nn.Linear(12, 5)
        self.eval()

    def forward(self, x: torch.Tensor) -> Any:
        return self.linear(self.head(self.features(x)))


def images() -> torch.Tensor:
    return torch.randn(2, 3, 8, 10, generator=torch.Generator().manual_seed(1))


LAYER = "features.conv2"
explain = functools.partial(gradcam.explain, target=[[1, 3]])


@functools.cache
def plain(layer: str = LAYER, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    """The maps of the plain model, by autograd alone."""
    return by_autograd(Network().to(dtype), layer, images().to(dtype))


def by_autograd(model: nn.Module, layer: str, x: torch.Tensor) -> torch.Tensor:
    """The maps at the first call of a layer, by autograd alone."""
    found: list[Any] = []
    hook = model.get_submodule(layer).register_forward_hook(lambda *given: found.append(given[2]))
    scores = model(x)[:, [1, 3]]
    hook.remove()
    slopes = [
        torch.autograd.grad(scores[:, k].sum(), found[0], retain_graph=True)[0] for k in range(2)
    ]
    weights = torch.stack(slopes, 1).mean((-2, -1), keepdim=True)
    return F.relu((weights * found[0][:, None]).sum(2)).detach()


torch_state = functools.partial(state, "PyTorch")

# ----------------------------------------------------------------------------- parameters and modes

parameters = functools.partial(torch_state, "Parameters and modes")


@parameters("all parameters frozen")
def frozen() -> Explained:
    return explain(Network().requires_grad_(False), images(), LAYER).maps, plain()


@parameters("some parameters frozen")
def partly_frozen() -> Explained:
    model = Network()
    model.features.conv1.requires_grad_(False)
    model.linear.requires_grad_(False)
    return explain(model, images(), LAYER).maps, plain()


@parameters("called under `no_grad`")
def under_no_grad() -> Explained:
    with torch.no_grad():
        return explain(Network(), images(), LAYER).maps, plain()


@parameters("called under `inference_mode`, inputs made there")
def under_inference_mode() -> Explained:
    model, expected = Network(), plain()
    with torch.inference_mode():
        return explain(model, images(), LAYER).maps, expected


@parameters("Ablation-CAM, Score-CAM, LayerCAM with smoothing under `inference_mode`")
def methods_under_inference_mode() -> Explained:
    def maps() -> list[torch.Tensor]:
        options: list[dict[str, Any]] = [
            {"method": "ablation-cam"},
            {"method": "score-cam"},
            {"method": "integrated-grad-cam"},
            {"method": "full-grad"},
            {"method": "layer-cam", "smoothing": gradcam.Smoothing(noise=2)},
        ]
        return [explain(Network(), images(), LAYER, **one).heatmaps() for one in options]

    expected = maps()
    with torch.inference_mode():
        found = maps()
    return torch.stack(found), torch.stack(expected)


@parameters("made under `inference_mode`")
def made_under_inference_mode() -> Explained:
    with torch.inference_mode():
        model = Network()
    return explain(model, images(), LAYER).maps, plain()


@parameters("a head made under `inference_mode`")
def head_made_under_inference_mode() -> Explained:
    model = Network()
    with torch.inference_mode():
        model.linear = copy.deepcopy(model.linear)
    return explain(model, images(), LAYER).maps, plain()


class Keeps(Network):
    """Keeps tensors of its first call, as detectors keep their anchors."""

    def __init__(self, keep: Callable[[torch.Tensor], Any]) -> None:
        super().__init__()
        self.keep, self.kept = keep, None

    def forward(self, x: torch.Tensor) -> Any:
        y = super().forward(x)
        if self.kept is None:
            self.kept = self.keep(torch.ones(y.shape[-1]))
        return y * tree_leaves(self.kept)[0]


def kept(keep: Callable[[torch.Tensor], Any]) -> Explained:
    model = Keeps(keep)
    with torch.inference_mode():
        model(images())
    return explain(model, images(), LAYER).maps, plain()


parameters("keeps a tensor of a call under `inference_mode` in an attribute")(
    lambda: kept(lambda tensor: tensor)
)
parameters("keeps one in a list")(lambda: kept(lambda tensor: [tensor]))
parameters("keeps one in a dictionary")(lambda: kept(lambda tensor: {"anchors": (tensor,)}))


@parameters("called under `autocast` (bfloat16)", tolerance=HALF)
def under_autocast() -> Explained:
    with torch.autocast("cpu", torch.bfloat16):
        return explain(Network(), images(), LAYER).maps, plain()


@parameters("Eigen-CAM's heatmaps under `autocast`, of a model that switches it off")
def math_under_autocast() -> Explained:
    class Exact(Network):
        def forward(self, x: torch.Tensor) -> Any:
            with torch.autocast("cpu", enabled=False):
                return super().forward(x)

    expected = explain(Network(), images(), LAYER, method="eigen-cam").heatmaps()
    with torch.autocast("cpu", torch.bfloat16):
        return explain(Exact(), images(), LAYER, method="eigen-cam").heatmaps(), expected


@parameters("float64", tolerance=1e-12)
def double() -> Explained:
    return explain(Network().double(), images().double(), LAYER).maps, plain(dtype=torch.float64)


@parameters("float16, pooled in float32", tolerance=HALF)
def half() -> Explained:
    maps = explain(Network().half(), images().half(), LAYER).maps
    assert maps.dtype == torch.float32
    return maps, plain()


@parameters("bfloat16, pooled in float32", tolerance=HALF)
def brain() -> Explained:
    maps = explain(Network().bfloat16(), images().bfloat16(), LAYER).maps
    assert maps.dtype == torch.float32
    return maps, plain()


@parameters("`channels_last` memory format")
def channels_last() -> Explained:
    model = Network().to(memory_format=torch.channels_last)
    return explain(model, images().to(memory_format=torch.channels_last), LAYER).maps, plain()


@parameters(
    "training mode", error=ValueError, says="call model.eval() first, or pass allow_training=True"
)
def training() -> Explained:
    return explain(Network().train(), images(), LAYER).maps, plain()


@parameters("training mode of a frozen batch norm's model, `allow_training=True`")
def training_allowed() -> Explained:
    model = Network().train()
    model.features.norm.eval()
    return explain(model, images(), LAYER, allow_training=True).maps, plain()


# ---------------------------------------------------------------------------------------- the layer

layer = functools.partial(torch_state, "The layer")


@layer("an in-place operation right after it")
def inplace_after() -> Explained:
    return explain(Network(inplace=True), images(), LAYER).maps, plain()


@layer("in place inside it")
def inplace_inside() -> Explained:
    return explain(Network(inplace=True), images(), "features.last").maps, plain("features.last")


@layer("runs several times: `layer#1` is its second call")
def several_calls() -> Explained:
    class Again(Network):
        def forward(self, x: torch.Tensor) -> Any:
            self.features(torch.flip(x, (3,)))
            return super().forward(x)

    return explain(Again(), images(), f"{LAYER}#1").maps, plain()


@layer("never runs", error=RuntimeError, says="did not run, or not that often")
def never_runs() -> Explained:
    model = Network()
    model.spare = nn.Conv2d(3, 3, 1).eval()
    return explain(model, images(), "spare").maps, plain()


@layer(
    "runs only for other inputs",
    error=RuntimeError,
    says="gave no floating-point tensor in this forward pass",
)
def other_inputs() -> Explained:
    class Branch(Network):
        def forward(self, x: torch.Tensor) -> Any:
            return (
                super().forward(x) if x.shape[-1] > 10 else self.linear(x.mean((2, 3)).repeat(1, 4))
            )

    return explain(Branch(), images(), LAYER).maps, plain()


class Several(nn.Module):
    def __init__(self, inner: nn.Module, kind: str) -> None:
        super().__init__()
        self.inner, self.kind = inner, kind

    def forward(self, x: torch.Tensor) -> Any:
        found = self.inner(x)
        return {"tuple": (x, found), "list": [x, found], "dictionary": {"in": x, "out": found}}[
            self.kind
        ]


def several(kind: str, item: Any) -> Explained:
    class Picks(Network):
        def __init__(self) -> None:
            super().__init__()
            self.features.conv2 = Several(self.features.conv2, kind)

        def forward(self, x: torch.Tensor) -> Any:
            f = self.features
            return self.linear(self.head(f.last(f.conv2(f.relu(f.norm(f.conv1(x))))[item])))

    return explain(Picks().eval(), images(), f"{LAYER}[{item!r}]").maps, plain()


layer('returns a tuple: `layer[1]`')(lambda: several("tuple", 1))  # fmt: skip
layer('returns a list: `layer[1]`')(lambda: several("list", 1))  # fmt: skip
layer("returns a dictionary: `layer['out']`")(lambda: several("dictionary", "out"))


@layer("shares its weights with another")
def shared_weights() -> Explained:
    model = Network()
    model.twin = nn.Conv2d(8, 12, 3).eval()
    model.twin.weight = model.features.conv2.weight
    return explain(model, images(), LAYER).maps, plain()


@layer("is in the model under two names")
def two_names() -> Explained:
    model = Network()
    model.alias = model.features.conv2
    return explain(model, images(), "alias").maps, plain()


@layer("has hooks of the user's own, which change what it puts out")
def own_hooks() -> Explained:
    model, fired = Network(), []
    model.features.conv2.register_forward_hook(lambda m, args, out: fired.append(1) or out * 1.0)
    model.features.conv2.register_forward_pre_hook(lambda m, args: fired.append(1))
    maps = explain(model, images(), LAYER).maps
    assert len(fired) == 2
    return maps, plain()


@layer("has a parametrisation (weight norm)")
def parametrised() -> Explained:
    model = Network()
    torch.nn.utils.parametrizations.weight_norm(model.features.conv2)
    return explain(model.eval(), images(), LAYER).maps, plain()


# ----------------------------------------------------------------------------------------- wrappers

wrappers = functools.partial(torch_state, "Wrapped and compiled")


@wrappers("`torch.compile`d, before its first run")
def compiled() -> Explained:
    return explain(torch.compile(Network(), backend="eager"), images(), LAYER).maps, plain()


@wrappers("`torch.compile`d, after its first run")
def compiled_and_run() -> Explained:
    model = torch.compile(Network(), backend="eager")
    model(images())
    with torch.no_grad():
        model(images())
    return explain(model, images(), LAYER).maps, plain()


@wrappers("a part `torch.compile`d, after its first run")
def compiled_part() -> Explained:
    model = Network()
    model.features = torch.compile(model.features, backend="eager")
    with torch.no_grad():
        model(images())
    return explain(model, images(), LAYER).maps, plain()


@wrappers("`module.compile()`, after its first run")
def compiled_in_place() -> Explained:
    model = Network()
    model.compile(backend="eager")
    with torch.no_grad():
        model(images())
    return explain(model, images(), LAYER).maps, plain()


@wrappers("`DataParallel`")
def data_parallel() -> Explained:
    model = nn.DataParallel(Network())  # moves the network to a GPU, where there is one
    inputs = images().to(next(model.parameters()).device)
    return explain(model, inputs, LAYER).maps.cpu(), plain()


@wrappers("`DistributedDataParallel`")
def distributed() -> Explained:
    store = torch.distributed.HashStore()
    torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
    try:
        model = nn.parallel.DistributedDataParallel(Network())
        return explain(model, images(), LAYER).maps, plain()
    finally:
        torch.distributed.destroy_process_group()


def checkpointed(part: str, reentrant: bool) -> Explained:
    class Saves(Network):
        def forward(self, x: torch.Tensor) -> Any:
            def run(name: str, x: torch.Tensor) -> Any:
                inner = getattr(self, name)
                return checkpoint(inner, x, use_reentrant=reentrant) if name in part else inner(x)

            return self.linear(run("head", run("features", x)))

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reentrant checkpointing warns of inputs without gradients
        return explain(Saves(), images(), LAYER).maps, plain()


wrappers("activation checkpointing around the layer")(lambda: checkpointed("features", False))
wrappers("activation checkpointing above the layer")(lambda: checkpointed("head", False))
wrappers("reentrant checkpointing around the layer")(lambda: checkpointed("features", True))
wrappers("reentrant checkpointing above the layer")(lambda: checkpointed("features head", True))


@wrappers("a part in PyTorch's checkpoint wrapper")
def checkpoint_wrapped() -> Explained:
    from torch.distributed.algorithms._checkpoint.checkpoint_wrapper import checkpoint_wrapper

    model = Network()
    model.features = checkpoint_wrapper(model.features)
    return explain(model, images(), LAYER).maps, plain()


def traced(module: nn.Module, x: torch.Tensor) -> Any:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecated, and still met
        return torch.jit.trace(module, x).eval()


@wrappers(
    "TorchScript",
    error=TypeError,
    says="explain the model that it was made from, or pass gradcam.Split",
)
def scripted() -> Explained:
    return explain(traced(Network(), images()), images(), LAYER).maps, plain()


@wrappers(
    "the layer inside a TorchScript part", error=RuntimeError, says='"features" is TorchScript'
)
def scripted_part() -> Explained:
    model = Network()
    model.features = traced(model.features, images())
    return explain(model, images(), LAYER).maps, plain()


@wrappers("a TorchScript part above the layer")
def scripted_head() -> Explained:
    model = Network()
    model.linear = traced(model.linear, torch.ones(2, 12))
    return explain(model, images(), LAYER).maps, plain()


def exported(module: nn.Module, x: torch.Tensor) -> Any:
    return torch.export.export(module, (x,))


@wrappers(
    "`torch.export`ed",
    error=TypeError,
    says="has lost its layers: pass torch.export.unflatten(program).eval()",
)
def exported_module() -> Explained:
    return explain(exported(Network(), images()).module(), images(), LAYER).maps, plain()


@wrappers("the program itself, by its operators' names")
def exported_program() -> Explained:
    return explain(exported(Network(), images()), images(), "conv2d_1").maps, plain()


@wrappers("`torch.export.unflatten(program).eval()`")
def unflattened() -> Explained:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # PyTorch's own
        model = torch.export.unflatten(exported(Network(), images())).eval()
    return explain(model, images(), LAYER).maps, plain()


@wrappers("a `torch.export`ed part above the layer, which has no `.eval()`")
def exported_head() -> Explained:
    model = Network()
    model.linear = exported(model.linear, torch.ones(2, 12)).module()
    return explain(model, images(), LAYER).maps, plain()


@wrappers("a quantised head", error=RuntimeError, says='"linear" is quantised')
def quantised() -> Explained:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model = torch.ao.quantization.quantize_dynamic(copy.deepcopy(Network()), {nn.Linear})
        return explain(model.eval(), images(), LAYER).maps, plain()


@wrappers("the layer in a `no_grad` block of the model's own")
def own_no_grad() -> Explained:
    class Frozen(Network):
        def forward(self, x: torch.Tensor) -> Any:
            with torch.no_grad():
                x = self.features(x)
            return self.linear(self.head(x))

    return explain(Frozen(), images(), LAYER).maps, plain()


@wrappers("all of the model in a `no_grad` block of its own")
def own_no_grad_all() -> Explained:
    class Frozen(Network):
        @torch.no_grad()
        def forward(self, x: torch.Tensor) -> Any:
            return super().forward(x)

    return explain(Frozen(), images(), LAYER).maps, plain()


@wrappers(
    "an `inference_mode` block of the model's own",
    error=RuntimeError,
    says="use torch.no_grad() there",
)
def own_inference_mode() -> Explained:
    class Frozen(Network):
        @torch.inference_mode()
        def forward(self, x: torch.Tensor) -> Any:
            return super().forward(x)

    return explain(Frozen(), images(), LAYER).maps, plain()


@wrappers("explained inside a forward hook of another explanation")
def reentrant() -> Explained:
    model, inside = Network(), []

    def hook(module: nn.Module, args: Any, output: Any) -> None:
        if not inside:
            inside.append(None)
            inside[0] = explain(model, images(), LAYER).maps

    model.features.relu.register_forward_hook(hook)
    outside = explain(model, images(), LAYER).maps
    return torch.stack([outside, inside[0]]), torch.stack([plain(), plain()])


# ------------------------------------------------------------------------------ autograd in forward

inside = functools.partial(torch_state, "Autograd inside forward")


class Penalised(Network):
    """Adds the squared gradient of its own scores at the input, where a caller has a graph."""

    def forward(self, x: torch.Tensor) -> Any:
        x = x if x.requires_grad else x.detach().requires_grad_()
        y = super().forward(x)
        (slope,) = torch.autograd.grad(y.sum(), x, create_graph=True)
        return y + 100 * slope.square().mean((1, 2, 3))[:, None]


class PenalisedAnywhere(Penalised):
    def forward(self, x: torch.Tensor) -> Any:
        with torch.enable_grad():
            return super().forward(x)


class Pushed(Network):
    """Moves its input along the force of an energy of its first layer."""

    def forward(self, x: torch.Tensor) -> Any:
        place = x.detach().requires_grad_()
        (force,) = torch.autograd.grad(self.features.conv1(place).tanh().sum(), place)
        return super().forward(x + force)


class FunctionalSlope(Network):
    """`torch.func.grad` of the head, in the forward pass."""

    def forward(self, x: torch.Tensor) -> Any:
        a = self.features(x)
        slope = torch.func.grad(lambda a: self.linear(self.head(a)).sum())(a)
        return self.linear(self.head(a)) + 100 * slope.square().mean((1, 2, 3))[:, None]


class MappedHead(Network):
    """`torch.vmap` of the head."""

    def forward(self, x: torch.Tensor) -> Any:
        return torch.vmap(lambda a: self.linear(self.head(a[None]))[0])(self.features(x))


class MappedAll(Network):
    """`torch.vmap` of the whole network, each sample a batch of one."""

    def forward(self, x: torch.Tensor) -> Any:
        forward = super().forward
        return torch.vmap(lambda one: forward(one[None])[0])(x)


class SampleWise(Network):
    """`torch.vmap` of a network of one sample; the last axis is that of the samples."""

    def sample(self, x: torch.Tensor) -> torch.Tensor:
        f = self.features
        a = self.head[1](self.head[0](f.last(f.conv2(f.relu(f.conv1(x))))))
        return self.linear(a.mean((-2, -1)))

    def forward(self, x: torch.Tensor) -> Any:
        return torch.vmap(self.sample, in_dims=3)(x.movedim(0, 3))


class Together(SampleWise):
    def forward(self, x: torch.Tensor) -> Any:
        return self.sample(x)


class SlopeOfAll(Network):
    """`torch.func.grad` of the whole network: the layer's first call is inside it."""

    def forward(self, x: torch.Tensor) -> Any:
        forward = super().forward
        slope = torch.func.grad(lambda x: forward(x).sum())(x)
        return forward(x) + 1000 * slope.square().mean((1, 2, 3))[:, None]


class PenalisedApart(Network):
    """The same by `torch.autograd.grad`."""

    def forward(self, x: torch.Tensor) -> Any:
        leaf = x.detach().requires_grad_()
        (slope,) = torch.autograd.grad(super().forward(leaf).sum(), leaf, create_graph=True)
        return super().forward(x) + 1000 * slope.square().mean((1, 2, 3))[:, None]


def differentiates(made: type[Network]) -> Explained:
    return explain(made(), images(), LAYER).maps, by_autograd(made(), LAYER, images())


inside("a gradient penalty, in the caller's grad mode")(lambda: differentiates(Penalised))
inside("a gradient penalty, under `enable_grad`")(lambda: differentiates(PenalisedAnywhere))
inside("forces below the layer")(lambda: differentiates(Pushed))
inside("`torch.func.grad` above the layer")(lambda: differentiates(FunctionalSlope))
inside("`torch.vmap` above the layer")(lambda: differentiates(MappedHead))
inside("`torch.vmap` over the samples, the layer inside")(
    lambda: (
        explain(SampleWise(), images(), LAYER).maps,
        by_autograd(Together(), LAYER, images()),
    )
)
inside("`torch.vmap` over batches of one, the layer inside: the map of one frame")(
    lambda: (explain(MappedAll(), images(), LAYER).maps[:, :, 0], plain())
)
inside("`torch.func.grad`, the layer's first call inside")(
    lambda: (
        explain(SlopeOfAll(), images(), LAYER).maps,
        by_autograd(PenalisedApart(), LAYER, images()),
    )
)

# ------------------------------------------------------------------------------- inputs and outputs

ends = functools.partial(torch_state, "Inputs and outputs")


class Scaled(Network):
    def forward(self, x: torch.Tensor, scale: torch.Tensor, shift: float = 1.0) -> Any:
        return super().forward(x * scale[:, None, None, None] + shift)


@ends("several tensors, as a tuple")
def several_inputs() -> Explained:
    return explain(Scaled(), (images(), torch.ones(2), 0.0), LAYER).maps, plain()


@ends("keyword arguments, as a mapping")
def keywords() -> Explained:
    return explain(
        Scaled(), {"scale": torch.ones(2), "x": images(), "shift": 0.0}, LAYER
    ).maps, plain()


class Text(nn.Module):
    """Token ids -> classes."""

    def __init__(self, embedding: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(20, 6)
        self.conv = nn.Conv1d(6, 7, 3, padding=1)
        self.linear = nn.Linear(7, 5)
        self.eval()

    def forward(self, ids: torch.Tensor) -> Any:
        x = torch.tanh(self.conv(self.embed(ids).mT))
        return self.linear((x * x).mean(-1))


@ends("token ids, a layer (N, C, T)")
def token_ids() -> Explained:
    model, ids = Text(), torch.arange(18).reshape(2, 9)
    explanation = explain(model, ids, "conv")
    assert explanation.heatmaps().shape == (2, 2, 9)
    layer = model.conv(model.embed(ids).mT).detach().requires_grad_()
    scores = model.linear((torch.tanh(layer) ** 2).mean(-1))[:, [1, 3]]
    slopes = [
        torch.autograd.grad(scores[:, k].sum(), layer, retain_graph=True)[0].mean(-1)
        for k in range(2)
    ]
    return explanation.maps, F.relu(
        torch.einsum("nkc,nct->nkt", torch.stack(slopes, 1), layer)
    ).detach()


class Encoder(nn.Module):
    """Token ids -> classes, by PyTorch's own transformer layers, which have a fused path for
    inference.
    """

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.embed = nn.Embedding(20, 6)
        self.encoder = nn.TransformerEncoder(
            nn.TransformerEncoderLayer(6, 2, 12, batch_first=True), 2
        )
        self.linear = nn.Linear(6, 5)
        self.eval()

    def forward(self, ids: torch.Tensor, padding: torch.Tensor | None = None) -> Any:
        return self.linear(self.encoder(self.embed(ids), src_key_padding_mask=padding).mean(1))


def tokens(inputs: Any) -> Explained:
    """At the first block's output (N, T, C): by autograd alone, and by position along T."""
    model, found = Encoder(), []
    hook = model.encoder.layers[0].register_forward_hook(lambda *given: found.append(given[2]))
    scores = model(*inputs)[:, [1, 3]]
    hook.remove()
    slopes = [
        torch.autograd.grad(scores[:, k].sum(), found[0], retain_graph=True)[0].mean(1)
        for k in range(2)
    ]
    expected = F.relu(torch.einsum("nkc,ntc->nkt", torch.stack(slopes, 1), found[0])).detach()
    assert [one.path for one in gradcam.layers(model, inputs)][-2:] == ["encoder", "linear"]
    return explain(model, inputs, "encoder.layers.0").maps, expected


IDS = torch.arange(18).reshape(2, 9)
ends("token ids, a transformer layer (N, T, C)")(lambda: tokens((IDS,)))
ends("the same with padding")(lambda: tokens((IDS, torch.arange(9) > torch.tensor([[8], [5]]))))


class Recurrence(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.rnn = nn.GRU(6, 7, batch_first=True)
        self.linear = nn.Linear(7, 5)
        self.eval()


@ends("sequences of vectors (N, T, C), a recurrent layer: `layer[0]`")
def recurrent() -> Explained:
    class Recurrent(Recurrence):
        def forward(self, x: torch.Tensor) -> Any:
            return self.linear(self.rnn(x)[0].tanh().mean(1))

    model, x = Recurrent(), torch.randn(2, 9, 6, generator=torch.Generator().manual_seed(1))
    explanation = explain(model, x, "rnn[0]")
    assert explanation.heatmaps().shape == (2, 2, 9)
    a = model.rnn(x)[0].detach()
    slopes = torch.einsum("kc,ntc->nkc", model.linear.weight[[1, 3]] / 9, 1 - a.tanh() ** 2) / 9
    return explanation.maps, F.relu(torch.einsum("nkc,ntc->nkt", slopes, a)).detach()


@ends("packed sequences, a recurrent layer: `layer[0]` is (N, T, C), padded")
def packed_sequences() -> Explained:
    class Packs(Recurrence):
        def forward(self, x: torch.Tensor, lengths: torch.Tensor) -> Any:
            packed = pack_padded_sequence(x, lengths, batch_first=True, enforce_sorted=False)
            y = pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0]
            return self.linear((y * y).mean(1))

    model = Packs()
    x = torch.randn(3, 9, 6, generator=torch.Generator().manual_seed(1))
    lengths = torch.tensor([7, 9, 7])
    a = torch.zeros(3, 9, 7)
    for n, length in enumerate(lengths):  # each sequence by itself
        a[n, :length] = model.rnn(x[n, None, :length])[0][0].detach()
    slopes = torch.einsum("kc,ntc->nkc", model.linear.weight[[1, 3]] * 2 / 9, a) / 9
    maps = F.relu(torch.einsum("nkc,ntc->nkt", slopes, a)).detach()
    return explain(model, (x, lengths), "rnn[0]").maps, maps


@ends("a batch of one")
def one() -> Explained:
    return explain(Network(), images()[:1], LAYER).maps, plain()[:1]


def output(wrap: Any, **options: Any) -> Explained:
    class Wraps(Network):
        def forward(self, x: torch.Tensor) -> Any:
            return wrap(super().forward(x))

    return explain(Wraps(), images(), LAYER, **options).maps, plain()


@dataclasses.dataclass
class ModelOutput:
    logits: torch.Tensor
    hidden: Any = None


class Mapping(dict):  # type: ignore[type-arg]
    """Like Hugging Face's: a dictionary with attributes."""

    def __getattr__(self, name: str) -> Any:
        if name in self:
            return self[name]
        raise AttributeError(name)


ends("a tuple, logits first")(lambda: output(lambda y: (y, y * 2)))
ends("a dictionary with logits")(lambda: output(lambda y: {"loss": None, "logits": y}))
ends("a dataclass with logits")(lambda: output(lambda y: ModelOutput(y, (y, y))))
ends("a mapping with attributes (Hugging Face's `ModelOutput`)")(
    lambda: output(lambda y: Mapping(logits=y))
)


def picked(outputs: Any) -> torch.Tensor:
    return torch.stack([one["scores"][[1, 3]] for one in outputs])


ends("anything else, with a function as target")(
    lambda: output(lambda y: [{"scores": one} for one in y], target=picked)
)
