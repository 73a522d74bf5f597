from __future__ import annotations

import dataclasses
from types import SimpleNamespace

import networks
import numpy as np
import pytest

import gradcam
from gradcam import targets
from gradcam.targets import (
    ClassScore,
    Detection,
    FinerScore,
    LogProbability,
    Probability,
    Region,
    Regression,
    ReST,
    Sentence,
    Similarity,
    Target,
    TopClass,
    Word,
    as_target,
    difference,
    join,
    logits,
    split,
)

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
    assert repr(TopClass(2)) == "TopClass(2)"
    assert ClassScore(3) == ClassScore(3) == as_target(3) != ClassScore(4)
    assert ClassScore([1, 2]) == ClassScore(np.array([1, 2], dtype=np.int64)) != Probability([1, 2])
    assert len({ClassScore(3), ClassScore(np.int64(3)), as_target(3)}) == 1
    assert (
        Similarity([0.0, 1.0])
        == Similarity(np.array([-0.0, 1.0], dtype=np.float32))
        != Similarity([0.0, 1.0, 0.0])
    )
    assert len({Similarity([0.0, 1.0]), Similarity(np.array([-0.0, 1.0], dtype=np.float32))}) == 1


def test_logits_are_found_in_what_models_return():
    for outputs in (
        OUTPUTS,
        SimpleNamespace(logits=OUTPUTS),
        {"logits": OUTPUTS},
        {"out": OUTPUTS},
        (OUTPUTS, None),
    ):
        assert logits(outputs) is OUTPUTS
    with pytest.raises(
        TypeError,
        match=r"no class scores were found in the model's outputs, a dict with keys \['a'\]",
    ):
        logits({"a": OUTPUTS})


@pytest.mark.parametrize(
    ("shape", "hint"),
    [
        ((2, 4, 9, 9), r"lambda outputs: outputs\[:, 3\].mean\(\(-2, -1\)\)"),
        ((2,), "lambda outputs: outputs"),
    ],
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


# ------------------------------------------------------------------------------------------ one of
# each, by hand

LOGITS = np.log([[1.0, 2.0, 5.0], [6.0, 1.0, 1.0]])  # probabilities are eighths


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Probability(1), [2 / 8, 1 / 8]),
        (Probability([2, 0]), [5 / 8, 6 / 8]),
        (Probability(), [5 / 8, 6 / 8]),
        (Probability(TopClass(2)), [[5 / 8, 2 / 8], [6 / 8, 1 / 8]]),
        (LogProbability([[0, 2]]), np.log([[1 / 8, 5 / 8], [6 / 8, 1 / 8]])),
        (ReST(1), np.log([2 * 2 / 8, 1 * 1 / 8])),  # log 2 + log 2/8, log 1 + log 1/8
        (difference(2, 0), np.log([5 / 1, 1 / 6])),
        (difference([2, 0], None, gamma=0.5), np.log([5 / 5**0.5, 6 / 6**0.5])),
    ],
)
def test_class_targets(target, expected):
    np.testing.assert_allclose(target(LOGITS), expected)


def test_finer_score():
    outputs = np.log([[8.0, 4.0, 0.25, 2.0]])
    # the classes nearest to log 8 are 1 and 3; p_1 : p_3 = 4 : 2, so log 8 - 2/3 log 4 - 1/3 log 2
    # = (3 - 5/3) log 2
    np.testing.assert_allclose(FinerScore(0, references=2)(outputs), [4 / 3 * np.log(2)])
    np.testing.assert_allclose(
        FinerScore(references=2, gamma=0.6)(outputs), [2 * np.log(2)]
    )  # 3 - 0.6 * 5/3 = 2
    # the nearest to class 3 is class 1, but others can be chosen
    np.testing.assert_allclose(
        FinerScore([[0, 3]], references=1)(outputs), np.log([[8 / 4, 2 / 4]])
    )
    np.testing.assert_allclose(FinerScore(3, references=[2])(outputs), [np.log(2 / 0.25)])
    np.testing.assert_array_equal(
        FinerScore([[0, 3]], 2).resolve(outputs).references, [[[1, 3], [1, 0]]]
    )


