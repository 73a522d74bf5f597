"""Each method against its paper's equation in plain loops over one sample, and the laws that all of
them keep.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable
from dataclasses import dataclass

import array_api_strict
import numpy as np
import pytest
from array_api_compat import array_namespace
from hypothesis import given
from hypothesis import strategies as st

from gradcam import methods
from gradcam.methods.components import (
    channel_sum,
    first_component,
    first_kernel_component,
    oriented,
)
from gradcam.methods.gradients import weigh_channels

# ---------------------------------------------------------------------------------------- the loops


def weighted(w, a):
    return [sum(w[k] * a[k][p] for k in range(len(a))) for p in range(len(a[0]))]


def over(numerator, denominator):
    return numerator / denominator if denominator else 0.0


def product(a, b):
    return [[sum(row[m] * b[m][j] for m in range(len(b))) for j in range(len(b[0]))] for row in a]


def transposed(a):
    return [list(column) for column in zip(*a, strict=True)]


def scaled(rows, factor):
    return [[x * factor for x in row] for row in rows]


def mean(values):
    return sum(values) / len(values)


def dominant(matrix):
    """The unit eigenvector of a symmetric matrix's largest eigenvalue: squared till one column is
    left.
    """
    n = len(matrix)
    shift = (
        max(sum(abs(x) for x in row) for row in matrix) or 1.0
    )  # so that no eigenvalue is negative
    power = [[matrix[i][j] / shift + (i == j) for j in range(n)] for i in range(n)]
    for _ in range(25):
        power = product(power, power)
        power = scaled(power, 1 / max(abs(x) for row in power for x in row))
    column = max(power, key=lambda c: sum(x * x for x in c))
    return [x / math.sqrt(sum(y * y for y in column)) for x in column]


def turned(component, reference):
    agreement = sum(c * r for c, r in zip(component, reference, strict=True))
    largest = max(component, key=abs)
    return (
        [-c for c in component]
        if agreement < 0 or (agreement == 0 and largest < 0)
        else list(component)
    )


def loop_grad_cam(a, g):
    return weighted([sum(row) / len(row) for row in g], a)


def loop_cam(a, g):
    return weighted([sum(row) for row in g], a)


def loop_grad_cam_pp(a, g):
    w = []
    for k in range(len(a)):
        w.append(0.0)
        for p in range(len(a[k])):
            alpha = over(g[k][p] ** 2, 2 * g[k][p] ** 2 + sum(a[k]) * g[k][p] ** 3)
            w[k] += alpha * max(g[k][p], 0)
    return weighted(w, a)


def loop_smooth_grad_cam_pp(a, g):
    copies, channels, positions = range(len(a)), range(len(a[0])), range(len(a[0][0]))
    activations = [[mean([a[s][k][p] for s in copies]) for p in positions] for k in channels]
    w = []
    for k in channels:
        w.append(0.0)
        for p in positions:
            first, second, third = (mean([g[s][k][p] ** n for s in copies]) for n in (1, 2, 3))
            w[k] += over(second, 2 * second + sum(activations[k]) * third) * max(first, 0)
    return weighted(w, activations)


def loop_xgrad_cam(a, g):
    w = [sum(over(a[k][p], sum(a[k])) * g[k][p] for p in range(len(a[k]))) for k in range(len(a))]
    return weighted(w, a)


def loop_hires_cam(a, g):
    return [sum(g[k][p] * a[k][p] for k in range(len(a))) for p in range(len(a[0]))]


def loop_element_wise(a, g):
    return [sum(max(g[k][p] * a[k][p], 0) for k in range(len(a))) for p in range(len(a[0]))]


def loop_layer_cam(a, g):
    return [sum(max(g[k][p], 0) * a[k][p] for k in range(len(a))) for p in range(len(a[0]))]


def loop_layer_cam_gamma(a, g):
    m = [max(x, 0) for x in loop_layer_cam(a, g)]
    return [math.tanh(2 * over(x, max(m))) for x in m]


def loop_shapley_cam(a, g, h):
    return weighted(
        [mean([x - y / 2 for x, y in zip(g[k], h[k], strict=True)]) for k in range(len(a))], a
    )


def loop_first_component(a):
    v = dominant(product(a, transposed(a)))  # first right singular vector of positions by channels
    return turned(weighted(v, a), [sum(column) for column in zip(*a, strict=True)])


def loop_eigen_grad_cam(a, g):
    return loop_first_component(
        [[x * y for x, y in zip(*rows, strict=True)] for rows in zip(a, g, strict=True)]
    )


def loop_seg_eigen_cam(a, g):
    found = loop_eigen_grad_cam(a, [[abs(x) for x in row] for row in g])
    return turned(found, [0.0] * len(found))


def loop_first_kernel_component(kernel, reference):
    n = range(len(kernel))
    rows, whole = [mean(row) for row in kernel], mean([mean(row) for row in kernel])
    centred = [[kernel[i][j] - rows[i] - rows[j] + whole for j in n] for i in n]
    u = dominant(centred)
    value = sum(u[i] * centred[i][j] * u[j] for i in n for j in n)
    return turned(
        [x * math.sqrt(max(value, 0)) for x in u], [x - mean(reference) for x in reference]
    )


def loop_kpca_cam(a, kernel):
    columns = transposed([[x - mean(row) for x in row] for row in a])

    def similarity(x, y):
        n, pairs = len(x), list(zip(x, y, strict=True))
        dot, squares = sum(i * j for i, j in pairs), sum((i - j) ** 2 for i, j in pairs)
        return {"linear": dot, "sigmoid": math.tanh(dot / n + 1), "rbf": math.exp(-squares / n)}[
            kernel
        ]

    values = [[similarity(x, y) for y in columns] for x in columns]
    return loop_first_kernel_component(values, [sum(column) for column in zip(*a, strict=True)])


def loop_fem(a):
    found = [0.0] * len(a[0])
    for row in a:
        deviation = math.sqrt(mean([(x - mean(row)) ** 2 for x in row]))
        for p in range(len(row)):
            found[p] += mean(row) * (row[p] > mean(row) + 0.5 * deviation)
    return found


def loop_random_cam(a):
    random = np.random.default_rng(7)
    return weighted([random.uniform(-1, 1) for _ in a], a)


def loop_factorise(a, iterations=5):
    """Lee and Seung's updates of positions by channels, of the data as they are, not scaled."""
    channels, positions = len(a[0]), len(a[0][0])
    concepts = min(2, channels)
    data = [
        [max(sample[c][p], 0) for c in range(channels)] for sample in a for p in range(positions)
    ]
    random = np.random.default_rng(0)
    w = [[random.uniform(0.1, 1) for _ in range(concepts)] for _ in data]
    h = [[random.uniform(0.1, 1) for _ in range(channels)] for _ in range(concepts)]
    for _ in range(iterations):
        up, down = product(data, transposed(h)), product(w, product(h, transposed(h)))
        w = [
            [w[i][k] * over(up[i][k], down[i][k]) for k in range(concepts)]
            for i in range(len(data))
        ]
        up, down = product(transposed(w), data), product(product(transposed(w), w), h)
        h = [
            [h[k][c] * over(up[k][c], down[k][c]) for c in range(channels)] for k in range(concepts)
        ]
    lengths = [math.sqrt(sum(x * x for x in row)) for row in h]
    maps = [[[w[n * positions + p][k] * lengths[k] for p in range(positions)] for k in range(concepts)]
            for n in range(len(a))]  # fmt: skip
    return maps, [[over(x, length) for x in row] for row, length in zip(h, lengths, strict=True)]


