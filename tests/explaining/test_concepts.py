from __future__ import annotations

import networks
import numpy as np
import pytest

import gradcam
from gradcam._arrays import to_numpy


def alphas(index):
    case = networks.case("torch")
    from gradcam.targets import as_target

    capture = case.tapped.capture(case.inputs(), ("second",), as_target(index))
    return capture.gradients[0].mean((2, 3)).numpy()


def test_words_are_the_channels_of_largest_and_smallest_alpha(some_case):
    found = gradcam.words(some_case.model, some_case.inputs(), some_case.second, target=2, k=2)
    expected = alphas(2)
    for word, alpha in zip(found, expected, strict=True):
        order = np.argsort(-alpha)
        assert [name for name, _ in word.strongest] == [str(i) for i in order[:2]]
        assert [name for name, _ in word.weakest] == [str(i) for i in order[::-1][:2]]
        np.testing.assert_allclose([a for _, a in word.strongest], alpha[order[:2]], rtol=1e-6)


def test_channels_may_have_names():
    case = networks.case("numpy")
    (word, *_) = gradcam.words(case.model, case.inputs(), k=1, names=list("abcdef"))
    assert word.strongest[0][0] in "abcdef"
    assert str(word).startswith(f"score {word.score:.4g}: for it {word.strongest[0][0]} (")


def test_errors_of_words():
    case = networks.case("numpy")
    with pytest.raises(ValueError, match="`k` must be between 1 and the 6 channels"):
        gradcam.words(case.model, case.inputs(), k=7)
    with pytest.raises(ValueError, match=r"`names` has 2, but layer .* has 6 channels"):
        gradcam.words(case.model, case.inputs(), k=1, names=["a", "b"])
    with pytest.raises(ValueError, match="`target` must be one for each sample"):
        gradcam.words(case.model, case.inputs(), k=1, target=[[1, 2]])


def test_concepts_are_parts_of_the_activations_and_have_scores(some_case):
    found = gradcam.factorise(
        some_case.model, some_case.inputs(), some_case.second, concepts=6, iterations=2000
    )
    maps, vectors = to_numpy(found.maps), to_numpy(found.vectors)
    assert maps.shape == (3, 6, 4, 5)
    assert vectors.shape == (6, 6)
    assert maps.min() >= 0
    assert vectors.min() >= 0
    np.testing.assert_allclose((vectors**2).sum(1), 1, rtol=1e-6)
    features = networks.features_numpy(networks.images())
    rebuilt = np.einsum("nkhw,kc->nchw", maps, vectors)
    assert np.linalg.norm(rebuilt - features) < 0.05 * np.linalg.norm(features)
    for k in range(6):
        alone = networks.head_numpy(np.einsum("nhw,c->nchw", maps[:, k], vectors[k]))
        np.testing.assert_allclose(to_numpy(found.scores)[:, k], alone, rtol=1e-5, atol=1e-7)


def test_one_seed_gives_the_same_concepts():
    case = networks.case("numpy")
    one, two = (gradcam.factorise(case.model, case.inputs(), concepts=2, seed=3) for _ in range(2))
    np.testing.assert_array_equal(one.maps, two.maps)
    with pytest.raises(ValueError, match="`concepts` must be between 1 and 6"):
        gradcam.factorise(case.model, case.inputs(), concepts=7)
