"""Writing images to files: atomically, and row by row."""

from __future__ import annotations

import struct
import zlib
from collections.abc import Generator
from pathlib import Path
from typing import Any

import numpy as np
import pyvips

from srcli.errors import ConfigError, SrcliError
from srcli.io.atomic import atomic_write
from srcli.io.cicp import CICP, is_hdr
from srcli.io.color import PROFILE, to_srgb
from srcli.io.discover import EXTENSIONS
from srcli.io.exif import add_exif_to_tiff
from srcli.io.heif_boxes import add_nclx
from srcli.io.image import Image, Metadata, RowReader
from srcli.io.load import reason
from srcli.io.png_chunks import SIGNATURE, TEXTS, add_to_png, png_chunk

_SAVE: dict[str, dict[str, Any]] = {
    ".png": {"compression": 6},
    ".jpg": {"Q": 95, "subsample_mode": "off"},
    ".webp": {"Q": 95, "smart_subsample": True},
    ".tif": {"compression": "deflate", "predictor": "horizontal"},
    ".avif": {"Q": 90, "effort": 3, "compression": "av1", "subsample_mode": "off"},
}
_ALIASES = {".jpeg": ".jpg", ".tiff": ".tif"}
_LONGEST_SIDE = {".jpg": 65_535, ".webp": 16_383, ".avif": 16_384}
_LONGEST = 10_000_000  # libvips' own limit
_DEEP = (".png", ".tif", ".avif")  # formats with more than 8 bits
_OPAQUE = (".jpg",)  # formats without transparency
_HDR = (".png", ".avif")  # formats that describe PQ and HLG
_CLASSIC_TIFF = 3_500_000_000  # bytes of pixels that certainly fit into 32-bit offsets
_DEFAULT_DPI = 72  # what programs assume for files without a resolution; libvips would write 25.4
_IN_MEMORY = 2**24  # pixels that may be in memory at once
_BLOCK = 2**20  # bytes of rows that are read at a time and copied several times

WHITE = (255, 255, 255)


def check_target(path: Path, width: int, height: int) -> None:
    """Raise SrcliError if the format of this file name does not support images of this size, or is unknown."""
    extension = _extension(path)
    longest = _LONGEST_SIDE.get(extension, _LONGEST)
    if max(width, height) > longest:
        raise SrcliError(f"{path} would be {width}x{height} pixels; {extension} supports {longest} per side. Use .png or .tif.")


def _extension(path: Path) -> str:
    extension = path.suffix.lower()
    extension = _ALIASES.get(extension, extension)
    if extension not in _SAVE:
        raise ConfigError(f"{path} has no supported extension; use one of {', '.join(EXTENSIONS)}.")
    return extension


def write_image(
    image: Image, path: str | Path, *, overwrite: bool = False, background: tuple[int, int, int] = WHITE
) -> list[str]:
    """Write an image in memory to a file. See `write_rows`."""
    return write_rows(image.rows(), Path(path), metadata=image.metadata, overwrite=overwrite, background=background)


def write_rows(
    rows: RowReader,
    path: Path,
    *,
    metadata: Metadata = (),
    size: tuple[int, int] | None = None,
    overwrite: bool = False,
    background: tuple[int, int, int] = WHITE,
) -> list[str]:
    """Write an image to a file atomically. Returns what the format could not store.

    JPEG and WebP are written at quality 95, AVIF at 90, PNG and TIFF losslessly. 16 bits are kept if the format supports them.
    background: RGB in 0..255, replaces transparency in JPEG. size: width and height to resample to first, with a Lanczos kernel
    on premultiplied colors. PNG, JPEG and TIFF are written while the rows are read; WebP and AVIF hold all of them in memory.

    Raises SrcliError if the file exists and `overwrite` is false, or if it cannot be written; and what reading the rows raises.
    """
    extension = _extension(path)
    options = dict(_SAVE[extension])
    lost: list[str] = []
    deep, gray, alpha = rows.dtype == np.uint16, rows.channels <= 2, rows.channels in (2, 4)
    fields = {name: value for name, _, value in metadata}
    code_points = fields.get(CICP)
    stream = _Stream(rows)
    with atomic_write(path, overwrite=overwrite) as part:
        try:
            image = stream.image()
            if size and size != (rows.width, rows.height):
                image = resample(image, *size, alpha=alpha)
            hdr = is_hdr(code_points)
            if hdr and extension not in _HDR:
                image = to_srgb(image, code_points)
                lost.append("HDR (converted to sRGB, what is brighter than white clipped)")
            if alpha and extension in _OPAQUE:
                image = image.flatten(background=_tone(background, gray=gray, deep=deep))
            if deep and extension not in _DEEP:
                # maps 65535 to 255
                image = (image / 257 + 0.5).cast("uchar").copy(interpretation="b-w" if gray else "srgb")
                lost.append("16 bits (reduced to 8)")
            dots = {axis: fields.get(axis, _DEFAULT_DPI / 25.4) for axis in ("xres", "yres")}
            image = image.copy(**dots)  # dots per mm
            for name, kind, value in metadata:
                if name == PROFILE and hdr and extension != ".png":
                    continue  # converted, or described by code points alone: readers of AVIF prefer a profile
                if name not in dots and name not in (TEXTS, CICP):
                    image.set_type(kind, name, value)
            exif = fields.get("exif-data")
            if exif:
                image.set_type(pyvips.GValue.gint_type, "orientation", 1)  # the pixels are upright now
            else:
                options["keep"] = "icc|xmp|iptc|other"  # otherwise libvips adds an EXIF block to JPEG
            if extension == ".jpg":  # saves a few percent on disk, but needs the whole image in memory
                options["optimize_coding"] = image.width * image.height <= _IN_MEMORY
            if extension == ".avif":
                options["bitdepth"] = 12 if deep else 8
            if extension == ".tif":
                options["bigtiff"] = image.width * image.height * image.bands * (2 if deep else 1) > _CLASSIC_TIFF
            _save(image, part, options)
        except pyvips.Error as error:
            if stream.failure:
                raise stream.failure from None
            raise SrcliError(f"Cannot write {path} ({reason(error, part.name)}).") from None
        finally:
            stream.close()
        if exif and extension == ".tif":
            add_exif_to_tiff(part, exif)
        if extension == ".png":
            add_to_png(part, color=png_chunk(b"cICP", code_points) if code_points else b"", texts=fields.get(TEXTS, b""))
        if extension == ".avif" and code_points and hdr:
            add_nclx(part, code_points[0], code_points[1])
    if alpha and extension in _OPAQUE and not stream.opaque:
        lost.insert(0, f"transparency (replaced by {_color_name(background)})")
    return lost


def _save(image: pyvips.Image, path: Path, options: dict[str, Any]) -> None:
    try:
        str(path).encode()
    except UnicodeEncodeError:  # pyvips supports only names in UTF-8
        with path.open("rb+") as file:
            image.write_to_target(pyvips.Target.new_to_descriptor(file.fileno()), path.suffix, **options)
    else:
        image.write_to_file(str(path), **options)


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
