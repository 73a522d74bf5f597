from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradcam.layouts import ChannelOrder, Layout, Tokens, infer, input_layout, input_size

IMAGE = (224, 224)


@pytest.mark.parametrize(
    ("shape", "size", "channels_first", "expected"),
    [
        ((512, 7, 7), IMAGE, True, Layout("channels_first", (7, 7))),
        ((7, 7, 512), IMAGE, False, Layout("channels_last", (7, 7))),
        ((7, 7, 768), IMAGE, True, Layout("channels_last", (7, 7))),  # torchvision's Swin
        ((512, 7, 7), IMAGE, False, Layout("channels_first", (7, 7))),
        ((64, 56, 56), IMAGE, True, Layout("channels_first", (56, 56))),
        ((7, 7, 7), IMAGE, True, Layout("channels_first", (7, 7))),
        ((7, 7, 7), IMAGE, False, Layout("channels_last", (7, 7))),
        ((96, 7, 14), (224, 448), True, Layout("channels_first", (7, 14))),
        ((32, 25), (100,), True, Layout("channels_first", (25,))),
        ((25, 32), (100,), False, Layout("channels_last", (25,))),
        ((16, 4, 8, 8), (16, 32, 32), True, Layout("channels_first", (4, 8, 8))),
        ((4, 8, 8, 16), (16, 32, 32), False, Layout("channels_last", (4, 8, 8))),
        ((197, 768), IMAGE, True, Layout("tokens", (14, 14), 1)),
        ((196, 768), IMAGE, True, Layout("tokens", (14, 14), 0)),
        ((198, 768), IMAGE, False, Layout("tokens", (14, 14), 2)),  # DeiT's distillation token
        (
            (261, 384),
            (224, 224),
            True,
            Layout("tokens", (16, 16), 5),
        ),  # DINOv2, class and four registers
        ((1370, 384), (518, 518), True, Layout("tokens", (37, 37), 1)),
        ((50, 768), IMAGE, True, Layout("tokens", (7, 7), 1)),
        ((393, 768), (224, 448), True, Layout("tokens", (14, 28), 1)),
        ((577, 1024), (384, 384), True, Layout("tokens", (24, 24), 1)),
        ((512,), IMAGE, True, None),
        ([512, 7, 7], IMAGE, True, Layout("channels_first", (7, 7))),
        ((64, 224, 224), IMAGE, False, Layout("channels_first", (224, 224))),
        (
            (100, 250, 250),
            IMAGE,
            False,
            Layout("channels_last", (100, 250)),
        ),  # larger than the input: no layer of it
        ((100, 225, 224), IMAGE, False, Layout("channels_last", (100, 225))),
        ((100, 20, 250), IMAGE, True, Layout("channels_first", (20, 250))),
        ((7, 14, 14), (224, 448), True, Layout("channels_last", (7, 14))),
        ((64, 7, 8), (224, 250), False, Layout("channels_first", (7, 8))),  # 250 / 32, rounded up
        (
            (100, 9, 7),
            (64, 64),
            False,
            Layout("channels_first", (9, 7)),
        ),  # both one off from a stride of 8
        ((100, 10, 7), (64, 64), False, Layout("channels_last", (100, 10))),  # no stride makes both
        ((5, 10, 20), (100,), True, Layout("channels_first", (10, 20))),
        ((257, 8), (16, 16), True, Layout("tokens", (16, 16), 1)),  # patches of one pixel
        ((3, 8), (2, 2), True, Layout("tokens", (1, 1), 2)),  # one patch of all pixels
        (
            (212, 8),
            IMAGE,
            True,
            Layout("tokens", (14, 14), 16),
        ),  # as many prefix tokens as are looked for
        (
            (201, 8),
            (225, 225),
            True,
            Layout("tokens", (14, 14), 5),
        ),  # as many where patches do not tile
        (
            (25, 8),
            IMAGE,
            True,
            Layout("tokens", (4, 4), 9),
        ),  # patches of 56 tile, those of 45 (5 x 5) do not
    ],
)
def test_layouts_are_inferred(shape, size, channels_first, expected):
    assert infer(shape, size, channels_first) == expected


