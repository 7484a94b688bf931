"""Parts of JPEG XL files that its libraries do not give: the size before decoding, and boxes of metadata."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_SIGNATURE = b"\0\0\0\x0cJXL \r\n\x87\n"
_CODESTREAM = b"\xff\x0a"
_RATIOS = {1: (1, 1), 2: (12, 10), 3: (4, 3), 4: (3, 2), 5: (16, 9), 6: (5, 4), 7: (2, 1)}
_BITS = (9, 13, 18, 30)


def size_of_jxl(data: bytes) -> tuple[int, int] | None:
    """Width and height as stored (ISO/IEC 18181-1, section D.2). None if the header is damaged."""
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

    small = read(1)

    def side() -> int:
        return (read(5) + 1) * 8 if small else read(_BITS[read(2)]) + 1

    height = side()
    ratio = read(3)
    if not ratio:
        return side(), height
    wide, high = _RATIOS[ratio]
    return height * wide // high, height


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
