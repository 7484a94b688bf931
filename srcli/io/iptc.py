"""IPTC, which JPEG holds in Photoshop's image resources, and TIFF as it is; libvips copies it from one to the other."""

from __future__ import annotations

import struct
from collections.abc import Iterator

_START, _RESOURCE = b"Photoshop 3.0\0", b"8BIM"
_IPTC, _THUMBNAILS = 0x0404, (0x0409, 0x040C)


def for_jpeg(data: bytes) -> bytes:
    """The content of an APP13 segment. Thumbnails in it are left out, as they no longer match."""
    resources = _resources(data) if data.startswith(_START) else [(_IPTC, b"\0\0", data)]
    return _START + b"".join(
        _RESOURCE + struct.pack(">H", kind) + name + struct.pack(">I", len(body)) + body + b"\0" * (len(body) % 2)
        for kind, name, body in resources
        if kind not in _THUMBNAILS
    )


def for_tiff(data: bytes) -> bytes:
    """IPTC alone. Empty if there is none."""
    if not data.startswith(_START):
        return data
    return b"".join(body for kind, _, body in _resources(data) if kind == _IPTC)


def _resources(data: bytes) -> Iterator[tuple[int, bytes, bytes]]:
    """Number, name and content of Photoshop's image resources. They end where they are damaged."""
    place = len(_START)
    while data[place : place + 4] == _RESOURCE and place + 12 <= len(data):
        kind, length = struct.unpack_from(">HB", data, place + 4)
        name = data[place + 6 : place + 7 + length + (length + 1) % 2]
        place += 6 + len(name)
        size = int.from_bytes(data[place : place + 4], "big")
        yield kind, name, data[place + 4 : place + 4 + size]
        place += 4 + size + size % 2
