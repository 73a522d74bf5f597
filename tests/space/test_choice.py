"""Which layer is taken where none is named, and which axes it has: a small network for each kind.

The expected maps are made here with plain hooks and autograd, by the axes that each network is
written with.
"""

from __future__ import annotations

import pytest

import gradcam

torch = pytest.importorskip("torch")
nn = torch.nn


def made(kind):
    torch.manual_seed(0)
    return kind().eval()


def by_hand(model, x, path, to_tokens, target=1):
    """Grad-CAM's two lines for the layer's output as `to_tokens` reads it: (N, P, C)."""
    kept = []
    hook = model.get_submodule(path).register_forward_hook(
        lambda module, inputs, output: kept.append(output) or output.clone()
    )
    outputs = model(x)
    hook.remove()
    (gradient,) = torch.autograd.grad(outputs[:, target].sum(), kept[0])
    alpha = to_tokens(gradient).mean(1, keepdim=True)
    return (alpha * to_tokens(kept[0])).sum(-1).relu().detach()


class Block(nn.Module):
    def __init__(self, width=16):
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.attention = nn.MultiheadAttention(width, 4, batch_first=True)
        self.mlp = nn.Sequential(nn.Linear(width, 32), nn.GELU(), nn.Linear(32, width))

    def forward(self, x):
        y = self.norm(x)
        x = x + 0.3 * self.attention(y, y, y, need_weights=False)[0]
        return x + 0.3 * self.mlp(x)


class Transformer(nn.Module):
    """Four extra tokens in front, of which the first is classified; the norm is behind it all."""

    extra = 4

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv2d(3, 16, 8, stride=8)
        self.tokens = nn.Parameter(torch.randn(1, self.extra, 16))
        self.blocks = nn.ModuleList(Block() for _ in range(3))
        self.norm = nn.LayerNorm(16)
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.embed(x).flatten(2).transpose(1, 2)
        x = torch.cat([self.tokens.expand(len(x), -1, -1), x], 1)
        for block in self.blocks:
            x = block(x)
        return self.head(self.norm(x)[:, 0])


def test_a_transformers_layer_is_in_front_of_its_last_attention_and_its_registers_are_no_positions():
    model = made(Transformer)
    x = torch.randn(2, 3, 48, 64)
    e = gradcam.explain(model, x, target=1)
    assert e.layer == "blocks.1"
    assert (e.axes.layout.prefix, e.axes.layout.grid) == (4, (6, 8))
    assert e.axes.how == "evidence"
    expected = by_hand(model, x, "blocks.1", lambda a: a[:, 4:])
    torch.testing.assert_close(e.maps.flatten(1), expected, rtol=1e-4, atol=1e-7)
    assert "blocks.2" in dict(e.choice.later)
    assert "reaches none of its positions" in str(e.choice)


def test_the_second_call_is_one_forward_pass_and_the_first_few_more():
    model = made(Transformer)
    x = torch.randn(2, 3, 48, 64)
    calls = []
    model.register_forward_pre_hook(lambda module, inputs: calls.append(1))
    gradcam.explain(model, x, target=1)
    # the list of layers, the graph, six to ask where space is, the gradients, the explanation
    assert len(calls) == 10
    calls.clear()
    gradcam.explain(model, torch.randn(3, 3, 48, 64), target=1)
    assert len(calls) == 1


def test_a_convolutional_network_whose_layer_is_named_is_asked_nothing():
    model = nn.Sequential(
        nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten()
    ).eval()
    calls = []
    model.register_forward_pre_hook(lambda module, inputs: calls.append(1))
    e = gradcam.explain(model, torch.randn(2, 3, 16, 16), "2")
    assert len(calls) == 1
    assert e.axes.how == "type"


class Sequences(nn.Module):
    """Time first: (T, N, C), here with as many steps as samples."""

    def __init__(self):
        super().__init__()
        self.embed = nn.Conv1d(3, 16, 1)
        self.first = nn.Identity()
        self.mix = nn.Conv1d(16, 16, 3, padding=1)
        self.last = nn.Identity()
        self.head = nn.Linear(16, 5)

    def forward(self, x):
        x = self.first(self.embed(x).permute(2, 0, 1))
        x = self.mix(x.permute(1, 2, 0)).relu().permute(2, 0, 1)
        return self.head(self.last(x).mean(0))


@pytest.mark.parametrize("samples", [1, 2, 16])
def test_samples_that_are_not_the_first_axis(samples):
    model = made(Sequences)
    x = torch.randn(samples, 3, 16)
    e = gradcam.explain(model, x, "last", target=1)
    assert e.axes.layout.samples.axis == 1
    expected = by_hand(model, x, "last", lambda a: a.transpose(0, 1))
    torch.testing.assert_close(e.maps, expected, rtol=1e-4, atol=1e-7)
    two = gradcam.explain(model, x, "last", target=[[1, 2]])
    torch.testing.assert_close(two.maps[:, 0], expected, rtol=1e-4, atol=1e-7)
    gradcam.verify(model, x, "last", target=1).assert_passed()


