"""Maps over words, films and NIfTI files, read back with other libraries."""

from __future__ import annotations

import io
import re
import subprocess

import numpy as np
import pytest
from PIL import Image

from gradcam import Explanation


def over_line(values, **options):
    options = {"labels": ["sad", "glad"], "method": "grad-cam", "model": "Net"} | options
    return Explanation(np.array([values]), np.ones(1), np.array([1]), layer="last", **options)


WORDS = ["a", "<b>good</b>", "film", "."]


def test_words_are_printed_with_bars():
    e = over_line([0.0, 4.0, 1.0, -2.0])
    head, text = str(e.over_words(WORDS)).splitlines()
    assert head == "glad, score 1; grad-cam of Net at 'last'; the strongest is 4"
    assert text == "a <b>good</b>█ film▂ -.▄"


def test_words_in_a_page_are_text_and_as_dark_as_their_evidence():
    html = over_line([0.0, 4.0, 1.0, 0.5]).over_words(WORDS)._repr_html_()
    assert "&lt;b&gt;good&lt;/b&gt;" in html
    assert "<b>" not in html
    backgrounds = [part[:7] for part in html.split("background:")[1:]]
    greys = [sum(int(colour[i : i + 2], 16) for i in (1, 3, 5)) for colour in backgrounds]
    assert greys[0] > greys[3] > greys[2] > greys[1]
    assert min(greys) > 300  # black text stays readable


def test_words_in_a_terminal_have_colours():
    from rich.console import Console

    out = io.StringIO()
    console = Console(file=out, force_terminal=True, color_system="truecolor", width=200)
    console.print(over_line([0.0, 4.0, 1.0, 0.5]).over_words(WORDS))
    assert "<b>good</b>" in out.getvalue()
    assert "48;2;" in out.getvalue()


def test_a_blank_map_over_words_says_so():
    words = over_line([0.0, 0.0]).over_words(["a", "b"])
    assert str(words) == (
        "glad, score 1; grad-cam of Net at 'last'; no evidence: the map is 0 everywhere\na b"
    )


def test_there_is_one_token_for_each_position():
    with pytest.raises(ValueError, match=r"`tokens` has 2, but the map has the positions \(4,\)"):
        over_line([0.0, 4.0, 1.0, 0.5]).over_words(["a", "b"])
    with pytest.raises(ValueError, match="none of `sample` 1 and `target` 0"):
        over_line([0.0, 4.0]).over_words(["a", "b"], sample=1)


# ------------------------------------------------------------------------------------------- films


def scan(maps=None):
    maps = np.random.default_rng(0).random((1, 3, 4, 5)) if maps is None else maps
    return Explanation(
        maps, np.ones(1), np.zeros(1, int), size=(6, 8, 10), layer="l", method="grad-cam"
    )


@pytest.mark.parametrize(("axis", "count"), [(0, 6), (1, 8), (-1, 10)])
def test_a_film_has_a_picture_for_each_slice(tmp_path, axis, count):
    path = scan().film(tmp_path / "a.gif", axis=axis)
    with Image.open(path) as film:
        assert film.n_frames == count
        assert min(film.size) >= 280


def test_a_film_shows_the_volume_where_there_is_no_evidence(tmp_path):
    maps = np.zeros((1, 6, 8, 10))
    maps[0, 2, 0, 0] = 1
    volume = np.zeros((6, 8, 10))
    volume[:, 4:, :] = 1
    path = scan(maps).film(tmp_path / "a.gif", volume)
    with Image.open(path) as film:
        film.seek(2)
        frame = np.asarray(film.convert("RGB"))
        film.seek(3)
        after = np.asarray(film.convert("RGB"))
    left = (frame.shape[1] - 350) // 2  # the slice of 8 x 10 pixels, 35 times as large
    np.testing.assert_array_equal(frame[270, left + 175], 255)
    assert frame[5, left + 5, 0] > 100
    np.testing.assert_array_equal(after[5, left + 5], 0)


