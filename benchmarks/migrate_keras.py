"""The same map by tf-keras-vis, by the example of keras.io, and by ours: docs/migrate.md.

    make migrate, or .venv-migrate/bin/python benchmarks/migrate_keras.py

Theirs need TensorFlow, ours runs Keras on JAX. Keras has one backend in a process, so this script
runs itself in two: one model, saved in a file, two inputs, one layer, one class. Both results are
scaled to [0, 1], as tf-keras-vis and the example do. They are compared as the layer has them: its
`zoom` puts the first and the last place on the first and the last pixel, ours (as PyTorch)
does not.
The page shows the source of both functions as it ran.
"""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

BEGIN, END = "<!-- written by benchmarks/migrate_keras.py -->", "<!-- end of it -->"
TOLERANCE = 1e-5
PAGE = Path(__file__).parent.parent / "docs" / "migrate.md"


def vis_grad_cam(model: Any, x: Any) -> Any:
    from tf_keras_vis.gradcam import Gradcam
    from tf_keras_vis.utils.model_modifiers import ReplaceToLinear
    from tf_keras_vis.utils.scores import CategoricalScore

    gradcam = Gradcam(model, model_modifier=ReplaceToLinear(), clone=True)
    return gradcam(CategoricalScore(3), x, penultimate_layer="last", expand_cam=False)


def our_grad_cam(model: Any, x: Any) -> Any:
    import keras

    import gradcam

    logits = keras.models.clone_model(model)
    logits.set_weights(model.get_weights())
    logits.layers[-1].activation = keras.activations.linear
    return gradcam.explain(logits, x, layer="last", target=3).maps


def vis_score_cam(model: Any, x: Any) -> Any:
    from tf_keras_vis.scorecam import Scorecam
    from tf_keras_vis.utils.scores import CategoricalScore

    scorecam = Scorecam(model, clone=True)
    return scorecam(CategoricalScore(3), x, penultimate_layer="last", expand_cam=False)


def our_score_cam(model: Any, x: Any) -> Any:
    import gradcam

    return gradcam.explain(model, x, "last", 3, "score-cam").maps


def keras_io(model: Any, x: Any) -> Any:
    import keras
    import tensorflow as tf

    grad_model = keras.Model(model.inputs, [model.get_layer("last").output, model.output])
    with tf.GradientTape() as tape:
        last_conv_layer_output, preds = grad_model(x[:1])
        class_channel = preds[:, 3]
    grads = tape.gradient(class_channel, last_conv_layer_output)
    pooled_grads = tf.reduce_mean(grads, axis=(0, 1, 2))
    heatmap = last_conv_layer_output[0] @ pooled_grads[..., tf.newaxis]
    heatmap = tf.squeeze(heatmap)
    return tf.maximum(heatmap, 0) / tf.math.reduce_max(heatmap)


def our_raw(model: Any, x: Any) -> Any:
    import gradcam

    return gradcam.explain(model, x[:1], layer="last", target=3).maps


PAIRS: tuple[tuple[str, str, Callable[..., Any], Callable[..., Any], str], ...] = (
    ("tf-keras-vis", "Grad-CAM of a class's logit", vis_grad_cam, our_grad_cam, ""),
    (
        "tf-keras-vis",
        "Score-CAM",
        vis_score_cam,
        our_score_cam,
        "Theirs puts the outputs through a softmax once more and weighs channels by those scores; "
        "ours weighs them by the softmax of the scores over channels, as the paper's algorithm has "
        "it. Masks are stretched from corner to corner there.",
    ),
    ("keras.io", "the example's `make_gradcam_heatmap`, of one photograph", keras_io, our_raw, ""),
)


def save_model(path: Path) -> None:
    """A classifier with a softmax, and weights of a seed."""
    import keras

    keras.utils.set_random_seed(4)
    x = inputs = keras.Input((32, 32, 3))
    for n, width in enumerate((16, 32)):
        name = "last" if n else "first"
        x = keras.layers.Conv2D(width, 3, padding="same", name=name)(x)
        x = keras.layers.BatchNormalization()(x)
        x = keras.layers.ReLU()(x)
        if n == 0:
            x = keras.layers.MaxPooling2D()(x)
    x = keras.layers.Dense(10, activation="softmax")(keras.layers.Flatten()(x))
    keras.Model(inputs, x).save(path)


def child(folder: Path, side: int) -> None:
    """Run one side of all pairs in this process's backend, and keep what they give."""
    import keras

    model = keras.saving.load_model(folder / "model.keras")
    x = np.load(folder / "x.npy")
    for n, pair in enumerate(PAIRS):
        np.save(folder / f"{n}-{side}.npy", np.asarray(pair[2 + side](model, x), np.float64))


def scaled(maps: np.ndarray) -> np.ndarray:
    """Each map from its minimum, 0, to its maximum, 1."""
    low, high = (f(maps, axis=(-2, -1), keepdims=True) for f in (np.min, np.max))
    return (maps - low) / (high - low)


def source(function: Callable[..., Any]) -> str:
    """What is inside of a function, as a user writes it."""
    lines = textwrap.dedent("".join(inspect.getsourcelines(function)[0][1:])).strip()
    return lines.replace("return ", "maps = ")


def page(gaps: list[float]) -> str:
    """The part of the page."""
    parts, library = [], ""
    for (name, what, theirs, ours, reason), gap in zip(PAIRS, gaps, strict=True):
        if name != library:
            parts.append(f"## {name}\n")
            library = name
        verdict = f"The maps differ by {gap:.0e} of the maximum."
        if gap > TOLERANCE:
            verdict += f" {reason}"
        parts.append(
            f"### {what}\n\n{name}:\n\n```py\n{source(theirs)}\n```\n\n"
            f"gradcam, Keras on JAX:\n\n```py\n{source(ours)}\n```\n\n{verdict}\n"
        )
    return "\n".join(parts)


def main() -> int:
    """Run both sides, compare, and write the page."""
    if len(sys.argv) > 1:
        child(Path(sys.argv[1]), int(sys.argv[2]))
        return 0
    gaps = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        np.save(folder / "x.npy", np.random.default_rng(0).normal(size=(2, 32, 32, 3)).astype("f4"))
        os.environ["KERAS_BACKEND"] = "jax"
        save_model(folder / "model.keras")
        for side, backend in enumerate(("tensorflow", "jax")):
            environment = {**os.environ, "KERAS_BACKEND": backend}
            command = [sys.executable, __file__, str(folder), str(side)]
            subprocess.run(command, env=environment, check=True)
        for n, (library, what, *_) in enumerate(PAIRS):
            theirs, ours = (np.load(folder / f"{n}-{side}.npy") for side in (0, 1))
            gaps.append(float(np.abs(scaled(theirs) - scaled(ours.reshape(theirs.shape))).max()))
            print(f"{library}, {what}: {gaps[-1]:.1e}")
    text = PAGE.read_text(encoding="utf-8")
    written = f"{BEGIN}\n\n{page(gaps)}\n{END}"
    pattern = re.compile(f"{re.escape(BEGIN)}.*{re.escape(END)}", re.DOTALL)
    PAGE.write_text(pattern.sub(lambda _: written, text), encoding="utf-8")
    return int(any(gap > TOLERANCE and not pair[4] for pair, gap in zip(PAIRS, gaps, strict=True)))


if __name__ == "__main__":
    sys.exit(main())
