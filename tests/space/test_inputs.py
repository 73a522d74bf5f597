"""Which input a map is of, where its positions run in it, and what a user may say of both.

The expected values are made here: with plain hooks and autograd, with a model of one branch alone,
or with the mask of Score-CAM written out.
"""

from __future__ import annotations

import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx

import gradcam
from gradcam.inputs import Focused, arrays_of, first_array, first_key, focused, with_array

torch = pytest.importorskip("torch")
nn = torch.nn

X = torch.randn(2, 3, 32, 32, generator=torch.Generator().manual_seed(1))
Y = torch.randn(2, 3, 16, 24, generator=torch.Generator().manual_seed(2))
INPUT_METHODS = ("score-cam", "ss-cam", "is-cam", "smooth-grad-cam++", "full-grad")


class TwoPictures(nn.Module):
    """Two pictures of different sizes, a branch for each, and scores of both."""

    def __init__(self):
        super().__init__()
        self.a = nn.Conv2d(3, 6, 3, 2, 1)
        self.b = nn.Conv2d(3, 6, 3, 2, 1)
        self.head = nn.Linear(12, 3)

    def forward(self, x, y):
        of_x = self.a(x).relu().mean((2, 3))
        of_y = self.b(y).relu().mean((2, 3))
        return self.head(torch.cat([of_x, of_y], 1))


