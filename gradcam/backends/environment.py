"""The environment of a run, as each framework tells it: versions, accelerators, memory in use.

A framework is one row of FRAMEWORKS. A row is used only where its module is loaded already: a
function of it gets that module, and nothing is imported here.
"""

from __future__ import annotations

import functools
import math
import platform
import sys
from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from typing import Any, ParamSpec, TypeVar

import numpy as np

from gradcam._types import Array, Inputs
from gradcam.backends.threads import undisturbed
from gradcam.inputs import first_array
from gradcam.model import HasState, Model

__all__ = [
    "FRAMEWORKS",
    "MemoryMeter",
    "default_array",
    "devices",
    "entry",
    "memory_meter",
    "rounds_products",
    "spread",
    "versions",
]

P = ParamSpec("P")
T = TypeVar("T")


@dataclass(frozen=True)
class MemoryMeter:
    """A device's memory in bytes.

    start: forgets the peak so far, where that is possible, and returns what is in use now.
    peak: the most that was in use since.
    """

    start: Callable[[], float]
    peak: Callable[[], float]


@dataclass(frozen=True)
class Framework:
    """One framework.

    module: its name in sys.modules; package: its name on PyPI.
    devices: module -> names of its accelerators.
    meter: (module, array) -> the memory meter of the accelerator that the array is on; None for
        another array or the host.
    rounds: (module, array) -> whether products of such float32 arrays may have the 10 bits of TF32.
    entered: (module, call) -> the call, undisturbed by settings of the user's own.
    spread: (module, model, inputs) -> the inputs, their samples divided among the devices.
    compiles_frames: whether it may compile any Python frame in which its arrays are used.
    """

    module: str
    package: str
    devices: Callable[[Any], list[str]] = lambda module: []
    meter: Callable[[Any, Array], MemoryMeter | None] = lambda module, array: None
    rounds: Callable[[Any, Array], bool] = lambda module, array: False
    entered: Callable[[Any, Callable[..., Any]], Callable[..., Any]] = lambda module, call: call
    spread: Callable[[Any, Model, Inputs], Inputs] = lambda module, model, inputs: inputs
    compiles_frames: bool = False


def _torch_devices(torch: Any) -> list[str]:
    if not torch.cuda.is_available():
        return []
    return [torch.cuda.get_device_name(n) for n in range(torch.cuda.device_count())]


def _torch_meter(torch: Any, array: Array) -> MemoryMeter | None:
    if not isinstance(array, torch.Tensor) or not array.is_cuda:
        return None
    cuda, device = torch.cuda, array.device

    def start() -> float:
        cuda.reset_peak_memory_stats(device)
        return float(cuda.memory_allocated(device))

    return MemoryMeter(start, lambda: float(cuda.max_memory_allocated(device)))


def _torch_rounds(torch: Any, array: Array) -> bool:
    if not isinstance(array, torch.Tensor) or not array.is_cuda:
        return False
    try:
        return bool(torch.backends.cudnn.allow_tf32 or torch.backends.cuda.matmul.allow_tf32)
    except RuntimeError:  # it was set for some operations, by an interface that has no such flag
        return True


