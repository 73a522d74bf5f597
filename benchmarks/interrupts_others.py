"""Ctrl-C at every instant of a call in JAX's libraries and in Keras: what stays behind.

    python -m benchmarks.interrupts_others nnx --tries 500
    python -m benchmarks.interrupts_others keras --every 97     # KERAS_BACKEND=torch: its other one

See `benchmarks.interrupts`. Each try begins with no compiled program, because nearly all of Python
runs while JAX traces. After it the user's own calls, and an explanation, must give what they gave
before, bit for bit.
"""

from __future__ import annotations

import functools
import gc
import os
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np

import gradcam
from benchmarks import instants

os.environ.setdefault("KERAS_BACKEND", "jax")

X = np.linspace(-1, 1, 2 * 8 * 8 * 3, dtype=np.float32).reshape(2, 8, 8, 3)


class Subject(NamedTuple):
    """A model of the user's, and what belongs to it."""

    model: Any
    inputs: Any
    layer: str
    own: dict[str, Callable[[], Any]]
    """The user's own calls of it."""
    held: Callable[[], Any]
    """All that the model holds, as values that can be compared."""


def linen() -> Subject:
    import flax.linen as nn
    import jax

    class Net(nn.Module):
        @nn.compact
        def __call__(self, x: Any, train: bool = False) -> Any:
            x = nn.Conv(4, (3, 3), name="conv")(x)
            x = nn.relu(nn.BatchNorm(use_running_average=not train, name="norm")(x))
            x = nn.Dropout(0.5, deterministic=not train)(x)
            return nn.Dense(5, name="head")(x.mean((1, 2)))

    net, x = Net(), jax.numpy.asarray(X)
    variables = net.init(jax.random.key(0), x)
    jitted = jax.jit(net.apply)
    own = {"eager": lambda: net.apply(variables, x), "jit": lambda: jitted(variables, x)}
    return Subject((net, variables), x, "conv", own, lambda: arrays(variables))


def nnx() -> Subject:
    import jax
    from flax import nnx

    class Net(nnx.Module):
        def __init__(self, rngs: Any) -> None:
            self.conv = nnx.Conv(3, 4, (3, 3), rngs=rngs)
            self.norm = nnx.BatchNorm(4, rngs=rngs)
            self.drop = nnx.Dropout(0.5, rngs=rngs)
            self.head = nnx.Linear(4, 5, rngs=rngs)

        def __call__(self, x: Any) -> Any:
            return self.head(self.drop(nnx.relu(self.norm(self.conv(x)))).mean((1, 2)))

    net, x = Net(nnx.Rngs(0)), jax.numpy.asarray(X)
    running = nnx.clone(net)
    running.eval()
    jitted = nnx.jit(lambda net, x: net(x))
    own = {"eager": lambda: running(x), "jit": lambda: jitted(running, x)}

    def held() -> Any:
        nodes = [node for _, node in nnx.iter_graph(net) if isinstance(node, nnx.Module)]
        return [(id(n), type(n), attributes(n)) for n in nodes], arrays(nnx.state(net))

    return Subject(net, x, "conv", own, held)


def equinox() -> Subject:
    import equinox as eqx
    import jax

    class Net(eqx.Module):
        conv: Any
        norm: Any
        drop: Any
        head: Any

        def __init__(self, key: Any) -> None:
            self.conv = eqx.nn.Conv2d(3, 4, 3, key=key)
            self.norm = eqx.nn.BatchNorm(4, "batch", mode="ema")
            self.drop = eqx.nn.Dropout(0.5)
            self.head = eqx.nn.Linear(4, 5, key=key)

        def __call__(self, x: Any, state: Any) -> Any:
            x, state = self.norm(self.conv(x), state)
            return self.head(self.drop(jax.nn.relu(x)).mean((1, 2))), state

    net, state = eqx.nn.make_with_state(Net)(jax.random.key(0))
    x = jax.numpy.asarray(X.transpose(0, 3, 1, 2))
    calm = eqx.nn.inference_mode(net)
    batched = jax.vmap(lambda x: calm(x, state)[0], axis_name="batch")
    own = {"eager": lambda: batched(x), "jit": functools.partial(jax.jit(batched), x)}
    return Subject((net, state), x, "conv", own, lambda: arrays((net, state)))


