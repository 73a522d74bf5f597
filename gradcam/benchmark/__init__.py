"""What an explanation costs: its time and memory over those of a bare forward pass.

prices.py   `bench`: cases, and what was measured of each
calls.py    what is timed: a bare forward pass and an explanation, each to its end
timing.py   pairs of times, taken in turn, and their ratios
memory.py   peak memory, in a process of its own
machine.py  what it was measured on
"""

from __future__ import annotations

from gradcam.backends import devices
from gradcam.benchmark.calls import explained, finished, forward
from gradcam.benchmark.machine import machine
from gradcam.benchmark.memory import isolated_peak, peak
from gradcam.benchmark.prices import Benchmark, Price, bench
from gradcam.benchmark.timing import pairs, quartiles, ratios

__all__ = [
    "Benchmark",
    "Price",
    "bench",
    "devices",
    "explained",
    "finished",
    "forward",
    "isolated_peak",
    "machine",
    "pairs",
    "peak",
    "quartiles",
    "ratios",
]
