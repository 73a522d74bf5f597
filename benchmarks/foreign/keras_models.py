"""keras.applications, on the backend that KERAS_BACKEND names: JAX or torch."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Callable, Iterator
from typing import Any

from benchmarks.foreign.axes import Truth
from benchmarks.foreign.judge import Tap
from benchmarks.foreign.rows import Case, Row

__all__ = ["rows"]

NAMES = [
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "EfficientNetB0",
    "EfficientNetV2B0",
    "DenseNet121",
    "ResNet50",
    "ResNet50V2",
    "VGG16",
    "VGG19",
    "Xception",
    "InceptionV3",
    "InceptionResNetV2",
    "NASNetMobile",
    "ConvNeXtTiny",
]
SIZES = {"InceptionV3": (160, 160), "InceptionResNetV2": (160, 160), "Xception": (96, 96),
         "MobileNet": (96, 64), "ResNet50": (64, 96)}  # fmt: skip
"""Of the input; 64 x 64 for the rest."""
SETTINGS: dict[str, dict[str, Any]] = {"MobileNet": {"alpha": 0.25}, "MobileNetV2": {"alpha": 0.35}}


def class_score(outputs: Any) -> Any:
    found = outputs.max(1)
    return found.values if hasattr(found, "values") else found


@contextlib.contextmanager
def _counted(model: Any, passes: list[int]) -> Iterator[None]:
    """Every call of the model itself: on JAX every trace."""
    kind = type(model)
    own = kind.call

    def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if self is model:
            passes.append(1)
        return own(self, *args, **kwargs)

    kind.call = call
    try:
        yield
    finally:
        kind.call = own


def _torch_tap(model: Any, inputs: Any) -> Callable[[str], Tap]:
    """On torch: the same replaced calls, and torch's autograd."""
    import torch

    from benchmarks.foreign.oracle import disturbed
    from benchmarks.foreign.oracle_jax import keras_calls, keras_layers, split_path

    layers = dict(keras_layers(model))

    def tap(path: str) -> Tap:
        place = split_path(path, set(layers))

        def run(inputs: Any, change: Callable[[Any], Any]) -> Any:
            place.reset(change)
            with keras_calls(layers, place):
                return class_score(model(inputs, training=False))

        used: list[Any] = []

        def keep(value: Any) -> Any:
            used.append(value.clone())
            return used[0].clone()

        scores = run(inputs, keep)
        behind = 1 - place.before / max(place.calls, 1)
        (gradient,) = torch.autograd.grad(scores.sum(), used[0], allow_unused=True)
        with torch.no_grad():
            free = run(disturbed(inputs), lambda value: value)
            held = run(disturbed(inputs), lambda _: used[0].clone())
        leak = float((held - scores).abs().max() / (free - scores).abs().max())
        found = None if gradient is None else gradient.numpy()
        return Tap(used[0].detach().numpy(), found, place.kind, behind, leak)

    return tap


def made(name: str, size: tuple[int, int]) -> Case:
    import keras
    import numpy as np

    keras.utils.set_random_seed(0)
    settings = {"include_preprocessing": False} if "V3" in name and "Mobile" in name else {}
    if "EfficientNetV2" in name or "ConvNeXt" in name:
        settings = {"include_preprocessing": False}
    settings |= SETTINGS.get(name, {})
    build = getattr(keras.applications, name)
    model = build(
        weights=None, input_shape=(*size, 3), classes=10, classifier_activation=None, **settings
    )
    values = np.random.default_rng(0).standard_normal((2, *size, 3)).astype(np.float32)
    truth = Truth(size, "channels_last", torch=False)
    counted = functools.partial(_counted, model)
    if keras.backend.backend() == "torch":
        import torch

        inputs: Any = torch.tensor(values)
        return Case(model, inputs, truth, _torch_tap(model, inputs), None, counted)
    import jax.numpy as jnp

    from benchmarks.foreign.oracle_jax import keras_tap

    inputs = jnp.asarray(values)
    return Case(model, inputs, truth, keras_tap(model, class_score, inputs), None, counted)


def rows() -> list[Row]:
    import keras

    names = list(NAMES)
    if keras.backend.backend() == "torch":  # which NASNet refuses
        names[names.index("NASNetMobile")] = "MobileNetV3Large"
    return [Row(name, functools.partial(made, name, SIZES.get(name, (64, 64)))) for name in names]
