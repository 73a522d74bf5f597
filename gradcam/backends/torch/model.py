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
from gradcam.backends.torch import guided
from gradcam.backends.torch.attention import ATTENTION, AttentionMode
from gradcam.backends.torch.gradients import (
    UnreachedError,
    detached,
    score_curvatures,
    score_gradients,
)
from gradcam.backends.torch.states import (
    KeptGrad,
    Session,
    is_wrapper,
    named,
    obstacle,
    outside_inference,
    plain,
    quiet,
    submodule,
    uncompiled,
    unwrapped,
)
from gradcam.backends.torch.tape import Tape
from gradcam.backends.torch.variants import input_scorer
from gradcam.inputs import arguments, first_array, with_first_array
from gradcam.model import INPUT, Capture, Layer, PooledAxes, Scorer, unknown_layer

__all__ = ["SplitModule", "TorchModel", "path_of"]

Tap = Callable[[str, torch.Tensor], torch.Tensor]
_PATH = re.compile(r"(?P<module>[^#\[]*)(#(?P<call>\d+))?(?P<item>\[.*)?$")


def path_of(model: torch.nn.Module, layer: torch.nn.Module) -> str:
    """The path of a module that is in the model."""
    wanted = unwrapped(layer)
    for path, module in named(unwrapped(model)):
        if module is wanted:
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

    def __post_init__(self) -> None:
        module = unwrapped(self.module)
        if isinstance(module, torch.jit.ScriptModule):
            raise TypeError(f"the model is TorchScript{obstacle(module).partition(',')[2]}")
        first = next(module.parameters(), None)
        if (
            first is not None and first.is_inference()
        ):  # made under inference_mode: no graph can keep such weights
            with torch.inference_mode(False):
                module = copy.deepcopy(module)
        object.__setattr__(self, "module", module)

    @property
    def trains(self) -> bool:
        """Whether it is in training mode, which is not allowed."""
        return not self.allow_training and self._trains()

    @contextlib.contextmanager
    def _tapped(self, modules: Sequence[str], tap: Tap) -> Iterator[None]:
        """Every output of these modules passes through `tap` while the context lasts, in this thread alone."""
        if self.trains:
            raise ValueError(
                "the model is in training mode, where samples of a batch depend on each other and on chance; call "
                "model.eval() first, or pass allow_training=True"
            )
        with contextlib.ExitStack() as stack:
            stack.enter_context(plain)
            stack.enter_context(uncompiled())
            session = stack.enter_context(Session())
            for path in dict.fromkeys(modules):
                if path == ATTENTION:
                    stack.enter_context(AttentionMode(tap))
                elif path != INPUT:
                    hook = _Hook(path, tap, session)
                    stack.callback(self._submodule(path).register_forward_hook(hook).remove)
            yield

    def _named(self) -> Iterator[tuple[str, torch.nn.Module]]:
        """Every layer that can be tapped, by its path."""
        return ((path, module) for path, module in named(self.module) if path)

    def _submodule(self, path: str) -> torch.nn.Module:
        found = submodule(self.module, path)
        if found is None:
            raise unknown_layer(path, (known for known, _ in named(self.module, all_names=True)))
        return found

    def _trains(self) -> bool:
        return _trains(self.module)

    def _forward(self, inputs: Inputs) -> Outputs:
        args, kwargs = arguments(inputs)
        return self.module(*args, **kwargs)

    def channels_first_at(self, path: str) -> bool | None:
        """What the layer's type says, or else what is in it, or what it is in; of the input, the first layer's type."""
        if path == INPUT:
            return next(
                (first for _, module in self._named() if (first := _says(module)) is not None), None
            )
        name = _module_of(path)
        while name:
            module = submodule(self.module, name)
            if module is None:
                return None
            said = {_says(one) for one in module.modules()} - {None}
            if said:
                return said.pop() if len(said) == 1 else None
            name = name.rpartition(".")[0]
        return None

    def layers(self, inputs: Inputs) -> list[Layer]:
        found: list[Layer] = []
        modules = dict(self._named())

        def tap(path: str, value: torch.Tensor) -> torch.Tensor:
            found.append(Layer(path, tuple(value.shape), type(modules[_module_of(path)]).__name__))
            return value

        with quiet(), self._tapped(list(modules), tap):
            self._forward(inputs)
        return found

    def attentions(self, inputs: Inputs) -> list[Layer]:
        """The attention weights (N, heads, T, T) that can be had, in the order in which they run."""
        found: list[Layer] = []

        def tap(path: str, value: torch.Tensor) -> torch.Tensor:
            found.append(Layer(path, tuple(value.shape), "attention"))
            return value

        with quiet(), self._tapped([ATTENTION], tap):
            self._forward(inputs)
        return found

    def capture(
        self,
        inputs: Inputs,
        layers: Sequence[str],
        target: Callable[[Outputs], Array] | None,
        pooled: PooledAxes | None = None,
        at: Sequence[Array] | None = None,
        curvature: bool = False,
    ) -> Capture:
        given = dict(zip(layers, at, strict=True)) if at is not None else {}
        with quiet():  # which also puts the caller's grad mode back
            outputs, found = self._forward_from(inputs, layers, given, target is not None)
            if target is None:
                return Capture(outputs, None, found, ())
            torch.set_grad_enabled(True)
            scores = target(outputs)
            if isinstance(scores, torch.Tensor) and not scores.requires_grad:
                # the model left the graph in a no_grad block of its own; once more, without heeding such blocks
                with KeptGrad() as kept:
                    outputs, found = self._forward_from(inputs, layers, given, True, kept)
                    scores = target(outputs)
            try:
                if curvature:
                    gradients, curvatures = score_curvatures(scores, found, layers)
                else:
                    gradients, curvatures = score_gradients(scores, found, layers, pooled), ()
            except UnreachedError as error:
                getattr(target, "resolve", lambda _: None)(
                    outputs
                )  # which may know better, as of no detections at all
                raise RuntimeError(f"{error}{obstacle(self.module)}") from None
        activations = tuple(a.detach() for a in found)
        return Capture(
            tree_map(detached, outputs), detached(scores), activations, gradients, curvatures
        )

    def _forward_from(
        self,
        inputs: Inputs,
        layers: Sequence[str],
        given: dict[str, torch.Tensor],
        differentiate: bool,
        kept: KeptGrad | None = None,
    ) -> tuple[Outputs, tuple[torch.Tensor, ...]]:
        """A forward pass whose graph, where one is wanted, starts at the layers: outputs, and the layers' values."""
        found: dict[str, torch.Tensor] = {}

        def tap(path: str, value: torch.Tensor) -> torch.Tensor:
            if path not in layers:
                return value
            value = outside_inference(given[path]) if path in given else value
            if not differentiate:
                found[path] = value.clone()
                return value
            if torch.is_inference_mode_enabled():
                raise RuntimeError(
                    f'layer "{path}" runs inside a torch.inference_mode() block of the model, where nothing can be '
                    "differentiated; use torch.no_grad() there"
                )
            if (
                not value.requires_grad or path in given
            ):  # the first layer, or one beside it: the graph starts here
                value = value.detach().requires_grad_()
            found[path] = value
            torch.set_grad_enabled(True)
            if kept is not None:
                kept.on = True
            return value.clone()  # a clone, for what then writes in place

        inputs = outside_inference(inputs)
        if INPUT in layers:
            inputs = with_first_array(inputs, tap(INPUT, first_array(inputs)))
        with self._tapped([_module_of(path) for path in layers], tap):
            outputs = self._forward(inputs)
        if missing := [path for path in layers if path not in found]:
            raise _never_ran(missing[0], self)
        return outputs, tuple(found[path] for path in layers)

    def replay(
        self, inputs: Inputs, layers: Sequence[str], activations: Sequence[Array]
    ) -> Outputs:
        given, used = dict(zip(layers, activations, strict=True)), set()

        def tap(path: str, value: torch.Tensor) -> torch.Tensor:
            if path not in given:
                return value
            used.add(path)
            return given[path].clone()

        with quiet(), self._tapped([_module_of(path) for path in layers], tap):
            outputs = self._forward(inputs)
        if missing := [path for path in layers if path not in used]:
            raise _never_ran(missing[0], self)
        return outputs

    def biases(self, inputs: Inputs) -> list[tuple[str, torch.Tensor]]:
        """What each layer adds that does not depend on its input, its output at zero, as they run."""
        found: list[tuple[str, torch.Tensor]] = []
        calls: dict[str, int] = {}
        with quiet(), self._tapped((), lambda path, value: value), contextlib.ExitStack() as stack:
            session = Session.innermost()
            for path, module in self._named():
                if isinstance(module, AFFINE):

                    def add(module: Any, args: Any, output: torch.Tensor, path: str = path) -> None:
                        if Session.innermost() is session:
                            n = calls[path] = calls.get(path, -1) + 1
                            zero = module.forward(torch.zeros_like(args[0]))
                            found.append((f"{path}#{n}" if n else path, zero))

                    stack.callback(module.register_forward_hook(add).remove)
            self._forward(inputs)
        return found

    def scorer(self, inputs: Inputs, layer: str, target: Callable[[Outputs], Array]) -> Scorer:
        """Variants of the input run as few batches; those of a layer run its head alone, from a tape."""
        if layer == INPUT:
            return input_scorer(self.module, self._forward, inputs, target)
        with quiet():
            tape = self._tape(inputs, layer)

        def replayed(variants: torch.Tensor) -> torch.Tensor:
            with quiet():
                return torch.stack(
                    [target(self.replay(inputs, (layer,), (one,))) for one in variants]
                )

        return tape.scorer(target, replayed)

    def _tape(self, inputs: Inputs, layer: str) -> Tape:
        tape = Tape()

        def tap(path: str, value: torch.Tensor) -> torch.Tensor:
            return tape.start(value.clone()) if path == layer else value

        with self._tapped([_module_of(layer)], tap), tape:
            outputs = self._forward(inputs)
        if not tape.started:
            raise _never_ran(layer, self)
        tape.end(outputs)
        return tape

    def input_gradients(
        self, inputs: Inputs, target: Callable[[Outputs], Array], rule: str, smooth: str
    ) -> Capture:
        def run(inputs: Inputs) -> Outputs:
            with self._tapped((), lambda path, value: value):
                return self._forward(inputs)

        return guided.input_gradients(run, inputs, target, rule, smooth)

    def compile(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any) -> Any:
            with quiet():
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