SEGMENTED = np.arange(16.0).reshape(
    2, 2, 2, 2
)  # sample 0 has class 0 at 0 1 2 3, class 1 at 4 5 6 7; sample 1 8 more
CORNER = np.array([[True, False], [False, True]])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Region(1), [5.5, 13.5]),
        (Region([0, 1], reduce="sum"), [0 + 1 + 2 + 3, 12 + 13 + 14 + 15]),
        (Region(0, CORNER), [(0 + 3) / 2, (8 + 11) / 2]),
        (Region(0, CORNER, reduce="sum"), [0 + 3, 8 + 11]),
        (Region(1, np.stack([CORNER, ~CORNER])), [(4 + 7) / 2, (13 + 14) / 2]),
        (Region(1, [[3.0, 0.0], [0.0, 1.0]]), [(3 * 4 + 7) / 4, (3 * 12 + 15) / 4]),
        (Region([[0, 1]], [[1, 0], [0, 0]]), [[0, 4], [8, 12]]),
        (Region(1, np.stack([CORNER, CORNER > 2])[None]), [[5.5, 0], [13.5, 0]]),  # an empty region
    ],
)
def test_region(target, expected):
    np.testing.assert_allclose(target(SEGMENTED), expected)
    last = dataclasses.replace(target, channel_axis=-1)
    np.testing.assert_allclose(last(np.moveaxis(SEGMENTED, 1, -1)), expected)


DETECTED = [
    {
        # with 0, 0, 2, 2: IoU 1; 4 / 8; 2 / (4 + 4 - 2) = 1 / 3; 0
        "boxes": np.array([[0.0, 0, 2, 2], [0, 0, 2, 4], [1, 0, 3, 2], [5, 5, 7, 7]]),
        "scores": np.array([0.9, 0.5, 0.7, 0.8]),
        "labels": np.array([3, 4, 3, 3]),
    },
    {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "labels": np.zeros(0, dtype=np.int64)},
]


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Detection([0, 0, 2, 2], 3), [0.9 + 1, 0]),
        (Detection([0, 0, 2, 2], 3, threshold=0.3), [0.9 + 1 + 0.7 + 1 / 3, 0]),
        (Detection([0, 0, 2, 2], threshold=0.4), [0.9 + 1 + 0.5 + 1 / 2, 0]),
        (Detection([0, 0, 2, 2]), [0.9 + 1, 0]),  # an IoU of 1 / 2 is not above 1 / 2
        (Detection([0, 0, 2, 2], [[3, 4]], threshold=0.4), [[0.9 + 1, 0.5 + 1 / 2], [0, 0]]),
        (Detection([[[0, 0, 2, 2], [5, 5, 7, 7]]], 3), [[0.9 + 1, 0.8 + 1], [0, 0]]),
        (Detection([[0, 0, 2, 2], [5, 5, 7, 7]], [3, 3]), [0.9 + 1, 0]),
    ],
)
def test_detection(target, expected):
    np.testing.assert_allclose(target(DETECTED), expected)
    padded = {
        "boxes": np.stack([DETECTED[0]["boxes"], np.zeros((4, 4))]),
        "scores": np.stack([DETECTED[0]["scores"], np.zeros(4)]),
        "labels": np.stack([DETECTED[0]["labels"], np.zeros(4, dtype=np.int64)]),
    }
    np.testing.assert_allclose(target(padded), expected)
    np.testing.assert_allclose(target(tuple(padded.values())), expected)


EMBEDDED = np.array([[3.0, 4.0], [0.0, 2.0]])


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Similarity([1.0, 0.0]), [3 / 5, 0]),
        (Similarity([2.0, 1.0], "dot"), [3 * 2 + 4, 2]),
        (Similarity([[1.0, 0.0], [0.0, 1.0]]), [3 / 5, 1]),  # one for each sample
        (
            Similarity([[[1.0, 0.0], [0.0, -9.0]]]),
            [[3 / 5, -4 / 5], [0, -1]],
        ),  # two for all samples
        (Similarity([[[1e-30, 0.0], [0.0, 0.0]]]), [[3 / 5, 0], [0, 0]]),
    ],
)
def test_similarity(target, expected):
    np.testing.assert_allclose(target(EMBEDDED), expected, atol=1e-15)
    np.testing.assert_allclose(target(EMBEDDED.astype(np.float32)), expected, atol=1e-6)


SPOKEN = np.log(
    [[[1.0, 3.0], [2.0, 2.0], [3.0, 1.0]], [[2.0, 2.0], [1.0, 3.0], [2.0, 2.0]]]
)  # quarters


