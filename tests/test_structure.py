"""The shape of the package: who imports whom, what importing costs, what is public."""

from __future__ import annotations

import ast
import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import gradcam

ROOT = Path(gradcam.__file__).parent
FRAMEWORKS = {"torch", "jax", "flax", "jaxlib", "equinox", "haiku", "keras"}
ARRAYS = {"numpy", "array_api_compat", "gradcam"}


def modules():
    return sorted(ROOT.rglob("*.py"))


def name_of(path):
    parts = path.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path, top_level=False):
    """Modules that a file imports: all, or only those that importing it imports."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_level else list(ast.walk(tree))
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def roots(names):
    return {name.split(".")[0] for name in names if name} - set(sys.stdlib_module_names)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_no_framework_outside_backends_and_zoo(path):
    if path.relative_to(ROOT).parts[0] not in ("backends", "zoo"):
        assert not roots(imports(path)) & FRAMEWORKS


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_array_math_imports_numpy_and_the_array_api_alone(path):
    name = name_of(path)
    if name.startswith(("gradcam.methods", "gradcam.maps", "gradcam.layouts", "gradcam._arrays")):
        assert roots(imports(path)) <= ARRAYS
        ours = {n for n in imports(path) if n.startswith("gradcam.")}
        assert all(
            n.startswith(("gradcam._", "gradcam.methods", "gradcam.maps", "gradcam.layouts"))
            for n in ours
        )


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_backends_import_the_seam_alone(path):
    if path.relative_to(ROOT).parts[0] == "backends":
        seam = ("model", "layouts", "_types", "_arrays", "targets", "backends", "methods")
        ours = {name.split(".")[1] for name in imports(path) if name.startswith("gradcam.")}
        assert ours <= set(seam)


@pytest.mark.parametrize("path", modules(), ids=name_of)
def test_nothing_imports_the_command_line(path):
    if not name_of(path).startswith("gradcam.cli"):
        assert not any(name.startswith("gradcam.cli") for name in imports(path))


def loaded_by(code):
    command = f"{code}; import sys; print(*sorted({{m.split('.')[0] for m in sys.modules}}))"
    return set(
        subprocess.run(
            [sys.executable, "-c", command], capture_output=True, text=True, check=True
        ).stdout.split()
    )


def test_importing_gradcam_imports_no_framework_and_no_pictures():
    heavy = FRAMEWORKS | {"matplotlib", "PIL", "scipy", "rich", "typer"}
    assert not loaded_by("from gradcam import *") & heavy
    assert "torch" in loaded_by("import gradcam.backends.torch")  # this test would notice


def test_importing_gradcam_imports_nothing_else():
    """What it costs is held by what is loaded, not by a clock: the rest comes when it is asked for."""
    code = (
        "import sys; before = set(sys.modules); import gradcam; print(*(set(sys.modules) - before))"
    )
    new = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout.split()
    assert {name for name in new if name.split(".")[0] not in sys.stdlib_module_names} == {
        "gradcam"
    }


def test_every_public_name_is_there_when_it_is_asked_for():
    assert set(gradcam.__all__) <= set(dir(gradcam))
    for name, home in gradcam._HOME.items():
        assert getattr(gradcam, name) is getattr(importlib.import_module(f"gradcam.{home}"), name)
    assert set(gradcam._HOME) <= set(gradcam.__all__)
    with pytest.raises(AttributeError, match="module 'gradcam' has no attribute 'explian'"):
        _ = gradcam.explian


def test_explaining_numpy_functions_imports_no_framework():
    code = (
        "import numpy as np, gradcam; gradcam.explain(gradcam.Split(lambda x: x, lambda a: a.mean((2, 3))), "
        "np.ones((1, 2, 3, 3)), target=0)"
    )
    assert not loaded_by(code) & FRAMEWORKS


def test_all_is_what_is_public():
    for info in pkgutil.walk_packages([str(ROOT)], "gradcam."):
        if info.name.startswith("gradcam.zoo.demo"):
            continue
        module = importlib.import_module(info.name)
        for name in getattr(module, "__all__", []):
            assert hasattr(module, name), f"{info.name}.{name}"
    for name in gradcam.__all__:
        assert getattr(gradcam, name).__doc__ or name == "METHODS", name


def test_public_functions_have_docstrings():
    for path in modules():
        tree = ast.parse(path.read_text(encoding="utf-8"))
        assert ast.get_docstring(tree), path
        public = (
            importlib.import_module(name_of(path)).__dict__.get("__all__", [])
            if "demo" not in str(path)
            else []
        )
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and node.name in public:
                assert ast.get_docstring(node) or "backends" in str(path) or "zoo" in str(path), (
                    f"{path}: {node.name}"
                )


def test_what_serves_no_model_says_what_would():
    with pytest.raises(
        TypeError,
        match=r"`model` of type builtins.int is served by no backend; pass a torch.nn.Module",
    ):
        gradcam.explain(3, __import__("numpy").ones((1, 3, 4, 4)))
    with pytest.raises(TypeError, match=r"`inputs` must be an array \(N, ...\)"):
        gradcam.explain(lambda x: x, "photo.jpg")
