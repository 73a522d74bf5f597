"""What an explanation costs: its time and memory over those of a bare forward pass."""

from __future__ import annotations

from gradcam.benchmark.prices import (
    Benchmark,
    Price,
    bench,
    devices,
    explained,
    finished,
    forward,
    machine,
    peak,
)

__all__ = [
    "Benchmark",
    "Price",
    "bench",
    "devices",
    "explained",
    "finished",
    "forward",
    "machine",
    "peak",
]
