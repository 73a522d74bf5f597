from __future__ import annotations

import contextlib
import importlib.util
import os
import random
import shutil
import sys
from collections.abc import Iterator

import hypothesis
import networks
import numpy as np
import pytest

os.environ.setdefault("MPLBACKEND", "agg")
os.environ.setdefault("KERAS_BACKEND", "jax")
if shutil.which("nvidia-smi"):  # JAX would multiply in TF32 there, of ten bits
    os.environ.setdefault("JAX_DEFAULT_MATMUL_PRECISION", "highest")

hypothesis.settings.register_profile("gradcam", deadline=None, max_examples=40, derandomize=True)
hypothesis.settings.load_profile("gradcam")

NEEDS = {
    "numpy": "numpy",
    "torch": "torch",
    "jax": "jax",
    "linen": "flax",
    "nnx": "flax",
    "equinox": "equinox",
    "haiku": "haiku",
    "keras": "keras",
}


@pytest.fixture(autouse=True)
def same_every_time() -> None:
    """Weights and noise that a test draws from the global generators are the same in every run and
    in any order.
    """
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002, the legacy generator is what third parties draw from
    if "torch" in sys.modules:
        sys.modules["torch"].manual_seed(0)


@pytest.fixture(params=networks.BACKENDS)
def case(request: pytest.FixtureRequest) -> Iterator[networks.Case]:
    """The same network in every backend, in float64."""
    yield from _case(request)


@pytest.fixture(params=["numpy", "torch", "jax-nchw", "linen"])
def some_case(request: pytest.FixtureRequest) -> Iterator[networks.Case]:
    """One of each engine, for what does not depend on the adapter."""
    yield from _case(request)


def _case(request: pytest.FixtureRequest) -> Iterator[networks.Case]:
    needed = NEEDS[request.param.split("-")[0]]
    if importlib.util.find_spec(needed) is None:
        pytest.skip(f"{needed} is not installed")
    with contextlib.ExitStack() as stack:
        if needed not in ("numpy", "torch") and (needed, os.environ["KERAS_BACKEND"]) != (
            "keras",
            "torch",
        ):
            import jax

            stack.enter_context(jax.enable_x64(True))
        yield networks.case(request.param)
