"""Segments of JPEG files that libvips does not handle."""

from __future__ import annotations

from typing import IO

SOI, EOI = b"\xff\xd8", b"\xff\xd9"
_SOS = 0xDA
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
