"""The wheel, made of the sdist, in an environment that has nothing but one framework and `images`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import tarfile
import venv
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", README, re.MULTILINE | re.DOTALL)
IMPORTED = re.compile(r"^(?:from|import) (.+)$", re.MULTILINE)
MORE = ("gradcam.run(",)
"""What needs another extra."""
FRAMEWORKS = ("torch", "jax", "flax", "equinox", "haiku", "keras")

RUN = """
import json, os, sys, tempfile, warnings
import gradcam
assert not gradcam.__file__.startswith(sys.argv[1]), gradcam.__file__
warnings.simplefilter("ignore", gradcam.BlankMapWarning)
for block in json.load(sys.stdin):
    os.chdir(tempfile.mkdtemp())
    exec(compile(block, "README.md", "exec"), {"__name__": "readme"})
for name in sys.argv[2].split():
    assert name not in sys.modules, name
"""


def run(*command, **options):
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "COV"))}
    done = subprocess.run(
        [*map(str, command)], capture_output=True, text=True, env=environment, **options
    )
    assert done.returncode == 0, f"{done.stdout[-3000:]}\n{done.stderr[-3000:]}"
    return done.stdout


def needs(block):
    """The frameworks that a block imports."""
    lines = " ".join(IMPORTED.findall(block))
    return {name for name in FRAMEWORKS if re.search(rf"\b{name}\b", lines)}


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """The sdist, and the wheel that is built of what the sdist holds."""
    folder = tmp_path_factory.mktemp("built")
    run(sys.executable, "-m", "hatchling", "build", "-t", "sdist", "-d", folder, cwd=ROOT)
    (sdist,) = folder.glob("*.tar.gz")
    with tarfile.open(sdist) as file:
        file.extractall(folder, filter="data")
    source = folder / sdist.name.removesuffix(".tar.gz")
    run(sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", folder, cwd=source)
    (wheel,) = folder.glob("*.whl")
    return source, wheel


def test_the_wheel_holds_the_package_and_the_sdist_all_else(built):
    source, wheel = built
    with zipfile.ZipFile(wheel) as file:
        names = set(file.namelist())
    package = {p for p in (ROOT / "gradcam").rglob("*") if p.is_file() and p.suffix != ".pyc"}
    expected = {path.relative_to(ROOT).as_posix() for path in package}
    assert {name for name in names if ".dist-info/" not in name} == expected
    assert any(name.endswith("licenses/LICENSE") for name in names)
    for name in ("README.md", "CHANGELOG.md", "Makefile", "constraints.txt", "tests", "docs"):
        assert (source / name).exists(), name


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_the_readme_runs_with_one_framework_alone(built, framework, tmp_path):
    _, wheel = built
    venv.create(tmp_path / "alone", with_pip=True)
    binaries = tmp_path / "alone" / ("Scripts" if os.name == "nt" else "bin")
    pip = (binaries / "python", "-m", "pip", "install", "--quiet", "--no-compile")
    run(*pip, "--constraint", ROOT / "constraints.txt", f"{wheel}[{framework},images]")
    blocks = []
    for block in BLOCKS:
        if needs(block) <= {framework} and not any(call in block for call in MORE):
            blocks.append(block)
    assert any(needs(block) for block in blocks)
    others = " ".join({"torch", "jax"} - {framework})
    command = (binaries / "python", "-W", "error::DeprecationWarning:gradcam", "-c", RUN, ROOT)
    run(*command, others, input=json.dumps(blocks), cwd=tmp_path)
    with_more = (
        "import gradcam\ntry: gradcam.run(abs, [1], 'run')\nexcept ImportError as e: print(e)"
    )
    said = run(binaries / "python", "-c", with_more, cwd=tmp_path)
    assert 'pip install "gradcam[runs]"' in said
    said = run(binaries / "gradcam", "info", cwd=tmp_path)
    assert re.search(rf"^{framework} +\d", said, re.MULTILINE)
    assert re.search(rf'^{others} +- +pip install "gradcam\[{others}\]"$', said, re.MULTILINE)
    assert re.search(r'^cli +rich, typer +pip install "gradcam\[cli\]"$', said, re.MULTILINE)
