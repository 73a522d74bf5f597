"""Annotation files of any kind: read, or refused in a sentence that names the file."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image

from gradcam.evaluation.annotations import read_annotations

EXAMPLES = int(os.environ.get("GRADCAM_EXAMPLES", "200"))

COCO = {
    "images": [{"id": 1, "file_name": "one.png", "height": 32, "width": 40}],
    "categories": [{"id": 3, "name": "dog"}],
    "annotations": [
        {"id": 1, "image_id": 1, "bbox": [4, 8, 16, 16], "category_id": 3, "iscrowd": 0,
         "segmentation": [[4, 8, 20, 8, 20, 24]]},
        {"id": 2, "image_id": 1, "bbox": [4, 8, 16, 16], "category_id": 3},
    ],
}  # fmt: skip
VOC = (
    "<annotation><filename>one.png</filename><object><name>dog</name><bndbox><xmin>5</xmin>"
    "<ymin>9</ymin><xmax>20</xmax><ymax>24</ymax></bndbox></object></annotation>"
)
TABLE = "file,x0,y0,x1,y1\none.png,4,8,20,24\n"

ODD = st.sampled_from(
    [None, True, -1, 0, 1e308, -1e308, 10**400, 100_000, 2**70, "", "a", "1", "nan", "\0",
     "\ud800", [], {}, [[1, 2, 3, 4, 5, 6]], [[]], [None], [1e308] * 6, [[1e308] * 6], {"a": 1}]
)  # fmt: skip
"""Values that a reader may not expect."""


def replaced(draw, value):
    """The value with parts of it replaced by odd ones, or left out."""
    if draw(st.integers(0, 12)) == 0:
        return draw(ODD)
    if isinstance(value, dict):
        kept = {name: replaced(draw, inner) for name, inner in value.items()}
        if kept and draw(st.integers(0, 12)) == 0:
            del kept[draw(st.sampled_from(sorted(kept)))]
        return kept
    if isinstance(value, list):
        return [replaced(draw, inner) for inner in value]
    return value


@st.composite
def files(draw):
    """The name and the bytes of a file: odd values, cut, or garbled."""
    kind = draw(st.sampled_from(["json", "xml", "csv"]))
    if kind == "json":
        text = json.dumps(replaced(draw, COCO)).encode()
    else:
        text = (VOC if kind == "xml" else TABLE).encode()
        for old in draw(st.lists(st.sampled_from([b"5", b"20", b"one.png", b"24"]), max_size=2)):
            odd = json.dumps(draw(ODD)).strip('"').encode()
            text = text.replace(old, odd, 1)
    if draw(st.booleans()):
        start = draw(st.integers(0, len(text)))
        cut = draw(st.integers(0, 6))
        text = text[:start] + draw(st.binary(max_size=4)) + text[start + cut :]
    if draw(st.integers(0, 5)) == 0:
        text = text[: draw(st.integers(0, len(text)))]
    return f"a.{kind}", text


@hypothesis.settings(max_examples=EXAMPLES, deadline=None)
@hypothesis.given(files(), st.sampled_from([None, "dog"]))
def test_files_of_any_kind_are_read_or_are_an_error_that_names_them(file, category):
    name, text = file
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, name)
        path.write_bytes(text)
        source = path.parent if path.suffix == ".xml" else path
        try:
            found = read_annotations(source, category)
        except ValueError as error:
            assert_names(error, path)
            return
        for annotation in found.values():
            with contextlib.suppress(ValueError):  # of one photograph, which `evaluate` skips
                assert annotation.drawn((32, 40)).shape == (32, 40)


def assert_names(error, path):
    assert str(error).startswith((f"{path}: ", "one.png has objects of several")), error
    assert len(str(error)) < 1000
    assert "\n" not in str(error).replace(str(path), "")


@pytest.mark.parametrize(
    ("name", "text", "match"),
    [
        (
            "a.json",
            "[" * 100_000,
            r"a.json: is no COCO file, because it is no JSON \(",
        ),
        (
            "a.json",
            "1" * 5000,
            r"a.json: is no COCO file, because it is no JSON \(",
        ),
        (
            "a.csv",
            f"file,x0,y0,x1,y1\n{'a' * 200_000},1,2,3,4\n",
            r"a.csv: is no table \(field lar",
        ),
        ("a.xml", '<?xml version="1.0" encoding="none"?><a/>', r"a.xml: is no XML \(.*encoding"),
        ("a.xml", '<?xml version="1.0" encoding="utf-7"?><a/>', r"a.xml: is no XML"),
    ],
)
def test_what_parsers_refuse_is_named(tmp_path, name, text, match):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=match):
        read_annotations(tmp_path if name.endswith("xml") else tmp_path / name)


@pytest.mark.parametrize(
    ("image", "annotation", "match"),
    [
        (
            {"height": 100_000, "width": 100_000},
            {},
            "1 needs polygons.*100000 x 100000 pixels, and",
        ),
        ({"height": 1e999}, {}, "1 needs polygons"),
        ({"height": None}, {}, "1 needs polygons"),
        ({"height": 0}, {}, "1 needs polygons.*has 0 x 40 pixels"),
        ({}, {"segmentation": [[1e999, 1, 2, 3, 4, 5]]}, "corners of a polygon are not all below"),
        ({}, {"segmentation": [[10**400, 1, 2, 3, 4, 5]]}, "1 needs polygons"),
        ({}, {"segmentation": "rle"}, "1 needs polygons"),
        ({}, {"bbox": [10**400, 1, 2, 3]}, "1 needs a `bbox` of four numbers"),
        ({}, {"bbox": [1e308, 1, 1e308, 3]}, "1 needs a `bbox` of four numbers"),
        (
            {},
            {"bbox": [1] * 10_000},
            r"four numbers x, y, width, height, but has \[1, 1, 1, 1, 1, 1, ",
        ),
    ],
)
def test_what_coco_files_may_not_say(tmp_path, image, annotation, match):
    found = json.loads(json.dumps(COCO))
    found["images"][0] |= image
    found["annotations"][0] |= annotation
    (tmp_path / "a.json").write_text(json.dumps(found))
    with pytest.raises(ValueError, match=f"a.json: annotation .*{match}") as caught:
        read_annotations(tmp_path / "a.json")
    assert len(str(caught.value)) < 1000


LAUGHS = '<?xml version="1.0"?><!DOCTYPE a [<!ENTITY a0 "ha">' + "".join(
    f'<!ENTITY a{n + 1} "{f"&a{n};" * 10}">' for n in range(12)
)


@pytest.mark.parametrize(
    "text",
    [
        f"{LAUGHS}]><annotation><filename>&a12;</filename></annotation>",
        '<!DOCTYPE a [<!ENTITY b SYSTEM "{secret}">]><annotation><filename>&b;</filename></annotation>',
        '<!DOCTYPE a SYSTEM "{secret}"><annotation><filename>&b;</filename></annotation>',
    ],
)
def test_entities_are_not_followed(tmp_path, text):
    (tmp_path / "secret.txt").write_text("secret")
    folder = tmp_path / "voc"
    folder.mkdir()
    (folder / "a.xml").write_text(text.replace("{secret}", (tmp_path / "secret.txt").as_uri()))
    with pytest.raises(ValueError, match=r"a.xml: is no XML") as caught:
        read_annotations(folder)
    assert "secret" not in str(caught.value).replace(str(tmp_path), "")


@pytest.mark.parametrize(
    "name", ["a\x0bb", "a\x85b", "a\u2028b", "a\nb", 'a"b', "a[b]", "-a", "a,b"]
)
def test_file_names_in_tables_are_of_any_characters(tmp_path, name):
    quoted = name.replace('"', '""')
    (tmp_path / "a.csv").write_text(f'file,x0,y0,x1,y1\n"{quoted}.png",1,2,3,4\n', encoding="utf-8")
    assert read_annotations(tmp_path / "a.csv").keys() == {name}


def test_a_mask_that_is_a_bomb_is_named(tmp_path):
    Image.new("1", (20_000, 20_000)).save(tmp_path / "a.png")
    with pytest.raises(
        ValueError, match=r"a.png: has more than .* million pixels; make it smaller"
    ):
        read_annotations(tmp_path)


def test_masks_of_broken_bytes_are_named(tmp_path):
    noise = np.random.default_rng(0).integers(0, 255, (9, 9), np.uint8)
    for kind in ("png", "gif", "bmp", "tiff"):
        path = tmp_path / f"a.{kind}"
        Image.fromarray(noise).save(path)
        whole = path.read_bytes()
        for end in range(1, len(whole) - 20, 5):
            path.write_bytes(whole[:end])
            with pytest.raises(ValueError, match=f"a.{kind}: is (no|a corrupt) mask image"):
                read_annotations(tmp_path)
        path.unlink()
