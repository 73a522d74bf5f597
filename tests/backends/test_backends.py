"""The laws of `gradcam.model`, one suite for every backend."""

from __future__ import annotations

import importlib.util
import os

import networks
import numpy as np
import pytest
from networks import Case

import gradcam
from gradcam import backends, targets
from gradcam._arrays import constant, to_numpy
from gradcam.backends import environment


def reference() -> Case:
    return networks.case("numpy")


@pytest.mark.skipif(not os.environ.get("CI"), reason="a development machine may lack a framework")
@pytest.mark.parametrize("framework", [row.module for row in environment.FRAMEWORKS])
def test_ci_has_every_framework(framework):
    assert importlib.util.find_spec(framework) is not None


def test_replaying_the_captured_activations_gives_the_captured_outputs(case):
    capture = case.tapped.capture(case.inputs(), (case.second,), targets.as_target(None))
    again = case.tapped.replay(case.inputs(), (case.second,), capture.activations)
    np.testing.assert_allclose(to_numpy(again), to_numpy(capture.outputs), rtol=1e-12)


def test_replaying_other_activations_gives_their_outputs(case):
    capture = case.tapped.capture(case.inputs(), (case.second,), targets.as_target(None))
    halved = case.tapped.replay(case.inputs(), (case.second,), (capture.activations[0] / 2,))
    expected = networks.head_numpy(case.take(to_numpy(capture.activations[0])) / 2)
    np.testing.assert_allclose(to_numpy(halved), expected, rtol=1e-10)


def test_activations_and_outputs_are_the_networks(case):
    capture = case.tapped.capture(case.inputs(), (case.second,), targets.as_target(None))
    expected = networks.features_numpy(networks.images())
    np.testing.assert_allclose(case.take(to_numpy(capture.activations[0])), expected, rtol=1e-10)
    np.testing.assert_allclose(to_numpy(capture.outputs), networks.head_numpy(expected), rtol=1e-10)


def test_gradients_are_the_derivative_worked_by_hand(case):
    # y_k = tanh(z_k), z = mean(A) W3 + b3: dy_k/dA_cp = (1 - y_k^2) W3_ck / P
    capture = case.tapped.capture(case.inputs(), (case.second,), targets.as_target(3))
    y = to_numpy(capture.outputs)[:, 3]
    expected = (1 - y**2)[:, None] * networks.weights()["w3"][:, 3] / (4 * 5)
    found = case.take(to_numpy(capture.gradients[0]))
    tolerance = 1e-6 if case.name == "numpy" else 1e-11  # finite differences
    np.testing.assert_allclose(
        found, np.broadcast_to(expected[:, :, None, None], found.shape), rtol=tolerance
    )


@pytest.mark.parametrize("target", [None, 3, [0, 4, 2], [[1, 3]], [[0, 1], [2, 3], [4, 0]]])
def test_maps_agree_with_the_finite_difference_oracle(case, target):
    found = gradcam.explain(case.model, case.inputs(), layer=case.second, target=target).numpy()
    expected = gradcam.explain(reference().model, reference().inputs(), target=target)
    np.testing.assert_allclose(found.maps, expected.maps, rtol=1e-6, atol=1e-12)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-10)


def test_a_function_target_equals_its_class(case):
    by_index = gradcam.explain(case.model, case.inputs(), layer=case.second, target=2).numpy()
    by_function = gradcam.explain(
        case.model, case.inputs(), layer=case.second, target=lambda out: out[:, 2]
    ).numpy()
    np.testing.assert_allclose(by_function.maps, by_index.maps, rtol=1e-9)
    assert callable(by_function.target)


def test_k_targets_in_one_call_are_k_calls(case):
    together = gradcam.explain(
        case.model, case.inputs(), layer=case.second, target=[[0, 3, 4]]
    ).numpy()
    assert together.maps.shape == (3, 3, 4, 5)
    for k, index in enumerate([0, 3, 4]):
        alone = gradcam.explain(case.model, case.inputs(), layer=case.second, target=index).numpy()
        np.testing.assert_allclose(together.maps[:, k], alone.maps, rtol=1e-9, atol=1e-15)
        np.testing.assert_allclose(together.scores[:, k], alone.scores)


