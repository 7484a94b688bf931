"""Chunks of WebP files that libvips does not write whole."""

from __future__ import annotations

import struct
from pathlib import Path


def replace_exif(path: Path, exif: bytes) -> None:
    """Replace the EXIF chunk of a WebP that libvips wrote by a TIFF structure of any size (RFC 9649, section 2.7)."""
    content = path.read_bytes()
    parts, place = [], 12
    while place + 8 <= len(content):
        kind, size = struct.unpack("<4sI", content[place : place + 8])
        body = exif if kind == b"EXIF" else content[place + 8 : place + 8 + size]
        parts.append(kind + struct.pack("<I", len(body)) + body + b"\0" * (len(body) % 2))
        place += 8 + size + size % 2
    chunks = b"".join(parts)
    path.write_bytes(b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks)
