"""What only PyTorch can get wrong: what is left behind, what is paid, what is written in place."""

from __future__ import annotations

import numpy as np
import pytest

import gradcam

torch = pytest.importorskip("torch")
nn = torch.nn


def network(inplace=False):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(inplace=inplace),
        nn.Conv2d(8, 12, 3, padding=1),
        nn.ReLU(inplace=inplace),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(12, 5),
    ).eval()


def images(count=2):
    torch.manual_seed(1)
    return torch.randn(count, 3, 8, 8)


def state(model):
    """Everything of the user's that an explanation could change."""
    return {
        "hooks": {
            name: [
                len(getattr(m, kind))
                for kind in ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks")
            ]
            for name, m in model.named_modules()
        },
        "dict": {name: sorted(m.__dict__) for name, m in model.named_modules()},
        "training": {name: m.training for name, m in model.named_modules()},
        "parameters": {
            n: (p.data.clone(), p.requires_grad, None if p.grad is None else p.grad.clone())
            for n, p in model.named_parameters()
        },
        "buffers": {n: b.clone() for n, b in model.named_buffers()},
        "grad mode": torch.is_grad_enabled(),
    }


def assert_same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            assert_same(a[key], b[key])
    elif isinstance(a, tuple):
        for x, y in zip(a, b, strict=True):
            assert_same(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


class BoomError(Exception):
    pass


@pytest.mark.parametrize("grad", [True, False])
@pytest.mark.parametrize("fails", [None, "model", "target", "method"])
def test_nothing_of_the_users_changes(grad, fails):
    model = network()
    model(images()).sum().backward()  # there are gradients that must not be lost
    model[0].weight.requires_grad_(False)
    fired = []
    model[3].register_forward_hook(lambda *_: fired.append(1))
    if fails == "model":
        model[6].register_forward_hook(lambda *_: (_ for _ in ()).throw(BoomError()))

    def boom(*_):
        raise BoomError

    inputs = images()
    with torch.set_grad_enabled(grad):
        before, given = state(model), inputs.clone()
        options = (
            {"target": boom} if fails == "target" else {"method": boom} if fails == "method" else {}
        )
        if fails:
            with pytest.raises(BoomError):
                gradcam.explain(model, inputs, "3", **options)
        else:
            gradcam.explain(model, inputs, "3")
            gradcam.layers(model, inputs)
            gradcam.verify(model, inputs, "3", directions=1, channels=1)
        assert_same(before, state(model))
    assert fired  # the user's own hooks still fire
    assert torch.equal(inputs, given)
    assert not inputs.requires_grad


def saved_below(model, inputs, layer, run):
    """Bytes that autograd saves before and after the layer has run."""
    saved, seen = {"below": 0, "above": 0}, []
    handle = model.get_submodule(layer).register_forward_hook(lambda *_: seen.append(1))

    def pack(tensor):
        saved["above" if seen else "below"] += tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda t: t):
        run()
    handle.remove()
    return saved


def test_no_byte_is_saved_for_backward_below_the_layer():
    model = network()
    found = saved_below(model, images(), "3", lambda: gradcam.explain(model, images(), "3"))
    assert found["below"] == 0
    assert found["above"] > 0  # the counter counts
    plain = saved_below(model, images(), "3", lambda: model(images()))
    assert plain["below"] > 0


@pytest.mark.parametrize("target", [None, 1, [[0, 1, 2, 3, 4]]])
def test_one_forward_pass_for_any_number_of_targets(target):
    model, calls = network(), []
    model[0].register_forward_hook(lambda *_: calls.append(1))
    gradcam.explain(model, images(), "3", target=target)
    assert len(calls) == 1


def test_no_weight_gradient_is_computed():
    """Floating-point operations of the backward pass: those of the head's input gradient, and no
    convolution.
    """
    from torch.utils.flop_counter import FlopCounterMode

    model = network()
    with FlopCounterMode(display=False) as bare, torch.no_grad():
        model(images())
    with FlopCounterMode(display=False) as explained:
        gradcam.explain(model, images(), "4")
    linear = 2 * 2 * 12 * 5  # one product of (2, 5) and (5, 12)
    combination = 2 * 2 * 12 * 64  # alpha times activations
    assert explained.get_total_flops() == bare.get_total_flops() + linear + combination


@pytest.mark.parametrize("layer", ["0", "1", "3"])
def test_a_layer_in_front_of_an_in_place_operation_is_right(layer):
    plain = gradcam.explain(network(), images(), layer)
    inplace = gradcam.explain(network(inplace=True), images(), layer)
    np.testing.assert_allclose(inplace.maps, plain.maps, rtol=1e-6)


