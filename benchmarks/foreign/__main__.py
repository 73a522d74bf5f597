"""Runs the lists, a worker for each, and writes the table. See the package's docstring.

A worker is a process that makes one model after another; where one crashes or takes too long, that
row is noted as an error and another worker goes on with the next.
"""

from __future__ import annotations

import argparse
import json
import selectors
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from benchmarks.foreign.report import page, summary

LISTS = ("timm", "torchvision", "transformers", "keras_jax", "keras_torch", "jax", "trained")
MARK = "@row "
LIMIT = 600
"""Seconds that one row may take."""


def names(which: str) -> list[str]:
    """The rows of a list, from a process that may import its packages."""
    command = [sys.executable, "-m", "benchmarks.foreign.worker", which, "--names"]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        print(f"{which}: {done.stderr.strip().splitlines()[-1]}", flush=True)
        return []
    return list(json.loads(done.stdout.splitlines()[-1]))


class Worker:
    """A process that takes names of rows on its input and answers with a line of JSON for each."""

    def __init__(self, which: str) -> None:
        command = [sys.executable, "-m", "benchmarks.foreign.worker", which]
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        self.ready = selectors.DefaultSelector()
        assert self.process.stdout is not None
        self.ready.register(self.process.stdout, selectors.EVENT_READ)

    def ask(self, name: str) -> dict[str, Any] | None:
        """The row's result; None where the worker died or was stopped."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(name + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            return None
        end = time.monotonic() + LIMIT
        while time.monotonic() < end:
            if not self.ready.select(timeout=1):
                continue
            line = self.process.stdout.readline()
            if not line:
                return None
            if line.startswith(MARK):
                return dict(json.loads(line[len(MARK) :]))
        return None

    def close(self) -> None:
        self.process.kill()
        self.process.wait()


def write(out: Path, rows: list[dict[str, Any]], seconds: float) -> None:
    out.parent.mkdir(parents=True, exist_ok=True)
    out.write_text(json.dumps({"seconds": seconds, "rows": rows}, indent=1), encoding="utf-8")


def run(which: str, wanted: list[str], out: Path) -> list[dict[str, Any]]:
    """All rows of one list, in order; `out` has those so far, in case that the run is stopped."""
    rows: list[dict[str, Any]] = []
    worker = Worker(which)
    for name in wanted:
        found = worker.ask(name)
        if found is None:
            worker.close()
            worker = Worker(which)
            why = f"the process died, or took more than {LIMIT} s"
            found = {"name": name, "verdict": "wrong in silence", "why": why, "seconds": LIMIT}
        row = {"list": which, **found}
        rows.append(row)
        write(out, rows, sum(one["seconds"] for one in rows))
        shown = f"{which}: {name}: {row['verdict']}; {row.get('layer', '')}; {row.get('why', '')}"
        print(f"{shown[:230]} ({row['seconds']:.1f} s)", flush=True)
    worker.close()
    return rows


def merged(
    rows: list[dict[str, Any]], seconds: float, files: list[Path]
) -> tuple[list[dict[str, Any]], float]:
    """These rows and those of earlier results, in the order of the lists, and the time of all."""
    found = {}
    for path in files:
        for row in json.loads(path.read_text(encoding="utf-8"))["rows"]:
            found[row["list"], row["name"]] = row
    again = {(row["list"], row["name"]) for row in rows}
    known = {(one, name) for one in LISTS for name in names(one)} if found else set()
    kept = [row for key, row in found.items() if key in known - again]
    together = sorted([*rows, *kept], key=lambda row: LISTS.index(row["list"]))
    return together, seconds + sum(row["seconds"] for row in kept)


def main() -> int:
    parser = argparse.ArgumentParser(prog="benchmarks.foreign")
    parser.add_argument("--only", nargs="*", default=[], help="lists, or parts of the rows' names")
    parser.add_argument("--list", action="store_true", help="name the rows and run none")
    parser.add_argument("--out", type=Path, default=Path("out/foreign.json"))
    parser.add_argument(
        "--page", type=Path, default=None, help="docs/foreign-models.md in a whole run"
    )
    parser.add_argument("--jobs", type=int, default=1, help="how many lists run at a time")
    kept = "earlier results, whose rows are kept where they are not run again"
    parser.add_argument("--merge", nargs="*", type=Path, default=[], metavar="FILE", help=kept)
    given = parser.parse_args()
    lists = [one for one in LISTS if one in given.only] or list(LISTS)
    words = [one for one in given.only if one not in LISTS]
    wanted = {
        one: [name for name in names(one) if not words or any(word in name for word in words)]
        for one in lists
    }
    wanted = {one: rows for one, rows in wanted.items() if rows}
    if given.list:
        for one, rows in wanted.items():
            print(f"{one} ({len(rows)}): " + " ".join(rows))
        return 0
    start = time.perf_counter()
    with ThreadPoolExecutor(given.jobs) as pool:
        parts = list(
            pool.map(
                lambda one: run(one, wanted[one], given.out.with_suffix(f".{one}.json")), wanted
            )
        )
    rows = [row for part in parts for row in part]
    seconds = time.perf_counter() - start
    rows, seconds = merged(rows, seconds, given.merge)
    write(given.out, rows, seconds)
    print(summary(rows))
    to = given.page or (Path("docs/foreign-models.md") if not given.only else None)
    if to is not None:
        to.write_text(page(rows, seconds), encoding="utf-8")
    wrong = [row for row in rows if row["verdict"] == "wrong in silence"]
    return 1 if wrong or not rows else 0


if __name__ == "__main__":
    sys.exit(main())