def loop_ablation_cam(a, score, ablated):
    return weighted([(score - y) / (abs(score) or 1) for y in ablated], a)


def loop_score_cam(a, masked):
    return weighted([math.exp(s) / sum(math.exp(t) for t in masked) for s in masked], a)


def loop_resize(grid, size):
    """Bilinear at half-pixel centres: from columns, then from rows."""

    def line(values, n):
        found = []
        for i in range(n):
            at = min(max((i + 0.5) * len(values) / n - 0.5, 0), len(values) - 1)
            left = min(int(at), len(values) - 1)
            right = min(left + 1, len(values) - 1)
            found.append(values[left] * (left + 1 - at) + values[right] * (at - left))
        return found

    return transposed(
        [line(row, size[0]) for row in transposed([line(row, size[1]) for row in grid])]
    )


def loop_full_grad(*contributions):
    found = [[0.0] * 5 for _ in range(4)]
    for contribution in contributions:
        for channel in contribution:
            size = [[abs(x) for x in row] for row in channel]
            low, high = min(min(row) for row in size), max(max(row) for row in size)
            up = loop_resize([[over(x - low, high - low) for x in row] for row in size], (4, 5))
            found = [
                [x + y for x, y in zip(*rows, strict=True)] for rows in zip(found, up, strict=True)
            ]
    return found


