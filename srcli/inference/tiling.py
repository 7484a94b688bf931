"""How large the tiles and bands are that a network works on, given the memory there is."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import isqrt
from typing import TYPE_CHECKING

from srcli.errors import ConfigError, SrcliError
from srcli.inference.backend import Backend
from srcli.inference.memory import default_memory_budget
from srcli.io.image import RowReader
from srcli.models.registry import ModelSpec

if TYPE_CHECKING:
    from srcli.inference.third_party import ThirdPartyModel

    Model = ModelSpec | ThirdPartyModel

SMALLEST_TILE = 16
PER_PIXEL = 4096
"""Bytes that `Tiling.side` leaves a network for each lr pixel of a tile."""

USUAL_PER_PIXEL = 1400
"""What the shipped networks need of them."""

ROWS_HELD = 1500
"""Rows of a result that there must be memory for while they are written: libvips holds two thirds of them, and some are
copied."""


@dataclass
class TilePlanner:
    """How large the pieces are that a network sees.

    side: of a square with as many lr pixels as a tile may have, without its halo; 0 for the whole image. chosen: by the
    user, and so never changed. Other tiles are smaller where a network needs more memory than there is for it: than PER_PIXEL
    in the machine's, than half of what is free in its own; and where rows are so long that those on their way to the file
    need much of it. They halve when memory runs out all the same, which `on_halved` is told with the new side.
    band: bytes that a band of upscaled rows may have, of which there are two, one being made while the other is written.
    """

    side: int
    chosen: bool = False
    band: int = 2**26
    on_halved: Callable[[int], None] | None = field(default=None, repr=False)
    halvings: int = field(default=0, init=False)

    def side_for(self, backend: Backend, row: int = 0) -> int:
        """row: bytes of a row of the result."""
        if self.chosen or not self.side:
            return self.side
        # what rows on their way to the file need is taken from the tiles, by at most three quarters of their pixels
        pixels = max(self.side**2 - ROWS_HELD * row // USUAL_PER_PIXEL, self.side**2 // 4)
        room = pixels * PER_PIXEL if backend.device_free_bytes is None else backend.device_free_bytes // 2
        # a tile's own arrays lie in the machine's memory wherever the network works
        side = isqrt(min(pixels, room // backend.bytes_per_pixel))
        return max(side >> self.halvings, SMALLEST_TILE)

    def rows(self, source: RowReader, backend: Backend) -> int:
        """How many lr rows to upscale at a time."""
        row = _row_bytes(source, backend)
        side = self.side_for(backend, row)
        if not side:
            return source.height
        fit = side if self.chosen else self.band // (row * backend.scale)
        return _even(source.height, min(side, max(fit, SMALLEST_TILE)), backend.grid)

    def shape(self, rows: int, source: RowReader, backend: Backend) -> tuple[int, int]:
        """Rows and columns of a tile in a band of so many rows: as many pixels as allowed, and no sliver at the end."""
        side = self.side_for(backend, _row_bytes(source, backend))
        if not side:
            return rows, source.width
        height = _even(rows, side, backend.grid)
        return height, _even(source.width, side if self.chosen else side**2 // height, backend.grid)

    def halve(self, source: RowReader, backend: Backend) -> None:
        """Raises SrcliError where its tiles cannot become smaller."""
        if self.chosen:
            what = f"tiles of {self.side} pixels" if self.side else "the whole image at once"
            raise SrcliError(f"There is not enough memory for {what}. Use a smaller --tile, or leave it out.")
        row = _row_bytes(source, backend)
        side = self.side_for(backend, row)
        if side <= SMALLEST_TILE:
            raise SrcliError(f"There is not enough memory for tiles of {side} pixels. Close other programs.")
        self.halvings += 1
        if self.on_halved:
            self.on_halved(self.side_for(backend, row))


def _row_bytes(source: RowReader, backend: Backend) -> int:
    return source.width * backend.scale * source.channels * source.dtype.itemsize


def plan_tiling(tile: int | None = None, memory: int | None = None) -> TilePlanner:
    """tile: the user's side in lr pixels, 0 for the whole image; None for what fits into `memory` bytes.

    Half of the memory is for the network, a thirty-second for each of two bands of rows; the rest is for all else.
    """
    memory = memory or default_memory_budget()
    if tile is None:
        side = isqrt(memory // 2 // PER_PIXEL)
        return TilePlanner(max(side // 32 * 32, SMALLEST_TILE), band=memory // 32)
    if tile and tile < SMALLEST_TILE:
        raise ConfigError(
            f"A tile of {tile} pixels is too small; use at least {SMALLEST_TILE}, or 0 for the whole image at once."
        )
    return TilePlanner(tile, chosen=True, band=memory // 32)


def _even(length: int, most: int, grid: int) -> int:
    """The length of equal pieces, none longer than `most`, and of multiples of `grid`."""
    pieces = -(-length // max(most, 1))
    return round_up(-(-length // pieces), grid)


def round_up(length: int, grid: int) -> int:
    return -(-length // grid) * grid