@pytest.mark.parametrize(
    ("target", "expected"),
    [
        (Sentence([0, 1, 0]), np.log([1 / 4 * 2 / 4 * 3 / 4, 2 / 4 * 3 / 4 * 2 / 4])),
        (Sentence([[0, 1, 0], [1, 1, -100]]), np.log([1 / 4 * 2 / 4 * 3 / 4, 2 / 4 * 3 / 4])),
        (Sentence([1, 0, 9], ignore=9), np.log([3 / 4 * 2 / 4, 2 / 4 * 1 / 4])),
        (Sentence([[[0, 0, 0], [-100, -100, 1]]]), np.log([[6 / 64, 1 / 4], [4 / 64, 2 / 4]])),
        (Word(0, 1), np.log([3 / 4, 2 / 4])),
        (Word(-1, [0, 1]), np.log([3 / 4, 2 / 4])),
        (Word([[0, 1]], [[1, 0]]), np.log([[3 / 4, 2 / 4], [2 / 4, 1 / 4]])),
        (Word([[0, 2]], 0), np.log([[1 / 4, 3 / 4], [2 / 4, 2 / 4]])),
        (Word([1, 0], [[0, 1]]), np.log([[2 / 4, 2 / 4], [2 / 4, 2 / 4]])),
    ],
)
def test_sentence_and_word(target, expected):
    np.testing.assert_allclose(target(SPOKEN), expected)


@pytest.mark.parametrize(
    ("target", "outputs", "expected"),
    [
        (Regression(4), np.array([1.0, 6.0]), [-9, -4]),
        (Regression([4.0, 6.0], loss="absolute"), np.array([[1.0], [6.0]]), [-3, 0]),
        (Regression([[4.0, 6.0]]), np.array([1.0, 6.0]), [[-9, -25], [-4, 0]]),
        (Regression(4, index=1), OUTPUTS, [-1, -9]),
        (Regression(4, index=[[0, 1]]), OUTPUTS, [[-9, -1], [-25, -9]]),
    ],
)
def test_regression(target, outputs, expected):
    np.testing.assert_allclose(target(outputs), expected)


# ------------------------------------------------------------------------------------------ sums


def test_targets_add_up():
    a, b = ClassScore(0), ClassScore([[1, 2]])  # of OUTPUTS [1, 9] and [[5, 3], [7, 8]]
    np.testing.assert_array_equal((-a)(OUTPUTS), [-1, -9])
    np.testing.assert_array_equal((2 * a - a / 2)(OUTPUTS), [1.5, 13.5])
    np.testing.assert_array_equal((a - b)(OUTPUTS), [[1 - 5, 1 - 3], [9 - 7, 9 - 8]])
    np.testing.assert_array_equal(sum([a, a, a])(OUTPUTS), [3, 27])
    np.testing.assert_array_equal((a + (lambda outputs: outputs[:, 1]))(OUTPUTS), [6, 16])
    np.testing.assert_array_equal(((lambda outputs: outputs[:, 1]) + a)(OUTPUTS), [6, 16])
    np.testing.assert_array_equal(((lambda outputs: outputs[:, 1]) - a)(OUTPUTS), [4, -2])
    np.testing.assert_array_equal((np.float64(2) * a * np.float32(0.5))(OUTPUTS), [1, 9])
    np.testing.assert_array_equal((a - a)(OUTPUTS), [0, 0])


def test_sums_compare_and_print_as_they_are_written():
    a, b = ClassScore(0), Probability([1, 2])
    negated = -a
    assert -negated == a
    assert 2 * a / 2 == a
    assert 2 * (a - b) == 2 * a - 2 * b != 2 * b - 2 * a
    assert len({a + b, a + b, b + a}) == 2
    assert repr(-(a - 0.5 * b)) == "-ClassScore(0) + 0.5 * Probability([1, 2])"
    assert repr(3 * (a + len)) == "3 * ClassScore(0) + 3 * len"
    assert repr(difference(a - b, None)) == "(ClassScore(0) - Probability([1, 2])) - TopClass()"
    assert (
        repr(Region(3, np.ones((32, 32), dtype=bool), "sum"))
        == "Region(3, mask=<bool (32, 32)>, reduce='sum')"
    )


def test_sums_resolve_and_check_what_they_are_made_of():
    target = -(Probability() - 0.5 * TopClass(1))
    assert target.resolve(OUTPUTS) == -(Probability([1, 0]) - 0.5 * ClassScore([[1], [0]]))
    assert ClassScore(0).resolve(OUTPUTS) == ClassScore(0)
    with pytest.raises(IndexError, match="`target` 3 is no class"):
        (ClassScore(0) - Probability(3)).check(OUTPUTS)


