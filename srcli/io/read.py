"""Reading images from files: whole, or row by row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pyvips

from srcli.errors import SrcliError
from srcli.io.cicp import read_description
from srcli.io.color import PROFILE, has_usable_profile, to_rgb_or_gray, to_srgb
from srcli.io.damage import is_harmless, missing_rows, truncated, with_end
from srcli.io.image import Image, Metadata
from srcli.io.load import LoadedImage, check_readable, is_jpeg, load, load_image, orientation, reason, unreadable
from srcli.io.metadata import profile_for_networks, read_metadata, with_color


class ImageReader:
    """An image file: its size, type and metadata, and its rows from top to bottom, upright.

    channels: 1 (gray), 2 (gray, alpha), 3 (RGB) or 4 (RGBA), alpha not premultiplied. dtype: uint8 or uint16. loader: the name
    of libvips' loader (pngload, jpegload, ...). image: the libvips image, for use in `srcli.io`; like the rows, it may be read
    once. lost: what of the file is not read, in words. damage: what is wrong with the rows read so far, if they could be read
    nevertheless. on_damage: opens the file again in a way that ignores the damage, or raises SrcliError.
    animation: if the image is several frames of `frame_height` rows one below the other. loaded: what `image` is computed from.
    """

    def __init__(
        self,
        image: pyvips.Image,
        name: str,
        metadata: Metadata,
        loader: str,
        lost: Sequence[str] = (),
        on_damage: Callable[[pyvips.Error], ImageReader] | None = None,
        loaded: LoadedImage | None = None,
    ) -> None:
        self.name = name
        self.width, self.height, self.channels = int(image.width), int(image.height), int(image.bands)
        self.dtype: np.dtype[Any] = np.dtype(np.uint8 if image.format == "uchar" else np.uint16)
        self.metadata = metadata
        self.loader = loader
        self.image = image  # keeps the bytes alive that it may have been made from
        self.lost = tuple(lost)
        self.damage: str | None = None
        self.animation = loaded.animation if loaded else None
        self.frame_height = self.height // (self.animation.frames if self.animation else 1)
        self._on_damage, self._loaded = on_damage, loaded
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
            if self._on_damage is None:
                raise unreadable(self.name, error) from None
            tolerant = self._on_damage(error)
            self.image, self._region = tolerant.image, pyvips.Region.new(tolerant.image)
            self.damage, self._on_damage = tolerant.damage, tolerant._on_damage
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
    allow_truncated: bool = False,
    all_frames: bool = False,
) -> ImageReader:
    """Open an image file, or the bytes of one, with its own bit depth, channels and color profile.

    CMYK and Lab are converted to sRGB. frame: of an animation or a file with several pages, from 1. srgb: convert every image
    to sRGB and drop the metadata. find_damage: report damage in `ImageReader.damage` that a JPEG decoder would conceal.
    allow_truncated: read a file that ends early; `ImageReader.damage` says which rows are missing. all_frames: if there are
    several, read them one below the other.
    Rows are decoded as they are read, except for rotated images, interlaced PNG, WebP and AVIF.
    max_pixels: the limit; None for a limit that depends on the size of the file (see `srcli.io.load`).

    Raises SrcliError if the file is missing, empty, damaged or not supported, if it has more than `max_pixels` pixels, or
    several frames that are not asked for.
    """
    name = "stdin" if isinstance(source, bytes) else str(source)
    check_readable(source)
    completed = with_end(source, name, max_pixels)
    source = completed or source
    levels = ["warning"] if find_damage and is_jpeg(source) else []  # other decoders always report damage, or never
    levels += ["error", "none"] if allow_truncated else ["error"]

    def opened(number: int, damage: str | None) -> ImageReader:
        """The file at one of the levels. damage: what earlier levels found."""

        def on_damage(error: pyvips.Error) -> ImageReader:
            if number + 1 == len(levels):
                raise truncated(source, name, frame, error) or unreadable(name, error)
            what = reason(error, name)
            try:
                found = missing_rows(source, frame) if levels[number + 1] == "none" else None if is_harmless(what) else what
            except pyvips.Error:  # of a format that has no part of an image
                raise unreadable(name, error) from None
            return opened(number + 1, found)

        try:
            file = _opened(source, name, frame, max_pixels, srgb, levels[number], all_frames, on_damage)
        except pyvips.Error as error:
            return on_damage(error)
        file.damage = damage
        return file

    return opened(0, "its end is missing, but no row" if completed else None)


def _opened(
    source: Path | bytes,
    name: str,
    frame: int | None,
    max_pixels: int | None,
    srgb: bool,
    fail_on: str,
    all_frames: bool,
    on_damage: Callable[[pyvips.Error], ImageReader],
) -> ImageReader:
    """fail_on: what libvips treats as a failure, `none`, `error` or `warning`. Raises pyvips.Error for damage found by now."""
    loaded = load_image(source, name, frame, max_pixels, fail_on, all_frames=all_frames)
    image, frames, animation = loaded.image, loaded.frames, loaded.animation
    loader = str(image.get("vips-loader")) if image.get_typeof("vips-loader") else "pngload"
    if frames > 1 and frame is None and animation is None:
        raise SrcliError(f"{name} has {frames} frames or pages; choose one with `frame`, as in `frame=1`.")
    if animation and orientation(image) != 1:
        raise SrcliError(f"{name} has {frames} frames or pages that are turned; choose one with `frame`, as in `frame=1`.")
    image, lost = _as_integers(image, name)
    metadata, unread = read_metadata(source, image)
    lost += [] if srgb else unread
    image = image.autorot() if orientation(image) != 1 else image
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
    return ImageReader(image, name, metadata, loader, lost, on_damage, loaded)


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


def read_image(path: str | Path, *, frame: int | None = None) -> Image:
    """Read an image with its own bit depth, channels and color profile. CMYK and Lab are converted to sRGB.

    frame: of an animation or a file with several pages, from 1.
    Raises SrcliError if the file is missing, empty, damaged, truncated or not supported, or has several frames.
    """
    file = open_image(Path(path), frame=frame)
    return Image(file.read(file.height), file.metadata)


def count_pixels(path: Path) -> int:
    """The number of pixels of an image, with all its frames, from its header. 0 if that does not say it."""
    try:
        image = load(path, fail_on="error")
    except (pyvips.Error, OSError):
        return 0
    frames = image.get("n-pages") if image.get_typeof("n-pages") else 1
    return int(image.width) * int(image.height) * int(frames)


def is_complete(path: Path, width: int, height: int, *, frames: int = 1) -> bool | None:
    """Whether all pixels of an image with so many frames can be read. None if they can, but its size is not width x height."""
    try:
        file = open_image(path, find_damage=True, all_frames=True)
        while len(file.read(256)):
            pass
        if file.damage or (file.animation.frames if file.animation else 1) != frames:
            return False
        if file.loader.startswith("png") and not _has_png_end(path):
            return False  # all pixels are there, but the end of the file is not
    except SrcliError:
        return False
    return True if (file.width, file.frame_height) == (width, height) else None


def _has_png_end(path: Path) -> bool:
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - 2**16))  # some programs append data
        return b"IEND\xaeB`\x82" in file.read()


def read_srgb(path: Path | bytes) -> np.ndarray:
    """An image file, or the bytes of one, as H x W x 3 uint8 in sRGB: profiles converted, gray expanded, alpha over white.

    Raises SrcliError as `read_image` does.
    """
    pixels = read_exact_srgb(path, deep=False)
    if pixels.shape[2] == 3:
        return pixels
    color, alpha = pixels[..., :3].astype(np.float32), pixels[..., 3:].astype(np.float32) / 255
    flat: np.ndarray = np.rint(color * alpha + 255 * (1 - alpha)).astype(np.uint8)
    return flat


def read_exact_srgb(path: Path | bytes, *, deep: bool = True, max_pixels: int | None = None) -> np.ndarray:
    """An image in sRGB as H x W x 3, or H x W x 4 with alpha (not premultiplied): profiles converted, gray expanded to RGB.

    deep: return 16-bit images as uint16. All others, and all if `deep` is false, are uint8.
    Raises SrcliError as `read_image` does, and for more than `max_pixels` pixels before any is decoded.
    """
    file = open_image(path, max_pixels=max_pixels, srgb=True)
    pixels = file.read(file.height)
    if not deep and pixels.dtype == np.uint16:
        pixels = np.rint(pixels / 257).astype(np.uint8)
    return _as_rgb(pixels)


def as_srgb(image: Image) -> np.ndarray:
    """Like `read_exact_srgb`, for an image in memory."""
    pixels = image.pixels
    profile = next((value for name, _, value in image.metadata if name == PROFILE), None)
    if profile:
        deep, gray = pixels.dtype == np.uint16, pixels.shape[2] < 3
        kind = ("grey16" if deep else "b-w") if gray else ("rgb16" if deep else "srgb")
        described = pyvips.Image.new_from_array(pixels).copy(interpretation=kind)
        described.set_type(pyvips.GValue.blob_type, PROFILE, profile)
        if has_usable_profile(described):
            pixels = to_srgb(described).numpy()
            pixels = pixels if pixels.ndim == 3 else pixels[..., None]
    return _as_rgb(pixels)


def _as_rgb(pixels: np.ndarray) -> np.ndarray:
    if pixels.shape[2] >= 3:
        return pixels
    return np.concatenate([np.repeat(pixels[..., :1], 3, axis=2), pixels[..., 1:]], axis=2)
