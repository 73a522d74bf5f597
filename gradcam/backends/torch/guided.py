"""Guided backpropagation in PyTorch: hooks on the nodes of one autograd graph, none on the model.

Autograd records a ReLU as a ReLU, whether the model's code spells it as a module, a function, a
method, in place or as a clamp. The rule is therefore written once, for these nodes. For y = relu(x)
with x = (1, -2, 3) and the incoming gradient g = (5, 6, -7), the node passes on

    plain backpropagation    g [x > 0]           (5, 0, -7)
    rule="guided"            g [x > 0] [g > 0]   (5, 0, 0)
    rule="deconvnet"         g [g > 0]           (5, 6, 0)

Guided backpropagation: Springenberg et al. (2014), https://arxiv.org/abs/1412.6806.
Deconvnet: Zeiler and Fergus (2013), https://arxiv.org/abs/1311.2901.
"""

from __future__ import annotations

import contextlib
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch.autograd.graph import Node
from torch.utils._pytree import tree_map

from gradcam._types import Array, Inputs, Outputs
from gradcam.backends.errors import nothing_guided
from gradcam.backends.torch.gradients import detached, score_gradients
from gradcam.backends.torch.modes import FunctionMode, normal_tensors
from gradcam.inputs import first_array, with_first_array
from gradcam.model import INPUT, Capture

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
    with torch.enable_grad():
        inputs = normal_tensors(inputs)
        array = first_array(inputs).detach().clone().requires_grad_()
        with _ShowReLUs():
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
    """While it lasts, a backward pass from the scores follows the rule.

    The list that it yields fills with the kinds of nodes at which the rule was applied.
    """
    ran: list[str] = []
    with contextlib.ExitStack() as hooks:  # a hook that stayed would keep the graph alive
        for node in _nodes(scores):
            kind = _kind(node)
            if kind.endswith(_OPAQUE):
                raise RuntimeError(
                    f"a compiled part of the model ({node.name()}) hides its ReLUs; pass the model "
                    "as it was before torch.compile or torch.jit.script"
                )
            slot = _relu_argument(node, kind)
            if slot is None and kind in _SMOOTH and smooth == "guided":
                slot = 0
            if slot is not None:
                rectifier = _Rectifier(node, kind, slot, rule, ran)
                hooks.callback(node.register_prehook(rectifier.before).remove)
                hooks.callback(node.register_hook(rectifier.after).remove)
        yield ran


class _Rectifier:
    """The rule at one node: `before` gets the incoming gradient, `after` the outgoing one."""

    def __init__(self, node: Node, kind: str, slot: int, rule: str, ran: list[str]) -> None:
        self.node = node
        self.kind = kind
        self.slot = slot
        self.rule = rule
        self.ran = ran
        self.gate: torch.Tensor | None = None
        self.positive: torch.Tensor | None = None

    def before(self, incoming: Gradients) -> Gradients:
        self.ran.append(self.kind)
        if self.rule == "guided":
            self.gate = self._gate()  # now, because after the pass the saved tensors are gone
        if incoming[0] is not None:
            self.positive = torch.relu(incoming[0])
        return (self.positive, *incoming[1:])

    def after(self, outgoing: Gradients, incoming: Gradients) -> Gradients:
        gate = self.gate
        positive = self.positive
        self.gate = self.positive = None
        gradient = outgoing[self.slot]
        if gradient is None or positive is None:
            return outgoing
        if self.rule == "deconvnet":
            gradient = positive.sum_to_size(gradient.shape)
        elif gate is not None:
            gradient = torch.where(gate, gradient, torch.zeros_like(gradient))
        return (*outgoing[: self.slot], gradient, *outgoing[self.slot + 1 :])

    def _gate(self) -> torch.Tensor | None:
        """[x > 0], and x below an upper end; None if the node's own derivative sees to that."""
        if self.kind in ("Relu", "Hardtanh", "Threshold"):
            return None
        saved = "_saved_other" if self.slot == 1 else "_saved_self"
        if not hasattr(self.node, saved):
            saved = "_saved_result"  # its sign is that of the argument
        x = getattr(self.node, saved)
        gate: torch.Tensor = x > 0
        top = getattr(self.node, "_saved_max", None)
        return gate if top is None else gate & (x < top)


def _nodes(scores: Any) -> Iterator[Node]:
    """All nodes of the graph below the scores."""
    start = getattr(scores, "grad_fn", None)
    waiting = [start]
    visited = {start}
    while waiting:
        node = waiting.pop()
        if node is None:
            continue
        yield node
        for below, _ in node.next_functions:
            if below not in visited:
                visited.add(below)
                waiting.append(below)


