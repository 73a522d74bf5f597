"""A network of two NumPy functions, which needs no weights and no time."""

from __future__ import annotations

import numpy as np

__all__ = ["features", "head", "preprocess"]


def features(x):
    return x[:, :, ::2, ::2]


def head(a):
    return np.stack([a[:, 0].mean((1, 2)), a[:, 1].mean((1, 2))], 1)


def preprocess(photographs):
    return np.stack(photographs).transpose(0, 3, 1, 2) / 255.0
