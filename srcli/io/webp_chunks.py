"""Chunks of WebP files (RFC 9649) that libvips does not write whole, or only from memory."""

from __future__ import annotations

import struct
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from srcli.errors import SrcliError
from srcli.io.animation import DEFAULT_DELAY, Animation, changed_area

_HEAD = struct.Struct("<4sI")
_FRAME_KINDS = (b"ALPH", b"VP8 ", b"VP8L")
_ALPHA, _ANIMATED = 0x10, 0x02  # flags of VP8X
_REPLACES = 0x02  # flag of a frame: it is not blended with the one before
_LARGEST = 2**32 - 2  # bytes of all chunks
_LONGEST_DELAY, _MOST_LOOPS = 2**24 - 1, 2**16 - 1


def with_exif(data: bytes, exif: bytes) -> bytes:
    """A WebP that libvips wrote, with its EXIF chunk replaced by a TIFF structure of any size."""
    parts = [_chunk(kind, exif if kind == b"EXIF" else body) for kind, body in _chunks(data)]
    return _HEAD.pack(b"RIFF", 4 + sum(map(len, parts))) + b"WEBP" + b"".join(parts)


def write_webp_animation(
    path: Path, frames: Iterator[np.ndarray], animation: Animation, to_webp: Callable[[np.ndarray, bool], bytes]
) -> None:
    """Write frames as an animated WebP, one after another; libvips keeps all of them in memory.

    Of each frame, the area that differs from the one before is stored, which it replaces. to_webp: the file of an image, and
    whether it is the first frame, whose metadata become those of the animation.
    """
    before: np.ndarray | None = None
    following = b""
    with path.open("wb") as file:
        for index, pixels in enumerate(frames):
            left, top, right, bottom = changed_area(before, pixels)
            before, area = pixels, pixels[top:bottom, left:right]
            parts = list(_chunks(to_webp(area, index == 0)))
            if index == 0:
                flags = next((body[0] for kind, body in parts if kind == b"VP8X"), 0) & ~_ALPHA | _ANIMATED
                flags |= _ALPHA if pixels.shape[2] in (2, 4) else 0
                size = _int24(pixels.shape[1] - 1) + _int24(pixels.shape[0] - 1)
                file.write(_HEAD.pack(b"RIFF", 0) + b"WEBP" + _chunk(b"VP8X", bytes([flags, 0, 0, 0]) + size))
                file.write(b"".join(_chunk(kind, body) for kind, body in parts if kind == b"ICCP"))
                file.write(_chunk(b"ANIM", struct.pack("<IH", 0, min(animation.loop, _MOST_LOOPS))))
                following = b"".join(_chunk(kind, body) for kind, body in parts if kind in (b"EXIF", b"XMP "))
            delay = animation.delays[index] if animation.delays else DEFAULT_DELAY
            place = [left // 2, top // 2, right - left - 1, bottom - top - 1, min(delay, _LONGEST_DELAY)]
            image = b"".join(_chunk(kind, body) for kind, body in parts if kind in _FRAME_KINDS)
            file.write(_chunk(b"ANMF", b"".join(map(_int24, place)) + bytes([_REPLACES]) + image))
        file.write(following)
        total = file.tell() - _HEAD.size
        if total > _LARGEST:
            raise SrcliError(f"{path} would be larger than 4 GB, which WebP does not support. Use .png.")
        file.seek(4)
        file.write(struct.pack("<I", total))


def _chunks(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """Name and content."""
    place = 12
    while place + 8 <= len(data):
        kind, size = _HEAD.unpack_from(data, place)
        yield kind, data[place + 8 : place + 8 + size]
        place += 8 + size + size % 2


def _chunk(kind: bytes, body: bytes) -> bytes:
    return _HEAD.pack(kind, len(body)) + body + b"\0" * (len(body) % 2)


def _int24(number: int) -> bytes:
    return number.to_bytes(3, "little")