class Frames(nn.Module):
    """Video (N, F, 3, H, W): frames are folded into the batch, and their scores averaged."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.Conv2d(6, 6, 3, 2, 1)
        )
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        n, f = x.shape[:2]
        features = self.body(x.flatten(0, 1)).relu()
        return self.head(features.mean((2, 3))).reshape(n, f, -1).mean(1)


def test_frames_that_are_folded_into_the_batch_have_a_map_each():
    model = made(Frames)
    x = torch.randn(2, 4, 3, 16, 24)
    e = gradcam.explain(model, x, "body", target=1)
    assert e.maps.shape == (2, 4, 8, 12)
    expected = by_hand(model, x, "body", lambda a: a.flatten(2).transpose(1, 2))
    torch.testing.assert_close(e.maps.reshape(8, -1), expected, rtol=1e-4, atol=1e-7)
    assert e.heatmaps().shape == (2, 4, 16, 24)
    with pytest.raises(ValueError, match="needs a layer whose first axis is that of the samples"):
        gradcam.explain(model, x, "body", target=1, method="ablation-cam")


class ChannelsLast(nn.Module):
    """NHWC in PyTorch, with as many channels as columns."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 12, 3, padding=1)
        self.rest = nn.Identity()
        self.head = nn.Linear(12, 5)

    def forward(self, x):
        return self.head(self.rest(self.conv(x).relu().permute(0, 2, 3, 1)).mean((1, 2)))


def test_channels_behind_as_many_as_columns():
    model = made(ChannelsLast)
    x = torch.randn(2, 3, 12, 12)
    e = gradcam.explain(model, x, "rest", target=1)
    assert e.axes.layout.kind == "channels_last"
    expected = by_hand(model, x, "rest", lambda a: a.flatten(1, 2))
    torch.testing.assert_close(e.maps.flatten(1), expected, rtol=1e-4, atol=1e-7)


class SideOutput(nn.Module):
    """Returns features beside the score, through a layer that the score does not use."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU())
        self.branch = nn.Conv2d(6, 6, 3, padding=1)
        self.side = nn.Conv2d(6, 4, 3, padding=1)
        self.head = nn.Linear(6, 5)

    def forward(self, x):
        x = self.body(x)
        side = self.side(x)
        scores = self.head((x + self.branch(x)).mean((2, 3)))
        return {"logits": scores, "side": side}


def test_neither_a_side_output_nor_one_of_two_branches_is_taken():
    e = gradcam.explain(made(SideOutput), torch.randn(2, 3, 16, 16), target=1)
    assert e.layer == "body"
    refused = dict(e.choice.later)
    assert "by other ways too" in refused["side"]
    assert "by other ways too" in refused["branch"]


def test_the_target_of_the_user_chooses_the_layer_also_where_outputs_are_no_classes():
    class Dense(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = nn.Conv2d(3, 6, 3, padding=1)
            self.head = nn.Conv2d(6, 4, 1)

        def forward(self, x):
            return {"masks": self.head(self.body(x).relu())}

    e = gradcam.explain(
        made(Dense), torch.randn(2, 3, 16, 16), target=lambda o: o["masks"][:, 1].mean((1, 2))
    )
    assert e.layer == "head"


def test_pooling_at_the_end_is_left_out():
    class Pooled(nn.Module):
        def __init__(self):
            super().__init__()
            self.features = nn.Sequential(nn.Conv2d(3, 6, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2))
            self.head = nn.Linear(6 * 64, 5)

        def forward(self, x):
            return self.head(self.features(x).flatten(1))

    e = gradcam.explain(made(Pooled), torch.randn(2, 3, 16, 16), target=1)
    assert e.layer == "features.1"
    assert e.maps.shape == (2, 16, 16)


def test_of_two_inputs_the_one_that_the_layer_answers_to_gives_the_size():
    class Two(nn.Module):
        def __init__(self):
            super().__init__()
            self.first, self.second = nn.Conv2d(3, 4, 3), nn.Sequential(nn.Conv2d(3, 4, 3))
            self.mark = nn.Identity()
            self.head = nn.Linear(8, 5)

        def forward(self, left, right):
            right = self.mark(self.second(right).relu().permute(0, 2, 3, 1))
            left = self.first(left).relu().mean((2, 3))
            return self.head(torch.cat([left, right.mean((1, 2))], 1))

    inputs = (torch.randn(2, 3, 16, 16), torch.randn(2, 3, 12, 20))
    e = gradcam.explain(made(Two), inputs, "mark", target=1)
    assert e.axes.input == 1
    assert e.heatmaps().shape == (2, 12, 20)


def test_where_nothing_tells_the_guess_is_called_a_guess():
    class Mixed(nn.Module):
        def __init__(self):
            super().__init__()
            self.mix = nn.Linear(3 * 16 * 16, 6 * 6 * 6, bias=False)
            self.rest = nn.Identity()
            self.head = nn.Linear(6, 5)

        def forward(self, x):
            return self.head(self.rest(self.mix(x.flatten(1)).reshape(-1, 6, 6, 6)).mean((2, 3)))

    model = made(Mixed)
    x = torch.randn(2, 3, 16, 16)
    with pytest.warns(gradcam.GuessedAxesWarning, match="could not be told and was guessed"):
        e = gradcam.explain(model, x, "rest", target=1)
    assert e.axes.how == "guess"
    given = gradcam.explain(model, x, "rest", target=1, layout="channels_first")
    assert given.axes.how == "given"
    assert torch.equal(given.maps, e.maps)
    assert str(gradcam.axes(model, x, "rest", layout="channels_first")) == '"rest": N C 6 6 (given)'


class SoundInColumns(nn.Module):
    """Sound (N, T) as pictures of one column, as CREPE sees it."""

    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(1, 4, (8, 1), stride=(4, 1))
        self.head = nn.Linear(4, 3)

    def forward(self, x):
        return self.head(self.conv(x[:, None, :, None]).relu().mean((2, 3)))


@pytest.mark.parametrize("layer", [None, "conv"])
def test_a_convolution_over_more_axes_than_the_input_has(layer):
    model = made(SoundInColumns)
    explanation = gradcam.explain(model, torch.randn(2, 64), layer, target=1)
    assert (explanation.axes.how, explanation.layer) == ("type", "conv")
    assert explanation.maps.shape == (2, 15, 1)
