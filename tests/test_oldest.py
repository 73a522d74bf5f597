"""The lower bounds of pyproject.toml are those that `make oldest` tests with."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
UNTRIED = {
    "torch",
    "gradio",
    "hatchling",
    "imageio-ffmpeg",
    "latex2mathml",
    "mkdocs-material",
    "ipykernel",
    "ipywidgets",
    "mypy",
    "nbconvert",
    "onnx",
    "onnxruntime",
    "onnxscript",
    "ruff",
    "duckdb",
    "mlflow-skinny",
    "moto",
    "pytorch-lightning",
    "tensorboard",
    "pandas",
    "polars",
    "ray",
    "s3fs",
    "selenium",
}
"""No older build of torch for the CPU is to be had, and Ray is as large; the others run no code of
the library.
"""


def test_the_oldest_versions_are_the_lower_bounds():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    listed = [project["dependencies"], *project["optional-dependencies"].values()]
    bounds = dict(re.findall(r"([\w-]+)>=([\d.]+)", " ".join(map(" ".join, listed))))
    pins = dict(re.findall(r"^([\w-]+)==([\d.]+)", (ROOT / "oldest.txt").read_text(), re.MULTILINE))
    makefile = (ROOT / "Makefile").read_text()
    pins |= re.findall(r"/(numpy|scipy)==([\d.]+)/", makefile)  # tried without JAX
    assert bounds.keys() - UNTRIED == pins.keys()
    for name, version in pins.items():
        assert re.fullmatch(re.escape(bounds[name]) + r"(\.0)*", version), name
