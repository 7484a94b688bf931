"""Rows as an image of libvips, which reads them while it works."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Generator

import numpy as np
import pyvips

from srcli.io.image import RowReader
from srcli.io.png_chunks import SIGNATURE, png_chunk

_BLOCK = 2**20  # bytes of rows that are read at a time and copied several times


class RowStream:
    """Passes rows to libvips one after another, as an uncompressed PNG.

    Of the formats that libvips reads from a stream, only PNG has one to four channels of 8 and 16 bits. This way, pixels need
    not fit into memory or into a temporary file, and are computed while libvips compresses earlier ones.
    """

    def __init__(self, rows: RowReader) -> None:
        self.rows = rows
        self.failure: BaseException | None = None
        self.opaque = True
        self._bytes = self._png()
        self._rest = memoryview(b"")
        self._source = pyvips.SourceCustom()  # a reference, as libvips does not keep one
        self._source.on_read(self._read)

    def image(self) -> pyvips.Image:
        return pyvips.Image.pngload_source(self._source, access="sequential", fail_on="error")

    def close(self) -> None:
        """Release the source. It refers to this object, and Python frees such cycles late."""
        self._bytes.close()
        del self._source

    def _read(self, size: int) -> bytes:
        """Called by libvips in its own threads, where nothing may be raised; a failure is raised after libvips stops."""
        try:
            while not len(self._rest):
                self._rest = memoryview(next(self._bytes))
        except StopIteration:
            return b""
        except BaseException as failure:
            self.failure = failure
            return b""
        part, self._rest = bytes(self._rest[:size]), self._rest[size:]
        return part

    def _png(self) -> Generator[bytes]:
        rows = self.rows
        depth, kind = rows.dtype.itemsize * 8, {1: 0, 2: 4, 3: 2, 4: 6}[rows.channels]
        yield SIGNATURE + png_chunk(b"IHDR", struct.pack(">IIBBBBB", rows.width, rows.height, depth, kind, 0, 0, 0))
        packer = zlib.compressobj(0)
        count = max(1, _BLOCK // (rows.width * rows.channels * rows.dtype.itemsize))
        for _ in range(0, rows.height, count):
            pixels = rows.read(count)
            if rows.channels in (2, 4):
                self.opaque &= bool((pixels[..., -1] == np.iinfo(pixels.dtype).max).all())
            values = np.ascontiguousarray(pixels.astype(pixels.dtype.newbyteorder(">"), copy=False))
            lines = np.zeros((len(pixels), 1 + values[0].nbytes), dtype=np.uint8)  # each begins with 0, for no filter
            lines[:, 1:] = values.view(np.uint8).reshape(len(pixels), -1)
            del pixels, values  # views that would keep a band in memory
            yield png_chunk(b"IDAT", packer.compress(lines.data))
        yield png_chunk(b"IDAT", packer.flush()) + png_chunk(b"IEND", b"")
