from __future__ import annotations

import array_api_strict
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradcam.layouts import Layout, Tokens, infer, input_size

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
        ((261, 384), (224, 224), True, Layout("tokens", (16, 16), 5)),  # DINOv2, class and four registers
        ((1370, 384), (518, 518), True, Layout("tokens", (37, 37), 1)),
        ((50, 768), IMAGE, True, Layout("tokens", (7, 7), 1)),
        ((393, 768), (224, 448), True, Layout("tokens", (14, 28), 1)),
        ((577, 1024), (384, 384), True, Layout("tokens", (24, 24), 1)),
        ((512,), IMAGE, True, None),
    ],
)
def test_layouts_are_inferred(shape, size, channels_first, expected):
    assert infer(shape, size, channels_first) == expected


def test_what_the_user_says_goes():
    assert infer((7, 7, 9), IMAGE, True, "channels_last") == Layout("channels_last", (7, 7))
    assert infer((9, 7, 7), IMAGE, False, "channels_first") == Layout("channels_first", (7, 7))
    assert infer((60, 8), IMAGE, True, Tokens((7, 8), prefix=4)) == Layout("tokens", (7, 8), 4)


def test_tokens_that_tile_nothing_are_an_error():
    with pytest.raises(ValueError, match=r"300 tokens does not tile an input of size \(224, 224\).*layout=gradcam"):
        infer((300, 64), IMAGE, True)
    with pytest.raises(ValueError, match=r"needs samples of shape \(T, C\), T >= 1 \+ 49, but the layer's are \(40, 8"):
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


@given(
    st.sampled_from(["channels_first", "channels_last", "tokens"]), st.lists(st.integers(1, 4), min_size=1, max_size=3)
)
def test_the_way_back_is_the_inverse(kind, grid):
    layout = Layout(kind, tuple(grid))
    sample = {"channels_first": (5, *grid), "channels_last": (*grid, 5), "tokens": (int(np.prod(grid)), 5)}[kind]
    array = np.random.default_rng(0).normal(size=(2, 3, *sample))
    view = layout.view(array)
    assert view.shape == (2, 3, 5, int(np.prod(grid)))
    np.testing.assert_array_equal(layout.unview(view), array)
    strict = layout.view(array_api_strict.asarray(array))
    np.testing.assert_array_equal(np.asarray(strict), view)


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
        ((2, 12, 100), True, (100,)),
        ((2, 100, 12), False, (100,)),
        ((2, 1, 8, 32, 32), True, (8, 32, 32)),
        ((2, 77), True, (77,)),
        ((2,), True, None),
    ],
)
def test_the_inputs_size(shape, channels_first, expected):
    assert input_size(shape, channels_first) == expected
