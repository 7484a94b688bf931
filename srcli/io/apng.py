"""Animated PNG (PNG specification, third edition, sections 11.3.6 and 13.14), frame by frame."""

from __future__ import annotations

import io
import struct
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
import pyvips

from srcli.io.animation import DEFAULT_DELAY, Animation, changed_area
from srcli.io.png_chunks import SIGNATURE, chunks, png_chunk

_TO_TRANSPARENT, _TO_PREVIOUS = 1, 2  # how a frame is disposed of
_OVER = 1  # how it is blended


@dataclass(frozen=True)
class _Control:
    """An fcTL chunk. delay: in milliseconds."""

    width: int
    height: int
    left: int
    top: int
    delay: int
    disposal: int
    blending: int

    @classmethod
    def of(cls, body: bytes) -> _Control:
        _, width, height, left, top, numerator, denominator, disposal, blending = struct.unpack(">LLLLLHHBB", body)
        return cls(width, height, left, top, round(1000 * numerator / (denominator or 100)), disposal, blending)


def animation_of_png(file: IO[bytes]) -> Animation | None:
    """The timing of an animated PNG. None for other files, and for damaged ones."""
    loop, delays = 0, []
    try:
        for kind, body in chunks(file, (b"acTL", b"fcTL")):
            if kind == b"acTL":
                (loop,) = struct.unpack(">4xL", body)
            else:
                delays.append(_Control.of(body).delay)
    except struct.error:
        return None
    return Animation(len(delays), tuple(delays), loop) if len(delays) > 1 else None


def read_apng(file: IO[bytes]) -> Iterator[np.ndarray]:
    """The frames of an animated PNG as they are shown, H x W x C, all with alpha or none.

    Raises pyvips.Error or ValueError for a damaged one.
    """
    controls = [_Control.of(body) for _, body in chunks(file, (b"fcTL",))]
    canvas: np.ndarray | None = None
    for number, (control, image) in enumerate(_stored_frames(file)):
        pixels = pyvips.Image.pngload_buffer(image, fail_on="error").numpy()
        pixels = pixels.reshape(*pixels.shape[:2], -1)
        opaque = pixels.shape[2] in (1, 3)
        if opaque:
            pixels = np.dstack([pixels, np.full(pixels.shape[:2], np.iinfo(pixels.dtype).max, pixels.dtype)])
        if canvas is None:
            width, height = _size(file)
            canvas = np.zeros((height, width, pixels.shape[2]), pixels.dtype)
            covered = (control.width, control.height) == (width, height)
            without_alpha = opaque and covered and all(each.disposal != _TO_TRANSPARENT for each in controls)
        place = slice(control.top, control.top + control.height), slice(control.left, control.left + control.width)
        if canvas[place].shape != pixels.shape:
            raise ValueError("a frame does not fit into the image")
        before = canvas[place].copy()
        canvas[place] = _over(pixels, before) if control.blending == _OVER and not opaque else pixels
        yield canvas[..., :-1].copy() if without_alpha else canvas.copy()
        if control.disposal == _TO_TRANSPARENT:
            canvas[place] = 0
        elif control.disposal == _TO_PREVIOUS:
            canvas[place] = before if number else 0


def _stored_frames(file: IO[bytes]) -> Iterator[tuple[_Control, bytes]]:
    """Each frame as a PNG of its own."""
    control: _Control | None = None
    header, shared, data = b"", b"", b""

    def image(control: _Control) -> bytes:
        size = struct.pack(">LL", control.width, control.height)
        return SIGNATURE + png_chunk(b"IHDR", size + header[8:]) + shared + png_chunk(b"IDAT", data) + png_chunk(b"IEND", b"")

    for kind, body in chunks(file):
        if kind == b"IHDR":
            header = body
        elif kind in (b"PLTE", b"tRNS"):
            shared += png_chunk(kind, body)
        elif kind == b"fcTL":
            if control:
                yield control, image(control)
            control, data = _Control.of(body), b""
        elif kind == b"IDAT" and control:  # without control, it is not part of the animation
            data += body
        elif kind == b"fdAT":
            data += body[4:]
    if control:
        yield control, image(control)


def _size(file: IO[bytes]) -> tuple[int, int]:
    place = file.tell()
    file.seek(len(SIGNATURE) + 8)
    width, height = struct.unpack(">LL", file.read(8))
    file.seek(place)
    return width, height


def _over(above: np.ndarray, below: np.ndarray) -> np.ndarray:
    """Pixels with alpha, not premultiplied, over others."""
    top = np.iinfo(above.dtype).max
    upper, lower = above[..., -1:] / top, below[..., -1:] / top
    alpha = upper + lower * (1 - upper)
    colors = (above[..., :-1] * upper + below[..., :-1] * lower * (1 - upper)) / np.maximum(alpha, 1e-9)
    mixed: np.ndarray = np.rint(np.concatenate([colors, alpha * top], axis=2)).astype(above.dtype)
    return mixed


def write_apng(
    path: Path, frames: Iterator[np.ndarray], animation: Animation, to_png: Callable[[np.ndarray, bool], bytes]
) -> None:
    """Write frames as an animated PNG, one after another.

    Of each frame, the area that differs from the one before is stored, which it replaces. to_png: the file of an image, and
    whether it is the first frame, whose metadata become those of the animation.
    """
    number = 0
    before: np.ndarray | None = None
    with path.open("wb") as file:
        for index, pixels in enumerate(frames):
            left, top, right, bottom = changed_area(before, pixels)
            before = pixels
            parts = list(chunks(io.BytesIO(to_png(pixels[top:bottom, left:right], index == 0))))
            if index == 0:
                control = struct.pack(">LL", animation.frames, animation.loop)
                others = [png_chunk(kind, body) for kind, body in parts[1:] if kind != b"IDAT"]
                file.write(SIGNATURE + png_chunk(*parts[0]) + png_chunk(b"acTL", control) + b"".join(others))
            delay = animation.delays[index] if animation.delays else DEFAULT_DELAY
            area = right - left, bottom - top, left, top
            file.write(png_chunk(b"fcTL", struct.pack(">LLLLLHHBB", number, *area, min(delay, 65_535), 1000, 0, 0)))
            number += 1
            for _, body in (part for part in parts if part[0] == b"IDAT"):
                file.write(png_chunk(b"fdAT", struct.pack(">L", number) + body) if index else png_chunk(b"IDAT", body))
                number += 1 if index else 0
        file.write(png_chunk(b"IEND", b""))
