"""The oracle in JAX: a tap of this file's own in Flax, Equinox and Keras, and `jax.grad`. Nothing
of gradcam.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from benchmarks.foreign.judge import Tap

__all__ = ["Place", "keras_tap", "linen_tap", "objects_tap", "split_path", "tapped"]


@dataclass
class Place:
    """One output in the model, and what is done to it while the model runs.

    name: of the layer; call: which of its calls; keys: of the item of what it returns.
    change: from the value to what is put in its place. kept: the value itself. before, calls: of
        leaf layers.
    """

    name: str
    call: int
    keys: list[Any]
    change: Callable[[Any], Any] = lambda value: value
    kept: list[Any] = field(default_factory=list)
    seen: int = 0
    before: int = 0
    calls: int = 0
    kind: str = ""

    def reset(self, change: Callable[[Any], Any]) -> None:
        self.change, self.seen, self.before, self.calls = change, 0, 0, 0
        self.kept.clear()

    def of(self, output: Any, kind: str) -> Any:
        """The output of one call of the layer, changed where it is the one that is meant."""
        self.seen += 1
        if self.seen - 1 != self.call:
            return output
        self.before, self.kind = self.calls, kind
        return self._changed(output, self.keys)

    def _changed(self, value: Any, keys: list[Any]) -> Any:
        if not keys:
            self.kept.append(value)
            return self.change(value)
        inner = self._changed(value[keys[0]], keys[1:])
        if isinstance(value, dict):
            return {**value, keys[0]: inner}
        items = list(value)
        items[keys[0]] = inner
        return type(value)(*items) if hasattr(value, "_fields") else type(value)(items)


def split_path(path: str, names: set[str]) -> Place:
    """The place that a path means: the longest name it begins with, and then "#1" and "[0]"."""
    for end in range(len(path), 0, -1):
        rest = re.fullmatch(r"(?:#(\d+))?((?:\[[^\]]+\])*)", path[end:])
        if path[:end] in names and rest is not None:
            texts = re.findall(r"\[([^\]]+)\]", rest[2])
            keys: list[Any] = [int(t) if t.isdigit() else t.strip("'\"") for t in texts]
            return Place(path[:end], int(rest[1] or 0), keys)
    raise KeyError(path)


Run = Callable[[Any], Any]
"""From inputs to each sample's score, while a `Place` is in effect."""


def tapped(
    run: Callable[[Place, Any, Any, str], tuple[Any, Any]], place: Place, inputs: Any
) -> Tap:
    """`run(place, inputs, extra, how)` gives scores (N,) and the value there; how: "free", "added"
    or "held".
    """
    import jax
    import jax.numpy as jnp

    key = jax.random.PRNGKey(7)
    others = jax.tree.map(
        lambda x: (
            jax.random.normal(key, x.shape) * x.std() + x.mean() if x.dtype == "float32" else x
        ),
        inputs,
    )
    _, shape = jax.eval_shape(lambda x: run(place, x, None, "free"), inputs)
    behind = 1 - place.before / max(place.calls, 1)

    def everything(inputs: Any, others: Any) -> Any:
        def total(extra: Any) -> Any:
            scores, value = run(place, inputs, extra, "added")
            return scores.sum(), (scores, value)

        zeros = jnp.zeros(shape.shape, shape.dtype)
        gradient, (scores, value) = jax.grad(total, has_aux=True)(zeros)
        free, _ = run(place, others, None, "free")
        held, _ = run(place, others, value, "held")
        return scores, value, gradient, free, held

    scores, value, gradient, free, held = jax.jit(everything)(inputs, others)
    leak = float(np.abs(held - scores).max() / np.abs(free - scores).max())
    return Tap(np.asarray(value), np.asarray(gradient), place.kind, behind, leak)


def _how(extra: Any, how: str) -> Callable[[Any], Any]:
    changes = {"free": lambda v: v, "added": lambda v: v + extra, "held": lambda v: extra}
    return changes[how]


# -------------------------------------------------------------------------------------- flax.linen


