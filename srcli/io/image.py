"""Images as streams of rows, so that none need be held whole."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

Metadata = tuple[tuple[str, int, Any], ...]
"""Color profile, EXIF, XMP and resolution under libvips' names, with their types."""


class RowReader(Protocol):
    """An image that is read once, from top to bottom: H x W x C; C is 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGBA).

    Alpha is not premultiplied; `dtype` is uint8 or uint16.
    """

    @property
    def width(self) -> int: ...

    @property
    def height(self) -> int: ...

    @property
    def channels(self) -> int: ...

    @property
    def dtype(self) -> np.dtype[Any]: ...

    def read(self, count: int) -> np.ndarray:
        """The next rows, `count` of them or as many as there are: n x W x C."""
        ...


@dataclass(frozen=True)
class Image:
    """An image in memory, upright.

    pixels: H x W x C; C is 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGBA), alpha not premultiplied; uint8 or uint16.
    metadata: color profile, EXIF, XMP and resolution under libvips' names, with their types.
    """

    pixels: np.ndarray
    metadata: Metadata = ()

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def has_alpha(self) -> bool:
        return self.pixels.shape[2] in (2, 4)

    def with_pixels(self, pixels: np.ndarray) -> Image:
        return replace(self, pixels=pixels)

    def rows(self) -> ArrayRows:
        return ArrayRows(self.pixels)


@dataclass
class ArrayRows:
    """The rows of an image in memory."""

    pixels: np.ndarray
    done: int = field(default=0, init=False)

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    @property
    def channels(self) -> int:
        return int(self.pixels.shape[2])

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.pixels.dtype

    def read(self, count: int) -> np.ndarray:
        rows = self.pixels[self.done : self.done + count]
        self.done += len(rows)
        return rows


@dataclass
class LutRows:
    """Rows whose gray or color values, but not alpha, go through a table: from one type to another."""

    source: RowReader
    table: np.ndarray

    @property
    def width(self) -> int:
        return self.source.width

    @property
    def height(self) -> int:
        return self.source.height

    @property
    def channels(self) -> int:
        return self.source.channels

    @property
    def dtype(self) -> np.dtype[Any]:
        return self.table.dtype

    def read(self, count: int) -> np.ndarray:
        rows = self.source.read(count)
        retoned: np.ndarray = self.table[rows]
        if self.channels in (2, 4):
            top, old_top = np.iinfo(self.dtype).max, np.iinfo(rows.dtype).max
            retoned[..., -1] = np.rint(rows[..., -1] * (top / old_top)).astype(self.dtype)
        return retoned