def test_frames_in_colour(tmp_path):
    video = np.zeros((6, 8, 10, 3))
    video[..., 0] = 1
    maps = np.zeros((1, 6, 8, 10))
    maps[0, 0, 0, 0] = 1
    with Image.open(scan(maps).film(tmp_path / "a.gif", video)) as film:
        film.seek(3)
        middle = np.asarray(film.convert("RGB"))[140, film.width // 2]
    np.testing.assert_array_equal(middle, [255, 0, 0])


def test_a_film_as_mp4(tmp_path):
    imageio_ffmpeg = pytest.importorskip("imageio_ffmpeg", reason="no writer of MP4 is installed")
    path = scan().film(tmp_path / "a.mp4", per_second=4)
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path), "-f", "rawvideo", "-pix_fmt"]
    done = subprocess.run([*command, "rgb24", "-"], capture_output=True, check=True)
    size = re.search(rb"(\d{2,})x(\d{2,})", done.stderr)
    assert len(done.stdout) == 6 * 3 * int(size[1]) * int(size[2])
    assert b"4 fps" in done.stderr
    with pytest.raises(OSError, match="ffmpeg could not write it"):
        scan().film(tmp_path / "no" / "a.mp4")


def test_films_that_cannot_be(tmp_path):
    with pytest.raises(ValueError, match=r"`path` must end with .gif or .mp4"):
        scan().film(tmp_path / "a.avi")
    with pytest.raises(ValueError, match="`axis` must be one of the map's three, but is 3"):
        scan().film(tmp_path / "a.gif", axis=3)
    with pytest.raises(ValueError, match="`per_second` must be more than 0"):
        scan().film(tmp_path / "a.gif", per_second=0)
    with pytest.raises(ValueError, match="a film needs a map over three axes, but this has 1"):
        over_line([1.0, 2.0]).film(tmp_path / "a.gif")
    assert not list(tmp_path.iterdir())


# ------------------------------------------------------------------------------------------- NIfTI


def test_a_nifti_file_lies_over_its_scan(tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
    affine = np.array([[2.0, 0, 0, -10], [0, 0, 3, 5], [0, -1.5, 0, 7], [0, 0, 0, 1]])
    image = nibabel.Nifti1Image(np.zeros((10, 8, 6), np.int16), affine)
    image.header.set_xyzt_units("mm", "sec")
    nibabel.save(image, tmp_path / "scan.nii.gz")
    # the model's input was (slice, row, column): the scan's axes backwards
    e = scan()
    path = e.nifti(tmp_path / "map.nii.gz", tmp_path / "scan.nii.gz", axes=(2, 1, 0))
    found = nibabel.load(path)
    np.testing.assert_array_equal(found.affine, affine)
    assert found.header.get_xyzt_units()[0] == "mm"
    expected = np.asarray(e.heatmaps((6, 8, 10)))[0].T * e.shown()[0][0].extent((6, 8, 10))
    np.testing.assert_allclose(found.get_fdata(), expected, rtol=1e-6)
    assert found.get_data_dtype() == np.float32
    same = e.nifti(tmp_path / "b.nii", image, axes=(2, 1, 0))
    np.testing.assert_array_equal(nibabel.load(same).get_fdata(), found.get_fdata())


def test_nifti_files_that_cannot_be(tmp_path):
    nibabel = pytest.importorskip("nibabel", reason="nibabel is not installed")
    image = nibabel.Nifti1Image(np.zeros((6, 8, 10)), np.eye(4))
    with pytest.raises(
        ValueError, match=r"`axes` must be an order of 0, 1 and 2, but is \(0, 0, 1\)"
    ):
        scan().nifti(tmp_path / "a.nii", image, axes=(0, 0, 1))
    with pytest.raises(ValueError, match=r"`path` must end with .nii or .nii.gz"):
        scan().nifti(tmp_path / "a.img", image)
    with pytest.raises(ValueError, match="a NIfTI file needs a map over three axes, not 1"):
        over_line([1.0, 2.0]).nifti(tmp_path / "a.nii", image)
    with pytest.raises(ValueError, match="`scan` must have three axes"):
        scan().nifti(tmp_path / "a.nii", nibabel.Nifti1Image(np.zeros((6, 8)), np.eye(4)))
