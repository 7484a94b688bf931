"""A picture and what enlarges it in, the enlarged picture out: band by band and tile by tile, so that memory stays small.

Works on arrays and needs no torch: what runs the generator is behind `Enlarger`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from itertools import product
from math import isqrt
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from srcli.catalog import Description, describe_model, is_foreign, read_weights
from srcli.core.devices import has_gpu_driver, pick_device, takes_cpu
from srcli.errors import SettingsError, SrcliError
from srcli.images import Picture, RetonedRows, Rows, from_srgb_tone, to_srgb_tone, tone_curve
from srcli.memory import usual_memory
from srcli.settings import CompactSettings
from srcli.tiling import tiles

if TYPE_CHECKING:
    from srcli.foreign import ForeignModel

    Model = Description | ForeignModel

SMALLEST_TILE = 16
PER_PIXEL = 4096
"""Bytes that `Tiling.side` leaves a network for each lr pixel of a tile."""

USUAL_PER_PIXEL = 1400
"""What the shipped networks need of them."""

ROWS_HELD = 1500
"""Rows of a result that there must be memory for while they are written: libvips holds two thirds of them, and some are
copied."""

BLEED = (1, 2, 4, 8)
"""By how many pixels visible colours spread into invisible ones, step after step."""

TRUSTED = 16
"""From one part in so many of opacity on, a pixel's own colour counts alone."""


class Enlarger(Protocol):
    """What runs a generator, for one thread or for several at once, of which some may have to wait.

    `halo`: how many lr pixels around a place decide what it becomes. `grid`: tiles, with their halo, begin at multiples of so
    many lr pixels, and `halo` is one.
    """

    @property
    def scale(self) -> int: ...

    @property
    def halo(self) -> int: ...

    @property
    def grid(self) -> int: ...

    @property
    def pixel_bytes(self) -> int:
        """How much memory it needs at most for each lr pixel of a tile, with all that it keeps for other threads' tiles."""
        ...

    @property
    def own_bytes(self) -> int | None:
        """How much is free in a memory of its own, as a GPU has; None where it works in the machine's."""
        ...

    @property
    def runs_on(self) -> str:
        """Device, what computes there and how precisely, as in `cpu (OpenVINO, fp32)`."""
        ...

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """lr, 3 x H x W, RGB float32 in [0, 1], to sr, 3 x sH x sW, around [0, 1], which is the caller's to change.

        Raises MemoryError where there is too little for a picture of this size, and SrcliError where sr is not finite.
        """
        ...


def find_model(model: str | Path) -> Model:
    """A shipped model by name, a file that srcli train wrote, or other people's weights, which need spandrel.

    Raises SrcliError: no such model, a damaged file, or a network that srcli cannot use.
    """
    if not is_foreign(model):
        return describe_model(model)
    from srcli.foreign import load_foreign  # here, as torch takes seconds to import

    return load_foreign(Path(model))


def load_enlarger(model: str | Path | Model, device: str = "auto") -> Enlarger:
    """A model (see `find_model`), ready to enlarge on `device` (auto, cpu, cuda, cuda:N, mps).

    Compact generators run without torch on the CPU, which saves the seconds that importing torch takes.
    Raises SrcliError: no such model, a damaged file, a device that is not there.
    """
    found = find_model(model) if isinstance(model, str | Path) else model
    if not isinstance(found, Description):
        return found.enlarger(pick_device(device))
    if found.ensemble:
        return Ensemble(load_enlarger(replace(found, ensemble=False), device))
    cpu = takes_cpu(device)
    note = "; there is a GPU's driver, but torch finds no GPU" if device == "auto" and cpu and has_gpu_driver() else ""
    if found.int8 and not cpu:
        note = f"{note}; 8 bits are for CPUs"
    if isinstance(found.settings, CompactSettings) and cpu:
        try:
            from srcli.core.openvino_running import OpenVINOEnlarger
        except (ImportError, OSError) as error:  # there is no OpenVINO for some platforms; torch gives the same picture
            note += f"; OpenVINO cannot be loaded: {error}"
        else:
            return OpenVINOEnlarger(found.settings, read_weights(found), note=note)
    from srcli.core.running import TorchEnlarger
    from srcli.models import load_generator

    generator = load_generator(replace(found, int8=False))
    return TorchEnlarger(
        generator,
        pick_device(device),
        scale=generator.scale,
        halo=generator.halo,
        pixel_bytes=found.settings.pixel_bytes,
        note=note,
    )