def _torch_uncompiled(torch: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    """Where `torch.compile` is at work, a call at which it breaks its graph."""
    dynamo = sys.modules.get("torch._dynamo")
    if dynamo is None:
        return call
    if torch.compiler.is_compiling():
        dynamo.skip_frame()  # what takes this very frame apart lets go of it, and it runs as it is
    if torch._C._dynamo.eval_frame.get_eval_frame_callback() is None:
        return call
    disabled: Callable[..., Any] = dynamo.disable(call)
    return disabled


def _jax_unguarded(jax: Any, call: Callable[..., Any]) -> Callable[..., Any]:
    """A call inside of which JAX's transfer guard is off.

    `jax.transfer_guard("disallow")` refuses whatever moves between host and device without being
    asked to. Here that is the 2 of `2 * maps`, or maps that become NumPy: all of it is meant.
    """
    if not hasattr(jax, "transfer_guard"):  # it is being imported
        return call

    def unguarded(*args: Any, **kwargs: Any) -> Any:
        with jax.transfer_guard("allow"):
            return call(*args, **kwargs)

    return unguarded


def _jax_devices(jax: Any) -> list[str]:
    return [device.device_kind for device in jax.devices() if device.platform != "cpu"]


def _jax_meter(jax: Any, array: Array) -> MemoryMeter | None:
    if not isinstance(array, jax.Array):
        return None
    device = next(iter(array.devices()))
    if not device.memory_stats():  # a CPU keeps none
        return None
    # JAX cannot reset the peak: it is the call's, or an earlier and higher one
    return MemoryMeter(
        lambda: float(device.memory_stats()["bytes_in_use"]),
        lambda: float(device.memory_stats()["peak_bytes_in_use"]),
    )


def _jax_rounds(jax: Any, array: Array) -> bool:
    if not isinstance(array, jax.Array) or next(iter(array.devices())).platform == "cpu":
        return False
    return jax.config.jax_default_matmul_precision not in ("float32", "highest")


def _jax_spread(jax: Any, model: Model, inputs: Inputs) -> Inputs:
    devices = jax.local_devices()
    arrays = jax.tree.leaves(inputs)
    if len(devices) == 1 or not all(isinstance(array, jax.Array) for array in arrays):
        return inputs
    if isinstance(model, HasState):
        arrays += model.state()[1].values()
    samples = len(first_array(inputs))
    if any(getattr(array, "committed", False) for array in arrays) or any(
        array.shape[:1] != (samples,) for array in jax.tree.leaves(inputs)
    ):
        return inputs
    # As many devices as divide the samples; JAX copies the weights to each.
    mesh = jax.sharding.Mesh(np.array(devices[: math.gcd(samples, len(devices))]), ("samples",))
    spec = jax.sharding.PartitionSpec("samples")
    return jax.device_put(inputs, jax.sharding.NamedSharding(mesh, spec))


FRAMEWORKS = (
    Framework(
        "torch",
        "torch",
        _torch_devices,
        _torch_meter,
        _torch_rounds,
        _torch_uncompiled,
        compiles_frames=True,
    ),
    Framework("jax", "jax", _jax_devices, _jax_meter, _jax_rounds, _jax_unguarded, _jax_spread),
    Framework("flax", "flax"),
    Framework("equinox", "equinox"),
    Framework("haiku", "dm-haiku"),
    Framework("keras", "keras"),
    Framework("onnx", "onnx"),
    Framework("onnxruntime", "onnxruntime"),
)


def _loaded() -> list[tuple[Framework, Any]]:
    """The rows whose modules are loaded, with these modules."""
    return [(row, sys.modules[row.module]) for row in FRAMEWORKS if row.module in sys.modules]


def versions() -> dict[str, str]:
    """The versions of Python, this library, NumPy and every loaded framework, by package."""
    packages = {"gradcam": "gradcam", "numpy": "numpy"}
    packages |= {framework.package: framework.module for framework, _ in _loaded()}
    numbers = {"python": platform.python_version()}
    for package, module in packages.items():
        try:
            numbers[package] = version(package)
        except PackageNotFoundError:  # run from a source tree
            numbers[package] = str(getattr(sys.modules[module], "__version__", "unknown"))
    return numbers


def devices() -> list[str]:
    """The accelerators that the loaded frameworks see, as "framework: device"."""
    names = []
    for framework, module in _loaded():
        names += [f"{framework.module}: {device}" for device in framework.devices(module)]
    return names


def memory_meter(array: Array) -> MemoryMeter | None:
    """The memory meter of the accelerator that an array is on.

    None on the host, and for a device that keeps no count.
    """
    for framework, module in _loaded():
        meter = framework.meter(module, array)
        if meter is not None:
            return meter
    return None


def rounds_products(array: Array) -> bool:
    """Whether products of such float32 arrays may have the 10 bits of TF32, as those of an
    accelerator have by default.
    """
    return any(framework.rounds(module, array) for framework, module in _loaded())


def default_array(values: np.ndarray) -> Array:
    """NumPy values for a model that does not make its own arrays (`MakesArrays`).

    That is a function of arrays, which says nothing of their framework: a JAX array where JAX is
    loaded, or else NumPy's.
    """
    for framework, module in _loaded():
        if framework.module == "jax":
            return module.numpy.asarray(values)
    return values


def spread(model: Model, inputs: Inputs) -> Inputs:
    """The inputs, their samples divided among this process's devices, where a framework can.

    As they are where there is one device alone, and where they or the weights are bound to some.
    """
    for framework, module in _loaded():
        inputs = framework.spread(module, model, inputs)
    return inputs


def entry(call: Callable[P, T]) -> Callable[P, T]:
    """The same, by which users come in.

    It is no part of a program that the user compiles where it is called, and the arrays that it
    moves between host and device it means to move. What frameworks keep for this thread is
    restored if it raises.
    """

    @functools.wraps(call)
    def run(*args: P.args, **kwargs: P.kwargs) -> T:
        found: Callable[P, T] = call
        loaded = _loaded()
        for framework, module in loaded:
            if not framework.compiles_frames:
                found = framework.entered(module, found)
        found = undisturbed(found)
        for framework, module in loaded:
            if framework.compiles_frames:  # outermost: all inside of it is a frame too
                found = framework.entered(module, found)
        return found(*args, **kwargs)

    run._torchdynamo_disable = True  # type: ignore[attr-defined]
    return run
