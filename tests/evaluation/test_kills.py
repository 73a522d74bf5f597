"""What a killed run leaves: see benchmarks/kills.py, which tries it at more instants."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import gradcam

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="kills by fork and SIGKILL")

SCRIPT = """
import sys
from benchmarks import kills
found = kills.tries(sys.argv[1], int(sys.argv[2]), seed=3)
assert found["killed"] > 0, found
assert not any(found[fault] for fault in kills.FAULTS), found
"""


@pytest.mark.parametrize(
    ("job", "count"), [("save", 10), ("explain", 3), ("evaluate", 3), ("run", 6)]
)
def test_a_kill_loses_nothing(job, count):
    done = subprocess.run(
        [sys.executable, "-c", SCRIPT, job, str(count)],
        capture_output=True,
        text=True,
        timeout=300,
        cwd=Path(gradcam.__file__).parent.parent,
    )
    assert done.returncode == 0, done.stderr
