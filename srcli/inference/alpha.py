"""Colors under transparency: what invisible pixels are given before a network sees them."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from srcli.models.registry import ModelSpec

if TYPE_CHECKING:
    from srcli.inference.third_party import ThirdPartyModel

    Model = ModelSpec | ThirdPartyModel

BLEED = (1, 2, 4, 8)
"""By how many pixels visible colors spread into invisible ones, step after step."""

TRUSTED = 16
"""From one part in so many of opacity on, a pixel's own color counts alone."""


def bleed(color: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """C x H x W with the colors of visible pixels spread into the invisible ones around them.

    Multiplying by alpha and dividing afterwards would be exact for a linear resampler, but a network is none: it would leave
    a fringe wherever little alpha is left to divide by.
    """
    trust = np.minimum(alpha * TRUSTED, 1)  # colors that are hardly visible have few bits left of what they were
    known, sums = trust.astype(np.float64), (color * trust).astype(np.float64)
    for radius in BLEED:
        around, total = _box(sums, radius), _box(known, radius)
        fresh = (known < 1) & (total > 0)
        filled = around / np.maximum(total, 1e-12)
        sums = np.where(fresh, sums + (1 - known) * filled, sums)
        known = np.where(fresh, 1, known)
    bled: np.ndarray = sums.astype(np.float32)
    return bled


def _box(planes: np.ndarray, radius: int) -> np.ndarray:
    """The sum over the square around each pixel of C x H x W."""
    for axis in (1, 2):
        edges = [(radius + 1, radius) if axis == other else (0, 0) for other in range(3)]
        running = np.cumsum(np.pad(planes, edges), axis=axis)
        length = planes.shape[axis]
        first, last = ([slice(None)] * 3 for _ in range(2))
        first[axis], last[axis] = slice(0, length), slice(2 * radius + 1, 2 * radius + 1 + length)
        planes = running[tuple(last)] - running[tuple(first)]
        planes[np.abs(planes) < 1e-9] = 0  # what differences of running sums leave of nothing
    return planes


def neighbor_range(plane: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest value around each pixel of H x W, 3 x 3 of them, spread to sH x sW."""
    low = high = plane
    for axis in (0, 1):
        edge = [(1, 1) if axis == other else (0, 0) for other in (0, 1)]
        parts = [np.pad(extreme, edge, mode="edge") for extreme in (low, high)]
        views = [np.lib.stride_tricks.sliding_window_view(part, 3, axis=axis) for part in parts]
        low, high = views[0].min(axis=-1), views[1].max(axis=-1)
    square = np.ones((scale, scale), dtype=plane.dtype)
    return np.kron(low, square), np.kron(high, square)
