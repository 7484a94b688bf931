"""What libavif decodes otherwise than libheif, which libvips uses, and how often a sequence plays, which Pillow does not know.

libheif repeats the color of subsampled pixels, where libavif, as browsers do, interpolates it, and ignores that alpha may be
premultiplied. As in libavif, an edit list that repeats (ISO/IEC 14496-12, section 8.6.6) plays until its track is over.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from typing import IO

import imagecodecs
import numpy as np
import pyvips

from srcli.io.files import open_binary
from srcli.io.heif_boxes import boxes, read_box, transforms_of
from srcli.io.vips import with_fields_of

_DURATION = {b"mvhd": (16, 24), b"tkhd": (20, 28), b"elst": (8, 8)}
"""Where the duration of a movie, a track or its first edit is in the content of its box, by the version of the box."""
_FORM = (">I", ">Q")
_FOREVER = (2**32 - 1, 2**64 - 1)
_REPEATS = 1  # the flag of an edit list


def decoded_by_libavif(source: Path | bytes, image: pyvips.Image) -> pyvips.Image | None:
    """The pixels of an AVIF with the metadata of `image`, which libvips opened. None if that has to decode it.

    That is so for HEIC, for images that are cropped, which libavif leaves to others, and for damaged ones.
    """
    with open_binary(source) as file:
        if b"avif" not in file.read(64):
            return None
        transforms = transforms_of(file)
        file.seek(0)
        data = file.read()
    try:
        pixels = imagecodecs.avif_decode(data)
    except Exception:  # of types of its own
        return None
    deep = pixels.dtype == np.uint16
    if deep:
        pixels = np.rint(pixels * (65_535 / (2 ** image.get("heif-bitdepth") - 1))).astype(np.uint16)
    pixels = pixels.reshape(*pixels.shape[:2], -1)
    if pixels.shape[2] < 3:  # as libvips gives it
        pixels = np.concatenate([np.repeat(pixels[..., :1], 3, axis=2), pixels[..., 1:]], axis=2)
    turned = pyvips.Image.new_from_array(np.ascontiguousarray(pixels)).copy(interpretation="rgb16" if deep else "srgb")
    for kind, value in transforms:
        if kind == b"irot":  # quarter turns to the left
            turned = turned.rot(f"d{-90 * value % 360}") if value else turned
        elif kind == b"imir":
            turned = turned.fliphor() if value else turned.flipver()
        else:
            return None
    if (turned.width, turned.height, turned.bands) != (image.width, image.height, image.bands):
        return None
    return with_fields_of(turned, image)


def loop_of_avif(file: IO[bytes]) -> int:
    """How often a sequence plays; 0 is forever, also if the file does not say."""
    try:
        _, data = read_box(file, b"moov")
        found = dict(reversed(list(_timed_boxes(data, 0, len(data)))))  # of the first track
        edits, track = found[b"elst"], found[b"tkhd"]
        if not data[edits + 3] & _REPEATS:
            return 1
        once, whole = _duration(data, b"elst", edits), _duration(data, b"tkhd", track)
        return 0 if whole in _FOREVER or not once else -(-whole // once)
    except (struct.error, IndexError, KeyError, ValueError, OverflowError, OSError):
        return 0  # it has no edit list, or is damaged, which its decoder reports


def set_loop(path: Path, loop: int) -> None:
    """Let a sequence that libavif wrote, which plays forever, play `loop` times."""
    with path.open("r+b") as file:
        at, content = read_box(file, b"moov")
        data = bytearray(content)
        found = list(_timed_boxes(content, 0, len(content)))
        once = next(_duration(content, kind, start) for kind, start in found if kind == b"elst")
        for kind, start in found:
            version = data[start]
            if kind == b"elst":
                data[start + 3] = _REPEATS if loop > 1 else 0
            else:
                struct.pack_into(
                    _FORM[version], data, start + _DURATION[kind][version], min(loop * once, _FOREVER[version] - 1)
                )
        file.seek(at)
        file.write(data)


def _timed_boxes(data: bytes, start: int, end: int) -> Iterator[tuple[bytes, int]]:
    """Name and start of the content of the boxes with the duration of a movie, its tracks and their edits."""
    for kind, begin, stop in boxes(data, start, end):
        if kind in (b"trak", b"edts"):
            yield from _timed_boxes(data, begin, min(stop, end))
        elif kind in _DURATION:
            yield kind, begin


def _duration(data: bytes, kind: bytes, start: int) -> int:
    version = data[start]
    return int(struct.unpack_from(_FORM[version], data, start + _DURATION[kind][version])[0])
