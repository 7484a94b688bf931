"""Images in memory, and images as streams of rows, so that they need not fit into memory."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

Metadata = tuple[tuple[str, int, Any], ...]
"""Color profile, EXIF, XMP and resolution, as (libvips' name, libvips' type, value)."""


class RowReader(Protocol):
    """An image that is read once, from top to bottom: H x W x C.

    channels: 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGBA), alpha not premultiplied. dtype: uint8 or uint16.
    """

    width: int
    height: int
    channels: int
    dtype: np.dtype[Any]

    def read(self, count: int) -> np.ndarray:
        """The next `count` rows, or the remaining ones if there are fewer: n x W x C."""
        ...


@dataclass(frozen=True)
class Image:
    """An image in memory, upright.

    pixels: H x W x C; C is 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGBA), alpha not premultiplied; uint8 or uint16.
    metadata: color profile, EXIF, XMP and resolution, which `write_image` writes along.
    """

    pixels: np.ndarray
    metadata: Metadata = ()

    @property
    def width(self) -> int:
        return int(self.pixels.shape[1])

    @property
    def height(self) -> int:
        return int(self.pixels.shape[0])

    def __repr__(self) -> str:
        return f"<Image {self.width}x{self.height}, {self.pixels.shape[2]} channels, {self.pixels.dtype}>"

    def with_pixels(self, pixels: np.ndarray) -> Image:
        """The same metadata with other pixels."""
        return replace(self, pixels=pixels)

    def rows(self) -> ArrayRows:
        return ArrayRows(self.pixels)


class ArrayRows:
    """The rows of an image in memory."""

    def __init__(self, pixels: np.ndarray) -> None:
        self.height, self.width, self.channels = (int(side) for side in pixels.shape)
        self.dtype = pixels.dtype
        self._remaining = pixels

    def read(self, count: int) -> np.ndarray:
        rows, self._remaining = self._remaining[:count], self._remaining[count:]
        return rows


class LutRows:
    """Rows whose gray or color values go through a lookup table, which may change their type. Alpha is only rescaled."""

    def __init__(self, source: RowReader, table: np.ndarray) -> None:
        self.width, self.height, self.channels = source.width, source.height, source.channels
        self.dtype = table.dtype
        self._source, self._table = source, table

    def read(self, count: int) -> np.ndarray:
        rows = self._source.read(count)
        converted: np.ndarray = self._table[rows]
        if self.channels in (2, 4):
            top, source_top = np.iinfo(self.dtype).max, np.iinfo(rows.dtype).max
            converted[..., -1] = np.rint(rows[..., -1] * (top / source_top)).astype(self.dtype)
        return converted
