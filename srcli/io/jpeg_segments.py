"""Segments of JPEG files that libvips does not handle."""

from __future__ import annotations

import struct
from pathlib import Path
from typing import IO

from srcli.io.png_chunks import insert_bytes

_APP0, APP1, _APP2 = 0xE0, 0xE1, 0xE2
SOI, EOI = b"\xff\xd8", b"\xff\xd9"
_SOS, _DQT = 0xDA, 0xDB
_WITHOUT_LENGTH = {0x01, *range(0xD0, 0xD9)}
_MOST = 2**26  # bytes of all segments, more than any real file


def read_segments(file: IO[bytes]) -> tuple[list[tuple[int, bytes]], int]:
    """Marker and content of the segments before the pixels, and where the pixels start. Empty for other and damaged files."""
    file.seek(0)
    segments: list[tuple[int, bytes]] = []
    if file.read(2) != SOI:
        return [], 0
    while file.tell() < _MOST and (byte := file.read(1)):
        if byte != b"\xff":
            return segments, 0
        while byte == b"\xff":
            byte = file.read(1)
        marker = byte[0] if byte else 0
        if marker in _WITHOUT_LENGTH:
            continue
        length = int.from_bytes(file.read(2), "big")
        if length < 2:
            return segments, 0
        content = file.read(length - 2)
        if marker == _SOS:
            return segments, file.tell()
        segments.append((marker, content))
    return segments, 0


_LUMA_TABLE_SUM = 3_688
"""Of the example table for luma in ITU-T T.81, annex K, which libjpeg scales by its quality."""


def estimated_quality(segments: list[tuple[int, bytes]]) -> float | None:
    """The quality, 1 to 100 as in libjpeg, at which a JPEG was saved, from its quantization table for luma. None without one.

    Within 2 for libjpeg's own tables from quality 25 on; for those of cameras and other programs, the quality that is as coarse
    on average.
    """
    for marker, content in segments:
        while marker == _DQT and content:
            precision, number = content[0] >> 4, content[0] & 15
            size = 128 if precision else 64
            if number == 0 and len(content) > size:
                table = content[1 : size + 1]
                total = sum(struct.unpack(">64H", table)) if precision else sum(table)
                percent = 100 * total / _LUMA_TABLE_SUM
                return 100 - percent / 2 if percent <= 100 else 5_000 / percent
            content = content[size + 1 :]
    return None


def has_end(file: IO[bytes]) -> bool:
    """Whether the end marker follows the pixels of a JPEG. True for other files."""
    _, pixels = read_segments(file)
    if not pixels:
        return True
    file.seek(pixels)
    before = b""
    while block := file.read(2**20):
        if EOI in before + block:
            return True
        before = block[-1:]
    return False


def other_images(file: IO[bytes], segments: list[tuple[int, bytes]]) -> set[str]:
    """What a JPEG has besides its main image, in words, as far as its segments and what follows it say so. No thumbnails."""
    found: set[str] = set()
    for marker, content in segments:
        if marker == _APP2 and content.startswith(b"urn:iso:std:iso:ts:21496:-1\0"):
            found.add("gain map")
    more = sum(_further_images(content) for marker, content in segments if marker == _APP2 and content.startswith(b"MPF\0"))
    if more and not found:
        found.add(f"{more} further image{'' if more == 1 else 's'}")
    _, pixels = read_segments(file)
    if pixels:
        file.seek(pixels)
        rest = file.read()
        if any(rest.find(video, rest.find(EOI)) > 0 for video in (b"ftypmp4", b"ftypisom", b"ftypqt  ", b"MotionPhoto_Data")):
            found.add("video of a motion photo")
    return found


def add_segments(path: Path, *, dots: tuple[float, float], exif: bytes, xmp: list[bytes]) -> None:
    """Insert segments into a JPEG that libvips wrote: a JFIF header, EXIF after it, and XMP after all EXIF and XMP.

    dots: per inch, across and down.
    """
    inch, density = 1, (min(max(round(dot), 1), 65_535) for dot in dots)
    header = struct.pack(">5sHBHHBB", b"JFIF\0", 0x0102, inch, *density, 0, 0)
    with path.open("r+b") as file:
        file.seek(2)
        if file.read(2) != bytes([0xFF, _APP0]):
            _insert_after(file, (), _APP0, [header])
        _insert_after(file, (_APP0,), APP1, [exif] if exif else [])
        _insert_after(file, (_APP0, APP1), APP1, xmp)


def _insert_after(file: IO[bytes], before: tuple[int, ...], marker: int, contents: list[bytes]) -> None:
    """Insert segments after those at the beginning that have certain markers."""
    place = 2
    file.seek(place)
    while len(head := file.read(4)) == 4 and head[1] in before:
        place += 2 + struct.unpack(">H", head[2:])[0]
        file.seek(place)
    parts = (struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content for content in contents)
    insert_bytes(file, place, b"".join(parts))


def _further_images(content: bytes) -> int:
    """How many images besides the first one, and other than thumbnails, a multi-picture segment names (CIPA DC-007)."""
    body = content[4:]
    order = "<" if body.startswith(b"II") else ">"
    try:
        start = struct.unpack(order + "L", body[4:8])[0]
        count = struct.unpack(order + "H", body[start : start + 2])[0]
        for place in range(start + 2, start + 2 + 12 * count, 12):
            tag, _, size, offset = struct.unpack(order + "HHLL", body[place : place + 12])
            if tag == 0xB002:
                kinds = [
                    struct.unpack(order + "L", body[at : at + 4])[0] & 0xFFFFFF for at in range(offset + 16, offset + size, 16)
                ]
                return sum(kind >> 16 != 1 for kind in kinds)  # 1 is a large thumbnail
    except struct.error:
        pass
    return 0
