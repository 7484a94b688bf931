"""How large tiles and bands may be, given the memory there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import isqrt

from srcli.errors import ConfigError, SrcliError
from srcli.inference.backend import Backend
from srcli.inference.memory import default_memory_budget
from srcli.io.image import RowReader

MIN_TILE = 16
BYTES_PER_PIXEL = 4096
"""Memory that `TilePlanner.side` plans for each lr pixel of a tile."""

SHIPPED_BYTES_PER_PIXEL = 1400
"""What the shipped networks need of it."""

ROWS_IN_FLIGHT = 1500
"""Rows of a result that need memory while they are written: libvips holds two thirds of them, and some are copied."""


@dataclass
class TilePlanner:
    """Plans the size of tiles and of bands.

    side: of a square with as many lr pixels as a tile may have, without its halo; 0 for the whole image. fixed: whether the
    user chose it, so it never changes. Otherwise tiles are smaller if a network needs more than BYTES_PER_PIXEL of the
    machine's memory or more than half of a GPU's free memory, and if the rows of a result are so long that writing them takes
    much memory. They are halved if memory runs out nevertheless; `on_halved` is called with the new side.
    band: size of a band of upscaled rows in bytes. There are two bands, one being computed while the other is written.
    """

    side: int
    fixed: bool = False
    band: int = 2**26
    on_halved: Callable[[int], None] | None = field(default=None, repr=False)
    halvings: int = field(default=0, init=False)

    def side_for(self, backend: Backend, row: int = 0) -> int:
        """row: size of a row of the result in bytes."""
        if self.fixed or not self.side:
            return self.side
        # rows that are being written take memory from the tiles, at most three quarters of it
        pixels = max(self.side**2 - ROWS_IN_FLIGHT * row // SHIPPED_BYTES_PER_PIXEL, self.side**2 // 4)
        available = pixels * BYTES_PER_PIXEL if backend.device_free_bytes is None else backend.device_free_bytes // 2
        # the arrays of a tile are in the machine's memory even if the network is not
        side = isqrt(min(pixels, available // backend.bytes_per_pixel))
        return max(side >> self.halvings, MIN_TILE)

    def rows(self, source: RowReader, backend: Backend) -> int:
        """The number of lr rows to upscale at a time."""
        row = _row_bytes(source, backend)
        side = self.side_for(backend, row)
        if not side:
            return source.height
        fit = side if self.fixed else self.band // (row * backend.scale)
        return _equal_parts(source.height, min(side, max(fit, MIN_TILE)), backend.tile_multiple)

    def shape(self, rows: int, source: RowReader, backend: Backend, at_once: int = 1) -> tuple[int, int]:
        """Rows and columns of the tiles in a band of so many rows: as many pixels as allowed, and no narrow last tile.

        at_once: how many there should be, unless they would be narrower than a square one.
        """
        side = self.side_for(backend, _row_bytes(source, backend))
        if not side:
            return rows, source.width
        height = _equal_parts(rows, side, backend.tile_multiple)
        most = side if self.fixed else min(side**2 // height, max(source.width // at_once, side))
        return height, _equal_parts(source.width, most, backend.tile_multiple)

    def halve(self, source: RowReader, backend: Backend) -> None:
        """Raises SrcliError if the tiles cannot become smaller."""
        if self.fixed:
            what = f"tiles of {self.side} pixels" if self.side else "the whole image at once"
            raise SrcliError(f"There is not enough memory for {what}. Use a smaller `tile`, or leave it out.")
        row = _row_bytes(source, backend)
        side = self.side_for(backend, row)
        if side <= MIN_TILE:
            raise SrcliError(f"There is not enough memory for tiles of {side} pixels. Close other programs.")
        self.halvings += 1
        if self.on_halved:
            self.on_halved(self.side_for(backend, row))


def plan_tiling(tile: int | None = None, memory: int | None = None) -> TilePlanner:
    """tile: the side in lr pixels, 0 for the whole image, None for what fits into `memory` bytes.

    Half of the memory is for the network, a thirty-second for each of two bands, the rest for everything else.
    """
    memory = memory or default_memory_budget()
    if tile is None:
        side = isqrt(memory // 2 // BYTES_PER_PIXEL)
        return TilePlanner(max(side // 32 * 32, MIN_TILE), band=memory // 32)
    if tile and tile < MIN_TILE:
        raise ConfigError(f"A tile of {tile} pixels is too small; use at least {MIN_TILE}, or 0 for the whole image at once.")
    return TilePlanner(tile, fixed=True, band=memory // 32)


def round_up(length: int, multiple: int) -> int:
    return -(-length // multiple) * multiple


def _row_bytes(source: RowReader, backend: Backend) -> int:
    return source.width * backend.scale * source.channels * source.dtype.itemsize


def _equal_parts(length: int, most: int, multiple: int) -> int:
    """The length of equal parts, none longer than `most`, rounded up to `multiple`."""
    parts = -(-length // max(most, 1))
    return round_up(-(-length // parts), multiple)