def test_gradients_are_plain_autograds():
    model, inputs = network(), images()
    kept = []
    model[3].register_forward_hook(lambda m, i, o: (kept.append(o), o.retain_grad())[0])
    with torch.enable_grad():
        model(inputs)[:, 2].sum().backward()
    expected = torch.relu((kept[0].grad.mean((2, 3), keepdim=True) * kept[0]).sum(1))
    model = network()
    np.testing.assert_allclose(
        gradcam.explain(model, inputs, "3", 2).maps, expected.detach(), rtol=1e-5, atol=1e-9
    )


def test_a_layer_may_be_the_module_itself_or_several():
    model = network()
    by_path = gradcam.explain(model, images(), "3")
    assert torch.equal(gradcam.explain(model, images(), model[3]).maps, by_path.maps)
    assert gradcam.explain(model, images(), [model[0], "3"]).layer == ("0", "3")
    with pytest.raises(KeyError, match="is not a module of this Sequential"):
        gradcam.explain(model, images(), nn.ReLU())


def test_a_layer_that_runs_twice_is_named_by_its_calls():
    class Twice(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 3, padding=1)

        def forward(self, x):
            return self.conv(torch.tanh(self.conv(x))).mean((2, 3))

    model = Twice().eval()
    assert [layer.path for layer in gradcam.layers(model, images())] == ["conv", "conv#1"]
    first, second = (gradcam.explain(model, images(), layer).maps for layer in ("conv", "conv#1"))
    assert not torch.equal(first, second)
    for layer in ("conv", "conv#1"):
        gradcam.verify(model, images(), layer).assert_passed()
    with pytest.raises(RuntimeError, match='layer "conv#2" gave no floating-point tensor'):
        gradcam.explain(model, images(), "conv#2")


def test_layers_that_return_collections_have_a_path_for_each_item():
    class Several(nn.Module):
        def forward(self, x):
            return {"a": (torch.tanh(x), [x * 2, 3])}

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.several = Several()

        def forward(self, x):
            found = self.several(x)["a"]
            return (found[0] * found[1][0]).mean((2, 3))

    model = Model().eval()
    assert [layer.path for layer in gradcam.layers(model, images())] == [
        "several['a'][0]",
        "several['a'][1][0]",
    ]
    gradcam.verify(model, images(), "several['a'][1][0]").assert_passed()


def test_a_score_that_does_not_reach_the_layer_is_an_error():
    class Detached(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 1)

        def forward(self, x):
            return self.conv(x).detach().mean((2, 3))

    with pytest.raises(
        RuntimeError, match='the score does not depend on layer "conv" by a differentiable path'
    ):
        gradcam.explain(Detached().eval(), images(), "conv")


def test_training_mode_is_an_error_unless_allowed():
    model = network().train()
    with pytest.raises(
        ValueError, match=r"the model is in training mode.*model.eval\(\).*allow_training=True"
    ):
        gradcam.explain(model, images(), "3")
    model.eval()
    model[1].train()
    with pytest.raises(ValueError, match="training mode"):
        gradcam.layers(model, images())


def test_a_vision_transformers_default_layer_is_one_that_matters():
    class Block(nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = nn.LayerNorm(8)
            self.attention = nn.MultiheadAttention(8, 2, batch_first=True)
            self.mlp = nn.Linear(8, 8)

        def forward(self, x):
            y = self.norm(x)
            x = x + self.attention(y, y, y, need_weights=False)[0]
            return x + self.mlp(x)

    class Transformer(nn.Module):
        def __init__(self):
            super().__init__()
            self.embed = nn.Conv2d(3, 8, 4, stride=4)
            self.token = nn.Parameter(torch.randn(1, 1, 8))
            self.blocks = nn.ModuleList(Block() for _ in range(2))
            self.head = nn.Linear(8, 5)

        def forward(self, x):
            x = self.embed(x).flatten(2).transpose(1, 2)
            x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
            for block in self.blocks:
                x = block(x)
            return self.head(x[:, 0])

    torch.manual_seed(0)
    model, inputs = Transformer().eval(), torch.randn(2, 3, 16, 24)
    found = gradcam.explain(model, inputs)
    assert found.layer == "blocks.0"  # everything passes through it, and its spatial tokens count
    assert found.maps.shape == (2, 4, 6)
    gradcam.verify(model, inputs).assert_passed()


def test_inputs_may_be_a_tuple_or_a_mapping():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 5, 3)

        def forward(self, image, scale):
            return self.conv(image).mean((2, 3)) * scale[:, None]

    model, image, scale = Two().eval(), images(), torch.tensor([1.0, 2.0])
    by_position = gradcam.explain(model, (image, scale))
    by_name = gradcam.explain(model, {"image": image, "scale": scale})
    assert torch.equal(by_position.maps, by_name.maps)
    gradcam.verify(model, (image, scale)).assert_passed()