def test_one_samples_result_does_not_depend_on_the_others(case):
    whole = gradcam.explain(case.model, case.inputs(3), layer=case.second).numpy()
    for n in range(3):
        alone = gradcam.explain(case.model, case.inputs(3)[n : n + 1], layer=case.second).numpy()
        np.testing.assert_allclose(alone.maps[0], whole.maps[n], rtol=1e-7, atol=1e-15)


def test_the_top_class_is_found_and_named(case):
    found = gradcam.explain(case.model, case.inputs(), layer=case.second).numpy()
    np.testing.assert_array_equal(
        found.target, networks.head_numpy(networks.features_numpy(networks.images())).argmax(1)
    )
    assert found.names() == [[f"class {i}"] for i in found.target]


@pytest.mark.parametrize("target", [None, [[1, 3]]])
def test_verify_passes_at_the_smooth_layer(case, target):
    report = gradcam.verify(case.model, case.inputs(), layer=case.second, target=target)
    report.assert_passed()
    assert report.dtype == "float64"
    assert report.points == (8 + 6) * 3 * (1 if target is None else 2)


def test_verify_passes_at_the_relu_layer(case):
    if case.first is None:
        pytest.skip("a split has one layer")
    report = gradcam.verify(case.model, case.inputs(), layer=case.first, target=1)
    report.assert_passed()


def test_several_layers_at_once_are_each_by_itself(case):
    if case.first is None:
        pytest.skip("a split has one layer")
    both = case.tapped.capture(case.inputs(), (case.second, case.first), targets.as_target(1))
    for i, layer in enumerate((case.second, case.first)):
        alone = case.tapped.capture(case.inputs(), (layer,), targets.as_target(1))
        np.testing.assert_allclose(to_numpy(both.activations[i]), to_numpy(alone.activations[0]))
        np.testing.assert_allclose(
            to_numpy(both.gradients[i]), to_numpy(alone.gradients[0]), rtol=1e-12
        )


def test_several_layers_make_one_fused_map(case):
    if case.first is None:
        pytest.skip("a split has one layer")
    fused = gradcam.explain(
        case.model, case.inputs(), layer=[case.first, case.second], target=1
    ).numpy()
    each = [
        gradcam.explain(case.model, case.inputs(), layer=one, target=1).numpy()
        for one in fused.layer
    ]
    assert fused.maps.shape == (3, 8, 10)
    np.testing.assert_allclose(
        fused.maps, gradcam.maps.fuse([e.maps for e in each], 2), rtol=1e-9, atol=1e-12
    )


def test_compare_is_each_method_alone(case):
    def squared(activations, gradients):
        return gradcam.METHODS["grad-cam"](activations**2, gradients)

    found = gradcam.compare(
        case.model, case.inputs(), case.second, 1, methods=["grad-cam", squared]
    )
    assert list(found) == ["grad-cam", "squared"]
    for method, explanation in zip(["grad-cam", squared], found.values(), strict=True):
        alone = gradcam.explain(case.model, case.inputs(), case.second, 1, method)
        np.testing.assert_allclose(to_numpy(explanation.maps), to_numpy(alone.maps), rtol=1e-7)


def test_layers_lists_what_runs_with_shapes(case):
    found = {layer.path: layer.shape for layer in gradcam.layers(case.model, case.inputs())}
    shape = (3, 6, 4, 5) if case.channels_first else (3, 4, 5, 6)
    assert found[case.second] == shape
    if case.first is not None:
        assert list(found).index(case.first) < list(found).index(case.second)


def test_the_default_layer_is_the_last_with_space(case):
    assert gradcam.explain(case.model, case.inputs()).layer == case.second


def test_heatmaps_of_the_compiled_path_are_those_of_the_explanation(case):
    explainer = gradcam.Explainer(case.model, case.second)
    expected = explainer(case.inputs(), 1).heatmaps()
    found = explainer.heatmaps(case.inputs(), 1)
    assert tuple(found.shape) == (3, 8, 10)
    np.testing.assert_allclose(to_numpy(found), to_numpy(expected), rtol=1e-9, atol=1e-15)


