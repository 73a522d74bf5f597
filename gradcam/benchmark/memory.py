"""Peak memory of one call, measured in a process of its own.

A process keeps memory that it once had, and a framework keeps caches and compiled programs. Each
case therefore runs in a fresh process: the model is loaded, the call is made once, and the peak is
taken of the second call, above what was in use before it.
"""

from __future__ import annotations

import ctypes
import gc
import multiprocessing
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias

from gradcam import backends
from gradcam._types import Inputs, LayerLike
from gradcam.backends import MemoryMeter
from gradcam.benchmark.calls import explained, forward, repeated
from gradcam.inputs import first_array

__all__ = ["Subject", "isolated_peak", "peak"]

Subject: TypeAlias = Callable[[], tuple[Any, Inputs]]
"""Makes a model, or a `Classifier`, and inputs. A batch is these samples over and over."""

MEGABYTE = 2**20


def isolated_peak(
    subject: Subject, method: str | None, layer: LayerLike, batch: int, targets: int
) -> float | None:
    """`peak` in a process of its own, for a subject that can be pickled.

    Raises RuntimeError where that process failed, with its reason.
    """
    context = multiprocessing.get_context("spawn")
    receiver, sender = context.Pipe(duplex=False)
    process = context.Process(
        target=_send_peak, args=(sender, subject, method, layer, batch, targets)
    )
    process.start()
    sender.close()
    try:
        measured: float | str | None = receiver.recv()
    except EOFError:
        measured = f"the process that measured memory ended with exit code {process.exitcode}"
    finally:
        process.join()
    if isinstance(measured, str):
        raise RuntimeError(measured)
    return measured


def _send_peak(sender: Any, *case: Any) -> None:  # pragma: no cover, in a process of its own
    """Send megabytes; or, as a string, what went wrong."""
    try:
        sender.send(peak(*case))
    except Exception as error:
        sender.send(f"{type(error).__name__}: {error}")


def peak(
    subject: Subject, method: str | None, layer: LayerLike, batch: int, targets: int
) -> float | None:
    """Megabytes above what is in use before the call; None where the system does not tell.

    method: None for a bare forward pass. The other arguments are those of `explained`.
    """
    model, inputs = subject()
    samples = repeated(inputs, batch)
    if method is None:
        call = forward(model, samples)
    else:
        call = explained(model, layer, method, samples, targets)
    call()  # loads code, and compiles for this batch
    gc.collect()
    meter = backends.memory_meter(first_array(samples)) or _process_meter()
    if meter is None:
        return None
    before = meter.start()
    call()
    return (meter.peak() - before) / MEGABYTE


def _process_meter() -> MemoryMeter | None:
    """This process's resident memory, which Linux keeps a resettable peak of; None elsewhere."""
    reset = Path("/proc/self/clear_refs")
    if not reset.exists():
        return None

    def start() -> float:
        _release_free_memory()
        reset.write_text("5", encoding="utf-8")  # proc(5): 5 resets the peak resident size
        return _status_bytes("VmRSS")

    return MemoryMeter(start, lambda: _status_bytes("VmHWM"))


def _release_free_memory() -> None:
    """Make the C library's allocator return its unused memory to the system, where it can."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)


def _status_bytes(field: str) -> float:
    """A field of /proc/self/status, which is in kB."""
    for line in Path("/proc/self/status").read_text(encoding="utf-8").splitlines():
        if line.startswith(field):
            return 1024 * float(line.split()[1])
    raise RuntimeError(f"/proc/self/status has no field {field}")
