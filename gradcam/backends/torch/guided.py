"""Guided backpropagation in PyTorch: hooks on the nodes of one private autograd graph, and none on the model.

Autograd records a ReLU as what it is however the model's code spells it, as a module, a function, a method, in place or
a clamp, so the rule is written once and for these nodes.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.graph import Node
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_map

from gradcam._types import Array, Inputs, Outputs
from gradcam.backends.torch.gradients import detached, score_gradients
from gradcam.backends.torch.modes import normal_tensors
from gradcam.inputs import first_array, with_first_array
from gradcam.model import INPUT, Capture, nothing_guided

__all__ = ["input_gradients"]

Gradients = tuple[torch.Tensor | None, ...]

_SMOOTH = {
    "Celu": "CELU",
    "Elu": "ELU",
    "Gelu": "GELU",
    "Hardswish": "Hardswish",
    "LeakyRelu": "LeakyReLU",
    "Mish": "Mish",
    "PreluKernel": "PReLU",
    "RreluWithNoise": "RReLU",
    "Silu": "SiLU",
    "Softplus": "Softplus",
}
_OPAQUE = ("CompiledFunction", "DifferentiableGraph")


def input_gradients(
    run: Callable[[Inputs], Outputs],
    inputs: Inputs,
    target: Callable[[Outputs], Array],
    rule: str,
    smooth: str,
) -> Capture:
    """The gradient of the scores at the input by `rule`: see `gradcam.model.HasInputGradients`.

    run: the model's forward pass, in a session.
    """
    with torch.inference_mode(False), torch.enable_grad():
        inputs = normal_tensors(inputs)
        array = first_array(inputs).detach().clone().requires_grad_()
        with _InSight():
            # a clone, because the model may write in place into its input
            outputs = run(with_first_array(inputs, array.clone()))
        scores = target(outputs)
        with _guided(scores, rule, smooth) as ran:
            gradients = score_gradients(scores, (array,), (INPUT,))
        if not ran:
            raise nothing_guided(rule, _smooth_activations(scores))
    return Capture(tree_map(detached, outputs), detached(scores), (array.detach(),), gradients)


def _smooth_activations(scores: Any) -> list[str]:
    """The smooth activations below the scores, by the names of their modules."""
    kinds = map(_kind, _nodes(scores))
    return [_SMOOTH[kind] for kind in kinds if kind in _SMOOTH]


@contextlib.contextmanager
def _guided(scores: Any, rule: str, smooth: str) -> Iterator[list[str]]:
    """While it lasts, a backward pass from the scores follows the rule; the list names the nodes where it did."""
    ran: list[str] = []
    with contextlib.ExitStack() as hooks:  # a hook that stayed would keep the graph alive
        for node in _nodes(scores):
            kind = _kind(node)
            if kind.endswith(_OPAQUE):
                raise RuntimeError(
                    f"a compiled part of the model ({node.name()}) hides its ReLUs; pass the model as it was before "
                    "torch.compile or torch.jit.script"
                )
            slot = _relu(node, kind)
            if slot is None and kind in _SMOOTH and smooth == "guided":
                slot = 0
            if slot is not None:
                rectifier = _Rectifier(node, kind, slot, rule, ran)
                hooks.callback(node.register_prehook(rectifier.before).remove)
                hooks.callback(node.register_hook(rectifier.after).remove)
        yield ran


class _Rectifier:
    """The rule at one node, whose own derivative is f'(x): it sees what comes in before, what goes out after."""

    def __init__(self, node: Node, kind: str, slot: int, rule: str, ran: list[str]) -> None:
        self.node, self.kind, self.slot, self.rule, self.ran = node, kind, slot, rule, ran
        self.gate: torch.Tensor | None = None
        self.positive: torch.Tensor | None = None

    def before(self, incoming: Gradients) -> Gradients:
        self.ran.append(self.kind)
        self.gate = (
            self._gate() if self.rule == "guided" else None
        )  # here, for afterwards the graph is gone
        self.positive = None if incoming[0] is None else torch.relu(incoming[0])
        return (self.positive, *incoming[1:])

    def after(self, outgoing: Gradients, incoming: Gradients) -> Gradients:
        gradient, gate, positive = outgoing[self.slot], self.gate, self.positive
        self.gate = self.positive = None
        if gradient is None or positive is None:
            return outgoing
        if self.rule == "deconvnet":
            gradient = positive.sum_to_size(gradient.shape)
        elif gate is not None:
            gradient = torch.where(gate, gradient, torch.zeros_like(gradient))
        return (*outgoing[: self.slot], gradient, *outgoing[self.slot + 1 :])

    def _gate(self) -> torch.Tensor | None:
        """[x > 0], and below the upper end if there is one, where the node's own derivative does not see to it."""
        if self.kind in ("Relu", "Hardtanh", "Threshold"):
            return None
        saved = "_saved_other" if self.slot == 1 else "_saved_self"
        x = getattr(self.node, saved if hasattr(self.node, saved) else "_saved_result")
        top = getattr(self.node, "_saved_max", None)
        return x > 0 if top is None else (x > 0) & (x < top)