def loop_rollout(*attentions):
    n = range(len(attentions[0][0]))
    rolled = [[float(i == j) for j in n] for i in n]
    for heads in attentions:
        mixed = [[(mean([head[i][j] for head in heads]) + (i == j)) / 2 for j in n] for i in n]
        rolled = product([[x / sum(row) for x in row] for row in mixed], rolled)
    return rolled


def loop_legrad(*gradients):
    tokens = range(len(gradients[0][0]))
    layers = [
        [mean([max(h[q][t], 0) for h in layer for q in tokens]) for t in tokens]
        for layer in gradients
    ]
    return [mean([layer[t] for layer in layers]) for t in tokens]


# ---------------------------------------------------------------------------------------- the cases


@dataclass(frozen=True)
class Case:
    """roles: what each argument is, by the letters of `shaped`."""

    function: Callable
    loop: Callable
    roles: str
    permutable: bool = True


def copies_first(function):
    """So that samples come first, as in every other case, and then the copies."""

    def found(*arrays):
        return function(*(array_namespace(x).moveaxis(x, -3, 0) for x in arrays))

    return found


def kpca(kernel):
    return Case(functools.partial(methods.kpca_cam, kernel=kernel),
                functools.partial(loop_kpca_cam, kernel=kernel), "A")  # fmt: skip


def factorised(part):
    return Case(lambda a: methods.factorise(a, min(2, a.shape[1]), iterations=5)[part],
                lambda a: loop_factorise(a)[part], "F", permutable=False)  # fmt: skip