def _kind(node: Node) -> str:
    """What a node differentiates: "Relu" of a ReluBackward0."""
    return node.name().rstrip("0123456789").removesuffix("Backward")


_ZERO_IN_RELU = {
    "Hardtanh": "_saved_min_val",
    "LeakyRelu": "_saved_negative_slope",
    "Threshold": "_saved_threshold",
}
"""Nodes that are a ReLU, with or without an upper end, if this value is 0."""


def _relu_argument(node: Any, kind: str) -> int | None:
    """Which of the node's arguments it is a ReLU of, or None if it is none."""
    if kind in ("Maximum", "Fmax"):
        return _maximum_argument(node)
    is_relu = kind == "Relu"
    if kind in _ZERO_IN_RELU:
        is_relu = _is_zero(getattr(node, _ZERO_IN_RELU[kind]))
    elif kind in ("Clamp", "ClampMin"):
        is_relu = _is_zero(node._saved_min) and not _is_differentiated(node, 1)
    return 0 if is_relu else None


def _maximum_argument(node: Any) -> int | None:
    """Which argument of maximum(a, b) is x, if the other is a constant 0."""
    if not _is_differentiated(node, 1) and _is_zero(node._saved_other):
        return 0
    if not _is_differentiated(node, 0) and _is_zero(node._saved_self):
        return 1
    return None


def _is_differentiated(node: Node, slot: int) -> bool:
    """Whether gradients flow to that argument: it depends on the input or on weights."""
    return slot < len(node.next_functions) and node.next_functions[slot][0] is not None


def _is_zero(bound: Any) -> bool:
    if isinstance(bound, torch.Tensor):
        return not bool(torch.any(bound != 0))
    return bound is not None and bool(bound == 0)


# ---------------------------------------------------------------------------------- hidden ReLUs

_IN_PLACE = {
    "celu_",
    "clamp_",
    "clamp_min_",
    "clip_",
    "elu_",
    "hardtanh_",
    "leaky_relu_",
    "relu_",
    "rrelu_",
    "selu_",
    "threshold_",
}
"""Activations that write in place; without the underscore, the same that do not."""


class _ShowReLUs(FunctionMode):
    """Computes ReLUs that the graph would hide in a way that shows them; values are the same.

    - A ReLU in place on a view vanishes inside a CopySlices node. The output of a Linear on tokens
      is such a view.
    - Of `torch.where(x > 0, x, 0)` autograd keeps the condition alone.
    """

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in (torch.where, torch.Tensor.where) and len(args) == 3:
            condition, yes, no = args
            if func is torch.Tensor.where:  # yes.where(condition, no)
                condition, yes = yes, condition
            x = _positive_part(condition, yes, no)
            return func(*args, **kwargs) if x is None else torch.relu(x)
        x = args[0] if args else kwargs.get("input")
        if _is_differentiable_view(x):
            activation = _out_of_place(func, args, kwargs)
            if activation is not None:
                return x.copy_(activation(x.clone()))
        return func(*args, **kwargs)


def _is_differentiable_view(x: Any) -> bool:
    return isinstance(x, torch.Tensor) and x.requires_grad and x._is_view()


def _positive_part(condition: Any, yes: Any, no: Any) -> torch.Tensor | None:
    """x, if the arguments of `where` are those of where(x > 0, x, 0) or of where(x < 0, 0, x)."""
    if _is_positive_part(condition, yes, no):
        return yes  # type: ignore[no-any-return]
    if _is_positive_part(~condition, no, yes):
        return no  # type: ignore[no-any-return]
    return None


def _is_positive_part(condition: torch.Tensor, x: Any, other: Any) -> bool:
    if not isinstance(x, torch.Tensor) or not x.requires_grad or x.shape != condition.shape:
        return False
    if not _is_zero(other):
        return False
    return torch.equal(condition, x > 0) or torch.equal(condition, x >= 0)


def _out_of_place(
    func: Any, args: Any, kwargs: Any
) -> Callable[[torch.Tensor], torch.Tensor] | None:
    """An activation that writes in place, as one that does not; None for any other function."""
    name = getattr(func, "__name__", "")
    if name in _IN_PLACE:
        plain = getattr(torch.Tensor, name[:-1], None) or getattr(F, name[:-1])
        options = {key: value for key, value in kwargs.items() if key != "input"}
        return lambda x: plain(x, *args[1:], **options)
    if getattr(func, "__module__", "") == F.__name__ and inspect.isfunction(func):
        arguments = inspect.signature(func).bind(*args, **kwargs).arguments
        if arguments.get("inplace"):
            first = next(iter(arguments))
            return lambda x: func(**{**arguments, "inplace": False, first: x})
    return None
