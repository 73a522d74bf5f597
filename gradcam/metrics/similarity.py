"""How alike two maps are, whatever their scale."""

from __future__ import annotations

import numpy as np

__all__ = ["rank_correlation", "ranks", "structural_similarity"]


def ranks(values: np.ndarray) -> np.ndarray:
    """(N, P) -> (N, P): each value's rank in its row, from 0; equal values share their mean."""
    order = np.argsort(values, axis=1, kind="stable")
    ordered = np.take_along_axis(values, order, axis=1)
    result = np.empty(values.shape)
    for row in range(len(values)):
        is_first = np.r_[True, ordered[row, 1:] != ordered[row, :-1]]
        starts = np.flatnonzero(is_first)
        counts = np.diff(np.r_[starts, ordered.shape[1]])
        # `counts` equal values from rank `starts` on have the mean rank starts + (counts - 1) / 2.
        result[row, order[row]] = np.repeat(starts + (counts - 1) / 2, counts)
    return result


def rank_correlation(a: np.ndarray, b: np.ndarray) -> np.ndarray:
    r"""Spearman's rank correlation of each a[n] with b[n]: (N, ...), (N, ...) -> (N,).

    Pearson's correlation of the `ranks`. In [-1, 1]: 1 where one is a rising function of the other.
    NaN where either is flat, or has a NaN. Spearman 1904, https://doi.org/10.2307/1412159
    """
    _check_shapes(a, b)
    first = np.asarray(a, dtype=np.float64).reshape(len(a), -1)
    second = np.asarray(b, dtype=np.float64).reshape(len(b), -1)
    unordered = np.isnan(first).any(1) | np.isnan(second).any(1)
    first = ranks(first)
    second = ranks(second)
    first -= first.mean(1, keepdims=True)
    second -= second.mean(1, keepdims=True)
    norm = np.sqrt((first**2).sum(1) * (second**2).sum(1))
    flat = norm == 0
    correlation = np.clip((first * second).sum(1) / np.where(flat, 1, norm), -1, 1)
    return np.array(np.where(flat | unordered, np.nan, correlation))


def structural_similarity(
    a: np.ndarray, b: np.ndarray, *, window: int = 7, span: float = 1.0
) -> np.ndarray:
    r"""Structural similarity (SSIM) of maps a[n] and b[n]: (N, h, w), (N, h, w) -> (N,).

    The mean over all whole windows of

    $$ \frac{(2 \mu_a \mu_b + c_1)(2 \sigma_{ab} + c_2)}
       {(\mu_a^2 + \mu_b^2 + c_1)(\sigma_a^2 + \sigma_b^2 + c_2)},
       \quad c_1 = (0.01 \, L)^2, c_2 = (0.03 \, L)^2 $$

    with means, variances and the covariance (unbiased) over `window` x `window` pixels of equal
    weight. Wang et al. 2004, eq. 13, https://doi.org/10.1109/TIP.2003.819861.

    window: the side of a window in pixels, cut to the side of a smaller map. span: L, the range of
        values, which is 1 for maps in [0, 1]. In [-1, 1], and 1 for equal maps, flat ones too. The
        constants are the paper's.
    """
    _check_shapes(a, b)
    if a.ndim != 3:
        raise ValueError(f"`a` and `b` must be maps (N, h, w), but have shape {a.shape}")
    if window < 2:
        raise ValueError(f"`window` must be at least 2, but is {window}")
    height = min(window, a.shape[1])
    width = min(window, a.shape[2])
    first = np.asarray(a, dtype=np.float64)
    second = np.asarray(b, dtype=np.float64)

    def means(maps: np.ndarray) -> np.ndarray:
        return _window_means(maps, height, width)

    count = height * width
    unbiased = count / max(count - 1, 1)  # of a window of one pixel the variance is 0 anyway
    mean_a = means(first)
    mean_b = means(second)
    variance_a = (means(first * first) - mean_a * mean_a) * unbiased
    variance_b = (means(second * second) - mean_b * mean_b) * unbiased
    covariance = (means(first * second) - mean_a * mean_b) * unbiased
    c1 = (0.01 * span) ** 2
    c2 = (0.03 * span) ** 2
    luminance = (2 * mean_a * mean_b + c1) / (mean_a**2 + mean_b**2 + c1)
    structure = (2 * covariance + c2) / (variance_a + variance_b + c2)
    return np.array((luminance * structure).mean((1, 2)))


def _window_means(maps: np.ndarray, height: int, width: int) -> np.ndarray:
    """The mean of every whole window of maps (N, h, w): (N, h - height + 1, w - width + 1).

    Along one axis and then the other: windows are views, and their pixels are never copied.
    """
    windows = np.lib.stride_tricks.sliding_window_view
    column_means = windows(maps, height, axis=1).mean(-1)
    return np.array(windows(column_means, width, axis=2).mean(-1))


def _check_shapes(a: np.ndarray, b: np.ndarray) -> None:
    if a.shape != b.shape or a.ndim < 2:
        raise ValueError(
            f"`a` and `b` must have one shape (N, ...), but have {a.shape} and {b.shape}"
        )