CASES = {
    "grad-cam": Case(methods.grad_cam, loop_grad_cam, "AG"),
    "cam": Case(methods.cam, loop_cam, "AG"),
    "grad-cam++": Case(methods.grad_cam_pp, loop_grad_cam_pp, "AG"),
    "smooth-grad-cam++": Case(copies_first(methods.smooth_grad_cam_pp), loop_smooth_grad_cam_pp, "BD"),
    "xgrad-cam": Case(methods.xgrad_cam, loop_xgrad_cam, "AG"),
    "hires-cam": Case(methods.hires_cam, loop_hires_cam, "AG"),
    "element-wise": Case(methods.element_wise, loop_element_wise, "AG"),
    "layer-cam": Case(methods.layer_cam, loop_layer_cam, "AG"),
    "layer-cam-gamma": Case(functools.partial(methods.layer_cam, gamma=2), loop_layer_cam_gamma, "AG"),
    "eigen-grad-cam": Case(methods.eigen_grad_cam, loop_eigen_grad_cam, "AG"),
    "seg-eigen-cam": Case(methods.seg_eigen_cam, loop_seg_eigen_cam, "AG"),
    "shapley-cam": Case(methods.shapley_cam, loop_shapley_cam, "AGG"),
    "eigen-cam": Case(methods.eigen_cam, loop_first_component, "a"),
    "kpca-cam-sigmoid": kpca("sigmoid"),
    "kpca-cam-rbf": kpca("rbf"),
    "kpca-cam-linear": Case(kpca("linear").function, kpca("linear").loop, "a"),
    "fem": Case(functools.partial(methods.fem, k=0.5), loop_fem, "a"),
    "random-cam": Case(functools.partial(methods.random_cam, seed=7), loop_random_cam, "a", permutable=False),
    "factorise-maps": factorised(0),
    "factorise-vectors": factorised(1),
    "ablation-cam": Case(methods.ablation_cam, loop_ablation_cam, "AYM"),
    "score-cam": Case(methods.score_cam, loop_score_cam, "AM"),
    "full-grad": Case(lambda *x: methods.full_grad(x, (4, 5)), loop_full_grad, "XZ", permutable=False),
    "rollout": Case(lambda *x: methods.attention_rollout(x), lambda *x: loop_rollout(*x)[0], "WWW", permutable=False),
    "rollout-mean": Case(lambda *x: methods.attention_rollout(x, query=None),
                         lambda *x: [mean(column) for column in transposed(loop_rollout(*x))], "WWW"),
    "legrad": Case(lambda *x: methods.legrad(x), loop_legrad, "UU"),
    "weigh-channels": Case(lambda a, w: weigh_channels(w[..., None], a), lambda a, w: weighted(w, a), "AM"),
    "channel-sum": Case(channel_sum, lambda a: [sum(column) for column in transposed(a)], "a"),
    "first-component": Case(first_component, loop_first_component, "a"),
    "oriented": Case(oriented, turned, "VV"),
    "first-kernel-component": Case(first_kernel_component, loop_first_kernel_component, "KV"),
}  # fmt: skip
SAMPLES = [name for name, case in CASES.items() if case.roles != "F"]
SHARED = "AB"  # what K targets have in common
"""The role of an argument, a letter each; `shaped` has its shape.

A, G    activations and gradients of one sample; where a test scales its arrays, A stays as it is
a       activations that are scaled too, of methods without gradients
F       activations of all samples at once
B, D    activations and gradients of noisy copies of the input
Y, M    scores: one of the sample, one for each channel
X, Z    contributions of two layers of different sizes, for full-grad
W, U    attention weights and their gradients
V, K    vectors over positions, and matrices of positions by positions
"""


def shaped(role, channels, positions):
    view = (channels, positions)
    square = (positions, positions)
    return {"A": view, "a": view, "G": view, "F": (2, *view), "B": (3, *view), "D": (3, *view), "Y": (), "V": view[1:],
            "M": view[:1], "X": (channels, 2, 3), "Z": (2, 5, 2), "W": (2, *square), "U": (2, *square),
            "K": square}[role]  # fmt: skip


def arguments(case, lead=(), shape=(3, 4), scale=1.0, positive=False, shared=None):
    """Arrays for a case, seeded; `shared` are the leading axes of what targets have in common."""
    random = np.random.default_rng(sum(shape))
    found = []
    for role in case.roles:
        first = shared if shared is not None and role in SHARED else lead
        x = np.asarray(random.normal(size=(*first, *shaped(role, *shape))))
        if role in "AaBF" and positive:
            x = np.maximum(x, 0)
        if role == "W":
            x = np.exp(x) / np.exp(x).sum(-1, keepdims=True)
        if role == "K":
            x = x + np.moveaxis(x, -1, -2)
        found.append(x if role in "ABW" else np.asarray(x * scale))
    return found


def close(found, expected, rtol=1e-9, of_largest=1e-10):
    """Equal to `rtol`, or, where numbers cancel, to `of_largest` of the largest."""
    largest = np.abs(expected).max(initial=0)
    np.testing.assert_allclose(
        np.asarray(found), np.asarray(expected), rtol=rtol, atol=of_largest * largest
    )


TOLERANCE = {"float64": (1e-9, 1e-10), "float32": (0, 1e-5)}


# ---------------------------------------------------------------------------------------- the tests


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e-6, 1e-12])
@pytest.mark.parametrize("name", CASES)
def test_it_is_the_papers_loop(name, scale):
    case = CASES[name]
    lead = () if case.roles == "F" else (2,)
    for shape in ((3, 4), (5, 4), (1, 4), (4, 1)):  # either Gram matrix, one channel, one position
        for positive in (False, True):
            arrays = arguments(case, lead, shape, scale, positive)
            each = [case.loop(*(x[n].tolist() for x in arrays)) for n in range(2)] if lead else None
            close(case.function(*arrays), each or case.loop(*(x.tolist() for x in arrays)))


