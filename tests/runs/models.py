"""Small models over plain functions, which other processes can make too."""

from __future__ import annotations

import os
import signal
import sys
import time

import numpy as np
from PIL import Image

import gradcam
from gradcam.runs.local import Watch

LABELS = ("dark", "red", "green")


def features(x):
    return x[:, :, ::4, ::4]


def head(a):
    red, green = a[:, 0].mean((1, 2)), a[:, 1].mean((1, 2))
    return np.stack([0.3 - red - green, red, green], 1)


def preprocess(photographs):
    return np.stack(photographs).transpose(0, 3, 1, 2) / 255.0


def view(photograph):
    return np.asarray(Image.fromarray(photograph).resize((20, 16)))


def model():
    return gradcam.Classifier(gradcam.Split(features, head), preprocess, view, LABELS)


def other_head(a):
    return head(a) * 2


def other_model():
    return gradcam.Classifier(gradcam.Split(features, other_head), preprocess, view, LABELS)


def any_size():
    """A network that sees photographs as large as they are."""
    return gradcam.Classifier(gradcam.Split(features, head), preprocess, None, LABELS)


def deadly_view(photograph):
    """The process dies of a photograph that is blue alone."""
    if photograph[..., 2].min() > 200 and photograph[..., :2].max() < 50:
        os.kill(os.getpid(), signal.SIGKILL)
    return view(photograph)


def deadly():
    return gradcam.Classifier(gradcam.Split(features, head), preprocess, deadly_view, LABELS)


def random_model():
    """Other weights in each process."""
    weight = float.fromhex(os.urandom(4).hex())

    def drawn(a):
        return head(a) * weight

    return gradcam.Classifier(gradcam.Split(features, drawn), preprocess, view, LABELS)


def photographs(folder, count, size=(24, 32)):
    """Files `folder/red/000.png` and `folder/green/001.png` in turn, of noise in that colour."""
    paths = []
    for n in range(count):
        path = folder / LABELS[1 + n % 2] / f"{n:03d}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        values = np.random.default_rng(n).integers(0, 60, (*size, 3), np.uint8)
        values[: size[0] // 2, :, n % 2] += 150
        Image.fromarray(values).save(path)
        paths.append(path)
    return paths


def _once(name):
    """True in the first process that asks, of all that share the folder."""
    try:
        os.close(os.open(name, os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        return False
    return True


def terminating_view(photograph):
    """Green photographs ask the run to end, once: this process, or the one that watches it."""
    if photograph[..., 1].mean() > photograph[..., 0].mean() and _once("terminated"):
        watched = os.environ.get("WATCHED")
        os.kill(os.getppid() if watched else os.getpid(), signal.SIGTERM)
        if watched:
            time.sleep(5)  # the one that watches needs a moment to tell this process
    return view(photograph)


def terminating():
    return gradcam.Classifier(gradcam.Split(features, head), preprocess, terminating_view, LABELS)


def slow_view(photograph):
    time.sleep(0.05)
    return view(photograph)


def slow():
    return gradcam.Classifier(gradcam.Split(features, head), preprocess, slow_view, LABELS)


def deadly_factory():
    """Ray's workers alone die of it."""
    if "ray" in sys.modules:
        os.kill(os.getpid(), signal.SIGKILL)
    return model()


def after(photographs, do):
    """A watch that does something once, after so many photographs."""
    seen = 0

    def tell(new, errors):
        nonlocal seen
        before, seen = seen, seen + new
        if before < photographs <= seen:
            do()

    return Watch(tell=tell)
