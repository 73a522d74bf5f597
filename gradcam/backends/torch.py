"""PyTorch: any `nn.Module`, unmodified, tapped by forward hooks that are there for one call only."""

from __future__ import annotations

import contextlib
import copy
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch.utils._pytree import tree_map

from gradcam._types import Array, Inputs, Outputs
from gradcam.model import Capture, Layer, PooledAxes, arguments, unknown_layer

__all__ = ["SplitModule", "TorchModel", "path_of"]

Tap = Callable[[str, torch.Tensor], torch.Tensor]
_PATH = re.compile(r"(?P<module>[^#\[]*)(#(?P<call>\d+))?(?P<item>\[.*)?$")


def path_of(model: torch.nn.Module, layer: torch.nn.Module) -> str:
    """The path of a module that is in the model."""
    for path, module in model.named_modules():
        if module is layer:
            return path
    raise KeyError(
        f"`layer`, a {type(layer).__name__}, is not a module of this {type(model).__name__}; pass one of "
        "model.modules(), or a path from gradcam.layers(model, inputs)"
    )


def _module_of(path: str) -> str:
    match = _PATH.match(path)
    return match["module"] if match else path


def _taps(path: str, value: Any, tap: Tap) -> Any:
    """`value` with every floating tensor in it passed through `tap`, under its own path."""
    if isinstance(value, torch.Tensor):
        return tap(path, value) if value.is_floating_point() else value
    if isinstance(value, tuple) and hasattr(value, "_fields"):
        return type(value)(*(_taps(f"{path}[{i}]", v, tap) for i, v in enumerate(value)))
    if isinstance(value, (tuple, list)):
        return type(value)(_taps(f"{path}[{i}]", v, tap) for i, v in enumerate(value))
    if isinstance(value, dict):
        items = {key: _taps(f"{path}[{key!r}]", v, tap) for key, v in value.items()}
        result = copy.copy(value)  # a dictionary of the model's own type, such as a ModelOutput
        for key, v in items.items():
            result[key] = v
        return result
    return value


@dataclass(frozen=True, eq=False)
class TorchModel:
    """`model.Model` for an `nn.Module` (the laws are there)."""

    module: torch.nn.Module
    allow_training: bool = False
    channels_first = True

    @contextlib.contextmanager
    def _tapped(self, modules: Sequence[str], tap: Tap) -> Iterator[None]:
        """Every output of these modules passes through `tap` while the context lasts."""
        if not self.allow_training and any(module.training for module in self.module.modules()):
            raise ValueError(
                "the model is in training mode, where samples of a batch depend on each other and on chance; call "
                "model.eval() first, or pass allow_training=True"
            )
        known = dict(self.module.named_modules(remove_duplicate=False))
        for path in modules:
            if path not in known:
                raise unknown_layer(path, known)
        with contextlib.ExitStack() as hooks:
            for path in dict.fromkeys(modules):
                hooks.callback(known[path].register_forward_hook(_Hook(path, tap)).remove)
            yield

    def _forward(self, inputs: Inputs) -> Outputs:
        args, kwargs = arguments(inputs)
        return self.module(*args, **kwargs)

    def layers(self, inputs: Inputs) -> list[Layer]:
        found: list[Layer] = []
        modules = dict(self.module.named_modules())

        def tap(path: str, value: torch.Tensor) -> torch.Tensor:
            found.append(Layer(path, tuple(value.shape), type(modules[_module_of(path)]).__name__))
            return value

        with torch.no_grad(), self._tapped([path for path in modules if path], tap):
            self._forward(inputs)
        return found

    def capture(
        self,
        inputs: Inputs,
        layers: Sequence[str],
        target: Callable[[Outputs], Array],
        pooled: PooledAxes | None = None,
    ) -> Capture:
        found: dict[str, torch.Tensor] = {}

        def tap(path: str, value: torch.Tensor) -> torch.Tensor:
            if path not in layers:
                return value
            if not value.requires_grad:  # the first layer, or one beside it: the graph starts here
                value = value.detach().requires_grad_()
            found[path] = value
            torch.set_grad_enabled(True)
            return value.clone()  # a clone, for what then writes in place

        with torch.no_grad():  # which also puts the caller's grad mode back
            with self._tapped([_module_of(path) for path in layers], tap):
                outputs = self._forward(inputs)
            if missing := [path for path in layers if path not in found]:
                raise _never_ran(missing[0], self)
            torch.set_grad_enabled(True)
            scores = target(outputs)
            activations = tuple(found[path] for path in layers)
            gradients = _gradients(scores, activations, layers)
        return Capture(
            tree_map(_detached, outputs), _detached(scores), tuple(a.detach() for a in activations), gradients
        )

    def replay(self, inputs: Inputs, layers: Sequence[str], activations: Sequence[Array]) -> Outputs:
        given, used = dict(zip(layers, activations, strict=True)), set()

        def tap(path: str, value: torch.Tensor) -> torch.Tensor:
            if path not in given:
                return value
            used.add(path)
            return given[path].clone()

        with self._tapped([_module_of(path) for path in layers], tap):
            outputs = self._forward(inputs)
        if missing := [path for path in layers if path not in used]:
            raise _never_ran(missing[0], self)
        return outputs

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with torch.no_grad():
                return function(self, *args)

        return run

    @contextlib.contextmanager
    def float64(self, inputs: Inputs) -> Iterator[tuple[TorchModel, Inputs]]:
        """A copy in double precision, and its inputs; the model itself where its modules cannot be copied."""
        try:
            wide = TorchModel(copy.deepcopy(self.module).double(), self.allow_training)
        except Exception:  # whatever the user's modules raise: then there is no copy
            yield self, inputs
            return
        yield wide, tree_map(lambda x: x.double() if _floating(x) else x, inputs)


