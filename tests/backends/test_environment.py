"""The rows of frameworks: versions, accelerators and their memory, also on machines that have none."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from gradcam import backends
from gradcam.backends import environment

ROOT = Path(__file__).parents[2]


def test_every_framework_of_the_extras_is_a_row():
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"][
        "optional-dependencies"
    ]
    names = set(extras) - {
        "images",
        "cli",
        "demo",
        "runs",
        "ray",
        "zarr",
        "test",
        "app",
        "docs",
        "lightning",
        "medical",
        "mlflow",
        "notebook",
        "tensorboard",
        "video",
    }  # what is left is a framework
    required = {re.split(r"[><=\[]", line)[0] for name in names for line in extras[name]}
    rows = {row.package for row in environment.FRAMEWORKS}
    assert rows == required - {"gradcam", "jaxlib"}


def test_versions_are_of_what_is_loaded():
    code = "from gradcam.backends import versions; print(*versions())"
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    ).stdout
    assert done.split() == ["python", "gradcam", "numpy"]


@pytest.mark.parametrize(("module", "package"), [("equinox", "equinox"), ("haiku", "dm-haiku")])
def test_versions_are_those_of_the_packages(module, package):
    pytest.importorskip(module)
    from importlib.metadata import version

    assert backends.versions()[package] == version(package)


def test_a_package_that_is_not_installed_has_its_modules_version(monkeypatch):
    monkeypatch.setitem(sys.modules, "tinygrad", SimpleNamespace(__version__="0.1"))
    row = environment.Framework("tinygrad", "no such package of that name")
    monkeypatch.setattr(environment, "FRAMEWORKS", (row,))
    assert backends.versions()["no such package of that name"] == "0.1"
    assert backends.devices() == []
    assert backends.memory_meter(np.ones(3)) is None


@pytest.mark.parametrize("module", ["numpy", "torch", "jax.numpy"])
def test_arrays_on_the_host_have_no_meter(module):
    assert backends.memory_meter(on_host(module)) is None


def on_host(module):
    """An array on the host, also on a machine with a GPU, where JAX would make it there."""
    xp = pytest.importorskip(module)
    if module != "jax.numpy":
        return xp.ones((1, 2))
    import jax

    return jax.device_put(np.ones((1, 2)), jax.devices("cpu")[0])


def test_torch_on_an_accelerator():
    used = {"now": 100, "peak": 500}

    def reset(device):
        assert device == "cuda:1"
        used["peak"] = used["now"]

    class Tensor:
        is_cuda, device = True, "cuda:1"

    cuda = SimpleNamespace(
        is_available=lambda: True,
        device_count=lambda: 2,
        get_device_name=lambda n: f"GPU {n}",
        reset_peak_memory_stats=reset,
        memory_allocated=lambda device: used["now"],
        max_memory_allocated=lambda device: used["peak"],
    )
    torch = SimpleNamespace(cuda=cuda, Tensor=Tensor)
    assert environment._torch_devices(torch) == ["GPU 0", "GPU 1"]
    assert environment._torch_meter(torch, np.ones(3)) is None
    meter = environment._torch_meter(torch, Tensor())
    assert meter.start() == 100
    assert meter.peak() == 100
    used["peak"] = 170
    assert meter.peak() == 170


def test_products_in_tf32_are_told_by_the_device_and_the_frameworks_settings():
    numpy_array, on_cpu = np.ones(3), SimpleNamespace(is_cuda=False)
    on_gpu = SimpleNamespace(is_cuda=True)

    class Unclear:
        @property
        def allow_tf32(self):
            raise RuntimeError("cuDNN conv and cuDNN RNN have different TF32 flags")

    def rounds(array, cudnn, matmul=False):
        flags = [SimpleNamespace(allow_tf32=flag) for flag in (cudnn, matmul)]
        library = SimpleNamespace(cudnn=flags[0], cuda=SimpleNamespace(matmul=flags[1]))
        if cudnn is None:
            library.cudnn = Unclear()
        torch = SimpleNamespace(Tensor=SimpleNamespace, backends=library)
        return environment._torch_rounds(torch, array)

    assert [rounds(array, True) for array in (numpy_array, on_cpu, on_gpu)] == [0, 0, 1]
    assert [rounds(on_gpu, *flags) for flags in ((False,), (False, True), (None,))] == [0, 1, 1]

    def of_jax(platform, precision):
        array = SimpleNamespace(devices=lambda: (SimpleNamespace(platform=platform),))
        config = SimpleNamespace(jax_default_matmul_precision=precision)
        return environment._jax_rounds(SimpleNamespace(Array=SimpleNamespace, config=config), array)

    assert [of_jax("gpu", name) for name in (None, "tensorfloat32", "highest")] == [1, 1, 0]
    assert not of_jax("cpu", None)
    for module in ("numpy", "torch", "jax.numpy"):
        assert not backends.rounds_products(on_host(module))


def test_jax_on_an_accelerator():
    stats = {"bytes_in_use": 100, "peak_bytes_in_use": 500}
    device = SimpleNamespace(platform="gpu", device_kind="GPU", memory_stats=lambda: stats)
    host = SimpleNamespace(platform="cpu", device_kind="cpu", memory_stats=lambda: None)

    class Array:
        def __init__(self, device):
            self.devices = lambda: (device,)

    jax = SimpleNamespace(Array=Array, devices=lambda: [host, device])
    assert environment._jax_devices(jax) == ["GPU"]
    assert environment._jax_meter(jax, np.ones(3)) is None
    assert environment._jax_meter(jax, Array(host)) is None
    meter = environment._jax_meter(jax, Array(device))
    assert (meter.start(), meter.peak()) == (100, 500)