# --------------------------------------------------------------------------------------- identities


def test_identities():
    random = np.random.default_rng(3)
    outputs, every = random.normal(size=(4, 6)) * 3, [list(range(6))]
    np.testing.assert_allclose(np.log(Probability(every)(outputs)), LogProbability(every)(outputs))
    np.testing.assert_allclose(Probability(every)(outputs).sum(1), 1)
    np.testing.assert_allclose(ReST(2)(outputs), (ClassScore(2) + LogProbability(2))(outputs))
    np.testing.assert_allclose(difference(1, 1)(outputs), 0)
    np.testing.assert_allclose(
        difference(1, 2)(outputs), (LogProbability(1) - LogProbability(2))(outputs)
    )
    np.testing.assert_allclose(FinerScore(2, gamma=0)(outputs), ClassScore(2)(outputs))
    np.testing.assert_allclose(
        FinerScore(2, [4], gamma=0.6)(outputs), difference(2, 4, 0.6)(outputs)
    )
    np.testing.assert_allclose(
        FinerScore(2)(outputs + 100), FinerScore(2)(outputs)
    )  # a shift tells no classes apart
    np.testing.assert_allclose(Similarity(outputs)(outputs * 1e-3), 1)
    np.testing.assert_allclose(
        Similarity(outputs)(outputs), Similarity(outputs[None])(outputs).diagonal()
    )

    spoken, tokens = random.normal(size=(2, 3, 7)), [5, 0, 6]
    words = [Word(t, token) for t, token in enumerate(tokens)]
    np.testing.assert_allclose(Sentence(tokens)(spoken), sum(words)(spoken))
    np.testing.assert_allclose(Word([[0, 1, 2]], [tokens])(spoken).sum(1), Sentence(tokens)(spoken))

    pixels, mask = random.normal(size=(2, 3, 4, 5)), random.random((4, 5)) < 0.5
    inside, outside = Region(1, mask, "sum"), Region(1, ~mask, "sum")
    np.testing.assert_allclose((inside + outside)(pixels), Region(1, reduce="sum")(pixels))
    np.testing.assert_allclose(Region(1, mask)(pixels), inside(pixels) / mask.sum())


def test_log_probabilities_keep_their_digits_where_probabilities_underflow():
    outputs = np.array([[0.0, 1000.0]])
    np.testing.assert_array_equal(LogProbability(0)(outputs), [-1000])
    np.testing.assert_array_equal(Probability(0)(outputs), [0])
    np.testing.assert_array_equal(
        FinerScore(0, 1)(np.array([[900.0, -900.0, 2000.0]])), [900 - 2000]
    )


# ------------------------------------------------------------------------------- in every framework

RANDOM = np.random.default_rng(5)
CLASSES = RANDOM.normal(size=(2, 5))
PIXELS = RANDOM.normal(size=(2, 3, 4, 5))
FOUND = [
    {
        "boxes": np.array([[0.0, 0, 2, 2], [0, 0, 2, 3], [5, 5, 7, 7]]) + RANDOM.random((3, 4)) / 4,
        "scores": RANDOM.random(3),
        "labels": np.array([3, 4, 3]),
    }
    for _ in range(2)
]
VECTORS = RANDOM.normal(size=(2, 6))
TEXTS = RANDOM.normal(size=(2, 4, 7))


def without_first(outputs):
    return outputs[:, 1:]


EXAMPLES = [
    (ClassScore([1, 4]), CLASSES),
    (Probability([[1, 4]]), CLASSES),
    (Probability(), CLASSES),
    (LogProbability(3), CLASSES),
    (ReST([[0, 1], [2, 3]]), CLASSES),
    (FinerScore(2), CLASSES),
    (FinerScore([[2, 0]], 2, gamma=0.6), CLASSES),
    (FinerScore(2, [[0, 1], [3, 4]]), CLASSES),
    (difference(None, 3, 0.5), CLASSES),
    (-(2 * Probability(1) - TopClass(2) / 3), CLASSES),
    (Region(1), PIXELS),
    (Region([[0, 2]], RANDOM.random((2, 4, 5)) < 0.5), PIXELS),
    (Region(1, RANDOM.random((3, 4)), "sum", channel_axis=-1), PIXELS),
    (Detection([0, 0, 2, 2], 3, threshold=0.2), FOUND),
    (Detection([[[0, 0, 2, 2], [5, 5, 7, 7]]], threshold=0.2), FOUND),
    (
        Detection([0, 0, 2, 2]),
        tuple(np.stack([one[key] for one in FOUND]) for key in ("boxes", "scores")),
    ),
    (Similarity(VECTORS[0] + 1), VECTORS),
    (Similarity(RANDOM.normal(size=(1, 3, 6)), kind="dot"), VECTORS),
    (Sentence([[1, 2, 3, 4], [0, 6, -100, -100]]), TEXTS),
    (Word([[0, -1]], [[2, 5]]), TEXTS),
    (Regression(1.5, [0, 1]), CLASSES),
    (Regression([[1.5, -3.0]], 2, loss="absolute"), CLASSES),
    (Probability([[1, 3]]).of(without_first), CLASSES),
]
each_example = pytest.mark.parametrize(
    ("target", "outputs"), EXAMPLES, ids=[repr(target) for target, _ in EXAMPLES]
)


