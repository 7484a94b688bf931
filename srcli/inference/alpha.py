"""Colors of transparent pixels, and the range of upscaled alpha."""

from __future__ import annotations

import numpy as np

BLEED_RADII = (1, 2, 4, 8)
"""Radii in pixels by which visible colors spread into invisible ones, one after another."""

TRUSTED_ALPHA = 1 / 16
"""From this opacity on, a pixel keeps its own color."""


def bleed(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """Spread the colors of visible pixels into the invisible ones around them: C x H x W, alpha 1 x H x W in [0, 1].

    Premultiplied colors would be exact for linear resampling only. A network would leave a fringe where alpha is small and the
    output is divided by it.
    """
    trust = np.minimum(alpha / TRUSTED_ALPHA, 1)  # colors that are hardly visible have few significant bits
    known, sums = trust.astype(np.float64), (color * trust).astype(np.float64)
    for radius in BLEED_RADII:
        around, total = _box_sum(sums, radius), _box_sum(known, radius)
        fillable = (known < 1) & (total > 0)
        filled = around / np.maximum(total, 1e-12)
        sums = np.where(fillable, sums + (1 - known) * filled, sums)
        known = np.where(fillable, 1, known)
    bled: np.ndarray = sums.astype(np.float32)
    return bled


def neighbor_range(plane: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """The minimum and the maximum of the 3 x 3 pixels around each pixel: H x W to sH x sW each."""
    low = high = plane
    for axis in (0, 1):
        edge = [(1, 1) if axis == other else (0, 0) for other in (0, 1)]
        parts = [np.pad(extreme, edge, mode="edge") for extreme in (low, high)]
        windows = [np.lib.stride_tricks.sliding_window_view(part, 3, axis=axis) for part in parts]
        low, high = windows[0].min(axis=-1), windows[1].max(axis=-1)
    square = np.ones((scale, scale), dtype=plane.dtype)
    return np.kron(low, square), np.kron(high, square)


def _box_sum(planes: np.ndarray, radius: int) -> np.ndarray:
    """The sum over the square around each pixel of C x H x W."""
    for axis in (1, 2):
        edges = [(radius + 1, radius) if axis == other else (0, 0) for other in range(3)]
        running = np.cumsum(np.pad(planes, edges), axis=axis)
        length = planes.shape[axis]
        first, last = ([slice(None)] * 3 for _ in range(2))
        first[axis], last[axis] = slice(0, length), slice(2 * radius + 1, 2 * radius + 1 + length)
        planes = running[tuple(last)] - running[tuple(first)]
        planes[np.abs(planes) < 1e-9] = 0  # rounding errors of sums that are zero
    return planes