def _nodes(scores: Any) -> Iterator[Node]:
    """All nodes of the graph below the scores."""
    start = getattr(scores, "grad_fn", None)
    waiting, seen = [start], {start}
    while waiting:
        node = waiting.pop()
        if node is not None:
            yield node
            below = [child for child, _ in node.next_functions if child not in seen]
            seen.update(below)
            waiting += below


def _kind(node: Node) -> str:
    """What a node differentiates: "Relu" of a ReluBackward0."""
    return node.name().rstrip("0123456789").removesuffix("Backward")


def _relu(node: Any, kind: str) -> int | None:
    """Which of the node's arguments it is a ReLU of, if it is one, with or without an upper end."""
    if kind == "Relu":
        return 0
    if kind == "Hardtanh":
        return 0 if _zero(node._saved_min_val) else None
    if kind == "Threshold":
        return 0 if _zero(node._saved_threshold) else None
    if kind == "LeakyRelu":
        return 0 if _zero(node._saved_negative_slope) else None
    if kind in ("Clamp", "ClampMin"):
        return 0 if _zero(node._saved_min) and not _learned(node, 1) else None
    if kind in ("Maximum", "Fmax"):
        for slot, other in enumerate((node._saved_other, node._saved_self)):
            if not _learned(node, 1 - slot) and _zero(other):
                return slot
    return None


def _learned(node: Node, slot: int) -> bool:
    return slot < len(node.next_functions) and node.next_functions[slot][0] is not None


def _zero(bound: Any) -> bool:
    return (
        not bool(torch.any(bound != 0))
        if isinstance(bound, torch.Tensor)
        else bound is not None and bound == 0
    )


# ---------------------------------------------------------------------------------------------- out of sight

_IN_PLACE = {"celu_", "clamp_", "clamp_min_", "clip_", "elu_", "hardtanh_", "leaky_relu_", "relu_", "rrelu_", "selu_",
             "threshold_"}  # fmt: skip


class _InSight(TorchFunctionMode):
    """Computes in another way, with the same values, what the graph would hide: a mode of this thread alone.

    In place on a view (the output of a Linear on tokens is one) a ReLU vanishes inside a CopySlices node; of
    `torch.where(x > 0, x, 0)` autograd keeps the condition alone.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.where, torch.Tensor.where) and len(args) == 3:
            condition, *cases = args if func is torch.where else (args[1], args[0], args[2])
            if (x := _positive_part(condition, *cases)) is not None:
                return torch.relu(x)
        x = args[0] if args else kwargs.get("input")
        if isinstance(x, torch.Tensor) and x.requires_grad and x._is_view():
            aside = _aside(func, args, kwargs)
            if aside is not None:
                return x.copy_(aside(x.clone()))
        return func(*args, **kwargs)


def _positive_part(condition: Any, yes: Any, no: Any) -> torch.Tensor | None:
    """x of where(x > 0, x, 0) and of where(x < 0, 0, x)."""
    for x, other, positive in ((yes, no, condition), (no, yes, ~condition)):
        if (
            not isinstance(x, torch.Tensor)
            or not x.requires_grad
            or x.shape != condition.shape
            or not _zero(other)
        ):
            continue
        if torch.equal(positive, x > 0) or torch.equal(positive, x >= 0):
            return x
    return None


def _aside(func: Any, args: Any, kwargs: Any) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """An activation that writes in place, as a function that does not."""
    name = getattr(func, "__name__", "")
    if name in _IN_PLACE:
        plain = getattr(torch.Tensor, name[:-1], None) or getattr(F, name[:-1])
        rest = {key: value for key, value in kwargs.items() if key != "input"}
        return lambda x: plain(x, *args[1:], **rest)
    if getattr(func, "__module__", "") == F.__name__ and inspect.isfunction(func):
        bound = inspect.signature(func).bind(*args, **kwargs)
        if bound.arguments.get("inplace"):
            given = {**bound.arguments, "inplace": False}
            first = next(iter(given))
            return lambda x: func(**{**given, first: x})
    return None
