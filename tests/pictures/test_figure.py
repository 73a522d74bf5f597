"""What figures show, read from the artists and the pixels themselves."""

from __future__ import annotations

import io
from itertools import combinations

import numpy as np
import pytest
from matplotlib.backends.backend_agg import FigureCanvasAgg
from PIL import Image

from gradcam import Comparison, Explanation
from gradcam.pictures.colours import COLORMAP, ON_PAPER, SIGNED, colours, tint
from gradcam.pictures.figure import png
from gradcam.pictures.shown import Shown, number, short

# Machado, Oliveira and Fernandes 2009, severity 1, for linear RGB
BLIND = {
    "nobody": np.eye(3),
    "protanopia": [
        [0.152286, 1.052583, -0.204868],
        [0.114503, 0.786281, 0.099216],
        [-0.003882, -0.048116, 1.051998],
    ],
    "deuteranopia": [
        [0.367322, 0.860646, -0.227968],
        [0.280085, 0.672501, 0.047413],
        [-0.011820, 0.042940, 0.968881],
    ],
    "tritanopia": [
        [1.255528, -0.076749, -0.178779],
        [-0.078411, 0.930809, 0.147602],
        [0.004733, 0.691367, 0.303900],
    ],
}


def lightness(rgb, eye):
    """CIE L* of sRGB in [0, 1], as an eye sees it."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    seen = np.clip(linear @ np.array(BLIND[eye]).T, 0, 1)
    y = seen @ [0.2126, 0.7152, 0.0722]
    return np.where(y > (6 / 29) ** 3, 116 * np.cbrt(y) - 16, y * (29 / 3) ** 3)


def make(shape=(2, 3, 4), columns=None, **options):
    rng = np.random.default_rng(0)
    scores = np.array([1.5, -2.0, 3.0, 1e-7])[: shape[0]]
    target = np.arange(shape[0])
    if columns:
        shape = (shape[0], columns, *shape[1:])
        scores = np.linspace(-1, 20, shape[0] * columns).reshape(shape[0], columns)
        target = np.arange(columns)[None]
    options = {"size": (24, 32), "layer": "layer4", "method": "grad-cam", "model": "Net"} | options
    return Explanation(options.pop("maps", rng.random(shape)), scores, target, **options)


def photos(count=2, size=(48, 64)):
    return [np.full((*size, 3), 200, np.uint8)] * count


def drawn(figure):
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return canvas


def texts(figure):
    """Every text that has something to say."""
    from matplotlib.text import Text

    return [found for found in figure.findobj(Text) if found.get_text() and found.get_visible()]


def pixels(figure):
    return np.asarray(Image.open(io.BytesIO(png(figure))).convert("RGB"))


# -------------------------------------------------------------------------------------- the colours


@pytest.mark.parametrize("eye", BLIND)
@pytest.mark.parametrize(("name", "sign"), [(COLORMAP, 1), (ON_PAPER, -1)])
def test_lightness_follows_the_evidence_for_every_eye(name, sign, eye):
    steps = np.diff(lightness(colours(np.linspace(0, 1, 65), name), eye))
    assert (sign * steps > 0).all()


def test_the_rainbow_would_not_do():
    steps = np.diff(lightness(colours(np.linspace(0, 1, 65), "jet"), "nobody"))
    assert (steps > 0).any()
    assert (steps < 0).any()


@pytest.mark.parametrize("eye", BLIND)
def test_signed_colours_leave_white_on_both_sides_and_differ(eye):
    rgb = colours(np.linspace(-1, 1, 65), signed=True)
    light = lightness(rgb, eye)
    assert (np.diff(light[:33]) > 0).all()
    assert (np.diff(light[32:]) < 0).all()
    seen = rgb @ np.array(BLIND[eye]).T
    against, for_it = seen[4], seen[-5]
    assert np.abs(against - for_it).max() > 0.3
    np.testing.assert_allclose(rgb[32], 1, atol=0.05)  # 0 is white


def test_a_layer_is_clear_where_there_is_no_evidence():
    layer = tint(np.array([[0.0, 0.25, 1.0]]), alpha=0.8)
    np.testing.assert_allclose(layer[0, :, 3], [0, 0.4, 0.8])
    assert SIGNED != COLORMAP


# ---------------------------------------------------------------------------------------- the words


def test_a_panel_says_the_class_its_score_and_its_softmax():
    outputs = np.log(np.array([[0.2, 0.8], [0.75, 0.25]]))
    e = make(labels=["cat, true cat", "dog"], outputs=outputs)
    found = [text.get_text() for text in texts(e.figure(photos()))]
    assert "cat\nscore 1.5, softmax 20 %" in found
    assert "dog\nscore -2, softmax 25 %" in found
    assert "grad-cam of Net at 'layer4'" in found
    assert (
        "lines at 50 % of each map's maximum; values in the method's own unit, each map's own "
        "scale" in found
    )


def test_probabilities_are_softmax_unless_they_are_probabilities_already():
    logits = np.array([[1.0, 3.0], [2.0, 2.0]])
    np.testing.assert_allclose(
        make(outputs=logits).probabilities, [1 / (1 + np.exp(2)), 0.5], rtol=1e-12
    )
    given = np.array([[0.9, 0.1], [0.3, 0.7]])
    np.testing.assert_allclose(make(outputs=given).probabilities, [0.9, 0.7])
    both = make(columns=2, outputs=given)
    np.testing.assert_allclose(both.probabilities, given)
    np.testing.assert_allclose(both[1].probabilities, given[1:])
    np.testing.assert_allclose(both.numpy().probabilities, given)
    for outputs in (None, np.ones((2, 3, 4, 4)), np.ones((2, 1)), "text", np.full((2, 2), np.nan)):
        assert make(outputs=outputs).probabilities is None
    e = Explanation(np.ones((2, 3, 4)), np.ones(2), lambda outputs: outputs, outputs=logits)
    assert e.probabilities is None


def test_probabilities_are_saved_and_loaded(tmp_path):
    e = make(outputs=np.array([[0.9, 0.1], [0.3, 0.7]]))
    found = Explanation.load(e.save(tmp_path / "out"))
    np.testing.assert_allclose(found.probabilities, [0.9, 0.7])
    assert Explanation.load(make().save(tmp_path / "none")).probabilities is None


@pytest.mark.parametrize(
    ("values", "words"),
    [
        (np.zeros((3, 4)), "no evidence:\nthe map is 0 everywhere"),
        (np.full((3, 4), 0.25), "no contrast:\nthe map is 0.25 everywhere"),
        (np.full((3, 4), np.nan), "the map has values that are NaN or infinite"),
    ],
)
def test_a_map_without_contrast_says_so(values, words):
    e = make(maps=np.stack([values, np.eye(3, 4)]))
    for figure in (e.figure(), e.figure(photos()), e.figure(photos(), mask=0.5)):
        assert words in [text.get_text() for text in texts(figure)]
    merged = e.figure(photos(), together=True)
    assert any(words.replace("\n", " ") in text.get_text() for text in texts(merged))


def test_numbers_and_names_are_short():
    assert [number(x) for x in (0, 1.5, 0.0123, 0.00123, 123456.0, -1e-7, 1234.5)] == [
        "0", "1.5", "0.0123", "1.23e-3", "1.23e5", "-1.00e-7", "1234",
    ]  # fmt: skip
    assert short("tiger cat, Felis") == "tiger cat"
    assert len(short("x" * 100)) == 32
    assert short(", odd") == ", odd"


# --------------------------------------------------------------------------------------- the scales


def bars(figure):
    """The tick labels of the colour bars."""
    found = []
    for axes in figure.axes:
        if axes.get_label() == "<colorbar>":
            found.append([tick.get_text() for tick in axes.get_yticklabels()])
    return found


def test_each_bar_has_the_maps_own_values():
    maps = np.stack([np.eye(3) * 4, np.eye(3) * 0.5])
    e = make(maps=maps, size=(3, 3))
    assert bars(e.figure()) == [["0", "2", "4"], ["0", "0.25", "0.5"]]
    assert bars(e.figure(joint=True)) == [["0", "2", "4"]] * 2
    signed = make(maps=maps * np.array([1, -2, 1])[:, None], size=(3, 3))
    assert bars(signed.figure())[0] == ["-8", "-4", "0", "4", "8"]


def test_a_joint_scale_makes_the_weaker_map_fainter():
    maps = np.stack([np.eye(3) * 4, np.eye(3) * 0.5])
    e = make(maps=maps, size=(3, 3))

    def brightest(figure):
        shown = [axes.images[-1].get_array() for axes in figure.axes if axes.images]
        return [float(image[..., :3].max()) for image in shown[:2]]

    alone, joint = brightest(e.figure()), brightest(e.figure(joint=True))
    assert alone[0] == alone[1] == joint[0]
    assert joint[1] < alone[1] / 2


# --------------------------------------------------------------------------- lines, boxes and masks


def levels(figure):
    from matplotlib.contour import QuadContourSet

    return [found.levels[0] for found in figure.findobj(QuadContourSet)]


def test_lines_are_at_the_shares_asked_for_and_dashed_round_evidence_against():
    maps = np.zeros((1, 9, 9))
    maps[0, 2, 2], maps[0, 6, 6] = 1, -1
    e = make((1, 9, 9), maps=maps, size=(9, 9))
    assert sorted(set(levels(e.figure()))) == [-0.5, 0.5]
    assert sorted(set(levels(e.figure(contours=(0.25, 0.75))))) == [-0.75, -0.25, 0.25, 0.75]
    assert levels(e.figure(contours=())) == []
    positive = make((1, 9, 9), maps=np.abs(maps), size=(9, 9))
    assert set(levels(positive.figure())) == {0.5}
    said = [text.get_text() for text in texts(e.figure())]
    assert any("dashed and blue: evidence against" in text for text in said)


def test_a_box_is_where_the_photograph_shows_the_evidence():
    from matplotlib.patches import Rectangle

    maps = np.zeros((1, 6, 8))
    maps[0, 2:4, 1:3] = 1
    e = make((1, 6, 8), maps=maps, size=(6, 8))
    figure = e.figure(photos(1, (60, 80)), boxes=0.5)
    found = [r for r in figure.findobj(Rectangle) if not r.get_fill() and r.get_width() == 20]
    assert found
    assert found[0].get_xy() == (9.5, 19.5)
    assert found[0].get_height() == 20


def test_a_mask_leaves_the_photograph_where_the_evidence_is():
    maps = np.zeros((1, 2, 2))
    maps[0, 0, 0] = 1
    figure = make((1, 2, 2), maps=maps, size=(2, 2)).figure(photos(1, (2, 2)), mask=0.5)
    (_, masked) = [axes.images[-1].get_array() for axes in figure.axes if axes.images]
    np.testing.assert_allclose(masked[0, 0], 200 / 255)
    np.testing.assert_allclose(masked[1, 1], 40 / 255)


@pytest.mark.parametrize("name", ["contours", "boxes", "mask"])
def test_a_share_is_a_share(name):
    value = (1.5,) if name == "contours" else 1.5
    with pytest.raises(ValueError, match=rf"`{name}` is a share of the maximum, in \(0, 1\]"):
        make().figure(**{name: value})


def test_a_mask_is_of_one_map():
    with pytest.raises(ValueError, match="`mask` and `together` exclude each other"):
        make(columns=2).figure(photos(), mask=0.5, together=True)


def test_several_classes_in_one_picture_have_a_legend_with_colours_and_lines():
    figure = make(columns=3, labels="abc").figure(photos(), together=True)
    legends = [axes.get_legend() for axes in figure.axes if axes.get_legend()]
    assert len(legends) == 2
    handles = legends[0].legend_handles
    assert len({handle.get_color() for handle in handles}) == 3
    assert len({handle.get_linestyle() for handle in handles}) == 3
    assert [text.get_text()[0] for text in legends[0].get_texts()] == ["a", "b", "c"]


def test_a_comparison_has_a_column_for_each_method():
    both = Comparison({name: make(columns=2, method=name, labels="ab") for name in ("one", "two")})
    figure = both.figure(photos())
    titles = [axes.get_title() for axes in figure.axes if axes.images]
    assert titles[:3] == ["sample 0\na\nscore -1", "one", "two"]
    assert len(titles) == 4 * 3
    assert both._repr_png_().startswith(b"\x89PNG")


def test_samples_are_called_as_their_files(tmp_path):
    paths = []
    for name in ("cat.png", "dog.png"):
        Image.new("RGB", (8, 6)).save(tmp_path / name)
        paths.append(tmp_path / name)
    found = [text.get_text() for text in texts(make().figure(paths))]
    assert {"cat.png", "dog.png"} <= set(found)


# ------------------------------------------------------------------------------ nothing is cut off

LONG = ["an extraordinarily long class name that nobody has room for " * 2, "b", "c"]


@pytest.mark.parametrize("size", [(48, 64), (200, 20), (20, 200), (1, 1)])
@pytest.mark.parametrize("columns", [None, 3])
@pytest.mark.parametrize(
    "options", [{}, {"together": True}, {"mask": 0.3}, {"joint": True, "boxes": 0.2}]
)
def test_no_words_are_cut_off_or_lie_over_others(size, columns, options):
    e = make(columns=columns, labels=LONG, outputs=np.eye(2, 3), model="Network" * 12)
    for figure in (e.figure(photos(2, size), **options), e.figure(**options)):
        drawn(figure)
        titles = [axes.title.get_window_extent() for axes in figure.axes if axes.get_title()]
        for one, other in combinations(titles, 2):
            assert not one.overlaps(other)
        edge = pixels(figure)
        for line in (edge[0], edge[-1], edge[:, 0], edge[:, -1]):
            np.testing.assert_array_equal(line, 255)


# ------------------------------------------------------------------------ one, and three axes


def test_a_signal_has_its_map_behind_it_and_as_a_curve_below():
    maps = np.zeros((1, 2, 10))
    maps[0, 0, 5], maps[0, 1, 2] = 4, 2
    e = Explanation(maps, np.ones((1, 2)), np.array([[0, 1]]), size=(100,), method="grad-cam")
    figure = e.figure(np.sin(np.arange(100))[None])
    signal, _, below, _ = figure.axes
    assert len(signal.lines[0].get_xdata()) == 100
    assert signal.images[0].get_array().shape == (1, 100, 4)
    assert 3.9 < below.get_ylim()[1] < 4.5
    assert len(e.figure().axes) == 2
    joint = e.figure(joint=True)
    assert joint.axes[0].get_ylim() == joint.axes[1].get_ylim()
    with pytest.raises(ValueError, match="`photos` has 2, but the explanation has 1 samples"):
        e.figure(np.zeros((2, 100)))
    with pytest.raises(ValueError, match=r"must have as many, but one has the shape \(3, 4, 5\)"):
        e.figure(np.zeros((1, 3, 4, 5)))


def test_a_volume_is_shown_through_its_peak():
    maps = np.zeros((1, 4, 5, 6))
    maps[0, 1, 2, 3] = 2
    e = Explanation(maps, np.ones(1), np.zeros(1, int), size=(4, 5, 6), method="grad-cam")
    for figure in (e.figure(), e.figure(np.random.default_rng(0).random((1, 4, 5, 6)))):
        titles = [axes.get_title() for axes in figure.axes if axes.images]
        assert titles == [
            "axis 0: slice 2 of 4",
            "axis 1: slice 3 of 5",
            "axis 2: slice 4 of 6",
        ]
        for panel in figure.axes[:3]:
            shown = panel.images[-1].get_array()
            assert shown[..., :3].max() > 0.9
        assert bars(figure) == [["0", "1", "2"]]
    blank = Explanation(np.zeros((1, 4, 5, 6)), np.ones(1), np.zeros(1, int))
    assert "no evidence:\nthe map is 0 everywhere" in [t.get_text() for t in texts(blank.figure())]


def test_a_shown_map_without_a_name_for_anything_is_drawn_too():
    assert Shown(np.eye(3), "score").caption == "score"
    assert Shown(np.eye(3), "score").origin == ""