def test_without_relu_the_map_is_signed_and_negating_the_target_negates_it(case):
    signed = gradcam.explain(
        case.model, case.inputs(), case.second, lambda out: out[:, 2], relu=False
    ).numpy()
    negated = gradcam.explain(
        case.model, case.inputs(), case.second, lambda out: -out[:, 2], relu=False
    ).numpy()
    np.testing.assert_allclose(negated.maps, -signed.maps, rtol=1e-9)
    assert signed.maps.min() < 0


def test_maps_stay_in_the_models_framework(case):
    maps = gradcam.explain(case.model, case.inputs(), case.second).maps
    assert type(maps) is type(case.inputs())


# ------------------------------------------------------------------------------------------ errors


def test_an_unknown_layer_is_named_with_its_nearest(case):
    with pytest.raises(
        KeyError, match=rf'layer "{case.second}x" is not in the model; did you mean "{case.second}"'
    ):
        gradcam.explain(case.model, case.inputs(), layer=case.second + "x")


@pytest.mark.parametrize("target", [5, -1, [0, 1, 7], [[0, 5]]])
def test_a_class_that_is_not_there_is_an_error_not_a_clamped_index(case, target):
    with pytest.raises(IndexError, match=r"is no class: the model's outputs have 5, 0 to 4"):
        gradcam.explain(case.model, case.inputs(), layer=case.second, target=target)


@pytest.mark.parametrize("target", [[1, 2], [[1], [2]]])
def test_a_target_for_another_batch_is_an_error(case, target):
    with pytest.raises(ValueError, match="is for 2 samples, but the batch has 3"):
        gradcam.explain(case.model, case.inputs(), layer=case.second, target=target)


def test_a_target_function_of_the_wrong_shape_is_an_error(case):
    with pytest.raises(
        ValueError, match=r"must return scores of shape \(N,\) or \(N, K\) for N = 3 samples"
    ):
        gradcam.explain(case.model, case.inputs(), layer=case.second, target=lambda out: out[:2, 1])


def test_what_a_target_raises_reaches_the_caller(case):
    def broken(outputs):
        raise LookupError("mine")

    with pytest.raises(LookupError, match="mine"):
        gradcam.explain(case.model, case.inputs(), layer=case.second, target=broken)
    gradcam.explain(case.model, case.inputs(), layer=case.second)  # and nothing is left behind


def test_not_a_number_is_an_error_that_names_layer_and_sample(case):
    inputs = case.inputs()
    hole = np.zeros(tuple(inputs.shape))
    hole[1] = np.nan
    with pytest.raises(
        FloatingPointError, match=rf'activations of layer "{case.second}" are NaN .* for sample 1'
    ):
        gradcam.explain(case.model, inputs + constant(hole, like=inputs), layer=case.second)
    found = gradcam.explain(
        case.model, inputs + constant(hole, like=inputs), layer=case.second, check=False
    ).numpy()
    assert np.isfinite(found.maps[[0, 2]]).all()
    assert not np.isfinite(found.maps[1]).any()


def test_a_layer_without_space_is_an_error(case):
    paths = {layer.path for layer in gradcam.layers(case.model, case.inputs())}
    if "linear" not in paths:
        pytest.skip("no layer without space")
    with pytest.raises(ValueError, match='layer "linear" gives vectors'):
        gradcam.explain(case.model, case.inputs(), layer="linear")


def test_an_empty_batch_is_an_error(case):
    with pytest.raises(ValueError, match=r"the batch is empty: `inputs` have shape \(0, "):
        gradcam.explain(case.model, case.give(networks.images()[:0]), case.second)


def test_models_of_equal_structure_share_a_compiled_program(case):
    """JAX finds a compiled program by the adapter's `run`, which must hash and hold no weights."""
    model, again = case.tapped, case.tapped
    if not hasattr(model, "run"):
        pytest.skip("this backend compiles nothing")
    assert hash(model.run) == hash(again.run)
    assert model.run == again.run
    if model.named_weights is not None and not case.name.startswith("jax"):  # no plain functions
        doubled = {name: 2 * array for name, array in model.weights().items()}
        other = backends.adapt(model.with_weights(doubled), case.inputs())
        assert hash(model.run) == hash(other.run)
        assert model.run == other.run