def mapped(outputs, give):
    if isinstance(outputs, dict):
        return {key: mapped(value, give) for key, value in outputs.items()}
    if isinstance(outputs, (list, tuple)):
        return type(outputs)(mapped(value, give) for value in outputs)
    return give(outputs)


def floats(outputs):
    if isinstance(outputs, dict):
        return [leaf for value in outputs.values() for leaf in floats(value)]
    if isinstance(outputs, (list, tuple)):
        return [leaf for value in outputs for leaf in floats(value)]
    return [outputs] if "float" in str(outputs.dtype) else []


def test_every_target_has_an_example():
    shown = {type(target) for target, _ in EXAMPLES}
    public = {
        getattr(targets, name)
        for name in targets.__all__
        if isinstance(getattr(targets, name), type)
    }
    assert public - {Target, TopClass} <= shown


@each_example
def test_what_is_printed_makes_the_target_again(target, outputs):
    if "<" not in repr(target):
        assert eval(repr(target), {**vars(targets), "without_first": without_first}) == target


@each_example
def test_every_target_takes_apart(target, outputs):
    arrays, rest = split(target)
    again = join(arrays, rest)
    assert again == target
    assert hash(again) == hash(target)
    # other values of the same shapes are the same program
    others = [~array if array.dtype == bool else array + 1 for array in arrays]
    assert split(join(others, rest))[1] == rest
    assert hash(split(join(others, rest))[1]) == hash(rest)


@each_example
def test_torch_scores_and_gradients(target, outputs):
    torch = pytest.importorskip("torch")
    expected = target(outputs)
    given = mapped(outputs, torch.tensor)
    leaves = [leaf.requires_grad_() for leaf in floats(given)]
    scores = target(given)
    np.testing.assert_allclose(scores.detach(), expected, rtol=1e-12)

    random, step = np.random.default_rng(0), 1e-6
    weights = random.normal(size=expected.shape)
    slopes = torch.autograd.grad((scores * torch.tensor(weights)).sum(), leaves, allow_unused=True)
    settled = target.resolve(outputs)
    for _ in range(3):
        along = [random.normal(size=leaf.shape) for leaf in floats(outputs)]

        def at(h, along=along):
            moves = iter(along)
            moved = mapped(
                outputs, lambda array: array + h * next(moves) if array.dtype.kind == "f" else array
            )
            return (settled(moved) * weights).sum()

        slope = sum(
            (np.asarray(g) * v).sum() for g, v in zip(slopes, along, strict=True) if g is not None
        )
        np.testing.assert_allclose(slope, (at(step) - at(-step)) / (2 * step), rtol=1e-6, atol=1e-9)


@each_example
def test_jax_scores_inside_jit(target, outputs):
    jax = pytest.importorskip("jax")
    with jax.enable_x64(True):
        arrays, rest = split(target)
        found = jax.jit(lambda arrays, outputs: join(arrays, rest)(outputs))(
            arrays, mapped(outputs, jax.numpy.asarray)
        )
        np.testing.assert_allclose(found, target(outputs), rtol=1e-12)
        held = jax.jit(target)(mapped(outputs, jax.numpy.asarray))
        np.testing.assert_allclose(held, target(outputs), rtol=1e-12)


def test_values_of_another_framework():
    torch = pytest.importorskip("torch")
    target = Similarity(torch.tensor(VECTORS[0] + 1))
    np.testing.assert_allclose(target(VECTORS), EXAMPLES[16][0](VECTORS))
    assert target == EXAMPLES[16][0]
    assert repr(Region(1, torch.ones(9, 9))) == "Region(1, mask=<float32 (9, 9)>)"


