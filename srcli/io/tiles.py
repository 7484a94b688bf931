"""An image's size in, the pieces to work on one after another out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """Rows and columns that a piece of work answers for (`inner`), and those that it looks at (`outer`)."""

    inner: tuple[slice, slice]
    outer: tuple[slice, slice]


def tiles(height: int, width: int, *, tile: int | tuple[int, int], halo: int) -> Iterator[Tile]:
    """Cover height x width without overlap by tiles, each seen with a halo that ends at the image's border.

    tile: the side of a square, or rows and columns. At the border a tile ends where the image does, so a network pads there
    as it does for the whole image.
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
