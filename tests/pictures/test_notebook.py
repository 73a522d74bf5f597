"""What results show of themselves in a notebook."""

from __future__ import annotations

import re
import subprocess
import sys
from html.parser import HTMLParser

import numpy as np
import pytest

import gradcam
from gradcam import Comparison, Explanation
from gradcam.diagnosis.findings import Diagnosis, Finding
from gradcam.pictures import notebook

NASTY = "<script>alert(1)</script>"


def make(columns=2, method="grad-cam", labels=("cat", NASTY)):
    rng = np.random.default_rng(0)
    return Explanation(
        rng.random((2, columns, 6, 8)), rng.random((2, columns)), np.arange(columns)[None],
        size=(24, 32), labels=labels, method=method, model="Net", layer="conv",
    )  # fmt: skip


def photos():
    return [np.full((30, 40, 3), 200, np.uint8)] * 2


class Page(HTMLParser):
    def __init__(self, text):
        super().__init__()
        self.tags = []
        self.words = []
        self.open = []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append((tag, dict(attributes)))
        if tag not in ("img", "input", "br"):
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.words.append(data.strip())

    def count(self, tag):
        return sum(name == tag for name, _ in self.tags)


def test_an_explanation_shows_its_maps():
    page = Page(make()._repr_html_())
    assert page.count("img") == 4
    assert page.count("script") == 0
    assert page.count("input") == 0  # without photographs there is nothing below a map
    assert "grad-cam of Net at 'conv'" in page.words
    assert any(NASTY in words for words in page.words)
    sources = [attributes["src"] for tag, attributes in page.tags if tag == "img"]
    assert all(source.startswith("data:image/webp;base64,") for source in sources)


def test_with_photographs_there_is_a_slider_of_opacity():
    shown = make().show(photos())
    page = Page(shown._repr_html_())
    assert page.count("img") == 6
    (slider,) = [attributes for tag, attributes in page.tags if tag == "input"]
    assert "--gradcam-opacity" in slider["oninput"]
    assert slider["value"] == "70"
    assert shown._repr_png_().startswith(b"\x89PNG")
    assert not re.search(r"https?://", shown._repr_html_())


def test_a_comparison_shows_its_methods():
    both = Comparison({name: make(1, name) for name in ("one", "two")})
    page = Page(both.show(photos())._repr_html_())
    assert page.count("img") == 2 + 4
    assert {"one", "two"} <= set(page.words)
    assert Page(both._repr_html_()).count("img") == 4


def test_a_blank_map_is_one_in_words():
    blank = Explanation(np.zeros((1, 6, 8)), np.ones(1), np.zeros(1, int), size=(24, 32))
    assert "no evidence: the map is 0 everywhere" in Page(blank._repr_html_()).words


def test_other_maps_and_notebooks_without_jinja_show_the_picture(monkeypatch):
    line = Explanation(np.eye(5)[:1], np.ones(1))
    assert line._repr_html_() is None
    assert line._repr_png_().startswith(b"\x89PNG")
    monkeypatch.setattr(notebook, "_has_jinja", lambda: False)
    assert make()._repr_html_() is None
    assert notebook.text_html("text") is None
    assert notebook.table_html(["a"], [["b"]]) is None


def test_a_diagnosis_is_a_table():
    found = Diagnosis((Finding("flat", 1, f"{NASTY} do this", target=2, layer="conv"),), 3)
    page = Page(found._repr_html_())
    assert page.count("tr") == 2
    assert {"1, 2", "conv", "flat", f"{NASTY} do this"} <= set(page.words)
    assert "nothing is wrong with the 3 maps" in Page(Diagnosis((), 3)._repr_html_()).words


@pytest.mark.filterwarnings("ignore::gradcam.BlankMapWarning")
def test_results_of_all_kinds_show_themselves():
    torch = pytest.importorskip("torch")
    torch.manual_seed(0)
    net = torch.nn.Sequential(
        torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.AdaptiveAvgPool2d(1),
        torch.nn.Flatten(), torch.nn.Linear(4, 5),
    ).eval()  # fmt: skip
    images = torch.randn(2, 3, 16, 16)
    check = gradcam.verify(net, images, layer="1", target=3)
    assert check.verdict in Page(check._repr_html_()).words
    measured = gradcam.evaluate(net, images, ["grad-cam"], ["insertion"], controls=["random"])
    page = Page(measured._repr_html_())
    assert page.count("tr") == 3
    assert {"insertion, higher is better", "grad-cam", "random"} <= set(page.words)
    sane = gradcam.sanity_check(net, images, layer="1", target=3)
    assert Page(sane._repr_html_()).count("tr") == 1 + len(sane.groups)
    price = gradcam.Price("net", "grad-cam", 1, 2, 1.04, 1.02, 1.05, 11)
    page = Page(gradcam.Benchmark((price,))._repr_html_())
    assert {"net", "grad-cam, batch 1, 2 targets", "1.04 (1.02 to 1.05)", "–"} <= set(page.words)


CELLS = [
    "import numpy as np, gradcam\n"
    "e = gradcam.Explanation(np.eye(4)[None], np.ones(1), np.zeros(1, int), size=(8, 8))\n"
    "e.show(np.zeros((8, 8, 3)))",
    "def head(a):\n    return a.mean((2, 3))\n"
    "net = gradcam.Split(lambda x: x, head)\n"
    "gradcam.explain(net, np.random.rand(1, 8, 6, 6), target=3, method='ablation-cam', progress=True)",
]


def test_a_notebook_shows_maps_and_bars_of_progress(tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat and nbconvert")
    pytest.importorskip("nbconvert", reason="needs nbconvert")
    pytest.importorskip("ipykernel", reason="needs ipykernel")
    cells = [nbformat.v4.new_code_cell(text) for text in CELLS]
    nbformat.write(nbformat.v4.new_notebook(cells=cells), tmp_path / "book.ipynb")
    # In a process of its own: it leaves an event loop open.
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace"]
    done = subprocess.run(
        [*command, "book.ipynb"], cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    shown, ran = nbformat.read(tmp_path / "book.ipynb", 4).cells
    (output,) = shown.outputs
    assert "oninput" in output.data["text/html"]
    assert output.data["image/png"]
    kinds = [output.output_type for output in ran.outputs]
    assert not [o for o in ran.outputs if o.get("name") == "stderr"], ran.outputs
    assert kinds[-1] == "execute_result"
    assert len(kinds) > 1  # the bar
