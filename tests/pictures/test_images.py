from __future__ import annotations

import contextlib
import io
import os
import tempfile
import warnings
from pathlib import Path

import hypothesis
import numpy as np
import pytest
from hypothesis import strategies as st
from PIL import Image, PngImagePlugin

from gradcam.evaluation.annotation_files import read_mask
from gradcam.pictures import images

EXAMPLES = int(os.environ.get("GRADCAM_EXAMPLES", "200"))


@pytest.fixture
def picture():
    """16 x 8, red at the left, blue at the right."""
    array = np.zeros((8, 16, 3), np.uint8)
    array[:, :8, 0] = array[:, 8:, 2] = 255
    return Image.fromarray(array)


@pytest.mark.parametrize("suffix", ["png", "jpg", "webp", "bmp", "tif", "gif"])
def test_common_kinds(tmp_path, picture, suffix):
    picture.save(tmp_path / f"a.{suffix}")
    found = images.read(tmp_path / f"a.{suffix}")
    assert found.shape == (8, 16, 3)
    assert found.dtype == np.uint8
    assert found[4, 2, 0] > 200 > 60 > found[4, 2, 2]


@pytest.mark.parametrize("mode", ["L", "RGBA", "P", "CMYK", "LA", "1"])
def test_modes(tmp_path, picture, mode):
    path = tmp_path / ("a.tif" if mode == "CMYK" else "a.png")
    picture.convert(mode).save(path)
    assert images.read(path).shape == (8, 16, 3)


def test_exif_rotation_is_applied(tmp_path, picture):
    exif = Image.Exif()
    exif[0x0112] = 6  # turn by 90 degrees clockwise to see it upright
    picture.save(tmp_path / "a.jpg", exif=exif)
    found = images.read(tmp_path / "a.jpg")
    assert found.shape == (16, 8, 3)
    assert found[2, 4, 0] > 200  # what was left is on top


def test_sixteen_bits_are_scaled_not_clipped(tmp_path):
    Image.fromarray(np.array([[0, 32768, 65535]], np.uint16)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(images.read(tmp_path / "a.png")[0, :, 0], [0, 128, 255])


def test_transparency_is_laid_on_white(tmp_path):
    Image.fromarray(np.zeros((2, 2, 4), np.uint8)).save(tmp_path / "a.png")
    np.testing.assert_array_equal(images.read(tmp_path / "a.png"), 255)


def test_broken_files_are_errors_that_name_them(tmp_path, picture, monkeypatch):
    with pytest.raises(FileNotFoundError, match=r"none.jpg: no such file"):
        images.read(tmp_path / "none.jpg")
    with pytest.raises(ValueError, match="is a folder"):
        images.read(tmp_path)
    (tmp_path / "empty.jpg").write_bytes(b"")
    with pytest.raises(ValueError, match=r"empty.jpg: is empty"):
        images.read(tmp_path / "empty.jpg")
    (tmp_path / "text.jpg").write_text("hello")
    with pytest.raises(ValueError, match=r"text.jpg: is no image"):
        images.read(tmp_path / "text.jpg")
    picture.resize((200, 200)).save(tmp_path / "whole.jpg")
    whole = (tmp_path / "whole.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match=r"half.jpg: is a corrupt image"):
        images.read(tmp_path / "half.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(
        ValueError, match=r"whole.jpg: has more than 0 million pixels; make it smaller"
    ):
        images.read(tmp_path / "whole.jpg")


POSTSCRIPT = b"""%!PS-Adobe-3.0 EPSF-3.0
%%BoundingBox: 0 0 10 10
%%EndComments
showpage
%%EOF
"""


def test_a_photograph_runs_no_program(tmp_path, monkeypatch):
    """Pillow hands PostScript, whatever the file is called, to the `gs` on the path."""
    (tmp_path / "gs").write_text(f"#!/bin/sh\ntouch {tmp_path / 'pwned'}\n")
    (tmp_path / "gs").chmod(0o755)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    (tmp_path / "innocent.jpg").write_bytes(POSTSCRIPT)
    for read in (images.read, read_mask):
        with pytest.raises(ValueError, match=r"innocent.jpg: is no .*image of a known kind"):
            read(tmp_path / "innocent.jpg")
    with contextlib.suppress(Exception), Image.open(tmp_path / "innocent.jpg") as opened:
        assert opened.format == "EPS"  # what it would be taken for
    assert not (tmp_path / "pwned").exists()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_refused(tmp_path, value):
    Image.fromarray(np.array([[0.5, value]], np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(ValueError, match=r"a.tif: has pixels that are NaN or infinite"):
        images.read(tmp_path / "a.tif")


def test_pixels_are_counted_before_they_are_decoded(tmp_path, monkeypatch):
    Image.new("1", (9400, 9400)).save(tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size < 20_000
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda self: pytest.fail("decoded"))
    for read in (images.read, read_mask):
        with pytest.raises(ValueError, match=r"a.png: has more than 64 million pixels; make it"):
            read(tmp_path / "a.png")


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "a.png")
    with pytest.raises(ValueError, match=r"a.png: is no file"):
        images.read(tmp_path / "a.png")


@pytest.fixture(scope="module")
def originals():
    """A file of each format."""
    picture = Image.fromarray(np.random.default_rng(0).integers(0, 255, (9, 7, 3), np.uint8))
    found = {}
    for kind in ("png", "jpeg", "webp", "bmp", "tiff", "gif", "ppm", "tga"):
        buffer = io.BytesIO()
        picture.save(buffer, kind)
        found[kind] = buffer.getvalue()
    return found


@hypothesis.settings(max_examples=EXAMPLES, deadline=None)
@hypothesis.given(data=st.data())
def test_broken_bytes_are_a_picture_or_an_error_that_names_the_file(data, originals):
    whole = originals[data.draw(st.sampled_from(sorted(originals)))]
    start = data.draw(st.integers(0, len(whole)))
    end = data.draw(st.integers(start, min(start + 8, len(whole))))
    broken = whole[:start] + data.draw(st.binary(max_size=8)) + whole[end:]
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")  # Pillow's own, of what it makes of the bytes
        path = Path(folder, "a.jpg")
        path.write_bytes(broken[: data.draw(st.integers(1, len(broken) + 1))])
        said = f"{path}: read"
        try:
            assert images.read(path).dtype == np.uint8
        except ValueError as error:
            said = str(error)
    assert said.startswith(f"{path}: ")


def test_crop_takes_pillow_images_upright_and_grey_ones():
    wide = np.zeros((300, 400, 3), np.uint8)
    wide[:, 200:] = 255
    turned = Image.fromarray(np.rot90(wide, 1).copy())
    exif = Image.Exif()
    exif[0x0112] = 6  # to be turned by a quarter, clockwise
    turned.info["exif"] = exif.tobytes()
    np.testing.assert_array_equal(images.crop(turned), images.crop(wide))
    np.testing.assert_array_equal(images.crop(wide[..., 0]), images.crop(wide))


def test_crop_is_the_centre():
    array = np.zeros((300, 600, 3), np.uint8)
    array[:, 200:400] = 255  # the middle third
    found = images.crop(array)
    assert found.shape == (224, 224, 3)
    # shorter side 300 -> 256, so the white third is 171 wide, in the middle of 224
    assert found[112, 112, 0] == 255
    assert found[112, 5, 0] == 0
    assert abs(int((found[112, :, 0] > 127).sum()) - 171) <= 1
    assert images.crop(np.zeros((10, 40, 3), np.uint8)).shape == (224, 224, 3)
