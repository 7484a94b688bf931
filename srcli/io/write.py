"""Writing images to files: atomically, and row by row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyvips

from srcli.errors import SrcliError
from srcli.io.animation import Animation
from srcli.io.atomic import atomic_write
from srcli.io.cicp import CICP, is_hdr
from srcli.io.color import PROFILE, to_srgb
from srcli.io.encode import encode
from srcli.io.formats import PNG, WRITTEN, Format, SaveOptions, format_of
from srcli.io.image import Image, Metadata, RowReader
from srcli.io.load import reason
from srcli.io.metadata import BITS, kept_by, with_mark
from srcli.io.stream import RowStream

_BLOB = pyvips.GValue.blob_type

WHITE = (255, 255, 255)
DEFAULT = SaveOptions()


def check_target(
    path: Path, width: int, height: int, options: SaveOptions = DEFAULT, animation: Animation | None = None
) -> None:
    """Raise SrcliError if the format of this file name does not support images of this size, or cannot be encoded this way."""
    format_ = format_of(path, animated=animation is not None)
    options.check(path, animated=animation is not None)
    if animation and format_.frames != animation.kind:
        known = [written.extensions[0] for written in WRITTEN if written.frames == animation.kind]
        what = "frames" if animation.delays else "pages"
        raise SrcliError(
            f"{path} cannot hold {animation.frames} {what}. Write {' or '.join(known)}, or choose one with `frame`."
        )
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
    animation: Animation | None = None,
) -> list[str]:
    """Write an image to a file atomically. Returns what the format could not store, in words.

    16 bits are kept if the format supports them. background: RGB in 0..255, replaces transparency in JPEG. size: width and
    height to resample to first, with a Lanczos kernel on premultiplied colors. PNG, JPEG and TIFF are written as the rows are
    read; WebP, AVIF, JPEG XL and JPEG with a gain map hold all rows in memory. animation: of rows with its frames one below the
    other, of which one is in memory at a time.

    Raises SrcliError if the file exists and `overwrite` is false, or if it cannot be written; and what reading the rows raises.
    """
    format_ = format_of(path, animated=animation is not None)
    options.check(path, animated=animation is not None)
    deep, gray, alpha = rows.dtype == np.uint16, rows.channels <= 2, rows.channels in (2, 4)
    fields, lost = kept_by(metadata, format_)
    stream = RowStream(rows)
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
            bits = next((value for name, _, value in metadata if name == BITS), 16)
            if deep and bits > format_.depth and not options.bit_depth:
                lost.insert(0, f"{bits} bits (reduced to {format_.depth})")
            lost = converted + [what for what in lost if what != "color profile"]
            if options.mark and "XMP" in format_.keeps:
                fields = with_mark(fields)
            lost += encode(image, part, format_, fields, options, animation)
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


def resampled_rows(rows: RowReader, width: int, height: int) -> RowReader:
    """Rows at another size, with a Lanczos kernel on premultiplied colors."""
    return rows if (rows.width, rows.height) == (width, height) else _ResampledRows(rows, width, height)


class _ResampledRows:
    def __init__(self, rows: RowReader, width: int, height: int) -> None:
        self.width, self.height, self.channels, self.dtype = width, height, rows.channels, rows.dtype
        self._stream = RowStream(rows)
        image = resample(self._stream.image(), width, height, alpha=rows.channels in (2, 4))
        self._region, self._done = pyvips.Region.new(image), 0

    def read(self, count: int) -> np.ndarray:
        count = min(count, self.height - self._done)
        try:
            data = self._region.fetch(0, self._done, self.width, count) if count else b""
        except pyvips.Error as error:
            raise self._stream.failure or error from None
        self._done += count
        if self._done == self.height:
            self._stream.close()
        return np.frombuffer(data, self.dtype).reshape(count, self.width, self.channels)


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
