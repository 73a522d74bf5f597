from __future__ import annotations

import numpy as np
import pytest
from PIL import Image

from gradcam.pictures import images


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
    with pytest.raises(ValueError, match=r"half.jpg: is corrupt"):
        images.read(tmp_path / "half.jpg")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(
        ValueError, match=r"whole.jpg: has more than 0 million pixels; make it smaller"
    ):
        images.read(tmp_path / "whole.jpg")


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