def test_half_precision_is_summed_in_float32():
    torch = pytest.importorskip("torch")
    halves = torch.tensor(CLASSES, dtype=torch.bfloat16)
    for target in (
        LogProbability(1),
        ReST(1),
        FinerScore(1),
        Similarity(np.ones(5)),
        Regression(0, 1),
    ):
        assert target(halves).dtype == torch.float32
        np.testing.assert_array_equal(target(halves), target(halves.float()))


def test_the_slope_of_a_cosine_with_nothing_is_finite():
    torch = pytest.importorskip("torch")
    outputs = torch.zeros((2, 6), requires_grad=True)
    (slope,) = torch.autograd.grad(Similarity(VECTORS[0])(outputs).sum(), outputs)
    assert slope.isfinite().all()


# ---------------------------------------------------------------------------------------- explained


@pytest.mark.parametrize("backend", ["torch", "jax-split"])
@pytest.mark.parametrize(
    "target", [FinerScore(), Probability([[0, 2]]), -ReST(1), difference(1, 2)], ids=repr
)
def test_every_backend_explains_them_alike(backend, target):
    def explained(name):
        case = networks.case(name)
        return gradcam.explain(
            case.model, case.inputs(2), layer=case.second, target=target, relu=False
        )

    pytest.importorskip(backend.split("-")[0])
    expected = explained("numpy")  # by finite differences
    if backend == "torch":
        found = explained(backend)
    else:
        jax = pytest.importorskip("jax")
        with jax.enable_x64(True):
            found = explained(backend)
    np.testing.assert_allclose(found.scores, expected.scores, rtol=1e-6)
    np.testing.assert_allclose(found.maps, expected.maps, rtol=1e-6, atol=1e-8)


@pytest.mark.filterwarnings("ignore::gradcam.BlankMapWarning")
def test_the_counterfactual_is_the_negated_map():
    case = networks.case("numpy")
    plain = gradcam.explain(case.model, case.inputs(), target=2, relu=False)
    against = gradcam.explain(case.model, case.inputs(), target=-ClassScore(2))
    np.testing.assert_allclose(against.maps, np.maximum(-plain.maps, 0))


def test_new_values_are_no_new_program():
    jnp = pytest.importorskip("jax.numpy")
    traced = []

    def head(activations):
        traced.append(1)
        return activations.mean((1, 2))

    explainer = gradcam.Explainer(gradcam.Split(lambda x: x, head), layer="features")
    images = jnp.asarray(RANDOM.normal(size=(2, 4, 4, 3)), dtype=jnp.float32)

    def times(*wanted):
        found = []
        for target in wanted:
            traced.clear()
            explanation = explainer(images, target)
            np.testing.assert_allclose(explanation.scores, target(explanation.outputs), rtol=1e-5)
            found.append(len(traced))
        return found

    assert times(Similarity([1.0, 2.0, 3.0]), Similarity([0.0, 1.0, 0.0]), Similarity(np.ones(3)))[
        1:
    ] == [0, 0]
    assert times(ClassScore(0) - 0.5 * ClassScore(1), ClassScore(2) - 0.5 * ClassScore(0))[1:] == [
        0
    ]
    assert times(Probability(0), Probability(2))[1:] == [0]
    assert times(Regression(2, 0), Regression(2.5, 1))[1:] == [0]
    assert times(Similarity([[[1.0, 2.0, 3.0]]])) != [0]  # this test would notice