@dataclass
class Around:
    """An enlarger that has another one do the work: what it says of itself is what that one says."""

    enlarger: Enlarger

    @property
    def scale(self) -> int:
        return self.enlarger.scale

    @property
    def halo(self) -> int:
        return self.enlarger.halo

    @property
    def grid(self) -> int:
        return self.enlarger.grid

    @property
    def pixel_bytes(self) -> int:
        return self.enlarger.pixel_bytes

    @property
    def own_bytes(self) -> int | None:
        return self.enlarger.own_bytes

    @property
    def runs_on(self) -> str:
        return self.enlarger.runs_on


class Ensemble(Around):
    """The mean of what an enlarger makes of a picture in its eight positions, turned and mirrored, each brought back.

    Errors that depend on the position go (the self-ensemble of Timofte et al. 2016, "Seven ways to improve example-based
    single image super resolution"); it takes eight times as long.
    """

    @property
    def pixel_bytes(self) -> int:
        return self.enlarger.pixel_bytes + 24 * self.scale**2  # one result, and the sum of them

    def __call__(self, lr: np.ndarray) -> np.ndarray:
        """As an enlarger's."""
        height, width = (side * self.scale for side in lr.shape[1:])
        total = np.zeros((3, height, width), np.float32)
        for transposed, axes in product((False, True), ((), (1,), (2,), (1, 2))):
            turned = np.flip(lr.swapaxes(1, 2) if transposed else lr, axes)
            sr = np.flip(self.enlarger(np.ascontiguousarray(turned)), axes)
            total += sr.swapaxes(1, 2) if transposed else sr
        return total / 8


