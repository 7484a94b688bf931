"""Where two images differ most."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from srcli.core.vgg_layers import LAYERS
from srcli.evaluation.compare import Comparison

CELL = 16
"""Side in pixels of the grid on which the worst regions are found: the stride of VGG16's deepest layer."""


@dataclass(frozen=True)
class Region:
    """A region of the image in pixels, and its weighted pixel and feature loss."""

    left: int
    top: int
    width: int
    height: int
    total: float


def worst_regions(comparison: Comparison, *, count: int = 5, side: int = 64) -> list[Region]:
    """The squares of `side` pixels with the largest loss, worst first, without overlap.

    comparison: with maps. side: a multiple of 16. Squares lie on a grid of 16 pixels. A smaller image is one region.
    """
    loss = comparison.loss
    weights = {"pixel": loss.pixel} | {layer: loss.feature * weight for layer, weight in loss.layers.items()}
    rows, columns = -(-comparison.height // CELL), -(-comparison.width // CELL)
    cells = np.zeros((rows, columns))
    for name, weight in weights.items():
        if weight:
            stride = 1 if name == "pixel" else LAYERS[name].stride
            cells += weight * _cells(comparison.maps[name], CELL // stride, rows, columns)
    span = side // CELL
    windows = np.lib.stride_tricks.sliding_window_view(cells, (min(span, rows), min(span, columns))).mean(axis=(2, 3))
    regions: list[Region] = []
    while len(regions) < count and np.isfinite(windows).any():
        row, column = (int(place) for place in np.unravel_index(np.nanargmax(windows), windows.shape))
        left, top = column * CELL, row * CELL
        regions.append(
            Region(
                left,
                top,
                min(side, comparison.width - left),
                min(side, comparison.height - top),
                float(windows[row, column]),
            )
        )
        windows[max(0, row - span + 1) : row + span, max(0, column - span + 1) : column + span] = np.nan
    return regions


def _cells(values: np.ndarray, block: int, rows: int, columns: int) -> np.ndarray:
    """Means over blocks of `block` x `block` values, rows x columns of them. Blocks at the border repeat the last values."""
    missing = (rows * block - values.shape[0], columns * block - values.shape[1])
    padded = np.pad(values, [(0, max(0, side)) for side in missing], mode="edge")[: rows * block, : columns * block]
    means: np.ndarray = padded.reshape(rows, block, columns, block).mean(axis=(1, 3), dtype=np.float64)
    return means
