"""Models that differentiate something themselves, or hold tensors that no graph can keep: every way
of running them. Their Grad-CAM maps are in `states_torch.py`.
"""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch")

import states_torch as states  # noqa: E402

import gradcam  # noqa: E402
from gradcam import backends, targets  # noqa: E402
from gradcam.model import INPUT, scorer  # noqa: E402

LAYER = states.LAYER
MADE = [
    states.Penalised,
    states.PenalisedAnywhere,
    states.Pushed,
    states.FunctionalSlope,
    states.MappedHead,
    states.SampleWise,
]


def keeps():
    model = states.Keeps(lambda tensor: [tensor])
    with torch.inference_mode():
        model(states.images())
    return model


@pytest.mark.parametrize("made", [*MADE, keeps])
def test_the_gradients_are_those_of_finite_differences(made):
    """Activations that replace a layer's own are still a function of the input to the model."""
    gradcam.verify(made(), states.images(), LAYER, 1).assert_passed()


@pytest.mark.parametrize("path", [LAYER, INPUT])
@pytest.mark.parametrize("made", [*MADE, keeps])
def test_variants_have_the_scores_of_a_pass_of_their_own(made, path):
    x = states.images()
    model = backends.adapt(made(), x)
    target = targets.as_target([[1, 3]])
    array = x if path == INPUT else model.capture(x, (path,), None).activations[0]
    variants = torch.stack([0.3 * array, array.flip(1)])
    found = scorer(model, x, path, target).run(variants)
    for variant, scores in zip(variants, found, strict=True):
        inputs, layers = (variant, ()) if path == INPUT else (x, (path,))
        expected = target(model.replay(inputs, layers, (variant,)[: len(layers)]))
        np.testing.assert_allclose(scores, expected, rtol=1e-5, atol=1e-6)


METHODS = ["shapley-cam", "integrated-grad-cam", "eigen-cam", "ablation-cam", "score-cam"]


@pytest.mark.parametrize("made", [*MADE, keeps])
@pytest.mark.filterwarnings("ignore::gradcam.GuessedLayerWarning")
def test_every_method_runs_and_keeps_no_graph(made):
    found = gradcam.compare(made(), states.images(), LAYER, 1, METHODS, relu=False)
    for explanation in found.values():
        assert not explanation.maps.requires_grad
        assert not explanation.scores.requires_grad
        assert not explanation.outputs.requires_grad
        assert explanation.maps.abs().max() > 0
    assert gradcam.guided_backprop(made(), states.images(), 1).gradients.abs().max() > 0
    assert gradcam.explain(made(), states.images(), None, 1, relu=False).maps.shape[0] == 2


@pytest.mark.parametrize(
    "made", [states.Penalised, states.PenalisedAnywhere, states.SampleWise, keeps]
)
def test_full_grad_keeps_no_graph(made):
    maps = gradcam.explain(made(), states.images(), LAYER, 1, "full-grad", relu=False).maps
    assert maps.abs().max() > 0
    assert not maps.requires_grad


def test_a_layer_of_batches_of_one_inside_vmap_can_be_verified():
    gradcam.verify(states.MappedAll(), states.images(), LAYER, [[1, 3]]).assert_passed()


def test_the_outputs_alone_are_those_of_the_model():
    x = states.images()
    model = states.Penalised()
    outputs = backends.adapt(model, x).forward(x)
    assert not outputs.requires_grad
    torch.testing.assert_close(outputs, model(x).detach())


def test_a_model_made_under_inference_mode_stays_as_it_is():
    model = keeps()
    gradcam.explain(model, states.images(), LAYER)
    assert model.kept[0].is_inference()


def test_errors_of_the_model_itself_come_through():
    class Fails(states.Network):
        def forward(self, x):
            raise RuntimeError("a tensor that does not require grad")

    with pytest.raises(RuntimeError, match="a tensor that does not require grad"):
        gradcam.explain(Fails(), states.images(), LAYER)
