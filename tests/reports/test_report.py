"""The report's text: what is in it, what is escaped, what it is made of."""

from __future__ import annotations

import base64
import hashlib
import io
import re
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

import gradcam
from gradcam import Comparison, Explanation

NASTY = "<script>alert('1')</script>\"& שלום\x00.png"


def explanation(count=2, method="grad-cam", labels=("cat", "dog", NASTY), **options):
    rng = np.random.default_rng(0)
    outputs = rng.random((count, 3))
    target = np.arange(count) % 3
    options = {"size": (24, 32), "layer": "conv", "model": "Net"} | options
    scores = outputs[np.arange(count), target]
    maps = options.pop("maps", rng.random((count, 6, 8)))
    return Explanation(maps, scores, target, outputs, method=method, labels=labels, **options)


def photos(count=2, size=(48, 64)):
    return [np.full((*size, 3), 60 + 40 * n % 180, np.uint8) for n in range(count)]


class Page(HTMLParser):
    """The elements of a page, and its text."""

    def __init__(self, text):
        super().__init__()
        self.elements = []
        self.words = []
        self.feed(text)

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_data(self, data):
        self.words.append(data.strip())

    def all(self, tag, cls=""):
        found = [attributes for name, attributes in self.elements if name == tag]
        return [one for one in found if cls in (one.get("class") or "").split() or not cls]


def page(tmp_path, source, *arguments, **options):
    path = gradcam.report(source, tmp_path / "report.html", *arguments, **options)
    return Page(path.read_text(encoding="utf-8"))


def test_a_sample_has_its_photograph_once_and_a_layer_for_each_map(tmp_path):
    both = Comparison({name: explanation(method=name) for name in ("one", "two")})
    found = page(tmp_path, both, photos())
    assert len(found.all("article")) == 2
    assert len(found.all("img", "map")) == 4
    (style,) = [text for text in found.words if "--ink" in text]
    assert style.count("background-image") == 2
    uri = found.all("img", "map")[0]["src"]
    layer = np.asarray(Image.open(io.BytesIO(base64.b64decode(uri.partition(",")[2]))))
    heat = both["one"].shown()[0][0].heat((48, 64))
    np.testing.assert_allclose(layer[..., 3] / 255, np.sqrt(heat), atol=1 / 255)


def test_what_a_user_wrote_is_text(tmp_path):
    labels = ("<b>cat</b>", "dog", NASTY)
    found = page(
        tmp_path,
        explanation(3, labels=labels, method="</style><i>", model="{{ 7*7 }}", layer="<layer>"),
        photos(3),
        names=[NASTY, "b", "c"],
        title=NASTY,
        command=NASTY,
        labels=[NASTY, None, 2],
    )
    assert len(found.all("script")) == 1
    assert not found.all("b", "cat")
    assert not found.all("i")
    assert not found.all("layer")
    assert NASTY.replace("\x00", "") in " ".join(found.words).replace("\x00", "")
    assert any("{{ 7*7 }}" in text for text in found.words)
    assert found.all("article")[0]["data-name"].startswith("<script>")


def test_the_policy_allows_its_own_style_and_script_and_images_in_it_alone(tmp_path):
    text = gradcam.report(explanation(), tmp_path / "a.html").read_text(encoding="utf-8")
    found = Page(text)
    (policy,) = [one["content"] for one in found.all("meta") if "http-equiv" in one]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'"
    assert rules["img-src"] == "data:"
    for tag in ("style", "script"):
        inside = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
        digest = base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode()
        assert rules[f"{tag}-src"] == f"'sha256-{digest}'"
    for _, attributes in found.elements:
        assert "style" not in attributes
        assert not [name for name in attributes if name.startswith("on")]
    addresses = re.findall(r"(?:src|href|url)[=(]\"?([^\")]*)", text)
    assert {address[:5] for address in addresses} <= {"data:", "#s0", "#s1", "#thre"}


def test_errors_blank_maps_and_wrong_classes_are_marked(tmp_path):
    maps = np.random.default_rng(0).random((3, 6, 8))
    maps[1] = 0
    e = explanation(3, maps=maps)
    tops = [e.labels[int(k)] for k in e.outputs.argmax(-1)]
    found = page(tmp_path, e, photos(3), labels=[tops[0], tops[1], "another"])
    flags = [one["data-flags"] for one in found.all("article")]
    assert flags == ["", "blank", "wrong"]
    assert "no evidence: the map is 0 everywhere" in found.words
    assert len(found.all("img", "map")) == 2


