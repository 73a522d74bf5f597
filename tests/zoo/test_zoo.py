"""The demo network: the same in both frameworks, verified, and looking where it should."""

from __future__ import annotations

import functools
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("efficientnet_lite_pytorch")
pytest.importorskip("skimage")
pytest.importorskip("flax")

import gradcam
from gradcam.zoo import efficientnet_lite0, gallery
from gradcam.zoo.demo import photograph

network = functools.cache(efficientnet_lite0)


@functools.cache
def explained(framework, name):
    net = network(framework)
    return gradcam.explain(net, net.preprocess([net.view(photograph(name))])).numpy()


@pytest.mark.parametrize(
    ("name", "expected"),
    [("chelsea", "tiger cat"), ("coffee", "espresso"), ("camera", "tripod"), ("rocket", "missile")],
)
def test_both_frameworks_agree(name, expected):
    torch, flax = explained("torch", name), explained("jax", name)
    assert torch.names() == flax.names() == [[expected]]
    np.testing.assert_allclose(np.asarray(flax.outputs), np.asarray(torch.outputs), atol=1e-4)
    np.testing.assert_allclose(flax.maps, torch.maps, atol=1e-4 * torch.maps.max())


def density(heat, rows, columns):
    """How much more heat lies in a part of the picture than if it were spread evenly."""
    return heat[0, rows, columns].mean() / heat.mean()


@pytest.mark.parametrize(
    ("name", "rows", "columns"),
    [
        ("coffee", slice(0, 130), slice(30, 180)),
        ("camera", slice(80, 224), slice(80, 210)),
    ],  # the cup, the tripod
)
def test_the_heat_lies_on_the_cup_and_the_tripod(name, rows, columns):
    heat = explained("torch", name).heatmaps()
    assert density(heat, rows, columns) > 1.7
    y, x = np.unravel_index(heat[0].argmax(), heat[0].shape)
    assert rows.start <= y < rows.stop
    assert columns.start <= x < columns.stop


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_verify_is_exact_in_float64(framework):
    net = network(framework)
    report = gradcam.verify(
        net, net.preprocess([net.view(photograph("chelsea"))]), directions=2, channels=2
    )
    report.assert_passed()
    assert report.dtype == "float64"
    assert report.error < 1e-6


def test_class_names_are_targets():
    net = network("torch")
    inputs = net.preprocess([net.view(photograph("chelsea"))])
    found = gradcam.explain(net, inputs, target=[["tabby", "Egyptian cat", 967]])
    np.testing.assert_array_equal(found.target, [[281, 285, 967]])
    with pytest.raises(ValueError, match='`target` "tabbi" is no class name; did you mean "tabby"'):
        gradcam.explain(net, inputs, target="tabbi")
    with pytest.raises(ValueError, match=r'"crane" is the name of the classes \[134, 517\]'):
        gradcam.explain(net, inputs, target="crane")


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_cam_is_z_times_grad_cam(framework):
    net = network(framework)
    inputs = net.preprocess([net.view(photograph("coffee"))])
    grad = gradcam.explain(net, inputs, target="espresso", relu=False).numpy()
    cam = gradcam.explain(net, inputs, target="espresso", method="cam", relu=False).numpy()
    np.testing.assert_allclose(cam.maps, 49 * grad.maps, atol=1e-5 * np.abs(cam.maps).max())


def test_hires_cam_sums_to_the_score_less_the_bias():
    net = network("torch")
    inputs = net.preprocess([net.view(photograph("coffee"))])
    found = gradcam.explain(
        net, inputs, target=[[967, 504]], method="hires-cam", relu=False
    ).numpy()
    bias = net.model._fc.bias.detach().numpy()[[967, 504]]
    np.testing.assert_allclose(found.maps.sum((2, 3))[0], found.scores[0] - bias, rtol=1e-4)


def test_ablation_of_1280_channels_runs_the_body_three_times():
    net, calls, kept = network("torch"), [], []
    inputs = net.preprocess([net.view(photograph("coffee"))])
    handles = [
        net.model._conv_stem.register_forward_hook(lambda *_: calls.append(1)),
        net.model._avg_pooling.register_forward_hook(
            lambda m, i, o: kept.append(i[0].detach().numpy())
        ),
    ]
    found = gradcam.explain(net, inputs, target="espresso", method="ablation-cam").numpy()
    for handle in handles:
        handle.remove()
    # for the activations, for the tape of the head, and for the tape's proof
    assert len(calls) == 3
    # behind the last layer all is linear: channel k takes w_k mean(A_k) with it, and its weight is
    # that over the score
    activations = kept[0][0].astype(np.float64)
    weights = (
        net.model._fc.weight.detach().numpy()[967] * activations.mean((1, 2)) / found.scores[0]
    )
    expected = np.maximum(np.einsum("k,kij->ij", weights, activations), 0)
    np.testing.assert_allclose(found.maps[0], expected, atol=1e-4 * expected.max())


def test_frameworks_have_names():
    with pytest.raises(ValueError, match='`framework` must be "torch" or "jax"'):
        efficientnet_lite0("tensorflow")


def test_grad_cam_keeps_to_its_photograph_and_shuffled_weights_do_not():
    """The grid pointing game of docs/which-method.md, on two of its collages, at the batch norm."""
    from gradcam import metrics
    from gradcam.evaluation.sanity import randomised

    net = efficientnet_lite0("torch")
    classes = {"chelsea": 285, "coffee": 967, "camera": 872}
    seen = {name: net.view(photograph(name)) for name in classes}
    pairs = [("chelsea", "coffee"), ("coffee", "camera")]
    inputs = net.preprocess([metrics.collage([seen[name] for name in pair]) for pair in pairs])
    target = [[classes[name] for name in pair] for pair in pairs]

    def shares(model):
        maps = gradcam.explain(model, inputs, "_bn1", target).maps
        return [metrics.grid_pointing_game(maps[:, side], side).value for side in (0, 1)]

    assert min(shares(net)) >= 0.95
    _, twin = next(iter(randomised(net, inputs[:1], steps=1)))
    assert 0.3 <= np.mean(shares(twin)) <= 0.7


def test_the_pages_of_methods_say_what_the_docstrings_say():
    docs = Path(__file__).parents[2] / "docs"
    pages = gallery.pages()
    assert set(pages) == {"methods.md"} | {f"methods/{p.name}" for p in docs.glob("methods/*.md")}
    for path, text in pages.items():
        assert (docs / path).read_text(encoding="utf-8") == text, "run make docs"
        if path != "methods.md":
            assert (docs / path).with_suffix(".jpg").is_file()
