"""Upscaling an image with a backend, band by band and tile by tile, so that large images take little memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np

from srcli.errors import SrcliError
from srcli.inference.alpha import BLEED_RADII, bleed, neighbor_range
from srcli.inference.backend import Backend
from srcli.inference.tiling import TilePlanner, plan_tiling, round_up
from srcli.io.color import from_srgb_tone, to_srgb_tone, tone_curve
from srcli.io.image import Image, LutRows, RowReader
from srcli.io.metadata import profile_for_networks
from srcli.io.tiles import Tile, tiles


def upscale(
    backend: Backend,
    image: Image,
    *,
    tile: int | None = None,
    on_pixels: Callable[[int], None] | None = None,
) -> Image:
    """Upscale every channel of an image by the backend's scale. Bit depth, color profile and metadata are preserved.

    tile: side of a tile in lr pixels; 0 for the whole image at once; None for what fits into memory. on_pixels: called with the
    number of lr pixels processed since the last call. See `upscale_rows`.
    """
    profile = profile_for_networks(image.metadata)
    rows = upscale_rows([backend], image.rows(), profile=profile, tiling=plan_tiling(tile), on_pixels=on_pixels)
    result = np.empty((rows.height, rows.width, rows.channels), dtype=rows.dtype)
    done = 0
    while done < rows.height:
        band = rows.read(256)
        result[done : done + len(band)] = band
        done += len(band)
    return image.with_pixels(result)


def upscale_rows(
    backends: Sequence[Backend],
    rows: RowReader,
    *,
    profile: bytes | None,
    tiling: TilePlanner,
    dtype: np.dtype[Any] | None = None,
    on_pixels: Callable[[int], None] | None = None,
    at_once: int = 1,
) -> RowReader:
    """The rows of an image after one backend after another, computed as they are read. dtype: theirs, by default the image's.

    Gray images are upscaled as RGB with equal channels. The alpha channel is upscaled separately, and invisible pixels take the
    colors of visible ones first, so that their own do not bleed into the result.

    profile: color profile of the image. If its tone curve is far from sRGB's, as in linear images, networks get the image with
    sRGB's curve. on_pixels: called after each tile with its number of lr pixels; what it raises ends the work. at_once: tiles
    at a time, for backends that compute several.
    """
    dtype = dtype or rows.dtype
    curve = tone_curve(profile, gray=rows.channels <= 2) if profile else None
    result = rows if curve is None else LutRows(rows, to_srgb_tone(curve, rows.dtype))
    for number, backend in enumerate(backends, start=1):
        last = number == len(backends) and curve is None
        # 16 bits between networks, and before another tone curve, avoid rounding to 8 bits twice
        result = _UpscaledRows(backend, result, dtype if last else np.dtype(np.uint16), tiling, on_pixels, at_once)
    return result if curve is None else LutRows(result, from_srgb_tone(curve, dtype))


class _UpscaledRows:
    """The upscaled rows of an image, computed in bands of tiles, one band ahead of the reader."""

    def __init__(
        self,
        backend: Backend,
        source: RowReader,
        dtype: np.dtype[Any],
        tiling: TilePlanner,
        on_pixels: Callable[[int], None] | None,
        at_once: int,
    ) -> None:
        self.backend, self.source, self.tiling, self.on_pixels = backend, source, tiling, on_pixels
        self.width, self.height = source.width * backend.scale, source.height * backend.scale
        self.channels = source.channels
        self.dtype = dtype
        self._halo = round_up(backend.halo + (sum(BLEED_RADII) if self.channels in (2, 4) else 0), backend.tile_multiple)
        self._rows = tiling.rows(source, backend)
        self._top = 0  # lr rows done
        self._start = 0  # the lr row that `_lr` starts with
        self._lr = np.empty((0, source.width, source.channels), dtype=source.dtype)
        self._band = np.empty((0, self.width, self.channels), dtype=dtype)
        self._at_once = at_once
        self._map = map if at_once == 1 else ThreadPoolExecutor(at_once).map
        self._ahead = ThreadPoolExecutor(1)  # starts no thread for an image of one band
        self._next: Future[np.ndarray] | None = None

    def read(self, count: int) -> np.ndarray:
        parts = []
        while count and (len(self._band) or self._next or self._top < self.source.height):
            if not len(self._band):
                self._band = self._next.result() if self._next else self._next_band()
                self._next = self._ahead.submit(self._next_band) if self._top < self.source.height else None
            part, self._band = self._band[:count], self._band[count:]
            if not len(self._band):  # views would keep the band in memory while the next two are computed
                part, self._band = part.copy(), self._band.copy()
            parts.append(part)
            count -= len(parts[-1])
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else self._band

    def _next_band(self) -> np.ndarray:
        top, bottom = self._top, min(self._top + self._rows, self.source.height)
        halo = self._halo
        available = self._start + len(self._lr)
        first = max(0, top - halo)
        following = self.source.read(min(bottom + halo, self.source.height) - available)
        self._lr = np.concatenate([self._lr[first - self._start :], following])
        self._start = first
        while True:
            try:
                band = self._upscale_band(top, bottom)
                break
            except MemoryError:
                self.tiling.halve(self.source, self.backend)
        self._top = bottom
        return band

    def _upscale_band(self, top: int, bottom: int) -> np.ndarray:
        """The upscaled rows of lr rows `top` to `bottom`."""
        scale = self.backend.scale
        band = np.empty(((bottom - top) * scale, self.width, self.channels), dtype=self.dtype)
        transparent = self.channels in (2, 4) and bool((self._lr[..., -1] < np.iinfo(self._lr.dtype).max).any())
        shape = self.tiling.shape(bottom - top, self.source, self.backend, self._at_once)
        # the rows in memory end at the border of the image or a halo away from the band
        above = top - self._start

        def fill(tile: Tile) -> int:
            """Upscale a tile into the band. Returns its number of lr pixels."""
            inner = slice(above + tile.inner[0].start, above + tile.inner[0].stop)
            outer = slice(max(0, inner.start - self._halo), inner.stop + self._halo)
            outer = slice(outer.start, min(outer.stop, len(self._lr)))
            large = _upscale_tile(self.backend, self._lr[outer, tile.outer[1]], transparent, self.dtype)
            down = (inner.start - outer.start) * scale
            across = (tile.inner[1].start - tile.outer[1].start) * scale
            place = tuple(slice(part.start * scale, part.stop * scale) for part in tile.inner)
            rows, columns = (part.stop - part.start for part in place)
            band[place] = large[down : down + rows, across : across + columns]
            pixels: int = (rows // scale) * (columns // scale)
            return pixels

        for done in self._map(fill, tiles(bottom - top, self.source.width, tile=shape, halo=self._halo)):
            if self.on_pixels:
                self.on_pixels(done)
        return band


def _upscale_tile(backend: Backend, pixels: np.ndarray, transparent: bool, dtype: np.dtype[Any]) -> np.ndarray:
    """H x W x C integers to sH x sW x C integers of `dtype`."""
    top, new_top = np.iinfo(pixels.dtype).max, np.iinfo(dtype).max
    planes = pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(top)  # C x H x W
    has_alpha = planes.shape[0] in (2, 4)
    color, alpha = (planes[:-1], planes[-1:]) if has_alpha else (planes, None)
    gray = color.shape[0] == 1
    large_alpha = None
    if transparent and alpha is not None:
        low, high = neighbor_range(alpha[0], backend.scale)
        # clipping keeps fully opaque and fully invisible areas exactly so
        large_alpha = np.clip(_run(backend, np.repeat(alpha, 3, axis=0)).mean(axis=0), low, high)[None]
        color = bleed(color, alpha)
    large = _run(backend, np.repeat(color, 3, axis=0) if gray else color)
    if gray:
        large = large.mean(axis=0, keepdims=True)
    if has_alpha:
        large = np.concatenate([large, np.ones_like(large[:1]) if large_alpha is None else large_alpha])
    np.clip(large, 0, 1, out=large)
    large *= new_top
    integers: np.ndarray = np.rint(large, out=large).astype(dtype)
    return integers.transpose(1, 2, 0)


def _run(backend: Backend, lr: np.ndarray) -> np.ndarray:
    sr = backend(lr)
    expected = (3, lr.shape[1] * backend.scale, lr.shape[2] * backend.scale)
    if sr.shape != expected:
        raise SrcliError(f"The model returned {sr.shape} for an input of {lr.shape}, not {expected}. Use another model.")
    return sr
