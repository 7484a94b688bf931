"""Opening image files lazily, after checks that take no decoding."""

from __future__ import annotations

import re
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import pyvips

from srcli.errors import SrcliError
from srcli.io.animation import Animation, TallRows, animation_of
from srcli.io.avif import decoded_by_libavif
from srcli.io.decoders import open_decoded, pages_differ
from srcli.io.files import open_binary
from srcli.io.formats import EXTENSIONS, FORMATS
from srcli.io.image import ArrayRows
from srcli.io.stream import RowStream
from srcli.io.vips import with_fields_of

_REVERSED = (3, 4, 5, 6, 7, 8)  # EXIF orientations for which the last row may be needed first
_MAX_PIXELS = 1_000_000_000
_LARGE = 50_000_000
_MAX_PIXELS_PER_BYTE = 200
"""Photographs of best compression reach 20 to 50. Files with more are usually made to fill memory or disk."""
_IMAGE_NAME = re.compile(rf"({'|'.join(map(re.escape, EXTENSIONS))})\b", re.IGNORECASE)


@dataclass(frozen=True)
class LoadedImage:
    """A lazy image in its stored orientation.

    frames: of its file. animation: the timing of the frames if all of them are loaded. stream: what libvips reads it from, if
    that is not the file, but keeps no reference to.
    """

    image: pyvips.Image
    frames: int = 1
    animation: Animation | None = None
    stream: RowStream | None = None


def load_image(
    source: Path | bytes, name: str, frame: int | None, max_pixels: int | None, fail_on: str, *, all_frames: bool = False
) -> LoadedImage:
    """Open a file after checks of its size.

    frame: the one to open. all_frames: load all, one below the other, if there are several and `frame` is None. fail_on: what
    libvips treats as a failure. Raises SrcliError for a frame that does not exist and for too many pixels, and pyvips.Error for
    damage.
    """
    decoded = open_decoded(source, name)
    if decoded:
        try:
            _check_frame(name, decoded.frames, frame)
            whole = all_frames and frame is None and decoded.frames > 1
            height = decoded.height * (decoded.frames if whole else 1)
            _check_pixels(name, decoded.width, height, max_pixels, _file_size(source))
            if whole and decoded.animation:
                return _all_frames(source, name, decoded.animation())
            if frame is None and decoded.frames > 1:
                return LoadedImage(pyvips.Image.black(decoded.width, decoded.height), decoded.frames)
            image = decoded.read(frame or 1)
        finally:
            decoded.close()
        image.set_type(pyvips.GValue.gstr_type, "vips-loader", decoded.loader)
        return LoadedImage(image, decoded.frames)
    image = load(source, fail_on=fail_on)
    frames = image.get("n-pages") if image.get_typeof("n-pages") else 1
    _check_frame(name, frames, frame)
    whole = all_frames and frame is None and frames > 1
    # sequential access keeps little of the image in memory; rotated images are decoded first, to a file if they are large
    access = "random" if orientation(image) in _REVERSED else "sequential"
    _check_pixels(name, image.width, image.height * (frames if whole else 1), max_pixels, _file_size(source))
    if whole:
        try:
            image = load(source, fail_on=fail_on, access=access, n=-1)
        except pyvips.Error:
            raise pages_differ(name, frames) from None
        return LoadedImage(_upright_frames(image, frames), frames, animation_of(image, frames))
    if frames == 1 and str(image.get("vips-loader")).startswith("heif"):
        decoded_image = decoded_by_libavif(source, image)
        if decoded_image:
            return LoadedImage(decoded_image)
    page = {} if frame is None or frames == 1 else {"page": frame - 1}
    return LoadedImage(load(source, fail_on=fail_on, access=access, **page), frames)


def _upright_frames(image: pyvips.Image, frames: int) -> pyvips.Image:
    """A tall image whose frames are turned one by one."""
    if orientation(image) == 1:
        return image
    height = image.height // frames
    parts = [image.crop(0, top, image.width, height).autorot() for top in range(0, image.height, height)]
    return pyvips.Image.arrayjoin(parts, across=1)


def _all_frames(source: Path | bytes, name: str, animation: Animation) -> LoadedImage:
    """The frames one below the other, decoded as they are read, for which the file is held in memory."""
    decoded = open_decoded(source if isinstance(source, bytes) else source.read_bytes(), name)
    assert decoded is not None  # it was read before
    first = decoded.read(1)
    images = chain([first], map(decoded.read, range(2, decoded.frames + 1)))
    stream = RowStream(TallRows(lambda: ArrayRows(next(images).numpy()), decoded.frames))
    image = with_fields_of(stream.image(), first)
    image.set_type(pyvips.GValue.gstr_type, "vips-loader", decoded.loader)
    return LoadedImage(image, decoded.frames, animation, stream)