AFFINE = (
    torch.nn.modules.conv._ConvNd,
    torch.nn.Linear,
    torch.nn.modules.batchnorm._BatchNorm,
)
"""Layers whose output at zero, in evaluation mode, is their bias."""


_CHANNELS_FIRST = re.compile(
    r"(Lazy)?(Conv(Transpose)?|BatchNorm|InstanceNorm|.*Pool)\d(d|D)|GroupNorm"
)
_CHANNELS_LAST = re.compile(
    r"Embedding(Bag)?|GRU|LSTM|RNN|LayerNorm|(Lazy)?Linear|MultiheadAttention|RMSNorm"
)


def _says(module: torch.nn.Module) -> bool | None:
    """Where PyTorch's own layer of this very type has its channels; a subclass may have them elsewhere."""
    if not type(module).__module__.startswith("torch.nn.modules"):
        return None
    name = type(module).__name__
    return (
        True
        if _CHANNELS_FIRST.fullmatch(name)
        else False
        if _CHANNELS_LAST.fullmatch(name)
        else None
    )


def _trains(module: torch.nn.Module) -> bool:
    """Whether any module is in training mode; `module.modules()` would take longer than many a layer."""
    waiting: list[torch.nn.Module | None] = [module]
    for one in waiting:  # which grows on the way
        if one is not None:
            if one.training and not is_wrapper(one):
                return True
            if one._modules:
                waiting += one._modules.values()
    return False


class _Hook:
    """A forward hook that names each call of its module: "path", then "path#1", "path#2"."""

    def __init__(self, path: str, tap: Tap, session: Session) -> None:
        self.path, self.tap, self.session, self.calls = path, tap, session, 0

    def __call__(self, module: torch.nn.Module, args: Any, output: Any) -> Any:
        if not self.session.active:  # another thread's pass, or an explanation inside this one
            return None
        path = f"{self.path}#{self.calls}" if self.calls else self.path
        self.calls += 1
        return _taps(path, output, self.tap)


def _floating(value: Any) -> bool:
    return isinstance(value, torch.Tensor) and value.is_floating_point()


def _never_ran(path: str, model: TorchModel) -> RuntimeError:
    return RuntimeError(
        f'layer "{path}" gave no floating-point tensor in this forward pass: it did not run, or not that often, or '
        "returns a collection, whose items have paths of their own; gradcam.layers(model, inputs) lists what ran"
        + obstacle(model.module)
    )


class SplitModule(torch.nn.Module):
    """`gradcam.Split` of two functions of torch tensors, as a module with one layer."""

    def __init__(
        self, features: Callable[..., torch.Tensor], head: Callable[..., Any], layer: str
    ) -> None:
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