@pytest.mark.filterwarnings("ignore::gradcam.BlankMapWarning")
def test_a_detector_is_explained():
    torch = pytest.importorskip("torch")

    class Detector(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.features = torch.nn.Conv2d(3, 4, 1)

        def forward(self, x):
            boxes = self.features(x).mean((2, 3))
            corners = (
                torch.tensor([0.0, 0, 4, 4]) + torch.cat([boxes[:, :2], boxes[:, 2:]], dim=1) / 9
            )
            return [
                {"boxes": one[None], "scores": one[:1].sigmoid(), "labels": torch.tensor([1])}
                for one in corners
            ]

    torch.manual_seed(0)
    model, images = Detector().eval(), torch.rand(2, 3, 6, 6)
    target = Detection([0, 0, 4, 4], label=1)
    e = gradcam.explain(model, images, layer="features", target=target, relu=False)
    np.testing.assert_allclose(e.scores, target(model(images)).detach())
    assert e.maps.shape == (2, 6, 6)
    assert bool((e.maps != 0).any())
    nothing = gradcam.explain(
        model, images, layer="features", target=Detection([0, 0, 4, 4], label=2)
    )
    np.testing.assert_array_equal(nothing.maps, 0)


# ------------------------------------------------------------------------------------------ errors


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (
            lambda: ClassScore("cat"),
            TypeError,
            "`index` must be ints, or an array of them, but is 'cat'",
        ),
        (lambda: Probability([[0], [1, 2]]), ValueError, r"`index` \[\[0\], \[1, 2\]\] is ragged"),
        (
            lambda: Probability([[[0]]]),
            ValueError,
            r"`index` of shape \(1, 1, 1\) is not one for all samples, \(N,\)",
        ),
        (lambda: Similarity([]), ValueError, "`embedding` is empty"),
        (
            lambda: Similarity(3.0),
            ValueError,
            r"`embedding` of shape \(\) is not \(D,\) for all samples, \(N, D\)",
        ),
        (lambda: FinerScore(references=0), ValueError, "`references` must be at least 1, but is 0"),
        (
            lambda: Region(0, reduce="max"),
            ValueError,
            '`reduce` must be "mean" or "sum", but is \'max\'',
        ),
        (
            lambda: Detection([0, 0, 2]),
            ValueError,
            r"`box` must be x0, y0, x1, y1, but has shape \(3,\)",
        ),
        (lambda: Detection([2, 0, 2, 2]), ValueError, "with x1 > x0 and y1 > y0"),
        (
            lambda: Detection([0, 0, 2, 2], threshold=1),
            ValueError,
            r"`threshold` is .* in \[0, 1\), but is 1",
        ),
        (
            lambda: Similarity([1.0], kind="l2"),
            ValueError,
            '`kind` must be "cosine" or "dot", but is \'l2\'',
        ),
        (
            lambda: Regression(0, loss="l2"),
            ValueError,
            '`loss` must be "squared" or "absolute", but is \'l2\'',
        ),
        (
            lambda: ClassScore(0) - 3,
            TypeError,
            r"not to 3; for a class write gradcam.targets.ClassScore\(index\)",
        ),
        (
            lambda: ClassScore(0) * ClassScore(1),
            TypeError,
            r"by a finite number, not by ClassScore\(1\)",
        ),
        (lambda: float("nan") * ClassScore(0), TypeError, "by a finite number, not by nan"),
    ],
)
def test_what_makes_no_target(make, error, message):
    with pytest.raises(error, match=message):
        make()