class OnlyTheSecond(nn.Module):
    """The same network as a function of its second picture."""

    def __init__(self, model, x):
        super().__init__()
        self.b = model.b
        self.head = model.head
        self.register_buffer("of_x", model.a(x).relu().mean((2, 3)).detach())

    def forward(self, y):
        of_x = self.of_x.repeat(len(y) // len(self.of_x), 1)
        return self.head(torch.cat([of_x, self.b(y).relu().mean((2, 3))], 1))


@pytest.fixture
def two():
    torch.manual_seed(0)
    return TwoPictures().eval()


# ------------------------------------------------------------------------------- several inputs


@pytest.mark.parametrize("method", ["grad-cam", *INPUT_METHODS[:-1]])
def test_methods_use_the_input_that_the_layer_answers_to(two, method):
    found = gradcam.explain(two, (X, Y), "b", 1, method)
    alone = gradcam.explain(OnlyTheSecond(two, X).eval(), Y, "b", 1, method)
    torch.testing.assert_close(found.maps, alone.maps)
    assert found.axes.input == 1
    assert found.size == (16, 24)
    assert found.heatmaps().shape == (2, 16, 24)


def test_full_grad_is_of_one_picture_and_of_the_layers_that_answer_to_it(two):
    of_x = gradcam.explain(two, (X, Y), "a", 1, "full-grad").maps
    of_y = gradcam.explain(two, (X, Y), "b", 1, "full-grad").maps
    assert of_x.shape == (2, 32, 32)
    assert of_y.shape == (2, 16, 24)
    alone = gradcam.explain(OnlyTheSecond(two, X).eval(), Y, "b", 1, "full-grad").maps
    torch.testing.assert_close(of_y, alone)


def test_smoothing_and_guided_maps_are_of_that_input_too(two):
    alone = OnlyTheSecond(two, X).eval()
    smoothing = gradcam.Smoothing(flips=True, noise=0.1, samples=2)
    found = gradcam.explain(two, (X, Y), "b", 1, smoothing=smoothing).maps
    torch.testing.assert_close(found, gradcam.explain(alone, Y, "b", 1, smoothing=smoothing).maps)
    found = gradcam.guided_grad_cam(two, (X, Y), "b", 1).gradients
    torch.testing.assert_close(found, gradcam.guided_grad_cam(alone, Y, "b", 1).gradients)
    found = gradcam.guided_backprop(two, (X, Y), 1, input_key=1).gradients
    torch.testing.assert_close(found, gradcam.guided_backprop(alone, Y, 1).gradients)


def test_pictures_of_the_compiled_path_have_that_inputs_size(two):
    explainer = gradcam.Explainer(two, "b")
    assert explainer.heatmaps((X, Y), 1).shape == (2, 16, 24)
    torch.testing.assert_close(
        explainer.heatmaps((X, Y), 1), explainer((X, Y), 1).heatmaps(), rtol=1e-5, atol=1e-6
    )


@pytest.mark.filterwarnings("ignore::gradcam.GuessedLayerWarning")
def test_the_named_input_chooses_the_layer(two):
    assert gradcam.explain(two, {"x": X, "y": Y}, target=1, input_key="x").layer == "a"
    assert gradcam.explain(two, {"x": X, "y": Y}, target=1, input_key="y").layer == "b"


def test_a_layer_that_does_not_answer_to_the_named_input_is_refused(two):
    with pytest.raises(ValueError, match='layer "a" does not answer to the input 1'):
        gradcam.explain(two, (X, Y), "a", 1, input_key=1)
    with pytest.raises(ValueError, match="keyword of one of the inputs, 0, 1, but is 'y'"):
        gradcam.explain(two, (X, Y), "a", 1, input_key="y")


def test_a_model_that_cannot_be_asked_says_which_input_was_taken(two):
    class OfOneSample(nn.Module):
        def __init__(self):
            super().__init__()
            self.two = two

        def forward(self, x, y):
            if len(x) != 1:
                raise ValueError("one sample at a time")
            return self.two(x, y)

    with pytest.warns(gradcam.GuessedAxesWarning, match="`input_key`"):
        gradcam.explain(OfOneSample().eval(), (X[:1], Y[:1]), "two.b", 1)


class TwoPicturesInJax(nnx.Module):
    def __init__(self):
        rngs = nnx.Rngs(0)
        self.a = nnx.Conv(3, 6, (3, 3), 2, rngs=rngs)
        self.b = nnx.Conv(3, 6, (3, 3), 2, rngs=rngs)
        self.head = nnx.Linear(12, 3, rngs=rngs)

    def __call__(self, x, y):
        of_x = nnx.relu(self.a(x)).mean((1, 2))
        of_y = nnx.relu(self.b(y)).mean((1, 2))
        return self.head(jnp.concatenate([of_x, of_y], 1))


@pytest.mark.parametrize("method", ["grad-cam", "score-cam", "smooth-grad-cam++", "full-grad"])
def test_in_jax_too(method):
    model = TwoPicturesInJax()
    x, y = (jnp.asarray(np.moveaxis(a.numpy(), 1, -1)) for a in (X, Y))

    def only_the_second(y):
        return model(jnp.tile(x, (len(y) // len(x), 1, 1, 1)), y)

    found = gradcam.explain(model, {"x": x, "y": y}, "b", 1, method)
    assert (found.axes.input, found.size) == ("y", (16, 24))
    if method == "full-grad":
        assert found.maps.shape == (2, 16, 24)
        return
    split = gradcam.Split(
        model.b, lambda b: only_the_second_of(model, x, b), layout="channels_last"
    )
    alone = gradcam.explain(split, y, None, 1, method)
    np.testing.assert_allclose(found.maps, alone.maps, rtol=2e-4, atol=1e-6)


def only_the_second_of(model, x, features):
    of_x = nnx.relu(model.a(x)).mean((1, 2))
    of_x = jnp.tile(of_x, (len(features) // len(x), 1))
    return model.head(jnp.concatenate([of_x, nnx.relu(features).mean((1, 2))], 1))


def test_inputs_of_which_one_is_named_are_called_like_the_others():
    named = focused({"x": X, "y": Y}, "y")
    assert first_key(named) == "y"
    assert first_array(named) is Y
    assert list(arrays_of(named)) == ["x", "y"]
    changed = with_array(named, "x", Y)
    assert isinstance(changed, Focused)
    assert changed.inputs["x"] is Y
    assert first_array(changed) is Y


# -------------------------------------------------------------------- the input's own channels


class ChannelsLast(nn.Module):
    """Images with 13 bands behind, which the network itself moves to the front."""

    def __init__(self):
        super().__init__()
        self.first = nn.Conv2d(13, 8, 3, 2, 1)
        self.conv = nn.Conv2d(8, 8, 3, 2, 1)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.conv(self.first(x.permute(0, 3, 1, 2)).relu()).relu()
        return self.head(x.mean((2, 3)))


@pytest.mark.parametrize("layer", [None, "conv"])
@pytest.mark.parametrize("method", ["grad-cam", "score-cam", "full-grad"])
def test_bands_behind_are_found_by_the_layers_grid(layer, method):
    torch.manual_seed(0)
    model = ChannelsLast().eval()
    x = torch.randn(2, 40, 48, 13)

    class InFront(nn.Module):
        def __init__(self):
            super().__init__()
            self.model = model

        def forward(self, x):
            return self.model(x.permute(0, 2, 3, 1))

    found = gradcam.explain(model, x, layer, 1, method)
    assert found.size == (40, 48)
    assert found.axes.input_axes == (1, 2)
    path = None if layer is None else "model.conv"
    in_front = gradcam.explain(InFront().eval(), x.permute(0, 3, 1, 2), path, 1, method)
    torch.testing.assert_close(found.maps, in_front.maps)


# --------------------------------------------------------------------------- what the user says


class Tokens(nn.Module):
    """A class token, then 4 x 6 patches."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 8, 8, stride=8)
        self.token = nn.Parameter(torch.randn(1, 1, 8))
        self.mix = nn.Linear(8, 8)
        self.head = nn.Linear(8, 3)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return self.head(self.mix(x).mean(1))


def test_a_layout_that_plainly_cannot_be_is_refused():
    torch.manual_seed(0)
    model = Tokens().eval()
    x = torch.randn(2, 3, 32, 48)
    right = gradcam.Tokens((4, 6), prefix=1)
    explanation = gradcam.explain(model, x, "mix", 1, layout=right)
    assert explanation.axes.how == "given"
    assert explanation.size == (32, 48)
    for wrong in (gradcam.Tokens((6, 4), prefix=1), gradcam.Tokens((12, 2), prefix=1)):
        with pytest.raises(ValueError, match=r"answer to the input as N \(1 \+ 4 x 6\) C"):
            gradcam.explain(model, x, "mix", 1, layout=wrong)
    with pytest.raises(ValueError, match="`layout` says"):
        gradcam.explain(ChannelsLast().eval(), torch.randn(1, 32, 48, 13), "conv", 1,
                        layout="channels_last")  # fmt: skip


def test_layers_marks_what_can_be_explained_and_what_would_be():
    torch.manual_seed(0)
    model = Tokens().eval()
    listed = gradcam.layers(model, torch.randn(1, 3, 32, 48))
    assert {layer.path: layer.has_space for layer in listed} == {
        "embed": True, "mix": True, "head": False
    }  # fmt: skip
    assert [layer.path for layer in listed if layer.chosen] == ["mix"]
    vectors = nn.Sequential(nn.Linear(4, 3), nn.Linear(3, 2)).eval()
    assert not any(layer.chosen for layer in gradcam.layers(vectors, torch.randn(2, 4)))


# ------------------------------------------------------------------- hooks and names of the model's


class Collecting(nn.Module):
    """Its own hook collects what a layer returns, as those of `output_hidden_states` do."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)
        self.head = nn.Linear(4, 2)
        self.kept = []
        self.conv.register_forward_hook(lambda m, args, output: self.kept.append(output))

    def forward(self, x):
        self.kept.clear()
        self.conv(x)
        return self.head(self.kept[0].mean((2, 3)))


def test_the_models_own_hooks_see_the_tapped_value():
    torch.manual_seed(0)
    model = Collecting().eval()
    x = torch.randn(2, 3, 8, 8)
    explanation = gradcam.explain(model, x, "conv", 1)
    conv = nn.functional.conv2d(x, model.conv.weight, model.conv.bias)
    alpha = model.head.weight[1] / 36
    expected = torch.einsum("k,nkhw->nhw", alpha, conv).relu().detach()
    torch.testing.assert_close(explanation.maps, expected)
    gradcam.verify(model, x, "conv", 1).assert_passed()


@pytest.mark.parametrize("name", ["conv#1", "a[0]", "my conv", "b['x']", "#", "[1]"])
def test_names_with_signs_that_paths_use(name):
    torch.manual_seed(0)
    model = nn.Sequential()
    model.add_module("conv", nn.Conv2d(3, 4, 3))
    model.add_module(name, nn.Conv2d(4, 4, 3))
    model.add_module("pool", nn.AdaptiveAvgPool2d(1))
    model.add_module("flat", nn.Flatten())
    x = torch.randn(2, 3, 10, 10)
    model.eval()
    named = gradcam.explain(model, x, name, 1)
    assert gradcam.explain(model, x, None, 1).layer == name
    plain = nn.Sequential(*model).eval()
    torch.testing.assert_close(named.maps, gradcam.explain(plain, x, "1", 1).maps)
    assert [layer.path for layer in gradcam.layers(model, x)] == ["conv", name, "pool", "flat"]


# ------------------------------------------------------------------------- pictures among words


class Attention(nn.Module):
    """Tokens that look at those before them alone, as in a language model."""

    def __init__(self, width):
        super().__init__()
        self.attention = nn.MultiheadAttention(width, 2, batch_first=True)

    def forward(self, x):
        count = x.shape[1]
        mask = torch.ones(count, count, dtype=torch.bool).triu(1)
        return x + 0.5 * self.attention(x, x, x, attn_mask=mask, need_weights=False)[0]


class PackedPictures(nn.Module):
    """As Qwen-VL: a list of patches, squares of 2 x 2 merged to a token, and words around them.

    The words are 3 in front and 2 behind; the score is that of one word's token at the end.
    """

    def __init__(self):
        super().__init__()
        self.patch = nn.Linear(10, 8)
        self.merge = nn.Linear(32, 8)
        self.words = nn.Embedding(20, 8)
        self.blocks = nn.ModuleList(Attention(8) for _ in range(3))
        self.head = nn.Linear(8, 20)

    def forward(self, ids, patches, grid):
        tokens = self.merge(self.patch(patches).reshape(len(patches) // 4, 32))
        words = self.words(ids)
        counts = (grid.prod(1) // 4).tolist()
        pictures = torch.stack(torch.split(tokens, counts))
        x = torch.cat([words[:, :3], pictures, words[:, -2:]], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(x[:, -1])


def packed_inputs(samples):
    random = torch.Generator().manual_seed(0)
    return {
        "ids": torch.randint(0, 20, (samples, 5), generator=random),
        "patches": torch.randn(samples * 48, 10, generator=random),
        "grid": torch.tensor([[1, 6, 8]] * samples),
    }


@pytest.mark.parametrize("samples", [1, 2])
def test_one_words_logit_is_explained_over_the_pictures_tokens(samples):
    torch.manual_seed(0)
    model = PackedPictures().eval()
    inputs = packed_inputs(samples)
    explanation = gradcam.explain(model, inputs, target=7)
    assert explanation.layer == "blocks.1"
    assert str(explanation.axes.layout) == "N (3 + 3 x 4 + 2) C"
    assert (explanation.axes.how, explanation.axes.input) == ("evidence", "patches")
    assert explanation.size == (6, 8)

    kept = []
    hook = model.blocks[1].register_forward_hook(lambda m, args, output: kept.append(output))
    scores = model(**inputs)[:, 7]
    hook.remove()
    (gradient,) = torch.autograd.grad(scores.sum(), kept[0])
    alpha = gradient[:, 3:15].mean(1, keepdim=True)
    expected = (alpha * kept[0][:, 3:15]).sum(-1).relu().reshape(samples, 3, 4)
    torch.testing.assert_close(explanation.maps, expected.detach())
    gradcam.verify(model, inputs, "blocks.1", 7).assert_passed()


@pytest.mark.parametrize("samples", [1, 2])
def test_its_vision_tower_too(samples):
    torch.manual_seed(0)
    model = PackedPictures().eval()
    inputs = packed_inputs(samples)
    of_squares = gradcam.explain(model, inputs, "merge", 7)
    assert of_squares.maps.shape == (samples, 3, 4)
    assert of_squares.heatmaps().shape == (samples, 6, 8)
    # the patches are square by square, so that they are one axis and no picture
    of_patches = gradcam.explain(model, inputs, "patch", 7, relu=False)
    assert of_patches.maps.shape == (samples, 48)
    assert of_patches.axes.how == "evidence"
    kept = []
    hook = model.patch.register_forward_hook(lambda m, args, output: kept.append(output))
    scores = model(**inputs)[:, 7]
    hook.remove()
    (gradient,) = torch.autograd.grad(scores.sum(), kept[0])
    values = kept[0].detach().reshape(samples, 48, 8)
    alpha = gradient.reshape(samples, 48, 8).mean(1, keepdim=True)
    torch.testing.assert_close(of_patches.maps, (alpha * values).sum(-1))


def test_words_alone_have_their_own_axis():
    torch.manual_seed(0)
    model = PackedPictures().eval()
    inputs = packed_inputs(2)
    explanation = gradcam.explain(model, inputs, "words", 7)
    assert explanation.axes.input == "ids"
    assert explanation.maps.shape == (2, 5)
    for layer in ("merge", "blocks.1"):
        with pytest.raises(ValueError, match="this method"):
            gradcam.explain(model, inputs, layer, 7, "score-cam")