@dataclass
class Tiling:
    """How large the pieces are that a network sees.

    side: of a square with as many lr pixels as a tile may have, without its halo; 0 for the whole picture. chosen: by the
    user, and so never changed. Other tiles are smaller where a network needs more memory than there is for it: than PER_PIXEL
    in the machine's, than half of what is free in its own; and where rows are so long that those on their way to the file
    need much of it. They halve when memory runs out all the same, which `on_halved` is told with the new side.
    band: bytes that a band of enlarged rows may have, of which there are two, one being made while the other is written.
    """

    side: int
    chosen: bool = False
    band: int = 2**26
    on_halved: Callable[[int], None] | None = field(default=None, repr=False)
    halvings: int = field(default=0, init=False)

    def side_for(self, enlarger: Enlarger, row: int = 0) -> int:
        """row: bytes of a row of the result."""
        if self.chosen or not self.side:
            return self.side
        # what rows on their way to the file need is taken from the tiles, by at most three quarters of their pixels
        pixels = max(self.side**2 - ROWS_HELD * row // USUAL_PER_PIXEL, self.side**2 // 4)
        room = pixels * PER_PIXEL if enlarger.own_bytes is None else enlarger.own_bytes // 2
        # a tile's own arrays lie in the machine's memory wherever the network works
        side = isqrt(min(pixels, room // enlarger.pixel_bytes))
        return max(side >> self.halvings, SMALLEST_TILE)

    def rows(self, source: Rows, enlarger: Enlarger) -> int:
        """How many lr rows to enlarge at a time."""
        row = _row_bytes(source, enlarger)
        side = self.side_for(enlarger, row)
        if not side:
            return source.height
        fit = side if self.chosen else self.band // (row * enlarger.scale)
        return _even(source.height, min(side, max(fit, SMALLEST_TILE)), enlarger.grid)

    def shape(self, rows: int, source: Rows, enlarger: Enlarger) -> tuple[int, int]:
        """Rows and columns of a tile in a band of so many rows: as many pixels as allowed, and no sliver at the end."""
        side = self.side_for(enlarger, _row_bytes(source, enlarger))
        if not side:
            return rows, source.width
        height = _even(rows, side, enlarger.grid)
        return height, _even(source.width, side if self.chosen else side**2 // height, enlarger.grid)

    def halve(self, source: Rows, enlarger: Enlarger) -> None:
        """Raises SrcliError where its tiles cannot become smaller."""
        if self.chosen:
            what = f"tiles of {self.side} pixels" if self.side else "the whole picture at once"
            raise SrcliError(f"There is not enough memory for {what}. Use a smaller --tile, or leave it out.")
        row = _row_bytes(source, enlarger)
        side = self.side_for(enlarger, row)
        if side <= SMALLEST_TILE:
            raise SrcliError(f"There is not enough memory for tiles of {side} pixels. Close other programs.")
        self.halvings += 1
        if self.on_halved:
            self.on_halved(self.side_for(enlarger, row))


def _row_bytes(source: Rows, enlarger: Enlarger) -> int:
    return source.width * enlarger.scale * source.channels * source.dtype.itemsize


def plan_tiling(tile: int | None = None, memory: int | None = None) -> Tiling:
    """tile: the user's side in lr pixels, 0 for the whole picture; None for what fits into `memory` bytes.

    Half of the memory is for the network, a thirty-second for each of two bands of rows; the rest is for all else.
    """
    memory = memory or usual_memory()
    if tile is None:
        side = isqrt(memory // 2 // PER_PIXEL)
        return Tiling(max(side // 32 * 32, SMALLEST_TILE), band=memory // 32)
    if tile and tile < SMALLEST_TILE:
        raise SettingsError(
            f"A tile of {tile} pixels is too small; use at least {SMALLEST_TILE}, or 0 for the whole picture at once."
        )
    return Tiling(tile, chosen=True, band=memory // 32)


def _even(length: int, most: int, grid: int) -> int:
    """The length of equal pieces, none longer than `most`, and of multiples of `grid`."""
    pieces = -(-length // max(most, 1))
    return _up_to_grid(-(-length // pieces), grid)


def _up_to_grid(length: int, grid: int) -> int:
    return -(-length // grid) * grid


def upscale(
    enlarger: Enlarger,
    picture: Picture,
    *,
    tile: int | None = None,
    on_pixels: Callable[[int], None] | None = None,
) -> Picture:
    """Enlarge every channel of the picture by the enlarger's scale; depth, profile and metadata stay.

    tile: side of a tile in lr pixels; 0 takes the whole picture at once; None what fits into memory. on_pixels: called with
    the number of lr pixels done since the last time. See `enlarged`.
    """
    profile = next((value for name, _, value in picture.metadata if name == "icc-profile-data"), None)
    rows = enlarged([enlarger], picture.rows(), profile=profile, tiling=plan_tiling(tile), on_pixels=on_pixels)
    result = np.empty((rows.height, rows.width, rows.channels), dtype=rows.dtype)
    done = 0
    while done < rows.height:
        band = rows.read(256)
        result[done : done + len(band)] = band
        done += len(band)
    return picture.with_pixels(result)


def enlarged(
    enlargers: Sequence[Enlarger],
    rows: Rows,
    *,
    profile: bytes | None,
    tiling: Tiling,
    on_pixels: Callable[[int], None] | None = None,
) -> Rows:
    """The rows of the picture after one enlarger after another, made as they are read; of the same type.

    Grey pictures are enlarged as RGB of three equal channels. The alpha of transparent pictures is enlarged by itself, and
    their colours with visible ones in the place of invisible ones, so that none of these bleed into what is seen.

    profile: the picture's colour profile; where its tone curve is far from sRGB's, as a linear one, networks see the picture
    with sRGB's curve instead. on_pixels: called with the number of lr pixels done since the last time.
    """
    kind = rows.dtype
    curve = tone_curve(profile, grey=rows.channels <= 2) if profile else None
    result = rows if curve is None else RetonedRows(rows, to_srgb_tone(curve, kind))
    for number, enlarger in enumerate(enlargers, start=1):
        last = number == len(enlargers) and curve is None
        # between networks, and before another tone curve, 16 bits keep what 8 would round away
        result = _EnlargedRows(enlarger, result, kind if last else np.dtype(np.uint16), tiling, on_pixels)
    return result if curve is None else RetonedRows(result, from_srgb_tone(curve, kind))


class _EnlargedRows:
    """What an enlarger makes of the rows of a picture, a band of tiles at a time, one band ahead of the reader."""

    def __init__(
        self,
        enlarger: Enlarger,
        source: Rows,
        dtype: np.dtype[Any],
        tiling: Tiling,
        on_pixels: Callable[[int], None] | None,
    ) -> None:
        self.enlarger, self.source, self.tiling, self.on_pixels = enlarger, source, tiling, on_pixels
        self.width, self.height = source.width * enlarger.scale, source.height * enlarger.scale
        self.channels = source.channels
        self.dtype = dtype
        self._halo = _up_to_grid(enlarger.halo + (sum(BLEED) if self.channels in (2, 4) else 0), enlarger.grid)
        self._rows = tiling.rows(source, enlarger)
        self._top = 0  # lr rows done
        self._start = 0  # the lr row that `_lr` begins with
        self._lr = np.empty((0, source.width, source.channels), dtype=source.dtype)
        self._band = np.empty((0, self.width, self.channels), dtype=dtype)
        self._ahead = ThreadPoolExecutor(1)  # of which a picture of one band makes no use
        self._next: Future[np.ndarray] | None = None

    def read(self, count: int) -> np.ndarray:
        parts = []
        while count and (len(self._band) or self._next or self._top < self.source.height):
            if not len(self._band):
                self._band = self._next.result() if self._next else self._next_band()
                self._next = self._ahead.submit(self._next_band) if self._top < self.source.height else None
            part, self._band = self._band[:count], self._band[count:]
            if not len(self._band):  # nothing of this band shall stay beside the two that follow
                part, self._band = part.copy(), self._band.copy()
            parts.append(part)
            count -= len(parts[-1])
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else self._band

    def _next_band(self) -> np.ndarray:
        top, bottom = self._top, min(self._top + self._rows, self.source.height)
        halo = self._halo
        seen = self._start + len(self._lr)
        first = max(0, top - halo)
        fresh = self.source.read(min(bottom + halo, self.source.height) - seen)
        self._lr = np.concatenate([self._lr[first - self._start :], fresh])
        self._start = first
        while True:
            try:
                band = self._enlarge_band(top, bottom)
                break
            except MemoryError:
                self.tiling.halve(self.source, self.enlarger)
        self._top = bottom
        return band

    def _enlarge_band(self, top: int, bottom: int) -> np.ndarray:
        """The enlarged rows of lr rows `top` to `bottom`."""
        scale = self.enlarger.scale
        band = np.empty(((bottom - top) * scale, self.width, self.channels), dtype=self.dtype)
        transparent = self.channels in (2, 4) and bool((self._lr[..., -1] < np.iinfo(self._lr.dtype).max).any())
        shape = self.tiling.shape(bottom - top, self.source, self.enlarger)
        # tiles are cut from the rows at hand, whose upper and lower borders are the picture's or a halo away
        above = top - self._start
        for tile in tiles(bottom - top, self.source.width, tile=shape, halo=self._halo):
            inner = slice(above + tile.inner[0].start, above + tile.inner[0].stop)
            outer = slice(max(0, inner.start - self._halo), inner.stop + self._halo)
            outer = slice(outer.start, min(outer.stop, len(self._lr)))
            large = _enlarge(self.enlarger, self._lr[outer, tile.outer[1]], transparent, self.dtype)
            down = (inner.start - outer.start) * scale
            across = (tile.inner[1].start - tile.outer[1].start) * scale
            place = tuple(slice(part.start * scale, part.stop * scale) for part in tile.inner)
            rows, columns = (part.stop - part.start for part in place)
            band[place] = large[down : down + rows, across : across + columns]
            if self.on_pixels:
                self.on_pixels((rows // scale) * (columns // scale))
        return band


def _enlarge(enlarger: Enlarger, pixels: np.ndarray, transparent: bool, dtype: np.dtype[Any]) -> np.ndarray:
    """H x W x C integers to sH x sW x C integers of another or the same type."""
    top, new_top = np.iinfo(pixels.dtype).max, np.iinfo(dtype).max
    planes = pixels.transpose(2, 0, 1).astype(np.float32) / np.float32(top)  # C x H x W
    has_alpha = planes.shape[0] in (2, 4)
    colour, alpha = (planes[:-1], planes[-1:]) if has_alpha else (planes, None)
    grey = colour.shape[0] == 1
    large_alpha = None
    if transparent and alpha is not None:
        low, high = _neighbours(alpha[0], enlarger.scale)
        # within its neighbours' range, so that what was opaque or invisible stays so to the last bit
        large_alpha = np.clip(_run(enlarger, np.repeat(alpha, 3, axis=0)).mean(axis=0), low, high)[None]
        colour = _bled(colour, alpha)
    large = _run(enlarger, np.repeat(colour, 3, axis=0) if grey else colour)
    if grey:
        large = large.mean(axis=0, keepdims=True)
    if has_alpha:
        large = np.concatenate([large, np.ones_like(large[:1]) if large_alpha is None else large_alpha])
    np.clip(large, 0, 1, out=large)
    large *= new_top
    integers: np.ndarray = np.rint(large, out=large).astype(dtype)
    return integers.transpose(1, 2, 0)


def _bled(colour: np.ndarray, alpha: np.ndarray) -> np.ndarray:
    """C x H x W with the colours of visible pixels spread into the invisible ones around them.

    Multiplying by alpha and dividing afterwards would be exact for a linear resampler, but a network is none: it would leave
    a fringe wherever little alpha is left to divide by.
    """
    trust = np.minimum(alpha * TRUSTED, 1)  # colours that are hardly visible have few bits left of what they were
    known, sums = trust.astype(np.float64), (colour * trust).astype(np.float64)
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


def _neighbours(plane: np.ndarray, scale: int) -> tuple[np.ndarray, np.ndarray]:
    """The least and the greatest value around each pixel of H x W, 3 x 3 of them, spread to sH x sW."""
    low = high = plane
    for axis in (0, 1):
        edge = [(1, 1) if axis == other else (0, 0) for other in (0, 1)]
        parts = [np.pad(extreme, edge, mode="edge") for extreme in (low, high)]
        views = [np.lib.stride_tricks.sliding_window_view(part, 3, axis=axis) for part in parts]
        low, high = views[0].min(axis=-1), views[1].max(axis=-1)
    square = np.ones((scale, scale), dtype=plane.dtype)
    return np.kron(low, square), np.kron(high, square)


def _run(enlarger: Enlarger, lr: np.ndarray) -> np.ndarray:
    sr = enlarger(lr)
    expected = (3, lr.shape[1] * enlarger.scale, lr.shape[2] * enlarger.scale)
    if sr.shape != expected:
        raise SrcliError(f"The model made {sr.shape} of {lr.shape} where {expected} was due. Use another model.")
    return sr
