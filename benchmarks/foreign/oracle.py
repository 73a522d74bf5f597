"""A layer's output and the score's gradient in it, by a plain hook and `torch.autograd.grad`.
Nothing of gradcam.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from typing import Any

import torch

from benchmarks.foreign.judge import Tap

__all__ = ["called", "disturbed", "located", "tapped"]

_IDLE = (torch.nn.Identity, torch.nn.Dropout, torch.nn.Flatten)


def called(model: Any, inputs: Any) -> Any:
    """The model's outputs: of one array, of a tuple of arguments, or of a mapping of keywords."""
    if isinstance(inputs, dict):
        return model(**inputs)
    if isinstance(inputs, tuple):
        return model(*inputs)
    return model(inputs)


def located(model: torch.nn.Module, path: str) -> tuple[torch.nn.Module, int, list[Any]]:
    """The module that a path begins with, which of its calls, and the keys of the item that it
    returns.

    The longest name of a module that the path begins with is meant, so that a name may hold "#" or
    "[".
    """
    modules = dict(model.named_modules(remove_duplicate=False))
    for end in range(len(path), 0, -1):
        rest = re.fullmatch(r"(?:#(\d+))?((?:\[[^\]]+\])*)", path[end:])
        if path[:end] in modules and rest is not None:
            keys = [_key(text) for text in re.findall(r"\[([^\]]+)\]", rest[2])]
            return modules[path[:end]], int(rest[1] or 0), keys
    raise KeyError(path)


def _key(text: str) -> Any:
    return int(text) if text.isdigit() else text.strip("'\"")


def _item(value: Any, keys: list[Any]) -> torch.Tensor:
    for key in keys:
        value = value[key]
    if not isinstance(value, torch.Tensor):
        raise TypeError(f"the layer returns a {type(value).__name__}, of which no item was named")
    return value


def _with_item(value: Any, keys: list[Any], item: torch.Tensor) -> Any:
    """The same output with another tensor in the place of one item."""
    if not keys:
        return item
    if isinstance(value, (tuple, list)):
        inner = list(value)
        inner[keys[0]] = _with_item(inner[keys[0]], keys[1:], item)
        return type(value)(*inner) if hasattr(value, "_fields") else type(value)(inner)
    value[keys[0]] = _with_item(value[keys[0]], keys[1:], item)
    return value


def _leaves(model: torch.nn.Module) -> Iterator[torch.nn.Module]:
    for module in model.modules():
        if not list(module.children()) and not isinstance(module, _IDLE):
            yield module


@contextlib.contextmanager
def _changed(
    module: torch.nn.Module,
    wanted: int,
    keys: list[Any],
    change: Callable[[torch.Tensor], torch.Tensor],
) -> Iterator[None]:
    """One call of a module gives another value for one item of its output, in this context."""
    calls = [0]

    def hook(_: Any, __: Any, output: Any) -> Any:
        calls[0] += 1
        if calls[0] - 1 != wanted:
            return output
        return _with_item(output, keys, change(_item(output, keys)))

    handle = module.register_forward_hook(hook)
    try:
        yield
    finally:
        handle.remove()


def disturbed(inputs: Any) -> Any:
    """Other inputs of the same kind: the floating ones with noise in their place."""
    if isinstance(inputs, dict):
        return type(inputs)({name: disturbed(value) for name, value in inputs.items()})
    if isinstance(inputs, tuple):
        return tuple(disturbed(value) for value in inputs)
    if isinstance(inputs, torch.Tensor) and inputs.is_floating_point():
        generator = torch.Generator().manual_seed(7)
        return torch.randn(inputs.shape, generator=generator) * inputs.std() + inputs.mean()
    return inputs


def tapped(
    model: torch.nn.Module, inputs: Any, score: Callable[[Any], torch.Tensor], path: str
) -> Tap:
    """One forward pass with a hook on the layer, and the gradient of the scores' sum in what it
    kept.

    And two of other inputs, one of them with the layer's output held, for what reaches the score
    round the layer.
    """
    module, wanted, keys = located(model, path)
    kept: list[torch.Tensor] = []
    leaves, before = [0], [0]

    def keep(value: torch.Tensor) -> torch.Tensor:
        before[0] = leaves[0]
        if not value.requires_grad:
            raise ValueError("the layer's output does not depend on any weight")
        kept.append(
            value.clone()
        )  # so that a copy that is returned beside the one in use has no gradient
        return kept[0].clone()  # for layers that then write in place

    def count(*_: Any) -> None:
        leaves[0] += 1

    hooks = [leaf.register_forward_hook(count) for leaf in _leaves(model)]
    try:
        with torch.enable_grad(), _changed(module, wanted, keys, keep):
            scores = score(called(model, inputs))
    finally:
        for hook in hooks:
            hook.remove()
    (value,) = kept
    (gradient,) = torch.autograd.grad(scores.sum(), value, allow_unused=True)
    with torch.no_grad():
        others = disturbed(inputs)
        free = score(called(model, others))
        with _changed(module, wanted, keys, lambda _: value.clone()):
            held = score(called(model, others))
        leak = float((held - scores).abs().max() / (free - scores).abs().max())
    return Tap(
        activation=value.detach().double().numpy(),
        gradient=None if gradient is None else gradient.double().numpy(),
        kind=type(module).__name__,
        behind=1 - before[0] / max(leaves[0], 1),
        leak=leak,
    )