def test_a_detector_that_finds_nothing_says_so_even_without_a_graph():
    class Nothing(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            self.body(x)
            return [
                {
                    "boxes": torch.zeros(0, 4),
                    "scores": torch.zeros(0),
                    "labels": torch.zeros(0).long(),
                }
                for _ in x
            ]

    with pytest.raises(ValueError, match="detect"):
        gradcam.explain(Nothing().eval(), images(), "body", gradcam.targets.Detection([0, 0, 4, 4]))


class Checkpointed(nn.Module):
    """Holds a module as the wrapper of activation checkpointing does."""

    def __init__(self, inner):
        super().__init__()
        self._checkpoint_wrapped_module = inner

    def forward(self, x):
        return self._checkpoint_wrapped_module(x)


def compiled(model):
    return torch.compile(model, backend="eager")


@pytest.mark.parametrize("wrap", [lambda m: m, compiled, nn.DataParallel])
def test_weights_have_their_layers_names_and_a_copy_takes_others(wrap):
    model = network()
    model[3] = Checkpointed(nn.Sequential(nn.Conv2d(12, 12, 1)))
    before = {name: value.clone() for name, value in model.state_dict().items()}
    tapped = gradcam.backends.adapt(wrap(model), images())
    weights = tapped.weights()
    assert [name for name in weights if name.startswith("3.")] == ["3.0.weight", "3.0.bias"]
    assert set(weights) == {
        name.replace("_checkpoint_wrapped_module.", "") for name, _ in model.named_parameters()
    }
    assert not any(value.requires_grad for value in weights.values())

    twin = tapped.with_weights({"0.weight": weights["0.weight"] * 2})
    assert type(twin) is type(wrap(model))
    again = gradcam.backends.adapt(twin, images()).weights()
    for name, value in weights.items():
        assert torch.equal(again[name], value * 2 if name == "0.weight" else value)
        assert again[name].data_ptr() != value.data_ptr()
    for name, value in model.state_dict().items():
        assert torch.equal(value.cpu(), before[name])  # DataParallel moves them to a GPU


def test_weights_made_under_inference_mode_can_be_replaced():
    with torch.inference_mode():
        model = network()
    tapped = gradcam.backends.adapt(model, images())
    new = {name: torch.zeros_like(value) for name, value in tapped.weights().items()}
    twin = tapped.with_weights(new)
    assert not any(parameter.any() for parameter in twin.parameters())
    assert any(parameter.any() for parameter in model.parameters())


def test_forward_is_the_users_own_pass_without_a_graph():
    model = network()
    seen = []
    model[0].register_forward_hook(lambda *_: seen.append(torch.is_inference_mode_enabled()))
    outputs = gradcam.backends.adapt(model, images()).forward(images())
    assert seen == [True]
    assert torch.equal(outputs, model(images()))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_arrays_have_the_models_type_and_keep_their_layout(dtype):
    tapped = gradcam.backends.adapt(network().to(dtype), images())
    values = np.random.default_rng(0).random((2, 5, 4, 3))[:, ::-1]  # not contiguous
    values.setflags(write=False)
    array = tapped.array(values)
    assert array.dtype == dtype
    assert array.shape == (2, 5, 4, 3)
    torch.testing.assert_close(array, torch.tensor(values.copy()).to(dtype), rtol=0, atol=0)
    assert tapped.array(np.array([[1, 2]])).dtype == torch.int64  # ids of tokens
    function = gradcam.Split(lambda x: x, lambda a: a.mean((2, 3)))
    assert gradcam.backends.adapt(function, images()).array(values).dtype == torch.float64


def test_no_graph_is_kept_below_a_layer_in_front_of_a_no_grad_block():
    class Blocked(nn.Module):
        def __init__(self):
            super().__init__()
            self.body, self.head = network()[:4], nn.Conv2d(12, 5, 1)

        def forward(self, x):
            x = self.body(x)
            with torch.no_grad():
                return self.head(x).mean((2, 3))

    model = Blocked().eval()
    modes = []
    model.body[0].register_forward_hook(lambda *_: modes.append(torch.is_grad_enabled()))
    maps = gradcam.explain(model, images(), "body.3", 1).maps
    assert modes == [False, False]  # it runs once more, with the block ignored from the layer on
    assert maps.abs().max() > 0