def load(source: Path | bytes, **options: Any) -> pyvips.Image:
    if options.get("fail_on") == "none" and _starts_with(source, b"\x89PNG"):
        # libpng reads in blocks, and would lose the last one of a file that ends early
        source = (source if isinstance(source, bytes) else source.read_bytes()) + bytes(2**16)
    # Ultra HDR, too, is a JPEG; libvips' loader for it holds the image in memory and tolerates damage
    vips, jpeg = pyvips.Image, is_jpeg(source)
    if isinstance(source, bytes):
        return vips.jpegload_buffer(source, **options) if jpeg else vips.new_from_buffer(source, "", **options)
    try:
        str(source).encode()
    except UnicodeEncodeError:  # pyvips supports only names in UTF-8
        with source.open("rb") as file:
            opened = pyvips.Source.new_from_descriptor(file.fileno())
            return vips.jpegload_source(opened, **options) if jpeg else vips.new_from_source(opened, "", **options)
    load_file = vips.jpegload if jpeg else vips.new_from_file
    return load_file(str(source), revalidate=True, **options)


def check_readable(source: Path | bytes) -> None:
    if isinstance(source, bytes):
        if not source:
            raise SrcliError("stdin is empty (0 bytes). Pipe an image into srcli.")
        return
    try:
        if source.is_dir():
            raise SrcliError(f"{source} is a folder, not an image.")
        if source.exists() and not source.is_file():  # opening a pipe would block until someone writes to it
            raise SrcliError(f"{source} is not a regular file. Pipe it into srcli, with - as the input.")
        with source.open("rb") as file:
            if not file.read(1):
                raise SrcliError(f"{source} is empty (0 bytes). Get the image again from its source.")
    except OSError as error:
        raise SrcliError(f"Cannot read {source}: {error.strerror}.") from None


def is_jpeg(source: Path | bytes) -> bool:
    return _starts_with(source, b"\xff\xd8\xff")


def _starts_with(source: Path | bytes, start: bytes) -> bool:
    with open_binary(source) as file:
        return file.read(len(start)) == start


def _file_size(source: Path | bytes) -> int:
    return len(source) if isinstance(source, bytes) else source.stat().st_size


def _check_pixels(name: str, width: int, height: int, most: int | None, size: int) -> None:
    """Reject files that are made to fill memory or disk. most: the limit, or None for one that depends on the file's size."""
    pixels = width * height
    if pixels > (most or _MAX_PIXELS):
        raise SrcliError(
            f"{name} has {width}x{height} = {pixels} pixels, more than the limit of {most or _MAX_PIXELS}. "
            "If that is right, raise `max_pixels`."
        )
    if most is None and pixels > _LARGE and pixels > _MAX_PIXELS_PER_BYTE * size:
        raise SrcliError(
            f"{name} has {width}x{height} = {pixels} pixels in only {size} bytes, so it is probably not a real image. "
            f"If it is, use `max_pixels={pixels}`."
        )


def _check_frame(name: str, frames: int, frame: int | None) -> None:
    if frame is not None and not 1 <= frame <= frames:
        raise SrcliError(f"{name} has {frames} frame{'s' if frames > 1 else ''}, so there is no frame {frame}.")


def orientation(image: pyvips.Image) -> int:
    return int(image.get("orientation")) if image.get_typeof("orientation") else 1


def unreadable(name: str, error: pyvips.Error) -> SrcliError:
    if "known file format" in str(error.detail) or "known format" in str(error.detail):
        known = ", ".join(format_.name for format_ in FORMATS)
        return SrcliError(f"{name} is not an image, or in a format that srcli does not read. It reads {known}.")
    return SrcliError(
        f"{name} cannot be read as an image ({reason(error, name)}). Get it again, or save it again in another program."
    )


def reason(error: pyvips.Error, name: str) -> str:
    """The last line of libvips' error message about the file of that name.

    libvips collects the messages of all threads in one place, so lines that name another image are left out.
    """
    lines = [line.strip() for line in str(error.detail).splitlines() if line.strip()]
    own = [line for line in lines if name in line or not _IMAGE_NAME.search(line)]
    return own[-1] if own else "unknown format"
