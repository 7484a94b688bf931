"""Writing images to files: atomically, and row by row."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pyvips

from srcli.errors import SrcliError
from srcli.io.atomic import atomic_write
from srcli.io.cicp import CICP, is_hdr
from srcli.io.color import PROFILE, to_srgb
from srcli.io.encode import encode
from srcli.io.formats import PNG, Format, SaveOptions, format_of
from srcli.io.image import Image, Metadata, RowReader
from srcli.io.load import reason
from srcli.io.metadata import kept_by
from srcli.io.png_chunks import SIGNATURE, png_chunk

_BLOB = pyvips.GValue.blob_type
_BLOCK = 2**20  # bytes of rows that are read at a time and copied several times

WHITE = (255, 255, 255)
DEFAULT = SaveOptions()


def check_target(path: Path, width: int, height: int, options: SaveOptions = DEFAULT) -> None:
    """Raise SrcliError if the format of this file name does not support images of this size, or cannot be encoded this way."""
    format_ = format_of(path)
    options.check(path)
    if max(width, height) > format_.longest:
        raise SrcliError(
            f"{path} would be {width}x{height} pixels; {format_.name} supports {format_.longest} per side. Use .png or .tif."
        )


def write_image(
    image: Image,
    path: str | Path,
    *,
    overwrite: bool = False,
    background: tuple[int, int, int] = WHITE,
    options: SaveOptions = DEFAULT,
) -> list[str]:
    """Write an image in memory to a file. See `write_rows`."""
    return write_rows(
        image.rows(), Path(path), metadata=image.metadata, overwrite=overwrite, background=background, options=options
    )


def write_rows(
    rows: RowReader,
    path: Path,
    *,
    metadata: Metadata = (),
    size: tuple[int, int] | None = None,
    overwrite: bool = False,
    background: tuple[int, int, int] = WHITE,
    options: SaveOptions = DEFAULT,
) -> list[str]:
    """Write an image to a file atomically. Returns what the format could not store, in words.

    16 bits are kept if the format supports them. background: RGB in 0..255, replaces transparency in JPEG. size: width and
    height to resample to first, with a Lanczos kernel on premultiplied colors. PNG, JPEG and TIFF are written as the rows are
    read; WebP, AVIF, JPEG XL and JPEG with a gain map hold all rows in memory.

    Raises SrcliError if the file exists and `overwrite` is false, or if it cannot be written; and what reading the rows raises.
    """
    format_ = format_of(path)
    options.check(path)
    deep, gray, alpha = rows.dtype == np.uint16, rows.channels <= 2, rows.channels in (2, 4)
    fields, lost = kept_by(metadata, format_)
    stream = _Stream(rows)
    with atomic_write(path, overwrite=overwrite) as part:
        try:
            image = stream.image()
            if size and size != (rows.width, rows.height):
                image = resample(image, *size, alpha=alpha)
            image, fields, converted = _with_color_for(format_, image, metadata, fields)
            if alpha and not format_.alpha:
                image = image.flatten(background=_tone(background, gray=gray, deep=deep))
            if deep and format_.depth == 8:
                # maps 65535 to 255
                image = (image / 257 + 0.5).cast("uchar").copy(interpretation="b-w" if gray else "srgb")
                lost.insert(0, "16 bits (reduced to 8)")
            lost = converted + [what for what in lost if what != "color profile"]
            lost += encode(image, part, format_, fields, options)
        except pyvips.Error as error:
            if stream.failure:
                raise stream.failure from None
            raise SrcliError(f"Cannot write {path} ({reason(error, part.name)}).") from None
        finally:
            stream.close()
    if alpha and not format_.alpha and not stream.opaque:
        lost.insert(0, f"transparency (replaced by {_color_name(background)})")
    return lost


def _with_color_for(
    format_: Format, image: pyvips.Image, metadata: Metadata, fields: Metadata
) -> tuple[pyvips.Image, Metadata, list[str]]:
    """The image in colors that the format can describe, its fields, and what that loses."""
    known = {name: value for name, _, value in metadata}
    code_points, profile = known.get(CICP), known.get(PROFILE)
    without = tuple(field for field in fields if field[0] not in (PROFILE, CICP))
    if is_hdr(code_points):
        if not format_.hdr:
            return to_srgb(image, code_points), without, ["HDR (converted to sRGB, what is brighter than white clipped)"]
        # readers of AVIF prefer a profile, which cannot describe HDR
        return image, fields if format_ is PNG else (*without, (CICP, _BLOB, code_points)), []
    if profile and "color profile" not in format_.keeps:
        image = image.copy()
        image.set_type(_BLOB, PROFILE, profile)
        return to_srgb(image), without, ["color profile (converted to sRGB)"]
    return image, fields, []


def resample(image: pyvips.Image, width: int, height: int, *, alpha: bool) -> pyvips.Image:
    """The image at another size. Colors are weighted by their opacity."""
    scales: dict[str, Any] = {"vscale": height / image.height, "kernel": "lanczos3"}
    if not alpha:
        return image.resize(width / image.width, **scales)
    large = image.premultiply().resize(width / image.width, **scales).unpremultiply()
    return large.rint().cast(image.format).copy(interpretation=image.interpretation)


def _tone(color: tuple[int, int, int], *, gray: bool, deep: bool) -> list[float]:
    red, green, blue = (part * (257 if deep else 1) for part in color)
    return [0.299 * red + 0.587 * green + 0.114 * blue] if gray else [red, green, blue]


def _color_name(color: tuple[int, int, int]) -> str:
    names = {(255, 255, 255): "white", (0, 0, 0): "black", (128, 128, 128): "gray"}
    return names.get(color, "#{:02x}{:02x}{:02x}".format(*color))


class _Stream:
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
