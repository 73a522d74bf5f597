"""Explaining inside a function that the user compiles: the graph breaks there."""

from __future__ import annotations

import pytest

import gradcam

torch = pytest.importorskip("torch")

from torch import nn  # noqa: E402

IMAGES = torch.linspace(-1, 1, 2 * 3 * 8 * 8).reshape(2, 3, 8, 8)


def network():
    torch.manual_seed(0)
    layers = nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 5)
    return nn.Sequential(*layers).eval()


MODEL = network()
EXPLAINER = gradcam.Explainer(MODEL, "0", relu=False)


def in_one_line(images):
    return gradcam.explain(MODEL, images, "0", 1, relu=False).maps


def by_an_explainer(images):
    return EXPLAINER(images, 1).maps


def by_many_passes(images):
    return gradcam.explain(MODEL, images, "0", 1, "score-cam", relu=False).maps


@pytest.mark.parametrize("explained", [in_one_line, by_an_explainer, by_many_passes])
def test_the_graph_breaks_where_a_model_is_explained(explained):
    graphs = []

    def backend(graph, _):
        graphs.append([str(node.target) for node in graph.graph.nodes])
        return graph.forward

    @torch.compile(backend=backend)
    def user(images):
        return explained(images * 2) + 1

    torch.testing.assert_close(user(IMAGES), explained(IMAGES * 2) + 1)
    assert len(graphs) == 2  # before and after, and none of the model
    assert not any("conv" in node for graph in graphs for node in graph)


def test_a_warning_there_points_at_the_users_line():
    @torch.compile(backend="eager")
    def user(images):
        return gradcam.explain(MODEL, images * 0, "0", lambda y: y.sum(1) * 0).maps

    with pytest.warns(gradcam.BlankMapWarning) as caught:
        user(IMAGES)
    assert caught[0].filename == __file__
