from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from gradcam.targets import ClassScore, TopClass, as_target, join, logits, split

OUTPUTS = np.array([[1.0, 5.0, 3.0], [9.0, 7.0, 8.0]])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (None, [5, 9]),
        (2, [3, 8]),
        ([0, 1], [1, 7]),
        ([[2, 0]], [[3, 1], [8, 9]]),
        ([[2, 0], [1, 1]], [[3, 1], [7, 7]]),
        (np.int64(1), [5, 7]),
        (TopClass(2), [[5, 3], [9, 8]]),
        (lambda outputs: outputs.sum(1), [9, 24]),
    ],
)
def test_scores(target, expected):
    np.testing.assert_array_equal(as_target(target)(OUTPUTS), expected)


def test_a_target_of_another_frameworks_ints():
    torch = pytest.importorskip("torch")
    np.testing.assert_array_equal(as_target(torch.tensor([0, 1]))(OUTPUTS), [1, 7])


def test_top_classes_resolve_to_their_indices():
    np.testing.assert_array_equal(TopClass().resolve(OUTPUTS).index, [1, 0])
    np.testing.assert_array_equal(TopClass(3).resolve(OUTPUTS).index, [[1, 2, 0], [0, 2, 1]])
    with pytest.raises(ValueError, match="4 top classes are asked for, but the outputs have 3"):
        TopClass(4)(OUTPUTS)


def test_targets_take_apart_into_arrays_and_a_hashable_rest():
    first, second = as_target([[0, 1]]), as_target([[2, 2]])
    _, rest_a = split(first)
    (b,), rest_b = split(second)
    assert rest_a == rest_b
    assert hash(rest_a) == hash(rest_b)
    assert join([b], rest_a) == second != first
    assert split(TopClass(2)) == ((), split(TopClass(2))[1])
    assert split(TopClass(2))[1] != split(TopClass(3))[1]


def test_targets_print_and_compare():
    assert repr(TopClass(2)) == "TopClass(count=2)"
    assert ClassScore(3) == ClassScore(3) != ClassScore(4)
    assert len({ClassScore(3), ClassScore(3)}) == 1


def test_logits_are_found_in_what_models_return():
    for outputs in (OUTPUTS, SimpleNamespace(logits=OUTPUTS), {"loss": 1, "logits": OUTPUTS}, (OUTPUTS, None)):
        assert logits(outputs) is OUTPUTS
    with pytest.raises(TypeError, match=r"no class scores were found in the model's outputs, a dict with keys \['a'\]"):
        logits({"a": OUTPUTS})


@pytest.mark.parametrize(
    ("shape", "hint"),
    [((2, 4, 9, 9), r"lambda outputs: outputs\[:, 3\].mean\(\(-2, -1\)\)"), ((2,), "lambda outputs: outputs")],
)
def test_outputs_of_another_shape_say_what_to_pass(shape, hint):
    with pytest.raises(ValueError, match=r"a class index needs outputs of shape \(N, K\).*" + hint):
        as_target(0)(np.zeros(shape))


@pytest.mark.parametrize(
    ("target", "error", "message"),
    [
        ("cat", TypeError, "is a name; pass its index, or use a gradcam.Classifier"),
        (1.5, TypeError, "must be None, an int"),
        ([[0, 1], [2]], ValueError, "is ragged"),
        ([[[0]]], ValueError, r"has shape \(1, 1, 1\)"),
        ([], TypeError, "must be None"),
    ],
)
def test_what_is_no_target(target, error, message):
    with pytest.raises(error, match=message):
        as_target(target)