def test_classes_by_index_are_named(tmp_path):
    e = explanation(2)
    tops = [int(k) for k in e.outputs.argmax(-1)]
    found = page(tmp_path, e, labels=[tops[0], (tops[1] + 1) % 3])
    assert [one["data-flags"] for one in found.all("article")] == ["", "wrong"]


def test_what_made_it_is_said(tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(4, 5),
    ).eval()  # fmt: skip
    images = torch.randn(2, 3, 16, 16)
    check = gradcam.verify(net, images, layer="1", target=3)
    measured = gradcam.evaluate(net, images, ["grad-cam"], ["insertion"], controls=["random"])
    found = page(
        tmp_path,
        gradcam.explain(net, images),
        verification=check,
        evaluation=measured,
        model=net,
        command="python mine.py",
    )
    text = " ".join(found.words)
    for said in (
        "Sequential", "axes, and how they were told", "N C 14 14 (", "why this layer", "python mine.py",
        f"torch {torch.__version__}", "hash of the model", check.verdict, "insertion", "random",
    ):  # fmt: skip
        assert said in text, said
    assert found.all("tr", "control")


def test_layers_are_beside_each_other_and_named(tmp_path):
    both = {layer: explanation(1, layer=layer) for layer in ("deep", "shallow")}
    found = page(tmp_path, both, photos(1))
    assert len(found.all("article")) == 1
    assert len(found.all("img", "map")) == 2
    assert {"deep", "shallow"} <= set(found.words)
    assert "at" in found.words
    assert "at" not in page(tmp_path, both["deep"], photos(1)).words


def test_a_list_is_one_after_the_other(tmp_path):
    found = page(tmp_path, [explanation(2), explanation(3)], photos(5))
    assert len(found.all("article")) == 5


def test_no_more_samples_than_asked_for_and_the_page_says_so(tmp_path):
    found = page(tmp_path, explanation(7), photos(7), most=3)
    assert len(found.all("article")) == 3
    assert "4 more are left out" in found.words


def test_maps_without_photographs(tmp_path):
    found = page(tmp_path, explanation(2))
    assert len(found.all("div", "alone")) == 2
    assert not found.all("div", "photograph")


# ------------------------------------------------------------------------------------------ folders


def test_saved_explanations_have_their_photographs(tmp_path):
    for name in ("cat", "dog"):
        explanation(1).save(tmp_path / "out" / name, photos(1))
    found = page(tmp_path, tmp_path / "out")
    assert [one["data-name"] for one in found.all("article")] == ["cat", "dog"]
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("background-image") == 2
    one = page(tmp_path, tmp_path / "out" / "cat")
    assert [article["data-name"] for article in one.all("article")] == ["cat"]
    listed = page(tmp_path, [tmp_path / "out" / "dog"])
    assert [article["data-name"] for article in listed.all("article")] == ["dog"]


def test_a_saved_explanation_says_how_its_axes_were_told(tmp_path):
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1), torch.nn.Flatten()
    ).eval()
    gradcam.explain(net, torch.randn(1, 3, 8, 8)).save(tmp_path / "out")
    found = " ".join(page(tmp_path, tmp_path / "out").words)
    assert "(evidence, agreement" in found
    assert "why this layer" in found


def test_a_run_has_its_photographs_errors_and_labels(tmp_path):
    pytest.importorskip("pyarrow")
    from runs import models

    models.photographs(tmp_path / "photos", 6)
    (tmp_path / "photos" / "red" / "bad.png").write_bytes(b"no image")
    run = gradcam.run(
        models.model(), tmp_path / "photos", tmp_path / "run", labels="folder",
        method=["grad-cam", "layer-cam"],
    )  # fmt: skip
    found = page(tmp_path, run, view=models.view)
    flags = {one["data-name"]: one["data-flags"] for one in found.all("article")}
    assert flags["red/bad.png"] == "error"
    assert len(flags) == 7
    assert len(found.all("img", "map")) == 12
    assert run.turns() == 7
    assert run[:0].turns() == 0
    wrong = {row.key for row in run.wrong()}
    assert wrong == {name for name, flag in flags.items() if flag == "wrong"}
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    assert text.count("background-image") == 6
    assert "is no image of a known kind" in text
    same = page(tmp_path, tmp_path / "run", view=models.view)
    assert len(same.all("article")) == 7
    few = run.lowest("score", 3)
    found = page(tmp_path, few, view=models.view)
    assert {one["data-name"] for one in found.all("article")} == {row.key for row in few}
    blind = page(tmp_path, run)
    assert any("pass view=classifier.view" in words for words in blind.words)


