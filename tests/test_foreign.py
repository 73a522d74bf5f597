"""The judge of `make foreign` is itself judged: four mistakes are each caught, and the right answer
passes.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

torch = pytest.importorskip("torch")

from benchmarks.foreign.axes import Reading, Tokens, Truth, fits, grad_cam, read, tokens  # noqa: E402
from benchmarks.foreign.judge import RIGHT, TOLD, WRONG, Answer, Verdict, helps, judged  # noqa: E402
from benchmarks.foreign.oracle import located, tapped  # noqa: E402

ROOT = Path(__file__).parents[1]


class Block(torch.nn.Module):
    """Self-attention of one head, and a hidden layer."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = torch.nn.Linear(width, 3 * width)
        self.mlp = torch.nn.Sequential(
            torch.nn.Linear(width, width), torch.nn.GELU(), torch.nn.Linear(width, width)
        )

    def forward(self, x: Any) -> Any:
        q, k, v = self.qkv(x).chunk(3, -1)
        x = x + torch.softmax(q @ k.mT, -1) @ v
        return x + self.mlp(x)


class Transformer(torch.nn.Module):
    """A class token, 3 x 3 or 2 x 3 patches of 4 pixels, three blocks, and a head on the class
    token.
    """

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.patches = torch.nn.Conv2d(3, width, 4, 4)
        self.token = torch.nn.Parameter(torch.randn(1, 1, width))
        self.blocks = torch.nn.Sequential(*(Block(width) for _ in range(3)))
        self.norm = torch.nn.LayerNorm(width)
        self.head = torch.nn.Linear(width, 5)

    def forward(self, x: Any) -> Any:
        x = self.patches(x).flatten(2).mT
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return self.head(self.norm(self.blocks(x))[:, 0])


class Network(torch.nn.Module):
    """Convolutions whose last output has as many channels as rows and columns."""

    def __init__(self) -> None:
        super().__init__()
        self.features = torch.nn.Sequential(
            torch.nn.Conv2d(3, 6, 3, 2, 1),
            torch.nn.ReLU(),
            torch.nn.Conv2d(6, 6, 3, 1, 1),
            torch.nn.ReLU(),
        )
        self.head = torch.nn.Linear(6, 5)

    def forward(self, x: Any) -> Any:
        return self.head(self.features(x).mean((-2, -1)))


def top(outputs: Any) -> Any:
    return outputs.amax(1)


class Judging:
    """A model, its inputs and its truth; `verdict` is that on a layer and maps that somebody
    found.
    """

    def __init__(self, model: Any, size: tuple[int, int], truth: Truth) -> None:
        torch.manual_seed(0)
        self.model, self.truth = model.eval(), truth
        self.inputs = torch.randn(2, 3, *size)

    def tap(self, path: str) -> Any:
        return tapped(self.model, self.inputs, top, path)

    def signed(self, path: str, reading: Reading) -> np.ndarray:
        kept = self.tap(path)
        return grad_cam(kept.activation, kept.gradient, reading)

    def verdict(self, path: str, signed: np.ndarray, **more: Any) -> Verdict:
        answer = Answer(path, np.maximum(signed, 0), signed=lambda: signed, **more)
        return judged(answer, self.truth, self.tap)


@pytest.fixture
def square() -> Judging:
    torch.manual_seed(0)
    return Judging(Transformer(), (12, 12), Truth((12, 12), "", tokens((3, 3), 1)))


@pytest.fixture
def oblong() -> Judging:
    torch.manual_seed(0)
    return Judging(Transformer(), (8, 12), Truth((8, 12), "", tokens((2, 3), 1)))


@pytest.fixture
def network() -> Judging:
    torch.manual_seed(0)
    return Judging(Network(), (12, 12), Truth((12, 12)))


LAST = "blocks.1"
"""The last block whose places the class token still looks at."""


def test_the_right_layer_with_the_right_axes_is_right(square: Judging, oblong: Judging) -> None:
    for case, grid in ((square, (3, 3)), (oblong, (2, 3))):
        verdict = case.verdict(LAST, case.signed(LAST, Reading("tokens", grid, 1)))
        assert (verdict.kind, verdict.why) == (RIGHT, "")