class _Hook:
    """A forward hook that names each call of its module: "path", then "path#1", "path#2"."""

    def __init__(self, path: str, tap: Tap) -> None:
        self.path, self.tap, self.calls = path, tap, 0

    def __call__(self, module: torch.nn.Module, args: Any, output: Any) -> Any:
        path = f"{self.path}#{self.calls}" if self.calls else self.path
        self.calls += 1
        return _taps(path, output, self.tap)


def _floating(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _detached(value: Any) -> Any:
    return value.detach() if isinstance(value, torch.Tensor) else value


def _never_ran(path: str, model: TorchModel) -> RuntimeError:
    return RuntimeError(
        f'layer "{path}" gave no floating-point tensor in this forward pass: it did not run, or not that often, or '
        "returns a collection, whose items have paths of their own; gradcam.layers(model, inputs) lists what ran"
    )


def _gradients(
    scores: torch.Tensor, activations: tuple[torch.Tensor, ...], layers: Sequence[str]
) -> tuple[torch.Tensor, ...]:
    """The gradients of scores (N,) as they lie, (N, ...), and of scores (N, K) as (N, K, ...)."""
    samples = activations[0].shape[0]
    if not isinstance(scores, torch.Tensor) or scores.ndim not in (1, 2) or scores.shape[0] != samples:
        shape = tuple(scores.shape) if isinstance(scores, torch.Tensor) else type(scores).__name__
        raise ValueError(
            f"`target` must return scores of shape (N,) or (N, K) for N = {samples} samples, but returned {shape}"
        )
    if not scores.requires_grad:
        raise _unreached(layers[0])
    if scores.ndim == 1:
        found = torch.autograd.grad(scores.sum(), activations, allow_unused=True)
    else:
        each = torch.eye(scores.shape[1], dtype=scores.dtype, device=scores.device)
        found = torch.autograd.grad(
            scores, activations, each[:, None].expand(-1, samples, -1), is_grads_batched=True, allow_unused=True
        )
    for path, gradient in zip(layers, found, strict=True):
        if gradient is None:
            raise _unreached(path)
    return tuple(found) if scores.ndim == 1 else tuple(gradient.movedim(0, 1) for gradient in found)


def _unreached(path: str) -> RuntimeError:
    return RuntimeError(
        f'the score does not depend on layer "{path}" by a differentiable path: the layer\'s output is not used, or '
        "is detached (.detach(), .data, .numpy(), argmax) on the way; choose another layer or target"
    )


class SplitModule(torch.nn.Module):
    """`gradcam.Split` of two functions of torch tensors, as a module with one layer."""

    def __init__(self, features: Callable[..., torch.Tensor], head: Callable[..., Any], layer: str) -> None:
        super().__init__()
        self._layer, self._head = layer, head
        self.add_module(layer, _Function(features))
        self.eval()

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return self._head(self.get_submodule(self._layer)(*args, **kwargs))


class _Function(torch.nn.Module):
    def __init__(self, function: Callable[..., torch.Tensor]) -> None:
        super().__init__()
        self._function = function

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self._function(*args, **kwargs)
