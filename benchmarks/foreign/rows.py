"""One row of the table: how to make a model, what to call it with, and the truth about its axes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from benchmarks.foreign.axes import Truth
from benchmarks.foreign.judge import Tap

__all__ = ["Case", "Row", "class_score", "revived", "torch_case"]


@dataclass(frozen=True)
class Case:
    """A model made, its inputs, and the two parties that are asked.

    target: what is passed to `explain`; None for the top class.
    tap: the oracle, from the path of a layer to its output and gradient.
    root: the module whose forward passes are counted, where there is a way to.
    counted: a context manager, made with a list that every pass appends to.
    object: where the first sample's object is, of the input's size; None where that is not known.
    """

    model: Any
    inputs: Any
    truth: Truth
    tap: Callable[[str], Tap]
    target: Any = None
    counted: Callable[[list[int]], Any] | None = None
    object: Any = None


@dataclass(frozen=True)
class Row:
    """A name in a list, and how its case is made; `note` says what is particular about it."""

    name: str
    make: Callable[[], Case]
    note: str = ""


def class_score(outputs: Any) -> Any:
    """Each sample's highest class score, as no target asks for."""
    scores = outputs
    if not hasattr(scores, "shape"):
        scores = outputs["logits"] if "logits" in outputs else outputs[0]
    return scores.max(1).values if hasattr(scores, "amax") else scores.max(1)


def torch_case(
    model: Any, inputs: Any, truth: Truth, target: Callable[[Any], Any] | None = None
) -> Case:
    """A PyTorch model's case, whose forward passes are counted by a hook."""
    import contextlib

    from benchmarks.foreign.oracle import tapped

    @contextlib.contextmanager
    def counted(passes: list[int]) -> Any:
        hook = model.register_forward_pre_hook(lambda *_: passes.append(1))
        try:
            yield
        finally:
            hook.remove()

    def tap(path: str) -> Tap:
        return tapped(model, inputs, target or class_score, path)

    return Case(model.eval(), inputs, truth, tap, target, counted)


def revived(model: Any) -> Any:
    """The same model, whose weights that begin as zeros are small numbers: a blank head would make
    blank maps.

    Zeros of biases and of normalisations stay; gains that begin as zeros, of whole branches, are
    set as well.
    """
    import torch

    for name, parameter in model.named_parameters():
        weight = parameter.ndim >= 2 or "gamma" in name or name.endswith("weight")
        if weight and parameter.is_floating_point() and not bool(parameter.detach().any()):
            torch.nn.init.normal_(parameter, std=0.02)
    return model