def test_what_the_user_says_goes():
    assert infer((7, 7, 9), IMAGE, True, "channels_last") == Layout("channels_last", (7, 7))
    assert infer((9, 7, 7), IMAGE, False, "channels_first") == Layout("channels_first", (7, 7))
    assert infer((60, 8), IMAGE, True, Tokens((7, 8), prefix=4)) == Layout("tokens", (7, 8), 4)


def test_tokens_that_tile_nothing_are_an_error():
    with pytest.raises(
        ValueError, match=r"300 tokens does not tile an input of size \(224, 224\).*layout=gradcam"
    ):
        infer((300, 64), IMAGE, True)
    for count, size in ((213, IMAGE), (202, (225, 225)), (202, (224, 230)), (1, (8, 16))):
        with pytest.raises(ValueError, match=f"a layer of {count} tokens does not tile"):
            infer((count, 64), size, True)
    with pytest.raises(
        ValueError,
        match=r"needs samples of shape \(T, C\), T >= 1 \+ 49, but the layer's are \(40, 8",
    ):
        infer((40, 8), IMAGE, True, Tokens((7, 7)))
    with pytest.raises(ValueError, match='`layout` must be "channels_first"'):
        infer((40, 8), IMAGE, True, "nchw")


def test_views_by_hand():
    a = np.arange(12.0).reshape(1, 2, 2, 3)  # two channels on a grid of 2 x 3
    first = Layout("channels_first", (2, 3))
    np.testing.assert_array_equal(first.view(a)[0], [[0, 1, 2, 3, 4, 5], [6, 7, 8, 9, 10, 11]])
    last = Layout("channels_last", (2, 3))
    np.testing.assert_array_equal(last.view(np.moveaxis(a, 1, -1)), first.view(a))
    tokens = np.concatenate([np.full((1, 1, 2), 99.0), np.moveaxis(first.view(a), 1, 2)], axis=1)
    np.testing.assert_array_equal(Layout("tokens", (2, 3), 1).view(tokens), first.view(a))
    np.testing.assert_array_equal(first.maps(np.arange(6.0)), [[0, 1, 2], [3, 4, 5]])


kinds = st.sampled_from(["channels_first", "channels_last", "tokens"])
leads = st.lists(st.integers(1, 3), max_size=3).map(tuple)
grids = st.lists(st.integers(1, 4), min_size=1, max_size=3).map(tuple)


def samples(kind, lead, grid):
    sample = {
        "channels_first": (5, *grid),
        "channels_last": (*grid, 5),
        "tokens": (int(np.prod(grid)), 5),
    }[kind]
    return np.random.default_rng(0).normal(size=(*lead, *sample))


@given(kinds, leads, grids)
def test_the_way_back_is_the_inverse(kind, lead, grid):
    layout, array = Layout(kind, grid), samples(kind, lead, grid)
    view = layout.view(array)
    assert view.shape == (*lead, 5, int(np.prod(grid)))
    np.testing.assert_array_equal(layout.unview(view), array)
    strict = layout.view(array_api_strict.asarray(array))
    np.testing.assert_array_equal(np.asarray(strict), view)
    np.testing.assert_array_equal(layout.maps(view), view.reshape(*lead, 5, *grid))


@given(st.sampled_from(["channels_first", "channels_last"]), leads, grids)
def test_channels_go_to_their_place(kind, lead, grid):
    layout, array = Layout(kind, grid), samples("channels_first", lead, grid)
    arranged = layout.arranged(array)
    np.testing.assert_array_equal(layout.view(arranged), Layout("channels_first", grid).view(array))
    positions = array[(..., 0, *(slice(None),) * len(grid))]
    expected = layout.view(arranged) * positions.reshape(*lead, 1, -1)
    np.testing.assert_array_equal(layout.view(arranged * layout.broadcast(positions)), expected)


def test_a_gradient_that_was_pooled_has_one_token_for_all():
    layout = Layout("tokens", (2, 3), 1)
    assert layout.view(np.ones((4, 7, 5))).shape == (4, 5, 6)
    pooled = np.arange(20.0).reshape(4, 1, 5)
    np.testing.assert_array_equal(layout.view(pooled), np.moveaxis(pooled, 1, 2))


def test_layouts_are_keys():
    assert (
        len(
            {
                Layout("tokens", (2, 3), 1),
                Layout("tokens", (2, 3), 1),
                Tokens((2, 3)),
                Tokens((2, 3), 1),
            }
        )
        == 2
    )


