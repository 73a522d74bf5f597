"""What the app does with a photograph, without a page."""

from __future__ import annotations

import threading
import zipfile

import numpy as np
import pytest
from PIL import Image
from runs import models

import gradcam
from gradcam.app.session import Asked, Session

NASTY = "<script>alert(1)</script>"


@pytest.fixture
def session():
    found = Session(models.model())
    yield found
    found.close()


@pytest.fixture
def seen(session, tmp_path):
    path = tmp_path / "red.png"
    models.photographs(tmp_path / "some", 2)
    Image.open(next((tmp_path / "some" / "red").glob("*.png"))).save(path)
    return session.see(path)


def test_a_photograph_has_its_highest_classes(session, seen):
    assert len(seen.top) == 3
    shares = [one.probability for one in seen.top]
    assert shares == sorted(shares, reverse=True)
    assert sum(shares) == pytest.approx(1)
    assert str(seen.top[0]).startswith(seen.top[0].name)
    assert session.classes() == list(models.LABELS)


def test_methods_are_side_by_side_and_are_those_of_the_library(session, seen):
    asked = Asked(1, methods=("grad-cam", "eigen-cam"))
    found = session.show(seen, asked)
    (row,) = found.rows
    assert [cell.title.splitlines()[0] for cell in row.cells] == ["grad-cam", "eigen-cam"]
    inputs = models.preprocess([seen.photograph])
    ours = gradcam.explain(models.model(), inputs, target=1).numpy()
    np.testing.assert_allclose(row.cells[0].shown.values, ours.maps[0], rtol=1e-6)


def test_two_classes_are_beside_their_difference(session, seen):
    found = session.show(seen, Asked(1, 2, ("grad-cam",)))
    names = [cell.shown.name for cell in found.rows[0].cells]
    assert names == ["red", "green", "red less green"]
    inputs = models.preprocess([seen.photograph])
    target = gradcam.targets.difference(1, 2)
    ours = gradcam.explain(models.model(), inputs, target=target, check=False).numpy()
    np.testing.assert_allclose(found.rows[0].cells[2].shown.values, ours.maps[0], rtol=1e-6)


def test_layers_are_listed_with_a_mark(session, seen):
    assert [layer.path for layer in session.layers(seen) if layer.has_space]
    assert session.layers(seen) is session.layers(seen)


def test_gradients_are_verified(session, seen):
    assert session.verify(seen, Asked(1)).verdict in ("passed", "untested")


def test_a_bundle_holds_what_save_writes(session, seen, tmp_path):
    path = session.bundle(seen, Asked(1, methods=("grad-cam", "layer-cam")))
    with zipfile.ZipFile(path) as found:
        found.extractall(tmp_path / "got")
    one = gradcam.Explanation.load(tmp_path / "got" / "layer-cam")
    assert one.method == "layer-cam"
    assert (tmp_path / "got" / "grad-cam" / "photo-0000.png").is_file()


def test_a_report_has_the_verdict(session, seen):
    check = session.verify(seen, Asked(1))
    text = session.report(seen, Asked(1), check).read_text(encoding="utf-8")
    assert "Gradients checked" in text
    assert "grad-cam" in text


def test_no_more_files_than_a_few_are_kept(session, seen):
    paths = [session.report(seen, Asked(1)) for _ in range(10)]
    assert [path.exists() for path in paths] == [False] * 2 + [True] * 8
    session.close()
    assert not paths[-1].exists()


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (Asked(5000), "5000"),
        (Asked(1, methods=()), "choose a method"),
        (Asked(1, methods=("nope",)), '"nope" is no method that the app offers'),
        (Asked(1, 1), "the two classes are the same"),
        (Asked(1, layer="nope"), '"nope"'),
    ],
)
def test_what_a_page_cannot_ask_for(session, seen, asked, message):
    with pytest.raises((ValueError, LookupError), match=message):
        session.show(seen, asked)


def test_files_that_are_no_photographs(session, tmp_path):
    path = tmp_path / "bad.png"
    path.write_bytes(b"no")
    with pytest.raises(ValueError, match="is no image of a known kind"):
        session.see(path)
    Image.new("1", (10_000, 10_000)).save(tmp_path / "large.png")
    with pytest.raises(ValueError, match="more than 64 million pixels"):
        session.see(tmp_path / "large.png")


def test_a_model_needs_preprocessing():
    with pytest.raises(ValueError, match=r"needs a gradcam\.Classifier with `preprocess`"):
        Session(gradcam.Classifier(lambda x: x))


def test_many_at_once_are_all_right(session, seen):
    expected = session.show(seen, Asked(1)).rows[0].cells[0].shown.values
    wrong = []

    def ask():
        found = session.show(seen, Asked(1)).rows[0].cells[0].shown.values
        if not np.array_equal(found, expected):
            wrong.append(found)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