# ------------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("source", "error", "message"),
    [
        (3, TypeError, "`source` of type int is nothing that a report shows; pass an explanation"),
        ([], TypeError, "`source` of type list is nothing"),
        ({}, TypeError, "`source` of type dict is nothing"),
        ("nowhere", FileNotFoundError, "nowhere: no such folder"),
    ],
)
def test_sources_that_are_none(tmp_path, source, error, message):
    with pytest.raises(error, match=message):
        gradcam.report(source, tmp_path / "a.html")
    assert not list(tmp_path.iterdir())


def test_arguments_that_do_not_fit(tmp_path):
    path = tmp_path / "a.html"
    with pytest.raises(ValueError, match="holds neither a run nor a saved explanation"):
        gradcam.report(tmp_path, path)
    with pytest.raises(ValueError, match="`names` has 1, but there are 2 samples"):
        gradcam.report(explanation(), path, names=["a"])
    with pytest.raises(ValueError, match="`photos` has 3, but the explanation has 2 samples"):
        gradcam.report(explanation(), path, photos(3))
    with pytest.raises(ValueError, match="must be of the same samples, but there are 2 and 3"):
        gradcam.report({"a": explanation(2), "b": explanation(3)}, path)
    with pytest.raises(ValueError, match=r"maps over two axes, but these have 1; use .figure\(\)"):
        gradcam.report(Explanation(np.ones((2, 5)), np.ones(2)), path)
    with pytest.raises(TypeError, match=r"`verification` must be a gradcam.Verification"):
        gradcam.report(explanation(), path, verification="passed")
    with pytest.raises(ValueError, match="`most` must be"):
        gradcam.report(explanation(), path, most=0)
    assert not path.exists()


# -------------------------------------------------------------------------------- the command line


def test_the_command_line_writes_reports(tmp_path, monkeypatch):
    from runs import models
    from typer.testing import CliRunner

    from gradcam.cli.commands import app

    monkeypatch.chdir(tmp_path)
    models.photographs(tmp_path / "photos", 3)
    (tmp_path / "photos" / "bad.png").write_bytes(b"no")
    model = ["--model", "runs.models:model"]

    def call(*arguments):
        return CliRunner().invoke(app, [str(one) for one in arguments])

    explained = call("explain", "photos", *model, "--report", "explained.html", "--out", "out")
    assert explained.exit_code == 1  # bad.png
    assert "the report: explained.html" in explained.output
    assert call("report", "out", "-o", "again.html", "--title", "Mine").exit_code == 0
    for name in ("explained.html", "again.html"):
        assert len(Page((tmp_path / name).read_text()).all("article")) == 3
    assert "Mine" in Page((tmp_path / "again.html").read_text()).words
    run = call("run", "photos", *model, "--out", "run", "--report", "run.html", "--workers", "0")
    assert run.exit_code == 1
    found = Page((tmp_path / "run.html").read_text())
    assert sorted(one["data-flags"] for one in found.all("article")) == ["", "", "", "error"]
    (tmp_path / "photos" / "bad.png").unlink()
    measured = call(
        "evaluate", "photos/red", *model, "--measure", "insertion", "--method", "layer-cam",
        "--report", "measured.html",
    )  # fmt: skip
    assert measured.exit_code == 0, measured.output
    found = Page((tmp_path / "measured.html").read_text())
    assert len(found.all("article")) == len(list((tmp_path / "photos" / "red").iterdir()))
    assert "insertion, higher is better" in found.words
    nowhere = call("report", "nowhere")
    assert nowhere.exit_code == 1
    assert "nowhere: no such folder" in nowhere.output
