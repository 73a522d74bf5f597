"""For the lists' authors: the last layer of a row that the judge would accept, found with the
oracle alone.

    python -m benchmarks.foreign.possible LIST [WORD ...]

A row for which none is printed has a truth that is wrong, or a model in which no layer is a
picture.
"""

from __future__ import annotations

import sys
import traceback
from typing import Any

import numpy as np

from benchmarks.foreign.axes import grad_cam, read
from benchmarks.foreign.judge import RIGHT, Answer, judged
from benchmarks.foreign.rows import Case
from benchmarks.foreign.worker import rows

__all__ = ["last"]

MOST = 150


def order(case: Case) -> list[str]:
    """The paths of a PyTorch model's modules and of the items that they return, last first."""
    import torch

    from benchmarks.foreign.oracle import called

    found: list[str] = []

    def note(path: str) -> Any:
        def hook(_: Any, __: Any, output: Any) -> None:
            if isinstance(output, torch.Tensor):
                found.append(path)
            elif isinstance(output, dict):
                found.extend(f"{path}['{key}']" for key in output)
            elif isinstance(output, (tuple, list)):
                found.extend(f"{path}[{i}]" for i in range(len(output)))

        return hook

    hooks = [m.register_forward_hook(note(path)) for path, m in case.model.named_modules() if path]
    with torch.no_grad():
        called(case.model, case.inputs)
    for hook in hooks:
        hook.remove()
    return list(dict.fromkeys(reversed(found)))


def last(case: Case) -> tuple[str, str]:
    """The layer and its reading, or why the last candidate was none."""
    why = ""
    for path in order(case)[:MOST]:
        try:
            kept = case.tap(path)
        except Exception:
            continue
        if kept.gradient is None:
            continue
        reading = read(case.truth, path, kept.kind, kept.activation.shape)
        if isinstance(reading, str):
            why = f"{path}: {reading}"
            continue
        signed = grad_cam(kept.activation, kept.gradient, reading)
        answer = Answer(path, np.maximum(signed, 0), signed=lambda signed=signed: signed)
        found = judged(answer, case.truth, lambda _, kept=kept: kept)
        if found.kind == RIGHT:
            return path, f"{reading}; leak {kept.leak:.2g}; behind {kept.behind:.2f}"
        why = f"{path}: {found.why}"
    return "", why


def main() -> int:
    which, words = sys.argv[1], sys.argv[2:]
    known = rows(which)
    sys.modules["torch"].set_num_threads(1)
    for row in known:
        if words and not any(word in row.name for word in words):
            continue
        try:
            path, what = last(row.make())
        except Exception as error:
            where = traceback.extract_tb(error.__traceback__)[-1].name
            path, what = "", f"NOT MADE: {type(error).__name__}: {error} ({where})"
        print(f"{row.name}: {path or 'NONE'}: {what}"[:240], flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
