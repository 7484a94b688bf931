"""Splitting an image into tiles that overlap by a halo."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """inner: the rows and columns that the tile covers. outer: those that are read for it, with the halo."""

    inner: tuple[slice, slice]
    outer: tuple[slice, slice]


def tiles(height: int, width: int, *, tile: int | tuple[int, int], halo: int) -> Iterator[Tile]:
    """Cover height x width by tiles whose inner parts do not overlap.

    tile: the side of a square, or rows and columns. The halo ends at the border of the image, so a network pads there as it
    does for the whole image.
    """
    rows, columns = (tile, tile) if isinstance(tile, int) else tile
    for top in range(0, height, rows):
        for left in range(0, width, columns):
            bottom, right = min(top + rows, height), min(left + columns, width)
            yield Tile(
                inner=(slice(top, bottom), slice(left, right)),
                outer=(
                    slice(max(0, top - halo), min(height, bottom + halo)),
                    slice(max(0, left - halo), min(width, right + halo)),
                ),
            )