@pytest.mark.parametrize(
    ("target", "outputs", "error", "message"),
    [
        (ClassScore([0, 1, 2]), OUTPUTS, ValueError, r"of shape \(3,\) is for 3 samples, but the batch has 2; pass"),
        (Probability(3), OUTPUTS, IndexError, "`target` 3 is no class: the model's outputs have 3, 0 to 2"),
        (Probability(0), OUTPUTS[:, :1], ValueError, r"outputs .* have one class, .* -ClassScore\(0\)"),
        (FinerScore(), OUTPUTS, ValueError, "`references` 3 classes are asked for, but the outputs have 2 others"),
        (FinerScore(0, [5]), OUTPUTS, IndexError, "`references` 5 is no class"),
        (FinerScore([[0, 1]], [[[0], [1], [2]]]), OUTPUTS, ValueError, "as many .* are `references` 3, `target` 2"),
        (TopClass(2) + TopClass(3), OUTPUTS, ValueError, r"but give TopClass\(2\): \(2, 2"),
        (TopClass() + (lambda outputs: outputs[None]), OUTPUTS, ValueError, r"must give scores \(N,\) or \(N, K\)"),
        (Region(0), OUTPUTS, ValueError, r"a region needs .* `channel_axis` 1, but .* \(2, 3\)"),
        (Region(0, channel_axis=4), PIXELS, ValueError, "`channel_axis` 4"),
        (Region(3), PIXELS, IndexError, "`index` 3 is no class"),
        (Region(0, np.ones((5, 4))), PIXELS, ValueError, r"of shape \(5, 4\) does not fit .* is \(4, 5\); resize"),
        (Region(0, np.ones((3, 4, 5))), PIXELS, ValueError, r"`mask` .* is for 3 samples, .*\(N, 4, 5\)"),
        (Detection([0, 0, 2, 2]), OUTPUTS, TypeError, "a detection needs outputs as .* returned a ndarray"),
        (Detection([0, 0, 2, 2]), {"logits": OUTPUTS}, TypeError, r"returned a dict with keys \['logits'\]"),
        (Detection([0, 0, 2, 2]), (OUTPUTS, OUTPUTS), TypeError, r"boxes of shape \(2, 3\) with scores"),
        (Detection([0, 0, 2, 2]), [], TypeError, "a detection needs outputs as .* returned a list"),
        (Detection([0, 0, 2, 2]), (np.ones((2, 3, 4)), np.ones((2, 5))), TypeError, r"with scores of shape \(2, 5\)"),
        (Detection([0, 0, 2, 2]), (np.ones((2, 3, 5)), np.ones((2, 3))), TypeError, r"boxes of shape \(2, 3, 5\)"),
        (Detection([0, 0, 2, 2]), DETECTED[0], TypeError, r"returned boxes of shape \(4, 4\)"),
        (Detection([0, 0, 2, 2], 1), EXAMPLES[15][1], ValueError, 'detections have no "labels"; pass label=None'),
        (Detection([[0, 0, 2, 2]] * 3), DETECTED, ValueError, r"`box` of shape \(3, 4\) is for 3 samples"),
        (Similarity([1.0, 2.0]), OUTPUTS, ValueError, r"`embedding` .* needs outputs \(N, 2\), .* \(2, 3\)"),
        (Similarity(np.ones((5, 3))), OUTPUTS, ValueError, r"is for 5 samples, .* or \(1, K, D\) or \(N, K, D\)"),
        (Sentence([0, 1]), OUTPUTS, ValueError, r"a sentence needs outputs of shape \(N, T, V\).* returned \(2, 3\)"),
        (Sentence([0, 1]), TEXTS, ValueError, "are 2, but the outputs have 4 positions; pad them with `ignore`, -100"),
        (Sentence([0, 1, 7, -100]), TEXTS, IndexError, "`tokens` 7 is no token: the model's outputs have 7, 0 to 6"),
        (Word(4, 0), TEXTS, IndexError, "`position` 4 is no position: the model's outputs have 4, -4 to 3"),
        (Word(0, -1), TEXTS, IndexError, "`token` -1 is no token"),
        (Regression(0), OUTPUTS, ValueError, r"the column as `index`, .* \(2, 3\) and `index` is None"),
        (Regression(0, 3), OUTPUTS, IndexError, "`index` 3 is no column"),
        (Regression([1, 2, 3], 0), OUTPUTS, ValueError, r"`value` of shape \(3,\) is for 3 samples"),
    ],
    ids=lambda value: repr(value)[:30] if isinstance(value, Target) else "",
)  # fmt: skip
def test_targets_that_do_not_fit_the_outputs(target, outputs, error, message):
    with pytest.raises(error, match=message):
        target(outputs)


def auxiliary(outputs):
    return outputs["aux"]


def test_a_target_of_a_part_of_the_outputs():
    scores = np.array([[1.0, 5.0, 2.0], [4.0, 0.0, 3.0]])
    outputs = {"logits": -scores, "aux": scores}
    assert targets.ClassScore(2).of(auxiliary)(outputs).tolist() == [2, 3]
    top = targets.TopClass().of(auxiliary)
    assert top(outputs).tolist() == [5, 4]
    assert repr(top.resolve(outputs)) == "ClassScore([1, 0]).of(auxiliary)"
    assert (
        repr((targets.ClassScore(1) - targets.ClassScore(0)).of(auxiliary))
        == "(ClassScore(1) - ClassScore(0)).of(auxiliary)"
    )
    assert targets.ClassScore(2).of(auxiliary) == targets.ClassScore(2).of(auxiliary)
    assert (targets.ClassScore(2).of(auxiliary) - targets.ClassScore(2))(outputs).tolist() == [4, 6]
    with pytest.raises(IndexError, match="`target` 3 is no class"):
        targets.ClassScore(3).of(auxiliary).check(outputs)
    with pytest.raises(TypeError, match="`select` must be a function of the outputs, but is 'aux'"):
        targets.ClassScore(3).of("aux")


def test_a_target_of_a_part_explains_as_the_part_alone(some_case):
    whole = gradcam.explain(some_case.model, some_case.inputs(), some_case.second, [[1, 2]])
    part = targets.ClassScore([[0, 1]]).of(without_first)
    found = gradcam.explain(some_case.model, some_case.inputs(), some_case.second, part)
    np.testing.assert_allclose(np.asarray(found.maps), np.asarray(whole.maps), rtol=1e-9)
