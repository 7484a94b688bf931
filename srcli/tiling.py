"""A picture's size in, the pieces to work on one after another out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """Rows and columns that a piece of work answers for (`inner`), and those that it looks at (`outer`)."""

    inner: tuple[slice, slice]
    outer: tuple[slice, slice]


def tiles(height: int, width: int, *, tile: int, halo: int) -> Iterator[Tile]:
    """Cover height x width without overlap by squares of side `tile`, each seen with a halo that ends at the picture's border.

    At the border a tile ends where the picture does, so a network pads there as it does for the whole picture.
    """
    for top in range(0, height, tile):
        for left in range(0, width, tile):
            bottom, right = min(top + tile, height), min(left + tile, width)
            yield Tile(
                inner=(slice(top, bottom), slice(left, right)),
                outer=(
                    slice(max(0, top - halo), min(height, bottom + halo)),
                    slice(max(0, left - halo), min(width, right + halo)),
                ),
            )