@pytest.mark.parametrize("name", SAMPLES)
def test_leading_axes_are_separate_calls(name):
    case = CASES[name]
    arrays = arguments(case, lead=(2, 5), shared=(2, 1))
    found = case.function(*arrays)
    for n in range(2):
        for k in range(5):
            one = [x[n, min(k, x.shape[1] - 1)] for x in arrays]
            close(np.broadcast_to(found, (2, 5, *found.shape[2:]))[n, k], case.function(*one))


@pytest.mark.parametrize("name", [name for name in SAMPLES if CASES[name].permutable])
@given(channels=st.permutations(range(3)), positions=st.permutations(range(4)))
def test_order_carries_no_meaning(name, channels, positions):
    """Permuting channels (or heads) changes nothing; permuting positions permutes the map."""
    case = CASES[name]
    arrays = arguments(case)
    moved = []
    for role, x in zip(case.roles, arrays, strict=True):
        if role in "AaGBDM":
            x = np.take(x, channels, axis=-1 if role == "M" else -2)
        if role in "UW":
            x = x[::-1]
        for axis in {"M": (), "Y": (), "U": (-1, -2), "W": (-1, -2), "K": (-1, -2)}.get(
            role, (-1,)
        ):
            x = np.take(x, positions, axis=axis)
        moved.append(x)
    close(case.function(*moved), case.function(*arrays)[positions])


@pytest.mark.parametrize("name", CASES)
def test_the_array_api_standard_is_enough(name):
    case = CASES[name]
    arrays = arguments(case)
    found = case.function(*(array_api_strict.asarray(x) for x in arrays))
    assert type(found) is type(array_api_strict.asarray(0))
    close(np.asarray(found), case.function(*arrays))


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_torch_gives_the_same_map(name, dtype):
    torch = pytest.importorskip("torch")
    case = CASES[name]
    arrays = arguments(case)
    found = case.function(*(torch.from_numpy(x).to(getattr(torch, dtype)) for x in arrays))
    assert found.dtype == getattr(torch, dtype)
    close(found.numpy(), case.function(*arrays), *TOLERANCE[dtype])


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("name", CASES)
def test_jax_gives_the_same_map_inside_jit(name, dtype):
    jax = pytest.importorskip("jax")
    case = CASES[name]
    arrays = arguments(case)
    with jax.enable_x64(dtype == "float64"):
        found = jax.jit(case.function)(*(x.astype(dtype) for x in arrays))
    assert found.dtype == dtype
    close(found, case.function(*arrays), *TOLERANCE[dtype])


@pytest.mark.parametrize("name", CASES)
@pytest.mark.filterwarnings("ignore::RuntimeWarning")  # NumPy's, of an operation on NaN
def test_a_nan_in_any_argument_reaches_the_map_or_is_an_error(name):
    case = CASES[name]
    for n, role in enumerate(case.roles):
        if role == "V":  # gives a component its sign alone
            continue
        arrays = arguments(case, () if role == "F" else (2,), positive=True)
        arrays[n].reshape(-1)[0] = np.nan
        try:
            found = case.function(*arrays)
        except np.linalg.LinAlgError:  # of NumPy's eigenvectors
            continue
        assert np.isnan(found).any(), role


@pytest.mark.parametrize("name", CASES)
def test_no_array_is_changed_in_place(name):
    case = CASES[name]
    arrays = arguments(case)
    case.function(*arrays)
    for found, expected in zip(arrays, arguments(case), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_every_method_of_the_table_has_a_loop():
    functions = {spec.function for spec in methods.TABLE}
    missing = functions - {getattr(c.function, "func", c.function) for c in CASES.values()}
    # behind a lambda or the order of axes: those that take sequences, or copies first
    assert missing == {
        methods.smooth_grad_cam_pp,
        methods.full_grad,
        methods.attention_rollout,
        methods.legrad,
    }
