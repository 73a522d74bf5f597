"""What a measurement was made on: processor, accelerators, versions."""

from __future__ import annotations

import os
import platform
from datetime import date
from pathlib import Path
from typing import Any

from gradcam import backends

__all__ = ["about", "machine"]


def machine() -> str:
    """The processor, and how many of its cores this process may use."""
    return f"{_cores()} cores, {_processor()}"


def about() -> dict[str, Any]:
    """The date, the machine, its accelerators, and the versions in use."""
    return {
        "date": date.today().isoformat(),
        "machine": machine(),
        "devices": backends.devices(),
        "versions": backends.versions(),
    }


def _cores() -> int | None:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _processor() -> str:
    info = Path("/proc/cpuinfo")
    if info.exists():
        for line in info.read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    return platform.processor() or platform.machine()
