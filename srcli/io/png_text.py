"""Text chunks of PNG files, copied byte by byte: libvips reads all of them as UTF-8, and writes that as Latin-1."""

from __future__ import annotations

import struct
import zlib
from pathlib import Path
from typing import IO

TEXTS = "png-texts"
"""The name of the text chunks among an image's metadata."""

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_KINDS = (b"tEXt", b"zTXt", b"iTXt")
_XMP = b"XML:com.adobe.xmp\0"  # libvips handles it
_MOST = 2**24  # bytes, more than any real text
_END = b"\0\0\0\0IEND\xaeB`\x82"


def texts_of_png(file: IO[bytes]) -> bytes:
    """The text chunks of a PNG, concatenated. Empty for other files. Damaged chunks are left out."""
    if file.read(len(_SIGNATURE)) != _SIGNATURE:
        return b""
    texts = b""
    while len(head := file.read(8)) == 8:
        length, kind = struct.unpack(">L4s", head)
        if kind not in _KINDS or length > _MOST:
            file.seek(length + 4, 1)
            continue
        body, checksum = file.read(length), file.read(4)
        intact = checksum == struct.pack(">L", zlib.crc32(body, zlib.crc32(kind)))
        if intact and not body.startswith(_XMP) and len(texts) + length <= _MOST:
            texts += head + body + checksum
    return texts


def add_texts_to_png(path: Path, texts: bytes) -> None:
    """Insert text chunks before the end of a PNG that libvips wrote."""
    with path.open("r+b") as file:
        file.seek(-len(_END), 2)
        file.write(texts + _END)
