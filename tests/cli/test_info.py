"""`gradcam info`: what is installed, and what is missing."""

from __future__ import annotations

import importlib.metadata
import sys
import tomllib
from pathlib import Path

import pytest
from typer.testing import CliRunner

import gradcam
from gradcam.cli import installation, main
from gradcam.cli.commands import app

PROJECT = tomllib.loads((Path(__file__).parents[2] / "pyproject.toml").read_text())["project"]


def test_info_says_versions_and_devices(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    found = CliRunner().invoke(app, ["info"])
    assert found.exit_code == 0, found.output
    assert f"gradcam {gradcam.__version__}" in found.output
    for package in ("torch", "jax", "keras"):
        if installation.installed(package):
            assert importlib.metadata.version(package) in found.output


def test_the_extras_are_those_of_the_project():
    found = installation.extras()
    assert set(found) == set(PROJECT["optional-dependencies"])
    assert {"matplotlib", "pillow", "nibabel"} <= set(found["medical"])
    assert {"jax", "jaxlib", "flax"} <= set(found["flax"])
    assert "gradcam" not in {package for packages in found.values() for package in packages}


def test_what_is_missing_is_named_with_how_to_get_it(monkeypatch):
    monkeypatch.setenv("COLUMNS", "200")
    real = installation.installed
    monkeypatch.setattr(
        installation, "installed", lambda name: None if name in ("nibabel", "torch") else real(name)
    )
    lines = CliRunner().invoke(app, ["info"]).output.splitlines()
    (torch,) = [line for line in lines if line.startswith("│ torch ") and "-" in line][:1]
    assert 'pip install "gradcam[torch]"' in torch
    (medical,) = [line for line in lines if line.startswith("│ medical")]
    assert "nibabel" in medical
    assert 'pip install "gradcam[medical]"' in medical


def test_a_framework_that_cannot_be_imported_is_no_crash(monkeypatch):
    def broken(name):
        raise ImportError("libcudart.so is missing")

    monkeypatch.setattr(installation.importlib, "import_module", broken)
    assert installation._devices("torch") == "cannot be imported: libcudart.so is missing"


def test_keras_without_a_backend_says_what_to_set(monkeypatch):
    monkeypatch.delenv("KERAS_BACKEND", raising=False)
    monkeypatch.setattr(installation.importlib.util, "find_spec", lambda name: None)
    assert installation._devices("keras").startswith('set KERAS_BACKEND to "torch" or "jax"')


def test_without_the_packages_of_the_command_line_info_answers_all_the_same(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "gradcam.cli.commands", None)  # as if it could not be imported
    monkeypatch.setattr(sys, "argv", ["gradcam", "info"])
    main()
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith(f"gradcam {gradcam.__version__}")
    assert any(line.startswith("torch ") for line in lines)
    assert any(line.startswith("medical ") for line in lines)
    monkeypatch.setattr(sys, "argv", ["gradcam", "methods"])
    with pytest.raises(SystemExit, match=r'pip install "gradcam\[cli\]"'):
        main()
