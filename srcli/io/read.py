"""Reading images from files: whole, or row by row."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyvips

import srcli.io.vips  # noqa: F401, sets up libvips
from srcli.errors import SrcliError
from srcli.io.cicp import read_description
from srcli.io.color import PROFILE, has_usable_profile, to_rgb_or_gray, to_srgb
from srcli.io.decoders import open_decoded
from srcli.io.discover import EXTENSIONS
from srcli.io.files import open_binary
from srcli.io.image import Image, Metadata
from srcli.io.metadata import profile_for_networks, read_metadata, with_color

_REVERSED = (3, 4, 5, 6, 7, 8)  # EXIF orientations for which the last row may be needed first
_MAX_PIXELS = 1_000_000_000
_LARGE = 50_000_000
_MAX_PIXELS_PER_BYTE = 200
"""Photographs of best compression reach 20 to 50. Files with more are usually made to fill memory or disk."""
_IMAGE_NAME = re.compile(rf"({'|'.join(map(re.escape, EXTENSIONS))})\b", re.IGNORECASE)


class ImageReader:
    """An image file: its size, type and metadata, and its rows from top to bottom, upright.

    channels: 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGBA), alpha not premultiplied. dtype: uint8 or uint16. loader: the name
    of libvips' loader (pngload, jpegload, ...). image: the libvips image, for use in `srcli.io`; like the rows, it may be read
    once. lost: what of the file is not read, in words. damage: what is wrong with the rows read so far, if they could be read
    nevertheless. reopen_tolerant: opens the file again in a way that ignores damage.
    """

    def __init__(
        self,
        image: pyvips.Image,
        name: str,
        metadata: Metadata,
        loader: str,
        lost: Sequence[str] = (),
        reopen_tolerant: Callable[[], ImageReader] | None = None,
    ) -> None:
        self.name = name
        self.width, self.height, self.channels = int(image.width), int(image.height), int(image.bands)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8 if image.format == "uchar" else np.uint16)
        self.metadata = metadata
        self.loader = loader
        self.image = image  # keeps the bytes alive that it may have been made from
        self.lost = tuple(lost)
        self.damage: str | None = None
        self._reopen_tolerant = reopen_tolerant
        self._region = pyvips.Region.new(image)
        self._done = 0

    def read(self, count: int) -> np.ndarray:
        """The next `count` rows, or the remaining ones if there are fewer: n x W x C.

        Raises SrcliError if the file is damaged or truncated.
        """
        count = min(count, self.height - self._done)
        try:
            data = self._region.fetch(0, self._done, self.width, count) if count else b""
        except pyvips.Error as error:
            if self._reopen_tolerant is None:
                raise _unreadable(self.name, error) from None
            self.damage = reason(error, self.name)
            self.image, self._reopen_tolerant = self._reopen_tolerant().image, None
            self._region = pyvips.Region.new(self.image)
            return self.read(count)
        self._done += count
        return np.frombuffer(data, dtype=self.dtype).reshape(count, self.width, self.channels)

    @property
    def profile(self) -> bytes | None:
        return profile_for_networks(self.metadata)


def open_image(
    source: Path | bytes,
    *,
    frame: int | None = None,
    max_pixels: int | None = None,
    srgb: bool = False,
    find_damage: bool = False,
) -> ImageReader:
    """Open an image file, or the bytes of one, with its own bit depth, channels and color profile.

    CMYK and Lab are converted to sRGB. frame: of an animation or a file with several pages, from 1. srgb: convert every image
    to sRGB and drop the metadata. find_damage: report damage in `ImageReader.damage` that a JPEG decoder would conceal.
    Rows are decoded as they are read, except for rotated images, interlaced PNG, WebP and AVIF.

    max_pixels: the limit; None for a limit that depends on the size of the file (see `_check_pixels`).

    Raises SrcliError if the file is missing, empty, damaged or not supported, if it has more than `max_pixels` pixels, or
    several frames and `frame` is None.
    """

    def opened(fail_on: str, reopen_tolerant: Callable[[], ImageReader] | None = None) -> ImageReader:
        return _opened(source, frame, max_pixels, srgb=srgb, fail_on=fail_on, reopen_tolerant=reopen_tolerant)

    if not (find_damage and _is_jpeg(source)):  # other decoders always report damage, or never
        return opened("error")
    try:
        return opened("warning", reopen_tolerant=lambda: opened("error"))
    except SrcliError:  # damage that can be tolerated, or another reason
        return opened("error")


def _opened(
    source: Path | bytes,
    frame: int | None,
    max_pixels: int | None,
    *,
    srgb: bool,
    fail_on: str,
    reopen_tolerant: Callable[[], ImageReader] | None,
) -> ImageReader:
    """fail_on: what libvips treats as a failure, `error` or `warning`."""
    name = "stdin" if isinstance(source, bytes) else str(source)
    try:
        image, frames = _open(source, frame, max_pixels, fail_on)
        loader = str(image.get("vips-loader")) if image.get_typeof("vips-loader") else "pngload"
        if frames > 1 and frame is None:
            raise SrcliError(f"{name} has {frames} frames or pages; choose one with `frame`, as in `frame=1`.")
        image, lost = _as_integers(image, name)
        metadata = read_metadata(source, image)
        image = image.autorot() if _orientation(image) != 1 else image
        image = image.copy()
        described = read_description(source, gray=image.bands < 3)
        if described and image.get_typeof(PROFILE):
            image.remove(PROFILE)
        if described and described.profile:
            image.set_type(pyvips.GValue.blob_type, PROFILE, described.profile)
        if image.get_typeof(PROFILE) and not has_usable_profile(image):
            image.remove(PROFILE)
            lost.append("the color profile (damaged, or for another kind of image)")
        image = to_rgb_or_gray(image)
        if image.bands > 4:
            raise SrcliError(f"{name} has {image.bands} channels; up to 4 are supported. Convert it first.")
        code_points = described.code_points if described else None
        if srgb:
            image, metadata, code_points = to_srgb(image, code_points), (), None
        metadata = with_color(metadata, image, code_points)
        return ImageReader(image, name, metadata, loader, lost, reopen_tolerant)
    except pyvips.Error as error:
        raise _unreadable(name, error) from None


def _as_integers(image: pyvips.Image, name: str) -> tuple[pyvips.Image, list[str]]:
    """The image with 8 or 16 bits, and what that loses. Floats are values in 0..1."""
    if image.format in ("uchar", "ushort") or image.interpretation in ("labs", "labq"):
        return image, []
    if image.format not in ("float", "double"):
        raise SrcliError(
            f"{name} has {image.bands} channels of type {image.format}, for which the value of white is unknown; "
            "up to 4 channels of 8 or 16 bits, or of floats in 0..1, are supported. Convert it first."
        )
    image = image.copy_memory()  # it is read twice
    low, high = (float(extreme(image.numpy())) for extreme in (np.min, np.max))
    if not (low >= -1e-6 and high <= 1 + 1e-6):  # also if a value is not a number
        raise SrcliError(f"{name} has float values from {low:g} to {high:g}; only 0 to 1 is supported. Scale them first.")
    gray = image.bands < 3
    image = (image * 65_535).rint().cast("ushort").copy(interpretation="grey16" if gray else "rgb16")
    return image, ["floats (stored as 16 bits)"]


def _is_jpeg(source: Path | bytes) -> bool:
    _check_readable(source)
    with open_binary(source) as file:
        return file.read(3) == b"\xff\xd8\xff"


def read_image(path: str | Path, *, frame: int | None = None) -> Image:
    """Read an image with its own bit depth, channels and color profile. CMYK and Lab are converted to sRGB.

    frame: of an animation or a file with several pages, from 1.
    Raises SrcliError if the file is missing, empty, damaged, truncated or not supported, or has several frames.
    """
    file = open_image(Path(path), frame=frame)
    return Image(file.read(file.height), file.metadata)


def is_complete(path: Path, width: int, height: int) -> bool | None:
    """Whether all pixels of an image can be read. None if they can, but its size is not width x height."""
    try:
        file = open_image(path, find_damage=True)
        while len(file.read(256)):
            pass
        if file.damage:
            return False
        if file.loader.startswith("png") and not _has_png_end(path):
            return False  # all pixels are there, but the end of the file is not
    except SrcliError:
        return False
    return True if (file.width, file.height) == (width, height) else None


def _has_png_end(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2**16))  # some programs append data
        return b"IEND\xaeB`\x82" in file.read()


def read_srgb(path: Path) -> np.ndarray:
    """An image as H x W x 3 uint8 in sRGB: profiles converted, gray expanded to RGB, alpha blended with white.

    Raises SrcliError as `read_image` does.
    """
    pixels = read_exact_srgb(path, deep=False)
    if pixels.shape[2] == 3:
        return pixels
    color, alpha = pixels[..., :3].astype(np.float32), pixels[..., 3:].astype(np.float32) / 255
    flat: np.ndarray = np.rint(color * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return flat


def read_exact_srgb(path: Path, *, deep: bool = True, max_pixels: int | None = None) -> np.ndarray:
    """An image in sRGB as H x W x 3, or H x W x 4 with alpha (not premultiplied): profiles converted, gray expanded to RGB.

    deep: return 16-bit images as uint16. All others, and all if `deep` is false, are uint8.
    Raises SrcliError as `read_image` does, and for more than `max_pixels` pixels before any is decoded.
    """
    file = open_image(path, max_pixels=max_pixels, srgb=True)
    pixels = file.read(file.height)
    if not deep and pixels.dtype == np.uint16:
        pixels = np.rint(pixels / 257).astype(np.uint8)
    if file.channels < 3:
        pixels = np.concatenate([np.repeat(pixels[..., :1], 3, axis=2), pixels[..., 1:]], axis=2)
    return pixels


def _open(source: Path | bytes, frame: int | None, max_pixels: int | None, fail_on: str = "error") -> tuple[pyvips.Image, int]:
    """The file as a lazy image in its stored orientation, and its number of frames. frame: the one to open."""
    _check_readable(source)
    name = "stdin" if isinstance(source, bytes) else str(source)
    decoded = open_decoded(source, name)
    if decoded:
        try:
            _check_frame(name, decoded.frames, frame)
            _check_pixels(name, decoded.width, decoded.height, max_pixels, _file_size(source))
            if frame is None and decoded.frames > 1:
                return pyvips.Image.black(decoded.width, decoded.height), decoded.frames
            image = decoded.read(frame or 1)
        finally:
            decoded.close()
        image.set_type(pyvips.GValue.gstr_type, "vips-loader", decoded.loader)
        return image, decoded.frames
    image = _load(source, fail_on=fail_on)
    frames = image.get("n-pages") if image.get_typeof("n-pages") else 1
    _check_frame(name, frames, frame)
    _check_pixels(name, image.width, image.height, max_pixels, _file_size(source))
    page = {} if frame is None or frames == 1 else {"page": frame - 1}
    # sequential access keeps little of the image in memory; rotated images are decoded first, to a file if they are large
    access = "random" if _orientation(image) in _REVERSED else "sequential"
    return _load(source, fail_on=fail_on, access=access, **page), frames


def _load(source: Path | bytes, **options: Any) -> pyvips.Image:
    if isinstance(source, bytes):
        return pyvips.Image.new_from_buffer(source, "", **options)
    try:
        str(source).encode()
    except UnicodeEncodeError:  # pyvips supports only names in UTF-8
        with source.open("rb") as file:
            return pyvips.Image.new_from_source(pyvips.Source.new_from_descriptor(file.fileno()), "", **options)
    return pyvips.Image.new_from_file(str(source), revalidate=True, **options)


def _check_readable(source: Path | bytes) -> None:
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


def _orientation(image: pyvips.Image) -> int:
    return int(image.get("orientation")) if image.get_typeof("orientation") else 1


def _unreadable(name: str, error: pyvips.Error) -> SrcliError:
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
