"""A picture and what enlarges it in, the enlarged picture out: tile by tile, so that memory stays small.

Works on arrays and needs no torch: what runs the generator is behind `Enlarger`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Protocol

import numpy as np

from srcli.catalog import Description
from srcli.errors import SettingsError
from srcli.images import Picture
from srcli.tiling import tiles

TILE = 256
"""Side of a tile in lr pixels, without its halo."""


class Enlarger(Protocol):
    """What runs a generator. `halo`: how many lr pixels around a place decide what it becomes."""

    @property
    def scale(self) -> int: ...

    @property
    def halo(self) -> int: ...

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """lr, 3 x H x W, RGB float32 in [0, 1], to sr, 3 x sH x sW, around [0, 1]."""
        ...


def load_enlarger(model: str | Path | Description, device: str = "auto") -> Enlarger:
    """A shipped model by name, or a model file, ready to enlarge on `device` (auto, cpu, cuda, cuda:N, mps).

    Raises SrcliError: no such model, a damaged file, a device that is not there.
    """
    from srcli.core.devices import pick_device  # here, as torch takes seconds to import
    from srcli.core.running import TorchEnlarger
    from srcli.models import load_generator

    return TorchEnlarger(load_generator(model), pick_device(device))


def upscale(
    enlarger: Enlarger,
    picture: Picture,
    *,
    tile: int | None = None,
    on_tile: Callable[[int, int], None] | None = None,
) -> Picture:
    """Enlarge every channel of the picture by the enlarger's scale; depth, profile and metadata stay.

    tile: side of a tile in lr pixels; 0 takes the whole picture at once; None is `TILE`. on_tile: called with the number of
    tiles done and their total. Grey pictures are enlarged as RGB of three equal channels. Transparent pictures are enlarged
    premultiplied, and their alpha by itself, so that the colour of invisible pixels does not bleed into visible ones.
    """
    tile = TILE if tile is None else tile
    if tile and tile < 16:
        raise SettingsError(f"A tile of {tile} pixels is too small; use at least 16, or 0 for the whole picture at once.")
    tile = tile or max(picture.height, picture.width)
    scale = enlarger.scale
    pixels = picture.pixels
    result = np.empty((picture.height * scale, picture.width * scale, pixels.shape[2]), dtype=pixels.dtype)
    transparent = picture.has_alpha and bool((pixels[..., -1] < np.iinfo(pixels.dtype).max).any())
    plan = list(tiles(picture.height, picture.width, tile=tile, halo=enlarger.halo))
    for done, part in enumerate(plan, start=1):
        large = _enlarge(enlarger, pixels[part.outer], transparent)
        rows, columns = (
            slice((inner.start - outer.start) * scale, (inner.stop - outer.start) * scale)
            for inner, outer in zip(part.inner, part.outer, strict=True)
        )
        place = tuple(slice(inner.start * scale, inner.stop * scale) for inner in part.inner)
        result[place] = large[rows, columns]
        if on_tile:
            on_tile(done, len(plan))
    return picture.with_pixels(result)


def _enlarge(enlarger: Enlarger, pixels: np.ndarray, transparent: bool) -> np.ndarray:
    """H x W x C integers to sH x sW x C integers of the same type."""
    top = np.iinfo(pixels.dtype).max
    planes = pixels.transpose(2, 0, 1).astype(np.float32) / top  # C x H x W
    has_alpha = planes.shape[0] in (2, 4)
    colour, alpha = (planes[:-1], planes[-1:]) if has_alpha else (planes, None)
    grey = colour.shape[0] == 1
    if transparent and alpha is not None:
        large_alpha = np.clip(enlarger(np.repeat(alpha, 3, axis=0)).mean(axis=0, keepdims=True), 0, 1)
        large = enlarger(np.repeat(colour * alpha, 3 // colour.shape[0], axis=0))
        large = np.clip(large / np.maximum(large_alpha, 1 / top), 0, 1)
    else:
        large = np.clip(enlarger(np.repeat(colour, 3 // colour.shape[0], axis=0)), 0, 1)
        large_alpha = np.ones_like(large[:1])
    if grey:
        large = large.mean(axis=0, keepdims=True)
    if has_alpha:
        large = np.concatenate([large, large_alpha])
    integers: np.ndarray = np.rint(large * top).astype(pixels.dtype)
    return integers.transpose(1, 2, 0)
