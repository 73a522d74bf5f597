"""How alike two maps are, whatever their scale."""

from __future__ import annotations

import numpy as np

__all__ = ["rank_correlation", "ranks", "structural_similarity"]


def ranks(values: np.ndarray) -> np.ndarray:
    """(N, P) -> (N, P): each value's place among its row's, from 0; those that are equal share the mean of theirs."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    found = np.empty(values.shape)
    for row, (at, sorted_) in enumerate(zip(order, ordered, strict=True)):
        starts = np.flatnonzero(np.r_[True, sorted_[1:] != sorted_[:-1]])
        counts = np.diff(np.r_[starts, sorted_.size])
        found[row, at] = np.repeat(starts + (counts - 1) / 2, counts)
    return found


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    r"""Spearman's rank correlation of each a[n] with b[n], over all further axes: (N, ...), (N, ...) -> (N,).

    Pearson's correlation of the `ranks`. In [-1, 1]: 1 where one is a rising function of the other. NaN where either
    is flat, or NaN somewhere, and has no order. Spearman 1904, https://doi.org/10.2307/1412159
    """
    _same(a, b)
    rows = [np.asarray(one, dtype=np.float64).reshape(len(one), -1) for one in (a, b)]
    unordered = np.isnan(rows[0]).any(1) | np.isnan(rows[1]).any(1)
    first, second = map(ranks, rows)
    first -= first.mean(1, keepdims=True)
    second -= second.mean(1, keepdims=True)
    norm = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    flat = norm == 0
    found = np.clip((first * second).sum(1) / np.where(flat, 1, norm), -1, 1)
    return np.array(np.where(flat | unordered, np.nan, found))


def structural_similarity(
    a: np.ndarray, b: np.ndarray, *, window: int = 7, span: float = 1.0
) -> np.ndarray:
    r"""Structural similarity (SSIM) of maps a[n] and b[n], (N, h, w) each: the mean over all whole windows, (N,).

    $$ \frac{(2 \mu_a \mu_b + c_1)(2 \sigma_{ab} + c_2)}{(\mu_a^2 + \mu_b^2 + c_1)(\sigma_a^2 + \sigma_b^2 + c_2)},
       \quad c_1 = (0.01 \, L)^2, c_2 = (0.03 \, L)^2 $$

    with means, variances and the covariance (unbiased) over `window` x `window` pixels of equal weight, a smaller
    window where a map is smaller, and L the `span` of values: 1 for maps in [0, 1]. Wang et al. 2004, eq. 13,
    https://doi.org/10.1109/TIP.2003.819861. In [-1, 1], 1 for equal maps, flat ones too: the constants are the paper's.
    """
    _same(a, b)
    if a.ndim != 3:
        raise ValueError(f"`a` and `b` must be maps (N, h, w), but have shape {a.shape}")
    if window < 2:
        raise ValueError(f"`window` must be at least 2, but is {window}")
    shape = tuple(min(window, n) for n in a.shape[1:])
    first, second = (np.asarray(one, dtype=np.float64) for one in (a, b))
    mean_a, mean_b = _window_means(first, shape), _window_means(second, shape)
    count = shape[0] * shape[1]
    unbiased = count / max(count - 1, 1)
    variance_a = (_window_means(first * first, shape) - mean_a * mean_a) * unbiased
    variance_b = (_window_means(second * second, shape) - mean_b * mean_b) * unbiased
    covariance = (_window_means(first * second, shape) - mean_a * mean_b) * unbiased
    c1, c2 = (0.01 * span) ** 2, (0.03 * span) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return np.array((luminance * structure).mean((1, 2)))


def _window_means(maps: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    """(N, h', w'): the mean of every whole window, along one axis and then the other, so that no window is copied."""
    down = np.lib.stride_tricks.sliding_window_view(maps, shape[0], axis=1).mean(-1)
    return np.array(np.lib.stride_tricks.sliding_window_view(down, shape[1], axis=2).mean(-1))


def _same(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(
            f"`a` and `b` must have one shape (N, ...), but have {a.shape} and {b.shape}"
        )