def linen_tap(
    module: Any, variables: Any, score: Callable[[Any], Any], inputs: Any
) -> Callable[[str], Tap]:
    """Of a linen module: its own interceptors."""
    import flax.linen as nn

    names: set[str] = set()

    def applied(inputs: Any) -> Any:
        return module.apply(variables, inputs)

    def run(place: Place, inputs: Any, extra: Any, how: str) -> tuple[Any, Any]:
        place.reset(_how(extra, how))

        def intercept(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
            output = call(*args, **kwargs)
            place.calls += 1
            if _name(context) != place.name:
                return output
            return place.of(output, type(context.module).__name__)

        with nn.intercept_methods(intercept):
            scores = score(applied(inputs))
        return scores, place.kept[0]

    def _name(context: Any) -> str:
        method = "" if context.method_name == "__call__" else f".{context.method_name}"
        return "/".join(context.module.path) + method

    def note(call: Any, args: Any, kwargs: Any, context: Any) -> Any:
        names.add(_name(context))
        return call(*args, **kwargs)

    def tap(path: str) -> Tap:
        import jax

        with nn.intercept_methods(note):
            jax.eval_shape(applied, inputs)
        return tapped(run, split_path(path, names), inputs)

    return tap


# ------------------------------------------------------------------------------------ nnx, equinox


@contextlib.contextmanager
def patched(modules: dict[str, Any], method: str, around: Callable[..., Any]) -> Iterator[None]:
    """Every class of these modules calls `around(module, its own method, *args)` while the context
    lasts.
    """
    with contextlib.ExitStack() as stack:
        for kind in {type(module) for module in modules.values()}:
            own = kind.__dict__.get(method)
            bound = getattr(kind, method)

            def wrapper(self: Any, *args: Any, _bound: Any = bound, **kwargs: Any) -> Any:
                return around(self, _bound, *args, **kwargs)

            type.__setattr__(kind, method, wrapper)
            if own is None:
                stack.callback(type.__delattr__, kind, method)
            else:
                stack.callback(type.__setattr__, kind, method, own)
        yield


def objects_tap(
    build: Callable[[], tuple[dict[str, Any], Callable[[Any], Any]]],
    score: Callable[[Any], Any],
    inputs: Any,
    mapped: bool = False,
) -> Callable[[str], Tap]:
    """Of modules that are objects, by their paths: the one that is meant is known by its identity.

    build: the modules of a private copy of the model, by their paths, and what it is called with.
    mapped: the model takes one sample, as Equinox's models do.
    """
    import jax

    names = set(build()[0])

    def run(place: Place, inputs: Any, extra: Any, how: str) -> tuple[Any, Any]:
        def one(inputs: Any, extra: Any) -> Any:
            modules, forward = build()
            target = modules[place.name]

            inside = [False]

            def around(module: Any, call: Any, *args: Any, **kwargs: Any) -> Any:
                output = call(module, *args, **kwargs)
                place.calls += 1
                if module is not target or inside[0]:
                    return output
                return place.of(output, type(module).__name__)

            def vmap(function: Any, *args: Any, **kwargs: Any) -> Any:
                """`jax.vmap(norm)(tokens)`: the layer's output is that of all tokens."""
                mapped = own_vmap(function, *args, **kwargs)
                if function is not target:
                    return mapped

                def whole(*args: Any, **kwargs: Any) -> Any:
                    inside[0] = True
                    try:
                        output = mapped(*args, **kwargs)
                    finally:
                        inside[0] = False
                    return place.of(output, type(target).__name__)

                return whole

            place.reset(_how(extra, how))
            own_vmap = jax.vmap
            jax.vmap = vmap
            try:
                with patched(modules, "__call__", around):
                    output = forward(inputs)
            finally:
                jax.vmap = own_vmap
            return output, place.kept[0]

        if mapped:
            axes = (0, None if extra is None else 0)
            output, value = jax.vmap(one, in_axes=axes)(inputs, extra)
        else:
            output, value = one(inputs, extra)
        return score(output), value

    return lambda path: tapped(run, split_path(path, names), inputs)


# ------------------------------------------------------------------------------------------- keras


def keras_layers(model: Any, path: str = "") -> Iterator[tuple[str, Any]]:
    for layer in model._layers:
        yield path + layer.name, layer
        yield from keras_layers(layer, f"{path}{layer.name}/")


@contextlib.contextmanager
def keras_calls(layers: dict[str, Any], place: Place) -> Iterator[None]:
    """Each layer's `call` is replaced on the layer itself while the context lasts."""
    target = layers[place.name]
    with contextlib.ExitStack() as stack:
        for layer in {id(one): one for one in layers.values()}.values():
            own = layer.call

            def call(*args: Any, _own: Any = own, _layer: Any = layer, **kwargs: Any) -> Any:
                output = _own(*args, **kwargs)
                place.calls += 1
                return place.of(output, type(_layer).__name__) if _layer is target else output

            object.__setattr__(layer, "call", call)
            stack.callback(object.__delattr__, layer, "call")
        yield


def keras_tap(model: Any, score: Callable[[Any], Any], inputs: Any) -> Callable[[str], Tap]:
    """Of a Keras model on its JAX backend."""
    layers = dict(keras_layers(model))
    values = (
        [v.value for v in model.trainable_variables],
        [v.value for v in model.non_trainable_variables],
    )

    def run(place: Place, inputs: Any, extra: Any, how: str) -> tuple[Any, Any]:
        place.reset(_how(extra, how))
        with keras_calls(layers, place):
            output, _ = model.stateless_call(*values, inputs, training=False)
        return score(output), place.kept[0]

    return lambda path: tapped(run, split_path(path, set(layers)), inputs)