def test_a_transposed_grid_is_wrong(square: Judging, oblong: Judging) -> None:
    right = square.signed(LAST, Reading("tokens", (3, 3), 1))
    verdict = square.verdict(LAST, right.swapaxes(1, 2))
    assert (verdict.kind, verdict.why) == (WRONG, "the grid is transposed")
    verdict = oblong.verdict(LAST, oblong.signed(LAST, Reading("tokens", (3, 2), 1)))
    assert verdict.kind == WRONG
    assert "maps of shape (2, 3, 2), not (2, 2, 3)" in verdict.why


def test_a_prefix_that_is_one_off_is_wrong(square: Judging) -> None:
    off = square.signed(LAST, Reading("tokens", (3, 3), 0))
    verdict = square.verdict(LAST, off)
    assert verdict.kind == WRONG
    assert "differs" in verdict.why


@pytest.mark.parametrize("path", ["blocks.2", "norm"])
def test_a_layer_behind_the_last_attention_is_wrong(square: Judging, path: str) -> None:
    verdict = square.verdict(path, square.signed(path, Reading("tokens", (3, 3), 1)))
    assert verdict.kind == WRONG
    assert "reaches no place" in verdict.why


def test_a_value_inside_attention_is_wrong(square: Judging) -> None:
    """Its map is that of the oracle, but it is not all that the model has seen."""
    verdict = square.verdict(
        "blocks.2.qkv", square.signed("blocks.2.qkv", Reading("tokens", (3, 3), 1))
    )
    assert verdict.kind == WRONG
    assert "goes round the layer" in verdict.why


def test_a_layer_that_is_too_early_is_wrong(square: Judging) -> None:
    verdict = square.verdict("patches", square.signed("patches", Reading("channels_first")))
    assert verdict.kind == WRONG
    assert "no picture" in verdict.why or "too early" in verdict.why


def test_a_map_over_channels_is_wrong(network: Judging) -> None:
    path = "features.3"
    assert network.verdict(path, network.signed(path, Reading("channels_first"))).kind == RIGHT
    verdict = network.verdict(path, network.signed(path, Reading("channels_last")))
    assert verdict.kind == WRONG


@pytest.mark.parametrize(("share", "kind"), [(1e-3, WRONG), (1e-6, RIGHT)])
def test_a_map_that_is_a_thousandth_off_is_wrong(network: Judging, share: float, kind: str) -> None:
    near = network.signed("features.3", Reading("channels_first"))
    near = near * (1 + share * (np.arange(near.size).reshape(near.shape) % 2))
    assert network.verdict("features.3", near).kind == kind


def test_a_guess_that_says_so_is_told_and_so_is_a_warning_that_helps(square: Judging) -> None:
    off = square.signed(LAST, Reading("tokens", (3, 3), 0))
    assert square.verdict(LAST, off, guessed=True).kind == TOLD
    help_ = "the axes of layer blocks.1 were guessed; pass layout=Tokens(grid, prefix)"
    assert square.verdict(LAST, off, warnings=[help_]).kind == TOLD
    assert square.verdict(LAST, off, warnings=["all 2 maps are 0 everywhere"]).kind == WRONG


def test_an_error_is_told_where_it_names_cause_and_remedy() -> None:
    truth = Truth((8, 8))
    good = Answer(
        error='ValueError: layer "x" has no space; choose one of gradcam.layers(model, inputs)',
        ours=True,
    )
    assert judged(good, truth, lambda _: pytest.fail("not asked")).kind == TOLD
    alien = Answer(
        error="RuntimeError: shape '[2, 8]' is invalid for input of size 21504", ours=False
    )
    assert judged(alien, truth, lambda _: pytest.fail("not asked")).kind == WRONG