def haiku() -> Subject:
    import haiku as hk
    import jax

    def network(x: Any, train: bool = False) -> Any:
        x = hk.Conv2D(4, 3, name="conv")(x)
        x = jax.nn.relu(hk.BatchNorm(True, True, 0.9, name="norm")(x, train))
        x = hk.dropout(hk.next_rng_key(), 0.5, x) if train else x
        return hk.Linear(5, name="head")(x.mean((1, 2)))

    net, x = hk.transform_with_state(network), jax.numpy.asarray(X)
    params, state = net.init(jax.random.key(0), x, True)
    jitted = jax.jit(net.apply)
    own = {
        "eager": lambda: net.apply(params, state, None, x)[0],
        "jit": lambda: jitted(params, state, None, x)[0],
    }
    return Subject((net, params, state), x, "conv", own, lambda: arrays((params, state)))


def keras() -> Subject:
    import keras

    layers = keras.layers
    keras.utils.set_random_seed(0)
    parts = (
        layers.Input((8, 8, 3)),
        layers.Conv2D(4, 3, name="conv"),
        keras.Sequential([layers.BatchNormalization(name="norm"), layers.ReLU()], name="block"),
        layers.Dropout(0.5, name="drop"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(5, name="head"),
    )
    net = keras.Sequential(parts)
    net(X)
    x = keras.ops.convert_to_tensor(X)

    def held() -> Any:
        nodes = [net, *net._flatten_layers()]
        weights = [np.asarray(keras.ops.convert_to_numpy(v.value)).tobytes() for v in net.variables]
        return [(type(n), n.trainable, attributes(n)) for n in nodes], weights

    own = {
        "eager": lambda: net(x, training=False),
        "predict": lambda: net.predict(X, verbose=0),
        "grad": lambda: net(x),
    }
    return Subject(net, x, "conv", own, held)


LIBRARIES = {f.__name__: f for f in (linen, nnx, equinox, haiku, keras)}


def calls(subject: Subject) -> dict[str, Callable[[], Any]]:
    """Calls that go through every part of the backends, each with no compiled program."""
    model, x, layer = subject.model, subject.inputs, subject.layer
    found: dict[str, Callable[[], Any]] = {
        "explain": lambda: gradcam.explain(model, x, layer, 1),
        "no layer named": lambda: gradcam.explain(model, x, target=1),
        "two targets": lambda: gradcam.explain(model, x, layer, [[1, 2]]),
        "ablation-cam": lambda: gradcam.explain(model, x, layer, 1, "ablation-cam"),
        "full-grad": lambda: gradcam.explain(model, x, None, 1, "full-grad"),
        "guided": lambda: gradcam.guided_backprop(model, x, 1),
        "compare": lambda: gradcam.compare(model, x, layer, 1, ["grad-cam", "eigen-cam"]),
        "layers": lambda: gradcam.layers(model, x),
        "verify": lambda: gradcam.verify(model, x, layer, 1, directions=1, channels=1),
    }

    def cold(call: Callable[[], Any]) -> Callable[[], Any]:
        def run() -> Any:
            for program in PROGRAMS:
                program.cache_clear()
            return call()

        return run

    return {name: cold(call) for name, call in found.items()}


PROGRAMS: list[Any] = []
"""The tables of compiled programs."""


def find_programs() -> None:
    compiled = sys.modules.get("gradcam.backends.jax.compiled")
    if compiled is not None:
        PROGRAMS[:] = [o.program for o in gc.get_objects() if type(o) is compiled.Compiled]


# ------------------------------------------------------------------------------------- what is held


def arrays(tree: Any) -> Any:
    """Every leaf of a tree, bit for bit."""
    import jax

    def bits(leaf: Any) -> Any:
        if not hasattr(leaf, "dtype"):
            return leaf
        if jax.numpy.issubdtype(leaf.dtype, jax.dtypes.prng_key):
            leaf = jax.random.key_data(leaf)
        return np.asarray(leaf).tobytes()

    return [bits(leaf) for leaf in jax.tree.leaves(tree)]


def attributes(value: Any) -> list[tuple[str, int]]:
    return sorted((name, id(held)) for name, held in vars(value).items())


def process() -> dict[str, Any]:
    """What frameworks keep for the process and for this thread."""
    found: dict[str, Any] = {}
    for name, module in list(sys.modules.items()):
        if name.partition(".")[0] in ("jax", "flax", "haiku", "keras"):
            for key, value in list(vars(module).items()):
                if isinstance(value, threading.local):
                    found[f"{name}.{key}"] = repr(sorted(vars(value).items()))
    if "jax" in sys.modules:
        import jax
        from jax._src import config, core

        from gradcam._arrays import SHARDED
        from gradcam.backends.jax.tapped import current

        for module in (config, core):
            for key, value in vars(module).items():
                if isinstance(value, config.config_ext.Config):
                    found[key] = value.get_local(), value.get_global()
        guard = config.guard_lib.thread_local_state()
        found["guards"] = [getattr(guard, a) for a in dir(guard) if a[0] != "_"]
        found["jax"] = dict(jax.config.values)
        found["gradcam"] = current(), SHARDED.get()
    if "torch" in sys.modules:
        import torch

        from gradcam.backends.torch.sessions import Session

        found["torch"] = torch.is_grad_enabled(), torch._C._len_torch_function_stack()
        found["dispatch"] = torch._C._len_torch_dispatch_stack(), Session.innermost()
        found["torch random"] = hash(torch.get_rng_state().numpy().tobytes())
    found["random"] = hash(np.random.get_state()[1].tobytes())  # noqa: NPY002
    return found


def bits_of(value: Any) -> bytes:
    return np.asarray(value.detach() if hasattr(value, "detach") else value).tobytes()


class Trial:
    """What interrupted calls of a subject leave behind."""

    def __init__(self, subject: Subject) -> None:
        self.subject = subject
        self.later = {
            **subject.own,
            "gradcam.explain": lambda: (
                gradcam.explain(subject.model, subject.inputs, subject.layer, 1).maps
            ),
        }
        for _ in range(2):  # what is made once, is made
            self.before = {name: bits_of(call()) for name, call in self.later.items()}

    def changed(
        self, call: Callable[[], Any], interrupt: Callable[[Callable[[], Any]], bool]
    ) -> Iterator[str]:
        """What of the model, of the process or of this thread an interrupted call changes."""
        held, around = self.subject.held(), process()
        if not interrupt(call):
            yield "not interrupted"
        if self.subject.held() != held:
            yield "the model has changed"
        for name, value in process().items():
            if name in around and value != around[name]:
                yield f"{name}: {around[name]} became {value}"[:300]

    def results(self) -> Iterator[str]:
        """Which of the user's calls give something else than before."""
        for name, own in self.later.items():
            try:
                if bits_of(own()) != self.before[name]:
                    yield f"{name} gives something else"
            except Exception as error:
                yield f"{name} raises {error!r}"[:200]

    def __call__(
        self, call: Callable[[], Any], interrupt: Callable[[Callable[[], Any]], bool]
    ) -> Iterator[str]:
        yield from self.changed(call, interrupt)
        yield from self.results()


def main() -> None:
    subject = LIBRARIES[sys.argv.pop(1)]()
    trial = Trial(subject)
    all_calls = calls(subject)
    for call in all_calls.values():
        call()
    find_programs()
    trials = {name: (call, functools.partial(trial, call)) for name, call in all_calls.items()}
    instants.main(__doc__.splitlines()[0], trials)


if __name__ == "__main__":
    main()
