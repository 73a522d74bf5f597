"""One process of one list: makes a model for each name on its input, has it explained, and prints
the verdict.

python -m benchmarks.foreign.worker LIST [--names]
"""

from __future__ import annotations

import gc
import importlib
import json
import os
import sys
import time
import traceback
from typing import Any

MARK = "@row "
MODULES = {
    "timm": "timm_models",
    "torchvision": "torchvision_models",
    "transformers": "transformers_models",
    "keras_jax": "keras_models",
    "keras_torch": "keras_models",
    "jax": "jax_models",
    "trained": "trained_models",
}


def rows(which: str) -> list[Any]:
    """The rows of a list. One thread: with two, cores that others use make operations wait."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
    if which.startswith("keras"):
        os.environ["KERAS_BACKEND"] = which.removeprefix("keras_")
    found = importlib.import_module(f"benchmarks.foreign.{MODULES[which]}").rows()
    return list(found)


def verdict(row: Any) -> dict[str, Any]:
    """What is written of one row."""
    from benchmarks.foreign.asking import asked
    from benchmarks.foreign.judge import RIGHT, judged, on_object

    start = time.perf_counter()
    case = row.make()
    answer, figures = asked(case)
    found = judged(answer, case.truth, case.tap, passed_target=case.target is not None)
    if case.object is not None and found.kind == RIGHT:
        found = on_object(found, answer, case.object)
    return {
        "name": row.name,
        "note": row.note,
        "size": list(case.truth.size),
        "verdict": found.kind,
        "why": found.why,
        "layer": answer.layer,
        "axes": answer.axes,
        "told": answer.told_how,
        "guessed": answer.guessed,
        "oracle": found.reading,
        "apart": found.apart,
        "maps": [] if answer.maps is None else list(answer.maps.shape),
        "warnings": list(answer.warnings),
        "notes": list(found.notes),
        "passes": figures["passes"],
        "again": figures["again"],
        "explain_seconds": figures["seconds"],
        "seconds": time.perf_counter() - start,
    }


def main() -> int:
    which = sys.argv[1]
    known = {row.name: row for row in rows(which)}
    if "--names" in sys.argv:
        print(json.dumps(list(known)))
        return 0
    if "torch" in sys.modules:
        sys.modules["torch"].set_num_threads(1)
    for line in sys.stdin:
        name = line.strip()
        start = time.perf_counter()
        try:
            found = verdict(known[name])
        except Exception as error:  # the model could not be made, or the judge is at fault
            last = traceback.extract_tb(error.__traceback__)[-1]
            why = f"NOT JUDGED: {type(error).__name__}: {error} ({last.name})"
            found = {"name": name, "verdict": "wrong in silence", "why": why}
            found["seconds"] = time.perf_counter() - start
        print(MARK + json.dumps(found), flush=True)
        gc.collect()
    return 0


if __name__ == "__main__":
    sys.exit(main())