def test_to_ask_for_a_target_that_was_passed_does_not_help() -> None:
    message = "the outputs are (2, 7, 3); pass `target` as a function, such as lambda outputs: outputs[:, 3]"
    assert helps(message)
    assert not helps(message, passed_target=True)


def test_the_documented_axes_are_read_by_path_type_and_shape() -> None:
    truth = Truth(
        (32, 48),
        "channels_last",
        (Tokens((2, 3), 1, 4),),
        rules=((r"\.attn$", "inside attention"),),
        frames=3,
    )
    assert read(truth, "a.attn", "Linear", (2, 11, 8)) == "inside attention"
    assert read(truth, "a", "Linear", (2, 11, 8)) == Reading("tokens", (2, 3), 1)
    assert read(truth, "a", "LayerNorm", (2, 4, 6, 16)) == Reading("channels_last", (4, 6))
    assert read(truth, "a", "Conv2d", (6, 16, 4, 6)) == Reading("channels_first", (4, 6), frames=3)
    for shape in ((2, 10, 8), (5, 11, 8), (2, 6, 4, 16), (2, 16)):
        assert isinstance(read(truth, "a", "LayerNorm", shape), str), shape


def test_a_grid_fits_one_stride_only() -> None:
    assert fits((4, 6), (32, 48))
    assert not fits((6, 4), (64, 96))
    assert not fits((3, 36), (96, 96))


def test_grad_cam_by_hand() -> None:
    """Two channels at two places: alpha is the mean gradient, 1 and -1; the map 1 - 3 and 2 - 4."""
    activation = np.array([[[[1.0, 2.0]], [[3.0, 4.0]]]])
    gradient = np.array([[[[0.0, 2.0]], [[-1.0, -1.0]]]])
    np.testing.assert_allclose(
        grad_cam(activation, gradient, Reading("channels_first")), [[[-2.0, -2.0]]]
    )


def test_frames_have_a_map_each() -> None:
    a, g = np.random.default_rng(0).standard_normal((2, 6, 3, 4, 4))
    each = grad_cam(a, g, Reading("channels_first", frames=3))
    assert each.shape == (2, 3, 4, 4)
    alone = grad_cam(a[:1], g[:1], Reading("channels_first"))
    np.testing.assert_allclose(each[0, 0], alone[0])


def test_names_with_brackets_and_hashes_are_located() -> None:
    model = torch.nn.Module()
    inner = torch.nn.Identity()
    model.add_module("a#1[0]", inner)
    assert located(model, "a#1[0]#2['x'][1]") == (inner, 2, ["x", 1])


def test_a_network_that_writes_in_place_does_not_change_what_the_oracle_kept(
    network: Judging,
) -> None:
    class Rectified(Network):
        def forward(self, x: Any) -> Any:
            return self.head(self.features[:3](x).relu_().mean((-2, -1)))

    kept = tapped(Rectified().eval(), network.inputs, top, "features.2")
    assert kept.activation.min() < 0
    assert kept.leak == 0


def test_a_returned_copy_that_is_not_used_has_no_gradient(network: Judging) -> None:
    class Returns(Network):
        def forward(self, x: Any) -> Any:
            seen = self.features(x)
            self.unused(seen)
            return self.head(seen.mean((-2, -1)))

    model = Returns()
    model.unused = torch.nn.Conv2d(6, 6, 1)
    assert tapped(model.eval(), network.inputs, top, "unused").gradient is None


def test_the_judge_and_the_oracle_import_nothing_of_what_they_judge() -> None:
    source = (
        "import sys, json; import benchmarks.foreign.judge, benchmarks.foreign.oracle, "
        "benchmarks.foreign.axes;"
        "print(json.dumps([m for m in sys.modules if m.split('.')[0] == 'gradcam']))"
    )
    done = subprocess.run(
        [sys.executable, "-c", source], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert json.loads(done.stdout) == []
    for name in ("axes", "judge", "oracle", "oracle_jax"):
        text = (ROOT / "benchmarks" / "foreign" / f"{name}.py").read_text(encoding="utf-8")
        assert "import gradcam" not in text
        assert "from gradcam" not in text
