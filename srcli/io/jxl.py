"""Parts of JPEG XL files that its libraries do not give: what their header says, and boxes of metadata."""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass

_SIGNATURE = b"\0\0\0\x0cJXL \r\n\x87\n"
_CODESTREAM = b"\xff\x0a"
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_BITS = (9, 13, 18, 30)


@dataclass(frozen=True)
class Header:
    """width, height: as stored. animated: whether there may be several frames."""

    width: int
    height: int
    animated: bool


def header_of_jxl(data: bytes) -> Header | None:
    """From the beginning of a codestream (ISO/IEC 18181-1, sections D.2 and D.3). None if it is damaged."""
    header = data[:64] if data.startswith(_CODESTREAM) else b""
    for kind, start, _ in _boxes(data):
        if not header and kind in (b"jxlc", b"jxlp"):
            start += 4 if kind == b"jxlp" else 0
            header = data[start : start + 64]
    if not header.startswith(_CODESTREAM):
        return None
    bits, place = int.from_bytes(header[2:], "little"), 0

    def read(count: int) -> int:
        nonlocal place
        place += count
        return (bits >> (place - count)) & ((1 << count) - 1)

    def size() -> tuple[int, int]:
        small = read(1)
        sides = [(read(5) + 1) * 8 if small else read(_BITS[read(2)]) + 1]
        ratio = read(3)
        if not ratio:
            sides.append((read(5) + 1) * 8 if small else read(_BITS[read(2)]) + 1)
            return sides[1], sides[0]
        wide, high = _RATIOS[ratio]
        return sides[0] * wide // high, sides[0]

    width, height = size()
    animated = False
    if not read(1) and read(1):  # not all defaults, and more than the most common fields
        read(3)  # orientation
        if read(1):
            size()  # intrinsic
        animated = not read(1) and bool(read(1))  # there is no preview, as files have none
    return Header(width, height, animated)


def with_metadata(data: bytes, *, exif: bytes, xmp: bytes | None) -> bytes:
    """A JPEG XL file in a container with these boxes added. exif: a TIFF structure."""
    if exif:
        data += struct.pack(">I4s", 12 + len(exif), b"Exif") + bytes(4) + exif
    if xmp:
        data += struct.pack(">I4s", 8 + len(xmp), b"xml ") + xmp
    return data


def _boxes(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and end of the content of the boxes of a container."""
    place = 0
    while data.startswith(_SIGNATURE) and place + 16 <= len(data):
        size, kind = struct.unpack(">I4s", data[place : place + 8])
        head = 8
        if size == 1:
            head, size = 16, struct.unpack(">Q", data[place + 8 : place + 16])[0]
        end = place + size if size >= head else len(data)
        yield kind, place + head, end
        place = end