def test_a_layout_with_prefix_tokens_has_no_way_back():
    with pytest.raises(ValueError, match="no inverse"):
        Layout("tokens", (2, 2), 1).unview(np.zeros((1, 3, 4)))


def test_spatial_axes():
    assert Layout("channels_first", (7, 7)).spatial_axes == (-2, -1)
    assert Layout("channels_last", (7, 7)).spatial_axes == (-3, -2)
    assert Layout("tokens", (7, 7)).spatial_axes == (-2,)


@pytest.mark.parametrize(
    ("shape", "channels_first", "expected"),
    [
        ((2, 3, 224, 224), True, (224, 224)),
        ((2, 224, 224, 3), False, (224, 224)),
        ((2, 224, 224, 3), True, (224, 224)),
        ((2, 1, 28, 28), False, (28, 28)),
        ((2, 3, 4, 3), True, (4, 3)),
        ((2, 4, 32, 32), False, (32, 32)),
        ((2, 5, 32, 32), False, (5, 32)),  # more channels than a picture has: the framework's habit
        ((2, 32, 32, 4), True, (32, 32)),
        ((2, 32, 32, 5), True, (32, 5)),
        ((2, 5, 32, 4), True, (5, 32)),
        ((2, 3, 100), False, (3,)),  # so few of a sequence's axes decide nothing
        ((2, 12, 100), True, (100,)),
        ((2, 100, 12), False, (100,)),
        ((2, 1, 8, 32, 32), True, (8, 32, 32)),
        ((2, 77), True, (77,)),
        ((2,), True, None),
    ],
)
def test_the_inputs_size(shape, channels_first, expected):
    assert input_size(shape, channels_first) == expected


def test_the_inputs_layout():
    assert input_layout((2, 3, 32, 32), False) == Layout("channels_first", (32, 32))
    assert input_layout([2, 32, 32, 3], True) == Layout("channels_last", (32, 32))
    assert input_layout((2, 77), True) is None


@pytest.mark.parametrize(
    ("shape", "size", "order", "kind"),
    [
        ((9, 8), (9,), True, "channels_last"),  # token ids of length 9, an embedding
        ((7, 9), (9,), False, "channels_first"),  # the same, behind a convolution
        ((9, 9), (9,), True, "channels_first"),  # both: the framework's habit
        (
            (9, 4),
            (9,),
            ChannelOrder(True, True),
            "channels_first",
        ),  # a strided convolution of 9 channels
        ((4, 9), (9,), ChannelOrder(False, True), "channels_last"),
        ((16, 5), (40,), True, "channels_first"),
    ],
)
def test_in_one_dimension_the_layers_type_tells_or_the_inputs_length(shape, size, order, kind):
    assert infer(shape, size, order).kind == kind


def test_pytorchs_layers_say_where_their_channels_are():
    torch = pytest.importorskip("torch")
    from gradcam.backends.torch.model import TorchModel
    from gradcam.model import INPUT

    nn = torch.nn
    model = nn.Sequential()
    model.add_module("embed", nn.Embedding(5, 4))
    model.add_module("block", nn.Sequential(nn.Conv1d(4, 6, 3), nn.ReLU(), nn.BatchNorm1d(6)))
    model.add_module("mixed", nn.Sequential(nn.Conv1d(6, 6, 1), nn.LayerNorm(6), nn.GELU()))
    model.add_module("rnn", nn.LSTM(6, 3))

    def said(path):
        order = TorchModel(model).channel_order_at(path)
        return None if order is None else (order.channels_first, order.sure)

    assert said(INPUT) == (False, True)
    assert said("embed") == (False, True)
    # a layer's own type is sure, those of layers inside it or around it are a hint
    assert [said("block"), said("block.1"), said("block.2")] == [
        (True, False),
        (True, False),
        (True, True),
    ]
    assert [said("mixed"), said("mixed.1"), said("mixed.2")] == [None, (False, True), None]
    assert [said("rnn[0]"), said("rnn#1[0]"), said("spare")] == [(False, True), (False, True), None]

    class Elsewhere(nn.LayerNorm):
        """As torchvision's LayerNorm2d, whose channels are in front."""

    model.add_module("own", Elsewhere(3))
    assert said("own") is None
