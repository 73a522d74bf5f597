"""The notebooks run from their first cell to their last, and show pictures and bars."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parent.parent / "docs" / "notebooks"
LARGEST = 700_000
"""Bytes, with what a notebook shows."""


@pytest.mark.parametrize("name", ["pytorch", "flax", "keras"])
def test_a_notebook_runs_and_shows_what_it_says(name, tmp_path):
    nbformat = pytest.importorskip("nbformat", reason="needs nbformat and nbconvert")
    pytest.importorskip("nbconvert", reason="needs nbconvert")
    pytest.importorskip("ipykernel", reason="needs ipykernel")
    path = NOTEBOOKS / f"{name}.ipynb"
    assert path.stat().st_size < LARGEST
    shutil.copy(path, tmp_path)
    command = [sys.executable, "-m", "nbconvert", "--to", "notebook", "--execute", "--inplace"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}  # other tests run beside it
    done = subprocess.run(
        [*command, path.name], cwd=tmp_path, env=env, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    for book in (nbformat.read(path, 4), nbformat.read(tmp_path / path.name, 4)):
        outputs = [one for cell in book.cells for one in cell.get("outputs", [])]
        assert any("image/jpeg" in one.get("data", {}) for one in outputs)
        assert not [one for one in outputs if one.get("name") == "stderr"]
