from __future__ import annotations

import networks
import numpy as np
import pytest

import gradcam
from gradcam import Smoothing


def signed(case, inputs, **options):
    return gradcam.explain(case.model, inputs, case.second, 1, relu=False, **options).numpy().maps


def test_nothing_to_change_changes_nothing(some_case):
    plain = gradcam.explain(some_case.model, some_case.inputs(), some_case.second, 1).numpy()
    smooth = gradcam.explain(
        some_case.model, some_case.inputs(), some_case.second, 1, smoothing=Smoothing(flips=False)
    ).numpy()
    np.testing.assert_allclose(smooth.maps, plain.maps, rtol=1e-12)


def test_flips_are_mapped_back_exactly(some_case):
    inputs = some_case.inputs()
    other = some_case.give(networks.images()[..., ::-1].copy())
    expected = (signed(some_case, inputs) + signed(some_case, other)[..., ::-1]) / 2
    found = signed(some_case, inputs, smoothing=Smoothing(flips=True))
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-12)


def test_scalings_multiply_the_input(some_case):
    inputs = some_case.inputs()
    expected = (signed(some_case, inputs * 0.5) + signed(some_case, inputs * 2.0)) / 2
    found = signed(some_case, inputs, smoothing=Smoothing(flips=False, scales=(0.5, 2.0)))
    np.testing.assert_allclose(found, expected, rtol=1e-7, atol=1e-12)


def test_noise_is_seeded_and_the_same_in_every_framework(some_case):
    options = Smoothing(flips=False, noise=0.2, samples=3, seed=5)
    found = signed(some_case, some_case.inputs(), smoothing=options)
    reference = networks.case("numpy")
    np.testing.assert_allclose(
        found, signed(reference, reference.inputs(), smoothing=options), rtol=1e-6, atol=1e-9
    )
    other = signed(
        some_case,
        some_case.inputs(),
        smoothing=Smoothing(flips=False, noise=0.2, samples=3, seed=6),
    )
    assert not np.allclose(found, other)


def test_the_relu_comes_after_the_mean():
    case = networks.case("numpy")
    options = Smoothing(flips=True)
    rectified = gradcam.explain(case.model, case.inputs(), target=1, smoothing=options).maps
    np.testing.assert_allclose(
        rectified, np.maximum(signed(case, case.inputs(), smoothing=options), 0)
    )


def test_the_top_class_is_that_of_the_input_as_it_is():
    case = networks.case("numpy")
    by_name = gradcam.explain(case.model, case.inputs(), smoothing=Smoothing(scales=(1.0, -3.0)))
    plain = gradcam.explain(case.model, case.inputs())
    np.testing.assert_array_equal(by_name.target, plain.target)
    np.testing.assert_array_equal(by_name.scores, plain.scores)


def test_any_method_can_be_smoothed():
    case = networks.case("numpy")
    found = gradcam.explain(
        case.model, case.inputs(), target=[[1, 2]], method="score-cam", smoothing=Smoothing()
    )
    assert found.maps.shape == (3, 2, 4, 5)


def test_errors():
    with pytest.raises(ValueError, match="`scales` must not be empty"):
        Smoothing(scales=())
    with pytest.raises(ValueError, match="smoothing needs an input with channels and space"):
        gradcam.explain(
            gradcam.Split(lambda x: x.reshape(-1, 1, 2, 2), lambda a: a.mean((2, 3))), np.ones((2, 4)), target=0,
            layout="channels_first", smoothing=Smoothing(),
        )  # fmt: skip
